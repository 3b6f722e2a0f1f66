//! The search for changes that would start one job.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decide::Placement;
use crate::forecast;
use crate::input::{
    Bytes, Exclusive, Gpu, GpuRequest, Job, Link, Millis, Node, Requirements, TaintEffect,
    Toleration,
};
use crate::node_state::NodeState;
use crate::preempt;
use crate::reserve::Views;

use super::{Change, Remedy};

/// A job and the fleet that it asks.
pub(super) struct Ask<'a> {
    cluster: &'a Cluster,
    job: &'a Job,
}

impl<'a> Ask<'a> {
    pub(super) fn of(cluster: &'a Cluster, job: &'a Job) -> Self {
        Self { cluster, job }
    }

    /// What helps, each kind of change at most once; nothing when nothing is needed.
    pub(super) fn remedies(&self, now: Millis) -> Vec<Remedy> {
        if self.place(&self.job.requirements).is_some() {
            return Vec::new();
        }
        let single = [
            self.less_vram(),
            self.fewer_gpus(),
            self.less_cpu(),
            self.less_memory(),
            self.another_model(),
            self.smaller_cards(),
            self.older_cards(),
        ];
        let mut remedies: Vec<Remedy> = single.into_iter().flatten().collect();
        remedies.extend(self.fewer_conditions());
        remedies.extend(self.another_queue_state());
        remedies.extend(self.displace(now));
        remedies.extend(self.wait(now));
        remedies
    }

    /// The best place for a job with these needs now.
    fn place(&self, needs: &Requirements) -> Option<Placement> {
        if self.cluster.queue_reason(&self.job.queue, needs).is_some() {
            return None;
        }
        self.place_for_the_queue(needs)
    }

    /// The same, whatever its queue says.
    fn place_for_the_queue(&self, needs: &Requirements) -> Option<Placement> {
        let (cluster, mut views) = (self.cluster, Views::default());
        let job = Job {
            requirements: needs.clone(),
            ..self.job.clone()
        };
        let fits = cluster.candidates(needs).filter_map(|(name, state)| {
            let score = cluster.fit_beside(&job, name, state, cluster.now, &mut views);
            Some((score.ok()?, name))
        });
        let (_, name) = fits.min()?;
        cluster.placement(&job, name, cluster.now)
    }

    /// A change of the job, if it helps.
    fn tried(&self, change: Change) -> Option<Remedy> {
        let changed = change.applied(self.job)?;
        let placement = self.place(&changed.requirements)?;
        Some(Remedy {
            change,
            placement: Some(placement),
            victims: Vec::new(),
            overtakes: 0,
        })
    }

    /// The largest of these amounts that helps. What helps, less of it helps as well.
    fn largest<T: Copy + Ord>(
        &self,
        mut amounts: Vec<T>,
        change: impl Fn(T) -> Change,
    ) -> Option<Remedy> {
        amounts.sort_unstable();
        amounts.dedup();
        let helps = |amount: &T| self.tried(change(*amount)).is_some();
        let count = amounts.partition_point(helps);
        self.tried(change(*amounts.get(count.checked_sub(1)?)?))
    }

    fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.cluster.nodes.values()
    }

    fn less_vram(&self) -> Option<Remedy> {
        let from = match self.job.requirements.gpus {
            GpuRequest::None => return None,
            GpuRequest::Whole(_) => None,
            GpuRequest::Vram { bytes, .. } => Some(bytes),
        };
        let free = self.nodes().flat_map(|state| &state.gpus);
        let amounts = free
            .map(|gpu| Bytes(gpu.headroom.free.0 / Bytes::MIB * Bytes::MIB))
            .filter(|free| free.0 > 0 && from.is_none_or(|from| *free < from));
        self.largest(amounts.collect(), |to| Change::Vram { from, to })
    }

    fn fewer_gpus(&self) -> Option<Remedy> {
        let from = self.job.requirements.gpus.count();
        self.largest((1..from).collect(), |to| Change::Gpus { from, to })
    }

    fn less_cpu(&self) -> Option<Remedy> {
        let from = self.job.requirements.cpu;
        let free = self
            .nodes()
            .filter_map(|state| Some(state.cpu_free(state.facts.as_ref()?)));
        let amounts = free.filter(|free| free.0 > 0 && *free < from).collect();
        self.largest(amounts, |to| Change::Cpu { from, to })
    }

    fn less_memory(&self) -> Option<Remedy> {
        let from = self.job.requirements.memory;
        let free = self
            .nodes()
            .filter_map(|state| Some(state.memory_free(state.facts.as_ref()?)));
        let amounts = free
            .map(|free| Bytes(free.0 / Bytes::MIB * Bytes::MIB))
            .filter(|free| free.0 > 0 && *free < from);
        self.largest(amounts.collect(), |to| Change::Memory { from, to })
    }

    /// What a job without some need would get: the GPUs of its place.
    fn gpus_without(&self, drop: impl Fn(&mut Requirements)) -> Vec<&Gpu> {
        let mut needs = self.job.requirements.clone();
        drop(&mut needs);
        let Some(placement) = self.place(&needs) else {
            return Vec::new();
        };
        let state = self.cluster.nodes.get(&placement.node);
        let gpus = state.and_then(|state| state.facts.as_ref());
        gpus.into_iter()
            .flat_map(|facts| &facts.gpus)
            .filter(|gpu| placement.gpus.contains(&gpu.uuid))
            .collect()
    }

    fn another_model(&self) -> Option<Remedy> {
        let from = self.job.requirements.gpu_model.clone()?;
        let gpus = self.gpus_without(|needs| needs.gpu_model = None);
        let to = gpus.first()?.model.clone();
        self.tried(Change::Model { from, to })
    }

    fn smaller_cards(&self) -> Option<Remedy> {
        let from = self.job.requirements.gpu_min_memory?;
        let gpus = self.nodes().filter_map(|state| state.facts.as_ref());
        let sizes = gpus.flat_map(|facts| &facts.gpus).map(|gpu| gpu.memory);
        self.largest(sizes.filter(|size| *size < from).collect(), |to| {
            Change::CardMemory { from, to }
        })
    }

    fn older_cards(&self) -> Option<Remedy> {
        let from = self.job.requirements.gpu_min_capability?;
        let gpus = self.nodes().filter_map(|state| state.facts.as_ref());
        let known = gpus
            .flat_map(|facts| &facts.gpus)
            .filter_map(|gpu| gpu.capability);
        self.largest(known.filter(|has| *has < from).collect(), |to| {
            Change::Capability { from, to }
        })
    }

    /// Conditions that may be dropped whole: how the GPUs are joined, exclusiveness, the pin, labels, tags, taints.
    fn fewer_conditions(&self) -> Vec<Remedy> {
        let needs = &self.job.requirements;
        let mut changes = Vec::new();
        if needs.interconnect != Link::Any {
            changes.push(Change::Interconnect {
                from: needs.interconnect,
            });
        }
        if needs.exclusive != Exclusive::Shared {
            changes.push(Change::Share);
        }
        changes.extend(needs.node_name.clone().map(|from| Change::Pin { from }));
        changes.extend(self.missing(
            |needs| needs.node_selector.clear(),
            |facts| {
                let lacks =
                    |(key, value): &(&Arc<str>, &Arc<str>)| facts.labels.get(*key) != Some(*value);
                let lacking = needs.node_selector.iter().filter(lacks);
                Change::Labels(lacking.map(|(key, _)| key.clone()).collect())
            },
        ));
        changes.extend(self.missing(
            |needs| needs.needs.clear(),
            |facts| Change::Needs(needs.needs.difference(&facts.offers).cloned().collect()),
        ));
        changes.extend(self.missing(
            |needs| needs.directories.clear(),
            |facts| {
                let lacks = |path: &&Arc<str>| facts.offers_directory(path) == Some(false);
                Change::Directories(needs.directories.iter().filter(lacks).cloned().collect())
            },
        ));
        let anything = Toleration {
            key: None,
            value: None,
            effect: None,
        };
        changes.extend(self.missing(
            |needs| needs.tolerations.push(anything.clone()),
            |facts| {
                let hard = facts
                    .taints
                    .iter()
                    .filter(|taint| taint.effect != TaintEffect::PreferNoSchedule);
                let open = hard.filter(|taint| {
                    let covers = |toleration: &Toleration| toleration.covers(taint);
                    !needs.tolerations.iter().any(covers)
                });
                Change::Tolerate(open.map(|taint| taint.key.clone()).collect())
            },
        ));
        changes
            .into_iter()
            .filter_map(|change| self.tried(change))
            .collect()
    }

    /// Where the job would go without a condition, and what that place does not have of it.
    fn missing(
        &self,
        drop: impl Fn(&mut Requirements),
        lacks: impl Fn(&Node) -> Change,
    ) -> Option<Change> {
        let mut needs = self.job.requirements.clone();
        drop(&mut needs);
        if needs == self.job.requirements {
            return None;
        }
        let placement = self.place(&needs)?;
        let state = self.cluster.nodes.get(&placement.node)?;
        Some(lacks(state.facts.as_ref()?))
    }

    /// What the queue would have to say, when only it keeps the job.
    fn another_queue_state(&self) -> Option<Remedy> {
        let (queue, needs) = (&self.job.queue, &self.job.requirements);
        self.cluster.queue_reason(queue, needs)?;
        let from = self.cluster.queues.get(queue)?.state;
        let to = self.cluster.queue_that_allows(queue, needs)?;
        let placement = self.place_for_the_queue(needs)?;
        Some(Remedy {
            change: Change::Queue {
                queue: queue.clone(),
                from: Box::new(from),
                to: Box::new(to),
            },
            placement: Some(placement),
            victims: Vec::new(),
            overtakes: 0,
        })
    }

    /// Displacing others: as it is, or with the least priority that would be enough.
    fn displace(&self, now: Millis) -> Option<Remedy> {
        let plan_at = |priority: i32| {
            let job = Job {
                priority,
                ..self.job.clone()
            };
            preempt::plan_for(self.cluster, &job, now, None).ok()
        };
        let from = self.job.priority;
        if let Some(plan) = plan_at(from) {
            // Without victims it only waits for those that leave anyway.
            return (!plan.victims.is_empty()).then_some(Remedy {
                change: Change::Displace,
                placement: Some(plan.placement),
                victims: plan.victims,
                overtakes: 0,
            });
        }
        let to = plan_at(i32::MAX)?.cost.priority?.checked_add(1)?;
        let plan = plan_at(to)?;
        let higher = Job {
            priority: to,
            ..self.job.clone()
        };
        let ahead = |job: &Job| self.cluster.line(job, now).ahead;
        Some(Remedy {
            change: Change::Priority { from, to },
            placement: Some(plan.placement),
            victims: plan.victims,
            overtakes: ahead(self.job).saturating_sub(ahead(&higher)),
        })
    }

    fn wait(&self, now: Millis) -> Option<Remedy> {
        let (queue, needs) = (&self.job.queue, &self.job.requirements);
        if self.cluster.queue_reason(queue, needs).is_some() {
            return None;
        }
        let until = forecast::first_room(self.cluster, self.job, now)?;
        Some(Remedy {
            change: Change::Wait(until),
            placement: None,
            victims: Vec::new(),
            overtakes: 0,
        })
    }
}
