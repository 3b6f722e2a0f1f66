//! The replay: a trace goes through a [`Cluster`] by discrete events, under a policy.
//!
//! Time jumps from event to event: a job arrives, ends, reaches its limit, saves, or has left after it was displaced; or
//! the cluster asks to be looked at. Everything that happens at one time happens before the cluster decides. A job starts
//! when it is bound. A displaced job waits again at its old place and runs what its checkpoints did not save.
//!
//! The same input gives the same outcome.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use scheduler::{
    BoundJob, Cluster, Decision, GpuRequest, GpuUuid, Job, JobUid, Millis, Placement, Requirements,
    Span, Terms,
};

use crate::fleet::Fleet;
use crate::outcome::{Ended, Meter, Outcome, Record};
use crate::policy::{Checkpoint, Policy};
use crate::trace::TraceJob;

/// Looks without an effect while nothing else can happen, after which those that wait are taken to wait for ever.
const MOST_IDLE_LOOKS: u32 = 64;

/// Times at which something may happen, for each job, after which a replay is ended: then jobs displace each other
/// without end, or the cluster wants to be looked at for ever.
const MOST_STEPS: u64 = 200;

/// What happens to a job; earlier ones first at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ends,
    Left,
    Saves,
    Arrives,
}

/// A job that runs.
#[derive(Clone, Debug)]
struct Running {
    bound: BoundJob,
    started: Millis,
    /// Work that was saved before this attempt.
    saved: Span,
    /// Does the limit end it?
    cut: bool,
}

/// A replay under way.
pub(crate) struct Engine<'a> {
    jobs: &'a [TraceJob],
    policy: &'a Policy,
    fleet: &'a Fleet,
    cluster: Cluster,
    now: Millis,
    events: BinaryHeap<Reverse<(Millis, Kind, usize, u32)>>,
    records: Vec<Record>,
    running: BTreeMap<usize, Running>,
    /// Waiting jobs by declared priority, submission and line.
    waiting: BTreeSet<(Reverse<i32>, Millis, usize)>,
    /// Reservations that were given, or given anew at another place or time.
    reservations: u64,
    /// Jobs by GPU.
    busy: BTreeMap<GpuUuid, u32>,
    capacity: BTreeMap<GpuUuid, u64>,
    meter: Meter,
}

/// Plays a trace on a fleet under a policy.
pub(crate) fn replay(jobs: &[TraceJob], fleet: &Fleet, policy: &Policy) -> Outcome {
    let mut engine = Engine::new(jobs, fleet, policy);
    engine.run();
    engine.finish()
}

impl<'a> Engine<'a> {
    fn new(jobs: &'a [TraceJob], fleet: &'a Fleet, policy: &'a Policy) -> Self {
        let mut cluster = Cluster::new(policy.settings);
        let mut capacity = BTreeMap::new();
        for (name, node) in &fleet.nodes {
            cluster.upsert_node(name, node.clone());
            capacity.extend(node.gpus.iter().map(|gpu| (gpu.uuid.clone(), gpu.memory.0)));
        }
        for (name, queue) in &fleet.queues {
            cluster.upsert_queue(&name.as_str().into(), queue.state);
        }
        let arrivals = jobs.iter().enumerate();
        let events = arrivals.map(|(at, job)| Reverse((job.submit, Kind::Arrives, at, 0)));
        Self {
            jobs,
            policy,
            fleet,
            cluster,
            now: jobs.first().map_or(Millis(0), |job| job.submit),
            events: events.collect(),
            records: vec![Record::default(); jobs.len()],
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            reservations: 0,
            busy: BTreeMap::new(),
            capacity,
            meter: Meter::new(jobs, fleet),
        }
    }

    fn run(&mut self) {
        let mut look = None;
        let mut idle_looks = 0;
        let steps = 10_000 + MOST_STEPS * self.jobs.len() as u64;
        for _ in 0..steps {
            let next = self.events.peek().map(|Reverse((time, ..))| *time);
            let look_first = look.filter(|look| next.is_none_or(|next| *look < next));
            let Some(time) = look_first.or(next) else {
                break;
            };
            self.meter.advance(time);
            self.now = time;
            let mut due = look_first.is_some();
            while let Some(Reverse((at, kind, job, attempt))) = self.events.peek().copied() {
                if at > time {
                    break;
                }
                self.events.pop();
                due |= self.happens(kind, job, attempt);
            }
            let changed = due && self.decide();
            look = self.cluster.look_again().filter(|look| *look > self.now);
            idle_looks = if changed || next.is_some() {
                0
            } else {
                idle_looks + 1
            };
            if idle_looks > MOST_IDLE_LOOKS {
                break;
            }
        }
    }

    /// Carries an event out; true when the cluster may decide otherwise for it.
    fn happens(&mut self, kind: Kind, at: usize, attempt: u32) -> bool {
        if kind == Kind::Arrives {
            self.meter.waits(at, 1);
            self.waits(at);
            return true;
        }
        if self.records[at].attempts != attempt || !self.running.contains_key(&at) {
            return false;
        }
        match kind {
            Kind::Saves => {
                self.saves(at);
                false
            }
            Kind::Ends => {
                let cut = self.leaves(at).is_some_and(|running| running.cut);
                let ended = if cut { Ended::AtLimit } else { Ended::Done };
                self.records[at].ended = Some((self.now, ended));
                true
            }
            Kind::Left | Kind::Arrives => {
                let Some(running) = self.leaves(at) else {
                    return false;
                };
                let worked = self.now.since(running.started);
                let saved = self.saved_of(&running, worked);
                let record = &mut self.records[at];
                record.displaced += 1;
                record.saved = saved;
                let lost = running.saved.0 + worked.0 - saved.0;
                record.lost = record.lost.saturating_add(Span(lost));
                self.meter.waits(at, 1);
                self.waits(at);
                true
            }
        }
    }

    /// The work that is kept if the job is stopped now.
    fn saved_of(&self, running: &Running, worked: Span) -> Span {
        let all = running.saved.saturating_add(worked);
        match self.policy.checkpoint {
            Checkpoint::Never => Span(0),
            Checkpoint::AtStop => all,
            Checkpoint::Every(period) => Span(running.saved.0 + worked.0 / period.0 * period.0),
        }
    }

    /// Queues a job.
    fn waits(&mut self, at: usize) {
        let job = &self.jobs[at];
        let priority = self.priority(job);
        self.waiting.insert((Reverse(priority), job.submit, at));
        self.records[at].waits_since = Some(self.now);
        let gpus = match (job.gpus, job.vram) {
            (0, _) => GpuRequest::None,
            (count, None) => GpuRequest::Whole(count),
            (count, Some(bytes)) => GpuRequest::Vram { count, bytes },
        };
        self.cluster.upsert_job(Job {
            uid: uid(at),
            queue: job.queue.as_str().into(),
            priority,
            enqueued_micros: job.submit.0.saturating_mul(1000),
            requirements: Requirements {
                cpu: job.cpu,
                memory: job.memory,
                gpus,
                packing: self.policy.packing,
                ..Requirements::default()
            },
            terms: self.terms(job),
            ..Job::default()
        });
    }

    fn priority(&self, job: &TraceJob) -> i32 {
        let base = self.fleet.queues.get(&job.queue);
        base.map_or(0, |queue| queue.priority)
            .saturating_add(job.priority)
    }

    fn terms(&self, job: &TraceJob) -> Terms {
        Terms {
            preemptible: job.preemptible,
            limit: job.limit.or(self.policy.limit),
            grace: self.policy.stop,
            limit_by_default: false,
        }
    }

    /// Lets the cluster decide and carries it out; true when something was decided.
    fn decide(&mut self) -> bool {
        let decisions = self.cluster.decide(self.now, usize::MAX);
        let changed = !decisions.is_empty();
        for decision in decisions {
            match decision {
                Decision::Bind(placement) => self.starts(placement),
                Decision::Infeasible { job, why } => {
                    let at = line(&job);
                    self.no_longer_waits(at);
                    self.records[at].ended = Some((self.now, Ended::Impossible(why.to_string())));
                    self.cluster.remove_job(&job);
                }
                Decision::Nominate { nomination, .. } => {
                    for victim in nomination.iter().flat_map(|one| &one.victims) {
                        self.stops(victim);
                    }
                }
                Decision::Reserve { reservation, .. } => {
                    self.reservations += u64::from(reservation.is_some());
                }
                Decision::Waiting { .. } => {}
            }
        }
        changed
    }

    fn starts(&mut self, placement: Placement) {
        let at = line(&placement.job);
        let job = &self.jobs[at];
        self.no_longer_waits(at);
        let (terms, priority) = (self.terms(job), self.priority(job));
        let record = &mut self.records[at];
        record.attempts += 1;
        record.first_start.get_or_insert(self.now);
        let saved = record.saved;
        let bound = BoundJob {
            uid: placement.job,
            queue: job.queue.as_str().into(),
            attempt: record.attempts,
            node: placement.node,
            gpus: placement.gpus,
            vram: placement.vram,
            whole_gpus: placement.whole_gpus,
            whole_node: placement.whole_node,
            cpu: placement.cpu,
            memory: placement.memory,
            priority,
            enqueued_micros: Some(job.submit.0.saturating_mul(1000)),
            terms,
            bound_at: self.now,
            started: Some(self.now),
            ..BoundJob::default()
        };
        let left = Span(job.run.0 - saved.0);
        let cut = terms.limit.is_some_and(|limit| limit < left);
        let runs = terms.limit.filter(|_| cut).unwrap_or(left);
        let attempt = bound.attempt;
        let end = self.now.plus(runs);
        self.events.push(Reverse((end, Kind::Ends, at, attempt)));
        if let (Checkpoint::Every(period), true) = (self.policy.checkpoint, job.preemptible) {
            let saves = self.now.plus(period);
            if saves < end {
                self.events.push(Reverse((saves, Kind::Saves, at, attempt)));
            }
        }
        for gpu in &bound.gpus {
            *self.busy.entry(gpu.clone()).or_default() += 1;
        }
        self.charge(&bound, at, true);
        self.cluster.upsert_bound(bound.clone());
        let started = self.now;
        let running = Running {
            bound,
            started,
            saved,
            cut,
        };
        self.running.insert(at, running);
    }

    fn no_longer_waits(&mut self, at: usize) {
        let job = &self.jobs[at];
        let key = (Reverse(self.priority(job)), job.submit, at);
        if self.waiting.remove(&key) {
            self.meter.waits(at, -1);
        }
        let record = &mut self.records[at];
        if let Some(since) = record.waits_since.take() {
            record.waited = record.waited.saturating_add(self.now.since(since));
        }
    }

    /// A job gives its slots back.
    fn leaves(&mut self, at: usize) -> Option<Running> {
        let running = self.running.remove(&at)?;
        self.cluster.release(&running.bound.uid);
        for gpu in &running.bound.gpus {
            if let Some(jobs) = self.busy.get_mut(gpu) {
                *jobs -= 1;
                if *jobs == 0 {
                    self.busy.remove(gpu);
                }
            }
        }
        self.charge(&running.bound, at, false);
        self.records[at].ran = self.records[at]
            .ran
            .saturating_add(self.now.since(running.started));
        Some(running)
    }

    fn charge(&mut self, bound: &BoundJob, at: usize, on: bool) {
        let memory: u64 = bound.gpus.iter().map(|gpu| self.capacity[gpu]).sum();
        let vram = match bound.vram {
            Some(vram) if !bound.whole_gpus => vram.0.saturating_mul(bound.gpus.len() as u64),
            _ => memory,
        };
        self.meter.busy(self.busy.len() as u64);
        self.meter
            .holds(at, bound.gpus.len() as u64, vram, memory, on);
    }

    /// A job saves what it has; the cluster is told, since it weighs what would be lost.
    fn saves(&mut self, at: usize) {
        let Checkpoint::Every(period) = self.policy.checkpoint else {
            return;
        };
        let attempt = self.records[at].attempts;
        if let Some(running) = self.running.get_mut(&at) {
            running.bound.checkpointed = Some(self.now);
            self.cluster.upsert_bound(running.bound.clone());
            let next = self.now.plus(period);
            self.events.push(Reverse((next, Kind::Saves, at, attempt)));
        }
    }

    /// A job is told to leave.
    fn stops(&mut self, victim: &JobUid) {
        let at = line(victim);
        let Some(running) = self.running.get_mut(&at) else {
            return;
        };
        if running.bound.stopping.is_some() {
            return;
        }
        let left = self.now.plus(self.policy.stop);
        running.bound.stopping = Some(left);
        self.cluster.upsert_bound(running.bound.clone());
        let attempt = running.bound.attempt;
        self.events.push(Reverse((left, Kind::Left, at, attempt)));
    }

    fn finish(mut self) -> Outcome {
        let waiting: Vec<usize> = self.waiting.iter().map(|(_, _, at)| *at).collect();
        for at in waiting {
            let why = match self.cluster.explain(&uid(at)) {
                Some(scheduler::explain::Standing::Waits(why)) => why.to_string(),
                _ => "it is not known why".into(),
            };
            self.no_longer_waits(at);
            self.records[at].ended = Some((self.now, Ended::StillWaiting(why)));
        }
        let running: Vec<usize> = self.running.keys().copied().collect();
        for at in running {
            self.leaves(at);
            self.records[at].ended = Some((self.now, Ended::Unfinished));
        }
        for at in 0..self.records.len() {
            // What never arrived, because the replay was ended before.
            let record = &mut self.records[at];
            record.ended.get_or_insert((self.now, Ended::Unfinished));
        }
        Outcome {
            policy: self.policy.clone(),
            records: self.records,
            meter: self.meter,
            reservations: self.reservations,
        }
    }
}

/// The uid of a job: its line, in an order that is that of the numbers.
fn uid(at: usize) -> JobUid {
    format!("{at:08}").into()
}

fn line(uid: &JobUid) -> usize {
    uid.as_str().parse().unwrap_or_default()
}
