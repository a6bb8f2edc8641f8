//! The path of a request of HTTP/1.1, stage by stage, for `bench/instructions`: `hot_path STAGE TIMES`.
//!
//! It is run twice under callgrind, which counts the instructions of this process; the difference is the price of the
//! rounds that one run has more than the other.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a measuring tool made of the tests' fixture: what goes wrong ends it"
)]

use std::hint::black_box;
use std::process::ExitCode;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_core::model::Tracing;
use weft_proxy::http::head::Head as _;
use weft_proxy::http::headers::{self, ClientFields, Upgrade};
use weft_proxy::http::trace;
use weft_proxy::http1::{RequestHead, ResponseHead, end_of_lines};

#[path = "../tests/it/pair.rs"]
#[expect(dead_code, reason = "the tests' fixture has more than is needed here")]
mod pair;

/// What a browser sends, more or less.
const REQUEST: &[u8] = b"GET /orders/7?expand=items HTTP/1.1\r\nHost: orders\r\nUser-Agent: bench/1.0\r\n\
    Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nCookie: session=0123456789abcdef\r\n\r\n";

/// The same, of a client that wants nothing more.
const LAST_REQUEST: &[u8] =
    b"GET /orders/7?expand=items HTTP/1.1\r\nHost: orders\r\nUser-Agent: bench/1.0\r\n\
    Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nCookie: session=0123456789abcdef\r\n\
    Connection: close\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Content-Type: application/json\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\r\n";

const BODY: usize = 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [stage, times] = arguments.as_slice() else { return usage() };
    let Ok(times) = times.parse::<u32>() else { return usage() };
    match stage.as_str() {
        "request-head" => request_head(times),
        "response-head" => response_head(times),
        "exchange" => exchange(times),
        "connection" => connection(times),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: hot_path request-head|response-head|exchange|connection TIMES");
    ExitCode::from(2)
}

/// A request's head is found, read, changed as on its way to the app, and written.
fn request_head(times: u32) {
    let client =
        ClientFields::new("10.1.2.3:4567".parse().expect("an address"), Some(&pair::identity("web")));
    let mut rng = fastrand::Rng::with_seed(7);
    let tracing = Tracing { sampling_per_million: 10_000, ..Tracing::default() };
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        let length = end_of_lines(black_box(REQUEST), &mut 0).expect("a head").expect("all of it");
        let mut head = RequestHead::parse(&REQUEST[..length]).expect("a head");
        trace::trace(head.fields_mut(), &mut rng, Some(&tracing), &trace::OwnTracing::default());
        headers::name_request(head.fields_mut(), &mut rng);
        headers::introduce(head.fields_mut(), &client);
        headers::strip_hop_by_hop(head.fields_mut(), Upgrade::Dropped);
        head.write(&mut out);
        black_box(&out);
    }
}

/// A response's head is found, read and cleared of what is for one hop.
fn response_head(times: u32) {
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        let length = end_of_lines(black_box(RESPONSE), &mut 0).expect("a head").expect("all of it");
        let mut head = ResponseHead::parse(&RESPONSE[..length]).expect("a head");
        headers::strip_hop_by_hop(&mut head.fields, Upgrade::Dropped);
        head.fields.write(&mut out);
        black_box(&out);
    }
}

/// Requests one after the other through both sidecars, with mutual TLS between them, on a connection that is kept. The
/// client and the app are counted, too; they do next to nothing.
fn exchange(times: u32) {
    through_both(async |pair| {
        let (mut stream, mut answer) = (pair.connect().await, vec![0; 4096]);
        for _ in 0..times {
            ask(&mut stream, REQUEST, &mut answer).await;
        }
    });
}

/// The same, each on a connection of its own. Those behind it are kept.
fn connection(times: u32) {
    through_both(async |pair| {
        let mut answer = vec![0; 4096];
        for _ in 0..times {
            let mut stream = pair.connect().await;
            ask(&mut stream, LAST_REQUEST, &mut answer).await;
            assert_eq!(stream.read(&mut [0]).await.expect("an end"), 0, "nothing follows the answer");
        }
    });
}

fn through_both(client: impl AsyncFnOnce(&pair::Pair)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (listener, address) = pair::app().await;
        let pair = pair::Pair::new(address);
        let app = async {
            let answer = [RESPONSE, &[b'x'; BODY]].concat();
            let (mut stream, _) = listener.accept().await.expect("the sidecar");
            let mut request = vec![0; 4096];
            while stream.read(&mut request).await.expect("a request") > 0 {
                stream.write_all(&answer).await.expect("an answer");
            }
        };
        tokio::select! {
            () = client(&pair) => {}
            () = app => {}
        }
    });
}

async fn ask(stream: &mut TcpStream, request: &[u8], answer: &mut [u8]) {
    stream.write_all(request).await.expect("a request");
    let mut read = stream.read(answer).await.expect("an answer");
    while !answer[..read].ends_with(b"xxxx") {
        read += stream.read(&mut answer[read..]).await.expect("the rest of it");
    }
}
