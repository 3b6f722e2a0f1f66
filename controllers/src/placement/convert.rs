//! API objects as the scheduling core knows them. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::job::{Exclusive, Interconnect, Toleration, TolerationOperator};
use crds::job_status::{Binding, Effective, Source};
use crds::node::{DesiredState, GpuStatus, NodeInfo, TaintEffect};
use crds::queue::QueueQuota;
use crds::{Job, JobStatus, Node, QueueSpec, phase};
use jiff::Timestamp;
use scheduler::{
    Attributed, BoundJob, Bytes, Capability, Estimate, Gpu, GpuRequest, JobUid, Link, MilliCpu,
    Millis, NodeName, Packing, Preference, QueueName, QueueState, Quota, Requirements, Slice,
    Slices, Span, Terms, Wish,
};

use crate::shell::{owner, rank};

/// Labels that every node bears, whatever its agent says.
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
const ARCH_LABEL: &str = "kubernetes.io/arch";
const OS_LABEL: &str = "kubernetes.io/os";

/// A job's identity in the core.
pub(super) fn job_uid(job: &Job) -> JobUid {
    JobUid::from(job.metadata.uid.as_deref().unwrap_or_default())
}

/// What is known of a waiting job beyond its own object.
#[derive(Debug, Default)]
pub(super) struct Known<'a> {
    /// A node that it is not offered for now.
    pub(super) avoid: Option<&'a str>,
    /// How long it will probably run.
    pub(super) estimate: Option<Estimate>,
    /// The jobs that it depends on, transitively.
    pub(super) ancestors: BTreeSet<JobUid>,
}

/// A job that waits.
pub(super) fn waiting_job(
    job: &Job,
    effective: &Effective,
    status: &JobStatus,
    known: Known<'_>,
) -> scheduler::Job {
    let enqueued = status.enqueue_time.as_ref();
    let lacking = status.excluded_nodes.iter();
    scheduler::Job {
        uid: job_uid(job),
        queue: QueueName::from(effective.queue.value.as_str()),
        priority: effective.priority.value,
        enqueued_micros: enqueued.map_or(i64::MAX, |time| time.0.as_microsecond()),
        requirements: Requirements {
            lacking: lacking.map(|name| NodeName::from(name.as_str())).collect(),
            ..requirements(effective, known.avoid)
        },
        terms: terms(effective),
        estimate: known.estimate,
        ancestors: known.ancestors,
        gang: gang(job, status),
    }
}

/// The gang of a member, as one generation of it: the same for all its members, and for no others.
fn gang(job: &Job, status: &JobStatus) -> Option<scheduler::Gang> {
    let (gang, owner) = (status.gang.as_ref()?, owner(job)?);
    rank(job)?;
    Some(scheduler::Gang {
        id: format!("{}/{}", owner.uid, gang.generation).into(),
        size: gang.size,
    })
}

fn terms(effective: &Effective) -> Terms {
    Terms {
        preemptible: effective.preemptible.value,
        limit: effective.time_limit().map(seconds),
        limit_by_default: effective
            .active_deadline_seconds
            .as_ref()
            .is_some_and(|limit| {
                matches!(
                    limit.source,
                    Source::Queue | Source::DefaultQueue | Source::Default
                )
            }),
        grace: seconds(u64::from(effective.termination_grace_period_seconds.value)),
    }
}

fn seconds(count: u64) -> Span {
    Span::seconds(i64::try_from(count).unwrap_or(i64::MAX))
}

fn millis(time: Timestamp) -> Millis {
    Millis(time.as_millisecond())
}

/// How many GPUs, and how much of each.
pub(super) fn gpu_request(effective: &Effective) -> GpuRequest {
    let count = effective.gpus.value;
    match &effective.vram_bytes {
        _ if count == 0 => GpuRequest::None,
        Some(vram) => GpuRequest::Vram {
            count,
            bytes: Bytes(vram.value),
        },
        None => GpuRequest::Whole(count),
    }
}

fn requirements(effective: &Effective, avoid: Option<&str>) -> Requirements {
    let arc = |text: &String| Arc::<str>::from(text.as_str());
    let gpu = effective.gpu.as_ref().map(|gpu| &gpu.value);
    let capability = gpu.and_then(|gpu| gpu.min_compute_capability.as_deref());
    let min_memory = gpu.and_then(|gpu| gpu.min_memory.as_ref());
    let selector = effective.node_selector.iter().flat_map(|s| &s.value);
    let needs = effective.needs.iter().flat_map(|needs| &needs.value);
    let tolerations = effective.tolerations.iter().flat_map(|t| &t.value);
    let directories = effective.directories.iter().flat_map(|d| &d.value);
    let preferences = effective.preferences.iter().flat_map(|p| &p.value);
    Requirements {
        cpu: MilliCpu(effective.cpu_millis.value),
        memory: Bytes(effective.memory_bytes.value),
        gpus: gpu_request(effective),
        gpu_model: gpu.and_then(|gpu| gpu.model.as_ref()).map(arc),
        gpu_min_memory: min_memory.and_then(|memory| memory.bytes().ok()).map(Bytes),
        gpu_min_capability: capability.and_then(Capability::parse),
        exclusive: match effective
            .exclusive
            .as_ref()
            .map(|exclusive| exclusive.value)
        {
            None => scheduler::Exclusive::Shared,
            Some(Exclusive::Gpu) => scheduler::Exclusive::Gpu,
            Some(Exclusive::Node) => scheduler::Exclusive::Node,
        },
        node_name: effective
            .node_name
            .as_ref()
            .map(|name| NodeName::from(name.value.as_str())),
        node_selector: selector
            .map(|(key, value)| (arc(key), arc(value)))
            .collect(),
        needs: needs.map(arc).collect(),
        tolerations: tolerations.filter_map(toleration).collect(),
        avoid: avoid.map(NodeName::from).into_iter().collect(),
        lacking: BTreeSet::new(),
        interconnect: match gpu.and_then(|gpu| gpu.interconnect) {
            None => Link::Any,
            Some(Interconnect::Pcie) => Link::PcieSwitch,
            Some(Interconnect::NVLink) => Link::NvLink,
        },
        slices: match gpu.and_then(|gpu| gpu.slice.as_deref()) {
            None => Slices::Unasked,
            Some("*") => Slices::Allowed,
            Some(profile) => Slices::Only(profile.into()),
        },
        directories: directories.map(arc).collect(),
        prefer: preferences.map(preference).collect(),
        packing: match effective.packing.as_ref().map(|packing| packing.value) {
            None | Some(crds::queue::Packing::Pack) => Packing::Pack,
            Some(crds::queue::Packing::Spread) => Packing::Spread,
        },
    }
}

fn preference(preference: &crds::job::Preference) -> Preference {
    let labels = preference.node_selector.iter();
    Preference {
        weight: preference.weight,
        wishes: labels
            .map(|(key, value)| Wish::Label {
                key: key.as_str().into(),
                values: [Arc::from(value.as_str())].into(),
            })
            .collect(),
    }
}

/// A toleration; one that could match nothing is left out.
fn toleration(toleration: &Toleration) -> Option<scheduler::Toleration> {
    let key = toleration.key.as_deref().filter(|key| !key.is_empty());
    let exists = toleration.operator == Some(TolerationOperator::Exists);
    if key.is_none() && !exists {
        return None;
    }
    Some(scheduler::Toleration {
        key: key.map(Arc::from),
        value: (!exists).then(|| Arc::from(toleration.value.as_deref().unwrap_or_default())),
        effect: toleration.effect.map(taint_effect),
    })
}

fn taint_effect(effect: TaintEffect) -> scheduler::TaintEffect {
    match effect {
        TaintEffect::NoSchedule => scheduler::TaintEffect::NoSchedule,
        TaintEffect::PreferNoSchedule => scheduler::TaintEffect::PreferNoSchedule,
        TaintEffect::NoExecute => scheduler::TaintEffect::NoExecute,
    }
}

/// A job that holds slots.
pub(super) fn bound_job(
    job: &Job,
    status: &JobStatus,
    binding: &Binding,
    estimate: Option<Estimate>,
) -> BoundJob {
    let effective = status.effective.as_ref();
    let queue = effective.map(|effective| effective.queue.value.as_str());
    let queue = queue.or(job.spec.queue.as_deref());
    let exclusive = effective.and_then(|effective| effective.exclusive.as_ref());
    BoundJob {
        uid: job_uid(job),
        queue: QueueName::from(queue.unwrap_or(crds::DEFAULT_QUEUE)),
        attempt: status.attempt,
        node: NodeName::from(binding.node_name.as_str()),
        gpus: binding.gpus.iter().map(|gpu| gpu.as_str().into()).collect(),
        vram: binding.vram_bytes.map(Bytes),
        whole_gpus: binding.whole_gpus,
        whole_node: exclusive.is_some_and(|exclusive| exclusive.value == Exclusive::Node),
        cpu: MilliCpu(binding.cpu_millis),
        memory: Bytes(binding.memory_bytes),
        priority: effective.map_or(0, |effective| effective.priority.value),
        enqueued_micros: status
            .enqueue_time
            .as_ref()
            .map(|time| time.0.as_microsecond()),
        terms: effective.map(terms).unwrap_or_default(),
        estimate,
        bound_at: binding
            .time
            .as_ref()
            .map_or(Millis(0), |time| millis(time.0)),
        started: status.start_time.as_ref().map(|time| millis(time.0)),
        checkpointed: status.checkpoint.as_ref().and_then(|checkpoint| {
            let time = checkpoint.time.as_ref()?;
            (checkpoint.attempt == status.attempt).then(|| millis(time.0))
        }),
        stopping: status
            .stop
            .as_ref()
            .and_then(|stop| (stop.attempt == status.attempt).then(|| millis(stop.deadline.0))),
        gang: gang(job, status).map(|gang| gang.id),
    }
}

/// The binding whose slots a job still holds. A lost job holds none: its node is proven to run nothing of it.
pub(super) fn held(status: &JobStatus) -> Option<&Binding> {
    let lost = status.outcome == Some(crds::job_status::Outcome::Lost);
    phase::held_binding(status).filter(|_| !lost)
}

/// A node, once its agent has said what it has.
pub(super) fn node(node: &Node) -> Option<scheduler::Node> {
    let status = node.status.as_ref()?;
    let capacity = status.capacity.as_ref()?;
    let ready = status
        .conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let arc = |text: &str| Arc::<str>::from(text);
    let mut labels = std::collections::BTreeMap::new();
    if let Some(NodeInfo {
        hostname, os, arch, ..
    }) = &status.info
    {
        for (key, value) in [
            (HOSTNAME_LABEL, hostname),
            (ARCH_LABEL, arch),
            (OS_LABEL, os),
        ] {
            labels.insert(arc(key), arc(value));
        }
    }
    for (key, value) in node.metadata.labels.iter().flatten() {
        labels.insert(arc(key), arc(value));
    }
    Some(scheduler::Node {
        labels,
        taints: node
            .spec
            .taints
            .iter()
            .map(|taint| scheduler::Taint {
                key: arc(&taint.key),
                value: arc(taint.value.as_deref().unwrap_or_default()),
                effect: taint_effect(taint.effect),
            })
            .collect(),
        offers: node
            .spec
            .offers
            .iter()
            .map(|tag| arc(tag))
            .collect::<BTreeSet<_>>(),
        ready,
        unschedulable: node.spec.unschedulable == Some(true)
            || node.metadata.deletion_timestamp.is_some(),
        desired: match node.spec.desired_state.unwrap_or_default() {
            DesiredState::Run => scheduler::DesiredState::Run,
            DesiredState::Pause => scheduler::DesiredState::Pause,
            DesiredState::Drain => scheduler::DesiredState::Drain,
            DesiredState::Stop => scheduler::DesiredState::Stop,
        },
        max_jobs: node.spec.max_jobs,
        cpu: MilliCpu(capacity.cpu.millis().unwrap_or(0)),
        memory: Bytes(capacity.memory.bytes().unwrap_or(0)),
        gpus: status
            .gpus
            .iter()
            .map(|one| gpu(one, &status.gpus))
            .collect(),
        directories: (!node.spec.directories.is_empty())
            .then(|| node.spec.directories.iter().map(|path| arc(path)).collect()),
    })
}

/// A GPU, among all of its node.
fn gpu(gpu: &GpuStatus, all: &[GpuStatus]) -> Gpu {
    let capability = gpu.compute_capability.as_deref();
    // Where no GPU is said to be joined or below a switch, nobody has looked.
    let looked = |gpu: &GpuStatus| gpu.pcie_switch.is_some() || !gpu.nvlinks.is_empty();
    let joined = all.iter().filter(|other| gpu.nvlinks.contains(&other.uuid));
    Gpu {
        uuid: gpu.uuid.as_str().into(),
        index: gpu.index,
        model: gpu.model.as_str().into(),
        memory: Bytes(gpu.memory_bytes),
        reserved: Bytes(gpu.reserved_bytes),
        used: gpu.used_bytes.map(Bytes),
        capability: capability.and_then(Capability::parse),
        healthy: gpu.healthy,
        foreign_peaks: gpu.foreign.iter().map(|f| Bytes(f.peak_bytes)).collect(),
        // Of one whose use is not known it is taken to be its peak.
        foreign_used: (!gpu.foreign.is_empty()).then(|| {
            let used = gpu
                .foreign
                .iter()
                .map(|f| f.used_bytes.unwrap_or(f.peak_bytes));
            Bytes(used.fold(0, u64::saturating_add))
        }),
        holders: u32::try_from(gpu.holders.len()).unwrap_or(u32::MAX),
        attributed: gpu
            .attributed
            .iter()
            .map(|attributed| Attributed {
                job: JobUid::from(attributed.job_uid.as_str()),
                attempt: attributed.attempt,
                used: Bytes(attributed.used_bytes),
                peak: Bytes(attributed.peak_bytes),
            })
            .collect(),
        numa: gpu.numa_node,
        slice: gpu.slice.as_ref().map(|slice| Slice {
            parent: slice.parent.as_str().into(),
            profile: slice.profile.as_str().into(),
        }),
        pcie_switch: gpu.pcie_switch.as_deref().map(Arc::from),
        nvlinks: all
            .iter()
            .any(looked)
            .then(|| joined.map(|other| other.index).collect()),
    }
}

/// What a queue allows. A quota that cannot be read allows nothing of its kind, rather than everything.
pub(super) fn queue(queue: &QueueSpec) -> QueueState {
    let limits = |quota: &QueueQuota| Quota {
        gpus: quota.gpus.map(u64::from),
        vram: quota
            .vram
            .as_ref()
            .map(|vram| Bytes(vram.bytes().unwrap_or(0))),
        cpu: quota
            .cpu
            .as_ref()
            .map(|cpu| MilliCpu(cpu.millis().unwrap_or(0))),
        jobs: quota.running_jobs.map(u64::from),
    };
    QueueState {
        paused: queue.paused == Some(true),
        quota: queue.quota.as_ref().map(limits).unwrap_or_default(),
        borrow: queue.borrowing.as_ref().map(limits),
        weight: queue.weight.unwrap_or(1),
        ..QueueState::default()
    }
}

#[cfg(test)]
mod tests {
    use crds::node::{GpuSlice, NodeCapacity};
    use crds::{JobSpec, NodeSpec, NodeStatus};

    use super::*;
    use crate::admission::resolve;

    fn node_of(gpus: Vec<GpuStatus>) -> scheduler::Node {
        let mut node = Node::new("n", NodeSpec::default());
        node.status = Some(NodeStatus {
            capacity: Some(NodeCapacity::default()),
            gpus,
            ..NodeStatus::default()
        });
        super::node(&node).unwrap()
    }

    fn card(index: u32, nvlinks: &[u32]) -> GpuStatus {
        let uuid = |index: &u32| format!("GPU-{index}");
        GpuStatus {
            uuid: uuid(&index),
            index,
            nvlinks: nvlinks.iter().map(uuid).collect(),
            ..GpuStatus::default()
        }
    }

    #[test]
    fn links_are_known_only_where_somebody_looked() {
        let unknown = node_of(vec![card(0, &[]), card(1, &[])]);
        assert_eq!(unknown.gpus[0].nvlinks, None);
        let known = node_of(vec![card(0, &[2, 7]), card(1, &[]), card(2, &[0])]);
        assert_eq!(
            known.gpus[0].nvlinks,
            Some(vec![2]),
            "7 is not of this node"
        );
        assert_eq!(known.gpus[1].nvlinks, Some(vec![]));
        let slice = GpuSlice {
            parent: "GPU-9".to_owned(),
            profile: "1g.10gb".to_owned(),
        };
        let sliced = GpuStatus {
            slice: Some(slice),
            ..card(3, &[])
        };
        let slice = node_of(vec![sliced]).gpus[0].slice.clone().unwrap();
        assert_eq!(
            (slice.parent.as_str(), &*slice.profile),
            ("GPU-9", "1g.10gb")
        );
    }

    #[test]
    fn what_a_job_would_like_and_where_its_files_are_reach_the_core() {
        let spec: JobSpec = serde_json::from_value(serde_json::json!({
            "command": ["x"],
            "workingDir": "/home/me/run",
            "directories": ["/data"],
            "preferences": [{"weight": -5, "nodeSelector": {"disk": "slow"}}],
            "resources": {"gpus": 1, "gpu": {"slice": "1g.10gb", "interconnect": "NVLink"}},
        }))
        .unwrap();
        let mut queue = crds::Queue::new("default", QueueSpec::default());
        queue.spec.packing = Some(crds::queue::Packing::Spread);
        let effective = resolve(&spec, std::slice::from_ref(&queue), [].iter()).unwrap();
        let needs = requirements(&effective, None);
        let directories: Vec<&str> = needs.directories.iter().map(|path| &**path).collect();
        assert_eq!(directories, ["/data", "/home/me/run"]);
        assert_eq!(needs.slices, Slices::Only("1g.10gb".into()));
        assert_eq!(needs.interconnect, Link::NvLink);
        assert_eq!(needs.packing, Packing::Spread);
        assert_eq!(needs.prefer[0].weight, -5);
        let slow = Wish::Label {
            key: "disk".into(),
            values: ["slow".into()].into(),
        };
        assert_eq!(needs.prefer[0].wishes, [slow]);
    }
}
