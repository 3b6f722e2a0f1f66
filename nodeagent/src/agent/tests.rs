//! Whole lives of jobs through the agent: a stand-in server, a simulated machine, a clock that stands still.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::Job;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fake::{Fake, Fault};
use super::{Clock, Options, RunError, run};
use crate::gpu::{GpuSource, SimGpus, SimGuests};
use crate::runner::Runner;
use crate::sim::SimRunner;

const JOBS: &str = "/apis/gctl.dev/v1/namespaces/lab/jobs";
const NODE: &str = "/apis/gctl.dev/v1/nodes/n1";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/gctl-node-lease/leases/n1";

struct World {
    fake: Fake,
    machine: Arc<SimRunner>,
    guests: SimGuests,
    clock: Clock,
    boot_id: String,
    agent: Option<Agent>,
}

struct Agent {
    task: JoinHandle<Result<(), RunError>>,
    shutdown: CancellationToken,
    options: Options,
}

impl World {
    fn new() -> Self {
        let begin = Instant::now();
        let start = Timestamp::from_second(1_800_000_000).expect("in range");
        let clock: Clock = Arc::new(move || start + begin.elapsed());
        let mut world = Self {
            fake: Fake::default(),
            machine: Arc::new(SimRunner::new(Arc::clone(&clock), 1)),
            guests: SimGuests::default(),
            clock,
            boot_id: "boot-1".to_owned(),
            agent: None,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let machine: Arc<dyn Runner> = Arc::<SimRunner>::clone(&self.machine);
        let mut options = Options::new("n1", machine);
        let gpus: SimGpus = "2x24Gi".parse().expect("well formed");
        options.gpus = GpuSource::Visited(gpus, self.guests.clone());
        options.clock = Arc::clone(&self.clock);
        options.checkpoint_root = Some("/saved".to_owned());
        options.boot_id = Some(self.boot_id.clone());
        options.cpu_millis = Some(4000);
        options.memory_bytes = Some(1 << 34);
        options.default_user = Some(crate::users::current_user());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(self.fake.client(), options.clone(), shutdown.clone()));
        self.agent = Some(Agent {
            task,
            shutdown,
            options,
        });
    }

    /// Kills the agent between two awaits.
    async fn crash(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.task.abort();
            let _ = agent.task.await;
        }
    }

    async fn end(&mut self, stop_jobs: bool) {
        if let Some(agent) = self.agent.take() {
            agent.options.stop_jobs.store(stop_jobs, Ordering::SeqCst);
            agent.shutdown.cancel();
            agent.task.await.expect("no panic").expect("no error");
        }
    }

    /// Binds a new job to this node, as placement does.
    fn bind(&self, name: &str, words: &[&str]) {
        self.bind_with(name, words, |_| {});
    }

    fn bind_with(&self, name: &str, words: &[&str], change: impl FnOnce(&mut Value)) {
        let mut job = json!({
            "apiVersion": "gctl.dev/v1", "kind": "Job",
            "metadata": {"name": name, "namespace": "lab", "uid": format!("uid-{name}")},
            "spec": {"command": words},
            "status": {"phase": "Scheduled", "attempt": 1,
                "binding": {"nodeName": "n1", "cpuMillis": 1000, "memoryBytes": 0, "epoch": 1}},
        });
        change(&mut job);
        let parsed: Job = serde_json::from_value(job.clone()).expect("a job");
        assert_eq!(parsed.metadata.name.as_deref(), Some(name));
        self.fake.put(&path(name), job);
    }

    fn status(&self, name: &str) -> Value {
        self.fake.get(&path(name)).expect("it exists")["status"].clone()
    }

    async fn until(&self, what: &str, mut is_true: impl FnMut(&Self) -> bool) {
        for _ in 0..100_000 {
            if is_true(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "waited in vain for {what}; running: {:?}; requests: {:#?}",
            self.machine.running(),
            self.fake.last_requests()
        );
    }

    async fn until_phase(&self, name: &str, phase: &str) {
        let what = format!("{name} to be {phase}, it is {}", self.status(name));
        self.until(&what, |world| world.status(name)["phase"] == phase)
            .await;
    }

    /// Lets everything that is under way come to its end.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_mins(1)).await;
    }

    fn assert_no_attempt_ran_twice(&self) {
        let starts = self.machine.starts();
        assert!(starts.values().all(|count| *count == 1), "{starts:?}");
    }
}

fn path(name: &str) -> String {
    format!("{JOBS}/{name}")
}

macro_rules! life {
    ($name:ident, $world:ident, $body:block) => {
        #[tokio::test(flavor = "current_thread", start_paused = true)]
        async fn $name() {
            let mut world = World::new();
            let $world = &mut world;
            $body
            $world.assert_no_attempt_ran_twice();
        }
    };
}

life!(
    a_node_registers_with_what_it_has_and_renews_its_lease,
    world,
    {
        world
            .until("the node", |world| {
                world
                    .fake
                    .get(NODE)
                    .is_some_and(|node| !node["status"].is_null())
            })
            .await;
        let node = world.fake.get(NODE).expect("registered");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
        assert_eq!(
            node["status"]["capacity"],
            json!({"cpu": "4", "memory": "16Gi", "gpus": 2})
        );
        assert_eq!(node["status"]["info"]["bootId"], "boot-1");
        assert_eq!(node["status"]["gpus"][1]["memoryBytes"], 24_u64 << 30);
        let renewed =
            |world: &World| world.fake.get(LEASE).expect("made")["spec"]["renewTime"].clone();
        let (first, version) = (renewed(world), node["metadata"]["resourceVersion"].clone());
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert_ne!(renewed(world), first);
        let node = world.fake.get(NODE).expect("registered");
        assert_eq!(
            node["metadata"]["resourceVersion"], version,
            "nothing changed, nothing is written"
        );
    }
);

life!(
    a_bound_job_is_claimed_run_and_reported_with_its_output,
    world,
    {
        world.bind("a", &["sim", "print=hello", "sleep=5", "exit=3"]);
        world.until_phase("a", "Running").await;
        assert_eq!(world.status("a")["claim"]["bootId"], "boot-1");
        world.until_phase("a", "Failed").await;
        let status = world.status("a");
        assert_eq!(
            (&status["exitCode"], &status["outcome"]),
            (&json!(3), &json!("Failed"))
        );
        assert_eq!(status["release"]["attempt"], 1);
        // The whole output was there before the end was.
        assert_eq!(
            world.fake.log("uid-a", 1),
            Some(("hello\n".to_owned(), true))
        );
        world.settle().await;
        assert_eq!(
            world
                .fake
                .requests("PATCH /apis/gctl.dev/v1/namespaces/lab/jobs/a/status"),
            2
        );
        assert!(
            world
                .machine
                .attach()
                .await
                .expect("always")
                .held
                .is_empty(),
            "it is forgotten"
        );
    }
);

life!(a_job_without_output_sends_no_log, world, {
    world.bind("a", &["sim", "exit=0"]);
    world.until_phase("a", "Succeeded").await;
    world.settle().await;
    assert_eq!(world.fake.requests("/log?"), 0);
});

life!(
    lost_answers_and_conflicts_neither_lose_nor_double_anything,
    world,
    {
        use Fault::{Conflict, LostAnswer, LostRequest};
        world.fake.fail(&[
            LostAnswer,
            Conflict,
            LostAnswer,
            LostRequest,
            Conflict,
            LostRequest,
            LostAnswer,
        ]);
        for name in ["a", "b", "c"] {
            world.bind(name, &["sim", "sleep=2", "exit=4"]);
        }
        for name in ["a", "b", "c"] {
            world.until_phase(name, "Failed").await;
            assert_eq!(world.status(name)["exitCode"], 4);
        }
    }
);

life!(a_late_watch_starts_nothing_twice, world, {
    world.bind("a", &["sim", "sleep=1"]);
    world.until_phase("a", "Running").await;
    world.fake.freeze_watches();
    world.until_phase("a", "Succeeded").await;
    world.settle().await;
    world.fake.thaw_watches();
    world.settle().await;
    assert_eq!(world.status("a")["phase"], "Succeeded");
});

life!(a_stop_is_carried_out_and_attributed, world, {
    world.bind("a", &["sim", "ignore-term", "sleep=1000"]);
    world.until_phase("a", "Running").await;
    let deadline = (world.clock)() + Duration::from_secs(20);
    world.fake.change(&path("a"), |job| {
        job["status"]["stop"] =
            json!({"attempt": 1, "reason": "Cancelled", "by": "test", "deadline": deadline});
        job["status"]["phase"] = json!("Stopping");
    });
    world.until_phase("a", "Cancelled").await;
    let status = world.status("a");
    assert_eq!(status["signal"], 9);
    let finished: Timestamp = status["finishTime"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("a time");
    let late = finished.duration_since(deadline);
    assert!(late.as_secs() < 2 && !late.is_negative(), "{late:?}");
});

life!(a_hint_that_a_job_is_gone_stops_nothing, world, {
    world.bind("a", &["sim", "sleep=100"]);
    world.until_phase("a", "Running").await;
    world.fake.lie_that_it_is_gone(&path("a"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.machine.running().len(), 1);
    world.until_phase("a", "Succeeded").await;
});

life!(a_job_that_is_gone_is_stopped_and_forgotten, world, {
    world.bind("a", &["sim", "print=x", "sleep=100000"]);
    world.until_phase("a", "Running").await;
    world.fake.delete(&path("a"));
    world
        .until("the stop", |world| world.machine.running().is_empty())
        .await;
    world.settle().await;
    assert!(
        world
            .machine
            .attach()
            .await
            .expect("always")
            .held
            .is_empty()
    );
});

life!(a_broken_watch_is_resumed, world, {
    world.bind("a", &["sim", "sleep=5"]);
    world.until_phase("a", "Running").await;
    world.fake.break_watches();
    world.bind("b", &["sim", "sleep=5"]);
    world.until_phase("b", "Succeeded").await;
    world.until_phase("a", "Succeeded").await;
});

life!(
    a_new_agent_adopts_and_reports_what_happened_without_it,
    world,
    {
        world.bind("long", &["sim", "print=one", "sleep=50", "print=two"]);
        world.bind("short", &["sim", "print=x", "sleep=5", "exit=7"]);
        world.until_phase("long", "Running").await;
        world.until_phase("short", "Running").await;
        world.crash().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.begin();
        world.until_phase("short", "Failed").await;
        assert_eq!(world.status("short")["exitCode"], 7);
        world.until_phase("long", "Succeeded").await;
        assert_eq!(
            world.fake.log("uid-long", 1),
            Some(("one\ntwo\n".to_owned(), true))
        );
    }
);

life!(crashes_at_any_moment_lose_and_double_nothing, world, {
    let mut names = BTreeMap::new();
    for index in 0..60_u32 {
        let name = format!("j{index}");
        world.bind_with(
            &name,
            &[
                "sim",
                "print=out",
                "sleep=0.05..0.4",
                &format!("exit={}", index % 5),
            ],
            |job| {
                job["status"]["binding"]["cpuMillis"] = json!(10);
            },
        );
        names.insert(name, index % 5);
        // The moment moves through claim, start, end, log and report.
        tokio::time::sleep(Duration::from_millis(u64::from(index * 7 % 97))).await;
        world.crash().await;
        world.begin();
    }
    for (name, code) in names {
        world
            .until(&format!("{name} {}", world.status(&name)), |world| {
                !world.status(&name)["outcome"].is_null()
            })
            .await;
        assert_eq!(world.status(&name)["exitCode"], code, "{name}");
        assert_eq!(
            world.fake.log(&format!("uid-{name}"), 1),
            Some(("out\n".to_owned(), true)),
            "{name}"
        );
    }
});

life!(
    after_a_power_cut_claimed_attempts_are_reported_lost_and_not_run_again,
    world,
    {
        world.bind("a", &["sim", "sleep=1000"]);
        world.until_phase("a", "Running").await;
        world.crash().await;
        world.machine.reboot();
        world.boot_id = "boot-2".to_owned();
        world.begin();
        world.until_phase("a", "Failed").await;
        let message = world.status("a")["message"].clone();
        assert!(
            message
                .as_str()
                .is_some_and(|text| text.contains("started anew")),
            "{message}"
        );
    }
);

life!(
    after_a_power_cut_what_runs_again_when_its_node_is_lost_is_left_to_a_controller,
    world,
    {
        world.bind_with("a", &["sim", "sleep=1000"], |job| {
            let effective = crds::job_status::Effective::default();
            job["status"]["effective"] = json!(effective);
            job["status"]["effective"]["onNodeLost"]["value"] = json!("Requeue");
        });
        world.until_phase("a", "Running").await;
        world.crash().await;
        world.machine.reboot();
        world.boot_id = "boot-2".to_owned();
        world.begin();
        world.until_phase("a", "Stopping").await;
        let status = world.status("a");
        assert_eq!(status["release"]["lost"], true, "{status}");
        assert!(status["outcome"].is_null(), "{status}");
    }
);

life!(
    what_does_not_fit_goes_back_to_the_queue_with_the_reason,
    world,
    {
        let gpu = |world: &World| {
            world.fake.get(NODE).expect("registered")["status"]["gpus"][0]["uuid"].clone()
        };
        world
            .until("the node", |world| {
                world
                    .fake
                    .get(NODE)
                    .is_some_and(|node| !node["status"].is_null())
            })
            .await;
        let uuid = gpu(world);
        let whole = |job: &mut Value| {
            job["status"]["binding"]["gpus"] = json!([uuid]);
            job["status"]["binding"]["wholeGpus"] = json!(true);
        };
        world.bind_with("first", &["sim", "sleep=100"], whole);
        world.until_phase("first", "Running").await;
        world.bind_with("second", &["sim", "sleep=1"], whole);
        world.until_phase("second", "Pending").await;
        let status = world.status("second");
        assert!(status["binding"].is_null());
        let reason = status["attempts"][0]["reason"]
            .as_str()
            .expect("a reason")
            .to_owned();
        assert!(
            reason.starts_with("Refused: ") && reason.contains("held by another job"),
            "{reason}"
        );
    }
);

life!(two_claims_at_once_do_not_take_the_same_gpu, world, {
    world
        .until("the node", |world| {
            world
                .fake
                .get(NODE)
                .is_some_and(|node| !node["status"].is_null())
        })
        .await;
    let uuid = world.fake.get(NODE).expect("registered")["status"]["gpus"][0]["uuid"].clone();
    for name in ["a", "b", "c"] {
        world.bind_with(name, &["sim", "sleep=100"], |job| {
            job["status"]["binding"]["gpus"] = json!([uuid]);
            job["status"]["binding"]["vramBytes"] = json!(10_u64 << 30);
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let phases = ["a", "b", "c"].map(|name| {
        world.status(name)["phase"]
            .as_str()
            .expect("a phase")
            .to_owned()
    });
    let running = phases.iter().filter(|phase| *phase == "Running").count();
    let refused = phases.iter().filter(|phase| *phase == "Pending").count();
    assert_eq!((running, refused), (2, 1), "{phases:?}");
});

life!(a_missing_secret_fails_the_job_and_says_which, world, {
    world.bind_with("a", &["sim", "exit=0"], |job| {
        job["spec"]["env"] = json!([{"name": "T", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]);
    });
    world.until_phase("a", "Failed").await;
    let message = world.status("a")["message"].clone();
    assert!(
        message
            .as_str()
            .is_some_and(|text| text.contains("secret `hub` was not found")),
        "{message}"
    );
    assert!(world.machine.starts().is_empty());
});

life!(
    a_log_that_cannot_be_sent_does_not_hold_back_the_end_and_arrives_later,
    world,
    {
        world.fake.fail_logs(20);
        world.bind("a", &["sim", "print=kept", "exit=0"]);
        world.until_phase("a", "Succeeded").await;
        assert_eq!(world.fake.log("uid-a", 1), None);
        world
            .until("the log", |world| {
                world.fake.log("uid-a", 1) == Some(("kept\n".to_owned(), true))
            })
            .await;
        world.settle().await;
        assert!(
            world
                .machine
                .attach()
                .await
                .expect("always")
                .held
                .is_empty()
        );
    }
);

life!(
    an_orderly_end_leaves_jobs_running_for_the_next_agent,
    world,
    {
        world.bind("a", &["sim", "sleep=100"]);
        world.until_phase("a", "Running").await;
        world.end(false).await;
        assert_eq!(world.machine.running().len(), 1);
        world.begin();
        world.until_phase("a", "Succeeded").await;
    }
);

life!(
    an_end_with_its_jobs_stops_and_reports_them_for_requeue,
    world,
    {
        world.bind("a", &["sim", "sleep=1000"]);
        world.until_phase("a", "Running").await;
        world.end(true).await;
        assert!(world.machine.running().is_empty());
        let status = world.status("a");
        assert_eq!(status["stop"]["reason"], "Drained");
        assert_eq!(
            (&status["outcome"], &status["release"]["attempt"]),
            (&Value::Null, &json!(1))
        );
    }
);

mod checkpoints;
mod gang;
mod looks;
