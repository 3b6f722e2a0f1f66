//! The whole system in one thread: the server's router, the controllers and the agents on tokio's paused clock, with
//! simulated machines and a seed for every choice.
//!
//! # Guarantees
//! - The same settings give the same trace, event for event and millisecond for millisecond.
//! - Every change of a job passes the invariants of [`crate::invariants`] in the order in which the server made it.
//!
//! # Limits
//! No process, file, socket or thread takes part: those are the business of the tests with real processes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apiserver::server::{MemoryOptions, Server};
use crds::{Job, Phase};
use futures::TryStreamExt;
use jiff::Timestamp;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use nodeagent::attempt::AttemptId;
use nodeagent::gpu::{GpuSource, SimGuests};
use nodeagent::sim::SimRunner;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::invariants::{Invariants, running_twice};
use crate::transport::{Faults, Transport};

const TOKEN: &str = "simulation";

/// Pauses between two looks at all jobs.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_LOOK_PAUSE: Duration = Duration::from_secs(5);

/// What a simulated cluster is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seed of every choice.
    pub seed: u64,
    /// Number of nodes, named `node-0` and so on.
    pub nodes: usize,
    /// The GPUs of each node, as `--sim-gpus` takes them.
    pub gpus: &'static str,
    /// CPU of each node, in thousandths of a core.
    pub cpu_millis: u64,
    /// Settings of scheduling, as their file says them.
    pub scheduling: &'static str,
    /// What goes wrong between the server and its clients.
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            nodes: 1,
            gpus: "2x24Gi",
            cpu_millis: 8000,
            scheduling: "",
            faults: Faults::default(),
        }
    }
}

/// A simulated cluster.
pub struct Sim {
    settings: Settings,
    started: tokio::time::Instant,
    clock: Clock,
    server: Server,
    transport: Transport,
    client: kube::Client,
    controllers: Option<JoinHandle<()>>,
    machines: Vec<Machine>,
    witness: JoinHandle<()>,
    record: Arc<Mutex<Record>>,
}

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

struct Machine {
    name: String,
    runner: Arc<SimRunner>,
    /// Processes on its cards that are no job's.
    guests: SimGuests,
    boots: u32,
    /// The machine's own way to the server.
    transport: Transport,
    agent: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Record {
    trace: Vec<String>,
    invariants: Invariants,
    faults: Vec<String>,
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The CRD YAML of this repository.
fn definitions() -> Result<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    ["jobs", "nodes", "profiles", "queues"]
        .map(|name| {
            let path = folder.join(format!("{name}.yaml"));
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        })
        .into_iter()
        .collect()
}

impl Sim {
    /// Starts everything. Needs a current-thread runtime whose clock is paused.
    pub async fn start(settings: Settings) -> Result<Sim> {
        let started = tokio::time::Instant::now();
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse()?;
        let clock: Clock = Arc::new(move || epoch + started.elapsed());
        let server = Server::in_memory(MemoryOptions {
            crds: definitions()?,
            clock: Arc::clone(&clock),
            seed: Some(settings.seed),
            admin_token: TOKEN.to_owned(),
        })
        .await?;
        let transport = Transport::new(server.router(), TOKEN, settings.seed, settings.faults)?;
        let client =
            Transport::new(server.router(), TOKEN, settings.seed, Faults::default())?.client();
        let record = Arc::<Mutex<Record>>::default();
        let machines: Vec<Machine> = (0..settings.nodes)
            .map(|index| Machine {
                name: format!("node-{index}"),
                runner: Arc::new(SimRunner::new(
                    Arc::clone(&clock),
                    settings.seed + index as u64,
                )),
                guests: SimGuests::default(),
                boots: 0,
                transport: transport.another(),
                agent: None,
            })
            .collect();
        let runners = machines.iter();
        let runners = runners.map(|machine| (machine.name.clone(), Arc::clone(&machine.runner)));
        let witness = tokio::spawn(witness(
            client.clone(),
            Arc::clone(&record),
            started,
            runners.collect(),
        ));
        let mut sim = Sim {
            settings,
            started,
            clock,
            server,
            transport,
            client,
            controllers: None,
            machines,
            witness,
            record,
        };
        sim.start_controllers();
        for index in 0..sim.machines.len() {
            sim.start_agent(index)?;
        }
        Ok(sim)
    }

    /// Jobs, through a connection on which nothing goes wrong.
    pub fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// A client on whose connection nothing goes wrong.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The server's router, for requests of any form.
    pub fn router(&self) -> axum::Router {
        self.server.router()
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends all controllers wherever they are.
    pub fn crash_controllers(&mut self) {
        if let Some(task) = self.controllers.take() {
            task.abort();
        }
    }

    /// Starts all controllers.
    pub fn start_controllers(&mut self) {
        let options = controllers::Options {
            clock: Arc::clone(&self.clock),
            seed: Some(self.settings.seed),
            scheduling: controllers::Scheduling::parse(self.settings.scheduling)
                .expect("the settings of a simulation are correct"),
            ..controllers::Options::default()
        };
        let client = self.transport.client();
        self.controllers = Some(tokio::spawn(async move {
            let ended = controllers::run(client, options, CancellationToken::new()).await;
            ended.expect("there is something to run");
        }));
    }

    /// Ends an agent wherever it is; what runs on its machine goes on.
    pub fn crash_agent(&mut self, index: usize) {
        if let Some(task) = self.machines[index].agent.take() {
            task.abort();
        }
    }

    /// Takes the power of a machine away: its agent and everything that runs on it is gone.
    pub fn reboot(&mut self, index: usize) {
        self.crash_agent(index);
        self.machines[index].runner.reboot();
        self.machines[index].boots += 1;
    }

    /// Starts the agent of a machine.
    pub fn start_agent(&mut self, index: usize) -> Result<()> {
        let machine = &mut self.machines[index];
        let mut options = nodeagent::Options::new(machine.name.clone(), machine.runner.clone());
        options.gpus = match self.settings.gpus {
            "none" => GpuSource::None,
            gpus => GpuSource::Visited(gpus.parse()?, machine.guests.clone()),
        };
        options.clock = Arc::clone(&self.clock);
        options.cpu_millis = Some(self.settings.cpu_millis);
        options.memory_bytes = Some(64 << 30);
        options.boot_id = Some(format!("{}-boot-{}", machine.name, machine.boots));
        options.default_user = Some("root".to_owned());
        options.checkpoint_root = Some("/checkpoints".to_owned());
        let client = machine.transport.client();
        machine.agent = Some(tokio::spawn(async move {
            let ended = nodeagent::run(client, options, CancellationToken::new()).await;
            ended.expect("a simulated agent fails never, and ends when its node is to stop");
        }));
        Ok(())
    }

    /// Has the agent of a machine ended?
    pub fn agent_has_ended(&self, index: usize) -> bool {
        let agent = self.machines[index].agent.as_ref();
        agent.is_none_or(JoinHandle::is_finished)
    }

    /// Cuts a machine off: its agent reaches nobody, and what runs on it goes on.
    pub fn cut(&self, index: usize) {
        self.machines[index].transport.set_cut(true);
    }

    /// Ends that.
    pub fn mend(&self, index: usize) {
        self.machines[index].transport.set_cut(false);
    }

    /// From now on a process that is no job's holds so many GiB of a card; with none it is gone.
    pub fn visit(&self, index: usize, card: u32, pid: u32, gib: Option<u64>) {
        let guests = &self.machines[index].guests;
        guests.set(card, pid, gib.map(|gib| gib << 30));
    }

    /// From now on a machine has no such directory, nor what is below it.
    pub fn remove_directory(&self, index: usize, path: &str) {
        self.machines[index].runner.remove_directory(path);
    }

    /// Attempts that run on a machine now: one that is frozen does not.
    pub fn running(&self, index: usize) -> Vec<AttemptId> {
        self.machines[index].runner.running()
    }

    /// From now on nothing goes wrong between the server and its clients.
    pub fn heal(&self) {
        self.transport.heal();
    }

    /// Creates a job whose command is a script of [`nodeagent::sim`].
    pub async fn submit(&self, name: &str, spec: serde_json::Value) -> Result<Job> {
        let job = serde_json::from_value(serde_json::json!({
            "apiVersion": "gctl.dev/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": spec,
        }))?;
        Ok(self.jobs().create(&PostParams::default(), &job).await?)
    }

    /// Lets virtual time pass until every job has ended.
    pub async fn run_until_all_ended(&self, limit: Duration) -> Result<BTreeMap<String, Job>> {
        self.run_until(limit, |jobs| {
            jobs.values().all(|job| phase(job).is_terminal())
        })
        .await
    }

    /// Lets virtual time pass until the jobs are as wanted.
    pub async fn run_until(
        &self,
        limit: Duration,
        wanted: impl Fn(&BTreeMap<String, Job>) -> bool,
    ) -> Result<BTreeMap<String, Job>> {
        let begun = self.started.elapsed();
        let until = begun + limit;
        loop {
            self.note_running_twice();
            let jobs = self.list().await?;
            if wanted(&jobs) {
                return Ok(jobs);
            }
            ensure!(
                self.started.elapsed() < until,
                "not reached in {limit:?} of virtual time (seed {}):\n{}\n{}",
                self.settings.seed,
                jobs.iter()
                    .map(|(name, job)| format!("{name}: {:?}", job.status))
                    .collect::<Vec<_>>()
                    .join("\n"),
                self.trace().join("\n")
            );
            // What takes long is looked at less often.
            let waited = self.started.elapsed().saturating_sub(begun);
            tokio::time::sleep((waited / 20).clamp(LOOK_PAUSE, LONGEST_LOOK_PAUSE)).await;
        }
    }

    /// Lets virtual time pass, with an eye on what runs.
    pub async fn pass(&self, time: Duration) {
        let until = self.started.elapsed() + time;
        while self.started.elapsed() < until {
            let left = until.saturating_sub(self.started.elapsed());
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
            self.note_running_twice();
        }
    }

    fn note_running_twice(&self) {
        let machines = self.machines.iter();
        let runners: Vec<_> = machines
            .map(|machine| (machine.name.clone(), Arc::clone(&machine.runner)))
            .collect();
        let running = all_running(&runners);
        let mut record = locked(&self.record);
        let mixed = record.invariants.mixed_generations(&running);
        record.faults.extend(running_twice(&running));
        record.faults.extend(mixed);
    }

    /// All jobs by name.
    pub async fn list(&self) -> Result<BTreeMap<String, Job>> {
        let list = self.jobs().list(&ListParams::default()).await?;
        Ok(list
            .items
            .into_iter()
            .filter_map(|job| Some((job.metadata.name.clone()?, job)))
            .collect())
    }

    /// One line for each change of a job's phase, attempt or place, in order.
    pub fn trace(&self) -> Vec<String> {
        locked(&self.record).trace.clone()
    }

    /// Checks what must be true of the whole run so far.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.witness.is_finished(), "the witness ended early");
        let record = locked(&self.record);
        let mut faults = record.faults.clone();
        for machine in &self.machines {
            for (id, starts) in machine.runner.starts() {
                if !record.invariants.may_have_started(&id) {
                    faults.push(format!(
                        "attempt {id} was started on {} without its gang's word",
                        machine.name
                    ));
                }
                if starts > 1 {
                    faults.push(format!(
                        "attempt {id} was started {starts} times on {}",
                        machine.name
                    ));
                }
            }
        }
        let mut seen = BTreeMap::new();
        for machine in &self.machines {
            for id in machine.runner.starts().into_keys() {
                if let Some(other) = seen.insert(id.clone(), &machine.name) {
                    faults.push(format!(
                        "attempt {id} ran on {other} and on {}",
                        machine.name
                    ));
                }
            }
        }
        ensure!(
            faults.is_empty(),
            "seed {}:\n{}\n--- trace\n{}",
            self.settings.seed,
            faults.join("\n"),
            record.trace.join("\n")
        );
        Ok(())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.crash_controllers();
        for index in 0..self.machines.len() {
            self.crash_agent(index);
        }
        self.witness.abort();
    }
}

/// The phase of a job; one that nobody has looked at yet is Pending.
pub fn phase(job: &Job) -> Phase {
    job.status
        .as_ref()
        .and_then(|status| status.phase)
        .unwrap_or_default()
}

/// What runs on all machines now.
fn all_running(runners: &[(String, Arc<SimRunner>)]) -> Vec<(String, AttemptId)> {
    let all = runners.iter().flat_map(|(name, runner)| {
        let running = runner.running().into_iter();
        running.map(move |id| (name.clone(), id))
    });
    all.collect()
}

/// Sees every change of every job, once and in order, and what runs at that time.
async fn witness(
    client: kube::Client,
    record: Arc<Mutex<Record>>,
    started: tokio::time::Instant,
    runners: Vec<(String, Arc<SimRunner>)>,
) {
    let api: Api<Job> = Api::all(client);
    let mut version = "0".to_owned();
    loop {
        let params = WatchParams::default().timeout(290);
        let Ok(events) = api.watch(&params, &version).await else {
            continue;
        };
        let mut events = std::pin::pin!(events);
        while let Ok(Some(event)) = events.try_next().await {
            let running = all_running(&runners);
            let mut record = locked(&record);
            let now = started.elapsed();
            let mixed = record.invariants.mixed_generations(&running);
            record.faults.extend(running_twice(&running));
            record.faults.extend(mixed);
            match event {
                WatchEvent::Added(job) | WatchEvent::Modified(job) => {
                    version = job.metadata.resource_version.clone().unwrap_or(version);
                    let Record {
                        trace,
                        invariants,
                        faults,
                    } = &mut *record;
                    let seen = invariants.on_job(&job);
                    faults.extend(
                        seen.faults
                            .into_iter()
                            .map(|fault| format!("{now:?} {fault}")),
                    );
                    trace.extend(
                        seen.line
                            .map(|line| format!("{:>8} ms {line}", now.as_millis())),
                    );
                }
                WatchEvent::Deleted(job) => {
                    version = job.metadata.resource_version.clone().unwrap_or(version);
                    record.invariants.on_deleted(&job);
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => record.faults.push(format!("watch: {status:?}")),
            }
        }
    }
}
