//! One API server: what it is opened with, and how it is served.
//!
//! ```text
//!   DIR/store/         the objects
//!   DIR/pki/           CA and serving certificate
//!   DIR/tokens         hashes of bearer tokens        DIR/admin.token  the admin's own, readable by the owner
//!   DIR/streams/       logs
//! ```
//!
//! # Guarantees
//! - A start that would expose an unauthenticated or unencrypted server beyond this host is refused with the reason.
//! - [`Server::in_memory`] opens no file, no socket and no thread.

pub mod inside;
mod kubeconfig;
mod listen;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::auth::pki::{self, Pki, PkiError};
use crate::auth::tokens::{Tokens, TokensError};
use crate::blobs::{BlobError, LogStore, Owner};
use crate::cache::{CacheOptions, Clock};
use crate::http::surface::{Surface, find_uid};
use crate::registry::{OpenError, Registry, RegistryOptions};
use crate::store::{EmbeddedOptions, EmbeddedStore, MemoryStore, Store, StoreError};

/// Requests that run at a time, long-running ones left out. Specified: kube-apiserver's 400 and 200 together.
const MAX_IN_FLIGHT: usize = 600;
/// Open connections. Chosen: more than 200 hosts with a few clients each.
const MAX_CONNECTIONS: usize = 4096;

/// What a server on disk is opened with.
pub struct Options {
    /// Where everything is kept; made with mode 0700 when missing.
    pub data_dir: PathBuf,
    /// The address that the server will listen on; its certificate carries it.
    pub listen: SocketAddr,
    /// Serve without TLS; on loopback only.
    pub plain_http: bool,
    /// CustomResourceDefinitions as YAML that are part of the server: applied at the start and undeletable.
    pub crds: Vec<String>,
    /// Tells the time.
    pub clock: Clock,
    /// Seeds uids and name suffixes; `None` takes them from the operating system.
    pub seed: Option<u64>,
    /// Requests that run at a time, long-running ones left out.
    pub max_in_flight: usize,
    /// Open connections; further ones wait to be accepted.
    pub max_connections: usize,
}

impl Options {
    /// The usual settings.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            plain_http: false,
            crds: Vec::new(),
            clock: Arc::new(jiff::Timestamp::now),
            seed: None,
            max_in_flight: MAX_IN_FLIGHT,
            max_connections: MAX_CONNECTIONS,
        }
    }
}

/// What a server in memory is opened with.
pub struct MemoryOptions {
    /// CustomResourceDefinitions as YAML that are part of the server.
    pub crds: Vec<String>,
    /// Tells the time.
    pub clock: Clock,
    /// Seeds uids and name suffixes; `None` takes them from the operating system.
    pub seed: Option<u64>,
    /// The token of the user `admin`.
    pub admin_token: String,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The start would let others on the network read tokens.
    #[error(
        "refused to serve plain HTTP on {0}: only loopback addresses may go without TLS (drop --plain-http)"
    )]
    Exposed(SocketAddr),
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path}")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS material.
    #[error("cannot prepare TLS")]
    Pki(#[from] PkiError),
    /// Tokens.
    #[error("cannot prepare the bearer tokens")]
    Tokens(#[from] TokensError),
    /// Streams.
    #[error("cannot open the streams")]
    Streams(#[from] BlobError),
    /// The store.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// The registry.
    #[error("cannot open the registry")]
    Registry(#[from] OpenError),
    /// A task of the start was cut short.
    #[error("the start was cut short")]
    Interrupted,
}

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener is reachable from elsewhere and there is no TLS.
    #[error("refused to serve plain HTTP on {0}: only loopback addresses may go without TLS")]
    Exposed(SocketAddr),
    /// The listener failed.
    #[error("the listener failed")]
    Listener(#[source] io::Error),
    /// The store failed; what was acknowledged is safe, nothing more can be.
    #[error("the store failed, so nothing can be written any more")]
    Store(#[source] Arc<StoreError>),
}

/// An open server.
pub struct Server {
    surface: Arc<Surface>,
    pki: Option<Pki>,
    max_connections: usize,
    logs: Background,
}

/// The background work of the streams, ended when dropped.
struct Background {
    task: JoinHandle<()>,
    stop: CancellationToken,
    _guard: DropGuard,
}

impl Server {
    /// Opens the server's data, making on the first start what is missing. Must be called within a tokio runtime.
    pub async fn open(options: Options) -> Result<Self, StartError> {
        if options.plain_http && !pki::is_loopback(options.listen.ip()) {
            return Err(StartError::Exposed(options.listen));
        }
        let data_dir = options.data_dir.clone();
        let names = pki::server_names(options.listen);
        let (now, plain) = ((options.clock)(), options.plain_http);
        let prepared =
            tokio::task::spawn_blocking(move || prepare(&data_dir, &names, plain, now)).await;
        let (tokens, pki, logs, store) = prepared.map_err(|_| StartError::Interrupted)??;
        let registry = RegistryOptions {
            cache: CacheOptions::new(Arc::clone(&options.clock)),
            clock: options.clock,
            seed: options.seed,
            definitions: options.crds,
        };
        let registry = Registry::open(Arc::new(store) as Arc<dyn Store>, registry).await?;
        Ok(Self::assemble(
            registry,
            tokens,
            logs,
            pki,
            options.max_in_flight,
            options.max_connections,
        ))
    }

    /// A server for simulation: the same behaviour without files, threads and sockets.
    pub async fn in_memory(options: MemoryOptions) -> Result<Self, StartError> {
        let registry = RegistryOptions {
            cache: CacheOptions::new(Arc::clone(&options.clock)),
            clock: options.clock,
            seed: options.seed,
            definitions: options.crds,
        };
        let registry = Registry::open(Arc::new(MemoryStore::new()), registry).await?;
        let tokens = Tokens::in_memory(&options.admin_token);
        Ok(Self::assemble(
            registry,
            tokens,
            LogStore::in_memory(),
            None,
            MAX_IN_FLIGHT,
            MAX_CONNECTIONS,
        ))
    }

    fn assemble(
        registry: Arc<Registry>,
        tokens: Tokens,
        logs: LogStore,
        pki: Option<Pki>,
        max_in_flight: usize,
        max_connections: usize,
    ) -> Self {
        let logs = Arc::new(logs);
        let find_uid = find_uid(&registry);
        let stop = CancellationToken::new();
        let (store, token) = (Arc::clone(&logs), stop.clone());
        let task = tokio::spawn(async move {
            let is_alive = move |resource: &str, owner: &Owner, uid: &str| {
                find_uid(resource, &owner.namespace, &owner.name)
                    .is_some_and(|found| *found == *uid)
            };
            store.run(is_alive, token).await;
        });
        Self {
            surface: Surface::new(registry, Arc::new(tokens), logs, max_in_flight),
            pki,
            max_connections,
            logs: Background {
                task,
                _guard: stop.clone().drop_guard(),
                stop,
            },
        }
    }

    /// The whole HTTP surface, authentication included.
    pub fn router(&self) -> axum::Router {
        self.surface.router()
    }

    /// The surface as a service for clients in this process that come as the admin; none where there is no readable token.
    pub fn inside(&self) -> Option<inside::Inside> {
        inside::Inside::new(self.router(), self.admin_token()?)
    }

    /// The admin's token, where a readable copy exists.
    pub fn admin_token(&self) -> Option<&str> {
        self.surface.tokens.admin()
    }

    /// Where clients find the server.
    pub fn url(&self, address: SocketAddr) -> String {
        kubeconfig::url(address, self.pki.is_some())
    }

    /// Writes a kubeconfig for the admin: mode 0600, replaced in one step, namespace `default`.
    pub fn write_kubeconfig(&self, path: &Path, server_addr: SocketAddr) -> io::Result<()> {
        let token = self.admin_token().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no readable admin token: admin.token is missing or not accepted any more",
            )
        })?;
        let ca_pem = self.pki.as_ref().map(|pki| pki.ca_pem.as_str());
        kubeconfig::write(path, &self.url(server_addr), ca_pem, token)
    }

    /// Serves until `shutdown`; then watches end cleanly, requests are finished, and everything is synced.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(ServeError::Listener)?;
        if self.pki.is_none() && !pki::is_loopback(address.ip()) {
            return Err(ServeError::Exposed(address));
        }
        let tls = self.pki.as_ref().map(|pki| Arc::clone(&pki.server));
        let registry = Arc::clone(&self.surface.registry);
        let connections = listen::Connections::new(self.router(), tls, self.max_connections);
        let failure = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            failure = registry.cache().failed() => Some(failure),
            () = connections.accept(&listener) => None,
        };
        self.surface.health.begin_shutdown();
        drop(listener);
        registry.shutdown().cancel();
        connections.finish().await;
        self.logs.stop.cancel();
        // The task ends by itself after its last sync; a panic in it was logged by the runtime.
        let _ = self.logs.task.await;
        registry.cache().close().await;
        failure.map_or(Ok(()), |failure| Err(ServeError::Store(failure)))
    }
}

type Prepared = (Tokens, Option<Pki>, LogStore, EmbeddedStore);

/// The blocking part of a start.
fn prepare(
    data_dir: &Path,
    names: &BTreeSet<String>,
    plain: bool,
    now: jiff::Timestamp,
) -> Result<Prepared, StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|source| StartError::DataDir {
            path: data_dir.to_owned(),
            source,
        })?;
    // The store holds the lock of the data folder, so it comes first: nothing else is touched while another server runs.
    let store = EmbeddedStore::open(EmbeddedOptions::new(data_dir.join("store")))?;
    let tokens = Tokens::open(data_dir)?;
    let pki = if plain {
        None
    } else {
        Some(pki::open(&data_dir.join("pki"), names, now)?)
    };
    let logs = LogStore::open(&data_dir.join("streams"))?;
    Ok((tokens, pki, logs, store))
}
