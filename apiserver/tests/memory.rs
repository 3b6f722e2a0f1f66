//! What writing to the store on disk leaves behind in memory, by an allocator that counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use apiserver::store::{
    Batch, EmbeddedOptions, EmbeddedStore, FIRST_REVISION, ObjectKey, Operation, Record, Store,
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(
    unsafe_code,
    reason = "an allocator cannot be written without; it only counts and passes on"
)]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const OBJECTS: u64 = 20_000;
const OBJECTS_A_BATCH: u64 = 50;
const OBJECT_BYTES: usize = 1_000;

#[test]
fn what_the_database_replaced_while_writing_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let before = LIVE.load(Ordering::Relaxed);
    let store = EmbeddedStore::open(EmbeddedOptions::new(dir.path())).unwrap();
    let mut after = FIRST_REVISION - 1;
    for _ in 0..OBJECTS / OBJECTS_A_BATCH {
        let records = (after + 1..=after + OBJECTS_A_BATCH).map(record).collect();
        let batch = Batch {
            after,
            records,
            ..Batch::default()
        };
        store.commit(&batch).unwrap();
        after += OBJECTS_A_BATCH;
    }
    // Everything is handed to the database. Its cache, and what it replaced last, nobody frees for it any more.
    drop(store);
    let left = LIVE.load(Ordering::Relaxed).saturating_sub(before);
    assert!(left < 40 << 20, "{left} bytes are left");
}

fn record(revision: u64) -> Record {
    Record {
        revision,
        operation: Operation::Put,
        key: ObjectKey::new("things", "", revision.to_string()),
        previous: None,
        time_ms: 5,
        rv_offset: 9,
        body: vec![b'x'; OBJECT_BYTES].into(),
    }
}
