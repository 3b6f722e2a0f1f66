//! The decisions: which waiting job is bound where, which can never run, and which is told why it waits.
//!
//! **Guarantees.** Jobs are tried in order on the state that the earlier ones left, so nothing is over-promised and no job
//! is bound while one before it could have been. A binding raises the share of its queue, and the order with it. Within a call nothing is ever freed, so a class that did not fit is not
//! tried again. A waiting job is told its reason once, and again only when the class of the reason is another.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::attempt::Tried;
use crate::cluster::{Cluster, Entry};
use crate::explain::Explanation;
use crate::fleet::Freed;
use crate::input::{BoundJob, Bytes, GpuUuid, Job, JobUid, MilliCpu, Millis, NodeName};
use crate::order::{Heads, Place};
use crate::pending::{Blocked, Class, ClassId, ShelfKey};
use crate::ranking::Pass;
use crate::reserve::{Nomination, Reservation, Slot, Views};
use crate::shelf::Amounts;

/// Where a job goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobUid,
    /// The node.
    pub node: NodeName,
    /// The GPUs, in bus order.
    pub gpus: Vec<GpuUuid>,
    /// Memory declared on each GPU, and never more than one of them has; `None` when the job declared none.
    pub vram: Option<Bytes>,
    /// True when the GPUs are the job's alone and each is charged whole.
    pub whole_gpus: bool,
    /// True when the node is the job's alone.
    pub whole_node: bool,
    /// CPU charged.
    pub cpu: MilliCpu,
    /// Host memory charged.
    pub memory: Bytes,
}

impl Placement {
    /// What the job holds there from now on, before its attempt is known and its process has started.
    pub fn bound(&self, job: &Job, now: Millis) -> BoundJob {
        BoundJob {
            uid: self.job.clone(),
            queue: job.queue.clone(),
            node: self.node.clone(),
            gpus: self.gpus.clone(),
            vram: self.vram,
            whole_gpus: self.whole_gpus,
            whole_node: self.whole_node,
            cpu: self.cpu,
            memory: self.memory,
            priority: job.priority,
            enqueued_micros: Some(job.enqueued_micros),
            terms: job.terms,
            estimate: job.estimate,
            bound_at: now,
            gang: job.gang.as_ref().map(|gang| gang.id.clone()),
            ..BoundJob::default()
        }
    }
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind the job. Its slots are held from now on; say `upsert_bound` when it is written, `undo` when it failed.
    Bind(Placement),
    /// No known node could ever run the job; it is not tried again unless that is undone.
    Infeasible {
        /// The job.
        job: JobUid,
        /// Why.
        why: Arc<Explanation>,
    },
    /// The job waits for another class of reasons than it was told before.
    Waiting {
        /// The job.
        job: JobUid,
        /// Why.
        why: Arc<Explanation>,
    },
    /// What is kept for a waiting job is another than before. It is in force from now on; write it down, so that it can be
    /// restored with [`Cluster::restore_reservation`].
    Reserve {
        /// The job.
        job: JobUid,
        /// What is kept for it; `None` when nothing is kept any more, and the job still waits.
        reservation: Option<Reservation>,
    },
    /// Room is to be made for a waiting job: stop the victims. Its slots are kept from now on until it is bound, the
    /// nomination expires or it is given up; write it down, so that it can be restored with [`Cluster::nominate`].
    Nominate {
        /// The job.
        job: JobUid,
        /// Where, and who has to leave; `None` when it is given up and the job still waits.
        nomination: Option<Nomination>,
    },
}

/// Most times that a call tries to place jobs anew because something was given up that was kept from them.
const MOST_ROUNDS: usize = 8;

/// The list that a class to try came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Due,
    Shelf(usize),
}

impl Cluster {
    /// Decides, and applies what it decides to this state. At most `limit` decisions; call again until there are none.
    /// Bindings come first and in order; then the jobs that are to be told why they wait, in order.
    pub fn decide(&mut self, now: Millis, limit: usize) -> Vec<Decision> {
        if !self.settled && now >= self.settings.settled_at {
            self.settled = true;
            self.shape += 1;
            self.reasons_stale();
        }
        self.accrue(now);
        self.now = now;
        self.holds.looked = 0;
        self.holds.unfinished = false;
        self.complete_restored(now);
        let mut decisions = Vec::new();
        let is_anyone_new = self.is_anyone_newly_entitled(now);
        self.entitle(now);
        if is_anyone_new {
            // Before those that come at the same moment take what it has been waiting for.
            self.reserve(now, limit, &mut decisions);
        }
        self.try_overtakers(false, now);
        for _ in 0..MOST_ROUNDS {
            let given_up = self.holds.given_up;
            self.place(now, limit, &mut decisions);
            if decisions.len() < limit && self.holds.given_up == given_up {
                self.make_room(now, limit, &mut decisions);
                self.reserve(now, limit, &mut decisions);
            }
            if decisions.len() >= limit || self.holds.given_up == given_up {
                break;
            }
        }
        if decisions.len() < limit && self.judge_reasons() {
            self.place(now, limit, &mut decisions);
        }
        if decisions.len() < limit {
            self.tell(now, limit, &mut decisions);
        }
        self.set_rates();
        decisions
    }

    /// Places what fits, in order; ends early when something is given up that was kept from jobs.
    fn place(&mut self, now: Millis, limit: usize, decisions: &mut Vec<Decision>) {
        let given_up = self.holds.given_up;
        let mut pass = std::mem::take(&mut self.pass);
        // What is kept for others depends on the time.
        if pass.began != self.epoch || !self.holds.is_empty() {
            pass = Pass::begun(self.epoch);
        }
        let mut views = Views::default();
        pass.freed = self.fleet.freed(&self.dirty);
        // For whom quota is kept may have left, or come after them by now.
        self.dirty_queues.append(&mut self.quota_keepers);
        let chosen = self.shelves_to_try(&pass.freed);
        let mut heads = self.heads_to_try(&chosen, now);
        while decisions.len() < limit && self.holds.given_up == given_up {
            let Some((key, (source, id))) = heads.pop() else {
                self.dirty.clear();
                self.dirty_queues.clear();
                self.more_to_lend = false;
                break;
            };
            let place = key.place;
            let Some(class) = self.pending.classes.get(&id).map(|class| class.key.clone()) else {
                // It was placed with the rest of its gang. Whoever is behind it in its list is found in another round.
                self.holds.given_up += 1;
                break;
            };
            match self.try_class(id, &mut pass, &mut views, now) {
                Tried::Waits => {}
                Tried::Fits(node) => {
                    pass.bound_to(&node);
                    views.bound_to(&node);
                    decisions.extend(self.bind(&place.uid, &node, now).map(Decision::Bind));
                    heads.reshare(&class.queue, self.share(&class.queue, now));
                    if self.try_overtakers(true, now) {
                        self.holds.given_up += 1;
                    }
                }
                Tried::Together(places) => {
                    for (uid, node) in places {
                        pass.bound_to(&node);
                        views.bound_to(&node);
                        decisions.extend(self.bind(&uid, &node, now).map(Decision::Bind));
                    }
                    heads.reshare(&class.queue, self.share(&class.queue, now));
                    if self.try_overtakers(true, now) {
                        self.holds.given_up += 1;
                    }
                }
                Tried::Never(jobs, why) => {
                    for job in jobs {
                        self.give_up(&job);
                        let why = Arc::clone(&why);
                        decisions.push(Decision::Infeasible { job, why });
                    }
                }
            }
            // A class that has more jobs is behind the job that it was tried for.
            let lane = (class.queue.clone(), class.priority);
            let next = match source {
                Source::Due => self.pending.due.get(&lane).and_then(|classes| {
                    let behind = (Bound::Excluded((place, id)), Bound::Unbounded);
                    classes.range(behind).next().cloned()
                }),
                Source::Shelf(at) => {
                    let (key, freed) = &chosen[at];
                    self.next_on(key, freed, Some(&place))
                }
            };
            if let Some((place, id)) = next {
                heads.add(&lane.0, self.key_in(&lane, &place, now), (source, id));
            }
        }
        self.pass = pass;
    }

    /// The heads of the lists of classes that may fit now.
    fn heads_to_try(&self, chosen: &[(ShelfKey, Freed)], now: Millis) -> Heads<(Source, ClassId)> {
        let mut heads = Heads::new();
        for (lane, classes) in &self.pending.due {
            if let Some((place, id)) = classes.first() {
                let key = self.key_in(lane, place, now);
                heads.add(&lane.0, key, (Source::Due, *id));
            }
        }
        for (at, (key, freed)) in chosen.iter().enumerate() {
            if let Some((place, id)) = self.next_on(key, freed, None) {
                let head = self.key_in(&key.lane, &place, now);
                heads.add(&key.lane.0, head, (Source::Shelf(at), id));
            }
        }
        heads
    }

    /// The shelves with classes that may fit since something was freed, each with the nodes that are open to it.
    fn shelves_to_try(&self, freed: &Freed) -> Vec<(ShelfKey, Freed)> {
        let freed_queue = |name| {
            let entry = self.queues.get(name);
            self.dirty_queues.contains(name)
                || self.more_to_lend && entry.is_some_and(|queue| queue.state.borrow.is_some())
        };
        if freed.is_empty() && self.dirty_queues.is_empty() && !self.more_to_lend {
            return Vec::new();
        }
        let tried = self.pending.shelves.iter().filter_map(|(key, shelf)| {
            match key.blocked {
                Blocked::ByQueue => freed_queue(&key.lane.0).then(Freed::default),
                Blocked::ByNodes => {
                    let admits = |asked: &Amounts| self.fleet.any_admits(freed, &key.needs, asked);
                    shelf.next(None, admits)?;
                    let open = self.fleet.open_to(freed, &key.needs, &self.nodes);
                    (!open.is_empty()).then_some(open)
                }
            }
            .map(|freed| (key.clone(), freed))
        });
        tried.collect()
    }

    /// The first class on a shelf, behind a place, that may fit now.
    fn next_on(
        &self,
        key: &ShelfKey,
        freed: &Freed,
        after: Option<&Place>,
    ) -> Option<(Place, ClassId)> {
        let shelf = self.pending.shelves.get(key)?;
        match key.blocked {
            Blocked::ByNodes => shelf.next(after, |asked| {
                self.fleet.any_admits(freed, &key.needs, asked)
            }),
            Blocked::ByQueue => shelf.next(after, |asked| {
                self.queue_admits(&key.lane.0, &key.needs, asked)
            }),
        }
    }

    /// Moves a job from the waiting to the assumed ones.
    fn bind(&mut self, uid: &JobUid, node: &NodeName, now: Millis) -> Option<Placement> {
        let Some(Entry::Pending { job, class }) = self.jobs.get(uid) else {
            return None;
        };
        let (job, class) = (job.clone(), *class);
        let placement = self.placement(&job, node, now)?;
        let asked = job.requirements.gpus.count() as usize;
        debug_assert_eq!(
            placement.gpus.len(),
            asked,
            "{uid} was tried and does not fit"
        );
        if placement.gpus.len() != asked {
            return None;
        }
        let broken = if cfg!(debug_assertions) {
            self.check_node(node)
        } else {
            Vec::new()
        };
        self.note_progress(class);
        let slot = Slot {
            job: uid.clone(),
            node: node.clone(),
            gpus: placement.gpus.clone(),
        };
        self.give_up_slots(uid, Some(&slot));
        self.pending.remove(class, &job);
        let bound = placement.bound(&job, now);
        let node = node.clone();
        self.jobs.insert(uid.clone(), Entry::Assumed { job, node });
        self.hold(bound);
        debug_assert!(
            self.check_node(&placement.node)
                .iter()
                .all(|now| broken.contains(now)),
            "a decision broke an invariant: {:?}",
            self.check_node(&placement.node)
        );
        Some(placement)
    }

    fn give_up(&mut self, uid: &JobUid) {
        if let Some(Entry::Pending { job, class }) = self.jobs.remove(uid) {
            self.give_up_slots(uid, None);
            self.pending.remove(class, &job);
            self.gangs.left(uid);
            self.jobs.insert(uid.clone(), Entry::Infeasible { job });
        }
    }

    fn tell(&mut self, now: Millis, limit: usize, decisions: &mut Vec<Decision>) {
        let mut views = Views::default();
        let mut heads = Heads::new();
        let first = |classes: &BTreeSet<(Place, ClassId)>| classes.first().cloned();
        for (lane, classes) in &self.pending.to_tell {
            if let Some((place, id)) = first(classes) {
                heads.add(&lane.0, self.key_in(lane, &place, now), id);
            }
        }
        while decisions.len() < limit
            && let Some((key, id)) = heads.pop()
        {
            let Some(why) = self.class_reason(id, &mut views) else {
                continue;
            };
            let lane = self.pending.classes.get(&id).map(Class::lane);
            self.pending.told(id, &key.place);
            let job = key.place.uid;
            decisions.push(Decision::Waiting { job, why });
            if let Some(lane) = lane
                && let Some((place, id)) = self.pending.to_tell.get(&lane).and_then(first)
            {
                heads.add(&lane.0, self.key_in(&lane, &place, now), id);
            }
        }
    }

    /// Why the jobs of a class wait now; the class of the reason is recorded as the one that they are told.
    fn class_reason(&mut self, id: ClassId, views: &mut Views) -> Option<Arc<Explanation>> {
        let class = self.pending.classes.get(&id)?;
        if let Some((version, why)) = &class.why
            && *version == self.version
        {
            return Some(Arc::clone(why));
        }
        let first = class.jobs.first();
        let first = first.and_then(|place| self.waiting_job(&place.uid))?;
        let why = self
            .kept_back(first, self.now)
            .unwrap_or_else(|| self.node_reason_seen(first, self.now, views));
        let why = Arc::new(why);
        self.pending.set_reason(id, why.known());
        if let Some(class) = self.pending.classes.get_mut(&id) {
            class.why = Some((self.version, Arc::clone(&why)));
        }
        Some(why)
    }
}
