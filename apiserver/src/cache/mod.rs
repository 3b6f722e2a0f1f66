//! The cache: current objects as shared bytes, the window of changes, and the watchers, in front of a
//! [`Store`] and its one committer.
//!
//! # Guarantees
//! - **A write that was answered is durable and visible** to every later read, list and watch.
//! - **A list is one revision**, however many pages it takes.
//! - **A watch delivers every matching change once, in order**, from any revision in the window, also
//!   across restarts of the server; else it says why not.
//!
//! # Limits
//! The history is bounded by age and bytes ([`CacheOptions`]), the write queue by [`QUEUE`] requests,
//! a watch by the buffer that its creator names.

mod committer;
#[cfg(test)]
mod committer_tests;
mod company;
mod hub;
mod open;
mod state;
mod stats;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod watch;
#[cfg(test)]
mod watch_tests;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use self::{
    committer::Request,
    company::Company,
    hub::{Hub, Interest},
    state::{Objects, State},
    stats::Counters,
    watch::Subscriber,
};
pub use self::{
    open::Recovered,
    state::ListQuery,
    stats::{BATCH_BOUNDS, CacheStats, HistogramStats, LATENCY_BOUNDS, ResourceStats},
    watch::{Event, EventBatch, Watch, WatchEnd},
};
use crate::{
    selector::Selection,
    store::{
        CommitError, FIRST_REVISION, IndexEntry, Mutation, ObjectKey, Revision, Store, StoreError,
        Stored,
    },
};

/// Writes that may wait for the committer; further ones wait to be queued. Chosen: two full batches.
pub const QUEUE: usize = 1024;

/// Snapshots kept for lists that have more pages. Chosen: more lists than one server pages at a time.
const PINNED_SNAPSHOTS: usize = 32;
/// How long such a snapshot lives, in milliseconds. Specified: continue tokens live for 5 minutes.
const PINNED_MS: i64 = 5 * 60 * 1000;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// Extracts what selectors need from an object's JSON: `(resource, bytes)`.
pub type Index = Arc<dyn Fn(&str, &[u8]) -> IndexEntry + Send + Sync>;

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// How old a change may become.
    pub age: Duration,
    /// What a resource's changes may keep in memory beyond its current objects, in bytes.
    pub bytes: usize,
}

impl HistoryLimits {
    fn age_ms(&self) -> i64 {
        i64::try_from(self.age.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The cache's settings.
#[derive(Clone)]
pub struct CacheOptions {
    /// Tells the time, for the age of history.
    pub clock: Clock,
    /// The history of a resource that has no limits of its own.
    pub history: HistoryLimits,
    /// Limits by resource.
    pub history_of: BTreeMap<String, HistoryLimits>,
    /// What all resources' changes may keep in memory together, in bytes.
    pub history_bytes: usize,
    /// How often history is trimmed when nothing is written.
    pub trim_every: Duration,
}

impl CacheOptions {
    /// Ten minutes and 96 MiB of history; one minute and 4 MiB of Leases, which change every few
    /// seconds and which nobody reads back.
    pub fn new(clock: Clock) -> Self {
        let leases = HistoryLimits {
            age: Duration::from_mins(1),
            bytes: 4 << 20,
        };
        Self {
            clock,
            history: HistoryLimits {
                age: Duration::from_mins(10),
                bytes: 96 << 20,
            },
            history_of: BTreeMap::from([("leases.coordination.k8s.io".to_owned(), leases)]),
            history_bytes: 96 << 20,
            trim_every: Duration::from_secs(30),
        }
    }

    fn limits(&self, resource: &str) -> HistoryLimits {
        self.history_of
            .get(resource)
            .copied()
            .unwrap_or(self.history)
    }
}

impl fmt::Debug for CacheOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheOptions")
            .field("history", &self.history)
            .field("history_of", &self.history_of)
            .field("history_bytes", &self.history_bytes)
            .field("trim_every", &self.trim_every)
            .finish_non_exhaustive()
    }
}

/// Which state a list reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListAt {
    /// The newest.
    #[default]
    Latest,
    /// Exactly this revision.
    Exact(Revision),
}

/// Objects of one revision.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// By namespace, then name.
    pub items: Vec<Arc<Stored>>,
    /// The revision that all pages show.
    pub revision: Revision,
    /// Where the next page begins: after this namespace and name. `None` on the last page.
    pub more: Option<(Arc<str>, Arc<str>)>,
    /// How many objects follow this page; known only without selectors.
    pub remaining: Option<usize>,
}

/// Why a list could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The history of that revision has been given up.
    #[error("the revision is older than the oldest kept one, {oldest}")]
    Expired {
        /// The oldest revision that can be read.
        oldest: Revision,
        /// The newest one.
        current: Revision,
    },
    /// The revision has not been reached.
    #[error("the revision is larger than the current one, {current}")]
    Future {
        /// The newest revision.
        current: Revision,
    },
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the first change after this revision.
    After(Revision),
    /// With the next change.
    Latest,
}

/// Why a watch could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history of that revision has been given up.
    #[error("the revision is older than the oldest kept one, {oldest}")]
    Expired {
        /// The oldest revision that a watch can begin after.
        oldest: Revision,
        /// The newest one.
        current: Revision,
    },
    /// The revision has not been reached.
    #[error("the revision is larger than the current one, {current}")]
    Future {
        /// The newest revision.
        current: Revision,
    },
}

/// What the handles and the committer share.
pub(crate) struct Shared {
    store: Arc<dyn Store>,
    options: CacheOptions,
    state: RwLock<State>,
    /// Locked before `state` by everyone who needs both.
    hub: Mutex<Hub>,
    published: AtomicU64,
    pinned: Mutex<VecDeque<Pinned>>,
    counters: Counters,
    failed: tokio::sync::watch::Sender<Option<Arc<StoreError>>>,
    closed: AtomicBool,
    /// Locked before `hub`.
    turn: Mutex<committer::Turn>,
    company: Company,
}

struct Pinned {
    resource: Arc<str>,
    revision: Revision,
    objects: Objects,
    until_ms: i64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("published", &self.published())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    fn set_published(&self, revision: Revision) {
        self.published.store(revision, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.end_watches(None);
            self.store.close();
        }
    }

    fn fail(&self, error: Arc<StoreError>) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(error);
            first
        });
    }

    fn end_watches(&self, resource: Option<&str>) {
        let mut wakers = Vec::new();
        self.hub.lock().end(resource, &mut wakers);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    fn unsubscribe(&self, resource: &str, interest: &Interest, subscriber: &Arc<Subscriber>) {
        self.hub.lock().remove(resource, interest, subscriber);
    }

    /// The objects of a resource at a revision; those of recent lists without work.
    fn snapshot(&self, resource: &str, at: ListAt) -> Result<(Objects, Revision), ListError> {
        if let ListAt::Exact(revision) = at {
            let now_ms = (self.options.clock)().as_millisecond();
            let mut pinned = self.pinned.lock();
            pinned.retain(|pin| pin.until_ms > now_ms);
            let found = pinned
                .iter()
                .find(|pin| pin.revision == revision && *pin.resource == *resource);
            if let Some(pin) = found {
                return Ok((pin.objects.clone(), revision));
            }
        }
        let state = self.state.read();
        match at {
            ListAt::Latest => {
                let resource = state.resources.get(resource);
                let objects = resource
                    .map(|resource| resource.objects.clone())
                    .unwrap_or_default();
                Ok((objects, state.revision))
            }
            ListAt::Exact(revision) => Ok((state.objects_at(resource, revision)?, revision)),
        }
    }

    fn pin(&self, resource: &str, revision: Revision, objects: Objects) {
        let until_ms = (self.options.clock)()
            .as_millisecond()
            .saturating_add(PINNED_MS);
        let mut pinned = self.pinned.lock();
        let known = pinned
            .iter_mut()
            .find(|pin| pin.revision == revision && *pin.resource == *resource);
        if let Some(pin) = known {
            pin.until_ms = until_ms;
            return;
        }
        if pinned.len() == PINNED_SNAPSHOTS {
            pinned.pop_front();
        }
        pinned.push_back(Pinned {
            resource: resource.into(),
            revision,
            objects,
            until_ms,
        });
    }
}

/// The one handle to stored objects. Cloning it is cheap; the committer ends with the last one, or
/// with [`Cache::close`].
#[derive(Clone, Debug)]
pub struct Cache {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
}

impl Cache {
    /// Commits one mutation: durable, and visible in reads and watches, when this returns. The
    /// mutation is committed even if the caller stops waiting.
    pub async fn commit(&self, mutation: Mutation) -> Result<Arc<Stored>, CommitError> {
        let company = &self.shared.company;
        let waiting = company.join();
        if waiting.is_alone() && self.shared.store.blocks() {
            // Whoever else is about to commit, in this task even, does so together with this one.
            if company.may_be_near() {
                tokio::task::yield_now().await;
            }
            if waiting.is_alone()
                && let Some(alone) = committer::alone(&self.shared)
            {
                company.did_not_come();
                return alone.commit(mutation);
            }
        }
        company.came();
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit { mutation, reply };
        self.queue.send(request).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> CommitError {
        self.shared
            .failed
            .borrow()
            .as_ref()
            .map_or(CommitError::Closed, |error| {
                CommitError::StorageFailed(Arc::clone(error))
            })
    }

    /// The object as it is now.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Stored>> {
        self.shared.state.read().get(key).cloned()
    }

    /// The object as it was at a revision.
    pub fn get_at(&self, key: &ObjectKey, at: Revision) -> Result<Option<Arc<Stored>>, ListError> {
        let state = self.shared.state.read();
        if at > state.revision {
            return Err(ListError::Future {
                current: state.revision,
            });
        }
        let resource = state.resources.get(&key.resource);
        let oldest = resource.map_or(FIRST_REVISION - 1, |resource| resource.floor);
        if at < oldest {
            return Err(ListError::Expired {
                oldest,
                current: state.revision,
            });
        }
        let later = resource.and_then(|resource| {
            resource
                .changes_after(at)
                .find(|change| change.stored.key == *key)
        });
        Ok(match later {
            Some(change) => change.previous.clone(),
            None => state.get(key).cloned(),
        })
    }

    /// The newest revision that reads show.
    pub fn current_revision(&self) -> Revision {
        self.shared.state.read().revision
    }

    /// Lists and watches of this resource can begin at this revision or later.
    pub fn oldest_revision(&self, resource: &str) -> Revision {
        let state = self.shared.state.read();
        state
            .resources
            .get(resource)
            .map_or(FIRST_REVISION - 1, |resource| resource.floor)
    }

    /// One page of objects. When there are more, the same revision stays readable for five minutes.
    pub fn list(
        &self,
        resource: &str,
        at: ListAt,
        query: &ListQuery<'_>,
    ) -> Result<ListPage, ListError> {
        let (objects, revision) = self.shared.snapshot(resource, at)?;
        let page = state::page(&objects, revision, query);
        if page.more.is_some() {
            self.shared.pin(resource, revision, objects);
        }
        Ok(page)
    }

    /// Follows the changes of a resource. `buffer_bytes` bounds what waits for a slow reader.
    pub fn watch(
        &self,
        resource: &str,
        namespace: Option<&str>,
        from: WatchFrom,
        selection: Selection,
        buffer_bytes: usize,
    ) -> Result<Watch, WatchError> {
        let watch = self.subscribe(resource, namespace, from, selection, buffer_bytes, false)?;
        Ok(watch.0)
    }

    /// The objects that match now, and the watch of what comes after: the page's revision is the
    /// watch's start.
    pub fn list_and_watch(
        &self,
        resource: &str,
        namespace: Option<&str>,
        selection: Selection,
        buffer_bytes: usize,
    ) -> Result<(ListPage, Watch), WatchError> {
        let query = ListQuery {
            namespace,
            selection: selection.clone(),
            ..ListQuery::default()
        };
        let (watch, objects) = self.subscribe(
            resource,
            namespace,
            WatchFrom::Latest,
            selection,
            buffer_bytes,
            true,
        )?;
        Ok((state::page(&objects, watch.start_revision(), &query), watch))
    }

    fn subscribe(
        &self,
        resource: &str,
        namespace: Option<&str>,
        from: WatchFrom,
        selection: Selection,
        buffer_bytes: usize,
        with_objects: bool,
    ) -> Result<(Watch, Objects), WatchError> {
        let interest = Interest {
            namespace: namespace.map(Into::into),
            selection,
        };
        let subscriber = Arc::new(Subscriber::new(buffer_bytes));
        // Held until the watcher is known, so that no change falls between the past and the future.
        let mut hub = self.shared.hub.lock();
        let state = self.shared.state.read();
        let entry = state.resources.get_key_value(resource);
        let current = state.revision;
        let oldest = entry.map_or(FIRST_REVISION - 1, |(_, resource)| resource.floor);
        let start = match from {
            WatchFrom::Latest => current,
            WatchFrom::After(after) if after > current => {
                return Err(WatchError::Future { current });
            }
            WatchFrom::After(after) if after < oldest => {
                return Err(WatchError::Expired { oldest, current });
            }
            WatchFrom::After(after) => after,
        };
        let name = entry.map_or_else(|| resource.into(), |(name, _)| Arc::clone(name));
        let past = entry
            .into_iter()
            .flat_map(|(_, resource)| resource.changes_after(start));
        let backlog: VecDeque<_> = past.cloned().collect();
        let objects = entry
            .filter(|_| with_objects)
            .map(|(_, resource)| resource.objects.clone());
        drop(state);
        hub.add(&name, interest.clone(), Arc::clone(&subscriber));
        if self.shared.is_closed() {
            subscriber.finish(WatchEnd::Closed, &mut Vec::new());
        }
        drop(hub);
        let shared = Arc::clone(&self.shared);
        let watch = Watch::new(shared, name, interest, subscriber, backlog, start);
        Ok((watch, objects.unwrap_or_default()))
    }

    /// Ends the watches of a resource, because it is no longer served as it was.
    pub fn end_watches(&self, resource: &str) {
        self.shared.end_watches(Some(resource));
    }

    /// The objects whose owner references name this uid, in order of key.
    pub fn dependents(&self, owner_uid: &str) -> Vec<ObjectKey> {
        self.shared.state.read().dependents(owner_uid)
    }

    /// The resources that have objects or history, in order of name.
    pub fn resources(&self) -> Vec<Arc<str>> {
        self.shared.state.read().resources.keys().cloned().collect()
    }

    /// How many objects a resource has.
    pub fn count(&self, resource: &str) -> usize {
        let state = self.shared.state.read();
        state
            .resources
            .get(resource)
            .map_or(0, |resource| resource.objects.len())
    }

    /// Extracts the index entries of a resource anew, because its selectable fields changed.
    pub async fn reindex(&self, resource: &str, index: Index) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Reindex {
            resource: resource.into(),
            index,
            reply,
        };
        self.queue.send(request).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())
    }

    /// Waits until storage has failed; the server then only reads, and should exit without
    /// running destructors of the store.
    pub async fn failed(&self) -> Arc<StoreError> {
        let mut failed = self.shared.failed.subscribe();
        let found = match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        };
        found.unwrap_or_else(|| Arc::new(StoreError::CommitterEnded))
    }

    /// Has storage failed?
    pub fn has_failed(&self) -> bool {
        self.shared.failed.borrow().is_some()
    }

    /// Commits what was queued before, ends all watches, and closes the store. Reads go on.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Request::Close { reply }).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// What the cache holds and did.
    pub fn stats(&self) -> CacheStats {
        let mut stats = CacheStats {
            queued: self.queue.max_capacity() - self.queue.capacity(),
            bytes_on_disk: self.shared.store.bytes_on_disk(),
            ..CacheStats::default()
        };
        self.shared.counters.fill(&mut stats);
        let hub = self.shared.hub.lock();
        let state = self.shared.state.read();
        stats.revision = state.revision;
        let resource_stats = |(name, resource): (&Arc<str>, &state::Resource)| ResourceStats {
            resource: name.as_ref().to_owned(),
            objects: resource.objects.len(),
            bytes: resource.bytes,
            history: resource.log.len(),
            history_bytes: resource.log_cost,
            oldest_revision: resource.floor,
            watchers: hub.watchers(name),
        };
        stats.resources = state.resources.iter().map(resource_stats).collect();
        stats
    }
}
