//! `gctl wait`: until jobs have ended, or any object is as a condition says.

use std::collections::BTreeMap;
use std::time::Duration;

use apiserver::schema::jsonpath::{self, JsonPath};
use serde_json::Value;

use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{self, Ended, Voice};
use crate::output::age;
use crate::session::{Selection, Session, Target};
use crate::watch::{Change, Watch};

/// Arguments of `gctl wait`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME..., TYPE/NAME ..., the name of a job, or TYPE with -l or --all
    #[arg(required = true, value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// `delete`, `condition=NAME[=VALUE]` or `jsonpath='{PATH}'=VALUE`. Without it: until the jobs have ended, exit 3 if one did not succeed
    #[arg(long = "for", value_name = "WHAT")]
    pub what: Option<String>,
    /// Give up after this time, such as 90s or 10m; 0 looks once. Without it there is no limit
    #[arg(long, value_parser = age::parse_span)]
    pub timeout: Option<Duration>,
    /// Label selector
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// The object is gone.
    Gone,
    /// A condition has a status.
    Condition {
        /// Type of the condition, compared without case.
        name: String,
        /// Its status.
        status: String,
    },
    /// A path finds a value, or anything.
    Path {
        /// The path.
        path: JsonPath,
        /// The value; none asks only that there is one.
        value: Option<String>,
    },
}

impl std::str::FromStr for Goal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.eq_ignore_ascii_case("delete") {
            return Ok(Goal::Gone);
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, status) = condition.split_once('=').unwrap_or((condition, "True"));
            return Ok(Goal::Condition {
                name: name.to_owned(),
                status: status.to_owned(),
            });
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            // The value comes after the closing brace; an `=` inside belongs to a filter.
            let (path, value) = match rest.rfind('}') {
                Some(end) => {
                    let (path, value) = rest.split_at(end + 1);
                    (path, value.strip_prefix('='))
                }
                None => match rest.split_once('=') {
                    Some((path, value)) => (path, Some(value)),
                    None => (rest, None),
                },
            };
            return Ok(Goal::Path {
                path: JsonPath::parse(path).map_err(|error| Error::jsonpath(path, error))?,
                value: value.map(str::to_owned),
            });
        }
        Err(Error::Usage(format!(
            "--for `{text}`: use delete, condition=NAME[=VALUE] or jsonpath='{{PATH}}'=VALUE"
        )))
    }
}

impl Goal {
    /// The object is as it should be.
    pub fn is_met(&self, object: &Value) -> bool {
        match self {
            Goal::Gone => false,
            Goal::Condition { name, status } => object["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| {
                    let same = |field: &str, wanted: &str| {
                        condition[field]
                            .as_str()
                            .is_some_and(|text| text.eq_ignore_ascii_case(wanted))
                    };
                    same("type", name) && same("status", status)
                }),
            Goal::Path { path, value } => match value {
                Some(value) => path
                    .find(object)
                    .iter()
                    .any(|found| jsonpath::text_of(found) == *value),
                None => path.find(object).iter().any(|found| !found.is_null()),
            },
        }
    }

    /// The object can never become so: a job that has ended stays as it is.
    fn is_hopeless(&self, target: &Target, object: &Value) -> bool {
        let Goal::Path {
            value: Some(value),
            path,
        } = self
        else {
            return false;
        };
        let asks_phase = JsonPath::parse(".status.phase").is_ok_and(|phase| phase == *path);
        let ended = object["status"]["phase"]
            .as_str()
            .and_then(|phase| serde_json::from_value::<crds::Phase>(Value::from(phase)).ok())
            .filter(|phase| phase.is_terminal());
        target.resource.is_job() && asks_phase && ended.is_some_and(|phase| phase.as_str() != value)
    }
}

/// Runs the command.
///
/// # Errors
/// When an object does not exist or cannot be watched.
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let goal = args.what.as_deref().map(str::parse::<Goal>).transpose()?;
    let targets = chosen(session, args).await?;
    if targets.is_empty() {
        return if goal == Some(Goal::Gone) {
            Ok(Exit::Ok)
        } else {
            Err(Error::State("no object to wait for".into()))
        };
    }
    let Some(goal) = goal else {
        return Box::pin(until_ended(session, &targets, args.timeout)).await;
    };
    let mut waiting = targets;
    let result = {
        let goals = until(session, &goal, &mut waiting);
        limited(args.timeout, goals).await
    };
    if let Some(result) = result {
        return result;
    }
    for target in &waiting {
        session
            .output
            .say(format!("error: timed out waiting for {}", target.label()));
    }
    Ok(Exit::TimedOut)
}

async fn chosen(session: &mut Session, args: &Args) -> Result<Vec<Target>, Error> {
    let named = args.resources.len() > 1 || args.resources[0].contains('/');
    let selected = args.all || !args.selector.is_empty();
    if named && selected {
        return Err(Error::Usage("either names, or -l, or --all".into()));
    }
    if !selected {
        return session.named(&args.resources).await?.ok_or_else(|| {
            Error::Usage(format!(
                "which {}? give names, -l SELECTOR or --all",
                args.resources[0]
            ))
        });
    }
    let resource = session.resource(&args.resources[0]).await?;
    select(session, &resource, &args.selector).await
}

/// The objects of a kind that a label selector chooses.
pub(super) async fn select(
    session: &Session,
    resource: &crate::catalog::Resource,
    selector: &str,
) -> Result<Vec<Target>, Error> {
    let selection = Selection {
        labels: selector.to_owned(),
        fields: String::new(),
    };
    let namespace = session.namespace_of(resource);
    let (items, _) = session
        .list(resource, namespace.as_deref(), &selection)
        .await?;
    Ok(items
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .map(|name| Target {
            resource: resource.clone(),
            namespace: namespace.clone(),
            name: name.to_owned(),
        })
        .collect())
}

async fn limited<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        // Looking once still needs the time of a few requests.
        Some(limit) => tokio::time::timeout(limit.max(Duration::from_secs(1)), work)
            .await
            .ok(),
        None => Some(work.await),
    }
}

async fn until_ended(
    session: &mut Session,
    targets: &[Target],
    limit: Option<Duration>,
) -> Result<Exit, Error> {
    if let Some(other) = targets.iter().find(|target| !target.resource.is_job()) {
        return Err(Error::Usage(format!(
            "{} is no job and has no end: say what to wait for with --for",
            other.label()
        )));
    }
    for target in targets {
        let attempted = format!("wait for {}", target.label());
        session
            .api
            .get(&target.path(), api::JSON, &attempted)
            .await?;
    }
    let began = (session.clock)();
    let followed = limited(
        limit,
        Box::pin(follow::follow(session, targets, Voice::Silent, began, None)),
    )
    .await;
    let Some(board) = followed else {
        session
            .output
            .say("error: timed out waiting for jobs to end");
        return Ok(Exit::TimedOut);
    };
    let board = board?;
    let labels: BTreeMap<_, _> = targets
        .iter()
        .map(|target| {
            let namespace = target.namespace.clone().unwrap_or_default();
            ((namespace, target.name.clone()), target.label())
        })
        .collect();
    for (key, ended) in board.targets() {
        let label = labels.get(key).map_or(key.1.as_str(), String::as_str);
        let line = match ended {
            Some(Ended::Finished(job)) => {
                let ending = follow::ending(job);
                let ending = if ending.is_empty() {
                    ending
                } else {
                    format!(" ({ending})")
                };
                format!("{label} {:?}{ending}", follow::phase_of(job))
            }
            Some(Ended::Deleted) | None => format!("{label} Deleted"),
        };
        session.output.line(line)?;
    }
    Ok(if board.all_succeeded() {
        Exit::Ok
    } else {
        Exit::JobFailed
    })
}

/// Waits for each target in turn; `waiting` is left with those that were not met.
async fn until(
    session: &mut Session,
    goal: &Goal,
    waiting: &mut Vec<Target>,
) -> Result<Exit, Error> {
    let mut exit = Exit::Ok;
    while let Some(target) = waiting.first().cloned() {
        match until_one(session, goal, &target).await? {
            Met::Yes => {
                let what = if *goal == Goal::Gone {
                    "deleted"
                } else {
                    "condition met"
                };
                session.output.line(format!("{} {what}", target.label()))?;
            }
            Met::Never(reason) => {
                session
                    .output
                    .say(format!("error: {}: {reason}", target.label()));
                exit = exit.worse(Exit::JobFailed);
            }
        }
        waiting.remove(0);
    }
    Ok(exit)
}

enum Met {
    Yes,
    Never(String),
}

/// Waits until a target is gone, for other commands.
pub(super) async fn until_gone(session: &mut Session, target: &Target) -> Result<(), Error> {
    until_one(session, &Goal::Gone, target).await.map(drop)
}

async fn until_one(session: &mut Session, goal: &Goal, target: &Target) -> Result<Met, Error> {
    let attempted = format!("wait for {}", target.label());
    let judge = |object: &Value| {
        if goal.is_met(object) {
            Some(Met::Yes)
        } else if goal.is_hopeless(target, object) {
            Some(Met::Never(format!(
                "it has ended as {} and stays so",
                jsonpath::text_of(&object["status"]["phase"])
            )))
        } else {
            None
        }
    };
    let mut uid = None;
    let mut watch: Option<Watch> = None;
    loop {
        let Some(object) = session.api.find(&target.path(), &attempted).await? else {
            if *goal == Goal::Gone {
                return Ok(Met::Yes);
            }
            return Err(Error::State(format!(
                "failed to {attempted}: {}",
                if uid.is_some() {
                    "it was deleted"
                } else {
                    "it does not exist"
                }
            )));
        };
        let current = object["metadata"]["uid"].clone();
        // Another object of the same name means that the one waited for is gone.
        if uid.get_or_insert_with(|| current.clone()) != &current && *goal == Goal::Gone {
            return Ok(Met::Yes);
        }
        if let Some(met) = judge(&object) {
            return Ok(met);
        }
        let revision = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let mut stream = match watch.take() {
            Some(mut watch) => {
                watch.resume_at(revision);
                watch
            }
            None => Watch::new(
                &session.api,
                &target.resource,
                target.namespace.as_deref(),
                Selection::named(&target.name),
                revision,
            ),
        };
        loop {
            match stream.next().await? {
                Change::Added(object) | Change::Modified(object) => {
                    if let Some(met) = judge(&object) {
                        return Ok(met);
                    }
                }
                Change::Deleted(_) | Change::Expired => break,
                Change::Interrupted(reason) => session.output.say(format!(
                    "the watch was interrupted and goes on when it can: {reason}"
                )),
            }
        }
        watch = Some(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn goals_are_read_as_kubectl_reads_them() {
        let object = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "list": [{"name": "a", "value": "1"}]}});
        for (text, met) in [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Ready=False", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Running", false),
            ("jsonpath=.status.phase=Running", true),
            ("jsonpath={.status.phase}=Failed", false),
            ("jsonpath={.status.phase}", true),
            ("jsonpath={.status.nothing}", false),
            ("jsonpath={.status.list[?(@.name==\"a\")].value}=1", true),
            ("delete", false),
        ] {
            match text.parse::<Goal>() {
                Ok(goal) => assert_eq!(goal.is_met(&object), met, "{text}"),
                Err(_) => assert!(text.contains('\''), "{text}"),
            }
        }
        assert!("phase=Running".parse::<Goal>().is_err());
    }

    #[test]
    fn a_job_that_has_ended_otherwise_is_not_waited_for() {
        let target = Target {
            resource: crate::catalog::samples::resource("gctl.dev", "Job", "jobs", true),
            namespace: Some("default".into()),
            name: "x".into(),
        };
        let goal: Goal = "jsonpath={.status.phase}=Running".parse().unwrap();
        assert!(goal.is_hopeless(&target, &json!({"status": {"phase": "Failed"}})));
        assert!(!goal.is_hopeless(&target, &json!({"status": {"phase": "Pending"}})));
    }
}
