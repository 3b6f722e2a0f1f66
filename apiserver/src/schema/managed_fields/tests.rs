//! Ownership through the life of an object, and the laws of the set algebra.

use proptest::prelude::*;

use super::set::owned;
use super::*;
use crate::schema::field_error::Path;
use crate::schema::kind::KindTraits;

fn schema() -> KindSchema {
    let raw = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "integer"}, "b": {"type": "integer"},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "env": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "value": {"type": "string"}}}},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}}}},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}});
    let traits = KindTraits {
        group: "g".into(),
        version: "v1".into(),
        kind: "K".into(),
        status: true,
        ..KindTraits::default()
    };
    KindSchema::compile(traits, &raw, &[], &Path::Root).unwrap()
}

fn write(
    live: Option<&Value>,
    mut new: Value,
    manager: &str,
    subresource: &str,
    second: i64,
) -> Value {
    let writer = Writer {
        manager,
        api_version: "g/v1",
        subresource,
        now: Timestamp::from_second(second).unwrap(),
    };
    if let Some(live) = live
        && new["metadata"].get("managedFields").is_none()
    {
        new["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
    }
    update(&schema(), live, &mut new, &writer);
    new
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn a_create_owns_everything_that_can_be_owned() {
    let new = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x", "uid": "u", "labels": {"l": "1"}, "finalizers": ["a/b"],
        "ownerReferences": [{"uid": "o", "kind": "P"}]},
        "spec": {"a": 1, "tags": ["x"], "plain": ["p"], "env": [{"name": "E", "value": "v"}], "whole": {"k": "v"}},
        "status": {"phase": "P"}});
    let made = write(None, new, "creator", "", 1_000);
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");
    assert_eq!(
        made["metadata"]["managedFields"][0]["time"],
        "1970-01-01T00:16:40Z"
    );
    assert_eq!(
        fields(&made, "creator"),
        json!({
        "f:metadata": {
            "f:labels": {".": {}, "f:l": {}},
            "f:finalizers": {".": {}, "v:\"a/b\"": {}},
            "f:ownerReferences": {".": {}, "k:{\"uid\":\"o\"}": {".": {}, "f:uid": {}, "f:kind": {}}}},
        "f:spec": {".": {}, "f:a": {}, "f:tags": {".": {}, "v:\"x\"": {}}, "f:plain": {}, "f:whole": {},
            "f:env": {".": {}, "k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}}}})
    );
}

#[test]
fn a_change_moves_only_what_changed_and_a_removal_leaves_no_owner() {
    let first = write(
        None,
        json!({"metadata": {"name": "x"}, "spec": {"a": 1, "b": 1}}),
        "one",
        "",
        1,
    );
    let mut next = first.clone();
    next["spec"]["b"] = json!(2);
    let second = write(Some(&first), next, "two", "", 2);
    assert_eq!(
        fields(&second, "one"),
        json!({"f:spec": {".": {}, "f:a": {}}})
    );
    assert_eq!(fields(&second, "two"), json!({"f:spec": {"f:b": {}}}));
    let mut next = second.clone();
    next["spec"].as_object_mut().unwrap().remove("b");
    let third = write(Some(&second), next, "three", "", 3);
    assert_eq!(
        fields(&third, "one"),
        json!({"f:spec": {".": {}, "f:a": {}}})
    );
    assert_eq!(fields(&third, "two"), Value::Null);
    assert_eq!(fields(&third, "three"), Value::Null);
}

#[test]
fn an_unchanged_object_keeps_its_entries_and_times() {
    let first = write(
        None,
        json!({"metadata": {"name": "x"}, "spec": {"a": 1}}),
        "one",
        "",
        1,
    );
    let again = write(Some(&first), first.clone(), "two", "", 99);
    assert_eq!(first, again);
}

#[test]
fn the_status_endpoint_and_the_main_one_track_their_own_parts() {
    let first = write(
        None,
        json!({"metadata": {"name": "x"}, "spec": {"a": 1}}),
        "one",
        "",
        1,
    );
    let mut next = first.clone();
    next["status"] = json!({"phase": "P"});
    let second = write(Some(&first), next, "one", "status", 2);
    let entries = second["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(
        entries[1]["fieldsV1"],
        json!({"f:status": {".": {}, "f:phase": {}}})
    );
}

#[test]
fn an_emptied_map_stays_owned_and_its_entries_go() {
    let first = write(
        None,
        json!({"metadata": {"name": "x", "labels": {"a": "1"}}}),
        "one",
        "",
        1,
    );
    let mut next = first.clone();
    next["metadata"]["labels"] = json!({});
    let second = write(Some(&first), next, "two", "", 2);
    assert_eq!(
        fields(&second, "two"),
        json!({"f:metadata": {"f:labels": {}}})
    );
    assert_eq!(fields(&second, "one"), Value::Null);
}

#[test]
fn a_client_may_reset_the_tracking_but_not_corrupt_it() {
    let first = write(
        None,
        json!({"metadata": {"name": "x"}, "spec": {"a": 1}}),
        "one",
        "",
        1,
    );
    for reset in [json!([]), json!([{}])] {
        let mut next = first.clone();
        next["metadata"]["managedFields"] = reset;
        let second = write(Some(&first), next, "two", "", 2);
        assert_eq!(second["metadata"].get("managedFields"), None);
        let mut next = second.clone();
        next["spec"]["a"] = json!(5);
        let mut third = next;
        let writer = Writer {
            manager: "two",
            api_version: "g/v1",
            subresource: "",
            now: Timestamp::UNIX_EPOCH,
        };
        update(&schema(), Some(&second), &mut third, &writer);
        assert_eq!(
            third["metadata"].get("managedFields"),
            None,
            "untracked objects stay untracked"
        );
    }
    for garbage in [
        json!("x"),
        json!([{"manager": "m"}]),
        json!([{"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"x": 1}}]),
    ] {
        let mut next = first.clone();
        next["metadata"]["managedFields"] = garbage;
        let second = write(Some(&first), next, "two", "", 2);
        assert_eq!(second, first);
    }
}

#[test]
fn the_eleventh_updater_merges_the_oldest_two() {
    let mut object = write(
        None,
        json!({"metadata": {"name": "x", "labels": {"l0": ""}}}),
        "m0",
        "",
        0,
    );
    for n in 1..14 {
        let mut next = object.clone();
        next["metadata"]["labels"][format!("l{n}")] = json!("");
        object = write(Some(&object), next, &format!("m{n}"), "", n);
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    let ancient = fields(&object, "ancient-changes");
    assert_eq!(ancient["f:metadata"]["f:labels"]["f:l0"], json!({}));
    assert_eq!(ancient["f:metadata"]["f:labels"]["f:l3"], json!({}));
    assert_eq!(
        fields(&object, "m13"),
        json!({"f:metadata": {"f:labels": {"f:l13": {}}}})
    );
}

#[test]
fn managers_are_named_by_the_request() {
    assert_eq!(manager_of(Some("kubectl"), Some("x/1")), "kubectl");
    assert_eq!(manager_of(None, Some("kubectl/v1.32 (linux)")), "kubectl");
    assert_eq!(manager_of(Some(""), None), "unknown");
    assert_eq!(manager_of(None, Some(&"a".repeat(300))).len(), 128);
}

#[test]
fn a_write_that_changes_times_only_is_a_no_op() {
    let first = write(
        None,
        json!({"metadata": {"name": "x"}, "spec": {"a": 1}}),
        "one",
        "",
        1,
    );
    let mut later = first.clone();
    later["metadata"]["managedFields"][0]["time"] = json!("2030-01-01T00:00:00Z");
    assert!(is_no_op(&first, &later));
    later["spec"]["a"] = json!(2);
    assert!(!is_no_op(&first, &later));
}

fn trie() -> impl Strategy<Value = FieldSet> {
    let leaf = Just(json!({}));
    let node = leaf.prop_recursive(3, 12, 3, |below| {
        (
            prop::collection::btree_map("f:[abc]", below, 1..3),
            any::<bool>(),
        )
            .prop_map(|(map, member)| {
                let mut map: Map<String, Value> = map.into_iter().collect();
                if member {
                    map.insert(".".to_owned(), json!({}));
                }
                Value::Object(map)
            })
    });
    prop::collection::btree_map("f:[abc]", node, 0..3)
        .prop_map(|map| FieldSet(map.into_iter().collect()))
}

/// The members of a set, one path each.
fn members(set: &FieldSet) -> std::collections::BTreeSet<String> {
    fn walk(map: &Map<String, Value>, path: &str, out: &mut std::collections::BTreeSet<String>) {
        for (key, value) in map.iter().filter(|(key, _)| *key != ".") {
            let below = value.as_object().unwrap();
            let path = format!("{path}/{key}");
            if owned(below) {
                out.insert(path.clone());
            }
            walk(below, &path, out);
        }
    }
    let mut out = std::collections::BTreeSet::new();
    walk(&set.0, "", &mut out);
    out
}

proptest! {
    #[test]
    fn the_algebra_is_that_of_sets(a in trie(), b in trie()) {
        let (m, n) = (members(&a), members(&b));
        let mut union = a.clone();
        union.union(&b);
        prop_assert_eq!(members(&union), m.union(&n).cloned().collect());
        let mut less = a.clone();
        less.subtract(&b);
        prop_assert_eq!(members(&less), m.difference(&n).cloned().collect());
        prop_assert_eq!(members(&a.intersection(&b)), m.intersection(&n).cloned().collect());
    }
}
