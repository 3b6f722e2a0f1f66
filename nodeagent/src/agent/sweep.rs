//! Removes the checkpoints of jobs that do not exist any more.
//!
//! A job's checkpoints outlive its attempts, and its end: somebody may want them. They go when the job itself is deleted.
//! What is removed was in the folder before all jobs were listed, belongs to none of them, and has not been touched for a
//! day: a job that was made meanwhile, or a listing that was cut short, costs nobody anything.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crds::Job;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::Context;
use crate::attempt::is_safe_uid;

/// How often it is looked.
const PERIOD: Duration = Duration::from_hours(1);
/// How long checkpoints without a job are kept.
const KEEP: Duration = Duration::from_hours(24);
/// Jobs of one page.
const PAGE: u32 = 1000;

/// Sweeps from time to time. Never returns.
pub(super) async fn keep_sweeping<T>(context: Arc<Context>) -> T {
    let options = &context.options;
    let root = options.checkpoint_root.as_ref();
    let Some(root) = root
        .filter(|_| options.sweep_checkpoints)
        .map(PathBuf::from)
    else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(PERIOD).await;
        if let Err(error) = sweep(&context, &root).await {
            tracing::warn!(error, "failed to sweep checkpoints");
        }
    }
}

async fn sweep(context: &Context, root: &Path) -> Result<(), String> {
    let (folder, now) = (root.to_owned(), SystemTime::now());
    let old = tokio::task::spawn_blocking(move || untouched(&folder, now));
    let old = old.await.map_err(|error| error.to_string())?;
    let old = old.map_err(|error| error.to_string())?;
    if old.is_empty() {
        return Ok(());
    }
    let jobs = uids(context)
        .await
        .map_err(|error| crate::error_chain(&error))?;
    let gone: Vec<PathBuf> = old.difference(&jobs).map(|uid| root.join(uid)).collect();
    let removed = tokio::task::spawn_blocking(move || {
        gone.iter().try_for_each(|folder| {
            tracing::info!(folder = %folder.display(), "removing the checkpoints of a job that is gone");
            fs::remove_dir_all(folder)
        })
    });
    let removed = removed.await.map_err(|error| error.to_string())?;
    removed.map_err(|error| error.to_string())
}

/// Folders that may be a job's and that nobody has touched lately.
fn untouched(root: &Path, now: SystemTime) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let data = entry.metadata()?;
        let age = now.duration_since(data.modified()?);
        let name = entry.file_name();
        let uid = name.to_str().filter(|name| is_safe_uid(name));
        if data.is_dir() && age.is_ok_and(|age| age > KEEP) {
            found.extend(uid.map(str::to_owned));
        }
    }
    Ok(found)
}

/// The uids of all jobs.
async fn uids(context: &Context) -> Result<BTreeSet<String>, kube::Error> {
    let api: Api<Job> = Api::all(context.client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut uids = BTreeSet::new();
    loop {
        let page = api.list_metadata(&params).await?;
        uids.extend(page.items.iter().filter_map(ResourceExt::uid));
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => params = params.continue_token(&next),
            _ => return Ok(uids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_that_nobody_touched_for_a_day_may_go() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for name in ["0c7e-11", "notes.txt"] {
            fs::create_dir(root.path().join(name)).expect("writable");
        }
        fs::write(root.path().join("0c7e-12"), "a file").expect("writable");
        let now = SystemTime::now();
        let at = |time| untouched(root.path(), time).expect("readable");
        assert_eq!(at(now), BTreeSet::new(), "it may be in use");
        assert_eq!(at(now + 2 * KEEP), BTreeSet::from(["0c7e-11".to_owned()]));
    }
}
