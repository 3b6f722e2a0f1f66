//! The shell of node: keeps what was seen of leases, and asks the decisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{Job, Node, phase};
use jiff::{SignedDuration, Timestamp};

use super::decide::{self, Sight};
use super::job;
use crate::ControllerName;
use crate::shell::{Change, Controller, Delta, Key, Kind, Plan, Subject, Wanted, World, later};

/// A node with a live lease is looked at this often, and no less: a longer gap means that this process slept.
const PULSE_SECS: u64 = 5;
/// A gap between two looks that can only come from a suspension.
const SLEPT: SignedDuration = SignedDuration::from_secs(20);

/// Node.
#[derive(Debug)]
pub(crate) struct NodeLife {
    not_ready_seconds: u64,
    sights: BTreeMap<Key, Sight>,
    /// The boot id of each node, and since when this process knows it.
    boots: BTreeMap<Key, (String, Timestamp)>,
    /// Jobs that are marked as being on a silent node, and since when this process sees that.
    unknown: BTreeMap<Key, Timestamp>,
    last_look: Option<Timestamp>,
}

impl NodeLife {
    pub(crate) fn new(not_ready_seconds: u64) -> Self {
        Self {
            not_ready_seconds,
            sights: BTreeMap::new(),
            boots: BTreeMap::new(),
            unknown: BTreeMap::new(),
            last_look: None,
        }
    }

    fn interrupt(&mut self, now: Timestamp) {
        for sight in self.sights.values_mut() {
            *sight = sight.interrupted(now);
        }
    }

    /// Notices that this process was suspended.
    fn pulse(&mut self, now: Timestamp) {
        let slept = self
            .last_look
            .is_some_and(|last| now.duration_since(last) > SLEPT);
        if slept {
            tracing::info!("this process was suspended, so the silence of nodes counts anew");
            self.interrupt(now);
        }
        self.last_look = Some(now);
    }

    fn on_node(&mut self, key: &Key, node: Option<&Node>, now: Timestamp) {
        let Some(node) = node else {
            self.sights.remove(key);
            self.boots.remove(key);
            return;
        };
        let sight = Sight::after(None, None, now);
        self.sights.entry(key.clone()).or_insert(sight);
        let info = node.status.as_ref().and_then(|status| status.info.as_ref());
        if let Some(info) = info
            && self
                .boots
                .get(key)
                .is_none_or(|(boot, _)| *boot != info.boot_id)
        {
            let boot = (info.boot_id.clone(), now);
            self.boots.insert(key.clone(), boot);
        }
    }

    fn look_at_node(&self, key: &Key, node: &Arc<Node>, now: Timestamp) -> Plan {
        let unseen = Sight::after(None, None, now);
        let mut plan = decide::decide(&decide::Observed {
            node,
            sight: self.sights.get(key).copied().unwrap_or(unseen),
            not_ready_seconds: self.not_ready_seconds,
            now,
        });
        if let Some(at) = plan.look_again {
            plan.look_again = Some(at.min(later(now, PULSE_SECS)));
        }
        plan
    }

    /// Keeps account of jobs on silent nodes. One that is taken back proves that its node was heard of.
    fn on_job(&mut self, delta: &Delta<Job>, now: Timestamp) {
        let silent = |job: &Option<Arc<Job>>| {
            let status = job.as_ref()?.status.as_ref()?;
            let node = phase::held_binding(status)?.node_name.clone();
            status.node_silent.then_some((node, status.attempt))
        };
        let Some((_, attempt)) = silent(&delta.new) else {
            self.unknown.remove(&delta.key);
            if let (Some((node, before)), Some(new)) = (silent(&delta.old), &delta.new) {
                let status = new.status.as_ref();
                let goes_on = status.is_some_and(|status| {
                    status.attempt == before && phase::held_binding(status).is_some()
                });
                if goes_on && let Some(sight) = self.sights.get_mut(&Key::cluster(&node)) {
                    *sight = sight.interrupted(now);
                }
            }
            return;
        };
        if silent(&delta.old).is_none_or(|(_, before)| before != attempt) {
            self.unknown.insert(delta.key.clone(), now);
        } else {
            self.unknown.entry(delta.key.clone()).or_insert(now);
        }
    }

    fn look_at_job(&self, key: &Key, job: &Arc<Job>, world: &World, now: Timestamp) -> Plan {
        let binding = job.status.as_ref().and_then(phase::held_binding);
        let Some(node) = binding.map(|binding| Key::cluster(&binding.node_name)) else {
            return Plan::nothing();
        };
        let mut plan = job::decide(&job::Observed {
            job,
            parents: &world.parents_of(job),
            node: world.nodes.get(&node).map(AsRef::as_ref),
            boot_seen: self.boots.get(&node).map(|(_, since)| *since),
            sight: self.sights.get(&node).copied(),
            unknown_since: self.unknown.get(key).copied(),
            now,
        });
        if let Some(at) = plan.look_again {
            plan.look_again = Some(at.min(later(now, PULSE_SECS)));
        }
        plan
    }
}

impl Controller for NodeLife {
    fn name(&self) -> ControllerName {
        ControllerName::Node
    }

    fn on_change(&mut self, change: &Change, world: &World, now: Timestamp, wanted: &mut Wanted) {
        match change {
            Change::Node(delta) => {
                self.on_node(&delta.key, delta.new.as_deref(), now);
                if let Some(lease) = world.leases.get(&lease_key(&delta.key)) {
                    let renewed = renewed(lease);
                    let before = self.sights.get(&delta.key).copied();
                    // A lease that was there before its node is found, not seen to be renewed.
                    let before = before.filter(|sight| sight.renewed.is_some());
                    let sight = Sight::after(before, renewed, now);
                    self.sights.insert(delta.key.clone(), sight);
                }
                if delta.new.is_some() {
                    wanted.node(&delta.key);
                }
                if concerns_jobs(delta.old.as_deref(), delta.new.as_deref()) {
                    for key in world.jobs_on(&delta.key.name) {
                        wanted.job(key);
                    }
                }
            }
            Change::Lease(delta) => {
                let key = Key::cluster(&delta.key.name);
                if let (Some(lease), Some(_)) = (&delta.new, world.nodes.get(&key)) {
                    let before = self.sights.get(&key).copied();
                    let before = before.filter(|sight| sight.renewed.is_some());
                    let sight = Sight::after(before, renewed(lease), now);
                    self.sights.insert(key.clone(), sight);
                    wanted.node(&key);
                }
            }
            Change::Job(delta) => {
                self.on_job(delta, now);
                let status = delta.new.as_ref().and_then(|job| job.status.as_ref());
                let binding = status.and_then(phase::held_binding);
                if let (Some(status), Some(binding)) = (status, binding)
                    && self.is_remarkable(status, binding, world)
                {
                    wanted.job(&delta.key);
                }
            }
            Change::Queue(_) | Change::Profile => {}
        }
    }

    fn reconcile(&mut self, subject: &Subject, world: &World, now: Timestamp) -> Plan {
        self.pulse(now);
        match subject {
            Subject::Node(key) => match world.nodes.get(key) {
                Some(node) => self.look_at_node(key, node, now),
                None => Plan::nothing(),
            },
            Subject::Job(key) => match world.jobs.get(key) {
                Some(job) => self.look_at_job(key, job, world, now),
                None => Plan::nothing(),
            },
            Subject::Fleet => Plan::nothing(),
        }
    }

    fn on_interruption(&mut self, kind: Kind, until: Timestamp) {
        if kind == Kind::Lease {
            self.interrupt(until);
        }
    }
}

impl NodeLife {
    /// Could anything follow for a bound job? On a healthy node nothing does, which is by far the most frequent case.
    fn is_remarkable(
        &self,
        status: &crds::JobStatus,
        binding: &crds::job_status::Binding,
        world: &World,
    ) -> bool {
        let key = Key::cluster(&binding.node_name);
        let Some(node) = world.nodes.get(&key) else {
            return true;
        };
        let boot = self.boots.get(&key).map(|(boot, _)| boot.as_str());
        let rebooted = phase::current_claim(status)
            .is_some_and(|claim| boot.is_some_and(|boot| boot != claim.boot_id));
        status.node_silent
            || rebooted
            || decide::seen(node) != decide::Seen::Yes
            || node.spec.desired_state.is_some()
            || !node.spec.taints.is_empty()
    }
}

/// Did more change than the figures that an agent measures?
fn concerns_jobs(old: Option<&Node>, new: Option<&Node>) -> bool {
    let boot = |node: &Node| {
        let info = node.status.as_ref()?.info.as_ref()?;
        Some(info.boot_id.clone())
    };
    match (old, new) {
        (Some(old), Some(new)) => {
            old.spec != new.spec || decide::seen(old) != decide::seen(new) || boot(old) != boot(new)
        }
        _ => true,
    }
}

fn lease_key(node: &Key) -> Key {
    Key::new(crds::NODE_LEASE_NAMESPACE, &node.name)
}

fn renewed(lease: &k8s_openapi::api::coordination::v1::Lease) -> Option<Timestamp> {
    let spec = lease.spec.as_ref()?;
    spec.renew_time.as_ref().map(|time| time.0)
}
