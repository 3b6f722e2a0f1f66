//! Measures no-op jobs per second end to end (create, effective, bind, claim, run, end), beside bare fork+exec in the
//! same run: `cargo run --release -p e2e --bin noop -- [JOBS] [CPU] [up]`.
//!
//! All processes are real and every write is flushed before its answer. CPU is what each job asks for, so it decides
//! how many run at once: with `500m` a machine of two cores has four slots. API server, controllers and agent are
//! processes of their own, or with `up` one process of `gctl up`, as on a single machine.
#![expect(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crds::Job;
use e2e::processes::{Cluster, Role, client, kill_everything_below, listening, up_in};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, PostParams, WatchEvent, WatchParams};

/// Jobs are created with this many requests under way.
const CONNECTIONS: usize = 16;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let jobs: usize = args.next().map_or(Ok(2000), |arg| arg.parse())?;
    let cpu = args.next().unwrap_or_else(|| "100m".to_owned());
    let is_up = match args.next().as_deref() {
        None => false,
        Some("up") => true,
        Some(other) => bail!("`{other}` is not `up`"),
    };

    let spawns = 500;
    let started = Instant::now();
    for _ in 0..spawns {
        Command::new("/bin/true").status()?;
    }
    let bare = rate(spawns, started.elapsed());
    println!("bare fork+exec, one after another: {bare:.0}/s");

    let cluster = if is_up {
        System::up("1x24Gi")?
    } else {
        System::Apart(Cluster::start("1x24Gi")?)
    };
    let client = cluster.client().await?;
    let api: Api<Job> = Api::namespaced(client, "default");
    run(&api, "warm", 200, &cpu).await?;
    let before = Usage::read(&cluster, api.clone().into_client()).await?;
    let started = Instant::now();
    run(&api, "noop", jobs, &cpu).await?;
    let done = rate(jobs, started.elapsed());
    let after = Usage::read(&cluster, api.into_client()).await?;
    println!("no-op jobs of {cpu} CPU, create to recorded end: {done:.0}/s ({jobs} jobs)");
    println!("ratio to bare fork+exec: {:.2}", done / bare);
    after.report(&before, jobs);
    Ok(())
}

/// What is measured.
enum System {
    /// A process each for API server, controllers and agent.
    Apart(Cluster),
    /// All in one.
    Up {
        process: Child,
        dir: tempfile::TempDir,
    },
}

impl System {
    /// `gctl up` in a directory of its own.
    fn up(gpus: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("gctl-noop-").tempdir()?;
        let mut process = up_in(dir.path())
            .args(["--sim-gpus", gpus])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        listening(&mut process)?;
        Ok(Self::Up { process, dir })
    }

    async fn client(&self) -> Result<kube::Client> {
        match self {
            Self::Apart(cluster) => cluster.client().await,
            Self::Up { dir, .. } => client(&dir.path().join("data/kubeconfig")).await,
        }
    }

    /// The processes by name; the last one has the spawner.
    fn processes(&self) -> Result<Vec<(String, u32)>> {
        match self {
            Self::Apart(cluster) => Role::ALL
                .into_iter()
                .map(|role| Ok((format!("{role:?}"), cluster.pid(role).context("it runs")?)))
                .collect(),
            Self::Up { process, .. } => Ok(vec![("gctl up".to_owned(), process.id())]),
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Self::Up { process, dir } = self {
            let _ = process.kill();
            let _ = process.wait();
            kill_everything_below(dir.path());
        }
    }
}

/// What the processes have used so far, and what the server has been asked.
struct Usage {
    /// Seconds of CPU time by process.
    cpu: BTreeMap<String, f64>,
    /// Requests by verb, subresource and code, and the seconds until their answers by verb and subresource.
    requests: BTreeMap<String, f64>,
}

impl Usage {
    async fn read(cluster: &System, client: kube::Client) -> Result<Self> {
        let mut cpu = BTreeMap::new();
        let processes = cluster.processes()?;
        for (name, pid) in &processes {
            cpu.insert(name.clone(), cpu_seconds(*pid, false)?);
        }
        let (_, agent) = processes.last().context("there are some")?;
        let agent = *agent;
        let spawner = child_of(agent)?.context("an agent has a spawner")?;
        let name = "spawner, shims and jobs".to_owned();
        cpu.insert(name, cpu_seconds(spawner, true)?);
        let own = std::process::id();
        cpu.insert("this client".to_owned(), cpu_seconds(own, false)?);
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let metrics = client.request_text(request).await?;
        let requests = metrics
            .lines()
            .filter(|line| line.contains("resource=\"jobs\"") || line.contains("_revision "))
            .filter(|line| !line.contains("_bucket{"))
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
        Ok(Self { cpu, requests })
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn report(&self, before: &Self, jobs: usize) {
        let jobs = jobs as f64;
        let mut total = 0.0;
        for (name, after) in &self.cpu {
            let used = after - before.cpu.get(name).unwrap_or(&0.0);
            println!(
                "CPU of {name}: {used:.2} s, {:.0} us a job",
                used * 1e6 / jobs
            );
            total += used;
        }
        println!("CPU of all: {:.0} us a job", total * 1e6 / jobs);
        for (name, after) in &self.requests {
            let more = after - before.requests.get(name).unwrap_or(&0.0);
            if more > 0.0 {
                println!("{:.3} a job: {name}", more / jobs);
            }
        }
    }
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

/// User and system time of a process so far, from /proc/PID/stat; with that of the children it has waited for.
fn cpu_seconds(pid: u32, with_children: bool) -> Result<f64> {
    let fields = stat(pid)?;
    let mut ticks = 0.0;
    for field in &fields[11..if with_children { 15 } else { 13 }] {
        ticks += field.parse::<f64>()?;
    }
    // USER_HZ is 100 on every Linux that we build for.
    Ok(ticks / 100.0)
}

/// The fields of /proc/PID/stat after the command.
fn stat(pid: u32) -> Result<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("a command in brackets")?;
    Ok(rest.split(' ').map(str::to_owned).collect())
}

/// The first child of a process.
fn child_of(parent: u32) -> Result<Option<u32>> {
    let parent = parent.to_string();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if stat(pid).is_ok_and(|fields| fields[1] == parent) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}
