//! Where a job stands, in full: its place in the order, who is ahead, what keeps it, and when it will probably start.
//!
//! All is computed when asked and from the same checks that place jobs. Times are data; whoever shows them says how.

use std::fmt;

use crate::cluster::{Cluster, Entry};
use crate::explain::{Explanation, Standing};
use crate::forecast::{self, Band, Until};
use crate::input::{JobUid, Millis, QueueName};
use crate::reason::Misfit;
use crate::reserve::Reservation;
use crate::timeline;

/// Most jobs ahead that are named.
const MOST_NAMED: usize = 3;

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// What keeps it, or where it is.
    pub standing: Standing,
    /// Its place among those that wait; `None` when it does not.
    pub position: Option<Position>,
    /// When the node that is named first as the nearest to a fit will have room for it.
    pub until: Option<Until>,
    /// When it will probably start; `None` when that is not known, or it does not wait for nodes.
    pub forecast: Option<Band>,
    /// What is kept for it, or for its gang.
    pub reservation: Option<Reservation>,
    /// True when that is being freed for it by stopping others.
    pub nominated: bool,
}

/// A place among those that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its place in the order, from 1.
    pub place: usize,
    /// How many wait.
    pub waiting: usize,
    /// Its queue.
    pub queue: QueueName,
    /// Its place among the jobs of its queue, from 1.
    pub place_in_queue: usize,
    /// How many jobs of its queue wait.
    pub waiting_in_queue: usize,
    /// The first of those ahead, in order.
    pub ahead: Vec<JobUid>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            waiting,
            queue,
            place_in_queue,
            waiting_in_queue,
            ahead,
        } = self;
        write!(
            f,
            "place {place} of {waiting}, and {place_in_queue} of {waiting_in_queue} in queue {queue}"
        )?;
        for (at, uid) in ahead.iter().enumerate() {
            let before = if at == 0 { "; ahead: " } else { ", " };
            write!(f, "{before}{uid}")?;
        }
        match (place - 1).saturating_sub(ahead.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Why {
    /// In a few lines for people; `time` shows a time. What keeps it comes first, and when it starts last.
    pub fn lines(&self, time: &dyn Fn(Millis) -> String) -> Vec<String> {
        let mut lines = Vec::new();
        lines.push(match &self.standing {
            Standing::Bound(node) => format!("bound to {node}"),
            Standing::Fits(node) => format!("fits {node} and starts with the next decision"),
            Standing::Never(why) => why.to_string(),
            Standing::Waits(why) => {
                let until = self.until.as_ref().map(|until| time(until.at));
                format!("waits: {}", why.with_until(until.as_deref()))
            }
        });
        lines.extend(self.position.as_ref().map(ToString::to_string));
        let kept = self.reservation.as_ref();
        let nominated = self.nominated;
        lines.extend(kept.map(|reservation| {
            Kept {
                reservation,
                nominated,
                time,
            }
            .to_string()
        }));
        if matches!(self.standing, Standing::Waits(_)) {
            lines.push(self.start(time));
        }
        lines
    }

    fn start(&self, time: &dyn Fn(Millis) -> String) -> String {
        if self.nominated {
            return "starts as soon as those have left who are stopped for it".to_owned();
        }
        let Some(band) = self.forecast else {
            let why = match &self.standing {
                Standing::Waits(Explanation::Nodes(reasons)) => {
                    let mut items = reasons.items.iter();
                    match items.next().map(|item| &item.misfit) {
                        Some(Misfit::Reserved { until: None, .. }) => {
                            ": nobody knows when those that it is behind have started"
                        }
                        Some(Misfit::Reserved { .. }) => "",
                        first
                            if first
                                .into_iter()
                                .chain(items.map(|one| &one.misfit))
                                .any(timeline::passes) =>
                        {
                            ": too little of what runs has a limit or a known run time"
                        }
                        _ => ": no job that runs is in its way, only what the nodes are or say",
                    }
                }
                Standing::Waits(Explanation::QueuePaused { .. }) => ": its queue must be resumed",
                Standing::Waits(Explanation::PinMissing { .. }) => {
                    ": a node of that name must come first"
                }
                Standing::Waits(Explanation::QuotaExceeded { .. }) => {
                    ": it depends on what its queue and those that lend to it run"
                }
                Standing::Waits(Explanation::QuotaKept { .. }) => {
                    ": the job that its queue keeps quota for goes first"
                }
                _ => "",
            };
            return format!("when it starts is unknown{why}");
        };
        let basis = if band.firm {
            "by the limits of what runs"
        } else {
            "going by how long such jobs ran before"
        };
        match (band.earliest.map(time), band.latest.map(time)) {
            (None, None) => "when it starts is unknown".to_owned(),
            (Some(earliest), None) => {
                format!("starts about {earliest} at the earliest, and nobody knows by when")
            }
            (None, Some(latest)) => format!("starts by about {latest}, {basis}"),
            (Some(earliest), Some(latest)) if latest == earliest => {
                let by = if band.firm { "by about" } else { "about" };
                format!("starts {by} {latest}, {basis}")
            }
            (Some(earliest), Some(latest)) => {
                format!("starts between about {earliest} and {latest}, {basis}")
            }
        }
    }
}

/// A band that ends when what is kept for the job is free at the latest.
fn promised(band: Option<Band>, by: Millis) -> Band {
    match band {
        Some(band) if band.latest.is_some_and(|latest| latest <= by) => band,
        band => Band {
            earliest: band.and_then(|band| band.earliest).map(|at| at.min(by)),
            latest: Some(by),
            firm: true,
        },
    }
}

/// A reservation in words.
struct Kept<'a> {
    reservation: &'a Reservation,
    nominated: bool,
    time: &'a dyn Fn(Millis) -> String,
}

impl fmt::Display for Kept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reservation,
            nominated,
            time,
        } = self;
        let what = if *nominated {
            "slots are freed for it on "
        } else {
            "slots are kept on "
        };
        for (at, slot) in reservation.slots.iter().take(MOST_NAMED).enumerate() {
            let before = if at == 0 { what } else { ", " };
            write!(f, "{before}{}", slot.node)?;
        }
        match reservation.slots.len().saturating_sub(MOST_NAMED) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        match reservation.not_later_than {
            _ if *nominated => Ok(()),
            Some(by) => write!(f, ", free by {} at the latest", time(by)),
            None => f.write_str(", and nobody knows by when they are free"),
        }
    }
}

impl Cluster {
    /// Where a job stands now and why; `None` when it is not known.
    pub fn why(&self, uid: &JobUid, now: Millis) -> Option<Why> {
        let standing = self.standing(uid, now)?;
        let Some(Entry::Pending { job, .. }) = self.jobs.get(uid) else {
            return Some(Why {
                standing,
                position: None,
                until: None,
                forecast: None,
                reservation: None,
                nominated: false,
            });
        };
        let line = self.line(job, now);
        let (mut until, mut forecast) = (None, None);
        if let Standing::Waits(Explanation::Nodes(reasons)) = &standing {
            let best = reasons.items.first();
            let best = best.filter(|item| timeline::passes(&item.misfit));
            until = best.and_then(|item| forecast::room_on(self, job, &item.best, now));
            let all = line.first.len() == line.ahead;
            forecast = forecast::band(self, job, &line.first, all, now);
        }
        // What is kept for a gang is kept for its first member.
        let first = self.unit(job).first().map_or(uid, |first| &first.uid);
        let hold = self.holds.of(first);
        let nominated = hold.is_some_and(|hold| hold.nominated.is_some());
        let reservation = hold.map(|hold| hold.reservation.clone());
        if let Some(by) = reservation.as_ref().and_then(|kept| kept.not_later_than) {
            forecast = Some(promised(forecast, by.max(now)));
        }
        let named = line.first.iter().take(MOST_NAMED);
        Some(Why {
            standing,
            position: Some(Position {
                place: line.ahead + 1,
                waiting: line.waiting,
                queue: job.queue.clone(),
                place_in_queue: line.ahead_in_queue + 1,
                waiting_in_queue: line.waiting_in_queue,
                ahead: named.map(|one| one.job.uid.clone()).collect(),
            }),
            until,
            forecast,
            reservation,
            nominated,
        })
    }
}
