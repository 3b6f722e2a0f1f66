//! The command line of gctl as a library: every command can be called with a client and a writer of one's own.
//!
//! **Nothing here but [`output`] writes to standard output, and nothing but `main` ends the process.** Every command speaks to the server
//! through the API alone, as any other client would; only [`up`] also starts the server, the controllers and the agents.
//!
//! - [`run`] parses a command line and runs it; [`run_with`] does so with a given client.
//! - [`exit`] has the exit codes, [`error`] what can go wrong.
//! - [`merge`], [`jsonpath`], [`follow::Board`] and [`sync::decide`] are pure.

pub mod api;
pub mod catalog;
pub mod cli;
pub mod commands;
pub mod connection;
pub mod error;
pub mod exit;
pub mod follow;
pub mod jsonpath;
pub mod manifest;
pub mod merge;
pub mod output;
pub mod session;
pub mod sync;
pub mod watch;

use std::ffi::OsString;

use clap::Parser;

use crate::api::Api;
use crate::cli::{Cli, Command};
use crate::commands::{
    apply, cancel, completion, delete, describe, get, logs, submit, version, wait,
};
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::session::Session;

/// Parses a command line, the first word being the program's name, and runs it against the server that it or the environment names.
pub async fn run(words: impl IntoIterator<Item = OsString>, mut output: Output) -> Exit {
    match parse(words, &mut output) {
        Ok(cli) => execute(cli, None, output).await,
        Err(exit) => exit,
    }
}

/// Like [`run`], with a client of one's own; `namespace` is in force unless the words name another.
pub async fn run_with(
    words: impl IntoIterator<Item = OsString>,
    mut output: Output,
    client: kube::Client,
    namespace: &str,
) -> Exit {
    let connection = Connection {
        client,
        server: "the server".to_owned(),
        namespace: namespace.to_owned(),
    };
    match parse(words, &mut output) {
        Ok(cli) => execute(cli, Some(connection), output).await,
        Err(exit) => exit,
    }
}

fn parse(words: impl IntoIterator<Item = OsString>, output: &mut Output) -> Result<Cli, Exit> {
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

async fn execute(cli: Cli, connection: Option<Connection>, mut output: Output) -> Exit {
    let result = match &cli.command {
        Command::Completion(args) => completion::run(&mut output, args),
        Command::Version(args) if args.client => version::run(None, &mut output, args).await,
        _ => return with_server(cli, connection, output).await,
    };
    result.unwrap_or_else(|error| {
        output.complain(&error);
        error.exit()
    })
}

async fn with_server(cli: Cli, connection: Option<Connection>, mut output: Output) -> Exit {
    let connection = match connection {
        Some(connection) => connection,
        None => match connection::connect(&cli.global.choice()).await {
            Ok(connection) => connection,
            Err(error) => {
                output.complain(&error);
                return error.exit();
            }
        },
    };
    let api = Api::new(connection.client, connection.server);
    let namespace = cli.global.namespace.clone().unwrap_or(connection.namespace);
    let mut session = Session::new(api, namespace, output);
    session.namespace_given = cli.global.namespace.is_some();
    let result = dispatch(&mut session, &cli.command).await;
    session.say_warnings();
    result.unwrap_or_else(|error| {
        session.output.complain(&error);
        error.exit()
    })
}

async fn dispatch(session: &mut Session, command: &Command) -> Result<Exit, Error> {
    match command {
        Command::Apply(args) => apply::run(session, args).await,
        Command::Get(args) => get::run(session, args).await,
        Command::Describe(args) => describe::run(session, args).await,
        Command::Delete(args) => delete::run(session, args).await,
        Command::Submit(args) => submit::run(session, args).await,
        Command::Wait(args) => wait::run(session, args).await,
        Command::Logs(args) => logs::run(session, args).await,
        Command::Cancel(args) => cancel::run(session, args).await,
        Command::Sync(args) => sync::run(session, args).await,
        Command::Version(args) => {
            let mut output = Output::standard();
            std::mem::swap(&mut output, &mut session.output);
            let result = version::run(Some(session), &mut output, args).await;
            session.output = output;
            result
        }
        Command::Completion(args) => completion::run(&mut session.output, args),
    }
}
