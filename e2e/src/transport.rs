//! The API server's router as a `kube` client's transport, without sockets, and the faults that a network would add.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower::{Service, ServiceExt};

/// How often what goes wrong, in thousandths of all requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The request never arrives.
    pub lost_requests: u32,
    /// The request is carried out, and its answer never arrives.
    pub lost_responses: u32,
    /// The request arrives up to two seconds late.
    pub late: u32,
    /// A watch breaks after a few frames.
    pub broken_watches: u32,
}

/// A fault as the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("simulated network: {0}")]
pub struct NetworkError(&'static str);

/// A transport into a router.
#[derive(Clone)]
pub struct Transport {
    router: axum::Router,
    token: HeaderValue,
    faults: Arc<Mutex<Source>>,
    /// Nothing comes through.
    cut: Arc<AtomicBool>,
}

struct Source {
    random: StdRng,
    faults: Faults,
}

/// What happens to one request.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Delivered,
    LostRequest,
    LostResponse,
    Late(Duration),
    Broken(u32),
}

impl Transport {
    /// A transport that carries the token with each request and draws its faults from the seed.
    pub fn new(
        router: axum::Router,
        token: &str,
        seed: u64,
        faults: Faults,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            router,
            token: HeaderValue::from_str(&format!("Bearer {token}"))?,
            faults: Arc::new(Mutex::new(Source {
                random: StdRng::seed_from_u64(seed),
                faults,
            })),
            cut: Arc::default(),
        })
    }

    /// Another way to the same server, with the same faults, that can be cut by itself.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            cut: Arc::default(),
            ..self.clone()
        }
    }

    /// Cuts this way, or mends it.
    pub fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.faults.lock().expect("no holder panics").faults = Faults::default();
    }

    /// A client over this transport.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    fn fate(&self, is_watch: bool) -> Fate {
        let mut source = self.faults.lock().expect("no holder panics");
        let faults = source.faults;
        let drawn = source.random.random_range(0..1000);
        let mut limit = faults.lost_requests;
        if drawn < limit {
            return Fate::LostRequest;
        }
        limit += faults.lost_responses;
        if drawn < limit {
            return Fate::LostResponse;
        }
        limit += faults.late;
        if drawn < limit {
            return Fate::Late(Duration::from_millis(source.random.random_range(1..2000)));
        }
        limit += faults.broken_watches;
        if is_watch && drawn < limit {
            return Fate::Broken(source.random.random_range(0..20));
        }
        Fate::Delivered
    }
}

impl Service<Request<kube::client::Body>> for Transport {
    type Response = Response<Breakable>;
    type Error = NetworkError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="));
        let fate = self.fate(is_watch);
        let cut = Arc::clone(&self.cut);
        let router = self.router.clone();
        let mut request = request.map(axum::body::Body::new);
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, self.token.clone());
        Box::pin(async move {
            match fate {
                Fate::LostRequest => return Err(NetworkError("the request was lost")),
                Fate::Late(pause) => tokio::time::sleep(pause).await,
                _ => {}
            }
            if cut.load(Ordering::SeqCst) {
                return Err(NetworkError("the network is cut"));
            }
            let response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(impossible) => match impossible as Infallible {},
            };
            if fate == Fate::LostResponse || cut.load(Ordering::SeqCst) {
                return Err(NetworkError("the answer was lost"));
            }
            let frames_left = match fate {
                Fate::Broken(frames) => Some(frames),
                _ => None,
            };
            Ok(response.map(|body| Breakable {
                body,
                frames_left,
                cut,
            }))
        })
    }
}

/// A response body that may break off.
#[derive(Debug)]
pub struct Breakable {
    body: axum::body::Body,
    frames_left: Option<u32>,
    cut: Arc<AtomicBool>,
}

impl Body for Breakable {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.frames_left == Some(0) {
            return Poll::Ready(Some(Err(Box::new(NetworkError("the stream broke")))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if self.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Some(Err(Box::new(NetworkError("the network is cut")))));
        }
        self.frames_left = self.frames_left.map(|left| left.saturating_sub(1));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}
