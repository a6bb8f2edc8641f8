//! The pod's resolver: names of the mesh are answered from what discovery knows, everything else goes, byte for byte,
//! to the resolvers that the pod had anyway.

mod answer;
mod forward;
mod resolv_conf;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weft_runtime::task;

use crate::credentials::CredentialStore;
use crate::state::Discovery;
use answer::Verdict;
pub use forward::Forwarder;
pub use resolv_conf::ResolvConf;

/// Questions that may be worked on at once; more are dropped, as a full queue would.
const CONCURRENT: usize = 256;

/// TCP connections that may be open at once.
const CONNECTIONS: usize = 64;

/// A TCP connection without a question is closed after this.
const IDLE: Duration = Duration::from_secs(10);

/// The largest question taken over UDP.
const LARGEST: usize = 4096;

/// Answers questions.
#[derive(Debug, Clone)]
pub struct Resolver {
    discovery: Discovery,
    credentials: CredentialStore,
    forwarder: Arc<Forwarder>,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// How a question came, which decides how it is passed on and how long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    /// Answers from `discovery`, and for the rest asks the pod's own resolvers.
    pub fn new(discovery: Discovery, credentials: CredentialStore, forwarder: Forwarder) -> Self {
        Self {
            discovery,
            credentials,
            forwarder: Arc::new(forwarder),
            questions: Arc::new(Semaphore::new(CONCURRENT)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// Listens on an address, over UDP and TCP.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, SocketAddr)> {
        let udp = UdpSocket::bind(address).await?;
        let tcp = TcpListener::bind(address).await?;
        let bound = (udp.local_addr()?, tcp.local_addr()?);
        task::spawn("dns-udp", self.clone().serve_udp(udp));
        task::spawn("dns-tcp", self.clone().serve_tcp(tcp));
        Ok(bound)
    }

    async fn serve_udp(self, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LARGEST];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // Mostly an ICMP error about an answer that nobody waited for.
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a question");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.questions).try_acquire_owned() else { continue };
            let question = buffer.get(..length).unwrap_or_default().to_vec();
            let (resolver, socket) = (self.clone(), Arc::clone(&socket));
            task::spawn("dns-question", async move {
                if let Some(answer) = resolver.answer(&question, Transport::Udp).await
                    && let Err(error) = socket.send_to(&answer, client).await
                {
                    tracing::debug!(%client, %error, "cannot send an answer");
                }
                drop(slot);
            });
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.connections).try_acquire_owned() else { continue };
            let resolver = self.clone();
            task::spawn("dns-connection", async move {
                if let Err(error) = resolver.converse(stream).await {
                    tracing::debug!(%error, "connection ended");
                }
                drop(slot);
            });
        }
    }

    /// Questions one after the other, each behind its length (RFC 1035 section 4.2.2).
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let question = match timeout(IDLE, forward::read_framed(&mut stream)).await {
                Ok(Ok(question)) => question,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let Some(answer) = self.answer(&question, Transport::Tcp).await else { return Ok(()) };
            stream.write_all(&forward::framed(&answer)?).await?;
        }
    }

    /// The answer to a question; none where it is none.
    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = Message::from_vec(bytes).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let verdict = match question.metadata.op_code {
            OpCode::Query => {
                // Names without a namespace are looked for in our own.
                let own = self.credentials.current().and_then(|(_, own)| own.identity().service_account());
                let own = own.map(|(namespace, _)| namespace);
                answer::decide(&question, &self.discovery, own.as_ref(), &self.forwarder.search()).await
            }
            _ => Verdict::Forward,
        };
        let reply = match verdict {
            Verdict::Answer(reply) => *reply,
            Verdict::Forward => match self.forwarder.ask(bytes, transport).await {
                Some(reply) => return Some(reply),
                None => answer::failure(&question, ResponseCode::ServFail),
            },
        };
        let encoded = reply.to_vec().ok()?;
        if transport == Transport::Udp && encoded.len() > usize::from(question.max_payload()) {
            return reply.truncate().to_vec().ok();
        }
        Some(encoded)
    }
}
