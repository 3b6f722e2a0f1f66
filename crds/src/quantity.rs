//! Kubernetes quantities (`500m`, `16Gi`, `1.5G`, `1e3`) as exact numbers.
//!
//! **Guarantees.** No floating point: a quantity is read as an integer mantissa and two exponents, so `0.1` is a tenth.
//! What does not divide evenly is rounded up, as Kubernetes does. Errors name the value they are about.
//!
//! **Limits.** Negative quantities are refused, since nothing here can be less than nothing; results end at 2^64 - 1.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Longest accepted text; enough for 2^64 in nano units with room to spare.
const MAX_LEN: usize = 64;

/// What the API server checks: the Kubernetes grammar without a minus sign.
pub const PATTERN: &str =
    r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?$";

/// A Kubernetes quantity, kept as it was written: `1Gi` and `1024Mi` are equal numbers and different texts, and `==`
/// compares the texts. On the wire an integer or a string; always written as a string.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

/// Why a quantity could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not follow the grammar.
    #[error(
        "`{0}` is not a quantity: write a number with an optional suffix, such as `500m`, `2` or `16Gi`"
    )]
    Malformed(String),
    /// It is below zero.
    #[error("`{0}` is negative")]
    Negative(String),
    /// It does not fit into 64 bits.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

impl Quantity {
    /// A number of bytes, written with the largest binary suffix that keeps it exact.
    pub fn from_bytes(bytes: u64) -> Self {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let mut value = bytes;
        let mut power = 0;
        while value != 0 && value.is_multiple_of(1024) && power + 1 < SUFFIXES.len() {
            value /= 1024;
            power += 1;
        }
        Self(format!("{value}{}", SUFFIXES[power]))
    }

    /// A number of thousandths, written without a suffix when it is whole.
    pub fn from_millis(millis: u64) -> Self {
        if millis.is_multiple_of(1000) {
            Self((millis / 1000).to_string())
        } else {
            Self(format!("{millis}m"))
        }
    }

    /// The value in whole units (bytes, for memory), rounded up.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        self.scaled(0)
    }

    /// The value in thousandths, rounded up.
    pub fn millis(&self) -> Result<u64, QuantityError> {
        self.scaled(3)
    }

    /// The value times ten to the `decimals`, rounded up.
    fn scaled(&self, decimals: i32) -> Result<u64, QuantityError> {
        let parsed = parse(&self.0)?;
        let too_large = || QuantityError::TooLarge(self.0.clone());
        if parsed.mantissa == 0 {
            return Ok(0);
        }
        let binary = parsed
            .mantissa
            .checked_mul(1_u128 << parsed.binary_power)
            .ok_or_else(too_large)?;
        let power = parsed.decimal_power + decimals;
        let value = match 10_u128.checked_pow(power.unsigned_abs()) {
            Some(factor) if power >= 0 => binary.checked_mul(factor).ok_or_else(too_large)?,
            Some(divisor) => binary.div_ceil(divisor),
            None if power >= 0 => return Err(too_large()),
            None => 1,
        };
        u64::try_from(value).map_err(|_| too_large())
    }
}

/// `mantissa * 2^binary_power * 10^decimal_power`.
struct Parsed {
    mantissa: u128,
    binary_power: u32,
    decimal_power: i32,
}

fn parse(text: &str) -> Result<Parsed, QuantityError> {
    let malformed = || QuantityError::Malformed(shown(text));
    if text.len() > MAX_LEN {
        return Err(malformed());
    }
    if let Some(rest) = text.strip_prefix('-') {
        parse(rest)?;
        return Err(QuantityError::Negative(text.to_owned()));
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let fraction = fraction.trim_end_matches('0');
    let mut mantissa: u128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        mantissa = mantissa
            .checked_mul(10)
            .and_then(|m| m.checked_add(u128::from(digit - b'0')))
            .ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
    }
    let scale = i32::try_from(fraction.len()).map_err(|_| malformed())?;
    let (binary_power, decimal) = suffix_powers(suffix).ok_or_else(malformed)?;
    Ok(Parsed {
        mantissa,
        binary_power,
        decimal_power: decimal - scale,
    })
}

/// Powers of two and of ten that a suffix stands for.
fn suffix_powers(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => (0, exponent_of(exponent)?),
    })
}

fn exponent_of(suffix: &str) -> Option<i32> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let bare = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if bare.is_empty() || bare.len() > 3 || !bare.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The text for an error message, cut where it is absurdly long.
fn shown(text: &str) -> String {
    text.chars().take(MAX_LEN).collect()
}

impl Default for Quantity {
    fn default() -> Self {
        Self("0".to_owned())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 2, \"500m\" or \"16Gi\"")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Quantity, E> {
                Ok(Quantity(value.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Quantity, E> {
                Ok(Quantity(value.to_string()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Quantity, E> {
                Ok(Quantity(value.to_string()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Quantity, E> {
                Ok(Quantity(value.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl schemars::JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"x-kubernetes-int-or-string": true, "pattern": PATTERN, "maxLength": MAX_LEN, "minimum": 0})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity::from(text)
    }

    #[test]
    fn every_suffix_has_its_exact_value() {
        let rows: [(&str, u64, u64); 22] = [
            ("0", 0, 0),
            ("2", 2, 2000),
            ("+2", 2, 2000),
            ("500m", 1, 500),
            ("0.5", 1, 500),
            (".5", 1, 500),
            ("2.", 2, 2000),
            ("0.1", 1, 100),
            ("0.0001", 1, 1),
            ("1u", 1, 1),
            ("1n", 1, 1),
            ("1500000u", 2, 1500),
            ("1k", 1000, 1_000_000),
            ("1.5G", 1_500_000_000, 1_500_000_000_000),
            ("1e3", 1000, 1_000_000),
            ("1E3", 1000, 1_000_000),
            ("25e-1", 3, 2500),
            ("1Ki", 1024, 1_024_000),
            ("16Gi", 17_179_869_184, 17_179_869_184_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("1T", 1_000_000_000_000, 1_000_000_000_000_000),
            ("1P", 1_000_000_000_000_000, 1_000_000_000_000_000_000),
        ];
        for (text, units, millis) in rows {
            assert_eq!(q(text).bytes(), Ok(units), "{text}");
            assert_eq!(q(text).millis(), Ok(millis), "{text}");
        }
        assert_eq!(q("1E").bytes(), Ok(1_000_000_000_000_000_000));
        assert_eq!(q("15Ei").bytes(), Ok(15 << 60));
        assert_eq!(q("0e900").bytes(), Ok(0));
        assert_eq!(q("1e-300").bytes(), Ok(1));
    }

    #[test]
    fn a_bad_quantity_is_named_in_its_error() {
        for bad in [
            "", "Gi", ".", "1.2.3", "1 Gi", "1gi", "1KiB", "1e", "1e+", "1e1.5", "1e9999", "ten",
            "0x10",
        ] {
            let error = q(bad).bytes().unwrap_err();
            assert_eq!(error, QuantityError::Malformed(bad.to_owned()));
            assert!(error.to_string().contains(&format!("`{bad}`")));
        }
        assert_eq!(q("-1").bytes(), Err(QuantityError::Negative("-1".into())));
        for large in ["16Ei", "1e300", "99999999999999999999"] {
            assert_eq!(
                q(large).bytes(),
                Err(QuantityError::TooLarge(large.to_owned()))
            );
        }
        let endless = "9".repeat(10_000);
        assert!(q(&endless).bytes().unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn yaml_numbers_and_strings_are_both_read() {
        let read = |text: &str| serde_yaml::from_str::<Quantity>(text).map(|q| q.millis());
        assert_eq!(read("2").unwrap(), Ok(2000));
        assert_eq!(read("0.5").unwrap(), Ok(500));
        assert_eq!(read("'500m'").unwrap(), Ok(500));
        assert!(read("-3").unwrap().is_err());
        assert!(read("[1]").is_err());
        assert!(read("true").is_err());
    }

    proptest! {
        #[test]
        fn bytes_and_millis_come_back_as_they_went_in(value in any::<u64>()) {
            prop_assert_eq!(Quantity::from_bytes(value).bytes(), Ok(value));
            prop_assert_eq!(Quantity::from_millis(value).millis(), Ok(value));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = q(&text).bytes();
            let _ = q(&text).millis();
        }
    }
}
