//! `gctl apply`: makes objects be as manifests say, with kubectl's own three-way merge, so that both tools may take turns.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::DryRun;
use crate::api;
use crate::catalog::Resource;
use crate::error::Error;
use crate::exit::Exit;
use crate::manifest::{self, Manifest};
use crate::merge;
use crate::output::object::{self, Format};
use crate::session::{Session, Target};

/// Who owns the fields that an apply sets.
const FIELD_MANAGER: &str = "gctl-client-side-apply";
/// How often an apply is decided again after somebody else was faster (as kubectl).
const CONFLICT_LIMIT: u32 = 5;
/// How long a new kind may take until it is served.
const ESTABLISH_LIMIT: Duration = Duration::from_secs(30);

/// Arguments of `gctl apply`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// File, directory or `-` for standard input; may be given several times
    #[arg(short = 'f', long = "filename", required = true, value_name = "PATH")]
    pub filename: Vec<PathBuf>,
    /// Look into directories below a directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Change nothing: `client` only compares, `server` lets the server check everything
    #[arg(long, value_enum, default_value = "none", default_missing_value = "client", num_args = 0..=1, require_equals = true)]
    pub dry_run: DryRun,
    /// Print the objects instead: yaml, json, name or jsonpath=TEMPLATE
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub output: String,
}

/// What an apply did to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not exist.
    Created,
    /// It was changed.
    Configured,
    /// It was as the manifest says already.
    Unchanged,
}

impl Outcome {
    /// The word in result lines.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        }
    }
}

/// An object after its apply.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Which object.
    pub target: Target,
    /// What was done.
    pub outcome: Outcome,
    /// The object as the server has it now.
    pub object: Value,
}

/// Runs the command.
///
/// # Errors
/// When nothing could be tried at all; what goes wrong with one document is said and makes the exit [`Exit::Error`].
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let format: Format = args.output.parse()?;
    if matches!(format, Format::Table { wide: true }) {
        return Err(Error::Usage(
            "apply prints no table: use -o yaml, json or name".into(),
        ));
    }
    let read = manifest::read_all(&args.filename, args.recursive);
    let mut exit = Exit::Ok;
    for error in read.bad {
        session.output.complain(&error.into());
        exit = Exit::Error;
    }
    if read.good.is_empty() && exit == Exit::Ok {
        return Err(Error::State(
            "there is nothing to apply: no document was found".into(),
        ));
    }
    let mut objects = Vec::new();
    for result in apply_all(session, read.good, args.dry_run).await {
        session.say_warnings();
        match result {
            Ok(applied) => match &format {
                Format::Table { .. } => session.output.line(format!(
                    "{} {}{}",
                    applied.target.label(),
                    applied.outcome.word(),
                    args.dry_run.suffix()
                ))?,
                Format::Name => session.output.line(applied.target.label())?,
                _ => objects.push(object::presentable(applied.object)),
            },
            Err(error) => {
                session.output.complain(&error);
                exit = Exit::Error;
            }
        }
    }
    if !objects.is_empty() {
        let whole = match objects.len() {
            1 => objects.remove(0),
            _ => object::list(objects),
        };
        session
            .output
            .raw(object::render(&whole, &format).as_bytes())?;
    }
    Ok(exit)
}

/// Applies manifests: kinds first, then namespaces, then what jobs refer to, then the rest, each group in the order it was written.
pub async fn apply_all(
    session: &mut Session,
    mut manifests: Vec<Manifest>,
    dry_run: DryRun,
) -> Vec<Result<Applied, Error>> {
    manifests.sort_by_key(rank);
    let mut results = Vec::with_capacity(manifests.len());
    let mut new_kinds: Vec<Target> = Vec::new();
    let promised: Vec<Resource> = match dry_run {
        DryRun::None => Vec::new(),
        DryRun::Client | DryRun::Server => manifests.iter().filter_map(promised).collect(),
    };
    for manifest in &manifests {
        if rank(manifest) > 0 && !new_kinds.is_empty() {
            for kind in std::mem::take(&mut new_kinds) {
                if let Err(error) = established(session, &kind).await {
                    results.push(Err(error));
                }
            }
            if let Err(error) = session.refresh_catalog().await {
                results.push(Err(error));
            }
        }
        let promised = promised.iter().find(|resource| {
            resource.kind == manifest.kind() && resource.api_version() == manifest.api_version()
        });
        let result = match (apply_one(session, manifest, dry_run).await, promised) {
            // Its kind would be made by this same apply, so that the server cannot judge it yet.
            (Err(Error::UnknownResource { .. }), Some(resource)) => {
                Ok(unchecked(session, manifest, resource))
            }
            (result, _) => result,
        }
        .map_err(|error| Error::At {
            place: manifest.place.clone(),
            source: Box::new(error),
        });
        if let Ok(applied) = &result
            && rank(manifest) == 0
            && dry_run == DryRun::None
            && applied.outcome != Outcome::Unchanged
        {
            new_kinds.push(applied.target.clone());
        }
        results.push(result);
    }
    results
}

/// The kind that a CustomResourceDefinition would bring.
fn promised(manifest: &Manifest) -> Option<Resource> {
    if manifest.kind() != "CustomResourceDefinition" {
        return None;
    }
    let spec = &manifest.object["spec"];
    let names = &spec["names"];
    let kind = names["kind"].as_str()?.to_owned();
    Some(Resource {
        group: spec["group"].as_str()?.to_owned(),
        version: spec["versions"][0]["name"].as_str()?.to_owned(),
        plural: names["plural"].as_str()?.to_owned(),
        singular: names["singular"]
            .as_str()
            .map_or_else(|| kind.to_lowercase(), str::to_owned),
        kind,
        namespaced: spec["scope"] == "Namespaced",
        ..Resource::default()
    })
}

fn unchecked(session: &Session, manifest: &Manifest, resource: &Resource) -> Applied {
    let namespace = manifest.namespace().unwrap_or(&session.namespace);
    Applied {
        target: Target {
            resource: resource.clone(),
            namespace: resource.namespaced.then(|| namespace.to_owned()),
            name: manifest.name().to_owned(),
        },
        outcome: Outcome::Created,
        object: manifest.object.clone(),
    }
}

fn rank(manifest: &Manifest) -> u8 {
    match manifest.kind() {
        "CustomResourceDefinition" => 0,
        "Namespace" => 1,
        "Queue" | "Profile" | "Secret" | "ConfigMap" => 2,
        _ => 3,
    }
}

/// Applies one manifest.
///
/// # Errors
/// When its kind is unknown, its namespace contradicts the command line, or the server refuses it.
pub async fn apply_one(
    session: &mut Session,
    manifest: &Manifest,
    dry_run: DryRun,
) -> Result<Applied, Error> {
    let (target, wanted) = prepare(session, manifest).await?;
    let attempted = format!("apply {}", target.label());
    let options = api::query(&[
        ("dryRun", dry_run.query()),
        ("fieldManager", FIELD_MANAGER),
        ("fieldValidation", "Strict"),
    ]);
    let path = target.path();
    let mut tries = 0;
    loop {
        let done = |outcome, object| Applied {
            target: target.clone(),
            outcome,
            object,
        };
        let result = match session.api.find(&path, &attempted).await? {
            None => {
                let mut fresh = merge::with_last_applied(&wanted);
                if target.resource.is_job() {
                    add_release_finalizer(&mut fresh);
                }
                if dry_run == DryRun::Client {
                    return Ok(done(Outcome::Created, fresh));
                }
                let collection = target.resource.collection(target.namespace.as_deref());
                let uri = format!("{collection}{options}");
                session
                    .api
                    .create(&uri, &fresh, &attempted)
                    .await
                    .map(|object| done(Outcome::Created, object))
            }
            Some(live) => {
                let patch = patch_for(&target.resource, &wanted, &live);
                if patch.as_object().is_none_or(serde_json::Map::is_empty) {
                    return Ok(done(Outcome::Unchanged, live));
                }
                if dry_run == DryRun::Client {
                    let mut merged = live;
                    json_patch::merge(&mut merged, &patch);
                    return Ok(done(Outcome::Configured, merged));
                }
                let uri = format!("{path}{options}");
                session
                    .api
                    .patch(&uri, patch_type(&target.resource), &patch, &attempted)
                    .await
                    .map(|object| {
                        let same = object["metadata"]["resourceVersion"]
                            == live["metadata"]["resourceVersion"]
                            && dry_run == DryRun::None;
                        let outcome = if same {
                            Outcome::Unchanged
                        } else {
                            Outcome::Configured
                        };
                        done(outcome, object)
                    })
            }
        };
        match result {
            // Somebody created, changed or deleted it in between: decide again on what is there now.
            Err(error)
                if (error.is_conflict() || error.is_not_found()) && tries < CONFLICT_LIMIT =>
            {
                tries += 1;
                if error.is_not_found() && !exists_now(session, &path, &attempted).await? {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}

/// A 404 to a create means that its namespace or kind is missing, and deciding again would not help.
async fn exists_now(session: &Session, path: &str, attempted: &str) -> Result<bool, Error> {
    Ok(session.api.find(path, attempted).await?.is_some())
}

/// Where the manifest goes, and the manifest with its namespace filled in.
async fn prepare(session: &mut Session, manifest: &Manifest) -> Result<(Target, Value), Error> {
    let (api_version, kind) = (manifest.api_version(), manifest.kind());
    let known = session.catalog().await?.by_kind(api_version, kind).cloned();
    let found = match known {
        Some(found) => Some(found),
        None => session
            .refresh_catalog()
            .await?
            .by_kind(api_version, kind)
            .cloned(),
    };
    let resource = found.ok_or_else(|| Error::UnknownResource {
        name: format!("{kind} in {api_version}"),
        hint: "; apply its CustomResourceDefinition first, or correct apiVersion and kind".into(),
    })?;
    if manifest.name().is_empty() {
        return Err(Error::State(
            "metadata.generateName: Invalid value: every apply would make another object; give metadata.name, or use `gctl submit`".into(),
        ));
    }
    let mut wanted = manifest.object.clone();
    let namespace = if resource.namespaced {
        match manifest.namespace() {
            Some(own) if session.namespace_given && own != session.namespace => {
                return Err(Error::State(format!(
                    "metadata.namespace: Invalid value: \"{own}\": the command line says --namespace={}",
                    session.namespace
                )));
            }
            Some(own) => Some(own.to_owned()),
            None => {
                wanted["metadata"]["namespace"] = Value::from(session.namespace.clone());
                Some(session.namespace.clone())
            }
        }
    } else {
        if let Some(metadata) = wanted["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
        None
    };
    let target = Target {
        resource,
        namespace,
        name: manifest.name().to_owned(),
    };
    Ok((target, wanted))
}

/// The patch from the live object to what the manifest wants.
fn patch_for(resource: &Resource, wanted: &Value, live: &Value) -> Value {
    let before = merge::last_applied(live);
    let mut marked = merge::with_last_applied(wanted);
    let named = marked["metadata"]["finalizers"].is_array();
    if resource.is_job() && named && has_release_finalizer(live) {
        // A list in a merge patch replaces the whole list; ours must survive it.
        add_release_finalizer(&mut marked);
    }
    if is_built_in(resource) {
        merge::strategic(before.as_ref(), &marked, live)
    } else {
        merge::three_way(before.as_ref(), &marked, live)
    }
}

/// Kinds compiled into kubectl: it patches those strategically, and servers understand it for those alone.
fn is_built_in(resource: &Resource) -> bool {
    matches!(
        resource.group.as_str(),
        "" | "apps"
            | "authorization.k8s.io"
            | "autoscaling"
            | "batch"
            | "coordination.k8s.io"
            | "events.k8s.io"
            | "networking.k8s.io"
            | "policy"
            | "rbac.authorization.k8s.io"
            | "scheduling.k8s.io"
            | "storage.k8s.io"
    )
}

fn patch_type(resource: &Resource) -> &'static str {
    if is_built_in(resource) {
        api::STRATEGIC_PATCH
    } else {
        api::MERGE_PATCH
    }
}

fn has_release_finalizer(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| list.iter().any(|name| name == crds::RELEASE_FINALIZER))
}

/// Adds the finalizer that keeps a job until its processes are proven gone.
pub fn add_release_finalizer(job: &mut Value) {
    if has_release_finalizer(job) {
        return;
    }
    match job["metadata"]["finalizers"].as_array_mut() {
        Some(list) => list.push(Value::from(crds::RELEASE_FINALIZER)),
        None => job["metadata"]["finalizers"] = json!([crds::RELEASE_FINALIZER]),
    }
}

async fn established(session: &Session, kind: &Target) -> Result<(), Error> {
    let attempted = format!("wait until {} is served", kind.label());
    let deadline = tokio::time::Instant::now() + ESTABLISH_LIMIT;
    loop {
        let object = session.api.get(&kind.path(), api::JSON, &attempted).await?;
        let conditions = object["status"]["conditions"].as_array();
        let find = |name: &str, status: &str| {
            conditions.and_then(|conditions| {
                conditions
                    .iter()
                    .find(|condition| condition["type"] == name && condition["status"] == status)
            })
        };
        if find("Established", "True").is_some() {
            return Ok(());
        }
        let refused =
            find("NamesAccepted", "False").map(|condition| condition["message"].to_string());
        if refused.is_some() || tokio::time::Instant::now() > deadline {
            return Err(Error::State(format!(
                "failed to {attempted}: {}",
                refused.unwrap_or_else(|| format!("not within {} s", ESTABLISH_LIMIT.as_secs()))
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::samples;

    #[test]
    fn a_manifest_with_finalizers_of_its_own_keeps_the_jobs_release() {
        let jobs = samples::resource("gctl.dev", "Job", "jobs", true);
        let wanted = json!({"metadata": {"name": "x", "finalizers": ["mine"]}});
        let live = json!({"metadata": {"name": "x", "finalizers": ["gctl.dev/release"]}});
        let patch = patch_for(&jobs, &wanted, &live);
        assert_eq!(
            patch["metadata"]["finalizers"],
            json!(["mine", "gctl.dev/release"])
        );
    }

    #[test]
    fn kinds_come_before_namespaces_and_those_before_what_lives_in_them() {
        let manifest = |kind: &str| Manifest {
            place: manifest::Place {
                path: "x".into(),
                document: 1,
                line: 1,
            },
            object: json!({"kind": kind}),
        };
        let ranks: Vec<_> = ["CustomResourceDefinition", "Namespace", "Queue", "Job"]
            .map(|kind| rank(&manifest(kind)))
            .to_vec();
        assert_eq!(ranks, [0, 1, 2, 3]);
    }

    #[test]
    fn built_in_kinds_are_patched_strategically_and_others_are_merged() {
        let namespace = samples::resource("", "Namespace", "namespaces", false);
        let job = samples::resource("gctl.dev", "Job", "jobs", true);
        assert_eq!(patch_type(&namespace), api::STRATEGIC_PATCH);
        assert_eq!(patch_type(&job), api::MERGE_PATCH);
    }
}
