//! `gctl up`: the newcomer's one command, its exit codes, and what becomes of jobs when it goes away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use crds::{Job, Phase};
use e2e::processes::{client, kill_everything_below, listening, up_in, wait_for};
use kube::api::Api;

/// `gctl up` with a data directory and a home of its own.
struct Up {
    dir: tempfile::TempDir,
}

impl Up {
    fn new() -> Result<Up> {
        Ok(Up {
            dir: tempfile::Builder::new().prefix("gctl-up-").tempdir()?,
        })
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = up_in(self.dir.path());
        command.args(args);
        command
    }

    fn output(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command(args).output()?)
    }

    /// Starts it and waits until it says on standard error or output where it listens.
    fn start(&self, args: &[&str]) -> Result<Child> {
        let mut child = self
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        listening(&mut child)?;
        Ok(child)
    }

    async fn jobs(&self) -> Result<Api<Job>> {
        Ok(Api::namespaced(
            client(&self.data().join("kubeconfig")).await?,
            "default",
        ))
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        kill_everything_below(self.dir.path());
    }
}

fn manifests(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../manifests")
        .join(name)
        .display()
        .to_string()
}

fn job(name: &str, script: &str) -> String {
    serde_json::json!({
        "apiVersion": "gctl.dev/v1", "kind": "Job",
        "metadata": {"name": name},
        "spec": {"script": script},
    })
    .to_string()
}

/// A job that notes each run, waits until a file appears and ends with code 7.
fn waiting_job(dir: &Path) -> String {
    let dir = dir.display();
    job(
        "waits",
        &format!(
            "echo run >> {dir}/runs\nwhile ! [ -e {dir}/go ]; do sleep 0.1; done\necho done\nexit 7\n"
        ),
    )
}

fn phase_of(job: &Job) -> Option<Phase> {
    job.status.as_ref()?.phase
}

#[test]
fn the_quickstart_succeeds_and_says_how_each_job_ended() -> Result<()> {
    let up = Up::new()?;
    let output = up.output(&["--apply", &manifests("quickstart"), "--wait"])?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("Succeeded"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    Ok(())
}

#[test]
fn a_job_that_fails_gives_exit_code_3() -> Result<()> {
    let up = Up::new()?;
    let file = up.write("bad.json", &job("bad", "exit 3\n"))?;
    let output = up.output(&["--apply", &file, "--wait"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("Failed"), "{text}");
    Ok(())
}

#[test]
fn a_broken_manifest_is_an_error_that_names_it() -> Result<()> {
    let up = Up::new()?;
    let file = up.write("broken.yaml", "kind: Job\n  spec: [\n")?;
    let output = up.output(&["--apply", &file, "--wait"])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("broken.yaml"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_outlives_a_killed_gctl_up_and_is_adopted_by_the_next() -> Result<()> {
    for signal in [
        nix::sys::signal::Signal::SIGKILL,
        nix::sys::signal::Signal::SIGINT,
    ] {
        let up = Up::new()?;
        let file = up.write("waits.json", &waiting_job(up.dir.path()))?;
        let mut first = up.start(&["--apply", &file])?;
        let jobs = up.jobs().await?;
        wait_for(&jobs, "waits", |job| phase_of(job) == Some(Phase::Running)).await?;
        await_file(&up.dir.path().join("runs")).await?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(first.id())?);
        nix::sys::signal::kill(pid, signal)?;
        first.wait()?;
        let mut second = up.start(&[])?;
        let jobs = up.jobs().await?;
        wait_for(&jobs, "waits", |job| phase_of(job) == Some(Phase::Running)).await?;
        fs::write(up.dir.path().join("go"), "")?;
        let ended = wait_for(&jobs, "waits", |job| {
            phase_of(job).is_some_and(Phase::is_terminal)
        })
        .await?;
        let status = ended.status.context("an ended job has a status")?;
        assert_eq!(status.exit_code, Some(7), "{signal}: {status:?}");
        assert_eq!(
            fs::read_to_string(up.dir.path().join("runs"))?,
            "run\n",
            "{signal}: it ran once"
        );
        second.kill()?;
        second.wait()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_jobs_ends_them_with_gctl_up() -> Result<()> {
    let up = Up::new()?;
    let file = up.write("waits.json", &waiting_job(up.dir.path()))?;
    let mut child = up.start(&["--stop-jobs", "--apply", &file])?;
    let jobs = up.jobs().await?;
    wait_for(&jobs, "waits", |job| phase_of(job) == Some(Phase::Running)).await?;
    await_file(&up.dir.path().join("runs")).await?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    child.wait()?;
    let left = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .any(|cmdline| {
            String::from_utf8_lossy(&cmdline).contains(&*up.dir.path().to_string_lossy())
        });
    assert!(!left, "a process of the job is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_keeps_its_checkpoints_in_a_directory_of_its_own_below_the_root_that_was_asked_for()
-> Result<()> {
    let up = Up::new()?;
    let root = up.dir.path().join("shared");
    fs::create_dir(&root)?;
    let text = job("saves", "touch $GCTL_CHECKPOINT_DIR/saved\n");
    let file = up.write(
        "saves.json",
        &text.replace(r#""spec":{"#, r#""spec":{"preemptible":true,"#),
    )?;
    let root_text = root.display().to_string();
    let mut child = up.start(&["--checkpoint-root", &root_text, "--apply", &file])?;
    let jobs = up.jobs().await?;
    let ended = wait_for(&jobs, "saves", |job| {
        phase_of(job).is_some_and(Phase::is_terminal)
    })
    .await?;
    assert_eq!(phase_of(&ended), Some(Phase::Succeeded));
    let own = root.join(ended.metadata.uid.context("it has a uid")?);
    assert!(own.join("saved").exists());
    assert_eq!(fs::metadata(&own)?.permissions().mode() & 0o777, 0o700);
    child.kill()?;
    child.wait()?;
    Ok(())
}

#[test]
fn a_second_one_on_the_same_directory_is_refused_with_the_reason() -> Result<()> {
    let up = Up::new()?;
    let mut first = up.start(&[])?;
    let output = up.output(&[])?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&*up.data().to_string_lossy()), "{text}");
    first.kill()?;
    first.wait()?;
    Ok(())
}

async fn await_file(path: &Path) -> Result<()> {
    for _ in 0..600 {
        if path.exists() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    bail!("{} did not appear", path.display())
}
