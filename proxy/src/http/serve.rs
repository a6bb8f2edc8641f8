//! The caller's connection, served by hyper until it ends or, when draining, until its requests are done.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use weft_runtime::drain::DrainWatch;

use super::limits::{BUFFER, CONNECTION_WINDOW, MAX_HEADERS, MAX_STREAMS, STREAM_WINDOW};
use super::{Body, Cork, relay};
use crate::session::Session;
use crate::stream::Stream;

/// A version of HTTP on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Starts hyper's tasks on the worker that asks.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// The same for a connection of HTTP/2 that hyper makes tasks of: what they write leaves after each of their turns.
#[derive(Debug, Clone)]
pub struct Releasing(pub Cork<Stream>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Releasing {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(self.0.clone().releasing(future));
    }
}

/// Serves `stream` until it ends; once we close, no further request is taken.
pub async fn serve(session: Rc<Session>, stream: Stream) {
    let (version, closing) = (session.version, session.worker.leaving.closing.clone());
    let service = service_fn(move |request| {
        let (session, request) = (Rc::clone(&session), Box::new(request));
        async move { Ok::<_, Infallible>(relay(&session, request).await) }
    });
    match version {
        Version::Http1 => serve_http1(stream, closing, service).await,
        Version::Http2 => serve_http2(stream, closing, service).await,
    }
}

async fn serve_http1<S>(stream: Stream, mut closing: DrainWatch, service: S)
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let mut builder = http1::Builder::new();
    builder.half_close(true).preserve_header_case(true).auto_date_header(false).max_buf_size(BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/1 connection ended early");
    }
}

async fn serve_http2<S>(stream: Stream, mut closing: DrainWatch, service: S)
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: 'static,
{
    let mut builder = http2::Builder::new(Local);
    builder
        .auto_date_header(false)
        .enable_connect_protocol()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS);
    let cork = Cork::new(stream);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(cork.clone()), service));
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = cork.releasing(served).await {
        tracing::debug!(%error, "HTTP/2 connection ended early");
    }
}
