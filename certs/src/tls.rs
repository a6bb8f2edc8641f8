//! TLS settings: version 1.3 only, post-quantum key exchange first, identities demanded on both sides, no resumption but
//! between a sidecar and its control plane (see `resume`).
//!
//! Settings are made anew for each expected identity and share their costly parts (parsed anchors, signing key), so that
//! making one is a few allocations. Connections are pooled, so tickets would only be memory and a second, weaker way in.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use weft_core::model::{Revocations, Revoked, Serial, SpiffeId, TrustDomain};

use crate::resume::{ResumingClient, ResumingServer, Sessions};
use crate::spiffe::{self, Svid};
use crate::verify::{Anchors, ClientVerifier, ServerVerifier};
use crate::{CertError, KeyPair};

/// SHA-256 suites go first: with the CPU's SHA instructions their handshakes are cheaper than SHA-384's, and AES-128 moves
/// bulk data faster than AES-256.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The same with a key exchange of 32 bytes each way, for handshakes that are resumed.
static BRIEF: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider { kx_groups: vec![kx_group::X25519], ..CryptoProvider::clone(&PROVIDER) })
});

/// Whether a server insists on a client's certificate. One that is shown is checked either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A client may stay unknown.
    Optional,
}

/// Our certificate and key with the anchors that peers must lead to: all it takes to speak mutual TLS. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    svid: Svid,
    key: Arc<SingleCertAndKey>,
    anchors: Arc<Anchors>,
    /// Whether our certificate leads to the first anchor.
    is_of_first: bool,
}

impl Credentials {
    /// Credentials of a chain (DER, ours first), its key and the anchors of our trust domain (DER).
    pub fn new(
        chain: Vec<Vec<u8>>,
        key: &KeyPair,
        anchors: &[impl AsRef<[u8]>],
        domain: &TrustDomain,
    ) -> Result<Self, CertError> {
        let svid = spiffe::svid(chain.first().ok_or(CertError::EmptyChain)?)?;
        if svid.identity.trust_domain() != domain {
            return Err(CertError::ForeignIdentity { identity: svid.identity, domain: domain.clone() });
        }
        let anchors = anchors_of(domain, anchors)?;
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let end = svid.not_after.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| CertError::Time)?;
        let is_of_first = anchors.first_signs(&chain, UnixTime::since_unix_epoch(end));
        let key = CertifiedKey::from_der(chain, key.pkcs8().into(), &PROVIDER).map_err(CertError::Tls)?;
        Ok(Self(Arc::new(Inner { svid, key: Arc::new(SingleCertAndKey::from(key)), anchors, is_of_first })))
    }

    /// The same that believe none of those.
    pub fn refusing(&self, revoked: &[Revoked]) -> Self {
        let Inner { svid, key, anchors, is_of_first } = &*self.0;
        let anchors = Arc::new(anchors.refusing(Revocations::new(revoked)));
        let (svid, key, is_of_first) = (svid.clone(), Arc::clone(key), *is_of_first);
        Self(Arc::new(Inner { svid, key, anchors, is_of_first }))
    }

    /// Whether our certificate leads to the first anchor, as new ones do.
    pub fn is_of_first_anchor(&self) -> bool {
        self.0.is_of_first
    }

    /// Who we are.
    pub fn identity(&self) -> &SpiffeId {
        &self.0.svid.identity
    }

    /// The trust domain whose peers we accept.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.0.anchors.domain()
    }

    /// When our certificate's life begins; back-dated, see [`renew_at`].
    pub fn not_before(&self) -> SystemTime {
        self.0.svid.not_before
    }

    /// When our certificate's life ends.
    pub fn not_after(&self) -> SystemTime {
        self.0.svid.not_after
    }

    /// Our certificate's serial number, in lower-case hexadecimal digits.
    pub fn serial(&self) -> &Serial {
        &self.0.svid.serial
    }

    /// Settings to reach a server that must prove to be `expected`, offering `alpn` in order of preference.
    pub fn client_config(&self, expected: &SpiffeId, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, CertError> {
        let verifier = Arc::new(self.verifier(expected));
        let builder = client(&PROVIDER, verifier)?;
        Ok(finished(builder.with_client_cert_resolver(self.0.key.clone()), alpn))
    }

    /// The same, to go on where the last connection was.
    pub fn resuming_client(&self, expected: &SpiffeId, alpn: &[&[u8]]) -> Result<ResumingClient, CertError> {
        let verifier = Arc::new(self.verifier(expected));
        // What was agreed with one of the two is taken up again by the other only where these are the same.
        let settings = |provider| {
            let builder = client(provider, Arc::clone(&verifier))?;
            let mut config = builder.with_client_cert_resolver(self.0.key.clone());
            config.alpn_protocols = protocols(alpn);
            Ok(config)
        };
        Ok(ResumingClient::new([settings(&PROVIDER)?, settings(&BRIEF)?], Arc::clone(&verifier)))
    }

    /// Settings to serve, choosing the first of `alpn` that a client offers.
    pub fn server_config(&self, alpn: &[&[u8]], clients: ClientAuth) -> Result<Arc<ServerConfig>, CertError> {
        let mut config = self.server(alpn, clients)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }

    /// The same, which lets who comes back go on where it was.
    pub fn resuming_server(
        &self,
        alpn: &[&[u8]],
        clients: ClientAuth,
        sessions: &Arc<Sessions>,
    ) -> Result<ResumingServer, CertError> {
        let config = self.server(alpn, clients)?;
        Ok(ResumingServer::new(config, Arc::clone(&self.0.anchors), sessions))
    }

    fn verifier(&self, expected: &SpiffeId) -> ServerVerifier {
        ServerVerifier { anchors: self.0.anchors.clone(), expected: expected.clone() }
    }

    fn server(&self, alpn: &[&[u8]], clients: ClientAuth) -> Result<ServerConfig, CertError> {
        let verifier =
            ClientVerifier { anchors: self.0.anchors.clone(), mandatory: clients == ClientAuth::Required };
        let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(CertError::Tls)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.0.key.clone());
        config.alpn_protocols = protocols(alpn);
        Ok(config)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(self.identity()).field(&self.serial()).finish()
    }
}

/// Settings to reach `expected` before we have a certificate of our own; who we are must then be said in another way.
pub fn anchored_client_config(
    anchors: &[impl AsRef<[u8]>],
    expected: &SpiffeId,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, CertError> {
    let anchors = anchors_of(expected.trust_domain(), anchors)?;
    let builder = client(&PROVIDER, Arc::new(ServerVerifier { anchors, expected: expected.clone() }))?;
    Ok(finished(builder.with_no_client_auth(), alpn))
}

/// Settings to reach a server outside the mesh, which proves its name to one of these authorities (DER); none are given: to
/// one that the public trusts. They come with us, for there is nobody to ask in an image without files.
pub fn outside_client_config(anchors: &[Vec<u8>], alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, CertError> {
    let mut roots = RootCertStore::empty();
    if anchors.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.clone())).map_err(CertError::Tls)?;
    }
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(CertError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(finished(config, alpn))
}

/// Whether a certificate (DER) is one that others can be believed by.
pub fn is_anchor(certificate: &[u8]) -> bool {
    RootCertStore::empty().add(CertificateDer::from(certificate)).is_ok()
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client(provider: &Arc<CryptoProvider>, verifier: Arc<ServerVerifier>) -> Result<ClientBuilder, CertError> {
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]);
    Ok(builder.map_err(CertError::Tls)?.dangerous().with_custom_certificate_verifier(verifier))
}

fn finished(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = protocols(alpn);
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

fn anchors_of(domain: &TrustDomain, roots: &[impl AsRef<[u8]>]) -> Result<Arc<Anchors>, CertError> {
    let algorithms = PROVIDER.signature_verification_algorithms;
    Ok(Arc::new(Anchors::new(domain.clone(), roots, algorithms)?))
}
