//! What does not change while jobs come and go: pins, labels, tags, directories, taints and the state of the node.

use std::sync::Arc;

use super::to_u32;
use crate::input::{DesiredState, Node, NodeName, Requirements, TaintEffect};
use crate::reason::Misfit;

/// The first of these reasons why a job does not fit.
pub(super) fn misfit(needs: &Requirements, name: &NodeName, node: &Node) -> Option<Misfit> {
    if needs.node_name.as_ref().is_some_and(|pin| pin != name) {
        return Some(Misfit::NotPinned);
    }
    let lacks = |label: &(&Arc<str>, &Arc<str>)| node.labels.get(label.0) != Some(label.1);
    let labels = || needs.node_selector.iter().filter(lacks);
    if let Some((key, wanted)) = labels().next() {
        return Some(Misfit::Selector {
            key: key.clone(),
            wanted: wanted.clone(),
            count: to_u32(labels().count()),
        });
    }
    let tags = || needs.needs.iter().filter(|tag| !node.offers.contains(*tag));
    if let Some(tag) = tags().next() {
        return Some(Misfit::Needs {
            tag: tag.clone(),
            count: to_u32(tags().count()),
        });
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
