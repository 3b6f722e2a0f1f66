//! `gctl completion SHELL`: a script that completes commands and flags.

use clap::CommandFactory;

use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Arguments of `gctl completion`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Runs the command.
///
/// # Errors
/// When the output cannot be written.
pub fn run(output: &Output, args: &Args) -> Result<Exit, Error> {
    let mut script = Vec::new();
    let mut command = crate::cli::Cli::command();
    clap_complete::generate(args.shell, &mut command, "gctl", &mut script);
    output.raw(&script)?;
    Ok(Exit::Ok)
}
