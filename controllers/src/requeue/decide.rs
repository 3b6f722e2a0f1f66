//! Decides what becomes of a job whose attempt has ended. Pure.

use std::sync::Arc;

use crds::job::{OnNodeLost, OnPreemption};
use crds::job_status::{Outcome, StopReason};
use crds::{Job, JobStatus, phase};

use crate::shell::{Op, Plan, bound_attempt_ended, cancel_wanted, is_deleting, rank};

/// What is known of a job.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Arc<Job>,
    /// What it belongs to: its gang or array, and the array of its gang.
    pub(super) parents: &'a [&'a Job],
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let job = observed.job;
    let Some(status) = &job.status else {
        return Plan::nothing();
    };
    // What becomes of a member of a gang is decided for all of it.
    let of_gang = rank(job).is_some() && !observed.parents.is_empty();
    if !bound_attempt_ended(status) || of_gang {
        return Plan::nothing();
    }
    let next = if is_deleting(job) || cancel_wanted(job, observed.parents) {
        ended(status, Outcome::Cancelled)
    } else {
        match phase::current_stop(status).map(|stop| stop.reason) {
            Some(StopReason::Preempted) => preempted(status),
            Some(StopReason::Drained) => phase::requeue(status, "its node was drained"),
            Some(StopReason::Suspended) => phase::requeue(status, "it was suspended"),
            Some(StopReason::TimedOut) => ended(status, Outcome::TimedOut),
            Some(StopReason::Cancelled) => ended(status, Outcome::Cancelled),
            None if is_lost(status) => lost(status),
            None if status.exit_code == Some(0) => ended(status, Outcome::Succeeded),
            None => ended(status, Outcome::Failed),
        }
    };
    Plan::of(Op::job_status(job, next))
}

fn preempted(status: &JobStatus) -> JobStatus {
    let effective = status.effective.as_ref();
    match effective.map_or(OnPreemption::default(), |e| e.on_preemption.value) {
        OnPreemption::Requeue => phase::requeue(status, &preempted_for(status)),
        OnPreemption::Stop => ended(status, Outcome::Preempted),
    }
}

/// Whom it made room for, as far as the stop says.
fn preempted_for(status: &JobStatus) -> String {
    let stop = phase::current_stop(status);
    match stop.and_then(|stop| stop.message.as_deref()) {
        Some(why) => format!("it was preempted: {why}"),
        None => "it was preempted".to_owned(),
    }
}

/// Did nobody see how the attempt ended?
fn is_lost(status: &JobStatus) -> bool {
    let release = status.release.as_ref();
    release.is_some_and(|release| release.attempt == status.attempt && release.lost)
}

/// Such an end says nothing of the job itself, so no retry is counted.
fn lost(status: &JobStatus) -> JobStatus {
    let effective = status.effective.as_ref();
    match effective.map_or(OnNodeLost::Wait, |e| e.on_node_lost.value) {
        OnNodeLost::Requeue => {
            let reason = status.message.as_deref();
            phase::requeue(status, reason.unwrap_or("its end was not seen"))
        }
        OnNodeLost::Wait => ended(status, Outcome::Failed),
    }
}

fn ended(status: &JobStatus, outcome: Outcome) -> JobStatus {
    let mut next = status.clone();
    next.outcome = Some(outcome);
    next
}

#[cfg(test)]
mod tests {
    use crds::job_status::{Effective, Release, Sourced, Stop};
    use crds::{JobSpec, Phase};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;
    use crate::shell::testing::{JobBuilder, applied, at, job, member_of};

    fn finished(exit: i32) -> JobBuilder {
        job("a").running("n").status(|status| {
            status.finish_time = Some(MicroTime(at(50)));
            status.exit_code = Some(exit);
        })
    }

    fn released(builder: JobBuilder) -> JobBuilder {
        builder.status(|status| {
            status.release = Some(Release {
                attempt: status.attempt,
                time: None,
                lost: false,
            });
        })
    }

    fn stopped(builder: JobBuilder, reason: StopReason) -> JobBuilder {
        released(builder).status(|status| {
            status.stop = Some(Stop {
                attempt: status.attempt,
                reason,
                by: "x".to_owned(),
                deadline: crate::shell::stop_deadline(status, at(1)),
                message: None,
            });
        })
    }

    fn decided(job: &Arc<Job>, parent: Option<&Job>) -> Option<Phase> {
        let parents = parent.as_slice();
        let next = applied(&decide(&Observed { job, parents }))?;
        let again = decide(&Observed {
            job: &next,
            parents,
        });
        assert_eq!(again, Plan::nothing(), "the decision settles");
        next.status.as_ref()?.phase
    }

    #[test]
    fn an_end_that_nobody_saw_is_followed_by_what_the_job_asks_for() {
        let requeues = |status: &mut JobStatus| {
            status.effective = Some(Effective {
                on_node_lost: Sourced {
                    value: OnNodeLost::Requeue,
                    ..Sourced::default()
                },
                ..Effective::default()
            });
        };
        let lost = |builder: JobBuilder| {
            released(builder).status(|status| {
                status.exit_code = None;
                status.release.as_mut().unwrap().lost = true;
            })
        };
        let rows = [
            (
                "lost with its node, and runs again",
                lost(finished(0)).status(requeues),
                Phase::Pending,
            ),
            (
                "lost with its node, and waits",
                lost(finished(0)),
                Phase::Failed,
            ),
            (
                "lost with its node while it was cancelled",
                stopped(finished(0), StopReason::Cancelled).status(|status| {
                    requeues(status);
                    status.release.as_mut().unwrap().lost = true;
                }),
                Phase::Cancelled,
            ),
        ];
        for (name, builder, expected) in rows {
            assert_eq!(decided(&builder.build(), None), Some(expected), "{name}");
        }
    }

    #[test]
    fn every_row_ends_as_it_should() {
        let cancelled = JobSpec {
            cancel: Some(true),
            ..JobSpec::default()
        };
        let stays = |status: &mut JobStatus| {
            status.effective = Some(Effective {
                on_preemption: Sourced {
                    value: OnPreemption::Stop,
                    ..Sourced::default()
                },
                ..Effective::default()
            });
        };
        let rows = vec![
            ("running", job("a").running("n"), None),
            ("ended, not released", finished(1), None),
            ("waiting", job("a").status(|_| ()), None),
            (
                "preempted",
                stopped(finished(143), StopReason::Preempted),
                Some(Phase::Pending),
            ),
            (
                "preempted for good",
                stopped(finished(143), StopReason::Preempted).status(stays),
                Some(Phase::Preempted),
            ),
            (
                "preempted, and ended well after it had saved itself",
                stopped(finished(0), StopReason::Preempted),
                Some(Phase::Pending),
            ),
            (
                "preempted for good, and ended well after it had saved itself",
                stopped(finished(0), StopReason::Preempted).status(stays),
                Some(Phase::Preempted),
            ),
            (
                "drained",
                stopped(finished(143), StopReason::Drained),
                Some(Phase::Pending),
            ),
            (
                "drained, and would stop when preempted",
                stopped(finished(143), StopReason::Drained).status(stays),
                Some(Phase::Pending),
            ),
            (
                "suspended",
                stopped(finished(143), StopReason::Suspended),
                Some(Phase::Pending),
            ),
            (
                "drained and cancelled",
                stopped(finished(143), StopReason::Drained).spec(cancelled),
                Some(Phase::Cancelled),
            ),
            (
                "drained and deleted",
                stopped(finished(143), StopReason::Drained).deleting(),
                Some(Phase::Cancelled),
            ),
            (
                "timed out",
                stopped(finished(143), StopReason::TimedOut),
                Some(Phase::TimedOut),
            ),
            (
                "left alone after a failure",
                released(finished(3)),
                Some(Phase::Failed),
            ),
            (
                "left alone after success",
                released(finished(0)),
                Some(Phase::Succeeded),
            ),
            (
                "ended already",
                released(finished(0)).status(|s| s.outcome = Some(Outcome::Succeeded)),
                None,
            ),
        ];
        for (name, builder, expected) in rows {
            assert_eq!(decided(&builder.build(), None), expected, "{name}");
        }
    }

    #[test]
    fn a_requeued_job_keeps_its_place_and_remembers_the_attempt() {
        let job = stopped(finished(143), StopReason::Drained)
            .status(|status| status.enqueue_time = Some(MicroTime(at(2))))
            .build();
        let next = applied(&decide(&Observed {
            job: &job,
            parents: &[],
        }))
        .unwrap();
        let status = next.status.as_ref().unwrap();
        assert_eq!(status.enqueue_time, Some(MicroTime(at(2))));
        assert_eq!(status.attempt, 1);
        assert_eq!(status.binding, None);
        assert_eq!(status.attempts.last().unwrap().exit_code, Some(143));
    }

    #[test]
    fn a_member_of_a_cancelled_array_does_not_come_back() {
        let spec = JobSpec {
            cancel: Some(true),
            ..JobSpec::default()
        };
        let parent = job("p").spec(spec).build();
        let member = member_of(&parent, 1).running("n").status(|status| {
            status.finish_time = Some(MicroTime(at(50)));
        });
        let member = stopped(member, StopReason::Drained).build();
        assert_eq!(decided(&member, Some(&parent)), Some(Phase::Cancelled));
    }
}
