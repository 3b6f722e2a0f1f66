//! Commands against a server in memory, and what they did.

use std::io::Write;
use std::sync::{Arc, Mutex};

use apiserver::server::{MemoryOptions, Server};
use gctl::exit::Exit;
use gctl::output::Output;
use kube::Client;
use tower::ServiceExt;

const CRDS: [&str; 4] = [
    include_str!("../../../crds/jobs.yaml"),
    include_str!("../../../crds/nodes.yaml"),
    include_str!("../../../crds/profiles.yaml"),
    include_str!("../../../crds/queues.yaml"),
];

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A server in memory, and a directory for manifests.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) directory: tempfile::TempDir,
    _server: Server,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cluster {
    pub(crate) async fn new() -> Cluster {
        let server = Server::in_memory(MemoryOptions {
            crds: CRDS.iter().map(|&text| text.to_owned()).collect(),
            clock: Arc::new(jiff::Timestamp::now),
            seed: Some(1),
            admin_token: "secret".to_owned(),
        })
        .await
        .unwrap();
        let service =
            server
                .router()
                .map_request(|mut request: http::Request<kube::client::Body>| {
                    request.headers_mut().insert(
                        http::header::AUTHORIZATION,
                        http::HeaderValue::from_static("Bearer secret"),
                    );
                    request
                });
        Cluster {
            client: Client::new(service, "default"),
            directory: tempfile::tempdir().unwrap(),
            _server: server,
        }
    }

    pub(crate) async fn run(&self, line: &str) -> Ran {
        let (out, err) = (Buffer::default(), Buffer::default());
        let directory = self.directory.path().display().to_string();
        let words = std::iter::once("gctl".into()).chain(
            line.split(' ')
                .map(|word| word.replace("DIR", &directory).into()),
        );
        let output = Output::new(out.clone(), err.clone());
        let exit = gctl::run_with(words, output, self.client.clone(), "default").await;
        let clean = |text: String| text.replace(&directory, "DIR");
        Ran {
            exit,
            out: clean(out.text()),
            err: clean(err.text()),
        }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.directory.path().join(name)).unwrap();
    }
}
