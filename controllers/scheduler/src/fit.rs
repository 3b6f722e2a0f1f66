//! Does a job fit a node, how well, and if not, why not. Placing and explaining use the same checks.

use crate::input::{
    DesiredState, Exclusive, Gpu, GpuRequest, Node, NodeName, Requirements, TaintEffect,
};
use crate::node_state::{GpuState, NodeState};
use crate::reason::Misfit;
use crate::vram;

/// How well a job fits; less is better. Best fit: what is left over is small, so that large gaps stay open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    /// Taints that ask to be avoided and are not tolerated.
    soft_taints: u32,
    /// By the kind of request: GPU memory left on the chosen GPUs, idle GPUs left, or GPUs that a CPU job would block.
    first: u64,
    /// A finer measure of the same.
    second: u64,
    /// CPU or host memory left.
    third: u64,
}

/// Could a job fit a node if nothing ran there? Cheap; it tells which nodes are worth a closer look.
pub(crate) fn may_fit(needs: &Requirements, name: &NodeName, state: &NodeState) -> bool {
    state.facts.as_ref().is_some_and(|node| {
        needs.cpu <= node.cpu
            && needs.memory <= node.memory
            && static_misfit(needs, name, node).is_none()
            && gpu_kind_misfit(needs, node, state).is_none()
    })
}

/// The reasons why a job does not fit; empty when it fits. With `all`, those beyond the first as well.
pub(crate) fn misfits(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
    all: bool,
) -> Vec<Misfit> {
    let mut found = Vec::new();
    let Some(node) = &state.facts else {
        found.push(Misfit::NotReady);
        return found;
    };
    let checks: [&dyn Fn() -> Option<Misfit>; 4] = [
        &|| static_misfit(needs, name, node),
        &|| gpu_kind_misfit(needs, node, state),
        &|| occupancy_misfit(needs, node, state),
        &|| gpu_room_misfit(needs, node, state),
    ];
    for check in checks {
        found.extend(check());
        if !all && !found.is_empty() {
            return found;
        }
    }
    found
}

/// How well a job fits, or the first reason why it does not.
pub(crate) fn fit(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
) -> Result<Score, Misfit> {
    let Some(node) = &state.facts else {
        return Err(Misfit::NotReady);
    };
    let misfit = static_misfit(needs, name, node)
        .or_else(|| gpu_kind_misfit(needs, node, state))
        .or_else(|| occupancy_misfit(needs, node, state));
    if let Some(misfit) = misfit {
        return Err(misfit);
    }
    let cpu_left = state.cpu_free(node).0 - needs.cpu.0;
    let idle = state.gpus.iter().filter(|gpu| gpu.headroom.idle).count() as u64;
    let soft_taints = if node.taints.is_empty() {
        0
    } else {
        soft_taints(needs, node)
    };
    let (first, second, third) = match needs.gpus {
        GpuRequest::None => {
            let blocked = if node.gpus.is_empty() { 0 } else { 1 + idle };
            (
                blocked,
                cpu_left,
                state.memory_free(node).0.saturating_sub(needs.memory.0),
            )
        }
        GpuRequest::Whole(count) => {
            let leftover = leftover(needs, node, state, count)?;
            (idle - u64::from(count), leftover, cpu_left)
        }
        GpuRequest::Vram { count, .. } => (leftover(needs, node, state, count)?, idle, cpu_left),
    };
    Ok(Score {
        soft_taints,
        first,
        second,
        third,
    })
}

/// The GPUs that a job gets on a node that it fits, as positions in `facts.gpus`, in bus order.
pub(crate) fn choose_gpus(needs: &Requirements, state: &NodeState) -> Vec<usize> {
    let Some(node) = &state.facts else {
        return Vec::new();
    };
    let mut rooms = rooms(needs, node, state);
    rooms.truncate(needs.gpus.count() as usize);
    let mut chosen: Vec<usize> = rooms.into_iter().map(|(_, at)| at).collect();
    chosen.sort_by_key(|at| (node.gpus[*at].index, *at));
    chosen
}

/// True when the job gets the chosen GPUs for itself alone.
pub(crate) fn takes_whole_gpus(needs: &Requirements, gpus: &[&Gpu]) -> bool {
    match needs.gpus {
        GpuRequest::None => false,
        GpuRequest::Whole(_) => true,
        GpuRequest::Vram { bytes, .. } => {
            // GPUs of which one is taken whole are all idle ones, see `rooms`.
            needs.exclusive != Exclusive::Shared
                || gpus.iter().any(|gpu| vram::names_class(bytes, gpu))
        }
    }
}

/// Could the node run the job if it were empty, ready and at the most it was ever seen with? Labels, taints and other
/// things that people can change do not count.
pub(crate) fn could_ever(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
) -> Result<(), Misfit> {
    if needs.node_name.as_ref().is_some_and(|pin| pin != name) {
        return Err(Misfit::NotPinned);
    }
    let water = &state.high_water;
    if needs.cpu > water.cpu {
        return Err(Misfit::Cpu {
            wanted: needs.cpu,
            free: water.cpu,
        });
    }
    if needs.memory > water.memory {
        return Err(Misfit::Memory {
            wanted: needs.memory,
            free: water.memory,
        });
    }
    // A capability that was never reported may still turn out to be enough.
    let mut lenient = needs.clone();
    if water.gpus.values().any(|gpu| gpu.capability.is_none()) {
        lenient.gpu_min_capability = None;
    }
    let needs = &lenient;
    let wanted = needs.gpus.count();
    let known: Vec<(&Gpu, String)> = water
        .gpus
        .values()
        .map(|gpu| (gpu, gpu.model.to_lowercase()))
        .collect();
    let pairs = || known.iter().map(|(gpu, model)| (*gpu, model.as_str()));
    if let Some(misfit) = kind_misfit(needs, wanted, &pairs) {
        return Err(misfit);
    }
    if let GpuRequest::Vram { count, bytes } = needs.gpus {
        let matching = || pairs().filter(|(gpu, model)| matches_kind(needs, gpu, model));
        let fitting = matching()
            .filter(|(gpu, _)| vram::could_hold(bytes, gpu))
            .count();
        if fitting < count as usize {
            let rest = matching().filter(|(gpu, _)| !vram::could_hold(bytes, gpu));
            let best = rest.max_by_key(|(gpu, _)| (gpu.memory, std::cmp::Reverse(gpu.index)));
            let shareable = |gpu: &Gpu| vram::capacity(gpu).saturating_sub(vram::MARGIN);
            return Err(Misfit::Vram {
                wanted: bytes,
                count,
                fitting: to_u32(fitting),
                best_free: best.map(|(gpu, _)| shareable(gpu)).unwrap_or_default(),
                best_gpu: best.map_or(0, |(gpu, _)| gpu.index),
            });
        }
    }
    Ok(())
}

/// What does not change while jobs come and go.
fn static_misfit(needs: &Requirements, name: &NodeName, node: &Node) -> Option<Misfit> {
    if needs.node_name.as_ref().is_some_and(|pin| pin != name) {
        return Some(Misfit::NotPinned);
    }
    for (key, wanted) in &needs.node_selector {
        if node.labels.get(key) != Some(wanted) {
            return Some(Misfit::Selector {
                key: key.clone(),
                wanted: wanted.clone(),
            });
        }
    }
    if let Some(tag) = needs.needs.iter().find(|tag| !node.offers.contains(*tag)) {
        return Some(Misfit::Needs { tag: tag.clone() });
    }
    let hard = node
        .taints
        .iter()
        .filter(|taint| taint.effect != TaintEffect::PreferNoSchedule);
    for taint in hard {
        if !needs
            .tolerations
            .iter()
            .any(|toleration| toleration.covers(taint))
        {
            return Some(Misfit::Taint {
                key: taint.key.clone(),
                value: taint.value.clone(),
            });
        }
    }
    if needs.avoid.contains(name) {
        Some(Misfit::Avoided)
    } else if !node.ready {
        Some(Misfit::NotReady)
    } else if node.unschedulable {
        Some(Misfit::Cordoned)
    } else if node.desired != DesiredState::Run {
        Some(Misfit::Desired(node.desired))
    } else {
        None
    }
}

fn soft_taints(needs: &Requirements, node: &Node) -> u32 {
    let soft = node.taints.iter().filter(|taint| {
        taint.effect == TaintEffect::PreferNoSchedule
            && !needs
                .tolerations
                .iter()
                .any(|toleration| toleration.covers(taint))
    });
    to_u32(soft.count())
}

fn matches_kind(needs: &Requirements, gpu: &Gpu, lower_model: &str) -> bool {
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

/// Are there enough GPUs of the kind asked for, whatever is on them?
fn kind_misfit<'a, I: Iterator<Item = (&'a Gpu, &'a str)>>(
    needs: &Requirements,
    wanted: u32,
    gpus: &dyn Fn() -> I,
) -> Option<Misfit> {
    if wanted == 0 {
        return None;
    }
    let total = to_u32(gpus().count());
    if total < wanted {
        return Some(Misfit::GpuCount { wanted, total });
    }
    let count = |test: &dyn Fn(&Gpu, &str) -> bool| {
        to_u32(gpus().filter(|(gpu, model)| test(gpu, model)).count())
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
            let rest = gpus().filter(|(gpu, _)| !enough(gpu));
            let best = rest.map(|(gpu, _)| gpu.memory).max().unwrap_or_default();
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
    let matching = count(&|gpu, model| matches_kind(needs, gpu, model));
    (matching < wanted).then_some(Misfit::GpuCount {
        wanted,
        total: matching,
    })
}

fn gpu_kind_misfit(needs: &Requirements, node: &Node, state: &NodeState) -> Option<Misfit> {
    let wanted = needs.gpus.count();
    if wanted == 0 {
        return None;
    }
    let pairs = || {
        node.gpus
            .iter()
            .zip(&state.gpus)
            .map(|(gpu, state)| (gpu, state.model.as_str()))
    };
    if let Some(misfit) = kind_misfit(needs, wanted, &pairs) {
        return Some(misfit);
    }
    let healthy = pairs()
        .filter(|(gpu, model)| gpu.healthy && matches_kind(needs, gpu, model))
        .count();
    (healthy < wanted as usize).then_some(Misfit::GpuHealth {
        wanted,
        healthy: to_u32(healthy),
    })
}

/// Jobs, CPU and host memory.
fn occupancy_misfit(needs: &Requirements, node: &Node, state: &NodeState) -> Option<Misfit> {
    if state.whole_jobs > 0 {
        return Some(Misfit::HeldWhole);
    }
    if needs.exclusive == Exclusive::Node && !state.jobs.is_empty() {
        return Some(Misfit::NotEmpty {
            jobs: to_u32(state.jobs.len()),
        });
    }
    if let Some(max_jobs) = node.max_jobs
        && state.jobs.len() >= max_jobs as usize
    {
        return Some(Misfit::Full { max_jobs });
    }
    let cpu = state.cpu_free(node);
    if needs.cpu > cpu {
        return Some(Misfit::Cpu {
            wanted: needs.cpu,
            free: cpu,
        });
    }
    let memory = state.memory_free(node);
    (needs.memory > memory).then_some(Misfit::Memory {
        wanted: needs.memory,
        free: memory,
    })
}

/// What would be left of a GPU, or `None` when the job does not fit on it.
fn room(needs: &Requirements, gpu: &Gpu, state: &GpuState) -> Option<u64> {
    if !gpu.healthy || !matches_kind(needs, gpu, &state.model) {
        return None;
    }
    match needs.gpus {
        GpuRequest::None => None,
        GpuRequest::Whole(_) => state.headroom.idle.then_some(vram::capacity(gpu).0),
        GpuRequest::Vram { bytes, .. } if needs.exclusive != Exclusive::Shared => {
            (state.headroom.idle && vram::could_hold(bytes, gpu))
                .then_some(vram::capacity(gpu).saturating_sub(bytes).0)
        }
        GpuRequest::Vram { bytes, .. } if bytes <= state.headroom.free => {
            Some(state.headroom.free.saturating_sub(bytes).0)
        }
        GpuRequest::Vram { bytes, .. } => {
            (state.headroom.idle && vram::names_class(bytes, gpu)).then_some(0)
        }
    }
}

/// GPUs that the job fits on, the tightest first.
///
/// A binding says once for all its GPUs whether they are taken whole. So a job of several GPUs that names the class of one
/// of them gets cards of that class, else cards that it shares, and only then idle ones of both kinds.
fn rooms(needs: &Requirements, node: &Node, state: &NodeState) -> Vec<(u64, usize)> {
    let wanted = needs.gpus.count() as usize;
    let all = rooms_where(needs, node, state, &|_, _| true);
    let GpuRequest::Vram { bytes, .. } = needs.gpus else {
        return all;
    };
    let names_class = |(_, at): &&(u64, usize)| vram::names_class(bytes, &node.gpus[*at]);
    let of_class = all.iter().filter(names_class).count();
    if of_class == 0 || of_class >= wanted || needs.exclusive != Exclusive::Shared {
        // Cards of the class come first: nothing is left of them.
        return all;
    }
    let shared: Vec<_> = all
        .iter()
        .copied()
        .filter(|room| !names_class(&room))
        .collect();
    if shared.len() >= wanted {
        return shared;
    }
    let idle = rooms_where(needs, node, state, &|_, state| state.headroom.idle);
    if idle.len() > shared.len() {
        idle
    } else {
        shared
    }
}

fn rooms_where(
    needs: &Requirements,
    node: &Node,
    state: &NodeState,
    test: &dyn Fn(&Gpu, &GpuState) -> bool,
) -> Vec<(u64, usize)> {
    let gpus = node.gpus.iter().zip(&state.gpus).enumerate();
    let mut rooms: Vec<(u64, usize)> = gpus
        .filter(|(_, (gpu, state))| test(gpu, state))
        .filter_map(|(at, (gpu, state))| room(needs, gpu, state).map(|left| (left, at)))
        .collect();
    rooms.sort_unstable_by_key(|(left, at)| (*left, node.gpus[*at].index, *at));
    rooms
}

/// What would be left on the chosen GPUs together.
fn leftover(
    needs: &Requirements,
    node: &Node,
    state: &NodeState,
    count: u32,
) -> Result<u64, Misfit> {
    if count == 1 {
        let gpus = node.gpus.iter().zip(&state.gpus);
        let tightest = gpus
            .filter_map(|(gpu, state)| room(needs, gpu, state))
            .min();
        return tightest.ok_or_else(|| room_misfit(needs, node, state, 0));
    }
    let rooms = rooms(needs, node, state);
    if rooms.len() < count as usize {
        return Err(room_misfit(needs, node, state, rooms.len()));
    }
    let chosen = rooms.iter().take(count as usize);
    Ok(chosen.fold(0, |sum, (left, _)| sum.saturating_add(*left)))
}

fn gpu_room_misfit(needs: &Requirements, node: &Node, state: &NodeState) -> Option<Misfit> {
    let wanted = needs.gpus.count() as usize;
    let fitting = if wanted == 0 {
        0
    } else {
        rooms(needs, node, state).len()
    };
    (fitting < wanted).then(|| room_misfit(needs, node, state, fitting))
}

/// The reason when only `fitting` GPUs have room.
fn room_misfit(needs: &Requirements, node: &Node, state: &NodeState, fitting: usize) -> Misfit {
    let GpuRequest::Vram { count, bytes } = needs.gpus else {
        return Misfit::GpusBusy {
            wanted: needs.gpus.count(),
            idle: to_u32(fitting),
        };
    };
    let needs_idle = needs.exclusive != Exclusive::Shared;
    let gpus = || node.gpus.iter().zip(&state.gpus);
    let kind = |gpu: &Gpu, state: &GpuState| gpu.healthy && matches_kind(needs, gpu, &state.model);
    let large = gpus()
        .filter(|(gpu, state)| kind(gpu, state) && vram::could_hold(bytes, gpu))
        .count();
    if needs_idle && large >= count as usize {
        return Misfit::GpusBusy {
            wanted: count,
            idle: to_u32(fitting),
        };
    }
    let rest = gpus().filter(|(gpu, state)| kind(gpu, state) && room(needs, gpu, state).is_none());
    let best = rest.max_by_key(|(gpu, state)| (state.headroom.free, std::cmp::Reverse(gpu.index)));
    if best.is_none() {
        // Each would do by itself, and they cannot be had together: some are shared and some would be taken whole.
        let idle = gpus().filter(|(gpu, state)| kind(gpu, state) && state.headroom.idle);
        return Misfit::GpusBusy {
            wanted: count,
            idle: to_u32(idle.count()),
        };
    }
    Misfit::Vram {
        wanted: bytes,
        count,
        fitting: to_u32(fitting),
        best_free: best
            .map(|(_, state)| state.headroom.free)
            .unwrap_or_default(),
        best_gpu: best.map_or(0, |(gpu, _)| gpu.index),
    }
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
