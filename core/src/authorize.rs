//! Who may call: the only place where a [`Permit`] is made (stage 5 of a request's life).
//!
//! Fails closed: without configuration, no one may. A Deny that may be about a call keeps it out, an Allow lets in only
//! what it surely is about; where Allows are, what none of them is about stays out.

mod matching;
mod probes;

use std::fmt;
use std::net::IpAddr;

use crate::host::Host;
use crate::jwt::Claims;
use crate::model::{
    AccessAction, AccessMode, AccessPolicy, AccessRule, AuthorizationDefault, Callers, Mesh, MtlsMode,
    QualifiedName, SpiffeId, Workload,
};
use crate::path::Path;
use matching::Holds;

pub use probes::{NoProbe, OutsideProbe, OutsideProbes, Probed};

/// Who is calling, as far as it was proved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A workload of the mesh: its certificate was verified.
    Known(SpiffeId),
    /// Anyone: plaintext, or TLS that is not the mesh's.
    Anonymous,
}

/// What policies see of a request.
pub trait Asked {
    /// The method.
    fn method(&self) -> &str;
    /// The path; none where the request has none.
    fn path(&self) -> Option<&Path<'_>>;
    /// The host; none where the request names none.
    fn host(&self) -> Option<&Host<'_>>;
    /// Shows every value of a header, whose name is in lower case.
    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8]));

    /// The query; none where it has none. Policies do not look at it.
    fn query(&self) -> Option<&str> {
        None
    }

    /// What its token proved; none where it has none that anyone looked at.
    fn claims(&self) -> Option<&Claims> {
        None
    }
}

/// A call: a connection, or a request on one.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Who calls.
    pub peer: &'a Peer,
    /// From where the connection comes.
    pub address: IpAddr,
    /// The app's port.
    pub port: u16,
    /// The request; none: the connection carries bytes.
    pub request: Option<&'a dyn Asked>,
}

/// Proof that a call may be passed on to the app. Only [`authorize`] makes one.
#[derive(Debug)]
#[must_use = "a permit is spent by forwarding"]
pub struct Permit {
    port: u16,
    _only_made_here: (),
}

/// Why a call may not be passed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Denial {
    /// Nothing is known yet of what the mesh allows.
    NoConfiguration,
    /// The mesh takes no plaintext.
    PlaintextUnderStrict,
    /// Only callers with an identity are let in.
    Unauthenticated,
    /// No one is let in.
    DefaultDeny,
    /// This policy keeps it out.
    Policy(QualifiedName),
    /// There are policies that allow calls, and none allows this one.
    NotAllowed,
    /// A token is required, and bytes carry none.
    NoToken,
}

/// What a policy had to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It let it in.
    Allowed,
    /// It kept it out.
    Denied,
    /// It would have let it in, were it enforced.
    WouldAllow,
    /// It would have kept it out, were it enforced.
    WouldDeny,
    /// It is a rate limit, and had no room for it.
    Limited,
}

/// Says whether a call may go on to the app of this workload, and why not. `told` hears what policies had to do with it.
pub fn authorize(
    mesh: Option<&Mesh>,
    workload: &Workload,
    call: &Call<'_>,
    mut told: impl FnMut(&AccessPolicy, Decision),
) -> Result<Permit, Denial> {
    let mesh = mesh.ok_or(Denial::NoConfiguration)?;
    let known = match call.peer {
        Peer::Known(_) => true,
        Peer::Anonymous => false,
    };
    if !known && workload.mtls(call.port, mesh.mtls) == MtlsMode::Strict {
        return Err(Denial::PlaintextUnderStrict);
    }
    let policies = workload.policies.as_slice();
    if !policies.is_empty() {
        match by_policies(policies, call, &mut told) {
            Some(true) => return Ok(Permit { port: call.port, _only_made_here: () }),
            Some(false) => return Err(denying(policies, call)),
            None => {}
        }
    }
    match mesh.authorization {
        AuthorizationDefault::Any => {}
        AuthorizationDefault::Authenticated if known => {}
        AuthorizationDefault::Authenticated => return Err(Denial::Unauthenticated),
        AuthorizationDefault::Deny => return Err(Denial::DefaultDeny),
    }
    Ok(Permit { port: call.port, _only_made_here: () })
}

/// Whether policies let the call in; none: they leave it to the mesh's default.
fn by_policies(
    policies: &[AccessPolicy],
    call: &Call<'_>,
    told: &mut impl FnMut(&AccessPolicy, Decision),
) -> Option<bool> {
    let (mut allows, mut allowed, mut denied) = (false, false, false);
    for policy in policies.iter().filter(|policy| is_about(policy, call.port)) {
        let holds = matching::policy(&policy.rules, call);
        let decision = match (policy.action, policy.mode) {
            (AccessAction::Deny, _) if holds == Holds::No => continue,
            (AccessAction::Deny, AccessMode::Audit) => Decision::WouldDeny,
            (AccessAction::Deny, AccessMode::Enforce) => Decision::Denied,
            (AccessAction::Allow, AccessMode::Audit) if holds == Holds::Yes => Decision::WouldAllow,
            (AccessAction::Allow, AccessMode::Audit) => Decision::WouldDeny,
            (AccessAction::Allow, AccessMode::Enforce) => {
                allows = true;
                if holds != Holds::Yes {
                    continue;
                }
                Decision::Allowed
            }
        };
        denied |= decision == Decision::Denied;
        allowed |= decision == Decision::Allowed;
        told(policy, decision);
    }
    if denied { Some(false) } else { allows.then_some(allowed) }
}

/// The reason, looked for once it is known that there is one.
fn denying(policies: &[AccessPolicy], call: &Call<'_>) -> Denial {
    let denying = policies.iter().find(|policy| {
        policy.action == AccessAction::Deny
            && policy.mode == AccessMode::Enforce
            && is_about(policy, call.port)
            && matching::policy(&policy.rules, call) != Holds::No
    });
    denying.map_or(Denial::NotAllowed, |policy| Denial::Policy(policy.name.clone()))
}

/// Whether one of these rules is, or may be, about a call.
pub(crate) fn may_be_about(rules: &[AccessRule], call: &Call<'_>) -> bool {
    matching::any_rule(rules, call) != Holds::No
}

/// Whether a workload of this identity is one of these callers, as far as its identity tells; where none are said, all are.
pub fn is_among(identity: &SpiffeId, callers: &[Callers]) -> bool {
    matching::is_among(identity, callers)
}

fn is_about(policy: &AccessPolicy, port: u16) -> bool {
    policy.ports.is_empty() || policy.ports.contains(&port)
}

impl Permit {
    /// The app's port that it opens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Decision {
    /// As metrics and logs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldAllow => "would-allow",
            Self::WouldDeny => "would-deny",
            Self::Limited => "limited",
        }
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} to port {}", self.peer, self.address, self.port)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoConfiguration => "no configuration has arrived yet, so no one is let in",
            Self::PlaintextUnderStrict => "plaintext is refused: the mtls mode is Strict",
            Self::Unauthenticated => "the caller has no identity of the mesh",
            Self::DefaultDeny => "the mesh's authorization default is Deny",
            Self::Policy(name) => return write!(f, "AuthorizationPolicy {name} denies it"),
            Self::NoToken => "a JwtAuthentication requires a token, and a connection of bytes carries none",
            Self::NotAllowed => "there are AuthorizationPolicies that allow calls, and none allows this one",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ConcurrencyMode, InboundPort, Protocol};

    /// One whose port 8080 is of two services, of which one may say something else than the mesh.
    fn workload(second: Option<MtlsMode>) -> Workload {
        let port = |service: &str, mtls| InboundPort {
            port: 8080,
            protocol: Protocol::Detect,
            service: service.parse().unwrap(),
            concurrency: ConcurrencyMode::Off,
            mtls,
            sampling: None,
        };
        Workload {
            name: "default/orders-1".parse().unwrap(),
            service_account: "orders".parse().unwrap(),
            ports: vec![port("default/orders", None), port("default/other", second)],
            policies: Vec::new(),
            limits: Vec::new(),
            concurrency: ConcurrencyMode::Off,
            checks: Vec::new(),
            tokens: Vec::new(),
            mtls: None,
        }
    }

    #[test]
    fn a_port_of_several_services_is_as_strict_as_the_strictest_and_others_are_as_their_workload() {
        use MtlsMode::{Permissive, Strict};
        for (mesh, second, expected) in [
            (Strict, None, Strict),
            (Strict, Some(Permissive), Strict),
            (Permissive, Some(Permissive), Permissive),
            (Permissive, Some(Strict), Strict),
            (Permissive, None, Permissive),
        ] {
            assert_eq!(workload(second).mtls(8080, mesh), expected, "{mesh:?} {second:?}");
            assert_eq!(workload(second).mtls(9090, mesh), mesh);
            let own = Workload { mtls: Some(Permissive), ..workload(second) };
            assert_eq!((own.mtls(9090, mesh), own.mtls(8080, mesh)), (Permissive, expected));
        }
    }

    fn check(mtls: MtlsMode, authorization: AuthorizationDefault, peer: &Peer, expected: Option<Denial>) {
        let mesh =
            Mesh { mtls, authorization, ..Mesh::with_defaults("mesh.local".parse().unwrap(), Vec::new()) };
        let call = Call { peer, address: [10, 0, 0, 7].into(), port: 8080, request: None };
        let verdict = authorize(Some(&mesh), &workload(None), &call, |_, _| {});
        assert_eq!(
            verdict.map(|permit| permit.port()).map_err(Some),
            expected.map_or(Ok(8080), |d| Err(Some(d)))
        );
    }

    #[test]
    fn every_combination_of_settings_and_callers_is_decided() {
        use AuthorizationDefault::{Any, Authenticated, Deny};
        use MtlsMode::{Permissive, Strict};
        let known = Peer::Known("spiffe://mesh.local/ns/default/sa/web".parse().unwrap());
        for mtls in [Strict, Permissive] {
            check(mtls, Any, &known, None);
            check(mtls, Authenticated, &known, None);
            check(mtls, Deny, &known, Some(Denial::DefaultDeny));
        }
        for authorization in [Any, Authenticated, Deny] {
            check(Strict, authorization, &Peer::Anonymous, Some(Denial::PlaintextUnderStrict));
        }
        check(Permissive, Any, &Peer::Anonymous, None);
        check(Permissive, Authenticated, &Peer::Anonymous, Some(Denial::Unauthenticated));
        check(Permissive, Deny, &Peer::Anonymous, Some(Denial::DefaultDeny));
    }

    #[test]
    fn before_the_first_configuration_no_one_is_let_in() {
        let known = Peer::Known("spiffe://mesh.local/ns/default/sa/web".parse().unwrap());
        for peer in [known, Peer::Anonymous] {
            let call = Call { peer: &peer, address: [10, 0, 0, 7].into(), port: 80, request: None };
            let verdict = authorize(None, &workload(None), &call, |_, _| {});
            assert_eq!(verdict.unwrap_err(), Denial::NoConfiguration);
        }
    }
}
