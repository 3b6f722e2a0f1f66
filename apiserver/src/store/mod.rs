//! The revisioned store: a log of object states behind one trait.
//!
//! A store keeps records by revision. The state of the world at a revision is the newest record of
//! each object up to it; nothing else is written, so a commit is one append of one batch.
//!
//! # Guarantees
//! - **A commit is atomic and durable when it returns**, or it never happened, or the store has failed.
//! - **Revisions are consecutive.** A batch names the revision that it follows; a store that is
//!   elsewhere refuses it, so two writers can never interleave.
//! - **A superseded record is removed only by a batch that also raises its resource's floor**, so
//!   that after any crash the history above the floor is complete.
//!
//! # Assumptions
//! One process has the store open, and one committer writes to it (see [`crate::cache`]).

mod durable;
mod embedded;
mod journal;
mod lock;
mod memory;
mod object;
mod pending;
mod record;
mod space;
mod texts;

use std::{collections::BTreeMap, ops::ControlFlow, path::PathBuf, sync::Arc};

pub use durable::{EmbeddedOptions, EmbeddedStore};
pub use memory::MemoryStore;
pub use object::{
    Body, Change, CommitError, Encoded, EventType, Expect, FIRST_REVISION, IndexEntry,
    LAST_REVISION, Mutation, ObjectKey, REVISION_DIGITS, REVISION_PLACEHOLDER, Revision, Stored,
};
pub use record::{Operation, Record, Removal, encoded_len};
pub use space::FREE_SPACE_FLOOR;
pub use texts::Texts;

/// Per resource, the revision up to which history has been given up. Absent means none was.
pub type Floors = BTreeMap<Arc<str>, Revision>;

/// What is written at once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The last revision before this batch.
    pub after: Revision,
    /// The new records, with consecutive revisions from `after + 1`.
    pub records: Vec<Record>,
    /// Records that no retained revision needs any more.
    pub removals: Vec<Removal>,
    /// The floors that `removals` imply; `None` when they are unchanged.
    pub floors: Option<Floors>,
}

/// Whether there is space to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Anything may be written.
    Enough,
    /// Less than the floor is free: only deletes and their steps, which make room, may be written.
    Low {
        /// Bytes free.
        free: u64,
        /// Bytes that must be free.
        floor: u64,
    },
    /// Less than half of the floor is free: nothing may be written.
    None {
        /// Bytes free.
        free: u64,
        /// Bytes that must be free.
        floor: u64,
    },
}

/// A revisioned log of object states. All methods may block on the disk.
pub trait Store: Send + Sync + 'static {
    /// Writes a batch; it is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::OutOfOrder`] leaves the store as it was. After any other error the store only reads.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;

    /// The record of a revision, if it is still kept.
    fn read(&self, revision: Revision) -> Result<Option<Record>, StoreError>;

    /// Visits every kept record with a revision above `after`, in order, until told to stop.
    fn history(
        &self,
        after: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// The floors as last committed.
    fn floors(&self) -> Result<Floors, StoreError>;

    /// The last committed revision; `FIRST_REVISION - 1` for a fresh store.
    fn last_revision(&self) -> Revision;

    /// Is there space for another commit?
    fn room(&self) -> Room {
        Room::Enough
    }

    /// Bytes on disk; 0 for a store without files.
    fn bytes_on_disk(&self) -> u64 {
        0
    }

    /// Would a commit have nothing to wait for but its own write?
    fn is_ready(&self) -> bool {
        true
    }

    /// Does [`Store::commit`] block? If so, it gets a thread of its own.
    fn blocks(&self) -> bool;

    /// Releases the files; later calls fail. After a storage error this leaves the files as they are.
    fn close(&self) {}

    /// The objects of a resource as they were at a revision, by key.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when the revision is below the resource's floor.
    fn list(&self, resource: &str, at: Revision) -> Result<Vec<Record>, StoreError> {
        let floor = self
            .floors()?
            .get(resource)
            .copied()
            .unwrap_or(FIRST_REVISION - 1);
        if at < floor {
            return Err(StoreError::Expired { at, floor });
        }
        let mut live = BTreeMap::new();
        self.history(0, &mut |record| {
            if record.revision > at {
                return ControlFlow::Break(());
            }
            if &*record.key.resource == resource {
                match record.operation {
                    Operation::Put => live.insert(record.key.clone(), record),
                    Operation::Delete => live.remove(&record.key),
                };
            }
            ControlFlow::Continue(())
        })?;
        Ok(live.into_values().collect())
    }
}

/// Why a store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the store at `{}` is in use by another process: stop that server, or give this one another data directory",
        .path.display()
    )]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory cannot be created or written.
    #[error(
        "the data directory `{}` cannot be written: give this user write access to it, or choose another one",
        .path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Too little space is free, even after the reserve was released.
    #[error(
        "the file system of `{}` is full ({free} bytes free, {needed} needed to open the store): free some space and start again",
        .path.display()
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The files are not what this version wrote.
    #[error("the store at `{}` is damaged: {detail}", .path.display())]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("failed to {action} the store at `{}`", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The store's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The batch does not follow the last revision.
    #[error("the batch follows revision {after}, but the store is at {last}")]
    OutOfOrder {
        /// The revision that the batch names.
        after: Revision,
        /// The store's last revision.
        last: Revision,
    },
    /// An earlier error made the store read only.
    #[error("the store at `{}` failed before and only reads", .path.display())]
    Failed {
        /// The store's directory.
        path: PathBuf,
    },
    /// The history of that revision has been given up.
    #[error("revision {at} is below the oldest kept one, {floor}")]
    Expired {
        /// The revision asked for.
        at: Revision,
        /// The oldest one kept.
        floor: Revision,
    },
    /// The records contradict each other.
    #[error("the store is damaged at revision {revision}: {detail}")]
    Inconsistent {
        /// Where.
        revision: Revision,
        /// What is wrong.
        detail: String,
    },
    /// The committer's thread could not be started.
    #[error("failed to start the committer's thread")]
    Thread {
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// All revisions of ten digits have been used.
    #[error("revisions are exhausted")]
    Exhausted,
    /// The committer ended without being asked to.
    #[error("the committer ended unexpectedly")]
    CommitterEnded,
}

#[cfg(test)]
mod durable_tests;
#[cfg(test)]
mod process_tests;
#[cfg(test)]
mod tests;
