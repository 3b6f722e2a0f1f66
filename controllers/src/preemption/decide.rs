//! Decides who is stopped for a nominated job, and which stops a person asked for. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::job_status::{Nomination, StopReason, Victim};
use crds::{Job, JobStatus, PREEMPT_ANNOTATION, phase};
use jiff::Timestamp;

use crate::ControllerName;
use crate::shell::{Op, Plan, by, is_deleting, is_ended, raised, uid};

/// What is known of a nominated job.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Arc<Job>,
    /// Would placement place it, if there were room?
    pub(super) waits: bool,
    /// Those who are to leave for it, as far as they still exist.
    pub(super) victims: Vec<(&'a Victim, Option<&'a Arc<Job>>)>,
    /// A person wants room for it whether or not who has it is preemptible.
    pub(super) forced: bool,
    pub(super) now: Timestamp,
}

/// What becomes of a nomination. `makes_room` says whether the job fits its node once the jobs of these uids are gone; it is
/// asked only when somebody would have to be stopped.
pub(super) fn decide(
    observed: &Observed<'_>,
    makes_room: impl Fn(&BTreeSet<&str>) -> bool,
) -> Plan {
    let job = observed.job;
    let Some(status) = &job.status else {
        return Plan::nothing();
    };
    let Some(nomination) = status.nomination.as_ref().filter(|_| !is_ended(job)) else {
        return Plan::nothing();
    };
    let expires = nomination.expires_at.as_ref().map(|time| time.0);
    let lapsed = expires.is_some_and(|at| at <= observed.now);
    if !observed.waits || lapsed {
        return withdraw(job, status);
    }
    let victims = observed.victims.iter();
    let mut staying: Vec<&Arc<Job>> = victims
        .filter_map(|(victim, job)| job.filter(|job| stays(victim, job, nomination)))
        .collect();
    let mut plan = Plan::nothing();
    plan.look_again = expires;
    if staying.is_empty() {
        return plan;
    }
    let mut gone: BTreeSet<&str> = nomination.victims.iter().map(|one| &*one.uid).collect();
    if !makes_room(&gone) {
        return withdraw(job, status);
    }
    // What was needed when the nomination was made may be more than is needed now.
    staying.retain(|victim| {
        gone.remove(uid(victim));
        let needed = !makes_room(&gone);
        if needed {
            gone.insert(uid(victim));
        }
        needed
    });
    if !staying
        .iter()
        .all(|victim| may_displace(job, victim, observed.forced))
    {
        return withdraw(job, status);
    }
    let stops = staying.into_iter();
    plan.ops
        .extend(stops.filter_map(|victim| stop(victim, job, observed.now)));
    plan
}

/// May the victim be displaced, as both are now? Who is of another queue may be because it has borrowed; what its queue holds
/// was judged by placement. A person may have asked for room whether or not who has it is preemptible.
fn may_displace(job: &Job, victim: &Job, forced: bool) -> bool {
    let effective = |job: &Job| job.status.as_ref()?.effective.clone();
    let (Some(job), Some(victim)) = (effective(job), effective(victim)) else {
        return false;
    };
    let lower = victim.priority.value < job.priority.value;
    (lower && (forced || victim.preemptible.value)) || victim.queue.value != job.queue.value
}

/// Does the victim still hold its slots, and has nobody asked it to leave?
fn stays(victim: &Victim, job: &Job, nomination: &Nomination) -> bool {
    let Some(status) = job.status.as_ref().filter(|_| uid(job) == victim.uid) else {
        return false;
    };
    let holds = phase::held_binding(status);
    status.attempt == victim.attempt
        && status.outcome.is_none()
        && holds.is_some_and(|binding| binding.node_name == nomination.node_name)
        && phase::current_stop(status).is_none()
}

fn stop(victim: &Arc<Job>, job: &Job, now: Timestamp) -> Option<Op> {
    let status = victim.status.as_ref()?;
    let by = by(ControllerName::Preemption);
    let next = raised(
        status,
        StopReason::Preempted,
        &by,
        &message(victim, job),
        now,
    )?;
    Op::job_status(victim, next)
}

/// Why the victim is stopped: its priority, or that its queue had borrowed what it has.
fn message(victim: &Job, job: &Job) -> String {
    let meta = &job.metadata;
    let name = format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    );
    let effective = |job: &Job| job.status.as_ref()?.effective.clone();
    let (Some(job), Some(victim)) = (effective(job), effective(victim)) else {
        return format!("job {name} needs the room");
    };
    if victim.priority.value < job.priority.value {
        return format!(
            "job {name} of priority {} needs the room",
            job.priority.value
        );
    }
    format!(
        "queue {} had borrowed the room, and job {name} of queue {} needs it back",
        victim.queue.value, job.queue.value
    )
}

fn withdraw(job: &Arc<Job>, status: &JobStatus) -> Plan {
    let next = JobStatus {
        nomination: None,
        ..status.clone()
    };
    Plan::of(Op::job_status(job, next))
}

/// Does a person want the present attempt of the job displaced?
pub(super) fn is_unwanted(job: &Job) -> bool {
    let Some(status) = &job.status else {
        return false;
    };
    let annotations = job.metadata.annotations.as_ref();
    let wanted = annotations.and_then(|all| all.get(PREEMPT_ANNOTATION)?.parse().ok());
    wanted == Some(status.attempt)
        && status.outcome.is_none()
        && phase::held_binding(status).is_some()
}

/// The stop that a person asked for.
pub(super) fn decide_unwanted(job: &Arc<Job>, now: Timestamp) -> Plan {
    let status = job.status.as_ref().filter(|_| is_unwanted(job));
    let Some(status) = status.filter(|_| !is_deleting(job)) else {
        return Plan::nothing();
    };
    let by = by(ControllerName::Preemption);
    let next = raised(
        status,
        StopReason::Preempted,
        &by,
        "somebody asked for its preemption",
        now,
    );
    Plan::of(next.and_then(|next| Op::job_status(job, next)))
}

#[cfg(test)]
mod tests {
    use crds::Phase;
    use crds::job_status::Effective;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::shell::testing::{JobBuilder, applied, at, job};

    fn victim(name: &str) -> Victim {
        Victim {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            attempt: 1,
        }
    }

    fn nominated(victims: &[&str]) -> JobBuilder {
        job("big").status(|status| {
            let mut effective = Effective::default();
            effective.priority.value = 9;
            status.effective = Some(effective);
            status.nomination = Some(Nomination {
                id: "1".to_owned(),
                node_name: "n".to_owned(),
                gpus: vec!["GPU-1".to_owned()],
                victims: victims.iter().map(|name| victim(name)).collect(),
                expires_at: Some(Time(at(300))),
            });
        })
    }

    /// Names of those that are stopped, or `withdrawn`. The job fits once all of one of these sets are gone.
    fn outcome(
        big: &Arc<Job>,
        others: &[Arc<Job>],
        (waits, now): (bool, i64),
        enough: &[&[&str]],
    ) -> String {
        let nomination = big.status.as_ref().unwrap().nomination.clone().unwrap();
        let victims = nomination.victims.iter().map(|victim| {
            let named = |job: &&Arc<Job>| job.metadata.name.as_ref() == Some(&victim.name);
            (victim, others.iter().find(named))
        });
        let observed = Observed {
            job: big,
            waits,
            victims: victims.collect(),
            forced: false,
            now: at(now),
        };
        let gone = |name: &str, gone: &BTreeSet<&str>| gone.contains(&*format!("uid-of-{name}"));
        let plan = decide(&observed, |uids| {
            let mut enough = enough.iter();
            enough.any(|names| names.iter().all(|name| gone(name, uids)))
        });
        let mut words = Vec::new();
        for op in &plan.ops {
            let next = applied(&Plan::of(op.clone())).unwrap();
            let status = next.status.as_ref().unwrap();
            if uid(&next) == uid(big) {
                assert_eq!(status.nomination, None);
                words.push("withdrawn".to_owned());
            } else {
                assert_eq!(status.phase, Some(Phase::Stopping));
                let stop = status.stop.as_ref().unwrap();
                assert_eq!(stop.reason, StopReason::Preempted);
                words.push(next.metadata.name.clone().unwrap());
            }
        }
        words.join(" ")
    }

    const NOW: (bool, i64) = (true, 10);

    fn running(name: &str) -> JobBuilder {
        job(name).running("n").status(|status| {
            let mut effective = Effective::default();
            effective.preemptible.value = true;
            status.effective = Some(effective);
        })
    }

    #[test]
    fn those_are_stopped_who_make_the_room_and_nobody_else() {
        let big = nominated(&["a", "b"]).build();
        let both = [running("a").build(), running("b").build()];
        assert_eq!(outcome(&big, &both, NOW, &[&["a", "b"]]), "a b");
        assert_eq!(
            outcome(&big, &both, NOW, &[&["b"]]),
            "b",
            "less is enough by now"
        );
        let more = outcome(&big, &both, NOW, &[&["a", "b", "c"]]);
        assert_eq!(more, "withdrawn", "c was not chosen");
        assert_eq!(
            outcome(&big, &both, NOW, &[]),
            "withdrawn",
            "nobody makes room"
        );
    }

    #[test]
    fn who_is_stopped_is_told_whether_for_a_priority_or_for_what_was_borrowed() {
        let big = nominated(&["a"]).status(|status| {
            status.effective.as_mut().unwrap().queue.value = "language".to_owned();
        });
        let big = big.build();
        let low = running("a").build();
        assert_eq!(
            message(&low, &big),
            "job default/big of priority 9 needs the room"
        );
        let borrower = running("a").status(|status| {
            let effective = status.effective.as_mut().unwrap();
            effective.priority.value = 9;
            effective.queue.value = "vision".to_owned();
        });
        assert_eq!(
            message(&borrower.build(), &big),
            "queue vision had borrowed the room, and job default/big of queue language needs it back"
        );
    }

    #[test]
    fn who_may_not_be_displaced_any_more_is_not() {
        let big = nominated(&["a"]).build();
        let change = |change: fn(&mut Effective)| {
            let changed = running("a").status(|s| change(s.effective.as_mut().unwrap()));
            outcome(&big, &[changed.build()], NOW, &[&["a"]])
        };
        assert_eq!(change(|_| ()), "a");
        assert_eq!(change(|e| e.preemptible.value = false), "withdrawn");
        assert_eq!(change(|e| e.priority.value = 9), "withdrawn");
        let borrower = |e: &mut Effective| e.queue.value = "other".to_owned();
        assert_eq!(
            change(borrower),
            "a",
            "a borrower gives back whatever its priority"
        );
    }

    #[test]
    fn a_victim_is_stopped_once() {
        let big = nominated(&["a", "b"]).build();
        let stopped = applied(&decide_unwanted(&unwanted(running("b"), "1"), at(9))).unwrap();
        let both = [running("a").build(), stopped];
        assert_eq!(outcome(&big, &both, NOW, &[&["a", "b"]]), "a");
        assert_eq!(
            outcome(&big, &both[1..], NOW, &[]),
            "",
            "it waits for who leaves"
        );
    }

    #[test]
    fn a_nomination_ends_with_its_time_and_with_the_wait_of_its_job() {
        let big = nominated(&["a"]).build();
        let a = [running("a").build()];
        assert_eq!(outcome(&big, &a, (true, 300), &[&["a"]]), "withdrawn");
        assert_eq!(outcome(&big, &a, (false, 10), &[&["a"]]), "withdrawn");
    }

    #[test]
    fn another_attempt_or_another_job_of_that_name_is_not_meant() {
        let big = nominated(&["a"]).build();
        let later = job("a").running("n").status(|status| {
            status.attempt = 2;
            status.claim = None;
        });
        let rows = [
            ("another attempt", later),
            ("on another node", job("a").running("m")),
            (
                "ended",
                job("a").running("n").status(|status| {
                    status.outcome = Some(crds::job_status::Outcome::Succeeded);
                }),
            ),
            ("waits itself", job("a").status(|_| ())),
        ];
        for (name, other) in rows {
            let others = [other.build()];
            assert_eq!(outcome(&big, &others, NOW, &[&["a"]]), "", "{name}");
        }
    }

    fn unwanted(builder: JobBuilder, attempt: &str) -> Arc<Job> {
        let mut job = Job::clone(&builder.build());
        job.metadata.annotations =
            Some([(PREEMPT_ANNOTATION.to_owned(), attempt.to_owned())].into());
        Arc::new(job)
    }

    #[test]
    fn a_person_displaces_one_attempt_and_never_a_later_one() {
        let rows = [
            ("running", unwanted(job("a").running("n"), "1"), true),
            ("not claimed yet", unwanted(job("a").bound("n"), "1"), true),
            (
                "asked for an earlier attempt",
                unwanted(job("a").running("n"), "0"),
                false,
            ),
            (
                "asked for a later attempt",
                unwanted(job("a").running("n"), "2"),
                false,
            ),
            ("nonsense", unwanted(job("a").running("n"), "yes"), false),
            (
                "waits",
                unwanted(job("a").status(|status| status.attempt = 1), "1"),
                false,
            ),
        ];
        for (name, job, stopped) in rows {
            let next = applied(&decide_unwanted(&job, at(5)));
            assert_eq!(next.is_some(), stopped, "{name}");
            if let Some(next) = next {
                assert_eq!(
                    decide_unwanted(&next, at(5)),
                    Plan::nothing(),
                    "{name} settles"
                );
            }
        }
    }
}
