//! Gang: makes the member jobs of a gang, lets each generation of them start whole, and stops it whole.
//!
//! - **Owns** `status.gang`, `status.go`, `status.attempt` (the generation), `status.stop` and the outcome of a parent;
//!   `status.gang` and `status.go` of members, and what becomes of a member whose attempt ended; the finalizer
//!   `gctl.dev/tally` of members.
//! - **Reads** Job: the parent and its members (owned, labelled with the gang's name and their rank); the Lease of each node, for
//!   when it gave its last sign of life.
//! - **Writes** new members, the parent's status, members' status and finalizers. It deletes a member that succeeded before its
//!   generation was stopped, so that the next one has a member of that rank.
//! - **Looks again** when the parent or a member changes, and when the time for claiming is over.
//!
//! A member is named `<parent>-<rank>`, is owned by its parent, and is the parent's spec without `replicas`. It is placed and
//! claimed like any job, the members of one generation together; its node starts it only once `status.go` names its generation.
//!
//! **One decision a generation.** The parent's `status.gang` opens a generation before any member is told of it, the parent's
//! `status.go` says that it may start before any member is told, and the parent's `status.stop` says that it is stopped, and
//! whether the gang comes back, before any member is. What members are told follows from the parent alone, so a controller
//! that is started anew carries on where the last one was.
//!
//! **What came first.** When a node is lost, the members on others fail for want of it, often long before the loss is certain.
//! So a failure of a gang that runs elsewhere when a node is lost (`onNodeLost: Requeue`) is taken for the consequence of a
//! silent node, if another member is on one, and the gang comes back. While the node of another is only overdue, with no sign
//! for more than 15 s, the failure is not judged until there is one or the node counts as silent: for 35 s at most. Where all
//! nodes are fresh nothing is delayed. What is silent is judged by this process's own clock, and anew after it was started.
//!
//! **One generation at a time.** The next is opened when of the last nothing holds a node any more; the parent's `attempts`
//! remember the closed ones.

mod cause;
mod decide;
mod member;
mod reconcile;
mod stop;

pub(crate) use reconcile::Gang;
