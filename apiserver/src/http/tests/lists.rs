//! Lists: order, pages of one snapshot, resourceVersion semantics, selectors, deletecollection.

use serde_json::{Value, json};

use super::{Api, JOBS, MERGE, widget};

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

async fn filled() -> Api {
    let api = Api::new().await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "alpha"}}))
        .await
        .ok();
    for (namespace, name, color) in [
        ("default", "c", "red"),
        ("default", "a", "blue"),
        ("alpha", "b", "red"),
        ("default", "d", "green"),
        ("default", "b", "red"),
    ] {
        let mut body = widget(name);
        body["spec"]["color"] = json!(color);
        body["metadata"]["labels"] = json!({"color": color});
        api.post(
            &format!("/apis/example.com/v1/namespaces/{namespace}/widgets"),
            body,
        )
        .await
        .ok();
    }
    api
}

#[tokio::test(start_paused = true)]
async fn lists_are_ordered_typed_and_never_null() {
    let api = filled().await;
    let all = api.get("/apis/example.com/v1/widgets").await.ok();
    assert_eq!(names(&all.body), ["b", "a", "b", "c", "d"]);
    assert_eq!(
        (&all.body["kind"], &all.body["apiVersion"]),
        (&json!("WidgetList"), &json!("example.com/v1"))
    );
    assert_eq!(all.body["items"][0]["kind"], "Widget");
    assert_eq!(all.rv(), api.registry.cache().current_revision());
    let none = api
        .get("/apis/example.com/v1/namespaces/nowhere/widgets")
        .await
        .ok();
    assert_eq!(none.body["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn pages_show_one_snapshot_under_one_revision() {
    let api = filled().await;
    let first = api.get(&format!("{JOBS}?limit=2")).await.ok();
    assert_eq!(names(&first.body), ["a", "b"]);
    assert_eq!(first.body["metadata"]["remainingItemCount"], 2);
    let token = first.body["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    api.patch(
        &format!("{JOBS}/d"),
        MERGE,
        json!({"spec": {"color": "blue"}}),
    )
    .await
    .ok();
    api.delete(&format!("{JOBS}/c"), Value::Null).await.ok();
    api.post(JOBS, widget("bb")).await.ok();
    let second = api
        .get(&format!("{JOBS}?limit=2&continue={token}"))
        .await
        .ok();
    assert_eq!(names(&second.body), ["c", "d"]);
    assert_eq!(second.rv(), first.rv());
    assert_eq!(second.body["items"][1]["spec"]["color"], "green");
    assert!(second.body["metadata"].get("continue").is_none());
    assert!(second.body["metadata"].get("remainingItemCount").is_none());
    let selected = api
        .get(&format!("{JOBS}?limit=1&labelSelector=color"))
        .await
        .ok();
    assert!(selected.body["metadata"]["continue"].is_string());
    assert!(
        selected.body["metadata"]
            .get("remainingItemCount")
            .is_none()
    );
    let with_rv = api
        .get(&format!(
            "{JOBS}?limit=2&continue={token}&resourceVersion=5"
        ))
        .await;
    assert_eq!(with_rv.code, 400);
    assert_eq!(
        with_rv.body["message"],
        "specifying resource version is not allowed when using continue"
    );
}

#[tokio::test(start_paused = true)]
async fn the_revision_of_a_list_means_what_its_match_says() {
    let api = filled().await;
    let now = api.registry.cache().current_revision();
    let then = now - 2;
    let future = now + 100;
    for (query, code, revision) in [
        (String::new(), 200, now),
        ("?resourceVersion=0".into(), 200, now),
        (format!("?resourceVersion={then}"), 200, now),
        (format!("?resourceVersion={then}&limit=10"), 200, then),
        ("?resourceVersion=0&limit=10".into(), 200, now),
        (
            format!("?resourceVersion={then}&resourceVersionMatch=NotOlderThan"),
            200,
            now,
        ),
        (
            format!("?resourceVersion={then}&resourceVersionMatch=NotOlderThan&limit=10"),
            200,
            now,
        ),
        (
            format!("?resourceVersion={then}&resourceVersionMatch=Exact"),
            200,
            then,
        ),
        ("?resourceVersionMatch=Exact".into(), 422, 0),
        ("?resourceVersionMatch=NotOlderThan".into(), 422, 0),
        (
            "?resourceVersion=0&resourceVersionMatch=Exact".into(),
            422,
            0,
        ),
        (
            "?resourceVersion=5&resourceVersionMatch=Maybe".into(),
            422,
            0,
        ),
        ("?sendInitialEvents=true".into(), 422, 0),
        ("?limit=-1".into(), 422, 0),
        (
            "?resourceVersion=1&resourceVersionMatch=Exact".into(),
            410,
            0,
        ),
        (format!("?resourceVersion={future}"), 504, 0),
        (
            format!("?resourceVersion={future}&resourceVersionMatch=Exact"),
            504,
            0,
        ),
    ] {
        let answer = api.get(&format!("{JOBS}{query}")).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.text);
        match code {
            200 => assert_eq!(answer.rv(), revision, "{query}"),
            410 => assert_eq!(answer.body["reason"], "Expired"),
            504 => {
                assert_eq!(
                    answer.body["details"]["causes"][0]["reason"],
                    "ResourceVersionTooLarge"
                );
                assert!(!answer.headers.contains_key("retry-after"));
            }
            _ => {}
        }
    }
    assert_eq!(
        api.get(&format!("{JOBS}/a?resourceVersion={future}"))
            .await
            .code,
        504
    );
    assert_eq!(
        api.get(&format!("{JOBS}/a?resourceVersion=0")).await.code,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_older_than_history_says_how_to_go_on() {
    let api = filled().await;
    let first = api.get(&format!("{JOBS}?limit=2")).await.ok();
    let token = first.body["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    // Snapshots of lists live for five minutes, history for ten.
    for minute in 0..30 {
        tokio::time::sleep(std::time::Duration::from_mins(1)).await;
        api.patch(
            &format!("{JOBS}/a"),
            MERGE,
            json!({"metadata": {"labels": {"m": minute.to_string()}}}),
        )
        .await
        .ok();
    }
    let expired = api.get(&format!("{JOBS}?limit=2&continue={token}")).await;
    assert_eq!(
        (expired.code, &expired.body["reason"]),
        (410, &json!("Expired"))
    );
    assert!(expired.body["message"].as_str().unwrap().starts_with(
        "The provided continue parameter is too old to display a consistent list result."
    ));
    let again = expired.body["metadata"]["continue"].as_str().unwrap();
    let rest = api
        .get(&format!("{JOBS}?limit=5&continue={again}"))
        .await
        .ok();
    assert_eq!(names(&rest.body), ["c", "d"]);
    let exact = api
        .get(&format!(
            "{JOBS}?resourceVersion={}&resourceVersionMatch=Exact",
            first.rv()
        ))
        .await;
    assert_eq!(
        (exact.code, &exact.body["message"]),
        (
            410,
            &json!("The resourceVersion for the provided list is too old.")
        )
    );
}

#[tokio::test(start_paused = true)]
async fn selectors_choose() {
    let api = filled().await;
    for (query, expected) in [
        ("labelSelector=color%3Dred", vec!["b", "c"]),
        (
            "labelSelector=color+in+%28red%2Cgreen%29%2Ccolor%21%3Dgreen",
            vec!["b", "c"],
        ),
        ("labelSelector=%21color", vec![]),
        ("fieldSelector=spec.color%3Dblue", vec!["a"]),
        ("fieldSelector=spec.color%21%3Dred", vec!["a", "d"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        (
            "fieldSelector=metadata.name%3Db%2Cspec.color%3D%3Dblue",
            vec![],
        ),
        ("fieldSelector=status.phase%3D", vec!["a", "b", "c", "d"]),
        ("fieldSelector=metadata.namespace%3Dalpha", vec![]),
    ] {
        let answer = api.get(&format!("{JOBS}?{query}")).await.ok();
        assert_eq!(names(&answer.body), expected, "{query}");
    }
    let across = api
        .get("/apis/example.com/v1/widgets?fieldSelector=metadata.namespace%3Dalpha")
        .await
        .ok();
    assert_eq!(names(&across.body), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_deleted_as_its_selectors_say() {
    let api = filled().await;
    let mut held = widget("held");
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    held["metadata"]["labels"] = json!({"color": "red"});
    api.post(JOBS, held).await.ok();
    let dry = api
        .delete(
            &format!("{JOBS}?labelSelector=color%3Dred"),
            json!({"dryRun": ["All"]}),
        )
        .await
        .ok();
    assert_eq!(names(&dry.body), ["b", "c", "held"]);
    assert_eq!(names(&api.get(JOBS).await.body).len(), 5);
    let deleted = api
        .delete(&format!("{JOBS}?labelSelector=color%3Dred"), Value::Null)
        .await
        .ok();
    assert_eq!(deleted.body["kind"], "WidgetList");
    assert_eq!(names(&deleted.body), ["b", "c", "held"]);
    let left = api.get(JOBS).await.ok();
    assert_eq!(names(&left.body), ["a", "d", "held"]);
    assert!(left.body["items"][2]["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        names(
            &api.get("/apis/example.com/v1/namespaces/alpha/widgets")
                .await
                .body
        ),
        ["b"]
    );
}
