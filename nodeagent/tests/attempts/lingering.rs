//! Processes that do not die when they are killed: the end is told all the same, and the proof follows.
//!
//! The freezer of cgroup v1 stands in for a D state: what is frozen there dies of KILL only when it is thawed. Where this
//! user cannot have one, its tests say so on stderr and pass.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::{Host, wait_for};
use nodeagent::Cgroups;
use nodeagent::attempt::SignalCause;
use nodeagent::runner::Runner;

/// A frozen cgroup of this test's own, outside of any attempt's.
struct Ice {
    folder: PathBuf,
}

impl Ice {
    fn new(test: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mounted = mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - cgroup ")?;
            kind.contains("freezer").then(|| place.split(' ').nth(4))?
        });
        let folder = mounted
            .map(|point| PathBuf::from(point).join(format!("{test}-{}", std::process::id())))
            .filter(|folder| fs::create_dir(folder).is_ok());
        if folder.is_none() {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {test}: no v1 freezer can be had here"
            );
        }
        folder.map(|folder| Self { folder })
    }

    fn freeze(&self, pid: &str) {
        fs::write(self.folder.join("cgroup.procs"), pid).expect("ours");
        let state = self.folder.join("freezer.state");
        fs::write(&state, "FROZEN").expect("writable");
    }

    fn thaw(&self) {
        fs::write(self.folder.join("freezer.state"), "THAWED").expect("writable");
    }
}

impl Drop for Ice {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("freezer.state"), "THAWED");
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tokio::test]
async fn what_ignores_the_end_of_its_command_is_named_with_that_end_and_killed_later() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let id = agent
        .sh("trap '' TERM; (while :; do sleep 0.2; done) & echo $!; exit 3")
        .await;
    let end = agent.end_of(&id).await;
    let pid: i32 = agent.output(&id).await.trim().parse().expect("a pid");
    assert_eq!((end.code, end.signalled), (Some(3), None));
    let lingering = end.lingering.expect("it is there");
    assert!(lingering.contains(&pid), "{pid} of {lingering:?}");
    let end = agent.end_of(&id).await;
    assert_eq!((end.code, end.lingering), (Some(3), None));
    assert!(!fs::exists(format!("/proc/{pid}")).expect("readable"));
    let notes = fs::read_dir(host.data_dir().join("lingering")).expect("readable");
    assert_eq!(notes.count(), 0, "the note is taken away");
}

#[tokio::test]
async fn a_command_that_does_not_die_of_kill_is_told_as_killed_across_agents() {
    let Some(ice) = Ice::new("gctl-undying") else {
        return;
    };
    let host = Host::new();
    let mut agent = host.agent_with(Cgroups::Off).await;
    let id = agent.sh("echo $$; exec sleep 1000").await;
    wait_for("the output", || agent.runner.output_len(&id) > 0).await;
    let pid = agent.output(&id).await.trim().to_owned();
    ice.freeze(&pid);
    agent.stop_in(&id, Duration::from_millis(10)).await;
    let told = agent.end_of(&id).await;
    assert_eq!(
        (told.signal, told.signalled),
        (Some(9), Some(SignalCause::Stop))
    );
    assert_eq!(told.lingering, Some(vec![pid.parse().expect("a pid")]));
    drop(agent);

    let mut agent = host.agent_with(Cgroups::Off).await;
    assert_eq!(agent.held.len(), 1);
    assert_eq!(agent.held[0].ended, Some(told.clone()), "it is remembered");
    let processes = agent.runner.processes(id.clone()).await;
    assert_eq!(Some(processes), told.lingering);
    ice.thaw();
    let gone = agent.end_of(&id).await;
    assert_eq!(
        (gone.signal, gone.code, gone.lingering),
        (Some(9), None, None)
    );
    assert_eq!(gone.finished_micros, told.finished_micros);
}

#[tokio::test]
async fn what_a_killed_shim_left_and_does_not_die_is_told_as_lost_first() {
    let Some(ice) = Ice::new("gctl-orphan") else {
        return;
    };
    let host = Host::new();
    let mut agent = host.agent_with(Cgroups::Off).await;
    // What a test that was killed left behind is not this one's.
    let uid = format!("orphan-{}", std::process::id());
    let id = agent.sh_as(&uid, "echo $$; exec sleep 1000").await;
    wait_for("the output", || agent.runner.output_len(&id) > 0).await;
    let pid = agent.output(&id).await.trim().to_owned();
    ice.freeze(&pid);
    let shim = agent.runner.root_process(&id).expect("it runs");
    let shim = rustix::process::Pid::from_raw(shim).expect("a pid");
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("ours");
    let told = agent.end_of(&id).await;
    assert!(told.lost.is_some(), "{told:?}");
    assert_eq!(told.lingering, Some(vec![pid.parse().expect("a pid")]));
    ice.thaw();
    let gone = agent.end_of(&id).await;
    assert_eq!((gone.lost, gone.lingering), (told.lost, None));
}
