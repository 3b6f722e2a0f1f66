//! What the journal has and the database may not have yet, in memory.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{Batch, Floors, Record, Revision, StoreError, embedded::Overlay, record::encoded_len};

/// Batches that wait for the database, oldest first, and what is to be said to the thread that hands
/// them over.
#[derive(Default)]
pub(super) struct Pending {
    batches: VecDeque<Waiting>,
    bytes: usize,
    /// When the oldest one came.
    since: Option<Instant>,
    /// The journal is to be prepared for more.
    pub(super) prepare: bool,
    /// Little space is left: nothing is to be owed to the database.
    pub(super) urgent: bool,
    /// Everything is to be handed over, and that was all.
    pub(super) closing: bool,
    /// Nothing is handed over any more; the error goes to the next commit.
    pub(super) broken: bool,
    pub(super) error: Option<StoreError>,
}

/// A batch that is in the journal.
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) sequence: u64,
    pub(super) batch: Arc<Batch>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn new(sequence: u64, batch: &Batch) -> Self {
        Self {
            sequence,
            batch: Arc::new(batch.clone()),
            bytes: size(batch),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What pending batches do to a record.
pub(super) enum Fate {
    Unchanged,
    Written(Record),
    Removed,
}

impl Pending {
    /// Nothing waits, and the journal is to be prepared.
    pub(super) fn begin() -> Self {
        Self {
            prepare: true,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// What they take in memory and in the database, in bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when something has been waiting.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    pub(super) fn push(&mut self, waiting: Waiting) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += waiting.bytes;
        self.batches.push_back(waiting);
    }

    /// The oldest batches, together of at most so many bytes, or one.
    pub(super) fn oldest(&self, most: usize) -> Vec<Waiting> {
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            let first = bytes == 0;
            bytes += waiting.bytes;
            first || bytes <= most
        };
        self.batches.iter().take_while(fits).cloned().collect()
    }

    /// The database has these oldest ones.
    pub(super) fn forget(&mut self, oldest: &[Waiting]) {
        for waiting in oldest {
            self.batches.pop_front();
            self.bytes -= waiting.bytes;
        }
        self.since = (!self.batches.is_empty()).then(Instant::now);
    }

    /// What has become of a record since the database took over.
    pub(super) fn find(&self, revision: Revision) -> Fate {
        for Waiting { batch, .. } in self.batches.iter().rev() {
            let mut removals = batch.removals.iter();
            if removals.any(|removal| removal.revision == revision) {
                return Fate::Removed;
            }
            let place = revision.checked_sub(batch.after + 1);
            let place = place.and_then(|place| usize::try_from(place).ok());
            if let Some(record) = place.and_then(|place| batch.records.get(place)) {
                return Fate::Written(record.clone());
            }
        }
        Fate::Unchanged
    }

    /// The same for all records.
    pub(super) fn overlay(&self) -> Overlay {
        let mut overlay = Overlay::new();
        for Waiting { batch, .. } in &self.batches {
            for record in &batch.records {
                overlay.insert(record.revision, Some(record.clone()));
            }
            for removal in &batch.removals {
                overlay.insert(removal.revision, None);
            }
        }
        overlay
    }

    /// The newest floors.
    pub(super) fn floors(&self) -> Option<Floors> {
        let mut newest = self.batches.iter().rev();
        newest.find_map(|waiting| waiting.batch.floors.clone())
    }
}

/// Cuts a list into parts that take at most so many bytes, or are of one item.
pub(super) fn parts<'a, T>(
    mut rest: &'a [T],
    most: usize,
    bytes_of: impl Fn(&T) -> usize + 'a,
) -> impl Iterator<Item = &'a [T]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |item: &&T| {
            bytes += bytes_of(item);
            bytes <= most
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (part, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(part)
    })
}

/// What a batch takes in memory and in the database, in bytes, roughly.
pub(super) fn size(batch: &Batch) -> usize {
    let record = |record: &Record| encoded_len(&record.key, record.body.len()) + 128;
    batch.records.iter().map(record).sum::<usize>() + 64 * batch.removals.len() + 128
}
