//! Who may call: the only place where a [`Permit`] is made (stage 5 of a request's life).
//!
//! Fails closed: without configuration, no one may.

use std::fmt;

use crate::model::{AuthorizationDefault, Mesh, MtlsMode, SpiffeId};

/// Who is calling, as far as it was proved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A workload of the mesh: its certificate was verified.
    Known(SpiffeId),
    /// Anyone: plaintext, or TLS that is not the mesh's.
    Anonymous,
}

/// Proof that a call may be passed on to the app. Only [`authorize`] makes one.
#[derive(Debug)]
#[must_use = "a permit is spent by forwarding"]
pub struct Permit {
    port: u16,
    _only_made_here: (),
}

/// Why a call may not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// Nothing is known yet of what the mesh allows.
    NoConfiguration,
    /// The mesh takes no plaintext.
    PlaintextUnderStrict,
    /// Only callers with an identity are let in.
    Unauthenticated,
    /// No one is let in.
    DefaultDeny,
}

/// Says whether `peer` may call the app's `port`, and why not.
pub fn authorize(mesh: Option<&Mesh>, peer: &Peer, port: u16) -> Result<Permit, Denial> {
    let mesh = mesh.ok_or(Denial::NoConfiguration)?;
    let known = match peer {
        Peer::Known(_) => true,
        Peer::Anonymous => false,
    };
    if !known && mesh.mtls == MtlsMode::Strict {
        return Err(Denial::PlaintextUnderStrict);
    }
    match mesh.authorization {
        AuthorizationDefault::Any => {}
        AuthorizationDefault::Authenticated if known => {}
        AuthorizationDefault::Authenticated => return Err(Denial::Unauthenticated),
        AuthorizationDefault::Deny => return Err(Denial::DefaultDeny),
    }
    Ok(Permit { port, _only_made_here: () })
}

impl Permit {
    /// The app's port that it opens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Denial {
    /// The rule that decided, for metrics and logs.
    pub fn rule(self) -> &'static str {
        match self {
            Self::NoConfiguration => "no-configuration",
            Self::PlaintextUnderStrict => "mtls-strict",
            Self::Unauthenticated => "default-authenticated",
            Self::DefaultDeny => "default-deny",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoConfiguration => "no configuration has arrived yet, so no one is let in",
            Self::PlaintextUnderStrict => "plaintext is refused: the mesh's mtls mode is Strict",
            Self::Unauthenticated => "the caller has no identity of the mesh",
            Self::DefaultDeny => "the mesh's authorization default is Deny",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mtls: MtlsMode, authorization: AuthorizationDefault, peer: &Peer, expected: Option<Denial>) {
        let mesh =
            Mesh { mtls, authorization, ..Mesh::with_defaults("mesh.local".parse().unwrap(), Vec::new()) };
        let verdict = authorize(Some(&mesh), peer, 8080);
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
            assert_eq!(authorize(None, &peer, 80).unwrap_err(), Denial::NoConfiguration);
        }
    }
}
