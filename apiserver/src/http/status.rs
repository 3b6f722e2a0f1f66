//! The Kubernetes `Status` object as an error: what every non-2xx answer of a known path carries.
//!
//! Clients match on `reason`, `code`, `details.kind` and the causes, so those are the contract here; the
//! messages follow upstream's wording because people search for them. `details.kind` is the plural resource
//! for all reasons but `Invalid`, where it is the Kind.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

/// One `details.causes` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason such as `FieldValueInvalid`.
    pub reason: String,
    /// The text a person reads.
    pub message: String,
    /// The field path, empty when the cause has none.
    pub field: String,
}

/// The `details` of a failure; empty strings are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group of the object.
    pub group: String,
    /// Plural resource, or the Kind when the reason is `Invalid`.
    pub kind: String,
    /// uid of the object.
    pub uid: String,
    /// The causes, in the order they were found.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense; 0 = none. Also sent as `Retry-After`.
    pub retry_after_seconds: u32,
}

/// A failure as Kubernetes tells it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code, repeated in the body.
    pub code: StatusCode,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// The text a person reads.
    pub message: String,
    /// Which object, and why in detail.
    pub details: Option<Box<Details>>,
    /// `metadata.continue`, for an expired list.
    pub continue_token: Option<String>,
}

/// `plural.group`, or just `plural` in the core group.
pub fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

impl Status {
    /// A failure without details.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            continue_token: None,
        }
    }

    /// The same failure with details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// 404: the object is missing.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(plural, group));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(group, plural, name)
    }

    /// 409: the object has changed or is another one.
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(plural, group)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(group, plural, name)
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: no credentials, or wrong ones.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403 with upstream's wording for the caller to build.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// 405: the resource does not offer the verb.
    pub fn method_not_allowed(group: &str, plural: &str, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {:?}",
            qualified(plural, group)
        );
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .about(group, plural, "")
    }

    /// 406: nothing that the client accepts can be produced.
    pub fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            supported.join(", ")
        );
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// 415: the body is in a format that this resource does not take.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    /// 413: the body is larger than the limit, in bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
        )
    }

    /// 504: the request ran out of time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// 500: a bug or a broken disk; the text goes to the client, so it must not hold secrets.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {why}");
        let cause = Cause {
            reason: String::new(),
            message: why.to_string(),
            field: String::new(),
        };
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message).with_details(
            Details {
                causes: vec![cause],
                ..Details::default()
            },
        )
    }

    fn about(self, group: &str, plural: &str, name: &str) -> Self {
        self.with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: plural.to_owned(),
            ..Details::default()
        })
    }

    /// The JSON body.
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".to_owned(), token.as_str().into());
        }
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if let Some(details) = &self.details {
            body["details"] = details.to_value();
        }
        body
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            map.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            map.insert(
                "retryAfterSeconds".to_owned(),
                self.retry_after_seconds.into(),
            );
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [
            ("reason", &self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ] {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.as_str().into());
            }
        }
        Value::Object(map)
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        let body = self.to_value().to_string();
        let mut response = (
            self.code,
            [(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            )],
            body,
        )
            .into_response();
        if let Some(seconds) = self
            .details
            .as_ref()
            .map(|details| details.retry_after_seconds)
            && seconds > 0
        {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The one plain-text error that clients expect: an unknown path or resource.
pub fn page_not_found() -> Response {
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
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_names_the_plural_and_omits_empty_details() {
        let body = Status::not_found("gctl.dev", "jobs", "x").to_value();
        assert_eq!(body["message"], "jobs.gctl.dev \"x\" not found");
        assert_eq!(
            body["details"],
            json!({"name": "x", "group": "gctl.dev", "kind": "jobs"})
        );
        assert_eq!(body["code"], 404);
        let core = Status::not_found("", "namespaces", "x").to_value();
        assert_eq!(core["message"], "namespaces \"x\" not found");
        assert!(core["details"].get("group").is_none());
    }

    #[test]
    fn retry_seconds_are_sent_as_a_header_too() {
        let status = Status::timeout("slow").with_details(Details {
            retry_after_seconds: 3,
            ..Details::default()
        });
        let response = status.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
        assert!(
            !Status::timeout("slow")
                .into_response()
                .headers()
                .contains_key(header::RETRY_AFTER)
        );
    }
}
