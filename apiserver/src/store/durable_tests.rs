//! The journal and the database together: power cuts, a database that lags, and folders of before the journal.

use std::{
    fs,
    sync::{Arc, mpsc},
    time::Duration,
};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::{
    EmbeddedOptions, EmbeddedStore, Room, Store, StoreError,
    durable::{Takeover, Tuning},
    journal::simulated::SimulatedDisk,
    tests::{Lag, Model, Step, copy, lag, small, steps},
};

/// What a power cut leaves: of the journal what its disk kept, of the database what it had synced, or
/// what it had written when a part of a takeover was applied.
struct Machine {
    disk: SimulatedDisk,
    running: tempfile::TempDir,
    kept: Arc<Mutex<tempfile::TempDir>>,
    keeps_written: bool,
}

impl Machine {
    fn new(keeps_written: bool) -> Self {
        Self {
            disk: SimulatedDisk::default(),
            running: tempfile::tempdir().unwrap(),
            kept: Arc::new(Mutex::new(tempfile::tempdir().unwrap())),
            keeps_written,
        }
    }

    fn start(&self, lag: Lag) -> Result<EmbeddedStore, StoreError> {
        let (path, kept) = (self.running.path().to_owned(), Arc::clone(&self.kept));
        let options = small(&path, lag);
        let keeps_written = self.keeps_written;
        let keep = move |step| {
            if step == Takeover::Synced || (step == Takeover::Applied && keeps_written) {
                let now = tempfile::tempdir().unwrap();
                copy(&path.join("log"), &now.path().join("log"));
                *kept.lock() = now;
            }
        };
        EmbeddedStore::open(EmbeddedOptions {
            tuning: Tuning {
                disk: Some(Box::new(self.disk.clone())),
                on_takeover: Box::new(keep),
                ..options.tuning
            },
            ..options
        })
    }

    /// The power comes back.
    fn restart(&mut self) {
        self.disk.restart();
        let running = tempfile::tempdir().unwrap();
        copy(self.kept.lock().path(), running.path());
        self.running = running;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn power_cuts_at_any_time_lose_nothing_that_was_committed(
        steps in steps(),
        lag in lag(),
        cuts in prop::collection::vec((0..60_usize, any::<u64>()), 1..4),
        keeps_written: bool,
    ) {
        let mut machine = Machine::new(keeps_written);
        let mut model = Model::new();
        let mut steps = steps.into_iter();
        for (cut, seed) in cuts {
            machine.disk.cut_after(cut, seed);
            let Ok(store) = machine.start(lag) else {
                machine.restart();
                continue;
            };
            let mut refused = None;
            for step in steps.by_ref() {
                let before = model.clone();
                let batch = match step {
                    Step::Commit(changes) => model.commit(&changes),
                    Step::Forget(count) => model.forget(count),
                    Step::Reopen => continue,
                };
                if store.commit(&batch).is_err() {
                    refused = Some(before);
                    break;
                }
            }
            drop(store);
            machine.restart();
            let store = machine.start(lag).unwrap();
            // The refused batch may be there, or not; all of it, or nothing.
            if let Some(before) = refused && !model.agrees(&store) {
                model = before;
            }
            model.check(&store);
            drop(store);
        }
    }
}

#[test]
fn a_start_hands_over_the_parts_that_a_kill_in_a_takeover_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(small(dir.path(), Lag::All)).unwrap();
    let mut model = Model::new();
    for n in 0..30 {
        store
            .commit(&model.commit(&[(n % 7, 10_000, false)]))
            .unwrap();
    }
    let running = tempfile::tempdir().unwrap();
    store.while_still(|| copy(dir.path(), running.path()));
    // What is there after each part is what a kill leaves there.
    let killed = Arc::new(Mutex::new(Vec::new()));
    let (path, each) = (running.path().to_owned(), Arc::clone(&killed));
    let options = small(running.path(), Lag::All);
    drop(EmbeddedStore::open(EmbeddedOptions {
        tuning: Tuning {
            on_takeover: Box::new(move |step| {
                if step == Takeover::Applied {
                    let now = tempfile::tempdir().unwrap();
                    copy(&path, now.path());
                    each.lock().push(now);
                }
            }),
            ..options.tuning
        },
        ..options
    }));
    assert!(killed.lock().len() >= 10, "{} parts", killed.lock().len());
    for killed in &*killed.lock() {
        model.check(&EmbeddedStore::open(small(killed.path(), Lag::All)).unwrap());
    }
}

fn three() -> (Model, Vec<super::Batch>) {
    let mut model = Model::new();
    let batches = (0..3).map(|n| model.commit(&[(n, 100, false)])).collect();
    (model, batches)
}

#[test]
fn commits_wait_for_a_database_that_is_too_far_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (go, gone) = mpsc::channel::<()>();
    let (gone, events) = (Mutex::new(gone), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&events);
    let options = small(dir.path(), Lag::None);
    let store = EmbeddedStore::open(EmbeddedOptions {
        tuning: Tuning {
            most_pending: 1,
            on_takeover: Box::new(move |step| match step {
                Takeover::Begins => gone.lock().recv().unwrap(),
                Takeover::Applied => {}
                Takeover::Synced => seen.lock().push("taken over"),
            }),
            ..options.tuning
        },
        ..options
    })
    .unwrap();
    let (model, batches) = three();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for batch in &batches {
                store.commit(batch).unwrap();
                events.lock().push("committed");
            }
        });
        for _ in &batches {
            go.send(()).unwrap();
        }
        writer.join().unwrap();
    });
    drop(go);
    let events = events.lock().clone();
    assert_eq!(
        events[..4],
        ["committed", "taken over", "committed", "taken over"]
    );
    model.check(&store);
}

#[test]
fn what_the_database_does_not_have_yet_is_read_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(small(dir.path(), Lag::All)).unwrap();
    let (mut model, batches) = three();
    for batch in &batches {
        store.commit(batch).unwrap();
    }
    model.check(&store);
    let changed = model.commit(&[(1, 50_000, false), (2, 1, true)]);
    store.commit(&changed).unwrap();
    store.commit(&model.forget(5)).unwrap();
    model.check(&store);
    drop(store);
    let taken_over = EmbeddedStore::open(small(dir.path(), Lag::All)).unwrap();
    model.check(&taken_over);
    let files = || fs::read_dir(dir.path().join("journal")).unwrap();
    let names: Vec<_> = files().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}: the journal was not given back");
}

#[test]
fn a_database_that_fails_ends_commits_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let (failing, failed) = mpsc::channel();
    let options = small(dir.path(), Lag::None);
    let store = EmbeddedStore::open(EmbeddedOptions {
        tuning: Tuning {
            most_pending: 1,
            on_takeover: Box::new(move |_| {
                failing.send(()).unwrap();
                std::panic::panic_any("the database is not well");
            }),
            ..options.tuning
        },
        ..options
    })
    .unwrap();
    let (_, batches) = three();
    store.commit(&batches[0]).unwrap();
    failed.recv().unwrap();
    for _ in 0..2 {
        let refused = store.commit(&batches[1]).unwrap_err();
        assert!(matches!(refused, StoreError::Failed { .. }), "{refused}");
    }
    // Reads go on.
    let mut model = Model::new();
    let _ = model.commit(&[(0, 100, false)]);
    model.check(&store);
    let killed = tempfile::tempdir().unwrap();
    copy(&path, killed.path());
    model.check(&EmbeddedStore::open(small(killed.path(), Lag::None)).unwrap());
}

#[test]
fn a_folder_of_before_the_journal_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (model, batches) = three();
    let patience = super::lock::Patience::new(dir.path(), Duration::from_secs(5), Box::new(|| {}));
    let database = super::embedded::Database::open(dir.path(), &patience).unwrap();
    database.apply(batches.iter(), 0).unwrap();
    database.sync().unwrap();
    database.close();
    assert!(!dir.path().join("journal").exists());
    let store = EmbeddedStore::open(small(dir.path(), Lag::Some)).unwrap();
    model.check(&store);
}

#[test]
fn a_damaged_journal_is_refused_with_its_file_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(small(dir.path(), Lag::All)).unwrap();
    let (_, batches) = three();
    for batch in &batches {
        store.commit(batch).unwrap();
    }
    let killed = tempfile::tempdir().unwrap();
    store.while_still(|| copy(dir.path(), killed.path()));
    let segment = fs::read_dir(killed.path().join("journal")).unwrap();
    let segment = segment.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[2 * 4096 + 70] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    for _ in 0..2 {
        let error = EmbeddedStore::open(small(killed.path(), Lag::All))
            .err()
            .unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let name = segment.file_name().unwrap().to_string_lossy();
        assert!(error.to_string().contains(&*name), "{error}");
        assert_eq!(fs::read(&segment).unwrap(), bytes);
    }
}

#[test]
fn what_is_owed_to_the_database_counts_as_used_space() {
    let dir = tempfile::tempdir().unwrap();
    let floor = 1 << 20;
    let options = EmbeddedOptions {
        free_space_floor: floor,
        free_bytes: Some(Box::new(move || Ok(floor + 10_000))),
        ..small(dir.path(), Lag::All)
    };
    let store = EmbeddedStore::open(options).unwrap();
    assert_eq!(store.room(), Room::Enough);
    let mut model = Model::new();
    store.commit(&model.commit(&[(1, 20_000, false)])).unwrap();
    assert!(matches!(store.room(), Room::Low { .. }));
}
