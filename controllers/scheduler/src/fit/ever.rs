//! Could the node run the job if it were empty, ready and at the most it was ever seen with?
//!
//! Labels, tags, taints and other things that people can change do not count, nor does how GPUs are divided into slices;
//! but a profile of slices that no GPU was ever divided into is not waited for. What was never reported may still turn out
//! to be enough.

use super::devices::{self, Device};
use super::to_u32;
use crate::input::{Gpu, GpuRequest, Link, NodeName, Requirements};
use crate::node_state::{HighWater, NodeState};
use crate::reason::Misfit;
use crate::topology::{self, Topology};
use crate::vram;

/// Why the node could never run the job.
pub(crate) fn could_ever(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
) -> Result<(), Misfit> {
    if needs.node_name.as_ref().is_some_and(|pin| pin != name) {
        return Err(Misfit::NotPinned);
    }
    let water = &state.high_water;
    let offers = |path: &str| water.offers_directory(path);
    if let Some(path) = needs.missing_directory(name, offers) {
        return Err(Misfit::Directory { path: path.clone() });
    }
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
    if needs.gpus == GpuRequest::None {
        return Ok(());
    }
    gpus_could_ever(needs, water)
}

fn gpus_could_ever(needs: &Requirements, water: &HighWater) -> Result<(), Misfit> {
    let mut lenient = needs.clone();
    let mut every = water.gpus.values().chain(water.slices.values());
    if every.any(|gpu| gpu.capability.is_none()) {
        lenient.gpu_min_capability = None;
    }
    let needs = &lenient;
    let wanted = needs.gpus.count();
    let every = water.gpus.values().chain(water.slices.values());
    let known: Vec<(&Gpu, String)> = every.map(|gpu| (gpu, gpu.model.to_lowercase())).collect();
    let devices = || {
        known.iter().map(|(gpu, model)| Device {
            gpu,
            model,
            divided: false,
        })
    };
    if let Some(misfit) = devices::kind_misfit(needs, &devices) {
        return Err(misfit);
    }
    let matching = || {
        devices().filter(|one| {
            devices::counts(needs, one.gpu, false) && devices::matches(needs, one.gpu, one.model)
        })
    };
    if let GpuRequest::Vram { count, bytes } = needs.gpus {
        let fitting = matching()
            .filter(|one| vram::could_hold(bytes, one.gpu))
            .count();
        if fitting < count as usize {
            let rest = matching().filter(|one| !vram::could_hold(bytes, one.gpu));
            let best = rest
                .map(|one| one.gpu)
                .max_by_key(|gpu| (gpu.memory, std::cmp::Reverse(gpu.index)));
            let shareable = |gpu: &Gpu| vram::capacity(gpu).saturating_sub(vram::MARGIN);
            return Err(Misfit::Vram {
                wanted: bytes,
                count,
                fitting: to_u32(fitting),
                best_free: best.map(shareable).unwrap_or_default(),
                best_gpu: best.map_or(0, |gpu| gpu.index),
            });
        }
    }
    let link = needs.interconnect;
    if wanted > 1 && link != Link::Any && topology::is_known(matching().map(|one| one.gpu), link) {
        let large = |gpu: &Gpu| match needs.gpus {
            GpuRequest::Vram { bytes, .. } => vram::could_hold(bytes, gpu),
            GpuRequest::None | GpuRequest::Whole(_) => true,
        };
        let gpus: Vec<&Gpu> = matching()
            .map(|one| one.gpu)
            .filter(|gpu| large(gpu))
            .collect();
        let topology = Topology::of(gpus.iter().copied());
        let joined = topology.joined(&topology.count(0..gpus.len()), link);
        if joined < wanted {
            return Err(Misfit::Interconnect {
                link,
                wanted,
                joined,
            });
        }
    }
    Ok(())
}
