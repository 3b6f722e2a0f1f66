//! The fleet of the benches: nodes with 64 cores and 8 GPUs of 80 GiB.

use scheduler::{Bytes, Cluster, Gpu, MilliCpu, Node, NodeName, Settings};

pub(crate) fn node_name(at: u32) -> NodeName {
    NodeName::from(format!("node-{at:05}"))
}

pub(crate) fn node(at: u32) -> Node {
    let gpus = (0..8).map(|index| Gpu::idle(format!("{at}/{index}"), index, Bytes::gib(80)));
    Node {
        ready: true,
        cpu: MilliCpu(64_000),
        memory: Bytes::gib(512),
        // As in a real fleet, every node has a label that no other has.
        labels: [("kubernetes.io/hostname".into(), node_name(at).0)].into(),
        gpus: gpus.collect(),
        ..Node::default()
    }
}

pub(crate) fn fleet(nodes: u32) -> Cluster {
    let mut cluster = Cluster::new(Settings::default());
    for at in 0..nodes {
        cluster.upsert_node(&node_name(at), node(at));
    }
    cluster
}
