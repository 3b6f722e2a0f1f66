//! JSON values as CEL values, with the types that the schema gives them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use kube_cel::cel::objects::{Key, Map as CelMap};
use kube_cel::cel::{Program, Value as CelValue};
use serde_json::{Number, Value};

use super::FUNCTIONS;
use crate::schema::structural::Schema;

/// What rules see of a value. At a root (`root`) metadata shows its names only, as in Kubernetes.
pub(super) fn value(value: &Value, schema: &Schema, root: bool) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(flag) => CelValue::Bool(*flag),
        Value::Number(number) => self::number(number, schema),
        Value::String(string) => text(string, schema),
        Value::Array(list) => {
            let item = schema.items.as_deref();
            let list = list
                .iter()
                .map(|each| self::value(each, item.unwrap_or(&PLAIN), false))
                .collect();
            CelValue::List(Arc::new(list))
        }
        Value::Object(map) => {
            let mut out = HashMap::with_capacity(map.len());
            for (name, each) in map {
                let converted = match schema.field(name) {
                    Some(field) => self::value(each, field, field.embedded),
                    None if root && name == "metadata" => names_of(each),
                    None => self::value(each, &PLAIN, false),
                };
                // Keys of a map are data; names of fields are escaped so that rules can write them.
                let name = if schema.is_map() {
                    name.clone()
                } else {
                    escape(name)
                };
                out.insert(Key::String(Arc::new(name)), converted);
            }
            CelValue::Map(CelMap { map: Arc::new(out) })
        }
    }
}

/// The schema of what no schema describes.
static PLAIN: LazyLock<Schema> = LazyLock::new(Schema::default);

fn names_of(metadata: &Value) -> CelValue {
    let mut out = HashMap::new();
    for name in ["name", "generateName"] {
        if let Some(Value::String(text)) = metadata.get(name) {
            out.insert(
                Key::String(Arc::new(name.to_owned())),
                CelValue::String(Arc::new(text.clone())),
            );
        }
    }
    CelValue::Map(CelMap { map: Arc::new(out) })
}

fn number(number: &Number, schema: &Schema) -> CelValue {
    use crate::schema::structural::Type;
    let float = || CelValue::Float(number.as_f64().unwrap_or(f64::NAN));
    match (schema.of, number.as_i64()) {
        (Type::Number, _) => float(),
        (_, Some(whole)) => CelValue::Int(whole),
        (Type::Integer, None) => match number.as_f64() {
            // `1.0` counts as an integer; the cast is exact for whole numbers of this size.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "checked to be whole and in range"
            )]
            Some(f) if f.fract() == 0.0 && f.abs() < 9.0e15 => CelValue::Int(f as i64),
            _ => float(),
        },
        _ => float(),
    }
}

/// Date-times and durations become CEL's own types through CEL's own conversion functions.
static TIMESTAMP: LazyLock<Option<Program>> =
    LazyLock::new(|| Program::compile("timestamp(text)").ok());
static DURATION: LazyLock<Option<Program>> =
    LazyLock::new(|| Program::compile("duration(text)").ok());
static SOME: LazyLock<Option<Program>> =
    LazyLock::new(|| Program::compile("optional.of(text)").ok());
static NONE: LazyLock<Option<Program>> = LazyLock::new(|| Program::compile("optional.none()").ok());

fn run(program: &LazyLock<Option<Program>>, argument: Option<CelValue>) -> Option<CelValue> {
    let mut context = FUNCTIONS.new_inner_scope();
    if let Some(argument) = argument {
        context.add_variable_from_value("text", argument);
    }
    program.as_ref()?.execute(&context).ok()
}

/// `oldSelf` as rules with `optionalOldSelf` see it.
pub(super) fn optional(value: Option<CelValue>) -> Option<CelValue> {
    match value {
        Some(value) => run(&SOME, Some(value)),
        None => run(&NONE, None),
    }
}

fn text(string: &str, schema: &Schema) -> CelValue {
    let plain = || CelValue::String(Arc::new(string.to_owned()));
    match schema.checks.format.map(|format| format.name) {
        Some("date-time") => run(&TIMESTAMP, Some(plain())).unwrap_or_else(plain),
        Some("date") => {
            let midnight = CelValue::String(Arc::new(format!("{string}T00:00:00Z")));
            run(&TIMESTAMP, Some(midnight)).unwrap_or_else(plain)
        }
        Some("duration") => run(&DURATION, Some(plain())).unwrap_or_else(plain),
        Some("byte") => match base64::engine::general_purpose::STANDARD.decode(string) {
            Ok(bytes) => CelValue::Bytes(Arc::new(bytes)),
            Err(_) => plain(),
        },
        _ => plain(),
    }
}

/// Words that CEL keeps for itself.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A field's name as rules write it: `a-b` is `a__dash__b`, `namespace` is `__namespace__`.
pub(super) fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains(['_', '.', '-', '/']) {
        return name.to_owned();
    }
    let mut out = String::with_capacity(name.len() + 8);
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '_' if chars.peek() == Some(&'_') => {
                chars.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            other => out.push(other),
        }
    }
    out
}
