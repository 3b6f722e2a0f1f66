//! Checkpoints that running jobs have said to be complete: told from time to time, and at the end.

use super::*;

fn keeps(job: &mut Value) {
    job["spec"]["backoffLimit"] = json!(1);
}

impl World {
    fn checkpoint(&self, name: &str) -> Value {
        self.status(name)["checkpoint"].clone()
    }

    fn writes(&self, name: &str) -> usize {
        self.fake.requests(&format!("PATCH {JOBS}/{name}/status"))
    }
}

life!(
    a_running_job_s_checkpoints_are_told_and_not_each_of_them,
    world,
    {
        let mut words = vec!["sim", "sleep=5"];
        words.extend(["checkpoint", "sleep=10"].repeat(12));
        words.push("sleep=100");
        world.bind_with("a", &words, keeps);
        world
            .until("the first", |world| !world.checkpoint("a").is_null())
            .await;
        let first = world.checkpoint("a");
        assert_eq!(first["attempt"], 1);
        assert_eq!(world.status("a")["phase"], "Running");
        // Twelve of them within two minutes.
        tokio::time::sleep(Duration::from_secs(150)).await;
        let told = world.writes("a") - 1;
        assert!((2..=4).contains(&told), "{told} writes");
        assert_ne!(world.checkpoint("a"), first);
        world.until_phase("a", "Succeeded").await;
    }
);

life!(
    the_last_checkpoint_comes_with_the_end_and_without_one_nothing_is_told,
    world,
    {
        world.bind_with("a", &["sim", "sleep=1", "checkpoint", "exit=0"], keeps);
        world.bind_with("b", &["sim", "sleep=1", "exit=0"], keeps);
        for name in ["a", "b"] {
            world.until_phase(name, "Succeeded").await;
            assert_eq!(world.writes(name), 2, "claim and end");
        }
        assert_eq!(world.checkpoint("a")["attempt"], 1);
        assert_eq!(world.checkpoint("b"), Value::Null);
    }
);
