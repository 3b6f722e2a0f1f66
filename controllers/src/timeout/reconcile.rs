//! The shell of timeout.

use crds::Job;
use jiff::Timestamp;

use super::decide::{Observed, decide, has_limit};
use crate::ControllerName;
use crate::shell::{Change, Controller, Plan, Subject, Wanted, World, is_ended, uid};

/// Timeout.
#[derive(Debug)]
pub(crate) struct Timeout;

impl Controller for Timeout {
    fn name(&self) -> ControllerName {
        ControllerName::Timeout
    }

    fn on_change(&mut self, change: &Change, world: &World, _: Timestamp, wanted: &mut Wanted) {
        if let Change::Job(delta) = change
            && let Some(job) = &delta.new
            && !is_ended(job)
            && has_limit(job)
        {
            wanted.job(&delta.key);
            let suspended = |job: &Job| job.spec.suspend;
            if delta.old.as_deref().and_then(suspended) != suspended(job) {
                // The members' limits of the wait are not enforced while their array is suspended.
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
