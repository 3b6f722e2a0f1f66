//! The thin shell around `decide`: gathers what is known, executes what was decided, and asks again on news.
//!
//! One task owns all state, so there is no lock and no order but the queue's. A job has at most one operation under way
//! at a time; operations are bounded in number and joined.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crds::Job;
use crds::job_status::{Usage, VramVerdict};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::decide::{Action, Local, LocalState, Observed, Seen, Write, decide};
use super::logs::{self, Cursor, Position, SendError};
use super::operations::{self, CallError, StartError};
use super::{Context, RunError, capacity};
use crate::attempt::{AttemptId, Charge, Ended};
use crate::environment;
use crate::runner::Attached;

/// Operations under way at once.
const MOST_OPERATIONS: usize = 48;
/// Pieces of logs under way at once, beside the operations.
const MOST_SENDS: usize = 16;
/// How often growing logs are looked at.
const LOG_PERIOD: Duration = Duration::from_millis(200);
/// How long the report of an end waits for the last of the output to be sent.
const OUTPUT_BEFORE_REPORT: Duration = Duration::from_secs(2);
/// Pause before a broken watch is begun again.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a shutdown waits for operations that are under way.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(3);
/// Ended jobs that are remembered, so that late news of them costs nothing.
const MOST_TOMBS: usize = 8192;

struct JobSlot {
    namespace: String,
    name: String,
    seen: Known,
    operations: u32,
    queued: bool,
    /// The watch said that it is gone while an operation was under way.
    hinted: bool,
    failures: u32,
    not_before: Option<Instant>,
}

impl JobSlot {
    fn new(namespace: String, name: String, seen: Known) -> Self {
        Self {
            namespace,
            name,
            seen,
            operations: 0,
            queued: false,
            hinted: false,
            failures: 0,
            not_before: None,
        }
    }
}

enum Known {
    /// To be read; with the latest that the watch said meanwhile.
    Unverified {
        news: Option<Arc<Job>>,
    },
    Gone,
    Job {
        job: Arc<Job>,
        fresh: bool,
    },
}

struct Attempt {
    namespace: String,
    name: String,
    grace_secs: u32,
    charge: Charge,
    kill_at: Option<Timestamp>,
    ended: Option<(Ended, Instant)>,
    usage: Option<Usage>,
    let_go: Option<bool>,
    log: Cursor,
}

enum Done {
    Job(String, Result<Option<Box<Job>>, CallError>),
    Started(AttemptId, Result<(), StartError>),
    Stopped(AttemptId, Timestamp, bool),
    Sent(AttemptId, Result<Position, SendError>),
    Forgotten,
}

/// All state of the jobs' part of an agent.
pub(super) struct Shell {
    context: Arc<Context>,
    jobs: BTreeMap<String, JobSlot>,
    attempts: BTreeMap<AttemptId, Attempt>,
    queue: VecDeque<String>,
    timers: BTreeSet<(Instant, String)>,
    operations: JoinSet<Done>,
    sends: usize,
    ends: mpsc::Receiver<(AttemptId, Ended)>,
    /// Uids of the list that is being received.
    listing: Option<BTreeSet<String>>,
    forgets: Vec<AttemptId>,
    tombs: VecDeque<(String, u64)>,
    tomb_versions: BTreeMap<String, u64>,
    closing: bool,
    stop_all: bool,
}

impl Shell {
    pub(super) fn new(context: Arc<Context>, attached: Attached) -> Self {
        let mut shell = Self {
            context,
            jobs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            queue: VecDeque::new(),
            timers: BTreeSet::new(),
            operations: JoinSet::new(),
            sends: 0,
            ends: attached.ends,
            listing: None,
            forgets: Vec::new(),
            tombs: VecDeque::new(),
            tomb_versions: BTreeMap::new(),
            closing: false,
            stop_all: false,
        };
        let now = Instant::now();
        for held in attached.held {
            shell.jobs.entry(held.id.uid.clone()).or_insert_with(|| {
                let seen = Known::Unverified { news: None };
                JobSlot::new(held.namespace.clone(), held.name.clone(), seen)
            });
            shell.enqueue(&held.id.uid.clone());
            let attempt = Attempt {
                namespace: held.namespace,
                name: held.name,
                grace_secs: held.grace_secs,
                charge: held.charge,
                kill_at: None,
                ended: held.ended.map(|ended| (ended, now)),
                usage: None,
                let_go: None,
                log: Cursor::default(),
            };
            shell.attempts.insert(held.id, attempt);
        }
        shell
    }

    /// Runs until the shutdown, and until the jobs are stopped where that is asked for.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let api: Api<Job> = Api::all(self.context.client.clone());
        let node = &self.context.options.node_name;
        let config = watcher::Config::default().fields(&selector(node));
        let mut watch = watcher(api, config).boxed();
        let mut watch_again: Option<Instant> = None;
        let mut log_tick = tokio::time::interval(LOG_PERIOD);
        log_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.publish_running();
        loop {
            self.dispatch();
            self.send_forgets();
            if self.closing && self.is_at_rest() {
                return Ok(());
            }
            let timer = self.timers.first().map(|(time, _)| *time);
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !self.closing => {
                    self.closing = true;
                    self.stop_all = self.context.stops_jobs();
                    if !self.stop_all {
                        self.drain().await;
                        return Ok(());
                    }
                    tracing::info!(attempts = self.attempts.len(), "stopping all jobs");
                    self.enqueue_all();
                }
                Some(done) = self.operations.join_next(), if !self.operations.is_empty() => {
                    match done {
                        Ok(done) => self.on_done(done),
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    }
                }
                end = self.ends.recv() => match end {
                    Some((id, ended)) => self.on_end(&id, ended),
                    None => return Err(RunError::RunnerEnded),
                },
                event = watch.try_next(), if watch_again.is_none() => match event {
                    Ok(Some(event)) => self.on_watch(event),
                    Ok(None) => watch_again = Some(Instant::now() + WATCH_PAUSE),
                    Err(error) => {
                        tracing::warn!(error = crate::error_chain(&error), "the watch of jobs broke");
                        watch_again = Some(Instant::now() + WATCH_PAUSE);
                    }
                },
                () = sleep_until(watch_again), if watch_again.is_some() => watch_again = None,
                () = sleep_until(timer), if timer.is_some() => self.on_timer(),
                _ = log_tick.tick(), if !self.attempts.is_empty() => self.send_logs(),
            }
        }
    }

    // === what is known

    fn on_watch(&mut self, event: watcher::Event<Job>) {
        match event {
            watcher::Event::Init => self.listing = Some(BTreeSet::new()),
            watcher::Event::InitApply(job) => {
                if let Some(listing) = &mut self.listing {
                    listing.extend(job.uid());
                }
                self.on_job(job, false);
            }
            watcher::Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let vanished: Vec<_> = self
                    .jobs
                    .keys()
                    .filter(|uid| !listed.contains(*uid))
                    .cloned()
                    .collect();
                for uid in vanished {
                    self.doubt(&uid);
                }
            }
            watcher::Event::Apply(job) => self.on_job(job, false),
            watcher::Event::Delete(job) => {
                // Only a hint: it is read again by name, unless an answer that is under way tells.
                if let Some(uid) = job.uid()
                    && let Some(slot) = self.jobs.get_mut(&uid)
                {
                    slot.hinted = true;
                    if slot.operations == 0 {
                        self.heed_hint(&uid);
                    }
                }
            }
        }
    }

    fn on_job(&mut self, job: Job, fresh: bool) {
        let Some(uid) = job.uid() else { return };
        let version = version(&job);
        if self
            .tomb_versions
            .get(&uid)
            .is_some_and(|tomb| version <= *tomb)
        {
            return;
        }
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let job = Arc::new(job);
        let Some(slot) = self.jobs.get_mut(&uid) else {
            let slot = JobSlot::new(namespace, name, Known::Job { job, fresh });
            self.jobs.insert(uid.clone(), slot);
            self.enqueue(&uid);
            return;
        };
        let newer_than = |known: &Job| version > self::version(known);
        let seen = match &mut slot.seen {
            Known::Gone => return,
            Known::Unverified { news } if fresh => match news.take() {
                // The watch overtook the answer.
                Some(news) if self::version(&news) > version => Known::Job {
                    job: news,
                    fresh: false,
                },
                _ => Known::Job { job, fresh },
            },
            Known::Unverified { news } => {
                if news.as_deref().is_none_or(newer_than) {
                    *news = Some(job);
                }
                return;
            }
            Known::Job { job: known, .. } if newer_than(known) => Known::Job { job, fresh },
            Known::Job { fresh: known, .. } => {
                *known |= fresh;
                return;
            }
        };
        slot.namespace = namespace;
        slot.name = name;
        slot.seen = seen;
        self.enqueue(&uid);
    }

    /// Reads a job again that left the watch, unless it is known to have ended.
    fn heed_hint(&mut self, uid: &str) {
        let Some(slot) = self.jobs.get_mut(uid) else {
            return;
        };
        let ended = match &slot.seen {
            Known::Job { job, .. } => {
                let status = job.status.as_ref();
                status.is_some_and(|status| status.outcome.is_some())
            }
            Known::Gone => true,
            Known::Unverified { .. } => false,
        };
        if std::mem::take(&mut slot.hinted) && !ended {
            self.doubt(uid);
        }
    }

    fn doubt(&mut self, uid: &str) {
        if let Some(slot) = self.jobs.get_mut(uid) {
            if !matches!(slot.seen, Known::Unverified { .. }) {
                slot.seen = Known::Unverified { news: None };
            }
            self.enqueue(uid);
        }
    }

    fn on_end(&mut self, id: &AttemptId, ended: Ended) {
        if let Some(attempt) = self.attempts.get_mut(id)
            && attempt.ended.is_none()
        {
            attempt.ended = Some((ended, Instant::now()));
            let peaks = self.context.take_peaks(id);
            attempt.usage = gpu_usage(&attempt.charge, peaks);
            self.publish_running();
            self.send_log(id);
            self.enqueue(&id.uid);
        }
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        while let Some((time, _)) = self.timers.first() {
            if *time > now {
                return;
            }
            if let Some((_, uid)) = self.timers.pop_first() {
                self.enqueue(&uid);
            }
        }
    }

    fn enqueue(&mut self, uid: &str) {
        if let Some(slot) = self.jobs.get_mut(uid)
            && !slot.queued
        {
            slot.queued = true;
            self.queue.push_back(uid.to_owned());
        }
    }

    fn enqueue_all(&mut self) {
        let uids: Vec<_> = self.jobs.keys().cloned().collect();
        for uid in uids {
            self.enqueue(&uid);
        }
    }

    fn look_again(&mut self, uid: &str, at: Instant) {
        self.timers.insert((at, uid.to_owned()));
    }

    // === what is done about it

    fn dispatch(&mut self) {
        while self.operations.len() - self.sends < MOST_OPERATIONS {
            let Some(uid) = self.queue.pop_front() else {
                return;
            };
            let now = Instant::now();
            let Some(slot) = self.jobs.get_mut(&uid) else {
                continue;
            };
            slot.queued = false;
            if slot.operations > 0 {
                // Its end puts the job back into the queue.
                continue;
            }
            if let Some(time) = slot.not_before.filter(|time| *time > now) {
                self.look_again(&uid, time);
                continue;
            }
            self.reconcile(&uid);
        }
    }

    fn reconcile(&mut self, uid: &str) {
        let context = Arc::clone(&self.context);
        let now = context.now();
        let Some(slot) = self.jobs.get(uid) else {
            return;
        };
        let mut look_again = None;
        let locals: Vec<Local<'_>> = self
            .attempts
            .range(first_of(uid)..)
            .take_while(|(id, _)| id.uid == uid)
            .filter(|(_, attempt)| attempt.let_go.is_none())
            .map(|(id, attempt)| {
                let state = match &attempt.ended {
                    None => LocalState::Active {
                        kill_at: attempt.kill_at,
                    },
                    Some((ended, at)) => {
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
                (seen, self.misfit(uid, job))
            }
        };
        let plan = decide(&Observed {
            node_name: &context.options.node_name,
            boot_id: &context.facts.boot_id,
            seen,
            locals,
            misfit,
            closing: self.closing,
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

    /// Why the binding of a job that is not known here does not fit; only asked where a claim is at stake.
    fn misfit(&self, uid: &str, job: &Job) -> Option<String> {
        let status = job.status.as_ref()?;
        let binding = status.binding.as_ref()?;
        let at_stake = status.claim.is_none() && status.outcome.is_none();
        if !at_stake {
            return None;
        }
        let held = self
            .attempts
            .iter()
            .filter(|(id, attempt)| {
                attempt.ended.is_none() && !(id.uid == uid && id.attempt == status.attempt)
            })
            .map(|(_, attempt)| &attempt.charge);
        // Claims that are being written hold their room, too.
        let claiming: Vec<Charge> = self
            .jobs
            .iter()
            .filter(|(other, slot)| *other != uid && slot.operations > 0)
            .filter_map(|(other, slot)| match &slot.seen {
                Known::Job { job, .. } => {
                    let status = job.status.as_ref()?;
                    let known = self.attempts.contains_key(&AttemptId {
                        uid: other.clone(),
                        attempt: status.attempt,
                    });
                    let binding = status.binding.as_ref()?;
                    (!known && status.outcome.is_none()).then(|| environment::charge(binding))
                }
                Known::Unverified { .. } | Known::Gone => None,
            })
            .collect();
        let wanted = environment::charge(binding);
        capacity::misfit(&self.context.capacity(), held.chain(&claiming), &wanted)
    }

    fn execute(&mut self, uid: &str, action: Action) {
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
                slot.operations += 1;
                let job = Arc::clone(job);
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
                    ended: None,
                    usage: None,
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

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Job(uid, result) => self.on_answer(&uid, result),
            Done::Started(id, result) => self.on_started(&id, result),
            Done::Stopped(id, kill_at, passed_on) => {
                if let Some(attempt) = self.attempts.get_mut(&id)
                    && passed_on
                {
                    attempt.kill_at = Some(kill_at);
                }
                self.settle(&id.uid.clone(), passed_on);
            }
            Done::Sent(id, answer) => {
                self.sends -= 1;
                self.on_sent(&id, &answer);
            }
            Done::Forgotten => {}
        }
    }

    /// One operation of a job ended; what failed is decided again after a pause.
    fn settle(&mut self, uid: &str, well: bool) {
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

    fn on_answer(&mut self, uid: &str, result: Result<Option<Box<Job>>, CallError>) {
        let well = match result {
            Ok(Some(job)) => {
                self.on_job(*job, true);
                true
            }
            Ok(None) => {
                if let Some(slot) = self.jobs.get_mut(uid) {
                    slot.seen = Known::Gone;
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

    fn on_started(&mut self, id: &AttemptId, result: Result<(), StartError>) {
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

    // === output

    fn send_logs(&mut self) {
        let ids: Vec<_> = self.attempts.keys().cloned().collect();
        for id in ids {
            self.send_log(&id);
        }
    }

    fn send_log(&mut self, id: &AttemptId) {
        let Some(attempt) = self.attempts.get_mut(id) else {
            return;
        };
        if self.sends >= MOST_SENDS || attempt.name.is_empty() || attempt.let_go == Some(false) {
            return;
        }
        let length = self.context.options.runner.output_len(id);
        let Some(piece) = attempt
            .log
            .next(length, attempt.ended.is_some(), Instant::now())
        else {
            return;
        };
        self.sends += 1;
        let (context, id) = (Arc::clone(&self.context), id.clone());
        let (namespace, name) = (attempt.namespace.clone(), attempt.name.clone());
        self.operations.spawn(async move {
            let answer = logs::send(context, namespace, name, id.clone(), piece).await;
            Done::Sent(id, answer)
        });
    }

    fn on_sent(&mut self, id: &AttemptId, answer: &Result<Position, SendError>) {
        let Some(attempt) = self.attempts.get_mut(id) else {
            return;
        };
        match answer {
            Ok(_) => {}
            Err(SendError::Refused(error)) => {
                tracing::debug!(attempt = %id, error, "a piece of a log was refused");
            }
            Err(SendError::Later(error)) => {
                tracing::debug!(attempt = %id, error, "a piece of a log could not be sent");
            }
        }
        attempt.log.answered(answer, Instant::now());
        if attempt.log.not_before().is_none() {
            self.send_log(id);
        }
        self.enqueue(&id.uid);
        self.forget_if_safe(id);
    }

    // === letting go

    fn forget_if_safe(&mut self, id: &AttemptId) {
        let Some(attempt) = self.attempts.get(id) else {
            return;
        };
        let safe = match attempt.let_go {
            None => false,
            Some(false) => true,
            Some(true) => attempt
                .log
                .is_safe(self.context.options.runner.output_len(id)),
        };
        if safe {
            self.attempts.remove(id);
            self.forgets.push(id.clone());
            self.bury_if_done(&id.uid);
        }
    }

    fn send_forgets(&mut self) {
        if self.forgets.is_empty() || self.operations.len() >= MOST_OPERATIONS + MOST_SENDS {
            return;
        }
        let ids = std::mem::take(&mut self.forgets);
        let runner = Arc::clone(&self.context.options.runner);
        self.operations.spawn(async move {
            if let Err(error) = runner.forget(ids).await {
                tracing::warn!(
                    error = crate::error_chain(&error),
                    "failed to forget attempts"
                );
            }
            Done::Forgotten
        });
    }

    /// Drops a job that needs nothing of this node any more, remembering how far it was seen.
    fn bury_if_done(&mut self, uid: &str) {
        let Some(slot) = self.jobs.get(uid) else {
            return;
        };
        let holds_any = self
            .attempts
            .range(first_of(uid)..)
            .next()
            .is_some_and(|(id, _)| id.uid == uid);
        if slot.operations > 0 || holds_any {
            return;
        }
        let version = match &slot.seen {
            Known::Unverified { .. } if slot.name.is_empty() => 0,
            Known::Unverified { .. } => return,
            Known::Gone => u64::MAX,
            Known::Job { job, .. } => {
                let status = job.status.as_ref();
                let node = &self.context.options.node_name;
                let is_ours = status
                    .and_then(|status| status.binding.as_ref())
                    .is_some_and(|binding| binding.node_name == *node);
                let is_over = status.is_some_and(|status| status.outcome.is_some());
                if is_ours && !is_over {
                    return;
                }
                self::version(job)
            }
        };
        self.jobs.remove(uid);
        if version > 0 && self.tomb_versions.insert(uid.to_owned(), version).is_none() {
            self.tombs.push_back((uid.to_owned(), version));
        }
        while self.tombs.len() > MOST_TOMBS {
            if let Some((uid, _)) = self.tombs.pop_front() {
                self.tomb_versions.remove(&uid);
            }
        }
    }

    fn publish_running(&self) {
        let running = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.ended.is_none())
            .map(|(id, _)| id.clone());
        self.context.set_running(running.collect());
    }

    /// When all jobs are being stopped: whether all have ended and were reported.
    fn is_at_rest(&self) -> bool {
        self.attempts
            .values()
            .all(|attempt| attempt.let_go.is_some())
            && self.jobs.values().all(|slot| slot.operations == 0)
            && self.operations.is_empty()
    }

    /// Lets operations that are under way end; what remains is done by the next agent.
    async fn drain(&mut self) {
        let all = async { while self.operations.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_WAIT, all).await.is_err() {
            tracing::info!("leaving unfinished calls to the next agent");
        }
    }
}

/// The jobs bound to a node that have not ended. Ended ones keep their binding, and there may be very many.
fn selector(node: &str) -> String {
    let mut selector = format!("status.binding.nodeName={node}");
    for phase in crds::Phase::ALL.iter().filter(|phase| phase.is_terminal()) {
        selector.push_str(",status.phase!=");
        selector.push_str(phase.as_str());
    }
    selector
}

fn log_write(why: Write, job: &Job, next: &crds::JobStatus) {
    let name = job.name_any();
    let namespace = job.namespace().unwrap_or_default();
    let attempt = next.attempt;
    match why {
        Write::Claim => tracing::debug!(namespace, name, attempt, "claiming"),
        Write::Refuse => {
            let reason = next
                .attempts
                .last()
                .and_then(|record| record.reason.clone());
            tracing::warn!(namespace, name, attempt, reason, "refusing a binding");
        }
        Write::End => {
            let phase = next.phase.map(crds::Phase::as_str);
            tracing::debug!(namespace, name, attempt, phase, "reporting an end");
        }
    }
}

/// What an attempt used of its GPUs, where it was seen on any.
fn gpu_usage(charge: &Charge, peaks: BTreeMap<String, u64>) -> Option<Usage> {
    let most = peaks.values().copied().max()?;
    let verdict = match charge.vram_bytes.filter(|_| !charge.whole_gpus) {
        None => VramVerdict::Undeclared,
        Some(declared) if most > declared => VramVerdict::Exceeded,
        Some(declared) if most < declared / 2 => VramVerdict::Overdeclared,
        Some(_) => VramVerdict::Fitting,
    };
    Some(Usage {
        peak_vram_bytes: peaks,
        vram_verdict: Some(verdict),
        ..Usage::default()
    })
}

fn first_of(uid: &str) -> AttemptId {
    AttemptId {
        uid: uid.to_owned(),
        attempt: 0,
    }
}

/// Versions of one object rise; one that is no number counts as news always.
fn version(job: &Job) -> u64 {
    job.metadata
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX - 1)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
