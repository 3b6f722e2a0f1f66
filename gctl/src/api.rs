//! Requests to the API as the command line needs them: any kind, JSON in and out, warnings and refusals kept.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::{Status, WatchEvent};
use serde_json::Value;

use crate::error::Error;

/// Longest time a request that is not a stream may take (chosen: as kube-apiserver's own limit).
const REQUEST_LIMIT: Duration = Duration::from_mins(1);
/// Warnings kept between two looks; what comes beyond is dropped.
const WARNING_LIMIT: usize = 100;

/// Plain JSON.
pub const JSON: &str = "application/json";
/// The server's table of the objects, or the objects where it makes none.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// JSON merge patch (RFC 7386).
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// Strategic merge patch, for Kubernetes' own kinds.
pub const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// The server behind a client.
#[derive(Clone)]
pub struct Api {
    client: Client,
    server: String,
    warnings: Arc<Mutex<Vec<String>>>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub uri: &'a str,
    /// What is wanted back.
    pub accept: &'static str,
    /// Content type and body.
    pub body: Option<(&'static str, Vec<u8>)>,
    /// What is being attempted, as a phrase after "failed to".
    pub attempted: &'a str,
}

impl Api {
    /// An API behind a client; `server` is named in messages.
    pub fn new(client: Client, server: impl Into<String>) -> Self {
        Api {
            client,
            server: server.into(),
            warnings: Arc::default(),
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// URL of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The server's warnings since the last look.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings
            .lock()
            .map(|mut warnings| std::mem::take(&mut *warnings))
            .unwrap_or_default()
    }

    /// Sends a request and reads the JSON answer.
    pub async fn call(&self, call: Call<'_>) -> Result<Value, Error> {
        let attempted = call.attempted.to_owned();
        let request = self.send(&call);
        let text = tokio::time::timeout(REQUEST_LIMIT, async {
            let response = request.await?;
            self.collect(response, &attempted).await
        })
        .await
        .map_err(|_| Error::Unreachable {
            attempted: attempted.clone(),
            reason: format!(
                "{} gave no answer within {} s",
                self.server,
                REQUEST_LIMIT.as_secs()
            ),
        })??;
        serde_json::from_slice(&text).map_err(|error| Error::BadAnswer {
            attempted,
            reason: error.to_string(),
        })
    }

    /// Reads a path.
    pub async fn get(
        &self,
        uri: &str,
        accept: &'static str,
        attempted: &str,
    ) -> Result<Value, Error> {
        self.call(Call {
            method: Method::GET,
            uri,
            accept,
            body: None,
            attempted,
        })
        .await
    }

    /// Reads a path; nothing when it does not exist.
    pub async fn find(&self, uri: &str, attempted: &str) -> Result<Option<Value>, Error> {
        match self.get(uri, JSON, attempted).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Posts an object.
    pub async fn create(&self, uri: &str, object: &Value, attempted: &str) -> Result<Value, Error> {
        self.call(Call {
            method: Method::POST,
            uri,
            accept: JSON,
            body: Some((JSON, object.to_string().into_bytes())),
            attempted,
        })
        .await
    }

    /// Patches an object.
    pub async fn patch(
        &self,
        uri: &str,
        content_type: &'static str,
        patch: &Value,
        attempted: &str,
    ) -> Result<Value, Error> {
        self.call(Call {
            method: Method::PATCH,
            uri,
            accept: JSON,
            body: Some((content_type, patch.to_string().into_bytes())),
            attempted,
        })
        .await
    }

    /// Deletes an object; `options` are DeleteOptions.
    pub async fn delete(
        &self,
        uri: &str,
        options: &Value,
        attempted: &str,
    ) -> Result<Value, Error> {
        self.call(Call {
            method: Method::DELETE,
            uri,
            accept: JSON,
            body: Some((JSON, options.to_string().into_bytes())),
            attempted,
        })
        .await
    }

    /// Opens a watch. The stream ends when the server or the network ends it.
    pub async fn watch(
        &self,
        uri: &str,
        accept: &'static str,
        attempted: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<Value>, Error>>, Error> {
        let request = Request::get(uri)
            .header(http::header::ACCEPT, accept)
            .body(Vec::new())
            .map_err(|error| bad_request(attempted, &error))?;
        let opened =
            tokio::time::timeout(REQUEST_LIMIT, Box::pin(self.client.request_events(request)))
                .await;
        let stream = match opened {
            Ok(opened) => opened.map_err(|error| self.classify(attempted, error))?,
            Err(_) => {
                return Err(Error::Unreachable {
                    attempted: attempted.to_owned(),
                    reason: format!("{} gave no answer", self.server),
                });
            }
        };
        let (api, attempted) = (self.clone(), attempted.to_owned());
        Ok(Box::pin(stream.map(move |event| {
            event.map_err(|error| api.classify(&attempted, error))
        })))
    }

    /// Opens a path whose answer is a stream of bytes.
    pub async fn stream(&self, uri: &str, attempted: &str) -> Result<Response<Body>, Error> {
        let call = Call {
            method: Method::GET,
            uri,
            accept: "*/*",
            body: None,
            attempted,
        };
        let response = tokio::time::timeout(REQUEST_LIMIT, self.send(&call))
            .await
            .map_err(|_| Error::Unreachable {
                attempted: attempted.to_owned(),
                reason: format!("{} gave no answer", self.server),
            })??;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self
                .collect(response, attempted)
                .await
                .err()
                .unwrap_or_else(|| Error::BadAnswer {
                    attempted: attempted.to_owned(),
                    reason: "an answer that is neither success nor failure".to_owned(),
                }))
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<Response<Body>, Error> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.uri)
            .header(http::header::ACCEPT, call.accept)
            .header(
                http::header::USER_AGENT,
                concat!("gctl/", env!("CARGO_PKG_VERSION")),
            );
        let body = match &call.body {
            Some((content_type, bytes)) => {
                request = request.header(http::header::CONTENT_TYPE, *content_type);
                bytes.clone()
            }
            None => Vec::new(),
        };
        let request = request
            .body(Body::from(body))
            .map_err(|error| bad_request(call.attempted, &error))?;
        // Boxed: the future of a request is large, and is part of every command's.
        let response = Box::pin(self.client.send(request))
            .await
            .map_err(|error| self.classify(call.attempted, error))?;
        self.keep_warnings(&response);
        Ok(response)
    }

    async fn collect(&self, response: Response<Body>, attempted: &str) -> Result<Vec<u8>, Error> {
        let code = response.status();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|error| self.classify(attempted, error))?
            .to_bytes();
        if code.is_success() {
            return Ok(bytes.to_vec());
        }
        let status = serde_json::from_slice::<Status>(&bytes)
            .ok()
            .filter(|status| status.code != 0)
            .unwrap_or_else(|| {
                let text: String = String::from_utf8_lossy(&bytes).chars().take(500).collect();
                let text = if text.trim().is_empty() {
                    code.to_string()
                } else {
                    text.trim().to_owned()
                };
                Status::failure(&text, "").with_code(code.as_u16())
            });
        Err(Error::Refused {
            attempted: attempted.to_owned(),
            status: Box::new(status),
        })
    }

    fn keep_warnings(&self, response: &Response<Body>) {
        let Ok(mut warnings) = self.warnings.lock() else {
            return;
        };
        for value in response.headers().get_all(http::header::WARNING) {
            if let Some(text) = value.to_str().ok().and_then(warning_text)
                && warnings.len() < WARNING_LIMIT
                && !warnings.contains(&text)
            {
                warnings.push(text);
            }
        }
    }

    fn classify(&self, attempted: &str, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => Error::Refused {
                attempted: attempted.to_owned(),
                status,
            },
            kube::Error::SerdeError(error) => Error::BadAnswer {
                attempted: attempted.to_owned(),
                reason: error.to_string(),
            },
            other => {
                let reason = match &other {
                    // What kube calls the layer says nothing to a person.
                    kube::Error::Service(inner) => chain(inner.as_ref()),
                    other => chain(other),
                };
                let advice = if reason.contains("onnection refused") {
                    "; is it running? `gctl up` starts one"
                } else if reason.contains("UnknownIssuer") || reason.contains("BadSignature") {
                    "; its certificate is not signed by the authority in the kubeconfig: is that of another data directory?"
                } else {
                    ""
                };
                Error::Unreachable {
                    attempted: attempted.to_owned(),
                    reason: format!("{}: {reason}{advice}", self.server),
                }
            }
        }
    }
}

/// An error and what caused it, joined by colons, without repeating what an outer one already says.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = for_people(&error.to_string());
    let mut source = error.source();
    while let Some(inner) = source {
        let words = for_people(&inner.to_string());
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = inner.source();
    }
    text
}

/// Without what libraries say to programmers: the names of their types, and links into their manuals.
fn for_people(words: &str) -> String {
    let words = words.strip_prefix("ServiceError: ").unwrap_or(words);
    let end = words.find(": https://docs.rs/").unwrap_or(words.len());
    words[..end].to_owned()
}

fn bad_request(attempted: &str, error: &http::Error) -> Error {
    Error::Usage(format!("failed to {attempted}: {error}"))
}

/// The text of a Warning header: `299 - "text"`.
fn warning_text(header: &str) -> Option<String> {
    let text = header.strip_prefix("299 ")?.split_once('"')?.1;
    let text = text.rsplit_once('"')?.0;
    Some(text.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// Text as it may stand in a path segment or a query value.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A query string with its `?`, of those pairs that have a value; nothing when none has.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&encode(value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_errors_is_said_for_people() {
        let tls = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/unexpected-eof";
        let inner = std::io::Error::other(format!("error reading a body from connection: {tls}"));
        let error = kube::Error::Service(Box::new(inner));
        assert_eq!(
            chain(&error),
            "error reading a body from connection: peer closed connection without sending TLS close_notify"
        );
    }

    #[test]
    fn queries_are_encoded_and_empty_values_left_out() {
        assert_eq!(
            query(&[("labelSelector", "a in (b,c)"), ("limit", ""), ("x", "1")]),
            "?labelSelector=a%20in%20%28b%2Cc%29&x=1"
        );
        assert_eq!(query(&[("a", "")]), "");
    }

    #[test]
    fn warnings_are_taken_out_of_their_header() {
        assert_eq!(
            warning_text(r#"299 - "unknown field \"spec.x\"""#).as_deref(),
            Some(r#"unknown field "spec.x""#)
        );
        assert_eq!(warning_text("nonsense"), None);
    }
}
