//! Remedies in words.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::input::{Bytes, Millis, QueueName, QueueState, Quota};

use super::{Change, Remedy};

/// Most jobs that a line names.
const MOST_NAMED: usize = 5;

impl Remedy {
    /// In one line for people; `time` shows a time.
    pub fn line(&self, time: &dyn Fn(Millis) -> String) -> String {
        Line { remedy: self, time }.to_string()
    }
}

struct Line<'a> {
    remedy: &'a Remedy,
    time: &'a dyn Fn(Millis) -> String,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Remedy {
            change,
            placement,
            victims,
            overtakes,
        } = self.remedy;
        write_change(change, self.time, f)?;
        if let Some(placement) = placement {
            write!(f, ": it would go to {}", placement.node)?;
        }
        match overtakes {
            0 => {}
            1 => f.write_str(", before one job that is ahead now")?,
            more => write!(f, ", before {more} jobs that are ahead now")?,
        }
        if !victims.is_empty() {
            f.write_str(", and stop ")?;
        }
        list(victims.iter(), MOST_NAMED, f)
    }
}

/// Items with commas, and how many there are beyond the first few.
fn list<T: fmt::Display>(
    items: impl ExactSizeIterator<Item = T>,
    most: usize,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let more = items.len().saturating_sub(most);
    for (at, item) in items.take(most).enumerate() {
        let before = if at == 0 { "" } else { ", " };
        write!(f, "{before}{item}")?;
    }
    match more {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

fn write_change(
    change: &Change,
    time: &dyn Fn(Millis) -> String,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let several = |words: &str, items: &BTreeSet<Arc<str>>, f: &mut fmt::Formatter<'_>| {
        f.write_str(words)?;
        list(items.iter(), MOST_NAMED, f)
    };
    match change {
        Change::Vram { from, to } => match from {
            Some(from) => write!(f, "declare {to} of VRAM rather than {from}"),
            None => write!(f, "declare {to} of VRAM rather than ask for whole GPUs"),
        },
        Change::Gpus { from, to } => write!(f, "ask for {to} rather than {from} GPUs"),
        Change::Cpu { from, to } => write!(f, "ask for {to} rather than {from} cores"),
        Change::Memory { from, to } => write!(f, "ask for {to} of memory rather than {from}"),
        Change::Model { from, to } => write!(f, "take {to} rather than {from}"),
        Change::CardMemory { from, to } => write!(f, "take cards of {to} rather than {from}"),
        Change::Capability { from, to } => {
            write!(
                f,
                "take cards of compute capability {to} rather than {from}"
            )
        }
        Change::Interconnect { from } => write!(f, "take GPUs that are not joined by {from}"),
        Change::Share => f.write_str("share rather than ask for exclusive use"),
        Change::Pin { from } => write!(f, "do not pin it to {from}"),
        Change::Labels(keys) => several("do not ask for the labels ", keys, f),
        Change::Needs(tags) => several("do without ", tags, f),
        Change::Directories(paths) => several("do without ", paths, f),
        Change::Tolerate(keys) => several("tolerate the taints ", keys, f),
        Change::Displace => f.write_str("let it displace others, as it may"),
        Change::Priority { from, to } => write!(f, "raise its priority from {from} to {to}"),
        Change::Queue { queue, from, to } => write_queue(queue, from, to, f),
        Change::Wait(until) => {
            write!(f, "wait until about {} for ", time(until.at))?;
            list(until.jobs.iter(), MOST_NAMED, f)?;
            write!(f, " to end on {}", until.node)
        }
        Change::WaitFor(leavers) => {
            f.write_str("wait for ")?;
            list(leavers.jobs.iter(), MOST_NAMED, f)?;
            write!(f, " to end on {}; nobody knows when", leavers.node)
        }
    }
}

fn write_queue(
    name: &QueueName,
    from: &QueueState,
    to: &QueueState,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    if from.paused {
        write!(f, "resume queue {name}")?;
    }
    if from.quota == to.quota {
        return Ok(());
    }
    if from.paused {
        f.write_str(", and ")?;
    }
    let Quota {
        gpus,
        vram,
        cpu,
        jobs,
    } = to.quota;
    let raised = [
        gpus.filter(|_| gpus != from.quota.gpus)
            .map(|gpus| format!("{gpus} GPUs")),
        vram.filter(|_| vram != from.quota.vram)
            .map(|vram: Bytes| format!("{vram} of VRAM")),
        cpu.filter(|_| cpu != from.quota.cpu)
            .map(|cpu| format!("{cpu} cores")),
        jobs.filter(|_| jobs != from.quota.jobs)
            .map(|jobs| format!("{jobs} jobs")),
    ];
    write!(f, "raise the quota of queue {name} to ")?;
    let raised: Vec<String> = raised.into_iter().flatten().collect();
    list(raised.iter(), raised.len(), f)
}
