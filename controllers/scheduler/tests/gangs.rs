//! Gangs are placed whole: all members in one go, each on a node of its own, as soon as that is possible, or none.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scheduler::explain::Standing;
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, Gang, Job, JobUid, MilliCpu, Millis, Node, NodeName,
    Requirements, Settings,
};

#[derive(Clone, Debug)]
enum Event {
    /// Members of a new gang, by the cores that each asks for; the last `late` of them are told of later.
    Gang {
        cores: u64,
        size: u32,
        late: u32,
    },
    /// A member that was late.
    Late,
    Single(u64),
    Release(usize),
    Undo(usize),
    Remove(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1..5_u64, 1..5_u32, 0..3_u32).prop_map(|(cores, size, late)| Event::Gang { cores, size, late }),
        2 => Just(Event::Late),
        3 => (1..5_u64).prop_map(Event::Single),
        5 => any::<usize>().prop_map(Event::Release),
        1 => any::<usize>().prop_map(Event::Undo),
        1 => any::<usize>().prop_map(Event::Remove),
    ]
}

struct World {
    cluster: Cluster,
    cores: BTreeMap<NodeName, u64>,
    waiting: BTreeMap<JobUid, Job>,
    placed: BTreeMap<JobUid, (Job, NodeName)>,
    late: Vec<Job>,
    told: i64,
}

impl World {
    fn new(cores: &[u64]) -> Self {
        let settings = Settings {
            reservations: 0,
            ..Settings::default()
        };
        let mut cluster = Cluster::new(settings);
        let mut named = BTreeMap::new();
        for (at, cores) in cores.iter().enumerate() {
            let name = NodeName::from(format!("node-{at}"));
            let node = Node {
                ready: true,
                cpu: MilliCpu(cores * 1000),
                memory: Bytes::gib(1),
                ..Node::default()
            };
            cluster.upsert_node(&name, node);
            named.insert(name, *cores);
        }
        Self {
            cluster,
            cores: named,
            waiting: BTreeMap::new(),
            placed: BTreeMap::new(),
            late: Vec::new(),
            told: 0,
        }
    }

    fn job(&mut self, cores: u64, gang: Option<Gang>) -> Job {
        self.told += 1;
        Job {
            uid: format!("job-{:03}", self.told).into(),
            queue: "default".into(),
            enqueued_micros: self.told,
            requirements: Requirements {
                cpu: MilliCpu(cores * 1000),
                ..Requirements::default()
            },
            gang,
            ..Job::default()
        }
    }

    fn tell(&mut self, job: Job) {
        self.cluster.upsert_job(job.clone());
        self.waiting.insert(job.uid.clone(), job);
    }

    fn apply(&mut self, event: &Event) {
        let pick = |keys: Vec<JobUid>, at: usize| keys.get(at.checked_rem(keys.len())?).cloned();
        let placed = || self.placed.keys().cloned().collect();
        match event {
            Event::Gang { cores, size, late } => {
                let id = format!("gang-{}", self.told);
                for member in 0..*size {
                    let gang = Gang {
                        id: id.as_str().into(),
                        size: *size,
                    };
                    let job = self.job(*cores, Some(gang));
                    if member + late < *size {
                        self.tell(job);
                    } else {
                        self.late.push(job);
                    }
                }
            }
            Event::Late => {
                if let Some(job) = self.late.pop() {
                    self.tell(job);
                }
            }
            Event::Single(cores) => {
                let job = self.job(*cores, None);
                self.tell(job);
            }
            Event::Release(at) => {
                if let Some(uid) = pick(placed(), *at) {
                    self.placed.remove(&uid);
                    self.cluster.release(&uid);
                }
            }
            Event::Undo(at) => {
                if let Some(uid) = pick(placed(), *at) {
                    let (job, _) = self.placed.remove(&uid).unwrap();
                    assert!(self.cluster.undo(&uid));
                    self.waiting.insert(uid, job);
                }
            }
            Event::Remove(at) => {
                if let Some(uid) = pick(self.waiting.keys().cloned().collect(), *at) {
                    self.waiting.remove(&uid);
                    self.cluster.remove_job(&uid);
                }
            }
        }
    }

    fn free(&self, name: &NodeName) -> u64 {
        let here = self.placed.values().filter(|(_, node)| node == name);
        let held: u64 = here.map(|(job, _)| job.requirements.cpu.0 / 1000).sum();
        self.cores[name] - held
    }

    /// The members of a gang that wait, and the nodes of those that are placed.
    fn members(&self, id: &str) -> (usize, BTreeSet<NodeName>) {
        let of = |job: &Job| job.gang.as_ref().is_some_and(|gang| &*gang.id == id);
        let waiting = self.waiting.values().filter(|job| of(job)).count();
        let placed: Vec<NodeName> = self
            .placed
            .values()
            .filter(|(job, _)| of(job))
            .map(|(_, node)| node.clone())
            .collect();
        let nodes: BTreeSet<NodeName> = placed.iter().cloned().collect();
        assert_eq!(
            nodes.len(),
            placed.len(),
            "two members of {id} share a node"
        );
        (waiting, nodes)
    }

    /// Decides in small calls, and holds every call to the law.
    fn decide(&mut self, limit: usize) -> Result<(), TestCaseError> {
        loop {
            let decisions = self.cluster.decide(Millis(0), limit);
            prop_assert_eq!(self.cluster.check(), Vec::new());
            if decisions.is_empty() {
                break;
            }
            let mut touched = BTreeSet::new();
            for decision in decisions {
                match decision {
                    Decision::Bind(placement) => {
                        let job = self.waiting.remove(&placement.job).unwrap();
                        touched.extend(job.gang.clone());
                        self.placed.insert(placement.job, (job, placement.node));
                    }
                    Decision::Infeasible { job, .. } => {
                        self.waiting.remove(&job);
                        self.cluster.remove_job(&job);
                    }
                    other => prop_assert!(matches!(other, Decision::Waiting { .. }), "{:?}", other),
                }
            }
            for gang in touched {
                let (_, nodes) = self.members(&gang.id);
                prop_assert!(
                    nodes.len() == gang.size as usize,
                    "{:?} is placed in part: {:?}",
                    gang,
                    nodes
                );
            }
        }
        for job in self.waiting.values() {
            prop_assert!(!matches!(
                self.cluster.explain(&job.uid),
                Some(Standing::Fits(_))
            ));
            let Some(gang) = &job.gang else { continue };
            let (waiting, taken) = self.members(&gang.id);
            let complete = waiting + taken.len() >= gang.size as usize;
            let asked = job.requirements.cpu.0 / 1000;
            let open = self.cores.keys().filter(|name| !taken.contains(*name));
            let fitting = open.filter(|name| self.free(name) >= asked).count();
            let possible = complete && fitting + taken.len() >= gang.size as usize;
            prop_assert!(!possible, "{:?} could be placed", gang);
        }
        Ok(())
    }

    /// The same cluster, told everything once.
    fn rebuilt(&self) -> Cluster {
        let mut cluster = Cluster::new(Settings::default());
        for job in self.waiting.values().rev() {
            cluster.upsert_job(job.clone());
        }
        for (job, node) in self.placed.values() {
            cluster.upsert_bound(BoundJob {
                uid: job.uid.clone(),
                queue: job.queue.clone(),
                node: node.clone(),
                cpu: job.requirements.cpu,
                gang: job.gang.as_ref().map(|gang| gang.id.clone()),
                ..BoundJob::default()
            });
        }
        for (name, cores) in &self.cores {
            let node = Node {
                ready: true,
                cpu: MilliCpu(cores * 1000),
                memory: Bytes::gib(1),
                ..Node::default()
            };
            cluster.upsert_node(name, node);
        }
        cluster
    }
}

fn binds(decisions: Vec<Decision>) -> Vec<Decision> {
    let bind = |decision: &Decision| matches!(decision, Decision::Bind(_));
    decisions.into_iter().filter(bind).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gangs_are_placed_whole_or_not_at_all(
        cores in proptest::collection::vec(1..8_u64, 1..6),
        events in proptest::collection::vec(event(), 1..40),
        limit in 1..4_usize,
    ) {
        let mut world = World::new(&cores);
        for event in &events {
            world.apply(event);
            let mut rebuilt = world.rebuilt();
            let same = world.cluster.clone().decide(Millis(0), usize::MAX);
            prop_assert_eq!(binds(same), binds(rebuilt.decide(Millis(0), usize::MAX)), "{:?}", event);
            world.decide(limit)?;
        }
    }
}
