//! What a node will be like later: who is gone by then, and when a job fits at the earliest.
//!
//! **Promises and guesses are kept apart.** Only a hard limit, a stop that is under way, or a right to displace makes a
//! promise ([`Leaves::By`]); what was learned of run times only says which of the nodes without promises to wait for.
//!
//! **Assumptions.** A binding is started within the allowance of the settings; one that is late keeps its slots as much
//! longer as it is late.

use std::cmp::Reverse;

use crate::fit;
use crate::input::{BoundJob, JobUid, Millis, NodeName, Requirements, Span};
use crate::node_state::{NodeState, Vacated};
use crate::reason::Misfit;

/// When a job's slots are free. The least is the surest and soonest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leaves {
    /// Not later than that.
    By(Millis),
    /// Probably not later than that.
    Perhaps(Millis),
    /// Nobody knows.
    Unknown,
}

impl Leaves {
    /// The time by which both have left.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Leaves::By(one), Leaves::By(two)) => Leaves::By(one.max(two)),
            (Leaves::Unknown, _) | (_, Leaves::Unknown) => Leaves::Unknown,
            (Leaves::By(one) | Leaves::Perhaps(one), Leaves::By(two) | Leaves::Perhaps(two)) => {
                Leaves::Perhaps(one.max(two))
            }
        }
    }

    /// The promise, if it is one.
    pub(crate) fn promised(self) -> Option<Millis> {
        match self {
            Leaves::By(time) => Some(time),
            Leaves::Perhaps(_) | Leaves::Unknown => None,
        }
    }
}

/// When a job has left by its hard limit or because it is being stopped; `None` when nothing ends it. One that has not
/// started is taken to start as late as the allowance lets it, or `now` when that is past.
pub(crate) fn hard_end(job: &BoundJob, now: Millis, allowance: Span) -> Option<Millis> {
    let latest_start = now.max(job.bound_at.plus(allowance));
    job.ends_by(latest_start)
}

/// From where, and with what rights, somebody looks ahead.
pub(crate) struct Outlook<'a> {
    pub(crate) now: Millis,
    /// How long after its binding a job may start.
    pub(crate) allowance: Span,
    /// From when on this one may be displaced for whoever looks.
    pub(crate) displaces: &'a dyn Fn(&BoundJob) -> Option<Millis>,
}

impl Outlook<'_> {
    /// When a job leaves.
    pub(crate) fn leaves(&self, job: &BoundJob) -> Leaves {
        let hard = hard_end(job, self.now, self.allowance);
        let displaced = (self.displaces)(job).map(|from| from.max(self.now).plus(job.terms.grace));
        if let Some(by) = hard.into_iter().chain(displaced).min() {
            return Leaves::By(by);
        }
        job.estimate.map_or(Leaves::Unknown, |estimate| {
            let end = job.started.unwrap_or(self.now).plus(estimate.p90);
            Leaves::Perhaps(end.max(self.now))
        })
    }
}

/// A time at which a job fits a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Opening {
    /// When.
    pub(crate) when: Leaves,
    /// Number of jobs that must leave first.
    pub(crate) jobs: usize,
    /// Who they are. None of them could stay.
    pub(crate) waits_for: Vec<JobUid>,
}

/// Can waiting cure this?
pub(crate) fn passes(misfit: &Misfit) -> bool {
    match misfit {
        Misfit::HeldWhole
        | Misfit::NotEmpty { .. }
        | Misfit::Full { .. }
        | Misfit::Cpu { .. }
        | Misfit::Memory { .. }
        | Misfit::GpusBusy { .. }
        | Misfit::Vram { .. }
        | Misfit::Apart { .. } => true,
        Misfit::NotPinned
        | Misfit::Selector { .. }
        | Misfit::Needs { .. }
        | Misfit::Taint { .. }
        | Misfit::Avoided
        | Misfit::NotReady
        | Misfit::Cordoned
        | Misfit::Desired(_)
        | Misfit::GpuCount { .. }
        | Misfit::GpuModel { .. }
        | Misfit::GpuMemory { .. }
        | Misfit::GpuCapability { .. }
        | Misfit::GpuHealth { .. }
        | Misfit::Directory { .. }
        | Misfit::Slice { .. }
        | Misfit::ManySlices { .. }
        | Misfit::Divided { .. }
        | Misfit::Interconnect { .. }
        | Misfit::Reserved { .. } => false,
    }
}

/// No opening of this node is before that: the time at which the first job leaves that could be waited for. `None` when
/// waiting does not help here.
pub(crate) fn not_before(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
    outlook: &Outlook<'_>,
) -> Option<Leaves> {
    match fit::fit(needs, name, state) {
        Ok(_) => Some(Leaves::By(outlook.now)),
        Err(misfit) if passes(&misfit) => state.jobs.values().map(|job| outlook.leaves(job)).min(),
        Err(_) => None,
    }
}

/// The earliest time at which a job fits a node, and who must have left by then; `None` when it would not fit if everybody
/// left. Jobs of which nothing is known are waited for last, and as few of them as possible.
pub(crate) fn opening(
    needs: &Requirements,
    name: &NodeName,
    state: &NodeState,
    outlook: &Outlook<'_>,
) -> Option<Opening> {
    let mut then = state.working_copy();
    let mut leaving: Vec<(Leaves, Reverse<usize>, &JobUid)> = state
        .jobs
        .values()
        .map(|job| (outlook.leaves(job), Reverse(job.gpus.len()), &job.uid))
        .collect();
    leaving.sort_unstable();
    let mut gone: Vec<(Leaves, &JobUid, Vacated)> = Vec::new();
    let mut leaving = leaving.into_iter();
    while let Err(misfit) = fit::fit(needs, name, &then) {
        if !passes(&misfit) {
            return None;
        }
        let (when, _, uid) = leaving.next()?;
        gone.extend(then.vacate(uid).map(|job| (when, uid, job)));
    }
    // Whoever need not have left stays, those first whose leaving is the least sure.
    let mut waits_for: Vec<JobUid> = Vec::new();
    let mut when = Leaves::By(outlook.now);
    while let Some((leaves, uid, job)) = gone.pop() {
        then.reoccupy(job);
        if fit::fit(needs, name, &then).is_ok() {
            continue;
        }
        then.vacate(uid);
        waits_for.push(uid.clone());
        when = when.and(leaves);
    }
    waits_for.sort_unstable();
    Some(Opening {
        when,
        jobs: waits_for.len(),
        waits_for,
    })
}

/// The node when these have left.
pub(crate) fn without(state: &NodeState, gone: impl Fn(&BoundJob) -> bool) -> NodeState {
    let mut then = state.working_copy();
    for job in state.jobs.values().filter(|job| gone(job)) {
        then.vacate(&job.uid);
    }
    then
}

/// A node with what is left both in one state and in the other: who fits it, fits both, on the same GPUs.
pub(crate) fn lesser(now: &NodeState, then: &NodeState) -> NodeState {
    let mut both = now.working_copy();
    both.cpu_used = now.cpu_used.max(then.cpu_used);
    both.memory_used = now.memory_used.max(then.memory_used);
    both.whole_jobs = now.whole_jobs.max(then.whole_jobs);
    if then.jobs.len() > now.jobs.len() {
        both.jobs = then.jobs.clone();
    }
    for (gpu, then) in both.gpus.iter_mut().zip(&then.gpus) {
        gpu.headroom.free = gpu.headroom.free.min(then.headroom.free);
        gpu.headroom.idle &= then.headroom.idle;
    }
    both
}
