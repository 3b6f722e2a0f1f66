//! The agent as a program of its own.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nodeagent::address::{AddressSource, Host};
use nodeagent::gpu::{GpuSource, SIM_GPUS_HELP, SimGpus};
use nodeagent::{Options, ShimRunner};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs the jobs that are bound to this node.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Kubeconfig file with the server and credentials. Default: $KUBECONFIG, ~/.kube/config, or the pod's own.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of this node. Default: the host's name.
    #[arg(long)]
    node_name: Option<String>,
    /// Where attempts, their output and the journal of ends are kept.
    #[arg(long)]
    data_dir: PathBuf,
    /// Simulated GPUs instead of real ones, such as `2x24Gi,1x80Gi`; --help says how to describe them.
    #[arg(long, value_name = "GPUS", long_help = SIM_GPUS_HELP)]
    sim_gpus: Option<SimGpus>,
    /// GPUs that jobs may be given, such as `0,2`: indices in PCI bus order, or UUIDs or their beginnings. Default: all.
    #[arg(long, value_delimiter = ',')]
    gpus: Vec<String>,
    /// Absolute directory below which jobs that may run again keep their checkpoints. On storage that all nodes share, any of
    /// them resumes a job; nothing there is ever removed. Default: a folder in the data directory, for this node alone, from
    /// which the checkpoints of deleted jobs are removed after a day.
    #[arg(long)]
    checkpoint_root: Option<PathBuf>,
    /// User that jobs run as when they name none. Needed when this agent is root.
    #[arg(long)]
    default_user: Option<String>,
    /// IP address or host name by which the jobs of other nodes reach this one. Default: the address from which this host
    /// reaches the API server.
    #[arg(long, value_name = "HOST")]
    address: Option<Host>,
    /// Label of the Node, KEY=VALUE; may be repeated.
    #[arg(long = "label", value_parser = label)]
    labels: Vec<(String, String)>,
    /// On shutdown stop the jobs too, instead of leaving them to the next agent.
    #[arg(long)]
    stop_jobs: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "a label is KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> anyhow::Result<()> {
    // Before any thread, descriptor or argument: this process may be meant to be the spawner.
    nodeagent::spawner::run_if_asked();
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    // One thread: what an agent does between two waits is short, and waking another thread for it costs more than doing
    // it. Files are synced, and GPUs read, on threads beside it.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = config(arguments.kubeconfig).await?;
    let address = AddressSource::new(arguments.address, &config.cluster_url.to_string());
    let client = kube::Client::try_from(config).context("cannot make a client")?;
    let node_name = match arguments.node_name {
        Some(name) => name,
        None => hostname().context("cannot read the host's name: give --node-name")?,
    };
    let (root, own) = nodeagent::checkpoint_root(arguments.checkpoint_root, &arguments.data_dir)
        .context("cannot use the root of checkpoints")?;
    let runner = Arc::new(ShimRunner::new(arguments.data_dir));
    let mut options = Options::new(node_name, runner);
    options.gpus = arguments
        .sim_gpus
        .map_or(GpuSource::Nvml, GpuSource::Simulated);
    options.only_gpus = arguments.gpus;
    options.default_user = arguments.default_user;
    options.checkpoint_root = Some(root);
    options.sweep_checkpoints = own;
    options.address = address;
    options.labels = arguments.labels.into_iter().collect();
    options
        .stop_jobs
        .store(arguments.stop_jobs, std::sync::atomic::Ordering::SeqCst);
    let shutdown = CancellationToken::new();
    let signals = wait_for_signal(shutdown.clone());
    tokio::select! {
        result = nodeagent::run(client, options, shutdown) => result.context("the agent ended"),
        never = signals => never,
    }
}

async fn config(path: Option<PathBuf>) -> anyhow::Result<kube::Config> {
    let Some(path) = path else {
        return kube::Config::infer()
            .await
            .context("cannot find a kubeconfig: give --kubeconfig");
    };
    let file = Kubeconfig::read_from(&path)
        .with_context(|| format!("cannot read kubeconfig `{}`", path.display()))?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use kubeconfig `{}`", path.display()))
}

/// Asks for a shutdown at the first INT or TERM, and goes on waiting.
async fn wait_for_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for INT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for TERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
    std::future::pending().await
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim().to_lowercase();
    (!name.is_empty()).then_some(name)
}
