//! The string formats that are enforced, and the dialect of patterns.
//!
//! A format that is not listed here is only a hint and checks nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use regex::{Regex, RegexBuilder};

use super::names;

/// A format by name, with its check.
#[derive(Clone, Copy)]
pub struct Format {
    /// The name in the schema.
    pub name: &'static str,
    /// Is the text of this format?
    pub holds: fn(&str) -> bool,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every format that is enforced.
pub const FORMATS: [Format; 26] = [
    Format {
        name: "bsonobjectid",
        holds: |s| s.len() == 24 && is_hex(s),
    },
    Format {
        name: "uri",
        holds: is_uri,
    },
    Format {
        name: "email",
        holds: is_email,
    },
    Format {
        name: "hostname",
        holds: is_hostname,
    },
    Format {
        name: "ipv4",
        holds: |s| s.parse::<Ipv4Addr>().is_ok(),
    },
    Format {
        name: "ipv6",
        holds: |s| s.parse::<Ipv6Addr>().is_ok(),
    },
    Format {
        name: "cidr",
        holds: is_cidr,
    },
    Format {
        name: "mac",
        holds: is_mac,
    },
    Format {
        name: "uuid",
        holds: |s| is_uuid(s, None),
    },
    Format {
        name: "uuid3",
        holds: |s| is_uuid(s, Some(b'3')),
    },
    Format {
        name: "uuid4",
        holds: |s| is_uuid(s, Some(b'4')),
    },
    Format {
        name: "uuid5",
        holds: |s| is_uuid(s, Some(b'5')),
    },
    Format {
        name: "isbn",
        holds: |s| is_isbn10(s) || is_isbn13(s),
    },
    Format {
        name: "isbn10",
        holds: is_isbn10,
    },
    Format {
        name: "isbn13",
        holds: is_isbn13,
    },
    Format {
        name: "creditcard",
        holds: is_credit_card,
    },
    Format {
        name: "ssn",
        holds: is_ssn,
    },
    Format {
        name: "hexcolor",
        holds: is_hex_color,
    },
    Format {
        name: "rgbcolor",
        holds: is_rgb_color,
    },
    Format {
        name: "byte",
        holds: |s| base64::engine::general_purpose::STANDARD.decode(s).is_ok(),
    },
    Format {
        name: "password",
        holds: |_| true,
    },
    Format {
        name: "date",
        holds: is_date,
    },
    Format {
        name: "duration",
        holds: is_duration,
    },
    Format {
        name: "date-time",
        holds: is_date_time,
    },
    Format {
        name: "k8s-short-name",
        holds: |s| names::dns_label(s).is_empty(),
    },
    Format {
        name: "k8s-long-name",
        holds: |s| names::dns_subdomain(s).is_empty(),
    },
];

impl Format {
    /// The enforced format of this name; `None` for one that is only a hint.
    pub fn named(name: &str) -> Option<Self> {
        FORMATS.into_iter().find(|format| format.name == name)
    }
}

/// Compiles a pattern of the schema (Go's RE2 dialect) with the classes `\d`, `\w`, `\s` and the
/// boundary `\b` meaning ASCII, as they do there.
pub fn compile_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    let mut text = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => text.push_str("[0-9]"),
            Some('D') => text.push_str("[^0-9]"),
            Some('w') => text.push_str("[0-9A-Za-z_]"),
            Some('W') => text.push_str("[^0-9A-Za-z_]"),
            Some('s') => text.push_str("[\\t\\n\\f\\r ]"),
            Some('S') => text.push_str("[^\\t\\n\\f\\r ]"),
            Some('b') => text.push_str("(?-u:\\b)"),
            Some(other) => {
                text.push('\\');
                text.push(other);
            }
            None => text.push('\\'),
        }
    }
    RegexBuilder::new(&text).size_limit(1 << 20).build()
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_uri(text: &str) -> bool {
    if text.starts_with('/') {
        return !text.bytes().any(|b| b.is_ascii_control() || b == b' ');
    }
    text.split_once(':').is_some_and(|(scheme, rest)| {
        let mut bytes = scheme.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && !rest.is_empty()
            && !rest.bytes().any(|b| b.is_ascii_control() || b == b' ')
    })
}

fn is_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        let atom =
            |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b) || b >= 0x80;
        let dotted = |part: &str| {
            part.split('.')
                .all(|atoms| !atoms.is_empty() && atoms.bytes().all(atom))
        };
        dotted(local) && dotted(domain)
    })
}

fn is_hostname(text: &str) -> bool {
    let host = text.strip_suffix('.').unwrap_or(text);
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        let max = if address.parse::<Ipv4Addr>().is_ok() {
            32
        } else if address.parse::<Ipv6Addr>().is_ok() {
            128
        } else {
            return false;
        };
        let plain = bits == "0" || (!bits.starts_with(['0', '+']) && !bits.is_empty());
        plain && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
    })
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == width && is_hex(part))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

/// The lengths of the five groups of a UUID.
const UUID_GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let plain: String = if text.contains('-') {
        let parts: Vec<&str> = text.split('-').collect();
        if parts.len() != 5
            || !parts
                .iter()
                .zip(UUID_GROUPS)
                .all(|(part, len)| part.len() == len)
        {
            return false;
        }
        parts.concat()
    } else {
        text.to_owned()
    };
    if plain.len() != 32 || !is_hex(&plain) {
        return false;
    }
    let bytes = plain.as_bytes();
    match version {
        None => true,
        Some(b'3') => bytes[12] == b'3',
        Some(version) => {
            bytes[12] == version && matches!(bytes[16], b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
        }
    }
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits_of(text);
    let bytes = text.as_bytes();
    if bytes.len() != 10 {
        return false;
    }
    let mut sum = 0u32;
    for (at, byte) in bytes.iter().enumerate() {
        let digit = match byte {
            b'0'..=b'9' => u32::from(byte - b'0'),
            b'X' | b'x' if at == 9 => 10,
            _ => return false,
        };
        sum += digit * (10 - u32::try_from(at).unwrap_or(0));
    }
    sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = digits_of(text);
    if text.len() != 13 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let sum: u32 = text
        .bytes()
        .enumerate()
        .map(|(at, b)| u32::from(b - b'0') * if at % 2 == 0 { 1 } else { 3 })
        .sum();
    sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let text = digits_of(text);
    if !(13..=19).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let sum: u32 = text
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, b)| {
            let digit = u32::from(b - b'0');
            match at % 2 {
                0 => digit,
                _ if digit > 4 => digit * 2 - 9,
                _ => digit * 2,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    for (group, len) in [3, 2, 4].into_iter().enumerate() {
        if group > 0 && matches!(bytes.get(at), Some(b'-' | b' ')) {
            at += 1;
        }
        if !bytes
            .get(at..at + len)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
        {
            return false;
        }
        at += len;
    }
    at == bytes.len()
}

fn is_hex_color(text: &str) -> bool {
    let text = text.strip_prefix('#').unwrap_or(text);
    matches!(text.len(), 3 | 6) && is_hex(text)
}

fn is_rgb_color(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix("rgb(")
        .and_then(|rest| rest.strip_suffix(')'))
    else {
        return false;
    };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|part| part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u8>().is_ok())
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    // RFC 3339 and nothing more lenient: date, `T`, time with seconds, and a zone.
    let shaped = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't')
        && bytes[13] == b':'
        && bytes[16] == b':';
    let zoned = matches!(bytes.last(), Some(b'Z' | b'z'))
        || bytes
            .len()
            .checked_sub(6)
            .is_some_and(|at| matches!(bytes[at], b'+' | b'-') && bytes[at + 3] == b':');
    shaped && zoned && text.parse::<jiff::Timestamp>().is_ok()
}

/// Go's durations (`1h30m`, `-1.5s`, `0`) and days and weeks as `strfmt` has them.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (digits, after) = rest.split_at(number);
        if !digits.bytes().any(|b| b.is_ascii_digit())
            || digits.bytes().filter(|b| *b == b'.').count() > 1
        {
            return false;
        }
        let after = after.trim_start_matches(' ');
        let Some(unit) = ["ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", "w"]
            .into_iter()
            .find(|unit| after.starts_with(unit) && !(*unit == "m" && after.starts_with("ms")))
        else {
            return false;
        };
        rest = &after[unit.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_accepts_its_own_and_refuses_others() {
        for (name, good, bad) in [
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("uri", "https://a.b/c?d=e", "a b"),
            ("email", "a.b@example.com", "a@b@"),
            ("hostname", "node-1.lan", "-a"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fe80::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23:45:67:89"),
            ("uuid", "a987fbc9-4bed-3078-cf07-9141ba07c9f3", "a987fbc9"),
            (
                "uuid3",
                "a987fbc9-4bed-3078-cf07-9141ba07c9f3",
                "57b73598-8764-4ad0-a76a-679bb6640eb1",
            ),
            (
                "uuid4",
                "57b73598-8764-4ad0-a76a-679bb6640eb1",
                "a987fbc9-4bed-3078-cf07-9141ba07c9f3",
            ),
            (
                "uuid5",
                "987fbc97-4bed-5078-af07-9141ba07c9f3",
                "57b73598-8764-4ad0-a76a-679bb6640eb1",
            ),
            ("isbn", "0-321-75104-3", "0-321-75104-4"),
            ("isbn10", "0321751043", "9780321751041"),
            ("isbn13", "978-0321751041", "0321751043"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("ssn", "111-11-1111", "111-11-111"),
            ("hexcolor", "#ffaa00", "#ffa0"),
            ("rgbcolor", "rgb(1, 2, 255)", "rgb(1,2,256)"),
            ("byte", "aGVsbG8=", "aGVsbG8"),
            ("date", "2026-02-28", "2026-02-30"),
            ("duration", "1h30m", "1x"),
            ("duration", "1.5s", ""),
            (
                "date-time",
                "2026-02-28T12:00:00.5Z",
                "2026-02-28 12:00:00Z",
            ),
            (
                "date-time",
                "2026-02-28T12:00:00+01:00",
                "2026-02-28T12:00:00",
            ),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A"),
        ] {
            let format = Format::named(name).unwrap();
            assert!((format.holds)(good), "{name} {good}");
            assert!(!(format.holds)(bad), "{name} {bad}");
        }
        assert!((Format::named("password").unwrap().holds)("anything"));
        for hint in ["int32", "int64", "float", "quantity", ""] {
            assert!(Format::named(hint).is_none(), "{hint}");
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[\w.-]+$", "é", false),
            (r"^a$", "a\n", false),
            ("b", "abc", true),
            (r"^\S+$", "a b", false),
            (r"\bab\b", "x ab y", true),
            (r"^\\d$", r"\d", true),
        ] {
            assert_eq!(
                compile_pattern(pattern).unwrap().is_match(text),
                matches,
                "{pattern} {text}"
            );
        }
        for bad in ["(", "(?=a)", r"(a)\1", "a{1000000}"] {
            assert!(compile_pattern(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_upsets_a_format(text in "[-0-9a-zA-Z:./µ +#()@,\\[\\]é]{0,30}") {
            for format in FORMATS {
                let _ = (format.holds)(&text);
            }
        }
    }
}
