//! Values as YAML that every reader reads back as they were, in the layout that kubectl prints.
//!
//! Readers differ: to one that follows YAML 1.1, an unquoted `2026-01-01T00:00:00Z` is a time, `yes` a bool, `1:30` a number
//! and `1e3` a text. So a text stands without quotes only where no reader could take it for anything else.

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// A value as one document, with a newline at its end.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(map, 0, &mut text),
        Value::Array(list) if !list.is_empty() => array(list, 0, &mut text),
        scalar => leaf(scalar, 0, &mut text),
    }
    text
}

/// The entries of an object that is not empty; the first begins where the text ends, the others at `indent`.
fn object(map: &serde_json::Map<String, Value>, indent: usize, text: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            spaces(indent, text);
        }
        if key.contains('\n') || !is_plain(key) {
            quoted(key, text);
        } else {
            text.push_str(key);
        }
        text.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                text.push('\n');
                spaces(indent + 2, text);
                object(map, indent + 2, text);
            }
            Value::Array(list) if !list.is_empty() => {
                text.push('\n');
                spaces(indent, text);
                array(list, indent, text);
            }
            scalar => {
                text.push(' ');
                leaf(scalar, indent + 2, text);
            }
        }
    }
}

/// The items of a list that is not empty; the first begins where the text ends, the others at `indent`.
fn array(list: &[Value], indent: usize, text: &mut String) {
    for (index, value) in list.iter().enumerate() {
        if index > 0 {
            spaces(indent, text);
        }
        text.push_str("- ");
        match value {
            Value::Object(map) if !map.is_empty() => object(map, indent + 2, text),
            Value::Array(list) if !list.is_empty() => array(list, indent + 2, text),
            scalar => leaf(scalar, indent + 2, text),
        }
    }
}

/// What has nothing below it, to the end of its line; the lines of a text of several stand at `indent`.
fn leaf(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(_) => text.push_str("{}"),
        Value::Array(_) => text.push_str("[]"),
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(value) => number(value, text),
        Value::String(value) if is_block(value) => return block(value, indent.max(2), text),
        Value::String(value) if is_plain(value) => text.push_str(value),
        Value::String(value) => quoted(value, text),
    }
    text.push('\n');
}

fn spaces(count: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', count));
}

/// An exponent has a sign, and what stands before it a point: without them it is a text to readers of YAML 1.1.
fn number(value: &Number, text: &mut String) {
    let digits = value.to_string();
    let Some((mantissa, exponent)) = digits.split_once(['e', 'E']) else {
        text.push_str(&digits);
        return;
    };
    text.push_str(mantissa);
    if !mantissa.contains('.') {
        text.push_str(".0");
    }
    text.push('e');
    if !exponent.starts_with(['+', '-']) {
        text.push('+');
    }
    text.push_str(exponent);
}

/// May the text stand for itself?
fn is_plain(text: &str) -> bool {
    let mut chars = text.chars();
    let (Some(first), Some(last)) = (chars.next(), text.chars().next_back()) else {
        return false;
    };
    // A dash begins a list only before a space, and an option of a command is no list.
    let indicator = match first {
        '-' => chars.next().is_none_or(|next| matches!(next, '-' | ' ')) && !is_option(text),
        _ => "?:,[]{}#&*!|>'\"%@`".contains(first),
    };
    !indicator
        && first != ' '
        && !matches!(last, ' ' | ':')
        && !text.contains(": ")
        && !text.contains(" #")
        && text.chars().all(|c| !needs_escape(c) && c != '\n')
        && !is_word_of_yaml(text)
        && !is_like_a_number(text)
}

/// `--long`, which is neither a list nor the mark between documents.
fn is_option(text: &str) -> bool {
    text.strip_prefix("--")
        .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

fn is_word_of_yaml(text: &str) -> bool {
    const WORDS: [&str; 12] = [
        "null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", "=", "<<",
    ];
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Numbers of any base, times and infinities, and what is so like them that some reader takes it for one.
fn is_like_a_number(text: &str) -> bool {
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    let start = bare.strip_prefix('.').unwrap_or(bare);
    if ["inf", "nan"]
        .iter()
        .any(|word| word.eq_ignore_ascii_case(start))
    {
        return true;
    }
    if !start.starts_with(|c: char| c.is_ascii_digit()) {
        return bare == ".." || text.starts_with("...") || text == ".";
    }
    let based = start
        .strip_prefix('0')
        .and_then(|rest| rest.strip_prefix(['x', 'X', 'o', 'O', 'b', 'B']));
    if let Some(digits) = based {
        return digits.chars().all(|c| c.is_ascii_hexdigit() || c == '_');
    }
    let date = start.split_once('-').is_some_and(|(year, rest)| {
        year.len() == 4
            && year.bytes().all(|b| b.is_ascii_digit())
            && rest.starts_with(|c: char| c.is_ascii_digit())
    });
    date || start
        .chars()
        .all(|c| c.is_ascii_digit() || "_.:eE+-".contains(c))
}

/// Characters that are not seen, or that some reader takes for a line break.
fn needs_escape(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

/// Is it a text of several lines that can stand line by line?
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with(['\n', ' '])
        && text.chars().all(|c| !needs_escape(c) || c == '\t')
        && !text.starts_with('\t')
}

fn block(value: &str, indent: usize, text: &mut String) {
    let body = value.strip_suffix('\n');
    text.push_str(match body {
        None => "|-\n",
        Some(body) if body.ends_with('\n') => "|+\n",
        Some(_) => "|\n",
    });
    for line in body.unwrap_or(value).split('\n') {
        if !line.is_empty() {
            spaces(indent, text);
            text.push_str(line);
        }
        text.push('\n');
    }
}

fn quoted(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            c if needs_escape(c) => {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::yaml::decode_documents;

    fn read(text: &str) -> Value {
        let mut documents = decode_documents(text).unwrap_or_else(|why| panic!("{why}:\n{text}"));
        documents.pop().map_or(Value::Null, |one| one.value)
    }

    #[test]
    fn the_layout_is_kubectls() {
        let value = json!({
            "apiVersion": "gctl.dev/v1",
            "metadata": {
                "annotations": {"note": "two\nlines\n", "empty": ""},
                "creationTimestamp": "2026-11-21T20:17:55Z",
                "finalizers": ["gctl.dev/release"],
                "resourceVersion": "1000000016",
            },
            "spec": {"command": ["sh", "-c", "kill -9 $$", "--gpus", "a: b"], "cpu": "500m", "map": {}, "list": [],
                "pairs": [{"name": "a", "value": "1"}, [1, 2.5]], "none": null, "big": 1e300},
        });
        let text = to_yaml(&value);
        let wanted = r#"apiVersion: gctl.dev/v1
metadata:
  annotations:
    empty: ""
    note: |
      two
      lines
  creationTimestamp: "2026-11-21T20:17:55Z"
  finalizers:
  - gctl.dev/release
  resourceVersion: "1000000016"
spec:
  big: 1.0e+300
  command:
  - sh
  - -c
  - kill -9 $$
  - --gpus
  - "a: b"
  cpu: 500m
  list: []
  map: {}
  none: null
  pairs:
  - name: a
    value: "1"
  - - 1
    - 2.5
"#;
        assert_eq!(text, wanted);
        assert_eq!(read(&text), value);
    }

    #[test]
    fn what_some_reader_would_take_for_another_type_is_quoted() {
        for text in [
            "",
            " ",
            "yes",
            "No",
            "ON",
            "off",
            "y",
            "N",
            "true",
            "NULL",
            "~",
            "1",
            "-1",
            "+1",
            "1.5",
            ".5",
            "1e3",
            "0x1f",
            "0o17",
            "010",
            "1_000",
            "1:30",
            "190:20:30",
            ".inf",
            "-.INF",
            ".nan",
            "2026-11-21",
            "2026-11-21T20:17:55Z",
            "2026-11-21 20:17:55.5 +2",
            "=",
            "<<",
            "-",
            "--",
            "---",
            "--- a",
            "...",
            "- a",
            "? a",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "'a'",
            "\"a\"",
            "%a",
            "@a",
            "`a`",
            "{a",
            "[a",
            ", a",
            " a",
            "a ",
            "a\tb",
            "a\u{85}b",
            "\u{feff}a",
            "a\r\nb",
        ] {
            let shown = to_yaml(&json!({"k": text}));
            assert!(shown.starts_with("k: \""), "{text:?} is {shown}");
            assert_eq!(read(&shown), json!({"k": text}));
            let key = to_yaml(&json!({text: 1}));
            assert!(key.starts_with('"'), "{text:?} is {key}");
            assert_eq!(read(&key), json!({text: 1}));
        }
    }

    #[test]
    fn what_is_clear_stands_for_itself() {
        for text in [
            "a",
            "gctl.dev/v1",
            "16Gi",
            "500m",
            "10d",
            "6a038945-8f46-4b3c-9f8d-43cd0d0c4575",
            "-c",
            "--flag=1",
            "a b",
            "$HOME",
            "/bin/sh",
            "a:b",
            "a#b",
            "nope",
            "Größe",
            "1.x",
            "(a)",
            "it's",
            ".gctl",
        ] {
            assert_eq!(to_yaml(&json!(text)), format!("{text}\n"));
            assert_eq!(read(&to_yaml(&json!([text]))), json!([text]));
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[-a1:#\\[{\\]},&*!|>'\"%@` \t\n\r~?.=<0x+e_TZ]{0,12}",
            "(\\PC|[\u{0}-\u{a0}\u{2028}\u{feff}]){0,8}",
            "[ab \n]{0,16}",
        ]
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            texts().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(texts(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn everything_is_read_back_as_it_was(value in values()) {
            let document = json!({"v": value});
            let text = to_yaml(&document);
            prop_assert_eq!(read(&text), document, "{}", text);
        }
    }
}
