//! The JSON merge patch (RFC 7386) that leads from one document to another.

use serde_json::{Map, Value};

/// The patch that turns `old` into `new`; `None` when they are equal. Fields that neither document names are left alone, so
/// a newer component's fields survive a write by an older one.
pub(crate) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        _ if old == new => None,
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for (name, value) in new {
                match old.get(name) {
                    Some(before) => {
                        if let Some(change) = merge_patch(before, value) {
                            patch.insert(name.clone(), change);
                        }
                    }
                    None => {
                        patch.insert(name.clone(), value.clone());
                    }
                }
            }
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                patch.insert(name.clone(), Value::Null);
            }
            Some(Value::Object(patch))
        }
        _ => Some(new.clone()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// RFC 7386, section 2.
    fn apply(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut target = match target {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let before = target.remove(name).unwrap_or(Value::Null);
                target.insert(name.clone(), apply(before, value));
            }
        }
        Value::Object(target)
    }

    #[test]
    fn equal_documents_need_no_patch() {
        let document = json!({"a": [1], "b": {"c": "d"}});
        assert_eq!(merge_patch(&document, &document), None);
    }

    #[test]
    fn a_removed_field_is_null_and_an_unchanged_one_is_absent() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1, 2]});
        let new = json!({"b": {"c": 1, "d": 3}, "e": [2]});
        let patch = merge_patch(&old, &new);
        assert_eq!(patch, Some(json!({"a": null, "b": {"d": 3}, "e": [2]})));
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..3_u8).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_patch_leads_to_the_new_document(old in documents(), new in documents()) {
            let patch = merge_patch(&old, &new);
            let reached = patch.as_ref().map_or_else(|| old.clone(), |patch| apply(old.clone(), patch));
            prop_assert_eq!(reached, new);
        }
    }
}
