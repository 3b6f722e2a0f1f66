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

#[tokio::test]
async fn a_name_alone_that_is_no_kind_is_a_job() {
    let cluster = Cluster::new().await;
    cluster.run("submit --name train-1 -- sleep 1").await;
    let late = cluster.run("wait train-1 --timeout=0").await;
    assert_eq!(late.exit, Exit::TimedOut, "{}", late.err);
    let described = cluster.run("describe train-1").await;
    assert!(
        described.out.contains("train-1"),
        "{}{}",
        described.out,
        described.err
    );
    let kind = cluster.run("delete jobs").await;
    assert_eq!(kind.exit, Exit::Usage);
    insta::assert_snapshot!(kind.err, @"error: which jobs? give names, -l SELECTOR or --all");
    let several = cluster.run("delete train-1 train-2").await;
    assert_eq!(several.exit, Exit::Error);
    insta::assert_snapshot!(several.err, @"error: the server has no resource type `train-1`; jobs are named as `job train-1 train-2`");
    let got = cluster.run("get train-1").await;
    insta::assert_snapshot!(got.err, @"error: the server has no resource type `train-1`; jobs are named as `job train-1`");
    let selected = cluster.run("wait train-1 --all").await;
    assert_eq!(selected.exit, Exit::Error, "{}", selected.err);
    let gone = cluster.run("delete train-1 --wait=false").await;
    assert_eq!(gone.out, "job.gctl.dev/train-1 deleted\n", "{}", gone.err);
    let missing = cluster.run("delete train-2").await;
    insta::assert_snapshot!(missing.err, @r#"error: failed to delete job.gctl.dev/train-2: jobs.gctl.dev "train-2" not found"#);
}

#[tokio::test]
async fn a_priority_is_set_and_nudged_within_its_bounds() {
    let cluster = Cluster::new().await;
    cluster.run("submit --name x -- sleep 1").await;
    let nudged = cluster.run("nudge x +10").await;
    assert_eq!(
        nudged.out, "job.gctl.dev/x priority 0 -> 10\n",
        "{}",
        nudged.err
    );
    let down = cluster.run("nudge job/x -25").await;
    assert_eq!(
        down.out, "job.gctl.dev/x priority 10 -> -15\n",
        "{}",
        down.err
    );
    let set = cluster.run("priority x 995").await;
    assert_eq!(set.out, "job.gctl.dev/x priority -15 -> 995\n");
    let bounded = cluster.run("nudge x +10").await;
    assert_eq!(bounded.out, "job.gctl.dev/x priority 995 -> 1000\n");
    assert_eq!(cluster.run("priority x 5000").await.exit, Exit::Usage);
    let stored = cluster.run("get job x -o jsonpath={.spec.priority}").await;
    assert_eq!(stored.out, "1000");
}

#[tokio::test]
async fn a_preemption_is_refused_where_there_is_nothing_to_take() {
    let cluster = Cluster::new().await;
    cluster.run("submit --name x -- sleep 1").await;
    let ran = cluster.run("preempt x").await;
    assert_eq!(ran.exit, Exit::Error);
    insta::assert_snapshot!(ran.err, @"error: job.gctl.dev/x holds nothing that could be taken (Pending)");
    let ran = cluster.run("preempt --blockers-of x").await;
    assert_eq!(ran.exit, Exit::Error);
    insta::assert_snapshot!(ran.err, @"error: nobody is displaced for job.gctl.dev/x: it does not wait");
    assert_eq!(cluster.run("preempt").await.exit, Exit::Usage);
}

const FLEET: &str = r#"{"conditions": [{"type": "Ready", "status": "True", "reason": "Renewed", "message": "",
  "lastTransitionTime": "2026-01-01T00:00:00Z"}], "capacity": {"cpu": "8", "memory": "64Gi", "gpus": 1},
  "gpus": [{"uuid": "GPU-a", "index": 0, "model": "L4", "memoryBytes": 25769803776, "usedBytes": 0}]}"#;

impl Cluster {
    /// Sets the status of an object, as its agent or controller would.
    async fn status(&self, path: &str, status: &serde_json::Value) {
        let body = serde_json::json!({"status": status}).to_string();
        let request = http::Request::patch(format!("/apis/gctl.dev/v1/{path}/status"))
            .header("content-type", "application/merge-patch+json")
            .body(body.into_bytes())
            .unwrap();
        self.client.request_text(request).await.unwrap();
    }

    /// A node with one GPU of 24 GiB on which the job `holder` runs, and a job `big` that waits.
    async fn busy(&self) {
        use serde_json::json;
        self.write(
            "n.yaml",
            "apiVersion: gctl.dev/v1\nkind: Node\nmetadata:\n  name: n1\nspec: {}\n",
        );
        self.run("apply -f DIR/n.yaml").await;
        self.status("nodes/n1", &serde_json::from_str(FLEET).unwrap())
            .await;
        for line in [
            "submit --name holder --vram 20Gi --preemptible -- sleep 1",
            "submit --name big --vram 10Gi --priority 5 -- sleep 1",
        ] {
            assert_eq!(self.run(line).await.exit, Exit::Ok);
        }
        let queued = "2026-01-01T00:00:00.000000Z";
        let status = |priority: i32, vram: u64, preemptible: bool| {
            let sourced = |value: serde_json::Value| json!({"value": value, "source": "Job"});
            json!({"attempt": 0, "observedGeneration": 1, "enqueueTime": queued, "effective": {
                "queue": sourced(json!("default")), "priority": sourced(json!(priority)),
                "cpuMillis": sourced(json!(1000)), "memoryBytes": sourced(json!(0)), "gpus": sourced(json!(1)),
                "vramBytes": sourced(json!(vram << 30)), "preemptible": sourced(json!(preemptible)),
                "onPreemption": sourced(json!("Requeue")), "onNodeLost": sourced(json!("Wait")),
                "fenceSeconds": sourced(json!(2400)), "fenceAction": sourced(json!("Freeze")),
                "terminationGracePeriodSeconds": sourced(json!(30)),
            }})
        };
        let mut holder = status(0, 20, true);
        holder["attempt"] = json!(1);
        holder["phase"] = json!("Running");
        holder["binding"] = json!({"nodeName": "n1", "gpus": ["GPU-a"], "vramBytes": 20_u64 << 30, "cpuMillis": 1000, "time": queued});
        holder["claim"] = json!({"nodeName": "n1", "bootId": "b", "attempt": 1});
        self.status("namespaces/default/jobs/holder", &holder).await;
        let mut big = status(5, 10, false);
        big["phase"] = json!("Pending");
        self.status("namespaces/default/jobs/big", &big).await;
    }
}

#[tokio::test]
async fn a_waiting_job_says_why_and_what_would_start_it() {
    let cluster = Cluster::new().await;
    cluster.busy().await;
    let why = cluster.run("why big").await;
    assert_eq!(why.exit, Exit::Ok, "{}", why.err);
    insta::assert_snapshot!(why.out, @r"
    Job:        big
    Phase:      Pending
    Why:        waits: 1 of 1 node lacks VRAM: best has 3.5 of 10.0 GiB free on gpu 0 of n1
    Position:   1 of 1; 1 of 1 in queue default
    Start:      when it starts is unknown: too little of what runs has a limit or a known run time
    ");
    let what_if = cluster.run("why big --what-if").await;
    insta::assert_snapshot!(what_if.out, @r"
    Job:        big
    Phase:      Pending
    Why:        waits: 1 of 1 node lacks VRAM: best has 3.5 of 10.0 GiB free on gpu 0 of n1
    Position:   1 of 1; 1 of 1 in queue default
    Start:      when it starts is unknown: too little of what runs has a limit or a known run time
    What if:
      IF YOU                                         IT GOES TO   OVERTAKES   DISPLACES
      declare 3.5 GiB of VRAM rather than 10.0 GiB   n1           -           -
      let it displace others, as it may              n1           -           holder
    ");
    let json = cluster.run("why big --what-if -o yaml").await;
    insta::assert_snapshot!(json.out, @r"
    job: default/big
    nomination: null
    phase: Pending
    position:
      ahead: []
      place: 1
      placeInQueue: 1
      queue: default
      waiting: 1
      waitingInQueue: 1
    reason:
      class: InsufficientVram
      message: '1 of 1 node lacks VRAM: best has 3.5 of 10.0 GiB free on gpu 0 of n1'
    reservation: null
    roomOnNearestNode: null
    start: null
    waits: true
    whatIf:
    - change: declare 3.5 GiB of VRAM rather than 10.0 GiB
      displaces: []
      node: n1
      overtakes: 0
    - change: let it displace others, as it may
      displaces:
      - default/holder
      node: n1
      overtakes: 0
    ");
    let placed = cluster.run("why holder").await;
    insta::assert_snapshot!(placed.out, @r"
    Job:     holder
    Phase:   Running
    Why:     it has its place: n1 gpu 0 (20Gi)
    ");
    let missing = cluster.run("why nobody").await;
    assert_eq!(missing.exit, Exit::Error);
}

#[tokio::test]
async fn a_dry_run_says_where_a_job_would_go_and_what_it_would_displace() {
    let cluster = Cluster::new().await;
    cluster.busy().await;
    let fits = cluster
        .run("submit --name x --vram 2Gi --dry-run -- sleep 1")
        .await;
    assert!(fits.out.contains("vram: 2Gi"), "{}", fits.out);
    assert_eq!(fits.err, "it would start at once on n1 gpu 0\n");
    let displaces = cluster
        .run("submit --name x --vram 12Gi --priority 9 --dry-run -- sleep 1")
        .await;
    assert!(
        displaces.err.contains("displacing holder (priority 0)"),
        "{}",
        displaces.err
    );
    let never = cluster
        .run("submit --name x --vram 80Gi --dry-run -- sleep 1")
        .await;
    assert!(never.err.contains("it could never run"), "{}", never.err);
    let unknown = cluster
        .run("submit --name x -q nowhere --dry-run -- sleep 1")
        .await;
    assert!(
        unknown.err.contains("there is no queue `nowhere`"),
        "{}",
        unknown.err
    );
}

#[tokio::test]
async fn a_preemption_names_the_attempt_that_shall_leave() {
    let cluster = Cluster::new().await;
    cluster.busy().await;
    let ran = cluster.run("preempt holder").await;
    let said = "job.gctl.dev/holder is displaced from n1 (attempt 1) and goes back to its place in the queue\n";
    assert_eq!(ran.out, said, "{}", ran.err);
    let annotations = cluster
        .run("get job holder -o jsonpath={.metadata.annotations}")
        .await;
    assert_eq!(annotations.out, r#"{"gctl.dev/preempt-attempt":"1"}"#);
    let blockers = cluster.run("preempt --blockers-of big").await;
    assert_eq!(blockers.exit, Exit::Ok, "{}", blockers.err);
    assert!(
        blockers.out.contains("displaces holder"),
        "{}",
        blockers.out
    );
}

#[tokio::test]
async fn a_node_is_forgotten_by_its_last_renewal_and_not_while_it_is_seen() {
    let cluster = Cluster::new().await;
    let missing = cluster.run("node forget n1").await;
    assert_ne!(missing.exit, Exit::Ok);
    let objects = serde_json::json!([
        {"apiVersion": "gctl.dev/v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gctl-node-lease"}},
        {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "n1", "namespace": "gctl-node-lease"},
            "spec": {"renewTime": "2026-01-01T00:00:00.123456Z"}},
    ]);
    for (index, object) in objects.as_array().unwrap().iter().enumerate() {
        let path = cluster.directory.path().join(format!("{index}.json"));
        std::fs::write(path, object.to_string()).unwrap();
        if index == 2 {
            let never = cluster.run("node forget n1").await;
            assert!(never.err.contains("never renewed"), "{}", never.err);
        }
        let applied = cluster.run(&format!("apply -f DIR/{index}.json")).await;
        assert_eq!(applied.exit, Exit::Ok, "{}", applied.err);
    }
    let forgotten = cluster.run("node forget n1").await;
    assert_eq!(forgotten.exit, Exit::Ok, "{}", forgotten.err);
    assert!(forgotten.out.contains("forgotten"), "{}", forgotten.out);
    let node = cluster.run("get gn n1 -o jsonpath={.spec.goneAfter}").await;
    assert_eq!(node.out.trim(), "2026-01-01T00:00:00.123456Z");
}
