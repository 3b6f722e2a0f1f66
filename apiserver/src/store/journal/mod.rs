//! The commit log in front of the database: one durable write a batch, and nothing else.
//!
//! ```text
//! journal/segment-00000000000000000007   a header, then frames (see `frame`)
//! journal/spare-00000000000000000005     a segment whose batches the database has, to be used again
//! journal/unfinished                     a segment in the making
//! ```
//!
//! # Guarantees
//! - **A batch is on disk when [`Journal::append`] returns.** Its blocks are written ahead with zeros and
//!   used again and again, so the write changes neither the file's size nor its extents, and the file
//!   system has nothing of its own to commit with it.
//! - **A segment is given up only when told that the database has all of its batches on disk.**
//! - **A start begins a segment of its own**, so that what a crash left half written is never written over.
//! - **A last frame that is not whole was never acknowledged** and is dropped; one with others behind it
//!   was, and is damage.
//! - Running out of space for what is only prepared is no error; what exists is used as long as it lasts.
//!
//! # Assumptions
//! One thread appends. The lag of the database is bounded by the caller, and so is the number of segments.

mod disk;
mod frame;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

pub(super) use disk::{Disk, DiskFile, Folder};
pub(super) use frame::{BLOCK, Frame};
use frame::{Buffer, Salt, encode_frame, encode_header};

use super::Batch;

const SEGMENT: &str = "segment-";
const SPARE: &str = "spare-";
const UNFINISHED: &str = "unfinished";
/// Segments kept for further use, beside the one that is prepared. Chosen: one is given up while the
/// next is written.
const SPARES: usize = 1;

/// How the journal is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Bytes after which a segment is followed by another; the last batch may go beyond.
    pub(super) segment: u64,
    /// Bytes that are written ahead at a time.
    pub(super) step: u64,
}

impl Default for Sizes {
    /// Chosen: a segment holds what the database takes over at a time several times; a step costs a few
    /// milliseconds of the disk and lasts for as long as one takes.
    fn default() -> Self {
        Self {
            segment: 16 << 20,
            step: 1 << 20,
        }
    }
}

/// Why the journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("failed to {action} the store")]
    Io {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Damaged(String),
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| JournalError::Io { action, source }
}

/// What a journal held when it was opened.
pub(super) struct Found {
    /// The batches that the database does not have, in order and without gaps.
    pub(super) frames: Vec<Frame>,
    last_number: u64,
    names: Vec<String>,
}

/// Reads the journal; changes nothing. `applied` is the last sequence that the database has.
///
/// # Errors
/// [`JournalError::Damaged`] when batches that were acknowledged are missing or cannot be read.
pub(super) fn read(disk: &dyn Disk, applied: u64) -> Result<Found, JournalError> {
    let names = disk.names().map_err(failed("list the journal of"))?;
    let numbered = |name: &String| Some((number_of(name, SEGMENT)?, name.clone()));
    let mut segments: Vec<(u64, String)> = names.iter().filter_map(numbered).collect();
    segments.sort();
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = applied + 1;
    let mut highest = 0;
    for (number, name) in &segments {
        let damaged =
            |what: String| JournalError::Damaged(format!("journal file `{name}`: {what}"));
        let bytes = Bytes::from(disk.read(name).map_err(failed("read the journal of"))?);
        let (written, salt) =
            frame::decode_header(&bytes).map_err(|error| damaged(error.to_string()))?;
        if written != *number {
            return Err(damaged(format!("it is number {written} by its header")));
        }
        let scan = frame::scan(&bytes, &salt).map_err(|error| damaged(error.to_string()))?;
        highest = highest.max(scan.highest);
        for frame in scan.frames {
            if frame.sequence > next {
                return Err(damaged(missing(next, frame.sequence)));
            }
            if frame.sequence == next {
                next += 1;
                frames.push(frame);
            }
        }
    }
    // A frame is written only once the one before it is on disk: only the last may be torn.
    if highest > next {
        return Err(JournalError::Damaged(missing(next, highest)));
    }
    Ok(Found {
        frames,
        last_number: segments.last().map_or(0, |(number, _)| *number),
        names,
    })
}

fn missing(from: u64, found: u64) -> String {
    format!("batch {from} was acknowledged and cannot be read, though batch {found} is there")
}

fn number_of(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

fn numbered(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:020}")
}

/// Removes what is only kept for further use, to make room on a full disk.
pub(super) fn release_spares(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.names()? {
        if number_of(&name, SPARE).is_some() || name == UNFINISHED {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

/// An open journal.
pub(super) struct Journal {
    disk: Box<dyn Disk>,
    sizes: Sizes,
    writer: Mutex<Writer>,
    /// Taken after `writer` by who needs both.
    files: Mutex<Files>,
}

struct Writer {
    active: Arc<Segment>,
    sequence: u64,
    buffer: Buffer,
}

/// The segments that are not written to.
struct Files {
    active: Arc<Segment>,
    next: Option<Arc<Segment>>,
    last_number: u64,
    /// Oldest first, with the last sequence in each.
    sealed: VecDeque<(Arc<Segment>, u64)>,
    spares: Vec<String>,
}

struct Segment {
    number: u64,
    salt: Salt,
    file: Box<dyn DiskFile>,
    /// Where the next frame begins.
    position: AtomicU64,
    /// Up to where the file's blocks are written. Raised by who holds `extending`.
    written: AtomicU64,
    extending: Mutex<()>,
}

impl Journal {
    /// Begins a new segment, once the database has everything of [`Found`] on disk. `sequence` is the
    /// last one that it has.
    pub(super) fn start(
        disk: Box<dyn Disk>,
        sizes: Sizes,
        found: Found,
        sequence: u64,
    ) -> Result<Self, JournalError> {
        let mut last_number = found.last_number;
        let mut spares = Vec::new();
        for name in found.names {
            if number_of(&name, SPARE).is_some() && spares.len() < SPARES {
                spares.push(name);
            } else if let Some(number) = number_of(&name, SEGMENT)
                && spares.len() < SPARES
            {
                let spare = numbered(SPARE, number);
                disk.rename(&name, &spare)
                    .map_err(failed("rename a file of the journal of"))?;
                spares.push(spare);
            } else if name.starts_with(SPARE) || name.starts_with(SEGMENT) {
                disk.remove(&name)
                    .map_err(failed("remove a file of the journal of"))?;
            }
        }
        disk.sync_names().map_err(failed("sync the journal of"))?;
        last_number += 1;
        let active = make(&*disk, sizes, last_number, spares.pop())?;
        let writer = Writer {
            active: Arc::clone(&active),
            sequence,
            buffer: Buffer::default(),
        };
        let files = Files {
            active,
            next: None,
            last_number,
            sealed: VecDeque::new(),
            spares,
        };
        Ok(Self {
            disk,
            sizes,
            writer: Mutex::new(writer),
            files: Mutex::new(files),
        })
    }

    /// Makes a batch durable, and says which sequence it got, and whether [`Journal::prepare`] has
    /// something to do.
    ///
    /// # Errors
    /// Afterwards the batch may or may not be there when the journal is read again, and nothing more may
    /// be appended.
    pub(super) fn append(&self, batch: &Batch) -> Result<(u64, bool), JournalError> {
        let mut writer = self.writer.lock();
        if writer.active.position.load(Ordering::Relaxed) >= self.sizes.segment {
            self.turn(&mut writer)?;
        }
        let Writer {
            active,
            sequence,
            buffer,
        } = &mut *writer;
        encode_frame(&active.salt, *sequence + 1, batch, buffer)
            .map_err(|error| failed("encode a batch for the journal of")(error.into()))?;
        let (bytes, at) = (buffer.bytes(), active.position.load(Ordering::Relaxed));
        let end = at + bytes.len() as u64;
        let beyond = end > active.written.load(Ordering::Acquire);
        let extending = beyond.then(|| active.extending.lock());
        active
            .file
            .write_durably(bytes, at)
            .map_err(failed("append to the journal of"))?;
        if extending.is_some() {
            active.written.fetch_max(end, Ordering::Release);
        }
        drop(extending);
        active.position.store(end, Ordering::Release);
        *sequence += 1;
        let soon = active.written.load(Ordering::Relaxed)
            < self.sizes.segment.min(end + self.sizes.step / 2);
        let crossed = at / self.sizes.step != end / self.sizes.step;
        Ok((*sequence, soon || crossed))
    }

    /// Goes on in the next segment.
    fn turn(&self, writer: &mut Writer) -> Result<(), JournalError> {
        let mut files = self.files.lock();
        let next = match files.next.take() {
            Some(next) => next,
            None => self.make_next(&mut files)?,
        };
        let full = std::mem::replace(&mut writer.active, Arc::clone(&next));
        files.active = next;
        files.sealed.push_back((full, writer.sequence));
        Ok(())
    }

    fn make_next(&self, files: &mut Files) -> Result<Arc<Segment>, JournalError> {
        let spare = files.spares.pop();
        let next = make(&*self.disk, self.sizes, files.last_number + 1, spare)?;
        files.last_number += 1;
        Ok(next)
    }

    /// Writes ahead what soon will be needed; called beside the writer. That there is no space for it
    /// is no error.
    pub(super) fn prepare(&self) -> Result<(), JournalError> {
        let active = {
            let mut files = self.files.lock();
            let half = files.active.position.load(Ordering::Acquire) >= self.sizes.segment / 2;
            if files.next.is_none() && half {
                let next = self.make_next(&mut files)?;
                files.next = Some(next);
            }
            Arc::clone(&files.active)
        };
        // Two steps ahead, so that there is one left while the next is written.
        loop {
            let _extending = active.extending.lock();
            let written = active.written.load(Ordering::Acquire);
            let wanted = active.position.load(Ordering::Acquire) + 2 * self.sizes.step;
            if written >= wanted.min(self.sizes.segment) {
                return Ok(());
            }
            zero(&*active.file, written, self.sizes.step)?;
            active
                .written
                .store(written + self.sizes.step, Ordering::Release);
        }
    }

    /// Gives up the segments whose batches the database has on disk, all up to `sequence`.
    pub(super) fn reclaim(&self, sequence: u64) -> Result<(), JournalError> {
        let mut files = self.files.lock();
        let mut renamed = false;
        while files
            .sealed
            .front()
            .is_some_and(|(_, last)| *last <= sequence)
        {
            let Some((segment, _)) = files.sealed.pop_front() else {
                break;
            };
            let name = numbered(SEGMENT, segment.number);
            if files.spares.len() < SPARES {
                let spare = numbered(SPARE, segment.number);
                let done = self.disk.rename(&name, &spare);
                done.map_err(failed("rename a file of the journal of"))?;
                files.spares.push(spare);
            } else {
                self.disk
                    .remove(&name)
                    .map_err(failed("remove a file of the journal of"))?;
            }
            renamed = true;
        }
        if renamed {
            self.disk
                .sync_names()
                .map_err(failed("sync the journal of"))?;
        }
        Ok(())
    }

    /// The bytes that its files take.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let files = self.files.lock();
        let segments = files.sealed.iter().map(|(segment, _)| segment);
        let known = segments.chain([&files.active]).chain(&files.next);
        let spares = files.spares.len() as u64 * self.sizes.segment;
        spares
            + known
                .map(|segment| segment.written.load(Ordering::Relaxed))
                .sum::<u64>()
    }
}

/// Makes a segment, out of a spare one if there is one: it gets its name once its header is on disk.
fn make(
    disk: &dyn Disk,
    sizes: Sizes,
    number: u64,
    spare: Option<String>,
) -> Result<Arc<Segment>, JournalError> {
    let name = spare.unwrap_or_else(|| UNFINISHED.to_owned());
    let file = disk
        .open(&name)
        .map_err(failed("open a file of the journal of"))?;
    let mut written = file
        .size()
        .map_err(failed("measure a file of the journal of"))?;
    written -= written % BLOCK as u64;
    if name == UNFINISHED {
        written = 0;
    }
    let salt: Salt = rand::random();
    let mut header = Buffer::default();
    encode_header(number, &salt, &mut header);
    if written == 0 {
        zero(&*file, 0, sizes.step)?;
        written = sizes.step;
    }
    file.write_durably(header.bytes(), 0)
        .map_err(failed("begin a file of the journal of"))?;
    disk.rename(&name, &numbered(SEGMENT, number))
        .map_err(failed("name a file of the journal of"))?;
    disk.sync_names().map_err(failed("sync the journal of"))?;
    Ok(Arc::new(Segment {
        number,
        salt,
        file,
        position: AtomicU64::new(BLOCK as u64),
        written: AtomicU64::new(written),
        extending: Mutex::new(()),
    }))
}

fn zero(file: &dyn DiskFile, from: u64, len: u64) -> Result<(), JournalError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let mut zeros = Buffer::default();
    frame::encode_zeros(len, &mut zeros);
    file.write_durably(zeros.bytes(), from)
        .map_err(failed("write ahead in the journal of"))
}

#[cfg(test)]
pub(super) mod simulated;
#[cfg(test)]
mod tests;
