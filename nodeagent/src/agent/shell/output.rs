//! The shell's part in output and in letting go: what is sent when, and when nothing here needs an attempt any more.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::logs::{self, Position, SendError};
use super::{Done, Known, MOST_OPERATIONS, MOST_SENDS, MOST_TOMBS, Shell, first_of};
use crate::attempt::AttemptId;

impl Shell {
    pub(super) fn send_logs(&mut self) {
        let ids: Vec<_> = self.attempts.keys().cloned().collect();
        for id in ids {
            self.send_log(&id);
        }
    }

    pub(super) fn send_log(&mut self, id: &AttemptId) {
        let Some(attempt) = self.attempts.get_mut(id) else {
            return;
        };
        if self.sends >= MOST_SENDS || attempt.name.is_empty() || attempt.let_go == Some(false) {
            return;
        }
        let length = self.context.options.runner.output_len(id);
        let Some(piece) = attempt
            .log
            .next(length, attempt.ended.is_some(), Instant::now())
        else {
            return;
        };
        self.sends += 1;
        let (context, id) = (Arc::clone(&self.context), id.clone());
        let (namespace, name) = (attempt.namespace.clone(), attempt.name.clone());
        self.operations.spawn(async move {
            let answer = logs::send(context, namespace, name, id.clone(), piece).await;
            Done::Sent(id, answer)
        });
    }

    pub(super) fn on_sent(&mut self, id: &AttemptId, answer: &Result<Position, SendError>) {
        let Some(attempt) = self.attempts.get_mut(id) else {
            return;
        };
        match answer {
            Ok(_) => {}
            Err(SendError::Refused(error)) => {
                tracing::debug!(attempt = %id, error, "a piece of a log was refused");
            }
            Err(SendError::Later(error)) => {
                tracing::debug!(attempt = %id, error, "a piece of a log could not be sent");
            }
        }
        attempt.log.answered(answer, Instant::now());
        if attempt.log.not_before().is_none() {
            self.send_log(id);
        }
        self.enqueue(&id.uid);
        self.forget_if_safe(id);
    }

    pub(super) fn forget_if_safe(&mut self, id: &AttemptId) {
        let Some(attempt) = self.attempts.get(id) else {
            return;
        };
        let safe = match attempt.let_go {
            None => false,
            Some(false) => true,
            Some(true) => attempt
                .log
                .is_safe(self.context.options.runner.output_len(id)),
        };
        if safe {
            self.attempts.remove(id);
            self.forgets.push(id.clone());
            self.bury_if_done(&id.uid);
        }
    }

    pub(super) fn send_forgets(&mut self) {
        if self.forgets.is_empty() || self.operations.len() >= MOST_OPERATIONS + MOST_SENDS {
            return;
        }
        let ids = std::mem::take(&mut self.forgets);
        let runner = Arc::clone(&self.context.options.runner);
        self.operations.spawn(async move {
            if let Err(error) = runner.forget(ids).await {
                tracing::warn!(
                    error = crate::error_chain(&error),
                    "failed to forget attempts"
                );
            }
            Done::Forgotten
        });
    }

    /// Drops a job that needs nothing of this node any more, remembering how far it was seen.
    pub(super) fn bury_if_done(&mut self, uid: &str) {
        let Some(slot) = self.jobs.get(uid) else {
            return;
        };
        let holds_any = self
            .attempts
            .range(first_of(uid)..)
            .next()
            .is_some_and(|(id, _)| id.uid == uid);
        if slot.operations > 0 || holds_any {
            return;
        }
        let version = match &slot.seen {
            Known::Unverified { .. } if slot.name.is_empty() => 0,
            Known::Unverified { .. } => return,
            Known::Gone => u64::MAX,
            Known::Job { job, .. } => {
                let status = job.status.as_ref();
                let node = &self.context.options.node_name;
                let is_ours = status
                    .and_then(|status| status.binding.as_ref())
                    .is_some_and(|binding| binding.node_name == *node);
                let is_over = status.is_some_and(|status| status.outcome.is_some());
                if is_ours && !is_over {
                    return;
                }
                super::version(job)
            }
        };
        self.jobs.remove(uid);
        if version > 0 && self.tomb_versions.insert(uid.to_owned(), version).is_none() {
            self.tombs.push_back((uid.to_owned(), version));
        }
        while self.tombs.len() > MOST_TOMBS {
            if let Some((uid, _)) = self.tombs.pop_front() {
                self.tomb_versions.remove(&uid);
            }
        }
    }
}
