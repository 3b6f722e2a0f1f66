//! One stream: its sealed chunks, its open end, and who waits for more of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path as BlobPath;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use tokio::sync::{Mutex, watch};

use super::open_end::{OpenEnd, OpenFile};
use super::{BlobError, LogStore, Owner, READ_BYTES, SEAL_BYTES, StreamId};

/// Where a stream stands, for its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Bytes that the server has.
    pub size: u64,
    /// Bytes that are known to be on disk.
    pub synced: u64,
    /// Whether the stream has ended.
    pub is_final: bool,
}

/// Where a stream stands, for its readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that can be read.
    pub size: u64,
    /// Whether no more will come: the stream ended, or was removed.
    pub ended: bool,
}

/// One stream of one attempt.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    open_folder: Option<PathBuf>,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct State {
    loaded: bool,
    exists: bool,
    /// Start and length of each sealed chunk, without gaps from 0.
    chunks: Vec<(u64, u64)>,
    open: OpenEnd,
    synced: u64,
    is_final: bool,
    /// Whether a sync of the open end is due or under way.
    is_dirty: bool,
    /// Whether the open file's name is known to be durable.
    is_name_synced: bool,
    closed: bool,
}

impl State {
    fn base(&self) -> u64 {
        self.chunks
            .last()
            .map_or(0, |(start, length)| start + length)
    }

    fn size(&self) -> u64 {
        self.base() + self.open.len()
    }
}

impl Stream {
    pub(super) fn new(id: StreamId, open_folder: Option<&Path>) -> Self {
        let state = State {
            loaded: false,
            exists: false,
            chunks: Vec::new(),
            open: OpenEnd::Empty,
            synced: 0,
            is_final: false,
            is_dirty: false,
            is_name_synced: false,
            closed: false,
        };
        Self {
            id,
            open_folder: open_folder.map(Path::to_owned),
            state: Mutex::new(state),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    /// Which stream this is.
    pub fn id(&self) -> &StreamId {
        &self.id
    }

    /// Tells readers how far the stream has come.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Reads from disk what a former process left, once.
    async fn load(&self, store: &LogStore, state: &mut State) -> Result<(), BlobError> {
        if state.loaded {
            return Ok(());
        }
        let listed: Vec<_> = store
            .blobs
            .list(Some(&self.id.prefix()))
            .try_collect()
            .await?;
        let mut chunks = Vec::new();
        for meta in listed {
            match meta.location.filename() {
                Some("final") => state.is_final = true,
                Some(name) => {
                    let start = name
                        .parse()
                        .map_err(|_| BlobError::Damaged(format!("a chunk is called {name:?}")))?;
                    chunks.push((start, meta.size));
                }
                None => {}
            }
        }
        chunks.sort_unstable();
        let mut end = 0;
        for (start, length) in &chunks {
            if *start != end {
                return Err(BlobError::Damaged(format!(
                    "bytes {end} to {start} are missing"
                )));
            }
            end += length;
        }
        state.chunks = chunks;
        if let Some(folder) = &self.open_folder {
            state.open = OpenEnd::recover(folder, &self.id, end).await?;
        }
        state.synced = end;
        state.exists =
            state.is_final || !state.chunks.is_empty() || !matches!(state.open, OpenEnd::Empty);
        state.loaded = true;
        self.publish(state);
        Ok(())
    }

    fn publish(&self, state: &State) {
        self.progress.send_replace(Progress {
            size: state.size(),
            ended: state.is_final || state.closed,
        });
    }

    pub(super) async fn exists(&self, store: &LogStore) -> Result<bool, BlobError> {
        let mut state = self.state.lock().await;
        self.load(store, &mut state).await?;
        Ok(state.exists)
    }

    pub(super) async fn position(&self, store: &LogStore) -> Result<Position, BlobError> {
        let mut state = self.state.lock().await;
        self.load(store, &mut state).await?;
        Ok(Position {
            size: state.size(),
            synced: state.synced,
            is_final: state.is_final,
        })
    }

    /// Appends; says whether the caller has to have the stream synced.
    pub(super) async fn append(
        &self,
        store: &LogStore,
        owner: &Owner,
        offset: u64,
        body: Bytes,
        last: bool,
    ) -> Result<bool, BlobError> {
        let mut state = self.state.lock().await;
        self.load(store, &mut state).await?;
        if state.closed || state.is_final {
            return Ok(false);
        }
        if !state.exists {
            let path = self.id.owner_prefix().join("owner");
            let bytes =
                serde_json::to_vec(owner).map_err(|error| BlobError::Damaged(error.to_string()))?;
            store.blobs.put(&path, bytes.into()).await?;
        }
        if !state.exists || matches!(state.open, OpenEnd::Empty) {
            let start = state.base();
            state
                .open
                .create(self.open_folder.as_deref(), &self.id, start)
                .await?;
            state.is_name_synced = self.open_folder.is_none();
            state.exists = true;
        }
        let size = state.size();
        if offset > size {
            return Ok(false);
        }
        let known = usize::try_from(size - offset).unwrap_or(usize::MAX);
        if known < body.len() {
            state.open.append(body.slice(known..)).await?;
        }
        if self.open_folder.is_none() {
            state.synced = state.size();
        }
        if state.open.len() >= SEAL_BYTES || last {
            self.seal(store, &mut state).await?;
        }
        if last {
            let path = self.id.prefix().join("final");
            store
                .blobs
                .put(&path, state.size().to_string().into())
                .await?;
            state.is_final = true;
        }
        self.publish(&state);
        let due = state.synced < state.size() && !state.is_dirty;
        state.is_dirty |= due;
        Ok(due)
    }

    fn chunk_path(&self, start: u64) -> BlobPath {
        self.id.prefix().join(format!("{start:020}"))
    }

    /// Moves the open end into the object store, which syncs it, and then drops it.
    async fn seal(&self, store: &LogStore, state: &mut State) -> Result<(), BlobError> {
        let (start, length) = (state.base(), state.open.len());
        if length > 0 {
            let _permit = store
                .sealing
                .acquire()
                .await
                .map_err(|_| BlobError::Cancelled)?;
            let bytes = state.open.read(0, length).await?;
            store
                .blobs
                .put(&self.chunk_path(start), bytes.into())
                .await?;
            state.chunks.push((start, length));
        }
        state.synced = start + length;
        state.is_name_synced = false;
        state.open.discard().await
    }

    /// The bytes at an offset, at most `limit` of them; empty when there are none yet.
    pub(super) async fn read(
        &self,
        store: &LogStore,
        offset: u64,
        limit: u64,
    ) -> Result<Bytes, BlobError> {
        let mut state = self.state.lock().await;
        self.load(store, &mut state).await?;
        let (base, limit) = (state.base(), limit.min(READ_BYTES));
        if offset >= base {
            return state.open.read(offset - base, limit).await;
        }
        // The last chunk that starts at or before the offset holds it, because there are no gaps.
        let index = state
            .chunks
            .partition_point(|(start, _)| *start <= offset)
            .saturating_sub(1);
        let (start, length) = state.chunks[index];
        // Sealed chunks never change, so the lock is not needed any more.
        drop(state);
        let from = offset - start;
        let to = length.min(from.saturating_add(limit));
        Ok(store
            .blobs
            .get_range(&self.chunk_path(start), from..to)
            .await?)
    }

    /// What there is to sync: the open file, how far it reaches, and whether its name needs syncing too.
    pub(super) async fn begin_sync(&self) -> Option<(OpenFile, u64, bool)> {
        let mut state = self.state.lock().await;
        state.is_dirty = false;
        let reach = state.size();
        match &state.open {
            OpenEnd::File(file) if reach > state.synced && !state.closed => {
                Some((file.clone(), reach, !state.is_name_synced))
            }
            _ => None,
        }
    }

    /// Takes note of a sync. After one that failed nothing beyond the last good one can be trusted, so it is cut
    /// off and the writer, seeing a smaller size, sends it again.
    pub(super) async fn end_sync(
        &self,
        synced: &OpenFile,
        reach: u64,
        succeeded: bool,
    ) -> Result<(), BlobError> {
        let mut state = self.state.lock().await;
        let same =
            matches!(&state.open, OpenEnd::File(file) if Arc::ptr_eq(&file.file, &synced.file));
        if !same {
            return Ok(());
        }
        if succeeded {
            state.synced = state.synced.max(reach);
            state.is_name_synced = true;
            return Ok(());
        }
        let keep = state.synced.saturating_sub(state.base());
        state.open.truncate(keep).await?;
        self.publish(&state);
        Ok(())
    }

    /// Ends the stream for everybody, because its object is gone.
    pub(super) async fn close(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        self.publish(&state);
    }
}
