//! The outcome as text: one replay, or two side by side with the ratio of the second to the first.

use std::fmt::Write as _;

use crate::figures::{Spread, real, shown};
use crate::outcome::{Ended, Outcome};
use crate::trace::TraceJob;

/// Starved jobs that are named.
const MOST_NAMED: usize = 5;

/// Sizes that waits are told by, and the fewest GPUs of each. Jobs of fewer than one share a GPU.
const SIZES: [&str; 6] = [
    "no GPU",
    "part of a GPU",
    "1 GPU",
    "2-3 GPUs",
    "4-7 GPUs",
    "8+ GPUs",
];

fn size(job: &TraceJob) -> usize {
    match (job.gpus, job.vram) {
        (0, _) => 0,
        (1, Some(_)) => 1,
        (1, None) => 2,
        (2..=3, _) => 3,
        (4..=7, _) => 4,
        _ => 5,
    }
}

/// A figure of one row.
#[derive(Clone, Copy)]
enum Figure {
    Seconds(f64),
    Percent(f64),
    Ratio(f64),
    Count(f64),
    GpuHours(f64),
    Unknown,
}

impl Figure {
    fn text(self) -> String {
        match self {
            Figure::Seconds(seconds) => shown(seconds),
            Figure::Percent(percent) => format!("{percent:.1} %"),
            Figure::Ratio(ratio) => format!("{ratio:.3}"),
            Figure::Count(count) => format!("{count:.0}"),
            Figure::GpuHours(hours) => format!("{hours:.1} GPU-h"),
            Figure::Unknown => "-".into(),
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Figure::Seconds(number)
            | Figure::Percent(number)
            | Figure::Ratio(number)
            | Figure::Count(number)
            | Figure::GpuHours(number) => Some(number),
            Figure::Unknown => None,
        }
    }
}

/// Rows under a title.
struct Table {
    title: String,
    rows: Vec<(String, Figure)>,
}

fn waits(name: &str, spread: Spread) -> [(String, Figure); 4] {
    let figure = |value| match spread.count {
        0 => Figure::Unknown,
        _ => Figure::Seconds(value),
    };
    [
        (
            format!("{name}, mean ({} jobs)", spread.count),
            figure(spread.mean),
        ),
        (format!("{name}, p50"), figure(spread.p50)),
        (format!("{name}, p95"), figure(spread.p95)),
        (format!("{name}, max"), figure(spread.max)),
    ]
}

fn tables(outcome: &Outcome, jobs: &[TraceJob]) -> Vec<Table> {
    let counts = |which: fn(&Ended) -> bool| Figure::Count(real(outcome.count(which) as u64));
    let (gpus, vram) = outcome.use_of_gpus();
    let slowdown = outcome.slowdown();
    let (displaced, lost) = outcome.displaced(jobs);
    let fairness = outcome.fairness();
    let starved = outcome.starved().len();
    let row = |name: &str, figure| (name.to_owned(), figure);
    let mut tables = vec![
        Table {
            title: "Jobs".into(),
            rows: vec![
                row("finished", counts(|ended| *ended == Ended::Done)),
                row(
                    "ended by their limit",
                    counts(|ended| *ended == Ended::AtLimit),
                ),
                row(
                    "impossible",
                    counts(|ended| matches!(ended, Ended::Impossible(_))),
                ),
                row(
                    "never started",
                    counts(|ended| matches!(ended, Ended::StillWaiting(_))),
                ),
                row(
                    "cut off, for too many displacements",
                    counts(|ended| *ended == Ended::Unfinished),
                ),
                row("starved", Figure::Count(real(starved as u64))),
            ],
        },
        Table {
            title: "Fleet".into(),
            rows: vec![
                row(
                    "until the last end",
                    Figure::Seconds(outcome.meter.length()),
                ),
                row("GPUs in use", Figure::Percent(gpus)),
                row("VRAM promised", Figure::Percent(vram)),
                row(
                    "reservations given",
                    Figure::Count(real(outcome.reservations)),
                ),
                row("displaced", Figure::Count(real(displaced))),
                row("work lost by it", Figure::GpuHours(lost / 3600.0)),
            ],
        },
        Table {
            title: "Slowdown (time in the system / run time, at least 1, run times below 1m as 1m)"
                .into(),
            rows: vec![
                row("mean", Figure::Ratio(slowdown.mean)),
                row("p50", Figure::Ratio(slowdown.p50)),
                row("p95", Figure::Ratio(slowdown.p95)),
                row("max", Figure::Ratio(slowdown.max)),
            ],
        },
    ];
    let mut rows = waits("all", outcome.waits(|_| true)).to_vec();
    for (at, name) in SIZES.iter().enumerate() {
        if jobs.iter().any(|job| size(job) == at) {
            rows.extend(waits(name, outcome.waits(|job| size(&jobs[job]) == at)));
        }
    }
    tables.push(Table {
        title: "Waits by size".into(),
        rows,
    });
    let mut rows = Vec::new();
    for name in &outcome.meter.queues {
        let of_queue = outcome.waits(|job| outcome.meter.queue(job) == name);
        rows.extend(waits(name, of_queue));
    }
    tables.push(Table {
        title: "Waits by queue".into(),
        rows,
    });
    let mut rows = vec![row(
        "Jain's index while two or more queues wait",
        fairness.jain.map_or(Figure::Unknown, Figure::Ratio),
    )];
    for (name, (used, weight)) in outcome.meter.queues.iter().zip(fairness.shares) {
        rows.push((
            format!("{name}: part of all GPU time (by weight {weight:.1} %)"),
            Figure::Percent(used),
        ));
    }
    tables.push(Table {
        title: "Shares".into(),
        rows,
    });
    tables
}

/// The report of one replay, or of two that are compared.
pub(crate) fn report(outcomes: &[Outcome], jobs: &[TraceJob], gpus: usize, nodes: usize) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!(
        "{} jobs on {gpus} GPUs of {nodes} nodes",
        jobs.len()
    ));
    let letters = ["A", "B"];
    for (letter, outcome) in letters.iter().zip(outcomes) {
        line(format!("{letter}: {}", outcome.policy.words));
    }
    let all: Vec<Vec<Table>> = outcomes.iter().map(|one| tables(one, jobs)).collect();
    let Some(first) = all.first() else {
        return text;
    };
    for (at, table) in first.iter().enumerate() {
        line(String::new());
        let mut head = format!("{:<64}", table.title);
        if outcomes.len() > 1 {
            let _ = write!(head, "{:>14} {:>14} {:>8}", "A", "B", "B / A");
        }
        line(head.trim_end().to_owned());
        for (row, (name, figure)) in table.rows.iter().enumerate() {
            let mut cells = format!("  {name:<62}{:>14}", figure.text());
            if let Some(other) = all.get(1).map(|tables| tables[at].rows[row].1) {
                let ratio = match (figure.number(), other.number()) {
                    (Some(a), Some(b)) if a > 0.0 => format!("{:.2}", b / a),
                    _ => "-".into(),
                };
                let _ = write!(cells, " {:>14} {ratio:>8}", other.text());
            }
            line(cells);
        }
    }
    for (letter, outcome) in letters.iter().zip(outcomes) {
        let starved = outcome.starved();
        let limit = shown(crate::figures::seconds(outcome.policy.starved));
        line(String::new());
        line(format!(
            "{letter}: {} jobs waited longer than {limit}",
            starved.len()
        ));
        for at in starved.iter().take(MOST_NAMED) {
            let (job, record) = (&jobs[*at], &outcome.records[*at]);
            let waited = shown(crate::figures::seconds(record.waited));
            let fate = match &record.ended {
                Some((_, Ended::StillWaiting(why))) => format!("and never started: {why}"),
                _ => "and started".into(),
            };
            let queue = &job.queue;
            let size = SIZES[size(job)];
            line(format!(
                "  {} of {queue} ({size}): {waited} {fate}",
                job.name
            ));
        }
        let records = outcome.records.iter().zip(jobs);
        let impossible = records.filter_map(|(record, job)| match &record.ended {
            Some((_, Ended::Impossible(why))) => Some((why, job)),
            _ => None,
        });
        let impossible: Vec<_> = impossible.collect();
        for (why, job) in impossible.iter().take(MOST_NAMED) {
            line(format!("  {} could never run: {why}", job.name));
        }
        if let Some(more @ 1..) = impossible.len().checked_sub(MOST_NAMED) {
            line(format!("  and {more} more could never run"));
        }
    }
    text
}
