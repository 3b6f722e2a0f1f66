//! `gctl describe`: everything worth knowing about an object, for a person.

mod job;
mod node;
mod text;

use serde_json::Value;

use self::text::Page;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{self, GpuIndex};
use crate::output::age;
use crate::session::{Selection, Session, Target};

/// Arguments of `gctl describe`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME..., TYPE/NAME ..., the name of a job, or TYPE for all of them
    #[arg(required = true, value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// Label selector
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// Runs the command.
///
/// # Errors
/// When nothing can be listed; an object that does not exist is said and makes the exit [`Exit::Error`].
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let mut exit = Exit::Ok;
    let listed =
        args.all_namespaces || !args.selector.is_empty() || args.resources[0].contains(',');
    let alone = args.resources.len() == 1 && !args.resources[0].contains('/');
    let named = if alone && listed {
        None
    } else {
        session.named(&args.resources).await?
    };
    let mut found: Vec<(Target, Value)> = Vec::new();
    if let Some(targets) = named {
        for target in targets {
            let attempted = format!("describe {}", target.label());
            match session
                .api
                .get(&target.path(), crate::api::JSON, &attempted)
                .await
            {
                Ok(object) => found.push((target, object)),
                Err(error) => {
                    session.output.complain(&error);
                    exit = Exit::Error;
                }
            }
        }
    } else {
        for kind in args.resources[0].split(',') {
            let resource = session.resource(kind).await?;
            let namespace = (!args.all_namespaces)
                .then(|| session.namespace_of(&resource))
                .flatten();
            let selection = Selection {
                labels: args.selector.clone(),
                fields: String::new(),
            };
            let (items, _) = session
                .list(&resource, namespace.as_deref(), &selection)
                .await?;
            for item in items {
                let target = Target {
                    resource: resource.clone(),
                    namespace: item["metadata"]["namespace"].as_str().map(str::to_owned),
                    name: item["metadata"]["name"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                };
                found.push((target, item));
            }
        }
        if found.is_empty() {
            session.output.say("No resources found.");
        }
    }
    for (index, (target, object)) in found.into_iter().enumerate() {
        let page = describe(session, &target, object).await?;
        if index > 0 {
            session.output.line("\n")?;
        }
        session.output.raw(page.as_bytes())?;
    }
    Ok(exit)
}

async fn describe(session: &mut Session, target: &Target, object: Value) -> Result<String, Error> {
    let now = (session.clock)();
    let events = events(session, target, &object).await;
    let mut page = Page::default();
    text::metadata(&mut page, &object, now);
    match (
        target.resource.group.as_str(),
        target.resource.plural.as_str(),
    ) {
        (crds::GROUP, "jobs") => match follow::read_job(object.clone()) {
            Some(job) => {
                let gpus = known_gpus(session).await;
                job::describe(&mut page, &job, &gpus, now);
            }
            None => text::generic(&mut page, &object),
        },
        (crds::GROUP, "nodes") => match serde_json::from_value(object.clone()) {
            Ok(node) => {
                let jobs = jobs_on(session, &target.name).await;
                node::describe(&mut page, &node, &jobs, now);
            }
            Err(_) => text::generic(&mut page, &object),
        },
        _ => text::generic(&mut page, &object),
    }
    page.table("Events", &event_rows(&events, now));
    Ok(page.finish())
}

/// Nodes are asked for their GPUs so that they can be named; without them UUIDs must do.
async fn known_gpus(session: &mut Session) -> GpuIndex {
    let mut gpus = GpuIndex::default();
    if let Ok(resource) = session.resource("nodes.gctl.dev").await
        && let Ok((items, _)) = session.list(&resource, None, &Selection::default()).await
    {
        let nodes: Vec<_> = items
            .into_iter()
            .filter_map(|item| serde_json::from_value(item).ok())
            .collect();
        gpus.learn(&nodes);
    }
    gpus
}

async fn jobs_on(session: &mut Session, node: &str) -> Vec<crds::Job> {
    let Ok(resource) = session.jobs().await else {
        return Vec::new();
    };
    let selection = Selection {
        labels: String::new(),
        fields: format!("status.binding.nodeName={node}"),
    };
    match session.list(&resource, None, &selection).await {
        Ok((items, _)) => items
            .into_iter()
            .filter_map(follow::read_job)
            .filter(|job| {
                job.status
                    .as_ref()
                    .is_some_and(|status| crds::phase::held_binding(status).is_some())
            })
            .collect(),
        Err(_) => Vec::new(),
    }
}

async fn events(session: &mut Session, target: &Target, object: &Value) -> Vec<Value> {
    let Ok(resource) = session.resource("events.v1").await else {
        return Vec::new();
    };
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let selection = Selection {
        labels: String::new(),
        fields: format!("involvedObject.uid={uid}"),
    };
    session
        .list(&resource, target.namespace.as_deref(), &selection)
        .await
        .map(|(items, _)| items)
        .unwrap_or_default()
}

fn event_rows(events: &[Value], now: jiff::Timestamp) -> Vec<Vec<String>> {
    if events.is_empty() {
        return Vec::new();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = |event: &Value| {
        ["lastTimestamp", "eventTime", "firstTimestamp"]
            .iter()
            .find_map(|field| event[field].as_str().map(str::to_owned))
    };
    let mut sorted: Vec<_> = events.iter().collect();
    sorted.sort_by_key(|event| time(event));
    let mut rows = vec![text::cells([
        "LAST SEEN",
        "TYPE",
        "REASON",
        "FROM",
        "MESSAGE",
    ])];
    for event in sorted {
        let from = [&event["source"]["component"], &event["reportingComponent"]]
            .into_iter()
            .map(text)
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        rows.push(vec![
            age::since_text(time(event).as_deref(), now),
            text(&event["type"]),
            text(&event["reason"]),
            from,
            text(&event["message"]),
        ]);
    }
    rows
}
