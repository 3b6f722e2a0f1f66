//! The store without files, for simulation: no thread, no clock, no disk; the same order for the same calls.

use std::{collections::BTreeMap, ops::ControlFlow};

use parking_lot::Mutex;

use super::{Batch, FIRST_REVISION, Floors, Record, Revision, Store, StoreError};

/// A store that lives as long as its process. A simulated power cut keeps the `Arc` and starts a new
/// [`crate::cache::Cache`] on it: everything that was committed is there.
#[derive(Debug)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    records: BTreeMap<Revision, Record>,
    floors: Floors,
    last: Revision,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        let (records, floors) = (BTreeMap::new(), Floors::new());
        Self {
            inner: Mutex::new(Inner {
                records,
                floors,
                last: FIRST_REVISION - 1,
            }),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        if batch.after != inner.last {
            return Err(StoreError::OutOfOrder {
                after: batch.after,
                last: inner.last,
            });
        }
        for record in &batch.records {
            inner.last = record.revision;
            inner.records.insert(record.revision, record.clone());
        }
        for removal in &batch.removals {
            inner.records.remove(&removal.revision);
        }
        if let Some(floors) = &batch.floors {
            inner.floors.clone_from(floors);
        }
        Ok(())
    }

    fn read(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        Ok(self.inner.lock().records.get(&revision).cloned())
    }

    fn history(
        &self,
        after: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let inner = self.inner.lock();
        for record in inner
            .records
            .range(after.saturating_add(1)..)
            .map(|(_, record)| record)
        {
            if visit(record.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn floors(&self) -> Result<Floors, StoreError> {
        Ok(self.inner.lock().floors.clone())
    }

    fn last_revision(&self) -> Revision {
        self.inner.lock().last
    }

    fn blocks(&self) -> bool {
        false
    }
}
