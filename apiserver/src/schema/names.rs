//! The grammars of names, labels and annotations, with Kubernetes' wording for what is wrong.
//!
//! Every function answers the list of complaints; an empty list means the text is fine. The checks
//! are byte loops, not regular expressions, because they run for every label of every write.

/// The longest DNS-1123 subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;
/// The longest DNS-1123 label, label value and name part of a qualified name, in bytes.
pub const LABEL_MAX: usize = 63;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn is_label_shape(text: &[u8]) -> bool {
    let end = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match (text.first(), text.last()) {
        (Some(first), Some(last)) => {
            end(first) && end(last) && text.iter().all(|b| end(b) || *b == b'-')
        }
        _ => false,
    }
}

fn is_qualified_shape(text: &[u8]) -> bool {
    match (text.first(), text.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && text
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// Complaints about `text` as a DNS-1123 label (namespaces, Kubernetes short names).
pub fn dns_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !is_label_shape(text.as_bytes()) {
        wrong.push(LABEL_TEXT.to_owned());
    }
    wrong
}

/// Complaints about `text` as a DNS-1035 label (names that must start with a letter).
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !is_label_shape(text.as_bytes()) || text.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        wrong.push(LABEL_1035_TEXT.to_owned());
    }
    wrong
}

/// Complaints about `text` as a DNS-1123 subdomain (names of most objects, API groups).
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        wrong.push(too_long(SUBDOMAIN_MAX));
    }
    if !text.as_bytes().split(|b| *b == b'.').all(is_label_shape) {
        wrong.push(SUBDOMAIN_TEXT.to_owned());
    }
    wrong
}

/// Complaints about `text` as a qualified name: `name` or `domain/name` (label keys, finalizers).
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|w| format!("prefix part {w}")),
                );
            }
            name
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        wrong.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_shape(name.as_bytes()) {
        wrong.push(format!("name part {QUALIFIED_TEXT}"));
    }
    wrong
}

/// Complaints about `text` as the value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(too_long(LABEL_MAX));
    }
    if !text.is_empty() && !is_qualified_shape(text.as_bytes()) {
        wrong.push(LABEL_VALUE_TEXT.to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_dns_grammar() {
        for good in ["a", "a-b", "a.b.c", "0", "train-1.example"] {
            assert_eq!(dns_subdomain(good), Vec::<String>::new(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "A", "-a", "a-", "a..b", ".a", "a_b", "a/b", "é", &long] {
            assert!(!dns_subdomain(bad).is_empty(), "{bad}");
        }
        assert!(dns_label("a.b")[0].starts_with("a lowercase RFC 1123 label must consist"));
        assert!(dns_1035_label("1a")[0].starts_with("a DNS-1035 label"));
    }

    #[test]
    fn qualified_names_may_have_one_domain() {
        for good in [
            "a",
            "A.b_c",
            "gctl.dev/release",
            "kubernetes.io/metadata.name",
        ] {
            assert_eq!(qualified_name(good), Vec::<String>::new(), "{good}");
        }
        let long = format!("a/{}", "b".repeat(64));
        for (bad, text) in [
            ("", "name part must be non-empty"),
            ("/a", "prefix part must be non-empty"),
            ("A/a", "prefix part a lowercase RFC 1123 subdomain"),
            ("a/b/c", "a qualified name must consist"),
            ("a b", "name part must consist"),
            (long.as_str(), "name part must be no more than 63 bytes"),
        ] {
            assert!(
                qualified_name(bad)[0].starts_with(text),
                "{bad}: {:?}",
                qualified_name(bad)
            );
        }
    }

    #[test]
    fn label_values_may_be_empty_but_not_odd() {
        for good in ["", "a", "A-b_c.d"] {
            assert_eq!(label_value(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["-a", "a b", "a/b", "ä"] {
            assert!(!label_value(bad).is_empty(), "{bad}");
        }
    }
}
