//! The settings of scheduling, as a file says them: `controllers --scheduling FILE`, `gctl up --scheduling FILE`.
//!
//! The file is YAML with the fields of [`Scheduling`]; every field may be left out. An unknown field, and a value out of its
//! range, is refused with its name and what is allowed.

use std::ops::RangeInclusive;

use scheduler::{Millis, Settings, Span};
use serde::{Deserialize, Serialize};

/// Longest time that a setting may name: ten years.
const MOST_SECONDS: u64 = 315_360_000;

/// The settings of scheduling. What is left out has the default that is documented here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scheduling {
    /// A job that waits this many seconds counts as one priority higher, and again for each further such time; 0 is off.
    /// Default: 0.
    pub aging_seconds: Option<u64>,
    /// Most priorities that waiting may add. 0 to 4000. Default: 1000.
    pub aging_cap: Option<u64>,
    /// Seconds after which what a queue has used counts half; 0 leaves use out of the order. Default: 604800 (7 days).
    pub fair_share_half_life_seconds: Option<u64>,
    /// What a queue holds counts at once as if it had been held for so many seconds, so that queues take turns. Default: 3600.
    pub fair_share_charge_ahead_seconds: Option<u64>,
    /// Thousandths of a GPU that a CPU core counts as in the fair share. 0 to 1000. Default: 20.
    pub fair_share_core_weight: Option<u64>,
    /// Seconds that nodes keep a job waiting before slots are reserved for it. Default: 60.
    pub reserve_after_seconds: Option<u64>,
    /// Most jobs that have a reservation at a time; 0 turns them off. 0 to 1000. Default: 4.
    pub reservations: Option<u64>,
    /// Seconds that a job may take from its binding to its start, where a start is promised to another. Default: 30.
    pub start_allowance_seconds: Option<u64>,
    /// May jobs that cannot be placed displace preemptible ones of lower priority, and what was borrowed? Default: true.
    pub preemption: Option<bool>,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchedulingError {
    /// They cannot be read as settings.
    #[error("not settings of scheduling: {0}")]
    Malformed(#[from] serde_yaml::Error),
    /// A value is out of its range.
    #[error("{field}: {value} is not allowed; give {} to {}", .range.start(), .range.end())]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        range: RangeInclusive<u64>,
    },
}

impl Scheduling {
    /// Where the settings in force are published: the namespace.
    pub const NAMESPACE: &str = "kube-system";
    /// The ConfigMap that they are published in.
    pub const CONFIG_MAP: &str = "gctl-scheduling";
    /// The key in that, whose value reads as a settings file.
    pub const KEY: &str = "scheduling.yaml";

    /// The settings with their defaults, as the help of a command shows them; it reads as a settings file.
    pub const HELP: &str = "\
# Settings of scheduling, a YAML file. These are the defaults:
agingSeconds: 0                    # such a wait counts as one priority higher; 0 is off
agingCap: 1000                     # most priorities that waiting may add
fairShareHalfLifeSeconds: 604800   # use counts half after this; 0 leaves it out
fairShareChargeAheadSeconds: 3600  # what is held counts as if held this long already
fairShareCoreWeight: 20            # thousandths of a GPU that a core counts as
reserveAfterSeconds: 60            # wait for nodes until slots are reserved
reservations: 4                    # most jobs with a reservation; 0 turns them off
startAllowanceSeconds: 30          # from binding to start, where starts are promised
preemption: true                   # may a job that finds no room displace others?";

    /// Reads the text of a settings file. An empty text gives the defaults.
    ///
    /// # Errors
    /// When it names an unknown field, or a value out of its range.
    pub fn parse(text: &str) -> Result<Self, SchedulingError> {
        let read: Option<Self> = serde_yaml::from_str(text)?;
        let settings = read.unwrap_or_default();
        settings.check()?;
        Ok(settings)
    }

    /// The text of a settings file that says every setting as it is in force, defaults included.
    pub fn in_force(&self) -> String {
        let Settings {
            settled_at: _,
            aging,
            aging_cap,
            half_life,
            charge_ahead,
            core_share,
            reserve_after,
            reservations,
            start_allowance,
            preemption,
        } = self.settings(Millis(0));
        let seconds = |span: Span| u64::try_from(span.0 / 1000).unwrap_or(0);
        let all = Self {
            aging_seconds: Some(aging.map_or(0, seconds)),
            aging_cap: Some(u64::try_from(aging_cap).unwrap_or(0)),
            fair_share_half_life_seconds: Some(half_life.map_or(0, seconds)),
            fair_share_charge_ahead_seconds: Some(seconds(charge_ahead)),
            fair_share_core_weight: Some(core_share.into()),
            reserve_after_seconds: Some(seconds(reserve_after)),
            reservations: Some(reservations.into()),
            start_allowance_seconds: Some(seconds(start_allowance)),
            preemption: Some(preemption),
        };
        serde_yaml::to_string(&all).expect("numbers and bools can be written")
    }

    fn check(&self) -> Result<(), SchedulingError> {
        let fields = [
            ("agingSeconds", self.aging_seconds, 0..=MOST_SECONDS),
            ("agingCap", self.aging_cap, 0..=4000),
            (
                "fairShareHalfLifeSeconds",
                self.fair_share_half_life_seconds,
                0..=MOST_SECONDS,
            ),
            (
                "fairShareChargeAheadSeconds",
                self.fair_share_charge_ahead_seconds,
                0..=MOST_SECONDS,
            ),
            ("fairShareCoreWeight", self.fair_share_core_weight, 0..=1000),
            (
                "reserveAfterSeconds",
                self.reserve_after_seconds,
                0..=MOST_SECONDS,
            ),
            ("reservations", self.reservations, 0..=1000),
            (
                "startAllowanceSeconds",
                self.start_allowance_seconds,
                0..=MOST_SECONDS,
            ),
        ];
        for (field, value, range) in fields {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                return Err(SchedulingError::OutOfRange {
                    field,
                    value,
                    range,
                });
            }
        }
        Ok(())
    }

    /// What the scheduling core is told; before `settled_at` no job is called infeasible.
    pub fn settings(&self, settled_at: Millis) -> Settings {
        let default = Settings::default();
        let span = |seconds: Option<u64>, default: Option<Span>| match seconds {
            None => default,
            Some(0) => None,
            Some(seconds) => Some(Span::seconds(i64::try_from(seconds).unwrap_or(i64::MAX))),
        };
        let exact = |seconds: Option<u64>, default: Span| match seconds {
            None => default,
            Some(seconds) => Span::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)),
        };
        let small = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
        Settings {
            settled_at,
            aging: span(self.aging_seconds, default.aging),
            aging_cap: self
                .aging_cap
                .and_then(|cap| i32::try_from(cap).ok())
                .unwrap_or(default.aging_cap),
            half_life: span(self.fair_share_half_life_seconds, default.half_life),
            charge_ahead: exact(self.fair_share_charge_ahead_seconds, default.charge_ahead),
            core_share: small(self.fair_share_core_weight).unwrap_or(default.core_share),
            reserve_after: exact(self.reserve_after_seconds, default.reserve_after),
            reservations: small(self.reservations).unwrap_or(default.reservations),
            start_allowance: exact(self.start_allowance_seconds, default.start_allowance),
            preemption: self.preemption.unwrap_or(default.preemption),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_documented() {
        for text in ["", "# nothing\n", "{}"] {
            let settings = Scheduling::parse(text).unwrap().settings(Millis(5));
            let expected = Settings {
                settled_at: Millis(5),
                ..Settings::default()
            };
            assert_eq!(settings, expected, "{text:?}");
        }
    }

    #[test]
    fn the_help_tells_every_setting_and_its_default() {
        let told = Scheduling::parse(Scheduling::HELP).unwrap();
        assert_eq!(told.settings(Millis(0)), Settings::default());
        let debug = format!("{told:?}");
        assert!(!debug.contains("None"), "a setting is not told: {debug}");
    }

    #[test]
    fn what_is_said_reaches_the_core() {
        let text = "agingSeconds: 600\nagingCap: 30\nfairShareHalfLifeSeconds: 0\nfairShareCoreWeight: 50\n";
        let settings = Scheduling::parse(text).unwrap().settings(Millis(0));
        assert_eq!(settings.aging, Some(Span::seconds(600)));
        assert_eq!(settings.aging_cap, 30);
        assert_eq!(settings.half_life, None);
        assert_eq!(settings.core_share, 50);
    }

    #[test]
    fn what_is_in_force_reads_as_a_file_that_says_everything() {
        for text in [
            "",
            "agingSeconds: 600\nfairShareHalfLifeSeconds: 0\npreemption: false\n",
        ] {
            let said = Scheduling::parse(text).unwrap();
            let told = Scheduling::parse(&said.in_force()).unwrap();
            assert_eq!(told.settings(Millis(7)), said.settings(Millis(7)), "{text}");
            let debug = format!("{told:?}");
            assert!(!debug.contains("None"), "a setting is not told: {debug}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("agingSecond: 5", "unknown field `agingSecond`"),
            (
                "agingCap: 5000",
                "agingCap: 5000 is not allowed; give 0 to 4000",
            ),
            ("agingCap: -1", "agingCap"),
            ("- a", "not settings of scheduling"),
        ] {
            let error = Scheduling::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
