//! Our TLS against rustls' own, both ways round.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use weft_certs::{ClientAuth, sni};

use super::handshake::{Agreed, handshake};
use super::stream::TlsStream;
use crate::identity::{authority, credentials, identity};
use crate::stream::Peeked;

const PATIENCE: Duration = Duration::from_secs(20);

struct Sides {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Settings of `web`, which expects `expected`, and of `orders`.
fn sides(expected: &str) -> Sides {
    let authority = authority();
    Sides {
        client: credentials(&authority, "web").client_config(&identity(expected), &[b"weft-tcp"]).unwrap(),
        server: credentials(&authority, "orders")
            .server_config(&[b"h2", b"weft-tcp"], ClientAuth::Required)
            .unwrap(),
    }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let server = listener.accept().await.unwrap().0;
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

async fn accept(sides: &Sides, tcp: TcpStream) -> io::Result<Agreed> {
    let session = UnbufferedServerConnection::new(Arc::clone(&sides.server)).unwrap();
    handshake(session, Peeked::from(tcp)).await
}

async fn connect(sides: &Sides, tcp: TcpStream) -> io::Result<Agreed> {
    let session = UnbufferedClientConnection::new(Arc::clone(&sides.client), sni::for_port(80)).unwrap();
    handshake(session, Peeked::from(tcp)).await
}

/// Our server with rustls' client.
async fn our_server() -> (client::TlsStream<TcpStream>, TlsStream) {
    let (sides, (client, server)) = (sides("orders"), tcp().await);
    let connecting = TlsConnector::from(Arc::clone(&sides.client)).connect(sni::for_port(80), client);
    let (client, server) = tokio::join!(connecting, accept(&sides, server));
    (client.unwrap(), server.unwrap().stream)
}

/// Our client with rustls' server.
async fn our_client() -> (TlsStream, server::TlsStream<TcpStream>) {
    let (sides, (client, server)) = (sides("orders"), tcp().await);
    let accepting = TlsAcceptor::from(Arc::clone(&sides.server)).accept(server);
    let (client, server) = tokio::join!(connect(&sides, client), accepting);
    (client.unwrap().stream, server.unwrap())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

/// Writes in pieces of many sizes to the one while reading in many sizes from the other, to the clean end.
async fn carry(from: &mut (impl AsyncWrite + Unpin), to: &mut (impl AsyncRead + Unpin)) {
    let sent = pattern(3_000_000);
    let writing = async {
        let mut rest = &sent[..];
        let mut sizes = [1, 5, 16_383, 16_384, 16_385, 70_000, 300].into_iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(sizes.next().unwrap()));
            from.write_all(piece).await.unwrap();
            rest = after;
        }
        from.shutdown().await.unwrap();
    };
    let reading = async {
        let mut received = Vec::new();
        let mut sizes = [1, 3, 1000, 16_384, 16_385, 100_000].into_iter().cycle();
        loop {
            let mut piece = vec![0; sizes.next().unwrap()];
            match to.read(&mut piece).await.unwrap() {
                0 => return received,
                count => received.extend_from_slice(&piece[..count]),
            }
        }
    };
    let ((), received) = timeout(PATIENCE, async { tokio::join!(writing, reading) }).await.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn bytes_arrive_whole_and_each_way_ends_on_its_own() {
    let (mut rustls, mut ours) = our_server().await;
    carry(&mut rustls, &mut ours).await;
    carry(&mut ours, &mut rustls).await;
    let (mut ours, mut rustls) = our_client().await;
    carry(&mut rustls, &mut ours).await;
    carry(&mut ours, &mut rustls).await;
}

#[tokio::test]
async fn both_sides_ours_agree_on_who_and_what() {
    let (sides, (client, server)) = (sides("orders"), tcp().await);
    let (client, server) = tokio::join!(connect(&sides, client), accept(&sides, server));
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.alpn.as_deref(), Some(&b"weft-tcp"[..]));
    assert_eq!(server.alpn, client.alpn);
    let who = |agreed: &Agreed| weft_certs::peer_identity(agreed.certificate.as_ref().unwrap()).unwrap();
    assert_eq!((who(&client), who(&server)), (identity("orders"), identity("web")));
    carry(&mut { client.stream }, &mut { server.stream }).await;
}

#[tokio::test]
async fn several_slices_leave_as_one_record_and_large_ones_as_full_ones() {
    let (mut rustls, mut ours) = our_server().await;
    let body = pattern(40_000);
    let slices = [&b"head"[..], b"", &body[..]].map(io::IoSlice::new);
    assert_eq!(ours.write_vectored(&slices).await.unwrap(), 40_004);
    let mut received = vec![0; 40_004];
    rustls.read_exact(&mut received).await.unwrap();
    assert!(received.starts_with(b"head") && received[4..] == body[..]);
}

#[tokio::test]
async fn keys_change_when_the_peer_says_so_and_when_it_asks_for_it() {
    let (mut rustls, mut ours) = our_server().await;
    for round in 0..100_u8 {
        // rustls asks for ours as well.
        rustls.get_mut().1.refresh_traffic_keys().unwrap();
        rustls.write_all(&[round]).await.unwrap();
        rustls.flush().await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), round);
        ours.write_all(&[round]).await.unwrap();
        assert_eq!(rustls.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn a_worn_key_is_replaced_before_it_seals_more() {
    let (mut ours, mut rustls) = our_client().await;
    for _ in 0..5 {
        ours.wear_out();
        ours.write_all(b"with a new key").await.unwrap();
        let mut received = [0; 14];
        rustls.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"with a new key");
    }
}

#[tokio::test]
async fn a_peer_that_only_changes_keys_is_cut_off() {
    let (mut rustls, mut ours) = our_server().await;
    for _ in 0..40 {
        rustls.get_mut().1.refresh_traffic_keys().unwrap();
        rustls.flush().await.unwrap();
    }
    let error = timeout(PATIENCE, ours.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error_after_what_came_before() {
    let (mut rustls, mut ours) = our_server().await;
    rustls.write_all(b"not all").await.unwrap();
    rustls.get_mut().0.shutdown().await.unwrap();
    let mut received = Vec::new();
    let error = ours.read_to_end(&mut received).await.unwrap_err();
    assert_eq!((error.kind(), received.as_slice()), (io::ErrorKind::UnexpectedEof, &b"not all"[..]));
    assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "and it stays one");
}

#[tokio::test]
async fn a_changed_record_is_an_error_and_the_peer_hears_which() {
    let (mut rustls, mut ours) = our_server().await;
    // A record that nobody sealed.
    rustls.get_mut().0.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).await.unwrap();
    assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let heard = rustls.read_u8().await.unwrap_err().to_string();
    assert!(heard.contains("BadRecordMac"), "{heard}");
}

#[tokio::test]
async fn records_that_carry_nothing_are_no_end() {
    let (mut ours, mut rustls) = our_client().await;
    ours.send_empty_record().await;
    ours.write_all(b"x").await.unwrap();
    assert_eq!(rustls.read_u8().await.unwrap(), b'x');

    let (sides, (client, server)) = (sides("orders"), tcp().await);
    let (client, server) = tokio::join!(connect(&sides, client), accept(&sides, server));
    let (mut client, mut server) = (client.unwrap().stream, server.unwrap().stream);
    client.send_empty_record().await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_peer_that_only_sends_what_carries_nothing_is_cut_off() {
    let (sides, (client, server)) = (sides("orders"), tcp().await);
    let (client, server) = tokio::join!(connect(&sides, client), accept(&sides, server));
    let (mut client, mut server) = (client.unwrap().stream, server.unwrap().stream);
    for _ in 0..3 {
        for _ in 0..30 {
            client.send_empty_record().await;
        }
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
    }
    for _ in 0..33 {
        client.send_empty_record().await;
    }
    let error = timeout(PATIENCE, server.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_failed_handshake_says_which_check_failed_on_both_sides() {
    let (sides, (client, server)) = (sides("payments"), tcp().await);
    let (client, server) = tokio::join!(connect(&sides, client), accept(&sides, server));
    let says = |result: io::Result<Agreed>| result.err().unwrap().to_string();
    let (client, server) = (says(client), says(server));
    assert!(client.contains("sa/orders, expected spiffe://mesh.local/ns/default/sa/payments"), "{client}");
    assert!(server.contains("received fatal alert"), "{server}");
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_and_an_end_in_it_is_told() {
    for (sent, expected) in [
        (&b"\x16\x03\x01\x00\x05hello"[..], io::ErrorKind::InvalidData),
        (b"\x16\x03\x01\xff\xff", io::ErrorKind::UnexpectedEof),
        (b"", io::ErrorKind::UnexpectedEof),
    ] {
        let (sides, (mut client, server)) = (sides("orders"), tcp().await);
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let error = timeout(PATIENCE, accept(&sides, server)).await.unwrap().err().unwrap();
        assert_eq!(error.kind(), expected, "{sent:?}: {error}");
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut rustls, mut ours) = our_server().await;
    rustls.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    ours.read_exact(&mut word).await.unwrap();
    ours.write_all(b"pong").await.unwrap();
    assert!(timeout(Duration::from_millis(20), ours.read_u8()).await.is_err());
    assert!(ours.holds_no_buffer());
    assert!(size_of::<TlsStream>() <= 320, "{}", size_of::<TlsStream>());
}
