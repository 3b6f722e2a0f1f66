//! The shell of gang.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::{Job, phase};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use super::decide::{Member, Observed, decide, decide_member};
use crate::ControllerName;
use crate::shell::{
    Change, Controller, Delta, Key, Kind, Plan, Subject, Wanted, World, child_name, gang_size,
    is_deleting, is_ended, owner, rank, uid,
};

/// Gang.
#[derive(Debug)]
pub(crate) struct Gang {
    not_ready_seconds: u64,
    /// The last renewal of each node's lease, and when it was seen by the clock of this process.
    signs: BTreeMap<String, Sign>,
    /// Gangs that wait for a time, as do those of which a member has failed while the node of another is overdue: a sign of
    /// life of that node decides sooner.
    unsure: BTreeSet<Key>,
}

/// A renewal as its node wrote it, and when it was seen.
type Sign = (Option<Timestamp>, Timestamp);

impl Gang {
    /// `not_ready_seconds` is how long a node may be silent.
    pub(crate) fn new(not_ready_seconds: u64) -> Self {
        Self {
            not_ready_seconds,
            signs: BTreeMap::new(),
            unsure: BTreeSet::new(),
        }
    }

    /// A node may have given a sign of life.
    fn on_lease(&mut self, delta: &Delta<Lease>, now: Timestamp, wanted: &mut Wanted) {
        let node = &*delta.key.name;
        let Some(lease) = &delta.new else {
            self.signs.remove(node);
            return;
        };
        let spec = lease.spec.as_ref();
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|t| t.0);
        let known = self.signs.get(node);
        if known.is_none_or(|(before, _)| *before != renewed) {
            self.signs.insert(node.to_owned(), (renewed, now));
            for gang in &self.unsure {
                wanted.job(gang);
            }
        }
    }

    fn heard(&self, job: &Job) -> Option<Timestamp> {
        let binding = job.status.as_ref().and_then(phase::held_binding)?;
        self.signs.get(&binding.node_name).map(|(_, seen)| *seen)
    }

    fn look_at_parent(
        &mut self,
        key: &Key,
        parent: &Arc<Job>,
        world: &World,
        now: Timestamp,
    ) -> Plan {
        let named = |rank| {
            let name = child_name(&key.name, rank);
            world.jobs.get(&Key::new(&key.namespace, &name))
        };
        let members = world.members_of(uid(parent)).filter_map(|(rank, key)| {
            let job = world.jobs.get(key)?;
            let is_it = named(rank).is_some_and(|named| uid(named) == uid(job));
            is_it.then(|| Member {
                rank,
                job,
                heard: self.heard(job),
            })
        });
        let members: Vec<Member<'_>> = members.collect();
        let plan = decide(&Observed {
            parent,
            parents: &world.parents_of(parent),
            members: &members,
            named: &named,
            not_ready_seconds: self.not_ready_seconds,
            now,
        });
        if plan.ops.is_empty() && plan.look_again.is_some() {
            self.unsure.insert(key.clone());
        } else {
            self.unsure.remove(key);
        }
        plan
    }
}

impl Controller for Gang {
    fn name(&self) -> ControllerName {
        ControllerName::Gang
    }

    fn on_change(&mut self, change: &Change, world: &World, now: Timestamp, wanted: &mut Wanted) {
        let delta = match change {
            Change::Job(delta) => delta,
            Change::Lease(delta) => return self.on_lease(delta, now, wanted),
            Change::Node(_) | Change::Queue(_) | Change::Profile => return,
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
            self.unsure.remove(key);
            return Plan::nothing();
        };
        if gang_size(job).is_some() {
            return self.look_at_parent(key, job, world, now);
        }
        match rank(job) {
            Some(_) => decide_member(job, world.parent_of(job).map(AsRef::as_ref)),
            None => Plan::nothing(),
        }
    }

    fn on_interruption(&mut self, kind: Kind, until: Timestamp) {
        if kind == Kind::Lease {
            for (_, seen) in self.signs.values_mut() {
                *seen = until;
            }
        }
    }
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
