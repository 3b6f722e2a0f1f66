//! Byte streams of objects over HTTP: `/apis/streams.gctl.dev/v1/namespaces/NS/PLURAL/NAME/STREAM`.
//!
//! `POST ?uid=&attempt=&offset=[&final=true]` appends, `GET [?attempt=][&tailBytes=|&sinceOffset=][&follow=true]` reads.
//! Which kinds have which streams is said by the annotation `streams.gctl.dev/streams` on their definition.
//! The streams themselves are in [`crate::blobs`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::attributes::{ResourceRef, query_flag, query_value};
use super::reviews::read_body;
use super::status::{Status, page_not_found};
use crate::blobs::{
    BlobError, LogStore, MAX_APPEND_BYTES, Owner, Position, READ_BYTES, Stream, StreamId,
};
use crate::registry::kinds::{Kinds, ServedKind};

/// The group of the streams.
pub const GROUP: &str = "streams.gctl.dev";
/// The annotation on a definition that names its streams, separated by commas.
pub const STREAMS_ANNOTATION: &str = "streams.gctl.dev/streams";

/// How often a reader that follows looks whether the object still exists.
const ALIVE_INTERVAL: Duration = Duration::from_secs(2);

const LOG_ATTEMPT: HeaderName = HeaderName::from_static("gctl-log-attempt");
const LOG_OFFSET: HeaderName = HeaderName::from_static("gctl-log-offset");

/// The uid of an object, by storage resource, namespace and name.
pub type FindUid = Arc<dyn Fn(&str, &str, &str) -> Option<Arc<str>> + Send + Sync>;

/// What the handler needs.
#[derive(Clone)]
pub struct Streams {
    /// The streams.
    pub store: Arc<LogStore>,
    /// Looks objects up.
    pub find_uid: FindUid,
    /// Ends the readers that follow when the server ends.
    pub shutdown: CancellationToken,
}

/// An object whose stream is asked for.
struct Target {
    kind: Arc<ServedKind>,
    owner: Owner,
    uid: Arc<str>,
    stream: Arc<str>,
}

fn has_stream(kind: &ServedKind, stream: &str) -> bool {
    kind.annotations
        .get(STREAMS_ANNOTATION)
        .is_some_and(|streams| streams.split(',').any(|known| known.trim() == stream))
}

fn internal(error: &BlobError) -> Status {
    tracing::error!(error = error as &dyn std::error::Error, "a stream failed");
    Status::internal(error)
}

fn number<T: std::str::FromStr>(query: Option<&str>, key: &str) -> Result<Option<T>, Status> {
    match query_value(query, key).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Status::bad_request(format!(
                "invalid {key} {text:?}: must be a non-negative integer"
            ))),
        },
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| Status::bad_request(format!("{key} is required")))
}

impl Streams {
    /// Answers one request below the group's path.
    pub async fn handle(
        &self,
        kinds: &Kinds,
        resource: &ResourceRef,
        request: Request,
    ) -> Response {
        if resource.version != "v1" || resource.subresource.is_empty() {
            return page_not_found();
        }
        let kind = kinds.iter().find(|kind| {
            *kind.plural == *resource.resource && has_stream(kind, &resource.subresource)
        });
        let Some(kind) = kind.filter(|kind| kind.is_namespaced() != resource.namespace.is_empty())
        else {
            return page_not_found();
        };
        let answer = match *request.method() {
            Method::POST => self.append(kind, resource, request).await,
            Method::GET | Method::HEAD => self.read(kind, resource, request.uri().query()).await,
            _ => {
                let verb = request.method().as_str().to_lowercase();
                Err(Status::method_not_allowed(
                    GROUP,
                    &resource.resource_path(),
                    &verb,
                ))
            }
        };
        answer.unwrap_or_else(Status::into_response)
    }

    fn target(&self, kind: &Arc<ServedKind>, resource: &ResourceRef) -> Result<Target, Status> {
        let uid = (self.find_uid)(&kind.storage, &resource.namespace, &resource.name)
            .ok_or_else(|| Status::not_found(&kind.group, &kind.plural, &resource.name))?;
        Ok(Target {
            kind: Arc::clone(kind),
            owner: Owner {
                namespace: resource.namespace.clone(),
                name: resource.name.clone(),
            },
            uid,
            stream: resource.subresource.as_str().into(),
        })
    }

    async fn append(
        &self,
        kind: &Arc<ServedKind>,
        resource: &ResourceRef,
        request: Request,
    ) -> Result<Response, Status> {
        let target = self.target(kind, resource)?;
        let query = request.uri().query();
        let uid = required("uid", query_value(query, "uid"))?;
        if *uid != *target.uid {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                target.uid
            );
            return Err(Status::conflict(
                &kind.group,
                &kind.plural,
                &resource.name,
                &why,
            ));
        }
        let attempt = required("attempt", number(query, "attempt")?)?;
        let offset = required("offset", number(query, "offset")?)?;
        let last = query_flag(query, "final");
        let body = read_body(request.into_body(), MAX_APPEND_BYTES).await?;
        let id = target.id(attempt);
        let position = self
            .store
            .append(&id, &target.owner, offset, body, last)
            .await
            .map_err(|error| internal(&error))?;
        Ok(position_answer(position))
    }

    async fn read(
        &self,
        kind: &Arc<ServedKind>,
        resource: &ResourceRef,
        query: Option<&str>,
    ) -> Result<Response, Status> {
        let target = self.target(kind, resource)?;
        let (tail, since) = (
            number::<u64>(query, "tailBytes")?,
            number::<u64>(query, "sinceOffset")?,
        );
        if tail.is_some() && since.is_some() {
            return Err(Status::bad_request(
                "tailBytes and sinceOffset exclude each other",
            ));
        }
        let mut attempt = number(query, "attempt")?;
        if attempt.is_none() {
            let latest = self
                .store
                .latest_attempt(&kind.storage, &target.uid, &target.stream)
                .await;
            attempt = latest.map_err(|error| internal(&error))?;
        }
        let found = match attempt {
            Some(attempt) => self
                .store
                .find(&target.id(attempt))
                .await
                .map_err(|error| internal(&error))?,
            None => None,
        };
        let (Some(stream), Some(attempt)) = (found, attempt) else {
            return Err(target.no_stream(attempt));
        };
        let progress = *stream.progress().borrow();
        let offset = tail.map_or(since.unwrap_or(0), |tail| {
            progress.size.saturating_sub(tail)
        });
        let until = if query_flag(query, "follow") {
            None
        } else {
            Some(progress.size)
        };
        let reader = Reader {
            streams: self.clone(),
            target,
            stream,
            at: offset,
            until,
        };
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            ),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
            (LOG_ATTEMPT, attempt.into()),
            (LOG_OFFSET, offset.into()),
        ];
        Ok((StatusCode::OK, headers, reader.body()).into_response())
    }
}

impl Target {
    fn id(&self, attempt: u32) -> StreamId {
        StreamId {
            resource: Arc::clone(&self.kind.storage),
            uid: Arc::clone(&self.uid),
            stream: Arc::clone(&self.stream),
            attempt,
        }
    }

    fn no_stream(&self, attempt: Option<u32>) -> Status {
        let which = attempt.map_or_else(String::new, |attempt| format!(" of attempt {attempt}"));
        let mut status = Status::not_found(&self.kind.group, &self.kind.plural, &self.owner.name);
        status.message = format!(
            "{} {:?} has no {}{which} yet",
            self.kind.resource, self.owner.name, self.stream
        );
        status
    }
}

fn position_answer(position: Position) -> Response {
    let body = json!({
        "kind": "LogPosition",
        "apiVersion": "streams.gctl.dev/v1",
        "size": position.size,
        "synced": position.synced,
        "final": position.is_final,
    });
    let media = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )];
    (StatusCode::OK, media, body.to_string()).into_response()
}

/// Reads a stream piece by piece as its client takes them, so a slow client costs one piece of memory.
struct Reader {
    streams: Streams,
    target: Target,
    stream: Arc<Stream>,
    at: u64,
    /// Where to stop; `None` follows.
    until: Option<u64>,
}

impl Reader {
    fn body(self) -> Body {
        let pieces = stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
                Ok(None) => None,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot read a stream"
                    );
                    Some((Err(error), None))
                }
            }
        });
        Body::from_stream(pieces.boxed())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let mut progress = self.stream.progress();
        loop {
            let seen = *progress.borrow_and_update();
            let limit = self
                .until
                .map_or(READ_BYTES, |until| until.saturating_sub(self.at));
            if limit > 0 && seen.size > self.at {
                let piece = self
                    .streams
                    .store
                    .read(&self.stream, self.at, limit)
                    .await?;
                if !piece.is_empty() {
                    self.at += piece.len() as u64;
                    return Ok(Some(piece));
                }
            }
            if self.until.is_some() || seen.ended {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = self.streams.shutdown.cancelled() => return Ok(None),
                changed = progress.changed() => if changed.is_err() { return Ok(None) },
                () = tokio::time::sleep(ALIVE_INTERVAL) => if !self.is_alive() { return Ok(None) },
            }
        }
    }

    fn is_alive(&self) -> bool {
        let Target {
            kind, owner, uid, ..
        } = &self.target;
        (self.streams.find_uid)(&kind.storage, &owner.namespace, &owner.name)
            .is_some_and(|found| found == *uid)
    }
}
