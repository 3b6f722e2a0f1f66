//! Decides whether a node is ready. Pure.

use std::sync::Arc;

use crds::Node;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::shell::{Op, Plan, later};

/// The condition that says whether a node is seen.
pub(super) const READY: &str = "Ready";

/// What this process has seen of a node's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// The renewal that was seen last, as its node wrote it.
    pub(super) renewed: Option<Timestamp>,
    /// Since when nothing newer was seen, by the clock of this process.
    pub(super) since: Timestamp,
    /// Was a renewal seen to happen, rather than found?
    pub(super) live: bool,
}

impl Sight {
    /// What is known once a lease shows `renewed`.
    pub(super) fn after(before: Option<Self>, renewed: Option<Timestamp>, now: Timestamp) -> Self {
        match before {
            Some(before) if before.renewed == renewed => before,
            Some(_) => Self {
                renewed,
                since: now,
                live: true,
            },
            None => Self {
                renewed,
                since: now,
                live: false,
            },
        }
    }

    /// The same after an interruption, during which renewals could have gone unseen.
    pub(super) fn interrupted(self, now: Timestamp) -> Self {
        Self { since: now, ..self }
    }
}

/// What is known of a node.
pub(super) struct Observed<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) sight: Sight,
    /// Seconds of silence after which it is not ready.
    pub(super) not_ready_seconds: u64,
    pub(super) now: Timestamp,
}

/// Is a node seen?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Yes,
    No,
    /// Nothing is known yet: it has just appeared.
    NotYet,
}

/// What the Ready condition says.
pub(super) fn seen(node: &Node) -> Seen {
    match ready(node).map(|condition| condition.status.as_str()) {
        Some("True") => Seen::Yes,
        Some(_) => Seen::No,
        None => Seen::NotYet,
    }
}

fn ready(node: &Node) -> Option<&Condition> {
    let conditions = &node.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == READY)
}

pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let Observed {
        node, sight, now, ..
    } = observed;
    let silent_at = later(sight.since, observed.not_ready_seconds);
    let silent = *now >= silent_at;
    let verdict = match seen(node) {
        Seen::Yes => !silent,
        // Only a renewal that was seen to happen brings a silent node back: an old lease proves nothing.
        Seen::No => sight.live && !silent,
        Seen::NotYet => {
            let fresh = sight.renewed.is_some_and(|renewed| {
                let age = now.duration_since(renewed).abs();
                age < SignedDuration::from_secs(seconds(observed.not_ready_seconds))
            });
            if !silent && !sight.live && !fresh {
                return Plan::wake(silent_at);
            }
            !silent
        }
    };
    let mut plan = Plan::of(condition_write(node, verdict, observed));
    if !silent {
        plan.look_again = Some(silent_at);
    }
    plan
}

fn seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn condition_write(node: &Arc<Node>, is_ready: bool, observed: &Observed<'_>) -> Option<Op> {
    let (status, reason, message) = if is_ready {
        (
            "True",
            "LeaseRenewed",
            "the node renews its lease".to_owned(),
        )
    } else {
        let words = format!(
            "the node has not renewed its lease for {} s",
            observed.not_ready_seconds
        );
        ("Unknown", "LeaseExpired", words)
    };
    let known = ready(node);
    if known.is_some_and(|known| known.status == status && known.reason == reason) {
        return None;
    }
    let moved = known.is_none_or(|known| known.status != status);
    let last_transition_time = match known {
        Some(known) if !moved => known.last_transition_time.clone(),
        _ => Time(observed.now),
    };
    let condition = Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: node.metadata.generation,
        last_transition_time,
    };
    let mut next = node.status.clone().unwrap_or_default();
    match next
        .conditions
        .iter_mut()
        .find(|known| known.type_ == READY)
    {
        Some(known) => *known = condition,
        None => next.conditions.push(condition),
    }
    Some(Op::NodeStatus {
        base: node.clone(),
        next: Box::new(next),
    })
}

#[cfg(test)]
mod tests {
    use crds::NodeSpec;

    use super::*;
    use crate::shell::testing::at;

    fn node() -> Arc<Node> {
        Arc::new(Node::new("n", NodeSpec::default()))
    }

    fn decided(node: &Arc<Node>, sight: Sight, now: i64) -> (Option<Arc<Node>>, Option<Timestamp>) {
        let observed = |node| Observed {
            node,
            sight,
            not_ready_seconds: 40,
            now: at(now),
        };
        let plan = decide(&observed(node));
        let next = plan.ops.first().map(|op| {
            let Op::NodeStatus { base, next } = op else {
                panic!("not a change of a node: {op:?}");
            };
            let mut node = Node::clone(base);
            node.status = Some(crds::NodeStatus::clone(next));
            Arc::new(node)
        });
        if let Some(next) = &next {
            assert!(
                decide(&observed(next)).ops.is_empty(),
                "the decision settles"
            );
        }
        (next, plan.look_again)
    }

    fn sight(renewed: i64, since: i64, live: bool) -> Sight {
        Sight {
            renewed: Some(at(renewed)),
            since: at(since),
            live,
        }
    }

    fn with_ready(is_ready: bool) -> Arc<Node> {
        let since = if is_ready { 100 } else { 0 };
        let (next, _) = decided(&node(), sight(100, since, true), 100);
        next.expect("the condition is new")
    }

    #[test]
    fn a_new_node_with_a_fresh_lease_is_ready_at_once() {
        let (next, wake) = decided(&node(), sight(95, 100, false), 100);
        assert_eq!(seen(&next.unwrap()), Seen::Yes);
        assert_eq!(wake, Some(at(140)));
    }

    #[test]
    fn a_new_node_with_an_old_lease_waits_for_a_renewal_or_the_end_of_the_time() {
        let old = sight(10, 100, false);
        assert_eq!(decided(&node(), old, 100), (None, Some(at(140))));
        let (next, wake) = decided(&node(), old, 140);
        assert_eq!((seen(&next.unwrap()), wake), (Seen::No, None));
        let (next, _) = decided(&node(), sight(11, 120, true), 120);
        assert_eq!(seen(&next.unwrap()), Seen::Yes);
    }

    #[test]
    fn a_ready_node_stays_ready_until_its_silence_was_watched_whole() {
        let node = with_ready(true);
        let found = sight(1, 1000, false);
        assert_eq!(decided(&node, found, 1039), (None, Some(at(1040))));
        let (next, _) = decided(&node, found, 1040);
        assert_eq!(seen(&next.unwrap()), Seen::No);
    }

    #[test]
    fn a_silent_node_comes_back_with_a_renewal_that_was_seen() {
        let node = with_ready(false);
        assert_eq!(decided(&node, sight(100, 200, false), 200).0, None);
        let (next, _) = decided(&node, sight(205, 206, true), 206);
        let next = next.unwrap();
        assert_eq!(seen(&next), Seen::Yes);
        let moved = &ready(&next).unwrap().last_transition_time;
        assert_eq!(moved.0, at(206));
    }

    #[test]
    fn an_interruption_starts_the_clock_anew_and_keeps_what_was_seen() {
        let before = Sight::after(None, Some(at(10)), at(11));
        let after = before.interrupted(at(50));
        assert_eq!(after.since, at(50));
        assert_eq!(Sight::after(Some(after), Some(at(10)), at(60)), after);
        let renewed = Sight::after(Some(after), Some(at(61)), at(62));
        assert!(renewed.live && renewed.since == at(62));
    }
}
