//! Laws of preemption plans over random small clusters: a plan really makes room, nobody is stopped in vain or without
//! right, and no set that trying them all finds is cheaper.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use scheduler::explain::Standing;
use scheduler::preempt::{self, NoPlan, Right};
use scheduler::{BoundJob, Decision, JobUid, NodeName, QueueName};
use world::{NOW, World, world};

/// A world as the laws of preemption see it.
struct Law<'a>(&'a World);

impl Law<'_> {
    fn fits_without(&self, gone: &BTreeSet<JobUid>, node: &NodeName) -> bool {
        // Queues are left out: who is gone makes room in no queue's quota.
        let mut open = self.0.clone();
        open.queues.clear();
        let cluster = open.without(gone, Some(node));
        matches!(
            cluster.explain(&"job".into()),
            Some(Standing::Fits(found)) if found == *node
        )
    }

    fn leaving(&self, node: &NodeName) -> BTreeSet<JobUid> {
        let there = self.0.bound.iter().filter(|b| b.node == *node);
        let leaving = there.filter(|b| b.stopping.is_some());
        leaving.map(|b| b.uid.clone()).collect()
    }

    fn held(&self, queue: &QueueName) -> u64 {
        let its = self.0.bound.iter().filter(|b| b.queue == *queue);
        its.map(|b| b.gpus.len() as u64).sum()
    }

    fn quota(&self, queue: &QueueName) -> Option<u64> {
        self.0.queues.get(queue).and_then(|state| state.quota.gpus)
    }

    fn right(&self, bound: &BoundJob) -> Option<Right> {
        let young =
            self.0.queues.get(&bound.queue).is_some_and(|queue| {
                bound.started.map_or(0, |at| NOW.0 - at.0) < queue.min_runtime.0
            });
        if bound.stopping.is_some() || young || self.0.job.ancestors.contains(&bound.uid) {
            return None;
        }
        if bound.terms.preemptible && bound.priority < self.0.job.priority {
            return Some(Right::Priority);
        }
        let asked = u64::from(self.0.job.requirements.gpus.count());
        let owns = self
            .quota(&self.0.job.queue)
            .is_some_and(|quota| asked > 0 && self.held(&self.0.job.queue) + asked <= quota);
        let borrows = self
            .quota(&bound.queue)
            .is_some_and(|quota| self.held(&bound.queue) > quota);
        (owns && borrows && bound.queue != self.0.job.queue).then_some(Right::Borrowed)
    }

    fn cost(victims: &[&BoundJob]) -> (Option<i32>, u64, u32) {
        let lost = |bound: &&BoundJob| {
            let since = bound.started.max(bound.checkpointed);
            since.map_or(0, |at| (NOW.0 - at.0).unsigned_abs()) * bound.gpus.len() as u64
        };
        (
            victims.iter().map(|bound| bound.priority).max(),
            victims.iter().map(lost).sum(),
            u32::try_from(victims.len()).unwrap(),
        )
    }

    /// May these be taken together? Of each queue no job is taken once it is within its quota.
    fn is_right(&self, victims: &[&BoundJob]) -> bool {
        let borrowed: Vec<_> = victims
            .iter()
            .filter(|bound| self.right(bound) == Some(Right::Borrowed))
            .collect();
        let queues: BTreeSet<&QueueName> = borrowed.iter().map(|bound| &bound.queue).collect();
        queues.into_iter().all(|queue| {
            let taken = victims.iter().filter(|bound| bound.queue == *queue);
            let taken: u64 = taken.map(|bound| bound.gpus.len() as u64).sum();
            let own = borrowed.iter().filter(|bound| bound.queue == *queue);
            let last = own.map(|bound| bound.gpus.len() as u64).max().unwrap();
            self.held(queue) - (taken - last) > self.quota(queue).unwrap()
        })
    }

    /// The least cost of any set on any node, by trying them all.
    fn least(&self) -> Option<(Option<i32>, u64, u32)> {
        let mut least = None;
        for node in self.0.nodes.keys() {
            let candidates: Vec<&BoundJob> = self
                .0
                .bound
                .iter()
                .filter(|bound| bound.node == *node && self.right(bound).is_some())
                .collect();
            for set in 0..1_u32 << candidates.len() {
                let picked = candidates.iter().enumerate();
                let victims: Vec<&BoundJob> = picked
                    .filter(|(at, _)| set & (1 << at) != 0)
                    .map(|(_, bound)| *bound)
                    .collect();
                let cost = Self::cost(&victims);
                if least.is_some_and(|known| known <= cost) || !self.is_right(&victims) {
                    continue;
                }
                let mut gone = self.leaving(node);
                gone.extend(victims.iter().map(|bound| bound.uid.clone()));
                if self.fits_without(&gone, node) {
                    least = Some(cost);
                }
            }
        }
        least
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_makes_room_with_right_and_at_the_least_cost(world in world()) {
        let cluster = world.without(&BTreeSet::new(), None);
        let plan = preempt::plan(&cluster, &"job".into(), NOW);
        let law = Law(&world);
        let least = law.least();
        let plan = match plan {
            Err(NoPlan::Queue(_) | NoPlan::Fits(_)) => return Ok(()),
            Err(why) => {
                prop_assert_eq!(least, None, "{}", why);
                return Ok(());
            }
            Ok(plan) => plan,
        };
        prop_assert_eq!(Some((plan.cost.priority, plan.cost.lost, plan.cost.victims)), least);
        let node = &plan.placement.node;
        let bound = |uid: &JobUid| world.bound.iter().find(|b| b.uid == *uid).unwrap();
        for victim in &plan.victims {
            prop_assert_eq!(law.right(bound(&victim.job)), Some(victim.right));
            prop_assert_eq!(&bound(&victim.job).node, node);
        }
        let victims: Vec<&BoundJob> = plan.victims.iter().map(|victim| bound(&victim.job)).collect();
        prop_assert_eq!(Law::cost(&victims), (plan.cost.priority, plan.cost.lost, plan.cost.victims));
        prop_assert!(law.is_right(&victims));
        // Nobody in vain.
        let leaving = law.leaving(node);
        prop_assert_eq!(&leaving, &plan.leaving.iter().cloned().collect());
        let mut gone = leaving;
        gone.extend(plan.victims.iter().map(|victim| victim.job.clone()));
        for victim in &plan.victims {
            let spared = gone.iter().filter(|uid| **uid != victim.job).cloned().collect();
            prop_assert!(!law.fits_without(&spared, node), "{} is stopped in vain", victim.job);
        }
        // Carried out, it gives the job its place.
        let decisions = world.without(&gone, None).decide(NOW, 1);
        prop_assert_eq!(decisions.first(), Some(&Decision::Bind(plan.placement)));
    }

    #[test]
    fn plans_do_not_depend_on_the_order_of_events(world in world()) {
        let mut turned = world.clone();
        turned.bound.reverse();
        let plan = |world: &World| preempt::plan(&world.without(&BTreeSet::new(), None), &"job".into(), NOW);
        prop_assert_eq!(plan(&world), plan(&turned));
    }
}
