//! `Job`: one command with what it needs, where it may run, how long and how often; or an array of such.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job_status::JobStatus;
use crate::quantity::Quantity;

/// One command (or container) with what it needs, where it may run, how long, how often; or an array of such.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gctl.dev",
    version = "v1",
    kind = "Job",
    plural = "jobs",
    namespaced,
    status = "JobStatus",
    shortname = "gj",
    category = "gctl",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".status.binding.nodeName",
    selectable = ".status.phase",
    selectable = ".spec.queue",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Queue",
        type_ = "string",
        json_path = ".status.effective.queue.value"
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.binding.nodeName"
    ),
    printcolumn(name = "Exit", type_ = "integer", json_path = ".status.exitCode"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.waiting.reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Attempt",
        type_ = "integer",
        json_path = ".status.attempt",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct JobSpec {
    /// Name of the Queue this job waits in. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Priority of this job relative to its queue's base priority; higher runs first. -1000 to 1000. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Name of a Profile whose resources and defaults apply where this job says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The command and its arguments, run without a shell. `{i}` is replaced by the index in an array.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// A script, run by its `#!` line or by /bin/sh. Exactly one of `command` and `script` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Container image to run in. Default: none, the command runs on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Environment variables. Names starting with `GCTL_` are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Absolute directory the command starts in. Default: a directory of the attempt's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Name or number of the user the command runs as. Default: the user of the node agent if that is not root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<String>,
    /// What the job needs of one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Run on this node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Labels a node must bear.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Capability tags a node must offer, each in `Node.spec.offers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Taints this job may ignore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// May a job of higher priority displace this one? Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
    /// What becomes of this job after it was preempted. Default: Requeue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_preemption: Option<OnPreemption>,
    /// What becomes of this job when its node falls silent. Default: Requeue for preemptible jobs, else Wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_node_lost: Option<OnNodeLost>,
    /// Seconds of silence after which the node itself fences a job with `onNodeLost: Requeue`. Default: 2400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_seconds: Option<u32>,
    /// How a job is fenced. Default: Freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_action: Option<FenceAction>,
    /// Seconds between TERM and KILL when the job is stopped. 0 to 86400. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u32>,
    /// Wall-clock limit of one attempt, in seconds from its start. Default: the queue's, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<u64>,
    /// Stop the attempt after this many seconds without output and without GPU use. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u64>,
    /// Stop the attempt when it has written nothing for this many seconds after its start. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_output_timeout_seconds: Option<u64>,
    /// Give up when the job has waited this many seconds since it was queued. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_deadline_seconds: Option<u64>,
    /// Retries of an attempt that failed by itself. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_limit: Option<u32>,
    /// Rules that decide by cause whether a failed attempt is tried again; the first that matches wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry: Vec<RetryRule>,
    /// Retries with a larger request after an out-of-memory failure. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_retry_limit: Option<u32>,
    /// Run many of this job, each with an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArraySpec>,
    /// Run as a gang: this many tasks on as many nodes, started whole or not at all. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Jobs of the same namespace that must end first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    /// Delete the job this many seconds after it ended. Default: keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<u64>,
    /// While true the job is not placed, and a running attempt is stopped. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Set to true to cancel the job; cannot be taken back. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
}

/// An environment variable: a literal value, or one taken from a Secret at the start of the attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name of the variable.
    pub name: String,
    /// Literal value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value comes from instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where an environment variable's value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVarSource {
    /// A key of a Secret in the job's namespace.
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Key in its data.
    pub key: String,
}

/// What a job needs of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// CPU cores, such as `2` or `500m`. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Host memory, such as `4Gi`. Default: none is reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Number of GPUs. Default: 0, or 1 when `vram` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// GPU memory needed on each GPU, such as `10Gi`. A GPU job that declares none gets whole idle GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Quantity>,
    /// What the GPUs must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuRequirements>,
    /// Share neither GPU nor node: `GPU` keeps the GPUs to this job, `Node` the whole node. Default: shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<Exclusive>,
}

/// What the GPUs of a job must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuRequirements {
    /// Model name, compared without case as a part of the device's name, such as `H200`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Least CUDA compute capability, such as `8.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_compute_capability: Option<String>,
    /// Least total memory of the card, such as `40Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory: Option<Quantity>,
    /// How the GPUs of one job must be joined. Default: any, the best available is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interconnect: Option<Interconnect>,
}

/// How far a job keeps others away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exclusive {
    /// The job's GPUs are its own.
    #[serde(rename = "GPU")]
    Gpu,
    /// The whole node is its own.
    Node,
}

/// How GPUs are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Interconnect {
    /// By NVLink.
    NVLink,
    /// Below one PCIe switch.
    #[serde(rename = "PCIe")]
    Pcie,
}

/// A taint that a job may ignore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint; empty with operator Exists matches all taints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Default: Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, with operator Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Effect to tolerate. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<crate::node::TaintEffect>,
}

/// How a toleration is compared with a taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// Key and value are the same.
    Equal,
    /// The key is the same, whatever its value.
    Exists,
}

/// What becomes of a preempted job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnPreemption {
    /// It goes back to its place in the queue.
    #[default]
    Requeue,
    /// It ends as Preempted.
    Stop,
}

/// What becomes of a job whose node falls silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnNodeLost {
    /// It waits for its node; nothing is killed for silence.
    #[default]
    Wait,
    /// It is fenced on its node and requeued after the fence.
    Requeue,
}

/// How a job is fenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FenceAction {
    /// Frozen, and thawed if it is still current when contact is back.
    #[default]
    Freeze,
    /// Killed.
    Kill,
}

/// One rule of what to do with a failed attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryRule {
    /// Exit codes this rule is for. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exit_codes: Vec<i32>,
    /// Causes this rule is for. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<RetryCause>,
    /// What to do.
    pub action: RetryAction,
    /// Most retries by this rule. Default: `backoffLimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Why an attempt ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryCause {
    /// The command ended with a code other than 0.
    ExitCode,
    /// The command was killed by a signal that nobody here sent.
    Signal,
    /// Host memory ran out.
    OutOfMemory,
    /// GPU memory ran out.
    CudaOutOfMemory,
    /// The node failed it.
    Node,
}

/// What a retry rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryAction {
    /// Try again.
    #[default]
    Retry,
    /// End as Failed.
    Fail,
}

/// Many of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArraySpec {
    /// Number of members, with indices from 0. 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Every combination of these values, one member each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matrix: BTreeMap<String, Vec<String>>,
    /// One member for each item.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// Most members that exist unfinished at once. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// After this many failed members no more are started. Default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
}

/// A job that must end first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Name of a job in the same namespace.
    pub name: String,
    /// How it must have ended. Default: Succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<DependencyWhen>,
}

/// How a dependency must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DependencyWhen {
    /// With success.
    Succeeded,
    /// Without success.
    Failed,
    /// In any way.
    Finished,
}
