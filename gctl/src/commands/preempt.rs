//! `gctl preempt JOB`: displaces a running job; `gctl preempt --blockers-of JOB`: displaces what keeps a job waiting.
//!
//! The wish is an annotation that names one attempt; the controllers act on it, and a later attempt is not meant by it. What
//! is displaced goes back to its place in the queue, or ends, as its `onPreemption` says.

use crds::job::OnPreemption;
use crds::{Job, PREEMPT_ANNOTATION, PREEMPT_BLOCKERS_ANNOTATION, PREEMPT_FORCE, Phase, phase};
use scheduler::{Millis, preempt};
use serde_json::json;

use super::snapshot;
use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow;
use crate::session::{Session, Target};

/// Arguments of `gctl preempt`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Jobs to displace
    #[arg(value_name = "JOB", required_unless_present = "blockers_of")]
    pub jobs: Vec<String>,
    /// Displace the cheapest set of jobs that makes room for this waiting one
    #[arg(long, value_name = "JOB", conflicts_with = "jobs")]
    pub blockers_of: Option<String>,
    /// Displace jobs also when they are not preemptible; with --blockers-of still none of the same or a higher priority
    #[arg(long)]
    pub force: bool,
}

/// Runs the command.
///
/// # Errors
/// With `--blockers-of`, when nobody can be displaced for the job; otherwise what goes wrong with one job is said and makes
/// the exit [`Exit::Error`].
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    if let Some(name) = &args.blockers_of {
        return blockers(session, name, args.force).await;
    }
    let mut exit = Exit::Ok;
    for target in session.job_targets(&args.jobs).await? {
        match displace(session, &target, args.force).await {
            Ok(line) => session.output.line(line)?,
            Err(error) => {
                session.output.complain(&error);
                exit = Exit::Error;
            }
        }
    }
    Ok(exit)
}

/// Asks for one job's displacement; answers with what will become of it.
async fn displace(session: &Session, target: &Target, force: bool) -> Result<String, Error> {
    let label = target.label();
    let attempted = format!("preempt {label}");
    let job = read(session, target, &attempted).await?;
    let status = job.status.clone().unwrap_or_default();
    let held = phase::held_binding(&status).filter(|_| status.outcome.is_none());
    let gang = follow::gang_size(&job);
    let up = matches!(follow::phase_of(&job), Phase::Scheduled | Phase::Running);
    let place = held.map(|binding| binding.node_name.clone());
    let nodes = gang.filter(|_| up).map(|size| format!("its {size} nodes"));
    let Some(place) = place.or(nodes) else {
        return Err(Error::State(format!(
            "{label} holds nothing that could be taken ({:?})",
            follow::phase_of(&job)
        )));
    };
    let effective = status.effective.as_ref();
    if !force && !effective.is_some_and(|effective| effective.preemptible.value) {
        return Err(Error::State(format!(
            "{label} is not preemptible; --force displaces it all the same"
        )));
    }
    let wish = status.attempt.to_string();
    annotate(session, target, (&job, PREEMPT_ANNOTATION), &wish).await?;
    let next = match effective.map_or_else(OnPreemption::default, |e| e.on_preemption.value) {
        OnPreemption::Requeue => "goes back to its place in the queue",
        OnPreemption::Stop => "ends as Preempted",
    };
    Ok(format!(
        "{label} is displaced from {place} (attempt {}) and {next}",
        status.attempt
    ))
}

/// Asks for the displacement of what keeps a job waiting, having looked who that is.
async fn blockers(session: &mut Session, name: &str, force: bool) -> Result<Exit, Error> {
    let names = [name.to_owned()];
    let targets = session.job_targets(&names).await?;
    let Some(target) = targets.first() else {
        return Err(Error::Usage("which job?".into()));
    };
    let label = target.label();
    let attempted = format!("preempt the blockers of {label}");
    let job = read(session, target, &attempted).await?;
    let now = (session.clock)();
    let mut taken = snapshot::take(session).await?;
    if force {
        taken.make_all_preemptible();
    }
    let snapshot = taken.snapshot;
    let waiting = snapshot.waiting_member(&job, &taken.objects);
    let id = controllers::Snapshot::id(waiting.unwrap_or(&job));
    let plans = preempt::plan_gang(&snapshot.cluster, &id, Millis(now.as_millisecond()))
        .map_err(|why| Error::State(format!("nobody is displaced for {label}: {why}")))?;
    // The generation of a gang has its number while it waits; a job gets its attempt's when it is bound.
    let known = job.status.as_ref().map_or(0, |status| status.attempt);
    let attempt = known + u32::from(waiting.is_none());
    let wish = if force {
        format!("{attempt}{PREEMPT_FORCE}")
    } else {
        attempt.to_string()
    };
    annotate(session, target, (&job, PREEMPT_BLOCKERS_ANNOTATION), &wish).await?;
    let namespace = session.namespace.clone();
    for plan in &plans {
        session
            .output
            .line(format!("{label} gets room on {}", plan.placement.node))?;
        for victim in &plan.victims {
            let name = snapshot.name(&victim.job, &namespace);
            session.output.line(format!(
                "  displaces {name} (priority {}, queue {})",
                victim.priority, victim.queue
            ))?;
        }
        for leaving in &plan.leaving {
            let name = snapshot.name(leaving, &namespace);
            session
                .output
                .line(format!("  waits for {name}, which is being stopped"))?;
        }
    }
    Ok(Exit::Ok)
}

async fn read(session: &Session, target: &Target, attempted: &str) -> Result<Job, Error> {
    let live = session
        .api
        .get(&target.path(), api::JSON, attempted)
        .await?;
    follow::read_job(live).ok_or_else(|| Error::BadAnswer {
        attempted: attempted.to_owned(),
        reason: "it is not a job".to_owned(),
    })
}

async fn annotate(
    session: &Session,
    target: &Target,
    (job, annotation): (&Job, &str),
    wish: &str,
) -> Result<(), Error> {
    let uri = format!(
        "{}{}",
        target.path(),
        api::query(&[("fieldManager", "gctl-preempt")])
    );
    let patch = json!({"metadata": {
        "uid": job.metadata.uid,
        "annotations": {annotation: wish},
    }});
    let attempted = format!("preempt {}", target.label());
    session
        .api
        .patch(&uri, api::MERGE_PATCH, &patch, &attempted)
        .await?;
    Ok(())
}
