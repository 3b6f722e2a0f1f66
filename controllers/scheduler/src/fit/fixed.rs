//! What does not change while jobs come and go: pins, labels, tags, directories, taints and the state of the node.

use crate::input::{DesiredState, Node, NodeName, Requirements, TaintEffect};
use crate::reason::Misfit;

/// The first of these reasons why a job does not fit.
pub(super) fn misfit(needs: &Requirements, name: &NodeName, node: &Node) -> Option<Misfit> {
    if needs.node_name.as_ref().is_some_and(|pin| pin != name) {
        return Some(Misfit::NotPinned);
    }
    for (key, wanted) in &needs.node_selector {
        if node.labels.get(key) != Some(wanted) {
            return Some(Misfit::Selector {
                key: key.clone(),
                wanted: wanted.clone(),
            });
        }
    }
    if let Some(tag) = needs.needs.iter().find(|tag| !node.offers.contains(*tag)) {
        return Some(Misfit::Needs { tag: tag.clone() });
    }
    // A node that does not say what it has is tried: its agent looks before the start.
    let offers = |path: &str| node.offers_directory(path);
    if let Some(path) = needs.missing_directory(name, offers) {
        return Some(Misfit::Directory { path: path.clone() });
    }
    let hard = node
        .taints
        .iter()
        .filter(|taint| taint.effect != TaintEffect::PreferNoSchedule);
    for taint in hard {
        if !needs
            .tolerations
            .iter()
            .any(|toleration| toleration.covers(taint))
        {
            return Some(Misfit::Taint {
                key: taint.key.clone(),
                value: taint.value.clone(),
            });
        }
    }
    if needs.avoid.contains(name) {
        Some(Misfit::Avoided)
    } else if !node.ready {
        Some(Misfit::NotReady)
    } else if node.unschedulable {
        Some(Misfit::Cordoned)
    } else if node.desired != DesiredState::Run {
        Some(Misfit::Desired(node.desired))
    } else {
        None
    }
}
