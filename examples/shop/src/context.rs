//! What a service passes on from the request it serves to the requests it makes.

use http::{HeaderMap, HeaderName};
use tonic::metadata::MetadataMap;

/// Headers that join the hops of one request: W3C, B3, Jaeger, Datadog, X-Ray and the request id.
const PASSED_ON: [&str; 17] = [
    "traceparent",
    "tracestate",
    "baggage",
    "x-request-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "uber-trace-id",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-origin",
    "x-datadog-tags",
    "x-amzn-trace-id",
];

/// The trace context of the request being served.
#[derive(Debug, Clone, Default)]
pub(crate) struct Context(HeaderMap);

impl Context {
    /// Takes from a request what is to be passed on.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut passed = HeaderMap::new();
        for name in PASSED_ON.map(HeaderName::from_static) {
            for value in headers.get_all(&name) {
                passed.append(name.clone(), value.clone());
            }
        }
        Self(passed)
    }

    /// Adds it to a request's headers.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.append(name.clone(), value.clone());
        }
    }

    /// Puts it around a gRPC message.
    pub(crate) fn around<T>(&self, message: T) -> tonic::Request<T> {
        let metadata = MetadataMap::from_headers(self.0.clone());
        tonic::Request::from_parts(metadata, tonic::Extensions::default(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_headers_are_passed_on_and_no_others() {
        let mut served = HeaderMap::new();
        served.insert("traceparent", "00-a-b-01".parse().unwrap());
        served.append("tracestate", "x=1".parse().unwrap());
        served.append("tracestate", "y=2".parse().unwrap());
        served.insert("cookie", "secret".parse().unwrap());
        let context = Context::of(&served);

        let mut made = HeaderMap::new();
        context.write_to(&mut made);
        assert_eq!(made.get("traceparent").unwrap(), "00-a-b-01");
        assert_eq!(made.get_all("tracestate").iter().count(), 2);
        assert!(!made.contains_key("cookie"));
        assert_eq!(context.around(()).metadata().get("traceparent").unwrap(), "00-a-b-01");
    }
}
