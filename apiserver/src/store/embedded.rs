//! The store on disk: sled, in one tree, with one batch a commit.
//!
//! | key | value |
//! |---|---|
//! | revision, 8 bytes | the record, up to 16 KiB of it |
//! | revision, 8 bytes, and part, 2 bytes | the following 16 KiB |
//! | eight zero bytes | the floors, as JSON |
//!
//! # Guarantees
//! - **A commit is on disk when it returns**: sled's own flush ends in `sync_file_range`, which leaves the
//!   file's size and the drive's cache behind, so the database file is synced through a handle of ours.
//! - **No blob files.** sled writes values above a quarter of a segment to files that it does not sync,
//!   and a full disk corrupts them. With 2 MiB segments and parts of 16 KiB even a full page stays below.
//! - **After an error sled is neither written nor dropped**: its destructor would write.
//!
//! # Assumptions
//! One committer calls [`Store::commit`]. The directory is ours alone; a lock file says so.

use std::{
    fs::{self, File},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use parking_lot::RwLock;
use rustix::fs::{FlockOperation, flock};

use super::{
    Batch, FIRST_REVISION, Floors, Record, Removal, Revision, Room, Store, StoreError,
    record::{CHUNK_BYTES, DecodeError, chunks, declared_len, decode, encode},
    space::{FREE_SPACE_FLOOR, FreeBytes, Space},
};

const SEGMENT_BYTES: usize = 2 << 20;
const CACHE_BYTES: u64 = 32 << 20;
const FLOORS_KEY: [u8; 8] = [0; 8];
const LOCK_FILE: &str = "lock";
const DATABASE_FILE: &str = "db";
const CONFIG_FILE: &str = "conf";
const DATABASE_DIR: &str = "log";

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
        }
    }
}

/// A store in one directory.
pub struct EmbeddedStore {
    dir: PathBuf,
    files: RwLock<Option<Files>>,
    last: AtomicU64,
    failed: AtomicBool,
    space: Space,
}

struct Files {
    db: sled::Db,
    database: File,
    _lock: File,
}

impl EmbeddedStore {
    /// Opens the store, or makes a new one. Blocks for as long as another process holds the lock, up
    /// to [`EmbeddedOptions::lock_patience`].
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NotWritable`], [`StoreError::Full`],
    /// [`StoreError::Damaged`]: each says what to do. Nothing is changed then.
    pub fn open(options: EmbeddedOptions) -> Result<Self, StoreError> {
        let EmbeddedOptions {
            dir,
            free_space_floor,
            lock_patience,
            free_bytes,
            on_busy,
        } = options;
        let patience = Patience {
            dir: dir.clone(),
            until: Instant::now() + lock_patience,
            on_busy,
        };
        let not_writable = |source| StoreError::NotWritable {
            path: dir.clone(),
            source,
        };
        fs::create_dir_all(&dir).map_err(not_writable)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(LOCK_FILE))
            .map_err(not_writable)?;
        acquire(&lock, &dir, &patience)?;
        let space = Space::new(&dir, free_space_floor, free_bytes);
        space.make_room_to_open()?;
        let files = open_files(&dir, lock, &patience)?;
        let last = last_revision(&files.db, &dir)?;
        space.restore_reserve();
        Ok(Self {
            files: RwLock::new(Some(files)),
            last: AtomicU64::new(last),
            failed: AtomicBool::new(false),
            space,
            dir,
        })
    }

    fn io(
        &self,
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        StoreError::Io {
            action,
            path: self.dir.clone(),
            source: source.into(),
        }
    }

    fn with_files<T>(
        &self,
        act: impl FnOnce(&Files) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &*self.files.read() {
            Some(files) => act(files),
            None => Err(StoreError::Failed {
                path: self.dir.clone(),
            }),
        }
    }

    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut writes = sled::Batch::default();
        let mut buffer = Vec::new();
        for record in &batch.records {
            buffer.clear();
            encode(record, &mut buffer);
            for (part, value) in buffer.chunks(CHUNK_BYTES).enumerate() {
                writes.insert(part_key(record.revision, part), value);
            }
        }
        for Removal { revision, bytes } in &batch.removals {
            for part in 0..chunks(*bytes) {
                writes.remove(part_key(*revision, part));
            }
        }
        if let Some(floors) = &batch.floors {
            let json = serde_json::to_vec(floors).map_err(|error| self.io("write to", error))?;
            writes.insert(&FLOORS_KEY, json);
        }
        self.with_files(|files| {
            files
                .db
                .apply_batch(writes)
                .map_err(|error| self.io("write to", error))?;
            files.db.flush().map_err(|error| self.io("flush", error))?;
            files
                .database
                .sync_data()
                .map_err(|error| self.io("sync", error))
        })
    }

    fn damaged(&self, revision: Revision, error: &DecodeError) -> StoreError {
        let detail = format!("revision {revision}: {error}");
        StoreError::Damaged {
            path: self.dir.clone(),
            detail,
        }
    }

    /// Puts a record together from its first value and the ones that follow it.
    fn assemble(
        &self,
        revision: Revision,
        head: &[u8],
        mut next: impl FnMut(usize) -> Result<Option<sled::IVec>, StoreError>,
    ) -> Result<Record, StoreError> {
        let total = declared_len(head).map_err(|error| self.damaged(revision, &error))?;
        let mut bytes = BytesMut::with_capacity(total);
        bytes.extend_from_slice(head);
        for part in 1..chunks(total) {
            match next(part)? {
                Some(value) => bytes.extend_from_slice(&value),
                None => break,
            }
        }
        decode(revision, &bytes.freeze()).map_err(|error| self.damaged(revision, &error))
    }
}

impl Store for EmbeddedStore {
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Failed {
                path: self.dir.clone(),
            });
        }
        let last = self.last.load(Ordering::Acquire);
        if batch.after != last {
            return Err(StoreError::OutOfOrder {
                after: batch.after,
                last,
            });
        }
        // Until it has succeeded it counts as failed, so that not even a panic lets sled write again.
        self.failed.store(true, Ordering::Release);
        self.write(batch)?;
        self.last
            .store(last + batch.records.len() as u64, Ordering::Release);
        self.failed.store(false, Ordering::Release);
        Ok(())
    }

    fn read(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        self.with_files(|files| {
            let get = |part| {
                let value = files.db.get(part_key(revision, part));
                value.map_err(|error| self.io("read from", error))
            };
            let head = if revision < FIRST_REVISION {
                None
            } else {
                get(0)?
            };
            head.map(|head| self.assemble(revision, &head, get))
                .transpose()
        })
    }

    fn history(
        &self,
        after: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.with_files(|files| {
            let start = after.saturating_add(1).max(FIRST_REVISION);
            let mut values = files.db.range(part_key(start, 0)..);
            let mut following = || {
                let value = values.next().transpose();
                value.map_err(|error| self.io("read from", error))
            };
            while let Some((key, head)) = following()? {
                let revision = key_revision(&key).unwrap_or_default();
                let next = |_| Ok(following()?.map(|(_, value)| value));
                if visit(self.assemble(revision, &head, next)?).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn floors(&self) -> Result<Floors, StoreError> {
        self.with_files(|files| {
            let value = files
                .db
                .get(FLOORS_KEY)
                .map_err(|error| self.io("read from", error))?;
            let Some(value) = value else {
                return Ok(Floors::new());
            };
            serde_json::from_slice(&value).map_err(|error| StoreError::Damaged {
                path: self.dir.clone(),
                detail: format!("the floors: {error}"),
            })
        })
    }

    fn last_revision(&self) -> Revision {
        self.last.load(Ordering::Acquire)
    }

    fn room(&self) -> Room {
        self.space.room()
    }

    fn bytes_on_disk(&self) -> u64 {
        let path = self.dir.join(DATABASE_DIR).join(DATABASE_FILE);
        fs::metadata(path).map_or(0, |metadata| metadata.len())
    }

    fn blocks(&self) -> bool {
        true
    }

    fn close(&self) {
        let Some(files) = self.files.write().take() else {
            return;
        };
        if self.failed.load(Ordering::Acquire) {
            std::mem::forget(files);
            return;
        }
        let Files {
            db,
            database,
            _lock,
        } = files;
        drop(db);
        if let Err(error) = database.sync_all() {
            tracing::warn!(%error, "the database could not be synced when it was closed");
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

fn part_key(revision: Revision, part: usize) -> Vec<u8> {
    let mut key = revision.to_be_bytes().to_vec();
    if part > 0 {
        key.extend_from_slice(&u16::try_from(part).unwrap_or(u16::MAX).to_be_bytes());
    }
    key
}

fn key_revision(key: &[u8]) -> Option<Revision> {
    key.first_chunk()
        .map(|bytes| Revision::from_be_bytes(*bytes))
}

/// How long a held lock is asked for again. A killed process holds its locks until the kernel has taken
/// it apart, and so does every child of this one between its fork and its exec, sled's own lock included.
struct Patience {
    dir: PathBuf,
    until: Instant,
    on_busy: Box<dyn Fn() + Send + Sync>,
}

impl Patience {
    fn pause(&self) -> Result<(), StoreError> {
        (self.on_busy)();
        if Instant::now() >= self.until {
            return Err(StoreError::InUse {
                path: self.dir.clone(),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    }
}

fn acquire(lock: &File, dir: &Path, patience: &Patience) -> Result<(), StoreError> {
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => patience.pause()?,
            Err(error) => {
                let (path, source) = (dir.to_owned(), io::Error::from(error));
                return Err(StoreError::Io {
                    action: "lock",
                    path,
                    source: source.into(),
                });
            }
        }
    }
}

/// Did sled give up because its database file is locked? It says so in words only.
fn is_locked(error: &sled::Error) -> bool {
    let sled::Error::Io(source) = error else {
        return false;
    };
    source.kind() == io::ErrorKind::Other
        && source.to_string().starts_with("could not acquire lock")
}

fn open_files(dir: &Path, lock: File, patience: &Patience) -> Result<Files, StoreError> {
    let path = dir.join(DATABASE_DIR);
    remove_unfinished(&path);
    let config = sled::Config::new()
        .path(&path)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None);
    let db = loop {
        match config.open() {
            Ok(db) => break db,
            Err(error) if is_locked(&error) => patience.pause()?,
            Err(error) => return Err(not_opened(error, dir)),
        }
    };
    let synced = File::open(path.join(DATABASE_FILE)).and_then(|database| {
        // The names of fresh files must survive a power cut too.
        File::open(path.join(CONFIG_FILE))?.sync_all()?;
        File::open(&path)?.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(database)
    });
    let database = synced.map_err(|source| StoreError::Io {
        action: "sync",
        path: dir.to_owned(),
        source: source.into(),
    })?;
    Ok(Files {
        db,
        database,
        _lock: lock,
    })
}

fn not_opened(error: sled::Error, dir: &Path) -> StoreError {
    let path = dir.to_owned();
    match error {
        sled::Error::Io(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            StoreError::NotWritable { path, source }
        }
        sled::Error::Corruption { .. } | sled::Error::Unsupported(_) => StoreError::Damaged {
            path,
            detail: error.to_string(),
        },
        error => StoreError::Io {
            action: "open",
            path,
            source: error.into(),
        },
    }
}

/// Removes what a kill during an earlier start left half written, and what sled would stumble over:
/// it takes an unfinished snapshot for the newest one, and never rewrites its configuration.
fn remove_unfinished(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            let _ = fs::remove_file(entry.path());
        }
    }
    if !path.join(DATABASE_FILE).exists() {
        let _ = fs::remove_file(path.join(CONFIG_FILE));
    }
}

fn last_revision(db: &sled::Db, dir: &Path) -> Result<Revision, StoreError> {
    let last = db.last().map_err(|error| StoreError::Io {
        action: "read from",
        path: dir.to_owned(),
        source: error.into(),
    })?;
    let revision = last
        .and_then(|(key, _)| key_revision(&key))
        .unwrap_or_default();
    Ok(revision.max(FIRST_REVISION - 1))
}
