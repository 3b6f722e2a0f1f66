//! Small objects, and stores that fail, for the tests of the store and the cache.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Cache, CacheOptions, Clock, EventBatch, Index, Watch, WatchEnd};
use crate::{
    selector::Selection,
    store::{
        Batch, Body, CommitError, Encoded, EventType, Expect, Floors, IndexEntry, Mutation,
        ObjectKey, REVISION_PLACEHOLDER, Record, Revision, Room, Store, StoreError, Stored, Texts,
    },
};

pub(crate) const JOBS: &str = "jobs.test";

/// An object: its name, and what tests select on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) color: String,
    pub(crate) node: String,
    pub(crate) owner: String,
    pub(crate) payload: String,
}

impl Thing {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn color(mut self, color: &str) -> Self {
        color.clone_into(&mut self.color);
        self
    }

    pub(crate) fn node(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    pub(crate) fn owner(mut self, owner: &str) -> Self {
        owner.clone_into(&mut self.owner);
        self
    }

    pub(crate) fn payload(mut self, bytes: usize) -> Self {
        self.payload = "x".repeat(bytes);
        self
    }

    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(JOBS, &*self.namespace, &*self.name)
    }

    pub(crate) fn encoded(&self) -> Encoded {
        let json = json!({
            "metadata": {
                "labels": { "color": self.color },
                "name": self.name,
                "namespace": self.namespace,
                "owner": self.owner,
                "resourceVersion": REVISION_PLACEHOLDER,
                "uid": format!("uid-{}", self.name),
            },
            "payload": self.payload,
            "spec": { "node": self.node },
        });
        let text = json.to_string();
        let rv_offset = text.find(REVISION_PLACEHOLDER).unwrap();
        let index = Arc::new(extract(JOBS, text.as_bytes()));
        Encoded {
            bytes: Bytes::from(text),
            rv_offset,
            index,
        }
    }

    pub(crate) fn create(&self) -> Mutation {
        Mutation {
            key: self.key(),
            expect: Expect::Absent,
            body: Body::Put(self.encoded()),
            frees: false,
        }
    }

    pub(crate) fn update(&self) -> Mutation {
        Mutation {
            key: self.key(),
            expect: Expect::Any,
            body: Body::Put(self.encoded()),
            frees: false,
        }
    }

    pub(crate) fn delete(&self) -> Mutation {
        Mutation {
            key: self.key(),
            expect: Expect::Any,
            body: Body::Delete(self.encoded()),
            frees: false,
        }
    }

    pub(crate) fn at(&self, revision: Revision) -> Mutation {
        Mutation {
            expect: Expect::At(revision),
            ..self.update()
        }
    }
}

/// The index of [`Thing`]s.
pub(crate) fn extract(_: &str, bytes: &[u8]) -> IndexEntry {
    let json: Value = serde_json::from_slice(bytes).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let owner = text(&json["metadata"]["owner"]);
    IndexEntry {
        labels: Texts::from_iter([(
            "color".into(),
            text(&json["metadata"]["labels"]["color"]).into(),
        )]),
        fields: Texts::from_iter([("spec.node".into(), text(&json["spec"]["node"]).into())]),
        uid: text(&json["metadata"]["uid"]).into(),
        owners: if owner.is_empty() {
            Vec::new()
        } else {
            vec![owner.into()]
        },
    }
}

pub(crate) fn selection(labels: &str, fields: &str) -> Selection {
    Selection::parse(Some(labels), Some(fields), |_| true).unwrap()
}

/// The revision that is written in an object's bytes.
pub(crate) fn written_revision(stored: &Stored) -> Revision {
    let json: Value = serde_json::from_slice(&stored.bytes).unwrap();
    json["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// A clock that stands until it is moved.
#[derive(Clone, Default)]
pub(crate) struct HandClock(Arc<AtomicI64>);

impl HandClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0
            .fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn clock(&self) -> Clock {
        let ms = Arc::clone(&self.0);
        Arc::new(move || jiff::Timestamp::from_millisecond(ms.load(Ordering::Relaxed)).unwrap())
    }
}

pub(crate) fn options(clock: &HandClock) -> CacheOptions {
    CacheOptions::new(clock.clock())
}

pub(crate) fn open(store: &Arc<impl Store>, options: CacheOptions) -> Cache {
    let store: Arc<dyn Store> = Arc::clone(store) as _;
    Cache::open(store, options, |_| Arc::new(extract) as Index).unwrap()
}

/// One event, as short as it can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: EventType,
    pub(crate) name: String,
    pub(crate) revision: Revision,
}

pub(crate) fn seen(batch: &EventBatch) -> Vec<Seen> {
    let event = |event: &super::Event| {
        assert_eq!(written_revision(&event.stored), event.revision());
        let line: Value = serde_json::from_slice(&event.json_line()).unwrap();
        assert_eq!(line["type"], event.kind.as_str());
        assert_eq!(
            line["object"],
            serde_json::from_slice::<Value>(&event.stored.bytes).unwrap()
        );
        Seen {
            kind: event.kind,
            name: event.stored.key.name.as_ref().to_owned(),
            revision: event.revision(),
        }
    };
    batch.events().iter().map(event).collect()
}

/// Everything that a watch has now, and how it ended if it did.
pub(crate) fn drain(watch: &mut Watch) -> (Vec<Seen>, Option<WatchEnd>) {
    let mut events = Vec::new();
    while let Some(item) = watch.next().now_or_never() {
        match item {
            Some(Ok(batch)) => events.extend(seen(&batch)),
            Some(Err(end)) => return (events, Some(end)),
            None => break,
        }
    }
    (events, None)
}

/// A store that can be told to fail, or to be full.
pub(crate) struct FaultyStore<S> {
    inner: S,
    pub(crate) fails: AtomicBool,
    pub(crate) room: Mutex<Room>,
}

impl<S: Store> FaultyStore<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            fails: AtomicBool::new(false),
            room: Mutex::new(Room::Enough),
        }
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            let source = std::io::Error::other("the disk is gone");
            let path = "/dev/null".into();
            return Err(StoreError::Io {
                action: "write to",
                path,
                source: source.into(),
            });
        }
        self.inner.commit(batch)
    }

    fn read(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        self.inner.read(revision)
    }

    fn history(
        &self,
        after: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.history(after, visit)
    }

    fn floors(&self) -> Result<Floors, StoreError> {
        self.inner.floors()
    }

    fn last_revision(&self) -> Revision {
        self.inner.last_revision()
    }

    fn room(&self) -> Room {
        *self.room.lock()
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }
}

/// What a commit ended as, for tables.
pub(crate) fn outcome(answer: &Result<Arc<Stored>, CommitError>) -> &'static str {
    match answer {
        Ok(_) => "committed",
        Err(CommitError::Exists { .. }) => "exists",
        Err(CommitError::Conflict { current: Some(_) }) => "conflict",
        Err(CommitError::Conflict { current: None }) => "gone",
        Err(CommitError::NotFound) => "not found",
        Err(CommitError::Malformed(_)) => "malformed",
        Err(CommitError::NoSpace { .. }) => "no space",
        Err(CommitError::StorageFailed(_)) => "storage failed",
        Err(CommitError::Closed) => "closed",
    }
}

/// All records that a store keeps.
pub(crate) fn records(store: &impl Store) -> Vec<Record> {
    let mut records = Vec::new();
    let mut visit = |record| {
        records.push(record);
        ControlFlow::Continue(())
    };
    store.history(0, &mut visit).unwrap();
    records
}

pub(crate) fn names(items: &[Arc<Stored>]) -> Vec<String> {
    items
        .iter()
        .map(|stored| stored.key.name.as_ref().to_owned())
        .collect()
}

pub(crate) fn revisions(records: &[Record]) -> BTreeSet<Revision> {
    records.iter().map(|record| record.revision).collect()
}
