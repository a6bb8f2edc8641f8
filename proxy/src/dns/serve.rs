//! Packets and connections of the pod's programs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};
use weft_runtime::task;

use super::{By, Resolver, Transport, framed};

/// A TCP connection on which nothing happens is closed after this, and so is one whose client does not read.
const IDLE: Duration = Duration::from_secs(10);

/// Questions of one TCP connection that are worked on at once; the next ones are not read before.
const PIPELINED: usize = 16;

/// After an error of `accept`.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Answers packets for ever.
pub(super) async fn udp(resolver: Resolver, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; usize::from(u16::MAX)];
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
        let question = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        let answering = Box::pin(resolver.clone().answer(question, Transport::Udp));
        // What is known is answered at once; only what must be waited for takes a place among those that wait.
        match futures_util::future::select(answering, std::future::ready(())).await {
            Either::Left((answer, _)) => send(&socket, answer, client).await,
            Either::Right(((), waiting)) => match Arc::clone(&resolver.0.questions).try_acquire_owned() {
                Ok(slot) => {
                    let socket = Arc::clone(&socket);
                    task::spawn("dns-question", async move {
                        send(&socket, waiting.await, client).await;
                        drop(slot);
                    });
                }
                // As a full queue would; programs ask again.
                Err(_) => resolver.0.count.unanswered(By::Dropped),
            },
        }
    }
}

async fn send(socket: &UdpSocket, answer: Option<Vec<u8>>, client: SocketAddr) {
    if let Some(answer) = answer
        && let Err(error) = socket.send_to(&answer, client).await
    {
        tracing::debug!(%client, %error, "cannot send an answer");
    }
}

/// Answers connections for ever.
pub(super) async fn tcp(resolver: Resolver, listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(NO_ROOM).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&resolver.0.connections).try_acquire_owned() else {
            resolver.0.count.unanswered(By::Dropped);
            continue;
        };
        let resolver = resolver.clone();
        task::spawn("dns-connection", async move {
            if let Err(error) = converse(&resolver, stream).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
}

/// Questions, each behind its length (RFC 1035 section 4.2.2), as many at once as the client sends; each answer leaves
/// when it is there (RFC 7766 section 7).
async fn converse(resolver: &Resolver, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    let mut received = BytesMut::new();
    let mut answering = FuturesUnordered::new();
    let (mut open, mut idle) = (true, Instant::now() + IDLE);
    loop {
        while answering.len() < PIPELINED
            && let Some(question) = next_message(&mut received)
        {
            answering.push(Box::pin(resolver.clone().answer(question, Transport::Tcp)));
            idle = Instant::now() + IDLE;
        }
        let may_read = open && answering.len() < PIPELINED;
        tokio::select! {
            Some(answer) = answering.next() => {
                let Some(answer) = answer else { return Ok(()) };
                timeout(IDLE, writer.write_all(&framed(&answer)?)).await??;
                idle = Instant::now() + IDLE;
            }
            read = reader.read_buf(&mut received), if may_read => open = read? > 0,
            () = sleep_until(idle), if may_read && answering.is_empty() => return Ok(()),
            else => return Ok(()),
        }
    }
}

/// The next whole message.
fn next_message(received: &mut BytesMut) -> Option<Bytes> {
    let length: usize = u16::from_be_bytes(*received.first_chunk::<2>()?).into();
    if received.len() < length + 2 {
        return None;
    }
    received.advance(2);
    Some(received.split_to(length).freeze())
}
