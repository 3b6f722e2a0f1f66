//! What the tests with real processes share: a host with a data directory, and agents' ends of its runner.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodeagent::attempt::{AttemptId, Charge, Ended, Held, Program, StartRequest};
use nodeagent::runner::Runner;
use nodeagent::{Cgroups, ShimRunner};
use tokio::sync::mpsc;

/// Longest wait for anything; never reached when all is well.
const LONGEST: Duration = Duration::from_mins(1);

/// A machine with a data directory.
pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// One life of an agent on it.
pub(crate) struct Agent {
    pub(crate) runner: ShimRunner,
    pub(crate) held: Vec<Held>,
    fences: mpsc::Receiver<AttemptId>,
    ends: mpsc::Receiver<(AttemptId, Ended)>,
    early: BTreeMap<AttemptId, Vec<Ended>>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path().join("agent")
    }

    pub(crate) async fn agent(&self) -> Agent {
        self.agent_with(Cgroups::Best).await
    }

    pub(crate) async fn agent_with(&self, cgroups: Cgroups) -> Agent {
        let executable = PathBuf::from(env!("CARGO_BIN_EXE_nodeagent"));
        let runner = ShimRunner::with_executable(self.data_dir(), executable).with_cgroups(cgroups);
        let attached = loop {
            // The last agent's lock goes with its last task.
            match runner.attach().await {
                Ok(attached) => break attached,
                Err(nodeagent::runner::RunnerError::InUse(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        };
        Agent {
            runner,
            held: attached.held,
            fences: attached.fences,
            ends: attached.ends,
            early: BTreeMap::new(),
        }
    }
}

impl Agent {
    pub(crate) async fn sh(&self, script: &str) -> AttemptId {
        self.sh_as("job", script).await
    }

    pub(crate) async fn sh_as(&self, uid: &str, script: &str) -> AttemptId {
        let request = request(uid, script);
        let id = request.id.clone();
        self.runner.start(request).await.expect("accepted");
        id
    }

    pub(crate) async fn end_of(&mut self, id: &AttemptId) -> Ended {
        loop {
            if let Some(end) = self.early.get_mut(id).and_then(Vec::pop) {
                return end;
            }
            let (id, end) = tokio::time::timeout(LONGEST, self.ends.recv())
                .await
                .expect("an end in time")
                .expect("the runner lives");
            self.early.entry(id).or_default().push(end);
        }
    }

    pub(crate) async fn next_fenced(&mut self) -> AttemptId {
        tokio::time::timeout(LONGEST, self.fences.recv())
            .await
            .expect("a fence in time")
            .expect("the runner lives")
    }

    pub(crate) async fn output(&self, id: &AttemptId) -> String {
        let bytes = self
            .runner
            .output(id.clone(), 0, 1 << 20)
            .await
            .expect("readable");
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    pub(crate) async fn output_is(&self, id: &AttemptId, expected: &str) {
        wait_for("the output", || {
            self.runner.output_len(id) >= expected.len() as u64
        })
        .await;
        assert_eq!(self.output(id).await, expected);
    }

    pub(crate) async fn stop_in(&self, id: &AttemptId, grace: Duration) {
        let kill_at = jiff::Timestamp::now() + grace;
        self.runner
            .stop(id.clone(), kill_at)
            .await
            .expect("accepted");
    }
}

/// A request to run a script by sh.
pub(crate) fn request(uid: &str, script: &str) -> StartRequest {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    StartRequest {
        id: AttemptId {
            uid: uid.to_owned(),
            attempt: 1,
        },
        namespace: "default".to_owned(),
        name: uid.to_owned(),
        program: Program::Command(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
        env: vec![
            pair("PATH", "/usr/bin:/bin"),
            pair("GCTL_JOB_UID", uid),
            pair("GCTL_ATTEMPT", "1"),
        ],
        hostfile: None,
        checkpoint_dir: None,
        working_dir: None,
        run_as: None,
        grace_secs: 30,
        deadline_secs: None,
        fence: None,
        charge: Charge::default(),
        boot_id: "boot".to_owned(),
    }
}

/// Waits until something outside this process is true.
pub(crate) async fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let poll = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONGEST, poll)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
