//! The nodes that a class fits, best first, kept for one pass of decisions.
//!
//! Within a pass only bindings change nodes, so the many jobs of one class need one look at the fleet, and after that one
//! look at each node that was bound to since.

use std::collections::{BTreeMap, BTreeSet};

use crate::fit::Score;
use crate::fleet::Freed;
use crate::input::NodeName;
use crate::node_state::NodeState;
use crate::pending::ClassId;
use crate::reason::Misfit;

/// Most entries of all rankings of a pass together (some 100 bytes each); classes beyond it look at the fleet each time.
const MAX_ENTRIES: usize = 1_000_000;

/// What is remembered for one pass. It may go on over several calls, as long as nothing is freed.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// The event after which it began; what is remembered is only true until the next.
    pub(crate) began: u64,
    /// Nodes where something was freed since the last pass that came to its end.
    pub(crate) freed: Freed,
    /// Nodes in the order in which they were bound to.
    bound: Vec<NodeName>,
    rankings: BTreeMap<ClassId, Ranking>,
    entries: usize,
}

#[derive(Debug, Default)]
struct Ranking {
    /// How much of `Pass::bound` it knows of.
    synced: usize,
    scores: BTreeMap<NodeName, Score>,
    best: BTreeSet<(Score, NodeName)>,
}

impl Clone for Pass {
    /// A copy begins with nothing remembered.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Pass {
    pub(crate) fn begun(after: u64) -> Self {
        Self {
            began: after,
            ..Self::default()
        }
    }

    /// Something was bound to a node.
    pub(crate) fn bound_to(&mut self, node: &NodeName) {
        self.bound.push(node.clone());
    }

    /// Remembers the nodes that a class fits.
    pub(crate) fn remember(&mut self, id: ClassId, fits: &[(Score, &NodeName)]) {
        if self.entries + fits.len() > MAX_ENTRIES {
            return;
        }
        self.entries += fits.len();
        let ranking = Ranking {
            synced: self.bound.len(),
            scores: fits
                .iter()
                .map(|(score, name)| ((*name).clone(), *score))
                .collect(),
            best: fits
                .iter()
                .map(|(score, name)| (*score, (*name).clone()))
                .collect(),
        };
        self.rankings.insert(id, ranking);
    }

    /// Is anything remembered for a class?
    pub(crate) fn knows(&self, id: ClassId) -> bool {
        self.rankings.contains_key(&id)
    }

    /// The best node for a class now, of those that were remembered.
    pub(crate) fn best(
        &mut self,
        id: ClassId,
        nodes: &BTreeMap<NodeName, NodeState>,
        mut fit: impl FnMut(&NodeName, &NodeState) -> Result<Score, Misfit>,
    ) -> Option<NodeName> {
        let ranking = self.rankings.get_mut(&id)?;
        let changed: BTreeSet<&NodeName> = self.bound[ranking.synced..].iter().collect();
        ranking.synced = self.bound.len();
        for name in changed {
            // A binding frees nothing, so a node that did not fit still does not.
            let Some(score) = ranking.scores.remove(name) else {
                continue;
            };
            ranking.best.remove(&(score, name.clone()));
            let now = nodes.get(name).and_then(|state| fit(name, state).ok());
            if let Some(score) = now {
                ranking.scores.insert(name.clone(), score);
                ranking.best.insert((score, name.clone()));
            }
        }
        ranking.best.first().map(|(_, name)| name.clone())
    }
}
