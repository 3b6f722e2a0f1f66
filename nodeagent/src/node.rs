//! The Node object and its Lease: registers this host, renews the Lease, and writes the status when it changed.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crds::node::{GpuStatus, Holder, NodeCapacity, NodeInfo};
use crds::{NODE_LEASE_NAMESPACE, Node, NodeSpec, NodeStatus, Quantity};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::agent::{Context, Options, operations};
use crate::gpu::{Inventory, Reading, links_in_short};

/// How often the Lease is renewed (rules.md section 4) and the GPUs are read.
const RENEW_PERIOD: Duration = Duration::from_secs(10);
/// How long a Lease holds without renewal.
const LEASE_SECS: i32 = 40;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is true of this host as long as it runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) boot_id: String,
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    kernel: Option<String>,
    boot_time: Option<Timestamp>,
}

impl Facts {
    /// Reads them, as far as the options do not say them.
    pub(crate) fn gather(options: &Options) -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let stated = options.boot_id.is_some();
        Self {
            boot_id: options
                .boot_id
                .clone()
                .or_else(|| read("/proc/sys/kernel/random/boot_id"))
                .unwrap_or_default(),
            cpu_millis: options.cpu_millis.unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1000, |count| count.get() as u64 * 1000)
            }),
            memory_bytes: options
                .memory_bytes
                .or_else(|| read("/proc/meminfo").and_then(|text| memory_total(&text)))
                .unwrap_or(0),
            kernel: if stated {
                None
            } else {
                read("/proc/sys/kernel/osrelease")
            },
            boot_time: if stated {
                None
            } else {
                read("/proc/stat").and_then(|text| boot_time(&text))
            },
        }
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(line.trim().parse().ok()?).ok()
}

/// Opens the GPUs; NVML may block, a simulation never does.
pub(crate) async fn open_inventory(options: &Options) -> Inventory {
    let (source, node_name) = (options.gpus.clone(), options.node_name.clone());
    let only = options.only_gpus.clone();
    if source == crate::gpu::GpuSource::Nvml {
        let opened = tokio::task::spawn_blocking(move || {
            Inventory::open(&source, &node_name).restricted_to(&only)
        })
        .await;
        match opened {
            Ok(inventory) => inventory,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    } else {
        Inventory::open(&source, &node_name).restricted_to(&only)
    }
}

/// Keeps the Node and its Lease until the shutdown.
pub(crate) async fn keep(context: Arc<Context>, shutdown: CancellationToken) {
    let registered_time = context.now();
    let mut keeper = Keeper {
        context,
        registered_time,
        written: None,
    };
    let work = async {
        keeper.persist().await;
        let mut tick = tokio::time::interval(RENEW_PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    if let Err(error) = keeper.renew().await {
                        tracing::warn!(
                            error = crate::error_chain(&error),
                            "failed to renew the lease"
                        );
                    }
                    if keeper.context.cards_are_live {
                        keeper.context.read_gpus().await;
                    }
                }
                // Who holds a card is written at once: placement goes by it.
                () = keeper.context.lingering_changed.notified() => {}
                () = keeper.context.room_changed.notified() => {}
            }
            if let Err(error) = keeper.write().await {
                tracing::warn!(
                    error = crate::error_chain(&error),
                    "failed to write the node"
                );
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

struct Keeper {
    context: Arc<Context>,
    registered_time: Timestamp,
    /// The status that the server is known to have of us.
    written: Option<serde_json::Value>,
}

impl Keeper {
    /// Registers, as often as it takes.
    async fn persist(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            // The Lease comes first, so that the node is not taken for silent when it appears.
            let result = match self.renew().await {
                Ok(()) => {
                    // Where the server is reached, its name is known by now.
                    self.context.find_address().await;
                    self.write().await
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => {
                    tracing::info!(node = self.context.options.node_name, "node registered");
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        error = crate::error_chain(&error),
                        "failed to register the node"
                    );
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Renews the Lease, and tells the runner when that was sent once it is acknowledged.
    async fn renew(&self) -> Result<(), kube::Error> {
        let sent = (Instant::now(), self.context.options.runner.boot_micros());
        self.send_renewal().await?;
        self.context.acknowledged(sent.0, sent.1);
        Ok(())
    }

    async fn send_renewal(&self) -> Result<(), kube::Error> {
        let name = &self.context.options.node_name;
        let api: Api<Lease> = Api::namespaced(self.context.client.clone(), NODE_LEASE_NAMESPACE);
        let now = MicroTime(self.context.now());
        let patch = json!({ "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECS,
            "renewTime": now,
        }});
        let patched = api.patch(name, &params(), &Patch::Merge(&patch)).await;
        if !is_code(&patched, 404) {
            return patched.map(drop);
        }
        self.make_namespace().await?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NODE_LEASE_NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECS),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        api.create(&post_params(), &lease).await.map(drop)
    }

    async fn make_namespace(&self) -> Result<(), kube::Error> {
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(NODE_LEASE_NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let made = api.create(&post_params(), &namespace).await;
        if is_code(&made, 409) {
            return Ok(());
        }
        made.map(drop)
    }

    /// Makes the Node say what was read, if it does not yet.
    async fn write(&mut self) -> Result<(), kube::Error> {
        let mut status = self.status(&self.context.reading());
        self.add_holders(&mut status).await;
        let status = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        if self.written.as_ref() == Some(&status) {
            return Ok(());
        }
        let name = &self.context.options.node_name;
        let api: Api<Node> = Api::all(self.context.client.clone());
        let labels = self.labels();
        let node = if let Some(node) = api.get_opt(name).await? {
            node
        } else {
            let mut node = Node::new(name, NodeSpec::default());
            node.metadata.labels = Some(labels.clone());
            api.create(&post_params(), &node).await?
        };
        let missing: BTreeMap<_, _> = labels
            .iter()
            .filter(|(key, value)| node.labels().get(*key) != Some(value))
            .collect();
        if !missing.is_empty() {
            let patch = json!({ "metadata": { "labels": missing } });
            api.patch(name, &params(), &Patch::Merge(&patch)).await?;
        }
        // Conditions belong to the node controller, so only our own fields are compared and written.
        let before = node.status.unwrap_or_default();
        let before = serde_json::to_value(NodeStatus {
            conditions: Vec::new(),
            ..before
        })
        .map_err(kube::Error::SerdeError)?;
        let difference = operations::difference(&before, &status);
        if difference != json!({}) {
            let patch = json!({ "status": difference });
            api.patch_status(name, &params(), &Patch::Merge(&patch))
                .await?;
        }
        self.written = Some(status);
        Ok(())
    }

    /// Names what is left of ended attempts on the cards they were given, whether or not a driver sees it there.
    async fn add_holders(&self, status: &mut NodeStatus) {
        for (id, cards) in self.context.lingering() {
            if cards.is_empty() {
                continue;
            }
            let processes = self.context.options.runner.processes(id.clone()).await;
            for gpu in &mut status.gpus {
                if !cards.contains(&gpu.uuid) {
                    continue;
                }
                for pid in processes.iter().filter_map(|pid| u32::try_from(*pid).ok()) {
                    let holder = Holder {
                        pid,
                        job_uid: id.uid.clone(),
                        attempt: id.attempt,
                    };
                    if !gpu.holders.contains(&holder) {
                        gpu.holders.push(holder);
                    }
                }
                gpu.holders.sort_by_key(|holder| holder.pid);
            }
        }
    }

    fn status(&self, reading: &Reading) -> NodeStatus {
        let facts = &self.context.facts;
        let options = &self.context.options;
        let count = |which: fn(&GpuStatus) -> bool| {
            let count = reading.gpus.iter().filter(|gpu| which(gpu)).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        NodeStatus {
            conditions: Vec::new(),
            capacity: Some(NodeCapacity {
                cpu: Quantity::from_millis(facts.cpu_millis),
                memory: Quantity::from_bytes(facts.memory_bytes),
                gpus: count(|gpu| gpu.slice.is_none()),
                gpu_slices: count(|gpu| gpu.slice.is_some()),
                gpu_links: links_in_short(&reading.gpus),
            }),
            gpus: reading.gpus.clone(),
            info: Some(NodeInfo {
                boot_id: facts.boot_id.clone(),
                hostname: options.node_name.clone(),
                os: std::env::consts::OS.to_owned(),
                arch: std::env::consts::ARCH.to_owned(),
                kernel: facts.kernel.clone(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                driver_version: reading.driver_version.clone(),
                boot_time: facts.boot_time.map(Time),
            }),
            address: Some(self.context.address()),
            registered_time: Some(MicroTime(self.registered_time)),
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let options = &self.context.options;
        let mut labels = BTreeMap::from([
            (
                "kubernetes.io/hostname".to_owned(),
                options.node_name.clone(),
            ),
            (
                "kubernetes.io/os".to_owned(),
                std::env::consts::OS.to_owned(),
            ),
            (
                "kubernetes.io/arch".to_owned(),
                kubernetes_arch().to_owned(),
            ),
        ]);
        labels.extend(options.labels.clone());
        labels
    }
}

/// The word that Kubernetes has for this architecture.
fn kubernetes_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(operations::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn post_params() -> PostParams {
    PostParams {
        field_manager: Some(operations::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn is_code<T>(result: &Result<T, kube::Error>, code: u16) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if status.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_kernel_are_read_and_their_absence_is_none() {
        assert_eq!(
            memory_total("MemTotal:       2048 kB\nMemFree: 1 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
        let time = boot_time("cpu 1 2\nbtime 1700000000\n");
        assert_eq!(time.map(Timestamp::as_second), Some(1_700_000_000));
    }
}
