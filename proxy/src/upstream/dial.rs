//! Opening connections: bounded in time, without delay for small writes, marked where interception wants a mark.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::failure::ErrorCode;

/// How long a connection to one address may take to be made, where no policy says otherwise.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// After how much silence a connection is asked whether its other end still exists.
const KEEPALIVE: Duration = Duration::from_secs(60);

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
        self.dial_within(addresses, CONNECT_LIMIT).await
    }

    /// The same, where a policy says how long each of them may take.
    pub async fn dial_within(
        &self,
        addresses: &[SocketAddr],
        limit: Duration,
    ) -> Result<TcpStream, ErrorCode> {
        let mut failed = ErrorCode::ConnectFailed;
        for address in addresses {
            match timeout(limit, self.connect(*address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "connecting failed");
                    failed = ErrorCode::ConnectFailed;
                }
                Err(_) => failed = ErrorCode::ConnectTimeout,
            }
        }
        Err(failed)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        if let Some(mark) = self.mark {
            options.set_mark(mark)?;
        }
        socket.connect(address).await
    }
}
