//! `gctl cancel`: ends jobs for good and keeps their objects, unlike `delete`.

use serde_json::json;

use super::wait;
use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{self, Voice};
use crate::session::{Session, Target};

/// Arguments of `gctl cancel`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Names of jobs
    #[arg(value_name = "JOB")]
    pub jobs: Vec<String>,
    /// Label selector
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All jobs of the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Return only when the jobs have ended
    #[arg(long)]
    pub wait: bool,
}

/// Runs the command.
///
/// # Errors
/// When it is unclear what to cancel; what goes wrong with one job is said and makes the exit [`Exit::Error`].
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let selected = args.all || !args.selector.is_empty();
    let targets = match (selected, args.jobs.is_empty()) {
        (true, true) => {
            let jobs = session.jobs().await?;
            wait::select(session, &jobs, &args.selector).await?
        }
        (false, false) => session.job_targets(&args.jobs).await?,
        (true, false) => return Err(Error::Usage("either names, or -l, or --all".into())),
        (false, true) => {
            return Err(Error::Usage(
                "which jobs? give names, -l SELECTOR or --all".into(),
            ));
        }
    };
    let mut exit = Exit::Ok;
    let mut stopping = Vec::new();
    for target in targets {
        match cancel(session, &target).await {
            Ok(None) => {
                session
                    .output
                    .line(format!("{} cancelled", target.label()))?;
                stopping.push(target);
            }
            Ok(Some(phase)) => session
                .output
                .line(format!("{} has ended already ({phase})", target.label()))?,
            Err(error) => {
                session.output.complain(&error);
                exit = Exit::Error;
            }
        }
    }
    if args.wait && !stopping.is_empty() {
        let began = (session.clock)();
        follow::follow(session, &stopping, Voice::Lines, began, None).await?;
    }
    Ok(exit)
}

/// Sets the latch; answers with the phase of a job that had ended already.
async fn cancel(session: &Session, target: &Target) -> Result<Option<String>, Error> {
    let attempted = format!("cancel {}", target.label());
    let live = session
        .api
        .get(&target.path(), api::JSON, &attempted)
        .await?;
    if let Some(job) = follow::read_job(live)
        && follow::phase_of(&job).is_terminal()
    {
        return Ok(Some(format!("{:?}", follow::phase_of(&job))));
    }
    let uri = format!(
        "{}{}",
        target.path(),
        api::query(&[("fieldManager", "gctl-cancel")])
    );
    let patch = json!({"spec": {"cancel": true}});
    session
        .api
        .patch(&uri, api::MERGE_PATCH, &patch, &attempted)
        .await?;
    Ok(None)
}
