//! Made-up traces: a lab by day and night, with many small jobs, some long ones, and a few that need whole nodes.
//!
//! The same words and the same seed give the same trace.

use scheduler::{Bytes, MilliCpu, Millis, Span};

use crate::figures::{count, real, seconds, span};
use crate::trace::TraceJob;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) jobs: u64,
    pub(crate) seed: u64,
    /// GPUs of the fleet that the trace is meant for.
    pub(crate) gpus: u64,
    /// GPU time asked for, as a part of what the fleet has over the time of the submissions.
    pub(crate) load: f64,
    pub(crate) queues: u64,
    /// Part of the jobs that need several GPUs, in percent.
    pub(crate) wide: u64,
    /// Part of the jobs that share a GPU, in percent.
    pub(crate) shared: u64,
    /// Part of the jobs that may be displaced, in percent.
    pub(crate) preemptible: u64,
    /// Part of the jobs that name a limit, in percent.
    pub(crate) limited: u64,
    /// Median of the run times.
    pub(crate) median: Span,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            jobs: 1000,
            seed: 1,
            gpus: 32,
            load: 0.9,
            queues: 4,
            wide: 15,
            shared: 45,
            preemptible: 40,
            limited: 60,
            median: Span::seconds(40 * 60),
        }
    }
}

/// The options of `generate`, for `--help`.
pub(crate) const OPTIONS: &str = "\
  --jobs N (1000)       --seed S (1)        --gpus N (32)       GPUs of the fleet that it is meant for
  --load PART (0.9)     GPU time asked for, of what those GPUs have over the time of the submissions
  --queues N (4)        the first has the most jobs             --median SPAN (40m)   of the run times
  --wide PERCENT (15)   jobs of several GPUs                    --shared PERCENT (45) jobs of a part of a GPU
  --preemptible PERCENT (40)                                    --limited PERCENT (60) jobs that name a limit";

impl Wanted {
    /// Reads `--name value` pairs.
    pub(crate) fn read(words: &[String]) -> Result<Self, String> {
        let mut wanted = Self::default();
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                return Err(format!("{} needs a value", pair[0]));
            };
            let number = || {
                let number: Option<u64> = value.parse().ok();
                number.ok_or_else(|| format!("{name} `{value}` is no number"))
            };
            let percent = || match number()? {
                number if number <= 100 => Ok(number),
                _ => Err(format!("{name} {value} is more than 100 percent")),
            };
            match name.as_str() {
                "--jobs" => wanted.jobs = number()?.min(1_000_000),
                "--seed" => wanted.seed = number()?,
                "--gpus" => wanted.gpus = number()?.max(1),
                "--queues" => wanted.queues = number()?.clamp(1, 1000),
                "--wide" => wanted.wide = percent()?,
                "--shared" => wanted.shared = percent()?,
                "--preemptible" => wanted.preemptible = percent()?,
                "--limited" => wanted.limited = percent()?,
                "--median" => wanted.median = span(value)?,
                "--load" => {
                    let load: Option<f64> = value.parse().ok();
                    wanted.load = load
                        .filter(|load| *load > 0.0 && load.is_finite())
                        .ok_or_else(|| format!("--load `{value}` is no part such as 0.9"))?;
                }
                _ => return Err(format!("`{name}` is not known; known are\n{OPTIONS}")),
            }
        }
        Ok(wanted)
    }
}

/// SplitMix64: a generator of numbers that is good enough for this and needs no other crate.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    fn part(&mut self) -> f64 {
        real(self.next() >> 11) / real(1 << 53)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Of the normal distribution, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.part()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.part()).cos()
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        let at = self.below(values.len() as u64);
        values[usize::try_from(at).unwrap_or(0)]
    }
}

/// Makes a trace.
pub(crate) fn generate(wanted: &Wanted) -> Vec<TraceJob> {
    let mut numbers = Numbers(wanted.seed);
    let mut jobs: Vec<TraceJob> = (0..wanted.jobs)
        .map(|_| job(wanted, &mut numbers))
        .collect();
    // The time of the submissions is what makes the load right.
    let work: f64 = jobs
        .iter()
        .map(|job| {
            // A part of a GPU is taken for a third of one.
            let part = if job.vram.is_some() { 1.0 / 3.0 } else { 1.0 };
            seconds(job.run) * f64::from(job.gpus) * part
        })
        .sum();
    let length = work / (real(wanted.gpus) * wanted.load);
    for job in &mut jobs {
        let at = arrival(&mut numbers, length);
        job.submit = Millis(i64::try_from(count(at) * 1000).unwrap_or(0));
    }
    jobs.sort_by_key(|job| job.submit);
    jobs
}

/// A time within the length, four times as likely by day as by night.
fn arrival(numbers: &mut Numbers, length: f64) -> f64 {
    let mut at = 0.0;
    for _ in 0..64 {
        at = numbers.part() * length;
        let hour = (at / 3600.0) % 24.0;
        let likely = if (9.0..19.0).contains(&hour) {
            1.0
        } else {
            0.25
        };
        if numbers.part() < likely {
            break;
        }
    }
    at
}

fn job(wanted: &Wanted, numbers: &mut Numbers) -> TraceJob {
    let wide = numbers.percent(wanted.wide);
    let shared = !wide && numbers.percent(wanted.shared * 100 / (100 - wanted.wide).max(1));
    let cpu_only = !wide && !shared && numbers.percent(10);
    let gpus = if wide {
        numbers.of(&[2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 8])
    } else {
        u32::from(!cpu_only)
    };
    // Wide jobs run longer, and sharing ones shorter.
    let factor = if wide {
        2.5
    } else if shared {
        0.5
    } else {
        1.0
    };
    let run = seconds(wanted.median) * factor * (1.3 * numbers.normal()).exp();
    let run = count(run.clamp(20.0, 40.0 * 3600.0));
    let queue = (0..wanted.queues)
        .find(|queue| *queue + 1 == wanted.queues || numbers.percent(45))
        .unwrap_or(0);
    // People ask for much more time than they need.
    let asked = count(real(run) * (1.2 + 4.0 * numbers.part())).div_ceil(900) * 900;
    let limited = numbers.percent(wanted.limited);
    let cores = u64::from(gpus.max(1)) * numbers.of(&[2, 4, 4, 6]);
    TraceJob {
        run: Span::seconds(i64::try_from(run).unwrap_or(0)),
        gpus,
        vram: shared.then(|| Bytes::gib(numbers.of(&[6, 8, 10, 12, 16, 20, 24]))),
        priority: numbers.of(&[0, 0, 0, 0, 0, 0, 0, 5, 5, 10]),
        queue: format!("lab-{}", queue + 1),
        limit: limited.then(|| Span::seconds(i64::try_from(asked).unwrap_or(0))),
        preemptible: numbers.percent(wanted.preemptible),
        cpu: MilliCpu(1000 * cores),
        memory: Bytes::gib(4 * cores),
        ..TraceJob::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_gives_another() {
        let wanted = Wanted::default();
        assert_eq!(generate(&wanted), generate(&wanted));
        let other = Wanted {
            seed: 2,
            ..wanted.clone()
        };
        assert_ne!(generate(&wanted), generate(&other));
    }

    #[test]
    fn the_load_is_what_was_asked_for() {
        let wanted = Wanted {
            jobs: 20_000,
            load: 0.5,
            ..Wanted::default()
        };
        let jobs = generate(&wanted);
        let work: f64 = jobs
            .iter()
            .map(|job| {
                let part = if job.vram.is_some() { 1.0 / 3.0 } else { 1.0 };
                seconds(job.run) * f64::from(job.gpus) * part
            })
            .sum();
        let length = seconds(jobs.last().unwrap().submit.since(Millis(0)));
        let load = work / (length * real(wanted.gpus));
        assert!((0.49..0.52).contains(&load), "{load}");
        let wide = jobs.iter().filter(|job| job.gpus > 1).count();
        assert!((2500..3500).contains(&wide), "{wide}");
    }

    #[test]
    fn an_option_that_is_not_known_is_refused() {
        let words = |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).into()).collect() };
        assert!(
            Wanted::read(&words(&["--jbos", "3"]))
                .unwrap_err()
                .contains("--jobs N")
        );
        assert!(Wanted::read(&words(&["--jobs"])).is_err());
        assert!(Wanted::read(&words(&["--load", "0"])).is_err());
        assert_eq!(Wanted::read(&words(&["--jobs", "7"])).unwrap().jobs, 7);
    }
}
