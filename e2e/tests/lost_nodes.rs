//! Nodes that are to be emptied, and nodes that fall silent: what runs on them goes on, waits, is fenced and runs elsewhere, and never twice at once.

use std::time::Duration;

use anyhow::{Context, Result};
use crds::{Node, Phase};
use e2e::sim::{Settings, Sim, phase};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

const LIMIT: Duration = Duration::from_hours(2);
const FENCE: Duration = Duration::from_mins(2);
/// Longest time between two looks at what runs.
const LOOK: Duration = Duration::from_secs(6);
const MINUTE: Duration = Duration::from_mins(1);

async fn two_nodes() -> Result<Sim> {
    Sim::start(Settings {
        nodes: 2,
        ..Settings::default()
    })
    .await
}

/// Submits a job that is to run elsewhere when its node is lost, and says on which machine it runs.
async fn started(sim: &Sim, name: &str, seconds: u32) -> Result<usize> {
    sim.submit(
        name,
        json!({
            "command": ["sim", format!("sleep={seconds}")],
            "resources": {"gpus": 1},
            "onNodeLost": "Requeue",
            "fenceSeconds": FENCE.as_secs(),
        }),
    )
    .await?;
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs[name]) == Phase::Running)
        .await?;
    place(&jobs[name]).context("a binding")
}

fn place(job: &crds::Job) -> Option<usize> {
    let binding = job.status.as_ref()?.binding.as_ref()?;
    binding.node_name.strip_prefix("node-")?.parse().ok()
}

fn attempt(job: &crds::Job) -> u32 {
    job.status.as_ref().map_or(0, |status| status.attempt)
}

#[tokio::test(start_paused = true)]
async fn a_job_on_a_node_that_is_cut_off_is_frozen_there_before_it_runs_elsewhere() -> Result<()> {
    let sim = two_nodes().await?;
    let first = started(&sim, "moves", 900).await?;
    sim.cut(first);
    let cut = sim.elapsed();
    sim.run_until(LIMIT, |jobs| phase(&jobs["moves"]) == Phase::Unknown)
        .await?;
    assert_eq!(sim.running(first).len(), 1, "it goes on for now");
    sim.run_until(LIMIT, |_| sim.running(first).is_empty())
        .await?;
    assert!(sim.elapsed() <= cut + FENCE + LOOK, "{:?}", sim.elapsed());
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs["moves"]) == Phase::Running)
        .await?;
    assert!(sim.elapsed() + Duration::from_secs(10) >= cut + FENCE + MINUTE);
    assert_ne!(place(&jobs["moves"]), Some(first));
    sim.mend(first);
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["moves"]), Phase::Succeeded);
    assert_eq!(attempt(&jobs["moves"]), 2);
    assert!(sim.running(first).is_empty(), "what was left is killed");
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_frozen_job_goes_on_when_its_node_is_back_in_time() -> Result<()> {
    let sim = two_nodes().await?;
    let first = started(&sim, "stays", 600).await?;
    sim.cut(first);
    sim.run_until(LIMIT, |_| sim.running(first).is_empty())
        .await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    sim.mend(first);
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs["stays"]) == Phase::Running)
        .await?;
    assert_eq!(place(&jobs["stays"]), Some(first));
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["stays"]), Phase::Succeeded);
    assert_eq!(attempt(&jobs["stays"]), 1);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_dead_agent_unfences_nothing() -> Result<()> {
    let mut sim = two_nodes().await?;
    let first = started(&sim, "moves", 900).await?;
    sim.crash_agent(first);
    sim.run_until(LIMIT, |_| sim.running(first).is_empty())
        .await?;
    sim.run_until(LIMIT, |jobs| phase(&jobs["moves"]) == Phase::Running)
        .await?;
    sim.start_agent(first)?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(attempt(&jobs["moves"]), 2);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_while_its_job_is_frozen_thaws_it() -> Result<()> {
    let mut sim = two_nodes().await?;
    let first = started(&sim, "stays", 600).await?;
    sim.crash_agent(first);
    sim.run_until(LIMIT, |_| sim.running(first).is_empty())
        .await?;
    sim.start_agent(first)?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["stays"]), Phase::Succeeded);
    assert_eq!(attempt(&jobs["stays"]), 1);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_kills_leaves_nothing_and_the_job_runs_again() -> Result<()> {
    let sim = two_nodes().await?;
    sim.submit(
        "gang",
        json!({
            "command": ["sim", "sleep=300"], "resources": {"gpus": 1},
            "onNodeLost": "Requeue", "fenceSeconds": FENCE.as_secs(), "fenceAction": "Kill",
        }),
    )
    .await?;
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs["gang"]) == Phase::Running)
        .await?;
    let first = place(&jobs["gang"]).context("a binding")?;
    sim.cut(first);
    sim.run_until(LIMIT, |_| sim.running(first).is_empty())
        .await?;
    // Back before the job runs elsewhere: the agent itself says what became of it.
    sim.mend(first);
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let status = jobs["gang"].status.as_ref().context("a status")?;
    assert_eq!((status.phase, status.attempt), (Some(Phase::Succeeded), 2));
    let reason = status.attempts[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("no contact"), "{reason}");
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn silence_counts_only_while_the_controllers_watched_it() -> Result<()> {
    let mut sim = two_nodes().await?;
    let first = started(&sim, "moves", 900).await?;
    sim.cut(first);
    tokio::time::sleep(FENCE + MINUTE / 2).await;
    sim.crash_controllers();
    sim.start_controllers();
    let restarted = sim.elapsed();
    sim.run_until(LIMIT, |jobs| phase(&jobs["moves"]) == Phase::Running)
        .await?;
    assert!(sim.elapsed() >= restarted + FENCE + MINUTE);
    sim.mend(first);
    sim.run_until_all_ended(LIMIT).await?;
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_its_node_is_lost_when_an_operator_says_that_it_is_gone() -> Result<()>
{
    let sim = two_nodes().await?;
    sim.submit(
        "waits",
        json!({"command": ["sim", "sleep=300"], "resources": {"gpus": 1}}),
    )
    .await?;
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs["waits"]) == Phase::Running)
        .await?;
    let first = place(&jobs["waits"]).context("a binding")?;
    sim.cut(first);
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(phase(&sim.list().await?["waits"]), Phase::Unknown);
    let name = format!("node-{first}");
    let leases: Api<Lease> = Api::namespaced(sim.client(), crds::NODE_LEASE_NAMESPACE);
    let renewed = leases
        .get(&name)
        .await?
        .spec
        .and_then(|spec| spec.renew_time);
    let nodes: Api<Node> = Api::all(sim.client());
    let gone = Patch::Merge(json!({"spec": {"goneAfter": renewed}}));
    nodes.patch(&name, &PatchParams::default(), &gone).await?;
    let jobs = sim.run_until_all_ended(MINUTE).await?;
    let status = jobs["waits"].status.as_ref().context("a status")?;
    assert_eq!(status.phase, Some(Phase::Lost));
    assert!(status.release.is_some(), "its slots are free");
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn no_job_runs_twice_at_once_whatever_is_cut_or_crashes() -> Result<()> {
    for seed in 21..=22 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sim = Sim::start(Settings {
            seed,
            nodes: 3,
            ..Settings::default()
        })
        .await?;
        for index in 0..8 {
            let seconds = random.random_range(100..600);
            sim.submit(
                &format!("job-{index}"),
                json!({
                    "command": ["sim", format!("sleep={seconds}")],
                    "resources": {"vram": "8Gi"},
                    "onNodeLost": "Requeue",
                    "fenceSeconds": random.random_range(60..120),
                    "fenceAction": if random.random_bool(0.3) { "Kill" } else { "Freeze" },
                }),
            )
            .await?;
        }
        for _ in 0..8 {
            let index = random.random_range(0..3);
            let pause = Duration::from_secs(random.random_range(5..240));
            match random.random_range(0..3) {
                0 => {
                    sim.crash_controllers();
                    sim.pass(pause).await;
                    sim.start_controllers();
                }
                1 => {
                    sim.crash_agent(index);
                    sim.pass(pause).await;
                    sim.start_agent(index)?;
                }
                _ => {
                    sim.cut(index);
                    sim.pass(pause).await;
                    sim.mend(index);
                }
            }
        }
        let jobs = sim.run_until_all_ended(Duration::from_hours(6)).await?;
        for (name, job) in &jobs {
            assert_eq!(phase(job), Phase::Succeeded, "{name}, seed {seed}");
        }
        sim.check()?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_takes_none_and_a_stopped_one_ends_its_agent_when_it_is_empty() -> Result<()>
{
    let sim = two_nodes().await?;
    let nodes: Api<Node> = Api::all(sim.client());
    let wants = |state: &str| Patch::Merge(json!({"spec": {"desiredState": state}}));
    let params = PatchParams::default();
    sim.pass(Duration::from_secs(5)).await;
    nodes.patch("node-1", &params, &wants("Pause")).await?;
    let job = json!({"command": ["sim", "trap=0", "sleep=300"], "resources": {"gpus": 2}});
    sim.submit("one", job.clone()).await?;
    sim.run_until(LIMIT, |jobs| phase(&jobs["one"]) == Phase::Running)
        .await?;
    sim.submit("two", job).await?;
    sim.pass(Duration::from_secs(30)).await;
    let jobs = sim.list().await?;
    assert_eq!(place(&jobs["one"]), Some(0));
    assert_eq!(place(&jobs["two"]), None, "a paused node takes none");

    nodes.patch("node-1", &params, &wants("Run")).await?;
    sim.run_until(LIMIT, |jobs| phase(&jobs["two"]) == Phase::Running)
        .await?;
    nodes.patch("node-0", &params, &wants("Stop")).await?;
    sim.run_until(LIMIT, |_| sim.agent_has_ended(0)).await?;
    let jobs = sim.list().await?;
    let status = jobs["one"].status.as_ref().context("a status")?;
    assert_eq!(status.phase, Some(Phase::Pending), "it waits for node-1");
    let reason = status.attempts[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("drained"), "{reason}");
    assert!(!sim.agent_has_ended(1));
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(place(&jobs["one"]), Some(1));
    sim.check()
}
