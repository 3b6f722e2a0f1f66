//! Watches: framing, starting points, selectors, bookmarks, errors, ends.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Api, CRDS, JOBS, MERGE, widget, widget_definition};

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_revision_sees_every_change_after_it_once() {
    let api = Api::new().await;
    let first = api.post(JOBS, widget("a")).await.ok();
    api.post(JOBS, widget("b")).await.ok();
    let mut watch = api
        .watch(&format!("{JOBS}?watch=true&resourceVersion={}", first.rv()))
        .await;
    let changed = api
        .patch(
            &format!("{JOBS}/a"),
            MERGE,
            json!({"spec": {"color": "blue"}}),
        )
        .await
        .ok();
    let deleted = api.delete(&format!("{JOBS}/a"), Value::Null).await.ok();
    assert_eq!(deleted.body["status"], "Success");
    assert_eq!(watch.short().await, "ADDED b");
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]),
        (&json!("MODIFIED"), &changed.body)
    );
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    let revision: u64 = event["object"]["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        revision > changed.rv(),
        "a deletion has a revision of its own"
    );
    assert!(watch.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_a_revision_begins_with_what_is_there() {
    let api = Api::new().await;
    for name in ["b", "a"] {
        api.post(JOBS, widget(name)).await.ok();
    }
    for query in [
        "watch=1",
        "watch=1&resourceVersion=0",
        "watch=1&resourceVersion=0&allowWatchBookmarks=true",
    ] {
        let mut watch = api.watch(&format!("{JOBS}?{query}")).await;
        assert_eq!(watch.short().await, "ADDED a", "{query}");
        assert_eq!(watch.short().await, "ADDED b");
        assert!(watch.is_silent().await);
    }
    let mut one = api
        .watch(&format!(
            "{JOBS}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Da"
        ))
        .await;
    assert_eq!(one.short().await, "ADDED a");
    assert!(one.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_marks_the_end_of_the_initial_state() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let base = format!(
        "{JOBS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    for revision in [
        String::new(),
        "&resourceVersion=0".into(),
        format!("&resourceVersion={}", made.rv()),
    ] {
        let mut watch = api.watch(&format!("{base}{revision}")).await;
        assert_eq!(watch.short().await, "ADDED a", "{revision}");
        let mark = watch.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(
            (&mark["object"]["kind"], &mark["object"]["apiVersion"]),
            (&json!("Widget"), &json!("example.com/v1"))
        );
        let metadata = &mark["object"]["metadata"];
        assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(
            metadata["resourceVersion"],
            api.registry.cache().current_revision().to_string()
        );
        assert!(watch.is_silent().await);
    }
    let live = "?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let mut watch = api
        .watch(&format!("{JOBS}{live}&resourceVersion={}", made.rv()))
        .await;
    assert!(watch.is_silent().await);
    for query in [
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
    ] {
        let refused = api.get(&format!("{JOBS}?watch=1&{query}")).await;
        assert_eq!(refused.code, 422, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn too_old_and_future_revisions_are_errors_within_the_stream() {
    let api = Api::new().await;
    api.post(JOBS, widget("a")).await.ok();
    let current = api.registry.cache().current_revision();
    for revision in [5, current + 10] {
        let mut watch = api
            .watch(&format!("{JOBS}?watch=1&resourceVersion={revision}"))
            .await;
        let event = watch.next().await.unwrap();
        assert_eq!(
            event,
            json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": format!("too old resource version: {revision} ({current})"), "reason": "Expired", "code": 410}})
        );
        assert_eq!(watch.next().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn objects_enter_and_leave_a_selection() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let since = format!("watch=1&resourceVersion={}", made.rv());
    let mut by_field = api
        .watch(&format!("{JOBS}?{since}&fieldSelector=spec.color%3Dblue"))
        .await;
    let mut by_label = api.watch(&format!("{JOBS}?{since}&labelSelector=on")).await;
    let path = format!("{JOBS}/a");
    for patch in [
        json!({"spec": {"color": "blue"}, "metadata": {"labels": {"on": "1"}}}),
        json!({"spec": {"size": 2}}),
        json!({"spec": {"color": "red", "size": 3}, "metadata": {"labels": null}}),
        json!({"spec": {"size": 4}}),
    ] {
        api.patch(&path, MERGE, patch).await.ok();
    }
    for watch in [&mut by_field, &mut by_label] {
        assert_eq!(watch.short().await, "ADDED a");
        assert_eq!(watch.short().await, "MODIFIED a");
        let left = watch.next().await.unwrap();
        assert_eq!(left["type"], "DELETED");
        assert_eq!(left["object"]["spec"]["size"], 2, "the old object");
        let revision: u64 = left["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(revision, made.rv() + 3, "under the new revision");
        assert!(watch.is_silent().await);
    }
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_every_minute_and_before_the_end_for_those_who_ask() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let since = format!(
        "{JOBS}?watch=1&resourceVersion={}&timeoutSeconds=100",
        made.rv()
    );
    let mut without = api.watch(&since).await;
    let mut watch = api
        .watch(&format!("{since}&allowWatchBookmarks=true"))
        .await;
    let start = tokio::time::Instant::now();
    for second in [60, 98] {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(
            event["object"]["metadata"]["resourceVersion"],
            made.rv().to_string()
        );
        assert_eq!(event["object"]["kind"], "Widget");
        assert_eq!(start.elapsed().as_secs(), second);
    }
    assert_eq!(watch.next().await, None);
    assert_eq!(start.elapsed().as_secs(), 100);
    assert_eq!(without.next().await, None, "nothing but a clean end");
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_timeout_lasts_at_least_half_an_hour() {
    let api = Api::new().await;
    let mut watch = api.watch(&format!("{JOBS}?watch=1&timeout=5s")).await;
    let start = tokio::time::Instant::now();
    assert_eq!(watch.next().await, None);
    assert!(
        start.elapsed() >= Duration::from_mins(30) && start.elapsed() <= Duration::from_hours(1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_table_watch_defines_its_columns_once() {
    let api = Api::new().await;
    api.post(JOBS, widget("a")).await.ok();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut watch = api.watch_as(&format!("{JOBS}?watch=1"), table).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"].as_array().map(Vec::len), Some(1));
    api.post(JOBS, widget("b")).await.ok();
    let second = watch.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut watch = api.watch_as(&format!("{JOBS}?watch=1"), partial).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "PartialObjectMetadata");
    assert!(first["object"].get("spec").is_none());
}

#[tokio::test(start_paused = true)]
async fn watches_end_cleanly_with_the_server_and_with_their_kind() {
    let api = Api::new().await;
    let mut doomed = api.watch(&format!("{JOBS}?watch=1")).await;
    let mut definition = api
        .get(&format!("{CRDS}/widgets.example.com"))
        .await
        .ok()
        .body;
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["weight"] = json!({"type": "integer"});
    api.put(&format!("{CRDS}/widgets.example.com"), definition)
        .await
        .ok();
    assert_eq!(doomed.next().await, None, "its schema changed");
    let mut unharmed = api.watch(&format!("{JOBS}?watch=1")).await;
    api.patch(
        &format!("{CRDS}/widgets.example.com"),
        MERGE,
        json!({"metadata": {"labels": {"a": "b"}}}),
    )
    .await
    .ok();
    assert!(unharmed.is_silent().await);
    api.registry.shutdown().cancel();
    assert_eq!(unharmed.next().await, None);
    let _ = widget_definition();
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_keep_up_is_let_go() {
    let api = Api::new().await;
    let mut big = widget("a");
    big["metadata"]["annotations"] = json!({"x": "y".repeat(200_000)});
    let made = api.post(JOBS, big).await.ok();
    let mut slow = api
        .watch(&format!("{JOBS}?watch=1&resourceVersion={}", made.rv()))
        .await;
    let mut brisk = api
        .watch(&format!("{JOBS}?watch=1&resourceVersion={}", made.rv()))
        .await;
    for i in 0..200 {
        api.patch(
            &format!("{JOBS}/a"),
            MERGE,
            json!({"spec": {"size": i + 2}}),
        )
        .await
        .ok();
        assert_eq!(brisk.short().await, "MODIFIED a");
    }
    let mut seen = 0;
    while let Some(event) = slow.next().await {
        assert_eq!(event["type"], "MODIFIED");
        seen += 1;
    }
    assert!(
        seen < 200,
        "the stream ended early instead of growing: {seen}"
    );
}
