//! Which nodes are alike, as small numbers that can be compared and looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::input::{Bytes, Capability, Gpu, MilliCpu, Node, NodeName, TaintEffect};
use crate::node_state::{HighWater, NodeState};

/// Equal keys under one number each, for as long as somebody holds it. Numbers are used again, so they stay small.
#[derive(Clone, Debug)]
pub(super) struct Interner<K> {
    ids: BTreeMap<Arc<K>, u32>,
    held: Vec<Option<(Arc<K>, u32)>>,
    unused: Vec<u32>,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self {
            ids: BTreeMap::new(),
            held: Vec::new(),
            unused: Vec::new(),
        }
    }
}

impl<K: Ord> Interner<K> {
    pub(super) fn take(&mut self, key: K) -> u32 {
        if let Some(id) = self.ids.get(&key) {
            if let Some((_, count)) = &mut self.held[*id as usize] {
                *count += 1;
            }
            return *id;
        }
        let key = Arc::new(key);
        let held = Some((key.clone(), 1));
        let id = if let Some(id) = self.unused.pop() {
            self.held[id as usize] = held;
            id
        } else {
            self.held.push(held);
            u32::try_from(self.held.len() - 1).unwrap_or(u32::MAX)
        };
        self.ids.insert(key, id);
        id
    }

    pub(super) fn give(&mut self, id: u32) {
        let Some((key, count)) = &mut self.held[id as usize] else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.ids.remove(key);
            self.held[id as usize] = None;
            self.unused.push(id);
        }
    }

    pub(super) fn is(&self, id: u32, key: &K) -> bool {
        self.held[id as usize]
            .as_ref()
            .is_some_and(|(held, _)| **held == *key)
    }

    /// All numbers in use are less.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

/// A device in what does not change while jobs come and go. Which one it is does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DeviceKey {
    index: u32,
    model: Arc<str>,
    memory: Bytes,
    reserved: Bytes,
    capability: Option<Capability>,
    healthy: bool,
    /// For a slice, which device of the node it is a part of, and its profile.
    slice: Option<(Option<usize>, Arc<str>)>,
    numa: Option<u32>,
    pcie_switch: Option<Arc<str>>,
    nvlinks: Option<Vec<u32>>,
}

impl DeviceKey {
    fn of(gpu: &Gpu, all: &[Gpu]) -> Self {
        let slice = gpu.slice.as_ref().map(|slice| {
            let parent = all.iter().position(|one| one.uuid == slice.parent);
            (parent, slice.profile.clone())
        });
        Self {
            index: gpu.index,
            model: gpu.model.clone(),
            memory: gpu.memory,
            reserved: gpu.reserved,
            capability: gpu.capability,
            healthy: gpu.healthy,
            slice,
            numa: gpu.numa,
            pcie_switch: gpu.pcie_switch.clone(),
            nvlinks: gpu.nvlinks.clone(),
        }
    }
}

/// A node in what does not change while jobs come and go, but for its size. Labels that bear its name do not count, or no
/// two nodes were alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    labels: Vec<(Arc<str>, Arc<str>)>,
    taints: Vec<(Arc<str>, Arc<str>, TaintEffect)>,
    offers: BTreeSet<Arc<str>>,
    directories: Option<BTreeSet<Arc<str>>>,
    state: (bool, bool, u8),
    max_jobs: Option<u32>,
    devices: Vec<DeviceKey>,
}

impl GroupKey {
    pub(super) fn of(name: &NodeName, node: &Node) -> Self {
        let labels = node.labels.iter().filter(|(_, value)| ***value != *name.0);
        let taints = node.taints.iter();
        Self {
            labels: labels
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            taints: taints
                .map(|taint| (taint.key.clone(), taint.value.clone(), taint.effect))
                .collect(),
            offers: node.offers.clone(),
            directories: node.directories.clone(),
            state: (node.ready, node.unschedulable, node.desired as u8),
            max_jobs: node.max_jobs,
            devices: node
                .gpus
                .iter()
                .map(|gpu| DeviceKey::of(gpu, &node.gpus))
                .collect(),
        }
    }
}

/// A node in everything that a fit and its score are judged by, but for its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TwinKey {
    group: u32,
    numbers: Vec<u64>,
}

impl TwinKey {
    pub(super) fn of(group: u32, state: &NodeState) -> Self {
        let mut numbers = Vec::with_capacity(4 + 2 * state.gpus.len());
        if let Some(node) = &state.facts {
            numbers.extend([state.cpu_free(node).0, state.memory_free(node).0]);
        }
        numbers.extend([state.jobs.len() as u64, u64::from(state.whole_jobs)]);
        for device in &state.gpus {
            let room = device.headroom;
            numbers.push(room.free.0);
            numbers.push(u64::from(room.idle) << 1 | u64::from(room.vacant));
        }
        Self { group, numbers }
    }
}

/// The most that a node was ever seen with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaterKey {
    cpu: MilliCpu,
    memory: Bytes,
    devices: Vec<DeviceKey>,
    directories: Option<BTreeSet<Arc<str>>>,
}

impl WaterKey {
    pub(super) fn of(water: &HighWater) -> Self {
        let all = water.gpus.values().chain(water.slices.values());
        let mut devices: Vec<DeviceKey> = all.map(|gpu| DeviceKey::of(gpu, &[])).collect();
        devices.sort_unstable();
        Self {
            cpu: water.cpu,
            memory: water.memory,
            devices,
            directories: water.directories.clone(),
        }
    }
}
