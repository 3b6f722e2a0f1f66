//! `cargo bench -p scheduler --bench preemption`: planning preemptions, and explaining one job, in a full fleet.
//!
//! 5,000 nodes with 64 cores and 8 GPUs of 80 GiB, full of preemptible jobs of four priorities that started at different
//! times; 1,000 jobs of higher priority want places, one after the other, each on what the plans before it left.

mod fleet;
mod mix;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, Estimate, GpuRequest, Job, Millis, Placement, Span, preempt,
};

const NOW: Millis = Millis(86_400_000);
const NODES: u32 = 5000;
const PLANS: u32 = 1000;

/// A job of the mix, of which two of three have limits, and half are like others that ran before.
fn job(at: u32, prefix: &str, priority: i32) -> Job {
    let mut job = mix::job(at, prefix, priority);
    job.terms.limit = (!at.is_multiple_of(3)).then_some(Span::seconds(172_800));
    job.estimate = at.is_multiple_of(2).then_some(Estimate {
        median: Span::seconds(90_000),
        p90: Span::seconds(150_000),
    });
    job
}

/// Binds a job where it was placed.
fn run(cluster: &mut Cluster, job: &Job, placement: Placement) {
    let at: u32 = job.uid.as_str()[6..].parse().unwrap_or(0);
    let started = Millis(i64::from(at * 7919 % 86_400) * 1000);
    cluster.upsert_bound(BoundJob {
        attempt: 1,
        started: Some(started),
        ..placement.bound(job, started)
    });
}

/// A full fleet, with those that wait behind what runs.
fn full(jobs: u32) -> Cluster {
    let mut cluster = fleet::fleet(NODES);
    for at in 0..jobs {
        let priority = i32::try_from(at / 7 % 4).unwrap_or(0);
        cluster.upsert_job(job(at, "lower", priority));
    }
    for decision in cluster.decide(NOW, usize::MAX) {
        if let Decision::Bind(placement) = decision {
            let at: u32 = placement.job.as_str()[6..].parse().unwrap_or(0);
            let running = job(at, "lower", i32::try_from(at / 7 % 4).unwrap_or(0));
            run(&mut cluster, &running, placement);
        }
    }
    cluster
}

/// A job that does not fit the gaps of a full fleet.
fn wants(at: u32) -> Job {
    let mut high = job(at, "above", 100);
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

/// Plans for one job after the other, each carried out before the next.
fn plan_all(cluster: &mut Cluster) -> usize {
    let mut planned = 0;
    for at in 0..PLANS {
        let high = wants(at);
        let uid = high.uid.clone();
        cluster.upsert_job(high.clone());
        let Ok(plan) = preempt::plan(cluster, &uid, NOW) else {
            // What a plan before it left over is enough.
            for decision in cluster.decide(NOW, 1) {
                if let Decision::Bind(placement) = decision {
                    run(cluster, &high, placement);
                }
            }
            continue;
        };
        planned += 1;
        for victim in plan.victims {
            cluster.release(&victim.job);
        }
        run(cluster, &high, plan.placement);
    }
    planned
}

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("preemption in a full fleet of 5,000 nodes");
    group.sample_size(10);
    let cluster = full(90_000);
    let planned = plan_all(&mut cluster.clone());
    group.throughput(Throughput::Elements(u64::from(PLANS)));
    group.bench_function(format!("{planned} plans for {PLANS} jobs"), |bencher| {
        bencher.iter_batched(
            || cluster.clone(),
            |mut cluster| (plan_all(&mut cluster), cluster),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn explanations(criterion: &mut Criterion) {
    let mut group =
        criterion.benchmark_group("one job of 100,000 behind a full fleet of 5,000 nodes");
    group.sample_size(20);
    let mut cluster = full(156_000);
    let last = job(999_990, "last", -5);
    let uid = last.uid.clone();
    cluster.upsert_job(last);
    cluster.decide(NOW, usize::MAX);
    group.bench_function("why it waits", |bencher| {
        bencher.iter(|| cluster.why(&uid, NOW));
    });
    group.bench_function("what would start it", |bencher| {
        bencher.iter(|| cluster.what_if(&uid, NOW));
    });
    group.finish();
}

criterion_group!(benches, plans, explanations);
criterion_main!(benches);
