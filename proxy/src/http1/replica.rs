//! A copy of a request of HTTP/1 for a mirror: sent whole, its answer read to the end and dropped.

use std::future::poll_fn;
use std::task::Context;

use tokio::io::AsyncWriteExt as _;

use super::buffer::Buffer;
use super::framing::{Decoder, Framing, Piece};
use super::head::{ResponseHead, Terms, end_of_lines};
use crate::failure::ErrorCode;
use crate::stream::Link as _;
use crate::upstream::http1::{self, Connection, Repeat};
use crate::upstream::{Attempts, Cluster};
use crate::worker::Worker;

/// The head of a request that is copied, as the next hop gets it.
#[derive(Debug)]
pub struct Replica {
    head: Vec<u8>,
    terms: Terms,
}

/// Whether a connection may be used again.
type Persists = bool;

impl Replica {
    /// Of a request whose head was written so.
    pub(super) fn of(head: &[u8], terms: Terms) -> Self {
        Self { head: head.to_vec(), terms }
    }

    /// Sends it to one of `cluster`'s endpoints and waits until it has been answered.
    pub async fn send(&self, worker: &Worker, cluster: &Cluster, body: &[u8]) -> Result<(), ErrorCode> {
        let mut attempts = Attempts::default();
        let mut again = false;
        loop {
            let mut flight = attempts.pick(worker, cluster).await?;
            let repeat = if self.terms.is_idempotent { Repeat::Possible } else { Repeat::Impossible };
            let taking = |cx: &mut Context<'_>| flight.upstream().http1.poll_take(cx, repeat);
            let idle = if again { None } else { poll_fn(taking).await };
            let mut server = match idle {
                Some(server) => server,
                None => match http1::connect(worker, &mut flight).await {
                    Ok(server) => server,
                    Err(code) => {
                        attempts.failed(flight, code)?;
                        continue;
                    }
                },
            };
            match self.exchange(&mut server, body).await {
                Ok(persists) => {
                    flight.answered();
                    if persists {
                        flight.upstream().http1.park(server);
                    }
                    return Ok(());
                }
                // It may have been closed while it lay idle.
                Err(_) if server.is_reused() && self.terms.is_idempotent && !again => {
                    again = true;
                    attempts.avoid(&mut flight);
                }
                Err(code) => {
                    server.stream.reset();
                    return Err(code);
                }
            }
        }
    }

    async fn exchange(&self, server: &mut Connection, body: &[u8]) -> Result<Persists, ErrorCode> {
        let mut message = self.head.clone();
        match self.terms.framing {
            // Its trailers are left out: few wait for any.
            Framing::Chunked if body.is_empty() => message.extend_from_slice(b"0\r\n\r\n"),
            Framing::Chunked => {
                message.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
                message.extend_from_slice(body);
                message.extend_from_slice(b"\r\n0\r\n\r\n");
            }
            Framing::Empty | Framing::Length(_) | Framing::UntilClose => message.extend_from_slice(body),
        }
        let written = async {
            server.stream.write_all(&message).await?;
            server.stream.flush().await
        };
        written.await.map_err(|_| ErrorCode::UpstreamReset)?;
        self.read_answer(server).await
    }

    /// Reads an answer to its end.
    async fn read_answer(&self, server: &mut Connection) -> Result<Persists, ErrorCode> {
        let mut received = Buffer::default();
        let (framing, persists) = loop {
            let (status, framing, persists) = read_head(server, &mut received).await?;
            match status {
                101 => return Err(ErrorCode::ProtocolError),
                100..=199 => {}
                204 | 304 => break (Framing::Empty, persists),
                _ if self.terms.is_head => break (Framing::Empty, persists),
                _ => break (framing.unwrap_or(Framing::UntilClose), persists),
            }
        };
        let mut decoder = Decoder::new(framing);
        loop {
            let count = match decoder.next(received.unseen()).map_err(|_| ErrorCode::ProtocolError)? {
                Piece::Data(count) | Piece::Delimiter(count) | Piece::Trailers(count) => count,
                Piece::Size { line, .. } => line,
                Piece::End => return Ok(persists && framing != Framing::UntilClose && received.is_empty()),
                Piece::More => {
                    if read_more(server, &mut received).await? == 0 {
                        return match decoder.ends_with_connection() {
                            true => Ok(false),
                            false => Err(ErrorCode::UpstreamReset),
                        };
                    }
                    continue;
                }
            };
            received.skip(count);
        }
    }
}

/// The next head: its status, what it says of its body, and whether the connection may be used again.
async fn read_head(
    server: &mut Connection,
    received: &mut Buffer,
) -> Result<(u16, Option<Framing>, Persists), ErrorCode> {
    let mut seen = 0;
    loop {
        let bytes = received.unseen();
        let found = end_of_lines(bytes, &mut seen).map_err(|_| ErrorCode::ProtocolError)?;
        if let Some(length) = found {
            let head = ResponseHead::parse(bytes.get(..length).unwrap_or_default());
            let head = head.map_err(|_| ErrorCode::ProtocolError)?;
            let said = (head.status, head.framing, head.persists);
            drop(head);
            received.skip(length);
            return Ok(said);
        }
        if received.is_full() {
            return Err(ErrorCode::ProtocolError);
        }
        if read_more(server, received).await? == 0 {
            return Err(ErrorCode::UpstreamReset);
        }
    }
}

async fn read_more(server: &mut Connection, received: &mut Buffer) -> Result<usize, ErrorCode> {
    poll_fn(|cx| received.poll_read(cx, &mut server.stream)).await.map_err(|_| ErrorCode::UpstreamReset)
}
