//! policy test: changed documents against the requests that the traces tell of.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Status;
use weft_core::manifest::SourceFile;
use weft_core::model::QualifiedName;
use weft_core::rehearse::{Carried, Effect, rehearse};
use weft_proto::v1;

use super::{AdminService, namespace};
use crate::configuration::Rehearsal;
use crate::report::chain;
use crate::telemetry::{Span, SpanId, SpanKind};
use crate::together::{Asking, wire};

/// How far back it is looked where nothing is said.
const SINCE: Duration = Duration::from_mins(10);
/// Requests that differ; the others are only counted.
const MOST_KINDS: usize = 10_000;

impl AdminService {
    pub(super) async fn test_policy(
        &self,
        request: v1::TestPolicyRequest,
    ) -> Result<v1::TestPolicyResponse, Status> {
        let namespace = namespace(&request.namespace)?;
        let files: Vec<_> =
            request.files.iter().map(|file| SourceFile { name: &file.name, text: &file.text }).collect();
        let Rehearsal { outcome, worlds } = self.configuration.rehearse(&files, &namespace).await;
        let problem = |problem: weft_core::manifest::Problem| v1::Problem {
            file: problem.file,
            line: problem.line,
            message: problem.message,
            hint: problem.hint,
        };
        let mut response = v1::TestPolicyResponse {
            problems: outcome.problems.into_iter().map(problem).collect(),
            notes: outcome.notes,
            ..Default::default()
        };
        let Some((before, after)) = worlds else { return Ok(response) };
        let since = match request.since_ms {
            0 => SINCE,
            ms => Duration::from_millis(ms),
        };
        let now = SystemTime::now();
        let mut asking = self.together.asking();
        let carried = self.carried(&mut asking, now.checked_sub(since).unwrap_or(UNIX_EPOCH)).await;
        response.missing = asking.missing().words();
        response.requests = carried.kinds.values().sum::<u64>() + carried.nameless;
        response.kinds = u64::try_from(carried.kinds.len()).unwrap_or(u64::MAX);
        response.unknown = carried.nameless;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let compare = move || {
            let tried = carried.kinds.into_iter().map(|(kind, requests)| {
                let told = rehearse(&before, &after, &kind, now);
                (kind, requests, told)
            });
            tried.collect::<Vec<_>>()
        };
        let compared = tokio::task::spawn_blocking(compare).await;
        for (kind, requests, told) in compared.map_err(|error| Status::internal(chain(&error)))? {
            match told {
                Ok(Some(effect)) => response.effects.push(shown(kind, requests, effect)),
                Ok(None) => {}
                Err(_) => response.unknown += requests,
            }
        }
        response.effects.sort_by_key(|effect| std::cmp::Reverse(effect.requests));
        Ok(response)
    }

    /// The calls that all control planes were told of since then.
    async fn carried(&self, asking: &mut Asking<'_>, since: SystemTime) -> Gathered {
        let mut gathered = self.carried_here(since);
        let told = asking.each(|mut client| {
            let request = v1::CarriedRequest { since_us: wire::microseconds(since) };
            async move { client.carried(request).await }
        });
        told.await.into_iter().for_each(|told| gathered.add(told));
        gathered
    }

    /// The calls that we were told of since then.
    pub(crate) fn carried_here(&self, since: SystemTime) -> Gathered {
        let mut gathered = Gathered::default();
        self.telemetry.traces().each_since(since, |spans| gathered.take(spans));
        gathered
    }
}

/// The calls that traces tell of.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    kinds: BTreeMap<Carried, u64>,
    /// Of which it is not known who called whom.
    nameless: u64,
}

impl Gathered {
    /// Takes the calls of a trace: those that sidecars sent. Who called is known for certain where they came in.
    fn take(&mut self, spans: &[Span]) {
        let received: HashMap<SpanId, &Span> = spans
            .iter()
            .filter(|span| span.kind == SpanKind::Server)
            .filter_map(|span| Some((span.parent?, span)))
            .collect();
        for span in spans.iter().filter(|span| value(span, "weft.direction") == "outbound") {
            let caller = received.get(&span.id).map_or("", |received| value(received, "weft.source"));
            let caller = if caller.is_empty() { value(span, "weft.source") } else { caller };
            let service = value(span, "weft.destination");
            let (Ok(caller), Ok(service)) =
                (caller.parse::<QualifiedName>(), service.parse::<QualifiedName>())
            else {
                self.nameless += 1;
                continue;
            };
            let carried = Carried {
                caller,
                service,
                port: value(span, "server.port").parse().ok(),
                method: value(span, "http.request.method").to_owned(),
                path: value(span, "url.path").to_owned(),
            };
            self.count(carried, 1);
        }
    }

    /// Takes what another control plane was told of.
    fn add(&mut self, told: v1::CarriedResponse) {
        self.nameless = self.nameless.saturating_add(told.nameless);
        for kind in told.kinds {
            let v1::CarriedKind { caller, service, port, method, path, requests } = kind;
            let (Ok(caller), Ok(service)) = (caller.parse(), service.parse()) else { continue };
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            self.count(Carried { caller, service, port, method, path }, requests);
        }
    }

    fn count(&mut self, carried: Carried, requests: u64) {
        let count = if self.kinds.len() < MOST_KINDS || self.kinds.contains_key(&carried) {
            self.kinds.entry(carried).or_default()
        } else {
            &mut self.nameless
        };
        *count = count.saturating_add(requests);
    }
}

impl From<Gathered> for v1::CarriedResponse {
    fn from(gathered: Gathered) -> Self {
        let kind = |(kind, requests): (Carried, u64)| v1::CarriedKind {
            caller: kind.caller.to_string(),
            service: kind.service.to_string(),
            port: kind.port.unwrap_or_default().into(),
            method: kind.method,
            path: kind.path,
            requests,
        };
        Self { kinds: gathered.kinds.into_iter().map(kind).collect(), nameless: gathered.nameless }
    }
}

fn value<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.iter().find(|(own, _)| own == key).map_or("", |(_, value)| value)
}

fn shown(carried: Carried, requests: u64, effect: Effect) -> v1::PolicyEffect {
    v1::PolicyEffect {
        caller: carried.caller.to_string(),
        service: carried.service.to_string(),
        method: carried.method,
        path: carried.path,
        requests,
        was: effect.was,
        becomes: effect.becomes,
        effect: effect.kind.as_str().to_owned(),
        rule: effect.rule,
    }
}
