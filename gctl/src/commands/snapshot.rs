//! Everything that decides where jobs go, read once, as the scheduling core knows it.

use controllers::{Objects, Scheduling, Snapshot};
use scheduler::Millis;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::session::{Selection, Session};

/// What was read.
pub(super) struct Taken {
    /// The objects.
    pub(super) objects: Objects,
    /// The same as the core knows them, under the settings in force or their defaults.
    pub(super) snapshot: Snapshot,
    /// The settings in force could be read; otherwise it was said why not.
    pub(super) settings_known: bool,
    /// What was taken for them.
    pub(super) settings: scheduler::Settings,
    now: jiff::Timestamp,
}

impl Taken {
    /// As if every job let itself be displaced.
    pub(super) fn make_all_preemptible(&mut self) {
        for job in &mut self.objects.jobs {
            let status = job.status.as_mut();
            if let Some(effective) = status.and_then(|status| status.effective.as_mut()) {
                effective.preemptible.value = true;
            }
        }
        self.snapshot = Snapshot::of(&self.objects, self.settings, self.now);
    }
}

/// Reads nodes, queues, profiles, the jobs of all namespaces, and the settings of scheduling in force.
///
/// # Errors
/// When one of the kinds cannot be read. Without the settings their defaults are taken, and that is said.
pub(super) async fn take(session: &mut Session) -> Result<Taken, Error> {
    let objects = Objects {
        nodes: all(session, "nodes.gctl.dev").await?,
        queues: all(session, "queues.gctl.dev").await?,
        profiles: all(session, "profiles.gctl.dev").await?,
        jobs: all(session, "jobs.gctl.dev").await?,
    };
    let in_force = in_force(session).await;
    let settings_known = in_force.is_ok();
    let scheduling = in_force.unwrap_or_else(|reason| {
        session.output.say(format!(
            "note: computed with the default settings of scheduling, since those in force are not known: {reason}"
        ));
        Scheduling::default()
    });
    let (settings, now) = (scheduling.settings(Millis(0)), (session.clock)());
    let snapshot = Snapshot::of(&objects, settings, now);
    Ok(Taken {
        objects,
        snapshot,
        settings_known,
        settings,
        now,
    })
}

/// The settings that placement published, or why they cannot be known.
async fn in_force(session: &Session) -> Result<Scheduling, String> {
    let (namespace, name) = (Scheduling::NAMESPACE, Scheduling::CONFIG_MAP);
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    let attempted = format!("get configmap {namespace}/{name}");
    let object = match session.api.find(&path, &attempted).await {
        Ok(Some(object)) => object,
        Ok(None) => {
            return Err(format!(
                "there is no ConfigMap {namespace}/{name}, which the placement controller writes"
            ));
        }
        Err(error) => return Err(error.to_string()),
    };
    let Some(text) = object["data"][Scheduling::KEY].as_str() else {
        return Err(format!(
            "the ConfigMap {namespace}/{name} has no key {}",
            Scheduling::KEY
        ));
    };
    Scheduling::parse(text)
        .map_err(|error| format!("the ConfigMap {namespace}/{name} cannot be read: {error}"))
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
