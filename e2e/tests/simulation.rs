//! The whole system in one thread: what users are promised, under crashes, lost answers and broken watches.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use crds::{Node, Phase};
use e2e::sim::{Settings, Sim, phase};
use e2e::transport::Faults;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

const LIMIT: Duration = Duration::from_hours(1);

const ROUGH: Faults = Faults {
    lost_requests: 20,
    lost_responses: 20,
    late: 30,
    broken_watches: 100,
};

/// Jobs of many shapes, drawn from the seed; each says by its name how it must end.
async fn submit_mixture(sim: &Sim, seed: u64, jobs: usize) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    for index in 0..jobs {
        let seconds = random.random_range(1..20);
        let code = random.random_range(0..3);
        let mut resources = json!({"cpu": "500m"});
        match random.random_range(0..4) {
            0 => resources["gpus"] = json!(1),
            1 => resources["vram"] = json!(format!("{}Gi", random.random_range(1..20))),
            2 => {
                resources["gpus"] = json!(2);
                resources["vram"] = json!("4Gi");
            }
            _ => {}
        }
        sim.submit(
            &format!("mix-{index}-exits-{code}"),
            json!({
                "command": ["sim", format!("print=job {index}"), format!("sleep={seconds}"), format!("exit={code}")],
                "resources": resources,
                "priority": random.random_range(0..10),
            }),
        )
        .await?;
    }
    Ok(())
}

fn assert_exits(jobs: &BTreeMap<String, crds::Job>) {
    for (name, job) in jobs {
        let Some((_, code)) = name.rsplit_once("-exits-") else {
            continue;
        };
        let status = job.status.as_ref().expect("an ended job has a status");
        assert_eq!(
            status.exit_code.map(|code| code.to_string()).as_deref(),
            Some(code),
            "{name}"
        );
        let wanted = if code == "0" {
            Phase::Succeeded
        } else {
            Phase::Failed
        };
        assert_eq!(status.phase, Some(wanted), "{name}");
        assert_eq!(status.attempt, 1, "{name} needed one attempt");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_and_its_end_is_recorded() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    sim.submit(
        "train",
        json!({
            "command": ["sim", "print=hello", "sleep=5", "exit=3"],
            "resources": {"vram": "10Gi"},
        }),
    )
    .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let status = jobs["train"].status.as_ref().context("a status")?;
    assert_eq!(status.phase, Some(Phase::Failed));
    assert_eq!(status.exit_code, Some(3));
    let binding = status.binding.as_ref().context("a binding")?;
    assert_eq!(binding.node_name, "node-0");
    assert_eq!(binding.gpus.len(), 1);
    assert_eq!(binding.vram_bytes, Some(10 << 30));
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_trace() -> Result<()> {
    let mut traces = Vec::new();
    for _ in 0..2 {
        let sim = Sim::start(Settings {
            seed: 7,
            nodes: 2,
            faults: ROUGH,
            ..Settings::default()
        })
        .await?;
        submit_mixture(&sim, 7, 20).await?;
        sim.run_until_all_ended(LIMIT).await?;
        sim.check()?;
        traces.push(sim.trace());
    }
    assert_eq!(traces[0], traces[1]);
    assert!(
        traces[0].len() >= 80,
        "each job is seen through its life: {}",
        traces[0].len()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_run_twice_over_a_bad_network() -> Result<()> {
    for seed in 1..=4 {
        let sim = Sim::start(Settings {
            seed,
            nodes: 3,
            faults: ROUGH,
            ..Settings::default()
        })
        .await?;
        submit_mixture(&sim, seed, 30).await?;
        let jobs = sim.run_until_all_ended(LIMIT).await?;
        assert_exits(&jobs);
        sim.check()?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_run_twice_when_anything_crashes_at_any_time() -> Result<()> {
    for seed in 11..=14 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sim = Sim::start(Settings {
            seed,
            nodes: 2,
            faults: ROUGH,
            ..Settings::default()
        })
        .await?;
        submit_mixture(&sim, seed, 24).await?;
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(random.random_range(1..4000))).await;
            let pause = Duration::from_millis(random.random_range(0..3000));
            if random.random_bool(0.5) {
                sim.crash_controllers();
                tokio::time::sleep(pause).await;
                sim.start_controllers();
            } else {
                let index = random.random_range(0..2);
                sim.crash_agent(index);
                tokio::time::sleep(pause).await;
                sim.start_agent(index)?;
            }
        }
        sim.heal();
        let jobs = sim.run_until_all_ended(LIMIT).await?;
        assert_exits(&jobs);
        sim.check()?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn jobs_share_a_gpu_as_far_as_their_vram_fits_and_the_rest_wait_with_numbers() -> Result<()> {
    let sim = Sim::start(Settings {
        gpus: "1x24Gi",
        ..Settings::default()
    })
    .await?;
    for name in ["one", "two", "three"] {
        sim.submit(
            name,
            json!({
                "command": ["sim", "sleep=60"],
                "resources": {"vram": "10Gi", "cpu": "500m"},
            }),
        )
        .await?;
    }
    let jobs = sim
        .run_until(LIMIT, |jobs| {
            jobs.values()
                .filter(|job| phase(job) == Phase::Running)
                .count()
                == 2
                && jobs.values().any(|job| {
                    job.status
                        .as_ref()
                        .is_some_and(|status| status.waiting.is_some())
                })
        })
        .await?;
    let waiting = jobs
        .values()
        .find_map(|job| job.status.as_ref()?.waiting.clone())
        .context("one job waits")?;
    assert_eq!(waiting.reason, "InsufficientVram", "{waiting:?}");
    let message = waiting.message.unwrap_or_default();
    assert!(
        message.contains("10") && message.contains("GiB"),
        "numbers are missing: {message}"
    );
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert!(jobs.values().all(|job| phase(job) == Phase::Succeeded));
    assert!(
        sim.elapsed() >= Duration::from_mins(2),
        "the third ran after the first two"
    );
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn what_no_node_could_ever_run_is_infeasible_with_the_reason() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    sim.submit(
        "big",
        json!({"command": ["sim"], "resources": {"vram": "80Gi"}}),
    )
    .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["big"]), Phase::Infeasible);
    let message = jobs["big"]
        .status
        .as_ref()
        .and_then(|status| status.message.clone());
    let message = message.unwrap_or_default();
    assert!(message.contains("23.5 of 80.0 GiB"), "{message}");
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first_and_equals_go_in_order_of_submission() -> Result<()> {
    let sim = Sim::start(Settings {
        gpus: "1x24Gi",
        ..Settings::default()
    })
    .await?;
    let whole = json!({"gpus": 1});
    let spec = |priority: i32| json!({"command": ["sim", "sleep=10"], "resources": whole, "priority": priority});
    sim.submit("first", spec(0)).await?;
    sim.run_until(LIMIT, |jobs| phase(&jobs["first"]) == Phase::Running)
        .await?;
    for (name, priority) in [("low", 0), ("low-later", 0), ("high", 5)] {
        sim.submit(name, spec(priority)).await?;
        // Submission times are told apart by the clock.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sim.run_until_all_ended(LIMIT).await?;
    let order: Vec<String> = sim
        .trace()
        .iter()
        .filter(|line| line.contains(" Running "))
        .filter_map(|line| line.split_whitespace().nth(2).map(str::to_owned))
        .collect();
    assert_eq!(order, ["first", "high", "low", "low-later"]);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn cancel_deletion_and_deadlines_stop_a_job_and_say_why() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    let cpu = json!({"cpu": "100m"});
    for name in ["cancelled", "deleted", "stubborn"] {
        let words = if name == "stubborn" {
            json!(["sim", "ignore-term", "sleep=3000"])
        } else {
            json!(["sim", "sleep=3000"])
        };
        sim.submit(
            name,
            json!({"command": words, "resources": cpu, "terminationGracePeriodSeconds": 7}),
        )
        .await?;
    }
    sim.submit(
        "late",
        json!({"command": ["sim", "sleep=3000"], "resources": cpu, "activeDeadlineSeconds": 20}),
    )
    .await?;
    sim.submit(
        "waits",
        json!({"command": ["sim"], "nodeSelector": {"zone": "none"}, "pendingDeadlineSeconds": 30}),
    )
    .await?;
    sim.run_until(LIMIT, |jobs| {
        jobs.iter()
            .all(|(name, job)| name == "waits" || phase(job) == Phase::Running)
    })
    .await?;
    let cancel = Patch::Merge(json!({"spec": {"cancel": true}}));
    for name in ["cancelled", "stubborn"] {
        sim.jobs()
            .patch(name, &PatchParams::default(), &cancel)
            .await?;
    }
    sim.jobs()
        .delete("deleted", &DeleteParams::default())
        .await?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert!(!jobs.contains_key("deleted"), "a stopped job is let go");
    assert_eq!(phase(&jobs["cancelled"]), Phase::Cancelled);
    assert_eq!(
        jobs["cancelled"]
            .status
            .as_ref()
            .and_then(|status| status.signal),
        Some(15)
    );
    assert_eq!(phase(&jobs["stubborn"]), Phase::Cancelled);
    assert_eq!(
        jobs["stubborn"]
            .status
            .as_ref()
            .and_then(|status| status.signal),
        Some(9)
    );
    assert_eq!(phase(&jobs["late"]), Phase::TimedOut);
    assert_eq!(phase(&jobs["waits"]), Phase::TimedOut);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn an_array_runs_each_index_once_and_keeps_its_parallelism() -> Result<()> {
    let mut sim = Sim::start(Settings {
        faults: ROUGH,
        ..Settings::default()
    })
    .await?;
    sim.submit(
        "sweep",
        json!({
            "command": ["sim", "print=part {i}", "sleep=5"],
            "resources": {"cpu": "100m"},
            "array": {"count": 12, "parallelism": 4},
        }),
    )
    .await?;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        sim.crash_controllers();
        sim.start_controllers();
    }
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs["sweep"]).is_terminal())
        .await?;
    assert_eq!(phase(&jobs["sweep"]), Phase::Succeeded);
    let tallies = jobs["sweep"]
        .status
        .as_ref()
        .and_then(|status| status.array.clone());
    let tallies = tallies.context("tallies")?;
    assert_eq!(
        (tallies.total, tallies.succeeded, tallies.failed),
        (12, 12, 0)
    );
    assert_eq!(tallies.finished, "0-11");
    let mut running = 0_i32;
    for line in sim.trace().iter().filter(|line| line.contains("sweep-")) {
        if line.contains(" Scheduled ") {
            running += 1;
        } else if line.contains(" Succeeded ") {
            running -= 1;
        }
        assert!(
            running <= 4,
            "more than its parallelism ran:\n{}",
            sim.trace().join("\n")
        );
    }
    for index in 0..12 {
        let starts = sim
            .trace()
            .iter()
            .filter(|line| line.contains(&format!(" sweep-{index} Running ")))
            .count();
        assert_eq!(starts, 1, "index {index}");
    }
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_makes_its_jobs_unknown_and_nothing_is_killed() -> Result<()> {
    let mut sim = Sim::start(Settings::default()).await?;
    sim.submit(
        "long",
        json!({"command": ["sim", "sleep=300"], "resources": {"gpus": 1}}),
    )
    .await?;
    sim.run_until(LIMIT, |jobs| phase(&jobs["long"]) == Phase::Running)
        .await?;
    sim.crash_agent(0);
    sim.run_until(LIMIT, |jobs| phase(&jobs["long"]) == Phase::Unknown)
        .await?;
    sim.submit(
        "next",
        json!({"command": ["sim"], "resources": {"gpus": 1}}),
    )
    .await?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(
        phase(&sim.list().await?["next"]),
        Phase::Pending,
        "a silent node takes nothing new"
    );
    sim.start_agent(0)?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert_eq!(phase(&jobs["long"]), Phase::Succeeded);
    assert_eq!(
        jobs["long"].status.as_ref().map(|status| status.attempt),
        Some(1)
    );
    assert_eq!(phase(&jobs["next"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_power_says_so_and_its_preemptible_job_runs_again() -> Result<()> {
    let mut sim = Sim::start(Settings::default()).await?;
    let cpu = json!({"cpu": "100m"});
    sim.submit(
        "again",
        json!({"command": ["sim", "sleep=100"], "resources": cpu, "onNodeLost": "Requeue"}),
    )
    .await?;
    sim.run_until(LIMIT, |jobs| phase(&jobs["again"]) == Phase::Running)
        .await?;
    sim.reboot(0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    sim.start_agent(0)?;
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    let status = jobs["again"].status.as_ref().context("a status")?;
    assert_eq!(status.phase, Some(Phase::Succeeded), "{status:?}");
    assert_eq!(status.attempt, 2);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn what_does_not_die_delays_no_end_and_holds_its_gpu_until_it_is_gone() -> Result<()> {
    let mut sim = Sim::start(Settings {
        gpus: "1x24Gi",
        ..Settings::default()
    })
    .await?;
    sim.submit(
        "stuck",
        json!({"command": ["sim", "linger=600", "sleep=5", "exit=3"], "resources": {"gpus": 1}}),
    )
    .await?;
    let jobs = sim.run_until_all_ended(Duration::from_secs(30)).await?;
    let status = jobs["stuck"].status.as_ref().context("a status")?;
    assert_eq!(
        (status.phase, &status.release),
        (Some(Phase::Failed), &None)
    );
    let message = status.message.clone().unwrap_or_default();
    assert!(message.contains("not dead yet"), "{message}");

    sim.submit(
        "next",
        json!({"command": ["sim", "sleep=5"], "resources": {"gpus": 1}}),
    )
    .await?;
    sim.jobs().delete("stuck", &DeleteParams::default()).await?;
    sim.crash_agent(0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    sim.start_agent(0)?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let jobs = sim.list().await?;
    assert_eq!(phase(&jobs["next"]), Phase::Pending, "the GPU is held");
    assert!(jobs.contains_key("stuck"), "its finalizer keeps it");
    let nodes: Api<Node> = Api::all(sim.client());
    let holders = |node: Node| node.status.map(|status| status.gpus[0].holders.len());
    assert_eq!(holders(nodes.get("node-0").await?), Some(1));

    sim.run_until(LIMIT, |jobs| phase(&jobs["next"]) == Phase::Running)
        .await?;
    assert!(sim.elapsed() >= Duration::from_secs(605));
    assert_eq!(holders(nodes.get("node-0").await?), Some(0));
    let jobs = sim.run_until_all_ended(LIMIT).await?;
    assert!(!jobs.contains_key("stuck"), "it is let go");
    assert_eq!(phase(&jobs["next"]), Phase::Succeeded);
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn a_drained_job_that_does_not_die_runs_again_only_when_it_is_gone() -> Result<()> {
    let sim = Sim::start(Settings {
        nodes: 2,
        ..Settings::default()
    })
    .await?;
    sim.submit(
        "moves",
        json!({"command": ["sim", "linger=300", "sleep=60"], "resources": {"gpus": 2}}),
    )
    .await?;
    let jobs = sim
        .run_until(LIMIT, |jobs| phase(&jobs["moves"]) == Phase::Running)
        .await?;
    let node = jobs["moves"]
        .status
        .as_ref()
        .and_then(|s| s.binding.clone());
    let node = node.context("a binding")?.node_name;
    let nodes: Api<Node> = Api::all(sim.client());
    let drain = Patch::Merge(json!({"spec": {"desiredState": "Drain"}}));
    nodes.patch(&node, &PatchParams::default(), &drain).await?;
    let drained = sim.elapsed();
    sim.run_until(LIMIT, |jobs| {
        let status = jobs["moves"].status.as_ref();
        status.is_some_and(|s| s.finish_time.is_some() && s.phase == Some(Phase::Stopping))
    })
    .await?;
    assert!(sim.elapsed() < drained + Duration::from_mins(1));
    sim.run_until(LIMIT, |jobs| phase(&jobs["moves"]) == Phase::Running)
        .await?;
    assert!(sim.elapsed() >= drained + Duration::from_mins(5));
    sim.check()
}

#[tokio::test(start_paused = true)]
async fn an_ended_job_is_deleted_after_its_time_to_live() -> Result<()> {
    let sim = Sim::start(Settings::default()).await?;
    sim.submit("brief", json!({
        "command": ["sim", "sleep=1"], "resources": {"cpu": "100m"}, "ttlSecondsAfterFinished": 30,
    }))
    .await?;
    sim.run_until(LIMIT, |jobs| phase(&jobs["brief"]) == Phase::Succeeded)
        .await?;
    let ended = sim.elapsed();
    sim.run_until(LIMIT, BTreeMap::is_empty).await?;
    assert!(sim.elapsed() >= ended + Duration::from_secs(29));
    sim.check()
}
