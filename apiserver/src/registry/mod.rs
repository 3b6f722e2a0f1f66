//! What happens to objects: create, read, update, patch, delete, watch, and the server's own upkeep of them.
//!
//! A write is decided on the object as the cache shows it, admitted by its kind's schema, encoded once and committed under
//! the condition that nobody was faster; what is stored is what is sent. No kind has code of its own here, but for the
//! built-in ones, whose rules lie in `rules` and whose lives lie in `definitions` and `upkeep`.

pub mod builtin;
mod collector;
mod create;
mod definition;
mod definitions;
mod delete;
mod encode;
mod events;
mod ids;
pub mod kinds;
pub mod limits;
pub mod metadata;
mod modify;
mod namespaces;
mod options;
mod prepare;
mod read;
mod rules;
mod scale;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub use self::create::Written;
pub use self::delete::Deleted;
pub use self::ids::Ids;
use self::kinds::{Builtin, Kinds, SelectableField, ServedKind};
pub use self::modify::{Patch, Target};
pub use self::options::{DeleteOptions, Propagation, WriteOptions};
pub(crate) use self::options::{dry_run, invalid_options};
pub use self::read::{ListOptions, ListStart, Page};
use crate::cache::{Cache, CacheOptions, Clock, Index};
use crate::http::status::Status;
use crate::store::{CommitError, ObjectKey, Store, StoreError, Stored};

/// What a registry is opened with.
pub struct RegistryOptions {
    /// Tells the time.
    pub clock: Clock,
    /// Seeds uids and name suffixes; `None` takes them from the operating system.
    pub seed: Option<u64>,
    /// CustomResourceDefinitions as YAML that are part of the server: made and updated at the start, never deleted.
    pub definitions: Vec<String>,
    /// How much history is kept.
    pub cache: CacheOptions,
}

/// Why a registry could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store could not be read.
    #[error("failed to open the store")]
    Store(#[from] StoreError),
    /// A built-in definition is not YAML.
    #[error("failed to read a built-in definition")]
    Yaml(#[from] crate::schema::decode::DecodeError),
    /// A built-in definition or namespace was refused.
    #[error("the built-in object `{name}` was refused: {why}")]
    Refused {
        /// The object's name.
        name: String,
        /// The refusal.
        why: Status,
    },
}

/// The one owner of objects and kinds. Shared by all requests.
pub struct Registry {
    cache: Cache,
    kinds: ArcSwap<Kinds>,
    clock: Clock,
    ids: Ids,
    definitions: tokio::sync::Mutex<definitions::Definitions>,
    upkeep: Arc<upkeep::Queue>,
    gone: Mutex<collector::Gone>,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Opens the store, serves its kinds, makes the built-in objects and starts the upkeep.
    /// Must be called within a tokio runtime.
    pub async fn open(
        store: Arc<dyn Store>,
        options: RegistryOptions,
    ) -> Result<Arc<Self>, OpenError> {
        let cache = Cache::open(store, options.cache, |recovered| {
            index_with(definition::selectable_fields(
                &recovered.objects(builtin::CRDS),
            ))
        })?;
        let registry = Arc::new(Self {
            cache,
            kinds: ArcSwap::from_pointee(Kinds::new(builtin::kinds(), 0)),
            clock: options.clock,
            ids: Ids::new(options.seed),
            definitions: tokio::sync::Mutex::default(),
            upkeep: Arc::default(),
            gone: Mutex::default(),
            shutdown: CancellationToken::new(),
        });
        registry.restore_definitions().await;
        registry.make_namespaces().await?;
        registry.install_definitions(&options.definitions).await?;
        let queue = Arc::clone(&registry.upkeep);
        tokio::spawn(upkeep::run(
            Arc::downgrade(&registry),
            queue,
            registry.shutdown.clone(),
        ));
        Ok(registry)
    }

    /// The kinds that are served now.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.kinds.load_full()
    }

    /// The objects.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The time.
    pub fn now(&self) -> jiff::Timestamp {
        (self.clock)()
    }

    /// The generator of identifiers.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Cancelled when the server ends: watches end cleanly then and upkeep stops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// The stored bytes of an object; `storage` is its resource (`jobs.gctl.dev`).
    pub fn stored(&self, storage: &str, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.cache.get(&ObjectKey::new(storage, namespace, name))
    }

    /// The time as Kubernetes writes it: whole seconds, UTC.
    fn timestamp(&self) -> String {
        whole_seconds(self.now())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// RFC 3339 in UTC with whole seconds.
pub(crate) fn whole_seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The function that extracts index entries, for the selectable fields of each stored resource.
fn index_with(fields: BTreeMap<String, Arc<[SelectableField]>>) -> Index {
    Arc::new(move |resource, bytes| {
        let fields = fields.get(resource).map_or(&[][..], |fields| fields);
        encode::decode(bytes)
            .map(|object| encode::index_of(&object, fields))
            .unwrap_or_default()
    })
}

/// Where an object of this kind is stored.
fn key_of(kind: &ServedKind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(Arc::clone(&kind.storage), namespace, name)
}

/// The stored object in the form of the kind that it is asked through.
pub fn present(kind: &ServedKind, stored: &Stored) -> Bytes {
    if kind.builtin == Some(Builtin::Event) {
        return events::present(&stored.bytes);
    }
    if stored.revision <= kind.schema_since
        && let Ok(object) = open_stored(kind, stored)
    {
        return encode::plain(&object);
    }
    encode::with_api_version(&stored.bytes, &kind.storage_api_version, &kind.api_version)
}

/// The stored object, decoded, in the form of the kind and fitted to its schema.
fn open_stored(kind: &ServedKind, stored: &Stored) -> Result<Map<String, Value>, Status> {
    let mut object = encode::decode(&stored.bytes).map_err(Status::internal)?;
    if kind.builtin == Some(Builtin::Event) {
        object = events::from_core(object);
    } else if kind.api_version != kind.storage_api_version {
        object.insert("apiVersion".to_owned(), (&*kind.api_version).into());
    }
    if stored.revision <= kind.schema_since {
        let mut value = Value::Object(object);
        kind.schema.prune(&mut value);
        kind.schema.default(&mut value);
        let Value::Object(fitted) = value else {
            return Err(Status::internal("a stored object is no object"));
        };
        object = fitted;
    }
    Ok(object)
}

/// The error of a commit that is nobody's race.
fn commit_failed(error: &CommitError) -> Status {
    Status::internal(error)
}
