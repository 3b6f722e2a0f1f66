//! Looks from time to time whether running attempts have said that their checkpoints are complete: who is displaced is
//! chosen by what would be lost.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Done, Known, MOST_OPERATIONS, Shell};
use crate::attempt::AttemptId;
use crate::environment;

impl Shell {
    pub(super) fn look_for_checkpoints(&mut self) {
        let context = Arc::clone(&self.context);
        let idle = !self.looks_for_checkpoints && self.operations.len() < MOST_OPERATIONS;
        if context.options.checkpoint_root.is_none() || !idle {
            return;
        }
        let running = self.attempts.iter();
        let running = running.filter(|(id, attempt)| {
            let ended = attempt.ended.is_some() || attempt.lingering.is_some();
            let job = self.jobs.get(&id.uid).map(|slot| &slot.seen);
            !ended
                && matches!(job, Some(Known::Job { job, .. }) if environment::keeps_checkpoints(job))
        });
        let ids: Vec<AttemptId> = running.map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        self.looks_for_checkpoints = true;
        self.operations
            .spawn(async move { Done::Checkpoints(context.options.runner.checkpoints(ids).await) });
    }

    pub(super) fn on_checkpoints(&mut self, told: Vec<(AttemptId, i64)>) {
        self.looks_for_checkpoints = false;
        for (id, micros) in told {
            let time = Timestamp::from_microsecond(micros).ok();
            if let Some(attempt) = self.attempts.get_mut(&id)
                && attempt.checkpointed < time
            {
                attempt.checkpointed = time;
                self.enqueue(&id.uid);
            }
        }
    }
}
