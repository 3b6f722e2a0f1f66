//! JSON patch, merge patch and strategic merge patch.

use serde_json::json;

use super::{Api, JOBS, JSON_PATCH, MERGE, widget};

const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[tokio::test(start_paused = true)]
async fn patches_do_what_their_standards_say() {
    let api = Api::new().await;
    api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    let merged = api
        .patch(
            &path,
            MERGE,
            json!({"spec": {"tags": ["x", "y"], "color": null}}),
        )
        .await
        .ok();
    assert_eq!(merged.body["spec"], json!({"size": 1, "tags": ["x", "y"]}));
    let patched = api
        .patch(
            &path,
            "application/json-patch+json; charset=utf-8",
            json!([
                {"op": "test", "path": "/spec/tags/0", "value": "x"},
                {"op": "add", "path": "/spec/tags/-", "value": "z"},
                {"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}},
                {"op": "remove", "path": "/spec/size"},
            ]),
        )
        .await
        .ok();
    assert_eq!(
        patched.body["spec"],
        json!({"size": 1, "tags": ["x", "y", "z"]}),
        "the default comes back"
    );
    assert_eq!(patched.body["metadata"]["annotations"], json!({"a": "b"}));
}

#[tokio::test(start_paused = true)]
async fn bad_patches_are_refused_and_change_nothing() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    let many: Vec<_> = (0..10_001)
        .map(|_| json!({"op": "test", "path": "", "value": 1}))
        .collect();
    for (form, body, code) in [
        (
            JSON_PATCH,
            json!([{"op": "test", "path": "/spec/color", "value": "blue"}]),
            422,
        ),
        (
            JSON_PATCH,
            json!([{"op": "add", "path": "/metadata/labels/x", "value": "y"}]),
            422,
        ),
        (
            JSON_PATCH,
            json!([{"op": "remove", "path": "/spec/nothing"}]),
            422,
        ),
        (JSON_PATCH, json!({"op": "remove"}), 400),
        (JSON_PATCH, json!([{"op": "conjure", "path": "/a"}]), 400),
        (JSON_PATCH, json!(many), 413),
        (MERGE, json!([1]), 400),
        (MERGE, json!({"spec": {"color": "pink"}}), 422),
        (MERGE, json!({"spec": {"size": "big"}}), 422),
        (MERGE, json!({"spec": {"tags": ["a", "a"]}}), 422),
        (MERGE, json!({"metadata": {"labels": {"a": 1}}}), 400),
        (MERGE, json!({"metadata": {"name": "b"}}), 400),
        (MERGE, json!({"kind": "Gadget"}), 422),
        (STRATEGIC, json!({"spec": {"color": "blue"}}), 415),
        ("application/apply-patch+yaml", json!({}), 415),
        ("application/json", json!({}), 415),
    ] {
        let answer = api.patch(&path, form, body.clone()).await;
        assert_eq!(answer.code, code, "{form}: {}", answer.text);
        assert_eq!(answer.body["kind"], "Status");
    }
    assert_eq!(api.get(&path).await.text, made.text);
    let strategic = api.patch(&path, STRATEGIC, json!({})).await;
    assert_eq!(
        strategic.body["message"],
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json"
    );
    let failed = api
        .patch(&path, JSON_PATCH, json!([{"op": "remove", "path": "/x"}]))
        .await;
    assert_eq!(
        failed.body["message"],
        "the server rejected our request due to an error in our request"
    );
    assert_eq!(failed.body["details"], json!({}));
    let force = api
        .patch(&format!("{path}?force=true"), MERGE, json!({}))
        .await;
    assert_eq!(force.code, 422);
    assert!(
        force
            .text
            .contains("force: Forbidden: may not be specified for non-apply patch"),
        "{}",
        force.text
    );
    assert_eq!(
        api.patch(&format!("{JOBS}/none"), MERGE, json!({}))
            .await
            .code,
        404
    );
    let untyped = api.call("PATCH", &path, &[], "{}").await;
    assert_eq!(untyped.code, 415);
}

#[tokio::test(start_paused = true)]
async fn built_in_kinds_take_strategic_merges() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let body =
        json!({"metadata": {"name": "c", "finalizers": ["a.b/c"]}, "data": {"x": "1", "y": "2"}});
    api.post(path, body).await.ok();
    let patch = json!({"data": {"x": null, "z": "3"}, "metadata": {"finalizers": ["d.e/f"], "$setElementOrder/finalizers": ["a.b/c", "d.e/f"]}});
    let patched = api.patch(&format!("{path}/c"), STRATEGIC, patch).await.ok();
    assert_eq!(patched.body["data"], json!({"y": "2", "z": "3"}));
    assert_eq!(
        patched.body["metadata"]["finalizers"],
        json!(["a.b/c", "d.e/f"])
    );
}
