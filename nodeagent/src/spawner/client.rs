//! The agent's end of the spawner.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{ARGUMENT, wire};

/// What a spawner tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A shim was forked.
    Forked { token: u64, pid: i32 },
    /// No shim could be forked.
    ForkFailed { token: u64, errno: i32 },
    /// A shim ended: its exit code, or the negative number of the signal that killed it.
    Gone { token: u64, status: i32 },
}

/// A running spawner. Dropping it closes the socket, and the spawner ends; its shims do not.
pub(crate) struct Spawner {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

/// The sending half.
pub(crate) struct Sender {
    socket: OwnedWriteHalf,
}

/// The receiving half; it also waits for the spawner's process in the end.
pub(crate) struct Receiver {
    socket: OwnedReadHalf,
    process: Child,
}

impl Spawner {
    /// Starts a spawner from an executable whose `main` calls [`super::run_if_asked`] first.
    pub(crate) fn start(executable: &Path) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let process = Command::new(executable)
            .arg0("gctl-spawner")
            .arg(ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        ours.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        Ok(Self {
            sender: Sender { socket: writer },
            receiver: Receiver {
                socket: reader,
                process,
            },
        })
    }
}

impl Sender {
    /// Asks for a shim.
    pub(crate) async fn fork(&mut self, token: u64, body: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(body.len() + 12);
        bytes.extend_from_slice(&wire::head(token, body.len())?);
        bytes.extend_from_slice(body);
        self.socket.write_all(&bytes).await
    }
}

impl Receiver {
    /// The next news; none when the spawner is gone.
    pub(crate) async fn next(&mut self) -> Option<News> {
        let mut bytes = [0; wire::NEWS_BYTES];
        self.socket.read_exact(&mut bytes).await.ok()?;
        News::decode(&bytes)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It ends by itself when both halves are gone; one that has not yet ended is left to init.
        let _ = self.process.try_wait();
    }
}
