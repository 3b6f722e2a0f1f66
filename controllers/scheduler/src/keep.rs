//! Who gets a reservation, where, and when it is given up or moved. See [`reserve`](crate::reserve) for what one means.
//!
//! **Cost.** Nothing while no class waits long. A pass looks again only at holds whose nodes changed, and for an earlier
//! start only at nodes where something was freed. Who is next in the order is known without a look at the others. A new
//! reservation costs one look at the fleet, see `openings`.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, Entry};
use crate::decide::Decision;
use crate::explain::Explanation;
use crate::fit;
use crate::input::{BoundJob, GpuUuid, Job, JobUid, Millis, NodeName, Span};
use crate::node_state::NodeState;
use crate::openings::Beside;
use crate::order::Key;
use crate::pending::{Blocked, Claim, ClassId};
use crate::reserve::{Hold, Reservation, Slot};
use crate::timeline::{self, Leaves, Opening};
use crate::vram::Headroom;

/// How often slots are searched for on all nodes for a gang that has some.
const SEARCH_AFTER: Span = Span::seconds(60);

/// Most times that a call goes on to later jobs because there are no slots for the earlier ones.
const MOST_TURNS: usize = 4;

/// Nodes in the searches of one call after which no other begins. Who is left has its turn in the next.
const MOST_SEARCHED: usize = 5000;

/// How long others are let go first before those who are left have their turn.
const PAUSE: Span = Span(10);

impl Cluster {
    /// What is kept for a waiting job.
    pub fn reservation(&self, job: &JobUid) -> Option<&Reservation> {
        self.holds.of(job).map(|hold| &hold.reservation)
    }

    /// A class was found to wait for nodes.
    pub(crate) fn note_waiting(&mut self, id: ClassId, now: Millis) {
        if self.settings.preemption {
            self.pending.set_unplanned(id, true);
        }
        if self.settings.reservations == 0 {
            return;
        }
        if let Some(class) = self.pending.classes.get_mut(&id)
            && class.waits_since.is_none()
        {
            class.waits_since = Some(now);
            let from = now.plus(self.settings.reserve_after);
            self.holds.entitled.soon.insert((from, id));
        }
    }

    /// A job of a class was placed, or its queue keeps the class now: its time of waiting for nodes begins anew.
    pub(crate) fn note_progress(&mut self, id: ClassId) {
        if let Some(class) = self.pending.classes.get_mut(&id)
            && let Some(since) = class.waits_since.take()
        {
            let from = since.plus(self.settings.reserve_after);
            self.holds.entitled.soon.remove(&(from, id));
            self.pending.set_claim(id, Claim::None);
        }
    }

    /// A class was found to be kept by its queue.
    pub(crate) fn kept_by_queue(&mut self, id: ClassId, why: &Explanation) {
        self.note_progress(id);
        self.pending.block(id, Blocked::ByQueue, self.epoch);
        if let Explanation::QuotaKept { queue, .. } = why {
            self.quota_keepers.insert(queue.clone());
        }
    }

    /// What was kept for a job is given up; others may have it. `taken` is where the job went, if it was placed.
    pub(crate) fn give_up_slots(&mut self, uid: &JobUid, taken: Option<&Slot>) {
        let Some(hold) = self.holds.remove(uid) else {
            return;
        };
        self.version += 1;
        self.holds.given_up += 1;
        self.holds.entitled.news = true;
        if hold.nominated.is_some()
            && let Some(Entry::Pending { class, .. }) = self.jobs.get(uid)
        {
            self.pending.plan_anew(*class);
        }
        // Who takes the very slots that were kept for him leaves others what they had, unless something is kept there for
        // later: he may be gone by then.
        let exactly = taken.is_some_and(|slot| {
            let alone = self.holds.on(&slot.node).next().is_none();
            alone && hold.reservation.slots == [slot.clone()]
        });
        if !exactly {
            for node in hold.nodes() {
                self.node_freed(node);
            }
        }
    }

    /// What is kept for a waiting job that changes, if it needs the same as before.
    pub(crate) fn take_hold_over(&mut self, changed: &Job) -> Option<Hold> {
        let known = self.waiting_job(&changed.uid)?;
        if known.requirements != changed.requirements || known.gang != changed.gang {
            return None;
        }
        self.holds.remove(&changed.uid)
    }

    /// Keeps for a changed job what was kept for it before.
    pub(crate) fn put_hold_back(&mut self, uid: &JobUid, hold: Hold) {
        // It may be elsewhere in the order, so that others are kept out by it, or no longer.
        for node in hold.nodes() {
            self.node_freed(node);
        }
        self.holds.entitled.news = true;
        self.holds.insert(uid, hold.reservation, hold.nominated);
    }

    /// When something that is kept must be looked at again, although nothing happened.
    pub(crate) fn next_reservation(&self) -> Option<Millis> {
        let soon = self.holds.entitled.soon.first().map(|(from, _)| *from);
        let expiry = self
            .holds
            .all()
            .filter_map(|(_, hold)| hold.nominated.as_ref());
        let expiry = expiry.map(|nominated| nominated.expires);
        let rest = self.holds.unfinished.then(|| self.now.plus(PAUSE));
        let again = [self.holds.entitled.again, self.holds.take_back_at, rest];
        soon.into_iter()
            .chain(expiry)
            .chain(again.into_iter().flatten())
            .min()
    }

    /// Has a class waited long enough since the last decision whose first job would get a reservation and has none?
    pub(crate) fn is_anyone_newly_entitled(&self, now: Millis) -> bool {
        let soon = self.holds.entitled.soon.iter();
        let mut new = soon.take_while(|(from, _)| *from <= now);
        new.any(|(_, id)| {
            let class = self.pending.classes.get(id);
            let first = class.and_then(|class| class.jobs.first());
            let is_held = first.is_some_and(|first| self.holds.of(&first.uid).is_some());
            !is_held && self.would_hold(*id, now)
        })
    }

    /// A bound job on a node is to end at another time than before.
    pub(crate) fn end_changed(&mut self, node: &NodeName) {
        if self.holds.is_empty() {
            return;
        }
        self.holds.other_ends.insert(node.clone());
        if self.holds.on(node).next().is_some() {
            // Those who may use the slots until the reserved start are judged by that, too.
            self.node_freed(node);
        }
    }

    /// Gives, moves and takes back reservations.
    pub(crate) fn reserve(&mut self, now: Millis, limit: usize, decisions: &mut Vec<Decision>) {
        self.entitle(now);
        if self.holds.is_empty() && !self.holds.entitled.news {
            return;
        }
        for _ in 0..MOST_TURNS {
            self.reserve_once(now, limit, decisions);
            if decisions.len() >= limit || self.holds.unfinished || !self.holds.entitled.news {
                return;
            }
        }
    }

    fn reserve_once(&mut self, now: Millis, limit: usize, decisions: &mut Vec<Decision>) {
        let mut touched: BTreeSet<NodeName> = BTreeSet::new();
        let most = self.settings.reservations as usize;
        let mut held = 0;
        let hopeless = self.holds.entitled.hopeless.len();
        self.expire_nominations(now, decisions);
        self.holds.take_back_at = None;
        let mut lost = false;
        for uid in self.contenders(now) {
            if decisions.len() >= limit {
                self.holds.entitled.news = true;
                return;
            }
            let had = self.holds.of(&uid).map(|hold| hold.nominated.is_some());
            if had == Some(true) {
                decisions.extend(self.keep_nomination(&uid, now));
                lost |= self.holds.of(&uid).is_none();
            } else if held < most {
                if self.holds.looked >= MOST_SEARCHED && self.holds.of(&uid).is_none() {
                    self.holds.unfinished = true;
                    self.holds.entitled.news = true;
                    return;
                }
                decisions.extend(self.hold_for(&uid, &mut touched, now));
                let has = self.holds.of(&uid).is_some();
                held += usize::from(has);
                lost |= had.is_some() && !has;
                let later = self.take_back(&uid, now, decisions);
                let soonest = self.holds.take_back_at.into_iter().chain(later).min();
                self.holds.take_back_at = soonest;
            } else if let Some(hold) = self.holds.of(&uid) {
                touched.extend(hold.nodes().into_iter().cloned());
                self.give_up_slots(&uid, None);
                // It made room for one before it in the order; that is not news.
                let job = uid;
                decisions.push(Decision::Reserve {
                    job,
                    reservation: None,
                });
            }
        }
        let entitled = &mut self.holds.entitled;
        // Somebody else may have what was given up.
        entitled.news = held < most && (lost || entitled.hopeless.len() > hopeless);
        self.holds.other_ends.clear();
    }

    /// Moves classes that have waited long enough to those that are entitled.
    pub(crate) fn entitle(&mut self, now: Millis) {
        if self.holds.entitled.again.is_some_and(|again| again <= now) {
            self.holds.entitled.again = None;
            for id in std::mem::take(&mut self.holds.entitled.hopeless) {
                self.pending.reopen(id);
            }
            self.holds.entitled.news = true;
        }
        while let Some((from, id)) = self.holds.entitled.soon.first().copied()
            && from <= now
        {
            self.holds.entitled.soon.pop_first();
            if self.pending.classes.contains_key(&id) {
                let hopeless = self.holds.entitled.hopeless.contains(&id);
                let claim = if hopeless {
                    Claim::Hopeless
                } else {
                    Claim::Open
                };
                self.pending.set_claim(id, claim);
                if !self.holds.entitled.news {
                    self.holds.entitled.news = self.would_hold(id, now);
                }
            }
        }
    }

    /// Would the first job of a class be among those that have reservations?
    fn would_hold(&self, id: ClassId, now: Millis) -> bool {
        let class = self.pending.classes.get(&id);
        let Some((class, first)) = class.and_then(|class| Some((class, class.jobs.first()?)))
        else {
            return false;
        };
        let key = self.key_of(class, first, now);
        let holders = self
            .holds
            .all()
            .filter_map(|(uid, _)| self.waiting_job(uid));
        let before = holders.filter(|holder| self.key_of_job(holder, now) < key);
        before.count() < self.settings.reservations as usize
    }

    /// Those who have reservations, and when there may be news also those who may have a right to one, in order.
    fn contenders(&self, now: Millis) -> Vec<JobUid> {
        let holders = self
            .holds
            .all()
            .filter_map(|(uid, _)| self.waiting_job(uid));
        let mut found: BTreeSet<Key> = holders.map(|job| self.key_of_job(job, now)).collect();
        if !self.holds.entitled.news {
            return found.into_iter().map(|key| key.place.uid).collect();
        }
        // Some of the first may find no slots, so a few more are looked at, and the next ones another time.
        let most = 2 * self.settings.reservations as usize;
        let mut others: BTreeSet<Key> = BTreeSet::new();
        for (lane, classes) in &self.pending.entitled {
            let share = self.share(&lane.0, now);
            for (first, id) in classes {
                let key = self.key_with(lane.1, share, first, now);
                // Those behind it in the lane come after it.
                let too_late = others.last().is_some_and(|last| *last < key);
                if others.len() == most && too_late {
                    break;
                }
                let Some(class) = self.pending.classes.get(id) else {
                    continue;
                };
                let leads = self.waiting_job(&first.uid);
                if leads.is_none_or(|first| !self.leads(first)) {
                    continue;
                }
                // A gang has one for all of its members, which its first member holds.
                let jobs = class.jobs.iter().take(match class.key.gang {
                    Some(_) => 1,
                    None => usize::MAX,
                });
                let without = jobs.filter(|place| self.holds.of(&place.uid).is_none());
                for place in without.take(most) {
                    let key = self.key_with(lane.1, share, place, now);
                    if others.len() == most {
                        if others.last().is_some_and(|last| *last < key) {
                            break;
                        }
                        others.pop_last();
                    }
                    others.insert(key);
                }
            }
        }
        found.append(&mut others);
        found.into_iter().map(|key| key.place.uid).collect()
    }

    /// Has nothing happened that concerns a hold since it was looked at?
    fn is_as_looked_at(&self, uid: &JobUid, touched: &BTreeSet<NodeName>) -> bool {
        self.holds.of(uid).is_some_and(|hold| {
            let moved = hold.nodes().iter().any(|node| touched.contains(*node));
            let same = hold.checked == Some(self.stamp_of(hold));
            same && !moved && self.holds.other_ends.is_empty()
        })
    }

    /// The slots that a job is to have: others than before only if it can start earlier, or cannot have those any more. None
    /// when it has some and keeps them, or has none and finds none.
    fn next_slots(
        &self,
        job: &Job,
        touched: &BTreeSet<NodeName>,
        beside: &mut Beside,
        now: Millis,
    ) -> Option<Reservation> {
        let Some(hold) = self.holds.of(&job.uid) else {
            return self.find_slots(job, beside, now);
        };
        let (changes, _) = self.stamp_of(hold);
        let moved = hold.nodes().iter().any(|node| touched.contains(*node));
        let same_nodes = hold.checked.map(|(changes, _)| changes) == Some(changes);
        if (same_nodes && !moved) || self.still_holds(job, hold, now) {
            let fresh = self.find_better(job, hold, !same_nodes, beside, now);
            fresh.filter(|fresh| is_earlier(fresh, &hold.reservation))
        } else {
            let found = self.find_slots(job, beside, now);
            found.or(Some(Reservation::default()))
        }
    }

    /// Keeps, moves or finds slots for a job.
    fn hold_for(
        &mut self,
        uid: &JobUid,
        touched: &mut BTreeSet<NodeName>,
        now: Millis,
    ) -> Option<Decision> {
        let job = self.waiting_job(uid)?.clone();
        let had = self.holds.of(uid).is_some();
        if !had && let Some(why) = self.kept_back(&job, now) {
            // Nodes kept it when it was tried last, and now its queue does; not always all that need the same.
            let id = self.class_of(uid)?;
            let class = self.pending.classes.get(&id);
            let first = class.and_then(|class| class.jobs.first());
            if first.is_some_and(|first| first.uid == *uid) {
                self.kept_by_queue(id, &why);
            }
            return None;
        }
        let rested = self.holds.of(uid).is_some_and(|hold| is_rested(hold, now));
        if self.is_as_looked_at(uid, touched) {
            return None;
        }
        let mut beside = std::mem::take(&mut self.holds.beside);
        let next = self.next_slots(&job, touched, &mut beside, now);
        self.holds.beside = beside;
        if !had {
            self.holds.looked += self.fleet.len();
        }
        match next {
            None if had => {
                self.renew_leavers(&job, touched, now);
                let event = self.holds.of(uid).and_then(|hold| hold.checked);
                self.note_checked(uid);
                if job.gang.is_some()
                    && let Some(hold) = self.holds.of_mut(uid)
                {
                    if rested {
                        hold.searched = now;
                    } else if let Some((_, checked)) = &mut hold.checked {
                        // What has happened is still to be looked at, once it is searched again.
                        *checked = event.map_or(0, |(_, event)| event);
                    }
                }
                None
            }
            None => {
                let again = now.plus(self.settings.reserve_after);
                let class = self.class_of(uid);
                let entitled = &mut self.holds.entitled;
                entitled.again.get_or_insert(again);
                entitled.hopeless.extend(class);
                if let Some(class) = class {
                    self.pending.set_claim(class, Claim::Hopeless);
                }
                None
            }
            Some(next) => {
                let before = self.holds.of(uid).map(|hold| {
                    let event = hold.checked.map_or(0, |(_, event)| event);
                    (hold.searched, event)
                });
                let old = self.holds.of(uid).map(|hold| hold.reservation.clone());
                let same_slots = old.as_ref().is_some_and(|old| old.slots == next.slots);
                touched.extend(
                    old.iter()
                        .flat_map(|old| old.slots.iter().map(|slot| slot.node.clone())),
                );
                touched.extend(next.slots.iter().map(|slot| slot.node.clone()));
                // Another time opens gaps as another place does: before it, or beside who is to start after it.
                if old.as_ref().is_some_and(|old| *old != next) {
                    self.give_up_slots(uid, None);
                }
                if next.slots.is_empty() {
                    return Some(Decision::Reserve {
                        job: uid.clone(),
                        reservation: None,
                    });
                }
                self.version += 1;
                self.holds.insert(uid, next.clone(), None);
                self.note_checked(uid);
                if let Some(hold) = self.holds.of_mut(uid) {
                    match before {
                        // The slots of a gang are the same, and when they are free is known; others were not searched for.
                        Some((searched, event)) if job.gang.is_some() && !rested && same_slots => {
                            hold.searched = searched;
                            hold.checked = hold.checked.map(|(changes, _)| (changes, event));
                        }
                        _ => hold.searched = now,
                    }
                }
                let same = old.is_some_and(|old| {
                    old.slots == next.slots && old.not_later_than == next.not_later_than
                });
                (!same).then(|| Decision::Reserve {
                    job: uid.clone(),
                    reservation: Some(next),
                })
            }
        }
    }

    /// Gives a nomination up whose slots the job could not have even if the victims were gone.
    fn keep_nomination(&mut self, uid: &JobUid, now: Millis) -> Option<Decision> {
        let hold = self.holds.of(uid)?;
        let known = hold.checked == Some(self.stamp_of(hold));
        if known {
            return None;
        }
        if self.is_left_alone(hold) || self.still_holds(self.waiting_job(uid)?, hold, now) {
            self.note_checked(uid);
            return None;
        }
        self.give_up_slots(uid, None);
        Some(Decision::Nominate {
            job: uid.clone(),
            nomination: None,
        })
    }

    /// Did all that happened since a nomination was looked at happen elsewhere? What time alone does is good for it: more of
    /// those who stop have left by when its own victims have. Where others hold slots as well, the order counts, and of a gang
    /// the members that are left.
    fn is_left_alone(&self, hold: &Hold) -> bool {
        let (changes, _) = self.stamp_of(hold);
        let [slot] = hold.reservation.slots.as_slice() else {
            return false;
        };
        let same = |(then, event)| then == changes && self.reasons_at <= event;
        hold.checked.is_some_and(same) && self.holds.on(&slot.node).count() == 1
    }

    /// A hold was looked at, as things are now.
    pub(crate) fn note_checked(&mut self, uid: &JobUid) {
        let stamp = self.holds.of(uid).map(|hold| self.stamp_of(hold));
        if let Some(hold) = self.holds.of_mut(uid) {
            hold.checked = stamp;
        }
    }

    /// The changes of a hold's nodes and the event, up to now.
    fn stamp_of(&self, hold: &Hold) -> (u64, u64) {
        let states = hold
            .nodes()
            .into_iter()
            .filter_map(|node| self.nodes.get(node));
        (states.map(|state| state.changes).sum(), self.epoch)
    }

    /// Would the holder, at the time it was promised, still fit on the very slots?
    fn still_holds(&self, job: &Job, hold: &Hold, now: Millis) -> bool {
        hold.nodes().into_iter().all(|name| {
            let Some(state) = self.nodes.get(name) else {
                return false;
            };
            let others = self.holds.on(name).filter(|(uid, _)| {
                let other = self.waiting_job(uid);
                other.is_some_and(|other| {
                    self.precedes(other, job, now) && !self.is_taken_back(hold, job, other)
                })
            });
            let mut then = self.at_start(name, state, (&job.uid, hold), others, now);
            hold.slots_on(name).all(|slot| {
                let Some(member) = self.waiting_job(&slot.job) else {
                    return false;
                };
                let fits = fit::fit(&member.requirements, name, &only(&then, &slot.gpus)).is_ok();
                if let Some(phantom) = self.phantom(slot, hold.until()) {
                    then.add(phantom);
                }
                fits
            })
        })
    }

    /// The best slots for a job that has none.
    fn find_slots(&self, job: &Job, beside: &mut Beside, now: Millis) -> Option<Reservation> {
        let found = if job.gang.is_some() {
            self.find_gang_slots(job, beside, now)
        } else {
            let open = self.openings(job, &BTreeSet::new(), beside, now);
            self.best_opening(job, open, now).map(reservation)
        };
        // Without anybody in its way it fits and is about to be placed.
        found.filter(|found| !found.waits_for.is_empty())
    }

    /// Has anything happened on a hold's nodes since it was looked at?
    fn has_news(&self, hold: &Hold) -> bool {
        let Some((known, event)) = hold.checked else {
            return true;
        };
        let (changes, _) = self.stamp_of(hold);
        let nodes = hold.nodes();
        let freed = self.freed.range(event + 1..).map(|(_, name)| name);
        let mut news = freed.chain(&self.holds.other_ends);
        known != changes || news.any(|name| nodes.contains(name))
    }

    /// Slots that promise a job an earlier start than those that it has: on nodes where something was freed or is to end at
    /// another time since these were looked at, and on its own, if something happened there.
    fn find_better(
        &self,
        job: &Job,
        hold: &Hold,
        own: bool,
        beside: &mut Beside,
        now: Millis,
    ) -> Option<Reservation> {
        let since = hold.checked.map_or(0, |(_, epoch)| epoch + 1);
        if job.gang.is_some() {
            let here = own || self.has_news(hold);
            let here = here.then(|| self.same_slots(job, hold, now)).flatten();
            let there = is_rested(hold, now)
                .then(|| self.find_slots(job, beside, now))
                .flatten();
            let sooner =
                |there: &Reservation| here.as_ref().is_none_or(|here| is_earlier(there, here));
            return there.filter(sooner).or(here);
        }
        let mut names: BTreeSet<&NodeName> = if own { hold.nodes() } else { BTreeSet::new() };
        names.extend(self.freed.range(since..).map(|(_, name)| name));
        names.extend(&self.holds.other_ends);
        let than = hold.reservation.not_later_than;
        let mut open = self.openings_on(job, &names, beside, now);
        open.retain(|one| than.is_none_or(|than| one.from < Leaves::By(than)));
        let found = self.best_opening(job, open, now).map(reservation);
        found.filter(|found| !found.waits_for.is_empty())
    }
}

impl Cluster {
    /// Finds out anew who must leave slots that stay as they are, if something happened there: others count on these leaving.
    fn renew_leavers(&mut self, job: &Job, touched: &BTreeSet<NodeName>, now: Millis) {
        let Some(hold) = self.holds.of(&job.uid) else {
            return;
        };
        let moved = hold.nodes().iter().any(|node| touched.contains(*node));
        if !moved && !self.has_news(hold) {
            return;
        }
        let Some(found) = self.same_slots(job, hold, now) else {
            return;
        };
        let known = &hold.reservation;
        if found.not_later_than != known.not_later_than || found.waits_for == known.waits_for {
            return;
        }
        self.version += 1;
        if known.not_later_than.is_some() {
            // By a promised time all have left that are to leave by then, whoever is waited for.
            if let Some(hold) = self.holds.of_mut(&job.uid) {
                hold.reservation.waits_for = found.waits_for;
            }
            return;
        }
        let nodes: Vec<NodeName> = hold.nodes().into_iter().cloned().collect();
        self.holds.wait_for(&job.uid, found.waits_for);
        for node in &nodes {
            self.node_freed(node);
        }
    }

    /// The slots of a job or gang as they are, with when they are free by what is known now. Who is let in beside them may stay until
    /// then, so that must not wait for the next search.
    fn same_slots(&self, job: &Job, hold: &Hold, now: Millis) -> Option<Reservation> {
        let displaces = |bound: &BoundJob| self.may_take_back(job, bound);
        let outlook = self.outlook(&displaces, now);
        let mut when = Leaves::By(now);
        let mut waits_for = BTreeSet::new();
        for slot in &hold.reservation.slots {
            let (name, state) = self.nodes.get_key_value(&slot.node)?;
            let needs = &self.waiting_job(&slot.job)?.requirements;
            let state = self.with_those_before(job, name, state, now);
            let opening = timeline::opening_if(&state, &outlook, |then| {
                fit::fit(needs, name, &only(then, &slot.gpus)).map(|_| ())
            })?;
            when = when.and(opening.when);
            waits_for.extend(opening.waits_for);
        }
        (!waits_for.is_empty()).then(|| Reservation {
            slots: hold.reservation.slots.clone(),
            not_later_than: when.promised(),
            waits_for: waits_for.into_iter().collect(),
        })
    }
}

/// What one slot and its opening amount to.
fn reservation((slot, opening): (Slot, Opening)) -> Reservation {
    Reservation {
        slots: vec![slot],
        not_later_than: opening.when.promised(),
        waits_for: opening.waits_for,
    }
}

/// Was it long ago that slots for a gang were searched for on all nodes?
fn is_rested(hold: &Hold, now: Millis) -> bool {
    now >= hold.searched.plus(SEARCH_AFTER)
}

/// Does one reservation promise an earlier start than another?
fn is_earlier(one: &Reservation, other: &Reservation) -> bool {
    one.not_later_than
        .is_some_and(|one| other.not_later_than.is_none_or(|other| one < other))
}

/// A node of which only these GPUs are to be had.
pub(crate) fn only(state: &NodeState, gpus: &[GpuUuid]) -> NodeState {
    let mut state = state.clone();
    let all = state.facts.iter().flat_map(|node| &node.gpus);
    let taken: Vec<bool> = all.map(|gpu| !gpus.contains(&gpu.uuid)).collect();
    for (gpu, taken) in state.gpus.iter_mut().zip(taken) {
        if taken {
            gpu.headroom = Headroom::default();
        }
    }
    state
}
