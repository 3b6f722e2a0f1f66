//! Where a PCI device sits in the machine, as the kernel tells it under `/sys`. The root of that tree is an argument, so
//! that tests can give a made-up one.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Class of a bridge of no other kind, in its upper 16 bits: an NVSwitch says so of itself.
const OTHER_BRIDGE: u32 = 0x0680;
/// Class of a display controller, in its uppermost 8 bits: every GPU.
const DISPLAY: u32 = 0x03;

/// Domain, bus, device and function of a PCI device, in the order of the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) domain: u32,
    pub(super) bus: u8,
    pub(super) device: u8,
    pub(super) function: u8,
}

/// The text is no PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    /// Reads the kernel's form, `0000:3b:00.0`, and NVML's, `00000000:3B:00.0`.
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let parts = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let hex = |digits: &str, most: usize| {
                let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let fits = !digits.is_empty() && digits.len() <= most;
                (plain && fits).then(|| u32::from_str_radix(digits, 16).ok())?
            };
            Some(Self {
                domain: hex(domain, 8)?,
                bus: u8::try_from(hex(bus, 2)?).ok()?,
                device: u8::try_from(hex(device, 2)?).ok()?,
                function: u8::try_from(hex(function, 1)?).ok()?,
            })
        };
        parts().ok_or(NoAddress)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(out, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// Where a device is joined to the rest of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// NUMA node; `None` where the machine has no more than one or does not tell.
    pub(super) numa_node: Option<u32>,
    /// The bridge that is shared by all devices which reach each other without going through the host: the upstream port of
    /// the uppermost PCIe switch, or the root port of a device that has none above it, and so shares with nobody. `None`
    /// where there is no bridge at all, as in many virtual machines, whose guests cannot know.
    pub(super) pcie_switch: Option<Address>,
}

/// What the kernel says of PCI devices.
#[derive(Clone, Debug)]
pub(super) struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The tree below `root`, which is `/sys` but in tests.
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a device is; what cannot be read is not known.
    pub(super) fn place(&self, address: Address) -> Place {
        let folder = self.folder(address);
        let numa = read(&folder.join("numa_node"));
        Place {
            // The kernel writes -1 for "none".
            numa_node: numa.and_then(|text| text.parse().ok()),
            pcie_switch: fs::canonicalize(&folder)
                .ok()
                .and_then(|path| uppermost_switch(&path, address)),
        }
    }

    /// Is it a switch of NVLink?
    pub(super) fn is_nvswitch(&self, address: Address) -> bool {
        self.class(address)
            .is_some_and(|class| class >> 8 == OTHER_BRIDGE)
    }

    /// Is it a GPU?
    pub(super) fn is_gpu(&self, address: Address) -> bool {
        self.class(address)
            .is_some_and(|class| class >> 16 == DISPLAY)
    }

    fn class(&self, address: Address) -> Option<u32> {
        let text = read(&self.folder(address).join("class"))?;
        u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    }

    fn folder(&self, address: Address) -> PathBuf {
        let devices = self.root.join("bus/pci/devices");
        devices.join(address.to_string())
    }
}

fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// From the real path of a device, which names each bridge above it:
/// `/sys/devices/pci0000:00/ROOT PORT/UPSTREAM PORT/DOWNSTREAM PORT/DEVICE`.
fn uppermost_switch(path: &Path, address: Address) -> Option<Address> {
    let names = path.iter().filter_map(|name| name.to_str());
    let mut chain: Vec<Address> = names.filter_map(|name| name.parse().ok()).collect();
    if chain.pop() != Some(address) {
        return None;
    }
    match chain[..] {
        [_, upstream, _, ..] => Some(upstream),
        [root_port, ..] => Some(root_port),
        [] => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up `/sys` of devices, each with its path below `devices`, its NUMA node and its class.
    pub(in crate::gpu) fn tree(devices: &[(&str, &str, &str)]) -> (tempfile::TempDir, Sysfs) {
        let root = tempfile::tempdir().expect("a folder");
        let bus = root.path().join("bus/pci/devices");
        fs::create_dir_all(&bus).expect("made");
        for (path, numa, class) in devices {
            let folder = root.path().join("devices").join(path);
            fs::create_dir_all(&folder).expect("made");
            fs::write(folder.join("numa_node"), format!("{numa}\n")).expect("written");
            fs::write(folder.join("class"), format!("{class}\n")).expect("written");
            let name = folder.file_name().expect("a name");
            let target = Path::new("../../../devices").join(path);
            symlink(target, bus.join(name)).expect("linked");
        }
        let sysfs = Sysfs::new(root.path());
        (root, sysfs)
    }

    fn at(text: &str) -> Address {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_of_the_kernel_and_of_nvml_are_the_same() {
        assert_eq!(at("00000000:3B:00.0"), at("0000:3b:00.0"));
        assert_eq!(at("00000000:3B:00.0").to_string(), "0000:3b:00.0");
        assert_eq!(at("10000:E1:1F.7").to_string(), "10000:e1:1f.7");
        assert!(at("0000:03:00.0") < at("0000:b3:00.0"));
        for text in [
            "",
            "pci0000:00",
            "0000:3b:00",
            "0000:3b:00.x",
            "+000:3b:00.0",
            "0000:13b:00.0",
        ] {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
    }

    #[test]
    fn devices_that_reach_each_other_without_the_host_share_their_switch() {
        // Two switches in a row, a device below each; a device on a port of its own; one on the bus of a virtual machine.
        let (_root, sysfs) = tree(&[
            (
                "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:08.0/0000:03:00.0",
                "0",
                "0x030200",
            ),
            (
                "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:10.0/0000:04:00.0/0000:05:00.0/0000:06:00.0",
                "1",
                "0x030200",
            ),
            ("pci0000:00/0000:00:02.0/0000:07:00.0", "-1", "0x030000"),
            ("pci0000:00/0000:00:05.0", "-1", "0x068000"),
        ]);
        let place = |address: &str| {
            let place = sysfs.place(at(address));
            let switch = place.pcie_switch.map(|switch| switch.to_string());
            (place.numa_node, switch)
        };
        let switch = || Some("0000:01:00.0".to_owned());
        assert_eq!(place("0000:03:00.0"), (Some(0), switch()));
        assert_eq!(place("0000:06:00.0"), (Some(1), switch()));
        let port = "0000:00:02.0".to_owned();
        assert_eq!(place("0000:07:00.0"), (None, Some(port)));
        assert_eq!(place("0000:00:05.0"), (None, None));
        assert_eq!(sysfs.place(at("0000:99:00.0")), Place::default());
    }

    #[test]
    fn classes_tell_gpus_from_nvswitches() {
        let (_root, sysfs) = tree(&[
            ("pci0000:00/0000:00:05.0", "0", "0x030200"),
            ("pci0000:00/0000:00:06.0", "0", "0x068000"),
            ("pci0000:00/0000:00:07.0", "0", "unreadable"),
        ]);
        let kinds = ["0000:00:05.0", "0000:00:06.0", "0000:00:07.0"].map(|address| {
            let address = at(address);
            (sysfs.is_gpu(address), sysfs.is_nvswitch(address))
        });
        assert_eq!(kinds, [(true, false), (false, true), (false, false)]);
    }
}
