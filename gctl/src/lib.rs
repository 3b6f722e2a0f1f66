//! The command line of gctl as a library: every command can be called with a client and a writer of one's own.
//!
//! **Nothing here but [`output`] writes to standard output, and nothing but `main` ends the process.** Every command speaks to the server
//! through the API alone, as any other client would; only [`up`] also starts the server, the controllers and the agents.
//!
//! - [`run`] parses a command line and runs it; [`run_with`] does so with a given client.
//! - [`exit`] has the exit codes, [`error`] what can go wrong.
//! - [`merge`], [`follow::Board`] and [`sync::decide`] are pure.

pub mod api;
pub mod catalog;
pub mod cli;
pub mod commands;
pub mod connection;
pub mod error;
pub mod exit;
pub mod follow;
pub mod manifest;
pub mod merge;
pub mod output;
pub mod session;
pub mod sync;
pub mod up;
pub mod watch;

use std::ffi::OsString;

use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::cli::{Cli, Command};
use crate::commands::{
    apply, cancel, completion, delete, describe, get, logs, node, preempt, priority, submit,
    version, wait, why,
};
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::session::Session;

/// Parses a command line, the first word being the program's name, and runs it against the server that it or the environment names.
/// When `interrupt` is cancelled, the command ends as if by Ctrl-C.
pub async fn run(
    words: impl IntoIterator<Item = OsString>,
    output: Output,
    interrupt: CancellationToken,
) -> Exit {
    let cli = match parse(words, &output) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    if let Command::Up(args) = &cli.command {
        // It has an end of its own: jobs are told, parts are ended in order.
        let namespace = cli.global.namespace.as_deref();
        let result = up::run(args, namespace, &output, &interrupt).await;
        return settle(&output, result);
    }
    let follows = match &cli.command {
        Command::Get(args) => args.watch || args.watch_only,
        Command::Logs(args) => args.follow,
        _ => false,
    };
    tokio::select! {
        biased;
        () = interrupt.cancelled() => Exit::Interrupted,
        () = output::closed::reader_gone(std::io::stdout()), if follows => Exit::Ok,
        exit = Box::pin(execute(cli, None, output)) => exit,
    }
}

/// Like [`run`], with a client of one's own; `namespace` is in force unless the words name another. `up` needs no client and is refused.
pub async fn run_with(
    words: impl IntoIterator<Item = OsString>,
    output: Output,
    client: kube::Client,
    namespace: &str,
) -> Exit {
    let connection = Connection {
        client,
        server: "the server".to_owned(),
        namespace: namespace.to_owned(),
    };
    match parse(words, &output) {
        Ok(cli) => Box::pin(execute(cli, Some(connection), output)).await,
        Err(exit) => exit,
    }
}

fn parse(words: impl IntoIterator<Item = OsString>, output: &Output) -> Result<Cli, Exit> {
    Cli::try_parse_from(words).map_err(|error| {
        let text = error.render().to_string();
        if error.use_stderr() {
            output.say(text.trim_end());
            return Exit::Usage;
        }
        match output.raw(text.as_bytes()) {
            Ok(()) => Exit::Ok,
            Err(error) => error.exit(),
        }
    })
}

fn settle(output: &Output, result: Result<Exit, Error>) -> Exit {
    result.unwrap_or_else(|error| {
        output.complain(&error);
        error.exit()
    })
}

async fn execute(cli: Cli, connection: Option<Connection>, output: Output) -> Exit {
    match &cli.command {
        Command::Completion(args) => return settle(&output, completion::run(&output, args)),
        Command::Version(args) if args.client => {
            return settle(&output, version::run(None, &output, args).await);
        }
        _ => {}
    }
    let connection = match connection {
        Some(connection) => connection,
        None => match connection::connect(&cli.global.choice()).await {
            Ok(connection) => connection,
            Err(error) => return settle(&output, Err(error)),
        },
    };
    let api = Api::new(connection.client, connection.server);
    let namespace = cli.global.namespace.clone().unwrap_or(connection.namespace);
    let mut session = Session::new(api, namespace, output.clone());
    session.namespace_given = cli.global.namespace.is_some();
    let result = Box::pin(dispatch(&mut session, &cli.command)).await;
    session.say_warnings();
    settle(&output, result)
}

async fn dispatch(session: &mut Session, command: &Command) -> Result<Exit, Error> {
    match command {
        Command::Apply(args) => apply::run(session, args).await,
        Command::Get(args) => get::run(session, args).await,
        Command::Describe(args) => describe::run(session, args).await,
        Command::Delete(args) => delete::run(session, args).await,
        Command::Submit(args) => submit::run(session, args).await,
        Command::Wait(args) => Box::pin(wait::run(session, args)).await,
        Command::Logs(args) => logs::run(session, args).await,
        Command::Cancel(args) => cancel::run(session, args).await,
        Command::Preempt(args) => preempt::run(session, args).await,
        Command::Priority(args) => priority::run(session, args).await,
        Command::Nudge(args) => priority::nudge(session, args).await,
        Command::Why(args) => Box::pin(why::run(session, args)).await,
        Command::Node(args) => node::run(session, args).await,
        Command::Sync(args) => sync::run(session, args).await,
        Command::Version(args) => version::run(Some(session), &session.output, args).await,
        Command::Completion(args) => completion::run(&session.output, args),
        Command::Up(_) => Err(Error::Usage(
            "up starts a cluster of its own and takes no client".into(),
        )),
    }
}
