//! `cargo bench -p scheduler --bench holds`: one event while slots are kept for others.
//!
//! First a full fleet of 5,000 nodes in which 64 jobs of high priority are nominated, the most at a time, and their victims
//! are stopping. Then a fleet of 200 nodes with reservations on nodes that drain, and in front of it thousands of small jobs
//! without limits, all different, that would fit beside the holders and may not.

mod fleet;
mod mix;

use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fleet::{fleet, node, node_name};
use mix::job;
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, GpuRequest, Job, JobUid, MilliCpu, Millis, Placement, Span,
    Terms,
};

const NOW: Millis = Millis(86_400_000);
/// How many jobs are nominated at a time at most.
const NOMINATED: usize = 64;

/// The same, but no other job needs as much memory.
fn unlike(at: u32, prefix: &str, priority: i32) -> Job {
    let mut job = job(at, prefix, priority);
    job.requirements.memory = Bytes(Bytes::gib(2).0 + u64::from(at) * 4096);
    job
}

/// A job of high priority that does not fit the gaps of a full fleet.
fn wants(at: u32) -> Job {
    let mut high = unlike(at, "above", 100);
    high.requirements.gpus = match at % 4 {
        0 => GpuRequest::Whole(1 + at / 4 % 4),
        1 => GpuRequest::Vram {
            count: 2,
            bytes: Bytes::gib(60),
        },
        _ => GpuRequest::Vram {
            count: 1,
            bytes: Bytes::gib(u64::from(64 + at % 13)),
        },
    };
    high
}

/// Binds a job where it was placed.
fn run(cluster: &mut Cluster, job: &Job, placement: &Placement) -> BoundJob {
    let at: u32 = job.uid.as_str()[6..].parse().unwrap_or(0);
    let started = Millis(i64::from(at * 7919 % 86_400) * 1000);
    let bound = BoundJob {
        attempt: 1,
        started: Some(started),
        ..placement.bound(job, started)
    };
    cluster.upsert_bound(bound.clone());
    bound
}

/// All that is decided now, as the shell asks for it: 64 at a time.
fn settle(cluster: &mut Cluster, now: Millis) -> Vec<Decision> {
    let mut decided = Vec::new();
    loop {
        let decisions = cluster.decide(now, 64);
        let rest = decisions.len() >= 64;
        decided.extend(decisions);
        if !rest {
            return decided;
        }
    }
}

/// A full fleet with as many nominations as there may be, and all their victims stopping; and some who run.
fn nominated() -> (Cluster, Vec<JobUid>) {
    let mut cluster = fleet(5000);
    for at in 0..156_000 {
        cluster.upsert_job(job(at, "lower", 0));
    }
    let mut running = std::collections::BTreeMap::new();
    for decision in settle(&mut cluster, NOW) {
        if let Decision::Bind(placement) = decision {
            let at: u32 = placement.job.as_str()[6..].parse().unwrap_or(0);
            let bound = run(&mut cluster, &job(at, "lower", 0), &placement);
            running.insert(bound.uid.clone(), bound);
        }
    }
    for at in 0..400 {
        cluster.upsert_job(wants(at));
    }
    let mut under_way = 0;
    // A call plans for a few, and for some of these it is enough that others leave already.
    for _ in 0..100 {
        for decision in settle(&mut cluster, NOW) {
            let Decision::Nominate { nomination, .. } = decision else {
                continue;
            };
            under_way += 1;
            for victim in nomination.into_iter().flat_map(|one| one.victims) {
                if let Some(mut bound) = running.remove(&victim) {
                    bound.stopping = Some(NOW.plus(bound.terms.grace));
                    cluster.upsert_bound(bound);
                }
            }
        }
        if under_way == NOMINATED {
            break;
        }
    }
    assert_eq!(under_way, NOMINATED);
    (cluster, running.into_keys().collect())
}

/// A kind of jobs that arrive, by a name.
type Arrival = (&'static str, fn(u32) -> Job);

const ARRIVALS: [Arrival; 3] = [
    ("a job that would displace others arrives", wants),
    ("a job before the nominated ones arrives", |at| Job {
        priority: 101,
        ..wants(at)
    }),
    ("a job that displaces nobody arrives", |at| {
        unlike(at, "after", -1)
    }),
];

fn nominations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("5,000 full nodes, 64 nominations under way");
    group.sample_size(30);
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(2));
    let (cluster, running) = nominated();
    for (name, arrives) in ARRIVALS {
        let mut here = (cluster.clone(), 100_000);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                here.1 += 1;
                here.0.upsert_job(arrives(here.1));
                settle(&mut here.0, NOW).len()
            });
        });
    }
    // The hundreds that are not nominated are entitled to reservations by now, and most find no slots.
    let mut here = (cluster.clone(), 100_000, LATER);
    group.bench_function("a job arrives after a minute", |bencher| {
        bencher.iter(|| {
            here.1 += 1;
            here.2 = here.2.plus(Span(10));
            here.0.upsert_job(wants(here.1));
            settle(&mut here.0, here.2).len()
        });
    });
    let mut ends = (cluster.clone(), running.iter());
    group.bench_function("a job ends", |bencher| {
        bencher.iter(|| {
            let uid = ends.1.next().unwrap_or_else(|| {
                ends = (cluster.clone(), running[1..].iter());
                &running[0]
            });
            ends.0.release(uid);
            settle(&mut ends.0, NOW).len()
        });
    });
    let mut reports = (cluster, 0);
    group.bench_function("a node reports", |bencher| {
        bencher.iter(|| {
            reports.1 += 1;
            let at = reports.1 % 5000;
            let mut node = node(at);
            node.gpus[3].foreign_peaks = vec![Bytes::mib(u64::from(reports.1 % 7) * 100)];
            reports.0.upsert_node(&node_name(at), node);
            settle(&mut reports.0, NOW).len()
        });
    });
    group.finish();
}

/// 200 nodes of which the first four drain for holders of reservations, who wait for the last job there; small jobs without
/// limits, all different, would fit what is free there.
fn draining(waiting: u32) -> Cluster {
    let mut cluster = fleet(200);
    for at in 0..200 {
        for index in 0..8 {
            if at < 4 && index > 1 {
                continue;
            }
            cluster.upsert_bound(BoundJob {
                uid: JobUid::from(format!("run-{at}-{index}")),
                queue: "default".into(),
                attempt: 1,
                node: node_name(at),
                gpus: vec![format!("{at}/{index}").into()],
                whole_gpus: true,
                cpu: MilliCpu(1000),
                terms: Terms {
                    limit: (at < 4).then_some(Span::seconds(172_800)),
                    ..Terms::default()
                },
                started: Some(NOW),
                ..BoundJob::default()
            });
        }
    }
    for at in 0..4 {
        let mut large = job(at, "large", 0);
        large.requirements.gpus = GpuRequest::Whole(8);
        large.requirements.memory = Bytes::gib(2);
        cluster.upsert_job(large);
    }
    let reserved = |cluster: &mut Cluster, now| {
        let decisions = settle(cluster, now);
        let made = decisions.iter();
        made.filter(|one| matches!(one, Decision::Reserve { .. }))
            .count()
    };
    reserved(&mut cluster, NOW);
    assert_eq!(reserved(&mut cluster, LATER), 4);
    for at in 10..10 + waiting {
        let mut small = unlike(at, "small", 0);
        small.requirements.gpus = GpuRequest::Vram {
            count: 1,
            bytes: Bytes::mib(u64::from(10_000 + at % 5000)),
        };
        small.terms = Terms::default();
        cluster.upsert_job(small);
    }
    let left = settle(&mut cluster, LATER);
    assert!(!left.iter().any(|one| matches!(one, Decision::Bind(_))));
    cluster
}

/// When the holders have waited long enough.
const LATER: Millis = Millis(NOW.0 + 61_000);

fn reservations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("4 nodes drain for reservations");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(2));
    for waiting in [1000, 10_000] {
        let cluster = draining(waiting);
        let mut reports = (cluster.clone(), 0);
        group.bench_function(
            format!("one of them reports, {waiting} small jobs kept out"),
            |bencher| {
                bencher.iter(|| {
                    reports.1 += 1;
                    let at = reports.1 % 4;
                    let mut node = node(at);
                    node.gpus[1].foreign_peaks = vec![Bytes::mib(u64::from(reports.1 % 7) * 100)];
                    reports.0.upsert_node(&node_name(at), node);
                    settle(&mut reports.0, LATER).len()
                });
            },
        );
        group.bench_function(
            format!("one of two jobs there ends, {waiting} small jobs kept out"),
            |bencher| {
                bencher.iter_batched_ref(
                    || cluster.clone(),
                    |cluster| {
                        cluster.release(&JobUid::from("run-2-1"));
                        settle(cluster, LATER).len()
                    },
                    BatchSize::PerIteration,
                );
            },
        );
        let mut here = (cluster.clone(), 1_000_000);
        group.bench_function(
            format!("another small job arrives, {waiting} small jobs kept out"),
            |bencher| {
                bencher.iter(|| {
                    here.1 += 1;
                    let mut small = unlike(here.1, "small", 0);
                    small.requirements.gpus = GpuRequest::Vram {
                        count: 1,
                        bytes: Bytes::mib(u64::from(10_000 + here.1 % 5000)),
                    };
                    small.terms = Terms::default();
                    here.0.upsert_job(small);
                    settle(&mut here.0, LATER).len()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, nominations, reservations);
criterion_main!(benches);
