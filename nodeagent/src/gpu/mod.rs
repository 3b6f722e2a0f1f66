//! The GPUs of this node: read through NVML where there is a driver, or simulated.
//!
//! **Unknown is unknown, never 0**: a figure that could not be read is absent, and a card that cannot be read at all is
//! listed as unhealthy with the reason, not left out.
//!
//! What is read ([`nvml`] asks the driver, [`pci`] the kernel, [`simulated`] makes it up) and what is made of it
//! ([`assemble`], [`account`]) are apart, so that tests can make up the machines that nobody here has.

mod account;
mod assemble;
mod nvml;
mod pci;
mod simulated;

use std::collections::BTreeMap;

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
        Self { kind }
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
        match &mut self.kind {
            Kind::Fixed(reading) => reading.clone(),
            Kind::Visited(reading, guests) => Reading {
                gpus: guests.on(&reading.gpus),
                driver_version: None,
            },
            Kind::Nvml(cards) => cards.read(roots),
        }
    }
}

#[cfg(test)]
mod tests;
