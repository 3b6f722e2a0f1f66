//! Nodes and GPUs as they were observed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::units::{Bytes, GpuUuid, JobUid, MilliCpu};

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

/// How two GPUs of one node are joined, from the loosest to the tightest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// By the host alone.
    #[default]
    Any,
    /// They belong to one NUMA node.
    Numa,
    /// They are below one PCIe switch.
    PcieSwitch,
    /// By NVLink.
    NvLink,
}

impl Link {
    /// All, the tightest first.
    pub const TIGHTEST_FIRST: [Self; 4] = [Self::NvLink, Self::PcieSwitch, Self::Numa, Self::Any];
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Link::Any => "the host",
            Link::Numa => "one NUMA node",
            Link::PcieSwitch => "one PCIe switch",
            Link::NvLink => "NVLink",
        })
    }
}

/// What a MIG slice is a part of. Slices are devices of their own; a GPU that has some is not given to jobs itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The GPU.
    pub parent: GpuUuid,
    /// The profile, such as `1g.10gb`.
    pub profile: Arc<str>,
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
    /// GPUs, and MIG slices as devices of their own.
    pub gpus: Vec<Gpu>,
    /// Directories below which everything can be reached on this node; `None` when it does not say.
    pub directories: Option<BTreeSet<Arc<str>>>,
}

impl Node {
    /// Can the path be reached? `None` when the node does not say which directories it has.
    pub fn offers_directory(&self, path: &str) -> Option<bool> {
        let roots = self.directories.as_ref()?;
        Some(roots.iter().any(|root| covers(root, path)))
    }
}

/// Is `path` the directory `root` or below it? By components: `/data` does not cover `/database`. Roots that are not
/// absolute cover nothing.
pub(crate) fn covers(root: &str, path: &str) -> bool {
    if !root.starts_with('/') {
        return false;
    }
    let root = root.trim_end_matches('/');
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// One GPU as it was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What these use now, together; `None` when that is not known, and each is taken to use its peak.
    pub foreign_used: Option<Bytes>,
    /// Live processes of ended attempts.
    pub holders: u32,
    /// Use by jobs.
    pub attributed: Vec<Attributed>,
    /// Set when this is a MIG slice.
    pub slice: Option<Slice>,
    /// NUMA node, where known.
    pub numa: Option<u32>,
    /// The PCIe switch that it is below, under any name that is the same for all below it; `None` when not known.
    pub pcie_switch: Option<Arc<str>>,
    /// Indices of the GPUs that it is joined to by NVLink, directly or through a switch; `None` when not known.
    pub nvlinks: Option<Vec<u32>>,
}

impl Gpu {
    /// A healthy idle GPU without a model or capability.
    pub fn idle(uuid: impl Into<GpuUuid>, index: u32, memory: Bytes) -> Self {
        Self {
            uuid: uuid.into(),
            index,
            memory,
            used: Some(Bytes(0)),
            healthy: true,
            ..Self::default()
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
