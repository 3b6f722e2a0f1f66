//! Nobody waits for ever behind later jobs of its own queue: a job that needs most of what its queue owns starts once that
//! which the queue ran when it had waited long enough has ended, whatever is queued meanwhile.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use scheduler::{
    Bytes, Cluster, Decision, Gang, Gpu, GpuRequest, Job, JobUid, MilliCpu, Millis, Node,
    QueueState, Quota, Requirements, Settings,
};

/// Seconds of a turn.
const TURN: i64 = 5;
/// Most turns that a small job runs.
const LONGEST: i64 = 10;

#[derive(Clone, Copy, Debug)]
struct Small {
    gpus: u32,
    cores: u64,
    priority: i32,
    turns: i64,
}

#[derive(Clone, Copy, Debug)]
struct Large {
    gpus: u32,
    cores: u64,
    members: u32,
}

fn small() -> impl Strategy<Value = Small> {
    (0..3_u32, 0..3_u64, -1..1_i32, 1..=LONGEST).prop_map(|(gpus, cores, priority, turns)| Small {
        gpus,
        cores,
        priority,
        turns,
    })
}

/// What arrives in each turn.
fn stream() -> impl Strategy<Value = Vec<Vec<Small>>> {
    let turn = proptest::collection::vec(small(), 0..4);
    let turns = 12 + usize::try_from(LONGEST).unwrap() + 4;
    proptest::collection::vec(turn, turns..=turns)
}

fn large() -> impl Strategy<Value = Large> {
    (0..4_u32, 0..4_u64, 1..3_u32).prop_map(|(gpus, cores, members)| Large {
        gpus,
        cores,
        members,
    })
}

fn job(uid: &str, gpus: u32, cores: u64, now: Millis, at: i64) -> Job {
    Job {
        uid: uid.into(),
        queue: "q".into(),
        enqueued_micros: now.0 * 1000 + at,
        requirements: Requirements {
            cpu: MilliCpu(cores * 1000),
            gpus: match gpus {
                0 => GpuRequest::None,
                count => GpuRequest::Whole(count),
            },
            ..Requirements::default()
        },
        ..Job::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_wait_for_a_quota_is_bounded(
        large in large(), spare in (0..2_u64, 0..2_u64, 0..3_u64), limited in (any::<bool>(), any::<bool>(), any::<bool>()),
        before in proptest::collection::vec(small(), 0..6), stream in stream(), borrows in any::<bool>(),
    ) {
        let mut cluster = Cluster::new(Settings::default());
        for name in ["a", "b", "c"] {
            cluster.upsert_node(&name.into(), Node {
                ready: true,
                cpu: MilliCpu(1_000_000),
                memory: Bytes::gib(1000),
                gpus: (0..40).map(|at| Gpu::idle(format!("{name}/{at}"), at, Bytes::gib(24))).collect(),
                ..Node::default()
            });
        }
        let members = u64::from(large.members);
        let quota = Quota {
            gpus: limited.0.then(|| u64::from(large.gpus) * members + spare.0),
            cpu: limited.1.then(|| MilliCpu((large.cores * members + spare.1) * 1000)),
            jobs: limited.2.then(|| members + spare.2),
            ..Quota::default()
        };
        let borrow = borrows.then(Quota::default);
        cluster.upsert_queue(&"q".into(), QueueState { quota, borrow, ..QueueState::default() });
        cluster.upsert_queue(&"other".into(), QueueState {
            quota: Quota { gpus: Some(2), ..Quota::default() },
            ..QueueState::default()
        });
        let mut turns: BTreeMap<JobUid, i64> = BTreeMap::new();
        let mut running: Vec<(i64, JobUid)> = Vec::new();
        let mut waiting = members;
        let mut count = 0;
        for (turn, arrivals) in std::iter::once(&before).chain(&stream).enumerate() {
            let turn = i64::try_from(turn).unwrap();
            let now = Millis(turn * TURN * 1000);
            let (ended, rest) = running.into_iter().partition::<Vec<_>, _>(|(end, _)| *end <= turn);
            running = rest;
            for (_, uid) in ended {
                cluster.release(&uid);
            }
            if turn == 1 {
                for member in 0..large.members {
                    let one = job(&format!("large-{member}"), large.gpus, large.cores, now, 0);
                    let gang = (large.members > 1).then(|| Gang { id: "g".into(), size: large.members });
                    cluster.upsert_job(Job { gang, ..one });
                }
            }
            for arrival in arrivals {
                count += 1;
                let one = job(&format!("small-{count}"), arrival.gpus, arrival.cores, now, count);
                turns.insert(one.uid.clone(), arrival.turns);
                cluster.upsert_job(Job { priority: arrival.priority, ..one });
            }
            for decision in cluster.decide(now, 1000) {
                if let Decision::Bind(placement) = decision {
                    match turns.get(&placement.job) {
                        Some(length) => running.push((turn + length, placement.job)),
                        None => waiting -= 1,
                    }
                }
            }
            if turn == 0 {
                // Only what runs already comes before the large one.
                let runs = |uid: &JobUid| running.iter().any(|(_, one)| one == uid);
                for uid in turns.keys().filter(|uid| !runs(uid)) {
                    cluster.remove_job(uid);
                }
            }
            prop_assert_eq!(cluster.check(), Vec::new());
        }
        prop_assert_eq!(waiting, 0, "{:?}", quota);
    }
}
