//! When a waiting job may start: a bounded look ahead over the ends of what runs.
//!
//! Ends come from hard limits and stops, else from learned run times. Two courses are played through: one in which jobs run
//! as long as is likely, and one in which they run as long as they may. In both, the jobs ahead take what gets free in
//! order, each where it gets free; this job starts when it fits and nothing is kept from it there. In the second, slots are
//! kept for the first of those ahead from when they will have waited long enough for that. The two starts are the band.
//!
//! **What it is not.** A promise: jobs that come later and go first, nodes that fail and people who change their minds are
//! not foreseen, and neither are quotas. Where nothing that runs has a known end, or the look is cut off, the answer is
//! that it is unknown.
//!
//! **Cost.** At most 1,000 ends and 20,000 tries to fit in each course, over the nodes that could take the job.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::attempt;
use crate::cluster::Cluster;
use crate::fit;
use crate::input::{BoundJob, Job, JobUid, Millis, NodeName};
use crate::line::Ahead;
use crate::node_state::{NodeState, Vacated};

/// Most ends that are looked at in one course.
const MOST_EVENTS: usize = 1000;
/// Most nodes on which it is looked for those who must leave, whenever that may be.
const MOST_NODES: usize = 200;
/// Most tries to fit a job in one course.
const MOST_TRIES: usize = 20_000;

/// When a job will probably start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// When it starts if all goes as is likely, or a time before which it does not; `None` when nobody knows what is likely.
    pub earliest: Option<Millis>,
    /// When it starts if all that runs takes as long as it may; `None` when that is not known. One of the two is known.
    pub latest: Option<Millis>,
    /// True when `latest` rests on hard limits alone, and on no learned run time.
    pub firm: bool,
}

/// When a node will have room for a job, were it the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Until {
    /// The node.
    pub node: NodeName,
    /// When, about.
    pub at: Millis,
    /// True when that rests on hard limits alone.
    pub firm: bool,
    /// The jobs that must end for it, by uid; none in vain.
    pub jobs: Vec<JobUid>,
}

/// Jobs that must end on a node so that there is room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leavers {
    /// The node.
    pub node: NodeName,
    /// The jobs, by uid; none in vain.
    pub jobs: Vec<JobUid>,
}

/// How long jobs are taken to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// As long as is likely.
    Likely,
    /// As long as they may, where that was said of them, or else as long as nine of ten do.
    Slow,
}

/// When a job's slots are free, and whether that is certain; `None` when nobody knows.
fn end(job: &BoundJob, now: Millis, course: Course) -> Option<(Millis, bool)> {
    let hard = job.ends_by(now).map(|at| (at.max(now), true));
    let start = job.started.unwrap_or(now);
    let learned = job.estimate.and_then(|estimate| {
        let spans = match course {
            Course::Likely => [estimate.median, estimate.p90],
            Course::Slow => [estimate.p90; 2],
        };
        // Who has outrun what is known of others like it is not foreseen any more.
        let ends = spans.into_iter().map(|span| start.plus(span));
        ends.into_iter().find(|at| *at > now).map(|at| (at, false))
    });
    // A limit that was said of a job is somebody's estimate of it. One that all jobs have is a bound, and no estimate.
    let no_estimate = job.terms.limit_by_default && job.stopping.is_none();
    match course {
        Course::Likely if no_estimate => learned,
        Course::Likely => hard.into_iter().chain(learned).min_by_key(|(at, _)| *at),
        Course::Slow if no_estimate => learned.or(hard),
        Course::Slow => hard.or(learned),
    }
}

/// What one course leads to.
enum Outcome {
    Starts {
        at: Millis,
        firm: bool,
    },
    /// The look was cut off; it does not start before.
    NotBefore(Millis),
    Unknown,
}

/// A job's end in a course.
type End<'a> = Reverse<(Millis, &'a NodeName, &'a JobUid, bool)>;

/// One course.
struct Play<'a> {
    course: Course,
    /// Nodes that were touched.
    nodes: BTreeMap<&'a NodeName, NodeState>,
    ends: BinaryHeap<End<'a>>,
    events: usize,
    tries: usize,
}

impl<'a> Play<'a> {
    fn new(cluster: &'a Cluster, job: &'a Job, now: Millis, course: Course) -> Self {
        let needs = &job.requirements;
        let nodes = cluster
            .candidates(needs)
            .filter(|(name, state)| fit::may_fit(needs, name, state));
        let ends = nodes.flat_map(|(name, state)| {
            state.jobs.values().filter_map(move |job| {
                let (at, firm) = end(job, now, course)?;
                Some(Reverse((at, name, &job.uid, firm)))
            })
        });
        Self {
            course,
            nodes: BTreeMap::new(),
            ends: ends.collect(),
            events: 0,
            tries: 0,
        }
    }

    /// The next end: its job is gone from its node.
    fn next(&mut self, cluster: &'a Cluster) -> Option<(Millis, &'a NodeName, &'a JobUid, bool)> {
        let Reverse((at, name, uid, firm)) = self.ends.pop()?;
        self.events += 1;
        if !self.nodes.contains_key(name) {
            self.nodes
                .insert(name, cluster.nodes.get(name)?.working_copy());
        }
        self.nodes.get_mut(name)?.vacate(uid);
        Some((at, name, uid, firm))
    }

    fn fits(&mut self, job: &Job, name: &NodeName) -> bool {
        self.tries += 1;
        self.nodes
            .get(name)
            .is_some_and(|state| fit::fit(&job.requirements, name, state).is_ok())
    }

    /// Lets a job start on a node that it fits.
    fn start(&mut self, job: &'a Job, name: &'a NodeName, now: Millis) {
        let Some(state) = self.nodes.get_mut(name) else {
            return;
        };
        let Some(placement) = attempt::placement_on(job, name, state) else {
            return;
        };
        let bound = BoundJob {
            started: Some(now),
            ..placement.bound(job, now)
        };
        if let Some((at, firm)) = end(&bound, now, self.course) {
            self.ends.push(Reverse((at, name, &job.uid, firm)));
        }
        state.add(bound);
    }

    /// May slots of the node be kept for a job that waits for them, at that time?
    fn will_keep(&mut self, cluster: &Cluster, job: &Job, name: &NodeName, at: Millis) -> bool {
        self.tries += 1;
        let queued = Millis(job.enqueued_micros / 1000);
        queued.plus(cluster.settings.reserve_after) <= at
            && cluster
                .nodes
                .get(name)
                .is_some_and(|state| fit::may_fit(&job.requirements, name, state))
    }

    fn run(
        &mut self,
        cluster: &'a Cluster,
        job: &'a Job,
        ahead: &[Ahead<'a>],
        now: Millis,
    ) -> Outcome {
        let mut waiting: Vec<Ahead<'a>> = ahead.to_vec();
        let kept = kept_from(cluster, job, now);
        let reserves = match self.course {
            Course::Likely => 0,
            Course::Slow => cluster.settings.reservations as usize,
        };
        let mut all_firm = true;
        while let Some((at, name, _, firm)) = self.next(cluster) {
            all_firm &= firm;
            let mut misfits = BTreeSet::new();
            let mut left = Vec::with_capacity(waiting.len());
            for one in waiting {
                if !misfits.contains(&one.class) {
                    if self.fits(one.job, name) {
                        self.start(one.job, name, at);
                        continue;
                    }
                    misfits.insert(one.class);
                }
                left.push(one);
            }
            waiting = left;
            let kept = kept.get(name).is_some_and(|holders| {
                let mut still = waiting.iter();
                still.any(|one| holders.contains(&one.job.uid))
            });
            let kept = kept || {
                // They are the first to whom slots are promised, if they are not placed before.
                let mut first = waiting.iter().take(reserves);
                first.any(|one| self.will_keep(cluster, one.job, name, at))
            };
            if !kept && self.fits(job, name) {
                return Outcome::Starts { at, firm: all_firm };
            }
            if self.events >= MOST_EVENTS || self.tries >= MOST_TRIES {
                return Outcome::NotBefore(at);
            }
        }
        Outcome::Unknown
    }
}

/// Nodes on which slots are kept from a job, with those for whom they are.
fn kept_from<'a>(
    cluster: &'a Cluster,
    job: &Job,
    now: Millis,
) -> BTreeMap<&'a NodeName, BTreeSet<&'a JobUid>> {
    let nodes = cluster.holds.all().flat_map(|(_, hold)| hold.nodes());
    let nodes: BTreeSet<&NodeName> = nodes.collect();
    let kept = nodes
        .into_iter()
        .filter(|name| cluster.kept_from(job, name, now).is_some());
    kept.map(|name| (name, cluster.holds.on(name).map(|(uid, _)| uid).collect()))
        .collect()
}

/// When a job that waits will probably start, behind these; `None` when that is not known.
pub(crate) fn band(
    cluster: &Cluster,
    job: &Job,
    ahead: &[Ahead<'_>],
    all_ahead: bool,
    now: Millis,
) -> Option<Band> {
    let play = |course| Play::new(cluster, job, now, course).run(cluster, job, ahead, now);
    let earliest = match play(Course::Likely) {
        Outcome::Starts { at, .. } | Outcome::NotBefore(at) => Some(at),
        Outcome::Unknown => None,
    };
    let (latest, firm) = match play(Course::Slow) {
        Outcome::Starts { at, firm } if all_ahead => (Some(at).max(earliest), firm),
        Outcome::Starts { .. } | Outcome::NotBefore(_) | Outcome::Unknown => (None, false),
    };
    earliest.or(latest).map(|_| Band {
        earliest,
        latest,
        firm,
    })
}

/// When one node will have room for a job, were it the next there; `None` when that is not known.
pub(crate) fn room_on(cluster: &Cluster, job: &Job, name: &NodeName, now: Millis) -> Option<Until> {
    let state = cluster.nodes.get(name)?;
    let mut ends: Vec<(Millis, &JobUid, bool)> = state
        .jobs
        .values()
        .filter_map(|job| end(job, now, Course::Likely).map(|(at, firm)| (at, &job.uid, firm)))
        .collect();
    ends.sort_unstable();
    let mut state = state.working_copy();
    let mut gone = Vec::new();
    for (at, uid, firm) in ends {
        gone.push((uid, firm, state.vacate(uid)?));
        if fit::fit(&job.requirements, name, &state).is_ok() {
            return Some(needed(job, name, state, gone, at));
        }
    }
    None
}

/// Who must leave one node so that a job would have room there, were it the next; nobody in vain, and the node where these
/// are the fewest. For when nobody knows when that will be.
pub(crate) fn fewest_to_leave(cluster: &Cluster, job: &Job, now: Millis) -> Option<Leavers> {
    let kept = kept_from(cluster, job, now);
    let may = cluster
        .candidates(&job.requirements)
        .filter(|(name, state)| {
            !kept.contains_key(*name) && fit::may_fit(&job.requirements, name, state)
        });
    let sets = may.take(MOST_NODES).filter_map(|(name, state)| {
        let mut alone = state.working_copy();
        let mut runs: Vec<&BoundJob> = state.jobs.values().collect();
        // Those that end first, or have run longest, are the ones to wait for.
        runs.sort_unstable_by_key(|run| {
            let end = end(run, now, Course::Likely).map_or(Millis(i64::MAX), |(at, _)| at);
            (end, run.started.unwrap_or(now), &run.uid)
        });
        let gone = runs
            .into_iter()
            .map(|run| Some((&run.uid, false, alone.vacate(&run.uid)?)));
        let gone: Vec<_> = gone.collect::<Option<_>>()?;
        if gone.is_empty() || fit::fit(&job.requirements, name, &alone).is_err() {
            return None;
        }
        // Put back in this order, what is left is whom it takes at the least.
        let gone = gone.into_iter().rev().collect();
        Some(Leavers {
            node: name.clone(),
            jobs: needed(job, name, alone, gone, now).jobs,
        })
    });
    sets.min_by_key(|leavers| leavers.jobs.len())
}

/// Where there will be room for a job first, were it the next wherever nothing is kept from it; `None` when that is not
/// known.
pub(crate) fn first_room(cluster: &Cluster, job: &Job, now: Millis) -> Option<Until> {
    let mut play = Play::new(cluster, job, now, Course::Likely);
    let kept = kept_from(cluster, job, now);
    while let Some((_, name, _, _)) = play.next(cluster) {
        if !kept.contains_key(name) && play.fits(job, name) {
            return room_on(cluster, job, name, now);
        }
        if play.events >= MOST_EVENTS {
            return None;
        }
    }
    None
}

/// Leaves out whose end is not needed, the last to end first.
fn needed(
    job: &Job,
    name: &NodeName,
    mut state: NodeState,
    gone: Vec<(&JobUid, bool, Vacated)>,
    at: Millis,
) -> Until {
    let mut jobs = Vec::new();
    let mut all_firm = true;
    for (uid, firm, vacated) in gone {
        state.reoccupy(vacated);
        if fit::fit(&job.requirements, name, &state).is_err() {
            state.vacate(uid);
            jobs.push(uid.clone());
            all_firm &= firm;
        }
    }
    jobs.sort_unstable();
    Until {
        node: name.clone(),
        at,
        firm: all_firm,
        jobs,
    }
}
