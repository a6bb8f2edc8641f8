//! Datagrams that pass a hub on their way elsewhere: whom they are from, where they were going, and sockets that answer from there.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

/// A datagram that was taken on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many bytes it has.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was going.
    pub to: SocketAddr,
}

/// Takes the next datagram from a socket of [`Hub::listen_for_datagrams`](crate::Hub::listen_for_datagrams).
///
/// # Errors
/// There is none now, or the kernel does not say where it was going.
pub fn take(socket: &impl AsFd, into: &mut [u8]) -> io::Result<Taken> {
    let mut parts = [IoSliceMut::new(into)];
    let mut said = nix::cmsg_space!(libc::sockaddr_in6);
    let descriptor = socket.as_fd().as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(descriptor, &mut parts, Some(&mut said), MsgFlags::empty())?;
    let from = message.address.as_ref().and_then(address);
    let to = message.cmsgs()?.find_map(|said| match said {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => Some(SocketAddr::from(SockaddrIn::from(to))),
        ControlMessageOwned::Ipv6OrigDstAddr(to) => Some(SocketAddr::from(SockaddrIn6::from(to))),
        _ => None,
    });
    match (from, to) {
        (Some(from), Some(to)) => Ok(Taken { length: message.bytes, from, to }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
}

/// Listens in the calling thread's namespace for what is diverted to this port.
pub(crate) fn listen(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = transparent(at)?;
    match at {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?,
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// A socket of the calling thread's namespace with an address that is not its own.
pub(crate) fn speak(from: SocketAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = transparent(from)?;
    // Many speak as one: each to another.
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn transparent(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    match at {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
