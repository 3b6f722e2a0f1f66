//! Plans for a gang as a whole: each of its members gets a node of its own, and who must leave leaves for all of them.
//!
//! What a gang takes back from borrowers is bounded for the gang, not for each member, and a gang that is displaced leaves all
//! of its nodes at once. So members are not planned for each by itself. A first answer takes the cheapest node for one
//! member after the other, knowing who is gone already. Then the sets of victims of the most promising nodes are tried
//! together, which finds an answer where the first way ran into what borrowers own, and a cheaper one where there is one. Of
//! whatever is found, nobody is displaced without whom all members would fit as well.
//!
//! **Limits.** Sets are tried together on so many nodes as [`Choice`] says, for a fixed number of looks; on small fleets that
//! is the least cost there is. Beyond, it is the cheapest nodes one after the other.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::attempt;
use crate::cluster::Cluster;
use crate::fit;
use crate::input::{BoundJob, Job, Millis, NodeName};
use crate::node_state::{NodeState, Vacated};

use super::search::Search;
use super::victims::{Candidate, Rights};
use super::{Cost, NoPlan, Plan, Victim, cheapest, promising, why_none};

/// Nodes on which sets are tried together, beside two for each member.
const MOST_NODES: usize = 16;

/// Most nodes that are searched for sets.
const MOST_SEARCHED: usize = 256;

/// Most looks at sets that are tried together.
const MOST_TRIES: u32 = 4000;

/// Plans for members of a gang that wait, without a look at whether they need any.
pub(crate) fn plan_members(
    cluster: &Cluster,
    members: &[&Job],
    now: Millis,
) -> Result<Vec<Plan>, NoPlan> {
    let first = members.first().ok_or(NoPlan::NotWaiting)?;
    let held = cluster.nodes_of_the_gang(first);
    let rights = || Rights::of(cluster, first, members.to_vec(), now);
    let draft = one_after_the_other(rights(), members, &held, now);
    let draft = draft.map(|draft| Stage::of(&rights(), draft, now));
    let known = draft.as_ref().ok().map(Stage::cost);
    let choice = Choice::of(rights(), members, &held, now);
    let better = choice.draft(known);
    let better = better.map(|draft| Stage::of(&rights(), draft, now));
    let stage = match better {
        Some(better) if known.is_none_or(|known| better.cost() < known) => better,
        Some(_) | None => draft?,
    };
    stage.plans(&rights()).ok_or(NoPlan::NotEnough)
}

/// A node as a job sees it that comes after those for whom something is kept there, and without those who go anyway.
pub(super) fn seen_by<'a>(
    rights: &Rights<'_>,
    name: &NodeName,
    state: &'a NodeState,
    now: Millis,
) -> Cow<'a, NodeState> {
    let cluster = rights.cluster;
    let mut state = cluster.with_those_before(rights.job, name, state, now);
    for gone in rights.gone_on(name) {
        state.to_mut().vacate(&gone.uid);
    }
    state
}

/// Where each member goes, and who is displaced for all of them.
struct Draft<'a> {
    places: Vec<(&'a Job, &'a NodeName)>,
    taken: Vec<Candidate<'a>>,
}

/// The cheapest node for one member after the other.
fn one_after_the_other<'a>(
    mut rights: Rights<'a>,
    members: &[&'a Job],
    held: &BTreeSet<NodeName>,
    now: Millis,
) -> Result<Draft<'a>, NoPlan> {
    let cluster = rights.cluster;
    let mut used: BTreeSet<&NodeName> = held.iter().collect();
    let mut places = Vec::new();
    for member in members {
        rights.pass_to(member);
        let open = |name: &NodeName| !used.contains(name);
        let found = cheapest(&rights, None, &open, true, now);
        let found = found.and_then(|plan| {
            let (name, _) = cluster.nodes.get_key_value(&plan.placement.node)?;
            Some((name, plan.victims))
        });
        let Some((name, victims)) = found else {
            return Err(why_none(&rights, &open));
        };
        rights.take(name, &victims);
        used.insert(name);
        places.push((*member, name));
    }
    let taken = rights.into_taken();
    Ok(Draft { places, taken })
}

/// A node that could be a member's, with every set of candidates that makes room there.
struct Offer<'a> {
    name: &'a NodeName,
    sets: Vec<Vec<Candidate<'a>>>,
}

/// What is tried together.
struct Choice<'a> {
    rights: Rights<'a>,
    /// The members, those that need the same side by side, each with the place of what is offered to its like.
    members: Vec<(&'a Job, usize)>,
    offers: Vec<Vec<Offer<'a>>>,
}

/// How far trying is.
struct Tries<'c, 'a> {
    looks: u32,
    places: Vec<(&'a Job, &'a NodeName, usize)>,
    taken: Vec<&'c Candidate<'a>>,
    best: Option<Cost>,
    found: Option<Draft<'a>>,
}

impl<'a> Choice<'a> {
    fn of(
        mut rights: Rights<'a>,
        members: &[&'a Job],
        held: &BTreeSet<NodeName>,
        now: Millis,
    ) -> Self {
        let mut sorted = members.to_vec();
        sorted.sort_by(|one, other| one.requirements.cmp(&other.requirements));
        let mut offers: Vec<Vec<Offer<'a>>> = Vec::new();
        let mut of_each: Vec<(&Job, usize)> = Vec::new();
        for member in sorted {
            let like_last = of_each
                .last()
                .is_some_and(|(last, _)| last.requirements == member.requirements);
            if !like_last {
                rights.pass_to(member);
                offers.push(offers_to(
                    &rights,
                    held,
                    MOST_NODES + 2 * members.len(),
                    now,
                ));
            }
            of_each.push((member, offers.len() - 1));
        }
        Self {
            rights,
            members: of_each,
            offers,
        }
    }

    /// The cheapest draft that is cheaper than what is known.
    fn draft(&self, known: Option<Cost>) -> Option<Draft<'a>> {
        let mut tries = Tries {
            looks: MOST_TRIES,
            places: Vec::new(),
            taken: Vec::new(),
            best: known,
            found: None,
        };
        self.descend(&mut tries);
        tries.found
    }

    /// Tries every node for the next member, and every set there.
    fn descend<'c>(&'c self, tries: &mut Tries<'c, 'a>) {
        if tries.looks == 0 {
            return;
        }
        tries.looks -= 1;
        let Some((member, kind)) = self.members.get(tries.places.len()) else {
            tries.best = Some(cost_of(tries.taken.iter().copied()));
            tries.found = Some(Draft {
                places: tries
                    .places
                    .iter()
                    .map(|(job, name, _)| (*job, *name))
                    .collect(),
                taken: tries.taken.iter().map(|one| (*one).clone()).collect(),
            });
            return;
        };
        // Of members that need the same, each is behind the one before: which of them is where makes no difference.
        let before = tries.places.len().checked_sub(1).and_then(|last| {
            let like = self.members[last].1 == *kind;
            like.then_some(tries.places[last].2 + 1)
        });
        let offers = self.offers[*kind].iter().enumerate();
        for (at, offer) in offers.skip(before.unwrap_or(0)) {
            if tries.places.iter().any(|(_, name, _)| *name == offer.name) {
                continue;
            }
            tries.places.push((member, offer.name, at));
            for set in &offer.sets {
                let known = tries.taken.len();
                for candidate in set {
                    let unit = candidate.unit();
                    if tries.taken.iter().all(|taken| taken.unit() != unit) {
                        tries.taken.push(candidate);
                    }
                }
                let cost = cost_of(tries.taken.iter().copied());
                let worth = tries.best.is_none_or(|best| cost < best);
                if worth && self.rights.keeps_what_is_owned(tries.taken.iter().copied()) {
                    self.descend(tries);
                }
                tries.taken.truncate(known);
            }
            tries.places.pop();
        }
    }
}

/// The most promising nodes for a member, the cheapest first.
fn offers_to<'a>(
    rights: &Rights<'a>,
    held: &BTreeSet<NodeName>,
    most: usize,
    now: Millis,
) -> Vec<Offer<'a>> {
    let mut offers: Vec<(Cost, Offer<'a>)> = Vec::new();
    let mut promising = promising(rights, None, now);
    let mut searched = 0;
    while let Some(std::cmp::Reverse((_, _, name))) = promising.pop() {
        let Some((name, state)) = rights.cluster.nodes.get_key_value(name) else {
            continue;
        };
        let asked = state.facts.is_some() && !held.contains(name);
        if !asked
            || rights.bound(name, state).is_none()
            || !fit::may_fit(&rights.job.requirements, name, state)
        {
            continue;
        }
        let seen = seen_by(rights, name, state, now);
        let Some(search) = Search::new(rights, name, &seen, true) else {
            continue;
        };
        searched += 1;
        let candidates = |set: Vec<_>| {
            let bound = set.iter().filter_map(|uid| state.jobs.get(uid));
            bound.filter_map(|bound| rights.candidate(bound)).collect()
        };
        let sets = search.every().into_iter();
        let mut sets: Vec<(Cost, Vec<Candidate<'a>>)> = sets
            .map(candidates)
            .map(|set: Vec<_>| (cost_of(set.iter()), set))
            .collect();
        sets.sort_by_key(|(cost, _)| *cost);
        if let Some((least, _)) = sets.first() {
            let least = *least;
            let sets = sets.into_iter().map(|(_, set)| set).collect();
            offers.push((least, Offer { name, sets }));
        }
        if offers.len() == most || searched == MOST_SEARCHED {
            break;
        }
    }
    offers.sort_by_key(|(cost, offer)| (*cost, offer.name));
    offers.into_iter().map(|(_, offer)| offer).collect()
}

fn cost_of<'v, 'a: 'v>(taken: impl Iterator<Item = &'v Candidate<'a>>) -> Cost {
    taken.fold(Cost::default(), |cost, candidate| candidate.on_top_of(cost))
}

/// A member on its node, without those who leave.
struct Site<'a> {
    member: &'a Job,
    name: &'a NodeName,
    state: NodeState,
}

impl Site<'_> {
    fn fits(&self) -> bool {
        fit::fit(&self.member.requirements, self.name, &self.state).is_ok()
    }
}

/// A draft played through.
struct Stage<'a> {
    sites: Vec<Site<'a>>,
    taken: Vec<Candidate<'a>>,
}

impl<'a> Stage<'a> {
    /// Leaves out whom nobody need be displaced for, the dearest first.
    fn of(rights: &Rights<'a>, draft: Draft<'a>, now: Millis) -> Self {
        let cluster = rights.cluster;
        let sites = draft.places.into_iter().filter_map(|(member, name)| {
            let state = cluster.nodes.get(name)?;
            let seen = cluster.with_those_before(member, name, state, now);
            let mut state = seen.working_copy();
            let leaving = cluster.jobs_on(name).filter(|job| job.stopping.is_some());
            for job in leaving {
                state.vacate(&job.uid);
            }
            Some(Site {
                member,
                name,
                state,
            })
        });
        let mut stage = Self {
            sites: sites.collect(),
            taken: Vec::new(),
        };
        let mut taken = draft.taken;
        taken.sort_by(|one, other| {
            let key = |one: &Candidate<'_>| (one.job.priority, one.lost, one.core_lost);
            let uids = || one.job.uid.cmp(&other.job.uid);
            key(other).cmp(&key(one)).then_with(uids)
        });
        let mut away: Vec<Vec<(usize, Vacated)>> =
            taken.iter().map(|one| stage.take(one)).collect();
        away.reverse();
        for candidate in taken {
            let Some(vacated) = away.pop() else {
                break;
            };
            stage.put_back(vacated);
            if !stage.sites.iter().all(Site::fits) {
                stage.take(&candidate);
                stage.taken.push(candidate);
            }
        }
        stage
    }

    /// Those who go with one leave the members' nodes.
    fn take(&mut self, candidate: &Candidate<'_>) -> Vec<(usize, Vacated)> {
        let mut vacated = Vec::new();
        for (at, site) in self.sites.iter_mut().enumerate() {
            let here = candidate.all().filter(|bound| bound.node == *site.name);
            let gone = here.filter_map(|bound| site.state.vacate(&bound.uid));
            vacated.extend(gone.map(|gone| (at, gone)));
        }
        vacated
    }

    fn put_back(&mut self, vacated: Vec<(usize, Vacated)>) {
        for (at, vacated) in vacated {
            self.sites[at].state.reoccupy(vacated);
        }
    }

    fn cost(&self) -> Cost {
        cost_of(self.taken.iter())
    }

    /// A plan for each member. Who goes is named by the member whose node it leaves; what a gang loses on nodes that no
    /// member needs is said of the first of it that is named.
    fn plans(&self, rights: &Rights<'a>) -> Option<Vec<Plan>> {
        let mut sites: Vec<&Site<'a>> = self.sites.iter().collect();
        sites.sort_by_key(|site| crate::order::Place::of(site.member));
        let mut told: BTreeSet<(bool, &str)> = BTreeSet::new();
        let mut plans = Vec::new();
        for site in sites {
            let mut cost = Cost::default();
            let mut victims = Vec::new();
            for candidate in &self.taken {
                let here = candidate.all().filter(|bound| bound.node == *site.name);
                for bound in here.filter(|bound| bound.stopping.is_none()) {
                    let first = told.insert(candidate.unit());
                    let (lost, core_lost) = self.share(rights, candidate, bound, first);
                    cost = Cost {
                        priority: cost.priority.max(Some(bound.priority)),
                        lost: cost.lost.saturating_add(lost),
                        victims: cost.victims + u32::from(first),
                        core_lost: cost.core_lost.saturating_add(core_lost),
                    };
                    victims.push(Victim {
                        job: bound.uid.clone(),
                        queue: bound.queue.clone(),
                        priority: bound.priority,
                        lost,
                        right: candidate.right,
                    });
                }
            }
            victims.sort_by(|one, other| one.job.cmp(&other.job));
            let there = rights.cluster.jobs_on(site.name);
            let leaving = there.filter(|job| job.stopping.is_some());
            plans.push(Plan {
                placement: attempt::placement_on(site.member, site.name, &site.state)?,
                victims,
                leaving: leaving.map(|job| job.uid.clone()).collect(),
                cost,
            });
        }
        Some(plans)
    }

    /// What is lost by one of those who go together, as it is told: its own, and with the first what is told of nobody else.
    fn share(
        &self,
        rights: &Rights<'a>,
        candidate: &Candidate<'a>,
        bound: &BoundJob,
        first: bool,
    ) -> (u64, u64) {
        if !first {
            return rights.loss(bound);
        }
        let named = |other: &&BoundJob| {
            let mut sites = self.sites.iter();
            other.uid != bound.uid && sites.any(|site| *site.name == other.node)
        };
        let others = candidate.all().filter(named);
        others.fold(
            (candidate.lost, candidate.core_lost),
            |(gpus, cores), other| {
                let (lost, core_lost) = rights.loss(other);
                (gpus.saturating_sub(lost), cores.saturating_sub(core_lost))
            },
        )
    }
}
