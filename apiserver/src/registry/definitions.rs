//! CustomResourceDefinitions: from an object to served kinds, and their lives.
//!
//! # Guarantees
//! - A definition is established within the request that creates it: when its Established condition can be seen, its
//!   kinds are served, discovered and described. The set is swapped before the commit and swapped back if that fails.
//! - A change swaps schema, columns, selectors and discovery in one step and ends running watches of what changed.
//! - A definition that is deleted takes its objects with it before it goes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::create::Creation;
use super::delete::CLEANUP;
use super::kinds::{Column, Kinds, ScalePaths, Scope, SelectableField, ServedKind, Subresources};
pub(super) use super::namespaces::set_condition;
use super::options::{DeleteOptions, WriteOptions};
use super::{OpenError, Registry, builtin, collector, encode, index_with, limits, metadata};
use crate::cache::{ListAt, ListQuery};
use crate::http::status::Status;
use crate::schema::crd::{self, CompiledVersion};
use crate::schema::decode::Decoded;
use crate::store::{Body, CommitError, Expect, Mutation, ObjectKey, Stored};

/// The definitions that are served, by name.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    known: BTreeMap<Arc<str>, Definition>,
    /// Names of those that are part of the server.
    own: Vec<String>,
}

#[derive(Debug)]
struct Definition {
    names: Names,
    established: bool,
    kinds: Vec<Arc<ServedKind>>,
}

/// What two definitions of one group may not share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    group: String,
    plural: String,
    singular: String,
    short_names: Vec<String>,
    kind: String,
    list_kind: String,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
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
    fn of(spec: &Value) -> Self {
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
            short_names: texts(names, "shortNames"),
            list_kind: or("listKind", format!("{kind}List")),
            kind,
        }
    }

    /// Why these names cannot be served beside those, if so: reason and message.
    fn conflict_with(&self, other: &Self) -> Option<(&'static str, String)> {
        if self.group != other.group {
            return None;
        }
        let resources = |names: &Self| {
            let mut all = names.short_names.clone();
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
        if let Some(short) = self.short_names.iter().find(|short| theirs.contains(short)) {
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

/// The served kinds of a definition.
fn kinds_of(
    object: &Map<String, Value>,
    before: Option<&Definition>,
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
        let old = before.and_then(|d| {
            d.kinds
                .iter()
                .find(|k| *k.version == *text(version, "name"))
        });
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
        served.push(Arc::new(ServedKind {
            group: names.group.as_str().into(),
            version: text(version, "name").into(),
            api_version,
            kind: names.kind.as_str().into(),
            list_kind: names.list_kind.as_str().into(),
            plural: names.plural.as_str().into(),
            singular: names.singular.as_str().into(),
            short_names: names.short_names.clone(),
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

impl Definitions {
    fn conflict(&self, name: &str, names: &Names) -> Option<(&'static str, String)> {
        let others = self
            .known
            .iter()
            .filter(|(other, d)| &***other != name && d.established);
        others
            .filter_map(|(_, other)| names.conflict_with(&other.names))
            .next()
    }

    /// Takes a definition over from its object; answers the one that it replaces.
    fn put(&mut self, object: &Map<String, Value>) -> Result<Option<Definition>, Status> {
        let name: Arc<str> = metadata::text(object, "name").into();
        let spec = object.get("spec").cloned().unwrap_or_default();
        let kinds = kinds_of(object, self.known.get(&name))?;
        let established = has_condition(object, "Established");
        let definition = Definition {
            names: Names::of(&spec),
            established,
            kinds,
        };
        Ok(self.known.insert(name, definition))
    }

    fn served(&self) -> impl Iterator<Item = Arc<ServedKind>> {
        let established = self.known.values().filter(|d| d.established);
        established.flat_map(|d| d.kinds.iter().cloned())
    }
}

fn has_condition(object: &Map<String, Value>, name: &str) -> bool {
    let conditions = object
        .get("status")
        .and_then(|status| status.get("conditions"))
        .and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == name && c["status"] == "True")
}

impl Registry {
    /// Publishes the set of kinds as `definitions` have it, and ends the watches of kinds that it no longer has.
    fn publish(&self, definitions: &Definitions) {
        let before = self.kinds();
        let kinds = Kinds::new(
            builtin::kinds().into_iter().chain(definitions.served()),
            before.generation() + 1,
        );
        self.kinds.store(Arc::new(kinds));
        let now = self.kinds();
        for old in before.iter().filter(|kind| kind.builtin.is_none()) {
            let still = now.find(&old.group, &old.version, &old.plural);
            if still.is_none_or(|still| still.fingerprint != old.fingerprint) {
                old.ended.cancel();
            }
        }
    }

    /// Decides names and conditions of a definition that is about to be stored.
    fn establish(&self, definitions: &Definitions, object: &mut Map<String, Value>) {
        let now = self.timestamp();
        let name = metadata::text(object, "name").to_owned();
        let spec = object.get("spec").cloned().unwrap_or_default();
        let names = Names::of(&spec);
        let conflict = definitions.conflict(&name, &names);
        let stored = spec["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|version| version["storage"] == true);
        let stored = stored.map_or(Value::Null, |version| version["name"].clone());
        let status = object.entry("status").or_insert_with(|| json!({}));
        if let Value::Object(status) = status {
            let versions = status.entry("storedVersions").or_insert_with(|| json!([]));
            if let Value::Array(versions) = versions
                && !versions.contains(&stored)
            {
                versions.push(stored);
            }
            if conflict.is_none() {
                status.insert("acceptedNames".to_owned(), spec["names"].clone());
            } else {
                status
                    .entry("acceptedNames")
                    .or_insert_with(|| json!({"kind": "", "plural": ""}));
            }
        }
        match conflict {
            None => {
                set_condition(
                    object,
                    "NamesAccepted",
                    true,
                    "NoConflicts",
                    "no conflicts found",
                    &now,
                );
                let text = "the initial names have been accepted";
                set_condition(
                    object,
                    "Established",
                    true,
                    "InitialNamesAccepted",
                    text,
                    &now,
                );
            }
            Some((reason, message)) => {
                set_condition(object, "NamesAccepted", false, reason, &message, &now);
                if !has_condition(object, "Established") {
                    let text = "not all names are accepted";
                    set_condition(object, "Established", false, "NotAccepted", text, &now);
                }
            }
        }
    }

    /// Stores a new definition and serves its kinds.
    pub(super) async fn create_definition(
        &self,
        mut object: Map<String, Value>,
    ) -> Result<Creation, Status> {
        let mut definitions = self.definitions.lock().await;
        let key = ObjectKey::new(builtin::CRDS, "", metadata::text(&object, "name"));
        if let Some(current) = self.cache().get(&key) {
            return Ok(Creation::Exists(current));
        }
        self.establish(&definitions, &mut object);
        definitions.put(&object)?;
        let stored = self
            .store_definition(&mut definitions, key, Expect::Absent, &object)
            .await;
        match stored {
            Ok(stored) => Ok(Creation::Done(stored.bytes.clone())),
            Err(CommitError::Exists { current }) => Ok(Creation::Exists(current)),
            Err(error) => Err(super::commit_failed(&error)),
        }
    }

    /// Stores a changed definition and swaps its kinds; `None` when somebody else was faster.
    pub(super) async fn change_definition(
        &self,
        live: &Arc<Stored>,
        mut object: Map<String, Value>,
    ) -> Result<Option<Bytes>, Status> {
        let mut definitions = self.definitions.lock().await;
        if self
            .cache()
            .get(&live.key)
            .is_none_or(|now| now.revision != live.revision)
        {
            return Ok(None);
        }
        if !metadata::is_terminating(&object) {
            self.establish(&definitions, &mut object);
        }
        definitions.put(&object)?;
        let expect = Expect::At(live.revision);
        match self
            .store_definition(&mut definitions, live.key.clone(), expect, &object)
            .await
        {
            Ok(stored) => Ok(Some(stored.bytes.clone())),
            Err(CommitError::Conflict { .. } | CommitError::NotFound) => Ok(None),
            Err(error) => Err(super::commit_failed(&error)),
        }
    }

    /// Publishes, commits, and takes back what was published when the commit fails.
    async fn store_definition(
        &self,
        definitions: &mut Definitions,
        key: ObjectKey,
        expect: Expect,
        object: &Map<String, Value>,
    ) -> Result<Arc<Stored>, CommitError> {
        self.reindex(definitions, &key.name).await?;
        self.publish(definitions);
        let encoded = encode::encode(object, &[]);
        let mutation = Mutation {
            key: key.clone(),
            expect,
            body: Body::Put(encoded),
        };
        let result = self.cache().commit(mutation).await;
        if result.is_err() {
            self.restore(definitions, &key);
        }
        result
    }

    /// Goes back to the definition as it is stored.
    fn restore(&self, definitions: &mut Definitions, key: &ObjectKey) {
        definitions.known.remove(&key.name);
        if let Some(stored) = self.cache().get(key)
            && let Ok(object) = encode::decode(&stored.bytes)
            && let Err(why) = definitions.put(&object)
        {
            tracing::error!(name = %key.name, %why, "a stored definition cannot be served");
        }
        self.publish(definitions);
    }

    /// Indexes the objects of a definition by its selectable fields, if they have others now.
    async fn reindex(&self, definitions: &Definitions, name: &str) -> Result<(), CommitError> {
        let Some(fields) = definitions
            .known
            .get(name)
            .and_then(|d| d.kinds.first())
            .map(|k| Arc::clone(&k.stored_fields))
        else {
            return Ok(());
        };
        let kinds = self.kinds();
        let before = kinds
            .find_storage(name)
            .map(|kind| Arc::clone(&kind.stored_fields));
        if before.is_some_and(|before| before == fields) || self.cache().count(name) == 0 {
            return Ok(());
        }
        self.cache()
            .reindex(
                name,
                index_with(BTreeMap::from([(name.to_owned(), fields)])),
            )
            .await
    }

    /// Takes note of a definition that was marked for deletion.
    pub(super) async fn refresh_definition(&self, stored: &Stored) {
        let mut definitions = self.definitions.lock().await;
        self.restore(&mut definitions, &stored.key);
        drop(definitions);
        self.upkeep
            .push([super::upkeep::Work::Definition(Arc::clone(
                &stored.key.name,
            ))]);
    }

    /// The definition is gone: its kinds are no longer served, and names it held may become free for others.
    pub(super) async fn forget_definition(&self, name: &str) {
        let mut definitions = self.definitions.lock().await;
        if let Some(gone) = definitions.known.remove(name) {
            gone.kinds.iter().for_each(|kind| kind.ended.cancel());
        }
        self.publish(&definitions);
        let waiting: Vec<Arc<str>> = definitions
            .known
            .iter()
            .filter(|(_, d)| !d.established)
            .map(|(name, _)| Arc::clone(name))
            .collect();
        drop(definitions);
        for name in waiting {
            self.retry_definition(&name).await;
        }
    }

    /// Tries again to accept the names of a definition.
    async fn retry_definition(&self, name: &Arc<str>) {
        let key = ObjectKey::new(builtin::CRDS, "", Arc::clone(name));
        let Some(live) = self.cache().get(&key) else {
            return;
        };
        let Ok(object) = encode::decode(&live.bytes) else {
            return;
        };
        if let Err(why) = self.change_definition(&live, object).await {
            tracing::warn!(%name, %why, "a definition could not be reconsidered");
        }
    }

    /// Is this definition part of the server?
    pub(super) async fn is_part_of_server(&self, name: &str) -> bool {
        self.definitions
            .lock()
            .await
            .own
            .iter()
            .any(|own| own == name)
    }

    /// After a start: serves the definitions that are stored.
    pub(super) async fn restore_definitions(&self) {
        let mut definitions = self.definitions.lock().await;
        let Ok(page) = self
            .cache()
            .list(builtin::CRDS, ListAt::Latest, &ListQuery::default())
        else {
            return;
        };
        for stored in page.items {
            let result = encode::decode(&stored.bytes)
                .map_err(Status::internal)
                .and_then(|object| definitions.put(&object));
            if let Err(why) = result {
                tracing::error!(name = %stored.key.name, %why, "a stored definition cannot be served");
            }
        }
        self.publish(&definitions);
    }

    /// Makes the definitions that are part of the server, or brings them up to date.
    pub(super) async fn install_definitions(&self, documents: &[String]) -> Result<(), OpenError> {
        for text in documents {
            for document in crate::schema::yaml::decode_documents(text)? {
                let name = document
                    .value
                    .pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned();
                let result = self.install(&name, document).await;
                result.map_err(|why| OpenError::Refused {
                    name: name.clone(),
                    why,
                })?;
                self.definitions.lock().await.own.push(name);
            }
        }
        Ok(())
    }

    async fn install(&self, name: &str, mut document: Decoded) -> Result<(), Status> {
        let kinds = self.kinds();
        let kind = kinds
            .find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
            .ok_or_else(|| Status::internal("definitions are not served"))?;
        let options = WriteOptions {
            manager: "apiserver".to_owned(),
            ..WriteOptions::default()
        };
        let Some(stored) = self.stored(builtin::CRDS, "", name) else {
            return self.create(kind, "", document, &options).await.map(drop);
        };
        if let Some(metadata) = document
            .value
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
        {
            metadata.insert(
                "resourceVersion".to_owned(),
                stored.revision.to_string().into(),
            );
        }
        let target = super::Target {
            kind,
            namespace: "",
            name,
            part: crate::schema::Part::Main,
        };
        self.update(target, document, &options).await.map(drop)
    }

    /// Deletes the objects of a terminating definition, and lets it go when there are none.
    pub(super) async fn empty_definition(&self, name: &str) -> Result<(), Status> {
        let key = ObjectKey::new(builtin::CRDS, "", name);
        let Some(stored) = self
            .cache()
            .get(&key)
            .filter(|stored| collector::is_terminating(stored))
        else {
            return Ok(());
        };
        let kinds = self.kinds();
        if let Some(kind) = kinds.find_storage(name) {
            let page = self
                .cache()
                .list(name, ListAt::Latest, &ListQuery::default());
            let items = page.map(|page| page.items).unwrap_or_default();
            let waiting: Vec<Arc<Stored>> = items
                .into_iter()
                .filter(|item| !collector::is_terminating(item))
                .collect();
            let deletes = waiting.into_iter().map(|item| async move {
                self.delete(
                    kind,
                    &item.key.namespace,
                    &item.key.name,
                    &DeleteOptions::default(),
                )
                .await
            });
            let results: Vec<_> = futures::stream::iter(deletes)
                .buffer_unordered(limits::COLLECTOR_WRITES)
                .collect()
                .await;
            if let Some(why) = results
                .into_iter()
                .filter_map(Result::err)
                .find(|why| why.code != http::StatusCode::NOT_FOUND)
            {
                return Err(why);
            }
        }
        if self.cache().count(name) > 0 {
            return Ok(());
        }
        self.amend(&stored.key, |object| {
            metadata::remove_finalizer(object, CLEANUP)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, singular: &str, short: &[&str], kind: &str, list_kind: &str) -> Names {
        Names {
            group: "g.dev".to_owned(),
            plural: plural.to_owned(),
            singular: singular.to_owned(),
            short_names: short.iter().map(|&s| s.to_owned()).collect(),
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
