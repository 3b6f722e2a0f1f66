//! The store on disk: a journal that makes a batch durable, and a database that takes it over later.
//!
//! ```text
//! commit -> journal (one durable write) -> acknowledged
//!                 \-> pending, in memory -> takeover: database, in larger batches -> journal reclaimed
//! ```
//!
//! # Guarantees
//! - **A commit is in the journal, on disk, when it returns.** Nothing else is waited for.
//! - **Reads see every commit**: what the database does not have yet is read from memory.
//! - **The database gets every batch once, in order**, in parts that each carry the sequence of their last
//!   batch; a start hands over what the journal has beyond that before anything is served.
//! - **What is pending is bounded**: when the database is too far behind, commits wait for it.
//! - **After an error neither journal nor database is written, and the database is not dropped.**
//!
//! # Assumptions
//! One committer calls [`Store::commit`]. The directory is ours alone; a lock file says so.

use std::{
    fs::{self, File},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};

use super::{
    Batch, FIRST_REVISION, Floors, Record, Revision, Room, Store, StoreError,
    embedded::{self, Database},
    journal::{self, Disk, Folder, Journal, JournalError, Sizes},
    lock::{self, Patience},
    pending::{self, Fate, Pending, Waiting},
    space::{FREE_SPACE_FLOOR, FreeBytes, Space},
};

const JOURNAL_DIR: &str = "journal";

/// Settings of the store on disk.
pub struct EmbeddedOptions {
    /// Its directory; made when missing.
    pub dir: PathBuf,
    /// Free space below which writes are refused, in bytes.
    pub free_space_floor: u64,
    /// How long to wait for a killed predecessor to let go of the lock.
    pub lock_patience: Duration,
    pub(super) free_bytes: Option<FreeBytes>,
    /// Called each time a lock is found held, before it is waited for; a seam for tests.
    pub(super) on_busy: Box<dyn Fn() + Send + Sync>,
    pub(super) tuning: Tuning,
}

/// How batches get from the journal to the database.
pub(super) struct Tuning {
    /// The layout of the journal.
    pub(super) sizes: Sizes,
    /// Pending bytes that are taken over at once, and at most about so many together.
    pub(super) takeover_bytes: usize,
    /// What the database applies at a time, in bytes, see [`embedded`].
    pub(super) part_bytes: usize,
    /// How long a batch is pending at most, with fewer bytes.
    pub(super) takeover_after: Duration,
    /// Pending bytes at which commits wait.
    pub(super) most_pending: usize,
    /// Other files for the journal; a seam for tests.
    pub(super) disk: Option<Box<dyn Disk>>,
    /// Told of each step of a takeover; a seam for tests.
    pub(super) on_takeover: Box<dyn Fn(Takeover) + Send + Sync>,
}

/// A step of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takeover {
    /// Batches are about to be applied.
    Begins,
    /// A part of them is applied, and not on disk.
    Applied,
    /// They are on disk, and still in the journal.
    Synced,
}

impl Default for Tuning {
    /// Chosen: half a second of one busy writer at a time, so that the pages of the database are written
    /// once for thousands of changes; eight times that before anybody waits.
    fn default() -> Self {
        Self {
            sizes: Sizes::default(),
            takeover_bytes: 4 << 20,
            part_bytes: 256 << 10,
            takeover_after: Duration::from_millis(500),
            most_pending: 32 << 20,
            disk: None,
            on_takeover: Box::new(|_| {}),
        }
    }
}

impl EmbeddedOptions {
    /// The usual settings: a floor of 64 MiB, and 5 seconds of patience.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            free_space_floor: FREE_SPACE_FLOOR,
            lock_patience: Duration::from_secs(5),
            free_bytes: None,
            on_busy: Box::new(|| {}),
            tuning: Tuning::default(),
        }
    }
}

/// A store in one directory.
pub struct EmbeddedStore {
    inner: Arc<Inner>,
    takeover: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    dir: PathBuf,
    space: Space,
    tuning: Tuning,
    journal: Journal,
    /// Written only while batches are applied, so that a reader finds each change here or pending.
    database: RwLock<Option<Open>>,
    last: AtomicU64,
    /// Bytes committed since the store was opened.
    written: AtomicU64,
    /// A commit has begun and not succeeded.
    failed: AtomicBool,
    pending: Mutex<Pending>,
    /// There is something to take over or to prepare.
    work: Condvar,
    /// Something was taken over.
    done: Condvar,
    /// Held while files other than the active segment are written.
    step: Mutex<()>,
}

struct Open {
    database: Database,
    _lock: File,
}

enum Work {
    Prepare,
    TakeOver(Vec<Waiting>),
    End,
}

impl EmbeddedStore {
    /// Opens the store, or makes a new one. Blocks for as long as another process holds the lock, up
    /// to [`EmbeddedOptions::lock_patience`].
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NotWritable`], [`StoreError::Full`],
    /// [`StoreError::Damaged`]: each says what to do. Nothing that was acknowledged is changed then.
    pub fn open(options: EmbeddedOptions) -> Result<Self, StoreError> {
        let EmbeddedOptions {
            dir,
            free_space_floor,
            lock_patience,
            free_bytes,
            on_busy,
            mut tuning,
        } = options;
        let not_writable = |source| StoreError::NotWritable {
            path: dir.clone(),
            source,
        };
        let patience = Patience::new(&dir, lock_patience, on_busy);
        fs::create_dir_all(&dir).map_err(not_writable)?;
        let lock = lock::acquire(&dir, &patience)?;
        let disk = match tuning.disk.take() {
            Some(disk) => disk,
            None => Box::new(Folder::open(dir.join(JOURNAL_DIR)).map_err(not_writable)?),
        };
        let space = Space::new(&dir, free_space_floor, free_bytes);
        space.make_room_to_open(&|| journal::release_spares(&*disk))?;
        let database = Database::open(&dir, &patience)?;
        let journal_error = |error| journal_error(&dir, error);
        let found = journal::read(&*disk, database.applied()?).map_err(journal_error)?;
        let sequence = hand_over(&database, &found.frames, &tuning, &dir)?;
        let last = database.last_revision()?;
        let started = Journal::start(disk, tuning.sizes, found, sequence);
        let journal = started.map_err(journal_error)?;
        space.restore_reserve();
        let inner = Arc::new(Inner {
            space,
            tuning,
            journal,
            database: RwLock::new(Some(Open {
                database,
                _lock: lock,
            })),
            last: AtomicU64::new(last),
            written: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            pending: Mutex::new(Pending::begin()),
            work: Condvar::new(),
            done: Condvar::new(),
            step: Mutex::new(()),
            dir,
        });
        let worker = Arc::clone(&inner);
        let takeover = std::thread::Builder::new()
            .name("takeover".to_owned())
            .spawn(move || worker.run())
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self {
            inner,
            takeover: Mutex::new(Some(takeover)),
        })
    }

    /// Runs `act` while no file but the active segment of the journal is being written.
    #[cfg(test)]
    pub(super) fn while_still<T>(&self, act: impl FnOnce() -> T) -> T {
        let _still = self.inner.step.lock();
        act()
    }
}

fn journal_error(dir: &Path, error: JournalError) -> StoreError {
    let path = dir.to_owned();
    match error {
        JournalError::Io { action, source } => StoreError::Io {
            action,
            path,
            source: source.into(),
        },
        JournalError::Damaged(detail) => StoreError::Damaged { path, detail },
    }
}

/// Applies what only the journal has; the sequence of the last batch that the database then has.
fn hand_over(
    database: &Database,
    frames: &[journal::Frame],
    tuning: &Tuning,
    dir: &Path,
) -> Result<u64, StoreError> {
    let mut sequence = database.applied()?;
    let mut last = database.last_revision()?;
    for frame in frames {
        if frame.batch.after != last {
            return Err(StoreError::Damaged {
                path: dir.to_owned(),
                detail: format!(
                    "batch {} of the journal follows revision {}, but the database is at {last}",
                    frame.sequence, frame.batch.after
                ),
            });
        }
        last += frame.batch.records.len() as u64;
    }
    let bytes_of = |frame: &journal::Frame| pending::size(&frame.batch);
    for frames in pending::parts(frames, tuning.takeover_bytes, bytes_of) {
        (tuning.on_takeover)(Takeover::Begins);
        for part in pending::parts(frames, tuning.part_bytes, bytes_of) {
            let batches = part.iter().map(|frame| &frame.batch);
            sequence = part.last().map_or(sequence, |last| last.sequence);
            database.apply(batches, sequence)?;
            (tuning.on_takeover)(Takeover::Applied);
        }
        database.sync()?;
        (tuning.on_takeover)(Takeover::Synced);
    }
    if !frames.is_empty() {
        tracing::info!(
            batches = frames.len(),
            "the journal was handed over to the database"
        );
    }
    Ok(sequence)
}

impl Inner {
    fn failure(&self) -> StoreError {
        StoreError::Failed {
            path: self.dir.clone(),
        }
    }

    fn with_database<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &*self.database.read() {
            Some(open) => act(&open.database),
            None => Err(self.failure()),
        }
    }

    /// Waits until little enough is pending; the error of a takeover that failed.
    fn wait_for_takeover(&self) -> Result<(), StoreError> {
        let mut pending = self.pending.lock();
        while pending.bytes() >= self.tuning.most_pending && !pending.broken {
            self.done.wait(&mut pending);
        }
        match (pending.broken, pending.error.take()) {
            (false, _) => Ok(()),
            (true, Some(error)) => Err(error),
            (true, None) => Err(self.failure()),
        }
    }

    fn push(&self, sequence: u64, batch: &Batch, prepare: bool) {
        let waiting = Waiting::new(sequence, batch);
        self.written
            .fetch_add(waiting.bytes() as u64, Ordering::Relaxed);
        let mut pending = self.pending.lock();
        let (before, first) = (pending.bytes(), pending.is_empty());
        pending.push(waiting);
        let enough = self.tuning.takeover_bytes;
        let full = before < enough && pending.bytes() >= enough;
        let begins = prepare && !pending.prepare;
        pending.prepare |= prepare;
        let urgent = pending.urgent;
        drop(pending);
        if first || full || begins || urgent {
            self.work.notify_one();
        }
    }

    fn run(&self) {
        // Whatever ends this thread early, a panic too, is told to who would wait for it.
        let ended = Ended(self);
        loop {
            let work = self.next_work();
            let _step = self.step.lock();
            let done = match work {
                Work::Prepare => {
                    self.prepare();
                    Ok(())
                }
                Work::TakeOver(batches) => self.take_over(&batches),
                Work::End => {
                    std::mem::forget(ended);
                    return;
                }
            };
            if let Err(error) = done {
                self.pending.lock().error = Some(error);
                return;
            }
        }
    }

    fn next_work(&self) -> Work {
        let mut pending = self.pending.lock();
        loop {
            if pending.broken || (pending.closing && pending.is_empty()) {
                return Work::End;
            }
            if std::mem::take(&mut pending.prepare) {
                return Work::Prepare;
            }
            let Some(since) = pending.since() else {
                self.work.wait(&mut pending);
                continue;
            };
            let due = since + self.tuning.takeover_after;
            let enough = self.tuning.takeover_bytes;
            let hurry = pending.closing || pending.urgent || pending.bytes() >= enough;
            if hurry || Instant::now() >= due {
                return Work::TakeOver(pending.oldest(2 * enough));
            }
            self.work.wait_until(&mut pending, due);
        }
    }

    fn prepare(&self) {
        if self.space.room(0, u64::MAX) != Room::Enough {
            return;
        }
        if let Err(error) = self.journal.prepare() {
            // What is not prepared is made when it is needed, and fails then if it must.
            tracing::debug!(%error, "the journal could not be prepared ahead");
        }
    }

    fn take_over(&self, batches: &[Waiting]) -> Result<(), StoreError> {
        let Some(sequence) = batches.last().map(|last| last.sequence) else {
            return Ok(());
        };
        (self.tuning.on_takeover)(Takeover::Begins);
        for part in pending::parts(batches, self.tuning.part_bytes, Waiting::bytes) {
            let Some(last) = part.last() else { continue };
            if let Some(open) = &*self.database.write() {
                let batches = part.iter().map(|waiting| &*waiting.batch);
                open.database.apply(batches, last.sequence)?;
            }
            (self.tuning.on_takeover)(Takeover::Applied);
        }
        self.with_database(Database::sync)?;
        (self.tuning.on_takeover)(Takeover::Synced);
        self.pending.lock().forget(batches);
        self.done.notify_all();
        let reclaimed = self.journal.reclaim(sequence);
        reclaimed.map_err(|error| journal_error(&self.dir, error))
    }
}

/// Tells a thread that waits for the takeover that there is none any more.
struct Ended<'a>(&'a Inner);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.pending.lock().broken = true;
        self.0.done.notify_all();
    }
}

impl Store for EmbeddedStore {
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let inner = &*self.inner;
        if inner.failed.load(Ordering::Acquire) {
            return Err(inner.failure());
        }
        let last = inner.last.load(Ordering::Acquire);
        if batch.after != last {
            return Err(StoreError::OutOfOrder {
                after: batch.after,
                last,
            });
        }
        // Until it has succeeded it counts as failed, so that not even a panic lets it be written again.
        inner.failed.store(true, Ordering::Release);
        inner.wait_for_takeover()?;
        let appended = inner.journal.append(batch);
        let (sequence, prepare) = appended.map_err(|error| journal_error(&inner.dir, error))?;
        inner.push(sequence, batch, prepare);
        inner
            .last
            .store(last + batch.records.len() as u64, Ordering::Release);
        inner.failed.store(false, Ordering::Release);
        Ok(())
    }

    fn read(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        let database = self.inner.database.read();
        let Some(open) = &*database else {
            return Err(self.inner.failure());
        };
        let pending = self.inner.pending.lock().find(revision);
        match pending {
            Fate::Unchanged => open.database.read(revision),
            Fate::Written(record) => Ok(Some(record)),
            Fate::Removed => Ok(None),
        }
    }

    fn history(
        &self,
        after: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let database = self.inner.database.read();
        let Some(open) = &*database else {
            return Err(self.inner.failure());
        };
        let overlay = self.inner.pending.lock().overlay();
        if open.database.history(after, &overlay, visit)?.is_break() {
            return Ok(());
        }
        // Pending records are newer than all that the database has without them.
        let pending = overlay.range(after.saturating_add(1)..);
        for record in pending.filter_map(|(_, record)| record.clone()) {
            if visit(record).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn floors(&self) -> Result<Floors, StoreError> {
        self.inner.with_database(|database| {
            let pending = self.inner.pending.lock().floors();
            pending.map_or_else(|| database.floors(), Ok)
        })
    }

    fn last_revision(&self) -> Revision {
        self.inner
            .last
            .load(Ordering::Acquire)
            .max(FIRST_REVISION - 1)
    }

    fn room(&self) -> Room {
        let mut pending = self.inner.pending.lock();
        let written = self.inner.written.load(Ordering::Relaxed);
        let room = self.inner.space.room(pending.bytes() as u64, written);
        pending.urgent = room != Room::Enough;
        room
    }

    fn bytes_on_disk(&self) -> u64 {
        embedded::bytes_on_disk(&self.inner.dir) + self.inner.journal.bytes_on_disk()
    }

    fn is_ready(&self) -> bool {
        self.inner.pending.lock().bytes() < self.inner.tuning.most_pending
    }

    fn blocks(&self) -> bool {
        true
    }

    fn close(&self) {
        let Some(takeover) = self.takeover.lock().take() else {
            return;
        };
        let inner = &self.inner;
        let failed = inner.failed.load(Ordering::Acquire);
        {
            let mut pending = inner.pending.lock();
            pending.closing = true;
            pending.broken |= failed;
        }
        inner.work.notify_one();
        // A panic was logged where it happened, and counts as a failure below.
        let _ = takeover.join();
        let failed = failed || inner.pending.lock().broken;
        if failed {
            inner.failed.store(true, Ordering::Release);
        }
        if let Some(open) = inner.database.write().take() {
            if failed {
                std::mem::forget(open);
            } else {
                let Open { database, _lock } = open;
                database.close();
            }
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}
