//! One watch: a stream of shared batches of events.
//!
//! # Guarantees
//! - Every matching change above the starting revision is delivered once, in order, or the stream ends
//!   with [`WatchEnd::Lagged`].
//! - A watcher that does not read holds at most its buffer, plus one batch, in memory.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, task::AtomicWaker};
use parking_lot::Mutex;

use super::{Shared, hub::Interest};
use crate::store::{Change, EventType, Revision, Stored};

/// Events of the past are handed out this many at a time. Chosen: a few hundred KiB of JSON.
const BACKLOG_BATCH: usize = 256;

/// One event of one watch.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened, as this watch sees it.
    pub kind: EventType,
    /// The object. For an object that left the selection: its old state with the revision of the change.
    pub stored: Arc<Stored>,
    change: Arc<Change>,
}

impl Event {
    pub(super) fn new(kind: EventType, change: &Arc<Change>) -> Option<Self> {
        let stored = match kind {
            EventType::Deleted => change.left()?,
            EventType::Added | EventType::Modified => Arc::clone(&change.stored),
        };
        Some(Self {
            kind,
            stored,
            change: Arc::clone(change),
        })
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.stored.revision
    }

    /// The change behind the event, with the state before it.
    pub fn change(&self) -> &Arc<Change> {
        &self.change
    }

    /// `{"type":"MODIFIED","object":...}` and a newline; built once, shared by all watchers.
    pub fn json_line(&self) -> Bytes {
        match self.kind {
            EventType::Added if self.change.previous.is_some() => self.change.entered_line(),
            kind => self.stored.json_line(kind),
        }
    }
}

/// Consecutive events, shared by all watchers that ask for the same.
#[derive(Debug)]
pub struct EventBatch {
    events: Vec<Event>,
    bytes: usize,
    lines: OnceLock<Bytes>,
}

impl EventBatch {
    pub(super) fn new(events: Vec<Event>) -> Self {
        let bytes = events
            .iter()
            .map(|event| event.stored.bytes.len() + 64)
            .sum();
        Self {
            events,
            bytes,
            lines: OnceLock::new(),
        }
    }

    /// The events, oldest first; never empty.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The lines of all events in one buffer; built once, shared by all watchers.
    pub fn json_lines(&self) -> Bytes {
        let build = || match &self.events[..] {
            [event] => event.json_line(),
            events => {
                let mut lines = BytesMut::with_capacity(self.bytes);
                for event in events {
                    lines.extend_from_slice(&event.json_line());
                }
                lines.freeze()
            }
        };
        self.lines.get_or_init(build).clone()
    }

    /// The size of the events as JSON, in bytes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The revision of the last event.
    pub fn revision(&self) -> Revision {
        self.events.last().map_or(0, Event::revision)
    }
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The reader was slower than the events; it may resume from the last revision it has seen.
    #[error("the watcher did not keep up")]
    Lagged,
    /// The resource is no longer served, or the server is closing.
    #[error("the watch was closed")]
    Closed,
}

/// The end of a watch that the publisher holds.
#[derive(Debug)]
pub(super) struct Subscriber {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Arc<EventBatch>>,
    bytes: usize,
    end: Option<WatchEnd>,
}

impl Subscriber {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            waker: AtomicWaker::new(),
            limit,
        }
    }

    /// Queues a batch; true when that was too much and the watch ends.
    pub(super) fn push(&self, batch: &Arc<EventBatch>, wakers: &mut Vec<Waker>) -> bool {
        let mut queue = self.queue.lock();
        if queue.end.is_some() {
            return false;
        }
        let lagged = !queue.batches.is_empty() && queue.bytes + batch.bytes > self.limit;
        if lagged {
            *queue = Queue {
                end: Some(WatchEnd::Lagged),
                ..Queue::default()
            };
        } else {
            queue.bytes += batch.bytes;
            queue.batches.push_back(Arc::clone(batch));
        }
        drop(queue);
        wakers.extend(self.waker.take());
        lagged
    }

    pub(super) fn finish(&self, end: WatchEnd, wakers: &mut Vec<Waker>) {
        self.queue.lock().end.get_or_insert(end);
        wakers.extend(self.waker.take());
    }
}

/// A stream of [`EventBatch`]es; ends with one [`WatchEnd`].
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    resource: Arc<str>,
    interest: Interest,
    subscriber: Arc<Subscriber>,
    backlog: VecDeque<Arc<Change>>,
    start: Revision,
    delivered: Revision,
    ended: bool,
}

impl Watch {
    pub(super) fn new(
        shared: Arc<Shared>,
        resource: Arc<str>,
        interest: Interest,
        subscriber: Arc<Subscriber>,
        backlog: VecDeque<Arc<Change>>,
        start: Revision,
    ) -> Self {
        let (delivered, ended) = (start, false);
        Self {
            shared,
            resource,
            interest,
            subscriber,
            backlog,
            start,
            delivered,
            ended,
        }
    }

    /// Events are those above this revision.
    pub fn start_revision(&self) -> Revision {
        self.start
    }

    /// A revision up to which everything has been taken from this stream: safe for a bookmark.
    pub fn progress(&self) -> Revision {
        // Loaded first: whatever is published up to it is in the queue by then.
        let published = self.shared.published();
        let queue = self.subscriber.queue.lock();
        let idle = self.backlog.is_empty() && queue.batches.is_empty() && queue.end.is_none();
        if idle {
            published.max(self.delivered)
        } else {
            self.delivered
        }
    }

    /// The next batch if there is one now; `None` when the watch must wait.
    pub fn try_next(&mut self) -> Option<Result<Arc<EventBatch>, WatchEnd>> {
        if self.ended {
            return None;
        }
        if let Some(batch) = self.next_of_backlog() {
            return Some(Ok(batch));
        }
        let mut queue = self.subscriber.queue.lock();
        if let Some(batch) = queue.batches.pop_front() {
            queue.bytes -= batch.bytes;
            drop(queue);
            self.delivered = batch.revision();
            return Some(Ok(batch));
        }
        let end = queue.end?;
        drop(queue);
        self.ended = true;
        Some(Err(end))
    }

    fn next_of_backlog(&mut self) -> Option<Arc<EventBatch>> {
        let mut events = Vec::new();
        while let Some(change) = self.backlog.pop_front() {
            self.delivered = change.revision();
            events.extend(self.interest.event(&change));
            if events.len() == BACKLOG_BATCH {
                break;
            }
        }
        (!events.is_empty()).then(|| Arc::new(EventBatch::new(events)))
    }
}

impl Stream for Watch {
    type Item = Result<Arc<EventBatch>, WatchEnd>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watch = self.get_mut();
        if watch.ended {
            return Poll::Ready(None);
        }
        if let Some(item) = watch.try_next() {
            return Poll::Ready(Some(item));
        }
        watch.subscriber.waker.register(context.waker());
        match watch.try_next() {
            Some(item) => Poll::Ready(Some(item)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared
            .unsubscribe(&self.resource, &self.interest, &self.subscriber);
    }
}
