//! A job: where it stands and why, what was resolved for it and from where, its attempts.

use crds::job_status::{AttemptRecord, GangStatus, JobStatus};
use crds::{Job, Quantity};
use jiff::Timestamp;
use serde_json::Value;

use super::text::{Page, cells, conditions};
use crate::follow::{self, GpuIndex};
use crate::output::age;

pub(super) fn describe(page: &mut Page, job: &Job, gpus: &GpuIndex, now: Timestamp) {
    let empty = JobStatus::default();
    let status = job.status.as_ref().unwrap_or(&empty);
    page.field("Phase", format!("{:?}", follow::phase_of(job)));
    if let Some(waiting) = &status.waiting {
        let message = waiting.message.as_deref().unwrap_or_default();
        let colon = if message.is_empty() { "" } else { ": " };
        page.field("Waiting", format!("{}{colon}{message}", waiting.reason));
        // It is written when the kind of the reason changes; its figures are those of that moment.
        if waiting.reason.starts_with("Insufficient") {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            page.field(
                "Now",
                format!("`gctl why {name}` has the figures of this moment"),
            );
        }
        page.optional(
            "Reserved",
            waiting.reservation.as_ref().map(|held| {
                let place = slots(&held.node_name, &held.gpus, gpus);
                match &held.not_later_than {
                    Some(time) => format!("{place}, from {} at the latest", time.0),
                    None => place,
                }
            }),
        );
    } else if job.status.is_none() {
        page.field(
            "Waiting",
            "for the admission controller, which has not seen it yet",
        );
    }
    page.optional(
        "Nominated",
        status.nomination.as_ref().map(|held| {
            let place = slots(&held.node_name, &held.gpus, gpus);
            let victims: Vec<_> = held
                .victims
                .iter()
                .map(|one| format!("{}/{}", one.namespace, one.name))
                .collect();
            format!("{place}, displacing {}", victims.join(", "))
        }),
    );
    page.optional("Message", status.message.as_ref());
    wanted(page, job);
    let heading = if status.finish_time.is_some() {
        "Ran on"
    } else {
        "Runs on"
    };
    page.optional(heading, follow::place(job, gpus));
    if let Some(stop) = &status.stop {
        page.field(
            "Stop",
            format!(
                "{:?} by {}{}, KILL due {}",
                stop.reason,
                stop.by,
                stop.message
                    .as_ref()
                    .map_or_else(String::new, |message| format!(": {message}")),
                stop.deadline.0
            ),
        );
    }
    timing(page, status, now);
    if let Some(gang) = &status.gang {
        page.field("Gang", gang_line(gang));
        if !gang.hosts.is_empty() {
            page.field("Hosts", gang.hosts.join(", "));
        }
    }
    if let Some(array) = &status.array {
        page.field(
            "Array",
            format!(
                "{} of {} succeeded, {} failed, {} active, {} not started",
                array.succeeded,
                array.total,
                array.failed,
                array.active,
                array.total.saturating_sub(array.next_index)
            ),
        );
        if !array.failed_indices.is_empty() {
            page.field("Failed members", &array.failed_indices);
        }
    }
    used(page, status, gpus);
    page.table("Effective", &effective(status));
    page.table("Earlier attempts", &attempts(&status.attempts, now));
    page.table("Conditions", &conditions(&status.conditions, now));
}

/// What the attempt used.
fn used(page: &mut Page, status: &JobStatus, gpus: &GpuIndex) {
    let Some(usage) = &status.usage else {
        return;
    };
    for (uuid, bytes) in &usage.peak_vram_bytes {
        page.field(
            "Peak VRAM",
            format!(
                "{} on gpu {}",
                Quantity::from_bytes(*bytes).0,
                gpus.name(uuid)
            ),
        );
    }
    page.optional(
        "VRAM declared",
        usage.vram_verdict.map(|verdict| format!("{verdict:?}")),
    );
    page.optional(
        "Peak memory",
        usage
            .peak_memory_bytes
            .map(|bytes| Quantity::from_bytes(bytes).0),
    );
}

/// `n1 gpu 0,1`, or the node alone.
fn slots(node: &str, uuids: &[String], gpus: &GpuIndex) -> String {
    if uuids.is_empty() {
        return node.to_owned();
    }
    let names: Vec<_> = uuids.iter().map(|uuid| gpus.name(uuid)).collect();
    format!("{node} gpu {}", names.join(","))
}

/// Lines of a script that are shown, if it is longer.
const SHOWN_LINES: usize = 20;

/// A script, or its first lines and how many more there are.
fn beginning(script: &str) -> String {
    let count = script.lines().count();
    if count <= SHOWN_LINES + 1 {
        return script.to_owned();
    }
    let shown: Vec<_> = script.lines().take(SHOWN_LINES).collect();
    let more = count - SHOWN_LINES;
    format!(
        "{}\n... {more} more lines; -o yaml of `gctl get` has them",
        shown.join("\n")
    )
}

/// What the person asked for.
fn wanted(page: &mut Page, job: &Job) {
    match &job.spec.script {
        Some(script) => page.field("Script", beginning(script)),
        None => page.field("Command", words(&job.spec.command)),
    }
    page.optional("Image", job.spec.image.as_ref());
    page.optional("Directory", job.spec.working_dir.as_ref());
    if !job.spec.env.is_empty() {
        let lines: Vec<_> = job
            .spec
            .env
            .iter()
            .map(|variable| match (&variable.value, &variable.value_from) {
                (_, Some(from)) => format!(
                    "{} from secret {} key {}",
                    variable.name, from.secret_key_ref.name, from.secret_key_ref.key
                ),
                (value, None) => {
                    format!("{}={}", variable.name, value.as_deref().unwrap_or_default())
                }
            })
            .collect();
        page.field("Environment", lines.join("\n"));
    }
}

/// Which generation of a gang it is, and how far; of a member, which one.
fn gang_line(gang: &GangStatus) -> String {
    let GangStatus {
        size, generation, ..
    } = gang;
    let master = gang.master.as_ref().map_or_else(String::new, |master| {
        format!("; rank 0 listens on {}:{}", master.address, master.port)
    });
    match gang.rank {
        Some(rank) => format!("rank {rank} of {size}, generation {generation}{master}"),
        None => format!(
            "{size} members, generation {generation}; {} have a node, {} are claimed, {} succeeded{master}",
            gang.bound, gang.claimed, gang.succeeded
        ),
    }
}

fn timing(page: &mut Page, status: &JobStatus, now: Timestamp) {
    if status.attempt == 0 {
        return;
    }
    page.field("Attempt", status.attempt.to_string());
    page.optional(
        "Started",
        status
            .start_time
            .as_ref()
            .map(|time| format!("{} ({} ago)", time.0, age::since(time.0, now))),
    );
    page.optional(
        "Ended",
        status
            .finish_time
            .as_ref()
            .map(|time| format!("{} ({} ago)", time.0, age::since(time.0, now))),
    );
    page.optional(
        "Checkpoint",
        status.checkpoint.as_ref().map(|checkpoint| {
            let when = checkpoint.time.as_ref().map_or_else(String::new, |time| {
                format!(", {} ({} ago)", time.0, age::since(time.0, now))
            });
            format!("of attempt {}{when}", checkpoint.attempt)
        }),
    );
    page.optional("Exit code", status.exit_code.map(|code| code.to_string()));
    page.optional(
        "Signal",
        status
            .signal
            .map(|signal| format!("{signal} ({})", crds::signal::name(signal))),
    );
}

/// The command as a shell would need it written.
fn words(command: &[String]) -> String {
    command
        .iter()
        .map(|word| {
            let plain = !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_alphanumeric() || "-_./=:,@%+{}".contains(c));
            if plain {
                word.clone()
            } else {
                format!("'{}'", word.replace('\'', "'\\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Every resolved value with its source; the names are those of the schema, so that new fields show by themselves.
fn effective(status: &JobStatus) -> Vec<Vec<String>> {
    let Some(effective) = status
        .effective
        .as_ref()
        .and_then(|effective| serde_json::to_value(effective).ok())
    else {
        return Vec::new();
    };
    let mut rows = vec![cells(["FIELD", "VALUE", "FROM"])];
    for (name, sourced) in effective.as_object().into_iter().flatten() {
        let Some(source) = sourced["source"].as_str() else {
            continue;
        };
        let (name, value) = readable(name, &sourced["value"]);
        rows.push(vec![name, value, source.to_owned()]);
    }
    rows
}

fn readable(name: &str, value: &Value) -> (String, String) {
    if let (Some(short), Some(bytes)) = (name.strip_suffix("Bytes"), value.as_u64()) {
        let text = if bytes == 0 {
            "0".to_owned()
        } else {
            Quantity::from_bytes(bytes).0
        };
        return (short.to_owned(), text);
    }
    if let (Some(short), Some(millis)) = (name.strip_suffix("Millis"), value.as_u64()) {
        return (short.to_owned(), Quantity::from_millis(millis).0);
    }
    (name.to_owned(), apiserver::schema::jsonpath::text_of(value))
}

fn attempts(records: &[AttemptRecord], now: Timestamp) -> Vec<Vec<String>> {
    if records.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![cells(["ATTEMPT", "NODE", "ENDED", "EXIT", "REASON"])];
    rows.extend(records.iter().map(|record| {
        vec![
            record.attempt.to_string(),
            record.node_name.clone().unwrap_or_default(),
            record
                .finish_time
                .as_ref()
                .map_or_else(String::new, |time| {
                    format!("{} ago", age::since(time.0, now))
                }),
            match (record.exit_code, record.signal) {
                (Some(code), _) => code.to_string(),
                (None, Some(signal)) => crds::signal::name(signal),
                (None, None) => "-".to_owned(),
            },
            record.reason.clone().unwrap_or_default(),
        ]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_description_says_where_each_value_came_from() {
        let sourced = |value: Value, source: &str| json!({"value": value, "source": source});
        let job: Job = serde_json::from_value(json!({
            "apiVersion": "gctl.dev/v1", "kind": "Job", "metadata": {"name": "x"},
            "spec": {"command": ["sh", "-c", "echo 'hi there'"], "env": [{"name": "A", "value": "1"}]},
            "status": {
                "phase": "Pending",
                "attempt": 1,
                "waiting": {"reason": "InsufficientVram", "message": "needs 20Gi on one GPU; 14Gi free on n1",
                    "reservation": {"nodeName": "n1", "gpus": ["GPU-a"], "notLaterThan": "2026-01-01T00:09:00Z"}},
                "nomination": {"id": "1", "nodeName": "n1", "gpus": ["GPU-a"], "victims": [
                    {"namespace": "lab", "name": "low", "uid": "u", "attempt": 1}]},
                "effective": {
                    "queue": sourced(json!("default"), "Default"), "priority": sourced(json!(10), "Queue"),
                    "cpuMillis": sourced(json!(1000), "Default"), "memoryBytes": sourced(json!(0), "Default"),
                    "gpus": sourced(json!(1), "Job"), "vramBytes": sourced(json!(21_474_836_480_u64), "Profile"),
                    "preemptible": sourced(json!(false), "Default"), "onPreemption": sourced(json!("Requeue"), "Default"),
                    "onNodeLost": sourced(json!("Wait"), "Default"), "fenceSeconds": sourced(json!(2400), "Default"),
                    "fenceAction": sourced(json!("Freeze"), "Default"),
                    "terminationGracePeriodSeconds": sourced(json!(30), "Default")},
                "checkpoint": {"attempt": 1, "time": "2025-12-31T23:59:00.000000Z"},
                "attempts": [{"attempt": 1, "nodeName": "n1", "exitCode": 3, "reason": "Drained",
                    "finishTime": "2026-01-01T00:00:00.000000Z"}]}
        }))
        .unwrap();
        let mut page = Page::default();
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        describe(&mut page, &job, &GpuIndex::default(), now);
        insta::assert_snapshot!(page.finish(), @r#"
        Phase:         Pending
        Waiting:       InsufficientVram: needs 20Gi on one GPU; 14Gi free on n1
        Now:           `gctl why x` has the figures of this moment
        Reserved:      n1 gpu GPU-a, from 2026-01-01T00:09:00Z at the latest
        Nominated:     n1 gpu GPU-a, displacing lab/low
        Command:       sh -c 'echo '\''hi there'\'''
        Environment:   A=1
        Attempt:       1
        Checkpoint:    of attempt 1, 2025-12-31T23:59:00Z (6m ago)
        Effective:
          FIELD                           VALUE     FROM
          cpu                             1         Default
          fenceAction                     Freeze    Default
          fenceSeconds                    2400      Default
          gpus                            1         Job
          memory                          0         Default
          onNodeLost                      Wait      Default
          onPreemption                    Requeue   Default
          preemptible                     false     Default
          priority                        10        Queue
          queue                           default   Default
          terminationGracePeriodSeconds   30        Default
          vram                            20Gi      Profile
        Earlier attempts:
          ATTEMPT   NODE   ENDED    EXIT   REASON
          1         n1     5m ago   3      Drained
        "#);
    }
    #[test]
    fn of_a_long_script_the_first_lines_are_shown_and_how_many_more_there_are() {
        let script = |lines: usize| "echo\n".repeat(lines);
        assert_eq!(beginning(&script(21)), script(21));
        let shown = beginning(&script(22));
        let (lines, rest) = shown.rsplit_once('\n').unwrap();
        assert_eq!(lines, script(20).trim_end());
        assert_eq!(rest, "... 2 more lines; -o yaml of `gctl get` has them");
    }
}
