//! What a controller wants done: complete operations, with the object they were decided on.

use std::sync::Arc;

use crds::{Job, JobStatus, Node, NodeStatus, Queue, QueueStatus, phase};
use jiff::Timestamp;

use super::store::Key;

/// What to do for one subject, and when to look at it again. Empty means that the world already agrees.
///
/// The operations are independent of each other: what rests on the success of another belongs into the next plan.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Operations, in the order in which they are begun.
    pub(crate) ops: Vec<Op>,
    /// Look again then, whatever happens.
    pub(crate) look_again: Option<Timestamp>,
}

impl Plan {
    /// Nothing to do.
    pub(crate) fn nothing() -> Self {
        Self::default()
    }

    /// One operation, if any.
    pub(crate) fn of(op: impl Into<Option<Op>>) -> Self {
        Self {
            ops: op.into().into_iter().collect(),
            look_again: None,
        }
    }

    /// Nothing to do before a time.
    pub(crate) fn wake(at: Timestamp) -> Self {
        Self {
            ops: Vec::new(),
            look_again: Some(at),
        }
    }
}

/// One write. It carries the object it was decided on, whose resourceVersion (or uid) is its precondition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// Change the status of a job.
    JobStatus {
        /// The job as it was seen.
        base: Arc<Job>,
        /// The status it shall have.
        next: Box<JobStatus>,
    },
    /// Change the finalizers of a job.
    JobFinalizers {
        /// The job as it was seen.
        base: Arc<Job>,
        /// The finalizers it shall have.
        next: Vec<String>,
    },
    /// Create a job.
    CreateJob(Box<Job>),
    /// Delete a job, this one and as it was seen.
    DeleteJob {
        /// The job as it was seen.
        base: Arc<Job>,
    },
    /// Change the status of a node.
    NodeStatus {
        /// The node as it was seen.
        base: Arc<Node>,
        /// The status it shall have.
        next: Box<NodeStatus>,
    },
    /// Change the status of a queue.
    QueueStatus {
        /// The queue as it was seen.
        base: Arc<Queue>,
        /// The status it shall have.
        next: Box<QueueStatus>,
    },
}

impl Op {
    /// A new status for a job with the phase that follows from it, unless it has that status already.
    pub(crate) fn job_status(base: &Arc<Job>, mut next: JobStatus) -> Option<Self> {
        next.phase = Some(phase::derive(&next));
        (base.status.as_ref() != Some(&next)).then(|| Self::JobStatus {
            base: base.clone(),
            next: Box::new(next),
        })
    }

    /// The object that is written.
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::JobStatus { base, .. }
            | Self::JobFinalizers { base, .. }
            | Self::DeleteJob { base } => Target::Job(Key::of(&base.metadata)),
            Self::CreateJob(job) => Target::Job(Key::of(&job.metadata)),
            Self::NodeStatus { base, .. } => Target::Node(Key::of(&base.metadata)),
            Self::QueueStatus { base, .. } => Target::Queue(Key::of(&base.metadata)),
        }
    }

    /// What it does, for the log.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::JobStatus { .. } | Self::NodeStatus { .. } | Self::QueueStatus { .. } => {
                "update status"
            }
            Self::JobFinalizers { .. } => "update finalizers",
            Self::CreateJob(_) => "create",
            Self::DeleteJob { .. } => "delete",
        }
    }
}

/// The object that a write is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A job.
    Job(Key),
    /// A node.
    Node(Key),
    /// A queue.
    Queue(Key),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Job(key) => write!(f, "job {key}"),
            Self::Node(key) => write!(f, "node {key}"),
            Self::Queue(key) => write!(f, "queue {key}"),
        }
    }
}
