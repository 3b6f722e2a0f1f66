//! What a job is to placement, and what a decision about it becomes as a status. Pure.

use std::sync::Arc;

use crds::job_status::{Binding, Effective, Outcome, Reservation, Waiting};
use crds::{Job, JobStatus, Node, RELEASE_FINALIZER, phase};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::convert::held;
use super::untold::Reason;
use crate::array::IndexSet;
use crate::shell::{
    Op, cancel_wanted, gang_size, has_finalizer, is_deleting, is_ended, is_parent, member_index,
    owner, rank, suspend_wanted,
};

/// The class of the reason that a member of a gang waits for the others.
const GANG_FORMING: &str = "GangForming";

/// First time for which a node that handed a job back is not offered it; it doubles with each time in a row.
const AVOID: SignedDuration = SignedDuration::from_secs(5);
/// Most doublings: a little over five minutes in the end.
const MOST_DOUBLINGS: u32 = 6;

/// What a job is to placement.
#[derive(Debug)]
pub(super) enum View<'a> {
    /// It holds slots.
    Holds(&'a JobStatus, &'a Binding),
    /// It waits for slots.
    Waits(&'a JobStatus, &'a Effective),
    /// It waits for something that is not placement's: for somebody to resume it, or for its gang.
    NotReady(Reason),
    /// It does not concern placement.
    Aside,
}

/// What a job is to placement. `parents` are what it belongs to, as far as that exists: its gang or array, and the array of its
/// gang.
pub(super) fn view<'a>(job: &'a Job, parents: &[&Job]) -> View<'a> {
    let Some(status) = &job.status else {
        return View::Aside;
    };
    if let Some(binding) = held(status) {
        return View::Holds(status, binding);
    }
    let Some(effective) = &status.effective else {
        return View::Aside;
    };
    let open = status.outcome.is_none()
        && status.binding.is_none()
        && !is_parent(job)
        && !is_deleting(job)
        && !cancel_wanted(job, parents)
        && status.observed_generation == job.metadata.generation
        && has_finalizer(job, RELEASE_FINALIZER)
        && is_live_member(job, parents);
    if !open {
        View::Aside
    } else if suspend_wanted(job, parents) {
        View::NotReady(suspended(job))
    } else if let Some(reason) = kept_by_gang(job, status, parents) {
        View::NotReady(reason)
    } else {
        View::Waits(status, effective)
    }
}

fn suspended(job: &Job) -> Reason {
    let message = if suspend_wanted(job, &[]) {
        "the job is suspended"
    } else if rank(job).is_some() {
        "its gang is suspended"
    } else {
        "its array is suspended"
    };
    Reason {
        class: "Suspended",
        message: message.to_owned(),
        since: None,
    }
}

/// Why a member of a gang is not placed with the others of its generation, if it is not.
fn kept_by_gang(job: &Job, status: &JobStatus, parents: &[&Job]) -> Option<Reason> {
    rank(job)?;
    let parent = parents.first().and_then(|parent| parent.status.as_ref());
    let gang = parent.and_then(|parent| parent.gang.as_ref());
    let generation = gang.map(|gang| gang.generation);
    let mine = status.gang.as_ref().map(|gang| gang.generation);
    let stop = parent.and_then(phase::current_stop);
    let message = match stop {
        Some(stop) => {
            let why = stop.message.as_deref().unwrap_or("its gang is stopped");
            format!("it waits until all of its gang is stopped: {why}")
        }
        None if mine.is_some() && mine == generation => return None,
        None => "it waits until all members of its gang can wait for nodes together".to_owned(),
    };
    Some(Reason {
        class: GANG_FORMING,
        message,
        since: None,
    })
}

/// True for every job that is no member, and for members of arrays and gangs that still want them.
fn is_live_member(job: &Job, parents: &[&Job]) -> bool {
    if owner(job).is_none() {
        return true;
    }
    let Some(parent) = parents.first().filter(|parent| !is_closing(parent)) else {
        return false;
    };
    let array = parent.status.as_ref().and_then(|s| s.array.as_ref());
    match (array, member_index(job)) {
        (Some(array), Some(index)) => {
            IndexSet::parse(&array.finished).is_ok_and(|finished| !finished.contains(index))
        }
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

/// Is an array or a gang on its way out, so that its members are not placed any more?
pub(super) fn is_closing(parent: &Job) -> bool {
    is_deleting(parent) || (gang_size(parent).is_some() && is_ended(parent))
}

/// A node that is not offered a job for a while, because it handed it back before it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Avoidance {
    pub(super) node: String,
    /// The attempt that was handed back.
    pub(super) attempt: u32,
    /// For how long.
    pub(super) pause: SignedDuration,
}

/// The node to avoid for a job, if its last attempt was handed back.
pub(super) fn avoidance(status: &JobStatus) -> Option<Avoidance> {
    let last = status.attempts.last()?;
    let node = last.node_name.clone()?;
    if last.attempt != status.attempt || last.start_time.is_some() {
        return None;
    }
    let in_a_row = status.attempts.iter().rev();
    let in_a_row = in_a_row
        .take_while(|record| {
            record.start_time.is_none() && record.node_name.as_ref() == Some(&node)
        })
        .count();
    let doublings = u32::try_from(in_a_row - 1).map_or(MOST_DOUBLINGS, |n| n.min(MOST_DOUBLINGS));
    Some(Avoidance {
        node,
        attempt: last.attempt,
        pause: AVOID * (1 << doublings),
    })
}

/// The write of a binding.
pub(super) fn bind(
    job: &Arc<Job>,
    placement: &scheduler::Placement,
    node: Option<&Node>,
    epoch: u64,
    now: Timestamp,
) -> Option<Op> {
    let mut next = job.status.clone().unwrap_or_default();
    let info = node.and_then(|node| node.status.as_ref()?.info.as_ref());
    next.attempt += 1;
    next.binding = Some(Binding {
        node_name: placement.node.as_str().to_owned(),
        boot_id: info.map(|info| info.boot_id.clone()),
        gpus: placement
            .gpus
            .iter()
            .map(|gpu| gpu.as_str().to_owned())
            .collect(),
        vram_bytes: placement.vram.map(|bytes| bytes.0),
        whole_gpus: placement.whole_gpus,
        cpu_millis: placement.cpu.0,
        memory_bytes: placement.memory.0,
        epoch,
        time: Some(MicroTime(now)),
    });
    next.waiting = None;
    next.nomination = None;
    next.message = None;
    Op::job_status(job, next)
}

/// The write that ends a job which no node could ever run.
pub(super) fn infeasible(job: &Arc<Job>, why: String, now: Timestamp) -> Option<Op> {
    let mut next = job.status.clone().unwrap_or_default();
    next.outcome = Some(Outcome::Infeasible);
    next.finish_time = Some(MicroTime(now));
    next.waiting = None;
    next.message = Some(why);
    Op::job_status(job, next)
}

/// The write of a reason, and of what is reserved for the job; nothing when the job bears that class already.
pub(super) fn tell(job: &Arc<Job>, reason: Reason, reservation: Option<Reservation>) -> Option<Op> {
    let status = job.status.as_ref()?;
    let known = status.waiting.as_ref();
    if known.is_some_and(|known| known.reason == reason.class && known.reservation == reservation) {
        return None;
    }
    let mut next = status.clone();
    next.waiting = Some(Waiting {
        reason: reason.class.to_owned(),
        message: Some(reason.message),
        since: reason.since,
        reservation,
    });
    Op::job_status(job, next)
}

#[cfg(test)]
mod tests {
    use crds::job::ArraySpec;
    use crds::job_status::{ArrayStatus, AttemptRecord, GangStatus, Release, StopReason};
    use crds::{JobSpec, Phase};

    use super::*;
    use crate::shell::testing::{JobBuilder, applied, at, gang_member_of, job, member_of};
    use crate::shell::{Plan, raised};

    fn admitted(builder: JobBuilder) -> JobBuilder {
        builder.status(|status| {
            status.effective = Some(Effective::default());
            status.observed_generation = Some(1);
        })
    }

    fn word(builder: JobBuilder, parent: Option<&Job>) -> &'static str {
        match view(&builder.build(), parent.as_slice()) {
            View::Holds(..) => "holds",
            View::Waits(..) => "waits",
            View::NotReady(Reason { class, .. }) => class,
            View::Aside => "aside",
        }
    }

    #[test]
    fn only_an_admitted_open_job_waits() {
        let spec = |change: fn(&mut JobSpec)| {
            let mut spec = JobSpec::default();
            change(&mut spec);
            admitted(job("a").spec(spec))
        };
        let rows = vec![
            ("admitted", admitted(job("a")), "waits"),
            ("not admitted", job("a"), "aside"),
            (
                "of a newer generation",
                admitted(job("a")).generation(2),
                "aside",
            ),
            (
                "without the release finalizer",
                admitted(job("a")).finalizers(&[]),
                "aside",
            ),
            ("deleted", admitted(job("a")).deleting(), "aside"),
            ("cancelled", spec(|spec| spec.cancel = Some(true)), "aside"),
            (
                "suspended",
                spec(|spec| spec.suspend = Some(true)),
                "Suspended",
            ),
            (
                "an array",
                spec(|spec| spec.array = Some(ArraySpec::default())),
                "aside",
            ),
            ("a gang", spec(|spec| spec.replicas = Some(2)), "aside"),
            ("bound", admitted(job("a")).bound("n"), "holds"),
            (
                "deleted while it runs",
                admitted(job("a")).running("n").deleting(),
                "holds",
            ),
            (
                "ended, and not released",
                admitted(job("a"))
                    .running("n")
                    .status(|s| s.outcome = Some(Outcome::Succeeded)),
                "holds",
            ),
            (
                "released",
                admitted(job("a")).running("n").status(|status| {
                    status.release = Some(Release {
                        attempt: 1,
                        time: None,
                        lost: false,
                    });
                }),
                "aside",
            ),
            (
                "lost",
                admitted(job("a"))
                    .running("n")
                    .status(|s| s.outcome = Some(Outcome::Lost)),
                "aside",
            ),
        ];
        for (name, builder, expected) in rows {
            assert_eq!(word(builder, None), expected, "{name}");
        }
    }

    #[test]
    fn a_member_waits_while_its_array_wants_it() {
        let tallied = |finished: &str| ArrayStatus {
            finished: finished.to_owned(),
            ..ArrayStatus::default()
        };
        let parent = job("p").status(|s| s.array = Some(tallied("0-2"))).build();
        let member = |index| admitted(member_of(&parent, index));
        assert_eq!(word(member(3), Some(&parent)), "waits");
        assert_eq!(word(member(2), Some(&parent)), "aside");
        assert_eq!(word(member(3), None), "aside");
        let suspended = JobSpec {
            suspend: Some(true),
            ..JobSpec::default()
        };
        let parent = job("p").spec(suspended).build();
        assert_eq!(word(member(3), Some(&parent)), "Suspended");
    }

    #[test]
    fn a_member_of_a_gang_waits_for_nodes_as_one_of_the_present_generation() {
        let in_generation = |generation| {
            Some(GangStatus {
                size: 2,
                generation,
                ..GangStatus::default()
            })
        };
        let gang = JobSpec {
            replicas: Some(2),
            ..JobSpec::default()
        };
        let open = job("g").spec(gang).status(|status| {
            (status.attempt, status.gang) = (3, in_generation(3));
        });
        let parent = open.clone().build();
        let member = |gang: Option<GangStatus>| {
            admitted(gang_member_of(&parent, 1)).status(|status| status.gang = gang)
        };
        let told = |gang, parent: &Job| word(member(gang), Some(parent));
        assert_eq!(told(in_generation(3), &parent), "waits");
        assert_eq!(told(None, &parent), "GangForming");
        assert_eq!(told(in_generation(2), &parent), "GangForming");
        let stopped = raised(
            parent.status.as_ref().unwrap(),
            StopReason::Preempted,
            "x",
            "a node is lost",
            at(1),
        );
        let stopped = open.clone().status(|status| *status = stopped.unwrap());
        let stopped = stopped.build();
        assert_eq!(told(in_generation(3), &stopped), "GangForming");
        let ended = open.status(|status| status.outcome = Some(Outcome::Failed));
        assert_eq!(told(in_generation(3), &ended.build()), "aside");
        assert_eq!(word(member(in_generation(3)), None), "aside");
    }

    #[test]
    fn a_binding_counts_an_attempt_and_ends_the_wait() {
        let waiting = admitted(job("a")).status(|status| {
            status.attempt = 4;
            status.waiting = Some(Waiting::default());
            status.message = Some("it was drained".to_owned());
        });
        let job = waiting.build();
        let placement = scheduler::Placement {
            job: "uid-of-a".into(),
            node: "n".into(),
            gpus: vec!["GPU-1".into()],
            vram: Some(scheduler::Bytes(7)),
            whole_gpus: false,
            whole_node: false,
            cpu: scheduler::MilliCpu(500),
            memory: scheduler::Bytes(9),
        };
        let op = bind(&job, &placement, None, 77, at(3));
        let next = applied(&Plan::of(op)).unwrap();
        let status = next.status.as_ref().unwrap();
        assert_eq!(status.phase, Some(Phase::Scheduled));
        assert_eq!(
            (status.attempt, &status.waiting, &status.message),
            (5, &None, &None)
        );
        let binding = status.binding.as_ref().unwrap();
        assert_eq!((binding.epoch, binding.vram_bytes), (77, Some(7)));
        assert_eq!(binding.gpus, ["GPU-1"]);
    }

    #[test]
    fn a_class_that_is_known_is_not_told_again() {
        let job = admitted(job("a")).build();
        let reason = |class| Reason {
            class,
            message: "5 free".to_owned(),
            since: None,
        };
        let told = applied(&Plan::of(tell(&job, reason("A"), None))).unwrap();
        assert_eq!(tell(&told, reason("A"), None), None);
        assert!(tell(&told, reason("B"), None).is_some());
    }

    #[test]
    fn a_node_that_hands_a_job_back_is_avoided_for_longer_each_time() {
        let record = |attempt, node: &str, started: Option<i64>| AttemptRecord {
            attempt,
            node_name: Some(node.to_owned()),
            start_time: started.map(|seconds| MicroTime(at(seconds))),
            ..AttemptRecord::default()
        };
        let mut status = JobStatus {
            attempt: 1,
            attempts: vec![record(1, "n", None)],
            ..JobStatus::default()
        };
        let first = avoidance(&status).unwrap();
        assert_eq!((first.node.as_str(), first.pause), ("n", AVOID));
        status.attempt = 3;
        status.attempts = vec![
            record(1, "m", None),
            record(2, "n", None),
            record(3, "n", None),
        ];
        assert_eq!(avoidance(&status).unwrap().pause, AVOID * 2);
        status.attempts = vec![record(3, "n", Some(5))];
        assert_eq!(avoidance(&status), None);
    }
}
