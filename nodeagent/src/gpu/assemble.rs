//! From what the driver and the kernel say of each GPU to what the Node says. Pure, so that tests can make up machines.
//!
//! GPUs come first, in PCI bus order and numbered so; their MIG slices follow in the order of their GPUs, numbered on. So the
//! number of a GPU does not depend on how others are sliced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crds::node::{GpuSlice, GpuStatus};

use super::pci::{Address, Place};

/// Published use is rounded up to this, so that it does not tick.
const GRAIN_BYTES: u64 = 64 << 20;

/// A process on a device; its memory where the driver says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceUser {
    pub(super) pid: i32,
    pub(super) bytes: Option<u64>,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) reserved: u64,
    pub(super) used: u64,
}

/// What was read of a GPU or of a slice of one. An error is the text of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) uuid: String,
    pub(super) name: Option<String>,
    pub(super) memory: Result<Memory, String>,
    pub(super) users: Result<Vec<DeviceUser>, String>,
}

/// What was read of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawGpu {
    pub(super) device: Device,
    /// Compute capability, such as `9.0`.
    pub(super) capability: Option<String>,
    /// PCI bus id in the driver's words.
    pub(super) bus_id: Option<String>,
    /// Its MIG slices; `None` where MIG is off.
    pub(super) slices: Option<Vec<RawSlice>>,
}

/// What was read of a MIG slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawSlice {
    pub(super) device: Device,
    pub(super) shape: Option<SliceShape>,
}

/// How large a slice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SliceShape {
    /// Sevenths of the GPU of its GPU instance.
    pub(super) gpu_slices: u32,
    /// Sevenths of the GPU that compute for it: fewer where it shares its GPU instance, and so its memory.
    pub(super) compute_slices: u32,
    /// Memory of its GPU instance, in bytes.
    pub(super) memory_bytes: u64,
}

/// What is at the other end of an NVLink that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// A GPU.
    Gpu(Address),
    /// An NVSwitch. A machine has one fabric of them.
    Switch,
    /// Something else, such as a processor.
    Other,
}

/// How GPUs are joined, by UUID. It hardly ever changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wiring {
    /// Where they are.
    pub(super) places: BTreeMap<String, Place>,
    /// Their NVLinks that are up.
    pub(super) links: BTreeMap<String, Vec<LinkEnd>>,
    /// Whether the driver says of a pair that one reaches the other over NVLink. Its word counts more than `links`.
    pub(super) reach: BTreeMap<(String, String), bool>,
}

/// A device as the Node shows it, before its users are attributed, and these users.
pub(super) type Card = (GpuStatus, Vec<DeviceUser>);

/// All devices: GPUs, then slices.
pub(super) fn assemble(mut gpus: Vec<RawGpu>, wiring: &Wiring) -> Vec<Card> {
    // Those without a readable bus id keep their order behind the others.
    gpus.sort_by_key(|gpu| (address(gpu).is_none(), address(gpu)));
    let mut cards: Vec<Card> = gpus.iter().map(|gpu| whole(gpu, &gpus, wiring)).collect();
    for gpu in &gpus {
        let place = wiring.places.get(&gpu.device.uuid);
        let slices = gpu.slices.iter().flatten();
        cards.extend(slices.map(|one| slice(one, gpu, place)));
    }
    for (index, (card, _)) in (0..).zip(&mut cards) {
        card.index = index;
    }
    cards
}

fn address(gpu: &RawGpu) -> Option<Address> {
    gpu.bus_id.as_ref()?.parse().ok()
}

fn whole(gpu: &RawGpu, all: &[RawGpu], wiring: &Wiring) -> Card {
    let place = wiring.places.get(&gpu.device.uuid);
    let trouble = match &gpu.slices {
        None => trouble(&gpu.device),
        Some(slices) if slices.is_empty() => {
            Some("MIG is enabled and no slice was made: it takes no job".to_owned())
        }
        // The slices take the jobs; what cannot be read of the GPU is of no consequence.
        Some(_) => None,
    };
    let peers = all.iter().filter(|other| is_joined(gpu, other, wiring));
    let card = GpuStatus {
        pcie_switch: place
            .and_then(|place| place.pcie_switch)
            .map(|switch| switch.to_string()),
        nvlinks: peers.map(|other| other.device.uuid.clone()).collect(),
        healthy: trouble.is_none(),
        health_message: trouble,
        ..basics(&gpu.device, gpu, place)
    };
    // The processes of a sliced GPU are those of its slices.
    let users = if gpu.slices.is_none() {
        gpu.device.users.clone().unwrap_or_default()
    } else {
        Vec::new()
    };
    (card, users)
}

/// What is told of a GPU and of a slice in the same way.
fn basics(device: &Device, gpu: &RawGpu, place: Option<&Place>) -> GpuStatus {
    let memory = device.memory.as_ref().ok();
    let model = gpu.device.name.clone();
    GpuStatus {
        uuid: device.uuid.clone(),
        model: model.unwrap_or_else(|| "unknown".to_owned()),
        memory_bytes: memory.map_or(0, |memory| memory.total),
        reserved_bytes: memory.map_or(0, |memory| memory.reserved),
        used_bytes: memory.map(|memory| rounded_up(memory.used)),
        compute_capability: gpu.capability.clone(),
        numa_node: place.and_then(|place| place.numa_node),
        pci_bus_id: gpu.bus_id.clone(),
        healthy: true,
        ..GpuStatus::default()
    }
}

fn slice(slice: &RawSlice, gpu: &RawGpu, place: Option<&Place>) -> Card {
    let mut device = slice.device.clone();
    if let Some(shape) = slice.shape {
        device.memory = device.memory.or(Ok(Memory {
            total: shape.memory_bytes,
            ..Memory::default()
        }));
    }
    let used_is_known = slice.device.memory.is_ok();
    let trouble = trouble(&device);
    let mut card = GpuStatus {
        healthy: trouble.is_none(),
        health_message: trouble,
        slice: Some(GpuSlice {
            parent: gpu.device.uuid.clone(),
            profile: profile(slice, gpu),
        }),
        ..basics(&device, gpu, place)
    };
    card.used_bytes = card.used_bytes.filter(|_| used_is_known);
    let users = device.users.unwrap_or_default();
    if let Some(shape) = slice.shape
        && shape.compute_slices < shape.gpu_slices
    {
        // Several slices have the memory of one GPU instance together, and the driver tells each of all of it. Each gets its
        // part, so that it is not promised twice.
        let part = |bytes: u64| {
            let part = u128::from(bytes) * u128::from(shape.compute_slices);
            u64::try_from(part / u128::from(shape.gpu_slices)).unwrap_or(bytes)
        };
        card.memory_bytes = part(card.memory_bytes);
        card.reserved_bytes = part(card.reserved_bytes);
        let used: Option<u64> = users.iter().map(|user| user.bytes).sum();
        card.used_bytes = used.map(rounded_up);
    }
    (card, users)
}

/// Why no job can be put on a device.
fn trouble(device: &Device) -> Option<String> {
    match (&device.memory, &device.users) {
        (Err(error), _) => Some(format!("its memory cannot be read: {error}")),
        (Ok(_), Err(error)) => Some(format!("its processes cannot be read: {error}")),
        (Ok(_), Ok(_)) => None,
    }
}

/// The MIG profile: the driver's name of the slice ends with it (`NVIDIA A100-SXM4-40GB MIG 3g.20gb`), and where it does not,
/// it follows from the shape.
fn profile(slice: &RawSlice, gpu: &RawGpu) -> String {
    let name = slice.device.name.as_deref().unwrap_or_default();
    let named = name.rsplit_once("MIG ").map(|(_, profile)| profile.trim());
    if let Some(named) = named
        && named.contains("g.")
        && !named.contains(' ')
    {
        return named.to_owned();
    }
    let Some(shape) = slice.shape else {
        return "unknown".to_owned();
    };
    let whole = gpu.device.memory.as_ref();
    let whole = whole.map_or(0, |memory| memory.total);
    let gigabytes = gigabytes(shape.memory_bytes, whole);
    let (all, some) = (shape.gpu_slices, shape.compute_slices);
    if some < all {
        format!("{some}c.{all}g.{gigabytes}gb")
    } else {
        format!("{all}g.{gigabytes}gb")
    }
}

/// The memory in a profile's name: the eighths of the GPU that the slice has, rounded up, of its size in whole gigabytes.
fn gigabytes(slice: u64, whole: u64) -> u64 {
    const GIB: u64 = 1 << 30;
    if whole == 0 {
        return slice.div_ceil(GIB);
    }
    let eighths = slice.saturating_mul(8).div_ceil(whole).min(8);
    (eighths * whole.div_ceil(GIB) + 4) / 8
}

/// Are two GPUs joined by NVLink, directly or through switches? Sliced ones are joined to nothing.
fn is_joined(one: &RawGpu, other: &RawGpu, wiring: &Wiring) -> bool {
    let (a, b) = (&one.device.uuid, &other.device.uuid);
    if a == b || one.slices.is_some() || other.slices.is_some() {
        return false;
    }
    let pair = (a.min(b).clone(), a.max(b).clone());
    if let Some(reach) = wiring.reach.get(&pair) {
        return *reach;
    }
    let ends = |uuid: &String| wiring.links.get(uuid).map_or(&[][..], Vec::as_slice);
    let leads_to = |uuid: &String, gpu: &RawGpu| {
        address(gpu).is_some_and(|address| ends(uuid).contains(&LinkEnd::Gpu(address)))
    };
    let in_fabric = |uuid: &String| ends(uuid).contains(&LinkEnd::Switch);
    leads_to(a, other) || leads_to(b, one) || (in_fabric(a) && in_fabric(b))
}

type AreJoined = fn(&GpuStatus, &GpuStatus) -> bool;

/// How the GPUs of a node are joined, for a line in a table: by what joins any two of them the tightest, and how many of them
/// it joins to each other. `NVLink 8`, `NVLink 2+2`, `PCIe 4+4`, `NUMA 2+2`; `None` where nothing is known to join two.
pub(crate) fn links_in_short(gpus: &[GpuStatus]) -> Option<String> {
    let gpus: Vec<&GpuStatus> = gpus.iter().filter(|gpu| gpu.slice.is_none()).collect();
    let ways: [(&str, AreJoined); 3] = [
        ("NVLink", |a, b| {
            a.nvlinks.contains(&b.uuid) || b.nvlinks.contains(&a.uuid)
        }),
        ("PCIe", |a, b| {
            a.pcie_switch.is_some() && a.pcie_switch == b.pcie_switch
        }),
        ("NUMA", |a, b| {
            a.numa_node.is_some() && a.numa_node == b.numa_node
        }),
    ];
    ways.into_iter().find_map(|(word, joined)| {
        let mut sizes = group_sizes(&gpus, joined);
        sizes.retain(|size| *size > 1);
        sizes.sort_by_key(|size| Reverse(*size));
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        (!sizes.is_empty()).then(|| format!("{word} {}", sizes.join("+")))
    })
}

/// Sizes of the groups of GPUs that are joined, directly or over others of the group.
fn group_sizes(gpus: &[&GpuStatus], joined: AreJoined) -> Vec<usize> {
    let mut left: BTreeSet<usize> = (0..gpus.len()).collect();
    let mut sizes = Vec::new();
    while let Some(first) = left.pop_first() {
        let (mut size, mut fresh) = (1, vec![first]);
        while let Some(from) = fresh.pop() {
            let found: Vec<usize> = left
                .iter()
                .copied()
                .filter(|to| joined(gpus[from], gpus[*to]))
                .collect();
            size += found.len();
            for to in found {
                left.remove(&to);
                fresh.push(to);
            }
        }
        sizes.push(size);
    }
    sizes
}

/// Published figures are rounded up to 64 MiB.
pub(super) fn rounded_up(bytes: u64) -> u64 {
    bytes.div_ceil(GRAIN_BYTES).saturating_mul(GRAIN_BYTES)
}
