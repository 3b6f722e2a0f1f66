//! How well a job fits: as an order to decide by, and as figures to show.

use std::fmt;

use super::devices::Room;
use super::to_u32;
use crate::cluster::{Cluster, Entry};
use crate::input::{
    Bytes, GpuRequest, GpuUuid, JobUid, Link, MilliCpu, Node, NodeName, Packing, Requirements,
    TaintEffect,
};
use crate::node_state::NodeState;

/// How well a job fits; less is better. Best fit: what is left over is small, so that large gaps stay open; or the most
/// is left over, for jobs that spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    /// Taints that ask to be avoided and are not tolerated.
    soft_taints: u32,
    /// Weights of the preferences that do not hold, less those of unwanted ones that do not either.
    unmet: i64,
    /// How loosely the GPUs are joined; 0 for fewer than two.
    looseness: u8,
    /// By the kind of request: GPU memory left on the chosen GPUs, idle GPUs left, or GPUs that a CPU job would block.
    first: u64,
    /// A finer measure of the same.
    second: u64,
    /// CPU or host memory left.
    third: u64,
}

impl Score {
    /// Is this better than any node where the GPUs are joined no less loosely, and what counts first and second is no
    /// less?
    pub(crate) fn beats(&self, needs: &Requirements, least: (u8, u64, u64)) -> bool {
        let weights = needs.prefer.iter().map(|one| i64::from(one.weight));
        let most: i64 = weights.filter(|weight| *weight > 0).sum();
        self.soft_taints == 0
            && self.unmet == -most
            && (self.looseness, self.first, self.second) < least
    }

    /// Of a job that fits.
    pub(super) fn of(needs: &Requirements, node: &Node, state: &NodeState, room: &Room) -> Self {
        let cpu_left = state.cpu_free(node).0 - needs.cpu.0;
        let memory_left = state.memory_free(node).0.saturating_sub(needs.memory.0);
        let idle = u64::from(room.idle);
        let (link, cost) = match needs.gpus.count() {
            0 => (Link::NvLink, 0),
            1 => (Link::NvLink, room.cheapest),
            // The mean: the sum may be beyond the type.
            count => room
                .choose(needs, node, state, |chosen, _| {
                    let mean = chosen.cost / u128::from(count);
                    (chosen.link, u64::try_from(mean).unwrap_or(u64::MAX))
                })
                .unwrap_or((Link::Any, u64::MAX)),
        };
        let spread = needs.packing == Packing::Spread;
        let (first, second, third) = match needs.gpus {
            GpuRequest::None => {
                let blocked = if node.gpus.is_empty() { 0 } else { 1 + idle };
                (blocked, cpu_left, memory_left)
            }
            GpuRequest::Whole(count) => (idle.saturating_sub(u64::from(count)), cost, cpu_left),
            GpuRequest::Vram { .. } => (cost, idle, cpu_left),
        };
        let (first, second, third) = match needs.gpus {
            _ if !spread => (first, second, third),
            // The GPUs that a CPU job would block count as before; the cost of GPUs is turned round already.
            GpuRequest::Whole(_) => (u64::MAX - first, second, u64::MAX - third),
            GpuRequest::None | GpuRequest::Vram { .. } => {
                (first, u64::MAX - second, u64::MAX - third)
            }
        };
        Self {
            soft_taints: soft_taints(needs, node),
            unmet: -preference(needs, node),
            looseness: Link::NvLink as u8 - link as u8,
            first,
            second,
            third,
        }
    }
}

fn soft_taints(needs: &Requirements, node: &Node) -> u32 {
    if node.taints.is_empty() {
        return 0;
    }
    let soft = node.taints.iter().filter(|taint| {
        taint.effect == TaintEffect::PreferNoSchedule
            && !needs
                .tolerations
                .iter()
                .any(|toleration| toleration.covers(taint))
    });
    to_u32(soft.count())
}

/// Sum of the weights that hold.
fn preference(needs: &Requirements, node: &Node) -> i64 {
    let holding = needs
        .prefer
        .iter()
        .filter(|one| one.wishes.iter().all(|wish| wish.holds(node)));
    holding.map(|one| i64::from(one.weight)).sum()
}

/// How well a job fits a node, in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The node.
    pub node: NodeName,
    /// The GPUs that it would get, in bus order.
    pub gpus: Vec<GpuUuid>,
    /// Taints that ask to be avoided and are not tolerated.
    pub soft_taints: u32,
    /// Sum of the weights of the preferences that hold here.
    pub preference: i64,
    /// The most that sum can be.
    pub preference_most: i64,
    /// What joins its GPUs; `None` for fewer than two.
    pub link: Option<Link>,
    /// GPU memory left over on its GPUs, for jobs that share.
    pub vram_left: Option<Bytes>,
    /// Idle GPUs left on the node.
    pub idle_left: u32,
    /// CPU left on the node.
    pub cpu_left: MilliCpu,
    /// Does it go where the least is left, or the most?
    pub packing: Packing,
}

impl fmt::Display for Scored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.node)?;
        if self.soft_taints > 0 {
            let noun = if self.soft_taints == 1 {
                "taint"
            } else {
                "taints"
            };
            write!(f, " {} {noun} to be avoided,", self.soft_taints)?;
        }
        if self.preference_most != 0 || self.preference != 0 {
            let (has, most) = (self.preference, self.preference_most);
            write!(f, " preference {has} of {most},")?;
        }
        if let Some(link) = self.link {
            write!(f, " GPUs joined by {link},")?;
        }
        if let Some(left) = self.vram_left {
            write!(f, " {left} of VRAM left on its GPUs,")?;
        }
        let most = match self.packing {
            Packing::Pack => "least",
            Packing::Spread => "most",
        };
        if !self.gpus.is_empty() {
            write!(f, " {} idle GPUs and", self.idle_left)?;
        }
        write!(f, " {} cores left ({most} is best)", self.cpu_left)
    }
}

impl Scored {
    /// The figures of a job that fits a node.
    fn of(needs: &Requirements, name: &NodeName, state: &NodeState) -> Option<Self> {
        let node = state.facts.as_ref()?;
        let room = Room::of(needs, node, state);
        let choice = room.choose(needs, node, state, |chosen, candidates| {
            let mut picks: Vec<usize> = chosen.picks(&state.topology, candidates).collect();
            picks.sort_by_key(|at| (node.gpus[*at].index, *at));
            (chosen.link, picks)
        });
        let (link, picks) = choice.unwrap_or_default();
        let declared = match needs.gpus {
            GpuRequest::Vram { bytes, .. } => Some(bytes),
            GpuRequest::None | GpuRequest::Whole(_) => None,
        };
        let left = |at: &usize, bytes| state.gpus[*at].headroom.free.saturating_sub(bytes);
        let taken = picks.iter().filter(|at| state.gpus[**at].headroom.idle);
        let taken = to_u32(taken.count());
        let weights = needs.prefer.iter().map(|one| i64::from(one.weight));
        Some(Self {
            node: name.clone(),
            gpus: picks.iter().map(|at| node.gpus[*at].uuid.clone()).collect(),
            soft_taints: soft_taints(needs, node),
            preference: preference(needs, node),
            preference_most: weights.filter(|weight| *weight > 0).sum(),
            link: (picks.len() > 1).then_some(link),
            vram_left: declared.map(|bytes| {
                let left = picks.iter().map(|at| left(at, bytes));
                left.fold(Bytes(0), Bytes::saturating_add)
            }),
            idle_left: room.idle - taken,
            cpu_left: MilliCpu(state.cpu_free(node).0.saturating_sub(needs.cpu.0)),
            packing: needs.packing,
        })
    }
}

impl Cluster {
    /// The nodes that a waiting job fits now, the best first, with the figures that they are compared by; at most
    /// `limit`. Empty when it fits none, or does not wait.
    pub fn scores(&self, uid: &JobUid, limit: usize) -> Vec<Scored> {
        let Some(Entry::Pending { job, .. }) = self.jobs.get(uid) else {
            return Vec::new();
        };
        let needs = &job.requirements;
        let mut fits: Vec<(Score, &NodeName, &NodeState)> = self
            .candidates(needs)
            .filter_map(|(name, state)| Some((super::fit(needs, name, state).ok()?, name, state)))
            .collect();
        fits.sort_unstable_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
        fits.truncate(limit);
        fits.into_iter()
            .filter_map(|(_, name, state)| Scored::of(needs, name, state))
            .collect()
    }
}
