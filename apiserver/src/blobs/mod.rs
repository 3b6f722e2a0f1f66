//! Byte streams that belong to objects: logs by object uid and attempt.
//!
//! A stream is a row of sealed chunks in an object store and one open end. Writers append by offset: bytes that are
//! already there are skipped, bytes that would leave a gap are refused by telling the size, so a writer that repeats
//! or loses answers always converges on the same bytes.
//!
//! ```text
//!   streams/<resource>/<uid>/<stream>/<attempt>/<start>     sealed chunks (object store, fsync)
//!   streams/<resource>/<uid>/<stream>/<attempt>/final       the size at which the stream ended
//!   streams/<resource>/<uid>/owner                          namespace and name, for the sweeper
//!   open/<resource>/<uid>/<stream>.<attempt>.<start>        the open end, a local append file
//! ```
//!
//! # Guarantees
//! - `size` is what the files have: after a crash of the process nothing that was answered is missing.
//! - `synced` never covers a byte before the fsync that made it durable returned.
//! - A sealed chunk is durable before the open file that it came from is removed.
//!
//! # Limits
//! An append is at most [`MAX_APPEND_BYTES`]; an open end is sealed at [`SEAL_BYTES`]; a reader is sent pieces of at most
//! [`READ_BYTES`] and only when it asks, so a slow one costs one piece of memory.

mod open_end;
mod stream;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as BlobPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

pub use stream::{Position, Progress, Stream};

/// The largest append, in bytes.
pub const MAX_APPEND_BYTES: usize = 1 << 20;
/// An open end that has grown to this size is sealed into the object store.
pub const SEAL_BYTES: u64 = 8 << 20;
/// The largest piece that is read at a time.
pub const READ_BYTES: u64 = 256 << 10;
/// Streams kept in memory; beyond it, idle ones are forgotten and read again from disk when asked for.
const MAX_LOADED: usize = 1024;
/// Chunks that are sealed at the same time: each costs its size in memory.
const MAX_SEALING: usize = 2;

/// Why a stream could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The object store failed.
    #[error("the blob store failed")]
    Store(#[from] object_store::Error),
    /// An open end could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A name that cannot be part of a path.
    #[error("{0:?} cannot name a stream")]
    Name(String),
    /// What is stored is not what was written.
    #[error("the stored stream is damaged: {0}")]
    Damaged(String),
    /// A background task was cancelled, as happens when the server ends.
    #[error("the operation was cut short")]
    Cancelled,
}

/// Which stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// `plural.group` of the object.
    pub resource: Arc<str>,
    /// uid of the object.
    pub uid: Arc<str>,
    /// Name of the stream, such as `log`.
    pub stream: Arc<str>,
    /// Attempt, from 1 as the object counts.
    pub attempt: u32,
}

/// Whose stream it is, so that it can be removed when the object is gone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// All streams of one server.
pub struct LogStore {
    blobs: Arc<dyn ObjectStore>,
    /// Where open ends lie; `None` keeps them in memory.
    open_folder: Option<PathBuf>,
    loaded: Mutex<BTreeMap<StreamId, Arc<Stream>>>,
    dirty: Mutex<Vec<Arc<Stream>>>,
    wake_syncer: Notify,
    sealing: Semaphore,
}

fn check_name(name: &str) -> Result<(), BlobError> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if plain && !name.is_empty() && name.len() <= 253 && !name.starts_with('.') {
        Ok(())
    } else {
        Err(BlobError::Name(name.to_owned()))
    }
}

impl StreamId {
    fn check(&self) -> Result<(), BlobError> {
        [&self.resource, &self.uid, &self.stream]
            .into_iter()
            .try_for_each(|name| check_name(name))
    }

    fn owner_prefix(&self) -> BlobPath {
        BlobPath::from_iter(["streams", &self.resource, &self.uid])
    }

    fn prefix(&self) -> BlobPath {
        BlobPath::from_iter([
            "streams",
            &self.resource,
            &self.uid,
            &self.stream,
            &self.attempt.to_string(),
        ])
    }
}

impl LogStore {
    /// Streams in a folder: sealed chunks under `blobs/`, open ends under `open/`.
    pub fn open(folder: &Path) -> Result<Self, BlobError> {
        let (blobs, open) = (folder.join("blobs"), folder.join("open"));
        for path in [&blobs, &open] {
            fs::create_dir_all(path).map_err(|source| BlobError::File {
                path: path.clone(),
                source,
            })?;
        }
        let blobs = LocalFileSystem::new_with_prefix(&blobs)?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        Ok(Self::new(Arc::new(blobs), Some(open)))
    }

    /// Streams in memory, for simulation: no files and no threads, and everything counts as synced at once.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(InMemory::new()), None)
    }

    fn new(blobs: Arc<dyn ObjectStore>, open_folder: Option<PathBuf>) -> Self {
        Self {
            blobs,
            open_folder,
            loaded: Mutex::default(),
            dirty: Mutex::default(),
            wake_syncer: Notify::new(),
            sealing: Semaphore::new(MAX_SEALING),
        }
    }

    fn stream(&self, id: &StreamId) -> Arc<Stream> {
        let mut loaded = self.loaded.lock();
        if let Some(stream) = loaded.get(id) {
            return Arc::clone(stream);
        }
        if loaded.len() >= MAX_LOADED && self.open_folder.is_some() {
            // Only the map holds these: nobody reads, writes or has yet to sync them.
            loaded.retain(|_, stream| Arc::strong_count(stream) > 1);
        }
        let stream = Arc::new(Stream::new(id.clone(), self.open_folder.as_deref()));
        loaded.insert(id.clone(), Arc::clone(&stream));
        stream
    }

    /// Appends bytes at an offset; `last` ends the stream behind them. The answer says where the stream stands.
    pub async fn append(
        &self,
        id: &StreamId,
        owner: &Owner,
        offset: u64,
        body: Bytes,
        last: bool,
    ) -> Result<Position, BlobError> {
        id.check()?;
        let stream = self.stream(id);
        if stream.append(self, owner, offset, body, last).await? {
            self.dirty.lock().push(Arc::clone(&stream));
            self.wake_syncer.notify_one();
        }
        stream.position(self).await
    }

    /// A stream for reading, or `None` when nothing was ever appended to it.
    pub async fn find(&self, id: &StreamId) -> Result<Option<Arc<Stream>>, BlobError> {
        id.check()?;
        let stream = self.stream(id);
        Ok(stream.exists(self).await?.then_some(stream))
    }

    /// The next piece of a stream from an offset; empty when there is none yet.
    pub async fn read(&self, stream: &Stream, offset: u64, limit: u64) -> Result<Bytes, BlobError> {
        stream.read(self, offset, limit.min(READ_BYTES)).await
    }

    /// The latest attempt of an object that has a stream of this name.
    pub async fn latest_attempt(
        &self,
        resource: &str,
        uid: &str,
        stream: &str,
    ) -> Result<Option<u32>, BlobError> {
        [resource, uid, stream]
            .into_iter()
            .try_for_each(check_name)?;
        let prefix = BlobPath::from_iter(["streams", resource, uid, stream]);
        let listed = self.blobs.list_with_delimiter(Some(&prefix)).await?;
        let mut attempts: BTreeSet<u32> = listed
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename()?.parse().ok())
            .collect();
        if let Some(folder) = &self.open_folder {
            let names = open_end::list(folder.join(resource).join(uid)).await?;
            attempts.extend(
                names
                    .into_iter()
                    .filter(|name| name.stream == stream)
                    .map(|name| name.attempt),
            );
        } else {
            let candidates: Vec<Arc<Stream>> = self.loaded.lock().values().cloned().collect();
            for candidate in candidates {
                let id = candidate.id();
                let ours = *id.resource == *resource && *id.uid == *uid && *id.stream == *stream;
                if ours && candidate.exists(self).await? {
                    attempts.insert(id.attempt);
                }
            }
        }
        Ok(attempts.last().copied())
    }

    /// Removes everything that belongs to an object; readers that follow come to an end.
    pub async fn remove(&self, resource: &str, uid: &str) -> Result<(), BlobError> {
        [resource, uid].into_iter().try_for_each(check_name)?;
        let gone: Vec<Arc<Stream>> = {
            let mut loaded = self.loaded.lock();
            let ids: Vec<StreamId> = loaded
                .keys()
                .filter(|id| *id.resource == *resource && *id.uid == *uid)
                .cloned()
                .collect();
            ids.iter().filter_map(|id| loaded.remove(id)).collect()
        };
        for stream in gone {
            stream.close().await;
        }
        if let Some(folder) = &self.open_folder {
            open_end::remove_folder(folder.join(resource).join(uid)).await?;
        }
        let prefix = BlobPath::from_iter(["streams", resource, uid]);
        let paths: Vec<BlobPath> = self
            .blobs
            .list(Some(&prefix))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await?;
        for path in paths {
            match self.blobs.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
