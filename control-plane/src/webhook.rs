//! The injector: answers the API server's admission reviews of pods, over TLS of our own authority.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use weft_core::inject::{self, Decision, Settings};
use weft_runtime::drain::DrainWatch;
use weft_runtime::http::{Limits, Peer, serve_connection, text, typed};
use weft_runtime::task;

use crate::metrics::Metrics;
use crate::report::chain;

/// Where the API server asks.
pub(crate) const PATH: &str = "/inject";
/// For a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A pod is at most what etcd takes, 1.5 MiB, and may be escaped.
const LARGEST: usize = 8 << 20;

/// The webhook.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
}

impl Webhook {
    /// Equips pods so.
    pub(crate) fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self { settings: Arc::new(settings), metrics }
    }

    /// Serves until the drain.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<ArcSwap<ServerConfig>>,
        mut drain: DrainWatch,
    ) {
        let limits = Limits { body: LARGEST, ..Limits::default() };
        let slots = Arc::new(Semaphore::new(limits.connections));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.draining() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly too many open files: others must close some first.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            let (webhook, tls, drain) = (self.clone(), tls.load_full(), drain.clone());
            task::spawn("webhook", async move {
                let secured = timeout(HANDSHAKE, secure(stream, tls)).await;
                match secured {
                    Ok(Ok(stream)) => {
                        let answer =
                            move |request: Request<Bytes>| std::future::ready(webhook.answer(&request));
                        serve_connection(stream, Peer(peer), limits, drain, answer).await;
                    }
                    Ok(Err(error)) => {
                        webhook.metrics.handshakes_failed.increment();
                        tracing::warn!(from = %peer, reason = chain(&error), "TLS handshake of the webhook failed");
                    }
                    Err(_) => webhook.metrics.handshakes_late.increment(),
                }
                drop(slot);
            });
        }
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, PATH) => self.review(request.body()),
            (&Method::GET, "/live" | "/ready") => text(StatusCode::OK, "ok\n"),
            (_, PATH) => text(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview here\n"),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    fn review(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let review: Value = match serde_json::from_slice(body) {
            Ok(review) => review,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("this is no JSON: {error}\n")),
        };
        let verdict = match inject::review(&review, &self.settings) {
            Ok(verdict) => verdict,
            Err(error) => {
                self.metrics.injected("malformed");
                return text(StatusCode::BAD_REQUEST, format!("{error}\n"));
            }
        };
        let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/request/namespace"), pod_name(&review));
        match &verdict.what {
            Decision::Patch(_) => {
                self.metrics.injected("injected");
                tracing::info!(namespace, pod = name, "gave a pod its sidecar");
            }
            Decision::Leave(reason) => {
                self.metrics.injected("left");
                let reason = reason.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::info!(namespace, pod = name, reason, "left a pod as it is");
            }
            Decision::Refuse(reason) => {
                self.metrics.injected("refused");
                tracing::warn!(namespace, pod = name, %reason, "refused a pod");
            }
        }
        typed(StatusCode::OK, "application/json", verdict.to_json().to_string())
    }
}

async fn secure(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    TlsAcceptor::from(tls).accept(stream).await
}

/// A pod that a controller makes has no name yet.
fn pod_name(review: &Value) -> &str {
    let metadata = review.pointer("/request/object/metadata");
    let name = metadata.and_then(|metadata| metadata.get("name").or_else(|| metadata.get("generateName")));
    name.and_then(Value::as_str).unwrap_or_default()
}
