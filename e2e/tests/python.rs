//! Jobs in Python: the helper of `manifests/python` passes its own tests, and its example goes from a preemption to where it
//! goes on, with real processes.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use crds::{Job, JobStatus, PREEMPT_ANNOTATION, Phase};
use e2e::processes::{Cluster, binary, wait_for};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

/// Where a job finds its programs.
const PATH_OF_JOBS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const EXAMPLE: &str = "examples/checkpoint-python.yaml";
const HELPER: &str = "python/gctl_checkpoint.py";

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

fn read(name: &str) -> Result<String> {
    let path = manifests().join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// `python3` as it is found there; `None`, said loudly, where there is none of 3.8 or later.
fn python(path: &OsStr) -> Option<Command> {
    let python = || {
        let mut python = Command::new("python3");
        python.env("PATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
        python
    };
    let check = "import sys; sys.exit(sys.version_info < (3, 8))";
    let found = python()
        .args(["-c", check])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        // Past the test harness, which swallows what a passing test prints.
        let path = path.display();
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no python3 of 3.8 or later in {path}"
        );
    }
    found.then(python)
}

#[test]
fn the_helper_passes_its_own_tests() -> Result<()> {
    let Some(mut python) = python(&std::env::var_os("PATH").unwrap_or_default()) else {
        return Ok(());
    };
    let output = python
        .args(["-W", "error", "-m", "unittest", "-v"])
        .arg("test_gctl_checkpoint")
        .current_dir(manifests().join("python"))
        .stdin(Stdio::null())
        .output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{report}");
    let passed = report
        .lines()
        .filter(|line| line.ends_with("... ok"))
        .count();
    ensure!(passed > 20, "the tests were found: {report}");
    Ok(())
}

#[test]
fn the_example_brings_the_helper_along_as_it_is() -> Result<()> {
    let job: Job = serde_yaml::from_str(&read(EXAMPLE)?)?;
    let script = job.spec.script.context("a script")?;
    let (_, rest) = script
        .split_once("<<'HELPER'\n")
        .context("the helper's beginning")?;
    let (copy, _) = rest.split_once("\nHELPER\n").context("the helper's end")?;
    let helper = read(HELPER)?;
    for (number, (copied, line)) in copy.lines().zip(helper.lines()).enumerate() {
        let number = number + 1;
        assert_eq!(
            copied, line,
            "{EXAMPLE} has another line {number} than {HELPER}: copy it there"
        );
    }
    assert_eq!(copy.lines().count(), helper.lines().count());
    Ok(())
}

/// Somebody who follows a job's log.
struct Follower {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let mut process = Command::new(binary("gctl"))
            .args(["logs", "-f", name])
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("HOME", cluster.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("stdout is piped")?;
        Ok(Self {
            process,
            lines: BufReader::new(output).lines(),
        })
    }

    /// The next line that is as wanted.
    fn find(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        lines
            .find(|line| wanted(line))
            .context("the log ended before")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn log_of(client: &kube::Client, name: &str, attempt: u32) -> Result<String> {
    let path =
        format!("/apis/streams.gctl.dev/v1/namespaces/default/jobs/{name}/log?attempt={attempt}");
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(client.request_text(request).await?)
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

/// The step that the first attempt says it has saved, by a log that ends with the token.
async fn saved_step(client: &kube::Client, name: &str) -> Result<u32> {
    let log = log_of(client, name, 1).await?;
    ensure!(log.ends_with("\n\ngctl-checkpoint-complete\n"), "{log}");
    let said = log
        .lines()
        .find_map(|line| line.strip_prefix("saved step "));
    let step = said.and_then(|rest| rest.split(' ').next()?.parse().ok());
    step.context(log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_job_that_is_preempted_saves_itself_and_goes_on_from_there() -> Result<()> {
    if python(PATH_OF_JOBS.as_ref()).is_none() {
        return Ok(());
    }
    let cluster = Cluster::start("1x24Gi")?;
    let client = cluster.client().await?;
    let jobs: Api<Job> = Api::namespaced(client.clone(), "default");
    let example: serde_json::Value = serde_yaml::from_str(&read(EXAMPLE)?)?;
    for (name, on_preemption) in [("returns", "Requeue"), ("stays", "Stop")] {
        let mut job = example.clone();
        job["metadata"]["name"] = json!(name);
        job["spec"]["onPreemption"] = json!(on_preemption);
        let job = serde_json::from_value(job)?;
        jobs.create(&PostParams::default(), &job).await?;
    }
    let mut of_returns = Follower::new(&cluster, "returns")?;
    let mut of_stays = Follower::new(&cluster, "stays")?;
    for (name, log) in [("returns", &mut of_returns), ("stays", &mut of_stays)] {
        log.find(|line| line == "step 2")?;
        let wish = json!({"metadata": {"annotations": {PREEMPT_ANNOTATION: "1"}}});
        jobs.patch(name, &PatchParams::default(), &Patch::Merge(wish))
            .await?;
    }

    // It saved itself, acknowledged, and exited with 0: that is a preemption all the same.
    let stays = wait_for(&jobs, "stays", |job| {
        status(job).phase.is_some_and(Phase::is_terminal)
    })
    .await?;
    let stays = status(&stays);
    assert_eq!(stays.phase, Some(Phase::Preempted), "{stays:?}");
    assert_eq!(stays.exit_code, Some(0));
    assert_eq!(stays.checkpoint.map(|one| one.attempt), Some(1));
    assert!(saved_step(&client, "stays").await? > 2);

    let again = wait_for(&jobs, "returns", |job| {
        let status = status(job);
        status.attempt == 2 && status.phase == Some(Phase::Running)
    })
    .await?;
    let again = status(&again);
    assert_eq!(again.checkpoint.map(|one| one.attempt), Some(1));
    let [first] = again.attempts.as_slice() else {
        bail!("{:?}", again.attempts);
    };
    assert_eq!(first.exit_code, Some(0));
    let reason = first.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("preempted"), "{reason}");
    let step = saved_step(&client, "returns").await?;
    // Who follows the job is told of both attempts.
    let begins = of_returns.find(|line| line.starts_with("goes on at step"))?;
    assert_eq!(begins, format!("goes on at step {step}"));
    // And to the end of a job that has one.
    of_stays.find(|line| line == "gctl-checkpoint-complete")?;
    assert!(of_stays.find(|_| true).is_err());
    Ok(())
}
