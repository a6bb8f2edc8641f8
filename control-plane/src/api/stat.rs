//! stat, and the service graph.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tonic::Status;
use weft_core::compile;
use weft_core::model::{Name, QualifiedName};
use weft_proto::v1;

use super::{AdminService, namespace, qualified};
use crate::status::{Known, PlaintextCaller, Which};
use crate::telemetry::{By, Counted, Of, Query, Tally};

/// The time that is looked at where none is given.
const WINDOW: Duration = Duration::from_mins(1);
/// And at least.
const SHORTEST: Duration = Duration::from_secs(5);
/// And at most: what there is.
const LONGEST: Duration = Duration::from_hours(6);

impl AdminService {
    pub(super) async fn stat(&self, request: v1::StatRequest) -> Result<v1::StatResponse, Status> {
        let default = namespace(&request.namespace)?;
        let service = match request.service.as_str() {
            "" => None,
            text => Some(qualified("service", text, &default)?),
        };
        if let Some(service) = &service {
            self.knows(service)?;
        }
        let from = match request.from.as_str() {
            "" => None,
            text => Some(qualified("service account", text, &default)?.to_string()),
        };
        let by = by(&request.by, from.as_deref())?;
        let mut asking = self.together.asking();
        let counted = self.counted(&mut asking, window(request.window_ms), by).await;
        let elsewhere = self.elsewhere(&mut asking, Which::WithPlaintext).await;
        let wanted = |of: &Of| match &service {
            Some(service) => *of.service == service.to_string(),
            None => request.all_namespaces || belongs(of, &default, from.as_deref()),
        };
        let rows = counted.sums.iter().filter(|(of, _)| wanted(of));
        let rows = rows.filter(|(of, _)| from.as_ref().is_none_or(|from| **from == *of.caller));
        let rows = rows.map(|(of, tally)| self.row(of, tally, &counted, &elsewhere)).collect();
        let window_ms = u64::try_from(counted.over.as_millis()).unwrap_or(u64::MAX);
        Ok(v1::StatResponse { rows, window_ms, missing: asking.missing().words() })
    }

    pub(super) async fn graph(&self, request: v1::GraphRequest) -> Result<v1::GraphResponse, Status> {
        let mut asking = self.together.asking();
        let counted = self.counted(&mut asking, window(request.window_ms), By::Caller).await;
        let edge = |(of, tally): (&Of, &Tally)| v1::GraphEdge {
            caller: of.caller.to_string(),
            service: of.service.to_string(),
            rps: tally.rps(counted.over),
            success_rate: tally.success_rate(),
            p99_ms: tally.quantile_ms(0.99),
            mtls_rate: tally.mtls_rate(),
        };
        let edges = counted.sums.iter().map(edge).collect();
        Ok(v1::GraphResponse { edges, missing: asking.missing().words() })
    }

    /// Whether there is such a service at all.
    pub(super) fn knows(&self, service: &QualifiedName) -> Result<(), Status> {
        if self.world.read(|known| known.has_service(service)) {
            return Ok(());
        }
        let names = self.world.read(|known| known.service_names());
        let elsewhere = names.iter().find(|other| other.name == service.name);
        let hint = match elsewhere {
            Some(other) => format!("did you mean {}.{}?", other.name, other.namespace),
            None => "weft get services -A lists those that there are".to_owned(),
        };
        Err(Status::not_found(format!("there is no Service {service}; {hint}")))
    }

    /// What our sidecars counted in a time until now.
    pub(crate) fn counted_here(&self, now: SystemTime, window: Duration, by: By) -> Counted {
        let known = self.accounts();
        self.telemetry.golden().sum(&Query { now, window, by, known: &known })
    }

    /// What was asked of a service according to our sidecars, step by step.
    pub(crate) fn course_here(
        &self,
        service: &str,
        now: SystemTime,
        window: Duration,
        step: Duration,
    ) -> Vec<Option<Tally>> {
        let known = self.accounts();
        let (window, step) = (window.min(LONGEST), step.max(SHORTEST));
        self.telemetry.golden().series(service, step, &Query { now, window, by: By::Service, known: &known })
    }

    /// The accounts of all sidecars.
    fn accounts(&self) -> HashSet<String> {
        let account = |identity: &weft_core::model::SpiffeId| {
            identity.service_account().map(|(namespace, account)| format!("{namespace}/{account}"))
        };
        self.world
            .read(|known| known.registrations().filter_map(|workload| account(&workload.identity)).collect())
    }

    fn row(
        &self,
        of: &Of,
        tally: &Tally,
        counted: &Counted,
        elsewhere: &HashMap<QualifiedName, Known>,
    ) -> v1::StatRow {
        let (namespace, service) = of.service.split_once('/').unwrap_or(("", &*of.service));
        let (circuits_open, half_open) = counted.circuits(&of.service, &of.caller);
        let circuit = match (circuits_open, half_open) {
            (0, false) => "closed",
            (0, true) => "half-open",
            _ => "open",
        };
        v1::StatRow {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            route: of.route.to_string(),
            caller: relative(&of.caller, namespace),
            requests: tally.requests(),
            rps: tally.rps(counted.over),
            success_rate: tally.success_rate(),
            p50_ms: tally.quantile_ms(0.5),
            p95_ms: tally.quantile_ms(0.95),
            p99_ms: tally.quantile_ms(0.99),
            retries: tally.retries(),
            circuit: circuit.to_owned(),
            circuits_open,
            mtls_rate: tally.mtls_rate(),
            plaintext: match &*of.caller {
                "" | "unknown" => self.plaintext_callers(&of.service, counted.over, elsewhere),
                _ => Vec::new(),
            },
        }
    }

    /// Who was let in to a service without an identity, within a time until now.
    fn plaintext_callers(
        &self,
        service: &str,
        window: Duration,
        elsewhere: &HashMap<QualifiedName, Known>,
    ) -> Vec<v1::PlaintextHeard> {
        let Ok(service) = service.parse() else { return Vec::new() };
        let endpoints = self.world.read(|known| compile::endpoints(known, &service)).unwrap_or_default();
        let begin = SystemTime::now().checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut latest: BTreeMap<(IpAddr, u16), PlaintextCaller> = BTreeMap::new();
        for endpoint in &endpoints {
            let serves =
                |port| endpoint.ports.is_empty() || endpoint.ports.iter().any(|map| map.target_port == port);
            let here = self.live.one(&endpoint.workload);
            let known = here.or_else(|| elsewhere.get(&endpoint.workload).cloned());
            let heard = known.map(|known| known.plaintext).unwrap_or_default();
            for caller in heard.into_iter().filter(|caller| caller.last_seen >= begin && serves(caller.port))
            {
                let known = latest.entry((caller.address, caller.port)).or_insert_with(|| caller.clone());
                known.last_seen = known.last_seen.max(caller.last_seen);
            }
        }
        latest.values().map(|caller| self.plaintext(caller)).collect()
    }
}

/// The time that is looked at.
fn window(milliseconds: u64) -> Duration {
    match milliseconds {
        0 => WINDOW,
        ms => Duration::from_millis(ms).clamp(SHORTEST, LONGEST),
    }
}

/// What is told together. Who names a caller wants its requests apart from others'.
fn by(text: &str, caller: Option<&str>) -> Result<By, Status> {
    match By::parse(text) {
        Some(By::Service | By::Route) if caller.is_some() => Err(Status::invalid_argument(format!(
            "by {text} all callers are told together: leave out one of the two"
        ))),
        Some(by) => Ok(by),
        None => Err(Status::invalid_argument(format!("by {text:?}: service, route or caller"))),
    }
}

/// Services of this namespace; of a caller that is named, all that it calls. What the mesh does not know has none.
fn belongs(of: &Of, namespace: &Name, from: Option<&str>) -> bool {
    from.is_some() || of.service.split_once('/').is_none_or(|(own, _)| own == namespace.as_str())
}

/// `NAME`, or `NAME.NAMESPACE` where that is another.
fn relative(label: &str, namespace: &str) -> String {
    match label.split_once('/') {
        Some((own, name)) if own == namespace => name.to_owned(),
        Some((other, name)) => format!("{name}.{other}"),
        None => label.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_of_other_namespaces_are_named_with_theirs() {
        for (label, expected) in
            [("default/web", "web"), ("shop/web", "web.shop"), ("unknown", "unknown"), ("", "")]
        {
            assert_eq!(relative(label, "default"), expected);
        }
    }

    #[test]
    fn requests_of_one_caller_are_not_told_with_those_of_others() {
        assert_eq!(by("route", None).unwrap(), By::Route);
        assert_eq!(by("caller", Some("web")).unwrap(), By::Caller);
        for (text, caller) in [("route", Some("web")), ("service", Some("web")), ("pod", None)] {
            assert_eq!(by(text, caller).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
