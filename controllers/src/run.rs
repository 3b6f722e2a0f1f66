//! Runs controllers until they are told to end.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use rand::Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::in_force;
use crate::shell::{Controller, Driver};
use crate::{ControllerName, Scheduling};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How controllers run.
#[derive(Clone)]
pub struct Options {
    /// Run these only. Default: all.
    pub only: Option<BTreeSet<ControllerName>>,
    /// Where the time comes from. Default: the system.
    pub clock: Clock,
    /// Seed of the pauses after failures. Default: from the system.
    pub seed: Option<u64>,
    /// Seconds after the start, or after the first node appeared, before a job is called infeasible: the fleet must have
    /// had time to register. Default: 10.
    pub settle_seconds: u64,
    /// Seconds without renewal of its Lease after which a node is not ready. Default: 40 (rules.md section 4).
    pub not_ready_seconds: u64,
    /// Most writes in flight at once. Default: 64.
    pub writes_in_flight: usize,
    /// How jobs are scheduled. Default: as each setting says.
    pub scheduling: Scheduling,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            only: None,
            clock: Arc::new(Timestamp::now),
            seed: None,
            settle_seconds: 10,
            not_ready_seconds: 40,
            writes_in_flight: 64,
            scheduling: Scheduling::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("only", &self.only)
            .field("seed", &self.seed)
            .field("settle_seconds", &self.settle_seconds)
            .field("not_ready_seconds", &self.not_ready_seconds)
            .field("writes_in_flight", &self.writes_in_flight)
            .field("scheduling", &self.scheduling)
            .finish_non_exhaustive()
    }
}

/// Why controllers could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `only` is empty.
    #[error("no controller was chosen")]
    NothingToRun,
}

/// Runs controllers until `shutdown`. An unreachable API server is waited for.
///
/// # Errors
/// When no controller was chosen.
pub async fn run(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let controllers: Vec<Box<dyn Controller>> = ControllerName::ALL
        .into_iter()
        .filter(|name| options.only.as_ref().is_none_or(|only| only.contains(name)))
        .map(|name| controller(name, &options))
        .collect();
    if controllers.is_empty() {
        return Err(RunError::NothingToRun);
    }
    // Ends with this future, whether that runs to its end or is dropped.
    let mut beside = JoinSet::new();
    if controllers
        .iter()
        .any(|one| one.name() == ControllerName::Placement)
    {
        let scheduling = options.scheduling.clone();
        let publishing = in_force::publish(client.clone(), scheduling, shutdown.clone());
        beside.spawn(publishing);
    }
    let seed = options.seed.unwrap_or_else(|| rand::rng().random());
    let driver = Driver::new(
        client,
        options.clock,
        seed,
        options.writes_in_flight,
        controllers,
    );
    driver.run(shutdown).await;
    Ok(())
}

fn controller(name: ControllerName, options: &Options) -> Box<dyn Controller> {
    match name {
        ControllerName::Admission => Box::new(crate::admission::Admission::default()),
        ControllerName::Array => Box::new(crate::array::Array),
        ControllerName::Cancel => Box::new(crate::cancel::Cancel),
        ControllerName::Gang => Box::new(crate::gang::Gang::new(options.not_ready_seconds)),
        ControllerName::Node => Box::new(crate::node::NodeLife::new(options.not_ready_seconds)),
        ControllerName::Placement => Box::new(crate::placement::Placement::new(
            (options.clock)(),
            options.settle_seconds,
            options.scheduling.clone(),
        )),
        ControllerName::Preemption => Box::new(crate::preemption::Preemption::new(
            options.scheduling.settings(scheduler::Millis(i64::MAX)),
        )),
        ControllerName::Requeue => Box::new(crate::requeue::Requeue),
        ControllerName::Timeout => Box::new(crate::timeout::Timeout),
        ControllerName::Ttl => Box::new(crate::ttl::Ttl),
    }
}
