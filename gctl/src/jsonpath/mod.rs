//! The jsonpath dialect of kubectl: `{.a.b[0]['x.y']}`, `[*]`, `..name`, filters, `{range}{end}` and quoted text.
//!
//! A field that does not exist gives nothing, as in `kubectl get`.

mod parse;
mod walk;

use serde_json::Value;

use crate::error::Error;

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// `$`: back to the whole object.
    Root,
    /// `.name`, `['name']`.
    Fields(Vec<String>),
    /// `[0]`, `[-1]`, `[0,2]`.
    Indices(Vec<i64>),
    /// `[1:3]`, `[::2]`.
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: i64,
    },
    /// `.*`, `[*]`.
    Every,
    /// `..name`: every field of that name at any depth.
    Anywhere(String),
    /// `[?(@.a=="b")]`.
    Filter(Filter),
}

/// A condition on the elements of a list.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    test: Option<(Comparison, Operand)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// One piece of a template.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Piece>),
}

/// A template: text with paths in braces.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads a template such as `{range .items[*]}{.metadata.name}{"\n"}{end}`.
    ///
    /// # Errors
    /// Says what is malformed, and where.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::template(text)
            .map(|pieces| Template { pieces })
            .map_err(|reason| Error::Jsonpath {
                expression: text.to_owned(),
                reason,
            })
    }

    /// Reads one path, with or without braces: `{.status.phase}`, `.status.phase` or `status.phase`.
    ///
    /// # Errors
    /// Says what is malformed, and where.
    pub fn parse_path(text: &str) -> Result<Self, Error> {
        let inner = text.trim();
        let inner = inner
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(inner);
        let dotted = if inner.starts_with(['.', '[', '$', '@']) {
            inner.to_owned()
        } else {
            format!(".{inner}")
        };
        Template::parse(&format!("{{{dotted}}}"))
    }

    /// The template filled in from an object.
    pub fn render(&self, object: &Value) -> String {
        let mut text = String::new();
        render_pieces(&self.pieces, object, object, &mut text);
        text
    }

    /// What the template's paths find, in order; text and loops are skipped.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Path(steps) => Some(walk::follow(steps, object, object)),
                Piece::Text(_) | Piece::Range(..) => None,
            })
            .flatten()
            .collect()
    }
}

/// A found value as text: strings without quotes, lists and objects as JSON, null as nothing.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn render_pieces(pieces: &[Piece], root: &Value, here: &Value, text: &mut String) {
    for piece in pieces {
        match piece {
            Piece::Text(literal) => text.push_str(literal),
            Piece::Path(steps) => {
                let found: Vec<_> = walk::follow(steps, root, here)
                    .into_iter()
                    .map(text_of)
                    .collect();
                text.push_str(&found.join(" "));
            }
            Piece::Range(steps, body) => {
                for element in walk::follow(steps, root, here) {
                    render_pieces(body, root, element, text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "status": {"phase": "Running", "attempt": 2}},
                {"metadata": {"name": "b"}, "status": {"phase": "Failed", "attempt": 1, "conditions": [
                    {"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}},
            ],
            "it's": {"deep": [1, 2, 3, 4]}
        })
    }

    #[test]
    fn templates_give_what_kubectl_gives() {
        for (template, expected) in [
            ("{.kind}", "List"),
            ("{kind}", "List"),
            ("{$.kind}", "List"),
            ("{.nothing.here}", ""),
            ("kind is {.kind}!", "kind is List!"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.labels['x.y/z']}", "1"),
            ("{.items[0].metadata.labels.x\\.y/z}", "1"),
            ("{.items[-1].metadata.name}", "b"),
            (
                "{.items[0]['metadata','status']['name','phase']}",
                "a Running",
            ),
            ("{['it\\'s'].deep[1:3]}", "2 3"),
            ("{['it\\'s'].deep[::2]}", "1 3"),
            ("{['it\\'s'].deep[0,3]}", "1 4"),
            ("{['it\\'s'].deep}", "[1,2,3,4]"),
            ("{..name}", "a b"),
            ("{.items[?(@.status.phase==\"Failed\")].metadata.name}", "b"),
            ("{.items[?(@.status.phase!='Failed')].metadata.name}", "a"),
            ("{.items[?(@.status.attempt>1)].metadata.name}", "a"),
            ("{.items[?(@.status.attempt <= 2)].metadata.name}", "a b"),
            ("{.items[?(@.status.conditions)].metadata.name}", "b"),
            (
                "{.items[1].status.conditions[?(@.type=='Ready')].status}",
                "True",
            ),
            (
                "{range .items[*]}{.metadata.name}{\"\\t\"}{.status.phase}{\"\\n\"}{end}",
                "a\tRunning\nb\tFailed\n",
            ),
            (
                "{range .items[*]}{@.metadata.name}={$.kind};{end}",
                "a=List;b=List;",
            ),
            ("{.items[*].status.attempt}", "2 1"),
        ] {
            let rendered = Template::parse(template).unwrap().render(&sample());
            assert_eq!(rendered, expected, "{template}");
        }
    }

    #[test]
    fn malformed_templates_are_refused_with_the_place() {
        let errors: Vec<_> = [
            "{.a",
            "{.a[}",
            "{range .items[*]}{.x}",
            "{end}",
            "{.a[?(@.b==)]}",
            "{\"open}",
            "{.a[1:2:0]}",
        ]
        .into_iter()
        .map(|text| Template::parse(text).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(errors.join("\n"), @r#"
        invalid jsonpath `{.a`: `}` expected at the end
        invalid jsonpath `{.a[}`: an index, a quoted name, `*` or `?(` expected at character 5, found `}`
        invalid jsonpath `{range .items[*]}{.x}`: `{range}` without `{end}`
        invalid jsonpath `{end}`: `{end}` without `{range}` before character 5
        invalid jsonpath `{.a[?(@.b==)]}`: a path, a number, true, false or a quoted text expected at character 12, found `)`
        invalid jsonpath `{"open}`: text without closing quote from character 2
        invalid jsonpath `{.a[1:2:0]}`: the step of a slice is at least 1
        "#);
    }

    #[test]
    fn a_single_path_needs_no_braces() {
        for text in ["{.kind}", ".kind", "kind"] {
            let path = Template::parse_path(text).unwrap();
            assert_eq!(path.find(&sample()), [&json!("List")]);
        }
    }
}
