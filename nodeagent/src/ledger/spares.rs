//! Directories of forgotten attempts, made ready for new ones.
//!
//! An attempt's directory, record, log and working directory are four inodes, and making and removing them for every
//! attempt is what a short job costs a file system most. So the directory of a forgotten attempt that is as good as new
//! becomes a spare, and a shim takes its once-gate by giving a spare its attempt's name, with a rename that replaces
//! nothing.
//!
//! # Guarantees
//!
//! - **Nothing passes from one job to the next.** The record is cut before the name is given away; a log is kept only if
//!   nothing was ever written to it and no process has it open any more; a working directory only if it is empty, closed
//!   to others and bears no extended attribute, and only for the same user and group. Anything unexpected in the folder,
//!   a link instead of a file, a second name of a file: not a spare.
//! - **A crash leaves a spare or an attempt, never half of each.** An attempt's directory is renamed to a spare's name
//!   before it is touched, and given away only after it was made ready. The names are of one life of one agent, and an
//!   agent throws away what it finds under such names when it starts, because it cannot know how far they came.
//! - **A spare is given away once.** Whoever loses the race for it makes a directory of his own.
//! - **Few.** At most [`MOST_SPARES`]; beyond it the oldest goes to the trash.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use crate::shim::record::{BLANK, LOG, RECORD, SCRIPT, WORK};
use crate::shim::sys;

/// Most spares that wait; a host that ends more attempts than this between two starts makes new directories.
pub(crate) const MOST_SPARES: usize = 256;
/// How the names of spares begin. No attempt's name has a dot.
pub(super) const PREFIX: &str = "spare.";

/// User and group of a working directory.
pub(crate) type Owner = (u32, u32);

/// A directory that is ready for another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    /// Its name in the folder of attempts.
    pub(crate) name: String,
    /// Whose working directory is in it; absent when there is none.
    pub(crate) owner: Option<Owner>,
}

/// The spares that wait.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// The oldest first.
    ready: VecDeque<Spare>,
}

impl Spares {
    /// Adds a spare; returns the one that is too many.
    pub(crate) fn add(&mut self, spare: Spare) -> Option<Spare> {
        self.ready.push_back(spare);
        if self.ready.len() > MOST_SPARES {
            self.ready.pop_front()
        } else {
            None
        }
    }

    /// Takes the newest spare for an attempt of this user and group.
    pub(crate) fn take(&mut self, owner: Owner) -> Option<Spare> {
        let fits = |spare: &Spare| spare.owner.is_none_or(|own| own == owner);
        let index = self.ready.iter().rposition(fits)?;
        self.ready.remove(index)
    }
}

/// What of an attempt's directory can be used again.
pub(super) struct Reusable {
    record: File,
    owner: Option<Owner>,
    has_script: bool,
    has_log: bool,
    keep_log: bool,
}

/// Looks whether a directory can be used again, changing nothing. The attempt has ended and was forgotten.
pub(super) fn inspect(dir: &Path) -> Option<Reusable> {
    let (mut has_record, mut has_log, mut has_work, mut has_script) = (false, false, false, false);
    for entry in fs::read_dir(dir).ok()? {
        match entry.ok()?.file_name().to_str()? {
            RECORD => has_record = true,
            LOG => has_log = true,
            WORK => has_work = true,
            SCRIPT => has_script = true,
            _ => return None,
        }
    }
    let record = open_plain(&dir.join(RECORD)).ok().filter(|_| has_record)?;
    let owner = if has_work {
        Some(pristine(&dir.join(WORK)).ok()??)
    } else {
        None
    };
    let keep_log = has_log
        && open_plain(&dir.join(LOG)).is_ok_and(|log| {
            log.metadata().is_ok_and(|data| data.len() == 0) && !sys::is_open_elsewhere(&log)
        });
    Some(Reusable {
        record,
        owner,
        has_script,
        has_log,
        keep_log,
    })
}

impl Reusable {
    /// Makes the directory ready, under its spare's name. Returns whose working directory it holds.
    pub(super) fn make_ready(self, dir: &Path) -> io::Result<Option<Owner>> {
        self.record.write_all_at(BLANK, 0)?;
        self.record.set_len(BLANK.len() as u64)?;
        if self.has_log && !self.keep_log {
            fs::remove_file(dir.join(LOG))?;
        }
        if self.has_script {
            fs::remove_file(dir.join(SCRIPT))?;
        }
        Ok(self.owner)
    }
}

/// Opens a regular file that has no other name.
fn open_plain(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let data = file.metadata()?;
    if data.is_file() && data.nlink() == 1 {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// The owner of a working directory that is as if it had just been made for him.
fn pristine(path: &Path) -> io::Result<Option<Owner>> {
    let dir = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY)
        .open(path)?;
    let data = dir.metadata()?;
    let mut attributes = [0; 1];
    // A list that does not fit, or a file system that has none and says so, is told by an error.
    let has_attributes = match rustix::fs::flistxattr(&dir, &mut attributes[..]) {
        Ok(length) => length > 0,
        Err(rustix::io::Errno::NOTSUP) => false,
        Err(_) => true,
    };
    if data.mode() & 0o7777 != 0o700 || has_attributes {
        return Ok(None);
    }
    let is_empty = fs::read_dir(path)?.next().is_none();
    Ok(is_empty.then_some((data.uid(), data.gid())))
}

#[cfg(test)]
#[path = "spares_tests.rs"]
mod tests;
