//! Attempts in cgroups: nothing escapes by hiding from the tree, and nothing counts as ended before it is gone. Where
//! the host lets this user make no cgroup of a version, its tests say so on stderr and pass.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Agent, Host, wait_for};
use nodeagent::Cgroups;
use nodeagent::attempt::AttemptId;
use nodeagent::runner::Runner;

/// Leaves a process that is in no session, tree or environment of its attempt, prints its pid, and goes on.
const HIDE: &str = "(env -i setsid sleep 1003 & echo $!)";

/// The hierarchies that work here, tried with an attempt that tells where it is.
pub(crate) async fn usable(test: &str) -> Vec<Cgroups> {
    let mut found = Vec::new();
    for version in [Cgroups::V2, Cgroups::V1] {
        let host = Host::new();
        let mut agent = host.agent_with(version).await;
        let uid = uid(test, version);
        let id = agent.sh_as(&uid, "cat /proc/self/cgroup").await;
        agent.end_of(&id).await;
        if agent.output(&id).await.contains(&format!("/gctl/{id}\n")) {
            found.push(version);
        } else {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {test} for {version:?}: no such cgroup can be made here"
            );
        }
    }
    found
}

/// Cgroups are the host's: two tests must not mean the same one.
pub(crate) fn uid(test: &str, version: Cgroups) -> String {
    format!("{test}-{version:?}-{}", std::process::id())
}

/// The folder of an attempt's cgroup, by where a process of it is.
fn folder(version: Cgroups, pid: &str) -> PathBuf {
    let kind = if version == Cgroups::V2 {
        "cgroup2"
    } else {
        "freezer"
    };
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let path = cgroups
        .lines()
        .filter_map(|line| line.split_once("/gctl/"))
        .map(|(_, name)| name)
        .next()
        .expect("it is in one of ours");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    mounts
        .lines()
        .filter(|line| line.contains(kind))
        .filter_map(|line| line.split(' ').nth(4))
        .find_map(|point| below(Path::new(point), path))
        .expect("it is mounted")
}

fn below(point: &Path, name: &str) -> Option<PathBuf> {
    let mut next = vec![point.to_owned()];
    while let Some(folder) = next.pop() {
        let wanted = folder.join("gctl").join(name);
        if wanted.exists() {
            return Some(wanted);
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                next.push(entry.path());
            }
        }
    }
    None
}

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

fn shim_of(agent: &Agent, id: &AttemptId) -> i32 {
    agent.runner.root_process(id).expect("it runs")
}

fn kill(pid: i32) {
    let shim = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("ours");
}

/// Starts an attempt with a hidden process, and tells that one's pid once it is as hidden as it gets.
async fn hidden(agent: &Agent, uid: &str) -> (AttemptId, String) {
    let id = agent.sh_as(uid, &format!("{HIDE}; exec sleep 1001")).await;
    wait_for("the output", || agent.runner.output_len(&id) > 0).await;
    let pid = agent.output(&id).await.trim().to_owned();
    wait_for("the hidden process", || {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001003\0")
    })
    .await;
    (id, pid)
}

#[tokio::test]
async fn a_killed_shims_hidden_process_is_dead_before_the_end_is_told() {
    for version in usable("hidden-probe").await {
        let host = Host::new();
        let mut agent = host.agent_with(version).await;
        let (id, pid) = hidden(&agent, &uid("hidden", version)).await;
        let cgroup = folder(version, &pid);
        kill(shim_of(&agent, &id));
        let end = agent.end_of(&id).await;
        assert!(end.lost.is_some(), "{end:?}");
        assert!(!lives(&pid), "{pid} escaped with {version:?}");
        assert!(!cgroup.exists(), "{cgroup:?} was left");
    }
}

#[tokio::test]
async fn a_new_agent_kills_through_the_cgroup_when_the_shim_died_meanwhile() {
    for version in usable("adopted-probe").await {
        let host = Host::new();
        let agent = host.agent_with(version).await;
        let (id, pid) = hidden(&agent, &uid("adopted", version)).await;
        // A shim that is killed while no agent looks.
        let shim = shim_of(&agent, &id);
        drop(agent);
        kill(shim);
        // It finds the cgroup by the record, not by what it would itself choose.
        let mut next = host.agent_with(Cgroups::Off).await;
        let known = next.held.iter().find(|held| held.id == id).expect("held");
        if known.ended.is_none() {
            next.end_of(&id).await;
        }
        assert!(!lives(&pid), "{pid} escaped with {version:?}");
    }
}

#[tokio::test]
async fn a_tree_that_ignores_term_and_makes_more_of_itself_is_killed_and_the_cgroup_removed() {
    for version in usable("stop-probe").await {
        let host = Host::new();
        let mut agent = host.agent_with(version).await;
        let script = "trap '' TERM; grow() { while :; do (sleep 0.3 & sleep 0.2); done; }; \
                      grow & grow & echo $$; grow";
        let id = agent.sh_as(&uid("stop", version), script).await;
        wait_for("the output", || agent.runner.output_len(&id) > 0).await;
        let pid = agent.output(&id).await.trim().to_owned();
        let cgroup = folder(version, &pid);
        agent.stop_in(&id, Duration::from_millis(100)).await;
        assert_eq!(agent.end_of(&id).await.signal, Some(9));
        assert!(!cgroup.exists(), "{cgroup:?} was left");
    }
}

#[tokio::test]
async fn cgroups_that_a_job_made_below_its_own_are_killed_and_removed_too() {
    for version in usable("nested-probe").await {
        let host = Host::new();
        let mut agent = host.agent_with(version).await;
        let go = host.path().join("go");
        let script = format!(
            "echo $$; while [ ! -e {} ]; do sleep 0.02; done; exit 3",
            go.display()
        );
        let id = agent.sh_as(&uid("nested", version), &script).await;
        wait_for("the output", || agent.runner.output_len(&id) > 0).await;
        let pid = agent.output(&id).await.trim().to_owned();
        let cgroup = folder(version, &pid);
        // A process of nobody's tree, in a cgroup below the attempt's.
        let mut stranger = tokio::process::Command::new("sleep")
            .arg("1004")
            .spawn()
            .expect("sleep starts");
        let nested = cgroup.join("a/b");
        fs::create_dir_all(&nested).expect("writable");
        let stranger_pid = stranger.id().expect("it runs").to_string();
        fs::write(nested.join("cgroup.procs"), &stranger_pid).expect("writable");
        fs::write(go, "").expect("writable");
        let end = agent.end_of(&id).await;
        assert_eq!(end.code, Some(3), "{end:?}");
        assert!(!lives(&stranger_pid));
        assert!(!cgroup.exists(), "{cgroup:?} was left");
        stranger.wait().await.expect("it was killed");
    }
}

#[tokio::test]
async fn an_attempt_whose_cgroup_cannot_be_emptied_is_held_until_it_can() {
    // A process in v2 that the v1 freezer holds cannot die, as one in uninterruptible sleep cannot.
    if usable("lingering-probe").await.len() < 2 {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this needs v1 and v2");
        return;
    }
    let host = Host::new();
    let agent = host.agent_with(Cgroups::V2).await;
    let (id, pid) = hidden(&agent, &uid("lingering", Cgroups::V2)).await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let point = mounts
        .lines()
        .filter(|line| line.contains("freezer"))
        .find_map(|line| line.split(' ').nth(4))
        .expect("v1 works here");
    let freezer = Path::new(point).join(uid("gctl-test-freezer", Cgroups::V1));
    fs::create_dir(&freezer).expect("v1 works here");
    fs::write(freezer.join("cgroup.procs"), &pid).expect("writable");
    fs::write(freezer.join("freezer.state"), "FROZEN").expect("writable");
    wait_for("the process to be frozen", || {
        fs::read_to_string(freezer.join("freezer.state")).is_ok_and(|state| state == "FROZEN\n")
    })
    .await;
    let shim = shim_of(&agent, &id);
    drop(agent);
    kill(shim);

    let mut next = host.agent_with(Cgroups::V2).await;
    let known = next.held.iter().find(|held| held.id == id).expect("held");
    assert_eq!(known.ended, None, "it was told as ended while {pid} lived");
    assert!(lives(&pid));
    fs::write(freezer.join("freezer.state"), "THAWED").expect("writable");
    let end = next.end_of(&id).await;
    assert!(end.lost.is_some(), "{end:?}");
    assert!(!lives(&pid));
    wait_for("the freezer to be empty", || {
        fs::remove_dir(&freezer).is_ok()
    })
    .await;
}

#[tokio::test]
async fn without_cgroups_attempts_run_as_ever() {
    let host = Host::new();
    let mut agent = host.agent_with(Cgroups::Off).await;
    let id = agent
        .sh_as(&uid("off", Cgroups::Off), "cat /proc/self/cgroup; exit 4")
        .await;
    assert_eq!(agent.end_of(&id).await.code, Some(4));
    assert!(!agent.output(&id).await.contains(&id.to_string()));
}
