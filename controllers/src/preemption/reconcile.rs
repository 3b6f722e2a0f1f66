//! The shell of preemption.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use crds::Job;
use crds::job_status::Nomination;
use jiff::Timestamp;
use scheduler::{Cluster, JobUid, NodeName, preempt};

use super::decide::{Observed, decide, decide_unwanted, is_unwanted};
use crate::ControllerName;
use crate::placement::{is_waiting, scene};
use crate::shell::{
    Change, Controller, Displaceable, Key, Plan, Subject, Wanted, World, room_wanted, uid,
};

/// Preemption.
#[derive(Debug)]
pub(crate) struct Preemption {
    settings: scheduler::Settings,
}

impl Preemption {
    pub(crate) fn new(settings: scheduler::Settings) -> Self {
        Self { settings }
    }

    /// Asks the core, over the node as it is now: does the job fit there once these are gone, and those that leave already?
    fn makes_room(
        scene: &Cluster,
        job: &Job,
        nomination: &Nomination,
        gone: &BTreeSet<&str>,
        now: Timestamp,
    ) -> bool {
        let node = &nomination.node_name;
        let mut cluster = scene.clone();
        for uid in gone {
            cluster.remove_job(&JobUid::from(*uid));
        }
        let now = scheduler::Millis(now.as_millisecond());
        let job = JobUid::from(uid(job));
        match preempt::plan_on(&cluster, &job, &NodeName::from(node.as_str()), now) {
            Ok(plan) => plan.victims.is_empty(),
            Err(why) => matches!(why, preempt::NoPlan::Fits(_)),
        }
    }
}

impl Controller for Preemption {
    fn name(&self) -> ControllerName {
        ControllerName::Preemption
    }

    fn on_change(&mut self, change: &Change, _: &World, _: Timestamp, wanted: &mut Wanted) {
        let Change::Job(delta) = change else {
            return;
        };
        let Some(job) = &delta.new else {
            return;
        };
        let status = job.status.as_ref();
        if is_unwanted(job) || status.is_some_and(|status| status.nomination.is_some()) {
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
        if is_unwanted(job) {
            return decide_unwanted(job, now);
        }
        let nomination = job.status.as_ref().and_then(|s| s.nomination.as_ref());
        let victims = nomination.into_iter().flat_map(|nomination| {
            let victims = nomination.victims.iter();
            victims.map(|one| (one, world.jobs.get(&Key::new(&one.namespace, &one.name))))
        });
        let status = job.status.as_ref();
        let wanted = status.and_then(|s| room_wanted(job, s, &world.parents_of(job)));
        let observed = Observed {
            job,
            waits: is_waiting(job, world),
            victims: victims.collect(),
            forced: wanted == Some(Displaceable::Any),
            now,
        };
        let stage = OnceCell::new();
        decide(&observed, |gone| {
            nomination.is_some_and(|nomination| {
                let stage = stage.get_or_init(|| scene(world, job, nomination, self.settings));
                Self::makes_room(stage, job, nomination, gone, now)
            })
        })
    }
}
