//! Everything that decides where jobs go, read once, as the scheduling core knows it.

use controllers::{Objects, Snapshot};
use scheduler::{Millis, Settings};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::session::{Selection, Session};

/// Reads nodes, queues, profiles and the jobs of all namespaces.
///
/// # Errors
/// When one of them cannot be read.
pub(super) async fn take(session: &mut Session) -> Result<(Objects, Snapshot), Error> {
    let objects = Objects {
        nodes: all(session, "nodes.gctl.dev").await?,
        queues: all(session, "queues.gctl.dev").await?,
        profiles: all(session, "profiles.gctl.dev").await?,
        jobs: all(session, "jobs.gctl.dev").await?,
    };
    let settings = Settings {
        settled_at: Millis(0),
        ..Settings::default()
    };
    let snapshot = Snapshot::of(&objects, settings, (session.clock)());
    Ok((objects, snapshot))
}

async fn all<K: DeserializeOwned>(session: &mut Session, kind: &str) -> Result<Vec<K>, Error> {
    let resource = session.resource(kind).await?;
    let (items, _) = session.list(&resource, None, &Selection::default()).await?;
    items
        .into_iter()
        .map(|item| {
            serde_json::from_value(item).map_err(|error| Error::BadAnswer {
                attempted: format!("read {kind}"),
                reason: error.to_string(),
            })
        })
        .collect()
}
