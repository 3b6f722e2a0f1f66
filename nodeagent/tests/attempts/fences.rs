//! Attempts without contact: frozen or ended by their own shims, and thawed only when they are told to go on.

use std::time::Duration;

use crate::cgroups::{uid, usable};
use crate::common::{Agent, Host, request, wait_for};
use nodeagent::Cgroups;
use nodeagent::attempt::{AttemptId, Fence, SignalCause, StartRequest};
use nodeagent::runner::Runner;

/// Writes something all the time.
const BUSY: &str = "while :; do echo x; sleep 0.02; done";

fn fenced(uid: &str, script: &str, kill: bool) -> StartRequest {
    StartRequest {
        fence: Some(Fence { secs: 1, kill }),
        ..request(uid, script)
    }
}

async fn start(agent: &Agent, request: StartRequest) -> AttemptId {
    let id = request.id.clone();
    agent.runner.acknowledged(agent.runner.boot_micros());
    agent.runner.start(request).await.expect("accepted");
    id
}

/// Does it write nothing for as long as it would have written ten times?
async fn stands_still(agent: &Agent, id: &AttemptId) -> bool {
    let before = agent.runner.output_len(id);
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.runner.output_len(id) == before
}

#[tokio::test]
async fn without_contact_an_attempt_is_frozen_and_goes_on_when_it_is_told_to() {
    for version in usable("fence-probe").await {
        let host = Host::new();
        let mut agent = host.agent_with(version).await;
        let id = start(&agent, fenced(&uid("fence", version), BUSY, false)).await;
        assert_eq!(agent.next_fenced().await, id);
        assert!(stands_still(&agent, &id).await, "{version:?}");

        // Another agent finds it frozen, and contact alone thaws nothing.
        drop(agent);
        let mut agent = host.agent_with(version).await;
        assert!(agent.held[0].fenced && agent.held[0].ended.is_none());
        agent.runner.acknowledged(agent.runner.boot_micros());
        assert!(stands_still(&agent, &id).await, "{version:?}");
        let before = agent.runner.output_len(&id);
        agent.runner.acknowledged(agent.runner.boot_micros());
        agent.runner.thaw(id.clone()).await.expect("accepted");
        wait_for("more output", || agent.runner.output_len(&id) > before).await;

        // Without contact it is frozen once more; then it is superseded, and dies as it is.
        while agent.next_fenced().await != id || !stands_still(&agent, &id).await {}
        let before = agent.runner.output_len(&id);
        agent.stop_in(&id, Duration::from_mins(5)).await;
        let end = agent.end_of(&id).await;
        assert_eq!(
            (end.signal, end.signalled),
            (Some(9), Some(SignalCause::Stop))
        );
        assert_eq!(agent.runner.output_len(&id), before, "it never ran again");
    }
}

#[tokio::test]
async fn an_attempt_in_contact_is_left_alone() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let name = format!("contact-{}", std::process::id());
    let id = start(&agent, fenced(&name, "sleep 2.5; exit 4", false)).await;
    let renewed = async {
        loop {
            agent.runner.acknowledged(agent.runner.boot_micros());
            tokio::time::sleep(Duration::from_millis(100)).await;
            if agent
                .runner
                .root_process(&id)
                .is_some_and(|pid| !std::fs::exists(format!("/proc/{pid}")).unwrap_or(false))
            {
                return;
            }
        }
    };
    renewed.await;
    let end = agent.end_of(&id).await;
    assert_eq!((end.code, end.signalled), (Some(4), None));
}

#[tokio::test]
async fn what_cannot_be_frozen_or_is_to_be_killed_ends_by_its_fence() {
    let host = Host::new();
    for (cgroups, kill) in [(Cgroups::Off, false), (Cgroups::Best, true)] {
        let mut agent = host.agent_with(cgroups).await;
        let name = format!("ends-{kill}-{}", std::process::id());
        let id = start(&agent, fenced(&name, "exec sleep 1000", kill)).await;
        let end = agent.end_of(&id).await;
        assert_eq!(
            (end.signal, end.signalled),
            (Some(15), Some(SignalCause::Fence))
        );
    }
}
