//! Create, get, replace: metadata rules, generation, status isolation, no-ops, dry runs, field validation, ownership.

use std::fmt::Write as _;

use axum::body::Body;
use serde_json::json;

use super::{Api, CRDS, JOBS, JSON_PATCH, MERGE, gadget_definition, widget};

#[tokio::test(start_paused = true)]
async fn a_create_answers_with_the_stored_object() {
    let api = Api::new().await;
    let mut body = widget("a");
    body["metadata"]["creationTimestamp"] = json!(null);
    body["metadata"]["uid"] = json!("mine");
    body["metadata"]["generation"] = json!(9);
    body["metadata"]["selfLink"] = json!("/x");
    body["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    body["status"] = json!({"phase": "Mine"});
    let made = api.post(JOBS, body).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let metadata = &made.body["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["generation"], 1);
    assert_ne!(metadata["uid"], "mine");
    assert_eq!(metadata["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert!(metadata.get("deletionTimestamp").is_none() && metadata.get("selfLink").is_none());
    assert!(
        made.body.get("status").is_none(),
        "the status is written apart"
    );
    assert_eq!(
        made.body["spec"],
        json!({"color": "red", "size": 1}),
        "defaults are filled in"
    );
    let entry = &metadata["managedFields"][0];
    assert_eq!(
        (&entry["manager"], &entry["operation"]),
        (&json!("test"), &json!("Update"))
    );
    let got = api.get(&format!("{JOBS}/a")).await;
    assert_eq!(got.code, 200);
    assert_eq!(got.text, made.text);
    assert!(
        made.text
            .starts_with("{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\"")
    );
    assert_eq!(got.headers["content-type"], "application/json");
}

#[tokio::test(start_paused = true)]
async fn names_are_generated_and_tried_again_when_taken() {
    let api = Api::new().await;
    let mut body = widget("x");
    body["metadata"] = json!({"generateName": format!("{}-", "a".repeat(80))});
    let made = api.post(JOBS, body.clone()).await.ok();
    let name = made.body["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(name.len(), 63);
    assert!(name.starts_with(&"a".repeat(58)));
    let other = api.post(JOBS, body).await.ok();
    assert_ne!(other.body["metadata"]["name"], name.as_str());
    let none = api
        .post(
            JOBS,
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {}}),
        )
        .await;
    assert_eq!(none.code, 422);
    assert!(
        none.text.contains("name or generateName is required"),
        "{}",
        none.text
    );
}

#[tokio::test(start_paused = true)]
async fn generation_counts_what_users_want_and_nothing_else() {
    let api = Api::new().await;
    api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    let status = format!("{path}/status");
    for (target, patch, generation) in [
        (&path, json!({"metadata": {"labels": {"a": "b"}}}), 1),
        (&path, json!({"spec": {"color": "blue"}}), 2),
        (&path, json!({"spec": {"color": "blue"}}), 2),
        (&status, json!({"status": {"phase": "Running"}}), 2),
        (&path, json!({"metadata": {"generation": 77}}), 2),
        (&path, json!({"status": {"phase": "Ignored"}}), 2),
        (
            &path,
            json!({"metadata": {"finalizers": ["example.com/x"]}}),
            2,
        ),
    ] {
        let answer = api.patch(target, MERGE, patch.clone()).await.ok();
        assert_eq!(answer.body["metadata"]["generation"], generation, "{patch}");
    }
    let marked = api.delete(&path, json!(null)).await.ok();
    assert_eq!(marked.body["metadata"]["generation"], 3);
    assert_eq!(marked.body["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked.body["status"]["phase"], "Running");
}

#[tokio::test(start_paused = true)]
async fn status_and_spec_are_isolated_by_endpoint() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    let mut body = made.body.clone();
    body["status"] = json!({"phase": "Running"});
    body["spec"]["color"] = json!("green");
    body["metadata"]["labels"] = json!({"x": "y"});
    body["metadata"]["finalizers"] = json!(["example.com/x"]);
    let put = api.put(&format!("{path}/status"), body.clone()).await.ok();
    assert_eq!(put.body["status"]["phase"], "Running");
    assert_eq!(put.body["spec"]["color"], "red");
    assert!(
        put.body["metadata"].get("labels").is_none()
            && put.body["metadata"].get("finalizers").is_none()
    );
    assert!(put.rv() > made.rv());
    let entries = put.body["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        entries.iter().any(|e| e["subresource"] == "status"),
        "{entries:?}"
    );
    body["metadata"]["resourceVersion"] = put.body["metadata"]["resourceVersion"].clone();
    body["status"] = json!({"phase": "Stolen"});
    let main = api.put(&path, body.clone()).await.ok();
    assert_eq!(main.body["status"]["phase"], "Running");
    assert_eq!(main.body["spec"]["color"], "green");
    let stale = api.put(&format!("{path}/status"), body).await;
    assert_eq!(
        (stale.code, &stale.body["reason"]),
        (409, &json!("Conflict"))
    );
    let got = api.get(&format!("{path}/status")).await.ok();
    assert_eq!(got.text, main.text);
}

#[tokio::test(start_paused = true)]
async fn writes_that_change_nothing_keep_the_revision_and_make_no_event() {
    let api = Api::new().await;
    let made = api.post(JOBS, widget("a")).await.ok();
    let path = format!("{JOBS}/a");
    let mut watch = api
        .watch(&format!("{JOBS}?watch=1&resourceVersion={}", made.rv()))
        .await;
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    for answer in [
        api.put(&path, made.body.clone()).await,
        api.patch(&path, MERGE, json!({})).await,
        api.patch(
            &path,
            MERGE,
            json!({"metadata": {"labels": {"gone": null}}}),
        )
        .await,
        api.patch(
            &path,
            JSON_PATCH,
            json!([{"op": "test", "path": "/spec/color", "value": "red"}]),
        )
        .await,
        api.patch(
            &format!("{path}/status"),
            MERGE,
            json!({"spec": {"color": "blue"}}),
        )
        .await,
    ] {
        assert_eq!(answer.code, 200, "{}", answer.text);
        assert_eq!(answer.text, made.text);
    }
    assert!(watch.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn dry_runs_do_everything_but_store() {
    let api = Api::new().await;
    let before = api.registry.cache().current_revision();
    let made = api.post(&format!("{JOBS}?dryRun=All"), widget("a")).await;
    assert_eq!(made.code, 201);
    assert!(
        made.body["metadata"]["uid"].is_string()
            && made.body["metadata"]["creationTimestamp"].is_string()
    );
    assert!(
        made.body["metadata"].get("resourceVersion").is_none(),
        "{}",
        made.text
    );
    assert_eq!(api.get(&format!("{JOBS}/a")).await.code, 404);
    let bad = api.post(&format!("{JOBS}?dryRun=All"), json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"color": "pink"}})).await;
    assert_eq!(bad.code, 422);
    assert_eq!(api.registry.cache().current_revision(), before);
    let real = api.post(JOBS, widget("a")).await.ok();
    assert_eq!(
        api.post(&format!("{JOBS}?dryRun=All"), widget("a"))
            .await
            .code,
        409
    );
    let patched = api
        .patch(
            &format!("{JOBS}/a?dryRun=All"),
            MERGE,
            json!({"spec": {"color": "blue"}}),
        )
        .await
        .ok();
    assert_eq!(patched.body["spec"]["color"], "blue");
    assert_eq!(patched.rv(), real.rv());
    let deleted = api
        .delete(&format!("{JOBS}/a"), json!({"dryRun": ["All"]}))
        .await
        .ok();
    assert_eq!(deleted.body["status"], "Success");
    assert_eq!(
        api.delete(&format!("{JOBS}/a?dryRun=All"), json!(null))
            .await
            .ok()
            .body["status"],
        "Success"
    );
    assert_eq!(api.get(&format!("{JOBS}/a")).await.ok().text, real.text);
    for (path, body) in [
        (format!("{JOBS}/a?dryRun=Some"), json!(null)),
        (format!("{JOBS}/a"), json!({"dryRun": ["Some"]})),
    ] {
        assert_eq!(api.delete(&path, body).await.code, 422);
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_and_duplicate_fields_are_dropped_told_or_refused() {
    let api = Api::new().await;
    let body = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"NAME","bogus":1},"spec":{"color":"red","color":"blue","foo":1}}"#;
    let post = async |validation: &str, name: &str| {
        api.call(
            "POST",
            &format!("{JOBS}{validation}"),
            &[],
            body.replace("NAME", name),
        )
        .await
    };
    let warned = post("", "warn").await.ok();
    let mut warnings = warned.warnings();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "299 - \"duplicate field \\\"spec.color\\\"\"",
            "299 - \"unknown field \\\"metadata.bogus\\\"\"",
            "299 - \"unknown field \\\"spec.foo\\\"\"",
        ]
    );
    assert!(
        warned.body["spec"].get("foo").is_none() && warned.body["metadata"].get("bogus").is_none()
    );
    assert_eq!(
        post("?fieldValidation=Ignore", "ignored")
            .await
            .ok()
            .warnings(),
        Vec::<String>::new()
    );
    let strict = post("?fieldValidation=Strict", "strict").await;
    assert_eq!(
        (strict.code, &strict.body["reason"]),
        (400, &json!("BadRequest"))
    );
    let message = strict.body["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: "
        ),
        "{message}"
    );
    assert!(
        message.contains("unknown field \"spec.foo\"")
            && message.contains("duplicate field \"spec.color\""),
        "{message}"
    );
    assert_eq!(post("?fieldValidation=Maybe", "x").await.code, 422);
    let patch = api
        .patch(
            &format!("{JOBS}/warn?fieldValidation=Strict"),
            MERGE,
            json!({"spec": {"bar": 1}}),
        )
        .await;
    assert_eq!(patch.code, 422);
    assert_eq!(patch.body["details"]["causes"][0]["field"], "patch");
    assert!(
        patch.text.contains("strict decoding error: unknown field"),
        "{}",
        patch.text
    );
}

#[tokio::test(start_paused = true)]
async fn the_manager_comes_from_the_request_or_its_agent() {
    let api = Api::new().await;
    let made = api
        .post(&format!("{JOBS}?fieldManager=kubectl-create"), widget("a"))
        .await
        .ok();
    assert_eq!(
        made.body["metadata"]["managedFields"][0]["manager"],
        "kubectl-create"
    );
    let changed = api
        .patch(
            &format!("{JOBS}/a"),
            MERGE,
            json!({"spec": {"color": "blue"}}),
        )
        .await
        .ok();
    let entries = changed.body["metadata"]["managedFields"]
        .as_array()
        .unwrap();
    let of = |manager: &str| {
        entries
            .iter()
            .find(|e| e["manager"] == manager)
            .map(|e| e["fieldsV1"].to_string())
    };
    assert!(of("test").unwrap().contains("f:color"));
    assert!(!of("kubectl-create").unwrap().contains("f:color"));
    let long = api
        .post(
            &format!("{JOBS}?fieldManager={}", "m".repeat(129)),
            widget("b"),
        )
        .await;
    assert_eq!(long.code, 422);
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_status_subresource_keeps_status_as_data() {
    let api = Api::bare().await;
    api.post(CRDS, gadget_definition()).await.ok();
    let path = "/apis/example.com/v1/gadgets";
    let body = json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g", "namespace": "x"}, "status": {"a": 1}, "any": [1, 2.5]});
    let made = api.post(path, body).await.ok();
    assert_eq!(made.body["status"], json!({"a": 1}));
    assert_eq!(made.body["any"], json!([1, 2.5]));
    assert!(made.body["metadata"].get("namespace").is_none());
    let changed = api
        .patch(&format!("{path}/g"), MERGE, json!({"status": {"a": 2}}))
        .await
        .ok();
    assert_eq!(changed.body["metadata"]["generation"], 2);
    let missing = api.get(&format!("{path}/g/status")).await;
    assert_eq!(
        (missing.code, &missing.body["reason"]),
        (404, &json!("NotFound"))
    );
}

#[tokio::test(start_paused = true)]
async fn scale_shows_and_sets_the_counts() {
    let api = Api::new().await;
    let mut body = widget("a");
    body["spec"]["replicas"] = json!(2);
    let made = api.post(JOBS, body).await.ok();
    let path = format!("{JOBS}/a/scale");
    api.patch(
        &format!("{JOBS}/a/status"),
        MERGE,
        json!({"status": {"replicas": 1, "selector": "a=b"}}),
    )
    .await
    .ok();
    let scale = api.get(&path).await.ok().body;
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(scale["spec"], json!({"replicas": 2}));
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=b"}));
    assert_eq!(scale["metadata"]["uid"], made.body["metadata"]["uid"]);
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(5);
    wanted["status"]["replicas"] = json!(9);
    let put = api.call("PUT", &path, &[], wanted.to_string()).await.ok();
    assert_eq!(put.body["spec"]["replicas"], 5);
    assert_eq!(put.body["status"]["replicas"], 1);
    assert_eq!(api.put(&path, wanted).await.code, 409);
    api.patch(&path, MERGE, json!({"spec": {"replicas": 7}}))
        .await
        .ok();
    let object = api.get(&format!("{JOBS}/a")).await.ok().body;
    assert_eq!(object["spec"]["replicas"], 7);
    assert_eq!(object["metadata"]["generation"], 3);
    assert_eq!(
        api.patch(&path, MERGE, json!({"spec": {"replicas": -1}}))
            .await
            .code,
        422
    );
    assert_eq!(
        api.call("DELETE", &path, &[], Body::empty()).await.code,
        405
    );
}

#[tokio::test(start_paused = true)]
async fn answers_can_be_tables_yaml_or_metadata_only() {
    let api = Api::new().await;
    api.post(JOBS, widget("a")).await.ok();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for path in [JOBS.to_owned(), format!("{JOBS}/a")] {
        let answer = api
            .call("GET", &path, &[("accept", table)], Body::empty())
            .await
            .ok();
        assert_eq!(answer.body["kind"], "Table");
        assert_eq!(answer.body["rows"][0]["cells"], json!(["a", "red"]));
    }
    let yaml = api
        .call(
            "GET",
            &format!("{JOBS}/a"),
            &[("accept", "application/yaml")],
            Body::empty(),
        )
        .await
        .ok();
    assert!(yaml.text.contains("color: red"), "{}", yaml.text);
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = api
        .call("GET", JOBS, &[("accept", partial)], Body::empty())
        .await
        .ok();
    assert_eq!(list.body["kind"], "PartialObjectMetadataList");
    assert!(list.body["items"][0].get("spec").is_none());
    let none = api
        .call(
            "GET",
            JOBS,
            &[("accept", "application/vnd.kubernetes.protobuf")],
            Body::empty(),
        )
        .await;
    assert_eq!(
        (none.code, &none.body["reason"]),
        (406, &json!("NotAcceptable"))
    );
    let written = api
        .call("POST", JOBS, &[("accept", table)], widget("b").to_string())
        .await;
    assert_eq!(
        (written.code, &written.body["kind"]),
        (201, &json!("Table"))
    );
}

#[tokio::test(start_paused = true)]
async fn yaml_bodies_are_taken_and_bombs_are_not() {
    let api = Api::new().await;
    let yaml =
        "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: y}\nspec: {color: green}\n";
    let made = api
        .call("POST", JOBS, &[("content-type", "application/yaml")], yaml)
        .await
        .ok();
    assert_eq!(made.body["spec"]["color"], "green");
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        writeln!(bomb, "a{i}: &a{i} [{refs}]").unwrap();
    }
    for (form, body) in [
        ("application/yaml", bomb),
        ("application/json", "[".repeat(1_000)),
        (
            "application/json",
            format!("{}1{}", "{\"a\":".repeat(1_000), "}".repeat(1_000)),
        ),
    ] {
        let answer = api
            .call("POST", JOBS, &[("content-type", form)], body)
            .await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (400, &json!("BadRequest")),
            "{}",
            answer.text
        );
    }
}
