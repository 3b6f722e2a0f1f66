//! One `gctl up` a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Error;

/// How long a held lock is asked for again: a killed process has it until the kernel has taken it apart, and so has
/// every child of a process between its fork and its exec.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held as long as the process lives; the kernel lets go of it however the process ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who has it. Blocks for up to [`PATIENCE`] while somebody has.
    pub(super) fn take(data_dir: &Path) -> Result<Self, Error> {
        let until = Instant::now() + PATIENCE;
        Self::take_with(data_dir, || {
            std::thread::sleep(Duration::from_millis(20));
            Instant::now() < until
        })
    }

    /// The same, asking after each failure whether to try again.
    fn take_with(data_dir: &Path, mut again: impl FnMut() -> bool) -> Result<Self, Error> {
        let path = data_dir.join("up.lock");
        let fail = |source| Error::File {
            attempted: "lock",
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if again() => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(&mut file, data_dir)),
                Err(TryLockError::Error(source)) => return Err(fail(source)),
            }
        }
        // Only for the message above.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { _file: file })
    }
}

fn in_use(file: &mut File, data_dir: &Path) -> Error {
    let mut holder = String::new();
    let _ = file.read_to_string(&mut holder);
    let holder = match holder.trim() {
        "" => "another process".to_owned(),
        pid => format!("process {pid}"),
    };
    Error::Cluster {
        part: "up",
        reason: format!(
            "`{}` is in use by {holder}: one `gctl up` a data directory; --data-dir chooses another",
            data_dir.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_with_the_directory_and_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::take(directory.path()).unwrap();
        let error = Lock::take_with(directory.path(), || false)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(&directory.path().display().to_string()),
            "{error}"
        );
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(Lock::take(directory.path()).is_ok());
    }

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Some(Lock::take(directory.path()).unwrap());
        let mut asked = 0;
        let taken = Lock::take_with(directory.path(), || {
            first = None;
            asked += 1;
            true
        });
        assert!(taken.is_ok());
        assert!(asked > 0);
    }
}
