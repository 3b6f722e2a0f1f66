//! What must be true of plans whatever made them: written from the rules, apart from the search.
//!
//! Run for every nomination in debug builds, and so by all tests that let the core decide.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::Violation;
use crate::cluster::{Cluster, Usage};
use crate::fit;
use crate::input::{BoundJob, Job, JobUid, Millis, NodeName, QueueName};
use crate::node_state::NodeState;

use super::{Plan, Right};

/// What is wrong with plans for these jobs that are placed together, one for each.
pub(crate) fn violations(
    cluster: &Cluster,
    together: &[&Job],
    plans: &[Plan],
    now: Millis,
) -> Vec<Violation> {
    let Some(first) = together.first() else {
        return Vec::new();
    };
    let planned = Planned {
        cluster,
        together,
        plans,
        now,
    };
    let wrong = |what| Violation::WrongPlan {
        job: first.uid.clone(),
        what,
    };
    planned.faults().into_iter().map(wrong).collect()
}

struct Planned<'a> {
    cluster: &'a Cluster,
    together: &'a [&'a Job],
    plans: &'a [Plan],
    now: Millis,
}

impl<'a> Planned<'a> {
    fn faults(&self) -> Vec<&'static str> {
        let mut faults = Vec::new();
        let nodes: BTreeSet<&NodeName> = self.plans.iter().map(|p| &p.placement.node).collect();
        if nodes.len() != self.together.len() || self.plans.len() != self.together.len() {
            faults.push("not everybody has a node of its own");
        }
        let groups = self.groups();
        if !groups.values().all(|(right, all)| self.may_go(*right, all)) {
            faults.push("somebody is displaced without right");
        }
        if !self.leaves_what_is_owned(&groups) {
            faults.push("more is taken back from a queue than it borrowed");
        }
        let uids = |all: &Vec<&BoundJob>| all.iter().map(|one| one.uid.clone()).collect::<Vec<_>>();
        let gone: BTreeSet<JobUid> = groups.values().flat_map(|(_, all)| uids(all)).collect();
        if !self.is_room_without(&gone) {
            faults.push("there is no room without those who are displaced");
        }
        let is_spared = |all: &Vec<&BoundJob>| {
            let mut others = gone.clone();
            for uid in uids(all) {
                others.remove(&uid);
            }
            self.is_room_without(&others)
        };
        if groups.values().any(|(_, all)| is_spared(all)) {
            faults.push("somebody is displaced in vain");
        }
        faults
    }

    /// Who falls, by what they fall as: a job alone, or all of a gang.
    fn groups(&self) -> BTreeMap<(bool, &'a str), (Right, Vec<&'a BoundJob>)> {
        let mut groups = BTreeMap::new();
        for (plan, victim) in self
            .plans
            .iter()
            .flat_map(|plan| plan.victims.iter().map(move |victim| (plan, victim)))
        {
            let mut here = self.cluster.jobs_on(&plan.placement.node);
            let Some(bound) = here.find(|bound| bound.uid == victim.job) else {
                continue;
            };
            let Some(gang) = &bound.gang else {
                let alone = (victim.right, vec![bound]);
                groups.insert((false, bound.uid.as_str()), alone);
                continue;
            };
            let everybody = self.cluster.nodes.values();
            let everybody = everybody.flat_map(|state| state.jobs.values());
            let all = everybody.filter(|one| one.gang.as_ref() == Some(gang));
            groups.insert((true, &**gang), (victim.right, all.collect()));
        }
        groups
    }

    fn may_go(&self, right: Right, all: &[&BoundJob]) -> bool {
        let queues = &self.cluster.queues;
        all.iter().all(|bound| {
            let promised = queues
                .get(&bound.queue)
                .map(|queue| queue.state.min_runtime);
            let ran = bound.started.map(|start| self.now.since(start));
            let old = ran.unwrap_or_default() >= promised.unwrap_or_default();
            let needed = |job: &&Job| job.ancestors.contains(&bound.uid);
            let below = |job: &&Job| bound.terms.preemptible && bound.priority < job.priority;
            let right = match right {
                Right::Priority => self.together.iter().all(below),
                Right::Borrowed => {
                    self.owns_what_it_asks() && self.together[0].queue != bound.queue
                }
            };
            old && right && !self.together.iter().any(needed)
        })
    }

    /// Does the queue stay within its own quota with all of them?
    fn owns_what_it_asks(&self) -> bool {
        let asked = self
            .together
            .iter()
            .map(|job| Usage::asked(&job.requirements));
        let asked = asked.fold(Usage::default(), Usage::plus);
        let queue = self.cluster.queues.get(&self.together[0].queue);
        queue.is_some_and(|queue| {
            let quota = &queue.state.quota;
            quota.gives(asked) && !quota.is_exceeded_by(queue.used.plus(asked))
        })
    }

    /// Of each queue that gives back there is one who goes last, and before that it still holds more than it owns.
    fn leaves_what_is_owned(
        &self,
        groups: &BTreeMap<(bool, &'a str), (Right, Vec<&'a BoundJob>)>,
    ) -> bool {
        let queue_of = |all: &[&'a BoundJob]| all.first().map(|one| &one.queue);
        let borrowers = groups
            .values()
            .filter(|(right, _)| *right == Right::Borrowed);
        let queues: BTreeSet<&QueueName> = borrowers.filter_map(|(_, all)| queue_of(all)).collect();
        queues.into_iter().all(|name| {
            let Some(queue) = self.cluster.queues.get(name) else {
                return false;
            };
            let its = || {
                groups
                    .iter()
                    .filter(|(_, (_, all))| queue_of(all) == Some(name))
            };
            its()
                .filter(|(_, (right, _))| *right == Right::Borrowed)
                .any(|(last, _)| {
                    let before = its().filter(|(unit, _)| *unit != last);
                    let before = before.flat_map(|(_, (_, all))| all.iter());
                    let given = before.fold(Usage::default(), |sum, one| sum.plus(Usage::of(one)));
                    queue.state.quota.is_exceeded_by(queue.used.minus(given))
                })
        })
    }

    fn is_room_without(&self, gone: &BTreeSet<JobUid>) -> bool {
        let sites = self.together.iter().filter_map(|job| {
            let mut plans = self.plans.iter();
            let plan = plans.find(|plan| plan.placement.job == job.uid)?;
            Some((job, &plan.placement.node))
        });
        sites.into_iter().all(|(job, name)| {
            let Some(state) = self.cluster.nodes.get(name) else {
                return false;
            };
            let mut state: NodeState = self
                .cluster
                .with_those_before(job, name, state, self.now)
                .working_copy();
            let here = state.jobs.values();
            let leave = here.filter(|bound| bound.stopping.is_some() || gone.contains(&bound.uid));
            for uid in leave.map(|bound| bound.uid.clone()).collect::<Vec<_>>() {
                state.vacate(&uid);
            }
            fit::fit(&job.requirements, name, &state).is_ok()
        })
    }
}
