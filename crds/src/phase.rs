//! The one derive function and the one transition table of a job's life (rules.md sections 1 and 2).
//!
//! **Guarantees.** A phase is a function of the facts in `status` and of nothing else: whoever writes facts writes
//! `phase = derive(new status)` in the same write. A stop's reason only rises and its deadline only comes nearer. An
//! exit is blamed on a stop only when the signal came first.
//!
//! **Absent on purpose.** No clock: whoever stamps a time passes it in the status it hands over.

use crate::job::{JobSpec, RetryAction, RetryCause};
use crate::job_status::{
    AttemptRecord, Binding, Claim, JobStatus, Outcome, Phase, Stop, StopReason,
};
use crate::signal;

/// Most ended attempts that are remembered in `status.attempts`.
pub const MAX_ATTEMPT_RECORDS: usize = 16;
/// Most nodes that are remembered in `status.excludedNodes`.
pub const MAX_EXCLUDED_NODES: usize = 1024;

impl Phase {
    /// Every phase, for tables.
    pub const ALL: [Phase; 12] = [
        Phase::Pending,
        Phase::Scheduled,
        Phase::Running,
        Phase::Stopping,
        Phase::Unknown,
        Phase::Succeeded,
        Phase::Failed,
        Phase::Cancelled,
        Phase::Preempted,
        Phase::TimedOut,
        Phase::Infeasible,
        Phase::Lost,
    ];

    /// True when no further transition is possible.
    pub fn is_terminal(self) -> bool {
        is_terminal(self)
    }

    /// The word users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Scheduled => "Scheduled",
            Phase::Running => "Running",
            Phase::Stopping => "Stopping",
            Phase::Unknown => "Unknown",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
            Phase::Cancelled => "Cancelled",
            Phase::Preempted => "Preempted",
            Phase::TimedOut => "TimedOut",
            Phase::Infeasible => "Infeasible",
            Phase::Lost => "Lost",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Outcome> for Phase {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Phase::Succeeded,
            Outcome::Failed => Phase::Failed,
            Outcome::Cancelled => Phase::Cancelled,
            Outcome::Preempted => Phase::Preempted,
            Outcome::TimedOut => Phase::TimedOut,
            Outcome::Infeasible => Phase::Infeasible,
            Outcome::Lost => Phase::Lost,
        }
    }
}

/// The phase that follows from the facts. The parent of an array is Running once members were made of it. A member of a gang
/// is Scheduled until the gang may go, claimed or not: nothing of it runs. The parent of a gang is Scheduled once every member
/// has a node, and Running once they may go.
pub fn derive(status: &JobStatus) -> Phase {
    if let Some(outcome) = status.outcome {
        return outcome.into();
    }
    let stopped = current_stop(status).is_some();
    let may_go = may_go(status);
    let claimed = current_claim(status).is_some();
    match (&status.binding, claimed) {
        (Some(_), true) if status.node_silent && may_go => Phase::Unknown,
        (Some(_), true) if stopped || status.finish_time.is_some() => Phase::Stopping,
        (Some(_), true) if !may_go => Phase::Scheduled,
        (Some(_), true) => Phase::Running,
        (Some(_), false) if stopped => Phase::Stopping,
        (Some(_), false) => Phase::Scheduled,
        (None, _) => match &status.array {
            Some(array) if array.next_index > 0 && stopped => Phase::Stopping,
            Some(array) if array.next_index > 0 => Phase::Running,
            _ => derive_unbound_gang(status, stopped),
        },
    }
}

/// The phase of a job without a binding that is no array: Pending, unless it is the parent of a gang with members on nodes.
fn derive_unbound_gang(status: &JobStatus, stopped: bool) -> Phase {
    let parent = status.gang.as_ref().filter(|gang| gang.rank.is_none());
    let Some(gang) = parent else {
        return Phase::Pending;
    };
    let running = status.go.is_some() && may_go(status);
    let whole = gang.size > 0 && gang.bound == gang.size;
    match (running, whole) {
        (false, false) => Phase::Pending,
        _ if stopped => Phase::Stopping,
        (true, _) => Phase::Running,
        (false, true) => Phase::Scheduled,
    }
}

/// May the current attempt's process start once it is claimed? A member of a gang only when its generation may go, every other
/// job at once (rules.md section 9).
pub fn may_go(status: &JobStatus) -> bool {
    status
        .gang
        .as_ref()
        .is_none_or(|gang| status.go == Some(gang.generation))
}

/// May there be a process of the current attempt? From the claim on; of a member of a gang only from the time on at which its
/// node wrote `startTime`, which it does once the gang may go and before it starts anything. Until then the binding can be
/// withdrawn by one conditional write, whatever its node is doing.
pub fn may_have_begun(status: &JobStatus) -> bool {
    current_claim(status).is_some() && (status.gang.is_none() || status.start_time.is_some())
}

/// The stop that is for the current attempt; one of an earlier attempt is not believed.
pub fn current_stop(status: &JobStatus) -> Option<&Stop> {
    let stop = status.stop.as_ref();
    stop.filter(|stop| stop.attempt == status.attempt)
}

/// The claim of the current attempt; one of an earlier attempt is not believed.
pub fn current_claim(status: &JobStatus) -> Option<&Claim> {
    let claim = status.claim.as_ref();
    claim.filter(|claim| claim.attempt == status.attempt)
}

/// The binding whose slots are still taken: bound, and the attempt not yet released.
pub fn held_binding(status: &JobStatus) -> Option<&Binding> {
    let released = status.release.as_ref().map(|release| release.attempt);
    let binding = status.binding.as_ref();
    binding.filter(|_| released != Some(status.attempt))
}

/// True when no further transition is possible.
pub fn is_terminal(phase: Phase) -> bool {
    match phase {
        Phase::Pending | Phase::Scheduled | Phase::Running | Phase::Stopping | Phase::Unknown => {
            false
        }
        Phase::Succeeded
        | Phase::Failed
        | Phase::Cancelled
        | Phase::Preempted
        | Phase::TimedOut
        | Phase::Infeasible
        | Phase::Lost => true,
    }
}

/// May one write move a job from one phase to another? Staying is always allowed.
///
/// Beyond the plain job's table, the parent of an array (which has no process of its own) goes straight from Pending to
/// Running and from Running to Cancelled. From Unknown a job may go wherever it could have gone unseen, since the report
/// of its agent is what ends the silence.
pub fn may_move(from: Phase, to: Phase) -> bool {
    use Phase::{
        Cancelled, Failed, Infeasible, Lost, Pending, Preempted, Running, Scheduled, Stopping,
        Succeeded, TimedOut, Unknown,
    };
    if from == to {
        return true;
    }
    match from {
        Pending => matches!(
            to,
            Scheduled | Running | Cancelled | Infeasible | TimedOut | Failed
        ),
        Scheduled => matches!(to, Pending | Running | Stopping),
        Running => matches!(
            to,
            Pending | Stopping | Unknown | Succeeded | Failed | TimedOut | Cancelled
        ),
        Stopping => matches!(
            to,
            Pending | Unknown | Cancelled | Preempted | TimedOut | Succeeded | Failed
        ),
        Unknown => matches!(
            to,
            Pending
                | Running
                | Stopping
                | Lost
                | Succeeded
                | Failed
                | TimedOut
                | Cancelled
                | Preempted
        ),
        Succeeded | Failed | Cancelled | Preempted | TimedOut | Infeasible | Lost => false,
    }
}

impl StopReason {
    /// Every reason, for tables.
    pub const ALL: [StopReason; 5] = [
        StopReason::Preempted,
        StopReason::Drained,
        StopReason::Suspended,
        StopReason::TimedOut,
        StopReason::Cancelled,
    ];

    /// The order in which a reason may rise; Preempted and Drained weigh the same.
    pub fn weight(self) -> u8 {
        match self {
            StopReason::Preempted | StopReason::Drained => 0,
            StopReason::Suspended => 1,
            StopReason::TimedOut => 2,
            StopReason::Cancelled => 3,
        }
    }
}

/// What `status.stop` becomes when somebody wants a stop; `None` means that nothing changes.
///
/// A wish for an earlier attempt than the current stop's is ignored, one for a later attempt replaces it.
pub fn raise_stop(current: Option<&Stop>, wanted: Stop) -> Option<Stop> {
    let Some(current) = current else {
        return Some(wanted);
    };
    match wanted.attempt.cmp(&current.attempt) {
        std::cmp::Ordering::Less => return None,
        std::cmp::Ordering::Greater => return Some(wanted),
        std::cmp::Ordering::Equal => {}
    }
    let nearer = if wanted.deadline.0 < current.deadline.0 {
        wanted.deadline.clone()
    } else {
        current.deadline.clone()
    };
    let raised = if wanted.reason.weight() > current.reason.weight() {
        Stop {
            deadline: nearer,
            ..wanted
        }
    } else {
        Stop {
            deadline: nearer,
            ..current.clone()
        }
    };
    (raised != *current).then_some(raised)
}

/// How an attempt's process ended, as its shim recorded it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; absent when a signal ended it or it never started.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// True when the stop's signal was sent before the process ended.
    pub signalled_first: bool,
    /// Why it could not be started.
    pub start_error: Option<String>,
}

impl Exit {
    /// True for an exit with code 0.
    pub fn is_success(&self) -> bool {
        self.start_error.is_none() && self.signal.is_none() && self.code == Some(0)
    }
}

/// What the agent may write as `outcome` when it reports the end of an attempt; `None` leaves it to a lifecycle
/// controller: a preemption, drain or suspend came first, a failed attempt has retries left, or it is of a member of a gang,
/// which fails or starts anew as a whole.
///
/// A process that ended by itself is judged by its exit, whatever stop came after; a cancelled job is never requeued.
pub fn verdict(spec: &JobSpec, status: &JobStatus, exit: &Exit) -> Option<Outcome> {
    let cancelled = spec.cancel == Some(true);
    if let Some(stop) = current_stop(status).filter(|_| exit.signalled_first) {
        return match stop.reason {
            StopReason::Cancelled => Some(Outcome::Cancelled),
            StopReason::TimedOut => Some(Outcome::TimedOut),
            StopReason::Preempted | StopReason::Drained | StopReason::Suspended => {
                cancelled.then_some(Outcome::Cancelled)
            }
        };
    }
    if exit.is_success() {
        return Some(Outcome::Succeeded);
    }
    let is_member = status.gang.as_ref().is_some_and(|gang| gang.rank.is_some());
    let comes_back = is_member || has_retry_left(spec, status, exit);
    (cancelled || !comes_back).then_some(Outcome::Failed)
}

/// Why an attempt that was not stopped ended badly, as far as its exit tells.
pub fn failure_cause(exit: &Exit) -> RetryCause {
    if exit.start_error.is_some() {
        RetryCause::Node
    } else if exit.signal.is_some() {
        RetryCause::Signal
    } else {
        RetryCause::ExitCode
    }
}

/// May an attempt that failed by itself be tried again? The first retry rule that matches decides, else `backoffLimit`,
/// which counts the retries of all causes together.
pub fn has_retry_left(spec: &JobSpec, status: &JobStatus, exit: &Exit) -> bool {
    let cause = failure_cause(exit);
    let used: u32 = status
        .retries
        .values()
        .fold(0, |sum, n| sum.saturating_add(*n));
    let backoff_limit = spec.backoff_limit.unwrap_or(0);
    let rule = spec.retry.iter().find(|rule| {
        let by_code = rule.exit_codes.is_empty()
            || exit
                .code
                .is_some_and(|code| rule.exit_codes.contains(&code));
        by_code && (rule.causes.is_empty() || rule.causes.contains(&cause))
    });
    match rule.map(|rule| (rule.action, rule.limit)) {
        Some((RetryAction::Fail, _)) => false,
        Some((RetryAction::Retry, limit)) => used < limit.unwrap_or(backoff_limit),
        None => used < backoff_limit,
    }
}

/// The status of a job that goes back to the queue: binding, claim, stop and run facts are cleared, and the attempt is
/// remembered with the reason. Its place in the queue, attempt number, retries, checkpoint and excluded nodes stay. A job that has ended
/// is returned as it is, because terminal is final.
pub fn requeue(status: &JobStatus, reason: &str) -> JobStatus {
    if status.outcome.is_some() {
        return status.clone();
    }
    let mut attempts = status.attempts.clone();
    let known = attempts.last().map(|record| record.attempt);
    if let Some(binding) = status
        .binding
        .as_ref()
        .filter(|_| known != Some(status.attempt))
    {
        attempts.push(AttemptRecord {
            attempt: status.attempt,
            node_name: Some(binding.node_name.clone()),
            start_time: status.start_time.clone(),
            finish_time: status.finish_time.clone(),
            exit_code: status.exit_code,
            signal: status.signal,
            reason: Some(reason.to_owned()),
        });
    }
    let surplus = attempts.len().saturating_sub(MAX_ATTEMPT_RECORDS);
    attempts.drain(..surplus);
    let mut next = JobStatus {
        conditions: status.conditions.clone(),
        effective: status.effective.clone(),
        enqueue_time: status.enqueue_time.clone(),
        attempt: status.attempt,
        checkpoint: status.checkpoint.clone(),
        array: status.array.clone(),
        retries: status.retries.clone(),
        excluded_nodes: status.excluded_nodes.clone(),
        attempts,
        message: Some(reason.to_owned()),
        observed_generation: status.observed_generation,
        ..JobStatus::default()
    };
    next.phase = Some(derive(&next));
    next
}

/// Remembers that a node has not got a directory that the job needs. Beyond [`MAX_EXCLUDED_NODES`] nothing is remembered, and
/// the node may be tried again.
pub fn exclude(status: &mut JobStatus, node: &str) {
    let known = &mut status.excluded_nodes;
    if known.len() < MAX_EXCLUDED_NODES && !known.iter().any(|name| name == node) {
        known.push(node.to_owned());
    }
}

/// How [`terminal_message`] says that a signal ended an attempt.
pub fn ended_by(signal: i32) -> String {
    format!("ended by signal {signal} ({})", signal::name(signal))
}

/// One sentence for `status.message` about how an attempt ended.
pub fn terminal_message(status: &JobStatus, exit: &Exit) -> String {
    let stop = current_stop(status).filter(|_| exit.signalled_first);
    let ended = match (&exit.start_error, exit.signal, exit.code) {
        (Some(error), _, _) => format!("could not be started: {error}"),
        (None, Some(signal), _) => ended_by(signal),
        (None, None, Some(code)) => format!("exited with code {code}"),
        (None, None, None) => "ended without an exit status".to_owned(),
    };
    match stop {
        None => ended,
        Some(stop) => {
            let why = match stop.reason {
                StopReason::Preempted => "preempted",
                StopReason::Drained => "drained from its node",
                StopReason::Suspended => "suspended",
                StopReason::TimedOut => "stopped at its time limit",
                StopReason::Cancelled => "cancelled",
            };
            let words = stop.message.as_deref().unwrap_or(&stop.by);
            format!("{why} ({words}); {ended}")
        }
    }
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
