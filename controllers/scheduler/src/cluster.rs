//! The indexed state of nodes, queues and jobs, and the events that change it.
//!
//! **Guarantees.** Events may come twice and in any order between objects: a job may be bound to a node that is not known
//! yet. What was decided and not confirmed yet ([`JobState::Assumed`]) holds its slots until it is confirmed, undone or
//! removed; a late report that the job still waits does not take them away.

use std::collections::{BTreeMap, BTreeSet};

use crate::fairshare::Account;
use crate::fleet::Fleet;
use crate::gang::Gangs;
use crate::input::{
    BoundJob, Bytes, Job, JobUid, MilliCpu, Millis, Node, NodeName, QueueName, QueueState,
};
use crate::node_state::NodeState;
use crate::pending::{Class, ClassId, Pending};
use crate::quota::Cohort;
use crate::ranking::Pass;
use crate::reserve::Holds;
use crate::settings::Settings;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits.
    Pending,
    /// It was decided to bind it, and that is not confirmed yet.
    Assumed,
    /// It is bound.
    Bound,
    /// It was decided that no node could ever run it.
    Infeasible,
}

/// One job with the data of its state.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Pending { job: Job, class: ClassId },
    Assumed { job: Job, node: NodeName },
    Bound { node: NodeName },
    Infeasible { job: Job },
}

/// A queue with what its jobs hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    pub(crate) state: QueueState,
    pub(crate) used: Usage,
    /// What it has used lately, for fair share.
    pub(crate) account: Account,
}

/// What jobs hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) gpus: u64,
    pub(crate) vram: Bytes,
    pub(crate) cpu: MilliCpu,
    pub(crate) jobs: u64,
}

impl Usage {
    pub(crate) fn of(job: &BoundJob) -> Self {
        let gpus = job.gpus.len() as u64;
        Self {
            gpus,
            vram: Bytes(job.vram.unwrap_or_default().0.saturating_mul(gpus)),
            cpu: job.cpu,
            jobs: 1,
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            gpus: self.gpus.saturating_add(other.gpus),
            vram: self.vram.saturating_add(other.vram),
            cpu: MilliCpu(self.cpu.0.saturating_add(other.cpu.0)),
            jobs: self.jobs.saturating_add(other.jobs),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            gpus: self.gpus.saturating_sub(other.gpus),
            vram: self.vram.saturating_sub(other.vram),
            cpu: MilliCpu(self.cpu.0.saturating_sub(other.cpu.0)),
            jobs: self.jobs.saturating_sub(other.jobs),
        }
    }
}

/// Nodes, queues and jobs, indexed for decisions.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub(crate) settings: Settings,
    pub(crate) nodes: BTreeMap<NodeName, NodeState>,
    pub(crate) queues: BTreeMap<QueueName, QueueEntry>,
    pub(crate) cohort: Cohort,
    pub(crate) fleet: Fleet,
    pub(crate) jobs: BTreeMap<JobUid, Entry>,
    pub(crate) pending: Pending,
    /// Counts the events after which something may be free that was not.
    pub(crate) epoch: u64,
    /// Nodes by the last such event.
    pub(crate) freed: BTreeMap<u64, NodeName>,
    /// Nodes where something may fit that did not, since the last pass of decisions that came to its end.
    pub(crate) dirty: BTreeSet<NodeName>,
    /// Queues that may allow more than they did, since then.
    pub(crate) dirty_queues: BTreeSet<QueueName>,
    /// Queues that keep some of their jobs only because others come before them; these are tried in every pass.
    pub(crate) quota_keepers: BTreeSet<QueueName>,
    /// True when queues may borrow more than they could, since then.
    pub(crate) more_to_lend: bool,
    /// Counts the events after which there may be no node any more that could ever run a job: one left, or the fleet has
    /// settled.
    pub(crate) shape: u64,
    /// The last event after which every reason must be judged anew.
    pub(crate) reasons_at: u64,
    /// What is remembered of the pass of decisions that is under way.
    pub(crate) pass: Pass,
    pub(crate) settled: bool,
    /// Counts every change of what is there or promised.
    pub(crate) version: u64,
    /// The time of the last decision.
    pub(crate) now: Millis,
    /// Slots that are kept for jobs that have waited long.
    pub(crate) holds: Holds,
    pub(crate) gangs: Gangs,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// A node appeared or changed. Nothing happens when it is as it was.
    pub fn upsert_node(&mut self, name: &NodeName, node: Node) {
        let state = self.nodes.entry(name.clone()).or_default();
        if state.facts.as_ref() == Some(&node) {
            return;
        }
        let learned = state.set_facts(node);
        let more = self.fleet.note(name, Some(state));
        self.version += 1;
        self.node_changed(name);
        if more {
            self.dirty.insert(name.clone());
        }
        if learned {
            self.shape += 1;
            self.reasons_stale();
        }
    }

    /// A node is no more. Jobs bound to it stay bound until they are released.
    pub fn remove_node(&mut self, name: &NodeName) {
        let Some(state) = self.nodes.get_mut(name) else {
            return;
        };
        self.freed.remove(&state.freed_at);
        self.fleet.note(name, None);
        self.holds.room.gone(name);
        self.holds.beside.gone(name);
        self.dirty.remove(name);
        self.version += 1;
        if state.jobs.is_empty() {
            self.nodes.remove(name);
        } else {
            let jobs = std::mem::take(&mut state.jobs);
            *state = NodeState::default();
            for job in jobs.into_values() {
                state.add(job);
            }
        }
        self.shape += 1;
        self.reasons_stale();
    }

    /// A queue appeared or changed.
    pub fn upsert_queue(&mut self, name: &QueueName, queue: QueueState) {
        let known = self.queues.get(name).map(|entry| entry.state);
        if known != Some(queue) {
            if known.unwrap_or_default().min_runtime != queue.min_runtime {
                self.fleet.forget_exits();
            }
            self.change_queue(name, |entry| entry.state = queue);
            self.borrowing_changed(|_| true);
            self.queue_freed(name);
            self.reasons_stale();
            self.version += 1;
        }
    }

    /// A queue is no more; its jobs wait under no limits.
    pub fn remove_queue(&mut self, name: &QueueName) {
        self.upsert_queue(name, QueueState::default());
    }

    /// A job waits. False when that is not news: it is known so already, or its binding is not confirmed yet.
    pub fn upsert_job(&mut self, mut job: Job) -> bool {
        job.requirements = job.requirements.normalised();
        match self.jobs.get(&job.uid) {
            Some(Entry::Assumed { .. }) => return false,
            Some(Entry::Pending { job: known, .. } | Entry::Infeasible { job: known })
                if *known == job =>
            {
                return false;
            }
            _ => {}
        }
        let kept = self.take_hold_over(&job);
        self.remove_job(&job.uid.clone());
        let uid = job.uid.clone();
        self.insert_pending(job);
        if let Some(kept) = kept {
            self.put_hold_back(&uid, kept);
        }
        true
    }

    /// A job holds slots on a node. Confirms what was decided, in place when the charges are the same.
    pub fn upsert_bound(&mut self, job: BoundJob) {
        let node = match self.jobs.get(&job.uid) {
            Some(Entry::Assumed { node, .. } | Entry::Bound { node }) => Some(node),
            Some(Entry::Pending { .. } | Entry::Infeasible { .. }) | None => None,
        };
        let state = node
            .filter(|node| **node == job.node)
            .and_then(|node| self.nodes.get_mut(node));
        let entry = Entry::Bound {
            node: job.node.clone(),
        };
        if let Some(state) = state
            && let Some(known) = state.jobs.get(&job.uid)
            && known.charges_as(&job)
        {
            self.jobs.insert(job.uid.clone(), entry);
            let end = |job: &BoundJob| (job.started, job.stopping, job.terms);
            let other_end = end(known) != end(&job);
            if known.gang != job.gang {
                self.gangs.left(&job.uid);
                self.gangs.placed(&job);
            }
            self.holds.room.left(known);
            self.holds.room.came(&job);
            if (known.attempt, known.terms, known.priority)
                != (job.attempt, job.terms, job.priority)
            {
                self.holds.room.changed(&job.node);
            }
            if *known != job {
                self.fleet.note_stakes(&job.node);
                if state.confirm(&job) {
                    self.fleet.note_use(&job.node, state);
                    self.version += 1;
                    self.node_freed(&job.node);
                }
            }
            if other_end {
                self.end_changed(&job.node);
            }
            return;
        }
        self.remove_job(&job.uid);
        self.jobs.insert(job.uid.clone(), entry);
        self.pass.bound_to(&job.node);
        self.hold(job);
    }

    /// A bound job gave its slots back, or ended before it had any.
    pub fn release(&mut self, uid: &JobUid) {
        self.remove_job(uid);
    }

    /// A decision about a job could not be carried out: it waits as before.
    pub fn undo(&mut self, uid: &JobUid) -> bool {
        let job = match self.jobs.get(uid) {
            Some(Entry::Assumed { job, .. } | Entry::Infeasible { job }) => job.clone(),
            Some(Entry::Pending { .. } | Entry::Bound { .. }) | None => return false,
        };
        self.remove_job(uid);
        self.insert_pending(job);
        true
    }

    /// A job is no more, whatever its state was; its slots are free.
    pub fn remove_job(&mut self, uid: &JobUid) {
        match self.jobs.remove(uid) {
            None | Some(Entry::Infeasible { .. }) => {}
            Some(Entry::Pending { job, class }) => {
                self.give_up_slots(uid, None);
                self.pending.remove(class, &job);
                self.gangs.left(uid);
                self.gang_changed(&job);
            }
            Some(Entry::Assumed { node, .. } | Entry::Bound { node }) => self.let_go(uid, &node),
        }
    }

    /// Where a job stands.
    pub fn job_state(&self, uid: &JobUid) -> Option<JobState> {
        self.jobs.get(uid).map(|entry| match entry {
            Entry::Pending { .. } => JobState::Pending,
            Entry::Assumed { .. } => JobState::Assumed,
            Entry::Bound { .. } => JobState::Bound,
            Entry::Infeasible { .. } => JobState::Infeasible,
        })
    }

    /// Jobs bound or assumed on a node.
    pub fn jobs_on(&self, node: &NodeName) -> impl Iterator<Item = &BoundJob> {
        self.nodes
            .get(node)
            .into_iter()
            .flat_map(|state| state.jobs.values())
    }

    /// Number of waiting jobs.
    pub fn waiting(&self) -> usize {
        self.pending
            .classes
            .values()
            .map(|class| class.jobs.len())
            .sum()
    }

    /// When to decide again although nothing happened; `None` when only events matter.
    pub fn look_again(&self) -> Option<Millis> {
        if let Some((oldest, _)) = self.pending.judged.first()
            && *oldest < self.reasons_at
        {
            return Some(self.now);
        }
        let undecided = !self.settled && !self.pending.classes.is_empty();
        let settled = undecided.then_some(self.settings.settled_at);
        settled
            .into_iter()
            .chain(self.next_reservation())
            .chain(self.next_overtaking())
            .min()
    }

    fn insert_pending(&mut self, job: Job) {
        let class = self.pending.add(&job);
        // What was found of its like may have been kept from them for a holder that this one comes before.
        let first = |class: &Class| class.jobs.first().is_some_and(|first| first.uid == job.uid);
        if !self.holds.is_empty() && self.pending.classes.get(&class).is_some_and(first) {
            self.pending.unblock(class);
        }
        self.gangs.waits(&job);
        self.jobs.insert(
            job.uid.clone(),
            Entry::Pending {
                job: job.clone(),
                class,
            },
        );
        self.gang_changed(&job);
    }

    /// The node that a job is on.
    pub(crate) fn node_of(&self, uid: &JobUid) -> Option<&NodeName> {
        match self.jobs.get(uid)? {
            Entry::Assumed { node, .. } | Entry::Bound { node } => Some(node),
            Entry::Pending { .. } | Entry::Infeasible { .. } => None,
        }
    }

    /// The class of a waiting job.
    pub(crate) fn class_of(&self, uid: &JobUid) -> Option<ClassId> {
        match self.jobs.get(uid)? {
            Entry::Pending { class, .. } => Some(*class),
            Entry::Assumed { .. } | Entry::Bound { .. } | Entry::Infeasible { .. } => None,
        }
    }

    /// Charges a job to its node and its queue.
    pub(crate) fn hold(&mut self, job: BoundJob) {
        self.version += 1;
        let usage = Usage::of(&job);
        self.change_queue(&job.queue, |queue| queue.used = queue.used.plus(usage));
        self.borrowing_changed(|holder| *holder == job.queue);
        self.holds.room.came(&job);
        self.holds.room.changed(&job.node);
        self.gangs.placed(&job);
        let name = job.node.clone();
        let state = self.nodes.entry(name.clone()).or_default();
        state.add(job);
        self.fleet.note_use(&name, state);
    }

    fn let_go(&mut self, uid: &JobUid, node: &NodeName) {
        self.version += 1;
        self.gangs.left(uid);
        let Some(state) = self.nodes.get_mut(node) else {
            return;
        };
        let released = state.remove(uid);
        self.fleet.note_use(node, state);
        if state.facts.is_none() && state.jobs.is_empty() {
            self.nodes.remove(node);
        } else if state.facts.is_some() {
            self.node_freed(node);
        }
        if let Some(job) = released {
            self.holds.room.left(&job);
            let usage = Usage::of(&job);
            self.change_queue(&job.queue, |queue| queue.used = queue.used.minus(usage));
            if self.has_quota(&job.queue) {
                self.borrowing_changed(|_| true);
            }
            self.queue_freed(&job.queue);
        }
    }

    /// A queue may hold more than before, and so may those that borrow of it.
    fn queue_freed(&mut self, name: &QueueName) {
        self.epoch += 1;
        self.dirty_queues.insert(name.clone());
        self.more_to_lend = true;
    }

    /// Something may fit on a node that did not.
    pub(crate) fn node_freed(&mut self, name: &NodeName) {
        self.node_changed(name);
        self.dirty.insert(name.clone());
    }

    /// The reasons that a node has may be others.
    fn node_changed(&mut self, name: &NodeName) {
        self.epoch += 1;
        if let Some(state) = self.nodes.get_mut(name) {
            self.freed.remove(&state.freed_at);
            state.freed_at = self.epoch;
            self.freed.insert(self.epoch, name.clone());
            self.holds.room.changed(name);
        }
    }

    /// The reasons of all may be others.
    pub(crate) fn reasons_stale(&mut self) {
        self.epoch += 1;
        self.reasons_at = self.epoch;
    }
}
