//! What members of gangs hold of the node from their claim on: room, and a port. Others hold nothing before they start, and
//! the ledger says what they hold then.

use std::collections::BTreeSet;

use crds::job_status::{Endpoint, JobStatus};
use crds::{Job, phase};

use super::{JobSlot, Known, Shell};
use crate::attempt::{AttemptId, Charge};
use crate::environment;
use crate::ports::Port;

/// What one member holds.
pub(super) struct Hold {
    pub(super) attempt: u32,
    pub(super) charge: Charge,
    port: Port,
}

impl Hold {
    /// What a member holds that an agent of this boot has claimed, be it one before this.
    fn of_claimed(job: &Job, node: &str, boot_id: &str) -> Option<Self> {
        let status = job.status.as_ref()?;
        let charge = wanted(status, node)?;
        let claim = phase::current_claim(status).filter(|claim| claim.boot_id == boot_id)?;
        let endpoint = claim.endpoint.as_ref()?;
        Some(Self {
            attempt: status.attempt,
            charge,
            port: Port::unkept(endpoint.port),
        })
    }
}

impl JobSlot {
    /// Goes by what is known of the job now. What the watch says while the job is being read lets nothing go.
    pub(super) fn update_hold(&mut self, node: &str, boot_id: &str) {
        let job = match &self.seen {
            Known::Job { job, .. } => job,
            Known::Unverified { news: Some(job) } if self.hold.is_none() => job,
            Known::Unverified { .. } | Known::Gone => return,
        };
        let status = job.status.as_ref();
        let stays = self.hold.as_ref().is_some_and(|hold| {
            status.is_some_and(|status| {
                status.attempt == hold.attempt && wanted(status, node).is_some()
            })
        });
        if !stays {
            self.hold = Hold::of_claimed(job, node, boot_id);
        }
    }

    /// The job is about to listen on its port, if it does.
    pub(super) fn let_port_go(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.port.let_go();
        }
    }
}

/// What a member of a gang that is bound to this node, and not released, takes of it.
fn wanted(status: &JobStatus, node: &str) -> Option<Charge> {
    status.gang.as_ref()?;
    let binding = phase::held_binding(status)?;
    (binding.node_name == node && status.finish_time.is_none())
        .then(|| environment::charge(binding))
}

impl Shell {
    /// What members of gangs other than this job hold, and the ledger says nothing of.
    pub(super) fn held_by_members<'a>(
        &'a self,
        uid: &'a str,
    ) -> impl Iterator<Item = (AttemptId, &'a Charge)> {
        let others = self.jobs.iter().filter(move |(other, _)| *other != uid);
        others.filter_map(|(other, slot)| {
            let hold = slot.hold.as_ref()?;
            let id = AttemptId {
                uid: other.clone(),
                attempt: hold.attempt,
            };
            (!self.attempts.contains_key(&id)).then_some((id, &hold.charge))
        })
    }

    /// Is the job a member of a gang that holds something, and of which nothing was started?
    pub(super) fn waits_for_its_gang(&self, uid: &str) -> bool {
        let hold = self.jobs.get(uid).and_then(|slot| slot.hold.as_ref());
        hold.is_some_and(|hold| {
            !self.attempts.contains_key(&AttemptId {
                uid: uid.to_owned(),
                attempt: hold.attempt,
            })
        })
    }

    /// Where a member of a gang that is to be claimed will be reached: its port is kept from now on.
    pub(super) fn endpoint(&mut self, uid: &str, job: &Job) -> Result<Option<Endpoint>, String> {
        let status = job.status.as_ref();
        let Some((attempt, charge)) = status
            .filter(|status| phase::current_claim(status).is_none())
            .and_then(|status| {
                let node = &self.context.options.node_name;
                Some((status.attempt, wanted(status, node)?))
            })
        else {
            return Ok(None);
        };
        let kept = self.jobs.get(uid).and_then(|slot| slot.hold.as_ref());
        let kept = kept.filter(|hold| hold.attempt == attempt);
        let port = if let Some(hold) = kept {
            hold.port.number()
        } else {
            let holds = self.jobs.values().filter_map(|slot| slot.hold.as_ref());
            let taken: BTreeSet<u16> = holds.map(|hold| hold.port.number()).collect();
            let id = AttemptId {
                uid: uid.to_owned(),
                attempt,
            };
            let port = self.context.options.runner.reserve_port(&id, &taken);
            let port = port.map_err(|error| format!("no TCP port is free for it: {error}"))?;
            let number = port.number();
            if let Some(slot) = self.jobs.get_mut(uid) {
                slot.hold = Some(Hold {
                    attempt,
                    charge,
                    port,
                });
            }
            number
        };
        Ok(Some(Endpoint {
            address: self.context.address(),
            port,
        }))
    }
}
