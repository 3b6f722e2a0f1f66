//! `kill -9` of each process at any time: nothing acknowledged is lost, no job runs twice, no exit code is lost, logs
//! are complete.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::{Job, Phase};
use e2e::processes::{Cluster, Role, wait_for};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Jobs of one round; each ends with its own exit code.
const JOBS: usize = 12;
/// Lines that each job writes.
const LINES: usize = 40;
/// Kills of one round.
const KILLS: usize = 9;

/// A job that notes each of its runs in a file of its own, writes numbered lines for about a second and ends with
/// `index % 5` as its exit code.
fn job(index: usize, notes: &std::path::Path) -> Result<Job> {
    let script = format!(
        "echo run >> {notes}/{index}\nfor n in $(seq {LINES}); do echo line $n of {index}; sleep 0.03; done\nexit {code}\n",
        notes = notes.display(),
        code = index % 5,
    );
    Ok(serde_json::from_value(serde_json::json!({
        "apiVersion": "gctl.dev/v1",
        "kind": "Job",
        "metadata": {"name": format!("job-{index}"), "finalizers": [crds::RELEASE_FINALIZER]},
        "spec": {"script": script, "resources": {"cpu": "1m"}},
    }))?)
}

async fn log_of(client: &kube::Client, name: &str) -> Result<String> {
    let request = http::Request::get(format!(
        "/apis/streams.gctl.dev/v1/namespaces/default/jobs/{name}/log"
    ))
    .body(Vec::new())?;
    Ok(client.request_text(request).await?)
}

/// Creates a job although the server is being killed: an answer that was lost is found out by the next try.
async fn create(api: &Api<Job>, job: &Job) -> Result<()> {
    let mut last = None;
    for _ in 0..200 {
        match api.create(&PostParams::default(), job).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(last.context("it was tried")?.into())
}

/// Runs one round in which the roles that `victims` gives are killed at random moments.
async fn round(seed: u64, victims: &[Role]) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start("2x24Gi")?;
    let notes = cluster.dir().join("notes");
    fs::create_dir(&notes)?;
    let client = cluster.client().await?;
    let api: Api<Job> = Api::namespaced(client.clone(), "default");
    let submit = {
        let (api, notes) = (api.clone(), notes.clone());
        tokio::spawn(async move {
            for index in 0..JOBS {
                create(&api, &job(index, &notes)?).await?;
            }
            anyhow::Ok(())
        })
    };
    for _ in 0..KILLS {
        // Not synchronisation: the kill is to fall at an arbitrary moment.
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        let victim = *victims.choose(&mut random).context("somebody to kill")?;
        cluster.kill(victim)?;
        cluster.launch(victim)?;
    }
    submit.await??;
    for index in 0..JOBS {
        let name = format!("job-{index}");
        let ended = wait_for(&api, &name, |job: &Job| {
            job.status
                .as_ref()
                .is_some_and(|status| status.phase.is_some_and(Phase::is_terminal))
        })
        .await?;
        let status = ended.status.context("an ended job has a status")?;
        let code = i32::try_from(index % 5)?;
        assert_eq!(
            status.exit_code,
            Some(code),
            "{name} (seed {seed}): {status:?}"
        );
        let wanted = if code == 0 {
            Phase::Succeeded
        } else {
            Phase::Failed
        };
        assert_eq!(
            status.phase,
            Some(wanted),
            "{name} (seed {seed}): {status:?}"
        );
        assert_eq!(
            fs::read_to_string(notes.join(index.to_string()))?,
            "run\n",
            "{name} ran other than once (seed {seed})"
        );
        let lines: Vec<String> = (1..=LINES)
            .map(|n| format!("line {n} of {index}\n"))
            .collect();
        await_log(&client, &name, &lines.concat()).await?;
    }
    let left = api.list(&ListParams::default()).await?.items.len();
    assert_eq!(left, JOBS, "an acknowledged job was lost (seed {seed})");
    for index in 0..JOBS {
        api.delete(&format!("job-{index}"), &DeleteParams::default())
            .await?;
    }
    Ok(())
}

/// Logs are shipped after the end is reported, so completeness is something to wait for, with a bound.
async fn await_log(client: &kube::Client, name: &str, wanted: &str) -> Result<()> {
    let mut found = String::new();
    for _ in 0..300 {
        found = log_of(client, name).await.unwrap_or_default();
        if found == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(
        found == wanted,
        "the log of {name} is not complete:\n{found}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_api_server_loses_nothing() -> Result<()> {
    round(1, &[Role::Apiserver]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_controllers_loses_nothing() -> Result<()> {
    round(2, &[Role::Controllers]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_agent_loses_nothing() -> Result<()> {
    round(3, &[Role::Nodeagent]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_any_of_them_loses_nothing() -> Result<()> {
    round(4, &Role::ALL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_go_on_after_the_server_was_killed() -> Result<()> {
    let mut cluster = Cluster::prepare("none")?;
    cluster.launch(Role::Apiserver)?;
    let client = cluster.client().await?;
    let api: Api<Job> = Api::namespaced(client.clone(), "default");
    let notes = cluster.dir().to_path_buf();
    let mut acknowledged = BTreeMap::new();
    for index in 0..30 {
        let created = api
            .create(&PostParams::default(), &job(index, &notes)?)
            .await?;
        let revision: u64 = created
            .metadata
            .resource_version
            .context("a version")?
            .parse()?;
        acknowledged.insert(format!("job-{index}"), revision);
        if index % 10 == 9 {
            cluster.kill(Role::Apiserver)?;
            cluster.launch(Role::Apiserver)?;
        }
    }
    let revisions: Vec<u64> = acknowledged.values().copied().collect();
    let mut sorted = revisions.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), revisions.len(), "no revision was given twice");
    let stored = api.list(&ListParams::default()).await?;
    let found: BTreeMap<String, u64> = stored
        .items
        .into_iter()
        .filter_map(|job| {
            Some((
                job.metadata.name?,
                job.metadata.resource_version?.parse().ok()?,
            ))
        })
        .collect();
    assert_eq!(found, acknowledged);
    Ok(())
}
