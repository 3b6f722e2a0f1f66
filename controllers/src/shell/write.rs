//! Executes one operation against the API server. No choice is left here.

use std::time::Duration;

use crds::{Job, LeanJob, Node, Queue};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::{NamespaceResourceScope, ObjectMeta};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde_json::{Value, json};

use super::patch::merge_patch;
use super::plan::Op;

/// Who the API server's managedFields say wrote it.
pub(crate) const FIELD_MANAGER: &str = "gctl-controllers";
/// A write without an answer for this long is taken as failed; whether it happened, the watch will tell.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to a write that succeeded.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The job as it is now.
    Job(Box<Job>),
    /// The node as it is now.
    Node(Box<Node>),
    /// The queue as it is now.
    Queue(Box<Queue>),
    /// Nothing to take in.
    Done,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The object has changed since it was seen.
    #[error("the object has changed since it was seen")]
    Conflict,
    /// There is no such object any more.
    #[error("the object is gone")]
    Gone,
    /// An object of that name exists.
    #[error("an object of that name exists already")]
    Exists,
    /// The API server will not have it.
    #[error("the API server refused the write")]
    Refused(#[source] kube::Error),
    /// No answer, or none that says whether it happened.
    #[error("the API server could not be reached")]
    Unavailable(#[source] kube::Error),
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// The object could not be written as JSON.
    #[error("the object cannot be serialised")]
    Unserialisable(#[source] serde_json::Error),
}

impl Failure {
    /// The longest pause before another try. A refusal stands until somebody mends its cause; an outage should be over
    /// for us as soon as it is over.
    pub(crate) fn longest_pause(&self) -> Duration {
        match self {
            Self::Refused(_) | Self::Unserialisable(_) => Duration::from_secs(30),
            Self::Conflict | Self::Gone | Self::Exists | Self::Unavailable(_) | Self::TimedOut => {
                Duration::from_secs(2)
            }
        }
    }

    /// Does it happen in the ordinary course of things, when others write too?
    pub(crate) fn is_expected(&self) -> bool {
        matches!(self, Self::Conflict | Self::Gone | Self::Exists)
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            return Self::Unavailable(error);
        };
        if status.is_already_exists() {
            Self::Exists
        } else if status.is_conflict() {
            Self::Conflict
        } else if status.is_not_found() {
            Self::Gone
        } else if (400..500).contains(&status.code) && status.code != 429 {
            Self::Refused(error)
        } else {
            Self::Unavailable(error)
        }
    }
}

/// Executes one operation.
pub(crate) async fn execute(client: Client, op: &Op) -> Result<Reply, Failure> {
    tokio::time::timeout(TIMEOUT, send(client, op))
        .await
        .unwrap_or(Err(Failure::TimedOut))
}

async fn send(client: Client, op: &Op) -> Result<Reply, Failure> {
    match op {
        Op::JobStatus { base, next } => {
            let patch = status_patch(&base.metadata, base.status.as_ref(), next.as_ref())?;
            let Some(patch) = patch else {
                return Ok(Reply::Done);
            };
            let jobs: Api<LeanJob> = jobs(client, &base.metadata);
            let LeanJob(job) = jobs
                .patch_status(name(&base.metadata), &params(), &Patch::Merge(&patch))
                .await?;
            Ok(Reply::Job(Box::new(job)))
        }
        Op::NodeStatus { base, next } => {
            let patch = status_patch(&base.metadata, base.status.as_ref(), next.as_ref())?;
            let Some(patch) = patch else {
                return Ok(Reply::Done);
            };
            let nodes: Api<Node> = Api::all(client);
            let node = nodes
                .patch_status(name(&base.metadata), &params(), &Patch::Merge(&patch))
                .await?;
            Ok(Reply::Node(Box::new(node)))
        }
        Op::QueueStatus { base, next } => {
            let patch = status_patch(&base.metadata, base.status.as_ref(), next.as_ref())?;
            let Some(patch) = patch else {
                return Ok(Reply::Done);
            };
            let queues: Api<Queue> = Api::all(client);
            let queue = queues
                .patch_status(name(&base.metadata), &params(), &Patch::Merge(&patch))
                .await?;
            Ok(Reply::Queue(Box::new(queue)))
        }
        Op::JobFinalizers { base, next } => {
            let patch = json!({"metadata": {
                "uid": base.metadata.uid,
                "resourceVersion": base.metadata.resource_version,
                "finalizers": next,
            }});
            let jobs: Api<LeanJob> = jobs(client, &base.metadata);
            let patched = jobs
                .patch(name(&base.metadata), &params(), &Patch::Merge(&patch))
                .await;
            // The last finalizer of a deleted job takes the job with it: its end comes by the watch, and its reply is not
            // taken in, lest it look like a job that is still there.
            match patched {
                Ok(_) if base.metadata.deletion_timestamp.is_some() && next.is_empty() => {
                    Ok(Reply::Done)
                }
                Ok(LeanJob(job)) => Ok(Reply::Job(Box::new(job))),
                Err(error) => Err(error.into()),
            }
        }
        Op::CreateJob(job) => {
            let post = PostParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            let jobs: Api<Job> = jobs(client, &job.metadata);
            Ok(Reply::Job(Box::new(jobs.create(&post, job).await?)))
        }
        Op::DeleteJob { base } => {
            let delete = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Background),
                preconditions: Some(Preconditions {
                    resource_version: base.metadata.resource_version.clone(),
                    uid: base.metadata.uid.clone(),
                }),
                ..DeleteParams::default()
            };
            let jobs: Api<Job> = jobs(client, &base.metadata);
            let deleted = jobs.delete(name(&base.metadata), &delete).await?;
            // An object that is held by finalizers comes back with its deletionTimestamp.
            Ok(deleted.left().map_or(Reply::Done, |job| {
                if job
                    .metadata
                    .finalizers
                    .as_ref()
                    .is_some_and(|held| !held.is_empty())
                {
                    Reply::Job(Box::new(job))
                } else {
                    Reply::Done
                }
            }))
        }
    }
}

/// The merge patch of a status write, bound to the version it was decided on; `None` when it would change nothing.
fn status_patch<S: Serialize>(
    meta: &ObjectMeta,
    old: Option<&S>,
    new: &S,
) -> Result<Option<Value>, Failure> {
    let value = |status: &S| serde_json::to_value(status).map_err(Failure::Unserialisable);
    let old = old.map_or(Ok(json!({})), value)?;
    let patch = merge_patch(&old, &value(new)?);
    Ok(patch.map(|status| {
        json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": status,
        })
    }))
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn jobs<K>(client: Client, meta: &ObjectMeta) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client, meta.namespace.as_deref().unwrap_or_default())
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}
