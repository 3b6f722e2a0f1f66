//! The three-way merge of `apply`, as kubectl does it on the client.
//!
//! What the manifest says now is compared with what it said at the last apply (kept in an annotation) and with the object as it is. Fields
//! that the manifest dropped are removed; fields that others set and the manifest never mentioned stay. Pure.

use serde_json::{Map, Value, json};

/// The annotation that keeps what the manifest said at the last apply; kubectl reads and writes the same.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifest with the annotation that records it, as kubectl sends it.
#[must_use]
pub fn with_last_applied(manifest: &Value) -> Value {
    let mut bare = manifest.clone();
    if let Some(annotations) = bare
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    // kubectl keeps the empty map, and a newline at the end.
    if bare["metadata"]["annotations"].is_null() {
        bare["metadata"]["annotations"] = json!({});
    }
    let mut marked = bare.clone();
    marked["metadata"]["annotations"][LAST_APPLIED] = Value::String(format!("{bare}\n"));
    marked
}

/// What the manifest said at the last apply, if the object records it.
pub fn last_applied(live: &Value) -> Option<Value> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    serde_json::from_str(text).ok()
}

/// The JSON merge patch that brings `live` to what `wanted` says, given what was said before. Empty when there is nothing to do.
#[must_use]
pub fn three_way(before: Option<&Value>, wanted: &Value, live: &Value) -> Value {
    let empty = json!({});
    let changes = difference(live, wanted, Keep::Changes);
    let removals = difference(before.unwrap_or(&empty), wanted, Keep::Removals);
    // A removal of what is already gone changes nothing on the server; leaving it out lets `apply` say "unchanged" without a request.
    let removals = prune_absent(removals, live);
    merge(changes, removals)
}

/// What a strategic merge patch needs beyond [`three_way`] for the lists of Kubernetes' own kinds that merge.
#[must_use]
pub fn strategic(before: Option<&Value>, wanted: &Value, live: &Value) -> Value {
    let mut patch = three_way(before, wanted, live);
    let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) else {
        return patch;
    };
    let was = |field: &str| {
        before
            .and_then(|before| before["metadata"][field].as_array().cloned())
            .unwrap_or_default()
    };
    if let Some(change) = metadata.remove("finalizers") {
        let now = change.as_array().cloned().unwrap_or_default();
        let live_list = live["metadata"]["finalizers"].as_array();
        let dropped: Vec<_> = was("finalizers")
            .into_iter()
            .filter(|name| !now.contains(name) && live_list.is_some_and(|list| list.contains(name)))
            .collect();
        let added: Vec<_> = now
            .into_iter()
            .filter(|name| !live_list.is_some_and(|list| list.contains(name)))
            .collect();
        if !added.is_empty() {
            metadata.insert("finalizers".into(), Value::Array(added));
        }
        if !dropped.is_empty() {
            metadata.insert(
                "$deleteFromPrimitiveList/finalizers".into(),
                Value::Array(dropped),
            );
        }
    }
    if let Some(change) = metadata.remove("ownerReferences") {
        let mut now = change.as_array().cloned().unwrap_or_default();
        let live_list = live["metadata"]["ownerReferences"].as_array();
        let known: Vec<_> = now.iter().map(|owner| owner["uid"].clone()).collect();
        now.retain(|owner| !live_list.is_some_and(|list| list.contains(owner)));
        now.extend(
            was("ownerReferences")
                .into_iter()
                .filter(|owner| !known.contains(&owner["uid"]))
                .map(|owner| json!({"uid": owner["uid"], "$patch": "delete"})),
        );
        if !now.is_empty() {
            metadata.insert("ownerReferences".into(), Value::Array(now));
        }
    }
    if metadata.is_empty()
        && let Some(patch) = patch.as_object_mut()
    {
        patch.remove("metadata");
    }
    patch
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Fields that are new or different; never a null that removes.
    Changes,
    /// Only the nulls that remove.
    Removals,
}

fn difference(from: &Value, to: &Value, keep: Keep) -> Value {
    let empty = Map::new();
    let from = from.as_object().unwrap_or(&empty);
    let to = to.as_object().unwrap_or(&empty);
    let mut patch = Map::new();
    for (name, wanted) in to {
        match (from.get(name), wanted) {
            // A null in the manifest stands for a field that is not there.
            (_, Value::Null) => {}
            (Some(Value::Object(_)), Value::Object(_)) => {
                let inner = difference(&from[name], wanted, keep);
                if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                    patch.insert(name.clone(), inner);
                }
            }
            (Some(known), wanted) if known == wanted => {}
            (_, wanted) => {
                if keep == Keep::Changes {
                    patch.insert(name.clone(), without_nulls(wanted));
                }
            }
        }
    }
    if keep == Keep::Removals {
        for name in from.keys() {
            if to.get(name).is_none_or(Value::is_null) {
                patch.insert(name.clone(), Value::Null);
            }
        }
    }
    Value::Object(patch)
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

fn prune_absent(removals: Value, live: &Value) -> Value {
    let Value::Object(map) = removals else {
        return removals;
    };
    let mut kept = Map::new();
    for (name, removal) in map {
        let Some(known) = live.get(&name) else {
            continue;
        };
        if removal.is_null() {
            kept.insert(name, Value::Null);
            continue;
        }
        let inner = prune_absent(removal, known);
        if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
            kept.insert(name, inner);
        }
    }
    Value::Object(kept)
}

fn merge(left: Value, right: Value) -> Value {
    match (left, right) {
        (Value::Object(mut left), Value::Object(right)) => {
            for (name, value) in right {
                let merged = match left.remove(&name) {
                    Some(known) => merge(known, value),
                    None => value,
                };
                left.insert(name, merged);
            }
            Value::Object(left)
        }
        // The manifest's own value wins over a removal of what it replaced.
        (left, Value::Null) => left,
        (_, right) => right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(patch: &Value, live: &Value) -> Value {
        let mut result = live.clone();
        json_patch::merge(&mut result, patch);
        result
    }

    #[test]
    fn fields_the_manifest_dropped_are_removed_and_those_of_others_stay() {
        let before = json!({"spec": {"a": 1, "b": 2, "list": [1, 2]}});
        let wanted = json!({"spec": {"a": 5, "list": [3], "new": {"x": 1}}});
        let live = json!({"spec": {"a": 1, "b": 2, "list": [1, 2], "theirs": 9}, "status": {"phase": "Running"}});
        let patch = three_way(Some(&before), &wanted, &live);
        assert_eq!(
            patch,
            json!({"spec": {"a": 5, "b": null, "list": [3], "new": {"x": 1}}})
        );
        assert_eq!(
            apply(&patch, &live),
            json!({"spec": {"a": 5, "list": [3], "new": {"x": 1}, "theirs": 9}, "status": {"phase": "Running"}})
        );
    }

    #[test]
    fn an_object_that_was_never_applied_keeps_what_the_manifest_does_not_mention() {
        let patch = three_way(
            None,
            &json!({"spec": {"a": 1}}),
            &json!({"spec": {"a": 1, "b": 2}}),
        );
        assert_eq!(patch, json!({}));
    }

    #[test]
    fn a_dropped_field_that_is_already_gone_needs_no_patch() {
        let before = json!({"metadata": {"labels": {"a": "1"}}});
        let patch = three_way(
            Some(&before),
            &json!({"metadata": {}}),
            &json!({"metadata": {"name": "x"}}),
        );
        assert_eq!(patch, json!({}));
    }

    #[test]
    fn the_annotation_holds_the_manifest_without_itself() {
        let manifest = json!({"metadata": {"name": "x", "annotations": {"k": "v"}}});
        let marked = with_last_applied(&manifest);
        assert_eq!(last_applied(&marked), Some(manifest));
        assert_eq!(with_last_applied(&marked), marked);
    }

    #[test]
    fn merging_lists_of_built_in_kinds_get_directives() {
        let before =
            json!({"metadata": {"finalizers": ["a", "b"], "ownerReferences": [{"uid": "1"}]}});
        let live = json!({"metadata": {"finalizers": ["a", "b", "theirs"], "ownerReferences": [{"uid": "1"}, {"uid": "2"}]}});
        let wanted =
            json!({"metadata": {"finalizers": ["b", "c"], "ownerReferences": [{"uid": "3"}]}});
        assert_eq!(
            strategic(Some(&before), &wanted, &live),
            json!({"metadata": {
                "finalizers": ["c"],
                "$deleteFromPrimitiveList/finalizers": ["a"],
                "ownerReferences": [{"uid": "3"}, {"uid": "1", "$patch": "delete"}]}})
        );
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..4i64).prop_map(Value::from),
            prop::collection::vec(0..3i64, 0..3).prop_map(Value::from),
        ];
        let tree = leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        prop::collection::btree_map("[a-d]", tree, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    /// Every field of `wanted` is in `result`, with its value.
    fn contains(result: &Value, wanted: &Value) -> bool {
        match (result, wanted) {
            (Value::Object(result), Value::Object(wanted)) => wanted
                .iter()
                .all(|(name, value)| result.get(name).is_some_and(|found| contains(found, value))),
            (result, wanted) => result == wanted,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn after_the_patch_the_object_says_what_the_manifest_says(before in object(), wanted in object(), live in object()) {
            let result = apply(&three_way(Some(&before), &wanted, &live), &live);
            prop_assert!(contains(&result, &wanted), "{result} lacks {wanted}");
        }

        #[test]
        fn applying_twice_changes_nothing_more(before in object(), wanted in object(), live in object()) {
            let result = apply(&three_way(Some(&before), &wanted, &live), &live);
            prop_assert_eq!(three_way(Some(&wanted), &wanted, &result), json!({}));
        }

        #[test]
        fn what_nobody_else_touched_becomes_exactly_the_manifest(before in object(), wanted in object()) {
            let result = apply(&three_way(Some(&before), &wanted, &before), &before);
            prop_assert!(contains(&result, &wanted));
            for name in result.as_object().unwrap().keys() {
                prop_assert!(wanted.get(name).is_some(), "{} stayed", name);
            }
        }
    }
}
