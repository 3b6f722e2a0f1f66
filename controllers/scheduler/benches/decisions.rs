//! `cargo bench -p scheduler`: decisions a second over a full queue, and the latency of one event in a full fleet.
//!
//! The fleet is made of nodes with 64 cores and 8 GPUs of 80 GiB. Jobs come in a few dozen kinds, as in a lab where many
//! people submit the same few commands, or all different, which is the worst case for grouping.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, Gpu, GpuRequest, Job, JobUid, MilliCpu, Millis, Node,
    NodeName, Placement, Requirements, Settings,
};

const NOW: Millis = Millis(0);

fn fleet(nodes: u32) -> Cluster {
    let mut cluster = Cluster::new(Settings::default());
    for at in 0..nodes {
        let gpus = (0..8).map(|index| Gpu::idle(format!("{at}/{index}"), index, Bytes::gib(80)));
        let node = Node {
            ready: true,
            cpu: MilliCpu(64_000),
            memory: Bytes::gib(512),
            gpus: gpus.collect(),
            ..Node::default()
        };
        cluster.upsert_node(&NodeName::from(format!("node-{at:05}")), node);
    }
    cluster
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
    Job {
        uid: JobUid::from(format!("job-{at:06}")),
        queue: "default".into(),
        priority: i32::try_from(at % 3).unwrap_or(0),
        enqueued_micros: i64::from(at),
        requirements: Requirements {
            cpu: MilliCpu(1000),
            memory: Bytes::gib(2),
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
    let rows = [
        (
            "200 nodes x 10,000 jobs of a few kinds",
            200,
            10_000,
            Kinds::Few,
        ),
        (
            "200 nodes x 10,000 jobs all different",
            200,
            10_000,
            Kinds::AllDifferent,
        ),
        (
            "5,000 nodes x 100,000 jobs of a few kinds",
            5000,
            100_000,
            Kinds::Few,
        ),
    ];
    for (name, nodes, jobs, kinds) in rows {
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

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one event in a full fleet");
    group.sample_size(50);
    let rows = [
        ("200 nodes, few kinds", 200, 10_000, Kinds::Few),
        ("200 nodes, all different", 200, 10_000, Kinds::AllDifferent),
        ("5,000 nodes, few kinds", 5000, 100_000, Kinds::Few),
    ];
    for (name, nodes, jobs, kinds) in rows {
        let (cluster, running) = full(nodes, jobs, kinds);
        let mut ends = (cluster.clone(), running.clone().into_iter());
        group.bench_function(format!("a job ends, {name}"), |bencher| {
            bencher.iter(|| {
                let uid = ends.1.next().unwrap_or_else(|| {
                    ends = (cluster.clone(), running.clone().into_iter());
                    running[0].clone()
                });
                ends.0.release(&uid);
                ends.0.decide(NOW, 64).len()
            });
        });
        let mut arrivals = (cluster.clone(), jobs);
        group.bench_function(format!("a job arrives, {name}"), |bencher| {
            bencher.iter(|| {
                arrivals.1 += 1;
                arrivals.0.upsert_job(job(arrivals.1, kinds));
                arrivals.0.decide(NOW, 64).len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, events);
criterion_main!(benches);
