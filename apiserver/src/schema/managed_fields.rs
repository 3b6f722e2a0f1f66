//! Who owns which field: `metadata.managedFields`, kept from the first write.
//!
//! A set of fields is kept in the form it has on the wire (FieldsV1: a trie of `f:name`,
//! `k:{"key":value}` and `v:value`, where `{}` is an owned leaf and `.` marks an owned inner node), so
//! that nothing is converted on a write. The algebra below is also what server-side apply is made of.

mod compare;
mod set;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::kind::KindSchema;
use super::structural::{ListType, Schema, Type};
pub use compare::Comparison;
pub use set::FieldSet;

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
    let name = named
        .or_else(|| user_agent.and_then(|agent| agent.split('/').next()))
        .unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(MANAGER_MAX)
        .collect();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    }
}

/// Metadata that has owners; everything else in it is the server's.
const TRACKED: [&str; 4] = ["annotations", "finalizers", "labels", "ownerReferences"];

static METADATA: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(|| {
    let mut schema = Schema {
        of: Type::Object,
        ..Schema::default()
    };
    let list = |list_type| Schema {
        of: Type::Array,
        list_type,
        ..Schema::default()
    };
    schema
        .properties
        .insert("finalizers".to_owned(), list(ListType::Set));
    let owners = ListType::Map(vec!["uid".to_owned()]);
    schema
        .properties
        .insert("ownerReferences".to_owned(), list(owners));
    schema
});

static NULL: Value = Value::Null;

/// What differs between two objects of a kind, as far as fields have owners at this endpoint.
pub fn compare(
    schema: &KindSchema,
    old: Option<&Value>,
    new: &Value,
    subresource: &str,
) -> Comparison {
    let mut comparison = Comparison::default();
    let empty = Map::new();
    let old = old.and_then(Value::as_object).unwrap_or(&empty);
    let Some(new) = new.as_object() else {
        return comparison;
    };
    let status = subresource == "status";
    let counts = |name: &str| match name {
        "apiVersion" | "kind" | "metadata" => false,
        "status" => status || !schema.traits.status,
        _ => !status,
    };
    let mut path = Vec::with_capacity(8);
    let names = new
        .keys()
        .chain(old.keys().filter(|name| !new.contains_key(*name)));
    for name in names.filter(|name| counts(name)) {
        let field = schema.structural.field(name);
        difference(
            &mut comparison,
            old.get(name),
            new.get(name),
            name,
            field,
            &mut path,
        );
    }
    if !status {
        let (old, new) = (
            old.get("metadata").unwrap_or(&NULL),
            new.get("metadata").unwrap_or(&NULL),
        );
        path.push("f:metadata".to_owned());
        for name in TRACKED {
            difference(
                &mut comparison,
                old.get(name),
                new.get(name),
                name,
                METADATA.field(name),
                &mut path,
            );
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
    let before = live
        .and_then(|live| live.get("metadata"))
        .and_then(|metadata| metadata.get("managedFields"));
    let base = entries(sent, before);
    let tracked = live.is_none()
        || before
            .and_then(Value::as_array)
            .is_some_and(|entries| !entries.is_empty());
    let managers = if tracked && base.is_some() {
        let comparison = compare(schema, live, new, writer.subresource);
        attribute(base.unwrap_or_default(), comparison, writer)
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
fn entries(sent: Option<Value>, live: Option<&Value>) -> Option<Vec<Value>> {
    match sent {
        Some(Value::Array(list)) => {
            if list.is_empty() || list == [json!({})] {
                return None;
            }
            let live = live.and_then(Value::as_array);
            let usable = live == Some(&list) || list.iter().all(is_sound);
            Some(if usable {
                list
            } else {
                live.cloned().unwrap_or_default()
            })
        }
        _ => Some(live.and_then(Value::as_array).cloned().unwrap_or_default()),
    }
}

fn is_sound(entry: &Value) -> bool {
    matches!(field(entry, "operation"), "Apply" | "Update")
        && field(entry, "fieldsType") == "FieldsV1"
        && entry
            .get("fieldsV1")
            .is_some_and(|fields| FieldSet::parse(fields).is_some())
        && entry.get("time").is_none_or(Value::is_string)
}

fn field<'e>(entry: &'e Value, name: &str) -> &'e str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn attribute(mut entries: Vec<Value>, comparison: Comparison, writer: &Writer<'_>) -> Vec<Value> {
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
        let Some(Value::Object(fields)) = entry.get_mut("fieldsV1") else {
            return false;
        };
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
    if mine.is_empty() {
        mine = comparison.written;
    } else {
        mine.union(&comparison.written);
    }
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
    Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}

fn merge_oldest(entries: &mut Vec<Value>) {
    loop {
        let mut updates: Vec<usize> = (0..entries.len())
            .filter(|at| field(&entries[*at], "operation") == "Update")
            .collect();
        if updates.len() <= UPDATES_MAX {
            return;
        }
        updates.sort_by(|a, b| order(&entries[*a]).cmp(&order(&entries[*b])));
        let oldest = updates[0];
        let alike = |at: &&usize| {
            field(&entries[**at], "apiVersion") == field(&entries[oldest], "apiVersion")
                && field(&entries[**at], "subresource") == field(&entries[oldest], "subresource")
        };
        let Some(next) = updates[1..].iter().find(alike).copied() else {
            return;
        };
        let first = entries[oldest].clone();
        let into = &mut entries[next];
        let set = |entry: &Value| {
            entry
                .get("fieldsV1")
                .and_then(FieldSet::parse)
                .unwrap_or_default()
        };
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
    let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else {
        return false;
    };
    if a.len() != b.len() {
        return false;
    }
    a.iter()
        .all(|(name, a)| match (name.as_str(), a, b.get(name)) {
            ("metadata", Value::Object(a), Some(Value::Object(b))) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(name, a)| match (name.as_str(), b.get(name)) {
                            ("managedFields", Some(b)) => same_but_for_times(a, b),
                            (_, b) => Some(a) == b,
                        })
            }
            (_, a, b) => Some(a) == b,
        })
}

fn same_but_for_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else {
        return a == b;
    };
    let timeless = |entry: &Value| {
        let mut entry = entry.clone();
        if let Value::Object(entry) = &mut entry {
            entry.remove("time");
        }
        entry
    };
    a.len() == b.len()
        && a.iter()
            .all(|a| b.iter().any(|b| timeless(a) == timeless(b)))
}

#[cfg(test)]
mod tests;
