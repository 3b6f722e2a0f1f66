//! Jobs, CPU and host memory of a node.

use super::to_u32;
use crate::input::{Bytes, Exclusive, MilliCpu, Node, Requirements};
use crate::node_state::NodeState;
use crate::reason::Misfit;

/// What is on a node, and what is left of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupancy {
    /// Does a job have the node to itself?
    pub(crate) whole: bool,
    pub(crate) jobs: u32,
    pub(crate) max_jobs: Option<u32>,
    /// CPU free.
    pub(crate) cpu: MilliCpu,
    /// Host memory free.
    pub(crate) memory: Bytes,
}

impl Occupancy {
    pub(super) fn of(node: &Node, state: &NodeState) -> Self {
        Self {
            whole: state.whole_jobs > 0,
            jobs: to_u32(state.jobs.len()),
            max_jobs: node.max_jobs,
            cpu: state.cpu_free(node),
            memory: state.memory_free(node),
        }
    }

    /// The first of these reasons why a job does not fit.
    pub(crate) fn misfit(&self, needs: &Requirements) -> Option<Misfit> {
        if self.whole {
            return Some(Misfit::HeldWhole);
        }
        if needs.exclusive == Exclusive::Node && self.jobs > 0 {
            return Some(Misfit::NotEmpty { jobs: self.jobs });
        }
        if let Some(max_jobs) = self.max_jobs.filter(|most| self.jobs >= *most) {
            return Some(Misfit::Full { max_jobs });
        }
        if needs.cpu > self.cpu {
            return Some(Misfit::Cpu {
                wanted: needs.cpu,
                free: self.cpu,
            });
        }
        (needs.memory > self.memory).then_some(Misfit::Memory {
            wanted: needs.memory,
            free: self.memory,
        })
    }
}
