//! The member of an array with a given index. Pure.

use std::collections::BTreeMap;

use crds::job::EnvVar;
use crds::{
    ARRAY_INDEX_LABEL, ARRAY_LABEL, GROUP, Job, JobSpec, RELEASE_FINALIZER, TALLY_FINALIZER,
    VERSION,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;

/// What is replaced by the index.
const PLACEHOLDER: &str = "{i}";
/// Longest name of a member: it is also the name of its directories, and the parent's name becomes a label.
const MAX_NAME: usize = 253;
/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// The name of a member.
pub(super) fn name(parent: &str, index: u32) -> String {
    format!("{parent}-{index}")
}

/// Why an array of this name and size cannot have members, if it cannot.
pub(super) fn name_problem(parent: &str, total: u32) -> Option<String> {
    let longest = name(parent, total.saturating_sub(1)).len();
    if parent.len() > MAX_LABEL {
        let length = parent.len();
        Some(format!(
            "the name has {length} characters; the name of an array becomes a label of its members, which may have {MAX_LABEL}"
        ))
    } else if longest > MAX_NAME {
        Some(format!(
            "the names of its members would have {longest} characters; {MAX_NAME} are allowed"
        ))
    } else {
        None
    }
}

/// The member of an array with a given index.
pub(super) fn member(parent: &Job, index: u32) -> Job {
    let array = parent.metadata.name.as_deref().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = parent.metadata.labels.clone().unwrap_or_default();
    labels.insert(ARRAY_LABEL.to_owned(), array.to_owned());
    labels.insert(ARRAY_INDEX_LABEL.to_owned(), index.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(name(array, index)),
            namespace: parent.metadata.namespace.clone(),
            labels: Some(labels),
            finalizers: Some(vec![
                RELEASE_FINALIZER.to_owned(),
                TALLY_FINALIZER.to_owned(),
            ]),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{GROUP}/{VERSION}"),
                kind: "Job".to_owned(),
                name: array.to_owned(),
                uid: parent.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: spec(&parent.spec, index),
        status: None,
    }
}

/// Cancel, suspension and deletion reach a member through its parent, so its own spec does not repeat them.
fn spec(parent: &JobSpec, index: u32) -> JobSpec {
    let index = index.to_string();
    let put = |text: &String| text.replace(PLACEHOLDER, &index);
    JobSpec {
        command: parent.command.iter().map(put).collect(),
        script: parent.script.as_ref().map(put),
        env: parent
            .env
            .iter()
            .map(|variable| EnvVar {
                value: variable.value.as_ref().map(put),
                ..variable.clone()
            })
            .collect(),
        array: None,
        cancel: None,
        suspend: None,
        ttl_seconds_after_finished: None,
        ..parent.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::testing::job;

    #[test]
    fn the_index_is_put_in_literally_and_nothing_else_is_touched() {
        let text = |text: &str| Some(text.to_owned());
        let variable = |name: &str, value| EnvVar {
            name: name.to_owned(),
            value,
            value_from: None,
        };
        let parent = job("sweep")
            .spec(JobSpec {
                command: vec![
                    "run".to_owned(),
                    "{i}-{i}".to_owned(),
                    "${i} {x} {{i}}".to_owned(),
                ],
                script: text("echo {i}\n{\"a\": 1}"),
                env: vec![variable("SHARD", text("s{i}")), variable("{i}", None)],
                priority: Some(3),
                cancel: Some(true),
                ..JobSpec::default()
            })
            .build();
        let member = member(&parent, 12);
        let command = ["run", "12-12", "$12 {x} {12}"];
        assert_eq!(member.spec.command, command);
        assert_eq!(member.spec.script, text("echo 12\n{\"a\": 1}"));
        assert_eq!(member.spec.env[0].value, text("s12"));
        assert_eq!(member.spec.env[1].name, "{i}");
        assert_eq!(member.spec.priority, Some(3));
        assert_eq!(member.spec.cancel, None);
        assert_eq!(member.spec.array, None);
    }

    #[test]
    fn a_member_is_owned_labelled_and_held() {
        let parent = job("sweep").build();
        let meta = member(&parent, 0).metadata;
        assert_eq!(meta.name.as_deref(), Some("sweep-0"));
        assert_eq!(meta.namespace.as_deref(), Some("default"));
        let owner = &meta.owner_references.unwrap()[0];
        assert_eq!(
            (owner.uid.as_str(), owner.controller),
            ("uid-of-sweep", Some(true))
        );
        let labels = meta.labels.unwrap();
        assert_eq!(labels[ARRAY_LABEL], "sweep");
        assert_eq!(labels[ARRAY_INDEX_LABEL], "0");
        assert_eq!(
            meta.finalizers.unwrap(),
            [RELEASE_FINALIZER, TALLY_FINALIZER]
        );
    }

    #[test]
    fn a_name_that_is_too_long_is_told_before_anything_is_made() {
        assert_eq!(name_problem(&"a".repeat(63), 1000), None);
        let problem = name_problem(&"a".repeat(64), 1).unwrap();
        assert!(problem.contains("64 characters"));
    }
}
