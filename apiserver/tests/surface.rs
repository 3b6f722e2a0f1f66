//! The HTTP surface as clients see it, through the router of a server in memory: no sockets, no files, a paused clock.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may end it")]

use std::sync::Arc;

use apiserver::server::{MemoryOptions, Server};
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const WIDGETS: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: widgets.example.com
  annotations: {streams.gctl.dev/streams: log}
spec:
  group: example.com
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wd]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {size: {type: integer, description: How big.}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
const WIDGETS_PATH: &str = "/apis/example.com/v1/namespaces/default/widgets";
const LOG: &str = "/apis/streams.gctl.dev/v1/namespaces/default/widgets/w/log";

struct Client {
    router: Router,
    _server: Server,
}

struct Answer {
    code: StatusCode,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    async fn new(crds: &[&str]) -> Self {
        let options = MemoryOptions {
            crds: crds.iter().map(|text| (*text).to_owned()).collect(),
            clock: Arc::new(|| "2026-01-01T00:00:00Z".parse().unwrap()),
            seed: Some(7),
            admin_token: "secret".to_owned(),
        };
        let server = Server::in_memory(options).await.unwrap();
        Self {
            router: server.router(),
            _server: server,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", "Bearer secret");
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        self.router
            .clone()
            .oneshot(request.body(body.into()).unwrap())
            .await
            .unwrap()
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let (parts, body) = self.send(method, path, headers, body).await.into_parts();
        Answer {
            code: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    async fn get(&self, path: &str, accept: &str) -> Answer {
        self.ask(Method::GET, path, &[("accept", accept)], Body::empty())
            .await
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        let json = [("content-type", "application/json")];
        let answer = self
            .ask(Method::POST, path, &json, object.to_string())
            .await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text());
        answer.json()
    }

    /// A Widget `w`; answers its uid.
    async fn widget(&self) -> String {
        let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3}});
        self.create(WIDGETS_PATH, widget).await["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    async fn append(&self, query: &str, bytes: &str) -> Answer {
        self.ask(
            Method::POST,
            &format!("{LOG}?{query}"),
            &[],
            bytes.to_owned(),
        )
        .await
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_definition_appears_in_all_documents_at_once() {
    let client = Client::new(&[]).await;
    let before = client.get("/apis", AGGREGATED).await;
    assert!(!before.text().contains("example.com"));
    assert_eq!(
        client.get("/apis/example.com", "").await.code,
        StatusCode::NOT_FOUND
    );

    let crd: Value = serde_yaml::from_str(WIDGETS).unwrap();
    client
        .create(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            crd,
        )
        .await;

    let list = client
        .get("/apis/example.com/v1", "application/json")
        .await
        .json();
    let names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["widgets", "widgets/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(
        client.get("/apis/example.com", "").await.json()["preferredVersion"]["version"],
        "v1"
    );

    let after = client.get("/apis", AGGREGATED).await;
    assert_eq!(
        after.headers[header::CONTENT_TYPE],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let group = after.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "example.com")
        .cloned();
    let resource = &group.unwrap()["versions"][0]["resources"][0];
    assert_eq!(resource["responseKind"]["kind"], "Widget");
    assert_eq!(resource["subresources"][0]["subresource"], "status");
    assert_ne!(after.headers[header::ETAG], before.headers[header::ETAG]);
    let etag = after.headers[header::ETAG].to_str().unwrap();
    let again = client
        .ask(
            Method::GET,
            "/apis",
            &[("accept", AGGREGATED), ("if-none-match", etag)],
            Body::empty(),
        )
        .await;
    assert_eq!(
        (again.code, again.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );

    let index = client
        .get("/openapi/v3", "application/json, */*")
        .await
        .json();
    assert!(index["paths"]["apis/example.com/v1"]["serverRelativeURL"].is_string());
}

#[tokio::test(start_paused = true)]
async fn openapi_tells_kubectl_what_it_needs() {
    let client = Client::new(&[WIDGETS]).await;
    let index = client.get("/openapi/v3", "").await.json();
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let answer = client.get(&url, "application/json").await;
    assert_eq!(
        answer.headers[header::CACHE_CONTROL],
        "public, immutable, max-age=31536000"
    );
    let document = answer.json();
    let patch =
        &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "example.com", "version": "v1", "kind": "Widget"})
    );
    assert!(
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
    );
    let types: Vec<&String> = patch["requestBody"]["content"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(
        types,
        [
            "application/json-patch+json",
            "application/merge-patch+json"
        ]
    );
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"][0]["kind"],
        "Widget"
    );
    assert_eq!(
        schema["properties"]["spec"]["properties"]["size"]["description"],
        "How big."
    );

    // Every reference leads somewhere within the document.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name} is missing"
        );
    }

    let stale = client
        .get("/openapi/v3/apis/example.com/v1?hash=OLD", "")
        .await;
    assert_eq!(stale.code, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(stale.headers[header::LOCATION], url.as_str());
    let core = client.get("/openapi/v3/api/v1", "").await.json();
    let namespace = &core["paths"]["/api/v1/namespaces/{name}"]["patch"];
    assert!(
        namespace["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object()
    );
}

#[tokio::test(start_paused = true)]
async fn credentials_are_asked_for_everywhere_but_on_public_paths() {
    let client = Client::new(&[WIDGETS]).await;
    let nobody = ("authorization", "");
    for (path, header, code) in [
        ("/version", nobody, 200),
        ("/readyz", nobody, 200),
        ("/api", nobody, 401),
        (WIDGETS_PATH, nobody, 401),
        (LOG, nobody, 401),
        ("/version", ("authorization", "Bearer wrong"), 401),
        (WIDGETS_PATH, ("authorization", "Bearer secret"), 200),
        (WIDGETS_PATH, ("impersonate-user", "eve"), 403),
        ("/nowhere", ("accept", "*/*"), 404),
    ] {
        let answer = client
            .ask(Method::GET, path, &[header], Body::empty())
            .await;
        assert_eq!(answer.code.as_u16(), code, "{path} {header:?}");
        assert!(answer.headers.contains_key("audit-id"));
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-cache, private");
    }
    assert_eq!(
        client.get("/nowhere", "").await.text(),
        "404 page not found\n"
    );
}

#[tokio::test(start_paused = true)]
async fn objects_come_as_tables_and_as_metadata() {
    let client = Client::new(&[WIDGETS]).await;
    client.widget().await;
    let table = client.get(WIDGETS_PATH, TABLE).await.json();
    assert_eq!(
        (&table["kind"], &table["rows"][0]["cells"]),
        (&json!("Table"), &json!(["w", 3]))
    );
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = client.get(WIDGETS_PATH, partial).await.json();
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert!(list["items"][0].get("spec").is_none());
    let yaml = client
        .get(&format!("{WIDGETS_PATH}/w"), "application/yaml")
        .await;
    assert_eq!(yaml.headers[header::CONTENT_TYPE], "application/yaml");
    assert!(yaml.text().contains("size: 3"));
    let refused = client
        .get(WIDGETS_PATH, "application/vnd.kubernetes.protobuf")
        .await;
    assert_eq!(
        (refused.code.as_u16(), &refused.json()["reason"]),
        (406, &json!("NotAcceptable"))
    );
}

#[tokio::test(start_paused = true)]
async fn appends_are_idempotent_and_reads_begin_where_asked() {
    let client = Client::new(&[WIDGETS]).await;
    let uid = client.widget().await;
    let missing = client.get(LOG, "").await;
    assert_eq!(
        (missing.code.as_u16(), &missing.json()["reason"]),
        (404, &json!("NotFound"))
    );

    let position = client
        .append(&format!("uid={uid}&attempt=1&offset=0"), "hello ")
        .await
        .json();
    assert_eq!(
        position,
        json!({"kind": "LogPosition", "apiVersion": "streams.gctl.dev/v1", "size": 6, "synced": 6, "final": false})
    );
    assert_eq!(
        client
            .append(&format!("uid={uid}&attempt=1&offset=3"), "lo world")
            .await
            .json()["size"],
        11
    );
    assert_eq!(
        client
            .append(&format!("uid={uid}&attempt=1&offset=99"), "gap")
            .await
            .json()["size"],
        11
    );
    client
        .append(&format!("uid={uid}&attempt=2&offset=0"), "second")
        .await;

    for (query, attempt, offset, text) in [
        ("", "2", "0", "second"),
        ("?attempt=1", "1", "0", "hello world"),
        ("?attempt=1&tailBytes=5", "1", "6", "world"),
        ("?attempt=1&tailBytes=500", "1", "0", "hello world"),
        ("?attempt=1&sinceOffset=9", "1", "9", "ld"),
        ("?attempt=1&sinceOffset=50", "1", "50", ""),
    ] {
        let answer = client.get(&format!("{LOG}{query}"), "").await;
        assert_eq!(answer.text(), text, "{query}");
        assert_eq!(
            (
                &answer.headers["gctl-log-attempt"],
                &answer.headers["gctl-log-offset"]
            ),
            (&attempt.parse().unwrap(), &offset.parse().unwrap())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_stream_requests_are_told_what_is_wrong() {
    let client = Client::new(&[WIDGETS]).await;
    let uid = client.widget().await;
    for (query, code) in [
        ("uid=other&attempt=1&offset=0".to_owned(), 409),
        (format!("uid={uid}&attempt=1"), 400),
        (format!("uid={uid}&attempt=-1&offset=0"), 400),
        ("attempt=1&offset=0".to_owned(), 400),
    ] {
        assert_eq!(
            client.append(&query, "x").await.code.as_u16(),
            code,
            "{query}"
        );
    }
    let big = "x".repeat((1 << 20) + 1);
    assert_eq!(
        client
            .append(&format!("uid={uid}&attempt=1&offset=0"), &big)
            .await
            .code
            .as_u16(),
        413
    );
    for path in [
        "/apis/streams.gctl.dev/v1/namespaces/default/widgets/w/other",
        "/apis/streams.gctl.dev/v1/namespaces/default/configmaps/w/log",
        "/apis/streams.gctl.dev/v2/namespaces/default/widgets/w/log",
    ] {
        assert_eq!(client.get(path, "").await.code.as_u16(), 404, "{path}");
    }
    let deleted = client.ask(Method::DELETE, LOG, &[], Body::empty()).await;
    assert_eq!(deleted.code.as_u16(), 405);
}

#[tokio::test(start_paused = true)]
async fn followers_get_what_comes_and_end_with_the_stream() {
    let client = Client::new(&[WIDGETS]).await;
    let uid = client.widget().await;
    client
        .append(&format!("uid={uid}&attempt=1&offset=0"), "one ")
        .await;
    let mut body = client
        .send(
            Method::GET,
            &format!("{LOG}?follow=true"),
            &[],
            Body::empty(),
        )
        .await
        .into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b"one ");
    client
        .append(&format!("uid={uid}&attempt=1&offset=4"), "two ")
        .await;
    client
        .append(&format!("uid={uid}&attempt=1&offset=8&final=true"), "three")
        .await;
    assert_eq!(&body.collect().await.unwrap().to_bytes()[..], b"two three");
}

#[tokio::test(start_paused = true)]
async fn followers_end_when_the_object_is_deleted() {
    let client = Client::new(&[WIDGETS]).await;
    let uid = client.widget().await;
    client
        .append(&format!("uid={uid}&attempt=1&offset=0"), "one")
        .await;
    let body = client
        .send(
            Method::GET,
            &format!("{LOG}?follow=true"),
            &[],
            Body::empty(),
        )
        .await
        .into_body();
    client
        .ask(
            Method::DELETE,
            &format!("{WIDGETS_PATH}/w"),
            &[],
            Body::empty(),
        )
        .await;
    assert_eq!(&body.collect().await.unwrap().to_bytes()[..], b"one");
    assert_eq!(
        client
            .append(&format!("uid={uid}&attempt=1&offset=3"), "late")
            .await
            .code
            .as_u16(),
        404
    );
}

#[tokio::test(start_paused = true)]
async fn metrics_count_requests_and_objects() {
    let client = Client::new(&[WIDGETS]).await;
    client.widget().await;
    let answer = client.get("/metrics", "").await;
    let text = answer.text();
    assert!(
        text.lines()
            .any(|line| line == "apiserver_storage_objects{resource=\"widgets.example.com\"} 1"),
        "{text}"
    );
    let counted = "apiserver_request_total{verb=\"create\",group=\"example.com\",version=\"v1\",resource=\"widgets\"";
    assert!(
        text.lines()
            .any(|line| line.starts_with(counted) && line.ends_with(" 1")),
        "{text}"
    );
}
