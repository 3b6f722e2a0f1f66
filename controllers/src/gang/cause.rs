//! What breaks a generation of a gang, and how a member's attempt is judged. Pure.

use std::cmp::Reverse;

use crds::job::{OnNodeLost, OnPreemption};
use crds::job_status::{Outcome, Stop, StopReason};
use crds::{Job, JobStatus, phase};
use jiff::Timestamp;

use super::decide::Member;
use crate::ControllerName;
use crate::shell::{by, is_deleting};

/// Why a generation is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// Does the gang start anew?
    pub(super) comes_back: bool,
    /// Whose loss it is, and how it was lost.
    pub(super) words: String,
    /// Is it a failure that may have been brought about by what happened to another member?
    pub(super) may_follow: bool,
}

impl Cause {
    fn new(comes_back: bool, words: String) -> Self {
        Self {
            comes_back,
            words,
            may_follow: false,
        }
    }

    /// Something that is known for sure and lets the gang come back.
    pub(super) fn returning(words: String) -> Self {
        Self::new(true, words)
    }

    /// Something after which the gang does not come back.
    pub(super) fn ending(words: String) -> Self {
        Self::new(false, words)
    }
}

/// How sure it is that a cause is the first: a failure may be what the others' loss has brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// It failed by itself, which is not final.
    Failed,
    /// Somebody took it away.
    Taken,
    /// It is final.
    Final,
}

/// What breaks the generation, if anything does. `size` is the number of members that there must be; with `is_gone`, the
/// generation was told that it may go, so that nobody of it may be waiting.
pub(super) fn find(members: &[Member<'_>], size: u32, is_gone: bool) -> Option<Cause> {
    let missing = (0..size).find(|rank| members.iter().all(|member| member.rank != *rank));
    if let Some(rank) = missing {
        return Some(Cause::ending(format!("rank {rank} was removed")));
    }
    // All were told of the generation before any could get a node.
    let all_were_in = is_gone || members.iter().any(|member| is_in_and_bound(member.job));
    let causes = members.iter().filter_map(|member| {
        let (weight, comes_back, words) = lost(member.job, all_were_in)?;
        let rank = member.rank;
        Some((weight, Reverse(rank), comes_back, words))
    });
    let (weight, Reverse(rank), comes_back, words) = causes.max()?;
    let job = members.iter().find(|member| member.rank == rank)?.job;
    let status = job.status.as_ref();
    if status.is_some_and(|status| status.outcome == Some(Outcome::Infeasible)) {
        // That is true of the gang, whichever member is seen to say it first.
        return Some(Cause::new(comes_back, words));
    }
    let of = |member: &Member<'_>| {
        let node = place(member.job).map_or(String::new(), |node| format!(" on node {node}"));
        format!("rank {}{node}", member.rank)
    };
    let words = format!("{} {words}", of(members.iter().find(|m| m.rank == rank)?));
    let failed = weight == Weight::Failed;
    let unseen = members.iter().filter(|_| failed).find(|member| {
        let silent = member.job.status.as_ref().is_some_and(|s| s.node_silent);
        silent && would_run_elsewhere(member.job)
    });
    if let Some(unseen) = unseen {
        let of_unseen = of(unseen);
        return Some(Cause::returning(format!(
            "{of_unseen} is not seen any more, and then {words}"
        )));
    }
    Some(Cause {
        comes_back,
        words,
        may_follow: failed,
    })
}

/// Does it run as far as is known, and would it run elsewhere if its node were lost?
pub(super) fn would_run_elsewhere(job: &Job) -> bool {
    let Some(status) = &job.status else {
        return false;
    };
    let runs = status.binding.is_some() && status.finish_time.is_none() && status.outcome.is_none();
    runs && runs_elsewhere(status) && phase::current_stop(status).is_none()
}

/// Does it hold a node as a member of some generation?
fn is_in_and_bound(job: &Job) -> bool {
    let status = job.status.as_ref();
    status.is_some_and(|status| status.gang.is_some() && status.binding.is_some())
}

/// Where a member is, or was last.
fn place(job: &Job) -> Option<&str> {
    let status = job.status.as_ref()?;
    let now = status.binding.as_ref().map(|binding| &*binding.node_name);
    now.or_else(|| status.attempts.last()?.node_name.as_deref())
}

/// How a member is lost to its generation, if it is.
fn lost(job: &Job, all_were_in: bool) -> Option<(Weight, bool, String)> {
    let fresh = JobStatus::default();
    let status = job.status.as_ref().unwrap_or(&fresh);
    let message = || status.message.clone().unwrap_or_default();
    let ends = |words: String| Some((Weight::Final, false, words));
    if let Some(outcome) = status.outcome {
        return match outcome {
            Outcome::Succeeded => None,
            Outcome::Infeasible => ends(message()),
            outcome => ends(format!("ended as {}: {}", word(outcome), message())),
        };
    }
    if is_deleting(job) {
        return ends("was deleted".to_owned());
    }
    let started = phase::may_have_begun(status);
    let returns = |words: String| Some((Weight::Taken, true, words));
    if let Some(stop) = phase::current_stop(status) {
        let words = stop.message.clone().unwrap_or_else(|| stop.by.clone());
        return match stop.reason {
            StopReason::Preempted if started && !requeues(status) => {
                ends(format!("was preempted: {words}"))
            }
            StopReason::Preempted => returns(format!("was preempted: {words}")),
            StopReason::Drained => returns(format!("was drained: {words}")),
            StopReason::Suspended => returns(format!("was suspended: {words}")),
            StopReason::TimedOut => ends(format!("timed out: {words}")),
            StopReason::Cancelled => ends(format!("was cancelled: {words}")),
        };
    }
    if status.binding.is_none() {
        let was_in = all_were_in && status.gang.is_none();
        return was_in
            .then(message)
            .and_then(|words| returns(format!("lost its place: {words}")));
    }
    if status.finish_time.is_some() {
        // What could not be started has no start either, and would not be started the next time.
        return if !phase::may_go(status) {
            returns(format!("was given up before it started: {}", message()))
        } else if is_lost(status) {
            let words = format!("was lost: {}", message());
            Some((Weight::Taken, runs_elsewhere(status), words))
        } else if status.exit_code == Some(0) {
            None
        } else {
            let words = format!("failed: {}", message());
            Some((Weight::Failed, false, words))
        };
    }
    None
}

/// Did it end badly for good, so that its gang cannot start anew?
pub(super) fn is_over(job: &Job) -> bool {
    let outcome = job.status.as_ref().and_then(|status| status.outcome);
    match outcome {
        Some(outcome) => outcome != Outcome::Succeeded,
        None => is_deleting(job),
    }
}

/// May it run again after a preemption?
fn requeues(status: &JobStatus) -> bool {
    let effective = status.effective.as_ref();
    effective.map_or(OnPreemption::default(), |e| e.on_preemption.value) == OnPreemption::Requeue
}

/// Did nobody see how the attempt ended?
fn is_lost(status: &JobStatus) -> bool {
    let release = status.release.as_ref();
    release.is_some_and(|release| release.attempt == status.attempt && release.lost)
}

fn runs_elsewhere(status: &JobStatus) -> bool {
    let effective = status.effective.as_ref();
    effective.is_some_and(|e| e.on_node_lost.value == OnNodeLost::Requeue)
}

fn word(outcome: Outcome) -> crds::Phase {
    outcome.into()
}

/// Was the member stopped because its gang was?
fn is_ours(stop: &Stop) -> bool {
    stop.by == by(ControllerName::Gang)
}

/// How a member whose attempt ended without a verdict ended, when its gang does not start anew.
pub(super) fn judged(status: &JobStatus) -> Outcome {
    match phase::current_stop(status).map(|stop| stop.reason) {
        Some(StopReason::Preempted) if phase::may_have_begun(status) && !requeues(status) => {
            Outcome::Preempted
        }
        Some(StopReason::TimedOut) => Outcome::TimedOut,
        Some(_) => Outcome::Cancelled,
        None if status.exit_code == Some(0) => Outcome::Succeeded,
        None => Outcome::Failed,
    }
}

/// How a gang ends that does not start anew: as the first member that ended badly by its own or somebody else's doing.
pub(super) fn outcome(members: &[Member<'_>]) -> Outcome {
    let ends = members.iter().filter_map(|member| {
        let status = member.job.status.as_ref()?;
        let stopped_with_others =
            phase::current_stop(status).is_some_and(is_ours) && !is_deleting(member.job);
        let outcome = match status.outcome {
            Some(outcome) => outcome,
            None if is_deleting(member.job) => Outcome::Cancelled,
            None if status.finish_time.is_some() => judged(status),
            None => return None,
        };
        let time = status.finish_time.as_ref().map(|time| time.0);
        let time = time.unwrap_or(Timestamp::MAX);
        (!stopped_with_others && outcome != Outcome::Succeeded).then_some((
            time,
            member.rank,
            outcome,
        ))
    });
    let first = ends.min_by_key(|(time, rank, _)| (*time, *rank));
    match first.map(|(_, _, outcome)| outcome) {
        // What is lost is a member and its node; the gang itself is known to have failed.
        None | Some(Outcome::Lost) => Outcome::Failed,
        Some(outcome) => outcome,
    }
}
