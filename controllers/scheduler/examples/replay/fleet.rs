//! A fleet as text: one line for nodes that are alike, one for each queue with more than a name.
//!
//! ```text
//! # 4 nodes with 8 GPUs each, all joined by NVLink, 4 to a NUMA node
//! nodes 4 cpu=64 memory=512Gi gpus=8x80Gi model=A100 nvlink=all numa=2
//! nodes 2 cpu=32 memory=128Gi gpus=2x24Gi,1x48Gi
//! queue vision weight=2 gpus=16 priority=10 min=5m
//! ```
//!
//! Words of a node: `cpu`, `memory`, `gpus` (count x size, several with commas), `model`, `nvlink` (`all` or `pairs`),
//! `numa` (number of NUMA nodes that the GPUs are dealt to). Words of a queue: `weight`, `gpus` (most at once), `jobs`,
//! `priority` (added to that of its jobs) and `min` (run time before its jobs may be displaced).

use std::collections::BTreeMap;

use scheduler::{Bytes, Gpu, MilliCpu, Node, NodeName, QueueState};

use crate::figures::{bytes, span};

/// Most nodes of a fleet.
const MAX_NODES: usize = 100_000;

/// Nodes and queues.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<(NodeName, Node)>,
    pub(crate) queues: BTreeMap<String, FleetQueue>,
}

/// A queue that the fleet says something of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FleetQueue {
    pub(crate) state: QueueState,
    pub(crate) priority: i32,
}

impl Fleet {
    /// Reads a fleet.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut fleet = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let done = match words.split_first() {
                None => Ok(()),
                Some((&"nodes", rest)) => fleet.add_nodes(rest),
                Some((&"queue", rest)) => fleet.add_queue(rest),
                Some((word, _)) => Err(format!("`{word}` is neither `nodes` nor `queue`")),
            };
            done.map_err(|why| format!("fleet, line {}: {why}", at + 1))?;
        }
        if fleet.nodes.is_empty() {
            return Err("the fleet has no nodes".into());
        }
        Ok(fleet)
    }

    /// Number of GPUs.
    pub(crate) fn gpus(&self) -> usize {
        self.nodes.iter().map(|(_, node)| node.gpus.len()).sum()
    }

    /// Memory of all GPUs.
    pub(crate) fn vram(&self) -> u64 {
        let gpus = self.nodes.iter().flat_map(|(_, node)| &node.gpus);
        gpus.map(|gpu| gpu.memory.0).sum()
    }

    fn add_nodes(&mut self, words: &[&str]) -> Result<(), String> {
        let (count, words) = words.split_first().ok_or("how many nodes?")?;
        let count: usize = count
            .parse()
            .map_err(|_| format!("`{count}` is no number of nodes"))?;
        if self.nodes.len() + count > MAX_NODES {
            return Err(format!("more than {MAX_NODES} nodes"));
        }
        let mut node = Node {
            ready: true,
            cpu: MilliCpu(1_000_000),
            memory: Bytes::gib(1 << 20),
            ..Node::default()
        };
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("`{word}` is not key=value"))?;
            match key {
                "cpu" => {
                    let cores: u64 = value
                        .parse()
                        .map_err(|_| format!("cpu `{value}` is no number of cores"))?;
                    node.cpu = MilliCpu(cores.saturating_mul(1000));
                }
                "memory" => node.memory = bytes(value)?,
                "gpus" => node.gpus = gpus(value)?,
                "model" => {
                    for gpu in &mut node.gpus {
                        gpu.model = value.into();
                    }
                }
                "nvlink" => join(&mut node.gpus, value)?,
                "numa" => deal(&mut node.gpus, value)?,
                _ => return Err(format!("`{key}` is no word of nodes")),
            }
        }
        for _ in 0..count {
            let name = format!("node-{:05}", self.nodes.len());
            let mut node = node.clone();
            for gpu in &mut node.gpus {
                gpu.uuid = format!("{name}/{}", gpu.index).into();
            }
            self.nodes.push((name.into(), node));
        }
        Ok(())
    }

    fn add_queue(&mut self, words: &[&str]) -> Result<(), String> {
        let (name, words) = words.split_first().ok_or("which queue?")?;
        let queue = self.queues.entry((*name).to_owned()).or_default();
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("`{word}` is not key=value"))?;
            let bad = || format!("{key} `{value}` is no number");
            match key {
                "weight" => queue.state.weight = value.parse().map_err(|_| bad())?,
                "gpus" => queue.state.quota.gpus = Some(value.parse().map_err(|_| bad())?),
                "jobs" => queue.state.quota.jobs = Some(value.parse().map_err(|_| bad())?),
                "priority" => queue.priority = value.parse().map_err(|_| bad())?,
                "min" => queue.state.min_runtime = span(value)?,
                _ => return Err(format!("`{key}` is no word of a queue")),
            }
        }
        Ok(())
    }
}

/// `8x80Gi` or `4x24Gi,2x48Gi`.
fn gpus(text: &str) -> Result<Vec<Gpu>, String> {
    let mut gpus = Vec::new();
    for part in text.split(',') {
        let (count, size) = part.split_once('x').unwrap_or(("1", part));
        let count: u32 = count
            .parse()
            .ok()
            .filter(|count| *count <= 64)
            .ok_or_else(|| format!("`{part}` is not of the form 8x80Gi, with at most 64"))?;
        for _ in 0..count {
            let index = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
            gpus.push(Gpu::idle("", index, bytes(size)?));
        }
    }
    Ok(gpus)
}

fn join(gpus: &mut [Gpu], how: &str) -> Result<(), String> {
    let all: Vec<u32> = gpus.iter().map(|gpu| gpu.index).collect();
    for gpu in gpus {
        let index = gpu.index;
        let peers = all.iter().copied().filter(|peer| match how {
            "pairs" => *peer / 2 == index / 2,
            _ => true,
        });
        gpu.nvlinks = Some(peers.filter(|peer| *peer != index).collect());
    }
    match how {
        "all" | "pairs" => Ok(()),
        _ => Err(format!("nvlink `{how}` is neither `all` nor `pairs`")),
    }
}

fn deal(gpus: &mut [Gpu], parts: &str) -> Result<(), String> {
    let parts: usize = parts
        .parse()
        .ok()
        .filter(|parts| *parts > 0)
        .ok_or_else(|| format!("numa `{parts}` is no number of NUMA nodes"))?;
    let each = gpus.len().div_ceil(parts).max(1);
    for (at, gpu) in gpus.iter_mut().enumerate() {
        gpu.numa = u32::try_from(at / each).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_read_with_its_queues() {
        let fleet = Fleet::read(
            "nodes 2 cpu=64 gpus=4x80Gi,1x24Gi model=A100 nvlink=pairs numa=2 # the large ones\n\n\
             nodes 1 cpu=8\nqueue a weight=3 gpus=4 priority=-5 min=5m\n",
        )
        .unwrap();
        assert_eq!((fleet.nodes.len(), fleet.gpus()), (3, 10));
        assert_eq!(fleet.vram(), 2 * (4 * 80 + 24) * Bytes::GIB);
        let gpus = &fleet.nodes[1].1.gpus;
        assert_eq!(gpus[3].nvlinks.as_deref(), Some(&[2][..]));
        assert_eq!((gpus[2].numa, gpus[3].numa), (Some(0), Some(1)));
        assert_ne!(gpus[0].uuid, fleet.nodes[0].1.gpus[0].uuid);
        assert_eq!(fleet.queues["a"].state.weight, 3);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        for text in [
            "nodes x",
            "nodes 1 gpus=99x1Gi",
            "nodes 1 wheels=4",
            "node 1",
            "nodes 1\nqueue a weight=much",
        ] {
            let error = Fleet::read(text).unwrap_err();
            assert!(error.starts_with("fleet, line "), "{error}");
        }
        assert!(Fleet::read("# nothing").is_err());
    }
}
