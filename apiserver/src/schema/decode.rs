//! Strict decoding of request bodies: JSON and YAML to one value, with every duplicate key found.
//!
//! # Limits
//! Nesting is at most [`MAX_DEPTH`] levels. What a YAML document expands to is bounded by its own
//! length, so an alias bomb is refused while it is being read, before anything large exists. The
//! number of findings is bounded by [`MAX_FINDINGS`]. The length of the body is the caller's to check.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::field_error::Path;

/// The deepest nesting of objects and lists that is accepted.
pub const MAX_DEPTH: usize = 100;
/// How many duplicate or unknown fields are reported for one body.
pub const MAX_FINDINGS: usize = 100;

/// What a body was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`; JSON is accepted too.
    Yaml,
}

/// A body that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The value; of duplicate keys the last one counts.
    pub value: Value,
    /// The paths of keys that appear twice in one object.
    pub duplicates: Vec<String>,
}

/// A body that could not be read; answered as 400 BadRequest with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON, or is nested too deeply.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Json(String),
    /// It is not YAML, is nested too deeply, or expands too far.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(String),
}

/// Reads a body.
pub fn decode(bytes: &[u8], format: Format) -> Result<Decoded, DecodeError> {
    match format {
        Format::Json => decode_json(bytes),
        Format::Yaml => super::yaml::decode(bytes),
    }
}

fn decode_json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let budget = Budget::unlimited();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node::root(&budget)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|why| DecodeError::Json(why.to_string()))?;
    Ok(Decoded {
        value,
        duplicates: budget.duplicates.into_inner(),
    })
}

/// What one document may still grow to, and what was found in it.
pub(super) struct Budget {
    left: Cell<usize>,
    pub(super) duplicates: RefCell<Vec<String>>,
}

impl Budget {
    fn unlimited() -> Self {
        Self::of(usize::MAX)
    }

    /// A budget of this many nodes and bytes of text together.
    pub(super) fn of(left: usize) -> Self {
        Self {
            left: Cell::new(left),
            duplicates: RefCell::default(),
        }
    }

    fn spend<E: de::Error>(&self, cost: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(cost);
        self.left
            .set(left.ok_or_else(|| E::custom("document contains excessive aliasing"))?);
        Ok(())
    }
}

/// Reads one value of any type.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    budget: &'a Budget,
    path: &'a Path<'a>,
    depth: usize,
}

impl<'a> Node<'a> {
    pub(super) fn root(budget: &'a Budget) -> Self {
        Self {
            budget,
            path: &Path::Root,
            depth: 0,
        }
    }

    fn below(&self, path: &'a Path<'a>) -> Self {
        Self {
            path,
            depth: self.depth + 1,
            ..*self
        }
    }

    fn enter<E: de::Error>(&self) -> Result<(), E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!(
                "exceeded the maximum nesting depth of {MAX_DEPTH}"
            )));
        }
        self.budget.spend(1)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.budget.spend(1)?;
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.budget.spend(1 + value.len())?;
        Ok(Value::from(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        self.budget.spend(1 + value.len())?;
        Ok(Value::String(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut list = Vec::new();
        loop {
            let path = self.path.index(list.len());
            match items.next_element_seed(self.below(&path))? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.budget.spend(1 + key.len())?;
            let value = {
                let path = self.path.field(&key);
                let value = entries.next_value_seed(self.below(&path))?;
                if map.contains_key(&key) {
                    let mut duplicates = self.budget.duplicates.borrow_mut();
                    if duplicates.len() < MAX_FINDINGS {
                        let name = path.to_string();
                        if !duplicates.contains(&name) {
                            duplicates.push(name);
                        }
                    }
                }
                value
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicate_keys_are_found_with_their_paths_and_the_last_one_counts() {
        let body = br#"{"a":1,"spec":{"x":1,"x":2,"list":[{"y":1,"y":2}]},"a":3}"#;
        let decoded = decode(body, Format::Json).unwrap();
        assert_eq!(
            decoded.value,
            json!({"a": 3, "spec": {"x": 2, "list": [{"y": 2}]}})
        );
        assert_eq!(decoded.duplicates, ["spec.x", "spec.list[0].y", "a"]);
    }

    #[test]
    fn malformed_json_is_refused_with_a_reason() {
        for body in [
            &b""[..],
            b"{",
            b"{}x",
            b"{\"a\":}",
            b"\xff\xfe",
            b"{\"a\":\"\xff\"}",
            b"nul",
            b"1e999",
            b"[1,]",
        ] {
            let why = decode(body, Format::Json).unwrap_err().to_string();
            assert!(
                why.starts_with("couldn't get version/kind; json parse error: "),
                "{why}"
            );
        }
    }

    #[test]
    fn nesting_is_accepted_up_to_the_limit_and_refused_beyond() {
        let nested = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(decode(&nested(MAX_DEPTH), Format::Json).is_ok());
        for depth in [MAX_DEPTH + 1, 1_000, 1_000_000] {
            let why = decode(&nested(depth), Format::Json)
                .unwrap_err()
                .to_string();
            assert!(why.contains("maximum nesting depth of 100"), "{why}");
            let why = decode(&br#"{"a":"#.repeat(depth), Format::Json)
                .unwrap_err()
                .to_string();
            assert!(why.contains("maximum nesting depth of 100"), "{why}");
        }
    }

    #[test]
    fn numbers_keep_their_kind() {
        let decoded = decode(br"[1, -1, 18446744073709551615, 1.0, 1.5]", Format::Json).unwrap();
        assert_eq!(
            decoded.value.to_string(),
            "[1,-1,18446744073709551615,1.0,1.5]"
        );
    }

    #[test]
    fn a_large_body_is_read_without_trouble() {
        let body = format!("{{\"data\":\"{}\"}}", "x".repeat(10 << 20));
        assert!(decode(body.as_bytes(), Format::Json).is_ok());
        let many = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(100_000));
        assert_eq!(
            decode(many.as_bytes(), Format::Json).unwrap().duplicates,
            ["a"]
        );
    }

    proptest::proptest! {
        #[test]
        fn it_reads_what_serde_json_reads(text in "[\\[\\]{}\":,a1 .e-]{0,24}") {
            let ours = decode(text.as_bytes(), Format::Json).ok().map(|d| d.value);
            let theirs = serde_json::from_str::<Value>(&text).ok();
            proptest::prop_assert_eq!(ours, theirs);
        }
    }
}
