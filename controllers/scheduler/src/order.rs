//! Who is first (rules.md section 6).
//!
//! The key of a job at a time is: its band (declared priority and what waiting added), highest first; then the share of
//! its queue, least first; then when it was queued; then its uid. Priority is part of a class, so that all jobs of a class
//! age alike and their order among each other never changes: only the first job of a class needs a key.
//!
//! Time alone frees nothing, so a band that rises while nothing happens decides nothing until the next event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::input::{Job, JobUid, Millis, QueueName};
use crate::pending::{Class, Lane};
use crate::settings::Settings;

/// A job's place among jobs of its class: enqueue time, then uid. Less is first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) enqueued_micros: i64,
    pub(crate) uid: JobUid,
}

impl Place {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            enqueued_micros: job.enqueued_micros,
            uid: job.uid.clone(),
        }
    }
}

/// A job's place among all jobs at one time. Less is first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) band: Reverse<i32>,
    pub(crate) share: u64,
    pub(crate) place: Place,
}

impl Settings {
    /// The priority of a job that was queued then, with what its wait until now adds.
    pub(crate) fn band(&self, priority: i32, enqueued_micros: i64, now: Millis) -> i32 {
        let Some(span) = self.aging.filter(|span| span.0 > 0) else {
            return priority;
        };
        let enqueued = Millis(enqueued_micros.div_euclid(1000));
        let bands = now.since(enqueued).0 / span.0;
        let cap = self.aging_cap.max(0);
        priority.saturating_add(i32::try_from(bands).unwrap_or(cap).min(cap))
    }
}

impl Settings {
    /// Does a waiting job stay before one that runs, if that one is displaced and waits again? Who displaces a job that came
    /// before it again by its age would lose the slots to it at once, and the two took turns for ever. So with aging it
    /// takes a lead of a whole band, since bands rise at different moments; both age alike, so that this does not change
    /// with time. Without an enqueue time the other does not age.
    pub(crate) fn stays_before(
        &self,
        job: &Job,
        priority: i32,
        enqueued_micros: Option<i64>,
    ) -> bool {
        let aging = self.aging.filter(|span| span.0 > 0);
        let (Some(span), Some(enqueued)) = (aging, enqueued_micros) else {
            return priority < job.priority;
        };
        let span = i128::from(span.0);
        let most = span * i128::from(self.aging_cap.max(0));
        let older = (i128::from(job.enqueued_micros) - i128::from(enqueued)) / 1000;
        let lead = (i128::from(job.priority) - i128::from(priority)) * span;
        priority < job.priority && lead - older.clamp(-most, most) >= span
    }
}

impl Cluster {
    /// The key of a job of a class.
    pub(crate) fn key_of(&self, class: &Class, place: &Place, now: Millis) -> Key {
        self.key_in(&class.lane(), place, now)
    }

    /// The key of a job of a lane.
    pub(crate) fn key_in(&self, lane: &Lane, place: &Place, now: Millis) -> Key {
        self.key_with(lane.1, self.share(&lane.0, now), place, now)
    }

    /// The key of a job of a queue with that share.
    pub(crate) fn key_with(&self, priority: i32, share: u64, place: &Place, now: Millis) -> Key {
        let band = self.settings.band(priority, place.enqueued_micros, now);
        Key {
            band: Reverse(band),
            share,
            place: place.clone(),
        }
    }

    /// The key of a waiting job.
    pub(crate) fn key_of_job(&self, job: &Job, now: Millis) -> Key {
        let band = self.settings.band(job.priority, job.enqueued_micros, now);
        Key {
            band: Reverse(band),
            share: self.share(&job.queue, now),
            place: Place::of(job),
        }
    }
}

/// Heads of lists, each with what the taker needs to go on, taken in order while the shares of their queues change on the way.
#[derive(Debug)]
pub(crate) struct Heads<T> {
    queues: BTreeMap<QueueName, QueueHeads<T>>,
    /// The first of each queue that has any.
    first: BTreeSet<(Key, QueueName)>,
}

#[derive(Debug)]
struct QueueHeads<T> {
    share: u64,
    heads: BTreeSet<(Reverse<i32>, Place, T)>,
}

impl<T: Ord> QueueHeads<T> {
    fn first(&self) -> Option<Key> {
        let (band, place, _) = self.heads.first()?;
        Some(Key {
            band: *band,
            share: self.share,
            place: place.clone(),
        })
    }
}

impl<T: Ord> Heads<T> {
    pub(crate) fn new() -> Self {
        Self {
            queues: BTreeMap::new(),
            first: BTreeSet::new(),
        }
    }

    /// Adds a head; `key.share` is its queue's from now on.
    pub(crate) fn add(&mut self, queue: &QueueName, key: Key, item: T) {
        let heads = match self.queues.get_mut(queue) {
            Some(heads) => heads,
            None => self.queues.entry(queue.clone()).or_insert(QueueHeads {
                share: key.share,
                heads: BTreeSet::new(),
            }),
        };
        let before = heads.first();
        heads.share = key.share;
        heads.heads.insert((key.band, key.place, item));
        let after = heads.first();
        if before != after {
            self.first.extend(after.map(|after| (after, queue.clone())));
            if let Some(before) = before {
                self.first.remove(&(before, queue.clone()));
            }
        }
    }

    /// A queue's share is another now.
    pub(crate) fn reshare(&mut self, queue: &QueueName, share: u64) {
        let Some(heads) = self.queues.get_mut(queue) else {
            return;
        };
        if heads.share == share {
            return;
        }
        if let Some(before) = heads.first() {
            self.first.remove(&(before, queue.clone()));
        }
        heads.share = share;
        self.first
            .extend(heads.first().map(|after| (after, queue.clone())));
    }

    /// Takes the first.
    pub(crate) fn pop(&mut self) -> Option<(Key, T)> {
        let (key, queue) = self.first.pop_first()?;
        let heads = self.queues.get_mut(&queue)?;
        let (_, _, item) = heads.heads.pop_first()?;
        if let Some(next) = heads.first() {
            self.first.insert((next, queue));
        }
        Some((key, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Span;

    fn aging() -> Settings {
        Settings {
            aging: Some(Span::seconds(60)),
            aging_cap: 3,
            ..Settings::default()
        }
    }

    #[test]
    fn a_band_rises_with_every_span_waited_up_to_the_cap() {
        let at = |seconds: i64| aging().band(5, 1_000_000, Millis(1000 + seconds * 1000));
        assert_eq!(
            [0, 59, 60, 119, 120, 180, 1_000_000].map(at),
            [5, 5, 6, 6, 7, 8, 8]
        );
    }

    #[test]
    fn a_job_from_the_future_and_a_priority_at_the_edge_do_not_overflow() {
        assert_eq!(aging().band(1, i64::MAX, Millis(0)), 1);
        assert_eq!(aging().band(i32::MAX, i64::MIN, Millis(i64::MAX)), i32::MAX);
    }

    fn key(band: i32, share: u64, enqueued_micros: i64) -> Key {
        Key {
            band: Reverse(band),
            share,
            place: Place {
                enqueued_micros,
                uid: "x".into(),
            },
        }
    }

    #[test]
    fn queues_take_turns_as_their_shares_change() {
        let mut heads = Heads::new();
        let (a, b) = (QueueName::from("a"), QueueName::from("b"));
        heads.add(&a, key(0, 0, 1), 1);
        heads.add(&a, key(0, 0, 2), 2);
        heads.add(&b, key(0, 0, 3), 3);
        heads.add(&b, key(1, 0, 4), 4);
        let mut order = Vec::new();
        while let Some((_, id)) = heads.pop() {
            order.push(id);
            heads.reshare(if id < 3 { &a } else { &b }, 10 * id);
        }
        // The higher band first; then the queue that has had nothing yet; then the one that has had less.
        assert_eq!(order, [4, 1, 2, 3]);
    }
}
