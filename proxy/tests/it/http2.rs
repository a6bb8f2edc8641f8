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
    let pair = Pair::new(address);
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
    let mut pair = Pair::new(address);
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
