//! What the cache commits, lists, keeps and brings back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, future::join_all};

use super::{
    CacheOptions, HistoryLimits, ListAt, ListError, ListQuery, WatchFrom,
    testing::{
        FaultyStore, HandClock, JOBS, Thing, drain, names, open, options, outcome, records,
        revisions, selection, written_revision,
    },
};
use crate::{
    selector::Selection,
    store::{
        Batch, Expect, FIRST_REVISION, MemoryStore, Mutation, Operation, Removal, Room, Store,
    },
};

const FIRST: u64 = FIRST_REVISION;
const BUFFER: usize = 1 << 20;

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}

fn cache() -> super::Cache {
    open(&memory(), options(&HandClock::default()))
}

fn all(cache: &super::Cache, at: ListAt) -> Vec<String> {
    names(&cache.list(JOBS, at, &ListQuery::default()).unwrap().items)
}

fn watch(cache: &super::Cache, from: WatchFrom, selection: Selection) -> super::Watch {
    cache.watch(JOBS, None, from, selection, BUFFER).unwrap()
}

#[tokio::test]
async fn a_fresh_store_counts_from_the_first_revision() {
    let cache = cache();
    assert_eq!(cache.current_revision(), FIRST - 1);
    for n in 0..3 {
        let thing = Thing::new(&format!("job-{n}"));
        let stored = cache.commit(thing.create()).await.unwrap();
        assert_eq!(
            (stored.revision, written_revision(&stored)),
            (FIRST + n, FIRST + n)
        );
        assert_eq!(cache.get(&thing.key()).unwrap().bytes, stored.bytes);
    }
    assert_eq!(cache.current_revision(), FIRST + 2);
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_changes_nothing() {
    let (old, new) = (Thing::new("old"), Thing::new("new"));
    let expecting = |mutation: Mutation, expect| Mutation { expect, ..mutation };
    for (mutation, wanted) in [
        (old.create(), "exists"),
        (old.at(FIRST), "committed"),
        (old.at(FIRST + 7), "conflict"),
        (old.update(), "committed"),
        (old.delete(), "committed"),
        (expecting(old.delete(), Expect::At(FIRST)), "committed"),
        (expecting(old.delete(), Expect::At(FIRST + 1)), "conflict"),
        (new.create(), "committed"),
        (new.at(FIRST), "gone"),
        (new.update(), "not found"),
        (new.delete(), "not found"),
        (expecting(new.delete(), Expect::Absent), "not found"),
    ] {
        let cache = cache();
        cache.commit(old.create()).await.unwrap();
        let label = format!("{mutation:?}");
        let answer = cache.commit(mutation).await;
        assert_eq!(outcome(&answer), wanted, "{label}");
        let changes = u64::from(answer.is_ok());
        assert_eq!(cache.current_revision(), FIRST + changes, "{label}");
    }
}

#[tokio::test]
async fn an_object_without_a_place_for_its_revision_is_refused() {
    let cache = cache();
    for offset in [0, 1, 9999, usize::MAX] {
        let mut mutation = Thing::new("job").create();
        if let crate::store::Body::Put(encoded) = &mut mutation.body {
            encoded.rv_offset = offset;
        }
        assert_eq!(
            outcome(&cache.commit(mutation).await),
            "malformed",
            "{offset}"
        );
    }
    assert_eq!(cache.current_revision(), FIRST - 1);
}

#[tokio::test]
async fn concurrent_writes_share_batches_and_get_consecutive_revisions() {
    let cache = cache();
    let things: Vec<_> = (0..300)
        .map(|n| Thing::new(&format!("job-{n:03}")))
        .collect();
    let answers = join_all(things.iter().map(|thing| cache.commit(thing.create()))).await;
    let mut given: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().revision)
        .collect();
    given.sort_unstable();
    assert_eq!(given, (FIRST..FIRST + 300).collect::<Vec<_>>());
    let stats = cache.stats();
    assert!(
        stats.batch_sizes.count < 300,
        "every write had a batch of its own"
    );
    assert_eq!(stats.resources[0].objects, 300);
}

#[tokio::test]
async fn one_of_many_concurrent_writers_wins() {
    let cache = cache();
    let thing = Thing::new("job");
    cache.commit(thing.create()).await.unwrap();
    let answers = join_all((0..20).map(|_| cache.commit(thing.at(FIRST)))).await;
    let outcomes: Vec<_> = answers.iter().map(outcome).collect();
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == "committed")
            .count(),
        1
    );
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == "conflict")
            .count(),
        19
    );
}

#[tokio::test]
async fn a_list_shows_exactly_the_revision_it_asks_for() {
    let cache = cache();
    let (a, b) = (Thing::new("a"), Thing::new("b"));
    for mutation in [
        a.create(),
        b.create(),
        a.update(),
        a.delete(),
        b.update(),
        a.create(),
    ] {
        cache.commit(mutation).await.unwrap();
    }
    for (at, wanted) in [
        (FIRST - 1, &[][..]),
        (FIRST, &["a"]),
        (FIRST + 1, &["a", "b"]),
        (FIRST + 2, &["a", "b"]),
        (FIRST + 3, &["b"]),
        (FIRST + 4, &["b"]),
        (FIRST + 5, &["a", "b"]),
    ] {
        assert_eq!(all(&cache, ListAt::Exact(at)), wanted, "{at}");
        let a_then = cache.get_at(&a.key(), at).unwrap();
        assert_eq!(a_then.is_some(), wanted.contains(&"a"), "{at}");
        assert!(a_then.is_none_or(|stored| stored.revision <= at));
    }
    let future = ListError::Future { current: FIRST + 5 };
    let query = ListQuery::default();
    assert_eq!(
        cache
            .list(JOBS, ListAt::Exact(FIRST + 6), &query)
            .unwrap_err(),
        future
    );
    let expired = ListError::Expired {
        oldest: FIRST - 1,
        current: FIRST + 5,
    };
    assert_eq!(
        cache
            .list(JOBS, ListAt::Exact(FIRST - 2), &query)
            .unwrap_err(),
        expired
    );
}

#[tokio::test]
async fn pages_come_from_one_snapshot_whatever_is_written_between_them() {
    let clock = HandClock::default();
    let mut options = options(&clock);
    options.history.bytes = 0;
    let cache = open(&memory(), options);
    for n in 0..10 {
        cache
            .commit(Thing::new(&format!("job-{n}")).create())
            .await
            .unwrap();
    }
    let first = ListQuery {
        limit: Some(4),
        ..ListQuery::default()
    };
    let mut page = cache.list(JOBS, ListAt::Latest, &first).unwrap();
    let (revision, mut listed) = (page.revision, names(&page.items));
    let mut remaining = vec![page.remaining];
    while let Some((namespace, name)) = page.more.clone() {
        cache.commit(Thing::new(&name).delete()).await.unwrap();
        cache
            .commit(Thing::new(&format!("{name}-later")).create())
            .await
            .unwrap();
        let after = Some((&*namespace, &*name));
        let query = ListQuery {
            after,
            limit: Some(4),
            ..ListQuery::default()
        };
        page = cache.list(JOBS, ListAt::Exact(revision), &query).unwrap();
        assert_eq!(page.revision, revision);
        listed.extend(names(&page.items));
        remaining.push(page.remaining);
    }
    assert_eq!(
        listed,
        (0..10).map(|n| format!("job-{n}")).collect::<Vec<_>>()
    );
    assert_eq!(remaining, [Some(6), Some(2), None]);
}

#[tokio::test]
async fn a_list_keeps_to_its_namespace_and_selection() {
    let cache = cache();
    for (namespace, name, color, node) in [
        ("a", "x", "red", "n1"),
        ("a", "y", "blue", "n2"),
        ("b", "x", "red", "n2"),
        ("b", "z", "red", "n1"),
    ] {
        let thing = Thing {
            namespace: namespace.to_owned(),
            ..Thing::new(name)
        };
        cache
            .commit(thing.color(color).node(node).create())
            .await
            .unwrap();
    }
    for (namespace, labels, fields, wanted) in [
        (None, "", "", &["a/x", "a/y", "b/x", "b/z"][..]),
        (Some("a"), "", "", &["a/x", "a/y"]),
        (Some("none"), "", "", &[]),
        (None, "color=red", "", &["a/x", "b/x", "b/z"]),
        (None, "color=red", "spec.node=n1", &["a/x", "b/z"]),
        (None, "", "spec.node!=n1", &["a/y", "b/x"]),
        (None, "", "metadata.name=x", &["a/x", "b/x"]),
        (Some("b"), "", "metadata.name=x", &["b/x"]),
        (Some("b"), "color=blue", "metadata.name=x", &[]),
        (None, "", "metadata.namespace=b,metadata.name=z", &["b/z"]),
        (Some("a"), "", "metadata.namespace=b", &[]),
    ] {
        let query = ListQuery {
            namespace,
            selection: selection(labels, fields),
            ..ListQuery::default()
        };
        let page = cache.list(JOBS, ListAt::Latest, &query).unwrap();
        let found: Vec<_> = page
            .items
            .iter()
            .map(|stored| format!("{}/{}", stored.key.namespace, stored.key.name))
            .collect();
        assert_eq!(found, wanted, "{namespace:?} {labels} {fields}");
        assert_eq!(page.remaining, None);
    }
}

#[tokio::test]
async fn history_ages_and_is_removed_from_the_store() {
    let (clock, store) = (HandClock::default(), memory());
    let cache = open(&store, options(&clock));
    let (a, b, c) = (Thing::new("a"), Thing::new("b"), Thing::new("c"));
    for mutation in [a.create(), b.create(), a.update(), b.delete()] {
        cache.commit(mutation).await.unwrap();
    }
    assert_eq!(records(&*store).len(), 4);
    clock.advance(Duration::from_secs(601));
    cache.commit(c.create()).await.unwrap();
    assert_eq!(revisions(&records(&*store)), [FIRST + 2, FIRST + 4].into());
    assert_eq!(cache.oldest_revision(JOBS), FIRST + 3);
    assert_eq!(all(&cache, ListAt::Exact(FIRST + 3)), ["a"]);
    let expired = ListError::Expired {
        oldest: FIRST + 3,
        current: FIRST + 4,
    };
    let query = ListQuery::default();
    assert_eq!(
        cache
            .list(JOBS, ListAt::Exact(FIRST + 2), &query)
            .unwrap_err(),
        expired
    );
    assert_eq!(cache.get_at(&a.key(), FIRST + 2).unwrap_err(), expired);
    let reopened = open(&store, options(&clock));
    assert_eq!(
        reopened.oldest_revision(JOBS),
        FIRST + 3,
        "the floor survives a restart"
    );
    assert_eq!(all(&reopened, ListAt::Latest), ["a", "c"]);
}

#[tokio::test]
async fn history_is_bounded_by_bytes() {
    let (clock, store) = (HandClock::default(), memory());
    let mut options = options(&clock);
    options.history.bytes = 20_000;
    let cache = open(&store, options);
    let job = Thing::new("job").payload(1000);
    cache.commit(job.create()).await.unwrap();
    for _ in 0..100 {
        cache.commit(job.update()).await.unwrap();
    }
    let stats = cache.stats().resources[0].clone();
    assert!(stats.history_bytes <= 22_000, "{stats:?}");
    assert!((5..20).contains(&stats.history), "{stats:?}");
    assert!(records(&*store).len() <= stats.history + 2);
}

#[tokio::test]
async fn the_whole_history_is_bounded_and_the_largest_share_goes_first() {
    let (clock, store) = (HandClock::default(), memory());
    let mut options = options(&clock);
    options.history_bytes = 30_000;
    let cache = open(&store, options);
    let (small, large) = (Thing::new("small"), Thing::new("large").payload(1000));
    let other = |mutation: Mutation| {
        let key = crate::store::ObjectKey {
            resource: "other".into(),
            ..mutation.key
        };
        Mutation { key, ..mutation }
    };
    cache.commit(other(small.create())).await.unwrap();
    cache.commit(other(small.update())).await.unwrap();
    cache.commit(large.create()).await.unwrap();
    for _ in 0..100 {
        cache.commit(large.update()).await.unwrap();
    }
    let stats = cache.stats().resources;
    assert!(
        stats
            .iter()
            .map(|resource| resource.history_bytes)
            .sum::<usize>()
            < 33_000
    );
    assert_eq!(
        cache.oldest_revision("other"),
        FIRST - 1,
        "the small one keeps its history"
    );
    assert!(cache.oldest_revision(JOBS) > FIRST);
}

#[tokio::test]
async fn leases_are_forgotten_sooner_than_jobs() {
    let clock = HandClock::default();
    let options = options(&clock);
    let minute = HistoryLimits {
        age: Duration::from_mins(1),
        bytes: 4 << 20,
    };
    assert_eq!(options.limits("leases.coordination.k8s.io"), minute);
    assert_eq!(options.limits(JOBS).age, Duration::from_mins(10));
}

#[tokio::test]
async fn idle_history_is_trimmed_and_no_revision_is_used_twice() {
    let (clock, store) = (HandClock::default(), memory());
    let quick = |clock: &HandClock| CacheOptions {
        trim_every: Duration::from_millis(1),
        ..options(clock)
    };
    let cache = open(&store, quick(&clock));
    let job = Thing::new("job");
    cache.commit(job.create()).await.unwrap();
    cache.commit(job.delete()).await.unwrap();
    clock.advance(Duration::from_secs(601));
    while cache.oldest_revision(JOBS) < FIRST {
        tokio::task::yield_now().await;
    }
    let kept = records(&*store);
    let newest = kept
        .last()
        .map(|record| (record.revision, record.operation));
    assert_eq!(
        newest,
        Some((FIRST + 1, Operation::Delete)),
        "it says which revision is next"
    );
    let reopened = open(&store, quick(&clock));
    assert_eq!(
        reopened.commit(job.create()).await.unwrap().revision,
        FIRST + 2
    );
    assert_eq!(all(&reopened, ListAt::Latest), ["job"]);
    assert_eq!(revisions(&records(&*store)), [FIRST + 2].into());
}

#[tokio::test]
async fn a_restart_brings_back_objects_history_owners_and_watches() {
    let (clock, store) = (HandClock::default(), memory());
    let before = open(&store, options(&clock));
    let (a, b) = (Thing::new("a").owner("uid-b"), Thing::new("b"));
    for mutation in [a.create(), b.create(), b.update(), Thing::new("c").create()] {
        before.commit(mutation).await.unwrap();
    }
    before.commit(Thing::new("c").delete()).await.unwrap();
    let (wanted, _) = drain(&mut watch(
        &before,
        WatchFrom::After(FIRST),
        Selection::default(),
    ));
    before.close().await;

    let after = open(&store, options(&clock));
    assert_eq!(after.current_revision(), FIRST + 4);
    assert_eq!(all(&after, ListAt::Latest), ["a", "b"]);
    assert_eq!(all(&after, ListAt::Exact(FIRST + 3)), ["a", "b", "c"]);
    assert_eq!(after.dependents("uid-b"), [a.key()]);
    let (seen, _) = drain(&mut watch(
        &after,
        WatchFrom::After(FIRST),
        Selection::default(),
    ));
    assert_eq!((seen.len(), seen), (4, wanted));
}

#[tokio::test]
async fn dependents_follow_the_owner_references() {
    let cache = cache();
    let (a, b) = (Thing::new("a").owner("x"), Thing::new("b").owner("x"));
    cache.commit(a.create()).await.unwrap();
    cache.commit(b.create()).await.unwrap();
    assert_eq!(cache.dependents("x"), [a.key(), b.key()]);
    cache
        .commit(Thing::new("a").owner("y").update())
        .await
        .unwrap();
    cache.commit(b.delete()).await.unwrap();
    assert_eq!(
        (cache.dependents("x"), cache.dependents("y")),
        (vec![], vec![a.key()])
    );
}

#[tokio::test]
async fn a_storage_error_leaves_reads_and_refuses_writes() {
    let store = Arc::new(FaultyStore::new(MemoryStore::new()));
    let cache = open(&store, options(&HandClock::default()));
    let (a, b) = (Thing::new("a"), Thing::new("b"));
    cache.commit(a.create()).await.unwrap();
    assert!(cache.failed().now_or_never().is_none());

    store.fails.store(true, Ordering::Relaxed);
    assert_eq!(outcome(&cache.commit(b.create()).await), "storage failed");
    let error = cache.failed().await;
    assert_eq!(
        error.to_string(),
        "failed to write to the store at `/dev/null`"
    );
    store.fails.store(false, Ordering::Relaxed);
    assert_eq!(
        outcome(&cache.commit(b.create()).await),
        "storage failed",
        "once is for good"
    );
    assert_eq!(all(&cache, ListAt::Latest), ["a"]);
    assert_eq!(cache.current_revision(), FIRST);
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_lets_deletes_through_while_it_can() {
    let store = Arc::new(FaultyStore::new(MemoryStore::new()));
    let cache = open(&store, options(&HandClock::default()));
    let (a, b) = (Thing::new("a"), Thing::new("b"));
    for (room, create, delete) in [
        (Room::Low { free: 1, floor: 2 }, "no space", "committed"),
        (Room::None { free: 0, floor: 2 }, "no space", "no space"),
        (Room::Enough, "committed", "committed"),
    ] {
        *store.room.lock() = Room::Enough;
        cache.commit(a.create()).await.unwrap();
        *store.room.lock() = room;
        assert_eq!(outcome(&cache.commit(b.create()).await), create, "{room:?}");
        assert_eq!(outcome(&cache.commit(a.delete()).await), delete, "{room:?}");
        *store.room.lock() = Room::Enough;
        let _ = cache.commit(a.delete()).await;
    }
    assert!(!cache.has_failed(), "a full disk is not a failed one");
}

#[tokio::test]
async fn the_same_calls_make_the_same_history() {
    let mut histories = Vec::new();
    for _ in 0..3 {
        let store = memory();
        let cache = open(&store, options(&HandClock::default()));
        join_all((0..40).map(|n| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let thing = Thing::new(&format!("job-{}", n % 7)).payload(n);
                let _ = cache.commit(thing.create()).await;
                let _ = cache.commit(thing.update()).await;
                let _ = cache.commit(thing.delete()).await;
            })
        }))
        .await;
        histories.push((records(&*store), cache.stats().batch_sizes.count));
    }
    assert!(histories[0].0.len() > 40);
    assert!(histories.iter().all(|history| *history == histories[0]));
}

#[tokio::test]
async fn a_start_knows_the_current_objects_before_it_extracts_from_them() {
    let store = memory();
    let first = open(&store, options(&HandClock::default()));
    for mutation in [
        Thing::new("a").create(),
        Thing::new("b").create(),
        Thing::new("a").color("red").update(),
        Thing::new("b").delete(),
    ] {
        first.commit(mutation).await.unwrap();
    }
    let current = first.get(&Thing::new("a").key()).unwrap();
    let again: Arc<dyn Store> = store;
    let index = |recovered: &super::Recovered| -> super::Index {
        assert_eq!(
            recovered.objects(JOBS),
            std::slice::from_ref(&current.bytes)
        );
        assert!(recovered.objects("others").is_empty() && !recovered.is_empty());
        Arc::new(super::testing::extract)
    };
    let second = super::Cache::open(again, options(&HandClock::default()), index).unwrap();
    assert_eq!(second.get(&current.key).unwrap().index, current.index);
}

#[tokio::test]
async fn a_log_with_a_hole_is_refused_with_the_place() {
    let store = memory();
    let cache = open(&store, options(&HandClock::default()));
    for mutation in [Thing::new("a").create(), Thing::new("a").update()] {
        cache.commit(mutation).await.unwrap();
    }
    let removals = vec![Removal {
        revision: FIRST,
        bytes: 1,
    }];
    let hole = Batch {
        after: FIRST + 1,
        removals,
        ..Batch::default()
    };
    store.commit(&hole).unwrap();
    let store: Arc<dyn Store> = store;
    let index = |_: &super::Recovered| Arc::new(super::testing::extract) as super::Index;
    let error = super::Cache::open(store, options(&HandClock::default()), index).unwrap_err();
    assert!(
        error.to_string().contains(&(FIRST + 1).to_string()),
        "{error}"
    );
}
