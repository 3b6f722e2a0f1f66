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
//! | is silent for the job's fence and a minute more | | requeued with `onNodeLost: Requeue`: the node itself has stopped it |
//! | is silent, and an operator says that it is gone | | Lost with `Wait`, requeued with `Requeue` |
//! | is seen again | | `nodeSilent` is taken back |
//! | is seen with a new boot id | | Lost with `onNodeLost: Wait`, requeued with `Requeue`, once its agent had time to say more |
//! | is drained, or has a NoExecute taint | withdrawn at once | stop Drained |
//!
//! The fence is on the node (`nodeagent::shim::fence`): it counts from the sending of the last renewal that was
//! acknowledged, this from when that was seen, so the attempt is frozen or dead before its job runs again. A new boot id
//! proves that nothing of before runs.
//!
//! Silence counts only while this process watched: its own start, suspension, or a broken watch starts the clock anew.

mod decide;
mod job;
mod reconcile;

pub(crate) use reconcile::NodeLife;
