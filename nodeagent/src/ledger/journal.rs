//! The journal of ends: one file that is written in order and synced once for a whole group.
//!
//! A shim writes its record without syncing, so a record survives every kill but not a power cut. Before an end is
//! reported it is written here and synced, so what the server was told is also known after a power cut. One sync a
//! group instead of one a job is what lets a host end a thousand jobs a second.
//!
//! The file is filled with zeros beforehand, so that a sync writes its own data only and does not make the file system
//! commit everything else that happened meanwhile, the directories of new attempts among it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attempt::{AttemptId, Ended};

/// Length of the file; when it is full it is rewritten with what is still held.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Entry {
    id: AttemptId,
    /// Absent: the attempt is forgotten.
    ended: Option<Ended>,
}

/// The open journal.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next line goes.
    length: u64,
    /// Length of the file, zeros included.
    room: u64,
    held: BTreeMap<AttemptId, Ended>,
}

impl Journal {
    /// Opens the journal and reads what it holds; a torn last line does not count.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut held = BTreeMap::new();
        // Zeros follow the last line.
        let end = bytes.iter().position(|byte| *byte == 0);
        let written = &bytes[..end.unwrap_or(bytes.len())];
        for line in written.split(|byte| *byte == b'\n') {
            if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
                match entry.ended {
                    Some(ended) => held.insert(entry.id, ended),
                    None => held.remove(&entry.id),
                };
            }
        }
        let mut journal = Self {
            path: path.to_owned(),
            file: open(path)?,
            length: 0,
            room: 0,
            held,
        };
        journal.rewrite()?;
        Ok(journal)
    }

    /// The ends that are held.
    pub(crate) fn held(&self) -> &BTreeMap<AttemptId, Ended> {
        &self.held
    }

    /// Writes a group of ends and makes them durable.
    pub(crate) fn append(&mut self, group: &[(AttemptId, Ended)]) -> io::Result<()> {
        let bytes = lines(group.iter().map(|(id, ended)| (id, Some(ended))))?;
        self.held.extend(group.iter().cloned());
        if self.write(&bytes)? {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Drops ends that are safe elsewhere. Not synced: one that comes back after a power cut is dropped again.
    pub(crate) fn forget(&mut self, ids: &BTreeSet<AttemptId>) -> io::Result<()> {
        self.held.retain(|id, _| !ids.contains(id));
        let bytes = lines(ids.iter().map(|id| (id, None)))?;
        self.write(&bytes).map(drop)
    }

    /// Writes lines, or the whole file anew where they have no room; true when a sync is still to be made.
    fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let end = self.length + bytes.len() as u64;
        if end > self.room {
            self.rewrite()?;
            return Ok(false);
        }
        self.file.write_all_at(bytes, self.length)?;
        self.length = end;
        Ok(true)
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = open(&new)?;
        let bytes = lines(self.held.iter().map(|(id, ended)| (id, Some(ended))))?;
        let length = bytes.len() as u64;
        let room = FILE_BYTES.max(2 * length);
        file.write_all(&bytes)?;
        io::copy(&mut io::repeat(0).take(room - length), &mut file)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = file;
        self.length = length;
        self.room = room;
        Ok(())
    }
}

fn lines<'a>(
    entries: impl Iterator<Item = (&'a AttemptId, Option<&'a Ended>)>,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (id, ended) in entries {
        let entry = Entry {
            id: id.clone(),
            ended: ended.cloned(),
        };
        serde_json::to_writer(&mut bytes, &entry)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(uid: &str, code: i32) -> (AttemptId, Ended) {
        let id = AttemptId {
            uid: uid.to_owned(),
            attempt: 1,
        };
        let ended = Ended {
            code: Some(code),
            ..Ended::default()
        };
        (id, ended)
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("ends.journal");
        let mut journal = Journal::open(&path).expect("a fresh file");
        journal
            .append(&[end("a", 0), end("b", 3)])
            .expect("writable");
        drop(journal);
        let mut bytes = fs::read(&path).expect("readable");
        let from = bytes.iter().position(|byte| *byte == 0).expect("zeros");
        let torn = b"{\"id\":{\"uid\":\"c\"";
        bytes[from..from + torn.len()].copy_from_slice(torn);
        fs::write(&path, bytes).expect("writable");
        let journal = Journal::open(&path).expect("readable");
        let held: Vec<_> = journal.held().clone().into_iter().collect();
        assert_eq!(held, [end("a", 0), end("b", 3)]);
    }

    #[test]
    fn a_long_journal_is_rewritten_with_what_is_still_held() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("ends.journal");
        let mut journal = Journal::open(&path).expect("a fresh file");
        let (id, mut ended) = end("big", 1);
        ended.start_error = Some("x".repeat(1024 * 1024));
        for _ in 0..5 {
            journal
                .forget(&BTreeSet::from([id.clone()]))
                .expect("writable");
            journal
                .append(&[(id.clone(), ended.clone())])
                .expect("writable");
        }
        let length = fs::metadata(&path).expect("it is there").len();
        assert_eq!(length, FILE_BYTES);
        let reopened = Journal::open(&path).expect("readable");
        assert_eq!(reopened.held().get(&id), Some(&ended));
    }
}
