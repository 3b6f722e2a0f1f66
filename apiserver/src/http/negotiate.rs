//! Which form an answer takes (`Accept`) and which form a body has (`Content-Type`).
//!
//! The clauses of `Accept` are walked in order of preference and the first that fits wins; unknown parameters are
//! ignored. JSON is right whenever `Accept` is absent or names JSON or a wildcard anywhere, whatever it lists first:
//! Kubernetes' own clients list protobuf first and are content with JSON.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

use super::attributes::{query_flag, query_value};
use super::status::Status;
use crate::schema::yaml::to_yaml;

/// What kind of answer is being negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// One object: get, create, update, patch, delete.
    Object,
    /// A list of objects.
    List,
    /// A watch of objects.
    Watch,
    /// A document that has one JSON form only.
    Document,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object or list itself, as JSON.
    Json,
    /// The object or list itself, as YAML.
    Yaml,
    /// A `meta.k8s.io` Table.
    Table {
        /// Whether the older `v1beta1` was asked for.
        v1beta1: bool,
    },
    /// `PartialObjectMetadata` for objects and watches, `PartialObjectMetadataList` for lists.
    Partial,
}

/// The form of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyForm {
    /// JSON, also when the header is absent.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes protobuf.
    Protobuf,
    /// RFC 6902.
    JsonPatch,
    /// RFC 7386.
    MergePatch,
    /// Server-side apply.
    ApplyPatch,
    /// Strategic merge patch.
    StrategicMergePatch,
    /// Anything else.
    Other,
}

/// The media types that objects can be written in.
pub const OBJECT_TYPES: &[&str] = &["application/json", "application/yaml"];

struct Clause {
    media: String,
    params: Vec<(String, String)>,
    quality: f32,
}

impl Clause {
    fn param(&self, key: &str) -> &str {
        self.params
            .iter()
            .find(|(name, _)| name == key)
            .map_or("", |(_, value)| value.as_str())
    }

    fn is_json(&self) -> bool {
        matches!(
            self.media.as_str(),
            "application/json" | "application/*" | "*/*"
        )
    }
}

fn clauses(headers: &HeaderMap) -> Vec<Clause> {
    let mut found: Vec<Clause> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(parse_clause)
        .collect();
    // A stable sort keeps the client's order among equals.
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

fn parse_clause(text: &str) -> Option<Clause> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts
        .next()
        .filter(|media| !media.is_empty())?
        .to_ascii_lowercase();
    let mut quality = 1.0;
    let mut params = Vec::new();
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim().trim_matches('"');
        if name.eq_ignore_ascii_case("q") {
            quality = value.parse().unwrap_or(1.0);
        } else {
            params.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    (quality > 0.0).then_some(Clause {
        media,
        params,
        quality,
    })
}

/// Chooses the form of an answer, or says 406.
pub fn negotiate(headers: &HeaderMap, want: Want) -> Result<Form, Status> {
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Form::Json);
    }
    clauses
        .iter()
        .find_map(|clause| form_of(clause, want))
        .ok_or_else(|| {
            Status::not_acceptable(if want == Want::Watch {
                &["application/json"]
            } else {
                OBJECT_TYPES
            })
        })
}

fn form_of(clause: &Clause, want: Want) -> Option<Form> {
    let yaml = clause.media == "application/yaml";
    if !clause.is_json() && !yaml {
        return None;
    }
    match (clause.param("as"), clause.param("g"), clause.param("v")) {
        ("", _, _) if yaml => (want != Want::Watch).then_some(Form::Yaml),
        ("", _, _) => Some(Form::Json),
        ("Table", "meta.k8s.io", version @ ("v1" | "v1beta1"))
            if want != Want::Document && !yaml =>
        {
            Some(Form::Table {
                v1beta1: version == "v1beta1",
            })
        }
        ("PartialObjectMetadata", "meta.k8s.io", "v1")
            if matches!(want, Want::Object | Want::Watch) && !yaml =>
        {
            Some(Form::Partial)
        }
        ("PartialObjectMetadataList", "meta.k8s.io", "v1") if want == Want::List && !yaml => {
            Some(Form::Partial)
        }
        _ => None,
    }
}

/// Which aggregated discovery was asked for, if it comes before the plain form: `v2` or `v2beta1`.
pub fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    clauses(headers).iter().find_map(|clause| {
        if !clause.is_json() {
            return None;
        }
        match (clause.param("as"), clause.param("g"), clause.param("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Some("v2")),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Some(Some("v2beta1")),
            ("", _, _) => Some(None),
            _ => None,
        }
    })?
}

/// The form of the body that comes with these headers.
pub fn body_form(headers: &HeaderMap) -> BodyForm {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return BodyForm::Json;
    };
    let text = value.to_str().unwrap_or("?");
    let media = text
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match media.as_str() {
        "" | "application/json" => BodyForm::Json,
        "application/yaml" | "application/x-yaml" | "text/yaml" => BodyForm::Yaml,
        "application/vnd.kubernetes.protobuf" => BodyForm::Protobuf,
        "application/json-patch+json" => BodyForm::JsonPatch,
        "application/merge-patch+json" => BodyForm::MergePatch,
        "application/apply-patch+yaml" => BodyForm::ApplyPatch,
        "application/strategic-merge-patch+json" => BodyForm::StrategicMergePatch,
        _ => BodyForm::Other,
    }
}

/// Whether to print for people: `?pretty=true`, or a well-known interactive agent that did not say otherwise.
pub fn wants_pretty(headers: &HeaderMap, query: Option<&str>) -> bool {
    if query_value(query, "pretty").is_some() {
        return query_flag(query, "pretty");
    }
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|prefix| agent.starts_with(prefix))
}

/// Which objects the rows of a Table carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    /// Metadata only.
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    Nothing,
}

/// How an answer is to be written, read from a request once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The form.
    pub form: Form,
    /// What the rows of a Table carry.
    pub include: IncludeObject,
    /// Whether to print for people.
    pub pretty: bool,
}

impl Output {
    /// Compact JSON, the form that everybody takes.
    pub const JSON: Self = Self {
        form: Form::Json,
        include: IncludeObject::Metadata,
        pretty: false,
    };

    /// Reads `Accept`, `includeObject` and `pretty`; an error says 406 or 400.
    pub fn read(headers: &HeaderMap, query: Option<&str>, want: Want) -> Result<Self, Status> {
        let include = match query_value(query, "includeObject").as_deref() {
            None | Some("" | "Metadata") => IncludeObject::Metadata,
            Some("Object") => IncludeObject::Object,
            Some("None") => IncludeObject::Nothing,
            Some(other) => {
                let message = format!("unrecognized includeObject value: {other:?}");
                return Err(Status::bad_request(message));
            }
        };
        Ok(Self {
            form: negotiate(headers, want)?,
            include,
            pretty: want != Want::Watch && wants_pretty(headers, query),
        })
    }

    /// Whether stored bytes can be sent as they are.
    pub fn is_json_passthrough(&self) -> bool {
        self.form == Form::Json && !self.pretty
    }

    /// An answer from compact JSON: as it is, indented, or as YAML.
    pub fn respond(&self, code: StatusCode, json: Bytes) -> Response {
        let (media, body) = match self.form {
            Form::Yaml => match yaml_from(&json) {
                Some(yaml) => ("application/yaml", Bytes::from(yaml)),
                None => ("application/json", json),
            },
            _ if self.pretty => (
                "application/json",
                indented(&json).map_or(json, Bytes::from),
            ),
            _ => ("application/json", json),
        };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(media)),
            (header::VARY, HeaderValue::from_static("Accept")),
        ];
        (code, headers, body).into_response()
    }
}

fn yaml_from(json: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(json).ok()?;
    Some(to_yaml(&value))
}

fn indented(json: &[u8]) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let mut text = serde_json::to_vec_pretty(&value).ok()?;
    text.push(b'\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

    fn accept(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().expect("a header value"));
        headers
    }

    #[test]
    fn the_first_clause_that_fits_wins() {
        let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let partial_list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        for (text, want, form) in [
            ("", Want::Object, Some(Form::Json)),
            ("*/*", Want::List, Some(Form::Json)),
            (TABLE, Want::List, Some(Form::Table { v1beta1: false })),
            (TABLE, Want::Watch, Some(Form::Table { v1beta1: false })),
            (TABLE, Want::Document, Some(Form::Json)),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
                Want::Object,
                Some(Form::Table { v1beta1: true }),
            ),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Want::Object,
                Some(Form::Json),
            ),
            ("application/vnd.kubernetes.protobuf", Want::Object, None),
            (
                "application/json;profile=nested;q=0.5",
                Want::Object,
                Some(Form::Json),
            ),
            (
                "application/json;q=0.1,application/yaml",
                Want::Object,
                Some(Form::Yaml),
            ),
            ("application/yaml", Want::Watch, None),
            (partial, Want::Object, Some(Form::Partial)),
            (partial, Want::List, None),
            (partial_list, Want::List, Some(Form::Partial)),
            (partial_list, Want::Watch, None),
            ("text/html", Want::Object, None),
        ] {
            assert_eq!(negotiate(&accept(text), want).ok(), form, "{text} {want:?}");
        }
    }

    #[test]
    fn aggregated_discovery_is_only_for_those_who_ask_first() {
        assert_eq!(aggregated_discovery(&accept(DISCOVERY)), Some("v2"));
        assert_eq!(aggregated_discovery(&accept("application/json")), None);
        assert_eq!(
            aggregated_discovery(&accept(&format!("application/json, {DISCOVERY}"))),
            None
        );
    }

    #[test]
    fn a_body_without_a_type_is_json_and_parameters_do_not_matter() {
        let mut headers = HeaderMap::new();
        assert_eq!(body_form(&headers), BodyForm::Json);
        headers.insert(
            header::CONTENT_TYPE,
            "application/merge-patch+json; charset=utf-8"
                .parse()
                .unwrap(),
        );
        assert_eq!(body_form(&headers), BodyForm::MergePatch);
        headers.insert(header::CONTENT_TYPE, "application/cbor".parse().unwrap());
        assert_eq!(body_form(&headers), BodyForm::Other);
    }
}
