//! Sends output to the server's log stream by byte offset: what was lost on the way is sent again, what the server has
//! is skipped by it, and the local copy is kept until the server says that it is on its disk.
//!
//! An attempt without output sends nothing at all: readers take an ended job without a log as an empty log.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use serde::Deserialize;
use tokio::time::Instant;

use super::Context;
use crate::attempt::AttemptId;

/// Most bytes of one request.
const CHUNK_BYTES: usize = 512 * 1024;
/// Refusals of a log (not failures of the way to the server) before the rest of it is given up.
const MOST_REFUSALS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How far the log of one attempt is sent.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    sent: u64,
    synced: u64,
    sealed: bool,
    /// False until the server's own position is known: after an adoption it may have much already.
    asked: bool,
    busy: bool,
    refusals: u32,
    failures: u32,
    not_before: Option<Instant>,
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    offset: u64,
    limit: usize,
    /// Length of the whole log, once the attempt has ended.
    end: Option<u64>,
}

/// The server's answer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Position {
    size: u64,
    #[serde(default)]
    synced: u64,
    #[serde(default, rename = "final")]
    sealed: bool,
}

/// Why a piece was not taken.
#[derive(Debug)]
pub(super) enum SendError {
    /// The server refuses this log, for instance because the job is gone.
    Refused(String),
    /// It may work later.
    Later(String),
}

impl Cursor {
    /// The next piece of a log that is `length` bytes long by now; `ended` when it will not grow.
    pub(super) fn next(&mut self, length: u64, ended: bool, now: Instant) -> Option<Piece> {
        let waits = self.not_before.is_some_and(|time| now < time);
        if self.busy || waits || self.is_done(length, ended) {
            return None;
        }
        let limit = if !self.asked && length > CHUNK_BYTES as u64 {
            0
        } else {
            CHUNK_BYTES
        };
        let has_news = self.sent < length || ended;
        has_news.then(|| {
            self.busy = true;
            Piece {
                offset: self.sent.min(length),
                limit,
                end: ended.then_some(length),
            }
        })
    }

    /// Takes in an answer.
    pub(super) fn answered(&mut self, answer: &Result<Position, SendError>, now: Instant) {
        self.busy = false;
        self.not_before = None;
        match answer {
            Ok(position) => {
                self.asked = true;
                self.failures = 0;
                // A server that lost what it had not synced says so by a smaller size.
                self.sent = position.size;
                self.synced = position.synced;
                self.sealed = position.sealed;
                if position.sealed && position.synced < position.size {
                    self.not_before = Some(now + FIRST_PAUSE * 5);
                }
            }
            Err(error) => {
                if matches!(error, SendError::Refused(_)) {
                    self.refusals += 1;
                }
                let pause = FIRST_PAUSE * (1 << self.failures.min(7));
                self.failures += 1;
                self.not_before = Some(now + pause.min(LONGEST_PAUSE));
            }
        }
    }

    /// Whether readers have all that there is.
    pub(super) fn is_sent(&self, length: u64) -> bool {
        length == 0 || self.is_given_up() || (self.sealed && self.sent >= length)
    }

    /// Whether the local copy is not needed any more.
    pub(super) fn is_safe(&self, length: u64) -> bool {
        length == 0 || self.is_given_up() || (self.sealed && self.synced >= length)
    }

    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    fn is_given_up(&self) -> bool {
        self.refusals >= MOST_REFUSALS
    }

    fn is_done(&self, length: u64, ended: bool) -> bool {
        if ended {
            self.is_safe(length)
        } else {
            self.is_given_up()
        }
    }
}

/// Reads a piece from the runner and sends it.
pub(super) async fn send(
    context: Arc<Context>,
    namespace: String,
    name: String,
    id: AttemptId,
    piece: Piece,
) -> Result<Position, SendError> {
    let body = context
        .options
        .runner
        .output(id.clone(), piece.offset, piece.limit)
        .await
        .map_err(|error| SendError::Later(crate::error_chain(&error)))?;
    let reaches_end = piece.end == Some(piece.offset + body.len() as u64);
    let sealing = if reaches_end { "&final=true" } else { "" };
    let uri = format!(
        "/apis/streams.gctl.dev/v1/namespaces/{namespace}/jobs/{name}/log?uid={}&attempt={}&offset={}{sealing}",
        id.uid, id.attempt, piece.offset,
    );
    let request = Request::post(uri)
        .header(http::header::CONTENT_TYPE, "application/octet-stream")
        .body(body.to_vec())
        .map_err(|error| SendError::Refused(error.to_string()))?;
    context
        .client
        .request(request)
        .await
        .map_err(|error| match &error {
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                SendError::Refused(crate::error_chain(&error))
            }
            _ => SendError::Later(crate::error_chain(&error)),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "an answer as it comes")]
    fn at(size: u64, synced: u64, sealed: bool) -> Result<Position, SendError> {
        Ok(Position {
            size,
            synced,
            sealed,
        })
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what is asked for")]
    fn piece(offset: u64, limit: usize, end: Option<u64>) -> Option<Piece> {
        Some(Piece { offset, limit, end })
    }

    #[test]
    fn a_log_is_sent_in_order_and_kept_until_it_is_synced() {
        let mut cursor = Cursor::default();
        let now = Instant::now();
        assert_eq!(cursor.next(0, false, now), None);
        assert_eq!(cursor.next(5, false, now), piece(0, CHUNK_BYTES, None));
        assert_eq!(cursor.next(5, false, now), None, "one at a time");
        cursor.answered(&at(5, 0, false), now);
        assert_eq!(cursor.next(5, false, now), None);
        assert_eq!(cursor.next(5, true, now), piece(5, CHUNK_BYTES, Some(5)));
        cursor.answered(&at(5, 3, true), now);
        assert!(cursor.is_sent(5) && !cursor.is_safe(5));
        let later = now + Duration::from_secs(1);
        assert_eq!(cursor.next(5, true, later), piece(5, CHUNK_BYTES, Some(5)));
        cursor.answered(&at(5, 5, true), later);
        assert!(cursor.is_safe(5));
        assert_eq!(cursor.next(5, true, later), None);
    }

    #[test]
    fn a_server_that_lost_bytes_gets_them_again() {
        let mut cursor = Cursor::default();
        let now = Instant::now();
        cursor.next(9, false, now);
        cursor.answered(&at(9, 0, false), now);
        cursor.next(12, false, now);
        cursor.answered(&at(4, 4, false), now);
        assert_eq!(cursor.next(12, false, now), piece(4, CHUNK_BYTES, None));
    }

    #[test]
    fn a_long_log_is_asked_for_before_it_is_sent() {
        let mut cursor = Cursor::default();
        let now = Instant::now();
        let length = 3 * CHUNK_BYTES as u64;
        assert_eq!(cursor.next(length, false, now), piece(0, 0, None));
        cursor.answered(&at(length - 1, 0, false), now);
        assert_eq!(
            cursor.next(length, false, now),
            piece(length - 1, CHUNK_BYTES, None)
        );
    }

    #[test]
    fn failures_are_tried_for_ever_and_refusals_are_not() {
        let now = Instant::now();
        for (refused, given_up) in [(true, true), (false, false)] {
            let mut cursor = Cursor::default();
            let mut time = now;
            for _ in 0..MOST_REFUSALS {
                assert!(cursor.next(1, true, time).is_some());
                let words = String::new();
                let error = if refused {
                    SendError::Refused(words)
                } else {
                    SendError::Later(words)
                };
                cursor.answered(&Err(error), time);
                assert_eq!(cursor.next(1, true, time), None, "it pauses");
                time += LONGEST_PAUSE;
            }
            assert_eq!(cursor.is_safe(1), given_up);
        }
    }

    #[test]
    fn an_ended_attempt_without_output_sends_nothing() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.next(0, true, Instant::now()), None);
        assert!(cursor.is_sent(0) && cursor.is_safe(0));
    }
}
