//! GPUs through NVML. The only folder that names the library; it is loaded at run time, and a machine without it is fine.

mod probe;
mod raw;

use std::collections::{BTreeMap, BTreeSet};

use nvml_wrapper::Nvml;

use super::account::{Tally, account};
use super::assemble::{RawGpu, Wiring, assemble};
use super::pci::Sysfs;
use super::{Reading, Roots};
use crate::attempt::AttemptId;
use crate::shim::tree::{self, Stat};

/// How the GPUs are joined is read again with every so many readings, which is a minute, and when there are others.
const READINGS_OF_A_WIRING: u32 = 6;

/// The cards of this machine, and what was seen of their users.
pub(super) struct Cards {
    nvml: Nvml,
    sysfs: Sysfs,
    wiring: Wiring,
    /// Readings for which the wiring is taken for true.
    wiring_holds: u32,
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
            sysfs: Sysfs::new("/sys"),
            wiring: Wiring::default(),
            wiring_holds: 0,
            owners: BTreeMap::new(),
            peaks: BTreeMap::new(),
            attempt_peaks: BTreeMap::new(),
        })
    }

    /// Reads all cards: GPUs in PCI bus order, then their MIG slices.
    pub(super) fn read(&mut self, roots: &Roots) -> Reading {
        let processes = tree::all();
        self.learn(&processes, roots);
        let raw = probe::gpus(&self.nvml);
        self.learn_wiring(&raw);
        let cards = assemble(raw, &self.wiring).into_iter();
        let gpus = cards
            .map(|(card, users)| account(self.tally(), card, &users, &processes, roots))
            .collect();
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

    fn learn_wiring(&mut self, gpus: &[RawGpu]) {
        let known: BTreeSet<&String> = self.wiring.places.keys().collect();
        let found: BTreeSet<&String> = gpus.iter().map(|gpu| &gpu.device.uuid).collect();
        if self.wiring_holds == 0 || known != found {
            self.wiring = probe::wiring(&self.nvml, &self.sysfs, gpus);
            self.wiring_holds = READINGS_OF_A_WIRING;
        }
        self.wiring_holds -= 1;
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
