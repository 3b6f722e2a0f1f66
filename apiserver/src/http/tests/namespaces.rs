//! Namespaces and what lies in them.

use serde_json::{Value, json};

use super::{Api, JOBS, MERGE, widget};

const NAMESPACES: &str = "/api/v1/namespaces";

#[tokio::test(start_paused = true)]
async fn a_fresh_server_has_its_namespaces_and_keeps_them() {
    let api = Api::bare().await;
    for name in ["default", "kube-system", "gctl-node-lease"] {
        let got = api.get(&format!("{NAMESPACES}/{name}")).await.ok();
        assert_eq!(got.body["status"]["phase"], "Active");
        assert_eq!(got.body["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(
            got.body["metadata"]["labels"]["kubernetes.io/metadata.name"],
            name
        );
        let refused = api
            .delete(&format!("{NAMESPACES}/{name}"), Value::Null)
            .await;
        assert_eq!(refused.code, 403);
        assert_eq!(
            refused.body["message"],
            format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")
        );
    }
    let bad = api
        .post(NAMESPACES, json!({"metadata": {"name": "a.b"}}))
        .await;
    assert_eq!(bad.code, 422);
    let named = api
        .get(&format!("{NAMESPACES}?fieldSelector=status.phase%3DActive"))
        .await
        .ok();
    assert_eq!(named.body["items"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_empties_itself_and_says_what_holds_it() {
    let api = Api::new().await;
    api.post(
        NAMESPACES,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
    )
    .await
    .ok();
    let widgets = JOBS.replace("default", "n");
    let mut held = widget("held");
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.post(&widgets, held).await.ok();
    api.post(&widgets, widget("free")).await.ok();
    api.post(
        &format!("{NAMESPACES}/n/configmaps"),
        json!({"metadata": {"name": "c"}}),
    )
    .await
    .ok();
    let deleted = api
        .delete(
            &format!("{NAMESPACES}/n"),
            json!({"propagationPolicy": "Background"}),
        )
        .await
        .ok();
    assert_eq!(deleted.body["status"]["phase"], "Terminating");
    assert!(deleted.body["metadata"]["deletionTimestamp"].is_string());
    let refused = api.post(&widgets, widget("late")).await;
    assert_eq!(
        (refused.code, &refused.body["reason"]),
        (403, &json!("Forbidden"))
    );
    assert_eq!(
        refused.body["message"],
        "widgets.example.com \"late\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    assert_eq!(
        refused.body["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    api.until_gone(&format!("{widgets}/free")).await;
    api.until_gone(&format!("{NAMESPACES}/n/configmaps/c"))
        .await;
    api.until(async || {
        api.get(&format!("{NAMESPACES}/n"))
            .await
            .text
            .contains("example.com/x in 1 resource instances")
    })
    .await;
    let waiting = api.get(&format!("{NAMESPACES}/n")).await.ok();
    assert!(
        waiting
            .text
            .contains("widgets.example.com has 1 resource instances"),
        "{}",
        waiting.text
    );
    api.patch(
        &format!("{widgets}/held"),
        MERGE,
        json!({"metadata": {"finalizers": null}}),
    )
    .await
    .ok();
    api.until_gone(&format!("{NAMESPACES}/n")).await;
    assert_eq!(api.get(&widgets).await.ok().body["items"], json!([]));
    assert_eq!(api.post(&widgets, widget("late")).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn finalize_changes_the_finalizers_of_a_namespace_only() {
    let api = Api::new().await;
    let made = api
        .post(NAMESPACES, json!({"metadata": {"name": "n"}}))
        .await
        .ok();
    let mut body = made.body.clone();
    body["spec"]["finalizers"] = json!(["kubernetes", "example.com/x"]);
    body["metadata"]["labels"]["x"] = json!("y");
    let put = api.put(&format!("{NAMESPACES}/n"), body.clone()).await.ok();
    assert_eq!(
        put.body["spec"]["finalizers"],
        json!(["kubernetes"]),
        "not on the main endpoint"
    );
    body["metadata"]["resourceVersion"] = put.body["metadata"]["resourceVersion"].clone();
    body["metadata"]["labels"]["z"] = json!("y");
    let finalized = api
        .put(&format!("{NAMESPACES}/n/finalize"), body)
        .await
        .ok();
    assert_eq!(
        finalized.body["spec"]["finalizers"],
        json!(["kubernetes", "example.com/x"])
    );
    assert!(finalized.body["metadata"]["labels"].get("z").is_none());
    api.delete(&format!("{NAMESPACES}/n"), Value::Null)
        .await
        .ok();
    api.until(async || {
        api.get(&format!("{NAMESPACES}/n")).await.body["spec"]["finalizers"]
            == json!(["example.com/x"])
    })
    .await;
    let mut last = api.get(&format!("{NAMESPACES}/n")).await.ok().body;
    last["spec"]["finalizers"] = json!([]);
    api.put(&format!("{NAMESPACES}/n/finalize"), last)
        .await
        .ok();
    assert_eq!(api.get(&format!("{NAMESPACES}/n")).await.code, 404);
}
