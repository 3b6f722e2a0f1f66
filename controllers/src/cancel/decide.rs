//! Decides what becomes of a job that is cancelled, suspended or deleted. Pure.

use std::sync::Arc;

use crds::job_status::{Outcome, StopReason};
use crds::{Job, JobStatus, RELEASE_FINALIZER, phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::ControllerName;
use crate::shell::{
    Op, Plan, by, cancel_wanted, has_finalizer, is_deleting, is_parent, raised, rank,
    suspend_wanted, without_finalizer,
};

/// What is known of a job.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Arc<Job>,
    /// What it belongs to: its gang or array, and the array of its gang.
    pub(super) parents: &'a [&'a Job],
    pub(super) now: Timestamp,
}

/// Why a job is to end its attempt.
struct Wish {
    reason: StopReason,
    words: &'static str,
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let job = observed.job;
    let status = job.status.clone().unwrap_or_default();
    let holds = phase::held_binding(&status).is_some() && status.outcome != Some(Outcome::Lost);
    if is_deleting(job) && !holds {
        return Plan::of(
            has_finalizer(job, RELEASE_FINALIZER).then(|| Op::JobFinalizers {
                base: job.clone(),
                next: without_finalizer(job, RELEASE_FINALIZER),
            }),
        );
    }
    if status.outcome.is_some() {
        return Plan::nothing();
    }
    let Some(wish) = wish(job, observed.parents) else {
        return Plan::nothing();
    };
    if status.binding.is_some() {
        let by = by(ControllerName::Cancel);
        let next = raised(&status, wish.reason, &by, wish.words, observed.now);
        return Plan::of(next.and_then(|next| Op::job_status(job, next)));
    }
    match wish.reason {
        StopReason::Cancelled if !is_parent(job) => {
            Plan::of(Op::job_status(job, cancelled(status, observed.now)))
        }
        _ => Plan::nothing(),
    }
}

/// A job that never ran, or does not run any more, ended by its cancellation.
fn cancelled(mut status: JobStatus, now: Timestamp) -> JobStatus {
    status.outcome = Some(Outcome::Cancelled);
    status.finish_time = Some(MicroTime(now));
    status.waiting = None;
    status.message = Some("cancelled before it ran".to_owned());
    if !status.attempts.is_empty() {
        status.message = Some("cancelled while it waited to run again".to_owned());
    }
    status
}

fn wish(job: &Job, parents: &[&Job]) -> Option<Wish> {
    let in_gang = rank(job).is_some();
    let (reason, words) = if is_deleting(job) {
        (StopReason::Cancelled, "the job is deleted")
    } else if cancel_wanted(job, &[]) {
        (StopReason::Cancelled, "the job is cancelled")
    } else if cancel_wanted(job, parents) && in_gang {
        (StopReason::Cancelled, "its gang is cancelled")
    } else if cancel_wanted(job, parents) {
        (StopReason::Cancelled, "its array is cancelled")
    } else if suspend_wanted(job, &[]) {
        (StopReason::Suspended, "the job is suspended")
    } else if suspend_wanted(job, parents) && in_gang {
        (StopReason::Suspended, "its gang is suspended")
    } else if suspend_wanted(job, parents) {
        (StopReason::Suspended, "its array is suspended")
    } else {
        return None;
    };
    Some(Wish { reason, words })
}

#[cfg(test)]
mod tests {
    use crds::job::ArraySpec;
    use crds::job_status::{Release, Stop};
    use crds::{JobSpec, Phase};

    use super::*;
    use crate::shell::testing::{JobBuilder, applied, at, job, member_of};

    fn plan(job: &Arc<Job>, parent: Option<&Job>) -> Plan {
        let now = at(100);
        decide(&Observed {
            job,
            parents: parent.as_slice(),
            now,
        })
    }

    fn cancel() -> JobSpec {
        JobSpec {
            cancel: Some(true),
            ..JobSpec::default()
        }
    }

    fn suspend() -> JobSpec {
        JobSpec {
            suspend: Some(true),
            ..JobSpec::default()
        }
    }

    fn released(builder: JobBuilder) -> JobBuilder {
        builder.status(|status| {
            status.finish_time = Some(MicroTime(at(50)));
            status.release = Some(Release {
                attempt: status.attempt,
                time: None,
                lost: false,
            });
        })
    }

    /// What happens to a job until nothing happens any more, in words.
    fn story(job: JobBuilder, parent: Option<&Job>) -> Vec<String> {
        let mut job = job.build();
        let mut words = Vec::new();
        while let Some(next) = applied(&plan(&job, parent)) {
            let status = next.status.clone().unwrap_or_default();
            let stop = status.stop.as_ref().map(|stop| stop.reason);
            words.push(
                match (next.metadata.finalizers == job.metadata.finalizers, stop) {
                    (false, _) => "let go".to_owned(),
                    (true, Some(reason)) => format!("{} {reason:?}", status.phase.unwrap()),
                    (true, None) => status.phase.unwrap().to_string(),
                },
            );
            assert!(words.len() < 4, "the decision does not settle");
            job = next;
        }
        words
    }

    #[test]
    fn every_row_ends_as_it_should() {
        let stopped = |builder: JobBuilder, reason| {
            builder.status(move |status| {
                status.stop = Some(Stop {
                    attempt: status.attempt,
                    reason,
                    by: "x".to_owned(),
                    deadline: crate::shell::stop_deadline(status, at(1)),
                    message: None,
                });
            })
        };
        let rows: Vec<(&str, JobBuilder, Vec<&str>)> = vec![
            ("a plain job", job("a"), vec![]),
            (
                "cancelled while it waits",
                job("a").spec(cancel()),
                vec!["Cancelled"],
            ),
            (
                "cancelled when bound",
                job("a").spec(cancel()).bound("n"),
                vec!["Stopping Cancelled"],
            ),
            (
                "cancelled when it runs",
                job("a").spec(cancel()).running("n"),
                vec!["Stopping Cancelled"],
            ),
            (
                "cancelled while it is suspended",
                stopped(job("a").spec(cancel()).running("n"), StopReason::Suspended),
                vec!["Stopping Cancelled"],
            ),
            ("suspended while it waits", job("a").spec(suspend()), vec![]),
            (
                "suspended when it runs",
                job("a").spec(suspend()).running("n"),
                vec!["Stopping Suspended"],
            ),
            (
                "suspended after it was cancelled",
                stopped(job("a").spec(suspend()).running("n"), StopReason::Cancelled),
                vec![],
            ),
            (
                "deleted while it waits",
                job("a").deleting(),
                vec!["let go"],
            ),
            (
                "deleted while it runs",
                job("a").running("n").deleting(),
                vec!["Stopping Cancelled"],
            ),
            (
                "deleted after its end",
                released(job("a").running("n")).deleting(),
                vec!["let go"],
            ),
            (
                "deleted after its end, and something of it is left",
                job("a")
                    .running("n")
                    .deleting()
                    .status(|s| s.outcome = Some(Outcome::Failed)),
                vec![],
            ),
            (
                "deleted, ended and lost",
                job("a")
                    .running("n")
                    .deleting()
                    .status(|s| s.outcome = Some(Outcome::Lost)),
                vec!["let go"],
            ),
            (
                "deleted and let go",
                job("a").finalizers(&["x"]).deleting(),
                vec![],
            ),
            (
                "an ended job that is cancelled",
                job("a")
                    .spec(cancel())
                    .status(|s| s.outcome = Some(Outcome::Failed)),
                vec![],
            ),
        ];
        for (name, builder, expected) in rows {
            assert_eq!(story(builder, None), expected, "{name}");
        }
    }

    #[test]
    fn a_member_is_cancelled_and_suspended_with_its_array() {
        let parent = job("p").spec(cancel()).build();
        let waiting = member_of(&parent, 0);
        assert_eq!(story(waiting, Some(&parent)), ["Cancelled"]);
        let running = member_of(&parent, 0).running("n");
        assert_eq!(story(running, Some(&parent)), ["Stopping Cancelled"]);
        let parent = job("p").spec(suspend()).build();
        let running = member_of(&parent, 0).running("n");
        assert_eq!(story(running, Some(&parent)), ["Stopping Suspended"]);
    }

    #[test]
    fn the_parent_of_an_array_or_gang_is_left_to_their_controllers() {
        let mut spec = cancel();
        spec.array = Some(ArraySpec::default());
        assert!(story(job("p").spec(spec), None).is_empty());
        let mut spec = cancel();
        spec.replicas = Some(2);
        assert!(story(job("p").spec(spec), None).is_empty());
    }

    #[test]
    fn an_unknown_job_is_asked_to_stop_all_the_same() {
        let silent = job("a").spec(cancel()).running("n");
        let silent = silent.status(|status| status.node_silent = true).build();
        let next = applied(&plan(&silent, None)).unwrap();
        let status = next.status.as_ref().unwrap();
        assert_eq!(status.phase, Some(Phase::Unknown));
        assert_eq!(status.stop.as_ref().unwrap().reason, StopReason::Cancelled);
    }
}
