//! Members of gangs on nodes that go away before anything was begun.

use crds::Node;
use crds::job_status::GangStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::tests::{drained, node, story};
use crate::shell::testing::{JobBuilder, at, job};

#[test]
fn a_member_of_a_gang_that_has_begun_nothing_is_withdrawn_at_once_and_never_lost() {
    let seen = node("True", "boot-1");
    let silent = node("Unknown", "boot-1");
    let new_boot = node("True", "boot-2");
    let emptied = drained();
    let unbegun = |go: Option<u32>| {
        job("a").running("n").status(move |status| {
            status.gang = Some(GangStatus {
                size: 2,
                generation: 1,
                rank: Some(1),
                ..GangStatus::default()
            });
            status.go = go;
        })
    };
    let begun = || unbegun(Some(1)).status(|s| s.start_time = Some(MicroTime(at(5))));
    let rows: Vec<(&str, JobBuilder, Option<&Node>, Vec<&str>)> = vec![
        ("its node is seen", unbegun(None), Some(&seen), vec![]),
        (
            "its node is silent",
            unbegun(None),
            Some(&silent),
            vec!["Pending"],
        ),
        ("after go", unbegun(Some(1)), Some(&silent), vec!["Pending"]),
        ("its node has gone", unbegun(None), None, vec!["Pending"]),
        ("restarted", unbegun(None), Some(&new_boot), vec!["Pending"]),
        ("drained", unbegun(None), Some(&emptied), vec!["Pending"]),
        (
            "begun on a silent node",
            begun(),
            Some(&silent),
            vec!["Unknown"],
        ),
        (
            "begun and restarted",
            begun(),
            Some(&new_boot),
            vec!["Unknown", "Lost"],
        ),
    ];
    for (name, builder, node, expected) in rows {
        // Before the agent of a restarted node could have spoken.
        let now = if name.starts_with("begun") { 500 } else { 101 };
        assert_eq!(story(builder, node, now), expected, "{name}");
    }
}
