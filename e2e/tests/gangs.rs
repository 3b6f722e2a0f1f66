//! What users are promised of gangs, end to end in the simulated cluster: the API server, the controllers and the agents, with
//! virtual time. That no process starts without the gang's word, and that no two generations of it run at once, is checked after
//! every change by the simulation itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::{Job, JobStatus, Node, Phase, Queue};
use e2e::sim::{Settings, Sim, phase};
use e2e::transport::Faults;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_hours(1);
/// Until the fleet has settled and everything that is decided at once was decided.
const SETTLED: Duration = Duration::from_secs(15);

async fn nodes(count: usize) -> Result<Sim> {
    Sim::start(Settings {
        nodes: count,
        gpus: "1x24Gi",
        ..Settings::default()
    })
    .await
}

/// A gang of so many members, each with a GPU.
fn gang(replicas: u32, script: &str, more: Value) -> Value {
    let mut spec = json!({
        "command": ["sim", script],
        "resources": {"gpus": 1},
        "replicas": replicas,
        "terminationGracePeriodSeconds": 5,
    });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

fn generation(job: &Job) -> u32 {
    status(job).gang.map_or(0, |gang| gang.generation)
}

/// The members of a gang.
fn members<'a>(jobs: &'a BTreeMap<String, Job>, gang: &str) -> Vec<&'a Job> {
    let of = |job: &&Job| {
        let labels = job.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(crds::GANG_LABEL))
            .map(String::as_str)
            == Some(gang)
    };
    jobs.values().filter(of).collect()
}

fn runs(jobs: &BTreeMap<String, Job>, gang: &str, wanted: u32) -> bool {
    phase(&jobs[gang]) == Phase::Running
        && generation(&jobs[gang]) == wanted
        && members(jobs, gang)
            .iter()
            .all(|job| status(job).start_time.is_some())
}

/// Where a member runs.
fn machine(job: &Job) -> Option<usize> {
    let binding = status(job).binding?;
    binding.node_name.strip_prefix("node-")?.parse().ok()
}

async fn patch(sim: &Sim, name: &str, patch: Value) -> Result<()> {
    let params = PatchParams::default();
    sim.jobs()
        .patch(name, &params, &Patch::Merge(&patch))
        .await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_gang_starts_whole_and_succeeds_when_all_its_members_have() -> Result<()> {
    let sim = nodes(3).await?;
    let script = "sleep=20..40";
    sim.submit("train", gang(3, script, json!({}))).await?;
    let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 1)).await?;
    let all = members(&jobs, "train");
    assert_eq!(all.len(), 3);
    let parent = status(&jobs["train"]);
    let hosts = parent.gang.context("a gang")?.hosts;
    for (rank, member) in all.iter().enumerate() {
        let status = status(member);
        let mine = status.gang.context("a gang")?;
        assert_eq!(mine.rank, Some(u32::try_from(rank)?));
        assert_eq!(mine.hosts, hosts);
        // Nobody began before the last had been claimed.
        let began = status.start_time.context("a start")?.0;
        for other in &all {
            let claim = other
                .status
                .clone()
                .and_then(|s| s.claim)
                .context("a claim")?;
            assert!(claim.time.context("a time")?.0 <= began);
        }
    }
    let mut machines: Vec<_> = all.iter().filter_map(|job| machine(job)).collect();
    machines.sort_unstable();
    assert_eq!(machines, [0, 1, 2], "each on a node of its own");
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in &jobs {
        assert_eq!(phase(job), Phase::Succeeded, "{name}");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_gang_waits_whole_for_the_last_node_and_says_why() -> Result<()> {
    let mut sim = nodes(3).await?;
    tokio::time::sleep(SETTLED).await;
    sim.crash_agent(2);
    tokio::time::sleep(Duration::from_mins(1)).await;
    sim.submit("train", gang(3, "sleep=20", json!({}))).await?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let jobs = sim.list().await?;
    for member in members(&jobs, "train") {
        assert_eq!(status(member).binding, None, "it takes no node alone");
    }
    let waiting = status(&jobs["train"]).waiting.context("a reason")?;
    let message = waiting.message.unwrap_or_default();
    assert_eq!(waiting.reason, "NodeNotReady", "{message}");
    assert!(
        message.contains("its gang needs 3 nodes and 2 of them have room"),
        "{message}"
    );
    sim.start_agent(2)?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
    assert_eq!(generation(&jobs["train"]), 1);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_gang_of_more_members_than_nodes_fails_at_once_with_the_numbers() -> Result<()> {
    let sim = nodes(2).await?;
    tokio::time::sleep(SETTLED).await;
    sim.submit("large", gang(3, "sleep=20", json!({}))).await?;
    let jobs = sim.run_until_all_ended(Duration::from_secs(10)).await?;
    assert_eq!(phase(&jobs["large"]), Phase::Infeasible);
    let message = status(&jobs["large"]).message.unwrap_or_default();
    assert!(
        message.contains("needs 3 nodes and 2 of 2 could ever run a member"),
        "{message}"
    );
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_one_member_ends_all_of_them() -> Result<()> {
    let sim = nodes(2).await?;
    sim.submit("train", gang(2, "sleep=600", json!({}))).await?;
    let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 1)).await?;
    let first = machine(&jobs["train-1"]).context("a machine")?;
    patch(&sim, "train-1", json!({"spec": {"cancel": true}})).await?;
    let jobs = sim.run_until_all_ended(Duration::from_mins(1)).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Cancelled);
    let message = status(&jobs["train"]).message.unwrap_or_default();
    assert!(
        message.contains(&format!("rank 1 on node node-{first}")),
        "{message}"
    );

    let mut fails = gang(2, "sleep=5", json!({}));
    fails["command"] = json!(["sim", "sleep=5", "exit=3"]);
    sim.submit("fails", fails).await?;
    // What no machine understands cannot be started.
    sim.submit("unstartable", gang(2, "nonsense", json!({})))
        .await?;
    let jobs = sim.run_until_all_ended(Duration::from_mins(1)).await?;
    for (name, words) in [
        ("fails", "exited with code 3"),
        ("unstartable", "could not be started"),
    ] {
        assert_eq!(phase(&jobs[name]), Phase::Failed, "{name}");
        let message = status(&jobs[name]).message.unwrap_or_default();
        assert!(message.contains(words), "{message}");
        assert_eq!(generation(&jobs[name]), 1, "{name}");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_preempted_member_takes_all_with_it_and_the_gang_runs_again_whole() -> Result<()> {
    let sim = nodes(2).await?;
    let low = gang(2, "sleep=120", json!({"preemptible": true, "priority": 1}));
    sim.submit("train", low).await?;
    sim.run_until(LIMIT, |jobs| runs(jobs, "train", 1)).await?;
    let queued = status(&sim.list().await?["train-0"]).enqueue_time;
    let urgent = json!({"command": ["sim", "sleep=30"], "resources": {"gpus": 1}, "priority": 90});
    sim.submit("urgent", urgent).await?;
    let up = |jobs: &BTreeMap<String, Job>| phase(&jobs["urgent"]) == Phase::Running;
    let jobs = sim.run_until(Duration::from_mins(1), up).await?;
    let stopped = status(&jobs["train"]);
    let why = stopped.message.unwrap_or_default();
    assert!(why.contains("default/urgent"), "{why}");
    let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 2)).await?;
    assert_eq!(
        status(&jobs["train-0"]).enqueue_time,
        queued,
        "it keeps its place"
    );
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
    assert_eq!(status(&jobs["train"]).attempts.len(), 1);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_gang_displaces_on_all_its_nodes_at_once() -> Result<()> {
    let sim = nodes(2).await?;
    for name in ["low-a", "low-b"] {
        let low = json!({"command": ["sim", "sleep=300"], "resources": {"gpus": 1},
            "preemptible": true, "terminationGracePeriodSeconds": 5});
        sim.submit(name, low).await?;
    }
    tokio::time::sleep(SETTLED).await;
    sim.submit("urgent", gang(2, "sleep=30", json!({"priority": 90})))
        .await?;
    sim.run_until(Duration::from_mins(1), |jobs| {
        jobs.contains_key("urgent") && runs(jobs, "urgent", 1)
    })
    .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in &jobs {
        assert_eq!(phase(job), Phase::Succeeded, "{name}");
    }
    assert_eq!(status(&jobs["low-a"]).attempt, 2);
    assert_eq!(status(&jobs["low-b"]).attempt, 2);
    sim.check()
}

/// Four nodes with a GPU each, and two queues that own two GPUs each and may borrow.
async fn lenders() -> Result<Sim> {
    let sim = nodes(4).await?;
    let queues: Api<Queue> = Api::all(sim.client());
    for name in ["alpha", "beta"] {
        let queue: Queue = serde_json::from_value(json!({
            "apiVersion": "gctl.dev/v1", "kind": "Queue", "metadata": {"name": name},
            "spec": {"quota": {"gpus": 2}, "borrowing": {}},
        }))?;
        queues.create(&PostParams::default(), &queue).await?;
    }
    Ok(sim)
}

#[tokio::test(start_paused = true)]
async fn a_gang_takes_back_on_all_its_nodes_what_others_borrowed_and_no_more() -> Result<()> {
    let sim = lenders().await?;
    let names = ["alpha-1", "alpha-2", "alpha-3", "alpha-4"];
    for (at, name) in names.into_iter().enumerate() {
        // Some leave at once and are before the gang in the order, while others take their time.
        let command = match at % 2 {
            0 => json!(["sim", "sleep=300"]),
            _ => json!(["sim", "ignore-term", "sleep=300"]),
        };
        let long = json!({"command": command, "resources": {"gpus": 1}, "preemptible": true,
            "queue": "alpha", "priority": 50, "terminationGracePeriodSeconds": 20});
        sim.submit(name, long).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let all_run =
        |jobs: &BTreeMap<String, Job>| jobs.values().all(|job| phase(job) == Phase::Running);
    sim.run_until(Duration::from_mins(1), all_run).await?;
    let of_beta = json!({"queue": "beta"});
    sim.submit("large", gang(3, "sleep=30", of_beta.clone()))
        .await?;
    sim.submit("train", gang(2, "sleep=30", of_beta)).await?;
    let back = |jobs: &BTreeMap<String, Job>| jobs.contains_key("train") && runs(jobs, "train", 1);
    let jobs = sim.run_until(Duration::from_mins(2), back).await?;
    let running = names.iter().filter(|name| {
        let job = &jobs[**name];
        phase(job) == Phase::Running && status(job).attempt == 1
    });
    assert_eq!(running.count(), 2, "what the queue owns is not taken");
    assert!(
        members(&jobs, "large")
            .iter()
            .all(|job| status(job).binding.is_none())
    );
    patch(&sim, "large", json!({"spec": {"cancel": true}})).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in jobs.iter().filter(|(name, _)| !name.starts_with("large")) {
        assert_eq!(phase(job), Phase::Succeeded, "{name}");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_gang_that_borrowed_gives_back_whole_and_runs_again_whole() -> Result<()> {
    let sim = lenders().await?;
    for name in ["alpha-1", "alpha-2"] {
        let long =
            json!({"command": ["sim", "sleep=300"], "resources": {"gpus": 1}, "queue": "alpha"});
        sim.submit(name, long).await?;
    }
    tokio::time::sleep(SETTLED).await;
    sim.submit("guest", gang(2, "sleep=120", json!({"queue": "alpha"})))
        .await?;
    sim.run_until(LIMIT, |jobs| {
        jobs.contains_key("guest") && runs(jobs, "guest", 1)
    })
    .await?;
    sim.submit("owner", gang(2, "sleep=30", json!({"queue": "beta"})))
        .await?;
    let jobs = sim
        .run_until(Duration::from_mins(2), |jobs| {
            jobs.contains_key("owner") && runs(jobs, "owner", 1)
        })
        .await?;
    // Both nodes of it were taken, and nothing else.
    for name in ["alpha-1", "alpha-2"] {
        assert_eq!(phase(&jobs[name]), Phase::Running, "{name}");
    }
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in &jobs {
        assert_eq!(phase(job), Phase::Succeeded, "{name}");
    }
    assert_eq!(generation(&jobs["guest"]), 2);
    assert_eq!(status(&jobs["alpha-1"]).attempt, 1);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_a_gang_is_kept_across_a_restart_of_the_controllers() -> Result<()> {
    for after_millis in [20, 200, 1000, 3000] {
        let mut sim = nodes(2).await?;
        for name in ["low-a", "low-b"] {
            let stubborn = json!({"command": ["sim", "ignore-term", "sleep=300"], "resources": {"gpus": 1},
                "preemptible": true, "terminationGracePeriodSeconds": 10});
            sim.submit(name, stubborn).await?;
        }
        tokio::time::sleep(SETTLED).await;
        let urgent = gang(2, "sleep=10", json!({"priority": 90}));
        sim.submit("urgent", urgent).await?;
        // It fits what the first victim leaves, and must not slip in.
        let other =
            json!({"command": ["sim", "sleep=60"], "resources": {"gpus": 1}, "priority": 80});
        sim.submit("other", other).await?;
        tokio::time::sleep(Duration::from_millis(after_millis)).await;
        sim.crash_controllers();
        tokio::time::sleep(Duration::from_secs(1)).await;
        sim.start_controllers();
        let jobs = sim
            .run_until(Duration::from_mins(2), |jobs| runs(jobs, "urgent", 1))
            .await?;
        assert_eq!(status(&jobs["other"]).start_time, None);
        for name in ["low-a", "low-b"] {
            assert_eq!(
                status(&jobs[name]).attempts.len(),
                1,
                "{name} was stopped once"
            );
        }
        sim.check()?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn somebody_displaces_a_gang_by_hand_and_makes_room_for_one() -> Result<()> {
    let sim = Sim::start(Settings {
        nodes: 2,
        gpus: "1x24Gi",
        scheduling: "preemption: false",
        ..Settings::default()
    })
    .await?;
    let first = gang(2, "sleep=300", json!({"preemptible": true}));
    sim.submit("first", first).await?;
    sim.run_until(LIMIT, |jobs| runs(jobs, "first", 1)).await?;
    sim.submit("second", gang(2, "sleep=10", json!({"priority": 9})))
        .await?;
    sim.pass(Duration::from_secs(30)).await;
    assert_eq!(phase(&sim.list().await?["second"]), Phase::Pending);
    let wish = json!({"metadata": {"annotations": {crds::PREEMPT_BLOCKERS_ANNOTATION: "1"}}});
    patch(&sim, "second", wish).await?;
    let done = |jobs: &BTreeMap<String, Job>| phase(&jobs["second"]) == Phase::Succeeded;
    sim.run_until(Duration::from_mins(1), done).await?;
    sim.run_until(Duration::from_mins(1), |jobs| runs(jobs, "first", 2))
        .await?;
    let wish = json!({"metadata": {"annotations": {crds::PREEMPT_ANNOTATION: "2"}}});
    patch(&sim, "first", wish).await?;
    sim.run_until(Duration::from_mins(1), |jobs| runs(jobs, "first", 3))
        .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["first"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_gang_on_a_lost_node_runs_again_on_others_when_it_asks_for_that() -> Result<()> {
    let sim = nodes(3).await?;
    let requeues = json!({"onNodeLost": "Requeue", "fenceSeconds": 120, "fenceAction": "Kill"});
    sim.submit("train", gang(2, "sleep=900", requeues)).await?;
    let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 1)).await?;
    let lost = machine(&jobs["train-1"]).context("a machine")?;
    sim.cut(lost);
    let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 2)).await?;
    for member in members(&jobs, "train") {
        assert_ne!(machine(member), Some(lost));
    }
    sim.mend(lost);
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_follows_the_loss_of_anothers_node_costs_a_generation_and_not_the_gang()
-> Result<()> {
    // The node of one member goes so many seconds before the other fails: it is overdue by then, or known to be silent.
    for before in [25, 60] {
        let sim = nodes(3).await?;
        let mut fails = gang(
            2,
            "",
            json!({"onNodeLost": "Requeue", "fenceSeconds": 120, "fenceAction": "Kill"}),
        );
        fails["command"] = json!(["sim", "sleep=100", "exit=3"]);
        sim.submit("train", fails).await?;
        let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 1)).await?;
        let lost = machine(&jobs["train-1"]).context("a machine")?;
        tokio::time::sleep(Duration::from_secs(100 - before)).await;
        sim.cut(lost);
        let stopped = |jobs: &BTreeMap<String, Job>| status(&jobs["train"]).stop.is_some();
        let jobs = sim.run_until(Duration::from_mins(3), stopped).await?;
        let message = status(&jobs["train"]).message.unwrap_or_default();
        let words = format!("rank 1 on node node-{lost} is not seen any more, and then rank 0");
        assert!(message.contains(&words), "{before}: {message}");
        // The second time it fails with all its nodes there, and that is its own doing.
        let jobs = sim.run_until_all_ended(LIMIT).await?;
        sim.mend(lost);
        assert_eq!(generation(&jobs["train"]), 2, "{before}");
        assert_eq!(phase(&jobs["train"]), Phase::Failed, "{before}");
        sim.check()?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_lost_before_the_start_costs_a_generation_and_nothing_else() -> Result<()> {
    let mut sim = nodes(3).await?;
    let filler =
        json!({"command": ["sim", "sleep=40"], "resources": {"gpus": 1}, "nodeName": "node-2"});
    sim.submit("filler", filler).await?;
    let up = |jobs: &BTreeMap<String, Job>| phase(&jobs["filler"]) == Phase::Running;
    sim.run_until(LIMIT, up).await?;
    // It is bound to, and never claims.
    sim.crash_agent(0);
    sim.submit("train", gang(2, "sleep=20", json!({}))).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
    assert!(generation(&jobs["train"]) >= 2);
    for member in members(&jobs, "train") {
        assert_ne!(machine(member), Some(0));
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_moves_the_whole_gang() -> Result<()> {
    let sim = nodes(3).await?;
    sim.submit("train", gang(2, "sleep=60", json!({}))).await?;
    let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 1)).await?;
    let drained = machine(&jobs["train-0"]).context("a machine")?;
    let nodes: Api<Node> = Api::all(sim.client());
    let patch = json!({"spec": {"desiredState": "Drain"}});
    nodes
        .patch(
            &format!("node-{drained}"),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await?;
    let jobs = sim.run_until(LIMIT, |jobs| runs(jobs, "train", 2)).await?;
    for member in members(&jobs, "train") {
        assert_ne!(machine(member), Some(drained));
    }
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_gang_is_cancelled_suspended_and_deleted_as_one() -> Result<()> {
    let sim = nodes(2).await?;
    sim.submit("train", gang(2, "sleep=600", json!({}))).await?;
    sim.run_until(LIMIT, |jobs| runs(jobs, "train", 1)).await?;
    patch(&sim, "train", json!({"spec": {"suspend": true}})).await?;
    let idle = |jobs: &BTreeMap<String, Job>| {
        jobs.values()
            .all(|job| phase(job) == Phase::Pending && status(job).binding.is_none())
    };
    sim.run_until(Duration::from_mins(1), idle).await?;
    patch(&sim, "train", json!({"spec": {"suspend": false}})).await?;
    sim.run_until(Duration::from_mins(1), |jobs| runs(jobs, "train", 2))
        .await?;
    patch(&sim, "train", json!({"spec": {"cancel": true}})).await?;
    let jobs = sim.run_until_all_ended(Duration::from_mins(1)).await?;
    for (name, job) in &jobs {
        assert_eq!(phase(job), Phase::Cancelled, "{name}");
    }
    sim.jobs().delete("train", &DeleteParams::default()).await?;
    sim.run_until(Duration::from_mins(1), BTreeMap::is_empty)
        .await?;
    sim.submit("gone", gang(2, "sleep=600", json!({}))).await?;
    sim.run_until(LIMIT, |jobs| runs(jobs, "gone", 1)).await?;
    sim.jobs().delete("gone", &DeleteParams::default()).await?;
    sim.run_until(Duration::from_mins(1), BTreeMap::is_empty)
        .await?;
    ensure!(sim.running(0).is_empty() && sim.running(1).is_empty());
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn the_members_of_an_array_may_be_gangs() -> Result<()> {
    let sim = nodes(3).await?;
    let spec = gang(2, "sleep=10", json!({"array": {"count": 3}}));
    sim.submit("sweep", spec).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["sweep"]), Phase::Succeeded);
    let names = ["sweep-0-0", "sweep-0-1", "sweep-2-1"];
    for name in names {
        assert_eq!(phase(&jobs[name]), Phase::Succeeded, "{name}");
    }
    sim.submit(
        "ended",
        gang(2, "sleep=900", json!({"array": {"count": 2}})),
    )
    .await?;
    let up =
        |jobs: &BTreeMap<String, Job>| jobs.contains_key("ended-0") && runs(jobs, "ended-0", 1);
    sim.run_until(LIMIT, up).await?;
    patch(&sim, "ended", json!({"spec": {"cancel": true}})).await?;
    let jobs = sim.run_until_all_ended(Duration::from_mins(1)).await?;
    assert_eq!(phase(&jobs["ended-0-1"]), Phase::Cancelled);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_gang_starts_once_and_whole_wherever_the_controllers_crash() -> Result<()> {
    for after_millis in [5, 20, 40, 60, 80, 100, 150, 200, 300, 500, 1000] {
        let mut sim = nodes(3).await?;
        tokio::time::sleep(SETTLED).await;
        sim.submit("train", gang(3, "sleep=20", json!({}))).await?;
        tokio::time::sleep(Duration::from_millis(after_millis)).await;
        sim.crash_controllers();
        tokio::time::sleep(Duration::from_secs(5)).await;
        sim.start_controllers();
        let jobs = sim.run_until_all_ended(LIMIT).await?;
        assert_eq!(phase(&jobs["train"]), Phase::Succeeded);
        assert_eq!(generation(&jobs["train"]), 1, "after {after_millis} ms");
        sim.check()?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn two_gangs_that_need_the_same_nodes_run_one_after_the_other() -> Result<()> {
    let sim = nodes(3).await?;
    for name in ["one", "two", "three"] {
        sim.submit(name, gang(2, "sleep=30", json!({}))).await?;
    }
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    for (name, job) in &jobs {
        assert_eq!(phase(job), Phase::Succeeded, "{name}");
    }
    for name in ["one", "two", "three"] {
        assert_eq!(generation(&jobs[name]), 1, "{name}");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn gangs_end_whatever_is_lost_on_the_way() -> Result<()> {
    for seed in 0..6 {
        let mut sim = Sim::start(Settings {
            seed,
            nodes: 3,
            gpus: "1x24Gi",
            faults: Faults {
                lost_requests: 20,
                lost_responses: 20,
                late: 30,
                broken_watches: 100,
            },
            ..Settings::default()
        })
        .await?;
        for index in 0..4_u32 {
            let more = json!({"priority": index, "preemptible": index < 2});
            sim.submit(
                &format!("gang-{index}"),
                gang(2 + index % 2, "sleep=5..60", more),
            )
            .await?;
            sim.pass(Duration::from_secs(7 + u64::from(index) * seed))
                .await;
            if index == 1 {
                sim.crash_controllers();
                sim.start_controllers();
            }
            if index == 2 {
                let victim = usize::try_from(seed % 3)?;
                sim.crash_agent(victim);
                sim.pass(Duration::from_secs(seed * 20)).await;
                sim.start_agent(victim)?;
            }
        }
        sim.pass(Duration::from_mins(2)).await;
        sim.heal();
        let jobs = sim.run_until_all_ended(LIMIT).await?;
        for index in 0..4 {
            let name = format!("gang-{index}");
            assert_eq!(
                phase(&jobs[&name]),
                Phase::Succeeded,
                "{name} of seed {seed}"
            );
        }
        sim.check()?;
    }
    Ok(())
}
