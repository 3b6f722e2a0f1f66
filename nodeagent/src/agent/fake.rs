//! A small stand-in for the API server, in one thread, with faults on demand: objects with versions, merge patches,
//! watches that select by node and phase, and log streams.
//!
//! It knows only what the agent uses, and is no measure of how a real server behaves; e2e runs against that.

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
use tokio::sync::mpsc;

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What goes wrong with the next write of a job's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is carried out, and the answer is lost.
    LostAnswer,
    /// It is not carried out, and nothing is known of it.
    LostRequest,
    /// It is refused as if another had been quicker.
    Conflict,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<String, Value>,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
    history: Vec<(u64, Bytes)>,
    /// Keeps watch events back.
    frozen: Option<Vec<Bytes>>,
    faults: VecDeque<Fault>,
    logs: BTreeMap<String, (Vec<u8>, bool)>,
    logs_fail: u32,
    requests: Vec<String>,
}

/// The stand-in. Clones share their state.
#[derive(Clone, Default)]
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
}

const NODE: &str = "n1";

impl Fake {
    pub(super) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    pub(super) fn put(&self, path: &str, object: impl serde::Serialize) {
        let object = serde_json::to_value(object).unwrap();
        self.with(|state| state.put(path, object));
    }

    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        self.with(|state| {
            let mut object = state.objects[path].clone();
            change(&mut object);
            state.put(path, object);
        });
    }

    pub(super) fn delete(&self, path: &str) {
        self.with(|state| {
            let gone = state.objects.remove(path).unwrap();
            state.revision += 1;
            state.tell("DELETED", &gone);
        });
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.with(|state| state.objects.get(path).cloned())
    }

    /// Tells watchers that an object is gone which is not.
    pub(super) fn lie_that_it_is_gone(&self, path: &str) {
        self.with(|state| {
            let object = state.objects[path].clone();
            state.tell("DELETED", &object);
        });
    }

    pub(super) fn fail(&self, faults: &[Fault]) {
        self.with(|state| state.faults.extend(faults));
    }

    pub(super) fn fail_logs(&self, count: u32) {
        self.with(|state| state.logs_fail = count);
    }

    /// Keeps watch events back until `thaw`.
    pub(super) fn freeze_watches(&self) {
        self.with(|state| state.frozen = Some(Vec::new()));
    }

    pub(super) fn thaw_watches(&self) {
        self.with(|state| {
            for line in state.frozen.take().unwrap_or_default() {
                state.history.push((state.revision, line.clone()));
                state.send(&line);
            }
        });
    }

    pub(super) fn break_watches(&self) {
        self.with(|state| state.watchers.clear());
    }

    /// The log of an attempt and whether it is sealed.
    pub(super) fn log(&self, uid: &str, attempt: u32) -> Option<(String, bool)> {
        self.with(|state| {
            let log = state.logs.get(&format!("{uid}-{attempt}"));
            log.map(|(bytes, sealed)| (String::from_utf8(bytes.clone()).unwrap(), *sealed))
        })
    }

    pub(super) fn last_requests(&self) -> Vec<String> {
        self.with(|state| state.requests.iter().rev().take(12).cloned().collect())
    }

    pub(super) fn requests(&self, part: &str) -> usize {
        self.with(|state| {
            state
                .requests
                .iter()
                .filter(|line| line.contains(part))
                .count()
        })
    }
}

fn is_watched(object: &Value) -> bool {
    object["status"]["binding"]["nodeName"] == NODE && object["status"]["outcome"].is_null()
}

impl State {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.revision += 1;
        let before = self.objects.get(path).cloned();
        let known = before
            .as_ref()
            .map(|before| before["metadata"]["uid"].clone());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] =
                known.unwrap_or_else(|| json!(format!("uid-{}", self.revision)));
        }
        object["metadata"]["resourceVersion"] = json!((1_000_000_000 + self.revision).to_string());
        self.objects.insert(path.to_owned(), object.clone());
        if path.contains("/jobs/") {
            match (before.as_ref().is_some_and(is_watched), is_watched(&object)) {
                (false, true) => self.tell("ADDED", &object),
                (true, true) => self.tell("MODIFIED", &object),
                (true, false) => self.tell("DELETED", &object),
                (false, false) => {}
            }
        }
        object
    }

    fn tell(&mut self, event: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": event, "object": object})));
        if let Some(frozen) = &mut self.frozen {
            frozen.push(line);
        } else {
            self.history.push((self.revision, line.clone()));
            self.send(&line);
        }
    }

    fn send(&mut self, line: &Bytes) {
        self.watchers
            .retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    fn read(&mut self, path: &str, query: &str) -> Reply {
        if path.ends_with("/nodes") {
            return self.read_nodes(query);
        }
        if query.contains("watch=true") {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            let from = query
                .split('&')
                .find_map(|part| part.strip_prefix("resourceVersion="));
            let from: u64 = from.and_then(|from| from.parse().ok()).unwrap_or(0);
            for (revision, line) in &self.history {
                if 1_000_000_000 + revision > from {
                    sender.send(line.clone()).unwrap();
                }
            }
            self.watchers.push(sender);
            let lines = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
            let frames = lines.map(|line| Ok(http_body::Frame::data(line)));
            return Response::new(UnsyncBoxBody::new(StreamBody::new(frames)));
        }
        if path.ends_with("/jobs") {
            let items: Vec<&Value> = self
                .objects
                .values()
                .filter(|object| is_watched(object))
                .collect();
            let version = (1_000_000_000 + self.revision).to_string();
            return reply(
                StatusCode::OK,
                &json!({"kind": "JobList", "apiVersion": "gctl.dev/v1",
                    "metadata": {"resourceVersion": version}, "items": items}),
            );
        }
        match self.objects.get(path) {
            Some(object) => reply(StatusCode::OK, object),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    /// Nodes are listed empty and watched in vain: what they ask of an agent is tried against a real server.
    fn read_nodes(&self, query: &str) -> Reply {
        if query.contains("watch=true") {
            let frames = futures::stream::pending();
            return Response::new(UnsyncBoxBody::new(StreamBody::new(frames)));
        }
        let version = (1_000_000_000 + self.revision).to_string();
        reply(
            StatusCode::OK,
            &json!({"kind": "NodeList", "apiVersion": "gctl.dev/v1",
                "metadata": {"resourceVersion": version}, "items": []}),
        )
    }

    fn write(&mut self, method: &Method, path: &str, body: &Value) -> Reply {
        let target = path.strip_suffix("/status");
        let fault = match target {
            Some(target) if target.contains("/jobs/") => self.faults.pop_front(),
            _ => None,
        };
        let lost = || failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        match fault {
            Some(Fault::Conflict) => return failure(StatusCode::CONFLICT, "Conflict"),
            Some(Fault::LostRequest) => return lost(),
            Some(Fault::LostAnswer) => {
                self.carry_out(method, path, target, body);
                return lost();
            }
            None => {}
        }
        self.carry_out(method, path, target, body)
    }

    fn carry_out(
        &mut self,
        method: &Method,
        path: &str,
        target: Option<&str>,
        body: &Value,
    ) -> Reply {
        if *method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap_or_default();
            let made = self.put(&format!("{path}/{name}"), body.clone());
            return reply(StatusCode::CREATED, &made);
        }
        let key = target.unwrap_or(path);
        let Some(mut object) = self.objects.get(key).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        let wanted = &body["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        merge(&mut object, body);
        reply(StatusCode::OK, &self.put(key, object))
    }

    fn append(&mut self, query: &str, body: &[u8]) -> Reply {
        if self.logs_fail > 0 {
            self.logs_fail -= 1;
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        let field = |name: &str| {
            let mut parts = query.split('&').filter_map(|part| part.split_once('='));
            parts.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let key = format!("{}-{}", field("uid").unwrap(), field("attempt").unwrap());
        let offset: usize = field("offset").unwrap().parse().unwrap();
        let (log, sealed) = self.logs.entry(key).or_default();
        if offset <= log.len() {
            let known = log.len() - offset;
            log.extend_from_slice(body.get(known..).unwrap_or_default());
            *sealed |= field("final").is_some();
        }
        let answer = json!({"kind": "LogPosition", "apiVersion": "streams.gctl.dev/v1",
            "size": log.len(), "synced": log.len(), "final": sealed});
        reply(StatusCode::OK, &answer)
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

fn reply(code: StatusCode, body: &Value) -> Reply {
    let mut reply = Response::new(UnsyncBoxBody::new(Full::new(Bytes::from(body.to_string()))));
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
            let path = parts.uri.path().to_owned();
            let query = parts.uri.query().unwrap_or_default().to_owned();
            let body = body.collect().await.unwrap().to_bytes();
            // A moment passes, as on a real wire.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            Ok(fake.with(|state| {
                state
                    .requests
                    .push(format!("{} {path}?{query}", parts.method));
                if parts.method == Method::GET {
                    state.read(&path, &query)
                } else if path.ends_with("/log") {
                    state.append(&query, &body)
                } else {
                    let body = serde_json::from_slice(&body).unwrap_or_default();
                    state.write(&parts.method, &path, &body)
                }
            }))
        })
    }
}
