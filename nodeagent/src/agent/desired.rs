//! What the Node's spec asks of its agent: with `desiredState: Stop` it ends once nothing is left here.
//!
//! The controllers stop the jobs, as they do for a node that is drained, and placement sends no others.

use std::sync::Arc;
use std::time::Duration;

use crds::Node;
use crds::node::DesiredState;
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::runtime::watcher;

use super::Context;

/// Pause before a broken watch is begun again.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Watches the own Node and passes on whether the agent is to end. Never returns.
pub(super) async fn watch<T>(context: Arc<Context>) -> T {
    loop {
        let api: Api<Node> = Api::all(context.client.clone());
        let own = format!("metadata.name={}", context.options.node_name);
        let mut watch = watcher(api, watcher::Config::default().fields(&own)).boxed();
        while let Ok(Some(event)) = watch.try_next().await {
            if let watcher::Event::Apply(node) | watcher::Event::InitApply(node) = event {
                let stop = node.spec.desired_state == Some(DesiredState::Stop);
                context.set_leaving(stop);
            }
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}
