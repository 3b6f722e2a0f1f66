//! `gctl why JOB`: why a job waits, who is ahead of it, and when it will probably start; with `--what-if`, the smallest changes
//! that would start it now and what each would cost others.
//!
//! The answer is computed here and now, by the core that also decides, over everything that decides where jobs go.

use crds::job_status::{Nomination, Reservation};
use crds::{Job, JobStatus, Node};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use scheduler::explain;
use scheduler::preempt::{Plan, Right, Victim};
use scheduler::whatif::{DryRun, Remedy};
use scheduler::why::Why;
use scheduler::{Cluster, Gang, Millis};
use serde_json::{Value, json};

use super::snapshot::{self, Taken};
use crate::api;
use crate::error::Error;
use crate::exit::Exit;
use crate::follow::{self, GpuIndex};
use crate::output::object::{self, Format};
use crate::output::table;
use crate::session::Session;

/// Most jobs ahead that are named.
const MOST_AHEAD: usize = 5;

/// Arguments of `gctl why`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The job
    pub job: String,
    /// Say what would start it now, and what that would cost others
    #[arg(long)]
    pub what_if: bool,
    /// yaml or json
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub output: String,
}

/// What is said of one job.
struct Answer {
    job: Job,
    snapshot: controllers::Snapshot,
    settings_known: bool,
    gpus: GpuIndex,
    why: Option<Why>,
    remedies: Option<Vec<Remedy>>,
    clock: Wall,
}

/// Times as a person reads them: local, and without the day when that is today.
#[derive(Clone, Debug)]
struct Wall {
    zone: TimeZone,
    now: Timestamp,
}

/// Runs the command.
///
/// # Errors
/// When there is no such job, or something that decides where jobs go cannot be read.
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let format: Format = args.output.parse()?;
    let names = [args.job.clone()];
    let targets = session.job_targets(&names).await?;
    let Some(target) = targets.first() else {
        return Err(Error::Usage("which job?".into()));
    };
    let attempted = format!("get {}", target.label());
    let live = session
        .api
        .get(&target.path(), api::JSON, &attempted)
        .await?;
    let job = follow::read_job(live).ok_or_else(|| Error::BadAnswer {
        attempted,
        reason: "it is not a job".to_owned(),
    })?;
    let Taken {
        objects,
        snapshot,
        settings_known,
        ..
    } = snapshot::take(session).await?;
    let now = (session.clock)();
    // A gang waits as its members do, who wait together.
    let waiting = snapshot.waiting_member(&job, &objects);
    let id = controllers::Snapshot::id(waiting.unwrap_or(&job));
    let millis = Millis(now.as_millisecond());
    let what_if = |cluster: &Cluster| cluster.what_if(&id, millis);
    let answer = Answer {
        gpus: index(&objects.nodes),
        why: snapshot.cluster.why(&id, millis),
        remedies: args.what_if.then(|| what_if(&snapshot.cluster)),
        clock: Wall {
            zone: TimeZone::system(),
            now,
        },
        job,
        snapshot,
        settings_known,
    };
    match format {
        Format::Table { .. } => session.output.raw(answer.page().as_bytes())?,
        Format::Name => {
            return Err(Error::Usage(
                "an answer has no name: use -o yaml or json".into(),
            ));
        }
        format => session
            .output
            .raw(object::render(&answer.document(), &format).as_bytes())?,
    }
    Ok(Exit::Ok)
}

fn index(nodes: &[Node]) -> GpuIndex {
    let mut gpus = GpuIndex::default();
    gpus.learn(nodes);
    gpus
}

/// Why the last node that a waiting job was bound to did not take it.
fn handed_back(status: &JobStatus) -> String {
    let last = status.attempts.last().filter(|last| {
        status.binding.is_none() && last.attempt == status.attempt && last.start_time.is_none()
    });
    let told = last.and_then(|last| Some((last.node_name.as_deref()?, last.reason.as_deref()?)));
    told.map_or_else(String::new, |(node, reason)| {
        let reason = reason.strip_prefix("Refused: ").unwrap_or(reason);
        format!("by {node}: {reason}")
    })
}

impl Wall {
    fn show(&self, time: Millis) -> String {
        let Ok(time) = Timestamp::from_millisecond(time.0) else {
            return "the end of time".to_owned();
        };
        let (time, now) = (
            time.to_zoned(self.zone.clone()),
            self.now.to_zoned(self.zone.clone()),
        );
        let pattern = if time.date() == now.date() {
            "%H:%M"
        } else if time.year() == now.year() {
            "%b %-d %H:%M"
        } else {
            "%Y-%m-%d %H:%M"
        };
        time.strftime(pattern).to_string()
    }
}

impl Answer {
    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.job.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Jobs in a text of the core are called by their uids.
    fn named(&self, text: &str) -> String {
        self.snapshot.named(text, self.namespace())
    }

    fn page(&self) -> String {
        let status = self.status();
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| {
            if !value.is_empty() {
                rows.push(vec![format!("{name}:"), value]);
            }
        };
        row("Job", self.job.metadata.name.clone().unwrap_or_default());
        row("Phase", format!("{:?}", follow::phase_of(&self.job)));
        let time = |at| self.clock.show(at);
        match self.why.as_ref().filter(|why| why.position.is_some()) {
            Some(why) => {
                let lines = why.lines(&time);
                row("Why", self.named(lines.first().map_or("", String::as_str)));
                if let Some(position) = &why.position {
                    row(
                        "Position",
                        format!(
                            "{} of {}; {} of {} in queue {}",
                            position.place,
                            position.waiting,
                            position.place_in_queue,
                            position.waiting_in_queue,
                            position.queue
                        ),
                    );
                    row("Ahead", self.ahead(why));
                }
                if lines.len() > 2 {
                    row("Start", self.named(lines.last().map_or("", String::as_str)));
                }
            }
            None => row("Why", self.aside(&status)),
        }
        row("Handed back", handed_back(&status));
        let waiting = status.waiting.as_ref();
        let reservation = waiting.and_then(|waiting| waiting.reservation.as_ref());
        row(
            "Reserved",
            reservation.map_or_else(String::new, |held| self.reserved(held)),
        );
        let nomination = status.nomination.as_ref();
        row(
            "Nominated",
            nomination.map_or_else(String::new, |held| self.nominated(held)),
        );
        let mut text = table::render(&rows);
        // What does not wait needs no remedy.
        let waits = self.why.as_ref().is_some_and(|why| why.position.is_some());
        if let Some(remedies) = self.remedies.as_ref().filter(|_| waits) {
            text.push_str(&self.what_if(remedies));
        }
        text
    }

    /// What there is to say of a job that placement does not look at, or that is placed.
    fn aside(&self, status: &JobStatus) -> String {
        use controllers::Standing;
        match self.snapshot.standing(&self.job) {
            Some(Standing::Holds) => {
                let place = follow::place(&self.job, &self.gpus);
                format!("it has its place: {}", place.unwrap_or_default())
            }
            Some(Standing::NotReady) => match &status.waiting {
                Some(waiting) if waiting.reason != "Suspended" => {
                    let message = waiting.message.as_deref().unwrap_or_default();
                    format!("{}: {message}", waiting.reason)
                }
                _ => "it is suspended; `suspend: false` lets it wait".to_owned(),
            },
            Some(Standing::Waits | Standing::Aside) | None => match &status.waiting {
                Some(waiting) => match &waiting.message {
                    Some(message) => format!("{}: {message}", waiting.reason),
                    None => waiting.reason.clone(),
                },
                None => status.message.clone().unwrap_or_else(|| {
                    if follow::phase_of(&self.job).is_terminal() {
                        "it has ended".to_owned()
                    } else if self.job.spec.array.is_some()
                        || follow::gang_size(&self.job).is_some()
                    {
                        "its members wait and run for it".to_owned()
                    } else {
                        "the admission controller has not seen it yet".to_owned()
                    }
                }),
            },
        }
    }

    fn ahead(&self, why: &Why) -> String {
        let Some(position) = &why.position else {
            return String::new();
        };
        let shown = position.ahead.iter().take(MOST_AHEAD);
        let names: Vec<String> = shown
            .map(|uid| self.snapshot.name(uid, self.namespace()))
            .collect();
        match (position.place - 1).saturating_sub(names.len()) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }

    fn place_of(&self, node: &str, gpus: &[String]) -> String {
        if gpus.is_empty() {
            return node.to_owned();
        }
        let names: Vec<String> = gpus.iter().map(|uuid| self.gpus.name(uuid)).collect();
        format!("{node} gpu {}", names.join(","))
    }

    fn reserved(&self, held: &Reservation) -> String {
        let place = self.place_of(&held.node_name, &held.gpus);
        match &held.not_later_than {
            Some(time) => {
                let time = self.clock.show(Millis(time.0.as_millisecond()));
                format!("{place}, from {time} at the latest")
            }
            None => format!("{place}, once what runs there has ended"),
        }
    }

    fn nominated(&self, held: &Nomination) -> String {
        let place = self.place_of(&held.node_name, &held.gpus);
        let victims: Vec<&str> = held.victims.iter().map(|one| one.name.as_str()).collect();
        if victims.is_empty() {
            return place;
        }
        format!("{place}, once these have left: {}", victims.join(", "))
    }

    fn what_if(&self, remedies: &[Remedy]) -> String {
        if remedies.is_empty() {
            return "What if:\n  no single change would start it\n".to_owned();
        }
        let cells = ["IF YOU", "IT GOES TO", "OVERTAKES", "DISPLACES"];
        let mut rows = vec![cells.map(str::to_owned).to_vec()];
        for remedy in remedies {
            let victims: Vec<String> = remedy
                .victims
                .iter()
                .map(|victim| self.snapshot.name(&victim.job, self.namespace()))
                .collect();
            let or_none = |text: String| {
                if text.is_empty() {
                    "-".to_owned()
                } else {
                    text
                }
            };
            rows.push(vec![
                self.change(remedy),
                or_none(
                    remedy
                        .placement
                        .as_ref()
                        .map_or_else(String::new, |placement| placement.node.to_string()),
                ),
                or_none(match remedy.overtakes {
                    0 => String::new(),
                    count => count.to_string(),
                }),
                or_none(victims.join(", ")),
            ]);
        }
        let mut text = "What if:\n".to_owned();
        for line in table::render(&rows).lines() {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// The change alone, without where that leads.
    fn change(&self, remedy: &Remedy) -> String {
        let bare = Remedy {
            change: remedy.change.clone(),
            placement: None,
            victims: Vec::new(),
            overtakes: 0,
        };
        self.named(&bare.line(&|at| self.clock.show(at)))
    }

    /// The answer for machines: times in RFC 3339, jobs as `namespace/name`.
    fn document(&self) -> Value {
        let status = self.status();
        let name = |uid| self.snapshot.name(uid, "");
        let time =
            |at: Millis| Timestamp::from_millisecond(at.0).map_or(Value::Null, |at| json!(at));
        let why = self.why.as_ref();
        let position = why.and_then(|why| why.position.as_ref()).map(|position| {
            json!({
                "place": position.place,
                "waiting": position.waiting,
                "queue": position.queue.as_str(),
                "placeInQueue": position.place_in_queue,
                "waitingInQueue": position.waiting_in_queue,
                "ahead": position.ahead.iter().map(name).collect::<Vec<_>>(),
            })
        });
        let forecast = why.and_then(|why| why.forecast).map(|band| {
            json!({
                "earliest": band.earliest.map(time),
                "latest": band.latest.map(time),
                "byLimitsAlone": band.firm,
            })
        });
        let until = why.and_then(|why| why.until.as_ref()).map(|until| {
            json!({
                "node": until.node.as_str(),
                "time": time(until.at),
                "byLimitsAlone": until.firm,
                "jobs": until.jobs.iter().map(name).collect::<Vec<_>>(),
            })
        });
        let waits = position.is_some();
        let reason = why.filter(|_| waits).map(|why| match &why.standing {
            explain::Standing::Waits(why) | explain::Standing::Never(why) => {
                json!({"class": why.class().as_str(), "message": self.named(&why.to_string())})
            }
            other @ (explain::Standing::Bound(_) | explain::Standing::Fits(_)) => {
                let class = match other {
                    explain::Standing::Bound(_) => "Bound",
                    _ => "Fits",
                };
                json!({"class": class})
            }
        });
        let mut document = json!({
            "job": format!(
                "{}/{}",
                self.namespace(),
                self.job.metadata.name.as_deref().unwrap_or_default()
            ),
            "phase": format!("{:?}", follow::phase_of(&self.job)),
            "waits": waits,
            "reason": reason.unwrap_or_else(|| json!({"message": self.aside(&status)})),
            "position": position,
            "roomOnNearestNode": until,
            "start": forecast,
            "reservation": status.waiting.as_ref().and_then(|w| w.reservation.clone()),
            "nomination": status.nomination,
            "settings": if self.settings_known { "InForce" } else { "Default" },
        });
        if let Some(remedies) = &self.remedies {
            let remedies = remedies.iter().map(|remedy| {
                json!({
                    "change": self.change(remedy),
                    "node": remedy.placement.as_ref().map(|p| p.node.as_str().to_owned()),
                    "overtakes": remedy.overtakes,
                    "displaces": remedy.victims.iter().map(|v| name(&v.job)).collect::<Vec<_>>(),
                })
            });
            document["whatIf"] = remedies.collect();
        }
        document
    }
}

/// What submitting a job would do, in a few lines.
///
/// # Errors
/// When something that decides where jobs go cannot be read.
pub(super) async fn dry_run(session: &mut Session, job: &Job) -> Result<Vec<String>, Error> {
    let Taken {
        objects,
        snapshot,
        settings,
        ..
    } = snapshot::take(session).await?;
    let now = (session.clock)();
    let clock = Wall {
        zone: TimeZone::system(),
        now,
    };
    let mut candidate = match snapshot.candidate(job, &objects, now) {
        Ok(candidate) => candidate,
        Err(withheld) => return Ok(vec![format!("it would wait: {withheld}")]),
    };
    let gpus = index(&objects.nodes);
    let namespace = session.namespace.clone();
    let millis = Millis(now.as_millisecond());
    let named = |text: String| snapshot.named(&text, &namespace);
    let mut cluster = snapshot.cluster.clone();
    let size = follow::gang_size(job);
    if let Some(size) = size {
        let id = format!("{}/1", candidate.uid).into();
        candidate.gang = Some(Gang { id, size });
        for rank in 1..size {
            let uid = format!("{}/{rank}", candidate.uid).into();
            let member = candidate.clone();
            cluster.upsert_job(scheduler::Job { uid, ..member });
        }
    }
    Ok(match cluster.dry_run(candidate, millis) {
        None => Vec::new(),
        Some(DryRun::Starts(_)) if size.is_some() => {
            let size = size.unwrap_or_default();
            vec![format!(
                "its {size} members would start at once, each on a node of its own"
            )]
        }
        Some(DryRun::Starts(placement)) => {
            let names: Vec<String> = placement
                .gpus
                .iter()
                .map(|uuid| gpus.name(uuid.as_str()))
                .collect();
            let gpus = if names.is_empty() {
                String::new()
            } else {
                format!(" gpu {}", names.join(","))
            };
            vec![format!(
                "it would start at once on {}{gpus}",
                placement.node
            )]
        }
        Some(DryRun::Never(why)) => vec![format!("it could never run: {why}")],
        Some(DryRun::Waits { why, plans }) => {
            let mut lines = vec!["it would wait".to_owned()];
            let said = why.lines(&|at| clock.show(at));
            lines.extend(said.into_iter().map(|line| format!("  {}", named(line))));
            let plans = plans.unwrap_or_default();
            lines.extend(displaced(
                &plans,
                &snapshot,
                &namespace,
                settings.preemption,
            ));
            lines
        }
    })
}

/// Whom plans displace, one for each member of a gang; without preemption only a person would carry them out.
fn displaced(
    plans: &[Plan],
    snapshot: &controllers::Snapshot,
    namespace: &str,
    preemption: bool,
) -> Vec<String> {
    let by_hand = if preemption {
        ""
    } else {
        ", if asked for with `gctl preempt --blockers-of`"
    };
    let mut lines = Vec::new();
    for plan in plans {
        let node = &plan.placement.node;
        lines.push(match plans.len() {
            1 => format!("  it may have room on {node} at once{by_hand}"),
            _ => format!("  a member may have room on {node} at once{by_hand}"),
        });
        lines.extend(plan.victims.iter().map(|victim| {
            let name = snapshot.name(&victim.job, namespace);
            let Victim {
                priority, right, ..
            } = victim;
            let borrowed = match right {
                Right::Priority => "",
                Right::Borrowed => ", on borrowed quota",
            };
            format!("    displacing {name} (priority {priority}{borrowed})")
        }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_until_the_job_is_bound_again() {
        let mut status = JobStatus {
            attempt: 3,
            attempts: vec![crds::job_status::AttemptRecord {
                attempt: 3,
                node_name: Some("n1".to_owned()),
                reason: Some("Refused: GPU 0 has 1.5 of 10.0 GiB free".to_owned()),
                ..Default::default()
            }],
            ..JobStatus::default()
        };
        let told = "by n1: GPU 0 has 1.5 of 10.0 GiB free";
        assert_eq!(handed_back(&status), told);
        status.binding = Some(crds::job_status::Binding::default());
        assert_eq!(handed_back(&status), "");
    }

    #[test]
    fn a_time_is_local_and_as_short_as_it_can_be() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let clock = Wall {
            zone: TimeZone::fixed(jiff::tz::offset(2)),
            now: at("2026-03-01T12:00:00Z"),
        };
        for (time, shown) in [
            ("2026-03-01T12:30:00Z", "14:30"),
            ("2026-03-01T21:59:00Z", "23:59"),
            ("2026-03-01T22:00:00Z", "Mar 2 00:00"),
            ("2027-03-01T12:00:00Z", "2027-03-01 14:00"),
        ] {
            assert_eq!(
                clock.show(Millis(at(time).as_millisecond())),
                shown,
                "{time}"
            );
        }
    }
}
