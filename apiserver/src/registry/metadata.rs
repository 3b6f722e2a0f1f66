//! Reading and changing `metadata` of objects in memory. Its shape and what must hold of it is checked by
//! [`crate::schema::metadata`].

use std::sync::LazyLock;

use serde_json::{Map, Value};

/// The finalizer of a deletion in the foreground.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of a deletion that leaves the dependents.
pub const ORPHAN: &str = "orphan";

/// `metadata` of an object; empty when it is missing.
pub fn of(object: &Map<String, Value>) -> &Map<String, Value> {
    static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    object
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&EMPTY)
}

/// `metadata` of an object, to be changed; made when it is missing.
pub fn of_mut(object: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let metadata = object
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata
        .as_object_mut()
        .expect("it was made an object above")
}

/// A text in `metadata`; empty when absent.
pub fn text<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    of(object)
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The finalizers of an object.
pub fn finalizers(object: &Map<String, Value>) -> Vec<&str> {
    of(object)
        .get("finalizers")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |list| {
            list.iter().filter_map(Value::as_str).collect()
        })
}

/// Is the object being deleted?
pub fn is_terminating(object: &Map<String, Value>) -> bool {
    of(object).contains_key("deletionTimestamp")
}

/// Removes a finalizer; is there a change?
pub fn remove_finalizer(object: &mut Map<String, Value>, name: &str) -> bool {
    let metadata = of_mut(object);
    let Some(Value::Array(list)) = metadata.get_mut("finalizers") else {
        return false;
    };
    let before = list.len();
    list.retain(|f| f.as_str() != Some(name));
    let changed = list.len() != before;
    if list.is_empty() {
        metadata.remove("finalizers");
    }
    changed
}

/// Adds a finalizer; is there a change?
pub fn add_finalizer(object: &mut Map<String, Value>, name: &str) -> bool {
    if finalizers(object).contains(&name) {
        return false;
    }
    let list = of_mut(object)
        .entry("finalizers")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.push(name.into());
    }
    true
}

/// Sets or, for `None`, removes an entry of `metadata`.
pub fn set(object: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    let metadata = of_mut(object);
    match value {
        Some(value) => drop(metadata.insert(key.to_owned(), value)),
        None => drop(metadata.remove(key)),
    }
}

/// `metadata.generation`; 0 when absent.
pub fn generation(object: &Map<String, Value>) -> i64 {
    of(object)
        .get("generation")
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finalizers_are_added_once_and_the_list_goes_with_the_last() {
        let Value::Object(mut object) = json!({"metadata": {"finalizers": ["a/b"]}}) else {
            unreachable!("a literal")
        };
        assert!(add_finalizer(&mut object, ORPHAN));
        assert!(!add_finalizer(&mut object, ORPHAN));
        assert_eq!(finalizers(&object), ["a/b", "orphan"]);
        assert!(remove_finalizer(&mut object, "a/b"));
        assert!(!remove_finalizer(&mut object, "a/b"));
        assert!(remove_finalizer(&mut object, ORPHAN));
        assert_eq!(object["metadata"], json!({}));
    }
}
