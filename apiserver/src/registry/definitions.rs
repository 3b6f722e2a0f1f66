//! The lives of CustomResourceDefinitions: accepted, changed, deleted.
//!
//! # Guarantees
//! - A definition is established within the request that creates it: when its Established condition can be seen, its
//!   kinds are served, discovered and described. The set is swapped before the commit and swapped back if that fails.
//! - A change swaps schema, columns, selectors and discovery in one step and ends running watches of what changed.
//! - A definition that is deleted takes its objects with it before it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Map, Value, json};

use super::create::Creation;
use super::definition::{Names, kinds_of};
use super::delete::CLEANUP;
use super::kinds::{Kinds, ServedKind};
pub(super) use super::namespaces::set_condition;
use super::options::{DeleteOptions, WriteOptions};
use super::{OpenError, Registry, builtin, collector, encode, index_with, limits, metadata};
use crate::cache::{ListAt, ListQuery};
use crate::http::status::Status;
use crate::schema::decode::Decoded;
use crate::store::{Body, CommitError, Expect, Mutation, ObjectKey, Revision, Stored};

/// The definitions that are served, by name.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    known: BTreeMap<Arc<str>, Definition>,
    /// Names of those that are part of the server.
    kept: Vec<String>,
}

#[derive(Debug)]
struct Definition {
    names: Names,
    established: bool,
    kinds: Vec<Arc<ServedKind>>,
}

impl Definitions {
    fn conflict(&self, name: &str, names: &Names) -> Option<(&'static str, String)> {
        let others = self
            .known
            .iter()
            .filter(|(other, d)| &***other != name && d.established);
        let mut others = others;
        others.find_map(|(_, other)| names.conflict_with(&other.names))
    }

    /// Takes a definition over from its object; answers the one that it replaces.
    fn put(
        &mut self,
        object: &Map<String, Value>,
        since: Revision,
    ) -> Result<Option<Definition>, Status> {
        let name: Arc<str> = metadata::text(object, "name").into();
        let spec = object.get("spec").cloned().unwrap_or_default();
        let kinds = kinds_of(
            object,
            self.known.get(&name).map_or(&[][..], |known| &known.kinds),
            since,
        )?;
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
        definitions.put(&object, self.cache().current_revision())?;
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
        definitions.put(&object, self.cache().current_revision())?;
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
            frees: metadata::is_terminating(object),
        };
        let result = self.cache().commit(mutation).await;
        if result.is_err() {
            self.restore(definitions, &key);
        }
        result
    }

    /// Goes back to the definition as it is stored.
    fn restore(&self, definitions: &mut Definitions, key: &ObjectKey) {
        // What is known is not removed first: unchanged kinds stay the ones whose watches are running.
        let stored = self.cache().get(key);
        let known = stored.is_some_and(|stored| {
            let put = encode::decode(&stored.bytes)
                .map_err(Status::internal)
                .and_then(|object| definitions.put(&object, stored.revision));
            put.inspect_err(|why| {
                tracing::error!(name = %stored.key.name, %why, "a stored definition cannot be served");
            })
            .is_ok()
        });
        if !known {
            definitions.known.remove(&key.name);
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
            .kept
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
                .and_then(|object| definitions.put(&object, stored.revision));
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
                self.definitions.lock().await.kept.push(name);
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
