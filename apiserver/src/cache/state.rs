//! The current objects of every resource, the window of changes behind them, and the owner index.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use imbl::OrdMap;

use super::{ListError, ListPage};
use crate::{
    selector::Selection,
    store::{Change, FIRST_REVISION, Floors, ObjectKey, Revision, Stored},
};

/// The place of an object in its resource's order: namespace first, then name, bytewise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Place {
    pub(super) fn of(key: &ObjectKey) -> Self {
        Self {
            namespace: Arc::clone(&key.namespace),
            name: Arc::clone(&key.name),
        }
    }
}

/// The objects of one resource at one revision; cloning it is cheap.
pub(super) type Objects = OrdMap<Place, Arc<Stored>>;

/// One resource.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) objects: Objects,
    /// Bytes of JSON in `objects`.
    pub(super) bytes: usize,
    /// Changes above `floor`, oldest first.
    pub(super) log: VecDeque<Arc<Change>>,
    /// What `log` keeps in memory beyond `objects`, in bytes.
    pub(super) log_cost: usize,
    /// The revision up to which history has been given up.
    pub(super) floor: Revision,
}

impl Resource {
    fn new(floor: Revision) -> Self {
        let (objects, log) = (Objects::new(), VecDeque::new());
        Self {
            objects,
            bytes: 0,
            log,
            log_cost: 0,
            floor,
        }
    }

    /// The objects as they were at `at`, by undoing what came later.
    pub(super) fn objects_at(&self, at: Revision) -> Option<Objects> {
        if at < self.floor {
            return None;
        }
        let mut objects = self.objects.clone();
        for change in self
            .log
            .iter()
            .rev()
            .take_while(|change| change.revision() > at)
        {
            let place = Place::of(&change.stored.key);
            match &change.previous {
                Some(previous) => objects.insert(place, Arc::clone(previous)),
                None => objects.remove(&place),
            };
        }
        Some(objects)
    }

    /// The changes above `after`, oldest first.
    pub(super) fn changes_after(&self, after: Revision) -> impl Iterator<Item = &Arc<Change>> {
        let start = self
            .log
            .partition_point(|change| change.revision() <= after);
        self.log.range(start..)
    }
}

/// Everything that readers see.
#[derive(Debug)]
pub(super) struct State {
    pub(super) resources: BTreeMap<Arc<str>, Resource>,
    /// The last published revision.
    pub(super) revision: Revision,
    owners: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    names: HashSet<Arc<str>>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            resources: BTreeMap::new(),
            revision: FIRST_REVISION - 1,
            owners: HashMap::new(),
            names: HashSet::new(),
        }
    }

    /// The resource and namespace of `key` as shared strings, so that a million keys hold one copy.
    pub(super) fn interned(&self, key: ObjectKey) -> ObjectKey {
        let shared = |name: Arc<str>| self.names.get(&name).cloned().unwrap_or(name);
        let (resource, namespace) = (shared(key.resource), shared(key.namespace));
        ObjectKey {
            resource,
            namespace,
            name: key.name,
        }
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<Stored>> {
        self.resources
            .get(&key.resource)?
            .objects
            .get(&Place::of(key))
    }

    pub(super) fn resource_mut(&mut self, resource: &Arc<str>) -> &mut Resource {
        self.resources
            .entry(Arc::clone(resource))
            .or_insert_with(|| Resource::new(FIRST_REVISION - 1))
    }

    /// Puts an object that is older than the history window in its place.
    pub(super) fn restore(&mut self, stored: Arc<Stored>) {
        self.remember_names(&stored.key);
        self.revision = self.revision.max(stored.revision);
        self.replace(&stored.key.clone(), Some(stored));
    }

    /// Takes an object away whose deletion is older than the history window.
    pub(super) fn restore_deleted(&mut self, key: &ObjectKey, revision: Revision) {
        self.revision = self.revision.max(revision);
        self.replace(key, None);
    }

    /// Applies one change: objects, owners and log.
    pub(super) fn apply(&mut self, change: Arc<Change>) {
        self.remember_names(&change.stored.key);
        self.revision = change.revision();
        let now = (!change.deleted).then(|| Arc::clone(&change.stored));
        self.replace(&change.stored.key, now);
        let resource = self.resource_mut(&change.stored.key.resource);
        resource.log_cost += change.cost();
        resource.log.push_back(change);
    }

    /// Drops the `count` oldest changes of a resource; returns them, to be freed outside of the lock.
    pub(super) fn forget(&mut self, resource: &Arc<str>, count: usize) -> Vec<Arc<Change>> {
        let resource = self.resource_mut(resource);
        let dropped: Vec<_> = resource
            .log
            .drain(..count.min(resource.log.len()))
            .collect();
        for change in &dropped {
            resource.log_cost = resource.log_cost.saturating_sub(change.cost());
            resource.floor = resource.floor.max(change.revision());
        }
        dropped
    }

    pub(super) fn floors(&self) -> Floors {
        self.resources
            .iter()
            .filter(|(_, resource)| resource.floor >= FIRST_REVISION)
            .map(|(name, resource)| (Arc::clone(name), resource.floor))
            .collect()
    }

    pub(super) fn dependents(&self, owner_uid: &str) -> Vec<ObjectKey> {
        self.owners
            .get(owner_uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The objects and the history of a resource with other index entries.
    pub(super) fn reindexed(
        &self,
        resource: &str,
        mut renew: impl FnMut(&Stored) -> Stored,
    ) -> Option<Reindexed> {
        let resource = self.resources.get(resource)?;
        let mut renewed: HashMap<Revision, Arc<Stored>> = HashMap::new();
        let mut shared = |stored: &Arc<Stored>| {
            let new = renewed
                .entry(stored.revision)
                .or_insert_with(|| Arc::new(renew(stored)));
            Arc::clone(new)
        };
        let objects = resource.objects.iter();
        let objects = objects
            .map(|(place, stored)| (place.clone(), shared(stored)))
            .collect();
        let log = resource.log.iter();
        let log = log
            .map(|change| {
                let previous = change.previous.as_ref().map(&mut shared);
                let stored = shared(&change.stored);
                Arc::new(Change::new(
                    stored,
                    previous,
                    change.deleted,
                    change.time_ms,
                ))
            })
            .collect();
        Some(Reindexed { objects, log })
    }

    /// Puts what [`State::reindexed`] made in place; only the committer, so that nothing came between.
    pub(super) fn install(&mut self, resource: &str, reindexed: Reindexed) {
        if let Some(resource) = self.resources.get_mut(resource) {
            (resource.objects, resource.log) = (reindexed.objects, reindexed.log);
        }
    }

    fn remember_names(&mut self, key: &ObjectKey) {
        for name in [&key.resource, &key.namespace] {
            if !self.names.contains(name) {
                self.names.insert(Arc::clone(name));
            }
        }
    }

    fn replace(&mut self, key: &ObjectKey, now: Option<Arc<Stored>>) {
        let resource = self.resource_mut(&key.resource);
        let place = Place::of(key);
        let before = match &now {
            Some(stored) => {
                resource.bytes += stored.bytes.len();
                resource.objects.insert(place, Arc::clone(stored))
            }
            None => resource.objects.remove(&place),
        };
        if let Some(before) = &before {
            resource.bytes -= before.bytes.len();
        }
        let owners = |stored: &Option<Arc<Stored>>| {
            stored
                .as_ref()
                .map(|stored| stored.index.owners.clone())
                .unwrap_or_default()
        };
        let (old, new) = (owners(&before), owners(&now));
        if old == new {
            return;
        }
        for uid in old {
            if let Some(dependents) = self.owners.get_mut(&uid) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.owners.remove(&uid);
                }
            }
        }
        for uid in new {
            self.owners.entry(uid).or_default().insert(key.clone());
        }
    }
}

/// A resource with other index entries.
pub(super) struct Reindexed {
    objects: Objects,
    log: VecDeque<Arc<Change>>,
}

/// What a list asks for, beside the resource and the revision.
#[derive(Clone, Debug, Default)]
pub struct ListQuery<'a> {
    /// Only this namespace.
    pub namespace: Option<&'a str>,
    /// Only objects that match.
    pub selection: Selection,
    /// Only objects after this namespace and name.
    pub after: Option<(&'a str, &'a str)>,
    /// At most this many objects.
    pub limit: Option<usize>,
}

/// Does an object belong to a selection?
pub(super) fn matches(selection: &Selection, stored: &Stored) -> bool {
    selection.is_everything()
        || selection.matches(
            |label| stored.index.labels.get(label),
            |field| stored.field(field),
        )
}

/// One page of `objects`, which are the resource at `revision`.
pub(super) fn page(objects: &Objects, revision: Revision, query: &ListQuery<'_>) -> ListPage {
    let everything = query.selection.is_everything();
    let demanded = query.selection.field_equals("metadata.namespace");
    let namespace = query.namespace.or(demanded);
    let mut page = ListPage {
        items: Vec::new(),
        revision,
        more: None,
        remaining: None,
    };
    let first = Place {
        namespace: namespace.unwrap_or_default().into(),
        name: "".into(),
    };
    let after = query.after.map(|(namespace, name)| Place {
        namespace: namespace.into(),
        name: name.into(),
    });
    let start = match after {
        Some(after) if after >= first => Bound::Excluded(after),
        _ => Bound::Included(first),
    };
    let by_name = query.selection.field_equals("metadata.name");
    if let (Some(namespace), Some(name)) = (namespace, by_name) {
        let place = Place {
            namespace: namespace.into(),
            name: name.into(),
        };
        let within = match &start {
            Bound::Excluded(after) => place > *after,
            _ => true,
        };
        let found = objects
            .get(&place)
            .filter(|stored| within && matches(&query.selection, stored));
        page.items.extend(found.cloned());
        return page;
    }
    let limit = query.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let mut rest = objects
        .range((start, Bound::Unbounded))
        .take_while(|(place, _)| namespace.is_none_or(|namespace| &*place.namespace == namespace))
        .map(|(_, stored)| stored)
        .filter(|stored| everything || matches(&query.selection, stored));
    page.items.extend(rest.by_ref().take(limit).cloned());
    if page.items.len() == limit && rest.next().is_some() {
        page.more = page
            .items
            .last()
            .map(|last| (Arc::clone(&last.key.namespace), Arc::clone(&last.key.name)));
        page.remaining = everything.then(|| match query.after {
            None if namespace.is_none() => objects.len() - limit,
            _ => rest.count() + 1,
        });
    }
    page
}

impl State {
    /// The objects of a resource at a revision.
    pub(super) fn objects_at(&self, resource: &str, at: Revision) -> Result<Objects, ListError> {
        if at > self.revision {
            return Err(ListError::Future {
                current: self.revision,
            });
        }
        let oldest = FIRST_REVISION - 1;
        let expired = |oldest| ListError::Expired {
            oldest,
            current: self.revision,
        };
        match self.resources.get(resource) {
            Some(resource) => resource
                .objects_at(at)
                .ok_or_else(|| expired(resource.floor)),
            None if at < oldest => Err(expired(oldest)),
            None => Ok(Objects::new()),
        }
    }
}
