//! CustomResourceDefinitions: filling them in, validating them, and compiling their versions.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::field_error::{FieldError, Path};
use super::jsonpath::JsonPath;
use super::kind::{KindSchema, KindTraits};
use super::metadata::NameRule;
use super::names;
use super::structural::{Schema, Type};

/// The most selectable fields of one version. Specified by Kubernetes.
pub const SELECTABLE_MAX: usize = 8;

/// One version of a definition, ready to be served.
#[derive(Clone, Debug)]
pub struct CompiledVersion {
    /// The version's name.
    pub name: String,
    /// Is it served?
    pub served: bool,
    /// Is it the version objects are stored in?
    pub storage: bool,
    /// Its compiled schema.
    pub schema: Arc<KindSchema>,
    /// Its openAPIV3Schema.
    pub open_api: Arc<Value>,
}

static NOTHING: Value = Value::Null;

fn at<'v>(value: &'v Value, field: &str) -> &'v Value {
    value.get(field).unwrap_or(&NOTHING)
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    at(value, field).as_str().unwrap_or_default()
}

fn is_set(value: &Value, field: &str) -> bool {
    at(value, field) == &Value::Bool(true)
}

/// Fills in what a definition may leave out: singular, list kind, conversion.
pub fn complete(definition: &mut Value) {
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        complete_names(names);
    }
    let conversion = spec.entry("conversion").or_insert_with(|| json!({}));
    if let Some(conversion) = conversion.as_object_mut()
        && conversion
            .get("strategy")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        conversion.insert("strategy".to_owned(), Value::from("None"));
    }
}

fn complete_names(names: &mut Map<String, Value>) {
    let Some(kind) = names.get("kind").and_then(Value::as_str).map(str::to_owned) else {
        return;
    };
    let missing = |names: &Map<String, Value>, field: &str| {
        names
            .get(field)
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    };
    if missing(names, "singular") {
        names.insert("singular".to_owned(), Value::from(kind.to_lowercase()));
    }
    if missing(names, "listKind") {
        names.insert("listKind".to_owned(), Value::from(format!("{kind}List")));
    }
}

/// Validates a completed definition and compiles all its versions.
pub fn compile(definition: &Value) -> Result<Vec<CompiledVersion>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let spec = at(definition, "spec");
    let path = Path::Root.field("spec");
    check_identity(definition, spec, &path, &mut errors);
    check_names(at(spec, "names"), &path.field("names"), &mut errors);
    let conversion = text(at(spec, "conversion"), "strategy");
    if !matches!(conversion, "" | "None") {
        errors.push(FieldError::invalid(
            &path.field("conversion").field("strategy"),
            conversion,
            "is not supported by this server; only None is",
        ));
    }
    let versions = check_versions(spec, &path, &mut errors);
    let mut compiled = Vec::with_capacity(versions.len());
    let at_versions = path.field("versions");
    for (i, version) in versions.iter().enumerate() {
        compiled.extend(compile_version(
            spec,
            version,
            &at_versions.index(i),
            &mut errors,
        ));
    }
    if errors.is_empty() {
        Ok(compiled)
    } else {
        Err(errors)
    }
}

fn check_identity(definition: &Value, spec: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let (group, plural) = (text(spec, "group"), text(at(spec, "names"), "plural"));
    let name = text(at(definition, "metadata"), "name");
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid(
            &Path::Root.field("metadata").field("name"),
            name,
            detail,
        ));
    }
    let at_group = path.field("group");
    if group.is_empty() {
        errors.push(FieldError::required(&at_group, ""));
    } else {
        let wrong = names::dns_subdomain(group);
        if wrong.is_empty() && !group.contains('.') {
            errors.push(FieldError::invalid(
                &at_group,
                group,
                "should be a domain with at least one dot",
            ));
        }
        errors.extend(
            wrong
                .into_iter()
                .map(|why| FieldError::invalid(&at_group, group, why)),
        );
    }
    match text(spec, "scope") {
        "Namespaced" | "Cluster" => {}
        "" => errors.push(FieldError::required(&path.field("scope"), "")),
        other => errors.push(FieldError::not_supported(
            &path.field("scope"),
            other,
            ["Cluster", "Namespaced"],
        )),
    }
    if is_set(spec, "preserveUnknownFields") {
        errors.push(FieldError::invalid(
            &path.field("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
}

fn check_names(spec: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut label = |name: &str, path: &Path<'_>, mixed_case: bool| {
        let wrong = if mixed_case {
            names::dns_1035_label(&name.to_lowercase())
        } else {
            names::dns_1035_label(name)
        };
        for why in wrong {
            let why = if mixed_case {
                format!("may have mixed case, but should otherwise match: {why}")
            } else {
                why
            };
            errors.push(FieldError::invalid(path, name, why));
        }
    };
    for (field, mixed_case) in [
        ("plural", false),
        ("singular", false),
        ("kind", true),
        ("listKind", true),
    ] {
        let name = text(spec, field);
        if !name.is_empty() {
            label(name, &path.field(field), mixed_case);
        }
    }
    for list in ["shortNames", "categories"] {
        let at_list = path.field(list);
        for (i, name) in at(spec, list).as_array().into_iter().flatten().enumerate() {
            label(name.as_str().unwrap_or_default(), &at_list.index(i), false);
        }
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(spec, field).is_empty() {
            errors.push(FieldError::required(&path.field(field), ""));
        }
    }
    let (kind, list_kind) = (text(spec, "kind"), text(spec, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(
            &path.field("listKind"),
            list_kind,
            detail,
        ));
    }
}

fn check_versions<'v>(
    spec: &'v Value,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> &'v [Value] {
    let at_versions = path.field("versions");
    let versions = at(spec, "versions")
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if versions.is_empty() {
        errors.push(FieldError::required(
            &at_versions,
            "must have exactly one version marked as storage version",
        ));
        return versions;
    }
    let mut seen = BTreeSet::new();
    for (i, version) in versions.iter().enumerate() {
        let name = text(version, "name");
        let at_name = at_versions.index(i);
        let at_name = at_name.field("name");
        for why in names::dns_1035_label(name) {
            errors.push(FieldError::invalid(&at_name, name, why));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at_name, name));
        }
    }
    if versions
        .iter()
        .filter(|version| is_set(version, "storage"))
        .count()
        != 1
    {
        let names: Vec<&str> = versions
            .iter()
            .map(|version| text(version, "name"))
            .collect();
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&at_versions, names, detail));
    }
    versions
}

fn compile_version(
    spec: &Value,
    version: &Value,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> Option<CompiledVersion> {
    let before = errors.len();
    let at_schema = path.field("schema");
    let at_schema = at_schema.field("openAPIV3Schema");
    check_columns(version, &path.field("additionalPrinterColumns"), errors);
    check_scale(version, &path.field("subresources").field("scale"), errors);
    let open_api = at(at(version, "schema"), "openAPIV3Schema");
    if open_api.is_null() {
        errors.push(FieldError::required(&at_schema, "schemas are required"));
        return None;
    }
    let selectable: Vec<String> = at(version, "selectableFields")
        .as_array()
        .into_iter()
        .flatten()
        .map(|field| text(field, "jsonPath").to_owned())
        .collect();
    let traits = KindTraits {
        group: text(spec, "group").to_owned(),
        version: text(version, "name").to_owned(),
        kind: text(at(spec, "names"), "kind").to_owned(),
        namespaced: text(spec, "scope") == "Namespaced",
        status: !at(at(version, "subresources"), "status").is_null(),
        typed: false,
        name_rule: NameRule::Subdomain,
    };
    // Field selectors are checked against the schema below, so they are compiled only if that went well.
    let checked = Schema::parse(open_api, &at_schema);
    if let Ok(schema) = &checked {
        check_selectable(&selectable, schema, &path.field("selectableFields"), errors);
    }
    let fields = if errors.len() > before {
        &[]
    } else {
        selectable.as_slice()
    };
    match KindSchema::compile(traits, open_api, fields, &at_schema) {
        Ok(schema) if errors.len() == before => Some(CompiledVersion {
            name: text(version, "name").to_owned(),
            served: is_set(version, "served"),
            storage: is_set(version, "storage"),
            schema: Arc::new(schema),
            open_api: Arc::new(open_api.clone()),
        }),
        Ok(_) => None,
        Err(found) => {
            errors.extend(found);
            None
        }
    }
}

fn check_selectable(
    fields: &[String],
    schema: &Schema,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if fields.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(
            path,
            fields.len() as u64,
            SELECTABLE_MAX as u64,
        ));
    }
    let mut seen = BTreeSet::new();
    for (i, field) in fields.iter().enumerate() {
        let at_item = path.index(i);
        let at_path = &at_item.field("jsonPath");
        if field.is_empty() {
            errors.push(FieldError::required(at_path, ""));
            continue;
        }
        if !seen.insert(field) {
            errors.push(FieldError::duplicate(at_path, field.as_str()));
            continue;
        }
        let mut refuse = |why: &str| errors.push(FieldError::invalid(at_path, field.as_str(), why));
        let parsed = JsonPath::parse(field)
            .ok()
            .filter(|_| field.starts_with('.'));
        let Some(names) = parsed.as_ref().and_then(JsonPath::names) else {
            refuse("must be a simple path of field names, such as .spec.field");
            continue;
        };
        if names.first() == Some(&"metadata") {
            refuse("must not point to fields in metadata");
            continue;
        }
        let mut found = Some(schema);
        for name in names {
            found = found.and_then(|schema| schema.properties.get(name));
        }
        match found.map(|schema| schema.of) {
            Some(Type::String | Type::Boolean | Type::Integer) => {}
            Some(_) => refuse(
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            ),
            None => refuse("does not refer to a valid field"),
        }
    }
}

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];

fn check_columns(version: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (i, column) in at(version, "additionalPrinterColumns")
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let path = path.index(i);
        if text(column, "name").is_empty() {
            errors.push(FieldError::required(&path.field("name"), ""));
        }
        match text(column, "type") {
            "" => errors.push(FieldError::required(
                &path.field("type"),
                format!("must be one of {}", COLUMN_TYPES.join(",")),
            )),
            known if COLUMN_TYPES.contains(&known) => {}
            other => errors.push(FieldError::invalid(
                &path.field("type"),
                other,
                format!("must be one of {}", COLUMN_TYPES.join(",")),
            )),
        }
        let format = text(column, "format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.push(FieldError::invalid(&path.field("format"), format, detail));
        }
        let json_path = text(column, "jsonPath");
        if json_path.is_empty() {
            errors.push(FieldError::required(&path.field("jsonPath"), ""));
        } else if let Err(why) = JsonPath::parse(json_path) {
            errors.push(FieldError::invalid(
                &path.field("jsonPath"),
                json_path,
                why.to_string(),
            ));
        }
    }
}

fn check_scale(version: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let scale = at(at(version, "subresources"), "scale");
    if scale.is_null() {
        return;
    }
    for (field, required, below) in [
        ("specReplicasPath", true, &["spec"][..]),
        ("statusReplicasPath", true, &["status"][..]),
        ("labelSelectorPath", false, &["spec", "status"][..]),
    ] {
        let value = text(scale, field);
        let at_field = path.field(field);
        if value.is_empty() {
            if required {
                errors.push(FieldError::required(&at_field, ""));
            }
            continue;
        }
        let parsed = JsonPath::parse(value)
            .ok()
            .filter(|_| value.starts_with('.'));
        let Some(names) = parsed.as_ref().and_then(JsonPath::names) else {
            errors.push(FieldError::invalid(
                &at_field,
                value,
                "should be a simple json path without array notation",
            ));
            continue;
        };
        if names.len() < 2 || !below.contains(&names[0]) {
            let wanted: Vec<String> = below.iter().map(|root| format!(".{root}")).collect();
            let detail = format!("should be a json path under {}", wanted.join(" or "));
            errors.push(FieldError::invalid(&at_field, value, detail));
        }
    }
}

/// What may not change in a definition, once it is established.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let path = Path::Root.field("spec");
    for field in ["group", "scope"] {
        if at(spec, field) != at(before, field) {
            errors.push(FieldError::invalid(
                &path.field(field),
                at(spec, field).clone(),
                "field is immutable",
            ));
        }
    }
    let at_names = path.field("names");
    for field in ["plural", "kind"] {
        let (now, then) = (at(at(spec, "names"), field), at(at(before, "names"), field));
        if now != then {
            errors.push(FieldError::invalid(
                &at_names.field(field),
                now.clone(),
                "field is immutable",
            ));
        }
    }
    let stored = Path::Root.field("status");
    let stored = stored.field("storedVersions");
    let names: Vec<&str> = at(spec, "versions")
        .as_array()
        .into_iter()
        .flatten()
        .map(|version| text(version, "name"))
        .collect();
    let list = at(at(old, "status"), "storedVersions")
        .as_array()
        .into_iter()
        .flatten();
    for (i, version) in list.filter_map(Value::as_str).enumerate() {
        if !names.contains(&version) {
            errors.push(FieldError::invalid(
                &stored.index(i),
                version,
                "must appear in spec.versions",
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
