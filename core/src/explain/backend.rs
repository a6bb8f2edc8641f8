//! What becomes of a call that has been led to a backend: faults, how it is sent, who may get it.

use std::collections::BTreeSet;

use super::outbound::{Head, Led};
use super::priorities::Ranks;
use super::{Candidate, Decision, Explanation, NO_BACKEND, Question, Step};
use crate::compile;
use crate::fault;
use crate::manifest::{Resource, Spec};
use crate::model::{Backend, BackendTarget, QualifiedName, Ratio, RetryBudget};
use crate::plan::Plan;
use crate::retry::budget_of;
use crate::world::World;

const NO_ENDPOINTS: (u16, &str) = (503, "no-endpoints");
const FAULT: &str = "fault-injected";

/// A call as the server's side gets it.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Whose endpoints.
    pub(super) service: QualifiedName,
    pub(super) port: u16,
    /// None: bytes.
    pub(super) request: Option<Head>,
}

/// What the faults of its route and of the service that was called do to a call, whichever backend it goes to. Whether one keeps
/// it from going on.
pub(super) fn struck(world: &World, question: &Question<'_>, led: &Led, told: &mut Explanation) -> bool {
    // A fault strikes what was asked, not what a route makes of it; the route's goes first.
    let of_route = led.route.iter().flat_map(|route| world.route_policies(route));
    let all: Vec<_> = of_route.chain(world.policies(&led.called)).collect();
    strikes(world, question, &all, led.head.as_ref(), told)
}

/// Follows a call to the endpoints of one of its backends; none where it gets to none.
pub(super) fn judge(
    world: &World,
    question: &Question<'_>,
    led: &Led,
    backend: &Backend,
    told: &mut Explanation,
) -> Option<Arrival> {
    let target = match &backend.target {
        BackendTarget::Service(name, port) => {
            let takes = compile::service(world, name).is_some_and(|service| service.takes(*port));
            takes.then_some((name, *port))
        }
        BackendTarget::OtherKind | BackendTarget::NotPermitted => None,
    };
    let Some((service, port)) = target else {
        told.step("backend", "there is nothing that it could be sent to".into(), None);
        told.fails(Decision::Refuse, NO_BACKEND);
        return None;
    };
    told.backend = backend.target.to_string();
    let head = match &led.head {
        Some(head) => Some(head.clone().filtered(led, backend, told)?),
        None => None,
    };
    let is_told = |resource: &Resource| world.policies(&led.called).any(|told| told.key() == resource.key());
    let more: Vec<_> = world.policies(service).filter(|resource| !is_told(resource)).collect();
    if strikes(world, question, &more, head.as_ref(), told) {
        return None;
    }
    told.send(world, service, led);
    told.choose(world, question, service, port).then(|| Arrival {
        service: service.clone(),
        port,
        request: head,
    })
}

/// What faults would do. Whether one keeps the call from going on: an abort of all requests.
fn strikes(
    world: &World,
    question: &Question<'_>,
    policies: &[&Resource],
    head: Option<&Head>,
    told: &mut Explanation,
) -> bool {
    let Some(head) = head else { return false };
    let caller = question.identity(world);
    for resource in policies.iter().copied() {
        let Spec::FaultInjection(spec) = &resource.spec else { continue };
        let fault = &spec.fault;
        let is_meant =
            fault.headers.iter().all(|(name, value)| head.has(name, &|found| found == value.as_bytes()));
        let spared = if fault.expires.is_some_and(|end| end <= question.now) {
            Some("has expired")
        } else if !fault::is_for(fault, Some(&caller)) {
            Some("is for other callers")
        } else {
            (!is_meant).then_some("is for requests with other header fields")
        };
        if let Some(why) = spared {
            told.step("faults", why.into(), Some(resource));
            continue;
        }
        let percent = |share: Ratio| share.as_f64() * 100.0;
        if let Some((delay, share)) = fault.delay {
            let does = format!("holds up {}% of such requests by {delay:?}", percent(share));
            told.step("faults", does.clone(), Some(resource));
            told.applied(resource, does);
        }
        if let Some((abort, share)) = fault.abort {
            let does = format!("answers {}% of such requests with {}", percent(share), abort.status);
            told.step("faults", does.clone(), Some(resource));
            told.applied(resource, does);
            if share == Ratio::WHOLE {
                told.fails(Decision::Answer, (abort.status, FAULT));
                return true;
            }
        }
    }
    false
}

impl Explanation {
    /// What becomes of the share that goes to another backend than most calls.
    pub(super) fn aside(&mut self, backend: &Backend, share: f64, other: Self) {
        let target = &backend.target;
        let outcome = match (other.decision, other.status, other.error) {
            (Decision::Forward, ..) => "are sent on".to_owned(),
            (decision, None, _) => decision.as_str().to_owned(),
            (_, Some(status), error) => format!("are answered with {status} {error}"),
        };
        self.step("backend", format!("the {:.0}% for {target} {outcome}", share * 100.0), None);
        let told = other.steps.into_iter();
        self.steps.extend(told.map(|step| Step { text: format!("{target}: {}", step.text), ..step }));
    }

    /// How long and how often it is tried, and which policy says so: the first that speaks of a field.
    fn send(&mut self, world: &World, service: &QualifiedName, led: &Led) {
        let mut said = BTreeSet::new();
        let of_route = led.route.iter().flat_map(|route| world.route_policies(route));
        for resource in of_route.chain(world.policies(service)) {
            let Spec::TrafficPolicy(spec) = &resource.spec else { continue };
            let (holds, overruled): (Vec<_>, Vec<_>) =
                spec.layer.fields().into_iter().partition(|field| said.insert(field.clone()));
            let says = |(start, fields): (&str, &[String])| {
                (!fields.is_empty()).then(|| format!("{start}{}", fields.join(", ")))
            };
            let words: Vec<_> =
                [("says ", &*holds), ("overruled: ", &*overruled)].into_iter().filter_map(says).collect();
            self.step("traffic", words.join("; "), Some(resource));
            self.applied(resource, format!("says {}", spec.layer.sections().join(", ")));
        }
        let traffic = world.traffic(service);
        let mut time = |name, limit: Option<std::time::Duration>| {
            if let Some(limit) = limit {
                self.timeouts.insert(name, format!("{limit:?}"));
            }
        };
        let plan = match &led.rule {
            Some(rule) => rule.plan(&traffic),
            None => Plan::of(&traffic, None),
        };
        let Plan { limits, retry, hedging } = plan.unwrap_or_default();
        time("connect", traffic.timeouts.connect);
        time("request", limits.whole);
        time("try", limits.each.map(|each| each.limit));
        time("idle", limits.idle);
        if let Some(retry) = &retry {
            let RetryBudget { ratio, min_per_second, window } = budget_of(&traffic);
            self.retries.extend(retry.describe());
            self.retries
                .insert("budget", format!("{ratio} in {window:?}, {min_per_second} a second in any case"));
        }
        if let Some(hedging) = hedging {
            self.retries.insert("hedging", hedging.to_string());
        }
        self.retries.insert("unsent", "what reached nobody goes to another endpoint, twice at most".into());
    }

    /// Who may get it. False: nobody.
    fn choose(&mut self, world: &World, question: &Question<'_>, service: &QualifiedName, port: u16) -> bool {
        if let Some(spec) = world.external_service(service) {
            let host = spec.host().unwrap_or("the host that the client of TLS asks for");
            let target = spec.ports.iter().find(|own| own.port == port).map_or(port, |own| own.target_port);
            let tls = if spec.tls.is_some() { ", in TLS that the sidecar speaks" } else { "" };
            let text = format!("{host}, port {target}, outside the mesh: found by DNS{tls}");
            self.step("endpoints", text, None);
            return true;
        }
        let endpoints = compile::endpoints(world, service).unwrap_or_default();
        let ranks = Ranks::new(world, question, service);
        let working = endpoints.iter().filter(|endpoint| endpoint.healthy);
        let candidates = working.filter_map(|endpoint| {
            let target = endpoint.target_port(port)?;
            let address = endpoint.addresses.first()?;
            Some(Candidate {
                workload: endpoint.workload.to_string(),
                address: std::net::SocketAddr::new(*address, target).to_string(),
                identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
                zone: endpoint.zone.clone(),
                priority: ranks.of(endpoint),
                denied: String::new(),
            })
        });
        self.endpoints = candidates.collect();
        let members = world.members(service).len();
        let text = match (self.endpoints.len(), members) {
            (0, 0) => format!("{service} has no workloads"),
            (0, some) => format!("none of the {some} workloads of {service} is ready on this port"),
            (ready, some) => format!("{ready} of {some} workloads of {service} take it"),
        };
        self.step("endpoints", text, None);
        let reached: Vec<_> =
            endpoints.iter().filter(|endpoint| endpoint.target_port(port).is_some()).collect();
        ranks.tell(&reached, self);
        if self.endpoints.is_empty() {
            self.fails(Decision::Refuse, NO_ENDPOINTS);
        }
        !self.endpoints.is_empty()
    }
}
