//! Members of gangs through the agent: they wait for the others, over crashes, reboots and a watch that says nothing, and
//! what they were given is nobody else's meanwhile.

use super::*;

/// A member of a gang of two, of its first generation.
fn member(rank: u32) -> impl FnOnce(&mut Value) {
    move |job| {
        job["status"]["gang"] = json!({"size": 2, "generation": 1, "rank": rank});
    }
}

const HOSTS: [&str; 2] = ["n1", "10.0.0.2"];

impl World {
    /// What the gang controller writes once every member is claimed.
    fn go(&self, name: &str) {
        self.fake.change(&path(name), |job| {
            job["status"]["go"] = json!(1);
            job["status"]["gang"]["hosts"] = json!(HOSTS);
            job["status"]["gang"]["master"] = json!({"address": "n1", "port": 20_000});
            job["status"]["phase"] = json!("Running");
        });
    }

    fn stop(&self, name: &str, reason: &str) {
        let deadline = (self.clock)() + Duration::from_secs(20);
        self.fake.change(&path(name), |job| {
            job["status"]["stop"] =
                json!({"attempt": 1, "reason": reason, "by": "test", "deadline": deadline});
            job["status"]["phase"] = json!("Stopping");
        });
    }

    async fn until_claimed(&self, name: &str) {
        let what = format!("the claim of {name}");
        self.until(&what, |world| !world.status(name)["claim"].is_null())
            .await;
    }

    async fn gpu(&self) -> Value {
        let registered = |world: &World| {
            let node = world.fake.get(NODE);
            node.is_some_and(|node| !node["status"].is_null())
        };
        self.until("the node", registered).await;
        self.fake.get(NODE).expect("registered")["status"]["gpus"][0]["uuid"].clone()
    }

    fn assert_nothing_was_started(&self) {
        assert!(
            self.machine.starts().is_empty(),
            "{:?}",
            self.machine.starts()
        );
    }
}

life!(a_member_waits_for_its_gang_and_is_told_of_it, world, {
    let words = [
        "sim",
        "env=RANK",
        "env=MASTER_ADDR",
        "env=MASTER_PORT",
        "hostfile",
    ];
    world.bind_with("a", &words, member(1));
    world.until_claimed("a").await;
    let status = world.status("a");
    let endpoint = json!({"address": "n1", "port": 20_000});
    assert_eq!(status["claim"]["endpoint"], endpoint);
    assert_eq!(
        (&status["phase"], &status["startTime"]),
        (&json!("Scheduled"), &Value::Null)
    );
    world.settle().await;
    world.assert_nothing_was_started();
    world.go("a");
    world.until_phase("a", "Succeeded").await;
    let log = "RANK=1\nMASTER_ADDR=n1\nMASTER_PORT=20000\nn1 slots=1\n10.0.0.2 slots=1\n";
    assert_eq!(world.fake.log("uid-a", 1), Some((log.to_owned(), true)));
});

life!(the_time_limit_of_a_member_counts_from_its_start, world, {
    world.bind_with("a", &["sim", "sleep=1000"], |job| {
        member(0)(job);
        job["spec"]["activeDeadlineSeconds"] = json!(50);
    });
    world.until_claimed("a").await;
    // Longer than the limit.
    world.settle().await;
    let go = (world.clock)();
    world.go("a");
    world.until_phase("a", "TimedOut").await;
    let status = world.status("a");
    let time = |field: &str| -> Timestamp {
        let text = status[field].as_str().expect("a time");
        text.parse().expect("a time")
    };
    assert!(time("startTime") >= go, "{status}");
    assert_eq!(
        time("finishTime")
            .duration_since(time("startTime"))
            .as_secs(),
        50
    );
});

life!(two_gangs_on_one_node_get_different_ports, world, {
    for name in ["a", "b", "c"] {
        world.bind_with(name, &["sim", "sleep=100"], member(0));
    }
    let mut ports = Vec::new();
    for name in ["a", "b", "c"] {
        world.until_claimed(name).await;
        ports.push(world.status(name)["claim"]["endpoint"]["port"].clone());
    }
    world.go("a");
    world
        .until("the start", |world| world.machine.running().len() == 1)
        .await;
    // Also while one of them runs, and after a restart of the agent.
    world.crash().await;
    world.begin();
    world.bind_with("d", &["sim", "sleep=1"], member(0));
    world.until_claimed("d").await;
    ports.push(world.status("d")["claim"]["endpoint"]["port"].clone());
    ports.sort_by_key(Value::as_u64);
    assert_eq!(
        ports,
        [20_000, 20_001, 20_002, 20_003].map(|port| json!(port))
    );
});

life!(
    an_agent_that_crashes_between_claim_and_go_goes_on_waiting,
    world,
    {
        world.bind_with("a", &["sim", "sleep=5"], member(0));
        world.until_claimed("a").await;
        let claimed = world.status("a");
        world.crash().await;
        world.begin();
        world.settle().await;
        assert_eq!(world.status("a"), claimed);
        world.assert_nothing_was_started();
        world.crash().await;
        world.go("a");
        world.begin();
        world.until_phase("a", "Succeeded").await;
    }
);

life!(
    what_a_waiting_member_holds_is_refused_to_others_also_after_a_restart,
    world,
    {
        let uuid = world.gpu().await;
        let whole = |job: &mut Value| {
            job["status"]["binding"]["gpus"] = json!([uuid]);
            job["status"]["binding"]["wholeGpus"] = json!(true);
        };
        world.bind_with("m", &["sim", "sleep=5"], |job| {
            member(0)(job);
            whole(job);
        });
        world.until_claimed("m").await;
        world.settle().await;
        world.bind_with("first", &["sim", "sleep=1"], whole);
        world.until_phase("first", "Pending").await;
        world.crash().await;
        // It comes before the member in every list.
        world.bind_with("again", &["sim", "sleep=1"], whole);
        world.begin();
        world.until_phase("again", "Pending").await;
        let reason = world.status("again")["attempts"][0]["reason"].clone();
        assert!(
            reason
                .as_str()
                .is_some_and(|text| text.contains("held by another job")),
            "{reason}"
        );
        // What was given up is free.
        world.stop("m", "Preempted");
        world
            .until("the release", |world| {
                !world.status("m")["release"].is_null()
            })
            .await;
        world.bind_with("last", &["sim", "sleep=1"], whole);
        world.until_phase("last", "Succeeded").await;
    }
);

life!(
    a_member_that_is_stopped_before_go_is_released_without_an_outcome,
    world,
    {
        world.bind_with("preempted", &["sim", "sleep=5"], member(0));
        world.bind_with("cancelled", &["sim", "sleep=5"], member(1));
        for (name, reason) in [("preempted", "Preempted"), ("cancelled", "Cancelled")] {
            world.until_claimed(name).await;
            world.stop(name, reason);
        }
        world.until_phase("cancelled", "Cancelled").await;
        world
            .until("the release", |world| {
                !world.status("preempted")["release"].is_null()
            })
            .await;
        let status = world.status("preempted");
        assert_eq!(
            (&status["outcome"], &status["startTime"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(
            (&status["phase"], &status["release"]["attempt"]),
            (&json!("Stopping"), &json!(1))
        );
        world.settle().await;
        world.assert_nothing_was_started();
    }
);

life!(a_power_cut_between_claim_and_go_loses_nothing, world, {
    world.bind_with("a", &["sim", "sleep=5"], member(0));
    world.until_claimed("a").await;
    world.crash().await;
    world.machine.reboot();
    world.boot_id = "boot-2".to_owned();
    world.begin();
    world.until_phase("a", "Pending").await;
    let status = world.status("a");
    assert_eq!(
        (&status["binding"], &status["release"]),
        (&Value::Null, &Value::Null)
    );
    world.assert_nothing_was_started();
});

life!(
    a_binding_that_is_withdrawn_while_it_waits_is_forgotten,
    world,
    {
        world.bind_with("a", &["sim", "sleep=5"], member(0));
        world.until_claimed("a").await;
        world.fake.change(&path("a"), |job| {
            let status = job["status"].as_object_mut().expect("an object");
            for field in ["binding", "claim", "gang"] {
                status.remove(field);
            }
            status.insert("phase".to_owned(), json!("Pending"));
        });
        world.settle().await;
        let withdrawn = world.status("a");
        world.crash().await;
        world.begin();
        world.settle().await;
        assert_eq!(world.status("a"), withdrawn);
        world.assert_nothing_was_started();
    }
);

life!(a_go_that_the_watch_does_not_tell_is_found, world, {
    world.bind_with("a", &["sim", "sleep=1"], member(0));
    world.until_claimed("a").await;
    world.fake.freeze_watches();
    let go = Instant::now();
    world.go("a");
    world.until_phase("a", "Succeeded").await;
    assert!(go.elapsed() < Duration::from_secs(30), "{:?}", go.elapsed());
});

life!(
    crashes_and_lost_answers_around_go_start_each_member_once,
    world,
    {
        use Fault::{Conflict, LostAnswer, LostRequest};
        let names: Vec<String> = (0..24).map(|index| format!("m{index}")).collect();
        for (index, name) in (0_u64..).zip(&names) {
            world.bind_with(name, &["sim", "sleep=0.2", "exit=0"], |job| {
                member(0)(job);
                job["status"]["binding"]["cpuMillis"] = json!(10);
            });
            world
                .fake
                .fail(&[[LostAnswer, Conflict, LostRequest][name.len() % 3]]);
            world.until_claimed(name).await;
            world
                .fake
                .fail(&[[LostRequest, LostAnswer][name.len() % 2]]);
            world.go(name);
            // The moment moves through reading, beginning and starting.
            tokio::time::sleep(Duration::from_millis(index)).await;
            world.crash().await;
            world.begin();
        }
        for name in &names {
            world.until_phase(name, "Succeeded").await;
        }
        assert_eq!(world.machine.starts().len(), names.len());
    }
);
