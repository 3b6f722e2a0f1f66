//! Runs the controllers of gctl against an API server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use controllers::{ControllerName, Options, Scheduling, run};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs the controllers of gctl against an API server, until SIGINT or SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "controllers", version)]
struct Arguments {
    /// Kubeconfig file. Default: $KUBECONFIG, ~/.kube/config, or the cluster this runs in.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Run these controllers only, separated by commas. Default: all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<ControllerName>,
    /// Seconds the fleet has for registering before a job is called infeasible.
    #[arg(long, default_value_t = Options::default().settle_seconds)]
    settle_seconds: u64,
    /// Settings of scheduling, a YAML file; --help shows them all.
    #[arg(long, value_name = "FILE", long_help = Scheduling::HELP)]
    scheduling: Option<PathBuf>,
}

/// Threads beside the first, at most. One task decides, and what others do for it is decoding and encoding.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run_on_threads(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_on_threads(arguments: Arguments) -> anyhow::Result<()> {
    // Half of the processors: on a small host the server and the agent want the others, and every thread more is one more
    // to wake.
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() / 2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.clamp(1, MOST_THREADS))
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    // As a task: what this thread ran itself would be woken across threads for everything it hears.
    runtime
        .block_on(runtime.spawn(start(arguments)))
        .context("the controllers broke off")?
}

async fn start(arguments: Arguments) -> anyhow::Result<()> {
    let scheduling = match &arguments.scheduling {
        Some(path) => std::fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(Scheduling::parse(&text)?))
            .with_context(|| format!("failed to read {}", path.display()))?,
        None => Scheduling::default(),
    };
    let config = match &arguments.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("failed to read kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("failed to use kubeconfig {}", path.display()))?
        }
        None => kube::Config::infer()
            .await
            .context("found no kubeconfig; name one with --kubeconfig")?,
    };
    let client = kube::Client::try_from(config).context("failed to make a client")?;
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let only: BTreeSet<ControllerName> = arguments.only.into_iter().collect();
    let options = Options {
        only: (!only.is_empty()).then_some(only),
        settle_seconds: arguments.settle_seconds,
        scheduling,
        ..Options::default()
    };
    run(client, options, shutdown).await?;
    Ok(())
}

/// Cancels the token at the first SIGINT or SIGTERM.
fn cancel_on_signal(
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        shutdown.cancel();
    })
}
