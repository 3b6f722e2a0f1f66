//! A small stand-in for the API server: lists, watches and writes over one map, in one thread, with faults on demand.
//!
//! It knows only what the shell uses, and is no measure of how a real server behaves; e2e runs against that.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What goes wrong with the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is carried out, and the answer is lost.
    LostAnswer,
    /// It is refused as if another had been quicker.
    Conflict,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    kind: String,
    namespace: String,
    name: String,
}

struct Watcher {
    kind: String,
    sender: mpsc::UnboundedSender<Bytes>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Address, Value>,
    history: Vec<(String, u64, Value)>,
    watchers: Vec<Watcher>,
    faults: VecDeque<Fault>,
    /// Verb and path of each request.
    requests: Vec<String>,
    writing: usize,
    most_writing: usize,
    /// Refuses to list and watch.
    down: bool,
    /// Holds writes back until it has permits.
    gate: Option<Arc<Semaphore>>,
}

/// The stand-in. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    /// Puts an object as some other client would.
    pub(crate) fn put(&self, kind: &str, object: impl serde::Serialize) {
        let object = serde_json::to_value(object).unwrap();
        self.with(|state| state.put(kind, object));
    }

    /// Changes an object as some other client would.
    pub(crate) fn change(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.with(|state| {
            let key = state.key(kind, name);
            let mut object = state.objects[&key].clone();
            change(&mut object);
            state.put(kind, object);
        });
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.with(|state| {
            let key = state
                .objects
                .keys()
                .find(|key| key.kind == kind && key.name == name);
            key.map(|key| state.objects[key].clone())
        })
    }

    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        self.with(|state| {
            let of_kind = state.objects.keys().filter(|key| key.kind == kind);
            of_kind.map(|key| key.name.clone()).collect()
        })
    }

    /// Requests so far that contain a text.
    pub(crate) fn requests(&self, part: &str) -> Vec<String> {
        self.with(|state| {
            let matching = state
                .requests
                .iter()
                .filter(|request| request.contains(part));
            matching.cloned().collect()
        })
    }

    pub(crate) fn fail(&self, faults: &[Fault]) {
        self.with(|state| state.faults.extend(faults));
    }

    /// Ends all watches; `forget` makes their resumption impossible.
    pub(crate) fn break_watches(&self, forget: bool) {
        self.with(|state| {
            state.watchers.clear();
            if forget {
                state.history.clear();
            }
        });
    }

    /// Ends all watches, and refuses new ones until it is up again.
    pub(crate) fn go_down(&self) {
        self.with(|state| {
            state.down = true;
            state.watchers.clear();
        });
    }

    pub(crate) fn come_up(&self) {
        self.with(|state| state.down = false);
    }

    /// Holds writes back until permits are added.
    pub(crate) fn gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.with(|state| state.gate = Some(gate.clone()));
        gate
    }

    pub(crate) fn most_writing(&self) -> usize {
        self.with(|state| state.most_writing)
    }
}

impl State {
    fn key(&self, kind: &str, name: &str) -> Address {
        let mut keys = self.objects.keys();
        let found = keys.find(|key| key.kind == kind && key.name == name);
        found.expect("the object exists").clone()
    }

    fn put(&mut self, kind: &str, mut object: Value) -> Value {
        self.revision += 1;
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
        let key = Address {
            kind: kind.to_owned(),
            namespace: text("namespace"),
            name: text("name"),
        };
        let before = self.objects.get(&key).cloned();
        let uid = before.as_ref().map_or_else(
            || json!(format!("uid-{}", self.revision)),
            |before| before["metadata"]["uid"].clone(),
        );
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!((1_000_000_000 + self.revision).to_string());
        let spec_changed = before
            .as_ref()
            .is_some_and(|before| before["spec"] != object["spec"]);
        let generation = before
            .as_ref()
            .and_then(|before| before["metadata"]["generation"].as_i64());
        object["metadata"]["generation"] = json!(generation.unwrap_or(1) + i64::from(spec_changed));
        let finalizers = object["metadata"]["finalizers"].as_array();
        let held = finalizers.is_some_and(|finalizers| !finalizers.is_empty());
        let deleted = !object["metadata"]["deletionTimestamp"].is_null() && !held;
        let event = match (&before, deleted) {
            (_, true) => "DELETED",
            (None, _) => "ADDED",
            _ => "MODIFIED",
        };
        if deleted {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object.clone());
        }
        let event = json!({"type": event, "object": object});
        self.history
            .push((kind.to_owned(), self.revision, event.clone()));
        let line = Bytes::from(format!("{event}\n"));
        self.watchers
            .retain(|watcher| watcher.kind != kind || watcher.sender.send(line.clone()).is_ok());
        object
    }

    fn list(&self, kind: &str) -> Reply {
        let of_kind = self.objects.iter().filter(|(key, _)| key.kind == kind);
        let items: Vec<&Value> = of_kind.map(|(_, object)| object).collect();
        let revision = (1_000_000_000 + self.revision).to_string();
        reply(
            StatusCode::OK,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
        )
    }

    fn watch(&mut self, kind: &str, from: u64) -> Reply {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let known = self
            .history
            .first()
            .is_none_or(|(_, first, _)| *first <= from + 1);
        if self.revision > from && (!known || self.history.is_empty()) {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
                "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}});
            let _ = sender.send(Bytes::from(format!("{gone}\n")));
        } else {
            for (of, revision, event) in &self.history {
                if of == kind && *revision > from {
                    let _ = sender.send(Bytes::from(format!("{event}\n")));
                }
            }
            let kind = kind.to_owned();
            self.watchers.push(Watcher { kind, sender });
        }
        let lines = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        let frames = lines.map(|line| Ok(http_body::Frame::data(line)));
        Response::new(UnsyncBoxBody::new(StreamBody::new(frames)))
    }

    fn write(&mut self, method: &Method, path: &Path, body: &Value) -> Reply {
        let fault = self.faults.pop_front();
        if fault == Some(Fault::Conflict) {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        let reply = self.carry_out(method, path, body);
        if fault == Some(Fault::LostAnswer) {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        reply
    }

    fn carry_out(&mut self, method: &Method, path: &Path, body: &Value) -> Reply {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let key = Address {
            kind: path.kind.clone(),
            namespace: path.namespace.clone(),
            name: path.name.clone().unwrap_or_else(|| name.to_owned()),
        };
        let known = self.objects.get(&key).cloned();
        match (method, known) {
            (&Method::POST, Some(_)) => failure(StatusCode::CONFLICT, "AlreadyExists"),
            (&Method::POST, None) => {
                let mut object = body.clone();
                object["metadata"]["namespace"] = json!(path.namespace);
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("status");
                }
                reply(StatusCode::CREATED, &self.put(&path.kind, object))
            }
            (_, None) => failure(StatusCode::NOT_FOUND, "NotFound"),
            (&Method::DELETE, Some(mut object)) => {
                let wanted = &body["preconditions"]["resourceVersion"];
                if *wanted != object["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                reply(StatusCode::OK, &self.put(&path.kind, object))
            }
            (_, Some(mut object)) => {
                let wanted = &body["metadata"]["resourceVersion"];
                let is_data = path.kind == "configmaps";
                if !is_data && *wanted != object["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                let before = object.clone();
                let part = match path.is_status {
                    true => "status",
                    false if is_data => "data",
                    false => "metadata",
                };
                merge(&mut object[part], &body[part]);
                if object == before {
                    return reply(StatusCode::OK, &object);
                }
                reply(StatusCode::OK, &self.put(&path.kind, object))
            }
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

struct Path {
    kind: String,
    namespace: String,
    name: Option<String>,
    is_status: bool,
}

fn parse(path: &str) -> Path {
    // /apis/GROUP/VERSION[/namespaces/NS]/KIND[/NAME[/status]], or /api/VERSION... for the core group
    let start = if path.starts_with("/api/") { 3 } else { 4 };
    let mut parts: VecDeque<&str> = path.split('/').skip(start).collect();
    let mut namespace = String::new();
    if parts.front() == Some(&"namespaces") {
        parts.pop_front();
        namespace = parts.pop_front().unwrap().to_owned();
    }
    Path {
        kind: parts.pop_front().unwrap().to_owned(),
        namespace,
        name: parts.pop_front().map(str::to_owned),
        is_status: parts.pop_front() == Some("status"),
    }
}

fn reply(code: StatusCode, body: &Value) -> Reply {
    let body = Full::new(Bytes::from(body.to_string()));
    let mut reply = Response::new(UnsyncBoxBody::new(body));
    *reply.status_mut() = code;
    reply
}

fn failure(code: StatusCode, reason: &str) -> Reply {
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code.as_u16(), "reason": reason, "message": reason}),
    )
}

impl tower::Service<Request<Body>> for Fake {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let fake = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let path = parse(parts.uri.path());
            let query = parts.uri.query().unwrap_or_default().to_owned();
            let line = format!("{} {}", parts.method, parts.uri.path());
            if parts.method == Method::GET {
                return Ok(fake.with(|state| {
                    state.requests.push(line);
                    let from = query
                        .split('&')
                        .find_map(|p| p.strip_prefix("resourceVersion="));
                    let from = from.and_then(|from| from.parse::<u64>().ok());
                    if state.down {
                        failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
                    } else if query.contains("watch=true") {
                        let from = from.unwrap_or(0).saturating_sub(1_000_000_000);
                        state.watch(&path.kind, from)
                    } else {
                        state.list(&path.kind)
                    }
                }));
            }
            let body = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let gate = fake.with(|state| {
                state.requests.push(line);
                state.writing += 1;
                state.most_writing = state.most_writing.max(state.writing);
                state.gate.clone()
            });
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            Ok(fake.with(|state| {
                state.writing -= 1;
                state.write(&parts.method, &path, &body)
            }))
        })
    }
}
