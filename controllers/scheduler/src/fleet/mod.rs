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

pub(crate) use survey::Opens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::exits::Exits;
use crate::fit;
use crate::input::{Exclusive, GpuRequest, NodeName, Requirements};
use crate::node_state::NodeState;
use crate::preempt::{DEVICES, Glance};
use crate::shelf::Amounts;
use crate::vram;
use alike::{GroupKey, Interner, TwinKey, WaterKey};

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
    vacant: u16,
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
    /// What displacing jobs costs on the same nodes, once that was asked after the last change there.
    glances: Vec<OnceLock<Glance>>,
    /// When the first of the jobs there leaves, in the same way.
    exits: Vec<OnceLock<Exits>>,
    groups: Interner<GroupKey>,
    twins: Interner<TwinKey>,
    waters: Interner<WaterKey>,
    /// Labels by which some node is told from all others, because they bear its name.
    names: BTreeSet<Arc<str>>,
}

impl Fleet {
    /// A node appeared, changed or went. True when something may fit now that did not.
    pub(crate) fn note(&mut self, name: &NodeName, state: Option<&NodeState>) -> bool {
        let place = self.rows.binary_search_by(|row| row.name.cmp(name));
        let row = state.and_then(|state| self.row(name, state));
        if let Ok(at) = place {
            let before = &self.rows[at];
            self.twins.give(before.twin);
            self.groups.give(before.group);
            self.waters.give(before.water);
        }
        let Some(row) = row else {
            if let Ok(at) = place {
                self.rows.remove(at);
                self.glances.remove(at);
                self.exits.remove(at);
            }
            return false;
        };
        match place {
            Ok(at) => {
                let more = row.offers_more_than(&self.rows[at]);
                self.rows[at] = row;
                self.forget(at);
                more
            }
            Err(at) => {
                self.rows.insert(at, row);
                self.glances.insert(at, OnceLock::new());
                self.exits.insert(at, OnceLock::new());
                true
            }
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
        self.forget(at);
    }

    /// Something else is known of a job on a node, which may change what displacing it costs and when it leaves.
    pub(crate) fn note_stakes(&mut self, name: &NodeName) {
        if let Ok(at) = self.rows.binary_search_by(|row| row.name.cmp(name)) {
            self.forget(at);
        }
    }

    /// What is remembered of the jobs on a node may be another by now.
    fn forget(&mut self, at: usize) {
        self.glances[at] = OnceLock::new();
        self.exits[at] = OnceLock::new();
    }

    /// A queue promises its jobs another time before they may be displaced.
    pub(crate) fn forget_exits(&mut self) {
        for exits in &mut self.exits {
            *exits = OnceLock::new();
        }
    }

    /// The place of a node among all that are known, by name.
    pub(crate) fn place(&self, name: &NodeName) -> Option<usize> {
        self.rows.binary_search_by(|row| row.name.cmp(name)).ok()
    }

    /// Number of known nodes.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
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
            vacant: 0,
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
        exits_of: impl Fn(&NodeState) -> Exits,
    ) -> bool {
        let mut rows = self.rows.iter().zip(&self.glances).zip(&self.exits);
        let known = nodes.filter(|(_, state)| state.facts.is_some());
        for (name, state) in known {
            let next = rows.next().filter(|((row, _), _)| row.name == *name);
            let Some(((row, glance), exits)) = next else {
                return false;
            };
            if exits.get().is_some_and(|seen| *seen != exits_of(state)) {
                return false;
            }
            if glance.get().is_some_and(|seen| *seen != Glance::of(state)) {
                return false;
            }
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
    /// May something fit here that did not fit before?
    fn offers_more_than(&self, before: &Self) -> bool {
        let more = |now: &[u64], before: &[u64]| now.iter().zip(before).any(|(now, was)| now > was);
        // Numbers of groups are used again, but not while a row has them.
        self.group != before.group
            || !self.all_noted
            || self.cpu > before.cpu
            || self.memory > before.memory
            || self.jobs < before.jobs
            || (before.whole && !self.whole)
            || self.idle > before.idle
            || self.vacant > before.vacant
            || more(&self.free, &before.free)
            || more(&self.reach, &before.reach)
    }

    /// Takes over what is promised on the node.
    fn measure(&mut self, state: &NodeState) {
        let Some(node) = &state.facts else {
            return;
        };
        self.cpu = state.cpu_free(node).0;
        self.memory = state.memory_free(node).0;
        self.jobs = u32::try_from(state.jobs.len()).unwrap_or(u32::MAX);
        self.whole = state.whole_jobs > 0;
        let idle = state
            .gpus
            .iter()
            .filter(|device| device.headroom.idle && !device.divided);
        self.idle = u16::try_from(idle.count()).unwrap_or(u16::MAX);
        let vacant = state.gpus.iter().filter(|device| device.headroom.vacant);
        self.vacant = u16::try_from(vacant.count()).unwrap_or(u16::MAX);
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

impl Row {
    /// May the node take a job that needs this but for amounts, and these amounts? What does not change while jobs come and
    /// go is not looked at. Says yes to less of everything when it does to more.
    pub(crate) fn admits(&self, needs: &Requirements, amounts: &Amounts) -> bool {
        if self.whole
            || (needs.exclusive == Exclusive::Node && self.jobs > 0)
            || self.max_jobs.is_some_and(|most| self.jobs >= most)
            || amounts.cpu.0 > self.cpu
            || amounts.memory.0 > self.memory
        {
            return false;
        }
        match needs.gpus {
            GpuRequest::None => true,
            GpuRequest::Whole(count) => u32::from(self.idle) >= count,
            GpuRequest::Vram { count, .. } => {
                let wanted = amounts.vram.0.max(1);
                let enough = self.reach.iter().filter(|reach| wanted <= **reach);
                !self.all_noted || enough.count() >= count as usize
            }
        }
    }
}

/// Nodes where something was freed, for a look through those who may use it.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    /// Their places in the fleet, when they are few.
    few: Vec<usize>,
    /// When they are many, what the best of them had of each when the look began.
    many: Option<Box<Row>>,
}

/// Most nodes that are looked at one by one.
const ONE_BY_ONE: usize = 32;

impl Freed {
    pub(crate) fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_none()
    }
}

impl Fleet {
    /// The nodes of these names.
    pub(crate) fn freed(&self, names: &BTreeSet<NodeName>) -> Freed {
        let place = |name: &NodeName| self.rows.binary_search_by(|row| row.name.cmp(name)).ok();
        let few: Vec<usize> = names.iter().filter_map(place).collect();
        if few.len() <= ONE_BY_ONE {
            return Freed { few, many: None };
        }
        let rows = few.iter().map(|at| self.rows[*at].clone());
        Freed {
            many: rows.reduce(Row::best_of_both).map(Box::new),
            few: Vec::new(),
        }
    }

    /// Those of them that may take a job for good, where the job needs this but for amounts.
    pub(crate) fn open_to(
        &self,
        freed: &Freed,
        needs: &Requirements,
        nodes: &BTreeMap<NodeName, NodeState>,
    ) -> Freed {
        let open = |at: &usize| {
            let node = nodes.get_key_value(&self.rows[*at].name);
            node.is_some_and(|(name, state)| fit::fixed_misfit(needs, name, state).is_none())
        };
        Freed {
            few: freed.few.iter().copied().filter(open).collect(),
            many: freed.many.clone(),
        }
    }

    /// May one of them take a job that needs this and these amounts?
    pub(crate) fn any_admits(&self, freed: &Freed, needs: &Requirements, asked: &Amounts) -> bool {
        let mut few = freed.few.iter();
        few.any(|at| self.rows[*at].admits(needs, asked))
            || freed
                .many
                .as_ref()
                .is_some_and(|row| row.admits(needs, asked))
    }

    /// Their names; `None` when there are so many that every node is to be looked at.
    pub(crate) fn names(&self, freed: &Freed) -> Option<Vec<&NodeName>> {
        let rows = freed.many.is_none().then_some(&freed.few)?;
        Some(rows.iter().map(|at| &self.rows[*at].name).collect())
    }
}

impl Row {
    /// A node that has as much of each as the one of two that has more, with the largest devices first.
    fn best_of_both(mut self, mut other: Self) -> Self {
        self.reach.sort_unstable_by(|one, two| two.cmp(one));
        other.reach.sort_unstable_by(|one, two| two.cmp(one));
        for (mine, reach) in self.reach.iter_mut().zip(other.reach) {
            *mine = reach.max(*mine);
        }
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.whole &= other.whole;
        self.all_noted &= other.all_noted;
        self.idle = self.idle.max(other.idle);
        self.jobs = self.jobs.min(other.jobs);
        self.max_jobs = match (self.max_jobs, other.max_jobs) {
            (Some(one), Some(two)) => Some(one.max(two)),
            _ => None,
        };
        self
    }
}
