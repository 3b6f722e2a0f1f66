//! The patches a client may send: JSON patch, merge patch, and strategic merge patch for built-in kinds.

use json_patch::PatchOperation;
use serde_json::{Map, Value};

use super::decode::MAX_DEPTH;

/// The most operations of one JSON patch. Specified by Kubernetes.
pub const OPERATIONS_MAX: usize = 10_000;
/// The most that the copies of one JSON patch may add, in bytes. Chosen: the limit of a request body.
pub const COPIES_MAX: usize = 3 * 1024 * 1024;

/// The most moves and copies of one JSON patch: each pair can nest the object a level deeper. Chosen.
pub const MOVES_MAX: usize = 1_000;

/// Why a patch was refused.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// 400: it is not a patch.
    #[error("error decoding patch: {0}")]
    Undecodable(String),
    /// 413: it is a patch with too many operations.
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooManyOperations(usize),
    /// 422: it does not fit the object, a failed `test` included.
    #[error("the server rejected our request due to an error in our request")]
    DoesNotApply(#[source] json_patch::PatchError),
    /// 413: its moves and copies would make the object too large or too deep.
    #[error("the JSON patch makes the object too large or nests it too deeply")]
    TooLarge,
}

/// Applies a JSON patch (RFC 6902); on an error `target` is as it was.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > OPERATIONS_MAX {
        return Err(PatchError::TooManyOperations(count));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|why| PatchError::Undecodable(why.to_string()))?;
    let moves = |operation: &&PatchOperation| {
        matches!(operation, PatchOperation::Move(_) | PatchOperation::Copy(_))
    };
    let count = patch.0.iter().filter(moves).count();
    let deepest = patch.0.iter().map(|operation| operation.path().count());
    if count > MOVES_MAX || deepest.max().unwrap_or(0) > MAX_DEPTH {
        return Err(PatchError::TooLarge);
    }
    // Copies can double the object again and again, so its growth is watched one by one.
    let mut patched = target.clone();
    let mut spent = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation {
            spent += patched.pointer(copy.from.as_str()).map_or(0, weight);
            if spent > COPIES_MAX {
                return Err(PatchError::TooLarge);
            }
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(PatchError::DoesNotApply)?;
    }
    if is_deeper(&patched, MAX_DEPTH) {
        return Err(PatchError::TooLarge);
    }
    *target = patched;
    Ok(())
}

/// Is a value nested more than `levels` deep?
fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|value| is_deeper(value, levels - 1)),
        _ => false,
    }
}

/// About how many bytes a value takes.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| 1 + weight(item)).sum::<usize>(),
        Value::Object(map) => {
            2 + map
                .iter()
                .map(|(key, value)| key.len() + 4 + weight(value))
                .sum::<usize>()
        }
        _ => 8,
    }
}

/// Applies a merge patch (RFC 7386): null deletes, lists are replaced whole.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// How a strategic merge patch treats a list of the built-in kinds.
enum ListRule {
    /// Items are told apart by this field.
    Keyed(&'static str),
    /// Each value once.
    Set,
}

/// The lists of the built-in kinds that merge; all others are replaced.
fn list_rule(field: &str) -> Option<ListRule> {
    match field {
        "ownerReferences" => Some(ListRule::Keyed("uid")),
        "conditions" => Some(ListRule::Keyed("type")),
        "finalizers" => Some(ListRule::Set),
        _ => None,
    }
}

const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch as the built-in kinds define it; on an error `target` may be half done.
pub fn strategic(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Undecodable(
            "a strategic merge patch must be an object".to_owned(),
        ));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    match target {
        Value::Object(target) => strategic_map(target, patch),
        _ => Ok(()),
    }
}

fn strategic_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    match patch
        .get("$patch")
        .map(|directive| directive.as_str().unwrap_or_default())
    {
        Some("replace") => {
            target.clear();
            for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
                target.insert(name.clone(), value.clone());
            }
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => {
            return Err(PatchError::Undecodable(format!(
                "Unknown patch type: {other}"
            )));
        }
    }
    if let Some(kept) = patch.get("$retainKeys") {
        let Some(kept) = kept.as_array() else {
            return Err(PatchError::Undecodable(
                "$retainKeys must be a list".to_owned(),
            ));
        };
        target.retain(|name, _| kept.iter().any(|key| key.as_str() == Some(name)));
    }
    for (name, gone) in patch {
        if let (Some(list), Some(gone)) = (name.strip_prefix(DELETE), gone.as_array())
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            items.retain(|item| !gone.contains(item));
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        strategic_field(target, name, value)?;
    }
    for (name, order) in patch {
        if let (Some(list), Some(order)) = (name.strip_prefix(ORDER), order.as_array())
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            arrange(items, order, list_rule(list));
        }
    }
    Ok(())
}

fn strategic_field(
    target: &mut Map<String, Value>,
    name: &str,
    value: &Value,
) -> Result<(), PatchError> {
    match value {
        Value::Null => {
            target.remove(name);
        }
        Value::Object(patch) => {
            let deletes = patch.get("$patch").and_then(Value::as_str) == Some("delete");
            if deletes {
                target.remove(name);
                return Ok(());
            }
            let entry = target.entry(name).or_insert(Value::Null);
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Value::Object(entry) = entry {
                strategic_map(entry, patch)?;
            }
        }
        Value::Array(patch) => match list_rule(name) {
            None => {
                let plain = patch
                    .iter()
                    .filter(|item| item.get("$patch").is_none())
                    .cloned()
                    .collect();
                target.insert(name.to_owned(), Value::Array(plain));
            }
            Some(rule) => {
                let entry = target.entry(name).or_insert(Value::Null);
                if !entry.is_array() {
                    *entry = Value::Array(Vec::new());
                }
                if let Value::Array(items) = entry {
                    strategic_list(items, patch, &rule)?;
                }
            }
        },
        scalar => {
            target.insert(name.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn strategic_list(
    items: &mut Vec<Value>,
    patch: &[Value],
    rule: &ListRule,
) -> Result<(), PatchError> {
    let ListRule::Keyed(key) = rule else {
        for item in patch {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        return Ok(());
    };
    if patch
        .iter()
        .any(|item| item.get("$patch").and_then(Value::as_str) == Some("replace"))
    {
        *items = patch
            .iter()
            .filter(|item| item.get("$patch").is_none())
            .cloned()
            .collect();
        return Ok(());
    }
    for item in patch {
        let (Some(identity), Some(fields)) = (item.get(*key), item.as_object()) else {
            return Err(PatchError::Undecodable(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let at = items
            .iter()
            .position(|existing| existing.get(*key) == Some(identity));
        let deletes = fields.get("$patch").and_then(Value::as_str) == Some("delete");
        match at {
            Some(at) if deletes => drop(items.remove(at)),
            None if deletes => {}
            Some(at) => match &mut items[at] {
                Value::Object(existing) => strategic_map(existing, fields)?,
                other => *other = item.clone(),
            },
            None => {
                let mut made = Map::new();
                strategic_map(&mut made, fields)?;
                items.push(Value::Object(made));
            }
        }
    }
    Ok(())
}

/// Puts the items that `order` names into that order; the others keep their places behind them.
fn arrange(items: &mut [Value], order: &[Value], rule: Option<ListRule>) {
    let place = |item: &Value| {
        let found = order.iter().position(|wanted| match &rule {
            Some(ListRule::Keyed(key)) => {
                item.get(*key).is_some() && item.get(*key) == wanted.get(*key)
            }
            _ => item == wanted,
        });
        found.unwrap_or(order.len())
    };
    items.sort_by_key(place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches_apply_whole_or_not_at_all() {
        let mut value = json!({"metadata": {"labels": {"a": "1"}}, "l": [1]});
        let patch = json!([{"op": "test", "path": "/metadata/labels/a", "value": "1"},
            {"op": "add", "path": "/metadata/labels/b", "value": "2"}, {"op": "add", "path": "/l/-", "value": 2},
            {"op": "copy", "from": "/l", "path": "/m"}]);
        json(&mut value, &patch).unwrap();
        assert_eq!(
            value,
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "l": [1, 2], "m": [1, 2]})
        );
        let before = value.clone();
        for bad in [
            json!([{"op": "remove", "path": "/l"}, {"op": "test", "path": "/m/0", "value": 9}]),
            json!([{"op": "add", "path": "/none/x", "value": 1}]),
            json!([{"op": "copy", "from": "/l", "path": "/x"}, {"op": "remove", "path": "/none"}]),
        ] {
            assert!(
                matches!(json(&mut value, &bad), Err(PatchError::DoesNotApply(_))),
                "{bad}"
            );
            assert_eq!(value, before);
        }
        for bad in [
            json!({}),
            json!([{"op": "jump", "path": "/"}]),
            json!([1]),
            json!("x"),
        ] {
            assert!(
                matches!(json(&mut value, &bad), Err(PatchError::Undecodable(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn json_patches_are_limited() {
        let many: Vec<Value> =
            vec![json!({"op": "test", "path": "", "value": {}}); OPERATIONS_MAX + 1];
        assert!(matches!(
            json(&mut json!({}), &json!(many)),
            Err(PatchError::TooManyOperations(10_001))
        ));
        let bomb: Vec<Value> = (0..40)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"}))
            .collect();
        assert!(matches!(
            json(&mut json!({"a": ["xxxxxxxxxx"]}), &json!(bomb)),
            Err(PatchError::TooLarge)
        ));
    }

    #[test]
    fn json_patches_cannot_nest_without_end() {
        let wrap = [
            json!({"op": "add", "path": "/y", "value": {}}),
            json!({"op": "move", "from": "/x", "path": "/y/x"}),
            json!({"op": "move", "from": "/y", "path": "/x"}),
        ];
        for levels in [150, 3_000] {
            let bomb: Vec<Value> = wrap.iter().cycle().take(levels * 3).cloned().collect();
            let mut value = json!({"x": {}});
            assert!(json(&mut value, &json!(bomb)).is_err());
            assert_eq!(value, json!({"x": {}}));
        }
        let fine: Vec<Value> = wrap.iter().cycle().take(30).cloned().collect();
        json(&mut json!({"x": {}}), &json!(fine)).unwrap();
        let deep = json!([{"op": "add", "path": "/a".repeat(101), "value": 1}]);
        assert!(matches!(
            json(&mut json!({}), &deep),
            Err(PatchError::TooLarge)
        ));
    }

    #[test]
    fn merge_patches_delete_with_null_and_replace_lists() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut value, &json!({"a": {"b": null, "d": 3}, "l": [3]}));
        assert_eq!(value, json!({"a": {"c": 2, "d": 3}, "l": [3]}));
    }

    #[test]
    fn strategic_patches_merge_by_key_and_understand_directives() {
        for (value, patch, wanted) in [
            (
                json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
                json!({"metadata": {"labels": {"a": null, "c": "3"}, "$setElementOrder/finalizers": ["x"]}}),
                json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
            ),
            (
                json!({"status": {"conditions": [{"type": "A", "status": "True", "n": 1}, {"type": "B"}]}}),
                json!({"status": {"$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}],
                    "conditions": [{"type": "A", "status": "False"}, {"type": "C"}]}}),
                json!({"status": {"conditions": [{"type": "B"}, {"type": "A", "status": "False", "n": 1}, {"type": "C"}]}}),
            ),
            (
                json!({"c": {"conditions": [{"type": "A"}, {"type": "B"}]}}),
                json!({"c": {"conditions": [{"type": "A", "$patch": "delete"}]}}),
                json!({"c": {"conditions": [{"type": "B"}]}}),
            ),
            (
                json!({"c": {"conditions": [{"type": "A"}]}}),
                json!({"c": {"conditions": [{"$patch": "replace"}, {"type": "Z"}]}}),
                json!({"c": {"conditions": [{"type": "Z"}]}}),
            ),
            (
                json!({"m": {"finalizers": ["a", "b"]}}),
                json!({"m": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["b", "c"]}}),
                json!({"m": {"finalizers": ["b", "c"]}}),
            ),
            (
                json!({"d": {"a": 1}}),
                json!({"d": {"$patch": "replace", "b": 2}}),
                json!({"d": {"b": 2}}),
            ),
            (
                json!({"d": {"a": 1}}),
                json!({"d": {"$patch": "delete"}}),
                json!({}),
            ),
            (
                json!({"d": {"a": 1, "b": 2}}),
                json!({"d": {"$retainKeys": ["b"], "b": 3}}),
                json!({"d": {"b": 3}}),
            ),
            (json!({"l": [1, 2]}), json!({"l": [3]}), json!({"l": [3]})),
            (
                json!({}),
                json!({"data": {"k": "v", "$patch": "merge"}}),
                json!({"data": {"k": "v"}}),
            ),
        ] {
            let mut patched = value.clone();
            strategic(&mut patched, &patch).unwrap();
            assert_eq!(patched, wanted, "{patch}");
        }
        for bad in [
            json!([]),
            json!({"$patch": "jump"}),
            json!({"conditions": [{"status": "True"}]}),
            json!({"$retainKeys": 1}),
        ] {
            assert!(
                matches!(
                    strategic(&mut json!({}), &bad),
                    Err(PatchError::Undecodable(_))
                ),
                "{bad}"
            );
        }
    }
}
