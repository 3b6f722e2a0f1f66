//! Notices that something below a directory changed. The only file that knows the crate `notify`.

use std::path::Path;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors and git write several files at once: a notice is given when this long nothing more happened,
const QUIET: Duration = Duration::from_millis(300);
/// and at the latest after this time.
const LATEST: Duration = Duration::from_secs(3);

/// Notices of changes below a directory.
pub(super) struct Notices {
    // Dropping the watcher ends the notices.
    _watcher: notify::RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl Notices {
    /// Of everything below the directory, from now on.
    pub(super) fn of(directory: &Path) -> Result<Self, String> {
        // One place is enough: what matters is that something changed, not how often.
        let (sender, changes) = mpsc::channel(1);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Reading the files, as every pass does, is no change. An error may hide one.
                let is_change =
                    event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_)));
                if is_change {
                    let _ = sender.try_send(());
                }
            })
            .map_err(|error| error.to_string())?;
        watcher
            .watch(directory, RecursiveMode::Recursive)
            .map_err(|error| error.to_string())?;
        Ok(Notices {
            _watcher: watcher,
            changes,
        })
    }

    /// Returns when something changed and it is quiet again.
    pub(super) async fn next(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher is gone with its thread; the caller looks at intervals then.
            std::future::pending::<()>().await;
        }
        let _ = tokio::time::timeout(LATEST, async {
            while let Ok(Some(())) = tokio::time::timeout(QUIET, self.changes.recv()).await {}
        })
        .await;
    }
}
