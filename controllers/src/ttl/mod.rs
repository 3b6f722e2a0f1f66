//! Ttl: deletes ended jobs `ttlSecondsAfterFinished` after their end.
//!
//! - **Owns** nothing in the job; it deletes it.
//! - **Reads** Job. The spec's value counts, even when it was changed after the end; else what admission resolved.
//! - **Writes** a delete with the uid and resourceVersion that were seen, so that a job of the same name that came after it
//!   is safe.
//! - **Looks again** when the time is due. Members of an array stay as long as their array, and go with it.

mod decide;
mod reconcile;

pub(crate) use reconcile::Ttl;
