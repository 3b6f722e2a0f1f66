//! What displacing jobs costs at least, at a glance: a few numbers for each device, side by side for all nodes, so that a
//! look for the cheapest plan reads little memory and asks for the closer bound of [`Stakes`](super::Stakes) and for a search
//! only where they may be worth it.
//!
//! **Guarantee.** No plan for a job with GPUs is cheaper than the bound. It goes by what was measured: a device that has no
//! room now gets it only when somebody leaves it.

use crate::input::{BoundJob, Bytes, Exclusive, GpuRequest, Millis, Requirements};
use crate::node_state::{GpuState, NodeState};

use super::Cost;

/// Devices of a node that are noted.
pub(crate) const DEVICES: usize = 8;

/// Priorities on a device that are told apart; those above count as one.
const TIERS: usize = 3;

/// What displacing everybody up to a priority gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tier {
    priority: i32,
    /// The second by which all of them had started or saved their work; the last there is when one has nothing to lose.
    youngest: u32,
    /// The most that a job could then be promised on the device, in MiB.
    room: u32,
}

/// What is at stake on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Device {
    tiers: [Tier; TIERS],
    /// The most that a job which shares can be promised at all.
    shareable: u64,
    /// When all of those that may be displaced started or saved their work last, together.
    sum: i64,
    /// The highest priority among them.
    most: i32,
    /// How many of them lose work.
    losing: u16,
    /// How many tiers there are.
    count: u8,
    /// Is there somebody whom nobody may displace?
    fixed: bool,
    /// Is somebody leaving it already?
    leaving: bool,
    /// Could a job have it for itself now?
    idle: bool,
}

impl Device {
    /// A device with these jobs, each with what it is promised there at least.
    fn of(gpu: &GpuState, holders: &mut [(&BoundJob, u64)]) -> Self {
        let mut device = Self {
            shareable: gpu.size.shareable.0,
            idle: gpu.headroom.idle && !gpu.divided,
            ..Self::default()
        };
        holders.sort_by_key(|(job, _)| job.priority);
        let mut stays: u64 = 0;
        for (job, bytes) in holders.iter() {
            if job.stopping.is_some() {
                device.leaving = true;
                continue;
            }
            device.fixed |= !is_movable(job);
            stays = stays.saturating_add(*bytes);
        }
        let mut youngest = 0;
        for (job, bytes) in holders.iter().filter(|(job, _)| is_movable(job)) {
            let since = job.started.max(job.checkpointed);
            if let Some(since) = since {
                device.losing = device.losing.saturating_add(1);
                device.sum = device.sum.saturating_add(since.0);
            }
            // The next full second: nobody is taken for older than it is.
            let second = since.map(|since| since.0.div_euclid(1000).saturating_add(1).max(0));
            let second = second.and_then(|second| u32::try_from(second).ok());
            youngest = youngest.max(second.unwrap_or(u32::MAX));
            stays = stays.saturating_sub(*bytes);
            device.most = job.priority;
            let room = device.shareable.saturating_sub(stays);
            let known = usize::from(device.count);
            let last = device.tiers[..known].last();
            let is_new = last.is_none_or(|last| last.priority != job.priority);
            let at = if is_new && known < TIERS {
                device.count += 1;
                device.tiers[known].priority = job.priority;
                known
            } else {
                known - 1
            };
            device.tiers[at].youngest = youngest;
            device.tiers[at].room = mebibytes(room.div_ceil(Bytes::MIB));
        }
        device
    }

    /// The priority that must be displaced here at least, and what is lost by it at least, to have room for so much, or for
    /// a job that is alone here; `None` when that is of no use.
    fn price(&self, bytes: Option<u64>, below: i32, now: Millis) -> Option<(i32, u64)> {
        if let Some(bytes) = bytes.filter(|bytes| *bytes <= self.shareable) {
            let least = mebibytes(bytes / Bytes::MIB);
            let mut tiers = self.tiers[..usize::from(self.count)].iter();
            let tier = tiers.find(|tier| least <= tier.room)?;
            let young = i64::from(tier.youngest).saturating_mul(1000);
            let lost = u64::try_from(now.0.saturating_sub(young)).unwrap_or(0);
            return (tier.priority < below).then_some((tier.priority, lost));
        }
        if self.count == 0 || self.fixed || self.most >= below {
            return None;
        }
        let held = now.0.saturating_mul(i64::from(self.losing));
        let lost = u64::try_from(held.saturating_sub(self.sum)).unwrap_or(0);
        Some((self.most, lost))
    }
}

/// May somebody displace it?
fn is_movable(job: &BoundJob) -> bool {
    job.stopping.is_none() && job.terms.preemptible && job.attempt > 0
}

fn mebibytes(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
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
        let mut holders: Vec<(&BoundJob, u64)> = Vec::new();
        let gpus = facts.gpus.iter().zip(&state.gpus);
        for (device, (facts, gpu)) in glance.devices.iter_mut().zip(gpus) {
            let jobs = state.jobs.values();
            let here = jobs.filter(|job| job.gpus.contains(&facts.uuid));
            holders.clear();
            holders.extend(here.map(|job| (job, gpu.size.promised(job.vram, job.whole_gpus).0)));
            *device = Device::of(gpu, &mut holders);
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
        let asked = match needs.gpus {
            GpuRequest::Vram { bytes, .. } => Some(bytes.0.max(1)),
            GpuRequest::Whole(_) | GpuRequest::None => None,
        };
        let shared = asked.filter(|_| needs.exclusive == Exclusive::Shared);
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
            } else if let Some(price) = device.price(shared, priority, now) {
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
