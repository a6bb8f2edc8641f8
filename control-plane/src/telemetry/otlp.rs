//! OpenTelemetry's own service, on 4317 for everyone and on 7443 for those who prove who they are.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceService;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::{Request, Response, Status};

use super::Telemetry;

/// Takes spans in.
#[derive(Debug, Clone)]
pub(crate) struct OtlpService(Arc<Telemetry>);

impl OtlpService {
    /// Into this store.
    pub(crate) fn new(telemetry: Arc<Telemetry>) -> Self {
        Self(telemetry)
    }
}

#[tonic::async_trait]
impl TraceService for OtlpService {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let invalid = self.0.take(request.get_ref());
        let partial_success = (invalid > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: i64::try_from(invalid).unwrap_or(i64::MAX),
            error_message: "spans need a trace id of 16 bytes and a span id of 8, not all zero".into(),
        });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}
