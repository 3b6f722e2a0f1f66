//! Namespaces: those that exist from the first start, and the emptying of those that are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use serde_json::{Map, Value, json};

use super::create::Written;
use super::delete::KEPT_NAMESPACES;
use super::kinds::ServedKind;
use super::options::{DeleteOptions, WriteOptions};
use super::prepare::Prepared;
use super::{OpenError, Registry, builtin, collector, encode, limits, metadata, prepare, rules};
use crate::cache::{ListAt, ListQuery};
use crate::http::status::Status;
use crate::schema::decode::Decoded;
use crate::store::{ObjectKey, Stored};

/// The namespaces of a fresh server. Go's leader election likes `kube-system`; node agents keep their Leases in
/// `gctl-node-lease`.
const FIRST_NAMESPACES: &[&str] = &["default", "kube-system", "gctl-node-lease"];

/// How many names of what is left a condition names. Chosen: fits a terminal.
const NAMED_MAX: usize = 5;

impl Registry {
    /// Makes the namespaces of a fresh server.
    pub(super) async fn make_namespaces(&self) -> Result<(), OpenError> {
        let kinds = self.kinds();
        let kind = kinds
            .find("", "v1", "namespaces")
            .expect("namespaces are built in");
        for name in FIRST_NAMESPACES {
            if self.stored(builtin::NAMESPACES, "", name).is_some() {
                continue;
            }
            let body = Decoded {
                value: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
                duplicates: Vec::new(),
            };
            let options = WriteOptions {
                manager: "apiserver".to_owned(),
                ..WriteOptions::default()
            };
            let made = self.create(kind, "", body, &options).await;
            made.map_err(|why| OpenError::Refused {
                name: (*name).to_owned(),
                why,
            })?;
        }
        debug_assert!(
            FIRST_NAMESPACES
                .iter()
                .all(|name| KEPT_NAMESPACES.contains(name))
        );
        Ok(())
    }

    /// `PUT /api/v1/namespaces/NAME/finalize`: changes `spec.finalizers` and nothing else.
    pub async fn finalize_namespace(
        &self,
        kind: &Arc<ServedKind>,
        name: &str,
        body: Decoded,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let Prepared { object, warnings } =
            prepare::read(kind, "", Some(name), body, options.validation)?;
        let revision = metadata::text(&object, "resourceVersion").to_owned();
        let finalizers = object
            .get("spec")
            .and_then(|spec| spec.get("finalizers"))
            .cloned();
        let live = self.find(kind, "", name)?;
        if !matches!(revision.as_str(), "" | "0") && revision != live.revision.to_string() {
            return Err(Status::conflict(
                "",
                "namespaces",
                name,
                super::modify::MODIFIED,
            ));
        }
        if options.dry_run {
            return Ok(Written {
                bytes: live.bytes.clone(),
                created: false,
                warnings,
            });
        }
        let change = |object: &mut Map<String, Value>| {
            let before = object.get("spec").cloned();
            set_spec_finalizers(object, finalizers.clone());
            object.get("spec") != before.as_ref()
        };
        self.amend(&live.key, change).await?;
        let bytes = self
            .cache()
            .get(&live.key)
            .map_or_else(|| live.bytes.clone(), |stored| stored.bytes.clone());
        Ok(Written {
            bytes,
            created: false,
            warnings,
        })
    }

    /// Deletes what lies in a terminating namespace, says in its conditions what is left, and lets it go when empty.
    pub(super) async fn empty_namespace(&self, name: &str) -> Result<(), Status> {
        let key = ObjectKey::new(builtin::NAMESPACES, "", name);
        let Some(namespace) = self.cache().get(&key) else {
            return Ok(());
        };
        if namespace.field("status.phase") != Some("Terminating") {
            return Ok(());
        }
        let mut failed = None;
        let content = self.content_of(name);
        let mut deletes = futures::stream::iter(content)
            .map(|(kind, stored)| async move {
                self.delete(
                    &kind,
                    &stored.key.namespace,
                    &stored.key.name,
                    &DeleteOptions::default(),
                )
                .await
            })
            .buffer_unordered(limits::COLLECTOR_WRITES);
        while let Some(result) = deletes.next().await {
            if let Err(why) = result
                && why.code != http::StatusCode::NOT_FOUND
            {
                failed = Some(why);
            }
        }
        drop(deletes);
        let left = self.stored_in(name);
        if left.is_empty() {
            return self.amend(&key, remove_spec_finalizer).await;
        }
        self.describe_rest(&key, &left).await?;
        failed.map_or(Ok(()), Err)
    }

    /// What is in a namespace and not yet on its way out.
    fn content_of(&self, namespace: &str) -> Vec<(Arc<ServedKind>, Arc<Stored>)> {
        let kinds = self.kinds();
        self.stored_in(namespace)
            .into_iter()
            .filter(|stored| !collector::is_terminating(stored))
            .filter_map(|stored| {
                Some((
                    Arc::clone(kinds.find_storage(&stored.key.resource)?),
                    stored,
                ))
            })
            .collect()
    }

    fn stored_in(&self, namespace: &str) -> Vec<Arc<Stored>> {
        let query = ListQuery {
            namespace: Some(namespace),
            ..ListQuery::default()
        };
        let page = |resource: Arc<str>| {
            self.cache()
                .list(&resource, ListAt::Latest, &query)
                .map_or_else(|_| Vec::new(), |page| page.items)
        };
        self.cache()
            .resources()
            .into_iter()
            .flat_map(page)
            .collect()
    }

    /// Writes conditions that answer the question why a namespace does not go away.
    async fn describe_rest(&self, key: &ObjectKey, left: &[Arc<Stored>]) -> Result<(), Status> {
        let mut resources: BTreeMap<&str, usize> = BTreeMap::new();
        let mut holders: BTreeMap<String, usize> = BTreeMap::new();
        for stored in left {
            *resources.entry(&stored.key.resource).or_default() += 1;
            let Ok(object) = encode::decode(&stored.bytes) else {
                continue;
            };
            for finalizer in metadata::finalizers(&object) {
                *holders.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
        let content: Vec<String> = resources
            .iter()
            .map(|(resource, count)| format!("{resource} has {count} resource instances"))
            .collect();
        let held: Vec<String> = holders
            .iter()
            .map(|(name, count)| format!("{name} in {count} resource instances"))
            .collect();
        let examples: Vec<String> = left
            .iter()
            .take(NAMED_MAX)
            .map(|stored| stored.key.to_string())
            .collect();
        let now = self.timestamp();
        self.amend(key, |namespace| {
            let text = format!(
                "Some resources are remaining: {}; for example {}",
                content.join(", "),
                examples.join(", ")
            );
            let mut changed = set_condition(
                namespace,
                "NamespaceContentRemaining",
                true,
                "SomeResourcesRemain",
                &text,
                &now,
            );
            changed |= if held.is_empty() {
                set_condition(
                    namespace,
                    "NamespaceFinalizersRemaining",
                    false,
                    "ContentHasNoFinalizers",
                    "All content-preserving finalizers finished",
                    &now,
                )
            } else {
                let text = format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    held.join(", ")
                );
                set_condition(
                    namespace,
                    "NamespaceFinalizersRemaining",
                    true,
                    "SomeFinalizersRemain",
                    &text,
                    &now,
                )
            };
            changed
        })
        .await
    }
}

fn set_spec_finalizers(namespace: &mut Map<String, Value>, finalizers: Option<Value>) {
    let spec = namespace.entry("spec").or_insert_with(|| json!({}));
    if let Value::Object(spec) = spec {
        match finalizers {
            Some(finalizers) => drop(spec.insert("finalizers".to_owned(), finalizers)),
            None => drop(spec.remove("finalizers")),
        }
    }
}

/// Removes the server's own finalizer; is there a change?
fn remove_spec_finalizer(namespace: &mut Map<String, Value>) -> bool {
    let list = namespace
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("finalizers"))
        .and_then(Value::as_array_mut);
    let Some(list) = list else { return false };
    let before = list.len();
    list.retain(|finalizer| finalizer != rules::NAMESPACE_FINALIZER);
    let (changed, empty) = (list.len() != before, list.is_empty());
    if empty {
        set_spec_finalizers(namespace, None);
    }
    changed
}

/// Sets one of `status.conditions`; is there a change? The transition time moves only with the status.
pub(super) fn set_condition(
    object: &mut Map<String, Value>,
    name: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: &str,
) -> bool {
    let status = if holds { "True" } else { "False" };
    let all = object.entry("status").or_insert_with(|| json!({}));
    let Value::Object(all) = all else {
        return false;
    };
    let list = all.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(list) = list else {
        return false;
    };
    let mut fresh = json!({"type": name, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
    let Some(found) = list.iter_mut().find(|condition| condition["type"] == name) else {
        list.push(fresh);
        return true;
    };
    if found["status"] == status {
        fresh["lastTransitionTime"] = found["lastTransitionTime"].clone();
    }
    let changed = *found != fresh;
    *found = fresh;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_changes_its_time_only_with_its_status() {
        let mut object = Map::new();
        assert!(set_condition(&mut object, "Ready", true, "A", "a", "t1"));
        assert!(!set_condition(&mut object, "Ready", true, "A", "a", "t2"));
        assert!(set_condition(&mut object, "Ready", true, "B", "b", "t3"));
        assert_eq!(
            object["status"]["conditions"][0]["lastTransitionTime"],
            "t1"
        );
        assert!(set_condition(&mut object, "Ready", false, "C", "c", "t4"));
        assert_eq!(
            object["status"]["conditions"][0]["lastTransitionTime"],
            "t4"
        );
        assert_eq!(
            object["status"]["conditions"].as_array().map(Vec::len),
            Some(1)
        );
    }
}
