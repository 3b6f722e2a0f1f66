//! What is asked of NVML. Nothing is made of the answers here, see [`crate::gpu::assemble`].
//!
//! The failure of a call leaves out what it would have told. A GPU that cannot be named, and so not given to anybody, is left
//! out whole and said in the log.

use std::collections::BTreeMap;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::raw::{self, RemoteKind};
use crate::gpu::assemble::{
    self, DeviceUser, LinkEnd, Memory, RawGpu, RawSlice, SliceShape, Wiring,
};
use crate::gpu::pci::{Address, Place, Sysfs};

/// More NVLinks than any GPU has.
const MOST_LINKS: u32 = 32;
/// More slices than any GPU has.
const MOST_SLICES: u32 = 16;
/// `NVML_DEVICE_MIG_ENABLE`.
const MIG_ENABLED: u32 = 1;

/// All GPUs with their slices.
pub(super) fn gpus(nvml: &Nvml) -> Vec<RawGpu> {
    let count = nvml.device_count().unwrap_or(0);
    (0..count).filter_map(|index| gpu(nvml, index)).collect()
}

/// How they are joined.
pub(super) fn wiring(nvml: &Nvml, sysfs: &Sysfs, gpus: &[RawGpu]) -> Wiring {
    let mut wiring = Wiring::default();
    let mut devices: Vec<(&str, Device<'_>)> = Vec::new();
    for gpu in gpus {
        let uuid = &gpu.device.uuid;
        let address = gpu.bus_id.as_ref().and_then(|id| id.parse().ok());
        let place = address.map_or_else(Place::default, |address| sysfs.place(address));
        wiring.places.insert(uuid.clone(), place);
        // Sliced GPUs use no NVLink.
        if gpu.slices.is_some() {
            continue;
        }
        let Ok(device) = nvml.device_by_uuid(uuid.as_str()) else {
            continue;
        };
        for (other_uuid, other) in &devices {
            if let Some(reaches) = raw::reaches_over_nvlink(nvml, &device, other) {
                let (first, second) = (
                    uuid.as_str().min(*other_uuid),
                    uuid.as_str().max(*other_uuid),
                );
                let pair = (first.to_owned(), second.to_owned());
                wiring.reach.insert(pair, reaches);
            }
        }
        let ends = links(nvml, sysfs, &device);
        if !ends.is_empty() {
            wiring.links.insert(uuid.clone(), ends);
        }
        devices.push((uuid, device));
    }
    wiring
}

fn gpu(nvml: &Nvml, index: u32) -> Option<RawGpu> {
    let device = match nvml.device_by_index(index) {
        Ok(device) => device,
        Err(error) => {
            tracing::warn!(index, %error, "a GPU cannot be opened");
            return None;
        }
    };
    let read = match device.uuid() {
        Ok(uuid) => read(&device, uuid, users(&device)),
        Err(error) => {
            tracing::warn!(index, %error, "a GPU does not tell its UUID");
            return None;
        }
    };
    let capability = device.cuda_compute_capability().ok();
    Some(RawGpu {
        capability: capability.map(|found| format!("{}.{}", found.major, found.minor)),
        bus_id: device.pci_info().ok().map(|info| info.bus_id),
        slices: is_sliced(&device).then(|| slices(&device)),
        device: read,
    })
}

fn is_sliced(device: &Device<'_>) -> bool {
    // A card without the feature answers with an error, and is whole.
    device
        .mig_mode()
        .is_ok_and(|mode| mode.current == MIG_ENABLED)
}

fn slices(gpu: &Device<'_>) -> Vec<RawSlice> {
    let most = gpu.mig_device_count().unwrap_or(0).min(MOST_SLICES);
    // There are as many places as there may be slices; one that is not taken answers with an error.
    let devices = (0..most).filter_map(|place| gpu.mig_device_by_index(place).ok());
    devices
        .filter_map(|device| {
            let uuid = match device.uuid() {
                Ok(uuid) => uuid,
                Err(error) => {
                    tracing::warn!(%error, "a MIG slice does not tell its UUID");
                    return None;
                }
            };
            let users = match users(&device) {
                // Then all that it uses shows as nobody's.
                Err(NvmlError::NotSupported) => Ok(Vec::new()),
                users => users,
            };
            let shape = device.attributes().ok().map(|attributes| SliceShape {
                gpu_slices: attributes.gpu_instance_slice_count,
                compute_slices: attributes.compute_instance_slice_count,
                memory_bytes: attributes.memory_size_mb << 20,
            });
            Some(RawSlice {
                device: read(&device, uuid, users),
                shape,
            })
        })
        .collect()
}

/// What is read of GPUs and slices in the same way.
fn read(
    device: &Device<'_>,
    uuid: String,
    users: Result<Vec<DeviceUser>, NvmlError>,
) -> assemble::Device {
    let memory = device.memory_info().map(|memory| Memory {
        total: memory.total,
        reserved: memory.reserved,
        used: memory.used,
    });
    assemble::Device {
        uuid,
        name: device.name().ok(),
        memory: memory.map_err(|error| error.to_string()),
        users: users.map_err(|error| error.to_string()),
    }
}

fn users(device: &Device<'_>) -> Result<Vec<DeviceUser>, NvmlError> {
    let compute = device.running_compute_processes()?;
    // Graphics is not supported everywhere; compute is what matters.
    let graphics = device.running_graphics_processes().unwrap_or_default();
    let mut found: BTreeMap<i32, Option<u64>> = BTreeMap::new();
    for process in compute.into_iter().chain(graphics) {
        let Ok(pid) = i32::try_from(process.pid) else {
            continue;
        };
        let bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let known = found.entry(pid).or_default();
        *known = (*known).max(bytes);
    }
    let users = found.into_iter();
    Ok(users
        .map(|(pid, bytes)| DeviceUser { pid, bytes })
        .collect())
}

/// The other ends of the NVLinks that are up.
fn links(nvml: &Nvml, sysfs: &Sysfs, device: &Device<'_>) -> Vec<LinkEnd> {
    let mut ends = Vec::new();
    for number in 0..MOST_LINKS {
        let link = device.link_wrapper_for(number);
        match link.is_active() {
            Ok(true) => {}
            Ok(false) | Err(_) => continue,
        }
        let remote = || -> Option<Address> { link.remote_pci_info().ok()?.bus_id.parse().ok() };
        let end = match raw::remote_kind(nvml, device, number) {
            Some(RemoteKind::Gpu) => remote().map_or(LinkEnd::Other, LinkEnd::Gpu),
            Some(RemoteKind::Switch) => LinkEnd::Switch,
            Some(RemoteKind::Other) => LinkEnd::Other,
            // An old driver: the kernel knows what is there.
            None => match remote() {
                Some(address) if sysfs.is_gpu(address) => LinkEnd::Gpu(address),
                Some(address) if sysfs.is_nvswitch(address) => LinkEnd::Switch,
                _ => LinkEnd::Other,
            },
        };
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    ends
}
