//! Where each value in force comes from.

use std::slice;

use crds::profile::CommandMatch;
use crds::queue::JobFloors;
use crds::{ProfileSpec, Queue};

use super::*;

const NO_QUEUES: &[Queue] = &[];
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
    let effective = resolve(&JobSpec::default(), NO_QUEUES, [].iter()).unwrap();
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
    let effective = resolve(&spec, slice::from_ref(&queue), [profile].iter()).unwrap();
    assert_eq!(effective.cpu_millis, sourced(500, Source::Job));
    assert_eq!(effective.memory_bytes, sourced(2 * GIB, Source::Queue));
    let vram = Some(sourced(40 * GIB, Source::Profile));
    assert_eq!(effective.vram_bytes, vram);
    assert_eq!(effective.gpus, sourced(1, Source::Profile));
}

/// The queue `default` with these defaults, and a queue `research` with those.
fn two_queues(floor: JobDefaults, own: Option<JobDefaults>) -> [Queue; 2] {
    let with = |defaults| QueueSpec {
        priority: Some(10),
        defaults,
        ..QueueSpec::default()
    };
    [Queue::new("default", with(Some(floor))), queue(with(own))]
}

#[test]
fn the_default_queue_s_defaults_hold_for_every_queue_value_by_value() {
    let floor = JobDefaults {
        preemptible: Some(true),
        active_deadline_seconds: Some(600),
        resources: Some(Resources {
            cpu: Some(quantity("2")),
            memory: Some(quantity("1Gi")),
            ..Resources::default()
        }),
        ..JobDefaults::default()
    };
    let spec = in_research(JobSpec::default());
    // A queue with a bare priority inherits everything but that.
    let queues = two_queues(floor.clone(), None);
    let effective = resolve(&spec, &queues[..], [].iter()).unwrap();
    let of_default = Source::DefaultQueue;
    assert_eq!(effective.preemptible, sourced(true, of_default));
    let limit = effective.active_deadline_seconds;
    assert_eq!(limit, Some(sourced(600, of_default)));
    assert_eq!(effective.cpu_millis, sourced(2000, of_default));
    assert_eq!(effective.priority, sourced(10, Source::Queue));
    // What a queue says itself stands, an explicit `false` too, and what it leaves out is inherited.
    let own = JobDefaults {
        preemptible: Some(false),
        resources: Some(Resources {
            memory: Some(quantity("3Gi")),
            ..Resources::default()
        }),
        ..JobDefaults::default()
    };
    let queues = two_queues(floor.clone(), Some(own));
    let effective = resolve(&spec, &queues[..], [].iter()).unwrap();
    assert_eq!(effective.preemptible, sourced(false, Source::Queue));
    assert_eq!(effective.memory_bytes, sourced(3 * GIB, Source::Queue));
    assert_eq!(effective.cpu_millis, sourced(2000, of_default));
    // Its own jobs have them from their queue, like those of any other.
    let effective = resolve(&JobSpec::default(), &queues[..], [].iter()).unwrap();
    assert_eq!(effective.preemptible, sourced(true, Source::Queue));
    // A queue has what it inherits, so a profile yields to it as it does to the queue's own word.
    let profile = Profile::new(
        "large",
        ProfileSpec {
            defaults: Some(JobDefaults {
                preemptible: Some(false),
                termination_grace_period_seconds: Some(5),
                ..JobDefaults::default()
            }),
            ..ProfileSpec::default()
        },
    );
    let mut spec = in_research(JobSpec::default());
    spec.profile = Some("large".to_owned());
    let queues = two_queues(floor, None);
    let effective = resolve(&spec, &queues[..], [profile].iter()).unwrap();
    assert_eq!(effective.preemptible, sourced(true, of_default));
    let grace = effective.termination_grace_period_seconds;
    assert_eq!(grace, sourced(5, Source::Profile));
}

#[test]
fn an_attempt_is_limited_to_two_days_unless_somebody_says_otherwise() {
    let limit = |own, of_queue| {
        let queues = two_queues(
            JobDefaults {
                active_deadline_seconds: of_queue,
                ..JobDefaults::default()
            },
            None,
        );
        let spec = in_research(JobSpec {
            active_deadline_seconds: own,
            ..JobSpec::default()
        });
        let effective = resolve(&spec, &queues[..], [].iter()).unwrap();
        let source = effective.active_deadline_seconds.as_ref().unwrap().source;
        (effective.time_limit(), source)
    };
    assert_eq!(limit(None, None), (Some(172_800), Source::Default));
    assert_eq!(limit(None, Some(60)), (Some(60), Source::DefaultQueue));
    assert_eq!(limit(None, Some(0)), (None, Source::DefaultQueue));
    assert_eq!(limit(Some(0), Some(60)), (None, Source::Job));
    assert_eq!(limit(Some(5), Some(0)), (Some(5), Source::Job));
}

#[test]
fn a_nudge_adds_to_what_the_queue_s_file_says() {
    let base = |priority, nudge| {
        let spec = QueueSpec {
            priority,
            nudge,
            ..QueueSpec::default()
        };
        let effective = resolve(
            &in_research(JobSpec::default()),
            slice::from_ref(&queue(spec)),
            [].iter(),
        );
        effective.unwrap().priority
    };
    assert_eq!(base(None, None), by_default(0));
    assert_eq!(base(Some(20), Some(5)), sourced(25, Source::Queue));
    assert_eq!(base(Some(30), Some(5)), sourced(35, Source::Queue));
    assert_eq!(base(None, Some(-5)), sourced(-5, Source::Queue));
    assert_eq!(base(Some(990), Some(50)), sourced(1000, Source::Queue));
}

#[test]
fn gpu_memory_without_gpus_means_one_and_no_gpus_means_no_gpu_memory() {
    let asks = |gpus, vram| {
        let spec = with_resources(Resources {
            gpus,
            vram: Some(quantity(vram)),
            ..Resources::default()
        });
        let effective = resolve(&spec, NO_QUEUES, [].iter()).unwrap();
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
        resolve(&spec, slice::from_ref(&queue), [].iter()).unwrap()
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
        resolve(&spec, slice::from_ref(&queue), [].iter())
            .unwrap()
            .priority
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
        resolve(&spec, NO_QUEUES, [].iter()).unwrap().on_node_lost
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
    let effective = resolve(&spec, NO_QUEUES, [profile].iter()).unwrap();
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
    let missing = resolve(&named, NO_QUEUES, [].iter()).unwrap_err();
    assert_eq!(missing.reason(), "QueueNotFound");
    let spec = JobSpec {
        profile: Some("gone".to_owned()),
        ..JobSpec::default()
    };
    let missing = resolve(&spec, NO_QUEUES, [].iter()).unwrap_err();
    assert_eq!(missing, Withheld::ProfileNotFound("gone".to_owned()));
}

#[test]
fn a_quantity_that_cannot_be_read_names_its_field() {
    let spec = with_resources(Resources {
        memory: Some(quantity("lots")),
        ..Resources::default()
    });
    let error = resolve(&spec, NO_QUEUES, [].iter()).unwrap_err();
    assert!(error.to_string().starts_with("spec.resources.memory: "));
}

#[test]
fn a_job_that_uses_what_cannot_be_done_yet_is_told_which_field() {
    let spec = JobSpec {
        image: Some("busybox".to_owned()),
        ..JobSpec::default()
    };
    let error = resolve(&spec, NO_QUEUES, [].iter()).unwrap_err();
    assert_eq!(error.reason(), "NotSupportedYet");
    assert!(error.to_string().contains("spec.image"));
    let harmless = JobSpec {
        replicas: Some(4),
        backoff_limit: Some(0),
        ..JobSpec::default()
    };
    assert!(resolve(&harmless, NO_QUEUES, [].iter()).is_ok());
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
