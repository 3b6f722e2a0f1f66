//! One look at the whole fleet: where a job fits, or why it does not, and where it could start the soonest.

use std::collections::BTreeSet;

use super::{Fleet, Row};
use crate::cluster::Cluster;
use crate::exits::Exits;
use crate::explain::{Item, NodeReasons};
use crate::fit::{self, Occupancy, Score};
use crate::input::{
    Bytes, Exclusive, GpuRequest, Job, Link, MilliCpu, Millis, NodeName, Packing, Requirements,
    Wish,
};
use crate::node_state::NodeState;
use crate::preempt::{Cost, DEVICES, Glance, Seen};
use crate::reason::{Misfit, ReasonClass};
use crate::shelf::Amounts;
use crate::timeline::{self, Leaves, Outlook};

/// What the numbers of a node say about a job.
enum Verdict<'a> {
    /// It does not fit, for a reason that all nodes of the group have.
    Never(&'a Misfit),
    /// It does not fit now.
    NotNow(Misfit),
    /// The full checks must be asked.
    Ask,
}

/// What is known of the nodes of a group.
enum Known {
    Misfit(Misfit),
    /// The job is not kept from them for good; and if all their devices count for it, their numbers tell more.
    Possible {
        plain: bool,
        /// How loosely the GPUs would be joined at the least.
        looseness: u8,
    },
}

/// A job as nodes are judged by it, with what was found out on the way.
struct Judge<'a> {
    cluster: &'a Cluster,
    needs: &'a Requirements,
    /// True when what holds for one node does not hold for those that are alike, because the job goes by names.
    by_name: bool,
    known: Vec<Option<Known>>,
    /// By the number of twins, one more than the place of what was found out about them; 0 for nothing.
    twins: Vec<u32>,
    answers: Vec<Result<Score, Misfit>>,
}

impl<'a> Judge<'a> {
    fn new(cluster: &'a Cluster, needs: &'a Requirements) -> Self {
        let fleet = &cluster.fleet;
        let mut known = Vec::new();
        known.resize_with(fleet.groups.len(), || None);
        Self {
            cluster,
            needs,
            by_name: fleet.goes_by_name(needs),
            known,
            twins: vec![0; fleet.twins.len()],
            answers: Vec::new(),
        }
    }

    fn state(&self, row: &Row) -> Option<(&'a NodeName, &'a NodeState)> {
        self.cluster.nodes.get_key_value(&row.name)
    }

    /// What is known of the nodes of a group, found out with this one if need be; `None` for jobs that go by names.
    fn known(&mut self, row: &Row) -> Option<&Known> {
        if self.by_name {
            return None;
        }
        let at = row.group as usize;
        if self.known[at].is_none() {
            let (name, state) = self.state(row)?;
            let known = match fit::fixed_misfit(self.needs, name, state) {
                Some(misfit) => Known::Misfit(misfit),
                None => Known::Possible {
                    plain: row.all_noted && fit::counts_all(self.needs, state),
                    looseness: fit::least_looseness(self.needs, state),
                },
            };
            self.known[at] = Some(known);
        }
        self.known[at].as_ref()
    }

    /// Is the job kept from the node for good?
    fn is_closed(&mut self, row: &Row) -> bool {
        matches!(self.known(row), Some(Known::Misfit(_)))
    }

    fn least_looseness(&mut self, row: &Row) -> u8 {
        match self.known(row) {
            Some(Known::Possible { looseness, .. }) => *looseness,
            Some(Known::Misfit(_)) | None => 0,
        }
    }

    fn verdict(&mut self, row: &Row) -> Verdict<'_> {
        let needs = self.needs;
        match self.known(row) {
            Some(Known::Misfit(misfit)) => Verdict::Never(misfit),
            Some(Known::Possible { plain, .. }) => match row.misfit(needs, *plain) {
                Some(misfit) => Verdict::NotNow(misfit),
                None => Verdict::Ask,
            },
            None => Verdict::Ask,
        }
    }

    /// Asks the full checks, or what they said of a node that is alike.
    fn ask(&mut self, row: &Row) -> Option<&Result<Score, Misfit>> {
        let slot = row.twin as usize;
        if self.by_name || self.twins[slot] == 0 {
            let (name, state) = self.state(row)?;
            self.answers.push(fit::fit(self.needs, name, state));
            self.twins[slot] = u32::try_from(self.answers.len()).unwrap_or(0);
        }
        self.answers.get(self.twins[slot].checked_sub(1)? as usize)
    }
}

impl Row {
    /// What keeps a job from fitting now, as far as the numbers tell. `plain` says that all devices of the node count for the
    /// job and are noted; without it they only tell about jobs, CPU and memory.
    fn misfit(&self, needs: &Requirements, plain: bool) -> Option<Misfit> {
        let occupancy = Occupancy {
            whole: self.whole,
            jobs: self.jobs,
            max_jobs: self.max_jobs,
            cpu: MilliCpu(self.cpu),
            memory: Bytes(self.memory),
        };
        if let Some(misfit) = occupancy.misfit(needs) {
            return Some(misfit);
        }
        if !plain || (needs.gpus.count() > 1 && needs.interconnect != Link::Any) {
            return None;
        }
        match needs.gpus {
            GpuRequest::None => None,
            GpuRequest::Whole(wanted) => {
                let idle = u32::from(self.idle);
                (idle < wanted).then_some(Misfit::GpusBusy { wanted, idle })
            }
            GpuRequest::Vram { count, bytes } => self.vram_misfit(needs, count, bytes),
        }
    }

    /// What counts first and second in the score of a job that is placed here is no less than this.
    fn least_left(&self, needs: &Requirements, asked: &Amounts) -> (u64, u64) {
        let idle = u64::from(self.idle);
        let cpu = self.cpu.saturating_sub(asked.cpu.0);
        match needs.gpus {
            _ if needs.packing != Packing::Pack || !self.all_noted => (0, 0),
            GpuRequest::None if self.devices == 0 => (0, cpu),
            GpuRequest::None => (1 + idle, cpu),
            GpuRequest::Whole(count) => (idle.saturating_sub(u64::from(count)), 0),
            GpuRequest::Vram { .. } if needs.exclusive != Exclusive::Shared => (0, 0),
            GpuRequest::Vram { count, .. } => (self.least_vram_left(count, asked), idle),
        }
    }

    /// The mean over the GPUs of a job of what is left of each is no less than over those that are fullest.
    fn least_vram_left(&self, count: u32, asked: &Amounts) -> u64 {
        let wanted = asked.vram.0.max(1);
        let mut left = [u64::MAX; DEVICES];
        let devices = self.free.iter().zip(&self.reach);
        for (slot, (free, reach)) in left.iter_mut().zip(devices) {
            if wanted <= *reach {
                *slot = free.saturating_sub(wanted);
            }
        }
        left.sort_unstable();
        let count = DEVICES.min(count.max(1) as usize);
        let sum: u128 = left[..count].iter().map(|left| u128::from(*left)).sum();
        u64::try_from(sum / count as u128).unwrap_or(u64::MAX)
    }

    /// A job that does not fit here does not before at least so many have left who hold at most `widest` devices each.
    fn least_leaving(&self, needs: &Requirements, widest: u8) -> u32 {
        match needs.gpus {
            GpuRequest::Whole(count) => {
                let missing = count.saturating_sub(u32::from(self.idle));
                missing.div_ceil(u32::from(widest).max(1)).max(1)
            }
            GpuRequest::None | GpuRequest::Vram { .. } => 1,
        }
    }

    fn vram_misfit(&self, needs: &Requirements, count: u32, wanted: Bytes) -> Option<Misfit> {
        let least = wanted.0.max(1);
        let devices = usize::from(self.devices).min(DEVICES);
        let (mut fitting, mut best_free) = (0, 0);
        for (free, reach) in self.free.iter().zip(&self.reach).take(devices) {
            if least <= *free {
                fitting += 1;
            } else if least <= *reach {
                return None;
            } else {
                best_free = best_free.max(*free);
            }
        }
        if fitting >= count || needs.exclusive != Exclusive::Shared {
            return None;
        }
        Some(Misfit::Vram {
            wanted,
            count,
            fitting,
            best_free: Bytes(best_free),
            best_gpu: 0,
        })
    }
}

impl Fleet {
    /// May the job tell nodes apart that are alike? By the names of nodes, or by labels that bear them.
    fn goes_by_name(&self, needs: &Requirements) -> bool {
        let named = |key: &_| self.names.contains(key);
        let wishes = needs.prefer.iter().flat_map(|one| &one.wishes);
        let mut wished = wishes.filter_map(|wish| match wish {
            Wish::Label { key, .. } | Wish::NoLabel { key, .. } => Some(key),
            Wish::Offers(_) | Wish::Directory(_) => None,
        });
        needs.node_name.is_some()
            || !needs.avoid.is_empty()
            || !needs.lacking.is_empty()
            || needs.node_selector.keys().any(named)
            || wished.any(named)
    }
}

/// A node where a job may start some time.
pub(crate) struct Opens<'a> {
    /// Not before that, and then only if those who leave by then are enough.
    pub(crate) from: Leaves,
    /// Jobs there.
    pub(crate) jobs: u32,
    /// Its place among all nodes by name.
    pub(crate) at: usize,
    /// How many of the jobs must leave at least.
    pub(crate) least: u32,
    pub(crate) name: &'a NodeName,
}

/// Nodes that fail for one class of reasons.
struct Tally<'a> {
    class: ReasonClass,
    nodes: usize,
    nearness: (u32, u64),
    best: &'a Row,
}

fn count<'a>(tallies: &mut Vec<Tally<'a>>, row: &'a Row, misfit: &Misfit) {
    let (class, nearness) = (misfit.class(), misfit.nearness());
    match tallies.iter_mut().find(|tally| tally.class == class) {
        Some(tally) => {
            tally.nodes += 1;
            if nearness > tally.nearness {
                (tally.nearness, tally.best) = (nearness, row);
            }
        }
        None => tallies.push(Tally {
            class,
            nodes: 1,
            nearness,
            best: row,
        }),
    }
}

/// The reasons, the nearest to a fit first, each with what `judge` says of its best node.
fn reasons(
    total: usize,
    mut tallies: Vec<Tally<'_>>,
    judge: impl Fn(&Row) -> Option<Misfit>,
) -> Option<NodeReasons> {
    tallies.sort_by_key(|tally| std::cmp::Reverse(tally.class));
    let item = |tally: Tally<'_>| {
        Some(Item {
            nodes: tally.nodes,
            best: tally.best.name.clone(),
            misfit: judge(tally.best)?,
        })
    };
    let items = tallies.into_iter().filter_map(item).collect();
    (total > 0).then_some(NodeReasons { total, items })
}

impl Cluster {
    /// The nodes that a job fits, leaving out some that are named in order, with how well. The best of them is among them,
    /// unless it is no better than what is known already, and with `all` every one is.
    pub(crate) fn fitting_but<'a>(
        &'a self,
        needs: &Requirements,
        all: bool,
        but: impl Iterator<Item = &'a NodeName>,
        known: Option<Score>,
    ) -> Vec<(Score, &'a NodeName)> {
        let place = |name| self.fleet.rows.binary_search_by(|row| row.name.cmp(name));
        let mut but = but.filter_map(|name| place(name).ok()).peekable();
        let mut judge = Judge::new(self, needs);
        let amounts = Amounts::of(needs);
        let mut open: Vec<((u8, u64, u64), &Row)> = Vec::new();
        let mut seen = vec![false; self.fleet.twins.len()];
        for (at, row) in self.fleet.rows.iter().enumerate() {
            let left_out = but.next_if_eq(&at).is_some();
            if left_out || !row.admits(needs, &amounts) || judge.is_closed(row) {
                continue;
            }
            // Of nodes that are alike the first by name is the best.
            if all || judge.by_name || !std::mem::replace(&mut seen[row.twin as usize], true) {
                let (first, second) = row.least_left(needs, &amounts);
                open.push(((judge.least_looseness(row), first, second), row));
            }
        }
        if !all {
            open.sort_by_key(|(left, _)| *left);
        }
        let mut fits = Vec::new();
        let mut best = known;
        for (left, row) in open {
            if !all && best.is_some_and(|best| best.beats(needs, left)) {
                break;
            }
            if let Some(Ok(score)) = judge.ask(row) {
                best = best.into_iter().chain([*score]).min();
                fits.push((*score, &row.name));
            }
        }
        fits
    }

    /// The nodes where a job fits or could be waited for, as a look at every one finds them, leaving out some places.
    pub(crate) fn openings_but<'a>(
        &'a self,
        job: &Job,
        but: &BTreeSet<usize>,
        outlook: &Outlook<'_>,
    ) -> Vec<Opens<'a>> {
        let needs = &job.requirements;
        let mut but = but.iter().peekable();
        // What it depends on does not leave for it.
        let ancestors = job.ancestors.iter().filter_map(|uid| self.node_of(uid));
        let ancestors: BTreeSet<&NodeName> = ancestors.collect();
        let mut judge = Judge::new(self, needs);
        let mut open = Vec::new();
        let rows = self.fleet.rows.iter().zip(&self.fleet.exits);
        for (at, (row, exits)) in rows.enumerate() {
            if but.next_if_eq(&&at).is_some() {
                continue;
            }
            let ask = match judge.verdict(row) {
                Verdict::Never(misfit) if timeline::passes(misfit) => false,
                Verdict::Never(_) => continue,
                Verdict::NotNow(_) => false,
                Verdict::Ask => true,
            };
            let fits = match ask.then(|| judge.ask(row)).flatten() {
                Some(Ok(_)) => true,
                Some(Err(misfit)) if !timeline::passes(misfit) => continue,
                Some(Err(_)) | None => false,
            };
            let exits = exits.get_or_init(|| {
                let state = self.nodes.get(&row.name);
                state.map(|state| self.exits_of(state)).unwrap_or_default()
            });
            let from = if fits {
                Some(Leaves::By(outlook.now))
            } else if row.jobs == 0 {
                None
            } else if ancestors.contains(&row.name) {
                self.first_exit(&row.name, outlook)
            } else {
                let first = exits.first(job.priority, outlook.now);
                first.or_else(|| self.first_exit(&row.name, outlook))
            };
            let Some(from) = from else {
                continue;
            };
            let name = &row.name;
            let least = if fits {
                0
            } else {
                row.least_leaving(needs, exits.widest)
            };
            open.push(Opens {
                from,
                jobs: row.jobs,
                at,
                least,
                name,
            });
        }
        open
    }

    /// When the first job leaves a node, by a look at every one.
    fn first_exit(&self, name: &NodeName, outlook: &Outlook<'_>) -> Option<Leaves> {
        let jobs = self.nodes.get(name)?.jobs.values();
        jobs.map(|job| outlook.leaves(job)).min()
    }

    /// When the jobs on a node leave, in a few numbers.
    pub(crate) fn exits_of(&self, state: &NodeState) -> Exits {
        Exits::of(state, &self.settings, |queue| self.min_runtime(queue))
    }

    /// The nodes that a job is not kept from for good, with what a plan to displace others there costs at least, by a glance at
    /// their figures if these tell.
    pub(crate) fn glance(&self, job: &Job, tells: bool, now: Millis) -> Vec<(Cost, &NodeName)> {
        let needs = &job.requirements;
        let place = |name| self.fleet.rows.binary_search_by(|row| row.name.cmp(name));
        // What is kept for others is not in the figures.
        let held = self.holds.nodes();
        let mut held = held.filter_map(|name| place(name).ok()).peekable();
        let mut judge = Judge::new(self, needs);
        let mut open = Vec::new();
        let rows = self.fleet.rows.iter().zip(&self.fleet.glances);
        for (at, (row, glance)) in rows.enumerate() {
            let is_held = held.next_if_eq(&at).is_some();
            if judge.is_closed(row) {
                continue;
            }
            let seen = if tells && row.all_noted && !is_held {
                let glance = glance.get_or_init(|| {
                    let state = self.nodes.get(&row.name);
                    state.map(Glance::of).unwrap_or_default()
                });
                glance.bound(needs, job.priority, &row.reach, now)
            } else {
                Seen::AtLeast(Cost::default())
            };
            if let Seen::AtLeast(bound) = seen {
                open.push((bound, &row.name));
            }
        }
        open
    }

    /// Why no node takes a job now, over all nodes; `None` without any.
    pub(crate) fn reasons_now(&self, needs: &Requirements) -> Option<NodeReasons> {
        let mut judge = Judge::new(self, needs);
        let mut tallies = Vec::new();
        for row in &self.fleet.rows {
            let ask = match judge.verdict(row) {
                Verdict::Never(misfit) => {
                    count(&mut tallies, row, misfit);
                    false
                }
                Verdict::NotNow(misfit) => {
                    count(&mut tallies, row, &misfit);
                    false
                }
                Verdict::Ask => true,
            };
            if ask && let Some(Err(misfit)) = judge.ask(row) {
                count(&mut tallies, row, misfit);
            }
        }
        reasons(self.fleet.rows.len(), tallies, |row| {
            let (name, state) = self.nodes.get_key_value(&row.name)?;
            fit::fit(needs, name, state).err()
        })
    }

    /// Why no node could ever run a job, over all nodes; `None` when one could, or none is known.
    pub(crate) fn reasons_ever(&self, needs: &Requirements) -> Option<NodeReasons> {
        let mut known: Vec<Option<Misfit>> = vec![None; self.fleet.waters.len()];
        let mut tallies = Vec::new();
        let judge = |row: &Row| {
            let (name, state) = self.nodes.get_key_value(&row.name)?;
            fit::could_ever(needs, name, state).err()
        };
        for row in &self.fleet.rows {
            let known = &mut known[row.water as usize];
            // What was looked for in vain goes by the names of nodes.
            if known.is_none() || !needs.lacking.is_empty() {
                *known = judge(row);
            }
            count(&mut tallies, row, known.as_ref()?);
        }
        reasons(self.fleet.rows.len(), tallies, judge)
    }
}
