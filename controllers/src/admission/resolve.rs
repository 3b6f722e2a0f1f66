//! Resolves what is in force for a job: job over its queue over the queue `default` over
//! profile over built-in default, value by value. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crds::job::{FenceAction, OnNodeLost, Resources, Toleration};
use crds::job_status::{Effective, Source, Sourced};
use crds::queue::JobDefaults;
use crds::{DEFAULT_QUEUE, JobSpec, Profile, Quantity, QueueSpec};

use super::belongs::{Queues, belongs};

/// Default of `resources.cpu`, in thousandths of a core.
const DEFAULT_CPU_MILLIS: u64 = 1000;
/// Default of `fenceSeconds` (rules.md section 4).
const DEFAULT_FENCE_SECS: u32 = 2400;
/// Default of `activeDeadlineSeconds`: it makes the bound of every wait real (rules.md section 7).
const DEFAULT_LIMIT_SECS: u64 = 48 * 60 * 60;
/// Default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECS: u32 = 30;
/// Bound of a relative priority, of a job and of a queue.
const PRIORITY_BOUND: i32 = 1000;

/// Why a job cannot be resolved for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// It names a queue that does not exist.
    #[error("there is no queue `{0}`")]
    QueueNotFound(String),
    /// It names a profile that does not exist.
    #[error("there is no profile `{0}`")]
    ProfileNotFound(String),
    /// A value cannot be read.
    #[error("{field}: {problem}")]
    InvalidSpec {
        /// The field, such as `spec.resources.cpu`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It uses what this version cannot do.
    #[error("{0} is not supported by this version")]
    NotSupportedYet(&'static str),
}

impl Withheld {
    /// Class of the reason, as `status.waiting.reason` says it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::QueueNotFound(_) => "QueueNotFound",
            Self::ProfileNotFound(_) => "ProfileNotFound",
            Self::InvalidSpec { .. } => "InvalidSpec",
            Self::NotSupportedYet(_) => "NotSupportedYet",
        }
    }

    /// Every class of reason that admission writes.
    pub(super) const REASONS: [&'static str; 4] = [
        "QueueNotFound",
        "ProfileNotFound",
        "InvalidSpec",
        "NotSupportedYet",
    ];
}

/// One source of values, in order of precedence.
struct Layer<'a> {
    source: Source,
    path: &'static str,
    defaults: JobDefaults,
    resources: Option<&'a Resources>,
}

/// Resolves a job's spec. `profiles` are in order of their names.
///
/// # Errors
/// When the job has to wait for something, or for somebody to mend it.
pub fn resolve<'a>(
    spec: &JobSpec,
    queues: &(impl Queues + ?Sized),
    profiles: impl Iterator<Item = &'a Profile>,
) -> Result<Effective, Withheld> {
    refuse_unsupported(spec)?;
    let home = belongs(spec, queues)?;
    let named = |name: &str| queues.named(name).map(|queue| &queue.spec);
    let queue = named(&home.value);
    let floor = named(DEFAULT_QUEUE).filter(|_| home.value != DEFAULT_QUEUE);
    let profile = find_profile(spec, profiles)?;
    let name = profile.and_then(|profile| profile.metadata.name.clone());
    let layers = layers(spec, queue, floor, profile);
    let limit = first(&layers, |layer| layer.defaults.active_deadline_seconds);
    let mut effective = Effective {
        queue: home,
        priority: priority(&layers, queue),
        node_name: spec.node_name.clone().map(of_job),
        directories: directories(spec),
        preferences: (!spec.preferences.is_empty()).then(|| of_job(spec.preferences.clone())),
        packing: queue.and_then(|queue| queue.packing).map(|value| Sourced {
            value,
            source: Source::Queue,
        }),
        profile: name.map(|value| Sourced {
            value,
            source: if spec.profile.is_some() {
                Source::Job
            } else {
                Source::Profile
            },
        }),
        gpu: first(&layers, |layer| layer.resources?.gpu.clone()),
        exclusive: first(&layers, |layer| layer.resources?.exclusive),
        fence_seconds: of_job_or(spec.fence_seconds, DEFAULT_FENCE_SECS),
        fence_action: of_job_or(spec.fence_action, FenceAction::default()),
        on_preemption: first(&layers, |layer| layer.defaults.on_preemption).unwrap_or_default(),
        preemptible: first(&layers, |layer| layer.defaults.preemptible).unwrap_or_default(),
        termination_grace_period_seconds: first(&layers, |layer| {
            layer.defaults.termination_grace_period_seconds
        })
        .unwrap_or(by_default(DEFAULT_GRACE_SECS)),
        active_deadline_seconds: Some(limit.unwrap_or(by_default(DEFAULT_LIMIT_SECS))),
        pending_deadline_seconds: first(&layers, |layer| layer.defaults.pending_deadline_seconds),
        ttl_seconds_after_finished: first(&layers, |layer| {
            layer.defaults.ttl_seconds_after_finished
        }),
        depends_on: spec.depends_on.clone(),
        ..Effective::default()
    };
    let on_node_lost = first(&layers, |layer| layer.defaults.on_node_lost);
    effective.on_node_lost = on_node_lost.unwrap_or_else(|| {
        by_default(if effective.preemptible.value {
            OnNodeLost::Requeue
        } else {
            OnNodeLost::Wait
        })
    });
    resolve_amounts(&mut effective, &layers, queue)?;
    join_profile(&mut effective, spec, profile.map(|profile| &profile.spec));
    Ok(effective)
}

/// What a node must offer for the job to find its files: where it starts, and what it names besides.
fn directories(spec: &JobSpec) -> Option<Sourced<Vec<String>>> {
    let all: BTreeSet<&String> = spec.working_dir.iter().chain(&spec.directories).collect();
    (!all.is_empty()).then(|| of_job(all.into_iter().cloned().collect()))
}

/// Fields whose behaviour comes with a later version. A job that uses one waits and says so: to run it as if it had not
/// asked would be a lie.
fn refuse_unsupported(spec: &JobSpec) -> Result<(), Withheld> {
    let array = spec.array.as_ref();
    let unsupported = [
        ("spec.image", spec.image.is_some()),
        ("spec.dependsOn", !spec.depends_on.is_empty()),
        (
            "spec.array.matrix",
            array.is_some_and(|array| !array.matrix.is_empty()),
        ),
        (
            "spec.array.items",
            array.is_some_and(|array| !array.items.is_empty()),
        ),
        ("spec.retry", !spec.retry.is_empty()),
        (
            "spec.backoffLimit above 0",
            spec.backoff_limit.unwrap_or(0) > 0,
        ),
        (
            "spec.oomRetryLimit above 0",
            spec.oom_retry_limit.unwrap_or(0) > 0,
        ),
        (
            "spec.idleTimeoutSeconds",
            spec.idle_timeout_seconds.is_some(),
        ),
        (
            "spec.firstOutputTimeoutSeconds",
            spec.first_output_timeout_seconds.is_some(),
        ),
    ];
    match unsupported.into_iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(Withheld::NotSupportedYet(field)),
        None => Ok(()),
    }
}

/// The profile that the job names, or else the first whose rules match its command.
fn find_profile<'a>(
    spec: &JobSpec,
    mut profiles: impl Iterator<Item = &'a Profile>,
) -> Result<Option<&'a Profile>, Withheld> {
    if let Some(name) = &spec.profile {
        let named = profiles.find(|profile| profile.metadata.name.as_ref() == Some(name));
        return match named {
            Some(profile) => Ok(Some(profile)),
            None => Err(Withheld::ProfileNotFound(name.clone())),
        };
    }
    if spec.command.is_empty() {
        return Ok(None);
    }
    let command = spec.command.join(" ");
    Ok(profiles.find(|profile| {
        let rules = &profile.spec.matches;
        rules.iter().any(|rule| matches_glob(&rule.glob, &command))
    }))
}

/// Does a text match a pattern in which `*` stands for any text?
fn matches_glob(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((tail, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(tail)
}

fn layers<'a>(
    spec: &'a JobSpec,
    queue: Option<&'a QueueSpec>,
    floor: Option<&'a QueueSpec>,
    profile: Option<&'a Profile>,
) -> [Layer<'a>; 4] {
    let own = JobDefaults {
        resources: None,
        priority: spec.priority,
        preemptible: spec.preemptible,
        on_preemption: spec.on_preemption,
        on_node_lost: spec.on_node_lost,
        active_deadline_seconds: spec.active_deadline_seconds,
        pending_deadline_seconds: spec.pending_deadline_seconds,
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        ttl_seconds_after_finished: spec.ttl_seconds_after_finished,
    };
    let layer = |source, path, defaults: Option<&'a JobDefaults>| Layer {
        source,
        path,
        defaults: defaults.cloned().unwrap_or_default(),
        resources: defaults.and_then(|defaults| defaults.resources.as_ref()),
    };
    let of_queue = |queue: Option<&'a QueueSpec>| queue.and_then(|queue| queue.defaults.as_ref());
    let profile = profile.and_then(|profile| profile.spec.defaults.as_ref());
    [
        Layer {
            source: Source::Job,
            path: "spec.resources",
            defaults: own,
            resources: spec.resources.as_ref(),
        },
        layer(
            Source::Queue,
            "the queue's defaults.resources",
            of_queue(queue),
        ),
        layer(
            Source::DefaultQueue,
            "the default queue's defaults.resources",
            of_queue(floor),
        ),
        layer(Source::Profile, "the profile's defaults.resources", profile),
    ]
}

/// The value of the first layer that has one.
fn first<T>(layers: &[Layer<'_>], value: impl Fn(&Layer<'_>) -> Option<T>) -> Option<Sourced<T>> {
    layers.iter().find_map(|layer| {
        Some(Sourced {
            value: value(layer)?,
            source: layer.source,
        })
    })
}

fn of_job<T>(value: T) -> Sourced<T> {
    Sourced {
        value,
        source: Source::Job,
    }
}

fn by_default<T>(value: T) -> Sourced<T> {
    Sourced {
        value,
        source: Source::Default,
    }
}

fn of_job_or<T>(value: Option<T>, default: T) -> Sourced<T> {
    value.map_or_else(|| by_default(default), of_job)
}

/// The queue's base and what the job adds to it.
fn priority(layers: &[Layer<'_>], queue: Option<&QueueSpec>) -> Sourced<i32> {
    let base = queue.and_then(QueueSpec::base_priority);
    let unsaid = if base.is_some() {
        Source::Queue
    } else {
        Source::Default
    };
    let own = first(layers, |layer| layer.defaults.priority);
    let mut own = own.unwrap_or(Sourced {
        value: 0,
        source: unsaid,
    });
    let floor = queue.and_then(|queue| queue.floors.as_ref()?.priority);
    if let Some(floor) = floor.filter(|floor| *floor > own.value) {
        own = Sourced {
            value: floor,
            source: Source::Queue,
        };
    }
    let bounded = |value: i32| value.clamp(-PRIORITY_BOUND, PRIORITY_BOUND);
    Sourced {
        value: bounded(base.unwrap_or(0)) + bounded(own.value),
        source: own.source,
    }
}

/// CPU, memory, number of GPUs and memory on each.
fn resolve_amounts(
    effective: &mut Effective,
    layers: &[Layer<'_>],
    queue: Option<&QueueSpec>,
) -> Result<(), Withheld> {
    let cpu = amount(layers, "cpu", |r| r.cpu.as_ref(), Quantity::millis)?;
    effective.cpu_millis = cpu.unwrap_or(by_default(DEFAULT_CPU_MILLIS));
    let memory = amount(layers, "memory", |r| r.memory.as_ref(), Quantity::bytes)?;
    effective.memory_bytes = memory.unwrap_or(by_default(0));
    let mut vram = amount(layers, "vram", |r| r.vram.as_ref(), Quantity::bytes)?;
    let implied = vram.as_ref().map(|vram| Sourced {
        value: 1,
        source: vram.source,
    });
    effective.gpus = first(layers, |layer| layer.resources?.gpus)
        .or(implied)
        .unwrap_or(by_default(0));
    if effective.gpus.value == 0 {
        return Ok(());
    }
    let floor = queue.and_then(|queue| queue.floors.as_ref()?.vram.as_ref());
    if let (Some(vram), Some(floor)) = (&mut vram, floor) {
        let floor = floor.bytes().map_err(|error| Withheld::InvalidSpec {
            field: "the queue's floors.vram".to_owned(),
            problem: error.to_string(),
        })?;
        if floor > vram.value {
            *vram = Sourced {
                value: floor,
                source: Source::Queue,
            };
        }
    }
    effective.vram_bytes = vram;
    Ok(())
}

/// A quantity of the first layer that has one, as a number.
fn amount<E: std::fmt::Display>(
    layers: &[Layer<'_>],
    name: &str,
    quantity: impl Fn(&Resources) -> Option<&Quantity>,
    read: impl Fn(&Quantity) -> Result<u64, E>,
) -> Result<Option<Sourced<u64>>, Withheld> {
    for layer in layers {
        let Some(quantity) = layer.resources.and_then(&quantity) else {
            continue;
        };
        return match read(quantity) {
            Ok(value) => Ok(Some(Sourced {
                value,
                source: layer.source,
            })),
            Err(error) => Err(Withheld::InvalidSpec {
                field: format!("{}.{name}", layer.path),
                problem: error.to_string(),
            }),
        };
    }
    Ok(None)
}

/// Adds what the profile asks of nodes to what the job asks; both hold.
fn join_profile(effective: &mut Effective, spec: &JobSpec, profile: Option<&crds::ProfileSpec>) {
    let none = crds::ProfileSpec::default();
    let profile = profile.unwrap_or(&none);
    effective.env.clone_from(&profile.env);
    let source = |of_job: bool| if of_job { Source::Job } else { Source::Profile };

    let mut labels: BTreeMap<String, String> = profile.node_selector.clone();
    labels.extend(spec.node_selector.clone());
    effective.node_selector = (!labels.is_empty()).then(|| Sourced {
        value: labels,
        source: source(!spec.node_selector.is_empty()),
    });

    let mut seen = BTreeSet::new();
    let needs = spec.needs.iter().chain(&profile.needs);
    let needs: Vec<String> = needs.filter(|need| seen.insert(*need)).cloned().collect();
    effective.needs = (!needs.is_empty()).then(|| Sourced {
        value: needs,
        source: source(!spec.needs.is_empty()),
    });

    let mut tolerations: Vec<Toleration> = spec.tolerations.clone();
    for toleration in &profile.tolerations {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    effective.tolerations = (!tolerations.is_empty()).then(|| Sourced {
        value: tolerations,
        source: source(!spec.tolerations.is_empty()),
    });
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
