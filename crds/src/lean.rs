//! A job as components read it: without `managedFields`, which none of them reads.
//!
//! They are the larger half of a job that a few components have written to, and as a tree of maps they cost more to take
//! in than all the rest. [`LeanJob`] passes over them while it decodes. Write it back only as a patch.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

use crate::{Job, JobSpec, JobStatus};

/// A [`Job`] whose `managedFields` were not decoded.
#[derive(Clone, Debug)]
pub struct LeanJob(pub Job);

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: Meta,
    spec: JobSpec,
    #[serde(default)]
    status: Option<JobStatus>,
}

/// The fields of `ObjectMeta`, but for one.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    self_link: Option<String>,
    uid: Option<String>,
}

impl<'de> Deserialize<'de> for LeanJob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let meta = wire.metadata;
        Ok(Self(Job {
            metadata: ObjectMeta {
                annotations: meta.annotations,
                creation_timestamp: meta.creation_timestamp,
                deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
                deletion_timestamp: meta.deletion_timestamp,
                finalizers: meta.finalizers,
                generate_name: meta.generate_name,
                generation: meta.generation,
                labels: meta.labels,
                managed_fields: None,
                name: meta.name,
                namespace: meta.namespace,
                owner_references: meta.owner_references,
                resource_version: meta.resource_version,
                self_link: meta.self_link,
                uid: meta.uid,
            },
            spec: wire.spec,
            status: wire.status,
        }))
    }
}

impl Resource for LeanJob {
    type DynamicType = <Job as Resource>::DynamicType;
    type Scope = <Job as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        Job::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Job::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Job::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Job::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_but_the_managed_fields_is_as_in_a_job() {
        let document = json!({
            "apiVersion": "gctl.dev/v1",
            "kind": "Job",
            "metadata": {
                "annotations": {"a": "1"},
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "deletionGracePeriodSeconds": 7,
                "deletionTimestamp": "2026-01-02T03:04:06Z",
                "finalizers": [crate::RELEASE_FINALIZER],
                "generateName": "train-",
                "generation": 3,
                "labels": {"l": "2"},
                "managedFields": [{
                    "manager": "m", "operation": "Update", "apiVersion": "gctl.dev/v1",
                    "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}},
                }],
                "name": "train-1",
                "namespace": "n",
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "u0"}],
                "resourceVersion": "1000000007",
                "selfLink": "/s",
                "uid": "u1",
                "aFieldOfAnotherYear": true,
            },
            "spec": {"command": ["/bin/true"], "priority": 4},
            "status": {"phase": "Running", "attempt": 2},
        });
        let mut whole: Job = serde_json::from_value(document.clone()).expect("a job");
        let lean: LeanJob = serde_json::from_value(document).expect("a job");
        assert!(whole.metadata.managed_fields.take().is_some());
        assert_eq!(lean.0, whole);
    }

    #[test]
    fn a_job_without_status_and_with_nulls_is_read() {
        let text = r#"{"metadata": {"name": "a", "labels": null}, "spec": {"command": ["x"]}, "status": null}"#;
        let lean: LeanJob = serde_json::from_str(text).expect("a job");
        assert_eq!(lean.0.metadata.name.as_deref(), Some("a"));
        assert_eq!(lean.0.status, None);
    }
}
