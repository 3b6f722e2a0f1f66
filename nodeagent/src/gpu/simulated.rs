//! Simulated GPUs, for laptops, tests and demonstrations, described as [`SIM_GPUS_HELP`] says. They are made-up readings, and
//! what is made of them is what is made of real ones.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use crds::Quantity;
use crds::node::{ForeignUse, GpuStatus};

use super::assemble::{Device, Memory, RawGpu, RawSlice, Wiring, assemble};
use super::pci::{Address, Place};

/// Most simulated cards of one node.
const MOST_CARDS: usize = 64;
/// Most devices of one node, slices included: as many as its status may list.
const MOST_DEVICES: usize = 256;
/// A GPU can be sliced into so many parts.
const MOST_PARTS: u32 = 7;
/// Least memory of a simulated card.
const LEAST_BYTES: u64 = 1 << 30;

/// How simulated GPUs are described.
pub const SIM_GPUS_HELP: &str = "\
Simulate these GPUs: groups of COUNTxMEMORY, separated by commas, such as 2x24Gi,1x80Gi. What else is true of a group follows
its memory:
  /nvlink        all GPUs of the group are joined by NVLink
  /pairs         the first is joined with the second, the third with the fourth, and so on
  /switches=N    they are below N PCIe switches, evenly and in order
  /numa=N        they are on NUMA nodes 0 to N-1, evenly and in order
  /mig=PROFILES  each is divided into these MIG slices, such as 3g.40gb+2x1g.10gb
So 8x80Gi/nvlink/switches=4/numa=2 is a large server, and 1x80Gi/mig=3g.40gb+2x1g.10gb,2x24Gi/pairs a small mixed one.
`none` stands for no GPUs, also where there are real ones.";

/// Simulated GPUs of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimGpus {
    groups: Vec<Group>,
}

/// GPUs that are described together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    count: usize,
    /// Memory of each.
    bytes: u64,
    joints: Joints,
    switches: Option<usize>,
    numa_nodes: Option<usize>,
    /// Profiles of the MIG slices of each.
    slices: Option<Vec<SimSlice>>,
}

/// Who is joined by NVLink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Joints {
    #[default]
    None,
    Pairs,
    All,
}

/// A simulated slice.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SimSlice {
    profile: String,
    parts: u32,
    bytes: u64,
}

/// Processes that are no job's on simulated cards, as the simulation wants them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SimGuests(Arc<Mutex<BTreeMap<(u32, u32), Guest>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Guest {
    bytes: u64,
    peak_bytes: u64,
}

impl PartialEq for SimGuests {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SimGuests {}

impl SimGuests {
    /// From now on the process holds so many bytes of the card with this index; with none it is gone.
    pub fn set(&self, card: u32, pid: u32, bytes: Option<u64>) {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes {
            Some(bytes) => {
                let guest = guests.entry((card, pid)).or_default();
                guest.bytes = bytes;
                guest.peak_bytes = guest.peak_bytes.max(bytes);
            }
            None => {
                guests.remove(&(card, pid));
            }
        }
    }

    /// The cards with these processes on them.
    pub(crate) fn on(&self, cards: &[GpuStatus]) -> Vec<GpuStatus> {
        let guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let visited = cards.iter().cloned().map(|mut card| {
            for ((_, pid), guest) in guests.range((card.index, 0)..=(card.index, u32::MAX)) {
                card.used_bytes = card.used_bytes.map(|used| used.saturating_add(guest.bytes));
                card.foreign.push(ForeignUse {
                    pid: *pid,
                    peak_bytes: guest.peak_bytes,
                    used_bytes: Some(guest.bytes),
                });
            }
            card
        });
        visited.collect()
    }
}

/// Why a list of simulated GPUs cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimGpusError {
    /// An entry has another form.
    #[error("`{0}` is not COUNTxMEMORY, such as `2x24Gi`")]
    Form(String),
    /// The memory is no quantity.
    #[error("`{0}` is not an amount of memory, such as `24Gi`")]
    Memory(String),
    /// The memory is absurdly small.
    #[error("`{0}` is too little memory for a GPU: give at least 1Gi, with its unit")]
    TooSmall(String),
    /// Too many.
    #[error("a node has at most {MOST_CARDS} simulated GPUs, and {MOST_DEVICES} with their slices")]
    TooMany,
    /// What follows the memory is not known.
    #[error(
        "`/{0}` says nothing of simulated GPUs: there are /nvlink, /pairs, /switches=N, /numa=N and /mig=PROFILES"
    )]
    Option(String),
    /// The same is said twice, or what excludes each other.
    #[error("`{0}` cannot go with what stands before it in `{1}`")]
    Contradiction(String, String),
    /// GPUs cannot be dealt out evenly.
    #[error(
        "`/{option}` deals out {count} GPUs unevenly: the number must be a multiple of {parts}"
    )]
    Uneven {
        /// What was said.
        option: String,
        /// GPUs of the group.
        count: usize,
        /// What it must be a multiple of.
        parts: usize,
    },
    /// No profile.
    #[error("`{0}` is not a MIG profile, such as `1g.10gb`, or several of it, such as `2x1g.10gb`")]
    Profile(String),
    /// The slices are more than the GPU.
    #[error("the MIG slices `{slices}` are {parts} sevenths and {need} of a GPU of {have}")]
    SlicesTooLarge {
        /// The profiles.
        slices: String,
        /// Sevenths.
        parts: u32,
        /// Memory that they need.
        need: String,
        /// Memory of the GPU.
        have: String,
    },
}

impl FromStr for SimGpus {
    type Err = SimGpusError;

    fn from_str(text: &str) -> Result<Self, SimGpusError> {
        if text == "none" {
            return Ok(Self::default());
        }
        let mut groups: Vec<Group> = Vec::new();
        let (mut cards, mut devices) = (0_usize, 0_usize);
        for entry in text.split(',') {
            let group = group(entry.trim())?;
            cards = cards.saturating_add(group.count);
            let each = 1 + group.slices.as_ref().map_or(0, Vec::len);
            devices = devices.saturating_add(group.count.saturating_mul(each));
            if cards > MOST_CARDS || devices > MOST_DEVICES {
                return Err(SimGpusError::TooMany);
            }
            if group.count > 0 {
                groups.push(group);
            }
        }
        Ok(Self { groups })
    }
}

fn group(entry: &str) -> Result<Group, SimGpusError> {
    let mut parts = entry.split('/').map(str::trim);
    let size = parts.next().unwrap_or_default();
    let form = || SimGpusError::Form(size.to_owned());
    let (count, memory) = size.split_once('x').ok_or_else(form)?;
    let count: usize = count.trim().parse().map_err(|_| form())?;
    let memory = memory.trim();
    let bytes = Quantity(memory.to_owned())
        .bytes()
        .map_err(|_| SimGpusError::Memory(memory.to_owned()))?;
    if bytes < LEAST_BYTES {
        return Err(SimGpusError::TooSmall(memory.to_owned()));
    }
    let mut group = Group {
        count,
        bytes,
        ..Group::default()
    };
    for option in parts {
        let contradiction = || SimGpusError::Contradiction(format!("/{option}"), entry.to_owned());
        let unknown = || SimGpusError::Option(option.to_owned());
        let (name, value) = option
            .split_once('=')
            .map_or((option, None), |(name, value)| (name, Some(value)));
        let is_new = match (name, value) {
            ("nvlink" | "pairs", None) => {
                let pairs = name == "pairs";
                if pairs {
                    evenly(option, count, 2)?;
                }
                let is_new = group.joints == Joints::None && group.slices.is_none();
                group.joints = if pairs { Joints::Pairs } else { Joints::All };
                is_new
            }
            ("switches" | "numa", Some(number)) => {
                let number: usize = number.parse().map_err(|_| unknown())?;
                if number == 0 {
                    return Err(unknown());
                }
                evenly(option, count, number)?;
                let place = if name == "numa" {
                    &mut group.numa_nodes
                } else {
                    &mut group.switches
                };
                place.replace(number).is_none()
            }
            ("mig", Some(profiles)) => {
                let slices = slices(profiles, bytes, memory)?;
                group.slices.replace(slices).is_none() && group.joints == Joints::None
            }
            _ => return Err(unknown()),
        };
        if !is_new {
            return Err(contradiction());
        }
    }
    Ok(group)
}

fn evenly(option: &str, count: usize, parts: usize) -> Result<(), SimGpusError> {
    if count.is_multiple_of(parts) {
        return Ok(());
    }
    Err(SimGpusError::Uneven {
        option: option.to_owned(),
        count,
        parts,
    })
}

fn slices(profiles: &str, bytes: u64, memory: &str) -> Result<Vec<SimSlice>, SimGpusError> {
    let mut all: Vec<SimSlice> = Vec::new();
    let (mut parts, mut need) = (0_u32, 0_u64);
    for text in profiles.split('+').map(str::trim) {
        let bad = || SimGpusError::Profile(text.to_owned());
        let (count, profile) = match text.split_once('x') {
            Some((count, profile)) => (count.parse().map_err(|_| bad())?, profile),
            None => (1_u32, text),
        };
        let slice = slice(profile).ok_or_else(bad)?;
        if count == 0 {
            return Err(bad());
        }
        parts = parts.saturating_add(slice.parts.saturating_mul(count));
        need = need.saturating_add(slice.bytes.saturating_mul(u64::from(count)));
        if parts > MOST_PARTS || need > bytes {
            return Err(SimGpusError::SlicesTooLarge {
                slices: profiles.to_owned(),
                parts,
                need: Quantity::from_bytes(need).0,
                have: memory.to_owned(),
            });
        }
        all.extend((0..count).map(|_| slice.clone()));
    }
    Ok(all)
}

/// Reads a profile such as `1g.10gb`.
fn slice(profile: &str) -> Option<SimSlice> {
    let (parts, gigabytes) = profile.strip_suffix("gb")?.split_once("g.")?;
    let parts: u32 = parts.parse().ok()?;
    let gigabytes: u64 = gigabytes.parse().ok()?;
    (parts > 0 && gigabytes > 0).then(|| SimSlice {
        profile: profile.to_owned(),
        parts,
        bytes: gigabytes.saturating_mul(1 << 30),
    })
}

impl SimGpus {
    /// The devices of one node; the same node always has the same UUIDs.
    pub(crate) fn cards(&self, node_name: &str) -> Vec<GpuStatus> {
        let (gpus, wiring) = self.readings(node_name);
        let cards = assemble(gpus, &wiring).into_iter();
        cards
            .map(|(card, _)| GpuStatus {
                simulated: true,
                ..card
            })
            .collect()
    }

    /// What would be read of such a machine.
    fn readings(&self, node_name: &str) -> (Vec<RawGpu>, Wiring) {
        let mut gpus: Vec<RawGpu> = Vec::new();
        let mut wiring = Wiring::default();
        for (group_number, group) in (1_u8..).zip(&self.groups) {
            let first = gpus.len();
            for at in 0..group.count {
                let gpu = group.gpu(node_name, gpus.len());
                let dealt = |over: usize| at * over / group.count;
                let place = Place {
                    numa_node: group
                        .numa_nodes
                        .and_then(|nodes| u32::try_from(dealt(nodes)).ok()),
                    pcie_switch: group.switches.map(|switches| Address {
                        // Each group has switches of its own.
                        domain: u32::from(group_number),
                        bus: u8::try_from(dealt(switches)).unwrap_or(u8::MAX),
                        ..Address::default()
                    }),
                };
                wiring.places.insert(gpu.device.uuid.clone(), place);
                gpus.push(gpu);
            }
            let uuids = || gpus[first..].iter().map(|gpu| &gpu.device.uuid).enumerate();
            for ((a, one), (b, other)) in uuids().flat_map(|a| uuids().map(move |b| (a, b))) {
                let joined = match group.joints {
                    Joints::None => false,
                    Joints::Pairs => a / 2 == b / 2,
                    Joints::All => true,
                };
                if joined && one < other {
                    wiring.reach.insert((one.clone(), other.clone()), true);
                }
            }
        }
        (gpus, wiring)
    }
}

impl Group {
    fn gpu(&self, node_name: &str, index: usize) -> RawGpu {
        let slices = self.slices.as_ref().map(|slices| {
            let slices = slices.iter().enumerate();
            slices
                .map(|(place, slice)| RawSlice {
                    device: Device {
                        name: Some(format!("Simulated MIG {}", slice.profile)),
                        ..device("MIG", &format!("{node_name}/{index}/{place}"), slice.bytes)
                    },
                    shape: None,
                })
                .collect()
        });
        let address = Address {
            bus: u8::try_from(index + 1).unwrap_or(u8::MAX),
            ..Address::default()
        };
        RawGpu {
            device: device("GPU", &format!("{node_name}/{index}"), self.bytes),
            capability: Some("9.0".to_owned()),
            bus_id: Some(address.to_string()),
            slices,
        }
    }
}

fn device(kind: &str, name: &str, bytes: u64) -> Device {
    Device {
        uuid: format!("{kind}-{}", uuid(name)),
        name: Some(format!("Simulated {}", Quantity::from_bytes(bytes).0)),
        memory: Ok(Memory {
            total: bytes,
            ..Memory::default()
        }),
        users: Ok(Vec::new()),
    }
}

/// A name-based UUID: FNV-1a.
fn uuid(name: &str) -> uuid::Uuid {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let hash = name.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    uuid::Builder::from_random_bytes(hash.to_be_bytes()).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn cards(text: &str) -> Vec<GpuStatus> {
        let gpus: SimGpus = text.parse().expect("well formed");
        gpus.cards("n")
    }

    /// Who each GPU is joined with, by index.
    fn peers(cards: &[GpuStatus]) -> Vec<Vec<u32>> {
        let index: BTreeMap<&String, u32> =
            cards.iter().map(|card| (&card.uuid, card.index)).collect();
        let links = cards.iter().map(|card| &card.nvlinks);
        links
            .map(|links| links.iter().map(|uuid| index[uuid]).collect())
            .collect()
    }

    #[test]
    fn counts_and_sizes_are_read_in_order() {
        let sizes = |text: &str| -> Vec<u64> {
            let cards = cards(text).into_iter();
            cards.map(|card| card.memory_bytes >> 30).collect()
        };
        assert_eq!(sizes("2x24Gi, 1x80Gi"), [24, 24, 80]);
        assert_eq!("0x24Gi".parse(), Ok(SimGpus::default()));
        assert_eq!("none".parse(), Ok(SimGpus::default()));
        let plain = &cards("1x24Gi")[0];
        assert_eq!(plain.model, "Simulated 24Gi");
        assert_eq!((&plain.pcie_switch, plain.numa_node), (&None, None));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        use SimGpusError::{
            Contradiction, Form, Memory, Option, Profile, SlicesTooLarge, TooMany, TooSmall, Uneven,
        };
        let uneven = |option: &str, count, parts| Uneven {
            option: option.to_owned(),
            count,
            parts,
        };
        let too_large = |slices: &str, parts, need: &str, have: &str| SlicesTooLarge {
            slices: slices.to_owned(),
            parts,
            need: need.to_owned(),
            have: have.to_owned(),
        };
        let not_with = |option: &str, entry: &str| Contradiction(option.into(), entry.into());
        for (text, expected) in [
            ("", Form(String::new())),
            ("24Gi", Form("24Gi".to_owned())),
            ("twox24Gi", Form("twox24Gi".to_owned())),
            ("2x24Gi,", Form(String::new())),
            ("2xmuch", Memory("much".to_owned())),
            ("2x24", TooSmall("24".to_owned())),
            ("65x24Gi", TooMany),
            ("40x80Gi/mig=7x1g.10gb", TooMany),
            ("2x24Gi/", Option(String::new())),
            ("2x24Gi/fast", Option("fast".to_owned())),
            ("2x24Gi/nvlink=2", Option("nvlink=2".to_owned())),
            ("2x24Gi/numa=0", Option("numa=0".to_owned())),
            ("2x24Gi/numa=all", Option("numa=all".to_owned())),
            ("3x24Gi/pairs", uneven("pairs", 3, 2)),
            ("8x24Gi/switches=3", uneven("switches=3", 8, 3)),
            (
                "2x24Gi/nvlink/pairs",
                not_with("/pairs", "2x24Gi/nvlink/pairs"),
            ),
            (
                "2x24Gi/mig=1g.6gb/nvlink",
                not_with("/nvlink", "2x24Gi/mig=1g.6gb/nvlink"),
            ),
            (
                "4x24Gi/numa=2/numa=4",
                not_with("/numa=4", "4x24Gi/numa=2/numa=4"),
            ),
            ("1x24Gi/mig=", Profile(String::new())),
            ("1x24Gi/mig=half", Profile("half".to_owned())),
            ("1x24Gi/mig=0x1g.6gb", Profile("0x1g.6gb".to_owned())),
            (
                "1x24Gi/mig=2x2g.12gb+1g.6gb",
                too_large("2x2g.12gb+1g.6gb", 5, "30Gi", "24Gi"),
            ),
            (
                "1x80Gi/mig=8x1g.5gb",
                too_large("8x1g.5gb", 8, "40Gi", "80Gi"),
            ),
        ] {
            assert_eq!(text.parse::<SimGpus>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn joined_gpus_are_joined_within_their_group() {
        let pairs = cards("4x24Gi/pairs,2x80Gi/nvlink,1x80Gi");
        let expected: [&[u32]; 7] = [&[1], &[0], &[3], &[2], &[5], &[4], &[]];
        assert_eq!(peers(&pairs), expected);
        let switch = cards("3x80Gi/nvlink");
        let expected: [&[u32]; 3] = [&[1, 2], &[0, 2], &[0, 1]];
        assert_eq!(peers(&switch), expected);
    }

    #[test]
    fn switches_and_numa_nodes_are_dealt_out_in_order() {
        let cards = cards("4x24Gi/switches=2/numa=1,2x80Gi/switches=1/numa=2");
        let numa: Vec<_> = cards.iter().map(|card| card.numa_node).collect();
        assert_eq!(numa, [0, 0, 0, 0, 0, 1].map(Some));
        let switches: Vec<_> = cards.iter().map(|card| &card.pcie_switch).collect();
        assert_eq!(switches[0], switches[1]);
        assert_eq!(switches[4], switches[5]);
        let different: BTreeSet<_> = switches.into_iter().flatten().collect();
        assert_eq!(different.len(), 3);
    }

    #[test]
    fn slices_are_devices_after_the_gpus() {
        let cards = cards("1x80Gi/mig=3g.40gb+2x1g.10gb,1x24Gi");
        let shown: Vec<_> = cards
            .iter()
            .map(|card| {
                let slice = card.slice.as_ref();
                let profile = slice.map_or("", |slice| slice.profile.as_str());
                (card.index, card.memory_bytes >> 30, profile)
            })
            .collect();
        let expected = [
            (0, 80, ""),
            (1, 24, ""),
            (2, 40, "3g.40gb"),
            (3, 10, "1g.10gb"),
            (4, 10, "1g.10gb"),
        ];
        assert_eq!(shown, expected);
        for slice in &cards[2..] {
            assert!(slice.uuid.starts_with("MIG-"), "{}", slice.uuid);
            let parent = slice.slice.as_ref().map(|slice| &slice.parent);
            assert_eq!(parent, Some(&cards[0].uuid));
            assert_eq!(slice.model, cards[0].model);
        }
    }

    #[test]
    fn uuids_are_stable_for_a_node_and_differ_between_nodes() {
        let gpus: SimGpus = "2x80Gi/mig=2x1g.10gb,2x24Gi".parse().expect("well formed");
        let of = |node: &str| -> Vec<String> {
            gpus.cards(node).into_iter().map(|card| card.uuid).collect()
        };
        assert_eq!(of("a"), of("a"));
        let all: BTreeSet<_> = of("a").into_iter().chain(of("b")).collect();
        assert_eq!(all.len(), 16);
    }
}
