//! Real processes under real shims: exits, stops, trees, and agents that are killed and come back.

#[path = "attempts/cgroups.rs"]
mod cgroups;
#[path = "attempts/checkpoints.rs"]
mod checkpoints;
mod common;
#[path = "attempts/fences.rs"]
mod fences;
#[path = "attempts/gangs.rs"]
mod gangs;
#[path = "attempts/lingering.rs"]
mod lingering;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use common::{Agent, Host, request, wait_for};
use nodeagent::attempt::{AttemptId, Program, RunAs, SignalCause};
use nodeagent::runner::Runner;

#[tokio::test]
async fn an_exit_code_and_the_whole_output_are_recorded() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent.sh("echo out; echo err >&2; exit 3").await;
    let end = agent.end_of(&id).await;
    assert_eq!(
        (end.code, end.signal, end.start_error),
        (Some(3), None, None)
    );
    assert!(end.started_micros.is_some() && end.finished_micros >= end.started_micros);
    assert_eq!(agent.output(&id).await, "out\nerr\n");
}

#[tokio::test]
async fn a_signal_of_its_own_is_told_apart_from_a_stop() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent.sh("kill -9 $$").await;
    let end = agent.end_of(&id).await;
    assert_eq!((end.code, end.signal, end.signalled), (None, Some(9), None));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let cases = [
        (vec!["no-such-command-here"], None, 127, "not found in PATH"),
        (vec!["/no/such/file"], None, 127, "/no/such/file"),
        (vec!["/etc/passwd"], None, 126, "Permission denied"),
        (vec!["true"], Some("/no/such/dir"), 126, "working directory"),
    ];
    for (index, (words, dir, code, text)) in cases.into_iter().enumerate() {
        let mut request = request(&format!("bad{index}"), "");
        request.program = Program::Command(words.into_iter().map(str::to_owned).collect());
        request.working_dir = dir.map(str::to_owned);
        let id = request.id.clone();
        agent.runner.start(request).await.expect("accepted");
        let end = agent.end_of(&id).await;
        assert_eq!(end.code, Some(code), "{end:?}");
        let error = end.start_error.expect("a reason");
        let log = agent.output(&id).await;
        assert_eq!(log, format!("gctl: not started: {error}\n"));
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_script_runs_by_its_first_line_or_by_sh() {
    let host = Host::new();
    let mut agent = host.agent().await;
    for (uid, script) in [
        ("plain", "echo \"$0\" | grep -c script"),
        ("cat", "#!/bin/cat\nhello"),
    ] {
        let mut request = request(uid, "");
        request.program = Program::Script(script.to_owned());
        let id = request.id.clone();
        agent.runner.start(request).await.expect("accepted");
        assert_eq!(agent.end_of(&id).await.code, Some(0));
        let output = agent.output(&id).await;
        assert!(output == "1\n" || output.ends_with("hello"), "{output}");
    }
}

#[tokio::test]
async fn a_job_sees_only_the_environment_it_was_given_and_no_descriptors() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent
        .sh("env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort; ls /proc/self/fd | tr '\\n' ' '; readlink /proc/$$/fd/0")
        .await;
    agent.end_of(&id).await;
    let output = agent.output(&id).await;
    // ls itself opens the directory as descriptor 3.
    let expected = format!(
        "GCTL_ATTEMPT=1\nGCTL_JOB_UID={}\nPATH=/usr/bin:/bin\n0 1 2 3 /dev/null\n",
        id.uid
    );
    assert_eq!(output, expected);
}

#[tokio::test]
async fn the_same_attempt_is_started_once() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let marker = host.path().join("marker");
    let command = format!("echo x >> {}", marker.display());
    let id = agent.sh_as("once", &command).await;
    agent.sh_as("once", &command).await;
    agent.end_of(&id).await;
    // The second shim finds the gate and ends; its end is told from the same record.
    let second = agent.end_of(&id).await;
    assert_eq!(second.code, Some(0));
    assert_eq!(fs::read_to_string(marker).expect("written"), "x\n");
}

#[tokio::test]
async fn a_stop_terms_the_tree_and_is_recorded_as_first() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent
        .sh("trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
        .await;
    agent.output_is(&id, "ready\n").await;
    agent.stop_in(&id, Duration::from_mins(1)).await;
    let end = agent.end_of(&id).await;
    assert_eq!(
        (end.code, end.signalled),
        (Some(7), Some(SignalCause::Stop))
    );
    assert!(agent.output(&id).await.ends_with("term\n"));
}

#[tokio::test]
async fn a_tree_that_ignores_term_and_hides_in_other_sessions_is_killed_after_the_grace() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let pids = host.path().join("pids");
    let id = agent
        .sh(&format!(
            "trap '' TERM; p={}; \
             (setsid sh -c \"echo \\$\\$ >> $p; trap '' TERM; (sleep 1000 & echo \\$! >> $p); while :; do sleep 1; done\" &) ; \
             sh -c \"(sleep 1001 & echo \\$! >> $p)\"; \
             while [ $(wc -l < $p) -lt 3 ]; do sleep 0.02; done; echo ready; while :; do sleep 1; done",
            pids.display()
        ))
        .await;
    agent.output_is(&id, "ready\n").await;
    agent.stop_in(&id, Duration::from_millis(300)).await;
    let end = agent.end_of(&id).await;
    assert_eq!(
        (end.signal, end.signalled),
        (Some(9), Some(SignalCause::Stop))
    );
    for pid in fs::read_to_string(pids).expect("written").lines() {
        assert!(
            !fs::exists(format!("/proc/{pid}")).expect("readable"),
            "{pid} lives"
        );
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent.sh("setsid sleep 1000 & echo $!; exit 0").await;
    let end = agent.end_of(&id).await;
    assert_eq!((end.code, end.signalled), (Some(0), None));
    let pid = agent.output(&id).await;
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).expect("readable"));
}

#[tokio::test]
async fn the_shim_keeps_the_wall_clock_limit() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let mut request = request("limit", "exec sleep 1000");
    request.deadline_secs = Some(1);
    let id = request.id.clone();
    agent.runner.start(request).await.expect("accepted");
    let end = agent.end_of(&id).await;
    assert_eq!(
        (end.signal, end.signalled),
        (Some(15), Some(SignalCause::Deadline))
    );
}

#[tokio::test]
async fn a_stop_that_comes_before_the_start_leaves_nothing_to_run() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let request = request("early", "echo ran");
    let id = request.id.clone();
    agent.stop_in(&id, Duration::from_mins(1)).await;
    agent.runner.start(request).await.expect("accepted");
    let end = agent.end_of(&id).await;
    assert_eq!(end.signalled, Some(SignalCause::Stop));
    assert!(
        end.start_error.is_some() && end.started_micros.is_none(),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs_and_what_ended() {
    let host = Host::new();
    let agent = host.agent().await;
    let go = host.path().join("go");
    let waits = format!(
        "echo before; while [ ! -e {} ]; do sleep 0.02; done; echo after; exit 5",
        go.display()
    );
    let runs = agent.sh_as("runs", &waits).await;
    let ended = agent.sh_as("ended", "exit 4").await;
    agent.output_is(&runs, "before\n").await;
    wait_for("the record of the ended attempt", || {
        let record = host.data_dir().join(format!("attempts/{ended}/record"));
        fs::read_to_string(record).is_ok_and(|text| text.contains("Emptied"))
    })
    .await;
    drop(agent);

    let mut next = host.agent().await;
    let held: Vec<_> = next
        .held
        .iter()
        .map(|held| {
            (
                held.id.clone(),
                held.ended.as_ref().and_then(|end| end.code),
            )
        })
        .collect();
    assert_eq!(held, [(ended, Some(4)), (runs.clone(), None)]);
    fs::write(go, "").expect("writable");
    assert_eq!(next.end_of(&runs).await.code, Some(5));
    assert_eq!(next.output(&runs).await, "before\nafter\n");
}

#[tokio::test]
async fn an_adopted_attempt_can_be_stopped() {
    let host = Host::new();
    let agent = host.agent().await;
    let id = agent.sh_as("old", "echo up; exec sleep 1000").await;
    agent.output_is(&id, "up\n").await;
    drop(agent);
    let mut next = host.agent().await;
    next.stop_in(&id, Duration::from_mins(1)).await;
    let end = next.end_of(&id).await;
    assert_eq!(
        (end.signal, end.signalled),
        (Some(15), Some(SignalCause::Stop))
    );
}

#[tokio::test]
async fn when_a_shim_is_killed_its_tree_is_too_and_the_exit_is_unknown() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent.sh("(setsid sleep 1000 & echo $!)").await;
    let keep = agent
        .sh_as("victim", "setsid sleep 1002 & echo $!; exec sleep 1001")
        .await;
    agent.end_of(&id).await;
    wait_for("the output", || agent.runner.output_len(&keep) > 0).await;
    let child = agent.output(&keep).await;
    let shim = agent.runner.root_process(&keep).expect("it runs");
    let shim = rustix::process::Pid::from_raw(shim).expect("a pid");
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("ours");
    let end = agent.end_of(&keep).await;
    assert!(end.lost.is_some() && end.code.is_none(), "{end:?}");
    wait_for("the remains to be gone", || {
        !fs::exists(format!("/proc/{}", child.trim())).expect("readable")
    })
    .await;
}

#[tokio::test]
async fn when_the_spawner_is_killed_its_shims_live_and_new_ones_are_forked() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let go = host.path().join("go");
    let waits = format!(
        "echo up; while [ ! -e {} ]; do sleep 0.02; done; exit 6",
        go.display()
    );
    let old = agent.sh_as("old", &waits).await;
    agent.output_is(&old, "up\n").await;
    let shim = agent.runner.root_process(&old).expect("it runs");
    let status = fs::read_to_string(format!("/proc/{shim}/status")).expect("it lives");
    let spawner = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .and_then(|pid| pid.trim().parse().ok())
        .and_then(rustix::process::Pid::from_raw)
        .expect("it has a parent");
    rustix::process::kill_process(spawner, rustix::process::Signal::KILL).expect("ours");
    let new = agent.sh_as("new", "exit 2").await;
    assert_eq!(agent.end_of(&new).await.code, Some(2));
    fs::write(go, "").expect("writable");
    assert_eq!(agent.end_of(&old).await.code, Some(6));
}

#[tokio::test]
async fn forgotten_attempts_leave_no_files() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent.sh("echo bye").await;
    agent.end_of(&id).await;
    agent
        .runner
        .forget(vec![id.clone()])
        .await
        .expect("accepted");
    wait_for("the directory to be gone", || {
        !host.data_dir().join(format!("attempts/{id}")).exists()
    })
    .await;
    drop(agent);
    assert!(host.agent().await.held.is_empty());
}

#[tokio::test]
async fn a_directory_that_is_used_again_shows_the_next_job_nothing_of_the_last() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let mut inodes = BTreeSet::new();
    // Whether a directory is ready in time for the next attempt is up to the threads; it is before long.
    for number in 0.. {
        assert!(number < 1000, "no directory was ever used again");
        let uid = format!("job{number}");
        let id = agent
            .sh_as(&uid, "stat -c %i ..; ls -A; wc -l < ../log; ls ..; exit 9")
            .await;
        let end = agent.end_of(&id).await;
        assert_eq!((end.code, end.lost), (Some(9), None));
        let output = agent.output(&id).await;
        let (inode, rest) = output.split_once('\n').expect("lines");
        assert_eq!(rest, "1\nlog\nrecord\nwork\n");
        if !inodes.insert(inode.to_owned()) {
            break;
        }
        forget(&host, &agent, &id).await;
    }
}

#[tokio::test]
async fn a_directory_with_something_left_in_it_is_not_used_again() {
    let host = Host::new();
    let mut agent = host.agent().await;
    for uid in ["one", "two", "three"] {
        let id = agent.sh_as(uid, "ls -A; touch left").await;
        agent.end_of(&id).await;
        assert_eq!(agent.output(&id).await, "");
        forget(&host, &agent, &id).await;
        assert!(
            host.data_dir()
                .join(format!("trash/{id}/work/left"))
                .exists()
        );
    }
}

async fn forget(host: &Host, agent: &Agent, id: &AttemptId) {
    let forgotten = agent.runner.forget(vec![id.clone()]).await;
    forgotten.expect("accepted");
    wait_for("the attempt to be forgotten", || {
        !host.data_dir().join(format!("attempts/{id}")).exists()
    })
    .await;
}

#[tokio::test]
async fn root_runs_a_job_as_another_user_who_cannot_pass_the_folders_above_its_own() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let host = Host::new();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(host.path(), closed).expect("ours");
    let mut agent = host.agent().await;
    let mut request = request("other", "");
    request.program = Program::Script("id -u; id -G; touch made && ls".to_owned());
    request.run_as = Some(RunAs {
        uid: 65534,
        gid: 65534,
        groups: vec![65534],
    });
    let id = request.id.clone();
    agent.runner.start(request).await.expect("accepted");
    let end = agent.end_of(&id).await;
    let output = agent.output(&id).await;
    assert_eq!(end.code, Some(0), "{end:?} {output}");
    assert_eq!(output, "65534\n65534\nmade\n");
}
