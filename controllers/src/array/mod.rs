//! Array: makes the member jobs of an array, a few at a time, and tallies their ends.
//!
//! - **Owns** `status.array` and the outcome of a parent; the finalizer `gctl.dev/tally` of members.
//! - **Reads** Job: the parent and its members (owned, labelled with the array's name and their index).
//! - **Writes** new members, the parent's status, members' finalizers.
//! - **Looks again** when the parent or a member changes.
//!
//! A member is named `<parent>-<index>`, is owned by its parent, and is the parent's spec with `{i}` replaced literally by
//! the index in command, script and the values of environment variables. It is an ordinary job otherwise.
//!
//! **An index is never run twice.** A member bears the tally finalizer until the parent's status names its index as
//! finished, so its name stays taken until then. A twin that was nevertheless made from a stale view is ended by admission
//! without a run. An index below `nextIndex` that is neither finished nor a member was removed by force: it counts as
//! failed, because nobody knows how far it came.

mod decide;
mod index_set;
mod member;
mod reconcile;

pub(crate) use index_set::IndexSet;
pub(crate) use reconcile::Array;
