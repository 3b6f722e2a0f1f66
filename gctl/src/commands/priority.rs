//! `gctl priority JOB N` and `gctl nudge JOB +N`: move a job in the order, whether it waits or runs.
//!
//! Both edit `spec.priority`, which is relative to the queue's base. A job that waits keeps the time it was queued, so among
//! equals it stays where it was; a nudged array takes its queued members along.

use crds::{Job, Queue};
use serde_json::json;

use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow;
use crate::session::{Session, Target};

/// Bounds of a job's priority.
const LEAST: i32 = -1000;
const MOST: i32 = 1000;
/// Tries when others change the job meanwhile.
const TRIES: u32 = 5;

/// Arguments of `gctl priority`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The job
    pub job: String,
    /// Its priority relative to its queue's, -1000 to 1000; higher runs first
    #[arg(value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(i64::from(LEAST)..=i64::from(MOST)))]
    pub priority: i32,
}

/// Arguments of `gctl nudge`.
#[derive(Clone, Debug, clap::Args)]
pub struct NudgeArgs {
    /// The job
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
    let names = [name.to_owned()];
    let targets = session.job_targets(&names).await?;
    let Some(target) = targets.first() else {
        return Err(Error::Usage("which job?".into()));
    };
    let mut tries = 0;
    loop {
        tries += 1;
        match once(session, target, &next).await {
            Err(error) if error.is_conflict() && tries < TRIES => {}
            Err(error) => return Err(error),
            Ok((old, new)) if old == new => {
                let label = target.label();
                session
                    .output
                    .line(format!("{label} priority {new} unchanged"))?;
                return Ok(Exit::Ok);
            }
            Ok((old, new)) => {
                let label = target.label();
                session
                    .output
                    .line(format!("{label} priority {old} -> {new}"))?;
                return Ok(Exit::Ok);
            }
        }
    }
}

/// One try; answers with the priority before and after.
async fn once(
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
    let queues = session.resource("queues.gctl.dev").await?;
    let path = queues.object(None, &effective.queue.value);
    let queue = session.api.find(&path, "read the job's queue").await?;
    let queue = queue.and_then(|queue| serde_json::from_value::<Queue>(queue).ok());
    let base = queue.and_then(|queue| queue.spec.priority).unwrap_or(0);
    Ok(effective.priority.value - base)
}
