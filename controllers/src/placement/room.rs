//! Placement's account of what is kept for waiting jobs: restored from their status, decided by the core, or asked for.

use crds::Job;
use crds::job_status::Victim;
use jiff::Timestamp;
use scheduler::{JobUid, preempt};

use super::reconcile::{Placement, millis};
use super::{convert, holds};
use crate::shell::{Key, World, later};

/// How long room that somebody asked for is kept beyond the grace of those who leave it.
const PATIENCE_SECS: u64 = 60;

impl Placement {
    /// What the status of a waiting job says is kept for it is kept again.
    pub(super) fn restore(&mut self, key: &Key, job: &Job, now: Timestamp) {
        let (reservation, nomination) = holds::restore(&mut self.cluster, job, now);
        if reservation.is_some() {
            self.holds.reserve(key, reservation);
        }
        if nomination.is_some() {
            self.holds.nominate(key, nomination);
        }
    }

    /// What the core reserves is to be written, for each job that has a slot of it.
    pub(super) fn keep(
        &mut self,
        id: &JobUid,
        key: &Key,
        reservation: Option<scheduler::Reservation>,
    ) {
        let Some(reservation) = reservation else {
            self.holds.reserve(key, None);
            return;
        };
        let until = reservation.not_later_than;
        for slot in &reservation.slots {
            let of = if slot.job == *id {
                Some(key)
            } else {
                self.keys.get(&slot.job)
            };
            if let Some(of) = of {
                self.holds
                    .reserve(of, Some(holds::reservation(slot, until)));
            }
        }
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
        for slot in &nomination.slots {
            let of = self.keys.get(&slot.job).unwrap_or(key);
            let said = holds::nomination(id.clone(), slot, victims.clone(), nomination.expires);
            self.holds.nominate(of, Some(said));
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
            let plan = match preempt::plan(&self.cluster, &id, millis(now)) {
                Ok(plan) => plan,
                Err(why) => {
                    tracing::info!(namespace = %key.namespace, name = %key.name, %why, "nobody is displaced");
                    continue;
                }
            };
            let graces = plan.victims.iter().filter_map(|victim| {
                let (_, job) = self.job(&victim.job, world)?;
                let effective = job.status.as_ref()?.effective.as_ref()?;
                Some(effective.termination_grace_period_seconds.value)
            });
            let longest = u64::from(graces.max().unwrap_or(0));
            let nomination = scheduler::Nomination {
                slots: vec![scheduler::Slot {
                    job: id.clone(),
                    node: plan.placement.node.clone(),
                    gpus: plan.placement.gpus.clone(),
                }],
                victims: plan
                    .victims
                    .iter()
                    .map(|victim| victim.job.clone())
                    .collect(),
                expires: millis(later(now, longest + PATIENCE_SECS)),
            };
            if self.cluster.nominate(&id, nomination.clone()) {
                self.nominate(&key, &nomination, world);
            }
        }
    }
}
