//! The behaviour of the cache: what is committed, read and watched.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::join_all};

use super::{
    CacheOptions, HistoryLimits, Index, ListAt, ListError, ListQuery, WatchEnd, WatchError,
    WatchFrom,
    testing::{
        FaultyStore, HandClock, JOBS, Thing, drain, extract, names, open, options, outcome,
        records, revisions, selection, written_revision,
    },
};
use crate::{
    selector::Selection,
    store::{EventType, Expect, FIRST_REVISION, MemoryStore, Mutation, Operation, Room, Store},
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
async fn a_deleted_object_is_announced_with_its_last_state_and_the_deletions_revision() {
    let cache = cache();
    let mut events = watch(&cache, WatchFrom::Latest, Selection::default());
    let thing = Thing::new("job").color("red");
    cache.commit(thing.create()).await.unwrap();
    let deleted = cache.commit(thing.delete()).await.unwrap();
    assert_eq!(written_revision(&deleted), FIRST + 1);
    assert!(cache.get(&thing.key()).is_none());
    let (events, _) = drain(&mut events);
    assert_eq!(
        events.last().map(|event| (event.kind, event.revision)),
        Some((EventType::Deleted, FIRST + 1))
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
async fn an_object_enters_and_leaves_a_selection_as_added_and_deleted() {
    use EventType::{Added, Deleted, Modified};
    for (labels, fields) in [("color=red", ""), ("", "spec.node=red")] {
        let cache = cache();
        let mut events = watch(&cache, WatchFrom::Latest, selection(labels, fields));
        let paint = |color: &str| Thing::new("job").color(color).node(color);
        for (mutation, wanted) in [
            (paint("blue").create(), None),
            (paint("red").update(), Some(Added)),
            (paint("red").payload(1).update(), Some(Modified)),
            (paint("blue").payload(2).update(), Some(Deleted)),
            (paint("blue").delete(), None),
            (paint("red").create(), Some(Added)),
            (paint("red").delete(), Some(Deleted)),
        ] {
            let before = cache.get(&Thing::new("job").key());
            let stored = cache.commit(mutation).await.unwrap();
            let batch = events.next().now_or_never().flatten().map(Result::unwrap);
            let event = batch.as_ref().map(|batch| &batch.events()[0]);
            assert_eq!(event.map(|event| event.kind), wanted, "{}", stored.revision);
            let Some(event) = event else { continue };
            assert_eq!(written_revision(&event.stored), stored.revision);
            let leaves = wanted == Some(Deleted) && cache.get(&stored.key).is_some();
            let shown = extract(JOBS, &event.stored.bytes);
            let told = if leaves {
                before.unwrap().index.clone()
            } else {
                Arc::clone(&stored.index)
            };
            assert_eq!(shown, *told);
        }
    }
}

#[tokio::test]
async fn a_watcher_of_one_field_value_costs_nothing_for_other_values() {
    let cache = cache();
    let mut mine = watch(&cache, WatchFrom::Latest, selection("", "spec.node=mine"));
    for n in 0..50 {
        let thing =
            Thing::new(&format!("job-{n}")).node(if n % 10 == 0 { "mine" } else { "other" });
        cache.commit(thing.create()).await.unwrap();
    }
    assert_eq!(drain(&mut mine).0.len(), 5);
    assert_eq!(cache.stats().events_delivered, 5);
}

#[tokio::test]
async fn equal_watchers_share_one_buffer() {
    let cache = cache();
    let mut watches: Vec<_> = (0..3)
        .map(|_| watch(&cache, WatchFrom::Latest, selection("color=red", "")))
        .collect();
    cache
        .commit(Thing::new("job").color("red").create())
        .await
        .unwrap();
    let lines: Vec<_> = watches
        .iter_mut()
        .map(|watch| {
            watch
                .next()
                .now_or_never()
                .flatten()
                .unwrap()
                .unwrap()
                .json_lines()
        })
        .collect();
    assert!(lines.iter().all(|line| line.as_ptr() == lines[0].as_ptr()));
    assert_eq!(cache.stats().resources[0].watchers, 3);
    drop(watches);
    assert_eq!(cache.stats().resources[0].watchers, 0);
}

#[tokio::test]
async fn a_watch_begins_where_a_list_ended() {
    let cache = cache();
    cache.commit(Thing::new("a").create()).await.unwrap();
    let (page, mut events) = cache
        .list_and_watch(JOBS, None, Selection::default(), BUFFER)
        .unwrap();
    assert_eq!(
        (names(&page.items), page.revision),
        (vec!["a".to_owned()], events.start_revision())
    );
    cache.commit(Thing::new("b").create()).await.unwrap();
    let (events, _) = drain(&mut events);
    assert_eq!(
        events.iter().map(|event| &*event.name).collect::<Vec<_>>(),
        ["b"]
    );
}

#[tokio::test]
async fn progress_never_passes_what_was_taken() {
    let cache = cache();
    let mut mine = watch(&cache, WatchFrom::Latest, selection("", "spec.node=mine"));
    cache.commit(Thing::new("other").create()).await.unwrap();
    assert_eq!(
        mine.progress(),
        FIRST,
        "nothing waits, so the watch is where the store is"
    );
    cache
        .commit(Thing::new("a").node("mine").create())
        .await
        .unwrap();
    cache.commit(Thing::new("b").create()).await.unwrap();
    assert_eq!(mine.progress(), FIRST - 1, "an event waits");
    drain(&mut mine);
    assert_eq!(mine.progress(), FIRST + 2);
}

#[tokio::test]
async fn a_watch_from_outside_the_window_says_why_not() {
    let cache = cache();
    cache.commit(Thing::new("a").create()).await.unwrap();
    let watch = |after| {
        let from = WatchFrom::After(after);
        cache
            .watch(JOBS, None, from, Selection::default(), BUFFER)
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(watch(FIRST + 1), WatchError::Future { current: FIRST });
    assert_eq!(
        watch(5),
        WatchError::Expired {
            oldest: FIRST - 1,
            current: FIRST
        }
    );
}

#[tokio::test]
async fn a_slow_watcher_is_ended_and_holds_nothing() {
    let cache = cache();
    let everything = Selection::default();
    let mut slow = cache
        .watch(JOBS, None, WatchFrom::Latest, everything.clone(), 4096)
        .unwrap();
    let mut fast = watch(&cache, WatchFrom::Latest, everything);
    for n in 0..50 {
        cache
            .commit(Thing::new(&format!("job-{n}")).payload(300).create())
            .await
            .unwrap();
        assert_eq!(drain(&mut fast).0.len(), 1);
    }
    assert_eq!(slow.progress(), FIRST - 1);
    assert_eq!(drain(&mut slow), (Vec::new(), Some(WatchEnd::Lagged)));
    assert!(slow.next().await.is_none());
    assert_eq!(cache.stats().watchers_lagged, 1);
}

#[tokio::test]
async fn a_batch_larger_than_the_buffer_reaches_a_reader_that_keeps_up() {
    let cache = cache();
    let everything = Selection::default();
    let mut events = cache
        .watch(JOBS, None, WatchFrom::Latest, everything, 10)
        .unwrap();
    cache
        .commit(Thing::new("job").payload(5000).create())
        .await
        .unwrap();
    assert_eq!(drain(&mut events).0.len(), 1);
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
        age: Duration::from_secs(60),
        bytes: 4 << 20,
    };
    assert_eq!(options.limits("leases.coordination.k8s.io"), minute);
    assert_eq!(options.limits(JOBS).age, Duration::from_secs(600));
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
async fn closing_ends_watches_and_refuses_writes() {
    let cache = cache();
    cache.commit(Thing::new("a").create()).await.unwrap();
    let mut events = watch(&cache, WatchFrom::Latest, Selection::default());
    cache.close().await;
    assert_eq!(drain(&mut events), (Vec::new(), Some(WatchEnd::Closed)));
    assert_eq!(
        outcome(&cache.commit(Thing::new("b").create()).await),
        "closed"
    );
    let mut late = watch(&cache, WatchFrom::Latest, Selection::default());
    assert_eq!(drain(&mut late).1, Some(WatchEnd::Closed));
    assert_eq!(all(&cache, ListAt::Latest), ["a"], "reads go on");
}

#[tokio::test]
async fn ending_the_watches_of_one_resource_leaves_the_others() {
    let cache = cache();
    let mut jobs = watch(&cache, WatchFrom::Latest, Selection::default());
    let everything = Selection::default();
    let mut nodes = cache
        .watch("nodes", None, WatchFrom::Latest, everything, BUFFER)
        .unwrap();
    cache.end_watches(JOBS);
    assert_eq!(drain(&mut jobs).1, Some(WatchEnd::Closed));
    assert_eq!(drain(&mut nodes).1, None);
}

#[tokio::test]
async fn a_new_index_applies_to_objects_and_history() {
    let cache = cache();
    cache
        .commit(Thing::new("a").node("n1").create())
        .await
        .unwrap();
    cache
        .commit(Thing::new("a").node("n2").update())
        .await
        .unwrap();
    let renamed: Index = Arc::new(|resource, bytes| {
        let mut entry = extract(resource, bytes);
        let node = entry.fields.remove("spec.node").unwrap();
        entry.fields.insert("renamed".into(), node);
        entry
    });
    cache.reindex(JOBS, renamed).await.unwrap();
    let query = ListQuery {
        selection: selection("", "renamed=n2"),
        ..ListQuery::default()
    };
    assert_eq!(
        cache
            .list(JOBS, ListAt::Latest, &query)
            .unwrap()
            .items
            .len(),
        1
    );
    let mut left = watch(&cache, WatchFrom::After(FIRST), selection("", "renamed=n1"));
    assert_eq!(drain(&mut left).0[0].kind, EventType::Deleted);
    let stored = cache
        .commit(Thing::new("a").node("n2").at(FIRST + 1))
        .await
        .unwrap();
    assert_eq!(stored.revision, FIRST + 2);
    assert!(cache.stats().bytes_on_disk == 0 && MemoryStore::new().room() == Room::Enough);
}
