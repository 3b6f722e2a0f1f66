//! The shell of array.

use std::sync::Arc;

use crds::Job;
use jiff::Timestamp;

use super::decide::{Member, Observed, decide, decide_member};
use crate::ControllerName;
use crate::shell::{
    Change, Controller, Key, Plan, Subject, Wanted, World, child_name, member_index, owner, rank,
    uid,
};

/// Array.
#[derive(Debug)]
pub(crate) struct Array;

impl Controller for Array {
    fn name(&self) -> ControllerName {
        ControllerName::Array
    }

    fn on_change(&mut self, change: &Change, world: &World, _: Timestamp, wanted: &mut Wanted) {
        let Change::Job(delta) = change else {
            return;
        };
        for job in [&delta.old, &delta.new].into_iter().flatten() {
            if job.spec.array.is_some() {
                wanted.job(&delta.key);
                for (_, member) in world.members_of(uid(job)) {
                    wanted.job(member);
                }
            }
        }
        let member = delta.new.as_ref().or(delta.old.as_ref());
        let member = member.filter(|job| rank(job).is_none());
        if let Some(owner) = member.and_then(|job| owner(job)) {
            wanted.job(&delta.key);
            wanted.job(&Key::new(&delta.key.namespace, &owner.name));
        } else if let Some(array) = array_in_the_way(&delta.key, world) {
            // Its name may have kept an array from making a member.
            if delta.new.is_none() || delta.old.is_none() {
                wanted.job(&array);
            }
        }
    }

    fn reconcile(&mut self, subject: &Subject, world: &World, now: Timestamp) -> Plan {
        let Subject::Job(key) = subject else {
            return Plan::nothing();
        };
        let Some(job) = world.jobs.get(key) else {
            return Plan::nothing();
        };
        if job.spec.array.is_some() {
            return look_at_parent(key, job, world, now);
        }
        match (owner(job), member_index(job)) {
            (Some(_), Some(index)) if rank(job).is_none() => {
                let parent = world.parent_of(job).map(AsRef::as_ref);
                decide_member(job, parent, index)
            }
            _ => Plan::nothing(),
        }
    }
}

fn look_at_parent(key: &Key, parent: &Arc<Job>, world: &World, now: Timestamp) -> Plan {
    let members: Vec<Member<'_>> = world
        .members_of(uid(parent))
        .filter_map(|(index, key)| {
            let job = world.jobs.get(key)?;
            Some(Member { index, job })
        })
        .collect();
    let is_taken = |index| {
        let name = child_name(&key.name, index);
        let other = world.jobs.get(&Key::new(&key.namespace, &name));
        other.is_some_and(|job| {
            owner(job).is_none_or(|owner| owner.uid != uid(parent))
                || member_index(job) != Some(index)
        })
    };
    decide(&Observed {
        parent,
        members: &members,
        is_taken: &is_taken,
        now,
    })
}

/// The array one of whose members would have this name.
fn array_in_the_way(key: &Key, world: &World) -> Option<Key> {
    let (array, index) = key.name.rsplit_once('-')?;
    index.parse::<u32>().ok()?;
    let array = Key::new(&key.namespace, array);
    world
        .jobs
        .get(&array)
        .is_some_and(|job| job.spec.array.is_some())
        .then_some(array)
}
