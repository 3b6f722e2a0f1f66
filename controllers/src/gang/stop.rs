//! How a generation of a gang is stopped, and how a gang ends. Pure.

use std::sync::Arc;

use crds::job_status::{AttemptRecord, GangStatus, Outcome, Stop, StopReason};
use crds::{Job, JobStatus, phase};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::cause::{self, Cause};
use super::decide::{CLAIM_SECS, Member, Observed, member_status};
use crate::ControllerName;
use crate::shell::{Op, Plan, bound_attempt_ended, by, gang_size, is_ended, later, raised};

/// Does a gang that is stopped for this start anew?
fn comes_back(stop: &Stop) -> bool {
    stop.reason.weight() < StopReason::TimedOut.weight()
}

impl Observed<'_> {
    /// Records that the generation is stopped, and whether the gang comes back.
    pub(super) fn break_up(&self, status: &JobStatus, gang: &GangStatus, cause: &Cause) -> Plan {
        let generation = gang.generation;
        let words = if self.is_cancelled() {
            "the gang is cancelled".to_owned()
        } else if gang.bound == 0 {
            cause.words.clone()
        } else {
            let why = &cause.words;
            format!("generation {generation} of the gang is stopped: {why}")
        };
        let mut next = status.clone();
        next.gang = Some(self.tallied(gang, gang.bound));
        next.waiting = None;
        let reason = if cause.comes_back {
            StopReason::Preempted
        } else {
            StopReason::Cancelled
        };
        let by = by(ControllerName::Gang);
        if let Some(raised) = raised(&next, reason, &by, &words, self.now) {
            next.stop = raised.stop;
        }
        next.message = Some(words);
        self.write(next)
    }

    /// Stops what is left of a generation; then closes it, or ends the gang.
    pub(super) fn take_down(&self, status: &JobStatus, gang: &GangStatus, stop: &Stop) -> Plan {
        let returns = comes_back(stop);
        let over = self.members.iter().any(|member| cause::is_over(member.job));
        if returns && (over || self.is_cancelled()) {
            let found = cause::find(self.members, gang.size, true);
            let words = found.map_or("the gang is cancelled".to_owned(), |cause| cause.words);
            return self.break_up(status, gang, &Cause::ending(words));
        }
        let words = stop.message.as_deref().unwrap_or("the gang is stopped");
        let due = gang.claiming_since.as_ref();
        let late = due.is_some_and(|since| self.now >= later(since.0, CLAIM_SECS));
        let left: Vec<Op> = self
            .members
            .iter()
            .filter_map(|member| self.let_down(member.job, words, returns, late))
            .collect();
        let at_rest =
            |member: &Member<'_>| is_at_rest(member.job) || (!returns && is_ended(member.job));
        if !left.is_empty() || !self.members.iter().all(at_rest) {
            let mut next = status.clone();
            next.gang = Some(self.tallied(gang, gang.bound));
            let mut plan = self.write(next);
            plan.ops.extend(left);
            return plan;
        }
        if !returns {
            return self.end(status, None);
        }
        let mut next = phase::requeue(status, words);
        next.attempts.push(AttemptRecord {
            attempt: gang.generation,
            node_name: None,
            start_time: status.start_time.clone(),
            finish_time: Some(MicroTime(self.now)),
            exit_code: None,
            signal: None,
            reason: Some(words.to_owned()),
        });
        let surplus = next
            .attempts
            .len()
            .saturating_sub(phase::MAX_ATTEMPT_RECORDS);
        next.attempts.drain(..surplus);
        next.gang = Some(GangStatus {
            size: gang.size,
            generation: gang.generation,
            ..GangStatus::default()
        });
        self.write(next)
    }

    /// What takes a member out of its generation, a step at a time; nothing once it is out or is being waited for. `late` means
    /// that who has not been claimed by now should have been.
    fn let_down(&self, job: &Arc<Job>, words: &str, returns: bool, late: bool) -> Option<Op> {
        let status = job.status.as_ref()?;
        if status.outcome.is_some() {
            return None;
        }
        if status.binding.is_none() {
            let mut next = status.clone();
            (next.gang, next.go) = (None, None);
            return Op::job_status(job, next);
        }
        if bound_attempt_ended(status) {
            // Where the gang ends, its members' ends are judged after its own.
            let innocent = !phase::may_have_begun(status);
            let requeued = || Op::job_status(job, withdrawn(status, words, innocent));
            return returns.then(requeued).flatten();
        }
        if status.finish_time.is_some() {
            // It ended, and what is left of it is on its way out.
            return None;
        }
        if phase::current_claim(status).is_none() {
            // Nothing of it runs, and by this write nothing ever will.
            return Op::job_status(job, withdrawn(status, words, !late));
        }
        let reason = if returns {
            StopReason::Preempted
        } else {
            StopReason::Cancelled
        };
        let by = by(ControllerName::Gang);
        // Who is stopped by somebody else keeps that: it says why the gang is.
        let others = phase::current_stop(status).is_some_and(|stop| stop.by != by);
        let next = raised(status, reason, &by, words, self.now);
        next.filter(|_| !others)
            .and_then(|next| Op::job_status(job, next))
    }

    /// The gang ends. None of it holds a node any more.
    pub(super) fn end(&self, status: &JobStatus, words: Option<String>) -> Plan {
        let at_rest = |member: &Member<'_>| is_at_rest(member.job) || is_ended(member.job);
        if !self.members.iter().all(at_rest) {
            return Plan::nothing();
        }
        let mut next = status.clone();
        let mut outcomes = self.members.iter().map(|member| {
            let status = member.job.status.as_ref();
            status.and_then(|status| status.outcome)
        });
        let all = gang_size(self.parent).is_some_and(|size| self.members.len() == size as usize);
        next.outcome = Some(
            if all && outcomes.all(|one| one == Some(Outcome::Succeeded)) {
                Outcome::Succeeded
            } else if self.is_cancelled() {
                Outcome::Cancelled
            } else {
                cause::outcome(self.members)
            },
        );
        next.finish_time = Some(MicroTime(self.now));
        next.waiting = None;
        next.message = words.or(next.message);
        if next.outcome == Some(Outcome::Cancelled) && self.is_cancelled() {
            next.message = Some("the gang is cancelled".to_owned());
        }
        self.write(next)
    }

    /// The gang has ended, so its members do.
    pub(super) fn end_members(&self) -> Plan {
        let words = "its gang has ended";
        let mut plan = Plan::nothing();
        plan.ops.extend(self.members.iter().filter_map(|member| {
            let status = member_status(member.job)?;
            if status.outcome.is_some() {
                return None;
            }
            let mut next = status.clone();
            if status.binding.is_none() {
                next.outcome = Some(Outcome::Cancelled);
                next.finish_time = Some(MicroTime(self.now));
                next.waiting = None;
                next.message = Some(words.to_owned());
            } else if bound_attempt_ended(status) {
                next.outcome = Some(cause::judged(status));
            } else {
                return self.let_down(member.job, words, false, false);
            }
            Op::job_status(member.job, next)
        }));
        plan
    }
}

/// A member goes back to the queue. What was never begun is not remembered of who is innocent of that, or placement would
/// take it that its node refused it.
fn withdrawn(status: &JobStatus, words: &str, is_innocent: bool) -> JobStatus {
    let known = status.attempts.len();
    let mut next = phase::requeue(status, words);
    if is_innocent && next.attempts.len() > known {
        next.attempts.pop();
    }
    next
}

/// Does it hold no node, so that nothing of it runs or will run?
fn is_at_rest(job: &Job) -> bool {
    let Some(status) = &job.status else {
        return true;
    };
    let lost = status.outcome == Some(Outcome::Lost);
    lost || phase::held_binding(status).is_none()
}
