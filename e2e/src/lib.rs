//! What the end-to-end tests share: real processes on free ports, `kubectl`, and the simulated cluster.
//!
//! **Nothing here is used in production**; everything the tests know, they learn through the API, through files a user
//! could read, or from a process's exit.

pub mod invariants;
pub mod kubectl;
pub mod processes;
pub mod sim;
pub mod transport;
