//! What users are promised of scheduling, end to end in the simulated cluster: the API server, the controllers and the agents,
//! with virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::{Job, JobStatus, Node, Phase, Queue};
use e2e::sim::{Settings, Sim, phase};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_hours(1);
/// Until the fleet has settled and everything that is decided at once was decided.
const SETTLED: Duration = Duration::from_secs(15);

fn one_gpu() -> Settings {
    Settings {
        gpus: "1x24Gi",
        ..Settings::default()
    }
}

fn sleeps(seconds: u32, resources: Value) -> Value {
    json!({"command": ["sim", format!("sleep={seconds}")], "resources": resources})
}

/// A spec with more fields.
fn with(mut spec: Value, more: Value) -> Value {
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

fn started_micros(job: &Job) -> Option<i64> {
    Some(status(job).start_time?.0.as_microsecond())
}

/// The names of jobs in the order in which they started.
fn order_of_starts(jobs: &BTreeMap<String, Job>) -> Vec<&str> {
    let mut starts: Vec<(i64, &str)> = jobs
        .iter()
        .filter_map(|(name, job)| Some((started_micros(job)?, name.as_str())))
        .collect();
    starts.sort_unstable();
    starts.into_iter().map(|(_, name)| name).collect()
}

async fn create_queue(sim: &Sim, name: &str, spec: Value) -> Result<()> {
    let queue: Queue = serde_json::from_value(json!({
        "apiVersion": "gctl.dev/v1", "kind": "Queue", "metadata": {"name": name}, "spec": spec,
    }))?;
    let queues: Api<Queue> = Api::all(sim.client());
    queues.create(&PostParams::default(), &queue).await?;
    Ok(())
}

/// Says of the only GPU of a node what an agent would.
async fn report_gpu(sim: &Sim, node: &str, used: u64, foreign: Value) -> Result<()> {
    let nodes: Api<Node> = Api::all(sim.client());
    let live = nodes.get(node).await?;
    let mut gpus = serde_json::to_value(&live.status.context("a status")?.gpus)?;
    gpus[0]["usedBytes"] = json!(used);
    gpus[0]["foreign"] = foreign;
    let patch = json!({"status": {"gpus": gpus}});
    nodes
        .patch_status(node, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn two_jobs_that_start_together_never_share_what_only_one_has_room_for() -> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    for name in ["first", "second"] {
        sim.submit(name, sleeps(30, json!({"vram": "14Gi"})))
            .await?;
    }
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let ended = status(&jobs["first"]).finish_time.context("an end")?.0;
    let began = status(&jobs["second"]).start_time.context("a start")?.0;
    assert!(
        began >= ended,
        "the second began at {began}, before {ended}"
    );
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_foreign_process_is_held_at_its_peak_through_a_trough() -> Result<()> {
    let mut sim = Sim::start(one_gpu()).await?;
    tokio::time::sleep(SETTLED).await;
    sim.crash_agent(0);
    // It once took 20 GiB, and holds 2 at the moment.
    let foreign = json!([{"pid": 4711, "peakBytes": 20_u64 << 30}]);
    report_gpu(&sim, "node-0", 2 << 30, foreign).await?;
    sim.submit("train", sleeps(5, json!({"vram": "10Gi"})))
        .await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let waiting = status(&sim.list().await?["train"]);
    assert_eq!(waiting.binding, None);
    let reason = waiting.waiting.context("a reason")?.reason;
    assert_eq!(reason, "InsufficientVram");
    report_gpu(&sim, "node-0", 0, json!([])).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(phase(&sim.list().await?["train"]), Phase::Scheduled);
    sim.start_agent(0)?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn the_impossible_fails_at_once_and_the_busy_waits() -> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    sim.submit("holder", sleeps(60, json!({"vram": "20Gi"})))
        .await?;
    tokio::time::sleep(SETTLED).await;
    sim.submit("impossible", sleeps(5, json!({"vram": "30Gi"})))
        .await?;
    sim.submit("busy", sleeps(5, json!({"vram": "20Gi"})))
        .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let jobs = sim.list().await?;
    let impossible = status(&jobs["impossible"]);
    assert_eq!(impossible.phase, Some(Phase::Infeasible));
    let message = impossible.message.unwrap_or_default();
    assert!(message.contains("30.0"), "{message}");
    let busy = status(&jobs["busy"]);
    assert_eq!(busy.phase, Some(Phase::Pending));
    assert_eq!(busy.waiting.context("a reason")?.reason, "InsufficientVram");
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["busy"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_large_job_starts_within_its_bound_under_an_endless_stream_of_small_ones() -> Result<()> {
    // A minute until it has a reservation, then the longest limit and grace of what runs there, and what a binding may take.
    const LIMIT_SECS: u64 = 40;
    const BOUND_SECS: u64 = 60 + LIMIT_SECS + 30 + 30;
    let sim = Sim::start(Settings::default()).await?;
    // They end at different times, so that both GPUs are never free at once by chance.
    let small = json!({"command": ["sim", "sleep=18..34"], "resources": {"gpus": 1},
        "activeDeadlineSeconds": LIMIT_SECS});
    let mut count = 0;
    for _ in 0..4 {
        sim.submit(&format!("small-{count}"), small.clone()).await?;
        count += 1;
    }
    tokio::time::sleep(SETTLED).await;
    sim.submit("large", sleeps(10, json!({"gpus": 2}))).await?;
    let submitted = sim.elapsed();
    let mut reserved = false;
    loop {
        sim.submit(&format!("small-{count}"), small.clone()).await?;
        count += 1;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let jobs = sim.list().await?;
        let large = status(&jobs["large"]);
        reserved |= large
            .waiting
            .is_some_and(|waiting| waiting.reservation.is_some());
        if large.start_time.is_some() {
            break;
        }
        let waits = |job: &&Job| phase(job) == Phase::Pending;
        ensure!(
            jobs.values().filter(waits).count() > 1,
            "the stream ran dry"
        );
        let waited = sim.elapsed().saturating_sub(submitted).as_secs();
        ensure!(
            waited <= BOUND_SECS,
            "it waits for {waited} s:\n{}",
            sim.trace().join("\n")
        );
    }
    assert!(reserved, "it is told what is reserved for it");
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_preemption_takes_the_least_and_the_victim_runs_again_in_its_old_place() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    let low = |priority: i32| {
        with(
            sleeps(120, json!({"vram": "20Gi"})),
            json!({"preemptible": true, "priority": priority}),
        )
    };
    sim.submit("lower", low(1)).await?;
    sim.submit("low", low(5)).await?;
    tokio::time::sleep(SETTLED).await;
    let queued = status(&sim.list().await?["lower"]).enqueue_time;
    // It waits behind `lower`, which was queued before it.
    sim.submit("patient", low(1)).await?;
    sim.submit(
        "urgent",
        with(sleeps(30, json!({"vram": "20Gi"})), json!({"priority": 90})),
    )
    .await?;
    let running = |jobs: &BTreeMap<String, Job>| phase(&jobs["urgent"]) == Phase::Running;
    let jobs = sim.run_until(Duration::from_mins(1), running).await?;
    let victim = status(&jobs["lower"]);
    assert_eq!(victim.phase, Some(Phase::Pending), "it waits again");
    assert_eq!(victim.enqueue_time, queued);
    let reason = victim.attempts.last().and_then(|last| last.reason.clone());
    let reason = reason.context("the attempt is remembered")?;
    assert!(reason.contains("default/urgent"), "{reason}");
    assert_eq!(phase(&jobs["low"]), Phase::Running, "who costs more stays");
    assert_eq!(status(&jobs["urgent"]).nomination, None);
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in &jobs {
        assert_eq!(phase(job), Phase::Succeeded, "{name}");
    }
    assert_eq!(status(&jobs["lower"]).attempt, 2);
    assert_eq!(status(&jobs["low"]).attempt, 1);
    assert!(started_micros(&jobs["lower"]) < started_micros(&jobs["patient"]));
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn the_victim_is_who_loses_least_since_its_checkpoint_and_it_resumes() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    let trains = |words: &[&str]| {
        let command = [&["sim", "resume"], words].concat();
        json!({"command": command, "resources": {"gpus": 1}, "preemptible": true})
    };
    // `saves` was started first, so that without its checkpoint it would be the dearer one.
    let saves = trains(&["sleep=100", "checkpoint", "sleep=300"]);
    sim.submit("saves", saves).await?;
    tokio::time::sleep(SETTLED).await;
    sim.submit("hopes", trains(&["sleep=400"])).await?;
    let told = |jobs: &BTreeMap<String, Job>| status(&jobs["saves"]).checkpoint.is_some();
    let jobs = sim.run_until(Duration::from_mins(3), told).await?;
    let checkpoint = status(&jobs["saves"]).checkpoint.context("told")?;
    assert_eq!(checkpoint.attempt, 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let urgent = with(sleeps(10, json!({"gpus": 1})), json!({"priority": 90}));
    sim.submit("urgent", urgent).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(status(&jobs["saves"]).attempt, 2, "it lost less");
    assert_eq!(status(&jobs["hopes"]).attempt, 1);
    for (attempt, expected) in [(1, "resumed 0\n"), (2, "resumed 1\n")] {
        let uri = format!(
            "/apis/streams.gctl.dev/v1/namespaces/default/jobs/saves/log?attempt={attempt}"
        );
        let request = http::Request::get(uri).body(Vec::new())?;
        let log = sim.client().request_text(request).await?;
        assert_eq!(log, expected, "attempt {attempt}");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn nobody_is_displaced_who_is_not_preemptible_or_not_of_lower_priority() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    sim.submit("firm", sleeps(60, json!({"gpus": 1}))).await?;
    let equal = json!({"preemptible": true, "priority": 90});
    sim.submit("equal", with(sleeps(60, json!({"gpus": 1})), equal))
        .await?;
    tokio::time::sleep(SETTLED).await;
    let urgent = with(sleeps(5, json!({"gpus": 1})), json!({"priority": 90}));
    sim.submit("urgent", urgent).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in &jobs {
        assert_eq!(status(job).attempt, 1, "{name} ran once");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn an_idle_quota_is_borrowed_and_taken_back_by_its_owner() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    for name in ["alpha", "beta"] {
        let spec = json!({"quota": {"gpus": 1}, "borrowing": {}});
        create_queue(&sim, name, spec).await?;
    }
    let of =
        |queue: &str, seconds| with(sleeps(seconds, json!({"gpus": 1})), json!({"queue": queue}));
    sim.submit("alpha-own", of("alpha", 300)).await?;
    sim.submit("alpha-borrows", of("alpha", 300)).await?;
    let both = |jobs: &BTreeMap<String, Job>| jobs.values().all(|job| phase(job) == Phase::Running);
    sim.run_until(Duration::from_mins(1), both).await?;
    sim.submit("beta-claims", of("beta", 20)).await?;
    let back = |jobs: &BTreeMap<String, Job>| phase(&jobs["beta-claims"]) == Phase::Running;
    let jobs = sim.run_until(Duration::from_secs(90), back).await?;
    let of_alpha = |wanted: Phase| {
        let jobs = jobs.iter().filter(|(name, _)| name.starts_with("alpha"));
        jobs.filter(|(_, job)| phase(job) == wanted).count()
    };
    assert_eq!(of_alpha(Phase::Running), 1, "what it owns is not taken");
    assert_eq!(of_alpha(Phase::Pending), 1, "what it borrowed is");
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in &jobs {
        assert_eq!(phase(job), Phase::Succeeded, "{name}");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_job_bound_to_a_node_that_goes_before_it_starts_runs_elsewhere() -> Result<()> {
    let mut sim = Sim::start(Settings {
        nodes: 2,
        ..Settings::default()
    })
    .await?;
    let filler = with(
        sleeps(30, json!({"gpus": 2})),
        json!({"nodeName": "node-1"}),
    );
    sim.submit("filler", filler).await?;
    let running = |jobs: &BTreeMap<String, Job>| phase(&jobs["filler"]) == Phase::Running;
    sim.run_until(Duration::from_mins(1), running).await?;
    sim.crash_agent(0);
    sim.submit("moves", sleeps(5, json!({"gpus": 1}))).await?;
    let bound = |jobs: &BTreeMap<String, Job>| phase(&jobs["moves"]) == Phase::Scheduled;
    let jobs = sim.run_until(Duration::from_secs(10), bound).await?;
    let node = |job: &Job| status(job).binding.map(|binding| binding.node_name);
    assert_eq!(node(&jobs["moves"]).as_deref(), Some("node-0"));
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["moves"]), Phase::Succeeded);
    assert_eq!(node(&jobs["moves"]).as_deref(), Some("node-1"));
    assert_eq!(status(&jobs["moves"]).attempt, 2);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_nudge_moves_what_is_queued_and_equals_keep_their_order() -> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    sim.submit("holder", sleeps(60, json!({"gpus": 1}))).await?;
    tokio::time::sleep(SETTLED).await;
    for name in ["first", "second", "third", "fourth"] {
        sim.submit(name, sleeps(5, json!({"gpus": 1}))).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for name in ["third", "fourth"] {
        let patch = json!({"spec": {"priority": 10}});
        sim.jobs()
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
    }
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let order = ["holder", "third", "fourth", "first", "second"];
    assert_eq!(order_of_starts(&jobs), order);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_new_priority_of_a_queue_moves_all_that_waits_in_it() -> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    create_queue(&sim, "late", json!({})).await?;
    sim.submit("holder", sleeps(60, json!({"gpus": 1}))).await?;
    tokio::time::sleep(SETTLED).await;
    for name in ["a", "b"] {
        sim.submit(name, sleeps(5, json!({"gpus": 1}))).await?;
        let late = with(sleeps(5, json!({"gpus": 1})), json!({"queue": "late"}));
        sim.submit(&format!("late-{name}"), late).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let queues: Api<Queue> = Api::all(sim.client());
    let patch = json!({"spec": {"priority": 50}});
    queues
        .patch("late", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(
        order_of_starts(&jobs),
        ["holder", "late-a", "late-b", "a", "b"]
    );
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_comes_to_own_a_directory_gets_what_waits_there_and_not_what_runs()
-> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    let there = || {
        let spec = sleeps(60, json!({"gpus": 1}));
        with(spec, json!({"workingDir": "/data/ml/run"}))
    };
    sim.submit("runs", there()).await?;
    tokio::time::sleep(SETTLED).await;
    sim.submit("elsewhere", sleeps(5, json!({"gpus": 1})))
        .await?;
    sim.submit("waits", there()).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let owner = json!({"priority": 50, "directories": ["/data/ml"]});
    create_queue(&sim, "ml", owner).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(order_of_starts(&jobs), ["runs", "waits", "elsewhere"]);
    let home = |name: &str| {
        let effective = status(&jobs[name]).effective.unwrap_or_default();
        (effective.queue.value, effective.priority.value)
    };
    assert_eq!(home("runs"), ("default".to_owned(), 0));
    assert_eq!(home("waits"), ("ml".to_owned(), 50));
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn what_the_default_queue_says_reaches_what_waits_in_every_other() -> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    create_queue(&sim, "research", json!({"priority": 3})).await?;
    let of_research = || {
        let spec = sleeps(60, json!({"gpus": 1}));
        with(spec, json!({"queue": "Research"}))
    };
    sim.submit("runs", of_research()).await?;
    tokio::time::sleep(SETTLED).await;
    sim.submit("waits", of_research()).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let guard = json!({"defaults": {"activeDeadlineSeconds": 10}});
    create_queue(&sim, "default", guard).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(status(&jobs["runs"]).phase, Some(Phase::Succeeded));
    assert_eq!(status(&jobs["waits"]).phase, Some(Phase::TimedOut));
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn somebody_displaces_a_job_by_hand_and_it_comes_back() -> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    let long = with(sleeps(60, json!({"gpus": 1})), json!({"preemptible": true}));
    sim.submit("long", long).await?;
    sim.submit("short", sleeps(5, json!({"gpus": 1}))).await?;
    let running = |jobs: &BTreeMap<String, Job>| phase(&jobs["long"]) == Phase::Running;
    sim.run_until(Duration::from_mins(1), running).await?;
    let patch = json!({"metadata": {"annotations": {crds::PREEMPT_ANNOTATION: "1"}}});
    sim.jobs()
        .patch("long", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let long = status(&jobs["long"]);
    assert_eq!(long.attempt, 2, "it is displaced once and runs again");
    assert_eq!(long.phase, Some(Phase::Succeeded));
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn room_is_made_by_hand_where_scheduling_displaces_nobody_itself() -> Result<()> {
    let sim = Sim::start(Settings {
        scheduling: "preemption: false",
        ..one_gpu()
    })
    .await?;
    let long = with(
        sleeps(600, json!({"gpus": 1})),
        json!({"preemptible": true}),
    );
    sim.submit("long", long).await?;
    tokio::time::sleep(SETTLED).await;
    let urgent = with(sleeps(5, json!({"gpus": 1})), json!({"priority": 9}));
    sim.submit("urgent", urgent).await?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(phase(&sim.list().await?["urgent"]), Phase::Pending);
    let patch = json!({"metadata": {"annotations": {crds::PREEMPT_BLOCKERS_ANNOTATION: "1"}}});
    sim.jobs()
        .patch("urgent", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let done = |jobs: &BTreeMap<String, Job>| phase(&jobs["urgent"]) == Phase::Succeeded;
    let jobs = sim.run_until(Duration::from_mins(1), done).await?;
    assert_eq!(status(&jobs["long"]).attempts.len(), 1);
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["long"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn room_is_forced_from_a_job_that_is_not_preemptible_and_has_a_lower_priority() -> Result<()>
{
    let sim = Sim::start(one_gpu()).await?;
    let long = sleeps(600, json!({"gpus": 1}));
    sim.submit("long", long).await?;
    tokio::time::sleep(SETTLED).await;
    let urgent = with(sleeps(5, json!({"gpus": 1})), json!({"priority": 9}));
    sim.submit("urgent", urgent).await?;
    tokio::time::sleep(SETTLED).await;
    for (wish, phase_then) in [("1", Phase::Pending), ("1,force", Phase::Succeeded)] {
        let patch = json!({"metadata": {"annotations": {crds::PREEMPT_BLOCKERS_ANNOTATION: wish}}});
        sim.jobs()
            .patch("urgent", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(phase(&sim.list().await?["urgent"]), phase_then, "{wish}");
    }
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(status(&jobs["long"]).attempts.len(), 1);
    assert_eq!(phase(&jobs["long"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn the_settings_in_force_are_told_by_an_object() -> Result<()> {
    let sim = Sim::start(Settings {
        scheduling: "reservations: 7",
        ..one_gpu()
    })
    .await?;
    tokio::time::sleep(SETTLED).await;
    let maps: Api<ConfigMap> = Api::namespaced(sim.client(), controllers::Scheduling::NAMESPACE);
    let map = maps.get(controllers::Scheduling::CONFIG_MAP).await?;
    let text = &map.data.context("data")?[controllers::Scheduling::KEY];
    let said = controllers::Scheduling::parse(text)?;
    assert_eq!(said.reservations, Some(7));
    assert_eq!(
        said.reserve_after_seconds,
        Some(60),
        "defaults are said too"
    );
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_controllers_does_not_begin_the_wait_for_a_reservation_anew() -> Result<()>
{
    let mut sim = Sim::start(one_gpu()).await?;
    let limited = with(
        sleeps(600, json!({"gpus": 1})),
        json!({"activeDeadlineSeconds": 900}),
    );
    sim.submit("runs", limited).await?;
    tokio::time::sleep(SETTLED).await;
    sim.submit("waits", sleeps(5, json!({"gpus": 1}))).await?;
    let reserved = |jobs: &BTreeMap<String, Job>| {
        let waiting = status(&jobs["waits"]).waiting;
        waiting.is_some_and(|waiting| waiting.reservation.is_some())
    };
    tokio::time::sleep(Duration::from_secs(50)).await;
    let before = sim.list().await?;
    assert!(!reserved(&before), "it has not waited long enough");
    let since = status(&before["waits"]).waiting.context("told")?.since;
    assert!(since.is_some(), "it says since when it waits for nodes");
    sim.crash_controllers();
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.start_controllers();
    // A minute after it began to wait, and a few seconds for the writes.
    let jobs = sim.run_until(Duration::from_secs(20), reserved).await?;
    assert_eq!(status(&jobs["waits"]).waiting.context("told")?.since, since);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_preemption_is_carried_out_across_a_restart_of_the_controllers() -> Result<()> {
    for after_millis in [20, 200, 1000, 3000] {
        let mut sim = Sim::start(one_gpu()).await?;
        let stubborn = json!({"command": ["sim", "ignore-term", "sleep=300"], "resources": {"gpus": 1},
            "preemptible": true, "terminationGracePeriodSeconds": 10});
        sim.submit("victim", stubborn).await?;
        tokio::time::sleep(SETTLED).await;
        let urgent = with(sleeps(5, json!({"gpus": 1})), json!({"priority": 9}));
        sim.submit("urgent", urgent).await?;
        // It is of higher priority than the victim and was queued after the urgent one; it must not slip in.
        sim.submit(
            "other",
            with(sleeps(5, json!({"gpus": 1})), json!({"priority": 8})),
        )
        .await?;
        tokio::time::sleep(Duration::from_millis(after_millis)).await;
        sim.crash_controllers();
        tokio::time::sleep(Duration::from_secs(1)).await;
        sim.start_controllers();
        let done = |jobs: &BTreeMap<String, Job>| {
            let ended = |name| phase(&jobs[name]).is_terminal();
            ended("urgent") && ended("other")
        };
        let jobs = sim.run_until(Duration::from_mins(2), done).await?;
        assert!(started_micros(&jobs["urgent"]) < started_micros(&jobs["other"]));
        assert_eq!(
            status(&jobs["victim"]).attempts.len(),
            1,
            "it was stopped once"
        );
        sim.check()?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_card_that_others_filled_since_it_was_read_sends_the_job_elsewhere() -> Result<()> {
    let sim = Sim::start(Settings {
        nodes: 2,
        ..one_gpu()
    })
    .await?;
    tokio::time::sleep(SETTLED).await;
    // Nobody has read the card since, so placement still takes it for empty.
    sim.visit(0, 0, 4711, Some(20));
    sim.submit("train", sleeps(5, json!({"vram": "10Gi"})))
        .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let train = status(&jobs["train"]);
    assert_eq!(train.phase, Some(Phase::Succeeded));
    assert_eq!(train.binding.context("a binding")?.node_name, "node-1");
    let refused = train.attempts.first().and_then(|one| one.reason.clone());
    let refused = refused.context("the refusal is remembered")?;
    assert!(
        refused.contains("1.5 of 10.0 GiB free") && refused.contains("process 4711"),
        "{refused}"
    );
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_handed_back_waits_with_numbers_and_is_not_bound_in_a_loop() -> Result<()> {
    let sim = Sim::start(one_gpu()).await?;
    tokio::time::sleep(SETTLED).await;
    sim.visit(0, 0, 4711, Some(20));
    sim.submit("train", sleeps(5, json!({"vram": "10Gi"})))
        .await?;
    tokio::time::sleep(Duration::from_mins(5)).await;
    let waiting = status(&sim.list().await?["train"]);
    assert_eq!(waiting.attempt, 1, "it was tried once");
    let why = waiting.waiting.context("a reason")?;
    assert_eq!(why.reason, "InsufficientVram");
    let message = why.message.unwrap_or_default();
    assert!(message.contains("of 10.0 GiB free"), "{message}");
    sim.visit(0, 0, 4711, None);
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_where_its_directory_is_and_fails_when_that_is_nowhere() -> Result<()> {
    let sim = Sim::start(Settings {
        nodes: 2,
        ..Settings::default()
    })
    .await?;
    sim.remove_directory(0, "/scratch");
    for index in 0..2 {
        sim.remove_directory(index, "/nowhere");
    }
    let starts_in = |directory: &str| with(sleeps(5, json!({})), json!({"workingDir": directory}));
    sim.submit("here", starts_in("/scratch/run")).await?;
    sim.submit("nowhere", starts_in("/nowhere")).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let here = status(&jobs["here"]);
    assert_eq!(here.phase, Some(Phase::Succeeded));
    assert_eq!(here.binding.context("a binding")?.node_name, "node-1");
    assert_eq!(here.excluded_nodes, ["node-0"]);
    let nowhere = status(&jobs["nowhere"]);
    assert_eq!(nowhere.phase, Some(Phase::Infeasible));
    assert_eq!(nowhere.attempt, 2, "each node was asked once");
    let message = nowhere.message.unwrap_or_default();
    assert!(
        message.contains("2 of 2 nodes lack a directory, such as /nowhere"),
        "{message}"
    );
    sim.check()
}
