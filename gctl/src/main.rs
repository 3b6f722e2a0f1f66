//! The binary `gctl`: starts the runtime, listens for signals, and ends with the documented exit code.

use std::process::ExitCode;

use gctl::exit::Exit;
use gctl::output::Output;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The API server within `gctl up` makes and drops trees of small maps with every write; this one takes a fifth less CPU
/// for a job than the C library's. Huge pages are not refused here as the `apiserver` program does it: that would be
/// inherited by the jobs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any thread, any descriptor and any argument parser: this process may be meant to be the spawner of jobs.
    nodeagent::spawner::run_if_asked();
    // Logs are for finding faults; what a person should know is said by the commands themselves.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            EnvFilter::try_from_env("GCTL_LOG")
                .unwrap_or_else(|_| EnvFilter::new("error,kube_client=off")),
        )
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            Output::standard().say(format!("error: failed to start: {error}"));
            return Exit::Error.into();
        }
    };
    let exit = runtime.block_on(async {
        let interrupt = CancellationToken::new();
        tokio::spawn(listen_for_signals(interrupt.clone()));
        gctl::run(std::env::args_os(), Output::standard(), interrupt).await
    });
    // A blocked read of standard input must not hold the process.
    runtime.shutdown_background();
    exit.into()
}

/// The first Ctrl-C or TERM asks the command to end, the second ends the process.
async fn listen_for_signals(interrupt: CancellationToken) {
    let (Ok(mut ctrl_c), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        Output::standard().say("Warning: signals cannot be caught; Ctrl-C ends at once");
        return;
    };
    let mut asked = false;
    loop {
        tokio::select! {
            _ = ctrl_c.recv() => {}
            _ = terminate.recv() => {}
        }
        if asked {
            end_now();
        }
        asked = true;
        interrupt.cancel();
    }
}

#[expect(
    clippy::exit,
    reason = "the person asked twice and does not want to wait for a clean end"
)]
fn end_now() -> ! {
    std::process::exit(i32::from(Exit::Interrupted.code()))
}
