//! The database behind the journal: sled, in one tree.
//!
//! | key | value |
//! |---|---|
//! | revision, 8 bytes | the record, up to 16 KiB of it |
//! | revision, 8 bytes, and part, 2 bytes | the following 16 KiB |
//! | eight zero bytes | the floors, as JSON |
//! | eight zero bytes and a one | the sequence of the last batch of the journal that is here |
//!
//! # Guarantees
//! - **What was applied is on disk once [`Database::sync`] returns**: sled's own flush ends in
//!   `sync_file_range`, which leaves the file's size and the drive's cache behind, so the database file is
//!   synced through a handle of ours.
//! - **Batches that are applied together appear together**, with the sequence of the last one.
//! - **No blob files.** sled writes values above a quarter of a segment to files that it does not sync,
//!   and a full disk corrupts them. With 2 MiB segments and parts of 16 KiB even a full page stays below.
//!
//! - **What sled has replaced is freed.** It copies a page for every change of it and gives the old ones to
//!   `crossbeam_epoch`, which frees none before the end of the call, and then some, now and then: one call for
//!   thousands of changes left 4 KiB in memory for each of them. So it is told to after each call.
//!
//! # Assumptions
//! Few hundred kilobytes are applied at a time, because that is held twice until the end of the call.
//!
//! The directory is ours alone. After an error nothing more is applied, and the database is not dropped:
//! its destructor would write.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use bytes::BytesMut;

use super::{
    Batch, FIRST_REVISION, Floors, Record, Removal, Revision, StoreError,
    lock::Patience,
    record::{CHUNK_BYTES, DecodeError, chunks, declared_len, decode, encode},
};

const SEGMENT_BYTES: usize = 2 << 20;
const CACHE_BYTES: u64 = 32 << 20;
/// Copies of pages that may come from one write of a batch. Measured: one or two, and one more for each
/// page that is split or rewritten.
const COPIES_PER_WRITE: usize = 4;
/// What one flush of an epoch's guard frees at most: eight bags of 64.
const FREED_AT_A_TIME: usize = 512;
const FLOORS_KEY: [u8; 8] = [0; 8];
const APPLIED_KEY: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];
const DATABASE_FILE: &str = "db";
const CONFIG_FILE: &str = "conf";
const DATABASE_DIR: &str = "log";

/// Records that replace or hide those of the database.
pub(super) type Overlay = BTreeMap<Revision, Option<Record>>;

/// The open database of one store.
pub(super) struct Database {
    dir: PathBuf,
    db: sled::Db,
    file: File,
}

impl Database {
    /// Opens the database of the store at `dir`, or makes a new one.
    pub(super) fn open(dir: &Path, patience: &Patience) -> Result<Self, StoreError> {
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
        let synced = File::open(path.join(DATABASE_FILE)).and_then(|file| {
            // The names of fresh files must survive a power cut too.
            File::open(path.join(CONFIG_FILE))?.sync_all()?;
            File::open(&path)?.sync_all()?;
            File::open(dir)?.sync_all()?;
            Ok(file)
        });
        let dir = dir.to_owned();
        start_threads(&db).map_err(|source| StoreError::Io {
            action: "open",
            path: dir.clone(),
            source: source.into(),
        })?;
        match synced {
            Ok(file) => Ok(Self { dir, db, file }),
            Err(source) => Err(StoreError::Io {
                action: "sync",
                path: dir,
                source: source.into(),
            }),
        }
    }

    fn io(
        &self,
        action: &'static str,
    ) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> StoreError {
        let path = self.dir.clone();
        move |source| StoreError::Io {
            action,
            path,
            source,
        }
    }

    fn damaged(&self, detail: String) -> StoreError {
        StoreError::Damaged {
            path: self.dir.clone(),
            detail,
        }
    }

    /// Applies batches in order, all or none; `sequence` is that of the last one.
    pub(super) fn apply<'a>(
        &self,
        batches: impl Iterator<Item = &'a Batch>,
        sequence: u64,
    ) -> Result<(), StoreError> {
        let mut writes = sled::Batch::default();
        let mut count = 1;
        let mut buffer = Vec::new();
        for batch in batches {
            for record in &batch.records {
                buffer.clear();
                encode(record, &mut buffer);
                for (part, value) in buffer.chunks(CHUNK_BYTES).enumerate() {
                    writes.insert(part_key(record.revision, part), value);
                    count += 1;
                }
            }
            for Removal { revision, bytes } in &batch.removals {
                for part in 0..chunks(*bytes) {
                    writes.remove(part_key(*revision, part));
                    count += 1;
                }
            }
            if let Some(floors) = &batch.floors {
                let json = serde_json::to_vec(floors)
                    .map_err(|error| self.io("write to")(error.into()))?;
                writes.insert(&FLOORS_KEY, json);
            }
        }
        writes.insert(&APPLIED_KEY, &sequence.to_be_bytes());
        let applied = self.db.apply_batch(writes);
        applied.map_err(|error| self.io("write to")(error.into()))?;
        free_replaced(count);
        Ok(())
    }

    /// Makes everything that was applied durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let flushed = self.db.flush();
        flushed.map_err(|error| self.io("flush")(error.into()))?;
        free_replaced(1);
        let synced = self.file.sync_data();
        synced.map_err(|error| self.io("sync")(error.into()))
    }

    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<sled::IVec>, StoreError> {
        let value = self.db.get(key);
        value.map_err(|error| self.io("read from")(error.into()))
    }

    /// The sequence of the last batch that was applied; 0 where there was none.
    pub(super) fn applied(&self) -> Result<u64, StoreError> {
        let Some(value) = self.get(APPLIED_KEY)? else {
            return Ok(0);
        };
        let bytes = value.first_chunk().copied();
        bytes
            .map(u64::from_be_bytes)
            .ok_or_else(|| self.damaged("the sequence of the journal is malformed".to_owned()))
    }

    /// The newest revision; `FIRST_REVISION - 1` for a fresh database.
    pub(super) fn last_revision(&self) -> Result<Revision, StoreError> {
        let last = self.db.last();
        let last = last.map_err(|error| self.io("read from")(error.into()))?;
        let revision = last.and_then(|(key, _)| key_revision(&key));
        Ok(revision.unwrap_or_default().max(FIRST_REVISION - 1))
    }

    /// The record of a revision.
    pub(super) fn read(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        if revision < FIRST_REVISION {
            return Ok(None);
        }
        let head = self.get(part_key(revision, 0))?;
        let next = |part| self.get(part_key(revision, part));
        head.map(|head| self.assemble(revision, &head, next))
            .transpose()
    }

    /// Visits every record with a revision above `after` that is not in `overlay`, in order, until told
    /// to stop.
    pub(super) fn history(
        &self,
        after: Revision,
        overlay: &Overlay,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let start = after.saturating_add(1).max(FIRST_REVISION);
        let mut values = self.db.range(part_key(start, 0)..);
        let mut following = || {
            let value = values.next().transpose();
            value.map_err(|error| self.io("read from")(error.into()))
        };
        while let Some((key, head)) = following()? {
            let revision = key_revision(&key).unwrap_or_default();
            if overlay.contains_key(&revision) {
                continue;
            }
            let next = |_| Ok(following()?.map(|(_, value)| value));
            if visit(self.assemble(revision, &head, next)?).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The floors as last applied.
    pub(super) fn floors(&self) -> Result<Floors, StoreError> {
        let Some(value) = self.get(FLOORS_KEY)? else {
            return Ok(Floors::new());
        };
        serde_json::from_slice(&value).map_err(|error| self.damaged(format!("the floors: {error}")))
    }

    /// Puts a record together from its first value and the ones that follow it.
    fn assemble(
        &self,
        revision: Revision,
        head: &[u8],
        mut next: impl FnMut(usize) -> Result<Option<sled::IVec>, StoreError>,
    ) -> Result<Record, StoreError> {
        let malformed = |error: DecodeError| self.damaged(format!("revision {revision}: {error}"));
        let total = declared_len(head).map_err(malformed)?;
        let mut bytes = BytesMut::with_capacity(total);
        bytes.extend_from_slice(head);
        for part in 1..chunks(total) {
            match next(part)? {
                Some(value) => bytes.extend_from_slice(&value),
                None => break,
            }
        }
        decode(revision, &bytes.freeze()).map_err(malformed)
    }

    /// Lets go of the files.
    pub(super) fn close(self) {
        let Self { db, file, .. } = self;
        drop(db);
        if let Err(error) = file.sync_all() {
            tracing::warn!(%error, "the database could not be synced when it was closed");
        }
    }
}

/// Has sled start the threads that write for it. Otherwise the first write does, and they spin until all
/// have started: a second without an answer was seen on two busy processors.
fn start_threads(db: &sled::Db) -> sled::Result<()> {
    futures::executor::block_on(db.flush_async()).map(drop)
}

/// The bytes that the database of the store at `dir` takes.
pub(super) fn bytes_on_disk(dir: &Path) -> u64 {
    let path = dir.join(DATABASE_DIR).join(DATABASE_FILE);
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn part_key(revision: Revision, part: usize) -> Vec<u8> {
    let mut key = revision.to_be_bytes().to_vec();
    if part > 0 {
        key.extend_from_slice(&u16::try_from(part).unwrap_or(u16::MAX).to_be_bytes());
    }
    key
}

/// Frees what sled replaced for `writes` writes on this thread, as far as nobody reads it.
fn free_replaced(writes: usize) {
    // Two turns of the epoch pass before anything is free.
    for _ in 0..3 + (writes * COPIES_PER_WRITE).div_ceil(FREED_AT_A_TIME) {
        crossbeam_epoch::pin().flush();
    }
}

fn key_revision(key: &[u8]) -> Option<Revision> {
    key.first_chunk()
        .map(|bytes| Revision::from_be_bytes(*bytes))
}

/// Did sled give up because its database file is locked? It says so in words only.
fn is_locked(error: &sled::Error) -> bool {
    let sled::Error::Io(source) = error else {
        return false;
    };
    source.kind() == io::ErrorKind::Other
        && source.to_string().starts_with("could not acquire lock")
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
