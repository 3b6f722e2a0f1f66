//! Members of gangs: claimed with an endpoint, kept waiting, begun by a write of their own, and given up as what they are
//! before that: nothing.

use crds::job::JobSpec;
use crds::job_status::GangStatus;

use super::tests::{BOOT, ME, NOW, claim, exit, fresh, job, observed, stale, stop, time, words};
use super::tests::{active, ended};
use super::*;

fn member(change: impl FnOnce(&mut JobSpec, &mut JobStatus)) -> Job {
    job(|spec, status| {
        status.gang = Some(GangStatus {
            size: 3,
            generation: 4,
            rank: Some(1),
            ..GangStatus::default()
        });
        change(spec, status);
    })
}

fn claimed_in(boot: &str, change: impl FnOnce(&mut JobSpec, &mut JobStatus)) -> Job {
    member(|spec, status| {
        status.claim = Some(claim(boot, 2));
        change(spec, status);
    })
}

fn written(observed: &Observed<'_>) -> JobStatus {
    match decide(observed).actions.as_slice() {
        [Action::Write(_, status)] => (**status).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, read as one")]
fn the_table_of_a_member_until_it_runs() {
    let bound = member(|_, _| {});
    let waiting = claimed_in(BOOT, |_, _| {});
    let of_another = claimed_in(BOOT, |_, status| status.go = Some(3));
    let may_go = claimed_in(BOOT, |_, status| status.go = Some(4));
    let begun = claimed_in(BOOT, |_, status| {
        status.go = Some(4);
        status.start_time = Some(micro(time(NOW)));
    });
    let cancelled = claimed_in(BOOT, |spec, status| {
        status.go = Some(4);
        spec.cancel = Some(true);
    });
    let with_stop = |reason| claimed_in(BOOT, |_, status| status.stop = Some(stop(reason, NOW)));
    let (preempted, stopped) = (
        with_stop(StopReason::Preempted),
        with_stop(StopReason::Cancelled),
    );
    let stopped_late = claimed_in(BOOT, |_, status| {
        status.go = Some(4);
        status.stop = Some(stop(StopReason::Drained, NOW));
    });
    let old_stop = claimed_in(BOOT, |_, status| {
        status.stop = Some(stop(StopReason::Preempted, NOW));
        status.stop.iter_mut().for_each(|stop| stop.attempt = 1);
    });
    let rebooted = claimed_in("boot-0", |_, _| {});
    let rebooted_late = claimed_in("boot-0", |_, status| status.go = Some(4));
    let rebooted_stopped = claimed_in("boot-0", |_, status| {
        status.stop = Some(stop(StopReason::Cancelled, NOW));
    });
    let lost = claimed_in("boot-0", |_, status| {
        status.go = Some(4);
        status.start_time = Some(micro(time(NOW)));
    });
    let ok = exit(0);
    let none = Vec::new;
    let rows: Vec<(&str, Observed<'_>, Vec<&str>)> = vec![
        (
            "claimed, it is not running",
            observed(stale(&bound), none()),
            vec!["write Claim Scheduled"],
        ),
        ("it waits", observed(stale(&waiting), none()), vec![]),
        (
            "it waits, whatever the server says of it now",
            observed(fresh(&waiting), none()),
            vec![],
        ),
        (
            "the go of another generation is none",
            observed(fresh(&of_another), none()),
            vec![],
        ),
        (
            "it begins by a write",
            observed(stale(&may_go), none()),
            vec!["write Begin Running"],
        ),
        (
            "begun, by the word of the watch",
            observed(stale(&begun), none()),
            vec!["read"],
        ),
        (
            "begun, by the word of the server",
            observed(fresh(&begun), none()),
            vec!["start 2"],
        ),
        (
            "it runs",
            observed(fresh(&begun), vec![active(2, None)]),
            vec![],
        ),
        (
            "it ended",
            observed(stale(&begun), vec![ended(2, &ok)]),
            vec!["write End Succeeded"],
        ),
        (
            "what is being cancelled is not begun",
            observed(fresh(&cancelled), none()),
            vec![],
        ),
        (
            "a stop before go",
            observed(stale(&preempted), none()),
            vec!["write End Stopping"],
        ),
        (
            "a cancel before go",
            observed(stale(&stopped), none()),
            vec!["write End Cancelled"],
        ),
        (
            "a stop before it began",
            observed(stale(&stopped_late), none()),
            vec!["write End Stopping"],
        ),
        (
            "a stop of an earlier attempt",
            observed(stale(&old_stop), none()),
            vec![],
        ),
        (
            "another boot",
            observed(stale(&rebooted), none()),
            vec!["write Again Pending"],
        ),
        (
            "another boot after go",
            observed(stale(&rebooted_late), none()),
            vec!["write Again Pending"],
        ),
        (
            "another boot, and cancelled",
            observed(stale(&rebooted_stopped), none()),
            vec!["write End Cancelled"],
        ),
        (
            // The gang controller says what follows for all of them.
            "another boot after it began",
            observed(fresh(&lost), none()),
            vec!["write End Stopping"],
        ),
    ];
    for (row, observed, expected) in rows {
        assert_eq!(words(&observed), expected, "{row}");
    }
}

#[test]
fn a_claim_says_where_the_member_is_reached_and_that_nothing_of_it_runs() {
    let bound = member(|_, _| {});
    let mut observed = observed(stale(&bound), vec![]);
    let endpoint = Endpoint {
        address: "10.0.0.7".to_owned(),
        port: 20_001,
    };
    observed.endpoint = Some(endpoint.clone());
    let status = written(&observed);
    let claim = status.claim.as_ref().expect("claimed");
    assert_eq!(
        (claim.node_name.as_str(), &claim.endpoint),
        (ME, &Some(endpoint))
    );
    assert_eq!(status.start_time, None);
    assert!(!phase::may_have_begun(&status));
}

#[test]
fn the_time_of_the_start_is_that_of_the_beginning() {
    let may_go = claimed_in(BOOT, |_, status| status.go = Some(4));
    let status = written(&observed(stale(&may_go), vec![]));
    assert_eq!(status.start_time, Some(micro(time(NOW))));
    assert!(phase::may_have_begun(&status));
}

#[test]
fn what_is_stopped_before_it_began_is_released_and_never_ran() {
    for (reason, outcome) in [
        (StopReason::Preempted, None),
        (StopReason::Drained, None),
        (StopReason::Suspended, None),
        (
            StopReason::Cancelled,
            Some(crds::job_status::Outcome::Cancelled),
        ),
    ] {
        let job = claimed_in(BOOT, |_, status| status.stop = Some(stop(reason, NOW)));
        let status = written(&observed(stale(&job), vec![]));
        assert_eq!(status.outcome, outcome, "{reason:?}");
        assert_eq!((status.start_time, status.exit_code), (None, None));
        let release = status.release.expect("nothing is left");
        assert_eq!((release.attempt, release.lost), (2, false));
    }
}

#[test]
fn a_reboot_before_the_start_is_no_loss() {
    let job = claimed_in("boot-0", |_, _| {});
    let status = written(&observed(stale(&job), vec![]));
    assert_eq!(
        (status.binding, status.gang, status.outcome),
        (None, None, None)
    );
    let record = status.attempts.last().expect("remembered");
    assert_eq!(record.start_time, None);
    let reason = record.reason.as_deref();
    assert_eq!(
        reason,
        Some("node n1 was started anew before the gang could start")
    );
}

#[test]
fn an_agent_that_ends_leaves_a_waiting_member_to_the_next_unless_it_ends_with_its_jobs() {
    let waiting = claimed_in(BOOT, |_, _| {});
    let may_go = claimed_in(BOOT, |_, status| status.go = Some(4));
    for job in [&waiting, &may_go] {
        let mut closing = observed(fresh(job), vec![]);
        closing.closing = true;
        assert_eq!(words(&closing), Vec::<String>::new());
        closing.stop_all = true;
        assert_eq!(words(&closing), ["write End Stopping"]);
        let status = written(&closing);
        assert_eq!(
            status.stop.map(|stop| stop.reason),
            Some(StopReason::Drained)
        );
    }
}

#[test]
fn who_waits_is_read_again_though_nothing_is_heard() {
    let waiting = claimed_in(BOOT, |_, _| {});
    let plan = decide(&observed(fresh(&waiting), vec![]));
    assert_eq!(plan.look_again, Some(time("2026-01-01T00:01:20Z")));
}

#[test]
fn every_write_for_a_member_moves_its_phase_as_the_table_allows() {
    let reasons = [
        None,
        Some(StopReason::Preempted),
        Some(StopReason::Cancelled),
    ];
    for claim_of in [None, Some(BOOT), Some("boot-0")] {
        for go in [None, Some(4)] {
            for reason in reasons {
                let job = member(|_, status| {
                    status.claim = claim_of.map(|boot| claim(boot, 2));
                    status.go = go;
                    status.stop = reason.map(|reason| stop(reason, NOW));
                });
                for action in decide(&observed(fresh(&job), vec![])).actions {
                    let Action::Write(write, next) = action else {
                        panic!("{action:?}");
                    };
                    let from = job.status.as_ref().and_then(|status| status.phase);
                    let (from, to) = (from.expect("derived"), next.phase.expect("derived"));
                    assert!(phase::may_move(from, to), "{write:?}: {from:?} -> {to:?}");
                    assert_eq!(to, phase::derive(&next));
                }
            }
        }
    }
}
