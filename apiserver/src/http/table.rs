//! Objects, lists and watch events in the form that a client asked for: themselves, a Table, or metadata only.
//!
//! Tables come from the printer columns of the kind. Ages are computed when the answer is made, as upstream does.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::age;
use super::negotiate::{Form, IncludeObject, Output};
use crate::registry::kinds::{Builtin, Column, ServedKind};
use crate::schema::jsonpath::JsonPath;

/// The metadata of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListMeta {
    /// The revision that the list was read at.
    pub resource_version: String,
    /// How to get the next page.
    pub continue_token: Option<String>,
    /// How many objects are on later pages, where it is known.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert(
            "resourceVersion".to_owned(),
            self.resource_version.as_str().into(),
        );
        if let Some(token) = &self.continue_token {
            map.insert("continue".to_owned(), token.as_str().into());
        }
        if let Some(remaining) = self.remaining {
            map.insert("remainingItemCount".to_owned(), remaining.into());
        }
        Value::Object(map)
    }
}

/// One object in the form asked for.
pub fn object(kind: &ServedKind, bytes: &Bytes, output: &Output, now: Timestamp) -> Bytes {
    match output.form {
        Form::Json | Form::Yaml => bytes.clone(),
        Form::Partial => partial(bytes, "meta.k8s.io/v1").into(),
        Form::Table { v1beta1 } => {
            let meta = ListMeta {
                resource_version: resource_version(bytes),
                ..ListMeta::default()
            };
            Printer::new(kind, *output, v1beta1, now).table([bytes], &meta.to_value(), true)
        }
    }
}

/// A list in the form asked for.
pub fn list(
    kind: &ServedKind,
    items: &[Bytes],
    meta: &ListMeta,
    output: &Output,
    now: Timestamp,
) -> Bytes {
    let metadata = meta.to_value();
    let (api_version, list_kind) = match output.form {
        Form::Table { v1beta1 } => {
            return Printer::new(kind, *output, v1beta1, now).table(items, &metadata, true);
        }
        Form::Json | Form::Yaml => (&*kind.api_version, &*kind.list_kind),
        Form::Partial => ("meta.k8s.io/v1", "PartialObjectMetadataList"),
    };
    let size: usize = items.iter().map(|item| item.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 256);
    let head =
        json!({"apiVersion": api_version, "kind": list_kind, "metadata": metadata}).to_string();
    out.extend_from_slice(head.trim_end_matches('}').as_bytes());
    // The metadata is an object, so one of the braces just cut off belongs to it.
    out.extend_from_slice(b"},\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match output.form {
            Form::Partial => out.extend_from_slice(&partial(item, "meta.k8s.io/v1")),
            _ => out.extend_from_slice(item),
        }
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// One line of a watch. Only the `first` Table of a stream carries the column definitions.
pub fn event(
    kind: &ServedKind,
    event_type: &str,
    bytes: &Bytes,
    output: &Output,
    first: bool,
    now: Timestamp,
) -> Bytes {
    let object = match output.form {
        Form::Json | Form::Yaml => bytes.clone(),
        Form::Partial => partial(bytes, "meta.k8s.io/v1").into(),
        Form::Table { v1beta1 } => {
            let metadata = json!({"resourceVersion": resource_version(bytes)});
            Printer::new(kind, *output, v1beta1, now).table([bytes], &metadata, first)
        }
    };
    let mut line = Vec::with_capacity(object.len() + event_type.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(event_type.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(&object);
    line.extend_from_slice(b"}\n");
    line.into()
}

#[derive(serde::Deserialize)]
struct MetadataOnly<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

fn resource_version(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Meta {
        #[serde(rename = "resourceVersion")]
        resource_version: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Object {
        metadata: Option<Meta>,
    }
    serde_json::from_slice::<Object>(bytes)
        .ok()
        .and_then(|object| object.metadata?.resource_version)
        .unwrap_or_default()
}

/// PartialObjectMetadata of an object.
fn partial(bytes: &[u8], api_version: &str) -> Vec<u8> {
    let metadata = serde_json::from_slice::<MetadataOnly<'_>>(bytes)
        .ok()
        .and_then(|object| object.metadata)
        .map_or("{}", RawValue::get);
    format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata}}}").into_bytes()
}

/// What fills the cells of a column.
enum Source {
    Name,
    /// The object that an event is about.
    Reference(&'static str),
    /// When an event was last seen, by the first of these that is set.
    Seen(&'static [&'static str]),
    Path(JsonPath),
    /// The column's path is not understood; its cells are empty.
    Broken,
}

struct Printer<'a> {
    columns: Vec<(Source, &'a str)>,
    definitions: Vec<Value>,
    include: IncludeObject,
    api_version: &'static str,
    now: Timestamp,
}

const NAME_DESCRIPTION: &str =
    "Name must be unique within a namespace. It is chosen by the creator of the object.";

fn definition(
    name: &str,
    column_type: &str,
    format: &str,
    description: &str,
    priority: i32,
) -> Value {
    json!({"name": name, "type": column_type, "format": format, "description": description, "priority": priority})
}

impl<'a> Printer<'a> {
    fn new(kind: &'a ServedKind, output: Output, v1beta1: bool, now: Timestamp) -> Self {
        let is_event = matches!(kind.builtin, Some(Builtin::CoreEvent | Builtin::Event));
        let mut columns: Vec<(Source, &str)> = kind
            .columns
            .iter()
            .map(|column| (source_of(kind, column), column.column_type.as_str()))
            .collect();
        let mut definitions: Vec<Value> = kind
            .columns
            .iter()
            // An age is sent as text, whatever the column says that it is computed from.
            .map(|column| {
                let column_type = if is_event && column.column_type == "date" {
                    "string"
                } else {
                    &column.column_type
                };
                definition(
                    &column.name,
                    column_type,
                    &column.format,
                    &column.description,
                    column.priority,
                )
            })
            .collect();
        // The names of events say nothing to a person, so they come last and only when asked for.
        let (at, priority) = if is_event { (columns.len(), 1) } else { (0, 0) };
        columns.insert(at, (Source::Name, "string"));
        definitions.insert(
            at,
            definition("Name", "string", "name", NAME_DESCRIPTION, priority),
        );
        Self {
            columns,
            definitions,
            include: output.include,
            api_version: if v1beta1 {
                "meta.k8s.io/v1beta1"
            } else {
                "meta.k8s.io/v1"
            },
            now,
        }
    }

    fn table<'b>(
        &self,
        items: impl IntoIterator<Item = &'b Bytes>,
        metadata: &Value,
        with_columns: bool,
    ) -> Bytes {
        let definitions = if with_columns {
            Value::from(self.definitions.clone())
        } else {
            Value::Null
        };
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"columnDefinitions\":{definitions},\"rows\":[",
            self.api_version
        );
        let mut out = head.into_bytes();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.row(item, &mut out);
        }
        out.extend_from_slice(b"]}");
        out.into()
    }

    fn row(&self, bytes: &Bytes, out: &mut Vec<u8>) {
        let object: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
        let cells: Vec<Value> = self
            .columns
            .iter()
            .map(|(source, column_type)| self.cell(source, column_type, &object))
            .collect();
        out.extend_from_slice(b"{\"cells\":");
        out.extend_from_slice(Value::Array(cells).to_string().as_bytes());
        match self.include {
            IncludeObject::Nothing => {}
            IncludeObject::Object => {
                out.extend_from_slice(b",\"object\":");
                out.extend_from_slice(bytes);
            }
            IncludeObject::Metadata => {
                out.extend_from_slice(b",\"object\":");
                out.extend_from_slice(&partial(bytes, self.api_version));
            }
        }
        out.push(b'}');
    }

    fn cell(&self, source: &Source, column_type: &str, object: &Value) -> Value {
        match source {
            Source::Name => object["metadata"]["name"].clone(),
            Source::Broken => Value::Null,
            Source::Reference(field) => {
                let reference = &object[*field];
                let text = |key: &str| reference[key].as_str().unwrap_or("");
                format!("{}/{}", text("kind").to_lowercase(), text("name")).into()
            }
            Source::Seen(fields) => {
                let found = fields
                    .iter()
                    .find_map(|pointer| object.pointer(pointer)?.as_str());
                found.map_or(Value::String("<unknown>".to_owned()), |text| self.age(text))
            }
            Source::Path(path) => path
                .first(object)
                .map_or(Value::Null, |value| self.convert(value, column_type)),
        }
    }

    fn age(&self, text: &str) -> Value {
        let age = text.parse::<Timestamp>().map_or_else(
            |_| "<invalid>".to_owned(),
            |since| age::human(since, self.now),
        );
        age.into()
    }

    /// The value as its column's type; a value of another type is empty.
    fn convert(&self, value: &Value, column_type: &str) -> Value {
        match (column_type, value) {
            (_, Value::Null) => Value::Null,
            ("string", Value::String(_))
            | ("boolean", Value::Bool(_))
            | ("number", Value::Number(_)) => value.clone(),
            ("string", other) => other.to_string().into(),
            ("date", Value::String(text)) => self.age(text),
            ("integer", Value::Number(number)) if number.is_f64() => {
                // Integers may be written with a fraction of zero.
                number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0)
                    .map_or(Value::Null, |float| {
                        format!("{float:.0}")
                            .parse::<i64>()
                            .map_or(Value::Null, Value::from)
                    })
            }
            ("integer", Value::Number(_)) => value.clone(),
            // How many entries: the data of a ConfigMap or Secret.
            ("integer", Value::Object(map)) => map.len().into(),
            _ => Value::Null,
        }
    }
}

fn source_of(kind: &ServedKind, column: &Column) -> Source {
    match (kind.builtin, column.json_path.as_str()) {
        (Some(Builtin::CoreEvent), ".involvedObject") => Source::Reference("involvedObject"),
        (Some(Builtin::Event), ".regarding") => Source::Reference("regarding"),
        (Some(Builtin::CoreEvent), ".lastTimestamp") => Source::Seen(&[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ]),
        (Some(Builtin::Event), ".deprecatedLastTimestamp") => Source::Seen(&[
            "/series/lastObservedTime",
            "/deprecatedLastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ]),
        (Some(Builtin::CoreEvent), ".firstTimestamp") => {
            Source::Seen(&["/firstTimestamp", "/eventTime"])
        }
        (Some(Builtin::Event), ".deprecatedFirstTimestamp") => {
            Source::Seen(&["/deprecatedFirstTimestamp", "/eventTime"])
        }
        (_, path) => JsonPath::parse(path).map_or(Source::Broken, Source::Path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, column_type: &str, json_path: &str) -> Column {
        Column {
            name: name.to_owned(),
            column_type: column_type.to_owned(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: json_path.to_owned(),
        }
    }

    fn kind(builtin: Option<Builtin>, columns: Vec<Column>) -> ServedKind {
        ServedKind {
            columns,
            builtin,
            ..ServedKind::sample()
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn output(form: Form) -> Output {
        Output {
            form,
            ..Output::JSON
        }
    }

    fn job() -> Bytes {
        Bytes::from_static(
            br#"{"apiVersion":"gctl.dev/v1","kind":"Job","metadata":{"name":"a","resourceVersion":"7","creationTimestamp":"2026-01-01T00:55:00Z"},"spec":{"command":["a",1],"priority":3,"ratio":2.5},"status":{"conditions":[{"type":"Other","status":"False"},{"type":"Ready","status":"True"}]}}"#,
        )
    }

    fn parse(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn cells_follow_the_types_of_their_columns() {
        let kind = kind(
            None,
            vec![
                column(
                    "Ready",
                    "string",
                    r#".status.conditions[?(@.type=="Ready")].status"#,
                ),
                column("Command", "string", ".spec.command"),
                column("Priority", "integer", ".spec.priority"),
                column("PriorityText", "string", ".spec.priority"),
                column("Ratio", "integer", ".spec.ratio"),
                column("Missing", "string", ".spec.none"),
                column("Wrong", "boolean", ".spec.priority"),
                column("Broken", "string", ".spec["),
                column("Age", "date", ".metadata.creationTimestamp"),
            ],
        );
        let table = parse(&object(
            &kind,
            &job(),
            &output(Form::Table { v1beta1: false }),
            now(),
        ));
        assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(table["metadata"]["resourceVersion"], "7");
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(
            table["rows"][0]["cells"],
            json!([
                "a",
                "True",
                "[\"a\",1]",
                3,
                "3",
                null,
                null,
                null,
                null,
                "5m"
            ])
        );
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
    }

    #[test]
    fn rows_carry_what_was_asked_for() {
        let kind = kind(None, Vec::new());
        let mut output = output(Form::Table { v1beta1: true });
        output.include = IncludeObject::Object;
        let table = parse(&object(&kind, &job(), &output, now()));
        assert_eq!(table["apiVersion"], "meta.k8s.io/v1beta1");
        assert_eq!(table["rows"][0]["object"]["spec"]["priority"], 3);
        output.include = IncludeObject::Nothing;
        assert!(
            parse(&object(&kind, &job(), &output, now()))["rows"][0]
                .get("object")
                .is_none()
        );
    }

    #[test]
    fn lists_have_items_and_metadata_in_every_form() {
        let kind = kind(None, Vec::new());
        let meta = ListMeta {
            resource_version: "9".to_owned(),
            continue_token: Some("next".to_owned()),
            remaining: Some(4),
        };
        let metadata = json!({"resourceVersion": "9", "continue": "next", "remainingItemCount": 4});
        for (form, key, list_kind) in [
            (Form::Json, "items", "JobList"),
            (Form::Partial, "items", "PartialObjectMetadataList"),
            (Form::Table { v1beta1: false }, "rows", "Table"),
        ] {
            let full = parse(&list(&kind, &[job(), job()], &meta, &output(form), now()));
            assert_eq!(
                (&full["metadata"], &full["kind"]),
                (&metadata, &json!(list_kind))
            );
            assert_eq!(full[key].as_array().unwrap().len(), 2);
            let empty = parse(&list(
                &kind,
                &[],
                &ListMeta::default(),
                &output(form),
                now(),
            ));
            assert_eq!(empty[key], json!([]));
        }
    }

    #[test]
    fn a_watch_sends_column_definitions_once() {
        let kind = kind(None, Vec::new());
        let output = output(Form::Table { v1beta1: false });
        let first = parse(&event(&kind, "ADDED", &job(), &output, true, now()));
        assert!(first["object"]["columnDefinitions"].is_array());
        let line = event(&kind, "MODIFIED", &job(), &output, false, now());
        assert!(line.ends_with(b"}\n"));
        assert!(parse(&line)["object"]["columnDefinitions"].is_null());
    }

    #[test]
    fn events_say_when_and_about_what_and_data_is_counted() {
        let columns = vec![
            column("Last Seen", "date", ".lastTimestamp"),
            column("Object", "string", ".involvedObject"),
        ];
        let bytes = Bytes::from_static(
            br#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Job","name":"x"},"lastTimestamp":null,"eventTime":"2026-01-01T00:59:30.000000Z"}"#,
        );
        let kind_of_event = kind(Some(Builtin::CoreEvent), columns);
        let table = parse(&object(
            &kind_of_event,
            &bytes,
            &output(Form::Table { v1beta1: false }),
            now(),
        ));
        assert_eq!(table["rows"][0]["cells"], json!(["30s", "job/x", "e"]));
        let data = kind(
            Some(Builtin::Secret),
            vec![column("Data", "integer", ".data")],
        );
        let secret = Bytes::from_static(br#"{"metadata":{"name":"s"},"data":{"a":"","b":""}}"#);
        let table = parse(&object(
            &data,
            &secret,
            &output(Form::Table { v1beta1: false }),
            now(),
        ));
        assert_eq!(table["rows"][0]["cells"], json!(["s", 2]));
    }
}
