//! The bytes between agent and spawner: requests as length, token and body; news as sixteen bytes.

use std::io;

use super::News;

/// Longest request that is sent; a job beyond it could not be executed either.
pub(crate) const MOST_FRAME_BYTES: usize = 4 * 1024 * 1024;

const HEAD: usize = 12;

/// The head of a request.
pub(super) fn head(token: u64, length: usize) -> io::Result<[u8; HEAD]> {
    let length = u32::try_from(length)
        .ok()
        .filter(|length| *length as usize <= MOST_FRAME_BYTES)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the request is too long"))?;
    let mut bytes = [0; HEAD];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..].copy_from_slice(&token.to_le_bytes());
    Ok(bytes)
}

/// The first whole request in a buffer: token, body, and the length of both with their head.
pub(super) fn frame(buffer: &[u8]) -> io::Result<Option<(u64, &[u8], usize)>> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let (length, token) = head.split_at(4);
    let length = length
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let token = token
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if length > MOST_FRAME_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the request is too long",
        ));
    }
    Ok(rest.get(..length).map(|body| (token, body, HEAD + length)))
}

/// Size of one piece of news.
pub(super) const NEWS_BYTES: usize = 16;

impl News {
    pub(super) fn encode(&self) -> [u8; NEWS_BYTES] {
        let (kind, token, value) = match *self {
            Self::Forked { token, pid } => (1_u32, token, pid),
            Self::ForkFailed { token, errno } => (2, token, errno),
            Self::Gone { token, status } => (3, token, status),
        };
        let mut bytes = [0; NEWS_BYTES];
        bytes[..8].copy_from_slice(&token.to_le_bytes());
        bytes[8..12].copy_from_slice(&kind.to_le_bytes());
        bytes[12..].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; NEWS_BYTES]) -> Option<Self> {
        let (token, rest) = bytes.split_first_chunk::<8>()?;
        let (kind, value) = rest.split_first_chunk::<4>()?;
        let token = u64::from_le_bytes(*token);
        let value = i32::from_le_bytes(*value.first_chunk::<4>()?);
        match u32::from_le_bytes(*kind) {
            1 => Some(Self::Forked { token, pid: value }),
            2 => Some(Self::ForkFailed {
                token,
                errno: value,
            }),
            3 => Some(Self::Gone {
                token,
                status: value,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_only_when_it_is_whole() {
        let mut bytes = head(77, 3).expect("short").to_vec();
        bytes.extend(b"abc");
        for end in 0..bytes.len() {
            assert!(frame(&bytes[..end]).expect("sane").is_none());
        }
        bytes.extend(b"rest");
        let (token, body, length) = frame(&bytes).expect("sane").expect("whole");
        assert_eq!((token, body, length), (77, &b"abc"[..], 15));
    }

    #[test]
    fn an_absurd_length_is_refused() {
        assert!(head(1, MOST_FRAME_BYTES + 1).is_err());
        assert!(frame(&[0xff; 12]).is_err());
    }

    #[test]
    fn news_survive_the_wire() {
        for news in [
            News::Forked { token: 1, pid: 2 },
            News::ForkFailed {
                token: u64::MAX,
                errno: 11,
            },
            News::Gone {
                token: 3,
                status: -9,
            },
        ] {
            assert_eq!(News::decode(&news.encode()), Some(news));
        }
    }
}
