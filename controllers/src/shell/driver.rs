//! The one task that owns the world and the queues: takes in events and answers, asks controllers, begins writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::{Op, Plan, Target};
use super::queue::WorkQueue;
use super::store::Delta;
use super::watch::{self, CHANNEL_EVENTS, Observation, chain};
use super::world::{Change, World};
use super::write::{self, Failure, Reply};
use super::{Controller, Subject, Wanted};
use crate::Clock;

/// Events taken in before decisions are made again.
const EVENTS_A_TURN: usize = 256;
/// Looks in one turn, so that events and answers are never kept waiting for long.
const LOOKS_A_TURN: usize = 256;
/// Longest sleep towards a `look_again`: wall clocks are set and machines suspended, so a far time is approached in steps.
const LONGEST_SLEEP: Duration = Duration::from_mins(5);
/// How long a shutdown waits for the answers to writes in flight.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// A write, and who wants it.
struct Write {
    controller: usize,
    subject: Subject,
    op: Op,
}

/// The answer to a write.
struct Answer {
    write: Write,
    result: Result<Reply, Failure>,
}

/// Runs controllers over one shared world.
pub(crate) struct Driver {
    client: Client,
    clock: Clock,
    world: World,
    controllers: Vec<Box<dyn Controller>>,
    queues: Vec<WorkQueue>,
    /// Where the next round over the controllers begins.
    turn: usize,
    in_flight: JoinSet<Answer>,
    max_in_flight: usize,
    /// Writes that wait for room or for another write of the same object.
    backlog: VecDeque<Write>,
    busy: BTreeSet<Target>,
    /// Who waits for the answer to a write of an object before looking at it.
    parked: BTreeMap<Target, BTreeSet<(usize, Subject)>>,
    seed: u64,
}

impl Driver {
    pub(crate) fn new(
        client: Client,
        clock: Clock,
        seed: u64,
        max_in_flight: usize,
        controllers: Vec<Box<dyn Controller>>,
    ) -> Self {
        let mut seeds = StdRng::seed_from_u64(seed);
        let queues = controllers
            .iter()
            .map(|_| WorkQueue::new(seeds.random()))
            .collect();
        Self {
            client,
            clock,
            world: World::default(),
            controllers,
            queues,
            turn: 0,
            in_flight: JoinSet::new(),
            max_in_flight: max_in_flight.max(1),
            backlog: VecDeque::new(),
            busy: BTreeSet::new(),
            parked: BTreeMap::new(),
            seed,
        }
    }

    /// Runs until `shutdown`, then waits a moment for the answers to what was begun.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let (sender, mut events) = mpsc::channel(CHANNEL_EVENTS);
        let watches = watch::start(&self.client, self.seed, &sender);
        drop(sender);
        let mut batch = Vec::with_capacity(EVENTS_A_TURN);
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(answer) = self.in_flight.join_next() => self.on_join(answer),
                taken = events.recv_many(&mut batch, EVENTS_A_TURN) => {
                    if taken == 0 {
                        break;
                    }
                    for observation in batch.drain(..) {
                        self.on_observation(observation);
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            // Whatever woke this task, all that is known is taken in before anything is decided.
            while let Some(answer) = self.in_flight.try_join_next() {
                self.on_join(answer);
            }
            for _ in 0..EVENTS_A_TURN {
                let Ok(observation) = events.try_recv() else {
                    break;
                };
                self.on_observation(observation);
            }
            self.look();
        }
        drop(watches);
        let rest = async { while self.in_flight.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, rest).await.is_err() {
            tracing::warn!("ended before the last writes were answered");
        }
    }

    /// When to go on without being told anything.
    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        // Nothing is looked at while a write waits for the answer to another one, which wakes this task.
        let room = self.in_flight.len() < self.max_in_flight && self.backlog.is_empty();
        if self.world.is_synced() && room && self.queues.iter().any(|queue| !queue.is_idle()) {
            return now;
        }
        let alarms = self.queues.iter().filter_map(WorkQueue::next_alarm);
        alarms.min().unwrap_or(now + LONGEST_SLEEP)
    }

    fn on_observation(&mut self, observation: Observation) {
        match observation {
            Observation::Job(event) => {
                let mut deltas = Vec::new();
                self.world.jobs.on_event(*event, &mut deltas);
                for delta in deltas {
                    self.on_job(delta);
                }
            }
            Observation::Node(event) => {
                let mut deltas = Vec::new();
                self.world.nodes.on_event(*event, &mut deltas);
                self.on_changes(deltas.into_iter().map(Change::Node));
            }
            Observation::Queue(event) => {
                let mut deltas = Vec::new();
                self.world.queues.on_event(event, &mut deltas);
                self.on_changes(deltas.into_iter().map(Change::Queue));
            }
            Observation::Profile(event) => {
                let mut deltas = Vec::new();
                self.world.profiles.on_event(event, &mut deltas);
                self.on_changes((!deltas.is_empty()).then_some(Change::Profile));
            }
            Observation::Lease(event) => {
                let mut deltas = Vec::new();
                self.world.leases.on_event(event, &mut deltas);
                self.on_changes(deltas.into_iter().map(Change::Lease));
            }
            Observation::Interrupted(kind, pause) => {
                let pause = SignedDuration::try_from(pause).unwrap_or_default();
                let now = (self.clock)();
                let until = now.saturating_add(pause).unwrap_or(now);
                for controller in &mut self.controllers {
                    controller.on_interruption(kind, until);
                }
            }
        }
    }

    fn on_job(&mut self, delta: Delta<crds::Job>) {
        self.world.index(&delta);
        self.on_changes([Change::Job(delta)]);
    }

    fn on_changes(&mut self, changes: impl IntoIterator<Item = Change>) {
        let now = (self.clock)();
        let mut wanted = Wanted::default();
        for change in changes {
            for (controller, queue) in self.controllers.iter_mut().zip(&mut self.queues) {
                controller.on_change(&change, &self.world, now, &mut wanted);
                for subject in wanted.subjects.drain(..) {
                    queue.add(subject);
                }
                if let Change::Job(Delta { key, new: None, .. }) = &change {
                    queue.drop_subject(&Subject::Job(key.clone()));
                }
            }
        }
    }

    fn on_join(&mut self, joined: Result<Answer, tokio::task::JoinError>) {
        match joined {
            Ok(answer) => self.on_answer(answer),
            // The task does nothing that could panic, and is aborted only with this driver.
            Err(error) => tracing::error!(%error, "a write ended without an answer"),
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        let Answer { write, result } = answer;
        let target = write.op.target();
        self.busy.remove(&target);
        let failure = match result {
            Ok(Reply::Job(job)) => {
                if let Some(delta) = self.world.jobs.on_reply(*job) {
                    self.on_job(delta);
                }
                None
            }
            Ok(Reply::Node(node)) => {
                let delta = self.world.nodes.on_reply(*node);
                self.on_changes(delta.map(Change::Node));
                None
            }
            Ok(Reply::Queue(queue)) => {
                let delta = self.world.queues.on_reply(*queue);
                self.on_changes(delta.map(Change::Queue));
                None
            }
            Ok(Reply::Done) => None,
            Err(failure) => Some(failure),
        };
        let controller = &mut self.controllers[write.controller];
        let queue = &mut self.queues[write.controller];
        let mut wanted = Wanted::default();
        controller.on_answer(&write.op, failure.as_ref(), &mut wanted);
        for subject in wanted.subjects {
            queue.add(subject);
        }
        match &failure {
            None => queue.forget(&write.subject),
            Some(failure) => {
                let longest = failure.longest_pause();
                let pause = queue.back_off(&write.subject, Instant::now(), longest);
                report(controller.name(), &write.op, failure, pause);
            }
        }
        queue.answered(&write.subject);
        for (controller, subject) in self.parked.remove(&target).unwrap_or_default() {
            self.queues[controller].add(subject);
        }
        self.begin_writes();
    }

    /// Looks at what is ready, in turn over the controllers, while there is room for writes.
    fn look(&mut self) {
        if !self.world.is_synced() {
            return;
        }
        let instant = Instant::now();
        for queue in &mut self.queues {
            queue.wake(instant);
        }
        let now = (self.clock)();
        let mut idle = 0;
        let mut looks = 0;
        while idle < self.controllers.len()
            && looks < LOOKS_A_TURN
            && self.backlog.is_empty()
            && self.in_flight.len() < self.max_in_flight
        {
            let index = self.turn;
            self.turn = (self.turn + 1) % self.controllers.len();
            let Some(subject) = self.queues[index].pop() else {
                idle += 1;
                continue;
            };
            idle = 0;
            looks += 1;
            self.look_at(index, subject, now, instant);
        }
    }

    fn look_at(&mut self, index: usize, subject: Subject, now: Timestamp, instant: Instant) {
        let target = match &subject {
            Subject::Job(key) => Some(Target::Job(key.clone())),
            Subject::Node(key) => Some(Target::Node(key.clone())),
            Subject::Fleet => None,
        };
        if let Some(target) = target
            && self.busy.contains(&target)
        {
            let waiting = self.parked.entry(target).or_default();
            waiting.insert((index, subject));
            return;
        }
        let Plan { ops, look_again } =
            self.controllers[index].reconcile(&subject, &self.world, now);
        let queue = &mut self.queues[index];
        if let Some(at) = look_again {
            let pause = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            queue.add_at(subject.clone(), instant + pause.min(LONGEST_SLEEP));
        }
        if ops.is_empty() {
            return;
        }
        if subject != Subject::Fleet {
            queue.hold(subject.clone(), ops.len());
        }
        self.backlog.extend(ops.into_iter().map(|op| Write {
            controller: index,
            subject: subject.clone(),
            op,
        }));
        self.begin_writes();
    }

    /// Begins waiting writes while there is room. A write of an object that is being written waits for that answer, and
    /// then fails by its resourceVersion if it must.
    fn begin_writes(&mut self) {
        let mut waiting = VecDeque::new();
        while self.in_flight.len() < self.max_in_flight {
            let Some(write) = self.backlog.pop_front() else {
                break;
            };
            let target = write.op.target();
            if self.busy.contains(&target) {
                waiting.push_back(write);
                continue;
            }
            tracing::debug!(
                controller = %self.controllers[write.controller].name(),
                target = %target,
                "{}", write.op.verb(),
            );
            self.busy.insert(target);
            let client = self.client.clone();
            self.in_flight.spawn(async move {
                let result = write::execute(client, &write.op).await;
                Answer { write, result }
            });
        }
        waiting.append(&mut self.backlog);
        self.backlog = waiting;
    }
}

fn report(controller: crate::ControllerName, op: &Op, failure: &Failure, pause: Duration) {
    let target = op.target();
    if failure.is_expected() {
        tracing::debug!(%controller, %target, %failure, "looking again");
    } else {
        tracing::warn!(
            %controller, %target, verb = op.verb(), failure = %chain(failure), ?pause,
            "write failed, trying again later",
        );
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::ControllerName;
    use crate::shell::fake::Fake;
    use crate::shell::testing::{at, job};

    /// Wants one write for every look at the fleet.
    struct Eager;

    impl Controller for Eager {
        fn name(&self) -> ControllerName {
            ControllerName::Placement
        }

        fn on_change(&mut self, _: &Change, _: &World, _: Timestamp, _: &mut Wanted) {}

        fn reconcile(&mut self, _: &Subject, _: &World, _: Timestamp) -> Plan {
            Plan::of(Op::DeleteJob {
                base: job("a").build(),
            })
        }
    }

    fn sync(world: &mut World) {
        let (mut jobs, mut nodes) = (Vec::new(), Vec::new());
        let (mut queues, mut profiles, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        for event in [Event::Init, Event::InitDone] {
            world.jobs.on_event(event, &mut jobs);
        }
        for event in [Event::Init, Event::InitDone] {
            world.nodes.on_event(event, &mut nodes);
        }
        for event in [Event::Init, Event::InitDone] {
            world.queues.on_event(event, &mut queues);
        }
        for event in [Event::Init, Event::InitDone] {
            world.profiles.on_event(event, &mut profiles);
        }
        for event in [Event::Init, Event::InitDone] {
            world.leases.on_event(event, &mut leases);
        }
        assert!(world.is_synced());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_for_another_does_not_keep_the_driver_awake() {
        let fake = Fake::default();
        let _unanswered = fake.gate();
        let controllers: Vec<Box<dyn Controller>> = vec![Box::new(Eager)];
        let clock: Clock = std::sync::Arc::new(|| at(0));
        let mut driver = Driver::new(fake.client(), clock, 1, 8, controllers);
        sync(&mut driver.world);
        for _ in 0..3 {
            driver.queues[0].add(Subject::Fleet);
            driver.look();
        }
        assert_eq!((driver.in_flight.len(), driver.backlog.len()), (1, 1));
        assert!(!driver.queues[0].is_idle());
        assert!(driver.next_wake() > Instant::now());
    }
}
