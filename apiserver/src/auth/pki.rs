//! The server's own certificate authority and serving certificate.
//!
//! Made on first start in `DIR/pki`: `ca.crt` and `ca.key` for ten years, `server.crt` and `server.key` for one year.
//! The serving certificate is renewed at a start when it is near its end, when the names it must carry changed, or
//! when its notes in `server.json` cannot be read. Keys are files of mode 0600 in a folder of mode 0700.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _, Unit, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use super::write_private;

/// Days for which a new CA is valid.
const CA_DAYS: i64 = 3650;
/// Days for which a new serving certificate is valid.
const SERVER_DAYS: i64 = 365;
/// A serving certificate with fewer days left is renewed at the next start.
const RENEW_DAYS: i64 = 90;

/// Why the TLS material could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made from its parameters.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// A PEM file is broken.
    #[error("{path} does not hold what it should: {why}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The TLS library refused the material.
    #[error("the TLS library refused the certificate")]
    Tls(#[from] rustls::Error),
    /// The clock is so wrong that no validity can be computed.
    #[error("the clock gives no usable date")]
    Clock(#[from] jiff::Error),
}

/// The CA that clients must trust, and what the server presents.
#[derive(Clone)]
pub struct Pki {
    /// The CA certificate in PEM, for kubeconfigs.
    pub ca_pem: String,
    /// The server side of TLS: ALPN `h2` and `http/1.1`, TLS 1.2 and 1.3.
    pub server: Arc<ServerConfig>,
}

/// What the serving certificate was made for.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Notes {
    names: BTreeSet<String>,
    not_after: Timestamp,
    ca: String,
}

/// The names that the serving certificate must carry: loopback, the host name, and the listen address.
pub fn server_names(listen: SocketAddr) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = [
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        Ipv4Addr::LOCALHOST.to_string(),
        Ipv6Addr::LOCALHOST.to_string(),
    ]
    .into();
    if !listen.ip().is_unspecified() {
        names.insert(listen.ip().to_string());
    }
    if let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname") {
        let host = host.trim().to_ascii_lowercase();
        let usable = host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        if usable && !host.is_empty() && host != "(none)" {
            names.insert(host);
        }
    }
    names
}

/// Opens the folder, making whatever is missing or outdated.
pub fn open(folder: &Path, names: &BTreeSet<String>, now: Timestamp) -> Result<Pki, PkiError> {
    let at = |path: PathBuf| move |source| PkiError::File { path, source };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(at(folder.to_owned()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .map_err(at(folder.to_owned()))?;

    let (ca_pem, ca_key) = open_ca(folder, now)?;
    let notes = Notes {
        names: names.clone(),
        not_after: days_later(now, SERVER_DAYS)?,
        ca: ca_pem.clone(),
    };
    let kept = fs::read(folder.join("server.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Notes>(&bytes).ok())
        .filter(|old| old.names == notes.names && old.ca == notes.ca)
        .is_some_and(|old| days_later(now, RENEW_DAYS).is_ok_and(|limit| old.not_after > limit));
    if kept && let Ok(server) = load_server(folder) {
        return Ok(Pki { ca_pem, server });
    }
    make_server(folder, &notes, ca_key, now)?;
    let server = load_server(folder)?;
    tracing::info!(folder = %folder.display(), "made a serving certificate");
    Ok(Pki { ca_pem, server })
}

fn days_later(now: Timestamp, days: i64) -> Result<Timestamp, jiff::Error> {
    let later = now.to_zoned(TimeZone::UTC).checked_add(days.days())?;
    later.timestamp().round(Unit::Second)
}

fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) -> Result<(), PkiError> {
    let date = |time: Timestamp| {
        let date = time.to_zoned(TimeZone::UTC).date();
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    // A day of slack for clients whose clock is behind.
    params.not_before = date(days_later(now, -1)?);
    params.not_after = date(days_later(now, days)?);
    Ok(())
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "gctl-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}

fn open_ca(folder: &Path, now: Timestamp) -> Result<(String, KeyPair), PkiError> {
    let (crt, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    let read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File {
            path: path.to_owned(),
            source,
        }),
    };
    if let (Some(crt_pem), Some(key_pem)) = (read(&crt)?, read(&key)?) {
        let broken = |path: PathBuf| {
            move |why: rcgen::Error| PkiError::Broken {
                path,
                why: why.to_string(),
            }
        };
        return Ok((crt_pem, KeyPair::from_pem(&key_pem).map_err(broken(key))?));
    }
    let pair = KeyPair::generate()?;
    let mut params = ca_params();
    validity(&mut params, now, CA_DAYS)?;
    let pem = params.self_signed(&pair)?.pem();
    write(&key, pair.serialize_pem().as_bytes())?;
    write(&crt, pem.as_bytes())?;
    tracing::info!(folder = %folder.display(), "made a certificate authority");
    Ok((pem, pair))
}

fn make_server(
    folder: &Path,
    notes: &Notes,
    ca_key: KeyPair,
    now: Timestamp,
) -> Result<(), PkiError> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(notes.names.iter().cloned().collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "gctl-apiserver");
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, SERVER_DAYS)?;
    // The issuer is rebuilt from the same parameters that the CA certificate was made with.
    let certificate = params.signed_by(&pair, &Issuer::new(ca_params(), ca_key))?;
    let notes = serde_json::to_vec_pretty(notes).map_err(|why| PkiError::Broken {
        path: folder.join("server.json"),
        why: why.to_string(),
    })?;
    // The notes go first to nothing: a crash between these writes must not leave notes that vouch for other files.
    write(&folder.join("server.json"), b"{}")?;
    write(&folder.join("server.key"), pair.serialize_pem().as_bytes())?;
    write(&folder.join("server.crt"), certificate.pem().as_bytes())?;
    write(&folder.join("server.json"), &notes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write_private(path, bytes).map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}

fn load_server(folder: &Path) -> Result<Arc<ServerConfig>, PkiError> {
    let broken = |path: PathBuf| {
        move |why: rustls_pki_types::pem::Error| PkiError::Broken {
            path,
            why: why.to_string(),
        }
    };
    let crt = folder.join("server.crt");
    let key = folder.join("server.key");
    let chain = CertificateDer::pem_file_iter(&crt)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(broken(crt))?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(broken(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whether an address can only be reached from this host.
pub fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn server_pem(folder: &Path) -> String {
        fs::read_to_string(folder.join("server.crt")).unwrap()
    }

    #[test]
    fn certificates_are_kept_until_they_age_or_their_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pki");
        let names = server_names("127.0.0.1:0".parse().unwrap());
        let first = open(&folder, &names, at("2026-01-01T00:00:00Z")).unwrap();
        let pem = server_pem(&folder);

        let again = open(&folder, &names, at("2026-06-01T00:00:00Z")).unwrap();
        assert_eq!(again.ca_pem, first.ca_pem);
        assert_eq!(server_pem(&folder), pem);

        let aged = open(&folder, &names, at("2026-12-01T00:00:00Z")).unwrap();
        assert_eq!(aged.ca_pem, first.ca_pem);
        let renewed = server_pem(&folder);
        assert_ne!(renewed, pem);

        let mut more = names.clone();
        more.insert("10.0.0.7".to_owned());
        open(&folder, &more, at("2026-12-01T00:00:00Z")).unwrap();
        assert_ne!(server_pem(&folder), renewed);
        for file in ["ca.key", "server.key"] {
            let mode = fs::metadata(folder.join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn a_torn_serving_certificate_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let names = server_names("127.0.0.1:0".parse().unwrap());
        open(dir.path(), &names, at("2026-01-01T00:00:00Z")).unwrap();
        fs::write(dir.path().join("server.crt"), "").unwrap();
        open(dir.path(), &names, at("2026-01-01T00:00:00Z")).unwrap();
        assert!(server_pem(dir.path()).contains("BEGIN CERTIFICATE"));
    }
}
