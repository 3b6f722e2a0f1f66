//! Who owns which field: `metadata.managedFields`, kept from the first write.
//!
//! A set of fields is kept in the form it has on the wire (FieldsV1: a trie of `f:name`,
//! `k:{"key":value}` and `v:value`, where `{}` is an owned leaf and `.` marks an owned inner node), so
//! that nothing is converted on a write. The algebra below is also what server-side apply is made of.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::kind::KindSchema;
use super::structural::{ListType, Schema, Type};

/// The most Update entries of one object; the oldest are merged beyond it. Specified by Kubernetes.
const UPDATES_MAX: usize = 10;
/// The manager that merged entries belong to.
const ANCIENT: &str = "ancient-changes";
/// The longest name of a manager, in characters. Specified by Kubernetes.
const MANAGER_MAX: usize = 128;

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or what [`manager_of`] makes of the User-Agent.
    pub manager: &'a str,
    /// The `apiVersion` that the request was made in.
    pub api_version: &'a str,
    /// `status` for the status subresource, else empty.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
}

/// The manager of a request: its `fieldManager`, else the User-Agent up to the first `/`.
pub fn manager_of(field_manager: Option<&str>, user_agent: Option<&str>) -> String {
    let named = field_manager.filter(|name| !name.is_empty());
    let name = named.or_else(|| user_agent.and_then(|agent| agent.split('/').next())).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(MANAGER_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// A set of fields, as FieldsV1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(Map<String, Value>);

/// Is this node of a trie itself in the set?
fn owned(node: &Map<String, Value>) -> bool {
    node.is_empty() || node.contains_key(".")
}

fn as_node(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

impl FieldSet {
    /// Reads FieldsV1; `None` for anything that is not one.
    pub fn parse(value: &Value) -> Option<Self> {
        fn sound(map: &Map<String, Value>, depth: usize) -> bool {
            depth < super::decode::MAX_DEPTH
                && map.iter().all(|(key, value)| {
                    let named = key == "." || matches!(key.get(..2), Some("f:" | "k:" | "v:" | "i:"));
                    named && value.as_object().is_some_and(|below| sound(below, depth + 1))
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

    /// Every field of `value`, as one that applies it would own.
    pub fn of(value: &Value, schema: &Schema) -> Self {
        let mut set = Map::new();
        add_all(value, Some(schema), &mut set);
        Self(set)
    }

    /// Puts `below` at a path; no node on the way may already be an owned leaf.
    fn insert(&mut self, path: &[String], below: Map<String, Value>) {
        let mut node = &mut self.0;
        for element in path {
            let entry = node.entry(element.as_str()).or_insert_with(|| Value::Object(Map::new()));
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
        let Some(taken) = other.get(key).and_then(as_node) else { return true };
        if key == "." {
            return true;
        }
        let Value::Object(node) = value else { return false };
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
        let (Some(a), Some(b)) = (as_node(value), b.get(key).and_then(as_node)) else { continue };
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

/// How a value is divided into fields.
enum Shape<'v, 's> {
    Leaf,
    Object(&'v Map<String, Value>),
    Keyed(&'v [Value], &'s [String], Option<&'s Schema>),
    Set(&'v [Value]),
}

fn shape<'v, 's>(value: &'v Value, schema: Option<&'s Schema>) -> Shape<'v, 's> {
    match value {
        Value::Object(map) if !map.is_empty() && !schema.is_some_and(|schema| schema.atomic_map) => Shape::Object(map),
        Value::Array(items) if !items.is_empty() => match schema.map(|schema| (&schema.list_type, schema)) {
            Some((ListType::Set, _)) => Shape::Set(items),
            Some((ListType::Map(keys), schema)) => Shape::Keyed(items, keys, schema.items.as_deref()),
            _ => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

/// The path element of an item of a keyed list; keys are sorted, and absent ones take their defaults.
fn key_element(item: &Value, keys: &[String], schema: Option<&Schema>) -> String {
    let mut named = Map::new();
    for key in keys {
        let default = || schema.and_then(|schema| schema.properties.get(key)).and_then(|field| field.default.as_ref());
        if let Some(value) = item.get(key).or_else(default) {
            named.insert(key.clone(), value.clone());
        }
    }
    let mut sorted: Vec<(String, Value)> = named.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let body: Vec<String> = sorted.iter().map(|(key, value)| format!("{}:{value}", Value::from(key.as_str()))).collect();
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
                node.insert(key_element(item, keys, item_schema), Value::Object(whole(item, item_schema)));
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

    fn added(&mut self, element: String, value: &Value, schema: Option<&Schema>, path: &mut Vec<String>) {
        path.push(element);
        self.written.insert(path, whole(value, schema));
        path.pop();
    }

    fn gone(&mut self, element: String, value: &Value, schema: Option<&Schema>, path: &mut Vec<String>) {
        path.push(element);
        self.removed.insert(path, whole(value, schema));
        path.pop();
    }

    fn node(&mut self, old: &Value, new: &Value, schema: Option<&Schema>, path: &mut Vec<String>) {
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
            (Shape::Keyed(old, keys, item), Shape::Keyed(new, _, _)) => self.items(old, new, keys, item, path),
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
        let before: Vec<(String, &Value)> = old.iter().map(|item| (key_element(item, keys, schema), item)).collect();
        let after: Vec<(String, &Value)> = new.iter().map(|item| (key_element(item, keys, schema), item)).collect();
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
        for (element, item) in before.iter().filter(|(element, _)| !after.iter().any(|(known, _)| known == element)) {
            self.gone(element.clone(), item, schema, path);
        }
    }
}

/// Metadata that has owners; everything else in it is the server's.
const TRACKED: [&str; 4] = ["annotations", "finalizers", "labels", "ownerReferences"];

static METADATA: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(|| {
    let mut schema = Schema { of: Type::Object, ..Schema::default() };
    let list = |list_type| Schema { of: Type::Array, list_type, ..Schema::default() };
    schema.properties.insert("finalizers".to_owned(), list(ListType::Set));
    let owners = ListType::Map(vec!["uid".to_owned()]);
    schema.properties.insert("ownerReferences".to_owned(), list(owners));
    schema
});

static NULL: Value = Value::Null;

/// What differs between two objects of a kind, as far as fields have owners at this endpoint.
pub fn compare(schema: &KindSchema, old: Option<&Value>, new: &Value, subresource: &str) -> Comparison {
    let mut comparison = Comparison::default();
    let empty = Map::new();
    let old = old.and_then(Value::as_object).unwrap_or(&empty);
    let Some(new) = new.as_object() else { return comparison };
    let status = subresource == "status";
    let counts = |name: &str| match name {
        "apiVersion" | "kind" | "metadata" => false,
        "status" => status || !schema.traits.status,
        _ => !status,
    };
    let mut path = Vec::with_capacity(8);
    let names = new.keys().chain(old.keys().filter(|name| !new.contains_key(*name)));
    for name in names.filter(|name| counts(name)) {
        let field = schema.structural.field(name);
        difference(&mut comparison, old.get(name), new.get(name), name, field, &mut path);
    }
    if !status {
        let (old, new) = (old.get("metadata").unwrap_or(&NULL), new.get("metadata").unwrap_or(&NULL));
        path.push("f:metadata".to_owned());
        for name in TRACKED {
            difference(&mut comparison, old.get(name), new.get(name), name, METADATA.field(name), &mut path);
        }
    }
    comparison
}

fn difference(
    comparison: &mut Comparison,
    old: Option<&Value>,
    new: Option<&Value>,
    name: &str,
    schema: Option<&Schema>,
    path: &mut Vec<String>,
) {
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            path.push(format!("f:{name}"));
            comparison.node(old, new, schema, path);
            path.pop();
        }
        (None, Some(new)) => comparison.added(format!("f:{name}"), new, schema, path),
        (Some(old), None) => comparison.gone(format!("f:{name}"), old, schema, path),
        _ => {}
    }
}

/// Attributes what a create, update or patch changed, and puts the managers into `new`.
///
/// `live` is what is stored, `new` what is to be; `new` has its defaults and is otherwise complete.
/// Entries that the client sent are used only to reset the tracking (`[]`, `[{}]`) or when they are
/// sound and differ from the live ones; garbage gives way to the live entries. An object without
/// entries that is updated stays untracked, and a change of nothing leaves everything as it was.
pub fn update(schema: &KindSchema, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let sent = new
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|metadata| metadata.remove("managedFields"));
    let before = live.and_then(|live| live.get("metadata")).and_then(|metadata| metadata.get("managedFields"));
    let base = entries(sent.as_ref(), before);
    let tracked = live.is_none() || before.and_then(Value::as_array).is_some_and(|entries| !entries.is_empty());
    let managers = if tracked && base.is_some() {
        let comparison = compare(schema, live, new, writer.subresource);
        attribute(base.unwrap_or_default(), &comparison, writer)
    } else {
        Vec::new()
    };
    if !managers.is_empty()
        && let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("managedFields".to_owned(), Value::Array(managers));
    }
}

/// The entries to go on from; `None` when the client asked to forget them.
fn entries(sent: Option<&Value>, live: Option<&Value>) -> Option<Vec<Value>> {
    let live_entries = || live.and_then(Value::as_array).cloned().unwrap_or_default();
    match sent {
        None => Some(live_entries()),
        Some(Value::Array(list)) => {
            if list.is_empty() || *list == [json!({})] {
                return None;
            }
            if sent == live || !list.iter().all(is_sound) {
                return Some(live_entries());
            }
            Some(list.clone())
        }
        Some(_) => Some(live_entries()),
    }
}

fn is_sound(entry: &Value) -> bool {
    matches!(field(entry, "operation"), "Apply" | "Update")
        && field(entry, "fieldsType") == "FieldsV1"
        && entry.get("fieldsV1").is_some_and(|fields| FieldSet::parse(fields).is_some())
        && entry.get("time").is_none_or(Value::is_string)
}

fn field<'e>(entry: &'e Value, name: &str) -> &'e str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn attribute(mut entries: Vec<Value>, comparison: &Comparison, writer: &Writer<'_>) -> Vec<Value> {
    if comparison.written.is_empty() && comparison.removed.is_empty() {
        return entries;
    }
    let is_mine = |entry: &Value| {
        field(entry, "manager") == writer.manager
            && field(entry, "operation") == "Update"
            && field(entry, "apiVersion") == writer.api_version
            && field(entry, "subresource") == writer.subresource
    };
    let mut mine = FieldSet::default();
    entries.retain_mut(|entry| {
        let own = is_mine(entry);
        let Some(Value::Object(fields)) = entry.get_mut("fieldsV1") else { return false };
        let mut set = FieldSet(std::mem::take(fields));
        set.subtract(&comparison.removed);
        if own {
            mine = set;
            return false;
        }
        set.subtract(&comparison.written);
        *fields = set.0;
        !fields.is_empty()
    });
    mine.union(&comparison.written);
    if !mine.is_empty() {
        let mut entry = json!({
            "apiVersion": writer.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": mine.into_json(),
            "manager": writer.manager,
            "operation": "Update",
            "time": time(writer.now),
        });
        if !writer.subresource.is_empty() {
            entry["subresource"] = Value::from(writer.subresource);
        }
        entries.push(entry);
    }
    merge_oldest(&mut entries);
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    entries
}

fn order(entry: &Value) -> [&str; 5] {
    ["operation", "time", "manager", "apiVersion", "subresource"].map(|name| field(entry, name))
}

/// A time as entries have it: whole seconds, UTC.
fn time(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

fn merge_oldest(entries: &mut Vec<Value>) {
    loop {
        let mut updates: Vec<usize> =
            (0..entries.len()).filter(|at| field(&entries[*at], "operation") == "Update").collect();
        if updates.len() <= UPDATES_MAX {
            return;
        }
        updates.sort_by(|a, b| order(&entries[*a]).cmp(&order(&entries[*b])));
        let oldest = updates[0];
        let alike = |at: &&usize| {
            field(&entries[**at], "apiVersion") == field(&entries[oldest], "apiVersion")
                && field(&entries[**at], "subresource") == field(&entries[oldest], "subresource")
        };
        let Some(next) = updates[1..].iter().find(alike).copied() else { return };
        let first = entries[oldest].clone();
        let into = &mut entries[next];
        let set = |entry: &Value| entry.get("fieldsV1").and_then(FieldSet::parse).unwrap_or_default();
        let mut both = set(into);
        both.union(&set(&first));
        into["fieldsV1"] = both.into_json();
        into["manager"] = Value::from(ANCIENT);
        entries.remove(oldest);
    }
}

/// Are two objects the same but for the times in `managedFields`? Then a write changes nothing.
pub fn is_no_op(old: &Value, new: &Value) -> bool {
    if old == new {
        return true;
    }
    let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else { return false };
    if a.len() != b.len() {
        return false;
    }
    a.iter().all(|(name, a)| match (name.as_str(), a, b.get(name)) {
        ("metadata", Value::Object(a), Some(Value::Object(b))) => {
            a.len() == b.len()
                && a.iter().all(|(name, a)| match (name.as_str(), b.get(name)) {
                    ("managedFields", Some(b)) => same_but_for_times(a, b),
                    (_, b) => Some(a) == b,
                })
        }
        (_, a, b) => Some(a) == b,
    })
}

fn same_but_for_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return a == b };
    let timeless = |entry: &Value| {
        let mut entry = entry.clone();
        if let Value::Object(entry) = &mut entry {
            entry.remove("time");
        }
        entry
    };
    a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| timeless(a) == timeless(b)))
}

#[cfg(test)]
mod tests;
