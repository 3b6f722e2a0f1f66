//! The seam between the agent and whatever runs attempts: real shims, or a simulation.
//!
//! # Guarantees that every runner gives
//!
//! - An attempt that was started once is never started again, whoever asks, also after a restart of the agent.
//! - An end is told after it is durable, and told again to the next agent until the attempt is forgotten.
//! - A stop may be asked for at any time and repeatedly; the time of KILL only comes nearer. What is frozen is killed at
//!   once, without being thawed.
//! - An attempt with a fence does not run longer than that after the last acknowledged renewal was sent.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::attempt::{AttemptId, Ended, Held, StartRequest};
use crate::ports::{self, Port};

/// How long the end of an attempt waits for the proof that none of its processes is left, counted from the end of its
/// command, or from KILL where that does not take. Then the end is told without the proof, which is told later.
pub const PROOF_WAIT: Duration = Duration::from_secs(3);

/// What an agent gets when it takes over a runner.
#[derive(Debug)]
pub struct Attached {
    /// Every attempt this host knows, running or ended, that was not forgotten.
    pub held: Vec<Held>,
    /// Attempts that were frozen for want of contact, from now on.
    pub fences: mpsc::Receiver<AttemptId>,
    /// Ends from now on: once for an attempt that leaves nothing behind, else first with what lingers and then without.
    pub ends: mpsc::Receiver<(AttemptId, Ended)>,
}

/// Why a runner could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The data directory belongs to another agent that runs.
    #[error("data directory `{0}` is in use by another agent")]
    InUse(String),
    /// The host refused.
    #[error("failed to {doing}")]
    Host {
        /// What was being attempted.
        doing: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The runner has ended.
    #[error("the runner has ended")]
    Closed,
}

impl RunnerError {
    pub(crate) fn host(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Host { doing, source }
    }
}

/// What a host says of a directory that an attempt needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// It is there, or whether it is cannot be told from here.
    Firm,
    /// There is no such directory.
    Missing,
    /// Its file system does not answer.
    Silent,
}

/// Runs attempts.
pub trait Runner: Send + Sync + 'static {
    /// Takes over: tells what is held and where ends will be told. An earlier agent hears nothing from here on.
    fn attach(&self) -> BoxFuture<'_, Result<Attached, RunnerError>>;
    /// Is there such a directory?
    fn ground(&self, directory: String) -> BoxFuture<'_, Ground>;
    /// Starts an attempt, once. What goes wrong with the attempt itself is told as its end.
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<(), RunnerError>>;
    /// Asks for TERM now and KILL at a time.
    fn stop(&self, id: AttemptId, kill_at: Timestamp) -> BoxFuture<'_, Result<(), RunnerError>>;
    /// Lets a frozen attempt go on: it is still the current one, and contact is back.
    fn thaw(&self, id: AttemptId) -> BoxFuture<'_, Result<(), RunnerError>>;
    /// Now, on the clock of [`Runner::acknowledged`]: microseconds since boot, suspension included.
    fn boot_micros(&self) -> u64;
    /// The control plane acknowledged a renewal that was sent then. Attempts are fenced by the latest of these, also when
    /// the agent is gone.
    fn acknowledged(&self, sent_boot_micros: u64);
    /// Length of an attempt's output so far in bytes; 0 when there is none.
    fn output_len(&self, id: &AttemptId) -> u64;
    /// Reads output from an offset, at most `limit` bytes.
    fn output(
        &self,
        id: AttemptId,
        offset: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Bytes, RunnerError>>;
    /// When attempts that run said last that their checkpoints are complete, in microseconds since 1970; those that did not
    /// say so are left out.
    fn checkpoints(&self, ids: Vec<AttemptId>) -> BoxFuture<'_, Vec<(AttemptId, i64)>>;
    /// Forgets ended attempts whose end and output are safe elsewhere.
    fn forget(&self, ids: Vec<AttemptId>) -> BoxFuture<'_, Result<(), RunnerError>>;
    /// The live processes of an attempt, at most a few.
    fn processes(&self, id: AttemptId) -> BoxFuture<'_, Vec<i32>>;
    /// Finds a free TCP port of this host for an attempt that is about to be claimed, none of those that are taken, and
    /// keeps it free.
    fn reserve_port(&self, id: &AttemptId, taken: &BTreeSet<u16>) -> io::Result<Port> {
        ports::reserve(id, taken)
    }
    /// The process below which everything of an attempt lives; none when it is unknown.
    fn root_process(&self, id: &AttemptId) -> Option<i32>;
}
