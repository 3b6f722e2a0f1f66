//! The bytes of the journal: a header at the start of each segment, and a frame for each batch.
//!
//! ```text
//! header: magic 8 | checksum 4 | version 4 | number 8 | salt 16
//! frame:  magic 4 | checksum 4 | salt 16 | sequence 8 | after 8 | payload length 4 | payload
//! payload: records 4 | removals 4 | floors length 4
//!          { length 4 | record }  { revision 8 | bytes 4 }  floors as JSON
//! ```
//! Integers are big endian; a checksum (CRC-32) covers what follows it. Header and frames begin on
//! whole blocks, so that no write ever touches a block that was acknowledged before.
//!
//! The salt is drawn anew each time a segment is begun. What an earlier use left in the file, or what
//! somebody wrote into an object to look like a frame, does not carry it and is no frame.

use bytes::Bytes;

use crate::store::{
    Batch, Floors, Removal, Revision,
    record::{self, DecodeError},
};

/// Frames begin at multiples of this, in bytes. Chosen: no block device in use writes larger blocks.
pub(in crate::store) const BLOCK: usize = 4096;

const SEGMENT_MAGIC: [u8; 8] = *b"gctlseg\n";
const FRAME_MAGIC: [u8; 4] = *b"gjf\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
const FRAME_BYTES: usize = 44;
const COUNTS_BYTES: usize = 12;

/// What tells the frames of one use of a segment from everything else.
pub(super) type Salt = [u8; 16];

/// A batch with its place in the journal.
#[derive(Clone, Debug)]
pub(in crate::store) struct Frame {
    /// Consecutive over the life of the store.
    pub(in crate::store) sequence: u64,
    /// What was committed.
    pub(in crate::store) batch: Batch,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The frames that are whole, in the order in which they were written.
    pub(super) frames: Vec<Frame>,
    /// The highest sequence that a frame has, whole or not; 0 where there is none.
    pub(super) highest: u64,
}

/// Why a segment cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SegmentError {
    /// It does not begin with a header.
    #[error("it has no valid header")]
    Header,
    /// It was written by a later version.
    #[error("its format {0} is not known to this version")]
    Version(u32),
    /// A frame is whole, and what it holds is not a batch.
    #[error("batch {sequence}: {source}")]
    Batch {
        sequence: u64,
        #[source]
        source: DecodeError,
    },
}

/// A buffer whose content begins on a whole block in memory too, as direct writes want it.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Empties it and makes room for `len` bytes.
    fn begin(&mut self, len: usize) {
        self.bytes.clear();
        self.bytes.reserve(len + 2 * BLOCK);
        self.start = self.bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        self.bytes.resize(self.start, 0);
    }

    /// Fills the last block up with zeros.
    fn finish(&mut self) {
        let len = (self.bytes.len() - self.start).next_multiple_of(BLOCK);
        self.bytes.resize(self.start + len, 0);
    }

    /// The content: whole blocks.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// The first block of a segment.
pub(super) fn encode_header(number: u64, salt: &Salt, buffer: &mut Buffer) {
    buffer.begin(BLOCK);
    let out = &mut buffer.bytes;
    out.extend_from_slice(&SEGMENT_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(salt);
    seal(&mut out[buffer.start..], SEGMENT_MAGIC.len());
    buffer.finish();
}

/// Nothing, over `len` bytes.
pub(super) fn encode_zeros(len: usize, buffer: &mut Buffer) {
    buffer.begin(len);
    let end = buffer.start + len;
    buffer.bytes.resize(end, 0);
    buffer.finish();
}

/// A batch as a frame of whole blocks.
pub(super) fn encode_frame(
    salt: &Salt,
    sequence: u64,
    batch: &Batch,
    buffer: &mut Buffer,
) -> Result<(), serde_json::Error> {
    let floors = match &batch.floors {
        Some(floors) => serde_json::to_vec(floors)?,
        None => Vec::new(),
    };
    let record_len = |record: &record::Record| record::encoded_len(&record.key, record.body.len());
    let records: usize = batch.records.iter().map(|one| 4 + record_len(one)).sum();
    let payload = COUNTS_BYTES + records + 12 * batch.removals.len() + floors.len();
    buffer.begin(FRAME_BYTES + payload);
    let out = &mut buffer.bytes;
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(salt);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&batch.after.to_be_bytes());
    for n in [
        payload,
        batch.records.len(),
        batch.removals.len(),
        floors.len(),
    ] {
        out.extend_from_slice(&short(n));
    }
    for one in &batch.records {
        out.extend_from_slice(&short(record_len(one)));
        record::encode(one, out);
    }
    for Removal { revision, bytes } in &batch.removals {
        out.extend_from_slice(&revision.to_be_bytes());
        out.extend_from_slice(&short(*bytes));
    }
    out.extend_from_slice(&floors);
    seal(&mut out[buffer.start..], FRAME_MAGIC.len());
    buffer.finish();
    Ok(())
}

fn short(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

fn seal(bytes: &mut [u8], at: usize) {
    let checksum = crc32fast::hash(&bytes[at + 4..]);
    bytes[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
}

/// The number and the salt of a segment.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(u64, Salt), SegmentError> {
    let mut reader = Reader(bytes.get(..HEADER_BYTES).ok_or(SegmentError::Header)?);
    let mut read = || -> Result<(u64, Salt), DecodeError> {
        let (magic, checksum) = (reader.take::<8>()?, reader.number()?);
        let sealed = magic == SEGMENT_MAGIC && crc32fast::hash(reader.0) == checksum;
        let version = reader.number()?;
        match (sealed, version) {
            (true, VERSION) => Ok((reader.long()?, reader.take()?)),
            (true, _) => Err(DecodeError::Version(
                u8::try_from(version).unwrap_or(u8::MAX),
            )),
            (false, _) => Err(DecodeError::Malformed),
        }
    };
    read().map_err(|error| match error {
        DecodeError::Version(version) => SegmentError::Version(version.into()),
        DecodeError::Malformed => SegmentError::Header,
    })
}

/// Reads a segment. What is not whole is stepped over, because the database may have it.
pub(super) fn scan(bytes: &Bytes, salt: &Salt) -> Result<Scan, SegmentError> {
    let mut scan = Scan::default();
    let mut at = BLOCK;
    while at < bytes.len() {
        let Some(head) = Head::read(bytes, at, salt) else {
            at += BLOCK;
            continue;
        };
        let sequence = head.sequence;
        scan.highest = scan.highest.max(sequence);
        let Some(payload) = head.payload(bytes, at) else {
            at += BLOCK;
            continue;
        };
        let batch = decode_batch(head.after, &payload)
            .map_err(|source| SegmentError::Batch { sequence, source })?;
        scan.frames.push(Frame { sequence, batch });
        at += (FRAME_BYTES + head.length).next_multiple_of(BLOCK);
    }
    Ok(scan)
}

struct Head {
    checksum: u32,
    sequence: u64,
    after: Revision,
    length: usize,
}

impl Head {
    /// The fixed part of the frame at `at`, if one of this use of the segment begins there.
    fn read(bytes: &[u8], at: usize, salt: &Salt) -> Option<Self> {
        let mut reader = Reader(bytes.get(at..at + FRAME_BYTES)?);
        let magic = reader.take::<4>().ok()?;
        let checksum = reader.number().ok()?;
        if magic != FRAME_MAGIC || reader.take::<16>().ok()? != *salt {
            return None;
        }
        Some(Self {
            checksum,
            sequence: reader.long().ok()?,
            after: reader.long().ok()?,
            length: reader.number().ok()? as usize,
        })
    }

    /// Its payload, if the frame is whole.
    fn payload(&self, bytes: &Bytes, at: usize) -> Option<Bytes> {
        let end = at + FRAME_BYTES + self.length;
        let sealed = bytes.get(at + FRAME_MAGIC.len() + 4..end)?;
        (crc32fast::hash(sealed) == self.checksum).then(|| bytes.slice(at + FRAME_BYTES..end))
    }
}

fn decode_batch(after: Revision, payload: &Bytes) -> Result<Batch, DecodeError> {
    let mut reader = Reader(payload);
    let [records, removals, floors] = [reader.number()?, reader.number()?, reader.number()?];
    let mut batch = Batch {
        after,
        ..Batch::default()
    };
    for n in 1..=u64::from(records) {
        let len = reader.number()? as usize;
        let start = payload.len() - reader.0.len();
        reader.skip(len)?;
        let bytes = payload.slice(start..start + len);
        batch.records.push(record::decode(after + n, &bytes)?);
    }
    for _ in 0..removals {
        let (revision, bytes) = (reader.long()?, reader.number()? as usize);
        batch.removals.push(Removal { revision, bytes });
    }
    if floors > 0 {
        let json: Floors = serde_json::from_slice(reader.0).map_err(|_| DecodeError::Malformed)?;
        batch.floors = Some(json);
    }
    Ok(batch)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn skip(&mut self, len: usize) -> Result<(), DecodeError> {
        self.0 = self.0.get(len..).ok_or(DecodeError::Malformed)?;
        Ok(())
    }

    fn number(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_be_bytes)
    }
}
