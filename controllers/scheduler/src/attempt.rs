//! One try to place the first job of a class: which node, which GPUs, or why not.
//!
//! A class that did not fit is tried again only on nodes where something was freed since.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decide::Placement;
use crate::explain::Explanation;
use crate::fit::{self, Score};
use crate::input::{Exclusive, Gpu, GpuRequest, Job, JobUid, Millis, NodeName};
use crate::node_state::NodeState;
use crate::pending::{Blocked, Class, ClassId};
use crate::ranking::Pass;
use crate::reserve::Views;
use crate::vram;

/// What became of a try.
pub(crate) enum Tried {
    Fits(NodeName),
    /// A gang, with a node for each member that has none.
    Together(Vec<(JobUid, NodeName)>),
    /// No node could ever run these: the job, or all of its gang.
    Never(Vec<JobUid>, Arc<Explanation>),
    Waits,
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
        let (key, possible) = (class.key.clone(), class.possible);
        let first = class.jobs.first();
        let Some(job) = first.and_then(|place| self.waiting_job(&place.uid)) else {
            return Tried::Waits;
        };
        let by_queue = self.kept_back(job, now);
        if key.gang.is_some() {
            if by_queue.is_none()
                && let Ok(places) = self.gang_places(job, now, views)
            {
                return Tried::Together(places);
            }
        } else if by_queue.is_none()
            && let Some(node) = self.best_node(id, class, pass, views, now)
        {
            return Tried::Fits(node);
        }
        if self.settled && possible != Some(self.shape) {
            if let Some(why) = self.never_job(job) {
                let all = self.unit(job).into_iter().map(|job| job.uid.clone());
                return Tried::Never(all.collect(), Arc::new(why));
            }
            // What a gang needs is known only once all its members are.
            if self.is_complete(job) {
                self.pending.set_possible(id, self.shape);
            }
        }
        // A job that nodes keep waiting and that knows no reason yet is told it when all is placed.
        if let Some(why) = by_queue {
            self.kept_by_queue(id, &why);
            self.pending.set_reason(id, why.known());
        } else {
            self.pending.block(id, Blocked::ByNodes, self.epoch);
            self.note_waiting(id, now);
        }
        Tried::Waits
    }

    /// The best node for the first job of a class, of those that the class may fit on since it was tried last.
    fn best_node(
        &self,
        id: ClassId,
        class: &Class,
        pass: &mut Pass,
        views: &mut Views,
        now: Millis,
    ) -> Option<NodeName> {
        let needs = &class.key.requirements;
        let job = self.waiting_job(&class.jobs.first()?.uid)?;
        let freed = match class.blocked {
            Some(Blocked::ByNodes) => self.fleet.names(&pass.freed),
            Some(Blocked::ByQueue) | None => None,
        };
        let many = class.jobs.len() > 1;
        let whole_fleet = freed.is_none() && needs.node_name.is_none();
        if !pass.knows(id) && whole_fleet {
            let fits = self.fitting_beside(job, many, now, views);
            return best_of(id, &fits, many, pass);
        }
        let mut fit =
            |name: &NodeName, state: &NodeState| self.fit_beside(job, name, state, now, views);
        if pass.knows(id) {
            return pass.best(id, &self.nodes, fit);
        }
        let mut fit = |(name, state)| Some((fit(name, state).ok()?, name));
        let fits: Vec<(Score, &NodeName)> = match freed {
            Some(names) => {
                let states = names
                    .into_iter()
                    .filter_map(|name| self.nodes.get_key_value(name));
                states.filter_map(&mut fit).collect()
            }
            None => self.candidates(needs).filter_map(&mut fit).collect(),
        };
        best_of(id, &fits, many, pass)
    }

    /// Where a job goes on a node that it fits.
    pub(crate) fn placement(&self, job: &Job, name: &NodeName, now: Millis) -> Option<Placement> {
        match self.seen_by(job, name, now) {
            Some(seen) => placement_on(job, name, &seen),
            None => placement_on(job, name, self.nodes.get(name)?),
        }
    }
}

/// The best of these; all are remembered for a class of many jobs.
fn best_of(
    id: ClassId,
    fits: &[(Score, &NodeName)],
    many: bool,
    pass: &mut Pass,
) -> Option<NodeName> {
    let best = fits.iter().min().map(|(_, name)| (*name).clone());
    if best.is_some() && many {
        pass.remember(id, fits);
    }
    best
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
