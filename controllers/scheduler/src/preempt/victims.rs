//! Whom a job may displace, and what that would cost.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, Usage};
use crate::input::{BoundJob, Job, Millis, NodeName, QueueName, Quota};
use crate::node_state::NodeState;

use super::{Cost, Right, Victim};

/// A job that may be displaced, with what it costs.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) job: &'a BoundJob,
    pub(super) right: Right,
    /// GPU-milliseconds lost.
    pub(super) lost: u64,
    /// Core-milliseconds lost.
    pub(super) core_lost: u64,
}

impl Candidate<'_> {
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
}

/// What a job may do to others.
pub(super) struct Rights<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) job: &'a Job,
    now: Millis,
    /// True when its queue stays within its own quota with it, so that it may take back what others borrowed.
    pub(super) reclaims: bool,
}

impl<'a> Rights<'a> {
    pub(super) fn of(cluster: &'a Cluster, job: &'a Job, now: Millis) -> Self {
        let queue = cluster.queues.get(&job.queue);
        let reclaims = queue.is_some_and(|queue| {
            let asked = Usage::asked(&job.requirements);
            let quota = &queue.state.quota;
            owns(quota, asked) && !exceeds(queue.used.plus(asked), quota)
        });
        Self {
            reclaims,
            ..Self::by_priority(cluster, job, now)
        }
    }

    /// The rights of a job that takes nothing back from borrowers.
    pub(super) fn by_priority(cluster: &'a Cluster, job: &'a Job, now: Millis) -> Self {
        Self {
            cluster,
            job,
            now,
            reclaims: false,
        }
    }

    /// May this one be displaced?
    pub(super) fn candidate(&self, bound: &'a BoundJob) -> Option<Candidate<'a>> {
        // A binding that is not confirmed cannot be stopped yet, and what is being stopped is not stopped twice.
        if bound.attempt == 0
            || bound.stopping.is_some()
            || self.job.ancestors.contains(&bound.uid)
            || self.is_young(bound)
        {
            return None;
        }
        let settings = &self.cluster.settings;
        let lower = settings.stays_before(self.job, bound.priority, bound.enqueued_micros);
        let right = if bound.terms.preemptible && lower {
            Right::Priority
        } else if self.reclaims && bound.queue != self.job.queue && self.borrows(&bound.queue) {
            Right::Borrowed
        } else {
            return None;
        };
        let (mut lost, mut core_lost) = self.loss(bound);
        for peer in self.peers(bound) {
            let (gpus, cores) = self.loss(peer);
            lost = lost.saturating_add(gpus);
            core_lost = core_lost.saturating_add(cores);
        }
        Some(Candidate {
            job: bound,
            right,
            lost,
            core_lost,
        })
    }

    /// GPU-milliseconds and core-milliseconds since the last checkpoint, or since the start.
    fn loss(&self, bound: &BoundJob) -> (u64, u64) {
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
        if self.reclaims || kept {
            // Borrowers and what is kept for others are not in the figures.
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
        queue.is_some_and(|queue| exceeds(queue.used, &queue.state.quota))
    }

    /// Do borrowers lose no more than they borrowed? The last job taken back from a queue may be larger than the rest of
    /// what it borrowed, and no other is taken after it.
    pub(super) fn keeps_what_is_owned<'v>(
        &self,
        taken: impl Iterator<Item = &'v Candidate<'v>>,
    ) -> bool {
        if !self.reclaims {
            return true;
        }
        let mut by_queue: BTreeMap<&QueueName, (Usage, Vec<Usage>)> = BTreeMap::new();
        for candidate in taken {
            let usage = Usage::of(candidate.job);
            let (sum, borrowed) = by_queue.entry(&candidate.job.queue).or_default();
            *sum = sum.plus(usage);
            if candidate.right == Right::Borrowed {
                borrowed.push(usage);
            }
        }
        by_queue.into_iter().all(|(name, (sum, borrowed))| {
            let Some(queue) = self.cluster.queues.get(name) else {
                return true;
            };
            borrowed.is_empty()
                || borrowed.into_iter().any(|last| {
                    let before_last = queue.used.minus(sum.minus(last));
                    exceeds(before_last, &queue.state.quota)
                })
        })
    }
}

/// Does the quota give the queue something of what is asked for?
fn owns(quota: &Quota, asked: Usage) -> bool {
    (asked.gpus > 0 && (quota.gpus.is_some() || quota.vram.is_some()))
        || (asked.cpu.0 > 0 && quota.cpu.is_some())
}

/// Is that more than the quota in anything?
pub(super) fn exceeds(used: Usage, quota: &Quota) -> bool {
    quota.jobs.is_some_and(|most| used.jobs > most)
        || quota.gpus.is_some_and(|most| used.gpus > most)
        || quota.vram.is_some_and(|most| used.vram > most)
        || quota.cpu.is_some_and(|most| used.cpu > most)
}
