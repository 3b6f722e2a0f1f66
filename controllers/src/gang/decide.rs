//! Decides what a gang needs next. Pure.

use std::sync::Arc;

use crds::job_status::{GangStatus, Outcome, Stop, Waiting};
use crds::{Job, JobStatus, PREEMPT_ANNOTATION, TALLY_FINALIZER, phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::cause::{self, Cause};
use super::member::member;
use crate::shell::{
    Op, Plan, bound_attempt_ended, cancel_wanted, child_name, gang_size, has_finalizer,
    is_deleting, is_ended, later, name_problem, owner, suspend_wanted, uid, without_finalizer,
};

/// How long the nodes of a generation have for claiming it, from the first claim that is seen: a node that has not claimed by
/// then keeps the others from what they could run meanwhile.
pub(super) const CLAIM_SECS: u64 = 120;
/// Most members made in one plan, so that one large gang does not keep others waiting.
const CREATES_A_PLAN: usize = 32;
/// Classes of `status.waiting` that this controller writes.
const NAME_CONFLICT: &str = "NameConflict";
const NAME_TOO_LONG: &str = "NameTooLong";
const SUSPENDED: &str = "Suspended";

/// How long after its last sign of life a node is overdue: it gives one every 10 s.
pub(super) const OVERDUE_SECS: u64 = 15;
/// How long after a node has become silent its jobs are marked at the latest, if all goes well.
pub(super) const MARKED_SECS: u64 = 10;

/// A member.
pub(super) struct Member<'a> {
    pub(super) rank: u32,
    pub(super) job: &'a Arc<Job>,
    /// When the last sign of life of its node was seen, by the clock of this process; `None` when it has no node or none was.
    pub(super) heard: Option<Timestamp>,
}

/// What is known of a gang.
pub(super) struct Observed<'a> {
    pub(super) parent: &'a Arc<Job>,
    /// The array that the gang is a member of.
    pub(super) parents: &'a [&'a Job],
    /// Its members, by rank.
    pub(super) members: &'a [Member<'a>],
    /// The job that bears the name of the member with this rank.
    pub(super) named: &'a dyn Fn(u32) -> Option<&'a Arc<Job>>,
    /// Seconds without a sign of life after which a node is silent.
    pub(super) not_ready_seconds: u64,
    pub(super) now: Timestamp,
}

/// How far a gang is.
enum Stage<'a> {
    /// No generation is under way; the next has this number.
    Between(u32),
    /// Its members get nodes, and these claim them.
    Gathering(&'a GangStatus),
    /// It may run.
    Going(&'a GangStatus),
    /// It is stopped.
    Breaking(&'a GangStatus, &'a Stop),
}

fn stage(status: &JobStatus) -> Stage<'_> {
    let Some(gang) = &status.gang else {
        return Stage::Between(1);
    };
    let closed = status.attempts.last().map(|record| record.attempt);
    if closed == Some(gang.generation) {
        return Stage::Between(gang.generation.saturating_add(1));
    }
    match phase::current_stop(status) {
        Some(stop) => Stage::Breaking(gang, stop),
        None if phase::may_go(status) => Stage::Going(gang),
        None => Stage::Gathering(gang),
    }
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let parent = observed.parent;
    let (Some(size), Some(status)) = (gang_size(parent), &parent.status) else {
        return Plan::nothing();
    };
    if is_deleting(parent) {
        return Plan::nothing();
    }
    if is_ended(parent) {
        return observed.end_members();
    }
    match stage(status) {
        Stage::Between(next) => observed.between(status, size, next),
        Stage::Gathering(gang) => observed.gather(status, gang),
        Stage::Going(gang) => observed.go_on(status, gang),
        Stage::Breaking(gang, stop) => observed.take_down(status, gang, stop),
    }
}

impl Observed<'_> {
    pub(super) fn is_cancelled(&self) -> bool {
        cancel_wanted(self.parent, self.parents)
    }

    pub(super) fn write(&self, next: JobStatus) -> Plan {
        Plan::of(Op::job_status(self.parent, next))
    }

    /// Makes members as far as there are none, and opens the next generation once all are ready for it.
    fn between(&self, status: &JobStatus, size: u32, next: u32) -> Plan {
        let over = self.members.iter().any(|member| cause::is_over(member.job));
        if self.is_cancelled() || over {
            let cause = cause::find(self.members, 0, false);
            return self.end(status, cause.map(|cause| cause.words));
        }
        if status.effective.is_none() {
            return Plan::nothing();
        }
        if let Some(held) = self.held(size) {
            return self.wait(status, Some(held));
        }
        let mut plan = self.make(size);
        let all = self.members.len() == size as usize;
        if all && self.members.iter().all(|member| is_ready(member.job)) {
            let mut opened = status.clone();
            opened.attempt = next;
            opened.gang = Some(GangStatus {
                size,
                generation: next,
                ..GangStatus::default()
            });
            plan.ops.extend(Op::job_status(self.parent, opened));
        } else {
            let waiting = self.members.iter().find_map(|member| told(member.job));
            plan.ops.extend(self.wait(status, waiting).ops);
        }
        plan
    }

    /// Why no members may be made or started, if that is so.
    fn held(&self, size: u32) -> Option<Waiting> {
        let name = self.parent.metadata.name.as_deref().unwrap_or_default();
        let because = |reason: &str, message: String| {
            Some(Waiting {
                reason: reason.to_owned(),
                message: Some(message),
                since: None,
                reservation: None,
            })
        };
        if let Some(problem) = name_problem("a gang", name, size) {
            return because(NAME_TOO_LONG, problem);
        }
        if suspend_wanted(self.parent, self.parents) {
            return because(SUSPENDED, "the gang is suspended".to_owned());
        }
        let ours = |job: &Job| owner(job).is_some_and(|owner| owner.uid == uid(self.parent));
        let missing = self
            .missing(size)
            .find(|rank| (self.named)(*rank).is_some_and(|job| !ours(job)))?;
        let other = child_name(name, missing);
        let words = format!("the name {other} belongs to a job that is not this gang's");
        because(NAME_CONFLICT, words)
    }

    fn missing(&self, size: u32) -> impl Iterator<Item = u32> {
        let there: std::collections::BTreeSet<u32> =
            self.members.iter().map(|member| member.rank).collect();
        (0..size).filter(move |rank| !there.contains(rank))
    }

    /// Members for the ranks that have none. One that succeeded in the generation before makes room for another.
    fn make(&self, size: u32) -> Plan {
        let mut plan = Plan::nothing();
        let succeeded = self.members.iter().filter(|member| is_ended(member.job));
        plan.ops.extend(succeeded.filter_map(|member| {
            let base = member.job.clone();
            if is_deleting(&base) {
                let next = without_finalizer(&base, TALLY_FINALIZER);
                let held = has_finalizer(&base, TALLY_FINALIZER);
                held.then_some(Op::JobFinalizers { base, next })
            } else {
                Some(Op::DeleteJob { base })
            }
        }));
        let missing = self
            .missing(size)
            .filter(|rank| (self.named)(*rank).is_none());
        let missing = missing.take(CREATES_A_PLAN);
        let made = missing.map(|rank| Op::CreateJob(Box::new(member(self.parent, rank))));
        plan.ops.extend(made);
        plan
    }

    /// The parent says why it waits; nothing when it says that class already.
    fn wait(&self, status: &JobStatus, waiting: Option<Waiting>) -> Plan {
        let mut next = status.clone();
        set_waiting(&mut next, waiting);
        self.write(next)
    }

    /// Tells the members of their generation, and lets it go once every node has claimed its member.
    fn gather(&self, status: &JobStatus, gang: &GangStatus) -> Plan {
        if let Some(cause) = self.cause(status, gang, false) {
            return self.break_up(status, gang, &cause);
        }
        let mut next = self.tallied(gang, u32::MAX);
        if next.claimed > 0 && next.claiming_since.is_none() {
            next.claiming_since = Some(MicroTime(self.now));
        }
        let due = next
            .claiming_since
            .as_ref()
            .map(|since| later(since.0, CLAIM_SECS));
        let mut parent = status.clone();
        if next.claimed == next.size {
            let endpoints = self.members.iter().filter_map(|member| {
                let claim = phase::current_claim(member.job.status.as_ref()?)?;
                claim.endpoint.clone()
            });
            let endpoints: Vec<_> = endpoints.collect();
            next.master = endpoints.first().cloned();
            next.hosts = endpoints.into_iter().map(|one| one.address).collect();
            parent.go = Some(next.generation);
            parent.start_time = Some(MicroTime(self.now));
            parent.message = None;
        } else if due.is_some_and(|due| self.now >= due) {
            return self.break_up(status, gang, &unclaimed(&next));
        }
        let waiting = self.members.iter().find_map(|member| {
            let bound = member_status(member.job).is_some_and(|s| s.binding.is_some());
            told(member.job).filter(|_| !bound)
        });
        set_waiting(&mut parent, waiting.filter(|_| next.bound < next.size));
        parent.gang = Some(next);
        let mut plan = self.write(parent);
        plan.look_again = due;
        let invited = self.members.iter().filter_map(|member| {
            let mut next = member.job.status.clone()?;
            let mine = Some(GangStatus {
                size: gang.size,
                generation: gang.generation,
                rank: Some(member.rank),
                ..GangStatus::default()
            });
            if next.outcome.is_some() || next.binding.is_some() || next.gang == mine {
                return None;
            }
            next.gang = mine;
            Op::job_status(member.job, next)
        });
        plan.ops.extend(invited);
        plan
    }

    /// Tells the members that they may go, and ends the gang when all have succeeded.
    fn go_on(&self, status: &JobStatus, gang: &GangStatus) -> Plan {
        if let Some(cause) = self.cause(status, gang, true) {
            return match self.unsure_until().filter(|_| cause.may_follow) {
                Some(until) => Plan::wake(until),
                None => self.break_up(status, gang, &cause),
            };
        }
        let tallied = self.tallied(gang, u32::MAX);
        let mut parent = status.clone();
        if tallied.succeeded == tallied.size {
            parent.outcome = Some(Outcome::Succeeded);
            parent.finish_time = Some(MicroTime(self.now));
            parent.message = Some(format!("all {} members succeeded", tallied.size));
        }
        parent.waiting = None;
        parent.gang = Some(tallied);
        let mut plan = self.write(parent);
        plan.ops.extend(self.members.iter().filter_map(|member| {
            let mut next = member.job.status.clone()?;
            if bound_attempt_ended(&next) && phase::current_stop(&next).is_none() {
                // Whatever it says else, the generation would be broken.
                next.outcome = Some(Outcome::Succeeded);
            } else if next.outcome.is_none() && next.go != status.go {
                let mine = next.gang.as_mut()?;
                mine.hosts.clone_from(&gang.hosts);
                mine.master.clone_from(&gang.master);
                next.go = status.go;
            }
            Op::job_status(member.job, next)
        }));
        plan
    }

    /// What breaks the generation, if anything does.
    fn cause(&self, status: &JobStatus, gang: &GangStatus, is_gone: bool) -> Option<Cause> {
        let found = cause::find(self.members, gang.size, is_gone);
        let annotations = self.parent.metadata.annotations.as_ref();
        let unwanted = annotations.and_then(|all| all.get(PREEMPT_ANNOTATION)?.parse().ok());
        let holds = gang.bound > 0 && unwanted == Some(status.attempt);
        let asked = "somebody asked for its preemption";
        found.or(holds.then(|| Cause::returning(asked.to_owned())))
    }

    /// Until when it may turn out that a member was lost with its node, for which the gang would come back: its node is
    /// overdue and not silent yet. `None` when all nodes were heard of lately.
    fn unsure_until(&self) -> Option<Timestamp> {
        let ends = self.members.iter().filter_map(|member| {
            let heard = member
                .heard
                .filter(|_| cause::would_run_elsewhere(member.job))?;
            let overdue = later(heard, OVERDUE_SECS);
            let known = later(heard, self.not_ready_seconds.saturating_add(MARKED_SECS));
            (overdue <= self.now && self.now < known).then_some(known)
        });
        ends.max()
    }

    /// The generation's account, as its members are seen now. No more than `most` are said to have a node.
    pub(super) fn tallied(&self, gang: &GangStatus, most: u32) -> GangStatus {
        let mut next = gang.clone();
        (next.bound, next.claimed, next.succeeded) = (0, 0, 0);
        for status in self.members.iter().filter_map(|m| member_status(m.job)) {
            let of_this = status
                .gang
                .as_ref()
                .is_some_and(|mine| mine.generation == gang.generation);
            let claim = phase::current_claim(status);
            let bound = of_this && status.binding.is_some();
            next.bound += u32::from(bound);
            let claimed = claim.is_some_and(|claim| claim.endpoint.is_some());
            next.claimed += u32::from(bound && claimed);
            next.succeeded += u32::from(status.outcome == Some(Outcome::Succeeded));
        }
        next.bound = next.bound.min(most);
        next
    }
}

pub(super) fn member_status(job: &Job) -> Option<&JobStatus> {
    job.status.as_ref()
}

/// The cause of a generation that its nodes do not claim in time.
fn unclaimed(gang: &GangStatus) -> Cause {
    let GangStatus {
        bound,
        claimed,
        size,
        ..
    } = gang;
    Cause::returning(format!(
        "of {size} members {bound} have a node and {claimed} are claimed, {CLAIM_SECS} s after the first was"
    ))
}

/// Could the member be placed as soon as it is told of a generation?
fn is_ready(job: &Job) -> bool {
    let Some(status) = &job.status else {
        return false;
    };
    status.effective.is_some()
        && status.observed_generation == job.metadata.generation
        && status.outcome.is_none()
        && status.binding.is_none()
        && !is_deleting(job)
}

/// Why a member waits.
fn told(job: &Job) -> Option<Waiting> {
    let waiting = job.status.as_ref()?.waiting.clone()?;
    Some(Waiting {
        reservation: None,
        since: None,
        ..waiting
    })
}

/// The words stay as they were first told while the class is the same, so that nothing ticks.
fn set_waiting(status: &mut JobStatus, waiting: Option<Waiting>) {
    let known = status.waiting.as_ref().map(|waiting| &waiting.reason);
    if known != waiting.as_ref().map(|waiting| &waiting.reason) {
        status.waiting = waiting;
    }
}

/// Decides whether a member's tally finalizer may go: once its gang has ended, or is gone.
pub(super) fn decide_member(job: &Arc<Job>, parent: Option<&Job>) -> Plan {
    if !is_deleting(job) || !has_finalizer(job, TALLY_FINALIZER) {
        return Plan::nothing();
    }
    let over = parent.is_none_or(|parent| is_ended(parent) || is_deleting(parent));
    Plan::of(over.then(|| Op::JobFinalizers {
        base: job.clone(),
        next: without_finalizer(job, TALLY_FINALIZER),
    }))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
