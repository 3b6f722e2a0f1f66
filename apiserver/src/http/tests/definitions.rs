//! The life of CustomResourceDefinitions.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, CRDS, JOBS, MERGE, gadget_definition, widget, widget_definition};
use crate::store::MemoryStore;

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == name)
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_served_the_moment_its_definition_is_accepted() {
    let api = Api::bare().await;
    assert_eq!(api.get(JOBS).await.code, 404);
    let generation = api.registry.kinds().generation();
    let mut watch = api.watch(&format!("{CRDS}?watch=1")).await;
    let made = api.post(CRDS, widget_definition()).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(condition(&made.body, "Established")["status"], "True");
    assert_eq!(
        condition(&made.body, "NamesAccepted")["reason"],
        "NoConflicts"
    );
    assert_eq!(made.body["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(
        made.body["status"]["acceptedNames"]["listKind"],
        "WidgetList"
    );
    assert_eq!(made.body["spec"]["names"]["singular"], "widget");
    assert_eq!(api.post(JOBS, widget("a")).await.code, 201);
    assert_eq!(watch.short().await, "ADDED widgets.example.com");
    assert!(watch.is_silent().await, "there was no state in between");
    assert!(api.registry.kinds().generation() > generation);
}

#[tokio::test(start_paused = true)]
async fn a_bad_definition_is_refused_and_serves_nothing() {
    let api = Api::bare().await;
    for (pointer, value, field) in [
        ("/metadata/name", json!("wrong"), "metadata.name"),
        ("/spec/versions/0/storage", json!(false), "spec.versions"),
        (
            "/spec/versions/0/schema",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema",
        ),
        ("/spec/scope", json!("Universe"), "spec.scope"),
        (
            "/spec/versions/0/selectableFields",
            json!([{"jsonPath": ".metadata.name"}]),
            "spec.versions[0].selectableFields[0].jsonPath",
        ),
    ] {
        let mut body = widget_definition();
        *body.pointer_mut(pointer).unwrap() = value;
        for query in ["?dryRun=All", ""] {
            let answer = api.post(&format!("{CRDS}{query}"), body.clone()).await;
            assert_eq!(answer.code, 422, "{pointer}: {}", answer.text);
            assert!(answer.text.contains(field), "{pointer}: {}", answer.text);
        }
        assert_eq!(api.get(JOBS).await.code, 404);
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_are_taken_are_not_accepted_until_they_are_free() {
    let api = Api::new().await;
    let mut rival = widget_definition();
    rival["metadata"]["name"] = json!("wodgets.example.com");
    rival["spec"]["names"] = json!({"plural": "wodgets", "kind": "Wodget", "shortNames": ["wd"]});
    let made = api.post(CRDS, rival).await.ok();
    assert_eq!(
        condition(&made.body, "NamesAccepted")["reason"],
        "ShortNamesConflict"
    );
    assert_eq!(condition(&made.body, "Established")["status"], "False");
    let wodgets = "/apis/example.com/v1/namespaces/default/wodgets";
    assert_eq!(api.get(wodgets).await.code, 404);
    api.delete(&format!("{CRDS}/widgets.example.com"), Value::Null)
        .await
        .ok();
    api.until_gone(&format!("{CRDS}/widgets.example.com")).await;
    api.until(async || api.get(wodgets).await.code == 200).await;
    let now = api.get(&format!("{CRDS}/wodgets.example.com")).await.ok();
    assert_eq!(condition(&now.body, "Established")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn a_change_swaps_schema_selectors_and_columns_at_once() {
    let api = Api::new().await;
    api.post(JOBS, widget("a")).await.ok();
    let path = format!("{CRDS}/widgets.example.com");
    let mut definition = api.get(&path).await.ok().body;
    let version = &mut definition["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"]["enum"] =
        json!(["red", "pink"]);
    version["selectableFields"] = json!([{"jsonPath": ".spec.size"}]);
    let changed = api.put(&path, definition).await.ok();
    assert_eq!(changed.body["metadata"]["generation"], 2);
    let selected = api
        .get(&format!("{JOBS}?fieldSelector=spec.size%3D1"))
        .await
        .ok();
    assert_eq!(
        selected.body["items"].as_array().map(Vec::len),
        Some(1),
        "old objects are indexed anew"
    );
    assert_eq!(
        api.get(&format!("{JOBS}?fieldSelector=spec.color%3Dred"))
            .await
            .code,
        400
    );
    let mut pink = widget("b");
    pink["spec"]["color"] = json!("pink");
    api.post(JOBS, pink).await.ok();
    let scope = api
        .patch(&path, MERGE, json!({"spec": {"scope": "Cluster"}}))
        .await;
    assert_eq!(scope.code, 422, "{}", scope.text);
    api.post(JOBS, widget("c")).await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_definition_takes_its_objects_along() {
    let api = Api::new().await;
    let mut held = widget("held");
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.post(JOBS, held).await.ok();
    api.post(JOBS, widget("free")).await.ok();
    let mut watch = api.watch(&format!("{JOBS}?watch=1")).await;
    assert_eq!(watch.short().await, "ADDED free");
    assert_eq!(watch.short().await, "ADDED held");
    let path = format!("{CRDS}/widgets.example.com");
    let deleted = api.delete(&path, Value::Null).await.ok();
    assert_eq!(condition(&deleted.body, "Terminating")["status"], "True");
    assert_eq!(
        deleted.body["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    let refused = api.post(JOBS, widget("new")).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused
            .text
            .contains("create not allowed while custom resource definition is terminating")
    );
    api.until_gone(&format!("{JOBS}/free")).await;
    let again = api.post(CRDS, widget_definition()).await;
    assert_eq!(again.code, 409);
    assert!(
        again.text.contains("object is being deleted"),
        "{}",
        again.text
    );
    api.patch(
        &format!("{JOBS}/held"),
        MERGE,
        json!({"metadata": {"finalizers": null}}),
    )
    .await
    .ok();
    api.until_gone(&path).await;
    let mut events = vec![
        watch.short().await,
        watch.short().await,
        watch.short().await,
    ];
    events.sort();
    assert_eq!(events, ["DELETED free", "DELETED held", "MODIFIED held"]);
    assert_eq!(api.get(JOBS).await.text, "404 page not found\n");
    api.post(CRDS, widget_definition()).await.ok();
    assert_eq!(api.get(JOBS).await.ok().body["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn several_versions_show_the_same_objects() {
    let api = Api::bare().await;
    let mut definition = widget_definition();
    let mut old = definition["spec"]["versions"][0].clone();
    old["name"] = json!("v1beta1");
    old["storage"] = json!(false);
    old["deprecated"] = json!(true);
    definition["spec"]["versions"]
        .as_array_mut()
        .unwrap()
        .push(old);
    api.post(CRDS, definition).await.ok();
    let beta = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let mut body = widget("a");
    body["apiVersion"] = json!("example.com/v1beta1");
    let made = api.post(beta, body).await.ok();
    assert_eq!(made.body["apiVersion"], "example.com/v1beta1");
    assert_eq!(
        made.warnings(),
        ["299 - \"example.com/v1beta1 Widget is deprecated\""]
    );
    let stable = api.get(&format!("{JOBS}/a")).await.ok();
    assert_eq!(stable.body["apiVersion"], "example.com/v1");
    assert!(stable.warnings().is_empty());
    assert_eq!(stable.rv(), made.rv());
    let mut watch = api.watch(&format!("{beta}?watch=1")).await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["apiVersion"],
        "example.com/v1beta1"
    );
    let noop = api.put(&format!("{beta}/a"), made.body.clone()).await.ok();
    assert_eq!(noop.rv(), made.rv());
    api.patch(
        &format!("{beta}/a"),
        MERGE,
        json!({"spec": {"color": "blue"}}),
    )
    .await
    .ok();
    let event = watch.next().await.unwrap();
    assert_eq!(
        (
            &event["object"]["apiVersion"],
            &event["object"]["spec"]["color"]
        ),
        (&json!("example.com/v1beta1"), &json!("blue"))
    );
    assert_eq!(
        api.get(&format!("{beta}?limit=1")).await.ok().body["items"][0]["apiVersion"],
        "example.com/v1beta1"
    );
}

#[tokio::test(start_paused = true)]
async fn definitions_of_the_server_are_real_kept_and_brought_up_to_date() {
    let store = Arc::new(MemoryStore::new());
    let text = widget_definition().to_string();
    let api = Api::over(store.clone(), vec![text.clone()]).await;
    let first = api.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    assert_eq!(condition(&first.body, "Established")["status"], "True");
    let refused = api
        .delete(&format!("{CRDS}/widgets.example.com"), Value::Null)
        .await;
    assert_eq!(
        (refused.code, &refused.body["reason"]),
        (403, &json!("Forbidden"))
    );
    api.post(CRDS, gadget_definition()).await.ok();
    api.post(JOBS, widget("a")).await.ok();
    let all = api.delete(CRDS, Value::Null).await;
    assert_eq!(all.code, 403, "{}", all.text);
    let kept = api.get(CRDS).await.ok();
    assert_eq!(
        kept.body["items"].as_array().map(Vec::len),
        Some(2),
        "what may be deleted stays, where the whole is refused"
    );
    api.registry.cache().close().await;
    let same = Api::over(store.clone(), vec![text]).await;
    let second = same.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    assert_eq!(second.text, first.text, "nothing changed, nothing written");
    assert_eq!(
        same.get(&format!("{JOBS}?fieldSelector=spec.color%3Dred"))
            .await
            .ok()
            .body["items"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(same.get("/apis/example.com/v1/gadgets").await.code, 200);
    same.registry.cache().close().await;
    let mut newer = widget_definition();
    newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["weight"] = json!({"type": "integer"});
    let updated = Api::over(store.clone(), vec![newer.to_string()]).await;
    let third = updated
        .get(&format!("{CRDS}/widgets.example.com"))
        .await
        .ok();
    assert_eq!(third.body["metadata"]["generation"], 2);
    let mut body = widget("b");
    body["spec"]["weight"] = json!(3);
    assert_eq!(
        updated.post(JOBS, body).await.ok().body["spec"]["weight"],
        3
    );
}

#[tokio::test(start_paused = true)]
async fn old_objects_are_shown_as_the_new_schema_has_them() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let path = format!("{CRDS}/widgets.example.com");
    let mut definition = api.get(&path).await.ok().body;
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
        json!({"size": {"type": "integer"}, "weight": {"type": "integer", "default": 7}});
    definition["spec"]["versions"][0]["selectableFields"] = json!([]);
    api.put(&path, definition).await.ok();
    let expected = json!({"size": 1, "weight": 7});
    let got = api.get(&format!("{JOBS}/a")).await.ok();
    assert_eq!((&got.body["spec"], got.rv()), (&expected, made.rv()));
    assert_eq!(api.get(JOBS).await.ok().body["items"][0]["spec"], expected);
    let mut watch = api.watch(&format!("{JOBS}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"], expected);
    let noop = api.patch(&format!("{JOBS}/a"), MERGE, json!({})).await.ok();
    assert_eq!(noop.text, got.text);
    let changed = api
        .patch(&format!("{JOBS}/a"), MERGE, json!({"spec": {"size": 2}}))
        .await
        .ok();
    assert_eq!(changed.body["spec"], json!({"size": 2, "weight": 7}));
}

#[tokio::test(start_paused = true)]
async fn watches_of_a_deleted_definition_end_with_it() {
    let api = Api::new().await;
    api.post(JOBS, widget("a")).await.ok();
    let mut watch = api.watch(&format!("{JOBS}?watch=1")).await;
    assert_eq!(watch.short().await, "ADDED a");
    let path = format!("{CRDS}/widgets.example.com");
    api.delete(&path, Value::Null).await.ok();
    api.until_gone(&path).await;
    assert_eq!(watch.short().await, "DELETED a");
    // Far less than the half hour after which every watch ends.
    let end = tokio::time::timeout(std::time::Duration::from_mins(1), watch.next());
    assert_eq!(end.await.expect("the end of the stream"), None);
}
