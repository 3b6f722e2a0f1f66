//! The search for changes that would start one job.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cluster::{Cluster, Usage};
use crate::decide::Placement;
use crate::explain::Explanation;
use crate::fit::Score;
use crate::forecast;
use crate::input::{
    Bytes, Exclusive, Gpu, GpuRequest, Job, Link, Millis, Node, NodeName, Requirements,
    TaintEffect, Toleration,
};
use crate::node_state::NodeState;
use crate::preempt::{self, Plan};
use crate::reserve::Views;

use super::{Change, Remedy};

/// Most different sets of labels, tags, directories or taints that are tried.
const MOST_SETS: usize = 16;

/// A job and the fleet that it asks.
pub(super) struct Ask<'a> {
    cluster: &'a Cluster,
    job: &'a Job,
    now: Millis,
    /// The members of its gang that have no node, or itself.
    unit: Vec<&'a Job>,
    /// Nodes that other members have.
    taken: BTreeSet<NodeName>,
}

impl<'a> Ask<'a> {
    pub(super) fn of(cluster: &'a Cluster, job: &'a Job, now: Millis) -> Self {
        Self {
            cluster,
            job,
            now,
            unit: cluster.unit(job),
            taken: cluster.nodes_of_the_gang(job),
        }
    }

    /// What helps, each kind of change at most once; nothing when nothing is needed, and for gangs that are not complete
    /// or whose members need different things.
    pub(super) fn remedies(&self) -> Vec<Remedy> {
        let needs = &self.job.requirements;
        let kept_back = self.cluster.kept_back(self.job, self.now);
        let incomplete = matches!(kept_back, Some(Explanation::GangIncomplete { .. }));
        let alike = self.unit.iter().all(|one| one.requirements == *needs);
        if incomplete || !alike || self.place(needs).is_some() {
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
        remedies.extend(self.displace());
        remedies.extend(self.wait());
        remedies
    }

    /// What the job, or all of its gang, asks its queue for.
    fn asked(&self, needs: &Requirements) -> Usage {
        let each = self.unit.iter().map(|_| Usage::asked(needs));
        each.fold(Usage::default(), Usage::plus)
    }

    /// Why its queue would keep it with these needs.
    fn queue_reason(&self, needs: &Requirements) -> Option<Explanation> {
        let asked = self.asked(needs);
        self.cluster.queue_reason(self.job, asked, self.now)
    }

    /// The best place for a job with these needs now.
    fn place(&self, needs: &Requirements) -> Option<Placement> {
        if self.queue_reason(needs).is_some() {
            return None;
        }
        self.place_for_the_queue(needs)
    }

    /// The same, whatever its queue says.
    fn place_for_the_queue(&self, needs: &Requirements) -> Option<Placement> {
        self.place_as(&Job {
            requirements: needs.clone(),
            ..self.job.clone()
        })
    }

    fn place_as(&self, job: &Job) -> Option<Placement> {
        let (cluster, mut views) = (self.cluster, Views::default());
        let needs = &job.requirements;
        let gang = job.gang.is_some();
        let mut fits: Vec<(Score, &NodeName)> = if needs.node_name.is_some() {
            let states = cluster.candidates(needs);
            let fit = |(name, state)| {
                let score = cluster.fit_beside(job, name, state, self.now, &mut views);
                Some((score.ok()?, name))
            };
            states.filter_map(fit).collect()
        } else {
            cluster.fitting_beside(job, gang, self.now, &mut views)
        };
        fits.retain(|(_, name)| !self.taken.contains(*name));
        if gang && fits.len() < self.unit.len() {
            return None;
        }
        let (_, name) = fits.into_iter().min()?;
        cluster.placement(job, name, self.now)
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

    /// The largest whole number of MiB that helps, below `from`: one of these amounts, which are what devices or nodes have free,
    /// or something between two of them where slots are kept for others.
    fn largest_memory(
        &self,
        free: impl Iterator<Item = Bytes>,
        from: Option<Bytes>,
        change: impl Fn(Bytes) -> Change,
    ) -> Option<Remedy> {
        let mib = |bytes: Bytes| bytes.0 / Bytes::MIB;
        let below = |mib: &u64| *mib > 0 && from.is_none_or(|from| mib * Bytes::MIB < from.0);
        let mut amounts: Vec<u64> = free.map(mib).filter(below).collect();
        amounts.sort_unstable();
        amounts.dedup();
        let tried = |mib: u64| self.tried(change(Bytes(mib * Bytes::MIB)));
        let count = amounts.partition_point(|mib| tried(*mib).is_some());
        let mut helps = count.checked_sub(1).map_or(0, |last| amounts[last]);
        if let Some(mut fails) = amounts.get(count).copied()
            && !self.cluster.holds.is_empty()
        {
            while fails - helps > 1 {
                let middle = helps.midpoint(fails);
                match tried(middle) {
                    Some(_) => helps = middle,
                    None => fails = middle,
                }
            }
        }
        (helps > 0).then(|| tried(helps)).flatten()
    }

    fn nodes(&self) -> impl Iterator<Item = &'a NodeState> {
        self.cluster.nodes.values()
    }

    fn less_vram(&self) -> Option<Remedy> {
        let from = match self.job.requirements.gpus {
            GpuRequest::None => return None,
            GpuRequest::Whole(_) => None,
            GpuRequest::Vram { bytes, .. } => Some(bytes),
        };
        let free = self.nodes().flat_map(|state| &state.gpus);
        self.largest_memory(free.map(|gpu| gpu.headroom.free), from, |to| Change::Vram {
            from,
            to,
        })
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
        self.largest_memory(free, Some(from), |to| Change::Memory { from, to })
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
                let lacking = needs.directories.iter().filter(lacks);
                let lacking: BTreeSet<_> = lacking.cloned().collect();
                // Which of them its agent did not find is not known.
                Change::Directories(if lacking.is_empty() {
                    needs.directories.clone()
                } else {
                    lacking
                })
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

    /// The least of a condition that must go: what the nodes lack of it that lack least, if the job has room there.
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
        let facts = |state: &'a NodeState| state.facts.as_ref();
        let mut less: Vec<Change> = Vec::new();
        for facts in self.nodes().filter_map(facts) {
            let change = lacks(facts);
            if less.len() < MOST_SETS && change.items() > 0 && !less.contains(&change) {
                less.push(change);
            }
        }
        less.sort_by_key(Change::items);
        let found = less
            .into_iter()
            .find(|change| self.tried(change.clone()).is_some());
        found.or_else(|| {
            let state = self.cluster.nodes.get(&placement.node)?;
            Some(lacks(state.facts.as_ref()?))
        })
    }

    /// What the queue would have to say, when only it keeps the job.
    fn another_queue_state(&self) -> Option<Remedy> {
        let (queue, needs) = (&self.job.queue, &self.job.requirements);
        self.queue_reason(needs)?;
        let from = self.cluster.queues.get(queue)?.state;
        let asked = self.asked(needs);
        let asked = asked.plus(self.cluster.quota_claimed_before(self.job, self.now));
        let to = self.cluster.queue_that_allows(queue, asked)?;
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
    fn displace(&self) -> Option<Remedy> {
        if self.queue_reason(&self.job.requirements).is_some() {
            return None;
        }
        let from = self.job.priority;
        if let Some(plans) = self.plans_at(from) {
            let remedy = remedy(Change::Displace, plans, 0);
            // Without victims it only waits for those that leave anyway.
            return remedy.filter(|remedy| !remedy.victims.is_empty());
        }
        if let Some(remedy) = self.before_holders() {
            return Some(remedy);
        }
        let plans = self.plans_at(i32::MAX)?;
        let highest = plans.iter().filter_map(|plan| plan.cost.priority).max()?;
        let to = highest.checked_add(1)?;
        let plans = self.plans_at(to)?;
        remedy(Change::Priority { from, to }, plans, self.overtakes(to))
    }

    /// How many waiting jobs it would go before with a higher priority.
    fn overtakes(&self, priority: i32) -> usize {
        let ahead = |job: &Job| self.cluster.line(job, self.now).ahead;
        ahead(self.job).saturating_sub(ahead(&at(self.job, priority)))
    }

    /// The least priority with which it may have what is kept for others, and nobody need be displaced.
    fn before_holders(&self) -> Option<Remedy> {
        let from = self.job.priority;
        let holders = self.cluster.holds.all();
        let waiting = holders.filter_map(|(uid, _)| self.cluster.waiting_job(uid));
        let enough = waiting.filter_map(|holder| holder.priority.checked_add(1));
        let enough: BTreeSet<i32> = enough.filter(|to| *to > from).collect();
        let enough: Vec<i32> = enough.into_iter().collect();
        let place = |to: i32| self.place_as(&at(self.job, to));
        let first = enough.partition_point(|to| place(*to).is_none());
        let to = *enough.get(first)?;
        Some(Remedy {
            change: Change::Priority { from, to },
            placement: Some(place(to)?),
            victims: Vec::new(),
            overtakes: self.overtakes(to),
        })
    }

    /// What the job, or its gang, may displace with a priority.
    fn plans_at(&self, priority: i32) -> Option<Vec<Plan>> {
        if self.job.gang.is_none() {
            let job = at(self.job, priority);
            let plan = preempt::plan_for(self.cluster, &job, self.now, None).ok()?;
            return Some(vec![plan]);
        }
        let members: Vec<Job> = self.unit.iter().map(|one| at(one, priority)).collect();
        let members: Vec<&Job> = members.iter().collect();
        preempt::plan_members(self.cluster, &members, self.now).ok()
    }

    fn wait(&self) -> Option<Remedy> {
        let gang = self.job.gang.is_some();
        if gang || self.queue_reason(&self.job.requirements).is_some() {
            return None;
        }
        let until = forecast::first_room(self.cluster, self.job, self.now);
        let change = match until {
            Some(until) => Change::Wait(until),
            None => Change::WaitFor(forecast::fewest_to_leave(self.cluster, self.job, self.now)?),
        };
        Some(Remedy {
            change,
            placement: None,
            victims: Vec::new(),
            overtakes: 0,
        })
    }
}

/// A remedy that displaces whom these plans displace.
fn remedy(change: Change, plans: Vec<Plan>, overtakes: usize) -> Option<Remedy> {
    let placement = plans.first()?.placement.clone();
    let victims = plans.into_iter().flat_map(|plan| plan.victims);
    Some(Remedy {
        change,
        placement: Some(placement),
        victims: victims.collect(),
        overtakes,
    })
}

/// The job with another priority.
fn at(job: &Job, priority: i32) -> Job {
    Job {
        priority,
        ..job.clone()
    }
}
