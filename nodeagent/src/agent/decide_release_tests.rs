//! The end that is told before the proof that nothing is left, and the release that follows it.

use crds::job::OnPreemption;
use crds::job_status::{Effective, Outcome, Sourced};

use super::tests::{active, claimed, ended, exit, fresh, observed, stale, stop, words};
use super::*;

fn lingering(ended: &Ended) -> Local<'_> {
    Local {
        attempt: 2,
        grace_secs: 30,
        checkpointed: None,
        state: LocalState::Lingering { ended, usage: None },
    }
}

fn with_rest_of(end: Ended) -> Ended {
    Ended {
        lingering: Some(vec![41, 42]),
        ..end
    }
}

/// The job after the one write that the plan holds.
pub(super) fn after(job: &Job, local: Local<'_>, expected: Write) -> Job {
    let plan = decide(&observed(stale(job), vec![local]));
    let [Action::Write(write, next)] = plan.actions.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!(*write, expected);
    let mut job = job.clone();
    job.status = Some((**next).clone());
    job
}

#[test]
fn an_end_does_not_wait_for_what_lingers_and_the_release_does() {
    let running = claimed(|_, _| {});
    let (done, end) = (exit(0), with_rest_of(exit(0)));
    let told = after(&running, lingering(&end), Write::End);
    let status = told.status.clone().unwrap_or_default();
    assert_eq!(status.phase, Some(Phase::Succeeded));
    assert_eq!(status.release, None);
    assert!(
        phase::held_binding(&status).is_some(),
        "the slots are taken"
    );
    let message = status.message.expect("it says what is left");
    assert!(message.contains("process 41, process 42"), "{message}");

    let none = Vec::<String>::new();
    assert_eq!(words(&observed(stale(&told), vec![lingering(&end)])), none);
    let released = after(&told, ended(2, &done), Write::Release);
    let status = released.status.clone().unwrap_or_default();
    assert_eq!(status.phase, Some(Phase::Succeeded));
    assert_eq!((status.exit_code, status.message), (Some(0), None));
    assert!(status.release.is_some());
    assert_eq!(
        words(&observed(stale(&released), vec![ended(2, &done)])),
        ["let go 2 true"]
    );
}

#[test]
fn what_is_to_be_requeued_waits_for_the_release() {
    let stays = claimed(|_, status| {
        status.stop = Some(stop(StopReason::Preempted, "2026-01-01T00:00:10Z"));
        status.effective = Some(Effective {
            on_preemption: Sourced {
                value: OnPreemption::Requeue,
                ..Sourced::default()
            },
            ..Effective::default()
        });
    });
    let killed = Ended {
        code: None,
        signal: Some(9),
        signalled: Some(SignalCause::Stop),
        ..exit(0)
    };
    let end = with_rest_of(killed.clone());
    let told = after(&stays, lingering(&end), Write::End);
    let status = told.status.clone().unwrap_or_default();
    assert_eq!(
        (status.phase, status.outcome),
        (Some(Phase::Stopping), None)
    );
    assert!(status.finish_time.is_some() && status.release.is_none());
    let released = after(&told, ended(2, &killed), Write::Release);
    let status = released.status.unwrap_or_default();
    assert_eq!(
        (status.phase, status.outcome),
        (Some(Phase::Stopping), None)
    );
    assert!(status.release.is_some());
    let message = status.message.unwrap_or_default();
    assert!(
        message.ends_with("ended by signal 9 (SIGKILL)"),
        "{message}"
    );
}

#[test]
fn what_was_told_of_an_end_is_not_told_otherwise_with_the_release() {
    let running = claimed(|_, _| {});
    let presumed = Ended {
        code: None,
        signal: Some(9),
        ..exit(0)
    };
    let told = after(&running, lingering(&with_rest_of(presumed)), Write::End);
    let lost = Ended {
        lost: Some("nobody saw it".to_owned()),
        ..exit(7)
    };
    let released = after(&told, ended(2, &lost), Write::Release);
    let (before, now) = (
        told.status.unwrap_or_default(),
        released.status.unwrap_or_default(),
    );
    assert_eq!(
        (now.outcome, now.signal, now.exit_code),
        (Some(Outcome::Failed), Some(9), None)
    );
    assert_eq!(now.finish_time, before.finish_time);
    assert!(now.release.is_some_and(|release| release.lost));
}

#[test]
fn an_agent_that_comes_back_after_the_end_was_told_releases_and_nothing_else() {
    let end = with_rest_of(exit(3));
    let told = after(&claimed(|_, _| {}), lingering(&end), Write::End);
    let none = Vec::<String>::new();
    assert_eq!(
        words(&observed(fresh(&told), vec![])),
        none,
        "nothing is known"
    );
    assert_eq!(words(&observed(fresh(&told), vec![lingering(&end)])), none);
    assert_eq!(words(&observed(Seen::Gone, vec![lingering(&end)])), none);
    assert_eq!(
        words(&observed(fresh(&told), vec![ended(2, &exit(3))])),
        ["write Release Failed"]
    );
    assert_eq!(
        words(&observed(fresh(&told), vec![active(2, None)])),
        ["stop 2 by 2026-01-01T00:01:30Z"],
        "what runs though the job has ended is stopped"
    );
}

#[test]
fn what_was_never_started_goes_back_to_the_queue_if_that_is_proven() {
    let unstarted = Ended {
        code: None,
        lost: Some("prepared and never started".to_owned()),
        unstarted: true,
        ..exit(0)
    };
    let running = claimed(|_, status| status.enqueue_time = Some(micro(Timestamp::UNIX_EPOCH)));
    let again = after(&running, ended(2, &unstarted), Write::Again);
    let status = again.status.clone().unwrap_or_default();
    assert_eq!(status.phase, Some(Phase::Pending));
    assert_eq!(status.enqueue_time, Some(micro(Timestamp::UNIX_EPOCH)));
    assert_eq!(status.attempts[0].start_time, None);
    assert_eq!(
        words(&observed(fresh(&again), vec![ended(2, &unstarted)])),
        ["let go 2 true"]
    );

    // After a power cut a blank record proves nothing, and who is to be stopped is not started anew.
    let rebooted = claimed(|_, status| {
        let claim = status.claim.as_mut().expect("claimed");
        claim.boot_id = "boot-0".to_owned();
    });
    let stopped = claimed(|_, status| {
        status.stop = Some(stop(StopReason::Cancelled, "2026-01-01T00:00:10Z"));
    });
    for job in [&rebooted, &stopped] {
        after(job, ended(2, &unstarted), Write::End);
    }
}
