//! HTTP: liveness, readiness, metrics, and pages rendered here.

mod page;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use weft_runtime::http::{text, typed};
use weft_runtime::metrics::Format;

use crate::api::AdminService;
use crate::metrics::Metrics;
use crate::telemetry::Filter;

/// Traces on the first page.
const TRACES: usize = 50;
/// Nothing is loaded from elsewhere, nothing is run.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");

/// Answers on port 7080.
#[derive(Debug, Clone)]
pub(crate) struct Dashboard {
    admin: AdminService,
    metrics: Arc<Metrics>,
}

impl Dashboard {
    pub(crate) fn new(admin: AdminService, metrics: Arc<Metrics>) -> Self {
        Self { admin, metrics }
    }

    /// Answers a request.
    pub(crate) async fn answer(self, request: Request<Bytes>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let path = request.uri().path();
        match path {
            "/live" | "/ready" => text(StatusCode::OK, "ok\n"),
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
                let format = Format::negotiate(accept);
                typed(StatusCode::OK, format.content_type(), self.metrics.registry.render(format))
            }
            "/" => self.overview(),
            _ => match path.strip_prefix("/traces/") {
                Some(id) => self.trace(id),
                None => text(StatusCode::NOT_FOUND, "no such page\n"),
            },
        }
    }

    fn overview(&self) -> Response<Full<Bytes>> {
        let services = self.admin.service_summaries();
        let filter = Filter { limit: TRACES, ..Filter::default() };
        let traces = self.admin.telemetry.traces().list(&filter);
        let sidecars = self.admin.registry.list();
        html(StatusCode::OK, page::overview(&services, &sidecars, &traces, self.admin.world.revision()))
    }

    fn trace(&self, id: &str) -> Response<Full<Bytes>> {
        match self.admin.telemetry.traces().find(id) {
            Some((id, spans)) => html(StatusCode::OK, page::trace(id, &spans)),
            None => html(StatusCode::NOT_FOUND, page::no_trace(id)),
        }
    }
}

fn html(status: StatusCode, page: String) -> Response<Full<Bytes>> {
    let mut response = typed(status, "text/html; charset=utf-8", page);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    response
}
