//! The objects of one kind as they were last seen, in order of namespace and name.
//!
//! **Guarantees.** An object never goes back to an older resourceVersion. A relist replaces what it does not name. The
//! reply of a write is taken in only when it is newer than what the watch has told, so that a late reply does not bring a
//! deleted object back.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Resource;
use kube::core::ObjectMeta;
use kube::runtime::watcher::Event;

/// Namespace and name of an object; the namespace of a cluster-scoped one is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Namespace.
    pub(crate) namespace: Arc<str>,
    /// Name.
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Of a cluster-scoped object.
    pub(crate) fn cluster(name: &str) -> Self {
        Self::new("", name)
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One object before and after a change.
#[derive(Debug)]
pub(crate) struct Delta<K> {
    /// Which.
    pub(crate) key: Key,
    /// Before; absent when it is new.
    pub(crate) old: Option<Arc<K>>,
    /// After; absent when it is gone.
    pub(crate) new: Option<Arc<K>>,
}

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    listing: Option<BTreeMap<Key, Arc<K>>>,
    /// The newest revision that the watch has told of.
    told: u64,
    synced: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: None,
            told: 0,
            synced: false,
        }
    }
}

/// The resourceVersion as a number; 0 when it is none, and then nothing is known about its age.
fn revision(meta: &ObjectMeta) -> u64 {
    let text = meta.resource_version.as_deref().unwrap_or_default();
    text.parse().unwrap_or(0)
}

impl<K: Resource> Store<K> {
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// All objects, by namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.objects.iter()
    }

    /// True once the kind was listed whole.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Takes in one event of the watch and appends what changed.
    pub(crate) fn on_event(&mut self, event: Event<K>, changes: &mut Vec<Delta<K>>) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let object = slim(object);
                let key = Key::of(object.meta());
                self.told = self.told.max(revision(object.meta()));
                self.listing
                    .get_or_insert_default()
                    .insert(key, Arc::new(object));
            }
            Event::InitDone => self.replace(changes),
            Event::Apply(object) => {
                let object = slim(object);
                let seen = revision(object.meta());
                self.told = self.told.max(seen);
                let key = Key::of(object.meta());
                let known = self.objects.get(&key);
                let stale = known.is_some_and(|old| seen != 0 && revision(old.meta()) >= seen);
                if !stale {
                    changes.push(self.insert(key, object));
                }
            }
            Event::Delete(object) => {
                let seen = revision(object.meta());
                self.told = self.told.max(seen);
                let key = Key::of(object.meta());
                let known = self.objects.get(&key);
                let newer = known.is_some_and(|old| seen != 0 && revision(old.meta()) > seen);
                if !newer && let Some(old) = self.objects.remove(&key) {
                    changes.push(Delta {
                        key,
                        old: Some(old),
                        new: None,
                    });
                }
            }
        }
    }

    /// Takes in the reply of a write, if it is newer than all that is known of the object.
    pub(crate) fn on_reply(&mut self, object: K) -> Option<Delta<K>> {
        let object = slim(object);
        let seen = revision(object.meta());
        let key = Key::of(object.meta());
        let newer = match self.objects.get(&key) {
            Some(old) => old.meta().uid == object.meta().uid && revision(old.meta()) < seen,
            None => seen > self.told,
        };
        (newer && seen != 0).then(|| self.insert(key, object))
    }

    fn insert(&mut self, key: Key, object: K) -> Delta<K> {
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), new.clone());
        Delta {
            key,
            old,
            new: Some(new),
        }
    }

    /// Ends a list: what it names is put in place of what was known, older revisions excepted. New objects are told in the
    /// order of their revisions, because that is the order in which they were made.
    fn replace(&mut self, changes: &mut Vec<Delta<K>>) {
        let listed = self.listing.take().unwrap_or_default();
        self.synced = true;
        let gone: Vec<Key> = self
            .objects
            .keys()
            .filter(|key| !listed.contains_key(key))
            .cloned()
            .collect();
        for key in gone {
            let old = self.objects.remove(&key);
            changes.push(Delta {
                key,
                old,
                new: None,
            });
        }
        let mut fresh: Vec<(u64, Key, Arc<K>)> = listed
            .into_iter()
            .map(|(key, object)| (revision(object.meta()), key, object))
            .collect();
        fresh.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (seen, key, object) in fresh {
            let known = self.objects.get(&key);
            let stale = known.is_some_and(|old| {
                seen != 0 && revision(old.meta()) >= seen && old.meta().uid == object.meta().uid
            });
            if !stale {
                let old = self.objects.insert(key.clone(), object.clone());
                changes.push(Delta {
                    key,
                    old,
                    new: Some(object),
                });
            }
        }
    }
}

/// Drops what no controller reads: with tens of thousands of objects it is most of the memory.
fn slim<K: Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    object
}

#[cfg(test)]
mod tests {
    use crds::Queue;

    use super::*;

    fn queue(name: &str, uid: &str, revision: u64) -> Queue {
        let mut queue = Queue::new(name, crds::QueueSpec::default());
        queue.metadata.uid = Some(uid.to_owned());
        queue.metadata.resource_version = Some(revision.to_string());
        queue
    }

    fn known(store: &Store<Queue>) -> Vec<(String, u64)> {
        store
            .iter()
            .map(|(key, queue)| (key.to_string(), revision(queue.meta())))
            .collect()
    }

    fn feed(store: &mut Store<Queue>, events: Vec<Event<Queue>>) -> Vec<String> {
        let mut changes = Vec::new();
        for event in events {
            store.on_event(event, &mut changes);
        }
        let word = |delta: &Delta<Queue>| match (&delta.old, &delta.new) {
            (None, _) => format!("+{}", delta.key),
            (_, None) => format!("-{}", delta.key),
            _ => format!("~{}", delta.key),
        };
        changes.iter().map(word).collect()
    }

    #[test]
    fn a_list_replaces_what_it_does_not_name() {
        let mut store = Store::default();
        let first = vec![
            Event::Init,
            Event::InitApply(queue("a", "1", 10)),
            Event::InitApply(queue("b", "2", 5)),
            Event::InitDone,
        ];
        assert_eq!(feed(&mut store, first), ["+b", "+a"]);
        assert!(store.is_synced());
        let second = vec![
            Event::Init,
            Event::InitApply(queue("a", "1", 10)),
            Event::InitApply(queue("c", "3", 12)),
            Event::InitDone,
        ];
        assert_eq!(feed(&mut store, second), ["-b", "+c"]);
        assert_eq!(known(&store), [("a".into(), 10), ("c".into(), 12)]);
    }

    #[test]
    fn an_older_event_changes_nothing() {
        let mut store = Store::default();
        feed(&mut store, vec![Event::Apply(queue("a", "1", 10))]);
        assert!(store.on_reply(queue("a", "1", 12)).is_some());
        let events = vec![
            Event::Apply(queue("a", "1", 11)),
            Event::Apply(queue("a", "1", 12)),
        ];
        assert!(feed(&mut store, events).is_empty());
        assert_eq!(known(&store), [("a".into(), 12)]);
    }

    #[test]
    fn a_late_reply_does_not_bring_a_deleted_object_back() {
        let mut store = Store::default();
        feed(&mut store, vec![Event::Apply(queue("a", "1", 10))]);
        let deleted = vec![Event::Delete(queue("a", "1", 13))];
        assert_eq!(feed(&mut store, deleted), ["-a"]);
        assert!(store.on_reply(queue("a", "1", 12)).is_none());
        assert!(known(&store).is_empty());
    }

    #[test]
    fn a_reply_for_another_uid_is_not_believed() {
        let mut store = Store::default();
        feed(&mut store, vec![Event::Apply(queue("a", "2", 20))]);
        assert!(store.on_reply(queue("a", "1", 30)).is_none());
    }

    #[test]
    fn the_reply_of_a_create_is_known_at_once() {
        let mut store = Store::default();
        feed(&mut store, vec![Event::Apply(queue("a", "1", 10))]);
        let delta = store
            .on_reply(queue("b", "2", 11))
            .expect("newer than told");
        assert!(delta.old.is_none());
        assert!(feed(&mut store, vec![Event::Apply(queue("b", "2", 11))]).is_empty());
    }
}
