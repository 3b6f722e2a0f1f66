//! The spawner: a small single-threaded process, exec'd from this same executable, that forks one shim an attempt.
//!
//! The agent is large and has threads, so forking it would be slow and unsafe, and a child of the agent would die with
//! the agent's terminal. The spawner is started once, in its own session, with an empty environment, stdin, stdout and
//! stderr on /dev/null and no descriptor but its socket. It exits when its agent's end of the socket closes; its shims
//! live on.
//!
//! The wire is a stream socket: the agent sends frames (`wire`), the spawner answers with news of fixed size.

mod client;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::shim::{self, sys};
pub(crate) use client::{News, Receiver, Sender, Spawner};
pub(crate) use wire::MOST_FRAME_BYTES;

/// The first argument that makes an executable a spawner.
pub const ARGUMENT: &str = "__gctl-spawner";

/// Becomes the spawner when the process was started as one, and does not return then. It must be the first thing that
/// `main` does: before any thread, any descriptor and any argument parser.
pub fn run_if_asked() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == ARGUMENT)
    {
        let code = match serve() {
            Ok(()) => 0,
            Err(_) => 1,
        };
        sys::exit_now(code);
    }
}

struct Server {
    socket: UnixStream,
    signals: SignalFd,
    shims: BTreeMap<Pid, u64>,
    oom_score_adj: Option<i32>,
}

fn serve() -> io::Result<()> {
    sys::reset_dispositions();
    SigSet::all().thread_set_mask()?;
    let _ = nix::unistd::setsid();
    let _ = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/")?;
    // The agent passes its socket as stdin, so that no other descriptor needs to be inherited.
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    let socket = {
        // Everything inherited goes; the socket is taken along on a descriptor that is standard output until then.
        nix::unistd::dup2_stdout(&socket)?;
        std::mem::forget(socket);
        sys::close_descriptors_from(3);
        let socket = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
        let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(&null)?;
        socket
    };
    socket.set_nonblocking(false)?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Server {
        socket,
        signals,
        shims: BTreeMap::new(),
        oom_score_adj: lower_oom_score(),
    }
    .run()
}

/// Makes the spawner and its shims unlikely victims; returns the score that commands go back to. Only root may.
fn lower_oom_score() -> Option<i32> {
    const SHIM_SCORE: i32 = -900;
    const PATH: &str = "/proc/self/oom_score_adj";
    let before: i32 = fs::read_to_string(PATH).ok()?.trim().parse().ok()?;
    fs::write(PATH, SHIM_SCORE.to_string()).ok()?;
    Some(before)
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let (readable, signalled) = self.wait()?;
            if signalled {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap()?;
            }
            if readable {
                let count = match self.socket.read(&mut chunk) {
                    Ok(0) => return Ok(()),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                buffer.extend_from_slice(&chunk[..count]);
                let mut taken = 0;
                while let Some((token, body, length)) = wire::frame(&buffer[taken..])? {
                    let news = self.spawn(token, body)?;
                    self.socket.write_all(&news.encode())?;
                    taken += length;
                }
                buffer.drain(..taken);
            }
        }
    }

    fn wait(&self) -> io::Result<(bool, bool)> {
        let mut descriptors = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((
            descriptors[0].any().unwrap_or(false),
            descriptors[1].any().unwrap_or(false),
        ))
    }

    fn spawn(&mut self, token: u64, body: &[u8]) -> io::Result<News> {
        match sys::fork() {
            Ok(Some(pid)) => {
                self.shims.insert(pid, token);
                Ok(News::Forked {
                    token,
                    pid: pid.as_raw(),
                })
            }
            Ok(None) => {
                // The agent must see its socket close when the spawner dies, so no shim may hold it. Nothing of the
                // spawner is used or dropped in the child any more.
                sys::close_descriptors_from(3);
                let code = shim::run(body, self.oom_score_adj);
                sys::exit_now(code)
            }
            Err(error) => Ok(News::ForkFailed {
                token,
                errno: error.raw_os_error().unwrap_or(0),
            }),
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(status) => status,
            };
            let ended = match status {
                WaitStatus::Exited(pid, code) => Some((pid, code)),
                WaitStatus::Signaled(pid, signal, _) => Some((pid, -(signal as i32))),
                _ => None,
            };
            if let Some((pid, status)) = ended
                && let Some(token) = self.shims.remove(&pid)
            {
                self.socket
                    .write_all(&News::Gone { token, status }.encode())?;
            }
        }
    }
}
