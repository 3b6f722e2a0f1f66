//! The algebra of sets of fields, on the wire form itself.

use serde_json::{Map, Value, json};

/// A set of fields, as FieldsV1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(pub(super) Map<String, Value>);

/// Is this node of a trie itself in the set?
pub(super) fn owned(node: &Map<String, Value>) -> bool {
    node.is_empty() || node.contains_key(".")
}

fn as_node(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

impl FieldSet {
    /// Reads FieldsV1; `None` for anything that is not one.
    pub fn parse(value: &Value) -> Option<Self> {
        fn sound(map: &Map<String, Value>, depth: usize) -> bool {
            depth < crate::schema::decode::MAX_DEPTH
                && map.iter().all(|(key, value)| {
                    let named =
                        key == "." || matches!(key.get(..2), Some("f:" | "k:" | "v:" | "i:"));
                    named
                        && value
                            .as_object()
                            .is_some_and(|below| sound(below, depth + 1))
                })
        }
        let map = value.as_object()?;
        sound(map, 0).then(|| Self(map.clone()))
    }

    /// FieldsV1.
    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }

    /// Is nothing in the set?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is the field at these path elements (`f:spec`, `f:x`) in the set?
    pub fn contains(&self, path: &[&str]) -> bool {
        let mut node = &self.0;
        for element in path {
            match node.get(*element).and_then(as_node) {
                Some(below) => node = below,
                None => return false,
            }
        }
        !path.is_empty() && owned(node)
    }

    /// Every field that is in this set or the other.
    pub fn union(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            unite(&mut self.0, key, value);
        }
    }

    /// Takes the other's fields out of this set.
    pub fn subtract(&mut self, other: &Self) {
        if !self.0.is_empty() && !other.0.is_empty() {
            subtract(&mut self.0, &other.0);
        }
    }

    /// The fields that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersect(&self.0, &other.0))
    }

    /// Puts `below` at a path; no node on the way may already be an owned leaf.
    pub(super) fn insert(&mut self, path: &[String], below: Map<String, Value>) {
        let mut node = &mut self.0;
        for element in path {
            let entry = node
                .entry(element.as_str())
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = entry else { return };
            node = map;
        }
        node.extend(below);
    }
}

/// Adds a node to a map of nodes, keeping both memberships.
fn unite(into: &mut Map<String, Value>, key: &str, value: &Value) {
    let Some(new) = value.as_object() else { return };
    let Some(Value::Object(old)) = into.get_mut(key) else {
        into.insert(key.to_owned(), value.clone());
        return;
    };
    if key == "." {
        return;
    }
    let member = owned(old) || owned(new);
    for (key, value) in new {
        unite(old, key, value);
    }
    if member && !old.is_empty() {
        old.entry(".").or_insert_with(|| Value::Object(Map::new()));
    }
}

fn subtract(from: &mut Map<String, Value>, other: &Map<String, Value>) {
    from.retain(|key, value| {
        let Some(taken) = other.get(key).and_then(as_node) else {
            return true;
        };
        if key == "." {
            return true;
        }
        let Value::Object(node) = value else {
            return false;
        };
        if node.is_empty() {
            return !owned(taken);
        }
        subtract(node, taken);
        if owned(taken) {
            node.remove(".");
        }
        // What remains of an inner node must not turn into an owned leaf.
        !node.is_empty()
    });
}

fn intersect(a: &Map<String, Value>, b: &Map<String, Value>) -> Map<String, Value> {
    let mut both = Map::new();
    for (key, value) in a {
        let (Some(a), Some(b)) = (as_node(value), b.get(key).and_then(as_node)) else {
            continue;
        };
        if key == "." {
            continue;
        }
        let mut below = intersect(a, b);
        if owned(a) && owned(b) {
            if !below.is_empty() {
                below.insert(".".to_owned(), json!({}));
            }
            both.insert(key.clone(), Value::Object(below));
        } else if !below.is_empty() {
            both.insert(key.clone(), Value::Object(below));
        }
    }
    both
}
