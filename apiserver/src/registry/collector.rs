//! Owner references: dependents of owners that are gone go too, in the order that the deletion asked for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::kinds::{Kinds, ServedKind};
use super::metadata::{self, FOREGROUND, ORPHAN};
use super::options::{DeleteOptions, Propagation};
use super::upkeep::Work;
use super::{Registry, encode, limits};
use crate::cache::{ListAt, ListQuery};
use crate::http::status::Status;
use crate::schema::decode::Decoded;
use crate::selector::Selection;
use crate::store::{Body, ObjectKey, Stored};

/// Is the object being deleted? A look at the bytes, without decoding them unless the word is there.
pub(super) fn is_terminating(stored: &Stored) -> bool {
    const NEEDLE: &[u8] = b"\"deletionTimestamp\"";
    stored
        .bytes
        .windows(NEEDLE.len())
        .any(|window| window == NEEDLE)
        && encode::decode(&stored.bytes).is_ok_and(|object| metadata::is_terminating(&object))
}

/// When an event was written last, as far as it says.
pub(super) fn last_seen(stored: &Stored) -> Option<Timestamp> {
    let object = encode::decode(&stored.bytes).ok()?;
    let series = object
        .get("series")
        .and_then(|series| series.get("lastObservedTime"));
    let times = [object.get("lastTimestamp"), object.get("eventTime"), series];
    let created = metadata::text(&object, "creationTimestamp");
    times
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .chain([created])
        .filter_map(|text| text.parse().ok())
        .max()
}

/// One entry of `metadata.ownerReferences`.
struct Reference<'a> {
    api_version: &'a str,
    kind: &'a str,
    name: &'a str,
    uid: &'a str,
    blocks: bool,
}

fn references(object: &Map<String, Value>) -> Vec<Reference<'_>> {
    let list = metadata::of(object)
        .get("ownerReferences")
        .and_then(Value::as_array);
    let reference = |value| {
        let text = |key: &str| {
            Value::get(value, key)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        Reference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            blocks: value.get("blockOwnerDeletion") == Some(&Value::Bool(true)),
        }
    };
    list.into_iter().flatten().map(reference).collect()
}

fn kind_of<'a>(kinds: &'a Kinds, reference: &Reference<'_>) -> Option<&'a Arc<ServedKind>> {
    let group = reference
        .api_version
        .split_once('/')
        .map_or("", |(group, _)| group);
    kinds
        .find_kind(reference.api_version, reference.kind)
        .or_else(|| kinds.find_in_group(group, reference.kind))
}

/// Where the owners of an object lie.
pub(super) fn owner_keys(kinds: &Kinds, dependent: &Stored) -> Vec<ObjectKey> {
    let Ok(object) = encode::decode(&dependent.bytes) else {
        return Vec::new();
    };
    let key = |reference: &Reference<'_>| {
        let kind = kind_of(kinds, reference)?;
        let namespace = if kind.is_namespaced() {
            &*dependent.key.namespace
        } else {
            ""
        };
        Some(ObjectKey::new(
            Arc::clone(&kind.storage),
            namespace,
            reference.name,
        ))
    };
    references(&object).iter().filter_map(key).collect()
}

/// Uids of objects that were seen to go, so that nobody looks for them elsewhere; the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Gone {
    uids: BTreeSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

/// How many such uids are remembered. Chosen: far more owners than go at once.
const GONE_MAX: usize = 10_000;

impl Gone {
    pub(super) fn insert(&mut self, uid: &Arc<str>) {
        if self.uids.insert(Arc::clone(uid)) {
            self.order.push_back(Arc::clone(uid));
        }
        if self.order.len() > GONE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    fn contains(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }
}

/// What an owner reference amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The owner exists, or nothing can be said about it: the dependent stays.
    Solid,
    /// The owner waits for its dependents to go first.
    Waiting,
    /// There is no such object.
    Absent,
    /// The owner lies where it cannot own this dependent.
    Misplaced,
}

impl Registry {
    fn judge(&self, kinds: &Kinds, dependent: &Stored, reference: &Reference<'_>) -> Owner {
        let Some(kind) = kind_of(kinds, reference) else {
            return Owner::Solid;
        };
        let namespace = if kind.is_namespaced() {
            &*dependent.key.namespace
        } else {
            ""
        };
        if kind.is_namespaced() && namespace.is_empty() {
            return Owner::Misplaced;
        }
        let found = self.stored(&kind.storage, namespace, reference.name);
        match found.filter(|owner| &*owner.index.uid == reference.uid) {
            Some(owner) if is_waiting(&owner) => Owner::Waiting,
            Some(_) => Owner::Solid,
            None if self.is_elsewhere(kind, reference) => Owner::Misplaced,
            None => Owner::Absent,
        }
    }

    /// Is the owner a living object of another namespace? Asked only for uids that were not seen to go.
    fn is_elsewhere(&self, kind: &ServedKind, reference: &Reference<'_>) -> bool {
        if !kind.is_namespaced() || self.gone.lock().contains(reference.uid) {
            return false;
        }
        let by_name = format!("metadata.name={}", reference.name);
        let Ok(selection) = Selection::parse(None, Some(&by_name), |_| true) else {
            return false;
        };
        let query = ListQuery {
            selection,
            ..ListQuery::default()
        };
        let found = self.cache().list(&kind.storage, ListAt::Latest, &query);
        found.is_ok_and(|page| {
            page.items
                .iter()
                .any(|stored| &*stored.index.uid == reference.uid)
        })
    }

    /// Keeps, cleans up or deletes an object, depending on its owners.
    pub(super) async fn check_owners(&self, key: &ObjectKey) -> Result<(), Status> {
        let kinds = self.kinds();
        let (Some(stored), Some(kind)) = (self.cache().get(key), kinds.find_storage(&key.resource))
        else {
            return Ok(());
        };
        let object = encode::decode(&stored.bytes).map_err(Status::internal)?;
        let references = references(&object);
        if references.is_empty() || metadata::is_terminating(&object) {
            return Ok(());
        }
        let owners: Vec<Owner> = references
            .iter()
            .map(|reference| self.judge(&kinds, &stored, reference))
            .collect();
        if owners.contains(&Owner::Misplaced) {
            self.tell_misplaced(kind, &object).await;
            return Ok(());
        }
        if owners.contains(&Owner::Solid) {
            let stale: Vec<&str> = references
                .iter()
                .zip(&owners)
                .filter(|(_, owner)| **owner != Owner::Solid)
                .map(|(reference, _)| reference.uid)
                .collect();
            return self.drop_owners(key, &stale).await;
        }
        let waiting = owners.contains(&Owner::Waiting);
        let has_dependents = !self.cache().dependents(&stored.index.uid).is_empty();
        let finalizers = metadata::finalizers(&object);
        let propagation = if finalizers.contains(&ORPHAN) {
            Propagation::Orphan
        } else if finalizers.contains(&FOREGROUND) || (waiting && has_dependents) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        let options = DeleteOptions {
            uid: Some(stored.index.uid.to_string()),
            resource_version: Some(stored.revision.to_string()),
            propagation: Some(propagation),
            dry_run: false,
        };
        match self.delete(kind, &key.namespace, &key.name, &options).await {
            Err(status) if status.code == http::StatusCode::NOT_FOUND => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes owner references by uid.
    async fn drop_owners(&self, key: &ObjectKey, uids: &[&str]) -> Result<(), Status> {
        if uids.is_empty() {
            return Ok(());
        }
        self.amend(key, |object| {
            let Some(Value::Array(list)) = metadata::of_mut(object).get_mut("ownerReferences")
            else {
                return false;
            };
            let before = list.len();
            list.retain(|owner| {
                let uid = owner.get("uid").and_then(Value::as_str).unwrap_or_default();
                !uids.contains(&uid)
            });
            let (changed, empty) = (list.len() != before, list.is_empty());
            if empty {
                metadata::set(object, "ownerReferences", None);
            }
            changed
        })
        .await
    }

    /// Lets a terminating owner go when its dependents are gone, or have been let go.
    pub(super) async fn check_dependents(&self, key: &ObjectKey) -> Result<(), Status> {
        let Some(stored) = self.cache().get(key) else {
            return Ok(());
        };
        let object = encode::decode(&stored.bytes).map_err(Status::internal)?;
        if !metadata::is_terminating(&object) {
            return Ok(());
        }
        let finalizers = metadata::finalizers(&object);
        let dependents = self.cache().dependents(&stored.index.uid);
        if finalizers.contains(&ORPHAN) {
            for dependent in &dependents {
                self.drop_owners(dependent, &[&stored.index.uid]).await?;
            }
            return self
                .amend(key, |object| metadata::remove_finalizer(object, ORPHAN))
                .await;
        }
        if !finalizers.contains(&FOREGROUND) {
            return Ok(());
        }
        let blocking = dependents
            .iter()
            .any(|dependent| self.blocks(dependent, &stored.index.uid));
        self.upkeep.push(
            dependents
                .into_iter()
                .filter(|dependent| !self.is_going(dependent))
                .map(Work::Dependent),
        );
        if blocking {
            return Ok(());
        }
        self.amend(key, |object| metadata::remove_finalizer(object, FOREGROUND))
            .await
    }

    fn blocks(&self, dependent: &ObjectKey, owner_uid: &str) -> bool {
        let Some(stored) = self.cache().get(dependent) else {
            return false;
        };
        encode::decode(&stored.bytes).is_ok_and(|object| {
            references(&object)
                .iter()
                .any(|reference| reference.uid == owner_uid && reference.blocks)
        })
    }

    fn is_going(&self, key: &ObjectKey) -> bool {
        self.cache()
            .get(key)
            .is_none_or(|stored| is_terminating(&stored))
    }

    /// Changes a stored object without asking a schema: for what only the server writes. Deletes it when `change` takes
    /// the last thing that held it. Nothing happens when it is gone or `change` answers that nothing changed.
    pub(super) async fn amend(
        &self,
        key: &ObjectKey,
        change: impl Fn(&mut Map<String, Value>) -> bool,
    ) -> Result<(), Status> {
        let kinds = self.kinds();
        let Some(kind) = kinds.find_storage(&key.resource) else {
            return Ok(());
        };
        for _ in 0..limits::MAX_PATCH_ATTEMPTS {
            let Some(live) = self.cache().get(key) else {
                return Ok(());
            };
            let mut object = encode::decode(&live.bytes).map_err(Status::internal)?;
            if !change(&mut object) {
                return Ok(());
            }
            let gone = metadata::is_terminating(&object)
                && metadata::finalizers(&object).is_empty()
                && !super::rules::holds_itself(kind.builtin, &object);
            let encoded = encode::encode(&object, &kind.stored_fields);
            let body = if gone {
                Body::Delete(encoded)
            } else {
                Body::Put(encoded)
            };
            if let Some(stored) = self.commit_if_unchanged(&live, body).await? {
                if gone {
                    self.after_delete(kind, &stored).await;
                } else {
                    self.after_write(kind, &stored, Some(&live));
                }
                return Ok(());
            }
        }
        Err(Status::internal(format!("`{key}` changes all the time")))
    }

    /// Says on the dependent that one of its owners can never own it.
    async fn tell_misplaced(&self, kind: &ServedKind, object: &Map<String, Value>) {
        let name = metadata::text(object, "name");
        let uid = metadata::text(object, "uid");
        let own = metadata::text(object, "namespace");
        let namespace = if own.is_empty() { "default" } else { own };
        let now = self.timestamp();
        let event = serde_json::json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.{uid}"), "namespace": namespace},
            "involvedObject": {"apiVersion": &*kind.api_version, "kind": &*kind.kind, "name": name, "namespace": own, "uid": uid},
            "reason": "OwnerRefInvalidNamespace", "type": "Warning", "count": 1,
            "message": "an owner reference names an object of another namespace, or of a namespace although this object has none",
            "source": {"component": "garbage-collector"}, "firstTimestamp": now, "lastTimestamp": now,
        });
        let kinds = self.kinds();
        let Some(events) = kinds.find("", "v1", super::builtin::EVENTS) else {
            return;
        };
        let body = Decoded {
            value: event,
            duplicates: Vec::new(),
        };
        let options = super::WriteOptions {
            manager: "garbage-collector".to_owned(),
            ..super::WriteOptions::default()
        };
        // The event has one name, so that it is told once.
        let _ = self.create(events, namespace, body, &options).await;
    }
}

fn is_waiting(owner: &Stored) -> bool {
    is_terminating(owner)
        && encode::decode(&owner.bytes)
            .is_ok_and(|object| metadata::finalizers(&object).contains(&FOREGROUND))
}
