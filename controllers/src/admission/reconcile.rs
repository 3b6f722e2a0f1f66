//! The shell of admission.

use std::sync::Arc;

use crds::queue::folded;
use crds::{DEFAULT_QUEUE, Job, Queue};
use jiff::Timestamp;

use super::belongs::Queues;
use super::decide::{Observed, decide, enqueue_time, in_force};
use super::resolve::resolve;
use crate::ControllerName;
use crate::shell::{
    Change, Controller, Key, Plan, Store, Subject, Wanted, World, is_ended, is_parent, uid,
};

/// Admission.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// The last place in the queue that was given.
    last: Option<Timestamp>,
}

/// Can a change of a profile still matter to it? Of its queue's priority it can as long as it has not ended.
fn is_open(job: &Job) -> bool {
    let bound = job.status.as_ref().is_some_and(|s| s.binding.is_some());
    !bound && !is_ended(job)
}

/// Could there be anything to do for it? A bound job is done with, until its spec changes.
fn concerns(job: &Job) -> bool {
    let resolved = job.status.as_ref().and_then(|s| s.observed_generation);
    is_open(job) || (!is_ended(job) && resolved != job.metadata.generation)
}

/// The queue that was found for the job.
fn home(job: &Job) -> Option<&str> {
    let effective = job.status.as_ref()?.effective.as_ref()?;
    Some(&effective.queue.value)
}

/// Does the job name this queue?
fn names(job: &Job, queue: &str) -> bool {
    let named = job.spec.queue.as_deref();
    named.is_some_and(|named| folded(named) == queue)
}

impl Queues for Store<Queue> {
    fn named(&self, name: &str) -> Option<&Queue> {
        self.get(&Key::cluster(name)).map(AsRef::as_ref)
    }

    fn all(&self) -> impl Iterator<Item = &Queue> {
        self.iter().map(|(_, queue)| queue.as_ref())
    }
}

impl Controller for Admission {
    fn name(&self) -> ControllerName {
        ControllerName::Admission
    }

    fn on_change(&mut self, change: &Change, world: &World, _: Timestamp, wanted: &mut Wanted) {
        match change {
            Change::Job(delta) => {
                let Some(job) = delta.new.as_deref() else {
                    return;
                };
                if concerns(job) {
                    wanted.job(&delta.key);
                }
                let known = delta.old.as_deref().map(|old| old.spec.priority);
                if is_parent(job) && known.is_some_and(|old| old != job.spec.priority) {
                    for member in world.family_of(uid(job)) {
                        wanted.job(&member);
                    }
                }
            }
            Change::Queue(delta) => {
                let spec = |queue: &Option<Arc<Queue>>| queue.as_ref().map(|q| q.spec.clone());
                if spec(&delta.old) == spec(&delta.new) {
                    return;
                }
                let owned = |queue: &Option<Arc<Queue>>| {
                    let queue = queue.as_ref();
                    queue.map_or(Vec::new(), |queue| queue.spec.directories.clone())
                };
                let name = &*delta.key.name;
                let of_all = name == DEFAULT_QUEUE || owned(&delta.old) != owned(&delta.new);
                for (key, job) in world.jobs.iter() {
                    if !is_ended(job) && (of_all || names(job, name) || home(job) == Some(name)) {
                        wanted.job(key);
                    }
                }
            }
            Change::Profile => {
                for (key, _) in world.jobs.iter().filter(|(_, job)| is_open(job)) {
                    wanted.job(key);
                }
            }
            Change::Node(_) | Change::Lease(_) => {}
        }
    }

    fn reconcile(&mut self, subject: &Subject, world: &World, now: Timestamp) -> Plan {
        let Subject::Job(key) = subject else {
            return Plan::nothing();
        };
        let Some(job) = world.jobs.get(key) else {
            return Plan::nothing();
        };
        let profiles = world.profiles.iter().map(|(_, profile)| profile.as_ref());
        let created = job.metadata.creation_timestamp.as_ref();
        let enqueue_time = enqueue_time(now, created.map(|time| time.0), self.last);
        let parents = world.parents_of(job);
        let mut spec = in_force(job, &parents);
        // What a bound job holds is its queue's, whoever owns its directory by now.
        if let Some(home) = home(job).filter(|_| !is_open(job)) {
            spec.to_mut().queue = Some(home.to_owned());
        }
        let plan = decide(Observed {
            job,
            parent: parents.first().copied(),
            resolved: resolve(&spec, &world.queues, profiles),
            enqueue_time,
            now,
        });
        let known = job.status.as_ref().and_then(|s| s.enqueue_time.as_ref());
        if known.is_none() && !plan.ops.is_empty() {
            self.last = Some(enqueue_time);
        }
        plan
    }
}
