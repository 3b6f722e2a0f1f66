//! Admission: resolves a job's spec with its Queue and Profile into `status.effective`, each value with its source.
//!
//! - **Owns** `status.effective`, `status.enqueueTime`, `status.observedGeneration`, and `status.waiting` while a job is
//!   withheld. Adds the finalizer `gctl.dev/release` where a client left it out.
//! - **Reads** Job, Queue, Profile, and the parent of an array's member.
//! - **Writes** the job's finalizers and status.
//! - **Withholds** a job that cannot be resolved: it has no `effective`, so nobody places it, and `status.waiting` says why
//!   (`QueueNotFound`, `ProfileNotFound`, `InvalidSpec`, or `NotSupportedYet` with the field that this version cannot act
//!   on). It is resolved as soon as that changes.
//! - **Looks again** when the job, its queue, the queue `default`, who owns directories, or a profile changes. A new priority of the job, its array or its queue moves it
//!   in the order and leaves it the time it was queued.
//!
//! A member of an array whose index was tallied already is ended here: it was made from a stale view, and an index is
//! never run twice. One watch tells of the tally before it tells of such a member, so nobody places it before.

mod belongs;
mod decide;
mod reconcile;
mod resolve;

pub use belongs::{Queues, belongs};
pub(crate) use reconcile::Admission;
pub use resolve::{Withheld, resolve};
