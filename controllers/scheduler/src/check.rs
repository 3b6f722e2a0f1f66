//! Invariants of the state: what every index must agree on, and that nothing is promised twice.
//!
//! Run after every step by the tests, and for the node of every binding in debug builds, as are the plans of all nominations.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, Entry, Usage};
use crate::input::{GpuUuid, JobUid, NodeName, QueueName};
use crate::order::Place;
use crate::pending::ClassKey;
use crate::vram;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A GPU is promised beyond its capacity.
    #[error("gpu `{gpu}` of node `{node}` is promised {promised} of {capacity} bytes")]
    GpuOverPromised {
        /// The node.
        node: NodeName,
        /// The GPU.
        gpu: GpuUuid,
        /// Bytes promised.
        promised: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// A GPU that is one job's alone is promised to another.
    #[error("gpu `{gpu}` of node `{node}` is one job's alone and has {jobs} jobs")]
    GpuShared {
        /// The node.
        node: NodeName,
        /// The GPU.
        gpu: GpuUuid,
        /// Jobs on it.
        jobs: usize,
    },
    /// CPU, host memory or the number of jobs of a node is beyond its capacity.
    #[error("{what} of node `{node}` is promised {promised} of {capacity}")]
    NodeOverPromised {
        /// The node.
        node: NodeName,
        /// What.
        what: &'static str,
        /// How much is promised.
        promised: u64,
        /// How much there is.
        capacity: u64,
    },
    /// The figures kept for a node are not what its jobs add up to.
    #[error("the figures of node `{0}` are stale")]
    StaleNode(NodeName),
    /// The figures kept for a queue are not what its jobs add up to.
    #[error("the figures of queue `{0}` are stale")]
    StaleQueue(QueueName),
    /// The figures kept for all nodes side by side are not those of the nodes.
    #[error("the figures of the fleet are stale")]
    StaleFleet,
    /// The lists of waiting jobs are not those of their classes.
    #[error("the lists of waiting jobs are stale")]
    StaleLists,
    /// The figures kept for all queues together are not what the queues add up to.
    #[error("the figures of all queues together are stale")]
    StaleCohort,
    /// Something is kept for a job that does not wait, or it is listed on the wrong nodes.
    #[error("what is kept for job `{0}` is stale")]
    StaleHold(JobUid),
    /// The members that are known of gangs are not those that the jobs say.
    #[error("the members of gangs are stale")]
    StaleGangs,
    /// Room is to be made for a job, or for its gang, in a way that the rules do not allow.
    #[error("the plan for job `{job}` is wrong: {what}")]
    WrongPlan {
        /// The job, or the first of its gang.
        job: JobUid,
        /// What is wrong.
        what: &'static str,
    },
    /// A job is in no index, or in one that it does not belong to.
    #[error("job `{0}` is indexed wrongly")]
    LostJob(JobUid),
}

impl Cluster {
    /// Every broken invariant. Promises beyond a node's capacity are reported too; they can come from outside, when a
    /// node shrinks under its jobs, and never from a decision.
    pub fn check(&self) -> Vec<Violation> {
        let mut found: Vec<Violation> = Vec::new();
        for name in self.nodes.keys() {
            found.extend(self.check_node(name));
        }
        for (name, queue) in &self.queues {
            let jobs = self.nodes.values().flat_map(|state| state.jobs.values());
            let used = jobs
                .filter(|job| job.queue == *name)
                .fold(Usage::default(), |sum, job| sum.plus(Usage::of(job)));
            if used != queue.used {
                found.push(Violation::StaleQueue(name.clone()));
            }
        }
        let exits_of = |state: &_| self.exits_of(state);
        if !self.fleet.is_current(self.nodes.iter(), exits_of) {
            found.push(Violation::StaleFleet);
        }
        if !self.pending.is_listed() {
            found.push(Violation::StaleLists);
        }
        let stale = self.holds.stale(|uid| self.waiting_job(uid).is_some());
        found.extend(stale.into_iter().map(Violation::StaleHold));
        if self.counted_gangs() != self.gangs {
            found.push(Violation::StaleGangs);
        }
        if self.counted_cohort() != self.cohort {
            found.push(Violation::StaleCohort);
        }
        found.extend(self.check_jobs());
        found
    }

    /// The invariants of one node.
    pub(crate) fn check_node(&self, name: &NodeName) -> Vec<Violation> {
        let mut found = Vec::new();
        let Some(state) = self.nodes.get(name) else {
            return found;
        };
        let cpu: u64 = state
            .jobs
            .values()
            .map(|job| job.cpu.0)
            .fold(0, u64::saturating_add);
        let memory: u64 = state
            .jobs
            .values()
            .map(|job| job.memory.0)
            .fold(0, u64::saturating_add);
        if (cpu, memory) != (state.cpu_used, state.memory_used) || state.gpus != state.measured() {
            found.push(Violation::StaleNode(name.clone()));
        }
        let Some(facts) = &state.facts else {
            return found;
        };
        let mut over = |what, promised, capacity| {
            if promised > capacity {
                let node = name.clone();
                found.push(Violation::NodeOverPromised {
                    node,
                    what,
                    promised,
                    capacity,
                });
            }
        };
        over("cpu", cpu, facts.cpu.0);
        over("memory", memory, facts.memory.0);
        let jobs = state.jobs.len() as u64;
        over("jobs", jobs, facts.max_jobs.map_or(u64::MAX, u64::from));
        over(
            "jobs",
            jobs,
            if state.whole_jobs > 0 { 1 } else { u64::MAX },
        );
        for gpu in &facts.gpus {
            let promises = state.promises(&gpu.uuid);
            // What was declared, not what was measured later: a job that outgrows its declaration is its own fault.
            let capacity = vram::capacity(gpu).0;
            let declared = promises.iter().map(|promise| match promise.declared {
                Some(bytes) if !promise.whole && !vram::names_class(bytes, gpu) => bytes.0,
                _ => capacity,
            });
            let promised = declared.fold(0, u64::saturating_add);
            if promised > capacity {
                let (node, gpu) = (name.clone(), gpu.uuid.clone());
                found.push(Violation::GpuOverPromised {
                    node,
                    gpu,
                    promised,
                    capacity,
                });
            }
            if promises.len() > 1 && promises.iter().any(|promise| promise.whole) {
                let (node, gpu, jobs) = (name.clone(), gpu.uuid.clone(), promises.len());
                found.push(Violation::GpuShared { node, gpu, jobs });
            }
        }
        found
    }

    fn check_jobs(&self) -> Vec<Violation> {
        let mut lost = BTreeSet::new();
        for (uid, entry) in &self.jobs {
            let right = match entry {
                Entry::Pending { job, class } => {
                    self.pending.classes.get(class).is_some_and(|class| {
                        class.jobs.contains(&Place::of(job)) && *class.key == ClassKey::of(job)
                    })
                }
                Entry::Assumed { node, .. } | Entry::Bound { node } => self
                    .nodes
                    .get(node)
                    .is_some_and(|state| state.jobs.contains_key(uid)),
                Entry::Infeasible { .. } => true,
            };
            if !right {
                lost.insert(uid.clone());
            }
        }
        for class in self.pending.classes.values() {
            for order in &class.jobs {
                if !matches!(self.jobs.get(&order.uid), Some(Entry::Pending { .. })) {
                    lost.insert(order.uid.clone());
                }
            }
        }
        for (name, state) in &self.nodes {
            for uid in state.jobs.keys() {
                let here = match self.jobs.get(uid) {
                    Some(Entry::Assumed { node, .. } | Entry::Bound { node }) => node == name,
                    Some(Entry::Pending { .. } | Entry::Infeasible { .. }) | None => false,
                };
                if !here {
                    lost.insert(uid.clone());
                }
            }
        }
        lost.into_iter().map(Violation::LostJob).collect()
    }
}
