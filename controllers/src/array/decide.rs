//! Decides what an array needs next, and when a member may go. Pure.

use std::sync::Arc;

use crds::job_status::{ArrayStatus, Outcome, Waiting};
use crds::{Job, JobStatus, Phase, TALLY_FINALIZER};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::index_set::IndexSet;
use super::member::member;
use crate::shell::{
    Op, Plan, bound_attempt_ended, cancel_wanted, child_name, has_finalizer, is_deleting, is_ended,
    name_problem, suspend_wanted, without_finalizer,
};

/// Default of `array.parallelism`.
const DEFAULT_PARALLELISM: u32 = 100;
/// Most members made in one plan, so that one large array does not keep others waiting.
const CREATES_A_PLAN: u32 = 32;
/// Classes of `status.waiting` that this controller writes.
const NAME_CONFLICT: &str = "NameConflict";
const NAME_TOO_LONG: &str = "NameTooLong";
const SUSPENDED: &str = "Suspended";

/// A member that is not tallied yet.
pub(super) struct Member<'a> {
    pub(super) index: u32,
    pub(super) job: &'a Arc<Job>,
}

/// What is known of an array.
pub(super) struct Observed<'a> {
    pub(super) parent: &'a Arc<Job>,
    /// Its members that are not tallied yet, by index.
    pub(super) members: &'a [Member<'a>],
    /// Is the name of the member with this index taken by a job that is not this array's?
    pub(super) is_taken: &'a dyn Fn(u32) -> bool,
    pub(super) now: Timestamp,
}

/// How a member ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed,
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let parent = observed.parent;
    let Some(total) = parent.spec.array.as_ref().and_then(|array| array.count) else {
        return Plan::nothing();
    };
    let Some(status) = parent.status.as_ref().filter(|s| s.effective.is_some()) else {
        return Plan::nothing();
    };
    if is_deleting(parent) || is_ended(parent) {
        return Plan::nothing();
    }
    let tallies = status.array.clone().unwrap_or_default();
    let sets = IndexSet::parse(&tallies.finished)
        .and_then(|finished| Ok((finished, IndexSet::parse(&tallies.failed_indices)?)));
    let (finished, failed) = match sets {
        Ok(sets) => sets,
        Err(error) => {
            let mut next = status.clone();
            next.message = Some(format!("status.array cannot be read: {error}"));
            return Plan::of(Op::job_status(parent, next));
        }
    };
    let mut array = ArrayState {
        total,
        next_index: tallies.next_index,
        active: 0,
        finished,
        failed,
    };
    array.tally(observed.members);
    let wanted = array.wanted(observed);
    let mut plan = Plan::of(Op::job_status(
        parent,
        array.status(observed, status, &wanted),
    ));
    let creates = wanted.creates.iter().map(|index| member(parent, *index));
    plan.ops
        .extend(creates.map(|member| Op::CreateJob(Box::new(member))));
    plan
}

/// The array as it is once what is seen now has been tallied.
struct ArrayState {
    total: u32,
    next_index: u32,
    active: u32,
    finished: IndexSet,
    failed: IndexSet,
}

/// What is to be made, or why nothing is.
#[derive(Default)]
struct Wanted {
    creates: Vec<u32>,
    held: Option<Waiting>,
    /// No more members will be made.
    over: bool,
}

impl ArrayState {
    fn tally(&mut self, members: &[Member<'_>]) {
        let mut known = IndexSet::default();
        for member in members {
            known.insert(member.index);
            if member.index >= self.total || self.finished.contains(member.index) {
                continue;
            }
            match end(member.job) {
                None => self.active += 1,
                Some(end) => self.count(member.index, end),
            }
        }
        // What was made and is neither there nor counted was removed by force.
        for index in gaps(&self.finished, &known, self.next_index.min(self.total)) {
            self.count(index, End::Failed);
        }
        loop {
            let next = known.first_gap(self.finished.first_gap(self.next_index));
            if next == self.next_index {
                break;
            }
            self.next_index = next;
        }
        self.next_index = self.next_index.min(self.total);
    }

    fn count(&mut self, index: u32, end: End) {
        self.finished.insert(index);
        if end == End::Failed {
            self.failed.insert(index);
        }
    }

    fn wanted(&self, observed: &Observed<'_>) -> Wanted {
        let parent = observed.parent;
        let spec = parent.spec.array.clone().unwrap_or_default();
        let too_many = spec
            .max_failures
            .is_some_and(|most| self.failed.len() >= most.max(1));
        let mut wanted = Wanted {
            over: self.next_index >= self.total || too_many || cancel_wanted(parent, &[]),
            ..Wanted::default()
        };
        if wanted.over {
            return wanted;
        }
        let waiting = |reason: &str, message: String| {
            Some(Waiting {
                reason: reason.to_owned(),
                message: Some(message),
                since: None,
                reservation: None,
            })
        };
        let name = parent.metadata.name.as_deref().unwrap_or_default();
        if let Some(problem) = name_problem("an array", name, self.total) {
            wanted.held = waiting(NAME_TOO_LONG, problem);
            return wanted;
        }
        if suspend_wanted(parent, &[]) {
            wanted.held = waiting(SUSPENDED, "the array is suspended".to_owned());
            return wanted;
        }
        let parallelism = spec.parallelism.unwrap_or(DEFAULT_PARALLELISM).max(1);
        let room = parallelism.saturating_sub(self.active).min(CREATES_A_PLAN);
        let last = self.total.min(self.next_index.saturating_add(room));
        for index in self.next_index..last {
            let made = observed.members.iter().any(|member| member.index == index);
            if made || self.finished.contains(index) {
                continue;
            }
            if (observed.is_taken)(index) {
                let other = child_name(name, index);
                let words = format!("the name {other} belongs to a job that is not this array's");
                wanted.held = waiting(NAME_CONFLICT, words);
                break;
            }
            wanted.creates.push(index);
        }
        wanted
    }

    fn status(&self, observed: &Observed<'_>, before: &JobStatus, wanted: &Wanted) -> JobStatus {
        let mut next = before.clone();
        let failed = self.failed.len();
        next.array = Some(ArrayStatus {
            total: self.total,
            next_index: self.next_index,
            active: self.active,
            succeeded: self.finished.len() - failed,
            failed,
            finished: self.finished.to_text(),
            failed_indices: self.failed.to_text(),
        });
        if next.start_time.is_none() && self.next_index > 0 {
            next.start_time = Some(MicroTime(observed.now));
        }
        let ours = [NAME_CONFLICT, NAME_TOO_LONG, SUSPENDED];
        let foreign = next
            .waiting
            .take()
            .filter(|waiting| !ours.contains(&waiting.reason.as_str()));
        next.waiting = wanted.held.clone().or(foreign);
        let begun = before.phase.is_some_and(|phase| phase != Phase::Pending);
        if wanted.over && self.active == 0 && (begun || cancel_wanted(observed.parent, &[])) {
            self.end(observed, &mut next);
        }
        next
    }

    /// All that was made has ended and is counted, and no more is made.
    fn end(&self, observed: &Observed<'_>, next: &mut JobStatus) {
        let (total, failed) = (self.total, self.failed.len());
        let ended = self.finished.len();
        next.outcome = Some(if failed == 0 && ended == total {
            Outcome::Succeeded
        } else if cancel_wanted(observed.parent, &[]) {
            Outcome::Cancelled
        } else {
            Outcome::Failed
        });
        next.finish_time = Some(MicroTime(observed.now));
        next.waiting = None;
        let succeeded = ended - failed;
        next.message = Some(if failed == 0 && ended == total {
            format!("all {total} members succeeded")
        } else {
            let unmade = total - ended;
            format!(
                "{succeeded} of {total} members succeeded, {failed} did not, {unmade} were not run"
            )
        });
    }
}

/// The indices below `end` that are in neither set.
fn gaps(finished: &IndexSet, known: &IndexSet, end: u32) -> Vec<u32> {
    let mut gaps = Vec::new();
    let mut index = 0;
    while index < end {
        let next = known.first_gap(finished.first_gap(index));
        if next == index {
            gaps.push(index);
            index += 1;
        } else {
            index = next;
        }
    }
    gaps
}

/// How a member ended, if it did: by its outcome, or by a deletion before it ran.
fn end(job: &Job) -> Option<End> {
    let status = job.status.as_ref();
    if let Some(outcome) = status.and_then(|status| status.outcome) {
        return Some(if outcome == Outcome::Succeeded {
            End::Succeeded
        } else {
            End::Failed
        });
    }
    let holds =
        status.is_some_and(|status| status.binding.is_some() || bound_attempt_ended(status));
    (is_deleting(job) && !holds).then_some(End::Failed)
}

/// Decides whether a member's tally finalizer may go: once its parent has counted it, or is gone.
pub(super) fn decide_member(job: &Arc<Job>, parent: Option<&Job>, index: u32) -> Plan {
    if !has_finalizer(job, TALLY_FINALIZER) {
        return Plan::nothing();
    }
    let counted = parent.is_none_or(|parent| {
        let array = parent
            .status
            .as_ref()
            .and_then(|status| status.array.as_ref());
        let finished = array.and_then(|array| IndexSet::parse(&array.finished).ok());
        let of_no_use = parent.spec.array.as_ref().and_then(|array| array.count) <= Some(index);
        of_no_use || finished.is_some_and(|finished| finished.contains(index))
    });
    // A member of a deleted array is not counted any more, and must not hold up its own end.
    let parent_goes = parent.is_some_and(is_deleting);
    let ended = end(job).is_some();
    let go = (counted && (parent.is_none() || ended)) || (parent_goes && ended);
    Plan::of(go.then(|| Op::JobFinalizers {
        base: job.clone(),
        next: without_finalizer(job, TALLY_FINALIZER),
    }))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
