//! Objects as YAML, JSON, names or what a jsonpath finds in them.

use apiserver::schema::jsonpath::Template;
use apiserver::schema::yaml::to_yaml;
use serde_json::{Value, json};

use crate::error::Error;

/// How objects are written.
#[derive(Clone, Debug)]
pub enum Format {
    /// The server's table.
    Table {
        /// Every column, not only those of priority 0.
        wide: bool,
    },
    /// YAML.
    Yaml,
    /// JSON, indented.
    Json,
    /// `job.gctl.dev/name`, a line each.
    Name,
    /// What the template finds.
    Jsonpath(Template),
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "" => Ok(Format::Table { wide: false }),
            "wide" => Ok(Format::Table { wide: true }),
            "yaml" => Ok(Format::Yaml),
            "json" => Ok(Format::Json),
            "name" => Ok(Format::Name),
            _ => match text.split_once('=') {
                Some(("jsonpath", template)) => Template::parse(template)
                    .map(Format::Jsonpath)
                    .map_err(|error| Error::jsonpath(template, error)),
                _ => Err(Error::Usage(format!(
                    "unknown output format `{text}`: use wide, yaml, json, name or jsonpath=TEMPLATE"
                ))),
            },
        }
    }
}

/// The object without the bookkeeping of field ownership, which is long and for machines.
#[must_use]
pub fn presentable(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// A `List` of objects, as kubectl prints several.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// YAML of one object.
pub fn yaml(object: &Value) -> String {
    to_yaml(object)
}

/// Indented JSON of one object, with a newline at the end.
pub fn json(object: &Value) -> String {
    format!("{object:#}\n")
}

/// An object in one of the machine-readable formats. Tables and names need more than the object and give nothing here.
pub fn render(object: &Value, format: &Format) -> String {
    match format {
        Format::Yaml => yaml(object),
        Format::Json => json(object),
        Format::Jsonpath(template) => template.render(object),
        Format::Table { .. } | Format::Name => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised_and_others_are_refused_with_the_choices() {
        assert!(matches!(
            "wide".parse::<Format>(),
            Ok(Format::Table { wide: true })
        ));
        assert!(matches!(
            "jsonpath={.a}".parse::<Format>(),
            Ok(Format::Jsonpath(_))
        ));
        let error = "xml".parse::<Format>().unwrap_err();
        insta::assert_snapshot!(error, @"unknown output format `xml`: use wide, yaml, json, name or jsonpath=TEMPLATE");
    }

    #[test]
    fn field_ownership_is_not_shown() {
        let object = json!({"metadata": {"name": "x", "managedFields": [{}]}});
        insta::assert_snapshot!(yaml(&presentable(object)), @r"
        metadata:
          name: x
        ");
    }
}
