//! Who watches what: watchers by resource, by the field value they demand, and by selection.
//!
//! Watchers that ask for the same thing form a group. An event is matched once a group, and a group's
//! events of one commit are one shared batch, so a hundred equal watchers cost a hundred pointers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    task::Waker,
};

use super::{
    state::matches,
    watch::{Event, EventBatch, Subscriber, WatchEnd},
};
use crate::{
    selector::Selection,
    store::{Change, EventType, Stored},
};

type GroupId = u64;

/// What a group of watchers asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) namespace: Option<Arc<str>>,
    pub(super) selection: Selection,
}

impl Interest {
    /// What a change looks like to those who have this interest.
    pub(super) fn event(&self, change: &Arc<Change>) -> Option<Event> {
        let key = &change.stored.key;
        if self
            .namespace
            .as_ref()
            .is_some_and(|namespace| *namespace != key.namespace)
        {
            return None;
        }
        let selects = |stored: &Arc<Stored>| matches(&self.selection, stored);
        let before = change.previous.as_ref().is_some_and(selects);
        let after = !change.deleted && selects(&change.stored);
        let kind = match (before, after) {
            (false, true) => EventType::Added,
            (true, true) => EventType::Modified,
            (true, false) => EventType::Deleted,
            (false, false) => return None,
        };
        Event::new(kind, change)
    }

    /// The field and value under which the group is found: the name if it is demanded, as the rarest
    /// of values, else the first field that is.
    fn route(&self) -> Option<(&str, &str)> {
        let fields = &self.selection.fields;
        let name = fields
            .demands()
            .find(|(field, _)| *field == "metadata.name");
        name.or_else(|| fields.demands().next())
    }
}

#[derive(Debug)]
struct Group {
    interest: Interest,
    subscribers: Vec<Arc<Subscriber>>,
}

/// The watchers of one resource.
#[derive(Debug, Default)]
struct Watchers {
    groups: BTreeMap<GroupId, Group>,
    next: GroupId,
    /// Groups that must see every change.
    general: Vec<GroupId>,
    /// Groups by demanded field and value.
    routed: BTreeMap<String, HashMap<String, Vec<GroupId>>>,
}

impl Watchers {
    fn bucket(&self, interest: &Interest) -> &[GroupId] {
        match interest.route() {
            Some((field, value)) => self
                .routed
                .get(field)
                .and_then(|values| values.get(value))
                .map_or(&[], Vec::as_slice),
            None => &self.general,
        }
    }

    fn find(&self, interest: &Interest) -> Option<GroupId> {
        let mut ids = self.bucket(interest).iter().copied();
        ids.find(|id| {
            self.groups
                .get(id)
                .is_some_and(|group| group.interest == *interest)
        })
    }

    fn add(&mut self, interest: Interest, subscriber: Arc<Subscriber>) {
        let id = self.find(&interest).unwrap_or_else(|| {
            let id = self.next;
            self.next += 1;
            match interest.route() {
                Some((field, value)) => {
                    let values = self.routed.entry(field.to_owned()).or_default();
                    values.entry(value.to_owned()).or_default().push(id);
                }
                None => self.general.push(id),
            }
            let group = Group {
                interest,
                subscribers: Vec::new(),
            };
            self.groups.insert(id, group);
            id
        });
        if let Some(group) = self.groups.get_mut(&id) {
            group.subscribers.push(subscriber);
        }
    }

    fn remove(&mut self, interest: &Interest, subscriber: &Arc<Subscriber>) {
        let Some(id) = self.find(interest) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group
            .subscribers
            .retain(|other| !Arc::ptr_eq(other, subscriber));
        if !group.subscribers.is_empty() {
            return;
        }
        self.groups.remove(&id);
        match interest.route() {
            Some((field, value)) => {
                if let Some(values) = self.routed.get_mut(field) {
                    if let Some(ids) = values.get_mut(value) {
                        ids.retain(|other| *other != id);
                        if ids.is_empty() {
                            values.remove(value);
                        }
                    }
                    if values.is_empty() {
                        self.routed.remove(field);
                    }
                }
            }
            None => self.general.retain(|other| *other != id),
        }
    }

    /// The groups that may have an interest in a change, each once.
    fn candidates(&self, change: &Change, out: &mut Vec<GroupId>) {
        out.clear();
        out.extend_from_slice(&self.general);
        for (field, values) in &self.routed {
            let value = |stored: &Stored| {
                values
                    .get(stored.field(field).unwrap_or_default())
                    .map_or(&[][..], Vec::as_slice)
            };
            let now = value(&change.stored);
            out.extend_from_slice(now);
            if let Some(previous) = &change.previous {
                let before = value(previous);
                if before != now {
                    out.extend_from_slice(before);
                }
            }
        }
    }
}

/// All watchers.
#[derive(Debug, Default)]
pub(super) struct Hub {
    resources: BTreeMap<Arc<str>, Watchers>,
}

impl Hub {
    pub(super) fn add(
        &mut self,
        resource: &Arc<str>,
        interest: Interest,
        subscriber: Arc<Subscriber>,
    ) {
        self.resources
            .entry(Arc::clone(resource))
            .or_default()
            .add(interest, subscriber);
    }

    pub(super) fn remove(
        &mut self,
        resource: &str,
        interest: &Interest,
        subscriber: &Arc<Subscriber>,
    ) {
        if let Some(watchers) = self.resources.get_mut(resource) {
            watchers.remove(interest, subscriber);
            if watchers.groups.is_empty() {
                self.resources.remove(resource);
            }
        }
    }

    /// Hands the changes of one commit to everyone concerned. Returns how many watchers were too slow.
    pub(super) fn publish(
        &mut self,
        changes: &[Arc<Change>],
        wakers: &mut Vec<Waker>,
    ) -> Published {
        let mut published = Published::default();
        let mut candidates = Vec::new();
        let mut pending: BTreeMap<(&Arc<str>, GroupId), Vec<Event>> = BTreeMap::new();
        for change in changes {
            let resource = &change.stored.key.resource;
            let Some(watchers) = self.resources.get(resource) else {
                continue;
            };
            watchers.candidates(change, &mut candidates);
            for id in &candidates {
                let event = watchers
                    .groups
                    .get(id)
                    .and_then(|group| group.interest.event(change));
                if let Some(event) = event {
                    pending.entry((resource, *id)).or_default().push(event);
                }
            }
        }
        for ((resource, id), events) in pending {
            let Some(watchers) = self.resources.get_mut(resource) else {
                continue;
            };
            let Some(group) = watchers.groups.get_mut(&id) else {
                continue;
            };
            let batch = Arc::new(EventBatch::new(events));
            published.events += batch.events().len() * group.subscribers.len();
            for subscriber in &group.subscribers {
                published.lagged += u64::from(subscriber.push(&batch, wakers));
            }
        }
        published
    }

    /// Ends the watches of a resource, or all of them.
    pub(super) fn end(&mut self, resource: Option<&str>, wakers: &mut Vec<Waker>) {
        for (name, watchers) in &self.resources {
            if resource.is_none_or(|resource| resource == &**name) {
                for subscriber in watchers
                    .groups
                    .values()
                    .flat_map(|group| &group.subscribers)
                {
                    subscriber.finish(WatchEnd::Closed, wakers);
                }
            }
        }
    }

    pub(super) fn watchers(&self, resource: &str) -> usize {
        let groups = self
            .resources
            .get(resource)
            .map(|watchers| watchers.groups.values());
        groups
            .into_iter()
            .flatten()
            .map(|group| group.subscribers.len())
            .sum()
    }
}

/// What one publication did.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Events times watchers.
    pub(super) events: usize,
    /// Watchers that were ended because they did not keep up.
    pub(super) lagged: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing::{Thing, selection};

    fn interest(fields: &str) -> Interest {
        Interest {
            namespace: None,
            selection: selection("", fields),
        }
    }

    fn change(before: Option<&str>, after: &str) -> Change {
        let stored = |node: &str| {
            let thing = Thing::new("job").node(node);
            let encoded = thing.encoded();
            let (kind, offset) = (EventType::Added, encoded.rv_offset);
            let stored = Stored::build(
                thing.key(),
                1_000_000_001,
                kind,
                &encoded.bytes,
                offset,
                encoded.index,
            );
            Arc::new(stored.unwrap())
        };
        Change::new(stored(after), before.map(stored), false, 0)
    }

    #[test]
    fn only_watchers_that_may_be_concerned_are_asked() {
        let mut watchers = Watchers::default();
        let asked = [
            "",
            "spec.node=a",
            "spec.node=b",
            "metadata.name=job",
            "spec.node=",
            "x=y",
        ];
        for fields in asked {
            watchers.add(interest(fields), Arc::new(Subscriber::new(1)));
        }
        for (before, after, wanted) in [
            (None, "a", &["", "metadata.name=job", "spec.node=a"][..]),
            (
                Some("a"),
                "b",
                &["", "metadata.name=job", "spec.node=b", "spec.node=a"],
            ),
            (Some("b"), "b", &["", "metadata.name=job", "spec.node=b"]),
            (None, "c", &["", "metadata.name=job"]),
            (Some(""), "c", &["", "metadata.name=job", "spec.node="]),
        ] {
            let mut candidates = Vec::new();
            watchers.candidates(&change(before, after), &mut candidates);
            let found: Vec<_> = candidates
                .iter()
                .map(|id| asked[usize::try_from(*id).unwrap()])
                .collect();
            assert_eq!(found, wanted, "{before:?} to {after}");
        }
    }

    #[test]
    fn groups_vanish_with_their_last_watcher() {
        let mut hub = Hub::default();
        let resource: Arc<str> = "jobs".into();
        let all = ["", "spec.node=a", "metadata.name=job", "spec.node=a"];
        let subscribers: Vec<_> = all
            .iter()
            .map(|fields| {
                let subscriber = Arc::new(Subscriber::new(1));
                hub.add(&resource, interest(fields), Arc::clone(&subscriber));
                subscriber
            })
            .collect();
        assert_eq!(
            (hub.watchers("jobs"), hub.resources["jobs"].groups.len()),
            (4, 3)
        );
        for (fields, subscriber) in all.iter().zip(&subscribers) {
            hub.remove("jobs", &interest(fields), subscriber);
            hub.remove("jobs", &interest(fields), subscriber);
        }
        assert!(hub.resources.is_empty());
    }
}
