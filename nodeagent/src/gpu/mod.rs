//! The GPUs of this node: read through NVML where there is a driver, or simulated.
//!
//! **Unknown is unknown, never 0**: a figure that could not be read is absent, and a card that cannot be read at all is
//! listed as unhealthy with the reason, not left out.
//!
//! What is read (`nvml` asks the driver, `pci` the kernel, `simulated` makes it up) and what is made of it
//! (`assemble`, `account`) are apart, so that tests can make up the machines that nobody here has.

mod account;
mod assemble;
mod nvml;
mod pci;
mod simulated;

use std::collections::{BTreeMap, BTreeSet};

use crds::node::GpuStatus;

use crate::attempt::AttemptId;
pub(crate) use assemble::links_in_short;
pub use simulated::{SIM_GPUS_HELP, SimGpus, SimGpusError, SimGuests};

/// Where GPUs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GpuSource {
    /// What NVML finds; none when there is no driver.
    #[default]
    Nvml,
    /// None.
    None,
    /// Simulated cards.
    Simulated(SimGpus),
    /// Simulated cards, and on them processes that are no job's and come and go.
    Visited(SimGpus, SimGuests),
}

/// Which processes belong to which attempts: the root process of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots {
    /// Attempts that run.
    pub(crate) running: BTreeMap<AttemptId, i32>,
}

/// What was read of all cards.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// The GPUs in PCI bus order, then their MIG slices.
    pub(crate) gpus: Vec<GpuStatus>,
    /// Version of the driver.
    pub(crate) driver_version: Option<String>,
}

/// Number of GPUs that NVML finds now; none when there is no driver. Blocks.
pub fn nvml_count() -> Option<usize> {
    nvml::count()
}

/// Reads the GPUs of this node.
pub(crate) struct Inventory {
    kind: Kind,
    /// The cards that are this agent's, as they were named; none for all.
    only: Vec<String>,
}

enum Kind {
    Fixed(Reading),
    Visited(Reading, SimGuests),
    Nvml(Box<nvml::Cards>),
}

impl Inventory {
    /// Opens the source. A missing driver is no error: there are no GPUs then.
    pub(crate) fn open(source: &GpuSource, node_name: &str) -> Self {
        let kind = match source {
            GpuSource::None => Kind::Fixed(Reading::default()),
            GpuSource::Simulated(gpus) => Kind::Fixed(Reading {
                gpus: gpus.cards(node_name),
                driver_version: None,
            }),
            GpuSource::Visited(gpus, guests) => {
                let reading = Reading {
                    gpus: gpus.cards(node_name),
                    driver_version: None,
                };
                Kind::Visited(reading, guests.clone())
            }
            GpuSource::Nvml => match nvml::Cards::open() {
                Ok(cards) => Kind::Nvml(Box::new(cards)),
                Err(reason) => {
                    tracing::info!(reason, "no GPUs: NVML is not usable here");
                    Kind::Fixed(Reading::default())
                }
            },
        };
        Self {
            kind,
            only: Vec::new(),
        }
    }

    /// The same with these cards alone: indices in PCI bus order, or UUIDs or their beginnings. What is named and not there
    /// is left out, and said.
    pub(crate) fn restricted_to(mut self, only: &[String]) -> Self {
        let all = self.read(&Roots::default()).gpus;
        for name in only
            .iter()
            .filter(|name| !all.iter().any(|gpu| is_named(gpu, name)))
        {
            tracing::warn!(name, "no GPU is called so; it is not offered");
        }
        only.clone_into(&mut self.only);
        self
    }

    /// Whether a reading can change.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.kind, Kind::Fixed(_))
    }

    /// Whether reading blocks.
    pub(crate) fn blocks(&self) -> bool {
        matches!(self.kind, Kind::Nvml(_))
    }

    /// The most memory that an attempt was seen with on each card.
    pub(crate) fn peaks_of(&self, id: &AttemptId) -> BTreeMap<String, u64> {
        match &self.kind {
            Kind::Fixed(_) | Kind::Visited(..) => BTreeMap::new(),
            Kind::Nvml(cards) => cards.peaks_of(id),
        }
    }

    /// Reads all cards.
    pub(crate) fn read(&mut self, roots: &Roots) -> Reading {
        let mut reading = match &mut self.kind {
            Kind::Fixed(reading) => reading.clone(),
            Kind::Visited(reading, guests) => Reading {
                gpus: guests.on(&reading.gpus),
                driver_version: None,
            },
            Kind::Nvml(cards) => cards.read(roots),
        };
        if !self.only.is_empty() {
            restrict(&mut reading.gpus, &self.only);
        }
        reading
    }
}

/// Keeps the cards that are named, with their slices, and the slices that are.
fn restrict(gpus: &mut Vec<GpuStatus>, only: &[String]) {
    let named = gpus.iter();
    let named = named.filter(|gpu| only.iter().any(|name| is_named(gpu, name)));
    let named: BTreeSet<String> = named.map(|gpu| gpu.uuid.clone()).collect();
    gpus.retain(|gpu| {
        let parent = gpu.slice.as_ref().map(|slice| &slice.parent);
        named.contains(&gpu.uuid) || parent.is_some_and(|parent| named.contains(parent))
    });
}

/// Is the card called so? By its index, its UUID or the beginning of that.
fn is_named(gpu: &GpuStatus, name: &str) -> bool {
    match name.parse::<u32>() {
        Ok(index) => gpu.slice.is_none() && gpu.index == index,
        Err(_) => !name.is_empty() && gpu.uuid.starts_with(name),
    }
}

#[cfg(test)]
mod tests;
