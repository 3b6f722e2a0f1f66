//! Where jobs keep their checkpoints, and how they say that one is complete.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nodeagent::attempt::{AttemptId, StartRequest};
use nodeagent::runner::Runner;

use crate::common::{Agent, Host, request, wait_for};

async fn start(agent: &Agent, request: StartRequest) -> AttemptId {
    let id = request.id.clone();
    agent.runner.start(request).await.expect("accepted");
    id
}

fn saving(root: &tempfile::TempDir, attempt: u32, script: &str) -> StartRequest {
    let mut request = request("saver", script);
    request.id.attempt = attempt;
    request.checkpoint_dir = Some(root.path().join("saver").to_string_lossy().into_owned());
    request
}

#[tokio::test]
async fn the_next_attempt_finds_what_the_one_before_has_saved() {
    let host = Host::new();
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut agent = host.agent().await;
    let script = "cat $GCTL_CHECKPOINT_DIR/step 2>/dev/null; echo 7 > $GCTL_CHECKPOINT_DIR/step";
    let first = start(&agent, saving(&root, 1, script)).await;
    let end = agent.end_of(&first).await;
    assert_eq!(end.code, Some(0), "{end:?}");
    assert_eq!(end.checkpointed_micros, None, "it did not say so");
    let mode = fs::metadata(root.path().join("saver")).map(|data| data.permissions().mode());
    assert_eq!(mode.expect("it is there") & 0o777, 0o700);
    let second = start(&agent, saving(&root, 2, script)).await;
    agent.end_of(&second).await;
    assert_eq!(agent.output(&second).await, "7\n");
}

#[tokio::test]
async fn touching_the_file_says_that_a_checkpoint_is_complete_while_the_job_runs() {
    let host = Host::new();
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut agent = host.agent().await;
    let script = "echo up; read go < $GCTL_CHECKPOINT_DIR/go; touch $GCTL_CHECKPOINT_ACK; echo told; sleep 1000";
    fs::create_dir(root.path().join("saver")).expect("writable");
    let go = root.path().join("saver/go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let id = start(&agent, saving(&root, 1, script)).await;
    agent.output_is(&id, "up\n").await;
    let told = agent.runner.checkpoints(vec![id.clone()]).await;
    assert!(
        told.is_empty(),
        "nothing is told before it is said: {told:?}"
    );
    fs::write(&go, "go\n").expect("writable");
    wait_for("the touch", || agent.runner.output_len(&id) >= 8).await;
    let told = agent.runner.checkpoints(vec![id.clone()]).await;
    let [(_, micros)] = told.as_slice() else {
        panic!("{told:?}");
    };
    agent.stop_in(&id, Duration::from_secs(30)).await;
    let end = agent.end_of(&id).await;
    assert_eq!(end.checkpointed_micros, Some(*micros), "the end repeats it");
}

#[tokio::test]
async fn the_line_in_the_output_counts_after_the_signal_and_not_before() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let saves =
        "trap 'echo gctl-checkpoint-complete; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let id = agent.sh_as("saves", saves).await;
    agent.output_is(&id, "up\n").await;
    agent.stop_in(&id, Duration::from_secs(30)).await;
    let end = agent.end_of(&id).await;
    assert_eq!(end.code, Some(0));
    assert!(end.signalled.is_some() && end.checkpointed_micros.is_some());

    let early = "trap 'exit 0' TERM; echo gctl-checkpoint-complete; while :; do sleep 0.05; done";
    let id = agent.sh_as("early", early).await;
    agent.output_is(&id, "gctl-checkpoint-complete\n").await;
    agent.stop_in(&id, Duration::from_secs(30)).await;
    let end = agent.end_of(&id).await;
    assert!(end.signalled.is_some());
    assert_eq!(end.checkpointed_micros, None);
}

#[tokio::test]
async fn a_place_that_cannot_be_used_fails_the_start_and_is_named() {
    let host = Host::new();
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut agent = host.agent().await;
    let mut request = saving(&root, 1, "true");
    request.checkpoint_dir = Some("/no/such/root/saver".to_owned());
    let id = start(&agent, request).await;
    let end = agent.end_of(&id).await;
    assert_eq!(end.code, Some(126));
    let error = end.start_error.expect("a reason");
    assert!(error.contains("`/no/such/root/saver`"), "{error}");
}
