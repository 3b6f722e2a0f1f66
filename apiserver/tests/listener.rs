//! A real listener: TLS with the server's own CA, HTTP/1.1 and HTTP/2, restarts and a graceful end.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may end it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use apiserver::server::{Options, ServeError, Server, StartError};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

struct Running {
    address: SocketAddr,
    token: String,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn start(folder: &Path) -> Running {
    let server = Server::open(Options::new(folder, loopback()))
        .await
        .unwrap();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = server.admin_token().unwrap().to_owned();
    server
        .write_kubeconfig(&folder.join("kubeconfig"), address)
        .unwrap();
    let shutdown = CancellationToken::new();
    Running {
        address,
        token,
        task: tokio::spawn(server.serve(listener, shutdown.clone())),
        shutdown,
    }
}

fn trust(folder: &Path, alpn: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(folder.join("pki/ca.crt")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn request(running: &Running, path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://{}{path}", running.address))
        .header("host", "localhost")
        .header("authorization", format!("Bearer {}", running.token))
        .body(Empty::new())
        .unwrap()
}

async fn over_tls(
    running: &Running,
    folder: &Path,
    name: &'static str,
    alpn: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(running.address).await?;
    trust(folder, alpn)
        .connect(ServerName::try_from(name).unwrap(), stream)
        .await
}

async fn h2(
    running: &Running,
    folder: &Path,
) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let stream = over_tls(running, folder, "localhost", b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

async fn h1(
    running: &Running,
    folder: &Path,
) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
    let stream = over_tls(running, folder, "127.0.0.1", b"http/1.1")
        .await
        .unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn text(body: Incoming) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn both_protocols_are_spoken_under_a_certificate_of_the_servers_own_ca() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    let answer = h2(&running, folder.path())
        .await
        .send_request(request(&running, "/api/v1/namespaces"))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = h1(&running, folder.path())
        .await
        .send_request(request(&running, "/version"))
        .await
        .unwrap();
    assert!(text(answer.into_body()).await.contains("v1.32.0"));
    let other = tempfile::tempdir().unwrap();
    let elsewhere = start(other.path()).await;
    over_tls(&running, other.path(), "localhost", b"h2")
        .await
        .expect_err("another server's CA is not trusted");
    over_tls(&running, folder.path(), "example.com", b"h2")
        .await
        .expect_err("the certificate is for this host");
    for running in [running, elsewhere] {
        running.shutdown.cancel();
        running.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_shutdown_ends_watches_cleanly_and_a_restart_keeps_ca_and_token() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    let ca = std::fs::read(folder.path().join("pki/ca.crt")).unwrap();
    let mut senders = (
        h2(&running, folder.path()).await,
        h1(&running, folder.path()).await,
    );
    let path = "/api/v1/namespaces?watch=true&resourceVersion=0";
    let mut watches = vec![
        senders
            .0
            .send_request(request(&running, path))
            .await
            .unwrap()
            .into_body(),
        senders
            .1
            .send_request(request(&running, path))
            .await
            .unwrap()
            .into_body(),
    ];
    for watch in &mut watches {
        let first = watch.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"{\"type\":\"ADDED\""));
    }
    running.shutdown.cancel();
    for watch in watches {
        watch
            .collect()
            .await
            .expect("a watch ends with its last chunk, not with a reset");
    }
    running.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());

    let again = start(folder.path()).await;
    assert_eq!(again.token, running.token);
    assert_eq!(std::fs::read(folder.path().join("pki/ca.crt")).unwrap(), ca);
    let kubeconfig = std::fs::read_to_string(folder.path().join("kubeconfig")).unwrap();
    assert!(
        kubeconfig.contains(&format!("https://{}", again.address))
            && kubeconfig.contains(&again.token)
    );
    again.shutdown.cancel();
    again.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_the_connection_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    let stream = over_tls(&running, folder.path(), "localhost", b"h2")
        .await
        .unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let body = http_body_util::Full::new(Bytes::from(vec![b'a'; 10 << 20]));
        let request = request(&running, "/api/v1/namespaces").map(|_| body);
        let (mut parts, body) = request.into_parts();
        parts.method = http::Method::POST;
        let answer = sender
            .send_request(Request::from_parts(parts, body))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(
            text(answer.into_body())
                .await
                .contains("RequestEntityTooLarge")
        );
    }
    running.shutdown.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_before_the_body_was_read_leaves_an_http1_connection_usable() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    let stream = over_tls(&running, folder.path(), "localhost", b"http/1.1")
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let known = "/api/v1/namespaces";
    for (path, token, wanted) in [
        ("/apis/nowhere/v1/things", None, StatusCode::NOT_FOUND),
        (known, Some("Bearer wrong"), StatusCode::UNAUTHORIZED),
        ("/api/v1/namespaces/a", None, StatusCode::METHOD_NOT_ALLOWED),
        (known, None, StatusCode::BAD_REQUEST),
    ] {
        let body = http_body_util::Full::new(Bytes::from(vec![b'a'; 900 << 10]));
        let mut request = request(&running, path).map(|_| body);
        *request.method_mut() = http::Method::POST;
        if let Some(token) = token {
            request
                .headers_mut()
                .insert("authorization", http::HeaderValue::from_static(token));
        }
        sender.ready().await.expect("the connection is still there");
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), wanted);
        text(answer.into_body()).await;
    }
    running.shutdown.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_exposed_start_without_tls_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path(), "0.0.0.0:0".parse().unwrap());
    options.plain_http = true;
    assert!(matches!(
        Server::open(options).await,
        Err(StartError::Exposed(_))
    ));
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was made"
    );

    let mut options = Options::new(folder.path(), loopback());
    options.plain_http = true;
    let server = Server::open(options).await.unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let served = server.serve(listener, CancellationToken::new()).await;
    assert!(matches!(served, Err(ServeError::Exposed(_))));
}

#[tokio::test]
async fn an_emptied_tokens_file_refuses_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens"), "").unwrap();
    let started = Server::open(Options::new(folder.path(), loopback())).await;
    assert!(matches!(started, Err(StartError::Tokens(_))));
}
