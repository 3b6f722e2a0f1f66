//! Bad input gets the Status error that Kubernetes would give, and nothing else happens.

use anyhow::{Context, Result};
use e2e::processes::{Cluster, Role};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// The server alone, and a way to send it any bytes.
struct Server {
    cluster: Cluster,
    client: kube::Client,
}

const JOBS: &str = "/apis/gctl.dev/v1/namespaces/default/jobs";

impl Server {
    async fn start() -> Result<Server> {
        let mut cluster = Cluster::prepare("none")?;
        cluster.launch(Role::Apiserver)?;
        let client = cluster.client().await?;
        Ok(Server { cluster, client })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type)
            .body(kube::client::Body::from(body))?;
        let response = self.client.send(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((status, value))
    }

    async fn post(&self, body: &Value) -> Result<(StatusCode, Value)> {
        let strict = format!("{JOBS}?fieldValidation=Strict");
        self.send(
            Method::POST,
            &strict,
            "application/json",
            serde_json::to_vec(body)?,
        )
        .await
    }

    /// The number of the last change: equal before and after what must have no effect.
    async fn revision(&self) -> Result<String> {
        let (_, list) = self
            .send(Method::GET, JOBS, "application/json", Vec::new())
            .await?;
        Ok(list["metadata"]["resourceVersion"]
            .as_str()
            .context("a list has a resourceVersion")?
            .to_owned())
    }
}

fn job(name: &str) -> Value {
    json!({"apiVersion": "gctl.dev/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"command": ["true"]}})
}

#[track_caller]
fn assert_status(found: &(StatusCode, Value), code: u16, reason: &str, part: &str) {
    let (status, body) = found;
    assert_eq!(status.as_u16(), code, "{body}");
    assert_eq!(body["kind"], "Status", "{body}");
    assert_eq!(body["status"], "Failure", "{body}");
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(body["reason"], reason, "{body}");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(message.contains(part), "{message:?} lacks {part:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bodies_are_refused_with_a_status_and_change_nothing() -> Result<()> {
    let server = Server::start().await?;
    let before = server.revision().await?;
    let yaml = "application/yaml";
    let json_type = "application/json";

    let found = server
        .send(Method::POST, JOBS, yaml, b"a: [1, 2".to_vec())
        .await?;
    assert_status(&found, 400, "BadRequest", "");
    let found = server
        .send(Method::POST, JOBS, json_type, b"{\"a\":".to_vec())
        .await?;
    assert_status(&found, 400, "BadRequest", "");

    let mut unknown = job("x");
    unknown["spec"]["colour"] = json!("red");
    assert_status(
        &server.post(&unknown).await?,
        400,
        "BadRequest",
        r#"unknown field "spec.colour""#,
    );

    let mut wrong = job("x");
    wrong["spec"]["priority"] = json!("high");
    let found = server.post(&wrong).await?;
    assert_status(&found, 422, "Invalid", "spec.priority: Invalid value");
    assert_eq!(found.1["details"]["causes"][0]["field"], "spec.priority");

    let huge = vec![b' '; 10 << 20];
    let found = server.send(Method::POST, JOBS, json_type, huge).await?;
    assert_status(&found, 413, "RequestEntityTooLarge", "limit is 3145728");

    for (content_type, nested) in [
        (
            json_type,
            format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
        ),
        (yaml, format!("{}{}", "[".repeat(1000), "]".repeat(1000))),
        (
            json_type,
            format!("{}1{}", r#"{"a":"#.repeat(1000), "}".repeat(1000)),
        ),
    ] {
        let found = server
            .send(Method::POST, JOBS, content_type, nested.into_bytes())
            .await?;
        assert_status(&found, 400, "BadRequest", "");
    }

    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        let line = format!("a{level}: &a{level} [{inner}]\n");
        bomb.push_str(&line);
    }
    let found = server
        .send(Method::POST, JOBS, yaml, bomb.into_bytes())
        .await?;
    assert_status(&found, 400, "BadRequest", "");

    let twice = br#"{"apiVersion":"gctl.dev/v1","kind":"Job","metadata":{"name":"x"},"spec":{"command":["a"],"command":["b"]}}"#;
    let strict = format!("{JOBS}?fieldValidation=Strict");
    let found = server
        .send(Method::POST, &strict, json_type, twice.to_vec())
        .await?;
    assert_status(
        &found,
        400,
        "BadRequest",
        r#"duplicate field "spec.command""#,
    );

    assert_eq!(server.revision().await?, before, "nothing happened");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_queries_and_stale_versions_are_refused() -> Result<()> {
    let server = Server::start().await?;
    assert_eq!(server.post(&job("x")).await?.0, StatusCode::CREATED);
    let get = async |query: &str| {
        server
            .send(
                Method::GET,
                &format!("{JOBS}{query}"),
                "application/json",
                Vec::new(),
            )
            .await
    };
    assert_status(
        &get("?labelSelector=a%20in").await?,
        400,
        "BadRequest",
        "unable to parse requirement",
    );
    assert_status(
        &get("?fieldSelector=spec.color%3Dred").await?,
        400,
        "BadRequest",
        "field label not supported: spec.color",
    );
    assert_status(&get("?limit=many").await?, 400, "BadRequest", "");
    assert_status(&get("?resourceVersion=abc").await?, 400, "BadRequest", "");
    assert_status(
        &get("?continue=nonsense").await?,
        400,
        "BadRequest",
        "continue key is not valid",
    );
    assert_status(
        &get("/absent").await?,
        404,
        "NotFound",
        r#"jobs.gctl.dev "absent" not found"#,
    );

    assert_status(
        &server.post(&job("x")).await?,
        409,
        "AlreadyExists",
        "already exists",
    );
    let (_, mut read) = get("/x").await?;
    let path = format!("{JOBS}/x");
    read["spec"]["priority"] = json!(1);
    let put = serde_json::to_vec(&read)?;
    let json_type = "application/json";
    assert_eq!(
        server
            .send(Method::PUT, &path, json_type, put.clone())
            .await?
            .0,
        StatusCode::OK
    );
    read["spec"]["priority"] = json!(2);
    let stale = server
        .send(Method::PUT, &path, json_type, serde_json::to_vec(&read)?)
        .await?;
    assert_status(&stale, 409, "Conflict", "the object has been modified");
    let (_, stored) = get("/x").await?;
    assert_eq!(
        stored["spec"]["priority"], 1,
        "the stale write changed nothing"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_refused() -> Result<()> {
    let server = Server::start().await?;
    let kubeconfig = std::fs::read_to_string(server.cluster.kubeconfig())?;
    let mut config: serde_yaml::Value = serde_yaml::from_str(&kubeconfig)?;
    config["users"][0]["user"]["token"] = "wrong".into();
    let path = server.cluster.dir().join("wrong-kubeconfig");
    std::fs::write(&path, serde_yaml::to_string(&config)?)?;
    let intruder = Server {
        client: e2e::processes::client(&path).await?,
        cluster: server.cluster,
    };
    let found = intruder.post(&job("x")).await?;
    assert_status(&found, 401, "Unauthorized", "Unauthorized");
    let found = intruder
        .send(Method::GET, JOBS, "application/json", Vec::new())
        .await?;
    assert_status(&found, 401, "Unauthorized", "Unauthorized");
    Ok(())
}
