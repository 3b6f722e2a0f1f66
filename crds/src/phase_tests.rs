//! Tables for `phase.rs`: the whole product of phases, of facts and of stop reasons.

use super::*;
use crate::job::RetryRule;
use crate::job_status::{ArrayStatus, GangStatus, Release};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

fn at(seconds: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
}

fn micro(seconds: i64) -> MicroTime {
    MicroTime(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
}

fn stop(attempt: u32, reason: StopReason, deadline: i64) -> Stop {
    Stop {
        attempt,
        reason,
        by: format!("test/{reason:?}"),
        deadline: at(deadline),
        message: None,
    }
}

fn bound() -> JobStatus {
    JobStatus {
        attempt: 3,
        binding: Some(Binding {
            node_name: "node-a".into(),
            ..Binding::default()
        }),
        ..JobStatus::default()
    }
}

fn claimed() -> JobStatus {
    JobStatus {
        claim: Some(Claim {
            node_name: "node-a".into(),
            boot_id: "boot".into(),
            attempt: 3,
            time: None,
            endpoint: None,
        }),
        ..bound()
    }
}

#[test]
fn every_pair_of_phases_is_allowed_or_refused_by_the_table() {
    // Rows are `from`, columns `to`, both in the order of Phase::ALL; `x` is allowed.
    let rows = [
        // Pending Scheduled Running Stopping Unknown, then the terminal ones.
        "xxx.. .xx.xx.",
        "xxxx. .......",
        "x.xxx xxx.x..",
        "x..xx xxxxx..",
        "x.xxx xxxxx.x",
        "..... x......",
        "..... .x.....",
        "..... ..x....",
        "..... ...x...",
        "..... ....x..",
        "..... .....x.",
        "..... ......x",
    ];
    for (from, row) in Phase::ALL.into_iter().zip(rows) {
        let cells = row.chars().filter(|c| *c != ' ');
        for (to, cell) in Phase::ALL.into_iter().zip(cells) {
            assert_eq!(may_move(from, to), cell == 'x', "{from} -> {to}");
        }
    }
}

#[test]
fn terminal_phases_are_exactly_those_that_go_nowhere() {
    for from in Phase::ALL {
        let goes = Phase::ALL
            .into_iter()
            .any(|to| to != from && may_move(from, to));
        assert_eq!(from.is_terminal(), !goes, "{from}");
    }
}

#[test]
fn a_phase_follows_from_the_facts() {
    let with_stop = |status: JobStatus, attempt| JobStatus {
        stop: Some(stop(attempt, StopReason::Cancelled, 10)),
        ..status
    };
    let rows = vec![
        (
            "a fresh job is pending",
            JobStatus::default(),
            Phase::Pending,
        ),
        ("a bound job is scheduled", bound(), Phase::Scheduled),
        ("a claimed job runs", claimed(), Phase::Running),
        (
            "an unclaimed job asked to stop is stopping",
            with_stop(bound(), 3),
            Phase::Stopping,
        ),
        (
            "a running job asked to stop is stopping",
            with_stop(claimed(), 3),
            Phase::Stopping,
        ),
        (
            "the stop of an earlier attempt is not believed",
            with_stop(claimed(), 2),
            Phase::Running,
        ),
        (
            "the claim of an earlier attempt is not believed",
            JobStatus {
                attempt: 4,
                ..claimed()
            },
            Phase::Scheduled,
        ),
        (
            "an ended attempt without a verdict is stopping",
            JobStatus {
                finish_time: Some(micro(5)),
                ..claimed()
            },
            Phase::Stopping,
        ),
        (
            "a running job on a silent node is unknown",
            JobStatus {
                node_silent: true,
                ..with_stop(claimed(), 3)
            },
            Phase::Unknown,
        ),
        (
            "an unclaimed job on a silent node is scheduled",
            JobStatus {
                node_silent: true,
                ..bound()
            },
            Phase::Scheduled,
        ),
        (
            "an outcome outweighs everything",
            JobStatus {
                outcome: Some(Outcome::TimedOut),
                node_silent: true,
                ..with_stop(claimed(), 3)
            },
            Phase::TimedOut,
        ),
        (
            "an array with members runs",
            JobStatus {
                array: Some(ArrayStatus {
                    next_index: 1,
                    ..ArrayStatus::default()
                }),
                ..JobStatus::default()
            },
            Phase::Running,
        ),
        (
            "an array without members is pending",
            JobStatus {
                array: Some(ArrayStatus::default()),
                ..JobStatus::default()
            },
            Phase::Pending,
        ),
    ];
    for (name, status, phase) in rows {
        assert_eq!(derive(&status), phase, "{name}");
    }
}

#[test]
fn a_stop_only_rises_and_only_comes_nearer() {
    for old in StopReason::ALL {
        for new in StopReason::ALL {
            for (old_deadline, new_deadline) in [(10, 5), (10, 10), (10, 20)] {
                let current = stop(1, old, old_deadline);
                let raised = raise_stop(Some(&current), stop(1, new, new_deadline));
                let result = raised.clone().unwrap_or_else(|| current.clone());
                assert_eq!(result.deadline, at(old_deadline.min(new_deadline)));
                assert!(result.reason.weight() >= old.weight());
                assert!(result.reason.weight() >= new.weight());
                let rises = new.weight() > old.weight();
                assert_eq!(result.reason, if rises { new } else { old });
                assert_eq!(raised.is_some(), rises || new_deadline < old_deadline);
                assert_eq!(raise_stop(Some(&result), stop(1, new, new_deadline)), None);
            }
        }
    }
}

#[test]
fn a_stop_is_for_one_attempt() {
    let current = stop(2, StopReason::Cancelled, 10);
    assert_eq!(
        raise_stop(Some(&current), stop(1, StopReason::Cancelled, 1)),
        None
    );
    let newer = stop(3, StopReason::Preempted, 99);
    assert_eq!(
        raise_stop(Some(&current), newer.clone()),
        Some(newer.clone())
    );
    assert_eq!(raise_stop(None, newer.clone()), Some(newer));
}

fn exit(code: i32, signalled_first: bool) -> Exit {
    Exit {
        code: Some(code),
        signalled_first,
        ..Exit::default()
    }
}

#[test]
fn an_exit_is_blamed_on_a_stop_only_if_the_signal_came_first() {
    let spec = JobSpec::default();
    for reason in StopReason::ALL {
        let status = JobStatus {
            stop: Some(stop(3, reason, 10)),
            ..claimed()
        };
        let stopped = match reason {
            StopReason::Cancelled => Some(Outcome::Cancelled),
            StopReason::TimedOut => Some(Outcome::TimedOut),
            _ => None,
        };
        assert_eq!(
            verdict(&spec, &status, &exit(0, true)),
            stopped,
            "{reason:?}"
        );
        assert_eq!(verdict(&spec, &status, &exit(143, true)), stopped);
        assert_eq!(
            verdict(&spec, &status, &exit(0, false)),
            Some(Outcome::Succeeded)
        );
        assert_eq!(
            verdict(&spec, &status, &exit(1, false)),
            Some(Outcome::Failed)
        );
    }
}

#[test]
fn a_cancelled_job_is_never_left_to_be_requeued() {
    let spec = JobSpec {
        cancel: Some(true),
        backoff_limit: Some(9),
        ..JobSpec::default()
    };
    let preempted = JobStatus {
        stop: Some(stop(3, StopReason::Preempted, 10)),
        ..claimed()
    };
    assert_eq!(
        verdict(&spec, &preempted, &exit(143, true)),
        Some(Outcome::Cancelled)
    );
    assert_eq!(
        verdict(&spec, &claimed(), &exit(1, false)),
        Some(Outcome::Failed)
    );
}

#[test]
fn retries_are_counted_and_the_first_matching_rule_wins() {
    let spec = JobSpec {
        backoff_limit: Some(2),
        retry: vec![
            RetryRule {
                exit_codes: vec![3],
                action: RetryAction::Fail,
                ..RetryRule::default()
            },
            RetryRule {
                causes: vec![RetryCause::Signal],
                action: RetryAction::Retry,
                limit: Some(5),
                ..RetryRule::default()
            },
        ],
        ..JobSpec::default()
    };
    let used = |n| JobStatus {
        retries: [("ExitCode".to_owned(), n)].into(),
        ..claimed()
    };
    let killed = Exit {
        signal: Some(9),
        ..Exit::default()
    };
    assert_eq!(verdict(&spec, &used(0), &exit(1, false)), None);
    assert_eq!(
        verdict(&spec, &used(2), &exit(1, false)),
        Some(Outcome::Failed)
    );
    assert_eq!(
        verdict(&spec, &used(0), &exit(3, false)),
        Some(Outcome::Failed)
    );
    assert_eq!(verdict(&spec, &used(4), &killed), None);
    assert_eq!(verdict(&spec, &used(5), &killed), Some(Outcome::Failed));
    assert_eq!(
        verdict(&JobSpec::default(), &used(0), &killed),
        Some(Outcome::Failed)
    );
}

#[test]
fn a_requeue_clears_the_attempt_and_keeps_its_place_and_history() {
    let before = JobStatus {
        enqueue_time: Some(micro(1)),
        stop: Some(stop(3, StopReason::Preempted, 10)),
        start_time: Some(micro(2)),
        finish_time: Some(micro(3)),
        exit_code: Some(143),
        release: Some(Release {
            attempt: 3,
            time: None,
            lost: false,
        }),
        retries: [("Signal".to_owned(), 1)].into(),
        phase: Some(Phase::Stopping),
        ..claimed()
    };
    let after = requeue(&before, "preempted by job big");
    assert_eq!(after.phase, Some(Phase::Pending));
    assert_eq!(after.attempt, 3);
    assert_eq!(after.enqueue_time, before.enqueue_time);
    assert_eq!(after.retries, before.retries);
    assert_eq!(after.attempts.len(), 1);
    assert_eq!(after.attempts[0].exit_code, Some(143));
    assert_eq!(after.attempts[0].node_name.as_deref(), Some("node-a"));
    assert_eq!(
        (after.binding, after.claim, after.stop, after.release),
        (None, None, None, None)
    );
    assert_eq!(
        (after.start_time, after.finish_time, after.exit_code),
        (None, None, None)
    );
}

#[test]
fn a_requeue_remembers_at_most_sixteen_attempts() {
    let mut status = JobStatus::default();
    for attempt in 1..=40 {
        status.attempt = attempt;
        status.binding = bound().binding;
        status = requeue(&status, "again");
    }
    assert_eq!(status.attempts.len(), MAX_ATTEMPT_RECORDS);
    assert_eq!(
        status.attempts.last().map(|record| record.attempt),
        Some(40)
    );
    assert_eq!(requeue(&status, "again").attempts, status.attempts);
}

#[test]
fn an_ended_job_is_not_requeued() {
    let ended = JobStatus {
        outcome: Some(Outcome::Lost),
        phase: Some(Phase::Lost),
        ..claimed()
    };
    assert_eq!(requeue(&ended, "again"), ended);
}

#[test]
fn a_released_binding_holds_nothing() {
    assert!(held_binding(&bound()).is_some());
    let released = JobStatus {
        release: Some(Release {
            attempt: 3,
            time: None,
            lost: false,
        }),
        ..bound()
    };
    assert!(held_binding(&released).is_none());
}

#[test]
fn the_message_says_how_it_ended_and_why() {
    let cancelled = JobStatus {
        stop: Some(Stop {
            message: Some("cancelled by ann".into()),
            ..stop(3, StopReason::Cancelled, 10)
        }),
        ..claimed()
    };
    assert_eq!(
        terminal_message(&cancelled, &exit(143, true)),
        "cancelled (cancelled by ann); exited with code 143"
    );
    assert_eq!(
        terminal_message(&claimed(), &exit(3, false)),
        "exited with code 3"
    );
}

fn gang(rank: Option<u32>, bound: u32) -> GangStatus {
    GangStatus {
        size: 2,
        generation: 4,
        rank,
        bound,
        ..GangStatus::default()
    }
}

#[test]
fn a_member_of_a_gang_is_scheduled_until_its_own_generation_may_go() {
    let member = |go| JobStatus {
        gang: Some(gang(Some(1), 0)),
        go,
        ..claimed()
    };
    assert_eq!(derive(&member(None)), Phase::Scheduled);
    assert_eq!(derive(&member(Some(3))), Phase::Scheduled, "an earlier one");
    assert_eq!(derive(&member(Some(4))), Phase::Running);
    let silent = JobStatus {
        node_silent: true,
        ..member(None)
    };
    assert_eq!(derive(&silent), Phase::Scheduled, "nothing of it runs");
    assert_eq!(requeue(&member(Some(4)), "lost").gang, None);
}

#[test]
fn the_parent_of_a_gang_follows_its_members() {
    let parent = |bound, go| JobStatus {
        gang: Some(gang(None, bound)),
        go,
        ..JobStatus::default()
    };
    assert_eq!(derive(&parent(1, None)), Phase::Pending);
    assert_eq!(derive(&parent(2, None)), Phase::Scheduled);
    assert_eq!(derive(&parent(2, Some(3))), Phase::Scheduled);
    assert_eq!(derive(&parent(2, Some(4))), Phase::Running);
    assert_eq!(derive(&parent(1, Some(4))), Phase::Running, "one has ended");
}

#[test]
fn the_failure_of_a_member_of_a_gang_is_judged_with_its_gang() {
    let mut status = claimed();
    status.gang = Some(GangStatus {
        rank: Some(1),
        ..GangStatus::default()
    });
    let verdict = |spec: &JobSpec, code| verdict(spec, &status, &exit(code, false));
    let mut spec = JobSpec::default();
    assert_eq!(verdict(&spec, 1), None);
    assert_eq!(verdict(&spec, 0), Some(Outcome::Succeeded));
    spec.cancel = Some(true);
    assert_eq!(verdict(&spec, 1), Some(Outcome::Failed));
}
