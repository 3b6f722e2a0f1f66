//! The decisions as a table: what is known, what is to be done; and that a plan carried out needs no other.

use crds::job::JobSpec;
use crds::job_status::{AttemptRecord, Binding, Effective, Outcome, Sourced};

use super::*;

pub(super) const NOW: &str = "2026-01-01T00:01:00Z";
pub(super) const ME: &str = "n1";
pub(super) const BOOT: &str = "boot-1";

pub(super) fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

pub(super) fn job(change: impl FnOnce(&mut JobSpec, &mut JobStatus)) -> Job {
    let mut spec = JobSpec::default();
    let mut status = JobStatus {
        attempt: 2,
        binding: Some(Binding {
            node_name: ME.to_owned(),
            time: Some(micro(time("2026-01-01T00:00:59Z"))),
            ..Binding::default()
        }),
        ..JobStatus::default()
    };
    change(&mut spec, &mut status);
    status.phase = Some(phase::derive(&status));
    let mut job = Job::new("j", spec);
    job.status = Some(status);
    job
}

pub(super) fn claim(boot_id: &str, attempt: u32) -> Claim {
    Claim {
        node_name: ME.to_owned(),
        boot_id: boot_id.to_owned(),
        attempt,
        time: None,
        endpoint: None,
    }
}

pub(super) fn stop(reason: StopReason, deadline: &str) -> Stop {
    Stop {
        attempt: 2,
        reason,
        by: "test".to_owned(),
        deadline: Time(time(deadline)),
        message: None,
    }
}

pub(super) fn claimed(change: impl FnOnce(&mut JobSpec, &mut JobStatus)) -> Job {
    job(|spec, status| {
        status.claim = Some(claim(BOOT, 2));
        change(spec, status);
    })
}

pub(super) fn active(attempt: u32, kill_at: Option<&str>) -> Local<'static> {
    Local {
        attempt,
        grace_secs: 30,
        checkpointed: None,
        state: LocalState::Active {
            kill_at: kill_at.map(time),
        },
    }
}

pub(super) fn ended(attempt: u32, ended: &Ended) -> Local<'_> {
    Local {
        attempt,
        grace_secs: 30,
        checkpointed: None,
        state: LocalState::Ended {
            ended,
            usage: None,
            report: true,
        },
    }
}

pub(super) fn observed<'a>(seen: Seen<'a>, locals: Vec<Local<'a>>) -> Observed<'a> {
    Observed {
        node_name: ME,
        boot_id: BOOT,
        seen,
        locals,
        misfit: None,
        endpoint: None,
        look: Look::Clear,
        in_contact: true,
        closing: false,
        stop_all: false,
        now: time(NOW),
    }
}

pub(super) fn fresh(job: &Job) -> Seen<'_> {
    Seen::Job { job, fresh: true }
}

pub(super) fn stale(job: &Job) -> Seen<'_> {
    Seen::Job { job, fresh: false }
}

/// The plan in words, for comparison.
pub(super) fn words(observed: &Observed<'_>) -> Vec<String> {
    let words = |action: Action| match action {
        Action::Read => "read".to_owned(),
        Action::Look => "look".to_owned(),
        Action::Start { attempt } => format!("start {attempt}"),
        Action::Stop { attempt, kill_at } => format!("stop {attempt} by {kill_at}"),
        Action::Thaw { attempt } => format!("thaw {attempt}"),
        Action::LetGo {
            attempt,
            keep_output,
        } => format!("let go {attempt} {keep_output}"),
        Action::Write(write, status) => {
            let phase = status.phase.map_or("none", Phase::as_str);
            format!("write {write:?} {phase}")
        }
    };
    decide(observed).actions.into_iter().map(words).collect()
}

pub(super) fn exit(code: i32) -> Ended {
    Ended {
        started_micros: Some(1_000_000),
        finished_micros: Some(2_000_000),
        code: Some(code),
        ..Ended::default()
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, read as one")]
fn the_table_of_a_jobs_life_on_its_node() {
    let bound = job(|_, _| {});
    let cancelled = job(|spec, _| spec.cancel = Some(true));
    let suspended = job(|spec, _| spec.suspend = Some(true));
    let mut deleting = job(|_, _| {});
    deleting.metadata.deletion_timestamp = Some(Time(time(NOW)));
    let stopped_early = job(|_, status| status.stop = Some(stop(StopReason::Cancelled, NOW)));
    let preempted_early = job(|_, status| status.stop = Some(stop(StopReason::Preempted, NOW)));
    let elsewhere = job(|_, status| {
        status.binding = Some(Binding {
            node_name: "n2".to_owned(),
            ..Binding::default()
        });
    });
    let unbound = job(|_, status| status.binding = None);
    let running = claimed(|_, _| {});
    let other_boot = job(|_, status| status.claim = Some(claim("boot-0", 2)));
    let old_claim = job(|_, status| status.claim = Some(claim(BOOT, 1)));
    let stopping = claimed(|_, status| {
        status.stop = Some(stop(StopReason::Cancelled, "2026-01-01T00:01:10Z"));
    });
    let old_stop = claimed(|_, status| {
        status.stop = Some(stop(StopReason::Cancelled, NOW));
        if let Some(stop) = &mut status.stop {
            stop.attempt = 1;
        }
    });
    let reported = claimed(|_, status| {
        status.outcome = Some(Outcome::Succeeded);
        status.release = Some(Release {
            attempt: 2,
            time: None,
            lost: false,
        });
    });
    let to_requeue = claimed(|_, status| {
        status.finish_time = Some(micro(time(NOW)));
        status.release = Some(Release {
            attempt: 2,
            time: None,
            lost: false,
        });
    });
    let lost = claimed(|_, status| status.outcome = Some(Outcome::Lost));
    let ok = exit(0);
    let no_locals = Vec::new;

    let rows: Vec<(&str, Observed<'_>, Vec<&str>)> = vec![
        (
            "a binding is claimed",
            observed(stale(&bound), no_locals()),
            vec!["write Claim Running"],
        ),
        (
            "a claim of an earlier attempt is none",
            observed(stale(&old_claim), no_locals()),
            vec!["write Claim Running"],
        ),
        (
            "a job that is being cancelled is not begun",
            observed(stale(&cancelled), no_locals()),
            vec![],
        ),
        (
            "a suspended job is not begun",
            observed(stale(&suspended), no_locals()),
            vec![],
        ),
        (
            "a job that is being deleted is not begun",
            observed(stale(&deleting), no_locals()),
            vec![],
        ),
        (
            "a stop before the claim ends it",
            observed(stale(&stopped_early), no_locals()),
            vec!["write End Cancelled"],
        ),
        (
            "a preemption before the claim releases it",
            observed(stale(&preempted_early), no_locals()),
            vec!["write End Stopping"],
        ),
        (
            "another node's job is left alone",
            observed(stale(&elsewhere), no_locals()),
            vec![],
        ),
        (
            "an unbound job is left alone",
            observed(stale(&unbound), no_locals()),
            vec![],
        ),
        (
            "a claim that only the watch tells is read again",
            observed(stale(&running), no_locals()),
            vec!["read"],
        ),
        (
            "a claim that the server confirmed is the permit",
            observed(fresh(&running), no_locals()),
            vec!["start 2"],
        ),
        (
            "what runs is not started again",
            observed(fresh(&running), vec![active(2, None)]),
            vec![],
        ),
        (
            "a claim of another boot is lost",
            observed(fresh(&other_boot), no_locals()),
            vec!["write End Failed"],
        ),
        (
            "claimed, stopped and never started",
            observed(fresh(&stopping), no_locals()),
            vec!["write End Cancelled"],
        ),
        (
            "a stop is passed on",
            observed(stale(&stopping), vec![active(2, None)]),
            vec!["stop 2 by 2026-01-01T00:01:10Z"],
        ),
        (
            "a stop is passed on once",
            observed(
                stale(&stopping),
                vec![active(2, Some("2026-01-01T00:01:10Z"))],
            ),
            vec![],
        ),
        (
            "a nearer deadline is passed on",
            observed(
                stale(&stopping),
                vec![active(2, Some("2026-01-01T00:02:00Z"))],
            ),
            vec!["stop 2 by 2026-01-01T00:01:10Z"],
        ),
        (
            "a farther deadline is not",
            observed(stale(&stopping), vec![active(2, Some(NOW))]),
            vec![],
        ),
        (
            "a stop of an earlier attempt is not believed",
            observed(stale(&old_stop), vec![active(2, None)]),
            vec![],
        ),
        (
            "an end is reported",
            observed(stale(&running), vec![ended(2, &ok)]),
            vec!["write End Succeeded"],
        ),
        (
            "a reported end is let go",
            observed(stale(&reported), vec![ended(2, &ok)]),
            vec!["let go 2 true"],
        ),
        (
            "an end that a controller judges is let go",
            observed(stale(&to_requeue), vec![ended(2, &ok)]),
            vec!["let go 2 true"],
        ),
        (
            "a reported end needs nothing",
            observed(stale(&reported), no_locals()),
            vec![],
        ),
        (
            "a judged end needs nothing",
            observed(fresh(&to_requeue), no_locals()),
            vec![],
        ),
        (
            "what runs of a lost job is stopped",
            observed(stale(&lost), vec![active(2, None)]),
            vec!["stop 2 by 2026-01-01T00:01:30Z"],
        ),
        (
            "what runs of an older attempt is stopped",
            observed(stale(&bound), vec![active(1, None)]),
            vec!["stop 1 by 2026-01-01T00:01:30Z", "write Claim Running"],
        ),
        (
            "an older attempt that ended is let go",
            observed(stale(&bound), vec![ended(1, &ok)]),
            vec!["let go 1 true", "write Claim Running"],
        ),
        (
            "what runs here and is bound elsewhere is stopped",
            observed(stale(&elsewhere), vec![active(2, None)]),
            vec!["stop 2 by 2026-01-01T00:01:30Z"],
        ),
        (
            "a doubt stops nothing",
            observed(Seen::Unverified, vec![active(2, None)]),
            vec!["read"],
        ),
        (
            "only gone stops",
            observed(Seen::Gone, vec![active(2, None)]),
            vec!["stop 2 by 2026-01-01T00:01:30Z"],
        ),
        (
            "and only once",
            observed(Seen::Gone, vec![active(2, Some(NOW))]),
            vec![],
        ),
        (
            "the output of a gone job is of no use",
            observed(Seen::Gone, vec![ended(2, &ok)]),
            vec!["let go 2 false"],
        ),
    ];
    for (row, observed, expected) in rows {
        assert_eq!(words(&observed), expected, "{row}");
    }
}

#[test]
fn a_plan_that_was_carried_out_needs_no_other() {
    let ok = exit(0);
    for (job, locals) in [
        (job(|_, _| {}), vec![]),
        (
            job(|_, status| status.stop = Some(stop(StopReason::Cancelled, NOW))),
            vec![],
        ),
        (claimed(|_, _| {}), vec![ended(2, &ok)]),
    ] {
        let plan = decide(&observed(fresh(&job), locals.clone()));
        let Some(Action::Write(write, next)) = plan.actions.last().cloned() else {
            panic!("{plan:?}");
        };
        let mut after = job.clone();
        after.status = Some(*next);
        let locals = match write {
            Write::Claim => vec![active(2, None)],
            _ => Vec::new(),
        };
        assert_eq!(
            words(&observed(fresh(&after), locals)),
            Vec::<String>::new()
        );
    }
}

#[test]
fn a_misfit_goes_back_to_the_queue_and_ever_later_when_it_comes_again() {
    let fresh_binding = job(|_, _| {});
    let mut first = observed(stale(&fresh_binding), vec![]);
    first.misfit = Some("GPU x is not on this node".to_owned());
    let plan = decide(&first);
    let [Action::Write(Write::Refuse, status)] = plan.actions.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!(
        (status.phase, &status.binding),
        (Some(Phase::Pending), &None)
    );
    let reason = status.attempts[0].reason.as_deref();
    assert_eq!(reason, Some("Refused: GPU x is not on this node"));

    let again = job(|_, status| {
        let record = |attempt| AttemptRecord {
            attempt,
            reason: Some("Refused: before".to_owned()),
            ..AttemptRecord::default()
        };
        status.attempts = vec![record(0), record(1)];
    });
    let mut second = observed(stale(&again), vec![]);
    second.misfit.clone_from(&first.misfit);
    let plan = decide(&second);
    assert_eq!(plan.actions, []);
    // Bound at :59, refused twice before: two seconds.
    assert_eq!(plan.look_again, Some(time("2026-01-01T00:01:01Z")));
    second.now = time("2026-01-01T00:01:01Z");
    assert_eq!(words(&second), ["write Refuse Pending"]);
}

#[test]
fn nothing_is_claimed_before_the_last_look() {
    let job = job(|_, _| {});
    let mut due = observed(stale(&job), vec![]);
    due.look = Look::Due;
    assert_eq!(words(&due), ["look"]);
    due.misfit = Some("full".to_owned());
    assert_eq!(words(&due), ["write Refuse Pending"], "no need to look");
    let mut missing = observed(stale(&job), vec![]);
    missing.look = Look::NoDirectory("/data".to_owned());
    let plan = decide(&missing);
    let [Action::Write(Write::Refuse, status)] = plan.actions.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!(status.excluded_nodes, [ME]);
}

#[test]
fn the_end_says_what_happened() {
    let status_of = |job: &Job, end: &Ended| {
        let plan = decide(&observed(stale(job), vec![ended(2, end)]));
        match plan.actions.as_slice() {
            [Action::Write(Write::End, status)] => (**status).clone(),
            other => panic!("{other:?}"),
        }
    };
    let running = claimed(|_, _| {});
    let succeeded = status_of(&running, &exit(0));
    assert_eq!((succeeded.exit_code, succeeded.message), (Some(0), None));
    assert_eq!(
        succeeded.start_time,
        Some(micro(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1)))
    );
    assert_eq!(
        succeeded.finish_time,
        Some(micro(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(2)))
    );
    assert_eq!(succeeded.release.map(|release| release.attempt), Some(2));

    let failed = status_of(&running, &exit(3));
    assert_eq!(
        (failed.outcome, failed.exit_code),
        (Some(Outcome::Failed), Some(3))
    );
    assert!(failed.message.is_some_and(|message| message.contains('3')));

    let limit = Ended {
        signal: Some(15),
        code: None,
        signalled: Some(SignalCause::Deadline),
        ..exit(0)
    };
    let timed_out = status_of(&running, &limit);
    assert_eq!(timed_out.outcome, Some(Outcome::TimedOut));
    assert_eq!(
        timed_out.stop.map(|stop| stop.by),
        Some("agent/n1".to_owned())
    );

    let stopping = claimed(|_, status| status.stop = Some(stop(StopReason::Cancelled, NOW)));
    assert_eq!(
        status_of(&stopping, &exit(0)).outcome,
        Some(Outcome::Succeeded),
        "it came first"
    );
    let signalled = Ended {
        signalled: Some(SignalCause::Stop),
        ..exit(0)
    };
    assert_eq!(
        status_of(&stopping, &signalled).outcome,
        Some(Outcome::Cancelled)
    );

    // The agent itself ended with its jobs: they go back to the queue.
    let drained = status_of(&running, &signalled);
    assert_eq!(
        (drained.outcome, drained.phase),
        (None, Some(Phase::Stopping))
    );
    assert_eq!(
        drained.stop.map(|stop| stop.reason),
        Some(StopReason::Drained)
    );

    let killed_shim = Ended {
        lost: Some("the shim was killed".to_owned()),
        ..Ended::default()
    };
    let lost = status_of(&running, &killed_shim);
    assert!(lost.release.is_some_and(|release| release.lost));
    assert_eq!(
        (lost.outcome, lost.message.as_deref()),
        (Some(Outcome::Failed), Some("the shim was killed"))
    );
}

#[test]
fn what_follows_an_end_that_nobody_saw_is_left_to_who_knows_the_policy() {
    let requeues = |status: &mut JobStatus| {
        status.effective = Some(Effective {
            on_node_lost: Sourced {
                value: OnNodeLost::Requeue,
                ..Sourced::default()
            },
            ..Effective::default()
        });
    };
    let other_boot = job(|_, status| {
        status.claim = Some(claim("boot-0", 2));
        status.start_time = Some(micro(time(NOW)));
        requeues(status);
    });
    let plan = decide(&observed(fresh(&other_boot), vec![]));
    let [Action::Write(Write::End, next)] = plan.actions.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!((next.outcome, next.phase), (None, Some(Phase::Stopping)));
    assert!(next.release.as_ref().is_some_and(|release| release.lost));
    assert!(next.finish_time.is_some() && next.start_time.is_some());

    let status_of = |job: &Job, end: &Ended| {
        let plan = decide(&observed(stale(job), vec![ended(2, end)]));
        match plan.actions.as_slice() {
            [Action::Write(Write::End, status)] => (**status).clone(),
            other => panic!("{other:?}"),
        }
    };
    let lost = Ended {
        lost: Some("the node was started anew".to_owned()),
        ..Ended::default()
    };
    let running = claimed(|_, status| requeues(status));
    assert_eq!(status_of(&running, &lost).outcome, None);
    let stopping = claimed(|_, status| status.stop = Some(stop(StopReason::Cancelled, NOW)));
    assert_eq!(status_of(&stopping, &lost).outcome, None, "Cancelled, then");
    let seen = claimed(|_, status| requeues(status));
    assert_eq!(status_of(&seen, &exit(3)).outcome, Some(Outcome::Failed));
}

#[test]
fn an_end_is_not_reported_before_its_output_is_sent() {
    let running = claimed(|_, _| {});
    let end = exit(0);
    let mut local = ended(2, &end);
    if let LocalState::Ended { report, .. } = &mut local.state {
        *report = false;
    }
    assert_eq!(
        words(&observed(stale(&running), vec![local])),
        Vec::<String>::new()
    );
}

#[test]
fn a_closing_agent_begins_nothing_and_one_that_ends_with_its_jobs_stops_them() {
    let bound = job(|_, _| {});
    let mut closing = observed(stale(&bound), vec![]);
    closing.closing = true;
    assert_eq!(words(&closing), Vec::<String>::new());
    let running = claimed(|_, _| {});
    let mut leaving = observed(fresh(&running), vec![active(2, None)]);
    leaving.closing = true;
    leaving.stop_all = true;
    assert_eq!(words(&leaving), ["stop 2 by 2026-01-01T00:01:30Z"]);
}

#[test]
fn every_write_moves_the_phase_as_the_table_allows() {
    let ok = exit(0);
    let jobs = vec![
        job(|_, _| {}),
        claimed(|_, _| {}),
        job(|_, status| status.stop = Some(stop(StopReason::Drained, NOW))),
        claimed(|_, status| status.stop = Some(stop(StopReason::TimedOut, NOW))),
        job(|_, status| status.claim = Some(claim("boot-0", 2))),
        claimed(|_, status| status.node_silent = true),
    ];
    for job in &jobs {
        // Nothing is known here of an attempt that was never claimed.
        let is_claimed = job.status.as_ref().is_some_and(|s| s.claim.is_some());
        let known = [vec![], vec![active(2, None)], vec![ended(2, &ok)]];
        let count = if is_claimed { known.len() } else { 1 };
        for locals in known.into_iter().take(count) {
            let looks = [
                Look::Clear,
                Look::Full("full".to_owned()),
                Look::NoDirectory("/x".to_owned()),
            ];
            for look in looks {
                let mut observed = observed(fresh(job), locals.clone());
                observed.look = look;
                for action in decide(&observed).actions {
                    if let Action::Write(write, next) = action {
                        let before = job.status.as_ref().and_then(|status| status.phase);
                        let (from, to) = (before.expect("derived"), next.phase.expect("derived"));
                        assert!(phase::may_move(from, to), "{write:?}: {from:?} -> {to:?}");
                        assert_eq!(to, phase::derive(&next));
                    }
                }
            }
        }
    }
}
