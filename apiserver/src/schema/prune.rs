//! Pruning: dropping what the structural schema does not know, and saying what was dropped.

use serde_json::{Map, Value};

use super::decode::MAX_FINDINGS;
use super::field_error::Path;
use super::structural::{Additional, Schema};

/// Fields of every object that no schema needs to declare.
const ROOT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops every unknown field below the root and answers their paths (at most [`MAX_FINDINGS`]).
/// `apiVersion`, `kind` and `metadata` of the root and of embedded objects stay as they are.
pub fn prune(value: &mut Value, schema: &Schema) -> Vec<String> {
    let mut unknown = Vec::new();
    node(value, schema, true, &Path::Root, &mut unknown);
    unknown
}

fn node(
    value: &mut Value,
    schema: &Schema,
    root: bool,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Object(map) => object(map, schema, root || schema.embedded, path, unknown),
        Value::Array(items) => {
            if let Some(item) = schema.items.as_deref() {
                for (at, value) in items.iter_mut().enumerate() {
                    node(value, item, false, &path.index(at), unknown);
                }
            } else if !schema.preserve_unknown {
                for (at, value) in items.iter_mut().enumerate() {
                    node(value, &NOTHING, false, &path.index(at), unknown);
                }
            }
        }
        _ => {}
    }
}

/// The schema of a place that nothing is said about: everything below it is unknown.
static NOTHING: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);

fn object(
    map: &mut Map<String, Value>,
    schema: &Schema,
    whole: bool,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) {
    if matches!(schema.additional, Additional::Any) {
        return;
    }
    let mut strangers = false;
    for (name, value) in map.iter_mut() {
        if whole && ROOT_FIELDS.contains(&name.as_str()) {
            continue;
        }
        match schema.field(name) {
            Some(field) => node(value, field, false, &path.field(name), unknown),
            None => strangers |= !schema.preserve_unknown,
        }
    }
    if !strangers {
        return;
    }
    map.retain(|name, _| {
        let known = (whole && ROOT_FIELDS.contains(&name.as_str())) || schema.field(name).is_some();
        if !known && unknown.len() < MAX_FINDINGS {
            unknown.push(path.field(name).to_string());
        }
        known
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(properties: Value) -> Schema {
        let raw = json!({"type": "object", "properties": properties});
        Schema::parse(&raw, &Path::Root).unwrap()
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let schema = schema(json!({"spec": {"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "object", "properties": {"y": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"z": {"type": "string"}}}},
            "any": {"type": "object", "additionalProperties": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "strings": {"type": "object", "additionalProperties": {"type": "string"}}}}}));
        let mut value = json!({"apiVersion": "a", "kind": "b", "metadata": {"odd": 1}, "extra": 1, "spec": {
            "list": [{"x": 1, "y": "a"}], "map": {"k": {"z": "a", "w": 1}}, "any": {"deep": {"er": 1}},
            "free": {"q": {"r": 1}, "known": {"a": "x", "b": 1}}, "strings": {"k": "v"}, "foo": {"bar": 1}}});
        let mut unknown = prune(&mut value, &schema);
        unknown.sort();
        assert_eq!(
            unknown,
            [
                "extra",
                "spec.foo",
                "spec.free.known.b",
                "spec.list[0].x",
                "spec.map.k.w"
            ]
        );
        assert_eq!(
            value,
            json!({"apiVersion": "a", "kind": "b", "metadata": {"odd": 1}, "spec": {
            "list": [{"y": "a"}], "map": {"k": {"z": "a"}}, "any": {"deep": {"er": 1}},
            "free": {"q": {"r": 1}, "known": {"a": "x"}}, "strings": {"k": "v"}}})
        );
        assert_eq!(prune(&mut value, &schema), Vec::<String>::new());
    }

    #[test]
    fn embedded_objects_keep_their_type_and_metadata() {
        let schema = schema(
            json!({"t": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"spec": {"type": "object"}}}}),
        );
        let mut value = json!({"t": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}, "spec": {}, "odd": 1}});
        assert_eq!(prune(&mut value, &schema), ["t.odd"]);
        assert_eq!(value["t"]["metadata"]["name"], "a");
    }

    #[test]
    fn values_of_the_wrong_type_are_left_to_validation() {
        let schema = schema(json!({"spec": {"type": "object"}, "s": {"type": "string"}}));
        let mut value = json!({"spec": [1], "s": {"a": 1}});
        assert_eq!(prune(&mut value, &schema), ["s.a"]);
        assert_eq!(value, json!({"spec": [1], "s": {}}));
    }
}
