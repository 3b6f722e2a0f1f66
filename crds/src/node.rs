//! `Node`: one host. Its desired state and labels are in spec; capacity, GPUs and health in status.

#![expect(
    clippy::duplicated_attributes,
    reason = "printer columns repeat the name of their type"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One host: taints and desired state in spec; capacity, GPUs and health in status.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gctl.dev",
    version = "v1",
    kind = "Node",
    plural = "nodes",
    status = "NodeStatus",
    shortname = "gn",
    category = "gctl",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Desired", type_ = "string", json_path = ".spec.desiredState"),
    printcolumn(name = "Cpu", type_ = "string", json_path = ".status.capacity.cpu"),
    printcolumn(
        name = "Memory",
        type_ = "string",
        json_path = ".status.capacity.memory"
    ),
    printcolumn(name = "Gpus", type_ = "integer", json_path = ".status.capacity.gpus"),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.gpus[0].model"),
    printcolumn(
        name = "Slices",
        type_ = "integer",
        json_path = ".status.capacity.gpuSlices",
        priority = 1
    ),
    printcolumn(
        name = "Links",
        type_ = "string",
        json_path = ".status.capacity.gpuLinks",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// `Run` takes jobs; `Pause` takes no new ones; `Drain` also stops the running ones, which go back to the queue; `Stop` is Drain,
    /// and then the agent ends. Default: Run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DesiredState")]
    pub desired_state: Option<DesiredState>,
    /// True keeps new jobs away. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unschedulable: Option<bool>,
    /// Marks that keep away jobs which do not tolerate them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub taints: Vec<Taint>,
    /// Capability tags this node offers to `Job.spec.needs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub offers: Vec<String>,
    /// Absolute directories that exist on this node with all that is below them. A job whose `workingDir` or `directories` are not
    /// covered is not placed here. Default: nothing is known, and no job is kept away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096), regex(pattern = r"^/")), extend("x-kubernetes-list-type" = "set"))]
    pub directories: Vec<String>,
    /// An operator's word that this machine is gone for good: the `renewTime` of its Lease, after which it was not seen. What it
    /// ran is given up, unless it is seen again. `gctl node forget` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_after: Option<MicroTime>,
    /// Most jobs at once. Default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub max_jobs: Option<u32>,
}

/// What a node should do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// Take jobs and run them.
    #[default]
    Run,
    /// Take no new jobs; running ones go on.
    Pause,
    /// Take no new jobs and stop the running ones, which go back to the queue.
    Drain,
    /// Like Drain, and then the agent ends.
    Stop,
}

/// A mark that keeps jobs away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect.
    pub effect: TaintEffect,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// New jobs are not placed here.
    #[default]
    NoSchedule,
    /// New jobs are placed here only when nothing else fits.
    PreferNoSchedule,
    /// New jobs are not placed here and running ones are stopped.
    NoExecute,
}

/// What was observed of a node. Written by its agent; conditions also by the node controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Conditions; `Ready` is kept by the node controller from the node's Lease.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::job_status::conditions_schema")]
    pub conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    /// What the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<NodeCapacity>,
    /// Its GPUs, in PCI bus order, and then their MIG slices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["uuid"]))]
    pub gpus: Vec<GpuStatus>,
    /// Facts about the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<NodeInfo>,
    /// IP address or host name by which jobs on other nodes reach this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub address: Option<String>,
    /// When the agent registered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_time: Option<MicroTime>,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCapacity {
    /// CPU cores, as a quantity.
    pub cpu: crate::quantity::Quantity,
    /// Host memory, as a quantity.
    pub memory: crate::quantity::Quantity,
    /// Number of GPUs, those that are sliced included; their slices are not.
    pub gpus: u32,
    /// Number of MIG slices.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpu_slices: u32,
    /// How its GPUs are joined, in short: by what joins two of them the tightest, and how many it joins to each other, such as
    /// `NVLink 8` or `PCIe 4+4`. Absent: nothing is known to join two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub gpu_links: Option<String>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuStatus {
    /// UUID as CUDA knows it, such as `GPU-8f6d...`, or `MIG-...` of a slice.
    pub uuid: String,
    /// Index in PCI bus order; slices are numbered on after all GPUs.
    pub index: u32,
    /// Model name.
    pub model: String,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// Memory in bytes that the driver keeps, or the administrator reserves.
    #[serde(default)]
    pub reserved_bytes: u64,
    /// Memory in use by anyone, in bytes; absent when it could not be read. Rounded up to 64 MiB so that it does not tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// CUDA compute capability, such as `9.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// NUMA node that it is on. Absent: the host has one or does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// PCI bus id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_bus_id: Option<String>,
    /// The PCIe switch it is below, or the root port where there is none, in words of the agent's own; GPUs of one node with equal
    /// words reach each other without going through the host. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub pcie_switch: Option<String>,
    /// UUIDs of the GPUs of this node that it is joined with by NVLink, directly or through an NVSwitch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub nvlinks: Vec<String>,
    /// Set for a MIG slice, which is a device of its own: what it is a slice of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<GpuSlice>,
    /// Processes on this GPU that are no job's, each held at its peak until it exits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub foreign: Vec<ForeignUse>,
    /// Processes of ended attempts that still hold this GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub holders: Vec<Holder>,
    /// Use by jobs, by attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub attributed: Vec<AttributedUse>,
    /// True when the device is simulated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
    /// False keeps new jobs away from this GPU.
    #[serde(default = "healthy", skip_serializing_if = "is_true")]
    pub healthy: bool,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_message: Option<String>,
}

/// What a MIG slice is a slice of. The sliced GPU itself takes no job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuSlice {
    /// UUID of the sliced GPU.
    #[schemars(length(max = 128))]
    pub parent: String,
    /// MIG profile, such as `1g.10gb`.
    #[schemars(length(max = 64))]
    pub profile: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn healthy() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn is_true(value: &bool) -> bool {
    *value
}

/// A process on a GPU that is no job's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForeignUse {
    /// Process id.
    pub pid: u32,
    /// Most memory it was seen with, in bytes.
    pub peak_bytes: u64,
    /// Memory that it uses now, in bytes; not set when the driver does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
}

/// A process of an ended attempt that still holds a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Uid of the job.
    pub job_uid: String,
    /// The attempt.
    pub attempt: u32,
}

/// Use of a GPU by one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttributedUse {
    /// Uid of the job.
    pub job_uid: String,
    /// The attempt.
    pub attempt: u32,
    /// Memory in use, in bytes, rounded up to 64 MiB.
    pub used_bytes: u64,
    /// Most memory it was seen with, in bytes.
    pub peak_bytes: u64,
}

/// Facts about a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Boot id of the kernel: a new one proves that nothing of before runs.
    pub boot_id: String,
    /// Host name.
    pub hostname: String,
    /// Operating system, such as `linux`.
    pub os: String,
    /// Architecture, such as `x86_64`.
    pub arch: String,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Version of the agent.
    pub agent_version: String,
    /// Version of the GPU driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// When the registration was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_time: Option<Time>,
}
