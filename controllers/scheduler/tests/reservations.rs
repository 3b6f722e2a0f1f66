//! Laws of reservations over simulated time: no promised start moves later, what was promised is kept, the wait of the
//! first is bounded, nothing is promised twice, and a cluster that is told what was reserved decides like the one that did.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, Gang, Gpu, GpuRequest, Job, JobUid, MilliCpu, Millis, Node,
    NodeName, Placement, Requirements, Reservation, Settings, Span, Terms,
};

const RESERVE_AFTER: i64 = 60_000;
const LONGEST_LIMIT: i64 = 600_000;
const LONGEST_GRACE: i64 = 30_000;

/// A job as it is submitted. Times in seconds.
#[derive(Clone, Debug)]
struct Spec {
    /// After the one before.
    after: i64,
    priority: i32,
    cpu: u64,
    gpus: u32,
    vram: Option<u64>,
    limit: Option<i64>,
    grace: i64,
    preemptible: bool,
    /// Members of a gang, or just one job.
    members: u32,
    /// Part of its limit, in percent, that it really runs; those without a limit run that many times ten seconds.
    runs: i64,
}

fn spec(limited: bool, priorities: i32) -> impl Strategy<Value = Spec> {
    let limit = if limited {
        (1..=LONGEST_LIMIT / 1000).prop_map(Some).boxed()
    } else {
        proptest::option::of(1..=LONGEST_LIMIT / 1000).boxed()
    };
    let vram = proptest::option::of(1..24_u64);
    (
        0..40_i64,
        0..priorities,
        0..5_u64,
        (0..4_u32, vram),
        limit,
        (0..=LONGEST_GRACE / 1000, any::<bool>()),
        (1..=100_i64, prop_oneof![5 => Just(1), 1 => 2..4_u32]),
    )
        .prop_map(
            |(after, priority, cpu, (gpus, vram), limit, (grace, preemptible), (runs, members))| {
                Spec {
                    after,
                    priority,
                    cpu,
                    gpus,
                    vram,
                    limit,
                    grace,
                    preemptible,
                    members,
                    runs,
                }
            },
        )
}

fn settings() -> Settings {
    Settings {
        reserve_after: Span(RESERVE_AFTER),
        start_allowance: Span(0),
        half_life: None,
        ..Settings::default()
    }
}

fn node(at: usize, gpus: u32) -> (NodeName, Node) {
    let cards = (0..gpus).map(|index| Gpu::idle(format!("{at}/{index}"), index, Bytes::gib(24)));
    let node = Node {
        ready: true,
        cpu: MilliCpu(4000),
        memory: Bytes::gib(64),
        gpus: cards.collect(),
        ..Node::default()
    };
    (format!("node-{at}").into(), node)
}

struct World {
    cluster: Cluster,
    nodes: BTreeMap<NodeName, Node>,
    now: Millis,
    waiting: BTreeMap<JobUid, (Job, i64)>,
    running: BTreeMap<JobUid, (BoundJob, Millis)>,
    /// What each job was promised, while nobody before it in the order got anything since.
    promised: BTreeMap<JobUid, Millis>,
    /// The first in order, and since when it is that.
    first: Option<(JobUid, Millis)>,
    longest_wait_of_the_first: i64,
    submitted: i64,
}

impl World {
    fn new(gpus: &[u32]) -> Self {
        let nodes: BTreeMap<_, _> = gpus
            .iter()
            .enumerate()
            .map(|(at, count)| node(at, *count))
            .collect();
        let mut cluster = Cluster::new(settings());
        for (name, node) in &nodes {
            cluster.upsert_node(name, node.clone());
        }
        Self {
            cluster,
            nodes,
            now: Millis(0),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            promised: BTreeMap::new(),
            first: None,
            longest_wait_of_the_first: 0,
            submitted: 0,
        }
    }

    fn job(&mut self, spec: &Spec, gang: Option<Gang>) -> (Job, i64) {
        self.submitted += 1;
        let gpus = self.nodes.values().map(|node| node.gpus.len());
        // Every member of a gang must find a node that could run it.
        let most = if gang.is_some() {
            gpus.min()
        } else {
            gpus.max()
        }
        .unwrap();
        let count = spec.gpus.min(u32::try_from(most).unwrap());
        let gpus = match (count, spec.vram) {
            (0, _) => GpuRequest::None,
            (count, None) => GpuRequest::Whole(count),
            (count, Some(gib)) => GpuRequest::Vram {
                count,
                bytes: Bytes::gib(gib),
            },
        };
        let limit = spec.limit.map(Span::seconds);
        let runs = limit.map_or(spec.runs * 10_000, |limit| {
            (limit.0 + spec.grace * 1000) * spec.runs / 100
        });
        let job = Job {
            uid: format!("job-{:03}", self.submitted).into(),
            queue: "default".into(),
            priority: spec.priority,
            enqueued_micros: self.submitted,
            requirements: Requirements {
                cpu: MilliCpu(spec.cpu * 1000),
                gpus,
                ..Requirements::default()
            },
            terms: Terms {
                preemptible: spec.preemptible,
                limit,
                grace: Span::seconds(spec.grace),
                limit_by_default: false,
            },
            gang,
            ..Job::default()
        };
        (job, runs.max(1))
    }

    fn submit(&mut self, spec: &Spec) {
        let size = spec.members.min(u32::try_from(self.nodes.len()).unwrap());
        let gang = (size > 1).then(|| Gang {
            id: format!("gang-{}", self.submitted).into(),
            size,
        });
        for _ in 0..size {
            let (job, runs) = self.job(spec, gang.clone());
            self.cluster.upsert_job(job.clone());
            self.waiting.insert(job.uid.clone(), (job, runs));
        }
    }

    /// Lets time pass to the next thing that happens, but no further than to `until`.
    fn pass(&mut self, until: Millis) {
        let ends = self.running.values().map(|(_, end)| *end);
        let look = self.cluster.look_again();
        self.now = ends
            .chain(look)
            .min()
            .unwrap_or(until)
            .min(until)
            .max(self.now);
        let over: Vec<JobUid> = self
            .running
            .iter()
            .filter(|(_, (_, end))| *end <= self.now)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in over {
            self.running.remove(&uid);
            self.cluster.release(&uid);
        }
    }

    fn decide(&mut self) -> Result<(), TestCaseError> {
        loop {
            let decisions = self.cluster.decide(self.now, usize::MAX);
            prop_assert_eq!(self.cluster.check(), Vec::new());
            if decisions.is_empty() {
                break;
            }
            for decision in decisions {
                self.carry_out(decision)?;
            }
        }
        let order = |(job, _): &&(Job, i64)| (-job.priority, job.enqueued_micros);
        let first = self.waiting.values().min_by_key(order);
        let first = first.map(|(job, _)| job.uid.clone());
        if let Some((uid, since)) = &self.first {
            let waited = self.now.since(*since).0;
            self.longest_wait_of_the_first = self.longest_wait_of_the_first.max(waited);
            if first.as_ref() == Some(uid) {
                return Ok(());
            }
        }
        self.first = first.map(|uid| (uid, self.now));
        Ok(())
    }

    /// Somebody got something: what those after it were promised may not hold any more.
    fn disturb(&mut self, by: &Job) {
        let waiting = &self.waiting;
        self.promised.retain(|uid, _| {
            let Some((job, _)) = waiting.get(uid) else {
                return false;
            };
            (-job.priority, job.enqueued_micros) <= (-by.priority, by.enqueued_micros)
        });
    }

    fn carry_out(&mut self, decision: Decision) -> Result<(), TestCaseError> {
        match decision {
            Decision::Bind(placement) => {
                let (job, runs) = self.waiting.remove(&placement.job).unwrap();
                if let Some(promise) = self.promised.remove(&job.uid) {
                    prop_assert!(self.now <= promise, "{} starts too late", job.uid);
                }
                self.disturb(&job);
                let bound = started(&job, &placement, self.now);
                self.cluster.upsert_bound(bound.clone());
                let end = self.now.plus(Span(runs));
                self.running.insert(job.uid, (bound, end));
            }
            Decision::Reserve { job, reservation } => {
                let (holder, _) = self.waiting[&job].clone();
                let next = reservation.and_then(|reservation| reservation.not_later_than);
                if let Some(before) = self.promised.get(&job) {
                    prop_assert!(
                        next.is_some_and(|next| next <= *before),
                        "{} was promised {:?} and then {:?}",
                        job,
                        before,
                        next
                    );
                }
                self.disturb(&holder);
                if let Some(next) = next {
                    self.promised.insert(job, next);
                }
            }
            Decision::Nominate { job, nomination } => {
                let (holder, _) = self.waiting[&job].clone();
                self.disturb(&holder);
                for victim in nomination
                    .into_iter()
                    .flat_map(|nomination| nomination.victims)
                {
                    let (bound, end) = self.running.get_mut(&victim).unwrap();
                    prop_assert!(bound.terms.preemptible && bound.priority < holder.priority);
                    let kill = self.now.plus(bound.terms.grace);
                    bound.stopping = Some(kill);
                    *end = (*end).min(kill);
                    self.cluster.upsert_bound(bound.clone());
                }
            }
            Decision::Infeasible { job, .. } => {
                self.waiting.remove(&job);
                self.cluster.remove_job(&job);
            }
            Decision::Waiting { .. } => {}
        }
        Ok(())
    }

    /// The same cluster, told everything once.
    fn rebuilt(&self) -> Cluster {
        let mut cluster = Cluster::new(settings());
        for (job, _) in self.waiting.values().rev() {
            cluster.upsert_job(job.clone());
        }
        for (bound, _) in self.running.values().rev() {
            cluster.upsert_bound(bound.clone());
        }
        for (name, node) in &self.nodes {
            cluster.upsert_node(name, node.clone());
        }
        for uid in self.waiting.keys() {
            if let Some(reservation) = self.cluster.reservation(uid) {
                assert!(cluster.restore_reservation(uid, reservation.clone()));
            }
        }
        cluster
    }

    /// Runs everything that was submitted to its end.
    fn run(&mut self, specs: &[Spec]) -> Result<(), TestCaseError> {
        let mut next = Millis(0);
        for spec in specs {
            next = next.plus(Span::seconds(spec.after));
            while self.now < next {
                self.pass(next);
                self.decide()?;
            }
            self.submit(spec);
            self.decide()?;
        }
        for _ in 0..1000 {
            if self.waiting.is_empty() {
                return Ok(());
            }
            self.pass(Millis(i64::MAX));
            self.decide()?;
        }
        prop_assert!(false, "these never start: {:?}", self.waiting.keys());
        Ok(())
    }
}

fn started(job: &Job, placement: &Placement, now: Millis) -> BoundJob {
    BoundJob {
        attempt: 1,
        started: Some(now),
        ..placement.bound(job, now)
    }
}

fn binds(decisions: Vec<Decision>) -> Vec<Placement> {
    let bind = |decision| match decision {
        Decision::Bind(placement) => Some(placement),
        _ => None,
    };
    decisions.into_iter().filter_map(bind).collect()
}

fn fleet() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(1..4_u32, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_promised_is_kept(gpus in fleet(), specs in proptest::collection::vec(spec(false, 3), 1..40)) {
        World::new(&gpus).run(&specs)?;
    }

    #[test]
    fn the_wait_of_the_first_is_bounded(gpus in fleet(), specs in proptest::collection::vec(spec(true, 1), 1..40)) {
        let mut world = World::new(&gpus);
        world.run(&specs)?;
        let bound = RESERVE_AFTER + LONGEST_LIMIT + LONGEST_GRACE;
        prop_assert!(world.longest_wait_of_the_first <= bound, "{}", world.longest_wait_of_the_first);
    }

    #[test]
    fn a_cluster_that_is_told_what_was_reserved_decides_the_same(
        gpus in fleet(),
        specs in proptest::collection::vec(spec(false, 1), 5..30),
        probe in spec(false, 2),
    ) {
        let mut world = World::new(&gpus);
        let mut next = Millis(0);
        for spec in &specs {
            next = next.plus(Span::seconds(spec.after));
            while world.now < next {
                world.pass(next);
                world.decide()?;
            }
            world.submit(spec);
            world.decide()?;
        }
        let (job, _) = world.job(&probe, None);
        let (mut same, mut rebuilt) = (world.cluster.clone(), world.rebuilt());
        same.upsert_job(job.clone());
        rebuilt.upsert_job(job);
        let (same, rebuilt) = (same.decide(world.now, usize::MAX), rebuilt.decide(world.now, usize::MAX));
        // Who has waited long enough is not known to one that starts anew, so a reservation of this moment may be missing.
        let reserves = |decisions: &[Decision]| decisions.iter().any(|one| matches!(one, Decision::Reserve { .. }));
        if !reserves(&same) && !reserves(&rebuilt) {
            prop_assert_eq!(binds(same), binds(rebuilt));
        }
    }
}

#[test]
fn an_endless_stream_of_small_jobs_does_not_starve_a_large_one() {
    let mut world = World::new(&[4]);
    let small = |after: i64, limit: i64| Spec {
        after,
        priority: 0,
        cpu: 0,
        gpus: 1,
        vram: None,
        limit: Some(limit),
        grace: 0,
        preemptible: false,
        members: 1,
        runs: 100,
    };
    for limit in [90, 150, 210, 270] {
        world.submit(&small(0, limit));
    }
    world.decide().unwrap();
    world.submit(&Spec {
        gpus: 4,
        ..small(0, 600)
    });
    let large = JobUid::from("job-005");
    let mut promise = None;
    for step in 0..400_i64 {
        world.submit(&small(0, 30 + step % 7 * 40));
        world.pass(Millis(step * 5000));
        world.decide().unwrap();
        promise = promise.or(world.cluster.reservation(&large).cloned());
        if world.running.contains_key(&large) {
            let Some(Reservation {
                not_later_than: Some(by),
                ..
            }) = promise
            else {
                panic!("the large job started without a promise");
            };
            // No small job was let in that ends after the promise.
            assert!(world.now <= by, "{:?} after {by:?}", world.now);
            assert!(world.now.0 <= RESERVE_AFTER + 270_000 + 5000);
            return;
        }
    }
    panic!("the large job never starts");
}

/// Rows of specs without priorities: after, cores, GPUs, GiB on each, limit, grace, preemptible, members, runs.
type Row = (i64, u64, u32, Option<u64>, Option<i64>, i64, bool, u32, i64);

fn spec_of(priority: i32, row: Row) -> Spec {
    let (after, cpu, gpus, vram, limit, grace, preemptible, members, runs) = row;
    Spec {
        after,
        priority,
        cpu,
        gpus,
        vram,
        limit,
        grace,
        preemptible,
        members,
        runs,
    }
}

#[test]
fn a_gang_has_one_reservation_for_all_of_its_members() {
    let rows = [
        (0, 0, 2, None, Some(576), 16, false, 1, 14),
        (12, 1, 3, Some(20), None, 13, false, 2, 77),
        (2, 3, 0, None, None, 22, false, 1, 75),
        (26, 2, 2, None, Some(51), 10, false, 2, 78),
        (10, 2, 3, None, Some(249), 30, false, 2, 34),
        (4, 1, 0, Some(3), None, 27, false, 3, 12),
        (34, 3, 1, None, None, 10, true, 1, 25),
        (23, 4, 0, None, None, 20, true, 1, 88),
    ];
    let mut world = World::new(&[1, 2, 2]);
    let specs = rows.map(|row| spec_of(0, row));
    let mut gang_held = false;
    for spec in specs {
        let next = world.now.plus(Span::seconds(spec.after));
        while world.now < next {
            world.pass(next);
            world.decide().unwrap();
        }
        world.submit(&spec);
        world.decide().unwrap();
        let mut holders: BTreeMap<_, u32> = BTreeMap::new();
        for (job, _) in world.waiting.values() {
            if let Some(gang) = &job.gang
                && world.cluster.reservation(&job.uid).is_some()
            {
                *holders.entry(gang.id.clone()).or_default() += 1;
            }
        }
        gang_held |= !holders.is_empty();
        assert!(holders.values().all(|count| *count == 1), "{holders:?}");
    }
    assert!(gang_held, "no gang had a reservation");
}

#[test]
fn jobs_with_different_rights_see_different_room_beside_the_same_reservations() {
    // The last of them must keep clear of the first holder as the second does, but not of the second.
    let rows = [
        (0, (0, 0, 1, None, Some(142), 15, false, 1, 92)),
        (0, (0, 0, 1, Some(1), Some(246), 25, true, 1, 77)),
        (1, (30, 3, 0, None, None, 10, true, 1, 74)),
        (2, (7, 3, 1, Some(15), None, 11, true, 1, 30)),
        (2, (14, 0, 2, None, None, 10, true, 1, 30)),
    ];
    let mut world = World::new(&[1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn who_is_let_in_beside_a_nomination_does_not_count_on_jobs_that_stop_after_it_starts() {
    let rows = [
        (0, (0, 0, 0, None, None, 0, false, 1, 5)),
        (2, (14, 2, 2, Some(5), None, 14, true, 2, 21)),
        (2, (26, 1, 3, None, None, 9, false, 1, 74)),
        (2, (16, 4, 3, Some(8), None, 30, true, 1, 47)),
        (2, (7, 3, 1, Some(5), None, 4, false, 1, 13)),
        (0, (16, 0, 1, Some(9), None, 24, true, 1, 41)),
        (2, (24, 2, 3, None, Some(383), 30, false, 1, 9)),
        (2, (36, 1, 2, Some(23), None, 1, false, 1, 10)),
        (1, (19, 3, 2, Some(6), None, 12, true, 1, 16)),
        (0, (1, 1, 0, None, None, 25, true, 1, 80)),
        (0, (18, 3, 0, Some(15), Some(146), 10, false, 1, 31)),
    ];
    let mut world = World::new(&[1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn who_takes_slots_back_in_time_still_counts_on_those_who_leave_by_then() {
    let rows = [
        (0, (0, 0, 2, None, None, 0, false, 1, 73)),
        (2, (11, 4, 1, None, None, 29, true, 1, 70)),
        (2, (13, 1, 2, Some(6), Some(19), 20, true, 3, 95)),
        (2, (32, 3, 3, None, Some(502), 25, false, 3, 31)),
        (2, (5, 1, 2, None, Some(195), 2, false, 1, 41)),
        (1, (30, 1, 2, Some(8), None, 30, true, 1, 71)),
        (2, (29, 2, 1, None, None, 29, false, 1, 27)),
        (1, (21, 1, 1, Some(1), Some(242), 24, false, 1, 4)),
    ];
    let mut world = World::new(&[2, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn slots_are_taken_back_from_those_who_leave_by_the_promised_time() {
    let rows = [
        (0, (0, 0, 1, None, Some(202), 0, false, 1, 89)),
        (1, (7, 3, 2, Some(23), Some(366), 10, true, 1, 64)),
        (1, (19, 1, 2, None, None, 0, false, 1, 70)),
        (0, (16, 2, 0, None, None, 7, true, 1, 47)),
        (1, (23, 1, 2, Some(1), None, 1, true, 2, 71)),
        (1, (21, 0, 2, Some(4), None, 4, true, 1, 79)),
        (0, (37, 0, 2, None, Some(3), 28, true, 1, 98)),
        (0, (28, 0, 3, Some(2), Some(566), 5, true, 2, 65)),
        (2, (21, 3, 1, Some(21), None, 2, true, 1, 25)),
        (0, (39, 1, 3, Some(1), None, 19, true, 1, 25)),
        (0, (19, 3, 0, Some(14), None, 18, true, 1, 15)),
        (2, (30, 1, 3, Some(22), Some(430), 16, false, 1, 14)),
    ];
    let mut world = World::new(&[2, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn a_holder_also_takes_back_what_it_needs_beside_those_before_it() {
    let rows = [
        (0, (1, 1, 3, None, None, 25, false, 1, 64)),
        (2, (23, 4, 1, None, None, 5, true, 1, 53)),
        (2, (0, 2, 1, None, None, 19, true, 1, 66)),
        (1, (0, 0, 2, Some(9), None, 7, true, 3, 71)),
        (0, (19, 1, 1, Some(17), Some(535), 12, false, 1, 68)),
        (2, (11, 3, 0, None, Some(306), 14, false, 1, 86)),
        (2, (27, 1, 3, Some(8), None, 19, true, 1, 95)),
        (1, (35, 0, 0, None, None, 28, false, 1, 58)),
        (1, (21, 0, 2, Some(11), None, 17, true, 1, 64)),
        (2, (13, 1, 3, None, Some(361), 16, false, 1, 65)),
        (2, (5, 0, 1, None, None, 28, false, 1, 56)),
        (2, (34, 4, 3, Some(12), Some(135), 21, false, 1, 97)),
        (2, (5, 0, 2, Some(3), Some(218), 17, true, 1, 72)),
    ];
    let mut world = World::new(&[3, 3, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}

#[test]
fn a_gang_is_not_nominated_where_it_would_start_later_than_promised() {
    let rows = [
        (0, (0, 1, 1, None, Some(193), 27, false, 1, 53)),
        (1, (0, 4, 0, Some(10), Some(470), 23, false, 1, 55)),
        (2, (30, 4, 2, Some(13), Some(24), 4, true, 1, 41)),
        (2, (38, 2, 0, Some(16), None, 21, true, 3, 24)),
        (1, (25, 1, 1, Some(19), None, 5, true, 1, 20)),
        (1, (25, 1, 0, Some(19), Some(365), 29, true, 1, 94)),
        (2, (3, 1, 0, Some(5), Some(545), 22, true, 1, 59)),
    ];
    let mut world = World::new(&[2, 1]);
    let specs = rows.map(|(priority, row)| spec_of(priority, row));
    world.run(&specs).unwrap();
}
