//! Builders for tests, and a model that applies plans: a row names only what matters to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::job_status::{Binding, Claim};
use crds::{
    ARRAY_INDEX_LABEL, ARRAY_LABEL, GANG_LABEL, GANG_RANK_LABEL, Job, JobSpec, JobStatus,
    RELEASE_FINALIZER, TALLY_FINALIZER, phase,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::{Op, Plan};

/// So many seconds after the beginning.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Builds a job.
#[derive(Clone)]
pub(crate) struct JobBuilder(Job);

/// A job in the namespace `default` that nobody has looked at yet.
pub(crate) fn job(name: &str) -> JobBuilder {
    let mut job = Job::new(name, JobSpec::default());
    job.metadata.namespace = Some("default".to_owned());
    job.metadata.uid = Some(format!("uid-of-{name}"));
    job.metadata.generation = Some(1);
    job.metadata.resource_version = Some("1000000001".to_owned());
    job.metadata.finalizers = Some(vec![RELEASE_FINALIZER.to_owned()]);
    JobBuilder(job)
}

/// A member of an array.
pub(crate) fn member_of(parent: &Job, index: u32) -> JobBuilder {
    let name = parent.metadata.name.clone().unwrap();
    let mut member = job(&format!("{name}-{index}"));
    let meta = &mut member.0.metadata;
    meta.finalizers = Some(vec![
        RELEASE_FINALIZER.to_owned(),
        TALLY_FINALIZER.to_owned(),
    ]);
    meta.labels = Some(BTreeMap::from([
        (ARRAY_LABEL.to_owned(), name.clone()),
        (ARRAY_INDEX_LABEL.to_owned(), index.to_string()),
    ]));
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "gctl.dev/v1".to_owned(),
        kind: "Job".to_owned(),
        name,
        uid: parent.metadata.uid.clone().unwrap(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    member
}

/// A member of a gang.
pub(crate) fn gang_member_of(parent: &Job, rank: u32) -> JobBuilder {
    let mut member = member_of(parent, rank);
    let name = parent.metadata.name.clone().unwrap();
    member.0.metadata.labels = Some(BTreeMap::from([
        (GANG_LABEL.to_owned(), name),
        (GANG_RANK_LABEL.to_owned(), rank.to_string()),
    ]));
    member
}

impl JobBuilder {
    pub(crate) fn spec(mut self, spec: JobSpec) -> Self {
        self.0.spec = spec;
        self
    }

    pub(crate) fn finalizers(mut self, finalizers: &[&str]) -> Self {
        let finalizers = finalizers.iter().map(|name| (*name).to_owned()).collect();
        self.0.metadata.finalizers = Some(finalizers);
        self
    }

    pub(crate) fn generation(mut self, generation: i64) -> Self {
        self.0.metadata.generation = Some(generation);
        self
    }

    pub(crate) fn deleting(mut self) -> Self {
        self.0.metadata.deletion_timestamp = Some(Time(at(90)));
        self
    }

    /// Changes the status; the phase follows.
    pub(crate) fn status(mut self, change: impl FnOnce(&mut JobStatus)) -> Self {
        let mut status = self.0.status.take().unwrap_or_default();
        change(&mut status);
        status.phase = Some(phase::derive(&status));
        self.0.status = Some(status);
        self
    }

    /// Bound to a node that has not claimed it.
    pub(crate) fn bound(self, node: &str) -> Self {
        self.status(|status| {
            status.attempt += 1;
            status.binding = Some(Binding {
                node_name: node.to_owned(),
                boot_id: Some("boot-1".to_owned()),
                ..Binding::default()
            });
        })
    }

    /// Claimed by its node.
    pub(crate) fn running(self, node: &str) -> Self {
        self.bound(node).status(|status| {
            status.claim = Some(Claim {
                node_name: node.to_owned(),
                boot_id: "boot-1".to_owned(),
                attempt: status.attempt,
                time: None,
                endpoint: None,
            });
        })
    }

    pub(crate) fn build(self) -> Arc<Job> {
        Arc::new(self.0)
    }
}

/// The job after the one write of a plan, or nothing when the plan writes nothing. Checks that the write is legal.
pub(crate) fn applied(plan: &Plan) -> Option<Arc<Job>> {
    assert!(
        plan.ops.len() <= 1,
        "one write a look is expected: {plan:?}"
    );
    let op = plan.ops.first()?;
    let mut job = match op {
        Op::JobStatus { base, .. } | Op::JobFinalizers { base, .. } => Job::clone(base),
        other => panic!("not a change of a job: {other:?}"),
    };
    match op {
        Op::JobStatus { next, .. } => {
            assert_eq!(
                next.phase,
                Some(phase::derive(next)),
                "the phase is derived"
            );
            let before = job.status.as_ref().and_then(|status| status.phase);
            let (before, after) = (before.unwrap_or_default(), next.phase.unwrap_or_default());
            assert!(phase::may_move(before, after), "{before} to {after}");
            job.status = Some(JobStatus::clone(next));
        }
        Op::JobFinalizers { next, .. } => job.metadata.finalizers = Some(next.clone()),
        _ => {}
    }
    let revision: u64 = job.metadata.resource_version.take()?.parse().ok()?;
    job.metadata.resource_version = Some((revision + 1).to_string());
    Some(Arc::new(job))
}
