//! Jobs, CPU and host memory of a node.

use super::to_u32;
use crate::input::{Exclusive, Node, Requirements};
use crate::node_state::NodeState;
use crate::reason::Misfit;

/// The first of these reasons why a job does not fit.
pub(super) fn misfit(needs: &Requirements, node: &Node, state: &NodeState) -> Option<Misfit> {
    if state.whole_jobs > 0 {
        return Some(Misfit::HeldWhole);
    }
    if needs.exclusive == Exclusive::Node && !state.jobs.is_empty() {
        return Some(Misfit::NotEmpty {
            jobs: to_u32(state.jobs.len()),
        });
    }
    if let Some(max_jobs) = node.max_jobs
        && state.jobs.len() >= max_jobs as usize
    {
        return Some(Misfit::Full { max_jobs });
    }
    let cpu = state.cpu_free(node);
    if needs.cpu > cpu {
        return Some(Misfit::Cpu {
            wanted: needs.cpu,
            free: cpu,
        });
    }
    let memory = state.memory_free(node);
    (needs.memory > memory).then_some(Misfit::Memory {
        wanted: needs.memory,
        free: memory,
    })
}
