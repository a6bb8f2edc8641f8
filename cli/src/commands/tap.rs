//! `weft tap`: requests as they pass.

use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Format, Reader, harmless, shorten};
use crate::target::Target;
use crate::time::milliseconds;

/// Show requests to a service as they pass, until Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft tap orders
  weft tap orders --status 5xx                     only what fails
  weft tap orders --method POST --path '/orders/*' --from web
  weft tap orders -o json | jq .duration_ms        one object a line

Each request is shown once, when it has ended: by its caller's sidecar, or, where the caller
has none, by the service's own. What it carries is not shown: no query, no header, no body.
A sidecar tells of 1,000 requests a second at most; what is left out is counted.")]
pub(crate) struct Arguments {
    /// The service: NAME or NAME.NAMESPACE
    service: String,
    /// Only requests with this method
    #[arg(long)]
    method: Option<String>,
    /// Only requests of this path; with a * at its end, of those that begin so
    #[arg(long)]
    path: Option<String>,
    /// Only requests of this service account: NAME or NAME.NAMESPACE
    #[arg(long, value_name = "ACCOUNT")]
    from: Option<String>,
    /// Only responses with this status, or of this class: 503, 5xx
    #[arg(long)]
    status: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::TapRequest {
        namespace: common.namespace.to_string(),
        service: arguments.service.clone(),
        from: arguments.from.unwrap_or_default(),
        method: arguments.method.unwrap_or_default(),
        path: arguments.path.unwrap_or_default(),
        status: arguments.status.unwrap_or_default(),
    };
    let mut seen = answer(admin.tap(request).await)?;
    output::progress(&format!("requests to {} are shown as they end; Ctrl-C ends it", arguments.service));
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let next = seen.message().await.map_err(|status| client::explain(&status))?;
        let Some(next) = next else { break };
        output::missing(&next.missing)?;
        let Some(request) = Request::of(next) else { continue };
        left -= 1;
        let line = match common.output {
            Format::Json => serde_json::to_string(&request)? + "\n",
            Format::Yaml => output::yaml_document(&serde_json::to_value(&request)?),
            Format::Table | Format::Wide => request.line(common.output, output::room()),
        };
        if output::stream(&line)? == Reader::Gone {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A request that has passed.
#[derive(Debug, Serialize)]
struct Request {
    time: String,
    service: String,
    caller: String,
    method: String,
    authority: String,
    path: String,
    route: String,
    protocol: String,
    status: Option<u32>,
    grpc_status: Option<u32>,
    error: Option<String>,
    duration_ms: f64,
    retries: u32,
    upstream: String,
    tls: String,
    trace_id: String,
    /// Whose sidecar saw it.
    workload: String,
    /// Requests that were not told of since the last one.
    left_out: u64,
}

impl Request {
    fn of(seen: v1::TapSeen) -> Option<Self> {
        let v1::TapSeen { event, workload, left_out, missing: _ } = seen;
        let event = event?;
        let time = i64::try_from(event.ended_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
        #[expect(clippy::cast_precision_loss, reason = "exact for hundreds of years")]
        let duration_ms = event.duration_us as f64 / 1000.0;
        Some(Self {
            time: time.unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
            service: event.service,
            caller: event.caller,
            method: event.method,
            authority: event.authority,
            path: event.path,
            route: event.route,
            protocol: event.protocol,
            status: (event.status > 0).then_some(event.status),
            grpc_status: event.grpc_status,
            error: Some(event.error).filter(|error| !error.is_empty()),
            duration_ms,
            retries: event.retries,
            upstream: event.upstream,
            tls: event.tls,
            trace_id: event.trace_id,
            workload,
            left_out,
        })
    }

    fn line(&self, format: Format, room: Option<usize>) -> String {
        let clock = self.time.get(11..23).unwrap_or(&self.time);
        let caller = self.caller.split_once('/').map_or(self.caller.as_str(), |(_, name)| name);
        let status = match (self.status, self.grpc_status) {
            (_, Some(code)) => format!("grpc {code}"),
            (Some(status), None) => status.to_string(),
            (None, None) => "gone".to_owned(),
        };
        let (caller, method, path) = (harmless(caller), harmless(&self.method), harmless(&self.path));
        let mut rest = format!(" -> {status} in {}", milliseconds(self.duration_ms));
        if let Some(error) = &self.error {
            rest += &format!(" {}", harmless(error));
        }
        if self.retries > 0 {
            rest += &format!(" after {} retries", self.retries);
        }
        if self.tls != "mutual" {
            rest += " without mTLS";
        }
        if format == Format::Wide {
            let route = if self.route.is_empty() { "-" } else { &self.route };
            rest += &format!(
                " route {} to {} trace {} seen by {}",
                harmless(route),
                harmless(&self.upstream),
                harmless(&self.trace_id),
                harmless(&self.workload)
            );
        }
        if self.left_out > 0 {
            rest += &format!(" ({} left out before)", self.left_out);
        }
        let Some(room) = room.filter(|_| format == Format::Table) else {
            return format!("{clock} {caller} {method} {path}{rest}\n");
        };
        // Who and where from have what the rest leaves; the path more of it, for it says more.
        let left = room.saturating_sub(clock.len() + method.chars().count() + rest.chars().count() + 3);
        let caller = shorten(&caller, (left / 3).max(left.saturating_sub(path.chars().count())).max(4));
        let path = shorten(&path, left.saturating_sub(caller.chars().count()).max(8));
        format!("{clock} {caller} {method} {path}{rest}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut v1::TapEvent)) -> Request {
        let mut event = v1::TapEvent {
            ended_us: 1_000_000_123_456_789,
            duration_us: 3_400,
            caller: "default/web".into(),
            service: "default/orders".into(),
            method: "GET".into(),
            authority: "orders:8080".into(),
            path: "/orders/7".into(),
            protocol: "http/1.1".into(),
            status: 200,
            tls: "mutual".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            ..Default::default()
        };
        change(&mut event);
        let workload = "default/web-1".into();
        let seen = v1::TapSeen { event: Some(event), workload, ..Default::default() };
        Request::of(seen).unwrap()
    }

    #[test]
    fn a_line_says_who_asked_what_and_what_became_of_it() {
        let check = |change: &dyn Fn(&mut v1::TapEvent), expected| {
            assert_eq!(request(change).line(Format::Table, None), expected);
        };
        check(&|_| {}, "01:48:43.456 web GET /orders/7 -> 200 in 3.4ms\n");
        check(
            &|event| (event.status, event.retries, event.error) = (503, 2, "no-endpoints".into()),
            "01:48:43.456 web GET /orders/7 -> 503 in 3.4ms no-endpoints after 2 retries\n",
        );
        check(
            &|event| (event.grpc_status, event.tls) = (Some(14), "none".into()),
            "01:48:43.456 web GET /orders/7 -> grpc 14 in 3.4ms without mTLS\n",
        );
        check(
            &|event| (event.status, event.path) = (0, "/\u{1b}[2J\n".into()),
            "01:48:43.456 web GET /\\u{1b}[2J\\n -> gone in 3.4ms\n",
        );
    }

    #[test]
    fn a_line_fits_its_terminal() {
        let long = request(|event| {
            event.caller = "default/recommendations-for-returning-customers".into();
            event.path = format!("/orders/{}/items", "7".repeat(90));
            event.error = "connect-failed".into();
        });
        let line = long.line(Format::Table, Some(80));
        assert_eq!(line.trim_end().chars().count(), 80, "{line}");
        assert!(line.starts_with("01:48:43.456 reco") && line.contains("mers GET /orders/7"), "{line}");
        assert!(line.ends_with("7/items -> 200 in 3.4ms connect-failed\n"), "{line}");
        assert!(long.line(Format::Wide, Some(80)).contains(&"7".repeat(90)), "-o wide says all");
    }

    #[test]
    fn a_request_is_an_object_a_line() {
        let text = serde_json::to_string(&request(|_| {})).unwrap();
        assert!(text.starts_with(r#"{"time":"2001-09-09T01:48:43.456789Z","service":"default/orders","caller":"default/web","method":"GET","#), "{text}");
        assert!(text.ends_with(r#""workload":"default/web-1","left_out":0}"#), "{text}");
    }
}
