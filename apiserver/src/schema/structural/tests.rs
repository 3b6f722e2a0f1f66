//! What is structural, what is not, and what a node knows.

use super::*;
use serde_json::json;

fn complaints(raw: &Value) -> Vec<String> {
    match Schema::parse(raw, &Path::Root.field("schema")) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn breaches_of_the_structural_rules_are_named_by_path() {
    for (raw, wanted) in [
        (
            json!({}),
            "schema.type: Required value: must not be empty at the root",
        ),
        (
            json!({"type": "string"}),
            "schema.type: Invalid value: \"string\": must be object at the root",
        ),
        (
            json!({"type": "object", "properties": {"spec": {}}}),
            "schema.properties[spec].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"l": {"type": "array", "items": {}}}}),
            "schema.properties[l].items.type: Required value: must not be empty for specified array items",
        ),
        (
            json!({"type": "object", "properties": {"l": {"type": "array"}}}),
            "schema.properties[l].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "$ref": "#/x"}),
            "schema.$ref: Forbidden: $ref is not supported",
        ),
        (
            json!({"type": "object", "additionalProperties": false}),
            "schema.additionalProperties: Forbidden: additionalProperties cannot be set to false",
        ),
        (
            json!({"type": "object", "anyOf": [{"type": "object"}]}),
            "schema.anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "properties": {"s": {"type": "text"}}}),
            "schema.properties[s].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ),
        (
            json!({"type": "object", "properties": {"s": {"type": "array", "items": {"type": "object"},
                "x-kubernetes-list-type": "map"}}}),
            "schema.properties[s].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "object", "maxProperties": -1}),
            "schema.maxProperties: Invalid value: -1: must be a whole number greater than or equal to 0",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": " "}]}),
            "schema.x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
    ] {
        assert_eq!(complaints(&raw), [wanted], "{raw}");
    }
    let bad = complaints(
        &json!({"type": "object", "properties": {"s": {"type": "string", "pattern": "("}}}),
    );
    assert!(
        bad[0].starts_with(
            "schema.properties[s].pattern: Invalid value: \"(\": must be a valid regular expression"
        ),
        "{bad:?}"
    );
}

#[test]
fn the_usual_spellings_of_int_or_string_are_structural() {
    for field in [
        json!({"x-kubernetes-int-or-string": true}),
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        json!({"x-kubernetes-int-or-string": true,
            "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "^a$"}]}),
    ] {
        assert_eq!(
            complaints(&json!({"type": "object", "properties": {"p": field}})),
            Vec::<String>::new()
        );
    }
}

#[test]
fn a_node_knows_what_lies_below_it() {
    let raw = json!({"type": "object", "properties": {
        "plain": {"type": "object", "properties": {"x": {"type": "string"}}},
        "spec": {"type": "object", "properties": {
            "d": {"type": "string", "default": "x"},
            "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "r": {"type": "string", "x-kubernetes-validations": [{"rule": "true"}]}}}}});
    let schema = Schema::parse(&raw, &Path::Root).unwrap();
    let spec = &schema.properties["spec"];
    assert!(schema.defaults_below && schema.rules_below && schema.lists_below);
    assert!(spec.defaults_below && spec.rules_below && spec.lists_below);
    let plain = &schema.properties["plain"];
    assert!(!plain.defaults_below && !plain.rules_below && !plain.lists_below);
}
