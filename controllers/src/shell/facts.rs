//! Questions that several controllers ask about a job. Pure.

use crds::job_status::{Stop, StopReason};
use crds::{
    ARRAY_INDEX_LABEL, GANG_LABEL, GANG_RANK_LABEL, Job, JobStatus, PREEMPT_BLOCKERS_ANNOTATION,
    PREEMPT_FORCE, phase,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

/// Grace of a job whose effective spec is not known yet, in seconds; the default of the field.
const DEFAULT_GRACE_SECS: u32 = 30;

/// The uid, or nothing for an object that was never stored.
pub(crate) fn uid(job: &Job) -> &str {
    job.metadata.uid.as_deref().unwrap_or_default()
}

/// Was its deletion asked for?
pub(crate) fn is_deleting(job: &Job) -> bool {
    job.metadata.deletion_timestamp.is_some()
}

/// Has the job ended for good?
pub(crate) fn is_ended(job: &Job) -> bool {
    job.status
        .as_ref()
        .is_some_and(|status| status.outcome.is_some())
}

/// Did the current attempt end, with its processes proven gone, and nobody said what becomes of the job?
pub(crate) fn bound_attempt_ended(status: &JobStatus) -> bool {
    status.outcome.is_none()
        && status.binding.is_some()
        && status.finish_time.is_some()
        && phase::held_binding(status).is_none()
}

/// Does it bear the finalizer?
pub(crate) fn has_finalizer(job: &Job, finalizer: &str) -> bool {
    let finalizers = job.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|name| name == finalizer)
}

/// Its finalizers and one more.
pub(crate) fn with_finalizer(job: &Job, finalizer: &str) -> Vec<String> {
    let mut finalizers = job.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(finalizer.to_owned());
    finalizers
}

/// Its finalizers but for one.
pub(crate) fn without_finalizer(job: &Job, finalizer: &str) -> Vec<String> {
    let mut finalizers = job.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|name| name != finalizer);
    finalizers
}

/// The job that controls this one, if it is a member of an array or of a gang.
pub(crate) fn owner(job: &Job) -> Option<&OwnerReference> {
    let owners = job.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == "Job"
            && owner.api_version.split_once('/') == Some((crds::GROUP, crds::VERSION))
    })
}

/// The index of a member in its array, or its rank in its gang.
pub(crate) fn member_index(job: &Job) -> Option<u32> {
    let labels = job.metadata.labels.as_ref()?;
    rank(job).or_else(|| labels.get(ARRAY_INDEX_LABEL)?.parse().ok())
}

/// The rank of a gang's member. The member of an array of gangs, which is a gang itself, bears no rank.
pub(crate) fn rank(job: &Job) -> Option<u32> {
    let labels = job.metadata.labels.as_ref()?;
    let owner = owner(job)?;
    let of_its_owner = labels.get(GANG_LABEL) == Some(&owner.name);
    labels
        .get(GANG_RANK_LABEL)
        .filter(|_| of_its_owner)?
        .parse()
        .ok()
}

/// The number of members of a gang, if the job is the parent of one.
pub(crate) fn gang_size(job: &Job) -> Option<u32> {
    let size = job.spec.replicas.filter(|size| *size > 1)?;
    job.spec.array.is_none().then_some(size)
}

/// Is it the parent of others, so that nothing of it runs?
pub(crate) fn is_parent(job: &Job) -> bool {
    job.spec.array.is_some() || gang_size(job).is_some()
}

/// Is the job cancelled, by itself or with what it belongs to?
pub(crate) fn cancel_wanted(job: &Job, parents: &[&Job]) -> bool {
    let cancelled = |job: &Job| job.spec.cancel == Some(true);
    cancelled(job) || parents.iter().any(|job| cancelled(job))
}

/// Is the job suspended, by itself or with what it belongs to?
pub(crate) fn suspend_wanted(job: &Job, parents: &[&Job]) -> bool {
    let suspended = |job: &Job| job.spec.suspend == Some(true);
    suspended(job) || parents.iter().any(|job| suspended(job))
}

/// Whom a person wants displaced for a job that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Displaceable {
    /// Those that let themselves be displaced.
    Preemptible,
    /// Whoever is of lower priority.
    Any,
}

/// Does a person want others displaced for the attempt that comes next, or for the generation of its gang that waits, and whom?
pub(crate) fn room_wanted(job: &Job, status: &JobStatus, parents: &[&Job]) -> Option<Displaceable> {
    let own =
        room_wanted_for(job).filter(|(attempt, _)| Some(*attempt) == status.attempt.checked_add(1));
    let of_gang = || {
        let gang = parents.first().filter(|_| rank(job).is_some())?;
        let generation = gang.status.as_ref()?.attempt;
        room_wanted_for(gang).filter(|(wanted, _)| *wanted == generation)
    };
    own.or_else(of_gang).map(|(_, whom)| whom)
}

/// The attempt, or the generation of a gang, for which somebody wants others displaced, and whom.
pub(crate) fn room_wanted_for(job: &Job) -> Option<(u32, Displaceable)> {
    let annotations = job.metadata.annotations.as_ref()?;
    let text = annotations.get(PREEMPT_BLOCKERS_ANNOTATION)?;
    let (attempt, whom) = match text.strip_suffix(PREEMPT_FORCE) {
        Some(attempt) => (attempt, Displaceable::Any),
        None => (text.as_str(), Displaceable::Preemptible),
    };
    Some((attempt.parse().ok()?, whom))
}

/// A time so many seconds later; the end of time where there is none.
pub(crate) fn later(from: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    from.saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// When KILL is due for a stop that begins now: after the job's grace, rounded up to what the API can say.
pub(crate) fn stop_deadline(status: &JobStatus, now: Timestamp) -> Time {
    let grace = status
        .effective
        .as_ref()
        .map_or(DEFAULT_GRACE_SECS, |effective| {
            effective.termination_grace_period_seconds.value
        });
    let exact = later(now, u64::from(grace));
    let whole = i64::from(exact.subsec_nanosecond() > 0) + exact.as_second();
    Time(Timestamp::from_second(whole).unwrap_or(Timestamp::MAX))
}

/// The status with a stop for the current attempt raised to `reason`; `None` when that changes nothing.
pub(crate) fn raised(
    status: &JobStatus,
    reason: StopReason,
    by: &str,
    message: &str,
    now: Timestamp,
) -> Option<JobStatus> {
    let wanted = Stop {
        attempt: status.attempt,
        reason,
        by: by.to_owned(),
        deadline: stop_deadline(status, now),
        message: Some(message.to_owned()),
    };
    let stop = phase::raise_stop(status.stop.as_ref(), wanted)?;
    let mut next = status.clone();
    next.stop = Some(stop);
    Some(next)
}

/// How a controller signs a stop.
pub(crate) fn by(controller: crate::ControllerName) -> String {
    format!("controller/{controller}")
}
