//! What every written object goes through first: is it of the right kind, does it belong where it is sent, and what in it
//! is unknown.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::kinds::ServedKind;
use super::options::invalid;
use super::{limits, metadata};
use crate::http::status::Status;
use crate::schema::decode::Decoded;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::{FieldValidation, ReadError};

/// An object whose identity fits the request.
pub(super) struct Prepared {
    pub(super) object: Map<String, Value>,
    pub(super) warnings: Vec<String>,
}

/// Reads a body as an object of the kind that lies in `namespace` and, if the path says so, has this `name`.
pub(super) fn read(
    kind: &ServedKind,
    namespace: &str,
    name: Option<&str>,
    body: Decoded,
    validation: FieldValidation,
) -> Result<Prepared, Status> {
    let named = |value: &Value| {
        value
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let body_name = named(&body.value);
    let read = kind
        .schema
        .read(body, validation)
        .map_err(|error| match error {
            ReadError::BadRequest(why) | ReadError::Strict(why) => Status::bad_request(why),
            ReadError::Invalid(errors) => invalid(&kind.kind, &kind.group, &body_name, &errors),
        })?;
    let Value::Object(mut object) = read.value else {
        return Err(Status::bad_request(
            "the body of the request is not an object",
        ));
    };
    place(kind, namespace, name, &mut object)?;
    Ok(Prepared {
        object,
        warnings: read.warnings,
    })
}

/// The same for the result of a patch: what is unknown is the patch's fault, and is told so.
pub(super) fn read_patched(
    kind: &ServedKind,
    namespace: &str,
    name: &str,
    patched: Decoded,
    patch: &Value,
    validation: FieldValidation,
) -> Result<Prepared, Status> {
    let read = kind
        .schema
        .read(patched, validation)
        .map_err(|error| match error {
            ReadError::BadRequest(why) => Status::bad_request(why),
            ReadError::Strict(why) => {
                let at = why.find("strict decoding error").unwrap_or(0);
                let error =
                    FieldError::invalid(&Path::Root.field("patch"), patch.to_string(), &why[at..]);
                invalid(&kind.kind, &kind.group, name, &[error])
            }
            ReadError::Invalid(errors) => invalid(&kind.kind, &kind.group, name, &errors),
        })?;
    let Value::Object(mut object) = read.value else {
        return Err(Status::bad_request("the patched document is not an object"));
    };
    place(kind, namespace, Some(name), &mut object)?;
    Ok(Prepared {
        object,
        warnings: read.warnings,
    })
}

/// Holds namespace and name of an object against the path, and fills in what the object leaves out.
fn place(
    kind: &ServedKind,
    namespace: &str,
    name: Option<&str>,
    object: &mut Map<String, Value>,
) -> Result<(), Status> {
    // What is empty is as good as absent, as in typed clients; only an empty managedFields has a meaning of its own.
    metadata::of_mut(object).retain(|key, value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty() || key == "managedFields",
        Value::String(text) => !text.is_empty(),
        _ => true,
    });
    let body_namespace = metadata::text(object, "namespace");
    if !kind.is_namespaced() {
        metadata::set(object, "namespace", None);
    } else if body_namespace.is_empty() {
        metadata::set(object, "namespace", Some(namespace.into()));
    } else if body_namespace != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let Some(name) = name else { return Ok(()) };
    let body_name = metadata::text(object, "name");
    if body_name.is_empty() {
        metadata::set(object, "name", Some(name.into()));
    } else if body_name != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({body_name}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

/// Keeps warnings within what clients and proxies carry, each once.
pub(super) fn bounded(mut warnings: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    if warnings.iter().map(String::len).sum::<usize>() > limits::MAX_WARNINGS_BYTES {
        for warning in &mut warnings {
            let cut = (0..=limits::MAX_WARNING_BYTES.min(warning.len()))
                .rev()
                .find(|at| warning.is_char_boundary(*at));
            warning.truncate(cut.unwrap_or(0));
        }
        warnings.truncate(limits::MAX_WARNINGS_BYTES / limits::MAX_WARNING_BYTES);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_bounded() {
        assert_eq!(
            bounded(vec!["a".to_owned(), "b".to_owned(), "a".to_owned()]),
            ["a", "b"]
        );
        let many: Vec<String> = (0..100)
            .map(|i| format!("{i} {}", "x".repeat(1_000)))
            .collect();
        let total: usize = bounded(many).iter().map(String::len).sum();
        assert!(total <= limits::MAX_WARNINGS_BYTES);
    }
}
