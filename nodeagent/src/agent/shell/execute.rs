//! Gathers what is known of one job, asks `decide`, and carries the plan out.

use std::sync::Arc;
use std::time::Duration;

use crds::Job;
use crds::job_status::Endpoint;
use kube::ResourceExt;
use tokio::time::Instant;

use super::super::capacity;
use super::super::decide::{Action, Local, LocalState, Observed, Seen, Write, decide};
use super::super::logs::Cursor;
use super::super::operations::{self, CallError, StartError};
use super::{
    Attempt, Done, FIRST_PAUSE, Known, LONGEST_PAUSE, OUTPUT_BEFORE_REPORT, Shell, first_of,
};
use crate::attempt::{AttemptId, Charge, Ended};
use crate::environment;

impl Shell {
    pub(super) fn reconcile(&mut self, uid: &str) {
        let context = Arc::clone(&self.context);
        let now = context.now();
        let mut look_again = None;
        let look = self.look(uid);
        let (misfit, endpoint) = self.look_for_room(uid);
        let Some(slot) = self.jobs.get(uid) else {
            return;
        };
        let locals: Vec<Local<'_>> = self
            .attempts
            .range(first_of(uid)..)
            .take_while(|(id, _)| id.uid == uid)
            .filter(|(_, attempt)| attempt.let_go.is_none())
            .map(|(id, attempt)| {
                let state = match (&attempt.ended, &attempt.lingering) {
                    (None, None) if attempt.fenced => LocalState::Fenced,
                    (None, None) => LocalState::Active {
                        kill_at: attempt.kill_at,
                    },
                    // The log goes on as long as somebody is there who may write to it.
                    (None, Some((ended, _))) => LocalState::Lingering {
                        ended,
                        usage: attempt.usage.as_ref(),
                    },
                    (Some((ended, at)), _) => {
                        let due = *at + OUTPUT_BEFORE_REPORT;
                        let sent = attempt.log.is_sent(context.options.runner.output_len(id));
                        let report = sent || Instant::now() >= due;
                        if !report {
                            look_again = Some(due);
                        }
                        LocalState::Ended {
                            ended,
                            usage: attempt.usage.as_ref(),
                            report,
                        }
                    }
                };
                Local {
                    attempt: id.attempt,
                    grace_secs: attempt.grace_secs,
                    checkpointed: attempt.checkpointed,
                    state,
                }
            })
            .collect();
        let (seen, misfit) = match &slot.seen {
            Known::Unverified { .. } if slot.name.is_empty() => (Seen::Gone, None),
            Known::Unverified { .. } => (Seen::Unverified, None),
            Known::Gone => (Seen::Gone, None),
            Known::Job { job, fresh } => {
                let seen = Seen::Job { job, fresh: *fresh };
                (seen, misfit)
            }
        };
        let plan = decide(&Observed {
            node_name: &context.options.node_name,
            boot_id: &context.facts.boot_id,
            seen,
            locals,
            misfit,
            endpoint,
            look,
            in_contact: context.in_contact(),
            // Before all that is bound here was seen once, members of gangs may hold room that is not known of.
            closing: self.closing || self.leaving || !self.listed,
            stop_all: self.stop_all,
            now,
        });
        if let Some(at) = look_again {
            self.look_again(uid, at);
        }
        if let Some(at) = plan.look_again {
            let pause = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            self.look_again(uid, Instant::now() + pause);
        }
        for action in plan.actions {
            self.execute(uid, action);
        }
        self.bury_if_done(uid);
    }

    /// Why a job's binding does not fit; and if it does, where a member of a gang will be reached.
    fn look_for_room(&mut self, uid: &str) -> (Option<String>, Option<Endpoint>) {
        let Some(Known::Job { job, .. }) = self.jobs.get(uid).map(|slot| &slot.seen) else {
            return (None, None);
        };
        let job = Arc::clone(job);
        if let Some(misfit) = self.misfit(uid, &job) {
            return (Some(misfit), None);
        }
        if !self.listed {
            return (None, None);
        }
        match self.endpoint(uid, &job) {
            Ok(endpoint) => (None, endpoint),
            Err(misfit) => (Some(misfit), None),
        }
    }

    /// Why the binding of a job that is not known here does not fit; only asked where a claim is at stake.
    pub(super) fn misfit(&self, uid: &str, job: &Job) -> Option<String> {
        let status = job.status.as_ref()?;
        let binding = status.binding.as_ref()?;
        let at_stake = status.claim.is_none() && status.outcome.is_none();
        if !at_stake {
            return None;
        }
        let claiming = self.claiming(uid);
        let held = self.held_beside(uid, status.attempt);
        let held = held.map(|(_, charge)| charge);
        let held = held.chain(claiming.iter().map(|(_, charge)| charge));
        let held = held.chain(self.held_by_members(uid).map(|(_, charge)| charge));
        let wanted = environment::charge(binding);
        capacity::misfit(&self.context.capacity(), held, &wanted)
    }

    /// What attempts here hold, but for this one.
    pub(super) fn held_beside<'a>(
        &'a self,
        uid: &'a str,
        attempt: u32,
    ) -> impl Iterator<Item = (&'a AttemptId, &'a Charge)> {
        let others = self.attempts.iter().filter(move |(id, known)| {
            known.ended.is_none() && !(id.uid == uid && id.attempt == attempt)
        });
        others.map(|(id, known)| (id, &known.charge))
    }

    /// What claims of other jobs will hold that are being written: they hold their room, too. Who only looks holds nothing.
    pub(super) fn claiming(&self, uid: &str) -> Vec<(AttemptId, Charge)> {
        let others = self.jobs.iter();
        let others = others.filter(|(other, slot)| {
            *other != uid && slot.operations > 0 && slot.hold.is_none() && !slot.looks.under_way
        });
        let claims = others.filter_map(|(other, slot)| match &slot.seen {
            Known::Job { job, .. } => {
                let status = job.status.as_ref()?;
                let id = AttemptId {
                    uid: other.clone(),
                    attempt: status.attempt,
                };
                let known = self.attempts.contains_key(&id);
                let binding = status.binding.as_ref()?;
                (!known && status.outcome.is_none()).then(|| (id, environment::charge(binding)))
            }
            Known::Unverified { .. } | Known::Gone => None,
        });
        claims.collect()
    }

    pub(super) fn execute(&mut self, uid: &str, action: Action) {
        let Some(slot) = self.jobs.get_mut(uid) else {
            return;
        };
        let context = Arc::clone(&self.context);
        match action {
            Action::Read => {
                slot.operations += 1;
                let (namespace, name, uid) =
                    (slot.namespace.clone(), slot.name.clone(), uid.to_owned());
                self.operations.spawn(async move {
                    let read = operations::read(context, namespace, name, uid.clone()).await;
                    Done::Job(uid, read.map(|job| job.map(Box::new)))
                });
            }
            Action::Look => self.begin_look(uid),
            Action::Write(why, next) => {
                let Known::Job { job, .. } = &slot.seen else {
                    return;
                };
                slot.operations += 1;
                let (job, uid) = (Arc::clone(job), uid.to_owned());
                log_write(why, &job, &next);
                self.operations.spawn(async move {
                    let written = operations::write(context, job, *next).await;
                    Done::Job(uid, written.map(|job| Some(Box::new(job))))
                });
            }
            Action::Start { attempt } => {
                let Known::Job { job, .. } = &slot.seen else {
                    return;
                };
                let job = Arc::clone(job);
                slot.operations += 1;
                slot.let_port_go();
                let id = AttemptId {
                    uid: uid.to_owned(),
                    attempt,
                };
                let binding = job
                    .status
                    .as_ref()
                    .and_then(|status| status.binding.as_ref());
                let known = Attempt {
                    namespace: slot.namespace.clone(),
                    name: slot.name.clone(),
                    grace_secs: environment::grace_secs(&job),
                    charge: binding.map(environment::charge).unwrap_or_default(),
                    kill_at: None,
                    fenced: false,
                    ended: None,
                    lingering: None,
                    usage: None,
                    checkpointed: None,
                    let_go: None,
                    log: Cursor::default(),
                };
                self.attempts.insert(id.clone(), known);
                self.publish_running();
                self.operations.spawn(async move {
                    let started = operations::start(context, job).await;
                    Done::Started(id, started)
                });
            }
            Action::Stop { attempt, kill_at } => {
                slot.operations += 1;
                let id = AttemptId {
                    uid: uid.to_owned(),
                    attempt,
                };
                self.operations.spawn(async move {
                    let stopped = context.options.runner.stop(id.clone(), kill_at).await;
                    if let Err(error) = &stopped {
                        let error = crate::error_chain(error);
                        tracing::warn!(error, attempt = %id, "failed to pass on a stop");
                    }
                    Done::Stopped(id, kill_at, stopped.is_ok())
                });
            }
            Action::Thaw { attempt } => self.thaw(uid, attempt),
            Action::LetGo {
                attempt,
                keep_output,
            } => {
                let id = AttemptId {
                    uid: uid.to_owned(),
                    attempt,
                };
                if let Some(known) = self.attempts.get_mut(&id) {
                    known.let_go = Some(keep_output);
                }
                self.forget_if_safe(&id);
            }
        }
    }

    fn thaw(&mut self, uid: &str, attempt: u32) {
        let Some(slot) = self.jobs.get_mut(uid) else {
            return;
        };
        slot.operations += 1;
        let context = Arc::clone(&self.context);
        let id = AttemptId {
            uid: uid.to_owned(),
            attempt,
        };
        self.operations.spawn(async move {
            tracing::info!(attempt = %id, "contact is back: thawing");
            let thawed = context.options.runner.thaw(id.clone()).await;
            if let Err(error) = &thawed {
                let error = crate::error_chain(error);
                tracing::warn!(error, attempt = %id, "failed to thaw");
            }
            Done::Thawed(id, thawed.is_ok())
        });
    }

    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Job(uid, result) => self.on_answer(&uid, result),
            Done::Looked(uid, found) => self.on_looked(&uid, found),
            Done::Started(id, result) => self.on_started(&id, result),
            Done::Stopped(id, kill_at, passed_on) => {
                if let Some(attempt) = self.attempts.get_mut(&id)
                    && passed_on
                {
                    attempt.kill_at = Some(kill_at);
                    attempt.fenced = false;
                }
                self.settle(&id.uid.clone(), passed_on);
            }
            Done::Thawed(id, done) => {
                if let Some(attempt) = self.attempts.get_mut(&id)
                    && done
                {
                    attempt.fenced = false;
                }
                self.settle(&id.uid.clone(), done);
            }
            Done::Sent(id, answer) => {
                self.sends -= 1;
                self.on_sent(&id, &answer);
            }
            Done::Forgotten => {}
            Done::Checkpoints(told) => self.on_checkpoints(told),
        }
    }

    /// One operation of a job ended; what failed is decided again after a pause.
    pub(super) fn settle(&mut self, uid: &str, well: bool) {
        let Some(slot) = self.jobs.get_mut(uid) else {
            return;
        };
        slot.operations -= 1;
        if well {
            slot.failures = 0;
            slot.not_before = None;
        } else {
            let pause = FIRST_PAUSE * (1 << slot.failures.min(7));
            slot.failures += 1;
            slot.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
        }
        if slot.operations == 0 && slot.hinted {
            self.heed_hint(uid);
        }
        self.enqueue(uid);
    }

    pub(super) fn on_answer(&mut self, uid: &str, result: Result<Option<Box<Job>>, CallError>) {
        let well = match result {
            Ok(Some(job)) => {
                self.on_job(*job, true);
                true
            }
            Ok(None) => {
                if let Some(slot) = self.jobs.get_mut(uid) {
                    slot.seen = Known::Gone;
                    slot.hold = None;
                }
                true
            }
            Err(CallError::Stale) => {
                self.doubt(uid);
                true
            }
            Err(CallError::Failed(error)) => {
                tracing::warn!(
                    uid,
                    error = crate::error_chain(&error),
                    "a call for a job failed"
                );
                self.doubt(uid);
                false
            }
        };
        self.settle(uid, well);
    }

    pub(super) fn on_started(&mut self, id: &AttemptId, result: Result<(), StartError>) {
        let well = match result {
            Ok(()) => true,
            Err(StartError::Refused(reason)) => {
                let ended = Ended {
                    finished_micros: Some(self.context.now().as_microsecond()),
                    start_error: Some(reason),
                    ..Ended::default()
                };
                self.on_end(id, ended);
                true
            }
            Err(StartError::Later(error)) => {
                tracing::warn!(attempt = %id, error, "a start failed and is tried again");
                // It holds nothing until it is tried again, on a fresh look.
                self.attempts.remove(id);
                self.doubt(&id.uid);
                false
            }
        };
        self.settle(&id.uid, well);
    }
}

fn log_write(why: Write, job: &Job, next: &crds::JobStatus) {
    let name = job.name_any();
    let namespace = job.namespace().unwrap_or_default();
    let attempt = next.attempt;
    match why {
        Write::Claim => tracing::debug!(namespace, name, attempt, "claiming"),
        Write::Begin => tracing::debug!(namespace, name, attempt, "beginning with its gang"),
        Write::Refuse => {
            let reason = next
                .attempts
                .last()
                .and_then(|record| record.reason.clone());
            tracing::warn!(namespace, name, attempt, reason, "refusing a binding");
        }
        Write::Again => {
            tracing::warn!(namespace, name, attempt, "never started: back to the queue");
        }
        Write::Checkpoint => tracing::debug!(namespace, name, attempt, "telling of a checkpoint"),
        Write::Back => tracing::info!(namespace, name, attempt, "seen again"),
        Write::Release => tracing::debug!(namespace, name, attempt, "releasing"),
        Write::End => {
            let phase = next.phase.map(crds::Phase::as_str);
            tracing::debug!(namespace, name, attempt, phase, "reporting an end");
        }
    }
}
