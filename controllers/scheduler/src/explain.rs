//! Why a job waits, or could never run, over all nodes and with numbers.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::{Cluster, Entry};
use crate::fit;
use crate::input::{Job, JobUid, Millis, NodeName, QueueName, Requirements};
use crate::node_state::NodeState;
use crate::pending::Known;
use crate::quota::QuotaLimit;
use crate::reason::{Misfit, ReasonClass, Words};
use crate::reserve::Views;

/// Why a job waits, or could never run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// Its queue is paused.
    QueuePaused {
        /// The queue.
        queue: QueueName,
    },
    /// Its queue holds what it may.
    QuotaExceeded {
        /// The queue.
        queue: QueueName,
        /// What the job would exceed.
        limit: QuotaLimit,
    },
    /// What is left of its queue's quota is kept for a job that comes first.
    QuotaKept {
        /// The queue.
        queue: QueueName,
        /// For whom.
        holder: JobUid,
        /// What that one asks for of the resource that is short.
        claimed: u64,
        /// What the job would take of it.
        limit: QuotaLimit,
    },
    /// No node can take it now.
    Nodes(NodeReasons),
    /// No known node could ever run it.
    Never(NodeReasons),
    /// The node that it is pinned to is not known.
    PinMissing {
        /// The node.
        node: NodeName,
    },
    /// Not all jobs that it starts with are known.
    GangIncomplete {
        /// Members that are.
        present: u32,
        /// Members that it has.
        size: u32,
    },
    /// There are not enough nodes for all that it starts with now.
    Gang {
        /// Members that have no node.
        wanted: u32,
        /// How many of them would find one.
        fitting: u32,
        /// What keeps a member from the nodes that have no room.
        nodes: NodeReasons,
    },
    /// There are fewer nodes that could ever run one of the members of its gang than it has members.
    GangNever {
        /// Members that it has.
        wanted: u32,
        /// Nodes that could ever run one.
        able: u32,
        /// What keeps a member from the other nodes for ever.
        nodes: NodeReasons,
    },
    /// No node is known.
    NoNodes,
}

/// The reasons of the nodes, the nearest to a fit first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReasons {
    /// Number of nodes that were asked.
    pub total: usize,
    /// Each node counts in one item.
    pub items: Vec<Item>,
}

/// Nodes that fail for one class of reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Number of nodes.
    pub nodes: usize,
    /// The nearest to a fit.
    pub best: NodeName,
    /// Why that one fails.
    pub misfit: Misfit,
}

/// Where a job stands, computed when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has this node.
    Bound(NodeName),
    /// It fits this node now, and the next decision may bind it.
    Fits(NodeName),
    /// It waits.
    Waits(Explanation),
    /// No known node could ever run it.
    Never(Explanation),
}

impl Explanation {
    /// The class of the reason: that of the nodes nearest to a fit.
    pub fn class(&self) -> ReasonClass {
        match self {
            Explanation::QueuePaused { .. } => ReasonClass::QueuePaused,
            Explanation::QuotaExceeded { .. } | Explanation::QuotaKept { .. } => {
                ReasonClass::QuotaExceeded
            }
            Explanation::PinMissing { .. } => ReasonClass::NodePinMissing,
            Explanation::GangIncomplete { .. } => ReasonClass::GangIncomplete,
            Explanation::Gang { nodes, .. } => nodes
                .items
                .first()
                .map_or(ReasonClass::InsufficientNodes, |item| item.misfit.class()),
            Explanation::GangNever { .. } => ReasonClass::InsufficientNodes,
            Explanation::NoNodes => ReasonClass::NoNodes,
            Explanation::Nodes(reasons) | Explanation::Never(reasons) => reasons
                .items
                .first()
                .map_or(ReasonClass::NoNodes, |item| item.misfit.class()),
        }
    }
}

impl Explanation {
    pub(crate) fn known(&self) -> Known {
        let judged_by = match self {
            Explanation::Nodes(reasons) => reasons.items.first().map(|item| item.best.clone()),
            Explanation::QueuePaused { .. }
            | Explanation::QuotaExceeded { .. }
            | Explanation::QuotaKept { .. }
            | Explanation::Never(_)
            | Explanation::PinMissing { .. }
            | Explanation::GangIncomplete { .. }
            | Explanation::Gang { .. }
            | Explanation::GangNever { .. }
            | Explanation::NoNodes => None,
        };
        Known {
            class: self.class(),
            judged_by,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Explanation::QueuePaused { queue } => write!(f, "queue {queue} is paused"),
            Explanation::QuotaExceeded { queue, limit } => {
                write!(f, "queue {queue} is at its quota: {limit}")
            }
            Explanation::QuotaKept {
                queue,
                holder,
                claimed,
                limit,
            } => {
                write!(
                    f,
                    "queue {queue} keeps what is left of its quota for {holder}, which comes before this job"
                )?;
                limit.of_another(*claimed, f)?;
                write!(f, ": {limit}")
            }
            Explanation::PinMissing { node } => {
                write!(f, "the node {node} that it is pinned to is not known")
            }
            Explanation::GangIncomplete { present, size } => {
                write!(f, "{present} of the {size} jobs of its gang are known")
            }
            Explanation::Gang {
                wanted,
                fitting,
                nodes,
            } => {
                write!(
                    f,
                    "its gang needs {wanted} nodes and {fitting} of them have room"
                )?;
                if !nodes.items.is_empty() {
                    f.write_str(": ")?;
                }
                nodes.write(false, None, f)
            }
            Explanation::GangNever {
                wanted,
                able,
                nodes,
            } => {
                write!(
                    f,
                    "its gang needs {wanted} nodes and {able} of {} could ever run a member",
                    nodes.total
                )?;
                if !nodes.items.is_empty() {
                    f.write_str(": ")?;
                }
                nodes.write(true, None, f)
            }
            Explanation::NoNodes => f.write_str("no node is known"),
            Explanation::Nodes(reasons) => reasons.write(false, None, f),
            Explanation::Never(reasons) => {
                f.write_str("no known node could ever run it: ")?;
                reasons.write(true, None, f)
            }
        }
    }
}

/// An explanation with the time at which the node that is nearest to a fit will have room.
pub(crate) struct WithUntil<'a> {
    why: &'a Explanation,
    until: Option<&'a str>,
}

impl Explanation {
    pub(crate) fn with_until<'a>(&'a self, until: Option<&'a str>) -> WithUntil<'a> {
        WithUntil { why: self, until }
    }
}

impl fmt::Display for WithUntil<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Explanation::Nodes(reasons) => reasons.write(false, self.until, f),
            other => write!(f, "{other}"),
        }
    }
}

impl NodeReasons {
    fn write(&self, ever: bool, until: Option<&str>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, item) in self.items.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            let noun = if self.total == 1 { "node" } else { "nodes" };
            write!(f, "{} of {} {noun} ", item.nodes, self.total)?;
            item.misfit
                .describe(&Words::about(item.nodes, ever, &item.best), f)?;
            if at == 0
                && let Some(until) = until
            {
                write!(f, " until about {until}")?;
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// Where a job stood at the last decision; `None` when it is not known.
    pub fn explain(&self, uid: &JobUid) -> Option<Standing> {
        self.standing(uid, self.now)
    }

    /// The same at a time.
    pub(crate) fn standing(&self, uid: &JobUid, now: Millis) -> Option<Standing> {
        let (job, ended) = match self.jobs.get(uid)? {
            Entry::Assumed { node, .. } | Entry::Bound { node } => {
                return Some(Standing::Bound(node.clone()));
            }
            Entry::Pending { job, .. } => (job, false),
            Entry::Infeasible { job } => (job, true),
        };
        let needs = &job.requirements;
        if (ended || self.settled)
            && let Some(why) = self.never_job(job)
        {
            return Some(Standing::Never(why));
        }
        if let Some(why) = self.kept_back(job, now) {
            return Some(Standing::Waits(why));
        }
        if job.gang.is_some() {
            let places = self.gang_places(job, now, &mut Views::default());
            let own = places.ok().and_then(|places| {
                let mut places = places.into_iter();
                places.find(|(member, _)| *member == job.uid)
            });
            return Some(match own {
                Some((_, name)) => Standing::Fits(name),
                None => Standing::Waits(self.node_reason(job, now)),
            });
        }
        let candidates = self.candidates(needs);
        let scores = candidates.filter_map(|(name, state)| {
            let fits = self.fit_beside(job, name, state, now, &mut Views::default());
            Some((fits.ok()?, name))
        });
        Some(match scores.min() {
            Some((_, name)) => Standing::Fits(name.clone()),
            None => Standing::Waits(self.node_reason(job, now)),
        })
    }

    /// Every reason of every node against a job, the first of each being the one that it is counted under.
    pub fn examine(&self, uid: &JobUid) -> BTreeMap<NodeName, Vec<Misfit>> {
        let needs = match self.jobs.get(uid) {
            Some(Entry::Pending { job, .. } | Entry::Infeasible { job }) => &job.requirements,
            Some(Entry::Assumed { .. } | Entry::Bound { .. }) | None => return BTreeMap::new(),
        };
        let known = self.nodes.iter().filter(|(_, state)| state.facts.is_some());
        known
            .map(|(name, state)| (name.clone(), fit::misfits(needs, name, state, true)))
            .collect()
    }

    /// The known nodes that a job is judged against: all, or the one that it is pinned to.
    pub(crate) fn candidates<'a>(
        &'a self,
        needs: &'a Requirements,
    ) -> impl Iterator<Item = (&'a NodeName, &'a NodeState)> {
        let pinned = needs
            .node_name
            .as_ref()
            .map(|pin| self.nodes.get_key_value(pin));
        let all = pinned.is_none().then(|| self.nodes.iter());
        let nodes = pinned
            .flatten()
            .into_iter()
            .chain(all.into_iter().flatten());
        nodes.filter(|(_, state)| state.facts.is_some())
    }

    /// Why no node takes a job now.
    pub(crate) fn node_reason(&self, job: &Job, now: Millis) -> Explanation {
        self.node_reason_seen(job, now, &mut Views::default())
    }

    /// The same, for several jobs in a row.
    pub(crate) fn node_reason_seen(
        &self,
        job: &Job,
        now: Millis,
        views: &mut Views,
    ) -> Explanation {
        let needs = &job.requirements;
        if let Some(pin) = &needs.node_name
            && self
                .nodes
                .get(pin)
                .is_none_or(|state| state.facts.is_none())
        {
            return Explanation::PinMissing { node: pin.clone() };
        }
        let reasons = if needs.node_name.is_some() {
            summarise(self.candidates(needs).map(|(name, state)| {
                let misfit = self.fit_beside(job, name, state, now, views).err();
                (name, misfit)
            }))
        } else {
            self.reasons_now(needs).map(|mut reasons| {
                // A survey counts no node that has room.
                let kept = self.kept_nodes(job, now, views);
                let kept = kept.map(|(name, misfit)| (name, Some(misfit)));
                let kept = summarise(kept).map(|kept| kept.items);
                reasons.items.extend(kept.into_iter().flatten());
                reasons
                    .items
                    .sort_by_key(|item| std::cmp::Reverse(item.misfit.class()));
                reasons
            })
        };
        match reasons {
            Some(nodes) if job.gang.is_some() => Explanation::Gang {
                wanted: u32::try_from(self.unit(job).len()).unwrap_or(u32::MAX),
                fitting: self.gang_places(job, now, views).err().unwrap_or(0),
                nodes,
            },
            Some(reasons) => Explanation::Nodes(reasons),
            None => Explanation::NoNodes,
        }
    }

    /// Why no known node could ever run a job, or too few all of its gang; `None` when they could, or none is known.
    pub(crate) fn never_job(&self, job: &Job) -> Option<Explanation> {
        let alone = self.never(&job.requirements);
        alone.or_else(|| self.never_gang(job))
    }

    /// Why there will never be enough nodes for a job's gang. Members that need different things are judged by those that
    /// need the same as the job, and a gang that has begun to be placed is not judged.
    fn never_gang(&self, job: &Job) -> Option<Explanation> {
        let gang = job.gang.as_ref()?;
        let unit = self.unit(job);
        if unit.len() < gang.size as usize {
            return None;
        }
        let needs = &job.requirements;
        let alike = unit.iter().filter(|member| member.requirements == *needs);
        let wanted = alike.count();
        let judged = self
            .candidates(needs)
            .map(|(name, state)| (name, fit::could_ever(needs, name, state).err()));
        let nodes = summarise(judged)?;
        let unable: usize = nodes.items.iter().map(|item| item.nodes).sum();
        let able = nodes.total.saturating_sub(unable);
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        (able < wanted).then(|| Explanation::GangNever {
            wanted: count(wanted),
            able: count(able),
            nodes,
        })
    }

    /// Why no known node could ever run a job; `None` when one could, or none is known.
    pub(crate) fn never(&self, needs: &Requirements) -> Option<Explanation> {
        if needs.node_name.is_none() {
            return self.reasons_ever(needs).map(Explanation::Never);
        }
        let against = || {
            let candidates = self.candidates(needs);
            candidates.map(|(name, state)| (name, fit::could_ever(needs, name, state).err()))
        };
        if against().any(|(_, misfit)| misfit.is_none()) {
            return None;
        }
        summarise(against()).map(Explanation::Never)
    }
}

/// Counts nodes by class of reason, nearest class first; `None` without nodes.
fn summarise<'a>(
    nodes: impl Iterator<Item = (&'a NodeName, Option<Misfit>)>,
) -> Option<NodeReasons> {
    let mut total = 0;
    let mut by_class: BTreeMap<std::cmp::Reverse<ReasonClass>, Item> = BTreeMap::new();
    for (name, misfit) in nodes {
        total += 1;
        let Some(misfit) = misfit else { continue };
        let nearness = misfit.nearness();
        match by_class.entry(std::cmp::Reverse(misfit.class())) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                let best = name.clone();
                vacant.insert(Item {
                    nodes: 1,
                    best,
                    misfit,
                });
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => {
                let item = occupied.get_mut();
                item.nodes += 1;
                if nearness > item.misfit.nearness() {
                    item.best = name.clone();
                    item.misfit = misfit;
                }
            }
        }
    }
    let items = by_class.into_values().collect();
    (total > 0).then_some(NodeReasons { total, items })
}
