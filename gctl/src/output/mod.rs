//! Where commands write: machine-readable results on one side, everything else on the other.
//!
//! **Nothing else in this crate touches standard output.**

pub mod age;
pub mod object;
pub mod table;

use std::io::{self, Write};

use crate::error::Error;

/// The two streams of a command: `out` for results, `err` for everything said to a person.
pub struct Output {
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
            out: Box::new(out),
            err: Box::new(err),
        }
    }

    /// Writes a result as it is, and flushes.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out
            .write_all(bytes)
            .and_then(|()| self.out.flush())
            .map_err(|error| {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    Error::OutputClosed
                } else {
                    Error::Output(error)
                }
            })
    }

    /// Writes a line of the result.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Error> {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        self.raw(line.as_bytes())
    }

    /// Says a line to the person; a closed standard error is nobody's problem.
    pub fn say(&mut self, text: impl AsRef<str>) {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        let _ = self.err.write_all(line.as_bytes());
        let _ = self.err.flush();
    }

    /// Says what went wrong.
    pub fn complain(&mut self, error: &Error) {
        if !matches!(error, Error::OutputClosed) {
            self.say(format!("error: {error}"));
        }
    }
}
