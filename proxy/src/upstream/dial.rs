//! Opening connections: bounded in time, without delay for small writes, marked where interception wants a mark; to the app
//! from its caller's own address where that is wanted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use weft_pods::KEPT_SOURCE_MARK;

use crate::beside::spare_congestion_control;
use crate::failure::ErrorCode;

/// How long a connection to one address may take to be made, where no policy says otherwise.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// After how much silence a connection is asked whether its other end still exists.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A caller's own ports are mostly above these. Where we took one that its connection to the same port of the app has, the
/// kernel could not tell the two connections apart.
const PORTS: RangeInclusive<u16> = 16_384..=32_767;

/// How many of those are tried.
const PORTS_TRIED: u32 = 16;

/// Opens every connection that a worker makes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dialer {
    mark: Option<u32>,
}

impl Dialer {
    /// `mark` is set on every socket (`SO_MARK`), so that interception lets it through.
    pub fn new(mark: Option<u32>) -> Self {
        Self { mark }
    }

    /// Connects to the first of `addresses` that answers.
    pub async fn dial(&self, addresses: &[SocketAddr]) -> Result<TcpStream, ErrorCode> {
        self.dial_within(CONNECT_LIMIT, addresses).await
    }

    /// The same, where a policy says how long each of them may take.
    pub async fn dial_within(
        &self,
        limit: Duration,
        addresses: &[SocketAddr],
    ) -> Result<TcpStream, ErrorCode> {
        let mut failed = ErrorCode::ConnectFailed;
        for address in addresses {
            match bounded(limit, *address, self.connect(*address)).await {
                Ok(tcp) => return Ok(tcp),
                Err(code) => failed = code,
            }
        }
        Err(failed)
    }

    /// Connects to the app, from `caller`'s address where there is one.
    pub async fn dial_app(&self, caller: Option<IpAddr>, app: SocketAddr) -> Result<TcpStream, ErrorCode> {
        let connecting = async {
            match caller {
                Some(caller) => connect_as(caller, app).await,
                None => self.connect_from(socket_to_app(app)?, app).await,
            }
        };
        bounded(CONNECT_LIMIT, app, connecting).await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.connect_from(socket(address)?, address).await
    }

    async fn connect_from(&self, socket: TcpSocket, address: SocketAddr) -> io::Result<TcpStream> {
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(address).await
    }
}

async fn bounded(
    limit: Duration,
    address: SocketAddr,
    connecting: impl Future<Output = io::Result<TcpStream>>,
) -> Result<TcpStream, ErrorCode> {
    match timeout(limit, connecting).await {
        Ok(Ok(tcp)) => Ok(tcp),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "connecting failed");
            Err(ErrorCode::ConnectFailed)
        }
        Err(_) => Err(ErrorCode::ConnectTimeout),
    }
}

async fn connect_as(caller: IpAddr, app: SocketAddr) -> io::Result<TcpStream> {
    let mut tried = 1;
    loop {
        let socket = foreign_socket(app)?;
        socket.set_reuseaddr(true)?;
        let bound = socket.bind(SocketAddr::new(caller, fastrand::u16(PORTS)));
        let connected = match bound {
            Ok(()) => socket.connect(app).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if is_taken(&error) && tried < PORTS_TRIED => tried += 1,
            connected => return connected,
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// Whether this process may connect from addresses that are not its own.
///
/// # Errors
/// It may not: the kernel's reason.
pub fn may_dial_as_others() -> io::Result<()> {
    foreign_socket(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))?;
    match foreign_socket(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // A kernel without IPv6 has no such callers.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A socket that may have an address of others, marked so that what is sent to that address comes back to it.
fn foreign_socket(app: SocketAddr) -> io::Result<TcpSocket> {
    let socket = socket_to_app(app)?;
    let options = SockRef::from(&socket);
    match app {
        SocketAddr::V4(_) => options.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => options.set_ip_transparent_v6(true)?,
    }
    options.set_mark(KEPT_SOURCE_MARK)?;
    Ok(socket)
}

fn socket_to_app(app: SocketAddr) -> io::Result<TcpSocket> {
    let socket = socket(app)?;
    spare_congestion_control(SockRef::from(&socket));
    Ok(socket)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    Ok(socket)
}
