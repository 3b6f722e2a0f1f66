//! Starting a cache: the log is read once, then the committer begins.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::{
    Cache, CacheOptions, Index, QUEUE, Shared,
    committer::{Committer, Request},
    company::Company,
    hub::Hub,
    state::State,
    stats::Counters,
};
use crate::store::{
    Change, EventType, FIRST_REVISION, Operation, Record, Revision, Store, StoreError, Stored,
};

/// Records from which on a start extracts index entries in parallel. Chosen: a few milliseconds of work.
const PARALLEL_FROM: usize = 1000;

/// One record, as the object that it will be: the log is read straight into the buffers that stay.
#[derive(Debug)]
struct Found {
    stored: Stored,
    previous: Option<Revision>,
    deleted: bool,
    time_ms: i64,
}

/// What was found in the store, before anything was extracted from the objects: what the index needs
/// to know, such as selectable fields, may itself be an object.
#[derive(Debug)]
pub struct Recovered {
    found: Vec<Found>,
}

impl Recovered {
    /// The current objects of a resource, by key.
    pub fn objects(&self, resource: &str) -> Vec<Bytes> {
        let mut objects = BTreeMap::new();
        let of_resource = |found: &&Found| &*found.stored.key.resource == resource;
        for found in self.found.iter().filter(of_resource) {
            let key = &found.stored.key;
            if found.deleted {
                objects.remove(key);
            } else {
                objects.insert(key, found.stored.bytes.clone());
            }
        }
        objects.into_values().collect()
    }

    /// Is this a fresh store?
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
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
        let mut recovered = Recovered { found: Vec::new() };
        let mut unreadable = None;
        store.history(0, &mut |record| match found(record) {
            Ok(found) => {
                recovered.found.push(found);
                ControlFlow::Continue(())
            }
            Err(error) => {
                unreadable = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = unreadable {
            return Err(error);
        }
        let index = index(&recovered);
        let mut state = State::new();
        for (resource, floor) in &floors {
            state.resource_mut(resource).floor = *floor;
        }
        extract(&mut recovered.found, &index, store.blocks());
        for found in recovered.found {
            let floor = floors.get(&found.stored.key.resource).copied();
            replay(&mut state, found, floor.unwrap_or(FIRST_REVISION - 1))?;
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
            turn: Mutex::default(),
            company: Company::default(),
            options,
        });
        start(shared)
    }
}

/// Extracts all index entries: the dearest part of a start, so on all cores if threads are allowed.
fn extract(found: &mut [Found], index: &Index, threads: bool) {
    let one = |found: &mut Found| {
        let entry = index(&found.stored.key.resource, &found.stored.bytes);
        found.stored.index = Arc::new(entry);
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if !threads || cores == 1 || found.len() < PARALLEL_FROM {
        found.iter_mut().for_each(one);
        return;
    }
    let part = found.len().div_ceil(cores);
    std::thread::scope(|scope| {
        for part in found.chunks_mut(part) {
            scope.spawn(move || part.iter_mut().for_each(one));
        }
    });
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

fn found(record: Record) -> Result<Found, StoreError> {
    let Record {
        revision,
        operation,
        key,
        previous,
        time_ms,
        rv_offset,
        body,
    } = record;
    let deleted = operation == Operation::Delete;
    let kind = match (deleted, previous) {
        (true, _) => EventType::Deleted,
        (false, None) => EventType::Added,
        (false, Some(_)) => EventType::Modified,
    };
    let index = Arc::default();
    let stored = Stored::build(key, revision, kind, &body, rv_offset, index).map_err(|error| {
        StoreError::Inconsistent {
            revision,
            detail: error.to_string(),
        }
    })?;
    Ok(Found {
        stored,
        previous,
        deleted,
        time_ms,
    })
}

fn replay(state: &mut State, found: Found, floor: Revision) -> Result<(), StoreError> {
    let Found {
        mut stored,
        previous,
        deleted,
        time_ms,
    } = found;
    let revision = stored.revision;
    stored.key = state.interned(stored.key);
    let before = state.get(&stored.key).cloned();
    if revision <= floor {
        if deleted {
            state.restore_deleted(&stored.key, revision);
        } else {
            state.restore(Arc::new(stored));
        }
        return Ok(());
    }
    if before.as_ref().map(|before| before.revision) != previous {
        let detail = format!("`{}` does not follow its revision {previous:?}", stored.key);
        return Err(StoreError::Inconsistent { revision, detail });
    }
    state.apply(Arc::new(Change::new(
        Arc::new(stored),
        before,
        deleted,
        time_ms,
    )));
    Ok(())
}
