//! The one task that writes: group commit, preconditions, revisions, publication.
//!
//! It takes every request that waits, checks each against the objects as they will be after the ones
//! before it, numbers the changes, writes them as one durable batch, publishes them, and only then
//! answers. A store that blocks gets a thread of its own; one that does not runs as a task, so that a
//! simulation stays on one thread.
//!
//! A request that is alone, where requests usually are, is committed by the thread that brings it: to
//! wake another one, and to be woken by it, takes as long as the disk. It must be alone, because the
//! thread is kept from other work meanwhile; and the disk must be quick, for the same reason.
//!
//! # Guarantees
//! - **One writes at a time**: whoever holds the [`Turn`].
//! - **No answer before the disk.** Refusals too wait for the batch that they were decided on.
//! - **After a storage error nothing is written any more**; reads and watches go on, and
//!   [`super::Cache::failed`] tells the server to exit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::MutexGuard;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Index, Shared, state::State};
use crate::store::{
    Batch, Body, Change, CommitError, EventType, Expect, LAST_REVISION, Mutation, ObjectKey,
    Operation, Record, Removal, Revision, Room, StoreError, Stored, encoded_len,
};

/// What the committer is asked to do.
pub(super) enum Request {
    Commit {
        mutation: Mutation,
        reply: oneshot::Sender<Answer>,
    },
    Trim,
    Reindex {
        resource: Arc<str>,
        index: Index,
        reply: oneshot::Sender<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

pub(super) type Answer = Result<Arc<Stored>, CommitError>;

/// Most requests in one batch. Chosen: far above what 64 connections can have waiting.
const MAX_REQUESTS: usize = 512;
/// Most bytes of objects in one batch. Chosen: a few segments of the embedded store.
const MAX_BYTES: usize = 8 << 20;
/// History dropped in one batch, beyond four changes a request. Chosen: keeps a batch's removals small.
const TRIM_PER_BATCH: usize = 256;

/// A write that takes longer on average is left to the committer's thread. Chosen: a few times what a
/// quick disk needs, and little beside what a request may wait for a thread anyway.
const QUICK: Duration = Duration::from_micros(500);
/// Averages are over about so many commits.
const AVERAGED: u32 = 8;

/// The task or thread that takes requests from the queue. See the module's documentation.
pub(super) struct Committer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Request>,
}

/// The right to write, and what has been seen of writing.
#[derive(Default)]
pub(super) struct Turn {
    failed: Option<Arc<StoreError>>,
    /// What a write usually takes.
    usual: Duration,
    /// How many requests a commit usually has, in 256ths.
    crowd: u32,
}

/// Whoever has the turn.
struct Writer<'a> {
    shared: &'a Shared,
    turn: MutexGuard<'a, Turn>,
}

/// A batch being put together.
#[derive(Default)]
struct Prepared {
    changes: Vec<Arc<Change>>,
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    /// The objects that this batch changes, as they will be.
    overlay: HashMap<ObjectKey, Option<Arc<Stored>>>,
}

/// History to be dropped.
#[derive(Default)]
struct Trim {
    counts: BTreeMap<Arc<str>, usize>,
    removals: Vec<Removal>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Request>) -> Self {
        Self { shared, queue }
    }

    /// Runs on a thread of its own until the queue closes.
    pub(super) fn run_blocking(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            if self.step(first) {
                break;
            }
        }
        self.close();
    }

    /// Runs as a task until the queue closes.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            if self.step(first) {
                break;
            }
        }
        self.close();
    }

    fn close(&self) {
        self.shared.close();
    }

    /// One round; true when the committer is to end.
    fn step(&mut self, first: Request) -> bool {
        let started = Instant::now();
        let shared = Arc::clone(&self.shared);
        // Whoever comes while somebody else writes comes into the same batch.
        let mut writer = Writer {
            shared: &shared,
            turn: shared.turn.lock(),
        };
        let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        let mut last = None;
        while let Some(request) = next {
            match request {
                Request::Commit { mutation, reply } => {
                    let (Body::Put(encoded) | Body::Delete(encoded)) = &mutation.body;
                    bytes += encoded.bytes.len();
                    batch.push((mutation, reply));
                }
                Request::Trim => {}
                other => last = Some(other),
            }
            if last.is_some() || batch.len() >= MAX_REQUESTS || bytes >= MAX_BYTES {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        writer.commit(batch, started);
        match last {
            Some(Request::Reindex {
                resource,
                index,
                reply,
            }) => {
                writer.reindex(&resource, &index);
                let _ = reply.send(());
                false
            }
            Some(Request::Close { reply }) => {
                self.queue.close();
                self.close();
                let _ = reply.send(());
                true
            }
            _ => false,
        }
    }
}

/// The turn for a request that is alone, to be committed on this thread: if nothing is to be waited for
/// but a quick disk.
pub(super) fn alone(shared: &Shared) -> Option<Alone<'_>> {
    let turn = shared.turn.try_lock()?;
    let is_quick = turn.usual < QUICK && turn.crowd < 256 + 64;
    let is_open = !shared.is_closed() && shared.store.is_ready();
    (is_quick && is_open).then_some(Alone(Writer { shared, turn }))
}

/// See [`alone`].
pub(super) struct Alone<'a>(Writer<'a>);

impl Alone<'_> {
    pub(super) fn commit(mut self, mutation: Mutation) -> Answer {
        let (reply, mut answer) = oneshot::channel();
        self.0.commit(vec![(mutation, reply)], Instant::now());
        answer.try_recv().unwrap_or(Err(CommitError::Closed))
    }
}

impl Writer<'_> {
    fn reindex(&self, resource: &str, index: &Index) {
        let reindexed = self.shared.state.read().reindexed(resource, |stored| {
            stored.reindexed(Arc::new(index(resource, &stored.bytes)))
        });
        if let Some(reindexed) = reindexed {
            self.shared.state.write().install(resource, reindexed);
        }
    }

    fn commit(&mut self, requests: Vec<(Mutation, oneshot::Sender<Answer>)>, started: Instant) {
        let count = requests.len();
        self.turn.crowded(count);
        let after = self.shared.published();
        let now_ms = (self.shared.options.clock)().as_millisecond();
        let mut prepared = Prepared::default();
        self.prepare(requests, after, now_ms, &mut prepared);
        let trim = self.plan_trim(now_ms, after, &prepared.changes, 4 * count + TRIM_PER_BATCH);
        if let Err(error) = self.write(after, &prepared.changes, &trim) {
            self.fail(error, prepared);
            return;
        }
        let committed = prepared.changes.len();
        let wakers = self.publish(&prepared.changes, &trim);
        for (reply, answer) in prepared.answers {
            let _ = reply.send(answer);
        }
        for waker in wakers {
            waker.wake();
        }
        if committed > 0 {
            self.shared.counters.committed(committed, started.elapsed());
        }
    }

    fn prepare(
        &self,
        requests: Vec<(Mutation, oneshot::Sender<Answer>)>,
        after: Revision,
        now_ms: i64,
        prepared: &mut Prepared,
    ) {
        if requests.is_empty() {
            return;
        }
        let room = self.shared.store.room();
        let state = self.shared.state.read();
        let mut next = after + 1;
        for (mutation, reply) in requests {
            let answer = match &self.turn.failed {
                Some(error) => Err(CommitError::StorageFailed(Arc::clone(error))),
                None => admit(&mutation, room)
                    .and_then(|()| prepare_one(&state, prepared, mutation, next, now_ms)),
            };
            next += u64::from(answer.is_ok());
            prepared.answers.push((reply, answer));
        }
    }

    fn write(
        &mut self,
        after: Revision,
        changes: &[Arc<Change>],
        trim: &Trim,
    ) -> Result<(), StoreError> {
        if changes.is_empty() && trim.removals.is_empty() {
            return Ok(());
        }
        let floors = (!trim.removals.is_empty()).then(|| {
            let state = self.shared.state.read();
            let mut floors = state.floors();
            for (resource, count) in &trim.counts {
                let log = state.resources.get(resource).map(|resource| &resource.log);
                if let Some(last) = log.and_then(|log| log.get(count.saturating_sub(1))) {
                    floors.insert(Arc::clone(resource), last.revision());
                }
            }
            floors
        });
        let records = changes.iter().map(|change| record_of(change)).collect();
        let batch = Batch {
            after,
            records,
            removals: trim.removals.clone(),
            floors,
        };
        let started = Instant::now();
        self.shared.store.commit(&batch)?;
        let took = started.elapsed();
        self.turn.took(took);
        self.shared.counters.synced(took);
        Ok(())
    }

    fn publish(&self, changes: &[Arc<Change>], trim: &Trim) -> Vec<std::task::Waker> {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        let mut hub = self.shared.hub.lock();
        {
            let mut state = self.shared.state.write();
            for change in changes {
                state.apply(Arc::clone(change));
            }
            for (resource, count) in &trim.counts {
                dropped.push(state.forget(resource, *count));
            }
        }
        let published = hub.publish(changes, &mut wakers);
        if let Some(last) = changes.last() {
            self.shared.set_published(last.revision());
        }
        drop(hub);
        self.shared.counters.published(&published);
        drop(dropped);
        wakers
    }

    /// Which changes leave the window with this commit: those that are too old, then those that are
    /// too much. The newest record of all is kept whatever it is, because it says which revision is next.
    fn plan_trim(&self, now_ms: i64, after: Revision, new: &[Arc<Change>], most: usize) -> Trim {
        let mut trim = Trim::default();
        if self.turn.failed.is_some() {
            return trim;
        }
        let newest = new.last().map_or(after, |change| change.revision());
        let state = self.shared.state.read();
        let options = &self.shared.options;
        let mut left = most;
        let mut total: usize = state
            .resources
            .values()
            .map(|resource| resource.log_cost)
            .sum();
        let mut rest = BTreeMap::new();
        for (name, resource) in &state.resources {
            let limits = options.limits(name);
            let oldest = now_ms.saturating_sub(limits.age_ms());
            let (mut cost, mut count) = (resource.log_cost, 0);
            for change in &resource.log {
                let keep = change.time_ms > oldest && cost <= limits.bytes;
                if keep || left == 0 || !droppable(change, newest) {
                    break;
                }
                cost -= change.cost().min(cost);
                total -= change.cost().min(total);
                (count, left) = (count + 1, left - 1);
                trim.drop_change(change);
            }
            rest.insert(Arc::clone(name), (cost, count));
        }
        while total > options.history_bytes && left > 0 {
            let Some((name, (cost, count))) = rest.iter_mut().max_by_key(|(_, (cost, _))| *cost)
            else {
                break;
            };
            let change = state
                .resources
                .get(name)
                .and_then(|resource| resource.log.get(*count));
            let Some(change) = change.filter(|change| droppable(change, newest)) else {
                break;
            };
            *cost -= change.cost().min(*cost);
            total -= change.cost().min(total);
            (*count, left) = (*count + 1, left - 1);
            trim.drop_change(change);
        }
        trim.counts = rest
            .into_iter()
            .filter(|(_, (_, count))| *count > 0)
            .map(|(name, (_, count))| (name, count))
            .collect();
        trim
    }

    fn fail(&mut self, error: StoreError, prepared: Prepared) {
        let error = Arc::new(error);
        tracing::error!(
            error = &*error as &dyn std::error::Error,
            "storage failed, only reads from now on"
        );
        self.turn.failed = Some(Arc::clone(&error));
        self.shared.fail(Arc::clone(&error));
        for (reply, _) in prepared.answers {
            let _ = reply.send(Err(CommitError::StorageFailed(Arc::clone(&error))));
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if !self.shared.is_closed() {
            self.shared.fail(Arc::new(StoreError::CommitterEnded));
        }
    }
}

impl Drop for Writer<'_> {
    /// After a panic what was written and what is published may differ: nothing is written any more.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Arc::new(StoreError::CommitterEnded);
            self.turn.failed = Some(Arc::clone(&error));
            self.shared.fail(error);
        }
    }
}

impl Turn {
    fn took(&mut self, took: Duration) {
        self.usual = (self.usual * (AVERAGED - 1) + took) / AVERAGED;
    }

    fn crowded(&mut self, requests: usize) {
        // Trimming brings none, and says nothing about the crowd.
        if requests > 0 {
            let now = u32::try_from(requests).unwrap_or(u32::MAX).min(1 << 16) * 256;
            self.crowd = (self.crowd * (AVERAGED - 1) + now) / AVERAGED;
        }
    }
}

impl Trim {
    fn drop_change(&mut self, change: &Change) {
        let removal = |stored: &Stored| Removal {
            revision: stored.revision,
            bytes: encoded_len(&stored.key, stored.bytes.len()),
        };
        self.removals
            .extend(change.previous.as_deref().map(removal));
        if change.deleted {
            self.removals.push(removal(&change.stored));
        }
    }
}

fn droppable(change: &Change, newest: Revision) -> bool {
    !change.deleted || change.revision() < newest
}

fn admit(mutation: &Mutation, room: Room) -> Result<(), CommitError> {
    let frees = mutation.frees || matches!(mutation.body, Body::Delete(_));
    match room {
        Room::Enough => Ok(()),
        Room::Low { .. } if frees => Ok(()),
        Room::Low { free, floor } | Room::None { free, floor } => {
            Err(CommitError::NoSpace { free, floor })
        }
    }
}

fn prepare_one(
    state: &State,
    prepared: &mut Prepared,
    mutation: Mutation,
    revision: Revision,
    now_ms: i64,
) -> Answer {
    let Mutation {
        key, expect, body, ..
    } = mutation;
    let current = match prepared.overlay.get(&key) {
        Some(pending) => pending.clone(),
        None => state.get(&key).cloned(),
    };
    let deletes = matches!(body, Body::Delete(_));
    match (expect, &current) {
        (Expect::Absent, Some(current)) => {
            return Err(CommitError::Exists {
                current: Arc::clone(current),
            });
        }
        (Expect::At(wanted), Some(current)) if current.revision != wanted => {
            return Err(CommitError::Conflict {
                current: Some(Arc::clone(current)),
            });
        }
        (Expect::At(_), None) => return Err(CommitError::Conflict { current: None }),
        (Expect::Any, None) => return Err(CommitError::NotFound),
        (Expect::Absent, None) if deletes => return Err(CommitError::NotFound),
        _ => {}
    }
    if revision > LAST_REVISION {
        return Err(CommitError::StorageFailed(Arc::new(StoreError::Exhausted)));
    }
    let (Body::Put(encoded) | Body::Delete(encoded)) = body;
    let kind = match (deletes, &current) {
        (true, _) => EventType::Deleted,
        (false, None) => EventType::Added,
        (false, Some(_)) => EventType::Modified,
    };
    let key = state.interned(key);
    let stored = Stored::build(
        key,
        revision,
        kind,
        &encoded.bytes,
        encoded.rv_offset,
        encoded.index,
    )?;
    let stored = Arc::new(stored);
    let now = (!deletes).then(|| Arc::clone(&stored));
    prepared.overlay.insert(stored.key.clone(), now);
    prepared.changes.push(Arc::new(Change::new(
        Arc::clone(&stored),
        current,
        deletes,
        now_ms,
    )));
    Ok(stored)
}

fn record_of(change: &Change) -> Record {
    let stored = &change.stored;
    Record {
        revision: stored.revision,
        operation: if change.deleted {
            Operation::Delete
        } else {
            Operation::Put
        },
        key: stored.key.clone(),
        previous: change.previous.as_ref().map(|previous| previous.revision),
        time_ms: change.time_ms,
        rv_offset: stored.rv_offset(),
        body: stored.bytes.clone(),
    }
}
