//! The store and the cache under load, beside what the disk does bare: `cargo bench -p apiserver --bench store`.
//!
//! Writes go to the system's temporary directory (`TMPDIR` says which disk is measured). Objects are of
//! the size of a Job with its status, about 1.5 KiB.

use std::{
    fs::File,
    hint::black_box,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use apiserver::{
    cache::{Cache, CacheOptions, ListAt, ListQuery, WatchFrom},
    selector::Selection,
    store::{
        Body, EmbeddedOptions, EmbeddedStore, Encoded, Expect, IndexEntry, MemoryStore, Mutation,
        ObjectKey, REVISION_PLACEHOLDER, Store,
    },
};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::StreamExt;
use tokio::runtime::Runtime;

const RESOURCE: &str = "jobs.gctl.dev";
const OBJECT_BYTES: usize = 1536;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime starts")
}

fn open(runtime: &Runtime, store: Arc<dyn Store>) -> Cache {
    let _guard = runtime.enter();
    let options = CacheOptions::new(Arc::new(jiff::Timestamp::now));
    let index = Arc::new(|_: &str, _: &[u8]| IndexEntry::default());
    Cache::open(store, options, |_| index).expect("the store is readable")
}

fn on_disk(runtime: &Runtime, dir: &Path) -> Cache {
    let store = EmbeddedStore::open(EmbeddedOptions::new(dir)).expect("the store opens");
    open(runtime, Arc::new(store))
}

fn mutation(name: &str, expect: Expect) -> Mutation {
    let head = format!(
        r#"{{"metadata":{{"name":"{name}","resourceVersion":"{REVISION_PLACEHOLDER}"}},"x":""#
    );
    let rv_offset = head.len() - r#""},"x":""#.len() - REVISION_PLACEHOLDER.len();
    let fill = "x".repeat(OBJECT_BYTES.saturating_sub(head.len() + 2));
    let bytes = Bytes::from(format!("{head}{fill}\"}}"));
    let index = Arc::new(IndexEntry::default());
    Mutation {
        key: ObjectKey::new(RESOURCE, "default", name),
        expect,
        body: Body::Put(Encoded {
            bytes,
            rv_offset,
            index,
        }),
        frees: false,
    }
}

/// Creates `count` objects over `connections` tasks, each waiting for its answer; the time it took.
async fn create(cache: &Cache, names: &Arc<AtomicU64>, connections: u64, count: u64) -> Duration {
    let started = Instant::now();
    let left = Arc::new(AtomicU64::new(count));
    let tasks = (0..connections).map(|_| {
        let (cache, names, left) = (cache.clone(), Arc::clone(names), Arc::clone(&left));
        tokio::spawn(async move {
            let take = |n: u64| n.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                let name = format!("job-{:09}", names.fetch_add(1, Ordering::Relaxed));
                cache
                    .commit(mutation(&name, Expect::Absent))
                    .await
                    .expect("the disk is well");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no task panics");
    }
    started.elapsed()
}

/// Appends and syncs one object's bytes, `count` times: what the disk allows one writer.
fn bare(file: &mut File, count: u64) -> Duration {
    let bytes = vec![b'x'; OBJECT_BYTES];
    let started = Instant::now();
    for _ in 0..count {
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .expect("the disk is well");
    }
    started.elapsed()
}

fn commits(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().expect("a directory can be made");
    let mut file = File::create(dir.path().join("bare")).expect("a file can be made");
    let cache = on_disk(&runtime, &dir.path().join("store"));
    let names = Arc::new(AtomicU64::new(0));
    let mut group = criterion.benchmark_group("commit");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.bench_function("bare write and fdatasync", |bencher| {
        bencher.iter_custom(|count| bare(&mut file, count));
    });
    for connections in [1, 16, 64] {
        group.bench_function(format!("create, {connections} waiting"), |bencher| {
            bencher
                .iter_custom(|count| runtime.block_on(create(&cache, &names, connections, count)));
        });
    }
    group.finish();
    // Interleaved, so that the disk's moods hit both alike.
    let (mut bare_time, mut commit_time) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..20 {
        bare_time += bare(&mut file, 25);
        commit_time += runtime.block_on(create(&cache, &names, 1, 25));
    }
    println!(
        "one commit at a time takes {:.2} times a bare write and fdatasync ({:?} and {:?})",
        commit_time.as_secs_f64() / bare_time.as_secs_f64(),
        commit_time / 500,
        bare_time / 500,
    );
    let stats = cache.stats();
    println!(
        "{} commits of {:.1} changes, {:.0} us each, of which {:.0} us in the store",
        stats.commit_seconds.count,
        stats.batch_sizes.mean(),
        stats.commit_seconds.mean() * 1e6,
        stats.sync_seconds.mean() * 1e6,
    );
    runtime.block_on(cache.close());
}

/// Writes without a disk, and every event to a hundred watchers.
fn watches(criterion: &mut Criterion) {
    const WATCHERS: u64 = 100;
    let runtime = runtime();
    let cache = open(&runtime, Arc::new(MemoryStore::new()));
    let names = Arc::new(AtomicU64::new(0));
    let received = Arc::new(AtomicU64::new(0));
    for _ in 0..WATCHERS {
        let from = WatchFrom::Latest;
        let mut watch = cache
            .watch(RESOURCE, None, from, Selection::default(), 64 << 20)
            .expect("a watch from now begins");
        let received = Arc::clone(&received);
        runtime.spawn(async move {
            while let Some(Ok(batch)) = watch.next().await {
                black_box(batch.json_lines());
                received.fetch_add(batch.events().len() as u64, Ordering::Relaxed);
            }
        });
    }
    let mut group = criterion.benchmark_group("watch");
    group
        .throughput(Throughput::Elements(WATCHERS))
        .sample_size(20);
    group.bench_function("an event to 100 watchers", |bencher| {
        bencher.iter_custom(|count| {
            let wanted = received.load(Ordering::Relaxed) + count * WATCHERS;
            runtime.block_on(async {
                let started = Instant::now();
                create(&cache, &names, 16, count).await;
                while received.load(Ordering::Relaxed) < wanted {
                    tokio::task::yield_now().await;
                }
                started.elapsed()
            })
        });
    });
    group.finish();
    runtime.block_on(cache.close());
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}

fn reads(criterion: &mut Criterion) {
    let runtime = runtime();
    let resident_before = resident();
    let dir = tempfile::tempdir().expect("a directory can be made");
    let cache = on_disk(&runtime, dir.path());
    let mut group = criterion.benchmark_group("read");
    group.sample_size(10);
    let names = Arc::new(AtomicU64::new(0));
    for objects in [10_000, 50_000] {
        let missing = objects - names.load(Ordering::Relaxed);
        runtime.block_on(create(&cache, &names, 64, missing));
        let query = ListQuery::default();
        group.bench_function(format!("list {objects}"), |bencher| {
            bencher.iter(|| {
                cache
                    .list(RESOURCE, ListAt::Latest, &query)
                    .map(|page| page.items.len())
            });
        });
        let page = ListQuery {
            limit: Some(500),
            ..ListQuery::default()
        };
        group.bench_function(format!("a page of 500 of {objects}"), |bencher| {
            bencher.iter(|| {
                cache
                    .list(RESOURCE, ListAt::Latest, &page)
                    .map(|page| page.items.len())
            });
        });
    }
    group.bench_function("get", |bencher| {
        let key = ObjectKey::new(RESOURCE, "default", "job-000000500");
        bencher.iter(|| cache.get(&key));
    });
    println!(
        "50000 objects take {} MiB of resident memory, {} MiB on disk",
        resident().saturating_sub(resident_before) >> 20,
        cache.stats().bytes_on_disk >> 20,
    );
    runtime.block_on(cache.close());
    drop(cache);
    group.bench_function("open with 50000", |bencher| {
        bencher.iter_custom(|count| {
            let mut total = Duration::ZERO;
            for _ in 0..count {
                let started = Instant::now();
                let cache = on_disk(&runtime, dir.path());
                assert_eq!(cache.count(RESOURCE), 50_000);
                total += started.elapsed();
                runtime.block_on(cache.close());
            }
            total
        });
    });
    group.finish();
}

criterion_group!(benches, commits, watches, reads);
criterion_main!(benches);
