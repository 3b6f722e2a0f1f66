//! The waiting jobs: in order, and grouped into classes of jobs that need the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::explain::Explanation;
use crate::input::{Job, JobUid, NodeName, QueueName, Requirements};
use crate::reason::ReasonClass;

/// A job's place in the order: priority, then enqueue time, then uid. Less is first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrderKey {
    priority: Reverse<i32>,
    enqueued_micros: i64,
    pub(crate) uid: JobUid,
}

impl OrderKey {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            priority: Reverse(job.priority),
            enqueued_micros: job.enqueued_micros,
            uid: job.uid.clone(),
        }
    }
}

/// What jobs of one class have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassKey {
    pub(crate) queue: QueueName,
    pub(crate) requirements: Requirements,
}

/// Identity of a class for as long as it has jobs.
pub(crate) type ClassId = u64;

/// Waiting jobs that need the same.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) key: Arc<ClassKey>,
    /// Its jobs in order.
    pub(crate) jobs: BTreeSet<OrderKey>,
    /// Those that were not told yet why they wait.
    pub(crate) untold: BTreeSet<OrderKey>,
    /// Set when the class did not fit; cleared when it must be tried on everything again.
    pub(crate) blocked: Option<Blocked>,
    /// The class of the reason that the told jobs know, and the node that it is judged by.
    pub(crate) reason: Option<Known>,
    /// The reason in full, and the state of the cluster that it is true of.
    pub(crate) why: Option<(u64, Arc<Explanation>)>,
}

/// A reason that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its class.
    pub(crate) class: ReasonClass,
    /// The node nearest to a fit, for reasons of nodes.
    pub(crate) judged_by: Option<NodeName>,
}

/// A failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// The event after which it was tried.
    pub(crate) at: u64,
    /// The shape of the fleet that it was tried on.
    pub(crate) shape: u64,
    /// True when its queue kept it, and no node was asked.
    pub(crate) by_queue: bool,
}

/// All classes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    ids: BTreeMap<Arc<ClassKey>, ClassId>,
    pub(crate) classes: BTreeMap<ClassId, Class>,
    next_id: ClassId,
    /// Classes with jobs that were not told.
    pub(crate) to_tell: BTreeSet<ClassId>,
}

impl Pending {
    /// Adds a job and answers its class.
    pub(crate) fn add(&mut self, job: &Job) -> ClassId {
        let key = ClassKey {
            queue: job.queue.clone(),
            requirements: job.requirements.clone(),
        };
        let id = if let Some(id) = self.ids.get(&key) {
            *id
        } else {
            let id = self.next_id;
            self.next_id += 1;
            let key = Arc::new(key);
            self.ids.insert(key.clone(), id);
            let class = Class {
                key,
                jobs: BTreeSet::new(),
                untold: BTreeSet::new(),
                blocked: None,
                reason: None,
                why: None,
            };
            self.classes.insert(id, class);
            id
        };
        if let Some(class) = self.classes.get_mut(&id) {
            let order = OrderKey::of(job);
            class.untold.insert(order.clone());
            class.jobs.insert(order);
            self.to_tell.insert(id);
        }
        id
    }

    /// Removes a job, and its class with the last one.
    pub(crate) fn remove(&mut self, id: ClassId, job: &Job) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        let order = OrderKey::of(job);
        class.jobs.remove(&order);
        class.untold.remove(&order);
        if class.untold.is_empty() {
            self.to_tell.remove(&id);
        }
        if class.jobs.is_empty() {
            self.ids.remove(&*class.key);
            self.classes.remove(&id);
        }
    }

    /// Records that a class did not fit.
    pub(crate) fn block(&mut self, id: ClassId, blocked: Blocked) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.blocked = Some(blocked);
        }
    }

    /// Records why a class waits; its jobs are told again when the class of the reason is another than before.
    pub(crate) fn set_reason(&mut self, id: ClassId, reason: Known) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        if class.reason.as_ref().map(|known| known.class) != Some(reason.class) {
            class.untold = class.jobs.clone();
            self.to_tell.insert(id);
        }
        class.reason = Some(reason);
    }

    /// Marks a job as told.
    pub(crate) fn told(&mut self, id: ClassId, order: &OrderKey) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.untold.remove(order);
            if class.untold.is_empty() {
                self.to_tell.remove(&id);
            }
        }
    }
}
