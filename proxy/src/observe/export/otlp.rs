//! OTLP: the request, the call over gRPC, and what an answer means.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::Who;
use super::address::{Address, AddressError};
use super::courier::{Outcome, Terms};
use crate::config::otel::Compression;
use crate::observe::wire::{ExportRequest, ResourceSpans, ScopeSpans};

/// OpenTelemetry's method that takes spans.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A collector that is called.
#[derive(Debug)]
pub(super) struct Calls {
    channel: Channel,
    terms: Terms,
}

impl Calls {
    /// Connects when it is first used.
    pub(super) fn new(address: Address, terms: Terms) -> Result<Self, AddressError> {
        Ok(Self { channel: channel(address)?, terms })
    }

    /// Sends a batch.
    pub(super) async fn send(&self, request: ExportRequest) -> Result<Outcome, Status> {
        call(self.channel.clone(), request, &self.terms).await
    }
}

fn channel(address: Address) -> Result<Channel, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{}", address.authority()))?;
    let connector = service_fn(move |_| {
        let address = address.clone();
        async move { address.connect().await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_timeout(CONNECT_LIMIT).connect_with_connector_lazy(connector))
}

/// A batch, and who reports it.
pub(super) fn request(batch: &[Bytes], who: &Who) -> ExportRequest {
    let scope = InstrumentationScope {
        name: "weft-proxy".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    ExportRequest {
        resource_spans: Some(ResourceSpans {
            resource: Some(Resource { attributes: resource(who), ..Resource::default() }),
            scope_spans: Some(ScopeSpans { scope: Some(scope), spans: batch.to_vec() }),
        }),
    }
}

/// What is known of us, and what our environment says besides or instead.
fn resource(who: &Who) -> Vec<KeyValue> {
    let (service, namespace) = who.service();
    let known = [
        ("service.name", Some(service.as_str())),
        ("service.instance.id", Some(who.workload.as_str())),
        ("service.namespace", namespace.as_deref()),
    ];
    let is_said = |key: &str| who.resource.iter().any(|(said, _)| said == key);
    let known = known.into_iter().filter(|(key, _)| !is_said(key));
    let known = known.filter_map(|(key, value)| Some(text(key, value?)));
    known.chain(who.resource.iter().map(|(key, value)| text(key, value))).collect()
}

/// Sends a batch.
pub(super) async fn call(channel: Channel, request: ExportRequest, terms: &Terms) -> Result<Outcome, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    if terms.compression == Some(Compression::Gzip) {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<ExportRequest, ExportTraceServiceResponse>::default();
    let mut request = Request::new(request);
    *request.metadata_mut() = MetadataMap::from_headers(terms.headers.clone());
    let answer = client.unary(request, PathAndQuery::from_static(EXPORT), codec).await?;
    Ok(Outcome::Taken { refused: rejected(answer.into_inner()) })
}

/// What a failed call means.
pub(super) fn failed(status: &Status) -> Outcome {
    let after = retry_delay(status.details());
    let is_temporary = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // The receiver has too much to do for now where it says until when, and for good where not.
        Code::ResourceExhausted => after.is_some(),
        _ => false,
    };
    let why = status.to_string();
    if is_temporary { Outcome::Later { after, why } } else { Outcome::Refused(why) }
}

/// How many spans the answer to a request over HTTP says were not wanted. They are not sent again.
pub(super) fn refused(answer: Bytes) -> u64 {
    ExportTraceServiceResponse::decode(answer).map(rejected).unwrap_or_default()
}

fn rejected(answer: ExportTraceServiceResponse) -> u64 {
    let partial = answer.partial_success.unwrap_or_default();
    u64::try_from(partial.rejected_spans).unwrap_or_default()
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// `google.rpc.Status`, as far as it matters here.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn retry_delay(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(details).ok()?.details;
    let info = details.into_iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let Delay { seconds, nanos } = RetryInfo::decode(info.value).ok()?.delay.unwrap_or_default();
    Some(Duration::new(seconds.try_into().ok()?, u32::try_from(nanos).ok()?.min(999_999_999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_receiver_is_asked_again_when_it_says_when() {
        let delay = Some(Delay { seconds: 3, nanos: 500_000_000 });
        let info = RetryInfo { delay }.encode_to_vec().into();
        let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info };
        let details = Bytes::from(Details { details: vec![any] }.encode_to_vec());
        let status = Status::with_details(Code::ResourceExhausted, "busy", details);
        let Outcome::Later { after, .. } = failed(&status) else { panic!("not to be tried again") };
        assert_eq!(after, Some(Duration::from_millis(3500)));
        assert!(matches!(failed(&Status::resource_exhausted("no")), Outcome::Refused(_)));
    }

    #[test]
    fn codes_are_told_apart_as_the_specification_says() {
        for code in 1..17 {
            let is_temporary = matches!(failed(&Status::new(Code::from(code), "")), Outcome::Later { .. });
            assert_eq!(is_temporary, [1, 4, 10, 11, 14, 15].contains(&code), "{code}");
        }
    }
}
