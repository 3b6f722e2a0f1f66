//! The GPUs and MIG slices of a node: which count for a job, which have room for it, and which it gets.
//!
//! A binding says once for all its GPUs whether they are taken whole. So a job of several GPUs that names the class of one
//! of them (see [`vram::names_class`]) gets cards of that class, else cards that it shares, and only then idle ones of
//! both kinds. Among those it gets the best joined ones, see [`crate::topology`].

use super::to_u32;
use crate::input::{Bytes, Exclusive, Gpu, GpuRequest, Link, Node, Packing, Requirements, Slices};
use crate::node_state::{GpuState, NodeState};
use crate::reason::Misfit;
use crate::topology::{Candidate, Chosen};
use crate::vram;

/// Most candidates that are compared without allocating.
const ON_STACK: usize = 16;

/// What one look at the devices of a node found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Idle devices, whether they count or not.
    pub(super) idle: u32,
    /// Devices of the kind asked for that are healthy.
    healthy: u32,
    /// Those of them that the job fits on, each by itself.
    fitting: u32,
    /// Those of them whose class it names.
    of_class: u32,
    /// Those of them that are idle.
    fitting_idle: u32,
    /// The least cost of one.
    pub(super) cheapest: u64,
}

/// Which of the fitting devices may be taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    All,
    OfClass,
    Shared,
    Idle,
}

impl Room {
    /// Looks at every device once.
    pub(super) fn of(needs: &Requirements, node: &Node, state: &NodeState) -> Self {
        let mut room = Self {
            cheapest: u64::MAX,
            ..Self::default()
        };
        let wanted = needs.gpus.count();
        for (gpu, device) in node.gpus.iter().zip(&state.gpus) {
            room.idle += u32::from(device.headroom.idle && !device.divided);
            if wanted == 0 || !device.healthy || !is_of_kind(needs, gpu, device) {
                continue;
            }
            room.healthy += 1;
            let Some(left) = left(needs, device) else {
                continue;
            };
            room.fitting += 1;
            room.of_class += u32::from(names_class(needs, device));
            room.fitting_idle += u32::from(device.headroom.idle);
            room.cheapest = room.cheapest.min(cost(needs, left));
        }
        room
    }

    /// Looks at the kind of every device alone.
    pub(super) fn of_kind(needs: &Requirements, node: &Node, state: &NodeState) -> Self {
        let devices = node.gpus.iter().zip(&state.gpus);
        let healthy = devices
            .filter(|(gpu, device)| device.healthy && is_of_kind(needs, gpu, device))
            .count();
        Self {
            healthy: to_u32(healthy),
            ..Self::default()
        }
    }

    /// Is there one of the pools that a job may be given GPUs from, and how large is it?
    fn pool(&self, pool: Pool) -> u32 {
        match pool {
            Pool::All => self.fitting,
            Pool::OfClass => self.of_class,
            Pool::Shared => self.fitting - self.of_class,
            Pool::Idle => self.fitting_idle,
        }
    }

    /// The pools to try, in order.
    fn pools(&self, wanted: u32) -> &'static [Pool] {
        if wanted <= 1 || self.of_class == 0 {
            &[Pool::All]
        } else {
            &[Pool::OfClass, Pool::Shared, Pool::Idle]
        }
    }

    /// Are there too few devices of the kind asked for, whatever is on them?
    pub(super) fn kind_misfit(
        &self,
        needs: &Requirements,
        node: &Node,
        state: &NodeState,
    ) -> Option<Misfit> {
        let wanted = needs.gpus.count();
        if wanted == 0 {
            return None;
        }
        if self.healthy < wanted {
            let pairs = || {
                let devices = node.gpus.iter().zip(&state.gpus);
                devices.map(|(gpu, device)| Device {
                    gpu,
                    model: &device.model,
                    divided: device.divided,
                })
            };
            return kind_misfit(needs, &pairs).or(Some(Misfit::GpuHealth {
                wanted,
                healthy: self.healthy,
            }));
        }
        if wanted == 1 || needs.interconnect == Link::Any {
            return None;
        }
        let devices = node.gpus.iter().zip(&state.gpus).enumerate();
        let right = devices.filter(|(_, (gpu, device))| is_of_kind(needs, gpu, device));
        let all = state.topology.count(right.map(|(at, _)| at));
        let joined = state.topology.joined(&all, needs.interconnect);
        (joined < wanted).then_some(Misfit::Interconnect {
            link: needs.interconnect,
            wanted,
            joined,
        })
    }

    /// Are the devices of the right kind too full?
    pub(super) fn misfit(
        &self,
        needs: &Requirements,
        node: &Node,
        state: &NodeState,
    ) -> Option<Misfit> {
        let wanted = needs.gpus.count();
        let mut pools = self.pools(wanted).iter();
        if wanted == 0 || pools.clone().any(|pool| self.pool(*pool) >= wanted) {
            if wanted <= 1 || needs.interconnect == Link::Any {
                return None;
            }
            let mut most = 0;
            let joined = pools.any(|pool| {
                let fitting = fitting(needs, node, state, *pool).map(|(at, _)| at);
                let count = state.topology.count(fitting);
                most = most.max(state.topology.joined(&count, needs.interconnect));
                most >= wanted
            });
            return (!joined).then_some(Misfit::Apart {
                link: needs.interconnect,
                wanted,
                joined: most,
            });
        }
        Some(self.full(needs, node, state))
    }

    /// The reason when too few GPUs have room.
    fn full(&self, needs: &Requirements, node: &Node, state: &NodeState) -> Misfit {
        let GpuRequest::Vram { count, bytes } = needs.gpus else {
            return Misfit::GpusBusy {
                wanted: needs.gpus.count(),
                idle: self.fitting,
            };
        };
        let alone = needs.exclusive != Exclusive::Shared;
        let right = || {
            let devices = node.gpus.iter().zip(&state.gpus);
            devices.filter(|(gpu, device)| gpu.healthy && is_of_kind(needs, gpu, device))
        };
        if alone {
            // Those that would do if no job were on them.
            let large = right().filter(|(_, device)| {
                device.size.could_hold(bytes) && (!device.headroom.vacant || device.headroom.idle)
            });
            if large.count() >= count as usize {
                return Misfit::GpusBusy {
                    wanted: count,
                    idle: self.fitting,
                };
            }
        }
        let rest = right().filter(|(_, device)| left(needs, device).is_none());
        let best =
            rest.max_by_key(|(gpu, state)| (state.headroom.free, std::cmp::Reverse(gpu.index)));
        let Some((gpu, device)) = best else {
            // Each would do by itself, and they cannot be had together: some are shared and some would be taken whole.
            return Misfit::GpusBusy {
                wanted: count,
                idle: to_u32(right().filter(|(_, device)| device.headroom.idle).count()),
            };
        };
        Misfit::Vram {
            wanted: bytes,
            count,
            fitting: self.fitting,
            best_free: device.headroom.free,
            best_gpu: gpu.index,
        }
    }

    /// The best set of devices, and which pool it is from; `None` for a job that gets none.
    pub(super) fn choose<T>(
        &self,
        needs: &Requirements,
        node: &Node,
        state: &NodeState,
        then: impl FnOnce(Chosen, &[Candidate]) -> T,
    ) -> Option<T> {
        let wanted = needs.gpus.count();
        if wanted == 0 {
            return None;
        }
        let idle = node.gpus.iter().zip(&state.gpus).enumerate();
        let idle = idle.filter(|(_, (gpu, device))| {
            device.headroom.idle && !device.divided && gpu.slice.is_none()
        });
        let idle = state.topology.count(idle.map(|(at, _)| at));
        for pool in self.pools(wanted) {
            if self.pool(*pool) < wanted {
                continue;
            }
            let mut few = [Candidate::default(); ON_STACK];
            let mut many;
            let size = self.pool(*pool) as usize;
            let candidates = if size <= ON_STACK {
                &mut few[..size]
            } else {
                many = vec![Candidate::default(); size];
                &mut many[..]
            };
            let found = fitting(needs, node, state, *pool);
            for (slot, (at, left)) in candidates.iter_mut().zip(found) {
                let cost = cost(needs, left);
                *slot = Candidate { cost, at };
            }
            candidates.sort_unstable_by_key(|one| (one.cost, node.gpus[one.at].index, one.at));
            let least = needs.interconnect;
            if let Some(chosen) = state.topology.choose(candidates, wanted, least, &idle) {
                return Some(then(chosen, candidates));
            }
        }
        None
    }
}

/// The devices of a pool that a job fits on, as their places among the node's and what would be left of each.
fn fitting<'a>(
    needs: &'a Requirements,
    node: &'a Node,
    state: &'a NodeState,
    pool: Pool,
) -> impl Iterator<Item = (usize, u64)> + 'a {
    let devices = node.gpus.iter().zip(&state.gpus).enumerate();
    devices.filter_map(move |(at, (gpu, device))| {
        let in_pool = match pool {
            Pool::All => true,
            Pool::OfClass => names_class(needs, device),
            Pool::Shared => !names_class(needs, device),
            Pool::Idle => device.headroom.idle,
        };
        if !in_pool || !gpu.healthy || !is_of_kind(needs, gpu, device) {
            return None;
        }
        Some((at, left(needs, device)?))
    })
}

/// What would be left of a device, or `None` when the job does not fit on it. Kind and health are not looked at.
fn left(needs: &Requirements, device: &GpuState) -> Option<u64> {
    let room = device.headroom;
    match needs.gpus {
        GpuRequest::None => None,
        GpuRequest::Whole(_) => room.idle.then_some(device.size.capacity.0),
        GpuRequest::Vram { bytes, .. } => {
            // Who declares nothing at all still needs a device that has something left.
            let bytes = bytes.max(Bytes(1));
            if needs.exclusive == Exclusive::Shared {
                if bytes <= room.free {
                    Some(room.free.0 - bytes.0)
                } else {
                    (room.idle && device.size.names_class(bytes)).then_some(0)
                }
            } else {
                // Alone among jobs; what is no job's may stay beside it where there is room for both.
                let fits = room.vacant && bytes <= room.free;
                (fits || (room.idle && device.size.could_hold(bytes)))
                    .then_some(device.size.capacity.saturating_sub(bytes).0)
            }
        }
    }
}

/// What is left over as something to have little of.
fn cost(needs: &Requirements, left: u64) -> u64 {
    match needs.packing {
        Packing::Pack => left,
        Packing::Spread => u64::MAX - left,
    }
}

/// Would a job that shares take all of the device, because it names its class?
fn names_class(needs: &Requirements, device: &GpuState) -> bool {
    match needs.gpus {
        GpuRequest::Vram { bytes, .. } => {
            needs.exclusive == Exclusive::Shared && device.size.names_class(bytes)
        }
        GpuRequest::None | GpuRequest::Whole(_) => false,
    }
}

/// The GPUs that a job gets on a node that it fits, as positions in `facts.gpus`, in bus order.
pub(crate) fn choose_gpus(needs: &Requirements, state: &NodeState) -> Vec<usize> {
    let Some(node) = &state.facts else {
        return Vec::new();
    };
    let room = Room::of(needs, node, state);
    let chosen = room.choose(needs, node, state, |chosen, candidates| {
        let mut picks: Vec<usize> = chosen.picks(&state.topology, candidates).collect();
        picks.sort_by_key(|at| (node.gpus[*at].index, *at));
        picks
    });
    chosen.unwrap_or_default()
}

/// True when the job gets the chosen GPUs for itself alone.
pub(crate) fn takes_whole_gpus(needs: &Requirements, gpus: &[&Gpu]) -> bool {
    match needs.gpus {
        GpuRequest::None => false,
        GpuRequest::Whole(_) => true,
        GpuRequest::Vram { bytes, .. } => {
            // GPUs of which one is taken whole are all idle ones, see `Pool`.
            needs.exclusive != Exclusive::Shared
                || gpus.iter().any(|gpu| vram::names_class(bytes, gpu))
        }
    }
}

/// How loosely the GPUs of a job are joined at the least on a node with these devices; 0 for fewer than two.
pub(crate) fn least_looseness(needs: &Requirements, state: &NodeState) -> u8 {
    let wanted = needs.gpus.count();
    if wanted < 2 {
        return 0;
    }
    let all = state.topology.count(0..state.gpus.len());
    let links = [Link::NvLink, Link::PcieSwitch, Link::Numa];
    let mut tight = links.into_iter();
    let link = tight.find(|link| state.topology.joined(&all, *link) >= wanted);
    Link::NvLink as u8 - link.unwrap_or(Link::Any) as u8
}

/// Do all devices of the node count for the job, or does it ask for none?
pub(crate) fn counts_all(needs: &Requirements, state: &NodeState) -> bool {
    let devices = state.facts.iter().flat_map(|node| &node.gpus);
    needs.gpus == GpuRequest::None
        || devices
            .zip(&state.gpus)
            .all(|(gpu, device)| gpu.healthy && is_of_kind(needs, gpu, device))
}

/// Does the device count for this job, by its model, size and capability, and as a GPU or a slice?
fn is_of_kind(needs: &Requirements, gpu: &Gpu, device: &GpuState) -> bool {
    let counts = if device.is_slice {
        counts(needs, gpu, device.divided)
    } else {
        !device.divided && !matches!(needs.slices, Slices::Only(_))
    };
    counts && (accepts_any(needs) || matches(needs, gpu, &device.model))
}

/// May the job be given this sort of device: a GPU, or a slice of one?
pub(super) fn counts(needs: &Requirements, gpu: &Gpu, divided: bool) -> bool {
    let Some(slice) = &gpu.slice else {
        return !divided && !matches!(needs.slices, Slices::Only(_));
    };
    needs.gpus.count() == 1
        && match &needs.slices {
            Slices::Unasked => {
                needs.gpu_model.is_none() && matches!(needs.gpus, GpuRequest::Vram { .. })
            }
            Slices::Allowed => true,
            Slices::Only(profile) => *profile == slice.profile,
        }
}

/// Does the job ask for no model, size or capability?
fn accepts_any(needs: &Requirements) -> bool {
    needs.gpu_model.is_none()
        && needs.gpu_min_memory.is_none()
        && needs.gpu_min_capability.is_none()
}

pub(super) fn matches(needs: &Requirements, gpu: &Gpu, lower_model: &str) -> bool {
    needs
        .gpu_model
        .as_ref()
        .is_none_or(|model| lower_model.contains(&**model))
        && needs
            .gpu_min_memory
            .is_none_or(|least| gpu.memory >= least || vram::names_class(least, gpu))
        && needs
            .gpu_min_capability
            .is_none_or(|least| gpu.capability.is_some_and(|has| has >= least))
}

/// A device as its kind is judged by.
#[derive(Clone, Copy)]
pub(super) struct Device<'a> {
    pub(super) gpu: &'a Gpu,
    /// Its model in lower case.
    pub(super) model: &'a str,
    /// Does it have slices?
    pub(super) divided: bool,
}

/// Why too few devices are of the kind asked for, whatever is on them; `None` when there are enough.
pub(super) fn kind_misfit<'a, I: Iterator<Item = Device<'a>>>(
    needs: &Requirements,
    all: &dyn Fn() -> I,
) -> Option<Misfit> {
    let wanted = needs.gpus.count();
    if wanted == 0 {
        return None;
    }
    if wanted > 1 && matches!(needs.slices, Slices::Only(_)) {
        return Some(Misfit::ManySlices { wanted });
    }
    let gpus = || all().filter(|device| counts(needs, device.gpu, device.divided));
    let total = to_u32(gpus().count());
    if total < wanted {
        if let Slices::Only(profile) = &needs.slices {
            let profile = profile.clone();
            return Some(Misfit::Slice { profile });
        }
        let whole = || all().filter(|device| device.gpu.slice.is_none());
        return Some(if to_u32(whole().count()) >= wanted {
            Misfit::Divided {
                wanted,
                whole: to_u32(whole().filter(|device| !device.divided).count()),
            }
        } else {
            Misfit::GpuCount { wanted, total }
        });
    }
    let count = |test: &dyn Fn(&Gpu, &str) -> bool| {
        to_u32(gpus().filter(|one| test(one.gpu, one.model)).count())
    };
    if let Some(model) = &needs.gpu_model {
        let matching = count(&|_, has| has.contains(&**model));
        if matching < wanted {
            return Some(Misfit::GpuModel {
                model: model.clone(),
                wanted,
                matching,
            });
        }
    }
    if let Some(memory) = needs.gpu_min_memory {
        let enough = |gpu: &Gpu| gpu.memory >= memory || vram::names_class(memory, gpu);
        let matching = count(&|gpu, _| enough(gpu));
        if matching < wanted {
            let rest = gpus().filter(|one| !enough(one.gpu));
            let best = rest.map(|one| one.gpu.memory).max().unwrap_or_default();
            return Some(Misfit::GpuMemory {
                memory,
                wanted,
                matching,
                best,
            });
        }
    }
    if let Some(capability) = needs.gpu_min_capability {
        let matching = count(&|gpu, _| gpu.capability.is_some_and(|has| has >= capability));
        if matching < wanted {
            return Some(Misfit::GpuCapability {
                capability,
                wanted,
                matching,
            });
        }
    }
    let matching = count(&|gpu, model| matches(needs, gpu, model));
    (matching < wanted).then_some(Misfit::GpuCount {
        wanted,
        total: matching,
    })
}
