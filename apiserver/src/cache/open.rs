//! Starting a cache: the log is read once, then the committer begins.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::{
    Cache, CacheOptions, Index, QUEUE, Shared,
    committer::{Committer, Request},
    hub::Hub,
    state::State,
    stats::Counters,
};
use crate::store::{
    Change, CommitError, EventType, FIRST_REVISION, IndexEntry, ObjectKey, Operation, Record,
    Revision, Store, StoreError, Stored,
};

/// Records from which on a start extracts index entries in parallel. Chosen: a few milliseconds of work.
const PARALLEL_FROM: usize = 1000;

/// What was found in the store, before anything was extracted from the objects: what the index needs
/// to know, such as selectable fields, may itself be an object.
#[derive(Debug)]
pub struct Recovered {
    records: Vec<Record>,
}

impl Recovered {
    /// The current objects of a resource, by key.
    pub fn objects(&self, resource: &str) -> Vec<Bytes> {
        let mut objects = BTreeMap::new();
        for record in self
            .records
            .iter()
            .filter(|record| &*record.key.resource == resource)
        {
            match record.operation {
                Operation::Put => objects.insert(&record.key, record.body.clone()),
                Operation::Delete => objects.remove(&record.key),
            };
        }
        objects.into_values().collect()
    }

    /// Is this a fresh store?
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl Cache {
    /// Reads the log of `store` and starts the committer. `index` is called once, with what was
    /// found, to make the function that extracts index entries.
    ///
    /// Blocks while it reads; must be called within a tokio runtime.
    pub fn open(
        store: Arc<dyn Store>,
        options: CacheOptions,
        index: impl FnOnce(&Recovered) -> Index,
    ) -> Result<Self, StoreError> {
        let floors = store.floors()?;
        let mut recovered = Recovered {
            records: Vec::new(),
        };
        store.history(0, &mut |record| {
            recovered.records.push(record);
            ControlFlow::Continue(())
        })?;
        let index = index(&recovered);
        let mut state = State::new();
        for (resource, floor) in &floors {
            state.resource_mut(resource).floor = *floor;
        }
        let entries = extract(&recovered.records, &index, store.blocks());
        for (record, entry) in recovered.records.into_iter().zip(entries) {
            let floor = floors.get(&record.key.resource).copied();
            let floor = floor.unwrap_or(FIRST_REVISION - 1);
            replay(&mut state, record, floor, Arc::new(entry))?;
        }
        let revision = store.last_revision();
        state.revision = revision;
        let shared = Arc::new(Shared {
            store,
            state: RwLock::new(state),
            hub: Mutex::new(Hub::default()),
            published: revision.into(),
            pinned: Mutex::default(),
            counters: Counters::new(),
            failed: tokio::sync::watch::Sender::new(None),
            closed: false.into(),
            options,
        });
        start(shared)
    }
}

/// The index entries of all records: the dearest part of a start, so on all cores if threads are allowed.
fn extract(records: &[Record], index: &Index, threads: bool) -> Vec<IndexEntry> {
    let one = |record: &Record| index(&record.key.resource, &record.body);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if !threads || cores == 1 || records.len() < PARALLEL_FROM {
        return records.iter().map(one).collect();
    }
    std::thread::scope(|scope| {
        let parts = records.chunks(records.len().div_ceil(cores));
        let parts: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(one).collect::<Vec<_>>()))
            .collect();
        let joined = parts.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn start(shared: Arc<Shared>) -> Result<Cache, StoreError> {
    let (queue, requests) = mpsc::channel(QUEUE);
    tokio::spawn(trim_when_idle(queue.downgrade(), shared.options.trim_every));
    let committer = Committer::new(Arc::clone(&shared), requests);
    if shared.store.blocks() {
        let spawned = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run_blocking());
        spawned.map_err(|source| StoreError::Thread { source })?;
    } else {
        tokio::spawn(committer.run());
    }
    Ok(Cache { shared, queue })
}

async fn trim_when_idle(queue: mpsc::WeakSender<Request>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(queue) = queue.upgrade() else { return };
        if queue.send(Request::Trim).await.is_err() {
            return;
        }
    }
}

fn replay(
    state: &mut State,
    record: Record,
    floor: Revision,
    entry: Arc<IndexEntry>,
) -> Result<(), StoreError> {
    let Record {
        revision,
        operation,
        key,
        previous,
        time_ms,
        rv_offset,
        body,
    } = record;
    let damaged = |detail: String| StoreError::Inconsistent { revision, detail };
    let key: ObjectKey = state.interned(key);
    let before = state.get(&key).cloned();
    let deleted = operation == Operation::Delete;
    if revision <= floor {
        if deleted {
            state.restore_deleted(&key, revision);
            return Ok(());
        }
    } else if before.as_ref().map(|before| before.revision) != previous {
        return Err(damaged(format!(
            "`{key}` does not follow its revision {previous:?}"
        )));
    }
    let kind = match (deleted, previous) {
        (true, _) => EventType::Deleted,
        (false, None) => EventType::Added,
        (false, Some(_)) => EventType::Modified,
    };
    let stored = Stored::build(key, revision, kind, &body, rv_offset, entry)
        .map_err(|error: CommitError| damaged(error.to_string()))?;
    let stored = Arc::new(stored);
    if revision <= floor {
        state.restore(stored);
    } else {
        state.apply(Arc::new(Change::new(stored, before, deleted, time_ms)));
    }
    Ok(())
}
