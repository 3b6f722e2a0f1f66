//! Laws of room for gangs over random small clusters: who borrowed gives back no more than that, whoever is displaced makes
//! room for all members at once, nobody goes in vain, no set that trying them all finds is cheaper, and what is freed is
//! kept until the gang is placed. A gang that is displaced falls whole.

#![expect(clippy::unwrap_used, reason = "a broken model is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scheduler::preempt::{self, NoPlan, Plan, Right};
use scheduler::{
    BoundJob, Bytes, Cluster, Decision, Gang, Gpu, GpuRequest, GpuUuid, Job, JobUid, MilliCpu,
    Millis, Node, NodeName, QueueName, QueueState, Quota, Requirements, Settings, Span, Terms,
};

const NOW: Millis = Millis(3_600_000);

/// Who runs: a job, or a gang of two on two nodes.
#[derive(Clone, Debug)]
struct Tenant {
    /// The node, and the GPU if it has any, of each of its jobs.
    places: Vec<(usize, Option<usize>)>,
    cpu: u64,
    queue: &'static str,
    priority: i32,
    preemptible: bool,
    started: i64,
    stopping: bool,
}

/// What waits: so many members that need the same.
#[derive(Clone, Debug)]
struct Waiting {
    members: usize,
    gpus: u32,
    cpu: u64,
    priority: i32,
    /// A tenant that one of the members depends on.
    ancestor: Option<usize>,
}

#[derive(Clone, Debug)]
struct World {
    /// Cores and number of GPUs.
    nodes: Vec<(u64, usize)>,
    tenants: Vec<Tenant>,
    queues: BTreeMap<&'static str, QueueState>,
    waiting: Waiting,
}

fn tenant() -> impl Strategy<Value = Tenant> {
    let place = || (0..4_usize, proptest::option::weighted(0.9, 0..2_usize));
    let places = prop_oneof![
        3 => place().prop_map(|one| vec![one]),
        1 => (place(), place()).prop_map(|(one, other)| vec![one, other]),
    ];
    let queue =
        prop_oneof![1 => Just("mine"), 6 => Just("one"), 4 => Just("two"), 2 => Just("free")];
    let terms = (
        0..4_i32,
        any::<bool>(),
        0..60_i64,
        proptest::bool::weighted(0.1),
    );
    (places, 0..2_u64, queue, terms).prop_map(
        |(places, cpu, queue, (priority, preemptible, started, stopping))| Tenant {
            places,
            cpu,
            queue,
            priority,
            preemptible,
            started,
            stopping,
        },
    )
}

fn world() -> impl Strategy<Value = World> {
    let members = prop_oneof![1 => Just(1_usize), 3 => Just(2), 2 => Just(3)];
    let gpus = prop_oneof![1 => Just(0_u32), 5 => Just(1), 2 => Just(2)];
    let ancestor = proptest::option::weighted(0.2, 0..8_usize);
    let waiting = (members, gpus, 0..3_u64, 0..3_i32, ancestor);
    let quota = || proptest::option::weighted(0.9, 0..3_u64);
    (
        proptest::collection::vec((2..6_u64, 1..3_usize), 2..5),
        proptest::collection::vec(tenant(), 6..12),
        waiting,
        (proptest::option::weighted(0.95, 3..9_u64), any::<bool>()),
        (
            quota(),
            quota(),
            proptest::option::weighted(0.3, 0..3_u64),
            0..30_i64,
        ),
    )
        .prop_map(
            |(nodes, tenants, waiting, (mine, lends), (one, two, jobs, minutes))| {
                let gpus = |gpus| QueueState {
                    quota: Quota {
                        gpus,
                        ..Quota::default()
                    },
                    ..QueueState::default()
                };
                let (members, gpus_each, cpu, priority, ancestor) = waiting;
                let mut own = gpus(mine);
                own.borrow = lends.then(Quota::default);
                let mut first = gpus(one);
                first.quota.jobs = jobs;
                let mut guest = gpus(Some(0));
                guest.borrow = Some(Quota::default());
                let mut second = gpus(two);
                second.min_runtime = Span::seconds(minutes * 60);
                let mut world = World {
                    nodes,
                    tenants: Vec::new(),
                    queues: BTreeMap::from([
                        ("mine", own),
                        ("one", first),
                        ("two", second),
                        ("guest", guest),
                    ]),
                    waiting: Waiting {
                        members,
                        gpus: gpus_each,
                        cpu,
                        priority,
                        ancestor,
                    },
                };
                for tenant in tenants {
                    world.settle(tenant);
                }
                world
            },
        )
}

/// The tenants that plans displace.
fn displaced(plans: &[Plan]) -> BTreeSet<usize> {
    let victims = plans.iter().flat_map(|plan| &plan.victims);
    let named = victims.filter_map(|victim| victim.job.as_str()[1..].split_once('-'));
    named.map(|(tenant, _)| tenant.parse().unwrap()).collect()
}

fn uid(tenant: usize, at: usize) -> JobUid {
    format!("t{tenant}-{at}").into()
}

fn node_name(at: usize) -> NodeName {
    format!("n{at}").into()
}

fn gpu_name(node: usize, gpu: usize) -> GpuUuid {
    format!("{node}/{gpu}").into()
}

impl World {
    /// Adds somebody who runs, if there is room.
    fn settle(&mut self, mut tenant: Tenant) {
        for (node, gpu) in &mut tenant.places {
            *node %= self.nodes.len();
            *gpu = gpu.filter(|gpu| *gpu < self.nodes[*node].1);
        }
        let nodes: BTreeSet<usize> = tenant.places.iter().map(|(node, _)| *node).collect();
        let apart = nodes.len() == tenant.places.len();
        let there = |(node, gpu): &(usize, Option<usize>)| {
            let others = self.tenants.iter().flat_map(|other| &other.places);
            let taken = others
                .filter(|(n, g)| n == node && g.is_some() && g == gpu)
                .count()
                > 0;
            !taken && self.free(*node, &BTreeSet::new(), false).0 >= tenant.cpu
        };
        if apart && tenant.places.iter().all(there) {
            self.tenants.push(tenant);
        }
    }

    /// Cores and GPUs of a node that are free without some tenants, and with or without those who leave.
    fn free(&self, node: usize, gone: &BTreeSet<usize>, leave: bool) -> (u64, usize) {
        let (mut cores, mut gpus) = self.nodes[node];
        for (at, tenant) in self.tenants.iter().enumerate() {
            let here = tenant.places.iter().filter(|(n, _)| *n == node);
            if gone.contains(&at) || (leave && tenant.stopping) {
                continue;
            }
            for (_, gpu) in here {
                cores -= tenant.cpu;
                gpus -= usize::from(gpu.is_some());
            }
        }
        (cores, gpus)
    }

    /// Is there a node for each member without these, and those who leave?
    fn has_room(&self, gone: &BTreeSet<usize>) -> bool {
        let takes = |node: &usize| {
            let (cores, gpus) = self.free(*node, gone, true);
            cores >= self.waiting.cpu && gpus >= self.waiting.gpus as usize
        };
        (0..self.nodes.len()).filter(takes).count() >= self.waiting.members
    }

    /// GPUs and jobs of a tenant.
    fn holds(&self, at: usize) -> (u64, u64) {
        let places = &self.tenants[at].places;
        let gpus = places.iter().filter(|(_, gpu)| gpu.is_some()).count();
        (gpus as u64, places.len() as u64)
    }

    /// GPUs and jobs of a queue without some tenants.
    fn held(&self, queue: &str, gone: &BTreeSet<usize>) -> (u64, u64) {
        let its = (0..self.tenants.len()).filter(|at| self.tenants[*at].queue == queue);
        let stay = its.filter(|at| !gone.contains(at)).map(|at| self.holds(at));
        stay.fold((0, 0), |(gpus, jobs), (more, one)| {
            (gpus + more, jobs + one)
        })
    }

    /// Does a queue hold more than it owns without some tenants?
    fn is_above(&self, queue: &str, gone: &BTreeSet<usize>) -> bool {
        let (gpus, jobs) = self.held(queue, gone);
        let quota = self.queues.get(queue).map(|queue| queue.quota);
        quota.is_some_and(|quota| {
            quota.gpus.is_some_and(|most| gpus > most) || quota.jobs.is_some_and(|most| jobs > most)
        })
    }

    /// By which right a tenant may be displaced for all of the members.
    fn right(&self, at: usize) -> Option<Right> {
        let tenant = &self.tenants[at];
        let promised = self
            .queues
            .get(tenant.queue)
            .map_or(0, |queue| queue.min_runtime.0);
        let young = NOW.0 - tenant.started * 60_000 < promised;
        if tenant.stopping || young || self.waiting.ancestor == Some(at) {
            return None;
        }
        if tenant.preemptible && tenant.priority < self.waiting.priority {
            return Some(Right::Priority);
        }
        let within = self.owns();
        let borrowed = tenant.queue != "mine" && self.is_above(tenant.queue, &BTreeSet::new());
        (within && borrowed).then_some(Right::Borrowed)
    }

    /// Does the queue of those who wait own all that they ask for?
    fn owns(&self) -> bool {
        let asked = u64::from(self.waiting.gpus) * self.waiting.members as u64;
        let (held, _) = self.held("mine", &BTreeSet::new());
        let owned = self.queues["mine"].quota.gpus;
        owned.is_some_and(|owned| asked > 0 && held + asked <= owned)
    }

    /// May these go together? Of each queue there must be one who borrowed and goes last: the others leave it above its quota.
    fn is_right(&self, gone: &BTreeSet<usize>) -> bool {
        let borrowed = |at: &&usize| self.right(**at) == Some(Right::Borrowed);
        let queues: BTreeSet<&str> = gone
            .iter()
            .filter(borrowed)
            .map(|at| self.tenants[*at].queue)
            .collect();
        queues.into_iter().all(|queue| {
            let mut lasts = gone
                .iter()
                .filter(borrowed)
                .filter(|at| self.tenants[**at].queue == queue);
            lasts.any(|last| {
                let before = gone.iter().copied().filter(|at| at != last).collect();
                self.is_above(queue, &before)
            })
        })
    }

    fn cost(&self, gone: &BTreeSet<usize>) -> (Option<i32>, u64, u32, u64) {
        let ran = |at: &usize| (NOW.0 - self.tenants[*at].started * 60_000).unsigned_abs();
        let lost = gone.iter().map(|at| ran(at) * self.holds(*at).0).sum();
        let cores =
            |at: &usize| ran(at) * self.tenants[*at].cpu * self.tenants[*at].places.len() as u64;
        (
            gone.iter().map(|at| self.tenants[*at].priority).max(),
            lost,
            u32::try_from(gone.len()).unwrap(),
            gone.iter().map(cores).sum(),
        )
    }

    /// The least cost of any set that makes room with right, by trying them all.
    fn least(&self) -> Option<(Option<i32>, u64, u32, u64)> {
        let may: Vec<usize> = (0..self.tenants.len())
            .filter(|at| self.right(*at).is_some())
            .collect();
        let sets = (0..1_u32 << may.len()).map(|mask| {
            let picked = may
                .iter()
                .enumerate()
                .filter(|(bit, _)| mask & (1 << bit) != 0);
            picked.map(|(_, at)| *at).collect::<BTreeSet<usize>>()
        });
        let good = sets.filter(|gone| self.is_right(gone) && self.has_room(gone));
        good.map(|gone| self.cost(&gone)).min()
    }

    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(Settings::default());
        for (at, (cores, gpus)) in self.nodes.iter().enumerate() {
            let gpus = (0..*gpus).map(|gpu| {
                Gpu::idle(
                    gpu_name(at, gpu).as_str(),
                    u32::try_from(gpu).unwrap(),
                    Bytes::gib(24),
                )
            });
            let node = Node {
                ready: true,
                cpu: MilliCpu(cores * 1000),
                memory: Bytes::gib(8),
                gpus: gpus.collect(),
                ..Node::default()
            };
            cluster.upsert_node(&node_name(at), node);
        }
        for (name, queue) in &self.queues {
            cluster.upsert_queue(&QueueName::from(*name), *queue);
        }
        for (at, tenant) in self.tenants.iter().enumerate() {
            for (part, (node, gpu)) in tenant.places.iter().enumerate() {
                cluster.upsert_bound(BoundJob {
                    uid: uid(at, part),
                    queue: tenant.queue.into(),
                    attempt: 1,
                    node: node_name(*node),
                    gpus: gpu.iter().map(|gpu| gpu_name(*node, *gpu)).collect(),
                    whole_gpus: gpu.is_some(),
                    cpu: MilliCpu(tenant.cpu * 1000),
                    priority: tenant.priority,
                    terms: Terms {
                        preemptible: tenant.preemptible,
                        ..Terms::default()
                    },
                    started: Some(Millis(tenant.started * 60_000)),
                    stopping: tenant.stopping.then_some(NOW),
                    gang: (tenant.places.len() > 1).then(|| format!("gang-{at}").into()),
                    ..BoundJob::default()
                });
            }
        }
        for member in self.members() {
            cluster.upsert_job(member);
        }
        cluster
    }

    /// The jobs that wait: a gang, or one by itself.
    fn members(&self) -> Vec<Job> {
        let Waiting {
            members,
            gpus,
            cpu,
            priority,
            ancestor,
        } = self.waiting;
        let member = |at: usize| Job {
            uid: format!("m{at}").into(),
            queue: "mine".into(),
            priority,
            enqueued_micros: 1 + i64::try_from(at).unwrap(),
            requirements: Requirements {
                cpu: MilliCpu(cpu * 1000),
                gpus: if gpus == 0 {
                    GpuRequest::None
                } else {
                    GpuRequest::Whole(gpus)
                },
                ..Requirements::default()
            },
            ancestors: ancestor
                .filter(|_| at + 1 == members)
                .map(|at| uid(at, 0))
                .into_iter()
                .collect(),
            gang: (members > 1).then(|| Gang {
                id: "gang".into(),
                size: u32::try_from(members).unwrap(),
            }),
            ..Job::default()
        };
        (0..members).map(member).collect()
    }
}

fn bound_of_the_gang(decisions: &[Decision]) -> usize {
    let bound = |one: &&Decision| matches!(one, Decision::Bind(place) if place.job.as_str().starts_with('m'));
    decisions.iter().filter(bound).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn room_is_made_for_a_gang_with_right_at_the_least_cost_and_for_all_of_it(world in world()) {
        let cluster = world.cluster();
        let least = world.least();
        let plans = match preempt::plan_gang(&cluster, &"m0".into(), NOW) {
            Err(NoPlan::Queue(_) | NoPlan::Fits(_)) => return Ok(()),
            Err(why) => {
                prop_assert_eq!(least, None, "{}", why);
                return Ok(());
            }
            Ok(plans) => plans,
        };
        let nodes: BTreeSet<&NodeName> = plans.iter().map(|plan| &plan.placement.node).collect();
        prop_assert_eq!((nodes.len(), plans.len()), (world.waiting.members, world.waiting.members));
        let gone = displaced(&plans);
        prop_assert!(world.is_right(&gone), "{:?}", plans);
        prop_assert!(world.has_room(&gone), "{:?}", plans);
        for plan in &plans {
            for victim in &plan.victims {
                let tenant = displaced(std::slice::from_ref(plan));
                prop_assert!(tenant.iter().any(|at| world.right(*at) == Some(victim.right)));
            }
        }
        for one in &gone {
            let spared: BTreeSet<usize> = gone.iter().copied().filter(|at| at != one).collect();
            let nodes = plans.iter().map(|plan| plan.placement.node.as_str()[1..].parse::<usize>().unwrap());
            let all_fit = nodes.into_iter().all(|node| {
                let (cores, gpus) = world.free(node, &spared, true);
                cores >= world.waiting.cpu && gpus >= world.waiting.gpus as usize
            });
            prop_assert!(!all_fit, "t{} goes in vain: {:?}", one, plans);
        }
        prop_assert_eq!(Some(world.cost(&gone)), least, "{:?}", plans);
        let told = plans.iter().fold((None, 0, 0, 0), |(priority, lost, victims, cores), plan| {
            let cost = plan.cost;
            (priority.max(cost.priority), lost + cost.lost, victims + cost.victims, cores + cost.core_lost)
        });
        prop_assert_eq!(Some(told), least, "{:?}", plans);
    }

    #[test]
    fn what_is_freed_for_a_gang_is_kept_until_all_of_it_is_placed(world in world(), turned in any::<bool>()) {
        let mut cluster = world.cluster();
        let decisions = cluster.decide(NOW, usize::MAX);
        prop_assert_eq!(cluster.check(), Vec::new());
        let nominated = decisions.iter().find_map(|one| match one {
            Decision::Nominate { nomination: Some(nomination), .. } => Some(nomination),
            _ => None,
        });
        let plans = preempt::plan_gang(&world.cluster(), &"m0".into(), NOW);
        let gone = plans.map(|plans| displaced(&plans)).unwrap_or_default();
        let Some(nomination) = nominated else {
            prop_assert_eq!(gone, BTreeSet::new(), "there is a plan and nobody is nominated");
            return Ok(());
        };
        prop_assert_eq!(nomination.slots.len(), world.waiting.members);
        let victims: BTreeSet<&JobUid> = nomination.victims.iter().collect();
        // Somebody comes who would like the room, and those who fall go one after the other.
        // What the gang's queue owns is kept from borrowers whoever they are; else from those who come after the gang.
        let late = Job {
            uid: "late".into(),
            queue: if world.owns() { "guest" } else { "free" }.into(),
            priority: if world.owns() { 10 } else { -1 },
            enqueued_micros: if world.owns() { 0 } else { 1_000_000 },
            requirements: world.members()[0].requirements.clone(),
            ..Job::default()
        };
        cluster.upsert_job(late);
        let tenants = world.tenants.iter().enumerate();
        let falls = |at: usize, parts: usize| (0..parts).any(|part| victims.contains(&uid(at, part)));
        let mut falling: Vec<JobUid> = tenants
            .filter(|(at, tenant)| tenant.stopping || falls(*at, tenant.places.len()))
            .flat_map(|(at, tenant)| (0..tenant.places.len()).map(move |part| uid(at, part)))
            .collect();
        if turned {
            falling.reverse();
        }
        let mut placed = 0;
        for one in &falling {
            prop_assert_eq!(cluster.check(), Vec::new());
            cluster.release(one);
            let now = bound_of_the_gang(&cluster.decide(NOW, usize::MAX));
            prop_assert!(now == 0 || now == world.waiting.members, "a gang is placed whole");
            placed += now;
        }
        prop_assert_eq!(placed, world.waiting.members, "{:?}", nomination);
    }

    #[test]
    fn plans_for_gangs_are_the_same_however_they_are_asked_for(world in world()) {
        let mut turned = world.clone();
        turned.tenants.reverse();
        let named = |world: &World| {
            let plans = preempt::plan_gang(&world.cluster(), &"m0".into(), NOW);
            plans.map(|plans| world.cost(&displaced(&plans))).ok()
        };
        let ancestors = world.waiting.ancestor.is_some();
        prop_assert!(ancestors || named(&world) == named(&turned));
        let again = preempt::plan_gang(&world.cluster(), &"m0".into(), NOW);
        prop_assert_eq!(again, preempt::plan_gang(&world.cluster(), &"m0".into(), NOW));
    }
}
