//! The shell of cancel.

use jiff::Timestamp;

use super::decide::{Observed, decide};
use crate::ControllerName;
use crate::shell::{
    Change, Controller, Plan, Subject, Wanted, World, cancel_wanted, is_deleting, suspend_wanted,
    uid,
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
        let parent = world.parent_of(job).map(AsRef::as_ref);
        if is_deleting(job) || cancel_wanted(job, parent) || suspend_wanted(job, parent) {
            wanted.job(&delta.key);
            if job.spec.array.is_some() {
                for (_, member) in world.members_of(uid(job)) {
                    wanted.job(member);
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
        let parent = world.parent_of(job).map(AsRef::as_ref);
        decide(&Observed { job, parent, now })
    }
}
