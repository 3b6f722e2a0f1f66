//! Where a job could start the soonest: the slots that it is promised by the ends of what runs there.
//!
//! A job that fits no node is judged by when the first of those there leaves: no opening is before that. Nodes where anything
//! is kept are judged one by one, with what is kept there for those before the job; of all others a few numbers tell
//! (`exits`). The nodes that may open soonest are looked at closely then.
//!
//! **Cost.** One look at a few numbers of every node, and a close one at no more than [`MOST_LOOKS`] nodes and at those on
//! which anything is kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::attempt;
use crate::cluster::Cluster;
use crate::fleet::Opens;
use crate::input::{BoundJob, Job, Millis, NodeName};
use crate::node_state::NodeState;
use crate::reserve::Slot;
use crate::timeline::{self, Leaves, Opening};

/// Most nodes at which a search for slots looks closely; those that may open soonest are looked at first.
const MOST_LOOKS: usize = 64;

/// A node where a job may start some time.
pub(crate) struct Open<'a> {
    /// Not before that.
    pub(crate) from: Leaves,
    jobs: u32,
    /// Orders nodes by name.
    at: usize,
    /// How many of the jobs there must leave at least.
    least: u32,
    name: &'a NodeName,
    /// The node as the job sees it.
    state: Option<&'a NodeState>,
}

impl<'a> From<Opens<'a>> for Open<'a> {
    fn from(opens: Opens<'a>) -> Self {
        Self {
            from: opens.from,
            jobs: opens.jobs,
            at: opens.at,
            least: opens.least,
            name: opens.name,
            state: None,
        }
    }
}

/// Nodes on which anything is kept as jobs see them that come after some of the holders. It is remembered, since those who
/// look for slots mostly come after all of them.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    by_node: BTreeMap<NodeName, Memo>,
}

#[derive(Debug)]
struct Memo {
    /// The changes of the node and the holds before the job that it is true of; `None` when it must be made anew.
    of: Option<(u64, Vec<u64>)>,
    state: NodeState,
}

impl Clone for Beside {
    /// A copy begins with nothing remembered.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Beside {
    /// A node is no more, or nothing is kept there any more.
    pub(crate) fn gone(&mut self, name: &NodeName) {
        self.by_node.remove(name);
    }
}

impl Cluster {
    /// The nodes where a job may start some time, of all that are known, but for some.
    pub(crate) fn openings<'a>(
        &'a self,
        job: &Job,
        but: &BTreeSet<NodeName>,
        beside: &'a mut Beside,
        now: Millis,
    ) -> Vec<Open<'a>> {
        let needs = &job.requirements;
        if let Some(pin) = &needs.node_name {
            let nodes = [pin].into_iter().filter(|pin| !but.contains(*pin));
            return self.openings_on(job, &nodes.collect(), beside, now);
        }
        let displaces = |bound: &BoundJob| self.may_take_back(job, bound);
        let outlook = self.outlook(&displaces, now);
        let held: BTreeSet<&NodeName> = self.holds.nodes().collect();
        let apart = held.iter().copied().chain(but);
        let apart = apart.filter_map(|name| self.fleet.place(name)).collect();
        let others = self.openings_but(job, &apart, &outlook);
        let mut open: Vec<Open<'a>> = others.into_iter().map(Open::from).collect();
        let held = held.into_iter().filter(|name| !but.contains(*name));
        open.extend(self.openings_on(job, &held.collect(), beside, now));
        open
    }

    /// The same of some nodes.
    pub(crate) fn openings_on<'a>(
        &'a self,
        job: &Job,
        names: &BTreeSet<&NodeName>,
        beside: &'a mut Beside,
        now: Millis,
    ) -> Vec<Open<'a>> {
        for name in names {
            self.look_beside(job, name, beside, now);
        }
        let displaces = |bound: &BoundJob| self.may_take_back(job, bound);
        let outlook = self.outlook(&displaces, now);
        let beside = &*beside;
        let open = names.iter().filter_map(|name| {
            let (name, state) = self.nodes.get_key_value(*name)?;
            let at = self.fleet.place(name)?;
            let state = beside.by_node.get(name).map_or(state, |memo| &memo.state);
            Some(Open {
                from: timeline::not_before(&job.requirements, name, state, &outlook)?,
                jobs: u32::try_from(state.jobs.len()).unwrap_or(u32::MAX),
                at,
                least: 0,
                name,
                state: Some(state),
            })
        });
        open.collect()
    }

    /// Remembers a node as a job sees it beside what is kept there for those before it.
    fn look_beside(&self, job: &Job, name: &NodeName, beside: &mut Beside, now: Millis) {
        let Some(state) = self.nodes.get(name) else {
            return beside.gone(name);
        };
        let lead = self.lead_of(job);
        let mut stamps = Vec::new();
        let mut alone = true;
        for (uid, hold) in self.holds.on(name) {
            let before = self.waiting_job(uid);
            if *uid != lead.uid
                && before.is_some_and(|other| self.keeps_out(hold, other, lead, now))
            {
                stamps.push(hold.stamp);
                // Members of a gang may come and go while what is kept for it stays.
                alone &= hold.reservation.slots.len() == 1;
            }
        }
        if stamps.is_empty() {
            return beside.gone(name);
        }
        let of = alone.then_some((state.changes, stamps));
        let known = beside.by_node.get(name);
        if of.is_some() && known.is_some_and(|memo| memo.of == of) {
            return;
        }
        let state = self.with_those_before(job, name, state, now).into_owned();
        beside.by_node.insert(name.clone(), Memo { of, state });
    }

    /// The slot that is free the soonest, by promises, else by what was learned, else the one that the fewest must leave.
    pub(crate) fn best_opening(
        &self,
        job: &Job,
        mut open: Vec<Open<'_>>,
        now: Millis,
    ) -> Option<(Slot, Opening)> {
        let needs = &job.requirements;
        let displaces = |bound: &BoundJob| self.may_take_back(job, bound);
        let outlook = self.outlook(&displaces, now);
        let soonest = |one: &Open<'_>| (one.from, one.jobs, one.at);
        if open.len() > MOST_LOOKS {
            open.select_nth_unstable_by_key(MOST_LOOKS, soonest);
            open.truncate(MOST_LOOKS);
        }
        open.sort_unstable_by_key(soonest);
        let mut best: Option<(Opening, &NodeName, &NodeState)> = None;
        for one in &open {
            // Who cannot be better is not worth the look.
            let beaten = best.as_ref().is_some_and(|(best, _, _)| {
                (best.when, best.waits_for.len()) <= (one.from, one.least as usize)
            });
            if beaten {
                continue;
            }
            let Some(state) = one.state.or_else(|| self.nodes.get(one.name)) else {
                continue;
            };
            if let Some(opening) = timeline::opening(needs, one.name, state, &outlook) {
                let rank = |opening: &Opening| (opening.when, opening.waits_for.len());
                if best
                    .as_ref()
                    .is_none_or(|(best, _, _)| rank(&opening) < rank(best))
                {
                    best = Some((opening, one.name, state));
                }
            }
        }
        let (opening, name, state) = best?;
        let then = timeline::without(state, |bound| opening.waits_for.contains(&bound.uid));
        let placement = attempt::placement_on(job, name, &then)?;
        let slot = Slot {
            job: job.uid.clone(),
            node: name.clone(),
            gpus: placement.gpus,
        };
        Some((slot, opening))
    }

    /// A node with what is kept there for those before a job, as if they were there already and their victims were not.
    pub(crate) fn with_those_before<'a>(
        &self,
        job: &Job,
        name: &NodeName,
        state: &'a NodeState,
        now: Millis,
    ) -> Cow<'a, NodeState> {
        let mut seen: Option<NodeState> = None;
        let lead = self.lead_of(job);
        for (uid, hold) in self.holds.on(name) {
            let before = self.waiting_job(uid);
            if *uid != lead.uid
                && before.is_some_and(|other| self.keeps_out(hold, other, lead, now))
            {
                let seen = seen.get_or_insert_with(|| state.working_copy());
                if let Some(nominated) = &hold.nominated {
                    // They are about to leave, which takes its time: nobody has their slots before.
                    for victim in &hold.reservation.waits_for {
                        if let Some(mut leaver) = seen.vacate(victim) {
                            leaver.stop(nominated.left_by());
                            seen.reoccupy(leaver);
                        }
                    }
                }
                for phantom in self.phantoms(hold, name) {
                    seen.add(phantom);
                }
            }
        }
        seen.map_or(Cow::Borrowed(state), Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{
        Bytes, Estimate, Gpu, GpuRequest, JobUid, MilliCpu, Node, QueueState, Requirements, Span,
        Terms,
    };
    use crate::reserve::{Nomination, Reservation};
    use crate::settings::Settings;
    use proptest::prelude::*;

    const NOW: Millis = Millis(100_000);

    /// A job on a node: the node, its GPU if it has one, priority, when it started and was bound, limit and grace, and what
    /// else may be said of it, in bits.
    type Runs = (usize, Option<u32>, i32, i64, (Option<i64>, i64), u8);

    fn runs() -> impl Strategy<Value = Runs> {
        let limit = proptest::option::of(1..300_i64);
        let gpu = proptest::option::weighted(0.7, 0..3_u32);
        (
            0..6_usize,
            gpu,
            0..6_i32,
            0..100_i64,
            (limit, 0..40_i64),
            any::<u8>(),
        )
    }

    fn asks() -> impl Strategy<Value = Requirements> {
        let pin = proptest::option::weighted(0.1, 0..6_usize);
        (0..4_u32, proptest::option::of(1..24_u64), 0..4_u64, pin).prop_map(
            |(count, vram, cores, pin)| Requirements {
                cpu: MilliCpu(cores * 1000),
                gpus: match (count, vram) {
                    (0, _) => GpuRequest::None,
                    (count, None) => GpuRequest::Whole(count),
                    (count, Some(gib)) => GpuRequest::Vram {
                        count,
                        bytes: Bytes::gib(gib),
                    },
                },
                node_name: pin.map(name),
                ..Requirements::default()
            },
        )
    }

    fn name(at: usize) -> NodeName {
        format!("n{at}").into()
    }

    fn uid(prefix: &str, at: usize) -> JobUid {
        format!("{prefix}{at}").into()
    }

    fn bound(at: usize, (node, gpu, priority, since, (limit, grace), bits): &Runs) -> BoundJob {
        let is = |bit: u8| bits & (1 << bit) != 0;
        BoundJob {
            uid: uid("r", at),
            queue: if is(0) { "slow" } else { "default" }.into(),
            attempt: 1,
            node: name(*node),
            gpus: gpu
                .iter()
                .map(|gpu| format!("n{node}/{gpu}").into())
                .collect(),
            vram: Some(Bytes::gib(u64::from(1 + bits % 9))),
            cpu: MilliCpu(1000),
            priority: *priority,
            enqueued_micros: is(1).then_some(since * 1_000_000),
            terms: Terms {
                preemptible: is(2) || is(3),
                limit: limit.map(Span::seconds),
                grace: Span::seconds(*grace),
                limit_by_default: false,
            },
            estimate: is(4).then_some(Estimate {
                median: Span::seconds(10),
                p90: Span::seconds(since + 20),
            }),
            bound_at: Millis(since * 1000),
            started: (bits % 5 > 0).then_some(Millis(since * 1000)),
            stopping: (bits % 7 == 0).then_some(Millis(90_000 + grace * 1000)),
            ..BoundJob::default()
        }
    }

    fn waits(at: usize, priority: i32, needs: &Requirements, ancestor: Option<usize>) -> Job {
        Job {
            uid: uid("w", at),
            queue: "default".into(),
            priority,
            enqueued_micros: i64::try_from(at).unwrap_or(0) * 20_000_000,
            requirements: needs.clone(),
            ancestors: ancestor.map(|at| uid("r", at)).into_iter().collect(),
            ..Job::default()
        }
    }

    fn cluster(gpus: &[u32], running: &[Runs], aging: bool) -> Cluster {
        let mut cluster = Cluster::new(Settings {
            aging: aging.then_some(Span::seconds(20)),
            ..Settings::default()
        });
        let slow = QueueState {
            min_runtime: Span::seconds(40),
            ..QueueState::default()
        };
        cluster.upsert_queue(&"slow".into(), slow);
        for (at, count) in gpus.iter().enumerate() {
            let cards =
                (0..*count).map(|gpu| Gpu::idle(format!("n{at}/{gpu}"), gpu, Bytes::gib(24)));
            let facts = Node {
                ready: at != 5,
                cpu: MilliCpu(4000),
                memory: Bytes::gib(8),
                gpus: cards.collect(),
                ..Node::default()
            };
            cluster.upsert_node(&name(at), facts);
        }
        for (at, one) in running.iter().enumerate() {
            cluster.upsert_bound(bound(at, one));
        }
        cluster
    }

    /// When a job may start on each node, by a look at every job of every node.
    fn plainly(cluster: &Cluster, job: &Job, now: Millis) -> Vec<(Leaves, u32, NodeName)> {
        let displaces = |bound: &BoundJob| cluster.may_take_back(job, bound);
        let outlook = cluster.outlook(&displaces, now);
        let nodes = cluster.candidates(&job.requirements);
        let open = nodes.filter_map(|(name, state)| {
            let state = cluster.with_those_before(job, name, state, now);
            let from = timeline::not_before(&job.requirements, name, &state, &outlook)?;
            Some((from, u32::try_from(state.jobs.len()).ok()?, name.clone()))
        });
        open.collect()
    }

    /// The best of them, by a close look at every one.
    fn best_plainly(cluster: &Cluster, job: &Job, now: Millis) -> Option<(NodeName, Opening)> {
        let displaces = |bound: &BoundJob| cluster.may_take_back(job, bound);
        let outlook = cluster.outlook(&displaces, now);
        let mut open = plainly(cluster, job, now);
        open.sort();
        let all = open.into_iter().filter_map(|(_, _, name)| {
            let state = cluster.with_those_before(job, &name, cluster.nodes.get(&name)?, now);
            let opening = timeline::opening(&job.requirements, &name, &state, &outlook)?;
            Some((name, opening))
        });
        // The first of equals.
        all.min_by_key(|(_, opening)| (opening.when, opening.waits_for.len()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_figures_find_what_a_look_at_every_job_of_every_node_finds(
            gpus in proptest::collection::vec(0..4_u32, 1..7),
            running in proptest::collection::vec(runs(), 0..14),
            held in proptest::collection::vec((0..6_usize, 0..3_u32, any::<bool>(), 0..6_i32), 0..4),
            searches in proptest::collection::vec((asks(), 0..7_i32, proptest::option::weighted(0.2, 0..14_usize), 0..50_i64), 1..5),
            aging in proptest::bool::weighted(0.2),
            ends in proptest::option::of(0..14_usize),
        ) {
            let mut cluster = cluster(&gpus, &running, aging);
            for (at, (node, gpu, nominated, priority)) in held.iter().enumerate() {
                let needs = Requirements { gpus: GpuRequest::Whole(1), ..Requirements::default() };
                let holder = waits(at, *priority, &needs, None);
                let slots = vec![Slot { job: holder.uid.clone(), node: name(*node), gpus: vec![format!("n{node}/{gpu}").into()] }];
                cluster.upsert_job(holder.clone());
                let victims = vec![uid("r", at)];
                if *nominated {
                    cluster.nominate(&holder.uid, Nomination { slots, victims, expires: Millis(i64::MAX) });
                } else {
                    cluster.restore_reservation(&holder.uid, Reservation { slots, not_later_than: Some(Millis(150_000)), waits_for: victims });
                }
            }
            // One memory for all searches, while things change between them.
            let mut beside = Beside::default();
            for (at, (needs, priority, ancestor, later)) in searches.iter().enumerate() {
                let now = NOW.plus(Span::seconds(*later));
                let job = waits(at + 4, *priority, needs, *ancestor);
                cluster.upsert_job(job.clone());
                let open = cluster.openings(&job, &BTreeSet::new(), &mut beside, now);
                let mut found: Vec<_> = open.iter().map(|one| (one.from, one.jobs, one.name.clone())).collect();
                found.sort_by(|one, other| one.2.cmp(&other.2));
                prop_assert_eq!(found, plainly(&cluster, &job, now));
                let best = cluster.best_opening(&job, open, now);
                let best = best.map(|(slot, opening)| (slot.node, opening));
                prop_assert_eq!(best, best_plainly(&cluster, &job, now));
                prop_assert!(!cluster.check().contains(&crate::check::Violation::StaleFleet));
                if let Some(ends) = ends {
                    cluster.release(&uid("r", ends + at));
                    cluster.upsert_queue(&"slow".into(), QueueState::default());
                }
            }
        }
    }
}
