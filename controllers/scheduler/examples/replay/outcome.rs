//! What came of a replay: each job's fate, and the use of the fleet over time.

use std::collections::BTreeMap;

use scheduler::{Millis, Span};

use crate::figures::{Spread, jain, real, seconds};
use crate::fleet::Fleet;
use crate::policy::Policy;
use crate::trace::TraceJob;

/// Windows that the time of submissions is cut into.
const WINDOWS: i64 = 400;

/// Run times below this count as this in slowdowns, so that a job of a second that waits a minute does not outweigh all.
const SHORTEST: f64 = 60.0;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    AtLimit,
    Impossible(String),
    StillWaiting(String),
    /// The replay was ended while it ran, see [`crate::engine`].
    Unfinished,
}

/// What became of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) first_start: Option<Millis>,
    pub(crate) ended: Option<(Millis, Ended)>,
    /// All times of waiting together.
    pub(crate) waited: Span,
    pub(crate) waits_since: Option<Millis>,
    /// All times of running together.
    pub(crate) ran: Span,
    pub(crate) attempts: u32,
    pub(crate) displaced: u32,
    /// Work that was saved.
    pub(crate) saved: Span,
    /// Work that was done and not saved.
    pub(crate) lost: Span,
}

/// What a queue used and lacked within a window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part {
    /// GPU-seconds; a job that shares counts by its part of the memory.
    pub(crate) used: f64,
    /// Seconds in which it had jobs that waited.
    pub(crate) hungry: f64,
}

/// A window of time.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// GPU-seconds with at least one job.
    pub(crate) busy: f64,
    /// Byte-seconds promised.
    pub(crate) vram: f64,
    /// Job-seconds of waiting.
    pub(crate) waiting: f64,
    pub(crate) queues: Vec<Part>,
}

/// Measures what is used over time.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) start: Millis,
    pub(crate) window: Span,
    now: Millis,
    pub(crate) windows: Vec<Window>,
    /// Names of the queues, and the queue of each job.
    pub(crate) queues: Vec<String>,
    pub(crate) weights: Vec<f64>,
    queue_of: Vec<usize>,
    busy: u64,
    vram: u64,
    waiting: i64,
    held: Vec<f64>,
    waiting_in: Vec<i64>,
    gpus: f64,
    memory: f64,
}

impl Meter {
    pub(crate) fn new(jobs: &[TraceJob], fleet: &Fleet) -> Self {
        let names: BTreeMap<&str, usize> = jobs
            .iter()
            .map(|job| (job.queue.as_str(), 0))
            .collect::<BTreeMap<_, _>>()
            .into_keys()
            .enumerate()
            .map(|(at, name)| (name, at))
            .collect();
        let start = jobs.first().map_or(Millis(0), |job| job.submit);
        let last = jobs.last().map_or(Millis(0), |job| job.submit);
        let mut queues = vec![String::new(); names.len()];
        for (name, at) in &names {
            (*name).clone_into(&mut queues[*at]);
        }
        let weight = |name: &String| {
            let weight = fleet.queues.get(name).map_or(1, |queue| queue.state.weight);
            f64::from(weight.max(1))
        };
        Self {
            start,
            window: Span((last.since(start).0 / WINDOWS).max(60_000)),
            now: start,
            windows: Vec::new(),
            weights: queues.iter().map(weight).collect(),
            queue_of: jobs.iter().map(|job| names[job.queue.as_str()]).collect(),
            busy: 0,
            vram: 0,
            waiting: 0,
            held: vec![0.0; queues.len()],
            waiting_in: vec![0; queues.len()],
            queues,
            gpus: real(fleet.gpus() as u64),
            memory: real(fleet.vram()),
        }
    }

    /// Time goes on with what is held now.
    pub(crate) fn advance(&mut self, to: Millis) {
        while self.now < to {
            let at = self.now.since(self.start).0 / self.window.0;
            let end = Millis(self.start.0 + (at + 1) * self.window.0).min(to);
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            while self.windows.len() <= at {
                self.windows.push(Window {
                    busy: 0.0,
                    vram: 0.0,
                    waiting: 0.0,
                    queues: vec![Part::default(); self.queues.len()],
                });
            }
            let span = seconds(end.since(self.now));
            let window = &mut self.windows[at];
            window.busy += real(self.busy) * span;
            window.vram += real(self.vram) * span;
            window.waiting += real(u64::try_from(self.waiting).unwrap_or(0)) * span;
            for (at, part) in window.queues.iter_mut().enumerate() {
                part.used += self.held[at] * span;
                if self.waiting_in[at] > 0 {
                    part.hungry += span;
                }
            }
            self.now = end;
        }
    }

    pub(crate) fn waits(&mut self, job: usize, change: i64) {
        self.waiting += change;
        self.waiting_in[self.queue_of[job]] += change;
    }

    pub(crate) fn busy(&mut self, gpus: u64) {
        self.busy = gpus;
    }

    /// A job holds GPUs or gives them back: their number, memory promised on them, and all their memory.
    pub(crate) fn holds(&mut self, job: usize, gpus: u64, vram: u64, memory: u64, on: bool) {
        let part = real(vram) / real(memory.max(1)) * real(gpus);
        let held = &mut self.held[self.queue_of[job]];
        if on {
            self.vram += vram;
            *held += part;
        } else {
            self.vram -= vram;
            *held = (*held - part).max(0.0);
        }
    }

    /// How long the replay took from the first submission to the last end.
    pub(crate) fn length(&self) -> f64 {
        seconds(self.now.since(self.start))
    }

    /// The queue of a job.
    pub(crate) fn queue(&self, job: usize) -> &str {
        &self.queues[self.queue_of[job]]
    }

    /// For each window: its middle in hours, the use of GPUs and of their memory in percent, and the jobs that wait.
    pub(crate) fn series(&self) -> Vec<(f64, f64, f64, f64)> {
        let span = seconds(self.window);
        let mut left = self.length();
        let series = self.windows.iter().enumerate().map(|(at, window)| {
            let here = span.min(left).max(1e-9);
            left -= here;
            let hours = (real(at as u64) + 0.5) * span / 3600.0;
            let percent = |used: f64, of: f64| 100.0 * used / (of.max(1e-9) * here);
            (
                hours,
                percent(window.busy, self.gpus),
                percent(window.vram, self.memory),
                window.waiting / here,
            )
        });
        series.collect()
    }
}

/// What came of a replay.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) policy: Policy,
    pub(crate) records: Vec<Record>,
    pub(crate) meter: Meter,
    /// Reservations that were given, or given anew at another place or time.
    pub(crate) reservations: u64,
}

/// How the fleet was shared among the queues.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fairness {
    /// For each queue: its part of all GPU time, and the part of its weight, in percent.
    pub(crate) shares: Vec<(f64, f64)>,
    /// Jain's index of use by weight, averaged over the time in which two queues or more had jobs that waited; `None`
    /// when that never was.
    pub(crate) jain: Option<f64>,
}

impl Outcome {
    /// Waits of some jobs, in seconds; those that no node could ever run are left out.
    pub(crate) fn waits(&self, which: impl Fn(usize) -> bool) -> Spread {
        let jobs = self.records.iter().enumerate();
        let jobs = jobs.filter(|(at, record)| which(*at) && !record.is_impossible());
        Spread::of(jobs.map(|(_, record)| seconds(record.waited)).collect())
    }

    /// Time from submission to end over run time, at least 1, with short run times counted as a minute.
    pub(crate) fn slowdown(&self) -> Spread {
        let ended = self.records.iter().filter(|record| record.is_done());
        let slowdown = ended.map(|record| {
            let (waited, ran) = (seconds(record.waited), seconds(record.ran));
            let useful = (ran - seconds(record.lost)).max(SHORTEST);
            ((waited + ran) / useful).max(1.0)
        });
        Spread::of(slowdown.collect())
    }

    /// Use of GPUs and of their memory, in percent of the time until the last end.
    pub(crate) fn use_of_gpus(&self) -> (f64, f64) {
        let meter = &self.meter;
        let all = |pick: fn(&Window) -> f64| -> f64 { meter.windows.iter().map(pick).sum() };
        let length = meter.length().max(1e-9);
        (
            100.0 * all(|window| window.busy) / (meter.gpus.max(1e-9) * length),
            100.0 * all(|window| window.vram) / (meter.memory.max(1e-9) * length),
        )
    }

    pub(crate) fn fairness(&self) -> Fairness {
        let meter = &self.meter;
        let used = |at: usize| -> f64 { meter.windows.iter().map(|w| w.queues[at].used).sum() };
        let used: Vec<f64> = (0..meter.queues.len()).map(used).collect();
        let all: f64 = used.iter().sum::<f64>().max(1e-9);
        let weights: f64 = meter.weights.iter().sum::<f64>().max(1e-9);
        let shares = used.iter().zip(&meter.weights);
        let shares = shares.map(|(used, weight)| (100.0 * used / all, 100.0 * weight / weights));
        let (mut sum, mut time) = (0.0, 0.0);
        for window in &meter.windows {
            // Only who lacks something can be treated unfairly.
            let hungry = window.queues.iter().zip(&meter.weights);
            let hungry = hungry.filter(|(part, _)| part.hungry > seconds(meter.window) / 2.0);
            let rates: Vec<f64> = hungry.map(|(part, weight)| part.used / weight).collect();
            if rates.len() > 1 {
                sum += jain(&rates);
                time += 1.0;
            }
        }
        Fairness {
            shares: shares.collect(),
            jain: (time > 0.0).then(|| sum / time),
        }
    }

    /// Jobs that waited longer than the policy calls starving, the longest first.
    pub(crate) fn starved(&self) -> Vec<usize> {
        let jobs = self.records.iter().enumerate();
        let jobs = jobs
            .filter(|(_, record)| !record.is_impossible() && record.waited > self.policy.starved);
        let mut starved: Vec<usize> = jobs.map(|(at, _)| at).collect();
        starved.sort_by_key(|at| (std::cmp::Reverse(self.records[*at].waited), *at));
        starved
    }

    /// Number of jobs that ended so.
    pub(crate) fn count(&self, which: impl Fn(&Ended) -> bool) -> usize {
        let ended = self
            .records
            .iter()
            .filter_map(|record| record.ended.as_ref());
        ended.filter(|(_, ended)| which(ended)).count()
    }

    /// How often jobs were displaced, and the GPU-seconds of work that was lost by it.
    pub(crate) fn displaced(&self, jobs: &[TraceJob]) -> (u64, f64) {
        let times = self
            .records
            .iter()
            .map(|record| u64::from(record.displaced));
        let lost = self.records.iter().zip(jobs);
        let lost = lost.map(|(record, job)| seconds(record.lost) * f64::from(job.gpus));
        (times.sum(), lost.sum())
    }
}

impl Record {
    fn is_impossible(&self) -> bool {
        matches!(&self.ended, Some((_, Ended::Impossible(_))))
    }

    fn is_done(&self) -> bool {
        matches!(&self.ended, Some((_, Ended::Done | Ended::AtLimit)))
    }
}
