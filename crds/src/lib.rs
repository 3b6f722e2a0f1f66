//! The API types of the group `gctl.dev`, version `v1`, and the CRD YAML generated from them.
//!
//! **Nothing here does I/O, reads a clock or knows a client.** Every other crate may use this one; it uses none of them.
//!
//! - [`job`] and [`job_status`]: what a user asks for, and what was observed of it.
//! - [`lean`]: a job without what no component reads.
//! - [`node`], [`queue`], [`profile`]: hosts, what others call projects, and named bundles of defaults.
//! - [`phase`]: the one derive function and the one transition table of a job's life.
//! - [`quantity`]: Kubernetes quantities as exact numbers.
//! - [`manifest`]: the CRD YAML, generated from the types.

pub mod job;
pub mod job_status;
pub mod lean;
pub mod manifest;
pub mod node;
pub mod phase;
pub mod profile;
pub mod quantity;
pub mod queue;
pub mod signal;

pub use job::{Job, JobSpec};
pub use job_status::{JobStatus, Phase};
pub use lean::LeanJob;
pub use node::{Node, NodeSpec, NodeStatus};
pub use profile::{Profile, ProfileSpec};
pub use quantity::Quantity;
pub use queue::{Queue, QueueSpec, QueueStatus};

/// The API group of all kinds here.
pub const GROUP: &str = "gctl.dev";
/// The API version of all kinds here.
pub const VERSION: &str = "v1";
/// The finalizer that keeps a job until its processes are proven gone (rules.md section 1).
pub const RELEASE_FINALIZER: &str = "gctl.dev/release";
/// The finalizer that keeps an array member until its parent has tallied it (rules.md section 9).
pub const TALLY_FINALIZER: &str = "gctl.dev/tally";
/// Label on an array's members: the parent's name.
pub const ARRAY_LABEL: &str = "gctl.dev/array";
/// Label on a gang's members: the parent's name.
pub const GANG_LABEL: &str = "gctl.dev/gang";
/// Label on a gang's members: the rank, decimal.
pub const GANG_RANK_LABEL: &str = "gctl.dev/gang-rank";
/// Label on an array's members: the index, decimal.
pub const ARRAY_INDEX_LABEL: &str = "gctl.dev/array-index";
/// Annotation that asks for the preemption of a job's attempt: the number of the attempt, decimal. Acted on by the preemption
/// controller; it says nothing about any later attempt.
pub const PREEMPT_ANNOTATION: &str = "gctl.dev/preempt-attempt";
/// Annotation on a waiting job that asks to displace what keeps it waiting: the number of the attempt that shall start, decimal;
/// with [`PREEMPT_FORCE`] behind it also what is not preemptible. Acted on by placement and preemption.
pub const PREEMPT_BLOCKERS_ANNOTATION: &str = "gctl.dev/preempt-blockers-attempt";
/// What stands behind the number in [`PREEMPT_BLOCKERS_ANNOTATION`] where jobs that are not preemptible may be displaced too.
pub const PREEMPT_FORCE: &str = ",force";
/// The namespace of the node leases; a lease bears its node's name.
pub const NODE_LEASE_NAMESPACE: &str = "gctl-node-lease";
/// The queue of a job that names none.
pub const DEFAULT_QUEUE: &str = "default";
