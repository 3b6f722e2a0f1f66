//! The shell of gang.

use std::sync::Arc;

use crds::Job;
use jiff::Timestamp;

use super::decide::{Member, Observed, decide, decide_member};
use crate::ControllerName;
use crate::shell::{
    Change, Controller, Key, Plan, Subject, Wanted, World, child_name, gang_size, is_deleting,
    is_ended, owner, rank, uid,
};

/// Gang.
#[derive(Debug)]
pub(crate) struct Gang;

impl Controller for Gang {
    fn name(&self) -> ControllerName {
        ControllerName::Gang
    }

    fn on_change(&mut self, change: &Change, world: &World, _: Timestamp, wanted: &mut Wanted) {
        let Change::Job(delta) = change else {
            return;
        };
        let (old, new) = (delta.old.as_deref(), delta.new.as_deref());
        let Some(job) = new.or(old) else {
            return;
        };
        if gang_size(job).is_some() {
            wanted.job(&delta.key);
            let lets_go = |job: &Job| is_ended(job) || is_deleting(job);
            if new.is_none_or(lets_go) && !old.is_some_and(lets_go) {
                for (_, member) in world.members_of(uid(job)) {
                    wanted.job(member);
                }
            }
        } else if job.spec.array.is_some() && old.map(gates) != new.map(gates) {
            // Its members may be gangs, and are cancelled and suspended with it.
            for (_, member) in world.members_of(uid(job)) {
                wanted.job(member);
            }
        }
        if rank(job).is_some() {
            wanted.job(&delta.key);
            if let Some(owner) = owner(job) {
                wanted.job(&Key::new(&delta.key.namespace, &owner.name));
            }
        }
        if (old.is_none() || new.is_none())
            && let Some(gang) = gang_in_the_way(&delta.key, world)
        {
            // Its name may keep, or have kept, a gang from making a member.
            wanted.job(&gang);
        }
    }

    fn reconcile(&mut self, subject: &Subject, world: &World, now: Timestamp) -> Plan {
        let Subject::Job(key) = subject else {
            return Plan::nothing();
        };
        let Some(job) = world.jobs.get(key) else {
            return Plan::nothing();
        };
        if gang_size(job).is_some() {
            return look_at_parent(key, job, world, now);
        }
        match rank(job) {
            Some(_) => decide_member(job, world.parent_of(job).map(AsRef::as_ref)),
            None => Plan::nothing(),
        }
    }
}

fn look_at_parent(key: &Key, parent: &Arc<Job>, world: &World, now: Timestamp) -> Plan {
    let named = |rank| {
        let name = child_name(&key.name, rank);
        world.jobs.get(&Key::new(&key.namespace, &name))
    };
    let members = world.members_of(uid(parent)).filter_map(|(rank, key)| {
        let job = world.jobs.get(key)?;
        let is_it = named(rank).is_some_and(|named| uid(named) == uid(job));
        is_it.then_some(Member { rank, job })
    });
    let members: Vec<Member<'_>> = members.collect();
    decide(&Observed {
        parent,
        parents: &world.parents_of(parent),
        members: &members,
        named: &named,
        now,
    })
}

/// What of an array matters to the gangs that are its members.
fn gates(job: &Job) -> (Option<bool>, Option<bool>) {
    (job.spec.cancel, job.spec.suspend)
}

/// The gang one of whose members would have this name.
fn gang_in_the_way(key: &Key, world: &World) -> Option<Key> {
    let (gang, rank) = key.name.rsplit_once('-')?;
    rank.parse::<u32>().ok()?;
    let gang = Key::new(&key.namespace, gang);
    let is_one = world
        .jobs
        .get(&gang)
        .is_some_and(|job| gang_size(job).is_some());
    is_one.then_some(gang)
}
