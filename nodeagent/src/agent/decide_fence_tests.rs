//! What is frozen for want of contact: thawed when it is still the current attempt, killed when it is not.

use super::release_tests::after;
use super::tests::{active, claimed, ended, exit, fresh, job, observed, stale, words};
use super::*;

fn fenced() -> Local<'static> {
    Local {
        attempt: 2,
        grace_secs: 30,
        checkpointed: None,
        state: LocalState::Fenced,
    }
}

const KILLED: &str = "stop 2 by 2026-01-01T00:01:00Z";

#[test]
fn only_a_fresh_answer_in_contact_thaws() {
    let current = claimed(|_, _| {});
    let mut silent = observed(fresh(&current), vec![fenced()]);
    silent.in_contact = false;
    assert_eq!(words(&silent), Vec::<String>::new(), "it may be lost");
    let rows = [
        (observed(stale(&current), vec![fenced()]), vec!["read"]),
        (observed(Seen::Unverified, vec![fenced()]), vec!["read"]),
        (observed(fresh(&current), vec![fenced()]), vec!["thaw 2"]),
    ];
    for (observed, expected) in rows {
        assert_eq!(words(&observed), expected);
    }
}

#[test]
fn a_job_that_is_unknown_is_taken_back_before_it_goes_on() {
    let unknown = claimed(|_, status| status.node_silent = true);
    assert_eq!(
        words(&observed(fresh(&unknown), vec![fenced()])),
        ["write Back Running"]
    );
    let back = {
        let plan = decide(&observed(fresh(&unknown), vec![fenced()]));
        let [Action::Write(Write::Back, next)] = plan.actions.as_slice() else {
            panic!("{plan:?}");
        };
        let mut job = unknown.clone();
        job.status = Some((**next).clone());
        job
    };
    assert_eq!(words(&observed(fresh(&back), vec![fenced()])), ["thaw 2"]);
}

#[test]
fn what_was_superseded_is_killed_as_it_is() {
    let requeued = job(|_, status| status.binding = None);
    let next = job(|_, status| status.attempt = 3);
    for other in [&requeued, &next] {
        let plan = words(&observed(stale(other), vec![fenced()]));
        assert_eq!(plan.first().map(String::as_str), Some(KILLED));
    }
    assert_eq!(words(&observed(Seen::Gone, vec![fenced()])), [KILLED]);
    let mut closing = observed(Seen::Gone, vec![active(2, None)]);
    closing.closing = true;
    assert_eq!(words(&closing), ["stop 2 by 2026-01-01T00:01:30Z"]);
}

#[test]
fn an_end_by_the_fence_says_nothing_of_the_job_and_is_followed_up() {
    let requeues = claimed(|_, status| {
        status.effective = Some(crds::job_status::Effective {
            on_node_lost: crds::job_status::Sourced {
                value: OnNodeLost::Requeue,
                ..crds::job_status::Sourced::default()
            },
            ..crds::job_status::Effective::default()
        });
    });
    let killed = Ended {
        code: None,
        signal: Some(15),
        signalled: Some(SignalCause::Fence),
        ..exit(0)
    };
    let told = after(&requeues, ended(2, &killed), Write::End);
    let status = told.status.unwrap_or_default();
    assert_eq!((status.outcome, &status.stop), (None, &None));
    assert!(status.release.is_some_and(|release| release.lost));
    let message = status.message.unwrap_or_default();
    assert!(message.contains("no contact"), "{message}");
}
