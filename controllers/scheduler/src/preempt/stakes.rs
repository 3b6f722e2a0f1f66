//! What is at stake on a node, in a few numbers: a bound from below for what any plan costs there, so that only the most
//! promising nodes are searched.
//!
//! **Guarantee.** No plan on the node is cheaper than the bound. It knows promises and not what was measured, and takes
//! everybody for a candidate who is preemptible and of lower priority, so it errs towards cheap.

use crate::input::{BoundJob, Exclusive, GpuRequest, Millis, Requirements};
use crate::node_state::NodeState;
use crate::vram::Size;

use super::Cost;

/// Most GPUs of a node that bounds are made for; nodes with more are always searched.
const MOST_GPUS: usize = 16;

/// A job that holds slots.
#[derive(Clone, Debug)]
struct Stake {
    /// `None` when nothing stops it.
    priority: Option<i32>,
    /// Since when it would lose its work.
    since: Option<Millis>,
    cpu: u64,
    memory: u64,
    /// Where in the list of all places its own begin and end.
    places: (u32, u32),
}

/// All that is at stake on a node. Jobs that are being stopped are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stakes {
    /// By priority, those that nothing stops first.
    jobs: Box<[Stake]>,
    /// The GPUs of all jobs, and what each was promised there: in one list, so that a look at a node reads little memory.
    places: Box<[(u8, u64)]>,
    sizes: Box<[Size]>,
    cpu: u64,
    memory: u64,
}

impl Stakes {
    pub(crate) fn of(state: &NodeState) -> Self {
        let Some(facts) = &state.facts else {
            return Self::default();
        };
        let mut places: Vec<(u8, u64)> = Vec::new();
        let count = |places: &Vec<(u8, u64)>| u32::try_from(places.len()).unwrap_or(u32::MAX);
        let mut stake = |job: &BoundJob| {
            let place = |at: usize| {
                let bytes = state.gpus[at].size.promised(job.vram, job.whole_gpus);
                Some((u8::try_from(at).ok()?, bytes.0))
            };
            let held = facts.gpus.iter().enumerate();
            let held = held.filter(|(_, gpu)| job.gpus.contains(&gpu.uuid));
            let from = count(&places);
            places.extend(held.filter_map(|(at, _)| place(at)));
            Stake {
                priority: (job.terms.preemptible && job.attempt > 0).then_some(job.priority),
                since: job.started.max(job.checkpointed),
                cpu: job.cpu.0,
                memory: job.memory.0,
                places: (from, count(&places)),
            }
        };
        let stays = state.jobs.values().filter(|job| job.stopping.is_none());
        let mut jobs: Vec<Stake> = stays.map(&mut stake).collect();
        jobs.sort_by_key(|stake| stake.priority);
        Self {
            jobs: jobs.into(),
            places: places.into(),
            sizes: state.gpus.iter().map(|gpu| gpu.size).collect(),
            cpu: facts.cpu.0,
            memory: facts.memory.0,
        }
    }

    /// What a plan for a job of that priority costs here at least; `None` when there can be none.
    pub(super) fn bound(&self, needs: &Requirements, priority: i32, now: Millis) -> Option<Cost> {
        if self.sizes.len() > MOST_GPUS {
            return Some(Cost::default());
        }
        let mine = self.jobs.partition_point(|stake| stake.priority.is_none());
        let end = self
            .jobs
            .partition_point(|stake| stake.priority.is_none_or(|of| of < priority));
        let (fixed, theirs) = (&self.jobs[..mine], &self.jobs[mine..end]);
        let above = &self.jobs[end..];
        let mut node = Node::new(self, needs);
        for stake in fixed.iter().chain(above) {
            node.add(stake);
        }
        node.bound(theirs, now)
    }
}

/// What must be taken off one GPU.
#[derive(Clone, Copy, Debug, Default)]
struct Device {
    /// The most that those who stay may be promised; `None` when nobody may stay.
    allowed: Option<u64>,
    /// What is promised to those who are there.
    promised: u64,
    holders: u32,
    /// True when the job can never have it here.
    out: bool,
    /// The priority up to which candidates must go, if any must.
    tier: Option<i32>,
    /// Done: enough has gone.
    open: bool,
    /// What must go in all, and the two least losses among candidates, and the least of those that are enough alone.
    excess: u64,
    least: [u64; 2],
    alone: u64,
    all: u64,
}

impl Device {
    fn is_free(&self) -> bool {
        !self.out
            && match self.allowed {
                Some(allowed) => self.promised <= allowed,
                None => self.holders == 0,
            }
    }

    /// The least that is lost by making room here.
    fn lost(&self) -> u64 {
        match (self.tier, self.allowed) {
            (None, _) => 0,
            (Some(_), None) => self.all,
            (Some(_), Some(_)) => self.alone.min(self.least[0].saturating_add(self.least[1])),
        }
    }
}

/// A node as candidates leave it one after the other.
struct Node<'a> {
    places: &'a [(u8, u64)],
    devices: [Device; MOST_GPUS],
    count: usize,
    wanted: usize,
    cpu: u64,
    memory: u64,
    cpu_most: u64,
    memory_most: u64,
    alone: bool,
    there: usize,
}

impl<'a> Node<'a> {
    fn new(stakes: &'a Stakes, needs: &Requirements) -> Self {
        let mut devices = [Device::default(); MOST_GPUS];
        for (device, size) in devices.iter_mut().zip(&stakes.sizes) {
            device.allowed = match needs.gpus {
                GpuRequest::Vram { bytes, .. } if needs.exclusive == Exclusive::Shared => {
                    let shares = bytes <= size.shareable;
                    shares.then(|| size.shareable.0 - bytes.0)
                }
                GpuRequest::Vram { .. } | GpuRequest::Whole(_) | GpuRequest::None => None,
            };
            if let GpuRequest::Vram { bytes, .. } = needs.gpus {
                device.out = !size.could_hold(bytes);
            }
        }
        Self {
            places: &stakes.places,
            devices,
            count: stakes.sizes.len(),
            wanted: needs.gpus.count() as usize,
            cpu: 0,
            memory: 0,
            cpu_most: stakes.cpu.saturating_sub(needs.cpu.0),
            memory_most: stakes.memory.saturating_sub(needs.memory.0),
            alone: needs.exclusive == Exclusive::Node,
            there: 0,
        }
    }

    fn places(&self, stake: &Stake) -> &'a [(u8, u64)] {
        &self.places[stake.places.0 as usize..stake.places.1 as usize]
    }

    fn add(&mut self, stake: &Stake) {
        self.cpu = self.cpu.saturating_add(stake.cpu);
        self.memory = self.memory.saturating_add(stake.memory);
        self.there += 1;
        for (at, bytes) in self.places(stake) {
            let device = &mut self.devices[usize::from(*at)];
            device.promised = device.promised.saturating_add(*bytes);
            device.holders += 1;
        }
    }

    fn host_is_free(&self) -> bool {
        self.cpu <= self.cpu_most
            && self.memory <= self.memory_most
            && (!self.alone || self.there == 0)
    }

    fn bound(mut self, candidates: &[Stake], now: Millis) -> Option<Cost> {
        for stake in candidates {
            self.add(stake);
        }
        let cpu_excess = self.cpu.saturating_sub(self.cpu_most);
        let count = self.count;
        for device in &mut self.devices[..count] {
            device.open = device.is_free();
            device.excess = device.promised.saturating_sub(device.allowed.unwrap_or(0));
            device.least = [u64::MAX; 2];
            device.alone = u64::MAX;
        }
        let mut host = self.host_is_free();
        let mut tier = None;
        let mut open = self.devices[..count].iter().filter(|one| one.open).count();
        let mut upto = 0;
        // Everybody leaves in order of priority until there is room: that is the least priority that must be touched. The
        // rest of that priority leaves as well, since any of them may be chosen.
        loop {
            let enough = host && open >= self.wanted;
            let Some(stake) = candidates.get(upto) else {
                if enough {
                    break;
                }
                return None;
            };
            if enough && (tier.is_none() || tier < stake.priority) {
                break;
            }
            upto += 1;
            self.cpu = self.cpu.saturating_sub(stake.cpu);
            self.memory = self.memory.saturating_sub(stake.memory);
            self.there -= 1;
            tier = stake.priority;
            host |= self.host_is_free();
            for (at, bytes) in self.places(stake) {
                let device = &mut self.devices[usize::from(*at)];
                device.promised = device.promised.saturating_sub(*bytes);
                device.holders -= 1;
                if !device.open && device.is_free() {
                    device.open = true;
                    device.tier = stake.priority;
                    open += 1;
                }
            }
        }
        let Some(top) = tier else {
            return Some(Cost::default());
        };
        let touched = candidates
            .iter()
            .take_while(|stake| stake.priority <= Some(top));
        let mut cost = Cost {
            priority: Some(top),
            victims: 1,
            ..Cost::default()
        };
        if self.wanted == 0 {
            let mut core_lost = u64::MAX;
            let mut cores: Vec<u64> = Vec::new();
            for stake in touched {
                core_lost = core_lost.min(span(stake, now).saturating_mul(stake.cpu) / 1000);
                cores.push(stake.cpu);
            }
            cores.sort_unstable_by(|one, other| other.cmp(one));
            let mut gone = 0_u64;
            let enough = cores.iter().take_while(|cpu| {
                let more = gone < cpu_excess;
                gone = gone.saturating_add(**cpu);
                more
            });
            cost.victims = u32::try_from(enough.count().max(1)).unwrap_or(u32::MAX);
            cost.core_lost = core_lost;
            return Some(cost);
        }
        // On a GPU that opens with the others of the top priority, they count as well.
        for stake in touched {
            let lost = span(stake, now);
            for (at, bytes) in self.places(stake) {
                let device = &mut self.devices[usize::from(*at)];
                device.all = device.all.saturating_add(lost);
                if *bytes >= device.excess {
                    device.alone = device.alone.min(lost);
                }
                if lost < device.least[0] {
                    device.least = [lost, device.least[0]];
                } else if lost < device.least[1] {
                    device.least[1] = lost;
                }
            }
        }
        let mut lost: Vec<u64> = self.devices[..count]
            .iter()
            .filter(|device| device.open)
            .map(Device::lost)
            .collect();
        lost.sort_unstable();
        cost.lost = lost
            .into_iter()
            .take(self.wanted)
            .fold(0, u64::saturating_add);
        Some(cost)
    }
}

/// How long a job would lose, on each of its GPUs.
fn span(stake: &Stake, now: Millis) -> u64 {
    stake
        .since
        .map_or(0, |since| now.since(since).0.unsigned_abs())
}
