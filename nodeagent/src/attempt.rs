//! One attempt of one job, as the parts of this crate speak of it: what to start, what it is charged, how it ended.
//!
//! **Nothing here does I/O.** These types cross the process boundary to the spawner and lie in the attempt's record on
//! disk, so fields are only ever added, with defaults, and old records stay readable.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identity of an attempt: the job's uid and the attempt's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// Uid of the job.
    pub uid: String,
    /// Number of the attempt.
    pub attempt: u32,
}

impl AttemptId {
    /// The identity that a directory name stands for, if it is one.
    pub fn parse(name: &str) -> Option<Self> {
        let (uid, attempt) = name.rsplit_once('-')?;
        let attempt = attempt.parse().ok()?;
        is_safe_uid(uid).then(|| Self {
            uid: uid.to_owned(),
            attempt,
        })
    }

    /// Whether this identity may name a directory.
    pub fn is_safe(&self) -> bool {
        is_safe_uid(&self.uid)
    }
}

/// Whether a uid may name a directory.
pub(crate) fn is_safe_uid(uid: &str) -> bool {
    !uid.is_empty()
        && uid.len() <= 128
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl fmt::Display for AttemptId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.uid, self.attempt)
    }
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A program and its arguments, searched in the job's own PATH.
    Command(Vec<String>),
    /// A script, run by its `#!` line or by /bin/sh.
    Script(String),
}

/// The numbers a process runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What an attempt holds of the node (rules.md section 5), from its binding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// UUIDs of the GPUs, in the order the job sees them.
    pub gpus: Vec<String>,
    /// Bytes on each GPU; absent: whole GPUs.
    pub vram_bytes: Option<u64>,
    /// True when the GPUs are the job's alone.
    pub whole_gpus: bool,
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes of host memory.
    pub memory_bytes: u64,
}

/// What becomes of an attempt whose node has no contact with the control plane (rules.md section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Seconds without contact after which it is fenced, from the sending of the last acknowledged renewal.
    pub secs: u32,
    /// Killed instead of frozen.
    pub kill: bool,
}

/// Names the file with the hosts of the gang, in the environment of its members.
pub const HOSTFILE_VARIABLE: &str = "GCTL_GANG_HOSTFILE";

/// Everything a shim needs to run an attempt. It is never written to disk: `env` may hold secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The attempt.
    pub id: AttemptId,
    /// Namespace of the job.
    pub namespace: String,
    /// Name of the job.
    pub name: String,
    /// What is executed.
    pub program: Program,
    /// The whole environment, in order; of equal names the last one counts.
    pub env: Vec<(String, String)>,
    /// The hosts of the attempt's gang as MPI reads them, for a file of its own that [`HOSTFILE_VARIABLE`] names; absent
    /// when it is of no gang.
    #[serde(default)]
    pub hostfile: Option<String>,
    /// The directory in which the job keeps its checkpoints, the same for all its attempts; absent when it has none.
    #[serde(default)]
    pub checkpoint_dir: Option<String>,
    /// Where it starts; absent: a directory of the attempt's own.
    pub working_dir: Option<String>,
    /// Whom it runs as; absent: the agent's own user.
    pub run_as: Option<RunAs>,
    /// Seconds between TERM and KILL when the shim itself stops the attempt.
    pub grace_secs: u32,
    /// Wall-clock limit in seconds, enforced by the shim.
    pub deadline_secs: Option<u64>,
    /// Set when the attempt is not to go on without contact.
    #[serde(default)]
    pub fence: Option<Fence>,
    /// What the attempt holds of the node.
    pub charge: Charge,
    /// Boot id of the node.
    pub boot_id: String,
}

impl fmt::Debug for StartRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment may hold secrets, so it is left out.
        formatter
            .debug_struct("StartRequest")
            .field("id", &self.id)
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What made the shim signal the attempt's processes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalCause {
    /// A stop was asked for.
    Stop,
    /// The attempt's wall-clock limit was reached.
    Deadline,
    /// There was no contact with the control plane for too long.
    Fence,
}

/// How an attempt ended; every field is what was seen, absent is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When the process started, in microseconds since 1970; absent when it never did.
    pub started_micros: Option<i64>,
    /// When it ended.
    pub finished_micros: Option<i64>,
    /// Exit code.
    pub code: Option<i32>,
    /// Signal.
    pub signal: Option<i32>,
    /// Set when the shim had signalled before the process ended.
    pub signalled: Option<SignalCause>,
    /// Why the command could not be started.
    pub start_error: Option<String>,
    /// Why the end could not be observed.
    pub lost: Option<String>,
    /// Nothing of it was ever started, if the node was not started anew since: what is said before the fork was not said.
    #[serde(default)]
    pub unstarted: bool,
    /// Processes of the attempt that were still there when this was told; absent once none is left, and with it the
    /// attempt holds nothing any more.
    #[serde(default)]
    pub lingering: Option<Vec<i32>>,
    /// When it said last that its checkpoint is complete, in microseconds since 1970.
    #[serde(default)]
    pub checkpointed_micros: Option<i64>,
    /// CPU time of the whole tree in milliseconds.
    pub cpu_millis: Option<u64>,
    /// Largest resident size of any one process of it, in bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// An attempt that is known to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The attempt.
    pub id: AttemptId,
    /// Namespace of the job; empty when the record was lost.
    pub namespace: String,
    /// Name of the job; empty when the record was lost.
    pub name: String,
    /// Seconds between TERM and KILL.
    pub grace_secs: u32,
    /// What it holds while it runs.
    pub charge: Charge,
    /// It is frozen for want of contact.
    pub fenced: bool,
    /// How it ended; absent while it runs. With `lingering` set, something of it is still there.
    pub ended: Option<Ended>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_directory_name() {
        let id = AttemptId {
            uid: "0c7e-11".to_owned(),
            attempt: 3,
        };
        assert_eq!(AttemptId::parse(&id.to_string()), Some(id));
    }

    #[test]
    fn names_that_could_leave_the_directory_are_no_identities() {
        for name in ["../x-1", "a/b-1", "-1", "x", "x-", "x-y", ".-1"] {
            assert_eq!(AttemptId::parse(name), None, "{name}");
        }
    }
}
