//! Age and the shares of queues move jobs in the order while slots are kept: who comes before a holder by that is let in at
//! the next decision, and nobody is bound before it meanwhile.

use proptest::prelude::*;
use scheduler::explain::Standing;
use scheduler::{
    BoundJob, Cluster, Decision, GpuTime, Job, JobUid, MilliCpu, Millis, Node, NodeName, QueueName,
    Requirements, Settings, Span,
};

const QUEUES: [&str; 3] = ["one", "two", "three"];

/// A job that waits: queue, priority, cores, the only node that it may have, seconds for which it has waited already.
type Waits = (usize, i32, u64, Option<usize>, i64);

fn waits() -> impl Strategy<Value = Waits> {
    let pin = proptest::option::weighted(0.4, 0..3_usize);
    (0..3_usize, 0..3_i32, 1..5_u64, pin, 0..60_i64)
}

fn node(at: usize) -> NodeName {
    format!("node-{at}").into()
}

/// Nodes with 4 cores, some of them taken by jobs of a queue that nothing ends.
fn cluster(running: &[(usize, u64)], used: [u32; 3], settings: Settings) -> Cluster {
    let mut cluster = Cluster::new(settings);
    for (at, (queue, cores)) in running.iter().enumerate() {
        let facts = Node {
            ready: true,
            cpu: MilliCpu(4000),
            ..Node::default()
        };
        cluster.upsert_node(&node(at), facts);
        cluster.upsert_bound(BoundJob {
            uid: format!("runs-{at}").into(),
            queue: QUEUES[*queue].into(),
            attempt: 1,
            node: node(at),
            cpu: MilliCpu(cores * 1000),
            started: Some(Millis(0)),
            ..BoundJob::default()
        });
    }
    for (name, used) in QUEUES.iter().zip(used) {
        let used = GpuTime::gpu_seconds(u64::from(used));
        cluster.set_usage(&QueueName::from(*name), used, Millis(0));
    }
    cluster
}

fn job(at: usize, (queue, priority, cores, pin, waited): Waits, nodes: usize) -> Job {
    Job {
        uid: format!("job-{at:02}").into(),
        queue: QUEUES[queue].into(),
        priority,
        enqueued_micros: -waited * 1_000_000,
        requirements: Requirements {
            cpu: MilliCpu(cores * 1000),
            node_name: pin.map(|pin| node(pin % nodes)),
            ..Requirements::default()
        },
        ..Job::default()
    }
}

fn settings() -> Settings {
    Settings {
        aging: Some(Span::seconds(10)),
        aging_cap: 4,
        half_life: Some(Span::seconds(40)),
        charge_ahead: Span::seconds(20),
        core_share: 1000,
        reserve_after: Span::seconds(1),
        reservations: 2,
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_overtaken_where_slots_are_kept(
        running in proptest::collection::vec((0..3_usize, 1..4_u64), 1..4),
        used in [0..3000_u32, 0..3000, 0..3000],
        waiting in proptest::collection::vec(waits(), 2..8),
        later in proptest::collection::vec((1..20_000_i64, proptest::option::of(waits())), 1..6),
    ) {
        let mut cluster = cluster(&running, used, settings());
        let mut waits: Vec<JobUid> = Vec::new();
        let submit = |cluster: &mut Cluster, waits: &mut Vec<JobUid>, one: Waits| {
            let job = job(waits.len(), one, running.len());
            waits.push(job.uid.clone());
            cluster.upsert_job(job);
        };
        for one in waiting {
            submit(&mut cluster, &mut waits, one);
        }
        let mut now = Millis(0);
        for _ in 0..2 {
            let _ = cluster.decide(now, usize::MAX);
            now = now.plus(Span::seconds(1));
        }
        for (wait, more) in later {
            now = now.plus(Span(wait));
            if let Some(more) = more {
                submit(&mut cluster, &mut waits, more);
            }
            // What is bound before anything else is decided is bound in the same order one by one.
            let at_once = cluster.clone().decide(now, usize::MAX);
            let mut at_once = at_once.into_iter().take_while(|one| matches!(one, Decision::Bind(_)));
            loop {
                // From here on what is told of jobs is of the present time.
                prop_assert_eq!(cluster.decide(now, 0), Vec::new());
                let fits = |uid: &&JobUid| matches!(cluster.explain(uid), Some(Standing::Fits(_)));
                let fitting: Vec<(JobUid, usize)> = waits
                    .iter()
                    .filter(fits)
                    .filter_map(|uid| Some((uid.clone(), cluster.why(uid, now)?.position?.place)))
                    .collect();
                let decision = cluster.decide(now, 1).pop();
                if let Some(next) = at_once.next() {
                    prop_assert_eq!(decision.as_ref(), Some(&next));
                }
                match decision {
                    Some(Decision::Bind(placement)) => {
                        let first = fitting.iter().min_by_key(|(_, position)| *position);
                        let first = first.map(|(uid, _)| uid);
                        prop_assert_eq!(first, Some(&placement.job), "somebody was overtaken");
                    }
                    Some(_) => {}
                    None => {
                        prop_assert_eq!(fitting, Vec::new(), "a job that fits was left waiting");
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn a_job_that_is_older_than_its_like_is_tried_though_they_are_kept_out() {
    let mut cluster = cluster(&[(0, 2), (0, 2)], [0; 3], settings());
    // One that fills a node, and one that has a node kept for it.
    for (at, one) in [(0, 0, 2, None, 0), (0, 0, 4, None, 13)]
        .into_iter()
        .enumerate()
    {
        cluster.upsert_job(job(at, one, 2));
    }
    let mut now = Millis(0);
    for _ in 0..2 {
        let _ = cluster.decide(now, usize::MAX);
        now = now.plus(Span::seconds(1));
    }
    // The same needs, but only the second comes before the holder by its age.
    now = now.plus(Span::seconds(15));
    cluster.upsert_job(job(2, (0, 2, 1, None, 0), 2));
    let _ = cluster.decide(now, usize::MAX);
    now = now.plus(Span(1));
    cluster.upsert_job(job(3, (0, 2, 1, None, 3), 2));
    let decisions = cluster.decide(now, usize::MAX);
    let bound = |one: &Decision| matches!(one, Decision::Bind(placement) if placement.job == "job-03".into());
    assert!(decisions.iter().any(bound), "{decisions:?}");
}
