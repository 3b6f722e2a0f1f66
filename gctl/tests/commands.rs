//! The commands against the real API server, in memory and without a socket: what they print and how they end.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests too"
)]

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use apiserver::server::{MemoryOptions, Server};
use gctl::exit::Exit;
use gctl::output::Output;
use kube::Client;
use tower::ServiceExt;

const CRDS: [&str; 4] = [
    include_str!("../../crds/jobs.yaml"),
    include_str!("../../crds/nodes.yaml"),
    include_str!("../../crds/profiles.yaml"),
    include_str!("../../crds/queues.yaml"),
];

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

struct Cluster {
    client: Client,
    directory: tempfile::TempDir,
    _server: Server,
}

/// What a command did.
struct Ran {
    exit: Exit,
    out: String,
    err: String,
}

impl Cluster {
    async fn new() -> Cluster {
        let server = Server::in_memory(MemoryOptions {
            crds: CRDS.iter().map(|&text| text.to_owned()).collect(),
            clock: Arc::new(jiff::Timestamp::now),
            seed: Some(1),
            admin_token: "secret".to_owned(),
        })
        .await
        .unwrap();
        let service =
            server
                .router()
                .map_request(|mut request: http::Request<kube::client::Body>| {
                    request.headers_mut().insert(
                        http::header::AUTHORIZATION,
                        http::HeaderValue::from_static("Bearer secret"),
                    );
                    request
                });
        Cluster {
            client: Client::new(service, "default"),
            directory: tempfile::tempdir().unwrap(),
            _server: server,
        }
    }

    async fn run(&self, line: &str) -> Ran {
        let (out, err) = (Buffer::default(), Buffer::default());
        let directory = self.directory.path().display().to_string();
        let words = std::iter::once("gctl".into()).chain(
            line.split(' ')
                .map(|word| word.replace("DIR", &directory).into()),
        );
        let output = Output::new(out.clone(), err.clone());
        let exit = gctl::run_with(words, output, self.client.clone(), "default").await;
        let clean = |text: String| text.replace(&directory, "DIR");
        Ran {
            exit,
            out: clean(out.text()),
            err: clean(err.text()),
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.directory.path().join(name)).unwrap();
    }
}

fn job(name: &str, more: &str) -> String {
    format!(
        "apiVersion: gctl.dev/v1\nkind: Job\nmetadata:\n  name: {name}\nspec:\n  command: [sleep, '1']\n{more}"
    )
}

#[tokio::test]
async fn an_apply_creates_then_changes_then_leaves_alone() {
    let cluster = Cluster::new().await;
    cluster.write("a.yaml", &job("a", "  priority: 1\n"));
    let first = cluster.run("apply -f DIR/a.yaml").await;
    assert_eq!(
        (first.exit, first.out.as_str()),
        (Exit::Ok, "job.gctl.dev/a created\n"),
        "{}",
        first.err
    );
    let again = cluster.run("apply -f DIR/a.yaml").await;
    assert_eq!(again.out, "job.gctl.dev/a unchanged\n");
    cluster.write("a.yaml", &job("a", ""));
    let dry = cluster.run("apply -f DIR/a.yaml --dry-run=server").await;
    assert_eq!(dry.out, "job.gctl.dev/a configured (server dry run)\n");
    let changed = cluster.run("apply -f DIR/a.yaml").await;
    assert_eq!(changed.out, "job.gctl.dev/a configured\n");
    let spec = cluster
        .run("get job/a -o jsonpath={.spec.priority}|{.metadata.finalizers}")
        .await;
    assert_eq!(
        spec.out, "|[\"gctl.dev/release\"]",
        "the dropped field is gone, the finalizer stays"
    );
}

#[tokio::test]
async fn an_apply_of_nothing_is_an_error() {
    let cluster = Cluster::new().await;
    cluster.write("empty.yaml", "# only words\n---\n");
    let ran = cluster.run("apply -f DIR/empty.yaml").await;
    assert_eq!(ran.exit, Exit::Error);
    assert!(ran.err.contains("nothing to apply"), "{}", ran.err);
}

#[tokio::test]
async fn a_refusal_names_place_and_field_and_stops_no_other_document() {
    let cluster = Cluster::new().await;
    let text = format!(
        "{}---\n{}",
        job("bad", "  priority: 5000\n"),
        job("good", "")
    );
    cluster.write("two.yaml", &text);
    let ran = cluster.run("apply -f DIR/two.yaml").await;
    assert_eq!(ran.exit, Exit::Error);
    assert_eq!(ran.out, "job.gctl.dev/good created\n");
    insta::assert_snapshot!(ran.err, @r"
    error: DIR/two.yaml:1 (document 1): failed to apply job.gctl.dev/bad: Job `bad` is invalid
      spec.priority: Invalid value: 5000: spec.priority in body should be less than or equal to 1000
    ");
}

#[tokio::test]
async fn a_namespace_is_changed_by_strategic_merge() {
    let cluster = Cluster::new().await;
    let namespace = |labels: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: lab\n  labels: {{{labels}}}\n")
    };
    cluster.write("ns.yaml", &namespace("a: '1', b: '2'"));
    assert_eq!(
        cluster.run("apply -f DIR/ns.yaml").await.out,
        "namespace/lab created\n"
    );
    cluster.write("ns.yaml", &namespace("a: '3'"));
    assert_eq!(
        cluster.run("apply -f DIR/ns.yaml").await.out,
        "namespace/lab configured\n"
    );
    let labels = cluster
        .run("get ns lab -o jsonpath={.metadata.labels.a}|{.metadata.labels.b}")
        .await;
    assert_eq!(labels.out, "3|");
}

#[tokio::test]
async fn objects_are_listed_by_any_name_of_their_kind() {
    let cluster = Cluster::new().await;
    cluster.write("a.yaml", &job("a", ""));
    cluster.run("apply -f DIR/a.yaml").await;
    for kind in ["job", "jobs", "gj", "Job", "jobs.gctl.dev"] {
        assert_eq!(
            cluster.run(&format!("get {kind} -o name")).await.out,
            "job.gctl.dev/a\n"
        );
    }
    let table = cluster.run("get jobs").await;
    assert!(table.out.starts_with("NAME   PHASE"), "{}", table.out);
    let missing = cluster.run("get job nope").await;
    assert_eq!(missing.exit, Exit::Error);
    insta::assert_snapshot!(missing.err, @r#"error: failed to get job.gctl.dev/nope: jobs.gctl.dev "nope" not found"#);
    let unknown = cluster.run("get jobz").await;
    insta::assert_snapshot!(unknown.err, @"error: the server has no resource type `jobz`; is jobs.gctl.dev meant?");
}

#[tokio::test]
async fn a_sync_prunes_what_it_applied_and_nothing_else() {
    let cluster = Cluster::new().await;
    cluster.write("other.yaml", &job("other", ""));
    cluster.run("apply -f DIR/other.yaml").await;
    cluster.write("d/a.yaml", &job("a", ""));
    cluster.write("d/deep/b.yaml", &job("b", ""));
    let first = cluster.run("sync DIR/d --prune --id=t").await;
    assert_eq!(first.exit, Exit::Ok, "{}", first.err);
    assert_eq!(
        first.out,
        "job.gctl.dev/a created\njob.gctl.dev/b created\n"
    );
    cluster.remove("d/deep/b.yaml");
    cluster.write("d/broken.yaml", "kind: [\n");
    let broken = cluster.run("sync DIR/d --prune --id=t").await;
    assert_eq!(
        (broken.exit, broken.out.as_str()),
        (Exit::Error, "job.gctl.dev/a unchanged\n")
    );
    assert!(broken.err.contains("nothing is pruned"), "{}", broken.err);
    cluster.remove("d/broken.yaml");
    let healed = cluster.run("sync DIR/d --prune --id=t").await;
    assert_eq!(
        healed.out,
        "job.gctl.dev/a unchanged\njob.gctl.dev/b pruned\n"
    );
    let other = cluster.run("sync DIR/d --id=u").await;
    assert_eq!(
        other.exit,
        Exit::Error,
        "another sync does not take over: {}",
        other.out
    );
    assert!(Path::new(&cluster.directory.path().join("d/a.yaml")).exists());
}

#[tokio::test]
async fn a_submission_is_checked_by_the_server_and_shown_without_being_made() {
    let cluster = Cluster::new().await;
    let dry = cluster
        .run("submit --name x --gpus 1 --dry-run -- sleep 1")
        .await;
    assert_eq!(dry.exit, Exit::Ok, "{}", dry.err);
    assert!(dry.out.contains("gpus: 1"), "{}", dry.out);
    assert_eq!(cluster.run("get jobs -o name").await.out, "");
    let refused = cluster
        .run("submit --name x --priority 5000 --dry-run -- sleep 1")
        .await;
    assert_eq!(refused.exit, Exit::Error);
    let made = cluster.run("submit --name x -o name -- sleep 1").await;
    assert_eq!(made.out, "job.gctl.dev/x\n");
    assert_eq!(
        cluster.run("cancel x").await.out,
        "job.gctl.dev/x cancelled\n"
    );
    let usage = cluster.run("submit --name x").await;
    assert_eq!(usage.exit, Exit::Usage);
}

#[tokio::test]
async fn a_wait_that_takes_too_long_has_a_code_of_its_own() {
    let cluster = Cluster::new().await;
    cluster.run("submit --name x -- sleep 1").await;
    let met = cluster
        .run("wait job/x --for=jsonpath={.metadata.name}=x")
        .await;
    assert_eq!(met.exit, Exit::Ok, "{}", met.err);
    let late = cluster.run("wait job/x --timeout=0").await;
    assert_eq!(late.exit, Exit::TimedOut);
}
