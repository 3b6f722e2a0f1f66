//! By which address the jobs of other nodes reach this one.
//!
//! It is given by whoever starts the agent, or it is the address of this host that packets to the API server leave from:
//! where that is, the other nodes are too, as a rule. A host with a network of its own for its jobs is told.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};

/// How long a name server may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// Longest host name.
const MOST_NAME_BYTES: usize = 253;
/// Longest part of a host name between two dots.
const MOST_LABEL_BYTES: usize = 63;

/// An IP address or host name that a job can connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

/// Why a text is no address of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// An address that stands for all, or for none.
    #[error(
        "`{0}` is not the address of one host; give the one by which other nodes reach this one"
    )]
    NotOne(IpAddr),
    /// Neither an address nor a name.
    #[error(
        "`{0}` is neither an IP address nor a host name; give the host alone, such as 10.0.0.7 or gpu-3.lab, without scheme or port"
    )]
    NotHost(String),
}

impl FromStr for Host {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            let everybody = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
            return if ip.is_unspecified() || ip.is_multicast() || everybody {
                Err(BadHost::NotOne(ip))
            } else {
                Ok(Self(ip.to_string()))
            };
        }
        if is_host_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadHost::NotHost(text.to_owned()))
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// RFC 1123, with the underscore that some networks have in theirs. Numbers alone are a mistyped address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= MOST_LABEL_BYTES
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MOST_NAME_BYTES
        && text.split('.').all(is_label)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// Where the address of a node comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// It was given.
    Given(Host),
    /// The address from which packets to the API server leave this host.
    Towards {
        /// The server's host.
        host: String,
        /// Its port.
        port: u16,
    },
    /// The name of the Node, taken for a host name.
    NodeName,
}

impl AddressSource {
    /// What was given, or else the way to a server by its URL.
    pub fn new(given: Option<Host>, server: &str) -> Self {
        match given {
            Some(host) => Self::Given(host),
            None => Self::towards(server),
        }
    }

    fn towards(server: &str) -> Self {
        let uri = server.parse::<http::Uri>().ok();
        let Some((host, uri)) = uri.as_ref().and_then(|uri| Some((uri.host()?, uri))) else {
            return Self::NodeName;
        };
        let plain = uri.scheme_str() == Some("http");
        let port = uri.port_u16().unwrap_or(if plain { 80 } else { 443 });
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Self::Towards {
            host: host.to_owned(),
            port,
        }
    }

    /// Finds the address. Nothing is sent but what a name server is asked.
    pub(crate) async fn find(&self, node_name: &str) -> io::Result<String> {
        match self {
            Self::Given(host) => Ok(host.to_string()),
            Self::NodeName => Ok(node_name.to_owned()),
            Self::Towards { host, port } => {
                let found = tokio::time::timeout(LOOKUP_LIMIT, local_towards(host, *port)).await?;
                Ok(found?.to_string())
            }
        }
    }
}

/// The address of this host that packets to a server leave from.
async fn local_towards(host: &str, port: u16) -> io::Result<IpAddr> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for server in lookup_host((host, port)).await? {
        match local_of(server).await {
            Ok(address) => return Ok(address),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn local_of(server: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // For UDP this only looks up the route.
    socket.connect(server).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name_and_nothing_else() {
        for good in [
            "10.0.0.7",
            "fd00::7",
            "127.0.0.1",
            "gpu-3",
            "gpu_3.lab.example",
            "3com",
        ] {
            assert_eq!(
                good.parse::<Host>().map(|host| host.to_string()),
                Ok(good.to_owned())
            );
        }
        assert_eq!(
            "FD00:0::7".parse::<Host>().map(|host| host.to_string()),
            Ok("fd00::7".to_owned())
        );
        let long = "a".repeat(64);
        let bad = [
            "",
            "10.0.0.7:29500",
            "https://gpu-3",
            "[fd00::7]",
            "10.0.0",
            "10.0.0.256",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a.",
            "ä",
            &long,
            "a,b",
            "a\n",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<Host>(), Err(BadHost::NotHost(bad.to_owned())));
        }
        for all in ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1"] {
            assert!(
                matches!(all.parse::<Host>(), Err(BadHost::NotOne(_))),
                "{all}"
            );
        }
    }

    #[test]
    fn the_server_is_found_in_its_url() {
        let towards = |host: &str, port| AddressSource::Towards {
            host: host.to_owned(),
            port,
        };
        for (url, source) in [
            ("https://127.0.0.1:6443", towards("127.0.0.1", 6443)),
            ("https://gctl.lab/prefix", towards("gctl.lab", 443)),
            ("http://[fd00::1]", towards("fd00::1", 80)),
            ("nonsense url", AddressSource::NodeName),
        ] {
            assert_eq!(AddressSource::new(None, url), source, "{url}");
        }
        let given: Host = "10.0.0.7".parse().expect("an address");
        assert_eq!(
            AddressSource::new(Some(given.clone()), "https://127.0.0.1:6443"),
            AddressSource::Given(given)
        );
    }

    #[tokio::test]
    async fn on_the_way_to_a_server_on_this_host_is_the_loopback() {
        let source = AddressSource::new(None, "https://127.0.0.1:6443");
        assert_eq!(
            source.find("n").await.expect("there is a route"),
            "127.0.0.1"
        );
        let source = AddressSource::new(None, "https://localhost:6443");
        let found: IpAddr = source
            .find("n")
            .await
            .expect("there is a route")
            .parse()
            .expect("an address");
        assert!(found.is_loopback(), "{found}");
    }
}
