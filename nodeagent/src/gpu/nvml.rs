//! GPUs through NVML. The only file that names the library; it is loaded at run time, and a machine without it is fine.

use std::collections::{BTreeMap, BTreeSet};

use crds::node::{AttributedUse, ForeignUse, GpuStatus, Holder};
use nvml_wrapper::Device;
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use super::{Reading, Roots};
use crate::attempt::AttemptId;
use crate::shim::tree::{self, Stat};

/// Published use is rounded up to this, so that it does not tick.
const GRAIN_BYTES: u64 = 64 << 20;

/// The cards of this machine, and what was seen of their users.
pub(super) struct Cards {
    nvml: Nvml,
    /// Attempts by the processes that were seen to be theirs, with start times, so that what outlives its attempt is
    /// known as its holder and a reused pid is not.
    owners: BTreeMap<(i32, u64), AttemptId>,
    /// Most memory of a process on a card, by card.
    peaks: BTreeMap<(String, i32, u64), u64>,
    /// Most memory of an attempt on a card.
    attempt_peaks: BTreeMap<(String, AttemptId), u64>,
}

/// Number of GPUs that NVML finds now; none when there is no driver.
pub(super) fn count() -> Option<usize> {
    let count = Nvml::init().ok()?.device_count().ok()?;
    usize::try_from(count).ok()
}

impl Cards {
    /// Loads the library; the reason when it cannot be used.
    pub(super) fn open() -> Result<Self, String> {
        let nvml = Nvml::init().map_err(|error| error.to_string())?;
        Ok(Self {
            nvml,
            owners: BTreeMap::new(),
            peaks: BTreeMap::new(),
            attempt_peaks: BTreeMap::new(),
        })
    }

    /// Reads all cards, in PCI bus order.
    pub(super) fn read(&mut self, roots: &Roots) -> Reading {
        let processes = tree::all();
        self.learn(&processes, roots);
        let count = self.nvml.device_count().unwrap_or(0);
        let mut gpus = Vec::new();
        for index in 0..count {
            if let Some((card, users)) = read_card(&self.nvml, index) {
                gpus.push(account(self.tally(), card, &users, &processes, roots));
            }
        }
        gpus.sort_by(|one, other| one.pci_bus_id.cmp(&other.pci_bus_id));
        for (index, gpu) in (0..).zip(&mut gpus) {
            gpu.index = index;
        }
        Reading {
            gpus,
            driver_version: self.nvml.sys_driver_version().ok(),
        }
    }

    /// The most memory that an attempt was seen with, by card.
    pub(super) fn peaks_of(&self, id: &AttemptId) -> BTreeMap<String, u64> {
        let peaks = self.attempt_peaks.iter();
        peaks
            .filter(|((_, owner), _)| owner == id)
            .map(|((uuid, _), bytes)| (uuid.clone(), *bytes))
            .collect()
    }

    fn tally(&mut self) -> Tally<'_> {
        Tally {
            owners: &self.owners,
            peaks: &mut self.peaks,
            attempt_peaks: &mut self.attempt_peaks,
        }
    }

    /// Notes which processes belong to which attempts, and forgets those that are gone.
    fn learn(&mut self, processes: &BTreeMap<i32, Stat>, roots: &Roots) {
        let alive = |pid: i32, start_ticks: u64| {
            let stat = processes.get(&pid);
            stat.is_some_and(|stat| stat.start_ticks == start_ticks)
        };
        self.owners
            .retain(|(pid, start_ticks), _| alive(*pid, *start_ticks));
        self.peaks
            .retain(|(_, pid, start_ticks), _| alive(*pid, *start_ticks));
        for (id, root) in &roots.running {
            for process in tree::below(processes, *root) {
                let known = (process.pid, process.start_ticks);
                self.owners.insert(known, id.clone());
            }
        }
        let owners: BTreeSet<&AttemptId> = self.owners.values().collect();
        self.attempt_peaks
            .retain(|(_, id), _| roots.running.contains_key(id) || owners.contains(id));
    }
}

/// The memory of users of the cards, across readings.
struct Tally<'a> {
    owners: &'a BTreeMap<(i32, u64), AttemptId>,
    peaks: &'a mut BTreeMap<(String, i32, u64), u64>,
    attempt_peaks: &'a mut BTreeMap<(String, AttemptId), u64>,
}

/// A process on a card; its memory where the driver says it.
struct CardUser {
    pid: i32,
    bytes: Option<u64>,
}

/// Reads one card. One without a UUID cannot be named, so it is left out and said in the log.
fn read_card(nvml: &Nvml, index: u32) -> Option<(GpuStatus, Vec<CardUser>)> {
    let device = match nvml.device_by_index(index) {
        Ok(device) => device,
        Err(error) => {
            tracing::warn!(index, %error, "a GPU cannot be opened");
            return None;
        }
    };
    let uuid = match device.uuid() {
        Ok(uuid) => uuid,
        Err(error) => {
            tracing::warn!(index, %error, "a GPU does not tell its UUID");
            return None;
        }
    };
    let memory = device.memory_info();
    let capability = device.cuda_compute_capability().ok();
    let (users, users_error) = users(&device);
    let trouble = match &memory {
        Err(error) => Some(format!("its memory cannot be read: {error}")),
        Ok(_) if is_sliced(&device) => {
            Some("MIG is enabled: the card is sliced and takes no job as a whole".to_owned())
        }
        Ok(_) => users_error.map(|error| format!("its processes cannot be read: {error}")),
    };
    let memory = memory.ok();
    let card = GpuStatus {
        uuid,
        index,
        model: device.name().unwrap_or_else(|_| "unknown".to_owned()),
        memory_bytes: memory.as_ref().map_or(0, |memory| memory.total),
        reserved_bytes: memory.as_ref().map_or(0, |memory| memory.reserved),
        used_bytes: memory.as_ref().map(|memory| rounded_up(memory.used)),
        compute_capability: capability.map(|found| format!("{}.{}", found.major, found.minor)),
        numa_node: device.numa_node_id().ok(),
        pci_bus_id: device.pci_info().ok().map(|info| info.bus_id),
        healthy: trouble.is_none(),
        health_message: trouble,
        ..GpuStatus::default()
    };
    Some((card, users))
}

fn is_sliced(device: &Device<'_>) -> bool {
    // A card without the feature answers with an error, and is whole.
    device.mig_mode().is_ok_and(|mode| mode.current == 1)
}

fn users(device: &Device<'_>) -> (Vec<CardUser>, Option<NvmlError>) {
    let (compute, error) = match device.running_compute_processes() {
        Ok(found) => (found, None),
        Err(error) => (Vec::new(), Some(error)),
    };
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
    let users = users.map(|(pid, bytes)| CardUser { pid, bytes }).collect();
    (users, error)
}

/// Attributes the users of a card to attempts that run, to attempts that ended, or to nobody here.
fn account(
    tally: Tally<'_>,
    mut card: GpuStatus,
    users: &[CardUser],
    processes: &BTreeMap<i32, Stat>,
    roots: &Roots,
) -> GpuStatus {
    let mut used: BTreeMap<AttemptId, u64> = BTreeMap::new();
    for user in users {
        // Gone since the driver was asked, or in another pid namespace: then its memory shows as residue.
        let Some(stat) = processes.get(&user.pid) else {
            continue;
        };
        let pid = u32::try_from(user.pid).unwrap_or(0);
        let key = (user.pid, stat.start_ticks);
        match tally.owners.get(&key) {
            Some(id) if roots.running.contains_key(id) => {
                *used.entry(id.clone()).or_default() += user.bytes.unwrap_or(0);
            }
            Some(id) => card.holders.push(Holder {
                pid,
                job_uid: id.uid.clone(),
                attempt: id.attempt,
            }),
            None => {
                let peak = tally
                    .peaks
                    .entry((card.uuid.clone(), user.pid, stat.start_ticks))
                    .or_default();
                *peak = (*peak).max(user.bytes.map_or(0, rounded_up));
                card.foreign.push(ForeignUse {
                    pid,
                    peak_bytes: *peak,
                });
            }
        }
    }
    for (id, bytes) in used {
        let peak = tally
            .attempt_peaks
            .entry((card.uuid.clone(), id.clone()))
            .or_default();
        *peak = (*peak).max(rounded_up(bytes));
        card.attributed.push(AttributedUse {
            job_uid: id.uid,
            attempt: id.attempt,
            used_bytes: rounded_up(bytes),
            peak_bytes: *peak,
        });
    }
    card
}

fn rounded_up(bytes: u64) -> u64 {
    bytes.div_ceil(GRAIN_BYTES).saturating_mul(GRAIN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: i32, start_ticks: u64) -> Stat {
        Stat {
            state: b'S',
            parent,
            session: 1,
            start_ticks,
        }
    }

    fn id(uid: &str) -> AttemptId {
        AttemptId {
            uid: uid.to_owned(),
            attempt: 1,
        }
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn users_are_attributed_to_running_and_ended_attempts_or_to_nobody() {
        let processes = BTreeMap::from([(5, stat(4, 50)), (6, stat(1, 60)), (7, stat(1, 70))]);
        let owners = BTreeMap::from([
            ((5, 50), id("runs")),
            ((6, 60), id("ended")),
            ((7, 1), id("old")),
        ]);
        let roots = Roots {
            running: BTreeMap::from([(id("runs"), 4)]),
        };
        let mut peaks = BTreeMap::from([(("c".to_owned(), 7, 70), 9 * GIB)]);
        let mut attempt_peaks = BTreeMap::new();
        let users: Vec<_> = [(5, 2), (6, 1), (7, 3), (8, 4)]
            .map(|(pid, gib)| CardUser {
                pid,
                bytes: Some(gib * GIB - 1),
            })
            .into();
        let card = GpuStatus {
            uuid: "c".to_owned(),
            ..GpuStatus::default()
        };
        let tally = Tally {
            owners: &owners,
            peaks: &mut peaks,
            attempt_peaks: &mut attempt_peaks,
        };
        let card = account(tally, card, &users, &processes, &roots);
        assert_eq!(card.attributed.len(), 1);
        assert_eq!(
            (card.attributed[0].used_bytes, card.attributed[0].peak_bytes),
            (2 * GIB, 2 * GIB)
        );
        assert_eq!(
            card.holders
                .iter()
                .map(|holder| holder.pid)
                .collect::<Vec<_>>(),
            [6]
        );
        // A pid that was reused is nobody's, and is held at the peak that it was seen with.
        assert_eq!(
            card.foreign,
            [ForeignUse {
                pid: 7,
                peak_bytes: 9 * GIB
            }]
        );
    }
}
