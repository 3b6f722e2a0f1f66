//! Every error that a client can meet, with its code, reason, text and details.

use axum::body::Body;
use serde_json::{Value, json};

use super::{Api, CRDS, JOBS, gadget_definition, widget};

#[tokio::test(start_paused = true)]
#[expect(clippy::too_many_lines, reason = "a table with a row an error")]
async fn bad_requests_get_the_status_that_kubernetes_gives() {
    let api = Api::new().await;
    api.post(CRDS, gadget_definition()).await.ok();
    api.post(JOBS, widget("a")).await.ok();
    let with = |key: &str, value: Value| {
        let mut body = widget("b");
        body[key] = value;
        body.to_string()
    };
    let big = format!("{{\"x\":\"{}\"}}", "x".repeat(4 << 20));
    let rows: Vec<(&str, String, String, u16, &str, &str)> = vec![
        (
            "GET",
            format!("{JOBS}/none"),
            String::new(),
            404,
            "NotFound",
            "widgets.example.com \"none\" not found",
        ),
        (
            "POST",
            JOBS.into(),
            widget("a").to_string(),
            409,
            "AlreadyExists",
            "widgets.example.com \"a\" already exists",
        ),
        ("POST", JOBS.into(), "{".into(), 400, "BadRequest", ""),
        ("POST", JOBS.into(), String::new(), 400, "BadRequest", ""),
        ("POST", JOBS.into(), "[]".into(), 400, "BadRequest", ""),
        (
            "POST",
            JOBS.into(),
            big,
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        ),
        (
            "POST",
            JOBS.into(),
            with("kind", json!("")),
            400,
            "BadRequest",
            "Object 'Kind' is missing in",
        ),
        (
            "POST",
            JOBS.into(),
            with("kind", json!("Job")),
            422,
            "Invalid",
            "kind: Invalid value: \"Job\": must be Widget",
        ),
        (
            "POST",
            JOBS.into(),
            with("apiVersion", json!("example.com/v2")),
            400,
            "BadRequest",
            "the API version in the data (example.com/v2) does not match the expected API version (example.com/v1)",
        ),
        (
            "POST",
            JOBS.into(),
            with("metadata", json!({"name": "b", "namespace": "other"})),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            JOBS.into(),
            with("metadata", json!({"name": "b", "resourceVersion": "5"})),
            400,
            "BadRequest",
            "resourceVersion should not be set on objects to be created",
        ),
        (
            "POST",
            JOBS.into(),
            with("metadata", json!({"name": "b", "labels": {"a": 1}})),
            400,
            "BadRequest",
            "cannot be handled as a Widget",
        ),
        (
            "POST",
            JOBS.into(),
            with("metadata", json!({"name": "Not_A_Name"})),
            422,
            "Invalid",
            "Widget.example.com \"Not_A_Name\" is invalid: metadata.name: Invalid value",
        ),
        (
            "POST",
            JOBS.into(),
            with("spec", json!({"color": "pink"})),
            422,
            "Invalid",
            "spec.color: Unsupported value: \"pink\": supported values: \"red\", \"green\", \"blue\"",
        ),
        (
            "POST",
            "/apis/example.com/v1/namespaces/nowhere/widgets".into(),
            widget("b").to_string(),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        (
            "PUT",
            format!("{JOBS}/none"),
            widget("none").to_string(),
            404,
            "NotFound",
            "not found",
        ),
        (
            "PUT",
            format!("{JOBS}/none"),
            with("metadata", json!({"name": "none", "resourceVersion": "1"})),
            404,
            "NotFound",
            "not found",
        ),
        (
            "PUT",
            format!("{JOBS}/a"),
            with("metadata", json!({"name": "b", "resourceVersion": "1"})),
            400,
            "BadRequest",
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            "POST",
            format!("{JOBS}/a"),
            widget("a").to_string(),
            405,
            "MethodNotAllowed",
            "",
        ),
        (
            "PUT",
            JOBS.into(),
            widget("a").to_string(),
            405,
            "MethodNotAllowed",
            "",
        ),
        (
            "POST",
            format!("{JOBS}/a/status"),
            widget("a").to_string(),
            405,
            "MethodNotAllowed",
            "",
        ),
        (
            "GET",
            format!("{JOBS}/a/unknown"),
            String::new(),
            404,
            "NotFound",
            "",
        ),
        (
            "GET",
            format!("{JOBS}?labelSelector=a%20b"),
            String::new(),
            400,
            "BadRequest",
            "unable to parse requirement",
        ),
        (
            "GET",
            format!("{JOBS}?fieldSelector=spec.size%3D1"),
            String::new(),
            400,
            "BadRequest",
            "field label not supported: spec.size",
        ),
        (
            "GET",
            format!("{JOBS}?resourceVersion=abc"),
            String::new(),
            400,
            "BadRequest",
            "",
        ),
        (
            "GET",
            format!("{JOBS}?limit=abc"),
            String::new(),
            400,
            "BadRequest",
            "",
        ),
        (
            "GET",
            format!("{JOBS}?continue=abc"),
            String::new(),
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        (
            "GET",
            format!("{JOBS}?watch=1&resourceVersion=abc"),
            String::new(),
            400,
            "BadRequest",
            "",
        ),
        (
            "GET",
            format!("{JOBS}?watch=1&fieldSelector=spec.size%3D1"),
            String::new(),
            400,
            "BadRequest",
            "field label not supported",
        ),
    ];
    for (method, path, body, code, reason, message) in rows {
        let answer = api
            .call(method, &path, &[("content-type", "application/json")], body)
            .await;
        let shown = answer.text.chars().take(300).collect::<String>();
        assert_eq!(answer.code, code, "{method} {path}: {shown}");
        assert_eq!(answer.body["kind"], "Status", "{method} {path}");
        assert_eq!(answer.body["apiVersion"], "v1");
        assert_eq!(answer.body["status"], "Failure");
        assert_eq!(answer.body["code"], code);
        assert_eq!(answer.body["reason"], reason, "{method} {path}: {shown}");
        assert!(
            answer.body["message"].as_str().unwrap().contains(message),
            "{method} {path}: {shown}"
        );
        assert!(
            !answer.headers.contains_key("retry-after"),
            "{method} {path}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn details_name_the_plural_but_the_kind_when_invalid() {
    let api = Api::new().await;
    let missing = api.get(&format!("{JOBS}/x")).await;
    assert_eq!(
        missing.body["details"],
        json!({"name": "x", "group": "example.com", "kind": "widgets"})
    );
    let mut body = widget("b");
    body["spec"] = json!({"color": "pink", "size": 0});
    let invalid = api.post(JOBS, body).await;
    let details = &invalid.body["details"];
    assert_eq!(
        (&details["name"], &details["group"], &details["kind"]),
        (&json!("b"), &json!("example.com"), &json!("Widget"))
    );
    let mut fields: Vec<&str> = details["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    assert_eq!(fields, ["spec.color", "spec.size"], "all are told at once");
    let namespace = api.get("/api/v1/namespaces/x").await;
    assert_eq!(
        namespace.body["details"],
        json!({"name": "x", "kind": "namespaces"})
    );
    assert_eq!(namespace.body["message"], "namespaces \"x\" not found");
}

#[tokio::test(start_paused = true)]
async fn unknown_paths_are_plain_text() {
    let api = Api::new().await;
    for path in [
        "/apis/example.com/v1/nothings",
        "/apis/example.com/v9/widgets",
        "/apis/other.com/v1/widgets",
        "/api/v1/pods",
        "/apis/apiextensions.k8s.io/v1/namespaces/default/customresourcedefinitions",
        "/apis/example.com/v1/widgets/a",
    ] {
        let answer = api.get(path).await;
        assert_eq!(
            (answer.code, answer.text.as_str()),
            (404, "404 page not found\n"),
            "{path}"
        );
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    assert_eq!(
        api.get("/apis/example.com/v1/widgets").await.code,
        200,
        "all namespaces can be listed"
    );
}

#[tokio::test(start_paused = true)]
async fn media_types_are_held_to_what_is_offered() {
    let api = Api::new().await;
    let cms = "/api/v1/namespaces/default/configmaps";
    for (path, form, code) in [
        (JOBS, "application/vnd.kubernetes.protobuf", 415),
        (JOBS, "application/cbor", 415),
        (JOBS, "application/merge-patch+json", 415),
        (JOBS, "text/plain", 415),
        (cms, "application/cbor", 415),
    ] {
        let answer = api
            .call(
                "POST",
                path,
                &[("content-type", form)],
                widget("m").to_string(),
            )
            .await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (code, &json!("UnsupportedMediaType")),
            "{path} {form}"
        );
    }
    let untyped = api.call("POST", JOBS, &[], widget("m").to_string()).await;
    assert_eq!(untyped.code, 201);
    let yaml = api
        .call(
            "GET",
            &format!("{JOBS}/none"),
            &[("accept", "application/yaml")],
            Body::empty(),
        )
        .await;
    assert_eq!(yaml.code, 404);
    assert!(yaml.text.contains("reason: NotFound"), "{}", yaml.text);
}
