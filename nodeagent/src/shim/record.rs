//! The record of an attempt: one append-only file of JSON lines in the attempt's directory, written by its shim alone.
//!
//! # Guarantees
//!
//! - The shim holds an exclusive `flock` on the file as long as it lives: the lifetime lock. Whoever gets the lock
//!   knows that the shim is gone.
//! - A line counts once its newline is there; a torn last line is as if it had not been written. So appending is as
//!   atomic as a rename, at a fraction of its price.
//! - `Intent` is written before the fork, `Signalled` before the first signal, `Exited` once the command was waited
//!   for, and `Emptied` once the kernel said that no process of its tree is left. `Lingers` stands between the two when
//!   that takes long.
//!
//! - A record speaks for the attempt that its `Intent` names. A directory that is used again (`crate::ledger::spares`)
//!   comes with a blank record, and what a power cut might bring back of the attempt before is not believed.
//!
//! The shim does not sync: the agent journals ends in groups before it reports them (`crate::ledger::journal`).

use std::fs::File;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use crate::attempt::{AttemptId, Charge, Ended, SignalCause, StartRequest};

/// Name of the record in the attempt's directory.
pub(crate) const RECORD: &str = "record";
/// What a record holds that says nothing yet. A file that is cut to nothing is written out by ext4 when it is closed, to
/// save those who replace files that way; one that is cut to a line end is not.
pub(crate) const BLANK: &[u8] = b"\n";
/// Name of the output, stdout and stderr together.
pub(crate) const LOG: &str = "log";
/// Name of the attempt's own working directory.
pub(crate) const WORK: &str = "work";
/// Name of the file that a job touches to say that its checkpoint is complete.
pub(crate) const ACK: &str = "checkpoint-ack";
/// The signal that a command which does not die will have died of.
const KILL: i32 = 9;
/// Name of the script file.
pub(crate) const SCRIPT: &str = "script";
/// Name of the file with the hosts of the attempt's gang.
pub(crate) const HOSTS: &str = "hosts";

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The shim is about to start the command.
    Intent {
        shim_pid: i32,
        shim_start_ticks: u64,
        boot_id: String,
        namespace: String,
        name: String,
        grace_secs: u32,
        charge: Charge,
        #[serde(default)]
        cgroup: Option<Cgroup>,
        /// Whose record this is; absent in records from before directories were used again.
        #[serde(default)]
        id: Option<AttemptId>,
    },
    /// The command's process exists.
    Started {
        pid: i32,
        start_ticks: u64,
        micros: i64,
    },
    /// The shim is about to signal the tree.
    Signalled { cause: SignalCause, micros: i64 },
    /// The command was waited for, or could not be started.
    Exited {
        micros: i64,
        code: Option<i32>,
        signal: Option<i32>,
        start_error: Option<String>,
    },
    /// The command has ended, or was killed and does not die, and this is left after [`crate::runner::PROOF_WAIT`].
    Lingers { micros: i64, pids: Vec<i32> },
    /// It had said so by then, for the last time, that its checkpoint is complete.
    Checkpointed { micros: i64 },
    /// It was frozen for want of contact.
    Fenced { micros: i64 },
    /// It was thawed.
    Thawed { micros: i64 },
    /// The exit was never seen; written by an agent that found the lifetime lock free.
    Lost {
        micros: i64,
        reason: String,
        /// The record was blank.
        #[serde(default)]
        unstarted: bool,
    },
    /// No process of the tree is left.
    Emptied {
        micros: i64,
        cpu_millis: Option<u64>,
        peak_memory_bytes: Option<u64>,
    },
}

impl Line {
    pub(crate) fn intent(
        request: &StartRequest,
        shim_pid: i32,
        shim_start_ticks: u64,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self::Intent {
            shim_pid,
            shim_start_ticks,
            boot_id: request.boot_id.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            grace_secs: request.grace_secs,
            charge: request.charge.clone(),
            cgroup,
            id: Some(request.id.clone()),
        }
    }
}

/// Appends lines in one write.
pub(crate) fn append(file: &mut File, lines: &[Line]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(256 * lines.len());
    for line in lines {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    file.write_all(&bytes)
}

/// What a record says so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Whose it is, if it says so.
    pub(crate) id: Option<AttemptId>,
    pub(crate) shim: Option<(i32, u64)>,
    pub(crate) boot_id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) grace_secs: u32,
    pub(crate) charge: Charge,
    /// Made for this attempt alone.
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) child: Option<(i32, u64)>,
    pub(crate) ended: Ended,
    pub(crate) exited: bool,
    /// The command was killed and did not die in time: how it ends is told before it does, and stays told so.
    presumed: bool,
    /// It is frozen.
    pub(crate) fenced: bool,
    pub(crate) emptied: bool,
}

impl Record {
    /// How the attempt ended, as far as that may be told by now.
    pub(crate) fn told(&self) -> Option<Ended> {
        (self.emptied || self.ended.lingering.is_some()).then(|| self.ended.clone())
    }

    /// Reads whole lines; what follows the last newline, and what cannot be read, is left out.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut record = Self::default();
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(&[][..], |end| &bytes[..end]);
        for line in whole.split(|byte| *byte == b'\n') {
            if let Ok(line) = serde_json::from_slice(line) {
                record.apply(line);
            }
        }
        record
    }

    /// What it says of this attempt: nothing if it is another's.
    pub(crate) fn of(self, id: &AttemptId) -> Self {
        match &self.id {
            Some(own) if own != id => Self::default(),
            _ => self,
        }
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Intent {
                shim_pid,
                shim_start_ticks,
                boot_id,
                namespace,
                name,
                grace_secs,
                charge,
                cgroup,
                id,
            } => {
                self.id = id;
                self.shim = Some((shim_pid, shim_start_ticks));
                self.boot_id = boot_id;
                self.namespace = namespace;
                self.name = name;
                self.grace_secs = grace_secs;
                self.charge = charge;
                self.cgroup = cgroup;
            }
            Line::Started {
                pid,
                start_ticks,
                micros,
            } => {
                self.child = Some((pid, start_ticks));
                self.ended.started_micros = Some(micros);
            }
            Line::Signalled { cause, .. } => {
                if !self.exited && self.ended.signalled.is_none() {
                    self.ended.signalled = Some(cause);
                }
            }
            Line::Lingers { micros, pids } => {
                self.ended.lingering = Some(pids);
                if !self.exited {
                    self.presumed = true;
                    self.exited = true;
                    self.ended.finished_micros = Some(micros);
                    self.ended.signal = Some(KILL);
                }
            }
            Line::Checkpointed { micros } => self.ended.checkpointed_micros = Some(micros),
            Line::Fenced { .. } => self.fenced = true,
            Line::Thawed { .. } => self.fenced = false,
            Line::Exited { .. } if self.presumed => {}
            Line::Exited {
                micros,
                code,
                signal,
                start_error,
            } => {
                self.exited = true;
                self.ended.finished_micros = Some(micros);
                self.ended.code = code;
                self.ended.signal = signal;
                self.ended.start_error = start_error;
            }
            Line::Lost {
                micros,
                reason,
                unstarted,
            } => {
                self.ended.unstarted = unstarted;
                self.exited = true;
                self.ended.finished_micros = Some(micros);
                self.ended.lost = Some(reason);
            }
            Line::Emptied {
                cpu_millis,
                peak_memory_bytes,
                ..
            } => {
                self.emptied = true;
                self.ended.lingering = None;
                self.ended.cpu_millis = cpu_millis;
                self.ended.peak_memory_bytes = peak_memory_bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited() -> Line {
        Line::Exited {
            micros: 7,
            code: Some(3),
            signal: None,
            start_error: None,
        }
    }

    fn signalled() -> Line {
        Line::Signalled {
            cause: SignalCause::Stop,
            micros: 5,
        }
    }

    fn parsed(lines: &[Line]) -> Record {
        let mut bytes = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut bytes, line).expect("a line is plain data");
            bytes.push(b'\n');
        }
        Record::parse(&bytes)
    }

    #[test]
    fn a_torn_last_line_does_not_count() {
        let mut bytes = serde_json::to_vec(&exited()).expect("a line is plain data");
        assert!(!Record::parse(&bytes).exited);
        bytes.push(b'\n');
        assert!(Record::parse(&bytes).exited);
    }

    #[test]
    fn an_exit_belongs_to_the_stop_only_if_the_signal_came_first() {
        let stopped = parsed(&[signalled(), exited()]);
        assert_eq!(stopped.ended.signalled, Some(SignalCause::Stop));
        let own = parsed(&[exited(), signalled()]);
        assert_eq!(own.ended.signalled, None);
        assert_eq!(own.ended.code, Some(3));
    }

    #[test]
    fn what_was_told_of_a_command_that_did_not_die_stays_told() {
        let lingers = Line::Lingers {
            micros: 6,
            pids: vec![42],
        };
        let told = parsed(&[signalled(), lingers.clone()]);
        let end = told.told().expect("it is told");
        assert_eq!((end.signal, end.lingering), (Some(9), Some(vec![42])));
        let emptied = Line::Emptied {
            micros: 9,
            cpu_millis: None,
            peak_memory_bytes: None,
        };
        let dead = parsed(&[signalled(), lingers.clone(), exited(), emptied]);
        let end = dead.told().expect("it is told");
        assert_eq!((end.signal, end.code), (Some(9), None));
        assert_eq!((end.finished_micros, end.lingering), (Some(6), None));
        let first = parsed(&[exited(), lingers]);
        let end = first.told().expect("it is told");
        assert_eq!((end.code, end.finished_micros), (Some(3), Some(7)));
        assert_eq!(parsed(&[exited()]).told(), None);
    }

    #[test]
    fn lines_of_a_newer_version_are_passed_over() {
        let bytes = b"{\"Novelty\":{}}\n{\"Emptied\":{\"micros\":1,\"cpu_millis\":null,\"peak_memory_bytes\":null}}\n";
        assert!(Record::parse(bytes).emptied);
    }
}
