//! The simulated machine, on a clock that stands still but for waiting.

use super::*;
use crate::attempt::Charge;

fn machine() -> SimRunner {
    let begin = Instant::now();
    let clock: Clock = Arc::new(move || Timestamp::UNIX_EPOCH + begin.elapsed());
    SimRunner::new(clock, 7)
}

fn request(uid: &str, words: &[&str]) -> StartRequest {
    StartRequest {
        id: AttemptId {
            uid: uid.to_owned(),
            attempt: 1,
        },
        namespace: "default".to_owned(),
        name: uid.to_owned(),
        program: Program::Command(words.iter().copied().map(str::to_owned).collect()),
        env: Vec::new(),
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

async fn run(machine: &SimRunner, request: StartRequest) -> Ended {
    let mut attached = machine.attach().await.expect("always");
    machine.start(request).await.expect("always");
    attached.ends.recv().await.expect("it ends").1
}

fn seconds(ended: &Ended) -> i64 {
    let took = ended.finished_micros.zip(ended.started_micros);
    took.map_or(-1, |(finished, started)| (finished - started) / 1_000_000)
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn words_are_done_one_after_another() {
    let machine = machine();
    let words = ["sim", "print=a", "sleep=5", "print=b", "exit=3", "print=c"];
    let ended = run(&machine, request("u", &words)).await;
    assert_eq!((ended.code, seconds(&ended)), (Some(3), 5));
    let id = request("u", &[]).id;
    let output = machine.output(id, 0, 99).await.expect("always");
    assert_eq!(output, "a\nb\n");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_unknown_word_fails_the_start_and_says_so() {
    let ended = run(&machine(), request("u", &["sim", "slep=5"])).await;
    assert!(
        ended
            .start_error
            .is_some_and(|error| error.contains("slep=5"))
    );
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn stops_end_an_attempt_as_its_words_say() {
    for (words, grace, expected) in [
        (vec!["sim", "sleep=100"], 9, (None, Some(TERM), 2)),
        (vec!["sim", "trap=7", "sleep=100"], 9, (Some(7), None, 2)),
        (
            vec!["sim", "ignore-term", "sleep=100"],
            9,
            (None, Some(KILL), 11),
        ),
    ] {
        let machine = machine();
        let mut attached = machine.attach().await.expect("always");
        let request = request("u", &words);
        let id = request.id.clone();
        machine.start(request).await.expect("always");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let kill_at = (machine.clock)() + Duration::from_secs(grace);
        machine.stop(id, kill_at).await.expect("always");
        let (_, ended) = attached.ends.recv().await.expect("it ends");
        assert_eq!(
            (ended.code, ended.signal, seconds(&ended)),
            expected,
            "{words:?}"
        );
        assert_eq!(ended.signalled, Some(SignalCause::Stop));
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_limit_is_kept_and_attributed() {
    let mut request = request("u", &["sim", "ignore-term", "sleep=100"]);
    request.deadline_secs = Some(4);
    let ended = run(&machine(), request).await;
    assert_eq!((ended.signal, seconds(&ended)), (Some(KILL), 34));
    assert_eq!(ended.signalled, Some(SignalCause::Deadline));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_new_agent_finds_what_runs_and_what_ended_and_starts_nothing_twice() {
    let machine = machine();
    drop(machine.attach().await.expect("always"));
    machine
        .start(request("short", &["sim", "exit=4"]))
        .await
        .expect("always");
    machine
        .start(request("long", &["sim", "sleep=50"]))
        .await
        .expect("always");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut attached = machine.attach().await.expect("always");
    let held: Vec<_> = attached
        .held
        .iter()
        .map(|held| (held.name.as_str(), held.ended.is_some()))
        .collect();
    assert_eq!(held, [("long", false), ("short", true)]);
    machine
        .start(request("long", &["sim", "sleep=50"]))
        .await
        .expect("always");
    let (id, ended) = attached.ends.recv().await.expect("it ends");
    assert_eq!((id.uid.as_str(), seconds(&ended)), ("long", 50));
    assert!(machine.starts().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_drawn_time_follows_from_the_seed_and_the_attempt() {
    let mut times = Vec::new();
    for _ in 0..2 {
        let machine = machine();
        for uid in ["a", "b"] {
            let ended = run(&machine, request(uid, &["sim", "sleep=10..5000"])).await;
            times.push(
                ended
                    .finished_micros
                    .zip(ended.started_micros)
                    .map(|(f, s)| f - s),
            );
        }
    }
    assert_eq!(times[..2], times[2..]);
    assert_ne!(times[0], times[1]);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_power_cut_leaves_nothing() {
    let machine = machine();
    let _attached = machine.attach().await.expect("always");
    machine
        .start(request("u", &["sim", "sleep=50"]))
        .await
        .expect("always");
    machine.reboot();
    assert!(machine.running().is_empty());
    let attached = machine.attach().await.expect("always");
    assert!(attached.held.is_empty());
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_lingers_is_told_with_the_end_and_its_going_by_itself() {
    let machine = machine();
    let mut attached = machine.attach().await.expect("always");
    let request = request("u", &["sim", "linger=60", "sleep=5", "exit=3"]);
    let id = request.id.clone();
    machine.start(request).await.expect("always");
    let (_, first) = attached.ends.recv().await.expect("it ends");
    assert_eq!((first.code, seconds(&first)), (Some(3), 5));
    assert_eq!(first.lingering, Some(machine.processes(id.clone()).await));
    let attached = machine.attach().await.expect("always");
    assert_eq!(attached.held[0].ended, Some(first.clone()));
    let mut ends = attached.ends;
    let (_, last) = ends.recv().await.expect("it goes");
    let expected = Ended {
        lingering: None,
        ..first
    };
    assert_eq!(last, expected);
    assert!(machine.processes(id).await.is_empty());
}
