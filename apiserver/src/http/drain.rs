//! Reads what is left of a request body that its handler refused, before the refusal is sent.
//!
//! A client that is still sending when its HTTP/2 stream is reset may report the reset and never show the answer. And an
//! HTTP/1 connection with half a body on it can only be closed, which its client finds out with its next request. So the
//! rest of the body is read and dropped, up to a limit; beyond it the reset is deserved.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::{Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;

/// Smaller bodies fit into the window of an HTTP/2 stream, so their clients are never caught sending.
const SMALL_BYTES: u64 = 1 << 20;
/// The most that is read and dropped.
const MAX_BYTES: usize = 32 << 20;
/// The longest that it may take.
const MAX_TIME: Duration = Duration::from_secs(5);

/// Where a body that was not read to its end is left.
pub(super) struct Leftover(Arc<Mutex<Option<Body>>>);

struct Returned {
    body: Body,
    slot: Arc<Mutex<Option<Body>>>,
}

impl Drop for Returned {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            *self.slot.lock() = Some(std::mem::take(&mut self.body));
        }
    }
}

impl HttpBody for Returned {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Watches a request's body, where leaving a part of it unread does harm.
pub(super) fn watch(request: Request) -> (Request, Option<Leftover>) {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let fits =
        request.version() >= Version::HTTP_2 && length.is_some_and(|length| length <= SMALL_BYTES);
    if request.body().is_end_stream() || fits {
        return (request, None);
    }
    let slot = Arc::new(Mutex::new(None));
    let shared = Arc::clone(&slot);
    let request = request.map(|body| Body::new(Returned { body, slot: shared }));
    (request, Some(Leftover(slot)))
}

impl Leftover {
    /// Reads and drops what the handler left.
    pub(super) async fn drain(self) {
        let Some(mut body) = self.0.lock().take() else {
            return;
        };
        let read = async {
            let mut dropped = 0;
            while let Some(Ok(frame)) = body.frame().await {
                dropped += frame.data_ref().map_or(0, Bytes::len);
                if dropped > MAX_BYTES {
                    break;
                }
            }
        };
        // Whether it came to its end in time makes no difference to the answer.
        let _ = tokio::time::timeout(MAX_TIME, read).await;
    }
}
