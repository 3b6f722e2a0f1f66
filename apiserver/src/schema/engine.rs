//! The only file that names the crate `jsonschema`: it finds every breach of a schema's value checks.
//!
//! It is asked only about objects that the quick check by hand ([`super::validate`]) does not pass, and
//! its findings are put into Kubernetes' words here. Patterns and formats are given to it as
//! formats of our own, so that both ways of checking use the same functions.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use serde_json::{Map, Value, json};

use super::field_error::{FieldError, FieldErrorKind};
use super::formats::{self, Format};

/// A schema ready to be checked against.
#[derive(Debug)]
pub(super) struct Engine {
    validator: jsonschema::Validator,
    patterns: Vec<String>,
    choices: Choices,
}

/// By the place of a `oneOf` whose alternatives each require fields: those fields.
type Choices = BTreeMap<String, Vec<Vec<String>>>;

/// Where a finding lies, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    Index(usize),
}

/// One breach, with the place it was found at (for [`FieldErrorKind::Required`]: of the parent).
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) at: Vec<Step>,
    pub(super) error: FieldError,
}

impl Engine {
    /// Compiles `openAPIV3Schema`, which must have passed the structural rules.
    pub(super) fn compile(raw: &Value) -> Result<Self, String> {
        let mut patterns = Patterns::default();
        let document = patterns.node(raw);
        let mut options = jsonschema::draft202012::options().should_validate_formats(true);
        for format in formats::FORMATS {
            options = options.with_format(format!("k8s-{}", format.name), format.holds);
        }
        for (at, pattern) in patterns.0.iter().enumerate() {
            let regex = formats::compile_pattern(pattern).map_err(|why| why.to_string())?;
            options = options.with_format(format!("pattern-{at}"), move |text: &str| {
                regex.is_match(text)
            });
        }
        let validator = options.build(&document).map_err(|why| why.to_string())?;
        let mut choices = Choices::new();
        collect_choices(&document, "", &mut choices);
        Ok(Self {
            validator,
            patterns: patterns.0,
            choices,
        })
    }

    /// Every breach in `value`, in the order they were found.
    pub(super) fn findings(&self, value: &Value) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        let mut seen = BTreeSet::new();
        for error in self.validator.iter_errors(value) {
            let finding = self.finding(&error);
            if seen.insert(finding.error.to_string()) {
                findings.push(finding);
            }
        }
        findings
    }

    fn finding(&self, error: &ValidationError<'_>) -> Finding {
        let mut at: Vec<Step> = Vec::new();
        for segment in error.instance_path() {
            at.push(match segment {
                LocationSegment::Property(name) => Step::Field(name.into_owned()),
                LocationSegment::Index(index) => Step::Index(index),
            });
        }
        let path = shown(&at);
        let choice = self.choices.get(error.schema_path().as_str());
        let choice = choice.map(|choice| choice_detail(choice, error.instance()));
        let mut error = self.translate(error.kind(), error.instance(), &path);
        if let Some(choice) = choice {
            error.detail.push_str(&choice);
        }
        if let FieldErrorKind::Required = error.kind {
            let name = std::mem::take(&mut error.path);
            error.path = if path.is_empty() {
                name
            } else {
                format!("{path}.{name}")
            };
        } else {
            error.path = path;
        }
        Finding { at, error }
    }

    fn translate(&self, kind: &ValidationErrorKind, value: &Value, path: &str) -> FieldError {
        use ValidationErrorKind as K;
        let make = |kind, value, detail: String| FieldError {
            path: String::new(),
            kind,
            value,
            detail,
        };
        let invalid = |detail: String| {
            make(
                FieldErrorKind::Invalid,
                Some(value.clone()),
                format!("{path} in body {detail}"),
            )
        };
        let whole = |detail: &str| {
            make(
                FieldErrorKind::Invalid,
                Some(Value::from("")),
                format!("{path:?} {detail}"),
            )
        };
        let many = |actual: usize, max: u64| {
            make(
                FieldErrorKind::TooMany {
                    actual: actual as u64,
                    max,
                },
                None,
                String::new(),
            )
        };
        match kind {
            K::Required { property } => FieldError {
                path: property.as_str().unwrap_or_default().to_owned(),
                ..make(FieldErrorKind::Required, None, String::new())
            },
            K::Type { kind } => type_error(value, path, &type_names(kind)),
            K::Enum { options } => {
                let supported = options.as_array().into_iter().flatten();
                let supported = supported
                    .map(|option| option.as_str().map_or(option.to_string(), str::to_owned));
                make(
                    FieldErrorKind::NotSupported(supported.collect()),
                    Some(value.clone()),
                    String::new(),
                )
            }
            K::Format { format } => self.format_error(format, value, path),
            K::MaxLength { limit } => make(FieldErrorKind::TooLong(*limit), None, String::new()),
            K::MaxItems { limit } => many(value.as_array().map_or(0, Vec::len), *limit),
            K::MaxProperties { limit } => many(value.as_object().map_or(0, Map::len), *limit),
            K::MinLength { limit } => invalid(format!("should be at least {limit} chars long")),
            K::MinItems { limit } => invalid(format!("should have at least {limit} items")),
            K::MinProperties { limit } => {
                invalid(format!("should have at least {limit} properties"))
            }
            K::Maximum { limit } => invalid(format!("should be less than or equal to {limit}")),
            K::ExclusiveMaximum { limit } => invalid(format!("should be less than {limit}")),
            K::Minimum { limit } => invalid(format!("should be greater than or equal to {limit}")),
            K::ExclusiveMinimum { limit } => invalid(format!("should be greater than {limit}")),
            K::MultipleOf { multiple_of } => {
                invalid(format!("should be a multiple of {multiple_of}"))
            }
            K::UniqueItems => invalid("shouldn't contain duplicates".to_owned()),
            K::AnyOf { .. } => whole("must validate at least one schema (anyOf)"),
            K::OneOfNotValid { .. } => {
                whole("must validate one and only one schema (oneOf). Found none valid")
            }
            K::OneOfMultipleValid { .. } => whole(
                "must validate one and only one schema (oneOf). Found more than one valid alternative",
            ),
            K::Not { .. } => whole("must not validate the schema (not)"),
            _ => invalid("is not valid".to_owned()),
        }
    }

    fn format_error(&self, format: &str, value: &Value, path: &str) -> FieldError {
        let pattern = format
            .strip_prefix("pattern-")
            .and_then(|at| self.patterns.get(at.parse::<usize>().ok()?));
        let (kind, detail) = if let Some(pattern) = pattern {
            (
                FieldErrorKind::Invalid,
                format!("{path} in body should match '{pattern}'"),
            )
        } else {
            let name = format.strip_prefix("k8s-").unwrap_or(format);
            (
                FieldErrorKind::TypeInvalid,
                format!("{path} in body must be of type {name}: {value}"),
            )
        };
        FieldError {
            path: String::new(),
            kind,
            value: Some(value.clone()),
            detail,
        }
    }
}

/// Finds the `oneOf`s that say which fields go with which.
fn collect_choices(node: &Value, at: &str, choices: &mut Choices) {
    let list = |value: &Value| {
        let names = value.as_array().into_iter().flatten();
        names
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    if let Some(alternatives) = node.get("oneOf").and_then(Value::as_array) {
        let required = alternatives
            .iter()
            .map(|alternative| list(&alternative["required"]));
        let required: Vec<Vec<String>> = required.collect();
        if required.iter().all(|names| !names.is_empty()) {
            choices.insert(format!("{at}/oneOf"), required);
        }
    }
    for (name, child) in node.as_object().into_iter().flatten() {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        match (name.as_str(), child) {
            ("properties", Value::Object(fields)) => {
                for (name, field) in fields {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    collect_choices(field, &format!("{at}/{name}"), choices);
                }
            }
            ("items" | "additionalProperties" | "not", _) => {
                collect_choices(child, &at, choices);
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(alternatives)) => {
                for (n, alternative) in alternatives.iter().enumerate() {
                    collect_choices(alternative, &format!("{at}/{n}"), choices);
                }
            }
            _ => {}
        }
    }
}

/// What to add to a breach of a `oneOf`: what could be given, and what is.
fn choice_detail(choice: &[Vec<String>], value: &Value) -> String {
    let shown = |names: &Vec<String>| format!("{:?}", names.join(" and "));
    let all: Vec<String> = choice.iter().map(shown).collect();
    let is_given = |names: &&Vec<String>| names.iter().all(|name| value.get(name).is_some());
    let given: Vec<String> = choice.iter().filter(is_given).map(shown).collect();
    let given = match given.len() {
        0 => "none is".to_owned(),
        1 => format!("{} is", given[0]),
        _ => format!("{} are", given.join(", ")),
    };
    format!(
        ": exactly one of {} must be given, and {given}",
        all.join(", ")
    )
}

fn type_error(value: &Value, path: &str, wanted: &str) -> FieldError {
    let found = type_name(value);
    FieldError {
        path: String::new(),
        kind: FieldErrorKind::TypeInvalid,
        value: Some(Value::from(found)),
        detail: format!("{path} in body must be of type {wanted}: {found:?}"),
    }
}

fn type_names(kind: &TypeKind) -> String {
    let names: Vec<String> = match kind {
        TypeKind::Single(one) => vec![one.to_string()],
        TypeKind::Multiple(many) => many.iter().map(|one| one.to_string()).collect(),
    };
    let names: Vec<String> = names.into_iter().filter(|name| name != "null").collect();
    names.join(",")
}

/// The JSON type of a value, as messages name it.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shown(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Index(at) => {
                text.push('[');
                text.push_str(&at.to_string());
                text.push(']');
            }
        }
    }
    text
}

/// Keywords that mean the same in both dialects.
const COPIED: [&str; 11] = [
    "enum",
    "required",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "uniqueItems",
    "const",
];

/// Translates OpenAPI's dialect into JSON Schema, collecting the patterns it meets.
#[derive(Default)]
struct Patterns(Vec<String>);

impl Patterns {
    fn node(&mut self, raw: &Value) -> Value {
        let Some(map) = raw.as_object() else {
            return Value::Bool(true);
        };
        let set = |name: &str| map.get(name) == Some(&Value::Bool(true));
        let int_or_string = set("x-kubernetes-int-or-string");
        let mut out = Map::new();
        for keyword in COPIED {
            if let Some(value) = map.get(keyword).filter(|value| !value.is_null()) {
                out.insert(keyword.to_owned(), value.clone());
            }
        }
        let mut types: Vec<&str> = match map.get("type").and_then(Value::as_str) {
            _ if int_or_string => vec!["integer", "string"],
            Some(name) if !name.is_empty() => vec![name],
            _ => Vec::new(),
        };
        if !types.is_empty() {
            if set("nullable") {
                types.push("null");
            }
            out.insert("type".to_owned(), json!(types));
        }
        for (name, exclusive) in [
            ("minimum", "exclusiveMinimum"),
            ("maximum", "exclusiveMaximum"),
        ] {
            if let Some(limit) = map.get(name).filter(|limit| !limit.is_null()) {
                out.insert(
                    (if set(exclusive) { exclusive } else { name }).to_owned(),
                    limit.clone(),
                );
            }
        }
        let mut all: Vec<Value> = Vec::new();
        self.text_checks(map, int_or_string, &mut out, &mut all);
        if let Some(properties) = map.get("properties").and_then(Value::as_object) {
            let properties: Map<String, Value> = properties
                .iter()
                .map(|(name, raw)| (name.clone(), self.node(raw)))
                .collect();
            out.insert("properties".to_owned(), properties.into());
        }
        for name in ["additionalProperties", "items", "not"] {
            if let Some(raw) = map.get(name).filter(|raw| raw.is_object()) {
                let node = self.node(raw);
                out.insert(name.to_owned(), node);
            }
        }
        for name in ["allOf", "anyOf", "oneOf"] {
            if let Some(list) = map
                .get(name)
                .and_then(Value::as_array)
                .filter(|list| !list.is_empty())
            {
                let nodes = list.iter().map(|raw| self.node(raw));
                if name == "allOf" {
                    all.extend(nodes);
                } else {
                    let nodes: Vec<Value> = nodes.collect();
                    out.insert(name.to_owned(), nodes.into());
                }
            }
        }
        if !all.is_empty() {
            out.insert("allOf".to_owned(), all.into());
        }
        Value::Object(out)
    }

    fn text_checks(
        &mut self,
        map: &Map<String, Value>,
        int_or_string: bool,
        out: &mut Map<String, Value>,
        all: &mut Vec<Value>,
    ) {
        let text = |name: &str| {
            map.get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        if let Some(pattern) = text("pattern") {
            let at = self
                .0
                .iter()
                .position(|known| known == pattern)
                .unwrap_or_else(|| {
                    self.0.push(pattern.to_owned());
                    self.0.len() - 1
                });
            all.push(json!({"format": format!("pattern-{at}")}));
        }
        let of_text = matches!(text("type"), None | Some("string"));
        if let Some(format) = text("format").and_then(Format::named)
            && of_text
            && !int_or_string
        {
            out.insert(
                "format".to_owned(),
                Value::from(format!("k8s-{}", format.name)),
            );
        }
    }
}
