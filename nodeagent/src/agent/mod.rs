//! The agent: watches the jobs bound to its node and makes it so.
//!
//! ```text
//! watch -> jobs seen --+                      +-> status writes (32 at once)
//!                      +-> decide (pure) -----+-> runner: start, stop, forget
//! runner -> attempts --+                      +-> log stream
//! ```
//!
//! - `decide` says what one job needs of this node; `shell` executes it and chooses nothing.
//! - `capacity` is the last arbiter of what fits. `operations` are the calls to the API, `logs` the log stream.
//! - `crate::node` keeps the Node object and its Lease beside this.

mod capacity;
mod decide;
mod desired;
mod logs;
pub(crate) mod operations;
mod room;
mod shell;
mod sweep;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::address::AddressSource;
use crate::attempt::AttemptId;
use crate::gpu::{GpuSource, Inventory, Reading, Roots};
use crate::node;
use crate::runner::{Runner, RunnerError};
use capacity::Capacity;

/// The time, passed in.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long after the sending of an acknowledged renewal there is contact: less than any fence.
const CONTACT: Duration = Duration::from_secs(30);

/// What an agent is made of.
#[derive(Clone)]
pub struct Options {
    /// Name of the Node object this agent keeps, and of its Lease.
    pub node_name: String,
    /// Runs the attempts. Its data directory, if it has one, is the runner's own matter.
    pub runner: Arc<dyn Runner>,
    /// Where GPUs come from. Default: NVML.
    pub gpus: GpuSource,
    /// The cards of it that jobs may be given: indices in PCI bus order, or UUIDs or their beginnings. Default: all.
    pub only_gpus: Vec<String>,
    /// The time. Default: the system's.
    pub clock: Clock,
    /// Labels for the Node, beside the ones it always has.
    pub labels: BTreeMap<String, String>,
    /// Thousandths of a core that are offered. Default: what the machine has.
    pub cpu_millis: Option<u64>,
    /// Bytes of host memory that are offered. Default: what the machine has.
    pub memory_bytes: Option<u64>,
    /// By which address other nodes reach this one. Default: the node's name.
    pub address: AddressSource,
    /// Boot id. Default: the kernel's.
    pub boot_id: Option<String>,
    /// User that jobs run as when they name none. Without it, an agent that is root refuses such jobs, and another runs
    /// them as its own user.
    pub default_user: Option<String>,
    /// Absolute path below which jobs that may run again keep their checkpoints, each in a directory named by its uid.
    /// Without one they keep none. Where it is storage that all nodes share, any of them resumes them.
    pub checkpoint_root: Option<String>,
    /// Remove the checkpoints of jobs that do not exist any more. Not for a root that others use too.
    pub sweep_checkpoints: bool,
    /// Set before the shutdown: stop the jobs too, instead of leaving them to be adopted.
    pub stop_jobs: Arc<AtomicBool>,
}

impl Options {
    /// The defaults for a node and a runner.
    pub fn new(node_name: impl Into<String>, runner: Arc<dyn Runner>) -> Self {
        Self {
            node_name: node_name.into(),
            runner,
            gpus: GpuSource::default(),
            only_gpus: Vec::new(),
            clock: Arc::new(Timestamp::now),
            labels: BTreeMap::new(),
            cpu_millis: None,
            memory_bytes: None,
            address: AddressSource::NodeName,
            boot_id: None,
            default_user: None,
            checkpoint_root: None,
            sweep_checkpoints: false,
            stop_jobs: Arc::new(AtomicBool::new(false)),
        }
    }
}

/// Why an agent could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The attempts of this host could not be taken over.
    #[error("failed to take over the attempts of this host")]
    Attach(#[source] RunnerError),
    /// The runner ended.
    #[error("the runner of attempts has ended")]
    RunnerEnded,
}

/// What all parts of a running agent share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) facts: node::Facts,
    /// Locked while a driver is asked, which may take long.
    inventory: Mutex<Inventory>,
    /// Can what is on the cards change?
    pub(crate) cards_are_live: bool,
    /// Does asking for it block?
    reading_blocks: bool,
    board: Mutex<Board>,
    /// Rung when it has changed whether this agent is to end once it holds nothing.
    leaving_changed: Notify,
    /// Rung when a renewal was acknowledged after a time without.
    pub(crate) renewed: Notify,
    /// Rung when what lingers has changed.
    pub(crate) lingering_changed: Notify,
    /// Rung when the cards were found to be fuller than placement knows.
    pub(crate) room_changed: Notify,
}

/// What the node's part and the jobs' part tell each other.
#[derive(Default)]
struct Board {
    /// By which address other nodes reach this one, once it was found.
    address: Option<String>,
    capacity: Capacity,
    /// What was read of the cards last.
    reading: Reading,
    running: Vec<AttemptId>,
    /// When the last acknowledged renewal was sent.
    contact: Option<Instant>,
    /// The node is to stop.
    leaving: bool,
    /// Ended attempts of which something is left, with the cards that it holds.
    lingering: Vec<(AttemptId, Vec<String>)>,
    /// Most GPU memory that each running attempt was seen with, by card.
    peaks: BTreeMap<AttemptId, BTreeMap<String, u64>>,
}

impl Context {
    pub(crate) fn now(&self) -> Timestamp {
        (self.options.clock)()
    }

    fn board<T>(&self, act: impl FnOnce(&mut Board) -> T) -> T {
        act(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads all cards now. Only drivers block.
    pub(crate) async fn read_gpus(self: &Arc<Self>) {
        let context = Arc::clone(self);
        let read = move || {
            let running = context.running().into_iter();
            let rooted = running.filter_map(|id| {
                let root = context.options.runner.root_process(&id)?;
                Some((id, root))
            });
            let roots = Roots {
                running: rooted.collect(),
            };
            let inventory = context.inventory.lock();
            let mut inventory = inventory.unwrap_or_else(PoisonError::into_inner);
            let reading = inventory.read(&roots);
            for id in roots.running.keys() {
                context.set_peaks(id, inventory.peaks_of(id));
            }
            context.set_reading(reading);
        };
        if !self.reading_blocks {
            read();
        } else if let Err(error) = tokio::task::spawn_blocking(read).await {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    /// Sets what the arbiter goes by, and what the Node says.
    fn set_reading(&self, reading: Reading) {
        let known = capacity::gpus(&reading.gpus);
        self.board(|board| {
            board.capacity.gpus = known;
            board.reading = reading;
        });
    }

    /// What was read of the cards last.
    pub(crate) fn reading(&self) -> Reading {
        self.board(|board| board.reading.clone())
    }

    /// Finds the address of this node, if it is not known yet.
    pub(crate) async fn find_address(&self) {
        if self.board(|board| board.address.is_some()) {
            return;
        }
        let (source, name) = (&self.options.address, &self.options.node_name);
        match source.find(name).await {
            Ok(address) => {
                tracing::info!(address, "other nodes reach this one by this address");
                self.board(|board| board.address = Some(address));
            }
            Err(error) => tracing::warn!(
                %error,
                "the address of this node cannot be found and its name stands for it; --address says it"
            ),
        }
    }

    /// By which address other nodes reach this one; its name as long as none is known.
    pub(crate) fn address(&self) -> String {
        self.board(|board| board.address.clone())
            .unwrap_or_else(|| self.options.node_name.clone())
    }

    fn capacity(&self) -> Capacity {
        self.board(|board| board.capacity.clone())
    }

    fn set_running(&self, running: Vec<AttemptId>) {
        self.board(|board| board.running = running);
    }

    /// The attempts that run here now.
    pub(crate) fn running(&self) -> Vec<AttemptId> {
        self.board(|board| board.running.clone())
    }

    /// A renewal that was sent then was acknowledged.
    pub(crate) fn acknowledged(&self, sent: Instant, sent_boot_micros: u64) {
        self.options.runner.acknowledged(sent_boot_micros);
        let was_in_contact = self.in_contact();
        self.board(|board| board.contact = board.contact.max(Some(sent)));
        if !was_in_contact {
            self.renewed.notify_one();
        }
    }

    fn set_leaving(&self, leaving: bool) {
        let before = self.board(|board| std::mem::replace(&mut board.leaving, leaving));
        if before != leaving {
            self.leaving_changed.notify_one();
        }
    }

    fn is_leaving(&self) -> bool {
        self.board(|board| board.leaving)
    }

    /// Was the control plane heard of lately?
    fn in_contact(&self) -> bool {
        let contact = self.board(|board| board.contact);
        contact.is_some_and(|sent| sent.elapsed() < CONTACT)
    }

    fn set_lingering(&self, lingering: Vec<(AttemptId, Vec<String>)>) {
        let changed = self.board(|board| {
            let changed = board.lingering != lingering;
            board.lingering = lingering;
            changed
        });
        if changed {
            self.lingering_changed.notify_one();
        }
    }

    /// Ended attempts of which something is left, with the cards that it holds.
    pub(crate) fn lingering(&self) -> Vec<(AttemptId, Vec<String>)> {
        self.board(|board| board.lingering.clone())
    }

    /// Notes the peaks that were read.
    pub(crate) fn set_peaks(&self, id: &AttemptId, peaks: BTreeMap<String, u64>) {
        if !peaks.is_empty() {
            self.board(|board| board.peaks.insert(id.clone(), peaks));
        }
    }

    /// Takes the peaks of an attempt that ended.
    fn take_peaks(&self, id: &AttemptId) -> BTreeMap<String, u64> {
        self.board(|board| board.peaks.remove(id).unwrap_or_default())
    }

    fn stops_jobs(&self) -> bool {
        self.options.stop_jobs.load(Ordering::SeqCst)
    }
}

/// Runs the agent of one node until `shutdown`, or until its Node says `desiredState: Stop` and nothing is left here. Jobs run on and are adopted by the next agent, unless `stop_jobs` is
/// set by then.
pub async fn run(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let attached = options.runner.attach().await.map_err(RunError::Attach)?;
    let facts = node::Facts::gather(&options);
    let mut inventory = node::open_inventory(&options).await;
    let reading = inventory.read(&Roots::default());
    let context = Arc::new(Context {
        board: Mutex::new(Board {
            capacity: Capacity {
                cpu_millis: facts.cpu_millis,
                memory_bytes: facts.memory_bytes,
                gpus: BTreeMap::new(),
            },
            ..Board::default()
        }),
        leaving_changed: Notify::new(),
        renewed: Notify::new(),
        lingering_changed: Notify::new(),
        room_changed: Notify::new(),
        client,
        options,
        facts,
        cards_are_live: inventory.is_live(),
        reading_blocks: inventory.blocks(),
        inventory: Mutex::new(inventory),
    });
    context.set_reading(reading);
    context.find_address().await;
    // The Lease goes on while the jobs are being stopped, so the node's part ends last.
    let node_shutdown = CancellationToken::new();
    let keeper = node::keep(Arc::clone(&context), node_shutdown.clone());
    let jobs = async {
        let shell = shell::Shell::new(Arc::clone(&context), attached);
        let result = tokio::select! {
            biased;
            result = shell.run(shutdown) => result,
            never = desired::watch(Arc::clone(&context)) => never,
            never = sweep::keep_sweeping(Arc::clone(&context)) => never,
        };
        node_shutdown.cancel();
        result
    };
    let ((), result) = tokio::join!(keeper, jobs);
    result
}
