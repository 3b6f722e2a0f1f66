//! A trace of jobs as CSV with a header.
//!
//! | column | what it is |
//! |---|---|
//! | `submit` | when it was submitted, from any start: `90`, `10m`, `2h`, `1.5d` |
//! | `run` | how long it runs when nothing stops it |
//! | `gpus` | GPUs (default 0) |
//! | `vram` | memory on each GPU, such as `16Gi`; empty: whole idle GPUs |
//! | `priority` | priority, added to the base of its queue (default 0) |
//! | `queue` | its queue (default `default`) |
//! | `limit` | hard limit of the run time; empty: the limit of the settings |
//! | `preemptible` | `yes` or `no` (default) |
//! | `cpu` | cores (default 1) |
//! | `memory` | host memory (default none) |
//! | `name` | shown in the report (default: its line) |
//!
//! Only `submit` and `run` are needed; other columns are refused, so that a mistyped one is noticed.

use scheduler::{Bytes, MilliCpu, Millis, Span};

use crate::figures::{bytes, real, span};

/// Most jobs of a trace.
const MAX_JOBS: usize = 2_000_000;

/// One job of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TraceJob {
    pub(crate) name: String,
    pub(crate) submit: Millis,
    pub(crate) run: Span,
    pub(crate) gpus: u32,
    pub(crate) vram: Option<Bytes>,
    pub(crate) priority: i32,
    pub(crate) queue: String,
    pub(crate) limit: Option<Span>,
    pub(crate) preemptible: bool,
    pub(crate) cpu: MilliCpu,
    pub(crate) memory: Bytes,
}

const COLUMNS: [&str; 11] = [
    "submit",
    "run",
    "gpus",
    "vram",
    "priority",
    "queue",
    "limit",
    "preemptible",
    "cpu",
    "memory",
    "name",
];

/// Reads a trace; jobs come back in the order of their submission.
pub(crate) fn read(text: &str) -> Result<Vec<TraceJob>, String> {
    let mut lines = text
        .trim_start_matches('\u{feff}')
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let (_, header) = lines.next().ok_or("the trace is empty")?;
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    if let Some(unknown) = columns.iter().find(|column| !COLUMNS.contains(column)) {
        return Err(format!(
            "column `{unknown}` is not known; known are {}",
            COLUMNS.join(", ")
        ));
    }
    for needed in ["submit", "run"] {
        if !columns.contains(&needed) {
            return Err(format!("column `{needed}` is missing"));
        }
    }
    let mut jobs = Vec::new();
    for (at, line) in lines {
        if jobs.len() >= MAX_JOBS {
            return Err(format!("more than {MAX_JOBS} jobs"));
        }
        let values: Vec<&str> = line.split(',').map(str::trim).collect();
        if values.len() != columns.len() {
            let (has, wanted) = (values.len(), columns.len());
            return Err(format!(
                "line {}: {has} values for {wanted} columns",
                at + 1
            ));
        }
        let mut job = TraceJob {
            name: format!("line {}", at + 1),
            queue: "default".into(),
            cpu: MilliCpu(1000),
            ..TraceJob::default()
        };
        for (column, value) in columns.iter().zip(values) {
            set(&mut job, column, value)
                .map_err(|why| format!("line {}, column `{column}`: {why}", at + 1))?;
        }
        jobs.push(job);
    }
    jobs.sort_by_key(|job| job.submit);
    Ok(jobs)
}

fn set(job: &mut TraceJob, column: &str, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return match column {
            "submit" | "run" => Err("is empty".into()),
            _ => Ok(()),
        };
    }
    let number = |what: &str| format!("`{value}` is no {what}");
    match column {
        "submit" => job.submit = Millis(0).plus(span(value)?),
        "run" => job.run = span(value)?,
        "gpus" => job.gpus = value.parse().map_err(|_| number("number of GPUs"))?,
        "vram" => job.vram = Some(bytes(value)?),
        "priority" => job.priority = value.parse().map_err(|_| number("priority"))?,
        "queue" => job.queue = value.into(),
        "limit" => job.limit = Some(span(value)?),
        "preemptible" => {
            job.preemptible = match value {
                "yes" | "true" | "1" => true,
                "no" | "false" | "0" => false,
                _ => return Err(format!("`{value}` is neither yes nor no")),
            }
        }
        "cpu" => {
            let cores: f64 = value.parse().map_err(|_| number("number of cores"))?;
            job.cpu = MilliCpu(crate::figures::count(cores * 1000.0));
        }
        "memory" => job.memory = bytes(value)?,
        _ => job.name = value.into(),
    }
    Ok(())
}

/// A trace as CSV.
pub(crate) fn write(jobs: &[TraceJob]) -> String {
    let mut text =
        String::from("submit,run,gpus,vram,priority,queue,limit,preemptible,cpu,memory\n");
    for job in jobs {
        let seconds = |span: Span| span.0 / 1000;
        let gib = |bytes: Bytes| real(bytes.0) / real(Bytes::GIB);
        let vram = job
            .vram
            .map(|vram| format!("{}Gi", gib(vram)))
            .unwrap_or_default();
        let limit = job
            .limit
            .map(|limit| seconds(limit).to_string())
            .unwrap_or_default();
        let line = [
            (job.submit.0 / 1000).to_string(),
            seconds(job.run).to_string(),
            job.gpus.to_string(),
            vram,
            job.priority.to_string(),
            job.queue.clone(),
            limit,
            if job.preemptible { "yes" } else { "no" }.into(),
            (job.cpu.0 / 1000).to_string(),
            format!("{}Gi", gib(job.memory)),
        ];
        text.push_str(&line.join(","));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_may_stand_in_any_order_and_most_may_be_missing() {
        let jobs = read("run,submit,vram,gpus\n1h,2m,16Gi,2\n\n30,1m,,1\n").unwrap();
        assert_eq!(jobs.len(), 2);
        assert_eq!((jobs[0].submit, jobs[0].vram), (Millis(60_000), None));
        assert_eq!(jobs[1].vram, Some(Bytes::gib(16)));
        assert_eq!(jobs[1].run, Span::seconds(3600));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line_and_column() {
        for (text, part) in [
            ("submit,run,colour\n", "colour"),
            ("submit\n1\n", "`run` is missing"),
            ("submit,run\n1,soon\n", "line 2, column `run`"),
            ("submit,run\n1\n", "line 2: 1 values for 2 columns"),
            ("submit,run,preemptible\n1,1,maybe\n", "neither yes nor no"),
            ("", "empty"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let jobs = read(
            "submit,run,gpus,vram,priority,queue,limit,preemptible,cpu,memory\n5,60,1,4.5Gi,-2,lab,90,yes,2,8Gi\n",
        )
        .unwrap();
        assert_eq!(read(&write(&jobs)).unwrap(), jobs);
    }
}
