//! The access log: a line on stdout for each request, off unless `MeshConfig` turns it on.

use jiff::Timestamp;
use serde::Serialize;
use weft_core::model::AccessLog;

use super::record::Record;

/// The line of a request, without its end; none where it is not to be logged.
pub fn line(record: &Record) -> Option<String> {
    match record.log {
        AccessLog::Off => None,
        AccessLog::Json => serde_json::to_string(&Line::of(record)).ok(),
        AccessLog::Common => Some(common(record)),
    }
}

/// The fields, named and ordered as the contract says.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    direction: &'static str,
    source: &'a str,
    destination: &'a str,
    method: &'a str,
    authority: &'a str,
    path: &'a str,
    protocol: &'static str,
    status: Option<u16>,
    grpc_status: Option<u8>,
    error: Option<&'static str>,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    upstream: Option<String>,
    retries: u32,
    trace_id: String,
    tls: &'static str,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record) -> Self {
        Self {
            time: time(record).to_string(),
            direction: record.direction.as_str(),
            source: &record.source,
            destination: &record.destination,
            method: record.method.as_str(),
            authority: &record.authority,
            path: &record.path,
            protocol: record.protocol.as_str(),
            status: record.status,
            grpc_status: record.grpc_status,
            error: record.error.map(crate::failure::ErrorCode::as_str),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration_ms: (record.duration.as_secs_f64() * 1e6).round() / 1e3,
            upstream: record.upstream.map(|upstream| upstream.to_string()),
            retries: record.retries,
            trace_id: record.trace.trace.to_string(),
            tls: record.security.as_str(),
        }
    }
}

/// `host - - [time] "request" status bytes`, as web servers have written since NCSA's, and the trace after it.
fn common(record: &Record) -> String {
    let host = record.client.map_or_else(|| "-".to_owned(), |client| client.ip().to_canonical().to_string());
    let time = time(record).strftime("%d/%b/%Y:%H:%M:%S +0000");
    let protocol = if record.protocol == super::Spoken::Http1 { "HTTP/1.1" } else { "HTTP/2.0" };
    // A quote or a line end in the path must not forge a field or a line.
    let path = record.path.escape_default();
    let status = record.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let (method, bytes, trace) = (&record.method, record.bytes_out, record.trace.trace);
    format!("{host} - - [{time}] \"{method} {path} {protocol}\" {status} {bytes} {trace}")
}

fn time(record: &Record) -> Timestamp {
    Timestamp::try_from(record.started).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use weft_runtime::metrics::Registry;

    use super::super::{
        Direction, Observe, Party,
        tests::{TARGET, request},
    };
    use super::*;

    fn logged(form: AccessLog) -> Option<String> {
        let (observe, _queue) = Observe::new(&Registry::new());
        let web = Party::Named("default/web".parse().unwrap());
        let flow = observe.observer().flow(Direction::Outbound, web, Party::Unknown);
        line(&Record::of(&request(&flow, false), TARGET, form))
    }

    #[test]
    fn a_line_has_the_contracts_fields_in_order() {
        let expected = concat!(
            r#"{"time":"1970-01-01T00:00:00Z","direction":"outbound","source":"default/web","destination":"unknown","#,
            r#""method":"GET","authority":"orders:8080","path":"/orders/7","protocol":"http/1.1","status":200,"#,
            r#""grpc_status":null,"error":null,"bytes_in":1,"bytes_out":20,"duration_ms":3.0,"upstream":null,"#,
            r#""retries":0,"trace_id":"#
        );
        let line = logged(AccessLog::Json).unwrap();
        assert!(line.starts_with(expected) && line.ends_with(r#","tls":"mutual"}"#), "{line}");
        assert_eq!(logged(AccessLog::Off), None);
    }

    #[test]
    fn the_common_form_is_the_common_form() {
        let expected = r#"- - - [01/Jan/1970:00:00:00 +0000] "GET /orders/7 HTTP/1.1" 200 20 "#;
        let line = logged(AccessLog::Common).unwrap();
        let trace = line.strip_prefix(expected).unwrap_or_else(|| panic!("{line}"));
        assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
    }
}
