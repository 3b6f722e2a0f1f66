//! Why a job does not fit, as data and as words.

use std::fmt;
use std::sync::Arc;

use crate::input::{Bytes, Capability, DesiredState, JobUid, Link, MilliCpu, Millis, NodeName};

/// Classes of reasons, from the farthest to the nearest to a fit. The nearest one over all nodes is a job's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReasonClass {
    /// No node is known.
    NoNodes,
    /// The node that the job is pinned to is not known.
    NodePinMissing,
    /// This is not the node that the job is pinned to.
    NodePinMismatch,
    /// A label is missing or different.
    NodeSelectorMismatch,
    /// A capability tag is missing.
    MissingNeeds,
    /// A directory cannot be reached.
    DirectoryMissing,
    /// A taint is not tolerated.
    TaintNotTolerated,
    /// The node is not offered to this job for now.
    NodeAvoided,
    /// The node is not seen.
    NodeNotReady,
    /// The node takes no new jobs.
    NodeUnschedulable,
    /// The node has no GPUs.
    NoGpus,
    /// There is no such MIG slice, or the GPUs are divided into slices.
    GpuSliceMismatch,
    /// The GPUs are of another model.
    GpuModelMismatch,
    /// The GPUs are too small in total.
    GpuMemoryMismatch,
    /// The GPUs are too old.
    GpuCapabilityMismatch,
    /// The GPUs are not joined as they must be.
    GpuInterconnectMismatch,
    /// The GPUs are not healthy.
    GpuUnhealthy,
    /// There is room, and it is kept for a job that has waited long. It counts as farther than any lack: reservations come and
    /// go, and what is stored with every waiting job should not come and go with them while other nodes lack the same.
    Reserved,
    /// Another job has the node to itself, or this one needs an empty node.
    NodeExclusive,
    /// The node has its most jobs.
    NodeFull,
    /// Too little CPU.
    InsufficientCpu,
    /// Too little host memory.
    InsufficientMemory,
    /// Too few GPUs, or too few idle ones.
    InsufficientGpus,
    /// Too little GPU memory.
    InsufficientVram,
    /// There are too few nodes for all members of the job's gang.
    InsufficientNodes,
    /// Not all members of the job's gang are known.
    GangIncomplete,
    /// The job's queue is paused.
    QueuePaused,
    /// The job's queue holds what it may.
    QuotaExceeded,
}

impl ReasonClass {
    /// The word for `status.waiting.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            ReasonClass::NoNodes => "NoNodes",
            ReasonClass::NodePinMissing => "NodePinMissing",
            ReasonClass::NodePinMismatch => "NodePinMismatch",
            ReasonClass::NodeSelectorMismatch => "NodeSelectorMismatch",
            ReasonClass::MissingNeeds => "MissingNeeds",
            ReasonClass::DirectoryMissing => "DirectoryMissing",
            ReasonClass::TaintNotTolerated => "TaintNotTolerated",
            ReasonClass::NodeAvoided => "NodeAvoided",
            ReasonClass::NodeNotReady => "NodeNotReady",
            ReasonClass::NodeUnschedulable => "NodeUnschedulable",
            ReasonClass::NoGpus => "NoGpus",
            ReasonClass::GpuSliceMismatch => "GpuSliceMismatch",
            ReasonClass::GpuModelMismatch => "GpuModelMismatch",
            ReasonClass::GpuMemoryMismatch => "GpuMemoryMismatch",
            ReasonClass::GpuCapabilityMismatch => "GpuCapabilityMismatch",
            ReasonClass::GpuInterconnectMismatch => "GpuInterconnectMismatch",
            ReasonClass::GpuUnhealthy => "GpuUnhealthy",
            ReasonClass::NodeExclusive => "NodeExclusive",
            ReasonClass::NodeFull => "NodeFull",
            ReasonClass::InsufficientCpu => "InsufficientCpu",
            ReasonClass::InsufficientMemory => "InsufficientMemory",
            ReasonClass::InsufficientGpus => "InsufficientGpus",
            ReasonClass::InsufficientVram => "InsufficientVram",
            ReasonClass::Reserved => "Reserved",
            ReasonClass::InsufficientNodes => "InsufficientNodes",
            ReasonClass::GangIncomplete => "GangIncomplete",
            ReasonClass::QueuePaused => "QueuePaused",
            ReasonClass::QuotaExceeded => "QuotaExceeded",
        }
    }
}

impl fmt::Display for ReasonClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why one job does not fit one node, with the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The job is pinned to another node.
    NotPinned,
    /// A label is missing or different.
    Selector {
        /// The label.
        key: Arc<str>,
        /// The value that the job asks for.
        wanted: Arc<str>,
        /// How many are missing or different in all.
        count: u32,
    },
    /// A capability tag is missing.
    Needs {
        /// The tag.
        tag: Arc<str>,
        /// How many are missing in all.
        count: u32,
    },
    /// A directory cannot be reached.
    Directory {
        /// The path that the job asks for.
        path: Arc<str>,
    },
    /// A taint is not tolerated.
    Taint {
        /// Its key.
        key: Arc<str>,
        /// Its value.
        value: Arc<str>,
    },
    /// The node is not offered to this job for now.
    Avoided,
    /// The node is not seen.
    NotReady,
    /// The node is cordoned.
    Cordoned,
    /// The node was told to do something else.
    Desired(DesiredState),
    /// The node has too few GPUs in all.
    GpuCount {
        /// GPUs asked for.
        wanted: u32,
        /// GPUs there are.
        total: u32,
    },
    /// No MIG slice is of the profile.
    Slice {
        /// The profile asked for.
        profile: Arc<str>,
    },
    /// The job asks for several MIG slices, and a process uses one.
    ManySlices {
        /// Slices asked for.
        wanted: u32,
    },
    /// There would be enough GPUs if they were not divided into MIG slices.
    Divided {
        /// GPUs asked for.
        wanted: u32,
        /// GPUs that are not divided.
        whole: u32,
    },
    /// Too few GPUs are joined as they must be, whatever is on them.
    Interconnect {
        /// What must join them.
        link: Link,
        /// GPUs asked for.
        wanted: u32,
        /// The most that are joined so.
        joined: u32,
    },
    /// Too few GPUs of those with room are joined as they must be.
    Apart {
        /// What must join them.
        link: Link,
        /// GPUs asked for.
        wanted: u32,
        /// The most that are joined so and have room.
        joined: u32,
    },
    /// Too few GPUs are of the model.
    GpuModel {
        /// The model asked for.
        model: Arc<str>,
        /// GPUs asked for.
        wanted: u32,
        /// GPUs of the model.
        matching: u32,
    },
    /// Too few GPUs are large enough in total.
    GpuMemory {
        /// Memory asked for.
        memory: Bytes,
        /// GPUs asked for.
        wanted: u32,
        /// GPUs large enough.
        matching: u32,
        /// The largest that is not.
        best: Bytes,
    },
    /// Too few GPUs are new enough.
    GpuCapability {
        /// Capability asked for.
        capability: Capability,
        /// GPUs asked for.
        wanted: u32,
        /// GPUs new enough.
        matching: u32,
    },
    /// Too few of the GPUs that match are healthy.
    GpuHealth {
        /// GPUs asked for.
        wanted: u32,
        /// Healthy ones that match.
        healthy: u32,
    },
    /// Another job has the node to itself.
    HeldWhole,
    /// The job wants the node to itself, and there are jobs on it.
    NotEmpty {
        /// Jobs on it.
        jobs: u32,
    },
    /// The node has its most jobs.
    Full {
        /// The most.
        max_jobs: u32,
    },
    /// Too little CPU.
    Cpu {
        /// Asked for.
        wanted: MilliCpu,
        /// Free.
        free: MilliCpu,
    },
    /// Too little host memory.
    Memory {
        /// Asked for.
        wanted: Bytes,
        /// Free.
        free: Bytes,
    },
    /// Too few GPUs are idle.
    GpusBusy {
        /// Asked for.
        wanted: u32,
        /// Idle ones that match.
        idle: u32,
    },
    /// Too few GPUs have that much memory free.
    Vram {
        /// Memory asked for on each.
        wanted: Bytes,
        /// GPUs asked for.
        count: u32,
        /// GPUs that have it.
        fitting: u32,
        /// Free memory of the best one that has not.
        best_free: Bytes,
        /// Its index.
        best_gpu: u32,
    },
    /// There is room, and it is kept for a job that comes before this one and has waited long.
    Reserved {
        /// For whom.
        holder: JobUid,
        /// When that one starts at the latest; `None` when nobody knows.
        until: Option<Millis>,
    },
}

impl Misfit {
    /// The class of this reason.
    pub fn class(&self) -> ReasonClass {
        match self {
            Misfit::NotPinned => ReasonClass::NodePinMismatch,
            Misfit::Selector { .. } => ReasonClass::NodeSelectorMismatch,
            Misfit::Needs { .. } => ReasonClass::MissingNeeds,
            Misfit::Directory { .. } => ReasonClass::DirectoryMissing,
            Misfit::Slice { .. } | Misfit::ManySlices { .. } | Misfit::Divided { .. } => {
                ReasonClass::GpuSliceMismatch
            }
            Misfit::Interconnect { .. } => ReasonClass::GpuInterconnectMismatch,
            Misfit::Taint { .. } => ReasonClass::TaintNotTolerated,
            Misfit::Avoided => ReasonClass::NodeAvoided,
            Misfit::NotReady => ReasonClass::NodeNotReady,
            Misfit::Cordoned | Misfit::Desired(_) => ReasonClass::NodeUnschedulable,
            Misfit::GpuModel { .. } => ReasonClass::GpuModelMismatch,
            Misfit::GpuMemory { .. } => ReasonClass::GpuMemoryMismatch,
            Misfit::GpuCapability { .. } => ReasonClass::GpuCapabilityMismatch,
            Misfit::GpuHealth { .. } => ReasonClass::GpuUnhealthy,
            Misfit::HeldWhole | Misfit::NotEmpty { .. } => ReasonClass::NodeExclusive,
            Misfit::Full { .. } => ReasonClass::NodeFull,
            Misfit::Cpu { .. } => ReasonClass::InsufficientCpu,
            Misfit::Memory { .. } => ReasonClass::InsufficientMemory,
            Misfit::GpuCount { total: 0, .. } => ReasonClass::NoGpus,
            Misfit::GpuCount { .. } | Misfit::GpusBusy { .. } | Misfit::Apart { .. } => {
                ReasonClass::InsufficientGpus
            }
            Misfit::Vram { .. } => ReasonClass::InsufficientVram,
            Misfit::Reserved { .. } => ReasonClass::Reserved,
        }
    }

    /// How near a node is to a fit among nodes with the same reason; larger is nearer.
    pub(crate) fn nearness(&self) -> (u32, u64) {
        match self {
            Misfit::Selector { count, .. } | Misfit::Needs { count, .. } => (u32::MAX - count, 0),
            Misfit::NotPinned
            | Misfit::Directory { .. }
            | Misfit::Slice { .. }
            | Misfit::ManySlices { .. }
            | Misfit::Taint { .. }
            | Misfit::Avoided
            | Misfit::NotReady
            | Misfit::Cordoned
            | Misfit::Desired(_)
            | Misfit::HeldWhole => (0, 0),
            Misfit::Divided { whole, .. } => (*whole, 0),
            Misfit::Interconnect { joined, .. } => (*joined, 0),
            // The sooner its holder starts, the sooner others know.
            Misfit::Reserved { until, .. } => until.map_or((0, 0), |until| {
                (1, u64::MAX - until.0.max(0).unsigned_abs())
            }),
            Misfit::NotEmpty { jobs } => (u32::MAX - jobs, 0),
            Misfit::Full { max_jobs } => (*max_jobs, 0),
            Misfit::GpuCount { total, .. } => (0, u64::from(*total)),
            Misfit::GpuModel { matching, .. } | Misfit::GpuCapability { matching, .. } => {
                (*matching, 0)
            }
            Misfit::GpuMemory { matching, best, .. } => (*matching, best.0),
            Misfit::GpuHealth { healthy, .. } => (*healthy, 0),
            Misfit::Cpu { free, .. } => (0, free.0),
            Misfit::Memory { free, .. } => (0, free.0),
            // Busy GPUs may become idle; GPUs that are not there will not come.
            Misfit::GpusBusy { idle, .. } => (1, u64::from(*idle)),
            Misfit::Apart { joined, .. } => (1, u64::from(*joined)),
            Misfit::Vram {
                fitting, best_free, ..
            } => (*fitting, best_free.0),
        }
    }

    /// The words after `2 of 3 nodes`, with the figures of this node as the best one.
    pub(crate) fn describe(&self, words: &Words<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Words {
            lack,
            are,
            free,
            eg,
            best,
            ..
        } = words;
        match self {
            Misfit::NotPinned => write!(f, "{are} not the node it is pinned to"),
            Misfit::Selector { key, wanted, .. } => {
                write!(f, "{lack} a label{eg}{key}={wanted} on {best}")
            }
            Misfit::Needs { tag, .. } => write!(f, "{lack} what it needs{eg}`{tag}` on {best}"),
            Misfit::Directory { path } => write!(f, "{lack} a directory{eg}{path} on {best}"),
            Misfit::Taint { key, value } if value.is_empty() => {
                write!(f, "{are} tainted{eg}{best} with {key}")
            }
            Misfit::Taint { key, value } => {
                write!(f, "{are} tainted{eg}{best} with {key}={value}")
            }
            Misfit::Avoided => {
                write!(f, "{are} not offered to it for now")?;
                words.example("handed it back", f)
            }
            Misfit::NotReady => write!(f, "{are} not ready{eg}{best}"),
            Misfit::Cordoned => {
                write!(f, "{are} unschedulable")?;
                words.example("is cordoned", f)
            }
            Misfit::Desired(state) => {
                write!(f, "{are} unschedulable")?;
                words.example(
                    match state {
                        DesiredState::Run => "was told to run",
                        DesiredState::Pause => "was told to pause",
                        DesiredState::Drain => "was told to drain",
                        DesiredState::Stop => "was told to stop",
                    },
                    f,
                )
            }
            Misfit::HeldWhole => write!(f, "{are} held whole by another job{eg}{best}"),
            Misfit::Reserved { holder, .. } => {
                write!(f, "{are} kept for jobs before it{eg}{best} for {holder}")
            }
            Misfit::NotEmpty { jobs } => {
                let noun = if *jobs == 1 { "job" } else { "jobs" };
                write!(f, "{are} not empty: best has {jobs} {noun} on {best}")
            }
            Misfit::Full { max_jobs } => {
                write!(f, "{are} full{eg}{best} with {max_jobs} of {max_jobs} jobs")
            }
            Misfit::Cpu { wanted, free: has } => {
                write!(
                    f,
                    "{lack} CPU: best has {has} of {wanted} cores {free} on {best}"
                )
            }
            Misfit::Memory { wanted, free: has } => {
                write!(
                    f,
                    "{lack} memory: best has {} {free} on {best}",
                    Pair(*has, *wanted)
                )
            }
            Misfit::GpuCount { .. }
            | Misfit::GpuModel { .. }
            | Misfit::GpuMemory { .. }
            | Misfit::GpuCapability { .. }
            | Misfit::GpuHealth { .. }
            | Misfit::GpusBusy { .. }
            | Misfit::Vram { .. } => self.describe_gpus(words, f),
            Misfit::Slice { .. }
            | Misfit::ManySlices { .. }
            | Misfit::Divided { .. }
            | Misfit::Interconnect { .. }
            | Misfit::Apart { .. } => self.describe_devices(words, f),
        }
    }

    /// Slices, and how GPUs are joined.
    fn describe_devices(&self, words: &Words<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Words { lack, best, .. } = words;
        match self {
            Misfit::Slice { profile } => write!(f, "{lack} the MIG slice {profile}"),
            Misfit::ManySlices { wanted } => write!(
                f,
                "cannot give it {wanted} MIG slices: a process can use only one"
            ),
            Misfit::Divided { wanted, whole } => write!(
                f,
                "{lack} GPUs that are not divided into MIG slices: best has {whole} of {wanted} on {best}"
            ),
            Misfit::Interconnect {
                link,
                wanted,
                joined,
            } => write!(
                f,
                "{lack} joined GPUs: best has {joined} of {wanted} joined by {link} on {best}"
            ),
            Misfit::Apart {
                link,
                wanted,
                joined,
            } => write!(
                f,
                "{lack} joined GPUs with room: best has {joined} of {wanted} joined by {link} on {best}"
            ),
            _ => Ok(()),
        }
    }

    fn describe_gpus(&self, words: &Words<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Words {
            lack,
            has,
            free,
            eg,
            best,
            ..
        } = words;
        match self {
            Misfit::GpuCount { total: 0, .. } => write!(f, "{has} no such GPUs{eg}{best}"),
            Misfit::GpuCount { wanted, total } => {
                write!(
                    f,
                    "{lack} GPUs: best has {total} of {wanted} in all on {best}"
                )
            }
            Misfit::GpuModel {
                model,
                wanted,
                matching,
            } => {
                write!(
                    f,
                    "{lack} the GPU model: best has {matching} of {wanted} {model} on {best}"
                )
            }
            Misfit::GpuMemory {
                memory,
                wanted,
                matching,
                best: largest,
            } => write!(
                f,
                "{lack} large enough GPUs: best has {matching} of {wanted} with {memory} in all, the next with {largest}, \
                 on {best}"
            ),
            Misfit::GpuCapability {
                capability,
                wanted,
                matching,
            } => write!(
                f,
                "{lack} new enough GPUs: best has {matching} of {wanted} with compute capability {capability} on {best}"
            ),
            Misfit::GpuHealth { wanted, healthy } => {
                write!(
                    f,
                    "{lack} healthy GPUs: best has {healthy} of {wanted} on {best}"
                )
            }
            Misfit::GpusBusy { wanted, idle } => {
                write!(f, "{lack} idle GPUs: best has {idle} of {wanted} on {best}")
            }
            Misfit::Vram {
                wanted,
                count,
                fitting,
                best_free,
                best_gpu,
            } => {
                write!(f, "{lack} VRAM: best has ")?;
                if *count > 1 {
                    return write!(
                        f,
                        "{fitting} of {count} GPUs with {wanted} {free}, the next with {best_free}, gpu {best_gpu} of {best}"
                    );
                }
                write!(
                    f,
                    "{} {free} on gpu {best_gpu} of {best}",
                    Pair(*best_free, *wanted)
                )
            }
            Misfit::NotPinned
            | Misfit::Selector { .. }
            | Misfit::Needs { .. }
            | Misfit::Directory { .. }
            | Misfit::Taint { .. }
            | Misfit::Avoided
            | Misfit::NotReady
            | Misfit::Cordoned
            | Misfit::Desired(_)
            | Misfit::HeldWhole
            | Misfit::NotEmpty { .. }
            | Misfit::Full { .. }
            | Misfit::Cpu { .. }
            | Misfit::Memory { .. }
            | Misfit::Slice { .. }
            | Misfit::ManySlices { .. }
            | Misfit::Divided { .. }
            | Misfit::Interconnect { .. }
            | Misfit::Apart { .. }
            | Misfit::Reserved { .. } => Ok(()),
        }
    }
}

/// The words that depend on how many nodes a sentence is about, and whether it is about now or for ever.
pub(crate) struct Words<'a> {
    lack: &'static str,
    are: &'static str,
    has: &'static str,
    free: &'static str,
    /// What leads to one of several nodes, or to the only one.
    eg: &'static str,
    one: bool,
    best: &'a NodeName,
}

impl<'a> Words<'a> {
    pub(crate) fn about(nodes: usize, ever: bool, best: &'a NodeName) -> Self {
        let one = nodes == 1;
        Self {
            lack: if one { "lacks" } else { "lack" },
            are: if one { "is" } else { "are" },
            has: if one { "has" } else { "have" },
            free: if ever { "in all" } else { "free" },
            eg: if one { ": " } else { ", such as " },
            one,
            best,
        }
    }

    /// What is true of one of several nodes, or of the only one.
    fn example(&self, what: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = if self.one { "" } else { ", which" };
        write!(f, "{}{}{which} {what}", self.eg, self.best)
    }
}

/// `9.2 of 16.5 GiB`, or with both units where they differ.
struct Pair(Bytes, Bytes);

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (have, wanted) = (self.0.to_string(), self.1.to_string());
        match (have.split_once(' '), wanted.split_once(' ')) {
            (Some((number, unit)), Some((_, wanted_unit))) if unit == wanted_unit => {
                write!(f, "{number} of {wanted}")
            }
            _ => write!(f, "{have} of {wanted}"),
        }
    }
}
