//! The shell and all controllers over a small stand-in for the API server, in one thread, on a paused clock.
//!
//! Every test lets the system come to rest: the paused clock moves on only when nothing else can happen.

use std::sync::Arc;
use std::time::Duration;

use crds::job::{ArraySpec, Resources};
use crds::node::{GpuStatus, NodeCapacity, NodeInfo};
use crds::{
    Job, JobSpec, JobStatus, Node, NodeSpec, NodeStatus, Phase, Quantity, Queue, QueueSpec,
    RELEASE_FINALIZER,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fake::{Fake, Fault};
use crate::{Clock, Options, run};

const GIB: u64 = 1 << 30;

struct System {
    fake: Fake,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// A clock that follows tokio's paused one.
fn clock() -> Clock {
    let start = Instant::now();
    let epoch = Timestamp::from_second(1_800_000_000).unwrap();
    Arc::new(move || {
        let passed = SignedDuration::try_from(start.elapsed()).unwrap();
        epoch + passed
    })
}

fn start(fake: &Fake, clock: &Clock, writes_in_flight: usize) -> System {
    let shutdown = CancellationToken::new();
    let options = Options {
        clock: clock.clone(),
        seed: Some(1),
        writes_in_flight,
        ..Options::default()
    };
    let running = run(fake.client(), options, shutdown.clone());
    System {
        fake: fake.clone(),
        shutdown,
        task: tokio::spawn(async move { running.await.expect("there are controllers") }),
    }
}

impl System {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the controllers end cleanly");
    }

    fn status(&self, name: &str) -> JobStatus {
        let job = self.fake.get("jobs", name).expect("the job exists");
        serde_json::from_value(job["status"].clone()).unwrap_or_default()
    }

    fn phase(&self, name: &str) -> Phase {
        self.status(name).phase.unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_settings_in_force_are_published_and_stay_so() {
    let (fake, clock) = (Fake::default(), clock());
    let system = start(&fake, &clock, 8);
    pass(1.0).await;
    let said = || {
        let object = fake.get("configmaps", "gctl-scheduling")?;
        let text = object["data"]["scheduling.yaml"].as_str()?.to_owned();
        crate::Scheduling::parse(&text).ok()
    };
    let defaults = crate::Scheduling::parse(crate::Scheduling::HELP).unwrap();
    assert_eq!(said(), Some(defaults.clone()));
    fake.change("configmaps", "gctl-scheduling", |object| {
        object["data"]["scheduling.yaml"] = json!("reservations: 9");
    });
    assert_ne!(said(), Some(defaults.clone()));
    pass(601.0).await;
    assert_eq!(said(), Some(defaults));
    system.stop().await;
}

/// Lets time pass, and everything happen that is due in it.
async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

fn node(name: &str, cpu: &str, gpus: u32) -> Node {
    let mut node = Node::new(name, NodeSpec::default());
    let gpu = |index| GpuStatus {
        uuid: format!("GPU-{name}-{index}"),
        index,
        memory_bytes: 24 * GIB,
        used_bytes: Some(0),
        healthy: true,
        ..GpuStatus::default()
    };
    node.status = Some(NodeStatus {
        capacity: Some(NodeCapacity {
            cpu: Quantity(cpu.to_owned()),
            memory: Quantity("64Gi".to_owned()),
            gpus,
            ..NodeCapacity::default()
        }),
        gpus: (0..gpus).map(gpu).collect(),
        info: Some(NodeInfo {
            boot_id: "boot-1".to_owned(),
            ..NodeInfo::default()
        }),
        ..NodeStatus::default()
    });
    node
}

fn lease(name: &str, now: Timestamp) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": crds::NODE_LEASE_NAMESPACE},
        "spec": {"holderIdentity": name, "renewTime": format!("{now:.6}")}})
}

/// A node whose agent renews its lease.
fn register(fake: &Fake, clock: &Clock, name: &str, cpu: &str, gpus: u32) -> JoinHandle<()> {
    fake.put("nodes", node(name, cpu, gpus));
    let (fake, clock, name) = (fake.clone(), clock.clone(), name.to_owned());
    fake.put("leases", lease(&name, clock()));
    tokio::spawn(async move {
        loop {
            pass(10.0).await;
            fake.put("leases", lease(&name, clock()));
        }
    })
}

fn job(name: &str, spec: JobSpec) -> Job {
    let mut job = Job::new(name, spec);
    job.metadata.namespace = Some("default".to_owned());
    job.metadata.finalizers = Some(vec![RELEASE_FINALIZER.to_owned()]);
    job
}

fn echo() -> JobSpec {
    JobSpec {
        command: vec!["echo".to_owned(), "{i}".to_owned()],
        ..JobSpec::default()
    }
}

fn with_gpus(gpus: u32) -> JobSpec {
    JobSpec {
        resources: Some(Resources {
            gpus: Some(gpus),
            ..Resources::default()
        }),
        ..echo()
    }
}

/// Does what an agent does at the end of an attempt.
fn finish(fake: &Fake, name: &str) {
    fake.change("jobs", name, |job| {
        let attempt = job["status"]["attempt"].clone();
        job["status"]["outcome"] = json!("Succeeded");
        job["status"]["phase"] = json!("Succeeded");
        job["status"]["finishTime"] = json!("2027-01-15T08:00:00.000000Z");
        job["status"]["release"] = json!({"attempt": attempt});
    });
}

#[tokio::test(start_paused = true)]
async fn a_job_is_admitted_and_bound_with_two_writes() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    fake.put("jobs", job("a", echo()));
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    let status = system.status("a");
    assert_eq!(status.phase, Some(Phase::Scheduled));
    assert_eq!(status.binding.unwrap().node_name, "n1");
    assert_eq!(
        fake.requests("PATCH /apis/gctl.dev/v1/namespaces/default/jobs/a")
            .len(),
        2
    );
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_system_at_rest_writes_and_reads_nothing() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "1", 0);
    for name in ["a", "b", "c"] {
        fake.put("jobs", job(name, echo()));
    }
    let system = start(&fake, &clock, 64);
    // Those that wait are told why, and after a minute what is reserved for them.
    pass(75.0).await;
    let before = fake.requests("").len();
    pass(180.0).await;
    let after = fake.requests("");
    assert_eq!(after[before..], [""; 0]);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_says_why_and_starts_when_there_is_room() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "1", 0);
    fake.put("jobs", job("a", echo()));
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    fake.put("jobs", job("b", echo()));
    pass(5.0).await;
    assert_eq!(system.phase("a"), Phase::Scheduled);
    let waiting = system.status("b").waiting.expect("it says why it waits");
    assert!(waiting.reason.contains("Cpu"), "{waiting:?}");
    finish(&fake, "a");
    pass(1.0).await;
    let status = system.status("b");
    assert_eq!(
        (status.phase, status.waiting),
        (Some(Phase::Scheduled), None)
    );
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_no_node_can_ever_run_ends_when_the_fleet_has_settled() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 1);
    fake.put("jobs", job("a", with_gpus(2)));
    let system = start(&fake, &clock, 64);
    pass(9.0).await;
    assert_eq!(system.phase("a"), Phase::Pending);
    pass(2.0).await;
    let status = system.status("a");
    assert_eq!(status.phase, Some(Phase::Infeasible));
    assert!(status.message.is_some_and(|message| !message.is_empty()));
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_infeasible_while_no_node_is_known() {
    let (fake, clock) = (Fake::default(), clock());
    fake.put("jobs", job("a", with_gpus(2)));
    let system = start(&fake, &clock, 64);
    pass(100.0).await;
    assert_eq!(system.phase("a"), Phase::Pending);
    let small = register(&fake, &clock, "n1", "8", 1);
    pass(5.0).await;
    assert_eq!(system.phase("a"), Phase::Pending);
    let large = register(&fake, &clock, "n2", "8", 2);
    pass(5.0).await;
    assert_eq!(system.status("a").binding.unwrap().node_name, "n2");
    small.abort();
    large.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_conflict_leads_to_a_decision_on_the_fresh_object() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    fake.fail(&[Fault::Conflict, Fault::Conflict, Fault::Conflict]);
    fake.put("jobs", job("a", echo()));
    pass(10.0).await;
    assert_eq!(system.phase("a"), Phase::Scheduled);
    assert_eq!(system.status("a").attempt, 1);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_binds_nothing_twice() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 2);
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    fake.fail(&[Fault::LostAnswer; 4]);
    for name in ["a", "b"] {
        fake.put("jobs", job(name, with_gpus(1)));
    }
    pass(60.0).await;
    let (a, b) = (system.status("a"), system.status("b"));
    assert_eq!((a.attempt, b.attempt), (1, 1));
    assert_ne!(a.binding.unwrap().gpus, b.binding.unwrap().gpus);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_resumed_and_an_expired_one_lists_again() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    for (round, forget) in [false, true].into_iter().enumerate() {
        fake.break_watches(forget);
        let name = format!("job-{round}");
        fake.put("jobs", job(&name, echo()));
        pass(20.0).await;
        assert_eq!(system.phase(&name), Phase::Scheduled, "{name}");
    }
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn writes_in_flight_are_bounded() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    let system = start(&fake, &clock, 4);
    pass(1.0).await;
    let gate = fake.gate();
    for index in 0..50 {
        fake.put("jobs", job(&format!("job-{index}"), echo()));
    }
    pass(5.0).await;
    assert_eq!(fake.most_writing(), 4);
    gate.add_permits(10_000);
    pass(20.0).await;
    let admitted = |name: &String| system.status(name).effective.is_some();
    assert!(fake.names("jobs").iter().all(admitted));
    assert_eq!(fake.most_writing(), 4);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_and_events_give_the_same_requests() {
    let mut traces = Vec::new();
    for _ in 0..2 {
        let (fake, clock) = (Fake::default(), clock());
        let agents = ["n1", "n2"].map(|name| register(&fake, &clock, name, "4", 1));
        let system = start(&fake, &clock, 8);
        fake.fail(&[Fault::Conflict, Fault::LostAnswer, Fault::Conflict]);
        for index in 0..20 {
            fake.put(
                "jobs",
                job(&format!("job-{index:02}"), with_gpus(index % 2)),
            );
            pass(0.3).await;
        }
        fake.break_watches(true);
        finish(&fake, "job-00");
        pass(30.0).await;
        traces.push(fake.requests(""));
        agents.iter().for_each(JoinHandle::abort);
        system.stop().await;
    }
    assert_eq!(traces[0], traces[1]);
    assert!(traces[0].len() > 40);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_appears_lets_its_jobs_in() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    let spec = JobSpec {
        queue: Some("research".to_owned()),
        ..echo()
    };
    fake.put("jobs", job("a", spec));
    let system = start(&fake, &clock, 64);
    pass(2.0).await;
    assert_eq!(system.status("a").waiting.unwrap().reason, "QueueNotFound");
    fake.put("queues", Queue::new("research", QueueSpec::default()));
    pass(2.0).await;
    assert_eq!(system.phase("a"), Phase::Scheduled);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_job_that_waits_is_let_go() {
    let (fake, clock) = (Fake::default(), clock());
    fake.put("jobs", job("a", echo()));
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    fake.change("jobs", "a", |job| {
        job["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z");
    });
    pass(1.0).await;
    assert_eq!(fake.get("jobs", "a"), None);
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_job_is_deleted_after_its_time_to_live() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    let spec = JobSpec {
        ttl_seconds_after_finished: Some(30),
        ..echo()
    };
    fake.put("jobs", job("a", spec));
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    finish(&fake, "a");
    // The clock of these tests begins at 08:00:00.
    pass(20.0).await;
    assert!(fake.get("jobs", "a").is_some());
    pass(15.0).await;
    assert_eq!(fake.get("jobs", "a"), None);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_on_a_node_that_falls_silent_is_unknown_and_comes_back_with_it() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    fake.put("jobs", job("a", echo()));
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    fake.change("jobs", "a", |job| {
        job["status"]["claim"] = json!({"nodeName": "n1", "bootId": "boot-1", "attempt": 1});
        job["status"]["phase"] = json!("Running");
    });
    fake.put("jobs", job("b", echo()));
    pass(1.0).await;
    assert_eq!(system.phase("b"), Phase::Scheduled);
    agent.abort();
    pass(35.0).await;
    assert_eq!(system.phase("a"), Phase::Running);
    pass(15.0).await;
    assert_eq!(system.phase("a"), Phase::Unknown);
    assert_eq!(system.phase("b"), Phase::Pending);
    fake.put("leases", lease("n1", clock()));
    pass(1.0).await;
    assert_eq!(system.phase("a"), Phase::Running);
    assert_eq!(system.phase("b"), Phase::Scheduled);
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_array_runs_to_its_end() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "64", 0);
    let spec = JobSpec {
        array: Some(ArraySpec {
            count: Some(7),
            parallelism: Some(3),
            ..ArraySpec::default()
        }),
        ..echo()
    };
    fake.put("jobs", job("sweep", spec));
    let system = start(&fake, &clock, 64);
    for _ in 0..10 {
        pass(1.0).await;
        let members: Vec<String> = fake.names("jobs");
        let open = |name: &&String| *name != "sweep" && !system.phase(name).is_terminal();
        let open: Vec<&String> = members.iter().filter(open).collect();
        assert!(open.len() <= 3);
        for name in open {
            assert_eq!(system.phase(name), Phase::Scheduled);
            finish(&fake, name);
        }
    }
    assert_eq!(system.phase("sweep"), Phase::Succeeded);
    let member = fake.get("jobs", "sweep-5").expect("members stay");
    assert_eq!(member["spec"]["command"], json!(["echo", "5"]));
    assert_eq!(member["metadata"]["finalizers"], json!([RELEASE_FINALIZER]));
    assert_eq!(fake.requests("POST /apis/gctl.dev").len(), 7);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_instances_bind_each_job_once() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "64", 0);
    let systems = [start(&fake, &clock, 64), start(&fake, &clock, 64)];
    for index in 0..20 {
        fake.put("jobs", job(&format!("job-{index}"), echo()));
        pass(0.05).await;
    }
    pass(30.0).await;
    for name in fake.names("jobs") {
        let status = systems[0].status(&name);
        assert_eq!(
            (status.phase, status.attempt),
            (Some(Phase::Scheduled), 1),
            "{name}"
        );
    }
    agent.abort();
    for system in systems {
        system.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_does_not_count_while_the_server_could_not_be_watched() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    let system = start(&fake, &clock, 64);
    pass(11.0).await;
    agent.abort();
    fake.go_down();
    pass(60.0).await;
    fake.come_up();
    pass(30.0).await;
    assert_eq!(ready(&fake, "n1"), "True");
    pass(30.0).await;
    assert_eq!(ready(&fake, "n1"), "Unknown");
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hands_a_job_back_is_not_offered_it_at_once() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    fake.put("jobs", job("a", echo()));
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    fake.change("jobs", "a", |job| {
        let status: JobStatus = serde_json::from_value(job["status"].clone()).unwrap();
        let back = crds::phase::requeue(&status, "it does not fit");
        job["status"] = serde_json::to_value(back).unwrap();
    });
    pass(3.0).await;
    assert_eq!(system.phase("a"), Phase::Pending);
    assert!(system.status("a").waiting.is_some());
    pass(3.0).await;
    let status = system.status("a");
    assert_eq!((status.phase, status.attempt), (Some(Phase::Scheduled), 2));
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_preempted_attempt_goes_back_to_the_queue_and_runs_again() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    fake.put("jobs", job("a", echo()));
    let system = start(&fake, &clock, 64);
    pass(1.0).await;
    let queued = system.status("a").enqueue_time;
    fake.change("jobs", "a", |job| {
        job["status"]["claim"] = json!({"nodeName": "n1", "bootId": "boot-1", "attempt": 1});
        job["status"]["stop"] = json!({"attempt": 1, "reason": "Preempted", "by": "test",
            "deadline": "2027-01-15T08:00:30Z"});
        job["status"]["startTime"] = json!("2027-01-15T08:00:00.000000Z");
        job["status"]["finishTime"] = json!("2027-01-15T08:00:01.000000Z");
        job["status"]["release"] = json!({"attempt": 1});
        job["status"]["phase"] = json!("Stopping");
    });
    pass(2.0).await;
    let status = system.status("a");
    assert_eq!((status.phase, status.attempt), (Some(Phase::Scheduled), 2));
    assert_eq!(status.enqueue_time, queued);
    agent.abort();
    system.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_chosen_controller_runs_alone() {
    let (fake, clock) = (Fake::default(), clock());
    let agent = register(&fake, &clock, "n1", "8", 0);
    fake.put("jobs", job("a", echo()));
    let shutdown = CancellationToken::new();
    let options = Options {
        only: Some([crate::ControllerName::Admission].into()),
        clock: clock.clone(),
        seed: Some(1),
        ..Options::default()
    };
    let task = tokio::spawn(run(fake.client(), options, shutdown.clone()));
    pass(5.0).await;
    let job = fake.get("jobs", "a").unwrap();
    assert!(job["status"]["effective"].is_object());
    assert_eq!(job["status"]["phase"], json!("Pending"));
    shutdown.cancel();
    assert!(task.await.unwrap().is_ok());
    agent.abort();
}

fn ready(fake: &Fake, node: &str) -> String {
    let node = fake.get("nodes", node).expect("the node exists");
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    let status = ready.and_then(|one| one["status"].as_str());
    status.unwrap_or_default().to_owned()
}
