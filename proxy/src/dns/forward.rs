//! Questions that are not ours, passed on to the pod's own resolvers as they are, and their answers back.
//!
//! Each question has a socket of its own, so that its id and its port are as hard to guess as the asker made them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::{ResolvConf, Transport};
use crate::control::tcp_socket;

/// How long one resolver has for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long `resolv.conf` is taken to be unchanged.
const FRESH: Duration = Duration::from_secs(5);

/// Passes questions on.
#[derive(Debug)]
pub struct Forwarder {
    path: PathBuf,
    /// Our own listeners, which are never asked.
    own: Vec<SocketAddr>,
    mark: Option<u32>,
    read: Mutex<Option<(Instant, Arc<ResolvConf>)>>,
}

impl Forwarder {
    /// Asks whom the file says, from sockets with this mark.
    pub fn new(path: PathBuf, own: Vec<SocketAddr>, mark: Option<u32>) -> Self {
        Self { path, own, mark, read: Mutex::default() }
    }

    /// What programs append to short names.
    pub(super) fn search(&self) -> Vec<String> {
        self.settings().search.clone()
    }

    /// The first answer that any resolver gives.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for server in &self.settings().nameservers {
            if self.own.contains(server) {
                continue;
            }
            let answer = async {
                match transport {
                    Transport::Udp => self.ask_udp(*server, question).await,
                    Transport::Tcp => self.ask_tcp(*server, question).await,
                }
            };
            match timeout(ANSWER_LIMIT, answer).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver cannot be asked"),
                Err(_) => tracing::debug!(%server, "a resolver does not answer"),
            }
        }
        None
    }

    fn settings(&self) -> Arc<ResolvConf> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, settings)) = &*read
            && at.elapsed() < FRESH
        {
            return Arc::clone(settings);
        }
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let settings = Arc::new(ResolvConf::parse(&text));
        *read = Some((Instant::now(), Arc::clone(&settings)));
        settings
    }

    async fn ask_udp(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(server).await?;
        socket.send(question).await?;
        let mut answer = vec![0; 8192];
        loop {
            let length = socket.recv(&mut answer).await?;
            // The id is the first two bytes; what has another answers somebody else's question.
            if length >= 12 && answer.get(..2) == question.get(..2) {
                answer.truncate(length);
                return Ok(answer);
            }
        }
    }

    async fn ask_tcp(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = tcp_socket(server.ip(), self.mark)?.connect(server).await?;
        stream.write_all(&framed(question)?).await?;
        read_framed(&mut stream).await
    }
}

/// A message behind its length.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok([&length.to_be_bytes(), message].concat())
}

/// Reads a message behind its length.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
