//! The ordered work queue of one controller: each subject once, one look at a time, back-off, wake at a time.
//!
//! Pure: time comes in as an argument, randomness from the seed it was made with.
//!
//! **Limits.** It holds each subject at most once as ready and once as waiting, so it never holds more than there are
//! objects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::Subject;

/// First pause after a failure: long enough for the watch to bring what a conflict was about.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// The work queue of one controller.
#[derive(Debug)]
pub(crate) struct WorkQueue {
    ready: VecDeque<Subject>,
    /// What is in `ready`.
    queued: BTreeSet<Subject>,
    /// Subjects with unanswered writes, and how many.
    held: BTreeMap<Subject, usize>,
    /// Held subjects that are to be looked at again.
    dirty: BTreeSet<Subject>,
    alarms: BTreeSet<(Instant, Subject)>,
    /// The one alarm of each subject.
    alarm_of: BTreeMap<Subject, Instant>,
    /// Failures in a row, and the end of the pause after the last of them.
    failures: BTreeMap<Subject, (u32, Instant)>,
    jitter: StdRng,
}

impl WorkQueue {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            held: BTreeMap::new(),
            dirty: BTreeSet::new(),
            alarms: BTreeSet::new(),
            alarm_of: BTreeMap::new(),
            failures: BTreeMap::new(),
            jitter: StdRng::seed_from_u64(seed),
        }
    }

    /// Asks for a look at a subject as soon as possible.
    pub(crate) fn add(&mut self, subject: Subject) {
        if self.held.contains_key(&subject) {
            self.dirty.insert(subject);
        } else if self.queued.insert(subject.clone()) {
            self.ready.push_back(subject);
        }
    }

    /// Asks for a look at a time; of several times the earliest counts.
    pub(crate) fn add_at(&mut self, subject: Subject, at: Instant) {
        match self.alarm_of.get(&subject) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.alarms.remove(&(*known, subject.clone()));
            }
            None => {}
        }
        self.alarms.insert((at, subject.clone()));
        self.alarm_of.insert(subject, at);
    }

    /// Moves what is due to the ready ones.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some((at, _)) = self.alarms.first()
            && *at <= now
        {
            if let Some((_, subject)) = self.alarms.pop_first() {
                self.alarm_of.remove(&subject);
                self.add(subject);
            }
        }
    }

    /// When the next subject is due.
    pub(crate) fn next_alarm(&self) -> Option<Instant> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Takes the subject that has been ready longest.
    pub(crate) fn pop(&mut self) -> Option<Subject> {
        let subject = self.ready.pop_front()?;
        self.queued.remove(&subject);
        Some(subject)
    }

    /// True when nothing is ready.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// Holds a subject until `writes` answers have come.
    pub(crate) fn hold(&mut self, subject: Subject, writes: usize) {
        if writes > 0 {
            *self.held.entry(subject).or_insert(0) += writes;
        }
    }

    /// One answer for a held subject has come.
    pub(crate) fn answered(&mut self, subject: &Subject) {
        let Some(left) = self.held.get_mut(subject) else {
            return;
        };
        *left -= 1;
        if *left == 0 {
            self.held.remove(subject);
            if self.dirty.remove(subject) {
                self.add(subject.clone());
            }
        }
    }

    /// A write succeeded: the next failure is a first one.
    pub(crate) fn forget(&mut self, subject: &Subject) {
        self.failures.remove(subject);
    }

    /// A write failed: look again after a pause that doubles, by up to a quarter longer at random. Failures within one
    /// pause count as one, because they have one cause. No pause is longer than `longest`, jitter aside.
    pub(crate) fn back_off(
        &mut self,
        subject: &Subject,
        now: Instant,
        longest: Duration,
    ) -> Duration {
        let before = self.failures.get(subject).copied();
        if let Some((_, until)) = before
            && now < until
        {
            self.add_at(subject.clone(), until);
            return until - now;
        }
        let failures = before.map_or(0, |(failures, _)| failures);
        let pause = FIRST_BACKOFF
            .saturating_mul(1 << failures.min(16))
            .min(longest);
        let pause = pause + pause.mul_f64(self.jitter.random_range(0.0..0.25));
        let state = (failures.saturating_add(1), now + pause);
        self.failures.insert(subject.clone(), state);
        self.add_at(subject.clone(), now + pause);
        pause
    }

    /// Forgets a subject that no longer exists.
    pub(crate) fn drop_subject(&mut self, subject: &Subject) {
        self.failures.remove(subject);
        if let Some(at) = self.alarm_of.remove(subject) {
            self.alarms.remove(&(at, subject.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Key;

    const LONGEST: Duration = Duration::from_secs(30);

    fn job(name: &str) -> Subject {
        Subject::Job(Key::new("default", name))
    }

    #[test]
    fn a_subject_is_ready_once_and_in_order() {
        let mut queue = WorkQueue::new(1);
        for name in ["b", "a", "b"] {
            queue.add(job(name));
        }
        assert_eq!(queue.pop(), Some(job("b")));
        assert_eq!(queue.pop(), Some(job("a")));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_held_subject_waits_for_all_its_answers() {
        let mut queue = WorkQueue::new(1);
        queue.hold(job("a"), 2);
        queue.add(job("a"));
        queue.answered(&job("a"));
        assert_eq!(queue.pop(), None);
        queue.answered(&job("a"));
        assert_eq!(queue.pop(), Some(job("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_alarm_counts() {
        let mut queue = WorkQueue::new(1);
        let start = Instant::now();
        queue.add_at(job("a"), start + Duration::from_secs(9));
        queue.add_at(job("a"), start + Duration::from_secs(3));
        queue.add_at(job("a"), start + Duration::from_secs(5));
        assert_eq!(queue.next_alarm(), Some(start + Duration::from_secs(3)));
        queue.wake(start + Duration::from_secs(3));
        assert_eq!(queue.pop(), Some(job("a")));
        assert_eq!(queue.next_alarm(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_bound_and_start_over_after_success() {
        let mut queue = WorkQueue::new(1);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let pause = queue.back_off(&job("a"), now, LONGEST);
            assert_eq!(
                queue.back_off(&job("a"), now, LONGEST),
                pause,
                "one cause, one pause"
            );
            now += pause;
            pauses.push(pause);
        }
        assert!(pauses[0] >= FIRST_BACKOFF && pauses[0] < FIRST_BACKOFF * 2);
        assert!(pauses[3] > pauses[0]);
        assert!(pauses[19] <= LONGEST.mul_f64(1.25));
        queue.forget(&job("a"));
        assert!(queue.back_off(&job("a"), now, LONGEST) < FIRST_BACKOFF * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_pauses() {
        let now = Instant::now();
        let pauses = |seed| {
            let mut queue = WorkQueue::new(seed);
            let mut at = now;
            for _ in 0..5 {
                at += queue.back_off(&job("a"), at, LONGEST);
            }
            at - now
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }
}
