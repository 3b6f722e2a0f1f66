//! The member of a gang with a given rank. Pure.

use crds::{GANG_LABEL, GANG_RANK_LABEL, Job, JobSpec};

use crate::shell::{child, child_spec};

/// The member of a gang with a given rank.
pub(super) fn member(parent: &Job, rank: u32) -> Job {
    let gang = parent.metadata.name.as_deref().unwrap_or_default();
    let labels = [
        (GANG_LABEL, gang.to_owned()),
        (GANG_RANK_LABEL, rank.to_string()),
    ];
    let spec = JobSpec {
        replicas: None,
        ..child_spec(&parent.spec)
    };
    child(parent, rank, labels, spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::testing::job;
    use crate::shell::{owner, rank};

    #[test]
    fn a_member_is_its_gang_s_job_once_and_knows_its_rank() {
        let spec = JobSpec {
            command: vec!["train".to_owned()],
            replicas: Some(4),
            priority: Some(7),
            cancel: Some(true),
            suspend: Some(true),
            ttl_seconds_after_finished: Some(60),
            ..JobSpec::default()
        };
        let parent = job("train").spec(spec).build();
        let member = member(&parent, 2);
        assert_eq!(member.metadata.name.as_deref(), Some("train-2"));
        assert_eq!(rank(&member), Some(2));
        assert_eq!(
            owner(&member).map(|owner| &*owner.uid),
            Some("uid-of-train")
        );
        let expected = JobSpec {
            command: vec!["train".to_owned()],
            priority: Some(7),
            ..JobSpec::default()
        };
        assert_eq!(member.spec, expected);
    }
}
