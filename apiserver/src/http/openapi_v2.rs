//! `/openapi/v2`: a valid document that describes no kind.
//!
//! Kinds are described in OpenAPI v3. Clients still ask for v2 when they meet a kind that the server does not serve, and
//! they take "nothing is known about it" for an answer, but not a missing or unreadable document: kubectl would then
//! blame the document instead of saying that the kind does not exist.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::json;

use super::status::Status;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same, as clients wrote it before it was a valid media type.
const OLD_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

fn field(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// `openapi.v2.Document` with swagger 1, info 2 {title 1, version 2}, paths 8, definitions 9.
fn protobuf() -> Vec<u8> {
    let mut info = Vec::new();
    field(1, b"gctl", &mut info);
    field(2, b"v1.32.0", &mut info);
    let mut document = Vec::new();
    field(1, b"2.0", &mut document);
    field(2, &info, &mut document);
    field(8, b"", &mut document);
    field(9, b"", &mut document);
    document
}

/// Answers `/openapi/v2` in protobuf or JSON, whichever comes first in `Accept`.
pub(super) fn respond(headers: &HeaderMap) -> Response {
    let accept = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let clauses: Vec<&str> = accept
        .flat_map(|text| text.split(','))
        .map(|clause| clause.split(';').next().unwrap_or("").trim())
        .collect();
    let wanted = clauses.iter().find_map(|clause| match *clause {
        PROTOBUF | OLD_PROTOBUF => Some(true),
        "application/json" | "application/*" | "*/*" => Some(false),
        _ => None,
    });
    let (media, body) = match wanted {
        Some(true) => (PROTOBUF, protobuf()),
        None if !clauses.is_empty() => {
            return Status::not_acceptable(&["application/json", PROTOBUF]).into_response();
        }
        Some(false) | None => {
            let document = json!({
                "swagger": "2.0",
                "info": {"title": "gctl", "version": "v1.32.0"},
                "paths": {},
                "definitions": {},
            });
            ("application/json", document.to_string().into_bytes())
        }
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media)),
        (header::VARY, HeaderValue::from_static("Accept")),
    ];
    (StatusCode::OK, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_comes_in_the_form_that_was_asked_for() {
        for (accept, expected) in [
            (None, Some("application/json")),
            (Some(OLD_PROTOBUF), Some(PROTOBUF)),
            (Some("application/json, */*"), Some("application/json")),
            (Some("text/html"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            let response = respond(&headers);
            let found = (response.status() == StatusCode::OK).then(|| {
                response.headers()[header::CONTENT_TYPE]
                    .to_str()
                    .unwrap()
                    .to_owned()
            });
            assert_eq!(found.as_deref(), expected, "{accept:?}");
        }
        assert_eq!(protobuf()[..5], *b"\x0a\x032.0");
    }
}
