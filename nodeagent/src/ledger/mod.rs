//! What this host knows of attempts, on disk: the truth about what runs here.
//!
//! ```text
//! DATA_DIR/agent.lock              held by the one agent that uses the directory
//! DATA_DIR/attempts/UID-N/record   the shim's record and lifetime lock
//! DATA_DIR/attempts/UID-N/log      stdout and stderr of the attempt
//! DATA_DIR/attempts/UID-N/hosts    the hosts of its gang, when it is of one
//! DATA_DIR/attempts/UID-N/work     the attempt's own working directory, when the job names none
//! DATA_DIR/attempts/UID-N.stop     a stop that was asked for
//! DATA_DIR/attempts/spare.LIFE.N   a directory that waits to become an attempt's (`spares`)
//! DATA_DIR/attempts/UID-N.thaw     says that a frozen attempt may go on
//! DATA_DIR/contact                 when the last acknowledged renewal was sent, mapped by agent and shims
//! DATA_DIR/contact.boot            the boot that it is of
//! DATA_DIR/fenced/UID-N            says that an attempt is frozen
//! DATA_DIR/lingering/UID-N         says that an attempt is at its end and something of it is left
//! DATA_DIR/ends.journal            ends, synced in groups before they are reported
//! DATA_DIR/trash/UID-N             attempts that are forgotten and not yet removed
//! DATA_DIR/kept/UID-N/work         what ended attempts left in their own working directories
//! ```
//!
//! An attempt's directory goes once its end is accepted by the server and its log is on the server's disk. One that is
//! as good as new waits for another attempt; any other goes to the trash, by one rename, and from there many at once.
//! (ext4 does not reuse an inode for minutes and looks through all that wait when it makes a new one, so removing each
//! at its time makes every start dearer.) A working directory that is not empty is kept under `kept/` for [`KEEP_WORK`].

pub(crate) mod adopt;
pub(crate) mod journal;
pub(crate) mod spares;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use crate::attempt::{AttemptId, Held};
use crate::runner::RunnerError;
use crate::shim::fence::{self, Contact};
use crate::shim::record::{ACK, HOSTS, LOG, RECORD, Record, SCRIPT, WORK};
use crate::shim::{self, checkpoint, stop, tree};
use spares::{PREFIX, Spare};

/// How long a working directory that is not empty outlives its attempt.
pub const KEEP_WORK: Duration = Duration::from_hours(24);
/// How long a held lock is asked for again: a killed agent has it until the kernel has taken it apart, and so has every
/// child of a process between its fork and its exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// A record is a few lines; more than this is not read.
const MOST_RECORD_BYTES: u64 = 1024 * 1024;

/// The data directory of one agent.
pub(crate) struct Ledger {
    attempts: PathBuf,
    kept: PathBuf,
    trash: PathBuf,
    lingering: PathBuf,
    fenced: PathBuf,
    contact: Contact,
    journal: PathBuf,
    /// The names of this agent's spares begin so.
    spares: String,
    next_spare: AtomicU64,
    /// Held as long as this agent lives.
    _lock: Flock<File>,
}

impl Ledger {
    /// Takes the directory, making what is missing. Blocks for up to [`LOCK_PATIENCE`] while it is in use.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, RunnerError> {
        let until = Instant::now() + LOCK_PATIENCE;
        Self::open_with(data_dir, || {
            std::thread::sleep(Duration::from_millis(20));
            Instant::now() < until
        })
    }

    /// The same, asking after each failure to get the lock whether to try again.
    fn open_with(data_dir: &Path, mut again: impl FnMut() -> bool) -> Result<Self, RunnerError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(data_dir)
            .map_err(RunnerError::host("make the data directory"))?;
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(data_dir.join("agent.lock"))
            .map_err(RunnerError::host("open the agent's lock"))?;
        let lock = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((busy, nix::errno::Errno::EWOULDBLOCK)) if again() => file = busy,
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    return Err(RunnerError::InUse(data_dir.display().to_string()));
                }
                Err((_, error)) => {
                    return Err(RunnerError::host("take the agent's lock")(error.into()));
                }
            }
        };
        let attempts = shim::make_attempts_dir(data_dir)
            .map_err(RunnerError::host("make the folder of attempts"))?;
        let kept = data_dir.join("kept");
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&kept)
            .map_err(RunnerError::host("make the folder of kept work"))?;
        let lingering = shim::lingering_dir(&attempts);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&lingering)
            .map_err(RunnerError::host("make the folder of lingering attempts"))?;
        let fenced = fence::make_fenced_dir(&attempts)
            .map_err(RunnerError::host("make the folder of frozen attempts"))?;
        let contact =
            Contact::open(&attempts).map_err(RunnerError::host("share the time of contact"))?;
        let trash = data_dir.join("trash");
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&trash)
            .map_err(RunnerError::host("make the folder of trash"))?;
        throw_away_spares(&attempts, &trash).map_err(RunnerError::host(
            "throw away the spare directories of another agent",
        ))?;
        Ok(Self {
            attempts,
            kept,
            trash,
            lingering,
            fenced,
            contact,
            journal: data_dir.join("ends.journal"),
            spares: format!("{PREFIX}{}.{}", std::process::id(), shim::now_micros()),
            next_spare: AtomicU64::new(0),
            _lock: lock,
        })
    }

    pub(crate) fn attempts_dir(&self) -> &Path {
        &self.attempts
    }

    pub(crate) fn journal_path(&self) -> &Path {
        &self.journal
    }

    fn dir(&self, id: &AttemptId) -> PathBuf {
        shim::attempt_dir(&self.attempts, id)
    }

    /// Every attempt that has a directory.
    pub(crate) fn scan(&self) -> io::Result<Vec<AttemptId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.attempts)? {
            let entry = entry?;
            if let Some(id) = entry.file_name().to_str().and_then(AttemptId::parse)
                && entry.file_type()?.is_dir()
            {
                found.push(id);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Attempts whose shims say that something of them lingers.
    pub(crate) fn lingering(&self) -> io::Result<Vec<AttemptId>> {
        noted(&self.lingering)
    }

    /// Attempts whose shims say that they are frozen.
    pub(crate) fn fenced(&self) -> io::Result<Vec<AttemptId>> {
        noted(&self.fenced)
    }

    /// Tells a shim to thaw its attempt: the words first, then the doorbell.
    pub(crate) fn thaw(&self, id: &AttemptId) -> io::Result<()> {
        File::create(fence::thaw_path(&self.attempts, id))?;
        self.ring(id)
    }

    /// Notes, for all shims, when a renewal was sent that was acknowledged.
    pub(crate) fn acknowledged(&self, sent_boot_micros: u64) {
        self.contact.acknowledged(sent_boot_micros);
    }

    /// Nothing of an attempt lingers any more, or it is known.
    pub(crate) fn clear_lingering(&self, id: &AttemptId) -> io::Result<()> {
        gone(fs::remove_file(self.lingering.join(id.to_string())))
    }

    /// The live processes of an attempt, at most a few.
    pub(crate) fn processes(&self, id: &AttemptId) -> Vec<i32> {
        let record = self.record(id).ok().flatten().unwrap_or_default();
        let shim = record.shim.filter(|(pid, start_ticks)| {
            tree::stat(*pid).is_some_and(|stat| stat.start_ticks == *start_ticks)
        });
        match shim {
            Some((pid, _)) => shim::processes(pid, record.cgroup.as_ref()),
            None => adopt::remains(id, &record),
        }
    }

    /// What an attempt's record says; none when there is no record.
    pub(crate) fn record(&self, id: &AttemptId) -> io::Result<Option<Record>> {
        let mut bytes = Vec::new();
        match File::open(self.dir(id).join(RECORD)) {
            Ok(file) => file.take(MOST_RECORD_BYTES).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Record::parse(&bytes).of(id)))
    }

    /// Takes the once-gate of an attempt so that nobody can start it any more; false when it was taken before.
    pub(crate) fn seal(&self, id: &AttemptId) -> io::Result<bool> {
        match DirBuilder::new().mode(0o711).create(self.dir(id)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the lifetime lock of an attempt whose shim is gone, making the record where there is none; none when a
    /// shim holds it.
    pub(crate) fn lifetime_lock(&self, id: &AttemptId) -> io::Result<Option<Flock<File>>> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.dir(id).join(RECORD))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Asks an attempt's shim to stop it: the words first, then the doorbell. A shim that has not come as far as its
    /// record finds the words when it has.
    pub(crate) fn stop(&self, id: &AttemptId, kill_at_micros: i64) -> io::Result<()> {
        stop::write(&self.attempts, id, kill_at_micros)?;
        self.ring(id)
    }

    fn ring(&self, id: &AttemptId) -> io::Result<()> {
        if let Some((pid, start_ticks)) = self.record(id)?.and_then(|record| record.shim) {
            let shim = shim::tree::ProcessId { pid, start_ticks };
            shim::tree::signal(shim, rustix::process::Signal::USR1);
        }
        Ok(())
    }

    pub(crate) fn output_len(&self, id: &AttemptId) -> u64 {
        fs::metadata(self.dir(id).join(LOG)).map_or(0, |data| data.len())
    }

    /// When these attempts said last that their checkpoints are complete, in microseconds since 1970, as far as they did.
    pub(crate) fn checkpoints(&self, ids: Vec<AttemptId>) -> Vec<(AttemptId, i64)> {
        let told = ids.into_iter().filter_map(|id| {
            let micros = checkpoint::acknowledged(&self.dir(&id))?;
            Some((id, micros))
        });
        told.collect()
    }

    pub(crate) fn output(&self, id: &AttemptId, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.dir(id).join(LOG))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(limit as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Lets go of an ended attempt: its directory becomes the spare that is returned, or goes to the trash.
    pub(crate) fn forget(&self, id: &AttemptId) -> io::Result<Option<Spare>> {
        gone(fs::remove_file(stop::path(&self.attempts, id)))?;
        let dir = self.dir(id);
        let Some(reusable) = spares::inspect(&dir) else {
            gone(fs::rename(dir, self.trash.join(id.to_string())))?;
            return Ok(None);
        };
        let number = self.next_spare.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}", self.spares);
        let spare = self.attempts.join(&name);
        fs::rename(dir, &spare)?;
        match reusable.make_ready(&spare) {
            Ok(owner) => Ok(Some(Spare { name, owner })),
            Err(error) => {
                fs::rename(spare, self.trash.join(name))?;
                Err(error)
            }
        }
    }

    /// Puts a spare that nobody needs into the trash.
    pub(crate) fn throw_away(&self, spare: &Spare) -> io::Result<()> {
        gone(fs::rename(
            self.attempts.join(&spare.name),
            self.trash.join(&spare.name),
        ))
    }

    /// Removes what is in the trash; a working directory with something in it is kept for a while.
    pub(crate) fn empty_trash(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.trash)? {
            let entry = entry?;
            let dir = entry.path();
            match fs::remove_dir(dir.join(WORK)) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    let kept = self.kept.join(entry.file_name());
                    DirBuilder::new()
                        .recursive(true)
                        .mode(0o711)
                        .create(&kept)?;
                    fs::rename(dir.join(WORK), kept.join(WORK))?;
                }
                other => gone(other)?,
            }
            for file in [ACK, HOSTS, LOG, RECORD, SCRIPT] {
                gone(fs::remove_file(dir.join(file)))?;
            }
            fs::remove_dir(dir)?;
        }
        Ok(())
    }

    /// Removes kept work that is older than [`KEEP_WORK`].
    pub(crate) fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(&self.kept)? {
            let entry = entry?;
            let age = now.duration_since(entry.metadata()?.modified()?);
            if age.is_ok_and(|age| age > KEEP_WORK) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Puts the spares of another agent's life into the trash: nobody knows how far they came, and a shim that agent asked for
/// may still take one.
fn throw_away_spares(attempts: &Path, trash: &Path) -> io::Result<()> {
    for entry in fs::read_dir(attempts)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            gone(fs::rename(attempts.join(&name), trash.join(&name)))?;
        }
    }
    Ok(())
}

/// The attempts that files of a folder name.
fn noted(folder: &Path) -> io::Result<Vec<AttemptId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.extend(entry?.file_name().to_str().and_then(AttemptId::parse));
    }
    found.sort();
    Ok(found)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// An attempt as its record tells it.
pub(crate) fn held(id: AttemptId, record: Record) -> Held {
    let ended = record.told();
    Held {
        id,
        namespace: record.namespace,
        name: record.name,
        grace_secs: record.grace_secs,
        charge: record.charge,
        fenced: record.fenced,
        ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(uid: &str) -> AttemptId {
        AttemptId {
            uid: uid.to_owned(),
            attempt: 1,
        }
    }

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ledger = Ledger::open(dir.path()).expect("a fresh directory");
        (dir, ledger)
    }

    #[test]
    fn a_second_agent_is_refused() {
        let (dir, _ledger) = ledger();
        let second = Ledger::open_with(dir.path(), || false).err();
        assert!(matches!(second, Some(RunnerError::InUse(_))), "{second:?}");
    }

    #[test]
    fn a_directory_that_is_held_for_a_moment_is_waited_for() {
        let (dir, first) = ledger();
        let mut first = Some(first);
        let second = Ledger::open_with(dir.path(), || {
            first = None;
            true
        });
        assert!(second.is_ok(), "{:?}", second.err());
    }

    #[test]
    fn a_gate_is_taken_once() {
        let (_dir, ledger) = ledger();
        assert!(ledger.seal(&id("a")).expect("writable"));
        assert!(!ledger.seal(&id("a")).expect("writable"));
        assert_eq!(ledger.scan().expect("readable"), [id("a")]);
    }

    #[test]
    fn work_with_something_in_it_outlives_its_attempt() {
        let (dir, ledger) = ledger();
        for (uid, file) in [("empty", None), ("full", Some("result"))] {
            ledger.seal(&id(uid)).expect("writable");
            let work = ledger.dir(&id(uid)).join(WORK);
            fs::create_dir(&work).expect("writable");
            if let Some(file) = file {
                fs::write(work.join(file), "42").expect("writable");
            }
            ledger.forget(&id(uid)).expect("removable");
        }
        assert!(ledger.scan().expect("readable").is_empty());
        ledger.empty_trash().expect("removable");
        let trash = fs::read_dir(dir.path().join("trash")).expect("readable");
        assert_eq!(trash.count(), 0);
        let kept = dir.path().join("kept");
        assert!(kept.join("full-1/work/result").exists());
        assert!(!kept.join("empty-1").exists());
        ledger.sweep(SystemTime::now()).expect("readable");
        assert!(kept.join("full-1").exists());
        let later = SystemTime::now() + KEEP_WORK * 2;
        ledger.sweep(later).expect("removable");
        assert!(!kept.join("full-1").exists());
    }

    #[test]
    fn forgetting_twice_is_the_same_as_once() {
        let (_dir, ledger) = ledger();
        ledger.seal(&id("a")).expect("writable");
        ledger.forget(&id("a")).expect("removable");
        ledger.forget(&id("a")).expect("nothing to do");
    }
}
