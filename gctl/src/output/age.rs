//! Times as people read them: `42s`, `3m10s`, `5h`, `3d2h`, as kubectl writes them.

pub use apiserver::http::age::span as duration;
use jiff::Timestamp;

/// How long ago a time was.
pub fn since(time: Timestamp, now: Timestamp) -> String {
    duration(now.as_second() - time.as_second())
}

/// How long ago a time in RFC 3339 was, or `<unknown>`.
pub fn since_text(time: Option<&str>, now: Timestamp) -> String {
    time.and_then(|text| text.parse().ok())
        .map_or_else(|| "<unknown>".to_owned(), |time| since(time, now))
}

/// A span such as `90`, `90s`, `1h30m` or `500ms` in milliseconds.
///
/// # Errors
/// Says what a span looks like.
pub fn parse_span(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is not a time span such as 90s, 10m or 1h30m");
    if text.is_empty() {
        return Err(wrong());
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(std::time::Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match &rest[..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        millis = number
            .checked_mul(factor)
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    Ok(std::time::Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_still_to_come_is_no_time_ago() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(since(at(100), at(290)), "3m10s");
        assert_eq!(since(at(103), at(100)), "0s");
        assert_eq!(since_text(None, at(0)), "<unknown>");
    }

    #[test]
    fn spans_are_read_with_and_without_units() {
        for (text, millis) in [
            ("0", 0),
            ("90", 90_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
        ] {
            assert_eq!(
                parse_span(text),
                Ok(std::time::Duration::from_millis(millis))
            );
        }
        for text in ["", "s", "1x", "1h30", "-1s", "99999999999999999999d"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }
}
