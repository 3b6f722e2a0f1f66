//! The listener: TCP, TLS, HTTP/1.1 and HTTP/2 on one port, bounded and ended gracefully.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP/1 client may take to send a request's head, idle time between requests included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// An HTTP/2 client that is silent is asked after this time ...
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// ... and dropped when it does not answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams on one HTTP/2 connection. Specified: at least 100; a controller process has all its watches on one.
const MAX_STREAMS: u32 = 1000;
/// Bytes of headers on one HTTP/2 request.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Bytes that a client may send ahead on one HTTP/2 stream and on all of a connection.
const WINDOW_BYTES: u32 = 1 << 20;
/// How long requests may take to end after the listener is closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A listener that cannot accept (no descriptors left) is asked again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open connections of one server.
pub(super) struct Connections {
    router: Router,
    tls: Option<TlsAcceptor>,
    limit: Arc<Semaphore>,
    tasks: TaskTracker,
    graceful: GracefulShutdown,
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

impl Connections {
    pub(super) fn new(
        router: Router,
        tls: Option<Arc<ServerConfig>>,
        max_connections: usize,
    ) -> Self {
        Self {
            router,
            tls: tls.map(TlsAcceptor::from),
            limit: Arc::new(Semaphore::new(max_connections)),
            tasks: TaskTracker::new(),
            graceful: GracefulShutdown::new(),
        }
    }

    /// Accepts until it is dropped. At the limit it waits, so that further clients wait in the kernel's queue.
    pub(super) async fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok(permit) = Arc::clone(&self.limit).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => self.start(stream, permit),
                Err(error) if is_about_one_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        // Answers are small and wanted at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let (router, watcher, tls) = (
            self.router.clone(),
            self.graceful.watcher(),
            self.tls.clone(),
        );
        self.tasks.spawn(async move {
            let _permit = permit;
            match tls {
                None => serve_one(stream, builder(), router, watcher).await,
                Some(acceptor) => {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            // Both sides have agreed on the version, so there is nothing to guess from the first bytes.
                            let is_h2 =
                                stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
                            let builder = if is_h2 {
                                builder().http2_only()
                            } else {
                                builder().http1_only()
                            };
                            serve_one(stream, builder, router, watcher).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                        Err(_) => tracing::debug!("TLS handshake took too long"),
                    }
                }
            }
        });
    }

    /// Ends all connections: GOAWAY, the requests that run are finished, and after a while the rest is cut.
    pub(super) async fn finish(self) {
        self.tasks.close();
        let drained = async {
            self.graceful.shutdown().await;
            self.tasks.wait().await;
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut");
        }
    }
}

async fn serve_one<S>(stream: S, builder: Builder<TokioExecutor>, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "a connection ended with an error");
    }
}

/// Errors of `accept` that say something about the client that is already gone, and nothing about the listener.
fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
