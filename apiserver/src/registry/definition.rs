//! From a CustomResourceDefinition as an object to the kinds that it has served. Pure but for the compiling of schemas.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::kinds::{Column, ScalePaths, Scope, SelectableField, ServedKind, Subresources};
use super::{builtin, encode, metadata};
use crate::http::status::Status;
use crate::schema::crd::{self, CompiledVersion};
use crate::store::Revision;

/// What two definitions of one group may not share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    group: String,
    plural: String,
    singular: String,
    short: Vec<String>,
    kind: String,
    list_kind: String,
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let list = value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Names {
    pub(super) fn of(spec: &Value) -> Self {
        let names = &spec["names"];
        let kind = text(names, "kind").to_owned();
        let or = |key: &str, default: String| match text(names, key) {
            "" => default,
            given => given.to_owned(),
        };
        Self {
            group: text(spec, "group").to_owned(),
            plural: text(names, "plural").to_owned(),
            singular: or("singular", kind.to_lowercase()),
            short: texts(names, "shortNames"),
            list_kind: or("listKind", format!("{kind}List")),
            kind,
        }
    }

    /// Why these names cannot be served beside those, if so: reason and message.
    pub(super) fn conflict_with(&self, other: &Self) -> Option<(&'static str, String)> {
        if self.group != other.group {
            return None;
        }
        let resources = |names: &Self| {
            let mut all = names.short.clone();
            all.extend([names.plural.clone(), names.singular.clone()]);
            all
        };
        let theirs = resources(other);
        let taken = |name: &str| format!("{name:?} is already in use");
        if theirs.contains(&self.plural) {
            return Some(("PluralConflict", taken(&self.plural)));
        }
        if theirs.contains(&self.singular) {
            return Some(("SingularConflict", taken(&self.singular)));
        }
        if let Some(short) = self.short.iter().find(|short| theirs.contains(short)) {
            return Some(("ShortNamesConflict", taken(short)));
        }
        let kinds = [&other.kind, &other.list_kind];
        if kinds.contains(&&self.kind) {
            return Some(("KindConflict", taken(&self.kind)));
        }
        kinds
            .contains(&&self.list_kind)
            .then(|| ("ListKindConflict", taken(&self.list_kind)))
    }
}

fn selectable(version: &Value) -> Vec<SelectableField> {
    let list = version
        .get("selectableFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    list.map(|field| {
        let label = text(field, "jsonPath").trim_start_matches('.');
        SelectableField {
            label: label.into(),
            path: label.split('.').map(str::to_owned).collect(),
        }
    })
    .collect()
}

/// The selectable fields of all versions: objects are indexed once, whatever version asks.
fn all_selectable(spec: &Value) -> Arc<[SelectableField]> {
    let mut all: Vec<SelectableField> = Vec::new();
    for version in spec["versions"].as_array().into_iter().flatten() {
        for field in selectable(version) {
            if !all.contains(&field) {
                all.push(field);
            }
        }
    }
    all.into()
}

/// By stored resource, from definitions as they were found in the store, and of the built-in kinds.
pub(super) fn selectable_fields(definitions: &[Bytes]) -> BTreeMap<String, Arc<[SelectableField]>> {
    let stored = |kind: &Arc<ServedKind>| kind.storage == kind.resource;
    let mut fields: BTreeMap<String, Arc<[SelectableField]>> = builtin::kinds()
        .iter()
        .filter(|kind| stored(kind))
        .map(|kind| (kind.storage.to_string(), Arc::clone(&kind.stored_fields)))
        .collect();
    for bytes in definitions {
        if let Ok(object) = encode::decode(bytes)
            && let Some(spec) = object.get("spec")
        {
            fields.insert(
                metadata::text(&object, "name").to_owned(),
                all_selectable(spec),
            );
        }
    }
    fields
}

fn columns(version: &Value) -> Vec<Column> {
    let list = version
        .get("additionalPrinterColumns")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let columns: Vec<Column> = list
        .map(|column| Column {
            name: text(column, "name").to_owned(),
            column_type: text(column, "type").to_owned(),
            format: text(column, "format").to_owned(),
            description: text(column, "description").to_owned(),
            priority: column
                .get("priority")
                .and_then(Value::as_i64)
                .and_then(|p| i32::try_from(p).ok())
                .unwrap_or(0),
            json_path: text(column, "jsonPath").to_owned(),
        })
        .collect();
    if columns.is_empty() {
        vec![Column::age()]
    } else {
        columns
    }
}

fn subresources(version: &Value) -> Subresources {
    let all = &version["subresources"];
    let scale = all
        .get("scale")
        .filter(|scale| scale.is_object())
        .map(|scale| ScalePaths {
            spec_replicas: text(scale, "specReplicasPath").to_owned(),
            status_replicas: text(scale, "statusReplicasPath").to_owned(),
            label_selector: Some(text(scale, "labelSelectorPath").to_owned())
                .filter(|path| !path.is_empty()),
        });
    Subresources {
        status: all.get("status").is_some_and(Value::is_object),
        scale,
    }
}

/// The served kinds of a definition, whose schema holds for objects after the revision `since`.
pub(super) fn kinds_of(
    object: &Map<String, Value>,
    before: &[Arc<ServedKind>],
    since: Revision,
) -> Result<Vec<Arc<ServedKind>>, Status> {
    let name: Arc<str> = metadata::text(object, "name").into();
    let spec = object.get("spec").cloned().unwrap_or_default();
    let names = Names::of(&spec);
    let scope = if text(&spec, "scope") == "Cluster" {
        Scope::Cluster
    } else {
        Scope::Namespaced
    };
    let annotations: BTreeMap<String, String> = metadata::of(object)
        .get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let annotations = Arc::new(annotations);
    let terminating = metadata::is_terminating(object);
    let versions = spec["versions"].as_array().cloned().unwrap_or_default();
    let stored = versions
        .iter()
        .find(|version| version["storage"] == true)
        .map_or("", |version| text(version, "name"));
    let storage_api_version: Arc<str> = format!("{}/{stored}", names.group).into();
    let stored_fields = all_selectable(&spec);
    let mut compiled = None;
    let mut served = Vec::new();
    for version in versions.iter().filter(|version| version["served"] == true) {
        let fingerprint = fingerprint(object, &spec, version);
        let old = before
            .iter()
            .find(|kind| *kind.version == *text(version, "name"));
        let same = old.filter(|old| old.fingerprint == fingerprint);
        if let Some(same) = same.filter(|same| same.terminating == terminating) {
            served.push(Arc::clone(same));
            continue;
        }
        if same.is_none() && compiled.is_none() {
            compiled = Some(compile(object)?);
        }
        let found = compiled
            .iter()
            .flatten()
            .find(|v| v.name == text(version, "name"));
        let (schema, open_api) = match (same, found) {
            (Some(same), _) => (Arc::clone(&same.schema), Arc::clone(&same.open_api)),
            (None, Some(found)) => (Arc::clone(&found.schema), Arc::clone(&found.open_api)),
            (None, None) => return Err(Status::internal("a served version was not compiled")),
        };
        let api_version: Arc<str> = format!("{}/{}", names.group, text(version, "name")).into();
        let deprecation =
            (version["deprecated"] == true).then(|| match text(version, "deprecationWarning") {
                "" => format!("{api_version} {} is deprecated", names.kind),
                given => given.to_owned(),
            });
        let schema_since = old
            .filter(|old| old.open_api == open_api)
            .map_or(since, |old| old.schema_since);
        served.push(Arc::new(ServedKind {
            group: names.group.as_str().into(),
            version: text(version, "name").into(),
            api_version,
            kind: names.kind.as_str().into(),
            list_kind: names.list_kind.as_str().into(),
            plural: names.plural.as_str().into(),
            singular: names.singular.as_str().into(),
            short_names: names.short.clone(),
            categories: texts(&spec["names"], "categories"),
            scope,
            resource: Arc::clone(&name),
            storage: Arc::clone(&name),
            storage_api_version: Arc::clone(&storage_api_version),
            subresources: subresources(version),
            columns: columns(version),
            selectable: selectable(version),
            stored_fields: Arc::clone(&stored_fields),
            open_api,
            schema,
            annotations: Arc::clone(&annotations),
            deprecation,
            terminating,
            builtin: None,
            fingerprint,
            schema_since,
            // A definition on its way out serves its watches to the end, so that they see their objects go.
            ended: same.map_or_else(CancellationToken::new, |same| same.ended.clone()),
        }));
    }
    Ok(served)
}

/// Compiles all versions of a definition, or says what is wrong with it.
pub(super) fn compile(object: &Map<String, Value>) -> Result<Vec<CompiledVersion>, Status> {
    crd::compile(&Value::Object(object.clone())).map_err(|errors| {
        let name = metadata::text(object, "name");
        super::options::invalid(
            "CustomResourceDefinition",
            "apiextensions.k8s.io",
            name,
            &errors,
        )
    })
}

/// Changes with anything that shapes the kind.
fn fingerprint(object: &Map<String, Value>, spec: &Value, version: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    metadata::text(object, "uid").hash(&mut hasher);
    for part in [&spec["names"], &spec["scope"], &spec["group"], version] {
        part.to_string().hash(&mut hasher);
    }
    let storage = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|v| v["storage"] == true);
    storage
        .map(|v| text(v, "name"))
        .unwrap_or_default()
        .hash(&mut hasher);
    metadata::of(object)
        .get("annotations")
        .map(Value::to_string)
        .hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, singular: &str, short: &[&str], kind: &str, list_kind: &str) -> Names {
        Names {
            group: "g.dev".to_owned(),
            plural: plural.to_owned(),
            singular: singular.to_owned(),
            short: short.iter().map(|&s| s.to_owned()).collect(),
            kind: kind.to_owned(),
            list_kind: list_kind.to_owned(),
        }
    }

    #[test]
    fn names_conflict_within_a_group_only() {
        let there = names("jobs", "job", &["j"], "Job", "JobList");
        for (mine, reason) in [
            (
                names("jobs", "a", &[], "A", "AList"),
                Some("PluralConflict"),
            ),
            (names("a", "j", &[], "A", "AList"), Some("SingularConflict")),
            (
                names("a", "b", &["job"], "A", "AList"),
                Some("ShortNamesConflict"),
            ),
            (
                names("a", "b", &["c"], "Job", "AList"),
                Some("KindConflict"),
            ),
            (
                names("a", "b", &["c"], "A", "JobList"),
                Some("ListKindConflict"),
            ),
            (names("a", "b", &["c"], "A", "AList"), None),
        ] {
            assert_eq!(
                mine.conflict_with(&there).map(|(reason, _)| reason),
                reason,
                "{mine:?}"
            );
        }
        let elsewhere = Names {
            group: "other.dev".to_owned(),
            ..there.clone()
        };
        assert_eq!(elsewhere.conflict_with(&there), None);
    }
}
