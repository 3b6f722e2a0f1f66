//! Measures no-op jobs per second end to end (create, effective, bind, claim, run, end), beside bare fork+exec in the
//! same run: `cargo run --release -p e2e --bin noop -- [JOBS] [CPU]`.
//!
//! All processes are real and every write is flushed before its answer. CPU is what each job asks for, so it decides
//! how many run at once: with `500m` a machine of two cores has four slots.
#![expect(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crds::Job;
use e2e::processes::{Cluster, Role};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, PostParams, WatchEvent, WatchParams};

/// Jobs are created with this many requests under way.
const CONNECTIONS: usize = 16;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let jobs: usize = args.next().map_or(Ok(2000), |arg| arg.parse())?;
    let cpu = args.next().unwrap_or_else(|| "100m".to_owned());

    let spawns = 500;
    let started = Instant::now();
    for _ in 0..spawns {
        Command::new("/bin/true").status()?;
    }
    let bare = rate(spawns, started.elapsed());
    println!("bare fork+exec, one after another: {bare:.0}/s");

    let cluster = Cluster::start("none")?;
    let client = cluster.client().await?;
    let api: Api<Job> = Api::namespaced(client, "default");
    run(&api, "warm", 50, &cpu).await?;
    let started = Instant::now();
    run(&api, "noop", jobs, &cpu).await?;
    let done = rate(jobs, started.elapsed());
    println!("no-op jobs of {cpu} CPU, create to recorded end: {done:.0}/s ({jobs} jobs)");
    println!("ratio to bare fork+exec: {:.2}", done / bare);
    for role in Role::ALL {
        let pid = cluster.pid(role).context("it runs")?;
        println!("{role:?}: {:.1} s of CPU time", cpu_seconds(pid)?);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// Creates the jobs and returns when the end of the last one is recorded.
async fn run(api: &Api<Job>, prefix: &str, jobs: usize, cpu: &str) -> Result<()> {
    let names: Vec<String> = (0..jobs).map(|index| format!("{prefix}-{index}")).collect();
    let create = stream::iter(&names)
        .map(|name| async move {
            let job: Job = serde_json::from_value(serde_json::json!({
                "apiVersion": "gctl.dev/v1",
                "kind": "Job",
                "metadata": {
                    "name": name,
                    "labels": {"run": prefix},
                    "finalizers": [crds::RELEASE_FINALIZER],
                },
                "spec": {"command": ["/bin/true"], "resources": {"cpu": cpu}},
            }))?;
            api.create(&PostParams::default(), &job).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect::<()>();
    let ended = async {
        let params = WatchParams::default()
            .labels(&format!("run={prefix}"))
            .fields("status.phase=Succeeded")
            .timeout(290);
        let mut events = std::pin::pin!(api.watch_metadata(&params, "0").await?);
        let mut left = jobs;
        while left > 0 {
            match events.try_next().await?.context("the watch ended early")? {
                WatchEvent::Added(_) => left -= 1,
                WatchEvent::Error(status) => anyhow::bail!("{status:?}"),
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    futures::try_join!(create, ended)?;
    Ok(())
}

/// User and system time of a process so far, from /proc/PID/stat.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("a command in brackets")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // USER_HZ is 100 on every Linux that we build for.
    Ok(ticks / 100.0)
}
