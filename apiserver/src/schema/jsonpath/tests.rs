//! What paths and templates find, and which are refused.

use serde_json::json;

use super::*;

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
        ("{.items[1].status['attempt','exitCode']}", "1"),
    ] {
        let rendered = Template::parse(template).unwrap().render(&sample());
        assert_eq!(rendered, expected, "{template}");
    }
}

#[test]
fn malformed_templates_are_refused_with_the_place() {
    let wanted = r"`}` expected at the end
an index, a quoted name, `*` or `?(` expected at character 5, found `}`
`{range}` without `{end}`
`{end}` without `{range}` before character 5
a path, a number, true, false or a quoted text expected at character 12, found `)`
text without closing quote from character 2
the step of a slice is at least 1";
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
    .map(|text| Template::parse(text).unwrap_err().reason)
    .collect();
    assert_eq!(errors.join("\n"), wanted);
}

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
        (".metadata['name','none']", json!(["a"])),
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
        "'{.a}",
    ] {
        assert!(JsonPath::parse(path).is_err(), "{path}");
    }
}

#[test]
fn filters_in_filters_are_bounded() {
    let nested = |count: usize| format!(".a{}{}", "[?(@.c".repeat(count), ")]".repeat(count));
    assert!(JsonPath::parse(&nested(4)).is_ok());
    let refused = JsonPath::parse(&nested(500)).unwrap_err();
    assert!(refused.reason.contains("nested"), "{refused}");
}

#[test]
fn a_simple_path_tells_its_names() {
    assert_eq!(
        JsonPath::parse(".status.phase").unwrap().names(),
        Some(vec!["status", "phase"])
    );
    for path in [".a[0]", ".a['b','c']", "..a"] {
        assert_eq!(JsonPath::parse(path).unwrap().names(), None, "{path}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_but_never_panics(text in "[.\\[\\]a?(@=)'\"*0\\\\é -]{0,30}") {
        if let Ok(path) = JsonPath::parse(&text) {
            let _ = path.find(&json!({"a": [{"a": 0}]}));
        }
    }
}
