//! The server's own upkeep of objects: owner references, namespaces and definitions on their way out, events that expire.
//!
//! Every commit tells the [`Queue`] what it may have left to do; one task works that off. Nothing is polled: the task
//! sleeps until there is work or an event expires. After a start, the stored objects are looked through once.
//!
//! # Limits
//! The queue is a set of keys, so it is bounded by the number of objects; writes go out
//! [`limits::COLLECTOR_WRITES`] at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kinds::{Builtin, ServedKind};
use super::options::DeleteOptions;
use super::{Registry, builtin, collector, limits};
use crate::cache::{ListAt, ListQuery};
use crate::http::status::Status;
use crate::store::{ObjectKey, Stored};

/// Something that may have to be done; done twice it does no harm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Do the owners of this object still exist?
    Dependent(ObjectKey),
    /// Does this terminating object still wait for its dependents?
    Owner(ObjectKey),
    /// Is this terminating namespace empty?
    Namespace(Arc<str>),
    /// Are there objects left of this terminating definition?
    Definition(Arc<str>),
}

/// What is to be done, and the events that expire.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    work: BTreeSet<Work>,
    /// When each event is gone, by time.
    expiries: BTreeSet<(Instant, ObjectKey)>,
    /// The same by key.
    expiry_of: BTreeMap<ObjectKey, Instant>,
}

impl Queue {
    pub(super) fn push(&self, work: impl IntoIterator<Item = Work>) {
        let mut state = self.state.lock();
        let before = state.work.len();
        state.work.extend(work);
        let grew = state.work.len() > before;
        drop(state);
        if grew {
            self.wake.notify_one();
        }
    }

    /// Lets an event expire after a while, counted from now.
    fn expire(&self, key: ObjectKey, after: Duration) {
        let at = Instant::now() + after;
        let mut state = self.state.lock();
        let was_next = state.expiries.first().map(|(at, _)| *at);
        if let Some(before) = state.expiry_of.insert(key.clone(), at) {
            state.expiries.remove(&(before, key.clone()));
        }
        state.expiries.insert((at, key));
        let is_next = state.expiries.first().map(|(at, _)| *at);
        drop(state);
        if was_next != is_next {
            self.wake.notify_one();
        }
    }

    fn forget(&self, key: &ObjectKey) {
        let mut state = self.state.lock();
        if let Some(at) = state.expiry_of.remove(key) {
            state.expiries.remove(&(at, key.clone()));
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.state.lock().expiries.first().map(|(at, _)| *at)
    }

    fn take(&self) -> (BTreeSet<Work>, Vec<ObjectKey>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let work = std::mem::take(&mut state.work);
        let mut expired = Vec::new();
        while let Some((at, key)) = state.expiries.pop_first() {
            if at > now {
                state.expiries.insert((at, key));
                break;
            }
            state.expiry_of.remove(&key);
            expired.push(key);
        }
        (work, expired)
    }
}

/// Works until the registry is gone or shuts down.
pub(super) async fn run(registry: Weak<Registry>, queue: Arc<Queue>, shutdown: CancellationToken) {
    if let Some(registry) = registry.upgrade() {
        registry.look_through();
    }
    loop {
        let expiry = queue.next_expiry();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = queue.wake.notified() => {}
            () = sleep_until(expiry) => {}
        }
        let Some(registry) = registry.upgrade() else {
            return;
        };
        let (work, expired) = queue.take();
        let failed = registry.work_off(work, expired).await;
        drop(registry);
        if !failed.is_empty() {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(limits::COLLECTOR_RETRY) => queue.push(failed),
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Registry {
    /// Does the work; answers what failed and is to be tried again.
    async fn work_off(&self, work: BTreeSet<Work>, expired: Vec<ObjectKey>) -> Vec<Work> {
        let expiring = futures::stream::iter(expired)
            .map(|key| self.expire_event(key))
            .buffer_unordered(limits::COLLECTOR_WRITES)
            .for_each(|()| std::future::ready(()));
        let working = futures::stream::iter(work)
            .map(|work| async {
                let result = self.work_on(&work).await;
                result.err().map(|why| {
                    tracing::debug!(?work, %why, "upkeep failed, it is tried again");
                    work
                })
            })
            .buffer_unordered(limits::COLLECTOR_WRITES)
            .filter_map(std::future::ready)
            .collect();
        futures::join!(expiring, working).1
    }

    async fn work_on(&self, work: &Work) -> Result<(), Status> {
        match work {
            Work::Dependent(key) => self.check_owners(key).await,
            Work::Owner(key) => self.check_dependents(key).await,
            Work::Namespace(name) => self.empty_namespace(name).await,
            Work::Definition(name) => self.empty_definition(name).await,
        }
    }

    async fn expire_event(&self, key: ObjectKey) {
        let kinds = self.kinds();
        let Some(kind) = kinds.find("", "v1", builtin::EVENTS) else {
            return;
        };
        // Gone already is as good.
        let _ = self
            .delete(kind, &key.namespace, &key.name, &DeleteOptions::default())
            .await;
    }

    /// Tells the upkeep of a write; `live` is the state before.
    pub(super) fn after_write(
        &self,
        kind: &ServedKind,
        stored: &Stored,
        live: Option<&Arc<Stored>>,
    ) {
        let owners_changed = live.map_or(!stored.index.owners.is_empty(), |live| {
            live.index.owners != stored.index.owners
        });
        if owners_changed {
            self.upkeep.push([Work::Dependent(stored.key.clone())]);
            if let Some(live) = live {
                let former = collector::owner_keys(&self.kinds(), live);
                self.upkeep.push(former.into_iter().map(Work::Owner));
            }
        }
        match kind.builtin {
            Some(Builtin::CoreEvent | Builtin::Event) => {
                self.upkeep.expire(stored.key.clone(), limits::EVENT_TTL);
            }
            Some(Builtin::Namespace) if stored.field("status.phase") == Some("Terminating") => {
                self.upkeep
                    .push([Work::Namespace(Arc::clone(&stored.key.name))]);
            }
            _ => {}
        }
    }

    /// Tells the upkeep that an object is gone, and takes down what depends on it at once.
    pub(super) async fn after_delete(&self, kind: &ServedKind, last: &Stored) {
        let mut work: Vec<Work> = Vec::new();
        let dependents = self.cache().dependents(&last.index.uid);
        if !dependents.is_empty() {
            self.gone.lock().insert(&last.index.uid);
        }
        work.extend(dependents.into_iter().map(Work::Dependent));
        if !last.index.owners.is_empty() {
            work.extend(
                collector::owner_keys(&self.kinds(), last)
                    .into_iter()
                    .map(Work::Owner),
            );
        }
        if kind.is_namespaced() {
            let namespace = self.stored(builtin::NAMESPACES, "", &last.key.namespace);
            if namespace
                .is_some_and(|namespace| namespace.field("status.phase") == Some("Terminating"))
            {
                work.push(Work::Namespace(Arc::clone(&last.key.namespace)));
            }
        }
        if kind.terminating {
            work.push(Work::Definition(Arc::clone(&kind.storage)));
        }
        match kind.builtin {
            Some(Builtin::CoreEvent | Builtin::Event) => self.upkeep.forget(&last.key),
            Some(Builtin::CustomResourceDefinition) => self.forget_definition(&last.key.name).await,
            _ => {}
        }
        self.upkeep.push(work);
    }

    /// After a start: what was left undone.
    fn look_through(&self) {
        let mut work = Vec::new();
        for resource in self.cache().resources() {
            let Ok(page) = self
                .cache()
                .list(&resource, ListAt::Latest, &ListQuery::default())
            else {
                continue;
            };
            for stored in page.items {
                if !stored.index.owners.is_empty() {
                    work.push(Work::Dependent(stored.key.clone()));
                }
                if collector::is_terminating(&stored) {
                    work.push(match &*resource {
                        builtin::NAMESPACES => Work::Namespace(Arc::clone(&stored.key.name)),
                        builtin::CRDS => Work::Definition(Arc::clone(&stored.key.name)),
                        _ => Work::Owner(stored.key.clone()),
                    });
                }
                if &*resource == builtin::EVENTS {
                    self.upkeep
                        .expire(stored.key.clone(), self.event_life(&stored));
                }
            }
        }
        self.upkeep.push(work);
    }

    /// How long an event that was found in the store still lives.
    fn event_life(&self, stored: &Stored) -> Duration {
        let age = collector::last_seen(stored).map_or(Duration::ZERO, |seen| {
            Duration::try_from(self.now().duration_since(seen)).unwrap_or(Duration::ZERO)
        });
        limits::EVENT_TTL.saturating_sub(age)
    }
}
