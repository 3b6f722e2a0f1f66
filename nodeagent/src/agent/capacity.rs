//! What this node has and what its attempts hold of it: the last arbiter against double booking (rules.md section 3).

use std::collections::{BTreeMap, BTreeSet};

use crds::node::GpuStatus;

use crate::attempt::Charge;

/// A GPU as the arbiter knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GpuCapacity {
    /// Bytes that jobs may be charged together.
    pub(crate) bytes: u64,
    /// Why it takes no job.
    pub(crate) unfit: Option<String>,
}

/// What the node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) gpus: BTreeMap<String, GpuCapacity>,
}

/// What the GPUs of a node are good for, by UUID. One that is divided into slices takes no job: its slices do.
pub(crate) fn gpus(reported: &[GpuStatus]) -> BTreeMap<String, GpuCapacity> {
    let slices = reported.iter().filter_map(|gpu| gpu.slice.as_ref());
    let divided: BTreeSet<&str> = slices.map(|slice| slice.parent.as_str()).collect();
    let known = reported.iter().map(|gpu| {
        let unfit = if divided.contains(gpu.uuid.as_str()) {
            Some("it is divided into MIG slices".to_owned())
        } else {
            (!gpu.healthy).then(|| gpu.health_message.clone().unwrap_or_default())
        };
        let bytes = gpu.memory_bytes.saturating_sub(gpu.reserved_bytes);
        (gpu.uuid.clone(), GpuCapacity { bytes, unfit })
    });
    known.collect()
}

/// Why an attempt does not fit, if it does not: `held` are the charges of what runs here now.
pub(crate) fn misfit<'a>(
    capacity: &Capacity,
    held: impl Iterator<Item = &'a Charge>,
    wanted: &Charge,
) -> Option<String> {
    let mut cpu_millis = wanted.cpu_millis;
    let mut memory_bytes = wanted.memory_bytes;
    let mut bytes_on: BTreeMap<&str, u64> = BTreeMap::new();
    let mut whole: Option<&str> = None;
    for charge in held {
        cpu_millis = cpu_millis.saturating_add(charge.cpu_millis);
        memory_bytes = memory_bytes.saturating_add(charge.memory_bytes);
        for gpu in &charge.gpus {
            let sum = bytes_on.entry(gpu).or_default();
            *sum = sum.saturating_add(charge.vram_bytes.unwrap_or(0));
            if wanted.gpus.contains(gpu) && (is_whole(charge) || is_whole(wanted)) {
                whole = Some(gpu);
            }
        }
    }
    for gpu in &wanted.gpus {
        let Some(known) = capacity.gpus.get(gpu) else {
            return Some(format!("GPU {gpu} is not on this node"));
        };
        if let Some(unfit) = &known.unfit {
            return Some(format!("GPU {gpu} takes no job: {unfit}"));
        }
        let sum = bytes_on.get(gpu.as_str()).copied().unwrap_or(0);
        let sum = sum.saturating_add(wanted.vram_bytes.unwrap_or(0));
        if sum > known.bytes {
            return Some(format!(
                "GPU {gpu} would be charged {sum} bytes of {}",
                known.bytes
            ));
        }
    }
    if let Some(gpu) = whole {
        return Some(format!("GPU {gpu} is held by another job"));
    }
    if wanted
        .gpus
        .iter()
        .enumerate()
        .any(|(index, gpu)| wanted.gpus[..index].contains(gpu))
    {
        return Some("the same GPU is bound twice".to_owned());
    }
    if cpu_millis > capacity.cpu_millis && wanted.cpu_millis > 0 {
        return Some(format!(
            "cpu would be charged {cpu_millis}m of {}m",
            capacity.cpu_millis
        ));
    }
    if memory_bytes > capacity.memory_bytes && wanted.memory_bytes > 0 {
        return Some(format!(
            "memory would be charged {memory_bytes} bytes of {}",
            capacity.memory_bytes
        ));
    }
    None
}

fn is_whole(charge: &Charge) -> bool {
    charge.whole_gpus || charge.vram_bytes.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::SimGpus;

    fn charge(gpus: &[&str], vram: Option<u64>, whole_gpus: bool) -> Charge {
        Charge {
            gpus: gpus.iter().copied().map(str::to_owned).collect(),
            vram_bytes: vram,
            whole_gpus,
            cpu_millis: 1000,
            memory_bytes: 10,
        }
    }

    fn capacity() -> Capacity {
        let gpu = |unfit: Option<&str>| GpuCapacity {
            bytes: 100,
            unfit: unfit.map(str::to_owned),
        };
        Capacity {
            cpu_millis: 4000,
            memory_bytes: 100,
            gpus: BTreeMap::from([
                ("a".to_owned(), gpu(None)),
                ("b".to_owned(), gpu(None)),
                ("sick".to_owned(), gpu(Some("lost"))),
            ]),
        }
    }

    #[test]
    fn only_what_fits_beside_the_held_is_taken() {
        let shared = charge(&["a"], Some(60), false);
        let whole = charge(&["a"], None, true);
        let rows: [(&str, Vec<Charge>, Charge, Option<&str>); 11] = [
            ("empty node", vec![], shared.clone(), None),
            ("whole on empty", vec![], whole.clone(), None),
            (
                "two that share",
                vec![shared.clone()],
                charge(&["a"], Some(40), false),
                None,
            ),
            (
                "one byte too many",
                vec![shared.clone()],
                charge(&["a"], Some(41), false),
                Some("101 bytes of 100"),
            ),
            (
                "whole beside shared",
                vec![shared.clone()],
                whole.clone(),
                Some("held by another"),
            ),
            (
                "shared beside whole",
                vec![whole.clone()],
                shared.clone(),
                Some("held by another"),
            ),
            (
                "another card",
                vec![whole],
                charge(&["b"], None, true),
                None,
            ),
            (
                "unknown card",
                vec![],
                charge(&["x"], None, true),
                Some("not on this node"),
            ),
            (
                "sick card",
                vec![],
                charge(&["sick"], None, true),
                Some("takes no job"),
            ),
            (
                "the same card twice",
                vec![],
                charge(&["a", "a"], Some(1), false),
                Some("twice"),
            ),
            (
                "too many cores",
                vec![charge(&[], None, false); 4],
                charge(&[], None, false),
                Some("5000m of 4000m"),
            ),
        ];
        for (row, held, wanted, expected) in rows {
            let misfit = misfit(&capacity(), held.iter(), &wanted);
            match expected {
                None => assert_eq!(misfit, None, "{row}"),
                Some(text) => assert!(
                    misfit.as_ref().is_some_and(|m| m.contains(text)),
                    "{row}: {misfit:?}"
                ),
            }
        }
    }

    #[test]
    fn a_sliced_gpu_is_refused_and_its_slices_are_not() {
        let reported: SimGpus = "1x24Gi/mig=2g.12gb,1x24Gi".parse().expect("well formed");
        let reported = reported.cards("n");
        let capacity = Capacity {
            gpus: gpus(&reported),
            ..capacity()
        };
        let refusals: Vec<Option<String>> = reported
            .iter()
            .map(|gpu| misfit(&capacity, [].iter(), &charge(&[&gpu.uuid], Some(1), true)))
            .collect();
        let [sliced, whole, slice] = &refusals[..] else {
            panic!("two GPUs and a slice: {refusals:?}");
        };
        let sliced = sliced.as_deref().unwrap_or_default();
        assert!(sliced.contains("divided into MIG slices"), "{sliced}");
        assert_eq!((whole, slice), (&None, &None));
    }
}
