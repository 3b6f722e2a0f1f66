//! Who waits ahead of a job, at one time.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::input::{Job, Millis, QueueName};
use crate::order::Place;
use crate::pending::ClassId;

/// A waiting job that goes before another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead<'a> {
    pub(crate) job: &'a Job,
    pub(crate) class: ClassId,
}

/// Who waits ahead of a job.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// How many wait, itself included.
    pub(crate) waiting: usize,
    /// How many go before it.
    pub(crate) ahead: usize,
    /// The same for its queue.
    pub(crate) waiting_in_queue: usize,
    pub(crate) ahead_in_queue: usize,
    /// The first of those ahead, in order: at most [`MOST_AHEAD`].
    pub(crate) first: Vec<Ahead<'a>>,
}

/// Most jobs ahead that are looked at one by one.
const MOST_AHEAD: usize = 500;

impl Cluster {
    /// Who waits ahead of a job, by its priority, whatever class it is of.
    pub(crate) fn line(&self, job: &Job, now: Millis) -> Line<'_> {
        let mut shares: BTreeMap<&QueueName, u64> = BTreeMap::new();
        let place = Place::of(job);
        let band = |priority, place: &Place| {
            let band = self.settings.band(priority, place.enqueued_micros, now);
            Reverse(band)
        };
        let mine = (
            band(job.priority, &place),
            self.share(&job.queue, now),
            &place,
        );
        let mut line = Line {
            waiting: 0,
            ahead: 0,
            waiting_in_queue: 0,
            ahead_in_queue: 0,
            first: Vec::new(),
        };
        let mut first = Vec::new();
        for (id, class) in &self.pending.classes {
            let key = &class.key;
            let share = *shares
                .entry(&key.queue)
                .or_insert_with(|| self.share(&key.queue, now));
            let keys = class
                .jobs
                .iter()
                .map(|place| (band(key.priority, place), share, place));
            let mut ahead = 0;
            for key in keys.take_while(|key| *key < mine) {
                if ahead < MOST_AHEAD {
                    first.push((key, *id));
                }
                ahead += 1;
            }
            line.waiting += class.jobs.len();
            line.ahead += ahead;
            if key.queue == job.queue {
                line.waiting_in_queue += class.jobs.len();
                line.ahead_in_queue += ahead;
            }
        }
        if first.len() > MOST_AHEAD {
            first.select_nth_unstable(MOST_AHEAD);
            first.truncate(MOST_AHEAD);
        }
        first.sort_unstable();
        let known = first
            .into_iter()
            .filter_map(|((_, _, place), class)| Some((self.waiting_job(&place.uid)?, class)));
        line.first = known.map(|(job, class)| Ahead { job, class }).collect();
        line
    }
}
