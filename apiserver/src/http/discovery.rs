//! What the server serves, told to clients: legacy and aggregated discovery, and `/version`.
//!
//! Every document is made from one [`Kinds`] snapshot, so that they cannot contradict each other: a kind that appears
//! in one appears in all, in the same instant.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::negotiate::{Output, Want, aggregated_discovery};
use super::status::page_not_found;
use crate::auth::hex;
use crate::registry::kinds::{Builtin, Kinds, ServedKind};

/// The Kubernetes version whose behaviour is served; some kubectls choose a client by the minor.
const GIT_VERSION: &str = concat!("v1.32.0+gctl", ".", env!("CARGO_PKG_VERSION"));

/// A resource that is no stored kind: reviews are answered, never kept.
struct Review {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
}

const fn review(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Review {
    Review {
        group,
        plural,
        kind,
        namespaced,
    }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

const REVIEWS: &[Review] = &[
    review(
        AUTHENTICATION,
        "selfsubjectreviews",
        "SelfSubjectReview",
        false,
    ),
    review(AUTHENTICATION, "tokenreviews", "TokenReview", false),
    review(
        AUTHORIZATION,
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        true,
    ),
    review(
        AUTHORIZATION,
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        false,
    ),
    review(
        AUTHORIZATION,
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        false,
    ),
    review(
        AUTHORIZATION,
        "subjectaccessreviews",
        "SubjectAccessReview",
        false,
    ),
];

/// A group with its versions, as all documents tell it.
struct GroupDoc {
    name: String,
    versions: Vec<VersionDoc>,
}

struct VersionDoc {
    version: String,
    resources: Vec<ResourceDoc>,
}

struct ResourceDoc {
    plural: String,
    singular: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<&'static str>,
    short_names: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<SubresourceDoc>,
}

struct SubresourceDoc {
    name: &'static str,
    /// Group, version and kind of the answer.
    response: (String, String, String),
    verbs: &'static [&'static str],
}

fn resource_doc(kind: &ServedKind) -> ResourceDoc {
    let own = || {
        (
            kind.group.to_string(),
            kind.version.to_string(),
            kind.kind.to_string(),
        )
    };
    let mut subresources = Vec::new();
    if kind.builtin == Some(Builtin::Namespace) {
        subresources.push(SubresourceDoc {
            name: "finalize",
            response: own(),
            verbs: &["update"],
        });
    }
    if kind.subresources.scale.is_some() {
        subresources.push(SubresourceDoc {
            name: "scale",
            response: (
                "autoscaling".to_owned(),
                "v1".to_owned(),
                "Scale".to_owned(),
            ),
            verbs: &["get", "patch", "update"],
        });
    }
    if kind.subresources.status {
        subresources.push(SubresourceDoc {
            name: "status",
            response: own(),
            verbs: &["get", "patch", "update"],
        });
    }
    ResourceDoc {
        plural: kind.plural.to_string(),
        singular: kind.singular.to_string(),
        kind: kind.kind.to_string(),
        namespaced: kind.is_namespaced(),
        verbs: kind.verbs().to_vec(),
        short_names: kind.short_names.clone(),
        categories: kind.categories.clone(),
        subresources,
    }
}

fn groups(kinds: &Kinds) -> Vec<GroupDoc> {
    let mut groups: Vec<GroupDoc> = kinds
        .groups()
        .map(|(name, group)| GroupDoc {
            name: name.to_string(),
            versions: group
                .versions
                .iter()
                .map(|version| VersionDoc {
                    version: version.version.to_string(),
                    resources: version
                        .kinds
                        .values()
                        .map(|kind| resource_doc(kind))
                        .collect(),
                })
                .collect(),
        })
        .collect();
    for review in REVIEWS {
        let resource = ResourceDoc {
            plural: review.plural.to_owned(),
            singular: review.kind.to_lowercase(),
            kind: review.kind.to_owned(),
            namespaced: review.namespaced,
            verbs: vec!["create"],
            short_names: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
        };
        let index = groups
            .iter()
            .position(|group| group.name == review.group)
            .unwrap_or_else(|| {
                groups.push(GroupDoc {
                    name: review.group.to_owned(),
                    versions: Vec::new(),
                });
                groups.len() - 1
            });
        let versions = &mut groups[index].versions;
        if !versions.iter().any(|version| version.version == "v1") {
            versions.insert(
                0,
                VersionDoc {
                    version: "v1".to_owned(),
                    resources: Vec::new(),
                },
            );
        }
        if let Some(version) = versions.iter_mut().find(|version| version.version == "v1") {
            version.resources.push(resource);
        }
    }
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// All discovery documents of one snapshot.
pub struct Discovery {
    groups: Vec<GroupDoc>,
    /// Aggregated documents by (`/apis`?, `v2beta1`?), with their ETags.
    aggregated: [Aggregated; 4],
}

struct Aggregated {
    body: Bytes,
    etag: HeaderValue,
    media: &'static str,
}

impl Discovery {
    /// Makes the documents.
    pub fn new(kinds: &Kinds) -> Self {
        let groups = groups(kinds);
        let make = |is_apis: bool, is_beta: bool| aggregated(&groups, is_apis, is_beta);
        let aggregated = [
            make(false, false),
            make(false, true),
            make(true, false),
            make(true, true),
        ];
        Self { groups, aggregated }
    }

    /// Answers `/api`, `/apis` and what lies directly below; `None` when the path is no discovery path.
    pub fn respond(
        &self,
        path: &str,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Option<Response> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let document = match parts.as_slice() {
            ["api"] => match aggregated_discovery(headers) {
                Some(version) => {
                    return Some(self.aggregated(false, version == "v2beta1", headers));
                }
                None => api_versions(),
            },
            ["apis"] => match aggregated_discovery(headers) {
                Some(version) => return Some(self.aggregated(true, version == "v2beta1", headers)),
                None => self.api_group_list(),
            },
            ["api", version] => return Some(self.resource_list("", version, headers, query)),
            ["apis", group] => match self
                .groups
                .iter()
                .find(|known| known.name == *group && !group.is_empty())
            {
                Some(group) => {
                    let mut document = api_group(group);
                    document["kind"] = "APIGroup".into();
                    document["apiVersion"] = "v1".into();
                    document
                }
                None => return Some(page_not_found()),
            },
            ["apis", group, version] => {
                return Some(self.resource_list(group, version, headers, query));
            }
            _ => return None,
        };
        Some(send(&document, headers, query))
    }

    fn aggregated(&self, is_apis: bool, is_beta: bool, headers: &HeaderMap) -> Response {
        let document = &self.aggregated[usize::from(is_apis) * 2 + usize::from(is_beta)];
        let common = [
            (header::ETAG, document.etag.clone()),
            (header::VARY, HeaderValue::from_static("Accept")),
            (header::CACHE_CONTROL, HeaderValue::from_static("public")),
        ];
        if is_current(headers, &document.etag) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let media = [(
            header::CONTENT_TYPE,
            HeaderValue::from_static(document.media),
        )];
        (StatusCode::OK, common, media, document.body.clone()).into_response()
    }

    fn api_group_list(&self) -> Value {
        let groups: Vec<Value> = self
            .groups
            .iter()
            .filter(|group| !group.name.is_empty())
            .map(api_group)
            .collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    fn resource_list(
        &self,
        group: &str,
        version: &str,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Response {
        let found = self
            .groups
            .iter()
            .find(|known| known.name == group)
            .and_then(|known| known.versions.iter().find(|known| known.version == version));
        let Some(found) = found else {
            return page_not_found();
        };
        let resources: Vec<Value> = found
            .resources
            .iter()
            .flat_map(|resource| legacy_entries(group, version, resource))
            .collect();
        let document = json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version(group, version),
            "resources": resources,
        });
        send(&document, headers, query)
    }
}

/// Whether the client has this version already.
pub fn is_current(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(etag) = etag.to_str() else {
        return false;
    };
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == etag || tag == "*")
}

/// A strong ETag for these bytes.
pub fn etag_of(bytes: &[u8]) -> HeaderValue {
    let text = format!("\"{}\"", hash_of(bytes));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// A hash for URLs and ETags.
pub fn hash_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..16])
}

fn send(document: &Value, headers: &HeaderMap, query: Option<&str>) -> Response {
    match Output::read(headers, query, Want::Document) {
        Ok(output) => output.respond(StatusCode::OK, document.to_string().into()),
        Err(status) => status.into_response(),
    }
}

fn api_versions() -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

fn api_group(group: &GroupDoc) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| json!({"groupVersion": group_version(&group.name, &version.version), "version": version.version}))
        .collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

fn legacy_entries(group: &str, version: &str, resource: &ResourceDoc) -> Vec<Value> {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if resource.verbs.contains(&"list") {
        let identity = format!("{group}/{version}/{}", resource.plural);
        entry["storageVersionHash"] = hash_of(identity.as_bytes())[..16].into();
    }
    let subresources = resource.subresources.iter().map(|sub| {
        let (sub_group, sub_version, kind) = &sub.response;
        let mut entry = json!({
            "name": format!("{}/{}", resource.plural, sub.name),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
            "verbs": sub.verbs,
        });
        if (sub_group.as_str(), sub_version.as_str()) != (group, version) {
            entry["group"] = sub_group.as_str().into();
            entry["version"] = sub_version.as_str().into();
        }
        entry
    });
    std::iter::once(entry).chain(subresources).collect()
}

fn aggregated(groups: &[GroupDoc], is_apis: bool, is_beta: bool) -> Aggregated {
    let items: Vec<Value> = groups
        .iter()
        .filter(|group| group.name.is_empty() != is_apis)
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        version.resources.iter().map(|resource| aggregated_resource(&group.name, &version.version, resource)).collect();
                    json!({"version": version.version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": group.name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let version = if is_beta { "v2beta1" } else { "v2" };
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let body = Bytes::from(document.to_string());
    Aggregated {
        etag: etag_of(&body),
        body,
        media: if is_beta {
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
        } else {
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        },
    }
}

fn aggregated_resource(group: &str, version: &str, resource: &ResourceDoc) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": gvk(group, version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subresources: Vec<Value> = resource
            .subresources
            .iter()
            .map(|sub| {
                let (group, version, kind) = &sub.response;
                json!({"subresource": sub.name, "responseKind": gvk(group, version, kind), "verbs": sub.verbs})
            })
            .collect();
        entry["subresources"] = subresources.into();
    }
    entry
}

/// The answer to `/version`.
pub fn version(headers: &HeaderMap, query: Option<&str>) -> Response {
    let document = json!({
        "major": "1",
        "minor": "32",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH }),
    });
    send(&document, headers, query)
}

/// The answer to `/`: the paths that a person may want to look at.
pub fn root(kinds: &Kinds, headers: &HeaderMap, query: Option<&str>) -> Response {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in groups(kinds).iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(
            group
                .versions
                .iter()
                .map(|version| format!("/apis/{}/{}", group.name, version.version)),
        );
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    send(&json!({ "paths": paths }), headers, query)
}

/// Keeps what was made from a snapshot until the snapshot changes.
pub struct Cached<T> {
    slot: parking_lot::Mutex<Option<(u64, Arc<T>)>>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self {
            slot: parking_lot::Mutex::new(None),
        }
    }
}

impl<T> Cached<T> {
    /// What belongs to this snapshot; `make` gets what belonged to the one before.
    pub fn get(&self, kinds: &Kinds, make: impl FnOnce(Option<&T>) -> T) -> Arc<T> {
        let mut slot = self.slot.lock();
        match &*slot {
            Some((generation, made)) if *generation == kinds.generation() => Arc::clone(made),
            old => {
                let made = Arc::new(make(old.as_ref().map(|(_, made)| &**made)));
                *slot = Some((kinds.generation(), Arc::clone(&made)));
                made
            }
        }
    }
}
