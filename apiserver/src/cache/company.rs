//! Who commits beside whom.
//!
//! A commit that is alone is made by the thread that brings it. Whether it is alone shows once the other tasks of the
//! thread have had their turn, and to give them one wakes a second thread and takes a tenth of a commit. So after some
//! commits without company, company is looked for only now and then.

use std::sync::atomic::{AtomicUsize, Ordering};

/// After so many commits without company it is looked for only now and then ...
const SURE: usize = 16;
/// ... which bounds how many of a crowd are committed one by one before it is seen. Chosen: a millisecond of a quick
/// disk.
const LOOK_EVERY: usize = 8;

/// Who is waiting for a commit, and for how many commits nobody else was.
#[derive(Default)]
pub(super) struct Company {
    waiting: AtomicUsize,
    alone: AtomicUsize,
}

/// One who waits for a commit.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Company {
    /// One more waits, until the result is dropped.
    pub(super) fn join(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    /// Is it time to let others come?
    pub(super) fn may_be_near(&self) -> bool {
        let alone = self.alone.load(Ordering::Relaxed);
        alone < SURE || alone.is_multiple_of(LOOK_EVERY)
    }

    /// A commit was alone.
    pub(super) fn did_not_come(&self) {
        self.alone.fetch_add(1, Ordering::Relaxed);
    }

    /// A commit was not, or might not have been.
    pub(super) fn came(&self) {
        self.alone.store(0, Ordering::Relaxed);
    }
}

impl Waiting<'_> {
    pub(super) fn is_alone(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
