//! Reading objects and lists.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::kinds::{Builtin, ServedKind};
use super::{Registry, builtin, key_of, limits, present};
use crate::cache::{ListAt, ListError, ListPage, ListQuery};
use crate::http::status::{Cause, Details, Status};
use crate::selector::{Selection, SelectorError};
use crate::store::{Revision, Stored};

/// Which state a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListStart {
    /// The newest; it must not be older than this revision, if there is one.
    NotOlderThan(Option<Revision>),
    /// Exactly this revision.
    Exact(Revision),
}

/// What a list asks for.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Which objects.
    pub selection: Selection,
    /// Which state.
    pub start: ListStart,
    /// At most this many.
    pub limit: Option<usize>,
    /// Where the last page ended.
    pub continue_token: Option<String>,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects, in the form of the kind.
    pub items: Vec<Bytes>,
    /// The revision of all pages.
    pub revision: Revision,
    /// How to ask for the next page.
    pub continue_token: Option<String>,
    /// How many objects follow.
    pub remaining: Option<usize>,
}

/// Where a list goes on.
struct Token {
    /// `None`: at the newest state, because the first one is gone.
    revision: Option<Revision>,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        let revision = self.revision.map_or(json!(-1), |revision| json!(revision));
        let start = if self.namespace.is_empty() {
            format!("{}\0", self.name)
        } else {
            format!("{}/{}\0", self.namespace, self.name)
        };
        URL_SAFE_NO_PAD
            .encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
    }

    fn decode(text: &str, namespaced: bool) -> Result<Self, Status> {
        let wrong = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|why| wrong(&why.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|why| wrong(&why.to_string()))?;
        if value["v"] != "meta.k8s.io/v1" {
            return Err(wrong(&format!(
                "server does not recognize this encoded version {}",
                value["v"]
            )));
        }
        let revision = value["rv"]
            .as_i64()
            .filter(|rv| *rv != 0)
            .ok_or_else(|| wrong("incorrect encoded start resourceVersion"))?;
        let start = value["start"]
            .as_str()
            .filter(|start| !start.is_empty())
            .ok_or_else(|| wrong("encoded start key empty"))?;
        let start = start.trim_end_matches('\0');
        let (namespace, name) = if namespaced {
            start
                .split_once('/')
                .ok_or_else(|| wrong("encoded start key has no namespace"))?
        } else {
            ("", start)
        };
        Ok(Self {
            revision: u64::try_from(revision).ok(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// 410: the state that a list wants is gone.
pub(super) fn expired(message: impl Into<String>) -> Status {
    Status::new(StatusCode::GONE, "Expired", message)
}

/// 504: the state that a request wants has not been reached. Without `Retry-After`: this server's one writer knows that
/// waiting would not help.
pub(super) fn too_large(wanted: Revision, current: Revision) -> Status {
    let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
    let cause = Cause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    };
    Status::timeout(message).with_details(Details {
        causes: vec![cause],
        ..Details::default()
    })
}

impl Registry {
    /// The object as it is now, not older than `at_least`.
    pub fn get(
        &self,
        kind: &ServedKind,
        namespace: &str,
        name: &str,
        at_least: Option<Revision>,
    ) -> Result<Bytes, Status> {
        self.check_reached(at_least)?;
        let stored = self.find(kind, namespace, name)?;
        Ok(present(kind, &stored))
    }

    /// The stored object.
    pub fn find(
        &self,
        kind: &ServedKind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Stored>, Status> {
        self.cache()
            .get(&key_of(kind, namespace, name))
            .ok_or_else(|| Status::not_found(&kind.group, &kind.plural, name))
    }

    fn check_reached(&self, at_least: Option<Revision>) -> Result<(), Status> {
        let Some(wanted) = at_least else {
            return Ok(());
        };
        let current = self.cache().current_revision();
        if wanted > current {
            Err(too_large(wanted, current))
        } else {
            Ok(())
        }
    }

    /// Reads the selectors of a request, in the words of the kind that it asks for.
    pub fn selection(
        &self,
        kind: &ServedKind,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Selection, Status> {
        let refuse = |why: SelectorError| Status::bad_request(why.to_string());
        let selection =
            Selection::parse(labels, fields, |field| kind.selects_on(field)).map_err(refuse)?;
        if kind.builtin != Some(Builtin::Event) {
            return Ok(selection);
        }
        let fields = builtin::core_event_fields(&selection.fields);
        Selection::parse(labels, Some(&fields), |_| true).map_err(refuse)
    }

    /// One page of objects.
    pub fn list(
        &self,
        kind: &ServedKind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Page, Status> {
        let page = self.list_stored(kind, namespace, options)?;
        Ok(Self::page(kind, page))
    }

    pub(super) fn page(kind: &ServedKind, page: ListPage) -> Page {
        Page {
            items: page
                .items
                .iter()
                .map(|stored| present(kind, stored))
                .collect(),
            continue_token: page.more.as_ref().map(|(namespace, name)| {
                let (namespace, name) = (namespace.to_string(), name.to_string());
                Token {
                    revision: Some(page.revision),
                    namespace,
                    name,
                }
                .encode()
            }),
            revision: page.revision,
            remaining: page.remaining,
        }
    }

    pub(super) fn list_stored(
        &self,
        kind: &ServedKind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<ListPage, Status> {
        let token = match &options.continue_token {
            Some(text) => Some(Token::decode(text, kind.is_namespaced())?),
            None => None,
        };
        let at = match (&token, options.start) {
            (
                Some(Token {
                    revision: Some(revision),
                    ..
                }),
                _,
            ) => ListAt::Exact(*revision),
            (Some(_), _) => ListAt::Latest,
            (None, ListStart::Exact(revision)) => ListAt::Exact(revision),
            (None, ListStart::NotOlderThan(at_least)) => {
                self.check_reached(at_least)?;
                ListAt::Latest
            }
        };
        let query = ListQuery {
            namespace,
            selection: options.selection.clone(),
            after: token
                .as_ref()
                .map(|token| (token.namespace.as_str(), token.name.as_str())),
            limit: options.limit.map(|limit| limit.min(limits::MAX_LIST_PAGE)),
        };
        self.cache().list(&kind.storage, at, &query).map_err(|error| match (error, token) {
            (ListError::Expired { .. }, Some(token)) => {
                let mut status = expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
                 the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
                 Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
                 deleted between the time the first chunk was returned and now may show up in the list.",
                );
                status.continue_token = Some(Token { revision: None, ..token }.encode());
                status
            }
            (ListError::Expired { .. }, None) => {
                expired("The resourceVersion for the provided list is too old.")
            }
            (ListError::Future { current }, _) => match at {
                ListAt::Exact(wanted) => too_large(wanted, current),
                ListAt::Latest => too_large(current, current),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip_and_nonsense_is_refused() {
        for (revision, namespace, name) in [
            (Some(1_000_000_007), "ns", "a"),
            (None, "ns", "b"),
            (Some(5), "", "c"),
        ] {
            let token = Token {
                revision,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            let back = Token::decode(&token.encode(), !namespace.is_empty()).unwrap();
            assert_eq!(
                (back.revision, back.namespace.as_str(), back.name.as_str()),
                (revision, namespace, name)
            );
        }
        for text in [
            "%%%",
            "AAAA",
            &URL_SAFE_NO_PAD.encode("{}"),
            &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":5}"#),
        ] {
            let error = Token::decode(text, false).err().unwrap();
            assert!(
                error.message.starts_with("continue key is not valid: "),
                "{text}: {}",
                error.message
            );
            assert_eq!(error.code, 400);
        }
    }
}
