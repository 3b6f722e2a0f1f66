//! How many no-op attempts a host runs a second through spawner, shim, record and journal, beside bare fork and exec
//! in the same run: `cargo bench -p nodeagent`. Prints figures and asserts nothing about time.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use nodeagent::ShimRunner;
use nodeagent::attempt::{AttemptId, Charge, Program, StartRequest};
use nodeagent::runner::Runner;

const ATTEMPTS: u32 = 3000;
/// Attempts under way at once, as slots of a node would allow.
const SLOTS: u32 = 16;

fn main() {
    let bare = bare_spawning();
    println!("bare spawn and wait, one after another: {bare:.0}/s");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let shims = runtime.block_on(attempts());
    println!(
        "attempts under shims, {SLOTS} at once: {shims:.0}/s ({:.2} of bare)",
        shims / bare
    );
}

fn bare_spawning() -> f64 {
    let begin = Instant::now();
    for _ in 0..ATTEMPTS {
        let status = Command::new("/bin/true")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("true runs");
        assert!(status.success());
    }
    f64::from(ATTEMPTS) / begin.elapsed().as_secs_f64()
}

async fn attempts() -> f64 {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let executable = PathBuf::from(env!("CARGO_BIN_EXE_nodeagent"));
    let runner = ShimRunner::with_executable(dir.path().join("agent"), executable);
    let mut attached = runner.attach().await.expect("a fresh directory");
    let begin = Instant::now();
    let mut begun = 0;
    let mut ended = 0;
    while ended < ATTEMPTS {
        while begun < ATTEMPTS && begun - ended < SLOTS {
            runner.start(request(begun)).await.expect("accepted");
            begun += 1;
        }
        let (id, end) = attached.ends.recv().await.expect("the runner lives");
        assert_eq!(end.code, Some(0), "{end:?}");
        ended += 1;
        runner.forget(vec![id]).await.expect("accepted");
    }
    f64::from(ATTEMPTS) / begin.elapsed().as_secs_f64()
}

fn request(index: u32) -> StartRequest {
    StartRequest {
        id: AttemptId {
            uid: format!("bench-{index}"),
            attempt: 1,
        },
        namespace: "default".to_owned(),
        name: format!("bench-{index}"),
        program: Program::Command(vec!["/bin/true".to_owned()]),
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
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
