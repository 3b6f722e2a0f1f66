//! When the first of the jobs on a node leaves it, in a few numbers for each node, so that a search for slots reads little
//! memory and looks closely only at the nodes that may open soonest.
//!
//! **Guarantee.** Where the figures tell, they tell what a look at every job of the node does ([`timeline::not_before`]); where
//! they do not, they say so.

use crate::input::{Millis, QueueName, Span};
use crate::node_state::NodeState;
use crate::settings::Settings;
use crate::timeline::{Leaves, hard_end};

/// Priorities of jobs on a node that are told apart.
const TIERS: usize = 4;

/// The jobs up to a priority that may be displaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tier {
    priority: i32,
    /// From when on each of them may be.
    from: Millis,
    /// The least of their graces.
    grace: Span,
}

/// When the first job leaves a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exits {
    /// The first end that a limit or a stop promises.
    ends: Option<Millis>,
    /// The same of a job that has not started: when it starts at the latest, and how much later it ends.
    unstarted: Option<(Millis, Span)>,
    /// The first end that was learned, of jobs that nothing ends.
    learned: Option<Millis>,
    /// The same of those that have not started, as how long they run.
    learned_unstarted: Option<Span>,
    tiers: [Tier; TIERS],
    count: u8,
    /// The most devices that one of them holds.
    pub(crate) widest: u8,
    /// True when the figures do not tell.
    unclear: bool,
}

impl Exits {
    pub(crate) fn of(
        state: &NodeState,
        settings: &Settings,
        min_runtime: impl Fn(&QueueName) -> Span,
    ) -> Self {
        let mut exits = Self::default();
        let allowance = settings.start_allowance;
        let mut movable: Vec<Tier> = Vec::new();
        for job in state.jobs.values() {
            let latest_start = job.bound_at.plus(allowance);
            let width = u8::try_from(job.gpus.len()).unwrap_or(u8::MAX);
            exits.widest = exits.widest.max(width);
            if job.terms.preemptible && job.stopping.is_none() && settings.preemption {
                let start = job.started.unwrap_or(latest_start);
                movable.push(Tier {
                    priority: job.priority,
                    from: start.plus(min_runtime(&job.queue)),
                    grace: job.terms.grace,
                });
            }
            match (job.started, job.stopping, job.terms.limit) {
                (None, Some(_), Some(_)) => exits.unclear = true,
                (None, None, Some(limit)) => {
                    exits.unclear |= exits.unstarted.is_some();
                    let runs = limit.saturating_add(job.terms.grace);
                    exits.unstarted = Some((latest_start, runs));
                }
                _ => {
                    let learned = job.estimate.map(|estimate| estimate.p90);
                    if let Some(end) = hard_end(job, latest_start, allowance) {
                        sooner(&mut exits.ends, end);
                    } else if let (Some(runs), Some(start)) = (learned, job.started) {
                        sooner(&mut exits.learned, start.plus(runs));
                    } else if let Some(runs) = learned {
                        sooner(&mut exits.learned_unstarted, runs);
                    }
                }
            }
        }
        // With aging, who may displace whom is a matter of when each was queued.
        let aging = settings.aging.is_some_and(|span| span.0 > 0);
        exits.unclear |= aging && !movable.is_empty();
        movable.sort_by_key(|tier| tier.priority);
        for one in movable {
            let last = exits.count.checked_sub(1).map(usize::from);
            let before = last.map_or(one, |last| exits.tiers[last]);
            let at = match last {
                Some(last) if before.priority == one.priority => last,
                Some(last) => last + 1,
                None => 0,
            };
            if at == TIERS {
                exits.unclear = true;
                break;
            }
            exits.tiers[at] = Tier {
                priority: one.priority,
                from: before.from.max(one.from),
                grace: before.grace.min(one.grace),
            };
            exits.count = u8::try_from(at + 1).unwrap_or(u8::MAX);
        }
        exits
    }

    /// When the first leaves for a job of that priority that looks for slots; `None` when the figures do not tell.
    pub(crate) fn first(&self, priority: i32, now: Millis) -> Option<Leaves> {
        let tiers = self.tiers[..usize::from(self.count)].iter();
        let below = tiers.take_while(|tier| tier.priority < priority).last();
        if self.unclear || below.is_some_and(|tier| now < tier.from) {
            return None;
        }
        let displaced = below.map(|tier| now.plus(tier.grace));
        let unstarted = self.unstarted;
        let unstarted = unstarted.map(|(latest, runs)| latest.max(now).plus(runs));
        let promised = self.ends.into_iter().chain(unstarted).chain(displaced);
        if let Some(by) = promised.min() {
            return Some(Leaves::By(by));
        }
        let learned = self.learned.map(|end| end.max(now));
        let unstarted = self.learned_unstarted.map(|runs| now.plus(runs).max(now));
        let perhaps = learned.into_iter().chain(unstarted).min();
        Some(perhaps.map_or(Leaves::Unknown, Leaves::Perhaps))
    }
}

/// The lesser of what is known and something else.
fn sooner<T: Ord>(known: &mut Option<T>, other: T) {
    if known.as_ref().is_none_or(|known| other < *known) {
        *known = Some(other);
    }
}
