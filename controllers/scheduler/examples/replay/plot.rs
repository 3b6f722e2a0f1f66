//! The outcome as an SVG of one file: use of the fleet and length of the queue over time, and waits by queue.

use std::fmt::Write as _;

use crate::figures::{Spread, real, shown};
use crate::outcome::Outcome;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 930.0;
/// Points of a curve.
const POINTS: usize = 400;
/// Queues that are drawn; those with the most jobs.
const MOST_QUEUES: usize = 16;
const COLOURS: [&str; 2] = ["#1f6fb2", "#d1622b"];
const PALE: [&str; 2] = ["#8fbce0", "#edb292"];

/// A part of the picture with axes.
struct Panel {
    top: f64,
    bottom: f64,
    x_most: f64,
    y_most: f64,
}

impl Panel {
    fn x(&self, value: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * value / self.x_most.max(1e-9)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * value / self.y_most.max(1e-9)
    }

    /// Title, axes, ticks and their labels.
    fn frame(&self, svg: &mut String, title: &str, y_label: &str, x_label: &str) {
        let (top, bottom) = (self.top, self.bottom);
        text(svg, LEFT, top - 12.0, "start", "title", title);
        let middle = f64::midpoint(top, bottom);
        let _ = writeln!(
            svg,
            r#"<text class="label" text-anchor="middle" transform="translate(22 {middle:.1}) rotate(-90)">{}</text>"#,
            escape(y_label)
        );
        for tick in ticks(self.y_most) {
            let y = self.y(tick);
            let _ = writeln!(
                svg,
                r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}"/>"#
            );
            text(svg, LEFT - 8.0, y + 4.0, "end", "tick", &number(tick));
        }
        self.frame_x(svg, x_label);
    }

    fn frame_x(&self, svg: &mut String, label: &str) {
        let bottom = self.bottom;
        for tick in ticks(self.x_most) {
            let x = self.x(tick);
            let _ = writeln!(
                svg,
                r#"<line class="axis" x1="{x:.1}" y1="{bottom}" x2="{x:.1}" y2="{:.1}"/>"#,
                bottom + 5.0
            );
            text(svg, x, bottom + 18.0, "middle", "tick", &number(tick));
        }
        let middle = f64::midpoint(LEFT, RIGHT);
        text(svg, middle, bottom + 36.0, "middle", "label", label);
        let top = self.top;
        let _ = writeln!(
            svg,
            r#"<path class="axis" d="M{LEFT} {top} V{bottom} H{RIGHT}" fill="none"/>"#
        );
    }

    fn curve(&self, svg: &mut String, points: &[(f64, f64)], colour: &str, dashed: bool) {
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let letter = if at == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1} ", self.x(*x), self.y(*y));
        }
        let dash = if dashed {
            r#" stroke-dasharray="5 4""#
        } else {
            ""
        };
        let _ = writeln!(
            svg,
            r#"<path d="{}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>"#,
            path.trim_end()
        );
    }
}

/// Round numbers from 0 to at most `most`.
fn ticks(most: f64) -> Vec<f64> {
    let rough = (most / 6.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    let step = step
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(power);
    let mut ticks = vec![0.0];
    while let Some(last) = ticks.last()
        && last + step <= most * 1.0001
    {
        ticks.push(last + step);
    }
    ticks
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let _ = writeln!(
        svg,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
        escape(words)
    );
}

/// A round number that is no less, for the end of an axis.
fn round_up(most: f64) -> f64 {
    let power = 10_f64.powf(most.max(1e-9).log10().floor());
    let tops = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0].map(|factor| factor * power);
    tops.into_iter()
        .find(|top| *top >= most * 0.999)
        .unwrap_or(most)
}

/// Neighbouring points as one, so that there are few.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let count = real(chunk.len() as u64);
        let sum = chunk
            .iter()
            .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    points.chunks(each).map(mean).collect()
}

/// Swatches with words, from the right end.
fn legend(svg: &mut String, top: f64, entries: &[(&str, bool, String)]) {
    let mut x = RIGHT;
    for (colour, dashed, words) in entries.iter().rev() {
        x -= 7.0 * real(words.chars().count() as u64) + 4.0;
        text(svg, x, top - 12.0, "start", "tick", words);
        let dash = if *dashed {
            r#" stroke-dasharray="5 4""#
        } else {
            ""
        };
        let _ = writeln!(
            svg,
            r#"<line x1="{:.1}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="{colour}" stroke-width="2.5"{dash}/>"#,
            x - 30.0,
            x - 6.0,
            y = top - 16.0
        );
        x -= 44.0;
    }
}

/// The picture of one replay, or of two that are compared.
pub(crate) fn plot(outcomes: &[Outcome]) -> String {
    let letters = ["A", "B"];
    let hours = outcomes
        .iter()
        .map(|outcome| outcome.meter.length() / 3600.0)
        .fold(0.0, f64::max);
    let queues = queues(outcomes);
    let rows = real(queues.len().max(1) as u64);
    let row = if outcomes.len() > 1 { 40.0 } else { 26.0 };
    let bars_top = 650.0;
    let height = bars_top + rows * row + 70.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <style>text{{font-family:system-ui,sans-serif;fill:#222}}.title{{font-size:15px;font-weight:600}}\
         .label{{font-size:13px}}.tick{{font-size:12px;fill:#444}}.grid{{stroke:#e3e3e3}}.axis{{stroke:#666}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (at, outcome) in outcomes.iter().enumerate() {
        let words = format!("{}: {}", letters[at], outcome.policy.words);
        text(
            &mut svg,
            LEFT,
            22.0 + 18.0 * real(at as u64),
            "start",
            "label",
            &words,
        );
    }
    let names = |what: &[&str]| {
        let mut entries = Vec::new();
        for at in 0..outcomes.len() {
            for (dashed, name) in what.iter().enumerate() {
                let words = if outcomes.len() > 1 {
                    format!("{} {name}", letters[at])
                } else {
                    (*name).to_owned()
                };
                entries.push((COLOURS[at], dashed > 0, words));
            }
        }
        entries
    };

    let panel = Panel {
        top: 90.0,
        bottom: 290.0,
        x_most: hours,
        y_most: 100.0,
    };
    panel.frame(
        &mut svg,
        "Use of the fleet",
        "percent",
        "hours since the first submission",
    );
    legend(
        &mut svg,
        panel.top,
        &names(&["GPUs in use", "VRAM promised"]),
    );
    for (at, outcome) in outcomes.iter().enumerate() {
        let series = outcome.meter.series();
        let gpus: Vec<_> = series.iter().map(|point| (point.0, point.1)).collect();
        let vram: Vec<_> = series.iter().map(|point| (point.0, point.2)).collect();
        panel.curve(&mut svg, &thinned(&vram), COLOURS[at], true);
        panel.curve(&mut svg, &thinned(&gpus), COLOURS[at], false);
    }

    let waiting: Vec<Vec<(f64, f64)>> = outcomes
        .iter()
        .map(|outcome| {
            let series = outcome.meter.series();
            thinned(&series.iter().map(|p| (p.0, p.3)).collect::<Vec<_>>())
        })
        .collect();
    let most = waiting
        .iter()
        .flatten()
        .map(|point| point.1)
        .fold(1.0, f64::max);
    let panel = Panel {
        top: 380.0,
        bottom: 560.0,
        x_most: hours,
        y_most: round_up(most),
    };
    panel.frame(
        &mut svg,
        "Length of the queue",
        "jobs that wait",
        "hours since the first submission",
    );
    legend(&mut svg, panel.top, &names(&["jobs that wait"]));
    for (at, points) in waiting.iter().enumerate() {
        panel.curve(&mut svg, points, COLOURS[at], false);
    }
    bars(&mut svg, outcomes, &queues, bars_top, row);
    svg.push_str("</svg>\n");
    svg
}

/// The queues with the most jobs, in the order of their names.
fn queues(outcomes: &[Outcome]) -> Vec<String> {
    let Some(outcome) = outcomes.first() else {
        return Vec::new();
    };
    let mut counts = vec![0_usize; outcome.meter.queues.len()];
    let mut names = outcome.meter.queues.clone();
    for at in 0..outcome.records.len() {
        let queue = outcome.meter.queue(at);
        if let Some(place) = names.iter().position(|name| name == queue) {
            counts[place] += 1;
        }
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(counts[*at]));
    order.truncate(MOST_QUEUES);
    order.sort_unstable();
    names = order.into_iter().map(|at| names[at].clone()).collect();
    names
}

/// Waits by queue: a bar to the 95th percentile, a mark at the median, a number for the largest.
fn bars(svg: &mut String, outcomes: &[Outcome], queues: &[String], top: f64, row: f64) {
    let spreads: Vec<Vec<Spread>> = outcomes
        .iter()
        .map(|outcome| {
            let of = |name: &String| outcome.waits(|job| outcome.meter.queue(job) == name);
            queues.iter().map(of).collect()
        })
        .collect();
    let most = spreads
        .iter()
        .flatten()
        .map(|spread| spread.p95 / 3600.0)
        .fold(0.01, f64::max);
    let panel = Panel {
        top,
        bottom: top + row * real(queues.len().max(1) as u64) + 6.0,
        // Room for the words behind the bars.
        x_most: round_up(most) * 1.25,
        y_most: 1.0,
    };
    text(svg, LEFT, top - 12.0, "start", "title", "Waits by queue");
    text(
        svg,
        RIGHT,
        top - 12.0,
        "end",
        "tick",
        "bar: to the 95th percentile; mark: median; words: 95th percentile, then the longest",
    );
    panel.frame_x(svg, "hours waited");
    for (at, name) in queues.iter().enumerate() {
        let y = top + row * real(at as u64) + 6.0;
        let shown_name: String = name.chars().take(10).collect();
        text(
            svg,
            LEFT - 8.0,
            y + row / 2.0 + 1.0,
            "end",
            "tick",
            &shown_name,
        );
        for (which, spread) in spreads.iter().map(|spreads| spreads[at]).enumerate() {
            let each = (row - 8.0) / real(spreads.len() as u64);
            let y = y + each * real(which as u64);
            let end = panel.x(spread.p95 / 3600.0);
            let _ = writeln!(
                svg,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{}"/>"#,
                (end - LEFT).max(1.0),
                each - 2.0,
                PALE[which]
            );
            let median = panel.x(spread.p50 / 3600.0);
            let _ = writeln!(
                svg,
                r#"<line x1="{median:.1}" y1="{y:.1}" x2="{median:.1}" y2="{:.1}" stroke="{}" stroke-width="3"/>"#,
                y + each - 2.0,
                COLOURS[which]
            );
            let words = format!("{}, {}", shown(spread.p95), shown(spread.max));
            text(
                svg,
                end + 6.0,
                y + each / 2.0 + 3.0,
                "start",
                "tick",
                &words,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_and_step_at_round_numbers() {
        assert_eq!(ticks(100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(6.0), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(ticks(0.01).len() > 3 && ticks(1e6).len() < 12);
        assert_eq!(number(2.50), "2.5");
        assert!((round_up(137.0) - 150.0).abs() < 1e-9);
    }

    #[test]
    fn words_of_others_cannot_break_the_picture() {
        assert_eq!(escape("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }
}
