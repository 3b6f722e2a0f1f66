//! `Job.status`: what was decided for a job and observed of it. Writers: design.md section 4.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::{
    Dependency, EnvVar, Exclusive, FenceAction, GpuRequirements, OnNodeLost, OnPreemption,
    Preference, Toleration,
};
use crate::queue::Packing;

/// What was decided for a job and observed of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Where the job stands; derived from the other fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Phase", extend("x-kubernetes-validations" = [{"rule": "self == oldSelf || !(oldSelf in ['Succeeded', 'Failed', 'Cancelled', 'Preempted', 'TimedOut', 'Infeasible', 'Lost'])", "message": "a job that has ended stays as it ended"}]))]
    pub phase: Option<Phase>,
    /// Conditions in the Kubernetes form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::job_status::conditions_schema")]
    pub conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    /// The resolved spec, each value with its source. Written by admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    /// When the job was queued first; a requeued job keeps it. Written by admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enqueue_time: Option<MicroTime>,
    /// Number of the current or last attempt; the bind increments it.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self >= oldSelf", "message": "the attempt number never goes back"}]))]
    pub attempt: u32,
    /// Where the current attempt runs. Written by placement, cleared on requeue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a binding does not change; it is cleared by a requeue"}]))]
    pub binding: Option<Binding>,
    /// Where the job could run after a preemption. Written by placement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nomination: Option<Nomination>,
    /// The gang: on its parent and on each of its members. Written by the gang controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang: Option<GangStatus>,
    /// Generation of the gang that may start: written on the parent once every member's node has claimed it, then on each
    /// member, whose node starts it when this is its own generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go: Option<u32>,
    /// The agent's permit to start the current attempt. Written by the agent before exec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Somebody needs the current attempt to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// When the attempt's process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,
    /// When the attempt's process ended, or the job without a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_time: Option<MicroTime>,
    /// Exit code of the attempt's process; absent when a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the attempt's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Name of that signal, such as `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_name: Option<String>,
    /// How the attempt ended, in one word; written by the agent, or by whoever ends a job without a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Outcome", extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "an outcome is final"}]))]
    pub outcome: Option<Outcome>,
    /// Proof that no process of the attempt is left; from here on its slots are free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// What the attempt used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Last acknowledged checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Tallies of an array. Written by the array controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayStatus>,
    /// Why the job waits. Written by placement when the class or the reservation changes, not more often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Retries so far, by cause.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "integer", "format": "int32", "minimum": 0}))]
    pub retries: BTreeMap<String, u32>,
    /// Ended attempts, oldest first, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub attempts: Vec<AttemptRecord>,
    /// Nodes whose agents found that a directory which the job needs is not there. They are not offered to it again; with none
    /// left, the job ends as Infeasible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub excluded_nodes: Vec<String>,
    /// True while the job's node is not seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_silent: bool,
    /// The last thing worth telling a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub message: Option<String>,
    /// Generation of the spec that `effective` was resolved from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Where a job stands (rules.md section 1).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum Phase {
    /// Waiting to be placed.
    #[default]
    Pending,
    /// Bound to a node that has not claimed it yet.
    Scheduled,
    /// Claimed by its node.
    Running,
    /// Asked to stop, and not yet gone.
    Stopping,
    /// Its node is not seen.
    Unknown,
    /// Ended with exit code 0.
    Succeeded,
    /// Ended badly by itself.
    Failed,
    /// Cancelled.
    Cancelled,
    /// Displaced, and not to be requeued.
    Preempted,
    /// A time limit ended it.
    TimedOut,
    /// No node could ever run it.
    Infeasible,
    /// Its node is lost for good.
    Lost,
}

/// How an attempt, or a job that never ran, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// Exit code 0.
    Succeeded,
    /// Another exit code, a signal of its own, or it could not be started.
    Failed,
    /// Stopped by a cancel.
    Cancelled,
    /// Stopped by a preemption, a drain or a suspend.
    Preempted,
    /// Stopped by a time limit.
    TimedOut,
    /// No node could ever run it.
    Infeasible,
    /// Its node is lost for good.
    Lost,
}

/// A resolved value and where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sourced<T> {
    /// The value in force.
    pub value: T,
    /// Who said so.
    pub source: Source,
}

/// Where a resolved value came from; an earlier one wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Source {
    /// The job's own spec.
    Job,
    /// The job's Queue.
    Queue,
    /// The Queue `default`, whose defaults hold for all queues.
    DefaultQueue,
    /// The Queue that owns the job's working directory.
    Directory,
    /// The job's Profile.
    Profile,
    /// The built-in default.
    #[default]
    Default,
}

/// The resolved spec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// Queue.
    pub queue: Sourced<String>,
    /// Absolute priority: the queue's base plus the job's own, -2000 to 2000.
    pub priority: Sourced<i32>,
    /// CPU in thousandths of a core.
    pub cpu_millis: Sourced<u64>,
    /// Host memory in bytes; 0 reserves none.
    pub memory_bytes: Sourced<u64>,
    /// Number of GPUs.
    pub gpus: Sourced<u32>,
    /// GPU memory in bytes on each GPU; absent: whole idle GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_bytes: Option<Sourced<u64>>,
    /// What the GPUs must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Sourced<GpuRequirements>>,
    /// How far the job keeps others away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<Sourced<Exclusive>>,
    /// Pinned node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Sourced<String>>,
    /// Labels a node must bear, of job and profile together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Sourced<BTreeMap<String, String>>>,
    /// Capability tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Sourced<Vec<String>>>,
    /// Tolerations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Sourced<Vec<Toleration>>>,
    /// Directories that the node must offer, the working directory among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directories: Option<Sourced<Vec<String>>>,
    /// Nodes that it would rather run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<Sourced<Vec<Preference>>>,
    /// How it is laid out, where its queue says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Sourced<Packing>>,
    /// Name of the profile in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Sourced<String>>,
    /// May it be displaced?
    pub preemptible: Sourced<bool>,
    /// What becomes of it then.
    pub on_preemption: Sourced<OnPreemption>,
    /// What becomes of it when its node falls silent.
    pub on_node_lost: Sourced<OnNodeLost>,
    /// Fence, in seconds.
    pub fence_seconds: Sourced<u32>,
    /// How it is fenced.
    pub fence_action: Sourced<FenceAction>,
    /// Seconds between TERM and KILL.
    pub termination_grace_period_seconds: Sourced<u32>,
    /// Wall-clock limit of one attempt, in seconds; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<Sourced<u64>>,
    /// Limit of the wait, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_deadline_seconds: Option<Sourced<u64>>,
    /// Seconds after the end until the job is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<Sourced<u64>>,
    /// Environment that the profile adds, before the job's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Jobs that must end first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
}

impl Effective {
    /// Wall-clock limit of one attempt, in seconds, if there is one.
    pub fn time_limit(&self) -> Option<u64> {
        let limit = self.active_deadline_seconds.as_ref()?.value;
        (limit > 0).then_some(limit)
    }

    /// What is said of an attempt that reached its limit: how much it was, and who to ask for another.
    pub fn limit_words(&self) -> String {
        let Some(limit) = &self.active_deadline_seconds else {
            return "its limit was reached".to_owned();
        };
        let whose = match limit.source {
            Source::Job => "",
            Source::Queue | Source::Directory => ", its queue's",
            Source::DefaultQueue => ", the default queue's",
            Source::Profile => ", its profile's",
            Source::Default => ", as nobody set activeDeadlineSeconds",
        };
        format!("it ran for its limit of {} s{whose}", limit.value)
    }
}

/// A placement decided and recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name of the Node.
    #[schemars(length(max = 253))]
    pub node_name: String,
    /// Boot id of the node when the binding was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub boot_id: Option<String>,
    /// UUIDs of the GPUs, in the order the job sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub gpus: Vec<String>,
    /// Bytes charged on each GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_bytes: Option<u64>,
    /// True when the GPUs are the job's alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole_gpus: bool,
    /// Thousandths of a core charged.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Bytes of host memory charged.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Epoch of the placement leader that decided.
    #[serde(default)]
    pub epoch: u64,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<MicroTime>,
}

/// Where a job could run after a preemption (rules.md section 8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nomination {
    /// Identity of the nomination.
    pub id: String,
    /// Name of the Node.
    pub node_name: String,
    /// UUIDs of the GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub gpus: Vec<String>,
    /// Jobs that must stop for it, each asked once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub victims: Vec<Victim>,
    /// When it lapses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// A job that must stop for another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Victim {
    /// Namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Uid; another job of that name is not meant.
    #[schemars(length(max = 128))]
    pub uid: String,
    /// The attempt that must stop.
    pub attempt: u32,
}

/// The agent's permit to start an attempt (rules.md section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Name of the Node.
    pub node_name: String,
    /// Boot id of the node.
    pub boot_id: String,
    /// The attempt that was claimed.
    pub attempt: u32,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<MicroTime>,
    /// Where the other members of its gang reach this one; only on a member of a gang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
}

/// Where a member of a gang is reached by the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// IP address or host name of the node, as its agent was told or found it.
    #[schemars(length(min = 1, max = 253))]
    pub address: String,
    /// A TCP port that was free on the node when it claimed; the port of rank 0 becomes the gang's master port.
    pub port: u16,
}

/// A request to stop one attempt (rules.md section 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self.attempt != oldSelf.attempt || {'Preempted': 0, 'Drained': 0, 'Suspended': 1, 'TimedOut': 2, 'Cancelled': 3}[self.reason] >= {'Preempted': 0, 'Drained': 0, 'Suspended': 1, 'TimedOut': 2, 'Cancelled': 3}[oldSelf.reason]", "message": "the reason of a stop only rises"}]))]
pub struct Stop {
    /// The attempt this is for.
    pub attempt: u32,
    /// Why; may only rise.
    pub reason: StopReason,
    /// Who asked, such as `controller/timeout`.
    #[schemars(length(max = 256))]
    pub by: String,
    /// When KILL is due; may only come nearer.
    pub deadline: Time,
    /// Words for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
}

/// Why an attempt is stopped, in rising order; Preempted and Drained weigh the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StopReason {
    /// A job of higher priority needs the room.
    Preempted,
    /// The node is emptied.
    Drained,
    /// The job is suspended.
    Suspended,
    /// A time limit was reached.
    TimedOut,
    /// The job is cancelled or deleted.
    Cancelled,
}

/// Proof that no process of an attempt is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The attempt.
    pub attempt: u32,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<MicroTime>,
    /// True when nobody saw how the attempt ended: its host lost power, or its shim was killed. `onNodeLost` says what
    /// follows, and no retry is counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// What an attempt used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Peak GPU memory in bytes, by GPU UUID.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peak_vram_bytes: BTreeMap<String, u64>,
    /// Declared against actual GPU memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "VramVerdict")]
    pub vram_verdict: Option<VramVerdict>,
    /// Mean GPU utilisation in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_utilization_percent: Option<u32>,
    /// CPU time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_millis: Option<u64>,
    /// Peak host memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// Declared against actual GPU memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VramVerdict {
    /// More than half of what was declared, and not more than it.
    Fitting,
    /// Less than half of what was declared.
    Overdeclared,
    /// More than was declared.
    Exceeded,
    /// None was declared.
    Undeclared,
}

/// An acknowledged checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// The attempt that wrote it.
    pub attempt: u32,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<MicroTime>,
}

/// A gang: jobs that start together, each on a node of its own, or not at all (rules.md section 9).
///
/// On the parent it says how far the current generation is; on a member, which member it is and of which generation. A
/// member without it is in no generation: it waits until its gang starts anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GangStatus {
    /// Number of members.
    pub size: u32,
    /// Number of the current or last generation, from 1 up. A gang that starts anew is the next one.
    #[serde(default)]
    pub generation: u32,
    /// Member only: its rank, from 0 up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Addresses of the members in the order of their ranks; with `go`, and not before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    pub hosts: Vec<String>,
    /// Where rank 0 listens for the others; with `go`, and not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<Endpoint>,
    /// Parent only: members that have a node.
    #[serde(default)]
    pub bound: u32,
    /// Parent only: members whose node has claimed them.
    #[serde(default)]
    pub claimed: u32,
    /// Parent only: members that ended with success.
    #[serde(default)]
    pub succeeded: u32,
    /// Parent only: when the first member of this generation was seen claimed; the others have a time from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claiming_since: Option<MicroTime>,
}

/// Tallies of an array (rules.md section 9).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArrayStatus {
    /// Number of members in all.
    #[serde(default)]
    pub total: u32,
    /// The first index that no member was made for yet.
    #[serde(default)]
    pub next_index: u32,
    /// Members that exist and have not ended.
    #[serde(default)]
    pub active: u32,
    /// Members that ended with success and are tallied.
    #[serde(default)]
    pub succeeded: u32,
    /// Members that ended otherwise and are tallied.
    #[serde(default)]
    pub failed: u32,
    /// Indices tallied, as ranges such as `0-4,7`; base64 of a bitmap with the prefix `b:` once there are too many ranges.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub finished: String,
    /// Indices of failed members, in the same form.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed_indices: String,
}

/// Why a job waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Class of the reason, in CamelCase, such as `InsufficientVram`.
    #[schemars(length(max = 64), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// The reason with numbers, as of the time the class last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub message: Option<String>,
    /// Since when nodes have kept it waiting, or others that need the same; not set while its queue does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// What is held for the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,
}

/// Slots held for a waiting job (rules.md section 7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// Name of the Node.
    pub node_name: String,
    /// UUIDs of the GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub gpus: Vec<String>,
    /// Latest start that is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_later_than: Option<Time>,
}

/// An ended attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// Number.
    pub attempt: u32,
    /// Name of the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// When its process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,
    /// When its process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_time: Option<MicroTime>,
    /// Exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it was stopped, requeued or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub reason: Option<String>,
}

pub(crate) fn conditions_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    // The types of k8s-openapi carry schemas that are not structural for lists of conditions; the list is keyed by type.
    let _ = generator;
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0}
            }
        }
    })
}
