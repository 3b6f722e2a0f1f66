//! Preemption: stops the jobs that must leave for a nominated one, and those that a person wants displaced.
//!
//! - **Owns** the way from `status.nomination` (which placement writes, with the victims) to the victims' `status.stop`, and
//!   the end of a nomination that lapsed or is not true any more.
//! - **Reads** Job, Node, Queue; the annotation `gctl.dev/preempt-attempt` of a job that a person wants displaced.
//! - **Writes** `status.stop` with the reason Preempted, and removes `status.nomination`.
//! - **Checks** before every stop, with the core and on the state as it is now, that the victims named by the nomination still
//!   make room, and stops no more of them than that takes. Where others would have to go, it withdraws the nomination
//!   instead of choosing itself: placement alone chooses.
//! - **Stops each victim once**: an attempt that is being stopped already is not asked again, and counts as leaving.
//! - **Looks again** when the nominated job changes, after each write, and when the nomination lapses.
//!
//! A victim goes back to its old place in the queue, or ends as Preempted, as its `onPreemption` says: that is the requeue
//! controller's. The annotation names the attempt, so it can never displace a later one.

mod decide;
mod reconcile;

pub(crate) use reconcile::Preemption;
