//! Decides what follows for a bound job from what is known of its node. Pure.

use std::sync::Arc;

use crds::job::{OnNodeLost, Toleration, TolerationOperator};
use crds::job_status::{Binding, Claim, Outcome, Release, StopReason};
use crds::node::{DesiredState, Taint, TaintEffect};
use crds::{Job, JobStatus, Node, phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::decide::{Seen, Sight, seen};
use crate::ControllerName;
use crate::shell::{Op, Plan, by, cancel_wanted, is_deleting, later, raised};

/// How long the agent of a rebooted node has for reporting what it finds on its disk about the attempts of before.
const REPORT_SECS: u64 = 30;

/// How long after its fence a job runs elsewhere: the time its node has for freezing or killing it.
const AFTER_FENCE_SECS: u64 = 60;

/// What is known of a bound job.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Arc<Job>,
    /// What it belongs to: its gang or array, and the array of its gang.
    pub(super) parents: &'a [&'a Job],
    /// The node it is bound to, if its object exists.
    pub(super) node: Option<&'a Node>,
    /// Since when this process knows the node's boot id.
    pub(super) boot_seen: Option<Timestamp>,
    /// The last renewal of the node's lease, and since when this process has seen no newer one.
    pub(super) sight: Option<Sight>,
    /// Since when this process sees that the job is marked as being on a silent node.
    pub(super) unknown_since: Option<Timestamp>,
    pub(super) now: Timestamp,
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let job = observed.job;
    let Some(status) = &job.status else {
        return Plan::nothing();
    };
    let Some(binding) = phase::held_binding(status) else {
        return Plan::nothing();
    };
    match phase::current_claim(status) {
        Some(claim) if is_unbegun(status) => {
            let next = unbegun(observed, status, binding, claim);
            Plan::of(next.and_then(|next| Op::job_status(job, next)))
        }
        // Its end is told, and only its slots are still held.
        Some(claim) if status.outcome.is_some() => {
            let Some(node) = observed.node else {
                return Plan::nothing();
            };
            match seen(node) {
                Seen::Yes if is_of_another_boot(node, claim) => rebooted(observed, status, claim),
                Seen::No if is_given_up(observed) => {
                    given_up(observed, status, &operator_says(claim))
                }
                Seen::Yes | Seen::No | Seen::NotYet => Plan::nothing(),
            }
        }
        None if status.outcome.is_some() => Plan::nothing(),
        None => {
            let next = unclaimed(observed, status, binding);
            Plan::of(next.and_then(|next| Op::job_status(job, next)))
        }
        Some(claim) => claimed(observed, status, claim),
    }
}

/// A binding that nobody has taken up is withdrawn by one conditional write: a late claim fails by its resourceVersion.
fn unclaimed(observed: &Observed<'_>, status: &JobStatus, binding: &Binding) -> Option<JobStatus> {
    let name = &binding.node_name;
    let Some(node) = observed.node else {
        return Some(phase::requeue(status, &format!("node {name} is gone")));
    };
    if seen(node) == Seen::No {
        let words = format!("node {name} fell silent before it took the job");
        return Some(phase::requeue(status, &words));
    }
    let why = emptied(node, status)?;
    Some(phase::requeue(status, &why))
}

/// Is it a member of a gang whose node has claimed it and begun nothing?
fn is_unbegun(status: &JobStatus) -> bool {
    let is_over = status.outcome.is_some() || status.finish_time.is_some();
    !is_over && !phase::may_have_begun(status)
}

/// A claim on which nothing was begun is withdrawn as a binding is that nobody has taken up: there is nothing to fence, and
/// nothing can be lost.
fn unbegun(
    observed: &Observed<'_>,
    status: &JobStatus,
    binding: &Binding,
    claim: &Claim,
) -> Option<JobStatus> {
    let restarted = observed
        .node
        .filter(|node| seen(node) == Seen::Yes && is_of_another_boot(node, claim));
    match restarted {
        Some(_) => {
            let why = format!(
                "node {} was restarted before the gang could start",
                claim.node_name
            );
            Some(phase::requeue(status, &why))
        }
        None => unclaimed(observed, status, binding),
    }
}

fn claimed(observed: &Observed<'_>, status: &JobStatus, claim: &Claim) -> Plan {
    let job = observed.job;
    let silent = observed.node.is_none_or(|node| seen(node) == Seen::No);
    if silent {
        let mut next = status.clone();
        next.node_silent = true;
        if !status.node_silent {
            next.message = Some(silence(claim, status));
            return Plan::of(Op::job_status(job, next));
        }
        if is_given_up(observed) {
            return given_up(observed, status, &operator_says(claim));
        }
        return fenced(observed, status, claim);
    }
    let Some(node) = observed.node.filter(|node| seen(node) == Seen::Yes) else {
        return Plan::nothing();
    };
    if is_of_another_boot(node, claim) {
        return rebooted(observed, status, claim);
    }
    let mut next = status.clone();
    if next.node_silent {
        next.node_silent = false;
        next.message = Some(format!("node {} is seen again", claim.node_name));
    }
    if let Some(why) = emptied(node, status)
        && status.finish_time.is_none()
    {
        let by = by(ControllerName::Node);
        let stopped = raised(&next, StopReason::Drained, &by, &why, observed.now);
        next = stopped.unwrap_or(next);
    }
    Plan::of(Op::job_status(job, next))
}

fn silence(claim: &Claim, status: &JobStatus) -> String {
    let node = &claim.node_name;
    match on_node_lost(status) {
        OnNodeLost::Wait => format!(
            "node {node} is not seen; the job waits for it, or for `gctl node forget {node}` if it is gone for good"
        ),
        OnNodeLost::Requeue => {
            let fence = fence_seconds(status);
            format!(
                "node {node} is not seen; without news the job is fenced there after {fence} s and runs again"
            )
        }
    }
}

fn on_node_lost(status: &JobStatus) -> OnNodeLost {
    let effective = status.effective.as_ref();
    effective.map_or(OnNodeLost::Wait, |e| e.on_node_lost.value)
}

fn fence_seconds(status: &JobStatus) -> u64 {
    let effective = status.effective.as_ref();
    effective.map_or(0, |e| u64::from(e.fence_seconds.value))
}

/// The fence on the node itself has stopped the attempt once the node was silent for its time; the job runs again after a
/// minute more. What counts is the silence that this process watched whole.
fn fenced(observed: &Observed<'_>, status: &JobStatus, claim: &Claim) -> Plan {
    let (Some(sight), Some(unknown)) = (observed.sight, observed.unknown_since) else {
        return Plan::nothing();
    };
    if observed.node.is_none() || on_node_lost(status) == OnNodeLost::Wait {
        return Plan::nothing();
    }
    let fence = fence_seconds(status);
    // An agent that is back takes its job back by a write: whoever has not seen its renewal has that to go by.
    let due = later(sight.since, fence.saturating_add(AFTER_FENCE_SECS))
        .max(later(unknown, AFTER_FENCE_SECS));
    if observed.now < due {
        return Plan::wake(due);
    }
    let node = &claim.node_name;
    let why =
        format!("node {node} was not seen for {fence} s, and its fence has stopped the job there");
    given_up(observed, status, &why)
}

/// Does an operator say that the node is gone, and has nothing been heard of it since what he goes by?
fn is_given_up(observed: &Observed<'_>) -> bool {
    let said = observed.node.and_then(|node| node.spec.gone_after.as_ref());
    let renewed = observed.sight.and_then(|sight| sight.renewed);
    said.is_some_and(|said| Some(said.0) == renewed)
}

fn operator_says(claim: &Claim) -> String {
    format!("an operator says that node {} is gone", claim.node_name)
}

/// Was the node started anew since the claim?
fn is_of_another_boot(node: &Node, claim: &Claim) -> bool {
    let info = node.status.as_ref().and_then(|status| status.info.as_ref());
    info.is_some_and(|info| !info.boot_id.is_empty() && info.boot_id != claim.boot_id)
}

/// The node runs again under a new boot id, so nothing of this attempt is left.
fn rebooted(observed: &Observed<'_>, status: &JobStatus, claim: &Claim) -> Plan {
    let since = observed.boot_seen.unwrap_or(observed.now);
    let due = later(since, REPORT_SECS);
    if observed.now < due {
        return Plan::wake(due);
    }
    let reason = format!("node {} was restarted while the job ran", claim.node_name);
    given_up(observed, status, &reason)
}

/// Nothing of the attempt runs any more, and nobody will tell how it ended.
fn given_up(observed: &Observed<'_>, status: &JobStatus, reason: &str) -> Plan {
    let mut next = status.clone();
    let release = Release {
        attempt: status.attempt,
        time: Some(MicroTime(observed.now)),
        lost: false,
    };
    let cancelled = is_deleting(observed.job) || cancel_wanted(observed.job, observed.parents);
    if status.outcome.is_some() || status.finish_time.is_some() {
        // How it ended is known; that nothing is left of it is known now.
        next.release = Some(release);
    } else if !cancelled && on_node_lost(status) == OnNodeLost::Requeue {
        next = phase::requeue(status, reason);
    } else if !status.node_silent {
        // Lost follows only upon Unknown: the silence is written first.
        next.node_silent = true;
    } else {
        next.outcome = Some(if cancelled {
            Outcome::Cancelled
        } else {
            Outcome::Lost
        });
        next.finish_time = Some(MicroTime(observed.now));
        next.release = Some(release);
        next.message = Some(reason.to_owned());
    }
    Plan::of(Op::job_status(observed.job, next))
}

/// Why running jobs must leave the node, if they must.
fn emptied(node: &Node, status: &JobStatus) -> Option<String> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    match node.spec.desired_state.unwrap_or_default() {
        DesiredState::Drain | DesiredState::Stop => Some(format!("node {name} is drained")),
        DesiredState::Run | DesiredState::Pause => {
            let effective = status.effective.as_ref();
            let tolerations = effective.and_then(|effective| effective.tolerations.as_ref());
            let tolerations = tolerations.map_or(&[][..], |tolerations| &tolerations.value);
            let taint = node.spec.taints.iter().find(|taint| {
                taint.effect == TaintEffect::NoExecute
                    && !tolerations
                        .iter()
                        .any(|toleration| covers(toleration, taint))
            })?;
            Some(format!("node {name} has the taint {}", taint.key))
        }
    }
}

/// Does a toleration cover a taint, as Kubernetes compares them?
fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration
        .effect
        .is_none_or(|effect| effect == taint.effect);
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator == Some(TolerationOperator::Exists);
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    effect
        && (if key.is_empty() {
            exists
        } else {
            key == taint.key
        })
        && (exists || value(&toleration.value) == value(&taint.value))
}

#[cfg(test)]
#[path = "job_gang_tests.rs"]
mod gang_tests;

#[cfg(test)]
mod tests {
    use crds::job_status::{Effective, Sourced};
    use crds::node::NodeInfo;
    use crds::{JobSpec, NodeSpec, NodeStatus, Phase};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::shell::testing::{JobBuilder, applied, at, job};

    pub(super) fn node(ready: &str, boot: &str) -> Node {
        let mut node = Node::new("n", NodeSpec::default());
        node.status = Some(NodeStatus {
            conditions: vec![Condition {
                type_: "Ready".to_owned(),
                status: ready.to_owned(),
                reason: "x".to_owned(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: Time(at(0)),
            }],
            info: Some(NodeInfo {
                boot_id: boot.to_owned(),
                ..NodeInfo::default()
            }),
            ..NodeStatus::default()
        });
        node
    }

    pub(super) fn drained() -> Node {
        let mut node = node("True", "boot-1");
        node.spec.desired_state = Some(DesiredState::Drain);
        node
    }

    fn tainted(effect: TaintEffect) -> Node {
        let mut node = node("True", "boot-1");
        node.spec.taints = vec![Taint {
            key: "broken".to_owned(),
            value: None,
            effect,
        }];
        node
    }

    fn requeues(status: &mut JobStatus) {
        status.effective = Some(Effective {
            on_node_lost: Sourced {
                value: OnNodeLost::Requeue,
                ..Sourced::default()
            },
            ..Effective::default()
        });
    }

    /// Only much later than these tests is its fence over.
    fn patient(status: &mut JobStatus) {
        let effective = status.effective.get_or_insert_default();
        effective.fence_seconds.value = 2400;
    }

    fn silent_since(since: i64) -> Sight {
        Sight {
            renewed: Some(at(7)),
            since: at(since),
            live: true,
        }
    }

    fn given_up_after(node: &Node, renewal: i64) -> Node {
        let mut node = node.clone();
        node.spec.gone_after = Some(MicroTime(at(renewal)));
        node
    }

    /// The phases that follow one another until nothing changes any more.
    pub(super) fn story(builder: JobBuilder, node: Option<&Node>, now: i64) -> Vec<String> {
        let mut job = builder.build();
        let mut words = Vec::new();
        loop {
            let plan = decide(&Observed {
                job: &job,
                parents: &[],
                node,
                boot_seen: Some(at(100)),
                sight: Some(silent_since(100)),
                unknown_since: Some(at(100)),
                now: at(now),
            });
            let Some(next) = applied(&plan) else {
                return words;
            };
            let status = next.status.as_ref().unwrap();
            words.push(status.phase.unwrap().to_string());
            assert!(words.len() < 5, "the decision does not settle");
            job = next;
        }
    }

    #[test]
    fn every_row_ends_as_it_should() {
        let seen = node("True", "boot-1");
        let silent = node("Unknown", "boot-1");
        let new_boot = node("True", "boot-2");
        let cancel = || JobSpec {
            cancel: Some(true),
            ..JobSpec::default()
        };
        let bound = || job("a").bound("n");
        let running = || job("a").running("n");
        let was_silent = || running().status(|status| status.node_silent = true);
        let rows: Vec<(&str, JobBuilder, Option<&Node>, Vec<&str>)> = vec![
            ("waiting", job("a").status(|_| ()), None, vec![]),
            ("bound to a node that is seen", bound(), Some(&seen), vec![]),
            (
                "bound to a silent node",
                bound(),
                Some(&silent),
                vec!["Pending"],
            ),
            (
                "bound to a node that is gone",
                bound(),
                None,
                vec!["Pending"],
            ),
            (
                "running on a node that is seen",
                running(),
                Some(&seen),
                vec![],
            ),
            (
                "running on a silent node",
                running(),
                Some(&silent),
                vec!["Unknown"],
            ),
            (
                "running on a node that is gone",
                running(),
                None,
                vec!["Unknown"],
            ),
            ("seen again", was_silent(), Some(&seen), vec!["Running"]),
            (
                "restarted, and the job waits",
                running(),
                Some(&new_boot),
                vec!["Unknown", "Lost"],
            ),
            (
                "restarted after silence, and the job waits",
                was_silent(),
                Some(&new_boot),
                vec!["Lost"],
            ),
            (
                "restarted, and the job is requeued",
                running().status(requeues),
                Some(&new_boot),
                vec!["Pending"],
            ),
            (
                "restarted, and the job is cancelled",
                running().status(requeues).spec(cancel()),
                Some(&new_boot),
                vec!["Unknown", "Cancelled"],
            ),
            (
                "silent for longer than its fence, and the job is requeued",
                was_silent().status(requeues),
                Some(&silent),
                vec!["Pending"],
            ),
            (
                "silent for longer than its fence, and cancelled meanwhile",
                was_silent().status(requeues).spec(cancel()),
                Some(&silent),
                vec!["Cancelled"],
            ),
            (
                "gone, so that nobody knows of its silence",
                was_silent().status(requeues),
                None,
                vec![],
            ),
        ];
        for (name, builder, node, expected) in rows {
            assert_eq!(story(builder, node, 500), expected, "{name}");
        }
    }

    #[test]
    fn a_restart_releases_what_had_ended_and_not_gone() {
        let ended = |outcome| {
            job("a").running("n").status(move |status| {
                status.finish_time = Some(MicroTime(at(5)));
                status.outcome = outcome;
            })
        };
        let new_boot = node("True", "boot-2");
        let silent = node("Unknown", "boot-2");
        for (outcome, phase) in [(None, "Stopping"), (Some(Outcome::Failed), "Failed")] {
            assert_eq!(story(ended(outcome), Some(&new_boot), 500), [phase]);
            let builder = ended(outcome);
            let plan = decide(&Observed {
                job: &builder.build(),
                parents: &[],
                node: Some(&new_boot),
                boot_seen: Some(at(100)),
                sight: Some(silent_since(100)),
                unknown_since: Some(at(100)),
                now: at(500),
            });
            let next = applied(&plan).unwrap();
            assert!(phase::held_binding(next.status.as_ref().unwrap()).is_none());
        }
        let same_boot = node("True", "boot-1");
        for node in [&silent, &same_boot] {
            assert!(story(ended(Some(Outcome::Failed)), Some(node), 500).is_empty());
        }
    }

    #[test]
    fn an_operators_word_gives_up_what_ran_unless_the_node_was_seen_since() {
        let silent = node("Unknown", "boot-1");
        let gone = given_up_after(&silent, 7);
        let seen_since = given_up_after(&silent, 6);
        let running = || job("a").running("n");
        let was_silent = || running().status(|status| status.node_silent = true);
        let rows: Vec<(&str, JobBuilder, Option<&Node>, Vec<&str>)> = vec![
            (
                "given up, and the job waits",
                running(),
                Some(&gone),
                vec!["Unknown", "Lost"],
            ),
            (
                "given up, and the job is requeued",
                running().status(requeues).status(patient),
                Some(&gone),
                vec!["Unknown", "Pending"],
            ),
            (
                "given up, and seen since",
                was_silent().status(requeues).status(patient),
                Some(&seen_since),
                vec![],
            ),
            (
                "given up after the job's end",
                running().status(|status| {
                    status.finish_time = Some(MicroTime(at(5)));
                    status.outcome = Some(Outcome::Failed);
                }),
                Some(&gone),
                vec!["Failed"],
            ),
        ];
        for (name, builder, node, expected) in rows {
            assert_eq!(story(builder, node, 500), expected, "{name}");
        }
    }

    #[test]
    fn the_fence_and_a_minute_of_watched_silence_go_by_before_a_job_runs_elsewhere() {
        let silent = node("Unknown", "boot-1");
        let job = job("a").running("n").status(requeues).status(patient);
        let job = job.status(|status| status.node_silent = true).build();
        let plan = |since, unknown, now| {
            decide(&Observed {
                job: &job,
                parents: &[],
                node: Some(&silent),
                boot_seen: None,
                sight: Some(silent_since(since)),
                unknown_since: Some(at(unknown)),
                now: at(now),
            })
        };
        assert_eq!(plan(100, 140, 2559), Plan::wake(at(2560)));
        let next = applied(&plan(100, 140, 2560)).unwrap();
        let status = next.status.as_ref().unwrap();
        assert_eq!(
            (status.phase, &status.binding),
            (Some(Phase::Pending), &None)
        );
        // The watch was interrupted, or the job was taken back and its node fell silent once more.
        assert_eq!(plan(1000, 140, 2560), Plan::wake(at(3460)));
        assert_eq!(plan(100, 2550, 2560), Plan::wake(at(2610)));
    }

    #[test]
    fn a_drained_node_is_emptied() {
        assert_eq!(
            story(job("a").bound("n"), Some(&drained()), 500),
            ["Pending"]
        );
        assert_eq!(
            story(job("a").running("n"), Some(&drained()), 500),
            ["Stopping"]
        );
    }

    #[test]
    fn a_taint_drives_out_who_does_not_tolerate_it() {
        let bad = tainted(TaintEffect::NoExecute);
        assert_eq!(story(job("a").running("n"), Some(&bad), 500), ["Stopping"]);
        let mild = tainted(TaintEffect::NoSchedule);
        assert!(story(job("a").running("n"), Some(&mild), 500).is_empty());
        let tolerant = job("a").running("n").status(|status| {
            status.effective = Some(Effective {
                tolerations: Some(Sourced {
                    value: vec![Toleration {
                        key: Some("broken".to_owned()),
                        operator: Some(TolerationOperator::Exists),
                        ..Toleration::default()
                    }],
                    ..Sourced::default()
                }),
                ..Effective::default()
            });
        });
        assert!(story(tolerant, Some(&bad), 500).is_empty());
    }

    #[test]
    fn the_agent_of_a_restarted_node_may_speak_first() {
        let job = job("a").running("n").build();
        let new_boot = node("True", "boot-2");
        let plan = decide(&Observed {
            job: &job,
            parents: &[],
            node: Some(&new_boot),
            boot_seen: Some(at(100)),
            sight: Some(silent_since(100)),
            unknown_since: Some(at(100)),
            now: at(129),
        });
        assert_eq!(plan, Plan::wake(at(130)));
    }

    #[test]
    fn a_released_attempt_is_nobody_s_concern_here() {
        let ended = job("a").running("n").status(|status| {
            status.finish_time = Some(MicroTime(at(5)));
            status.release = Some(Release {
                attempt: 1,
                time: None,
                lost: false,
            });
        });
        assert!(story(ended, None, 500).is_empty());
    }

    #[test]
    fn a_lost_job_says_why_and_holds_nothing() {
        let job = job("a")
            .running("n")
            .status(|s| s.node_silent = true)
            .build();
        let new_boot = node("True", "boot-2");
        let plan = decide(&Observed {
            job: &job,
            parents: &[],
            node: Some(&new_boot),
            boot_seen: Some(at(100)),
            sight: Some(silent_since(100)),
            unknown_since: Some(at(100)),
            now: at(500),
        });
        let lost = applied(&plan).unwrap();
        let status = lost.status.as_ref().unwrap();
        assert_eq!(status.phase, Some(Phase::Lost));
        assert!(phase::held_binding(status).is_none());
        assert_eq!(
            status.message.as_deref(),
            Some("node n was restarted while the job ran")
        );
    }
}
