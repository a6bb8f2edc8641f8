//! Batches over HTTP/1.1: compressed, on one connection that is kept.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use weft_runtime::task;

use super::address::Address;
use super::courier::{Outcome, Terms};
use crate::config::otel::Compression;

/// What is read of an answer.
const ANSWER: usize = 64 << 10;

/// A resource that batches are posted to.
#[derive(Debug)]
pub(super) struct Post {
    address: Address,
    content_type: &'static str,
    terms: Terms,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Posted {
    /// It was taken; this is the answer's body.
    Taken(Bytes),
    /// It was not.
    Not(Outcome),
}

impl Post {
    /// Connects when it is first used.
    pub(super) fn new(address: Address, content_type: &'static str, terms: Terms) -> Self {
        Self { address, content_type, terms, connection: None }
    }

    /// Posts a batch.
    pub(super) async fn send(&mut self, batch: &[u8]) -> Posted {
        match self.exchange(batch).await {
            Ok(posted) => posted,
            Err(error) => Posted::Not(Outcome::Later { after: None, why: error.to_string() }),
        }
    }

    async fn exchange(&mut self, batch: &[u8]) -> Result<Posted, Box<dyn std::error::Error + Send + Sync>> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = Request::post(self.address.path.as_deref().unwrap_or("/"))
            .header(HOST, self.address.authority())
            .header(USER_AGENT, concat!("weft-proxy/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, self.content_type);
        let mut request = match self.terms.compression {
            None | Some(Compression::Gzip) => {
                request.header(CONTENT_ENCODING, "gzip").body(Full::new(compress(batch)?.into()))?
            }
            Some(Compression::None) => request.body(Full::new(Bytes::copy_from_slice(batch)))?,
        };
        request.headers_mut().extend(self.terms.headers.clone());
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok(judge(head.status, &head.headers, body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = self.address.connect().await?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a collector's connection ended");
            }
        };
        task::spawn("export-connection", driver);
        Ok(connection)
    }
}

fn compress(batch: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(batch.len() / 4), Level::fast());
    encoder.write_all(batch)?;
    encoder.finish()
}

/// What an answer means (OTLP specification, "OTLP/HTTP Response"; Zipkin's answers say no more).
fn judge(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Posted {
    let why = format!("the collector answered {status}");
    Posted::Not(match status.as_u16() {
        200..=299 => return Posted::Taken(body),
        429 | 502 | 503 | 504 => {
            let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            Outcome::Later { after: after.map(Duration::from_secs), why }
        }
        _ => Outcome::Refused(why),
    })
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn what_is_busy_is_asked_again_and_what_refuses_is_not() {
        let of = |status: u16, retry_after: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(retry_after))]);
            judge(StatusCode::from_u16(status).unwrap(), &headers, Bytes::new())
        };
        for status in [429, 502, 503, 504] {
            let Posted::Not(Outcome::Later { after, .. }) = of(status, "7") else { panic!("{status}") };
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
        let Posted::Not(Outcome::Later { after, .. }) = of(503, "Thu, 26 Nov 2026 06:00:00 GMT") else {
            panic!()
        };
        assert_eq!(after, None);
        for status in [301, 400, 401, 404, 500] {
            assert!(matches!(of(status, "7"), Posted::Not(Outcome::Refused(_))), "{status}");
        }
        assert!(matches!(of(202, "7"), Posted::Taken(_)));
    }
}
