//! The query parameters of resource requests. Unknown ones are ignored; known ones are held to what Kubernetes allows.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderMap;

use super::attributes::percent_decode;
use super::status::Status;
use crate::registry::kinds::ServedKind;
use crate::registry::limits;
use crate::registry::{
    DeleteOptions, ListOptions, ListStart, Registry, WriteOptions, dry_run, invalid_options,
};
use crate::schema::FieldValidation;
use crate::schema::field_error::{FieldError, Path};
use crate::store::Revision;

/// A query, decoded once.
pub(super) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    pub(super) fn parse(text: Option<&'a str>) -> Self {
        let decode = |text: &'a str| {
            if text.contains('+') {
                Cow::Owned(percent_decode(&text.replace('+', " ")).into_owned())
            } else {
                percent_decode(text)
            }
        };
        let pairs = text
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(key), decode(value))
            });
        Self {
            pairs: pairs.collect(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| &**value)
    }

    /// A parameter that is there and not empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    fn all<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'s str> {
        self.pairs
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| &**value)
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    fn optional_flag(&self, key: &str) -> Result<Option<bool>, Status> {
        match self.text(key) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(Status::bad_request(format!(
                "invalid value {other:?} of the boolean parameter {key}"
            ))),
        }
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Status> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let wrong = |_| {
            Status::bad_request(format!(
                "invalid value {text:?} of the parameter {key}: it must be a number"
            ))
        };
        text.parse().map(Some).map_err(wrong)
    }

    /// `resourceVersion`; unset is `None`.
    fn revision(&self) -> Result<Option<Revision>, Status> {
        let Some(text) = self.text("resourceVersion") else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "invalid resource version {text:?}: it must be a number"
            ))
        })
    }
}

/// Who writes: the `fieldManager` parameter, else the name of the program in the User-Agent.
fn manager(query: &Query<'_>, headers: &HeaderMap, options: &str) -> Result<String, Status> {
    let path = Path::Root.field("fieldManager");
    if let Some(manager) = query.text("fieldManager") {
        if manager.chars().count() > limits::MAX_MANAGER_CHARS {
            let error = FieldError::too_long(&path, limits::MAX_MANAGER_CHARS as u64);
            return Err(invalid_options(options, error));
        }
        if let Some(bad) = manager.chars().find(|c| c.is_control()) {
            let error = FieldError::invalid(
                &path,
                manager,
                format!("invalid character {bad:?}: must be printable"),
            );
            return Err(invalid_options(options, error));
        }
        return Ok(manager.to_owned());
    }
    let agent = headers
        .get(http::header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(limits::MAX_MANAGER_CHARS)
        .collect();
    Ok(if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    })
}

/// The parameters of create, update and patch; `options` is what Kubernetes calls them.
pub(super) fn write_options(
    query: &Query<'_>,
    headers: &HeaderMap,
    options: &str,
) -> Result<WriteOptions, Status> {
    let validation = FieldValidation::parse(query.text("fieldValidation"))
        .map_err(|why| invalid_options(options, why))?;
    Ok(WriteOptions {
        manager: manager(query, headers, options)?,
        validation,
        dry_run: dry_run(
            query.all("dryRun").filter(|value| !value.is_empty()),
            options,
        )?,
    })
}

/// The parameters of delete, which the body may repeat.
pub(super) fn delete_options(query: &Query<'_>) -> Result<DeleteOptions, Status> {
    let mut options = DeleteOptions {
        dry_run: dry_run(
            query.all("dryRun").filter(|value| !value.is_empty()),
            "DeleteOptions",
        )?,
        ..DeleteOptions::default()
    };
    query.number::<i64>("gracePeriodSeconds")?;
    options.set_propagation(
        query.text("propagationPolicy"),
        query.optional_flag("orphanDependents")?,
    )?;
    Ok(options)
}

/// The oldest state that a get accepts.
pub(super) fn get_revision(query: &Query<'_>) -> Result<Option<Revision>, Status> {
    query.revision()
}

/// How the `resourceVersion` of a list is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Unset,
    NotOlderThan,
    Exact,
}

fn revision_match(query: &Query<'_>) -> Result<Match, Status> {
    match query.text("resourceVersionMatch") {
        None => Ok(Match::Unset),
        Some("NotOlderThan") => Ok(Match::NotOlderThan),
        Some("Exact") => Ok(Match::Exact),
        Some(other) => {
            let path = Path::Root.field("resourceVersionMatch");
            Err(list_invalid(FieldError::not_supported(
                &path,
                other,
                ["Exact", "NotOlderThan"],
            )))
        }
    }
}

fn list_invalid(error: FieldError) -> Status {
    invalid_options("ListOptions", error)
}

fn forbidden(field: &str, why: &str) -> Status {
    list_invalid(FieldError::forbidden(&Path::Root.field(field), why))
}

/// The parameters of list and deletecollection.
pub(super) fn list_options(
    query: &Query<'_>,
    registry: &Registry,
    kind: &ServedKind,
) -> Result<ListOptions, Status> {
    let selection = registry.selection(
        kind,
        query.text("labelSelector"),
        query.text("fieldSelector"),
    )?;
    let limit = query.number::<i64>("limit")?.unwrap_or(0);
    if limit < 0 {
        let error = FieldError::invalid(
            &Path::Root.field("limit"),
            limit,
            "must be greater than or equal to 0",
        );
        return Err(list_invalid(error));
    }
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
    if query.get("sendInitialEvents").is_some() {
        return Err(forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    let how = revision_match(query)?;
    let revision = query.revision()?;
    let continue_token = query.text("continue").map(str::to_owned);
    if continue_token.is_some() {
        if how != Match::Unset {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if revision.is_some_and(|revision| revision != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let start = ListStart::NotOlderThan(None);
        return Ok(ListOptions {
            selection,
            start,
            limit,
            continue_token,
        });
    }
    let start = match (how, revision) {
        (Match::NotOlderThan | Match::Exact, None) => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        (Match::Exact, Some(0)) => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        (Match::Exact, Some(revision)) => ListStart::Exact(revision),
        (Match::Unset, Some(revision)) if limit.is_some() && revision != 0 => {
            ListStart::Exact(revision)
        }
        (Match::Unset, None) | (Match::Unset | Match::NotOlderThan, Some(0)) => {
            ListStart::NotOlderThan(None)
        }
        (Match::Unset | Match::NotOlderThan, Some(revision)) => {
            ListStart::NotOlderThan(Some(revision))
        }
    };
    Ok(ListOptions {
        selection,
        start,
        limit,
        continue_token,
    })
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchStart {
    /// With an ADDED for everything that is there, at least as new as this revision.
    Everything(Option<Revision>),
    /// The same, and a bookmark that says so afterwards.
    EverythingMarked(Option<Revision>),
    /// With the first change after this revision.
    After(Revision),
    /// With the next change.
    Live,
}

/// The parameters of a watch.
#[derive(Clone, Debug)]
pub(super) struct WatchOptions {
    pub(super) selection: crate::selector::Selection,
    pub(super) start: WatchStart,
    pub(super) bookmarks: bool,
    pub(super) timeout: Duration,
}

/// Reads the parameters of a watch.
pub(super) fn watch_options(
    query: &Query<'_>,
    registry: &Registry,
    kind: &ServedKind,
) -> Result<WatchOptions, Status> {
    let selection = registry.selection(
        kind,
        query.text("labelSelector"),
        query.text("fieldSelector"),
    )?;
    let revision = query.revision()?;
    let how = revision_match(query)?;
    let start = match (query.optional_flag("sendInitialEvents")?, how) {
        (Some(_), Match::Unset | Match::Exact) => {
            return Err(forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        (None, Match::NotOlderThan | Match::Exact) => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        (Some(true), Match::NotOlderThan) => {
            WatchStart::EverythingMarked(revision.filter(|r| *r != 0))
        }
        (Some(false), Match::NotOlderThan) => match revision.filter(|r| *r != 0) {
            Some(revision) => WatchStart::After(revision),
            None => WatchStart::Live,
        },
        (None, Match::Unset) => match revision {
            None | Some(0) => WatchStart::Everything(None),
            Some(revision) => WatchStart::After(revision),
        },
    };
    let seconds = query
        .number::<u64>("timeoutSeconds")?
        .filter(|seconds| *seconds > 0);
    let timeout = match seconds {
        Some(seconds) => Duration::from_secs(seconds).min(limits::WATCH_MAX),
        None => registry.ids().spread(limits::WATCH_MIN),
    };
    Ok(WatchOptions {
        selection,
        start,
        bookmarks: query.flag("allowWatchBookmarks"),
        timeout,
    })
}
