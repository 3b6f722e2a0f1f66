//! Whom a job may displace, and what that would cost.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Cluster, Usage};
use crate::input::{BoundJob, Job, Millis, NodeName, QueueName};
use crate::node_state::NodeState;

use super::{Cost, Right, Victim};

/// A job that may be displaced, with what it costs. A member of a gang takes the others with it, wherever they are.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) job: &'a BoundJob,
    pub(super) right: Right,
    /// GPU-milliseconds lost.
    pub(super) lost: u64,
    /// Core-milliseconds lost.
    pub(super) core_lost: u64,
    /// What is held by all who go with it, and by itself.
    usage: Usage,
    peers: Vec<&'a BoundJob>,
}

impl<'a> Candidate<'a> {
    pub(super) fn victim(&self) -> Victim {
        Victim {
            job: self.job.uid.clone(),
            queue: self.job.queue.clone(),
            priority: self.job.priority,
            lost: self.lost,
            right: self.right,
        }
    }

    /// What it costs to take this one as well.
    pub(super) fn on_top_of(&self, cost: Cost) -> Cost {
        Cost {
            priority: cost.priority.max(Some(self.job.priority)),
            lost: cost.lost.saturating_add(self.lost),
            victims: cost.victims + 1,
            core_lost: cost.core_lost.saturating_add(self.core_lost),
        }
    }

    /// All who go when it is displaced: itself first.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a BoundJob> {
        std::iter::once(self.job).chain(self.peers.iter().copied())
    }

    /// What it falls as: its gang, or itself. Two of the same fall together and cost once.
    pub(super) fn unit(&self) -> (bool, &'a str) {
        match &self.job.gang {
            Some(gang) => (true, gang),
            None => (false, self.job.uid.as_str()),
        }
    }
}

/// What a job may do to others.
pub(super) struct Rights<'a> {
    pub(super) cluster: &'a Cluster,
    /// The job that looks for room.
    pub(super) job: &'a Job,
    /// All that are placed together with it: the members of its gang that have no node, or it alone. Who is displaced for one
    /// of them must be one whom each of them may displace.
    together: Vec<&'a Job>,
    now: Millis,
    /// True when its queue stays within its own quota with all of them, so that they may take back what others borrowed.
    pub(super) reclaims: bool,
    /// Who is displaced already for others of them.
    taken: Vec<Candidate<'a>>,
}

impl<'a> Rights<'a> {
    /// The rights of a job that is placed with these, among which it is.
    pub(super) fn of(
        cluster: &'a Cluster,
        job: &'a Job,
        together: Vec<&'a Job>,
        now: Millis,
    ) -> Self {
        let asked = together.iter().map(|one| Usage::asked(&one.requirements));
        let asked = asked.fold(Usage::default(), Usage::plus);
        let queue = cluster.queues.get(&job.queue);
        let reclaims = queue.is_some_and(|queue| {
            let quota = &queue.state.quota;
            quota.gives(asked) && !quota.is_exceeded_by(queue.used.plus(asked))
        });
        Self {
            cluster,
            job,
            together,
            now,
            reclaims,
            taken: Vec::new(),
        }
    }

    /// The same for another of those that are placed together.
    pub(super) fn pass_to(&mut self, job: &'a Job) {
        self.job = job;
    }

    /// These jobs of a node are displaced for the present job; for the others they are gone, with all who go with them.
    pub(super) fn take(&mut self, name: &NodeName, victims: &[Victim]) {
        for victim in victims {
            let state = self.cluster.nodes.get(name);
            let bound = state.and_then(|state| state.jobs.get(&victim.job));
            let taken = bound.and_then(|bound| self.candidate(bound));
            self.taken.extend(taken);
        }
    }

    /// Who is displaced for any of them.
    pub(super) fn into_taken(self) -> Vec<Candidate<'a>> {
        self.taken
    }

    /// Who goes anyway and holds slots on a node.
    pub(super) fn gone_on(&self, name: &NodeName) -> impl Iterator<Item = &'a BoundJob> {
        let gone = self.taken.iter().flat_map(Candidate::all);
        gone.filter(move |bound| bound.node == *name)
    }

    /// Nodes that somebody leaves anyway.
    pub(super) fn nodes_left(&self) -> BTreeSet<&'a NodeName> {
        let gone = self.taken.iter().flat_map(Candidate::all);
        gone.map(|bound| &bound.node).collect()
    }

    /// May this one be displaced? A member of a gang may if none of the others stands against it.
    pub(super) fn candidate(&self, bound: &'a BoundJob) -> Option<Candidate<'a>> {
        // A binding that is not confirmed cannot be stopped yet, and what is being stopped is not stopped twice.
        if bound.attempt == 0 || bound.stopping.is_some() || self.spares(bound) {
            return None;
        }
        let peers: Vec<&BoundJob> = self.peers(bound).collect();
        if peers.iter().any(|peer| self.spares(peer)) {
            return None;
        }
        let outranked = |bound: &BoundJob| bound.terms.preemptible && self.outranks(bound);
        let right = if outranked(bound) && peers.iter().all(|peer| outranked(peer)) {
            Right::Priority
        } else if self.reclaims && bound.queue != self.job.queue && self.borrows(&bound.queue) {
            Right::Borrowed
        } else {
            return None;
        };
        let (mut lost, mut core_lost) = self.loss(bound);
        let mut usage = Usage::of(bound);
        for peer in &peers {
            let (gpus, cores) = self.loss(peer);
            lost = lost.saturating_add(gpus);
            core_lost = core_lost.saturating_add(cores);
            usage = usage.plus(Usage::of(peer));
        }
        Some(Candidate {
            job: bound,
            right,
            lost,
            core_lost,
            usage,
            peers,
        })
    }

    /// Is it something that they depend on, or too young to go?
    fn spares(&self, bound: &BoundJob) -> bool {
        let mut together = self.together.iter();
        together.any(|job| job.ancestors.contains(&bound.uid)) || self.is_young(bound)
    }

    /// Do all of them come before it by declared priority, and stay there?
    fn outranks(&self, bound: &BoundJob) -> bool {
        let settings = &self.cluster.settings;
        let mut together = self.together.iter();
        together.all(|job| settings.stays_before(job, bound.priority, bound.enqueued_micros))
    }

    /// GPU-milliseconds and core-milliseconds since the last checkpoint, or since the start.
    pub(super) fn loss(&self, bound: &BoundJob) -> (u64, u64) {
        let since = bound.started.max(bound.checkpointed);
        let span = since.map_or(0, |since| self.now.since(since).0.unsigned_abs());
        (
            span.saturating_mul(bound.gpus.len() as u64),
            span.saturating_mul(bound.cpu.0) / 1000,
        )
    }

    /// The other members of its gang: they are stopped with it.
    fn peers(&self, bound: &BoundJob) -> impl Iterator<Item = &'a BoundJob> {
        let gang = bound.gang.as_ref();
        let members = gang.and_then(|gang| self.cluster.gangs.members(gang));
        let placed = members.into_iter().flat_map(|members| &members.placed);
        let others = placed.filter(|(uid, _)| **uid != bound.uid);
        others.filter_map(|(uid, node)| self.cluster.nodes.get(node)?.jobs.get(uid))
    }

    /// What a plan on a node costs at least; `None` when there can be none.
    pub(super) fn bound(&self, name: &NodeName, state: &NodeState) -> Option<Cost> {
        let kept = self.cluster.holds.on(name).next().is_some();
        if self.reclaims || kept || self.gone_on(name).next().is_some() {
            // Borrowers, what is kept for others, and who is gone are not in the figures.
            return Some(Cost::default());
        }
        let job = self.job;
        state
            .stakes()
            .bound(&job.requirements, job.priority, self.now)
    }

    /// Has it run less than its queue promises?
    fn is_young(&self, bound: &BoundJob) -> bool {
        let promised = self.cluster.queues.get(&bound.queue);
        let promised = promised.map_or(0, |queue| queue.state.min_runtime.0);
        let ran = bound.started.map_or(0, |start| self.now.since(start).0);
        ran < promised
    }

    fn borrows(&self, name: &QueueName) -> bool {
        let queue = self.cluster.queues.get(name);
        queue.is_some_and(|queue| queue.state.quota.is_exceeded_by(queue.used))
    }

    /// Do borrowers lose no more than they borrowed, with these and with those who are taken already? The last that is taken
    /// back from a queue, a job or a whole gang, may be larger than the rest of what it borrowed, and no other is taken
    /// after it.
    pub(super) fn keeps_what_is_owned<'v>(
        &'v self,
        more: impl Iterator<Item = &'v Candidate<'v>>,
    ) -> bool {
        if !self.reclaims {
            return true;
        }
        let mut fallen = BTreeSet::new();
        let mut by_queue: BTreeMap<&QueueName, (Usage, Vec<Usage>)> = BTreeMap::new();
        for candidate in self.taken.iter().chain(more) {
            if !fallen.insert(candidate.unit()) {
                continue;
            }
            let (sum, borrowed) = by_queue.entry(&candidate.job.queue).or_default();
            *sum = sum.plus(candidate.usage);
            if candidate.right == Right::Borrowed {
                borrowed.push(candidate.usage);
            }
        }
        by_queue.into_iter().all(|(name, (sum, borrowed))| {
            let Some(queue) = self.cluster.queues.get(name) else {
                return true;
            };
            borrowed.is_empty()
                || borrowed.into_iter().any(|last| {
                    let before_last = queue.used.minus(sum.minus(last));
                    queue.state.quota.is_exceeded_by(before_last)
                })
        })
    }
}
