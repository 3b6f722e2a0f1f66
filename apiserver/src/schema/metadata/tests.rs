//! Metadata as clients send it, and what they are told.

use super::*;
use serde_json::json;

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn texts_of(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn unknown_keys_are_dropped_and_named_and_nulls_go_away() {
    let mut object = map(
        json!({"metadata": {"name": "a", "bogus": 1, "creationTimestamp": null,
        "ownerReferences": [{"uid": "u", "odd": true}]}}),
    );
    assert_eq!(
        read(&mut object).unwrap(),
        ["metadata.bogus", "metadata.ownerReferences[0].odd"]
    );
    assert_eq!(
        object["metadata"],
        json!({"name": "a", "ownerReferences": [{"uid": "u"}]})
    );
    let mut none = map(json!({}));
    assert_eq!(read(&mut none).unwrap(), Vec::<String>::new());
    assert_eq!(none["metadata"], json!({}));
}

#[test]
fn wrong_types_are_refused() {
    for (metadata, wanted) in [
        (
            json!(1),
            "json: cannot unmarshal integer into field metadata of type object",
        ),
        (
            json!({"name": 1}),
            "json: cannot unmarshal integer into field metadata.name of type string",
        ),
        (
            json!({"labels": []}),
            "json: cannot unmarshal array into field metadata.labels of type object",
        ),
        (
            json!({"labels": {"a": 1}}),
            "json: cannot unmarshal integer into field metadata.labels.a of type string",
        ),
        (
            json!({"finalizers": ["a", {}]}),
            "json: cannot unmarshal object into field metadata.finalizers[1] of type string",
        ),
        (
            json!({"ownerReferences": [{"controller": "x"}]}),
            "json: cannot unmarshal string into field metadata.ownerReferences[0].controller of type boolean",
        ),
        (
            json!({"creationTimestamp": "yesterday"}),
            "parsing time \"yesterday\" of field metadata.creationTimestamp: not RFC 3339",
        ),
    ] {
        let mut object = map(json!({ "metadata": metadata }));
        assert_eq!(read(&mut object).unwrap_err(), wanted);
    }
}

#[test]
fn created_metadata_must_follow_the_rules() {
    let good = json!({"name": "a.b", "namespace": "n", "labels": {"gctl.dev/a": ""}, "annotations": {"A.b/C": "any text"},
        "finalizers": ["gctl.dev/release"], "ownerReferences": [{"apiVersion": "gctl.dev/v1", "kind": "Job", "name": "x", "uid": "u", "controller": true}]});
    assert_eq!(validate_create(&map(good), NameRule::Subdomain, true), []);
    for (metadata, wanted) in [
        (
            json!({"namespace": "n"}),
            "metadata.name: Required value: name or generateName is required",
        ),
        (
            json!({"name": "A", "namespace": "n"}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must",
        ),
        (json!({"name": "a"}), "metadata.namespace: Required value"),
        (
            json!({"name": "a", "namespace": "n", "labels": {"a b": "c"}}),
            "metadata.labels: Invalid value: \"a b\": name part must",
        ),
        (
            json!({"name": "a", "namespace": "n", "labels": {"a": "b c"}}),
            "metadata.labels: Invalid value: \"b c\": a valid label must",
        ),
        (
            json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(ANNOTATIONS_MAX)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1/", "kind": "K", "name": "n", "uid": "u"}]}),
            "metadata.ownerReferences[0].apiVersion: Invalid value: \"v1/\": version must not be empty",
        ),
        (
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n"}]}),
            "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
        ),
        (
            json!({"name": "a", "namespace": "n", "finalizers": ["a b"]}),
            "metadata.finalizers: Invalid value: \"a b\": name part",
        ),
        (
            json!({"name": "a", "namespace": "n", "finalizers": ["orphan", "foregroundDeletion"]}),
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
        ),
    ] {
        let errors = texts_of(&validate_create(&map(metadata), NameRule::Subdomain, true));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(wanted), "{errors:?}");
    }
    let two = json!({"name": "a", "ownerReferences": [
        {"apiVersion": "v1", "kind": "K", "name": "x", "uid": "1", "controller": true},
        {"apiVersion": "v1", "kind": "Event", "name": "y", "uid": "2", "controller": true}]});
    let errors = texts_of(&validate_create(&map(two), NameRule::Label, false));
    assert!(
        errors[0].contains("v1, Kind=Event is disallowed from being an owner"),
        "{errors:?}"
    );
    assert!(
        errors[1].contains("Only one reference can have Controller set to true"),
        "{errors:?}"
    );
}

#[test]
fn updates_may_not_touch_identity_nor_add_finalizers_to_a_dying_object() {
    let old = map(
        json!({"name": "a", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"], "labels": {"bad key": "kept"}}),
    );
    let mut new = old.clone();
    new.insert("uid".to_owned(), json!("2"));
    new.insert("finalizers".to_owned(), json!(["a/b", "c/d"]));
    assert_eq!(
        texts_of(&validate_update(&new, &old)),
        [
            "metadata.uid: Invalid value: \"2\": field is immutable",
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}",
        ]
    );
    new = old.clone();
    new.insert("finalizers".to_owned(), json!([]));
    assert_eq!(validate_update(&new, &old), []);
}

#[test]
fn repeated_owners_are_removed_with_a_warning() {
    let owner = json!({"apiVersion": "v1", "kind": "K", "name": "x", "uid": "1"});
    let mut metadata = map(
        json!({"ownerReferences": [owner, owner], "finalizers": ["plain", "gctl.dev/x", "orphan"]}),
    );
    let warnings = normalize(&mut metadata);
    assert_eq!(metadata["ownerReferences"], json!([owner]));
    assert!(
        warnings[0].contains("duplicate UID(s) observed: 1"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].starts_with("metadata.finalizers: \"plain\": prefer a domain-qualified"),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 2);
}
