//! Owner references: what becomes of dependents.

use serde_json::{Value, json};

use super::{Answer, Api, CRDS, JOBS, MERGE, gadget_definition, widget};

fn owned(name: &str, owners: &[&Answer]) -> Value {
    let mut body = widget(name);
    let references: Vec<Value> = owners
        .iter()
        .map(|owner| {
            let o = &owner.body;
            json!({"apiVersion": o["apiVersion"], "kind": o["kind"], "name": o["metadata"]["name"],
                "uid": o["metadata"]["uid"], "blockOwnerDeletion": true})
        })
        .collect();
    body["metadata"]["ownerReferences"] = json!(references);
    body
}

#[tokio::test(start_paused = true)]
async fn dependents_go_after_their_owner_and_theirs_too() {
    let api = Api::new().await;
    let owner = api.post(JOBS, widget("owner")).await.ok();
    let child = api.post(JOBS, owned("child", &[&owner])).await.ok();
    api.post(JOBS, owned("grandchild", &[&child])).await.ok();
    api.post(JOBS, widget("bystander")).await.ok();
    let gone = api.delete(&format!("{JOBS}/owner"), Value::Null).await.ok();
    assert_eq!(gone.body["status"], "Success");
    api.until_gone(&format!("{JOBS}/grandchild")).await;
    assert_eq!(api.get(&format!("{JOBS}/child")).await.code, 404);
    assert_eq!(api.get(&format!("{JOBS}/bystander")).await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn an_owner_is_known_by_uid_and_one_of_several_is_enough() {
    let api = Api::new().await;
    let first = api.post(JOBS, widget("first")).await.ok();
    let second = api.post(JOBS, widget("second")).await.ok();
    api.post(JOBS, owned("shared", &[&first, &second]))
        .await
        .ok();
    api.delete(&format!("{JOBS}/first"), Value::Null).await.ok();
    let references = async || {
        api.get(&format!("{JOBS}/shared")).await.ok().body["metadata"]["ownerReferences"].clone()
    };
    api.until(async || references().await.as_array().map(Vec::len) == Some(1))
        .await;
    assert_eq!(references().await[0]["name"], "second");
    api.post(JOBS, widget("first")).await.ok();
    api.post(JOBS, owned("impostor", &[&first])).await.ok();
    api.until_gone(&format!("{JOBS}/impostor")).await;
    assert_eq!(api.get(&format!("{JOBS}/shared")).await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn a_foreground_deletion_waits_for_the_dependents() {
    let api = Api::new().await;
    let owner = api.post(JOBS, widget("owner")).await.ok();
    let mut child = owned("child", &[&owner]);
    child["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.post(JOBS, child).await.ok();
    let waiting = api
        .delete(
            &format!("{JOBS}/owner"),
            json!({"propagationPolicy": "Foreground"}),
        )
        .await
        .ok();
    assert_eq!(
        waiting.body["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    let terminating = async || {
        api.get(&format!("{JOBS}/child")).await.body["metadata"]["deletionTimestamp"].is_string()
    };
    api.until(terminating).await;
    assert_eq!(api.get(&format!("{JOBS}/owner")).await.code, 200);
    api.patch(
        &format!("{JOBS}/child"),
        MERGE,
        json!({"metadata": {"finalizers": null}}),
    )
    .await
    .ok();
    api.until_gone(&format!("{JOBS}/owner")).await;
    let alone = api.post(JOBS, widget("alone")).await.ok();
    assert_eq!(alone.code, 201);
    api.delete(
        &format!("{JOBS}/alone?propagationPolicy=Foreground"),
        Value::Null,
    )
    .await
    .ok();
    api.until_gone(&format!("{JOBS}/alone")).await;
}

#[tokio::test(start_paused = true)]
async fn orphans_stay_without_their_owner() {
    let api = Api::new().await;
    let owner = api.post(JOBS, widget("owner")).await.ok();
    api.post(JOBS, owned("child", &[&owner])).await.ok();
    api.delete(
        &format!("{JOBS}/owner"),
        json!({"propagationPolicy": "Orphan"}),
    )
    .await
    .ok();
    api.until_gone(&format!("{JOBS}/owner")).await;
    let child = api.get(&format!("{JOBS}/child")).await.ok();
    assert!(child.body["metadata"].get("ownerReferences").is_none());
}

#[tokio::test(start_paused = true)]
async fn cluster_objects_own_but_owners_elsewhere_never_cost_an_object() {
    let api = Api::new().await;
    api.post(CRDS, gadget_definition()).await.ok();
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}}))
        .await
        .ok();
    let gadget = api
        .post(
            "/apis/example.com/v1/gadgets",
            json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g"}}),
        )
        .await
        .ok();
    let elsewhere = api
        .post(&JOBS.replace("default", "other"), widget("elsewhere"))
        .await
        .ok();
    api.post(JOBS, owned("of-gadget", &[&gadget])).await.ok();
    api.post(JOBS, owned("misplaced", &[&elsewhere])).await.ok();
    let mut unknown = owned("unknown", &[&elsewhere]);
    unknown["metadata"]["ownerReferences"][0]["kind"] = json!("Unheard");
    api.post(JOBS, unknown).await.ok();
    api.until(async || {
        api.get("/api/v1/namespaces/default/events")
            .await
            .text
            .contains("OwnerRefInvalidNamespace")
    })
    .await;
    api.delete("/apis/example.com/v1/gadgets/g", Value::Null)
        .await
        .ok();
    api.until_gone(&format!("{JOBS}/of-gadget")).await;
    assert_eq!(api.get(&format!("{JOBS}/misplaced")).await.code, 200);
    assert_eq!(api.get(&format!("{JOBS}/unknown")).await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn repeated_owners_are_removed_with_a_warning_and_two_controllers_refused() {
    let api = Api::new().await;
    let owner = api.post(JOBS, widget("owner")).await.ok();
    let twice = api.post(JOBS, owned("twice", &[&owner, &owner])).await.ok();
    assert_eq!(
        twice.body["metadata"]["ownerReferences"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert!(
        twice.warnings()[0].contains("duplicate"),
        "{:?}",
        twice.warnings()
    );
    let mut two = owned("two", &[&owner, &owner]);
    for (i, uid) in [(0, "u1"), (1, "u2")] {
        two["metadata"]["ownerReferences"][i]["controller"] = json!(true);
        two["metadata"]["ownerReferences"][i]["uid"] = json!(uid);
    }
    assert_eq!(api.post(JOBS, two).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn a_restart_finishes_what_was_left() {
    let api = Api::new().await;
    let owner = api.post(JOBS, widget("owner")).await.ok();
    api.post(JOBS, owned("child", &[&owner])).await.ok();
    // The upkeep stops before it can act.
    api.registry.shutdown().cancel();
    tokio::task::yield_now().await;
    api.delete(&format!("{JOBS}/owner"), Value::Null).await.ok();
    assert_eq!(api.get(&format!("{JOBS}/child")).await.code, 200);
    api.registry.cache().close().await;
    let store = std::sync::Arc::clone(&api.store);
    let next = Api::over(store, Vec::new()).await;
    next.until_gone(&format!("{JOBS}/child")).await;
}
