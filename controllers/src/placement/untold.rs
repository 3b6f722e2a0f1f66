//! The reasons that waiting jobs are to be told, and when. Pure.
//!
//! A reason costs a durable write, and in a busy queue most jobs are placed before anybody has read why they waited. So a
//! reason is written only when it has stood for a moment, and while binds follow one another closely only when it has stood
//! for long. What matters is that every job that keeps waiting says why.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::shell::Key;

/// How long a reason stands before it is written.
const MOMENT: SignedDuration = SignedDuration::from_secs(1);
/// How long it stands before it is written even while jobs are bound.
const LONG: SignedDuration = SignedDuration::from_secs(10);
/// Binds this close to each other mean that the queue moves.
const CLOSE: SignedDuration = SignedDuration::from_millis(500);
/// Most reasons on their way at once, so that binds find room.
const IN_FLIGHT: usize = 8;

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) class: &'static str,
    pub(super) message: String,
    /// Since when nodes have kept the job waiting.
    pub(super) since: Option<Time>,
}

/// Reasons that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Untold {
    reasons: BTreeMap<Key, (Timestamp, Reason)>,
    order: BTreeSet<(Timestamp, Key)>,
    in_flight: BTreeSet<Key>,
    last_bind: Option<Timestamp>,
}

impl Untold {
    /// A job waits for another reason than it was told. The wait itself goes on, so its time counts from the first.
    pub(super) fn add(&mut self, key: &Key, reason: Reason, now: Timestamp) {
        let since = self.reasons.get(key).map_or(now, |(since, _)| *since);
        self.reasons.insert(key.clone(), (since, reason));
        self.order.insert((since, key.clone()));
    }

    /// A job waits no more, or for nothing that is told here.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some((since, _)) = self.reasons.remove(key) {
            self.order.remove(&(since, key.clone()));
        }
    }

    /// A job was bound.
    pub(super) fn on_bind(&mut self, now: Timestamp) {
        self.last_bind = Some(now);
    }

    /// A write was answered. True when it was that of a reason.
    pub(super) fn on_answer(&mut self, key: &Key) -> bool {
        self.in_flight.remove(key)
    }

    /// Is anything still to be told?
    pub(super) fn is_waiting(&self) -> bool {
        !self.order.is_empty()
    }

    /// Takes the reasons that are to be written now, those that have stood longest first.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<(Key, Reason)> {
        let mut due = Vec::new();
        let pause = self.pause(now);
        while self.in_flight.len() + due.len() < IN_FLIGHT
            && let Some((since, _)) = self.order.first()
            && now.duration_since(*since) >= pause
        {
            let Some((_, key)) = self.order.pop_first() else {
                break;
            };
            if let Some((_, reason)) = self.reasons.remove(&key) {
                due.push((key, reason));
            }
        }
        due
    }

    /// The write of a reason was begun.
    pub(super) fn on_write(&mut self, key: &Key) {
        self.in_flight.insert(key.clone());
    }

    /// When something may be due that is not now.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        let (since, _) = self.order.first()?;
        let moment = *since + MOMENT;
        let quiet = self.last_bind.map_or(moment, |bind| bind + CLOSE);
        Some(moment.max(quiet.min(*since + LONG)).max(now))
    }

    fn pause(&self, now: Timestamp) -> SignedDuration {
        let moves = self
            .last_bind
            .is_some_and(|bind| now.duration_since(bind) < CLOSE);
        if moves { LONG } else { MOMENT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::testing::at;

    fn key(index: usize) -> Key {
        Key::new("default", &format!("job-{index:02}"))
    }

    fn reason(class: &'static str) -> Reason {
        Reason {
            class,
            message: String::new(),
            since: None,
        }
    }

    #[test]
    fn a_reason_is_told_after_a_moment_and_once() {
        let mut untold = Untold::default();
        untold.add(&key(1), reason("A"), at(10));
        assert!(untold.take_due(at(10)).is_empty());
        assert_eq!(untold.next_due(at(10)), Some(at(11)));
        assert_eq!(untold.take_due(at(11)), [(key(1), reason("A"))]);
        assert!(untold.take_due(at(12)).is_empty());
        assert_eq!(untold.next_due(at(12)), None);
    }

    #[test]
    fn the_last_reason_counts_and_the_first_time() {
        let mut untold = Untold::default();
        untold.add(&key(1), reason("A"), at(10));
        untold.add(&key(1), reason("B"), at(11));
        assert_eq!(untold.take_due(at(11)), [(key(1), reason("B"))]);
    }

    #[test]
    fn a_job_that_is_placed_meanwhile_is_told_nothing() {
        let mut untold = Untold::default();
        untold.add(&key(1), reason("A"), at(10));
        untold.remove(&key(1));
        assert!(untold.take_due(at(99)).is_empty());
    }

    #[test]
    fn while_the_queue_moves_only_long_waits_are_told() {
        let mut untold = Untold::default();
        untold.add(&key(1), reason("A"), at(10));
        untold.on_bind(at(15));
        assert!(untold.take_due(at(15)).is_empty());
        assert_eq!(untold.next_due(at(15)), Some(at(15) + CLOSE));
        untold.on_bind(at(20));
        assert_eq!(untold.take_due(at(20)).len(), 1);
    }

    #[test]
    fn few_are_on_their_way_at_once() {
        let mut untold = Untold::default();
        for index in 0..20 {
            untold.add(&key(index), reason("A"), at(10));
        }
        let due = untold.take_due(at(20));
        assert_eq!(due.len(), IN_FLIGHT);
        for (key, _) in &due {
            untold.on_write(key);
        }
        assert!(untold.take_due(at(20)).is_empty());
        assert_eq!(untold.next_due(at(20)), None);
        untold.on_answer(&due[0].0);
        assert_eq!(untold.take_due(at(20)).len(), 1);
    }
}
