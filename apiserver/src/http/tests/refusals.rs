//! Refusals that say what to do: choices between fields, and too little space.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, CRDS, JOBS, MERGE, gadget_definition, widget, widget_definition};
use crate::cache::testing::FaultyStore;
use crate::store::{MemoryStore, Room, Store};

#[tokio::test(start_paused = true)]
async fn a_choice_between_fields_says_which_there_are_and_which_were_given() {
    let api = Api::bare().await;
    let mut definition = gadget_definition();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({
        "type": "object", "properties": {"spec": {
            "type": "object",
            "properties": {
                "command": {"type": "array", "items": {"type": "string"}},
                "script": {"type": "string"}, "shell": {"type": "string"},
            },
            "oneOf": [{"required": ["command"]}, {"required": ["script", "shell"]}],
        }},
    });
    api.post(CRDS, definition).await.ok();
    let rows = [
        (
            json!({}),
            "Found none valid: exactly one of \"command\", \"script and shell\" must be given, and none is",
        ),
        (
            json!({"script": "a"}),
            "Found none valid: exactly one of \"command\", \"script and shell\" must be given, and none is",
        ),
        (
            json!({"command": [], "script": "a", "shell": "sh"}),
            "Found more than one valid alternative: exactly one of \"command\", \"script and shell\" must be given, \
             and \"command\", \"script and shell\" are",
        ),
    ];
    for (spec, wanted) in rows {
        let gadget = json!({
            "apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "a"}, "spec": spec,
        });
        let answer = api.post("/apis/example.com/v1/gadgets", gadget).await;
        assert_eq!(
            (answer.code, answer.body["reason"].as_str()),
            (422, Some("Invalid"))
        );
        let cause = &answer.body["details"]["causes"][0];
        let message = cause["message"].as_str().unwrap();
        assert!(message.ends_with(wanted), "{message}");
        assert_eq!(
            (cause["field"].as_str(), cause["reason"].as_str()),
            (Some("spec"), Some("FieldValueInvalid"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_definition_whose_rules_do_not_suit_its_schema_is_refused() {
    let api = Api::bare().await;
    let with = |rule: &str| {
        let mut definition = widget_definition();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
            json!([{ "rule": rule }]);
        definition
    };
    for (rule, wanted) in [
        (
            "self.size > self.color",
            "found no matching overload for '_>_' applied to '(a number, string)'",
        ),
        ("self.sise > 1", "undefined field 'sise'"),
        ("self.color", "must evaluate to bool, not string"),
    ] {
        let answer = api.post(CRDS, with(rule)).await;
        assert_eq!(
            (answer.code, answer.body["reason"].as_str()),
            (422, Some("Invalid")),
            "{rule}"
        );
        let cause = &answer.body["details"]["causes"][0];
        let field = "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule";
        assert_eq!(cause["field"], field, "{}", answer.text);
        let message = cause["message"].as_str().unwrap();
        assert!(
            message.contains("compilation failed: ") && message.contains(wanted),
            "{message}"
        );
    }
    api.post(CRDS, with("self.size > 1 || self.color == 'red'"))
        .await
        .ok();
}

#[tokio::test(start_paused = true)]
async fn with_little_space_left_whatever_makes_room_is_still_written() {
    let store = Arc::new(FaultyStore::new(MemoryStore::new()));
    let api = Api::over(Arc::clone(&store) as Arc<dyn Store>, Vec::new()).await;
    api.post(CRDS, widget_definition()).await.ok();
    let mut held = widget("held");
    held["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    api.post(JOBS, held).await.ok();
    let (free, floor) = (40 << 20, 64 << 20);
    *store.room.lock() = Room::Low { free, floor };

    let path = format!("{JOBS}/held");
    let refused = [
        api.post(JOBS, widget("new")).await,
        api.patch(&path, MERGE, json!({"spec": {"size": 2}})).await,
    ];
    for answer in refused {
        assert_eq!(answer.code, 500);
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains("too little free space"), "{message}");
    }
    let marked = api.delete(&path, Value::Null).await.ok();
    assert!(
        marked.body["metadata"]["deletionTimestamp"].is_string(),
        "{}",
        marked.text
    );
    for left in [json!(["example.com/b"]), json!([])] {
        let patch = json!({"metadata": {"finalizers": left}});
        api.patch(&path, MERGE, patch).await.ok();
    }
    api.until_gone(&path).await;
}
