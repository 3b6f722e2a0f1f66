//! Node: keeps the Ready condition of nodes from their Leases, and does what follows from it for their jobs.
//!
//! - **Owns** the condition `Ready` of a Node and `status.nodeSilent` of a Job; the stop Drained.
//! - **Reads** Node, Lease (namespace `gctl-node-lease`, named like the node), Job.
//! - **Writes** Node status, Job status.
//! - **Looks again** when a lease has been silent for too long (40 s), and once a moment while one is watched.
//!
//! What follows for a job (rules.md sections 3 and 4):
//!
//! | the node | the binding is not claimed | the job is claimed |
//! |---|---|---|
//! | is silent, or its object is gone | withdrawn at once, back to the queue | `nodeSilent`, phase Unknown; nothing is killed |
//! | is seen again | | `nodeSilent` is taken back |
//! | is seen with a new boot id | | Lost with `onNodeLost: Wait`, requeued with `Requeue`, once its agent had time to say more |
//! | is drained, or has a NoExecute taint | withdrawn at once | stop Drained |
//!
//! A new boot id is the only fence that is known here: it proves that nothing of before runs. Silence alone requeues
//! nothing, not even with `onNodeLost: Requeue`, because the fence on the node itself comes with a later version.
//!
//! Silence counts only while this process watched: its own start, suspension, or a broken watch starts the clock anew.

mod decide;
mod job;
mod reconcile;

pub(crate) use reconcile::NodeLife;
