//! What a sync should do, given what the files say and what is on the server. Pure.

use std::collections::BTreeMap;

use crate::session::Target;

/// Which object, whatever the version of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty where the kind has none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)?;
        if !self.namespace.is_empty() {
            write!(formatter, " in namespace {}", self.namespace)?;
        }
        Ok(())
    }
}

/// An object on the server that bears this sync's label.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Which object.
    pub key: Key,
    /// Where it is.
    pub target: Target,
    /// Its uid.
    pub uid: String,
    /// It was not applied itself: a controller made it, or somebody copied the label.
    pub owned: bool,
    /// It is being deleted already.
    pub deleting: bool,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What the files name, in order.
    pub wanted: Vec<Key>,
    /// Number of files or documents that could not be read.
    pub broken: usize,
    /// What bears the label.
    pub live: Vec<Live>,
    /// `--prune`.
    pub prune: bool,
    /// `--allow-empty`.
    pub allow_empty: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Which of the wanted to apply.
    pub apply: Vec<usize>,
    /// Which of the wanted are named twice, and therefore not applied.
    pub twice: Vec<usize>,
    /// What to delete, if everything could be applied.
    pub prune: Vec<Live>,
    /// Why something that could be deleted is not.
    pub held_back: Option<String>,
}

/// What to do.
pub fn decide(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let mut count: BTreeMap<&Key, usize> = BTreeMap::new();
    for key in &observed.wanted {
        *count.entry(key).or_default() += 1;
    }
    for (index, key) in observed.wanted.iter().enumerate() {
        if count.get(key).is_some_and(|&count| count > 1) {
            plan.twice.push(index);
        } else {
            plan.apply.push(index);
        }
    }
    if !observed.prune {
        return plan;
    }
    let stale: Vec<_> = observed
        .live
        .iter()
        .filter(|live| !live.owned && !live.deleting && !count.contains_key(&live.key))
        .cloned()
        .collect();
    if stale.is_empty() {
        return plan;
    }
    if observed.broken > 0 {
        plan.held_back = Some(format!(
            "{} broken; {} would be deleted otherwise",
            plural(observed.broken, "document is", "documents are"),
            plural(stale.len(), "object", "objects")
        ));
    } else if observed.wanted.is_empty() && !observed.allow_empty {
        plan.held_back = Some(format!(
            "the directory has no manifest left; --allow-empty deletes {} all the same",
            plural(stale.len(), "object", "objects")
        ));
    } else {
        plan.prune = stale;
        // What lives in a namespace goes before it, objects before their kind.
        plan.prune.sort_by_key(|live| match live.key.kind.as_str() {
            "CustomResourceDefinition" => 2,
            "Namespace" => 1,
            _ => 0,
        });
    }
    plan
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::samples;

    fn key(name: &str) -> Key {
        Key {
            group: "gctl.dev".into(),
            kind: "Job".into(),
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn live(name: &str) -> Live {
        Live {
            key: key(name),
            target: Target {
                resource: samples::resource("gctl.dev", "Job", "jobs", true),
                namespace: Some("default".into()),
                name: name.into(),
            },
            uid: name.into(),
            owned: false,
            deleting: false,
        }
    }

    fn observed(wanted: &[&str], live_names: &[&str]) -> Observed {
        Observed {
            wanted: wanted.iter().map(|name| key(name)).collect(),
            live: live_names.iter().map(|name| live(name)).collect(),
            prune: true,
            ..Observed::default()
        }
    }

    fn pruned(observed: &Observed) -> Vec<String> {
        decide(observed)
            .prune
            .into_iter()
            .map(|live| live.key.name)
            .collect()
    }

    #[test]
    fn what_no_file_names_any_more_is_pruned_and_everything_else_applied() {
        let observed = observed(&["a", "b"], &["b", "c"]);
        assert_eq!(decide(&observed).apply, [0, 1]);
        assert_eq!(pruned(&observed), ["c"]);
    }

    #[test]
    fn without_the_flag_nothing_is_pruned() {
        let observed = Observed {
            prune: false,
            ..observed(&["a"], &["b"])
        };
        assert_eq!(pruned(&observed), [""; 0]);
        assert_eq!(decide(&observed).held_back, None);
    }

    #[test]
    fn a_broken_file_prunes_nothing_and_stops_no_other() {
        let observed = Observed {
            broken: 1,
            ..observed(&["a"], &["b"])
        };
        assert_eq!(pruned(&observed), [""; 0]);
        assert_eq!(decide(&observed).apply, [0]);
        insta::assert_snapshot!(decide(&observed).held_back.unwrap(), @"1 document is broken; 1 object would be deleted otherwise");
    }

    #[test]
    fn an_empty_directory_prunes_only_when_told_so() {
        let mut observed = observed(&[], &["a"]);
        assert_eq!(pruned(&observed), [""; 0]);
        insta::assert_snapshot!(decide(&observed).held_back.unwrap(), @"the directory has no manifest left; --allow-empty deletes 1 object all the same");
        observed.allow_empty = true;
        assert_eq!(pruned(&observed), ["a"]);
    }

    #[test]
    fn what_a_controller_made_or_is_going_already_is_left_alone() {
        let mut observed = observed(&["x"], &["member", "going"]);
        observed.live[0].owned = true;
        observed.live[1].deleting = true;
        assert_eq!(pruned(&observed), [""; 0]);
    }

    #[test]
    fn an_object_named_twice_is_neither_applied_nor_pruned() {
        let observed = observed(&["a", "b", "a"], &["a"]);
        let plan = decide(&observed);
        assert_eq!((plan.apply, plan.twice), (vec![1], vec![0, 2]));
        assert_eq!(plan.prune, []);
    }

    #[test]
    fn after_the_plan_was_carried_out_there_is_nothing_left_to_prune() {
        let first = observed(&["a", "b"], &["b", "c", "d"]);
        let plan = decide(&first);
        let names: Vec<_> = first.wanted.iter().map(|key| key.name.as_str()).collect();
        let after = observed(&names, &names);
        assert_eq!(plan.prune.len(), 2);
        assert_eq!(decide(&after).prune, []);
    }
}
