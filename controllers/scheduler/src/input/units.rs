//! Ids, amounts and times.

use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Arc<str>);

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

id!(
    /// Name of a node.
    NodeName
);
id!(
    /// Uid of a job.
    JobUid
);
id!(
    /// UUID of a GPU.
    GpuUuid
);
id!(
    /// Name of a queue.
    QueueName
);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// One mebibyte.
    pub const MIB: u64 = 1 << 20;
    /// One gibibyte.
    pub const GIB: u64 = 1 << 30;

    /// That many gibibytes.
    pub const fn gib(count: u64) -> Self {
        Self(count * Self::GIB)
    }

    /// That many mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count * Self::MIB)
    }

    /// The difference, or nothing.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, or the largest number.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Bytes {
    /// In GiB with one decimal, rounded down, so that what is shown as free is free; small amounts in MiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= Self::GIB {
            let tenths = u128::from(self.0) * 10 / u128::from(Self::GIB);
            write!(f, "{}.{} GiB", tenths / 10, tenths % 10)
        } else {
            write!(f, "{} MiB", self.0 / Self::MIB)
        }
    }
}

/// Thousandths of a CPU core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u64);

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

/// Milliseconds since some instant that the caller keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// The time that much later, or the end of time.
    #[must_use]
    pub const fn plus(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long since an earlier time; nothing when that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        let span = self.0.saturating_sub(earlier.0);
        Span(if span < 0 { 0 } else { span })
    }
}

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub i64);

impl Span {
    /// That many seconds.
    pub const fn seconds(count: i64) -> Self {
        Self(count.saturating_mul(1000))
    }

    /// The sum, or the longest time.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Span {
    /// In its two largest units, rounded down: `2d3h`, `1h30m`, `10m`, `45s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
        let Some(at) = units.iter().position(|(size, _)| seconds >= *size) else {
            return f.write_str("0s");
        };
        let (size, letter) = units[at];
        write!(f, "{}{letter}", seconds / size)?;
        if let Some((finer, letter)) = units.get(at + 1)
            && seconds % size >= *finer
        {
            write!(f, "{}{letter}", seconds % size / finer)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_shown_in_its_two_largest_units() {
        let rows = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (605, "10m5s"),
            (5400, "1h30m"),
            (3601, "1h"),
            (183_600, "2d3h"),
        ];
        for (seconds, shown) in rows {
            assert_eq!(Span::seconds(seconds).to_string(), shown);
        }
    }
}
