//! What displacing jobs costs at least, at a glance: a few numbers for each device, side by side for all nodes, so that a
//! look for the cheapest plan reads little memory and asks for the closer bound of [`Stakes`](super::Stakes) and for a search
//! only where they may be worth it.
//!
//! **Guarantee.** No plan for a job with GPUs is cheaper than the bound. It goes by what was measured: a device that has no
//! room now gets it only when somebody leaves it.

use crate::input::{BoundJob, Exclusive, GpuRequest, Millis, Requirements};
use crate::node_state::NodeState;

use super::Cost;

/// Devices of a node that are noted.
pub(crate) const DEVICES: usize = 8;

/// What is at stake on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Device {
    /// When the youngest of those that may be displaced started or saved its work last.
    youngest: i64,
    /// The same of all of them together.
    sum: i64,
    /// The lowest and the highest priority among those that may be displaced.
    least: i32,
    most: i32,
    /// How many there are, and how many of them lose work.
    movable: u16,
    losing: u16,
    /// Is there somebody whom nobody may displace?
    fixed: bool,
    /// Is somebody leaving it already?
    leaving: bool,
    /// Could a job have it for itself now?
    idle: bool,
}

impl Device {
    fn hold(&mut self, job: &BoundJob) {
        if job.stopping.is_some() {
            self.leaving = true;
            return;
        }
        if !job.terms.preemptible || job.attempt == 0 {
            self.fixed = true;
            return;
        }
        let first = self.movable == 0;
        self.least = if first {
            job.priority
        } else {
            self.least.min(job.priority)
        };
        self.most = if first {
            job.priority
        } else {
            self.most.max(job.priority)
        };
        // Who has nothing to lose yet is younger than all.
        let since = job.started.max(job.checkpointed).map(|since| since.0);
        let youngest = since.unwrap_or(i64::MAX);
        self.youngest = if first {
            youngest
        } else {
            self.youngest.max(youngest)
        };
        self.movable = self.movable.saturating_add(1);
        if let Some(since) = since {
            self.losing = self.losing.saturating_add(1);
            self.sum = self.sum.saturating_add(since);
        }
    }

    /// The priority that must be displaced here at least, and what is lost by it at least; `None` when that is of no use.
    /// `whole` says that everybody must leave.
    fn price(&self, whole: bool, below: i32, now: Millis) -> Option<(i32, u64)> {
        if self.movable == 0 || self.least >= below {
            return None;
        }
        if !whole {
            let lost = now.0.saturating_sub(self.youngest);
            return Some((self.least, u64::try_from(lost).unwrap_or(0)));
        }
        if self.fixed || self.most >= below {
            return None;
        }
        let held = now.0.saturating_mul(i64::from(self.losing));
        let lost = held.saturating_sub(self.sum);
        Some((self.most, u64::try_from(lost).unwrap_or(0)))
    }
}

/// What is at stake on the devices of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Glance {
    devices: [Device; DEVICES],
}

/// What a glance at a node says of plans there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// None is possible.
    None,
    /// None is cheaper.
    AtLeast(Cost),
}

impl Glance {
    pub(crate) fn of(state: &NodeState) -> Self {
        let mut glance = Self::default();
        let Some(facts) = &state.facts else {
            return glance;
        };
        for (device, gpu) in glance.devices.iter_mut().zip(&state.gpus) {
            device.idle = gpu.headroom.idle && !gpu.divided;
        }
        for job in state.jobs.values().filter(|job| !job.gpus.is_empty()) {
            for (device, gpu) in glance.devices.iter_mut().zip(&facts.gpus) {
                if job.gpus.contains(&gpu.uuid) {
                    device.hold(job);
                }
            }
        }
        glance
    }

    /// Can plans of a job be bounded at a glance?
    pub(crate) fn tells(needs: &Requirements) -> bool {
        needs.gpus.count() > 0 && needs.exclusive != Exclusive::Node
    }

    /// What plans cost here for a job of that priority. `reach` is the most that it could ask of each device and have now.
    pub(crate) fn bound(
        &self,
        needs: &Requirements,
        priority: i32,
        reach: &[u64; DEVICES],
        now: Millis,
    ) -> Seen {
        let (asked, shares) = match needs.gpus {
            GpuRequest::Vram { bytes, .. } => {
                (Some(bytes.0.max(1)), needs.exclusive == Exclusive::Shared)
            }
            GpuRequest::Whole(_) | GpuRequest::None => (None, false),
        };
        let mut missing = needs.gpus.count() as usize;
        let mut prices = [(0_i32, 0_u64); DEVICES];
        let mut count = 0;
        for (device, reach) in self.devices.iter().zip(reach) {
            let open = match asked {
                Some(bytes) => bytes <= *reach,
                None => device.idle,
            };
            if open || device.leaving {
                missing = missing.saturating_sub(1);
            } else if let Some(price) = device.price(!shares, priority, now) {
                prices[count] = price;
                count += 1;
            }
        }
        if missing == 0 {
            return Seen::AtLeast(Cost::default());
        }
        let prices = &mut prices[..count];
        prices.sort_unstable();
        let Some((top, _)) = prices.get(missing - 1).copied() else {
            return Seen::None;
        };
        // Nobody above the top is touched unless the plan is dearer by that alone.
        let within = prices.partition_point(|(tier, _)| *tier <= top);
        let prices = &mut prices[..within];
        prices.sort_unstable_by_key(|(_, lost)| *lost);
        let lost = prices[..missing].iter().map(|(_, lost)| *lost);
        Seen::AtLeast(Cost {
            priority: Some(top),
            lost: lost.fold(0, u64::saturating_add),
            victims: 1,
            core_lost: 0,
        })
    }
}
