//! How values are divided into fields, and which fields differ between two of them.

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::schema::structural::{ListType, Schema};

impl FieldSet {
    /// Every field of `value`, as one that applies it would own.
    pub fn of(value: &Value, schema: &Schema) -> Self {
        let mut set = Map::new();
        add_all(value, Some(schema), &mut set);
        Self(set)
    }
}

/// How a value is divided into fields.
enum Shape<'v, 's> {
    Leaf,
    Object(&'v Map<String, Value>),
    Keyed(&'v [Value], &'s [String], Option<&'s Schema>),
    Set(&'v [Value]),
}

fn shape<'v, 's>(value: &'v Value, schema: Option<&'s Schema>) -> Shape<'v, 's> {
    match value {
        Value::Object(map)
            if !map.is_empty() && !schema.is_some_and(|schema| schema.atomic_map) =>
        {
            Shape::Object(map)
        }
        Value::Array(items) if !items.is_empty() => {
            match schema.map(|schema| (&schema.list_type, schema)) {
                Some((ListType::Set, _)) => Shape::Set(items),
                Some((ListType::Map(keys), schema)) => {
                    Shape::Keyed(items, keys, schema.items.as_deref())
                }
                _ => Shape::Leaf,
            }
        }
        _ => Shape::Leaf,
    }
}

/// The path element of an item of a keyed list; keys are sorted, and absent ones take their defaults.
fn key_element(item: &Value, keys: &[String], schema: Option<&Schema>) -> String {
    let mut named = Map::new();
    for key in keys {
        let default = || {
            schema
                .and_then(|schema| schema.properties.get(key))
                .and_then(|field| field.default.as_ref())
        };
        if let Some(value) = item.get(key).or_else(default) {
            named.insert(key.clone(), value.clone());
        }
    }
    let mut sorted: Vec<(String, Value)> = named.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let body: Vec<String> = sorted
        .iter()
        .map(|(key, value)| format!("{}:{value}", Value::from(key.as_str())))
        .collect();
    format!("k:{{{}}}", body.join(","))
}

/// Adds the fields of an applied value: leaves, and the items of lists with identity.
fn add_all(value: &Value, schema: Option<&Schema>, set: &mut Map<String, Value>) {
    match shape(value, schema) {
        Shape::Leaf => {}
        Shape::Object(map) => {
            for (name, value) in map {
                let field = schema.and_then(|schema| schema.field(name));
                let mut below = Map::new();
                add_all(value, field, &mut below);
                let declared = schema.is_some_and(|schema| schema.properties.contains_key(name));
                if !below.is_empty() && !declared {
                    below.insert(".".to_owned(), json!({}));
                }
                set.insert(format!("f:{name}"), Value::Object(below));
            }
        }
        Shape::Keyed(items, keys, item_schema) => {
            for item in items {
                let mut below = Map::new();
                add_all(item, item_schema, &mut below);
                if !below.is_empty() {
                    below.insert(".".to_owned(), json!({}));
                }
                set.insert(key_element(item, keys, item_schema), Value::Object(below));
            }
        }
        Shape::Set(items) => {
            for item in items {
                set.insert(format!("v:{item}"), json!({}));
            }
        }
    }
}

/// What differs between two values.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Fields that are new or have another value.
    pub written: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
}

/// Every field below, as one that wrote all of it owns it: inner nodes too.
fn whole(value: &Value, schema: Option<&Schema>) -> Map<String, Value> {
    let mut node = Map::new();
    match shape(value, schema) {
        Shape::Leaf => return node,
        Shape::Object(map) => {
            for (name, value) in map {
                let field = schema.and_then(|schema| schema.field(name));
                node.insert(format!("f:{name}"), Value::Object(whole(value, field)));
            }
        }
        Shape::Keyed(items, keys, item_schema) => {
            for item in items {
                node.insert(
                    key_element(item, keys, item_schema),
                    Value::Object(whole(item, item_schema)),
                );
            }
        }
        Shape::Set(items) => {
            for item in items {
                node.insert(format!("v:{item}"), json!({}));
            }
        }
    }
    node.insert(".".to_owned(), json!({}));
    node
}

impl Comparison {
    /// Compares two values of one schema, field by field.
    pub fn of(old: &Value, new: &Value, schema: Option<&Schema>) -> Self {
        let mut comparison = Self::default();
        comparison.node(old, new, schema, &mut Vec::new());
        comparison
    }

    pub(super) fn added(
        &mut self,
        element: String,
        value: &Value,
        schema: Option<&Schema>,
        path: &mut Vec<String>,
    ) {
        path.push(element);
        self.written.insert(path, whole(value, schema));
        path.pop();
    }

    pub(super) fn gone(
        &mut self,
        element: String,
        value: &Value,
        schema: Option<&Schema>,
        path: &mut Vec<String>,
    ) {
        path.push(element);
        self.removed.insert(path, whole(value, schema));
        path.pop();
    }

    pub(super) fn node(
        &mut self,
        old: &Value,
        new: &Value,
        schema: Option<&Schema>,
        path: &mut Vec<String>,
    ) {
        if old == new {
            return;
        }
        match (shape(old, schema), shape(new, schema)) {
            (Shape::Object(old), Shape::Object(new)) => {
                for (name, value) in new {
                    let field = schema.and_then(|schema| schema.field(name));
                    match old.get(name) {
                        None => self.added(format!("f:{name}"), value, field, path),
                        Some(before) if before == value => {}
                        Some(before) => {
                            path.push(format!("f:{name}"));
                            self.node(before, value, field, path);
                            path.pop();
                        }
                    }
                }
                for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                    let field = schema.and_then(|schema| schema.field(name));
                    self.gone(format!("f:{name}"), value, field, path);
                }
            }
            (Shape::Keyed(old, keys, item), Shape::Keyed(new, _, _)) => {
                self.items(old, new, keys, item, path);
            }
            (Shape::Set(old), Shape::Set(new)) => {
                for value in new.iter().filter(|value| !old.contains(value)) {
                    self.added(format!("v:{value}"), value, None, path);
                }
                for value in old.iter().filter(|value| !new.contains(value)) {
                    self.gone(format!("v:{value}"), value, None, path);
                }
            }
            // What was below is gone; the place itself has a new value.
            (before, _) => {
                if !matches!(before, Shape::Leaf) {
                    let mut below = whole(old, schema);
                    below.remove(".");
                    self.removed.insert(path, below);
                }
                self.written.insert(path, whole(new, schema));
            }
        }
    }

    fn items(
        &mut self,
        old: &[Value],
        new: &[Value],
        keys: &[String],
        schema: Option<&Schema>,
        path: &mut Vec<String>,
    ) {
        let before: Vec<(String, &Value)> = old
            .iter()
            .map(|item| (key_element(item, keys, schema), item))
            .collect();
        let after: Vec<(String, &Value)> = new
            .iter()
            .map(|item| (key_element(item, keys, schema), item))
            .collect();
        for (element, item) in &after {
            match before.iter().find(|(known, _)| known == element) {
                None => self.added(element.clone(), item, schema, path),
                Some((_, old)) => {
                    path.push(element.clone());
                    self.node(old, item, schema, path);
                    path.pop();
                }
            }
        }
        for (element, item) in before
            .iter()
            .filter(|(element, _)| !after.iter().any(|(known, _)| known == element))
        {
            self.gone(element.clone(), item, schema, path);
        }
    }
}
