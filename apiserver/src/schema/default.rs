//! Defaulting: filling absent fields from the schema, and dropping nulls that mean nothing.

use serde_json::Value;

use super::field_error::{FieldError, Path};
use super::prune;
use super::structural::{Additional, Schema};
use super::validate::{self, Validator};

/// Fills defaults below `value`, a parent's before its children's; nothing is made up for absent
/// parents. A null where the schema is not nullable becomes the default, or goes away.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            let mut nulls = false;
            for (name, value) in map.iter_mut() {
                let Some(field) = schema.field(name) else {
                    continue;
                };
                if value.is_null() && !field.nullable {
                    let Some(instead) = &field.default else {
                        nulls = true;
                        continue;
                    };
                    *value = instead.clone();
                }
                default(value, field);
            }
            if nulls {
                map.retain(|name, value| {
                    !value.is_null() || schema.field(name).is_none_or(|f| f.nullable)
                });
            }
            if !schema.defaults_below {
                return;
            }
            for (name, field) in &schema.properties {
                if let Some(instead) = &field.default
                    && !map.contains_key(name)
                {
                    let mut made = instead.clone();
                    default(&mut made, field);
                    map.insert(name.clone(), made);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items.as_deref() {
                for item in items {
                    if item.is_null()
                        && !schema.nullable
                        && let Some(instead) = &schema.default
                    {
                        *item = instead.clone();
                    }
                    default(item, schema);
                }
            }
        }
        _ => {}
    }
}

/// Checks the schema's own defaults: one that pruning or validation would refuse in an object is refused here, because
/// no object could be made with it. `raw` is what `schema` was read from and `path` where it lies.
pub(super) fn check_defaults(
    schema: &Schema,
    raw: &Value,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(instead) = &schema.default
        && let Some(why) = unfit(instead, schema, raw)
    {
        errors.push(FieldError::invalid(
            &path.field("default"),
            instead.clone(),
            why,
        ));
    }
    let within = path.field("properties");
    for (name, field) in schema.properties.iter().filter(|(_, f)| f.defaults_below) {
        check_defaults(field, &raw["properties"][name], &within.key(name), errors);
    }
    if let Some(items) = schema.items.as_deref().filter(|s| s.defaults_below) {
        check_defaults(items, &raw["items"], &path.field("items"), errors);
    }
    if let Additional::Schema(values) = &schema.additional
        && values.defaults_below
    {
        let (raw, path) = (
            &raw["additionalProperties"],
            path.field("additionalProperties"),
        );
        check_defaults(values, raw, &path, errors);
    }
}

/// Why no object could have this default.
fn unfit(instead: &Value, schema: &Schema, raw: &Value) -> Option<String> {
    let mut filled = instead.clone();
    prune::prune(&mut filled, schema);
    if filled != *instead {
        return Some("must not have fields that pruning would drop".to_owned());
    }
    default(&mut filled, schema);
    if validate::fits(schema, &filled) == Some(true) && !schema.lists_below {
        return None;
    }
    let validator = match Validator::compile(raw) {
        Ok(validator) => validator,
        Err(why) => return Some(why),
    };
    let first = validator.validate(schema, &filled, None).into_iter().next();
    first.map(|error| match error.field() {
        "<nil>" => error.body(),
        field => format!("{field}: {}", error.body()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::field_error::Path;
    use serde_json::json;

    fn defaulted(properties: Value, mut value: Value) -> Value {
        let raw = json!({"type": "object", "properties": properties});
        let schema = Schema::parse(&raw, &Path::Root).unwrap();
        default(&mut value, &schema);
        let once = value.clone();
        default(&mut value, &schema);
        assert_eq!(value, once, "defaulting twice changes nothing");
        value
    }

    #[test]
    fn absent_fields_are_filled_where_their_parent_exists() {
        let spec = json!({"spec": {"type": "object", "properties": {
            "a": {"type": "integer", "default": 1},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
            "d": {"type": "object", "properties": {"e": {"type": "string", "default": "y"}}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"f": {"type": "boolean", "default": true}}}},
            "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"g": {"type": "integer", "default": 7}}}}}}});
        assert_eq!(defaulted(spec.clone(), json!({})), json!({}));
        assert_eq!(
            defaulted(spec.clone(), json!({"spec": {}})),
            json!({"spec": {"a": 1, "b": {"c": "x"}}})
        );
        assert_eq!(
            defaulted(
                spec,
                json!({"spec": {"a": 2, "d": {}, "l": [{}, {"f": false}], "m": {"k": {}}}})
            ),
            json!({"spec": {"a": 2, "b": {"c": "x"}, "d": {"e": "y"}, "l": [{"f": true}, {"f": false}], "m": {"k": {"g": 7}}}})
        );
    }

    #[test]
    fn nulls_become_the_default_or_go_away_unless_they_are_allowed() {
        let fields = json!({"a": {"type": "integer", "default": 1}, "b": {"type": "string"},
            "c": {"type": "string", "nullable": true, "default": "z"}, "m": {"type": "object", "additionalProperties": {"type": "string"}}});
        assert_eq!(
            defaulted(
                fields,
                json!({"a": null, "b": null, "c": null, "m": {"k": null}, "other": null})
            ),
            json!({"a": 1, "c": null, "m": {}, "other": null})
        );
    }
}
