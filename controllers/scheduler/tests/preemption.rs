//! Laws of preemption plans over random small clusters: a plan really makes room, nobody is stopped in vain or without
//! right, and no set that trying them all finds is cheaper.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scheduler::explain::Standing;
use scheduler::preempt::{self, NoPlan, Right};
use scheduler::{
    Attributed, BoundJob, Bytes, Cluster, Decision, Exclusive, Gpu, GpuRequest, Job, JobUid,
    MilliCpu, Millis, Node, NodeName, QueueName, QueueState, Quota, Requirements, Settings, Span,
    Terms,
};

const NOW: Millis = Millis(3_600_000);

/// A fleet with what runs on it, and one job that looks for a place.
#[derive(Clone, Debug)]
struct World {
    nodes: BTreeMap<NodeName, Node>,
    bound: Vec<BoundJob>,
    queues: BTreeMap<QueueName, QueueState>,
    job: Job,
}

#[derive(Clone, Debug)]
struct Tenant {
    node: usize,
    gpus: Vec<usize>,
    vram: u64,
    cpu: u64,
    priority: i32,
    preemptible: bool,
    started: Option<i64>,
    checkpointed: Option<i64>,
    stopping: bool,
    queue: usize,
    used: Option<u64>,
}

const QUEUES: [&str; 3] = ["default", "lab", "guests"];

fn tenant() -> impl Strategy<Value = Tenant> {
    let minutes = || prop_oneof![1 => Just(None), 4 => (0..60_i64).prop_map(Some)];
    (
        (
            0..3_usize,
            proptest::collection::vec(0..3_usize, 0..3),
            1..20_u64,
            0..3_u64,
        ),
        (
            -2..3_i32,
            proptest::bool::weighted(0.8),
            minutes(),
            proptest::option::of(0..60_i64),
        ),
        (
            proptest::bool::weighted(0.1),
            0..3_usize,
            proptest::option::of(1..24_u64),
        ),
    )
        .prop_map(
            |(
                (node, gpus, vram, cpu),
                (priority, preemptible, started, checkpointed),
                (stopping, queue, used),
            )| {
                Tenant {
                    node,
                    gpus,
                    vram,
                    cpu,
                    priority,
                    preemptible,
                    started,
                    checkpointed: checkpointed.filter(|at| started.is_some_and(|s| *at > s)),
                    stopping,
                    queue,
                    used,
                }
            },
        )
}

fn job() -> impl Strategy<Value = Job> {
    (
        0..4_u32,
        proptest::option::of(1..25_u64),
        0..4_u64,
        0..9_u8,
        -1..4_i32,
        prop_oneof![1 => Just(0_usize), 2 => Just(1), 1 => Just(2)],
        proptest::collection::btree_set(0..12_usize, 0..2),
    )
        .prop_map(
            |(gpus, vram, cpu, exclusive, priority, queue, ancestors)| Job {
                uid: "job".into(),
                queue: QUEUES[queue].into(),
                priority,
                enqueued_micros: 1,
                requirements: Requirements {
                    cpu: MilliCpu(cpu * 1000),
                    gpus: match (gpus, vram) {
                        (0, _) => GpuRequest::None,
                        (count, None) => GpuRequest::Whole(count),
                        (count, Some(gib)) => GpuRequest::Vram {
                            count,
                            bytes: Bytes::gib(gib),
                        },
                    },
                    exclusive: match exclusive {
                        0 => Exclusive::Gpu,
                        1 => Exclusive::Node,
                        _ => Exclusive::Shared,
                    },
                    ..Requirements::default()
                },
                ancestors: ancestors
                    .into_iter()
                    .map(|at| format!("t{at}").into())
                    .collect(),
                ..Job::default()
            },
        )
}

fn world() -> impl Strategy<Value = World> {
    let node = (1..5_u64, 0..4_usize);
    let quota = |range| proptest::option::weighted(0.8, range);
    (
        proptest::collection::vec(node, 1..4),
        proptest::collection::vec(tenant(), 4..12),
        job(),
        (0..40_i64, quota(2..6_u64), quota(0..2)),
    )
        .prop_map(|(nodes, tenants, job, (min_runtime, lab, guests))| {
            let mut world = World {
                nodes: BTreeMap::new(),
                bound: Vec::new(),
                queues: BTreeMap::new(),
                job,
            };
            let with = |gpus, minutes| QueueState {
                quota: Quota {
                    gpus,
                    ..Quota::default()
                },
                min_runtime: Span::seconds(minutes * 60),
                ..QueueState::default()
            };
            world.queues.insert("lab".into(), with(lab, 0));
            world
                .queues
                .insert("guests".into(), with(guests, min_runtime));
            for (at, (cpu, gpus)) in nodes.into_iter().enumerate() {
                let gpus = (0..gpus).map(|gpu| {
                    Gpu::idle(
                        format!("{at}/{gpu}"),
                        gpu.try_into().unwrap(),
                        Bytes::gib(24),
                    )
                });
                let node = Node {
                    ready: true,
                    cpu: MilliCpu(cpu * 1000),
                    memory: Bytes::gib(8),
                    gpus: gpus.collect(),
                    ..Node::default()
                };
                world.nodes.insert(format!("n{at}").into(), node);
            }
            for (at, tenant) in tenants.into_iter().enumerate() {
                world.settle(at, tenant);
            }
            world
        })
}

impl World {
    /// Adds a running job if there is room for it.
    fn settle(&mut self, at: usize, tenant: Tenant) {
        let name: NodeName = format!("n{}", tenant.node % self.nodes.len()).into();
        let there = |bound: &&BoundJob| bound.node == name;
        let held: u64 = self.bound.iter().filter(there).map(|b| b.cpu.0).sum();
        let node = self.nodes.get_mut(&name).unwrap();
        let gpus: BTreeSet<usize> = tenant
            .gpus
            .iter()
            .filter_map(|gpu| gpu.checked_rem(node.gpus.len()))
            .collect();
        let uid: JobUid = format!("t{at}").into();
        let promised = |gpu: &Gpu| -> u64 {
            let on = self.bound.iter().filter(|b| b.gpus.contains(&gpu.uuid));
            on.map(|b| b.vram.unwrap().0).sum()
        };
        let vram = Bytes::gib(tenant.vram);
        let room = gpus
            .iter()
            .all(|gpu| promised(&node.gpus[*gpu]) + vram.0 <= Bytes::gib(23).0);
        if !room || held + tenant.cpu * 1000 > node.cpu.0 {
            return;
        }
        for gpu in &gpus {
            if let Some(used) = tenant.used {
                let gpu = &mut node.gpus[*gpu];
                let used = Bytes::gib(used);
                gpu.attributed.push(Attributed {
                    job: uid.clone(),
                    attempt: 1,
                    used,
                    peak: used,
                });
                gpu.used = gpu.used.map(|sum| sum.saturating_add(used));
            }
        }
        let minutes = |at: i64| Millis(at * 60_000);
        self.bound.push(BoundJob {
            uid,
            queue: QUEUES[tenant.queue].into(),
            attempt: 1,
            node: name,
            gpus: gpus
                .iter()
                .map(|gpu| node.gpus[*gpu].uuid.clone())
                .collect(),
            vram: Some(vram),
            cpu: MilliCpu(tenant.cpu * 1000),
            priority: tenant.priority,
            terms: Terms {
                preemptible: tenant.preemptible,
                ..Terms::default()
            },
            started: tenant.started.map(minutes),
            checkpointed: tenant.checkpointed.map(minutes),
            stopping: tenant.stopping.then_some(NOW),
            ..BoundJob::default()
        });
    }

    /// The cluster without some jobs, of all nodes or of one.
    fn without(&self, gone: &BTreeSet<JobUid>, only: Option<&NodeName>) -> Cluster {
        let mut cluster = Cluster::new(Settings::default());
        for (name, node) in &self.nodes {
            if only.is_none_or(|only| only == name) {
                let mut node = node.clone();
                for gpu in &mut node.gpus {
                    let left = |use_: &Attributed| !gone.contains(&use_.job);
                    let freed: u64 = gpu
                        .attributed
                        .iter()
                        .filter(|use_| !left(use_))
                        .map(|use_| use_.used.0)
                        .sum();
                    gpu.used = Some(Bytes(gpu.used.unwrap().0 - freed));
                    gpu.attributed.retain(left);
                }
                cluster.upsert_node(name, node);
            }
        }
        for (name, queue) in &self.queues {
            cluster.upsert_queue(name, *queue);
        }
        for bound in self.bound.iter().filter(|b| !gone.contains(&b.uid)) {
            cluster.upsert_bound(bound.clone());
        }
        cluster.upsert_job(self.job.clone());
        cluster
    }

    fn fits_without(&self, gone: &BTreeSet<JobUid>, node: &NodeName) -> bool {
        // Queues are left out: who is gone makes room in no queue's quota.
        let mut open = self.clone();
        open.queues.clear();
        let cluster = open.without(gone, Some(node));
        matches!(
            cluster.explain(&"job".into()),
            Some(Standing::Fits(found)) if found == *node
        )
    }

    fn leaving(&self, node: &NodeName) -> BTreeSet<JobUid> {
        let there = self.bound.iter().filter(|b| b.node == *node);
        let leaving = there.filter(|b| b.stopping.is_some());
        leaving.map(|b| b.uid.clone()).collect()
    }

    fn held(&self, queue: &QueueName) -> u64 {
        let its = self.bound.iter().filter(|b| b.queue == *queue);
        its.map(|b| b.gpus.len() as u64).sum()
    }

    fn quota(&self, queue: &QueueName) -> Option<u64> {
        self.queues.get(queue).and_then(|state| state.quota.gpus)
    }

    fn right(&self, bound: &BoundJob) -> Option<Right> {
        let young = self
            .queues
            .get(&bound.queue)
            .is_some_and(|queue| bound.started.map_or(0, |at| NOW.0 - at.0) < queue.min_runtime.0);
        if bound.stopping.is_some() || young || self.job.ancestors.contains(&bound.uid) {
            return None;
        }
        if bound.terms.preemptible && bound.priority < self.job.priority {
            return Some(Right::Priority);
        }
        let asked = u64::from(self.job.requirements.gpus.count());
        let owns = self
            .quota(&self.job.queue)
            .is_some_and(|quota| asked > 0 && self.held(&self.job.queue) + asked <= quota);
        let borrows = self
            .quota(&bound.queue)
            .is_some_and(|quota| self.held(&bound.queue) > quota);
        (owns && borrows && bound.queue != self.job.queue).then_some(Right::Borrowed)
    }

    fn cost(victims: &[&BoundJob]) -> (Option<i32>, u64, u32) {
        let lost = |bound: &&BoundJob| {
            let since = bound.started.max(bound.checkpointed);
            since.map_or(0, |at| (NOW.0 - at.0).unsigned_abs()) * bound.gpus.len() as u64
        };
        (
            victims.iter().map(|bound| bound.priority).max(),
            victims.iter().map(lost).sum(),
            u32::try_from(victims.len()).unwrap(),
        )
    }

    /// May these be taken together? Of each queue no job is taken once it is within its quota.
    fn is_right(&self, victims: &[&BoundJob]) -> bool {
        let borrowed: Vec<_> = victims
            .iter()
            .filter(|bound| self.right(bound) == Some(Right::Borrowed))
            .collect();
        let queues: BTreeSet<&QueueName> = borrowed.iter().map(|bound| &bound.queue).collect();
        queues.into_iter().all(|queue| {
            let taken = victims.iter().filter(|bound| bound.queue == *queue);
            let taken: u64 = taken.map(|bound| bound.gpus.len() as u64).sum();
            let own = borrowed.iter().filter(|bound| bound.queue == *queue);
            let last = own.map(|bound| bound.gpus.len() as u64).max().unwrap();
            self.held(queue) - (taken - last) > self.quota(queue).unwrap()
        })
    }

    /// The least cost of any set on any node, by trying them all.
    fn least(&self) -> Option<(Option<i32>, u64, u32)> {
        let mut least = None;
        for node in self.nodes.keys() {
            let candidates: Vec<&BoundJob> = self
                .bound
                .iter()
                .filter(|bound| bound.node == *node && self.right(bound).is_some())
                .collect();
            for set in 0..1_u32 << candidates.len() {
                let picked = candidates.iter().enumerate();
                let victims: Vec<&BoundJob> = picked
                    .filter(|(at, _)| set & (1 << at) != 0)
                    .map(|(_, bound)| *bound)
                    .collect();
                let cost = Self::cost(&victims);
                if least.is_some_and(|known| known <= cost) || !self.is_right(&victims) {
                    continue;
                }
                let mut gone = self.leaving(node);
                gone.extend(victims.iter().map(|bound| bound.uid.clone()));
                if self.fits_without(&gone, node) {
                    least = Some(cost);
                }
            }
        }
        least
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_makes_room_with_right_and_at_the_least_cost(world in world()) {
        let cluster = world.without(&BTreeSet::new(), None);
        let plan = preempt::plan(&cluster, &"job".into(), NOW);
        let least = world.least();
        let plan = match plan {
            Err(NoPlan::Queue(_) | NoPlan::Fits(_)) => return Ok(()),
            Err(why) => {
                prop_assert_eq!(least, None, "{}", why);
                return Ok(());
            }
            Ok(plan) => plan,
        };
        prop_assert_eq!(Some((plan.cost.priority, plan.cost.lost, plan.cost.victims)), least);
        let node = &plan.placement.node;
        let bound = |uid: &JobUid| world.bound.iter().find(|b| b.uid == *uid).unwrap();
        for victim in &plan.victims {
            prop_assert_eq!(world.right(bound(&victim.job)), Some(victim.right));
            prop_assert_eq!(&bound(&victim.job).node, node);
        }
        let victims: Vec<&BoundJob> = plan.victims.iter().map(|victim| bound(&victim.job)).collect();
        prop_assert_eq!(World::cost(&victims), (plan.cost.priority, plan.cost.lost, plan.cost.victims));
        prop_assert!(world.is_right(&victims));
        // Nobody in vain.
        let leaving = world.leaving(node);
        prop_assert_eq!(&leaving, &plan.leaving.iter().cloned().collect());
        let mut gone = leaving;
        gone.extend(plan.victims.iter().map(|victim| victim.job.clone()));
        for victim in &plan.victims {
            let spared = gone.iter().filter(|uid| **uid != victim.job).cloned().collect();
            prop_assert!(!world.fits_without(&spared, node), "{} is stopped in vain", victim.job);
        }
        // Carried out, it gives the job its place.
        let decisions = world.without(&gone, None).decide(NOW, 1);
        prop_assert_eq!(decisions.first(), Some(&Decision::Bind(plan.placement)));
    }

    #[test]
    fn plans_do_not_depend_on_the_order_of_events(world in world()) {
        let mut turned = world.clone();
        turned.bound.reverse();
        let plan = |world: &World| preempt::plan(&world.without(&BTreeSet::new(), None), &"job".into(), NOW);
        prop_assert_eq!(plan(&world), plan(&turned));
    }
}
