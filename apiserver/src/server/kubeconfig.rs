//! The kubeconfig of the admin, for every Kubernetes client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::auth::write_private;
use crate::schema::yaml::to_yaml;

/// The URL under which this host reaches a server that is bound to an address.
pub(super) fn url(address: SocketAddr, is_tls: bool) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("{}://{address}", if is_tls { "https" } else { "http" })
}

/// Writes the file with mode 0600, replacing it in one step.
pub(super) fn write(path: &Path, url: &str, ca_pem: Option<&str>, token: &str) -> io::Result<()> {
    let mut cluster = json!({ "server": url });
    if let Some(pem) = ca_pem {
        cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gctl", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "gctl", "context": {"cluster": "gctl", "user": "admin", "namespace": "default"}}],
        "current-context": "gctl",
    });
    write_private(path, to_yaml(&config).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_reached_on_loopback() {
        assert_eq!(
            url("0.0.0.0:6443".parse().unwrap(), true),
            "https://127.0.0.1:6443"
        );
        assert_eq!(url("[::]:1".parse().unwrap(), false), "http://[::1]:1");
        assert_eq!(
            url("10.0.0.7:6443".parse().unwrap(), true),
            "https://10.0.0.7:6443"
        );
    }
}
