//! HTTP/2 through both sidecars.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::pair::{PATIENCE, Pair, app};
use crate::wire::{self, Asked, Wire};

type Answer = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// Echoes the request's body and ends with a trailer, as gRPC does.
async fn echo(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let caller = request.headers().get("weft-client-id").cloned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let frames = vec![Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Some(caller) = caller {
        response.headers_mut().insert("x-caller", caller);
    }
    Ok(response)
}

async fn serve(listener: TcpListener) {
    let accepted: Rc<std::cell::Cell<u32>> = Rc::default();
    tokio::task::LocalSet::new()
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.set(accepted.get() + 1);
                assert!(accepted.get() <= 2, "a burst opens one connection, not one each");
                let builder = server::Builder::new(TokioExecutor::new());
                tokio::task::spawn_local(async move {
                    drop(builder.serve_connection(TokioIo::new(stream), service_fn(echo)).await);
                });
            }
        })
        .await;
}

async fn client(stream: TcpStream) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    weft_runtime::task::spawn("client", async move { drop(connection.await) });
    sender
}

#[tokio::test]
async fn many_streams_and_their_trailers_pass_on_one_connection() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let asking = async {
        let sender = client(pair.connect().await).await;
        let calls = (0..100).map(|number| {
            let mut sender = sender.clone();
            async move {
                let request = Request::post("http://orders/shop.Orders/Get")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(Full::new(Bytes::from(format!("message {number}"))))
                    .unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.headers()["x-caller"], "spiffe://mesh.local/ns/default/sa/web");
                let collected = response.into_body().collect().await.unwrap();
                assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
                assert_eq!(collected.to_bytes(), format!("message {number}"));
            }
        });
        futures_util::future::join_all(calls).await;
    };
    tokio::select! {
        () = serve(listener) => unreachable!(),
        done = timeout(PATIENCE, asking) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_grpc_call_to_no_one_fails_in_grpc() {
    let (_, address) = app().await;
    let mut pair = Pair::of_http(address);
    pair.offer(Vec::new(), weft_core::model::Protocol::Grpc);
    let mut sender = client(pair.connect().await).await;
    let request = Request::post("http://orders/shop.Orders/Get")
        .header("content-type", "application/grpc+proto")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["weft-error"], "no-endpoints");
}

/// Answers as the path says.
async fn answer((request, mut respond): Asked) {
    let (head, mut body) = request.into_parts();
    let status = head.uri.path().trim_start_matches('/').split('/').next().unwrap().parse().unwrap_or(200);
    let mut response = Response::builder().status(status).header("x-app", "yes");
    if let Some(length) = head.uri.path().split('/').nth(2) {
        response = response.header("content-length", length);
    }
    drop(wire::read(&mut body).await);
    respond.send_response(response.body(()).unwrap(), true).unwrap();
}

#[tokio::test]
async fn responses_without_a_body_keep_their_length() {
    let (listener, address) = app().await;
    wire::serve(listener, answer);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        for (method, path, status, length) in [
            ("HEAD", "/200/1234", 200, Some("1234")),
            ("GET", "/204", 204, None),
            ("GET", "/304/77", 304, Some("77")),
            ("GET", "/200/0", 200, Some("0")),
        ] {
            let (head, body, trailers) = wire::ask(&mut sender, wire::request(method, path), b"").await;
            assert_eq!((head.status().as_u16(), body.len(), trailers), (status, 0, None), "{path}");
            let found = head.headers().get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(found, length, "{path}");
            assert_eq!(head.headers()["x-app"], "yes");
        }
    }
}

#[tokio::test]
async fn informational_responses_pass_as_they_come() {
    let (listener, address) = app().await;
    wire::serve(listener, |(_, mut respond): Asked| async move {
        for (status, link) in [(103, "</a.css>"), (102, ""), (103, "</b.css>")] {
            let interim = Response::builder().status(status).header("link", link);
            respond.send_informational(interim.body(()).unwrap()).unwrap();
        }
        respond.send_response(Response::new(()), true).unwrap();
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let (mut response, _) = sender.send_request(wire::request("GET", "/"), true).unwrap();
        let mut seen = Vec::new();
        let interim = async {
            while let Some(interim) = std::future::poll_fn(|cx| response.poll_informational(cx)).await {
                let interim = interim.unwrap();
                seen.push((
                    interim.status().as_u16(),
                    interim.headers()["link"].to_str().unwrap().to_owned(),
                ));
            }
        };
        timeout(PATIENCE, interim).await.unwrap();
        let expected = [(103, "</a.css>"), (102, ""), (103, "</b.css>")];
        assert_eq!(seen, expected.map(|(status, link)| (status, link.to_owned())));
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_body_that_was_asked_for_by_the_app_is_sent_when_the_app_says_so() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        assert_eq!(request.headers()["expect"], "100-continue");
        let (_, mut body) = request.into_parts();
        let go_on = Response::builder().status(100).body(()).unwrap();
        respond.send_informational(go_on).unwrap();
        let (bytes, _) = wire::read(&mut body).await.unwrap();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(bytes, true).unwrap();
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let mut request = wire::request("POST", "/");
        request.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        let (mut response, mut stream) = sender.send_request(request, false).unwrap();
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
        let interim = timeout(PATIENCE, interim).await.unwrap().unwrap().unwrap();
        assert_eq!(interim.status(), 100);
        stream.send_data(Bytes::from_static(b"now"), true).unwrap();
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        assert_eq!(wire::read(&mut body).await.unwrap().0, "now");
    }
}

#[tokio::test]
async fn fields_keep_their_order_and_cookies_their_crumbs() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let mut response = Response::new(());
        for (name, value) in request.headers() {
            response.headers_mut().append(name.clone(), value.clone());
        }
        respond.send_response(response, true).unwrap();
    });
    let sent = [
        ("zeta", "1"),
        ("cookie", "a=1"),
        ("alpha", "2"),
        ("te", "trailers"),
        ("cookie", "b=2; c=3"),
        ("mid", "\u{fc}"),
    ];
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let mut request = wire::request("GET", "/");
        for (name, value) in sent {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(name, value);
        }
        let (head, ..) = wire::ask(&mut sender, request, b"").await;
        let names: Vec<_> = head.headers().keys().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(names[..5], ["zeta", "cookie", "alpha", "te", "mid"]);
        let crumbs: Vec<_> = head.headers().get_all("cookie").iter().collect();
        assert_eq!(crumbs, ["a=1", "b=2; c=3"]);
        assert_eq!(head.headers()["mid"].as_bytes(), "\u{fc}".as_bytes());
        assert_eq!(head.headers()["te"], "trailers");
    }
}

/// What a request that is encoded by hand gets: a status, or the code of a reset.
async fn verdict(pair: &Pair, fields: &[(&str, &str)]) -> Result<String, u32> {
    let mut wire = Wire::client(pair.connect().await).await;
    let ends = wire::END_STREAM | wire::END_HEADERS;
    wire.send(&wire::frame(wire::HEADERS, ends, 1, &wire::block(fields))).await;
    loop {
        let frame = wire.next().await.expect("an answer before the end");
        match (frame.kind, frame.stream) {
            (wire::RST_STREAM, 1) | (wire::GO_AWAY, 0) => return Err(frame.code()),
            (wire::HEADERS, 1) => {
                let mut decoder = hpack(&frame.payload);
                return Ok(decoder.remove(":status").unwrap_or_default());
            }
            _ => {}
        }
    }
}

/// The status of a block: the statuses of the static table and those written out.
fn hpack(block: &[u8]) -> std::collections::HashMap<String, String> {
    let status = match block {
        [indexed @ 0x88..=0x8e, ..] => {
            ["200", "204", "206", "304", "400", "404", "500"][usize::from(indexed - 0x88)].to_owned()
        }
        _ => String::from("other"),
    };
    [(":status".to_owned(), status)].into()
}

#[tokio::test]
async fn pseudo_fields_are_as_they_must_be() {
    const PROTOCOL_ERROR: u32 = 1;
    let (listener, address) = app().await;
    wire::serve(listener, answer);
    let pair = Pair::of_http(address);
    let get = wire::GET;
    let with = |more: &[(&'static str, &'static str)]| [&get[..], more].concat();
    let malformed = Err(PROTOCOL_ERROR);
    for (fields, expected) in [
        (with(&[]), Ok("200")),
        (with(&[("te", "trailers")]), Ok("200")),
        (with(&[("host", "ORDERS:80")]), Ok("200")),
        (vec![get[0], get[1], get[3], ("host", "orders")], Ok("200")),
        // Nobody is named, or two are.
        (vec![get[0], get[1], get[3]], Ok("400")),
        (with(&[("host", "payments")]), Ok("400")),
        (with(&[("host", "orders"), ("host", "orders")]), Ok("400")),
        (vec![get[0], get[1], get[3], ("host", "a"), ("host", "b")], Ok("400")),
        // RFC 9113 section 8.3.
        (vec![get[1], get[2], get[3]], malformed),
        (vec![get[0], get[2], get[3]], malformed),
        (vec![get[0], get[1], get[2]], malformed),
        (vec![get[0], get[1], get[2], (":path", "")], malformed),
        (with(&[(":path", "/again")]), malformed),
        (with(&[(":unknown", "x")]), malformed),
        (with(&[(":status", "200")]), malformed),
        (with(&[(":protocol", "websocket")]), malformed),
        ([&[("before", "x")], &get[..]].concat(), malformed),
        // Section 8.2.
        (with(&[("Upper", "x")]), malformed),
        (with(&[("connection", "close")]), malformed),
        (with(&[("transfer-encoding", "chunked")]), malformed),
        (with(&[("upgrade", "h2c")]), malformed),
        (with(&[("keep-alive", "1")]), malformed),
        (with(&[("proxy-connection", "keep-alive")]), malformed),
        (with(&[("te", "gzip")]), malformed),
        (with(&[("content-length", "5")]), malformed),
        (with(&[("content-length", "0"), ("content-length", "1")]), malformed),
    ] {
        assert_eq!(verdict(&pair, &fields).await, expected.map(str::to_owned), "{fields:?}");
    }
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let (listener, address) = app().await;
    wire::serve(listener, answer);
    let pair = Pair::of_http(address);
    let mut sender = wire::client(pair.connect().await).await;
    let large = |count: usize, length: usize| {
        let mut request = wire::request("GET", "/");
        for number in 0..count {
            let value = HeaderValue::from_str(&"v".repeat(length)).unwrap();
            request.headers_mut().append("cookie", value.clone());
            request.headers_mut().insert(http::HeaderName::try_from(format!("x-{number}")).unwrap(), value);
        }
        request
    };
    for (request, expected) in [(large(100, 100), 200), (large(140, 1), 431), (large(50, 800), 431)] {
        let (head, ..) = wire::ask(&mut sender, request, b"").await;
        assert_eq!(head.status(), expected);
        assert_eq!(head.headers().contains_key("weft-error"), expected == 431);
        if expected == 431 {
            assert_eq!(head.headers()["weft-error"], "header-too-large");
        }
    }
}

#[tokio::test]
async fn grpc_of_all_four_kinds_passes() {
    let (listener, address) = app().await;
    // Echoes each message as it comes; an empty call is answered by trailers alone.
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let mut response = Response::new(());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let mut body = request.into_body();
        if body.is_end_stream() {
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
            return drop(respond.send_response(response, true).unwrap());
        }
        let mut stream = respond.send_response(response, false).unwrap();
        while let Some(message) = body.data().await {
            let message = message.unwrap();
            body.flow_control().release_capacity(message.len()).unwrap();
            stream.send_data(message, false).unwrap();
        }
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
        stream.send_trailers(trailers).unwrap();
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        // Unary, and a stream of one side.
        let (head, body, trailers) = wire::ask(&mut sender, wire::call(), b"message").await;
        assert_eq!((head.status().as_u16(), &body[..]), (200, &b"message"[..]));
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
        // Trailers-only.
        let (head, body, trailers) = wire::ask(&mut sender, wire::call(), b"").await;
        assert_eq!((head.headers()["grpc-status"].to_str().unwrap(), body.len(), trailers), ("5", 0, None));
        // Both at once: each message is answered before the next is sent.
        let (response, mut stream) = sender.send_request(wire::call(), false).unwrap();
        stream.send_data(Bytes::from_static(b"0"), false).unwrap();
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        for number in 0..20 {
            let message = timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
            assert_eq!(message, number.to_string());
            body.flow_control().release_capacity(message.len()).unwrap();
            stream.send_data(Bytes::from((number + 1).to_string()), false).unwrap();
        }
        stream.send_trailers(HeaderMap::new()).unwrap();
        let (rest, trailers) = timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap();
        assert_eq!((&rest[..], trailers.unwrap()["grpc-status"].to_str().unwrap()), (&b"20"[..], "0"));
    }
}

#[tokio::test]
async fn a_span_ends_with_its_stream_and_says_how_the_call_ended() {
    let (listener, address) = app().await;
    // Says one thing at once, and how it went when the caller has said enough.
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let mut response = Response::new(());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
        drop(wire::read(&mut request.into_body()).await);
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("14"))]);
        stream.send_trailers(trailers).unwrap();
    });
    let mut pair = Pair::of_http(address);
    let mut sender = wire::client(pair.connect().await).await;
    let (response, mut stream) = sender.send_request(wire::call(), false).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    let begun = timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
    body.flow_control().release_capacity(begun.len()).unwrap();
    assert_eq!((pair.caller.recorded().len(), pair.callee.recorded().len()), (0, 0), "it goes on");
    let held = std::time::Instant::now();
    stream.send_data(Bytes::from_static(b"enough"), true).unwrap();
    let (_, trailers) = timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "14");
    for sidecar in [&mut pair.caller, &mut pair.callee] {
        let record = timeout(PATIENCE, sidecar.record()).await.unwrap();
        assert_eq!((record.status, record.grpc_status), (Some(200), Some(14)));
        assert_eq!((record.bytes_in, record.bytes_out), (6, 5));
        assert!(record.started + record.duration >= std::time::SystemTime::now() - held.elapsed());
    }
}

#[tokio::test]
async fn grpc_web_passes_untouched() {
    // Its trailers are the end of its body: a frame whose first bit is set.
    const MESSAGE: &[u8] = b"\0\0\0\0\x02hi\x80\0\0\0\x0fgrpc-status:0\r\n";
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let kind = request.headers()["content-type"].clone();
        let (bytes, _) = wire::read(&mut request.into_body()).await.unwrap();
        let mut response = Response::new(());
        response.headers_mut().insert("content-type", kind);
        respond.send_response(response, false).unwrap().send_data(bytes, true).unwrap();
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let mut request = wire::call();
        let kind = HeaderValue::from_static("application/grpc-web+proto");
        request.headers_mut().insert("content-type", kind.clone());
        let (head, body, trailers) = wire::ask(&mut sender, request, MESSAGE).await;
        assert_eq!((&head.headers()["content-type"], &body[..], trailers), (&kind, MESSAGE, None));
    }
}

/// Answers CONNECT by an echo, or refuses it; nothing may have come before it says so.
async fn tunnel((request, mut respond): Asked) {
    assert_eq!(request.method(), "CONNECT");
    let protocol = request.extensions().get::<h2::ext::Protocol>().map(|p| p.as_str().to_owned());
    let refused = request.headers().contains_key("x-refuse");
    let mut body = request.into_body();
    let early = timeout(std::time::Duration::from_millis(100), body.data()).await;
    assert!(early.is_err(), "bytes wait until they are welcome");
    let status = if refused { 403 } else { 200 };
    let mut response = Response::builder().status(status);
    if let Some(protocol) = protocol {
        response = response.header("x-protocol", protocol);
    }
    let mut stream = respond.send_response(response.body(()).unwrap(), refused).unwrap();
    while let Some(Ok(bytes)) = body.data().await {
        assert!(!refused);
        body.flow_control().release_capacity(bytes.len()).unwrap();
        stream.send_data(bytes, false).unwrap();
    }
    drop(stream.send_data(Bytes::new(), true));
}

/// A client on a connection that has learnt whether extended CONNECT may be used.
async fn settled_client(pair: &Pair) -> h2::client::SendRequest<Bytes> {
    let sender = wire::client(pair.connect().await).await;
    let enabled = async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, enabled).await.expect("extended CONNECT is offered");
    sender
}

fn connect(protocol: Option<&'static str>) -> Request<()> {
    let mut request = Request::builder().method("CONNECT").uri("orders:80").body(()).unwrap();
    if let Some(protocol) = protocol {
        *request.uri_mut() = "http://orders/chat".parse().unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    }
    request
}

#[tokio::test]
async fn connect_carries_bytes_both_ways_once_it_is_granted() {
    for protocol in [None, Some("websocket")] {
        let (listener, address) = app().await;
        let mut settings = h2::server::Builder::new();
        settings.enable_connect_protocol();
        wire::serve_with(listener, settings, tunnel);
        for pair in Pair::both(address) {
            let mut sender = settled_client(&pair).await;
            let (response, mut stream) = sender.send_request(connect(protocol), false).unwrap();
            stream.send_data(Bytes::from_static(b"early"), false).unwrap();
            let (head, mut body) = timeout(PATIENCE, response).await.unwrap().unwrap().into_parts();
            assert_eq!(head.status, 200);
            assert_eq!(head.headers.get("x-protocol").map(|p| p.to_str().unwrap()), protocol);
            // Both directions at once: what is written is more than the windows between hold.
            let sent = Bytes::from(vec![b'w'; 3 << 20]);
            let writing = async {
                let mut rest = sent.clone();
                while !rest.is_empty() {
                    stream.reserve_capacity(rest.len());
                    let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                    stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
                }
                stream.send_data(Bytes::new(), true).unwrap();
            };
            let both = async { tokio::join!(writing, wire::read(&mut body)) };
            let ((), received) = timeout(PATIENCE, both).await.unwrap();
            let (bytes, _) = received.unwrap();
            assert!(bytes.starts_with(b"early") && bytes[5..] == sent);
        }
    }
}

#[tokio::test]
async fn connect_that_is_refused_sends_nothing() {
    let (listener, address) = app().await;
    let mut settings = h2::server::Builder::new();
    settings.enable_connect_protocol();
    wire::serve_with(listener, settings, tunnel);
    for pair in Pair::both(address) {
        let mut sender = settled_client(&pair).await;
        let mut request = connect(Some("websocket"));
        request.headers_mut().insert("x-refuse", HeaderValue::from_static("1"));
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"early"), false).unwrap();
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 403);
    }
}

#[tokio::test]
async fn an_app_that_knows_no_protocols_is_asked_for_none() {
    let (listener, address) = app().await;
    wire::serve(listener, tunnel);
    for pair in Pair::both(address) {
        let mut sender = settled_client(&pair).await;
        let (head, ..) = wire::ask(&mut sender, connect(Some("websocket")), b"").await;
        assert_eq!(
            (head.status().as_u16(), &head.headers()["weft-error"]),
            (501, &HeaderValue::from_static("protocol-error"))
        );
    }
}
