//! Taking over an attempt that another agent started: by lifetime lock, pidfd and record, never by waitpid.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::Ledger;
use super::journal::Journal;
use crate::attempt::{AttemptId, Ended, Held};
use crate::runner::RunnerError;
use crate::shim::cgroup::Cgroup;
use crate::shim::now_micros;
use crate::shim::record::{self, Line, Record};
use crate::shim::tree::{self, ProcessId};

/// How often the remains of an attempt whose shim was killed are killed, before the agent does other work and comes back.
const KILL_ROUNDS: u32 = 5;
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

    /// What was told of the end before stays told, whatever else was found.
    pub(crate) fn keep_to(&mut self, told: &Ended) {
        match self {
            Self::Running { held, .. } | Self::Lingering(held) => held.ended = Some(told.clone()),
            Self::Ended(held) => {
                let found = held.ended.take().unwrap_or_default();
                held.ended = Some(Ended {
                    lingering: None,
                    cpu_millis: found.cpu_millis,
                    peak_memory_bytes: found.peak_memory_bytes,
                    checkpointed_micros: found.checkpointed_micros,
                    ..told.clone()
                });
            }
        }
    }
}

/// Looks at every attempt of this host. Blocks as [`adopt`] does.
pub(crate) fn gather(ledger: &Ledger, journal: &Journal) -> Result<Vec<Found>, RunnerError> {
    let ids = ledger
        .scan()
        .map_err(RunnerError::host("read the folder of attempts"))?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let one = match journal.held().get(&id) {
            // What was made durable stays true, whatever a power cut did to the record.
            Some(ended) if ended.lingering.is_none() => {
                let record = ledger.record(&id).ok().flatten().unwrap_or_default();
                let mut held = super::held(id, record);
                held.ended = Some(ended.clone());
                Found::Ended(held)
            }
            told => {
                let mut one = adopt(ledger, &id).map_err(RunnerError::host("adopt an attempt"))?;
                if let Some(told) = told {
                    one.keep_to(told);
                }
                one
            }
        };
        found.push(one);
    }
    let scanned: BTreeSet<AttemptId> = found.iter().map(|one| one.id().clone()).collect();
    for (id, ended) in journal.held() {
        // A power cut may have taken the directory; the end was made durable before. Nothing survives it.
        if !scanned.contains(id) {
            let mut held = super::held(id.clone(), Record::default());
            held.ended = Some(Ended {
                lingering: None,
                ..ended.clone()
            });
            found.push(Found::Ended(held));
        }
    }
    Ok(found)
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
/// written, when something of it would not die yet.
fn bury(id: &AttemptId, record: &Record, lock: &mut File) -> io::Result<bool> {
    if !kill_remains(id, record) {
        return Ok(false);
    }
    let micros = now_micros();
    let mut lines = Vec::new();
    if !record.exited {
        lines.push(Line::Lost {
            micros,
            reason: loss(record).to_owned(),
            // The record says what is about to be done before anything is forked, and its lock is ours.
            unstarted: record.shim.is_none(),
        });
    }
    lines.push(Line::Emptied {
        micros,
        cpu_millis: None,
        peak_memory_bytes: None,
    });
    // A line that was torn ends here, and takes none of these with it.
    lock.write_all(b"\n")?;
    record::append(lock, &lines)?;
    Ok(true)
}

/// Why nobody saw the exit.
fn loss(record: &Record) -> &'static str {
    if is_of_another_boot(record) {
        "the node was started anew while the attempt ran"
    } else if record.shim.is_some() {
        "the shim that held the process was killed, so its exit is unknown"
    } else {
        "the attempt was prepared and never started"
    }
}

/// How an attempt ended whose shim is dead and of which something does not die: what its record says, or that its exit
/// was not seen.
pub(crate) fn lingering_end(ledger: &Ledger, id: &AttemptId) -> io::Result<Ended> {
    let record = ledger.record(id)?.unwrap_or_default();
    let mut ended = record.ended.clone();
    if !record.exited {
        ended.lost = Some(loss(&record).to_owned());
        ended.finished_micros = Some(now_micros());
    }
    ended.lingering = Some(remains(id, &record));
    Ok(ended)
}

/// The processes that are left of an attempt whose shim is dead.
pub(super) fn remains(id: &AttemptId, record: &Record) -> Vec<i32> {
    let mut pids: Vec<i32> = tree::orphans(&id.uid, id.attempt, session(record))
        .into_iter()
        .map(|process| process.pid)
        .collect();
    pids.extend(record.cgroup.iter().flat_map(Cgroup::processes));
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The session of the attempt's command.
fn session(record: &Record) -> Option<ProcessId> {
    let child = record.child;
    child.map(|(pid, start_ticks)| ProcessId { pid, start_ticks })
}

/// Kills what the shim held; true when nothing of it is left to be found.
fn kill_remains(id: &AttemptId, record: &Record) -> bool {
    let session = session(record);
    for _ in 0..KILL_ROUNDS {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::record::RECORD;

    #[test]
    fn only_a_blank_record_proves_that_nothing_was_started() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ledger = Ledger::open(dir.path()).expect("a fresh directory");
        let intent = "{\"Intent\":{\"shim_pid\":0,\"shim_start_ticks\":1,\"boot_id\":\"\",\"namespace\":\"\",\
            \"name\":\"\",\"grace_secs\":0,\"charge\":{\"gpus\":[],\"vram_bytes\":null,\"whole_gpus\":false,\
            \"cpu_millis\":0,\"memory_bytes\":0}}}";
        for (uid, text, unstarted) in [
            ("none", None, true),
            ("blank", Some("\n".to_owned()), true),
            ("torn", Some(intent[..40].to_owned()), true),
            ("whole", Some(format!("{intent}\n")), false),
        ] {
            let id = AttemptId {
                uid: uid.to_owned(),
                attempt: 1,
            };
            ledger.seal(&id).expect("writable");
            if let Some(text) = text {
                let record = ledger.attempts_dir().join(id.to_string());
                std::fs::write(record.join(RECORD), text).expect("writable");
            }
            let Found::Ended(held) = adopt(&ledger, &id).expect("readable") else {
                panic!("{uid} has no shim");
            };
            let ended = held.ended.expect("it is over");
            assert!(ended.lost.is_some(), "{uid}");
            assert_eq!(ended.unstarted, unstarted, "{uid}");
        }
    }
}
