//! Random small fleets with what runs on them and one job that looks for a place, for the laws of plans and explanations.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scheduler::{
    Attributed, BoundJob, Bytes, Cluster, Exclusive, Gpu, GpuRequest, Job, JobUid, MilliCpu,
    Millis, Node, NodeName, QueueName, QueueState, Quota, Requirements, Settings, Span, Terms,
};

/// The time of all worlds.
pub(crate) const NOW: Millis = Millis(3_600_000);

/// A fleet with what runs on it, and one job that looks for a place.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) bound: Vec<BoundJob>,
    pub(crate) queues: BTreeMap<QueueName, QueueState>,
    pub(crate) job: Job,
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

/// Random worlds.
pub(crate) fn world() -> impl Strategy<Value = World> {
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
    pub(crate) fn without(&self, gone: &BTreeSet<JobUid>, only: Option<&NodeName>) -> Cluster {
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
}
