//! Requeue: says what becomes of a job whose attempt has ended without an outcome.
//!
//! - **Owns** the way back to the queue after a preemption, a drain or a suspension, and the verdicts that the agent leaves
//!   to others.
//! - **Reads** Job, and the parent of an array's member.
//! - **Writes** `status`: binding, claim, stop and run facts cleared in one write, with the attempt remembered; or the
//!   outcome.
//! - **Looks again** when the job changes. It acts only once the agent has proven that no process of the attempt is left.

mod decide;
mod reconcile;

pub(crate) use reconcile::Requeue;
