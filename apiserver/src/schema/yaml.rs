//! YAML bodies and documents to the same values as JSON, and values as YAML ([`to_yaml`]). Nothing else here names `serde_yaml`.
//!
//! # Limits
//! The scanner's cost grows with length times the number of open flow collections, so a document
//! with very many brackets for its length is refused unread (`MAX_SCAN_COST`); whoever has such a
//! document sends it as JSON. Everything read is charged to a budget of twice the document's length
//! (plus `SPARE`), which no honest document reaches and every alias bomb exceeds at once.

mod write;

pub use write::to_yaml;

use serde::de::DeserializeSeed;

use super::decode::{Budget, DecodeError, Decoded, Node};

/// The most that length times brackets may come to; about a second of work at worst. Chosen.
const MAX_SCAN_COST: usize = 1 << 31;
/// What a short document may grow by, in nodes and bytes.
const SPARE: usize = 64 * 1024;

/// Reads a body that holds one document.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'{') {
        // Apply patches are called YAML and are nearly always JSON; that reader is faster.
        if let Ok(decoded) = super::decode::decode(bytes, super::decode::Format::Json) {
            return Ok(decoded);
        }
    }
    check(bytes)?;
    let budget = budget(bytes);
    let value = Node::root(&budget)
        .deserialize(serde_yaml::Deserializer::from_slice(bytes))
        .map_err(|why| DecodeError::Yaml(why.to_string()))?;
    Ok(Decoded {
        value,
        duplicates: budget.duplicates.into_inner(),
    })
}

/// Reads every document of a file (`---` between them); empty documents are left out.
pub fn decode_documents(text: &str) -> Result<Vec<Decoded>, DecodeError> {
    check(text.as_bytes())?;
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let budget = budget(text.as_bytes());
        let value = Node::root(&budget)
            .deserialize(document)
            .map_err(|why| DecodeError::Yaml(why.to_string()))?;
        if !value.is_null() {
            documents.push(Decoded {
                value,
                duplicates: budget.duplicates.into_inner(),
            });
        }
    }
    Ok(documents)
}

fn budget(bytes: &[u8]) -> Budget {
    Budget::of(bytes.len().saturating_mul(2).saturating_add(SPARE))
}

fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    let opened = bytes.iter().filter(|b| matches!(b, b'[' | b'{')).count();
    if opened.saturating_mul(bytes.len()) > MAX_SCAN_COST {
        return Err(DecodeError::Yaml(
            "document has too many brackets for its length; send it as JSON".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::decode::MAX_DEPTH;
    use serde_json::json;

    #[test]
    fn yaml_becomes_the_value_that_json_would() {
        let text = b"apiVersion: v1\nkind: X\nspec:\n  n: 1\n  f: 1.5\n  on: true\n  s: \"1\"\n  none: ~\n  1: one\n  list:\n  - a\n  - {b: c}\n";
        assert_eq!(
            decode(text).unwrap().value,
            json!({"apiVersion": "v1", "kind": "X", "spec": {"n": 1, "f": 1.5, "on": true, "s": "1",
                "none": null, "1": "one", "list": ["a", {"b": "c"}]}})
        );
        assert_eq!(
            decode(b" {\"a\": [1, 2]}").unwrap().value,
            json!({"a": [1, 2]})
        );
        assert_eq!(decode(b"{a: [1, 2]}").unwrap().value, json!({"a": [1, 2]}));
    }

    #[test]
    fn duplicate_keys_are_found_in_yaml() {
        let decoded = decode(b"spec:\n  x: 1\n  x: 2\n").unwrap();
        assert_eq!(decoded.value, json!({"spec": {"x": 2}}));
        assert_eq!(decoded.duplicates, ["spec.x"]);
    }

    #[test]
    fn aliases_work_but_a_bomb_is_refused_before_it_expands() {
        assert_eq!(
            decode(b"a: &x [1, 2]\nb: *x\n").unwrap().value,
            json!({"a": [1, 2], "b": [1, 2]})
        );
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..30 {
            let before = format!("*a{}", level - 1);
            let line = format!(
                "a{level}: &a{level} [{}]\n",
                [before.as_str(); 10].join(", ")
            );
            bomb.push_str(&line);
        }
        let why = decode(bomb.as_bytes()).unwrap_err().to_string();
        assert!(
            why.contains("excessive aliasing") || why.contains("repetition limit"),
            "{why}"
        );
        let wide = format!(
            "a: &a {}\nb:\n{}",
            "x".repeat(100_000),
            "- *a\n".repeat(100_000)
        );
        let why = decode(wide.as_bytes()).unwrap_err().to_string();
        assert!(why.contains("excessive aliasing"), "{why}");
    }

    #[test]
    fn deep_nesting_is_refused_without_harm() {
        let mut block = String::new();
        for level in 0..1_000 {
            block.push_str(&" ".repeat(level));
            block.push_str("a:\n");
        }
        for text in [
            block,
            "[".repeat(1_000),
            "{a: ".repeat(1_000),
            "- ".repeat(10_000),
            "[".repeat(3 << 20),
        ] {
            assert!(decode(text.as_bytes()).is_err());
        }
        let fine = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(decode(fine.as_bytes()).is_ok());
    }

    #[test]
    fn malformed_yaml_is_refused_with_a_reason() {
        for text in [
            &b"a: b: c"[..],
            b"\xff\xfe\x00",
            b"a: *missing",
            b"a: !tag x",
            b"a: .nan",
            b"a: 1\n---\nb: 2\n",
            b"\t- a",
        ] {
            let why = decode(text).unwrap_err().to_string();
            assert!(
                why.starts_with("error converting YAML to JSON: yaml: "),
                "{why}"
            );
        }
    }

    #[test]
    fn a_file_of_several_documents_is_read_whole() {
        let documents = decode_documents("---\na: 1\n---\n---\nb: 2\nb: 3\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].duplicates, ["b"]);
    }
}
