//! Decides whether an ended job has been kept long enough. Pure.

use std::sync::Arc;

use crds::Job;
use jiff::Timestamp;

use crate::shell::{Op, Plan, is_deleting, is_ended, later};

/// What is known of a job.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Arc<Job>,
    /// The array it is a member of.
    pub(super) parent: Option<&'a Job>,
    pub(super) now: Timestamp,
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let job = observed.job;
    if observed.parent.is_some() || is_deleting(job) || !is_ended(job) {
        return Plan::nothing();
    }
    let (Some(ttl), Some(ended)) = (time_to_live(job), end(job)) else {
        return Plan::nothing();
    };
    let due = later(ended, ttl);
    if observed.now < due {
        return Plan::wake(due);
    }
    Plan::of(Op::DeleteJob { base: job.clone() })
}

/// Seconds from the end to the deletion.
pub(super) fn time_to_live(job: &Job) -> Option<u64> {
    let effective = || {
        let effective = job.status.as_ref()?.effective.as_ref()?;
        effective.ttl_seconds_after_finished.as_ref()
    };
    let spec = job.spec.ttl_seconds_after_finished;
    spec.or_else(|| effective().map(|ttl| ttl.value))
}

/// When the job ended; a job that was ended without a time is as old as its object.
fn end(job: &Job) -> Option<Timestamp> {
    let finished = job.status.as_ref()?.finish_time.as_ref();
    let created = job.metadata.creation_timestamp.as_ref();
    finished.map(|time| time.0).or(created.map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use crds::JobSpec;
    use crds::job_status::{Effective, Outcome, Source, Sourced};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;
    use crate::shell::testing::{JobBuilder, at, job};

    fn ended() -> JobBuilder {
        job("a").status(|status| {
            status.outcome = Some(Outcome::Succeeded);
            status.finish_time = Some(MicroTime(at(100)));
            status.effective = Some(Effective {
                ttl_seconds_after_finished: Some(Sourced {
                    value: 50,
                    source: Source::Queue,
                }),
                ..Effective::default()
            });
        })
    }

    fn spec(ttl: u64) -> JobSpec {
        JobSpec {
            ttl_seconds_after_finished: Some(ttl),
            ..JobSpec::default()
        }
    }

    fn decided(builder: JobBuilder, parent: Option<&Job>, now: i64) -> Plan {
        let job = builder.build();
        let now = at(now);
        decide(&Observed {
            job: &job,
            parent,
            now,
        })
    }

    fn deleted(builder: &JobBuilder) -> Plan {
        let base = builder.clone().build();
        Plan::of(Op::DeleteJob { base })
    }

    #[test]
    fn an_ended_job_is_deleted_when_its_time_is_over() {
        assert_eq!(decided(ended(), None, 149), Plan::wake(at(150)));
        assert_eq!(decided(ended(), None, 150), deleted(&ended()));
    }

    #[test]
    fn the_spec_has_the_last_word() {
        let shorter = ended().spec(spec(0));
        assert_eq!(decided(shorter.clone(), None, 100), deleted(&shorter));
        let longer = ended().spec(spec(u64::MAX));
        let kept = decided(longer, None, 5000);
        assert_eq!(kept, Plan::wake(Timestamp::MAX));
    }

    #[test]
    fn nothing_else_is_deleted() {
        let parent = job("p").build();
        assert_eq!(decided(ended(), Some(&parent), 500), Plan::nothing());
        assert_eq!(decided(ended().deleting(), None, 500), Plan::nothing());
        let running = job("a").spec(spec(1)).running("n");
        assert_eq!(decided(running, None, 500), Plan::nothing());
        let kept = job("a").status(|status| status.outcome = Some(Outcome::Failed));
        assert_eq!(decided(kept, None, 500), Plan::nothing());
    }
}
