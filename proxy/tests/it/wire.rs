//! HTTP/2 by hand: frames as they are on the wire, right and wrong, and peers made of the h2 crate.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_runtime::task;

use crate::pair::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GO_AWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it is on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields encoded one by one, without tables (RFC 7541 section 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        match u8::try_from(text.len()) {
            Ok(short) if short < 127 => bytes.push(short),
            _ => {
                bytes.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        bytes.extend(text.as_bytes());
    }
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        text(&mut bytes, name);
        text(&mut bytes, value);
    }
    bytes
}

/// What every request begins with.
pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "orders"), (":path", "/")];

/// A whole request without a body.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

/// The beginning of a request whose body is to come.
pub(crate) fn post(stream: u32) -> Vec<u8> {
    let fields = [(":method", "POST"), GET[1], GET[2], GET[3]];
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Received {
    /// The code of a reset, or of a farewell.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GO_AWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A connection that is spoken by hand.
pub(crate) struct Wire(pub(crate) TcpStream);

impl Wire {
    /// Begins as a client does.
    pub(crate) async fn client(stream: TcpStream) -> Self {
        let mut wire = Self(stream);
        wire.0.write_all(PREFACE).await.unwrap();
        wire.send(&frame(SETTINGS, 0, 0, &[])).await;
        wire
    }

    /// Sends bytes, as far as the peer still takes any.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.0.write_all(bytes)).await.unwrap().is_ok()
    }

    /// The next frame; none where the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.0.read_exact(&mut head)).await.expect("a frame or the end").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        timeout(PATIENCE, self.0.read_exact(&mut payload)).await.expect("the whole frame").ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Received { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of that kind on that stream.
    pub(crate) async fn expect(&mut self, kind: u8, stream: u32) -> Received {
        loop {
            let frame = self.next().await.expect("the connection goes on");
            if (frame.kind, frame.stream) == (kind, stream) {
                return frame;
            }
        }
    }

    /// Reads until the connection is over; the code that it was said farewell with.
    pub(crate) async fn farewell(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GO_AWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}

/// A request that an app has got, and its answer.
pub(crate) type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// Serves every connection that comes; each request is answered by `answer`.
pub(crate) fn serve<F>(listener: TcpListener, answer: impl Fn(Asked) -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    serve_with(listener, h2::server::Builder::new(), answer);
}

/// The same, with settings of its own.
pub(crate) fn serve_with<F>(
    listener: TcpListener,
    settings: h2::server::Builder,
    answer: impl Fn(Asked) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let answer = Arc::new(answer);
    task::spawn("test-app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, settings) = (Arc::clone(&answer), settings.clone());
            task::spawn("test-app-connection", async move {
                let mut connection = settings.handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok(asked)) = connection.accept().await {
                    task::spawn("test-app-request", answer(asked));
                }
            });
        }
    });
}

/// A client whose windows are so large that it is never in its own way.
pub(crate) async fn client(stream: TcpStream) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 30).initial_max_send_streams(4096);
    builder.max_concurrent_reset_streams(4096).max_local_error_reset_streams(None);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    task::spawn("test-client", async move { drop(connection.await) });
    sender
}

/// A request for `orders`.
pub(crate) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://orders{path}")).body(()).unwrap()
}

/// A gRPC call.
pub(crate) fn call() -> Request<()> {
    let mut request = request("POST", "/shop.Orders/Get");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request
}

/// Sends a whole request and reads its whole answer.
pub(crate) async fn ask(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: &[u8],
) -> (Response<()>, Bytes, Option<HeaderMap>) {
    let asking = async {
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let (response, mut stream) = sender.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        let (head, mut body) = response.await.unwrap().into_parts();
        let (bytes, trailers) = read(&mut body).await.unwrap();
        (Response::from_parts(head, ()), bytes, trailers)
    };
    timeout(PATIENCE, asking).await.expect("an answer")
}

/// Reads all of a body.
pub(crate) async fn read(body: &mut RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes.into(), body.trailers().await?))
}

/// Sends as much as is taken, until the peer takes no more for a while; how much that was.
pub(crate) async fn fill(stream: &mut SendStream<Bytes>) -> usize {
    let mut sent = 0;
    loop {
        stream.reserve_capacity(16 * 1024);
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx));
        match timeout(Duration::from_millis(300), room).await {
            Ok(Some(Ok(room))) => {
                stream.send_data(Bytes::from(vec![b'x'; room]), false).unwrap();
                sent += room;
            }
            Ok(Some(Err(_)) | None) | Err(_) => return sent,
        }
    }
}
