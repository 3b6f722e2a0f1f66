//! Placement: binds waiting jobs to nodes, and says of the others why they wait.
//!
//! - **Owns** `status.binding` and `status.attempt` at the bind, `status.waiting` of resolved jobs, the outcome Infeasible.
//!   Also `status.usage` of queues, at most once a minute.
//!   What is kept for a waiting job: `status.waiting.reservation` and `status.nomination`, which names the victims.
//! - **Reads** Job, Node, Queue; the annotation `gctl.dev/preempt-blockers-attempt` of a waiting job, for whose next attempt
//!   somebody wants room to be made. All decisions are the scheduling core's (`scheduler::Cluster`), which is fed with changes and
//!   never with the whole state, but for the first time.
//! - **Writes** job status, each write bound to the version that was decided on.
//! - **Never places** a job without the release finalizer, one that is not admitted in its present generation, one that is
//!   suspended, cancelled or deleted (by itself or with its array), the parent of an array, a member whose array is gone or
//!   has counted its index already.
//! - **Assumes** its own decisions until they are answered: the slots of a decided binding are held from the decision on. A
//!   conflict keeps them until the watch shows what the job has become; a lost answer is asked for again.
//! - **Infeasible** is judged only after the fleet had time to register (`settle_seconds` after the start, or after the first
//!   node appeared), against all known nodes, those not ready included.
//! - **Tells** a job why it waits when the class of the reason changes, not sooner than a second after it began to wait, and
//!   after the binds: a job that is placed soon costs no write for its short wait.
//! - **Learns** how long jobs run from those that end, by queue, profile and command; that informs estimates and nothing else.
//! - **Avoids** a node that handed a job back, for a while that doubles with each time in a row.

mod ancestors;
mod convert;
mod decide;
mod holds;
mod reconcile;
mod room;
mod runtimes;
mod snapshot;
mod untold;
mod usage;

pub(crate) use reconcile::Placement;
pub use snapshot::{Objects, Snapshot, Standing};
pub(crate) use snapshot::{is_waiting, scene};
