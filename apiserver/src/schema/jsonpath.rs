//! kubectl's JSONPath dialect: paths, as printer columns, selectable fields and conditions use them, and templates, as
//! `-o jsonpath=` does.
//!
//! Understood: `.a.b`, `.a\.b`, `['a.b']`, `['a','b']`, `[0]`, `[-1]`, `[0,2]`, `[1:3]`, `[::2]`, `[*]`, `.*`, `..name`, `$`, `@`,
//! and filters such as `[?(@.type=="Ready")]` with `==`, `!=`, `<`, `<=`, `>`, `>=` or a bare path; in templates also text,
//! quoted text and `{range}{end}`. A field that does not exist gives nothing, as in `kubectl get`.

mod parse;
mod walk;

use serde_json::Value;

/// The longest path or template, in bytes. Chosen.
const LENGTH_MAX: usize = 4096;

/// Why a path or a template could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is an invalid JSON path: {reason}")]
pub struct JsonPathError {
    /// What is wrong, and at which character, counted from 1.
    pub reason: String,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// `$`: back to the whole object.
    Root,
    /// `.name`, `['name']`, `['name','other']`.
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

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

impl JsonPath {
    /// Reads one path, with or without braces and the first dot: `{.status.phase}`, `.status.phase` or `status.phase`.
    ///
    /// # Errors
    /// Says what is malformed, and where.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let inner = text.trim();
        let inner = inner
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(inner);
        check_length(inner)?;
        let mut steps = parse::path(inner).map_err(|reason| JsonPathError { reason })?;
        // What is found from the root is the same without saying so, and shorter to walk.
        if steps.first() == Some(&Step::Root) {
            steps.remove(0);
        }
        Ok(Self { steps })
    }

    /// Every value the path leads to, in order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        walk::follow(&self.steps, value, value)
    }

    /// The first value the path leads to.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        let mut at = value;
        for (done, step) in self.steps.iter().enumerate() {
            match step {
                Step::Fields(names) if names.len() == 1 => at = at.get(&names[0])?,
                _ => {
                    return walk::follow(&self.steps[done..], value, at)
                        .first()
                        .copied();
                }
            }
        }
        Some(at)
    }

    /// The field names, if the path is made of nothing else.
    pub fn names(&self) -> Option<Vec<&str>> {
        let names = self.steps.iter().map(|step| match step {
            Step::Fields(names) if names.len() == 1 => Some(names[0].as_str()),
            _ => None,
        });
        names.collect()
    }
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
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        check_length(text)?;
        parse::template(text)
            .map(|pieces| Template { pieces })
            .map_err(|reason| JsonPathError { reason })
    }

    /// The template filled in from an object.
    pub fn render(&self, object: &Value) -> String {
        let mut text = String::new();
        render_pieces(&self.pieces, object, object, &mut text);
        text
    }
}

fn check_length(text: &str) -> Result<(), JsonPathError> {
    if text.len() > LENGTH_MAX {
        return Err(JsonPathError {
            reason: format!("longer than {LENGTH_MAX} bytes"),
        });
    }
    Ok(())
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
mod tests;
