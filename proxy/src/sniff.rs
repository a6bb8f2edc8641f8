//! Stage 2, detect: read ahead until `core::detect` knows what the client speaks, or it has said nothing for a while.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};
use weft_core::detect::{self, ClientHello, NamedHost, Patience, Progress, Sniffed};

use crate::stream::Peeked;

/// How long a client may be silent before the other end is listened to as well.
pub const SILENCE: Duration = Duration::from_millis(10);

/// How long the next byte of something that could be anything is waited for.
const BRIEF: Duration = Duration::from_millis(50);

/// How long the next byte of something known is waited for.
const LONG: Duration = Duration::from_secs(1);

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes made room for at a time: a request head or a ClientHello fits.
const READ: usize = 2048;

/// What the client did first.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// It spoke.
    Spoke(Sniffed),
    /// It closed its side without a word.
    Closed,
}

/// Waits for the client's first bytes and says what they are. They stay to be read.
///
/// Cancel safe: what was read stays read ahead.
pub async fn sniff(client: &mut Peeked) -> io::Result<First> {
    if client.ahead.is_empty() && read_more(client).await? == 0 {
        return Ok(First::Closed);
    }
    let limit = Instant::now() + LIMIT;
    loop {
        let patience = match detect::detect(&client.ahead) {
            Progress::Done(sniffed) => return Ok(First::Spoke(sniffed)),
            Progress::More(Patience::Brief) => BRIEF,
            Progress::More(Patience::Long) => LONG,
        };
        let until = limit.min(Instant::now() + patience);
        match timeout_at(until, read_more(client)).await {
            Ok(Ok(0)) | Err(_) => return Ok(First::Spoke(Sniffed::Opaque)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// As [`sniff`], but gives up on a client that says nothing for [`SILENCE`].
pub async fn sniff_briefly(client: &mut Peeked) -> io::Result<Option<First>> {
    if client.ahead.is_empty() {
        match timeout(SILENCE, read_more(client)).await {
            Ok(Ok(0)) => return Ok(Some(First::Closed)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(None),
        }
    }
    sniff(client).await.map(Some)
}

/// Waits for the client's first bytes; where they begin TLS, for the rest of its ClientHello.
///
/// Cancel safe, as [`sniff`] is. Anything else is not waited for beyond its first byte.
pub async fn client_hello(client: &mut Peeked) -> io::Result<Option<ClientHello>> {
    if client.ahead.is_empty() && read_more(client).await? == 0 {
        return Ok(None);
    }
    if !detect::may_be_tls(&client.ahead) {
        return Ok(None);
    }
    Ok(match sniff(client).await? {
        First::Spoke(Sniffed::Tls(hello)) => Some(hello),
        First::Spoke(_) | First::Closed => None,
    })
}

/// Waits for the head of the client's first request of HTTP/1, and says which host it names. All of it stays to be read.
///
/// Cancel safe, as [`sniff`] is.
pub async fn named_host(client: &mut Peeked) -> io::Result<Option<String>> {
    loop {
        match detect::named_host(&client.ahead) {
            NamedHost::Host(host) => return Ok(Some(host)),
            NamedHost::None => return Ok(None),
            NamedHost::More if read_more(client).await? == 0 => return Ok(None),
            NamedHost::More => {}
        }
    }
}

async fn read_more(client: &mut Peeked) -> io::Result<usize> {
    client.ahead.reserve(READ);
    client.tcp.read_buf(&mut client.ahead).await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, Peeked) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().await.unwrap().0.into())
    }

    #[tokio::test]
    async fn what_was_sniffed_is_read_again() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(sniff(&mut server).await.unwrap(), First::Spoke(Sniffed::Http1));
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }

    #[tokio::test]
    async fn a_preface_that_comes_byte_by_byte_is_http2() {
        let (mut client, mut server) = pair().await;
        let send = async {
            for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (sniffed, ()) = tokio::join!(sniff(&mut server), send);
        assert_eq!(sniffed.unwrap(), First::Spoke(Sniffed::Http2));
    }

    #[tokio::test]
    async fn a_word_without_an_end_is_opaque_soon() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"HELLO").await.unwrap();
        let begun = Instant::now();
        assert_eq!(sniff(&mut server).await.unwrap(), First::Spoke(Sniffed::Opaque));
        assert!(begun.elapsed() < LONG);
    }

    #[tokio::test]
    async fn silence_and_an_end_are_told_apart() {
        let (client, mut server) = pair().await;
        assert_eq!(sniff_briefly(&mut server).await.unwrap(), None);
        drop(client);
        assert_eq!(sniff_briefly(&mut server).await.unwrap(), Some(First::Closed));
    }
}
