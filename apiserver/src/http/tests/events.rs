//! Events in both groups, Leases, Secrets and ConfigMaps.

use std::time::Duration;

use serde_json::json;

use super::{Api, MERGE};

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

#[tokio::test(start_paused = true)]
async fn what_one_group_writes_the_other_reads() {
    let api = Api::bare().await;
    let made = api
        .post(
            NEW,
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
                "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i", "action": "Do",
                "reason": "Started", "type": "Normal", "note": "it began",
                "regarding": {"kind": "Job", "name": "x", "namespace": "default", "uid": "u1"}}),
        )
        .await
        .ok();
    assert_eq!(made.body["note"], "it began");
    let core = api.get(&format!("{CORE}/e")).await.ok().body;
    assert_eq!(
        (&core["apiVersion"], &core["message"]),
        (&json!("v1"), &json!("it began"))
    );
    assert_eq!(core["involvedObject"]["name"], "x");
    assert_eq!(core["reportingComponent"], "c");
    let describe = "involvedObject.name%3Dx%2CinvolvedObject.namespace%3Ddefault%2CinvolvedObject.kind%3DJob%2CinvolvedObject.uid%3Du1";
    for (path, fields, count) in [
        (CORE, describe, 1),
        (CORE, "involvedObject.uid%3Du2", 0),
        (NEW, "regarding.name%3Dx%2CreportingController%3Dc", 1),
        (NEW, "regarding.name%3Dy", 0),
    ] {
        let list = api
            .get(&format!("{path}?fieldSelector={fields}&limit=500"))
            .await
            .ok();
        assert_eq!(
            list.body["items"].as_array().map(Vec::len),
            Some(count),
            "{path} {fields}"
        );
    }
    let list = api.get(NEW).await.ok().body;
    assert_eq!(
        (&list["kind"], &list["items"][0]["note"]),
        (&json!("EventList"), &json!("it began"))
    );
    let mut watch = api.watch(&format!("{NEW}?watch=1")).await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["regarding"]["name"],
        "x"
    );
    let patched = api
        .patch(
            &format!("{NEW}/e"),
            MERGE,
            json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}),
        )
        .await
        .ok();
    assert_eq!(patched.body["series"]["count"], 2);
    assert_eq!(watch.next().await.unwrap()["object"]["series"]["count"], 2);
    let counted = api
        .patch(
            &format!("{CORE}/e"),
            "application/strategic-merge-patch+json",
            json!({"count": 3}),
        )
        .await
        .ok();
    assert_eq!(counted.body["count"], 3);
    assert_eq!(
        api.get(&format!("{NEW}/e")).await.ok().body["deprecatedCount"],
        3
    );
    let untimed = api
        .post(
            NEW,
            json!({"metadata": {"name": "f"}, "regarding": {"namespace": "default"}}),
        )
        .await;
    assert_eq!(untimed.code, 422, "{}", untimed.text);
    let elsewhere = api
        .post(
            CORE,
            json!({"metadata": {"name": "g"}, "involvedObject": {"namespace": "other"}}),
        )
        .await;
    assert_eq!(elsewhere.code, 422, "{}", elsewhere.text);
}

#[tokio::test(start_paused = true)]
async fn events_expire_an_hour_after_they_were_written_last() {
    let api = Api::bare().await;
    for name in ["a", "b"] {
        api.post(
            CORE,
            json!({"metadata": {"name": name}, "involvedObject": {"namespace": "default"}}),
        )
        .await
        .ok();
    }
    let mut watch = api
        .watch(&format!(
            "{CORE}?watch=1&resourceVersion={}",
            api.registry.cache().current_revision()
        ))
        .await;
    tokio::time::sleep(Duration::from_mins(30)).await;
    api.patch(&format!("{CORE}/b"), MERGE, json!({"count": 2}))
        .await
        .ok();
    assert_eq!(watch.short().await, "MODIFIED b");
    tokio::time::sleep(Duration::from_secs(1_801)).await;
    assert_eq!(watch.short().await, "DELETED a");
    assert_eq!(api.get(&format!("{CORE}/b")).await.code, 200);
    let mut watch = api
        .watch(&format!(
            "{CORE}?watch=1&resourceVersion={}",
            api.registry.cache().current_revision()
        ))
        .await;
    assert_eq!(watch.short().await, "DELETED b");
}

#[tokio::test(start_paused = true)]
async fn leases_lock() {
    let api = Api::bare().await;
    assert_eq!(api.get(&format!("{LEASES}/l")).await.code, 404);
    let body = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.123456Z"}});
    let made = api.post(LEASES, body.clone()).await.ok();
    assert_eq!(
        made.body["spec"]["renewTime"],
        "2026-01-01T00:00:00.123456Z"
    );
    assert!(made.body["metadata"].get("generation").is_none());
    let taken = api.post(LEASES, body).await;
    assert_eq!(
        (taken.code, &taken.body["reason"]),
        (409, &json!("AlreadyExists"))
    );
    let mut renewed = made.body.clone();
    renewed["spec"]["renewTime"] = json!("2026-01-01T00:00:10.000000Z");
    api.put(&format!("{LEASES}/l"), renewed.clone()).await.ok();
    assert_eq!(
        api.put(&format!("{LEASES}/l"), renewed.clone()).await.code,
        409,
        "a stale holder loses"
    );
    renewed["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    api.put(&format!("{LEASES}/l"), renewed).await.ok();
}

#[tokio::test(start_paused = true)]
async fn secrets_and_config_maps_follow_their_rules() {
    let api = Api::bare().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let made = api
        .post(
            secrets,
            json!({"metadata": {"name": "s"}, "data": {"a": "eA=="}, "stringData": {"b": "y"}}),
        )
        .await
        .ok();
    assert_eq!(made.body["data"], json!({"a": "eA==", "b": "eQ=="}));
    assert_eq!(made.body["type"], "Opaque");
    assert!(made.body.get("stringData").is_none());
    assert_eq!(
        api.patch(&format!("{secrets}/s"), MERGE, json!({"type": "other"}))
            .await
            .code,
        422
    );
    assert_eq!(
        api.post(
            secrets,
            json!({"metadata": {"name": "t"}, "data": {"a": "!"}})
        )
        .await
        .code,
        422
    );
    let typed = api
        .get(&format!("{secrets}?fieldSelector=type%3DOpaque"))
        .await
        .ok();
    assert_eq!(typed.body["items"].as_array().map(Vec::len), Some(1));
    let maps = "/api/v1/namespaces/default/configmaps";
    api.post(
        maps,
        json!({"metadata": {"name": "c"}, "data": {"k": "v"}, "immutable": true}),
    )
    .await
    .ok();
    let changed = api
        .patch(&format!("{maps}/c"), MERGE, json!({"data": {"k": "w"}}))
        .await;
    assert_eq!(changed.code, 422);
    assert!(
        changed
            .text
            .contains("field is immutable when `immutable` is set")
    );
    assert_eq!(
        api.patch(
            &format!("{maps}/c"),
            MERGE,
            json!({"metadata": {"labels": {"a": "b"}}})
        )
        .await
        .code,
        200
    );
    let large = json!({"metadata": {"name": "d"}, "data": {"k": "v".repeat((1 << 20) + 1)}});
    assert_eq!(api.post(maps, large).await.code, 422);
}
