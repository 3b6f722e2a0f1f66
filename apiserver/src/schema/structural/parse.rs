//! Reading an openAPIV3Schema, and naming every breach of the structural rules by its path.

use serde_json::{Map, Value};

use super::{Additional, Bound, Checks, ListType, RuleSource, Schema, Type};
use crate::schema::field_error::{FieldError, Path};
use crate::schema::formats::{self, Format};

/// What a node is to its parent, which decides the wording of a missing type.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Field,
    Item,
}

/// Reads `openAPIV3Schema` and answers every breach of the structural rules.
pub(super) fn parse(raw: &Value, path: &Path<'_>) -> Result<Schema, Vec<FieldError>> {
    let mut parser = Parser {
        errors: Vec::new(),
        inside_junctor: false,
    };
    let schema = parser.root(raw, path);
    if parser.errors.is_empty() {
        Ok(schema)
    } else {
        Err(parser.errors)
    }
}

struct Parser {
    errors: Vec<FieldError>,
    inside_junctor: bool,
}

/// Keywords of OpenAPI that a structural schema may not use.
const FORBIDDEN: [&str; 9] = [
    "$ref",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "writeOnly",
];

/// Keywords that may not stand inside allOf, anyOf, oneOf and not.
const NOT_IN_JUNCTORS: [&str; 9] = [
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
];

impl Parser {
    fn root(&mut self, raw: &Value, path: &Path<'_>) -> Schema {
        match raw.get("type").and_then(Value::as_str) {
            Some("object") => {}
            Some(other) if !other.is_empty() => {
                self.errors.push(FieldError::invalid(
                    &path.field("type"),
                    other,
                    "must be object at the root",
                ));
            }
            _ => {}
        }
        if raw.get("nullable") == Some(&Value::Bool(true)) {
            self.errors.push(FieldError::forbidden(
                &path.field("nullable"),
                "nullable cannot be true at the root",
            ));
        }
        self.node(raw, path, Place::Root)
    }

    fn node(&mut self, raw: &Value, path: &Path<'_>, place: Place) -> Schema {
        let Some(map) = raw.as_object() else {
            self.errors
                .push(FieldError::invalid(path, raw.clone(), "must be an object"));
            return Schema::default();
        };
        self.forbidden_keywords(map, path);
        let mut schema = Schema {
            nullable: self.flag(map, "nullable", path),
            int_or_string: self.flag(map, "x-kubernetes-int-or-string", path),
            preserve_unknown: self.flag(map, "x-kubernetes-preserve-unknown-fields", path),
            embedded: self.flag(map, "x-kubernetes-embedded-resource", path),
            default: map.get("default").cloned(),
            ..Schema::default()
        };
        self.type_of(map, path, place, &mut schema);
        self.children(map, path, &mut schema);
        self.list_type(map, path, &mut schema);
        schema.required = self.strings(map, "required", path);
        schema.checks = self.checks(map, path, &schema);
        schema.rules = self.rules(map, path);
        schema.note_below();
        schema
    }

    fn forbidden_keywords(&mut self, map: &Map<String, Value>, path: &Path<'_>) {
        for keyword in FORBIDDEN {
            if map.contains_key(keyword) {
                self.errors.push(FieldError::forbidden(
                    &path.field(keyword),
                    format!("{keyword} is not supported"),
                ));
            }
        }
        if map.get("uniqueItems") == Some(&Value::Bool(true)) && !self.inside_junctor {
            self.errors.push(FieldError::forbidden(
                &path.field("uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ));
        }
        if self.inside_junctor {
            for keyword in NOT_IN_JUNCTORS {
                if map.contains_key(keyword) {
                    self.errors.push(FieldError::forbidden(
                        &path.field(keyword),
                        "must be empty to be structural",
                    ));
                }
            }
        }
    }

    fn type_of(
        &mut self,
        map: &Map<String, Value>,
        path: &Path<'_>,
        place: Place,
        schema: &mut Schema,
    ) {
        let name = match map.get("type") {
            None => "",
            Some(Value::String(name)) => name,
            Some(other) => {
                self.errors.push(FieldError::invalid(
                    &path.field("type"),
                    other.clone(),
                    "must be a string",
                ));
                return;
            }
        };
        if self.inside_junctor {
            return;
        }
        let at = path.field("type");
        if name.is_empty() {
            let why = match place {
                Place::Root => "must not be empty at the root",
                _ if schema.int_or_string || schema.preserve_unknown => return,
                Place::Field => "must not be empty for specified object fields",
                Place::Item => "must not be empty for specified array items",
            };
            self.errors.push(FieldError::required(&at, why));
            return;
        }
        if schema.int_or_string {
            self.errors.push(FieldError::invalid(
                &at,
                name,
                "must be empty if x-kubernetes-int-or-string is true",
            ));
        }
        match Type::parse(name) {
            Some(of) => schema.of = of,
            None => self.errors.push(FieldError::not_supported(
                &at,
                name,
                ["array", "boolean", "integer", "number", "object", "string"],
            )),
        }
        if schema.embedded && schema.of != Type::Object {
            self.errors.push(FieldError::invalid(
                &at,
                name,
                "must be object if x-kubernetes-embedded-resource is true",
            ));
        }
    }

    fn children(&mut self, map: &Map<String, Value>, path: &Path<'_>, schema: &mut Schema) {
        let at = path.field("properties");
        match map.get("properties") {
            None | Some(Value::Null) => {}
            Some(Value::Object(properties)) => {
                for (name, raw) in properties {
                    let child = self.node(raw, &at.key(name), Place::Field);
                    schema.properties.insert(name.clone(), child);
                }
            }
            Some(other) => {
                self.errors
                    .push(FieldError::invalid(&at, other.clone(), "must be an object"));
            }
        }
        let at = path.field("additionalProperties");
        match map.get("additionalProperties") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(true)) => schema.additional = Additional::Any,
            Some(Value::Bool(false)) => {
                self.errors.push(FieldError::forbidden(
                    &at,
                    "additionalProperties cannot be set to false",
                ));
            }
            Some(raw) => {
                if !schema.properties.is_empty() {
                    self.errors.push(FieldError::forbidden(
                        &at,
                        "additionalProperties and properties are mutual exclusive",
                    ));
                }
                schema.additional = Additional::Schema(Box::new(self.node(raw, &at, Place::Field)));
            }
        }
        let at = path.field("items");
        match map.get("items") {
            None | Some(Value::Null) => {
                if schema.of == Type::Array && !schema.preserve_unknown {
                    self.errors
                        .push(FieldError::required(&at, "must be specified"));
                }
            }
            Some(Value::Array(_)) => {
                self.errors.push(FieldError::forbidden(
                    &at,
                    "items must be a schema object and not an array",
                ));
            }
            Some(raw) => schema.items = Some(Box::new(self.node(raw, &at, Place::Item))),
        }
    }

    fn list_type(&mut self, map: &Map<String, Value>, path: &Path<'_>, schema: &mut Schema) {
        match map.get("x-kubernetes-map-type").and_then(Value::as_str) {
            None | Some("granular") => {}
            Some("atomic") => schema.atomic_map = true,
            Some(other) => self.errors.push(FieldError::not_supported(
                &path.field("x-kubernetes-map-type"),
                other,
                ["atomic", "granular"],
            )),
        }
        let keys = self.strings(map, "x-kubernetes-list-map-keys", path);
        let at = path.field("x-kubernetes-list-type");
        let kind = map.get("x-kubernetes-list-type").and_then(Value::as_str);
        if kind.is_some() && schema.of != Type::Array && !self.inside_junctor {
            self.errors.push(FieldError::invalid(
                &path.field("type"),
                schema.of.name(),
                "must be array if x-kubernetes-list-type is specified",
            ));
        }
        match kind {
            None | Some("atomic") => {}
            Some("set") => schema.list_type = ListType::Set,
            Some("map") => {
                let at = path.field("x-kubernetes-list-map-keys");
                if keys.is_empty() {
                    self.errors.push(FieldError::required(
                        &at,
                        "must not be empty if x-kubernetes-list-type is map",
                    ));
                }
                let item = schema.items.as_deref();
                for key in &keys {
                    let field = item.and_then(|item| item.properties.get(key));
                    let scalar = field.is_some_and(|f| !matches!(f.of, Type::Object | Type::Array));
                    let given = item.is_some_and(|item| item.required.contains(key))
                        || field.is_some_and(|field| field.default.is_some());
                    if !scalar {
                        self.errors.push(FieldError::invalid(
                            &at,
                            key.as_str(),
                            "entries must all be names of item properties of a scalar type",
                        ));
                    } else if !given {
                        self.errors.push(FieldError::required(
                            &path.field("items").field("properties").key(key).field("default"),
                            "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                        ));
                    }
                }
                schema.list_type = ListType::Map(keys);
            }
            Some(other) => {
                self.errors.push(FieldError::not_supported(
                    &at,
                    other,
                    ["atomic", "set", "map"],
                ));
            }
        }
    }

    fn checks(&mut self, map: &Map<String, Value>, path: &Path<'_>, schema: &Schema) -> Checks {
        let mut checks = Checks {
            allowed: map.get("enum").and_then(Value::as_array).cloned(),
            minimum: self.bound(map, "minimum", "exclusiveMinimum", path),
            maximum: self.bound(map, "maximum", "exclusiveMaximum", path),
            multiple_of: self.number(map, "multipleOf", path),
            min_length: self.count(map, "minLength", path),
            max_length: self.count(map, "maxLength", path),
            min_items: self.count(map, "minItems", path),
            max_items: self.count(map, "maxItems", path),
            min_properties: self.count(map, "minProperties", path),
            max_properties: self.count(map, "maxProperties", path),
            unique_items: map.get("uniqueItems") == Some(&Value::Bool(true)),
            ..Checks::default()
        };
        if checks.multiple_of.is_some_and(|n| n <= 0.0) {
            self.errors.push(FieldError::invalid(
                &path.field("multipleOf"),
                map.get("multipleOf").cloned().unwrap_or_default(),
                "must be greater than 0",
            ));
        }
        if let Some(text) = map
            .get("pattern")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
        {
            match formats::compile_pattern(text) {
                Ok(pattern) => checks.pattern = Some(pattern),
                Err(why) => self.errors.push(FieldError::invalid(
                    &path.field("pattern"),
                    text,
                    format!("must be a valid regular expression, but isn't: {why}"),
                )),
            }
        }
        if !schema.int_or_string && matches!(schema.of, Type::String | Type::Any) {
            checks.format = map
                .get("format")
                .and_then(Value::as_str)
                .and_then(Format::named);
        }
        let outer = std::mem::replace(&mut self.inside_junctor, true);
        // The one junctor in which types may stand is the usual spelling of int-or-string.
        let spelled_out = schema.int_or_string && !outer;
        checks.all_of = self.junctor(map, "allOf", path, spelled_out);
        checks.any_of = self.junctor(map, "anyOf", path, spelled_out);
        checks.one_of = self.junctor(map, "oneOf", path, false);
        if let Some(raw) = map.get("not").filter(|raw| !raw.is_null()) {
            checks.not = Some(Box::new(self.node(raw, &path.field("not"), Place::Field)));
        }
        self.inside_junctor = outer;
        checks
    }

    fn junctor(
        &mut self,
        map: &Map<String, Value>,
        name: &str,
        path: &Path<'_>,
        spelled_out: bool,
    ) -> Vec<Schema> {
        let Some(list) = map.get(name).and_then(Value::as_array) else {
            return Vec::new();
        };
        if spelled_out && is_int_or_string(list) {
            return Vec::new();
        }
        let at = path.field(name);
        let mut schemas = Vec::with_capacity(list.len());
        for (i, raw) in list.iter().enumerate() {
            let inner = raw.get("anyOf").and_then(Value::as_array);
            if spelled_out && inner.is_some_and(|list| is_int_or_string(list)) {
                continue;
            }
            schemas.push(self.node(raw, &at.index(i), Place::Field));
        }
        schemas
    }

    fn rules(&mut self, map: &Map<String, Value>, path: &Path<'_>) -> Vec<RuleSource> {
        let at = path.field("x-kubernetes-validations");
        let Some(list) = map
            .get("x-kubernetes-validations")
            .and_then(Value::as_array)
        else {
            return Vec::new();
        };
        if self.inside_junctor {
            self.errors
                .push(FieldError::forbidden(&at, "must be empty to be structural"));
        }
        let text = |raw: &Value, key: &str| raw.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut rules = Vec::with_capacity(list.len());
        for (i, raw) in list.iter().enumerate() {
            let rule = text(raw, "rule").unwrap_or_default();
            if rule.trim().is_empty() {
                self.errors.push(FieldError::required(
                    &at.index(i).field("rule"),
                    "rule is not specified",
                ));
            }
            rules.push(RuleSource {
                rule,
                message: text(raw, "message").filter(|text| !text.is_empty()),
                message_expression: text(raw, "messageExpression").filter(|text| !text.is_empty()),
                reason: text(raw, "reason"),
                field_path: text(raw, "fieldPath").filter(|text| !text.is_empty()),
                optional_old_self: raw.get("optionalOldSelf") == Some(&Value::Bool(true)),
            });
        }
        rules
    }

    fn flag(&mut self, map: &Map<String, Value>, name: &str, path: &Path<'_>) -> bool {
        match map.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(set)) => *set,
            Some(other) => {
                self.errors.push(FieldError::invalid(
                    &path.field(name),
                    other.clone(),
                    "must be a boolean",
                ));
                false
            }
        }
    }

    fn strings(&mut self, map: &Map<String, Value>, name: &str, path: &Path<'_>) -> Vec<String> {
        let list = match map.get(name) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.errors.push(FieldError::invalid(
                    &path.field(name),
                    other.clone(),
                    "must be a list of strings",
                ));
                return Vec::new();
            }
        };
        list.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    fn count(&mut self, map: &Map<String, Value>, name: &str, path: &Path<'_>) -> Option<u64> {
        let value = map.get(name).filter(|value| !value.is_null())?;
        let count = value.as_u64();
        if count.is_none() {
            let why = "must be a whole number greater than or equal to 0";
            self.errors
                .push(FieldError::invalid(&path.field(name), value.clone(), why));
        }
        count
    }

    fn number(&mut self, map: &Map<String, Value>, name: &str, path: &Path<'_>) -> Option<f64> {
        let value = map.get(name).filter(|value| !value.is_null())?;
        let number = value.as_f64();
        if number.is_none() {
            self.errors.push(FieldError::invalid(
                &path.field(name),
                value.clone(),
                "must be a number",
            ));
        }
        number
    }

    fn bound(
        &mut self,
        map: &Map<String, Value>,
        name: &str,
        exclusive: &str,
        path: &Path<'_>,
    ) -> Option<Bound> {
        let exclusive = self.flag(map, exclusive, path);
        self.number(map, name, path)
            .map(|limit| Bound { limit, exclusive })
    }
}

fn is_int_or_string(list: &[Value]) -> bool {
    let types: Vec<&str> = list
        .iter()
        .filter(|raw| raw.as_object().is_some_and(|map| map.len() == 1))
        .filter_map(|raw| raw.get("type").and_then(Value::as_str))
        .collect();
    types == ["integer", "string"] && list.len() == 2
}
