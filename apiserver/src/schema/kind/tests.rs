//! Objects on their whole way: read, admitted, changed, refused.

use serde_json::json;

use super::*;
use crate::schema::decode::{Format, decode};

fn widget() -> KindSchema {
    let raw = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "integer", "default": 1, "maximum": 10},
            "name": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]},
            "even": {"type": "integer", "x-kubernetes-validations": [{"rule": "self % 2 == 0", "message": "must be even"}]}}},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}});
    let traits = KindTraits {
        group: "example.com".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        namespaced: true,
        status: true,
        ..KindTraits::default()
    };
    KindSchema::compile(traits, &raw, &[".status.phase".to_owned()], &Path::Root).unwrap()
}

fn body(text: &str) -> Decoded {
    decode(text.as_bytes(), Format::Json).unwrap()
}

const HEAD: &str =
    r#""apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"n"}"#;

#[test]
fn a_default_that_no_object_could_have_is_refused_with_its_place() {
    let place = "properties[spec].properties[x].default: Invalid value: ";
    for (field, wanted) in [
        (json!({"type": "string", "default": "a"}), None),
        (
            json!({"type": "string", "nullable": true, "default": null}),
            None,
        ),
        (
            json!({"type": "object", "default": {}, "required": ["a"], "properties": {"a": {"type": "integer", "default": 1}}}),
            None,
        ),
        (
            json!({"type": "string", "default": 5}),
            Some("must be of type string"),
        ),
        (
            json!({"type": "string", "enum": ["a"], "default": "b"}),
            Some("supported values: \"a\""),
        ),
        (
            json!({"type": "integer", "maximum": 3, "default": 4}),
            Some("less than or equal to 3"),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}, "default": ["a", "a"]}),
            Some("Duplicate value"),
        ),
        (
            json!({"type": "object", "default": {"q": 1}, "properties": {"a": {"type": "string"}}}),
            Some("pruning would drop"),
        ),
        (
            json!({"type": "object", "default": {}, "required": ["a"], "properties": {"a": {"type": "string"}}}),
            Some("Required value"),
        ),
    ] {
        let raw = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": field}}}});
        let made = KindSchema::compile(KindTraits::default(), &raw, &[], &Path::Root);
        match wanted {
            None => assert!(made.is_ok(), "{raw}: {:?}", made.err()),
            Some(wanted) => {
                let told = made.expect_err("a refusal").remove(0).to_string();
                assert!(told.starts_with(place) && told.contains(wanted), "{told}");
            }
        }
    }
}

#[test]
fn a_body_is_pruned_and_defaulted_and_its_faults_are_warnings_or_errors() {
    let widget = widget();
    let text = format!(r#"{{{HEAD},"spec":{{"foo":1,"name":"x","name":"y"}},"odd":true}}"#);
    let read = widget.read(body(&text), FieldValidation::Warn).unwrap();
    assert_eq!(read.value["spec"], json!({"name": "y", "size": 1}));
    assert_eq!(read.value.get("odd"), None);
    let wanted = [
        "unknown field \"spec.foo\"",
        "unknown field \"odd\"",
        "duplicate field \"spec.name\"",
    ];
    assert_eq!(read.warnings.len(), 3);
    assert!(
        wanted
            .iter()
            .all(|text| read.warnings.iter().any(|warning| warning == text)),
        "{:?}",
        read.warnings
    );
    assert_eq!(
        widget
            .read(body(&text), FieldValidation::Ignore)
            .unwrap()
            .warnings,
        Vec::<String>::new()
    );
    let strict = widget
        .read(body(&text), FieldValidation::Strict)
        .unwrap_err()
        .to_string();
    assert!(
        strict.starts_with("Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \""),
        "{strict}"
    );
}

#[test]
fn a_body_of_another_kind_is_refused() {
    let widget = widget();
    for (text, wanted) in [
        (
            r#"{"apiVersion":"example.com/v1"}"#,
            "Object 'Kind' is missing in '{\"apiVersion\":\"example.com/v1\"}'",
        ),
        ("null", "Object 'Kind' is missing in 'null'"),
        ("[]", "Object 'Kind' is missing in '[]'"),
        (
            r#"{"kind":"Widget"}"#,
            "Object 'apiVersion' is missing in '{\"kind\":\"Widget\"}'",
        ),
        (
            r#"{"kind":"Widget","apiVersion":"example.com/v2"}"#,
            "the API version in the data (example.com/v2) does not match the expected API version (example.com/v1)",
        ),
    ] {
        assert_eq!(
            widget.read(body(text), FieldValidation::Warn),
            Err(ReadError::BadRequest(wanted.to_owned()))
        );
    }
    let Err(ReadError::Invalid(errors)) = widget.read(
        body(r#"{"kind":"X","apiVersion":"example.com/v1"}"#),
        FieldValidation::Warn,
    ) else {
        panic!("a wrong kind is invalid");
    };
    assert_eq!(
        errors[0].to_string(),
        "kind: Invalid value: \"X\": must be Widget"
    );
    let wrong = format!(
        r#"{{{},"spec":{{}}}}"#,
        HEAD.replace(r#""name":"a""#, r#""name":1"#)
    );
    let told = widget
        .read(body(&wrong), FieldValidation::Warn)
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal integer into field metadata.name of type string"
    );
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "namespace": "n", "uid": "u"}, "spec": spec})
}

fn told(result: Result<Admitted, Vec<FieldError>>) -> Vec<String> {
    result.map_or_else(
        |errors| errors.iter().map(ToString::to_string).collect(),
        |_| Vec::new(),
    )
}

#[test]
fn creates_and_updates_are_judged_by_schema_and_rules() {
    let widget = widget();
    assert_eq!(
        told(widget.admit_create(object(json!({"size": 3, "even": 2})))),
        Vec::<String>::new()
    );
    assert_eq!(
        told(widget.admit_create(object(json!({"size": 30, "even": 3})))),
        [
            "spec.size: Invalid value: 30: spec.size in body should be less than or equal to 10",
            "spec.even: Invalid value: \"integer\": must be even"
        ]
    );
    let old = object(json!({"size": 30, "name": "x", "even": 3}));
    assert_eq!(
        told(widget.admit_update(
            object(json!({"size": 30, "name": "x", "even": 3})),
            &old,
            Part::Main
        )),
        Vec::<String>::new()
    );
    assert_eq!(
        told(widget.admit_update(
            object(json!({"size": 30, "name": "y", "even": 3})),
            &old,
            Part::Main
        )),
        ["spec.name: Invalid value: \"string\": is immutable"]
    );
}

#[test]
fn rules_are_not_run_on_an_object_of_the_wrong_shape() {
    let errors = told(widget().admit_create(object(json!({"size": "x", "even": 3}))));
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[1].contains("some validation rules were not checked because the object was invalid"),
        "{errors:?}"
    );
}

#[test]
fn field_validation_is_one_of_three() {
    assert_eq!(FieldValidation::parse(None), Ok(FieldValidation::Warn));
    assert_eq!(
        FieldValidation::parse(Some("Strict")),
        Ok(FieldValidation::Strict)
    );
    let error = FieldValidation::parse(Some("strict")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "fieldValidation: Unsupported value: \"strict\": supported values: \"Ignore\", \"Strict\", \"Warn\""
    );
}
