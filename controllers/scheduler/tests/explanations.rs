//! Laws of explanations over random small clusters: what is said is true, what is proposed works, and what submitting
//! would do is what it does.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scheduler::explain::Standing;
use scheduler::forecast::Leavers;
use scheduler::whatif::{Change, DryRun, Remedy};
use scheduler::{
    Bytes, Cluster, Decision, Estimate, Explanation, Job, JobUid, MilliCpu, NodeName, Placement,
    Span, preempt,
};
use world::{NOW, World, world};

/// Adds what plans do not need: conditions of the job, limits and run times of what runs, a queue that is paused.
fn varied() -> impl Strategy<Value = World> {
    let minutes = || proptest::option::of(1..120_i64);
    let conditions = (
        proptest::option::weighted(0.2, 0..3_usize),
        proptest::option::weighted(0.2, prop_oneof![Just("a"), Just("b")]),
        proptest::option::weighted(0.2, prop_oneof![Just("x"), Just("y")]),
        proptest::option::weighted(0.3, 1..30_u64),
        0..9_u64,
        any::<bool>(),
    );
    let ends = proptest::collection::vec((minutes(), minutes()), 12);
    (world(), conditions, ends).prop_map(|(mut world, conditions, ends)| {
        let (pin, model, zone, card, memory, paused) = conditions;
        for (at, node) in world.nodes.values_mut().enumerate() {
            let zone = if at % 2 == 0 { "x" } else { "y" };
            node.labels = BTreeMap::from([("zone".into(), zone.into())]);
            for gpu in &mut node.gpus {
                gpu.model = if at == 1 { "Model A" } else { "Model B" }.into();
            }
        }
        let needs = &mut world.job.requirements;
        needs.node_name = pin.map(|at| format!("n{at}").into());
        needs.gpu_model = model.map(|model| format!("model {model}").as_str().into());
        needs.gpu_min_memory = card.map(Bytes::gib);
        needs.memory = Bytes::gib(memory);
        if let Some(zone) = zone {
            needs.node_selector = BTreeMap::from([("zone".into(), zone.into())]);
        }
        let lab = world.queues.get_mut(&"lab".into()).unwrap();
        lab.paused = paused && memory == 0;
        for (bound, (limit, median)) in world.bound.iter_mut().zip(ends) {
            bound.terms.limit = limit.map(|minutes| Span::seconds(minutes * 60));
            bound.terms.limit_by_default = limit.is_some_and(|minutes| minutes % 2 == 0);
            bound.estimate = median.map(|minutes| Estimate {
                median: Span::seconds(minutes * 60),
                p90: Span::seconds(minutes * 120),
            });
        }
        world
    })
}

fn uid() -> JobUid {
    "job".into()
}

fn everybody(world: &World) -> Cluster {
    world.without(&BTreeSet::new(), None)
}

/// Where a changed job goes at once.
fn starts(world: &World, job: Job) -> Option<Placement> {
    let changed = World {
        job,
        ..world.clone()
    };
    let decisions = everybody(&changed).decide(NOW, 1);
    match decisions.into_iter().next() {
        Some(Decision::Bind(placement)) => Some(placement),
        _ => None,
    }
}

fn fits_without(world: &World, jobs: &[JobUid], on: &NodeName) -> bool {
    let gone = jobs.iter().cloned().collect();
    let cluster = world.without(&gone, Some(on));
    matches!(cluster.explain(&uid()), Some(Standing::Fits(node)) if node == *on)
}

/// Would one of these do as well if it stayed?
fn one_may_stay(world: &World, jobs: &[JobUid], on: &NodeName) -> bool {
    (0..jobs.len()).any(|at| {
        let mut fewer = jobs.to_vec();
        fewer.remove(at);
        fits_without(world, &fewer, on)
    })
}

/// Does the remedy do what it says?
fn works(world: &World, remedy: &Remedy) -> bool {
    match &remedy.change {
        Change::Displace => {
            let plan = preempt::plan(&everybody(world), &uid(), NOW).unwrap();
            Some(plan.placement) == remedy.placement && plan.victims == remedy.victims
        }
        Change::Priority { .. } => {
            let job = remedy.change.applied(&world.job).unwrap();
            let world = World {
                job,
                ..world.clone()
            };
            let plan = preempt::plan(&everybody(&world), &uid(), NOW).unwrap();
            Some(plan.placement) == remedy.placement && plan.victims == remedy.victims
        }
        Change::Queue { queue, to, .. } => {
            let mut cluster = everybody(world);
            cluster.upsert_queue(queue, **to);
            let decisions = cluster.decide(NOW, 1);
            decisions.first() == remedy.placement.clone().map(Decision::Bind).as_ref()
        }
        Change::Wait(until) => fits_without(world, &until.jobs, &until.node),
        Change::WaitFor(Leavers { node, jobs }) => {
            fits_without(world, jobs, node) && !one_may_stay(world, jobs, node)
        }
        change => starts(world, change.applied(&world.job).unwrap()) == remedy.placement,
    }
}

/// Would a little more than the remedy says do as well?
fn could_be_smaller(world: &World, change: &Change) -> bool {
    let job = &world.job;
    let more = match change {
        Change::Gpus { from, to } if to + 1 < *from => Change::Gpus {
            from: *from,
            to: to + 1,
        },
        Change::Cpu { from, to } if to.0 + 1 < from.0 => Change::Cpu {
            from: *from,
            to: MilliCpu(to.0 + 1),
        },
        Change::Memory { from, to } if to.0 + Bytes::MIB < from.0 => Change::Memory {
            from: *from,
            to: Bytes(to.0 + Bytes::MIB),
        },
        _ => return false,
    };
    starts(world, more.applied(job).unwrap()).is_some()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_remedy_works_when_it_is_applied(world in varied()) {
        let cluster = everybody(&world);
        for remedy in cluster.what_if(&uid(), NOW) {
            prop_assert!(works(&world, &remedy), "{}", remedy.line(&|time| time.0.to_string()));
            prop_assert!(!could_be_smaller(&world, &remedy.change), "{:?}", remedy.change);
        }
    }

    #[test]
    fn a_dry_run_says_what_submitting_does(world in varied()) {
        let mut without = everybody(&world);
        without.remove_job(&uid());
        let before = without.clone();
        let told = without.dry_run(world.job.clone(), NOW).unwrap();
        prop_assert_eq!(without.check(), before.check());
        let mut cluster = everybody(&world);
        let did = cluster.decide(NOW, usize::MAX);
        let bound = did.iter().find_map(|decision| match decision {
            Decision::Bind(placement) => Some(placement),
            _ => None,
        });
        let never = did.iter().any(|decision| matches!(decision, Decision::Infeasible { .. }));
        match told {
            DryRun::Starts(placement) => prop_assert_eq!(bound, Some(&placement)),
            DryRun::Never(_) => prop_assert!(never),
            DryRun::Waits { why, plans } => {
                prop_assert!(bound.is_none() && !never);
                prop_assert_eq!(Some(*why), cluster.why(&uid(), NOW));
                prop_assert_eq!(plans, preempt::plan_gang(&cluster, &uid(), NOW));
            }
        }
    }

    #[test]
    fn what_is_said_of_nodes_and_times_is_true(world in varied()) {
        let mut cluster = everybody(&world);
        cluster.decide(NOW, usize::MAX);
        let Some(why) = cluster.why(&uid(), NOW) else {
            return Ok(());
        };
        let Standing::Waits(Explanation::Nodes(reasons)) = &why.standing else {
            prop_assert_eq!(why.until, None);
            prop_assert_eq!(why.forecast, None);
            return Ok(());
        };
        // Each node counts under the first of its reasons, and the one that is shown has the figures that are shown.
        let examined = cluster.examine(&uid());
        for item in &reasons.items {
            let class = item.misfit.class();
            let first = examined.values().filter_map(|misfits| misfits.first());
            prop_assert_eq!(first.filter(|misfit| misfit.class() == class).count(), item.nodes);
            prop_assert_eq!(examined[&item.best].first(), Some(&item.misfit));
        }
        if let Some(until) = &why.until {
            prop_assert_eq!(&until.node, &reasons.items[0].best);
            prop_assert!(fits_without(&world, &until.jobs, &until.node));
            prop_assert!(until.at >= NOW);
            prop_assert!(!one_may_stay(&world, &until.jobs, &until.node), "{:?}", until.jobs);
        }
        // A job that is alone in the queue starts no later than the node that it is judged by has room.
        match (why.forecast, &why.until) {
            (Some(band), until) => {
                prop_assert!(band.earliest.or(band.latest).is_some());
                let earliest = band.earliest.unwrap_or(NOW);
                prop_assert!(earliest >= NOW && band.latest.is_none_or(|latest| latest >= earliest));
                let room = until.as_ref().map(|until| until.at);
                prop_assert!(room.is_none_or(|at| band.earliest.is_some_and(|earliest| earliest <= at)));
            }
            (None, Some(until)) => prop_assert!(false, "a start is unknown although {until:?}"),
            (None, None) => {}
        }
    }
}
