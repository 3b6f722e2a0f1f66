//! Taking over an attempt that another agent started: by lifetime lock, pidfd and record, never by waitpid.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::Ledger;
use crate::attempt::{AttemptId, Held};
use crate::shim::now_micros;
use crate::shim::record::{self, Line, Record};
use crate::shim::tree::{self, ProcessId};

/// How often the remains of an attempt whose shim was killed are killed, before the agent goes on without proof.
const KILL_ROUNDS: u32 = 1500;
/// The same where a cgroup can prove that they are gone: after that the agent does other work and comes back.
const PROVEN_ROUNDS: u32 = 5;
const KILL_PAUSE: Duration = Duration::from_millis(20);

/// What was found of an attempt.
pub(crate) enum Found {
    /// Its shim lives; the descriptor is readable when it ends.
    Running {
        /// The attempt.
        held: Held,
        /// Its shim.
        shim: OwnedFd,
    },
    /// Its shim is dead, and something of it is not: to be looked at again.
    Lingering(Held),
    /// It has ended, by its record or by ours.
    Ended(Held),
}

impl Found {
    pub(crate) fn id(&self) -> &AttemptId {
        match self {
            Self::Running { held, .. } | Self::Lingering(held) | Self::Ended(held) => &held.id,
        }
    }
}

/// Looks at one attempt. Blocks while it kills what a dead shim left behind.
pub(crate) fn adopt(ledger: &Ledger, id: &AttemptId) -> io::Result<Found> {
    loop {
        let record = ledger.record(id)?.unwrap_or_default();
        if record.emptied {
            return Ok(Found::Ended(super::held(id.clone(), record)));
        }
        if let Some(mut lock) = ledger.lifetime_lock(id)? {
            // It may have written its last words between the two looks; from here on nobody else writes.
            let record = ledger.record(id)?.unwrap_or_default();
            if !record.emptied && !bury(id, &record, &mut lock)? {
                return Ok(Found::Lingering(super::held(id.clone(), record)));
            }
            let record = ledger.record(id)?.unwrap_or_default();
            return Ok(Found::Ended(super::held(id.clone(), record)));
        }
        let Some((pid, start_ticks)) = record.shim else {
            // The lock is held and the first line not yet written: a moment in the life of a shim.
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let same = tree::stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks);
        if let Some(shim) = handle
            && same
        {
            let held = super::held(id.clone(), record);
            return Ok(Found::Running { held, shim });
        }
    }
}

/// Ends an attempt whose shim is dead: kills what is left of it and writes down what is known. False, with nothing
/// written, when something in its cgroup would not die yet.
fn bury(id: &AttemptId, record: &Record, lock: &mut File) -> io::Result<bool> {
    if !kill_remains(id, record) && record.cgroup.is_some() {
        return Ok(false);
    }
    let micros = now_micros();
    let mut lines = Vec::new();
    if !record.exited {
        let reason = if is_of_another_boot(record) {
            "the node was started anew while the attempt ran"
        } else if record.shim.is_some() {
            "the shim that held the process was killed, so its exit is unknown"
        } else {
            "the attempt was prepared and never started"
        };
        lines.push(Line::Lost {
            micros,
            reason: reason.to_owned(),
        });
    }
    lines.push(Line::Emptied {
        micros,
        cpu_millis: None,
        peak_memory_bytes: None,
    });
    record::append(lock, &lines)?;
    Ok(true)
}

/// Kills what the shim held; true when nothing of it is left to be found.
fn kill_remains(id: &AttemptId, record: &Record) -> bool {
    let session = record
        .child
        .map(|(pid, start_ticks)| ProcessId { pid, start_ticks });
    let rounds = if record.cgroup.is_some() {
        PROVEN_ROUNDS
    } else {
        KILL_ROUNDS
    };
    for _ in 0..rounds {
        let fenced = record.cgroup.as_ref().filter(|cgroup| !cgroup.remove());
        if let Some(cgroup) = fenced {
            cgroup.kill();
        }
        let left = tree::orphans(&id.uid, id.attempt, session);
        if left.is_empty() && fenced.is_none() {
            return true;
        }
        for process in &left {
            tree::signal(*process, Signal::STOP);
        }
        for process in &left {
            tree::signal(*process, Signal::KILL);
        }
        std::thread::sleep(KILL_PAUSE);
    }
    false
}

/// Was the attempt begun before the host was last started?
fn is_of_another_boot(record: &Record) -> bool {
    let now = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let now = now.trim();
    !record.boot_id.is_empty() && !now.is_empty() && record.boot_id != now
}
