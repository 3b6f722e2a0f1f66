//! Jobs: what they need, what they allow, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::node::{Capability, Taint, TaintEffect};
use super::units::{Bytes, GpuUuid, JobUid, MilliCpu, Millis, NodeName, QueueName, Span};

/// A taint that a job ignores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Toleration {
    /// Key; `None` matches every key.
    pub key: Option<Arc<str>>,
    /// Value that the taint must have; `None` matches every value.
    pub value: Option<Arc<str>>,
    /// Effect; `None` matches every effect.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Does this toleration cover that taint?
    pub fn covers(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// How many GPUs a job needs, and how much of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum GpuRequest {
    /// None.
    #[default]
    None,
    /// That many whole idle GPUs.
    Whole(u32),
    /// That many GPUs with so much memory free on each.
    Vram {
        /// Number of GPUs.
        count: u32,
        /// Memory on each.
        bytes: Bytes,
    },
}

impl GpuRequest {
    /// Number of GPUs.
    pub fn count(self) -> u32 {
        match self {
            GpuRequest::None => 0,
            GpuRequest::Whole(count) | GpuRequest::Vram { count, .. } => count,
        }
    }
}

/// How far a job keeps others away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusive {
    /// It shares.
    #[default]
    Shared,
    /// Its GPUs are its own.
    Gpu,
    /// The whole node is its own.
    Node,
}

/// What a job needs. Jobs with equal requirements are tried together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirements {
    /// CPU.
    pub cpu: MilliCpu,
    /// Host memory; 0 reserves none.
    pub memory: Bytes,
    /// GPUs.
    pub gpus: GpuRequest,
    /// Part of the GPUs' model name, compared without case.
    pub gpu_model: Option<Arc<str>>,
    /// Least total memory of each card.
    pub gpu_min_memory: Option<Bytes>,
    /// Least compute capability.
    pub gpu_min_capability: Option<Capability>,
    /// How far it keeps others away.
    pub exclusive: Exclusive,
    /// The one node it may run on.
    pub node_name: Option<NodeName>,
    /// Labels that a node must bear.
    pub node_selector: BTreeMap<Arc<str>, Arc<str>>,
    /// Capability tags that a node must offer.
    pub needs: BTreeSet<Arc<str>>,
    /// Taints that it ignores.
    pub tolerations: Vec<Toleration>,
    /// Nodes that it is not offered for now, for example because they refused it lately.
    pub avoid: BTreeSet<NodeName>,
}

/// What a job allows others, and how long it may run. Jobs with other terms are told apart when slots are reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terms {
    /// May it be displaced by a job of higher priority?
    pub preemptible: bool,
    /// Hard limit of one attempt, from its start; `None` when nothing ends it.
    pub limit: Option<Span>,
    /// From TERM to KILL when it is stopped.
    pub grace: Span,
}

/// How long a job will probably run, learned from others like it. It informs estimates and never gives a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Estimate {
    /// Half of those like it ran no longer.
    pub median: Span,
    /// Nine of ten of those like it ran no longer.
    pub p90: Span,
}

/// A job that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Uid.
    pub uid: JobUid,
    /// Its queue.
    pub queue: QueueName,
    /// Declared priority, the base of its queue and nudges included; higher is first.
    pub priority: i32,
    /// When it was queued first, in microseconds since the instant that [`Millis`] count from; earlier is first.
    pub enqueued_micros: i64,
    /// What it needs.
    pub requirements: Requirements,
    /// What it allows others, and how long it may run.
    pub terms: Terms,
    /// How long it will probably run.
    pub estimate: Option<Estimate>,
    /// Jobs that it depends on, transitively; it never displaces them.
    pub ancestors: BTreeSet<JobUid>,
}

/// A job that holds slots: bound, and not yet released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundJob {
    /// Uid.
    pub uid: JobUid,
    /// Its queue.
    pub queue: QueueName,
    /// The attempt, for its measured use; 0 while the binding is not confirmed.
    pub attempt: u32,
    /// Where it is.
    pub node: NodeName,
    /// The GPUs it holds.
    pub gpus: Vec<GpuUuid>,
    /// Memory declared on each GPU; `None` for whole GPUs without a declaration.
    pub vram: Option<Bytes>,
    /// True when the GPUs are its alone, so that all of each is charged.
    pub whole_gpus: bool,
    /// True when the node is its alone.
    pub whole_node: bool,
    /// CPU charged.
    pub cpu: MilliCpu,
    /// Host memory charged.
    pub memory: Bytes,
    /// Declared priority, as in [`Job::priority`].
    pub priority: i32,
    /// What it allows others, and how long it may run.
    pub terms: Terms,
    /// How long it will probably run.
    pub estimate: Option<Estimate>,
    /// When its slots were charged.
    pub bound_at: Millis,
    /// When its process started; `None` before.
    pub started: Option<Millis>,
    /// When its last acknowledged checkpoint of this attempt was written.
    pub checkpointed: Option<Millis>,
    /// Set while it is being stopped: when KILL is due. It displaces nobody's plans again: it is on its way out.
    pub stopping: Option<Millis>,
}

impl BoundJob {
    /// Does it hold the same slots for the same queue as it did?
    pub fn charges_as(&self, other: &Self) -> bool {
        let charges = |job: &Self| {
            (
                job.whole_gpus,
                job.whole_node,
                job.vram,
                job.cpu,
                job.memory,
            )
        };
        self.uid == other.uid
            && self.queue == other.queue
            && self.node == other.node
            && self.gpus == other.gpus
            && charges(self) == charges(other)
    }

    /// When its slots are free at the latest, grace included; `None` when nothing ends it. A job that has not started is
    /// taken to start `now`.
    pub fn ends_by(&self, now: Millis) -> Option<Millis> {
        let limit = self.terms.limit.map(|limit| {
            let start = self.started.unwrap_or(now);
            start.plus(limit).plus(self.terms.grace)
        });
        match (self.stopping, limit) {
            (Some(stop), Some(limit)) => Some(stop.min(limit)),
            (stop, limit) => stop.or(limit),
        }
    }
}
