//! Jobs: what they need, what they allow, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::node::{Capability, Link, Node, Taint, TaintEffect};
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

/// May a job be given a MIG slice? Only a job of one device can: a process uses one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slices {
    /// When it declares how much memory it needs and names no model: who asks for a model or a whole GPU means that.
    #[default]
    Unasked,
    /// Whenever one fits.
    Allowed,
    /// Only one of this profile, such as `1g.10gb`.
    Only(Arc<str>),
}

/// Where the jobs of a queue go among the places that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// Where the least is left over, so that large gaps stay open.
    #[default]
    Pack,
    /// Where the most is left over, so that neighbours disturb each other least.
    Spread,
}

/// Something that a node may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// The label has one of these values; without values, it is there.
    Label {
        /// The label.
        key: Arc<str>,
        /// The values.
        values: BTreeSet<Arc<str>>,
    },
    /// The label has none of these values; without values, it is not there.
    NoLabel {
        /// The label.
        key: Arc<str>,
        /// The values.
        values: BTreeSet<Arc<str>>,
    },
    /// The node offers the capability tag.
    Offers(Arc<str>),
    /// The node says that the path can be reached, for example because a data set or a model is there already.
    Directory(Arc<str>),
}

impl Wish {
    /// Does the node have it?
    pub fn holds(&self, node: &Node) -> bool {
        let bears = |key: &Arc<str>, values: &BTreeSet<Arc<str>>| {
            let value = node.labels.get(key);
            value.is_some_and(|value| values.is_empty() || values.contains(value))
        };
        match self {
            Wish::Label { key, values } => bears(key, values),
            Wish::NoLabel { key, values } => !bears(key, values),
            Wish::Offers(tag) => node.offers.contains(tag),
            Wish::Directory(path) => node.offers_directory(path) == Some(true),
        }
    }
}

/// What a job would like of its node, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Preference {
    /// Added to the node's score when every wish holds; below zero for what it would rather not have.
    pub weight: i32,
    /// What must hold.
    pub wishes: Vec<Wish>,
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
    /// Nodes on which its directories were looked for in vain; they are not offered to it.
    pub lacking: BTreeSet<NodeName>,
    /// May it be given a MIG slice?
    pub slices: Slices,
    /// How its GPUs must at least be joined to each other, directly or over others of its own; better is preferred anyway.
    pub interconnect: Link,
    /// Paths that it must reach on its node. Nodes that do not say what they have are not kept from it.
    pub directories: BTreeSet<Arc<str>>,
    /// What it would like; nodes are compared by the sum of the weights that hold before all else but taints.
    pub prefer: Vec<Preference>,
    /// Where it goes among the places that fit.
    pub packing: Packing,
}

impl Requirements {
    /// A directory that the node has not got: by what it says, or because it was looked for there in vain. Which of them that
    /// was is not known, so the first stands for all.
    pub(crate) fn missing_directory(
        &self,
        node: &NodeName,
        offers: impl Fn(&str) -> Option<bool>,
    ) -> Option<&Arc<str>> {
        let mut paths = self.directories.iter();
        paths.find(|path| self.lacking.contains(node) || offers(path) == Some(false))
    }

    /// The same needs in the form that they are compared in: the model in lower case, paths without `.`, `..` and
    /// doubled slashes.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        if let Some(model) = &self.gpu_model {
            self.gpu_model = Some(model.to_lowercase().into());
        }
        let paths = std::mem::take(&mut self.directories);
        self.directories = paths.iter().map(|path| plain(path)).collect();
        for wish in self.prefer.iter_mut().flat_map(|one| &mut one.wishes) {
            if let Wish::Directory(path) = wish {
                *path = plain(path);
            }
        }
        self
    }
}

/// A path by its letters alone, as no links can be followed from here.
fn plain(path: &str) -> Arc<str> {
    if !path.starts_with('/') {
        return path.into();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/")).into()
}

/// What a job allows others, and how long it may run. Jobs with other terms are told apart when slots are reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terms {
    /// May it be displaced by a job of higher priority?
    pub preemptible: bool,
    /// Hard limit of one attempt, from its start; `None` when nothing ends it.
    pub limit: Option<Span>,
    /// True when `limit` was not said of this job, but stands for all that say nothing. It bounds waits like any other, and
    /// says nothing of how long the job will probably run.
    pub limit_by_default: bool,
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
    /// The jobs that it starts with or not at all.
    pub gang: Option<Gang>,
}

/// Jobs that start together, each on a node of its own, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gang {
    /// The same for all members, and for no others: a gang that starts anew is another one.
    pub id: Arc<str>,
    /// Number of members.
    pub size: u32,
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
    /// When it was queued first, as in [`Job::enqueued_micros`]; `None` when that is not known, and it does not age.
    pub enqueued_micros: Option<i64>,
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
    /// The id of its gang.
    pub gang: Option<Arc<str>>,
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
