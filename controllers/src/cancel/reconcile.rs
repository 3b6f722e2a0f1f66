//! The shell of cancel.

use jiff::Timestamp;

use super::decide::{Observed, decide};
use crate::ControllerName;
use crate::shell::{
    Change, Controller, Plan, Subject, Wanted, World, cancel_wanted, is_deleting, is_parent,
    suspend_wanted, uid,
};

/// Cancel.
#[derive(Debug)]
pub(crate) struct Cancel;

impl Controller for Cancel {
    fn name(&self) -> ControllerName {
        ControllerName::Cancel
    }

    fn on_change(&mut self, change: &Change, world: &World, _: Timestamp, wanted: &mut Wanted) {
        let Change::Job(delta) = change else {
            return;
        };
        let Some(job) = &delta.new else {
            return;
        };
        let parents = world.parents_of(job);
        if is_deleting(job) || cancel_wanted(job, &parents) || suspend_wanted(job, &parents) {
            wanted.job(&delta.key);
            if is_parent(job) {
                for member in world.family_of(uid(job)) {
                    wanted.job(&member);
                }
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
        let parents = &world.parents_of(job);
        decide(&Observed { job, parents, now })
    }
}
