//! Gangs: jobs that start together, each on a node of its own, or not at all (rules.md section 9).
//!
//! A gang is one unit in the order, at the place of its earliest member. It is tried whole: every member that is not placed
//! yet gets a node on one state of the cluster, or none does. Members that are placed already count and keep their nodes to
//! themselves among the gang. Until all members are known the gang waits, whatever nodes and queue say.
//!
//! **Limits.** Members with different needs are given nodes by how few nodes fit them, which may miss a way to place them
//! all; members with equal needs, the rule, are always placed when they can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{Cluster, Usage};
use crate::explain::Explanation;
use crate::fit::Score;
use crate::input::{BoundJob, Job, JobUid, Millis, NodeName, Requirements};
use crate::openings::Beside;
use crate::order::Place;
use crate::reserve::{Reservation, Slot, Views};
use crate::timeline::Leaves;

/// The members of all gangs that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gangs {
    by_id: BTreeMap<Arc<str>, Members>,
    of: BTreeMap<JobUid, Arc<str>>,
}

/// The members of one gang.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) waiting: BTreeSet<Place>,
    pub(crate) placed: BTreeMap<JobUid, NodeName>,
}

impl Gangs {
    /// A member waits.
    pub(crate) fn waits(&mut self, job: &Job) {
        if let Some(gang) = &job.gang {
            self.left(&job.uid);
            self.of.insert(job.uid.clone(), gang.id.clone());
            let members = self.by_id.entry(gang.id.clone()).or_default();
            members.waiting.insert(Place::of(job));
        }
    }

    /// A member has a node.
    pub(crate) fn placed(&mut self, job: &BoundJob) {
        if let Some(id) = &job.gang {
            self.left(&job.uid);
            self.of.insert(job.uid.clone(), id.clone());
            let members = self.by_id.entry(id.clone()).or_default();
            members.placed.insert(job.uid.clone(), job.node.clone());
        }
    }

    /// A job is no member any more, if it was one. True when it was.
    pub(crate) fn left(&mut self, uid: &JobUid) -> bool {
        let Some(id) = self.of.remove(uid) else {
            return false;
        };
        if let Some(members) = self.by_id.get_mut(&id) {
            members.waiting.retain(|place| place.uid != *uid);
            members.placed.remove(uid);
            if members.waiting.is_empty() && members.placed.is_empty() {
                self.by_id.remove(&id);
            }
        }
        true
    }

    /// The members of a gang.
    pub(crate) fn members(&self, id: &str) -> Option<&Members> {
        self.by_id.get(id)
    }
}

impl Cluster {
    /// The members of a job's gang that wait for a node, in order: the job itself if it is in no gang.
    pub(crate) fn unit<'a>(&'a self, job: &'a Job) -> Vec<&'a Job> {
        let members = job
            .gang
            .as_ref()
            .map(|gang| (gang, self.gangs.members(&gang.id)));
        let Some((gang, Some(members))) = members else {
            return vec![job];
        };
        let missing = (gang.size as usize).saturating_sub(members.placed.len());
        let waiting = members.waiting.iter().take(missing);
        waiting
            .filter_map(|place| self.waiting_job(&place.uid))
            .collect()
    }

    /// The waiting jobs that a job is placed with, in order: the members of its gang that have no node, or itself. What is
    /// kept for a gang is kept in the name of the first of them. None for a job that does not wait.
    pub fn together(&self, uid: &JobUid) -> Vec<JobUid> {
        let job = self.waiting_job(uid);
        let unit = job.map(|job| self.unit(job)).unwrap_or_default();
        unit.into_iter().map(|job| job.uid.clone()).collect()
    }

    /// The job by which a job is in the order: the first of its gang that waits, or itself.
    pub(crate) fn lead_of<'a>(&'a self, job: &'a Job) -> &'a Job {
        if job.gang.is_none() {
            return job;
        }
        self.unit(job).first().copied().unwrap_or(job)
    }

    /// Is a job the one that its gang is in the order by?
    pub(crate) fn leads(&self, job: &Job) -> bool {
        job.gang.is_none()
            || self
                .unit(job)
                .first()
                .is_some_and(|first| first.uid == job.uid)
    }

    /// The members that must wait again on everything when one is new or gone.
    pub(crate) fn gang_changed(&mut self, job: &Job) {
        let Some(gang) = &job.gang else {
            return;
        };
        self.version += 1;
        let members = self.gangs.members(&gang.id);
        let waiting: Vec<JobUid> = members
            .into_iter()
            .flat_map(|members| &members.waiting)
            .map(|place| place.uid.clone())
            .collect();
        for uid in waiting {
            if let Some(class) = self.class_of(&uid) {
                self.pending.unblock(class);
            }
        }
    }

    /// Are all members of a job's gang known?
    pub(crate) fn is_complete(&self, job: &Job) -> bool {
        let Some(gang) = &job.gang else {
            return true;
        };
        let members = self.gangs.members(&gang.id);
        let present = members.map_or(0, |members| members.waiting.len() + members.placed.len());
        present >= gang.size as usize
    }

    /// Why a job may not be placed, whatever nodes say: its gang is not complete, or its queue keeps it.
    pub(crate) fn kept_back(&self, job: &Job, now: Millis) -> Option<Explanation> {
        let asked = match &job.gang {
            None => Usage::asked(&job.requirements),
            Some(gang) => {
                let members = self.gangs.members(&gang.id);
                let present =
                    members.map_or(0, |members| members.waiting.len() + members.placed.len());
                if present < gang.size as usize {
                    return Some(Explanation::GangIncomplete {
                        present: u32::try_from(present).unwrap_or(u32::MAX),
                        size: gang.size,
                    });
                }
                let unit = self.unit(job).into_iter();
                unit.fold(Usage::default(), |sum, member| {
                    sum.plus(Usage::asked(&member.requirements))
                })
            }
        };
        self.queue_reason(job, asked, now)
    }

    /// A node for each member of a job's gang that has none; `None` when there are too few. The second value is how many
    /// members would find one.
    pub(crate) fn gang_places(
        &self,
        job: &Job,
        now: Millis,
        views: &mut Views,
    ) -> Result<Vec<(JobUid, NodeName)>, u32> {
        let mut fits: BTreeMap<&Requirements, Vec<(Score, &NodeName)>> = BTreeMap::new();
        let unit = self.unit(job);
        for member in &unit {
            let needs = &member.requirements;
            if fits.contains_key(needs) {
                continue;
            }
            let mut found: Vec<(Score, &NodeName)> = if needs.node_name.is_some() {
                let states = self.candidates(needs);
                let mut fit = |(name, state)| {
                    let score = self.fit_beside(member, name, state, now, views);
                    Some((score.ok()?, name))
                };
                states.filter_map(&mut fit).collect()
            } else {
                self.fitting_beside(member, true, now, views)
            };
            found.sort_unstable();
            fits.insert(needs, found);
        }
        let mut members: Vec<(usize, &Job)> = unit
            .into_iter()
            .map(|member| (fits[&member.requirements].len(), member))
            .collect();
        members.sort_by_key(|(choices, _)| *choices);
        let mut taken = self.nodes_of_the_gang(job);
        let mut places = Vec::new();
        for (_, member) in &members {
            let free = fits[&member.requirements]
                .iter()
                .map(|(_, name)| *name)
                .find(|name| !taken.contains(*name));
            if let Some(name) = free {
                taken.insert(name.clone());
                places.push((member.uid.clone(), name.clone()));
            }
        }
        if places.len() < members.len() {
            return Err(u32::try_from(places.len()).unwrap_or(u32::MAX));
        }
        // In the order of the members, so that ranks follow it.
        places.sort_by_key(|(uid, _)| {
            let at = members.iter().find(|(_, member)| member.uid == *uid);
            at.map(|(_, member)| Place::of(member))
        });
        Ok(places)
    }

    /// The members of all gangs as the jobs say.
    pub(crate) fn counted_gangs(&self) -> Gangs {
        let mut gangs = Gangs::default();
        for job in self.jobs.keys().filter_map(|uid| self.waiting_job(uid)) {
            gangs.waits(job);
        }
        for job in self.nodes.values().flat_map(|state| state.jobs.values()) {
            gangs.placed(job);
        }
        gangs
    }

    /// Nodes on which members of a job's gang are already.
    pub(crate) fn nodes_of_the_gang(&self, job: &Job) -> BTreeSet<NodeName> {
        let gang = job.gang.as_ref();
        let members = gang.and_then(|gang| self.gangs.members(&gang.id));
        let placed = members
            .into_iter()
            .flat_map(|members| members.placed.values());
        placed.cloned().collect()
    }

    /// Slots for all members of a gang that have none: those that are free the soonest, each on a node of its own.
    pub(crate) fn find_gang_slots(
        &self,
        job: &Job,
        beside: &mut Beside,
        now: Millis,
    ) -> Option<Reservation> {
        let mut taken = self.nodes_of_the_gang(job);
        let mut when = Leaves::By(now);
        let mut slots: Vec<Slot> = Vec::new();
        let mut waits_for = BTreeSet::new();
        for member in self.unit(job) {
            let open = self.openings(member, &taken, beside, now);
            let (slot, opening) = self.best_opening(member, open, now)?;
            taken.insert(slot.node.clone());
            when = when.and(opening.when);
            waits_for.extend(opening.waits_for);
            slots.push(slot);
        }
        Some(Reservation {
            slots,
            not_later_than: when.promised(),
            waits_for: waits_for.into_iter().collect(),
        })
    }
}
