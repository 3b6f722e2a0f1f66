//! From an object in memory to the bytes that are stored and sent, and what is extracted for indexes on the way.
//!
//! # Guarantees
//! The bytes are compact JSON that starts with `apiVersion` and `kind`; `metadata.resourceVersion` is ten digits wide and
//! its place is known, so that the committer writes the revision without encoding again.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::kinds::SelectableField;
use crate::store::{Encoded, IndexEntry, REVISION_PLACEHOLDER, Texts};

/// Objects of common size are written without growing the buffer. Measured: a Job with status is about 2 KiB.
const USUAL_BYTES: usize = 2_048;

/// Encodes an object; `metadata` is made an object when it is none.
pub(super) fn encode(object: &Map<String, Value>, selectable: &[SelectableField]) -> Encoded {
    let mut out = Vec::with_capacity(USUAL_BYTES);
    let rv_offset = write_object(&mut out, object).expect("writing JSON to memory cannot fail");
    Encoded {
        bytes: Bytes::from(out),
        rv_offset,
        index: Arc::new(index_of(object, selectable)),
    }
}

/// Compact JSON of an object in the usual order of keys, with the revision that it has, if any.
pub(super) fn plain(object: &Map<String, Value>) -> Bytes {
    let mut encoded = Vec::with_capacity(USUAL_BYTES);
    let revision = object
        .get("metadata")
        .and_then(|m| m.get("resourceVersion"))
        .and_then(Value::as_str);
    let offset = write_object(&mut encoded, object).expect("writing JSON to memory cannot fail");
    let end = offset + REVISION_PLACEHOLDER.len();
    if let Some(revision) = revision {
        drop(encoded.splice(offset..end, revision.bytes()));
    } else {
        // Without a revision the key goes too, with the comma behind it if there is one.
        let start = offset - RV_KEY.len();
        let comma = usize::from(encoded.get(end + 1) == Some(&b','));
        drop(encoded.drain(start..=end + comma));
    }
    Bytes::from(encoded)
}

const RV_KEY: &[u8] = b"\"resourceVersion\":\"";

fn write_object(out: &mut Vec<u8>, object: &Map<String, Value>) -> io::Result<usize> {
    let text = |key: &str| {
        object
            .get(key)
            .cloned()
            .unwrap_or_else(|| Value::String(String::new()))
    };
    out.write_all(b"{\"apiVersion\":")?;
    serde_json::to_writer(&mut *out, &text("apiVersion"))?;
    out.write_all(b",\"kind\":")?;
    serde_json::to_writer(&mut *out, &text("kind"))?;
    out.write_all(b",\"metadata\":{")?;
    out.write_all(RV_KEY)?;
    let rv_offset = out.len();
    out.write_all(REVISION_PLACEHOLDER.as_bytes())?;
    out.write_all(b"\"")?;
    if let Some(Value::Object(metadata)) = object.get("metadata") {
        for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
            write_entry(out, key, value)?;
        }
    }
    out.write_all(b"}")?;
    let rest = object
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata"));
    for (key, value) in rest {
        write_entry(out, key, value)?;
    }
    out.write_all(b"}")?;
    Ok(rv_offset)
}

fn write_entry(out: &mut Vec<u8>, key: &str, value: &Value) -> io::Result<()> {
    out.write_all(b",")?;
    serde_json::to_writer(&mut *out, key)?;
    out.write_all(b":")?;
    serde_json::to_writer(out, value)?;
    Ok(())
}

/// What selectors and the collector need to know of an object.
pub(super) fn index_of(object: &Map<String, Value>, selectable: &[SelectableField]) -> IndexEntry {
    let metadata = object.get("metadata").and_then(Value::as_object);
    let get = |key: &str| metadata.and_then(|m| m.get(key));
    let labels = get("labels")
        .and_then(Value::as_object)
        .map_or_else(Texts::default, |labels| {
            labels
                .iter()
                .filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into())))
                .collect()
        });
    let owners = get("ownerReferences")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |owners| {
            owners
                .iter()
                .filter_map(|o| o.get("uid")?.as_str().map(Arc::from))
                .collect()
        });
    let fields = selectable
        .iter()
        .filter_map(|field| {
            Some((
                Arc::clone(&field.label),
                field_text(object, &field.path)?.into(),
            ))
        })
        .collect();
    let uid = get("uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .into();
    IndexEntry {
        labels,
        fields,
        uid,
        owners,
    }
}

/// The text of a scalar field; `None` for absent ones, which selectors treat as empty.
fn field_text(object: &Map<String, Value>, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let value = rest
        .iter()
        .try_fold(object.get(first)?, |value, key| value.get(key))?;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The object in stored bytes.
///
/// # Errors
/// When the bytes are no JSON object, which stored bytes always are.
pub(super) fn decode(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// The same bytes under another `apiVersion`: kinds with several versions differ in nothing else.
pub(super) fn with_api_version(bytes: &Bytes, from: &str, to: &str) -> Bytes {
    const HEAD: &[u8] = b"{\"apiVersion\":\"";
    if from == to {
        return bytes.clone();
    }
    match bytes
        .strip_prefix(HEAD)
        .and_then(|rest| rest.strip_prefix(from.as_bytes()))
    {
        Some(rest) => [HEAD, to.as_bytes(), rest].concat().into(),
        None => bytes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn the_revision_has_its_place_and_the_rest_survives() {
        let source = object(json!({
            "spec": {"a": [1, 2.5, null]}, "kind": "Job", "apiVersion": "gctl.dev/v1",
            "metadata": {"name": "x", "resourceVersion": "5", "labels": {"a": "b"}, "uid": "u"},
        }));
        let encoded = encode(&source, &[]);
        assert_eq!(
            &encoded.bytes[encoded.rv_offset..encoded.rv_offset + 10],
            b"0000000000"
        );
        assert!(
            encoded
                .bytes
                .starts_with(b"{\"apiVersion\":\"gctl.dev/v1\",\"kind\":\"Job\",\"metadata\":{")
        );
        let mut back = decode(&encoded.bytes).unwrap();
        back["metadata"]["resourceVersion"] = json!("5");
        assert_eq!(back, source);
        assert_eq!(encoded.index.labels.get("a"), Some("b"));
        assert_eq!(&*encoded.index.uid, "u");
    }

    #[test]
    fn plain_bytes_carry_the_revision_they_have_or_none() {
        for metadata in [
            json!({"name": "x", "resourceVersion": "5"}),
            json!({"name": "x"}),
            json!({}),
        ] {
            let source =
                object(json!({"apiVersion": "v1", "kind": "K", "metadata": metadata, "x": 1}));
            assert_eq!(decode(&plain(&source)).unwrap(), source);
        }
    }

    #[test]
    fn scalars_become_selectable_text_and_anything_else_counts_as_absent() {
        let field = |label: &str| SelectableField {
            label: label.into(),
            path: label.split('.').map(str::to_owned).collect(),
        };
        let source = object(json!({"spec": {"s": "x", "n": 7, "b": true, "list": [1], "o": {}}}));
        let fields = [
            "spec.s",
            "spec.n",
            "spec.b",
            "spec.list",
            "spec.o",
            "spec.absent.y",
        ]
        .map(field);
        let index = index_of(&source, &fields);
        let pairs: Vec<_> = index.fields.iter().collect();
        assert_eq!(
            pairs,
            [("spec.b", "true"), ("spec.n", "7"), ("spec.s", "x")]
        );
    }

    #[test]
    fn another_version_of_the_same_bytes_differs_in_the_api_version_only() {
        let bytes = Bytes::from_static(b"{\"apiVersion\":\"g/v1\",\"kind\":\"K\"}");
        assert_eq!(
            &with_api_version(&bytes, "g/v1", "g/v2beta1")[..],
            b"{\"apiVersion\":\"g/v2beta1\",\"kind\":\"K\"}"
        );
        assert_eq!(with_api_version(&bytes, "g/v1", "g/v1"), bytes);
    }
}
