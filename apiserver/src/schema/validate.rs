//! Validation of values against a structural schema.
//!
//! Valid objects, nearly all of them, are passed by a quick check by hand; whatever it does not pass
//! goes to the engine, whose word is final and which finds every breach. Then list types and
//! embedded objects are checked, and on updates all findings in unchanged parts are dropped.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Number, Value};

use super::engine::{Engine, Step};
use super::field_error::{FieldError, FieldErrorKind, Path};
use super::metadata;
use super::structural::{Additional, Bound, Checks, ListType, Schema, Type};

/// Everything a kind's values are checked against.
#[derive(Debug)]
pub struct Validator {
    engine: Engine,
}

impl Validator {
    /// Compiles the value checks of `openAPIV3Schema`.
    pub(super) fn compile(raw: &Value) -> Result<Self, String> {
        Ok(Self {
            engine: Engine::compile(raw)?,
        })
    }

    /// Every breach in `new`; on an update, those in parts that `old` already had are left out.
    pub fn validate(&self, schema: &Schema, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if fits(schema, new) != Some(true) {
            for finding in self.engine.findings(new) {
                if !old.is_some_and(|old| unchanged(schema, new, old, &finding.at)) {
                    errors.push(finding.error);
                }
            }
        }
        if schema.lists_below {
            lists(schema, new, old, &Path::Root, &mut errors);
        }
        errors
    }
}

/// Do the value checks hold? `None` where this check by hand is not sure.
pub(super) fn fits(schema: &Schema, value: &Value) -> Option<bool> {
    let typed = match (schema.of, value) {
        (_, Value::Null) if schema.nullable => true,
        (Type::Any, _) => !schema.int_or_string || is_integer(value) || value.is_string(),
        (Type::Object, Value::Object(_))
        | (Type::Array, Value::Array(_))
        | (Type::String, Value::String(_))
        | (Type::Number, Value::Number(_))
        | (Type::Boolean, Value::Bool(_)) => true,
        (Type::Integer, _) => is_integer(value),
        _ => false,
    };
    if !typed {
        return Some(false);
    }
    let mut sure = true;
    let mut hold = |answer: Option<bool>| {
        sure &= answer.is_some();
        answer.unwrap_or(true)
    };
    let checks = &schema.checks;
    let held = checks
        .allowed
        .as_ref()
        .is_none_or(|allowed| hold(one_of_these(allowed, value)))
        && match value {
            Value::Object(map) => fields_fit(schema, map, &mut hold),
            Value::Array(items) => {
                between(items.len(), checks.min_items, checks.max_items)
                    && (!checks.unique_items || hold(None))
                    && schema
                        .items
                        .as_deref()
                        .is_none_or(|item| items.iter().all(|value| hold(fits(item, value))))
            }
            Value::String(text) => text_fits(checks, text),
            Value::Number(number) => hold(number_fits(checks, number)),
            Value::Null | Value::Bool(_) => true,
        }
        && junctors_fit(checks, value, &mut hold);
    if !held {
        return Some(false);
    }
    sure.then_some(true)
}

fn fields_fit(
    schema: &Schema,
    map: &Map<String, Value>,
    hold: &mut impl FnMut(Option<bool>) -> bool,
) -> bool {
    if !between(
        map.len(),
        schema.checks.min_properties,
        schema.checks.max_properties,
    ) || !schema.required.iter().all(|name| map.contains_key(name))
    {
        return false;
    }
    let additional = match &schema.additional {
        Additional::Schema(schema) => Some(&**schema),
        _ => None,
    };
    if schema.properties.is_empty() && additional.is_none() {
        return true;
    }
    map.iter().all(|(name, value)| {
        schema
            .properties
            .get(name)
            .or(additional)
            .is_none_or(|field| hold(fits(field, value)))
    })
}

fn junctors_fit(
    checks: &Checks,
    value: &Value,
    hold: &mut impl FnMut(Option<bool>) -> bool,
) -> bool {
    if !checks.all_of.iter().all(|schema| hold(fits(schema, value))) {
        return false;
    }
    if !checks.any_of.is_empty() {
        let answers: Vec<Option<bool>> = checks
            .any_of
            .iter()
            .map(|schema| fits(schema, value))
            .collect();
        if !answers.contains(&Some(true)) {
            if !answers.contains(&None) {
                return false;
            }
            hold(None);
        }
    }
    if !checks.one_of.is_empty() {
        let answers: Vec<Option<bool>> = checks
            .one_of
            .iter()
            .map(|schema| fits(schema, value))
            .collect();
        if answers.contains(&None) {
            return hold(None);
        }
        if answers
            .iter()
            .filter(|answer| **answer == Some(true))
            .count()
            != 1
        {
            return false;
        }
    }
    checks
        .not
        .as_deref()
        .is_none_or(|schema| hold(fits(schema, value).map(|holds| !holds)))
}

/// Equality as JSON Schema has it where that is plain; numbers that differ in kind are not sure.
fn one_of_these(allowed: &[Value], value: &Value) -> Option<bool> {
    if allowed.contains(value) {
        return Some(true);
    }
    if value.is_string() || value.is_boolean() || value.is_null() {
        Some(false)
    } else {
        None
    }
}

fn between(len: usize, min: Option<u64>, max: Option<u64>) -> bool {
    let len = len as u64;
    min.is_none_or(|min| len >= min) && max.is_none_or(|max| len <= max)
}

fn text_fits(checks: &Checks, text: &str) -> bool {
    if checks.min_length.is_some() || checks.max_length.is_some() {
        let runes = if text.is_ascii() {
            text.len()
        } else {
            text.chars().count()
        };
        if !between(runes, checks.min_length, checks.max_length) {
            return false;
        }
    }
    checks
        .pattern
        .as_ref()
        .is_none_or(|pattern| pattern.is_match(text))
        && checks.format.is_none_or(|format| (format.holds)(text))
}

/// Whole numbers up to this size are exact as floats, so comparing them as floats is safe.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn number_fits(checks: &Checks, number: &Number) -> Option<bool> {
    if checks.minimum.is_none() && checks.maximum.is_none() && checks.multiple_of.is_none() {
        return Some(true);
    }
    let value = number.as_f64()?;
    if value.abs() >= EXACT || checks.multiple_of.is_some() {
        return None;
    }
    let above = |bound: Bound| {
        if bound.exclusive {
            value > bound.limit
        } else {
            value >= bound.limit
        }
    };
    let below = |bound: Bound| {
        if bound.exclusive {
            value < bound.limit
        } else {
            value <= bound.limit
        }
    };
    Some(checks.minimum.is_none_or(above) && checks.maximum.is_none_or(below))
}

fn is_integer(value: &Value) -> bool {
    match value {
        Value::Number(n) => {
            n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        _ => false,
    }
}

/// Was the part at `at` already there, unchanged, in `old`? Items of a keyed list are found by key;
/// items of other lists have no identity, so only the list as a whole can be unchanged.
fn unchanged(schema: &Schema, new: &Value, old: &Value, at: &[Step]) -> bool {
    if new == old {
        return true;
    }
    let Some((step, rest)) = at.split_first() else {
        return false;
    };
    match step {
        Step::Field(name) => {
            let (Some(new), Some(old), Some(field)) =
                (new.get(name), old.get(name), schema.field(name))
            else {
                return false;
            };
            unchanged(field, new, old, rest)
        }
        Step::Index(at) => {
            let (Some(item), Some(schema)) = (new.get(at), schema_of_keyed_items(schema)) else {
                return false;
            };
            counterpart(schema.1, item, old).is_some_and(|old| unchanged(schema.0, item, old, rest))
        }
    }
}

fn schema_of_keyed_items(schema: &Schema) -> Option<(&Schema, &[String])> {
    match (&schema.list_type, schema.items.as_deref()) {
        (ListType::Map(keys), Some(item)) => Some((item, keys)),
        _ => None,
    }
}

/// The item of `old` with the same keys, if `old` is a list that has one.
pub(super) fn counterpart<'v>(keys: &[String], item: &Value, old: &'v Value) -> Option<&'v Value> {
    old.as_array()?
        .iter()
        .find(|candidate| keys.iter().all(|key| candidate.get(key) == item.get(key)))
}

/// Checks what the value checks cannot say: duplicates in sets and keyed lists, and embedded objects.
fn lists(
    schema: &Schema,
    new: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if !schema.lists_below || old == Some(new) {
        return;
    }
    match new {
        Value::Object(map) => {
            if schema.embedded {
                metadata::validate_embedded(map, path, errors);
            }
            for (name, value) in map {
                if let Some(field) = schema.field(name) {
                    let old = old.and_then(|old| old.get(name));
                    lists(field, value, old, &path.field(name), errors);
                }
            }
        }
        Value::Array(items) => {
            duplicates(schema, items, path, errors);
            if let Some(item_schema) = schema.items.as_deref() {
                for (at, item) in items.iter().enumerate() {
                    let old = match &schema.list_type {
                        ListType::Map(keys) => old.and_then(|old| counterpart(keys, item, old)),
                        _ => None,
                    };
                    lists(item_schema, item, old, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

fn duplicates(schema: &Schema, items: &[Value], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if items.len() < 2 {
        return;
    }
    match &schema.list_type {
        ListType::Atomic => {}
        ListType::Set => {
            let mut seen = HashSet::with_capacity(items.len());
            for (at, item) in items.iter().enumerate() {
                if !seen.insert(item) {
                    errors.push(FieldError::duplicate(&path.index(at), item.clone()));
                }
            }
        }
        ListType::Map(keys) => {
            let mut seen = BTreeSet::new();
            for (at, item) in items.iter().enumerate() {
                let Some(map) = item.as_object() else {
                    continue;
                };
                let mut identity = Map::new();
                for key in keys {
                    if let Some(value) = map.get(key) {
                        identity.insert(key.clone(), value.clone());
                    }
                }
                let identity = Value::Object(identity);
                if !seen.insert(identity.to_string()) {
                    errors.push(FieldError::duplicate(&path.index(at), identity));
                }
            }
        }
    }
}

/// Do these errors forbid running rules, because the object is not of the shape that rules may rely on?
pub(super) fn block_rules(errors: &[FieldError]) -> bool {
    errors.iter().any(|error| {
        matches!(
            error.kind,
            FieldErrorKind::NotSupported(_)
                | FieldErrorKind::Required
                | FieldErrorKind::TooLong(_)
                | FieldErrorKind::TooMany { .. }
                | FieldErrorKind::TypeInvalid
        )
    })
}

#[cfg(test)]
mod tests;
