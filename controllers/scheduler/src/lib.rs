//! The scheduling core: plain data in, decisions with reasons out.
//!
//! A [`Cluster`] holds nodes, queues and jobs, is told what happens by events, and decides which waiting job runs where.
//! It is used by the placement controller, by `gctl why`, by simulations and by benchmarks, all over the same data.
//!
//! **No I/O, no clock, no async, no randomness, no dependency on the workspace.** Time is an argument. The same events in
//! the same order give the same decisions; so does a cluster rebuilt from its jobs and nodes.
//!
//! **Order.** Jobs are tried by priority with what waiting adds, then by the share that their queue has had, then by enqueue
//! time, then by uid. A job that does not fit holds nobody up, and no job is bound while one before it could have been bound
//! on the same state.
//!
//! **Why-not is data.** Every job that is not placed has an [`Explanation`] computed by the same checks that place jobs.
//!
//! **Cost.** Jobs of one queue and priority with equal needs form a class that is tried once. A new class costs one look at a
//! few numbers of every node, and the full checks where they allow a fit. A class that did not fit is tried again only on
//! nodes that offer more than before, and only if what they have is enough for it; such classes are found without a look at
//! the others. So an event costs what may come of it, however long the queue is and however many kinds of jobs are in it.
//!
//! - [`input`]: ids, units, nodes, jobs and queues as they are told.
//! - [`vram`]: how much GPU memory can be promised (rules.md section 5).
//! - [`fit`]: does a job fit a node, how well, and if not, why not; which GPUs it gets.
//! - `topology`: how the GPUs of a node are joined, and the best joined set of them.
//! - [`reason`]: reasons as data and as words.
//! - [`cluster`]: the indexed state and its events; `fleet`: all nodes side by side, for looks at the whole fleet.
//! - `order`: who is first; [`fairshare`]: what queues have used; [`quota`]: what they may hold.
//! - `pending` and `shelf`: the waiting jobs in their classes and lists; `judge` keeps their reasons true.
//! - `attempt`: one try to place a job.
//! - [`decide`]: the decisions.
//! - [`explain`]: the state of one waiting job.
//! - [`why`]: the same in full: its place (`line`), until when, and when it may start ([`forecast`]).
//! - [`whatif`]: the smallest changes that would start it, and what submitting a job would do.
//! - [`preempt`]: whom to displace for a job that cannot be placed.
//! - [`reserve`]: slots that are kept for jobs which have waited long, and what others may still do with them.
//! - `overtake`: who has come before a holder in the order since.
//! - `keep`: who gets them, and `openings` where; `nominate`: who has to leave for whom.
//! - `restore`: what a cluster that starts anew is told of the one before.
//! - `timeline`: what a node will be like later; `exits`: when the first of its jobs leaves, in a few numbers.
//! - `gang`: jobs that start together or not at all.
//! - [`check`]: invariants of the state, for tests and debug builds.

mod attempt;
pub mod check;
pub mod cluster;
pub mod decide;
mod exits;
pub mod explain;
pub mod fairshare;
pub mod fit;
mod fleet;
pub mod forecast;
mod gang;
pub mod input;
mod judge;
mod keep;
mod line;
mod node_state;
mod nominate;
mod openings;
mod order;
mod overtake;
mod pending;
pub mod preempt;
pub mod quota;
mod quota_line;
mod ranking;
pub mod reason;
pub mod reserve;
mod restore;
mod settings;
mod shelf;
mod timeline;
mod topology;
pub mod vram;
pub mod whatif;
pub mod why;

pub use check::Violation;
pub use cluster::{Cluster, JobState};
pub use decide::{Decision, Placement};
pub use explain::Explanation;
pub use fairshare::GpuTime;
pub use fit::Scored;
pub use input::{
    Attributed, BoundJob, Bytes, Capability, DesiredState, Estimate, Exclusive, Gang, Gpu,
    GpuRequest, GpuUuid, Job, JobUid, Link, MilliCpu, Millis, Node, NodeName, Packing, Preference,
    QueueName, QueueState, Quota, Requirements, Slice, Slices, Span, Taint, TaintEffect, Terms,
    Toleration, Wish,
};
pub use reason::{Misfit, ReasonClass};
pub use reserve::{Nomination, Reservation, Slot};
pub use settings::Settings;
