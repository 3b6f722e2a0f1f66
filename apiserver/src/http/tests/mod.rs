//! The request path over the in-memory store: requests in, answers out, as a client sees them.

mod collector;
mod conflicts;
mod definitions;
mod errors;
mod events;
mod lists;
mod namespaces;
mod patches;
mod refusals;
mod watches;
mod writes;

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::cache::{CacheOptions, Clock};
use crate::registry::{Registry, RegistryOptions};
use crate::store::{MemoryStore, Store};

pub(super) const JOBS: &str = "/apis/example.com/v1/namespaces/default/widgets";
pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const JSON_PATCH: &str = "application/json-patch+json";
pub(super) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Time as tokio's paused clock has it.
pub(super) fn clock() -> Clock {
    let start = tokio::time::Instant::now();
    let epoch: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Arc::new(move || epoch + jiff::SignedDuration::try_from(start.elapsed()).unwrap())
}

/// A definition with everything that a kind can have.
pub(super) fn widget_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.color"}, {"jsonPath": ".status.phase"}],
                "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "color": {"type": "string", "enum": ["red", "green", "blue"]},
                        "size": {"type": "integer", "minimum": 1, "default": 1},
                        "replicas": {"type": "integer"},
                        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    }},
                    "status": {"type": "object", "properties": {
                        "phase": {"type": "string"}, "replicas": {"type": "integer"}, "selector": {"type": "string"},
                    }},
                }}},
            }],
        },
    })
}

/// A cluster-scoped kind without status subresource.
pub(super) fn gadget_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "gadgets", "kind": "Gadget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    })
}

pub(super) fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"color": "red"}})
}

/// A server over the in-memory store.
pub(super) struct Api {
    pub(super) registry: Arc<Registry>,
    pub(super) store: Arc<dyn Store>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: Value,
    pub(super) text: String,
    pub(super) headers: http::HeaderMap,
}

impl Answer {
    pub(super) fn rv(&self) -> u64 {
        self.body["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.headers
            .get_all("warning")
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect()
    }

    #[track_caller]
    pub(super) fn ok(self) -> Self {
        assert!(self.code < 300, "{} {}", self.code, self.text);
        self
    }
}

impl Api {
    /// With the widget definition.
    pub(super) async fn new() -> Self {
        let api = Self::bare().await;
        api.post(CRDS, widget_definition()).await.ok();
        api
    }

    pub(super) async fn bare() -> Self {
        Self::over(Arc::new(MemoryStore::new()), Vec::new()).await
    }

    pub(super) async fn over(store: Arc<dyn Store>, definitions: Vec<String>) -> Self {
        let clock = clock();
        let cache = CacheOptions::new(Arc::clone(&clock));
        let options = RegistryOptions {
            clock,
            seed: Some(1),
            definitions,
            cache,
        };
        Self {
            registry: Registry::open(Arc::clone(&store), options).await.unwrap(),
            store,
        }
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        super::api::handle(
            Arc::clone(&self.registry),
            request.body(body.into()).unwrap(),
        )
        .await
    }

    pub(super) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let response = self.send(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status.as_u16(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&bytes).into_owned(),
            headers: parts.headers,
        }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], Body::empty()).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(
            "POST",
            path,
            &[
                ("content-type", "application/json"),
                ("user-agent", "test/1"),
            ],
            body.to_string(),
        )
        .await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, &[("user-agent", "test/1")], body.to_string())
            .await
    }

    pub(super) async fn patch(&self, path: &str, form: &str, body: Value) -> Answer {
        self.call(
            "PATCH",
            path,
            &[("content-type", form), ("user-agent", "test/1")],
            body.to_string(),
        )
        .await
    }

    pub(super) async fn delete(&self, path: &str, body: Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.call("DELETE", path, &[], body).await
    }

    pub(super) async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, "application/json").await
    }

    pub(super) async fn watch_as(&self, path: &str, accept: &str) -> Lines {
        let response = self
            .send("GET", path, &[("accept", accept)], Body::empty())
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        Lines {
            stream: response.into_body().into_data_stream(),
            rest: Vec::new(),
        }
    }

    /// Lets the upkeep work until an object is gone or `what` holds.
    pub(super) async fn until(&self, what: impl AsyncFn() -> bool) {
        for _ in 0..200 {
            if what().await {
                return;
            }
            // The clock is paused: this only lets the others run.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("it never came to be");
    }

    pub(super) async fn until_gone(&self, path: &str) {
        self.until(async || self.get(path).await.code == 404).await;
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    stream: axum::body::BodyDataStream,
    rest: Vec<u8>,
}

impl Lines {
    /// The next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let Some(chunk) = self.stream.next().await else {
                assert!(self.rest.is_empty(), "the stream ended within a line");
                return None;
            };
            self.rest.extend_from_slice(&chunk.unwrap());
        }
    }

    /// Type and name of the next event.
    pub(super) async fn short(&mut self) -> String {
        let event = self.next().await.expect("another event");
        let object = &event["object"];
        let name = object["metadata"]["name"]
            .as_str()
            .or(object["reason"].as_str())
            .unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }

    /// Nothing comes within a second.
    pub(super) async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(std::time::Duration::from_secs(1), self.next())
            .await
            .is_err()
    }
}
