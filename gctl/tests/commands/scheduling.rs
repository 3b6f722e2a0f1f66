//! What commands say of scheduling: why a job waits, where one would go, whom it would displace.

use gctl::exit::Exit;

use crate::cluster::Cluster;

#[tokio::test]
async fn a_preemption_is_refused_where_there_is_nothing_to_take() {
    let cluster = Cluster::new().await;
    cluster.settings("{}").await;
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

    /// Publishes settings of scheduling, as placement does.
    async fn settings(&self, text: &str) {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "gctl-scheduling", "namespace": "kube-system"}, "data": {"scheduling.yaml": text}});
        self.write("settings.json", &object.to_string());
        let applied = self.run("apply -f DIR/settings.json").await;
        assert_eq!(applied.exit, Exit::Ok, "{}", applied.err);
    }

    /// A node with one GPU of 24 GiB on which the job `holder` runs, and a job `big` that waits.
    async fn busy(&self) {
        use serde_json::json;
        self.settings("{}").await;
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
      IF YOU                                            IT GOES TO   OVERTAKES   DISPLACES
      declare 3.5 GiB of VRAM rather than 10.0 GiB      n1           -           -
      let it displace others, as it may                 n1           -           holder
      wait for holder to end on n1; nobody knows when   -            -           -
    ");
    let json = cluster.run("why big --what-if -o yaml").await;
    insta::assert_snapshot!(json.out, @r#"
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
      message: "1 of 1 node lacks VRAM: best has 3.5 of 10.0 GiB free on gpu 0 of n1"
    reservation: null
    roomOnNearestNode: null
    settings: InForce
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
    - change: wait for holder to end on n1; nobody knows when
      displaces: []
      node: null
      overtakes: 0
    "#);
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
async fn explanations_follow_the_settings_in_force() {
    let cluster = Cluster::new().await;
    cluster.busy().await;
    let line = "submit --name x --vram 12Gi --priority 9 --dry-run -- sleep 1";
    cluster.settings("preemption: false\n").await;
    let dry = cluster.run(line).await;
    assert!(
        dry.err.contains("at once, if asked for with `gctl preempt"),
        "{}",
        dry.err
    );
    assert!(!dry.err.contains("note:"), "{}", dry.err);
    // An older or a newer one wrote it.
    cluster.settings("nonsense: 1\n").await;
    let guessed = cluster.run(line).await;
    assert!(
        guessed.err.contains("room on n1 at once\n"),
        "{}",
        guessed.err
    );
    assert!(
        guessed
            .err
            .contains("note: computed with the default settings")
            && guessed.err.contains("unknown field `nonsense`"),
        "{}",
        guessed.err
    );
    cluster
        .run("delete configmap gctl-scheduling -n kube-system")
        .await;
    let unknown = cluster.run("why big -o jsonpath={.settings}").await;
    assert_eq!(unknown.out, "Default");
    assert!(
        unknown
            .err
            .contains("there is no ConfigMap kube-system/gctl-scheduling"),
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
    let forced = cluster.run("preempt --blockers-of big --force").await;
    assert_eq!(forced.exit, Exit::Ok, "{}", forced.err);
    let wish = cluster
        .run("get job big -o jsonpath={.metadata.annotations}")
        .await;
    assert_eq!(
        wish.out,
        r#"{"gctl.dev/preempt-blockers-attempt":"1,force"}"#
    );
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
