//! The fence of an attempt that may run elsewhere when its node is lost (rules.md section 4).
//!
//! The control plane runs such a job again when its node was silent for the fence's time and a minute more. So the shim
//! itself stops it before, whatever became of the agent: the agent writes when the last acknowledged renewal was sent
//! into a file that all shims have mapped, and each shim reads it there.
//!
//! ```text
//! Open -- no contact for too long --> Freezing -- all is frozen --> Frozen -- the agent says so --> Open
//!                                        |  not within 30 s
//!                    no cgroup, `Kill` --+--> Ending: TERM, then KILL
//! ```
//!
//! What is frozen is thawed by the agent's word alone, which read that the attempt is still the current one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cgroup::Cgroup;
use super::sys::{self, SharedWord};
use super::tree;
use crate::attempt::{AttemptId, Fence};

/// How long freezing may take before the attempt is ended instead.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks whether all is frozen.
const FREEZE_PAUSE: Duration = Duration::from_millis(50);
/// KILL comes this long after the fence at the latest: before the minute is over after which the job runs elsewhere.
const LONGEST_TO_KILL: Duration = Duration::from_secs(50);

/// Where the time of the last contact lies.
fn contact_path(attempts_dir: &Path) -> PathBuf {
    attempts_dir.with_file_name("contact")
}

/// The folder in which shims note that their attempts are frozen.
pub(crate) fn fenced_dir(attempts_dir: &Path) -> PathBuf {
    attempts_dir.with_file_name("fenced")
}

/// Where it lies that an attempt may go on.
pub(crate) fn thaw_path(attempts_dir: &Path, id: &AttemptId) -> PathBuf {
    attempts_dir.join(format!("{id}.thaw"))
}

/// When the last acknowledged renewal was sent, in microseconds since boot, shared with all shims.
pub(crate) struct Contact {
    word: SharedWord,
}

impl Contact {
    /// Opens, or makes, the agent's end. What is there of another boot is replaced by now: nothing was placed here in
    /// this boot before.
    pub(crate) fn open(attempts_dir: &Path) -> io::Result<Self> {
        let path = contact_path(attempts_dir);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot_path = attempts_dir.with_file_name("contact.boot");
        let fresh = fs::read_to_string(&boot_path).ok().as_deref() != Some(boot.as_str());
        if fresh || fs::metadata(&path).map_or(0, |data| data.len()) < 8 {
            // A whole new file: who has the old one mapped keeps to it. It is filled, so that writing to the mapping
            // needs no room on the disk.
            let new = attempts_dir.with_file_name("contact.new");
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&[0; 4096])?;
            drop(file);
            let now = u64::try_from(sys::boot_time().as_micros()).unwrap_or(u64::MAX);
            let made = Self::map(&new)?;
            made.word.word().store(now, Ordering::SeqCst);
            fs::rename(&new, &path)?;
            fs::write(&boot_path, boot)?;
            return Ok(made);
        }
        Self::map(&path)
    }

    fn map(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let word = SharedWord::map(&file)?;
        Ok(Self { word })
    }

    /// Notes a renewal; an older one than the last changes nothing.
    pub(crate) fn acknowledged(&self, sent_micros: u64) {
        self.word.word().fetch_max(sent_micros, Ordering::SeqCst);
    }

    fn last(&self) -> Duration {
        Duration::from_micros(self.word.word().load(Ordering::SeqCst))
    }
}

/// Makes the folder of notes.
pub(crate) fn make_fenced_dir(attempts_dir: &Path) -> io::Result<PathBuf> {
    let folder = fenced_dir(attempts_dir);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)?;
    Ok(folder)
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until this time since boot if there is one.
    Wait(Option<Duration>),
    /// Note that it is frozen.
    Frozen,
    /// TERM now, and KILL after this time at the latest.
    End(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Freezing { since: Duration },
    Frozen,
    Ending,
}

/// The fence of one attempt.
pub(super) struct Watch {
    contact: Contact,
    after: Duration,
    kill: bool,
    state: State,
    timer: OwnedFd,
    note: PathBuf,
    thaw: PathBuf,
}

impl Watch {
    pub(super) fn new(attempts_dir: &Path, id: &AttemptId, fence: Fence) -> io::Result<Self> {
        Ok(Self {
            contact: Contact::map(&contact_path(attempts_dir))?,
            after: Duration::from_secs(u64::from(fence.secs)),
            kill: fence.kill,
            state: State::Open,
            timer: sys::boot_timer()?,
            note: fenced_dir(attempts_dir).join(id.to_string()),
            thaw: thaw_path(attempts_dir, id),
        })
    }

    /// Readable when the next step is due, after a suspension too.
    pub(super) fn timer(&self) -> &OwnedFd {
        &self.timer
    }

    /// Is it frozen, or about to be?
    pub(super) fn holds(&self) -> bool {
        matches!(self.state, State::Freezing { .. } | State::Frozen)
    }

    /// Looks at the contact and the cgroup, and goes one step on.
    pub(super) fn step(&mut self, now: Duration, cgroup: Option<&Cgroup>) -> Step {
        let due = self.contact.last().saturating_add(self.after);
        let step = match (self.state, cgroup) {
            (State::Open, _) if now < due => Step::Wait(Some(due)),
            (State::Open, Some(cgroup)) if !self.kill => {
                cgroup.freeze();
                self.state = State::Freezing { since: now };
                Step::Wait(Some(now.saturating_add(FREEZE_PAUSE)))
            }
            (State::Open, _) => self.end(now, due),
            (State::Freezing { .. }, Some(cgroup)) if is_held(cgroup) => {
                self.state = State::Frozen;
                let _ = File::create(&self.note);
                Step::Frozen
            }
            (State::Freezing { since }, Some(cgroup)) => {
                if now >= since.saturating_add(FREEZE_LIMIT) {
                    cgroup.thaw();
                    self.end(now, due)
                } else {
                    cgroup.freeze();
                    Step::Wait(Some(now.saturating_add(FREEZE_PAUSE)))
                }
            }
            (State::Freezing { .. } | State::Frozen | State::Ending, _) => Step::Wait(None),
        };
        let next = match step {
            Step::Wait(Some(at)) => at,
            Step::Wait(None) | Step::Frozen | Step::End(_) => Duration::ZERO,
        };
        sys::set_boot_timer(&self.timer, next);
        step
    }

    fn end(&mut self, now: Duration, due: Duration) -> Step {
        self.state = State::Ending;
        let last = due.saturating_add(LONGEST_TO_KILL);
        Step::End(last.saturating_sub(now))
    }

    /// Thaws if the agent says so; true when that was done.
    pub(super) fn heed_thaw(&mut self, cgroup: Option<&Cgroup>) -> bool {
        if !self.holds() || !self.thaw.exists() {
            return false;
        }
        if let Some(cgroup) = cgroup {
            cgroup.thaw();
        }
        self.state = State::Open;
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.thaw);
        true
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.thaw);
    }
}

/// Is everything of the attempt frozen? What runs below this shim and outside of the cgroup would not be.
fn is_held(cgroup: &Cgroup) -> bool {
    if !cgroup.is_frozen() {
        return false;
    }
    let own = std::process::id().cast_signed();
    let members = cgroup.processes();
    tree::descendants(own)
        .iter()
        .all(|process| members.contains(&process.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> AttemptId {
        AttemptId {
            uid: "u".to_owned(),
            attempt: 1,
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn watch(kill: bool) -> (tempfile::TempDir, Contact, Watch) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let attempts = dir.path().join("attempts");
        fs::create_dir(&attempts).expect("writable");
        make_fenced_dir(&attempts).expect("writable");
        let contact = Contact::open(&attempts).expect("writable");
        contact.word.word().store(1_000_000_000, Ordering::SeqCst);
        let fence = Fence { secs: 60, kill };
        let watch = Watch::new(&attempts, &id(), fence).expect("it is there");
        (dir, contact, watch)
    }

    #[test]
    fn the_time_counts_from_the_last_renewal_that_was_acknowledged() {
        let (_dir, contact, mut watch) = watch(true);
        assert_eq!(watch.step(secs(1059), None), Step::Wait(Some(secs(1060))));
        contact.acknowledged(1_010_000_000);
        assert_eq!(watch.step(secs(1060), None), Step::Wait(Some(secs(1070))));
        contact.acknowledged(1_000_000_001);
        assert_eq!(
            watch.step(secs(1060), None),
            Step::Wait(Some(secs(1070))),
            "an answer that came late takes nothing back"
        );
        assert_eq!(watch.step(secs(1070), None), Step::End(secs(50)));
        assert_eq!(watch.step(secs(2000), None), Step::Wait(None));
    }

    #[test]
    fn what_was_asleep_at_the_time_is_killed_the_sooner() {
        let (_dir, _contact, mut watch) = watch(true);
        assert_eq!(watch.step(secs(1100), None), Step::End(secs(10)));
        let (_dir, _contact, mut watch) = self::watch(false);
        assert_eq!(watch.step(secs(9000), None), Step::End(secs(0)));
    }

    #[test]
    fn the_word_outlives_the_agent_and_another_agent_goes_on_with_it() {
        let (dir, contact, mut watch) = watch(true);
        drop(contact);
        assert_eq!(watch.step(secs(1059), None), Step::Wait(Some(secs(1060))));
        let next = Contact::open(&dir.path().join("attempts")).expect("it is there");
        assert_eq!(next.last(), secs(1000));
        next.acknowledged(1_020_000_000);
        assert_eq!(watch.step(secs(1060), None), Step::Wait(Some(secs(1080))));
    }

    #[test]
    fn the_word_of_another_boot_counts_for_nothing() {
        let (dir, contact, _watch) = watch(true);
        contact.acknowledged(u64::MAX);
        fs::write(dir.path().join("contact.boot"), "another").expect("writable");
        let next = Contact::open(&dir.path().join("attempts")).expect("writable");
        assert!(next.last() <= sys::boot_time());
    }
}
