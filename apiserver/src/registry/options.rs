//! What a request says about how to write or delete.

use serde_json::Value;

use crate::http::status::{Cause, Details, Status};
use crate::schema::FieldValidation;
use crate::schema::field_error::{FieldError, Path, invalid_message};

/// How to write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Who owns the written fields.
    pub manager: String,
    /// What becomes of unknown and duplicate fields.
    pub validation: FieldValidation,
    /// Do everything but store it.
    pub dry_run: bool,
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They are left, without this owner.
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Delete only the object with this uid.
    pub uid: Option<String>,
    /// Delete only this state of the object.
    pub resource_version: Option<String>,
    /// What becomes of dependents; `None` leaves it to the object's finalizers, else in the background.
    pub propagation: Option<Propagation>,
    /// Do everything but delete.
    pub dry_run: bool,
}

/// A 422 about one or more fields of an object or of options.
pub(crate) fn invalid(kind: &str, group: &str, name: &str, errors: &[FieldError]) -> Status {
    let causes = errors.iter().map(FieldError::cause).map(|cause| Cause {
        reason: cause.reason.to_owned(),
        message: cause.message,
        field: cause.field,
    });
    let details = Details {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: kind.to_owned(),
        causes: causes.collect(),
        ..Details::default()
    };
    let message = invalid_message(kind, group, name, errors);
    Status::new(http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_details(details)
}

/// A 422 about the options of a request.
pub(crate) fn invalid_options(kind: &str, error: FieldError) -> Status {
    invalid(kind, "meta.k8s.io", "", &[error])
}

/// Reads `dryRun`: every value must be `All`.
pub(crate) fn dry_run<'a>(
    values: impl IntoIterator<Item = &'a str>,
    options: &str,
) -> Result<bool, Status> {
    let mut dry = false;
    for value in values {
        if value != "All" {
            let path = Path::Root.field("dryRun");
            return Err(invalid_options(
                options,
                FieldError::not_supported(&path, value, ["All"]),
            ));
        }
        dry = true;
    }
    Ok(dry)
}

impl Propagation {
    /// Reads `propagationPolicy`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => {
                let path = Path::Root.field("propagationPolicy");
                let error = FieldError::not_supported(
                    &path,
                    other,
                    ["Foreground", "Background", "Orphan", "nil"],
                );
                Err(invalid_options("DeleteOptions", error))
            }
        }
    }
}

const UNDECODABLE: &str = "the body of the request is not a valid DeleteOptions: ";

impl DeleteOptions {
    /// Adds what the body of a DELETE says. `api_version` is the resource's own, which old clients put there.
    pub fn merge_body(&mut self, body: &Value, api_version: &str) -> Result<(), Status> {
        let Value::Object(body) = body else {
            return Err(Status::bad_request(format!(
                "{UNDECODABLE}it must be an object"
            )));
        };
        let wrong = |key: &str, wanted: &str| {
            Status::bad_request(format!("{UNDECODABLE}{key} must be {wanted}"))
        };
        let text = |key: &'static str| match body.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(wrong(key, "a string")),
        };
        if let Some(kind) = text("kind")?.filter(|kind| !matches!(*kind, "" | "DeleteOptions")) {
            return Err(Status::bad_request(format!(
                "{UNDECODABLE}its kind is {kind:?}"
            )));
        }
        let versions = ["", "v1", "meta.k8s.io/v1", api_version];
        if let Some(version) = text("apiVersion")?.filter(|version| !versions.contains(version)) {
            return Err(Status::bad_request(format!(
                "{UNDECODABLE}its apiVersion is {version:?}"
            )));
        }
        match body.get("preconditions") {
            None | Some(Value::Null) => {}
            Some(Value::Object(conditions)) => {
                let get = |key: &str| {
                    conditions
                        .get(key)
                        .and_then(Value::as_str)
                        .map(str::to_owned)
                };
                self.uid = get("uid").or(self.uid.take());
                self.resource_version = get("resourceVersion").or(self.resource_version.take());
            }
            Some(_) => return Err(wrong("preconditions", "an object")),
        }
        match body.get("gracePeriodSeconds") {
            None | Some(Value::Null) => {}
            Some(Value::Number(seconds)) if seconds.is_i64() => {}
            Some(_) => return Err(wrong("gracePeriodSeconds", "an integer")),
        }
        let orphan = match body.get("orphanDependents") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(orphan)) => Some(*orphan),
            Some(_) => return Err(wrong("orphanDependents", "a boolean")),
        };
        self.set_propagation(text("propagationPolicy")?, orphan)?;
        match body.get("dryRun") {
            None | Some(Value::Null) => {}
            Some(Value::Array(values)) if values.iter().all(Value::is_string) => {
                self.dry_run |= dry_run(values.iter().filter_map(Value::as_str), "DeleteOptions")?;
            }
            Some(_) => return Err(wrong("dryRun", "a list of strings")),
        }
        Ok(())
    }

    /// Sets what becomes of dependents, from the policy or its older form.
    pub fn set_propagation(
        &mut self,
        policy: Option<&str>,
        orphan: Option<bool>,
    ) -> Result<(), Status> {
        if let Some(policy) = policy {
            if orphan.is_some() {
                let path = Path::Root.field("propagationPolicy");
                let why = "orphanDependents and deletionPropagation cannot be both set";
                return Err(invalid_options(
                    "DeleteOptions",
                    FieldError::invalid(&path, policy, why),
                ));
            }
            self.propagation = Some(Propagation::parse(policy)?);
        } else if let Some(orphan) = orphan {
            self.propagation = Some(if orphan {
                Propagation::Orphan
            } else {
                Propagation::Background
            });
        }
        Ok(())
    }
}
