//! What is known of an attempt when something was heard of it: of its shim's end, or of what lingers.

use std::io;

use tokio::sync::mpsc;

use super::COMMAND_QUEUE;
use crate::attempt::{AttemptId, Ended, Held};
use crate::ledger::Ledger;
use crate::ledger::adopt::{Found, adopt, lingering_end};
use crate::shim::{SHIM_EXISTS, SHIM_NO_RECORD, SHIM_OK};
use crate::spawner::News;

/// Why an attempt is looked at.
pub(super) enum Ending {
    /// Its record should be complete.
    Recorded,
    /// Its shim left no complete record, or none that is ours.
    Unclear,
    /// Its shim says that it is at its end and something is left.
    Noted,
    /// Its shim is dead, and what it left does not die.
    Undying,
    /// It never started.
    NotStarted(String),
}

/// What the end of a shim means.
pub(super) fn ending(status: i32) -> Ending {
    match status {
        SHIM_OK => Ending::Recorded,
        // Another shim took the gate, or a signal killed this one: the record tells.
        SHIM_EXISTS => Ending::Unclear,
        status if status < 0 => Ending::Unclear,
        status if status >= SHIM_NO_RECORD => {
            let error = io::Error::from_raw_os_error(status - SHIM_NO_RECORD);
            Ending::NotStarted(format!("the attempt's record could not be made: {error}"))
        }
        status => Ending::NotStarted(format!("the shim refused the request (status {status})")),
    }
}

/// Looks at an attempt of which something was heard.
pub(super) fn look(ledger: &Ledger, id: &AttemptId, ending: &Ending) -> io::Result<Found> {
    match ending {
        Ending::Recorded => {
            let record = ledger.record(id)?.unwrap_or_default();
            if record.emptied {
                Ok(Found::Ended(crate::ledger::held(id.clone(), record)))
            } else {
                adopt(ledger, id)
            }
        }
        Ending::Noted => {
            let record = ledger.record(id)?.unwrap_or_default();
            Ok(Found::Ended(crate::ledger::held(id.clone(), record)))
        }
        Ending::Undying => {
            let record = ledger.record(id)?.unwrap_or_default();
            let mut held = crate::ledger::held(id.clone(), record);
            held.ended = Some(lingering_end(ledger, id)?);
            Ok(Found::Ended(held))
        }
        Ending::Unclear => {
            // Where there is no gate yet, it is taken now, so that the attempt cannot start behind our back.
            ledger.seal(id)?;
            adopt(ledger, id)
        }
        Ending::NotStarted(reason) => Ok(Found::Ended(Held {
            id: id.clone(),
            namespace: String::new(),
            name: String::new(),
            grace_secs: 0,
            charge: crate::attempt::Charge::default(),
            fenced: false,
            ended: Some(Ended {
                finished_micros: Some(crate::shim::now_micros()),
                start_error: Some(reason.clone()),
                ..Ended::default()
            }),
        })),
    }
}

/// Reads a spawner's news in a task of its own, because half a message must not be dropped.
pub(super) fn listen(mut receiver: crate::spawner::Receiver) -> mpsc::Receiver<News> {
    let (sender, news) = mpsc::channel(COMMAND_QUEUE);
    tokio::spawn(async move {
        while let Some(one) = receiver.next().await {
            if sender.send(one).await.is_err() {
                return;
            }
        }
    });
    news
}
