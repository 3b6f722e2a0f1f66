//! One record of the log, and its layout on disk.
//!
//! ```text
//! version 1 | operation 1 | previous 8 | time 8 | rv offset 4 | body length 4 | three lengths 2 each
//! resource | namespace | name | body
//! ```
//! Integers are big endian. A record longer than [`CHUNK_BYTES`] continues in further values.

use std::sync::Arc;

use bytes::Bytes;

use super::{ObjectKey, Revision};

/// The longest value that is handed to the embedded store; larger ones could become files of their own there.
pub(super) const CHUNK_BYTES: usize = 16 * 1024;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 32;

/// What a record did to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Created or replaced it.
    Put,
    /// Deleted it; the body is its last state with the deletion's revision.
    Delete,
}

/// One object state in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The change that made it.
    pub revision: Revision,
    /// Put or delete.
    pub operation: Operation,
    /// The object.
    pub key: ObjectKey,
    /// The revision of the state it replaced; `None` for a create.
    pub previous: Option<Revision>,
    /// When it was committed, in milliseconds since 1970.
    pub time_ms: i64,
    /// Where the revision's digits lie in `body`.
    pub rv_offset: usize,
    /// The object's JSON.
    pub body: Bytes,
}

/// A record to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Its revision.
    pub revision: Revision,
    /// How many bytes it takes, see [`encoded_len`].
    pub bytes: usize,
}

/// How many bytes a record of `body_len` bytes takes in the log.
pub fn encoded_len(key: &ObjectKey, body_len: usize) -> usize {
    FIXED_BYTES + key.resource.len() + key.namespace.len() + key.name.len() + body_len
}

/// How many values a record of `bytes` bytes is split into.
pub(super) fn chunks(bytes: usize) -> usize {
    bytes.div_ceil(CHUNK_BYTES).max(1)
}

/// Why bytes are not a record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// The value was written by a later version.
    #[error("record format {0} is not known to this version")]
    Version(u8),
    /// The value ends early, or says something impossible.
    #[error("malformed record")]
    Malformed,
}

/// Appends the record's bytes to `out`.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    let key = &record.key;
    out.reserve(encoded_len(key, record.body.len()));
    out.push(VERSION);
    out.push(match record.operation {
        Operation::Put => 0,
        Operation::Delete => 1,
    });
    out.extend_from_slice(&record.previous.unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&record.time_ms.to_be_bytes());
    for n in [record.rv_offset, record.body.len()] {
        out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
    }
    for text in [&key.resource, &key.namespace, &key.name] {
        out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    }
    for text in [&key.resource, &key.namespace, &key.name] {
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&record.body);
}

/// The number of bytes of the whole record whose first value begins with `head`.
pub(super) fn declared_len(head: &[u8]) -> Result<usize, DecodeError> {
    let mut reader = Reader(head);
    let version = reader.take::<1>()?[0];
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    reader.take::<21>()?;
    let body = u32::from_be_bytes(reader.take()?) as usize;
    let mut total = FIXED_BYTES + body;
    for _ in 0..3 {
        total += usize::from(u16::from_be_bytes(reader.take()?));
    }
    Ok(total)
}

/// Reads a whole record.
pub(super) fn decode(revision: Revision, bytes: &Bytes) -> Result<Record, DecodeError> {
    if declared_len(bytes)? != bytes.len() {
        return Err(DecodeError::Malformed);
    }
    let mut reader = Reader(&bytes[1..]);
    let operation = match reader.take::<1>()?[0] {
        0 => Operation::Put,
        1 => Operation::Delete,
        _ => return Err(DecodeError::Malformed),
    };
    let previous = u64::from_be_bytes(reader.take()?);
    let time_ms = i64::from_be_bytes(reader.take()?);
    let rv_offset = u32::from_be_bytes(reader.take()?) as usize;
    let body_len = u32::from_be_bytes(reader.take()?) as usize;
    let mut lens = [0; 3];
    for len in &mut lens {
        *len = usize::from(u16::from_be_bytes(reader.take()?));
    }
    let mut texts: [Arc<str>; 3] = Default::default();
    for (text, len) in texts.iter_mut().zip(lens) {
        *text = reader.text(len)?.into();
    }
    let [resource, namespace, name] = texts;
    Ok(Record {
        revision,
        operation,
        key: ObjectKey {
            resource,
            namespace,
            name,
        },
        previous: (previous != 0).then_some(previous),
        time_ms,
        rv_offset,
        body: bytes.slice(bytes.len() - body_len..),
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn text(&mut self, len: usize) -> Result<&'a str, DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        std::str::from_utf8(head).map_err(|_| DecodeError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_survives_its_encoding(
            delete: bool,
            previous in proptest::option::of(1_u64..),
            time_ms: i64,
            rv_offset in 0_usize..100_000,
            names in ["[a-z.]{1,40}", "[a-z]{0,20}", "\\PC{1,30}"],
            body in proptest::collection::vec(any::<u8>(), 0..50_000),
        ) {
            let [resource, namespace, name] = names;
            let record = Record {
                revision: 7,
                operation: if delete { Operation::Delete } else { Operation::Put },
                key: ObjectKey::new(resource, namespace, name),
                previous,
                time_ms,
                rv_offset,
                body: body.into(),
            };
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            prop_assert_eq!(bytes.len(), encoded_len(&record.key, record.body.len()));
            prop_assert_eq!(declared_len(&bytes[..bytes.len().min(CHUNK_BYTES)]), Ok(bytes.len()));
            prop_assert_eq!(decode(7, &bytes.into()), Ok(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(1, &bytes.into());
        }
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        assert_eq!(
            decode(1, &Bytes::from(vec![9; 64])),
            Err(DecodeError::Version(9))
        );
    }

    #[test]
    fn a_record_is_split_at_sixteen_kibibytes() {
        let wanted = [
            (0, 1),
            (CHUNK_BYTES, 1),
            (CHUNK_BYTES + 1, 2),
            (10 * CHUNK_BYTES, 10),
        ];
        for (bytes, count) in wanted {
            assert_eq!(chunks(bytes), count, "{bytes}");
        }
    }
}
