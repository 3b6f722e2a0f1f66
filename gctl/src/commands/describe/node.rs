//! A node: its state, its GPUs, and what runs on them.

use std::fmt::Write as _;

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
    let mut rows = vec![cells([
        "GPU", "MODEL", "MEMORY", "CHARGED", "JOBS", "HEALTH",
    ])];
    for gpu in &status.gpus {
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
        let model = if gpu.simulated && !gpu.model.to_lowercase().contains("simulated") {
            format!("{} (simulated)", gpu.model)
        } else {
            gpu.model.clone()
        };
        let mut health = if gpu.healthy {
            "healthy".to_owned()
        } else {
            "unhealthy".to_owned()
        };
        if let Some(message) = &gpu.health_message {
            let _ = write!(health, ": {message}");
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
        rows.push(vec![
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
            health,
        ]);
    }
    rows
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
