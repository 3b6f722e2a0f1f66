//! Optimistic concurrency, finalizers and preconditions of deletes.

use serde_json::{Value, json};

use super::{Api, JOBS, JSON_PATCH, MERGE, widget};

#[tokio::test(start_paused = true)]
async fn stale_writes_conflict_and_unpinned_patches_never_do() {
    let api = Api::new().await;
    let first = api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    api.patch(&path, MERGE, json!({"spec": {"color": "blue"}}))
        .await
        .ok();
    let stale = api.put(&path, first.body.clone()).await;
    assert_eq!(
        (stale.code, &stale.body["reason"]),
        (409, &json!("Conflict"))
    );
    assert_eq!(
        stale.body["message"],
        "Operation cannot be fulfilled on widgets.example.com \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(
        stale.body["details"],
        json!({"name": "a", "group": "example.com", "kind": "widgets"})
    );
    let pinned = json!({"metadata": {"resourceVersion": first.rv().to_string()}, "spec": {"color": "green"}});
    assert_eq!(api.patch(&path, MERGE, pinned).await.code, 409);
    let pinned = json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": first.rv().to_string()}]);
    assert_eq!(api.patch(&path, JSON_PATCH, pinned).await.code, 409);
    let mut without = first.body.clone();
    without["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    let missing = api.put(&path, without.clone()).await;
    assert_eq!(missing.code, 422);
    assert!(
        missing.text.contains(
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        ),
        "{}",
        missing.text
    );
    let mut other = api.get(&path).await.body;
    other["metadata"]["uid"] = json!("another");
    let answer = api.put(&path, other).await;
    assert_eq!(answer.code, 409);
    assert!(
        answer.text.contains("UID in precondition: another"),
        "{}",
        answer.text
    );
    let writes = (0..40).map(|i| {
        let (api, path) = (&api, &path);
        async move {
            api.patch(
                path,
                MERGE,
                json!({"metadata": {"labels": {format!("l{i}"): "x"}}}),
            )
            .await
            .code
        }
    });
    let codes = futures::future::join_all(writes).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    assert_eq!(
        api.get(&path).await.body["metadata"]["labels"]
            .as_object()
            .map(serde_json::Map::len),
        Some(40)
    );
}

#[tokio::test(start_paused = true)]
async fn of_many_pinned_writers_one_wins() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let writes = (0..20).map(|i| {
        let mut body = made.body.clone();
        body["spec"]["size"] = json!(i + 2);
        let api = &api;
        async move { api.put(&format!("{JOBS}/a"), body).await.code }
    });
    let codes = futures::future::join_all(writes).await;
    assert_eq!(
        codes.iter().filter(|code| **code == 200).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 19);
}

#[tokio::test(start_paused = true)]
async fn a_delete_answers_with_the_uid_or_with_the_waiting_object() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    let gone = api
        .delete(&path, json!({"propagationPolicy": "Background"}))
        .await
        .ok();
    let uid = &made.body["metadata"]["uid"];
    assert_eq!(
        gone.body,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "a", "group": "example.com", "kind": "widgets", "uid": uid}})
    );
    assert_eq!(api.delete(&path, Value::Null).await.code, 404);
    let mut held = widget("b");
    held["metadata"]["finalizers"] = json!(["example.com/one", "example.com/two"]);
    api.post(JOBS, held).await.ok();
    let path = format!("{JOBS}/b");
    let waiting = api.delete(&path, Value::Null).await.ok();
    assert_eq!(waiting.body["kind"], "Widget");
    assert_eq!(
        waiting.body["metadata"]["deletionTimestamp"],
        "2026-01-01T00:00:00Z"
    );
    let again = api.delete(&path, Value::Null).await.ok();
    assert_eq!(again.text, waiting.text, "deleting twice changes nothing");
    let exists = api.post(JOBS, widget("b")).await;
    assert_eq!(
        (exists.code, &exists.body["reason"]),
        (409, &json!("AlreadyExists"))
    );
    assert_eq!(
        exists.body["message"],
        "object is being deleted: widgets.example.com \"b\" already exists"
    );
    let added = api
        .patch(
            &path,
            MERGE,
            json!({"metadata": {"finalizers": ["example.com/one", "example.com/new"]}}),
        )
        .await;
    assert_eq!(added.code, 422);
    assert!(
        added.text.contains("no new finalizers can be added"),
        "{}",
        added.text
    );
    let revived = api
        .patch(
            &path,
            MERGE,
            json!({"metadata": {"deletionTimestamp": null}}),
        )
        .await
        .ok();
    assert_eq!(revived.text, waiting.text, "nobody takes a deletion back");
    let mut watch = api
        .watch(&format!("{JOBS}?watch=1&resourceVersion={}", waiting.rv()))
        .await;
    api.patch(
        &path,
        MERGE,
        json!({"metadata": {"finalizers": ["example.com/one"]}}),
    )
    .await
    .ok();
    let last = api
        .patch(&path, MERGE, json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
    assert_eq!(last.body["metadata"]["name"], "b");
    assert_eq!(api.get(&path).await.code, 404);
    assert_eq!(watch.short().await, "MODIFIED b");
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(
        deleted["object"]["metadata"]["resourceVersion"],
        last.rv().to_string()
    );
    assert!(last.rv() > waiting.rv() + 1);
}

#[tokio::test(start_paused = true)]
async fn delete_options_are_held_to_their_rules() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    for (query, body, code) in [
        ("", json!({"preconditions": {"uid": "other"}}), 409),
        ("", json!({"preconditions": {"resourceVersion": "1"}}), 409),
        ("", json!({"propagationPolicy": "Sideways"}), 422),
        ("?propagationPolicy=Sideways", Value::Null, 422),
        (
            "",
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            422,
        ),
        ("", json!({"kind": "Widget"}), 400),
        ("", json!({"apiVersion": "other/v1"}), 400),
        ("", json!({"gracePeriodSeconds": "x"}), 400),
        ("", json!([]), 400),
    ] {
        let answer = api.delete(&format!("{path}{query}"), body.clone()).await;
        assert_eq!(answer.code, code, "{query} {body} {}", answer.text);
    }
    let options = json!({"kind": "DeleteOptions", "apiVersion": "example.com/v1", "gracePeriodSeconds": 0,
        "preconditions": {"uid": made.body["metadata"]["uid"], "resourceVersion": made.rv().to_string()}});
    assert_eq!(api.delete(&path, options).await.code, 200);
}
