//! The cheapest set of victims on one node.
//!
//! Fitting is monotone: what fits beside some jobs fits beside fewer. So the lowest priority that must be touched is found
//! by taking everybody up to it, and within that a set is made small by putting back whom the job fits beside, the dearest
//! first. That greedy set is the first answer; a search over who stays, cut where it gets dearer than the best known,
//! finds the least.

use crate::attempt;
use crate::fit::{self, Score};
use crate::input::{Exclusive, GpuRequest, Job, JobUid, NodeName};
use crate::node_state::{NodeState, Vacated};
use crate::reason::Misfit;

use super::victims::{Candidate, Rights};
use super::{Cost, Plan};

/// With up to so many candidates a search is exact.
const EXACT: usize = 10;
/// More looks than so many candidates can take.
const MOST_LOOKS: u32 = 1 << (EXACT + 1);
/// Most looks with more candidates.
const FEW_LOOKS: u32 = 300;
/// Most looks for all sets of a node: enough for seven candidates.
const MOST_LOOKS_FOR_ALL: u32 = 1 << 8;
/// Most sets of a node that are told of.
const MOST_SETS: usize = 32;

/// A search on one node.
pub(super) struct Search<'a> {
    rights: &'a Rights<'a>,
    name: &'a NodeName,
    /// The node, without those that are leaving and without the candidates that are away.
    state: NodeState,
    /// By priority, and the dearest first within one.
    candidates: Vec<Candidate<'a>>,
    /// What is needed to put a candidate back; `None` for those that are there.
    away: Vec<Option<Vacated>>,
    looks: u32,
    /// No plan here does without displacing this priority.
    from: Option<i32>,
}

/// What a search found.
pub(super) struct Found {
    pub(super) cost: Cost,
    pub(super) score: Score,
    /// Positions of the victims.
    taken: Vec<usize>,
}

impl<'a> Search<'a> {
    /// A search; `None` when nobody is leaving and nobody may be made to leave, unless the job may fit as it is.
    pub(super) fn new(
        rights: &'a Rights<'a>,
        name: &'a NodeName,
        state: &'a NodeState,
        or_fit: bool,
    ) -> Option<Self> {
        let mut candidates: Vec<Candidate<'a>> = state
            .jobs
            .values()
            .filter_map(|job| rights.candidate(job))
            .collect();
        let leaving: Vec<_> = state
            .jobs
            .values()
            .filter(|job| job.stopping.is_some())
            .collect();
        if candidates.is_empty() && leaving.is_empty() {
            let fits = || fit::fit(&rights.job.requirements, name, state).is_ok();
            if !or_fit || !fits() {
                return None;
            }
        }
        candidates.sort_by(|one, other| {
            let key =
                |c: &Candidate<'a>| (c.job.priority, std::cmp::Reverse((c.lost, c.core_lost)));
            key(one)
                .cmp(&key(other))
                .then_with(|| one.job.uid.cmp(&other.job.uid))
        });
        let mut copy = state.working_copy();
        for job in &leaving {
            copy.vacate(&job.uid);
        }
        Some(Self {
            rights,
            name,
            state: copy,
            away: vec![None; candidates.len()],
            looks: if candidates.len() <= EXACT {
                MOST_LOOKS
            } else {
                FEW_LOOKS
            },
            candidates,
            from: None,
        })
    }

    /// Tells the search that no plan here does without displacing this priority.
    pub(super) fn from(mut self, priority: Option<i32>) -> Self {
        self.from = priority;
        self
    }

    /// The cheapest set here, unless it is dearer than what is known already.
    pub(super) fn cheapest(mut self, known: Option<Cost>) -> Option<Found> {
        self.run(known)
    }

    /// The cheapest plan here for the job of these rights.
    pub(super) fn plan(mut self, job: &Job) -> Option<Plan> {
        let found = self.run(None)?;
        self.set_away(&found.taken);
        let mut victims: Vec<_> = found
            .taken
            .iter()
            .map(|at| self.candidates[*at].victim())
            .collect();
        victims.sort_by(|one, other| one.job.cmp(&other.job));
        let there = self.rights.cluster.jobs_on(self.name);
        let leaving = there.filter(|job| job.stopping.is_some());
        Some(Plan {
            placement: attempt::placement_on(job, self.name, &self.state)?,
            victims,
            leaving: leaving.map(|job| job.uid.clone()).collect(),
            cost: found.cost,
        })
    }

    /// Sets of candidates with which there is room, each right by itself and with nobody in it in vain: all of them when there
    /// are few candidates. The empty one when the job fits as it is.
    pub(super) fn every(mut self) -> Vec<Vec<JobUid>> {
        let everybody: Vec<usize> = (0..self.candidates.len()).collect();
        let mut sets = Vec::new();
        self.set_away(&everybody);
        if self.fits().is_some() {
            self.looks = MOST_LOOKS_FOR_ALL;
            self.branch(&everybody, &mut Vec::new(), &mut sets);
        }
        let uid = |at: &usize| self.candidates[*at].job.uid.clone();
        let named = |set: Vec<usize>| set.iter().map(uid).collect();
        sets.into_iter().map(named).collect()
    }

    /// Decides one candidate after the other, as [`descend`](Self::descend) does, and notes every set that is left.
    fn branch(&mut self, rest: &[usize], taken: &mut Vec<usize>, sets: &mut Vec<Vec<usize>>) {
        if self.looks == 0 || sets.len() >= MOST_SETS {
            return;
        }
        self.looks -= 1;
        let Some((at, rest)) = rest.split_first() else {
            let in_vain = |search: &mut Self, at: usize| {
                search.put_back(at);
                let fits = search.fits().is_some();
                search.take(at);
                fits
            };
            if !taken.iter().any(|at| in_vain(self, *at)) {
                sets.push(taken.clone());
            }
            return;
        };
        self.put_back(*at);
        if self.fits().is_some() {
            self.branch(rest, taken, sets);
        }
        self.take(*at);
        taken.push(*at);
        if self.is_right(taken) {
            self.branch(rest, taken, sets);
        }
        taken.pop();
    }

    fn run(&mut self, known: Option<Cost>) -> Option<Found> {
        if self.fits().is_some() {
            return self.found(Vec::new());
        }
        let mut upto = 0;
        while let Some(next) = self.candidates.get(upto) {
            let priority = next.job.priority;
            if Some(priority) < self.from {
                upto += 1;
                continue;
            }
            if known.is_some_and(|known| known.priority < Some(priority)) {
                return None;
            }
            let tier = self.candidates[upto..].iter();
            upto += tier.take_while(|c| c.job.priority == priority).count();
            if let Some(taken) = self.least_of(upto, known) {
                return self.found(taken);
            }
        }
        None
    }

    /// The cheapest set among the first so many candidates, unless it is dearer than what is known already.
    fn least_of(&mut self, upto: usize, known: Option<Cost>) -> Option<Vec<usize>> {
        let mut dearest_first: Vec<usize> = (0..upto).collect();
        dearest_first.sort_by_key(|at| {
            let candidate = &self.candidates[*at];
            std::cmp::Reverse((candidate.lost, candidate.core_lost))
        });
        let mut best = None;
        self.set_away(&[]);
        let host_has_room = matches!(
            self.misfit(),
            Some(Misfit::Vram { .. } | Misfit::GpusBusy { .. })
        );
        let targets = self.targets(upto);
        // When room on one GPU is all that is missing, each GPU is a search of its own among the few who are there.
        let one = self.rights.job.requirements.gpus.count() == 1 && !targets.is_empty();
        let mut apart = one && host_has_room;
        let top = self.candidates[..upto].last().map(|last| last.job.priority);
        for (least, here) in targets {
            // Whoever takes the top priority at all loses at least that much here.
            let hopeless = |cost: &Cost| cost.priority == top && cost.lost < least;
            let enough = best.as_ref().is_some_and(|(cost, _)| hopeless(cost));
            if enough || known.as_ref().is_some_and(hopeless) {
                continue;
            }
            let here: Vec<usize> = dearest_first
                .iter()
                .copied()
                .filter(|at| here.contains(at))
                .collect();
            let mut away = here.clone();
            away.sort_unstable();
            self.set_away(&away);
            match self.misfit() {
                None => {
                    self.keep_better(&mut best, &here);
                    self.set_away(&away);
                    self.descend(&here, &mut Vec::new(), Cost::default(), known, &mut best);
                }
                Some(Misfit::Vram { .. } | Misfit::GpusBusy { .. }) => {}
                Some(_) => apart = false,
            }
        }
        if !apart {
            let everybody: Vec<usize> = (0..upto).collect();
            self.set_away(&everybody);
            self.fits()?;
            self.keep_better(&mut best, &dearest_first);
            self.set_away(&everybody);
            self.descend(
                &dearest_first,
                &mut Vec::new(),
                Cost::default(),
                known,
                &mut best,
            );
        }
        best.map(|(_, taken)| taken)
    }

    /// Puts back whom the job fits beside, in that order, and keeps who is left when that is cheaper.
    fn keep_better(&mut self, best: &mut Option<(Cost, Vec<usize>)>, order: &[usize]) {
        for at in order {
            self.put_back(*at);
            if self.fits().is_none() {
                self.take(*at);
            }
        }
        let taken: Vec<usize> = (0..self.candidates.len())
            .filter(|at| self.away[*at].is_some())
            .collect();
        self.offer(best, taken);
    }

    fn offer(&self, best: &mut Option<(Cost, Vec<usize>)>, mut taken: Vec<usize>) {
        taken.sort_unstable();
        let cost = self.cost(&taken);
        let better = best.as_ref().is_none_or(|(known, _)| cost < *known);
        if better && self.is_right(&taken) {
            *best = Some((cost, taken));
        }
    }

    /// For jobs with GPUs: the candidates on one GPU, or on neighbours in the order of what freeing them would cost, with what
    /// is lost at least when room is made there. The cheapest first.
    fn targets(&self, upto: usize) -> Vec<(u64, Vec<usize>)> {
        let needs = &self.rights.job.requirements;
        let count = needs.gpus.count() as usize;
        if count == 0 || needs.exclusive == Exclusive::Node {
            return Vec::new();
        }
        let Some(facts) = &self.state.facts else {
            return Vec::new();
        };
        let whole = matches!(needs.gpus, GpuRequest::Whole(_));
        let mut gpus: Vec<(u64, u32, Vec<usize>)> = facts
            .gpus
            .iter()
            .map(|gpu| {
                let there = |at: &usize| self.candidates[*at].job.gpus.contains(&gpu.uuid);
                let here: Vec<usize> = (0..upto).filter(there).collect();
                let lost = here.iter().map(|at| self.candidates[*at].lost);
                let sum = lost.clone().fold(0, u64::saturating_add);
                let least = if whole { sum } else { lost.min().unwrap_or(0) };
                (least, gpu.index, here)
            })
            .collect();
        gpus.sort_by_key(|(lost, index, _)| (*lost, *index));
        let join = |set: &[(u64, u32, Vec<usize>)]| {
            let mut here: Vec<usize> = set.iter().flat_map(|(_, _, here)| here).copied().collect();
            here.sort_unstable();
            here.dedup();
            // Of several GPUs some may be free without anybody going.
            let least = if count == 1 { set[0].0 } else { 0 };
            (least, here)
        };
        gpus.windows(count).map(join).collect()
    }

    /// Decides one candidate after the other: stays, when the job fits beside it, or goes.
    fn descend(
        &mut self,
        rest: &[usize],
        taken: &mut Vec<usize>,
        cost: Cost,
        known: Option<Cost>,
        best: &mut Option<(Cost, Vec<usize>)>,
    ) {
        let Some((at, rest)) = rest.split_first() else {
            self.offer(best, taken.clone());
            return;
        };
        if self.looks == 0 {
            return;
        }
        self.looks -= 1;
        self.put_back(*at);
        if self.fits().is_some() {
            self.descend(rest, taken, cost, known, best);
        }
        self.take(*at);
        let dearer = self.candidates[*at].on_top_of(cost);
        taken.push(*at);
        let worth = best.as_ref().is_none_or(|(best, _)| dearer < *best)
            && known.is_none_or(|known| dearer <= known);
        if worth && self.is_right(taken) {
            self.descend(rest, taken, dearer, known, best);
        }
        taken.pop();
    }

    fn found(&mut self, taken: Vec<usize>) -> Option<Found> {
        self.set_away(&taken);
        Some(Found {
            cost: self.cost(&taken),
            score: self.fits()?,
            taken,
        })
    }

    fn cost(&self, taken: &[usize]) -> Cost {
        let candidates = taken.iter().map(|at| &self.candidates[*at]);
        candidates.fold(Cost::default(), |cost, candidate| candidate.on_top_of(cost))
    }

    fn is_right(&self, taken: &[usize]) -> bool {
        self.rights
            .keeps_what_is_owned(taken.iter().map(|at| &self.candidates[*at]))
    }

    fn misfit(&self) -> Option<Misfit> {
        fit::fit(&self.rights.job.requirements, self.name, &self.state).err()
    }

    fn fits(&self) -> Option<Score> {
        fit::fit(&self.rights.job.requirements, self.name, &self.state).ok()
    }

    /// Makes exactly these candidates away.
    fn set_away(&mut self, wanted: &[usize]) {
        for at in 0..self.candidates.len() {
            match (wanted.binary_search(&at).is_ok(), self.away[at].is_some()) {
                (true, false) => self.take(at),
                (false, true) => self.put_back(at),
                (true, true) | (false, false) => {}
            }
        }
    }

    fn take(&mut self, at: usize) {
        if self.away[at].is_none() {
            self.away[at] = self.state.vacate(&self.candidates[at].job.uid);
        }
    }

    fn put_back(&mut self, at: usize) {
        if let Some(vacated) = self.away[at].take() {
            self.state.reoccupy(vacated);
        }
    }
}
