//! The decisions: which waiting job is bound where, which can never run, and which is told why it waits.
//!
//! **Guarantees.** Jobs are tried in order on the state that the earlier ones left, so nothing is over-promised and no job
//! is bound while one before it could have been. Within a call nothing is ever freed, so a class that did not fit is not
//! tried again. A waiting job is told its reason once, and again only when the class of the reason is another.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cluster::{Cluster, Entry};
use crate::explain::Explanation;
use crate::fit::{self, Score};
use crate::input::{
    BoundJob, Bytes, Exclusive, GpuRequest, GpuUuid, Job, JobUid, MilliCpu, Millis, NodeName,
    Requirements,
};
use crate::node_state::NodeState;
use crate::pending::{Blocked, Class, ClassId, Known, OrderKey};
use crate::ranking::Pass;
use crate::vram;

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
}

/// What became of a try.
enum Tried {
    Fits(NodeName),
    Never(Arc<Explanation>),
    Waits,
}

/// What a look at some nodes found.
struct Found<'a> {
    /// Those that fit.
    fits: Vec<(Score, &'a NodeName)>,
    /// May those that do not fit change the reason that is known? They do not when they fail for the same class of
    /// reasons, or for a farther one while the node that the reason is judged by is another.
    news: bool,
}

impl<'a> Found<'a> {
    fn among(
        needs: &Requirements,
        nodes: impl Iterator<Item = (&'a NodeName, &'a NodeState)>,
        known: Option<&Known>,
    ) -> Self {
        let (mut fits, mut news) = (Vec::new(), false);
        for (name, state) in nodes {
            match fit::fit(needs, name, state) {
                Ok(score) => fits.push((score, name)),
                Err(misfit) => {
                    news = news
                        || known.is_none_or(|known| match misfit.class().cmp(&known.class) {
                            Ordering::Equal => false,
                            Ordering::Greater => true,
                            Ordering::Less => known.judged_by.as_ref().is_none_or(|by| by == name),
                        });
                }
            }
        }
        Self { fits, news }
    }
}

impl Cluster {
    /// Decides, and applies what it decides to this state. At most `limit` decisions; call again until there are none.
    /// Bindings come first and in order; then the jobs that are to be told why they wait, in order.
    pub fn decide(&mut self, now: Millis, limit: usize) -> Vec<Decision> {
        if !self.settled && now >= self.settings.settled_at {
            self.settled = true;
            self.shape += 1;
        }
        let mut decisions = Vec::new();
        self.place(limit, &mut decisions);
        if decisions.len() < limit {
            self.tell(limit, &mut decisions);
        }
        decisions
    }

    fn place(&mut self, limit: usize, decisions: &mut Vec<Decision>) {
        let head = |class: &Class| class.jobs.first().cloned();
        let mut heads: BTreeSet<(OrderKey, ClassId)> = BTreeSet::new();
        for (id, class) in &self.pending.classes {
            if self.is_due(class)
                && let Some(first) = head(class)
            {
                heads.insert((first, *id));
            }
        }
        let mut pass = Pass::default();
        while decisions.len() < limit
            && let Some((order, id)) = heads.pop_first()
        {
            match self.try_class(id, &mut pass) {
                Tried::Waits => continue,
                Tried::Fits(node) => {
                    pass.bound_to(&node);
                    decisions.extend(self.bind(&order.uid, &node).map(Decision::Bind));
                }
                Tried::Never(why) => {
                    self.give_up(&order.uid);
                    let job = order.uid;
                    decisions.push(Decision::Infeasible { job, why });
                }
            }
            if let Some(next) = self.pending.classes.get(&id).and_then(head) {
                heads.insert((next, id));
            }
        }
    }

    /// May a class fit that did not when it was tried last?
    fn is_due(&self, class: &Class) -> bool {
        let Some(blocked) = class.blocked else {
            return true;
        };
        let freed_at = if blocked.by_queue {
            self.queues
                .get(&class.key.queue)
                .map(|queue| queue.freed_at)
        } else {
            self.freed.keys().next_back().copied()
        };
        blocked.shape != self.shape || freed_at.is_some_and(|freed| freed > blocked.at)
    }

    fn try_class(&mut self, id: ClassId, pass: &mut Pass) -> Tried {
        let Some(class) = self.pending.classes.get(&id) else {
            return Tried::Waits;
        };
        let key = class.key.clone();
        let mut blocked = Blocked {
            at: self.epoch,
            shape: self.shape,
            by_queue: false,
        };
        if let Some(why) = self.queue_reason(&key.queue, &key.requirements) {
            let judged = class
                .blocked
                .is_some_and(|before| before.shape == self.shape);
            if self.settled
                && !judged
                && let Some(why) = self.never(&key.requirements)
            {
                return Tried::Never(Arc::new(why));
            }
            blocked.by_queue = true;
            self.pending.block(id, blocked);
            self.pending.set_reason(id, why.known());
            return Tried::Waits;
        }
        let needs = &key.requirements;
        let before = class.blocked.filter(|blocked| !blocked.by_queue);
        let (best, news) = if pass.knows(id) {
            let best = pass.best(id, needs, &self.nodes);
            // What was known of the other nodes is as true as before, since nothing was freed.
            (
                best,
                before.is_none_or(|before| before.shape != self.shape) || class.reason.is_none(),
            )
        } else {
            let known = class.reason.as_ref().filter(|_| before.is_some());
            let found = match before {
                None => Found::among(needs, self.candidates(needs), known),
                Some(before) => {
                    let freed = self.freed.range(before.at + 1..).map(|(_, name)| name);
                    let pin = needs.node_name.as_ref();
                    let asked = freed.filter(|name| pin.is_none_or(|pin| pin == *name));
                    let states = asked.filter_map(|name| self.nodes.get_key_value(name));
                    Found::among(needs, states, known)
                }
            };
            let best = found.fits.iter().min().map(|(_, name)| (*name).clone());
            if best.is_some() && class.jobs.len() > 1 {
                pass.remember(id, &found.fits);
            }
            (
                best,
                found.news || before.is_none_or(|before| before.shape != self.shape),
            )
        };
        if let Some(node) = best {
            return Tried::Fits(node);
        }
        if news {
            if self.settled
                && let Some(why) = self.never(needs)
            {
                return Tried::Never(Arc::new(why));
            }
            let why = self.node_reason(needs);
            self.pending.set_reason(id, why.known());
        }
        self.pending.block(id, blocked);
        Tried::Waits
    }

    /// Moves a job from the waiting to the assumed ones.
    fn bind(&mut self, uid: &JobUid, node: &NodeName) -> Option<Placement> {
        let Some(Entry::Pending { job, class }) = self.jobs.get(uid) else {
            return None;
        };
        let (job, class) = (job.clone(), *class);
        let placement = self.placement(&job, node)?;
        let broken = if cfg!(debug_assertions) {
            self.check_node(node)
        } else {
            Vec::new()
        };
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

    fn placement(&self, job: &Job, name: &NodeName) -> Option<Placement> {
        let state = self.nodes.get(name)?;
        let facts = state.facts.as_ref()?;
        let needs = &job.requirements;
        let chosen = fit::choose_gpus(needs, state);
        let gpus: Vec<_> = chosen.iter().map(|at| &facts.gpus[*at]).collect();
        let capacities = gpus.iter().map(|gpu| vram::capacity(gpu));
        let declared = match needs.gpus {
            // Who names the class of a card asks for more than it can have.
            GpuRequest::Vram { bytes, .. } => Some(capacities.min().unwrap_or(bytes).min(bytes)),
            GpuRequest::None | GpuRequest::Whole(_) => None,
        };
        Some(Placement {
            job: job.uid.clone(),
            node: name.clone(),
            whole_gpus: fit::takes_whole_gpus(needs, &gpus),
            gpus: gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            vram: declared,
            whole_node: needs.exclusive == Exclusive::Node,
            cpu: needs.cpu,
            memory: needs.memory,
        })
    }

    fn give_up(&mut self, uid: &JobUid) {
        if let Some(Entry::Pending { job, class }) = self.jobs.remove(uid) {
            self.pending.remove(class, &job);
            self.jobs.insert(uid.clone(), Entry::Infeasible { job });
        }
    }

    fn tell(&mut self, limit: usize, decisions: &mut Vec<Decision>) {
        let first = |class: &Class| class.untold.first().cloned();
        let mut heads: BTreeSet<(OrderKey, ClassId)> = BTreeSet::new();
        for id in &self.pending.to_tell {
            let class = self
                .pending
                .classes
                .get(id)
                .filter(|class| class.blocked.is_some());
            if let Some(order) = class.and_then(first) {
                heads.insert((order, *id));
            }
        }
        while decisions.len() < limit
            && let Some((order, id)) = heads.pop_first()
        {
            let Some(why) = self.class_reason(id) else {
                continue;
            };
            self.pending.told(id, &order);
            decisions.push(Decision::Waiting {
                job: order.uid,
                why,
            });
            if let Some(next) = self.pending.classes.get(&id).and_then(first) {
                heads.insert((next, id));
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
        let why = match self.queue_reason(&key.queue, &key.requirements) {
            Some(why) => why,
            None => self.node_reason(&key.requirements),
        };
        let why = Arc::new(why);
        self.pending.set_reason(id, why.known());
        if let Some(class) = self.pending.classes.get_mut(&id) {
            class.why = Some((self.version, Arc::clone(&why)));
        }
        Some(why)
    }
}
