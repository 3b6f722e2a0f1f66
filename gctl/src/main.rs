//! The binary `gctl`: starts the runtime, listens for Ctrl-C, and ends with the documented exit code.

use std::process::ExitCode;

use gctl::exit::Exit;
use gctl::output::Output;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Logs are for finding faults; what a person should know is said by the commands themselves.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            EnvFilter::try_from_env("GCTL_LOG").unwrap_or_else(|_| EnvFilter::new("error")),
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
        let command = gctl::run(std::env::args_os(), Output::standard());
        tokio::select! {
            exit = command => exit,
            _ = tokio::signal::ctrl_c() => Exit::Interrupted,
        }
    });
    // A blocked read of standard input must not hold the process.
    runtime.shutdown_background();
    exit.into()
}
