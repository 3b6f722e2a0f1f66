//! The schema of one served version of one kind: the single entry the registry uses.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::cel::Rules;
use super::decode::Decoded;
use super::field_error::{FieldError, Path};
use super::jsonpath::JsonPath;
use super::metadata::{self, NameRule};
use super::structural::Schema;
use super::validate::Validator;
use super::{default, prune, validate};

/// What to do about unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; absent and empty mean Warn.
    pub fn parse(text: Option<&str>) -> Result<Self, FieldError> {
        match text {
            None | Some("" | "Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => {
                let path = Path::Root.field("fieldValidation");
                Err(FieldError::not_supported(
                    &path,
                    other,
                    ["Ignore", "Strict", "Warn"],
                ))
            }
        }
    }
}

/// Which part of an object a request writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status, where the kind has a status subresource.
    #[default]
    Main,
    /// The status only.
    Status,
}

/// A body that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The pruned and defaulted object.
    pub value: Value,
    /// Texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// Why a body could not be read as an object of this kind.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// 400 BadRequest with this text.
    #[error("{0}")]
    BadRequest(String),
    /// 400 BadRequest, or for a patch 422 with field `patch`: unknown or duplicate fields under Strict.
    #[error("{0}")]
    Strict(String),
    /// 422 Invalid.
    #[error("{}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<FieldError>),
}

/// An object that may be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// The object.
    pub value: Value,
    /// Texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// A field that lists and watches can select on.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// The name in field selectors, such as `status.phase`.
    pub name: Arc<str>,
    path: JsonPath,
}

impl SelectableField {
    /// Reads a simple path such as `.status.phase`.
    pub fn parse(path: &str) -> Result<Self, String> {
        let parsed = JsonPath::parse(path).map_err(|why| why.to_string())?;
        Ok(Self {
            name: path.trim_start_matches('.').into(),
            path: parsed,
        })
    }

    /// The value in an object as the text that selectors compare with; absent is `None`.
    pub fn value(&self, object: &Value) -> Option<String> {
        match self.path.first(object)? {
            Value::String(text) => Some(text.clone()),
            Value::Null | Value::Object(_) | Value::Array(_) => None,
            scalar => Some(scalar.to_string()),
        }
    }
}

/// What distinguishes a kind beside its openAPIV3Schema.
#[derive(Clone, Debug, Default)]
pub struct KindTraits {
    /// The API group; empty for core.
    pub group: String,
    /// The version, such as `v1`.
    pub version: String,
    /// The kind, such as `Job`.
    pub kind: String,
    /// Does it live in namespaces?
    pub namespaced: bool,
    /// Has it a status subresource?
    pub status: bool,
    /// May bodies leave out `apiVersion` and `kind`, as built-in kinds allow?
    pub typed: bool,
    /// The grammar of its names.
    pub name_rule: NameRule,
}

/// The schema of one served version of one kind, compiled once and shared.
#[derive(Debug)]
pub struct KindSchema {
    /// What distinguishes the kind.
    pub traits: KindTraits,
    /// `group/version`, or the version alone for core.
    pub api_version: String,
    /// The structural schema.
    pub structural: Schema,
    /// The fields that selectors may name beside `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    validator: Validator,
    rules: Rules,
}

impl KindSchema {
    /// Compiles the schema of a kind; `path` is where `raw` lies in what the user sent.
    pub fn compile(
        traits: KindTraits,
        raw: &Value,
        selectable: &[String],
        path: &Path<'_>,
    ) -> Result<Self, Vec<FieldError>> {
        let structural = Schema::parse(raw, path)?;
        let mut errors = Vec::new();
        default::check_defaults(&structural, raw, path, &mut errors);
        let rules = Rules::compile(&structural, path, &mut errors);
        let validator = Validator::compile(raw)
            .map_err(|why| errors.push(FieldError::invalid(path, "", why)))
            .ok();
        let mut selectable_fields = Vec::with_capacity(selectable.len());
        for field in selectable {
            match SelectableField::parse(field) {
                Ok(field) => selectable_fields.push(field),
                Err(why) => errors.push(FieldError::invalid(path, field.as_str(), why)),
            }
        }
        let Some(validator) = validator.filter(|_| errors.is_empty()) else {
            return Err(errors);
        };
        let api_version = match traits.group.as_str() {
            "" => traits.version.clone(),
            group => format!("{group}/{}", traits.version),
        };
        Ok(Self {
            traits,
            api_version,
            structural,
            selectable_fields,
            validator,
            rules,
        })
    }

    /// Makes an object of a decoded body: checks its kind, drops unknown fields, fills defaults.
    pub fn read(&self, decoded: Decoded, mode: FieldValidation) -> Result<Read, ReadError> {
        let Decoded {
            mut value,
            duplicates,
        } = decoded;
        self.check_type(&mut value)?;
        let Value::Object(object) = &mut value else {
            return Err(ReadError::BadRequest(
                "the body must be an object".to_owned(),
            ));
        };
        let unknown_metadata = metadata::read(object).map_err(|why| {
            ReadError::BadRequest(format!(
                "{} in version {:?} cannot be handled as a {0}: {why}",
                self.traits.kind, self.traits.version
            ))
        })?;
        let unknown = prune::prune(&mut value, &self.structural);
        default::default(&mut value, &self.structural);
        if mode == FieldValidation::Ignore {
            return Ok(Read {
                value,
                warnings: Vec::new(),
            });
        }
        let unknown = unknown
            .iter()
            .chain(&unknown_metadata)
            .map(|field| format!("unknown field {field:?}"));
        let duplicate = duplicates
            .iter()
            .map(|field| format!("duplicate field {field:?}"));
        let warnings: Vec<String> = unknown.chain(duplicate).collect();
        if mode == FieldValidation::Strict && !warnings.is_empty() {
            return Err(ReadError::Strict(format!(
                "{} in version {:?} cannot be handled as a {0}: strict decoding error: {}",
                self.traits.kind,
                self.traits.version,
                warnings.join(", ")
            )));
        }
        Ok(Read { value, warnings })
    }

    fn check_type(&self, value: &mut Value) -> Result<(), ReadError> {
        let shown = |value: &Value| {
            let mut text = value.to_string();
            if text.len() > 256 {
                text.truncate(
                    (0..=256)
                        .rev()
                        .find(|at| text.is_char_boundary(*at))
                        .unwrap_or(0),
                );
                text.push_str("...");
            }
            text
        };
        let text = |value: &Value, name: &str| {
            value
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (api_version, kind) = (text(value, "apiVersion"), text(value, "kind"));
        if !self.traits.typed {
            for (name, there) in [("Kind", &kind), ("apiVersion", &api_version)] {
                if there.is_empty() {
                    return Err(ReadError::BadRequest(format!(
                        "Object '{name}' is missing in '{}'",
                        shown(value)
                    )));
                }
            }
        }
        if !api_version.is_empty() && api_version != self.api_version {
            return Err(ReadError::BadRequest(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({})",
                self.api_version
            )));
        }
        if !kind.is_empty() && kind != self.traits.kind {
            let detail = format!("must be {}", self.traits.kind);
            return Err(ReadError::Invalid(vec![FieldError::invalid(
                &Path::Root.field("kind"),
                kind,
                detail,
            )]));
        }
        if let Value::Object(object) = value {
            object.insert(
                "apiVersion".to_owned(),
                Value::from(self.api_version.as_str()),
            );
            object.insert("kind".to_owned(), Value::from(self.traits.kind.as_str()));
        }
        Ok(())
    }

    /// Fills defaults again, for objects read from storage or made by a patch.
    pub fn default(&self, value: &mut Value) {
        default::default(value, &self.structural);
    }

    /// Drops fields that the schema does not know; answers their paths.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        prune::prune(value, &self.structural)
    }

    /// Decides whether a new object, complete with what the server sets, may be stored.
    pub fn admit_create(&self, mut value: Value) -> Result<Admitted, Vec<FieldError>> {
        let warnings = normalize(&mut value);
        let mut errors = metadata::validate_create(
            metadata_of(&value),
            self.traits.name_rule,
            self.traits.namespaced,
        );
        self.validate(&value, None, &mut errors);
        if errors.is_empty() {
            Ok(Admitted { value, warnings })
        } else {
            Err(errors)
        }
    }

    /// Decides whether a changed object may be stored. The registry has already put back what this
    /// `part` may not change; errors in what did not change are not reported.
    pub fn admit_update(
        &self,
        mut value: Value,
        old: &Value,
        part: Part,
    ) -> Result<Admitted, Vec<FieldError>> {
        let warnings = match part {
            Part::Main => normalize(&mut value),
            Part::Status => Vec::new(),
        };
        let mut errors = metadata::validate_update(metadata_of(&value), metadata_of(old));
        self.validate(&value, Some(old), &mut errors);
        if errors.is_empty() {
            Ok(Admitted { value, warnings })
        } else {
            Err(errors)
        }
    }

    fn validate(&self, value: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        let found = self.validator.validate(&self.structural, value, old);
        if validate::block_rules(&found) {
            errors.extend(found);
            if !self.rules.is_empty() {
                errors.push(FieldError {
                    path: String::new(),
                    kind: super::FieldErrorKind::Invalid,
                    value: Some(Value::from("null")),
                    detail: "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".to_owned(),
                });
            }
            return;
        }
        errors.extend(found);
        self.rules.evaluate(&self.structural, value, old, errors);
    }

    /// May selectors name this field?
    pub fn is_selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.traits.namespaced)
            || self
                .selectable_fields
                .iter()
                .any(|selectable| &*selectable.name == field)
    }
}

static NO_METADATA: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

fn metadata_of(value: &Value) -> &Map<String, Value> {
    value
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&NO_METADATA)
}

fn normalize(value: &mut Value) -> Vec<String> {
    value
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .map(metadata::normalize)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
