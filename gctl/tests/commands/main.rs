//! The commands against the real API server, in memory and without a socket: what they print and how they end.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests too"
)]

mod cluster;
mod scheduling;

use std::path::Path;

use cluster::Cluster;
use gctl::exit::Exit;

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
async fn every_manifest_of_the_repository_is_applied_without_a_warning() {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let mut applied = 0;
    for folder in ["quickstart", "examples"] {
        for entry in std::fs::read_dir(manifests.join(folder)).unwrap() {
            // Each by itself, since each is what somebody may try first.
            let cluster = Cluster::new().await;
            let path = entry.unwrap().path().display().to_string();
            let ran = cluster.run(&format!("apply -f {path}")).await;
            assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""), "{path}");
            assert!(
                ran.out.lines().all(|line| line.ends_with(" created")),
                "{path}: {}",
                ran.out
            );
            applied += 1;
        }
    }
    assert!(applied > 10, "the manifests were found: {applied}");
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
async fn a_queue_is_nudged_beside_what_its_file_says() {
    let cluster = Cluster::new().await;
    let queue = |priority: i32| {
        format!(
            "apiVersion: gctl.dev/v1\nkind: Queue\nmetadata: {{name: ml-team}}\nspec: {{priority: {priority}}}\n"
        )
    };
    cluster.write("q.yaml", &queue(10));
    cluster.run("apply -f DIR/q.yaml").await;
    let nudged = cluster.run("nudge queue/ML_Team +5").await;
    assert_eq!(
        nudged.out, "queue.gctl.dev/ml-team priority 10 -> 15\n",
        "{}",
        nudged.err
    );
    // The file changes, and the nudge stays.
    cluster.write("q.yaml", &queue(30));
    cluster.run("apply -f DIR/q.yaml").await;
    let stored = cluster.run("get queue ml-team -o jsonpath={.spec}").await;
    assert_eq!(stored.out, r#"{"nudge":5,"priority":30}"#);
    let set = cluster.run("priority gq/ml-team 30").await;
    assert_eq!(set.out, "queue.gctl.dev/ml-team priority 35 -> 30\n");
    let stored = cluster.run("get queue ml-team -o jsonpath={.spec}").await;
    assert_eq!(stored.out, r#"{"priority":30}"#);
    let unknown = cluster.run("nudge queue/nowhere +5").await;
    insta::assert_snapshot!(unknown.err, @r#"error: failed to change the priority of queue.gctl.dev/nowhere: queues.gctl.dev "nowhere" not found"#);
    // The queue `default` needs no object until it is nudged.
    let made = cluster.run("nudge queue/default -5").await;
    assert_eq!(made.out, "queue.gctl.dev/default priority 0 -> -5\n");
}

#[tokio::test]
async fn who_submits_is_told_where_the_job_belongs() {
    let cluster = Cluster::new().await;
    cluster.write(
        "q.yaml",
            "apiVersion: gctl.dev/v1\nkind: Queue\nmetadata: {name: ml-team}\nspec: {directories: [/data/ml]}\n",
    );
    cluster.run("apply -f DIR/q.yaml").await;
    let typed = cluster.run("submit --name a --queue ML_Team -- x").await;
    insta::assert_snapshot!(typed.err, @"`ML_Team` is queue ml-team");
    let lies = cluster.run("submit --name b -w /data/ml/x -- x").await;
    insta::assert_snapshot!(lies.err, @"it belongs to queue ml-team, which owns its working directory");
    let both = cluster
        .run("submit --name c --queue mlteam -w /data/ml/x -- x")
        .await;
    insta::assert_snapshot!(both.err, @"Warning: there is no queue `mlteam`; it belongs to queue ml-team, which owns its working directory");
    let neither = cluster.run("submit --name d --queue mlteam -- x").await;
    insta::assert_snapshot!(neither.err, @"Warning: it will wait: there is no queue `mlteam`; known queues: default, ml-team");
    cluster.write(
        "all.yaml",
        "apiVersion: gctl.dev/v1\nkind: Queue\nmetadata: {name: all}\nspec: {directories: [/data/../etc]}\n",
    );
    let bad = cluster.run("apply -f DIR/all.yaml").await;
    insta::assert_snapshot!(bad.err, @r#"
    error: DIR/all.yaml:1 (document 1): failed to apply queue.gctl.dev/all: Queue `all` is invalid
      spec.directories: Invalid value: "array": give absolute directories other than /, without . and ..
    "#);
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
