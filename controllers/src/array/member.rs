//! The member of an array with a given index. Pure.

use crds::job::EnvVar;
use crds::{ARRAY_INDEX_LABEL, ARRAY_LABEL, GANG_LABEL, GANG_RANK_LABEL, Job, JobSpec};

use crate::shell::{child, child_spec};

/// What is replaced by the index.
const PLACEHOLDER: &str = "{i}";

/// The member of an array with a given index.
pub(super) fn member(parent: &Job, index: u32) -> Job {
    let array = parent.metadata.name.as_deref().unwrap_or_default();
    let labels = [
        (ARRAY_LABEL, array.to_owned()),
        (ARRAY_INDEX_LABEL, index.to_string()),
    ];
    let mut member = child(parent, index, labels, spec(&parent.spec, index));
    // It may be a gang's parent, and is never a gang's member.
    if let Some(labels) = &mut member.metadata.labels {
        labels.remove(GANG_LABEL);
        labels.remove(GANG_RANK_LABEL);
    }
    member
}

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
        ..child_spec(parent)
    }
}

#[cfg(test)]
mod tests {
    use crds::{RELEASE_FINALIZER, TALLY_FINALIZER};

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
}
