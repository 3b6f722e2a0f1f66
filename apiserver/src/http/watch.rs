//! Watch streams: one JSON line an event, errors included, bounded in memory and in time.
//!
//! # Guarantees
//! - The answer is 200 and its head is sent before the first event; what goes wrong afterwards travels as one ERROR event.
//! - Events that need no conversion are sent from the one buffer that all watchers share.
//! - The stream ends cleanly: at its deadline, when its kind changes, when its reader is too slow, when the server stops.

use std::sync::Arc;
use std::vec;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::StatusCode;
use serde_json::json;
use tokio::time::Instant;

use super::api::json_response;
use super::negotiate::Output;
use super::params::{WatchOptions, WatchStart};
use super::status::Status;
use super::table;
use crate::cache::{EventBatch, Watch, WatchError, WatchFrom};
use crate::registry::kinds::ServedKind;
use crate::registry::{Registry, limits, present};
use crate::store::{Revision, Stored};

/// Objects of the initial state that are sent at once. Chosen: some 100 KiB a chunk.
const INITIAL_CHUNK: usize = 64;

/// Tells clients that the initial state is complete.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// One open watch.
struct Streaming {
    registry: Arc<Registry>,
    kind: Arc<ServedKind>,
    output: Output,
    watch: Watch,
    initial: vec::IntoIter<Arc<Stored>>,
    mark_initial_end: bool,
    /// No Table has been sent yet.
    first: bool,
    bookmarks: Option<Bookmarks>,
    deadline: Instant,
}

/// When the next bookmark is due.
struct Bookmarks {
    next: Instant,
    last: Instant,
    last_sent: bool,
}

impl Bookmarks {
    fn until(deadline: Instant) -> Self {
        let last = deadline
            .checked_sub(limits::BOOKMARK_BEFORE_END)
            .unwrap_or(deadline);
        let now = Instant::now();
        let last_sent = last <= now;
        Self {
            next: (now + limits::BOOKMARK_EVERY).min(last.max(now)),
            last,
            last_sent,
        }
    }

    fn due(&self) -> Option<Instant> {
        (!self.last_sent).then_some(self.next)
    }

    fn sent(&mut self) {
        let now = Instant::now();
        self.last_sent = now >= self.last;
        self.next = (now + limits::BOOKMARK_EVERY).min(self.last);
    }
}

/// Starts a watch and answers with its stream.
pub(super) fn respond(
    registry: Arc<Registry>,
    kind: Arc<ServedKind>,
    namespace: Option<&str>,
    options: WatchOptions,
    output: Output,
) -> Response {
    match open(&registry, &kind, namespace, &options) {
        Ok((watch, initial)) => {
            let deadline = Instant::now() + options.timeout;
            let streaming = Streaming {
                mark_initial_end: matches!(options.start, WatchStart::EverythingMarked(_))
                    && options.bookmarks,
                bookmarks: options.bookmarks.then(|| Bookmarks::until(deadline)),
                initial: initial.into_iter(),
                first: true,
                registry,
                kind,
                output,
                watch,
                deadline,
            };
            stream(
                streaming
                    .into_stream()
                    .map(Ok::<_, std::convert::Infallible>),
            )
        }
        Err(status) => stream(futures::stream::iter([Ok::<_, std::convert::Infallible>(
            error_line(&status),
        )])),
    }
}

fn stream<E: std::error::Error + Send + Sync + 'static>(
    lines: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    let mut response = json_response(StatusCode::OK, Bytes::new());
    *response.body_mut() = Body::from_stream(lines);
    response
}

fn error_line(status: &Status) -> Bytes {
    let mut line = json!({"type": "ERROR", "object": status.to_value()}).to_string();
    line.push('\n');
    line.into()
}

fn too_old(wanted: Revision, current: Revision) -> Status {
    Status::new(
        StatusCode::GONE,
        "Expired",
        format!("too old resource version: {wanted} ({current})"),
    )
}

/// The watch, and what it begins with.
fn open(
    registry: &Registry,
    kind: &ServedKind,
    namespace: Option<&str>,
    options: &WatchOptions,
) -> Result<(Watch, Vec<Arc<Stored>>), Status> {
    let cache = registry.cache();
    let selection = options.selection.clone();
    let buffer = limits::WATCH_BUFFER_BYTES;
    let (wanted, from) = match options.start {
        WatchStart::Everything(at_least) | WatchStart::EverythingMarked(at_least) => {
            let current = cache.current_revision();
            if let Some(wanted) = at_least.filter(|wanted| *wanted > current) {
                return Err(too_old(wanted, current));
            }
            let (page, watch) = cache
                .list_and_watch(&kind.storage, namespace, selection, buffer)
                .map_err(|error| watch_failed(error, at_least.unwrap_or(0)))?;
            return Ok((watch, page.items));
        }
        WatchStart::After(revision) => (revision, WatchFrom::After(revision)),
        WatchStart::Live => (0, WatchFrom::Latest),
    };
    let watch = cache.watch(&kind.storage, namespace, from, selection, buffer);
    watch
        .map(|watch| (watch, Vec::new()))
        .map_err(|error| watch_failed(error, wanted))
}

/// A revision of the future is as lost as one of the past: the client knows another store.
fn watch_failed(error: WatchError, wanted: Revision) -> Status {
    match error {
        WatchError::Expired { current, .. } | WatchError::Future { current } => {
            too_old(wanted, current)
        }
    }
}

impl Streaming {
    fn into_stream(self) -> impl Stream<Item = Bytes> + Send {
        futures::stream::unfold(self, |mut streaming| async move {
            let line = streaming.next().await?;
            Some((line, streaming))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if !self.initial.as_slice().is_empty() {
            return Some(self.initial_chunk());
        }
        if std::mem::take(&mut self.mark_initial_end) {
            return Some(self.bookmark(self.watch.start_revision(), true));
        }
        loop {
            let bookmark_due = self.bookmarks.as_ref().and_then(Bookmarks::due);
            tokio::select! {
                biased;
                () = self.registry.shutdown().cancelled() => return None,
                batch = self.watch.next() => {
                    let batch = batch?.ok()?;
                    let lines = self.lines(&batch);
                    if !lines.is_empty() {
                        return Some(lines);
                    }
                }
                () = self.kind.ended.cancelled() => return None,
                () = sleep_until(bookmark_due) => {
                    if let Some(bookmarks) = &mut self.bookmarks {
                        bookmarks.sent();
                    }
                    return Some(self.bookmark(self.watch.progress(), false));
                }
                () = tokio::time::sleep_until(self.deadline) => return None,
            }
        }
    }

    fn initial_chunk(&mut self) -> Bytes {
        let mut lines = BytesMut::new();
        for stored in self.initial.by_ref().take(INITIAL_CHUNK) {
            let bytes = present(&self.kind, &stored);
            let now = self.registry.now();
            lines.extend_from_slice(&table::event(
                &self.kind,
                "ADDED",
                &bytes,
                &self.output,
                self.first,
                now,
            ));
            self.first = false;
        }
        lines.freeze()
    }

    fn lines(&mut self, batch: &EventBatch) -> Bytes {
        let is_current = batch
            .events()
            .first()
            .is_some_and(|event| event.revision() > self.kind.schema_since);
        if self.output.is_json_passthrough() && self.kind.is_stored_form() && is_current {
            return batch.json_lines();
        }
        let mut lines = BytesMut::with_capacity(batch.bytes());
        let now = self.registry.now();
        for event in batch.events() {
            let bytes = present(&self.kind, &event.stored);
            lines.extend_from_slice(&table::event(
                &self.kind,
                event.kind.as_str(),
                &bytes,
                &self.output,
                self.first,
                now,
            ));
            self.first = false;
        }
        lines.freeze()
    }

    /// Clients check the kind of a bookmark and read nothing but its revision.
    fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Bytes {
        let mut object = json!({
            "kind": &*self.kind.kind,
            "apiVersion": &*self.kind.api_version,
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({INITIAL_END: "true"});
        }
        let bytes = Bytes::from(object.to_string());
        let line = table::event(
            &self.kind,
            "BOOKMARK",
            &bytes,
            &self.output,
            self.first,
            self.registry.now(),
        );
        self.first = false;
        line
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_last_bookmark_comes_shortly_before_the_end() {
        let start = Instant::now();
        let mut bookmarks = Bookmarks::until(start + Duration::from_secs(90));
        assert_eq!(bookmarks.due(), Some(start + Duration::from_mins(1)));
        tokio::time::advance(Duration::from_mins(1)).await;
        bookmarks.sent();
        assert_eq!(bookmarks.due(), Some(start + Duration::from_secs(88)));
        tokio::time::advance(Duration::from_secs(28)).await;
        bookmarks.sent();
        assert_eq!(bookmarks.due(), None);
    }
}
