//! Stage 1, listen: take connections, and find out where they were going before they were redirected here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::beside::spare_congestion_control;

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 4096;

/// A socket that connections are taken from.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    port: u16,
}

/// A connection, and where it was going.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub io: TcpStream,
    /// Who made it.
    pub client: SocketAddr,
    /// Where it was going.
    pub destination: OriginalDst,
}

/// Where a connection was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginalDst {
    /// Elsewhere: it was redirected here.
    Redirected(SocketAddr),
    /// To the listener itself, at this address.
    Direct(SocketAddr),
}

/// Listens at `address`, together with whoever else does so with this function.
///
/// An unspecified IPv6 address takes IPv4 too; where the machine has no IPv6, IPv4 alone.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    match listen(address) {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        result => result,
    }
}

/// The same, for the apps beside us.
pub fn bind_beside(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bind(address)?;
    spare_congestion_control(SockRef::from(&socket));
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by what is accepted, so that no connection pays for it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// Takes connections from a socket that [`bind`] made.
    pub fn new(socket: std::net::TcpListener) -> io::Result<Self> {
        let port = socket.local_addr()?.port();
        Ok(Self { tcp: TcpListener::from_std(socket)?, port })
    }

    /// Takes the next connection.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let (io, client) = self.tcp.accept().await?;
        let client = canonical(client);
        let destination = self.destination(&io, client)?;
        Ok(Accepted { io, client, destination })
    }

    /// Asks connection tracking where `io` was going (netfilter's `SO_ORIGINAL_DST`).
    fn destination(&self, io: &TcpStream, client: SocketAddr) -> io::Result<OriginalDst> {
        let socket = SockRef::from(io);
        // A connection of IPv4 has its entry there, also where it was taken by a socket of IPv6.
        let original = match client.ip() {
            IpAddr::V4(_) => socket.original_dst_v4(),
            IpAddr::V6(_) => socket.original_dst_v6(),
        };
        let original = original.ok().and_then(|address| address.as_socket()).map(canonical);
        // Where the ports differ there is no need to ask for our own address as well.
        if let Some(original) = original.filter(|original| original.port() != self.port) {
            return Ok(OriginalDst::Redirected(original));
        }
        let local = canonical(io.local_addr()?);
        Ok(match original {
            Some(original) if original != local => OriginalDst::Redirected(original),
            Some(_) | None => OriginalDst::Direct(local),
        })
    }
}

/// IPv4 as IPv4, also where a socket of IPv6 says it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_is_direct() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::new(listener).unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_eq!(accepted.destination, OriginalDst::Direct(address));
        assert_eq!(accepted.client, client.local_addr().unwrap());
        assert!(accepted.io.nodelay().unwrap());
    }

    #[tokio::test]
    async fn an_unspecified_ipv6_address_takes_ipv4_and_says_it_as_ipv4() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = Listener::new(listener).unwrap();
        let _client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_eq!(accepted.destination, OriginalDst::Direct(SocketAddr::from(([127, 0, 0, 1], port))));
        assert!(accepted.client.is_ipv4());
    }

    #[test]
    fn several_workers_listen_at_the_same_address() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = bind(first.local_addr().unwrap()).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }
}
