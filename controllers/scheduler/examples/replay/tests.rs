//! The replay as a whole: nothing is lost, the same input gives the same report, and rules can be seen at work.

use std::fmt::Write as _;

use scheduler::{Millis, Span};

use crate::engine::replay;
use crate::fleet::Fleet;
use crate::generate::{Wanted, generate};
use crate::outcome::{Ended, Outcome};
use crate::plot::plot;
use crate::policy::Policy;
use crate::report::report;
use crate::sweep::sweep;
use crate::trace::{self, TraceJob};

const FLEET: &str = "nodes 2 cpu=64 memory=512Gi gpus=8x80Gi nvlink=all\nnodes 4 cpu=32 memory=128Gi gpus=4x24Gi\n\
                     queue lab-1 weight=2";

fn made(jobs: u64, seed: u64) -> Vec<TraceJob> {
    generate(&Wanted {
        jobs,
        seed,
        load: 1.1,
        ..Wanted::default()
    })
}

fn play(trace: &str, fleet: &str, settings: &str) -> (Vec<TraceJob>, Outcome) {
    let jobs = trace::read(trace).unwrap();
    let policy = Policy::read(settings).unwrap();
    let outcome = replay(&jobs, &Fleet::read(fleet).unwrap(), &policy);
    (jobs, outcome)
}

fn starts(outcome: &Outcome) -> Vec<Option<i64>> {
    let records = outcome.records.iter();
    records
        .map(|record| record.first_start.map(|start| start.0 / 1000))
        .collect()
}

#[test]
fn every_job_ends_or_is_said_to_wait_and_does_all_its_work_once() {
    let fleet = Fleet::read(FLEET).unwrap();
    for (seed, words) in [
        (1, ""),
        (2, "aging=10m,preemption=off"),
        (3, "checkpoint=never,reservations=0"),
        (4, "checkpoint=stop,packing=spread,half-life=off"),
    ] {
        let jobs = made(400, seed);
        let policy = Policy::read(words).unwrap();
        let outcome = replay(&jobs, &fleet, &policy);
        for (job, record) in jobs.iter().zip(&outcome.records) {
            let (end, ended) = record.ended.as_ref().unwrap();
            match ended {
                Ended::Done => {
                    assert_eq!(
                        record.ran.0 - record.lost.0,
                        job.run.0,
                        "{job:?} {record:?}"
                    );
                    let time = record.waited.saturating_add(record.ran);
                    assert_eq!(job.submit.plus(time), *end, "{job:?} {record:?}");
                    assert_eq!(record.attempts, record.displaced + 1);
                }
                Ended::AtLimit => {
                    let limit = job.limit.or(policy.limit).unwrap();
                    assert!(record.ran.0 >= limit.0 && limit < job.run);
                }
                Ended::Unfinished => panic!("{job:?} {record:?}"),
                Ended::Impossible(why) | Ended::StillWaiting(why) => {
                    panic!("{job:?}: {why}");
                }
            }
        }
        let (gpus, vram) = outcome.use_of_gpus();
        assert!((1.0..=100.0).contains(&gpus) && (1.0..=100.0).contains(&vram));
    }
}

#[test]
fn the_same_input_gives_the_same_report_and_picture() {
    let fleet = Fleet::read(FLEET).unwrap();
    let jobs = made(200, 9);
    let played = || {
        let policies = ["", "aging=5m,preemption=off"].map(|words| Policy::read(words).unwrap());
        let outcomes = policies.map(|policy| replay(&jobs, &fleet, &policy));
        (report(&outcomes, &jobs, 32, 6), plot(&outcomes))
    };
    assert_eq!(played(), played());
}

#[test]
fn what_can_never_run_is_told_apart_from_what_waits_for_ever() {
    let (_, outcome) = play(
        "submit,run,gpus,queue\n0,60,9,a\n0,60,1,shut\n0,60,1,a\n",
        "nodes 1 cpu=8 gpus=2x24Gi\nqueue shut gpus=0\n",
        "",
    );
    let ended = |at: usize| outcome.records[at].ended.clone().unwrap().1;
    assert!(matches!(ended(0), Ended::Impossible(why) if why.contains("lacks GPUs")));
    assert!(matches!(ended(1), Ended::StillWaiting(why) if why.contains("quota")));
    assert_eq!(ended(2), Ended::Done);
}

#[test]
fn the_report_names_every_job_that_could_never_run() {
    let (jobs, outcome) = play(
        "submit,run,gpus\n0,60,9\n0,60,1\n0,60,8\n",
        "nodes 1 cpu=8 gpus=2x24Gi\n",
        "",
    );
    let text = report(&[outcome], &jobs, 2, 1);
    for line in ["line 2 could never run", "line 4 could never run"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_job_of_higher_priority_displaces_one_that_resumes_from_its_checkpoint() {
    let trace = "submit,run,gpus,priority,preemptible\n0,1h,1,0,yes\n25m,10m,1,5,no\n";
    let fleet = "nodes 1 cpu=8 gpus=1x24Gi";
    let (jobs, outcome) = play(trace, fleet, "checkpoint=10m,stop=30s");
    let record = &outcome.records[0];
    assert_eq!(starts(&outcome), [Some(0), Some(25 * 60 + 30)]);
    assert_eq!(record.displaced, 1);
    // It ran for 25.5 minutes and had saved 20.
    assert_eq!(record.lost, Span::seconds(330));
    assert_eq!(outcome.displaced(&jobs), (1, 330.0));
    let end = record.ended.as_ref().unwrap().0;
    assert_eq!(
        end,
        Millis(0).plus(Span::seconds(25 * 60 + 30 + 600 + 2400))
    );

    let (_, patient) = play(trace, fleet, "preemption=off");
    assert_eq!(starts(&patient), [Some(0), Some(3600)]);
    assert_eq!(patient.records[0].displaced, 0);

    let (_, all_saved) = play(trace, fleet, "checkpoint=stop");
    assert_eq!(all_saved.records[0].lost, Span(0));
}

#[test]
fn a_reservation_lets_a_wide_job_start_under_an_endless_stream_of_small_ones() {
    let mut trace = String::from("submit,run,gpus,limit\n10,10m,4,10m\n");
    for at in 0..600 {
        writeln!(trace, "{},20m,1,20m", at * 300).unwrap();
    }
    let fleet = "nodes 1 cpu=64 gpus=4x24Gi";
    let wide = |settings: &str| {
        let (jobs, outcome) = play(&trace, fleet, settings);
        let at = jobs.iter().position(|job| job.gpus == 4).unwrap();
        outcome.records[at].waited
    };
    // One minute until the reservation, and the longest limit of what runs then.
    assert!(wide("") <= Span::seconds(60 + 20 * 60), "{:?}", wide(""));
    assert!(wide("reservations=0") > Span::seconds(10 * 3600));
}

#[test]
fn a_limit_ends_a_job() {
    let (_, outcome) = play(
        "submit,run,gpus,limit\n0,2h,1,1h\n0,2h,1,\n",
        "nodes 1 cpu=8 gpus=1x24Gi",
        "limit=90m",
    );
    let ends: Vec<_> = outcome
        .records
        .iter()
        .map(|record| record.ended.clone().unwrap())
        .collect();
    assert_eq!(ends[0], (Millis(3_600_000), Ended::AtLimit));
    assert_eq!(ends[1], (Millis(9_000_000), Ended::AtLimit));
}

#[test]
fn weights_show_in_the_shares_while_queues_compete() {
    let mut trace = String::from("submit,run,gpus,queue\n");
    for at in 0..400 {
        let queue = if at % 2 == 0 { "heavy" } else { "light" };
        trace.push_str("0,10m,1,");
        trace.push_str(queue);
        trace.push('\n');
    }
    let fleet = "nodes 1 cpu=64 gpus=8x24Gi\nqueue heavy weight=3";
    let (_, fair) = play(&trace, fleet, "half-life=7d");
    let (_, unfair) = play(&trace, fleet, "half-life=off");
    let index = |outcome: &Outcome| outcome.fairness().jain.unwrap();
    assert!(index(&fair) > 0.95, "{}", index(&fair));
    assert!(index(&unfair) < 0.85, "{}", index(&unfair));
}

#[test]
fn a_sweep_has_a_line_for_every_setting() {
    let policies = ["aging=10m", "reservations=0"].map(|words| Policy::read(words).unwrap());
    let table = sweep(
        &[made(60, 1), made(60, 2)],
        &Fleet::read(FLEET).unwrap(),
        &policies,
    );
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .collect();
    assert_eq!(rows.len(), 3);
    assert!(
        rows.iter()
            .all(|row| row.matches('|').count() == rows[0].matches('|').count())
    );
}

#[test]
fn the_picture_is_well_formed_and_needs_nothing_else() {
    let fleet = Fleet::read(FLEET).unwrap();
    let mut jobs = made(150, 5);
    jobs[0].queue = "<odd> & \"quoted\"".into();
    let policies = ["", "reservations=0"].map(|words| Policy::read(words).unwrap());
    let outcomes = policies.map(|policy| replay(&jobs, &fleet, &policy));
    for count in 1..=2 {
        let svg = plot(&outcomes[..count]);
        assert_well_formed(&svg);
        assert!(!svg.contains("href") && !svg.contains("url("));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        for words in [
            "Use of the fleet",
            "hours since",
            "jobs that wait",
            "hours waited",
        ] {
            assert!(svg.contains(words), "{words}");
        }
    }
    assert_well_formed(&plot(&outcomes[..0]));
}

/// Every element is closed in order, and every `&` and attribute is as XML wants it.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "{}", &rest[..start]);
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty());
    for (at, _) in svg.match_indices('&') {
        let entity = ["&amp;", "&lt;", "&gt;", "&quot;"];
        assert!(entity.iter().any(|entity| svg[at..].starts_with(entity)));
    }
}
