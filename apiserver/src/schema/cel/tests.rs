//! Rules as users write them, and what they are told.

use serde_json::json;

use super::*;

fn compiled(spec: Value) -> (Schema, Rules) {
    let raw = json!({"type": "object", "properties": {"spec": spec}});
    let schema = Schema::parse(&raw, &Path::Root).unwrap();
    let mut errors = Vec::new();
    let rules = Rules::compile(&schema, &Path::Root, &mut errors);
    assert_eq!(errors, []);
    (schema, rules)
}

fn told(spec: &Value, new: Value, old: Option<Value>) -> Vec<String> {
    let (schema, rules) = compiled(spec.clone());
    let mut errors = Vec::new();
    let old = old.map(|old| json!({ "spec": old }));
    rules.evaluate(&schema, &json!({ "spec": new }), old.as_ref(), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn scalar(of: &str, rule: Value) -> Value {
    json!({"type": "object", "properties": {"x": {"type": of, "x-kubernetes-validations": [rule]}}})
}

const FINE: [String; 0] = [];

#[test]
fn a_failed_rule_is_reported_at_its_field_with_its_message() {
    let spec = scalar(
        "integer",
        json!({"rule": "self % 2 == 0", "message": "must be even"}),
    );
    assert_eq!(told(&spec, json!({"x": 4}), None), FINE);
    assert_eq!(told(&spec, json!({}), None), FINE);
    assert_eq!(
        told(&spec, json!({"x": 3}), None),
        ["spec.x: Invalid value: \"integer\": must be even"]
    );
    let silent = scalar("integer", json!({"rule": "self > 1"}));
    assert_eq!(
        told(&silent, json!({"x": 1}), None),
        ["spec.x: Invalid value: \"integer\": failed rule: self > 1"]
    );
}

#[test]
fn reason_and_field_path_and_message_expression_are_honoured() {
    let spec = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.a <= self.b", "reason": "FieldValueForbidden", "fieldPath": ".a",
            "messageExpression": "'a is ' + string(self.a)", "message": "unused"}]});
    assert_eq!(
        told(&spec, json!({"a": 2, "b": 1}), None),
        ["spec.a: Forbidden: a is 2"]
    );
}

#[test]
fn transition_rules_run_on_updates_only_and_only_when_something_changed() {
    let spec = scalar(
        "string",
        json!({"rule": "self == oldSelf", "message": "is immutable"}),
    );
    assert_eq!(told(&spec, json!({"x": "a"}), None), FINE);
    assert_eq!(told(&spec, json!({"x": "a"}), Some(json!({}))), FINE);
    assert_eq!(
        told(&spec, json!({"x": "a"}), Some(json!({"x": "a"}))),
        FINE
    );
    assert_eq!(
        told(&spec, json!({"x": "b"}), Some(json!({"x": "a"}))),
        ["spec.x: Invalid value: \"string\": is immutable"]
    );
    let strict = scalar("integer", json!({"rule": "self > 5"}));
    assert_eq!(told(&strict, json!({"x": 1}), Some(json!({"x": 1}))), FINE);
}

#[test]
fn an_optional_old_self_can_be_asked_for_on_create() {
    let rule = json!({"rule": "oldSelf.hasValue() || self == 'new'", "optionalOldSelf": true, "message": "starts as new"});
    let spec = scalar("string", rule);
    assert_eq!(told(&spec, json!({"x": "new"}), None), FINE);
    assert_eq!(
        told(&spec, json!({"x": "old"}), None),
        ["spec.x: Invalid value: \"string\": starts as new"]
    );
    assert_eq!(
        told(&spec, json!({"x": "b"}), Some(json!({"x": "a"}))),
        FINE
    );
}

#[test]
fn items_of_keyed_lists_find_their_old_selves_by_key() {
    let spec = json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string"}, "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}}}});
    let old = json!({"l": [{"name": "a", "n": 1}, {"name": "b", "n": 5}]});
    let new = json!({"l": [{"name": "b", "n": 4}, {"name": "a", "n": 2}]});
    assert_eq!(
        told(&spec, new, Some(old)),
        ["spec.l[0].n: Invalid value: \"integer\": failed rule: self >= oldSelf"]
    );
}

#[test]
fn rules_see_typed_values_and_escaped_names() {
    for (field, value, rule) in [
        (
            json!({"type": "string", "format": "date-time"}),
            json!("2026-01-02T03:04:05Z"),
            "self.getFullYear() == 2026",
        ),
        (
            json!({"type": "string", "format": "duration"}),
            json!("1h"),
            "self.getMinutes() == 60",
        ),
        (
            json!({"type": "string", "format": "byte"}),
            json!("aGk="),
            "size(self) == 2",
        ),
        (json!({"type": "number"}), json!(1), "self < 1.5"),
        (json!({"type": "integer"}), json!(1.0), "self == 1"),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!("50%"),
            "type(self) == int || self == '50%'",
        ),
        (
            json!({"type": "object", "properties": {"a-b": {"type": "integer"}, "namespace": {"type": "string"}}}),
            json!({"a-b": 1, "namespace": "n"}),
            "self.a__dash__b == 1 && self.__namespace__ == 'n'",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"a-b": "c"}),
            "self['a-b'] == 'c'",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", "b"]),
            "self.all(x, x.matches('^[a-z]$'))",
        ),
        (
            json!({"type": "string"}),
            json!("16Gi"),
            "quantity(self).isGreaterThan(quantity('1Gi'))",
        ),
        (
            json!({"type": "object", "properties": {"o": {"type": "string"}}}),
            json!({}),
            "!has(self.o) || self.o == 'x'",
        ),
    ] {
        let mut field = field;
        field["x-kubernetes-validations"] = json!([{ "rule": rule }]);
        let spec = json!({"type": "object", "properties": {"x": field}});
        assert_eq!(told(&spec, json!({ "x": value }), None), FINE, "{rule}");
    }
}

#[test]
fn a_rule_that_fails_to_run_refuses_the_object() {
    let spec = json!({"type": "object", "properties": {"o": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.o > 1", "message": "big"}]});
    let told = told(&spec, json!({}), None);
    assert!(
        told[0].starts_with(
            "spec: Invalid value: \"object\": rule: No such key: o evaluating rule: big"
        ),
        "{told:?}"
    );
}

#[test]
fn a_rule_too_dear_for_the_value_is_not_run() {
    let spec = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"}]}}});
    assert_eq!(told(&spec, json!({"l": [1, 2, 3]}), None), FINE);
    let many: Vec<u32> = (0..10_000).collect();
    let told = told(&spec, json!({ "l": many }), None);
    assert!(told[0].contains("call cost exceeds limit"), "{told:?}");
}

#[test]
fn what_is_wrong_with_a_rule_is_said_when_the_schema_is_compiled() {
    for (rule, wanted) in [
        (
            json!({"rule": "self.a >"}),
            "x-kubernetes-validations[0].rule: Invalid value: \"self.a >\": compilation failed: ",
        ),
        (
            json!({"rule": "self.nope > 1"}),
            "compilation failed: undefined field 'nope'",
        ),
        (
            json!({"rule": "other > 1"}),
            "compilation failed: undeclared reference to 'other'",
        ),
        (
            json!({"rule": "nofunction(self)"}),
            "compilation failed: undeclared reference to 'nofunction'",
        ),
        (
            json!({"rule": "true", "messageExpression": "1 +"}),
            "x-kubernetes-validations[0].messageExpression: Invalid value",
        ),
        (
            json!({"rule": "true", "reason": "Odd"}),
            "x-kubernetes-validations[0].reason: Unsupported value: \"Odd\"",
        ),
        (
            json!({"rule": "true", "fieldPath": ".nope"}),
            "x-kubernetes-validations[0].fieldPath: Invalid value: \".nope\"",
        ),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            "x-kubernetes-validations[0].optionalOldSelf: Invalid value: true",
        ),
    ] {
        let raw = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "x-kubernetes-validations": [rule]});
        let schema = Schema::parse(&raw, &Path::Root).unwrap();
        let mut errors = Vec::new();
        Rules::compile(&schema, &Path::Root, &mut errors);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].to_string().contains(wanted), "{}", errors[0]);
    }
    let raw = json!({"type": "object", "properties": {"l": {"type": "array",
        "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    let schema = Schema::parse(&raw, &Path::Root).unwrap();
    let mut errors = Vec::new();
    Rules::compile(&schema, &Path::Root, &mut errors);
    assert!(
        errors[0].to_string().contains("uncorrelatable portion"),
        "{errors:?}"
    );
}

#[test]
fn types_that_cannot_fit_are_told_when_the_schema_is_compiled() {
    let compile = |rule: &str| {
        let raw = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {
                "name": {"type": "string"}, "at": {"type": "string", "format": "date-time"},
                "count": {"type": "integer"}, "share": {"type": "number"}, "flag": {"type": "boolean"},
                "maybe": {"type": "integer", "nullable": true}, "either": {"x-kubernetes-int-or-string": true},
                "list": {"type": "array", "items": {"type": "object", "properties": {"key": {"type": "string"}}}},
                "data": {"type": "object", "additionalProperties": {"type": "integer"}},
            },
            "x-kubernetes-validations": [{ "rule": rule }]}}});
        let schema = Schema::parse(&raw, &Path::Root).unwrap();
        let mut errors = Vec::new();
        Rules::compile(&schema, &Path::Root, &mut errors);
        errors.first().map(ToString::to_string)
    };
    for (rule, wanted) in [
        (
            "self.count > 'x'",
            "found no matching overload for '_>_' applied to '(a number, string)'",
        ),
        (
            "self.name && self.flag",
            "found no matching overload for '_&&_' applied to '(string, bool)'",
        ),
        ("!self.count", "found no matching overload for '!_'"),
        (
            "self.name + 1 == 'a1'",
            "found no matching overload for '_+_'",
        ),
        (
            "self.name - 'a' == 'b'",
            "found no matching overload for '_-_'",
        ),
        ("self.count", "must evaluate to bool, not a number"),
        (
            "self.flag ? 'yes' : 'no'",
            "must evaluate to bool, not string",
        ),
        (
            "self.count ? true : false",
            "found no matching overload for '_?_:_'",
        ),
        (
            "self.name.first == 'a'",
            "type 'string' does not support field selection ('first')",
        ),
        (
            "self.list.all(each, each.nope == 'a')",
            "undefined field 'nope'",
        ),
        ("self.list[0].nope == 'a'", "undefined field 'nope'"),
        (
            "self.list.exists(each, each.key > 1)",
            "found no matching overload for '_>_'",
        ),
        ("oldSelf.nope == self.name", "undefined field 'nope'"),
        (
            "oldSelf.count == self.name",
            "found no matching overload for '_==_'",
        ),
    ] {
        let told = compile(rule).unwrap_or_default();
        assert!(told.contains(wanted), "{rule}: {told}");
    }
    for rule in [
        "self.count > 1.5 && self.share < self.count",
        "self.at > timestamp('2026-01-01T00:00:00Z') && self.at - timestamp('2026-01-01T00:00:00Z') < duration('1h')",
        "self.maybe == null || self.maybe > 1",
        "self.either == 1 || self.either == 'all'",
        "type(self.either) == int ? self.either > 0 : self.either.endsWith('%')",
        "self.list.all(key, key.key != '') && self.list.exists_one(a, a.key == 'x')",
        "self.list.map(a, a.key).exists(b, b.size() > 1)",
        "self.data.all(key, self.data[key] > 0 && key.startsWith('a'))",
        "has(self.name) ? self.name.size() + 1 > self.count : !has(self.list)",
        "self.name in ['a', 'b'] || -self.count < 0",
        "oldSelf.count <= self.count && string(self.count) + self.name != ''",
    ] {
        assert_eq!(compile(rule), None, "{rule}");
    }
}
