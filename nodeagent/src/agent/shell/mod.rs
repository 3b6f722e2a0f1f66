//! The thin shell around `decide`: gathers what is known, executes what was decided, and asks again on news.
//!
//! One task owns all state, so there is no lock and no order but the queue's. A job has at most one operation under way
//! at a time; operations are bounded in number and joined.

mod checkpoints;
mod execute;
mod hold;
mod look;
mod news;
mod output;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crds::job_status::Usage;
use crds::{Job, LeanJob};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::logs::{Cursor, Position, SendError};
use super::operations::{CallError, StartError};
use super::{Context, RunError};
use crate::attempt::{AttemptId, Charge, Ended};
use crate::runner::Attached;
use hold::Hold;

/// Operations under way at once.
const MOST_OPERATIONS: usize = 48;
/// Pieces of logs under way at once, beside the operations.
const MOST_SENDS: usize = 16;
/// How often growing logs are looked at.
const LOG_PERIOD: Duration = Duration::from_millis(200);
/// How often checkpoints of running attempts are looked for.
const CHECKPOINT_PERIOD: Duration = Duration::from_secs(10);
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
    /// What a member of a gang holds of the node from its claim on.
    hold: Option<Hold>,
    operations: u32,
    queued: bool,
    /// The watch said that it is gone while an operation was under way.
    hinted: bool,
    failures: u32,
    not_before: Option<Instant>,
    /// When it is looked at again without any news.
    timer: Option<Instant>,
    looks: look::Looks,
}

impl JobSlot {
    fn new(namespace: String, name: String, seen: Known) -> Self {
        Self {
            namespace,
            name,
            seen,
            hold: None,
            operations: 0,
            queued: false,
            hinted: false,
            failures: 0,
            not_before: None,
            timer: None,
            looks: look::Looks::default(),
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
    /// It is frozen for want of contact.
    fenced: bool,
    /// It ended and nothing is left of it.
    ended: Option<(Ended, Instant)>,
    /// It ended and something is left of it.
    lingering: Option<(Ended, Instant)>,
    usage: Option<Usage>,
    /// When it was seen to have said that its checkpoint is complete.
    checkpointed: Option<Timestamp>,
    let_go: Option<bool>,
    log: Cursor,
}

enum Done {
    Job(String, Result<Option<Box<Job>>, CallError>),
    Looked(String, look::Found),
    Started(AttemptId, Result<(), StartError>),
    Stopped(AttemptId, Timestamp, bool),
    Thawed(AttemptId, bool),
    Sent(AttemptId, Result<Position, SendError>),
    Forgotten,
    Checkpoints(Vec<(AttemptId, i64)>),
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
    fences: mpsc::Receiver<AttemptId>,
    /// Uids of the list that is being received.
    listing: Option<BTreeSet<String>>,
    forgets: Vec<AttemptId>,
    tombs: VecDeque<(String, u64)>,
    tomb_versions: BTreeMap<String, u64>,
    closing: bool,
    stop_all: bool,
    /// This agent ends once nothing is left here.
    leaving: bool,
    /// Checkpoints are being looked for.
    looks_for_checkpoints: bool,
    /// All jobs that are bound here were seen once.
    listed: bool,
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
            fences: attached.fences,
            listing: None,
            forgets: Vec::new(),
            tombs: VecDeque::new(),
            tomb_versions: BTreeMap::new(),
            closing: false,
            stop_all: false,
            leaving: false,
            looks_for_checkpoints: false,
            listed: false,
        };
        let now = Instant::now();
        for held in attached.held {
            shell.jobs.entry(held.id.uid.clone()).or_insert_with(|| {
                let seen = Known::Unverified { news: None };
                JobSlot::new(held.namespace.clone(), held.name.clone(), seen)
            });
            shell.enqueue(&held.id.uid.clone());
            let end = held.ended.map(|ended| (ended, now));
            let (lingering, ended) = match end {
                Some((ended, at)) if ended.lingering.is_some() => (Some((ended, at)), None),
                end => (None, end),
            };
            let attempt = Attempt {
                namespace: held.namespace,
                name: held.name,
                grace_secs: held.grace_secs,
                charge: held.charge,
                kill_at: None,
                fenced: held.fenced,
                ended,
                lingering,
                usage: None,
                checkpointed: None,
                let_go: None,
                log: Cursor::default(),
            };
            shell.attempts.insert(held.id, attempt);
        }
        shell
    }

    /// Runs until the shutdown, and until the jobs are stopped where that is asked for.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let api: Api<LeanJob> = Api::all(self.context.client.clone());
        let node = &self.context.options.node_name;
        let config = watcher::Config::default().fields(&selector(node));
        let mut watch = watcher(api, config).boxed();
        let mut watch_again: Option<Instant> = None;
        let mut log_tick = tokio::time::interval(LOG_PERIOD);
        log_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checkpoint_tick = tokio::time::interval(CHECKPOINT_PERIOD);
        checkpoint_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.publish_running();
        self.publish_lingering();
        loop {
            self.dispatch();
            self.send_forgets();
            if self.closing && self.is_at_rest() {
                return Ok(());
            }
            if self.leaving && self.is_empty() {
                tracing::info!("the node is to stop and holds nothing: the agent ends");
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
                Some(id) = self.fences.recv() => self.on_fence(&id),
                () = self.context.renewed.notified() => self.on_contact(),
                () = self.context.leaving_changed.notified() => {
                    self.leaving = self.context.is_leaving();
                    self.enqueue_all();
                }
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
                _ = checkpoint_tick.tick(), if !self.attempts.is_empty() => self.look_for_checkpoints(),
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

    /// Looks at a job again at a time, or before: each look says anew when the next is due.
    fn look_again(&mut self, uid: &str, at: Instant) {
        if let Some(slot) = self.jobs.get_mut(uid) {
            if slot.timer.is_some_and(|timer| timer <= at) {
                return;
            }
            slot.timer = Some(at);
        }
        self.timers.insert((at, uid.to_owned()));
    }

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

    fn publish_running(&self) {
        let running = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.ended.is_none() && attempt.lingering.is_none())
            .map(|(id, _)| id.clone());
        self.context.set_running(running.collect());
    }

    /// Tells the node's part which cards are held by what is left of ended attempts.
    fn publish_lingering(&self) {
        let lingering = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.lingering.is_some())
            .map(|(id, attempt)| (id.clone(), attempt.charge.gpus.clone()));
        self.context.set_lingering(lingering.collect());
    }

    /// Whether nothing of any job is left here, and no job is bound here.
    fn is_empty(&self) -> bool {
        self.listed
            && self.attempts.is_empty()
            && self.jobs.is_empty()
            && self.forgets.is_empty()
            && self.operations.is_empty()
    }

    /// When all jobs are being stopped: whether all have ended and were reported. What does not die is left to the next
    /// agent.
    fn is_at_rest(&self) -> bool {
        self.attempts
            .iter()
            .all(|(id, attempt)| attempt.let_go.is_some() || self.is_told_and_lingers(id, attempt))
            && self.jobs.values().all(|slot| slot.operations == 0)
            && self.operations.is_empty()
    }

    fn is_told_and_lingers(&self, id: &AttemptId, attempt: &Attempt) -> bool {
        let told = match self.jobs.get(&id.uid).map(|slot| &slot.seen) {
            Some(Known::Job { job, .. }) => job
                .status
                .as_ref()
                .is_some_and(|status| status.attempt != id.attempt || status.finish_time.is_some()),
            Some(Known::Gone) | None => true,
            Some(Known::Unverified { .. }) => false,
        };
        attempt.lingering.is_some() && told
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
