//! The runner of real processes: sends attempts to the spawner, hears of their ends, and adopts what runs already.
//!
//! One task (`Driver`) owns the spawner and everything that is in flight; callers talk to it through a bounded channel.
//! Stops and output need no state and go straight to the ledger's files.

mod calls;
mod ground;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::attempt::{AttemptId, Ended, Held};
use crate::ledger::Ledger;
use crate::ledger::adopt::{Found, gather};
use crate::ledger::journal::Journal;
use crate::ledger::spares::{Spare, Spares};
use crate::runner::{Attached, PROOF_WAIT, RunnerError};
use crate::shim::cgroup::{Cgroup, Cgroups};
use crate::shim::command::owner;
use crate::shim::{SHIM_OK, ShimRequest};
use crate::spawner::{MOST_FRAME_BYTES, News, Spawner};
use look::{Ending, ending, listen, look};

/// Starts that wait for the spawner.
const COMMAND_QUEUE: usize = 256;
/// Ends that wait for the agent.
const END_QUEUE: usize = 1024;
/// Ends that share one sync at most.
const MOST_GROUP: usize = 512;
/// How often kept work is looked at.
const SWEEP_PERIOD: Duration = Duration::from_hours(1);
/// How often the trash is emptied, and how many forgotten attempts do not wait for that.
const TRASH_PERIOD: Duration = Duration::from_secs(15);
const MOST_TRASH: usize = 4096;
/// How long forgotten attempts wait for more of them, and how many do not: ends are never kept waiting for tidying up, and
/// a thread is not woken for each.
const FORGET_PERIOD: Duration = Duration::from_millis(50);
const FORGET_AT_ONCE: usize = 32;
/// Pause before what a dead shim left behind is looked at again, and before what lives shims say of it.
const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a spawner that died is started again.
const RESPAWN_PAUSE: Duration = Duration::from_millis(200);

/// Runs attempts as real processes under shims.
pub struct ShimRunner {
    data_dir: PathBuf,
    executable: PathBuf,
    cgroups: Cgroups,
    attached: Mutex<Option<Link>>,
    /// Looks at directories that may be under way.
    looks: Arc<tokio::sync::Semaphore>,
}

struct Link {
    ledger: Arc<Ledger>,
    /// Where cgroups of attempts are made.
    cgroups: Option<Cgroup>,
    commands: mpsc::Sender<Command>,
    driver: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

enum Command {
    Start(Box<ShimRequest>),
    Forget(Vec<AttemptId>),
    Thawed(AttemptId),
}

impl ShimRunner {
    /// A runner over a data directory. The spawner is this same executable.
    pub fn new(data_dir: PathBuf) -> Self {
        Self::with_executable(data_dir, PathBuf::from("/proc/self/exe"))
    }

    /// The same with another executable for the spawner; its `main` calls [`crate::spawner::run_if_asked`] first.
    pub fn with_executable(data_dir: PathBuf, executable: PathBuf) -> Self {
        Self {
            data_dir,
            executable,
            cgroups: Cgroups::default(),
            attached: Mutex::new(None),
            looks: ground::looks(),
        }
    }

    /// The same with these cgroups instead of the best that the host offers.
    #[must_use]
    pub fn with_cgroups(mut self, cgroups: Cgroups) -> Self {
        self.cgroups = cgroups;
        self
    }

    fn link<T>(&self, take: impl FnOnce(&Link) -> T) -> Result<T, RunnerError> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.as_ref().map(take).ok_or(RunnerError::Closed)
    }

    fn ledger(&self) -> Result<Arc<Ledger>, RunnerError> {
        self.link(|link| Arc::clone(&link.ledger))
    }

    async fn take_over(&self) -> Result<Attached, RunnerError> {
        let before = self
            .attached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut before) = before {
            before.driver.abort();
            let _ = (&mut before.driver).await;
        }
        let data_dir = self.data_dir.clone();
        let (ledger, journal, found, noted) = blocking(move || {
            let ledger = Ledger::open(&data_dir)?;
            let journal = Journal::open(ledger.journal_path())
                .map_err(RunnerError::host("open the journal of ends"))?;
            let found = gather(&ledger, &journal)?;
            let noted = ledger
                .lingering()
                .map_err(RunnerError::host("read the folder of lingering attempts"))?;
            Ok::<_, RunnerError>((ledger, journal, found, noted))
        })
        .await?;
        let cgroups = match Cgroup::find(self.cgroups) {
            Ok(parent) => Some(parent),
            Err(reason) => {
                tracing::warn!(%reason, "jobs get no cgroup; their processes are found by walking the tree");
                None
            }
        };
        let ledger = Arc::new(ledger);
        let (end_sender, ends) = mpsc::channel(END_QUEUE);
        let (fence_sender, fences) = mpsc::channel(END_QUEUE);
        let (commands, command_receiver) = mpsc::channel(COMMAND_QUEUE);
        let mut driver = Driver {
            ledger: Arc::clone(&ledger),
            executable: self.executable.clone(),
            journal: Some(journal),
            ends: end_sender,
            next_token: 0,
            asked: BTreeMap::new(),
            forked: BTreeMap::new(),
            spares: Spares::default(),
            watched: JoinSet::new(),
            fences: fence_sender,
            noted: noted.into_iter().collect(),
            fenced: BTreeSet::new(),
            undying: BTreeMap::new(),
            waiting: Vec::new(),
            forgotten: BTreeSet::new(),
            forgets_due: false,
            trashed: 1,
            emptying: JoinSet::new(),
            group: JoinSet::new(),
        };
        let mut held = Vec::with_capacity(found.len());
        for one in found {
            match one {
                Found::Running {
                    held: running,
                    shim,
                } => {
                    driver.watch(running.id.clone(), shim)?;
                    held.push(running);
                }
                Found::Lingering(lingering) => {
                    driver.look_again(lingering.id.clone());
                    held.push(lingering);
                }
                Found::Ended(ended) => held.push(ended),
            }
        }
        let spawner =
            Spawner::start(&self.executable).map_err(RunnerError::host("start the spawner"))?;
        let driver = tokio::spawn(driver.run(spawner, command_receiver));
        let link = Link {
            ledger,
            cgroups,
            commands,
            driver,
        };
        *self.attached.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        Ok(Attached { held, fences, ends })
    }
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

struct Driver {
    ledger: Arc<Ledger>,
    executable: PathBuf,
    /// Absent while a group is being written.
    journal: Option<Journal>,
    ends: mpsc::Sender<(AttemptId, Ended)>,
    fences: mpsc::Sender<AttemptId>,
    next_token: u64,
    /// Sent to the spawner, no shim heard of yet; kept whole, to be sent again to another spawner.
    asked: BTreeMap<u64, (Asked, Vec<u8>)>,
    /// Shims of the present spawner.
    forked: BTreeMap<u64, Asked>,
    /// Directories that wait for attempts.
    spares: Spares,
    /// Shims of earlier spawners, and what shims that were killed left behind.
    watched: JoinSet<AttemptId>,
    /// Attempts whose living shims said that something lingers.
    noted: BTreeSet<AttemptId>,
    /// Attempts that were told as frozen.
    fenced: BTreeSet<AttemptId>,
    /// Attempts of dead shims of which something lingers: since when that is known, until it is told.
    undying: BTreeMap<AttemptId, Option<Instant>>,
    waiting: Vec<(AttemptId, Ending)>,
    forgotten: BTreeSet<AttemptId>,
    /// They have waited long enough.
    forgets_due: bool,
    /// Attempts in the trash since it was emptied last.
    trashed: usize,
    /// Empties the trash, one at a time.
    emptying: JoinSet<()>,
    group: JoinSet<Group>,
}

/// An attempt that was sent to the spawner.
struct Asked {
    id: AttemptId,
    /// The directory that was given to it.
    spare: Option<Spare>,
}

struct Group {
    journal: Journal,
    ended: Vec<(AttemptId, Ended)>,
    running: Vec<(AttemptId, std::os::fd::OwnedFd)>,
    /// Of dead shims.
    lingering: Vec<AttemptId>,
    failed: Vec<(AttemptId, Ending)>,
    spares: Vec<Spare>,
    /// How many went to the trash.
    trashed: usize,
}

impl Driver {
    fn watch(&mut self, id: AttemptId, shim: std::os::fd::OwnedFd) -> Result<(), RunnerError> {
        let shim = crate::shim::sys::watch(shim).map_err(RunnerError::host("watch a shim"))?;
        self.watched.spawn(async move {
            let _ = shim.readable().await;
            id
        });
        Ok(())
    }

    fn look_again(&mut self, id: AttemptId) {
        self.watched.spawn(async move {
            tokio::time::sleep(LINGER_PAUSE).await;
            id
        });
    }

    async fn run(mut self, spawner: Spawner, mut commands: mpsc::Receiver<Command>) {
        let Spawner {
            mut sender,
            receiver,
        } = spawner;
        let mut news = listen(receiver);
        let mut sweep = tokio::time::interval(SWEEP_PERIOD);
        let mut trash = tokio::time::interval(TRASH_PERIOD);
        let mut forget = tokio::time::interval(FORGET_PERIOD);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notes = tokio::time::interval(LINGER_PAUSE);
        notes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start_group();
            tokio::select! {
                biased;
                Some(group) = self.group.join_next(), if !self.group.is_empty() => {
                    let Ok(group) = group else { return };
                    if !self.finish_group(group).await {
                        return;
                    }
                }
                heard = news.recv() => if let Some(heard) = heard {
                    self.on_news(heard);
                } else {
                        tracing::warn!("the spawner ended; starting another");
                        let spawner = self.respawn().await;
                        sender = spawner.sender;
                        news = listen(spawner.receiver);
                        self.resend(&mut sender).await;
                },
                Some(ended) = self.watched.join_next(), if !self.watched.is_empty() => {
                    if let Ok(id) = ended {
                        self.waiting.push((id, Ending::Unclear));
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Start(request)) => self.start(*request, &mut sender).await,
                    Some(Command::Forget(ids)) => self.forgotten.extend(ids),
                    Some(Command::Thawed(id)) => {
                        self.fenced.remove(&id);
                    }
                    None => return,
                },
                Some(_) = self.emptying.join_next(), if !self.emptying.is_empty() => {}
                _ = notes.tick() => self.read_notes().await,
                _ = forget.tick(), if !self.forgotten.is_empty() && !self.forgets_due => {
                    self.forgets_due = true;
                }
                _ = trash.tick() => self.empty_trash(),
                _ = sweep.tick() => {
                    let ledger = Arc::clone(&self.ledger);
                    let swept = blocking(move || ledger.sweep(SystemTime::now())).await;
                    if let Err(error) = swept {
                        tracing::warn!(%error, "failed to remove old work");
                    }
                }
            }
        }
    }

    /// Hears from living shims what lingers and what is frozen.
    async fn read_notes(&mut self) {
        let ledger = Arc::clone(&self.ledger);
        let read = blocking(move || Ok::<_, io::Error>((ledger.lingering()?, ledger.fenced()?)));
        let (lingering, fenced) = match read.await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "failed to read the notes of shims");
                return;
            }
        };
        for id in lingering {
            if self.noted.insert(id.clone()) {
                self.waiting.push((id, Ending::Noted));
            }
        }
        self.fenced.retain(|id| fenced.contains(id));
        for id in fenced {
            // What the agent has no ear for now is told at the next look.
            if !self.fenced.contains(&id) && self.fences.try_send(id.clone()).is_ok() {
                tracing::warn!(attempt = %id, "an attempt is frozen for want of contact with the control plane");
                self.fenced.insert(id);
            }
        }
    }

    async fn start(&mut self, mut request: ShimRequest, sender: &mut crate::spawner::Sender) {
        let id = request.start.id.clone();
        let spare = self.spares.take(owner(request.start.run_as.as_ref()));
        request.spare = spare.as_ref().map(|spare| spare.name.clone());
        let asked = Asked { id, spare };
        match serde_json::to_vec(&request) {
            Ok(body) => self.ask(asked, body, sender).await,
            Err(error) => self.refuse(asked, format!("the request cannot be encoded: {error}")),
        }
    }

    async fn ask(&mut self, asked: Asked, body: Vec<u8>, sender: &mut crate::spawner::Sender) {
        if body.len() > MOST_FRAME_BYTES || !asked.id.is_safe() {
            let reason = format!(
                "command, script and environment are {} bytes, more than {MOST_FRAME_BYTES}",
                body.len()
            );
            self.refuse(asked, reason);
            return;
        }
        let token = self.next_token;
        self.next_token += 1;
        // A spawner that is gone is noticed by its news; what it did not take is sent to the next one.
        let _ = sender.fork(token, &body).await;
        self.asked.insert(token, (asked, body));
    }

    /// Nothing will run for this attempt, as far as its shim is concerned.
    fn refuse(&mut self, asked: Asked, reason: String) {
        self.drop_spare(asked.spare);
        self.waiting.push((asked.id, Ending::NotStarted(reason)));
    }

    /// A spare that a shim was given and may not have taken is in nobody's hands any more.
    fn drop_spare(&mut self, spare: Option<Spare>) {
        let Some(spare) = spare else { return };
        self.trashed += 1;
        if let Err(error) = self.ledger.throw_away(&spare) {
            tracing::warn!(%error, spare = spare.name, "failed to throw away a spare directory");
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Forked { token, .. } => {
                if let Some((asked, _)) = self.asked.remove(&token) {
                    self.forked.insert(token, asked);
                }
            }
            News::ForkFailed { token, errno } => {
                if let Some((asked, _)) = self.asked.remove(&token) {
                    let error = io::Error::from_raw_os_error(errno);
                    self.refuse(asked, format!("no process could be made: {error}"));
                }
            }
            News::Gone { token, status } => {
                if let Some(asked) = self.forked.remove(&token) {
                    if status != SHIM_OK {
                        self.drop_spare(asked.spare);
                    }
                    self.waiting.push((asked.id, ending(status)));
                }
            }
        }
    }

    async fn respawn(&mut self) -> Spawner {
        // The shims of the dead spawner live on; they are watched like those of an earlier agent.
        for (_, asked) in std::mem::take(&mut self.forked) {
            self.waiting.push((asked.id, Ending::Unclear));
        }
        loop {
            match Spawner::start(&self.executable) {
                Ok(spawner) => return spawner,
                Err(error) => tracing::error!(%error, "failed to start the spawner"),
            }
            tokio::time::sleep(RESPAWN_PAUSE).await;
        }
    }

    async fn resend(&mut self, sender: &mut crate::spawner::Sender) {
        // The once-gate makes a second sending of the same attempt harmless.
        for (asked, body) in std::mem::take(&mut self.asked).into_values() {
            self.ask(asked, body, sender).await;
        }
    }

    /// Starts work on what waits, as one group with one sync, unless a group is under way.
    fn start_group(&mut self) {
        let tidies = self.forgets_due || self.forgotten.len() >= FORGET_AT_ONCE;
        if self.waiting.is_empty() && !tidies {
            return;
        }
        let Some(mut journal) = self.journal.take() else {
            return;
        };
        let count = self.waiting.len().min(MOST_GROUP);
        let waiting: Vec<_> = self.waiting.drain(..count).collect();
        let forgotten = if tidies {
            self.forgets_due = false;
            std::mem::take(&mut self.forgotten)
        } else {
            BTreeSet::new()
        };
        if self.trashed > MOST_TRASH {
            self.empty_trash();
        }
        let ledger = Arc::clone(&self.ledger);
        self.group.spawn_blocking(move || {
            let mut ended = Vec::with_capacity(waiting.len());
            let mut running = Vec::new();
            let mut lingering = Vec::new();
            let mut failed = Vec::new();
            let mut spares = Vec::new();
            let mut trashed = 0;
            for (id, ending) in waiting {
                match look(&ledger, &id, &ending) {
                    Ok(Found::Ended(Held { ended: Some(end), .. })) => ended.push((id, end)),
                    // A note of an attempt that is forgotten.
                    Ok(Found::Ended(_)) if matches!(ending, Ending::Noted) => {}
                    Ok(Found::Ended(_)) => failed.push((id, Ending::Unclear)),
                    Ok(Found::Running { shim, .. }) => running.push((id, shim)),
                    Ok(Found::Lingering(_)) => lingering.push(id),
                    Err(error) => {
                        tracing::error!(%error, attempt = %id, "failed to read an attempt's record");
                        failed.push((id, ending));
                    }
                }
            }
            if !ended.is_empty()
                && let Err(error) = journal.append(&ended)
            {
                // The records are there; only a power cut could take them, and a full disk must not hold back an end.
                tracing::error!(%error, "failed to journal ends");
            }
            for id in &forgotten {
                match ledger.forget(id) {
                    Ok(Some(spare)) => spares.push(spare),
                    Ok(None) => trashed += 1,
                    Err(error) => {
                        trashed += 1;
                        tracing::warn!(%error, attempt = %id, "failed to remove an attempt's files");
                    }
                }
            }
            if !forgotten.is_empty()
                && let Err(error) = journal.forget(&forgotten)
            {
                tracing::warn!(%error, "failed to note what is forgotten");
            }
            if !failed.is_empty() {
                std::thread::sleep(RESPAWN_PAUSE);
            }
            Group {
                journal,
                ended,
                running,
                lingering,
                failed,
                spares,
                trashed,
            }
        });
    }

    fn empty_trash(&mut self) {
        if self.trashed == 0 || !self.emptying.is_empty() {
            return;
        }
        self.trashed = 0;
        let ledger = Arc::clone(&self.ledger);
        self.emptying.spawn_blocking(move || {
            if let Err(error) = ledger.empty_trash() {
                tracing::warn!(%error, "failed to remove forgotten attempts");
            }
        });
    }

    /// Tells the ends of a group; false when nobody listens any more.
    async fn finish_group(&mut self, group: Group) -> bool {
        self.journal = Some(group.journal);
        self.waiting.extend(group.failed);
        self.trashed += group.trashed;
        for spare in group.spares {
            let too_many = self.spares.add(spare);
            self.drop_spare(too_many);
        }
        for id in group.lingering {
            let since = self
                .undying
                .entry(id.clone())
                .or_insert_with(|| Some(Instant::now()));
            if since.is_some_and(|since| since.elapsed() >= PROOF_WAIT) {
                *since = None;
                self.waiting.push((id.clone(), Ending::Undying));
            }
            self.look_again(id);
        }
        for (id, shim) in group.running {
            if let Err(error) = self.watch(id.clone(), shim) {
                tracing::error!(%error, attempt = %id, "failed to watch a shim");
                self.waiting.push((id, Ending::Unclear));
            }
        }
        for end in group.ended {
            if let Some(pids) = &end.1.lingering {
                tracing::warn!(attempt = %end.0, ?pids, "an attempt has ended, and processes of it have not");
            } else {
                self.undying.remove(&end.0);
                if self.noted.remove(&end.0) {
                    let (ledger, id) = (Arc::clone(&self.ledger), end.0.clone());
                    let cleared = blocking(move || ledger.clear_lingering(&id)).await;
                    if let Err(error) = cleared {
                        tracing::warn!(%error, attempt = %end.0, "failed to clear the note of what lingered");
                    }
                }
            }
            if self.ends.send(end).await.is_err() {
                return false;
            }
        }
        true
    }
}
