//! A simulated machine that runs attempts: no process, no file, no thread, only tokio's time. It outlives its agents.
//!
//! What an attempt does is said by its command, word by word: `["sim", "print=hello", "sleep=5", "exit=3"]`.
//!
//! | word | meaning |
//! |---|---|
//! | `print=TEXT` | writes TEXT and a newline |
//! | `sleep=SECS` | runs that long; `sleep=1..10` for a time between, drawn from the seed, uid and attempt |
//! | `exit=CODE` | ends with the code; without it the end of the words is code 0 |
//! | `signal=N` | ends by the signal |
//! | `trap=CODE` | from here on TERM ends it with the code instead of by signal 15 |
//! | `ignore-term` | from here on only KILL ends it |
//! | `linger=SECS` | whatever ends it, something of it stays that long and cannot be killed |
//! | `env=NAME` | writes `NAME=value` and a newline, as the attempt has it in its environment; without a value, `NAME` |
//! | `hostfile` | writes the hosts of its gang |
//! | `checkpoint` | saves its state and says so |
//! | `resume` | writes `resumed N`, N being how often the job has saved its state on this machine |
//! | `fail-start=TEXT` | cannot be started, for the reason TEXT |
//!
//! An attempt with a fence is frozen, or killed, as a real one is.
//!
//! Any other command runs one second and ends with code 0.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::Clock;
use crate::attempt::{AttemptId, Ended, Fence, Held, Program, SignalCause, StartRequest};
use crate::ports::{PORTS, Port};
use crate::runner::{Attached, Ground, PROOF_WAIT, Runner, RunnerError};

/// Ends that wait for the agent.
const END_QUEUE: usize = 4096;
/// The process that stays of an attempt which lingers.
const LINGERING_PID: i32 = 666;
const TERM: i32 = 15;
const KILL: i32 = 9;

/// A simulated machine.
pub struct SimRunner {
    clock: Clock,
    seed: u64,
    machine: Arc<Mutex<Machine>>,
}

#[derive(Default)]
struct Machine {
    attempts: BTreeMap<AttemptId, Simulated>,
    starts: BTreeMap<AttemptId, u32>,
    ends: Option<mpsc::Sender<(AttemptId, Ended)>>,
    fences: Option<mpsc::Sender<AttemptId>>,
    /// When the last acknowledged renewal was sent, in microseconds of the machine's clock.
    contact: u64,
    tasks: JoinSet<()>,
    power: u64,
    /// How often jobs have saved their state, by uid.
    saved: BTreeMap<String, u32>,
    /// Directories that are not there, with all below them.
    missing: BTreeSet<String>,
}

struct Simulated {
    held: Held,
    output: Vec<u8>,
    /// When it said last that its state is saved.
    checkpointed: Option<i64>,
    /// Time of KILL, once a stop was asked for.
    kill_at: watch::Sender<Option<Instant>>,
    /// Rung when it may go on.
    thaw: Arc<Notify>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Print(String),
    Sleep(Duration),
    Exit(i32),
    Signal(i32),
    Trap(i32),
    IgnoreTerm,
    FailStart(String),
    Linger(Duration),
    Checkpoint,
    Resume,
}

impl SimRunner {
    /// A machine whose every choice follows from the seed.
    pub fn new(clock: Clock, seed: u64) -> Self {
        let runner = Self {
            clock,
            seed,
            machine: Arc::default(),
        };
        lock(&runner.machine).contact = runner.boot_micros();
        runner
    }

    /// How often each attempt was started on this machine: never more than once, if all is well.
    pub fn starts(&self) -> BTreeMap<AttemptId, u32> {
        lock(&self.machine).starts.clone()
    }

    /// The attempts that run now: those that have ended or are frozen do not.
    pub fn running(&self) -> Vec<AttemptId> {
        let machine = lock(&self.machine);
        let running = machine.attempts.iter();
        running
            .filter(|(_, simulated)| simulated.held.ended.is_none() && !simulated.held.fenced)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// From now on the machine has no such directory, nor what is below it.
    pub fn remove_directory(&self, path: &str) {
        lock(&self.machine).missing.insert(path.to_owned());
    }

    /// Takes the power away: everything that runs is gone without a record, and so is the agent's ear.
    pub fn reboot(&self) {
        let mut machine = lock(&self.machine);
        machine.tasks.abort_all();
        machine.attempts.clear();
        machine.ends = None;
        machine.fences = None;
        machine.contact = self.boot_micros();
        machine.power += 1;
    }
}

fn lock(machine: &Mutex<Machine>) -> std::sync::MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runner for SimRunner {
    fn attach(&self) -> BoxFuture<'_, Result<Attached, RunnerError>> {
        async move {
            let (sender, ends) = mpsc::channel(END_QUEUE);
            let (fence_sender, fences) = mpsc::channel(END_QUEUE);
            let mut machine = lock(&self.machine);
            machine.ends = Some(sender);
            machine.fences = Some(fence_sender);
            let held = machine.attempts.values();
            let held = held.map(|simulated| simulated.held.clone()).collect();
            Ok(Attached { held, fences, ends })
        }
        .boxed()
    }

    fn ground(&self, directory: String) -> BoxFuture<'_, Ground> {
        let machine = lock(&self.machine);
        let above = |missing: &String| std::path::Path::new(&directory).starts_with(missing);
        let ground = if machine.missing.iter().any(above) {
            Ground::Missing
        } else {
            Ground::Firm
        };
        std::future::ready(ground).boxed()
    }

    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            let steps = steps(&request, self.seed);
            let (kill_at, stops) = watch::channel(None);
            let id = request.id.clone();
            let mut machine = lock(&self.machine);
            if machine.attempts.contains_key(&id) {
                return Ok(());
            }
            *machine.starts.entry(id.clone()).or_default() += 1;
            let held = Held {
                id: id.clone(),
                namespace: request.namespace,
                name: request.name,
                grace_secs: request.grace_secs,
                charge: request.charge,
                fenced: false,
                ended: None,
            };
            let thaw = Arc::<Notify>::default();
            let simulated = Simulated {
                held,
                output: Vec::new(),
                checkpointed: None,
                kill_at,
                thaw: Arc::clone(&thaw),
            };
            machine.attempts.insert(id.clone(), simulated);
            let limit = request.deadline_secs.map(Duration::from_secs);
            let life = Life {
                machine: Arc::clone(&self.machine),
                clock: Arc::clone(&self.clock),
                id,
                stops,
                deadline: limit.map(|limit| Instant::now() + limit),
                grace: Duration::from_secs(u64::from(request.grace_secs)),
                power: machine.power,
                trap: None,
                ignores_term: false,
                linger: Duration::ZERO,
                fence: request.fence,
                thaw,
            };
            machine.tasks.spawn(life.run(steps));
            while machine.tasks.try_join_next().is_some() {}
            Ok(())
        }
        .boxed()
    }

    fn stop(&self, id: AttemptId, kill_at: Timestamp) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            let left = kill_at.duration_since((self.clock)());
            let kill_at = Instant::now() + Duration::try_from(left).unwrap_or_default();
            if let Some(simulated) = lock(&self.machine).attempts.get(&id) {
                simulated.kill_at.send_modify(|known| {
                    *known = Some(known.map_or(kill_at, |known| known.min(kill_at)));
                });
            }
            Ok(())
        }
        .boxed()
    }

    fn thaw(&self, id: AttemptId) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            if let Some(simulated) = lock(&self.machine).attempts.get(&id) {
                simulated.thaw.notify_one();
            }
            Ok(())
        }
        .boxed()
    }

    fn boot_micros(&self) -> u64 {
        u64::try_from((self.clock)().as_microsecond()).unwrap_or(0)
    }

    fn acknowledged(&self, sent_boot_micros: u64) {
        let mut machine = lock(&self.machine);
        machine.contact = machine.contact.max(sent_boot_micros);
    }

    fn output_len(&self, id: &AttemptId) -> u64 {
        let machine = lock(&self.machine);
        let simulated = machine.attempts.get(id);
        simulated.map_or(0, |simulated| simulated.output.len() as u64)
    }

    fn output(
        &self,
        id: AttemptId,
        offset: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Bytes, RunnerError>> {
        async move {
            let machine = lock(&self.machine);
            let output = machine.attempts.get(&id).map(|simulated| &simulated.output);
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = output.and_then(|output| output.get(from..)).unwrap_or(&[]);
            Ok(Bytes::copy_from_slice(&rest[..rest.len().min(limit)]))
        }
        .boxed()
    }

    fn checkpoints(&self, ids: Vec<AttemptId>) -> BoxFuture<'_, Vec<(AttemptId, i64)>> {
        let machine = lock(&self.machine);
        let told = ids.into_iter().filter_map(|id| {
            let micros = machine.attempts.get(&id)?.checkpointed?;
            Some((id, micros))
        });
        std::future::ready(told.collect()).boxed()
    }

    fn forget(&self, ids: Vec<AttemptId>) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            let mut machine = lock(&self.machine);
            for id in &ids {
                machine.attempts.remove(id);
            }
            Ok(())
        }
        .boxed()
    }

    fn processes(&self, id: AttemptId) -> BoxFuture<'_, Vec<i32>> {
        let lives = {
            let machine = lock(&self.machine);
            let simulated = machine.attempts.get(&id);
            simulated.is_some_and(|simulated| {
                let ended = simulated.held.ended.as_ref();
                ended.is_none_or(|ended| ended.lingering.is_some())
            })
        };
        async move { lives.then_some(LINGERING_PID).into_iter().collect() }.boxed()
    }

    /// The first that is not taken; nothing listens on a simulated machine.
    fn reserve_port(&self, _: &AttemptId, taken: &BTreeSet<u16>) -> io::Result<Port> {
        let free = PORTS.clone().find(|port| !taken.contains(port));
        free.map(Port::unkept)
            .ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    fn root_process(&self, _: &AttemptId) -> Option<i32> {
        None
    }
}

/// The life of one simulated attempt.
struct Life {
    machine: Arc<Mutex<Machine>>,
    clock: Clock,
    id: AttemptId,
    stops: watch::Receiver<Option<Instant>>,
    deadline: Option<Instant>,
    grace: Duration,
    power: u64,
    trap: Option<i32>,
    ignores_term: bool,
    linger: Duration,
    fence: Option<Fence>,
    thaw: Arc<Notify>,
}

impl Life {
    async fn run(mut self, steps: Vec<Step>) {
        let mut ended = Ended {
            started_micros: Some(self.micros()),
            ..Ended::default()
        };
        self.live(steps, &mut ended).await;
        ended.finished_micros = Some(self.micros());
        if self.linger > PROOF_WAIT {
            tokio::time::sleep(PROOF_WAIT).await;
            ended.lingering = Some(vec![LINGERING_PID]);
            self.tell(ended.clone()).await;
            ended.lingering = None;
            tokio::time::sleep(self.linger.saturating_sub(PROOF_WAIT)).await;
        } else if !self.linger.is_zero() {
            tokio::time::sleep(self.linger).await;
        }
        self.tell(ended).await;
    }

    async fn tell(&self, ended: Ended) {
        let sender = {
            let mut machine = lock(&self.machine);
            if machine.power != self.power {
                return;
            }
            let Some(simulated) = machine.attempts.get_mut(&self.id) else {
                return;
            };
            simulated.held.ended = Some(ended.clone());
            machine.ends.clone()
        };
        if let Some(sender) = sender {
            // An agent that is gone hears of it from the next attach.
            let _ = sender.send((self.id.clone(), ended)).await;
        }
    }

    async fn live(&mut self, steps: Vec<Step>, ended: &mut Ended) {
        for step in steps {
            match step {
                Step::Print(text) => {
                    if let Some(simulated) = lock(&self.machine).attempts.get_mut(&self.id) {
                        simulated.output.extend(text.bytes());
                        simulated.output.push(b'\n');
                    }
                }
                Step::Sleep(time) => {
                    if self.sleep(time, ended).await {
                        return;
                    }
                }
                Step::Exit(code) => {
                    ended.code = Some(code);
                    return;
                }
                Step::Signal(signal) => {
                    ended.signal = Some(signal);
                    return;
                }
                Step::Trap(code) => self.trap = Some(code),
                Step::IgnoreTerm => self.ignores_term = true,
                Step::Linger(time) => self.linger = time,
                Step::Checkpoint => self.checkpoint(ended),
                Step::Resume => self.resume(),
                Step::FailStart(reason) => {
                    ended.start_error = Some(reason);
                    ended.started_micros = None;
                    return;
                }
            }
        }
        ended.code = Some(0);
    }

    fn checkpoint(&self, ended: &mut Ended) {
        let now = self.micros();
        ended.checkpointed_micros = Some(now);
        let mut machine = lock(&self.machine);
        *machine.saved.entry(self.id.uid.clone()).or_default() += 1;
        if let Some(simulated) = machine.attempts.get_mut(&self.id) {
            simulated.checkpointed = Some(now);
        }
    }

    fn resume(&self) {
        let mut machine = lock(&self.machine);
        let saved = machine.saved.get(&self.id.uid).copied().unwrap_or(0);
        if let Some(simulated) = machine.attempts.get_mut(&self.id) {
            simulated
                .output
                .extend(format!("resumed {saved}\n").bytes());
        }
    }

    /// Sleeps; true when a stop or the limit ended the attempt meanwhile.
    async fn sleep(&mut self, time: Duration, ended: &mut Ended) -> bool {
        let mut wakes = Instant::now() + time;
        loop {
            let fence_due = self.fence_due();
            if fence_due.is_some_and(|due| Instant::now() >= due) {
                if self.fence.is_some_and(|fence| fence.kill) {
                    ended.signalled.get_or_insert(SignalCause::Fence);
                    ended.signal = Some(KILL);
                    return true;
                }
                let since = Instant::now();
                if self.freeze().await {
                    ended.signalled.get_or_insert(SignalCause::Stop);
                    ended.signal = Some(KILL);
                    return true;
                }
                wakes += since.elapsed();
                continue;
            }
            let stop = *self.stops.borrow_and_update();
            let now = Instant::now();
            let kill_at = match (stop, ended.signalled) {
                (Some(kill_at), _) => Some((kill_at, SignalCause::Stop)),
                (None, _) => self
                    .deadline
                    .filter(|deadline| now >= *deadline)
                    .map(|deadline| (deadline + self.grace, SignalCause::Deadline)),
            };
            if let Some((kill_at, cause)) = kill_at {
                ended.signalled.get_or_insert(cause);
                if !self.ignores_term {
                    match self.trap {
                        Some(code) => ended.code = Some(code),
                        None => ended.signal = Some(TERM),
                    }
                    return true;
                }
                if now >= kill_at {
                    ended.signal = Some(KILL);
                    return true;
                }
            }
            if now >= wakes {
                return false;
            }
            let pending = self.deadline.filter(|deadline| now < *deadline);
            let times = [Some(wakes), kill_at.map(|(at, _)| at), pending, fence_due];
            let next = times.into_iter().flatten().min().unwrap_or(wakes);
            tokio::select! {
                biased;
                changed = self.stops.changed() => if changed.is_err() {
                    // Forgotten: nobody can stop it any more.
                    tokio::time::sleep_until(next).await;
                },
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// When it is to be fenced, as far as is known now.
    fn fence_due(&self) -> Option<Instant> {
        let fence = self.fence?;
        let contact = lock(&self.machine).contact;
        let due = contact.saturating_add(u64::from(fence.secs) * 1_000_000);
        let now = u64::try_from(self.micros()).unwrap_or(0);
        Some(Instant::now() + Duration::from_micros(due.saturating_sub(now)))
    }

    /// Is frozen until it may go on, or until a stop kills it: true then.
    async fn freeze(&mut self) -> bool {
        if self.stops.borrow_and_update().is_some() {
            return true;
        }
        let sender = self.set_fenced(true);
        if let Some(sender) = sender {
            let _ = sender.send(self.id.clone()).await;
        }
        let killed = tokio::select! {
            biased;
            changed = self.stops.changed() => changed.is_ok(),
            () = self.thaw.notified() => false,
        };
        self.set_fenced(false);
        killed
    }

    fn set_fenced(&self, fenced: bool) -> Option<mpsc::Sender<AttemptId>> {
        let mut machine = lock(&self.machine);
        if let Some(simulated) = machine.attempts.get_mut(&self.id) {
            simulated.held.fenced = fenced;
        }
        machine.fences.clone()
    }

    fn micros(&self) -> i64 {
        (self.clock)().as_microsecond()
    }
}

fn steps(request: &StartRequest, seed: u64) -> Vec<Step> {
    let words = match &request.program {
        Program::Command(words) if words.first().is_some_and(|word| word == "sim") => &words[1..],
        Program::Command(_) | Program::Script(_) => {
            return vec![Step::Sleep(Duration::from_secs(1))];
        }
    };
    // The draw depends on the attempt and not on the order of starts.
    let mixed = request.id.uid.bytes().fold(seed, |mixed, byte| {
        mixed.rotate_left(7) ^ u64::from(byte).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    let mut draw = StdRng::seed_from_u64(mixed ^ u64::from(request.id.attempt));
    words
        .iter()
        .map(|word| {
            step(word, request, &mut draw).unwrap_or_else(|| {
                Step::FailStart(format!("the simulation does not know the word `{word}`"))
            })
        })
        .collect()
}

/// A variable as the attempt has it.
fn variable(name: &str, request: &StartRequest) -> String {
    let mut latest = request.env.iter().rev();
    match latest.find(|(known, _)| known == name) {
        Some((_, value)) => format!("{name}={value}"),
        None => name.to_owned(),
    }
}

fn step(word: &str, request: &StartRequest, draw: &mut StdRng) -> Option<Step> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    match name {
        "print" => Some(Step::Print(value.to_owned())),
        "env" => Some(Step::Print(variable(value, request))),
        "hostfile" => {
            let hosts = request.hostfile.as_deref().unwrap_or_default();
            Some(Step::Print(hosts.trim_end().to_owned()))
        }
        "sleep" => {
            let secs = match value.split_once("..") {
                Some((least, most)) => {
                    let (least, most): (f64, f64) = (least.parse().ok()?, most.parse().ok()?);
                    (least <= most).then(|| draw.random_range(least..=most))?
                }
                None => value.parse().ok()?,
            };
            Duration::try_from_secs_f64(secs).ok().map(Step::Sleep)
        }
        "exit" => value.parse().ok().map(Step::Exit),
        "signal" => value.parse().ok().map(Step::Signal),
        "trap" => value.parse().ok().map(Step::Trap),
        "linger" => Duration::try_from_secs_f64(value.parse().ok()?)
            .ok()
            .map(Step::Linger),
        "checkpoint" => Some(Step::Checkpoint),
        "resume" => Some(Step::Resume),
        "ignore-term" => Some(Step::IgnoreTerm),
        "fail-start" => Some(Step::FailStart(value.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
