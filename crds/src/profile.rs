//! `Profile`: a named bundle of resources and defaults, with optional rules that match commands to it.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::{EnvVar, Toleration};
use crate::queue::JobDefaults;

/// A named bundle of resources and defaults, with optional rules that match commands to it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gctl.dev",
    version = "v1",
    kind = "Profile",
    plural = "profiles",
    shortname = "gp",
    category = "gctl",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Gpus",
        type_ = "integer",
        json_path = ".spec.defaults.resources.gpus"
    ),
    printcolumn(
        name = "Vram",
        type_ = "string",
        json_path = ".spec.defaults.resources.vram"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ProfileSpec {
    /// Values for jobs that name this profile and say nothing themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<JobDefaults>,
    /// Environment variables set before the job's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Labels a node must bear, in addition to the job's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: BTreeMap<String, String>,
    /// Capability tags a node must offer, in addition to the job's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub needs: Vec<String>,
    /// Taints its jobs may ignore, in addition to the job's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Jobs without a profile whose command matches one of these use this profile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<CommandMatch>,
}

/// A rule that matches commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandMatch {
    /// Matched against the command's words joined by spaces; `*` stands for any text.
    #[schemars(length(min = 1, max = 1024))]
    pub glob: String,
}
