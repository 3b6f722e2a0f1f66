//! The shell of placement: feeds the scheduling core, and turns its decisions into writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::{Job, Queue, phase};
use jiff::Timestamp;
use scheduler::{Cluster, Decision, Estimate, JobState, JobUid, Millis, NodeName, QueueName};

use super::ancestors::ancestors;
use super::convert::Known;
use super::decide::{View, avoidance, bind, infeasible, tell, view};
use super::holds::{Holds, whole_second};
use super::runtimes::Runtimes;
use super::untold::{Reason, Untold};
use super::{convert, decide, usage};
use crate::shell::{
    Change, Controller, Failure, Key, Op, Plan, Subject, Wanted, World, is_parent, later,
    room_wanted, room_wanted_for, uid,
};
use crate::{ControllerName, Scheduling};

/// Most binds in one plan: as many as may be in flight by default, so that the next plan rests on newer facts.
const BINDS_A_PLAN: usize = 64;
/// Decisions asked for at once.
const DECISIONS_A_CALL: usize = 256;
/// How long a job rests whose write the API server refused.
const REFUSED_SECS: u64 = 30;

/// Placement.
pub(crate) struct Placement {
    started: Timestamp,
    settle_seconds: u64,
    scheduling: Scheduling,
    pub(super) epoch: u64,
    pub(super) cluster: Cluster,
    /// False until the first node is known: then the fleet begins to settle.
    has_nodes: bool,
    pub(super) keys: BTreeMap<JobUid, Key>,
    untold: Untold,
    /// Binds without a known fate: asked for again until there is an answer.
    unanswered: BTreeMap<Key, Op>,
    /// Jobs to be looked at as if they were new.
    afresh: BTreeSet<Key>,
    /// Jobs whose writes the API server refused, to be left alone for a while.
    refused: BTreeSet<Key>,
    /// Jobs that are looked at afresh at a time.
    later: BTreeSet<(Timestamp, Key)>,
    resting: BTreeSet<Key>,
    /// The attempt that was handed back, and until when its node is avoided.
    avoided: BTreeMap<Key, (u32, Timestamp)>,
    pub(super) runtimes: Runtimes,
    /// How long waiting jobs were taken to run when they were looked at last.
    estimates: BTreeMap<JobUid, Option<Estimate>>,
    pub(super) holds: Holds,
    /// Nominations so far, for their ids.
    pub(super) nominations: u64,
    /// Waiting jobs for which somebody wants room to be made.
    pub(super) wanting: BTreeSet<Key>,
    /// When to look next at what queues have used; nothing while nobody uses anything.
    usage_due: Option<Timestamp>,
}

impl Placement {
    pub(crate) fn new(started: Timestamp, settle_seconds: u64, scheduling: Scheduling) -> Self {
        let unsettled = scheduling.settings(Millis(i64::MAX));
        Self {
            started,
            settle_seconds,
            scheduling,
            epoch: u64::try_from(started.as_second()).unwrap_or(0),
            cluster: Cluster::new(unsettled),
            has_nodes: false,
            keys: BTreeMap::new(),
            untold: Untold::default(),
            unanswered: BTreeMap::new(),
            afresh: BTreeSet::new(),
            refused: BTreeSet::new(),
            later: BTreeSet::new(),
            resting: BTreeSet::new(),
            avoided: BTreeMap::new(),
            runtimes: Runtimes::default(),
            estimates: BTreeMap::new(),
            holds: Holds::default(),
            nominations: 0,
            wanting: BTreeSet::new(),
            usage_due: None,
        }
    }

    /// The first node has appeared: from now on the fleet has its time to register. Everything that is known is told anew.
    fn begin(&mut self, world: &World, now: Timestamp) {
        self.has_nodes = true;
        let found = world.is_synced();
        let from = if found { now } else { self.started };
        let settled_at = millis(later(from, self.settle_seconds));
        self.cluster = Cluster::new(self.scheduling.settings(settled_at));
        for (key, queue) in world.queues.iter() {
            let name = QueueName::from(&*key.name);
            usage::restore(&mut self.cluster, &name, queue);
            self.cluster
                .upsert_queue(&name, convert::queue(&queue.spec));
        }
        for (key, job) in world.jobs.iter() {
            self.feed(key, job, world, now);
        }
        for (key, job) in world.jobs.iter() {
            self.restore(key, job, world, now);
        }
    }

    /// How long a waiting job will probably run. While something is kept for it that does not change: to the core it would be
    /// another job.
    fn estimate(&mut self, key: &Key, job: &Job) -> Option<Estimate> {
        let id = convert::job_uid(job);
        if !self.holds.keeps(key) && self.cluster.reservation(&id).is_none() {
            let estimate = self.runtimes.estimate(job);
            self.estimates.insert(id, estimate);
            return estimate;
        }
        self.estimates.get(&id).copied().flatten()
    }

    /// Tells the core what a job is now. True when something may be decided because of it.
    pub(super) fn feed(
        &mut self,
        key: &Key,
        job: &Arc<Job>,
        world: &World,
        now: Timestamp,
    ) -> bool {
        let id = convert::job_uid(job);
        let parents = world.parents_of(job);
        match view(job, &parents) {
            View::Holds(status, binding) => {
                self.keys.insert(id, key.clone());
                self.untold.remove(key);
                self.holds.remove(key);
                self.usage_due.get_or_insert(now + usage::PAUSE);
                let estimate = self.runtimes.estimate(job);
                let bound = convert::bound_job(job, status, binding, estimate);
                self.cluster.upsert_bound(bound);
                false
            }
            View::Waits(status, effective) => {
                if self.resting.contains(key) {
                    return false;
                }
                self.keys.insert(id, key.clone());
                let avoid = self.avoid(key, status, now);
                if room_wanted(job, status, &parents).is_some() {
                    self.wanting.insert(key.clone());
                }
                let known = Known {
                    avoid: avoid.as_deref(),
                    estimate: self.estimate(key, job),
                    ancestors: ancestors(job, |key| world.jobs.get(key).map(AsRef::as_ref)),
                };
                let waiting = convert::waiting_job(job, effective, status, known);
                self.cluster.upsert_job(waiting)
            }
            View::NotReady(reason) => {
                let freed = self.drop_job(key, &id);
                let news = tell_is_news(job, &reason);
                self.untold.add(key, reason, now);
                freed || news
            }
            View::Aside => self.drop_job(key, &id),
        }
    }

    /// The core forgets a job. True when that may have freed something.
    fn drop_job(&mut self, key: &Key, id: &JobUid) -> bool {
        self.untold.remove(key);
        self.holds.remove(key);
        self.keys.remove(id);
        self.estimates.remove(id);
        let held = matches!(
            self.cluster.job_state(id),
            Some(JobState::Bound | JobState::Assumed)
        );
        self.cluster.remove_job(id);
        held
    }

    /// The node that the job is not offered for now.
    fn avoid(&mut self, key: &Key, status: &crds::JobStatus, now: Timestamp) -> Option<String> {
        let Some(avoidance) = avoidance(status) else {
            self.avoided.remove(key);
            return None;
        };
        let until = match self.avoided.get(key) {
            Some((attempt, until)) if *attempt == avoidance.attempt => *until,
            _ => {
                let until = now.saturating_add(avoidance.pause).unwrap_or(now);
                self.later.insert((until, key.clone()));
                let entry = (avoidance.attempt, until);
                self.avoided.insert(key.clone(), entry);
                until
            }
        };
        (now < until).then_some(avoidance.node)
    }

    /// Looks at jobs as if they were new: what was assumed of them is forgotten.
    fn refresh(&mut self, world: &World, now: Timestamp) {
        for key in std::mem::take(&mut self.refused) {
            self.later.insert((later(now, REFUSED_SECS), key.clone()));
            self.resting.insert(key.clone());
            self.afresh.insert(key);
        }
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, key)) = self.later.pop_first()
        {
            self.resting.remove(&key);
            self.afresh.insert(key);
        }
        for key in std::mem::take(&mut self.afresh) {
            if let Some(job) = world.jobs.get(&key) {
                self.cluster.remove_job(&convert::job_uid(job));
                self.feed(&key, job, world, now);
                self.restore(&key, job, world, now);
            }
        }
    }

    /// All writes that the core's decisions come to, but for those that are not due yet.
    fn decide(&mut self, world: &World, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let mut full = false;
        while !full {
            let room = DECISIONS_A_CALL.min(BINDS_A_PLAN.saturating_sub(plan.ops.len()).max(1));
            let decisions = self.cluster.decide(millis(now), room);
            full = decisions.len() < room;
            for decision in decisions {
                let op = self.op(decision, world, now);
                plan.ops.extend(op);
            }
            if plan.ops.len() >= BINDS_A_PLAN {
                plan.look_again = Some(now);
                full = true;
            }
        }
        plan
    }

    fn op(&mut self, decision: Decision, world: &World, now: Timestamp) -> Option<Op> {
        let (Decision::Bind(scheduler::Placement { job: id, .. })
        | Decision::Infeasible { job: id, .. }
        | Decision::Waiting { job: id, .. }
        | Decision::Reserve { job: id, .. }
        | Decision::Nominate { job: id, .. }) = &decision;
        let Some((key, job)) = self.job(id, world) else {
            self.cluster.remove_job(id);
            return None;
        };
        match decision {
            Decision::Bind(placement) => {
                self.untold.remove(&key);
                self.untold.on_bind(now);
                self.holds.remove(&key);
                let node = world.nodes.get(&Key::cluster(placement.node.as_str()));
                let node = node.map(AsRef::as_ref);
                bind(job, &placement, node, self.epoch, now)
            }
            Decision::Infeasible { why, .. } => {
                self.untold.remove(&key);
                tracing::info!(namespace = %key.namespace, name = %key.name, %why, "infeasible");
                infeasible(job, why.to_string(), now)
            }
            Decision::Waiting { job: id, why } => {
                // Not before it was queued: others that need the same may have waited longer.
                let queued = job.status.as_ref().and_then(|s| s.enqueue_time.as_ref());
                let queued = queued.map_or(Millis(i64::MIN), |time| millis(time.0));
                let since = self.cluster.waits_since(&id);
                let reason = Reason {
                    class: why.class().as_str(),
                    message: why.to_string(),
                    since: since.map(|since| whole_second(since.max(queued))),
                };
                self.untold.add(&key, reason, now);
                None
            }
            Decision::Reserve { reservation, .. } => {
                self.keep(&key, reservation);
                None
            }
            Decision::Nominate { nomination, .. } => {
                match nomination {
                    Some(nomination) => self.nominate(&key, &nomination, world),
                    None => self.holds.nominate(&key, Vec::new()),
                }
                None
            }
        }
    }

    pub(super) fn job<'a>(&self, id: &JobUid, world: &'a World) -> Option<(Key, &'a Arc<Job>)> {
        let key = self.keys.get(id)?;
        let job = world.jobs.get(key)?;
        (uid(job) == id.as_str()).then(|| (key.clone(), job))
    }

    fn tell(&mut self, world: &World, now: Timestamp, plan: &mut Plan) {
        for (key, reason) in self.untold.take_due(now) {
            let Some(job) = world.jobs.get(&key) else {
                continue;
            };
            let reservation = self.holds.reservation(&key).cloned();
            if let Some(op) = tell(job, reason, reservation) {
                self.untold.on_write(&key);
                plan.ops.push(op);
            }
        }
    }

    /// Writes what queues have used, from time to time while any job holds something.
    fn record_usage(&mut self, world: &World, now: Timestamp, plan: &mut Plan) {
        if self.usage_due.is_none_or(|due| now < due) {
            return;
        }
        let held = world.nodes.iter().any(|(key, _)| {
            let node = NodeName::from(&*key.name);
            self.cluster.jobs_on(&node).next().is_some()
        });
        self.usage_due = held.then(|| now + usage::PAUSE);
        let settings = self.scheduling.settings(Millis(0));
        for (key, queue) in world.queues.iter() {
            let used = self
                .cluster
                .usage(&QueueName::from(&*key.name), millis(now));
            plan.ops.extend(usage::record(queue, used, settings, now));
        }
    }

    fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let core = self.cluster.look_again().map(timestamp);
        let later = self.later.first().map(|(at, _)| *at);
        let untold = self.untold.next_due(now);
        let times = [core, later, untold, self.usage_due];
        times.into_iter().flatten().min()
    }
}

pub(super) fn millis(time: Timestamp) -> Millis {
    Millis(time.as_millisecond())
}

fn timestamp(millis: Millis) -> Timestamp {
    Timestamp::from_millisecond(millis.0).unwrap_or(Timestamp::MAX)
}

/// Does a job that is not ready still bear another reason?
fn tell_is_news(job: &Job, reason: &Reason) -> bool {
    let waiting = job.status.as_ref().and_then(|s| s.waiting.as_ref());
    waiting.is_none_or(|waiting| waiting.reason != reason.class)
}

/// Do a member's chances rest on this change of its array or gang?
fn concerns_members(old: Option<&Job>, new: Option<&Job>) -> bool {
    let gates = |job: &Job| {
        let closing = decide::is_closing(job);
        let status = job.status.as_ref();
        let generation = status.and_then(|status| Some(status.gang.as_ref()?.generation));
        let stopped = status.is_some_and(|status| phase::current_stop(status).is_some());
        let gates = (job.spec.suspend, job.spec.cancel, closing);
        (gates, generation, stopped, room_wanted_for(job))
    };
    old.map(gates) != new.map(gates)
}

impl Controller for Placement {
    fn name(&self) -> ControllerName {
        ControllerName::Placement
    }

    fn on_change(&mut self, change: &Change, world: &World, now: Timestamp, wanted: &mut Wanted) {
        match change {
            Change::Job(delta) => {
                let known = [&delta.old, &delta.new].into_iter().flatten().next();
                let Some(any) = known else {
                    return;
                };
                self.unanswered.remove(&delta.key);
                let replaced = delta
                    .old
                    .as_ref()
                    .filter(|old| delta.new.as_ref().is_none_or(|new| uid(new) != uid(old)));
                let mut news = false;
                if let Some(old) = replaced {
                    news |= self.drop_job(&delta.key, &convert::job_uid(old));
                    self.avoided.remove(&delta.key);
                    self.resting.remove(&delta.key);
                }
                if let Some(job) = &delta.new {
                    let before = delta.old.as_deref().filter(|_| replaced.is_none());
                    self.runtimes.on_change(before, job);
                    if self.holds.on_change(&delta.key, before, job) {
                        self.withdrawn(&delta.key, world, now);
                    }
                    let id = convert::job_uid(job);
                    let assumed = self.cluster.job_state(&id) == Some(JobState::Assumed);
                    let status = job.status.as_ref();
                    if assumed && status.and_then(convert::held).is_none() {
                        // The job has changed, and not by its binding: the write of that will fail.
                        self.cluster.undo(&id);
                        news = true;
                    }
                    news |= self.feed(&delta.key, job, world, now);
                    if before.is_none() {
                        self.restore(&delta.key, job, world, now);
                    }
                    news |= self.holds.is_waiting() || !self.wanting.is_empty();
                }
                if is_parent(any) && concerns_members(delta.old.as_deref(), delta.new.as_deref()) {
                    for member in world.family_of(uid(any)) {
                        if let Some(job) = world.jobs.get(&member) {
                            news |= self.feed(&member, job, world, now);
                        }
                    }
                }
                if news {
                    wanted.fleet();
                }
            }
            Change::Node(delta) => {
                let name = NodeName::from(&*delta.key.name);
                match delta.new.as_deref().and_then(convert::node) {
                    Some(node) => {
                        if !self.has_nodes {
                            self.begin(world, now);
                        }
                        self.cluster.upsert_node(&name, node);
                    }
                    None => self.cluster.remove_node(&name),
                }
                wanted.fleet();
            }
            Change::Queue(delta) => {
                let name = QueueName::from(&*delta.key.name);
                let spec = |queue: &Option<Arc<Queue>>| queue.as_ref().map(|q| q.spec.clone());
                if delta.old.is_some() && spec(&delta.old) == spec(&delta.new) {
                    return;
                }
                match &delta.new {
                    Some(queue) => {
                        if delta.old.is_none() {
                            usage::restore(&mut self.cluster, &name, queue);
                        }
                        let queue = convert::queue(&queue.spec);
                        self.cluster.upsert_queue(&name, queue);
                    }
                    None => self.cluster.remove_queue(&name),
                }
                wanted.fleet();
            }
            Change::Profile | Change::Lease(_) => {}
        }
    }

    fn reconcile(&mut self, _: &Subject, world: &World, now: Timestamp) -> Plan {
        self.refresh(world, now);
        let mut plan = self.decide(world, now);
        self.make_room(world, now);
        plan.ops
            .extend(self.holds.take_due(|key| world.jobs.get(key)));
        let again = std::mem::take(&mut self.unanswered);
        plan.ops.extend(again.into_values());
        self.tell(world, now, &mut plan);
        self.record_usage(world, now, &mut plan);
        if plan.look_again.is_none() {
            plan.look_again = self.next_look(now);
        }
        plan
    }

    fn on_answer(&mut self, op: &Op, failure: Option<&Failure>, wanted: &mut Wanted) {
        let Op::JobStatus { base, next } = op else {
            return;
        };
        let key = Key::of(&base.metadata);
        if self.holds.on_answer(&key, failure.is_some()) {
            if self.holds.is_waiting() {
                wanted.fleet();
            }
            return;
        }
        let told = self.untold.on_answer(&key);
        // After a failure the queue's pause comes first.
        match failure {
            None if told && self.untold.is_waiting() => wanted.fleet(),
            None => {}
            Some(Failure::Conflict | Failure::Gone) => {
                // What the job has become is told by the watch, or was told before this answer.
                let id = convert::job_uid(base);
                if self.cluster.job_state(&id) != Some(JobState::Assumed) {
                    self.afresh.insert(key);
                }
            }
            Some(Failure::Unavailable(_) | Failure::TimedOut) => {
                if phase::held_binding(next).is_some() {
                    self.unanswered.insert(key, op.clone());
                } else {
                    self.afresh.insert(key);
                }
            }
            Some(Failure::Refused(_) | Failure::Exists | Failure::Unserialisable(_)) => {
                self.refused.insert(key);
            }
        }
    }
}
