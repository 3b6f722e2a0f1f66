//! Real processes: the binaries of this workspace on free ports in temporary directories, killed and started at will.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// How long any wait in a test may last before it is a failure; generous, because two cores serve every test at once.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A process of the control plane or of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The API server.
    Apiserver,
    /// All controllers.
    Controllers,
    /// The one node agent.
    Nodeagent,
}

impl Role {
    /// Every role, in the order in which they start.
    pub const ALL: [Role; 3] = [Role::Apiserver, Role::Controllers, Role::Nodeagent];

    fn binary(self) -> &'static str {
        match self {
            Role::Apiserver => "apiserver",
            Role::Controllers => "controllers",
            Role::Nodeagent => "nodeagent",
        }
    }
}

/// The path of a binary of this workspace, built with the profile of the running test; or as it lies in the folder that
/// `E2E_BINARIES` names, so that builds can be compared.
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            if let Some(folder) = std::env::var_os("E2E_BINARIES") {
                return folder.into();
            }
            let own = std::env::current_exe().expect("a running program has a path");
            // target/<profile>/deps/<test> or target/<profile>/<program>
            let folder = own
                .ancestors()
                .skip(1)
                .find(|folder| !folder.ends_with("deps"))
                .expect("programs lie in target/<profile>")
                .to_path_buf();
            let mut build = Command::new(env!("CARGO"));
            build
                .args(["build", "--quiet", "--bins"])
                .args([
                    "-p",
                    "apiserver",
                    "-p",
                    "controllers",
                    "-p",
                    "nodeagent",
                    "-p",
                    "gctl",
                ])
                .current_dir(env!("CARGO_MANIFEST_DIR"));
            if folder.ends_with("release") {
                build.arg("--release");
            }
            let target = folder.parent().expect("a profile lies in a target folder");
            build.env("CARGO_TARGET_DIR", target);
            let status = build.status().expect("cargo runs");
            assert!(status.success(), "the binaries could not be built");
            folder
        })
        .join(name)
}

/// `gctl up` on a free port, with all that it writes below a directory of its own.
pub fn up_in(dir: &Path) -> Command {
    let mut command = Command::new(binary("gctl"));
    command
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.join("data"))
        .current_dir(dir)
        .env("HOME", dir)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null());
    command
}

/// Waits until a process says on its piped standard output where it listens, and answers with the address. What it says after
/// that is dropped, so that it never waits for a reader.
pub fn listening(process: &mut Child) -> Result<String> {
    let output = process.stdout.take().context("stdout is piped")?;
    let mut lines = BufReader::new(output).lines();
    for line in lines.by_ref() {
        if let Some((_, address)) = line?.split_once("listening on https://") {
            let address = address.trim().to_owned();
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(address);
        }
    }
    bail!("it ended before it listened: {:?}", process.wait()?)
}

/// An API server, its controllers and one node agent, each a process of its own.
///
/// Dropping it kills the processes it started, and every job that is left.
pub struct Cluster {
    dir: tempfile::TempDir,
    address: Option<String>,
    gpus: String,
    running: BTreeMap<Role, Child>,
}

impl Cluster {
    /// Starts all three processes on a free port in a directory of their own.
    pub fn start(gpus: &str) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(gpus)?;
        for role in Role::ALL {
            cluster.launch(role)?;
        }
        Ok(cluster)
    }

    /// A cluster of which nothing runs yet.
    pub fn prepare(gpus: &str) -> Result<Cluster> {
        Ok(Cluster {
            dir: tempfile::Builder::new().prefix("gctl-e2e-").tempdir()?,
            address: None,
            gpus: gpus.to_owned(),
            running: BTreeMap::new(),
        })
    }

    /// The directory that holds everything of this cluster.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The kubeconfig that the API server wrote.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("server/kubeconfig")
    }

    /// Process id of a running role.
    pub fn pid(&self, role: Role) -> Option<u32> {
        self.running.get(&role).map(Child::id)
    }

    /// Starts a role that does not run.
    pub fn launch(&mut self, role: Role) -> Result<()> {
        ensure!(!self.running.contains_key(&role), "{role:?} runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir().join(format!("{}.log", role.binary())))?;
        let mut command = Command::new(binary(role.binary()));
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .env("HOME", self.dir())
            .env("RUST_LOG", "info");
        match role {
            Role::Apiserver => {
                let listen = self.address.clone().unwrap_or("127.0.0.1:0".to_owned());
                command
                    .arg("--data-dir")
                    .arg(self.dir().join("server"))
                    .args(["--listen", &listen])
                    .stdout(Stdio::piped());
                let child = command.spawn()?;
                let address = listening(self.running.entry(role).or_insert(child));
                self.address = Some(address.with_context(|| self.log(role))?);
                return Ok(());
            }
            Role::Controllers => {
                command.arg("--kubeconfig").arg(self.kubeconfig());
            }
            Role::Nodeagent => {
                command
                    .arg("--kubeconfig")
                    .arg(self.kubeconfig())
                    .args(["--node-name", "node-a", "--sim-gpus", &self.gpus])
                    .arg("--data-dir")
                    .arg(self.dir().join("node-a"));
                // An agent that is root runs jobs as root only when it is told to.
                if let Ok(Some(user)) = nix::unistd::User::from_uid(nix::unistd::getuid()) {
                    command.args(["--default-user", &user.name]);
                }
            }
        }
        let child = command.stdout(log).spawn()?;
        self.running.insert(role, child);
        Ok(())
    }

    /// What a role has written to its standard error so far.
    pub fn log(&self, role: Role) -> String {
        fs::read_to_string(self.dir().join(format!("{}.log", role.binary()))).unwrap_or_default()
    }

    /// Kills a role with signal 9 and waits until it is gone.
    pub fn kill(&mut self, role: Role) -> Result<()> {
        let mut child = self.running.remove(&role).context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks a role to end with TERM and waits until it is gone.
    pub fn terminate(&mut self, role: Role) -> Result<ExitStatus> {
        let mut child = self.running.remove(&role).context("it does not run")?;
        let pid = i32::try_from(child.id())?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        Ok(child.wait()?)
    }

    /// A client as a user would have one.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig()).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for role in Role::ALL.into_iter().rev() {
            if let Some(mut child) = self.running.remove(&role) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        kill_everything_below(self.dir());
        if std::thread::panicking() {
            for role in Role::ALL {
                let log = self.log(role);
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!("--- {role:?} ---");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// Kills every process whose working directory or environment lies below `dir`: shims and jobs outlive their agent.
pub fn kill_everything_below(dir: &Path) {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for entry in processes.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
            || fs::read_dir(entry.path().join("fd")).is_ok_and(|fds| {
                fds.flatten()
                    .filter_map(|fd| fs::read_link(fd.path()).ok())
                    .any(|path| path.starts_with(dir))
            });
        if inside && pid != i32::try_from(std::process::id()).unwrap_or(0) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

/// A client that uses a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let config = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("failed to read {}", kubeconfig.display()))?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Waits until `wanted` is true of the object, watching it; survives a server that goes and comes back.
pub async fn wait_for<K>(api: &Api<K>, name: &str, wanted: impl Fn(&K) -> bool) -> Result<K>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + kube::Resource,
{
    let mut last = None;
    let watch = async {
        loop {
            // Any failure here is a server that is being killed by the test; the outer limit bounds the loop.
            if let Some(found) = watch_once(api, name, &wanted, &mut last).await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, watch).await {
        Ok(found) => Ok(found),
        Err(_) => bail!("`{name}` did not become as wanted in {PATIENCE:?}; last seen: {last:#?}"),
    }
}

async fn watch_once<K>(
    api: &Api<K>,
    name: &str,
    wanted: &impl Fn(&K) -> bool,
    last: &mut Option<K>,
) -> Option<K>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + kube::Resource,
{
    let params = WatchParams::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(20);
    let mut events = std::pin::pin!(api.watch(&params, "0").await.ok()?);
    while let Some(Ok(event)) = events.next().await {
        if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
            *last = Some(object.clone());
            if wanted(&object) {
                return Some(object);
            }
        }
    }
    None
}
