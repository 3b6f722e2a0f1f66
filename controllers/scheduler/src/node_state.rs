//! One node with what is promised on it: the figures that fits are judged by, kept current at every change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::input::{
    Attributed, BoundJob, Bytes, Gpu, GpuUuid, JobUid, MilliCpu, Millis, Node, Slice, covers,
};
use crate::preempt::Stakes;
use crate::topology::Topology;
use crate::vram::{self, Headroom, Promise, Size};

/// One node with the jobs bound to it. A node that is not known (any more) may still have jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeState {
    /// What was observed last; `None` while the node is not known.
    pub(crate) facts: Option<Node>,
    /// The most it was ever seen with.
    pub(crate) high_water: HighWater,
    /// Jobs bound to it.
    pub(crate) jobs: BTreeMap<JobUid, BoundJob>,
    /// CPU promised.
    pub(crate) cpu_used: u64,
    /// Host memory promised.
    pub(crate) memory_used: u64,
    /// Jobs that have the node to themselves.
    pub(crate) whole_jobs: u32,
    /// What is left of each GPU, in the order of `facts.gpus`.
    pub(crate) gpus: Vec<GpuState>,
    /// How the GPUs are joined.
    pub(crate) topology: Arc<Topology>,
    /// The event after which something may have been freed here.
    pub(crate) freed_at: u64,
    /// Counts what changed here.
    pub(crate) changes: u64,
    /// What displacing jobs here would cost, once that was asked after the last change.
    stakes: OnceLock<Arc<Stakes>>,
}

/// Most directories of a node that are remembered; a node that ever had more is taken to have any.
const MAX_DIRECTORIES: usize = 1024;

/// The most a node was ever seen with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HighWater {
    pub(crate) cpu: MilliCpu,
    pub(crate) memory: Bytes,
    /// GPUs that are no slices.
    pub(crate) gpus: BTreeMap<GpuUuid, Gpu>,
    /// One slice of each profile and model: a job has one at most.
    pub(crate) slices: BTreeMap<(Arc<str>, Arc<str>), Gpu>,
    pub(crate) directories: Option<BTreeSet<Arc<str>>>,
}

impl HighWater {
    /// Was the path ever within reach? `None` when the node never said what it has.
    pub(crate) fn offers_directory(&self, path: &str) -> Option<bool> {
        let roots = self.directories.as_ref()?;
        Some(roots.len() > MAX_DIRECTORIES || roots.iter().any(|root| covers(root, path)))
    }

    /// Takes over what is more than before. True when something is known now that was not, so that what was thought
    /// possible may not be.
    fn raise(&mut self, node: &Node) -> bool {
        let mut learned = false;
        self.cpu = self.cpu.max(node.cpu);
        self.memory = self.memory.max(node.memory);
        if let Some(roots) = &node.directories {
            learned |= self.directories.is_none();
            let known = self.directories.get_or_insert_default();
            if known.len() <= MAX_DIRECTORIES && !roots.is_subset(known) {
                known.extend(roots.iter().take(MAX_DIRECTORIES + 1).cloned());
            }
        }
        for gpu in &node.gpus {
            let known = match &gpu.slice {
                None => self.gpus.get_mut(&gpu.uuid),
                Some(slice) => self
                    .slices
                    .get_mut(&(slice.profile.clone(), gpu.model.clone())),
            };
            match known {
                Some(known) if known.memory > gpu.memory => {}
                Some(known) => {
                    learned |= known.capability.is_none() && gpu.capability.is_some();
                    // Only what does not tick: a fresh copy of the whole record at every report would be waste.
                    known.memory = gpu.memory;
                    known.reserved = known.reserved.min(gpu.reserved);
                    known.capability = known.capability.max(gpu.capability);
                    known.model = gpu.model.clone();
                    if !same_links(known, gpu) {
                        learned = true;
                        known.numa = gpu.numa;
                        known.pcie_switch.clone_from(&gpu.pcie_switch);
                        known.nvlinks.clone_from(&gpu.nvlinks);
                    }
                }
                None => {
                    let empty = Gpu {
                        used: Some(Bytes(0)),
                        healthy: true,
                        foreign_peaks: Vec::new(),
                        foreign_used: None,
                        holders: 0,
                        attributed: Vec::new(),
                        ..gpu.clone()
                    };
                    match &gpu.slice {
                        None => self.gpus.insert(gpu.uuid.clone(), empty),
                        Some(slice) => {
                            let key = (slice.profile.clone(), gpu.model.clone());
                            self.slices.insert(key, empty)
                        }
                    };
                }
            }
        }
        learned
    }
}

fn same_links(one: &Gpu, other: &Gpu) -> bool {
    one.numa == other.numa
        && one.pcie_switch == other.pcie_switch
        && one.nvlinks == other.nvlinks
        && one.slice == other.slice
        && one.index == other.index
}

/// What is left of one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GpuState {
    pub(crate) headroom: Headroom,
    /// Model name in lower case.
    pub(crate) model: String,
    /// Is it divided into slices? Then it is not given to jobs itself.
    pub(crate) divided: bool,
    /// Facts that every fit needs, so that it looks at this record alone.
    pub(crate) size: Size,
    pub(crate) healthy: bool,
    pub(crate) is_slice: bool,
}

/// A job that was thought away from a node, with what it was measured to use there.
#[derive(Clone, Debug)]
pub(crate) struct Vacated {
    job: BoundJob,
    /// By the position of the GPU: its entry, and how much of the GPU's use it was.
    seen: Vec<(usize, Attributed, Bytes)>,
}

impl Vacated {
    /// Has the job leave by a time, if it is not being stopped already.
    pub(crate) fn stop(&mut self, end: Millis) {
        self.job.stopping.get_or_insert(end);
    }
}

impl NodeState {
    /// A copy to think on, without the memory of what the node once had.
    pub(crate) fn working_copy(&self) -> Self {
        Self {
            facts: self.facts.clone(),
            high_water: HighWater::default(),
            jobs: self.jobs.clone(),
            gpus: self.gpus.clone(),
            topology: Arc::clone(&self.topology),
            stakes: OnceLock::new(),
            ..*self
        }
    }

    /// What displacing jobs here would cost.
    pub(crate) fn stakes(&self) -> &Stakes {
        self.stakes.get_or_init(|| Arc::new(Stakes::of(self)))
    }

    fn changed(&mut self) {
        self.changes += 1;
        self.stakes = OnceLock::new();
    }

    /// Removes a job as if it had ended and what it uses were free already.
    pub(crate) fn vacate(&mut self, uid: &JobUid) -> Option<Vacated> {
        let job = self.jobs.get(uid)?;
        let mut seen = Vec::new();
        let gpus = self.facts.iter_mut().flat_map(|node| &mut node.gpus);
        for (at, gpu) in gpus.enumerate() {
            let its = |use_: &Attributed| {
                use_.job == *uid && (job.attempt == 0 || use_.attempt == job.attempt)
            };
            if job.gpus.contains(&gpu.uuid)
                && let Some(entry) = gpu.attributed.iter().position(its)
            {
                let entry = gpu.attributed.remove(entry);
                let used = gpu.used.unwrap_or_default();
                let left = used.saturating_sub(entry.used);
                gpu.used = gpu.used.map(|_| left);
                seen.push((at, entry, used.saturating_sub(left)));
            }
        }
        let job = self.remove(uid)?;
        Some(Vacated { job, seen })
    }

    /// Takes back a [`vacate`](Self::vacate).
    pub(crate) fn reoccupy(&mut self, vacated: Vacated) {
        let gpus = self.facts.as_mut().map(|node| &mut node.gpus);
        if let Some(gpus) = gpus {
            for (at, entry, used) in vacated.seen {
                gpus[at].used = gpus[at].used.map(|rest| rest.saturating_add(used));
                gpus[at].attributed.push(entry);
            }
        }
        self.add(vacated.job);
    }

    pub(crate) fn cpu_free(&self, node: &Node) -> MilliCpu {
        MilliCpu(node.cpu.0.saturating_sub(self.cpu_used))
    }

    pub(crate) fn memory_free(&self, node: &Node) -> Bytes {
        Bytes(node.memory.0.saturating_sub(self.memory_used))
    }

    /// Takes over what was observed. True when something is known now that was not, see [`HighWater`].
    pub(crate) fn set_facts(&mut self, node: Node) -> bool {
        self.changed();
        let learned = self.high_water.raise(&node) && self.facts.is_some();
        let before = self.facts.as_ref().map_or(&[][..], |facts| &facts.gpus);
        let as_before = before.len() == node.gpus.len()
            && before
                .iter()
                .zip(&node.gpus)
                .all(|(one, other)| same_links(one, other));
        if !as_before {
            self.topology = Arc::new(Topology::of(node.gpus.iter()));
        }
        self.facts = Some(node);
        self.measure_all();
        learned
    }

    pub(crate) fn add(&mut self, job: BoundJob) {
        self.changed();
        self.cpu_used = self.cpu_used.saturating_add(job.cpu.0);
        self.memory_used = self.memory_used.saturating_add(job.memory.0);
        self.whole_jobs += u32::from(job.whole_node);
        let gpus = job.gpus.clone();
        self.jobs.insert(job.uid.clone(), job);
        self.measure(&gpus);
    }

    pub(crate) fn remove(&mut self, uid: &JobUid) -> Option<BoundJob> {
        let job = self.jobs.remove(uid)?;
        self.changed();
        self.cpu_used = self
            .jobs
            .values()
            .map(|job| job.cpu.0)
            .fold(0, u64::saturating_add);
        self.memory_used = self
            .jobs
            .values()
            .map(|job| job.memory.0)
            .fold(0, u64::saturating_add);
        self.whole_jobs -= u32::from(job.whole_node);
        self.measure(&job.gpus);
        Some(job)
    }

    /// Takes over what is new of a job that is here and charges as before. True when that changed what is left of its
    /// GPUs, because another measured use is now known to be its own.
    pub(crate) fn confirm(&mut self, job: &BoundJob) -> bool {
        self.changed();
        let Some(known) = self.jobs.get_mut(&job.uid) else {
            return false;
        };
        let attempt = std::mem::replace(known, job.clone()).attempt;
        if job.gpus.is_empty() || attempt == job.attempt {
            return false;
        }
        let before = self.gpus.clone();
        self.measure(&job.gpus);
        before != self.gpus
    }

    /// What is promised on a GPU.
    pub(crate) fn promises(&self, gpu: &GpuUuid) -> Vec<Promise> {
        let holders = self.jobs.values().filter(|job| job.gpus.contains(gpu));
        holders.map(promise).collect()
    }

    /// The GPUs as they must be from the facts and the jobs.
    pub(crate) fn measured(&self) -> Vec<GpuState> {
        let gpus = self.facts.as_ref().map_or(&[][..], |node| &node.gpus);
        let sliced = gpus.iter().any(|gpu| gpu.slice.is_some());
        let divided = |gpu: &Gpu| {
            let is_parent = |slice: &Slice| slice.parent == gpu.uuid;
            gpus.iter()
                .any(|one| one.slice.as_ref().is_some_and(is_parent))
        };
        gpus.iter()
            .map(|gpu| GpuState {
                headroom: vram::headroom(gpu, &self.promises(&gpu.uuid)),
                model: gpu.model.to_lowercase(),
                divided: sliced && divided(gpu),
                size: Size::of(gpu),
                healthy: gpu.healthy,
                is_slice: gpu.slice.is_some(),
            })
            .collect()
    }

    fn measure_all(&mut self) {
        self.gpus = self.measured();
    }

    fn measure(&mut self, touched: &[GpuUuid]) {
        let gpus = self.facts.iter().flat_map(|node| &node.gpus).enumerate();
        let fresh: Vec<(usize, Headroom)> = gpus
            .filter(|(_, gpu)| touched.contains(&gpu.uuid))
            .map(|(at, gpu)| (at, vram::headroom(gpu, &self.promises(&gpu.uuid))))
            .collect();
        for (at, headroom) in fresh {
            self.gpus[at].headroom = headroom;
        }
    }
}

fn promise(job: &BoundJob) -> Promise {
    Promise {
        job: job.uid.clone(),
        attempt: job.attempt,
        declared: job.vram,
        whole: job.whole_gpus || job.vram.is_none(),
    }
}
