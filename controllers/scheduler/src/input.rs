//! What the core is told: ids, units, nodes, jobs and queues, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Arc<str>);

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

id!(
    /// Name of a node.
    NodeName
);
id!(
    /// Uid of a job.
    JobUid
);
id!(
    /// UUID of a GPU.
    GpuUuid
);
id!(
    /// Name of a queue.
    QueueName
);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// One mebibyte.
    pub const MIB: u64 = 1 << 20;
    /// One gibibyte.
    pub const GIB: u64 = 1 << 30;

    /// That many gibibytes.
    pub const fn gib(count: u64) -> Self {
        Self(count * Self::GIB)
    }

    /// That many mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count * Self::MIB)
    }

    /// The difference, or nothing.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, or the largest number.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Bytes {
    /// In GiB with one decimal, rounded down, so that what is shown as free is free; small amounts in MiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= Self::GIB {
            let tenths = u128::from(self.0) * 10 / u128::from(Self::GIB);
            write!(f, "{}.{} GiB", tenths / 10, tenths % 10)
        } else {
            write!(f, "{} MiB", self.0 / Self::MIB)
        }
    }
}

/// Thousandths of a CPU core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u64);

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

/// Milliseconds since some instant that the caller keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

/// A CUDA compute capability, such as 9.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// The number before the point.
    pub major: u32,
    /// The number behind it.
    pub minor: u32,
}

impl Capability {
    /// Reads `9.0` or `9`; `None` when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a node was told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DesiredState {
    /// Take jobs.
    #[default]
    Run,
    /// Take no new jobs.
    Pause,
    /// Take no new jobs and stop the running ones.
    Drain,
    /// Like Drain, and then end.
    Stop,
}

/// What a taint does to jobs that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaintEffect {
    /// They are not placed here.
    NoSchedule,
    /// They are placed here only when nothing else fits.
    PreferNoSchedule,
    /// They are not placed here; stopping running ones is not this crate's concern.
    NoExecute,
}

/// A mark that keeps jobs away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: Arc<str>,
    /// Value; empty when none was given.
    pub value: Arc<str>,
    /// Effect.
    pub effect: TaintEffect,
}

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

/// One host as it was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Labels, architecture and operating system among them.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Capability tags.
    pub offers: BTreeSet<Arc<str>>,
    /// False while the node is not seen.
    pub ready: bool,
    /// True when it is cordoned.
    pub unschedulable: bool,
    /// What it was told to do.
    pub desired: DesiredState,
    /// Most jobs at once.
    pub max_jobs: Option<u32>,
    /// CPU.
    pub cpu: MilliCpu,
    /// Host memory.
    pub memory: Bytes,
    /// GPUs.
    pub gpus: Vec<Gpu>,
}

/// One GPU as it was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// UUID.
    pub uuid: GpuUuid,
    /// Index in PCI bus order.
    pub index: u32,
    /// Model name.
    pub model: Arc<str>,
    /// Total memory.
    pub memory: Bytes,
    /// Memory that the driver keeps or the administrator reserves.
    pub reserved: Bytes,
    /// Memory in use by anyone; `None` when it could not be read, which is not the same as nothing.
    pub used: Option<Bytes>,
    /// Compute capability, where known.
    pub capability: Option<Capability>,
    /// False keeps jobs away.
    pub healthy: bool,
    /// Peak of each process that is no job's.
    pub foreign_peaks: Vec<Bytes>,
    /// Live processes of ended attempts.
    pub holders: u32,
    /// Use by jobs.
    pub attributed: Vec<Attributed>,
}

impl Gpu {
    /// A healthy idle GPU without a model or capability.
    pub fn idle(uuid: impl Into<GpuUuid>, index: u32, memory: Bytes) -> Self {
        Self {
            uuid: uuid.into(),
            index,
            model: "".into(),
            memory,
            reserved: Bytes(0),
            used: Some(Bytes(0)),
            capability: None,
            healthy: true,
            foreign_peaks: Vec::new(),
            holders: 0,
            attributed: Vec::new(),
        }
    }
}

/// Use of a GPU by one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributed {
    /// The job.
    pub job: JobUid,
    /// The attempt.
    pub attempt: u32,
    /// Memory in use.
    pub used: Bytes,
    /// Most memory it was seen with.
    pub peak: Bytes,
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

/// A job that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Uid.
    pub uid: JobUid,
    /// Its queue.
    pub queue: QueueName,
    /// Absolute priority; higher is first.
    pub priority: i32,
    /// When it was queued first, in microseconds since an instant of the caller's; earlier is first.
    pub enqueued_micros: i64,
    /// What it needs.
    pub requirements: Requirements,
}

/// A job that holds slots: bound, and not yet released.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Most that a queue's bound jobs may hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// GPUs.
    pub gpus: Option<u64>,
    /// Declared GPU memory over all GPUs.
    pub vram: Option<Bytes>,
    /// CPU.
    pub cpu: Option<MilliCpu>,
    /// Jobs.
    pub jobs: Option<u64>,
}

/// What a queue allows now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// True keeps its jobs from being placed.
    pub paused: bool,
    /// Its quota.
    pub quota: Quota,
}
