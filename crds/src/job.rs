//! `Job`: one command with what it needs, where it may run, how long and how often; or an array of such.

#![expect(
    clippy::duplicated_attributes,
    reason = "printer columns repeat the name of their type"
)]

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
    category = "all",
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
    printcolumn(
        name = "Exit",
        type_ = "string",
        json_path = ".status['exitCode','signalName']"
    ),
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
#[schemars(extend("oneOf" = [{"required": ["command"]}, {"required": ["script"]}], "x-kubernetes-validations" = [{"rule": "has(self.command) == has(oldSelf.command) && has(self.script) == has(oldSelf.script) && has(self.image) == has(oldSelf.image) && has(self.env) == has(oldSelf.env) && has(self.workingDir) == has(oldSelf.workingDir) && has(self.runAsUser) == has(oldSelf.runAsUser) && has(self.resources) == has(oldSelf.resources) && has(self.array) == has(oldSelf.array) && has(self.replicas) == has(oldSelf.replicas)", "message": "command, script, image, env, workingDir, runAsUser, resources, array and replicas cannot be added or removed once the job exists"}, {"rule": "!has(oldSelf.cancel) || !oldSelf.cancel || has(self.cancel)", "message": "a cancel cannot be taken back"}]))]
pub struct JobSpec {
    /// Name of the Queue this job waits in, in any case and with `_` for `-`. Default: the queue that owns `workingDir`, else
    /// `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$")
    )]
    pub queue: Option<String>,
    /// Priority of this job relative to its queue's base priority; higher runs first. -1000 to 1000. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: Option<i32>,
    /// Name of a Profile whose resources and defaults apply where this job says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub profile: Option<String>,
    /// The command and its arguments, run without a shell. `{i}` is replaced by the index in an array.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1000), inner(length(max = 65_536)), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "command cannot change once the job exists; delete the job and create it anew"}]))]
    pub command: Vec<String>,
    /// A script, run by its `#!` line or by /bin/sh. Exactly one of `command` and `script` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_048_576), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "script cannot change once the job exists; delete the job and create it anew"}]))]
    pub script: Option<String>,
    /// Container image to run in. Default: none, the command runs on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "image cannot change once the job exists; delete the job and create it anew"}]))]
    pub image: Option<String>,
    /// Environment variables. Names starting with `GCTL_` are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "env cannot change once the job exists; delete the job and create it anew"}]))]
    pub env: Vec<EnvVar>,
    /// Absolute directory the command starts in. Default: a directory of the attempt's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^/"), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "workingDir cannot change once the job exists; delete the job and create it anew"}]))]
    pub working_dir: Option<String>,
    /// Name or number of the user the command runs as. Default: the user of the node agent if that is not root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "runAsUser cannot change once the job exists; delete the job and create it anew"}]))]
    pub run_as_user: Option<String>,
    /// What the job needs of one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.vram) || !has(self.gpus) || self.gpus > 0", "message": "vram is per GPU, so gpus must not be 0"}, {"rule": "self == oldSelf", "message": "resources cannot change once the job exists; delete the job and create it anew"}]))]
    pub resources: Option<Resources>,
    /// Run on this node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub node_name: Option<String>,
    /// Labels a node must bear.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: BTreeMap<String, String>,
    /// Capability tags a node must offer, each in `Node.spec.offers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub needs: Vec<String>,
    /// Taints this job may ignore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Absolute directories that the node must offer (`Node.spec.directories`), besides `workingDir`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096), regex(pattern = r"^/")), extend("x-kubernetes-list-type" = "set"))]
    pub directories: Vec<String>,
    /// Nodes that this job would rather run on; among the nodes that fit, the one with the greatest sum of weights is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub preferences: Vec<Preference>,
    /// May a job of higher priority displace this one? Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
    /// After a preemption: `Requeue` puts the job back in its place in the queue, `Stop` ends it. Default: Requeue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnPreemption")]
    pub on_preemption: Option<OnPreemption>,
    /// When the node falls silent: `Wait` kills nothing and waits for it, `Requeue` fences the job on its node and runs it elsewhere
    /// after the fence. Default: Requeue for preemptible jobs, else Wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnNodeLost")]
    pub on_node_lost: Option<OnNodeLost>,
    /// Seconds of silence after which the node itself fences a job with `onNodeLost: Requeue`. Default: 2400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 604_800))]
    pub fence_seconds: Option<u32>,
    /// How a job is fenced: `Freeze` (thawed if it is still current when contact is back) or `Kill`. Default: Freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FenceAction")]
    pub fence_action: Option<FenceAction>,
    /// Seconds between TERM and KILL when the job is stopped. 0 to 86400. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86_400))]
    pub termination_grace_period_seconds: Option<u32>,
    /// Wall-clock limit of one attempt, in seconds from its start; 0 is no limit. Default: the queue's, else 172800 (48 hours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 315_360_000))]
    pub active_deadline_seconds: Option<u64>,
    /// Stop the attempt after this many seconds without output and without GPU use. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub idle_timeout_seconds: Option<u64>,
    /// Stop the attempt when it has written nothing for this many seconds after its start. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub first_output_timeout_seconds: Option<u64>,
    /// Give up when the job has waited this many seconds since it was queued. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub pending_deadline_seconds: Option<u64>,
    /// Retries of an attempt that failed by itself. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub backoff_limit: Option<u32>,
    /// Rules that decide by cause whether a failed attempt is tried again; the first that matches wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub retry: Vec<RetryRule>,
    /// Retries with a larger request after an out-of-memory failure. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub oom_retry_limit: Option<u32>,
    /// Run many of this job, each with an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "(has(self.count) ? 1 : 0) + (has(self.matrix) ? 1 : 0) + (has(self.items) ? 1 : 0) == 1", "message": "give exactly one of count, matrix and items"}, {"rule": "self == oldSelf", "message": "array cannot change once the job exists; delete the job and create it anew"}]))]
    pub array: Option<ArraySpec>,
    /// Run as a gang: this many tasks on as many nodes, started whole or not at all. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "replicas cannot change once the job exists; delete the job and create it anew"}]))]
    pub replicas: Option<u32>,
    /// Jobs of the same namespace that must end first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub depends_on: Vec<Dependency>,
    /// Delete the job this many seconds after it ended. Default: keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 315_360_000))]
    pub ttl_seconds_after_finished: Option<u64>,
    /// While true the job is not placed, and a running attempt is stopped. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Set to true to cancel the job; cannot be taken back. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self || !oldSelf", "message": "a cancel cannot be taken back"}]))]
    pub cancel: Option<bool>,
}

/// An environment variable: a literal value, or one taken from a Secret at the start of the attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!(has(self.value) && has(self.valueFrom))", "message": "give value or valueFrom, not both"}]))]
pub struct EnvVar {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z_][-._A-Za-z0-9]*$"), extend("x-kubernetes-validations" = [{"rule": "!self.startsWith('GCTL_')", "message": "names starting with GCTL_ are kept for the node agent"}]))]
    pub name: String,
    /// Literal value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
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
    #[schemars(
        length(max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What a job needs of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.vram) || !has(self.gpus) || self.gpus > 0", "message": "vram is per GPU, so gpus must not be 0"}]))]
pub struct Resources {
    /// CPU cores, such as `2` or `500m`. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Host memory, such as `4Gi`. Default: none is reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Number of GPUs. Default: 0, or 1 when `vram` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1024))]
    pub gpus: Option<u32>,
    /// GPU memory needed on each GPU, such as `10Gi`. A GPU job that declares none gets whole idle GPUs; so does one that asks for all
    /// of a card, to at most 7 percent above what it reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Quantity>,
    /// What the GPUs must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuRequirements>,
    /// Share neither GPU nor node: `GPU` keeps the GPUs to this job, `Node` the whole node. Default: shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Exclusive")]
    pub exclusive: Option<Exclusive>,
}

/// What the GPUs of a job must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuRequirements {
    /// Model name, compared without case as a part of the device's name, such as `H200`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub model: Option<String>,
    /// Least CUDA compute capability, such as `8.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^[0-9]{1,3}(\.[0-9]{1,3})?$"))]
    pub min_compute_capability: Option<String>,
    /// Least total memory of the card, such as `40Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory: Option<Quantity>,
    /// MIG profile, such as `1g.10gb`: the job takes a slice of that kind and never a whole GPU; `*` lets it take any slice.
    /// Default: a slice will do where the job declares `vram` and names no model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub slice: Option<String>,
    /// How the GPUs of one job must be joined: `NVLink`, or `PCIe` for one PCIe switch. Default: any, the best available is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Interconnect")]
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
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.key) || (has(self.operator) && self.operator == 'Exists')", "message": "a toleration without a key must have the operator Exists"}, {"rule": "!has(self.value) || !has(self.operator) || self.operator == 'Equal'", "message": "a value goes with the operator Equal only"}]))]
pub struct Toleration {
    /// Key of the taint; empty with operator Exists matches all taints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// How key and value are compared: `Equal`, or `Exists` for any value. Default: Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TolerationOperator")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, with operator Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect to tolerate. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "crate::node::TaintEffect")]
    pub effect: Option<crate::node::TaintEffect>,
}

/// Nodes that a job would rather run on, or rather not.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Preference {
    /// How much it counts; below 0 the nodes are avoided. -100 to 100.
    #[schemars(range(min = -100, max = 100))]
    pub weight: i32,
    /// Labels of the nodes it is for; a node must bear all of them.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: BTreeMap<String, String>,
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
    #[schemars(length(max = 256), inner(range(min = 0, max = 255)), extend("x-kubernetes-list-type" = "atomic"))]
    pub exit_codes: Vec<i32>,
    /// Causes this rule is for. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<RetryCause>,
    /// What to do.
    pub action: RetryAction,
    /// Most retries by this rule. Default: `backoffLimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
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
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: Option<u32>,
    /// Every combination of these values, one member each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 8, "additionalProperties" = {"type": "array", "minItems": 1, "maxItems": 1000, "x-kubernetes-list-type": "atomic", "items": {"type": "string", "maxLength": 1024}}))]
    pub matrix: BTreeMap<String, Vec<String>>,
    /// One member for each item.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 10_000), inner(length(max = 1024)), extend("x-kubernetes-list-type" = "atomic"))]
    pub items: Vec<String>,
    /// Most members that exist unfinished at once. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub parallelism: Option<u32>,
    /// After this many failed members no more are started. Default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub max_failures: Option<u32>,
}

/// A job that must end first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Name of a job in the same namespace.
    #[schemars(
        length(max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// How it must have ended: `Succeeded`, `Failed` (any end without success) or `Finished` (any end). Default: Succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DependencyWhen")]
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
