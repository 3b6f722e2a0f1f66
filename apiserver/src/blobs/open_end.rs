//! The open end of a stream: an append file on the local disk, or bytes in memory for simulation.
//!
//! Blocking file work runs on tokio's blocking pool; the in-memory form never leaves the task.

use std::cmp::Ordering;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{BlobError, StreamId};

/// The parts of an open file's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OpenName {
    pub(super) stream: String,
    pub(super) attempt: u32,
    pub(super) start: u64,
}

impl OpenName {
    fn parse(name: &str) -> Option<Self> {
        let (rest, start) = name.rsplit_once('.')?;
        let (stream, attempt) = rest.rsplit_once('.')?;
        Some(Self {
            stream: stream.to_owned(),
            attempt: attempt.parse().ok()?,
            start: start.parse().ok()?,
        })
    }
}

/// Where the bytes behind the sealed chunks are.
#[derive(Debug)]
pub(super) enum OpenEnd {
    /// Nothing was appended since the last seal.
    Empty,
    Memory(BytesMut),
    File(OpenFile),
}

/// An append file. The handle is shared with the task that syncs it.
#[derive(Debug, Clone)]
pub(super) struct OpenFile {
    pub(super) file: Arc<File>,
    pub(super) path: Arc<Path>,
    pub(super) len: u64,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| BlobError::Cancelled)?
}

fn at(path: &Path) -> impl Fn(io::Error) -> BlobError + '_ {
    move |source| BlobError::File {
        path: path.to_owned(),
        source,
    }
}

fn file_path(folder: &Path, id: &StreamId, start: u64) -> PathBuf {
    let name = format!("{}.{}.{start:020}", id.stream, id.attempt);
    folder.join(&*id.resource).join(&*id.uid).join(name)
}

/// The open files of one object; a folder that does not exist has none.
pub(super) async fn list(folder: PathBuf) -> Result<Vec<OpenName>, BlobError> {
    blocking(move || {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(&folder)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at(&folder))?;
            names.extend(entry.file_name().to_str().and_then(OpenName::parse));
        }
        Ok(names)
    })
    .await
}

/// Removes an object's folder of open files.
pub(super) async fn remove_folder(folder: PathBuf) -> Result<(), BlobError> {
    blocking(move || match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&folder)(error)),
        _ => Ok(()),
    })
    .await
}

impl OpenEnd {
    /// Opens what a former process left at `start`, and removes files whose bytes are sealed already.
    pub(super) async fn recover(
        folder: &Path,
        id: &StreamId,
        start: u64,
    ) -> Result<Self, BlobError> {
        let (folder, id) = (folder.to_owned(), id.clone());
        let names = list(folder.join(&*id.resource).join(&*id.uid)).await?;
        let ours: Vec<u64> = names
            .into_iter()
            .filter(|name| *name.stream == *id.stream && name.attempt == id.attempt)
            .map(|name| name.start)
            .collect();
        blocking(move || {
            let mut end = OpenEnd::Empty;
            for found in ours {
                let path = file_path(&folder, &id, found);
                match found.cmp(&start) {
                    Ordering::Equal => {
                        end = OpenEnd::File(OpenFile::open(&path, false).map_err(at(&path))?);
                    }
                    Ordering::Less => fs::remove_file(&path).map_err(at(&path))?,
                    Ordering::Greater => {
                        return Err(BlobError::Damaged(format!(
                            "bytes {start} to {found} are missing"
                        )));
                    }
                }
            }
            Ok(end)
        })
        .await
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.len,
        }
    }

    /// Makes an empty end real, so that the stream exists.
    pub(super) async fn create(
        &mut self,
        folder: Option<&Path>,
        id: &StreamId,
        start: u64,
    ) -> Result<(), BlobError> {
        if !matches!(self, Self::Empty) {
            return Ok(());
        }
        *self = match folder {
            None => Self::Memory(BytesMut::new()),
            Some(folder) => {
                let path = file_path(folder, id, start);
                Self::File(blocking(move || OpenFile::open(&path, true).map_err(at(&path))).await?)
            }
        };
        Ok(())
    }

    /// Writes bytes at the end. A write that fails half way is taken back.
    pub(super) async fn append(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        match self {
            Self::Empty => Err(BlobError::Damaged(
                "appended to an end that was never created".to_owned(),
            )),
            Self::Memory(memory) => {
                memory.extend_from_slice(&bytes);
                Ok(())
            }
            Self::File(open) => {
                let file = open.clone();
                let grown = bytes.len() as u64;
                blocking(move || {
                    file.file.write_all_at(&bytes, file.len).map_err(|error| {
                        // If this fails too, the file has a tail that the next append overwrites.
                        let _ = file.file.set_len(file.len);
                        at(&file.path)(error)
                    })
                })
                .await?;
                open.len += grown;
                Ok(())
            }
        }
    }

    /// Reads from a position within the end.
    pub(super) async fn read(&self, from: u64, length: u64) -> Result<Bytes, BlobError> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            Self::Memory(memory) => {
                let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(memory.len());
                Ok(Bytes::copy_from_slice(
                    &memory[index(from)..index(from.saturating_add(length))],
                ))
            }
            Self::File(open) => {
                let file = open.clone();
                let length = length.min(file.len.saturating_sub(from));
                blocking(move || {
                    let size = usize::try_from(length)
                        .map_err(|_| BlobError::Damaged("an open end is too long".to_owned()))?;
                    let mut bytes = vec![0; size];
                    file.file
                        .read_exact_at(&mut bytes, from)
                        .map_err(at(&file.path))?;
                    Ok(Bytes::from(bytes))
                })
                .await
            }
        }
    }

    /// Cuts the end back to a length, after a sync that failed.
    pub(super) async fn truncate(&mut self, length: u64) -> Result<(), BlobError> {
        if let Self::File(open) = self
            && length < open.len
        {
            let file = open.clone();
            blocking(move || file.file.set_len(length).map_err(at(&file.path))).await?;
            open.len = length;
        }
        Ok(())
    }

    /// Removes the file after its bytes were sealed.
    pub(super) async fn discard(&mut self) -> Result<(), BlobError> {
        if let Self::File(open) = std::mem::replace(self, Self::Empty) {
            blocking(move || fs::remove_file(&open.path).map_err(at(&open.path))).await?;
        }
        Ok(())
    }
}

impl OpenFile {
    fn open(path: &Path, create: bool) -> io::Result<Self> {
        if create && let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            file: Arc::new(file),
            path: path.into(),
            len,
        })
    }

    /// Makes bytes and name durable. The name needs its folder, and that one's, synced too.
    pub(super) fn sync(&self, with_name: bool) -> io::Result<()> {
        self.file.sync_data()?;
        if with_name {
            for folder in self.path.ancestors().skip(1).take(3) {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_open_files_are_read_back() {
        let name = OpenName::parse("log.3.00000000000008388608").unwrap();
        assert_eq!(
            (name.stream.as_str(), name.attempt, name.start),
            ("log", 3, 8_388_608)
        );
        assert_eq!(OpenName::parse("a.b.1.0").unwrap().stream, "a.b");
        assert_eq!(OpenName::parse("log"), None);
    }
}
