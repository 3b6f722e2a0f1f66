//! Which devices take a job, judged a second time and simply, for the properties.

use scheduler::{BoundJob, Bytes, Exclusive, Gpu, GpuRequest, Link, Requirements};

/// Enough cards of the class that the job names, or enough to share, or enough idle ones of both kinds.
pub(crate) fn gpus_take(needs: &Requirements, gpus: &[Gpu], here: &[&BoundJob]) -> bool {
    let wanted = needs.gpus.count() as usize;
    let takes: Vec<&Gpu> = gpus
        .iter()
        .filter(|gpu| gpu_takes(needs, gpu, here))
        .collect();
    let enough = |pool: Vec<&Gpu>| joined_set(&pool, wanted, needs.interconnect);
    let GpuRequest::Vram { bytes, .. } = needs.gpus else {
        return enough(takes);
    };
    if needs.exclusive != Exclusive::Shared || wanted == 1 {
        return enough(takes);
    }
    let of_class = |gpu: &&&Gpu| bytes.0 + 512 * Bytes::MIB > gpu.memory.0 - gpu.reserved.0;
    let whole = Requirements {
        gpus: GpuRequest::Whole(1),
        ..Requirements::default()
    };
    let idle = |gpu: &&&Gpu| gpu_takes(&whole, gpu, here);
    let pool =
        |test: &dyn Fn(&&&Gpu) -> bool| takes.iter().filter(|gpu| test(gpu)).copied().collect();
    enough(pool(&of_class)) || enough(pool(&|gpu| !of_class(gpu))) || enough(pool(&idle))
}

/// Is there a set of that many among the GPUs in which each is reached from each over links at least so tight?
fn joined_set(pool: &[&Gpu], wanted: usize, least: Link) -> bool {
    let near = |a: &Gpu, b: &Gpu| match least {
        Link::Any => true,
        Link::Numa => a.numa == b.numa || nvlink(a, b),
        Link::PcieSwitch | Link::NvLink => nvlink(a, b),
    };
    (0_u32..1 << pool.len()).any(|mask| {
        let set: Vec<&Gpu> = (0..pool.len())
            .filter(|at| mask & (1 << at) != 0)
            .map(|at| pool[at])
            .collect();
        let mut reached: Vec<&Gpu> = set.iter().take(1).copied().collect();
        let mut next = 0;
        while next < reached.len() {
            let from = reached[next];
            for gpu in &set {
                if near(from, gpu) && !reached.iter().any(|known| known.uuid == gpu.uuid) {
                    reached.push(gpu);
                }
            }
            next += 1;
        }
        set.len() == wanted && (wanted < 2 || reached.len() == wanted)
    })
}

fn nvlink(a: &Gpu, b: &Gpu) -> bool {
    let names = |one: &Gpu, other: &Gpu| one.nvlinks.as_ref().unwrap().contains(&other.index);
    names(a, b) || names(b, a)
}

fn gpu_takes(needs: &Requirements, gpu: &Gpu, here: &[&BoundJob]) -> bool {
    let margin = i128::from(512 * Bytes::MIB);
    let capacity = i128::from(gpu.memory.0 - gpu.reserved.0);
    let tenth_more = |bytes: Bytes| (i128::from(bytes.0) * 11 + 9) / 10;
    let class = |declared: i128| {
        declared > capacity - margin && declared <= i128::from(gpu.memory.0) * 107 / 100
    };
    let (mut charged, mut pending, mut holders) = (0, 0, 0);
    for job in here.iter().filter(|job| job.gpus.contains(&gpu.uuid)) {
        let seen = gpu.attributed.iter().find(|seen| seen.job == job.uid);
        let declared = job.vram.map(|bytes| i128::from(bytes.0));
        let charge = match declared.filter(|declared| !job.whole_gpus && !class(*declared)) {
            None => capacity,
            Some(declared) => match seen.filter(|seen| i128::from(seen.peak.0) > declared) {
                None => declared,
                Some(seen) => tenth_more(seen.peak).min(capacity).max(declared),
            },
        };
        charged += charge;
        pending += (charge - seen.map_or(0, |seen| i128::from(seen.used.0))).max(0);
        holders += 1;
    }
    let used = i128::from(gpu.used.unwrap().0);
    let jobs_use: i128 = gpu
        .attributed
        .iter()
        .map(|seen| i128::from(seen.used.0))
        .sum();
    let peaks = gpu.foreign_peaks.iter().map(|peak| i128::from(peak.0));
    let peaks: i128 = peaks.sum();
    let foreign = gpu
        .foreign_used
        .map_or(peaks, |used| i128::from(used.0).min(peaks));
    let foreign_held: i128 = gpu.foreign_peaks.iter().map(|peak| tenth_more(*peak)).sum();
    let residue = (used - jobs_use - foreign).max(0);
    let free = (capacity - margin - charged - foreign_held - residue)
        .min(capacity - used - margin - pending);
    let idle = holders == 0 && gpu.holders == 0 && foreign_held + residue <= margin;
    let free = if gpu.holders > 0 { 0 } else { free.max(0) };
    let vacant = holders == 0 && gpu.holders == 0;
    match needs.gpus {
        GpuRequest::None => false,
        GpuRequest::Whole(_) => idle,
        GpuRequest::Vram { bytes, .. } => {
            let declared = i128::from(bytes.0);
            let could = declared <= capacity - margin || class(declared);
            if needs.exclusive == Exclusive::Shared {
                declared <= free || (idle && class(declared))
            } else {
                (idle && could) || (vacant && declared <= free)
            }
        }
    }
}
