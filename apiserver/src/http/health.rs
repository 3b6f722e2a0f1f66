//! `/livez`, `/readyz` and `/healthz`, with `?verbose`, `?exclude=` and one path a check.
//!
//! The process is alive while its store takes writes; it is ready while it is alive and not shutting down.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};

use super::attributes::{percent_decode, query_value};
use super::status::page_not_found;

type Probe = Box<dyn Fn() -> bool + Send + Sync>;

/// The checks of one server.
pub struct Health {
    checks: Vec<(&'static str, Probe)>,
    shutting_down: AtomicBool,
}

impl Health {
    /// Checks that each say whether a part works; `ping` is always among them.
    pub fn new(checks: impl IntoIterator<Item = (&'static str, Probe)>) -> Self {
        let ping: Probe = Box::new(|| true);
        Self {
            checks: std::iter::once(("ping", ping)).chain(checks).collect(),
            shutting_down: AtomicBool::new(false),
        }
    }

    /// From now on the server is not ready any more.
    pub fn begin_shutdown(&self) {
        self.shutting_down.store(true, Ordering::Relaxed);
    }

    fn results(&self, endpoint: &str) -> Vec<(&'static str, bool)> {
        let mut results: Vec<_> = self
            .checks
            .iter()
            .map(|(name, probe)| (*name, probe()))
            .collect();
        if endpoint == "readyz" {
            results.push(("shutdown", !self.shutting_down.load(Ordering::Relaxed)));
        }
        results
    }

    /// Answers a path under one of the three endpoints.
    pub fn respond(&self, path: &str, query: Option<&str>) -> Response {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let endpoint = parts.next().unwrap_or("");
        let results = self.results(endpoint);
        if let Some(name) = parts.next() {
            let Some((name, ok)) = results.into_iter().find(|(known, _)| *known == name) else {
                return page_not_found();
            };
            let text = if ok {
                "ok".to_owned()
            } else {
                format!("internal server error: {name} failed\n")
            };
            return answer(ok, text);
        }
        let excluded: Vec<String> = query
            .into_iter()
            .flat_map(|query| query.split('&'))
            .filter_map(|pair| pair.strip_prefix("exclude="))
            .map(|name| percent_decode(name).into_owned())
            .collect();
        let mut text = String::new();
        let mut all_ok = true;
        for (name, ok) in results {
            let line = if excluded.iter().any(|skip| skip == name) {
                format!("[+]{name} excluded: ok\n")
            } else if ok {
                format!("[+]{name} ok\n")
            } else {
                all_ok = false;
                format!("[-]{name} failed: reason withheld\n")
            };
            text.push_str(&line);
        }
        if !all_ok {
            return answer(false, format!("{text}{endpoint} check failed\n"));
        }
        if query_value(query, "verbose").is_some() {
            return answer(true, format!("{text}{endpoint} check passed\n"));
        }
        answer(true, "ok".to_owned())
    }
}

fn answer(ok: bool, text: String) -> Response {
    let code = if ok {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
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
    ];
    (code, headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn ask(health: &Health, target: &str) -> (u16, String) {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        let response = health.respond(path, query);
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failing_check_shows_unless_it_is_excluded() {
        let health = Health::new([("store", Box::new(|| false) as Probe)]);
        let failed = "[+]ping ok\n[-]store failed: reason withheld\nlivez check failed\n";
        assert_eq!(ask(&health, "/livez").await, (500, failed.to_owned()));
        assert_eq!(
            ask(&health, "/livez?exclude=store").await,
            (200, "ok".to_owned())
        );
        assert_eq!(ask(&health, "/livez/ping").await, (200, "ok".to_owned()));
        assert_eq!(ask(&health, "/livez/store").await.0, 500);
        assert_eq!(ask(&health, "/livez/none").await.0, 404);
    }

    #[tokio::test]
    async fn a_server_that_ends_is_alive_but_not_ready() {
        let health = Health::new([]);
        assert_eq!(ask(&health, "/readyz").await, (200, "ok".to_owned()));
        let verbose = "[+]ping ok\n[+]shutdown ok\nreadyz check passed\n";
        assert_eq!(
            ask(&health, "/readyz?verbose").await,
            (200, verbose.to_owned())
        );
        health.begin_shutdown();
        assert_eq!(ask(&health, "/readyz").await.0, 500);
        assert_eq!(ask(&health, "/livez/").await.0, 200);
    }
}
