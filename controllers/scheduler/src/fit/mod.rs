//! Does a job fit a node, how well, and if not, why not; and which GPUs it gets. Placing and explaining use the same
//! checks.
//!
//! - `fixed`: what does not change while jobs come and go: labels, tags, directories, taints, the state of the node.
//! - `occupancy`: jobs, CPU and host memory.
//! - `devices`: GPUs and MIG slices: their kind, their room, and which of them are chosen.
//! - `score`: how well a job fits, as an order and as figures to show.
//! - `ever`: could the node ever run the job?
//!
//! **Cost.** A refusal allocates nothing, whatever it is refused for; neither does the score of a job of one GPU.

mod devices;
mod ever;
mod fixed;
mod occupancy;
mod score;

pub(crate) use devices::{choose_gpus, counts_all, least_looseness, takes_whole_gpus};
pub(crate) use ever::could_ever;
pub(crate) use occupancy::Occupancy;
pub(crate) use score::Score;
pub use score::Scored;

use crate::input::{NodeName, Requirements};
use crate::node_state::NodeState;
use crate::reason::Misfit;

/// Could a job fit a node if nothing ran there? Cheap; it tells which nodes are worth a closer look.
pub(crate) fn may_fit(needs: &Requirements, name: &NodeName, state: &NodeState) -> bool {
    state.facts.as_ref().is_some_and(|node| {
        needs.cpu <= node.cpu
            && needs.memory <= node.memory
            && fixed::misfit(needs, name, node).is_none()
            && devices::Room::of_kind(needs, node, state)
                .kind_misfit(needs, node, state)
                .is_none()
    })
}

/// The first reason why a job would not fit a node that nobody uses. Nodes that are alike in labels, tags, directories,
/// taints, state and devices have the same one, but for jobs that go by the names of nodes.
pub(crate) fn fixed_misfit(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
) -> Option<Misfit> {
    let Some(node) = &state.facts else {
        return Some(Misfit::NotReady);
    };
    fixed::misfit(needs, name, node)
        .or_else(|| devices::Room::of_kind(needs, node, state).kind_misfit(needs, node, state))
}

/// The reasons why a job does not fit; empty when it fits. With `all`, those beyond the first as well.
pub(crate) fn misfits(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
    all: bool,
) -> Vec<Misfit> {
    let mut found = Vec::new();
    let Some(node) = &state.facts else {
        found.push(Misfit::NotReady);
        return found;
    };
    let room = devices::Room::of(needs, node, state);
    let checks: [&dyn Fn() -> Option<Misfit>; 4] = [
        &|| fixed::misfit(needs, name, node),
        &|| room.kind_misfit(needs, node, state),
        &|| Occupancy::of(node, state).misfit(needs),
        &|| room.misfit(needs, node, state),
    ];
    for check in checks {
        found.extend(check());
        if !all && !found.is_empty() {
            return found;
        }
    }
    found
}

/// How well a job fits, or the first reason why it does not.
pub(crate) fn fit(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
) -> Result<Score, Misfit> {
    let Some(node) = &state.facts else {
        return Err(Misfit::NotReady);
    };
    if let Some(misfit) = fixed::misfit(needs, name, node) {
        return Err(misfit);
    }
    // What is quick to see comes first; what is told first is the kind of the devices.
    if let Some(misfit) = Occupancy::of(node, state).misfit(needs) {
        let kind = devices::Room::of_kind(needs, node, state);
        return Err(kind.kind_misfit(needs, node, state).unwrap_or(misfit));
    }
    let room = devices::Room::of(needs, node, state);
    let misfit = room
        .kind_misfit(needs, node, state)
        .or_else(|| room.misfit(needs, node, state));
    match misfit {
        Some(misfit) => Err(misfit),
        None => Ok(Score::of(needs, node, state, &room)),
    }
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
