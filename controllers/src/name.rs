//! The names of the controllers, as `--only` takes them.

use std::fmt;
use std::str::FromStr;

/// The name of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControllerName {
    /// Resolves spec, Queue and Profile into `status.effective`.
    Admission,
    /// Makes member jobs of arrays and tallies them.
    Array,
    /// Carries out cancel, suspend and deletion.
    Cancel,
    /// Makes member jobs of gangs, and starts and stops each generation of them whole.
    Gang,
    /// Keeps nodes' Ready condition and what follows from it for their jobs.
    Node,
    /// Binds jobs to nodes.
    Placement,
    /// Stops the jobs that must leave for a nominated one.
    Preemption,
    /// Sends ended attempts back to the queue.
    Requeue,
    /// Enforces time limits.
    Timeout,
    /// Deletes ended jobs after their time to live.
    Ttl,
}

impl ControllerName {
    /// All controllers, in the order in which they look at things.
    pub const ALL: [Self; 10] = [
        Self::Admission,
        Self::Placement,
        Self::Preemption,
        Self::Cancel,
        Self::Requeue,
        Self::Timeout,
        Self::Array,
        Self::Gang,
        Self::Node,
        Self::Ttl,
    ];

    /// The name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Array => "array",
            Self::Cancel => "cancel",
            Self::Gang => "gang",
            Self::Node => "node",
            Self::Placement => "placement",
            Self::Preemption => "preemption",
            Self::Requeue => "requeue",
            Self::Timeout => "timeout",
            Self::Ttl => "ttl",
        }
    }
}

impl fmt::Display for ControllerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that no controller has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no controller is named `{0}`; there are {names}", names = names())]
pub struct UnknownController(String);

fn names() -> String {
    ControllerName::ALL.map(ControllerName::as_str).join(", ")
}

impl FromStr for ControllerName {
    type Err = UnknownController;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| UnknownController(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_itself() {
        for name in ControllerName::ALL {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "plaecment".parse::<ControllerName>().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`plaecment`") && text.contains("placement"));
    }
}
