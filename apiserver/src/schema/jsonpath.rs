//! kubectl's JSONPath dialect, as printer columns and selectable fields use it.
//!
//! Understood: `.a.b`, `.a\.b`, `['a.b']`, `[0]`, `[-1]`, `[*]`, `.*`, and filters such as
//! `[?(@.type=="Ready")]` with `==`, `!=`, `<`, `<=`, `>`, `>=` or a bare path; braces around the whole are optional.

use serde_json::Value;

/// Why a path could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is an invalid JSON path: {why} at position {at}")]
pub struct JsonPathError {
    why: &'static str,
    at: usize,
}

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter(Filter),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    path: JsonPath,
    test: Option<(Comparison, Value)>,
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

/// The longest path, in bytes. Chosen.
const PATH_MAX: usize = 4096;

impl JsonPath {
    /// Reads `.a.b` or `{.a.b}`.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        if text.len() > PATH_MAX {
            return Err(JsonPathError {
                why: "path too long",
                at: PATH_MAX,
            });
        }
        let inner = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(text);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        let mut reader = Reader { text: inner, at: 0 };
        let path = reader.path(false)?;
        if reader.at < inner.len() {
            return Err(reader.error("unexpected character"));
        }
        Ok(path)
    }

    /// Every value the path leads to, in order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.steps {
            let mut next = Vec::with_capacity(found.len());
            for value in found {
                step.take(value, &mut next);
            }
            found = next;
        }
        found
    }

    /// The first value the path leads to.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        let mut at = value;
        for (done, step) in self.steps.iter().enumerate() {
            let Step::Field(name) = step else {
                let rest = Self {
                    steps: self.steps[done..].to_vec(),
                };
                return rest.find(at).first().copied();
            };
            at = at.get(name)?;
        }
        Some(at)
    }

    /// The field names, if the path is made of nothing else.
    pub fn names(&self) -> Option<Vec<&str>> {
        let names = self.steps.iter().map(|step| {
            if let Step::Field(name) = step {
                Some(name.as_str())
            } else {
                None
            }
        });
        names.collect()
    }
}

impl Step {
    fn take<'v>(&self, value: &'v Value, found: &mut Vec<&'v Value>) {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => found.extend(map.get(name)),
            (Self::Index(at), Value::Array(list)) => {
                let len = i64::try_from(list.len()).unwrap_or(i64::MAX);
                let at = if *at < 0 { at + len } else { *at };
                found.extend(usize::try_from(at).ok().and_then(|at| list.get(at)));
            }
            (Self::All, Value::Array(list)) => found.extend(list),
            (Self::All, Value::Object(map)) => found.extend(map.values()),
            (Self::Filter(filter), Value::Array(list)) => {
                found.extend(list.iter().filter(|item| filter.holds(item)));
            }
            _ => {}
        }
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let found = self.path.first(item);
        let Some((comparison, wanted)) = &self.test else {
            return found.is_some();
        };
        let Some(found) = found else { return false };
        let order = match (found, wanted) {
            (Value::Number(a), Value::Number(b)) => a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
        };
        match comparison {
            Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn error(&self, why: &'static str) -> JsonPathError {
        JsonPathError { why, at: self.at }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn accept(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    fn spaces(&mut self) {
        while self.accept(" ") {}
    }

    fn path(&mut self, in_filter: bool) -> Result<JsonPath, JsonPathError> {
        let mut steps = Vec::new();
        loop {
            if self.accept("[") {
                steps.push(self.bracket()?);
            } else if self.accept(".") {
                if self.rest().starts_with('[') {
                    continue;
                }
                if self.accept("*") {
                    steps.push(Step::All);
                } else if let Some(name) = self.name() {
                    steps.push(Step::Field(name));
                } else if steps.is_empty() && self.rest().is_empty() {
                    return Ok(JsonPath { steps });
                } else {
                    return Err(self.error("a name was expected"));
                }
            } else if self.rest().is_empty() || in_filter {
                return Ok(JsonPath { steps });
            } else if steps.is_empty() {
                let name = self
                    .name()
                    .ok_or_else(|| self.error("a name was expected"))?;
                steps.push(Step::Field(name));
            } else {
                return Ok(JsonPath { steps });
            }
        }
    }

    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut escaped = false;
        let mut end = self.text.len();
        for (offset, c) in self.rest().char_indices() {
            if escaped {
                name.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if matches!(
                c,
                '.' | '['
                    | ']'
                    | ' '
                    | '='
                    | '!'
                    | '<'
                    | '>'
                    | ')'
                    | '('
                    | '{'
                    | '}'
                    | '*'
                    | '@'
                    | '?'
                    | '\''
                    | '"'
                    | ','
            ) {
                end = self.at + offset;
                break;
            } else {
                name.push(c);
            }
        }
        if name.is_empty() || escaped {
            return None;
        }
        self.at = end;
        Some(name)
    }

    fn quoted(&mut self) -> Result<Option<String>, JsonPathError> {
        let Some(quote) = self
            .rest()
            .chars()
            .next()
            .filter(|c| matches!(c, '\'' | '"'))
        else {
            return Ok(None);
        };
        let mut text = String::new();
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            if escaped {
                text.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == quote {
                self.at += offset + 1;
                return Ok(Some(text));
            } else {
                text.push(c);
            }
        }
        Err(self.error("unterminated quoted string"))
    }

    fn bracket(&mut self) -> Result<Step, JsonPathError> {
        self.spaces();
        let step = if self.accept("*") {
            Step::All
        } else if self.accept("?(") {
            Step::Filter(self.filter()?)
        } else if let Some(name) = self.quoted()? {
            Step::Field(name)
        } else {
            let digits = self
                .rest()
                .bytes()
                .take_while(|b| b.is_ascii_digit() || *b == b'-')
                .count();
            let index = self.rest()[..digits]
                .parse()
                .map_err(|_| self.error("an index, a quoted name or a filter was expected"))?;
            self.at += digits;
            Step::Index(index)
        };
        self.spaces();
        if self.accept("]") {
            Ok(step)
        } else {
            Err(self.error("unterminated array"))
        }
    }

    fn filter(&mut self) -> Result<Filter, JsonPathError> {
        self.spaces();
        if !self.accept("@") {
            return Err(self.error("a filter must start with @"));
        }
        let path = self.path(true)?;
        self.spaces();
        let comparison = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ]
        .into_iter()
        .find(|(token, _)| self.accept(token));
        let test = match comparison {
            None => None,
            Some((_, comparison)) => {
                self.spaces();
                Some((comparison, self.literal()?))
            }
        };
        self.spaces();
        if self.accept(")") {
            Ok(Filter { path, test })
        } else {
            Err(self.error("unterminated filter"))
        }
    }

    fn literal(&mut self) -> Result<Value, JsonPathError> {
        if let Some(text) = self.quoted()? {
            return Ok(Value::String(text));
        }
        let end = self.rest().find([')', ' ']).unwrap_or(self.rest().len());
        let word = &self.rest()[..end];
        let value = serde_json::from_str(word).map_err(|_| self.error("a value was expected"))?;
        self.at += end;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let value = json!({"metadata": {"name": "a", "annotations": {"x.y/z": "v", "a'b": "q"}},
            "status": {"conditions": [{"type": "Ready", "status": "True", "n": 3}, {"type": "Live", "status": "False"}]}, "l": [1, 2, 3]});
        for (path, wanted) in [
            (".metadata.name", json!(["a"])),
            ("metadata.name", json!(["a"])),
            ("{.metadata.name}", json!(["a"])),
            ("$.metadata.name", json!(["a"])),
            (".metadata.annotations['x.y/z']", json!(["v"])),
            (".metadata.annotations[\"a'b\"]", json!(["q"])),
            (r".metadata.annotations.x\.y/z", json!(["v"])),
            (".l[0]", json!([1])),
            (".l[-1]", json!([3])),
            (".l[9]", json!([])),
            (".l[*]", json!([1, 2, 3])),
            (".status.conditions[*].type", json!(["Ready", "Live"])),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type=='Ready')].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?( @.type != \"Ready\" )].type",
                json!(["Live"]),
            ),
            (".status.conditions[?(@.n>2)].type", json!(["Ready"])),
            (".status.conditions[?(@.n<=2)].type", json!([])),
            (".status.conditions[?(@.n)].type", json!(["Ready"])),
            (".missing.deeper", json!([])),
            (".metadata.*", json!(["a", {"a'b": "q", "x.y/z": "v"}])),
        ] {
            let parsed = JsonPath::parse(path).unwrap_or_else(|why| panic!("{path}: {why}"));
            let mut found: Vec<Value> = parsed.find(&value).into_iter().cloned().collect();
            if path.ends_with(".*") {
                found.sort_by_key(Value::is_object);
            }
            assert_eq!(json!(found), wanted, "{path}");
            assert_eq!(parsed.first(&value).is_some(), !found.is_empty(), "{path}");
        }
    }

    #[test]
    fn malformed_paths_are_refused() {
        for path in [
            ".a[",
            ".a[x]",
            ".a[?(@.b==)]",
            ".a[?(@.b==\"c\"]",
            ".a..",
            ".a['b]",
            "a b",
            ".a[?(b)]",
            ".a\\",
            "{.a",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_simple_path_tells_its_names() {
        assert_eq!(
            JsonPath::parse(".status.phase").unwrap().names(),
            Some(vec!["status", "phase"])
        );
        assert_eq!(JsonPath::parse(".a[0]").unwrap().names(), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_but_never_panics(text in "[.\\[\\]a?(@=)'\"*0\\\\é -]{0,30}") {
            if let Ok(path) = JsonPath::parse(&text) {
                let _ = path.find(&json!({"a": [{"a": 0}]}));
            }
        }
    }
}
