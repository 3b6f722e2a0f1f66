//! The shell of ttl.

use jiff::Timestamp;

use super::decide::{Observed, decide, time_to_live};
use crate::ControllerName;
use crate::shell::{Change, Controller, Plan, Subject, Wanted, World, is_ended};

/// Ttl.
#[derive(Debug)]
pub(crate) struct Ttl;

impl Controller for Ttl {
    fn name(&self) -> ControllerName {
        ControllerName::Ttl
    }

    fn on_change(&mut self, change: &Change, _: &World, _: Timestamp, wanted: &mut Wanted) {
        if let Change::Job(delta) = change
            && let Some(job) = &delta.new
            && is_ended(job)
            && time_to_live(job).is_some()
        {
            wanted.job(&delta.key);
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
