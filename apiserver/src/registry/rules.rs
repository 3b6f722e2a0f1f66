//! What built-in kinds demand beyond their schema: fields that the server fills in, and fields that may not change.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::kinds::Builtin;
use super::{limits, metadata};
use crate::schema::crd;
use crate::schema::field_error::{FieldError, Path};

/// The label that carries a namespace's own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Holds a namespace until it is empty.
pub(super) const NAMESPACE_FINALIZER: &str = "kubernetes";

/// Fills in what the server sets in an object of a built-in kind.
pub(super) fn complete(
    builtin: Builtin,
    object: &mut Map<String, Value>,
    old: Option<&Map<String, Value>>,
) {
    match builtin {
        Builtin::Namespace => complete_namespace(object, old),
        Builtin::Secret => complete_secret(object),
        Builtin::CustomResourceDefinition => {
            let mut definition = Value::Object(std::mem::take(object));
            crd::complete(&mut definition);
            if let Value::Object(completed) = definition {
                *object = completed;
            }
        }
        Builtin::CoreEvent | Builtin::Event | Builtin::ConfigMap | Builtin::Lease => {}
    }
}

fn complete_namespace(object: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let name = metadata::text(object, "name").to_owned();
    let labels = metadata::of_mut(object)
        .entry("labels")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(labels) = labels {
        labels.insert(NAME_LABEL.to_owned(), name.into());
    }
    // Only the finalize subresource changes the finalizers of a namespace, and only the server its phase.
    let spec = match old {
        Some(old) => old
            .get("spec")
            .cloned()
            .unwrap_or_else(|| serde_json::json!({})),
        None => serde_json::json!({"finalizers": [NAMESPACE_FINALIZER]}),
    };
    object.insert("spec".to_owned(), spec);
    if old.is_none() {
        object.insert("status".to_owned(), serde_json::json!({"phase": "Active"}));
    }
}

fn complete_secret(object: &mut Map<String, Value>) {
    if let Some(Value::Object(plain)) = object.remove("stringData") {
        let data = object
            .entry("data")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(data) = data {
            for (key, value) in plain {
                data.insert(
                    key,
                    STANDARD.encode(value.as_str().unwrap_or_default()).into(),
                );
            }
        }
    }
    if object
        .get("type")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        object.insert("type".to_owned(), "Opaque".into());
    }
}

/// Complaints beyond the schema about an object of a built-in kind.
pub(super) fn validate(
    builtin: Builtin,
    object: &Map<String, Value>,
    old: Option<&Map<String, Value>>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match builtin {
        Builtin::Secret => {
            validate_data(object, old, &["data"], &mut errors);
            if let Some(old) = old
                && old.get("type") != object.get("type")
            {
                let now = object.get("type").cloned().unwrap_or_default();
                errors.push(FieldError::invalid(
                    &Path::Root.field("type"),
                    now,
                    "field is immutable",
                ));
            }
        }
        Builtin::ConfigMap => validate_data(object, old, &["data", "binaryData"], &mut errors),
        Builtin::Event => {
            if old.is_none() && object.get("eventTime").is_none_or(Value::is_null) {
                errors.push(FieldError::required(&Path::Root.field("eventTime"), ""));
            }
        }
        Builtin::CoreEvent => validate_core_event(object, &mut errors),
        Builtin::CustomResourceDefinition => {
            if let Some(old) = old {
                let (new, old) = (Value::Object(object.clone()), Value::Object(old.clone()));
                errors.extend(crd::validate_update(&new, &old));
            }
        }
        Builtin::Namespace | Builtin::Lease => {}
    }
    errors
}

fn validate_core_event(object: &Map<String, Value>, errors: &mut Vec<FieldError>) {
    let about = object
        .get("involvedObject")
        .and_then(|o| o.get("namespace"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let namespace = metadata::text(object, "namespace");
    // Events about objects outside any namespace lie in `default`.
    let fits = if about.is_empty() {
        namespace == "default"
    } else {
        about == namespace
    };
    if !fits {
        let involved = Path::Root.field("involvedObject");
        errors.push(FieldError::invalid(
            &involved.field("namespace"),
            about,
            "does not match event.namespace",
        ));
    }
}

fn validate_data(
    object: &Map<String, Value>,
    old: Option<&Map<String, Value>>,
    fields: &[&str],
    errors: &mut Vec<FieldError>,
) {
    let was_immutable = old.is_some_and(|old| old.get("immutable") == Some(&Value::Bool(true)));
    let mut total = 0;
    for field in fields {
        let path = Path::Root.field(field);
        let data = object.get(*field).and_then(Value::as_object);
        for (key, value) in data.into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            total += text.len();
            let is_name = key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if key.is_empty() || key.len() > 253 || !is_name || key == "." || key == ".." {
                let why =
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                errors.push(FieldError::invalid(&path, key.as_str(), why));
            }
            if (*field == "binaryData" || fields.len() == 1) && STANDARD.decode(text).is_err() {
                errors.push(FieldError::invalid(
                    &path.key(key),
                    "",
                    "illegal base64 data",
                ));
            }
        }
        if was_immutable && old.and_then(|old| old.get(*field)) != object.get(*field) {
            errors.push(FieldError::forbidden(
                &path,
                "field is immutable when `immutable` is set",
            ));
        }
    }
    if was_immutable && object.get("immutable") != Some(&Value::Bool(true)) {
        errors.push(FieldError::forbidden(
            &Path::Root.field("immutable"),
            "field is immutable when `immutable` is set",
        ));
    }
    if total > limits::MAX_DATA_BYTES {
        errors.push(FieldError::too_long(
            &Path::Root.field("data"),
            limits::MAX_DATA_BYTES as u64,
        ));
    }
}

/// Does the object stay although it has no finalizers in its metadata? Namespaces have theirs in `spec`.
pub(super) fn holds_itself(builtin: Option<Builtin>, object: &Map<String, Value>) -> bool {
    builtin == Some(Builtin::Namespace)
        && object
            .get("spec")
            .and_then(|spec| spec.get("finalizers"))
            .and_then(Value::as_array)
            .is_some_and(|finalizers| !finalizers.is_empty())
}
