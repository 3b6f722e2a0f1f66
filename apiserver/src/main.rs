//! The API server as a program of its own.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use apiserver::server::{Options, Server};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The kinds of gctl, generated from the Rust types.
const CRDS: &[&str] = &[
    include_str!("../../crds/jobs.yaml"),
    include_str!("../../crds/nodes.yaml"),
    include_str!("../../crds/profiles.yaml"),
    include_str!("../../crds/queues.yaml"),
];

/// Most of a request's own work is small objects that live as long as it does. Measured: a fifth less CPU a write than
/// with the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Kubernetes-style API server in one process.
#[derive(Parser)]
#[command(name = "apiserver", version)]
struct Arguments {
    /// Where objects, logs, keys and tokens are kept
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Serve without TLS; on loopback addresses only
    #[arg(long)]
    plain_http: bool,
    /// Folders or files of further CustomResourceDefinitions that become part of the server
    #[arg(long, value_name = "PATH")]
    crds: Vec<PathBuf>,
    /// Where to write the admin's kubeconfig (default: kubeconfig in the data folder)
    #[arg(long, value_name = "PATH")]
    kubeconfig_out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    refuse_huge_pages();
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut options = Options::new(&arguments.data_dir, arguments.listen);
    options.plain_http = arguments.plain_http;
    options.crds = CRDS.iter().map(|text| (*text).to_owned()).collect();
    for path in &arguments.crds {
        options.crds.extend(read_definitions(path)?);
    }
    let shutdown = CancellationToken::new();
    let stopping = stop_on_signals(shutdown.clone())?;

    let server = Server::open(options).await?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = listener.local_addr()?;
    let kubeconfig = arguments
        .kubeconfig_out
        .unwrap_or_else(|| arguments.data_dir.join("kubeconfig"));
    match server.write_kubeconfig(&kubeconfig, address) {
        Ok(()) => {}
        // Whoever removed the readable token has a kubeconfig elsewhere.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "no kubeconfig written");
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write {}", kubeconfig.display()));
        }
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on {}", server.url(address))?;
    stdout.flush()?;
    drop(stdout);

    let served = server.serve(listener, shutdown).await;
    stopping.abort();
    served.context("the server ended early")
}

/// SIGTERM and SIGINT end the server gracefully; a second one ends the process at once.
#[expect(
    clippy::exit,
    reason = "whoever asks twice does not want to wait for anything"
)]
fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                tracing::warn!("second signal, ending at once");
                std::process::exit(130);
            }
            shutdown.cancel();
        }
    }))
}

/// The definitions in a file, or in the `.yaml` and `.yml` files of a folder in order of name.
fn read_definitions(path: &Path) -> anyhow::Result<Vec<String>> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    if !path.is_dir() {
        return Ok(vec![read(path)?]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            files.push(file);
        }
    }
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

/// The allocator hands out what was compiled at the start and what objects need in small pieces. Measured: huge pages
/// save no time here, and 2 MiB stay in memory for the little that is left in each, 40 MiB of an idle server. This is
/// for systems that give them to everybody; mimalloc itself is built not to ask.
fn refuse_huge_pages() {
    // Where the system does not know the call, memory is all that it costs.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Connections are descriptors, and the usual soft limit of 1,024 is a compatibility default.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}
