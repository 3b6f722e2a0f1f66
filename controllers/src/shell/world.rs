//! What this process knows: one ordered store a kind, and the few indices that decisions need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::{Job, Node, Profile, Queue, TALLY_FINALIZER, phase};
use k8s_openapi::api::coordination::v1::Lease;

use super::facts::{self, has_finalizer, member_index, owner};
use super::store::{Delta, Key, Store};

/// One change of one object.
#[derive(Debug)]
pub(crate) enum Change {
    /// Of a job.
    Job(Delta<Job>),
    /// Of a node.
    Node(Delta<Node>),
    /// Of a queue.
    Queue(Delta<Queue>),
    /// Of some profile: any may match any command.
    Profile,
    /// Of a node's lease.
    Lease(Delta<Lease>),
}

/// What this process knows.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) jobs: Store<Job>,
    pub(crate) nodes: Store<Node>,
    pub(crate) queues: Store<Queue>,
    pub(crate) profiles: Store<Profile>,
    pub(crate) leases: Store<Lease>,
    by_node: BTreeMap<String, BTreeSet<Key>>,
    members: BTreeMap<String, BTreeMap<u32, BTreeSet<Key>>>,
}

impl World {
    /// True once every kind was listed whole: before that nothing is decided.
    pub(crate) fn is_synced(&self) -> bool {
        self.jobs.is_synced()
            && self.nodes.is_synced()
            && self.queues.is_synced()
            && self.profiles.is_synced()
            && self.leases.is_synced()
    }

    /// Jobs whose binding to a node holds slots there.
    pub(crate) fn jobs_on(&self, node: &str) -> impl Iterator<Item = &Key> {
        self.by_node.get(node).into_iter().flatten()
    }

    /// Members of an array that are not tallied yet, by index, or of a gang, by rank.
    pub(crate) fn members_of(&self, uid: &str) -> impl Iterator<Item = (u32, &Key)> {
        self.members
            .get(uid)
            .into_iter()
            .flatten()
            .flat_map(|(index, keys)| keys.iter().map(|key| (*index, key)))
    }

    /// Members of a job, and theirs: an array's members may be gangs.
    pub(crate) fn family_of(&self, uid: &str) -> Vec<Key> {
        let mut found = Vec::new();
        for (_, member) in self.members_of(uid) {
            found.push(member.clone());
            if let Some(job) = self.jobs.get(member) {
                let members = self.members_of(facts::uid(job));
                found.extend(members.map(|(_, member)| member.clone()));
            }
        }
        found
    }

    /// What a job belongs to, as far as it exists: its gang or array, and the array of its gang.
    pub(crate) fn parents_of(&self, job: &Job) -> Vec<&Job> {
        let parent = self.parent_of(job);
        let above = parent.and_then(|parent| self.parent_of(parent));
        parent.into_iter().chain(above).map(AsRef::as_ref).collect()
    }

    /// The array or gang that a member belongs to, if that very one still exists.
    pub(crate) fn parent_of(&self, job: &Job) -> Option<&Arc<Job>> {
        let owner = owner(job)?;
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let parent = self.jobs.get(&Key::new(namespace, &owner.name))?;
        (parent.metadata.uid.as_deref() == Some(&owner.uid)).then_some(parent)
    }

    /// Keeps the indices in step with a change of a job that the store has taken in.
    pub(crate) fn index(&mut self, delta: &Delta<Job>) {
        if let Some(old) = delta.old.as_deref() {
            if let Some(node) = node_of(old)
                && let Some(keys) = self.by_node.get_mut(node)
            {
                keys.remove(&delta.key);
                if keys.is_empty() {
                    self.by_node.remove(node);
                }
            }
            if let Some((uid, index)) = membership(old)
                && let Some(members) = self.members.get_mut(uid)
            {
                if let Some(keys) = members.get_mut(&index) {
                    keys.remove(&delta.key);
                    if keys.is_empty() {
                        members.remove(&index);
                    }
                }
                if members.is_empty() {
                    self.members.remove(uid);
                }
            }
        }
        if let Some(new) = delta.new.as_deref() {
            if let Some(node) = node_of(new) {
                let keys = self.by_node.entry(node.to_owned()).or_default();
                keys.insert(delta.key.clone());
            }
            if let Some((uid, index)) = membership(new) {
                let members = self.members.entry(uid.to_owned()).or_default();
                members.entry(index).or_default().insert(delta.key.clone());
            }
        }
    }
}

/// The node whose slots the job holds.
fn node_of(job: &Job) -> Option<&str> {
    let binding = phase::held_binding(job.status.as_ref()?)?;
    Some(&binding.node_name)
}

/// The array or gang, and the index in it, of a member that is not tallied yet.
fn membership(job: &Job) -> Option<(&str, u32)> {
    let owner = owner(job)?;
    let index = member_index(job)?;
    has_finalizer(job, TALLY_FINALIZER).then_some((owner.uid.as_str(), index))
}
