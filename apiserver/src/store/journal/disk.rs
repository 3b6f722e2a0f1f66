//! The files of the journal, behind a seam: tests put a disk there that forgets what was not synced.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
};

use rustix::fs::OFlags;

use super::frame::BLOCK;

/// A flat folder.
pub(in crate::store) trait Disk: Send + Sync {
    /// The names of the files in it.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a file for writing, making it where it is missing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// The content of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Gives a file another name; may be undone by a power cut until [`Disk::sync_names`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; may be undone by a power cut until [`Disk::sync_names`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes what was renamed and removed survive a power cut.
    fn sync_names(&self) -> io::Result<()>;
}

/// An open file.
pub(in crate::store) trait DiskFile: Send + Sync {
    /// Writes whole blocks from a whole block on; they survive a power cut once this returns.
    fn write_durably(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// How long the file is.
    fn size(&self) -> io::Result<u64>;
}

/// A folder of the file system.
pub(in crate::store) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder, making it where it is missing.
    pub(in crate::store) fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { path })
    }
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let buffered = options.open(&path)?;
        let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
        let direct = options.custom_flags(flags.cast_signed()).open(&path).ok();
        Ok(Box::new(Plain { buffered, direct }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

struct Plain {
    buffered: File,
    /// The same file past the page cache, each write durable when it returns: a quarter faster than a
    /// write and an fdatasync. None where the file system cannot do it.
    direct: Option<File>,
}

impl DiskFile for Plain {
    fn write_durably(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            match write_once(direct, bytes, at) {
                // Alignment or file system do not suit: the other way suits always.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                done => return done,
            }
        }
        self.buffered.write_all_at(bytes, at)?;
        self.buffered.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.buffered.metadata().map(|metadata| metadata.len())
    }
}

/// Like `write_all_at`, but a rest that is no whole block is not tried: a full disk leaves one.
fn write_once(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let written = file.write_at(bytes, at)?;
    match bytes.get(written..) {
        Some([]) | None => Ok(()),
        Some(_) if written % BLOCK != 0 || written == 0 => Err(io::ErrorKind::StorageFull.into()),
        Some(rest) => write_once(file, rest, at + written as u64),
    }
}
