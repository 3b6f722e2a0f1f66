//! The last look before a claim: the directories that the job needs, and what is on the cards of its binding now.
//!
//! A card that has no room is looked at again a few times first, since memory of a process that has just ended may take a
//! moment to come back. A look counts once: whatever comes between it and the claim asks for another.

use std::sync::Arc;
use std::time::Duration;

use crds::Job;

use super::super::Context;
use super::super::decide::Look;
use super::super::room;
use super::{Done, Known, Shell};
use crate::environment;
use crate::runner::Ground;

/// Looks at cards without room before a binding is refused, and the pause between two of them.
const MOST_TRIES: u32 = 3;
const TRY_PAUSE: Duration = Duration::from_millis(500);

/// What is known of the looks for the binding of one job.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// What the last one found, and for which attempt.
    found: Option<Found>,
    /// How many in a row found no room.
    tries: u32,
    /// One is under way.
    pub(super) under_way: bool,
}

/// What a look found.
#[derive(Debug)]
pub(super) struct Found {
    attempt: u32,
    /// The first directory that is not as it should be.
    ground: Option<(String, Ground)>,
}

impl Shell {
    /// What the last look for a job said, if a claim of it is at stake.
    pub(super) fn look(&mut self, uid: &str) -> Look {
        let context = Arc::clone(&self.context);
        let Some(slot) = self.jobs.get_mut(uid) else {
            return Look::Clear;
        };
        let Known::Job { job, .. } = &slot.seen else {
            return Look::Clear;
        };
        let job = Arc::clone(job);
        let Some(attempt) = at_stake(&context, &job) else {
            return Look::Clear;
        };
        let found = slot.looks.found.take();
        let Some(found) = found.filter(|found| found.attempt == attempt) else {
            return Look::Due;
        };
        match found.ground {
            Some((directory, Ground::Missing)) => return Look::NoDirectory(directory),
            Some((directory, _)) => {
                return Look::Full(format!("the file system of {directory} does not answer"));
            }
            None => {}
        }
        let lack = self.lack(uid, &job);
        let Some(slot) = self.jobs.get_mut(uid) else {
            return Look::Clear;
        };
        match lack {
            None => {
                slot.looks.tries = 0;
                Look::Clear
            }
            Some(_) if slot.looks.tries + 1 < MOST_TRIES => {
                slot.looks.tries += 1;
                Look::Due
            }
            Some(reason) => {
                slot.looks.tries = 0;
                // Placement learns what is there before it looks for another place.
                context.room_changed.notify_one();
                Look::Full(reason)
            }
        }
    }

    /// Why the cards have no room, by what was read of them last.
    fn lack(&self, uid: &str, job: &Job) -> Option<String> {
        if !self.context.cards_are_live {
            return None;
        }
        let status = job.status.as_ref()?;
        let wanted = environment::charge(status.binding.as_ref()?);
        let here = self.held_beside(uid, status.attempt);
        let here = here.map(|(id, charge)| (id.clone(), charge.clone()));
        let members = self.held_by_members(uid);
        let members = members.map(|(id, charge)| (id, charge.clone()));
        let held = here.chain(members).chain(self.claiming(uid)).collect();
        room::lack(&self.context.reading().gpus, &held, &wanted)
    }

    /// Begins a look.
    pub(super) fn begin_look(&mut self, uid: &str) {
        let context = Arc::clone(&self.context);
        let Some(slot) = self.jobs.get_mut(uid) else {
            return;
        };
        let Known::Job { job, .. } = &slot.seen else {
            return;
        };
        let pause = TRY_PAUSE * slot.looks.tries;
        let (job, uid) = (Arc::clone(job), uid.to_owned());
        slot.operations += 1;
        slot.looks.under_way = true;
        self.operations.spawn(async move {
            tokio::time::sleep(pause).await;
            let ground = survey(&context, &job).await;
            if ground.is_none() && wants_cards(&context, &job) {
                context.read_gpus().await;
            }
            let status = job.status.as_ref();
            let attempt = status.map_or(0, |status| status.attempt);
            Done::Looked(uid, Found { attempt, ground })
        });
    }

    pub(super) fn on_looked(&mut self, uid: &str, found: Found) {
        if let Some(slot) = self.jobs.get_mut(uid) {
            slot.looks.found = Some(found);
            slot.looks.under_way = false;
        }
        self.settle(uid, true);
    }
}

/// The attempt that is to be claimed here, if there is anything to look at before.
fn at_stake(context: &Context, job: &Job) -> Option<u32> {
    let status = job.status.as_ref()?;
    let binding = status.binding.as_ref()?;
    let unclaimed = crds::phase::current_claim(status).is_none() && status.outcome.is_none();
    let ours = binding.node_name == context.options.node_name;
    let worth = wants_cards(context, job) || directories(job).next().is_some();
    (unclaimed && ours && worth).then_some(status.attempt)
}

fn wants_cards(context: &Context, job: &Job) -> bool {
    let binding = job.status.as_ref().and_then(|s| s.binding.as_ref());
    context.cards_are_live && binding.is_some_and(|binding| !binding.gpus.is_empty())
}

/// The directories that a job needs: where it starts, and what it names besides.
fn directories(job: &Job) -> impl Iterator<Item = &String> {
    job.spec.working_dir.iter().chain(&job.spec.directories)
}

/// The first directory that is not as it should be.
async fn survey(context: &Context, job: &Job) -> Option<(String, Ground)> {
    for directory in directories(job) {
        match context.options.runner.ground(directory.clone()).await {
            Ground::Firm => {}
            other => return Some((directory.clone(), other)),
        }
    }
    None
}
