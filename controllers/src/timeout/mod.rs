//! Timeout: enforces `activeDeadlineSeconds` and `pendingDeadlineSeconds`.
//!
//! - **Owns** the stop TimedOut of an attempt, as a backstop to the agent's own, and the outcome TimedOut of a job that
//!   waited too long.
//! - **Reads** Job.
//! - **Writes** `status.stop` of a bound job, `status.outcome` of one that waits.
//! - **Looks again** when a limit is due. The limit of an attempt counts from its start; the agent is given a few seconds
//!   to enforce it first. The limit of the wait counts from `enqueueTime`, or from the end of the last attempt that ran; it
//!   is not enforced on a suspended job, and not on the parent of an array, whose members have it themselves.

mod decide;
mod reconcile;

pub(crate) use reconcile::Timeout;
