//! What watches deliver, how they end, and what they cost.

use std::sync::Arc;

use futures::{FutureExt, StreamExt};

use super::{
    Index, ListAt, ListQuery, WatchEnd, WatchError, WatchFrom,
    testing::{
        HandClock, JOBS, Thing, drain, extract, names, open, options, outcome, selection,
        written_revision,
    },
};
use crate::{
    selector::Selection,
    store::{EventType, FIRST_REVISION, MemoryStore, Room, Store, Texts},
};

const FIRST: u64 = FIRST_REVISION;
const BUFFER: usize = 1 << 20;

fn cache() -> super::Cache {
    open(
        &Arc::new(MemoryStore::new()),
        options(&HandClock::default()),
    )
}

fn all(cache: &super::Cache, at: ListAt) -> Vec<String> {
    names(&cache.list(JOBS, at, &ListQuery::default()).unwrap().items)
}

fn watch(cache: &super::Cache, from: WatchFrom, selection: Selection) -> super::Watch {
    cache.watch(JOBS, None, from, selection, BUFFER).unwrap()
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
        let node = entry.fields.get("spec.node").unwrap().into();
        entry.fields = Texts::from_iter([("renamed".into(), node)]);
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
