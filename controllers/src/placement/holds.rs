//! What the core keeps for waiting jobs, reservations and nominations, as their status shall say it. Pure.
//!
//! The core decides what is kept, and that is in force at once; what is written serves people, the preemption controller, and
//! the next process. So what is wanted is remembered by job, and written until the job says it: a conflict or a lost answer
//! changes nothing in the core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::Job;
use crds::job_status::{Nomination, Reservation, Victim};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use scheduler::{Cluster, JobState, JobUid, Millis, NodeName, Slot};

use super::convert::job_uid;
use crate::shell::{Key, Op};

/// What is kept for one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    reservation: Option<Reservation>,
    nomination: Option<Nomination>,
}

/// What is kept, and whose status does not say so yet.
#[derive(Debug, Default)]
pub(super) struct Holds {
    kept: BTreeMap<Key, Kept>,
    unsaid: BTreeSet<Key>,
    in_flight: BTreeSet<Key>,
}

impl Holds {
    /// What the core keeps for a job by a reservation.
    pub(super) fn reserve(&mut self, key: &Key, reservation: Option<Reservation>) {
        self.kept.entry(key.clone()).or_default().reservation = reservation;
        self.unsaid.insert(key.clone());
    }

    /// What the core keeps for a job while others leave.
    pub(super) fn nominate(&mut self, key: &Key, nomination: Option<Nomination>) {
        self.kept.entry(key.clone()).or_default().nomination = nomination;
        self.unsaid.insert(key.clone());
    }

    /// The reservation of a job, for a write of something else.
    pub(super) fn reservation(&self, key: &Key) -> Option<&Reservation> {
        self.kept.get(key)?.reservation.as_ref()
    }

    /// Is anything kept for the job?
    pub(super) fn keeps(&self, key: &Key) -> bool {
        let kept = self.kept.get(key);
        kept.is_some_and(|kept| kept.reservation.is_some() || kept.nomination.is_some())
    }

    /// Are others made to leave for the job?
    pub(super) fn is_nominated(&self, key: &Key) -> bool {
        let kept = self.kept.get(key);
        kept.is_some_and(|kept| kept.nomination.is_some())
    }

    /// A job waits no more; its next status says nothing of what was kept.
    pub(super) fn remove(&mut self, key: &Key) {
        self.kept.remove(key);
        self.unsaid.remove(key);
    }

    /// A job has changed. True when somebody else has withdrawn its nomination, which the core does not know.
    pub(super) fn on_change(&mut self, key: &Key, before: Option<&Job>, job: &Job) -> bool {
        let Some(kept) = self.kept.get_mut(key) else {
            return false;
        };
        let said = |job: &Job| job.status.as_ref().and_then(|s| s.nomination.clone());
        let withdrawn = kept.nomination.is_some()
            && said(job).is_none()
            && before.and_then(said) == kept.nomination;
        if withdrawn {
            *kept = Kept::default();
        }
        self.unsaid.insert(key.clone());
        withdrawn
    }

    /// The writes that are due. `job` gives the job of a key, if it waits.
    pub(super) fn take_due<'a>(&mut self, job: impl Fn(&Key) -> Option<&'a Arc<Job>>) -> Vec<Op> {
        let mut ops = Vec::new();
        for key in std::mem::take(&mut self.unsaid) {
            if self.in_flight.contains(&key) {
                self.unsaid.insert(key);
                continue;
            }
            let op = self
                .kept
                .get(&key)
                .zip(job(&key))
                .and_then(|(kept, job)| said(job, kept));
            if op.is_some() {
                self.in_flight.insert(key);
                ops.extend(op);
            } else if !self.keeps(&key) {
                self.kept.remove(&key);
            }
        }
        ops
    }

    /// A write for a job was answered. True when it was one of these; it is tried again when it failed.
    pub(super) fn on_answer(&mut self, key: &Key, failed: bool) -> bool {
        let ours = self.in_flight.remove(key);
        if ours && failed {
            self.unsaid.insert(key.clone());
        }
        ours
    }

    /// Is anything still to be written?
    pub(super) fn is_waiting(&self) -> bool {
        !self.unsaid.is_empty()
    }
}

/// The write that lets a status say what is kept; nothing when it does. A reservation is a part of why the job waits, so it is
/// said together with that.
fn said(job: &Arc<Job>, kept: &Kept) -> Option<Op> {
    let mut next = job.status.clone()?;
    if let Some(waiting) = &mut next.waiting {
        waiting.reservation.clone_from(&kept.reservation);
    }
    next.nomination.clone_from(&kept.nomination);
    Op::job_status(job, next)
}

/// A reservation as a status says it.
pub(super) fn reservation(slot: &Slot, not_later_than: Option<Millis>) -> Reservation {
    Reservation {
        node_name: slot.node.as_str().to_owned(),
        gpus: names(slot),
        not_later_than: not_later_than.map(whole_second),
    }
}

/// A nomination as a status says it.
pub(super) fn nomination(
    id: String,
    slot: &Slot,
    victims: Vec<Victim>,
    expires: Millis,
) -> Nomination {
    Nomination {
        id,
        node_name: slot.node.as_str().to_owned(),
        gpus: names(slot),
        victims,
        expires_at: Some(whole_second(expires)),
    }
}

/// What the status of a waiting job says is kept for it is kept again. Answers with what that is; nothing of a job that does
/// not wait, or that the core says cannot have it.
pub(super) fn restore(
    cluster: &mut Cluster,
    job: &Job,
    now: Timestamp,
) -> (Option<Reservation>, Option<Nomination>) {
    let id = job_uid(job);
    if cluster.job_state(&id) != Some(JobState::Pending) {
        return (None, None);
    }
    let status = job.status.as_ref();
    let waiting = status.and_then(|status| status.waiting.as_ref());
    let reservation = waiting.and_then(|waiting| waiting.reservation.clone());
    let reservation = reservation
        .filter(|known| cluster.restore_reservation(&id, restored_reservation(&id, known)));
    let now = Millis(now.as_millisecond());
    let nomination = status.and_then(|status| status.nomination.clone());
    let nomination =
        nomination.filter(|known| cluster.nominate(&id, restored_nomination(&id, known, now)));
    (reservation, nomination)
}

/// A reservation that a status says, as the core knows it.
fn restored_reservation(job: &JobUid, reservation: &Reservation) -> scheduler::Reservation {
    let until = reservation.not_later_than.as_ref();
    scheduler::Reservation {
        slots: vec![slot(job, &reservation.node_name, &reservation.gpus)],
        not_later_than: until.map(|time| Millis(time.0.as_millisecond())),
        waits_for: Vec::new(),
    }
}

/// A nomination that a status says, as the core knows it.
fn restored_nomination(
    job: &JobUid,
    nomination: &Nomination,
    now: Millis,
) -> scheduler::Nomination {
    let expires = nomination.expires_at.as_ref();
    scheduler::Nomination {
        slots: vec![slot(job, &nomination.node_name, &nomination.gpus)],
        victims: nomination
            .victims
            .iter()
            .map(|victim| JobUid::from(victim.uid.as_str()))
            .collect(),
        expires: expires.map_or(now, |time| Millis(time.0.as_millisecond())),
    }
}

fn slot(job: &JobUid, node: &str, gpus: &[String]) -> Slot {
    Slot {
        job: job.clone(),
        node: NodeName::from(node),
        gpus: gpus.iter().map(|gpu| gpu.as_str().into()).collect(),
    }
}

fn names(slot: &Slot) -> Vec<String> {
    let gpus = slot.gpus.iter();
    gpus.map(|gpu| gpu.as_str().to_owned()).collect()
}

/// The API says whole seconds; what is promised for the middle of one is promised for its end.
fn whole_second(time: Millis) -> Time {
    let seconds = time.0.div_euclid(1000) + i64::from(time.0.rem_euclid(1000) > 0);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use crds::job_status::Waiting;

    use super::*;
    use crate::shell::Plan;
    use crate::shell::testing::{applied, at, job};

    fn slot_of(gpu: &str) -> Slot {
        slot(&JobUid::from("uid-of-a"), "n", &[gpu.to_owned()])
    }

    fn waiting() -> Arc<Job> {
        let told = job("a").status(|status| {
            status.waiting = Some(Waiting {
                reason: "InsufficientVram".to_owned(),
                ..Waiting::default()
            });
        });
        told.build()
    }

    fn due(holds: &mut Holds, job: &Arc<Job>) -> Option<Arc<Job>> {
        let ops = holds.take_due(|_| Some(job));
        let op = ops.into_iter().next()?;
        applied(&Plan::of(op))
    }

    fn key() -> Key {
        Key::new("default", "a")
    }

    #[test]
    fn a_reservation_is_said_once_and_again_when_it_changes() {
        let mut holds = Holds::default();
        let first = reservation(&slot_of("GPU-1"), Some(Millis(1500)));
        holds.reserve(&key(), Some(first.clone()));
        let said = due(&mut holds, &waiting()).unwrap();
        let held = said.status.as_ref().unwrap().waiting.clone().unwrap();
        assert_eq!(held.reason, "InsufficientVram");
        assert_eq!(held.reservation.unwrap().not_later_than, Some(Time(at(2))));
        holds.on_answer(&key(), false);
        holds.on_change(&key(), None, &said);
        assert_eq!(due(&mut holds, &said), None);
        holds.reserve(&key(), None);
        let over = due(&mut holds, &said).unwrap();
        let waiting = over.status.as_ref().unwrap().waiting.as_ref();
        assert_eq!(waiting.unwrap().reservation, None);
    }

    #[test]
    fn a_write_that_failed_is_made_again_and_two_are_never_under_way() {
        let mut holds = Holds::default();
        let kept = nomination("1".to_owned(), &slot_of("GPU-1"), Vec::new(), Millis(9000));
        holds.nominate(&key(), Some(kept));
        assert!(due(&mut holds, &waiting()).is_some());
        holds.reserve(&key(), Some(reservation(&slot_of("GPU-1"), None)));
        assert_eq!(due(&mut holds, &waiting()), None);
        assert!(holds.is_waiting());
        assert!(holds.on_answer(&key(), true));
        assert!(due(&mut holds, &waiting()).is_some());
        assert!(!holds.on_answer(&Key::new("default", "b"), false));
    }

    #[test]
    fn a_nomination_that_somebody_withdrew_is_known_as_such() {
        let mut holds = Holds::default();
        let kept = nomination("1".to_owned(), &slot_of("GPU-1"), Vec::new(), Millis(9000));
        holds.nominate(&key(), Some(kept));
        let without = waiting();
        assert!(!holds.on_change(&key(), None, &without), "not said yet");
        let with = due(&mut holds, &without).unwrap();
        holds.on_answer(&key(), false);
        assert!(!holds.on_change(&key(), Some(&without), &with));
        assert!(holds.on_change(&key(), Some(&with), &without));
        assert!(!holds.keeps(&key()));
    }

    #[test]
    fn what_is_said_is_restored_as_it_was() {
        let id = JobUid::from("uid-of-a");
        let said = reservation(&slot_of("GPU-1"), Some(Millis(4000)));
        let back = restored_reservation(&id, &said);
        assert_eq!(back.slots, [slot_of("GPU-1")]);
        assert_eq!(back.not_later_than, Some(Millis(4000)));
        let victim = Victim {
            uid: "uid-of-v".to_owned(),
            ..Victim::default()
        };
        let said = nomination(
            "1".to_owned(),
            &slot_of("GPU-2"),
            vec![victim],
            Millis(4000),
        );
        let back = restored_nomination(&id, &said, Millis(0));
        assert_eq!(back.slots, [slot_of("GPU-2")]);
        assert_eq!(back.victims, [JobUid::from("uid-of-v")]);
        assert_eq!(back.expires, Millis(4000));
    }
}
