//! The server's whole surface as a service for clients in the same process: the same requests, credentials and answers,
//! without sockets and TLS.
//!
//! # Guarantees
//! - A request passes every layer that one from a socket passes, authentication and permission included.
//! - A panic of the server's while it streams an answer breaks that answer and nothing of the client's.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::future::RouteFuture;
use bytes::Bytes;
use futures::future::{MapOk, TryFutureExt as _};
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tower::{BoxError, Service};

/// A way into the server from within its process, for one who has a bearer token.
#[derive(Clone, Debug)]
pub struct Inside {
    router: Router,
    authorization: HeaderValue,
}

impl Inside {
    /// None where the token cannot be sent.
    pub(super) fn new(router: Router, token: &str) -> Option<Self> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        Some(Self {
            router,
            authorization,
        })
    }
}

impl<B> Service<Request<B>> for Inside
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = MapOk<RouteFuture<Infallible>, fn(Response<Body>) -> Response<Answer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        self.router
            .call(request)
            .map_ok(|response| response.map(Answer))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Answer(Body);

/// The server broke off an answer.
#[derive(Debug, thiserror::Error)]
#[error("the server broke off its answer")]
pub struct BrokenOff;

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            Pin::new(&mut self.0).poll_frame(context)
        }));
        if let Ok(frame) = polled {
            return frame.map_err(Into::into);
        }
        tracing::error!("an answer's stream panicked");
        self.0 = Body::empty();
        Poll::Ready(Some(Err(BrokenOff.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{StreamExt as _, stream};
    use http::StatusCode;
    use http_body_util::BodyExt as _;
    use jiff::Timestamp;

    use super::*;
    use crate::server::{MemoryOptions, Server};

    async fn status_with(token: &str) -> StatusCode {
        let server = Server::in_memory(MemoryOptions {
            crds: Vec::new(),
            clock: Arc::new(|| Timestamp::UNIX_EPOCH),
            seed: Some(1),
            admin_token: "right".to_owned(),
        })
        .await
        .expect("nothing to open");
        let mut inside = Inside::new(server.router(), token).expect("a token");
        let request = Request::get("/api/v1/namespaces").body(Body::empty());
        let answer = inside.call(request.expect("well-formed")).await;
        answer.expect("it cannot fail").status()
    }

    #[tokio::test]
    async fn a_token_counts_as_it_does_from_outside() {
        assert_eq!(status_with("right").await, StatusCode::OK);
        assert_eq!(status_with("wrong").await, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn a_panic_within_a_stream_is_an_error_to_its_reader() {
        let broken = stream::iter([0, 1]).map(|number| {
            assert_eq!(number, 0, "the panic of this test");
            Ok::<_, Infallible>(Bytes::from(number.to_string()))
        });
        let mut answer = Answer(Body::from_stream(broken));
        let first = answer.frame().await.expect("a frame").expect("well");
        assert_eq!(first.into_data().expect("data"), "0");
        let second = answer.frame().await.expect("a frame");
        assert!(second.is_err());
        assert!(answer.frame().await.is_none());
    }
}
