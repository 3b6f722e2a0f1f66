//! Machines that nobody here has, made up from what their driver and kernel would say.

use std::collections::BTreeMap;

use super::account::{Tally, account};
use super::assemble::{
    Device, DeviceUser, LinkEnd, Memory, RawGpu, RawSlice, SliceShape, Wiring, assemble,
    links_in_short,
};
use super::pci::{self, Address, Place, Sysfs};
use super::*;
use crate::shim::tree::Stat;

const GIB: u64 = 1 << 30;

fn at(text: &str) -> Address {
    text.parse().expect("an address")
}

fn device(uuid: &str, name: &str, gib: u64) -> Device {
    Device {
        uuid: uuid.to_owned(),
        name: Some(name.to_owned()),
        memory: Ok(Memory {
            total: gib * GIB,
            ..Memory::default()
        }),
        users: Ok(Vec::new()),
    }
}

/// A GPU as NVML tells of it.
fn gpu(uuid: &str, name: &str, gib: u64, bus_id: &str) -> RawGpu {
    RawGpu {
        device: device(uuid, name, gib),
        capability: Some("8.0".to_owned()),
        bus_id: Some(bus_id.to_owned()),
        slices: None,
    }
}

fn slice(uuid: &str, name: &str, gib: u64, (gpu_slices, compute_slices): (u32, u32)) -> RawSlice {
    RawSlice {
        device: device(uuid, name, gib),
        shape: Some(SliceShape {
            gpu_slices,
            compute_slices,
            memory_bytes: gib * GIB,
        }),
    }
}

fn cards(gpus: Vec<RawGpu>, wiring: &Wiring) -> Vec<GpuStatus> {
    let cards = assemble(gpus, wiring).into_iter();
    cards.map(|(card, _)| card).collect()
}

/// Who each device is joined with, by UUID.
fn peers(cards: &[GpuStatus]) -> Vec<(&str, Vec<&str>)> {
    let all = cards.iter();
    all.map(|card| {
        let links = card.nvlinks.iter().map(String::as_str);
        (card.uuid.as_str(), links.collect())
    })
    .collect()
}

fn links(of: &[(&str, &[LinkEnd])]) -> Wiring {
    let links = of.iter();
    Wiring {
        links: links
            .map(|(uuid, ends)| ((*uuid).to_owned(), ends.to_vec()))
            .collect(),
        ..Wiring::default()
    }
}

/// Eight GPUs whose NVLinks all lead into switches, as in a DGX.
fn nvswitch_box() -> (Vec<RawGpu>, Wiring) {
    let uuids: Vec<String> = (0..8).map(|index| format!("GPU-{index}")).collect();
    // The driver does not number them in the order of the bus.
    let gpus = uuids
        .iter()
        .zip([4, 5, 6, 7, 0, 1, 2, 3_u8])
        .map(|(uuid, place)| {
            let bus_id = format!("00000000:{:02X}:00.0", 0x10 + place * 0x10);
            gpu(uuid, "NVIDIA H100 80GB HBM3", 80, &bus_id)
        });
    let wiring = Wiring {
        links: uuids
            .iter()
            .map(|uuid| (uuid.clone(), vec![LinkEnd::Switch]))
            .collect(),
        ..Wiring::default()
    };
    (gpus.collect(), wiring)
}

#[test]
fn gpus_on_nvswitches_are_joined_with_each_other() {
    let (gpus, wiring) = nvswitch_box();
    let cards = cards(gpus, &wiring);
    let order: Vec<&str> = cards.iter().map(|card| card.uuid.as_str()).collect();
    assert_eq!(
        order,
        [
            "GPU-4", "GPU-5", "GPU-6", "GPU-7", "GPU-0", "GPU-1", "GPU-2", "GPU-3"
        ]
    );
    let indices: Vec<u32> = cards.iter().map(|card| card.index).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6, 7]);
    for card in &cards {
        assert_eq!(card.nvlinks.len(), 7, "{}", card.uuid);
        assert!(!card.nvlinks.contains(&card.uuid), "{}", card.uuid);
    }
    assert_eq!(links_in_short(&cards).as_deref(), Some("NVLink 8"));
}

#[test]
fn bridges_join_two_gpus_each_though_one_end_alone_tells() {
    let gpus = || {
        ["01", "02", "81", "82"].map(|bus| {
            let bus_id = format!("00000000:{bus}:00.0");
            gpu(bus, "NVIDIA GeForce RTX 3090", 24, &bus_id)
        })
    };
    let to = |text: &str| [LinkEnd::Gpu(at(text))];
    // The second pair: one end leads to a GPU, and the other to something that the driver does not name.
    let wiring = links(&[
        ("01", &to("0000:02:00.0")),
        ("02", &to("0000:01:00.0")),
        ("81", &to("0000:82:00.0")),
        ("82", &[LinkEnd::Other]),
    ]);
    let cards = cards(gpus().into(), &wiring);
    let expected = [
        ("01", vec!["02"]),
        ("02", vec!["01"]),
        ("81", vec!["82"]),
        ("82", vec!["81"]),
    ];
    assert_eq!(peers(&cards), expected);
    assert_eq!(links_in_short(&cards).as_deref(), Some("NVLink 2+2"));
}

#[test]
fn the_drivers_word_on_a_pair_counts_more_than_its_links() {
    let (gpus, mut wiring) = nvswitch_box();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    // As under a hypervisor that gives a guest parts of two fabrics; and a pair whose links tell nothing.
    wiring.reach = BTreeMap::from([
        (pair("GPU-0", "GPU-1"), false),
        (pair("GPU-2", "GPU-3"), true),
    ]);
    wiring.links.remove("GPU-3");
    let cards = cards(gpus, &wiring);
    let of = |uuid: &str| {
        let card = cards.iter().find(|card| card.uuid == uuid);
        &card.expect("listed").nvlinks
    };
    assert!(!of("GPU-0").contains(&"GPU-1".to_owned()));
    assert!(of("GPU-0").contains(&"GPU-2".to_owned()));
    assert_eq!(of("GPU-3"), &["GPU-2"]);
}

/// Four GPUs below two switches, each on a processor of its own, as the kernel shows them.
fn two_switches() -> (tempfile::TempDir, Sysfs) {
    let gpu = "0x030200";
    pci::tests::tree(&[
        (
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0",
            "0",
            gpu,
        ),
        (
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:10.0/0000:04:00.0",
            "0",
            gpu,
        ),
        (
            "pci0000:80/0000:80:01.0/0000:81:00.0/0000:82:00.0/0000:83:00.0",
            "1",
            gpu,
        ),
        (
            "pci0000:80/0000:80:01.0/0000:81:00.0/0000:82:10.0/0000:84:00.0",
            "1",
            gpu,
        ),
    ])
}

#[test]
fn gpus_without_nvlink_say_their_switch_and_numa_node() {
    let (_root, sysfs) = two_switches();
    let buses = ["03", "04", "83", "84"];
    let gpus = buses.map(|bus| gpu(bus, "NVIDIA L40S", 48, &format!("00000000:{bus}:00.0")));
    let places = buses.map(|bus| {
        let place = sysfs.place(at(&format!("00000000:{bus}:00.0")));
        (bus.to_owned(), place)
    });
    let wiring = Wiring {
        places: places.into(),
        ..Wiring::default()
    };
    let cards = cards(gpus.into(), &wiring);
    let shown: Vec<_> = cards
        .iter()
        .map(|card| {
            let switch = card.pcie_switch.as_deref();
            (card.numa_node, switch, card.nvlinks.len())
        })
        .collect();
    let (near, far) = (
        (Some(0), Some("0000:01:00.0"), 0),
        (Some(1), Some("0000:81:00.0"), 0),
    );
    assert_eq!(shown, [near, near, far, far]);
    assert_eq!(links_in_short(&cards).as_deref(), Some("PCIe 2+2"));
}

/// An A100 of 40 GB with three slices.
fn sliced() -> RawGpu {
    let name = |profile: &str| format!("NVIDIA A100-SXM4-40GB MIG {profile}");
    RawGpu {
        slices: Some(vec![
            slice("MIG-a", &name("3g.20gb"), 20, (3, 3)),
            slice("MIG-b", &name("1g.5gb"), 5, (1, 1)),
            slice("MIG-c", &name("1g.5gb"), 5, (1, 1)),
        ]),
        ..gpu("GPU-p", "NVIDIA A100-SXM4-40GB", 40, "00000000:3B:00.0")
    }
}

#[test]
fn slices_are_devices_of_their_own_that_say_what_they_are_a_part_of() {
    let place = Place {
        numa_node: Some(1),
        pcie_switch: Some(at("0000:01:00.0")),
    };
    let wiring = Wiring {
        places: BTreeMap::from([("GPU-p".to_owned(), place)]),
        ..Wiring::default()
    };
    let cards = cards(vec![sliced()], &wiring);
    let shown: Vec<_> = cards
        .iter()
        .map(|card| {
            let slice = card.slice.as_ref();
            let slice = slice.map(|slice| (slice.parent.as_str(), slice.profile.as_str()));
            (card.uuid.as_str(), card.memory_bytes / GIB, slice)
        })
        .collect();
    let expected = [
        ("GPU-p", 40, None),
        ("MIG-a", 20, Some(("GPU-p", "3g.20gb"))),
        ("MIG-b", 5, Some(("GPU-p", "1g.5gb"))),
        ("MIG-c", 5, Some(("GPU-p", "1g.5gb"))),
    ];
    assert_eq!(shown, expected);
    for card in &cards {
        assert!(card.healthy, "{}: {:?}", card.uuid, card.health_message);
        assert_eq!(card.model, "NVIDIA A100-SXM4-40GB");
        assert_eq!(card.compute_capability.as_deref(), Some("8.0"));
        assert_eq!(card.numa_node, Some(1));
    }
    assert_eq!(links_in_short(&cards), None);
}

#[test]
fn a_mixed_machine_keeps_the_numbers_of_its_gpus_whatever_is_sliced() {
    let whole = |uuid: &str, bus: &str| {
        let bus_id = format!("00000000:{bus}:00.0");
        gpu(uuid, "NVIDIA A100-SXM4-40GB", 40, &bus_id)
    };
    let end = LinkEnd::Switch;
    let wiring = links(&[("GPU-p", &[end]), ("GPU-x", &[end]), ("GPU-y", &[end])]);
    let mut empty = whole("GPU-e", "C1");
    empty.slices = Some(Vec::new());
    let mut lost = whole("GPU-l", "C2");
    lost.device.memory = Err("the GPU has fallen off the bus".to_owned());
    lost.bus_id = None;
    let gpus = vec![
        lost,
        whole("GPU-y", "81"),
        sliced(),
        empty,
        whole("GPU-x", "01"),
    ];
    let cards = cards(gpus, &wiring);
    let shown: Vec<_> = cards
        .iter()
        .map(|card| (card.index, card.uuid.as_str(), card.healthy))
        .collect();
    let expected = [
        (0, "GPU-x", true),
        (1, "GPU-p", true),
        (2, "GPU-y", true),
        (3, "GPU-e", false),
        (4, "GPU-l", false),
        (5, "MIG-a", true),
        (6, "MIG-b", true),
        (7, "MIG-c", true),
    ];
    assert_eq!(shown, expected);
    // A sliced GPU is joined to none, whatever its links lead to.
    assert_eq!(
        peers(&cards)[..3],
        [
            ("GPU-x", vec!["GPU-y"]),
            ("GPU-p", vec![]),
            ("GPU-y", vec!["GPU-x"])
        ]
    );
    let messages = |at: usize| cards[at].health_message.as_deref().unwrap_or_default();
    assert!(messages(3).contains("no slice was made"), "{}", messages(3));
    assert!(
        messages(4).contains("fallen off the bus"),
        "{}",
        messages(4)
    );
    assert_eq!(cards[4].used_bytes, None);
}

#[test]
fn slices_that_share_memory_are_not_promised_more_than_there_is() {
    let mut parent = sliced();
    let user = |pid, gib: u64| DeviceUser {
        pid,
        bytes: Some(gib * GIB),
    };
    let mut share = slice("MIG-a", "no profile", 18, (3, 1));
    // The driver tells the use of the whole GPU instance: 6 GiB are this slice's, 5 another's.
    if let Ok(memory) = &mut share.device.memory {
        memory.used = 11 * GIB;
    }
    share.device.users = Ok(vec![user(1, 4), user(2, 2)]);
    let mut other = share.clone();
    other.device.uuid = "MIG-b".to_owned();
    other.device.users = Ok(vec![DeviceUser {
        pid: 3,
        bytes: None,
    }]);
    parent.slices = Some(vec![share, other]);
    let cards = cards(vec![parent], &Wiring::default());
    let shown: Vec<_> = cards[1..]
        .iter()
        .map(|card| {
            let slice = card.slice.as_ref().expect("a slice");
            let used = card.used_bytes.map(|bytes| bytes / GIB);
            (slice.profile.as_str(), card.memory_bytes / GIB, used)
        })
        .collect();
    // Without a name that tells it, the profile follows from the shape: four eighths of 40.
    assert_eq!(shown, [("1c.3g.20gb", 6, Some(6)), ("1c.3g.20gb", 6, None)]);
}

#[test]
fn what_cannot_be_read_of_a_slice_is_left_out_or_makes_it_unhealthy() {
    let mut parent = sliced();
    // As for a user without rights over the whole.
    parent.device.memory = Err("insufficient permissions".to_owned());
    parent.device.users = Err("insufficient permissions".to_owned());
    let error = || "it is lost".to_owned();
    if let Some([first, second, third]) = parent.slices.as_deref_mut() {
        first.device.memory = Err(error());
        second.device.memory = Err(error());
        second.shape = None;
        third.device.users = Err(error());
        third.device.name = None;
        third.shape = None;
    }
    let cards = cards(vec![parent], &Wiring::default());
    let shown: Vec<_> = cards
        .iter()
        .map(|card| (card.healthy, card.memory_bytes / GIB, card.used_bytes))
        .collect();
    let expected = [
        (true, 0, None),
        (true, 20, None),
        (false, 0, None),
        (false, 5, Some(0)),
    ];
    assert_eq!(shown, expected);
    let profile = cards[3].slice.as_ref().map(|slice| slice.profile.as_str());
    assert_eq!(profile, Some("unknown"));
}

#[test]
fn processes_of_a_slice_are_charged_to_it_and_not_to_its_gpu() {
    let user = |pid| DeviceUser {
        pid,
        bytes: Some(2 * GIB),
    };
    let mut parent = sliced();
    // The driver lists them for the GPU as well.
    parent.device.users = Ok(vec![user(10), user(20)]);
    if let Some([first, second, _]) = parent.slices.as_deref_mut() {
        first.device.users = Ok(vec![user(10)]);
        second.device.users = Ok(vec![user(20)]);
    }
    let process = Stat {
        state: b'S',
        parent: 1,
        session: 1,
        start_ticks: 7,
    };
    let processes = BTreeMap::from([(10, process), (20, process)]);
    let id = AttemptId {
        uid: "job".to_owned(),
        attempt: 1,
    };
    let owners = BTreeMap::from([((10, 7), id.clone())]);
    let roots = Roots {
        running: BTreeMap::from([(id, 10)]),
    };
    let (mut peaks, mut attempt_peaks) = (BTreeMap::new(), BTreeMap::new());
    let cards: Vec<GpuStatus> = assemble(vec![parent], &Wiring::default())
        .into_iter()
        .map(|(card, users)| {
            let tally = Tally {
                owners: &owners,
                peaks: &mut peaks,
                attempt_peaks: &mut attempt_peaks,
            };
            account(tally, card, &users, &processes, &roots)
        })
        .collect();
    let shown: Vec<_> = cards
        .iter()
        .map(|card| {
            let job = card.attributed.first().map(|used| used.used_bytes / GIB);
            let foreign = card.foreign.first().map(|foreign| foreign.pid);
            (card.uuid.as_str(), job, foreign)
        })
        .collect();
    let expected = [
        ("GPU-p", None, None),
        ("MIG-a", Some(2), None),
        ("MIG-b", None, Some(20)),
        ("MIG-c", None, None),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn only_the_cards_that_were_named_are_offered_and_keep_their_names() {
    let source = GpuSource::Simulated("1x8Gi,1x16Gi,1x24Gi".parse().expect("well formed"));
    let all = Inventory::open(&source, "n").read(&Roots::default()).gpus;
    let offered = |only: &[&str]| -> Vec<u32> {
        let only: Vec<String> = only.iter().copied().map(str::to_owned).collect();
        let inventory = Inventory::open(&source, "n");
        let mut inventory = inventory.restricted_to(&only);
        let gpus = inventory.read(&Roots::default()).gpus;
        assert!(gpus.iter().all(|gpu| all.contains(gpu)));
        gpus.iter().map(|gpu| gpu.index).collect()
    };
    assert_eq!(offered(&[]), [0, 1, 2]);
    assert_eq!(offered(&["0", "2"]), [0, 2]);
    assert_eq!(offered(&[&all[1].uuid]), [1]);
    assert_eq!(offered(&[&all[1].uuid[..39], "0"]), [0, 1]);
    assert_eq!(
        offered(&["7"]),
        [] as [u32; 0],
        "what is not there is not replaced by all"
    );
}

#[test]
fn a_card_that_is_named_brings_its_slices() {
    let source = GpuSource::Simulated("2x80Gi/mig=3g.40gb+1g.10gb".parse().expect("well formed"));
    let mut all = Inventory::open(&source, "n");
    let first = all.read(&Roots::default()).gpus[0].uuid.clone();
    let mut inventory = Inventory::open(&source, "n").restricted_to(&["0".to_owned()]);
    let gpus = inventory.read(&Roots::default()).gpus;
    let slices: Vec<_> = gpus.iter().filter_map(|gpu| gpu.slice.as_ref()).collect();
    assert_eq!(slices.len(), 2);
    assert!(slices.iter().all(|slice| slice.parent == first));
    assert_eq!(gpus.len(), 3);
}
