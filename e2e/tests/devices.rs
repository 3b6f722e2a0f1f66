//! What users are promised of GPUs that are joined or sliced, end to end in the simulated cluster: what the agents report
//! decides where jobs land, and what they see.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use crds::node::GpuStatus;
use crds::{Job, JobStatus, Node, NodeStatus, Phase};
use e2e::sim::{Settings, Sim, phase};
use kube::api::Api;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_hours(1);
/// Until the fleet has settled and everything that is decided at once was decided.
const SETTLED: Duration = Duration::from_secs(15);

/// A cluster of one node that has settled.
async fn with_gpus(gpus: &'static str) -> Result<Sim> {
    let sim = Sim::start(Settings {
        gpus,
        ..Settings::default()
    })
    .await?;
    tokio::time::sleep(SETTLED).await;
    Ok(sim)
}

fn sleeps(seconds: u32, resources: Value) -> Value {
    json!({"command": ["sim", "env=CUDA_VISIBLE_DEVICES", format!("sleep={seconds}")], "resources": resources})
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

async fn node(sim: &Sim) -> Result<NodeStatus> {
    let nodes: Api<Node> = Api::all(sim.client());
    nodes.get("node-0").await?.status.context("a status")
}

/// The indices of the GPUs that a job was given.
async fn gpus_of(sim: &Sim, jobs: &BTreeMap<String, Job>, name: &str) -> Result<Vec<u32>> {
    let binding = status(&jobs[name]).binding.context("a binding")?;
    let known = node(sim).await?.gpus;
    let index = |uuid: &String| {
        known
            .iter()
            .find(|gpu| gpu.uuid == *uuid)
            .map(|gpu| gpu.index)
    };
    Ok(binding.gpus.iter().filter_map(index).collect())
}

async fn log_of(sim: &Sim, name: &str) -> Result<String> {
    let path = format!("/apis/streams.gctl.dev/v1/namespaces/default/jobs/{name}/log");
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(sim.client().request_text(request).await?)
}

#[tokio::test(start_paused = true)]
async fn a_job_of_two_gpus_gets_a_joined_pair_though_others_come_first() -> Result<()> {
    let sim = with_gpus("1x24Gi,2x24Gi/pairs,1x24Gi").await?;
    let text = node(&sim).await?.capacity.context("a capacity")?.gpu_links;
    assert_eq!(text.as_deref(), Some("NVLink 2"));
    sim.submit("pair", sleeps(60, json!({"gpus": 2}))).await?;
    // The joined pair is taken now. Who can wait for NVLink waits, and who cannot takes what is left.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let nvlink = json!({"gpus": 2, "gpu": {"interconnect": "NVLink"}});
    sim.submit("joined", sleeps(5, nvlink)).await?;
    sim.submit("any", sleeps(5, json!({"gpus": 2}))).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let jobs = sim.list().await?;
    assert_eq!(gpus_of(&sim, &jobs, "pair").await?, [1, 2]);
    assert_eq!(gpus_of(&sim, &jobs, "any").await?, [0, 3]);
    assert_eq!(phase(&jobs["joined"]), Phase::Pending);
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(gpus_of(&sim, &jobs, "joined").await?, [1, 2]);
    // More than are joined, anywhere: nothing to wait for.
    let four = json!({"gpus": 4, "gpu": {"interconnect": "NVLink"}});
    sim.submit("four", sleeps(5, four)).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let four = status(&jobs["four"]);
    assert_eq!(four.phase, Some(Phase::Infeasible));
    let message = four.message.unwrap_or_default();
    assert!(message.contains("NVLink"), "{message}");
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_found_below_one_switch_where_one_gpu_of_each_is_taken() -> Result<()> {
    let sim = with_gpus("6x24Gi/switches=3/numa=1").await?;
    // Holds GPU 0, so that the first two that are free are below two switches.
    sim.submit("holder", sleeps(60, json!({"gpus": 1}))).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    sim.submit("pair", sleeps(5, json!({"gpus": 2}))).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(gpus_of(&sim, &jobs, "holder").await?, [0]);
    assert_eq!(gpus_of(&sim, &jobs, "pair").await?, [2, 3]);
    sim.check()
}

const SLICED: &str = "1x24Gi/mig=2g.12gb+2x1g.6gb,1x16Gi";

#[tokio::test(start_paused = true)]
async fn a_job_for_a_slice_gets_one_and_sees_nothing_else() -> Result<()> {
    let sim = with_gpus(SLICED).await?;
    let capacity = node(&sim).await?.capacity.context("a capacity")?;
    assert_eq!((capacity.gpus, capacity.gpu_slices), (2, 3));
    let slice = |profile: &str| json!({"gpus": 1, "gpu": {"slice": profile}});
    sim.submit("half", sleeps(5, slice("2g.12gb"))).await?;
    sim.submit("any", sleeps(5, json!({"vram": "5Gi"}))).await?;
    sim.submit("none", sleeps(5, slice("4g.24gb"))).await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["half"]), Phase::Succeeded);
    assert_eq!(gpus_of(&sim, &jobs, "half").await?, [2]);
    let uuid = &status(&jobs["half"]).binding.context("a binding")?.gpus[0];
    assert!(uuid.starts_with("MIG-"), "{uuid}");
    assert_eq!(
        log_of(&sim, "half").await?,
        format!("CUDA_VISIBLE_DEVICES={uuid}\n")
    );
    // What declares little takes the smallest that has room.
    assert_eq!(gpus_of(&sim, &jobs, "any").await?, [3]);
    let none = status(&jobs["none"]);
    assert_eq!(none.phase, Some(Phase::Infeasible));
    let message = none.message.unwrap_or_default();
    assert!(message.contains("4g.24gb"), "{message}");
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_sliced_gpu_is_never_given_away_as_a_whole() -> Result<()> {
    let sim = with_gpus(SLICED).await?;
    for name in ["first", "second"] {
        sim.submit(name, sleeps(20, json!({"gpus": 1}))).await?;
    }
    sim.submit("two", sleeps(5, json!({"gpus": 2}))).await?;
    let slices = json!({"gpus": 2, "gpu": {"slice": "1g.6gb"}});
    sim.submit("slices", sleeps(5, slices)).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let jobs = sim.list().await?;
    // The GPU that is whole takes one after the other; two GPUs there would be, were none sliced.
    assert_eq!(gpus_of(&sim, &jobs, "first").await?, [1]);
    assert_eq!(phase(&jobs["second"]), Phase::Pending);
    let waiting = |name: &str| status(&jobs[name]).waiting.unwrap_or_default();
    assert_eq!(waiting("two").reason, "GpuSliceMismatch");
    let refused = status(&jobs["slices"]);
    assert_eq!(refused.phase, Some(Phase::Infeasible));
    let message = refused.message.unwrap_or_default();
    assert!(message.contains("a process can use only one"), "{message}");
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs["second"]).is_terminal())
        .await?;
    assert_eq!(gpus_of(&sim, &jobs, "second").await?, [1]);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_reports_of_its_gpus_is_what_was_described() -> Result<()> {
    let sim = with_gpus("2x80Gi/nvlink/switches=1/numa=2,1x80Gi/mig=3g.40gb+1g.10gb").await?;
    let gpus = node(&sim).await?.gpus;
    let index = |uuid: &String| {
        gpus.iter()
            .find(|gpu| gpu.uuid == *uuid)
            .map(|gpu| gpu.index)
    };
    let shown = |gpu: &GpuStatus| {
        let peers: Vec<Option<u32>> = gpu.nvlinks.iter().map(index).collect();
        let slice = gpu.slice.as_ref();
        let slice = slice.map(|slice| (index(&slice.parent), slice.profile.clone()));
        (gpu.index, gpu.numa_node, peers, slice)
    };
    let of_2 = |profile: &str| Some((Some(2), profile.to_owned()));
    let expected = [
        (0, Some(0), vec![Some(1)], None),
        (1, Some(1), vec![Some(0)], None),
        (2, None, vec![], None),
        (3, None, vec![], of_2("3g.40gb")),
        (4, None, vec![], of_2("1g.10gb")),
    ];
    assert_eq!(gpus.iter().map(shown).collect::<Vec<_>>(), expected);
    assert!(gpus[0].pcie_switch.is_some());
    assert_eq!(gpus[0].pcie_switch, gpus[1].pcie_switch);
    Ok(())
}
