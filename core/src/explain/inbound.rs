//! The server's side: whether each endpoint's sidecar would let the call in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::backend::Arrival;
use super::outbound::Head;
use super::{Decision, Explanation, Question};
use crate::authorize::{self, Asked, Call, Denial, Peer};
use crate::compile;
use crate::host::Host;
use crate::jwt::Claims;
use crate::manifest::{Kind, Resource, ResourceKey, Spec};
use crate::model::{MtlsMode, QualifiedName, RateLimit};
use crate::path::Path;
use crate::world::World;

/// Asks each endpoint's sidecar.
pub(super) fn arrive(world: &World, question: &Question<'_>, arrival: &Arrival, told: &mut Explanation) {
    let identity = question.identity(world);
    // What policies say of addresses is asked of the address that such a caller has.
    let from = world.registrations().find(|caller| caller.identity == identity);
    let address = from.and_then(|caller| caller.addresses.first().copied());
    let peer = Peer::Known(identity);
    let mesh = compile::mesh(world);
    let endpoints = compile::endpoints(world, &arrival.service).unwrap_or_default();
    let mut denied = Vec::new();
    let mut unguarded = 0_usize;
    for endpoint in &endpoints {
        let Some(port) = endpoint.target_port(arrival.port) else { continue };
        let Some(workload) =
            compile::workload(world, &endpoint.workload).filter(|_| endpoint.identity.is_some())
        else {
            unguarded = unguarded.saturating_add(1);
            continue;
        };
        let wanted = workload.token_policy(port).zip(arrival.request.as_ref());
        let token =
            wanted.map(|(policy, head)| (policy, told.token_of_server(world, question, policy, head)));
        let claims = token.as_ref().and_then(|(_, token)| token.claims());
        let seen = arrival.request.as_ref().map(|head| Seen::of(head, claims));
        let call = Call {
            peer: &peer,
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port,
            request: seen.as_ref().map(|seen| seen as &dyn Asked),
        };
        told.plaintext(world, &endpoint.workload, &arrival.service);
        let mut decided = Vec::new();
        let refused = token.as_ref().and_then(|(policy, token)| token.refused(policy));
        let verdict = match refused {
            Some((why, answer)) => Err(Kept { why, answer }),
            None => authorize::authorize(Some(&mesh), &workload, &call, |policy, decision| {
                decided.push((policy.name.clone(), decision.as_str()));
            })
            .map_err(|denial| Kept { why: denial.to_string(), answer: answer(&denial) }),
        };
        for (policy, decision) in decided {
            told.by_policy(world, &policy, decision);
        }
        if verdict.is_ok() {
            for limit in workload.limits.iter().filter(|limit| limit.is_about(&call)) {
                told.limited(world, limit);
            }
        }
        if let Err(kept) = verdict {
            let app = endpoint.addresses.first().map(|ip| SocketAddr::new(*ip, port).to_string());
            let candidate = told.endpoints.iter_mut().find(|c| Some(&c.address) == app.as_ref());
            if let Some(candidate) = candidate {
                candidate.denied.clone_from(&kept.why);
            }
            denied.push(kept);
        }
    }
    told.conclude(&denied, endpoints.len(), unguarded);
    if address.is_none() && !world.registrations().any(|caller| Peer::Known(caller.identity.clone()) == peer)
    {
        told.step("caller", "what policies say of addresses is unknown, as no such caller runs".into(), None);
    }
}

impl Explanation {
    fn by_policy(&mut self, world: &World, policy: &QualifiedName, decision: &str) {
        let key = key_of(Kind::AuthorizationPolicy, policy);
        let Some(resource) = world.resource(&key) else { return };
        let told = self.policy.iter().any(|told| told.policy == key.to_string() && told.does == decision);
        if !told {
            self.applied(resource, decision.to_owned());
            self.step("access", decision.to_owned(), Some(resource));
        }
    }

    /// Whether plaintext would be taken as well, and who says so.
    fn plaintext(&mut self, world: &World, workload: &QualifiedName, service: &QualifiedName) {
        let (mode, source) = match world.mtls(workload, Some(service)) {
            Some((mode, policy)) => (mode, Some(policy)),
            None => {
                let said = |resource: &&Resource| matches!(&resource.spec, Spec::MeshConfig(spec) if spec.mtls.is_some());
                (compile::mesh(world).mtls, world.resources().find(said))
            }
        };
        let text = match mode {
            MtlsMode::Strict => "mtls mode Strict: no one is let in without an identity",
            MtlsMode::Permissive => "mtls mode Permissive: callers without a sidecar are let in as well",
        };
        if self.steps.iter().any(|step| step.text == text) {
            return;
        }
        self.step("mtls", text.to_owned(), source);
        if let Some(policy) = source.filter(|source| source.kind == Kind::TrafficPolicy) {
            self.applied(policy, format!("mtls: {mode:?}"));
        }
    }

    /// How much of it is let in by each endpoint; how much of that is used up is not known here.
    fn limited(&mut self, world: &World, limit: &RateLimit) {
        let key = key_of(Kind::RateLimit, &limit.name);
        if self.policy.iter().any(|told| told.policy == key.to_string()) {
            return;
        }
        let Some(resource) = world.resource(&key) else { return };
        for bound in &limit.limits {
            let does = format!("lets in {bound}; more is answered with 429 rate-limited");
            self.step("limits", does.clone(), Some(resource));
            self.applied(resource, does);
        }
    }

    fn conclude(&mut self, denied: &[Kept], endpoints: usize, unguarded: usize) {
        if unguarded > 0 {
            let text = format!("{unguarded} of {endpoints} have no sidecar: nobody there asks who calls");
            self.step("access", text, None);
        }
        let Some(first) = denied.first() else {
            if unguarded < endpoints {
                self.step("access", "it is let in".into(), None);
            }
            return;
        };
        let all = denied.len() == endpoints;
        let who = if all { "every endpoint".to_owned() } else { format!("{} of {endpoints}", denied.len()) };
        self.step("access", format!("denied by {who}: {}", first.why), None);
        if all {
            self.fails(Decision::Deny, first.answer);
        }
    }
}

/// A call that is kept out: why, and what it is answered.
struct Kept {
    why: String,
    answer: (u16, &'static str),
}

fn answer(denial: &Denial) -> (u16, &'static str) {
    match denial {
        Denial::Unauthenticated => (401, "unauthenticated"),
        Denial::NoConfiguration
        | Denial::PlaintextUnderStrict
        | Denial::DefaultDeny
        | Denial::Policy(_)
        | Denial::NotAllowed
        | Denial::NoToken => (403, "denied"),
    }
}

fn key_of(kind: Kind, name: &QualifiedName) -> ResourceKey {
    ResourceKey { kind, namespace: Some(name.namespace.clone()), name: name.name.clone() }
}

/// What policies see of the request.
struct Seen<'a> {
    head: &'a Head,
    path: Option<Path<'a>>,
    host: Option<Host<'a>>,
    claims: Option<&'a Claims>,
}

impl<'a> Seen<'a> {
    fn of(head: &'a Head, claims: Option<&'a Claims>) -> Self {
        let (path, host) = (Path::parse(head.target.as_bytes()).ok(), Host::parse(head.host.as_bytes()).ok());
        Self { head, path, host, claims }
    }
}

impl Asked for Seen<'_> {
    fn method(&self) -> &str {
        &self.head.method
    }

    fn path(&self) -> Option<&Path<'_>> {
        self.path.as_ref()
    }

    fn host(&self) -> Option<&Host<'_>> {
        self.host.as_ref()
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        let values = self.head.headers.iter().filter(|(own, _)| own == name);
        values.for_each(|(_, value)| see(value.as_bytes()));
    }

    fn claims(&self) -> Option<&Claims> {
        self.claims
    }
}
