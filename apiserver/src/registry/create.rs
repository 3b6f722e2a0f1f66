//! Creating objects.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value};

use super::kinds::{Builtin, ServedKind};
use super::options::{WriteOptions, invalid};
use super::{
    Registry, commit_failed, encode, events, key_of, limits, metadata, prepare, present, rules,
};
use crate::http::status::{Cause, Details, Status};
use crate::schema::decode::Decoded;
use crate::schema::managed_fields;
use crate::store::{Body, CommitError, Encoded, Expect, Mutation, Stored};

/// What a write answers with.
#[derive(Debug)]
pub struct Written {
    /// The object, in the form of the kind that it was written through.
    pub bytes: Bytes,
    /// Was it created?
    pub created: bool,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

impl Registry {
    /// Creates an object from a body.
    pub async fn create(
        &self,
        kind: &Arc<ServedKind>,
        namespace: &str,
        body: Decoded,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        if kind.terminating {
            return Err(Status::forbidden(
                "create not allowed while custom resource definition is terminating",
            ));
        }
        let prepared = prepare::read(kind, namespace, None, body, options.validation)?;
        let (mut object, mut warnings) = (prepared.object, prepared.warnings);
        self.wipe_for_create(kind, &mut object)?;
        if let Some(builtin) = kind.builtin {
            rules::complete(builtin, &mut object, None);
        }
        if kind.is_namespaced() {
            self.check_namespace(kind, namespace, metadata::text(&object, "name"))?;
        }
        let generate = metadata::text(&object, "name").is_empty();
        let attempts = if generate {
            limits::MAX_NAME_ATTEMPTS
        } else {
            1
        };
        for _ in 0..attempts {
            let mut object = object.clone_if(generate);
            if generate {
                self.generate_name(&mut object);
            }
            let admitted = self.admit_new(kind, object, options)?;
            let name = metadata::text(&admitted.object, "name").to_owned();
            warnings.extend(admitted.warnings);
            match self
                .store_new(kind, namespace, &name, admitted.object, options)
                .await?
            {
                Creation::Done(bytes) => {
                    return Ok(Written {
                        bytes,
                        created: true,
                        warnings: prepare::bounded(warnings),
                    });
                }
                Creation::Exists(_) if generate => {}
                Creation::Exists(current) => return Err(already_exists(kind, &name, &current)),
            }
        }
        Err(no_free_name(kind, metadata::text(&object, "generateName")))
    }

    /// Removes what only the server sets and sets it.
    fn wipe_for_create(
        &self,
        kind: &ServedKind,
        object: &mut Map<String, Value>,
    ) -> Result<(), Status> {
        let revision = metadata::text(object, "resourceVersion");
        if !matches!(revision, "" | "0") {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        for key in [
            "resourceVersion",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
        ] {
            metadata::set(object, key, None);
        }
        metadata::set(object, "uid", Some(self.ids().uid().into()));
        metadata::set(object, "creationTimestamp", Some(self.timestamp().into()));
        let counted = kind
            .builtin
            .is_none_or(|b| b == Builtin::CustomResourceDefinition);
        metadata::set(object, "generation", counted.then(|| 1.into()));
        if kind.subresources.status {
            object.remove("status");
        }
        Ok(())
    }

    fn generate_name(&self, object: &mut Map<String, Value>) {
        let prefix = metadata::text(object, "generateName");
        if prefix.is_empty() {
            return;
        }
        let cut = (0..=limits::MAX_GENERATE_NAME_BYTES.min(prefix.len()))
            .rev()
            .find(|at| prefix.is_char_boundary(*at));
        let name = format!("{}{}", &prefix[..cut.unwrap_or(0)], self.ids().suffix());
        metadata::set(object, "name", Some(name.into()));
    }

    /// The namespace must exist and must not be on its way out.
    fn check_namespace(
        &self,
        kind: &ServedKind,
        namespace: &str,
        name: &str,
    ) -> Result<(), Status> {
        let Some(found) = self.stored(super::builtin::NAMESPACES, "", namespace) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        if found.field("status.phase") != Some("Terminating") {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let cause = Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        };
        let message = format!("{} {name:?} is forbidden: {why}", kind.resource);
        Err(Status::forbidden(message).with_details(Details {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.plural.to_string(),
            causes: vec![cause],
            ..Details::default()
        }))
    }

    /// Validates a new object and records who owns its fields.
    fn admit_new(
        &self,
        kind: &ServedKind,
        object: Map<String, Value>,
        options: &WriteOptions,
    ) -> Result<prepare::Prepared, Status> {
        let name = metadata::text(&object, "name").to_owned();
        let refuse = |errors: &[_]| invalid(&kind.kind, &kind.group, &name, errors);
        if let Some(builtin) = kind.builtin {
            let errors = rules::validate(builtin, &object, None);
            if !errors.is_empty() {
                return Err(refuse(&errors));
            }
        }
        let admitted = kind
            .schema
            .admit_create(Value::Object(object))
            .map_err(|errors| refuse(&errors))?;
        let mut value = admitted.value;
        let writer = kind.writer(options, "", self.now());
        managed_fields::update(&kind.schema, None, &mut value, &writer);
        let Value::Object(object) = value else {
            return Err(Status::internal("an admitted object is no object"));
        };
        Ok(prepare::Prepared {
            object,
            warnings: admitted.warnings,
        })
    }

    async fn store_new(
        &self,
        kind: &Arc<ServedKind>,
        namespace: &str,
        name: &str,
        object: Map<String, Value>,
        options: &WriteOptions,
    ) -> Result<Creation, Status> {
        let key = key_of(kind, namespace, name);
        if options.dry_run {
            if let Some(current) = self.cache().get(&key) {
                return Ok(Creation::Exists(current));
            }
            if kind.builtin == Some(Builtin::CustomResourceDefinition) {
                super::definition::compile(&object)?;
            }
            return Ok(Creation::Done(encode::plain(&object)));
        }
        if kind.builtin == Some(Builtin::CustomResourceDefinition) {
            return self.create_definition(object).await;
        }
        let encoded = encode_for(kind, object)?;
        let mutation = Mutation {
            key,
            expect: Expect::Absent,
            body: Body::Put(encoded),
            frees: false,
        };
        match self.cache().commit(mutation).await {
            Ok(stored) => {
                self.after_write(kind, &stored, None);
                Ok(Creation::Done(present(kind, &stored)))
            }
            Err(CommitError::Exists { current }) => Ok(Creation::Exists(current)),
            Err(error) => Err(commit_failed(&error)),
        }
    }
}

/// What became of a try to create.
pub(super) enum Creation {
    Done(Bytes),
    Exists(Arc<Stored>),
}

trait CloneIf {
    fn clone_if(&mut self, needed: bool) -> Self;
}

impl CloneIf for Map<String, Value> {
    /// A copy when the original is needed again, else the original itself.
    fn clone_if(&mut self, needed: bool) -> Self {
        if needed {
            self.clone()
        } else {
            std::mem::take(self)
        }
    }
}

/// Encodes an object in the form in which its kind is stored.
pub(super) fn encode_for(
    kind: &ServedKind,
    mut object: Map<String, Value>,
) -> Result<Encoded, Status> {
    if kind.builtin == Some(Builtin::Event) {
        object = events::to_core(object);
    } else if kind.api_version != kind.storage_api_version {
        object.insert("apiVersion".to_owned(), (&*kind.storage_api_version).into());
    }
    let encoded = encode::encode(&object, &kind.stored_fields);
    if encoded.bytes.len() > limits::MAX_OBJECT_BYTES {
        return Err(Status::too_large(limits::MAX_OBJECT_BYTES));
    }
    Ok(encoded)
}

pub(super) fn already_exists(kind: &ServedKind, name: &str, current: &Stored) -> Status {
    let terminating =
        encode::decode(&current.bytes).is_ok_and(|object| metadata::is_terminating(&object));
    let prefix = if terminating {
        "object is being deleted: "
    } else {
        ""
    };
    let message = format!("{prefix}{} {name:?} already exists", kind.resource);
    Status::new(StatusCode::CONFLICT, "AlreadyExists", message).with_details(details(kind, name))
}

fn no_free_name(kind: &ServedKind, prefix: &str) -> Status {
    let message = format!(
        "{} {prefix:?} already exists, the server was not able to generate a unique name for the object",
        kind.resource
    );
    Status::new(StatusCode::CONFLICT, "AlreadyExists", message).with_details(Details {
        retry_after_seconds: 1,
        ..details(kind, prefix)
    })
}

/// The details of most errors: name, group and plural.
pub(super) fn details(kind: &ServedKind, name: &str) -> Details {
    Details {
        name: name.to_owned(),
        group: kind.group.to_string(),
        kind: kind.plural.to_string(),
        ..Details::default()
    }
}
