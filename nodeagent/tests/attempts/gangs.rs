//! What a member of a gang is given beyond any other attempt: a file with the hosts of its gang.

use std::os::unix::fs::PermissionsExt;

use nodeagent::attempt::{HOSTFILE_VARIABLE, RunAs};
use nodeagent::runner::Runner;

use crate::common::{Host, request};

const HOSTS: &str = "10.0.0.7 slots=2\n10.0.0.8 slots=2\n";
const SHOW: &str = "cat \"$GCTL_GANG_HOSTFILE\"; echo \"$GCTL_GANG_HOSTFILE\"";

#[tokio::test]
async fn the_hosts_of_a_gang_are_in_a_file_that_lives_as_long_as_the_attempt() {
    let host = Host::new();
    let mut agent = host.agent().await;
    let mut member = request("member", SHOW);
    member.hostfile = Some(HOSTS.to_owned());
    // Whatever a job says of it.
    let pair = (HOSTFILE_VARIABLE.to_owned(), "/etc/passwd".to_owned());
    member.env.push(pair);
    let id = member.id.clone();
    agent.runner.start(member).await.expect("accepted");
    assert_eq!(agent.end_of(&id).await.code, Some(0));
    let output = agent.output(&id).await;
    let path = output.strip_prefix(HOSTS).expect("the hosts").trim();
    assert!(path.starts_with('/'), "found from any directory: {path}");
    agent
        .runner
        .forget(vec![id.clone()])
        .await
        .expect("accepted");
    crate::wait_for("the file to go", || !std::path::Path::new(path).exists()).await;
    // Its directory does not pass on to another attempt, and its trash is emptied by the next agent.
    let other = agent.sh_as("other", "echo \"$GCTL_GANG_HOSTFILE\"").await;
    assert_eq!(agent.end_of(&other).await.code, Some(0));
    assert_eq!(agent.output(&other).await, "\n");
    drop(agent);
    let _next = host.agent().await;
    let trash = host.data_dir().join("trash");
    crate::wait_for("the trash to be emptied", || {
        std::fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_none())
    })
    .await;
}

#[tokio::test]
async fn another_user_reads_the_hosts_even_where_he_may_not_pass_the_folders_above() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    for (mode, path) in [(0o700, "../hosts\n"), (0o711, "/")] {
        let host = Host::new();
        let mut agent = host.agent().await;
        std::fs::set_permissions(host.path(), std::fs::Permissions::from_mode(mode))
            .expect("it is ours");
        let mut member = request("member", SHOW);
        member.hostfile = Some(HOSTS.to_owned());
        member.run_as = Some(RunAs {
            uid: 65534,
            gid: 65534,
            groups: Vec::new(),
        });
        let id = member.id.clone();
        agent.runner.start(member).await.expect("accepted");
        assert_eq!(agent.end_of(&id).await.code, Some(0), "{mode:o}");
        let output = agent.output(&id).await;
        let shown = output.strip_prefix(HOSTS).expect("the hosts");
        assert!(shown.starts_with(path), "{mode:o}: {shown}");
    }
}
