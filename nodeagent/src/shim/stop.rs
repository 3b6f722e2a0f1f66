//! The request to stop an attempt: a file beside the attempt's directory that says when KILL is due.
//!
//! It lies beside and not inside, so that a stop can be asked for before the directory is made; a shim that finds it at
//! its start starts nothing. The signal USR1 only says that there is something to read, so lost or repeated signals
//! change nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attempt::AttemptId;

/// Where the request for an attempt lies.
pub(crate) fn path(attempts_dir: &Path, id: &AttemptId) -> PathBuf {
    attempts_dir.join(format!("{id}.stop"))
}

/// Writes the request, replacing an earlier one whole. `kill_at_micros` is the time of KILL since 1970.
pub(crate) fn write(attempts_dir: &Path, id: &AttemptId, kill_at_micros: i64) -> io::Result<()> {
    let path = path(attempts_dir, id);
    let new = attempts_dir.join(format!("{id}.stop.new"));
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{kill_at_micros}")?;
    drop(file);
    fs::rename(new, path)
}

/// How long until KILL is due, if a stop was asked for. What cannot be read counts as due now: somebody asked.
pub(crate) fn read(path: &Path) -> Option<Duration> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => return Some(Duration::ZERO),
    };
    let kill_at: i64 = text.trim().parse().unwrap_or(0);
    let left = kill_at.saturating_sub(super::now_micros());
    Some(Duration::from_micros(u64::try_from(left).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_no_request_and_a_broken_one_is_due_now() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let id = AttemptId {
            uid: "u".to_owned(),
            attempt: 1,
        };
        let path = path(dir.path(), &id);
        assert_eq!(read(&path), None);
        fs::write(&path, "soon").expect("writable");
        assert_eq!(read(&path), Some(Duration::ZERO));
        write(dir.path(), &id, i64::MAX).expect("writable");
        assert!(read(&path).is_some_and(|left| left > Duration::from_mins(1)));
    }
}
