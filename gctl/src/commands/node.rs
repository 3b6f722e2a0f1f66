//! `gctl node forget NAME`: an operator's word that a machine is gone for good.
//!
//! What ran there and waits for it is given up: jobs with `onNodeLost: Wait` end as Lost, others run elsewhere. The word
//! names the last renewal of the node's Lease, so it lapses when the node is seen again.

use serde_json::{Value, json};

use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::session::Session;

/// Arguments of `gctl node`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What to do with nodes.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with nodes.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Say that a machine which is not seen any more is gone for good, so that its jobs wait for it no longer
    Forget {
        /// Name of the node
        name: String,
    },
}

/// Runs the command.
///
/// # Errors
/// When there is no such node, when it is seen, or when it never renewed its Lease.
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let Action::Forget { name } = &args.action;
    let words = [format!("nodes.gctl.dev/{name}")];
    let targets = session.targets(&words).await?;
    let Some(target) = targets.first() else {
        return Err(Error::Usage("which node?".into()));
    };
    let attempted = format!("forget {}", target.label());
    let node = session
        .api
        .get(&target.path(), api::JSON, &attempted)
        .await?;
    if is_ready(&node) {
        return Err(Error::Usage(format!(
            "{} is seen: it renews its lease; set spec.desiredState to Stop to empty it and end its agent",
            target.label()
        )));
    }
    let lease = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}",
        crds::NODE_LEASE_NAMESPACE,
        api::encode(name)
    );
    let lease = session.api.find(&lease, &attempted).await?;
    let renewed = lease.as_ref().map(|lease| &lease["spec"]["renewTime"]);
    let Some(renewed) = renewed.filter(|renewed| renewed.is_string()) else {
        return Err(Error::Usage(format!(
            "{} never renewed a lease, so nothing ran there",
            target.label()
        )));
    };
    let uri = format!(
        "{}{}",
        target.path(),
        api::query(&[("fieldManager", "gctl-node-forget")])
    );
    let patch = json!({"spec": {"goneAfter": renewed}});
    session
        .api
        .patch(&uri, api::MERGE_PATCH, &patch, &attempted)
        .await?;
    session
        .output
        .line(format!("{} forgotten", target.label()))?;
    Ok(Exit::Ok)
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
