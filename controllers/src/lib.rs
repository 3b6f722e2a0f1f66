//! The controllers of gctl: each decides from what it observes and writes its decision into the status of an object.
//!
//! Every controller is a folder of three files: `mod.rs` says what it owns, reads and writes, `decide.rs` decides (a pure
//! function), `reconcile.rs` is the thin shell around it. What they share is in `shell/`.
//!
//! - **No controller talks to another.** They meet in the objects alone, so any of them can run in a process of its own.
//! - **No decision reads a clock, draws a random number or awaits anything.**
//! - **A stale view is harmless.** Every write carries the version it was decided on.

mod admission;
mod array;
mod cancel;
mod gang;
mod in_force;
mod name;
mod node;
mod placement;
mod preemption;
mod requeue;
mod run;
mod scheduling;
mod shell;
mod timeout;
mod ttl;

pub use admission::{Queues, Withheld, belongs, resolve};
pub use name::{ControllerName, UnknownController};
pub use placement::{Objects, Snapshot, Standing};
pub use run::{Clock, Options, RunError, run};
pub use scheduling::{Scheduling, SchedulingError};
