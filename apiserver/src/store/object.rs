//! What the store keeps: keys, encoded objects, and the mutations that change them.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{StoreError, Texts};

/// The number of a committed change. Consecutive, store-wide, never reused.
pub type Revision = u64;

/// The revision of the first change of a fresh store.
pub const FIRST_REVISION: Revision = 1_000_000_001;

/// The last revision that fits the fixed width of [`REVISION_DIGITS`].
pub const LAST_REVISION: Revision = 9_999_999_999;

/// The width of `metadata.resourceVersion` in stored bytes.
pub const REVISION_DIGITS: usize = 10;

/// What an encoder writes where the committer will write the revision.
pub const REVISION_PLACEHOLDER: &str = "0000000000";

/// The name of one object: resource, namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// `plural.group`, or the plural alone in the core group: `jobs.gctl.dev`, `namespaces`.
    pub resource: Arc<str>,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.resource, self.name)
        } else {
            write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What selectors and garbage collection need to know of an object, extracted once a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// `metadata.labels`.
    pub labels: Texts<Box<str>>,
    /// Selectable fields by name (`status.phase`); an absent field counts as the empty string.
    /// `metadata.name` and `metadata.namespace` need not be here: the key answers them.
    pub fields: Texts<Arc<str>>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// The uids of `metadata.ownerReferences`.
    pub owners: Vec<Arc<str>>,
}

/// An object as it is to be stored.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Compact JSON of the whole object.
    pub bytes: Bytes,
    /// Where in `bytes` the [`REVISION_DIGITS`] digits of `metadata.resourceVersion` lie.
    pub rv_offset: usize,
    /// What was extracted from the object.
    pub index: Arc<IndexEntry>,
}

/// The state that a mutation was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such object.
    Absent,
    /// The object was last changed at this revision.
    At(Revision),
    /// The object exists, whatever its revision.
    Any,
}

/// What becomes of the object.
#[derive(Clone, Debug)]
pub enum Body {
    /// This is its new state.
    Put(Encoded),
    /// It is deleted; this is its last state, which gets the deletion's revision.
    Delete(Encoded),
}

/// One conditional change of one object.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// The object.
    pub key: ObjectKey,
    /// The condition.
    pub expect: Expect,
    /// The change.
    pub body: Body,
    /// A step of a deletion: like a delete, it may be written when little space is left.
    pub frees: bool,
}

/// Why a mutation was not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// [`Expect::Absent`], but the object exists.
    #[error("`{}` already exists at revision {}", .current.key, .current.revision)]
    Exists {
        /// The object as it is.
        current: Arc<Stored>,
    },
    /// [`Expect::At`], but the object has another revision or is gone.
    #[error("the object is not at the expected revision")]
    Conflict {
        /// The object as it is; `None` when it is gone.
        current: Option<Arc<Stored>>,
    },
    /// [`Expect::Any`], or a delete, of an object that does not exist.
    #[error("the object does not exist")]
    NotFound,
    /// `rv_offset` does not point at ten digits between quotes.
    #[error("the encoded object has no place for its revision at byte {0}")]
    Malformed(usize),
    /// Too little space is free; nothing was written, reads and deletes go on.
    #[error(
        "the data directory's file system has too little free space: {free} bytes free, {floor} needed"
    )]
    NoSpace {
        /// Bytes free.
        free: u64,
        /// Bytes that must be free before a write.
        floor: u64,
    },
    /// The store failed; from now on it only reads.
    #[error("storage failed, the server only reads until it is restarted")]
    StorageFailed(#[source] Arc<StoreError>),
    /// The cache is closing.
    #[error("the store is closed")]
    Closed,
}

impl CommitError {
    /// May the same mutation succeed later without being decided anew?
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

/// The type of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// The object came into the selection.
    Added,
    /// The object changed within the selection.
    Modified,
    /// The object left the selection, or was deleted.
    Deleted,
}

impl EventType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Added => b"{\"type\":\"ADDED\",\"object\":",
            Self::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
            Self::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        }
    }
}

const SUFFIX: &[u8] = b"}\n";

/// One state of one object. The bytes are a slice of the event line that announced it, so that
/// answers, lists and watches all send the same buffer.
#[derive(Debug)]
pub struct Stored {
    /// The object's key.
    pub key: ObjectKey,
    /// The change that made this state.
    pub revision: Revision,
    /// Compact JSON of the object, with its revision in `metadata.resourceVersion`.
    pub bytes: Bytes,
    /// What was extracted from the object.
    pub index: Arc<IndexEntry>,
    rv_offset: usize,
    kind: EventType,
    line: Bytes,
}

impl Stored {
    /// Builds the event line around `body`, writing `revision` in its place.
    ///
    /// # Errors
    /// [`CommitError::Malformed`] when `rv_offset` is not the place of a revision.
    pub(crate) fn build(
        key: ObjectKey,
        revision: Revision,
        kind: EventType,
        body: &[u8],
        rv_offset: usize,
        index: Arc<IndexEntry>,
    ) -> Result<Self, CommitError> {
        let end = rv_offset.saturating_add(REVISION_DIGITS);
        let fits = rv_offset > 0
            && body.get(rv_offset - 1) == Some(&b'"')
            && body.get(end) == Some(&b'"')
            && body[rv_offset..end].iter().all(u8::is_ascii_digit);
        if !fits {
            return Err(CommitError::Malformed(rv_offset));
        }
        let prefix = kind.prefix();
        let mut line = BytesMut::with_capacity(prefix.len() + body.len() + SUFFIX.len());
        line.put_slice(prefix);
        line.put_slice(body);
        line.put_slice(SUFFIX);
        let mut rest = revision;
        for digit in line[prefix.len() + rv_offset..prefix.len() + end]
            .iter_mut()
            .rev()
        {
            *digit = b"0123456789"[usize::try_from(rest % 10).unwrap_or_default()];
            rest /= 10;
        }
        let line = line.freeze();
        let bytes = line.slice(prefix.len()..line.len() - SUFFIX.len());
        Ok(Self {
            key,
            revision,
            bytes,
            index,
            rv_offset,
            kind,
            line,
        })
    }

    /// The place of the revision's digits in [`Self::bytes`].
    pub fn rv_offset(&self) -> usize {
        self.rv_offset
    }

    /// The same state under another revision and event type.
    pub(crate) fn at(&self, revision: Revision, kind: EventType) -> Self {
        Self::build(
            self.key.clone(),
            revision,
            kind,
            &self.bytes,
            self.rv_offset,
            Arc::clone(&self.index),
        )
        .expect("a stored object has a place for its revision")
    }

    /// The same state with another index entry.
    pub(crate) fn reindexed(&self, index: Arc<IndexEntry>) -> Self {
        Self {
            key: self.key.clone(),
            revision: self.revision,
            bytes: self.bytes.clone(),
            index,
            rv_offset: self.rv_offset,
            kind: self.kind,
            line: self.line.clone(),
        }
    }

    /// `{"type":"ADDED","object":...}` and a newline, for this state as an event of type `kind`.
    /// Free of cost for the type that announced it; a copy otherwise.
    pub fn json_line(&self, kind: EventType) -> Bytes {
        if kind == self.kind {
            return self.line.clone();
        }
        [kind.prefix(), &self.bytes[..], SUFFIX].concat().into()
    }

    /// What this state costs in memory, in bytes, roughly.
    pub(crate) fn cost(&self) -> usize {
        self.line.len() + OVERHEAD
    }

    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(&self.key.name),
            "metadata.namespace" => Some(&self.key.namespace),
            _ => self.index.fields.get(name),
        }
    }
}

/// Chosen: the structs and index entries beside an object's bytes, measured at 400 to 700 bytes.
const OVERHEAD: usize = 512;

/// One committed change: the states before and after it.
#[derive(Debug)]
pub struct Change {
    /// The new state; for a delete, the last state with the deletion's revision.
    pub stored: Arc<Stored>,
    /// The state before; `None` for a create.
    pub previous: Option<Arc<Stored>>,
    /// Was the object deleted?
    pub deleted: bool,
    /// When it was committed, in milliseconds since 1970.
    pub time_ms: i64,
    entered: OnceLock<Bytes>,
    left: OnceLock<Arc<Stored>>,
}

impl Change {
    pub(crate) fn new(
        stored: Arc<Stored>,
        previous: Option<Arc<Stored>>,
        deleted: bool,
        time_ms: i64,
    ) -> Self {
        let (entered, left) = (OnceLock::new(), OnceLock::new());
        Self {
            stored,
            previous,
            deleted,
            time_ms,
            entered,
            left,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.stored.revision
    }

    /// The line of an object that came into a selection by being modified, shared by all watchers.
    pub(crate) fn entered_line(&self) -> Bytes {
        self.entered
            .get_or_init(|| self.stored.json_line(EventType::Added))
            .clone()
    }

    /// The state of an object that left a selection: the old one, with the revision of this change.
    pub(crate) fn left(&self) -> Option<Arc<Stored>> {
        if self.deleted {
            return Some(Arc::clone(&self.stored));
        }
        let previous = self.previous.as_ref()?;
        let left = self
            .left
            .get_or_init(|| Arc::new(previous.at(self.revision(), EventType::Deleted)));
        Some(Arc::clone(left))
    }

    /// What keeping this change in the history costs beyond the current objects, in bytes.
    pub(crate) fn cost(&self) -> usize {
        let superseded = self.previous.as_ref().map_or(0, |previous| previous.cost());
        let tombstone = if self.deleted { self.stored.cost() } else { 0 };
        OVERHEAD / 2 + superseded + tombstone
    }
}
