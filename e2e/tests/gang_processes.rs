//! Gangs of real processes: they meet by what their environment says, and an agent that is killed while a member waits for
//! the others starts nothing and forgets nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use crds::{Job, JobStatus, Phase};
use e2e::processes::{Cluster, Role, wait_for};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// The task of `e2e/src/bin/meet.rs`.
const MEET: &str = env!("CARGO_BIN_EXE_meet");

/// A task that leaves its environment and its hostfile in a folder and then meets the others.
fn task(notes: &Path) -> String {
    let notes = notes.display();
    format!(
        "env > {notes}/env.$GCTL_GANG_RANK\ncp \"$GCTL_GANG_HOSTFILE\" {notes}/hosts.$GCTL_GANG_RANK\nexec {MEET}\n"
    )
}

fn variables(notes: &Path, rank: u32) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(notes.join(format!("env.{rank}")))?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

async fn log_of(client: &kube::Client, name: &str) -> Result<String> {
    let path = format!("/apis/streams.gctl.dev/v1/namespaces/default/jobs/{name}/log");
    Ok(client
        .request_text(http::Request::get(path).body(Vec::new())?)
        .await?)
}

fn is(phase: Phase) -> impl Fn(&Job) -> bool {
    move |job| job.status.as_ref().and_then(|status| status.phase) == Some(phase)
}

/// Writes a part of a job's status, as the controllers do that are not there.
async fn write(jobs: &Api<Job>, name: &str, status: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "status": status }));
    jobs.patch_status(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn bind(jobs: &Api<Job>, name: &str, script: &str, gang: Value) -> Result<()> {
    let job = serde_json::from_value(json!({
        "apiVersion": "gctl.dev/v1", "kind": "Job",
        "metadata": {"name": name, "finalizers": [crds::RELEASE_FINALIZER]},
        "spec": {"script": script},
    }))?;
    jobs.create(&PostParams::default(), &job).await?;
    let binding = json!({"nodeName": "node-a", "cpuMillis": 1, "memoryBytes": 0, "epoch": 1});
    let status = json!({"phase": "Scheduled", "attempt": 1, "binding": binding, "gang": gang});
    write(jobs, name, status).await
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

/// The test stands in for the controllers, so that it says itself when the gang may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_between_claim_and_go_goes_on_waiting() -> Result<()> {
    let mut cluster = Cluster::prepare("none")?;
    cluster.launch(Role::Apiserver)?;
    cluster.launch(Role::Nodeagent)?;
    let client = cluster.client().await?;
    let jobs: Api<Job> = Api::namespaced(client.clone(), "default");
    let ran = cluster.dir().join("ran");
    let script = format!("echo run >> {}\nexec {MEET}\n", ran.display());
    let gang = json!({"size": 1, "generation": 1, "rank": 0});
    bind(&jobs, "alone-0", &script, gang).await?;
    let claimed = wait_for(&jobs, "alone-0", |job| status(job).claim.is_some()).await?;
    let claim = status(&claimed).claim.context("claimed")?;
    let endpoint = claim.endpoint.context("a member says where it is")?;
    assert_eq!(endpoint.address, "127.0.0.1");

    cluster.kill(Role::Nodeagent)?;
    cluster.launch(Role::Nodeagent)?;
    // The new agent claims nothing before it has seen all that is bound to it, the member included.
    bind(&jobs, "after", "true\n", Value::Null).await?;
    wait_for(&jobs, "after", is(Phase::Succeeded)).await?;
    let waiting = jobs.get("alone-0").await?;
    assert_eq!(
        waiting.resource_version(),
        claimed.resource_version(),
        "nothing was written"
    );
    assert!(!ran.exists(), "nothing was started");

    // Killed once more, it finds the go when it is back.
    cluster.kill(Role::Nodeagent)?;
    let master = json!({"address": endpoint.address, "port": endpoint.port});
    let gang = json!({"hosts": [endpoint.address], "master": master});
    write(
        &jobs,
        "alone-0",
        json!({"go": 1, "phase": "Running", "gang": gang}),
    )
    .await?;
    cluster.launch(Role::Nodeagent)?;
    let ended = wait_for(&jobs, "alone-0", is(Phase::Succeeded)).await?;
    assert_eq!(fs::read_to_string(&ran)?, "run\n");
    assert_eq!(log_of(&client, "alone-0").await?, "rank 0 met \n");
    let (status, claimed_at) = (status(&ended), claim.time.context("a time")?);
    ensure!(
        status.start_time.context("it started")?.0 > claimed_at.0,
        "it started when it was claimed"
    );
    Ok(())
}
