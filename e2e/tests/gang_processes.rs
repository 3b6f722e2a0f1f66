//! Gangs of real processes: they meet by what their environment says, and an agent that is killed while a member waits for
//! the others starts nothing and forgets nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use crds::{Job, JobStatus, Node, Phase};
use e2e::processes::{
    Cluster, Role, binary, client, kill_everything_below, listening, up_in, wait_for,
};
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

/// `gctl up` with three nodes on this host, of which each has one GPU.
struct Up {
    dir: tempfile::TempDir,
    child: Child,
}

impl Up {
    fn start(manifest: &Value) -> Result<Up> {
        let dir = tempfile::Builder::new().prefix("gctl-gang-").tempdir()?;
        let file = dir.path().join("gang.json");
        fs::write(
            &file,
            manifest
                .to_string()
                .replace("NOTES", &dir.path().display().to_string()),
        )?;
        let child = up_in(dir.path())
            .args(["--sim-nodes", "3", "--sim-gpus", "2x24Gi"])
            .args(["--address", "localhost"])
            .arg("--apply")
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut up = Up { dir, child };
        listening(&mut up.child)?;
        Ok(up)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        kill_everything_below(self.dir.path());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_tasks_of_a_gang_meet_by_what_their_environment_says() -> Result<()> {
    let up = Up::start(&json!({
        "apiVersion": "gctl.dev/v1", "kind": "Job",
        "metadata": {"name": "trio"},
        "spec": {
            "replicas": 3,
            "script": task(Path::new("NOTES")),
            "env": [{"name": "NODE_RANK", "value": "mine"}],
            "resources": {"gpus": 2},
        },
    }))?;
    let notes = up.dir.path();
    let client = client(&notes.join("data/kubeconfig")).await?;
    let jobs: Api<Job> = Api::namespaced(client.clone(), "default");
    let parent = wait_for(&jobs, "trio", |job| {
        let phase = status(job).phase;
        phase.is_some_and(Phase::is_terminal)
    })
    .await?;
    let mut nodes = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for rank in 0..3 {
        let member = jobs.get(&format!("trio-{rank}")).await?;
        let log = log_of(&client, &format!("trio-{rank}")).await?;
        let status = status(&member);
        assert_eq!(
            status.phase,
            Some(Phase::Succeeded),
            "{rank}: {status:?} {log}"
        );
        let met = match rank {
            0 => "rank 0 met 1,2\n".to_owned(),
            rank => format!("rank {rank} is one of 1,2\n"),
        };
        assert_eq!(log, met);
        let claim = status.claim.context("it was claimed")?;
        nodes.insert(claim.node_name);
        ports.insert(claim.endpoint.context("a member says where it is")?.port);
        let env = variables(notes, rank)?;
        let number = rank.to_string();
        for (name, value) in [
            ("GCTL_GANG_RANK", number.as_str()),
            ("GCTL_GANG_SIZE", "3"),
            ("GCTL_GANG_GENERATION", "1"),
            ("GCTL_GANG_HOSTS", "localhost,localhost,localhost"),
            ("RANK", &number),
            ("NODE_RANK", "mine"),
            ("WORLD_SIZE", "3"),
            ("MASTER_ADDR", "localhost"),
            ("PET_NNODES", "3"),
            ("PET_NODE_RANK", &number),
            ("PET_MASTER_ADDR", "localhost"),
            ("PET_MASTER_PORT", &env["MASTER_PORT"]),
        ] {
            assert_eq!(env[name], value, "{name} of rank {rank}");
        }
        let hosts = fs::read_to_string(notes.join(format!("hosts.{rank}")))?;
        assert_eq!(hosts, "localhost slots=2\n".repeat(3));
    }
    assert_eq!((nodes.len(), ports.len()), (3, 3), "{nodes:?} {ports:?}");
    assert_eq!(status(&parent).phase, Some(Phase::Succeeded));
    let nodes: Api<Node> = Api::all(client);
    let address = nodes
        .get("sim-0")
        .await?
        .status
        .context("registered")?
        .address;
    assert_eq!(address.as_deref(), Some("localhost"));
    Ok(())
}

#[test]
fn an_address_that_is_none_is_refused_with_the_flags_name() -> Result<()> {
    for (program, args) in [
        ("gctl", vec!["up", "--address", "10.0.0.7:80"]),
        (
            "nodeagent",
            vec!["--data-dir", "/nowhere", "--address", "10.0.0.7:80"],
        ),
    ] {
        let output = Command::new(binary(program)).args(args).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{program}");
        assert!(
            text.contains("--address") && text.contains("without scheme or port"),
            "{text}"
        );
    }
    Ok(())
}

/// The test stands in for the controllers, so that it says itself when the gang may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_between_claim_and_go_goes_on_waiting() -> Result<()> {
    let mut cluster = Cluster::prepare("1x24Gi")?;
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
