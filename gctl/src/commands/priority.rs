//! `gctl priority JOB N` and `gctl nudge JOB +N`: move a job in the order, whether it waits or runs; with `queue/NAME`, move all
//! jobs of a queue.
//!
//! Of a job both edit `spec.priority`, which is relative to the queue's base. A job that waits keeps the time it was queued, so
//! among equals it stays where it was; a nudged array takes its queued members along. Of a queue both edit `spec.nudge`: its
//! `spec.priority` is what a file says, and the file may be applied again, or say another, without undoing a nudge.

use crds::queue::folded;
use crds::{DEFAULT_QUEUE, Job, Queue, QueueSpec};
use serde_json::json;

use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow;
use crate::session::{Session, Target};

/// Bounds of a job's priority.
const LEAST: i32 = -1000;
const MOST: i32 = 1000;
/// The kind of queues.
const QUEUES: &str = "queues.gctl.dev";
/// Tries when others change the job meanwhile.
const TRIES: u32 = 5;

/// Arguments of `gctl priority`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The job, or queue/NAME
    pub job: String,
    /// Its priority, -1000 to 1000, a job's relative to its queue's; higher runs first
    #[arg(value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(i64::from(LEAST)..=i64::from(MOST)))]
    pub priority: i32,
}

/// Arguments of `gctl nudge`.
#[derive(Clone, Debug, clap::Args)]
pub struct NudgeArgs {
    /// The job, or queue/NAME
    pub job: String,
    /// What is added to its priority, such as +10 or -5
    #[arg(value_name = "+N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-2000..=2000))]
    pub by: i32,
}

/// Runs `gctl priority`.
///
/// # Errors
/// When the job has ended, or the server refuses.
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    change(session, &args.job, |_| args.priority).await
}

/// Runs `gctl nudge`.
///
/// # Errors
/// When the job has ended, or the server refuses.
pub async fn nudge(session: &mut Session, args: &NudgeArgs) -> Result<Exit, Error> {
    change(session, &args.job, |now| now.saturating_add(args.by)).await
}

async fn change(
    session: &mut Session,
    name: &str,
    next: impl Fn(i32) -> i32,
) -> Result<Exit, Error> {
    let (target, of_queue) = meant(session, name).await?;
    let mut tries = 0;
    let (old, new) = loop {
        tries += 1;
        let done = if of_queue {
            move_queue(session, &target, &next).await
        } else {
            move_job(session, &target, &next).await
        };
        match done {
            Err(error) if error.is_conflict() && tries < TRIES => {}
            done => break done?,
        }
    };
    let label = target.label();
    session.output.line(if old == new {
        format!("{label} priority {new} unchanged")
    } else {
        format!("{label} priority {old} -> {new}")
    })?;
    Ok(Exit::Ok)
}

/// The object that is meant, and whether it is a queue: those are named as people type them.
async fn meant(session: &mut Session, word: &str) -> Result<(Target, bool), Error> {
    if let Some((kind, name)) = word.split_once('/') {
        let resource = session.resource(kind).await?;
        if resource.full_name() == QUEUES {
            let target = Target {
                namespace: None,
                name: folded(name).into_owned(),
                resource,
            };
            return Ok((target, true));
        }
    }
    let mut targets = session.job_targets(&[word.to_owned()]).await?;
    let target = targets.pop();
    let target = target.ok_or_else(|| Error::Usage("which job?".to_owned()))?;
    Ok((target, false))
}

/// One try to move a queue; answers with its base priority before and after.
async fn move_queue(
    session: &mut Session,
    target: &Target,
    next: &impl Fn(i32) -> i32,
) -> Result<(i32, i32), Error> {
    let attempted = format!("change the priority of {}", target.label());
    let live = if target.name == DEFAULT_QUEUE {
        session.api.find(&target.path(), &attempted).await?
    } else {
        let path = target.path();
        Some(session.api.get(&path, api::JSON, &attempted).await?)
    };
    let manager = api::query(&[("fieldManager", "gctl-priority")]);
    let Some(live) = live else {
        // That queue is there without an object, so a nudge may make it one.
        let new = next(0).clamp(LEAST, MOST);
        let spec = QueueSpec {
            nudge: Some(new),
            ..QueueSpec::default()
        };
        let uri = format!("{}{manager}", target.resource.collection(None));
        let made = serde_json::json!(Queue::new(DEFAULT_QUEUE, spec));
        session.api.create(&uri, &made, &attempted).await?;
        return Ok((0, new));
    };
    let queue: Queue = serde_json::from_value(live).map_err(|error| Error::BadAnswer {
        attempted: attempted.clone(),
        reason: error.to_string(),
    })?;
    let old = queue.spec.base_priority().unwrap_or(0);
    let new = next(old).clamp(LEAST, MOST);
    if new != old {
        let nudge = new - queue.spec.priority.unwrap_or(0);
        let uri = format!("{}{manager}", target.path());
        let patch = json!({
            "metadata": {"resourceVersion": queue.metadata.resource_version},
            "spec": {"nudge": (nudge != 0).then_some(nudge)},
        });
        let patched = session
            .api
            .patch(&uri, api::MERGE_PATCH, &patch, &attempted);
        patched.await?;
    }
    Ok((old, new))
}

/// One try to move a job; answers with its own priority before and after.
async fn move_job(
    session: &mut Session,
    target: &Target,
    next: &impl Fn(i32) -> i32,
) -> Result<(i32, i32), Error> {
    let attempted = format!("change the priority of {}", target.label());
    let live = session
        .api
        .get(&target.path(), api::JSON, &attempted)
        .await?;
    let job = follow::read_job(live).ok_or_else(|| Error::BadAnswer {
        attempted: attempted.clone(),
        reason: "it is not a job".to_owned(),
    })?;
    let phase = follow::phase_of(&job);
    if phase.is_terminal() {
        return Err(Error::State(format!(
            "{} has ended already ({phase:?}); its priority matters no more",
            target.label()
        )));
    }
    let old = own_priority(session, &job).await?;
    let new = next(old).clamp(LEAST, MOST);
    if job.spec.priority == Some(new) {
        return Ok((old, new));
    }
    let uri = format!(
        "{}{}",
        target.path(),
        api::query(&[("fieldManager", "gctl-priority")])
    );
    let patch = json!({
        "metadata": {"resourceVersion": job.metadata.resource_version},
        "spec": {"priority": new},
    });
    session
        .api
        .patch(&uri, api::MERGE_PATCH, &patch, &attempted)
        .await?;
    Ok((old, new))
}

/// The job's priority relative to its queue: its own word, or what was resolved for it.
async fn own_priority(session: &mut Session, job: &Job) -> Result<i32, Error> {
    if let Some(own) = job.spec.priority {
        return Ok(own);
    }
    let effective = job.status.as_ref().and_then(|s| s.effective.as_ref());
    let Some(effective) = effective else {
        return Ok(0);
    };
    let queues = session.resource(QUEUES).await?;
    let path = queues.object(None, &effective.queue.value);
    let queue = session.api.find(&path, "read the job's queue").await?;
    let queue = queue.and_then(|queue| serde_json::from_value::<Queue>(queue).ok());
    let base = queue.and_then(|queue| queue.spec.base_priority());
    let base = base.unwrap_or(0);
    Ok(effective.priority.value - base)
}
