//! Selectors as clients write them, well and badly.

use std::collections::BTreeMap;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn label_selectors_match_as_kubernetes_does() {
    let have = labels(&[("a", "b"), ("n", "5"), ("e", ""), ("gctl.dev/in", "in")]);
    for (text, wanted) in [
        ("", true),
        ("  ", true),
        ("a", true),
        ("!a", false),
        ("!z", true),
        ("a=b", true),
        ("a==b", true),
        ("a = b , n", true),
        ("a!=b", false),
        ("z!=b", true),
        ("a in (b,c)", true),
        ("a in (c)", false),
        ("z in (c)", false),
        ("a notin (b)", false),
        ("z notin (b)", true),
        ("a notin (c, d)", true),
        ("n>4", true),
        ("n > 5", false),
        ("n<6", true),
        ("a>4", false),
        ("z<4", false),
        ("e=", true),
        ("e=,a=b", true),
        ("e in ()", true),
        ("a in (,b)", true),
        ("e in (x,)", true),
        ("gctl.dev/in=in", true),
        ("gctl.dev/in in (in,notin)", true),
        ("a=b,n=6", false),
    ] {
        let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(
            selector.matches(|name| have.get(name).map(String::as_str)),
            wanted,
            "{text}"
        );
    }
}

#[test]
fn malformed_label_selectors_say_what_was_found() {
    for (text, wanted) in [
        ("a=b,", "found '', expected: identifier after ','"),
        (
            ",a",
            "found ',', expected: !, identifier, or 'end of string'",
        ),
        (
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "a in b",
            "unable to parse requirement: found 'b' expected: '('",
        ),
        (
            "a in (b",
            "unable to parse requirement: found '', expected: ',' or ')'",
        ),
        (
            "a=(",
            "unable to parse requirement: found '(', expected: identifier",
        ),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        (
            "!",
            "unable to parse requirement: found '', expected: identifier",
        ),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        (
            "n>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(
            LabelSelector::parse(text).unwrap_err().to_string(),
            wanted,
            "{text}"
        );
    }
    let key = LabelSelector::parse("a//b=c").unwrap_err().to_string();
    assert!(
        key.starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"a//b\": a qualified name must"
        ),
        "{key}"
    );
    let value = LabelSelector::parse("a=b/c").unwrap_err().to_string();
    assert!(
        value.starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"b/c\": a valid label must"
        ),
        "{value}"
    );
    assert!(LabelSelector::parse(&"a,".repeat(MAX_BYTES)).is_err());
}

fn known(name: &str) -> bool {
    matches!(name, "metadata.name" | "status.phase" | "x")
}

#[test]
fn field_selectors_match_as_kubernetes_does() {
    let field = |name: &str| match name {
        "metadata.name" => Some("a"),
        "x" => Some(r"a,b=c\d"),
        _ => None,
    };
    for (text, wanted) in [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.name==a", true),
        ("metadata.name!=a", false),
        ("metadata.name=b", false),
        ("status.phase=", true),
        ("status.phase!=Running", true),
        ("status.phase=Running", false),
        ("metadata.name=a,,status.phase=", true),
        (r"x=a\,b\=c\\d", true),
        (r"x!=a\,b\=c\\d,metadata.name=a", false),
    ] {
        let selector = FieldSelector::parse(text, known).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(selector.matches(field), wanted, "{text}");
    }
}

#[test]
fn malformed_field_selectors_say_why() {
    for (text, wanted) in [
        (
            "metadata.name",
            "invalid selector: 'metadata.name'; can't understand 'metadata.name'",
        ),
        (
            "metadata.name=a,!",
            "invalid selector: 'metadata.name=a,!'; can't understand '!'",
        ),
        (
            r"x=a\b",
            r"invalid field selector: invalid escape sequence: \b",
        ),
        (
            r"x=a\",
            r"invalid field selector: invalid escape sequence: \",
        ),
        (
            "x=a=b",
            "invalid field selector: unescaped character in value: 61",
        ),
        ("spec.x=1", "field label not supported: spec.x"),
    ] {
        assert_eq!(
            FieldSelector::parse(text, known).unwrap_err().to_string(),
            wanted,
            "{text}"
        );
    }
}

#[test]
fn a_selection_tells_the_value_it_demands() {
    let selection =
        Selection::parse(Some("a"), Some("metadata.name=x,status.phase!=y"), known).unwrap();
    assert_eq!(selection.field_equals("metadata.name"), Some("x"));
    assert_eq!(selection.field_equals("status.phase"), None);
    assert!(!selection.is_everything());
    assert!(Selection::parse(None, None, known).unwrap().is_everything());
    assert!(!selection.matches(|_| None, |_| Some("x")));
    assert!(selection.matches(|name| (name == "a").then_some(""), |_| Some("x")));
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_but_never_panics(text in "\\PC{0,40}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text, |_| true);
    }
}
