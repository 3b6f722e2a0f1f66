//! What is known of followed jobs, and what is worth saying about each change. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crds::{Job, Node, Phase, Quantity};
use jiff::Timestamp;
use serde_json::Value;

use crate::output::{age, table};

/// Namespace and name of a job.
pub type JobKey = (String, String);

/// What the GPUs are called on their nodes, by UUID.
#[derive(Clone, Debug, Default)]
pub struct GpuIndex {
    known: BTreeMap<String, String>,
}

impl GpuIndex {
    /// Learns the GPUs of nodes.
    pub fn learn(&mut self, nodes: &[Node]) {
        for node in nodes {
            for gpu in node.status.iter().flat_map(|status| &status.gpus) {
                let name = match &gpu.slice {
                    Some(slice) => format!("{}:{}", gpu.index, slice.profile),
                    None => gpu.index.to_string(),
                };
                self.known.insert(gpu.uuid.clone(), name);
            }
        }
    }

    /// True when every GPU of the job's binding is known.
    pub fn covers(&self, job: &Job) -> bool {
        job.status
            .iter()
            .filter_map(|status| status.binding.as_ref())
            .flat_map(|binding| &binding.gpus)
            .all(|uuid| self.known.contains_key(uuid))
    }

    /// `0`, for a MIG slice `4:1g.10gb`, or the UUID of a GPU that is not known.
    pub fn name(&self, uuid: &str) -> String {
        self.known.get(uuid).map_or(uuid, String::as_str).to_owned()
    }
}

/// Where a bound job runs: `sim-0 gpu 0,1 (10Gi each)`.
pub fn place(job: &Job, gpus: &GpuIndex) -> Option<String> {
    let binding = job.status.as_ref()?.binding.as_ref()?;
    let mut text = binding.node_name.clone();
    if !binding.gpus.is_empty() {
        let names: Vec<_> = binding.gpus.iter().map(|uuid| gpus.name(uuid)).collect();
        let amount = if binding.whole_gpus {
            "whole".to_owned()
        } else {
            binding
                .vram_bytes
                .map_or_else(String::new, |bytes| Quantity::from_bytes(bytes).0)
        };
        let each = if binding.gpus.len() > 1 && !binding.whole_gpus {
            " each"
        } else {
            ""
        };
        let _ = write!(text, " gpu {}", names.join(","));
        if !amount.is_empty() {
            let _ = write!(text, " ({amount}{each})");
        }
    }
    Some(text)
}

/// How a job ended, in words: `exit code 3 after 2.1s: the command failed`.
pub fn ending(job: &Job) -> String {
    let Some(status) = &job.status else {
        return String::new();
    };
    let mut text = match (status.exit_code, status.signal, &status.array) {
        (Some(code), _, _) => format!("exit code {code}"),
        (None, Some(signal), _) => crds::signal::name(signal),
        (None, None, Some(array)) => {
            format!("{} of {} succeeded", array.succeeded, array.total)
        }
        (None, None, None) => match (&status.gang, gang_size(job)) {
            (Some(gang), Some(size)) => format!("{} of {size} succeeded", gang.succeeded),
            _ => String::new(),
        },
    };
    if let (Some(start), Some(finish)) = (&status.start_time, &status.finish_time) {
        if !text.is_empty() {
            text.push(' ');
        }
        let span = short_span(start.0, finish.0);
        let _ = write!(text, "after {span}");
    }
    // What the number says already is not said again.
    let told = phase_of(job) == Phase::Succeeded;
    if let Some(message) = status.message.as_deref().filter(|_| !told) {
        let number = match (status.exit_code, status.signal) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => crds::phase::ended_by(signal),
            (None, None) => String::new(),
        };
        let message = message
            .strip_suffix(&number)
            .unwrap_or(message)
            .trim_end_matches([';', ' ']);
        if !message.is_empty() {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(message);
        }
    }
    text
}

/// A span with a tenth of a second while it is short.
fn short_span(from: Timestamp, to: Timestamp) -> String {
    let millis = (to.as_millisecond() - from.as_millisecond()).max(0);
    if millis < 60_000 {
        format!("{}.{}s", millis / 1000, millis % 1000 / 100)
    } else {
        age::duration(millis / 1000)
    }
}

/// What is worth saying about a job in its phase.
fn detail(job: &Job, phase: Phase, gpus: &GpuIndex) -> String {
    let empty = crds::JobStatus::default();
    let status = job.status.as_ref().unwrap_or(&empty);
    match phase {
        Phase::Pending => waiting(job, status),
        Phase::Running if status.array.is_some() && status.binding.is_none() => String::new(),
        Phase::Scheduled | Phase::Running if gang_size(job).is_some() => gang_place(status),
        Phase::Scheduled | Phase::Running | Phase::Unknown => place(job, gpus).unwrap_or_default(),
        Phase::Stopping => status.stop.as_ref().map_or_else(
            || "its process ended".to_owned(),
            |stop| {
                format!(
                    "{:?}: {}",
                    stop.reason,
                    stop.message.as_deref().unwrap_or(&stop.by)
                )
            },
        ),
        Phase::Succeeded
        | Phase::Failed
        | Phase::Cancelled
        | Phase::Preempted
        | Phase::TimedOut
        | Phase::Infeasible
        | Phase::Lost => ending(job),
    }
}

/// What a job that has no place waits for.
fn waiting(job: &Job, status: &crds::JobStatus) -> String {
    if let Some(waiting) = &status.waiting {
        return match &waiting.message {
            Some(message) => format!("{}: {message}", waiting.reason),
            None => waiting.reason.clone(),
        };
    }
    // Said from the spec, so that their controllers' first tallies are no news.
    let array = job.spec.array.as_ref().and_then(|array| array.count);
    match (array, gang_size(job)) {
        (Some(count), _) => format!("array of {count}"),
        (None, Some(size)) => format!("gang of {size}"),
        (None, None) => String::new(),
    }
}

/// Number of members of a gang, if the job is the parent of one.
pub fn gang_size(job: &Job) -> Option<u32> {
    let size = job.spec.replicas.filter(|size| *size > 1)?;
    job.spec.array.is_none().then_some(size)
}

/// How far the generation of a gang is that has its nodes.
fn gang_place(status: &crds::JobStatus) -> String {
    let Some(gang) = &status.gang else {
        return String::new();
    };
    let generation = match gang.generation {
        0 | 1 => String::new(),
        generation => format!(", generation {generation}"),
    };
    format!("{} nodes{generation}", gang.size)
}

/// The phase of a job; a job without status waits for admission.
pub fn phase_of(job: &Job) -> Phase {
    job.status
        .as_ref()
        .and_then(|status| status.phase)
        .unwrap_or_default()
}

/// A transition worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The job's name.
    pub name: String,
    /// Its phase, or `Deleted`.
    pub phase: String,
    /// Node and GPU, or the reason.
    pub detail: String,
}

/// What is known of the jobs that are followed.
#[derive(Debug, Default)]
pub struct Board {
    targets: BTreeMap<JobKey, Option<Ended>>,
    said: BTreeMap<JobKey, (Phase, String)>,
}

/// How a followed job ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// In a terminal phase.
    Finished(Box<Job>),
    /// It was deleted before it ended.
    Deleted,
}

impl Board {
    /// Follows these jobs, and the members of those that are arrays or gangs.
    pub fn new(targets: impl IntoIterator<Item = JobKey>) -> Self {
        Board {
            targets: targets.into_iter().map(|key| (key, None)).collect(),
            said: BTreeMap::new(),
        }
    }

    /// Every job has ended.
    pub fn is_finished(&self) -> bool {
        self.targets.values().all(Option::is_some)
    }

    /// Every job has ended with success.
    pub fn all_succeeded(&self) -> bool {
        self.targets.values().all(|ended| {
            matches!(ended, Some(Ended::Finished(job)) if phase_of(job) == Phase::Succeeded)
        })
    }

    /// The jobs and how they ended.
    pub fn targets(&self) -> &BTreeMap<JobKey, Option<Ended>> {
        &self.targets
    }

    fn concerns(&self, key: &JobKey, job: &Job) -> bool {
        self.targets.contains_key(key)
            || [crds::ARRAY_LABEL, crds::GANG_LABEL].iter().any(|label| {
                let labels = job.metadata.labels.as_ref();
                let parent = labels.and_then(|labels| labels.get(*label));
                parent.is_some_and(|parent| {
                    self.targets.contains_key(&(key.0.clone(), parent.clone()))
                })
            })
    }

    /// The job looks like this now; answers with its transition, if it made one.
    pub fn see(&mut self, job: &Job, gpus: &GpuIndex) -> Option<Transition> {
        let key = key_of(job);
        if !self.concerns(&key, job) || matches!(self.targets.get(&key), Some(Some(_))) {
            return None;
        }
        let phase = phase_of(job);
        if phase.is_terminal()
            && let Some(ended) = self.targets.get_mut(&key)
        {
            *ended = Some(Ended::Finished(Box::new(job.clone())));
        }
        let detail = detail(job, phase, gpus);
        if self
            .said
            .get(&key)
            .is_some_and(|said| *said == (phase, detail.clone()))
        {
            return None;
        }
        self.said.insert(key.clone(), (phase, detail.clone()));
        Some(Transition {
            name: key.1,
            phase: format!("{phase:?}"),
            detail,
        })
    }

    /// The job is gone.
    pub fn lose(&mut self, key: &JobKey) -> Option<Transition> {
        self.said.remove(key);
        let ended = self.targets.get_mut(key)?;
        if ended.is_some() {
            return None;
        }
        *ended = Some(Ended::Deleted);
        Some(Transition {
            name: key.1.clone(),
            phase: "Deleted".to_owned(),
            detail: "before it ended".to_owned(),
        })
    }

    /// The table of outcomes.
    pub fn outcomes(&self) -> String {
        let several = self
            .targets
            .keys()
            .map(|(namespace, _)| namespace)
            .collect::<BTreeSet<_>>()
            .len()
            > 1;
        let header = ["JOB", "PHASE", "EXIT", "NODE", "WAITED", "RAN", "MESSAGE"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for ((namespace, name), ended) in &self.targets {
            let label = if several {
                format!("{namespace}/{name}")
            } else {
                name.clone()
            };
            rows.push(match ended {
                Some(Ended::Finished(job)) => outcome_row(label, job),
                Some(Ended::Deleted) => vec![label, "Deleted".to_owned()],
                None => vec![label, "unfinished".to_owned()],
            });
        }
        table::render(&rows)
    }
}

fn outcome_row(label: String, job: &Job) -> Vec<String> {
    let Some(status) = &job.status else {
        return vec![label];
    };
    let exit = match (status.exit_code, status.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => crds::signal::name(signal),
        (None, None) => "-".to_owned(),
    };
    let node = status
        .binding
        .as_ref()
        .map_or("-", |binding| &binding.node_name)
        .to_owned();
    let span = |from: Option<Timestamp>, to: Option<Timestamp>| match (from, to) {
        (Some(from), Some(to)) => short_span(from, to),
        _ => "-".to_owned(),
    };
    let start = status.start_time.as_ref().map(|time| time.0);
    let queued = status.enqueue_time.as_ref().map(|time| time.0);
    let finish = status.finish_time.as_ref().map(|time| time.0);
    let message = match &status.array {
        Some(array) => format!("{} of {} members succeeded", array.succeeded, array.total),
        None if gang_size(job).is_some() => status.message.clone().unwrap_or_default(),
        None if phase_of(job) == Phase::Succeeded => String::new(),
        None => status.message.clone().unwrap_or_default(),
    };
    vec![
        label,
        format!("{:?}", phase_of(job)),
        exit,
        node,
        span(queued, start),
        span(start, finish),
        message,
    ]
}

/// Namespace and name of a job.
pub fn key_of(job: &Job) -> JobKey {
    (
        job.metadata.namespace.clone().unwrap_or_default(),
        job.metadata.name.clone().unwrap_or_default(),
    )
}

/// A job as the server sent it, or nothing when it is no job.
pub fn read_job(object: Value) -> Option<Job> {
    serde_json::from_value(object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(name: &str, status: Value) -> Job {
        serde_json::from_value(json!({
            "apiVersion": "gctl.dev/v1", "kind": "Job",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {}, "status": status,
        }))
        .unwrap()
    }

    fn gpus() -> GpuIndex {
        let slice = json!({"parent": "GPU-a", "profile": "1g.10gb"});
        let node = json!({
            "apiVersion": "gctl.dev/v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {},
            "status": {"gpus": [
                {"uuid": "GPU-a", "index": 1, "model": "L4", "memoryBytes": 1},
                {"uuid": "MIG-b", "index": 2, "model": "L4", "memoryBytes": 1, "slice": slice},
            ]},
        });
        let mut gpus = GpuIndex::default();
        gpus.learn(&[serde_json::from_value(node).unwrap()]);
        gpus
    }

    fn board(names: &[&str]) -> Board {
        Board::new(
            names
                .iter()
                .map(|name| ("default".to_owned(), (*name).to_owned())),
        )
    }

    #[test]
    fn each_transition_is_said_once_with_what_matters_in_it() {
        let mut board = board(&["a"]);
        let binding = json!({"nodeName": "n", "gpus": ["GPU-a"], "vramBytes": 10_737_418_240_u64});
        let mut lines = Vec::new();
        for status in [
            json!({}),
            json!({"phase": "Pending", "waiting": {"reason": "InsufficientVram", "message": "needs 10Gi, 4Gi free"}}),
            json!({"phase": "Pending", "waiting": {"reason": "InsufficientVram", "message": "needs 10Gi, 4Gi free"}}),
            json!({"phase": "Scheduled", "binding": binding}),
            json!({"phase": "Running", "binding": binding}),
            json!({"phase": "Failed", "binding": binding, "exitCode": 3, "startTime": "2026-01-01T00:00:00.000000Z",
                "finishTime": "2026-01-01T00:00:02.500000Z", "message": "the command failed"}),
        ] {
            if let Some(said) = board.see(&job("a", status), &gpus()) {
                lines.push(format!("{} {} {}", said.name, said.phase, said.detail));
            }
        }
        insta::assert_snapshot!(lines.join("\n"), @r"
        a Pending 
        a Pending InsufficientVram: needs 10Gi, 4Gi free
        a Scheduled n gpu 1 (10Gi)
        a Running n gpu 1 (10Gi)
        a Failed exit code 3 after 2.5s: the command failed
        ");
        assert!(board.is_finished());
        assert!(!board.all_succeeded());
    }

    #[test]
    fn members_of_a_followed_array_are_said_but_do_not_count() {
        let mut board = board(&["sweep"]);
        let mut member = job("sweep-0", json!({"phase": "Succeeded", "exitCode": 0}));
        assert_eq!(board.see(&member, &gpus()), None);
        member.metadata.labels = Some([(crds::ARRAY_LABEL.to_owned(), "sweep".to_owned())].into());
        assert!(board.see(&member, &gpus()).is_some());
        assert!(!board.is_finished());
    }

    #[test]
    fn a_gang_is_said_as_a_whole_and_by_its_members() {
        let mut board = board(&["train"]);
        let mut lines = Vec::new();
        for status in [
            json!({}),
            json!({"phase": "Scheduled", "gang": {"size": 2, "generation": 1}}),
            json!({"phase": "Running", "gang": {"size": 2, "generation": 2}}),
            json!({"phase": "Succeeded", "gang": {"size": 2, "generation": 2, "succeeded": 2}}),
        ] {
            let mut gang = job("train", status);
            gang.spec.replicas = Some(2);
            if let Some(said) = board.see(&gang, &gpus()) {
                lines.push(format!("{} {} {}", said.name, said.phase, said.detail));
            }
        }
        let expected = [
            "train Pending gang of 2",
            "train Scheduled 2 nodes",
            "train Running 2 nodes, generation 2",
            "train Succeeded 2 of 2 succeeded",
        ];
        assert_eq!(lines, expected);
        let mut member = job("train-0", json!({"phase": "Running"}));
        let mut other = Board::new([("default".to_owned(), "train".to_owned())]);
        assert_eq!(other.see(&member, &gpus()), None);
        member.metadata.labels = Some([(crds::GANG_LABEL.to_owned(), "train".to_owned())].into());
        assert!(other.see(&member, &gpus()).is_some());
    }

    #[test]
    fn a_deleted_job_has_ended_without_success() {
        let mut board = board(&["a"]);
        assert_eq!(
            board.lose(&("default".into(), "a".into())).unwrap().phase,
            "Deleted"
        );
        assert!(board.is_finished());
        assert!(!board.all_succeeded());
    }

    #[test]
    fn the_table_of_outcomes_has_a_line_for_each_job() {
        let mut board = board(&["a", "b", "sweep"]);
        board.see(
            &job("a", json!({"phase": "Succeeded", "exitCode": 0, "binding": {"nodeName": "n"},
                "enqueueTime": "2026-01-01T00:00:00.000000Z", "startTime": "2026-01-01T00:00:01.000000Z", "finishTime": "2026-01-01T00:00:03.250000Z"})),
            &gpus(),
        );
        board.see(
            &job(
                "b",
                json!({"phase": "Infeasible", "message": "no node has 9 GPUs"}),
            ),
            &gpus(),
        );
        board.see(
            &job(
                "sweep",
                json!({"phase": "Succeeded", "array": {"total": 4, "succeeded": 4}}),
            ),
            &gpus(),
        );
        insta::assert_snapshot!(board.outcomes(), @r"
        JOB     PHASE        EXIT   NODE   WAITED   RAN    MESSAGE
        a       Succeeded    0      n      1.0s     2.2s
        b       Infeasible   -      -      -        -      no node has 9 GPUs
        sweep   Succeeded    -      -      -        -      4 of 4 members succeeded
        ");
    }

    #[test]
    fn gpus_are_called_by_their_numbers_and_slices_by_their_profile_too() {
        let names = ["GPU-a", "MIG-b", "GPU-c"].map(|uuid| gpus().name(uuid));
        assert_eq!(names, ["1", "2:1g.10gb", "GPU-c"]);
    }
}
