//! The caller's connection, served by hyper until it ends or, when draining, until its requests are done.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::limits::BUFFER;
use super::relay;
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

/// Serves a `stream` of HTTP/1 until it ends; once we close, no further request is taken.
pub async fn serve(session: Rc<Session>, stream: Stream) {
    let mut closing = session.worker.leaving.closing.clone();
    let service = service_fn(move |request| {
        let (session, request) = (Rc::clone(&session), Box::new(request));
        async move { Ok::<_, Infallible>(relay(&session, request).await) }
    });
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
