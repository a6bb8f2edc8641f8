//! OpenTelemetry's environment variables, as its specification has them ("Environment Variable Specification", "OpenTelemetry
//! Protocol Exporter"): what they say of this sidecar goes before what is said of the whole mesh.
//!
//! What is not understood is told of and left out, as the specification wants: many of them are set with the app in mind.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_core::model::{Ratio, TraceExport};
use weft_core::trace::formats::{Format, Formats};

use crate::http::trace::{OwnTracing, Parents, Sampler};
use crate::observe::Telemetry;

/// What is not said of a try.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a collector of Zipkin's is called where nothing else is said.
const ZIPKIN: &str = "http://localhost:9411/api/v2/spans";

/// What is posted to, below an address that is not one of traces alone.
const TRACES: &str = "/v1/traces";

/// What the variables say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Otel {
    /// Which traces are recorded, and in which formats they are told of.
    pub tracing: OwnTracing,
    /// A collector besides those that the mesh's settings name.
    pub collector: Option<Collector>,
    /// What our spans say of us besides, or before, what is known.
    pub resource: Vec<(String, String)>,
    /// Whether requests are counted and told of at all, where `WEFT_TELEMETRY` does not say it.
    pub telemetry: Telemetry,
    /// What was not understood.
    pub mistakes: Vec<String>,
}

/// A collector, and how it is spoken to.
#[derive(Debug, Clone, PartialEq)]
pub struct Collector {
    /// Where it is.
    pub export: TraceExport,
    /// What is spoken; none: the address tells.
    pub protocol: Option<Protocol>,
    /// What it is told with each batch.
    pub headers: HeaderMap,
    /// How batches are compressed; none: as is usual.
    pub compression: Option<Compression>,
    /// How long one try may take.
    pub timeout: Duration,
    /// Who is trusted to say who it is, a PEM file; none: those that the public trusts.
    pub certificate: Option<PathBuf>,
}

/// How OTLP is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// By gRPC.
    Grpc,
    /// By HTTP, in protobuf's form.
    Http,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
}

/// Reads the variables, and remembers what it does not understand.
struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl Otel {
    /// Of the environment.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut reader = Reader { variable, mistakes: Vec::new() };
        let tracing = OwnTracing { sampler: reader.sampler(), formats: reader.formats() };
        let collector = reader.collector();
        let mut resource = reader.pairs("OTEL_RESOURCE_ATTRIBUTES");
        if let Some(name) = reader.text("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        let telemetry = reader.telemetry();
        Self { tracing, collector, resource, telemetry, mistakes: reader.mistakes }
    }
}

impl Reader<'_> {
    /// A variable that is empty is as good as none.
    fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Of the exporter of traces, or else of all exporters: which of the two, and what it says.
    fn of_exporter(&self, what: &str) -> Option<(String, String)> {
        let names = ["TRACES_", ""].map(|of| format!("OTEL_EXPORTER_OTLP_{of}{what}"));
        names.into_iter().find_map(|name| Some((self.text(&name)?, name))).map(|(text, name)| (name, text))
    }

    fn mistake(&mut self, name: &str, text: &str, hint: &str) {
        self.mistakes.push(format!("{name}={text}: {hint}"));
    }

    /// Nothing but `true` turns it off, as the specification says.
    fn telemetry(&mut self) -> Telemetry {
        match self.text("OTEL_SDK_DISABLED") {
            Some(text) if text.eq_ignore_ascii_case("true") => return Telemetry::Off,
            Some(text) if !text.eq_ignore_ascii_case("false") => {
                self.mistake("OTEL_SDK_DISABLED", &text, "there are true and false");
            }
            _ => {}
        }
        Telemetry::On
    }

    fn sampler(&mut self) -> Option<Sampler> {
        let name = self.text("OTEL_TRACES_SAMPLER")?;
        let (kind, parents) = match name.strip_prefix("parentbased_") {
            Some(kind) => (kind, Parents::Heeded),
            None => (name.as_str(), Parents::Overruled),
        };
        let per_million = match kind {
            "always_on" => Ratio::WHOLE.per_million(),
            "always_off" => 0,
            "traceidratio" => self.ratio().per_million(),
            _ => {
                let hint =
                    "there are always_on, always_off, traceidratio, and each with parentbased_ before it";
                self.mistake("OTEL_TRACES_SAMPLER", &name, hint);
                return None;
            }
        };
        Some(Sampler { per_million, parents })
    }

    /// What is not said, or is no share, is the whole.
    fn ratio(&mut self) -> Ratio {
        let Some(text) = self.text("OTEL_TRACES_SAMPLER_ARG") else { return Ratio::WHOLE };
        text.parse().unwrap_or_else(|_| {
            self.mistake("OTEL_TRACES_SAMPLER_ARG", &text, "a number from 0 to 1 is expected, such as 0.25");
            Ratio::WHOLE
        })
    }

    fn formats(&mut self) -> Option<Formats> {
        let text = self.text("OTEL_PROPAGATORS")?;
        let mut formats = Formats::default();
        for name in text.split(',').map(str::trim) {
            match name {
                // The first is always written, the second never touched.
                "tracecontext" | "baggage" | "none" => {}
                "b3" => formats.insert(Format::B3Single),
                "b3multi" => formats.insert(Format::B3Multi),
                "jaeger" => formats.insert(Format::Jaeger),
                "xray" => formats.insert(Format::Xray),
                "ottrace" => formats.insert(Format::OpenTracing),
                "datadog" => formats.insert(Format::Datadog),
                _ => {
                    let hint = "there are tracecontext, baggage, b3, b3multi, jaeger, xray, ottrace, datadog and none";
                    self.mistake("OTEL_PROPAGATORS", name, hint);
                }
            }
        }
        Some(formats)
    }

    fn collector(&mut self) -> Option<Collector> {
        let exporter = self.text("OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".to_owned());
        let (export, protocol) = match exporter.as_str() {
            "none" => return None,
            "otlp" => self.otlp()?,
            "zipkin" => {
                let url = self.text("OTEL_EXPORTER_ZIPKIN_ENDPOINT").unwrap_or_else(|| ZIPKIN.to_owned());
                (TraceExport::Zipkin(url), None)
            }
            other => {
                self.mistake("OTEL_TRACES_EXPORTER", other, "there are otlp, zipkin and none");
                return None;
            }
        };
        Some(Collector {
            export,
            protocol,
            headers: self.headers(),
            compression: self.compression(),
            timeout: self.timeout(),
            certificate: self.of_exporter("CERTIFICATE").map(|(_, path)| path.into()),
        })
    }

    /// An address that is not one of traces alone is the one below which they have theirs, where HTTP is spoken.
    fn otlp(&mut self) -> Option<(TraceExport, Option<Protocol>)> {
        let (name, url) = self.of_exporter("ENDPOINT")?;
        let rest = match url.split_once("://") {
            Some(("http" | "https", rest)) if !rest.is_empty() => rest,
            _ => {
                self.mistake(&name, &url, "an address such as http://collector:4317 is expected");
                return None;
            }
        };
        let said = self.of_exporter("PROTOCOL");
        let protocol = match said.as_ref().map(|(_, text)| text.as_str()) {
            None => None,
            Some("grpc") => Some(Protocol::Grpc),
            Some("http/protobuf") => Some(Protocol::Http),
            Some(other) => {
                let name = said.as_ref().map(|(name, _)| name.as_str()).unwrap_or_default();
                self.mistake(name, other, "there are grpc and http/protobuf");
                None
            }
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let by_http = match protocol {
            Some(protocol) => protocol == Protocol::Http,
            None => !path.is_empty() || authority.ends_with(":4318"),
        };
        let is_of_traces = name.contains("TRACES");
        let url =
            if by_http && !is_of_traces { format!("{}{TRACES}", url.trim_end_matches('/')) } else { url };
        let found = if by_http { Protocol::Http } else { Protocol::Grpc };
        Some((TraceExport::Otlp(url), Some(found)))
    }

    fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some((name, _)) = self.of_exporter("HEADERS") else { return headers };
        for (key, value) in self.pairs(&name) {
            match (HeaderName::try_from(&key), HeaderValue::try_from(&value)) {
                (Ok(key), Ok(mut value)) => {
                    value.set_sensitive(true);
                    headers.append(key, value);
                }
                // What it says may be a secret.
                _ => self.mistake(&name, &key, "is no header"),
            }
        }
        headers
    }

    fn compression(&mut self) -> Option<Compression> {
        let (name, text) = self.of_exporter("COMPRESSION")?;
        match text.as_str() {
            "gzip" => Some(Compression::Gzip),
            "none" => Some(Compression::None),
            other => {
                self.mistake(&name, other, "there are gzip and none");
                None
            }
        }
    }

    fn timeout(&mut self) -> Duration {
        let Some((name, text)) = self.of_exporter("TIMEOUT") else { return TIMEOUT };
        match text.parse() {
            Ok(milliseconds @ 1..) => Duration::from_millis(milliseconds),
            _ => {
                self.mistake(&name, &text, "a number of milliseconds is expected, such as 10000");
                TIMEOUT
            }
        }
    }

    /// `KEY=VALUE,..`, the values with percent signs where something cannot stand for itself (W3C Baggage, section 3.2).
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let Some(text) = self.text(name) else { return Vec::new() };
        let mut pairs = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    pairs.push((unescape(key.trim()), unescape(value.trim())));
                }
                _ => self.mistake(name, "..", "KEY=VALUE,KEY=VALUE is expected"),
            }
        }
        pairs
    }
}

/// What stands behind percent signs; what is none stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().and_then(|digits| str::from_utf8(digits).ok());
        let escaped =
            digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = escaped.and_then(|_| after.get(2..)).unwrap_or(after);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Otel {
        Otel::read(&|name| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn nothing_but_true_turns_everything_off() {
        for (text, telemetry, mistakes) in [
            ("true", Telemetry::Off, 0),
            ("TRUE", Telemetry::Off, 0),
            ("false", Telemetry::On, 0),
            ("", Telemetry::On, 0),
            ("1", Telemetry::On, 1),
        ] {
            let found = read(&[("OTEL_SDK_DISABLED", text)]);
            assert_eq!((found.telemetry, found.mistakes.len()), (telemetry, mistakes), "{text}");
        }
    }

    fn check_sampler(name: &str, argument: &str, expected: Option<(u32, Parents)>) {
        let found = read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
        let sampler = expected.map(|(per_million, parents)| Sampler { per_million, parents });
        assert_eq!(found.tracing.sampler, sampler, "{name} {argument}");
        assert_eq!(found.mistakes.is_empty(), expected.is_some() && argument != "2", "{:?}", found.mistakes);
    }

    #[test]
    fn what_is_not_set_or_empty_says_nothing() {
        assert_eq!(read(&[]), Otel::default());
        assert_eq!(
            read(&[("OTEL_TRACES_SAMPLER", " "), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")]),
            Otel::default()
        );
    }

    #[test]
    fn samplers_heed_parents_where_their_name_says_so() {
        check_sampler("always_on", "", Some((1_000_000, Parents::Overruled)));
        check_sampler("always_off", "", Some((0, Parents::Overruled)));
        check_sampler("traceidratio", "0.25", Some((250_000, Parents::Overruled)));
        check_sampler("parentbased_always_on", "0.1", Some((1_000_000, Parents::Heeded)));
        check_sampler("parentbased_always_off", "", Some((0, Parents::Heeded)));
        check_sampler("parentbased_traceidratio", "0.01", Some((10_000, Parents::Heeded)));
        check_sampler("parentbased_traceidratio", "", Some((1_000_000, Parents::Heeded)));
        check_sampler("traceidratio", "2", Some((1_000_000, Parents::Overruled)));
        check_sampler("jaeger_remote", "", None);
    }

    #[test]
    fn an_address_says_what_is_spoken_and_what_is_posted_to() {
        let check = |variables: &[(&str, &str)], url: &str, protocol: Protocol| {
            let found = read(variables);
            let collector = found.collector.unwrap_or_else(|| panic!("{variables:?} {:?}", found.mistakes));
            let expected = (TraceExport::Otlp(url.to_owned()), Some(protocol));
            assert_eq!((collector.export, collector.protocol), expected, "{variables:?}");
            assert_eq!(found.mistakes, [""; 0]);
        };
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
        check(&[(ALL, "http://c:4317")], "http://c:4317", Protocol::Grpc);
        check(&[(ALL, "http://c")], "http://c", Protocol::Grpc);
        check(&[(ALL, "http://c:4318")], "http://c:4318/v1/traces", Protocol::Http);
        check(&[(ALL, "https://c:443/otlp/")], "https://c:443/otlp/v1/traces", Protocol::Http);
        check(&[(ALL, "http://c:9"), (PROTOCOL, "http/protobuf")], "http://c:9/v1/traces", Protocol::Http);
        check(&[(ALL, "http://c:4318"), (PROTOCOL, "grpc")], "http://c:4318", Protocol::Grpc);
        check(&[(OWN, "http://c:4318/own"), (ALL, "http://d")], "http://c:4318/own", Protocol::Http);
        let own =
            [(OWN, "http://c"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"), (PROTOCOL, "grpc")];
        check(&own, "http://c", Protocol::Http);
        for (variables, mistakes) in [
            (&[(ALL, "c:4317")][..], 1),
            (&[(ALL, "http://c"), ("OTEL_TRACES_EXPORTER", "none")], 0),
            (&[("OTEL_TRACES_EXPORTER", "console")], 1),
        ] {
            let found = read(variables);
            assert_eq!((found.collector, found.mistakes.len()), (None, mistakes), "{variables:?}");
        }
        let zipkin = read(&[("OTEL_TRACES_EXPORTER", "zipkin")]).collector.unwrap();
        assert_eq!(zipkin.export, TraceExport::Zipkin(ZIPKIN.to_owned()));
    }

    #[test]
    fn a_collector_is_told_what_the_variables_say() {
        let found = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x-team = mesh,broken"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ]);
        let collector = found.collector.unwrap();
        assert_eq!(
            (&collector.headers["api-key"], &collector.headers["x-team"]),
            (&"a b".parse().unwrap(), &"mesh".parse().unwrap())
        );
        assert_eq!(
            (collector.compression, collector.timeout),
            (Some(Compression::Gzip), Duration::from_millis(2500))
        );
        assert_eq!(collector.certificate, Some("/ca.pem".into()));
        assert_eq!(found.mistakes.len(), 1);
        assert!(
            !format!("{:?} {:?}", collector.headers, found.mistakes).contains("a b"),
            "it may be a secret"
        );
    }

    #[test]
    fn who_we_are_and_which_headers_are_written_is_read_too() {
        let found = read(&[
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment=a%2Cb%zz"),
            ("OTEL_PROPAGATORS", "tracecontext,baggage,b3multi, datadog,morse"),
        ]);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(found.resource, [pair("deployment.environment", "a,b%zz"), pair("service.name", "shop")]);
        let formats: Vec<Format> = found.tracing.formats.unwrap().iter().collect();
        assert_eq!(formats, [Format::B3Multi, Format::Datadog]);
        assert_eq!(found.mistakes.len(), 1);
    }
}
