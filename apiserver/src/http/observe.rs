//! The outermost layer: what is true of every request, whatever it asks for.
//!
//! It reads the request's [`Attributes`] once, bounds how many run and for how long, turns a panic into a 500, counts,
//! and adds the headers that every answer carries. Watches and followed logs are neither bounded in time nor
//! counted as running.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use super::attributes::{Attributes, query_value};
use super::drain;
use super::status::Status;
use crate::metrics::{Metrics, RequestLabels};

/// The longest that a request may take, other than a watch or a followed log.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Says whether group, version and resource are served.
pub type IsServed = Arc<dyn Fn(&str, &str, &str) -> bool + Send + Sync>;

/// What the layer needs.
#[derive(Clone)]
pub struct Observer {
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Permits for requests that may run at a time.
    pub in_flight: Arc<Semaphore>,
    /// Bounds the labels of the metrics.
    pub is_served: IsServed,
}

/// Health and lease renewals are never refused: refusing them would turn load into failures.
fn is_exempt(attributes: &Attributes) -> bool {
    match &attributes.resource {
        Some(resource) => resource.resource == "leases",
        None => super::is_health(&attributes.path),
    }
}

/// Runs one request.
pub async fn observe(
    State(observer): State<Observer>,
    mut request: Request,
    next: Next,
) -> Response {
    let attributes = Arc::new(Attributes::parse(
        request.method(),
        request.uri().path(),
        request.uri().query(),
    ));
    let long_running = attributes.is_long_running(request.uri().query());
    let labels = RequestLabels::of(&attributes, |group, version, resource| {
        (observer.is_served)(group, version, resource)
    });
    let is_mutating = !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let limit = timeout_of(request.uri().query());
    let started = Instant::now();
    request.extensions_mut().insert(Arc::clone(&attributes));

    let response = if long_running {
        let running = observer.metrics.begin_long_running(&labels);
        let response = catch(next.run(request)).await;
        // Counted until the body has been sent or the client has gone.
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &running;
                frame
            }))
        })
    } else {
        let permit = if is_exempt(&attributes) {
            Ok(None)
        } else {
            observer.in_flight.try_acquire().map(Some)
        };
        match (permit, limit) {
            (Err(_), _) => {
                observer.metrics.rejected();
                too_many()
            }
            (Ok(_), Err(status)) => status.into_response(),
            (Ok(permit), Ok(limit)) => {
                let _running = observer.metrics.begin(is_mutating);
                let (request, leftover) = drain::watch(request);
                let answer = tokio::time::timeout(limit, catch(next.run(request))).await;
                if let Some(leftover) = leftover {
                    leftover.drain().await;
                }
                drop(permit);
                answer.unwrap_or_else(|_| {
                    let message = format!(
                        "Timeout: request did not complete within {}s",
                        limit.as_secs_f64()
                    );
                    Status::timeout(message).into_response()
                })
            }
        }
    };
    let took = (!long_running).then(|| started.elapsed());
    observer
        .metrics
        .answered(labels, response.status().as_u16(), took);
    with_headers(response)
}

/// A panic is a bug of ours: the client gets a 500 and the connection lives on.
async fn catch(answer: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(answer)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!("a request handler panicked");
            Status::internal("the request handler failed").into_response()
        })
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, private"),
        );
    }
    // From the thread's own generator: the operating system's would be a system call a request.
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = Uuid::encode_buffer();
    if let Ok(id) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        headers.insert(AUDIT_ID, id);
    }
    response
}

fn too_many() -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        ),
        (header::RETRY_AFTER, HeaderValue::from_static("1")),
    ];
    let text = "Too many requests, please try again later.\n";
    (StatusCode::TOO_MANY_REQUESTS, headers, text).into_response()
}

/// `?timeout=10s` shortens the limit; what cannot be read is an error.
fn timeout_of(query: Option<&str>) -> Result<Duration, Status> {
    let Some(text) = query_value(query, "timeout").filter(|text| !text.is_empty()) else {
        return Ok(REQUEST_TIMEOUT);
    };
    let wanted = parse_duration(&text).ok_or_else(|| {
        Status::bad_request(format!(
            "invalid timeout specified in the request URL: {text:?} is no duration"
        ))
    })?;
    Ok(if wanted.is_zero() {
        REQUEST_TIMEOUT
    } else {
        wanted.min(REQUEST_TIMEOUT)
    })
}

/// Go's durations as clients send them: `10s`, `1m30s`, `500ms`, `0`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total)
        .ok()
        .filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_go_writes_them_and_never_exceed_the_limit() {
        for (query, expected) in [
            (None, Some(60.0)),
            (Some("timeout=10s"), Some(10.0)),
            (Some("timeout=1m30s"), Some(60.0)),
            (Some("timeout=500ms"), Some(0.5)),
            (Some("timeout=0"), Some(60.0)),
            (Some("timeout=ten"), None),
            (Some("timeout=10"), None),
            (Some("timeout=-5s"), None),
        ] {
            let read = timeout_of(query).ok().map(|limit| limit.as_secs_f64());
            assert_eq!(read, expected, "{query:?}");
        }
    }
}
