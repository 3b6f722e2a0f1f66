//! The shell of requeue.

use jiff::Timestamp;

use super::decide::{Observed, decide};
use crate::ControllerName;
use crate::shell::{Change, Controller, Plan, Subject, Wanted, World, bound_attempt_ended};

/// Requeue.
#[derive(Debug)]
pub(crate) struct Requeue;

impl Controller for Requeue {
    fn name(&self) -> ControllerName {
        ControllerName::Requeue
    }

    fn on_change(&mut self, change: &Change, _: &World, _: Timestamp, wanted: &mut Wanted) {
        if let Change::Job(delta) = change
            && let Some(job) = &delta.new
            && job.status.as_ref().is_some_and(bound_attempt_ended)
        {
            wanted.job(&delta.key);
        }
    }

    fn reconcile(&mut self, subject: &Subject, world: &World, _: Timestamp) -> Plan {
        let Subject::Job(key) = subject else {
            return Plan::nothing();
        };
        let Some(job) = world.jobs.get(key) else {
            return Plan::nothing();
        };
        let parents = &world.parents_of(job);
        decide(&Observed { job, parents })
    }
}
