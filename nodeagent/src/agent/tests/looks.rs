//! The last look before a claim: cards that others have filled meanwhile, and directories that are not there.

use super::*;

const GIB: u64 = 1 << 30;

impl World {
    /// Binds a job to the first card, as placement does that knows of nobody there.
    async fn bind_to_card(&self, name: &str, words: &[&str], vram_gib: u64) {
        self.until("the node", |world| {
            let node = world.fake.get(NODE);
            node.is_some_and(|node| node["status"]["gpus"].is_array())
        })
        .await;
        let uuid = self.card()["uuid"].clone();
        self.bind_with(name, words, |job| {
            job["status"]["binding"]["gpus"] = json!([uuid]);
            job["status"]["binding"]["vramBytes"] = json!(vram_gib * GIB);
        });
    }

    /// The first card as the Node says it.
    fn card(&self) -> Value {
        self.fake.get(NODE).expect("registered")["status"]["gpus"][0].clone()
    }

    fn refusal(&self, name: &str) -> String {
        let reason = &self.status(name)["attempts"][0]["reason"];
        reason.as_str().unwrap_or_default().to_owned()
    }
}

life!(
    a_card_that_was_filled_meanwhile_sends_the_job_back_and_the_node_says_so,
    world,
    {
        world
            .until("the node", |world| world.fake.get(NODE).is_some())
            .await;
        // Nobody has read the cards since.
        world.guests.set(0, 4711, Some(20 * GIB));
        world.bind_to_card("a", &["sim", "sleep=5"], 10).await;
        world.until_phase("a", "Pending").await;
        assert_eq!(
            world.refusal("a"),
            "Refused: GPU 0 has 1.5 of 10.0 GiB free; it is held by process 4711 of no job (20.0 GiB)"
        );
        assert_eq!(world.status("a")["binding"], Value::Null);
        assert!(world.machine.starts().is_empty(), "nothing was started");
        world
            .until("the card", |world| world.card()["usedBytes"] == 20 * GIB)
            .await;
        assert_eq!(world.card()["foreign"][0]["pid"], 4711);
    }
);

life!(
    memory_that_comes_back_within_a_moment_sends_nobody_back,
    world,
    {
        world.guests.set(0, 4711, Some(20 * GIB));
        world.bind_to_card("a", &["sim", "sleep=5"], 10).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(
            world.status("a")["phase"],
            "Scheduled",
            "it is looked at again"
        );
        world.guests.set(0, 4711, None);
        world.until_phase("a", "Succeeded").await;
        assert_eq!(world.status("a")["attempts"], Value::Null);
    }
);

life!(
    a_directory_that_is_not_there_excludes_the_node_for_the_job,
    world,
    {
        world.machine.remove_directory("/scratch");
        world.bind_with("a", &["sim", "sleep=5"], |job| {
            job["spec"]["workingDir"] = json!("/scratch/run");
        });
        world.bind_with("b", &["sim", "sleep=5"], |job| {
            job["spec"]["workingDir"] = json!("/home/ada");
            job["spec"]["directories"] = json!(["/scratch"]);
        });
        world.bind_with("c", &["sim", "sleep=5"], |job| {
            job["spec"]["workingDir"] = json!("/home/ada");
        });
        world.until_phase("c", "Succeeded").await;
        for (name, directory) in [("a", "/scratch/run"), ("b", "/scratch")] {
            world.until_phase(name, "Pending").await;
            assert_eq!(world.status(name)["excludedNodes"], json!(["n1"]));
            assert_eq!(
                world.refusal(name),
                format!("Refused: there is no directory {directory} on n1")
            );
        }
        assert_eq!(world.machine.starts().len(), 1, "only that of c");
    }
);

life!(a_stop_that_comes_during_the_look_is_heeded, world, {
    world.guests.set(0, 4711, Some(20 * GIB));
    world.bind_to_card("a", &["sim", "sleep=5"], 10).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    world.fake.change(&path("a"), |job| {
        job["spec"]["cancel"] = json!(true);
        job["status"]["stop"] = json!({"attempt": 1, "reason": "Cancelled", "by": "me",
                "deadline": "2027-01-15T08:00:00Z"});
    });
    world.until_phase("a", "Cancelled").await;
    assert!(world.machine.starts().is_empty());
});
