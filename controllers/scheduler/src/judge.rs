//! Keeps the reasons that told jobs know true while things change.
//!
//! The class of a reason is what is stored with a job, so it must follow what happens. It is judged again for the classes
//! of jobs that waited longest for that, and no more in one call than is paid for with a bounded number of looks at
//! nodes; with very many kinds of waiting jobs the stored class of a reason may therefore lag behind. What is said when
//! somebody asks is always computed then.

use std::cmp::Ordering;

use crate::cluster::Cluster;
use crate::input::{Job, NodeName};
use crate::pending::{Blocked, ClassId, Known};
use crate::reserve::Views;

/// Looks at single nodes in one call.
const LOOKS: usize = 256;
/// A look at the whole fleet reads so many nodes in the time of one single look.
const NODES_A_LOOK: usize = 8;
/// Changed nodes that are looked at one by one; beyond that the whole fleet is looked at.
const FEW_NODES: usize = 64;

impl Cluster {
    /// Judges reasons again that may be others by now. True when a class was found that no node could ever run: it is due.
    pub(crate) fn judge_reasons(&mut self) -> bool {
        let mut looks = LOOKS;
        let mut due = false;
        let mut views = Views::default();
        while looks > 0
            && let Some((at, id)) = self.pending.judged.first().copied()
            && at < self.epoch
        {
            let (cost, never) = self.judge_reason(id, at, &mut views);
            due |= never;
            if never {
                self.pending.unblock(id);
            } else {
                self.pending.set_judged(id, self.epoch);
            }
            looks = looks.saturating_sub(cost);
        }
        due
    }

    /// Judges the reason of a class again that was judged after an event. What that cost, and could no node ever run it?
    fn judge_reason(&mut self, id: ClassId, judged: u64, views: &mut Views) -> (usize, bool) {
        let Some(class) = self.pending.classes.get(&id) else {
            return (1, false);
        };
        let (key, blocked, known) = (class.key.clone(), class.blocked, class.reason.clone());
        let first = class.jobs.first().map(|place| place.uid.clone());
        let job = first.as_ref().and_then(|uid| self.waiting_job(uid));
        let whole = 1 + self.nodes.len() / NODES_A_LOOK;
        let mut cost = 1;
        if self.settled && class.possible != Some(self.shape) {
            cost += whole;
            let never = match job {
                Some(job) => self.never_job(job),
                None => self.never(&key.requirements),
            };
            if never.is_some() {
                return (cost, true);
            }
            if job.is_none_or(|job| self.is_complete(job)) {
                self.pending.set_possible(id, self.shape);
            }
        }
        let Some(known) = known else {
            // It is judged when it is told.
            return (cost, false);
        };
        let Some(job) = first.and_then(|uid| self.waiting_job(&uid)) else {
            return (cost, false);
        };
        if let Some(why) = self.kept_back(job, self.now) {
            if blocked == Some(Blocked::ByNodes) {
                self.kept_by_queue(id, &why);
            }
            self.pending.set_reason(id, why.known());
            return (cost, false);
        }
        if blocked == Some(Blocked::ByQueue) {
            return (cost, false);
        }
        let mut news = judged < self.reasons_at;
        if !news {
            let changed = self.freed.range(judged + 1..).map(|(_, name)| name);
            for (at, name) in changed.enumerate() {
                cost += 1;
                news = at == FEW_NODES || self.is_news(job, &known, name, views);
                if news {
                    break;
                }
            }
        }
        if news {
            cost += whole;
            let why = self.node_reason_seen(job, self.now, views);
            self.pending.set_reason(id, why.known());
        }
        (cost, false)
    }

    /// May what a node says now change the reason that is known? It does not when it fails for the same class of reasons, or
    /// for a farther one while the node that the reason is judged by is another.
    fn is_news(&self, job: &Job, known: &Known, name: &NodeName, views: &mut Views) -> bool {
        let pin = &job.requirements.node_name;
        if pin.as_ref().is_some_and(|pin| pin != name) {
            return false;
        }
        let Some(state) = self.nodes.get(name) else {
            return true;
        };
        match self.fit_beside(job, name, state, self.now, views) {
            Ok(_) => false,
            Err(misfit) => match misfit.class().cmp(&known.class) {
                Ordering::Equal => false,
                Ordering::Greater => true,
                Ordering::Less => known.judged_by.as_ref().is_none_or(|by| by == name),
            },
        }
    }
}
