//! The background work of the streams: grouped syncs, and the removal of what belonged to deleted objects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path as BlobPath;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{BlobError, LogStore, Owner, Stream};

/// Appends within this time share one round of syncs.
const SYNC_DELAY: Duration = Duration::from_millis(100);
/// How often the owners of streams are looked up. What has no owner at two visits in a row is removed.
const SWEEP_INTERVAL: Duration = Duration::from_mins(10);

impl LogStore {
    /// Syncs and sweeps until shutdown; the last act is a sync of everything. `is_alive` says whether the object of
    /// a resource, with this owner's name and this uid, still exists.
    pub async fn run(
        &self,
        is_alive: impl Fn(&str, &Owner, &str) -> bool,
        shutdown: CancellationToken,
    ) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missing = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.wake_syncer.notified() => {
                    tokio::select! {
                        () = tokio::time::sleep(SYNC_DELAY) => {}
                        () = shutdown.cancelled() => {}
                    }
                    self.sync_dirty().await;
                }
                _ = sweep.tick() => match self.sweep(&is_alive, &missing).await {
                    Ok(still_missing) => missing = still_missing,
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot sweep streams"),
                },
            }
        }
        self.sync_dirty().await;
    }

    /// Syncs every stream that was appended to since the last time.
    pub async fn sync_dirty(&self) {
        let streams: Vec<Arc<Stream>> = std::mem::take(&mut *self.dirty.lock());
        let mut work = Vec::new();
        for stream in streams {
            if let Some((file, reach, with_name)) = stream.begin_sync().await {
                work.push((stream, file, reach, with_name));
            }
        }
        if work.is_empty() {
            return;
        }
        let synced = tokio::task::spawn_blocking(move || {
            work.into_iter()
                .map(|(stream, file, reach, with_name)| {
                    let result = file.sync(with_name);
                    (stream, file, reach, result)
                })
                .collect::<Vec<_>>()
        })
        .await;
        let Ok(synced) = synced else { return };
        for (stream, file, reach, result) in synced {
            if let Err(error) = &result {
                tracing::error!(%error, file = %file.path.display(), "cannot sync a stream");
            }
            if let Err(error) = stream.end_sync(&file, reach, result.is_ok()).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot cut back a stream"
                );
            }
        }
    }

    /// One visit: removes what was missing before and still is; answers what is missing now.
    pub(super) async fn sweep(
        &self,
        is_alive: &impl Fn(&str, &Owner, &str) -> bool,
        missing_before: &BTreeSet<(String, String)>,
    ) -> Result<BTreeSet<(String, String)>, BlobError> {
        let mut missing = BTreeSet::new();
        let resources = self
            .blobs
            .list_with_delimiter(Some(&BlobPath::from("streams")))
            .await?;
        for resource in resources.common_prefixes {
            let Some(resource_name) = resource.filename() else {
                continue;
            };
            let objects = self.blobs.list_with_delimiter(Some(&resource)).await?;
            for object in objects.common_prefixes {
                let Some(uid) = object.filename() else {
                    continue;
                };
                if self
                    .owner(&object)
                    .await?
                    .is_some_and(|owner| is_alive(resource_name, &owner, uid))
                {
                    continue;
                }
                let key = (resource_name.to_owned(), uid.to_owned());
                if missing_before.contains(&key) {
                    self.remove(resource_name, uid).await?;
                    tracing::info!(
                        resource = resource_name,
                        uid,
                        "removed the streams of a deleted object"
                    );
                } else {
                    missing.insert(key);
                }
            }
        }
        Ok(missing)
    }

    /// Whose streams lie here; unreadable notes count as none, which removes the streams in the end.
    async fn owner(&self, object: &BlobPath) -> Result<Option<Owner>, BlobError> {
        match self.blobs.get(&object.clone().join("owner")).await {
            Ok(found) => Ok(serde_json::from_slice(&found.bytes().await?).ok()),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How many objects have streams, for metrics and tests.
    pub async fn stored_objects(&self) -> Result<usize, BlobError> {
        let metas: Vec<_> = self
            .blobs
            .list(Some(&BlobPath::from("streams")))
            .try_collect()
            .await?;
        Ok(metas
            .iter()
            .filter(|meta| meta.location.filename() == Some("owner"))
            .count())
    }
}
