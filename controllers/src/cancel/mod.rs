//! Cancel: carries out `spec.cancel`, `spec.suspend` and the deletion of jobs.
//!
//! - **Owns** the removal of the finalizer `gctl.dev/release`.
//! - **Reads** Job, and the parent of an array's member: a member is cancelled and suspended with its array.
//! - **Writes** `status.stop` of a bound job, the outcome Cancelled of one that is not, and the finalizers of a deleted job
//!   once its processes are proven gone, or were never there.
//! - **Looks again** when the job or its array changes. The parent of an array is ended by the array controller.

mod decide;
mod reconcile;

pub(crate) use reconcile::Cancel;
