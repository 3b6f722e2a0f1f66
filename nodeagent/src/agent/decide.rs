//! Decides what to do about one job on this node. Pure: no I/O, no clock, no memory of its own.
//!
//! # Guarantees
//!
//! - Nothing is started unless the job, as the server holds it now, bears this node's claim of this boot for the
//!   current attempt, and nothing of that attempt is known here.
//! - A member of a gang is claimed with an endpoint and begins, by a write of its own, once its gang may go (`gang`).
//! - Only "gone", another node or another attempt stops a process that nobody asked to stop; not knowing never does.
//! - What is frozen for want of contact goes on only after an answer of the server, younger than the freezing, says that
//!   it is still the current attempt; otherwise it is killed as it is.
//! - An end is reported until the server's copy says so, and an attempt is let go only then.
//! - The release is written once nothing of the attempt is left: with the end as a rule, and by itself where a process
//!   took longer to die than the end should wait for.

mod gang;

use crds::job::OnNodeLost;
use crds::job_status::{Checkpoint, Claim, Endpoint, JobStatus, Release, Stop, StopReason, Usage};
use crds::phase::{self, Exit};
use crds::{Job, Phase};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::attempt::{Ended, SignalCause};

/// Word that starts the reason of a refusal in the attempt's record.
pub(crate) const REFUSED: &str = "Refused";
/// Time from one write of a running attempt's checkpoint to the next.
const CHECKPOINT_PAUSE: SignedDuration = SignedDuration::from_mins(1);
/// Longest pause before another refusal of the same job.
const LONGEST_REFUSAL_PAUSE: SignedDuration = SignedDuration::from_secs(60);

/// What is known of the job.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen<'a> {
    /// Nothing for sure: a hint came that it is gone, or a write's answer was lost.
    Unverified,
    /// The server said that there is no such job.
    Gone,
    /// The job; `fresh` when it came from an answer of the server to this agent, not from the watch.
    Job { job: &'a Job, fresh: bool },
}

/// What is known here of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Local<'a> {
    pub(crate) attempt: u32,
    pub(crate) grace_secs: u32,
    /// When it was seen to have said that its checkpoint is complete.
    pub(crate) checkpointed: Option<Timestamp>,
    pub(crate) state: LocalState<'a>,
}

/// How far an attempt has come here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LocalState<'a> {
    /// It runs, or is about to; with the time of KILL if a stop was passed on.
    Active { kill_at: Option<Timestamp> },
    /// It is frozen for want of contact.
    Fenced,
    /// It ended, and something of it is still there.
    Lingering {
        ended: &'a Ended,
        usage: Option<&'a Usage>,
    },
    /// It ended and nothing is left of it. `report` is false while the last of its output is still being sent.
    Ended {
        ended: &'a Ended,
        usage: Option<&'a Usage>,
        report: bool,
    },
}

/// What a last look at the cards and directories of a binding said, which comes before the claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is to be done.
    Due,
    /// Nothing is in the way, or there is nothing to look at.
    #[default]
    Clear,
    /// The binding cannot be claimed now, for this reason.
    Full(String),
    /// This node has not got this directory, and will not be asked again.
    NoDirectory(String),
}

/// The world as far as one job is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) node_name: &'a str,
    pub(crate) boot_id: &'a str,
    pub(crate) seen: Seen<'a>,
    /// Attempts of the job that are known here, ascending.
    pub(crate) locals: Vec<Local<'a>>,
    /// Why the binding does not fit beside what runs here.
    pub(crate) misfit: Option<String>,
    /// Where a member of a gang that is to be claimed will be reached.
    pub(crate) endpoint: Option<Endpoint>,
    /// What the last look before the claim said; only asked where a claim is at stake.
    pub(crate) look: Look,
    /// True when the control plane was heard of lately.
    pub(crate) in_contact: bool,
    /// True when this agent takes no new attempts.
    pub(crate) closing: bool,
    /// True when this agent ends with its jobs.
    pub(crate) stop_all: bool,
    pub(crate) now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Read the job by name.
    Read,
    /// Look at the cards and directories of the binding.
    Look,
    /// Write the status, on the version that was seen.
    Write(Write, Box<JobStatus>),
    /// Start the current attempt.
    Start { attempt: u32 },
    /// Pass on a stop.
    Stop { attempt: u32, kill_at: Timestamp },
    /// Let a frozen attempt go on.
    Thaw { attempt: u32 },
    /// Nothing needs the attempt here any more, once its output is safe; `keep_output` is false when nobody could read
    /// it.
    LetGo { attempt: u32, keep_output: bool },
}

/// What a status write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// The permit to start; of a member of a gang, that its node is ready for it.
    Claim,
    /// The gang of a member may go, and the member starts next.
    Begin,
    /// Back to the queue: it does not fit.
    Refuse,
    /// An attempt ended, or ends without having run.
    End,
    /// Nothing is left of an attempt whose end is written.
    Release,
    /// The node is seen again, and the attempt goes on.
    Back,
    /// Back to the queue: nothing of the attempt was ever started.
    Again,
    /// A running attempt has a newer checkpoint.
    Checkpoint,
}

/// What to do, and when to look again without any news.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) look_again: Option<Timestamp>,
}

/// Decides what one job needs of this node now.
pub(crate) fn decide(observed: &Observed<'_>) -> Plan {
    match observed.seen {
        Seen::Unverified => Plan {
            actions: vec![Action::Read],
            look_again: None,
        },
        Seen::Gone => Plan {
            actions: abandon(observed, None, false),
            look_again: None,
        },
        Seen::Job { job, fresh } => {
            let status = job.status.clone().unwrap_or_default();
            let bound = status
                .binding
                .as_ref()
                .is_some_and(|binding| binding.node_name == observed.node_name);
            let held = bound && phase::held_binding(&status).is_some();
            let current = (bound && (status.outcome.is_none() || held)).then_some(status.attempt);
            let mut plan = Plan {
                actions: abandon(observed, current, true),
                look_again: None,
            };
            if current.is_some() {
                attend(observed, job, &status, fresh, &mut plan);
            }
            plan
        }
    }
}

/// Attempts that are not the current one here: what runs is stopped, what ended is let go.
fn abandon(observed: &Observed<'_>, current: Option<u32>, keep_output: bool) -> Vec<Action> {
    let others = observed
        .locals
        .iter()
        .filter(|local| Some(local.attempt) != current);
    others
        .filter_map(|local| match local.state {
            // What lingers is killed by its shim until it is gone.
            LocalState::Active { kill_at: Some(_) } | LocalState::Lingering { .. } => None,
            LocalState::Active { kill_at: None } => Some(Action::Stop {
                attempt: local.attempt,
                kill_at: grace_end(observed, Some(local)),
            }),
            LocalState::Fenced => Some(Action::Stop {
                attempt: local.attempt,
                kill_at: observed.now,
            }),
            LocalState::Ended { .. } => Some(Action::LetGo {
                attempt: local.attempt,
                keep_output,
            }),
        })
        .collect()
}

/// The current attempt of a job that is bound here and has not ended, or is not yet released.
fn attend(observed: &Observed<'_>, job: &Job, status: &JobStatus, fresh: bool, plan: &mut Plan) {
    let attempt = status.attempt;
    let reported = status
        .release
        .as_ref()
        .is_some_and(|release| release.attempt == attempt);
    let told = status.outcome.is_some() || status.finish_time.is_some();
    let stop = phase::current_stop(status);
    let local = observed
        .locals
        .iter()
        .find(|local| local.attempt == attempt);
    match local.map(|local| local.state) {
        Some(LocalState::Ended { .. }) if reported => plan.actions.push(Action::LetGo {
            attempt,
            keep_output: true,
        }),
        Some(LocalState::Ended { ended, usage, .. }) if told => {
            let next = release(observed, status, ended, usage);
            plan.actions
                .push(Action::Write(Write::Release, Box::new(next)));
        }
        Some(LocalState::Lingering { .. }) if told => {}
        Some(LocalState::Ended { report: false, .. }) => {}
        Some(LocalState::Ended { ended, .. })
            if ended.unstarted && stop.is_none() && is_of_this_boot(observed, status) =>
        {
            let next = never_started(status);
            plan.actions
                .push(Action::Write(Write::Again, Box::new(next)));
        }
        Some(LocalState::Ended { ended, usage, .. } | LocalState::Lingering { ended, usage }) => {
            let next = end(observed, job, status, ended, usage);
            plan.actions.push(Action::Write(Write::End, Box::new(next)));
        }
        Some(LocalState::Fenced) if status.outcome.is_some() || observed.stop_all => {
            plan.actions.push(Action::Stop {
                attempt,
                kill_at: observed.now,
            });
        }
        Some(LocalState::Fenced) if !observed.in_contact => {}
        Some(LocalState::Fenced) if !fresh => plan.actions.push(Action::Read),
        Some(LocalState::Fenced) if status.node_silent => {
            // Whoever decided to run it elsewhere, on what was written before this, finds that it has changed.
            let mut next = status.clone();
            next.node_silent = false;
            next.message = Some(format!("node {} is seen again", observed.node_name));
            next.phase = Some(phase::derive(&next));
            plan.actions
                .push(Action::Write(Write::Back, Box::new(next)));
        }
        Some(LocalState::Fenced) => plan.actions.push(Action::Thaw { attempt }),
        Some(LocalState::Active { kill_at }) => {
            // It ends with this agent, or somebody else ended the job while it runs.
            let due = observed.stop_all || (status.outcome.is_some() && kill_at.is_none());
            let own = due.then(|| grace_end(observed, local));
            let wanted = stop
                .map(|stop| stop.deadline.0)
                .into_iter()
                .chain(own)
                .min();
            if let Some(wanted) = wanted
                && kill_at.is_none_or(|kill_at| wanted < kill_at)
            {
                plan.actions.push(Action::Stop {
                    attempt,
                    kill_at: wanted,
                });
            } else if !told && let Some(time) = local.and_then(|local| local.checkpointed) {
                checkpoint(observed, status, time, plan);
            }
        }
        None if reported || told => {}
        None => match phase::current_claim(status) {
            Some(claim) if !phase::may_have_begun(status) => {
                gang::attend(observed, job, status, claim, plan);
            }
            // The watch may lag behind what this agent itself wrote, so nothing starts on its word.
            Some(_) if !fresh => plan.actions.push(Action::Read),
            Some(claim) => claimed(observed, job, status, claim, plan),
            None => unclaimed(observed, job, status, plan),
        },
    }
}

/// Tells of a newer checkpoint of a running attempt, from time to time.
fn checkpoint(observed: &Observed<'_>, status: &JobStatus, time: Timestamp, plan: &mut Plan) {
    let Some(checkpoint) = newer_checkpoint(status, time) else {
        return;
    };
    let known = status.checkpoint.as_ref();
    let known = known.filter(|known| known.attempt == status.attempt);
    let told = known.and_then(|known| known.time.as_ref());
    let due = told.and_then(|told| told.0.checked_add(CHECKPOINT_PAUSE).ok());
    if let Some(due) = due.filter(|due| observed.now < *due) {
        plan.look_again = Some(plan.look_again.map_or(due, |other| other.min(due)));
        return;
    }
    let mut next = status.clone();
    next.checkpoint = Some(checkpoint);
    plan.actions
        .push(Action::Write(Write::Checkpoint, Box::new(next)));
}

/// The checkpoint of the current attempt, if that is news.
fn newer_checkpoint(status: &JobStatus, time: Timestamp) -> Option<Checkpoint> {
    let known = status.checkpoint.as_ref();
    let known = known.filter(|known| known.attempt == status.attempt);
    let known = known.and_then(|known| known.time.as_ref());
    known
        .is_none_or(|known| known.0 < time)
        .then(|| Checkpoint {
            attempt: status.attempt,
            time: Some(micro(time)),
        })
}

/// Was the job claimed in this boot? Only then what is on the disk is all that was written there.
fn is_of_this_boot(observed: &Observed<'_>, status: &JobStatus) -> bool {
    let claim = phase::current_claim(status);
    claim.is_some_and(|claim| claim.boot_id == observed.boot_id)
}

/// The status of a job that goes back to its place in the queue, because nothing of its attempt ran.
fn never_started(status: &JobStatus) -> JobStatus {
    let status = JobStatus {
        start_time: None,
        ..status.clone()
    };
    phase::requeue(&status, "its attempt was prepared and never started")
}

fn grace_end(observed: &Observed<'_>, local: Option<&Local<'_>>) -> Timestamp {
    let secs = local.map_or(0, |local| i64::from(local.grace_secs));
    observed.now + SignedDuration::from_secs(secs)
}

/// Claimed by this node, and nothing is known of it here.
fn claimed(observed: &Observed<'_>, job: &Job, status: &JobStatus, claim: &Claim, plan: &mut Plan) {
    if claim.boot_id != observed.boot_id {
        let lost = Ended {
            finished_micros: Some(observed.now.as_microsecond()),
            lost: Some("the node was started anew while the attempt ran".to_owned()),
            ..Ended::default()
        };
        let next = end(observed, job, status, &lost, None);
        plan.actions.push(Action::Write(Write::End, Box::new(next)));
    } else if phase::current_stop(status).is_some() {
        let next = end(observed, job, status, &unstarted(observed.now), None);
        plan.actions.push(Action::Write(Write::End, Box::new(next)));
    } else if !observed.closing {
        plan.actions.push(Action::Start {
            attempt: status.attempt,
        });
    }
}

fn unclaimed(observed: &Observed<'_>, job: &Job, status: &JobStatus, plan: &mut Plan) {
    if phase::current_stop(status).is_some() {
        let next = end(observed, job, status, &unstarted(observed.now), None);
        plan.actions.push(Action::Write(Write::End, Box::new(next)));
        return;
    }
    if is_ending(job) || observed.closing {
        return;
    }
    match (&observed.misfit, &observed.look) {
        (None, Look::Due) => plan.actions.push(Action::Look),
        (None, Look::NoDirectory(directory)) => {
            let next = excluded(observed, status, directory);
            plan.actions
                .push(Action::Write(Write::Refuse, Box::new(next)));
        }
        (None, Look::Clear) => {
            let mut next = status.clone();
            next.claim = Some(Claim {
                node_name: observed.node_name.to_owned(),
                boot_id: observed.boot_id.to_owned(),
                attempt: status.attempt,
                time: Some(micro(observed.now)),
                endpoint: observed.endpoint.clone(),
            });
            if status.gang.is_none() {
                next.start_time = Some(micro(observed.now));
            }
            next.phase = Some(phase::derive(&next));
            plan.actions
                .push(Action::Write(Write::Claim, Box::new(next)));
        }
        (Some(reason), _) | (None, Look::Full(reason)) => {
            let due = refusal_due(status, observed.now);
            if due <= observed.now {
                let next = phase::requeue(status, &format!("{REFUSED}: {reason}"));
                plan.actions
                    .push(Action::Write(Write::Refuse, Box::new(next)));
            } else {
                plan.look_again = Some(due);
            }
        }
    }
}

/// Whoever wants these to end writes a stop; until then they are not begun.
fn is_ending(job: &Job) -> bool {
    job.metadata.deletion_timestamp.is_some()
        || job.spec.cancel == Some(true)
        || job.spec.suspend == Some(true)
}

/// Back to the queue, and never to this node again: it has not got a directory that the job needs.
fn excluded(observed: &Observed<'_>, status: &JobStatus, directory: &str) -> JobStatus {
    let node = observed.node_name;
    let reason = format!("{REFUSED}: there is no directory {directory} on {node}");
    let mut next = phase::requeue(status, &reason);
    phase::exclude(&mut next, node);
    next
}

/// A job that is refused again and again is refused ever later, so that agent and placement do not spin.
fn refusal_due(status: &JobStatus, now: Timestamp) -> Timestamp {
    let refused = status
        .attempts
        .iter()
        .rev()
        .take_while(|record| {
            let reason = record.reason.as_deref().unwrap_or_default();
            reason.starts_with(REFUSED)
        })
        .count();
    let Some(bound) = status
        .binding
        .as_ref()
        .and_then(|binding| binding.time.as_ref())
    else {
        return now;
    };
    let pause = match u32::try_from(refused).unwrap_or(u32::MAX) {
        0 => SignedDuration::ZERO,
        refused => {
            SignedDuration::from_secs(1_i64 << (refused - 1).min(6)).min(LONGEST_REFUSAL_PAUSE)
        }
    };
    // A binding from the future (another host's clock) does not delay beyond the pause itself.
    bound.0.min(now).saturating_add(pause).unwrap_or(now)
}

fn unstarted(now: Timestamp) -> Ended {
    Ended {
        finished_micros: Some(now.as_microsecond()),
        signalled: Some(SignalCause::Stop),
        ..Ended::default()
    }
}

/// The status after an attempt ended, or ends without having run.
fn end(
    observed: &Observed<'_>,
    job: &Job,
    status: &JobStatus,
    ended: &Ended,
    usage: Option<&Usage>,
) -> JobStatus {
    let mut next = status.clone();
    let lost = unseen(ended);
    let attempt = status.attempt;
    let finished = ended
        .finished_micros
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .unwrap_or(observed.now);
    if let Some((reason, words)) = own_stop(&next, ended) {
        let wanted = Stop {
            attempt,
            reason,
            by: format!("agent/{}", observed.node_name),
            deadline: Time(finished),
            message: Some(words),
        };
        if let Some(stop) = phase::raise_stop(next.stop.as_ref(), wanted) {
            next.stop = Some(stop);
        }
    }
    let exit = Exit {
        code: ended.code,
        signal: ended.signal,
        signalled_first: ended.signalled.is_some(),
        start_error: ended.start_error.clone(),
    };
    let started = ended
        .started_micros
        .and_then(|micros| Timestamp::from_microsecond(micros).ok());
    if started.is_some() || lost.is_none() {
        next.start_time = started.map(micro);
    }
    next.finish_time = Some(micro(finished));
    next.exit_code = ended.code;
    next.signal = ended.signal;
    next.signal_name = ended.signal.map(crds::signal::name);
    next.usage = merged_usage(usage, ended);
    let checkpointed = ended
        .checkpointed_micros
        .and_then(|micros| Timestamp::from_microsecond(micros).ok());
    if let Some(checkpoint) = checkpointed.and_then(|time| newer_checkpoint(&next, time)) {
        next.checkpoint = Some(checkpoint);
    }
    next.release = proof(observed, attempt, ended);
    next.outcome = if lost.is_some() && followed_up(&next) {
        None
    } else {
        phase::verdict(&job.spec, &next, &exit)
    };
    next.phase = Some(phase::derive(&next));
    next.message = match (lost, next.phase) {
        (_, Some(Phase::Succeeded)) => None,
        (Some(lost), _) => Some(lost.to_owned()),
        (None, _) => Some(phase::terminal_message(&next, &exit)),
    };
    if let Some(pids) = &ended.lingering {
        next.message = Some(with_rest(next.message, pids));
    }
    next
}

/// The status once nothing is left of an attempt whose end is written: what was told of the end stays told.
fn release(
    observed: &Observed<'_>,
    status: &JobStatus,
    ended: &Ended,
    usage: Option<&Usage>,
) -> JobStatus {
    let mut next = status.clone();
    next.usage = merged_usage(usage.or(status.usage.as_ref()), ended);
    next.release = proof(observed, status.attempt, ended);
    next.message = next.message.and_then(without_rest);
    next.phase = Some(phase::derive(&next));
    next
}

/// The proof that nothing of the attempt is left, if it is there.
fn proof(observed: &Observed<'_>, attempt: u32, ended: &Ended) -> Option<Release> {
    ended.lingering.is_none().then(|| Release {
        attempt,
        time: Some(micro(observed.now)),
        lost: unseen(ended).is_some(),
    })
}

/// Why the end says nothing of the job itself: nobody saw it, or it came for want of contact.
fn unseen(ended: &Ended) -> Option<&str> {
    let fenced = ended.signalled == Some(SignalCause::Fence);
    let fenced = fenced.then_some("its node had no contact with the control plane for too long");
    ended.lost.as_deref().or(fenced)
}

/// Words that begin what is said of the processes that are left.
const REST: &str = "not dead yet, so what it was given is not free: ";

fn with_rest(message: Option<String>, pids: &[i32]) -> String {
    let pids: Vec<String> = pids.iter().map(|pid| format!("process {pid}")).collect();
    let rest = if pids.is_empty() {
        "something of it".to_owned()
    } else {
        pids.join(", ")
    };
    match message {
        Some(message) => format!("{message}; {REST}{rest}"),
        None => format!("{REST}{rest}"),
    }
}

fn without_rest(message: String) -> Option<String> {
    match message.find(REST) {
        Some(0) => None,
        Some(from) => Some(message[..from].trim_end_matches("; ").to_owned()),
        None => Some(message),
    }
}

/// May an attempt whose end nobody saw have a sequel? Then a lifecycle controller decides on it: the job is to run again
/// when its node is lost, or somebody had asked for a stop. Without either it ends here, and is not run twice.
fn followed_up(status: &JobStatus) -> bool {
    let effective = status.effective.as_ref();
    let on_node_lost = effective.map_or(OnNodeLost::Wait, |e| e.on_node_lost.value);
    on_node_lost == OnNodeLost::Requeue || phase::current_stop(status).is_some()
}

/// The stop that this agent itself is answerable for, if one.
fn own_stop(status: &JobStatus, ended: &Ended) -> Option<(StopReason, String)> {
    match ended.signalled {
        None | Some(SignalCause::Fence) => None,
        Some(SignalCause::Deadline) => {
            let effective = status.effective.clone().unwrap_or_default();
            Some((StopReason::TimedOut, effective.limit_words()))
        }
        // Nobody asked by the API, so it was this node's own end that stopped the attempt.
        Some(SignalCause::Stop) => phase::current_stop(status).is_none().then_some((
            StopReason::Drained,
            "the node's agent was ended with its jobs".to_owned(),
        )),
    }
}

fn merged_usage(gpu: Option<&Usage>, ended: &Ended) -> Option<Usage> {
    let mut usage = gpu.cloned().unwrap_or_default();
    usage.cpu_time_millis = ended.cpu_millis;
    usage.peak_memory_bytes = ended.peak_memory_bytes;
    (usage != Usage::default()).then_some(usage)
}

fn micro(time: Timestamp) -> MicroTime {
    MicroTime(time)
}

#[cfg(test)]
#[path = "decide_fence_tests.rs"]
mod fence_tests;
#[cfg(test)]
#[path = "decide_gang_tests.rs"]
mod gang_tests;
#[cfg(test)]
#[path = "decide_release_tests.rs"]
mod release_tests;
#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
