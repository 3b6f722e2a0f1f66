//! Structural schemas: an openAPIV3Schema read once into the form that every write uses.
//!
//! Parsing checks the structural rules and names each breach by its path in the
//! CustomResourceDefinition. Every node knows whether anything below it has defaults, rules or list
//! types, so that a write only visits what concerns it.

mod parse;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::field_error::{FieldError, Path};
use super::formats::Format;

/// The JSON type of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// Not said.
    #[default]
    Any,
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

impl Type {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// The name in the schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// How the items of a list are told apart, and how apply merges it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value as a whole.
    #[default]
    Atomic,
    /// Each value at most once.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<String>),
}

/// What a map may hold beside its declared properties.
#[derive(Debug, Default)]
pub enum Additional {
    /// Nothing.
    #[default]
    None,
    /// Anything (`additionalProperties: true`).
    Any,
    /// Values of this schema.
    Schema(Box<Schema>),
}

/// One `x-kubernetes-validations` rule as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSource {
    /// The CEL expression.
    pub rule: String,
    /// What to say when it is false.
    pub message: Option<String>,
    /// A CEL expression that makes the message.
    pub message_expression: Option<String>,
    /// Such as `FieldValueForbidden`.
    pub reason: Option<String>,
    /// Path below the node that the failure is reported at.
    pub field_path: Option<String>,
    /// Evaluate transition rules on create too, with `oldSelf` as an optional.
    pub optional_old_self: bool,
}

/// A bound on a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The limit.
    pub limit: f64,
    /// Is the limit itself outside?
    pub exclusive: bool,
}

/// The value checks of one node.
#[derive(Debug, Default)]
pub struct Checks {
    pub(super) allowed: Option<Vec<Value>>,
    pub(super) pattern: Option<Regex>,
    pub(super) format: Option<Format>,
    pub(super) minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) multiple_of: Option<f64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) unique_items: bool,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
}

/// One node of a structural schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// The JSON type.
    pub of: Type,
    /// May it be null?
    pub nullable: bool,
    /// Integer or string.
    pub int_or_string: bool,
    /// Keep unknown fields here.
    pub preserve_unknown: bool,
    /// A whole object with apiVersion, kind and metadata.
    pub embedded: bool,
    /// The declared fields.
    pub properties: BTreeMap<String, Schema>,
    /// The undeclared ones.
    pub additional: Additional,
    /// The items of a list.
    pub items: Option<Box<Schema>>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// What an absent field becomes.
    pub default: Option<Value>,
    /// How list items are told apart.
    pub list_type: ListType,
    /// Is a map one value as a whole (`x-kubernetes-map-type: atomic`)?
    pub atomic_map: bool,
    /// The value checks.
    pub checks: Checks,
    /// The CEL rules.
    pub rules: Vec<RuleSource>,
    /// Does this node or one below have a default?
    pub defaults_below: bool,
    /// Does this node or one below have rules?
    pub rules_below: bool,
    /// Does this node or one below have a list type other than atomic, or an embedded object?
    pub lists_below: bool,
}

impl Schema {
    /// Reads `openAPIV3Schema`; `path` is where it lies in the CustomResourceDefinition.
    pub fn parse(raw: &Value, path: &Path<'_>) -> Result<Self, Vec<FieldError>> {
        parse::parse(raw, path)
    }

    /// The schema of a field by name: declared, else the one for undeclared fields.
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    /// Is this a map of data rather than an object with declared fields?
    pub fn is_map(&self) -> bool {
        !matches!(self.additional, Additional::None)
    }

    fn note_below(&mut self) {
        let mut defaults = self.default.is_some();
        let mut rules = !self.rules.is_empty();
        let mut lists = self.list_type != ListType::Atomic || self.embedded;
        let below =
            self.properties
                .values()
                .chain(self.items.as_deref())
                .chain(match &self.additional {
                    Additional::Schema(schema) => Some(&**schema),
                    _ => None,
                });
        for child in below {
            defaults |= child.defaults_below;
            rules |= child.rules_below;
            lists |= child.lists_below;
        }
        self.defaults_below = defaults;
        self.rules_below = rules;
        self.lists_below = lists;
    }
}

#[cfg(test)]
mod tests;
