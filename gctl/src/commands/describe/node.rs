//! A node: its state, its GPUs, and what runs on them.

use std::fmt::Write as _;

use crds::node::GpuStatus;
use crds::{Job, Node, Quantity};
use jiff::Timestamp;

use super::text::{Page, cells, conditions};
use crate::follow;
use crate::output::age;

pub(super) fn describe(page: &mut Page, node: &Node, jobs: &[Job], now: Timestamp) {
    let spec = &node.spec;
    let status = node.status.clone().unwrap_or_default();
    page.field(
        "Desired state",
        format!("{:?}", spec.desired_state.unwrap_or_default()),
    );
    if spec.unschedulable == Some(true) {
        page.field("Unschedulable", "true: takes no new jobs");
    }
    if !spec.taints.is_empty() {
        let taints: Vec<_> = spec
            .taints
            .iter()
            .map(|taint| {
                format!(
                    "{}={}:{:?}",
                    taint.key,
                    taint.value.as_deref().unwrap_or_default(),
                    taint.effect
                )
            })
            .collect();
        page.field("Taints", taints.join("\n"));
    }
    if !spec.offers.is_empty() {
        page.field("Offers", spec.offers.join(", "));
    }
    if let Some(info) = &status.info {
        page.field(
            "Host",
            format!("{}, {}/{}", info.hostname, info.os, info.arch),
        );
        page.field("Agent", &info.agent_version);
        page.optional("Driver", info.driver_version.as_ref());
    }
    if let Some(capacity) = &status.capacity {
        let charged = |amount: fn(&crds::job_status::Binding) -> u64| -> u64 {
            bindings(jobs).map(|(_, binding)| amount(binding)).sum()
        };
        page.field(
            "CPU",
            format!(
                "{} of {} in use by jobs",
                Quantity::from_millis(charged(|binding| binding.cpu_millis)).0,
                capacity.cpu.0
            ),
        );
        page.field(
            "Memory",
            format!(
                "{} of {} in use by jobs",
                Quantity::from_bytes(charged(|binding| binding.memory_bytes)).0,
                capacity.memory.0
            ),
        );
    }
    page.table("GPUs", &gpu_rows(&status, jobs));
    page.table("Jobs", &job_rows(jobs, now));
    page.table("Conditions", &conditions(&status.conditions, now));
}

fn bindings(jobs: &[Job]) -> impl Iterator<Item = (&Job, &crds::job_status::Binding)> {
    jobs.iter().filter_map(|job| {
        let binding = crds::phase::held_binding(job.status.as_ref()?)?;
        Some((job, binding))
    })
}

fn gpu_rows(status: &crds::NodeStatus, jobs: &[Job]) -> Vec<Vec<String>> {
    if status.gpus.is_empty() {
        return Vec::new();
    }
    let links: Vec<String> = status
        .gpus
        .iter()
        .map(|gpu| links(gpu, &status.gpus))
        .collect();
    let are_joined = links.iter().any(|links| !links.is_empty());
    let mut head = cells(["GPU", "MODEL", "MEMORY", "CHARGED", "JOBS"]);
    head.extend(are_joined.then(|| "LINKS".to_owned()));
    head.push("HEALTH".to_owned());
    let mut rows = vec![head];
    for (gpu, links) in status.gpus.iter().zip(links) {
        let mut charged = 0;
        let mut names = Vec::new();
        for (job, binding) in bindings(jobs) {
            if binding.gpus.contains(&gpu.uuid) {
                charged += if binding.whole_gpus {
                    gpu.memory_bytes
                } else {
                    binding.vram_bytes.unwrap_or(gpu.memory_bytes)
                };
                names.push(follow::key_of(job).1);
            }
        }
        let mut model = if gpu.simulated && !gpu.model.to_lowercase().contains("simulated") {
            format!("{} (simulated)", gpu.model)
        } else {
            gpu.model.clone()
        };
        let number_of = |uuid: &str| {
            let found = status.gpus.iter().find(|gpu| gpu.uuid == uuid);
            found.map_or_else(|| uuid.to_owned(), |gpu| gpu.index.to_string())
        };
        if let Some(slice) = &gpu.slice {
            let _ = write!(
                model,
                ", {} of gpu {}",
                slice.profile,
                number_of(&slice.parent)
            );
        }
        let mut health = if gpu.healthy {
            "healthy".to_owned()
        } else {
            "unhealthy".to_owned()
        };
        if let Some(message) = &gpu.health_message {
            let _ = write!(health, ": {message}");
        }
        if is_divided(gpu, &status.gpus) {
            health.push_str("; takes no job, its slices do");
        }
        for holder in &gpu.holders {
            let _ = write!(
                health,
                "; held by process {} of an ended attempt",
                holder.pid
            );
        }
        for foreign in &gpu.foreign {
            let _ = write!(
                health,
                "; foreign process {} uses up to {}",
                foreign.pid,
                Quantity::from_bytes(foreign.peak_bytes).0
            );
        }
        let mut row = vec![
            gpu.index.to_string(),
            model,
            Quantity::from_bytes(gpu.memory_bytes).0,
            if charged == 0 {
                "0".to_owned()
            } else {
                Quantity::from_bytes(charged).0
            },
            if names.is_empty() {
                "-".to_owned()
            } else {
                names.join(",")
            },
        ];
        if are_joined {
            row.push(if links.is_empty() {
                "-".to_owned()
            } else {
                links
            });
        }
        row.push(health);
        rows.push(row);
    }
    rows
}

/// Is the GPU divided into slices?
fn is_divided(gpu: &GpuStatus, all: &[GpuStatus]) -> bool {
    let mut slices = all.iter().filter_map(|other| other.slice.as_ref());
    slices.any(|slice| slice.parent == gpu.uuid)
}

/// What joins a GPU to others of its node: `NVLink 1-3; PCIe 4; NUMA 0`. GPUs are named once, by the tightest; nothing joins
/// slices.
fn links(gpu: &GpuStatus, all: &[GpuStatus]) -> String {
    if gpu.slice.is_some() {
        return String::new();
    }
    let others = || {
        let others = all.iter().filter(|other| other.slice.is_none());
        others.filter(|other| other.uuid != gpu.uuid)
    };
    let by_nvlink =
        |other: &GpuStatus| gpu.nvlinks.contains(&other.uuid) || other.nvlinks.contains(&gpu.uuid);
    let by_switch =
        |other: &GpuStatus| gpu.pcie_switch.is_some() && gpu.pcie_switch == other.pcie_switch;
    let nvlink: Vec<u32> = others()
        .filter(|other| by_nvlink(other))
        .map(|other| other.index)
        .collect();
    let switch: Vec<u32> = others()
        .filter(|other| by_switch(other) && !by_nvlink(other))
        .map(|other| other.index)
        .collect();
    let mut parts = Vec::new();
    if !nvlink.is_empty() {
        parts.push(format!("NVLink {}", ranges(&nvlink)));
    }
    if !switch.is_empty() {
        parts.push(format!("PCIe {}", ranges(&switch)));
    }
    parts.extend(gpu.numa_node.map(|node| format!("NUMA {node}")));
    parts.join("; ")
}

/// `0,2-4`, of numbers in ascending order.
fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|one, next| next.checked_sub(*one) == Some(1));
    let runs: Vec<String> = runs
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run.iter().map(u32::to_string).collect(),
        })
        .collect();
    runs.join(",")
}

fn job_rows(jobs: &[Job], now: Timestamp) -> Vec<Vec<String>> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![cells([
        "NAMESPACE",
        "NAME",
        "PHASE",
        "CPU",
        "GPUS",
        "RUNNING FOR",
    ])];
    for (job, binding) in bindings(jobs) {
        let (namespace, name) = follow::key_of(job);
        let start = job
            .status
            .as_ref()
            .and_then(|status| status.start_time.clone());
        rows.push(vec![
            namespace,
            name,
            format!("{:?}", follow::phase_of(job)),
            Quantity::from_millis(binding.cpu_millis).0,
            binding.gpus.len().to_string(),
            start.map_or_else(|| "-".to_owned(), |time| age::since(time.0, now)),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn described(gpus: &[Value]) -> String {
        let node = json!({
            "apiVersion": "gctl.dev/v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {},
            "status": {"gpus": gpus},
        });
        let node: Node = serde_json::from_value(node).unwrap();
        let mut page = Page::default();
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        describe(&mut page, &node, &[], now);
        page.finish()
    }

    fn gpu(index: u32, more: Value) -> Value {
        let mut gpu = json!({"uuid": format!("GPU-{index}"), "index": index, "model": "A100",
            "memoryBytes": 40_u64 << 30});
        let fields = gpu.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        gpu
    }

    #[test]
    fn a_description_says_how_gpus_are_joined_and_what_slices_are_of() {
        let joined = |index, peers: &[u32], switch: &str, numa: u32| {
            let peers: Vec<_> = peers.iter().map(|peer| format!("GPU-{peer}")).collect();
            gpu(
                index,
                json!({"nvlinks": peers, "pcieSwitch": switch, "numaNode": numa}),
            )
        };
        let text = described(&[
            joined(0, &[1, 2, 3], "a", 0),
            joined(1, &[0, 2, 3], "a", 0),
            joined(2, &[0, 1, 3], "b", 1),
            joined(3, &[0, 1, 2], "b", 1),
            joined(4, &[], "b", 1),
            gpu(
                5,
                json!({"slice": {"parent": "GPU-4", "profile": "3g.20gb"}}),
            ),
        ]);
        insta::assert_snapshot!(text, @r"
        Desired state:   Run
        GPUs:
          GPU   MODEL                    MEMORY   CHARGED   JOBS   LINKS                          HEALTH
          0     A100                     40Gi     0         -      NVLink 1-3; NUMA 0             healthy
          1     A100                     40Gi     0         -      NVLink 0,2-3; NUMA 0           healthy
          2     A100                     40Gi     0         -      NVLink 0-1,3; PCIe 4; NUMA 1   healthy
          3     A100                     40Gi     0         -      NVLink 0-2; PCIe 4; NUMA 1     healthy
          4     A100                     40Gi     0         -      PCIe 2-3; NUMA 1               healthy; takes no job, its slices do
          5     A100, 3g.20gb of gpu 4   40Gi     0         -      -                              healthy
        ");
    }

    #[test]
    fn nothing_is_said_of_links_where_nothing_is_known() {
        let text = described(&[gpu(0, json!({})), gpu(1, json!({}))]);
        assert!(!text.contains("LINKS"), "{text}");
    }

    #[test]
    fn neighbours_are_written_as_ranges() {
        for (numbers, expected) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[0, 2, 3, 4, 9, 10], "0,2-4,9-10"),
        ] {
            assert_eq!(ranges(numbers), expected);
        }
    }
}
