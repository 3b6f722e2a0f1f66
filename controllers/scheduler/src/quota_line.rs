//! Quota that is kept for jobs which have waited long, so that nobody waits for ever behind later jobs of its own queue.
//!
//! A job that needs most of what its queue owns is never within the quota while small jobs of the queue come and go, and
//! what was freed for a job by stopping others is of no use to it once a later job has taken the rest of the quota. So a
//! quota is kept like slots: a job gets nothing of it that one before it in the order, in the same queue, would then lack
//! beside what the queue's jobs hold. Jobs before that one, other queues, and jobs that ask for nothing of what it lacks
//! are not concerned.
//!
//! **For whom.** For those for whom others are stopped; and for those that were queued
//! [`Settings::reserve_after`](crate::Settings) ago or earlier, ask for no more than the queue owns, and may fit a node that takes jobs
//! now: while their quota keeps them waiting, then for as long as nodes must have kept them before they are entitled to
//! a reservation, and while they have one. Who ends by its hard limit before a reservation begins may have the quota until then.
//! None of this is remembered: it follows from what waits, so that a cluster that starts anew decides the same.
//!
//! **The bound.** So a job that is the first of its queue waits for its quota no longer than the jobs that its queue runs.
//!
//! **Limits.** It is kept for some of the first only; a queue with very many who fit no node keeps nothing for those behind them.
//! Higher priorities go first, as everywhere.
//!
//! **Cost.** Nothing for queues without a quota and where nobody has waited long. Otherwise a try looks at the first few who
//! have, and whom only this keeps out is tried again in every pass.

use std::cmp::Reverse;

use crate::cluster::{Cluster, QueueEntry, Usage};
use crate::fit;
use crate::input::{Job, JobUid, Millis, QueueName, Quota};
use crate::order::Place;
use crate::pending::Class;
use crate::quota::{QuotaLimit, RESOURCES};
use crate::reserve::Hold;

/// Most jobs of a queue that quota is kept for, and most classes of a lane that are looked at for them.
const MOST: usize = 16;

/// Why quota is kept from a job.
pub(crate) struct KeptQuota {
    /// The first for whom it is kept.
    pub(crate) holder: JobUid,
    /// What that one asks for of the resource that is short.
    pub(crate) claimed: u64,
    /// What the job would take of it.
    pub(crate) limit: QuotaLimit,
}

/// Somebody for whom quota is kept.
struct Claimant<'a> {
    job: &'a Job,
    asked: Usage,
    /// Are others stopped for it?
    nominated: bool,
    /// When it starts at the latest; `None` when nobody knows.
    until: Option<Millis>,
}

/// What goes first among the jobs of one queue.
type Rank = (Reverse<i32>, Place);

impl Cluster {
    /// For whom a queue keeps quota from a job that asks for so much, with those that it starts with.
    pub(crate) fn quota_kept_from(
        &self,
        job: &Job,
        asked: Usage,
        now: Millis,
    ) -> Option<KeptQuota> {
        let queue = self.queue_with_a_line(&job.queue)?;
        let mut claimants = self.claimants_before(job, queue, now);
        // A job for which others are stopped already keeps what it was given then.
        if self.is_nominated(self.lead_of(job)) {
            claimants.retain(|one| one.nominated);
        }
        self.keeper(queue, &claimants, job, asked, now)
    }

    /// The most that is claimed before a job, of each resource.
    pub(crate) fn quota_claimed_before(&self, job: &Job, now: Millis) -> Usage {
        let Some(queue) = self.queue_with_a_line(&job.queue) else {
            return Usage::default();
        };
        let claimants = self.claimants_before(job, queue, now);
        let claims = claimants.iter().map(|one| claimed(&claimants, one));
        claims.fold(Usage::default(), |most, one| Usage {
            gpus: most.gpus.max(one.gpus),
            vram: most.vram.max(one.vram),
            cpu: most.cpu.max(one.cpu),
            jobs: most.jobs.max(one.jobs),
        })
    }

    /// A queue that may keep quota for some of its jobs.
    fn queue_with_a_line(&self, name: &QueueName) -> Option<&QueueEntry> {
        let queue = self.queues.get(name)?;
        (queue.state.quota != Quota::default() && self.settings.reservations > 0).then_some(queue)
    }

    /// Are others stopped for a job?
    fn is_nominated(&self, job: &Job) -> bool {
        let hold = self.holds.of(&job.uid);
        hold.is_some_and(|hold| hold.nominated.is_some())
    }

    fn rank(&self, job: &Job, now: Millis) -> Rank {
        let band = self.settings.band(job.priority, job.enqueued_micros, now);
        (Reverse(band), Place::of(job))
    }

    /// Those of a job's queue that quota is kept for and that come before it, in order.
    fn claimants_before<'a>(
        &'a self,
        job: &'a Job,
        queue: &QueueEntry,
        now: Millis,
    ) -> Vec<Claimant<'a>> {
        let mine = self.rank(self.lead_of(job), now);
        let mut found: Vec<Claimant<'a>> = Vec::new();
        for (_, one, class) in self.in_line(&job.queue, &mine, now) {
            let asked = self.asked_together(one);
            let hold = self.holds.of(&one.uid);
            let nominated = self.is_nominated(one);
            let mut until = None;
            if !nominated {
                if queue.state.quota.is_exceeded_by(asked) || !self.is_complete(one) {
                    continue;
                }
                let limited = self.quota_limit(queue, asked).is_some()
                    || self.keeper(queue, &found, one, asked, now).is_some();
                let after = self.settings.reserve_after;
                let since = class.waits_since;
                let soon = since.is_none_or(|since| now < since.plus(after));
                if !(limited || soon || hold.is_some()) || !self.may_fit_now(one) {
                    continue;
                }
                until = hold.filter(|_| !limited).and_then(Hold::until);
            }
            found.push(Claimant {
                job: one,
                asked,
                nominated,
                until,
            });
        }
        found
    }

    /// The first jobs of a queue before a place in the order that have waited long or that others are stopped for: of each
    /// class one, unless others are stopped for more.
    fn in_line(&self, name: &QueueName, before: &Rank, now: Millis) -> Vec<(Rank, &Job, &Class)> {
        let lanes = (name.clone(), i32::MIN)..=(name.clone(), i32::MAX);
        let pending = &self.pending;
        let lists = [&pending.by_queue, &pending.by_nodes, &pending.due];
        let lanes = lists.into_iter().flat_map(|list| list.range(lanes.clone()));
        let after = self.settings.reserve_after;
        let waited =
            |place: &Place| Millis(place.enqueued_micros.div_euclid(1000)).plus(after) <= now;
        let waiting = lanes.flat_map(|(_, classes)| {
            let first = classes.iter().take_while(|(place, _)| waited(place));
            first.take(MOST).map(|(place, _)| &place.uid)
        });
        let nominated = self.holds.all();
        let nominated = nominated.filter(|(_, hold)| hold.nominated.is_some());
        let all = waiting.chain(nominated.map(|(uid, _)| uid));
        let mut found: Vec<(Rank, &Job, &Class)> = all
            .filter_map(|uid| {
                let job = self.waiting_job(uid).filter(|job| job.queue == *name)?;
                let rank = self.rank(job, now);
                if rank >= *before || !self.leads(job) {
                    return None;
                }
                Some((rank, job, pending.classes.get(&self.class_of(uid)?)?))
            })
            .collect();
        found.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        found.dedup_by(|(one, ..), (other, ..)| one == other);
        found.truncate(MOST);
        found
    }

    /// The first of these that a job which asks for so much would take something from.
    fn keeper(
        &self,
        queue: &QueueEntry,
        claimants: &[Claimant<'_>],
        job: &Job,
        asked: Usage,
        now: Millis,
    ) -> Option<KeptQuota> {
        let ends = job.terms.limit.map(|limit| {
            let started = now.plus(self.settings.start_allowance);
            started.plus(limit).plus(job.terms.grace)
        });
        let harmed = claimants.iter().filter(|one| {
            let in_time = one
                .until
                .zip(ends)
                .is_some_and(|(until, ends)| ends <= until);
            !in_time
        });
        harmed.into_iter().find_map(|one| {
            let kept = claimed(claimants, one);
            RESOURCES
                .into_iter()
                .enumerate()
                .find_map(|(at, resource)| {
                    let (more, claimed) = (asked.resource(resource), one.asked.resource(resource));
                    let owned = queue.state.quota.of(resource)?;
                    if more == 0 || claimed == 0 {
                        return None;
                    }
                    let held = queue.used.resource(resource);
                    let after = held
                        .saturating_add(more)
                        .saturating_add(kept.resource(resource));
                    let borrowable = self.cohort.borrowable(at, queue, owned);
                    (after > owned.saturating_add(borrowable.unwrap_or(0))).then(|| KeptQuota {
                        holder: one.job.uid.clone(),
                        claimed,
                        limit: QuotaLimit {
                            resource,
                            held,
                            asked: more,
                            owned,
                            borrowable,
                        },
                    })
                })
        })
    }

    /// Is there a node for a job, or for each of its gang, that takes jobs now and that it may fit?
    fn may_fit_now(&self, job: &Job) -> bool {
        self.unit(job).into_iter().all(|one| {
            let needs = &one.requirements;
            let mut nodes = self.candidates(needs);
            nodes.any(|(name, state)| fit::may_fit(needs, name, state))
        })
    }
}

/// What is kept for one: what it asks for, and what those ask for that others are stopped for.
fn claimed(claimants: &[Claimant<'_>], one: &Claimant<'_>) -> Usage {
    let others = claimants
        .iter()
        .filter(|other| other.nominated && other.job.uid != one.job.uid);
    others.fold(one.asked, |sum, other| sum.plus(other.asked))
}
