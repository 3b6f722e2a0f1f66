//! The shim: the tiny process that holds one attempt, outlives the agent, and records how the attempt ended.
//!
//! A shim is forked, never exec'd, by the spawner (`crate::spawner`), so it costs one fork and shares its pages. It is
//! single-threaded and lives in its own session, so no terminal and no agent's end reaches it.
//!
//! # Guarantees
//!
//! - **Once.** The attempt's directory is made with mkdir, or is a spare one that gets the attempt's name by a rename that
//!   replaces nothing (`crate::ledger::spares`); whoever finds it there starts nothing.
//! - **Durable words before deeds.** The record (`record`) says what is about to happen before the fork and before the
//!   first signal, and holds the exit before the shim ends.
//! - **The whole tree.** The shim is a sub-reaper: TERM goes to everything below it, KILL follows after the grace
//!   period, and it ends only when the kernel says that it has no child left (`tree`) and, where the attempt has a
//!   cgroup, has removed that as empty (`cgroup`). The shim itself is outside of it.
//! - **The end does not wait for the undying.** What is left a few seconds after the command's end, or after KILL, is
//!   noted in the record and by a file of the attempt's name in the folder of lingering attempts, which the agent reads.
//! - **No contact, no run.** An attempt with a fence is frozen or ended when the control plane was not heard of for its
//!   time, whatever became of the agent (`fence`).
//! - **The limit outlives the agent.** `deadline_secs` is kept here, on the clock that goes on in suspension.
//!
//! A stop is asked for by a file beside the attempt's directory and the signal USR1 as its doorbell (`stop`); it works
//! whoever the asking agent is. Every other signal stays blocked.

pub(crate) mod cgroup;
pub(crate) mod checkpoint;
pub(crate) mod command;
pub(crate) mod fence;
pub(crate) mod record;
pub(crate) mod stop;
pub(crate) mod sys;
pub(crate) mod tree;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::AsFd;

use crate::attempt::{SignalCause, StartRequest};
use crate::runner::PROOF_WAIT;
use cgroup::Cgroup;
use record::Line;

/// The shim ended with its record complete.
pub(crate) const SHIM_OK: i32 = 0;
/// The once-gate was there already: nothing was started.
pub(crate) const SHIM_EXISTS: i32 = 3;
/// The request could not be read.
pub(crate) const SHIM_BAD_REQUEST: i32 = 4;
/// No record could be made: this plus the error number, at most 255.
pub(crate) const SHIM_NO_RECORD: i32 = 100;

/// Longest time that what a command left behind may take between TERM and KILL.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);
/// Longest sleep while a deadline is set: timers stand still in suspension, the deadline does not.
const LONGEST_NAP: Duration = Duration::from_mins(1);
/// Pause between two rounds of KILL, and between those on what did not die for long.
const KILL_PAUSE: Duration = Duration::from_millis(20);
const LONG_KILL_PAUSE: Duration = Duration::from_millis(500);
/// Processes that are named of those which linger.
const MOST_NAMED: usize = 16;

/// Looks at a cgroup in which the kernel still counts what was waited for, and the pause between two of them.
const BUSY_LOOKS: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What the spawner hands to a shim.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct ShimRequest {
    /// The folder of all attempts.
    pub(crate) attempts_dir: PathBuf,
    /// Where the attempt's cgroup is made, if it gets one.
    #[serde(default)]
    pub(crate) cgroups: Option<Cgroup>,
    /// Name of a directory there that waits to become an attempt's, if there is one.
    #[serde(default)]
    pub(crate) spare: Option<String>,
    /// What is run.
    pub(crate) start: StartRequest,
}

/// Runs one attempt to its end and returns the process's exit status.
pub(crate) fn run(frame: &[u8], oom_score_adj: Option<i32>) -> i32 {
    let Ok(request) = serde_json::from_slice::<ShimRequest>(frame) else {
        return SHIM_BAD_REQUEST;
    };
    match Shim::open(&request) {
        Ok(shim) => shim.hold(&request, oom_score_adj),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => SHIM_EXISTS,
        Err(error) => SHIM_NO_RECORD + error.raw_os_error().unwrap_or(0).clamp(0, 155),
    }
}

/// The path of an attempt's directory.
pub(crate) fn attempt_dir(attempts_dir: &Path, id: &crate::attempt::AttemptId) -> PathBuf {
    attempts_dir.join(id.to_string())
}

/// The folder in which shims note that something of their attempts lingers.
pub(crate) fn lingering_dir(attempts_dir: &Path) -> PathBuf {
    attempts_dir.with_file_name("lingering")
}

/// The live processes of an attempt: those below its shim, and those in its cgroup.
pub(crate) fn processes(shim: i32, cgroup: Option<&Cgroup>) -> Vec<i32> {
    let mut pids: Vec<i32> = tree::descendants(shim)
        .into_iter()
        .map(|process| process.pid)
        .collect();
    pids.extend(cgroup.into_iter().flat_map(Cgroup::processes));
    pids.sort_unstable();
    pids.dedup();
    pids.truncate(MOST_NAMED);
    pids
}

/// Now, in microseconds since 1970.
pub(crate) fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

struct Shim {
    dir: PathBuf,
    stop_file: PathBuf,
    /// Made when something lingers.
    lingering_file: PathBuf,
    signals: SignalFd,
    /// Locked for as long as this process lives.
    record: Flock<File>,
    cgroup: Option<Cgroup>,
    fence: Option<fence::Watch>,
    /// The job keeps checkpoints.
    keeps_checkpoints: bool,
}

#[derive(Default)]
struct Progress {
    child: Option<Pid>,
    exited: bool,
    /// When KILL is due, on the boot clock.
    kill_at: Option<Duration>,
    signalled: bool,
    /// How much output there was when it was signalled.
    output_before: Option<u64>,
    /// How often no child was left, and yet something in the cgroup.
    busy: u32,
    /// Since when the attempt is at its end, on the boot clock: the command has ended, or KILL was sent.
    ending_since: Option<Duration>,
    /// It was noted that something lingers.
    lingers: bool,
}

impl Shim {
    fn open(request: &ShimRequest) -> io::Result<Self> {
        let _ = nix::unistd::setsid();
        nix::sys::prctl::set_child_subreaper(true)?;
        let mut mask = SigSet::empty();
        mask.add(NixSignal::SIGCHLD);
        mask.add(NixSignal::SIGUSR1);
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let dir = attempt_dir(&request.attempts_dir, &request.start.id);
        let is_spare = take_gate(request, &dir)?;
        let record = OpenOptions::new()
            .create_new(!is_spare)
            .append(true)
            .mode(0o600)
            .open(dir.join(record::RECORD))?;
        // An agent that found no lock may have buried this attempt already; then it must not start.
        let taken = || io::Error::from(io::ErrorKind::AlreadyExists);
        let mut record =
            Flock::lock(record, FlockArg::LockExclusiveNonblock).map_err(|_| taken())?;
        if record.metadata()?.len() > record::BLANK.len() as u64 {
            return Err(taken());
        }
        let fence = request.start.fence;
        let fence = fence
            .map(|fence| fence::Watch::new(&request.attempts_dir, &request.start.id, fence))
            .transpose()?;
        let pid = std::process::id().cast_signed();
        let ticks = tree::stat(pid).map_or(0, |stat| stat.start_ticks);
        let cgroup = request
            .cgroups
            .as_ref()
            .and_then(|parent| parent.make(&request.start.id.to_string()));
        let intent = Line::intent(&request.start, pid, ticks, cgroup.clone());
        if let Err(error) = record::append(&mut record, &[intent]) {
            if let Some(cgroup) = &cgroup {
                cgroup.remove();
            }
            return Err(error);
        }
        Ok(Self {
            stop_file: stop::path(&request.attempts_dir, &request.start.id),
            lingering_file: lingering_dir(&request.attempts_dir).join(request.start.id.to_string()),
            dir,
            signals,
            record,
            cgroup,
            fence,
            keeps_checkpoints: request.start.checkpoint_dir.is_some(),
        })
    }

    fn hold(mut self, request: &ShimRequest, oom_score_adj: Option<i32>) -> i32 {
        let start = &request.start;
        let mut progress = Progress::default();
        if let Some(kill_in) = stop::read(&self.stop_file) {
            // Stopped before it began: it does not begin.
            self.stop(&mut progress, SignalCause::Stop, kill_in);
            return self.finish_unstarted("stopped before it was started");
        }
        let log = match self.create_log() {
            Ok(log) => log,
            Err(error) => return self.finish_unstarted(&format!("cannot make the log: {error}")),
        };
        match command::start(start, &self.dir, &log, oom_score_adj, self.cgroup.as_ref()) {
            Ok(pid) => {
                progress.child = Some(pid);
                let started = Line::Started {
                    pid: pid.as_raw(),
                    start_ticks: tree::stat(pid.as_raw()).map_or(0, |stat| stat.start_ticks),
                    micros: now_micros(),
                };
                self.write(&[started]);
            }
            Err(reason) => {
                // Where people look for what went wrong.
                let _ = writeln!(&log, "gctl: not started: {}", reason.text);
                self.write(&[Line::Exited {
                    micros: now_micros(),
                    code: Some(reason.code),
                    signal: None,
                    start_error: Some(reason.text),
                }]);
                progress.exited = true;
            }
        }
        drop(log);
        let deadline = start
            .deadline_secs
            .map(|secs| sys::boot_time().saturating_add(Duration::from_secs(secs)));
        self.wait_until_empty(&mut progress, deadline, grace(start));
        SHIM_OK
    }

    fn wait_until_empty(
        &mut self,
        progress: &mut Progress,
        deadline: Option<Duration>,
        grace: Duration,
    ) {
        loop {
            if self.reap(progress) {
                return;
            }
            let now = sys::boot_time();
            if progress.exited && progress.kill_at.is_none() {
                // The command ended and left processes behind; they end with it.
                Self::terminate(progress, now.saturating_add(grace.min(LEFTOVER_GRACE)));
            }
            if deadline.is_some_and(|deadline| now >= deadline) && !progress.signalled {
                self.stop(progress, SignalCause::Deadline, grace);
            }
            let fence_due = self.heed_fence(progress, now, grace);
            let killing = progress.kill_at.is_some_and(|at| now >= at);
            if progress.exited || killing {
                let since = *progress.ending_since.get_or_insert(now);
                if !progress.lingers && now >= since.saturating_add(PROOF_WAIT) {
                    self.note_lingering(progress);
                }
            }
            let pause = if killing {
                if let Some(cgroup) = &self.cgroup {
                    cgroup.kill();
                }
                tree::kill_below(own_pid());
                if progress.lingers {
                    LONG_KILL_PAUSE
                } else {
                    KILL_PAUSE
                }
            } else if progress.lingers && progress.busy > 0 {
                LONG_KILL_PAUSE
            } else if progress.busy > BUSY_LOOKS {
                KILL_PAUSE
            } else if progress.busy > 0 {
                BUSY_PAUSE
            } else {
                let waiting = if progress.signalled { None } else { deadline };
                let note = progress.ending_since.filter(|_| !progress.lingers);
                let note = note.map(|since| since.saturating_add(PROOF_WAIT));
                let times = [progress.kill_at, waiting, note, fence_due];
                let next = times.into_iter().flatten().min();
                match next {
                    Some(next) => next.saturating_sub(sys::boot_time()).min(LONGEST_NAP),
                    None => Duration::MAX,
                }
            };
            if self.doorbell(pause) {
                // Whoever ended before the stop came ended by himself.
                if self.reap(progress) {
                    return;
                }
                if let Some(fence) = &mut self.fence
                    && fence.heed_thaw(self.cgroup.as_ref())
                {
                    self.write(&[Line::Thawed {
                        micros: now_micros(),
                    }]);
                }
                if let Some(kill_in) = stop::read(&self.stop_file) {
                    // What is frozen is not thawed to die, and gets no TERM to do so: another attempt may run by now.
                    if self.fence.as_ref().is_some_and(fence::Watch::holds) {
                        progress.kill_at = Some(sys::boot_time());
                    }
                    self.stop(progress, SignalCause::Stop, kill_in);
                }
            }
        }
    }

    /// Does what the fence asks for; when it is due next.
    fn heed_fence(
        &mut self,
        progress: &mut Progress,
        now: Duration,
        grace: Duration,
    ) -> Option<Duration> {
        let fence = self.fence.as_mut().filter(|_| !progress.exited)?;
        match fence.step(now, self.cgroup.as_ref()) {
            fence::Step::Wait(due) => due,
            fence::Step::Frozen => {
                self.write(&[Line::Fenced {
                    micros: now_micros(),
                }]);
                None
            }
            fence::Step::End(most) => {
                self.stop(progress, SignalCause::Fence, grace.min(most));
                None
            }
        }
    }

    /// Waits for every ended child; true when none is left, nothing is in the cgroup, and the record is complete.
    fn reap(&mut self, progress: &mut Progress) -> bool {
        let mut lines = Vec::new();
        let childless = loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break false,
                Ok(status) => {
                    if progress.child.is_some()
                        && status.pid() == progress.child
                        && let Some((code, signal)) = exit_of(status)
                    {
                        progress.exited = true;
                        lines.push(Line::Exited {
                            micros: now_micros(),
                            code,
                            signal,
                            start_error: None,
                        });
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => break true,
            }
        };
        let empty = childless && self.remove_cgroup(progress);
        if empty {
            if let Some(micros) = self.checkpointed(progress) {
                lines.push(Line::Checkpointed { micros });
            }
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
            let millis = |time: nix::sys::time::TimeVal| {
                time.tv_sec().unsigned_abs() * 1000 + time.tv_usec().unsigned_abs() / 1000
            };
            lines.push(Line::Emptied {
                micros: now_micros(),
                cpu_millis: usage
                    .map(|usage| millis(usage.user_time()) + millis(usage.system_time())),
                peak_memory_bytes: usage.map(|usage| usage.max_rss().unsigned_abs() * 1024),
            });
        }
        if !lines.is_empty() {
            self.write(&lines);
        }
        empty
    }

    /// When the attempt said last that its checkpoint is complete.
    fn checkpointed(&self, progress: &Progress) -> Option<i64> {
        let touched = self
            .keeps_checkpoints
            .then(|| checkpoint::acknowledged(&self.dir));
        let from = progress.output_before;
        let told = from.is_some_and(|from| {
            checkpoint::is_told(&self.dir.join(record::LOG), from).unwrap_or(false)
        });
        touched.flatten().max(told.then(now_micros))
    }

    /// True when nothing is in the cgroup any more, or there is none. What is in it and not below us gets no grace.
    fn remove_cgroup(&self, progress: &mut Progress) -> bool {
        let Some(cgroup) = &self.cgroup else {
            return true;
        };
        if cgroup.remove() {
            return true;
        }
        progress.busy = progress.busy.saturating_add(1);
        cgroup.kill();
        false
    }

    /// Lets the end be told, though something is left of the attempt: the record first, then the file that says so.
    fn note_lingering(&mut self, progress: &mut Progress) {
        progress.lingers = true;
        let pids = processes(own_pid(), self.cgroup.as_ref());
        self.write(&[Line::Lingers {
            micros: now_micros(),
            pids,
        }]);
        // Without the file the end is told with its proof, as it would be by the next agent.
        let _ = File::create(&self.lingering_file);
    }

    fn stop(&mut self, progress: &mut Progress, cause: SignalCause, kill_in: Duration) {
        if !progress.signalled && !progress.exited {
            progress.signalled = true;
            let log = fs::metadata(self.dir.join(record::LOG));
            progress.output_before = log.ok().map(|log| log.len());
            self.write(&[Line::Signalled {
                cause,
                micros: now_micros(),
            }]);
        }
        Self::terminate(progress, sys::boot_time().saturating_add(kill_in));
    }

    /// TERM to the whole tree the first time; the time of KILL only comes nearer.
    fn terminate(progress: &mut Progress, kill_at: Duration) {
        let first = progress.kill_at.is_none();
        progress.kill_at = Some(progress.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        if first {
            for process in tree::descendants(own_pid()) {
                tree::signal(process, rustix::process::Signal::TERM);
                // A stopped process would not see its TERM.
                tree::signal(process, rustix::process::Signal::CONT);
            }
        }
    }

    /// Sleeps until a signal came or the time is over; true when somebody rang.
    fn doorbell(&self, pause: Duration) -> bool {
        let timeout = if pause == Duration::MAX {
            PollTimeout::NONE
        } else {
            // Rounded up, so that the time is over when poll says so.
            let millis = i32::try_from(pause.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        };
        let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        let _ = match &self.fence {
            None => poll(&mut [signals], timeout),
            Some(fence) => {
                let timer = PollFd::new(fence.timer().as_fd(), PollFlags::POLLIN);
                poll(&mut [signals, timer], timeout)
            }
        };
        let mut rung = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            rung |= info.ssi_signo == NixSignal::SIGUSR1 as u32;
        }
        rung
    }

    /// Opens the log; a spare directory may bring an empty one.
    fn create_log(&self) -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.dir.join(record::LOG))
    }

    fn finish_unstarted(&mut self, reason: &str) -> i32 {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        let micros = now_micros();
        self.write(&[
            Line::Exited {
                micros,
                code: None,
                signal: None,
                start_error: Some(reason.to_owned()),
            },
            Line::Emptied {
                micros,
                cpu_millis: None,
                peak_memory_bytes: None,
            },
        ]);
        SHIM_OK
    }

    /// A record that cannot be written (a full disk) is tried again: an exit must not be lost while this process lives.
    fn write(&mut self, lines: &[Line]) {
        const PAUSE: Duration = Duration::from_millis(500);
        const MOST_TRIES: u32 = 7200;
        for _ in 0..MOST_TRIES {
            let before = self.record.metadata().map(|data| data.len());
            if record::append(&mut self.record, lines).is_ok() {
                return;
            }
            if let Ok(length) = before {
                let _ = self.record.set_len(length);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Takes the once-gate of an attempt: its directory's name, which nobody had before. True when the directory is a spare one.
fn take_gate(request: &ShimRequest, dir: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if let Some(spare) = &request.spare {
        let spare = request.attempts_dir.join(spare);
        match renameat_with(CWD, &spare, CWD, dir, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::EXIST) => return Err(io::ErrorKind::AlreadyExists.into()),
            // It is gone, or this file system cannot do it.
            Err(_) => {}
        }
    }
    DirBuilder::new().mode(0o711).create(dir)?;
    Ok(false)
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn grace(start: &StartRequest) -> Duration {
    Duration::from_secs(u64::from(start.grace_secs))
}

fn exit_of(status: WaitStatus) -> Option<(Option<i32>, Option<i32>)> {
    match status {
        WaitStatus::Exited(_, code) => Some((Some(code), None)),
        WaitStatus::Signaled(_, signal, _) => Some((None, Some(signal as i32))),
        _ => None,
    }
}

/// Makes the folder of all attempts, passable but not listable for the users that jobs run as.
pub(crate) fn make_attempts_dir(data_dir: &Path) -> io::Result<PathBuf> {
    let attempts = data_dir.join("attempts");
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&attempts)?;
    fs::canonicalize(attempts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{AttemptId, Charge, Program};

    fn request(dir: &Path, uid: &str, spare: &str) -> ShimRequest {
        ShimRequest {
            attempts_dir: dir.to_owned(),
            cgroups: None,
            spare: Some(spare.to_owned()),
            start: StartRequest {
                id: AttemptId {
                    uid: uid.to_owned(),
                    attempt: 1,
                },
                namespace: String::new(),
                name: String::new(),
                program: Program::Command(Vec::new()),
                env: Vec::new(),
                hostfile: None,
                checkpoint_dir: None,
                working_dir: None,
                run_as: None,
                grace_secs: 0,
                deadline_secs: None,
                fence: None,
                charge: Charge::default(),
                boot_id: String::new(),
            },
        }
    }

    fn gate(dir: &Path, uid: &str, spare: &str) -> io::Result<bool> {
        let request = request(dir, uid, spare);
        take_gate(&request, &attempt_dir(dir, &request.start.id))
    }

    #[test]
    fn a_spare_goes_to_one_attempt_and_no_attempt_is_taken_twice() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = dir.path();
        for spare in ["spare.1", "spare.2"] {
            fs::create_dir(dir.join(spare)).expect("writable");
        }
        fs::write(dir.join("spare.1/mark"), "").expect("writable");
        assert!(gate(dir, "a", "spare.1").expect("free"));
        assert!(dir.join("a-1/mark").exists());
        // The same spare once more: whoever comes second makes a directory of his own.
        assert!(!gate(dir, "b", "spare.1").expect("free"));
        // The same attempt once more, with the spare that it has had, with a fresh one, and without any.
        for spare in ["spare.1", "spare.2", "spare.3"] {
            let error = gate(dir, "a", spare).expect_err("taken");
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{spare}");
        }
        assert!(dir.join("spare.2").exists(), "it was not used up");
        assert!(dir.join("a-1/mark").exists(), "it was not replaced");
    }
}
