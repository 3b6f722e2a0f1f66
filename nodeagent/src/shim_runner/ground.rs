//! Is a directory there? Asked before an attempt that needs it is claimed.
//!
//! A file system whose server is gone may not answer for ever, and the thread that asked it is stuck as long. So few may
//! ask at a time, each keeps its place until it has its answer, and nobody waits long for one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::Semaphore;

use crate::runner::Ground;

/// Looks that may be under way, stuck ones included.
const MOST_LOOKS: usize = 16;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The places of those who look.
pub(super) fn looks() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST_LOOKS))
}

/// Looks whether there is such a directory.
pub(super) async fn look(looks: Arc<Semaphore>, directory: String) -> Ground {
    let asked = async move {
        let Ok(place) = looks.acquire_owned().await else {
            return Ground::Silent;
        };
        super::blocking(move || {
            let found = std::fs::metadata(directory);
            drop(place);
            judge(found.map(|data| data.is_dir()))
        })
        .await
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or(Ground::Silent)
}

/// What an answer says. Whether the job may enter it is not for this process to say, which may be another user's.
fn judge(is_directory: io::Result<bool>) -> Ground {
    match is_directory {
        Ok(true) => Ground::Firm,
        Ok(false) => Ground::Missing,
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => {
                Ground::Missing
            }
            Some(Errno::ESTALE | Errno::EIO | Errno::ETIMEDOUT | Errno::ENOTCONN) => Ground::Silent,
            _ => Ground::Firm,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_surely_no_directory_is_missing() {
        let here = tempfile::tempdir().expect("a temporary directory");
        let file = here.path().join("file");
        std::fs::write(&file, "").expect("writable");
        let path = |name: &str| here.path().join(name).to_string_lossy().into_owned();
        for (name, expected) in [
            (".", Ground::Firm),
            ("none", Ground::Missing),
            ("none/below", Ground::Missing),
            ("file", Ground::Missing),
            ("file/below", Ground::Missing),
        ] {
            assert_eq!(look(looks(), path(name)).await, expected, "{name}");
        }
        let refused = judge(Err(Errno::EACCES.into()));
        assert_eq!(refused, Ground::Firm, "the job may be another user");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_does_not_answer_keeps_nobody_waiting_for_ever() {
        let all_stuck = Arc::new(Semaphore::new(0));
        assert_eq!(look(all_stuck, "/".to_owned()).await, Ground::Silent);
    }
}
