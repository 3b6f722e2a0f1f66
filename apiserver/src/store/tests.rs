//! What both stores promise, checked against a model; and what the one on disk does when it cannot.

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures::future::join_all;
use parking_lot::Mutex;
use proptest::prelude::*;
use rustix::fs::{FlockOperation, flock};

use super::{
    Batch, EmbeddedOptions, EmbeddedStore, FIRST_REVISION, Floors, MemoryStore, ObjectKey,
    Operation, Record, Removal, Revision, Room, Store, StoreError, durable::Tuning, encoded_len,
    journal::Sizes,
};
use crate::{
    cache::{
        Cache, ListAt, ListQuery, WatchFrom,
        testing::{HandClock, JOBS, Seen, Thing, drain, names, open, options, outcome, records},
    },
    selector::Selection,
};

const FIRST: Revision = FIRST_REVISION;

/// When the database takes over what was committed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lag {
    /// As soon as it can.
    None,
    /// Every few batches.
    Some,
    /// Not before it is closed.
    All,
}

/// A journal of small segments, so that a test sees many of them.
pub(super) fn small(dir: &Path, lag: Lag) -> EmbeddedOptions {
    let (takeover_bytes, takeover_after) = match lag {
        Lag::None => (0, Duration::ZERO),
        Lag::Some => (100_000, Duration::from_hours(1)),
        Lag::All => (usize::MAX / 4, Duration::from_hours(1)),
    };
    let sizes = Sizes {
        segment: 256 << 10,
        step: 64 << 10,
    };
    EmbeddedOptions {
        tuning: Tuning {
            sizes,
            takeover_bytes,
            part_bytes: 30_000,
            takeover_after,
            most_pending: usize::MAX,
            ..Tuning::default()
        },
        ..EmbeddedOptions::new(dir)
    }
}

fn impatient(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        lock_patience: Duration::ZERO,
        ..small(dir, Lag::Some)
    }
}

/// With patience, because a test that starts a process has every lock for a moment: between fork and exec.
fn embedded(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(small(dir, Lag::Some)).unwrap()
}

pub(super) fn lag() -> impl Strategy<Value = Lag> {
    prop_oneof![Just(Lag::None), Just(Lag::Some), Just(Lag::All)]
}

fn failure(options: EmbeddedOptions) -> StoreError {
    match EmbeddedStore::open(options) {
        Ok(_) => panic!("the store was opened"),
        Err(error) => error,
    }
}

fn record(revision: Revision, name: &str, previous: Option<Revision>, bytes: usize) -> Record {
    let operation = if name.starts_with('-') {
        Operation::Delete
    } else {
        Operation::Put
    };
    Record {
        revision,
        operation,
        key: ObjectKey::new("things", "", name.trim_start_matches('-')),
        previous,
        time_ms: 5,
        rv_offset: 9,
        body: vec![u8::try_from(revision % 251).unwrap(); bytes].into(),
    }
}

fn removal(record: &Record) -> Removal {
    let bytes = encoded_len(&record.key, record.body.len());
    Removal {
        revision: record.revision,
        bytes,
    }
}

pub(super) fn blob_files(dir: &Path) -> usize {
    fs::read_dir(dir.join("log/blobs")).map_or(0, Iterator::count)
}

/// Copies a directory as a kill would leave it: without anything of the running process.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// One step of a model check.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Each: which object, how large, deleted or not.
    Commit(Vec<(u8, usize, bool)>),
    /// Give up this many of the oldest changes.
    Forget(usize),
    Reopen,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size =
        prop_oneof![8 => 1..2000_usize, 1 => 15_000..60_000_usize, 1 => 400_000..700_000_usize];
    let change = (0..12_u8, size, prop::bool::weighted(0.2));
    let step = prop_oneof![
        8 => prop::collection::vec(change, 1..12).prop_map(Step::Commit),
        3 => (1..10_usize).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

/// The records that a store must have, and what it has given up.
#[derive(Clone, Default)]
pub(super) struct Model {
    records: BTreeMap<Revision, Record>,
    live: BTreeMap<String, Revision>,
    last: Revision,
    floor: Revision,
}

impl Model {
    /// Of a fresh store.
    pub(super) fn new() -> Self {
        Self {
            last: FIRST - 1,
            floor: FIRST - 1,
            ..Self::default()
        }
    }

    pub(super) fn commit(&mut self, changes: &[(u8, usize, bool)]) -> Batch {
        let mut batch = Batch {
            after: self.last,
            ..Batch::default()
        };
        for (name, size, delete) in changes {
            let name = format!("thing-{name}");
            let previous = self.live.get(&name).copied();
            let delete = *delete && previous.is_some();
            self.last += 1;
            let sign = if delete { "-" } else { "" };
            let record = record(self.last, &format!("{sign}{name}"), previous, *size);
            if delete {
                self.live.remove(&name);
            } else {
                self.live.insert(name, self.last);
            }
            self.records.insert(self.last, record.clone());
            batch.records.push(record);
        }
        batch
    }

    pub(super) fn forget(&mut self, count: usize) -> Batch {
        let floor = (self.floor + count as u64)
            .min(self.last.saturating_sub(1))
            .max(self.floor);
        let mut removals = Vec::new();
        for revision in self.floor + 1..=floor {
            let Some(change) = self.records.get(&revision).cloned() else {
                continue;
            };
            let superseded = change
                .previous
                .and_then(|previous| self.records.remove(&previous));
            removals.extend(superseded.as_ref().map(removal));
            if change.operation == Operation::Delete {
                removals.extend(self.records.remove(&revision).as_ref().map(removal));
            }
        }
        self.floor = floor;
        let floors = Some(Floors::from([("things".into(), floor)]));
        Batch {
            after: self.last,
            removals,
            floors,
            ..Batch::default()
        }
    }

    fn list(&self, at: Revision) -> Vec<Record> {
        let mut live = BTreeMap::new();
        for record in self
            .records
            .values()
            .take_while(|record| record.revision <= at)
        {
            match record.operation {
                Operation::Put => live.insert(record.key.clone(), record.clone()),
                Operation::Delete => live.remove(&record.key),
            };
        }
        live.into_values().collect()
    }

    /// Does the store have the same records and floor?
    pub(super) fn agrees(&self, store: &impl Store) -> bool {
        let floor = store.floors().unwrap().get("things").copied();
        let records = records(store);
        floor.unwrap_or(FIRST - 1) == self.floor && records.iter().eq(self.records.values())
    }

    pub(super) fn check(&self, store: &impl Store) {
        assert_eq!(store.last_revision(), self.last);
        assert_eq!(
            records(store),
            self.records.values().cloned().collect::<Vec<_>>()
        );
        for at in [self.floor, self.last] {
            assert_eq!(store.list("things", at).unwrap(), self.list(at), "at {at}");
        }
        let below = store.list("things", self.floor - 1);
        assert!(matches!(below, Err(StoreError::Expired { floor, .. }) if floor == self.floor));
        for revision in self.floor - 2..=self.last + 1 {
            assert_eq!(
                store.read(revision).unwrap().as_ref(),
                self.records.get(&revision)
            );
        }
    }
}

fn check_steps<S: Store>(mut store: S, reopen: impl Fn(S) -> S, steps: &[Step]) {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Commit(changes) => store.commit(&model.commit(changes)).unwrap(),
            Step::Forget(count) => store.commit(&model.forget(*count)).unwrap(),
            Step::Reopen => store = reopen(store),
        }
        model.check(&store);
    }
    model.check(&reopen(store));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_memory_is_the_model(steps in steps()) {
        check_steps(MemoryStore::new(), |store| store, &steps);
    }

    #[test]
    fn the_store_on_disk_is_the_model_across_restarts(steps in steps(), lag in lag()) {
        let dir = tempfile::tempdir().unwrap();
        let open = || EmbeddedStore::open(small(dir.path(), lag)).unwrap();
        let reopen = |store: EmbeddedStore| {
            drop(store);
            open()
        };
        check_steps(open(), reopen, &steps);
        prop_assert_eq!(blob_files(dir.path()), 0);
    }

    #[test]
    fn a_kill_at_any_time_loses_nothing_that_was_committed(steps in steps(), lag in lag()) {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(small(dir.path(), lag)).unwrap();
        let mut model = Model::new();
        for (n, step) in steps.iter().enumerate() {
            match step {
                Step::Commit(changes) => store.commit(&model.commit(changes)).unwrap(),
                Step::Forget(count) => store.commit(&model.forget(*count)).unwrap(),
                Step::Reopen => {}
            }
            if n % 6 == 5 || n + 1 == steps.len() {
                let killed = tempfile::tempdir().unwrap();
                store.while_still(|| copy(dir.path(), killed.path()));
                // Opened twice, because the first may be killed before it has taken over.
                let again = tempfile::tempdir().unwrap();
                let opened = EmbeddedStore::open(small(killed.path(), Lag::All)).unwrap();
                opened.while_still(|| copy(killed.path(), again.path()));
                model.check(&opened);
                model.check(&embedded(again.path()));
            }
        }
    }

    #[test]
    fn a_watch_resumed_anywhere_leads_to_the_present(
        writes in prop::collection::vec((0..6_u8, 0..3_u8, 0..3_u8, prop::bool::weighted(0.25)), 1..60),
        labels in prop_oneof![Just(""), Just("color=c1"), Just("color!=c2")],
        fields in prop_oneof![Just(""), Just("spec.node=n1"), Just("metadata.name=job-3")],
        restart: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check_resume(&writes, labels, fields, restart));
    }
}

async fn check_resume(writes: &[(u8, u8, u8, bool)], labels: &str, fields: &str, restart: bool) {
    let store = Arc::new(MemoryStore::new());
    let clock = HandClock::default();
    let mut cache = open(&store, options(&clock));
    let selection = crate::cache::testing::selection(labels, fields);
    let from = WatchFrom::Latest;
    let mut live = cache
        .watch(JOBS, None, from, selection.clone(), usize::MAX)
        .unwrap();
    for (name, color, node, delete) in writes {
        let thing = Thing::new(&format!("job-{name}"));
        let thing = thing.color(&format!("c{color}")).node(&format!("n{node}"));
        let mutation = match (cache.get(&thing.key()), delete) {
            (None, _) => thing.create(),
            (Some(_), true) => thing.delete(),
            (Some(_), false) => thing.update(),
        };
        cache.commit(mutation).await.unwrap();
    }
    let (everything, _) = drain(&mut live);
    if restart {
        cache.close().await;
        cache = open(&store, options(&clock));
    }
    for after in FIRST - 1..=cache.current_revision() {
        let from = WatchFrom::After(after);
        let mut resumed = cache
            .watch(JOBS, None, from, selection.clone(), usize::MAX)
            .unwrap();
        let (events, end) = drain(&mut resumed);
        let wanted: Vec<&Seen> = everything
            .iter()
            .filter(|event| event.revision > after)
            .collect();
        assert_eq!(
            (events.iter().collect::<Vec<_>>(), end),
            (wanted, None),
            "after {after}"
        );
        let mut followed = listed(&cache, ListAt::Exact(after), &selection);
        for event in events {
            followed.retain(|name| *name != event.name);
            if event.kind != super::EventType::Deleted {
                followed.push(event.name);
            }
        }
        followed.sort();
        assert_eq!(
            followed,
            listed(&cache, ListAt::Latest, &selection),
            "after {after}"
        );
    }
}

fn listed(cache: &Cache, at: ListAt, selection: &Selection) -> Vec<String> {
    let query = ListQuery {
        selection: selection.clone(),
        ..ListQuery::default()
    };
    names(&cache.list(JOBS, at, &query).unwrap().items)
}

#[test]
fn a_batch_that_does_not_follow_is_refused_and_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Box<dyn Store>; 2] =
        [Box::new(MemoryStore::new()), Box::new(embedded(dir.path()))];
    for store in stores {
        let batch = |after| Batch {
            after,
            records: vec![record(after + 1, "a", None, 10)],
            ..Batch::default()
        };
        store.commit(&batch(FIRST - 1)).unwrap();
        for after in [0, FIRST - 1, FIRST + 1] {
            let refused = store.commit(&batch(after)).unwrap_err();
            assert!(
                matches!(refused, StoreError::OutOfOrder { .. }),
                "{refused}"
            );
        }
        store.commit(&batch(FIRST)).unwrap();
        assert_eq!(store.last_revision(), FIRST + 1);
    }
}

#[test]
fn history_can_be_read_from_any_revision_and_left_early() {
    let store = MemoryStore::new();
    let records = (0..5)
        .map(|n| record(FIRST + n, &format!("a{n}"), None, 10))
        .collect();
    store
        .commit(&Batch {
            after: FIRST - 1,
            records,
            ..Batch::default()
        })
        .unwrap();
    let mut seen = Vec::new();
    let mut visit = |record: Record| {
        seen.push(record.revision);
        if seen.len() == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    store.history(FIRST + 1, &mut visit).unwrap();
    assert_eq!(seen, [FIRST + 2, FIRST + 3]);
}

#[test]
fn a_second_server_is_told_who_is_in_the_way_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = embedded(dir.path());
    let error = failure(impatient(dir.path()));
    let text = error.to_string();
    assert!(matches!(error, StoreError::InUse { .. }), "{text}");
    assert!(text.contains(&*dir.path().to_string_lossy()) && text.contains("stop that server"));
    store
        .commit(&Model::new().commit(&[(1, 9, false)]))
        .unwrap();
    drop(store);
    assert_eq!(records(&embedded(dir.path())).len(), 1);
}

#[test]
fn a_lock_that_is_let_go_in_time_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = embedded(dir.path());
    std::thread::scope(|scope| {
        let second = scope.spawn(|| EmbeddedStore::open(EmbeddedOptions::new(dir.path())).is_ok());
        drop(store);
        assert!(second.join().unwrap());
    });
}

/// What a child of this process does between its fork and its exec: it holds every lock of its parent.
#[test]
fn a_lock_on_the_database_file_that_somebody_holds_for_a_moment_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    drop(embedded(dir.path()));
    let hold = || {
        let file = fs::File::open(dir.path().join("log/db")).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        file
    };
    let held = hold();
    let error = failure(impatient(dir.path()));
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");

    let held = Mutex::new(Some(held));
    let (busy, found_busy) = mpsc::channel();
    let options = EmbeddedOptions {
        lock_patience: Duration::from_hours(1),
        on_busy: Box::new(move || busy.send(()).unwrap()),
        ..EmbeddedOptions::new(dir.path())
    };
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| EmbeddedStore::open(options).is_ok());
        found_busy.recv().unwrap();
        held.lock().take();
        assert!(opened.join().unwrap());
    });
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = failure(impatient(&path));
        let text = error.to_string();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{text}");
        assert!(
            text.contains(&*path.to_string_lossy()) && text.contains("write access"),
            "{text}"
        );
    }
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    if !rustix::process::geteuid().is_root() {
        assert!(matches!(
            failure(impatient(&locked)),
            StoreError::NotWritable { .. }
        ));
    }
}

#[test]
fn a_full_disk_is_opened_with_the_reserve_and_refused_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(u64::MAX / 2));
    let options = || {
        let free = Arc::clone(&free);
        let free_bytes = Box::new(move || Ok(free.load(Ordering::Relaxed)));
        EmbeddedOptions {
            free_bytes: Some(free_bytes),
            ..impatient(dir.path())
        }
    };
    let store = EmbeddedStore::open(options()).unwrap();
    let one = Model::new().commit(&[(1, 9, false)]);
    store.commit(&one).unwrap();
    assert_eq!(store.room(), Room::Enough);
    free.store(0, Ordering::Relaxed);
    assert!(matches!(store.room(), Room::None { free: 0, .. }));
    drop(store);

    let reopened = EmbeddedStore::open(options()).unwrap();
    assert_eq!(records(&reopened).len(), 1);
    drop(reopened);
    assert!(
        matches!(failure(options()), StoreError::Full { .. }),
        "the reserve is used up"
    );
    free.store(u64::MAX / 2, Ordering::Relaxed);
    assert_eq!(records(&EmbeddedStore::open(options()).unwrap()).len(), 1);
}

#[test]
fn what_an_interrupted_first_start_leaves_does_not_stop_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::create_dir(&log).unwrap();
    fs::write(log.join("conf"), "half").unwrap();
    fs::write(log.join("snap.00000000000FFFFF.generating"), "half").unwrap();
    let store = embedded(dir.path());
    store
        .commit(&Model::new().commit(&[(1, 9, false)]))
        .unwrap();
    drop(store);
    fs::write(log.join("snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap();
    assert_eq!(records(&embedded(dir.path())).len(), 1);
}

#[test]
fn objects_of_the_largest_size_make_no_blob_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = embedded(dir.path());
    let mut model = Model::new();
    for n in 0..24 {
        store
            .commit(&model.commit(&[(n % 6, 3 << 20, false), (7, 20, false)]))
            .unwrap();
    }
    store.commit(&model.forget(30)).unwrap();
    model.check(&store);
    assert_eq!(blob_files(dir.path()), 0);
    drop(store);
    model.check(&embedded(dir.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_on_disk_commits_concurrently_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = HandClock::default();
    let cache = open(&Arc::new(embedded(dir.path())), options(&clock));
    let things: Vec<_> = (0..200)
        .map(|n| Thing::new(&format!("job-{n:03}")))
        .collect();
    let answers = join_all(things.iter().map(|thing| cache.commit(thing.create()))).await;
    assert!(answers.iter().all(|answer| outcome(answer) == "committed"));
    assert!(cache.stats().bytes_on_disk > 0);
    cache.close().await;

    let store = Arc::new(embedded(dir.path()));
    assert_eq!(
        store.read(FIRST).unwrap().map(|record| record.revision),
        Some(FIRST)
    );
    let cache = open(&store, options(&clock));
    assert_eq!(cache.current_revision(), FIRST + 199);
    assert_eq!(cache.count(JOBS), 200);
    let from = WatchFrom::After(FIRST + 99);
    let mut late = cache
        .watch(JOBS, None, from, Selection::default(), 1)
        .unwrap();
    assert_eq!(drain(&mut late).0.len(), 100);
}
