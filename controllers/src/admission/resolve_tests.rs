//! Where each value in force comes from.

use crds::ProfileSpec;
use crds::profile::CommandMatch;
use crds::queue::JobFloors;

use super::*;

const GIB: u64 = 1 << 30;

fn quantity(text: &str) -> Quantity {
    Quantity(text.to_owned())
}

fn queue(spec: QueueSpec) -> Queue {
    Queue::new("research", spec)
}

fn in_research(mut spec: JobSpec) -> JobSpec {
    spec.queue = Some("research".to_owned());
    spec
}

fn with_resources(resources: Resources) -> JobSpec {
    JobSpec {
        command: vec!["train".to_owned(), "--fast".to_owned()],
        resources: Some(resources),
        ..JobSpec::default()
    }
}

fn defaults(resources: Resources) -> JobDefaults {
    JobDefaults {
        resources: Some(resources),
        ..JobDefaults::default()
    }
}

fn sourced<T>(value: T, source: Source) -> Sourced<T> {
    Sourced { value, source }
}

#[test]
fn a_job_that_says_nothing_gets_the_built_in_defaults() {
    let effective = resolve(&JobSpec::default(), None, [].iter()).unwrap();
    assert_eq!(effective.queue, by_default("default".to_owned()));
    assert_eq!(effective.priority, by_default(0));
    assert_eq!(effective.cpu_millis, by_default(1000));
    assert_eq!(effective.memory_bytes, by_default(0));
    assert_eq!(effective.gpus, by_default(0));
    assert_eq!(effective.vram_bytes, None);
    assert_eq!(effective.on_node_lost, by_default(OnNodeLost::Wait));
    assert_eq!(effective.termination_grace_period_seconds, by_default(30));
    assert_eq!(effective.fence_seconds, by_default(2400));
}

#[test]
fn each_value_comes_from_the_first_who_says_it() {
    let queue = queue(QueueSpec {
        defaults: Some(defaults(Resources {
            memory: Some(quantity("2Gi")),
            cpu: Some(quantity("3")),
            ..Resources::default()
        })),
        ..QueueSpec::default()
    });
    let profile = Profile::new(
        "large",
        ProfileSpec {
            defaults: Some(defaults(Resources {
                memory: Some(quantity("9Gi")),
                vram: Some(quantity("40Gi")),
                ..Resources::default()
            })),
            ..ProfileSpec::default()
        },
    );
    let mut spec = in_research(with_resources(Resources {
        cpu: Some(quantity("500m")),
        ..Resources::default()
    }));
    spec.profile = Some("large".to_owned());
    let effective = resolve(&spec, Some(&queue), [profile].iter()).unwrap();
    assert_eq!(effective.cpu_millis, sourced(500, Source::Job));
    assert_eq!(effective.memory_bytes, sourced(2 * GIB, Source::Queue));
    let vram = Some(sourced(40 * GIB, Source::Profile));
    assert_eq!(effective.vram_bytes, vram);
    assert_eq!(effective.gpus, sourced(1, Source::Profile));
}

#[test]
fn gpu_memory_without_gpus_means_one_and_no_gpus_means_no_gpu_memory() {
    let asks = |gpus, vram| {
        let spec = with_resources(Resources {
            gpus,
            vram: Some(quantity(vram)),
            ..Resources::default()
        });
        let effective = resolve(&spec, None, [].iter()).unwrap();
        (effective.gpus.value, effective.vram_bytes.map(|v| v.value))
    };
    assert_eq!(asks(None, "10Gi"), (1, Some(10 * GIB)));
    assert_eq!(asks(Some(2), "10Gi"), (2, Some(10 * GIB)));
    assert_eq!(asks(Some(0), "10Gi"), (0, None));
}

#[test]
fn a_queue_s_floors_lift_what_is_declared_and_only_that() {
    let queue = queue(QueueSpec {
        floors: Some(JobFloors {
            vram: Some(quantity("8Gi")),
            priority: Some(-5),
        }),
        ..QueueSpec::default()
    });
    let resolved = |gpus, vram: Option<&str>| {
        let mut spec = in_research(with_resources(Resources {
            gpus,
            vram: vram.map(quantity),
            ..Resources::default()
        }));
        spec.priority = Some(-100);
        resolve(&spec, Some(&queue), [].iter()).unwrap()
    };
    let lifted = resolved(None, Some("4Gi"));
    assert_eq!(lifted.vram_bytes, Some(sourced(8 * GIB, Source::Queue)));
    assert_eq!(lifted.priority, sourced(-5, Source::Queue));
    let above = resolved(None, Some("9Gi"));
    assert_eq!(above.vram_bytes, Some(sourced(9 * GIB, Source::Job)));
    assert_eq!(resolved(Some(1), None).vram_bytes, None);
}

#[test]
fn priority_is_the_queue_s_base_and_the_job_s_own_within_bounds() {
    let priority = |base, own| {
        let queue = queue(QueueSpec {
            priority: base,
            ..QueueSpec::default()
        });
        let spec = in_research(JobSpec {
            priority: own,
            ..JobSpec::default()
        });
        resolve(&spec, Some(&queue), [].iter()).unwrap().priority
    };
    assert_eq!(priority(Some(100), Some(-30)), sourced(70, Source::Job));
    assert_eq!(priority(Some(100), None), sourced(100, Source::Queue));
    assert_eq!(priority(None, None), sourced(0, Source::Default));
    let most = priority(Some(i32::MAX), Some(i32::MAX));
    assert_eq!(most, sourced(2000, Source::Job));
}

#[test]
fn a_preemptible_job_is_requeued_when_its_node_is_lost_unless_it_says_otherwise() {
    let lost = |on_node_lost| {
        let spec = JobSpec {
            preemptible: Some(true),
            on_node_lost,
            ..JobSpec::default()
        };
        resolve(&spec, None, [].iter()).unwrap().on_node_lost
    };
    assert_eq!(lost(None), by_default(OnNodeLost::Requeue));
    assert_eq!(lost(Some(OnNodeLost::Wait)), of_job(OnNodeLost::Wait));
}

#[test]
fn what_a_profile_asks_of_nodes_is_added_to_what_the_job_asks() {
    let profile = Profile::new(
        "cuda",
        ProfileSpec {
            node_selector: BTreeMap::from([
                ("zone".to_owned(), "a".to_owned()),
                ("disk".to_owned(), "ssd".to_owned()),
            ]),
            needs: vec!["cuda-12".to_owned()],
            matches: vec![CommandMatch {
                glob: "train *".to_owned(),
            }],
            ..ProfileSpec::default()
        },
    );
    let mut spec = with_resources(Resources::default());
    spec.node_selector = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    let effective = resolve(&spec, None, [profile].iter()).unwrap();
    let labels = effective.node_selector.unwrap();
    assert_eq!(labels.source, Source::Job);
    assert_eq!(labels.value["zone"], "b");
    assert_eq!(labels.value["disk"], "ssd");
    let needs = sourced(vec!["cuda-12".to_owned()], Source::Profile);
    assert_eq!(effective.needs, Some(needs));
}

#[test]
fn a_star_stands_for_any_text() {
    for (glob, text, matched) in [
        ("train", "train", true),
        ("train", "train x", false),
        ("train*", "train x", true),
        ("*train", "python train", true),
        ("*train*", "a train b", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("ab*ba", "aba", false),
        ("*", "", true),
        ("", "x", false),
    ] {
        assert_eq!(matches_glob(glob, text), matched, "{glob} on {text}");
    }
}

#[test]
fn a_job_is_withheld_for_what_is_missing() {
    let named = in_research(JobSpec::default());
    let missing = resolve(&named, None, [].iter()).unwrap_err();
    assert_eq!(missing.reason(), "QueueNotFound");
    let spec = JobSpec {
        profile: Some("gone".to_owned()),
        ..JobSpec::default()
    };
    let missing = resolve(&spec, None, [].iter()).unwrap_err();
    assert_eq!(missing, Withheld::ProfileNotFound("gone".to_owned()));
}

#[test]
fn a_quantity_that_cannot_be_read_names_its_field() {
    let spec = with_resources(Resources {
        memory: Some(quantity("lots")),
        ..Resources::default()
    });
    let error = resolve(&spec, None, [].iter()).unwrap_err();
    assert!(error.to_string().starts_with("spec.resources.memory: "));
}

#[test]
fn a_job_that_uses_what_cannot_be_done_yet_is_told_which_field() {
    let spec = JobSpec {
        image: Some("busybox".to_owned()),
        ..JobSpec::default()
    };
    let error = resolve(&spec, None, [].iter()).unwrap_err();
    assert_eq!(error.reason(), "NotSupportedYet");
    assert!(error.to_string().contains("spec.image"));
    let harmless = JobSpec {
        replicas: Some(4),
        backoff_limit: Some(0),
        ..JobSpec::default()
    };
    assert!(resolve(&harmless, None, [].iter()).is_ok());
}

#[test]
fn every_reason_is_listed() {
    let all = [
        Withheld::QueueNotFound(String::new()),
        Withheld::ProfileNotFound(String::new()),
        Withheld::InvalidSpec {
            field: String::new(),
            problem: String::new(),
        },
        Withheld::NotSupportedYet(""),
    ];
    assert_eq!(all.map(|withheld| withheld.reason()), Withheld::REASONS);
}
