//! Preemption plans: the cheapest jobs to displace so that one that cannot be placed can (rules.md section 8).
//!
//! **Guarantees.** A plan really makes room: the job fits the node's state without the victims, by the same check that
//! places jobs. No victim is there in vain: without any one of them it would not fit. A victim's declared priority is
//! strictly lower, it is preemptible and it would wait behind the job, its age included; or its queue holds more than its
//! quota and the job's queue does not, even with the job. It never is something that the job depends on, a binding that is
//! not confirmed, a job that is being stopped already, or one that has not run as long as its queue promises. A job that its
//! queue keeps gets no plan.
//!
//! **Gangs.** All members of a gang are planned for at once, or none (`together`): its queue must own what all of them ask for
//! before they take anything back, and who borrowed gives back no more than that to all of them. Displacing one member of a
//! gang stops all of it, so all must be such as may be displaced, it costs what all of them lose, and what all of them hold
//! counts towards what their queue gives back.
//!
//! **Cost.** The highest priority among the victims, then the GPU time lost since their last checkpoints, then their number,
//! then the core time lost; the least over all nodes. Of equal plans the better fit wins, then the node's name. On one node
//! the least is found by a search that is exact for ten candidates and is cut off after a fixed number of looks beyond.
//! Nodes are searched in the order of a bound from below, until it is dearer than the best plan. A glance at a few numbers of
//! every node gives a first one, and only nodes that are worth it then get a closer one.
//!
//! What is being stopped counts as free soon: a plan without victims says that only waiting is needed.

mod check;
mod glance;
mod search;
mod stakes;
mod together;
mod victims;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use crate::cluster::{Cluster, Entry};
use crate::decide::Placement;
use crate::explain::Explanation;
use crate::fit;
use crate::input::{Job, JobUid, Millis, NodeName, QueueName, Span};
use crate::reserve::Views;

pub(crate) use check::violations;
pub(crate) use glance::{DEVICES, Glance, Seen};
use search::Search;
pub(crate) use stakes::Stakes;
pub(crate) use together::plan_members;
use together::seen_by;
use victims::Rights;

/// Most nodes that are searched for one plan. All are bounded from below first, and searched in the order of the bounds until
/// one is dearer than the best plan; only where that many are nearly alike is a cheaper one left out.
const MOST_SEARCHES: u32 = 100;

/// What to displace so that a job can have a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the job goes once the room is there.
    pub placement: Placement,
    /// Who is to be stopped, by uid. Empty when it is enough that those leave that are being stopped already.
    pub victims: Vec<Victim>,
    /// Jobs there that are being stopped already and that the plan counts as gone, by uid.
    pub leaving: Vec<JobUid>,
    /// What it costs.
    pub cost: Cost,
}

/// A job to be displaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The job.
    pub job: JobUid,
    /// Its queue.
    pub queue: QueueName,
    /// Its declared priority.
    pub priority: i32,
    /// GPU time that it loses, in GPU-milliseconds since its last checkpoint, or since its start.
    pub lost: u64,
    /// Why it may be displaced.
    pub right: Right,
}

/// Why a job may be displaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// It is preemptible and of lower declared priority.
    Priority,
    /// Its queue holds more than its quota, and the queue of the job that needs room does not.
    Borrowed,
}

/// What a plan costs; less is better, field by field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// The highest declared priority among the victims; `None` without victims.
    pub priority: Option<i32>,
    /// GPU-milliseconds lost.
    pub lost: u64,
    /// Number of victims.
    pub victims: u32,
    /// Core-milliseconds lost, so that among jobs without GPUs the youngest goes.
    pub core_lost: u64,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlan {
    /// The job does not wait.
    NotWaiting,
    /// It fits this node as it is.
    Fits(NodeName),
    /// Its queue keeps it, so it displaces nobody.
    Queue(Explanation),
    /// It is a member of a gang, which is placed whole.
    Gang,
    /// There is nobody whom it may displace where it could run.
    Nobody,
    /// Even without everybody whom it may displace it would not fit.
    NotEnough,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, priority, .. } = self;
        let borrowed = match self.right {
            Right::Priority => "",
            Right::Borrowed => ", on borrowed quota",
        };
        let lost = Span(i64::try_from(self.lost).unwrap_or(i64::MAX));
        write!(
            f,
            "{job} (priority {priority}{borrowed}, loses {lost} of GPU time)"
        )
    }
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPlan::NotWaiting => f.write_str("it does not wait"),
            NoPlan::Fits(node) => write!(f, "it fits {node} without displacing anybody"),
            NoPlan::Queue(why) => write!(f, "it displaces nobody while its queue keeps it: {why}"),
            NoPlan::Gang => f.write_str("its gang is placed whole, not one member alone"),
            NoPlan::Nobody => f.write_str("there is nobody whom it may displace"),
            NoPlan::NotEnough => {
                f.write_str("it would not fit even without everybody whom it may displace")
            }
        }
    }
}

/// The cheapest plan for a waiting job over all nodes.
///
/// # Errors
/// Why there is none. A member of a gang has none by itself, see [`plan_gang`].
pub fn plan(cluster: &Cluster, uid: &JobUid, now: Millis) -> Result<Plan, NoPlan> {
    let job = cluster.waiting_job(uid).ok_or(NoPlan::NotWaiting)?;
    plan_for(cluster, job, now, None)
}

/// The cheapest plan for a waiting job on one node; for a member of a gang what would make room for it there.
///
/// # Errors
/// Why there is none.
pub fn plan_on(
    cluster: &Cluster,
    uid: &JobUid,
    node: &NodeName,
    now: Millis,
) -> Result<Plan, NoPlan> {
    let job = cluster.waiting_job(uid).ok_or(NoPlan::NotWaiting)?;
    plan_for(cluster, job, now, Some(node))
}

/// Plans for all members of a job's gang that have no node, in their order, each on a node of its own; for a job in no gang
/// its plan. A member that fits a node as it is gets a plan without victims, but not all of them do.
///
/// It is all of them or none: who borrowed gives back no more than that to the gang as a whole, and a gang whose queue would
/// hold more than its quota with all of them takes back nothing.
///
/// # Errors
/// Why there are none.
pub fn plan_gang(cluster: &Cluster, uid: &JobUid, now: Millis) -> Result<Vec<Plan>, NoPlan> {
    let job = cluster.waiting_job(uid).ok_or(NoPlan::NotWaiting)?;
    if job.gang.is_none() {
        return Ok(vec![plan_for(cluster, job, now, None)?]);
    }
    if let Some(why) = cluster.kept_back(job, now) {
        return Err(NoPlan::Queue(why));
    }
    if let Ok(places) = cluster.gang_places(job, now, &mut Views::default()) {
        let (_, first) = places.into_iter().next().ok_or(NoPlan::NotWaiting)?;
        return Err(NoPlan::Fits(first));
    }
    plan_members(cluster, &cluster.unit(job), now)
}

/// The cheapest plan for a job that need not be known, on one node or on all.
pub(crate) fn plan_for(
    cluster: &Cluster,
    job: &Job,
    now: Millis,
    on: Option<&NodeName>,
) -> Result<Plan, NoPlan> {
    if job.gang.is_some() && on.is_none() {
        return Err(NoPlan::Gang);
    }
    if let Some(why) = cluster.kept_back(job, now) {
        return Err(NoPlan::Queue(why));
    }
    let fits = fitting(cluster, job, on, now);
    if let Some(name) = fits {
        return Err(NoPlan::Fits(name.clone()));
    }
    let together = if job.gang.is_some() {
        cluster.unit(job)
    } else {
        vec![job]
    };
    let rights = Rights::of(cluster, job, together, now);
    let among = on.map(|on| vec![on]);
    let open = |name: &NodeName| on.is_none_or(|only| only == name);
    cheapest(&rights, among, &open, false, now).ok_or_else(|| why_none(&rights, &open))
}

/// The cheapest plan for a waiting job on some nodes, if there is any and it needs one.
pub(crate) fn plan_among(
    cluster: &Cluster,
    uid: &JobUid,
    nodes: Vec<&NodeName>,
    now: Millis,
) -> Option<Plan> {
    let job = cluster.waiting_job(uid)?;
    if nodes.is_empty() || job.gang.is_some() || cluster.kept_back(job, now).is_some() {
        return None;
    }
    let fits = |name| fitting(cluster, job, Some(name), now).is_some();
    if nodes.iter().any(|name| fits(name)) {
        return None;
    }
    let pin = job.requirements.node_name.as_ref();
    let open = |name: &NodeName| pin.is_none_or(|pin| pin == name);
    let rights = Rights::of(cluster, job, vec![job], now);
    cheapest(&rights, Some(nodes), &open, false, now)
}

/// The cheapest plan on any of these nodes, or of all, that are open to the job. With `or_fit`, a node that it fits as it is
/// needs no victims.
fn cheapest(
    rights: &Rights<'_>,
    among: Option<Vec<&NodeName>>,
    open: &dyn Fn(&NodeName) -> bool,
    or_fit: bool,
    now: Millis,
) -> Option<Plan> {
    let (cluster, job) = (rights.cluster, rights.job);
    let mut best = None;
    let mut searched = 0;
    let mut promising = promising(rights, among, now);
    while let Some(Reverse((bound, close, name))) = promising.pop() {
        let dearer = best
            .as_ref()
            .is_some_and(|((cost, _, _), _)| *cost < bound || searched >= MOST_SEARCHES);
        if dearer {
            break;
        }
        let Some((name, state)) = cluster.nodes.get_key_value(name) else {
            continue;
        };
        if !open(name) || state.facts.is_none() {
            continue;
        }
        if !close {
            let closer = rights.bound(name, state);
            promising.extend(closer.map(|closer| Reverse((closer.max(bound), true, name))));
            continue;
        }
        if !fit::may_fit(&job.requirements, name, state) {
            continue;
        }
        let state = seen_by(rights, name, state, now);
        let Some(search) = Search::new(rights, name, &state, or_fit) else {
            continue;
        };
        searched += 1;
        let search = search.from(bound.priority);
        if let Some(found) = search.cheapest(best.as_ref().map(|((cost, _, _), _)| *cost)) {
            let key = (found.cost, found.score, name);
            if best.as_ref().is_none_or(|(known, _)| key < *known) {
                best = Some((key, state));
            }
        }
    }
    let ((_, _, name), state) = best?;
    Search::new(rights, name, &state, or_fit).and_then(|search| search.plan(job))
}

/// Why there is no plan on the nodes that are open to the job.
fn why_none(rights: &Rights<'_>, open: &dyn Fn(&NodeName) -> bool) -> NoPlan {
    let candidates = rights.cluster.candidates(&rights.job.requirements);
    let asked = candidates.filter(|(name, _)| open(name));
    let mut there = asked.flat_map(|(_, state)| state.jobs.values());
    if there.any(|bound| bound.stopping.is_some() || rights.candidate(bound).is_some()) {
        NoPlan::NotEnough
    } else {
        NoPlan::Nobody
    }
}

/// A node that the job fits beside what is kept for those before it.
fn fitting<'a>(
    cluster: &'a Cluster,
    job: &Job,
    on: Option<&'a NodeName>,
    now: Millis,
) -> Option<&'a NodeName> {
    let mut views = Views::default();
    let only = on.or(job.requirements.node_name.as_ref());
    let Some(name) = only else {
        let fits = cluster.fitting_beside(job, false, now, &mut views);
        return fits.into_iter().min().map(|(_, name)| name);
    };
    let (name, state) = cluster.nodes.get_key_value(name)?;
    let fits = cluster.fit_beside(job, name, state, now, &mut views);
    fits.is_ok().then_some(name)
}

/// Nodes by what a plan there costs at least, the cheapest first; true for those whose bound is the closer one.
type Promising<'a> = BinaryHeap<Reverse<(Cost, bool, &'a NodeName)>>;

/// Nodes where a plan may be possible.
fn promising<'a>(
    rights: &Rights<'a>,
    among: Option<Vec<&'a NodeName>>,
    now: Millis,
) -> Promising<'a> {
    let needs = &rights.job.requirements;
    let pinned = needs.node_name.as_ref().map(|pin| vec![pin]);
    let mut nodes: Vec<(Cost, &NodeName)> = if let Some(names) = among.or(pinned) {
        let names = names.into_iter();
        names.map(|name| (Cost::default(), name)).collect()
    } else {
        // Borrowers are not in the figures.
        let tells = !rights.reclaims && Glance::tells(needs);
        rights.cluster.glance(rights.job, tells, now)
    };
    // Nor is who is gone.
    let left = rights.nodes_left();
    for (bound, name) in &mut nodes {
        if left.contains(name) {
            *bound = Cost::default();
        }
    }
    let nodes = nodes.into_iter();
    nodes
        .map(|(bound, name)| Reverse((bound, false, name)))
        .collect()
}

/// Does any queue hold more than its quota?
pub(crate) fn is_anything_borrowed(cluster: &Cluster) -> bool {
    let mut queues = cluster.queues.values();
    queues.any(|queue| queue.state.quota.is_exceeded_by(queue.used))
}

impl Cluster {
    /// A job that waits.
    pub(crate) fn waiting_job(&self, uid: &JobUid) -> Option<&Job> {
        match self.jobs.get(uid)? {
            Entry::Pending { job, .. } => Some(job),
            Entry::Assumed { .. } | Entry::Bound { .. } | Entry::Infeasible { .. } => None,
        }
    }
}
