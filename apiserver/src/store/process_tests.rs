//! The store on disk against a real kill and a really full disk.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;

use super::{
    EmbeddedOptions, EmbeddedStore, FIRST_REVISION, Store, StoreError,
    tests::{Lag, small},
};
use crate::cache::{
    Cache, ListAt, ListQuery,
    testing::{HandClock, JOBS, Thing, open, options, outcome, records, written_revision},
};

const WRITER_DIR: &str = "STORE_TEST_WRITER_DIR";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

fn cache(dir: &Path, floor: u64) -> Cache {
    lagging_cache(dir, floor, Lag::Some)
}

fn lagging_cache(dir: &Path, floor: u64, lag: Lag) -> Cache {
    let options_on_disk = EmbeddedOptions {
        free_space_floor: floor,
        ..small(dir, lag)
    };
    let store = EmbeddedStore::open(options_on_disk).unwrap();
    open(&Arc::new(store), options(&HandClock::default()))
}

fn thing(name: &str, size: usize) -> Thing {
    Thing::new(name).payload(size)
}

/// Not a test of its own: what the killed process runs. It writes for ever and prints what was
/// acknowledged, as `name revision`.
#[test]
fn writer_that_is_killed() {
    let Some(dir) = std::env::var_os(WRITER_DIR) else {
        return;
    };
    let runtime = runtime();
    let _guard = runtime.enter();
    let cache = cache(Path::new(&dir), 1);
    runtime.block_on(join_all((0..8).map(|writer| {
        let cache = cache.clone();
        async move {
            for n in 0_usize.. {
                let name = format!("job-{writer}-{}", n % 20);
                let thing = thing(&name, (n * 7919) % 40_000);
                let mutation = match cache.get(&thing.key()) {
                    None => thing.create(),
                    Some(_) if n % 11 == 0 => thing.delete(),
                    Some(_) => thing.update(),
                };
                let stored = cache.commit(mutation).await.unwrap();
                println!("\nack {name} {}", stored.revision);
            }
        }
    })));
}

#[test]
fn a_killed_process_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    for round in 1..=6 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::process_tests::writer_that_is_killed",
                "--nocapture",
            ])
            .env(WRITER_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut count = 0;
        for line in lines.map_while(Result::ok) {
            let words: Vec<_> = line.split(' ').collect();
            let ["ack", name, revision] = words[..] else {
                continue;
            };
            let Ok(revision) = revision.parse() else {
                continue;
            };
            let before = acknowledged.insert(revision, name.to_owned());
            assert_eq!(before, None, "revision {revision} was given twice");
            count += 1;
            // What follows was written before the kill took effect and is counted too.
            if count == round * 37 {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(
            count >= round * 37,
            "the writer ended by itself after {count} writes"
        );
        check_acknowledged(dir.path(), &acknowledged);
    }
}

fn check_acknowledged(dir: &Path, acknowledged: &BTreeMap<u64, String>) {
    let store = Arc::new(EmbeddedStore::open(EmbeddedOptions::new(dir)).unwrap());
    let kept = records(&*store);
    let revisions: Vec<_> = kept.iter().map(|record| record.revision).collect();
    let last = store.last_revision();
    assert_eq!(
        revisions,
        (FIRST_REVISION..=last).collect::<Vec<_>>(),
        "there are gaps"
    );
    for (revision, name) in acknowledged {
        let index = usize::try_from(revision - FIRST_REVISION).unwrap();
        let found = kept.get(index).map(|record| &*record.key.name);
        assert_eq!(found, Some(&**name), "revision {revision} is lost");
    }
    let runtime = runtime();
    let _guard = runtime.enter();
    let cache = open(&store, options(&HandClock::default()));
    let page = cache
        .list(JOBS, ListAt::Latest, &ListQuery::default())
        .unwrap();
    for stored in page.items {
        assert_eq!(written_revision(&stored), stored.revision);
    }
    runtime.block_on(cache.close());
}

/// A file system of a few MiB; `None`, said loudly, where mounting is not permitted.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self { dir });
        }
        eprintln!("SKIPPED: mounting a small tmpfs is not permitted, the disk was not filled");
        None
    }

    fn grow(&self, mib: u32) {
        let size = format!("remount,size={mib}m");
        let mut command = Command::new("mount");
        let status = command.args(["-o", &size]).arg(self.dir.path()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        let _ = command.arg("-l").arg(self.dir.path()).status();
    }
}

/// Writes until it is refused; the names that were acknowledged, and the refusal.
async fn fill(cache: &Cache) -> (Vec<String>, &'static str) {
    let mut names = Vec::new();
    loop {
        let name = format!("job-{:05}", names.len());
        let answer = cache.commit(thing(&name, 100_000).create()).await;
        match outcome(&answer) {
            "committed" => names.push(name),
            refusal => return (names, refusal),
        }
    }
}

fn listed(cache: &Cache) -> Vec<String> {
    let page = cache
        .list(JOBS, ListAt::Latest, &ListQuery::default())
        .unwrap();
    crate::cache::testing::names(&page.items)
}

#[test]
fn the_floor_stops_writes_before_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount(64) else {
        return;
    };
    let runtime = runtime();
    let _guard = runtime.enter();
    let path = disk.dir.path().join("data");
    let before = cache(&path, 16 << 20);
    let (names, refusal) = runtime.block_on(fill(&before));
    assert_eq!(refusal, "no space");
    assert!(names.len() > 50, "only {} objects fitted", names.len());
    assert!(!before.has_failed());
    assert_eq!(listed(&before), names);
    let deleted = runtime.block_on(before.commit(Thing::new(&names[0]).delete()));
    assert_eq!(outcome(&deleted), "committed", "a delete makes room");
    runtime.block_on(before.close());

    let after = cache(&path, 16 << 20);
    assert_eq!(listed(&after), names[1..]);
    runtime.block_on(after.close());
}

#[test]
fn a_disk_that_is_really_full_costs_nothing_that_was_acknowledged() {
    fill_really(Lag::Some);
}

#[test]
fn a_disk_that_is_full_of_journal_costs_nothing_that_was_acknowledged() {
    fill_really(Lag::All);
}

fn fill_really(lag: Lag) {
    let Some(disk) = SmallDisk::mount(32) else {
        return;
    };
    let runtime = runtime();
    let _guard = runtime.enter();
    let path = disk.dir.path().join("data");
    let before = lagging_cache(&path, 0, lag);
    let (names, refusal) = runtime.block_on(fill(&before));
    assert_eq!(refusal, "storage failed");
    let failed = runtime.block_on(before.failed());
    assert!(matches!(*failed, StoreError::Io { .. }), "{failed}");
    assert_eq!(listed(&before), names, "reads go on");
    let again = runtime.block_on(before.commit(thing("late", 1).create()));
    assert_eq!(outcome(&again), "storage failed");

    // The failed process would exit now, and its successor finds the files as they are.
    disk.grow(128);
    let copy = tempfile::tempdir().unwrap();
    super::tests::copy(&path, copy.path());
    let after = cache(copy.path(), 0);
    let found = listed(&after);
    assert!(
        found.len() - names.len() <= 1,
        "at most the refused write is there"
    );
    assert_eq!(found[..names.len()], names);
    assert_eq!(
        outcome(&runtime.block_on(after.commit(thing("late", 1).create()))),
        "committed"
    );
    runtime.block_on(after.close());
    assert_eq!(super::tests::blob_files(copy.path()), 0);
}

#[test]
fn a_store_waits_for_a_killed_predecessor() {
    let dir = tempfile::tempdir().unwrap();
    let options_on_disk = |patience| EmbeddedOptions {
        lock_patience: patience,
        ..EmbeddedOptions::new(dir.path())
    };
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::process_tests::writer_that_is_killed",
            "--nocapture",
        ])
        .env(WRITER_DIR, dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().starts_with("ack") {}
    let refused = EmbeddedStore::open(options_on_disk(Duration::ZERO));
    assert!(matches!(refused, Err(StoreError::InUse { .. })));
    writer.kill().unwrap();
    let store = EmbeddedStore::open(options_on_disk(Duration::from_secs(5))).unwrap();
    assert!(store.last_revision() >= FIRST_REVISION);
    writer.wait().unwrap();
}
