//! How the GPUs of one node are joined, and which of those that have room are joined best.
//!
//! GPUs that are joined alike to all others ("twins") are interchangeable, so a set is chosen by how many it takes of each
//! class of twins. On real machines there are few classes: one where all are joined alike, one a NUMA node or PCIe switch,
//! one an NVLink bridge. At most [`MAX_SETS`] sets are looked at, which is all of them for up to 16 GPUs that have room
//! (16 over 8 is 12,870), whatever their wiring; beyond, the best of those looked at is taken.
//!
//! **Best** is, in this order: the tightest link that joins the whole set, directly or over its own members; the most
//! pairs joined by NVLink, then by a PCIe switch, then by a NUMA node; the least memory left over (or the most, for
//! jobs that spread); the fewest and loosest links to idle GPUs that are cut, so that well-joined groups stay whole.

use std::cmp::Reverse;

use crate::input::{Gpu, Link};

/// Most sets that are looked at for one choice.
pub(crate) const MAX_SETS: u32 = 20_000;

/// Most classes of twins of a node; GPUs beyond count as joined by the host alone.
const MAX_CLASSES: usize = 64;

/// How the GPUs of one node are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    /// The class of twins of each GPU, in the order of the node's GPUs.
    class_of: Vec<u8>,
    /// Links between classes, row by row; on the diagonal, the link within one.
    links: Vec<Link>,
    classes: usize,
}

/// A GPU that has room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidate {
    /// Less is better: what is left over, or its complement.
    pub(crate) cost: u64,
    /// Its place among the node's GPUs.
    pub(crate) at: usize,
}

/// The best set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    /// GPUs of each class; of a class, the first candidates are taken.
    counts: Counts,
    /// The link that joins them all.
    pub(crate) link: Link,
    /// Sum of the costs.
    pub(crate) cost: u128,
}

type Counts = [u16; MAX_CLASSES];

/// Pairs by link in one number that compares the tightest first.
fn pairs(link: Link, count: u64) -> u64 {
    match link {
        Link::Any => 0,
        Link::Numa => count,
        Link::PcieSwitch => count << 21,
        Link::NvLink => count << 42,
    }
}

impl Topology {
    /// From what the GPUs say of themselves. Slices are joined to nothing.
    pub(crate) fn of<'a>(gpus: impl Iterator<Item = &'a Gpu>) -> Self {
        let gpus: Vec<&Gpu> = gpus.collect();
        let link = |a: usize, b: usize| link(gpus[a], gpus[b]);
        let mut topology = Self::default();
        let mut firsts: Vec<usize> = Vec::new();
        for at in 0..gpus.len() {
            let twin = |first: usize| {
                (0..gpus.len()).all(|other| {
                    other == at || other == first || link(at, other) == link(first, other)
                })
            };
            let fits_class = |(_, first): &(usize, &usize)| {
                let link = link(at, **first);
                twin(**first)
                    // Three twins must be joined alike among each other as well.
                    && topology
                        .class_of
                        .iter()
                        .enumerate()
                        .filter(|(_, class)| firsts[usize::from(**class)] == **first)
                        .all(|(other, _)| self::link(gpus[at], gpus[other]) == link)
            };
            let known = firsts.iter().enumerate().find(fits_class);
            let class = match known {
                Some((class, _)) => class,
                None if firsts.len() < MAX_CLASSES => {
                    firsts.push(at);
                    firsts.len() - 1
                }
                None => MAX_CLASSES - 1,
            };
            topology.class_of.push(u8::try_from(class).unwrap_or(0));
        }
        let classes = firsts.len();
        topology.classes = classes;
        topology.links = vec![Link::Any; classes * classes];
        for (a, first) in firsts.iter().enumerate() {
            for (b, other) in firsts.iter().enumerate() {
                let other = if a == b {
                    // The link within a class is that of its first two.
                    let mates = topology.class_of.iter().enumerate();
                    mates
                        .filter(|(at, class)| usize::from(**class) == a && at != first)
                        .map(|(at, _)| at)
                        .next()
                } else {
                    Some(*other)
                };
                topology.links[a * classes + b] = other.map_or(Link::Any, |b| link(*first, b));
            }
        }
        if classes == MAX_CLASSES {
            for other in 0..classes {
                topology.links[other * classes + classes - 1] = Link::Any;
                topology.links[(classes - 1) * classes + other] = Link::Any;
            }
        }
        topology
    }

    fn link(&self, a: usize, b: usize) -> Link {
        self.links[a * self.classes + b]
    }

    fn class(&self, at: usize) -> usize {
        self.class_of.get(at).map_or(0, |class| usize::from(*class))
    }

    /// Counts GPUs by class.
    pub(crate) fn count(&self, gpus: impl Iterator<Item = usize>) -> Available {
        let mut counts = [0; MAX_CLASSES];
        for at in gpus {
            counts[self.class(at)] += 1;
        }
        Available(counts)
    }

    /// The largest number of those GPUs that are joined at least so tightly.
    pub(crate) fn joined(&self, available: &Available, least: Link) -> u32 {
        if least == Link::Any {
            return available.0.iter().map(|count| u32::from(*count)).sum();
        }
        let mut seen = 0;
        let mut most = 0;
        for start in 0..self.classes {
            if available.0[start] == 0 || seen & (1_u64 << start) != 0 {
                continue;
            }
            let group = self.group(start, least, |class| available.0[class] > 0);
            seen |= group;
            most = most.max(self.size(group, available, least));
        }
        most
    }

    /// GPUs of one group of classes that are joined to each other.
    fn size(&self, group: u64, available: &Available, least: Link) -> u32 {
        let only = group.trailing_zeros() as usize;
        if group.is_power_of_two() && self.link(only, only) < least {
            return 1;
        }
        let classes = (0..self.classes).filter(|class| group & (1 << class) != 0);
        classes.map(|class| u32::from(available.0[class])).sum()
    }

    /// The classes that can be reached from one over links of that kind, itself included.
    fn group(&self, start: usize, least: Link, among: impl Fn(usize) -> bool) -> u64 {
        let (mut group, mut fresh) = (1_u64 << start, 1_u64 << start);
        while fresh != 0 {
            let from = fresh.trailing_zeros() as usize;
            fresh &= fresh - 1;
            for to in 0..self.classes {
                let bit = 1_u64 << to;
                if group & bit == 0 && among(to) && self.link(from, to) >= least {
                    group |= bit;
                    fresh |= bit;
                }
            }
        }
        group
    }

    /// The best set of `count` candidates, which come in the order in which they are preferred among twins; `None` when
    /// no such set is joined at least as tightly as asked for. `idle` are the idle GPUs of the node.
    pub(crate) fn choose(
        &self,
        candidates: &[Candidate],
        count: u32,
        least: Link,
        idle: &Available,
    ) -> Option<Chosen> {
        let available = self.count(candidates.iter().map(|candidate| candidate.at));
        if self.classes <= 1 {
            let link = if count > 1 && self.classes == 1 {
                self.link(0, 0)
            } else {
                Link::Any
            };
            let enough = candidates.len() >= count as usize && (count == 1 || link >= least);
            return enough.then(|| {
                let mut counts = [0; MAX_CLASSES];
                counts[0] = u16::try_from(count).unwrap_or(u16::MAX);
                let cost = cost(self, candidates, &counts);
                Chosen { counts, link, cost }
            });
        }
        let tightest = Link::TIGHTEST_FIRST.into_iter();
        let link = tightest
            .filter(|link| *link >= least || count == 1)
            .find(|link| self.joined(&available, *link) >= count)?;
        let mut search = Search {
            topology: self,
            candidates,
            idle,
            link,
            counts: [0; MAX_CLASSES],
            best: None,
            sets: 0,
        };
        let mut seen = 0;
        for start in 0..self.classes {
            if available.0[start] == 0 || seen & (1 << start) != 0 {
                continue;
            }
            let group = if link == Link::Any {
                u64::MAX
            } else {
                self.group(start, link, |class| available.0[class] > 0)
            };
            seen |= group;
            if count == 1 || link == Link::Any || self.size(group, &available, link) >= count {
                search.descend(0, group, &available, count);
            }
        }
        let (_, counts) = search.best?;
        Some(Chosen {
            cost: cost(self, candidates, &counts),
            counts,
            link: if count == 1 { Link::Any } else { link },
        })
    }
}

/// How many GPUs there are of each class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Available(Counts);

impl Chosen {
    /// The chosen ones of the candidates that the choice was made from.
    pub(crate) fn picks<'a>(
        &'a self,
        topology: &'a Topology,
        candidates: &'a [Candidate],
    ) -> impl Iterator<Item = usize> + 'a {
        picked(topology, candidates, self.counts).map(|candidate| candidate.at)
    }
}

fn picked<'a>(
    topology: &'a Topology,
    candidates: &'a [Candidate],
    counts: Counts,
) -> impl Iterator<Item = &'a Candidate> {
    let mut open = counts;
    candidates.iter().filter(move |candidate| {
        let left = &mut open[topology.class(candidate.at)];
        let take = *left > 0;
        *left -= u16::from(take);
        take
    })
}

fn cost(topology: &Topology, candidates: &[Candidate], counts: &Counts) -> u128 {
    picked(topology, candidates, *counts)
        .map(|candidate| u128::from(candidate.cost))
        .sum()
}

/// How good a set is; less is better.
type Rank = (Reverse<u64>, u128, u64);

struct Search<'a> {
    topology: &'a Topology,
    candidates: &'a [Candidate],
    idle: &'a Available,
    link: Link,
    counts: Counts,
    best: Option<(Rank, Counts)>,
    sets: u32,
}

impl Search<'_> {
    /// Tries every number of GPUs of each class from `class` on, the most first.
    fn descend(&mut self, class: usize, group: u64, available: &Available, open: u32) {
        if open == 0 {
            return self.judge();
        }
        let rest = (class..self.topology.classes).filter(|class| group & (1 << class) != 0);
        let left: u32 = rest.map(|class| u32::from(available.0[class])).sum();
        if left < open {
            return;
        }
        let here = if group & (1 << class) == 0 {
            0
        } else {
            u32::from(available.0[class]).min(open)
        };
        for take in (0..=here).rev() {
            if self.sets >= MAX_SETS {
                break;
            }
            self.counts[class] = u16::try_from(take).unwrap_or(u16::MAX);
            self.descend(class + 1, group, available, open - take);
        }
        self.counts[class] = 0;
    }

    fn judge(&mut self) {
        self.sets += 1;
        let topology = self.topology;
        let taken = |class: usize| self.counts[class] > 0;
        let Some(first) = (0..topology.classes).find(|class| taken(*class)) else {
            return;
        };
        let group = if self.link == Link::Any {
            u64::MAX
        } else {
            topology.group(first, self.link, taken)
        };
        let alone = group.is_power_of_two() && self.counts[first] > 1;
        let apart = (0..topology.classes).any(|class| taken(class) && group & (1 << class) == 0);
        if apart || (alone && topology.link(first, first) < self.link) {
            return;
        }
        let (mut joined, mut cut) = (0, 0);
        for a in (first..topology.classes).filter(|class| taken(*class)) {
            let mine = u64::from(self.counts[a]);
            joined += pairs(topology.link(a, a), mine * (mine - 1) / 2);
            for b in 0..topology.classes {
                let theirs = u64::from(self.counts[b]);
                if b > a {
                    joined += pairs(topology.link(a, b), mine * theirs);
                }
                let left = u64::from(self.idle.0[b]).saturating_sub(theirs);
                cut += pairs(topology.link(a, b), mine * left);
            }
        }
        let cost = cost(topology, self.candidates, &self.counts);
        let rank = (Reverse(joined), cost, cut);
        if self.best.is_none_or(|(best, _)| rank < best) {
            self.best = Some((rank, self.counts));
        }
    }
}

/// How two GPUs are joined. NVLink is a fact when either end says so.
fn link(a: &Gpu, b: &Gpu) -> Link {
    if a.slice.is_some() || b.slice.is_some() {
        return Link::Any;
    }
    let names = |one: &Gpu, other: &Gpu| {
        let peers = one.nvlinks.as_ref();
        peers.is_some_and(|peers| peers.contains(&other.index))
    };
    if names(a, b) || names(b, a) {
        Link::NvLink
    } else if a.pcie_switch.is_some() && a.pcie_switch == b.pcie_switch {
        Link::PcieSwitch
    } else if a.numa.is_some() && a.numa == b.numa {
        Link::Numa
    } else {
        Link::Any
    }
}

/// Do the GPUs say all that is needed to know whether they are joined so tightly?
pub(crate) fn is_known<'a>(mut gpus: impl Iterator<Item = &'a Gpu>, link: Link) -> bool {
    gpus.all(|gpu| match link {
        Link::Any => true,
        Link::Numa => gpu.numa.is_some(),
        Link::PcieSwitch => gpu.pcie_switch.is_some(),
        Link::NvLink => gpu.nvlinks.is_some(),
    })
}

#[cfg(test)]
mod tests;
