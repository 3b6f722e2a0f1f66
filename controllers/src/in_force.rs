//! Makes the settings of scheduling that are in force known as an ordinary object, so that whoever explains a decision
//! computes with what decided: `gctl why` and `gctl submit --dry-run` read it.
//!
//! The object is a ConfigMap, written by whoever runs placement: at the start, and again from time to time, in case that somebody
//! changed or deleted it. It says, and does not set: nothing here reads it.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Scheduling;
use crate::shell::{FIELD_MANAGER, chain};

/// How often it is written again; a write that changes nothing costs the server nothing.
const AGAIN: Duration = Duration::from_mins(10);
/// First pause after a failure; it doubles up to [`AGAIN`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Publishes the settings until `shutdown`.
pub(crate) async fn publish(client: Client, scheduling: Scheduling, shutdown: CancellationToken) {
    let text = scheduling.in_force();
    let api: Api<ConfigMap> = Api::namespaced(client, Scheduling::NAMESPACE);
    let mut pause = FIRST_PAUSE;
    loop {
        let next = match write(&api, &text).await {
            Ok(()) => {
                pause = FIRST_PAUSE;
                AGAIN
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), ?pause, "the settings in force are not published");
                let now = pause;
                pause = (pause * 2).min(AGAIN);
                now
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(next) => {}
        }
    }
}

async fn write(api: &Api<ConfigMap>, text: &str) -> Result<(), kube::Error> {
    let data = json!({Scheduling::KEY: text});
    let manager = Some(FIELD_MANAGER.to_owned());
    let params = PatchParams {
        field_manager: manager.clone(),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"data": data}));
    match api.patch(Scheduling::CONFIG_MAP, &params, &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        written => return written.map(drop),
    }
    let object: ConfigMap = ConfigMap {
        metadata: kube::core::ObjectMeta {
            name: Some(Scheduling::CONFIG_MAP.to_owned()),
            ..Default::default()
        },
        data: Some([(Scheduling::KEY.to_owned(), text.to_owned())].into()),
        ..Default::default()
    };
    let params = PostParams {
        field_manager: manager,
        ..PostParams::default()
    };
    api.create(&params, &object).await.map(drop)
}
