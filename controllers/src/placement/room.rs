//! Placement's account of what is kept for waiting jobs: restored from their status, decided by the core, or asked for.

use std::sync::Arc;

use crds::Job;
use crds::job_status::Victim;
use jiff::Timestamp;
use scheduler::{Cluster, preempt};

use super::decide::{View, view};
use super::reconcile::{Placement, millis};
use super::{convert, holds};
use crate::shell::{Displaceable, Key, World, later, owner, rank, room_wanted};

/// How long room that somebody asked for is kept beyond the grace of those who leave it.
const PATIENCE_SECS: u64 = 60;

impl Placement {
    /// What the status of a waiting job says is kept for it is kept again, of a gang once all members that have no node are known;
    /// and it has waited since when its status says.
    pub(super) fn restore(&mut self, key: &Key, job: &Arc<Job>, world: &World, now: Timestamp) {
        holds::restore_wait(&mut self.cluster, job);
        if holds::said_reservation(job).is_none() && holds::said_nomination(job).is_none() {
            return;
        }
        let unit = unit(key, job, world);
        let jobs: Vec<&Job> = unit.iter().map(|(_, job)| job.as_ref()).collect();
        let (reserved, nominated) = holds::restore(&mut self.cluster, &jobs, now);
        let together = self.cluster.together(&convert::job_uid(job));
        let Some(lead) = together.first().and_then(|lead| self.keys.get(lead)) else {
            return;
        };
        let lead = lead.clone();
        if reserved {
            let slots = unit.iter().filter_map(|(key, job)| {
                Some((key.clone(), holds::said_reservation(job)?.clone()))
            });
            self.holds.reserve(&lead, slots.collect());
        }
        if nominated {
            let slots = unit
                .iter()
                .filter_map(|(key, job)| Some((key.clone(), holds::said_nomination(job)?.clone())));
            self.holds.nominate(&lead, slots.collect());
        }
    }

    /// What the core reserves is to be written, for each job that has a slot of it.
    pub(super) fn keep(&mut self, key: &Key, reservation: Option<scheduler::Reservation>) {
        let reservation = reservation.unwrap_or_default();
        let until = reservation.not_later_than;
        let slots = reservation.slots.iter().filter_map(|slot| {
            let of = self.keys.get(&slot.job)?;
            Some((of.clone(), holds::reservation(slot, until)))
        });
        let slots = slots.collect();
        self.holds.reserve(key, slots);
    }

    /// What the core nominates is to be written, for each job that has a slot of it; the victims are named by each.
    pub(super) fn nominate(
        &mut self,
        key: &Key,
        nomination: &scheduler::Nomination,
        world: &World,
    ) {
        self.nominations += 1;
        let id = format!("{}-{}", self.epoch, self.nominations);
        let victims = nomination.victims.iter().filter_map(|uid| {
            let (key, job) = self.job(uid, world)?;
            Some(Victim {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                uid: uid.to_string(),
                attempt: job.status.as_ref()?.attempt,
            })
        });
        let victims: Vec<Victim> = victims.collect();
        let slots = nomination.slots.iter().filter_map(|slot| {
            let of = self.keys.get(&slot.job)?;
            let said = holds::nomination(id.clone(), slot, victims.clone(), nomination.expires);
            Some((of.clone(), said))
        });
        let slots = slots.collect();
        self.holds.nominate(key, slots);
    }

    /// Somebody withdrew the nomination of a job: that of its gang, of which the core knows nothing yet.
    pub(super) fn withdrawn(&mut self, key: &Key, world: &World, now: Timestamp) {
        let lead = self.holds.lead_of(key);
        self.holds.remove(&lead);
        if let Some(job) = world.jobs.get(&lead) {
            self.cluster.remove_job(&convert::job_uid(job));
            self.feed(&lead, job, world, now);
        }
    }

    /// Makes room for the jobs that somebody wants it for, as far as others may be displaced for them.
    pub(super) fn make_room(&mut self, world: &World, now: Timestamp) {
        for key in std::mem::take(&mut self.wanting) {
            let Some(job) = world.jobs.get(&key) else {
                continue;
            };
            let id = convert::job_uid(job);
            let nominated = job.status.as_ref().is_some_and(|s| s.nomination.is_some());
            if nominated || self.holds.is_nominated(&key) {
                continue;
            }
            let wanted = job.status.as_ref();
            let wanted = wanted.and_then(|s| room_wanted(job, s, &world.parents_of(job)));
            let plans = match wanted {
                Some(Displaceable::Any) => {
                    preempt::plan_gang(&self.all_preemptible(world), &id, millis(now))
                }
                _ => preempt::plan_gang(&self.cluster, &id, millis(now)),
            };
            let plans = match plans {
                Ok(plans) => plans,
                Err(why) => {
                    tracing::info!(namespace = %key.namespace, name = %key.name, %why, "nobody is displaced");
                    continue;
                }
            };
            let victims = plans.iter().flat_map(|plan| &plan.victims);
            let graces = victims.clone().filter_map(|victim| {
                let (_, job) = self.job(&victim.job, world)?;
                let effective = job.status.as_ref()?.effective.as_ref()?;
                Some(effective.termination_grace_period_seconds.value)
            });
            let longest = u64::from(graces.max().unwrap_or(0));
            let nomination = scheduler::Nomination {
                victims: victims.map(|victim| victim.job.clone()).collect(),
                slots: plans
                    .into_iter()
                    .map(|plan| scheduler::Slot {
                        job: plan.placement.job,
                        node: plan.placement.node,
                        gpus: plan.placement.gpus,
                    })
                    .collect(),
                expires: millis(later(now, longest + PATIENCE_SECS)),
            };
            // The core knows what is kept for a gang by its first member.
            let lead = self.cluster.together(&id).into_iter().next();
            let id = lead.unwrap_or(id);
            let key = self.keys.get(&id).cloned().unwrap_or(key);
            if self.cluster.nominate(&id, nomination.clone()) {
                self.nominate(&key, &nomination, world);
            }
        }
    }

    /// The cluster as if every job that holds slots let itself be displaced. Built when a person asks for it, and seldom.
    fn all_preemptible(&self, world: &World) -> Cluster {
        let mut cluster = self.cluster.clone();
        for (_, job) in world.jobs.iter() {
            if let View::Holds(status, binding) = view(job, &world.parents_of(job)) {
                let estimate = self.runtimes.estimate(job);
                let mut bound = convert::bound_job(job, status, binding, estimate);
                bound.terms.preemptible = true;
                cluster.upsert_bound(bound);
            }
        }
        cluster
    }
}

/// A job, or the members of its gang that have no node and are of the same generation.
fn unit(key: &Key, job: &Arc<Job>, world: &World) -> Vec<(Key, Arc<Job>)> {
    let generation = |job: &Job| job.status.as_ref()?.gang.as_ref().map(|g| g.generation);
    let Some(owner) = owner(job).filter(|_| rank(job).is_some() && generation(job).is_some())
    else {
        return vec![(key.clone(), Arc::clone(job))];
    };
    let unbound = |job: &Job| job.status.as_ref().is_none_or(|s| s.binding.is_none());
    let members = world.members_of(&owner.uid).filter_map(|(_, key)| {
        let member = world.jobs.get(key)?;
        let together = unbound(member) && generation(member) == generation(job);
        together.then(|| (key.clone(), Arc::clone(member)))
    });
    members.collect()
}
