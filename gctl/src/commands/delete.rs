//! `gctl delete`: removes objects, and waits until they are gone.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::{DryRun, wait};
use crate::error::Error;
use crate::exit::Exit;
use crate::manifest;
use crate::output::age;
use crate::session::{Session, Target};

/// Arguments of `gctl delete`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME..., TYPE/NAME ..., the name of a job, or TYPE with -l or --all
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// Delete what this file, directory or `-` names
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "PATH",
        conflicts_with = "resources"
    )]
    pub filename: Vec<PathBuf>,
    /// Look into directories below a directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Label selector
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All objects of the type in the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Return only when the objects are gone
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub wait: bool,
    /// Give up waiting after this time, such as 90s; without it there is no limit
    #[arg(long, value_parser = age::parse_span)]
    pub timeout: Option<Duration>,
    /// What becomes of objects that the deleted one owns
    #[arg(long, value_enum, default_value = "background")]
    pub cascade: Cascade,
    /// Do not complain about what does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Change nothing
    #[arg(long, value_enum, default_value = "none", default_missing_value = "client", num_args = 0..=1, require_equals = true)]
    pub dry_run: DryRun,
    /// `name` prints names alone
    #[arg(short, long, default_value = "", hide_default_value = true, value_parser = ["", "name"])]
    pub output: String,
}

/// What becomes of owned objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cascade {
    /// They are deleted after their owner.
    Background,
    /// They are deleted before their owner.
    Foreground,
    /// They stay.
    Orphan,
}

impl Cascade {
    fn policy(self) -> &'static str {
        match self {
            Cascade::Background => "Background",
            Cascade::Foreground => "Foreground",
            Cascade::Orphan => "Orphan",
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When it is unclear what to delete; what goes wrong with one object is said and makes the exit [`Exit::Error`].
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let mut exit = Exit::Ok;
    let targets = chosen(session, args, &mut exit).await?;
    let mut leaving = Vec::new();
    for target in targets {
        match delete(session, &target, args).await {
            Ok(()) => {
                leaving.push(target.clone());
                session.output.line(match args.output.as_str() {
                    "name" => target.label(),
                    _ => format!("{} deleted{}", target.label(), args.dry_run.suffix()),
                })?;
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => {
                session.output.complain(&error);
                exit = Exit::Error;
            }
        }
        session.say_warnings();
    }
    if args.wait && args.dry_run == DryRun::None {
        let gone = async {
            for target in &leaving {
                wait::until_gone(session, target).await?;
            }
            Ok::<_, Error>(())
        };
        let finished = match args.timeout {
            Some(limit) => tokio::time::timeout(limit, gone).await.ok(),
            None => Some(gone.await),
        };
        if let Some(result) = finished {
            result?;
        } else {
            session.output.say(
                "error: timed out waiting until everything is gone; it is being deleted all the same",
            );
            exit = exit.worse(Exit::TimedOut);
        }
    }
    Ok(exit)
}

async fn delete(session: &Session, target: &Target, args: &Args) -> Result<(), Error> {
    let attempted = format!("delete {}", target.label());
    if args.dry_run == DryRun::Client {
        return session
            .api
            .get(&target.path(), crate::api::JSON, &attempted)
            .await
            .map(drop);
    }
    let mut options = json!({"propagationPolicy": args.cascade.policy()});
    if args.dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    session
        .api
        .delete(&target.path(), &options, &attempted)
        .await
        .map(drop)
}

async fn chosen(session: &mut Session, args: &Args, exit: &mut Exit) -> Result<Vec<Target>, Error> {
    if !args.filename.is_empty() {
        return Ok(named_in_files(session, args, exit).await);
    }
    let Some(first) = args.resources.first() else {
        return Err(Error::Usage(
            "what to delete? TYPE NAME, TYPE with -l or --all, or -f FILE".into(),
        ));
    };
    let selected = args.all || !args.selector.is_empty();
    if args.resources.len() == 1 && !first.contains('/') {
        if !selected {
            return session.named(&args.resources).await?.ok_or_else(|| {
                Error::Usage(format!("which {first}? give names, -l SELECTOR or --all"))
            });
        }
        let mut targets = Vec::new();
        for kind in first.split(',') {
            let resource = session.resource(kind).await?;
            targets.extend(wait::select(session, &resource, &args.selector).await?);
        }
        if targets.is_empty() {
            session.output.say("No resources found.");
        }
        return Ok(targets);
    }
    if selected {
        return Err(Error::Usage("either names, or -l, or --all".into()));
    }
    session.targets(&args.resources).await
}

/// What the manifests name, in reverse: what lives in a namespace goes before it, objects before their kind.
async fn named_in_files(session: &mut Session, args: &Args, exit: &mut Exit) -> Vec<Target> {
    let read = manifest::read_all(&args.filename, args.recursive);
    for error in read.bad {
        session.output.complain(&error.into());
        *exit = Exit::Error;
    }
    let mut targets = Vec::new();
    for manifest in read.good.iter().rev() {
        let catalog = match session.catalog().await {
            Ok(catalog) => catalog,
            Err(error) => {
                session.output.complain(&error);
                *exit = Exit::Error;
                return Vec::new();
            }
        };
        match catalog.by_kind(manifest.api_version(), manifest.kind()) {
            Some(resource) => targets.push(Target {
                namespace: resource.namespaced.then(|| {
                    manifest
                        .namespace()
                        .unwrap_or(&session.namespace)
                        .to_owned()
                }),
                resource: resource.clone(),
                name: manifest.name().to_owned(),
            }),
            // Where the kind is gone, so are its objects.
            None if args.ignore_not_found => {}
            None => {
                session.output.say(format!(
                    "error: {}: the server has no kind {} in {}",
                    manifest.place,
                    manifest.kind(),
                    manifest.api_version()
                ));
                *exit = Exit::Error;
            }
        }
    }
    targets.sort_by_key(|target| match target.resource.kind.as_str() {
        "CustomResourceDefinition" => 2,
        "Namespace" => 1,
        _ => 0,
    });
    targets
}
