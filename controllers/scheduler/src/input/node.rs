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
