//! Numbers of the report: conversions, spans as people write them, and quantiles.

use scheduler::{Bytes, Span};

/// A count as a number to calculate with. Counts here are far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of ages and bytes of fleets are far below 2^53"
)]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// A number as a count, rounded down; what is below zero is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what is wanted"
)]
pub(crate) fn count(number: f64) -> u64 {
    number.max(0.0) as u64
}

/// A span in seconds.
pub(crate) fn seconds(span: Span) -> f64 {
    real(u64::try_from(span.0).unwrap_or(0)) / 1000.0
}

/// Reads `90`, `90s`, `10m`, `2h` or `7d`; fractions are allowed.
pub(crate) fn span(text: &str) -> Result<Span, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1000.0),
        Some((at, 'm')) => (&text[..at], 60_000.0),
        Some((at, 'h')) => (&text[..at], 3_600_000.0),
        Some((at, 'd')) => (&text[..at], 86_400_000.0),
        _ => (text, 1000.0),
    };
    let number: f64 = number
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| format!("`{text}` is no time: write 90, 90s, 10m, 2h or 7d"))?;
    Ok(Span(
        i64::try_from(count(number * unit)).unwrap_or(i64::MAX),
    ))
}

/// Reads `16Gi`, `512Mi` or a number of GiB.
pub(crate) fn bytes(text: &str) -> Result<Bytes, String> {
    let (number, unit) = if let Some(number) = text.strip_suffix("Mi") {
        (number, Bytes::MIB)
    } else if let Some(number) = text.strip_suffix("Ti") {
        (number, Bytes::GIB << 10)
    } else {
        (text.strip_suffix("Gi").unwrap_or(text), Bytes::GIB)
    };
    let number: f64 = number
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| format!("`{text}` is no amount of memory: write 16Gi, 512Mi or 16"))?;
    Ok(Bytes(count(number * real(unit))))
}

/// A time as `42s`, `17m`, `3.4h` or `2.1d`.
pub(crate) fn shown(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.0}s")
    } else if seconds < 5400.0 {
        format!("{:.0}m", seconds / 60.0)
    } else if seconds < 172_800.0 {
        format!("{:.1}h", seconds / 3600.0)
    } else {
        format!("{:.1}d", seconds / 86_400.0)
    }
}

/// Mean, median, 95th percentile and maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these values; all zero when there are none. A percentile is the value that so many are not above.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let Some(max) = values.last().copied() else {
            return Self::default();
        };
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values[rank - 1]
        };
        Self {
            count: values.len(),
            mean: values.iter().sum::<f64>() / real(values.len() as u64),
            p50: at(50),
            p95: at(95),
            max,
        }
    }
}

/// Jain's index of fairness: 1 when all are equal, 1/n when one has everything; 1 of nothing.
pub(crate) fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares > 0.0 {
        sum * sum / (real(values.len() as u64) * squares)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_amounts_are_read_as_people_write_them() {
        assert_eq!(span("90"), Ok(Span::seconds(90)));
        assert_eq!(span("1.5h"), Ok(Span::seconds(5400)));
        assert_eq!(span("7d"), Ok(Span::seconds(7 * 86_400)));
        assert!(span("soon").is_err() && span("-1s").is_err() && span("").is_err());
        assert_eq!(bytes("16"), Ok(Bytes::gib(16)));
        assert_eq!(bytes("1.5Gi"), Ok(Bytes::mib(1536)));
        assert_eq!(bytes("2Ti"), Ok(Bytes::gib(2048)));
        assert!(bytes("much").is_err());
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let spread = Spread::of((1..=100).map(f64::from).collect());
        assert_eq!(
            [spread.p50, spread.p95, spread.max].map(count),
            [50, 95, 100]
        );
        assert_eq!(
            Spread::of(vec![7.0]),
            Spread {
                count: 1,
                mean: 7.0,
                p50: 7.0,
                p95: 7.0,
                max: 7.0
            }
        );
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn fairness_is_between_one_and_one_over_n() {
        assert!((jain(&[2.0, 2.0, 2.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[3.0, 0.0, 0.0]) - 1.0 / 3.0).abs() < 1e-9);
        assert!((jain(&[]) - 1.0).abs() < 1e-9);
    }
}
