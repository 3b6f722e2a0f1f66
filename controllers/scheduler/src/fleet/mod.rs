//! All known nodes side by side in a few numbers each, so that a look at the whole fleet reads little memory and asks the
//! full checks of [`crate::fit`] only where they may say yes.
//!
//! - `alike`: which nodes are alike: in what does not change while jobs come and go, in everything that a fit is judged by,
//!   and in the most they were ever seen with. What was found out about one holds for the others.
//! - `survey`: the look at the fleet.
//!
//! **Guarantee.** A survey finds what the full checks would find node by node; the numbers only say where they need not
//! be asked, and tests hold the two to each other.

mod alike;
mod survey;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::input::NodeName;
use crate::node_state::NodeState;
use crate::vram;
use alike::{GroupKey, Interner, TwinKey, WaterKey};

/// GPUs whose room is noted beside the other numbers; nodes with more are always asked in full.
const DEVICES: usize = 8;

/// One known node in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: NodeName,
    /// The same for nodes that are alike in what does not change while jobs come and go.
    group: u32,
    /// The same for nodes that are alike in everything that a fit is judged by.
    twin: u32,
    /// The same for nodes that are alike in the most they were ever seen with.
    water: u32,
    cpu: u64,
    memory: u64,
    jobs: u32,
    max_jobs: Option<u32>,
    whole: bool,
    /// False when the node has more devices than are noted.
    all_noted: bool,
    idle: u16,
    devices: u8,
    /// Memory free for jobs that share, by device.
    free: [u64; DEVICES],
    /// The most that a job could ask of the device and have, by device.
    reach: [u64; DEVICES],
}

/// The known nodes, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    rows: Vec<Row>,
    groups: Interner<GroupKey>,
    twins: Interner<TwinKey>,
    waters: Interner<WaterKey>,
    /// Labels by which some node is told from all others, because they bear its name.
    names: BTreeSet<Arc<str>>,
}

impl Fleet {
    /// A node appeared, changed or went.
    pub(crate) fn note(&mut self, name: &NodeName, state: Option<&NodeState>) {
        let place = self.rows.binary_search_by(|row| row.name.cmp(name));
        if let Ok(at) = place {
            let (twin, group, water) =
                (self.rows[at].twin, self.rows[at].group, self.rows[at].water);
            self.twins.give(twin);
            self.groups.give(group);
            self.waters.give(water);
        }
        let Some(row) = state.and_then(|state| self.row(name, state)) else {
            if let Ok(at) = place {
                self.rows.remove(at);
            }
            return;
        };
        match place {
            Ok(at) => self.rows[at] = row,
            Err(at) => self.rows.insert(at, row),
        }
    }

    /// Only what is promised on a node changed.
    pub(crate) fn note_use(&mut self, name: &NodeName, state: &NodeState) {
        let place = self.rows.binary_search_by(|row| row.name.cmp(name));
        let (Ok(at), Some(_)) = (place, &state.facts) else {
            return;
        };
        let row = &mut self.rows[at];
        row.measure(state);
        let twin = self.twins.take(TwinKey::of(row.group, state));
        self.twins.give(row.twin);
        row.twin = twin;
    }

    fn row(&mut self, name: &NodeName, state: &NodeState) -> Option<Row> {
        let node = state.facts.as_ref()?;
        let named = node.labels.iter().filter(|(_, value)| ***value == *name.0);
        for (key, _) in named {
            if !self.names.contains(key) {
                self.names.insert(key.clone());
            }
        }
        let group = self.groups.take(GroupKey::of(name, node));
        let mut row = Row {
            name: name.clone(),
            group,
            twin: self.twins.take(TwinKey::of(group, state)),
            water: self.waters.take(WaterKey::of(&state.high_water)),
            cpu: 0,
            memory: 0,
            jobs: 0,
            max_jobs: node.max_jobs,
            whole: false,
            all_noted: node.gpus.len() <= DEVICES,
            idle: 0,
            devices: u8::try_from(node.gpus.len()).unwrap_or(u8::MAX),
            free: [0; DEVICES],
            reach: [0; DEVICES],
        };
        row.measure(state);
        Some(row)
    }

    /// The rows as they must be from the nodes, without the numbers that say which are alike.
    pub(crate) fn is_current<'a>(
        &self,
        nodes: impl Iterator<Item = (&'a NodeName, &'a NodeState)>,
    ) -> bool {
        let mut rows = self.rows.iter();
        let known = nodes.filter(|(_, state)| state.facts.is_some());
        for (name, state) in known {
            let Some(row) = rows.next().filter(|row| row.name == *name) else {
                return false;
            };
            let mut fresh = row.clone();
            fresh.measure(state);
            let alike = self.twins.is(row.twin, &TwinKey::of(row.group, state))
                && self.waters.is(row.water, &WaterKey::of(&state.high_water))
                && state
                    .facts
                    .as_ref()
                    .is_some_and(|node| self.groups.is(row.group, &GroupKey::of(name, node)));
            if fresh != *row || !alike {
                return false;
            }
        }
        rows.next().is_none()
    }
}

impl Row {
    /// Takes over what is promised on the node.
    fn measure(&mut self, state: &NodeState) {
        let Some(node) = &state.facts else {
            return;
        };
        self.cpu = state.cpu_free(node).0;
        self.memory = state.memory_free(node).0;
        self.jobs = u32::try_from(state.jobs.len()).unwrap_or(u32::MAX);
        self.whole = state.whole_jobs > 0;
        let idle = state.gpus.iter().filter(|device| device.headroom.idle);
        self.idle = u16::try_from(idle.count()).unwrap_or(u16::MAX);
        let devices = node.gpus.iter().zip(&state.gpus);
        let noted = self.free.iter_mut().zip(&mut self.reach);
        for ((gpu, device), (free, reach)) in devices.zip(noted) {
            *free = device.headroom.free.0;
            *reach = if device.headroom.idle {
                vram::nominal(gpu).0.max(*free)
            } else {
                *free
            };
        }
    }
}
