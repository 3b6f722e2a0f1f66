//! Finds the kubeconfig and makes the client.
//!
//! In this order: `--kubeconfig`, `$KUBECONFIG` (a list of files is merged), `./.gctl/kubeconfig` where `gctl up` leaves it, `~/.kube/config`.

use std::path::{Path, PathBuf};

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use crate::error::Error;

/// Where `gctl up` leaves a kubeconfig, seen from the directory it was started in.
pub const LOCAL_KUBECONFIG: &str = ".gctl/kubeconfig";

/// What the command line says about the server.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`.
    pub context: Option<String>,
    /// `--server`.
    pub server: Option<String>,
}

/// A client and what is worth saying about it.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// URL of the server.
    pub server: String,
    /// Namespace of the context.
    pub namespace: String,
}

/// Makes the client that the command line and the environment ask for.
///
/// # Errors
/// When there is no kubeconfig, or it cannot be used.
pub async fn connect(choice: &Choice) -> Result<Connection, Error> {
    let config = config(choice).await?;
    let server = config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned();
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| {
        Error::Kubeconfig(format!(
            "failed to make a client for {server}: {}",
            crate::api::chain(&error)
        ))
    })?;
    Ok(Connection {
        client,
        server,
        namespace,
    })
}

async fn config(choice: &Choice) -> Result<Config, Error> {
    let found = find(
        choice.kubeconfig.as_deref(),
        std::env::var_os("KUBECONFIG").as_deref(),
        std::env::var_os("HOME").as_deref().map(Path::new),
    );
    let server = choice
        .server
        .as_deref()
        .map(|server| {
            server
                .parse::<http::Uri>()
                .map_err(|error| Error::Usage(format!("--server `{server}` is not a URL: {error}")))
        })
        .transpose()?;
    let (kubeconfig, origin) = match (found, &server) {
        (Some(Found::File(path)), _) => {
            let read = Kubeconfig::read_from(&path).map_err(|error| {
                Error::Kubeconfig(format!(
                    "failed to read the kubeconfig `{}`: {}",
                    path.display(),
                    crate::api::chain(&error)
                ))
            })?;
            (read, path.display().to_string())
        }
        (Some(Found::Environment), _) => {
            let read = Kubeconfig::from_env().map_err(|error| {
                Error::Kubeconfig(format!(
                    "failed to read the files in KUBECONFIG: {}",
                    crate::api::chain(&error)
                ))
            })?;
            (read.unwrap_or_default(), "$KUBECONFIG".to_owned())
        }
        (None, Some(server)) => return Ok(Config::new(server.clone())),
        (None, None) => {
            return Err(Error::Kubeconfig(format!(
                "no kubeconfig: give --kubeconfig FILE, set KUBECONFIG, or start a cluster in this directory with `gctl up` (which writes {LOCAL_KUBECONFIG})"
            )));
        }
    };
    let options = KubeConfigOptions {
        context: choice.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| {
            Error::Kubeconfig(format!(
                "the kubeconfig `{origin}` cannot be used: {}",
                crate::api::chain(&error)
            ))
        })?;
    if let Some(server) = server {
        config.cluster_url = server;
    }
    Ok(config)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    File(PathBuf),
    Environment,
}

fn find(
    flag: Option<&Path>,
    variable: Option<&std::ffi::OsStr>,
    home: Option<&Path>,
) -> Option<Found> {
    if let Some(path) = flag {
        return Some(Found::File(path.to_owned()));
    }
    if variable.is_some_and(|value| !value.is_empty()) {
        return Some(Found::Environment);
    }
    [
        Some(PathBuf::from(LOCAL_KUBECONFIG)),
        home.map(|home| home.join(".kube/config")),
    ]
    .into_iter()
    .flatten()
    .find(|path| path.is_file())
    .map(Found::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_comes_before_the_environment_and_that_before_the_home_directory() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join(".kube/config");
        std::fs::create_dir(home.path().join(".kube")).unwrap();
        std::fs::write(&config, "").unwrap();
        let variable = std::ffi::OsStr::new("/a:/b");
        assert_eq!(
            find(Some(Path::new("/f")), Some(variable), Some(home.path())),
            Some(Found::File("/f".into()))
        );
        assert_eq!(
            find(None, Some(variable), Some(home.path())),
            Some(Found::Environment)
        );
        assert_eq!(
            find(None, Some("".as_ref()), Some(home.path())),
            Some(Found::File(config))
        );
    }
}
