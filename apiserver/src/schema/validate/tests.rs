//! Every keyword with its message, ratcheting, list types, and the agreement of the two ways of checking.

use proptest::prelude::*;
use serde_json::json;

use super::*;

struct Made {
    schema: Schema,
    validator: Validator,
}

fn made(field: &Value) -> Made {
    let raw = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": field}}}});
    Made {
        schema: Schema::parse(&raw, &Path::Root).unwrap(),
        validator: Validator::compile(&raw).unwrap(),
    }
}

fn told(field: &Value, value: Value) -> Vec<String> {
    let made = made(field);
    let errors = made
        .validator
        .validate(&made.schema, &json!({"spec": {"x": value}}), None);
    errors.iter().map(ToString::to_string).collect()
}

/// Each row: a schema, a value that is fine, one that is not, and how the complaint begins.
fn hold(rows: &[(Value, Value, Value, &str)]) {
    for (field, good, bad, wanted) in rows {
        assert_eq!(told(field, good.clone()), Vec::<String>::new(), "{field}");
        let errors = told(field, bad.clone());
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(wanted), "{}\n{wanted}", errors[0]);
    }
}

#[test]
fn types_and_scalars_are_told_as_kubernetes_tells_them() {
    hold(&[
        (
            json!({"type": "integer"}),
            json!(1),
            json!("a"),
            "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "integer"}),
            json!(1.0),
            json!(1.5),
            "spec.x: Invalid value: \"number\": spec.x in body must be of type integer: \"number\"",
        ),
        (
            json!({"type": "string", "nullable": true}),
            json!(null),
            json!(1),
            "spec.x: Invalid value: \"integer\": spec.x in body must be of type string: \"integer\"",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!("5%"),
            json!(true),
            "spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("a"),
            json!("z"),
            "spec.x: Unsupported value: \"z\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "string", "pattern": "^[a-z]+$"}),
            json!("abc"),
            json!("A"),
            "spec.x: Invalid value: \"A\": spec.x in body should match '^[a-z]+$'",
        ),
        (
            json!({"type": "integer", "minimum": 2}),
            json!(2),
            json!(1),
            "spec.x: Invalid value: 1: spec.x in body should be greater than or equal to 2",
        ),
        (
            json!({"type": "integer", "minimum": 2, "exclusiveMinimum": true}),
            json!(3),
            json!(2),
            "spec.x: Invalid value: 2: spec.x in body should be greater than 2",
        ),
        (
            json!({"type": "number", "maximum": 2.5}),
            json!(2.5),
            json!(3),
            "spec.x: Invalid value: 3: spec.x in body should be less than or equal to 2.5",
        ),
        (
            json!({"type": "integer", "maximum": 2, "exclusiveMaximum": true}),
            json!(1),
            json!(2),
            "spec.x: Invalid value: 2: spec.x in body should be less than 2",
        ),
        (
            json!({"type": "integer", "multipleOf": 3}),
            json!(6),
            json!(7),
            "spec.x: Invalid value: 7: spec.x in body should be a multiple of 3",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("äö"),
            json!("ä"),
            "spec.x: Invalid value: \"ä\": spec.x in body should be at least 2 chars long",
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("äö"),
            json!("abc"),
            "spec.x: Too long: may not be more than 2 bytes",
        ),
    ]);
}

#[test]
fn lists_and_maps_are_told_as_kubernetes_tells_them() {
    hold(&[
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
            json!({"a": ""}),
            json!({}),
            "spec.x.a: Required value",
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 1}),
            json!([1]),
            json!([]),
            "spec.x: Invalid value: []: spec.x in body should have at least 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}, "maxItems": 1}),
            json!([1]),
            json!([1, 2]),
            "spec.x: Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}}),
            json!([1]),
            json!([1, "a"]),
            "spec.x[1]: Invalid value: \"string\": spec.x[1] in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}),
            json!({"a": "b"}),
            json!({}),
            "spec.x: Invalid value: {}: spec.x in body should have at least 1 properties",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1}),
            json!({"a": "b"}),
            json!({"a": "b", "c": "d"}),
            "spec.x: Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"a": "b"}),
            json!({"a": 1}),
            "spec.x.a: Invalid value: \"integer\": spec.x.a in body must be of type string: \"integer\"",
        ),
    ]);
}

#[test]
fn formats_and_junctors_are_told_as_kubernetes_tells_them() {
    hold(&[
        (
            json!({"type": "string", "format": "date-time"}),
            json!("2026-01-01T00:00:00Z"),
            json!("now"),
            "spec.x: Invalid value: \"now\": spec.x in body must be of type date-time: \"now\"",
        ),
        (
            json!({"type": "integer", "format": "int32"}),
            json!(4_000_000_000_u64),
            json!("a"),
            "spec.x: Invalid value: \"string\"",
        ),
        (
            json!({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}]}),
            json!(0),
            json!(3),
            "spec.x: Invalid value: \"\": \"spec.x\" must validate at least one schema (anyOf)",
        ),
        (
            json!({"type": "integer", "oneOf": [{"minimum": 5}, {"minimum": 7}]}),
            json!(6),
            json!(8),
            "spec.x: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found more than one valid alternative",
        ),
        (
            json!({"type": "integer", "oneOf": [{"minimum": 5}, {"maximum": 1}]}),
            json!(6),
            json!(3),
            "spec.x: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found none valid",
        ),
        (
            json!({"type": "integer", "not": {"enum": [3]}}),
            json!(4),
            json!(3),
            "spec.x: Invalid value: \"\": \"spec.x\" must not validate the schema (not)",
        ),
        (
            json!({"type": "integer", "allOf": [{"minimum": 5}]}),
            json!(5),
            json!(3),
            "spec.x: Invalid value: 3: spec.x in body should be greater than or equal to 5",
        ),
    ]);
}

#[test]
fn all_errors_are_told_together() {
    let field = json!({"type": "object", "required": ["c"], "properties": {"a": {"type": "integer"}, "b": {"type": "string", "enum": ["q"]}}});
    let errors = told(&field, json!({"a": "x", "b": "y"}));
    assert_eq!(errors.len(), 3, "{errors:?}");
}

#[test]
fn duplicates_in_sets_and_keyed_lists_are_found() {
    let set =
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
    assert_eq!(
        told(&set, json!(["a", "b", "a"])),
        ["spec.x[2]: Duplicate value: \"a\""]
    );
    let keyed = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}});
    assert_eq!(
        told(&keyed, json!([{"name": "a"}, {"name": "a"}])),
        ["spec.x[1]: Duplicate value: {\"name\":\"a\"}"]
    );
    assert_eq!(
        told(&keyed, json!([{"name": "a"}, {"name": "b"}])),
        Vec::<String>::new()
    );
}

#[test]
fn embedded_objects_must_be_whole() {
    let field = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    assert_eq!(
        told(&field, json!({"kind": "X", "metadata": {"name": "A"}}))[0],
        "spec.x.apiVersion: Required value: must not be empty"
    );
    assert_eq!(
        told(
            &field,
            json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}})
        ),
        Vec::<String>::new()
    );
}

#[test]
fn what_was_wrong_before_and_did_not_change_is_not_told_again() {
    let field = json!({"type": "object", "required": ["r"], "properties": {
        "r": {"type": "string"}, "a": {"type": "integer", "maximum": 1}, "b": {"type": "integer", "maximum": 1},
        "l": {"type": "array", "items": {"type": "integer", "maximum": 1}},
        "k": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}}}});
    let made = made(&field);
    let errors = |new: Value, old: Value| -> Vec<String> {
        let (new, old) = (json!({"spec": {"x": new}}), json!({"spec": {"x": old}}));
        let errors = made.validator.validate(&made.schema, &new, Some(&old));
        errors.iter().map(|error| error.path.clone()).collect()
    };
    let none: [&str; 0] = [];
    assert_eq!(
        errors(
            json!({"r": "x", "a": 5, "b": 1}),
            json!({"r": "x", "a": 5, "b": 0})
        ),
        none
    );
    assert_eq!(
        errors(
            json!({"r": "x", "a": 5, "b": 6}),
            json!({"r": "x", "a": 5, "b": 0})
        ),
        ["spec.x.b"]
    );
    assert_eq!(
        errors(json!({"a": 5, "b": 1}), json!({"a": 5, "b": 0})),
        ["spec.x.r"]
    );
    assert_eq!(
        errors(json!({"r": "x", "l": [5]}), json!({"r": "y", "l": [5]})),
        none
    );
    assert_eq!(
        errors(json!({"r": "x", "l": [5, 1]}), json!({"r": "x", "l": [5]})),
        ["spec.x.l[0]"]
    );
    assert_eq!(
        errors(
            json!({"r": "x", "k": [{"n": "b"}, {"n": "a", "v": 5}]}),
            json!({"r": "x", "k": [{"n": "a", "v": 5}]})
        ),
        none
    );
    assert_eq!(
        errors(
            json!({"r": "x", "k": [{"n": "a", "v": 6}]}),
            json!({"r": "x", "k": [{"n": "a", "v": 5}]})
        ),
        ["spec.x.k[0].v"]
    );
}

/// Schemas of one field with all keywords mixed, junctors included.
fn any_field() -> impl Strategy<Value = Value> {
    let number = -3i64..4;
    let scalar = prop_oneof![
        (number.clone(), number.clone(), any::<bool>())
            .prop_map(|(min, max, exclusive)| json!({"type": "integer", "minimum": min, "maximum": max, "exclusiveMinimum": exclusive})),
        (number.clone(),).prop_map(|(max,)| json!({"type": "number", "maximum": max, "exclusiveMaximum": true})),
        (1i64..4).prop_map(|of| json!({"type": "integer", "multipleOf": of})),
        (0u64..3, 0u64..3).prop_map(|(min, max)| json!({"type": "string", "minLength": min, "maxLength": max})),
        prop_oneof![Just("^a+$"), Just("\\d"), Just("b|é")].prop_map(|pattern| json!({"type": "string", "pattern": pattern})),
        prop_oneof![Just("ipv4"), Just("date"), Just("byte"), Just("int32")].prop_map(|format| json!({"type": "string", "format": format})),
        Just(json!({"type": "string", "enum": ["a", "1", null], "nullable": true})),
        Just(json!({"type": "integer", "enum": [1, 2.0]})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"type": "boolean", "nullable": true})),
        (number.clone(), number).prop_map(|(a, b)| json!({"type": "integer", "anyOf": [{"minimum": a}, {"maximum": b}], "not": {"enum": [0]}})),
        Just(json!({"type": "string", "oneOf": [{"maxLength": 1}, {"pattern": "^a"}]})),
        Just(json!({"type": "string", "allOf": [{"maxLength": 2}, {"not": {"pattern": "b"}}]})),
    ];
    scalar.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0u64..3, 0u64..3)
                .prop_map(|(items, min, max)| json!({"type": "array", "items": items, "minItems": min, "maxItems": max})),
            (inner.clone(), 0u64..3)
                .prop_map(|(each, max)| json!({"type": "object", "additionalProperties": each, "maxProperties": max})),
            (inner.clone(), inner, any::<bool>()).prop_map(|(a, b, nullable)| {
                json!({"type": "object", "nullable": nullable, "required": ["a"], "properties": {"a": a, "b": b}})
            }),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-4i64..5).prop_map(Value::from),
        prop_oneof![Just(1.0), Just(1.5), Just(-0.5)].prop_map(Value::from),
        prop_oneof![
            Just("a"),
            Just("ab"),
            Just("1"),
            Just(""),
            Just("é"),
            Just("10.0.0.1"),
            Just("2026-01-01"),
            Just("aGk=")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_quick_check_and_the_engine_agree(field in any_field(), value in any_value()) {
        let made = made(&field);
        let value = json!({"spec": {"x": value}});
        let thorough = made.validator.engine.findings(&value).is_empty();
        if let Some(quick) = fits(&made.schema, &value) {
            prop_assert_eq!(quick, thorough, "{} {}", field, value);
        }
    }
}
