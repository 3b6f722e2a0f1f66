//! Laws of reservations over simulated time: no promised start moves later, what was promised is kept, the wait of the
//! first is bounded, nothing is promised twice, and a cluster that is told what was reserved decides like the one that did.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

mod reserved;

use std::collections::BTreeMap;

use proptest::prelude::*;
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, Gang, Gpu, GpuRequest, Job, JobUid, MilliCpu, Millis, Node,
    NodeName, Nomination, Placement, Requirements, Reservation, Settings, Span, Terms,
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
    /// Who is to be placed where others are made to leave, as it was decided last.
    nominated: BTreeMap<JobUid, Nomination>,
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
            nominated: BTreeMap::new(),
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
                self.nominated.remove(&job.uid);
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
                match &nomination {
                    Some(nomination) => self.nominated.insert(job, nomination.clone()),
                    None => self.nominated.remove(&job),
                };
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
            if let Some(since) = self.cluster.waits_since(uid) {
                assert!(cluster.restore_wait(uid, since));
            }
            if let Some(nomination) = self.nominated.get(uid) {
                assert!(cluster.nominate(uid, nomination.clone()));
            } else if let Some(reservation) = self.cluster.reservation(uid) {
                // Who must leave first is not written down.
                let reservation = Reservation {
                    waits_for: Vec::new(),
                    ..reservation.clone()
                };
                assert!(cluster.restore_reservation(uid, reservation));
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

/// What was decided but for the reasons that jobs wait for, which a cluster that starts anew tells all of them.
fn told(decisions: Vec<Decision>) -> Vec<Decision> {
    let news = |decision: &Decision| !matches!(decision, Decision::Waiting { .. });
    decisions.into_iter().filter(news).collect()
}

/// Does a cluster that is told everything after these jobs decide about one more like the one that saw it all?
fn decides_the_same(gpus: &[u32], specs: &[Spec], probe: &Spec) -> Result<(), TestCaseError> {
    let mut world = World::new(gpus);
    let mut next = Millis(0);
    for spec in specs {
        next = next.plus(Span::seconds(spec.after));
        while world.now < next {
            world.pass(next);
            world.decide()?;
        }
        world.submit(spec);
        world.decide()?;
    }
    let (job, _) = world.job(probe, None);
    let (mut same, mut rebuilt) = (world.cluster.clone(), world.rebuilt());
    same.upsert_job(job.clone());
    rebuilt.upsert_job(job);
    // When slots were searched for a gang the last time is not written down; it is searched for again after a minute.
    let is_held =
        |(job, _): &(Job, i64)| job.gang.is_some() && world.cluster.reservation(&job.uid).is_some();
    let rest = if world.waiting.values().any(is_held) {
        60
    } else {
        0
    };
    let now = world.now.plus(Span::seconds(rest));
    // Time alone has nobody tried again, so something happens on every node.
    for (name, node) in world.nodes.iter().filter(|_| rest > 0) {
        for cluster in [&mut same, &mut rebuilt] {
            cluster.upsert_node(
                name,
                Node {
                    max_jobs: Some(1000),
                    ..node.clone()
                },
            );
        }
    }
    let (same, rebuilt) = (
        same.decide(now, usize::MAX),
        rebuilt.decide(now, usize::MAX),
    );
    prop_assert_eq!(told(same), told(rebuilt));
    Ok(())
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
        decides_the_same(&gpus, &specs, &probe)?;
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
