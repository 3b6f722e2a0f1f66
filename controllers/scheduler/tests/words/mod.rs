//! The words of the scenario language: amounts, times, devices, taints and reservations, read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use scheduler::{
    Bytes, Estimate, Gang, Gpu, JobUid, Link, MilliCpu, Millis, NodeName, Nomination, Placement,
    Preference, Quota, Reservation, Settings, Slice, Slot, Span, Taint, TaintEffect, Toleration,
    Wish,
};

/// The GPUs of a placement and what it has to itself.
pub(crate) fn gpus(placement: &Placement) -> String {
    let mut text = String::new();
    let gpus: Vec<_> = placement
        .gpus
        .iter()
        .map(|gpu| gpu.as_str().rsplit('/').next().unwrap())
        .collect();
    if !gpus.is_empty() {
        write!(text, " gpu {}", gpus.join(",")).unwrap();
    }
    if placement.whole_gpus {
        text.push_str(" whole");
    }
    if placement.whole_node {
        text.push_str(" alone");
    }
    text
}

/// What a queue may hold beyond its quota: `all`, or the most of some resources and nothing of the others.
pub(crate) fn borrowing(text: &str) -> Quota {
    if text == "all" {
        return Quota::default();
    }
    let mut most = Quota {
        gpus: Some(0),
        vram: Some(Bytes(0)),
        cpu: Some(MilliCpu(0)),
        jobs: Some(0),
    };
    for pair in text.split(',') {
        match pair.split_once(':').unwrap() {
            ("gpus", value) => most.gpus = Some(value.parse().unwrap()),
            ("jobs", value) => most.jobs = Some(value.parse().unwrap()),
            ("cpu", value) => most.cpu = Some(cpu(value)),
            ("vram", value) => most.vram = Some(bytes(value)),
            (other, _) => panic!("unknown resource: {other}"),
        }
    }
    most
}

/// The id and the size of a gang, as in `g:3`.
pub(crate) fn gang(text: &str) -> Gang {
    let (id, size) = text.split_once(':').unwrap();
    Gang {
        id: id.into(),
        size: size.parse().unwrap(),
    }
}

pub(crate) fn settings(words: &[&str]) -> Settings {
    let mut settings = Settings::default();
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "settled" => settings.settled_at = time(value),
            "aging" => settings.aging = Some(span(value)),
            "cap" => settings.aging_cap = value.parse().unwrap(),
            "halflife" if value == "off" => settings.half_life = None,
            "halflife" => settings.half_life = Some(span(value)),
            "ahead" => settings.charge_ahead = span(value),
            "cores" => settings.core_share = value.parse().unwrap(),
            "reserve" => settings.reserve_after = span(value),
            "reservations" => settings.reservations = value.parse().unwrap(),
            "preemption" => settings.preemption = value == "on",
            "allowance" => settings.start_allowance = span(value),
            _ => panic!("unknown setting: {word}"),
        }
    }
    settings
}

/// A GPU by its size, as in `24Gi`, or a MIG slice of one, as in `10Gi@0:1g.10gb`.
pub(crate) fn device(node: &NodeName, at: usize, text: &str) -> Gpu {
    let (size, slice) = match text.split_once('@') {
        Some((size, slice)) => (size, Some(slice.split_once(':').unwrap())),
        None => (text, None),
    };
    Gpu {
        slice: slice.map(|(parent, profile)| Slice {
            parent: format!("{node}/{parent}").into(),
            profile: profile.into(),
        }),
        ..Gpu::idle(format!("{node}/{at}"), at.try_into().unwrap(), bytes(size))
    }
}

/// How GPUs are joined: a NUMA node or switch for each, or pairs with NVLink.
pub(crate) fn joined(gpus: &mut [Gpu], key: &str, value: &str) {
    if key == "nvlink" {
        for gpu in gpus.iter_mut() {
            gpu.nvlinks = Some(Vec::new());
        }
        for (a, b) in value.split(',').filter_map(|pair| pair.split_once('-')) {
            let peer = b.parse().unwrap();
            let links = gpus[a.parse::<usize>().unwrap()].nvlinks.as_mut();
            links.unwrap().push(peer);
        }
        return;
    }
    for (gpu, word) in gpus.iter_mut().zip(value.split(',')) {
        match key {
            "numa" => gpu.numa = Some(word.parse().unwrap()),
            _ => gpu.pcie_switch = Some(word.into()),
        }
    }
}

pub(crate) fn link(text: &str) -> Link {
    match text {
        "numa" => Link::Numa,
        "switch" => Link::PcieSwitch,
        "nvlink" => Link::NvLink,
        _ => panic!("unknown link: {text}"),
    }
}

/// `50:zone=x`, `-20:offers=tag` or `10:dir=/data`.
pub(crate) fn preference(text: &str) -> Preference {
    let (weight, wish) = text.split_once(':').unwrap();
    let (key, value) = wish.split_once('=').unwrap();
    let wish = match key {
        "offers" => Wish::Offers(value.into()),
        "dir" => Wish::Directory(value.into()),
        _ => Wish::Label {
            key: key.into(),
            values: BTreeSet::from([value.into()]),
        },
    };
    Preference {
        weight: weight.parse().unwrap(),
        wishes: vec![wish],
    }
}

/// `a gpu 0,1 by 90 after x,y`, or `nothing`.
pub(crate) fn reserved(reservation: Option<&Reservation>) -> String {
    let Some(reservation) = reservation else {
        return "nothing".into();
    };
    let slots = slots(&reservation.slots);
    let by = match reservation.not_later_than {
        Some(by) => format!("by {}", by.0 / 1000),
        None => "at an unknown time".into(),
    };
    let after: Vec<_> = reservation.waits_for.iter().map(JobUid::as_str).collect();
    format!("{slots} {by} after {}", after.join(","))
}

/// `a gpu 0,1 without x,y until 90`, or `nothing`.
pub(crate) fn nominated(nomination: Option<&Nomination>) -> String {
    let Some(nomination) = nomination else {
        return "nothing".into();
    };
    let victims: Vec<_> = nomination.victims.iter().map(JobUid::as_str).collect();
    let (slots, until) = (slots(&nomination.slots), nomination.expires.0 / 1000);
    format!("{slots} without {} until {until}", victims.join(","))
}

pub(crate) fn slots(slots: &[Slot]) -> String {
    let slot = |slot: &Slot| {
        let gpus = slot.gpus.iter();
        let gpus: Vec<_> = gpus
            .map(|gpu| gpu.as_str().rsplit('/').next().unwrap())
            .collect();
        if gpus.is_empty() {
            slot.node.to_string()
        } else {
            format!("{} gpu {}", slot.node, gpus.join(","))
        }
    };
    let slots: Vec<_> = slots.iter().map(slot).collect();
    slots.join(" and ")
}

pub(crate) fn cpu(text: &str) -> MilliCpu {
    match text.strip_suffix('m') {
        Some(millis) => MilliCpu(millis.parse().unwrap()),
        None => MilliCpu(text.parse::<u64>().unwrap() * 1000),
    }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    if let Some(mib) = text.strip_suffix("Mi") {
        return Bytes::mib(mib.parse().unwrap());
    }
    let gib = text.strip_suffix("Gi").unwrap();
    let (whole, tenths) = gib.split_once('.').unwrap_or((gib, "0"));
    let tenths = whole.parse::<u64>().unwrap() * 10 + tenths.parse::<u64>().unwrap();
    Bytes(tenths * Bytes::GIB / 10)
}

/// A time as a clock shows it that started with the script.
pub(crate) fn clock(time: Millis) -> String {
    let minutes = time.0 / 60_000;
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

/// Seconds since the start of the script.
pub(crate) fn time(text: &str) -> Millis {
    Millis(0).plus(span(text))
}

/// Seconds, or minutes and hours with `m` and `h`.
pub(crate) fn span(text: &str) -> Span {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => text
            .strip_suffix('h')
            .map_or((text, 1), |hours| (hours, 3600)),
    };
    Span::seconds(number.parse::<i64>().unwrap() * unit)
}

/// The median and the ninth decile of the run time, as in `10m:1h`.
pub(crate) fn estimate(text: &str) -> Estimate {
    let (median, p90) = text.split_once(':').unwrap();
    Estimate {
        median: span(median),
        p90: span(p90),
    }
}

pub(crate) fn pairs(text: &str) -> BTreeMap<Arc<str>, Arc<str>> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

pub(crate) fn effect(text: &str) -> TaintEffect {
    match text {
        "NoSchedule" => TaintEffect::NoSchedule,
        "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
        "NoExecute" => TaintEffect::NoExecute,
        _ => panic!("unknown effect: {text}"),
    }
}

pub(crate) fn taint(text: &str) -> Taint {
    let (pair, word) = text.rsplit_once(':').unwrap();
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Taint {
        key: key.into(),
        value: value.into(),
        effect: effect(word),
    }
}

pub(crate) fn toleration(text: &str) -> Toleration {
    let (pair, word) = match text.rsplit_once(':') {
        Some((pair, word)) => (pair, Some(effect(word))),
        None => (text, None),
    };
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value.into())),
        None => (pair, None),
    };
    Toleration {
        key: (key != "*").then(|| key.into()),
        value,
        effect: word,
    }
}
