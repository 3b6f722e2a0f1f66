//! `gctl sync DIR`: keeps objects as a directory of manifests says (GitOps without a server for it).
//!
//! **Guarantees.** What this sync applied bears the label `gctl.dev/sync=ID`, and nothing else is ever pruned. A broken file stops no other,
//! and as long as one is broken nothing is pruned. There is no state but on the server, so a restart goes on where it was.
//!
//! **Limits.** A job that somebody deleted, or that its `ttlSecondsAfterFinished` removed, is made again while its file is there: the file
//! still asks for it.

pub mod decide;
mod notice;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use self::decide::{Key, Live, Observed, Plan};
use crate::commands::DryRun;
use crate::commands::apply::{self, Outcome};
use crate::error::Error;
use crate::exit::Exit;
use crate::manifest::{self, Manifest, Manifests};
use crate::output::age;
use crate::session::{Selection, Session, Target};

/// The label that says which sync an object belongs to.
pub const LABEL: &str = "gctl.dev/sync";

/// Arguments of `gctl sync`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directory of manifests; those below it count too
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Go on, and sync again whenever a file changes
    #[arg(short, long)]
    pub watch: bool,
    /// Delete what this sync applied earlier and no file names any more
    #[arg(long)]
    pub prune: bool,
    /// With --prune: delete everything even when the directory has no manifest left
    #[arg(long, requires = "prune")]
    pub allow_empty: bool,
    /// With --watch: also sync this often, to undo changes made elsewhere
    #[arg(long, default_value = "60s", value_parser = age::parse_span)]
    pub interval: Duration,
    /// Identity of this sync, in the label gctl.dev/sync; made from the directory's path when not given
    #[arg(long)]
    pub id: Option<String>,
    /// Change nothing and say what would be done
    #[arg(long, value_enum, default_value = "none", default_missing_value = "server", num_args = 0..=1, require_equals = true, conflicts_with = "watch")]
    pub dry_run: DryRun,
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects made.
    pub created: usize,
    /// Objects changed.
    pub configured: usize,
    /// Objects that were right already.
    pub unchanged: usize,
    /// Objects deleted.
    pub pruned: usize,
    /// Things that went wrong.
    pub errors: usize,
}

impl Summary {
    fn changed(self) -> bool {
        self.created + self.configured + self.pruned + self.errors > 0
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} created, {} configured, {} unchanged, {} pruned, {} errors",
            self.created, self.configured, self.unchanged, self.pruned, self.errors
        )
    }
}

/// Runs the command.
///
/// # Errors
/// When the directory does not exist, or without `--watch` the server cannot be reached.
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let id = identity(args)?;
    if !args.watch {
        let summary = pass(session, args, &id, Verbosity::All).await?;
        session
            .output
            .say(format!("{}: {summary}", args.directory.display()));
        return Ok(if summary.errors == 0 {
            Exit::Ok
        } else {
            Exit::Error
        });
    }
    let mut notices = match notice::Notices::of(&args.directory) {
        Ok(notices) => Some(notices),
        Err(reason) => {
            session.output.say(format!(
                "changes cannot be noticed ({reason}); looking every {} s instead",
                args.interval.as_secs()
            ));
            None
        }
    };
    session.output.say(format!(
        "syncing {} as {LABEL}={id}; Ctrl-C ends it and leaves everything as it is",
        args.directory.display()
    ));
    let mut verbosity = Verbosity::All;
    loop {
        match pass(session, args, &id, verbosity).await {
            Ok(summary) if summary.changed() || verbosity == Verbosity::All => session
                .output
                .say(format!("{}: {summary}", args.directory.display())),
            Ok(_) => {}
            Err(error @ Error::OutputClosed) => return Err(error),
            Err(error) => session.output.complain(&error),
        }
        verbosity = Verbosity::Changes;
        let pause = args.interval.max(Duration::from_secs(1));
        match &mut notices {
            Some(notices) => {
                let _ = tokio::time::timeout(pause, notices.next()).await;
            }
            None => tokio::time::sleep(pause).await,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verbosity {
    All,
    Changes,
}

/// The label value of this sync.
fn identity(args: &Args) -> Result<String, Error> {
    let path = args
        .directory
        .canonicalize()
        .map_err(|source| Error::File {
            attempted: "sync",
            path: args.directory.clone(),
            source,
        })?;
    if !path.is_dir() {
        return Err(Error::Usage(format!(
            "`{}` is not a directory",
            path.display()
        )));
    }
    match &args.id {
        Some(id) if is_label_value(id) => Ok(id.clone()),
        Some(id) => Err(Error::Usage(format!(
            "--id `{id}`: at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends"
        ))),
        None => Ok(id_of(&path)),
    }
}

fn is_label_value(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The directory's name and a hash of its whole path, so that two directories of the same name are two syncs.
fn id_of(path: &Path) -> String {
    // FNV-1a, written out because its values must never change.
    let hash = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let name: String = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(32)
        .collect();
    if name.is_empty() {
        format!("{hash:016x}")
    } else {
        format!("{name}-{hash:016x}")
    }
}

/// Syncs once.
async fn pass(
    session: &mut Session,
    args: &Args,
    id: &str,
    verbosity: Verbosity,
) -> Result<Summary, Error> {
    let read = read(&args.directory);
    session.refresh_catalog().await?;
    let mut summary = Summary::default();
    for error in &read.bad {
        summary.errors += 1;
        session.output.say(format!("error: {error}"));
    }
    let mut wanted: Vec<(Key, Manifest)> = Vec::new();
    for manifest in read.good {
        let key = key_of(session, &manifest).await;
        wanted.push((key, labelled(manifest, id)));
    }
    let live = live(session, id).await?;
    let observed = Observed {
        wanted: wanted.iter().map(|(key, _)| key.clone()).collect(),
        broken: read.bad.len(),
        live,
        prune: args.prune,
        allow_empty: args.allow_empty,
    };
    let Plan {
        apply,
        twice,
        prune,
        held_back,
    } = decide::decide(&observed);
    for index in twice {
        summary.errors += 1;
        let (key, manifest) = &wanted[index];
        session.output.say(format!(
            "error: {}: {key} is named in two documents; neither is applied",
            manifest.place
        ));
    }
    let mut chosen = Vec::new();
    for index in apply {
        let manifest = wanted[index].1.clone();
        if let Some(other) = belongs_elsewhere(session, &manifest, id).await? {
            summary.errors += 1;
            session.output.say(format!(
                "error: {}: {} belongs to the sync {other}; give --id {other} to take its place",
                manifest.place, wanted[index].0
            ));
            continue;
        }
        warn_of_expiry(session, &manifest, verbosity);
        chosen.push(manifest);
    }
    for result in apply::apply_all(session, chosen, args.dry_run).await {
        session.say_warnings();
        match result {
            Ok(applied) => {
                match applied.outcome {
                    Outcome::Created => summary.created += 1,
                    Outcome::Configured => summary.configured += 1,
                    Outcome::Unchanged => summary.unchanged += 1,
                }
                if applied.outcome != Outcome::Unchanged || verbosity == Verbosity::All {
                    session.output.line(format!(
                        "{} {}{}",
                        applied.target.label(),
                        applied.outcome.word(),
                        args.dry_run.suffix()
                    ))?;
                }
            }
            Err(error) => {
                summary.errors += 1;
                session.output.complain(&error);
            }
        }
    }
    if let Some(reason) = held_back {
        session.output.say(format!("nothing is pruned: {reason}"));
    } else if summary.errors > 0 && !prune.is_empty() {
        session
            .output
            .say("nothing is pruned: not everything could be applied");
    } else {
        prune_all(session, args.dry_run, &prune, &mut summary).await?;
    }
    Ok(summary)
}

/// Everything below the directory; no manifest at all is not an error here.
fn read(directory: &Path) -> Manifests {
    let mut manifests = Manifests::default();
    match manifest::files(directory, true) {
        Ok(files) => {
            for file in files {
                manifest::read_file(&file, &mut manifests);
            }
        }
        Err(manifest::ManifestError::Empty { .. }) => {}
        Err(error) => manifests.bad.push(error),
    }
    manifests
}

async fn key_of(session: &mut Session, manifest: &Manifest) -> Key {
    let namespaced = match session.catalog().await {
        Ok(catalog) => catalog
            .by_kind(manifest.api_version(), manifest.kind())
            // A kind that is not served yet may be either; its own namespace, if it names one, tells.
            .map_or(manifest.namespace().is_some(), |resource| {
                resource.namespaced
            }),
        Err(_) => manifest.namespace().is_some(),
    };
    let (group, _) = manifest
        .api_version()
        .rsplit_once('/')
        .unwrap_or(("", manifest.api_version()));
    Key {
        group: group.to_owned(),
        kind: manifest.kind().to_owned(),
        namespace: if namespaced {
            manifest
                .namespace()
                .unwrap_or(&session.namespace)
                .to_owned()
        } else {
            String::new()
        },
        name: manifest.name().to_owned(),
    }
}

fn labelled(mut manifest: Manifest, id: &str) -> Manifest {
    if !manifest.object["metadata"]["labels"].is_object() {
        manifest.object["metadata"]["labels"] = json!({});
    }
    manifest.object["metadata"]["labels"][LABEL] = Value::from(id);
    manifest
}

/// Everything on the server that bears this sync's label.
async fn live(session: &mut Session, id: &str) -> Result<Vec<Live>, Error> {
    let catalog = session.catalog().await?;
    let selection = Selection {
        labels: format!("{LABEL}={id}"),
        fields: String::new(),
    };
    let mut found = Vec::new();
    for resource in catalog.resources() {
        if !resource.can("list") || !resource.can("delete") || resource.kind == "Event" {
            continue;
        }
        let items = match session.list(resource, None, &selection).await {
            Ok((items, _)) => items,
            // A kind that was removed a moment ago has no objects.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for item in items {
            let metadata = &item["metadata"];
            let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
            found.push(Live {
                key: Key {
                    group: resource.group.clone(),
                    kind: resource.kind.clone(),
                    namespace: text("namespace"),
                    name: text("name"),
                },
                target: Target {
                    resource: resource.clone(),
                    namespace: metadata["namespace"].as_str().map(str::to_owned),
                    name: text("name"),
                },
                uid: text("uid"),
                // Controllers copy labels to what they make; only what was applied itself is ours to delete.
                owned: metadata["ownerReferences"]
                    .as_array()
                    .is_some_and(|owners| !owners.is_empty())
                    || crate::merge::last_applied(&item).is_none(),
                deleting: metadata["deletionTimestamp"].is_string(),
            });
        }
    }
    Ok(found)
}

/// The identity of another sync that the live object belongs to.
async fn belongs_elsewhere(
    session: &mut Session,
    manifest: &Manifest,
    id: &str,
) -> Result<Option<String>, Error> {
    let catalog = session.catalog().await?;
    let Some(resource) = catalog.by_kind(manifest.api_version(), manifest.kind()) else {
        return Ok(None);
    };
    let namespace = manifest.namespace().unwrap_or(&session.namespace);
    let path = resource.object(Some(namespace), manifest.name());
    let live = session.api.find(&path, "look who owns an object").await?;
    Ok(live
        .and_then(|live| {
            live["metadata"]["labels"][LABEL]
                .as_str()
                .map(str::to_owned)
        })
        .filter(|other| other != id))
}

fn warn_of_expiry(session: &mut Session, manifest: &Manifest, verbosity: Verbosity) {
    if verbosity == Verbosity::All
        && manifest.kind() == "Job"
        && !manifest.object["spec"]["ttlSecondsAfterFinished"].is_null()
    {
        session.output.say(format!(
            "Warning: {}: the job is made and run again each time its ttlSecondsAfterFinished has removed it",
            manifest.place
        ));
    }
}

async fn prune_all(
    session: &mut Session,
    dry_run: DryRun,
    prune: &[Live],
    summary: &mut Summary,
) -> Result<(), Error> {
    for live in prune {
        let label = live.target.label();
        if dry_run != DryRun::Client {
            let mut options = json!({
                "propagationPolicy": "Background",
                "preconditions": {"uid": live.uid},
            });
            if dry_run == DryRun::Server {
                options["dryRun"] = json!(["All"]);
            }
            let attempted = format!("prune {label}");
            match session
                .api
                .delete(&live.target.path(), &options, &attempted)
                .await
            {
                Ok(_) => {}
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    summary.errors += 1;
                    session.output.complain(&error);
                    continue;
                }
            }
        }
        summary.pruned += 1;
        session
            .output
            .line(format!("{label} pruned{}", dry_run.suffix()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_of_the_same_name_are_two_syncs_and_both_are_labels() {
        let one = id_of(Path::new("/a/jobs"));
        let two = id_of(Path::new("/b/jobs"));
        assert_ne!(one, two);
        assert_eq!(one, id_of(Path::new("/a/jobs")));
        for id in [
            &one,
            &two,
            &id_of(Path::new("/")),
            &id_of(Path::new("/ä ö")),
        ] {
            assert!(is_label_value(id), "{id}");
        }
        assert!(!is_label_value("a b") && !is_label_value("-a") && !is_label_value(""));
    }
}
