//! The whole HTTP surface: which part of the server answers which path, inside the layers that every request passes.
//!
//! Paths are parsed by hand in one place, because Kubernetes' generic routes collide with its static ones.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attributes::Attributes;
use super::discovery::{self, Cached, Discovery};
use super::health::Health;
use super::observe::{Observer, observe};
use super::openapi::OpenApi;
use super::status::{Status, page_not_found};
use super::streams::{self, FindUid, Streams};
use super::{api, is_health, openapi_v2, reviews};
use crate::auth::layer::guard;
use crate::auth::tokens::Tokens;
use crate::blobs::LogStore;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::kinds::Kinds;

/// What all requests share.
pub struct Surface {
    pub(crate) registry: Arc<Registry>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) health: Health,
    metrics: Arc<Metrics>,
    in_flight: Arc<Semaphore>,
    streams: Streams,
    discovery: Cached<Discovery>,
    openapi: Cached<OpenApi>,
    /// When the last router is gone, watches and upkeep end.
    _stop: DropGuard,
}

impl Surface {
    /// Puts the parts together. `max_in_flight` bounds the requests that run at a time, long-running ones left out.
    pub fn new(
        registry: Arc<Registry>,
        tokens: Arc<Tokens>,
        logs: Arc<LogStore>,
        max_in_flight: usize,
    ) -> Arc<Self> {
        let shutdown: CancellationToken = registry.shutdown().clone();
        let store = Arc::clone(&registry);
        let health = Health::new([(
            "store",
            Box::new(move || !store.cache().has_failed()) as Box<dyn Fn() -> bool + Send + Sync>,
        )]);
        let streams = Streams {
            store: logs,
            find_uid: find_uid(&registry),
            shutdown: shutdown.clone(),
        };
        Arc::new(Self {
            metrics: Arc::new(Metrics::new(registry.now())),
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            registry,
            tokens,
            health,
            streams,
            discovery: Cached::default(),
            openapi: Cached::default(),
            _stop: shutdown.drop_guard(),
        })
    }

    /// The router: observe, then guard, then dispatch.
    pub fn router(self: &Arc<Self>) -> Router {
        let kinds = Arc::clone(&self.registry);
        let observer = Observer {
            metrics: Arc::clone(&self.metrics),
            in_flight: Arc::clone(&self.in_flight),
            is_served: Arc::new(move |group, version, resource| {
                group == streams::GROUP
                    || reviews::is_review_group(group)
                    || kinds.kinds().find(group, version, resource).is_some()
            }),
        };
        Router::new()
            .fallback(dispatch)
            .with_state(Arc::clone(self))
            .layer(from_fn_with_state(Arc::clone(&self.tokens), guard))
            .layer(from_fn_with_state(observer, observe))
    }

    fn discovery(&self, kinds: &Kinds) -> Arc<Discovery> {
        self.discovery.get(kinds, |_| Discovery::new(kinds))
    }

    fn metrics(&self) -> Response {
        match self.metrics.text(&self.registry.cache().stats()) {
            Ok(text) => {
                let media = HeaderValue::from_static(
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                );
                (StatusCode::OK, [(header::CONTENT_TYPE, media)], text).into_response()
            }
            Err(error) => Status::internal(error).into_response(),
        }
    }
}

/// Looks up the uid of a stored object.
pub fn find_uid(registry: &Arc<Registry>) -> FindUid {
    let registry = Arc::clone(registry);
    Arc::new(move |resource, namespace, name| {
        let stored = registry.stored(resource, namespace, name)?;
        Some(Arc::clone(&stored.index.uid))
    })
}

async fn dispatch(State(surface): State<Arc<Surface>>, request: Request) -> Response {
    let path = request.uri().path();
    let query = request.uri().query();
    let headers = request.headers();
    if let Some(attributes) = request.extensions().get::<Arc<Attributes>>().cloned()
        && let Some(resource) = &attributes.resource
    {
        return match resource.group.as_str() {
            streams::GROUP => {
                let kinds = surface.registry.kinds();
                surface.streams.handle(&kinds, resource, request).await
            }
            group if reviews::is_review_group(group) => {
                reviews::handle(Arc::clone(&surface.tokens), resource.clone(), request).await
            }
            _ => api::handle(Arc::clone(&surface.registry), request).await,
        };
    }
    if is_health(path) {
        return surface.health.respond(path, query);
    }
    if !matches!(*request.method(), http::Method::GET | http::Method::HEAD) {
        return page_not_found();
    }
    match path {
        "/" => discovery::root(&surface.registry.kinds(), headers, query),
        "/version" | "/version/" => discovery::version(headers, query),
        "/metrics" => surface.metrics(),
        "/openapi/v2" => openapi_v2::respond(headers),
        _ if path == "/openapi/v3" || path.starts_with("/openapi/v3/") => {
            let kinds = surface.registry.kinds();
            surface
                .openapi
                .get(&kinds, |old| OpenApi::new(&kinds, old))
                .respond(path, headers, query)
        }
        _ => {
            let kinds = surface.registry.kinds();
            surface
                .discovery(&kinds)
                .respond(path, headers, query)
                .unwrap_or_else(page_not_found)
        }
    }
}
