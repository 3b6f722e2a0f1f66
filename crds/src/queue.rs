//! `Queue`: what others call a project: base priority, defaults and floors for its jobs, weight, quota, limits.

#![expect(
    clippy::duplicated_attributes,
    reason = "printer columns repeat the name of their type"
)]

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::{OnNodeLost, OnPreemption, Resources};
use crate::quantity::Quantity;

/// What others call a project: base priority, defaults for its jobs, weight, quota, limits.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gctl.dev",
    version = "v1",
    kind = "Queue",
    plural = "queues",
    status = "QueueStatus",
    shortname = "gq",
    category = "gctl",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(
        name = "Nudge",
        type_ = "integer",
        description = "Added to the priority at runtime",
        json_path = ".spec.nudge"
    ),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"),
    printcolumn(name = "Gpus", type_ = "integer", json_path = ".spec.quota.gpus"),
    printcolumn(
        name = "Used",
        type_ = "integer",
        description = "GPU-seconds used lately, older use counting less",
        json_path = ".status.usage.gpuSeconds"
    ),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// Base priority of the queue's jobs. -1000 to 1000. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: Option<i32>,
    /// Added to `priority`, by `gctl nudge queue/NAME`. It stands beside it so that a file with the queue's `priority` can be applied
    /// again, and changed, without undoing a nudge. -2000 to 2000. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2000, max = 2000))]
    pub nudge: Option<i32>,
    /// Directories that the queue owns. A job that names no queue, or one that does not exist, belongs to the queue with the
    /// deepest directory around its `workingDir`, unless two own that. Absolute, other than `/`, without `.` and `..`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096)), extend("x-kubernetes-list-type" = "set", "x-kubernetes-validations" = [{"rule": "self.all(d, d.matches('^(/+[^/]+)+/*$') && !d.matches('/[.][.]?(/|$)'))", "message": "give absolute directories other than /, without . and .."}]))]
    pub directories: Vec<String>,
    /// Share of the fleet relative to other queues. 1 to 1000. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<u32>,
    /// True keeps the queue's jobs from being placed. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// What the queue owns: its jobs may hold so much at once, and more only as far as `borrowing` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QueueQuota>,
    /// How much above its quota the queue's jobs may hold of what other queues own and leave idle; an amount that is not named is
    /// not limited (`{}` borrows all that is idle). What is borrowed is taken back, also from jobs that are not preemptible by
    /// priority, once its owner needs it. Default: nothing is borrowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowing: Option<QueueQuota>,
    /// Seconds that a job of this queue runs before another may displace it. 0 to 604800. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 604_800))]
    pub min_runtime_seconds: Option<u64>,
    /// How the queue's jobs are laid out: `Pack` fills nodes and GPUs that are in use first and keeps large gaps open, `Spread`
    /// takes the emptiest. Default: Pack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Packing")]
    pub packing: Option<Packing>,
    /// Values for jobs that say nothing. Those of the queue `default` hold, value by value, for the jobs of every other queue too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<JobDefaults>,
    /// Values that no job of this queue may go below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floors: Option<JobFloors>,
}

impl QueueSpec {
    /// Base priority in force: `priority` and `nudge` together, -1000 to 1000. None where neither is said.
    pub fn base_priority(&self) -> Option<i32> {
        let said = self.priority.or(self.nudge).is_some();
        let sum = self
            .priority
            .unwrap_or(0)
            .saturating_add(self.nudge.unwrap_or(0));
        said.then(|| sum.clamp(-1000, 1000))
    }
}

/// How a queue's jobs are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Packing {
    /// Nodes and GPUs that are in use are filled first.
    #[default]
    Pack,
    /// The emptiest are taken first.
    Spread,
}

/// Amounts that a queue's jobs may hold at once; what is not named is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueQuota {
    /// GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// GPU memory over all GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Quantity>,
    /// CPU cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Running jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_jobs: Option<u32>,
}

/// Values for jobs that say nothing; shared by Queue and Profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobDefaults {
    /// What a job needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Priority relative to the queue's base. -1000 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: Option<i32>,
    /// May its jobs be displaced?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
    /// What becomes of them then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnPreemption")]
    pub on_preemption: Option<OnPreemption>,
    /// What becomes of them when their node falls silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnNodeLost")]
    pub on_node_lost: Option<OnNodeLost>,
    /// Wall-clock limit of one attempt, in seconds; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 315_360_000))]
    pub active_deadline_seconds: Option<u64>,
    /// Limit of the wait, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub pending_deadline_seconds: Option<u64>,
    /// Seconds between TERM and KILL. 0 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86_400))]
    pub termination_grace_period_seconds: Option<u32>,
    /// Seconds after the end until a job is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 315_360_000))]
    pub ttl_seconds_after_finished: Option<u64>,
}

/// Values that no job of a queue may go below.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobFloors {
    /// Least GPU memory on each GPU, for GPU jobs that declare any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Quantity>,
    /// Least priority relative to the queue's base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: Option<i32>,
}

/// The name of the queue that is meant by a name as people type it: case does not matter, and `_` is `-`. Queues are named in
/// small letters without `_`, so no two of them can be meant by one name.
pub fn folded(name: &str) -> Cow<'_, str> {
    if name
        .bytes()
        .any(|byte| byte == b'_' || byte.is_ascii_uppercase())
    {
        Cow::Owned(name.to_ascii_lowercase().replace('_', "-"))
    } else {
        Cow::Borrowed(name)
    }
}

/// What was observed of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Generation of the spec that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the queue's jobs have used, for the fair share. Written by placement, at most once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<QueueUsage>,
}

/// What a queue's jobs have used, older use counting less (fair share).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueUsage {
    /// GPU-seconds, decayed with the half-life of the fair share up to `time`; CPU time counts as a small part of a GPU.
    pub gpu_seconds: u64,
    /// When it was so.
    pub time: Time,
}
