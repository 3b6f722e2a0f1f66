//! Deleting objects: at once when nothing holds them, else by marking them until their finalizers are gone.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Map, Value};

use super::create::{details, encode_for};
use super::kinds::{Builtin, ServedKind};
use super::metadata::{FOREGROUND, ORPHAN};
use super::options::{DeleteOptions, Propagation};
use super::read::{ListOptions, Page};
use super::upkeep::Work;
use super::{Registry, commit_failed, encode, key_of, limits, metadata, present, rules};
use crate::http::status::Status;
use crate::store::{Body, CommitError, Encoded, Expect, Mutation, Stored};

/// What a delete answers with.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; this is its last state.
    Gone {
        /// The object's uid.
        uid: Arc<str>,
        /// Its last state, in the form of the kind.
        last: Bytes,
    },
    /// The object waits for its finalizers; this is how it is now.
    Waiting(Bytes),
}

/// The finalizer that keeps a definition until its objects are gone.
pub(super) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Namespaces that are part of the server.
pub(super) const KEPT_NAMESPACES: &[&str] =
    &["default", "kube-public", "kube-system", "gctl-node-lease"];

impl Registry {
    /// Deletes an object.
    pub async fn delete(
        &self,
        kind: &Arc<ServedKind>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let key = key_of(kind, namespace, name);
        for _ in 0..limits::MAX_PATCH_ATTEMPTS {
            let live = self
                .cache()
                .get(&key)
                .ok_or_else(|| Status::not_found(&kind.group, &kind.plural, name))?;
            check_preconditions(kind, &live, options)?;
            self.check_deletable(kind, name).await?;
            if let Some(deleted) = self.try_delete(kind, &live, options).await? {
                return Ok(deleted);
            }
        }
        Err(Status::conflict(
            &kind.group,
            &kind.plural,
            name,
            "the object is being modified all the time",
        ))
    }

    /// Deletes what a list would show; answers those objects and the page that they were on.
    pub async fn delete_collection(
        &self,
        kind: &Arc<ServedKind>,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(Vec<Bytes>, Page), Status> {
        let page = self.list_stored(kind, namespace, list)?;
        // One that may not be deleted refuses the whole, rather than leaving it half done.
        for stored in &page.items {
            self.check_deletable(kind, &stored.key.name).await?;
        }
        let deletes = page.items.clone().into_iter().map(|stored| async move {
            match self
                .delete(kind, &stored.key.namespace, &stored.key.name, options)
                .await
            {
                Ok(Deleted::Gone { last, .. } | Deleted::Waiting(last)) => Ok(Some(last)),
                // Somebody else deleted it, which is what was wanted.
                Err(status) if status.code == http::StatusCode::NOT_FOUND => Ok(None),
                Err(status) => Err(status),
            }
        });
        let results: Vec<_> = futures::stream::iter(deletes)
            .buffered(limits::COLLECTOR_WRITES)
            .collect()
            .await;
        let mut items = Vec::with_capacity(results.len());
        for result in results {
            items.extend(result?);
        }
        Ok((items, Self::page(kind, page)))
    }

    /// `None` when somebody else was faster.
    async fn try_delete(
        &self,
        kind: &Arc<ServedKind>,
        live: &Arc<Stored>,
        options: &DeleteOptions,
    ) -> Result<Option<Deleted>, Status> {
        let marked = match self.marked(kind, live, options)? {
            Mark::None => {
                let last = Encoded {
                    bytes: live.bytes.clone(),
                    rv_offset: live.rv_offset(),
                    index: Arc::clone(&live.index),
                };
                let gone = |last: Bytes| Deleted::Gone {
                    uid: Arc::clone(&live.index.uid),
                    last,
                };
                if options.dry_run {
                    return Ok(Some(gone(present(kind, live))));
                }
                let stored = self.commit_if_unchanged(live, Body::Delete(last)).await?;
                let Some(stored) = stored else {
                    return Ok(None);
                };
                self.after_delete(kind, &stored).await;
                return Ok(Some(gone(present(kind, &stored))));
            }
            Mark::Already => return Ok(Some(Deleted::Waiting(present(kind, live)))),
            Mark::New(object) => object,
        };
        if options.dry_run {
            return Ok(Some(Deleted::Waiting(encode::plain(&marked))));
        }
        let encoded = encode_for(kind, marked)?;
        let stored = self.commit_if_unchanged(live, Body::Put(encoded)).await?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        if kind.builtin == Some(Builtin::CustomResourceDefinition) {
            self.refresh_definition(&stored).await;
        }
        self.after_write(kind, &stored, Some(live));
        self.upkeep.push([Work::Owner(stored.key.clone())]);
        Ok(Some(Deleted::Waiting(present(kind, &stored))))
    }

    /// Commits a step of a deletion, on condition that the object is still as `live`; `None` when it is not.
    pub(super) async fn commit_if_unchanged(
        &self,
        live: &Stored,
        body: Body,
    ) -> Result<Option<Arc<Stored>>, Status> {
        let mutation = Mutation {
            key: live.key.clone(),
            expect: Expect::At(live.revision),
            body,
            frees: true,
        };
        match self.cache().commit(mutation).await {
            Ok(stored) => Ok(Some(stored)),
            Err(CommitError::Conflict { .. } | CommitError::NotFound) => Ok(None),
            Err(error) => Err(commit_failed(&error)),
        }
    }

    async fn check_deletable(&self, kind: &ServedKind, name: &str) -> Result<(), Status> {
        let why = match kind.builtin {
            Some(Builtin::Namespace) if KEPT_NAMESPACES.contains(&name) => {
                "this namespace may not be deleted"
            }
            Some(Builtin::CustomResourceDefinition) if self.is_part_of_server(name).await => {
                "this definition is part of the server and may not be deleted"
            }
            _ => return Ok(()),
        };
        let message = format!("{} {name:?} is forbidden: {why}", kind.resource);
        Err(Status::forbidden(message).with_details(details(kind, name)))
    }

    /// The object with the marks of its deletion, if it has to wait.
    fn marked(
        &self,
        kind: &ServedKind,
        live: &Stored,
        options: &DeleteOptions,
    ) -> Result<Mark, Status> {
        let held_by_kind = matches!(
            kind.builtin,
            Some(Builtin::Namespace | Builtin::CustomResourceDefinition)
        );
        let held_by_policy = matches!(
            options.propagation,
            Some(Propagation::Foreground | Propagation::Orphan)
        );
        // Most objects have no finalizers, and then need not be decoded.
        if !held_by_kind && !held_by_policy && !may_have_finalizers(&live.bytes) {
            return Ok(Mark::None);
        }
        let mut object = encode::decode(&live.bytes).map_err(Status::internal)?;
        let mut changed = false;
        match options.propagation {
            Some(Propagation::Foreground) => {
                changed |= metadata::remove_finalizer(&mut object, ORPHAN);
                changed |= metadata::add_finalizer(&mut object, FOREGROUND);
            }
            Some(Propagation::Orphan) => {
                changed |= metadata::remove_finalizer(&mut object, FOREGROUND);
                changed |= metadata::add_finalizer(&mut object, ORPHAN);
            }
            Some(Propagation::Background) => {
                changed |= metadata::remove_finalizer(&mut object, FOREGROUND);
                changed |= metadata::remove_finalizer(&mut object, ORPHAN);
            }
            None => {}
        }
        let terminating = metadata::is_terminating(&object);
        if kind.builtin == Some(Builtin::CustomResourceDefinition) && !terminating {
            changed |= metadata::add_finalizer(&mut object, CLEANUP);
        }
        if metadata::finalizers(&object).is_empty() && !rules::holds_itself(kind.builtin, &object) {
            return Ok(Mark::None);
        }
        if terminating && !changed {
            return Ok(Mark::Already);
        }
        if !terminating {
            self.mark(kind, &mut object);
        }
        // The stored form is what was decoded, so its version is put back by the encoder.
        object.insert("apiVersion".to_owned(), (&*kind.api_version).into());
        Ok(Mark::New(if kind.builtin == Some(Builtin::Event) {
            super::events::from_core(object)
        } else {
            object
        }))
    }

    fn mark(&self, kind: &ServedKind, object: &mut Map<String, Value>) {
        metadata::set(object, "deletionTimestamp", Some(self.timestamp().into()));
        metadata::set(object, "deletionGracePeriodSeconds", Some(0.into()));
        if metadata::of(object).contains_key("generation") {
            metadata::set(
                object,
                "generation",
                Some((metadata::generation(object) + 1).into()),
            );
        }
        match kind.builtin {
            Some(Builtin::Namespace) => {
                let status = object
                    .entry("status")
                    .or_insert_with(|| Value::Object(Map::new()));
                status["phase"] = "Terminating".into();
            }
            Some(Builtin::CustomResourceDefinition) => {
                let now = self.timestamp();
                super::definitions::set_condition(
                    object,
                    "Terminating",
                    true,
                    "InstanceDeletionPending",
                    "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
                    &now,
                );
            }
            _ => {}
        }
    }
}

enum Mark {
    /// Nothing holds the object.
    None,
    /// It waits already, and nothing changes.
    Already,
    /// It has to wait; this is what is stored.
    New(Map<String, Value>),
}

/// A false alarm costs a decode, a miss would cost an object its finalizers; the text cannot be missing when they are there.
fn may_have_finalizers(bytes: &[u8]) -> bool {
    const NEEDLE: &[u8] = b"\"finalizers\"";
    bytes.windows(NEEDLE.len()).any(|window| window == NEEDLE)
}

fn check_preconditions(
    kind: &ServedKind,
    live: &Stored,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let conflict = |why: String| {
        Err(Status::conflict(
            &kind.group,
            &kind.plural,
            &live.key.name,
            &why,
        ))
    };
    if let Some(uid) = options
        .uid
        .as_deref()
        .filter(|uid| *uid != &*live.index.uid)
    {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            live.index.uid
        ));
    }
    let current = live.revision.to_string();
    if let Some(revision) = options
        .resource_version
        .as_deref()
        .filter(|revision| *revision != current)
    {
        return conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {current}"
        ));
    }
    Ok(())
}
