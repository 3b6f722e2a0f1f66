//! The parts of a cluster in one process: started in order, watched, and ended in reverse.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nodeagent::ShimRunner;
use nodeagent::address::{AddressSource, Host};
use nodeagent::gpu::GpuSource;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::lock::Lock;
use crate::api::{self, Api};
use crate::connection::{self, Choice};
use crate::error::Error;

/// The kinds that the server knows from the start, as data.
const CRDS: [&str; 4] = [
    include_str!("../../../crds/jobs.yaml"),
    include_str!("../../../crds/nodes.yaml"),
    include_str!("../../../crds/profiles.yaml"),
    include_str!("../../../crds/queues.yaml"),
];

/// How long the server may take until it is ready (a large store is read whole at the start).
const READY_LIMIT: Duration = Duration::from_mins(2);
/// How long a part may take to end (chosen: above the time of a request).
const END_LIMIT: Duration = Duration::from_secs(15);
/// How much longer the agents may take when they stop jobs: the longest grace period in ordinary use.
const STOP_LIMIT: Duration = Duration::from_mins(2);

/// What to start.
pub(super) struct Plan {
    pub(super) data_dir: PathBuf,
    pub(super) kubeconfig: PathBuf,
    pub(super) gpus: GpuSource,
    pub(super) sim_nodes: u32,
    /// By which address jobs on other nodes reach this one, if it was given.
    pub(super) address: Option<Host>,
    /// The cards of it that jobs may be given; none for all.
    pub(super) only_gpus: Vec<String>,
    /// Below which jobs keep their checkpoints, and whether that is this cluster's own.
    pub(super) checkpoints: (String, bool),
    pub(super) default_user: Option<String>,
    pub(super) scheduling: controllers::Scheduling,
}

/// A running cluster.
pub(super) struct Cluster {
    server: Group,
    controllers: Group,
    agents: Group,
    stop_jobs: Arc<AtomicBool>,
    _lock: Lock,
}

/// Parts that end together.
struct Group {
    part: &'static str,
    end: CancellationToken,
    tasks: JoinSet<Result<(), String>>,
}

impl Group {
    fn new(part: &'static str) -> Self {
        Group {
            part,
            end: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Returns when a task of the group ends, with the reason.
    async fn broken(&mut self) -> Error {
        let reason = match self.tasks.join_next().await {
            Some(Ok(Ok(()))) => "it ended without being asked to".to_owned(),
            Some(Ok(Err(reason))) => reason,
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        };
        Error::Cluster {
            part: self.part,
            reason,
        }
    }

    async fn stop(mut self, limit: Duration) -> Vec<String> {
        self.end.cancel();
        let mut complaints = Vec::new();
        let ended = tokio::time::timeout(limit, async {
            while let Some(result) = self.tasks.join_next().await {
                match result {
                    Ok(Ok(())) => {}
                    Ok(Err(reason)) => complaints.push(format!("{}: {reason}", self.part)),
                    Err(error) => complaints.push(format!("{}: {error}", self.part)),
                }
            }
        })
        .await;
        if ended.is_err() {
            complaints.push(format!(
                "{} did not end within {} s",
                self.part,
                limit.as_secs()
            ));
        }
        complaints
    }
}

impl Cluster {
    /// Starts the server, then controllers and agents.
    pub(super) async fn start(
        plan: Plan,
        listener: TcpListener,
        lock: Lock,
    ) -> Result<Self, Error> {
        let mut server = Group::new("apiserver");
        let inside = serve(&plan, listener, &mut server).await?;
        let choice = Choice {
            kubeconfig: Some(plan.kubeconfig.clone()),
            ..Choice::default()
        };
        ready(&choice, &mut server).await?;

        // The parts of this process speak to the server as anybody does, token included, but without a socket.
        let mut controllers = Group::new("controllers");
        let client = kube::Client::new(inside.clone(), "default");
        let end = controllers.end.clone();
        let options = controllers::Options {
            scheduling: plan.scheduling.clone(),
            ..controllers::Options::default()
        };
        controllers.tasks.spawn(async move {
            controllers::run(client, options, end)
                .await
                .map_err(|error| api::chain(&error))
        });

        let mut agents = Group::new("nodeagent");
        let stop_jobs = Arc::new(AtomicBool::new(false));
        let address = connection::connect(&choice).await?.server;
        for name in node_names(plan.sim_nodes) {
            let client = kube::Client::new(inside.clone(), "default");
            let runner = Arc::new(ShimRunner::new(plan.data_dir.join("nodes").join(&name)));
            let mut options = nodeagent::Options::new(name, runner);
            options.gpus = plan.gpus.clone();
            options.address = AddressSource::new(plan.address.clone(), &address);
            options.default_user.clone_from(&plan.default_user);
            options.only_gpus.clone_from(&plan.only_gpus);
            options.checkpoint_root = Some(plan.checkpoints.0.clone());
            options.sweep_checkpoints = plan.checkpoints.1;
            options.stop_jobs = stop_jobs.clone();
            let end = agents.end.clone();
            agents.tasks.spawn(async move {
                nodeagent::run(client, options, end.clone())
                    .await
                    .map_err(|error| api::chain(&error))?;
                // A node whose spec says `desiredState: Stop` is left alone; the others go on.
                end.cancelled().await;
                Ok(())
            });
        }
        Ok(Cluster {
            server,
            controllers,
            agents,
            stop_jobs,
            _lock: lock,
        })
    }

    /// Returns when a part has ended that should not have.
    pub(super) async fn broken(&mut self) -> Error {
        tokio::select! {
            error = self.server.broken() => error,
            error = self.controllers.broken() => error,
            error = self.agents.broken() => error,
        }
    }

    /// Ends the agents, then the controllers, then the server; answers with what went wrong.
    pub(super) async fn stop(self, stop_jobs: bool) -> Vec<String> {
        self.stop_jobs.store(stop_jobs, Ordering::SeqCst);
        let limit = if stop_jobs { STOP_LIMIT } else { END_LIMIT };
        let mut complaints = self.agents.stop(limit).await;
        complaints.extend(self.controllers.stop(END_LIMIT).await);
        complaints.extend(self.server.stop(END_LIMIT).await);
        complaints
    }
}

/// `sim-0` and on, or this host.
fn node_names(sim_nodes: u32) -> Vec<String> {
    if sim_nodes > 0 {
        return (0..sim_nodes).map(|index| format!("sim-{index}")).collect();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    vec![node_name(&host)]
}

/// A host name as an object may be called.
fn node_name(host: &str) -> String {
    let clean: String = host
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .take(253)
        .collect();
    let clean = clean.trim_matches(|c| c == '-' || c == '.');
    if clean.is_empty() {
        "node".to_owned()
    } else {
        clean.to_owned()
    }
}

/// Opens the server and serves; answers with the way into it from this process.
async fn serve(
    plan: &Plan,
    listener: TcpListener,
    group: &mut Group,
) -> Result<apiserver::server::inside::Inside, Error> {
    let fail = |reason: String| Error::Cluster {
        part: "apiserver",
        reason,
    };
    let address = listener
        .local_addr()
        .map_err(|error| fail(error.to_string()))?;
    let mut options = apiserver::server::Options::new(plan.data_dir.clone(), address);
    options.crds = CRDS.iter().map(|&text| text.to_owned()).collect();
    let server = apiserver::server::Server::open(options)
        .await
        .map_err(|error| fail(api::chain(&error)))?;
    server
        .write_kubeconfig(&plan.kubeconfig, address)
        .map_err(|source| Error::File {
            attempted: "write the kubeconfig",
            path: plan.kubeconfig.clone(),
            source,
        })?;
    let inside = server
        .inside()
        .ok_or_else(|| fail("its admin token cannot be read".to_owned()))?;
    let end = group.end.clone();
    group.tasks.spawn(async move {
        server
            .serve(listener, end)
            .await
            .map_err(|error| api::chain(&error))
    });
    Ok(inside)
}

/// Waits until the server says that it is ready.
async fn ready(choice: &Choice, server: &mut Group) -> Result<(), Error> {
    let connection = connection::connect(choice).await?;
    let api = Api::new(connection.client, connection.server);
    let asking = async {
        loop {
            let answer = api
                .stream("/readyz", "ask whether the server is ready")
                .await;
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        }
    };
    tokio::select! {
        answer = tokio::time::timeout(READY_LIMIT, asking) => answer.unwrap_or_else(|_| {
            Err(Error::Cluster {
                part: "apiserver",
                reason: format!("not ready within {} s", READY_LIMIT.as_secs()),
            })
        }),
        broken = server.broken() => Err(broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_called_by_their_number_or_by_their_host() {
        assert_eq!(node_names(2), ["sim-0", "sim-1"]);
        for (host, name) in [
            ("Lab_Box.local\n", "lab-box.local"),
            ("", "node"),
            ("-x-", "x"),
        ] {
            assert_eq!(node_name(host), name);
        }
    }
}
