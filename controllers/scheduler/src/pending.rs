//! The waiting jobs, grouped into classes of jobs of one queue and priority that need and allow the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::explain::Explanation;
use crate::input::{Job, Millis, NodeName, QueueName, Requirements, Terms};
use crate::order::Place;
use crate::reason::ReasonClass;

/// What jobs of one class have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassKey {
    pub(crate) queue: QueueName,
    /// Declared; jobs of one class therefore age alike.
    pub(crate) priority: i32,
    /// What others may do to them decides where they may be placed beside reservations.
    pub(crate) terms: Terms,
    pub(crate) requirements: Requirements,
}

impl ClassKey {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            queue: job.queue.clone(),
            priority: job.priority,
            terms: job.terms,
            requirements: job.requirements.clone(),
        }
    }
}

/// Identity of a class for as long as it has jobs.
pub(crate) type ClassId = u64;

/// Waiting jobs that are tried together.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) key: Arc<ClassKey>,
    /// Its jobs in order.
    pub(crate) jobs: BTreeSet<Place>,
    /// Those that were not told yet why they wait.
    pub(crate) untold: BTreeSet<Place>,
    /// Set when the class did not fit; cleared when it must be tried on everything again.
    pub(crate) blocked: Option<Blocked>,
    /// Since when nodes have kept it waiting, without a job of it being placed.
    pub(crate) waits_since: Option<Millis>,
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
        let key = ClassKey::of(job);
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
                waits_since: None,
                reason: None,
                why: None,
            };
            self.classes.insert(id, class);
            id
        };
        if let Some(class) = self.classes.get_mut(&id) {
            let place = Place::of(job);
            class.untold.insert(place.clone());
            class.jobs.insert(place);
            self.to_tell.insert(id);
        }
        id
    }

    /// Removes a job, and its class with the last one.
    pub(crate) fn remove(&mut self, id: ClassId, job: &Job) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        let place = Place::of(job);
        class.jobs.remove(&place);
        class.untold.remove(&place);
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
    pub(crate) fn told(&mut self, id: ClassId, place: &Place) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.untold.remove(place);
            if class.untold.is_empty() {
                self.to_tell.remove(&id);
            }
        }
    }
}
