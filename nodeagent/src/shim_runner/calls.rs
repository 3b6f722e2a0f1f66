//! What an agent asks of the runner, call by call.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;

use super::{Command, ShimRunner, blocking, ground};
use crate::attempt::{AttemptId, StartRequest};
use crate::runner::{Attached, Ground, Runner, RunnerError};
use crate::shim::ShimRequest;

impl Runner for ShimRunner {
    fn attach(&self) -> BoxFuture<'_, Result<Attached, RunnerError>> {
        self.take_over().boxed()
    }

    fn ground(&self, directory: String) -> BoxFuture<'_, Ground> {
        ground::look(Arc::clone(&self.looks), directory).boxed()
    }

    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            let (attempts_dir, cgroups, commands) = self.link(|link| {
                let attempts_dir = link.ledger.attempts_dir().to_owned();
                (attempts_dir, link.cgroups.clone(), link.commands.clone())
            })?;
            let request = ShimRequest {
                attempts_dir,
                cgroups,
                spare: None,
                start: request,
            };
            commands
                .send(Command::Start(Box::new(request)))
                .await
                .map_err(|_| RunnerError::Closed)
        }
        .boxed()
    }

    fn stop(&self, id: AttemptId, kill_at: Timestamp) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            let ledger = self.ledger()?;
            blocking(move || ledger.stop(&id, kill_at.as_microsecond()))
                .await
                .map_err(RunnerError::host("ask for a stop"))
        }
        .boxed()
    }

    fn thaw(&self, id: AttemptId) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            let (ledger, commands) =
                self.link(|link| (Arc::clone(&link.ledger), link.commands.clone()))?;
            let thawed = id.clone();
            blocking(move || ledger.thaw(&thawed))
                .await
                .map_err(RunnerError::host("thaw an attempt"))?;
            // If it is frozen again, that is news.
            commands
                .send(Command::Thawed(id))
                .await
                .map_err(|_| RunnerError::Closed)
        }
        .boxed()
    }

    fn boot_micros(&self) -> u64 {
        u64::try_from(crate::shim::sys::boot_time().as_micros()).unwrap_or(u64::MAX)
    }

    fn acknowledged(&self, sent_boot_micros: u64) {
        // Without a ledger there is no attempt either.
        let _ = self.link(|link| link.ledger.acknowledged(sent_boot_micros));
    }

    fn output_len(&self, id: &AttemptId) -> u64 {
        self.ledger().map_or(0, |ledger| ledger.output_len(id))
    }

    fn output(
        &self,
        id: AttemptId,
        offset: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Bytes, RunnerError>> {
        async move {
            let ledger = self.ledger()?;
            blocking(move || ledger.output(&id, offset, limit))
                .await
                .map(Bytes::from)
                .map_err(RunnerError::host("read output"))
        }
        .boxed()
    }

    fn checkpoints(&self, ids: Vec<AttemptId>) -> BoxFuture<'_, Vec<(AttemptId, i64)>> {
        async move {
            match self.ledger() {
                Ok(ledger) => blocking(move || ledger.checkpoints(ids)).await,
                Err(_) => Vec::new(),
            }
        }
        .boxed()
    }

    fn forget(&self, ids: Vec<AttemptId>) -> BoxFuture<'_, Result<(), RunnerError>> {
        async move {
            let commands = self.link(|link| link.commands.clone())?;
            commands
                .send(Command::Forget(ids))
                .await
                .map_err(|_| RunnerError::Closed)
        }
        .boxed()
    }

    fn processes(&self, id: AttemptId) -> BoxFuture<'_, Vec<i32>> {
        async move {
            match self.ledger() {
                Ok(ledger) => blocking(move || ledger.processes(&id)).await,
                Err(_) => Vec::new(),
            }
        }
        .boxed()
    }

    fn root_process(&self, id: &AttemptId) -> Option<i32> {
        let ledger = self.ledger().ok()?;
        let record = ledger.record(id).ok()??;
        record.shim.map(|(pid, _)| pid)
    }
}
