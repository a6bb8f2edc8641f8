//! Whether a peer is who it should be, decided during its handshake.
//!
//! Names in the certificate other than the SPIFFE identity count for nothing: the server name of the ClientHello says
//! which port is meant, never who must answer.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};
use weft_core::model::{Revocations, SpiffeId, TrustDomain};

use crate::spiffe::Svid;
use crate::{CertError, spiffe};

/// What a trust domain's certificates must lead to.
pub(crate) struct Anchors {
    domain: TrustDomain,
    roots: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    revocations: Revocations,
}

/// Demands one identity of a server.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) expected: SpiffeId,
}

/// Demands some identity of the trust domain of a client.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) mandatory: bool,
}

impl Anchors {
    pub(crate) fn new(
        domain: TrustDomain,
        roots: &[impl AsRef<[u8]>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, CertError> {
        if roots.is_empty() {
            return Err(CertError::NoAnchors);
        }
        let anchor = |der: &[u8]| {
            let der = CertificateDer::from(der);
            webpki::anchor_from_trusted_cert(&der).map(|anchor| anchor.to_owned()).map_err(CertError::Anchor)
        };
        let roots = roots.iter().map(|der| anchor(der.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { domain, roots, algorithms, revocations: Revocations::default() })
    }

    /// The same without those.
    pub(crate) fn refusing(&self, revocations: Revocations) -> Self {
        Self {
            domain: self.domain.clone(),
            roots: self.roots.clone(),
            algorithms: self.algorithms,
            revocations,
        }
    }

    /// Whether a chain leads to the first anchor, at a time.
    pub(crate) fn first_signs(&self, chain: &[CertificateDer<'_>], at: UnixTime) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let (Some(first), Ok(leaf)) = (self.roots.get(..1), EndEntityCert::try_from(leaf)) else {
            return false;
        };
        let (algorithms, usage) = (self.algorithms.all, KeyUsage::client_auth());
        leaf.verify_for_usage(algorithms, first, intermediates, at, usage, None, None).is_ok()
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The rules of SPIFFE, then the path of RFC 5280. The anchors are chosen by the peer's own trust domain: there is one.
    pub(crate) fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<SpiffeId, CertError> {
        let Svid { identity, serial, .. } = spiffe::svid(leaf)?;
        if identity.trust_domain() != &self.domain {
            return Err(CertError::UnknownTrustDomain(identity));
        }
        let path = EndEntityCert::try_from(leaf).map_err(CertError::Path)?;
        let path = path
            .verify_for_usage(self.algorithms.all, &self.roots, intermediates, now, usage, None, None)
            .map_err(CertError::Path)?;
        for intermediate in path.intermediate_certificates() {
            spiffe::may_sign_certificates(&intermediate.der())?;
        }
        if self.revocations.hold(&identity, &serial) {
            return Err(CertError::Revoked(identity));
        }
        Ok(identity)
    }

    fn check_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({}, {})", self.domain, self.roots.len())
    }
}

impl ServerVerifier {
    /// Whether a server that shows this is who was meant.
    pub(crate) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertError> {
        let found = self.anchors.identify(leaf, intermediates, now, KeyUsage::server_auth())?;
        if found != self.expected {
            return Err(CertError::WrongPeer { expected: self.expected.clone(), found });
        }
        Ok(())
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, intermediates, now).map_err(CertError::into_tls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.anchors.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.anchors
            .identify(leaf, intermediates, now, KeyUsage::client_auth())
            .map(|_| ClientCertVerified::assertion())
            .map_err(CertError::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.anchors.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors.algorithms.supported_schemes()
    }
}
