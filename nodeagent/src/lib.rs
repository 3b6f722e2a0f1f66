//! The per-host agent: it makes what is bound to its node run, and tells how it ended.
//!
//! - **The agent decides nothing about where jobs run.** It watches the jobs bound to its node and converges.
//! - **The claim is the permit.** Nothing is executed before one conditional write said that it may be (`agent`).
//! - **What runs does not depend on the agent.** Every attempt lives under its own shim ([`spawner`], `shim`), which
//!   survives the agent and records the exit; the next agent adopts it (`ledger`).
//! - **No credential of the agent reaches a job.** The spawner has an empty environment and no descriptors; a job's
//!   environment is built from nothing (`environment`).
//! - **A member of a gang starts when its gang may.** It is claimed with an address and a port ([`address`], [`ports`]), and
//!   nothing of it exists before the server holds both the gang's go and this agent's own word that it begins.
//! - **Unknown is not zero.** A GPU figure that could not be read is absent ([`gpu`]).
//! - **Unsafe code is in one file**, `shim/sys.rs`.

pub mod address;
mod agent;
pub mod attempt;
mod checkpoints;
mod environment;
pub mod gpu;
mod ledger;
mod node;
pub mod ports;
pub mod runner;
mod shim;
mod shim_runner;
pub mod sim;
pub mod spawner;
mod users;

pub use checkpoints::checkpoint_root;

pub use agent::{Clock, Options, RunError, run};
pub use ledger::KEEP_WORK;
pub use shim::cgroup::Cgroups;
pub use shim_runner::ShimRunner;
pub use users::current_user;

/// An error and its causes in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
