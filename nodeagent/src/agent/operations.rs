//! The calls to the API that the shell makes for one job, each as a task with one typed answer.

use std::sync::Arc;

use crds::job_status::JobStatus;
use crds::{Job, LeanJob};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value};

use super::Context;
use crate::environment::{self, NodeFacts, Secrets};
use crate::users;

/// Name under which this crate's writes are recorded.
pub(crate) const FIELD_MANAGER: &str = "gctl-nodeagent";

/// What became of a call.
#[derive(Debug)]
pub(super) enum CallError {
    /// The object changed since it was read, or is gone: read it again.
    Stale,
    /// The answer is unknown or a refusal: read again, later.
    Failed(kube::Error),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Stale,
            _ => Self::Failed(error),
        }
    }
}

/// Reads a job by name; none when it is gone or another job bears the name now.
pub(super) async fn read(
    context: Arc<Context>,
    namespace: String,
    name: String,
    uid: String,
) -> Result<Option<Job>, CallError> {
    let api: Api<LeanJob> = Api::namespaced(context.client.clone(), &namespace);
    let job = api.get_opt(&name).await.map_err(CallError::Failed)?;
    Ok(job
        .map(|LeanJob(job)| job)
        .filter(|job| job.metadata.uid.as_deref() == Some(uid.as_str())))
}

/// Writes a status on the version that was seen.
pub(super) async fn write(
    context: Arc<Context>,
    job: Arc<Job>,
    next: JobStatus,
) -> Result<Job, CallError> {
    let api: Api<LeanJob> =
        Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let old = job.status.clone().unwrap_or_default();
    let encode = |status: &JobStatus| {
        serde_json::to_value(status)
            .map_err(|error| CallError::Failed(kube::Error::SerdeError(error)))
    };
    let mut patch = Map::new();
    patch.insert(
        "metadata".to_owned(),
        serde_json::json!({ "uid": job.metadata.uid, "resourceVersion": job.metadata.resource_version }),
    );
    patch.insert(
        "status".to_owned(),
        difference(&encode(&old)?, &encode(&next)?),
    );
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let LeanJob(written) = api
        .patch_status(
            &job.name_any(),
            &params,
            &Patch::Merge(Value::Object(patch)),
        )
        .await?;
    Ok(written)
}

/// The merge patch that turns one object into another.
pub(crate) fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(key.clone(), difference(before, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

/// What became of a start.
#[derive(Debug)]
pub(super) enum StartError {
    /// The job cannot be started as it is; words for a person.
    Refused(String),
    /// Something failed that may pass.
    Later(String),
}

/// Starts the current attempt of a claimed job.
pub(super) async fn start(context: Arc<Context>, job: Arc<Job>) -> Result<(), StartError> {
    let mut secrets = Secrets::new();
    let names = environment::secrets_needed(&job);
    if !names.is_empty() {
        let api: Api<Secret> =
            Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
        for name in names {
            let secret = api
                .get_opt(&name)
                .await
                .map_err(|error| StartError::Later(crate::error_chain(&error)))?;
            if let Some(data) = secret.map(|secret| secret.data.unwrap_or_default()) {
                let data = data.into_iter().map(|(key, value)| (key, value.0));
                secrets.insert(name, data.collect());
            }
        }
    }
    let user = users::resolve(
        job.spec.run_as_user.as_deref(),
        context.options.default_user.as_deref(),
    )
    .map_err(|error| StartError::Refused(crate::error_chain(&error)))?;
    let node = NodeFacts {
        node_name: &context.options.node_name,
        boot_id: &context.facts.boot_id,
        checkpoint_root: context.options.checkpoint_root.as_deref(),
    };
    let request = environment::start_request(&job, &node, &user, &secrets)
        .map_err(|error| StartError::Refused(error.to_string()))?;
    let started = context.options.runner.start(request).await;
    started.map_err(|error| StartError::Later(crate::error_chain(&error)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_names_what_changed_and_nulls_what_went() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]});
        let new = json!({"a": 1, "b": {"c": 3}, "e": [2], "f": true});
        assert_eq!(
            difference(&old, &new),
            json!({"b": {"c": 3, "d": null}, "e": [2], "f": true})
        );
        let mut patched = old.clone();
        json_merge(&mut patched, &difference(&old, &new));
        assert_eq!(patched, new);
    }

    /// RFC 7396, in the smallest form.
    fn json_merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let target = target.as_object_mut().expect("made so above");
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                json_merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}
