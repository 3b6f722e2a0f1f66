//! A watch that goes on: it survives ended streams, restarts of the server and lost connections, from the revision it had reached.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::core::WatchEvent;
use serde_json::Value;

use crate::api::{self, Api};
use crate::catalog::Resource;
use crate::error::Error;
use crate::session::Selection;

/// Seconds after which the server ends a stream and we open the next; a connection that died unnoticed is noticed then.
const STREAM_SECONDS: u32 = 290;
/// First and longest pause before a stream is opened again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A change, or what happened to the watch itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is new to the selection.
    Added(Value),
    /// The object changed.
    Modified(Value),
    /// The object is gone, or left the selection.
    Deleted(Value),
    /// The revision is too old to go on from: list again, and call [`Watch::resume_at`].
    Expired,
    /// The connection broke; said once for each outage. The watch tries again by itself.
    Interrupted(String),
}

/// A watch of a collection.
pub struct Watch {
    api: Api,
    path: String,
    selection: Selection,
    accept: &'static str,
    revision: String,
    stream: Option<BoxStream<'static, Result<WatchEvent<Value>, Error>>>,
    pause: Duration,
    broken: bool,
}

impl Watch {
    /// Watches a collection from after `revision`.
    pub fn new(
        api: &Api,
        resource: &Resource,
        namespace: Option<&str>,
        selection: Selection,
        revision: &str,
    ) -> Self {
        Watch {
            api: api.clone(),
            path: resource.collection(namespace),
            selection,
            accept: api::JSON,
            revision: revision.to_owned(),
            stream: None,
            pause: PAUSE.0,
            broken: false,
        }
    }

    /// Asks for tables instead of objects.
    #[must_use]
    pub fn tables(mut self) -> Self {
        self.accept = api::TABLE;
        self
    }

    /// Goes on from another revision, after a new list.
    pub fn resume_at(&mut self, revision: &str) {
        revision.clone_into(&mut self.revision);
        self.stream = None;
    }

    /// The next change. Never ends by itself.
    ///
    /// # Errors
    /// When the server refuses the watch for good: a wrong token, a bad selector, a kind that is gone.
    pub async fn next(&mut self) -> Result<Change, Error> {
        loop {
            let Some(stream) = &mut self.stream else {
                let opened = self.open().await;
                match opened {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) if error.status_code() == Some(410) => return Ok(Change::Expired),
                    Err(error) if error.is_transient() => {
                        if let Some(change) = self.broke(&error).await {
                            return Ok(change);
                        }
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            };
            match stream.next().await {
                Some(Ok(event)) => {
                    self.broken = false;
                    self.pause = PAUSE.0;
                    if let Some(change) = self.take(event)? {
                        return Ok(change);
                    }
                }
                Some(Err(error)) if error.status_code() == Some(410) => {
                    self.stream = None;
                    return Ok(Change::Expired);
                }
                Some(Err(error)) => {
                    self.stream = None;
                    if let Some(change) = self.broke(&error).await {
                        return Ok(change);
                    }
                }
                None => {
                    // The ordinary end of a stream; a server that ends each at once must not be asked without pause.
                    self.stream = None;
                    tokio::time::sleep(PAUSE.0).await;
                }
            }
        }
    }

    async fn open(&self) -> Result<BoxStream<'static, Result<WatchEvent<Value>, Error>>, Error> {
        let uri = format!(
            "{}{}",
            self.path,
            api::query(&[
                ("watch", "true"),
                ("allowWatchBookmarks", "true"),
                ("timeoutSeconds", &STREAM_SECONDS.to_string()),
                ("labelSelector", &self.selection.labels),
                ("fieldSelector", &self.selection.fields),
                ("resourceVersion", &self.revision),
            ])
        );
        self.api
            .watch(&uri, self.accept, &format!("watch {}", self.path))
            .await
    }

    async fn broke(&mut self, error: &Error) -> Option<Change> {
        if !self.broken {
            self.broken = true;
            return Some(Change::Interrupted(error.to_string()));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
        None
    }

    fn take(&mut self, event: WatchEvent<Value>) -> Result<Option<Change>, Error> {
        Ok(match event {
            WatchEvent::Added(object) => Some(Change::Added(self.reached(object))),
            WatchEvent::Modified(object) => Some(Change::Modified(self.reached(object))),
            WatchEvent::Deleted(object) => Some(Change::Deleted(self.reached(object))),
            WatchEvent::Bookmark(bookmark) => {
                self.revision = bookmark.metadata.resource_version;
                None
            }
            WatchEvent::Error(status) if status.code == 410 => {
                self.stream = None;
                Some(Change::Expired)
            }
            WatchEvent::Error(status) => {
                return Err(Error::Refused {
                    attempted: format!("watch {}", self.path),
                    status,
                });
            }
        })
    }

    fn reached(&mut self, object: Value) -> Value {
        // A table of one row carries the revision in its own metadata and in its row's object.
        let revision = [
            &object["metadata"]["resourceVersion"],
            &object["rows"][0]["object"]["metadata"]["resourceVersion"],
        ]
        .into_iter()
        .find_map(|value| value.as_str().filter(|text| !text.is_empty()));
        if let Some(revision) = revision {
            revision.clone_into(&mut self.revision);
        }
        object
    }
}
