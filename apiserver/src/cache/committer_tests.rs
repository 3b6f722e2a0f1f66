//! Who commits: the thread that brings a request, or the committer's own.

use std::{
    ops::ControlFlow,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::ThreadId,
    time::Duration,
};

use futures::{FutureExt as _, future::join_all};
use parking_lot::Mutex;

use super::{
    Cache,
    testing::{HandClock, Thing, open, options, outcome},
};
use crate::store::{Batch, Floors, MemoryStore, Record, Revision, Store, StoreError};

/// A store in memory that is committed to like one on disk, and remembers by whom.
#[derive(Default)]
struct Witness {
    inner: MemoryStore,
    committed_by: Mutex<Vec<ThreadId>>,
    slow: AtomicBool,
    panics: AtomicBool,
    busy: AtomicBool,
}

impl Store for Witness {
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.committed_by.lock().push(std::thread::current().id());
        assert!(!self.panics.load(Ordering::Relaxed), "the store is broken");
        if self.slow.load(Ordering::Relaxed) {
            // Not to wait for anything: this is what a slow disk does.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.inner.commit(batch)
    }

    fn read(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        self.inner.read(revision)
    }

    fn history(
        &self,
        after: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.history(after, visit)
    }

    fn floors(&self) -> Result<Floors, StoreError> {
        self.inner.floors()
    }

    fn last_revision(&self) -> Revision {
        self.inner.last_revision()
    }

    fn is_ready(&self) -> bool {
        !self.busy.load(Ordering::Relaxed)
    }

    fn blocks(&self) -> bool {
        true
    }
}

fn start() -> (Arc<Witness>, Cache) {
    let store = Arc::new(Witness::default());
    let cache = open(&store, options(&HandClock::default()));
    (store, cache)
}

/// Commits one after the other; was each committed on this thread?
async fn commits_here(store: &Witness, cache: &Cache, names: std::ops::Range<u32>) -> Vec<bool> {
    store.committed_by.lock().clear();
    for n in names {
        let answer = cache.commit(Thing::new(&format!("job-{n}")).create()).await;
        assert_eq!(outcome(&answer), "committed");
    }
    let here = std::thread::current().id();
    let by = store.committed_by.lock();
    by.iter().map(|thread| *thread == here).collect()
}

#[tokio::test]
async fn a_request_that_is_alone_is_committed_by_the_thread_that_brings_it() {
    let (store, cache) = start();
    let mut watch = cache
        .watch(
            super::testing::JOBS,
            None,
            super::WatchFrom::Latest,
            crate::selector::Selection::default(),
            usize::MAX,
        )
        .unwrap();
    assert_eq!(commits_here(&store, &cache, 0..20).await, [true; 20]);
    assert_eq!(super::testing::drain(&mut watch).0.len(), 20);
    cache.close().await;
    let late = cache.commit(Thing::new("late").create()).await;
    assert_eq!(outcome(&late), "closed");
}

#[tokio::test]
async fn a_crowd_is_committed_together_by_the_committer() {
    let (store, cache) = start();
    let things: Vec<_> = (0..200)
        .map(|n| Thing::new(&format!("crowd-{n}")))
        .collect();
    let answers = join_all(things.iter().map(|thing| cache.commit(thing.create()))).await;
    assert!(answers.iter().all(|answer| outcome(answer) == "committed"));
    assert!(store.committed_by.lock().len() < 100, "nothing was grouped");
}

#[tokio::test]
async fn a_crowd_that_comes_after_a_time_alone_is_seen_soon() {
    let (store, cache) = start();
    for first in 0..8 {
        let names = 1000 * first..1000 * first + 80 + first;
        assert!(
            commits_here(&store, &cache, names)
                .await
                .iter()
                .any(|here| *here)
        );
        store.committed_by.lock().clear();
        let things: Vec<_> = (0..200)
            .map(|n| Thing::new(&format!("crowd-{first}-{n}")))
            .collect();
        let answers = join_all(things.iter().map(|thing| cache.commit(thing.create()))).await;
        assert!(answers.iter().all(|answer| outcome(answer) == "committed"));
        let here = std::thread::current().id();
        let by = store.committed_by.lock();
        let alone = by.iter().filter(|thread| **thread == here).count();
        assert!(alone <= 8, "{alone} of a crowd were committed one by one");
        assert!(by.len() < 100, "nothing was grouped");
    }
}

#[tokio::test]
async fn a_slow_disk_is_left_to_the_committer() {
    let (store, cache) = start();
    store.slow.store(true, Ordering::Relaxed);
    let here = commits_here(&store, &cache, 0..3).await;
    assert!(!here[2], "a thread was kept from its work by a slow disk");
}

#[tokio::test]
async fn a_store_that_would_have_to_be_waited_for_is_left_to_the_committer() {
    let (store, cache) = start();
    store.busy.store(true, Ordering::Relaxed);
    assert_eq!(commits_here(&store, &cache, 0..3).await, [false; 3]);
}

#[tokio::test]
async fn after_a_panic_nothing_is_written_any_more() {
    let (store, cache) = start();
    assert_eq!(commits_here(&store, &cache, 0..1).await, [true]);
    store.panics.store(true, Ordering::Relaxed);
    let commit = cache.commit(Thing::new("broken").create());
    assert!(AssertUnwindSafe(commit).catch_unwind().await.is_err());
    store.panics.store(false, Ordering::Relaxed);
    let later = cache.commit(Thing::new("later").create()).await;
    assert_eq!(outcome(&later), "storage failed");
    assert!(cache.has_failed());
}
