//! What is worth knowing of a job at the moment it is queued: that nothing offers what it asks for, or whom it waits behind.
//!
//! The job is queued all the same: nodes come and go. The judgement is the scheduling core's, over the nodes as they are now
//! with no job on them, so it costs a look at the nodes and not at the queue. A job that several nodes could take is let go
//! without a word.

use std::collections::BTreeSet;

use controllers::{Objects, Snapshot};
use crds::job_status::Source;
use crds::{Job, Node, Queue};
use jiff::Timestamp;
use scheduler::explain::Standing;
use scheduler::whatif::DryRun;
use scheduler::{Millis, ReasonClass, Settings, preempt};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::follow;
use crate::session::{Selection, Session};

/// Most nodes and jobs that are named.
const MOST_NAMED: usize = 8;

/// What there is to say of a job that was just queued, or is about to be; nothing where all is well.
///
/// # Errors
/// When nodes, queues or profiles cannot be read.
pub(super) async fn of(session: &mut Session, job: &Job) -> Result<Vec<String>, Error> {
    let mut objects = Objects {
        nodes: read(session, "nodes.gctl.dev", "").await?,
        queues: read(session, "queues.gctl.dev", "").await?,
        profiles: read(session, "profiles.gctl.dev", "").await?,
        jobs: Vec::new(),
    };
    let now = (session.clock)();
    let inhabited = objects.nodes.clone();
    objects.nodes.iter_mut().for_each(empty);
    let home = home_of(job, &objects.queues);
    let warning = match judge(&objects, job, now) {
        Verdict::Fine => None,
        Verdict::Said(line) => Some(line),
        Verdict::Only(name) => {
            let is_it = |node: &Node| node.metadata.name.as_deref() == Some(&name);
            objects.nodes = inhabited.into_iter().filter(is_it).collect();
            let bound = format!("status.binding.nodeName={name}");
            objects.jobs = read(session, "jobs.gctl.dev", &bound).await?;
            behind(&objects, job, &name, now)
        }
    };
    let warning = warning.map(|line| format!("Warning: {line}"));
    Ok(home.into_iter().chain(warning).collect())
}

/// The queue that the job belongs to, where that is not what it names.
///
/// # Errors
/// When queues cannot be read.
pub(super) async fn home(session: &mut Session, job: &Job) -> Result<Option<String>, Error> {
    let queues = read::<Queue>(session, "queues.gctl.dev", "").await?;
    Ok(home_of(job, &queues))
}

fn home_of(job: &Job, queues: &[Queue]) -> Option<String> {
    let home = controllers::belongs(&job.spec, queues).ok()?;
    let name = home.value;
    match (&job.spec.queue, home.source) {
        (Some(typed), Source::Directory) => Some(format!(
            "Warning: there is no queue `{typed}`; it belongs to queue {name}, which owns its working directory"
        )),
        (None, Source::Directory) => Some(format!(
            "it belongs to queue {name}, which owns its working directory"
        )),
        (Some(typed), _) if *typed != name => Some(format!("`{typed}` is queue {name}")),
        _ => None,
    }
}

/// The objects of a kind that a field selector selects.
async fn read<K: DeserializeOwned>(
    session: &mut Session,
    kind: &str,
    fields: &str,
) -> Result<Vec<K>, Error> {
    let resource = session.resource(kind).await?;
    let selection = Selection {
        fields: fields.to_owned(),
        ..Selection::default()
    };
    let (items, _) = session.list(&resource, None, &selection).await?;
    let read = items.into_iter().map(|item| {
        serde_json::from_value(item).map_err(|error| Error::BadAnswer {
            attempted: format!("read {kind}"),
            reason: error.to_string(),
        })
    });
    read.collect()
}

/// What the nodes alone say.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Several nodes could take it.
    Fine,
    /// This node alone could.
    Only(String),
    /// None could, or it is not known what it needs.
    Said(String),
}

/// The node as if no job were on it: what jobs use is not in the way.
fn empty(node: &mut Node) {
    let gpus = node.status.iter_mut().flat_map(|status| &mut status.gpus);
    for gpu in gpus {
        let by_jobs = gpu.attributed.iter().map(|one| one.used_bytes);
        let by_jobs = by_jobs.fold(0, u64::saturating_add);
        gpu.used_bytes = gpu.used_bytes.map(|used| used.saturating_sub(by_jobs));
        gpu.attributed.clear();
        gpu.holders.clear();
    }
}

fn settled() -> Settings {
    Settings {
        settled_at: Millis(0),
        ..Settings::default()
    }
}

fn judge(objects: &Objects, job: &Job, now: Timestamp) -> Verdict {
    if job.spec.suspend == Some(true) {
        return Verdict::Fine;
    }
    let nobody = objects.nodes.is_empty();
    if let Some(pin) = job.spec.node_name.as_ref().filter(|_| !nobody) {
        let names: BTreeSet<&str> = names(&objects.nodes);
        if !names.contains(pin.as_str()) {
            return Verdict::Said(format!(
                "no node is called `{pin}`; known nodes: {}",
                some(names.into_iter())
            ));
        }
    }
    let mut snapshot = Snapshot::of(objects, settled(), now);
    let candidate = match snapshot.candidate(job, objects, now) {
        Ok(candidate) => candidate,
        Err(withheld) => {
            let queues = objects.queues.iter();
            let queues = queues.filter_map(|queue| queue.metadata.name.as_deref());
            // That one needs no object.
            let queues: BTreeSet<&str> = queues.chain([crds::DEFAULT_QUEUE]).collect();
            let known = match withheld.reason() {
                "QueueNotFound" => format!("; known queues: {}", some(queues.into_iter())),
                _ => String::new(),
            };
            return Verdict::Said(format!("it will wait: {withheld}{known}"));
        }
    };
    if nobody {
        return Verdict::Fine;
    }
    let id = candidate.uid.clone();
    let at = Millis(now.as_millisecond());
    let trial = snapshot.cluster.dry_run(candidate.clone(), at);
    let why = match trial {
        Some(DryRun::Never(why)) => return Verdict::Said(why.to_string()),
        Some(DryRun::Waits { why, .. }) => why,
        Some(DryRun::Starts(_)) => {
            snapshot.cluster.upsert_job(candidate);
            return match snapshot.cluster.scores(&id, 2).as_slice() {
                [only] => Verdict::Only(only.node.to_string()),
                _ => Verdict::Fine,
            };
        }
        None => return Verdict::Fine,
    };
    let Standing::Waits(why) = &why.standing else {
        return Verdict::Fine;
    };
    let others = match why.class() {
        ReasonClass::QueuePaused => {
            return Verdict::Said(format!("it will wait: {why}"));
        }
        ReasonClass::InsufficientVram | ReasonClass::InsufficientGpus => {
            "; processes that are no job's hold the rest"
        }
        _ => "",
    };
    Verdict::Said(format!("even without other jobs, {why}{others}"))
}

/// Whom the job waits behind on the only node that could take it, if that is busy.
fn behind(objects: &Objects, job: &Job, node: &str, now: Timestamp) -> Option<String> {
    let mut snapshot = Snapshot::of(objects, settled(), now);
    let candidate = snapshot.candidate(job, objects, now).ok()?;
    let id = candidate.uid.clone();
    snapshot.cluster.upsert_job(candidate);
    let Some(Standing::Waits(_)) = snapshot.cluster.explain(&id) else {
        return None;
    };
    if preempt::plan(&snapshot.cluster, &id, Millis(now.as_millisecond())).is_ok() {
        // It need not queue.
        return None;
    }
    let holds = |other: &&Job| {
        let binding = other.status.as_ref().and_then(|s| s.binding.as_ref());
        binding.is_some() && !follow::phase_of(other).is_terminal()
    };
    let others: Vec<&Job> = objects.jobs.iter().filter(holds).collect();
    let starts_without = |gone: &dyn Fn(&Job) -> bool| {
        let mut cluster = snapshot.cluster.clone();
        for other in others.iter().filter(|other| gone(other)) {
            cluster.release(&controllers::Snapshot::id(other));
        }
        !matches!(cluster.explain(&id), Some(Standing::Waits(_)))
    };
    let is = |one: &Job, other: &Job| one.metadata.uid == other.metadata.uid;
    let alone = others
        .iter()
        .filter(|other| starts_without(&|one| is(one, other)));
    let alone: Vec<&str> = alone
        .filter_map(|other| other.metadata.name.as_deref())
        .collect();
    let busy = format!("only {node} could take it, and that is busy: it queues behind");
    match alone.as_slice() {
        [] => {}
        [one] => return Some(format!("{busy} {one}")),
        [..] => {
            return Some(format!(
                "{busy} whichever ends first of {}",
                some(alone.into_iter())
            ));
        }
    }
    // Several must end: all but those that may stay.
    let mut behind = others.clone();
    for other in &others {
        let without = |one: &Job| behind.iter().any(|left| is(left, one)) && !is(one, other);
        if starts_without(&without) {
            behind.retain(|left| !is(left, other));
        }
    }
    let behind = behind.iter();
    let behind: Vec<&str> = behind
        .filter_map(|other| other.metadata.name.as_deref())
        .collect();
    (!behind.is_empty()).then(|| format!("{busy} {}", some(behind.into_iter())))
}

fn names(nodes: &[Node]) -> BTreeSet<&str> {
    let names = nodes.iter();
    names
        .filter_map(|node| node.metadata.name.as_deref())
        .collect()
}

/// The first few of some names.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    let shown = all[..all.len().min(MOST_NAMED)].join(", ");
    match all.len().saturating_sub(MOST_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn node(name: &str, gpus: Value) -> Node {
        serde_json::from_value(json!({
            "apiVersion": "gctl.dev/v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
            "status": {
                "capacity": {"cpu": "8", "memory": "64Gi", "gpus": 1},
                "conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "gpus": gpus,
            },
        }))
        .unwrap()
    }

    fn card(more: Value) -> Value {
        let mut card = json!({"uuid": "GPU-a", "index": 0, "model": "NVIDIA H200", "memoryBytes": 24 * GIB,
            "usedBytes": 0});
        for (key, value) in more.as_object().unwrap() {
            card[key] = value.clone();
        }
        json!([card])
    }

    fn job(spec: Value) -> Job {
        let mut job: Job = serde_json::from_value(json!({
            "apiVersion": "gctl.dev/v1", "kind": "Job", "metadata": {"name": "j", "uid": "u"},
            "spec": {"command": ["x"]},
        }))
        .unwrap();
        let mut whole = serde_json::to_value(&job.spec).unwrap();
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        job.spec = serde_json::from_value(whole).unwrap();
        job
    }

    fn judged(nodes: Vec<Node>, spec: Value) -> Verdict {
        let mut objects = Objects {
            nodes,
            ..Objects::default()
        };
        objects.nodes.iter_mut().for_each(empty);
        judge(
            &objects,
            &job(spec),
            Timestamp::from_second(1_800_000_000).unwrap(),
        )
    }

    fn two() -> Vec<Node> {
        vec![node("a", card(json!({}))), node("b", card(json!({})))]
    }

    #[test]
    fn what_nothing_offers_is_said_with_names() {
        let rows = [
            (
                json!({"nodeName": "c"}),
                "no node is called `c`; known nodes: a, b",
            ),
            (json!({"needs": ["docker"]}), "`docker`"),
            (
                json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
                "kubernetes.io/arch=arm64",
            ),
            (
                json!({"resources": {"gpus": 1, "gpu": {"model": "B200"}}}),
                "b200",
            ),
            (
                json!({"resources": {"vram": "80Gi"}}),
                "no known node could ever run it",
            ),
            (
                json!({"queue": "nowhere"}),
                "there is no queue `nowhere`; known queues: default",
            ),
        ];
        for (spec, words) in rows {
            match judged(two(), spec) {
                Verdict::Said(line) => assert!(line.contains(words), "{line}"),
                other => panic!("{words}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_job_that_several_nodes_could_take_is_let_go_without_a_word() {
        assert_eq!(
            judged(two(), json!({"resources": {"vram": "10Gi"}})),
            Verdict::Fine
        );
        assert_eq!(
            judged(vec![], json!({"nodeName": "c"})),
            Verdict::Fine,
            "nobody is there yet"
        );
    }

    #[test]
    fn cards_that_others_have_filled_are_told_apart_from_those_that_jobs_fill() {
        let foreign =
            json!({"usedBytes": 20 * GIB, "foreign": [{"pid": 7, "peakBytes": 20 * GIB}]});
        let wanted = json!({"resources": {"vram": "10Gi"}});
        match judged(vec![node("a", card(foreign.clone()))], wanted.clone()) {
            Verdict::Said(line) => {
                assert!(line.contains("of 10.0 GiB free"), "{line}");
                assert!(
                    line.ends_with("processes that are no job's hold the rest"),
                    "{line}"
                );
            }
            other => panic!("{other:?}"),
        }
        let one_is_free = vec![node("a", card(foreign)), node("b", card(json!({})))];
        assert_eq!(
            judged(one_is_free, wanted.clone()),
            Verdict::Only("b".to_owned())
        );
        let used = json!({"usedBytes": 20 * GIB, "attributed": [{"jobUid": "h", "attempt": 1,
            "usedBytes": 20 * GIB, "peakBytes": 20 * GIB}]});
        let by_jobs = vec![node("a", card(used))];
        assert_eq!(judged(by_jobs, wanted), Verdict::Only("a".to_owned()));
    }

    /// A job that holds a card of node `a`, or none.
    fn runs(name: &str, card: &str) -> Job {
        let gpus: Vec<&str> = Some(card)
            .filter(|card| !card.is_empty())
            .into_iter()
            .collect();
        let mut job = job(json!({"resources": {"cpu": 1, "gpus": gpus.len()}}));
        job.metadata.name = Some(name.to_owned());
        job.metadata.uid = Some(name.to_owned());
        job.status = Some(
            serde_json::from_value(
                json!({"phase": "Running", "attempt": 1, "binding": {"nodeName": "a", "gpus": gpus,
                "wholeGpus": !gpus.is_empty(), "cpuMillis": 1000, "memoryBytes": 0, "epoch": 1,
                "time": "2026-01-01T00:00:00Z"}}),
            )
            .unwrap(),
        );
        job
    }

    #[test]
    fn only_those_are_named_that_are_in_the_way() {
        let mut cards = card(json!({}));
        let mut other = cards[0].clone();
        other["uuid"] = json!("GPU-b");
        other["index"] = json!(1);
        cards.as_array_mut().unwrap().push(other);
        let jobs = vec![runs("cpu", ""), runs("x", "GPU-a"), runs("y", "GPU-b")];
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let said = |spec: Value, jobs: Vec<Job>| {
            let objects = Objects {
                nodes: vec![node("a", cards.clone())],
                jobs,
                ..Objects::default()
            };
            behind(&objects, &job(spec), "a", now)
        };
        let busy = "only a could take it, and that is busy: it queues behind";
        let one = json!({"resources": {"cpu": 1, "gpus": 1}});
        let two = json!({"resources": {"cpu": 1, "gpus": 2}});
        assert_eq!(
            said(one.clone(), jobs.clone()).unwrap(),
            format!("{busy} whichever ends first of x, y")
        );
        assert_eq!(
            said(two.clone(), jobs.clone()).unwrap(),
            format!("{busy} x, y")
        );
        assert_eq!(said(two, jobs[..2].to_vec()).unwrap(), format!("{busy} x"));
        assert_eq!(said(one.clone(), jobs[..2].to_vec()), None, "there is room");
        let mut urgent = one;
        urgent["priority"] = json!(9);
        let mut yielding = runs("low", "GPU-a");
        let mut effective = crds::job_status::Effective::default();
        effective.preemptible.value = true;
        effective.gpus.value = 1;
        yielding.status.as_mut().unwrap().effective = Some(effective);
        let jobs = vec![yielding, runs("y", "GPU-b")];
        assert_eq!(said(urgent, jobs), None, "it displaces one of them");
    }

    #[test]
    fn names_are_not_told_without_end() {
        let names: Vec<String> = (0..20).map(|at| format!("n{at:02}")).collect();
        let told = some(names.iter().map(String::as_str));
        assert!(told.ends_with("n07 and 12 more"), "{told}");
    }
}
