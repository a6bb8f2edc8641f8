//! why: which hop of a trace failed or took the time, which rule decides about such a call, and what to do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Status;
use weft_core::compile;
use weft_core::explain::{self, Question, RequestAsked, TokenAsked};
use weft_core::model::QualifiedName;
use weft_core::why::{self, Finding, Hop, Verdict};
use weft_proto::v1;

use super::AdminService;
use crate::telemetry::{Span, SpanKind};

impl AdminService {
    pub(super) async fn why(&self, request: v1::WhyRequest) -> Result<v1::WhyResponse, Status> {
        let (id, spans, missing) = self.trace_of(&request.trace_id).await?;
        let hops: Vec<Hop> = spans.iter().map(hop).collect();
        let found = why::find(&hops);
        let decisive = found.as_ref().and_then(|found| spans.get(found.decisive));
        let (Some(finding), Some(span)) = (found, decisive) else {
            return Err(Status::not_found("the trace has no spans"));
        };
        let mut told = Told::of(span);
        // What callers write behind the name may be a port that is none of the service's.
        if !self.takes(&told) {
            told.port = "";
        }
        let own = |place: usize| Duration::from_micros(finding.own_us.get(place).copied().unwrap_or(0));
        let shown = spans.iter().enumerate().map(|(place, span)| shown(span, own(place)));
        Ok(v1::WhyResponse {
            trace_id: id.to_string(),
            verdict: finding.verdict.as_str().to_owned(),
            headline: headline(&finding, &spans, &told, own(finding.decisive)),
            hops: shown.collect(),
            decisive_span: span.id.to_string(),
            code: told.code.to_owned(),
            rule: ruled(&told, self.rule(&told)),
            advice: advice(finding.verdict, &told, &id.to_string()),
            missing,
        })
    }

    fn takes(&self, told: &Told<'_>) -> bool {
        let (Ok(service), Ok(port)) = (told.service.parse(), told.port.parse()) else { return false };
        self.world.read(|known| compile::service(known, &service)).is_some_and(|known| known.takes(port))
    }

    /// What decides about such a call now, of what its error is about.
    fn rule(&self, told: &Told<'_>) -> Option<String> {
        let stage = match told.code {
            "denied" | "unauthenticated" => "access",
            "no-route" | "bad-request" => "route",
            "no-backend" => "backend",
            "no-endpoints" => "endpoints",
            "fault-injected" => "faults",
            "timeout" | "connect-timeout" | "circuit-open" | "queue-full" => "traffic",
            _ => return None,
        };
        let caller: QualifiedName = told.caller.parse().ok()?;
        let service: QualifiedName = told.service.parse().ok()?;
        let asked =
            RequestAsked { method: told.method.to_owned(), path: told.path.to_owned(), headers: Vec::new() };
        let question = Question {
            namespace: &caller.namespace,
            account: &caller.name,
            to: &format!("{}.{}{}", service.name, service.namespace, told.port()),
            request: (!told.method.is_empty()).then_some(asked),
            now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            token: TokenAsked::Unknown,
        };
        let explained = self.world.read(|known| explain::explain(known, &question)).ok()?;
        let of_stage = || explained.steps.iter().filter(|step| step.stage == stage);
        let step = of_stage().rfind(|step| !step.source.is_empty()).or_else(|| of_stage().next_back())?;
        Some(match step.source.as_str() {
            "" => step.text.clone(),
            source => format!("{source}: {}", step.text),
        })
    }
}

/// Which attribute names the policy that is why, for what the mesh said, and of which kind it is.
const POLICIES: [(&str, &str, &str); 3] = [
    ("denied", "weft.authorization.policy", "AuthorizationPolicy"),
    ("rate-limited", "weft.rate_limit.policy", "RateLimit"),
    ("fault-injected", "weft.fault.policy", "FaultInjection"),
];

/// The policy that was why, and what decides about such a call now, where that is another.
fn ruled(told: &Told<'_>, now: Option<String>) -> String {
    let Some((kind, name)) = told.policy else { return now.unwrap_or_default() };
    let then = format!("{kind} {name}");
    match now {
        None => then,
        Some(now) if now.contains(&then) => now,
        Some(now) => format!("{then}; now {now}"),
    }
}

/// What a span says of its call.
struct Told<'a> {
    caller: &'a str,
    service: &'a str,
    method: &'a str,
    path: &'a str,
    port: &'a str,
    status: &'a str,
    /// What the mesh said; empty: nothing.
    code: &'a str,
    kind: SpanKind,
    /// The policy that was why, as the sidecar told it: its kind, and its name. None: it told of none.
    policy: Option<(&'static str, &'a str)>,
}

impl<'a> Told<'a> {
    fn of(span: &'a Span) -> Self {
        let value = |key: &str| {
            span.attributes.iter().find(|(own, _)| own == key).map_or("", |(_, value)| value.as_str())
        };
        let or = |text: &'a str, other: &'a str| if text.is_empty() { other } else { text };
        Self {
            caller: or(value("weft.source"), "unknown"),
            service: or(value("weft.destination"), &span.service),
            method: value("http.request.method"),
            path: value("url.path"),
            port: value("server.port"),
            status: or(value("rpc.response.status_code"), value("http.response.status_code")),
            code: code(span),
            kind: span.kind,
            policy: POLICIES.iter().find_map(|(of, key, kind)| {
                let name = value(key);
                (*of == code(span) && !name.is_empty()).then_some((*kind, name))
            }),
        }
    }

    fn port(&self) -> String {
        if self.port.is_empty() { String::new() } else { format!(":{}", self.port) }
    }

    /// What was asked, or what a span of a program of its own calls itself.
    fn what(&self, name: &'a str) -> String {
        if self.method.is_empty() { name.to_owned() } else { format!("{} {}", self.method, self.path) }
    }
}

/// What the mesh said, as far as this version knows it.
fn code(span: &Span) -> &str {
    let said = |key: &str| span.attributes.iter().find(|(own, _)| own == key).map(|(_, value)| value);
    let value = said("weft.error").or_else(|| said("error.type")).map_or("", String::as_str);
    if why::advice(value).is_some() { value } else { "" }
}

/// A span as core looks at it.
pub(crate) fn hop(span: &Span) -> Hop {
    let micros = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    };
    Hop {
        id: u64::from_be_bytes(span.id.0),
        parent: span.parent.map(|parent| u64::from_be_bytes(parent.0)),
        start_us: micros(span.start),
        end_us: micros(span.end()),
        failed: span.error,
        code: code(span).to_owned(),
    }
}

fn shown(span: &Span, own: Duration) -> v1::WhyHop {
    let told = Told::of(span);
    let outcome = match (told.code, told.status) {
        ("", "") if span.error => "failed".to_owned(),
        ("", status) => status.to_owned(),
        (code, "") => code.to_owned(),
        (code, status) => format!("{status} {code}"),
    };
    v1::WhyHop {
        span_id: span.id.to_string(),
        caller: told.caller.to_owned(),
        service: told.service.to_owned(),
        what: told.what(&span.name),
        duration_ms: milliseconds(span.duration),
        own_ms: milliseconds(own),
        outcome,
    }
}

fn headline(finding: &Finding, spans: &[Span], told: &Told<'_>, own: Duration) -> String {
    let name = spans.get(finding.decisive).map_or("", |span| span.name.as_str());
    let (what, caller, service) = (told.what(name), told.caller, told.service);
    let whole = spans.iter().map(Span::end).max().zip(spans.iter().map(|span| span.start).min());
    let whole = whole.and_then(|(end, start)| end.duration_since(start).ok()).unwrap_or_default();
    let well = if finding.verdict == Verdict::Recovered { "; another try went well" } else { "" };
    match (finding.verdict, why::advice(told.code)) {
        (Verdict::Worked, _) => format!(
            "nothing failed; of {:.1} ms in all, {:.1} ms went by in {service} with {what}",
            milliseconds(whole),
            milliseconds(own)
        ),
        (_, Some((means, _))) => {
            format!("{what} from {caller} to {service}: {}: {means}{well}", told.code)
        }
        (_, None) if told.status.is_empty() => format!("{what} from {caller} to {service} failed{well}"),
        (_, None) => format!("{service} answered {} to {what} from {caller}{well}", told.status),
    }
}

fn advice(verdict: Verdict, told: &Told<'_>, id: &str) -> Vec<String> {
    let name = |label: &str| match label.split_once('/') {
        Some((namespace, name)) => format!("{name}.{namespace}"),
        None => label.to_owned(),
    };
    let mut advice = Vec::new();
    match why::advice(told.code) {
        Some((_, does)) => {
            advice.push(does.to_owned());
            advice.push(format!("docs/errors.md#{} has the likeliest causes", told.code));
        }
        None if verdict != Verdict::Worked && told.kind == SpanKind::Server => {
            advice.push(format!("the app of {} answered so itself: see its log at that time", told.service));
        }
        None if verdict != Verdict::Worked => {
            advice
                .push(format!("nothing is known from within {}: see its log, and weft status", told.service));
        }
        None => advice.push(format!("weft trace {id} shows when each of them ran")),
    }
    if verdict != Verdict::Worked && told.caller.contains('/') && !told.method.is_empty() {
        advice.push(format!(
            "weft explain --from {} --to {}{} {} {}",
            name(told.caller),
            name(told.service),
            told.port(),
            told.method,
            told.path
        ));
    }
    advice
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
