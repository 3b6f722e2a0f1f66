//! Follows jobs to their end and says each transition in a line.
//!
//! [`Board`] is the pure part: it is told what a job looks like now and answers with what is worth saying. [`follow`] feeds it from a watch.

mod board;

use std::collections::BTreeSet;

use crds::{Job, Node};
use jiff::Timestamp;
use serde_json::Value;

pub use self::board::{
    Board, Ended, GpuIndex, JobKey, Transition, ending, gang_size, key_of, phase_of, place,
    read_job,
};
use crate::error::Error;
use crate::output::table::Columns;
use crate::session::{Selection, Session, Target};
use crate::watch::{Change, Watch};

/// How transitions are said while jobs are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// A line each on standard error.
    Lines,
    /// Not at all.
    Silent,
}

/// How all jobs stood at some revision, so that they can be followed from before they were made.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    items: Vec<Value>,
    revision: String,
}

impl Snapshot {
    /// How the jobs of all namespaces stand now.
    pub async fn take(session: &mut Session) -> Result<Self, Error> {
        let jobs = session.jobs().await?;
        let (items, revision) = session.list(&jobs, None, &Selection::default()).await?;
        Ok(Snapshot { items, revision })
    }
}

/// Follows jobs until all have ended; from `earlier`, so that no transition is missed, or from now.
///
/// # Errors
/// When the server refuses to be watched.
pub async fn follow(
    session: &mut Session,
    targets: &[Target],
    voice: Voice,
    began: Timestamp,
    earlier: Option<Snapshot>,
) -> Result<Board, Error> {
    let mut board = Board::new(targets.iter().map(|target| {
        (
            target.namespace.clone().unwrap_or_default(),
            target.name.clone(),
        )
    }));
    let jobs = session.jobs().await?;
    let mut namespaces: Vec<_> = targets
        .iter()
        .map(|target| target.namespace.clone())
        .collect();
    namespaces.dedup();
    let namespace = match namespaces.as_slice() {
        [one] if earlier.is_none() => one.clone(),
        _ => None,
    };
    let selection = match targets {
        [only] if voice == Voice::Silent => Selection::named(&only.name),
        _ => Selection::default(),
    };
    let mut earlier = earlier;
    let mut reporter = Reporter {
        columns: Columns::default(),
        gpus: GpuIndex::default(),
        voice,
        began,
    };
    reporter.learn(session).await;
    reporter.reserve(targets);
    let mut watch: Option<Watch> = None;
    while !board.is_finished() {
        let from_earlier = earlier.take();
        // What is not there yet in an earlier snapshot is still to come; later, what is missing is gone.
        let complete = from_earlier.is_none();
        let (items, revision) = match from_earlier {
            Some(snapshot) => (snapshot.items, snapshot.revision),
            None => {
                session
                    .list(&jobs, namespace.as_deref(), &selection)
                    .await?
            }
        };
        let mut present = BTreeSet::new();
        for job in items.into_iter().filter_map(read_job) {
            present.insert(key_of(&job));
            reporter.see(session, &mut board, &job).await;
        }
        let missing: Vec<_> = board
            .targets()
            .keys()
            .filter(|key| complete && !present.contains(*key))
            .cloned()
            .collect();
        for key in missing {
            reporter.say(session, board.lose(&key));
        }
        let mut current = match watch.take() {
            Some(mut watch) => {
                watch.resume_at(&revision);
                watch
            }
            None => Watch::new(
                &session.api,
                &jobs,
                namespace.as_deref(),
                selection.clone(),
                &revision,
            ),
        };
        while !board.is_finished() {
            match current.next().await? {
                Change::Added(object) | Change::Modified(object) => {
                    if let Some(job) = read_job(object) {
                        reporter.see(session, &mut board, &job).await;
                    }
                }
                Change::Deleted(object) => {
                    if let Some(job) = read_job(object) {
                        reporter.say(session, board.lose(&key_of(&job)));
                    }
                }
                Change::Interrupted(reason) => session.output.say(format!(
                    "the watch was interrupted and goes on when it can: {reason}"
                )),
                Change::Expired => break,
            }
        }
        watch = Some(current);
    }
    Ok(board)
}

struct Reporter {
    columns: Columns,
    gpus: GpuIndex,
    voice: Voice,
    began: Timestamp,
}

impl Reporter {
    /// Makes room for the longest names, so that the columns stand still.
    fn reserve(&mut self, targets: &[Target]) {
        let longest = targets
            .iter()
            .map(|target| target.name.chars().count() + 2)
            .max()
            .unwrap_or(0);
        self.columns.render(&[vec![
            "000.0s".to_owned(),
            "x".repeat(longest),
            "Succeeded".to_owned(),
        ]]);
    }

    async fn see(&mut self, session: &mut Session, board: &mut Board, job: &Job) {
        if self.voice == Voice::Lines && !self.gpus.covers(job) {
            self.learn(session).await;
        }
        let transition = board.see(job, &self.gpus);
        self.say(session, transition);
    }

    async fn learn(&mut self, session: &mut Session) {
        let Ok(nodes) = session.resource("nodes.gctl.dev").await else {
            return;
        };
        if let Ok((items, _)) = session.list(&nodes, None, &Selection::default()).await {
            let nodes: Vec<Node> = items
                .into_iter()
                .filter_map(|item| serde_json::from_value(item).ok())
                .collect();
            self.gpus.learn(&nodes);
        }
    }

    fn say(&mut self, session: &mut Session, transition: Option<Transition>) {
        let Some(transition) = transition.filter(|_| self.voice == Voice::Lines) else {
            return;
        };
        let millis = ((session.clock)().as_millisecond() - self.began.as_millisecond()).max(0);
        let row = vec![
            format!("{:>3}.{}s", millis / 1000, millis % 1000 / 100),
            transition.name,
            transition.phase,
            transition.detail,
        ];
        let line = self.columns.render(&[row]);
        session.output.say(line.trim_end());
    }
}
