//! One line a setting: each is played on every trace, and the figures are means over the traces.

use std::fmt::Write as _;

use crate::engine::replay;
use crate::figures::{real, shown};
use crate::fleet::Fleet;
use crate::policy::Policy;
use crate::trace::TraceJob;

/// GPUs from which on a job counts as wide.
const WIDE: u32 = 4;

/// What is shown of one setting.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    mean: f64,
    p95: f64,
    max: f64,
    small: f64,
    wide: f64,
    slowdown: f64,
    slowest: f64,
    used: f64,
    lost: f64,
    jain: f64,
    starved: f64,
}

impl Line {
    fn of(jobs: &[TraceJob], fleet: &Fleet, policy: &Policy) -> Self {
        let outcome = replay(jobs, fleet, policy);
        let all = outcome.waits(|_| true);
        let wide = outcome.waits(|at| jobs[at].gpus >= WIDE);
        let slowdown = outcome.slowdown();
        Self {
            mean: all.mean,
            p95: all.p95,
            max: all.max,
            small: outcome.waits(|at| jobs[at].gpus < WIDE).mean,
            wide: wide.mean,
            slowdown: slowdown.mean,
            slowest: slowdown.p95,
            used: outcome.use_of_gpus().0,
            lost: outcome.displaced(jobs).1 / 3600.0,
            jain: outcome.fairness().jain.unwrap_or(1.0),
            starved: real(outcome.starved().len() as u64),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            mean: self.mean + other.mean,
            p95: self.p95 + other.p95,
            max: self.max.max(other.max),
            small: self.small + other.small,
            wide: self.wide + other.wide,
            slowdown: self.slowdown + other.slowdown,
            slowest: self.slowest + other.slowest,
            used: self.used + other.used,
            lost: self.lost + other.lost,
            jain: self.jain + other.jain,
            starved: self.starved + other.starved,
        }
    }
}

/// The table of all settings over all traces.
pub(crate) fn sweep(traces: &[Vec<TraceJob>], fleet: &Fleet, policies: &[Policy]) -> String {
    let mut text = format!(
        "{} traces on {} GPUs; means over the traces, but the longest waits and sums of lost work and starved jobs\n\
         | settings | wait | p95 | longest | wait below {WIDE} GPUs | wait of {WIDE}+ GPUs | slowdown \
         | its p95 | GPUs in use | lost GPU-h | Jain | starved |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        traces.len(),
        fleet.gpus()
    );
    let count = real(traces.len().max(1) as u64);
    for policy in policies {
        let lines = traces.iter().map(|jobs| Line::of(jobs, fleet, policy));
        let sum = lines.fold(Line::default(), Line::plus);
        let cells = [
            shown(sum.mean / count),
            shown(sum.p95 / count),
            shown(sum.max),
            shown(sum.small / count),
            shown(sum.wide / count),
            format!("{:.2}", sum.slowdown / count),
            format!("{:.1}", sum.slowest / count),
            format!("{:.1} %", sum.used / count),
            format!("{:.0}", sum.lost),
            format!("{:.3}", sum.jain / count),
            format!("{:.0}", sum.starved),
        ];
        let _ = writeln!(text, "| {} | {} |", policy.words, cells.join(" | "));
    }
    text
}
