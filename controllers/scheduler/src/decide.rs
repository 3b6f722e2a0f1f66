//! The decisions: which waiting job is bound where, which can never run, and which is told why it waits.
//!
//! **Guarantees.** Jobs are tried in order on the state that the earlier ones left, so nothing is over-promised and no job
//! is bound while one before it could have been. A binding raises the share of its queue, and the order with it. Within a call nothing is ever freed, so a class that did not fit is not
//! tried again. A waiting job is told its reason once, and again only when the class of the reason is another.

use std::sync::Arc;

use crate::attempt::Tried;
use crate::cluster::{Cluster, Entry};
use crate::explain::Explanation;
use crate::input::{BoundJob, Bytes, GpuUuid, JobUid, MilliCpu, Millis, NodeName};
use crate::order::Heads;
use crate::pending::{Class, ClassId};
use crate::ranking::Pass;
use crate::reserve::{Nomination, Reservation, Slot, Views};

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

impl Cluster {
    /// Decides, and applies what it decides to this state. At most `limit` decisions; call again until there are none.
    /// Bindings come first and in order; then the jobs that are to be told why they wait, in order.
    pub fn decide(&mut self, now: Millis, limit: usize) -> Vec<Decision> {
        if !self.settled && now >= self.settings.settled_at {
            self.settled = true;
            self.shape += 1;
        }
        self.accrue(now);
        self.now = now;
        let mut decisions = Vec::new();
        if self.is_anyone_newly_entitled(now) {
            // Before those that come at the same moment take what it has been waiting for.
            self.reserve(now, limit, &mut decisions);
        }
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
        if decisions.len() < limit {
            self.tell(now, limit, &mut decisions);
        }
        self.set_rates();
        decisions
    }

    /// Places what fits, in order; ends early when something is given up that was kept from jobs.
    fn place(&mut self, now: Millis, limit: usize, decisions: &mut Vec<Decision>) {
        let given_up = self.holds.given_up;
        let mut heads = Heads::default();
        for (id, class) in &self.pending.classes {
            if self.is_due(class)
                && let Some(first) = class.jobs.first()
            {
                heads.add(&class.key.queue, self.key_of(class, first, now), *id);
            }
        }
        let mut pass = Pass::default();
        let mut views = Views::default();
        while decisions.len() < limit
            && self.holds.given_up == given_up
            && let Some((key, id)) = heads.pop()
        {
            let uid = key.place.uid;
            let queue = self.pending.classes.get(&id).map(|class| class.key.clone());
            match self.try_class(id, &mut pass, &mut views, now) {
                Tried::Waits => continue,
                Tried::Fits(node) => {
                    pass.bound_to(&node);
                    views.bound_to(&node);
                    decisions.extend(self.bind(&uid, &node, now).map(Decision::Bind));
                    if let Some(key) = queue {
                        heads.reshare(&key.queue, self.share(&key.queue, now));
                    }
                }
                Tried::Never(why) => {
                    self.give_up(&uid);
                    decisions.push(Decision::Infeasible { job: uid, why });
                }
            }
            if let Some(class) = self.pending.classes.get(&id)
                && let Some(next) = class.jobs.first()
            {
                heads.add(&class.key.queue, self.key_of(class, next, now), id);
            }
        }
    }

    /// May a class fit that did not when it was tried last?
    fn is_due(&self, class: &Class) -> bool {
        let Some(blocked) = class.blocked else {
            return true;
        };
        let freed_at = if blocked.by_queue {
            let queue = self.queues.get(&class.key.queue);
            queue.map(|queue| match queue.state.borrow {
                Some(_) => self.cohort.freed_at,
                None => queue.freed_at,
            })
        } else {
            self.freed.keys().next_back().copied()
        };
        blocked.shape != self.shape || freed_at.is_some_and(|freed| freed > blocked.at)
    }

    /// Moves a job from the waiting to the assumed ones.
    fn bind(&mut self, uid: &JobUid, node: &NodeName, now: Millis) -> Option<Placement> {
        let Some(Entry::Pending { job, class }) = self.jobs.get(uid) else {
            return None;
        };
        let (job, class) = (job.clone(), *class);
        let placement = self.placement(&job, node, now)?;
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
        let bound = BoundJob {
            uid: uid.clone(),
            queue: job.queue.clone(),
            attempt: 0,
            node: node.clone(),
            gpus: placement.gpus.clone(),
            vram: placement.vram,
            whole_gpus: placement.whole_gpus,
            whole_node: placement.whole_node,
            cpu: placement.cpu,
            memory: placement.memory,
            priority: job.priority,
            terms: job.terms,
            estimate: job.estimate,
            bound_at: now,
            ..BoundJob::default()
        };
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
            self.jobs.insert(uid.clone(), Entry::Infeasible { job });
        }
    }

    fn tell(&mut self, now: Millis, limit: usize, decisions: &mut Vec<Decision>) {
        let mut heads = Heads::default();
        for id in &self.pending.to_tell {
            if let Some(class) = self.pending.classes.get(id)
                && class.blocked.is_some()
                && let Some(first) = class.untold.first()
            {
                heads.add(&class.key.queue, self.key_of(class, first, now), *id);
            }
        }
        while decisions.len() < limit
            && let Some((key, id)) = heads.pop()
        {
            let Some(why) = self.class_reason(id) else {
                continue;
            };
            self.pending.told(id, &key.place);
            let job = key.place.uid;
            decisions.push(Decision::Waiting { job, why });
            if let Some(class) = self.pending.classes.get(&id)
                && let Some(next) = class.untold.first()
            {
                heads.add(&class.key.queue, self.key_of(class, next, now), id);
            }
        }
    }

    /// Why the jobs of a class wait now; the class of the reason is recorded as the one that they are told.
    fn class_reason(&mut self, id: ClassId) -> Option<Arc<Explanation>> {
        let class = self.pending.classes.get(&id)?;
        if let Some((version, why)) = &class.why
            && *version == self.version
        {
            return Some(Arc::clone(why));
        }
        let key = class.key.clone();
        let first = class.jobs.first();
        let first = first.and_then(|place| self.waiting_job(&place.uid))?;
        let why = self
            .queue_reason(&key.queue, &key.requirements)
            .unwrap_or_else(|| self.node_reason(first, self.now));
        let why = Arc::new(why);
        self.pending.set_reason(id, why.known());
        if let Some(class) = self.pending.classes.get_mut(&id) {
            class.why = Some((self.version, Arc::clone(&why)));
        }
        Some(why)
    }
}
