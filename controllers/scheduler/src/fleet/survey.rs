//! One look at the whole fleet: where a job fits, or why it does not.

use super::{DEVICES, Fleet, Row};
use crate::cluster::Cluster;
use crate::explain::{Item, NodeReasons};
use crate::fit::{self, Occupancy, Score};
use crate::input::{Bytes, Exclusive, GpuRequest, Link, MilliCpu, NodeName, Requirements, Wish};
use crate::node_state::NodeState;
use crate::reason::{Misfit, ReasonClass};

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

    fn verdict(&mut self, row: &Row) -> Verdict<'_> {
        if self.by_name {
            return Verdict::Ask;
        }
        let at = row.group as usize;
        if self.known[at].is_none() {
            let Some((name, state)) = self.state(row) else {
                return Verdict::Ask;
            };
            let known = match fit::fixed_misfit(self.needs, name, state) {
                Some(misfit) => Known::Misfit(misfit),
                None => Known::Possible {
                    plain: row.all_noted && fit::counts_all(self.needs, state),
                },
            };
            self.known[at] = Some(known);
        }
        match &self.known[at] {
            Some(Known::Misfit(misfit)) => Verdict::Never(misfit),
            Some(Known::Possible { plain }) => match row.misfit(self.needs, *plain) {
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
            || needs.node_selector.keys().any(named)
            || wished.any(named)
    }
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
    /// The nodes that a job fits, with how well; of nodes that are alike only the first by name, unless `all` is set.
    pub(crate) fn fitting(&self, needs: &Requirements, all: bool) -> Vec<(Score, &NodeName)> {
        let mut judge = Judge::new(self, needs);
        let mut fits = Vec::new();
        for row in &self.fleet.rows {
            if !matches!(judge.verdict(row), Verdict::Ask) {
                continue;
            }
            let first = judge.by_name || judge.twins[row.twin as usize] == 0;
            if (all || first)
                && let Some(Ok(score)) = judge.ask(row)
            {
                fits.push((*score, &row.name));
            }
        }
        fits
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
            if known.is_none() {
                *known = judge(row);
            }
            count(&mut tallies, row, known.as_ref()?);
        }
        reasons(self.fleet.rows.len(), tallies, judge)
    }
}
