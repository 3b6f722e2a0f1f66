//! Checkpoints of a job: where it keeps them, and how it says that one is complete.
//!
//! - `GCTL_CHECKPOINT_DIR` names a directory of the job's own, the same for all its attempts on this node, and on all nodes
//!   where the root is shared storage. It is made before the first of them starts.
//! - `GCTL_CHECKPOINT_ACK` names a file of the attempt's own. A job that touches it says that what it has saved by then is
//!   complete, as often as it likes while it runs.
//! - The line `gctl-checkpoint-complete` in the output says the same once the job was asked to stop, and nothing before.
//!
//! Nothing here decides how an attempt has ended.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::record;
use crate::attempt::RunAs;

/// Variable that names the directory.
const DIR_VARIABLE: &str = "GCTL_CHECKPOINT_DIR";
/// Variable that names the file to touch.
const ACK_VARIABLE: &str = "GCTL_CHECKPOINT_ACK";
/// The line that says it in the output.
const TOKEN: &[u8] = b"gctl-checkpoint-complete";
/// How far back from its end the output is searched: who says it does so last.
const MOST_SEARCHED: u64 = 16 << 20;

/// What one attempt is given.
pub(super) struct Place {
    directory: PathBuf,
    ack: PathBuf,
}

impl Place {
    /// Makes what can be made by this process. Shared storage may refuse it to root; then the job's own user makes it.
    pub(super) fn prepare(
        directory: &Path,
        attempt_dir: &Path,
        run_as: Option<&RunAs>,
    ) -> io::Result<Self> {
        let ack = attempt_dir.join(record::ACK);
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&ack)?;
        // Whatever is later was the job.
        file.set_modified(SystemTime::UNIX_EPOCH)?;
        super::command::give(&ack, run_as)?;
        if make(directory).is_ok() {
            super::command::give(directory, run_as)?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            ack,
        })
    }

    /// The variables that tell the job.
    pub(super) fn variables(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [
            (DIR_VARIABLE.to_owned(), text(&self.directory)),
            (ACK_VARIABLE.to_owned(), text(&self.ack)),
        ]
    }

    /// As the job's user: is it there, and may he write to it?
    pub(super) fn enter(&self) -> nix::Result<()> {
        use nix::unistd::{AccessFlags, access};
        // It may be there, or be this user's to make.
        let _ = make(&self.directory);
        access(&self.directory, AccessFlags::W_OK | AccessFlags::X_OK)?;
        access(&self.ack, AccessFlags::W_OK)
    }

    /// The words for a directory that cannot be used.
    pub(super) fn explain(&self, error: nix::errno::Errno) -> String {
        let directory = self.directory.display();
        format!(
            "cannot use the checkpoint directory `{directory}`: {}",
            error.desc()
        )
    }
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)
}

/// When an attempt last said that its checkpoint is complete, in microseconds since 1970, as far as its file tells.
pub(crate) fn acknowledged(attempt_dir: &Path) -> Option<i64> {
    let data = fs::symlink_metadata(attempt_dir.join(record::ACK)).ok()?;
    let micros = data.mtime().checked_mul(1_000_000)? + data.mtime_nsec() / 1000;
    (micros > 0).then_some(micros)
}

/// Was it said in the output from there on?
pub(super) fn is_told(log: &Path, from: u64) -> io::Result<bool> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    let from = from.max(length.saturating_sub(MOST_SEARCHED));
    file.seek(SeekFrom::Start(from))?;
    let mut search = Search::default();
    let mut file = file.take(length.saturating_sub(from));
    let mut buffer = [0; 16 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(search.ends_told());
        }
        if search.feed(&buffer[..count]) {
            return Ok(true);
        }
    }
}

/// Looks for a line that is the token and nothing else, piece by piece.
#[derive(Default)]
struct Search {
    /// How much of the present line is the token's beginning; nothing once it is not.
    matched: Option<usize>,
    within_line: bool,
}

impl Search {
    /// True once the line is complete.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                if self.ends_told() {
                    return true;
                }
                *self = Self::default();
                continue;
            }
            let matched = if self.within_line {
                self.matched
            } else {
                Some(0)
            };
            let follows = matched.filter(|at| TOKEN.get(*at) == Some(byte));
            self.matched = follows.map(|at| at + 1);
            self.within_line = true;
        }
        false
    }

    /// Does the present line say it, if it ends here?
    fn ends_told(&self) -> bool {
        self.matched == Some(TOKEN.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, piece: usize) -> bool {
        let mut search = Search::default();
        let mut pieces = text.as_bytes().chunks(piece);
        pieces.any(|piece| search.feed(piece)) || search.ends_told()
    }

    #[test]
    fn the_line_is_found_wherever_the_output_is_cut() {
        let rows = [
            ("gctl-checkpoint-complete\n", true),
            ("gctl-checkpoint-complete", true),
            ("saving\ngctl-checkpoint-complete\nbye\n", true),
            ("50 %\rgctl-checkpoint-complete\r\n", true),
            ("", false),
            ("gctl-checkpoint-complet\n", false),
            ("gctl-checkpoint-complete!\n", false),
            ("echo gctl-checkpoint-complete\n", false),
            ("gctl-\ncheckpoint-complete\n", false),
        ];
        for (text, expected) in rows {
            for piece in 1..=text.len().max(1) {
                assert_eq!(told(text, piece), expected, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn only_what_is_said_from_the_signal_on_counts() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        let before = "gctl-checkpoint-complete\n";
        fs::write(&log, format!("{before}bye\n")).expect("writable");
        assert!(is_told(&log, 0).expect("readable"));
        assert!(!is_told(&log, before.len() as u64).expect("readable"));
        assert!(
            !is_told(&log, 1 << 40).expect("readable"),
            "it was cut since"
        );
    }

    #[test]
    fn a_file_that_was_never_touched_says_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (own, directory) = (dir.path().join("attempt"), dir.path().join("job"));
        fs::create_dir(&own).expect("writable");
        assert_eq!(acknowledged(&own), None, "no such file");
        let place = Place::prepare(&directory, &own, None).expect("it is made");
        place.enter().expect("it is usable");
        assert_eq!(acknowledged(&own), None);
        let file = OpenOptions::new().write(true).open(own.join(record::ACK));
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
        file.and_then(|file| file.set_modified(time))
            .expect("touched");
        assert_eq!(acknowledged(&own), Some(7_000_000));
    }
}
