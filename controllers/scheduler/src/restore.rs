//! What a cluster that starts anew is told of the one before, beside its jobs and nodes: who had waited since when, and what was
//! kept. It then decides as that one would have.

use crate::cluster::Cluster;
use crate::fit;
use crate::input::{BoundJob, JobUid, Millis};
use crate::keep::only;
use crate::reserve::Reservation;
use crate::timeline;

impl Cluster {
    /// Restores a reservation that was decided before, for example by this process before it was started again. False when
    /// the job does not wait.
    pub fn restore_reservation(&mut self, job: &JobUid, reservation: Reservation) -> bool {
        if self.waiting_job(job).is_none() || reservation.slots.is_empty() {
            return false;
        }
        self.version += 1;
        self.holds.insert(job, reservation, None);
        self.holds.restored.insert(job.clone());
        true
    }

    /// Finds out who must leave the slots that were restored: what is written of them does not say all of it.
    pub(crate) fn complete_restored(&mut self, now: Millis) {
        let restored = std::mem::take(&mut self.holds.restored);
        let is_nominated = |uid: &JobUid| {
            let hold = self.holds.of(uid);
            hold.is_some_and(|hold| hold.nominated.is_some())
        };
        // Those whose victims are gone for whoever comes after them.
        let (first, rest): (Vec<JobUid>, Vec<JobUid>) =
            restored.into_iter().partition(is_nominated);
        for uid in first.into_iter().chain(rest) {
            let Some((job, hold)) = self.waiting_job(&uid).zip(self.holds.of(&uid)) else {
                continue;
            };
            let displaces = |bound: &BoundJob| self.may_take_back(job, bound);
            let outlook = self.outlook(&displaces, now);
            let known = &hold.reservation.waits_for;
            let in_the_way = hold.reservation.slots.iter().filter_map(|slot| {
                let (name, state) = self.nodes.get_key_value(&slot.node)?;
                let needs = &self.waiting_job(&slot.job)?.requirements;
                let state = self.with_those_before(job, name, state, now);
                let rest = timeline::without(&state, |bound| known.contains(&bound.uid));
                timeline::opening_if(&rest, &outlook, |then| {
                    fit::fit(needs, name, &only(then, &slot.gpus)).map(|_| ())
                })
            });
            let more: Vec<JobUid> = in_the_way.flat_map(|opening| opening.waits_for).collect();
            if let Some(hold) = self.holds.of_mut(&uid) {
                let waits_for = &mut hold.reservation.waits_for;
                waits_for.extend(more);
                waits_for.sort_unstable();
                waits_for.dedup();
            }
        }
    }

    /// Since when nodes have kept a waiting job from being placed, and all others that need the same; `None` when they do not,
    /// or nobody has looked yet.
    pub fn waits_since(&self, job: &JobUid) -> Option<Millis> {
        let class = self.pending.classes.get(&self.class_of(job)?)?;
        class.waits_since
    }

    /// Restores since when nodes have kept a job waiting, as [`Cluster::waits_since`] told it, for a cluster that starts anew:
    /// so it is entitled to a reservation when it would have been. The earliest counts of what is said of jobs that need the
    /// same. False when the job does not wait.
    pub fn restore_wait(&mut self, job: &JobUid, since: Millis) -> bool {
        let Some(id) = self.class_of(job) else {
            return false;
        };
        let after = self.settings.reserve_after;
        if self.settings.reservations > 0
            && let Some(class) = self.pending.classes.get_mut(&id)
            && class.waits_since.is_none_or(|known| since < known)
        {
            let soon = &mut self.holds.entitled.soon;
            if let Some(known) = class.waits_since.replace(since) {
                soon.remove(&(known.plus(after), id));
            }
            soon.insert((since.plus(after), id));
        }
        true
    }
}
