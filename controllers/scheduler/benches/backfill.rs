//! `cargo bench -p scheduler --bench backfill`: what reservations and backfill cost over a queue of 50,000 jobs.
//!
//! A fleet of 200 nodes with 8 GPUs is full of jobs with limits. Every tenth waiting job wants 8 GPUs of one node, which are
//! never idle by chance: the first four of them hold reservations. The rest are small, with limits from minutes to hours,
//! so that some may use a gap before a reserved start and others may not.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, Gpu, GpuRequest, Job, JobUid, MilliCpu, Millis, Node,
    NodeName, Requirements, Settings, Span, Terms,
};

const NODES: u32 = 200;
const QUEUE: u32 = 50_000;
/// When the first jobs have waited long enough.
const LATER: Millis = Millis(61_000);

fn job(at: u32, kinds: u32) -> Job {
    let large = at.is_multiple_of(10);
    let minutes = i64::from(5 + at % kinds * 7 % 600);
    Job {
        uid: JobUid::from(format!("job-{at:06}")),
        queue: "default".into(),
        enqueued_micros: i64::from(at),
        requirements: Requirements {
            cpu: MilliCpu(1000),
            memory: Bytes::gib(2),
            gpus: if large {
                GpuRequest::Whole(8)
            } else {
                GpuRequest::Vram {
                    count: 1,
                    bytes: Bytes::mib(u64::from(20_000 + at % kinds)),
                }
            },
            ..Requirements::default()
        },
        terms: Terms {
            limit: Some(Span::seconds(minutes * 60)),
            ..Terms::default()
        },
        ..Job::default()
    }
}

/// A full fleet with a queue in front of it, and who runs.
fn full(kinds: u32, reservations: u32) -> (Cluster, Vec<JobUid>) {
    let mut cluster = Cluster::new(Settings {
        reservations,
        ..Settings::default()
    });
    let mut running = Vec::new();
    for at in 0..NODES {
        let name = NodeName::from(format!("node-{at:05}"));
        let gpus = (0..8).map(|index| Gpu::idle(format!("{at}/{index}"), index, Bytes::gib(80)));
        let node = Node {
            ready: true,
            cpu: MilliCpu(64_000),
            memory: Bytes::gib(512),
            gpus: gpus.collect(),
            ..Node::default()
        };
        cluster.upsert_node(&name, node);
        for index in 0..8 {
            let uid = JobUid::from(format!("run-{at}-{index}"));
            cluster.upsert_bound(BoundJob {
                uid: uid.clone(),
                queue: "default".into(),
                attempt: 1,
                node: name.clone(),
                gpus: vec![format!("{at}/{index}").into()],
                whole_gpus: true,
                cpu: MilliCpu(1000),
                terms: Terms {
                    limit: Some(Span::seconds(i64::from(600 + at * 60 + index * 600))),
                    ..Terms::default()
                },
                started: Some(Millis(0)),
                ..BoundJob::default()
            });
            running.push(uid);
        }
    }
    for at in 0..QUEUE {
        cluster.upsert_job(job(at, kinds));
    }
    let _ = cluster.decide(Millis(0), usize::MAX);
    (cluster, running)
}

fn backfill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("backfill over 50,000 jobs");
    group.sample_size(20);
    for (name, kinds) in [("few kinds", 40), ("all different", QUEUE)] {
        let (waiting, running) = full(kinds, 4);
        group.bench_function(format!("the first reservations, {name}"), |bencher| {
            bencher.iter_batched(
                || waiting.clone(),
                |mut cluster| (cluster.decide(LATER, usize::MAX).len(), cluster),
                BatchSize::PerIteration,
            );
        });
        let mut reserved = waiting.clone();
        let decisions = reserved.decide(LATER, usize::MAX);
        let made = decisions
            .iter()
            .filter(|d| matches!(d, Decision::Reserve { .. }));
        assert_eq!(made.count(), 4, "{name}");
        let (mut unreserved, _) = full(kinds, 0);
        let _ = unreserved.decide(LATER, usize::MAX);
        for (with, cluster) in [("4 reservations", reserved), ("none", unreserved)] {
            let fresh = || (cluster.clone(), running.clone().into_iter());
            let mut ends = fresh();
            group.bench_function(format!("a job ends, {name}, {with}"), |bencher| {
                bencher.iter(|| {
                    let uid = ends.1.next().unwrap_or_else(|| {
                        ends = fresh();
                        running[0].clone()
                    });
                    ends.0.release(&uid);
                    ends.0.decide(LATER, 64).len()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, backfill);
criterion_main!(benches);
