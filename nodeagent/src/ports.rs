//! TCP ports for members of gangs: found when a member is claimed, and kept until it starts.
//!
//! The port of rank 0 becomes the gang's `MASTER_PORT`, so it has to be free when rank 0 begins to listen.
//!
//! # Guarantees
//!
//! - Until the start nobody else gets the port: a socket is bound to it on every address, v4 and v6, and does not listen, so
//!   that a member which is early is refused instead of being heard by nobody.
//! - It is none of the ports that Linux gives to outgoing connections, as long as [`PORTS`] has a free one.
//!
//! # Limits
//!
//! Between the start and the time at which the job listens, any process of the host may take the port by its number; so may
//! one between the end of an agent and the start. The job then fails to listen, and says so.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};

use crate::attempt::AttemptId;

/// Where ports are taken from: below the NodePorts of Kubernetes (30000) and the ports of outgoing connections (32768), so
/// that a firewall can be opened for them.
pub const PORTS: RangeInclusive<u16> = 20_000..=29_999;

/// Ports that are tried before any is taken that the kernel offers.
const MOST_TRIES: u16 = 1000;
/// Ports of the kernel's choice that are tried.
const MOST_OFFERS: u32 = 16;

/// A port that was free.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Bound to it.
    socket: Option<OwnedFd>,
}

impl Port {
    /// A port by its number, which nothing keeps free.
    pub fn unkept(number: u16) -> Self {
        Self {
            number,
            socket: None,
        }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// From here on a job can listen on it.
    pub(crate) fn let_go(&mut self) {
        self.socket = None;
    }
}

/// Finds and keeps a port for an attempt, none of those that are taken. Where the search begins follows from the attempt, so
/// that several agents of one host seldom try the same.
pub(crate) fn reserve(id: &AttemptId, taken: &BTreeSet<u16>) -> io::Result<Port> {
    let span = PORTS.end() - PORTS.start() + 1;
    let begin = spread(id) % u64::from(span);
    for offset in 0..MOST_TRIES {
        let step = (begin + u64::from(offset)) % u64::from(span);
        let number = PORTS.start() + u16::try_from(step).unwrap_or(0);
        if taken.contains(&number) {
            continue;
        }
        match keep(number) {
            Ok(port) => return Ok(port),
            Err(Errno::ADDRINUSE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for _ in 0..MOST_OFFERS {
        let port = keep(0)?;
        if !taken.contains(&port.number) {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// FNV-1a: few bytes, well spread, the same everywhere.
fn spread(id: &AttemptId) -> u64 {
    let bytes = id.uid.bytes().chain(id.attempt.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Binds a port on every address of the host; 0 for any.
fn keep(number: u16) -> Result<Port, Errno> {
    let socket = match bind_v6(number) {
        // The host has no IPv6.
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT) => bind_v4(number)?,
        bound => bound?,
    };
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok(Port {
        number: bound.port(),
        socket: Some(socket),
    })
}

fn bind_v6(number: u16) -> Result<OwnedFd, Errno> {
    let socket = tcp_socket(AddressFamily::INET6)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    bind(
        &socket,
        &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, number, 0, 0),
    )?;
    Ok(socket)
}

fn bind_v4(number: u16) -> Result<OwnedFd, Errno> {
    let socket = tcp_socket(AddressFamily::INET)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, number))?;
    Ok(socket)
}

fn tcp_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn id(uid: &str) -> AttemptId {
        AttemptId {
            uid: uid.to_owned(),
            attempt: 1,
        }
    }

    #[test]
    fn a_port_is_kept_for_its_attempt_until_it_is_let_go() {
        let mut port = reserve(&id("a"), &BTreeSet::new()).expect("some port is free");
        let number = port.number();
        assert!(PORTS.contains(&number), "{number}");
        assert!(
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_err(),
            "kept from listeners"
        );
        assert!(
            TcpStream::connect((Ipv4Addr::LOCALHOST, number)).is_err(),
            "nobody listens"
        );
        // The same attempt of another agent, which does not know of the first.
        let other = reserve(&id("a"), &BTreeSet::new()).expect("some port is free");
        assert_ne!(other.number(), number);
        port.let_go();
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).expect("it is free now");
    }

    #[test]
    fn a_port_that_is_taken_is_not_given_again_though_nothing_keeps_it() {
        let mut taken = BTreeSet::new();
        for _ in 0..50 {
            let port = reserve(&id("b"), &taken).expect("some port is free");
            assert!(taken.insert(port.number()), "{} twice", port.number());
        }
    }
}
