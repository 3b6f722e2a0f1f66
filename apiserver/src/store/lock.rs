//! The lock that one process has on a store's directory.
//!
//! A killed process holds its locks until the kernel has taken it apart, and so does every child of a
//! process between its fork and its exec. So a held lock is asked for again, for a while.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::StoreError;

const LOCK_FILE: &str = "lock";
const PAUSE: Duration = Duration::from_millis(20);

/// How long held locks are asked for again.
pub(super) struct Patience {
    dir: PathBuf,
    until: Instant,
    on_busy: Box<dyn Fn() + Send + Sync>,
}

impl Patience {
    /// From now on. `on_busy` is called each time a lock is found held, before it is waited for.
    pub(super) fn new(
        dir: &Path,
        patience: Duration,
        on_busy: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            until: Instant::now() + patience,
            on_busy,
        }
    }

    /// Waits a moment.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when patience is spent.
    pub(super) fn pause(&self) -> Result<(), StoreError> {
        (self.on_busy)();
        if Instant::now() >= self.until {
            return Err(StoreError::InUse {
                path: self.dir.clone(),
            });
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

/// Takes the lock of a directory; held as long as the file is open.
pub(super) fn acquire(dir: &Path, patience: &Patience) -> Result<File, StoreError> {
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true);
    let lock = options
        .open(dir.join(LOCK_FILE))
        .map_err(|source| StoreError::NotWritable {
            path: dir.to_owned(),
            source,
        })?;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => patience.pause()?,
            Err(error) => {
                return Err(StoreError::Io {
                    action: "lock",
                    path: dir.to_owned(),
                    source: io::Error::from(error).into(),
                });
            }
        }
    }
}
