//! Notices that nobody reads the output any more: `gctl get jobs -w | head -2` ends when head does, and not only at the next change.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How often the output is looked at.
const PAUSE: Duration = Duration::from_millis(500);

/// Returns when the reader of a pipe is gone; never for a file or a terminal that is there.
pub(crate) async fn reader_gone(output: impl AsFd) {
    while !is_gone(&output) {
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_gone(output: &impl AsFd) -> bool {
    // No event is asked for: an error is always told.
    let mut files = [PollFd::new(output.as_fd(), PollFlags::empty())];
    poll(&mut files, PollTimeout::ZERO).is_ok()
        && files[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLERR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pipe_is_gone_when_its_reader_is() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!is_gone(&writer));
        drop(reader);
        reader_gone(&writer).await;
    }

    #[test]
    fn a_file_is_never_gone() {
        assert!(!is_gone(&tempfile::tempfile().unwrap()));
    }
}
