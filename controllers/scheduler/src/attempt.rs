//! One try to place the first job of a class: which node, which GPUs, or why not.
//!
//! A class that did not fit is tried again only on nodes where something was freed since.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decide::Placement;
use crate::explain::Explanation;
use crate::fit::{self, Score};
use crate::input::{Exclusive, Gpu, GpuRequest, Job, Millis, NodeName};
use crate::node_state::NodeState;
use crate::pending::{Blocked, ClassId, Known};
use crate::ranking::Pass;
use crate::reason::Misfit;
use crate::reserve::Views;
use crate::vram;

/// What became of a try.
pub(crate) enum Tried {
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
        nodes: impl Iterator<Item = (&'a NodeName, &'a NodeState)>,
        known: Option<&Known>,
        mut fit: impl FnMut(&NodeName, &NodeState) -> Result<Score, Misfit>,
    ) -> Self {
        let (mut fits, mut news) = (Vec::new(), false);
        for (name, state) in nodes {
            match fit(name, state) {
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
    /// Looks for a node for the first job of a class.
    pub(crate) fn try_class(
        &mut self,
        id: ClassId,
        pass: &mut Pass,
        views: &mut Views,
        now: Millis,
    ) -> Tried {
        let Some(class) = self.pending.classes.get(&id) else {
            return Tried::Waits;
        };
        // Its first job stands for the class.
        let first = class.jobs.first().map(|order| &order.uid);
        let Some(job) = first.and_then(|uid| self.waiting_job(uid)) else {
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
            self.note_progress(id);
            self.pending.block(id, blocked);
            self.pending.set_reason(id, why.known());
            return Tried::Waits;
        }
        let needs = &key.requirements;
        let before = class.blocked.filter(|blocked| !blocked.by_queue);
        let mut fit =
            |name: &NodeName, state: &NodeState| self.fit_beside(job, name, state, now, views);
        let (best, news) = if pass.knows(id) {
            let best = pass.best(id, &self.nodes, &mut fit);
            // What was known of the other nodes is as true as before, since nothing was freed.
            (
                best,
                before.is_none_or(|before| before.shape != self.shape) || class.reason.is_none(),
            )
        } else {
            let known = class.reason.as_ref().filter(|_| before.is_some());
            let found = match before {
                None if needs.node_name.is_some() => {
                    Found::among(self.candidates(needs), known, &mut fit)
                }
                None => Found {
                    fits: self.fitting_beside(job, class.jobs.len() > 1, now, views),
                    news: true,
                },
                Some(before) => {
                    let freed = self.freed.range(before.at + 1..).map(|(_, name)| name);
                    let pin = needs.node_name.as_ref();
                    let asked = freed.filter(|name| pin.is_none_or(|pin| pin == *name));
                    let states = asked.filter_map(|name| self.nodes.get_key_value(name));
                    Found::among(states, known, &mut fit)
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
            // Jobs that know no reason yet are told one later, when all is placed.
            if class.reason.is_some() {
                let why = self.node_reason(job, now);
                self.pending.set_reason(id, why.known());
            }
        }
        self.pending.block(id, blocked);
        self.note_waiting(id, now);
        Tried::Waits
    }

    /// Where a job goes on a node that it fits.
    pub(crate) fn placement(&self, job: &Job, name: &NodeName, now: Millis) -> Option<Placement> {
        match self.seen_by(job, name, now) {
            Some(seen) => placement_on(job, name, &seen),
            None => placement_on(job, name, self.nodes.get(name)?),
        }
    }
}

/// Where a job goes on a node in a state that it fits.
pub(crate) fn placement_on(job: &Job, name: &NodeName, state: &NodeState) -> Option<Placement> {
    let facts = state.facts.as_ref()?;
    let chosen = fit::choose_gpus(&job.requirements, state);
    let gpus: Vec<_> = chosen.iter().map(|at| &facts.gpus[*at]).collect();
    Some(placement_with(job, name, &gpus))
}

/// What a job is charged on these GPUs of a node.
pub(crate) fn placement_with(job: &Job, name: &NodeName, gpus: &[&Gpu]) -> Placement {
    let needs = &job.requirements;
    let capacities = gpus.iter().map(|gpu| vram::capacity(gpu));
    let declared = match needs.gpus {
        // Who names the class of a card asks for more than it can have.
        GpuRequest::Vram { bytes, .. } => Some(capacities.min().unwrap_or(bytes).min(bytes)),
        GpuRequest::None | GpuRequest::Whole(_) => None,
    };
    Placement {
        job: job.uid.clone(),
        node: name.clone(),
        whole_gpus: fit::takes_whole_gpus(needs, gpus),
        gpus: gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        vram: declared,
        whole_node: needs.exclusive == Exclusive::Node,
        cpu: needs.cpu,
        memory: needs.memory,
    }
}
