//! Where commands write: machine-readable results on one side, everything else on the other.
//!
//! **Nothing else in this crate touches standard output.**

pub mod age;
pub(crate) mod closed;
pub mod object;
pub mod table;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;

/// The two streams of a command: one for results, one for everything said to a person. Clones write to the same streams.
#[derive(Clone)]
pub struct Output {
    streams: Arc<Mutex<Streams>>,
}

struct Streams {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
}

impl Output {
    /// Writes to the process's own standard streams.
    pub fn standard() -> Self {
        Output::new(io::stdout(), io::stderr())
    }

    /// Writes to the given streams.
    pub fn new(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        Output {
            streams: Arc::new(Mutex::new(Streams {
                out: Box::new(out),
                err: Box::new(err),
            })),
        }
    }

    /// Writes a result as it is, and flushes.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams
            .out
            .write_all(bytes)
            .and_then(|()| streams.out.flush())
            .map_err(|error| {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    Error::OutputClosed
                } else {
                    Error::Output(error)
                }
            })
    }

    /// Writes a line of the result.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Error> {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        self.raw(line.as_bytes())
    }

    /// Says a line to the person; a closed standard error is nobody's problem.
    pub fn say(&self, text: impl AsRef<str>) {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = streams.err.write_all(line.as_bytes());
        let _ = streams.err.flush();
    }

    /// Says what went wrong.
    pub fn complain(&self, error: &Error) {
        if !matches!(error, Error::OutputClosed) {
            self.say(format!("error: {error}"));
        }
    }
}
