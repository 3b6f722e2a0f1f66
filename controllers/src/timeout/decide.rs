//! Decides whether a job has run or waited too long. Pure.

use std::sync::Arc;

use crds::job_status::{Outcome, StopReason};
use crds::{Job, JobStatus, Phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::ControllerName;
use crate::shell::{Op, Plan, by, is_deleting, later, raised, rank, suspend_wanted};

/// How long the agent has for enforcing the limit itself: it sees the start first and needs no round trip.
const AGENT_HEAD_START_SECS: u64 = 5;

/// What is known of a job.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Arc<Job>,
    /// What it belongs to: its gang or array, and the array of its gang.
    pub(super) parents: &'a [&'a Job],
    pub(super) now: Timestamp,
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let job = observed.job;
    let Some(status) = job
        .status
        .as_ref()
        .filter(|status| status.outcome.is_none())
    else {
        return Plan::nothing();
    };
    if status.binding.is_some() {
        run_limit(job, status, observed.now)
    } else if is_deleting(job)
        || suspend_wanted(job, observed.parents)
        || job.spec.array.is_some()
        || rank(job).is_some()
        || status.phase.is_some_and(|phase| phase != Phase::Pending)
    {
        // A gang waits as a whole, until each of its members has a node.
        Plan::nothing()
    } else {
        wait_limit(job, status, observed.now)
    }
}

fn run_limit(job: &Arc<Job>, status: &JobStatus, now: Timestamp) -> Plan {
    let Some(effective) = &status.effective else {
        return Plan::nothing();
    };
    let limit = effective.time_limit();
    let (Some(limit), Some(start), None) = (limit, &status.start_time, &status.finish_time) else {
        return Plan::nothing();
    };
    let due = later(start.0, limit.saturating_add(AGENT_HEAD_START_SECS));
    if now < due {
        return Plan::wake(due);
    }
    let words = effective.limit_words();
    let by = by(ControllerName::Timeout);
    let next = raised(status, StopReason::TimedOut, &by, &words, now);
    Plan::of(next.and_then(|next| Op::job_status(job, next)))
}

fn wait_limit(job: &Arc<Job>, status: &JobStatus, now: Timestamp) -> Plan {
    let limit = match &status.effective {
        Some(effective) => effective.pending_deadline_seconds.as_ref().map(|l| l.value),
        // A withheld job waits like any other.
        None => job.spec.pending_deadline_seconds,
    };
    let (Some(limit), Some(since)) = (limit, waits_since(status)) else {
        return Plan::nothing();
    };
    let due = later(since, limit);
    if now < due {
        return Plan::wake(due);
    }
    let mut next = status.clone();
    next.outcome = Some(Outcome::TimedOut);
    next.finish_time = Some(MicroTime(now));
    let why = next.waiting.take().map(|waiting| {
        let detail = waiting.message.map(|text| format!(", {text}"));
        format!(": {}{}", waiting.reason, detail.unwrap_or_default())
    });
    let why = why.unwrap_or_default();
    next.message = Some(format!("it waited for its limit of {limit} s{why}"));
    Plan::of(Op::job_status(job, next))
}

/// Since when the job waits: since it was queued, or since its last attempt that ran.
fn waits_since(status: &JobStatus) -> Option<Timestamp> {
    let ran = status.attempts.iter().rev();
    let mut last = ran.filter(|attempt| attempt.start_time.is_some());
    let ended = last.find_map(|attempt| attempt.finish_time.as_ref());
    let queued = status.enqueue_time.as_ref();
    queued.into_iter().chain(ended).map(|time| time.0).max()
}

/// Could the job ever be of interest here?
pub(super) fn has_limit(job: &Job) -> bool {
    let effective = job.status.as_ref().and_then(|s| s.effective.as_ref());
    job.spec.pending_deadline_seconds.is_some()
        || effective.is_some_and(|effective| {
            effective.time_limit().is_some() || effective.pending_deadline_seconds.is_some()
        })
}

#[cfg(test)]
mod tests {
    use crds::JobSpec;
    use crds::job::ArraySpec;
    use crds::job_status::{AttemptRecord, Effective, Sourced};

    use super::*;
    use crate::shell::testing::{JobBuilder, applied, at, job};

    fn limits(active: Option<u64>, pending: Option<u64>) -> impl FnOnce(&mut JobStatus) {
        let sourced = |value| Sourced {
            value,
            ..Sourced::default()
        };
        move |status| {
            status.enqueue_time = Some(MicroTime(at(10)));
            status.effective = Some(Effective {
                active_deadline_seconds: active.map(sourced),
                pending_deadline_seconds: pending.map(sourced),
                ..Effective::default()
            });
        }
    }

    fn started(builder: JobBuilder, seconds: i64) -> JobBuilder {
        builder.status(|status| status.start_time = Some(MicroTime(at(seconds))))
    }

    /// The phase after the decision, or when to look again.
    fn decided(builder: &JobBuilder, now: i64) -> (Option<Phase>, Option<Timestamp>) {
        let job = builder.clone().build();
        let now = at(now);
        let plan = decide(&Observed {
            job: &job,
            parents: &[],
            now,
        });
        let next = applied(&plan);
        if let Some(job) = &next {
            let again = decide(&Observed {
                job,
                parents: &[],
                now,
            });
            assert!(again.ops.is_empty(), "the decision settles");
        }
        let phase = next.and_then(|job| job.status.as_ref()?.phase);
        (phase, plan.look_again)
    }

    #[test]
    fn a_run_is_stopped_a_little_after_its_limit() {
        let run = started(job("a").running("n").status(limits(Some(60), None)), 100);
        assert_eq!(decided(&run, 164), (None, Some(at(165))));
        assert_eq!(decided(&run, 165), (Some(Phase::Stopping), None));
    }

    #[test]
    fn a_run_without_a_start_or_after_its_end_is_left_alone() {
        let claimed = job("a").running("n").status(limits(Some(60), Some(1)));
        assert_eq!(decided(&claimed, 999), (None, None));
        let ended = started(claimed, 100);
        let ended = ended.status(|status| status.finish_time = Some(MicroTime(at(120))));
        assert_eq!(decided(&ended, 999), (None, None));
    }

    #[test]
    fn a_wait_ends_at_its_limit() {
        let waiting = job("a").status(limits(None, Some(30)));
        assert_eq!(decided(&waiting, 39), (None, Some(at(40))));
        assert_eq!(decided(&waiting, 40), (Some(Phase::TimedOut), None));
    }

    #[test]
    fn a_wait_after_a_run_counts_from_the_end_of_that_run() {
        let record = |start: Option<i64>, finish| AttemptRecord {
            start_time: start.map(|seconds| MicroTime(at(seconds))),
            finish_time: Some(MicroTime(at(finish))),
            ..AttemptRecord::default()
        };
        let requeued = job("a").status(limits(None, Some(30))).status(|status| {
            status.attempts = vec![record(Some(20), 500), record(None, 510)];
        });
        assert_eq!(decided(&requeued, 529), (None, Some(at(530))));
        assert_eq!(decided(&requeued, 530), (Some(Phase::TimedOut), None));
    }

    #[test]
    fn a_withheld_job_has_the_limit_of_its_spec() {
        let spec = JobSpec {
            pending_deadline_seconds: Some(5),
            ..JobSpec::default()
        };
        let withheld = job("a").spec(spec).status(|status| {
            status.enqueue_time = Some(MicroTime(at(10)));
        });
        assert_eq!(decided(&withheld, 15), (Some(Phase::TimedOut), None));
    }

    #[test]
    fn suspended_and_deleted_jobs_and_arrays_do_not_time_out_while_they_wait() {
        let waiting = job("a").status(limits(None, Some(30)));
        assert_eq!(decided(&waiting.clone().deleting(), 99), (None, None));
        let suspended = JobSpec {
            suspend: Some(true),
            ..JobSpec::default()
        };
        assert_eq!(decided(&waiting.clone().spec(suspended), 99), (None, None));
        let array = JobSpec {
            array: Some(ArraySpec::default()),
            ..JobSpec::default()
        };
        assert_eq!(decided(&waiting.spec(array), 99), (None, None));
    }

    #[test]
    fn the_message_keeps_what_the_job_waited_for() {
        let waiting = job("a").status(limits(None, Some(30))).status(|status| {
            status.waiting = Some(crds::job_status::Waiting {
                reason: "InsufficientVram".to_owned(),
                message: Some("needs 40Gi".to_owned()),
                since: None,
                reservation: None,
            });
        });
        let job = waiting.build();
        let next = applied(&decide(&Observed {
            job: &job,
            parents: &[],
            now: at(40),
        }))
        .unwrap();
        let message = next.status.as_ref().unwrap().message.clone().unwrap();
        assert!(message.ends_with(": InsufficientVram, needs 40Gi"));
    }
}
