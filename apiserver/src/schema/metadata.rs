//! The rules of `metadata`, the same for every kind.
//!
//! Reading ([`read`]) makes metadata what a typed struct would have made of it: wrong types are
//! refused, unknown keys dropped and named. Validation follows, after the server has filled in its own fields.

use serde_json::{Map, Value};

use super::decode::MAX_FINDINGS;
use super::engine::type_name;
use super::field_error::{FieldError, Path};
use super::names;

/// The most that all keys and values of the annotations may come to, in bytes. Specified by Kubernetes.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Which grammar the names of a kind follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain, at most 253 bytes (custom resources and most kinds).
    #[default]
    Subdomain,
    /// DNS-1123 label, at most 63 bytes (namespaces).
    Label,
}

/// The type of a metadata field.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Time,
    Integer,
    Flag,
    Texts,
    TextMap,
    Owners,
    Managers,
}

const FIELDS: [(&str, Shape); 15] = [
    ("annotations", Shape::TextMap),
    ("creationTimestamp", Shape::Time),
    ("deletionGracePeriodSeconds", Shape::Integer),
    ("deletionTimestamp", Shape::Time),
    ("finalizers", Shape::Texts),
    ("generateName", Shape::Text),
    ("generation", Shape::Integer),
    ("labels", Shape::TextMap),
    ("managedFields", Shape::Managers),
    ("name", Shape::Text),
    ("namespace", Shape::Text),
    ("ownerReferences", Shape::Owners),
    ("resourceVersion", Shape::Text),
    ("selfLink", Shape::Text),
    ("uid", Shape::Text),
];

const OWNER_FIELDS: [(&str, Shape); 6] = [
    ("apiVersion", Shape::Text),
    ("blockOwnerDeletion", Shape::Flag),
    ("controller", Shape::Flag),
    ("kind", Shape::Text),
    ("name", Shape::Text),
    ("uid", Shape::Text),
];

/// Makes `metadata` of `object` a map (absent and null become empty), drops nulls, empty collections of
/// the wrong null kind and unknown keys, and answers the unknown keys' paths.
///
/// # Errors
/// The text of a 400 when a field has the wrong type.
pub fn read(object: &mut Map<String, Value>) -> Result<Vec<String>, String> {
    let metadata = object.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let mut unknown = Vec::new();
    let path = Path::Root.field("metadata");
    match metadata {
        Value::Object(map) => fields(map, &FIELDS, &path, &mut unknown)?,
        other => return Err(mismatch(&path, other, "object")),
    }
    Ok(unknown)
}

fn mismatch(path: &Path<'_>, value: &Value, wanted: &str) -> String {
    format!(
        "json: cannot unmarshal {} into field {path} of type {wanted}",
        type_name(value)
    )
}

fn fields(
    map: &mut Map<String, Value>,
    known: &[(&str, Shape)],
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let mut strangers = false;
    let mut nulls = false;
    for (name, value) in map.iter_mut() {
        match known.iter().find(|(field, _)| field == name) {
            None => {
                strangers = true;
                if unknown.len() < MAX_FINDINGS {
                    unknown.push(path.field(name).to_string());
                }
            }
            Some(_) if value.is_null() => nulls = true,
            Some((_, shape)) => check(value, *shape, &path.field(name), unknown)?,
        }
    }
    if strangers || nulls {
        map.retain(|name, value| !value.is_null() && known.iter().any(|(field, _)| field == name));
    }
    Ok(())
}

fn check(
    value: &mut Value,
    shape: Shape,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let wanted = match (shape, value) {
        // Managed fields are judged, and where they are garbage ignored, by `managed_fields`.
        (Shape::Text, Value::String(_))
        | (Shape::Flag, Value::Bool(_))
        | (Shape::Managers, Value::Array(_)) => {
            return Ok(());
        }
        (Shape::Time, Value::String(text)) => {
            let parsed = text.parse::<jiff::Timestamp>();
            return parsed
                .map(|_| ())
                .map_err(|_| format!("parsing time {text:?} of field {path}: not RFC 3339"));
        }
        (Shape::Integer, Value::Number(n)) if n.is_i64() => return Ok(()),
        (Shape::Texts, Value::Array(items)) => {
            return match items.iter().enumerate().find(|(_, item)| !item.is_string()) {
                Some((at, item)) => Err(mismatch(&path.index(at), item, "string")),
                None => Ok(()),
            };
        }
        (Shape::TextMap, Value::Object(map)) => {
            return match map.iter().find(|(_, value)| !value.is_string()) {
                Some((key, value)) => Err(mismatch(&path.field(key), value, "string")),
                None => Ok(()),
            };
        }
        (Shape::Owners, Value::Array(items)) => {
            for (at, item) in items.iter_mut().enumerate() {
                let path = path.index(at);
                match item {
                    Value::Object(map) => fields(map, &OWNER_FIELDS, &path, unknown)?,
                    other => return Err(mismatch(&path, other, "object")),
                }
            }
            return Ok(());
        }
        (shape, other) => (shape, other),
    };
    let name = match wanted.0 {
        Shape::Text | Shape::Time => "string",
        Shape::Integer => "integer",
        Shape::Flag => "boolean",
        Shape::Texts | Shape::Owners | Shape::Managers => "array",
        Shape::TextMap => "object",
    };
    Err(mismatch(path, wanted.1, name))
}

/// Removes repeated owner references and answers the warnings that metadata earns.
pub fn normalize(metadata: &mut Map<String, Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences")
        && owners.len() > 1
    {
        let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
        let mut repeated = Vec::new();
        for owner in owners.drain(..) {
            if kept.contains(&owner) {
                repeated.push(
                    owner
                        .get("uid")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                );
            } else {
                kept.push(owner);
            }
        }
        *owners = kept;
        if !repeated.is_empty() {
            warnings.push(format!(
                ".metadata.ownerReferences contains duplicate entries; duplicate UID(s) observed: {}",
                repeated.join(", ")
            ));
        }
    }
    for finalizer in texts(metadata, "finalizers") {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            warnings.push(format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
            ));
        }
    }
    warnings
}

const STANDARD_FINALIZERS: [&str; 4] = [
    "kubernetes",
    "orphan",
    "foregroundDeletion",
    "customresourcecleanup.apiextensions.k8s.io",
];

fn text<'m>(metadata: &'m Map<String, Value>, name: &str) -> &'m str {
    metadata
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn texts<'m>(metadata: &'m Map<String, Value>, name: &str) -> impl Iterator<Item = &'m str> {
    metadata
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Validates the metadata of an object about to be created.
pub fn validate_create(
    metadata: &Map<String, Value>,
    rule: NameRule,
    namespaced: bool,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = &Path::Root.field("metadata");
    name(metadata, rule, path, &mut errors);
    let namespace = text(metadata, "namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required(&path.field("namespace"), ""));
        } else {
            for wrong in names::dns_label(namespace) {
                errors.push(FieldError::invalid(
                    &path.field("namespace"),
                    namespace,
                    wrong,
                ));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(
            &path.field("namespace"),
            "not allowed on this type",
        ));
    }
    labels(metadata, path, &mut errors);
    annotations(metadata, path, &mut errors);
    owners(metadata, path, &mut errors);
    finalizers(metadata, path, &mut errors);
    errors
}

/// Validates changed metadata. The server has put back what only it may set before this is called,
/// so what is found here are real attempts to change what may not change.
pub fn validate_update(new: &Map<String, Value>, old: &Map<String, Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = &Path::Root.field("metadata");
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (now, before) = (new.get(field), old.get(field));
        if now != before {
            let now = now.cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(
                &path.field(field),
                now,
                "field is immutable",
            ));
        }
    }
    let changed = |field: &str| new.get(field) != old.get(field);
    if changed("labels") {
        labels(new, path, &mut errors);
    }
    if changed("annotations") {
        annotations(new, path, &mut errors);
    }
    if changed("ownerReferences") {
        owners(new, path, &mut errors);
    }
    if changed("finalizers") {
        finalizers(new, path, &mut errors);
        if old.contains_key("deletionTimestamp") {
            let added: Vec<String> = texts(new, "finalizers")
                .filter(|now| !texts(old, "finalizers").any(|before| before == *now))
                .map(|name| format!("{name:?}"))
                .collect();
            if !added.is_empty() {
                errors.push(FieldError::forbidden(
                    &path.field("finalizers"),
                    format!(
                        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                        added.join(", ")
                    ),
                ));
            }
        }
    }
    errors
}

/// Validates an object embedded in another (`x-kubernetes-embedded-resource`).
pub(super) fn validate_embedded(
    object: &Map<String, Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    for field in ["apiVersion", "kind"] {
        match object.get(field).and_then(Value::as_str) {
            None | Some("") => errors.push(FieldError::required(
                &path.field(field),
                "must not be empty",
            )),
            Some(_) => {}
        }
    }
    let path = &path.field("metadata");
    match object.get("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => {
            if !text(metadata, "name").is_empty() {
                name(metadata, NameRule::Subdomain, path, errors);
            }
            labels(metadata, path, errors);
            annotations(metadata, path, errors);
            owners(metadata, path, errors);
            finalizers(metadata, path, errors);
        }
        Some(other) => errors.push(FieldError::type_invalid(path, type_name(other), "object")),
    }
}

fn name(
    metadata: &Map<String, Value>,
    rule: NameRule,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let name = text(metadata, "name");
    if name.is_empty() {
        errors.push(FieldError::required(
            &path.field("name"),
            "name or generateName is required",
        ));
        return;
    }
    let wrong = match rule {
        NameRule::Subdomain => names::dns_subdomain(name),
        NameRule::Label => names::dns_label(name),
    };
    errors.extend(
        wrong
            .into_iter()
            .map(|why| FieldError::invalid(&path.field("name"), name, why)),
    );
}

fn labels(metadata: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &path.field("labels");
    for (key, value) in metadata
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        for wrong in names::qualified_name(key) {
            errors.push(FieldError::invalid(path, key.as_str(), wrong));
        }
        let value = value.as_str().unwrap_or_default();
        for wrong in names::label_value(value) {
            errors.push(FieldError::invalid(path, value, wrong));
        }
    }
}

fn annotations(metadata: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &path.field("annotations");
    let mut total = 0;
    for (key, value) in metadata
        .get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        for wrong in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key.as_str(), wrong));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX as u64));
    }
}

fn owners(metadata: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &path.field("ownerReferences");
    let mut controller: Option<&str> = None;
    let list = metadata
        .get("ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for (at, owner) in list.filter_map(Value::as_object).enumerate() {
        let path = &path.index(at);
        let api_version = text(owner, "apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() || api_version.matches('/').count() > 1 {
            errors.push(FieldError::invalid(
                &path.field("apiVersion"),
                api_version,
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(
                    &path.field(field),
                    "",
                    "must not be empty",
                ));
            }
        }
        if text(owner, "kind") == "Event" && matches!(api_version, "v1" | "events.k8s.io/v1") {
            let detail = format!("{api_version}, Kind=Event is disallowed from being an owner");
            errors.push(FieldError::invalid(
                path,
                Value::Object(owner.clone()),
                detail,
            ));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = text(owner, "name");
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push(FieldError::invalid(
                    path,
                    Value::Object(owner.clone()),
                    detail,
                ));
            }
            controller = Some(this);
        }
    }
}

fn finalizers(metadata: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &path.field("finalizers");
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in texts(metadata, "finalizers") {
        orphan |= finalizer == "orphan";
        foreground |= finalizer == "foregroundDeletion";
        for wrong in names::qualified_name(finalizer) {
            errors.push(FieldError::invalid(path, finalizer, wrong));
        }
    }
    if orphan && foreground {
        let all = metadata.get("finalizers").cloned().unwrap_or_default();
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, all, detail));
    }
}

#[cfg(test)]
mod tests;
