//! `weft.v1.Replica`: what another control plane asks us, answered with what we hold ourselves.

use std::time::Duration;

use tonic::{Request, Response, Status};
use weft_proto::v1;

use super::wire;
use crate::api::AdminService;
use crate::status::Which;
use crate::taps::Watching;
use crate::telemetry::By;

/// Traces that are told of at once, whatever is asked.
const MOST_TRACES: usize = 4_000;

/// Answers another control plane.
#[derive(Debug)]
pub(crate) struct ReplicaService(pub(crate) AdminService);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl v1::replica_server::Replica for ReplicaService {
    async fn counted(&self, request: Request<v1::CountedRequest>) -> Answer<v1::CountedResponse> {
        let asked = request.into_inner();
        let by = By::parse(&asked.by).ok_or_else(|| Status::invalid_argument("by what?"))?;
        let now = wire::at_milliseconds(asked.now_ms);
        let counted = self.0.counted_here(now, Duration::from_millis(asked.window_ms), by);
        Ok(Response::new(wire::counted(counted)))
    }

    async fn course(&self, request: Request<v1::CourseRequest>) -> Answer<v1::CourseResponse> {
        let asked = request.into_inner();
        let (now, window) = (wire::at_milliseconds(asked.now_ms), Duration::from_millis(asked.window_ms));
        let course = self.0.course_here(&asked.service, now, window, Duration::from_millis(asked.step_ms));
        let point = |tally: Option<crate::telemetry::Tally>| v1::CoursePoint {
            tally: tally.map(|tally| tally.to_wire()),
        };
        Ok(Response::new(v1::CourseResponse { points: course.into_iter().map(point).collect() }))
    }

    async fn find_traces(&self, request: Request<v1::FindTracesRequest>) -> Answer<v1::FindTracesResponse> {
        let mut filter = wire::read_find(request.into_inner());
        filter.limit = filter.limit.min(MOST_TRACES);
        let found = self.0.telemetry.traces().list(&filter);
        let trace_ids = found.into_iter().map(|summary| summary.id.0.to_vec()).collect();
        Ok(Response::new(v1::FindTracesResponse { trace_ids }))
    }

    async fn bones(&self, request: Request<v1::BonesRequest>) -> Answer<v1::SpansResponse> {
        let asked = request.into_inner().trace_ids;
        let bones = self.0.telemetry.traces().bones(wire::read_ids(&asked).take(MOST_TRACES));
        let spans = bones.into_iter().map(wire::span).collect();
        Ok(Response::new(v1::SpansResponse { trace_ids: Vec::new(), spans }))
    }

    async fn spans(&self, request: Request<v1::TraceRequest>) -> Answer<v1::SpansResponse> {
        let traces = self.0.telemetry.traces();
        let matching = traces.matching(&request.into_inner().trace_id);
        let spans = match matching.as_slice() {
            [id] => traces.spans_of(*id).into_iter().map(wire::span).collect(),
            _ => Vec::new(),
        };
        let trace_ids = matching.iter().map(|id| id.0.to_vec()).collect();
        Ok(Response::new(v1::SpansResponse { trace_ids, spans }))
    }

    async fn connected(&self, request: Request<v1::ConnectedRequest>) -> Answer<v1::ConnectedResponse> {
        let which = if request.into_inner().with_plaintext { Which::WithPlaintext } else { Which::All };
        let sidecars = self.0.live.known(which).into_iter().map(wire::connected).collect();
        Ok(Response::new(v1::ConnectedResponse { sidecars }))
    }

    async fn carried(&self, request: Request<v1::CarriedRequest>) -> Answer<v1::CarriedResponse> {
        let since = wire::at_microseconds(request.into_inner().since_us);
        Ok(Response::new(self.0.carried_here(since).into()))
    }

    async fn ask_sidecar(&self, request: Request<v1::AskSidecarRequest>) -> Answer<v1::AskSidecarResponse> {
        self.0.ask_here(request.into_inner()).await.map(Response::new)
    }

    type TapStream = Watching;

    async fn tap(&self, request: Request<v1::TapRequest>) -> Answer<Watching> {
        self.0.tap_here(&request.into_inner()).map(Response::new)
    }
}
