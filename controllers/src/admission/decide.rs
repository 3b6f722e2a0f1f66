//! Decides what admission does with one job. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use crds::job_status::{Effective, Outcome, Waiting};
use crds::{Job, JobSpec, JobStatus, RELEASE_FINALIZER};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::resolve::Withheld;
use crate::array::IndexSet;
use crate::shell::{Op, Plan, has_finalizer, is_deleting, is_ended, member_index, with_finalizer};

/// What is known of a job.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Arc<Job>,
    /// The array or gang that it is a member of.
    pub(super) parent: Option<&'a Job>,
    /// What its spec resolves to.
    pub(super) resolved: Result<Effective, Withheld>,
    /// Its place in the queue, if it has none yet.
    pub(super) enqueue_time: Timestamp,
    pub(super) now: Timestamp,
}

pub(super) fn decide(observed: Observed<'_>) -> Plan {
    let job = observed.job;
    if is_deleting(job) || is_ended(job) {
        return Plan::nothing();
    }
    if !has_finalizer(job, RELEASE_FINALIZER) {
        return Plan::of(Op::JobFinalizers {
            base: job.clone(),
            next: with_finalizer(job, RELEASE_FINALIZER),
        });
    }
    Plan::of(Op::job_status(job, status(&observed)))
}

fn status(observed: &Observed<'_>) -> JobStatus {
    let job = observed.job;
    let mut next = job.status.clone().unwrap_or_default();
    let inherited = observed
        .parent
        .and_then(|parent| place_of_member(parent, job));
    next.enqueue_time = next
        .enqueue_time
        .or(inherited)
        .or(Some(MicroTime(observed.enqueue_time)));
    if let Some(index) = tallied_index(observed) {
        next.outcome = Some(Outcome::Cancelled);
        next.finish_time = Some(MicroTime(observed.now));
        next.waiting = None;
        next.message = Some(format!("index {index} of the array was run before"));
        return next;
    }
    let generation = job.metadata.generation;
    if next.binding.is_some() {
        let known = next.effective.as_ref().map(|effective| &effective.priority);
        let resolved = observed.resolved.as_ref().ok();
        let moved = resolved.is_some_and(|resolved| known != Some(&resolved.priority));
        if next.observed_generation == generation && !moved {
            return next;
        }
        next.observed_generation = generation;
        if let Ok(resolved) = &observed.resolved {
            next.effective = Some(keep_placement(next.effective.take(), resolved.clone()));
        }
        return next;
    }
    next.observed_generation = generation;
    match &observed.resolved {
        Ok(effective) => {
            next.effective = Some(effective.clone());
            let ours = |waiting: &Waiting| Withheld::REASONS.contains(&waiting.reason.as_str());
            next.waiting = next.waiting.filter(|waiting| !ours(waiting));
        }
        Err(withheld) => {
            next.effective = None;
            next.waiting = Some(Waiting {
                reason: withheld.reason().to_owned(),
                message: Some(withheld.to_string()),
                since: None,
                reservation: None,
            });
        }
    }
    next
}

/// The place in the queue of a member: that of its array or gang, and those of lower index before it.
fn place_of_member(parent: &Job, member: &Job) -> Option<MicroTime> {
    let place = parent.status.as_ref()?.enqueue_time.as_ref()?;
    let behind = jiff::SignedDuration::from_micros(i64::from(member_index(member).unwrap_or(0)));
    Some(
        place
            .0
            .checked_add(behind)
            .map_or_else(|_| place.clone(), MicroTime),
    )
}

/// The index of a member that its array has tallied already.
fn tallied_index(observed: &Observed<'_>) -> Option<u32> {
    let status = observed.job.status.as_ref();
    if status.is_some_and(|status| status.binding.is_some()) {
        return None;
    }
    let tallies = observed.parent?.status.as_ref()?.array.as_ref()?;
    let index = member_index(observed.job)?;
    let finished = IndexSet::parse(&tallies.finished).ok()?;
    finished.contains(index).then_some(index)
}

/// While a job is bound, its new spec changes only what does not rest on where it was placed.
fn keep_placement(before: Option<Effective>, resolved: Effective) -> Effective {
    let Some(before) = before else {
        return resolved;
    };
    Effective {
        priority: resolved.priority,
        preemptible: resolved.preemptible,
        on_preemption: resolved.on_preemption,
        on_node_lost: resolved.on_node_lost,
        fence_seconds: resolved.fence_seconds,
        fence_action: resolved.fence_action,
        termination_grace_period_seconds: resolved.termination_grace_period_seconds,
        active_deadline_seconds: resolved.active_deadline_seconds,
        pending_deadline_seconds: resolved.pending_deadline_seconds,
        ttl_seconds_after_finished: resolved.ttl_seconds_after_finished,
        ..before
    }
}

/// The spec that a job is resolved from. A member has the priority of its array or gang, so that a nudge of that moves what is
/// queued of it; a member that was edited after it was made has its own. `parents` is what it belongs to, the nearest first.
pub(super) fn in_force<'a>(job: &'a Job, parents: &[&Job]) -> Cow<'a, JobSpec> {
    let untouched = |job: &Job| job.metadata.generation.unwrap_or(1) <= 1;
    let line = std::iter::once(job).chain(parents.iter().copied());
    let mut edited = line.clone().skip_while(|job| untouched(job));
    let priority = edited.next().or(line.last()).map(|from| from.spec.priority);
    match priority.filter(|priority| *priority != job.spec.priority) {
        Some(priority) => Cow::Owned(JobSpec {
            priority,
            ..job.spec.clone()
        }),
        None => Cow::Borrowed(&job.spec),
    }
}

/// The place in the queue of a job that is seen for the first time: now, but not later than the second of its creation, so
/// that a job does not lose what it waited while no controller ran. Within one moment, those seen earlier come first.
pub(super) fn enqueue_time(
    now: Timestamp,
    created: Option<Timestamp>,
    last: Option<Timestamp>,
) -> Timestamp {
    let second = jiff::SignedDuration::from_secs(1);
    let tick = jiff::SignedDuration::from_micros(1);
    let latest = created.and_then(|created| created.checked_add(second - tick).ok());
    let time = latest.map_or(now, |latest| now.min(latest));
    // Times are written in microseconds, so they are compared in them.
    let time = Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time);
    match last {
        Some(last) if time <= last && last.duration_since(time) < second => {
            last.checked_add(tick).unwrap_or(time)
        }
        _ => time,
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use crds::Phase;
    use crds::job_status::{ArrayStatus, Source, Sourced};

    use super::super::resolve::resolve;
    use super::*;
    use crate::shell::testing::{applied, at, job, member_of};

    const NO_QUEUES: &[crds::Queue] = &[];

    fn observed<'a>(job: &'a Arc<Job>, parent: Option<&'a Job>) -> Observed<'a> {
        Observed {
            job,
            parent,
            resolved: resolve(&job.spec, NO_QUEUES, [].iter()),
            enqueue_time: at(5),
            now: at(6),
        }
    }

    /// Decides until there is nothing left to decide.
    fn settle(mut job: Arc<Job>, parent: Option<&Job>) -> (Arc<Job>, usize) {
        for writes in 0.. {
            let plan = decide(observed(&job, parent));
            match applied(&plan) {
                Some(next) => job = next,
                None => return (job, writes),
            }
            assert!(writes < 5, "the decision does not settle");
        }
        (job, 0)
    }

    #[test]
    fn a_new_job_is_resolved_in_one_write() {
        let (job, writes) = settle(job("a").build(), None);
        let status = job.status.as_ref().unwrap();
        assert_eq!(writes, 1);
        assert_eq!(status.phase, Some(Phase::Pending));
        assert_eq!(status.observed_generation, Some(1));
        assert_eq!(status.enqueue_time, Some(MicroTime(at(5))));
        assert!(status.effective.is_some());
    }

    #[test]
    fn a_job_without_the_release_finalizer_gets_it_first() {
        let (job, writes) = settle(job("a").finalizers(&["other"]).build(), None);
        assert_eq!(writes, 2);
        let finalizers = job.metadata.finalizers.clone().unwrap();
        assert_eq!(finalizers, ["other", RELEASE_FINALIZER]);
    }

    #[test]
    fn a_deleted_or_ended_job_is_left_alone() {
        let deleted = job("a").finalizers(&[]).deleting().build();
        assert_eq!(settle(deleted, None).1, 0);
        let ended = job("a")
            .finalizers(&[])
            .status(|status| status.outcome = Some(Outcome::Failed))
            .build();
        assert_eq!(settle(ended, None).1, 0);
    }

    #[test]
    fn a_withheld_job_says_why_and_is_resolved_once_it_can_be() {
        let mut spec = JobSpec {
            queue: Some("research".to_owned()),
            ..JobSpec::default()
        };
        let (withheld, _) = settle(job("a").spec(spec.clone()).build(), None);
        let status = withheld.status.as_ref().unwrap();
        assert_eq!(status.effective, None);
        assert_eq!(status.waiting.as_ref().unwrap().reason, "QueueNotFound");
        assert_eq!(status.phase, Some(Phase::Pending));
        spec.queue = None;
        let mut mended = Job::clone(&withheld);
        mended.spec = spec;
        mended.metadata.generation = Some(2);
        let (mended, writes) = settle(Arc::new(mended), None);
        let status = mended.status.as_ref().unwrap();
        assert_eq!(writes, 1);
        assert!(status.effective.is_some());
        assert_eq!(status.waiting, None);
    }

    #[test]
    fn a_reason_that_is_not_admission_s_stays() {
        let waiting = Waiting {
            reason: "InsufficientVram".to_owned(),
            ..Waiting::default()
        };
        let job = job("a")
            .status(|status| status.waiting = Some(waiting.clone()))
            .build();
        let (job, _) = settle(job, None);
        assert_eq!(job.status.as_ref().unwrap().waiting, Some(waiting));
    }

    #[test]
    fn a_bound_job_keeps_its_size_and_takes_its_new_limits() {
        let before = resolve(&JobSpec::default(), NO_QUEUES, [].iter()).unwrap();
        let spec = JobSpec {
            active_deadline_seconds: Some(60),
            resources: Some(crds::job::Resources {
                gpus: Some(8),
                ..Default::default()
            }),
            ..JobSpec::default()
        };
        let job = job("a").spec(spec).bound("n1").generation(2);
        let job = job.status(|status| status.effective = Some(before)).build();
        let (job, writes) = settle(job, None);
        let status = job.status.as_ref().unwrap();
        let effective = status.effective.as_ref().unwrap();
        assert_eq!(writes, 1);
        assert_eq!(effective.gpus.value, 0);
        let limit = Sourced {
            value: 60,
            source: Source::Job,
        };
        assert_eq!(effective.active_deadline_seconds, Some(limit));
        assert_eq!(status.observed_generation, Some(2));
    }

    #[test]
    fn a_nudge_moves_a_job_and_leaves_it_its_place_among_equals() {
        let (queued, _) = settle(job("a").build(), None);
        let before = queued.status.clone().unwrap();
        let mut nudged = Job::clone(&queued);
        nudged.spec.priority = Some(40);
        nudged.metadata.generation = Some(2);
        let (nudged, writes) = settle(Arc::new(nudged), None);
        let status = nudged.status.as_ref().unwrap();
        assert_eq!(writes, 1);
        assert_eq!(status.effective.as_ref().unwrap().priority.value, 40);
        assert_eq!(status.enqueue_time, before.enqueue_time);
        assert_eq!(status.phase, Some(Phase::Pending));
    }

    #[test]
    fn a_new_base_priority_of_the_queue_reaches_waiting_and_running_jobs() {
        let mut queue = crds::Queue::new("default", crds::QueueSpec::default());
        queue.spec.priority = Some(70);
        for builder in [job("a"), job("a").running("n1")] {
            let (known, _) = settle(builder.build(), None);
            let plan = decide(Observed {
                resolved: resolve(&known.spec, slice::from_ref(&queue), [].iter()),
                ..observed(&known, None)
            });
            let moved = applied(&plan).unwrap();
            let effective = moved.status.as_ref().unwrap().effective.as_ref().unwrap();
            assert_eq!(effective.priority.value, 70);
        }
    }

    #[test]
    fn a_member_follows_its_array_until_it_is_nudged_itself() {
        let mut spec = JobSpec {
            priority: Some(5),
            ..JobSpec::default()
        };
        let member = |parent: &Job, spec: &JobSpec| member_of(parent, 3).spec(spec.clone());
        let parent = job("p").spec(spec.clone()).build();
        let own = member(&parent, &spec).build();
        spec.priority = Some(90);
        let nudged = job("p").spec(spec.clone()).build();
        assert_eq!(in_force(&own, &[&nudged]).priority, Some(90));
        spec.priority = Some(-3);
        let edited = member(&parent, &spec).generation(2).build();
        assert_eq!(in_force(&edited, &[&nudged]).priority, Some(-3));
        assert_eq!(in_force(&own, &[]).priority, Some(5));
    }

    #[test]
    fn a_member_inherits_the_place_in_the_queue_of_its_array_behind_those_of_lower_index() {
        let parent = job("p")
            .status(|status| status.enqueue_time = Some(MicroTime(at(1))))
            .build();
        let place = |index| {
            let (member, _) = settle(member_of(&parent, index).build(), Some(&parent));
            member
                .status
                .as_ref()
                .unwrap()
                .enqueue_time
                .clone()
                .unwrap()
                .0
        };
        assert_eq!(place(0), at(1));
        let micros = jiff::SignedDuration::from_micros(3);
        assert_eq!(place(3), at(1).checked_add(micros).unwrap());
    }

    #[test]
    fn a_member_whose_index_was_tallied_never_runs() {
        let parent = job("p")
            .status(|status| {
                status.array = Some(ArrayStatus {
                    finished: "0-3".to_owned(),
                    ..ArrayStatus::default()
                });
            })
            .build();
        let (twin, _) = settle(member_of(&parent, 3).build(), Some(&parent));
        let outcome = twin.status.as_ref().unwrap().outcome;
        assert_eq!(outcome, Some(Outcome::Cancelled));
        let (next, _) = settle(member_of(&parent, 4).build(), Some(&parent));
        assert_eq!(next.status.as_ref().unwrap().outcome, None);
    }

    #[test]
    fn a_place_in_the_queue_is_not_later_than_the_creation_and_never_shared() {
        let micros = |micros: i64| Timestamp::from_microsecond(micros).unwrap();
        assert_eq!(enqueue_time(at(100), None, None), at(100));
        let created = Some(at(10));
        let first = enqueue_time(at(100), created, None);
        assert_eq!(first, micros(10_999_999));
        let second = enqueue_time(at(100), created, Some(first));
        assert_eq!(second, micros(11_000_000));
        assert_eq!(
            enqueue_time(at(100), Some(at(50)), Some(second)),
            micros(50_999_999)
        );
    }
}
