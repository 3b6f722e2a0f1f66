//! Changing objects: replace and patch, of the object and of its status.
//!
//! One loop serves all of them: read the object as it is, work out what it should become, admit that, and commit it on
//! condition that the object has not changed in between; else begin again. A request that pins a `resourceVersion` finds
//! on the next turn that it no longer holds, and ends in a Conflict.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};

use super::create::{Written, encode_for};
use super::kinds::{Builtin, ServedKind};
use super::options::{WriteOptions, invalid};
use super::prepare::{self, Prepared};
use super::{
    Registry, commit_failed, encode, key_of, limits, metadata, open_stored, present, rules,
};
use crate::http::status::{Details, Status};
use crate::schema::decode::Decoded;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::patch::{self, PatchError};
use crate::schema::{Part, managed_fields};
use crate::store::{Body, CommitError, Expect, Mutation, Stored};

/// A patch as it came.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Decoded),
    /// RFC 7386.
    Merge(Decoded),
    /// Strategic merge, for built-in kinds.
    Strategic(Decoded),
}

impl Patch {
    fn document(&self) -> &Decoded {
        match self {
            Self::Json(patch) | Self::Merge(patch) | Self::Strategic(patch) => patch,
        }
    }
}

/// Which object, and which part of it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The kind in the version of the request.
    pub kind: &'a Arc<ServedKind>,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
    /// The object itself or its status.
    pub part: Part,
}

impl Target<'_> {
    fn not_found(&self) -> Status {
        Status::not_found(&self.kind.group, &self.kind.plural, self.name)
    }

    fn conflict(&self, why: &str) -> Status {
        Status::conflict(&self.kind.group, &self.kind.plural, self.name, why)
    }

    fn invalid(&self, errors: &[FieldError]) -> Status {
        invalid(&self.kind.kind, &self.kind.group, self.name, errors)
    }
}

pub(super) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl Registry {
    /// Replaces an object or its status.
    pub async fn update(
        &self,
        target: Target<'_>,
        body: Decoded,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let unconditional = target
            .kind
            .builtin
            .is_some_and(|b| b != Builtin::CustomResourceDefinition);
        let prepared = prepare::read(
            target.kind,
            target.namespace,
            Some(target.name),
            body,
            options.validation,
        )?;
        // A missing object is the better news: clients create it then.
        self.find(target.kind, target.namespace, target.name)?;
        if metadata::text(&prepared.object, "resourceVersion").is_empty() && !unconditional {
            let path = Path::Root.field("metadata");
            let path = path.field("resourceVersion");
            return Err(target.invalid(&[FieldError::invalid(
                &path,
                0,
                "must be specified for an update",
            )]));
        }
        let Prepared { object, warnings } = prepared;
        self.modify(target, options, |_| {
            Ok(Prepared {
                object: object.clone(),
                warnings: warnings.clone(),
            })
        })
        .await
    }

    /// Patches an object or its status.
    pub async fn patch(
        &self,
        target: Target<'_>,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let document = patch.document();
        self.modify(target, options, |live| {
            let mut value = Value::Object(live.clone());
            apply_patch(patch, &mut value)?;
            let patched = Decoded {
                value,
                duplicates: document.duplicates.clone(),
            };
            prepare::read_patched(
                target.kind,
                target.namespace,
                target.name,
                patched,
                &document.value,
                options.validation,
            )
        })
        .await
    }

    /// Replaces or patches until it lands. `propose` makes the new object of the current one.
    pub(super) async fn modify(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        propose: impl Fn(&Map<String, Value>) -> Result<Prepared, Status>,
    ) -> Result<Written, Status> {
        let key = key_of(target.kind, target.namespace, target.name);
        for _ in 0..limits::MAX_PATCH_ATTEMPTS {
            let live = self.cache().get(&key).ok_or_else(|| target.not_found())?;
            let old = open_stored(target.kind, &live)?;
            let Prepared {
                object,
                mut warnings,
            } = propose(&old)?;
            let next = self.next_state(target, object, old, &mut warnings, options)?;
            let answer = |bytes| Written {
                bytes,
                created: false,
                warnings: prepare::bounded(warnings),
            };
            match self.store_next(target, &live, next, options).await? {
                Landing::Landed(bytes) => return Ok(answer(bytes)),
                Landing::Raced => {}
            }
        }
        Err(target.conflict(MODIFIED))
    }

    /// What is to be stored in place of `old` when a client proposes `new`.
    fn next_state(
        &self,
        target: Target<'_>,
        mut new: Map<String, Value>,
        old: Map<String, Value>,
        warnings: &mut Vec<String>,
        options: &WriteOptions,
    ) -> Result<Next, Status> {
        check_preconditions(target, &new, &old)?;
        keep_server_fields(target, &mut new, &old);
        if let Some(builtin) = target.kind.builtin {
            rules::complete(builtin, &mut new, Some(&old));
            let errors = rules::validate(builtin, &new, Some(&old));
            if !errors.is_empty() {
                return Err(target.invalid(&errors));
            }
        }
        bump_generation(target, &mut new, &old);
        let old = Value::Object(old);
        let admitted = target
            .kind
            .schema
            .admit_update(Value::Object(new), &old, target.part)
            .map_err(|errors| target.invalid(&errors))?;
        warnings.extend(admitted.warnings);
        let mut value = admitted.value;
        let subresource = if target.part == Part::Status {
            "status"
        } else {
            ""
        };
        let writer = target.kind.writer(options, subresource, self.now());
        managed_fields::update(&target.kind.schema, Some(&old), &mut value, &writer);
        if managed_fields::is_no_op(&old, &value) {
            return Ok(Next::Unchanged);
        }
        let Value::Object(object) = value else {
            return Err(Status::internal("an admitted object is no object"));
        };
        let gone = metadata::is_terminating(&object)
            && metadata::finalizers(&object).is_empty()
            && !rules::holds_itself(target.kind.builtin, &object);
        Ok(if gone {
            Next::Gone(object)
        } else {
            Next::Changed(object)
        })
    }

    async fn store_next(
        &self,
        target: Target<'_>,
        live: &Arc<Stored>,
        next: Next,
        options: &WriteOptions,
    ) -> Result<Landing, Status> {
        let kind = target.kind;
        let (object, gone) = match next {
            Next::Unchanged => return Ok(Landing::Landed(present(kind, live))),
            Next::Changed(object) => (object, false),
            Next::Gone(object) => (object, true),
        };
        if options.dry_run {
            if kind.builtin == Some(Builtin::CustomResourceDefinition) {
                super::definition::compile(&object)?;
            }
            return Ok(Landing::Landed(encode::plain(&object)));
        }
        if kind.builtin == Some(Builtin::CustomResourceDefinition) && !gone {
            let changed = self.change_definition(live, object).await?;
            return Ok(changed.map_or(Landing::Raced, Landing::Landed));
        }
        let terminating = metadata::is_terminating(&object);
        let encoded = encode_for(kind, object)?;
        // Finalizers must be able to go when little space is left, and little else may come with them.
        let frees = terminating && encoded.bytes.len() <= live.bytes.len() + MARKS_BYTES;
        let body = if gone {
            Body::Delete(encoded)
        } else {
            Body::Put(encoded)
        };
        let mutation = Mutation {
            key: live.key.clone(),
            expect: Expect::At(live.revision),
            body,
            frees,
        };
        match self.cache().commit(mutation).await {
            Ok(stored) => {
                if gone {
                    self.after_delete(kind, &stored).await;
                } else {
                    self.after_write(kind, &stored, Some(live));
                }
                Ok(Landing::Landed(present(kind, &stored)))
            }
            Err(CommitError::Conflict { .. } | CommitError::NotFound) => Ok(Landing::Raced),
            Err(error) => Err(commit_failed(&error)),
        }
    }
}

/// What a step of a deletion may add, in bytes: the mark, and who made the step. Chosen.
const MARKS_BYTES: usize = 1024;

enum Next {
    Unchanged,
    Changed(Map<String, Value>),
    /// The last finalizer of a terminating object went.
    Gone(Map<String, Value>),
}

/// What became of a try to store.
pub(super) enum Landing {
    Landed(bytes::Bytes),
    Raced,
}

pub(super) fn apply_patch(patch: &Patch, value: &mut Value) -> Result<(), Status> {
    match patch {
        Patch::Json(document) => patch::json(value, &document.value).map_err(|why| match why {
            PatchError::Undecodable(_) => Status::bad_request(why.to_string()),
            PatchError::TooManyOperations(_) | PatchError::TooLarge => Status::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                why.to_string(),
            ),
            PatchError::DoesNotApply(_) => does_not_apply(),
        }),
        Patch::Merge(document) => {
            patch::merge(value, &document.value);
            Ok(())
        }
        Patch::Strategic(document) => patch::strategic(value, &document.value)
            .map_err(|why| Status::bad_request(why.to_string())),
    }
}

/// A JSON patch that does not fit the object, a failed `test` included.
fn does_not_apply() -> Status {
    Status::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Invalid",
        "the server rejected our request due to an error in our request",
    )
    .with_details(Details::default())
}

fn check_preconditions(
    target: Target<'_>,
    new: &Map<String, Value>,
    old: &Map<String, Value>,
) -> Result<(), Status> {
    let (uid, live_uid) = (metadata::text(new, "uid"), metadata::text(old, "uid"));
    if !uid.is_empty() && uid != live_uid {
        return Err(target.conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {live_uid}"
        )));
    }
    let revision = metadata::text(new, "resourceVersion");
    if !matches!(revision, "" | "0") {
        if revision.parse::<u64>().is_err() {
            let path = Path::Root.field("metadata");
            let path = path.field("resourceVersion");
            return Err(target.invalid(&[FieldError::invalid(
                &path,
                revision,
                "must be an unsigned integer",
            )]));
        }
        if revision != metadata::text(old, "resourceVersion") {
            return Err(target.conflict(MODIFIED));
        }
    }
    Ok(())
}

/// Puts back what this request may not change.
fn keep_server_fields(target: Target<'_>, new: &mut Map<String, Value>, old: &Map<String, Value>) {
    if target.part == Part::Status {
        restore(new, old, &["status", "metadata"]);
        restore(metadata::of_mut(new), metadata::of(old), &["managedFields"]);
        return;
    }
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
        "selfLink",
    ] {
        metadata::set(new, key, metadata::of(old).get(key).cloned());
    }
    if !metadata::of(new).contains_key("managedFields") {
        metadata::set(
            new,
            "managedFields",
            metadata::of(old).get("managedFields").cloned(),
        );
    }
    if target.kind.subresources.status {
        match old.get("status") {
            Some(status) => drop(new.insert("status".to_owned(), status.clone())),
            None => drop(new.remove("status")),
        }
    }
}

/// Makes `new` what `old` is, but for some keys. Most of it is equal already, and then nothing is copied.
fn restore(new: &mut Map<String, Value>, old: &Map<String, Value>, except: &[&str]) {
    new.retain(|key, _| old.contains_key(key) || except.contains(&key.as_str()));
    for (key, value) in old
        .iter()
        .filter(|(key, _)| !except.contains(&key.as_str()))
    {
        if new.get(key) != Some(value) {
            new.insert(key.clone(), value.clone());
        }
    }
}

/// One more when anything but metadata (and a separate status) differs.
fn bump_generation(target: Target<'_>, new: &mut Map<String, Value>, old: &Map<String, Value>) {
    if target.part == Part::Status || !metadata::of(old).contains_key("generation") {
        return;
    }
    let differs = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.iter().any(|(key, value)| {
            key != "metadata" && key != "apiVersion" && b.get(key) != Some(value)
        })
    };
    if differs(new, old) || differs(old, new) {
        metadata::set(
            new,
            "generation",
            Some((metadata::generation(old) + 1).into()),
        );
    }
}
