//! Clients of HTTP/2 that mean harm: each is cut off, memory stays bounded, and others are served meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Response;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_certs::sni;
use weft_runtime::task;

use crate::pair::{PATIENCE, Pair, app, identity};
use crate::wire::{self, Asked, END_HEADERS, END_STREAM, Wire, frame, get, post};

const PROTOCOL_ERROR: u32 = 1;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a process of two sidecars, an app and a client may grow by.
const MEMORY: usize = 64 << 20;

/// Answers `/` at once, anything else never.
fn serve(listener: TcpListener) {
    wire::serve(listener, |(request, mut respond): Asked| async move {
        if request.uri().path() == "/" {
            drop(respond.send_response(Response::new(()), true));
        } else {
            drop(std::future::poll_fn(|cx| respond.poll_reset(cx)).await);
        }
    });
}

/// Resident memory of this process.
fn memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Sends `attack` over and over, as fast as it is taken; the code that the attacker is sent away with, if any was said.
/// Another client asks all the while.
async fn check(before: &[u8], attack: impl Fn(u32) -> Vec<u8>, expected: &[u32]) {
    check_from(Attacker::App, before, attack, expected).await;
}

/// Who attacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attacker {
    /// An app, its own sidecar.
    App,
    /// Someone with an identity of the mesh, another's sidecar by mutual TLS.
    Sidecar,
}

impl Attacker {
    async fn connect(self, pair: &Pair, app: SocketAddr) -> TcpStream {
        if self == Self::App {
            return pair.connect().await;
        }
        let config = pair.credentials("mallory").client_config(&identity("orders"), &[b"h2"]).unwrap();
        let tcp = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
        let name = sni::for_port(app.port());
        let mut tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
        let (listener, address) = crate::pair::app().await;
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut theirs = theirs.unwrap().0;
        task::spawn("test-tls", async move {
            drop(tokio::io::copy_bidirectional(&mut theirs, &mut tls).await);
        });
        ours.unwrap()
    }
}

async fn check_from(attacker: Attacker, before: &[u8], attack: impl Fn(u32) -> Vec<u8>, expected: &[u32]) {
    let (listener, address) = app().await;
    serve(listener);
    let pair = Pair::new(address);
    let mut other = wire::client(pair.connect().await).await;
    wire::ask(&mut other, wire::request("GET", "/"), b"").await;
    let began = memory();
    let wire = Wire::client(attacker.connect(&pair, address).await).await;
    let (reader, mut writer) = wire.0.into_split();
    let mut reader = Reader(reader);
    tokio::io::AsyncWriteExt::write_all(&mut writer, before).await.unwrap();
    let attacking = async {
        for number in 0..200_000 {
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &attack(number)).await.is_err() {
                break;
            }
        }
    };
    let farewell = async {
        tokio::select! {
            code = reader.farewell() => code,
            () = async { attacking.await; std::future::pending::<()>().await } => None,
        }
    };
    let asking = async {
        loop {
            let begun = Instant::now();
            wire::ask(&mut other, wire::request("GET", "/"), b"").await;
            assert!(begun.elapsed() < Duration::from_secs(2), "others wait for {:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let code = tokio::select! {
        code = timeout(PATIENCE, farewell) => code.expect("the attacker is cut off"),
        () = asking => None,
    };
    // Where it went on sending, its own kernel may throw away what it was told.
    assert!(code.is_none_or(|code| expected.contains(&code)), "{code:?}");
    let grown = memory().saturating_sub(began);
    assert!(grown < MEMORY, "{grown} bytes more");
    wire::ask(&mut other, wire::request("GET", "/"), b"").await;
}

/// Reads frames until the end.
struct Reader(tokio::net::tcp::OwnedReadHalf);

impl Reader {
    async fn farewell(&mut self) -> Option<u32> {
        let mut code = None;
        loop {
            let mut head = [0; 9];
            if tokio::io::AsyncReadExt::read_exact(&mut self.0, &mut head).await.is_err() {
                return code;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if tokio::io::AsyncReadExt::read_exact(&mut self.0, &mut payload).await.is_err() {
                return code;
            }
            if head[3] == wire::GO_AWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
    }
}

fn rst(stream: u32) -> Vec<u8> {
    frame(wire::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn hang(stream: u32) -> Vec<u8> {
    let fields = [wire::GET[0], wire::GET[1], wire::GET[2], (":path", "/hang")];
    frame(wire::HEADERS, END_STREAM | END_HEADERS, stream, &wire::block(&fields))
}

#[tokio::test]
async fn rapid_resets_are_cut_off() {
    check(b"", |n| [hang(2 * n + 1), rst(2 * n + 1)].concat(), &[ENHANCE_YOUR_CALM]).await;
}

#[tokio::test]
async fn streams_that_we_are_made_to_reset_are_cut_off() {
    // A window that grows by nothing is a stream's error, which we must answer by a reset (RFC 9113 section 6.9).
    let mistake = |stream| frame(wire::WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
    check(b"", |n| [hang(2 * n + 1), mistake(2 * n + 1)].concat(), &[PROTOCOL_ERROR, ENHANCE_YOUR_CALM])
        .await;
    // So is a window that grows beyond what a number holds.
    let mistake = |stream| frame(wire::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
    check(b"", |n| [hang(2 * n + 1), mistake(2 * n + 1)].concat(), &[ENHANCE_YOUR_CALM]).await;
    // And a malformed request.
    let malformed = wire::block(&[(":method", "GET")]);
    let request = |n| frame(wire::HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &malformed);
    check(b"", request, &[ENHANCE_YOUR_CALM]).await;
}

#[tokio::test]
async fn a_flood_of_continuations_is_cut_off() {
    let begin = frame(wire::HEADERS, 0, 1, &wire::block(&wire::GET));
    let piece = wire::block(&[("x", &"v".repeat(16_000))]);
    check(&begin, |_| frame(wire::CONTINUATION, 0, 1, &piece), &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]).await;
    check(&begin, |_| frame(wire::CONTINUATION, 0, 1, b""), &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]).await;
}

#[tokio::test]
async fn pings_settings_and_priorities_without_end_are_cut_off() {
    check(b"", |n| frame(wire::PING, 0, 0, &u64::from(n).to_be_bytes()), &[ENHANCE_YOUR_CALM]).await;
    check(b"", |_| frame(wire::SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]), &[ENHANCE_YOUR_CALM]).await;
    check(b"", |n| frame(wire::PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 7]), &[ENHANCE_YOUR_CALM]).await;
    check(b"", |_| frame(0xbe, 0, 0, b""), &[ENHANCE_YOUR_CALM]).await;
}

#[tokio::test]
async fn empty_data_and_window_updates_without_end_are_cut_off() {
    check(&post(1), |_| frame(wire::DATA, 0, 1, b""), &[ENHANCE_YOUR_CALM]).await;
    check(&post(1), |_| frame(wire::DATA, 8, 1, &[3, 0, 0, 0]), &[ENHANCE_YOUR_CALM]).await;
    check(&hang(1), |_| frame(wire::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()), &[ENHANCE_YOUR_CALM]).await;
    check(b"", |_| frame(wire::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()), &[ENHANCE_YOUR_CALM]).await;
}

#[tokio::test]
async fn floods_over_mutual_tls_are_cut_off_too_and_no_neighbour_notices() {
    let check = async |before: &[u8], attack: &dyn Fn(u32) -> Vec<u8>| {
        check_from(Attacker::Sidecar, before, attack, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]).await;
    };
    check(b"", &|n| [hang(2 * n + 1), rst(2 * n + 1)].concat()).await;
    let begin = frame(wire::HEADERS, 0, 1, &wire::block(&wire::GET));
    let piece = wire::block(&[("x", &"v".repeat(16_000))]);
    check(&begin, &|_| frame(wire::CONTINUATION, 0, 1, &piece)).await;
    check(&begin, &|_| frame(wire::CONTINUATION, 0, 1, b"")).await;
    check(b"", &|n| frame(wire::PING, 0, 0, &u64::from(n).to_be_bytes())).await;
    check(b"", &|_| frame(wire::SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])).await;
    check(&post(1), &|_| frame(wire::DATA, 0, 1, b"")).await;
    check(&hang(1), &|_| frame(wire::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())).await;
}

#[tokio::test]
async fn resets_of_what_has_ended_are_cut_off() {
    check(&[get(1), rst(1)].concat(), |_| rst(1), &[ENHANCE_YOUR_CALM]).await;
}

#[tokio::test]
async fn what_the_protocol_forbids_ends_the_connection() {
    // A largest frame of no bytes (RFC 9113 section 6.5.2).
    check(b"", |_| frame(wire::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 0]), &[PROTOCOL_ERROR]).await;
    // A frame larger than we take.
    check(b"", |_| frame(wire::DATA, 0, 1, &vec![0; 17_000]), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]).await;
    // Data on a stream that nobody opened.
    check(b"", |_| frame(wire::DATA, 0, 99, b"x"), &[PROTOCOL_ERROR]).await;
    // A stream that a server would open.
    check(b"", |_| get(2), &[PROTOCOL_ERROR]).await;
}

#[tokio::test]
async fn headers_that_unpack_to_much_are_cut_off() {
    // One large field is put into the table, then referred to by a byte each time (RFC 7541 section 2.3.3).
    let mut table = wire::block(&wire::GET);
    let large = wire::block(&[("x", &"v".repeat(3_900))]);
    table.push(0x40);
    table.extend(&large[1..]);
    let first = frame(wire::HEADERS, END_STREAM | END_HEADERS, 1, &table);
    let mut bomb = wire::block(&wire::GET);
    bomb.extend(vec![0xbe; 16_000]);
    let attack = |n: u32| frame(wire::HEADERS, END_STREAM | END_HEADERS, 2 * n + 3, &bomb);
    check(&first, attack, &[ENHANCE_YOUR_CALM]).await;
}

#[tokio::test]
async fn readers_without_a_window_hold_little() {
    let (listener, address) = app().await;
    // Answers more than any window holds.
    wire::serve(listener, |(_, mut respond): Asked| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        wire::fill(&mut stream).await;
        drop(std::future::poll_fn(|cx| stream.poll_reset(cx)).await);
    });
    let pair = Pair::new(address);
    let mut other = wire::client(pair.connect().await).await;
    let began = memory();
    let mut wire = Wire::client(pair.connect().await).await;
    wire.send(&frame(wire::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    for number in 0..200 {
        wire.send(&get(2 * number + 1)).await;
    }
    // All have begun to answer, none may say anything.
    let mut begun = 0;
    while begun < 200 {
        let frame = wire.next().await.expect("the connection goes on");
        assert_ne!(frame.kind, wire::DATA);
        begun += u32::from(frame.kind == wire::HEADERS);
    }
    let (response, _) = other.send_request(wire::request("GET", "/"), true).unwrap();
    timeout(PATIENCE, response).await.unwrap().unwrap();
    let grown = memory().saturating_sub(began);
    // Two sidecars' windows and the app's, each stream.
    assert!(grown < 200 * 3 * 320 * 1024, "{grown} bytes more");
}

#[tokio::test]
async fn one_who_floods_and_does_not_listen_is_cut_off() {
    let (listener, address) = app().await;
    serve(listener);
    let pair = Pair::new(address);
    let mut wire = Wire::client(pair.connect().await).await;
    // Each is acknowledged, and none of that is read.
    let pings = frame(wire::PING, 0, 0, &[7; 8]).repeat(10_000);
    let flooding = async { while tokio::io::AsyncWriteExt::write_all(&mut wire.0, &pings).await.is_ok() {} };
    timeout(PATIENCE, flooding).await.expect("it is cut off");
}

#[tokio::test]
async fn a_block_of_headers_that_never_ends_is_cut_off() {
    let (listener, address) = app().await;
    serve(listener);
    let pair = Pair::new(address);
    let mut wire = Wire::client(pair.connect().await).await;
    let begun = Instant::now();
    wire.send(&frame(wire::HEADERS, 0, 1, &wire::block(&wire::GET))).await;
    assert_eq!(timeout(PATIENCE, wire.farewell()).await.unwrap(), Some(ENHANCE_YOUR_CALM));
    assert!(begun.elapsed() >= Duration::from_secs(9));
}

#[tokio::test]
async fn a_busy_client_is_no_attacker() {
    let (listener, address) = app().await;
    serve(listener);
    let pair = Pair::new(address);
    let mut wire = Wire::client(pair.connect().await).await;
    // Many requests, each answered, acknowledged, and every other one followed by one that is taken back.
    for number in 0..3000 {
        let stream = 4 * number + 1;
        wire.send(&[get(stream), frame(wire::PING, 0, 0, &[0; 8])].concat()).await;
        wire.expect(wire::HEADERS, stream).await;
        wire.send(&[hang(stream + 2), rst(stream + 2)].concat()).await;
    }
    wire.send(&get(20_001)).await;
    wire.expect(wire::HEADERS, 20_001).await;
}
