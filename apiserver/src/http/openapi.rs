//! OpenAPI v3: one document a group-version, made when somebody asks for it and kept until its kinds change.
//!
//! kubectl reads here whether the server validates fields itself (the `patch` operations), which patch types a kind
//! takes, and what `kubectl explain` prints. A change of one definition touches the document of its group-version alone.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::attributes::query_value;
use super::discovery::{etag_of, hash_of, is_current};
use super::negotiate::{Want, negotiate};
use super::openapi_meta::{META, OBJECT_META, meta_schemas};
use super::status::page_not_found;
use crate::registry::kinds::{Kinds, ServedKind};

/// The documents of one snapshot of kinds.
pub struct OpenApi {
    documents: BTreeMap<String, Arc<Document>>,
    index: Bytes,
    etag: HeaderValue,
}

struct Document {
    hash: String,
    kinds: Vec<Arc<ServedKind>>,
    body: OnceLock<Bytes>,
}

impl Document {
    fn body(&self) -> &Bytes {
        self.body
            .get_or_init(|| document(&self.kinds).to_string().into())
    }
}

fn base_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

impl OpenApi {
    /// The documents of a snapshot; those whose kinds did not change are taken over.
    pub fn new(kinds: &Kinds, old: Option<&Self>) -> Self {
        let mut documents = BTreeMap::new();
        for (group, versions) in kinds.groups() {
            for version in &versions.versions {
                let path = base_path(group, &version.version);
                let identity: Vec<String> = version
                    .kinds
                    .values()
                    .map(|kind| format!("{}:{}:{}", kind.plural, kind.kind, kind.fingerprint))
                    .collect();
                let identity = format!(
                    "{} {path} {}",
                    env!("CARGO_PKG_VERSION"),
                    identity.join(" ")
                );
                let hash = hash_of(identity.as_bytes());
                let kept = old
                    .and_then(|old| old.documents.get(&path))
                    .filter(|document| document.hash == hash);
                let document = kept.cloned().unwrap_or_else(|| {
                    Arc::new(Document {
                        hash,
                        kinds: version.kinds.values().cloned().collect(),
                        body: OnceLock::new(),
                    })
                });
                documents.insert(path, document);
            }
        }
        let paths: Map<String, Value> = documents
            .iter()
            .map(|(path, document)| {
                (
                    path.clone(),
                    json!({"serverRelativeURL": url_of(path, document)}),
                )
            })
            .collect();
        let index = Bytes::from(json!({ "paths": paths }).to_string());
        Self {
            documents,
            etag: etag_of(&index),
            index,
        }
    }

    /// Answers `/openapi/v3` and what lies below.
    pub fn respond(&self, path: &str, headers: &HeaderMap, query: Option<&str>) -> Response {
        if let Err(status) = negotiate(headers, Want::Document) {
            return status.into_response();
        }
        let below = path
            .strip_prefix("/openapi/v3")
            .unwrap_or("")
            .trim_matches('/');
        if below.is_empty() {
            return send(headers, &self.etag, self.index.clone(), false);
        }
        let Some(document) = self.documents.get(below) else {
            return page_not_found();
        };
        let hash = query_value(query, "hash").filter(|hash| !hash.is_empty());
        if hash.as_ref().is_some_and(|hash| *hash != document.hash) {
            let url = url_of(below, document);
            return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, url)]).into_response();
        }
        let body = document.body().clone();
        let etag = etag_of(document.hash.as_bytes());
        send(headers, &etag, body, hash.is_some())
    }
}

fn url_of(path: &str, document: &Document) -> String {
    format!("/openapi/v3/{path}?hash={}", document.hash)
}

/// A year from now is what "for ever" means in HTTP; the date is fixed, because the URL changes with the content.
fn send(headers: &HeaderMap, etag: &HeaderValue, body: Bytes, is_immutable: bool) -> Response {
    let caching = if is_immutable {
        "public, immutable, max-age=31536000"
    } else {
        "no-cache, private"
    };
    let common = [
        (header::ETAG, etag.clone()),
        (header::VARY, HeaderValue::from_static("Accept")),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
    ];
    if is_current(headers, etag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let media = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )];
    (StatusCode::OK, common, media, body).into_response()
}

/// `dev.gctl.v1.Job`: the group reversed, as upstream names schemas of definitions.
fn schema_name(kind: &ServedKind, name: &str) -> String {
    let group = if kind.group.is_empty() {
        "io.k8s.api.core".to_owned()
    } else {
        kind.group.rsplit('.').collect::<Vec<_>>().join(".")
    };
    format!("{group}.{}.{name}", kind.version)
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn gvk(kind: &ServedKind, name: &str) -> Value {
    json!({"group": &*kind.group, "version": &*kind.version, "kind": name})
}

fn document(kinds: &[Arc<ServedKind>]) -> Value {
    let mut paths = Map::new();
    let mut schemas = meta_schemas();
    for kind in kinds {
        add_paths(kind, &mut paths);
        schemas.insert(schema_name(kind, &kind.kind), object_schema(kind));
        schemas.insert(schema_name(kind, &kind.list_kind), list_schema(kind));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "gctl", "version": "v1.32.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The kind's own schema with the three fields that every object has.
fn object_schema(kind: &ServedKind) -> Value {
    let mut schema = match &*kind.open_api {
        Value::Object(schema) => schema.clone(),
        _ => Map::new(),
    };
    schema.insert("type".to_owned(), "object".into());
    let preserves = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if preserves {
        // Clients must not complain about fields that the server keeps, so no property is published.
        schema.retain(|key, _| {
            matches!(
                key.as_str(),
                "type" | "description" | "x-kubernetes-preserve-unknown-fields"
            )
        });
    } else if let Value::Object(properties) =
        schema.entry("properties").or_insert_with(|| json!({}))
    {
        properties.insert(
            "apiVersion".to_owned(),
            json!({"type": "string", "description": API_VERSION}),
        );
        properties.insert(
            "kind".to_owned(),
            json!({"type": "string", "description": KIND}),
        );
        properties.insert(
            "metadata".to_owned(),
            json!({"description": "Standard object's metadata.", "default": {}, "allOf": [reference(OBJECT_META)]}),
        );
    }
    if !kind.selectable.is_empty() && kind.builtin.is_none() {
        let fields: Vec<Value> = kind
            .selectable
            .iter()
            .map(|field| json!({"fieldPath": &*field.label}))
            .collect();
        schema.insert("x-kubernetes-selectable-fields".to_owned(), fields.into());
    }
    schema.insert(
        "x-kubernetes-group-version-kind".to_owned(),
        json!([gvk(kind, &kind.kind)]),
    );
    Value::Object(schema)
}

const API_VERSION: &str =
    "APIVersion defines the versioned schema of this representation of an object.";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Cannot be updated. In CamelCase.";

fn list_schema(kind: &ServedKind) -> Value {
    json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "metadata": {"description": "Standard list metadata.", "allOf": [reference(&format!("{META}.ListMeta"))]},
            "items": {
                "type": "array",
                "description": format!("List of {}.", kind.plural),
                "items": reference(&schema_name(kind, &kind.kind)),
            },
        },
        "x-kubernetes-group-version-kind": [gvk(kind, &kind.list_kind)],
    })
}

fn query_parameter(name: &str, schema_type: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "query", "description": description,
        "schema": {"type": schema_type, "uniqueItems": true},
    })
}

fn write_parameters() -> Vec<Value> {
    vec![
        query_parameter(
            "dryRun",
            "string",
            "All: process the request without storing anything.",
        ),
        query_parameter(
            "fieldManager",
            "string",
            "The name under which changed fields are recorded.",
        ),
        query_parameter(
            "fieldValidation",
            "string",
            "What to do about unknown or duplicate fields: Ignore, Warn or Strict.",
        ),
    ]
}

fn list_parameters() -> Vec<Value> {
    vec![
        query_parameter(
            "allowWatchBookmarks",
            "boolean",
            "Whether a watch may send bookmarks.",
        ),
        query_parameter("continue", "string", "The token of the next page."),
        query_parameter(
            "fieldSelector",
            "string",
            "Restricts the objects by their fields.",
        ),
        query_parameter(
            "labelSelector",
            "string",
            "Restricts the objects by their labels.",
        ),
        query_parameter(
            "limit",
            "integer",
            "The largest number of objects to return.",
        ),
        query_parameter("resourceVersion", "string", "Which state to read."),
        query_parameter(
            "resourceVersionMatch",
            "string",
            "How resourceVersion is applied to lists.",
        ),
        query_parameter(
            "sendInitialEvents",
            "boolean",
            "Whether a watch begins with the current objects.",
        ),
        query_parameter("timeoutSeconds", "integer", "How long a watch lasts."),
        query_parameter("watch", "boolean", "Watch instead of list."),
    ]
}

struct Operation<'a> {
    kind: &'a ServedKind,
    action: &'a str,
    scope: &'a str,
    parameters: Vec<Value>,
    /// Media types of the body, when there is one.
    takes: &'a [&'a str],
    answers: Value,
}

impl Operation<'_> {
    fn to_value(&self) -> Value {
        let kind = self.kind;
        let id = format!(
            "{}{}{}{}",
            self.action,
            capital(&kind.group),
            capital(&kind.version),
            self.scope
        );
        let body_schema = match self.action {
            "patch" => reference(&format!("{META}.Patch")),
            "delete" | "deletecollection" => reference(&format!("{META}.DeleteOptions")),
            _ => reference(&schema_name(kind, &kind.kind)),
        };
        let content = |media: &[&str], schema: &Value| -> Value {
            media
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": schema})))
                .collect::<Map<_, _>>()
                .into()
        };
        let mut operation = json!({
            "description": format!("{} {}", self.action, kind.kind),
            "operationId": id,
            "tags": [base_path(&kind.group, &kind.version).replace('/', "_")],
            "parameters": self.parameters,
            "responses": {
                "200": {"description": "OK", "content": content(&["application/json", "application/yaml"], &self.answers)},
                "401": {"description": "Unauthorized"},
            },
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": gvk(kind, &kind.kind),
        });
        if !self.takes.is_empty() {
            operation["requestBody"] = json!({
                "required": self.action != "delete" && self.action != "deletecollection",
                "content": content(self.takes, &body_schema),
            });
        }
        operation
    }
}

fn capital(text: &str) -> String {
    text.split(['.', '-']).fold(String::new(), |mut out, word| {
        let mut letters = word.chars();
        out.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        out.push_str(letters.as_str());
        out
    })
}

const BODY: &[&str] = &["application/json", "application/yaml"];

/// The patch types of a kind. Kinds from definitions have no merge keys, so they take no strategic merge patch.
pub fn patch_types(kind: &ServedKind) -> &'static [&'static str] {
    if kind.builtin.is_some() {
        &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ]
    } else {
        &[
            "application/json-patch+json",
            "application/merge-patch+json",
        ]
    }
}

fn add_paths(kind: &ServedKind, paths: &mut Map<String, Value>) {
    let base = format!("/{}", base_path(&kind.group, &kind.version));
    let (collection, scope) = if kind.is_namespaced() {
        (
            format!("{base}/namespaces/{{namespace}}/{}", kind.plural),
            format!("Namespaced{}", kind.kind),
        )
    } else {
        (format!("{base}/{}", kind.plural), kind.kind.to_string())
    };
    let one = reference(&schema_name(kind, &kind.kind));
    let many = reference(&schema_name(kind, &kind.list_kind));
    let status = reference(&format!("{META}.Status"));
    let operation =
        |action: &str, scope: &str, parameters: Vec<Value>, takes: &[&str], answers: &Value| {
            let operation = Operation {
                kind,
                action,
                scope,
                parameters,
                takes,
                answers: answers.clone(),
            };
            operation.to_value()
        };
    let mut place = Vec::new();
    if kind.is_namespaced() {
        place.push(path_parameter("namespace", "The namespace of the object."));
        let path = format!("{base}/{}", kind.plural);
        let list = operation(
            "list",
            &format!("{}ForAllNamespaces", kind.kind),
            list_parameters(),
            &[],
            &many,
        );
        paths.insert(path, json!({ "get": list }));
    }
    paths.insert(
        collection.clone(),
        json!({
            "parameters": place,
            "get": operation("list", &scope, list_parameters(), &[], &many),
            "post": operation("post", &scope, write_parameters(), BODY, &one),
            "delete": operation("deletecollection", &scope, list_parameters(), BODY, &status),
        }),
    );
    place.insert(0, path_parameter("name", "The name of the object."));
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "parameters": place,
            "get": operation("get", &scope, Vec::new(), &[], &one),
            "put": operation("put", &scope, write_parameters(), BODY, &one),
            "patch": operation("patch", &scope, write_parameters(), patch_types(kind), &one),
            "delete": operation("delete", &scope, Vec::new(), BODY, &status),
        }),
    );
    if kind.subresources.status {
        let scope = format!("{scope}Status");
        paths.insert(
            format!("{collection}/{{name}}/status"),
            json!({
                "parameters": place,
                "get": operation("get", &scope, Vec::new(), &[], &one),
                "put": operation("put", &scope, write_parameters(), BODY, &one),
                "patch": operation("patch", &scope, write_parameters(), patch_types(kind), &one),
            }),
        );
    }
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true},
    })
}
