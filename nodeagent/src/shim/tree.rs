//! The tree of processes below one process, read from /proc, and signals to exactly those processes.
//!
//! # Guarantees
//!
//! A shim is a sub-reaper, so whatever its command starts stays below it however often it forks or changes session:
//! walking parents finds all of it, and `ECHILD` from wait proves that none is left. A process is known by pid and
//! start time, checked again through a pidfd before it is signalled, so a reused pid is never hit.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, by pid and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

/// What /proc/PID/stat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    pub(crate) start_ticks: u64,
}

/// Reads the stat of one process; none when it is gone.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    // A line is at most some 400 bytes and is told whole at once; reading without knowing that takes seven calls more.
    let mut line = [0; 1024];
    let length = fs::File::open(format!("/proc/{pid}/stat"))
        .and_then(|mut file| file.read(&mut line))
        .ok()?;
    parse_stat(&line[..length])
}

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The command's name may contain spaces and brackets; the fields follow its last bracket.
    let end = bytes.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(bytes.get(end + 2..)?).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// All processes that /proc shows now.
pub(crate) fn all() -> BTreeMap<i32, Stat> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return found;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = stat(pid) {
            found.insert(pid, stat);
        }
    }
    found
}

/// The live processes below `root`, without it, parents before children. Zombies are left out: they are gone already.
pub(crate) fn descendants(root: i32) -> Vec<ProcessId> {
    below(&all(), root)
}

/// The same, over processes that were read before.
pub(crate) fn below(processes: &BTreeMap<i32, Stat>, root: i32) -> Vec<ProcessId> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, stat) in processes {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        // Taken out, so that a table read while it changed cannot send this in circles.
        for pid in children.remove(&parent).unwrap_or_default() {
            next.push(pid);
            let stat = processes[&pid];
            if stat.state != b'Z' && stat.state != b'X' {
                found.push(ProcessId {
                    pid,
                    start_ticks: stat.start_ticks,
                });
            }
        }
    }
    found
}

/// Signals one process if it is still the one that was meant.
pub(crate) fn signal(process: ProcessId, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return false;
    };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    let same = stat(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks);
    same && pidfd_send_signal(&handle, signal).is_ok()
}

/// Kills everything below `root` once: first stops it all, until nothing new appears, so that nothing can fork away.
pub(crate) fn kill_below(root: i32) {
    const MOST_PASSES: u32 = 16;
    let mut stopped: Vec<ProcessId> = Vec::new();
    for _ in 0..MOST_PASSES {
        let found = descendants(root);
        let fresh: Vec<_> = found
            .iter()
            .filter(|process| !stopped.contains(process))
            .copied()
            .collect();
        if fresh.is_empty() {
            break;
        }
        for process in &fresh {
            signal(*process, Signal::STOP);
        }
        stopped.extend(fresh);
    }
    for process in stopped {
        signal(process, Signal::KILL);
    }
}

/// The live processes that bear an attempt's mark in their environment, or are in the session of its command: what is
/// left when the shim itself was killed and its tree fell to init.
pub(crate) fn orphans(uid: &str, attempt: u32, session: Option<ProcessId>) -> Vec<ProcessId> {
    let uid = format!("GCTL_JOB_UID={uid}");
    let attempt = format!("GCTL_ATTEMPT={attempt}");
    let processes = all();
    // A session outlives its leader; its id is not given to a new process while a member lives.
    let session_is_ours = session.filter(|leader| {
        processes
            .get(&leader.pid)
            .is_none_or(|now| now.start_ticks == leader.start_ticks)
    });
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut found = Vec::new();
    for (pid, stat) in &processes {
        if *pid == own || stat.state == b'Z' || stat.state == b'X' {
            continue;
        }
        let in_session = session_is_ours.is_some_and(|leader| {
            stat.session == leader.pid && stat.start_ticks >= leader.start_ticks
        });
        if in_session || bears(*pid, &uid, &attempt) {
            found.push(ProcessId {
                pid: *pid,
                start_ticks: stat.start_ticks,
            });
            found.extend(below(&processes, *pid));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn bears(pid: i32, uid: &str, attempt: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let has = |wanted: &str| {
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == wanted.as_bytes())
    };
    has(uid) && has(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text = b"42 (a) b) (c) S 7 42 40 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987 0 0";
        let stat = parse_stat(text).expect("a well-formed line");
        assert_eq!((stat.parent, stat.session), (7, 40));
        assert_eq!((stat.state, stat.start_ticks), (b'S', 987));
    }

    #[test]
    fn the_tree_is_found_through_dead_parents_and_without_zombies() {
        let process = |parent, state, start_ticks| Stat {
            state,
            parent,
            session: 1,
            start_ticks,
        };
        let processes = BTreeMap::from([
            (10, process(1, b'S', 1)),
            (11, process(10, b'Z', 2)),
            (12, process(11, b'R', 3)),
            (13, process(1, b'R', 4)),
        ]);
        let found = below(&processes, 10);
        assert_eq!(
            found,
            [ProcessId {
                pid: 12,
                start_ticks: 3
            }]
        );
    }

    #[test]
    fn a_process_with_another_start_time_is_not_signalled() {
        let pid = i32::try_from(std::process::id()).expect("pids fit");
        let wrong = ProcessId {
            pid,
            start_ticks: 1,
        };
        assert!(!signal(wrong, Signal::CONT));
    }
}
