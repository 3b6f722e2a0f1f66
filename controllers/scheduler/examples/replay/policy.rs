//! What a replay is played under: the settings of the core, and how jobs are stopped and resumed.

use scheduler::{Packing, Settings, Span};

use crate::figures::span;

/// How much of its work a displaced job keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// Nothing: it starts anew.
    Never,
    /// All of it: it saves when it is told to stop.
    AtStop,
    /// What it had at the last full period.
    Every(Span),
}

/// What a replay is played under.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// As it was given, for the report.
    pub(crate) words: String,
    pub(crate) settings: Settings,
    pub(crate) checkpoint: Checkpoint,
    /// How long a displaced job takes to leave.
    pub(crate) stop: Span,
    /// Limit of jobs that name none; `None`: nothing ends them.
    pub(crate) limit: Option<Span>,
    pub(crate) packing: Packing,
    /// A job that waits longer counts as starved.
    pub(crate) starved: Span,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            words: "defaults".into(),
            // Jobs start when they are bound, so promises need not allow for more.
            settings: Settings {
                start_allowance: Span(0),
                ..Settings::default()
            },
            checkpoint: Checkpoint::Every(Span::seconds(1800)),
            stop: Span::seconds(30),
            limit: Some(Span::seconds(48 * 3600)),
            packing: Packing::Pack,
            starved: Span::seconds(24 * 3600),
        }
    }
}

/// The words of `--settings`, for `--help`.
pub(crate) const WORDS: &str = "\
  aging=SPAN|off          a band per span waited                   aging-cap=N      most bands
  half-life=SPAN|off      of used GPU time; off: no fair share     ahead=SPAN       charged at once for what is held
  cores=N                 thousandths of a GPU that a core counts  packing=pack|spread
  reserve-after=SPAN      wait before a reservation                reservations=N   most at a time; 0 turns them off
  preemption=on|off       may jobs be displaced                    stop=SPAN        how long they take to leave
  checkpoint=never|stop|SPAN   what a displaced job keeps: nothing, all, or the last full period
  limit=SPAN|off          limit of jobs that name none             starved=SPAN     a longer wait counts as starved";

impl Policy {
    /// Reads `key=value,key=value`; what is not named is as by default.
    pub(crate) fn read(words: &str) -> Result<Self, String> {
        let mut policy = Self::default();
        if words.trim().is_empty() {
            return Ok(policy);
        }
        policy.words = words.into();
        for word in words.split(',').map(str::trim) {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("setting `{word}` is not key=value"))?;
            policy
                .set(key, value)
                .map_err(|why| format!("setting `{key}`: {why}"))?;
        }
        Ok(policy)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let or_off = || match value {
            "off" => Ok(None),
            _ => span(value).map(Some),
        };
        let number = || format!("`{value}` is no number");
        let settings = &mut self.settings;
        match key {
            "aging" => settings.aging = or_off()?,
            "aging-cap" => settings.aging_cap = value.parse().map_err(|_| number())?,
            "half-life" => settings.half_life = or_off()?,
            "ahead" => settings.charge_ahead = span(value)?,
            "cores" => settings.core_share = value.parse().map_err(|_| number())?,
            "reserve-after" => settings.reserve_after = span(value)?,
            "reservations" => settings.reservations = value.parse().map_err(|_| number())?,
            "preemption" => settings.preemption = on(value)?,
            "stop" => self.stop = span(value)?,
            "limit" => self.limit = or_off()?,
            "starved" => self.starved = span(value)?,
            "checkpoint" => {
                self.checkpoint = match value {
                    "never" => Checkpoint::Never,
                    "stop" => Checkpoint::AtStop,
                    _ => Checkpoint::Every(
                        Some(span(value)?)
                            .filter(|span| span.0 > 0)
                            .ok_or("a period must be longer than nothing")?,
                    ),
                }
            }
            "packing" => {
                self.packing = match value {
                    "pack" => Packing::Pack,
                    "spread" => Packing::Spread,
                    _ => return Err(format!("`{value}` is neither pack nor spread")),
                }
            }
            _ => return Err(format!("is not known; known are\n{WORDS}")),
        }
        Ok(())
    }
}

fn on(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("`{value}` is neither on nor off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_words() {
        let policy =
            Policy::read("aging=10m, half-life=off,checkpoint=stop,packing=spread").unwrap();
        assert_eq!(policy.settings.aging, Some(Span::seconds(600)));
        assert_eq!(policy.settings.half_life, None);
        assert_eq!(policy.checkpoint, Checkpoint::AtStop);
        assert_eq!(policy.packing, Packing::Spread);
        assert_eq!(
            Policy::read("").unwrap().settings,
            Policy::default().settings
        );
    }

    #[test]
    fn a_setting_that_is_not_known_is_refused_with_those_that_are() {
        let error = Policy::read("ageing=1m").unwrap_err();
        assert!(
            error.contains("ageing") && error.contains("aging=SPAN"),
            "{error}"
        );
        for words in ["aging", "aging=soon", "preemption=maybe", "checkpoint=0"] {
            assert!(Policy::read(words).is_err(), "{words}");
        }
    }
}
