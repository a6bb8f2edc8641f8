//! How HTTP/2 streams end before their time: deadlines, resets either way, connections that close, and our own leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderValue, Response};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use weft_runtime::task;

use crate::pair::{PATIENCE, Pair, app, bare_endpoint, endpoint};
use crate::wire::{self, Asked, Wire};

/// How soon what happens on one side is known on the other. The task says 10 ms; a busy machine is given more.
const SOON: Duration = Duration::from_millis(250);

fn call_within(timeout: &'static str) -> http::Request<()> {
    let mut call = wire::call();
    call.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    call
}

/// An app that says how each of its streams ended, and answers as far as the path says.
fn watching(listener: TcpListener) -> mpsc::Receiver<Reason> {
    let (tell, ended) = mpsc::channel(64);
    wire::serve(listener, move |(request, mut respond): Asked| {
        let tell = tell.clone();
        async move {
            let reset = if request.uri().path() == "/begun" {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await
            } else {
                std::future::poll_fn(|cx| respond.poll_reset(cx)).await
            };
            tell.send(reset.unwrap()).await.unwrap();
        }
    });
    ended
}

#[tokio::test]
async fn a_deadline_is_told_less_what_was_spent() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let mut response = Response::new(());
        response.headers_mut().insert("x-timeout", request.headers()["grpc-timeout"].clone());
        respond.send_response(response, true).unwrap();
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let (head, ..) = wire::ask(&mut sender, call_within("10S"), b"").await;
        let told = weft_core::deadline::parse(head.headers()["x-timeout"].as_bytes()).unwrap();
        assert!(told < Duration::from_secs(10) && told > Duration::from_secs(8), "{told:?}");
        // What is no deadline passes as it is; so does one of a call that is not gRPC.
        let (head, ..) = wire::ask(&mut sender, call_within("soon"), b"").await;
        assert_eq!(head.headers()["x-timeout"], "soon");
        let mut request = wire::request("GET", "/");
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("1n"));
        let (head, ..) = wire::ask(&mut sender, request, b"").await;
        assert_eq!(head.headers()["x-timeout"], "1n");
    }
}

#[tokio::test]
async fn a_call_past_its_deadline_ends_in_grpc_and_is_taken_back() {
    let (listener, address) = app().await;
    let mut ended = watching(listener);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let begun = Instant::now();
        let (head, body, _) = wire::ask(&mut sender, call_within("200m"), b"").await;
        assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(2));
        assert_eq!((head.status().as_u16(), body.len()), (200, 0));
        assert_eq!(head.headers()["grpc-status"], "4");
        assert_eq!(head.headers()["weft-error"], "timeout");
        assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(Reason::CANCEL));
        // Nothing is left of it before it is sent.
        let (head, ..) = wire::ask(&mut sender, call_within("0n"), b"").await;
        assert_eq!(head.headers()["grpc-status"], "4");
        // One that has begun to answer ends by its trailers.
        let mut call = call_within("200m");
        *call.uri_mut() = "http://orders/begun".parse().unwrap();
        let (head, body, trailers) = wire::ask(&mut sender, call, b"").await;
        assert_eq!((head.status().as_u16(), &body[..]), (200, &b"begun"[..]));
        assert_eq!(trailers.unwrap()["grpc-status"], "4");
        assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(Reason::CANCEL));
    }
}

#[tokio::test]
async fn a_client_that_takes_a_request_back_takes_it_back_from_the_app() {
    let (listener, address) = app().await;
    let mut ended = watching(listener);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        for path in ["/", "/begun"] {
            for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR, Reason::from(0xbeef)] {
                for ends in [true, false] {
                    let (response, mut stream) =
                        sender.send_request(wire::request("POST", path), ends).unwrap();
                    let mut response = Some(response);
                    if path == "/begun" {
                        let answer = timeout(PATIENCE, response.take().unwrap()).await.unwrap().unwrap();
                        let mut body = answer.into_body();
                        timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
                        let begun = Instant::now();
                        stream.send_reset(reason);
                        assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(reason));
                        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
                        continue;
                    }
                    // The app has it when another request on the same way has been answered.
                    let (other, _) = sender.send_request(wire::request("GET", "/begun"), true).unwrap();
                    let mut other = timeout(PATIENCE, other).await.unwrap().unwrap().into_body();
                    timeout(PATIENCE, other.data()).await.unwrap().unwrap().unwrap();
                    let begun = Instant::now();
                    stream.send_reset(reason);
                    assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(reason));
                    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
                    drop(other);
                    assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(Reason::CANCEL));
                }
            }
        }
    }
}

#[tokio::test]
async fn requests_that_are_taken_back_cost_the_others_nothing() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        if request.uri().path() == "/large" {
            // Is still sending when nobody wants it any more.
            wire::fill(&mut stream).await;
            return;
        }
        let (bytes, _) = wire::read(&mut request.into_body()).await.unwrap();
        stream.send_data(bytes, true).unwrap();
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let (response, mut stream) = sender.send_request(wire::request("POST", "/"), false).unwrap();
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        for _ in 0..2000 {
            let (response, mut taken_back) =
                sender.send_request(wire::request("GET", "/large"), true).unwrap();
            let response = timeout(PATIENCE, response).await.unwrap().unwrap();
            taken_back.send_reset(Reason::CANCEL);
            drop(response);
        }
        stream.send_data(Bytes::from_static(b"still here"), true).unwrap();
        assert_eq!(timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap().0, "still here");
    }
}

#[tokio::test]
async fn a_client_that_is_gone_takes_all_its_requests_back() {
    let (listener, address) = app().await;
    let mut ended = watching(listener);
    for pair in Pair::both(address) {
        let stream = pair.connect().await;
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = task::spawn("test-client", async move { drop(connection.await) });
        let mut bodies = Vec::new();
        for _ in 0..10 {
            let (response, _) = sender.send_request(wire::request("GET", "/begun"), true).unwrap();
            bodies.push(timeout(PATIENCE, response).await.unwrap().unwrap().into_body());
        }
        let begun = Instant::now();
        connection.abort();
        for _ in 0..10 {
            assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(Reason::CANCEL));
        }
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_reset_of_the_app_is_a_reset_to_the_client() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let code = request.uri().query().unwrap().parse::<u32>().unwrap();
        if request.uri().path() == "/begun" {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
            // It goes when the beginning was read.
            drop(wire::read(&mut request.into_body()).await);
            stream.send_reset(code.into());
        } else {
            respond.send_reset(code.into());
        }
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        for code in [0, 2, 8, 11, 13, 0xbeef] {
            let request = wire::request("GET", &format!("/?{code}"));
            let (response, _) = sender.send_request(request, true).unwrap();
            let error = timeout(PATIENCE, response).await.unwrap().unwrap_err();
            assert!(error.is_remote() && error.is_reset());
            assert_eq!(error.reason(), Some(Reason::from(code)));

            let request = wire::request("POST", &format!("/begun?{code}"));
            let (response, mut stream) = sender.send_request(request, false).unwrap();
            let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
            assert_eq!(timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap(), "begun");
            stream.send_data(Bytes::new(), true).unwrap();
            let error = timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap_err();
            assert!(error.is_remote() && error.is_reset());
            assert_eq!(error.reason(), Some(Reason::from(code)));
        }
    }
}

#[tokio::test]
async fn a_response_that_is_cut_never_looks_whole() {
    let (listener, address) = app().await;
    let half_is_there = Arc::new(Notify::new());
    let dies = half_is_there.clone();
    task::spawn("test-app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"half of"), false).unwrap();
            tokio::select! {
                _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => {}
                () = dies.notified() => {}
            }
        }
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let (response, _) = sender.send_request(wire::request("GET", "/"), true).unwrap();
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        assert_eq!(timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap(), "half of");
        half_is_there.notify_one();
        let error = timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap_err();
        assert_eq!((error.is_reset(), error.reason()), (true, Some(Reason::INTERNAL_ERROR)));
    }
}

#[tokio::test]
async fn an_answer_before_the_request_has_ended_is_whole_and_stops_the_rest() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let response = Response::builder().status(413).body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(Bytes::from_static(b"too large"), true).unwrap();
        drop(request); // h2 says NO_ERROR: RFC 9113 section 8.1
    });
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let (response, mut stream) = sender.send_request(wire::request("POST", "/"), false).unwrap();
        let (head, mut body) = timeout(PATIENCE, response).await.unwrap().unwrap().into_parts();
        let (bytes, _) = timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap();
        assert_eq!((head.status.as_u16(), &bytes[..]), (413, &b"too large"[..]));
        let reset = timeout(PATIENCE, std::future::poll_fn(|cx| stream.poll_reset(cx))).await.unwrap();
        assert_eq!(reset.unwrap(), Reason::NO_ERROR);
    }
}

/// An app whose first connections each answer one request and close before the next, which they never read.
fn leaving(listener: TcpListener, farewell: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Arc<AtomicU32> {
    let served = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&served);
    task::spawn("test-app", async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            if number < 2 {
                let mut wire = Wire(stream);
                let mut preface = [0; 24];
                tokio::io::AsyncReadExt::read_exact(&mut wire.0, &mut preface).await.unwrap();
                wire.send(&wire::frame(wire::SETTINGS, 0, 0, &[])).await;
                wire.expect(wire::HEADERS, 1).await;
                wire.send(&farewell(1)).await;
                // Open until the other side is done with it.
                task::spawn("test-app-leaving", async move { while wire.next().await.is_some() {} });
                continue;
            }
            let count = Arc::clone(&count);
            task::spawn("test-app-connection", async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    task::spawn("test-app-request", async move {
                        let (bytes, _) = wire::read(&mut request.into_body()).await.unwrap();
                        let mut stream = respond.send_response(Response::new(()), false).unwrap();
                        stream.send_data(bytes, true).unwrap();
                    });
                }
            });
        }
    });
    served
}

#[tokio::test]
async fn what_nobody_took_is_sent_again_whatever_it_is() {
    let going_away = |_| wire::frame(wire::GO_AWAY, 0, 0, &[0; 8]);
    let refusing = |stream| wire::frame(wire::RST_STREAM, 0, stream, &7_u32.to_be_bytes());
    for farewell in [going_away as fn(u32) -> Vec<u8>, refusing] {
        for plain in [false, true] {
            let (listener, address) = app().await;
            let served = leaving(listener, farewell);
            let pair = if plain { Pair::without_callee(address) } else { Pair::of_http(address) };
            let mut sender = wire::client(pair.connect().await).await;
            let body = vec![b'b'; 40_000];
            let (head, bytes, _) = wire::ask(&mut sender, wire::request("POST", "/"), &body).await;
            assert_eq!(head.status(), 200);
            assert!(bytes == body, "{} bytes came back", bytes.len());
            assert_eq!(served.load(Ordering::Relaxed), 1);
        }
    }
}

#[tokio::test]
async fn streams_that_a_closing_connection_took_run_on() {
    let (listener, address) = app().await;
    let (tell, mut told) = mpsc::channel::<()>(1);
    task::spawn("test-app", async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            number += 1;
            let tell = tell.clone();
            task::spawn("test-app-connection", async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if number == 1 {
                        connection.graceful_shutdown();
                        tell.send(()).await.unwrap();
                    }
                    task::spawn("test-app-request", async move {
                        drop(wire::read(&mut request.into_body()).await);
                        let mut response = Response::new(());
                        response.headers_mut().insert("x-connection", number.into());
                        respond.send_response(response, true).unwrap();
                    });
                }
            });
        }
    });
    let pair = Pair::of_http(address);
    let mut sender = wire::client(pair.connect().await).await;
    let (first, mut stream) = sender.send_request(wire::request("POST", "/"), false).unwrap();
    timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    let mut number = String::new();
    while number != "2" {
        let (head, ..) = wire::ask(&mut sender, wire::request("GET", "/"), b"").await;
        assert_eq!(head.status(), 200);
        head.headers()["x-connection"].to_str().unwrap().clone_into(&mut number);
    }
    stream.send_data(Bytes::from_static(b"the end"), true).unwrap();
    let response = timeout(PATIENCE, first).await.unwrap().unwrap();
    assert_eq!(response.headers()["x-connection"], "1");
}

#[tokio::test]
async fn an_app_is_asked_no_more_at_once_than_it_takes_and_nothing_is_lost() {
    const AT_ONCE: u32 = 7;
    for plain in [false, true] {
        let (listener, address) = app().await;
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (busy, peak) = (Arc::clone(&now), Arc::clone(&most));
        let mut settings = h2::server::Builder::new();
        settings.max_concurrent_streams(AT_ONCE);
        wire::serve_with(listener, settings, move |(request, mut respond): Asked| {
            let (busy, peak) = (Arc::clone(&busy), Arc::clone(&peak));
            async move {
                peak.fetch_max(busy.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let (bytes, _) = wire::read(&mut request.into_body()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                busy.fetch_sub(1, Ordering::Relaxed);
                respond.send_response(Response::new(()), false).unwrap().send_data(bytes, true).unwrap();
            }
        });
        let pair = if plain { Pair::without_callee(address) } else { Pair::of_http(address) };
        let sender = wire::client(pair.connect().await).await;
        let calls = (0..60).map(|number| {
            let mut sender = sender.clone();
            async move {
                let body = format!("message {number}");
                let (head, bytes, _) =
                    wire::ask(&mut sender, wire::request("POST", "/"), body.as_bytes()).await;
                assert_eq!((head.status().as_u16(), &bytes[..]), (200, body.as_bytes()));
            }
        });
        futures_util::future::join_all(calls).await;
        assert!(most.load(Ordering::Relaxed) > AT_ONCE, "several connections are used");
    }
}

#[tokio::test]
async fn a_refusal_by_every_endpoint_is_told() {
    let (listener, address) = app().await;
    wire::serve(
        listener,
        |(_, mut respond): Asked| async move { respond.send_reset(Reason::REFUSED_STREAM) },
    );
    let mut pair = Pair::without_callee(address);
    pair.offer(
        vec![
            bare_endpoint(address),
            weft_core::model::Endpoint {
                workload: "default/orders-2".parse().unwrap(),
                ..bare_endpoint(address)
            },
        ],
        weft_core::model::Protocol::Detect,
    );
    let mut sender = wire::client(pair.connect().await).await;
    let (response, _) = sender.send_request(wire::request("POST", "/"), true).unwrap();
    let error = timeout(PATIENCE, response).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
}

#[tokio::test]
async fn we_leave_when_what_is_under_way_has_ended() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
        let (bytes, _) = wire::read(&mut request.into_body()).await.unwrap();
        stream.send_data(bytes, true).unwrap();
    });
    let pair = Pair::of_http(address);
    let mut wire = Wire::client(pair.connect().await).await;
    wire.send(&wire::post(1)).await;
    wire.expect(wire::DATA, 1).await;
    let Pair { caller, callee, .. } = pair;
    for drain in [&callee.drain, &caller.drain] {
        drain.start();
    }
    // First that we are about to go, then where that is.
    let farewell = wire.expect(wire::GO_AWAY, 0).await;
    assert_eq!((farewell.code(), &farewell.payload[..4]), (0, &[0x7f, 0xff, 0xff, 0xff][..]));
    let ping = wire.expect(wire::PING, 0).await;
    wire.send(&wire::frame(wire::PING, wire::ACK, 0, &ping.payload)).await;
    let farewell = wire.expect(wire::GO_AWAY, 0).await;
    assert_eq!((farewell.code(), &farewell.payload[..4]), (0, &[0, 0, 0, 1][..]));
    // The stream that is under way goes on.
    wire.send(&wire::frame(wire::DATA, wire::END_STREAM, 1, b"the end")).await;
    let data = wire.expect(wire::DATA, 1).await;
    assert_eq!((&data.payload[..], data.flags & wire::END_STREAM), (&b"the end"[..], wire::END_STREAM));
    while wire.next().await.is_some() {}
    timeout(PATIENCE, async { tokio::join!(caller.workers.ended(), callee.workers.ended()) }).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_passed_over() {
    let (listener, address) = app().await;
    wire::serve(listener, |(_, mut respond): Asked| async move {
        respond.send_response(Response::new(()), true).unwrap();
    });
    let (_, nobody) = app().await;
    let mut pair = Pair::of_http(address);
    let honest = endpoint(pair.callee.workers.inbound(), address.port());
    let gone =
        weft_core::model::Endpoint { workload: "default/orders-0".parse().unwrap(), ..bare_endpoint(nobody) };
    pair.offer(vec![gone, honest], weft_core::model::Protocol::Detect);
    let mut sender = wire::client(pair.connect().await).await;
    for _ in 0..20 {
        let (head, ..) = wire::ask(&mut sender, wire::request("POST", "/"), b"").await;
        assert_eq!(head.status(), 200);
    }
}
