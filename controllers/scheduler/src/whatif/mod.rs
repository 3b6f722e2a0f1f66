//! What would start a job that waits: the smallest changes, one at a time, and what each would cost others. And what
//! submitting a job would do.
//!
//! **Guarantees.** Every change is tried before it is told: with it the job fits the placement that is told, on the present
//! state and by the check that places jobs, or the jobs that are named make room for it. Numbers are the largest that do;
//! GPU memory and host memory are rounded down to whole MiB.
//!
//! **Cost.** Each kind of change takes a few looks at the fleet.

mod ask;
mod words;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decide::{Decision, Placement};
use crate::explain::Explanation;
use crate::forecast::{Leavers, Until};
use crate::input::{
    Bytes, Capability, Exclusive, GpuRequest, Job, JobUid, Link, MilliCpu, Millis, NodeName,
    QueueName, QueueState, Toleration,
};
use crate::preempt::{self, NoPlan, Plan, Victim};
use crate::why::Why;

use ask::Ask;

/// A change that would start a job, and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// What to change.
    pub change: Change,
    /// Where the job would go; `None` when that is up to whoever leaves first.
    pub placement: Option<Placement>,
    /// Whom it would displace.
    pub victims: Vec<Victim>,
    /// How many waiting jobs it would go before that go before it now.
    pub overtakes: usize,
}

/// A change that would start a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It declares this much GPU memory; `from` is `None` when it asked for whole GPUs.
    Vram {
        /// What it declares now.
        from: Option<Bytes>,
        /// The most that fits.
        to: Bytes,
    },
    /// It takes fewer GPUs.
    Gpus {
        /// How many it asks for.
        from: u32,
        /// The most that fit.
        to: u32,
    },
    /// It asks for less CPU.
    Cpu {
        /// What it asks for.
        from: MilliCpu,
        /// The most that fits.
        to: MilliCpu,
    },
    /// It asks for less host memory.
    Memory {
        /// What it asks for.
        from: Bytes,
        /// The most that fits.
        to: Bytes,
    },
    /// It takes another GPU model.
    Model {
        /// What it asks for.
        from: Arc<str>,
        /// What it would get.
        to: Arc<str>,
    },
    /// It takes smaller cards.
    CardMemory {
        /// What it asks for.
        from: Bytes,
        /// The largest that fit.
        to: Bytes,
    },
    /// It takes older cards.
    Capability {
        /// What it asks for.
        from: Capability,
        /// The newest that fit.
        to: Capability,
    },
    /// It takes GPUs that are not joined as it asks.
    Interconnect {
        /// What it asks for.
        from: Link,
    },
    /// It shares.
    Share,
    /// It is not pinned to a node.
    Pin {
        /// The node that it is pinned to.
        from: NodeName,
    },
    /// It does not ask for some labels, the ones told.
    Labels(BTreeSet<Arc<str>>),
    /// It does not need some tags, the ones told.
    Needs(BTreeSet<Arc<str>>),
    /// It does not need some directories, the ones told.
    Directories(BTreeSet<Arc<str>>),
    /// It tolerates these taints, told by their keys.
    Tolerate(BTreeSet<Arc<str>>),
    /// It may displace others as it is.
    Displace,
    /// It has a higher priority.
    Priority {
        /// What it has.
        from: i32,
        /// The least that is enough.
        to: i32,
    },
    /// Its queue is resumed, or owns more.
    Queue {
        /// The queue.
        queue: QueueName,
        /// What it says.
        from: Box<QueueState>,
        /// What it would have to say.
        to: Box<QueueState>,
    },
    /// It waits until these jobs have ended.
    Wait(Until),
    /// The same, where nobody knows when that is.
    WaitFor(Leavers),
}

impl Change {
    /// How many conditions it drops.
    fn items(&self) -> usize {
        match self {
            Change::Labels(items)
            | Change::Needs(items)
            | Change::Directories(items)
            | Change::Tolerate(items) => items.len(),
            _ => 1,
        }
    }

    /// The job with this change; `None` when the change is not one of the job.
    pub fn applied(&self, job: &Job) -> Option<Job> {
        let mut job = job.clone();
        let needs = &mut job.requirements;
        match self {
            Change::Vram { to, .. } => {
                needs.gpus = GpuRequest::Vram {
                    count: needs.gpus.count(),
                    bytes: *to,
                }
            }
            Change::Gpus { to, .. } => needs.gpus = with_count(needs.gpus, *to),
            Change::Cpu { to, .. } => needs.cpu = *to,
            Change::Memory { to, .. } => needs.memory = *to,
            Change::Model { to, .. } => needs.gpu_model = Some(to.to_lowercase().into()),
            Change::CardMemory { to, .. } => needs.gpu_min_memory = Some(*to),
            Change::Capability { to, .. } => needs.gpu_min_capability = Some(*to),
            Change::Interconnect { .. } => needs.interconnect = Link::Any,
            Change::Share => needs.exclusive = Exclusive::Shared,
            Change::Pin { .. } => needs.node_name = None,
            Change::Labels(keys) => needs.node_selector.retain(|key, _| !keys.contains(key)),
            Change::Needs(tags) => needs.needs.retain(|tag| !tags.contains(tag)),
            Change::Directories(paths) => needs.directories.retain(|path| !paths.contains(path)),
            Change::Tolerate(keys) => needs.tolerations.extend(keys.iter().map(|key| Toleration {
                key: Some(key.clone()),
                value: None,
                effect: None,
            })),
            Change::Priority { to, .. } => job.priority = *to,
            Change::Displace | Change::Queue { .. } | Change::Wait(_) | Change::WaitFor(_) => {
                return None;
            }
        }
        Some(job)
    }
}

fn with_count(request: GpuRequest, count: u32) -> GpuRequest {
    match request {
        GpuRequest::None => GpuRequest::None,
        GpuRequest::Whole(_) => GpuRequest::Whole(count),
        GpuRequest::Vram { bytes, .. } => GpuRequest::Vram { count, bytes },
    }
}

/// What submitting a job would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// It would start at once.
    Starts(Placement),
    /// It could never run.
    Never(Explanation),
    /// It would wait.
    Waits {
        /// For what.
        why: Box<Why>,
        /// Whom it may displace for a place at once, one plan for each member of a gang, or why nobody.
        plans: Result<Vec<Plan>, NoPlan>,
    },
}

impl Cluster {
    /// What would start a job that waits: every kind of change at most once, those of the job itself first. A change of a
    /// member of a gang is one of all members, and the place that is told is that of the first of them.
    pub fn what_if(&self, uid: &JobUid, now: Millis) -> Vec<Remedy> {
        let Some(job) = self.waiting_job(uid) else {
            return Vec::new();
        };
        Ask::of(self, job, now).remedies()
    }

    /// What submitting a job would do now: what deciding everything with it does, on a copy.
    pub fn dry_run(&self, job: Job, now: Millis) -> Option<DryRun> {
        let uid = job.uid.clone();
        let mut trial = self.clone();
        trial.upsert_job(job);
        for decision in trial.decide(now, usize::MAX) {
            match decision {
                Decision::Bind(placement) if placement.job == uid => {
                    return Some(DryRun::Starts(placement));
                }
                Decision::Infeasible { job, why } if job == uid => {
                    return Some(DryRun::Never((*why).clone()));
                }
                Decision::Bind(_)
                | Decision::Infeasible { .. }
                | Decision::Waiting { .. }
                | Decision::Reserve { .. }
                | Decision::Nominate { .. } => {}
            }
        }
        let plans = preempt::plan_gang(&trial, &uid, now);
        let why = Box::new(trial.why(&uid, now)?);
        Some(DryRun::Waits { why, plans })
    }
}
