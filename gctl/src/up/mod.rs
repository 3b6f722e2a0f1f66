//! `gctl up`: the whole cluster in one process, for a laptop or a single box.
//!
//! API server, controllers and node agents run in this process and meet in the API alone, as they would apart. Jobs do not run in it:
//! they outlive it, and the next `gctl up` on the same data directory adopts them.

mod cluster;
mod gpus;
mod lock;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use controllers::Scheduling;
use tokio_util::sync::CancellationToken;

use self::cluster::{Cluster, Plan};
use crate::api::Api;
use crate::commands::DryRun;
use crate::commands::apply::{self, Applied, Outcome};
use crate::connection::{self, Choice};
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{self, Snapshot, Voice};
use crate::manifest;
use crate::output::{Output, age};
use crate::session::{Session, Target};

/// The address when none is given; the port is the one Kubernetes uses.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

/// Arguments of `gctl up`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where everything is kept: objects, logs, certificates, the kubeconfig
    #[arg(long, value_name = "DIR", default_value = ".gctl")]
    pub data_dir: PathBuf,
    /// Address and port of the API; port 0 takes any. Default: 127.0.0.1:6443, or any port where that is taken
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Simulate these GPUs, such as 2x24Gi,1x80Gi, or `none`. Default: what NVML finds, or 2x24Gi where there is none
    #[arg(long, value_name = "GPUS", long_help = gpus::long_help())]
    pub sim_gpus: Option<gpus::Wanted>,
    /// Simulate this many nodes, sim-0 and on, each with --sim-gpus; jobs run as real processes of this host
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub sim_nodes: u32,
    /// IP address or host name by which jobs on other nodes reach this one. Default: the address from which the API is reached
    #[arg(long, value_name = "HOST")]
    pub address: Option<nodeagent::address::Host>,
    /// GPUs that jobs may be given, such as 0,2: indices in PCI bus order, or UUIDs or their beginnings. Default: all
    #[arg(long = "gpus", value_name = "LIST", value_delimiter = ',')]
    pub only_gpus: Vec<String>,
    /// Absolute directory below which jobs that may run again keep their checkpoints, for storage that is shared with other
    /// nodes. Default: a folder in the data directory
    #[arg(long, value_name = "DIR")]
    pub checkpoint_root: Option<PathBuf>,
    /// User that jobs run as which name none, when this is started by root. Default: who called sudo, else root
    #[arg(long, value_name = "USER")]
    pub run_as: Option<String>,
    /// Settings of scheduling, a YAML file; --help shows them all
    #[arg(long, value_name = "FILE", long_help = Scheduling::HELP)]
    pub scheduling: Option<PathBuf>,
    /// Apply this file or directory once everything runs
    #[arg(long, value_name = "PATH")]
    pub apply: Vec<PathBuf>,
    /// With --apply: show the jobs' transitions, print how they ended, and end; 0 only if all succeeded, else 3
    #[arg(long, requires = "apply")]
    pub wait: bool,
    /// With --wait: give up after this time, such as 10m
    #[arg(long, requires = "wait", value_parser = age::parse_span)]
    pub timeout: Option<Duration>,
    /// At the end stop the jobs too; otherwise they run on, and the next start adopts them
    #[arg(long)]
    pub stop_jobs: bool,
}

/// Runs the command until it is interrupted, or with `--wait` until the jobs have ended.
///
/// # Errors
/// When a part of the cluster cannot start or breaks.
pub async fn run(
    args: &Args,
    namespace: Option<&str>,
    output: &Output,
    interrupt: &CancellationToken,
) -> Result<Exit, Error> {
    let (mut cluster, api) = tokio::select! {
        biased;
        () = interrupt.cancelled() => return Ok(Exit::Interrupted),
        started = start(args, output) => started?,
    };
    let mut session = Session::new(api, namespace.unwrap_or("default"), output.clone());
    session.namespace_given = namespace.is_some();
    let result = tokio::select! {
        biased;
        () = interrupt.cancelled() => {
            output.say(if args.stop_jobs {
                "ending, and stopping jobs"
            } else {
                "ending; jobs run on and are adopted at the next start"
            });
            Ok(if args.wait { Exit::Interrupted } else { Exit::Ok })
        }
        broken = cluster.broken() => Err(broken),
        worked = work(&mut session, args) => worked,
    };
    for complaint in cluster.stop(args.stop_jobs).await {
        output.say(format!("error: {complaint}"));
    }
    result
}

/// Brings everything up and says where it is.
async fn start(args: &Args, out: &Output) -> Result<(Cluster, Api), Error> {
    let scheduling = scheduling(args.scheduling.as_deref())?;
    let default_user = default_user(args.run_as.clone());
    let data_dir = prepare(&args.data_dir, default_user.as_deref())?;
    let lock = lock::Lock::take(&data_dir)?;
    if default_user.as_deref() == Some("root") && args.run_as.is_none() {
        out.say(
            "started by root: jobs that name no user run as root (--run-as USER chooses another)",
        );
    }
    let listener = listen(args.listen, out).await?;
    let gpus = gpus::choose(args.sim_gpus.clone(), args.sim_nodes);
    if let Some(note) = &gpus.note {
        out.say(note);
    }
    let kubeconfig = data_dir.join("kubeconfig");
    let checkpoints = nodeagent::checkpoint_root(args.checkpoint_root.clone(), &data_dir);
    let checkpoints = checkpoints.map_err(|source| Error::File {
        attempted: "use as the root of checkpoints",
        path: args
            .checkpoint_root
            .clone()
            .unwrap_or_else(|| data_dir.clone()),
        source,
    })?;
    let cluster = Cluster::start(
        Plan {
            data_dir,
            kubeconfig: kubeconfig.clone(),
            gpus: gpus.source,
            sim_nodes: args.sim_nodes,
            address: args.address.clone(),
            only_gpus: args.only_gpus.clone(),
            checkpoints,
            default_user,
            scheduling,
        },
        listener,
        lock,
    )
    .await?;
    let connection = connection::connect(&Choice {
        kubeconfig: Some(kubeconfig.clone()),
        ..Choice::default()
    })
    .await?;
    let api = Api::new(connection.client, connection.server);
    out.line(format!("listening on {}", api.server()))?;
    if !args.wait {
        out.say("");
        out.say("In another terminal:");
        out.say(format!("  export KUBECONFIG={}", kubeconfig.display()));
        out.say("  gctl get jobs -w");
        out.say("");
    }
    Ok((cluster, api))
}

/// The settings that a file says.
fn scheduling(path: Option<&Path>) -> Result<Scheduling, Error> {
    let Some(path) = path else {
        return Ok(Scheduling::default());
    };
    let fail = |source| Error::File {
        attempted: "read the settings of scheduling",
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(fail)?;
    Scheduling::parse(&text)
        .map_err(|error| Error::Usage(format!("--scheduling {}: {error}", path.display())))
}

/// The data directory as an absolute path, made if need be. Only its owner may look into it; jobs of another user may pass through
/// it to directories of their own.
fn prepare(path: &Path, default_user: Option<&str>) -> Result<PathBuf, Error> {
    use std::os::unix::fs::DirBuilderExt;
    let fail = |source| Error::File {
        attempted: "make the data directory",
        path: path.to_owned(),
        source,
    };
    let shared = default_user.is_some_and(|user| user != "root");
    let absolute = std::path::absolute(path).map_err(fail)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(if shared { 0o711 } else { 0o700 })
        .create(&absolute)
        .map_err(fail)?;
    Ok(absolute)
}

async fn listen(
    wanted: Option<SocketAddr>,
    out: &Output,
) -> Result<tokio::net::TcpListener, Error> {
    let address = wanted.unwrap_or(DEFAULT_LISTEN);
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && wanted.is_none() => {
            out.say(format!(
                "port {} is taken: listening on another (--listen ADDR:PORT chooses)",
                address.port()
            ));
            let any = SocketAddr::new(address.ip(), 0);
            tokio::net::TcpListener::bind(any)
                .await
                .map_err(|error| cannot_listen(any, &error))
        }
        Err(error) => Err(cannot_listen(address, &error)),
    }
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Error {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; is another `gctl up` running? port 0 takes any free one"
        }
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
        std::io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
        _ => "",
    };
    Error::Cluster {
        part: "apiserver",
        reason: format!("failed to listen on {address}: {error}{advice}"),
    }
}

/// Whom jobs run as that name nobody. Whoever starts `gctl up` is who submits to it, so that is who is asked for.
fn default_user(wanted: Option<String>) -> Option<String> {
    if wanted.is_some() || !nix::unistd::Uid::effective().is_root() {
        return wanted;
    }
    let sudo_user = std::env::var("SUDO_USER").ok();
    sudo_user
        .filter(|user| !user.is_empty())
        .or_else(|| Some("root".to_owned()))
}

/// What is to do once everything runs. Without `--wait` it never ends.
async fn work(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let began = (session.clock)();
    let mut exit = Exit::Ok;
    let mut jobs = Vec::new();
    let mut ended_before = 0;
    let mut earlier = None;
    if !args.apply.is_empty() {
        if args.wait {
            earlier = Some(Snapshot::take(session).await?);
        }
        let read = manifest::read_all(&args.apply, true);
        for error in read.bad {
            session.output.complain(&error.into());
            exit = Exit::Error;
        }
        for result in apply::apply_all(session, read.good, DryRun::None).await {
            session.say_warnings();
            match result {
                Ok(applied) => {
                    let ended = ended(&applied);
                    ended_before += usize::from(ended.is_some());
                    session.output.say(line_of(&applied, ended));
                    if applied.target.resource.is_job() {
                        jobs.push(applied.target);
                    }
                }
                Err(error) => {
                    session.output.complain(&error);
                    exit = Exit::Error;
                }
            }
        }
    }
    if ended_before > 0 {
        session.output.say(format!(
            "{ended_before} of these jobs ended before and do not run again; `gctl delete -f PATH` makes room for another run"
        ));
    }
    if !args.wait {
        std::future::pending::<()>().await;
    }
    if jobs.is_empty() {
        session.output.say("no job to wait for");
        return Ok(exit);
    }
    Ok(exit.worse(until_ended(session, args, &jobs, began, earlier).await?))
}

async fn until_ended(
    session: &mut Session,
    args: &Args,
    jobs: &[Target],
    began: jiff::Timestamp,
    earlier: Option<Snapshot>,
) -> Result<Exit, Error> {
    session.output.say("");
    let following = follow::follow(session, jobs, Voice::Lines, began, earlier);
    let followed = match args.timeout {
        Some(limit) => tokio::time::timeout(limit, following).await.ok(),
        None => Some(following.await),
    };
    let Some(board) = followed else {
        session
            .output
            .say("error: timed out; the jobs run on and are adopted at the next start");
        return Ok(Exit::TimedOut);
    };
    let board = board?;
    session.output.say("");
    session.output.raw(board.outcomes().as_bytes())?;
    Ok(if board.all_succeeded() {
        Exit::Ok
    } else {
        Exit::JobFailed
    })
}

/// The phase of a job that had ended before it was applied.
fn ended(applied: &Applied) -> Option<crds::Phase> {
    follow::read_job(applied.object.clone())
        .filter(|_| applied.target.resource.is_job() && applied.outcome != Outcome::Created)
        .map(|job| follow::phase_of(&job))
        .filter(|phase| phase.is_terminal())
}

/// What was done to an object.
fn line_of(applied: &Applied, ended: Option<crds::Phase>) -> String {
    let line = format!("{} {}", applied.target.label(), applied.outcome.word());
    match ended {
        Some(phase) => format!("{line} (ended before as {phase:?})"),
        None => line,
    }
}
