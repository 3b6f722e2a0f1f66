//! Quotas of queues, and borrowing of what others leave idle.
//!
//! A quota is what a queue owns. With leave to borrow, its jobs may hold more than that, as long as all queues with a quota
//! together hold no more than they own together; what is borrowed is counted, not which queue lent it. A queue without a
//! quota owns nothing and is not limited, and what it holds is nobody's quota.
//!
//! What is left of a quota may be kept for jobs that have waited long, see `quota_line`.
//!
//! Each kind of resource is judged by itself, and only if the job asks for any of it: a queue that is at its quota of GPUs
//! still runs jobs without.

use std::fmt;

use crate::cluster::{Cluster, QueueEntry, Usage};
use crate::explain::Explanation;
use crate::input::{
    Bytes, GpuRequest, Job, MilliCpu, Millis, QueueName, QueueState, Quota, Requirements,
};
use crate::shelf::Amounts;

/// What quotas are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Jobs that hold slots.
    Jobs,
    /// GPUs.
    Gpus,
    /// Declared GPU memory, in bytes.
    Vram,
    /// Thousandths of a core.
    Cpu,
}

pub(crate) const RESOURCES: [Resource; 4] = [
    Resource::Jobs,
    Resource::Gpus,
    Resource::Vram,
    Resource::Cpu,
];

/// What a job would exceed, and by how much. Amounts are in the unit of the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimit {
    /// The resource.
    pub resource: Resource,
    /// What the queue's jobs hold.
    pub held: u64,
    /// What the job asks for.
    pub asked: u64,
    /// What the queue owns.
    pub owned: u64,
    /// How much the queue may hold beyond what it owns, now; `None` when it may not borrow at all.
    pub borrowable: Option<u64>,
}

impl fmt::Display for QuotaLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource,
            held,
            asked,
            owned,
            borrowable,
        } = *self;
        let verb = match resource {
            Resource::Jobs => "runs",
            Resource::Gpus | Resource::Vram | Resource::Cpu => "holds",
        };
        write!(f, "it {verb} ")?;
        let noun = match resource {
            Resource::Jobs => "jobs",
            Resource::Gpus => "GPUs",
            Resource::Vram => "VRAM",
            Resource::Cpu => "cores",
        };
        amount(resource, held, f)?;
        match borrowable {
            None => {
                f.write_str(" of ")?;
                amount(resource, owned, f)?;
                write!(f, " {noun}")?;
            }
            Some(more) => {
                write!(f, " {noun}, owns ")?;
                amount(resource, owned, f)?;
                f.write_str(", may borrow ")?;
                amount(resource, more, f)?;
            }
        }
        if resource == Resource::Jobs {
            return Ok(());
        }
        f.write_str(if borrowable.is_some() {
            ", and this job asks for "
        } else {
            " and this job asks for "
        })?;
        amount(resource, asked, f)
    }
}

impl QuotaLimit {
    /// What another asks for of the same.
    pub(crate) fn of_another(&self, asked: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.resource == Resource::Jobs {
            return Ok(());
        }
        f.write_str(" and asks for ")?;
        amount(self.resource, asked, f)
    }
}

fn amount(resource: Resource, amount: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match resource {
        Resource::Jobs | Resource::Gpus => write!(f, "{amount}"),
        Resource::Vram => write!(f, "{}", Bytes(amount)),
        Resource::Cpu => write!(f, "{}", MilliCpu(amount)),
    }
}

impl Quota {
    /// How much of a resource; `None` is no limit.
    pub(crate) fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Jobs => self.jobs,
            Resource::Gpus => self.gpus,
            Resource::Vram => self.vram.map(|bytes| bytes.0),
            Resource::Cpu => self.cpu.map(|cpu| cpu.0),
        }
    }
}

impl Quota {
    /// Does it give the queue any of the GPUs or cores that are asked for?
    pub(crate) fn gives(&self, asked: Usage) -> bool {
        (asked.gpus > 0 && (self.gpus.is_some() || self.vram.is_some()))
            || (asked.cpu.0 > 0 && self.cpu.is_some())
    }

    /// Is that more than the quota in anything?
    pub(crate) fn is_exceeded_by(&self, used: Usage) -> bool {
        self.jobs.is_some_and(|most| used.jobs > most)
            || self.gpus.is_some_and(|most| used.gpus > most)
            || self.vram.is_some_and(|most| used.vram > most)
            || self.cpu.is_some_and(|most| used.cpu > most)
    }
}

impl Usage {
    pub(crate) fn resource(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Jobs => self.jobs,
            Resource::Gpus => self.gpus,
            Resource::Vram => self.vram.0,
            Resource::Cpu => self.cpu.0,
        }
    }

    /// What a waiting job will hold.
    pub(crate) fn asked(needs: &Requirements) -> Self {
        let gpus = u64::from(needs.gpus.count());
        let vram = match needs.gpus {
            GpuRequest::Vram { bytes, .. } => Bytes(bytes.0.saturating_mul(gpus)),
            GpuRequest::None | GpuRequest::Whole(_) => Bytes(0),
        };
        Self {
            gpus,
            vram,
            cpu: needs.cpu,
            jobs: 1,
        }
    }
}

/// What all queues with a quota own and hold together, by [`RESOURCES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cohort {
    owned: [u128; RESOURCES.len()],
    held: [u128; RESOURCES.len()],
}

impl Cohort {
    fn count(&mut self, queue: &QueueEntry, add: bool) {
        for (at, resource) in RESOURCES.into_iter().enumerate() {
            let Some(owned) = queue.state.quota.of(resource) else {
                continue;
            };
            let held = queue.used.resource(resource);
            for (sum, part) in [(&mut self.owned[at], owned), (&mut self.held[at], held)] {
                *sum = if add {
                    *sum + u128::from(part)
                } else {
                    sum.saturating_sub(u128::from(part))
                };
            }
        }
    }

    /// How much more than it owns a queue may hold of a resource that it has a quota of, now.
    pub(crate) fn borrowable(&self, at: usize, queue: &QueueEntry, owned: u64) -> Option<u64> {
        let leave = queue.state.borrow.as_ref()?;
        let held = queue.used.resource(RESOURCES[at]);
        // What the others own and do not hold; negative when they borrowed from this one.
        let others_own = self.owned[at].saturating_sub(u128::from(owned));
        let others_hold = self.held[at].saturating_sub(u128::from(held));
        let idle = u64::try_from(others_own.saturating_sub(others_hold)).unwrap_or(u64::MAX);
        Some(leave.of(RESOURCES[at]).unwrap_or(u64::MAX).min(idle))
    }
}

impl Cluster {
    /// Changes a queue, and what all queues own and hold together with it.
    pub(crate) fn change_queue(&mut self, name: &QueueName, change: impl FnOnce(&mut QueueEntry)) {
        let entry = match self.queues.get_mut(name) {
            Some(entry) => entry,
            None => self.queues.entry(name.clone()).or_default(),
        };
        self.cohort.count(entry, false);
        change(entry);
        self.cohort.count(entry, true);
    }

    /// Why a job's queue keeps it now, with those that it starts with: together they ask for so much.
    pub(crate) fn queue_reason(&self, job: &Job, asked: Usage, now: Millis) -> Option<Explanation> {
        self.queue_reason_of(&job.queue, asked).or_else(|| {
            let kept = self.quota_kept_from(job, asked, now)?;
            Some(Explanation::QuotaKept {
                queue: job.queue.clone(),
                holder: kept.holder,
                claimed: kept.claimed,
                limit: kept.limit,
            })
        })
    }

    /// Why a queue keeps jobs now that ask for so much together.
    pub(crate) fn queue_reason_of(&self, name: &QueueName, asked: Usage) -> Option<Explanation> {
        let queue = self.queues.get(name)?;
        if queue.state.paused {
            return Some(Explanation::QueuePaused {
                queue: name.clone(),
            });
        }
        let limit = self.quota_limit(queue, asked)?;
        Some(Explanation::QuotaExceeded {
            queue: name.clone(),
            limit,
        })
    }

    /// What a queue would have to say to let jobs through that ask for so much together: resumed, and with what it owns raised as far as
    /// needed.
    pub(crate) fn queue_that_allows(&self, name: &QueueName, asked: Usage) -> Option<QueueState> {
        let mut queue = self.queues.get(name)?.clone();
        queue.state.paused = false;
        // Each turn raises the quota of one resource to what is enough of it.
        for _ in RESOURCES {
            let Some(limit) = self.quota_limit(&queue, asked) else {
                break;
            };
            let enough = limit.held.saturating_add(limit.asked);
            let quota = &mut queue.state.quota;
            match limit.resource {
                Resource::Jobs => quota.jobs = Some(enough),
                Resource::Gpus => quota.gpus = Some(enough),
                Resource::Vram => quota.vram = Some(Bytes(enough)),
                Resource::Cpu => quota.cpu = Some(MilliCpu(enough)),
            }
        }
        Some(queue.state)
    }

    /// Does a queue take a job that needs this but for amounts, and these amounts?
    pub(crate) fn queue_admits(
        &self,
        name: &QueueName,
        needs: &Requirements,
        asked: &Amounts,
    ) -> bool {
        let gpus = u64::from(needs.gpus.count());
        let more = Usage {
            gpus,
            vram: Bytes(asked.vram.0.saturating_mul(gpus)),
            cpu: asked.cpu,
            jobs: 1,
        };
        self.queues
            .get(name)
            .is_none_or(|queue| !queue.state.paused && self.quota_limit(queue, more).is_none())
    }

    /// What a queue would exceed if it held that much more.
    pub(crate) fn quota_limit(&self, queue: &QueueEntry, more: Usage) -> Option<QuotaLimit> {
        for (at, resource) in RESOURCES.into_iter().enumerate() {
            let (held, asked) = (queue.used.resource(resource), more.resource(resource));
            let Some(owned) = queue.state.quota.of(resource).filter(|_| asked > 0) else {
                continue;
            };
            let after = held.saturating_add(asked);
            if after <= owned {
                continue;
            }
            let borrowable = self.cohort.borrowable(at, queue, owned);
            if after > owned.saturating_add(borrowable.unwrap_or(0)) {
                return Some(QuotaLimit {
                    resource,
                    held,
                    asked,
                    owned,
                    borrowable,
                });
            }
        }
        None
    }

    /// Would a job's queue hold more than it owns with the job, or with its gang, of anything that it asks for?
    pub(crate) fn would_borrow(&self, job: &Job) -> bool {
        let asked = self.asked_together(job);
        let queue = self.queues.get(&job.queue);
        queue.is_some_and(|queue| {
            RESOURCES.into_iter().any(|resource| {
                let (held, asked) = (queue.used.resource(resource), asked.resource(resource));
                let owned = queue.state.quota.of(resource);
                owned.is_some_and(|owned| asked > 0 && held.saturating_add(asked) > owned)
            })
        })
    }

    /// Does a job's queue own what the job, or its gang, asks for?
    pub(crate) fn would_own(&self, job: &Job) -> bool {
        let asked = self.asked_together(job);
        let queue = self.queues.get(&job.queue);
        queue.is_some_and(|queue| {
            let quota = &queue.state.quota;
            quota.gives(asked) && !quota.is_exceeded_by(queue.used.plus(asked))
        })
    }

    /// Does a queue own anything?
    pub(crate) fn has_quota(&self, name: &QueueName) -> bool {
        let queue = self.queues.get(name);
        queue.is_some_and(|queue| queue.state.quota != Quota::default())
    }

    /// What a job asks for together with the members of its gang that have no node.
    pub(crate) fn asked_together(&self, job: &Job) -> Usage {
        if job.gang.is_none() {
            return Usage::asked(&job.requirements);
        }
        let unit = self.unit(job).into_iter();
        let asked = unit.map(|one| Usage::asked(&one.requirements));
        asked.fold(Usage::default(), Usage::plus)
    }

    /// What all queues own and hold together, counted anew.
    pub(crate) fn counted_cohort(&self) -> Cohort {
        let mut cohort = Cohort::default();
        for queue in self.queues.values() {
            cohort.count(queue, true);
        }
        cohort
    }
}
