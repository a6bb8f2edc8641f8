//! The pod's own resolvers, asked as `resolv.conf` says.
//!
//! All are asked within the time that the pod's programs wait for their first answer, one after the other, and whoever
//! was asked may still answer while the next one is. A question goes out as it came, but for its id: that, and the port
//! it leaves from, are of our own choosing and not to be guessed (RFC 5452 section 9.2).

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::crypto::aws_lc_rs;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::wire::{Answer, Malformed, Query, Rcode, overwrite};
use super::{ResolvConf, Transport, framed};
use crate::control::tcp_socket;

/// No question is waited for longer than this, whatever `resolv.conf` says.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// A server that did not answer lately gets this head start before the next one is asked, in place of its share.
const SHORT_SHARE: Duration = Duration::from_millis(200);

/// How long it is remembered that a server did not answer.
const LATELY: Duration = Duration::from_secs(30);

/// Packets that are no answer to what was asked; after these the server counts as one that cannot be heard.
const MOST_STRANGERS: u32 = 100;

/// A question on its way to the resolvers.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// As it came.
    pub(super) message: &'a [u8],
    /// As it was read; none: some other operation than asking.
    pub(super) query: Option<&'a Query>,
    pub(super) transport: Transport,
}

/// What a resolver said, with its id as it was asked, and what was read of it.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) message: Vec<u8>,
    pub(super) answer: Answer,
}

/// The resolvers of one `resolv.conf`.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) settings: ResolvConf,
    mark: Option<u32>,
    /// Who did not answer, and since when.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
    turn: AtomicUsize,
}

impl Upstream {
    /// Asks whom the settings say, but for our `own` listeners, from sockets with this mark.
    pub(super) fn new(mut settings: ResolvConf, own: &[SocketAddr], mark: Option<u32>) -> Self {
        settings.nameservers.retain(|server| !own.contains(server));
        Self { settings, mark, silent: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// The first answer that any resolver gives; none: nobody answers. Where all refuse or fail it is the last one's.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Option<Heard> {
        let begun = Instant::now();
        let settings = &self.settings;
        let deadline = begun + (settings.timeout * settings.attempts).min(LONGEST_WAIT);
        let mut servers = self.servers().into_iter();
        let share = settings.timeout / u32::try_from(settings.nameservers.len()).unwrap_or(1).max(1);
        let (mut tries, mut refusal) = (FuturesUnordered::new(), None);
        let mut next = begun;
        let mut last = None;
        loop {
            tokio::select! {
                biased;
                Some((server, heard)) = tries.next() => {
                    let heard: io::Result<Heard> = heard;
                    match heard {
                        Ok(heard) if moves_on(heard.answer.rcode) => refusal = Some(heard),
                        Ok(heard) => {
                            self.silent().remove(&server);
                            return Some(heard);
                        }
                        Err(error) => {
                            tracing::debug!(%server, %error, "a resolver does not answer");
                            // Next time we may not be told: kernels send few such errors a second.
                            self.note_silence(server);
                        }
                    }
                    if last == Some(server) {
                        (last, next) = (None, Instant::now());
                    }
                }
                () = sleep_until(next), if servers.len() > 0 => {
                    if let Some(silent) = last {
                        self.note_silence(silent);
                    }
                    let Some(server) = servers.next() else { continue };
                    next = Instant::now() + if self.was_silent(server) { SHORT_SHARE } else { share };
                    last = Some(server);
                    tries.push(async move {
                        let asked = timeout_at(deadline, self.ask_one(server, question)).await;
                        (server, asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
                    });
                }
                else => break,
            }
        }
        refusal
    }

    /// Whom to ask, in this question's order.
    fn servers(&self) -> Vec<SocketAddr> {
        let mut servers = self.settings.nameservers.clone();
        if self.settings.rotate && !servers.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % servers.len();
            servers.rotate_left(turn);
        }
        servers
    }

    async fn ask_one(&self, server: SocketAddr, question: &Question<'_>) -> io::Result<Heard> {
        let id = random_id()?;
        let mut message = question.message.to_vec();
        overwrite(&mut message, 0, &id);
        match question.transport {
            Transport::Udp => self.ask_udp(server, &message, question.query).await,
            Transport::Tcp => self.ask_tcp(server, &message, question.query).await,
        }
    }

    async fn ask_udp(&self, server: SocketAddr, message: &[u8], query: Option<&Query>) -> io::Result<Heard> {
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        // Connected, it hears no one else.
        socket.connect(server).await?;
        let mut strangers = 0;
        for _ in 0..self.settings.attempts {
            socket.send(message).await?;
            let listen = async {
                while strangers < MOST_STRANGERS {
                    let heard = hear(&socket).await?;
                    if let Ok(answer) = understand(&heard, message, query) {
                        return Ok(Heard { message: heard, answer });
                    }
                    strangers += 1;
                }
                Err(io::ErrorKind::InvalidData.into())
            };
            // Packets get lost.
            if let Ok(heard) = timeout(self.settings.timeout, listen).await {
                return heard;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn ask_tcp(&self, server: SocketAddr, message: &[u8], query: Option<&Query>) -> io::Result<Heard> {
        let mut stream = tcp_socket(server.ip(), self.mark)?.connect(server).await?;
        stream.write_all(&framed(message)?).await?;
        let length = stream.read_u16().await?;
        let mut heard = vec![0; length.into()];
        stream.read_exact(&mut heard).await?;
        let answer = understand(&heard, message, query).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Heard { message: heard, answer })
    }

    fn was_silent(&self, server: SocketAddr) -> bool {
        self.silent().get(&server).is_some_and(|since| since.elapsed() < LATELY)
    }

    fn note_silence(&self, server: SocketAddr) {
        self.silent().insert(server, Instant::now());
    }

    fn silent(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next packet; or that nobody listens there, which waiting for packets alone would not notice.
async fn hear(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let receive = || {
        let mut packet = vec![0; usize::from(u16::MAX)];
        let length = (&*socket2::SockRef::from(socket)).read(&mut packet)?;
        packet.truncate(length);
        packet.shrink_to_fit();
        Ok(packet)
    };
    socket.async_io(Interest::READABLE | Interest::ERROR, receive).await
}

/// Whether another server may know better, as glibc has it.
fn moves_on(rcode: Rcode) -> bool {
    matches!(rcode, Rcode::ServFail | Rcode::NotImp | Rcode::Refused)
}

/// Reads what may be the answer to what was asked: of the same id and to the same question.
fn understand(heard: &[u8], asked: &[u8], query: Option<&Query>) -> Result<Answer, Malformed> {
    if heard.len() < super::wire::HEADER || heard.get(..2) != asked.get(..2) {
        return Err(Malformed);
    }
    match query {
        Some(query) => Answer::parse(heard, query),
        None => Answer::of_other_operation(heard),
    }
}

fn random_id() -> io::Result<[u8; 2]> {
    let mut id = [0; 2];
    let filled = aws_lc_rs::default_provider().secure_random.fill(&mut id);
    filled.map_err(|_| io::Error::other("no random numbers"))?;
    Ok(id)
}
