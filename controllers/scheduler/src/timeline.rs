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
    opening_if(state, outlook, |then| {
        fit::fit(needs, name, then).map(|_| ())
    })
}

/// The same of whatever fits a node if this says so; a misfit that waiting does not cure ends the search.
pub(crate) fn opening_if(
    state: &NodeState,
    outlook: &Outlook<'_>,
    fits: impl Fn(&NodeState) -> Result<(), Misfit>,
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
    while let Err(misfit) = fits(&then) {
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
        if fits(&then).is_ok() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Bytes, Estimate, Gpu, GpuRequest, MilliCpu, Node, Terms};

    const NOW: Millis = Millis(100_000);

    fn nobody(_: &BoundJob) -> Option<Millis> {
        None
    }

    fn outlook(displaces: &dyn Fn(&BoundJob) -> Option<Millis>) -> Outlook<'_> {
        Outlook {
            now: NOW,
            allowance: Span::seconds(30),
            displaces,
        }
    }

    /// A job on GPUs that started at 0, with a limit in seconds; none for 0.
    fn job(uid: &str, gpus: &[u32], limit: i64) -> BoundJob {
        BoundJob {
            uid: uid.into(),
            node: "a".into(),
            attempt: 1,
            gpus: gpus.iter().map(|at| format!("a/{at}").into()).collect(),
            whole_gpus: true,
            cpu: MilliCpu(1000),
            terms: Terms {
                limit: (limit > 0).then(|| Span::seconds(limit)),
                ..Terms::default()
            },
            started: Some(Millis(0)),
            ..BoundJob::default()
        }
    }

    fn node(jobs: &[BoundJob]) -> NodeState {
        let mut state = NodeState::default();
        let gpus = (0..4).map(|at| Gpu::idle(format!("a/{at}"), at, Bytes::gib(24)));
        state.set_facts(Node {
            ready: true,
            cpu: MilliCpu(8000),
            memory: Bytes::gib(8),
            gpus: gpus.collect(),
            ..Node::default()
        });
        for job in jobs {
            state.add(job.clone());
        }
        state
    }

    fn gpus(count: u32) -> Requirements {
        Requirements {
            gpus: GpuRequest::Whole(count),
            ..Requirements::default()
        }
    }

    #[test]
    fn a_hard_end_rests_on_limit_grace_stop_and_a_start_that_may_be_late() {
        let allowance = Span::seconds(30);
        let end = |job: &BoundJob| hard_end(job, NOW, allowance).map(|end| end.0 / 1000);
        let started = job("x", &[0], 500);
        assert_eq!(end(&started), Some(500));
        let mut graceful = started.clone();
        graceful.terms.grace = Span::seconds(9);
        assert_eq!(end(&graceful), Some(509));
        let stopping = BoundJob {
            stopping: Some(Millis(120_000)),
            ..started.clone()
        };
        assert_eq!(end(&stopping), Some(120));
        assert_eq!(end(&job("x", &[0], 0)), None);
        let unstarted = |bound_at| BoundJob {
            started: None,
            bound_at: Millis(bound_at),
            ..started.clone()
        };
        assert_eq!(end(&unstarted(90_000)), Some(620), "within the allowance");
        assert_eq!(end(&unstarted(0)), Some(600), "late: it may start now");
    }

    #[test]
    fn promises_come_before_guesses_and_one_guess_spoils_a_promise() {
        let (by, perhaps) = (Leaves::By, Leaves::Perhaps);
        assert!(by(Millis(9)) < perhaps(Millis(1)) && perhaps(Millis(9)) < Leaves::Unknown);
        assert_eq!(by(Millis(1)).and(by(Millis(2))), by(Millis(2)));
        assert_eq!(by(Millis(5)).and(perhaps(Millis(2))), perhaps(Millis(5)));
        assert_eq!(by(Millis(5)).and(Leaves::Unknown), Leaves::Unknown);
        let learned = BoundJob {
            estimate: Some(Estimate {
                median: Span::seconds(10),
                p90: Span::seconds(50),
            }),
            ..job("x", &[0], 0)
        };
        // It has run longer than nine of ten: it may end at any time.
        assert_eq!(outlook(&nobody).leaves(&learned), perhaps(NOW));
    }

    #[test]
    fn who_may_be_displaced_leaves_after_its_grace_and_not_before_its_time() {
        let mut low = job("low", &[0], 0);
        low.terms.grace = Span::seconds(30);
        let at_once = |_: &BoundJob| Some(Millis(0));
        assert_eq!(outlook(&at_once).leaves(&low), Leaves::By(Millis(130_000)));
        let later = |_: &BoundJob| Some(Millis(200_000));
        assert_eq!(outlook(&later).leaves(&low), Leaves::By(Millis(230_000)));
    }

    /// Jobs on the node, GPUs asked for, and when they are there after whom.
    type Row<'a> = (&'a [BoundJob], u32, Option<(Leaves, &'a [&'a str])>);

    #[test]
    fn an_opening_is_the_earliest_and_waits_for_nobody_in_vain() {
        let limited = [
            job("a", &[0], 300),
            job("b", &[1], 200),
            job("c", &[2], 400),
            job("d", &[3], 0),
        ];
        let unlimited = [
            job("pair", &[0, 1], 0),
            job("x", &[2], 0),
            job("y", &[3], 0),
        ];
        let at = |seconds: i64| Leaves::By(Millis(seconds * 1000));
        let rows: [Row<'_>; 6] = [
            (&limited, 1, Some((at(200), &["b"]))),
            (&limited, 2, Some((at(300), &["a", "b"]))),
            (&limited, 3, Some((at(400), &["a", "b", "c"]))),
            (&limited, 4, Some((Leaves::Unknown, &["a", "b", "c", "d"]))),
            (&unlimited, 2, Some((Leaves::Unknown, &["pair"]))),
            (&limited, 5, None),
        ];
        for (jobs, count, wanted) in rows {
            let found = opening(&gpus(count), &"a".into(), &node(jobs), &outlook(&nobody));
            let found = found.map(|opening| (opening.when, opening.waits_for));
            let wanted =
                wanted.map(|(when, uids)| (when, uids.iter().map(|uid| (*uid).into()).collect()));
            assert_eq!(found, wanted, "{count} GPUs");
        }
    }

    #[test]
    fn what_fits_the_lesser_of_two_states_fits_both() {
        let now = node(&[job("a", &[0], 300), job("b", &[1], 0)]);
        let mut then = without(&now, |job| job.terms.limit.is_some());
        then.add(job("holder", &[2], 0));
        let both = lesser(&now, &then);
        let idle: Vec<bool> = both.gpus.iter().map(|gpu| gpu.headroom.idle).collect();
        assert_eq!(idle, [false, false, false, true]);
        assert!(fit::fit(&gpus(1), &"a".into(), &both).is_ok());
        assert!(fit::fit(&gpus(2), &"a".into(), &both).is_err());
    }
}
