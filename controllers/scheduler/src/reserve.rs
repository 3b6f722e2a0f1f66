//! Slots that are kept for jobs which have waited long, and what others may still do with them (rules.md section 7).
//!
//! A job that nodes have kept waiting for [`Settings::reserve_after`](crate::Settings) gets a [`Reservation`]: exact slots,
//! and where hard limits say so a time by which they are free at the latest. At most
//! [`Settings::reservations`](crate::Settings) jobs have one, the first in order.
//!
//! **Backfill.** A job that comes after the holder in the order may be placed on those slots' node only if it fits there now
//! and the holder's start is not delayed: it ends by its hard limit, start allowance and grace included, before the promised
//! time; or it fits beside the reservation in the node's state at that time; or the holder may displace it and get the
//! slots back in time. What was learned of run times never gives that right. Jobs before the holder ignore its reservation.
//!
//! **Sticky.** A reservation stays as it is until its job is placed, or what it rests on breaks (a node or a GPU is lost,
//! a job starts late or is given a longer limit, a job before it in the order takes the slots), or it can start strictly
//! earlier. It is never moved to a later time for another reason.
//!
//! **The bound.** So the first waiting job of its kind waits at most `reserve_after`, then the longest time left of the hard
//! limits of the jobs that its slots were chosen after, and their grace. Where one of those jobs has no limit there is no
//! promise; then the slots drain: nobody without a right to be displaced is added to them, so the wait ends with that job.
//!
//! A [`Nomination`] keeps slots in the same way while victims leave them, and lets nobody in meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use crate::attempt;
use crate::cluster::Cluster;
use crate::fit::{self, Score};
use crate::input::{BoundJob, GpuUuid, Job, JobUid, Millis, NodeName, QueueName, Span};
use crate::node_state::NodeState;
use crate::nominate::Room;
use crate::openings::Beside;
use crate::overtake::Fronts;
use crate::pending::ClassId;
use crate::reason::Misfit;
use crate::timeline::{self, Leaves, Outlook};

/// A place on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The job that it is for: the holder, or one member of its gang.
    pub job: JobUid,
    /// The node.
    pub node: NodeName,
    /// The GPUs, in bus order.
    pub gpus: Vec<GpuUuid>,
}

/// Slots that are kept for a waiting job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// The slots: one for a job, one for each missing member of a gang.
    pub slots: Vec<Slot>,
    /// When they are free at the latest, by hard limits; `None` when something there has no limit.
    pub not_later_than: Option<Millis>,
    /// Jobs that must leave first, by uid.
    pub waits_for: Vec<JobUid>,
}

/// Slots that are kept for a waiting job while others are made to leave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nomination {
    /// The slots.
    pub slots: Vec<Slot>,
    /// Jobs that are to be stopped for it, by uid.
    pub victims: Vec<JobUid>,
    /// When the slots are given up if the job is not placed by then.
    pub expires: Millis,
}

/// What is kept for one job.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) reservation: Reservation,
    /// Set while victims are made to leave.
    pub(crate) nominated: Option<Nominated>,
    /// The changes of its nodes, and the event, after which it was looked at last.
    pub(crate) checked: Option<(u64, u64)>,
    /// When slots were searched for the last time on all nodes.
    pub(crate) searched: Millis,
    /// Up to where the jobs of each lane came before the holder when those that it keeps out were tried last.
    pub(crate) fronts: Fronts,
    /// Told apart from an earlier one of the same job.
    pub(crate) stamp: u64,
}

/// What a nomination knows beyond its slots.
#[derive(Clone, Debug)]
pub(crate) struct Nominated {
    pub(crate) expires: Millis,
}

/// Everything that is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds {
    by_job: BTreeMap<JobUid, Hold>,
    by_node: BTreeMap<NodeName, BTreeSet<JobUid>>,
    next_stamp: u64,
    /// Counts what was given up, so that who was kept waiting by it is tried again.
    pub(crate) given_up: u64,
    /// Nodes of which a job is to end at another time than before, since the holds were looked at.
    pub(crate) other_ends: BTreeSet<NodeName>,
    /// Who is entitled to a reservation.
    pub(crate) entitled: Entitled,
    /// When slots must be taken back from those who may be displaced, the next time.
    pub(crate) take_back_at: Option<Millis>,
    /// What was done to make room.
    pub(crate) room: Room,
    /// Nodes on which anything is kept as those see them who look for slots.
    pub(crate) beside: Beside,
    /// Jobs for which something was restored, until it is known who must leave their slots.
    pub(crate) restored: BTreeSet<JobUid>,
    /// How many nodes were searched for slots in this call.
    pub(crate) looked: usize,
    /// True when that was so many that some have not had their turn.
    pub(crate) unfinished: bool,
}

/// Classes by how long they have been waiting for nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entitled {
    /// Those that have not waited long enough, by the time from which they have.
    pub(crate) soon: BTreeSet<(Millis, ClassId)>,
    /// True when another job than those that have one may have a right to a reservation.
    pub(crate) news: bool,
    /// Those for whom there were no slots; some may be gone.
    pub(crate) hopeless: BTreeSet<ClassId>,
    /// When to look again for slots of these.
    pub(crate) again: Option<Millis>,
}

impl Holds {
    /// Is nothing kept?
    pub(crate) fn is_empty(&self) -> bool {
        self.by_job.is_empty()
    }

    /// Holders that do not wait, or whose slots are not listed as they must be.
    pub(crate) fn stale(&self, waits: impl Fn(&JobUid) -> bool) -> BTreeSet<JobUid> {
        let mut listed: BTreeMap<NodeName, BTreeSet<JobUid>> = BTreeMap::new();
        for (uid, hold) in &self.by_job {
            for node in hold.nodes() {
                listed.entry(node.clone()).or_default().insert(uid.clone());
            }
        }
        let mut stale: BTreeSet<JobUid> = BTreeSet::new();
        stale.extend(self.by_job.keys().filter(|uid| !waits(uid)).cloned());
        for node in listed.keys().chain(self.by_node.keys()) {
            let empty = BTreeSet::new();
            let should = listed.get(node).unwrap_or(&empty);
            let does = self.by_node.get(node).unwrap_or(&empty);
            stale.extend(should.symmetric_difference(does).cloned());
        }
        stale
    }

    /// Nodes on which anything is kept.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.by_node.keys()
    }

    /// Number of nominations.
    pub(crate) fn nominated(&self) -> usize {
        let all = self.by_job.values();
        all.filter(|hold| hold.nominated.is_some()).count()
    }

    /// What is kept for a job.
    pub(crate) fn of(&self, uid: &JobUid) -> Option<&Hold> {
        self.by_job.get(uid)
    }

    /// What is kept on a node, and for whom.
    pub(crate) fn on(&self, node: &NodeName) -> impl Iterator<Item = (&JobUid, &Hold)> {
        let uids = self.by_node.get(node).into_iter().flatten();
        uids.filter_map(|uid| Some((uid, self.by_job.get(uid)?)))
    }

    /// Everything that is kept, by job.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&JobUid, &Hold)> {
        self.by_job.iter()
    }

    pub(crate) fn of_mut(&mut self, uid: &JobUid) -> Option<&mut Hold> {
        self.by_job.get_mut(uid)
    }

    /// Others must leave the slots of a hold than before.
    pub(crate) fn wait_for(&mut self, uid: &JobUid, leavers: Vec<JobUid>) {
        self.next_stamp += 1;
        if let Some(hold) = self.by_job.get_mut(uid) {
            hold.reservation.waits_for = leavers;
            hold.stamp = self.next_stamp;
        }
    }

    pub(crate) fn insert(
        &mut self,
        uid: &JobUid,
        reservation: Reservation,
        nominated: Option<Nominated>,
    ) {
        self.remove(uid);
        for slot in &reservation.slots {
            let here = self.by_node.entry(slot.node.clone()).or_default();
            here.insert(uid.clone());
        }
        self.next_stamp += 1;
        let hold = Hold {
            reservation,
            nominated,
            checked: None,
            searched: Millis::default(),
            fronts: Fronts::new(),
            stamp: self.next_stamp,
        };
        self.by_job.insert(uid.clone(), hold);
    }

    /// Lets all others be looked at again of which something is kept on the nodes of a hold.
    pub(crate) fn unsettle(&mut self, uid: &JobUid) {
        let hold = self.by_job.get(uid);
        let nodes = hold.map(Hold::nodes).unwrap_or_default();
        let here = nodes.into_iter().filter_map(|node| self.by_node.get(node));
        let others: BTreeSet<JobUid> = here
            .flatten()
            .filter(|other| *other != uid)
            .cloned()
            .collect();
        for other in others {
            let hold = self.by_job.get_mut(&other);
            if let Some((changes, _)) = hold.and_then(|hold| hold.checked.as_mut()) {
                *changes = u64::MAX;
            }
        }
    }

    pub(crate) fn remove(&mut self, uid: &JobUid) -> Option<Hold> {
        let hold = self.by_job.remove(uid)?;
        for slot in &hold.reservation.slots {
            if let Some(here) = self.by_node.get_mut(&slot.node) {
                here.remove(uid);
                if here.is_empty() {
                    self.by_node.remove(&slot.node);
                    self.beside.gone(&slot.node);
                }
            }
        }
        Some(hold)
    }
}

impl Hold {
    /// The time from which the slots are the holder's; `None` when nobody knows it.
    pub(crate) fn until(&self) -> Option<Millis> {
        match self.nominated {
            Some(_) => None,
            None => self.reservation.not_later_than,
        }
    }

    /// The slots on a node.
    pub(crate) fn slots_on<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a Slot> {
        self.reservation
            .slots
            .iter()
            .filter(move |slot| slot.node == *node)
    }

    pub(crate) fn nodes(&self) -> BTreeSet<&NodeName> {
        self.reservation
            .slots
            .iter()
            .map(|slot| &slot.node)
            .collect()
    }
}

/// Reserved nodes as jobs see them that come after the holders, kept for one pass.
#[derive(Debug, Default)]
pub(crate) struct Views {
    /// By everything that is kept there before the job, and whether the job must keep clear of it.
    seen: BTreeMap<(NodeName, Vec<(u64, bool)>), NodeState>,
}

impl Views {
    /// Something was bound to a node.
    pub(crate) fn bound_to(&mut self, node: &NodeName) {
        self.seen.retain(|(name, _), _| name != node);
    }
}

/// What is kept from a job on a node, and the node as it sees it.
pub(crate) struct Kept<'a> {
    /// Whom it must not delay, the first of them.
    pub(crate) holder: &'a JobUid,
    /// When they start at the latest.
    pub(crate) until: Option<Millis>,
    stamps: Vec<(u64, bool)>,
    /// All holds here that come before the job, and whether the job must keep clear of each.
    before: Vec<(&'a JobUid, &'a Hold, bool)>,
}

impl Cluster {
    /// Whom a job must not delay on a node; `None` when nothing is kept from it there.
    pub(crate) fn kept_from<'a>(
        &'a self,
        job: &Job,
        node: &NodeName,
        now: Millis,
    ) -> Option<Kept<'a>> {
        if self.holds.is_empty() {
            return None;
        }
        let mut before = Vec::new();
        let lead = self.lead_of(job);
        for (uid, hold) in self.holds.on(node) {
            let holder = self.waiting_job(uid)?;
            let own = *uid == lead.uid;
            if !own && self.keeps_out(hold, holder, lead, now) {
                before.push((uid, hold, !self.is_clear_of(job, holder, hold, now)));
            }
        }
        let (holder, first, _) = before.iter().find(|(_, _, bars)| *bars)?;
        let stamps = before.iter().map(|(_, hold, bars)| (hold.stamp, *bars));
        let stamps = stamps.collect();
        Some(Kept {
            holder,
            until: first.until(),
            stamps,
            before,
        })
    }

    /// Can a job on the holder's slots not delay it, because it has ended by then or can be made to leave in time?
    fn is_clear_of(&self, job: &Job, holder: &Job, hold: &Hold, now: Millis) -> bool {
        if hold.nominated.is_some() {
            return false;
        }
        let terms = job.terms;
        let started = now.plus(self.settings.start_allowance);
        let until = hold.until();
        if let (Some(limit), Some(until)) = (terms.limit, until)
            && started.plus(limit).plus(terms.grace) <= until
        {
            return true;
        }
        self.settings.preemption
            && terms.preemptible
            && self
                .settings
                .stays_before(holder, job.priority, Some(job.enqueued_micros))
            && !holder.ancestors.contains(&job.uid)
            && match until {
                Some(until) => {
                    let least = self.min_runtime(&job.queue).saturating_add(terms.grace);
                    started.plus(least) <= until
                }
                None => self.min_runtime(&job.queue) == Span(0),
            }
    }

    /// A node as a job sees it that must not delay these holders.
    fn view(&self, name: &NodeName, state: &NodeState, kept: &Kept<'_>, now: Millis) -> NodeState {
        let mut seen = None;
        for (uid, hold, bars) in &kept.before {
            if !bars {
                continue;
            }
            let others = kept.before.iter().map(|(uid, hold, _)| (*uid, *hold));
            let then = self.at_start(name, state, (uid, hold), others, now);
            seen = Some(timeline::lesser(seen.as_ref().unwrap_or(state), &then));
        }
        seen.unwrap_or_else(|| state.working_copy())
    }

    /// A node at the time at which a holder starts there, with everything charged that these others hold by then.
    pub(crate) fn at_start<'a>(
        &self,
        name: &NodeName,
        state: &NodeState,
        (uid, hold): (&JobUid, &Hold),
        others: impl Iterator<Item = (&'a JobUid, &'a Hold)>,
        now: Millis,
    ) -> NodeState {
        let until = hold.until();
        let mut then = if let (Some(until), Some(holder)) = (until, self.waiting_job(uid)) {
            let displaces = |bound: &BoundJob| self.may_take_back(holder, bound);
            let outlook = self.outlook(&displaces, now);
            timeline::without(state, |bound| outlook.leaves(bound) <= Leaves::By(until))
        } else {
            let leaving = &hold.reservation.waits_for;
            // Whose room was made on purpose starts as soon as the last of those has left; who is still stopping then is in the way.
            let by = hold.nominated.as_ref().map(|_| {
                let holder = self.waiting_job(uid);
                let displaces = |bound: &BoundJob| self.may_take_back(holder?, bound);
                let outlook = self.outlook(&displaces, now);
                let awaited = leaving.iter().filter_map(|uid| state.jobs.get(uid));
                let left = awaited.filter_map(|bound| outlook.leaves(bound).promised());
                left.max().unwrap_or(now)
            });
            timeline::without(state, |bound| {
                let stopped = bound
                    .stopping
                    .is_some_and(|end| by.is_none_or(|by| end <= by));
                stopped || leaving.contains(&bound.uid)
            })
        };
        for (other, held) in others {
            let there_by_then = match (held.until(), until) {
                (Some(start), Some(until)) => start <= until,
                _ => true,
            };
            if there_by_then || other == uid {
                for phantom in self.phantoms(held, name) {
                    // Whom it waits for without a time has come and gone by then.
                    if until.is_none() && hold.reservation.waits_for.contains(&phantom.uid) {
                        continue;
                    }
                    let ended = self.outlook(&|_| None, now).leaves(&phantom);
                    if other == uid || until.is_none_or(|until| ended > Leaves::By(until)) {
                        then.add(phantom);
                    }
                }
            }
        }
        then
    }

    pub(crate) fn outlook<'a>(
        &self,
        displaces: &'a dyn Fn(&BoundJob) -> Option<Millis>,
        now: Millis,
    ) -> Outlook<'a> {
        Outlook {
            now,
            allowance: self.settings.start_allowance,
            displaces,
        }
    }

    /// From when on a holder may displace a job that runs; `None` when it never may.
    pub(crate) fn may_take_back(&self, holder: &Job, bound: &BoundJob) -> Option<Millis> {
        let may = self.settings.preemption
            && bound.terms.preemptible
            && self
                .settings
                .stays_before(holder, bound.priority, bound.enqueued_micros)
            && bound.stopping.is_none()
            && !holder.ancestors.contains(&bound.uid);
        let start = bound
            .started
            .unwrap_or(bound.bound_at.plus(self.settings.start_allowance));
        may.then(|| start.plus(self.min_runtime(&bound.queue)))
    }

    pub(crate) fn min_runtime(&self, queue: &QueueName) -> Span {
        let queue = self.queues.get(queue);
        queue.map_or(Span(0), |queue| queue.state.min_runtime)
    }

    /// What a hold charges to a node, as if its jobs were there.
    pub(crate) fn phantoms(&self, hold: &Hold, name: &NodeName) -> Vec<BoundJob> {
        let slots = hold.slots_on(name);
        slots
            .filter_map(|slot| self.phantom(slot, hold.until()))
            .collect()
    }

    /// A slot as if its job were there from a time on.
    pub(crate) fn phantom(&self, slot: &Slot, from: Option<Millis>) -> Option<BoundJob> {
        let job = self.waiting_job(&slot.job)?;
        let facts = self.nodes.get(&slot.node)?.facts.as_ref()?;
        let gpus = facts
            .gpus
            .iter()
            .filter(|gpu| slot.gpus.contains(&gpu.uuid));
        let placement = attempt::placement_with(job, &slot.node, &gpus.collect::<Vec<_>>());
        let mut terms = job.terms;
        terms.preemptible = false;
        if from.is_none() {
            terms.limit = None;
        }
        Some(BoundJob {
            terms,
            started: from.map(|from| from.plus(self.settings.start_allowance)),
            // It is nobody who runs, so it neither informs estimates nor belongs to a running gang.
            estimate: None,
            gang: None,
            ..placement.bound(job, Millis::default())
        })
    }

    /// Does one waiting job come before another in the order?
    pub(crate) fn precedes(&self, one: &Job, other: &Job, now: Millis) -> bool {
        self.key_of_job(one, now) < self.key_of_job(other, now)
    }

    /// Is what is kept for a holder kept from a job? It is from those after it in the order. What others are made to leave for
    /// a holder whose queue owns it is also kept from whoever would borrow, or those who give back would take it again.
    pub(crate) fn keeps_out(&self, hold: &Hold, holder: &Job, job: &Job, now: Millis) -> bool {
        self.precedes(holder, job, now) || self.is_taken_back(hold, holder, job)
    }

    /// Is the holder an owner for whom others leave, and the job one that would borrow?
    pub(crate) fn is_taken_back(&self, hold: &Hold, holder: &Job, job: &Job) -> bool {
        hold.nominated.is_some() && self.would_borrow(job) && self.would_own(holder)
    }

    /// Who would borrow may be kept out by nominations for those who own; that may be over once a queue holds more or less.
    /// The nodes of those whose holder `concerns` are looked at anew.
    pub(crate) fn borrowing_changed(&mut self, concerns: impl Fn(&QueueName) -> bool) {
        let nominated = self
            .holds
            .all()
            .filter(|(_, hold)| hold.nominated.is_some());
        let concerned = nominated.filter(|(uid, _)| {
            let holder = self.waiting_job(uid);
            holder.is_some_and(|holder| concerns(&holder.queue) && self.has_quota(&holder.queue))
        });
        let nodes: BTreeSet<NodeName> = concerned
            .flat_map(|(_, hold)| hold.nodes().into_iter().cloned())
            .collect();
        if nodes.is_empty() {
            return;
        }
        self.holds.given_up += 1;
        for node in &nodes {
            self.node_freed(node);
        }
    }

    /// How well a job fits a node beside what is kept there for those before it.
    pub(crate) fn fit_beside(
        &self,
        job: &Job,
        name: &NodeName,
        state: &NodeState,
        now: Millis,
        views: &mut Views,
    ) -> Result<Score, Misfit> {
        let needs = &job.requirements;
        let score = fit::fit(needs, name, state)?;
        let Some(kept) = self.kept_from(job, name, now) else {
            return Ok(score);
        };
        let key = (name.clone(), kept.stamps.clone());
        let view = views
            .seen
            .entry(key)
            .or_insert_with(|| self.view(name, state, &kept, now));
        fit::fit(needs, name, view).map_err(|_| Misfit::Reserved {
            holder: kept.holder.clone(),
            until: kept.until,
        })
    }

    /// The nodes that a job fits beside what is kept for those before it, with how well; the best of them is among them, and
    /// with `all` every one is. Only nodes on which something is kept are looked at for that.
    pub(crate) fn fitting_beside(
        &self,
        job: &Job,
        all: bool,
        now: Millis,
        views: &mut Views,
    ) -> Vec<(Score, &NodeName)> {
        let held: Vec<(&NodeName, &NodeState)> = self
            .holds
            .nodes()
            .filter_map(|name| self.nodes.get_key_value(name))
            .collect();
        let mut fits: Vec<(Score, &NodeName)> = Vec::new();
        for (name, state) in &held {
            let beside = self.fit_beside(job, name, state, now, views);
            fits.extend(beside.ok().map(|score| (score, *name)));
        }
        let best = fits.iter().map(|(score, _)| *score).min();
        let but = held.into_iter().map(|(name, _)| name);
        fits.extend(self.fitting_but(&job.requirements, all, but, best));
        fits
    }

    /// The nodes where a job would fit if nothing were kept from it there.
    pub(crate) fn kept_nodes<'a>(
        &'a self,
        job: &'a Job,
        now: Millis,
        views: &'a mut Views,
    ) -> impl Iterator<Item = (&'a NodeName, Misfit)> {
        let reserved = self.holds.by_node.keys();
        let states = reserved.filter_map(|name| self.nodes.get_key_value(name));
        states.filter_map(move |(name, state)| {
            let misfit = self.fit_beside(job, name, state, now, views).err()?;
            matches!(misfit, Misfit::Reserved { .. }).then_some((name, misfit))
        })
    }

    /// The node as a job sees it that is about to be placed there.
    pub(crate) fn seen_by(&self, job: &Job, name: &NodeName, now: Millis) -> Option<NodeState> {
        let state = self.nodes.get(name)?;
        let kept = self.kept_from(job, name, now)?;
        Some(self.view(name, state, &kept, now))
    }
}
