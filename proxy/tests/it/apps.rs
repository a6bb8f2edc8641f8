//! Apps that answer as a test says, in whichever version of HTTP they are asked, and callers that ask in either.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weft_core::model::{Endpoint, Protocol, Traffic};
use weft_runtime::task;

use crate::pair::{PATIENCE, Pair, app, bare_endpoint, read_head};
use crate::wire;

/// What an app does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does {
    /// Answers with a status, a field and a body.
    Answer(u16, (&'static str, &'static str), &'static str),
    /// Answers a call with its status, and nothing before it.
    Refuse(&'static str),
    /// Sends the head of a call's answer, so many messages, and its status.
    Stream(usize, &'static str),
    /// Says something that is no answer.
    Babble,
    /// Breaks it off.
    BreakOff,
    /// Never answers.
    Hang,
    /// Answers after so long.
    Late(Duration),
}

pub(crate) const OK: Does = Does::Answer(200, ("x-app", "yes"), "ok");
pub(crate) const BUSY: Does = Does::Answer(503, ("x-app", "yes"), "busy");

/// A request that an app was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) body: Vec<u8>,
}

/// An app.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    /// Requests that were taken back before they were answered.
    cancelled: Arc<Semaphore>,
}

type Script = Arc<dyn Fn(usize) -> Does + Send + Sync>;

impl App {
    /// One that does with each request what `script` says of its number, from 0.
    pub(crate) async fn start(script: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let (listener, address) = app().await;
        let started = Self {
            address,
            seen: Arc::default(),
            connections: Arc::default(),
            cancelled: Arc::new(Semaphore::new(0)),
        };
        let (own, script): (_, Script) = (started.clone(), Arc::new(script));
        task::spawn("app", async move {
            while let Ok((stream, _)) = listener.accept().await {
                own.connections.fetch_add(1, Ordering::Relaxed);
                let (own, script) = (own.clone(), Arc::clone(&script));
                task::spawn("app-connection", async move {
                    let mut first = [0; 3];
                    match stream.peek(&mut first).await {
                        Ok(3) if &first == b"PRI" => own.serve_http2(stream, script).await,
                        _ => own.serve_http1(stream, script).await,
                    }
                });
            }
        });
        started
    }

    /// Every request that it was sent.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many that were.
    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Waits until so many requests were taken back.
    pub(crate) async fn cancelled(&self, count: u32) {
        drop(timeout(PATIENCE, self.cancelled.acquire_many(count)).await.unwrap().unwrap());
    }

    /// On how many connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn see(&self, method: &str, body: Vec<u8>, script: &Script) -> Does {
        let mut seen = self.seen.lock().unwrap();
        seen.push(Seen { method: method.to_owned(), body });
        script(seen.len() - 1)
    }

    async fn serve_http1(&self, mut stream: TcpStream, script: Script) {
        loop {
            let head = read_head(&mut stream).await.to_lowercase();
            let Some(method) = head.split(' ').next().filter(|method| !method.is_empty()) else { return };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            if stream.read_exact(&mut body).await.is_err() {
                return;
            }
            let answer = match self.see(&method.to_uppercase(), body, &script) {
                Does::Answer(status, (name, value), body) => format!(
                    "HTTP/1.1 {status} Said\r\n{name}: {value}\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ),
                Does::Babble => "SSH-2.0-babble\r\n\r\n".to_owned(),
                Does::Refuse(_) | Does::Stream(..) | Does::BreakOff => return,
                Does::Hang => {
                    let _ = stream.read(&mut [0]).await;
                    self.cancelled.add_permits(1);
                    return;
                }
                Does::Late(time) => {
                    tokio::time::sleep(time).await;
                    "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate".to_owned()
                }
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn serve_http2(&self, stream: TcpStream, script: Script) {
        let Ok(mut connection) = server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            let (own, script) = (self.clone(), Arc::clone(&script));
            task::spawn("app-request", async move { own.answer(request, respond, script).await });
        }
    }

    async fn answer(
        &self,
        request: Request<RecvStream>,
        mut respond: server::SendResponse<Bytes>,
        script: Script,
    ) {
        let (head, mut body) = request.into_parts();
        let Ok((body, _)) = wire::read(&mut body).await else { return };
        let call = || Response::builder().header("content-type", "application/grpc");
        match self.see(head.method.as_str(), body.to_vec(), &script) {
            Does::Answer(status, (name, value), body) => {
                let response = Response::builder().status(status).header(name, value).body(()).unwrap();
                let mut sending = respond.send_response(response, false).unwrap();
                sending.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
            }
            Does::Refuse(status) => {
                let response = call().header("grpc-status", status).body(()).unwrap();
                respond.send_response(response, true).unwrap();
            }
            Does::Stream(messages, status) => {
                let mut sending = respond.send_response(call().body(()).unwrap(), false).unwrap();
                for _ in 0..messages {
                    sending.send_data(Bytes::from_static(b"message"), false).unwrap();
                }
                let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static(status));
                sending.send_trailers(HeaderMap::from_iter([status])).unwrap();
            }
            Does::BreakOff | Does::Babble => respond.send_reset(Reason::INTERNAL_ERROR),
            Does::Hang => {
                drop(std::future::poll_fn(|cx| respond.poll_reset(cx)).await);
                self.cancelled.add_permits(1);
            }
            Does::Late(time) => {
                tokio::time::sleep(time).await;
                let mut sending = respond.send_response(Response::new(()), false).unwrap();
                sending.send_data(Bytes::from_static(b"late"), true).unwrap();
            }
        }
    }
}

/// Which version of HTTP a caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

pub(crate) const VERSIONS: [Version; 2] = [Version::One, Version::Two];

/// An answer, as a caller got it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a field, or of a trailer.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Status, `weft-error` and body.
    pub(crate) fn says(&self) -> (u16, Option<&str>, &str) {
        (self.status, self.field("weft-error"), std::str::from_utf8(&self.body).unwrap())
    }
}

impl Pair {
    /// The caller's sidecar, before apps that have none.
    pub(crate) fn before(apps: &[&App], traffic: Traffic) -> Self {
        let mut pair = Self::new(apps[0].address);
        pair.traffic = traffic;
        let endpoint = |(number, app): (usize, &&App)| Endpoint {
            workload: format!("default/orders-{number}").parse().unwrap(),
            ..bare_endpoint(app.address)
        };
        let endpoints = apps.iter().enumerate().map(endpoint).collect();
        pair.offer(endpoints, Protocol::Detect);
        pair
    }

    /// Asks on a connection of its own.
    pub(crate) async fn says(&self, version: Version, method: &str, body: &[u8]) -> Answer {
        match version {
            Version::One => {
                let length = if body.is_empty() {
                    String::new()
                } else {
                    format!("content-length: {}\r\n", body.len())
                };
                let head =
                    format!("{method} / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n{length}\r\n");
                let mut stream = self.connect().await;
                stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
                let mut read = Vec::new();
                timeout(PATIENCE, stream.read_to_end(&mut read)).await.unwrap().unwrap();
                parse(&read)
            }
            Version::Two => self.calls(wire::request(method, "/"), body).await,
        }
    }

    /// Asks in HTTP/2, on a connection of its own.
    pub(crate) async fn calls(&self, request: Request<()>, body: &[u8]) -> Answer {
        let mut sender = wire::client(self.connect().await).await;
        let (head, body, trailers) = wire::ask(&mut sender, request, body).await;
        let trailers = trailers.unwrap_or_default();
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.as_str().to_owned(), value.to_str().unwrap().to_owned())
        };
        let fields = head.headers().iter().chain(&trailers).map(text).collect();
        Answer { status: head.status().as_u16(), fields, body: body.to_vec() }
    }
}

fn parse(read: &[u8]) -> Answer {
    let end = read.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = std::str::from_utf8(&read[..end]).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let field = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_lowercase(), value.to_owned()))
    };
    Answer { status, fields: head.lines().filter_map(field).collect(), body: read[end..].to_vec() }
}
