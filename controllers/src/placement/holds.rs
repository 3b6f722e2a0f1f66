//! What the core keeps for waiting jobs, reservations and nominations, as their status shall say it. Pure.
//!
//! The core decides what is kept, and that is in force at once; what is written serves people, the preemption controller, and
//! the next process. So what is wanted is remembered by job, and written until the job says it: a conflict or a lost answer
//! changes nothing in the core.
//!
//! What is kept for a gang is one thing to the core, under the name of its first member; here each member says its own slot,
//! and all are restored together.

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
    /// The members of a gang that something is kept for, by the job in whose name it is.
    together: BTreeMap<Key, BTreeSet<Key>>,
}

impl Holds {
    /// What the core keeps by a reservation in the name of a job: for it, and for the members of its gang.
    pub(super) fn reserve(&mut self, lead: &Key, slots: Vec<(Key, Reservation)>) {
        for key in self.members(lead, slots.iter().map(|(key, _)| key)) {
            self.kept.entry(key.clone()).or_default().reservation = None;
            self.unsaid.insert(key);
        }
        for (key, reservation) in slots {
            self.kept.entry(key.clone()).or_default().reservation = Some(reservation);
            self.unsaid.insert(key);
        }
    }

    /// What the core keeps in the name of a job while others leave: for it, and for the members of its gang.
    pub(super) fn nominate(&mut self, lead: &Key, slots: Vec<(Key, Nomination)>) {
        for key in self.members(lead, slots.iter().map(|(key, _)| key)) {
            self.kept.entry(key.clone()).or_default().nomination = None;
            self.unsaid.insert(key);
        }
        for (key, nomination) in slots {
            self.kept.entry(key.clone()).or_default().nomination = Some(nomination);
            self.unsaid.insert(key);
        }
    }

    /// Those for whom something is or was kept in the name of a job, once these are among them.
    fn members<'a>(&mut self, lead: &Key, more: impl Iterator<Item = &'a Key>) -> BTreeSet<Key> {
        let others: BTreeSet<Key> = more.filter(|key| *key != lead).cloned().collect();
        let mut all = BTreeSet::from([lead.clone()]);
        if !others.is_empty() {
            let known = self.together.entry(lead.clone()).or_default();
            known.extend(others);
        }
        all.extend(self.together.get(lead).into_iter().flatten().cloned());
        all
    }

    /// The job in whose name something is kept for this one.
    pub(super) fn lead_of(&self, key: &Key) -> Key {
        let mut gangs = self.together.iter();
        let found = gangs.find(|(_, members)| members.contains(key));
        found.map_or(key, |(lead, _)| lead).clone()
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

    /// A job waits no more; its next status says nothing of what was kept. What was kept in its name is over.
    pub(super) fn remove(&mut self, key: &Key) {
        if self.together.contains_key(key) {
            self.reserve(key, Vec::new());
            self.nominate(key, Vec::new());
            self.together.remove(key);
        }
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

/// What the status of a waiting job says is kept for it is kept again: of one job, or of all members of a gang that have no
/// node. Answers whether a reservation and a nomination are in force now; nothing is for jobs that do not wait, or that the
/// core says cannot have it.
pub(super) fn restore(cluster: &mut Cluster, unit: &[&Job], now: Timestamp) -> (bool, bool) {
    let Some(first) = unit.first() else {
        return (false, false);
    };
    let waits = |job: &&Job| cluster.job_state(&job_uid(job)) == Some(JobState::Pending);
    let together = cluster.together(&job_uid(first));
    if !unit.iter().all(waits) || together.len() != unit.len() {
        return (false, false);
    }
    let Some(lead) = together.into_iter().next() else {
        return (false, false);
    };
    let now = Millis(now.as_millisecond());
    let reserved = restored_reservation(unit)
        .is_some_and(|reservation| cluster.restore_reservation(&lead, reservation));
    let nominated = restored_nomination(unit, now)
        .is_some_and(|nomination| cluster.nominate(&lead, nomination));
    (reserved, nominated)
}

/// The reservation that a job's status says.
pub(super) fn said_reservation(job: &Job) -> Option<&Reservation> {
    job.status.as_ref()?.waiting.as_ref()?.reservation.as_ref()
}

/// The nomination that a job's status says.
pub(super) fn said_nomination(job: &Job) -> Option<&Nomination> {
    job.status.as_ref()?.nomination.as_ref()
}

/// The reservation that these jobs say, as the core knows it.
fn restored_reservation(unit: &[&Job]) -> Option<scheduler::Reservation> {
    let known: Option<Vec<_>> = unit
        .iter()
        .map(|job| Some((job_uid(job), said_reservation(job)?)))
        .collect();
    let known = known?;
    let times = known.iter().map(|(_, one)| one.not_later_than.as_ref());
    let times: Option<Vec<_>> = times.collect();
    let latest = times.and_then(|times| times.into_iter().map(|time| time.0).max());
    let slots = known
        .iter()
        .map(|(id, one)| slot(id, &one.node_name, &one.gpus));
    Some(scheduler::Reservation {
        slots: slots.collect(),
        not_later_than: latest.map(|time| Millis(time.as_millisecond())),
        waits_for: Vec::new(),
    })
}

/// The nomination that these jobs say, as the core knows it.
fn restored_nomination(unit: &[&Job], now: Millis) -> Option<scheduler::Nomination> {
    let known: Option<Vec<_>> = unit
        .iter()
        .map(|job| Some((job_uid(job), said_nomination(job)?)))
        .collect();
    let known = known?;
    let expiries = known.iter().filter_map(|(_, one)| one.expires_at.as_ref());
    let expires = expiries.map(|time| Millis(time.0.as_millisecond())).max();
    let victims = known.iter().flat_map(|(_, one)| &one.victims);
    let victims: BTreeSet<JobUid> = victims
        .map(|victim| JobUid::from(victim.uid.as_str()))
        .collect();
    let slots = known
        .iter()
        .map(|(id, one)| slot(id, &one.node_name, &one.gpus));
    Some(scheduler::Nomination {
        slots: slots.collect(),
        victims: victims.into_iter().collect(),
        expires: expires.unwrap_or(now),
    })
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

/// Since when a job has waited for nodes, as its status says it: so its turn to have a reservation does not move when this
/// process starts anew. Others that need the same and were placed since then are not known; they count for nothing.
pub(super) fn restore_wait(cluster: &mut Cluster, job: &Job) {
    let waiting = job.status.as_ref().and_then(|s| s.waiting.as_ref());
    if let Some(since) = waiting.and_then(|waiting| waiting.since.as_ref()) {
        cluster.restore_wait(&job_uid(job), Millis(since.0.as_millisecond()));
    }
}

/// The API says whole seconds; what is promised for the middle of one is promised for its end.
pub(super) fn whole_second(time: Millis) -> Time {
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
        holds.reserve(&key(), vec![(key(), first)]);
        let said = due(&mut holds, &waiting()).unwrap();
        let held = said.status.as_ref().unwrap().waiting.clone().unwrap();
        assert_eq!(held.reason, "InsufficientVram");
        assert_eq!(held.reservation.unwrap().not_later_than, Some(Time(at(2))));
        holds.on_answer(&key(), false);
        holds.on_change(&key(), None, &said);
        assert_eq!(due(&mut holds, &said), None);
        holds.reserve(&key(), Vec::new());
        let over = due(&mut holds, &said).unwrap();
        let waiting = over.status.as_ref().unwrap().waiting.as_ref();
        assert_eq!(waiting.unwrap().reservation, None);
    }

    #[test]
    fn a_write_that_failed_is_made_again_and_two_are_never_under_way() {
        let mut holds = Holds::default();
        let kept = nomination("1".to_owned(), &slot_of("GPU-1"), Vec::new(), Millis(9000));
        holds.nominate(&key(), vec![(key(), kept)]);
        assert!(due(&mut holds, &waiting()).is_some());
        let more = reservation(&slot_of("GPU-1"), None);
        holds.reserve(&key(), vec![(key(), more)]);
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
        holds.nominate(&key(), vec![(key(), kept)]);
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
        let victim = Victim {
            uid: "uid-of-v".to_owned(),
            ..Victim::default()
        };
        let told = |name: &str, gpu: &str, until: i64| {
            let id = JobUid::from(format!("uid-of-{name}"));
            let here = slot(&id, "n", &[gpu.to_owned()]);
            let told = job(name).status(|status| {
                status.waiting = Some(Waiting {
                    reservation: Some(reservation(&here, Some(Millis(until)))),
                    ..Waiting::default()
                });
                let victims = vec![victim.clone()];
                let kept = nomination("1".to_owned(), &here, victims, Millis(until));
                status.nomination = Some(kept);
            });
            (told.build(), here)
        };
        let ((a, here), (b, there)) = (told("a", "GPU-1", 4000), told("b", "GPU-2", 6000));
        let back = restored_reservation(&[&a]).unwrap();
        assert_eq!(back.slots, std::slice::from_ref(&here));
        assert_eq!(back.not_later_than, Some(Millis(4000)));
        let back = restored_nomination(&[&a, &b], Millis(0)).unwrap();
        assert_eq!(back.slots, [here, there]);
        assert_eq!(back.victims, [JobUid::from("uid-of-v")]);
        assert_eq!(back.expires, Millis(6000));
        let without = job("c").status(|_| ()).build();
        assert_eq!(restored_reservation(&[&a, &without]), None);
    }

    #[test]
    fn what_is_kept_for_a_gang_is_said_by_each_member_and_given_up_by_all() {
        let other = Key::new("default", "b");
        let mut holds = Holds::default();
        let kept = |gpu| nomination("1".to_owned(), &slot_of(gpu), Vec::new(), Millis(9000));
        let slots = vec![(key(), kept("GPU-1")), (other.clone(), kept("GPU-2"))];
        holds.nominate(&key(), slots);
        assert!(holds.is_nominated(&key()) && holds.is_nominated(&other));
        assert_eq!(holds.lead_of(&other), key());
        holds.nominate(&key(), Vec::new());
        assert!(!holds.is_nominated(&other));
        holds.reserve(
            &key(),
            vec![(other.clone(), reservation(&slot_of("GPU-2"), None))],
        );
        assert!(holds.keeps(&other));
        holds.remove(&key());
        assert!(
            !holds.keeps(&other),
            "nothing is kept but in the name of the first"
        );
        assert_eq!(holds.lead_of(&other), other);
    }
}
