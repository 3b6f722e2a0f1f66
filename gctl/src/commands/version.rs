//! `gctl version`: of this binary and of the server.

use serde_json::{Value, json};

use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::object::{self, Format};
use crate::session::Session;

/// Arguments of `gctl version`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only this binary's version, without asking a server
    #[arg(long)]
    pub client: bool,
    /// yaml or json
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub output: String,
}

/// This binary's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the command; `session` is absent with `--client`.
///
/// # Errors
/// When the server cannot be asked.
pub async fn run(
    session: Option<&Session>,
    output: &crate::output::Output,
    args: &Args,
) -> Result<Exit, Error> {
    let format: Format = args.output.parse()?;
    let mut document = json!({"clientVersion": {"gitVersion": format!("v{VERSION}")}});
    let mut failed = None;
    if let Some(session) = session {
        match session
            .api
            .get("/version", api::JSON, "ask the server's version")
            .await
        {
            Ok(version) => document["serverVersion"] = version,
            Err(error) => failed = Some(error),
        }
    }
    match format {
        Format::Table { .. } => {
            output.line(format!("Client Version: v{VERSION}"))?;
            if let Value::String(version) = &document["serverVersion"]["gitVersion"] {
                output.line(format!("Server Version: {version}"))?;
            }
        }
        Format::Name => {
            return Err(Error::Usage(
                "version has no name: use -o yaml or json".into(),
            ));
        }
        format => output.raw(object::render(&document, &format).as_bytes())?,
    }
    failed.map_or(Ok(Exit::Ok), Err)
}
