//! How long jobs run, learned from those that have ended. Pure.
//!
//! Jobs are alike when they have the same queue, profile and command, the numbers in the command left out: the members of a
//! sweep teach each other. Where too few are known, those of the same queue and profile are asked.
//!
//! **Guarantees.** What is learned informs estimates and never gives a right. The same ends in the same order give the same
//! estimates. An estimate moves in coarse steps, so that one more end seldom changes it.
//!
//! **Limits.** [`MAX_SHAPES`] kinds of jobs are remembered, the one that was heard of longest ago is forgotten first, and of
//! each the last [`MAX_SAMPLES`] run times.

use std::collections::{BTreeMap, VecDeque};

use crds::Job;
use crds::job_status::Outcome;
use scheduler::{Estimate, Span};

/// Kinds of jobs that are remembered (chosen: some 600 bytes each).
const MAX_SHAPES: usize = 4096;
/// Run times that are remembered of a kind (chosen: enough for a ninth decile that one odd run does not move).
const MAX_SAMPLES: usize = 64;
/// Fewest run times from which anything is concluded for jobs of the same command.
const FEWEST: usize = 3;
/// Fewest for jobs that share only the profile, which says less.
const FEWEST_OF_PROFILE: usize = 10;
/// Longest part of a command that tells jobs apart, in characters.
const COMMAND_CHARS: usize = 256;

/// What alike jobs have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    queue: String,
    profile: String,
    /// Absent: all jobs of the profile.
    command: Option<String>,
}

/// The last run times of one kind of jobs, in milliseconds.
#[derive(Clone, Debug, Default)]
struct Samples {
    millis: VecDeque<u64>,
    /// When it was heard of last, as a count of all ends.
    heard: u64,
}

/// Run times by kind of job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runtimes {
    shapes: BTreeMap<Shape, Samples>,
    by_age: BTreeMap<u64, Shape>,
    ends: u64,
}

impl Runtimes {
    /// Takes in a job that may have just ended; `before` is what was known of it. A job is counted once, and only when it
    /// ran to an end of its own or to its time limit: other ends say nothing of how long it takes.
    pub(crate) fn on_change(&mut self, before: Option<&Job>, job: &Job) {
        let ended = |job: &Job| job.status.as_ref().and_then(|status| status.outcome);
        if before.is_some_and(|before| ended(before).is_some()) {
            return;
        }
        if !matches!(ended(job), Some(Outcome::Succeeded | Outcome::TimedOut)) {
            return;
        }
        let Some((shape, millis)) = shape(job).zip(run_millis(job)) else {
            return;
        };
        if !shape.profile.is_empty() {
            let of_profile = Shape {
                command: None,
                ..shape.clone()
            };
            self.learn(of_profile, millis);
        }
        self.learn(shape, millis);
    }

    /// How long a job will probably run; nothing when too little is known.
    pub(crate) fn estimate(&self, job: &Job) -> Option<Estimate> {
        if self.shapes.is_empty() {
            return None;
        }
        let shape = shape(job)?;
        let known = |shape: &Shape, fewest| {
            let samples = self.shapes.get(shape)?;
            (samples.millis.len() >= fewest).then(|| samples.estimate())
        };
        known(&shape, FEWEST).or_else(|| {
            let of_profile = Shape {
                command: None,
                ..shape
            };
            known(&of_profile, FEWEST_OF_PROFILE)
        })
    }

    fn learn(&mut self, shape: Shape, millis: u64) {
        self.ends += 1;
        let samples = self.shapes.entry(shape.clone()).or_default();
        self.by_age.remove(&samples.heard);
        samples.heard = self.ends;
        if samples.millis.len() >= MAX_SAMPLES {
            samples.millis.pop_front();
        }
        samples.millis.push_back(millis);
        self.by_age.insert(self.ends, shape);
        while self.shapes.len() > MAX_SHAPES
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.shapes.remove(&oldest);
        }
    }
}

impl Samples {
    /// Median and ninth decile by the nearest rank.
    fn estimate(&self) -> Estimate {
        let mut sorted: Vec<u64> = self.millis.iter().copied().collect();
        sorted.sort_unstable();
        let rank = |tenths: usize| {
            let at = (sorted.len() * tenths).div_ceil(10).saturating_sub(1);
            Span(coarse(sorted.get(at).copied().unwrap_or(0)))
        };
        Estimate {
            median: rank(5),
            p90: rank(9),
        }
    }
}

/// Rounds up to three binary digits (at most a quarter more) and not below a second, so that estimates move seldom.
fn coarse(millis: u64) -> i64 {
    let millis = millis.max(1000);
    let step = 1_u64 << (u64::BITS - millis.leading_zeros()).saturating_sub(3);
    i64::try_from(millis.div_ceil(step).saturating_mul(step)).unwrap_or(i64::MAX)
}

fn shape(job: &Job) -> Option<Shape> {
    let effective = job.status.as_ref()?.effective.as_ref()?;
    let profile = effective.profile.as_ref();
    let script = job.spec.script.as_deref().unwrap_or_default();
    let words = job.spec.command.iter().map(String::as_str);
    Some(Shape {
        queue: effective.queue.value.clone(),
        profile: profile.map_or_else(String::new, |profile| profile.value.clone()),
        command: Some(without_numbers(words.chain(std::iter::once(script)))),
    })
}

/// A command with each run of digits as `#`, cut to its first characters.
fn without_numbers<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let mut length = 0;
    for word in words {
        let mut in_number = false;
        for c in word.chars().chain(std::iter::once(' ')) {
            let digit = c.is_ascii_digit();
            if digit && in_number {
                continue;
            }
            in_number = digit;
            text.push(if digit { '#' } else { c });
            length += 1;
            if length == COMMAND_CHARS {
                return text;
            }
        }
    }
    text
}

fn run_millis(job: &Job) -> Option<u64> {
    let status = job.status.as_ref()?;
    let (started, finished) = (status.start_time.as_ref()?, status.finish_time.as_ref()?);
    let ran = finished.0.duration_since(started.0).as_millis();
    u64::try_from(ran).ok()
}

#[cfg(test)]
mod tests {
    use crds::JobSpec;
    use crds::job_status::{Effective, Sourced};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;
    use crate::shell::testing::{at, job};

    fn ended(command: &[&str], profile: Option<&str>, seconds: i64, outcome: Outcome) -> Job {
        let spec = JobSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            ..JobSpec::default()
        };
        let built = job("a").spec(spec).status(|status| {
            status.effective = Some(Effective {
                profile: profile.map(|name| Sourced {
                    value: name.to_owned(),
                    ..Sourced::default()
                }),
                ..Effective::default()
            });
            status.start_time = Some(MicroTime(at(100)));
            status.finish_time = Some(MicroTime(at(100 + seconds)));
            status.outcome = Some(outcome);
        });
        Job::clone(&built.build())
    }

    fn learned(ends: &[Job]) -> Runtimes {
        let mut runtimes = Runtimes::default();
        for job in ends {
            runtimes.on_change(None, job);
        }
        runtimes
    }

    fn seconds(runtimes: &Runtimes, job: &Job) -> Option<(i64, i64)> {
        let estimate = runtimes.estimate(job)?;
        Some((estimate.median.0 / 1000, estimate.p90.0 / 1000))
    }

    #[test]
    fn members_of_a_sweep_teach_each_other() {
        let ran = |seed: u32, seconds| {
            let seed = format!("--seed={seed}");
            ended(&["train", &seed], None, seconds, Outcome::Succeeded)
        };
        let two = learned(&[ran(1, 64), ran(2, 64)]);
        assert_eq!(seconds(&two, &ran(3, 0)), None, "two say too little");
        let many: Vec<Job> = (0..10)
            .map(|n| ran(n, if n < 8 { 64 } else { 512 }))
            .collect();
        let runtimes = learned(&many);
        let (median, p90) = seconds(&runtimes, &ran(99, 0)).unwrap();
        assert!((64..=72).contains(&median), "{median}");
        assert!((512..=576).contains(&p90), "{p90}");
        let other = ended(&["evaluate"], None, 0, Outcome::Succeeded);
        assert_eq!(seconds(&runtimes, &other), None);
    }

    #[test]
    fn ends_that_say_nothing_of_the_run_time_are_not_counted() {
        let ends: Vec<Job> = [
            Outcome::Cancelled,
            Outcome::Preempted,
            Outcome::Failed,
            Outcome::Lost,
        ]
        .into_iter()
        .flat_map(|outcome| std::iter::repeat_n(ended(&["x"], None, 5, outcome), 4))
        .collect();
        assert_eq!(seconds(&learned(&ends), &ends[0]), None);
    }

    #[test]
    fn an_end_is_counted_once_however_often_it_is_told() {
        let end = ended(&["x"], None, 5, Outcome::Succeeded);
        let mut runtimes = learned(std::slice::from_ref(&end));
        for _ in 0..9 {
            runtimes.on_change(Some(&end), &end);
        }
        assert_eq!(seconds(&runtimes, &end), None);
    }

    #[test]
    fn a_new_command_is_judged_by_its_profile_once_enough_ran() {
        let ran = |index: u32, profile| {
            let letter = char::from_u32('a' as u32 + index).unwrap().to_string();
            ended(&[&letter], profile, 32, Outcome::Succeeded)
        };
        let few: Vec<Job> = (0..9).map(|n| ran(n, Some("big"))).collect();
        let new = ended(&["new"], Some("big"), 0, Outcome::Succeeded);
        assert_eq!(seconds(&learned(&few), &new), None);
        let enough: Vec<Job> = (0..10).map(|n| ran(n, Some("big"))).collect();
        assert!(seconds(&learned(&enough), &new).is_some());
        let plain: Vec<Job> = (0..10).map(|n| ran(n, None)).collect();
        let new = ended(&["new"], None, 0, Outcome::Succeeded);
        assert_eq!(
            seconds(&learned(&plain), &new),
            None,
            "a queue alone says too little"
        );
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten_first() {
        let mut runtimes = Runtimes::default();
        let shape = |n: usize| Shape {
            queue: format!("q{n}"),
            profile: String::new(),
            command: None,
        };
        for n in 0..MAX_SHAPES + 10 {
            runtimes.learn(shape(n), 1);
            runtimes.learn(shape(0), 1);
        }
        assert_eq!(runtimes.shapes.len(), MAX_SHAPES);
        assert_eq!(runtimes.by_age.len(), MAX_SHAPES);
        assert!(runtimes.shapes.contains_key(&shape(0)), "it is in use");
        assert!(!runtimes.shapes.contains_key(&shape(1)));
        assert_eq!(runtimes.shapes[&shape(0)].millis.len(), MAX_SAMPLES);
    }

    #[test]
    fn one_more_end_seldom_moves_an_estimate() {
        assert_eq!(coarse(0), 1024);
        for millis in [1000_u64, 4097, 61_000, 3_600_000] {
            let rounded = u64::try_from(coarse(millis)).unwrap();
            assert!(
                rounded >= millis && rounded <= millis + millis.div_ceil(4),
                "{millis}"
            );
            assert_eq!(coarse(rounded), i64::try_from(rounded).unwrap());
        }
    }
}
