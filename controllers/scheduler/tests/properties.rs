//! Laws that hold for every cluster: nothing is promised twice, nobody is overtaken who could have gone first, reasons are
//! true, decisions are deterministic, and the incremental state decides like one built from scratch.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod independent;

use independent::gpus_take;
use proptest::prelude::*;
use scheduler::explain::Standing;
use scheduler::{
    Attributed, BoundJob, Bytes, Cluster, Decision, Exclusive, Gpu, GpuRequest, Job, JobUid, Link,
    MilliCpu, Millis, Misfit, Node, NodeName, Nomination, Packing, QueueName, QueueState, Quota,
    ReasonClass, Requirements, Reservation, Settings, Span,
};

/// What happens to a cluster; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Event {
    Submit(Needs),
    Decide(usize),
    Confirm(usize),
    Undo(usize),
    Release(usize),
    Remove(usize),
    Ready(usize, bool),
    Cordon(usize, bool),
    Foreign(usize, usize, u64),
    Measure(usize, u64, u64),
    Holders(usize, usize, u32),
    Pause(bool),
    Limit(Option<u64>, Option<u64>, Option<u64>),
    Own(Option<u64>),
    Weight(u32),
    Wait(i64),
}

#[derive(Clone, Debug)]
struct Needs {
    priority: i32,
    cpu: u64,
    memory: u64,
    gpus: u32,
    link: Link,
    spread: bool,
    vram: Option<u64>,
    exclusive: u8,
    pin: Option<usize>,
    zone: bool,
}

fn needs() -> impl Strategy<Value = Needs> {
    let vram = prop_oneof![1 => Just(None), 3 => (1..25_u64).prop_map(Some)];
    let link = prop_oneof![3 => Just(Link::Any), 1 => Just(Link::Numa), 1 => Just(Link::NvLink)];
    let pin = prop_oneof![4 => Just(None), 1 => (0..5_usize).prop_map(Some)];
    (
        -1..2_i32,
        0..5_u64,
        0..9_u64,
        (0..4_u32, link, any::<bool>()),
        vram,
        0..12_u8,
        pin,
        any::<bool>(),
    )
        .prop_map(
            |(priority, cpu, memory, (gpus, link, spread), vram, exclusive, pin, zone)| Needs {
                priority,
                cpu,
                memory,
                gpus,
                link,
                spread,
                vram,
                exclusive,
                pin,
                zone,
            },
        )
}

fn limit() -> impl Strategy<Value = (Option<u64>, Option<u64>, Option<u64>)> {
    let most = || proptest::option::of(0..4_u64);
    (most(), most(), proptest::option::weighted(0.3, 1..4_u64))
}

fn event() -> impl Strategy<Value = Event> {
    let at = || any::<usize>();
    prop_oneof![
        10 => needs().prop_map(Event::Submit),
        4 => (1..6_usize).prop_map(Event::Decide),
        4 => at().prop_map(Event::Confirm),
        1 => at().prop_map(Event::Undo),
        4 => at().prop_map(Event::Release),
        1 => at().prop_map(Event::Remove),
        1 => (at(), any::<bool>()).prop_map(|(node, ready)| Event::Ready(node, ready)),
        1 => (at(), any::<bool>()).prop_map(|(node, cordoned)| Event::Cordon(node, cordoned)),
        2 => (at(), at(), 0..20_u64).prop_map(|(node, gpu, peak)| Event::Foreign(node, gpu, peak)),
        2 => (at(), 0..20_u64, 0..10_u64).prop_map(|(job, used, more)| Event::Measure(job, used, more)),
        1 => (at(), at(), 0..2_u32).prop_map(|(node, gpu, n)| Event::Holders(node, gpu, n)),
        1 => any::<bool>().prop_map(Event::Pause),
        1 => limit().prop_map(|(own, borrow, jobs)| Event::Limit(own, borrow, jobs)),
        1 => proptest::option::of(0..4_u64).prop_map(Event::Own),
        1 => (1..4_u32).prop_map(Event::Weight),
        3 => (1..30_000_i64).prop_map(Event::Wait),
    ]
}

fn fleet() -> impl Strategy<Value = Vec<Node>> {
    let node = (
        1..5_u64,
        1..9_u64,
        proptest::collection::vec(prop_oneof![Just(16_u64), Just(24)], 0..4),
        any::<bool>(),
    );
    proptest::collection::vec(node, 1..5).prop_map(|nodes| {
        let build = |(at, (cpu, memory, gpus, zone)): (usize, (u64, u64, Vec<u64>, bool))| Node {
            ready: true,
            cpu: MilliCpu(cpu * 1000),
            memory: Bytes::gib(memory),
            labels: if zone {
                BTreeMap::from([("zone".into(), "x".into())])
            } else {
                BTreeMap::new()
            },
            gpus: (0_u32..)
                .zip(gpus)
                .map(|(index, size)| Gpu {
                    // 0 and 2 are of one NUMA node; the last two have NVLink on nodes with much memory.
                    numa: Some(index % 2),
                    nvlinks: Some(if memory > 4 && index > 0 {
                        vec![index + 1]
                    } else {
                        Vec::new()
                    }),
                    ..Gpu::idle(format!("{at}/{index}"), index, Bytes::gib(size))
                })
                .collect(),
            ..Node::default()
        };
        nodes.into_iter().enumerate().map(build).collect()
    })
}

fn node_name(at: usize) -> NodeName {
    format!("node-{at}").into()
}

/// The cluster and, beside it, everything that it was told.
struct Model {
    cluster: Cluster,
    nodes: Vec<Node>,
    queue: QueueState,
    other: QueueState,
    waiting: BTreeMap<JobUid, Job>,
    assumed: BTreeMap<JobUid, (Job, BoundJob)>,
    bound: BTreeMap<JobUid, BoundJob>,
    /// Who is to be placed where others are made to leave, as it was decided last.
    nominated: BTreeMap<JobUid, Nomination>,
    submitted: i64,
    now: Millis,
}

/// Jobs age quickly and use of the past fades quickly, so that both change the order within a test.
fn settings() -> Settings {
    Settings {
        aging: Some(Span::seconds(10)),
        aging_cap: 2,
        half_life: Some(Span::seconds(40)),
        charge_ahead: Span::seconds(20),
        ..Settings::default()
    }
}

impl Model {
    fn new(nodes: Vec<Node>) -> Self {
        let mut cluster = Cluster::new(settings());
        for (at, node) in nodes.iter().enumerate() {
            cluster.upsert_node(&node_name(at), node.clone());
        }
        Self {
            cluster,
            nodes,
            queue: QueueState::default(),
            other: QueueState::default(),
            waiting: BTreeMap::new(),
            assumed: BTreeMap::new(),
            bound: BTreeMap::new(),
            nominated: BTreeMap::new(),
            submitted: 0,
            now: Millis(1),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Submit(needs) => self.submit(needs),
            Event::Decide(limit) => {
                let decisions = self.cluster.decide(self.now, *limit);
                self.note(&decisions);
            }
            Event::Confirm(at) => {
                if let Some(uid) = pick(&self.assumed, *at) {
                    let (_, bound) = self.assumed.remove(&uid).unwrap();
                    let confirmed = BoundJob {
                        attempt: 1,
                        ..bound
                    };
                    self.cluster.upsert_bound(confirmed.clone());
                    self.bound.insert(uid, confirmed);
                }
            }
            Event::Undo(at) => {
                if let Some(uid) = pick(&self.assumed, *at) {
                    let (job, _) = self.assumed.remove(&uid).unwrap();
                    assert!(self.cluster.undo(&uid));
                    self.waiting.insert(uid, job);
                }
            }
            Event::Release(at) => {
                if let Some(uid) = pick(&self.bound, *at) {
                    self.bound.remove(&uid);
                    self.cluster.release(&uid);
                }
            }
            Event::Remove(at) => {
                if let Some(uid) = pick(&self.waiting, *at) {
                    self.waiting.remove(&uid);
                    self.cluster.remove_job(&uid);
                }
            }
            Event::Ready(at, ready) => self.node(*at, |node| node.ready = *ready),
            Event::Cordon(at, cordoned) => self.node(*at, |node| node.unschedulable = *cordoned),
            Event::Foreign(at, gpu, peak) => self.gpu(*at, *gpu, |gpu| {
                gpu.foreign_peaks = vec![Bytes::gib(*peak)];
                gpu.foreign_used = (peak % 3 > 0).then(|| Bytes::gib(peak / 2));
            }),
            Event::Holders(at, gpu, holders) => self.gpu(*at, *gpu, |gpu| gpu.holders = *holders),
            Event::Measure(at, used, more) => self.measure(*at, *used, *more),
            Event::Pause(paused) => {
                self.queue.paused = *paused;
                self.cluster.upsert_queue(&"q".into(), self.queue);
            }
            Event::Limit(own, borrow, jobs) => {
                self.queue.quota = Quota {
                    jobs: *jobs,
                    ..gpus(*own)
                };
                self.queue.borrow = borrow.map(|most| gpus(Some(most)));
                self.cluster.upsert_queue(&"q".into(), self.queue);
            }
            Event::Own(own) => {
                self.other.quota = gpus(*own);
                self.cluster.upsert_queue(&"default".into(), self.other);
            }
            Event::Weight(weight) => {
                self.queue.weight = *weight;
                self.cluster.upsert_queue(&"q".into(), self.queue);
            }
            Event::Wait(millis) => self.now.0 += millis,
        }
    }

    fn submit(&mut self, needs: &Needs) {
        self.submitted += 1;
        let gpus = match (needs.gpus, needs.vram) {
            (0, _) => GpuRequest::None,
            (count, None) => GpuRequest::Whole(count),
            (count, Some(gib)) => GpuRequest::Vram {
                count,
                bytes: Bytes::gib(gib),
            },
        };
        let mut requirements = Requirements {
            cpu: MilliCpu(needs.cpu * 1000),
            memory: Bytes::gib(needs.memory),
            gpus,
            exclusive: match needs.exclusive {
                0 => Exclusive::Gpu,
                1 => Exclusive::Node,
                _ => Exclusive::Shared,
            },
            node_name: needs.pin.map(node_name),
            interconnect: needs.link,
            packing: if needs.spread {
                Packing::Spread
            } else {
                Packing::Pack
            },
            ..Requirements::default()
        };
        if needs.zone {
            requirements.node_selector = BTreeMap::from([("zone".into(), "x".into())]);
        }
        let job = Job {
            uid: format!("job-{}", self.submitted).into(),
            queue: if needs.zone {
                "q".into()
            } else {
                "default".into()
            },
            priority: needs.priority,
            enqueued_micros: self.now.0 * 1000 + self.submitted / 2,
            requirements,
            ..Job::default()
        };
        self.cluster.upsert_job(job.clone());
        self.waiting.insert(job.uid.clone(), job);
    }

    fn node(&mut self, at: usize, change: impl FnOnce(&mut Node)) {
        let at = at % self.nodes.len();
        change(&mut self.nodes[at]);
        self.cluster
            .upsert_node(&node_name(at), self.nodes[at].clone());
    }

    fn gpu(&mut self, at: usize, gpu: usize, change: impl FnOnce(&mut Gpu)) {
        self.node(at, |node| {
            if !node.gpus.is_empty() {
                let gpu = gpu % node.gpus.len();
                change(&mut node.gpus[gpu]);
            }
        });
    }

    fn measure(&mut self, at: usize, used: u64, more: u64) {
        let Some(job) = pick(&self.bound, at).map(|uid| self.bound[&uid].clone()) else {
            return;
        };
        let at = (0..self.nodes.len())
            .find(|at| node_name(*at) == job.node)
            .unwrap();
        self.node(at, |node| {
            for gpu in node
                .gpus
                .iter_mut()
                .filter(|gpu| job.gpus.contains(&gpu.uuid))
            {
                gpu.attributed = vec![Attributed {
                    job: job.uid.clone(),
                    attempt: 1,
                    used: Bytes::gib(used),
                    peak: Bytes::gib(used + more),
                }];
                gpu.used = Some(Bytes::gib(used));
            }
        });
    }

    fn note(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            match decision {
                Decision::Bind(placement) => {
                    let job = self.waiting.remove(&placement.job).unwrap();
                    self.nominated.remove(&job.uid);
                    let bound = placement.bound(&job, self.now);
                    self.assumed.insert(job.uid.clone(), (job, bound));
                }
                Decision::Infeasible { job, .. } => {
                    self.waiting.remove(job).unwrap();
                    self.cluster.remove_job(job);
                }
                Decision::Nominate { job, nomination } => {
                    match nomination {
                        Some(nomination) => self.nominated.insert(job.clone(), nomination.clone()),
                        None => self.nominated.remove(job),
                    };
                }
                Decision::Waiting { .. } | Decision::Reserve { .. } => {}
            }
        }
    }

    /// The same cluster, told everything once, in another order.
    fn rebuilt(&self) -> Cluster {
        let mut cluster = Cluster::new(settings());
        for job in self.waiting.values().rev() {
            cluster.upsert_job(job.clone());
        }
        let assumed = self.assumed.values().map(|(_, bound)| bound);
        for job in self.bound.values().chain(assumed).rev() {
            cluster.upsert_bound(job.clone());
        }
        cluster.upsert_queue(&"q".into(), self.queue);
        cluster.upsert_queue(&"default".into(), self.other);
        for queue in ["q", "default"].map(QueueName::from) {
            let used = self.cluster.usage(&queue, self.now);
            cluster.set_usage(&queue, used, self.now);
        }
        for (at, node) in self.nodes.iter().enumerate().rev() {
            cluster.upsert_node(&node_name(at), node.clone());
        }
        for uid in self.waiting.keys() {
            if let Some(since) = self.cluster.waits_since(uid) {
                assert!(cluster.restore_wait(uid, since));
            }
            if let Some(nomination) = self.nominated.get(uid) {
                assert!(cluster.nominate(uid, nomination.clone()));
            } else if let Some(kept) = self.cluster.reservation(uid) {
                // Who must leave first is not written down.
                let kept = Reservation {
                    waits_for: Vec::new(),
                    ..kept.clone()
                };
                assert!(cluster.restore_reservation(uid, kept));
            }
        }
        cluster
    }

    fn held(&self, queue: &QueueName) -> u64 {
        let assumed = self.assumed.values().map(|(_, bound)| bound);
        let holding = self.bound.values().chain(assumed);
        let here = holding.filter(|bound| bound.queue == *queue);
        here.map(|bound| bound.gpus.len() as u64).sum()
    }

    /// May the job's queue hold it as well?
    fn allows(&self, job: &Job) -> bool {
        let asked = u64::from(job.requirements.gpus.count());
        let (queue, other, other_name) = if job.queue == "q".into() {
            (self.queue, self.other, "default")
        } else {
            (self.other, self.queue, "q")
        };
        let assumed = self.assumed.values().map(|(_, bound)| bound);
        let holding = self.bound.values().chain(assumed);
        let runs = holding.filter(|bound| bound.queue == job.queue).count() as u64;
        // No other queue owns a number of jobs that could be borrowed.
        if queue.quota.jobs.is_some_and(|most| runs >= most) {
            return false;
        }
        let Some(owned) = queue.quota.gpus.filter(|_| asked > 0) else {
            return !queue.paused;
        };
        let idle = other.quota.gpus.map_or(0, |owned| {
            owned.saturating_sub(self.held(&other_name.into()))
        });
        let borrowed = queue.borrow.map_or(0, |most| most.gpus.unwrap().min(idle));
        !queue.paused && self.held(&job.queue) + asked <= owned + borrowed
    }

    /// The share of a job's queue by the letter of rules.md section 6, in thousandths of a GPU times milliseconds.
    fn share(&self, job: &Job) -> u128 {
        let assumed = self.assumed.values().map(|(_, bound)| bound);
        let held: u64 = self
            .bound
            .values()
            .chain(assumed)
            .filter(|bound| bound.queue == job.queue)
            .map(|bound| bound.gpus.len() as u64 * 1000)
            .sum();
        let cores: u64 = self
            .bound
            .values()
            .chain(self.assumed.values().map(|(_, bound)| bound))
            .filter(|bound| bound.queue == job.queue)
            .map(|bound| bound.cpu.0)
            .sum();
        let used = self.cluster.usage(&job.queue, self.now).0;
        let total = u128::from(used) + u128::from(held + cores * 20 / 1000) * 20_000;
        let weight = if job.queue == "q".into() {
            self.queue.weight
        } else {
            1
        };
        total * 1000 / u128::from(weight)
    }

    /// Where a job stands in the order: less is first.
    fn key(&self, job: &Job) -> (i64, u128, i64, JobUid) {
        let waited = self.now.0 - job.enqueued_micros.div_euclid(1000);
        let band = i64::from(job.priority) + (waited / 10_000).clamp(0, 2);
        (-band, self.share(job), job.enqueued_micros, job.uid.clone())
    }

    /// Does the job fit the node, by the letter of rules.md section 5 and plain arithmetic?
    fn fits(&self, job: &Job, at: usize) -> bool {
        let (name, node, needs) = (node_name(at), &self.nodes[at], &job.requirements);
        let here: Vec<&BoundJob> = self
            .bound
            .values()
            .chain(self.assumed.values().map(|(_, bound)| bound))
            .filter(|bound| bound.node == name)
            .collect();
        let cpu: u64 = here.iter().map(|bound| bound.cpu.0).sum();
        let memory: u64 = here.iter().map(|bound| bound.memory.0).sum();
        node.ready
            && !node.unschedulable
            && needs.node_name.as_ref().is_none_or(|pin| *pin == name)
            && needs
                .node_selector
                .iter()
                .all(|(key, value)| node.labels.get(key) == Some(value))
            && here.iter().all(|bound| !bound.whole_node)
            && (needs.exclusive != Exclusive::Node || here.is_empty())
            && cpu + needs.cpu.0 <= node.cpu.0
            && memory + needs.memory.0 <= node.memory.0
            && gpus_take(needs, &node.gpus, &here)
    }
}

fn gpus(most: Option<u64>) -> Quota {
    Quota {
        gpus: most,
        ..Quota::default()
    }
}

fn pick<T>(map: &BTreeMap<JobUid, T>, at: usize) -> Option<JobUid> {
    map.keys().nth(at.checked_rem(map.len())?).cloned()
}

/// What was decided but for the reasons that jobs wait for, which a cluster that starts anew tells all of them.
fn told(decisions: &[Decision]) -> Vec<&Decision> {
    let news = |decision: &&Decision| !matches!(decision, Decision::Waiting { .. });
    decisions.iter().filter(news).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_keep_every_law(nodes in fleet(), events in proptest::collection::vec(event(), 1..60)) {
        let mut model = Model::new(nodes);
        for event in &events {
            model.apply(event);
            prop_assert_eq!(model.cluster.check(), Vec::new(), "after {:?}", event);
        }
        // Determinism, and the incremental state against one built from scratch.
        let first = model.cluster.clone().decide(model.now, usize::MAX);
        prop_assert_eq!(&first, &model.cluster.clone().decide(model.now, usize::MAX));
        // For whom slots were searched in vain lately is not written down; they are searched for again after a minute.
        let later = model.now.plus(Span::seconds(60));
        let decided = [model.cluster.clone(), model.rebuilt()].map(|mut cluster| {
            // Queues are charged for what they hold from a decision on.
            let _ = cluster.decide(model.now, 0);
            cluster.decide(later, usize::MAX)
        });
        prop_assert_eq!(told(&decided[0]), told(&decided[1]));
        // One decision at a time: nobody is bound while one before him fits. What is told is true of the last decision's time.
        let _ = model.cluster.decide(model.now, 0);
        loop {
            let mut best: BTreeMap<JobUid, NodeName> = BTreeMap::new();
            for uid in model.waiting.keys() {
                if let Some(Standing::Fits(node)) = model.cluster.explain(uid) {
                    best.insert(uid.clone(), node);
                }
            }
            let fitting: BTreeSet<JobUid> = best.keys().cloned().collect();
            let kept = model.waiting.keys().any(|uid| model.cluster.reservation(uid).is_some());
            let decisions = model.cluster.decide(model.now, 1);
            let Some(decision) = decisions.first() else {
                prop_assert_eq!(fitting, BTreeSet::new(), "a job that fits was left waiting");
                break;
            };
            if let Decision::Bind(placement) = decision {
                let job = model.waiting[&placement.job].clone();
                let at = (0..model.nodes.len()).find(|at| node_name(*at) == placement.node).unwrap();
                prop_assert!(model.fits(&job, at), "{:?} does not fit", job);
                // Whoever looked at every node in full would choose the same; what is kept for others goes by the time.
                prop_assert!(kept || best.get(&job.uid) == Some(&placement.node), "{:?}", placement);
                prop_assert!(model.allows(&job), "the quota does not allow {:?}", job);
                for uid in &fitting {
                    let overtaken = model.key(&model.waiting[uid]) < model.key(&job);
                    prop_assert!(!overtaken, "{} was overtaken by {}", uid, job.uid);
                }
            }
            model.note(&decisions);
            prop_assert_eq!(model.cluster.check(), Vec::new());
        }
    }

    #[test]
    fn reasons_are_true(nodes in fleet(), events in proptest::collection::vec(event(), 1..60)) {
        let mut model = Model::new(nodes);
        for event in &events {
            model.apply(event);
        }
        let decisions = model.cluster.decide(model.now, usize::MAX);
        model.note(&decisions);
        for job in model.waiting.values() {
            let per_node = model.cluster.examine(&job.uid);
            for at in 0..model.nodes.len() {
                let misfits = &per_node[&node_name(at)];
                prop_assert_eq!(misfits.is_empty(), model.fits(job, at), "{:?} on {}: {:?}", job, at, misfits);
                let lacks_vram = misfits.iter().any(|misfit| misfit.class() == ReasonClass::InsufficientVram);
                if lacks_vram {
                    let here: Vec<&BoundJob> = model
                        .bound
                        .values()
                        .chain(model.assumed.values().map(|(_, bound)| bound))
                        .filter(|bound| bound.node == node_name(at))
                        .collect();
                    prop_assert!(!gpus_take(&job.requirements, &model.nodes[at].gpus, &here));
                }
            }
            // What the job was told counts every node that it was judged against once.
            if let Some(Standing::Waits(scheduler::Explanation::Nodes(reasons))) = model.cluster.explain(&job.uid) {
                let counted: usize = reasons.items.iter().map(|item| item.nodes).sum();
                prop_assert_eq!(counted, reasons.total);
                let judged = if job.requirements.node_name.is_some() { 1 } else { model.nodes.len() };
                prop_assert_eq!(reasons.total, judged);
                // Nodes are counted by the first reason that a look at each by itself finds.
                let mut firsts: BTreeMap<ReasonClass, usize> = BTreeMap::new();
                let asked = per_node
                    .iter()
                    .filter(|(name, _)| job.requirements.node_name.as_ref().is_none_or(|pin| pin == *name));
                for (_, misfits) in asked {
                    // Where it would fit, something is kept for another.
                    let first = misfits.first().map(Misfit::class);
                    *firsts.entry(first.unwrap_or(ReasonClass::Reserved)).or_default() += 1;
                }
                let counts = reasons.items.iter().map(|item| (item.misfit.class(), item.nodes));
                prop_assert_eq!(counts.collect::<BTreeMap<_, _>>(), firsts);
                for item in &reasons.items {
                    let is_kept = item.misfit.class() == ReasonClass::Reserved;
                    let first = per_node[&item.best].first();
                    prop_assert_eq!(Some(&item.misfit).filter(|_| !is_kept), first);
                }
            }
        }
    }

    #[test]
    fn what_is_called_impossible_fits_no_empty_node(nodes in fleet(), needs in needs()) {
        let mut model = Model::new(nodes.clone());
        model.submit(&needs);
        let job: Job = model.waiting.values().next().unwrap().clone();
        let labelled: Vec<Node> = nodes
            .into_iter()
            .map(|node| Node { labels: BTreeMap::from([(Arc::from("zone"), Arc::from("x"))]), ..node })
            .collect();
        let empty = Model::new(labelled);
        let possible = (0..empty.nodes.len()).any(|at| empty.fits(&job, at));
        let unknown_pin = job.requirements.node_name.as_ref().is_some_and(|pin| {
            (0..empty.nodes.len()).all(|at| node_name(at) != *pin)
        });
        let decisions = model.cluster.decide(model.now, usize::MAX);
        let impossible = matches!(decisions.first(), Some(Decision::Infeasible { .. }));
        prop_assert_eq!(impossible, !possible && !unknown_pin, "{:?}", decisions);
    }
}
