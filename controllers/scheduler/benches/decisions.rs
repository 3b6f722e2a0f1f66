//! `cargo bench -p scheduler`: decisions a second over a full queue, what GPU requests cost, and the latency of one event in
//! a full fleet.
//!
//! The fleet is made of nodes with 64 cores and 8 GPUs of 80 GiB. Jobs come in a few dozen kinds, as in a lab where many
//! people submit the same few commands, or all different, which is the worst case for grouping.

mod fleet;

use std::time::Duration;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fleet::{fleet, node, node_name};
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, GpuRequest, Job, JobUid, MilliCpu, Millis, Placement,
    Requirements,
};

const NOW: Millis = Millis(0);

/// Jobs in the queue of a fleet: 10,000 and 100,000.
fn queue_of(nodes: u32) -> u32 {
    if nodes > 200 { 100_000 } else { 10_000 }
}

/// How the jobs differ.
#[derive(Clone, Copy)]
enum Kinds {
    Few,
    AllDifferent,
}

fn job(at: u32, kinds: Kinds) -> Job {
    // A fixed mix without a random generator: sizes go round with different periods.
    let bytes = match kinds {
        Kinds::Few => Bytes::gib(u64::from(4 + at % 12 * 3)),
        Kinds::AllDifferent => {
            Bytes(Bytes::gib(4).0 + u64::from(at) * 1_000_003 % Bytes::gib(33).0)
        }
    };
    let gpus = match at % 10 {
        0 => GpuRequest::Whole(1 + at / 10 % 4),
        1 | 2 => GpuRequest::None,
        3 => GpuRequest::Vram { count: 2, bytes },
        _ => GpuRequest::Vram { count: 1, bytes },
    };
    let memory = match kinds {
        Kinds::Few => Bytes::gib(2),
        Kinds::AllDifferent => Bytes(Bytes::gib(2).0 + u64::from(at) * 4096),
    };
    Job {
        uid: JobUid::from(format!("job-{at:06}")),
        queue: "default".into(),
        priority: i32::try_from(at % 3).unwrap_or(0),
        enqueued_micros: i64::from(at),
        requirements: Requirements {
            cpu: MilliCpu(1000),
            memory,
            gpus,
            ..Requirements::default()
        },
        ..Job::default()
    }
}

fn queued(nodes: u32, jobs: u32, kinds: Kinds) -> Cluster {
    let mut cluster = fleet(nodes);
    for at in 0..jobs {
        cluster.upsert_job(job(at, kinds));
    }
    cluster
}

fn confirm(cluster: &mut Cluster, placement: Placement) -> JobUid {
    cluster.upsert_bound(BoundJob {
        uid: placement.job.clone(),
        queue: "default".into(),
        attempt: 1,
        node: placement.node,
        gpus: placement.gpus,
        vram: placement.vram,
        whole_gpus: placement.whole_gpus,
        whole_node: placement.whole_node,
        cpu: placement.cpu,
        memory: placement.memory,
        ..BoundJob::default()
    });
    placement.job
}

/// A cluster that has decided all it can, and the jobs that run.
fn full(nodes: u32, jobs: u32, kinds: Kinds) -> (Cluster, Vec<JobUid>) {
    let mut cluster = queued(nodes, jobs, kinds);
    let mut running = Vec::new();
    for decision in cluster.decide(NOW, usize::MAX) {
        if let Decision::Bind(placement) = decision {
            running.push(confirm(&mut cluster, placement));
        }
    }
    (cluster, running)
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide a whole queue");
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(100));
    group.sampling_mode(SamplingMode::Flat);
    let rows = [
        ("200 nodes x 10,000 jobs of a few kinds", 200, Kinds::Few),
        (
            "200 nodes x 10,000 jobs all different",
            200,
            Kinds::AllDifferent,
        ),
        (
            "5,000 nodes x 100,000 jobs of a few kinds",
            5000,
            Kinds::Few,
        ),
    ];
    for (name, nodes, kinds) in rows {
        let jobs = queue_of(nodes);
        let cluster = queued(nodes, jobs, kinds);
        // Every job gets one decision: a binding, or why it waits.
        group.throughput(Throughput::Elements(u64::from(jobs)));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || cluster.clone(),
                |mut cluster| (cluster.decide(NOW, usize::MAX).len(), cluster),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// The largest queue of all different jobs, in as many steps as there are samples: bindings first, then reasons.
fn decisions_in_steps(criterion: &mut Criterion) {
    const STEPS: u32 = 20;
    let mut group = criterion.benchmark_group("decide a whole queue in 20 steps");
    group.sample_size(STEPS as usize);
    group.warm_up_time(Duration::from_millis(1));
    group.sampling_mode(SamplingMode::Flat);
    let (nodes, kinds) = (5000, Kinds::AllDifferent);
    let jobs = queue_of(nodes);
    let step = jobs.div_ceil(STEPS) as usize;
    group.throughput(Throughput::Elements(step as u64));
    let fresh = queued(nodes, jobs, kinds);
    let mut cluster = fresh.clone();
    group.bench_function("5,000 nodes x 100,000 jobs all different", |bencher| {
        bencher.iter(|| {
            let mut decided = cluster.decide(NOW, step).len();
            if decided == 0 {
                cluster = fresh.clone();
                decided = cluster.decide(NOW, step).len();
            }
            decided
        });
    });
    group.finish();
}

/// Does it cost more to place jobs on GPUs than on cores?
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide 10,000 jobs on 1,000 nodes");
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(100));
    let rows = [
        ("cores only", GpuRequest::None),
        (
            "a part of a GPU",
            GpuRequest::Vram {
                count: 1,
                bytes: Bytes::gib(20),
            },
        ),
        ("a whole GPU", GpuRequest::Whole(1)),
        ("four GPUs", GpuRequest::Whole(4)),
    ];
    for (name, gpus) in rows {
        let mut cluster = fleet(1000);
        for at in 0..10_000 {
            let mut job = job(at, Kinds::Few);
            job.requirements.gpus = gpus;
            cluster.upsert_job(job);
        }
        group.throughput(Throughput::Elements(10_000));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || cluster.clone(),
                |mut cluster| (cluster.decide(NOW, usize::MAX).len(), cluster),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// One event and all decisions that come of it, as the shell asks for them: 64 at a time.
fn settle(cluster: &mut Cluster) -> usize {
    let mut decided = 0;
    loop {
        let decisions = cluster.decide(NOW, 64).len();
        decided += decisions;
        if decisions < 64 {
            return decided;
        }
    }
}

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one event in a full fleet");
    group.sample_size(30);
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(2));
    let rows = [
        ("200 nodes, few kinds", 200, Kinds::Few),
        ("200 nodes, all different", 200, Kinds::AllDifferent),
        ("5,000 nodes, few kinds", 5000, Kinds::Few),
        ("5,000 nodes, all different", 5000, Kinds::AllDifferent),
    ];
    for (name, nodes, kinds) in rows {
        let (cluster, running) = full(nodes, queue_of(nodes), kinds);
        let mut ends = (cluster.clone(), running.iter());
        group.bench_function(format!("a job ends, {name}"), |bencher| {
            bencher.iter(|| {
                let uid = ends.1.next().unwrap_or_else(|| {
                    ends = (cluster.clone(), running[1..].iter());
                    &running[0]
                });
                ends.0.release(uid);
                settle(&mut ends.0)
            });
        });
        let mut arrivals = (cluster.clone(), queue_of(nodes));
        group.bench_function(format!("a job arrives, {name}"), |bencher| {
            bencher.iter(|| {
                arrivals.1 += 1;
                arrivals.0.upsert_job(job(arrivals.1, kinds));
                settle(&mut arrivals.0)
            });
        });
        let mut reports = (cluster, 0);
        group.bench_function(format!("a node reports, {name}"), |bencher| {
            bencher.iter(|| {
                reports.1 += 1;
                let mut node = node(reports.1 % nodes);
                // Somebody's process that comes and goes.
                node.gpus[3].foreign_peaks = vec![Bytes::mib(u64::from(reports.1 % 7) * 100)];
                reports.0.upsert_node(&node_name(reports.1 % nodes), node);
                settle(&mut reports.0)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, decisions_in_steps, requests, events);
criterion_main!(benches);
