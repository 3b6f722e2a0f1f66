//! Jobs that are made of another job: their names, and what ties them to it. Pure.

use crds::{GROUP, Job, JobSpec, RELEASE_FINALIZER, TALLY_FINALIZER, VERSION};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;

/// Longest name of a member: it is also the name of its directories, and the parent's name becomes a label.
const MAX_NAME: usize = 253;
/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// The name of a member.
pub(crate) fn child_name(parent: &str, index: u32) -> String {
    format!("{parent}-{index}")
}

/// Why a parent of this name and size cannot have members, if it cannot. `what` it is, such as `an array`.
pub(crate) fn name_problem(what: &str, parent: &str, total: u32) -> Option<String> {
    let longest = child_name(parent, total.saturating_sub(1)).len();
    if parent.len() > MAX_LABEL {
        let length = parent.len();
        Some(format!(
            "the name has {length} characters; the name of {what} becomes a label of its members, which may have {MAX_LABEL}"
        ))
    } else if longest > MAX_NAME {
        Some(format!(
            "the names of its members would have {longest} characters; {MAX_NAME} are allowed"
        ))
    } else {
        None
    }
}

/// A member: owned by its parent, with its labels and these, and kept until the parent has taken note of its end.
pub(crate) fn child(parent: &Job, index: u32, labels: [(&str, String); 2], spec: JobSpec) -> Job {
    let name = parent.metadata.name.as_deref().unwrap_or_default();
    let mut all = parent.metadata.labels.clone().unwrap_or_default();
    all.extend(labels.map(|(key, value)| (key.to_owned(), value)));
    Job {
        metadata: ObjectMeta {
            name: Some(child_name(name, index)),
            namespace: parent.metadata.namespace.clone(),
            labels: Some(all),
            finalizers: Some(vec![
                RELEASE_FINALIZER.to_owned(),
                TALLY_FINALIZER.to_owned(),
            ]),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{GROUP}/{VERSION}"),
                kind: "Job".to_owned(),
                name: name.to_owned(),
                uid: parent.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// What a member does not repeat: cancel, suspension and deletion reach it through its parent.
pub(crate) fn child_spec(parent: &JobSpec) -> JobSpec {
    JobSpec {
        cancel: None,
        suspend: None,
        ttl_seconds_after_finished: None,
        ..parent.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_is_told_before_anything_is_made() {
        assert_eq!(name_problem("an array", &"a".repeat(63), 1000), None);
        let problem = name_problem("an array", &"a".repeat(64), 1).unwrap();
        assert!(problem.contains("64 characters"));
    }
}
