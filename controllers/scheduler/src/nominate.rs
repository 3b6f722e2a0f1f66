//! Making room: whom to displace for jobs that nodes keep waiting, and keeping the freed slots for them (rules.md section 8).
//!
//! The first jobs of classes that could not be placed are planned for in order. Who gets a [`Nomination`] keeps its slots
//! like a reservation, except that nobody is let in beside it, until it is placed, the slots break, or it expires. A holder
//! whose slots are free but for jobs that it may displace, or will be by the time that it was promised, takes them back.
//!
//! **Owners first.** What others leave for a job whose queue owns all that it asks for is kept from whoever would borrow, also from
//! those before it in the order: those who give back come before it as often as not.
//!
//! **Limits.** At most [`MOST_NOMINATIONS`] are under way at a time, and a call plans at most [`MOST_PLANS`] times. A job for
//! which there was no plan is planned for again only on nodes where something changed since.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::cluster::Cluster;
use crate::decide::Decision;
use crate::fit;
use crate::input::{BoundJob, Job, JobUid, Millis, NodeName, Span};
use crate::keep::only;
use crate::node_state::NodeState;
use crate::order::{Heads, Place};
use crate::pending::{Blocked, Class, ClassId, Lane, Lanes};
use crate::preempt::{self, Plan};
use crate::reserve::{Hold, Nominated, Nomination, Reservation, Slot};
use crate::timeline::{self, Leaves};

/// Most nominations under way at a time.
const MOST_NOMINATIONS: usize = 64;

/// Most plans of one call.
const MOST_PLANS: usize = 16;

/// Most jobs of one class that are planned for in one call.
const MOST_OF_A_CLASS: usize = 4;

/// Most classes that are considered again because there is somebody new whom they may displace.
const MOST_CONSIDERED: usize = 64;

/// How long slots are kept after the last victim should have left them.
const PATIENCE: Span = Span::seconds(120);

/// What is known of whom jobs may displace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    /// Nodes by the last change after which a plan may be possible there.
    by_change: BTreeMap<u64, NodeName>,
    of_node: BTreeMap<NodeName, u64>,
    changes: u64,
    /// Preemptible jobs that hold slots, by priority.
    preemptible: BTreeMap<i32, u32>,
    /// True when somebody can be displaced who could not before.
    somebody_new: bool,
}

impl Room {
    /// Somebody else is on a node now, or somebody less.
    pub(crate) fn changed(&mut self, node: &NodeName) {
        self.changes += 1;
        if let Some(before) = self.of_node.insert(node.clone(), self.changes) {
            self.by_change.remove(&before);
        }
        self.by_change.insert(self.changes, node.clone());
    }

    /// A node is no more.
    pub(crate) fn gone(&mut self, node: &NodeName) {
        if let Some(before) = self.of_node.remove(node) {
            self.by_change.remove(&before);
        }
    }

    /// A job holds slots now.
    pub(crate) fn came(&mut self, job: &BoundJob) {
        self.somebody_new = true;
        if job.terms.preemptible {
            *self.preemptible.entry(job.priority).or_default() += 1;
        }
    }

    /// A job holds none any more.
    pub(crate) fn left(&mut self, job: &BoundJob) {
        // What is left beside those who may be displaced may be enough now.
        self.somebody_new = true;
        if job.terms.preemptible
            && let Some(count) = self.preemptible.get_mut(&job.priority)
        {
            *count -= 1;
            if *count == 0 {
                self.preemptible.remove(&job.priority);
            }
        }
    }
}

impl Nominated {
    /// When those that are to be stopped have left, if they were told at once.
    pub(crate) fn left_by(&self) -> Millis {
        Millis(self.expires.0.saturating_sub(PATIENCE.0))
    }
}

impl Cluster {
    /// Restores a nomination that was decided before, for example by this process before it was started again. False when
    /// the job does not wait.
    pub fn nominate(&mut self, job: &JobUid, nomination: Nomination) -> bool {
        if self.waiting_job(job).is_none() || nomination.slots.is_empty() {
            return false;
        }
        self.put_nomination(job, nomination);
        self.holds.restored.insert(job.clone());
        true
    }

    fn put_nomination(&mut self, job: &JobUid, nomination: Nomination) {
        self.version += 1;
        if let Some(old) = self.holds.of(job)
            && old.reservation.slots != nomination.slots
        {
            self.give_up_slots(job, None);
        }
        let reservation = Reservation {
            slots: nomination.slots,
            not_later_than: None,
            waits_for: nomination.victims,
        };
        let expires = nomination.expires;
        self.holds
            .insert(job, reservation, Some(Nominated { expires }));
        self.note_checked(job);
        // Those after it may not have their slots any more, and others may have earlier ones: its victims leave.
        self.holds.unsettle(job);
        let nodes = self.holds.of(job).map(Hold::nodes).unwrap_or_default();
        let nodes: Vec<NodeName> = nodes.into_iter().cloned().collect();
        self.holds.other_ends.extend(nodes);
    }

    /// Gives up nominations that were not carried out in time.
    pub(crate) fn expire_nominations(&mut self, now: Millis, decisions: &mut Vec<Decision>) {
        let over = self.holds.all().filter(|(_, hold)| {
            let nominated = hold.nominated.as_ref();
            nominated.is_some_and(|nominated| nominated.expires <= now)
        });
        let over: Vec<JobUid> = over.map(|(uid, _)| uid.clone()).collect();
        for job in over {
            self.give_up_slots(&job, None);
            decisions.push(Decision::Nominate {
                job,
                nomination: None,
            });
        }
    }

    /// Plans for jobs that could not be placed, in order.
    pub(crate) fn make_room(&mut self, now: Millis, limit: usize, decisions: &mut Vec<Decision>) {
        if !self.settings.preemption {
            return;
        }
        // Who is below everybody that may be displaced displaces nobody.
        let lowest = self.holds.room.preemptible.keys().next().copied();
        let reclaims = preempt::is_anything_borrowed(self);
        let may = |lane: &Lane| reclaims || lowest.is_some_and(|lowest| lowest < lane.1);
        if std::mem::take(&mut self.holds.room.somebody_new) {
            self.consider_again(may, now);
        }
        self.strike_off(may);
        let mut heads = self.heads_of(&self.pending.unplanned, may, now);
        let mut plans = 0;
        while decisions.len() < limit
            && plans < MOST_PLANS
            && self.holds.nominated() < MOST_NOMINATIONS
            && let Some((key, id)) = heads.pop()
        {
            let Some(class) = self.pending.classes.get(&id) else {
                continue;
            };
            let (lane, waits) = (class.lane(), class.blocked == Some(Blocked::ByNodes));
            if waits {
                plans += self.make_room_for(id, now, decisions);
            }
            let next = next_of(&self.pending.unplanned, &lane, (key.place, id));
            self.pending.set_unplanned(id, false);
            if waits && let Some(class) = self.pending.classes.get_mut(&id) {
                class.planned = Some(self.holds.room.changes);
            }
            if let Some((place, id)) = next {
                heads.add(&lane.0, self.key_in(&lane, &place, now), id);
            }
        }
    }

    /// The first classes of lists.
    fn heads_of(&self, lists: &Lanes, may: impl Fn(&Lane) -> bool, now: Millis) -> Heads<ClassId> {
        let mut heads = Heads::new();
        for (lane, classes) in lists.iter().filter(|(lane, _)| may(lane)) {
            if let Some((place, id)) = classes.first() {
                heads.add(&lane.0, self.key_in(lane, place, now), *id);
            }
        }
        heads
    }

    /// Takes those off the list that displace nobody: they are on it again when they are tried the next time.
    fn strike_off(&mut self, may: impl Fn(&Lane) -> bool) {
        let none = self.pending.unplanned.iter().filter(|(lane, _)| !may(lane));
        let none: Vec<ClassId> = none
            .flat_map(|(_, classes)| classes.iter().map(|(_, id)| *id))
            .collect();
        for id in none {
            self.pending.set_unplanned(id, false);
        }
    }

    /// Puts the first of those that nodes keep waiting on the list again, because there is somebody new whom they may displace.
    fn consider_again(&mut self, may: impl Fn(&Lane) -> bool, now: Millis) {
        let mut heads = self.heads_of(&self.pending.by_nodes, may, now);
        for _ in 0..MOST_CONSIDERED {
            let Some((key, id)) = heads.pop() else {
                return;
            };
            let Some(lane) = self.pending.classes.get(&id).map(Class::lane) else {
                continue;
            };
            self.pending.set_unplanned(id, true);
            if let Some((place, id)) = next_of(&self.pending.by_nodes, &lane, (key.place, id)) {
                heads.add(&lane.0, self.key_in(&lane, &place, now), id);
            }
        }
    }

    /// Plans for the first jobs of a class; answers how often it planned.
    fn make_room_for(&mut self, id: ClassId, now: Millis, decisions: &mut Vec<Decision>) -> usize {
        let Some(class) = self.pending.classes.get(&id) else {
            return 0;
        };
        if class.key.gang.is_some() {
            return self.make_room_for_gang(id, now, decisions);
        }
        let first: Vec<JobUid> = class
            .jobs
            .iter()
            .take(MOST_OF_A_CLASS)
            .map(|place| place.uid.clone())
            .collect();
        let mut plans = 0;
        for uid in first {
            let hold = self.holds.of(&uid);
            if hold.is_some_and(|hold| hold.nominated.is_some()) {
                continue;
            }
            plans += 1;
            let Some(plan) = self.plan_where_news(id, &uid, now) else {
                break;
            };
            if plan.victims.is_empty() {
                // Those that are being stopped already are enough.
                break;
            }
            if self.is_promised_sooner(&uid, std::slice::from_ref(&plan), now) {
                continue;
            }
            self.assert_right(&uid, std::slice::from_ref(&plan), now);
            let slot = Slot {
                job: uid.clone(),
                node: plan.placement.node.clone(),
                gpus: plan.placement.gpus.clone(),
            };
            let leaving = plan.leaving.iter();
            let victims = plan.victims.iter().map(|victim| &victim.job);
            let waits_for = victims.clone().chain(leaving).cloned().collect();
            let victims = victims.cloned().collect();
            let decided = self.decide_nomination(&uid, vec![slot], victims, waits_for, now);
            decisions.push(decided);
        }
        plans
    }

    /// Plans for a gang as a whole; answers how often it planned.
    fn make_room_for_gang(
        &mut self,
        id: ClassId,
        now: Millis,
        decisions: &mut Vec<Decision>,
    ) -> usize {
        let class = self.pending.classes.get(&id);
        let first = class.and_then(|class| class.jobs.first());
        let leader = first.and_then(|place| self.waiting_job(&place.uid));
        let Some(leader) = leader.filter(|leader| self.leads(leader)) else {
            return 0;
        };
        let hold = self.holds.of(&leader.uid);
        if hold.is_some_and(|hold| hold.nominated.is_some()) {
            return 0;
        }
        let uid = leader.uid.clone();
        let plans = preempt::plan_gang(self, &uid, now).unwrap_or_default();
        if self.is_promised_sooner(&uid, &plans, now) {
            return 1;
        }
        if plans.iter().any(|plan| !plan.victims.is_empty()) {
            self.assert_right(&uid, &plans, now);
        }
        let (mut victims, mut waits_for) = (Vec::new(), Vec::new());
        let mut slots: Vec<Slot> = Vec::new();
        for plan in plans {
            victims.extend(plan.victims.into_iter().map(|victim| victim.job));
            waits_for.extend(plan.leaving);
            slots.push(Slot {
                job: plan.placement.job,
                node: plan.placement.node,
                gpus: plan.placement.gpus,
            });
        }
        if !victims.is_empty() {
            waits_for.extend(victims.iter().cloned());
            slots.sort();
            decisions.push(self.decide_nomination(&uid, slots, victims, waits_for, now));
        }
        1
    }

    /// In debug builds, holds plans for a job or its gang to the rules.
    fn assert_right(&self, uid: &JobUid, plans: &[Plan], now: Millis) {
        if cfg!(debug_assertions) {
            let unit = self.waiting_job(uid).map(|job| self.unit(job));
            let wrong = preempt::violations(self, &unit.unwrap_or_default(), plans, now);
            debug_assert!(wrong.is_empty(), "{wrong:?}: {plans:?}");
        }
    }

    /// Does a job start sooner by what is reserved for it than once all have left whom these plans wait for?
    fn is_promised_sooner(&self, uid: &JobUid, plans: &[Plan], now: Millis) -> bool {
        let promised = self.holds.of(uid).and_then(Hold::until);
        let ends = plans.iter().flat_map(|plan| {
            let victims = plan.victims.iter().map(|victim| &victim.job);
            let awaited = victims.chain(&plan.leaving);
            let here = self.nodes.get(&plan.placement.node);
            let awaited = awaited.filter_map(move |uid| here?.jobs.get(uid));
            awaited.map(|job| job.stopping.unwrap_or(now.plus(job.terms.grace)))
        });
        let start = ends.max().unwrap_or(now);
        promised.is_some_and(|promised| promised <= start)
    }

    /// The cheapest plan on all nodes, or, for a class that was planned for before, on those where something changed since.
    fn plan_where_news(&self, id: ClassId, uid: &JobUid, now: Millis) -> Option<Plan> {
        let class = self.pending.classes.get(&id);
        let Some(since) = class.and_then(|class| class.planned) else {
            return preempt::plan(self, uid, now).ok();
        };
        let news = self.holds.room.by_change.range(since + 1..);
        preempt::plan_among(self, uid, news.map(|(_, node)| node).collect(), now)
    }

    /// Puts a nomination into force and answers the decision that tells of it.
    fn decide_nomination(
        &mut self,
        uid: &JobUid,
        slots: Vec<Slot>,
        victims: Vec<JobUid>,
        waits_for: Vec<JobUid>,
        now: Millis,
    ) -> Decision {
        let graces = slots.iter().flat_map(|slot| self.jobs_on(&slot.node));
        let graces = graces.filter(|job| waits_for.contains(&job.uid));
        let longest = graces.map(|job| job.terms.grace).max().unwrap_or_default();
        let nomination = Nomination {
            slots,
            victims,
            expires: now.plus(longest).plus(PATIENCE),
        };
        let held = Nomination {
            victims: waits_for,
            ..nomination.clone()
        };
        self.put_nomination(uid, held);
        Decision::Nominate {
            job: uid.clone(),
            nomination: Some(nomination),
        }
    }

    /// Takes slots back for a holder from jobs that it may displace, once only they are in its way, or in time for what it
    /// was promised. Answers when to look again where that is still to come.
    pub(crate) fn take_back(
        &mut self,
        uid: &JobUid,
        now: Millis,
        decisions: &mut Vec<Decision>,
    ) -> Option<Millis> {
        let job = self.waiting_job(uid)?.clone();
        let hold = self.holds.of(uid)?;
        let until = hold.until();
        let mut victims: Vec<JobUid> = Vec::new();
        let mut longest = Span::default();
        let mut at_once = true;
        let mut leavers: Vec<JobUid> = Vec::new();
        for name in hold.nodes() {
            let here = self.nodes.get(name)?;
            // Its slots were found beside what is kept for those before it.
            let state: &NodeState = &self.with_those_before(&job, name, here, now);
            let slots: Vec<&Slot> = hold.slots_on(name).collect();
            let by = until.map_or(Leaves::By(now), Leaves::By);
            let outlook = self.outlook(&|_| None, now);
            let stays = timeline::without(state, |bound| outlook.leaves(bound) <= by);
            // Somebody who would leave later than promised is displaced only when there is no other way.
            let (displaced, grace) = self
                .in_the_way(&job, name, &stays, &slots, (now, until))
                .or_else(|| self.in_the_way(&job, name, &stays, &slots, (now, None)))?;
            victims.extend(displaced);
            let gone = |uid: &&JobUid| !stays.jobs.contains_key(*uid);
            leavers.extend(here.jobs.keys().filter(gone).cloned());
            longest = longest.max(grace);
            at_once &= self
                .in_the_way(&job, name, state, &slots, (now, None))
                .is_some();
        }
        if victims.is_empty() {
            return None;
        }
        let in_time = until.map(|until| Millis(until.0.saturating_sub(longest.0)));
        if !at_once && in_time.is_none_or(|in_time| now < in_time) {
            return in_time;
        }
        let slots = hold.reservation.slots.clone();
        // Others may count on these leaving in time, and on nobody else: who was to be displaced may stay now.
        let mut waits_for = victims.clone();
        waits_for.extend(leavers);
        waits_for.sort_unstable();
        waits_for.dedup();
        let decided = self.decide_nomination(uid, slots, victims, waits_for, now);
        // A reservation of the same moment is not worth telling.
        let told = |decision: &mut Decision| matches!(decision, Decision::Reserve { job, .. } if job == uid);
        decisions.pop_if(told);
        decisions.push(decided);
        None
    }

    /// Jobs on a node that a holder must displace to have its slots there, and the longest grace among them; none when the
    /// slots are free. `None` when others than those whom it may displace now are in the way, or would be at `by`.
    fn in_the_way(
        &self,
        holder: &Job,
        name: &NodeName,
        state: &NodeState,
        slots: &[&Slot],
        (now, by): (Millis, Option<Millis>),
    ) -> Option<(Vec<JobUid>, Span)> {
        let fits = |state: &NodeState| {
            let mut state = state.working_copy();
            slots.iter().all(|slot| {
                let Some(member) = self.waiting_job(&slot.job) else {
                    return false;
                };
                let fits = fit::fit(&member.requirements, name, &only(&state, &slot.gpus)).is_ok();
                if let Some(phantom) = self.phantom(slot, None) {
                    state.add(phantom);
                }
                fits
            })
        };
        let mut then = state.working_copy();
        let mut candidates: Vec<&BoundJob> = state
            .jobs
            .values()
            .filter(|bound| {
                let from = self.may_take_back(holder, bound);
                let in_time = by.is_none_or(|by| now.plus(bound.terms.grace) <= by);
                bound.attempt > 0 && in_time && from.is_some_and(|from| from <= now)
            })
            .collect();
        // The dearest goes last and comes back first.
        candidates.sort_by_key(|bound| (bound.priority, Reverse(bound.bound_at)));
        let mut gone = Vec::new();
        for bound in candidates {
            if fits(&then) {
                break;
            }
            gone.extend(then.vacate(&bound.uid).map(|vacated| (bound, vacated)));
        }
        if !fits(&then) {
            return None;
        }
        let mut victims = Vec::new();
        let mut longest = Span::default();
        while let Some((bound, vacated)) = gone.pop() {
            then.reoccupy(vacated);
            if !fits(&then) {
                then.vacate(&bound.uid);
                victims.push(bound.uid.clone());
                longest = longest.max(bound.terms.grace);
            }
        }
        victims.sort_unstable();
        Some((victims, longest))
    }
}

/// The class behind another in its list.
fn next_of(lists: &Lanes, lane: &Lane, after: (Place, ClassId)) -> Option<(Place, ClassId)> {
    let behind = (Bound::Excluded(after), Bound::Unbounded);
    lists.get(lane)?.range(behind).next().cloned()
}
