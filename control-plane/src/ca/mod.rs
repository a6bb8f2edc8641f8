//! The certificate authority: who asks, what it may have, and what was issued.
//!
//! A caller proves itself with a join token or with the certificate it has; the grant of the one is inherited by
//! the other, remembered by serial number.

mod own;
mod rate;
mod service;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use weft_certs::{Authority, CertError, Credentials, IssueParams, Issued, KeyPair};
use weft_core::model::{Name, SpiffeId, TrustDomain};

use crate::peer::Peer;
use crate::store::{Certificate, Embedded, Grant, StoreError};
use crate::tokens::{TokenError, Tokens};

pub(crate) use own::OwnCertificate;
pub(crate) use service::IdentityService;

/// The issuing certificate is renewed when it has less than this left: it lives a year.
const ISSUING_RENEWAL: Duration = Duration::from_hours(60 * 24);
/// How long an expired certificate is remembered; TLS no longer takes it.
const CERTIFICATE_REMEMBERED: Duration = Duration::from_mins(1);
/// How long an expired token is remembered, so that it is listed as such.
const TOKEN_REMEMBERED: Duration = Duration::from_hours(24);

/// Why a certificate was not issued. Both sides log it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Neither a token nor a certificate.
    #[error("no proof of identity: neither a join token nor a client certificate")]
    NoProof,
    /// The token is not good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The caller's certificate is none that we remember.
    #[error("certificate {0} was not issued here, or is forgotten: present a join token")]
    UnknownCertificate(String),
    /// An identity that names no service account.
    #[error("{0} is not the identity of a service account")]
    NotServiceAccount(SpiffeId),
    /// Names in a record that are none.
    #[error("the name {0:?} in the token is not valid")]
    Name(String),
    /// Too many requests for one workload.
    #[error("too many certificate requests for {0}; try again later")]
    TooMany(String),
    /// The request is not acceptable.
    #[error("the certificate request is refused")]
    Refused(#[source] CertError),
    /// The authority itself does not work.
    #[error("the certificate authority does not work")]
    Authority(#[source] CertError),
    /// The store does not answer.
    #[error("the certificate authority's store does not answer")]
    Store(#[from] StoreError),
}

/// How a caller proves who it is.
#[derive(Debug)]
pub(crate) enum Proof<'a> {
    /// A join token.
    Token(&'a str),
    /// The certificate of its connection.
    Certificate(&'a Peer),
}

/// A caller whose proof was good.
#[derive(Debug, Clone)]
pub(crate) struct Claimant {
    /// Who it is.
    pub identity: SpiffeId,
    /// Its namespace.
    pub namespace: Name,
    /// What it may claim beyond that.
    pub grant: Grant,
}

/// The certificate authority.
pub(crate) struct Ca {
    authority: ArcSwap<Authority>,
    tokens: Tokens,
    store: Embedded,
    issued: Mutex<HashMap<String, Arc<Certificate>>>,
    rate: rate::Rate,
    ttl: Duration,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("authority", &self.authority.load()).finish_non_exhaustive()
    }
}

impl Ca {
    /// The authority in the store, or a new one at the first start.
    pub(crate) async fn open(
        store: Embedded,
        trust_domain: &TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let pem = match store.secret("authority").await? {
            Some(pem) => pem,
            None => {
                let fresh = Authority::create(trust_domain, now).map_err(CaError::Authority)?;
                store.keep_secret("authority", fresh.to_pem().into_bytes()).await?
            }
        };
        let authority = Authority::from_pem(&String::from_utf8_lossy(&pem)).map_err(CaError::Authority)?;
        let issued = store.certificates().await?;
        let issued = issued.into_iter().map(|c| (c.serial.clone(), Arc::new(c))).collect();
        Ok(Self {
            authority: ArcSwap::from_pointee(authority),
            tokens: Tokens::open(store.clone(), trust_domain.clone()).await?,
            store,
            issued: Mutex::new(issued),
            rate: rate::Rate::default(),
            ttl,
        })
    }

    /// The join tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The trust domain it speaks for.
    pub(crate) fn trust_domain(&self) -> TrustDomain {
        self.authority.load().trust_domain().clone()
    }

    /// What everyone must trust, as DER.
    pub(crate) fn anchors(&self) -> Vec<Vec<u8>> {
        self.authority.load().anchors()
    }

    /// What everyone must trust, as PEM.
    pub(crate) fn anchors_pem(&self) -> String {
        self.authority.load().anchors_pem()
    }

    /// Checks a caller's proof.
    pub(crate) async fn attest(&self, proof: Proof<'_>, now: SystemTime) -> Result<Claimant, CaError> {
        match proof {
            Proof::Token(text) => {
                let token = self.tokens.redeem(text, now).await?;
                let name = |text: &str| text.parse::<Name>().map_err(|_| CaError::Name(text.into()));
                let (namespace, account) = (name(&token.namespace)?, name(&token.service_account)?);
                let identity = SpiffeId::of_service_account(&self.trust_domain(), &namespace, &account);
                Ok(Claimant { identity, namespace, grant: token.grant })
            }
            Proof::Certificate(peer) => self.known(peer),
        }
    }

    /// What the holder of a certificate may claim.
    pub(crate) fn known(&self, peer: &Peer) -> Result<Claimant, CaError> {
        let certificate = self
            .certificate(&peer.serial)
            .filter(|certificate| certificate.spiffe_id == peer.identity.as_str())
            .ok_or_else(|| CaError::UnknownCertificate(peer.serial.clone()))?;
        let (namespace, _) = peer
            .identity
            .service_account()
            .ok_or_else(|| CaError::NotServiceAccount(peer.identity.clone()))?;
        Ok(Claimant { identity: peer.identity.clone(), namespace, grant: certificate.grant.clone() })
    }

    /// Issues a certificate to a caller that was attested, for the key of its request.
    pub(crate) async fn issue(
        &self,
        claimant: Claimant,
        workload: &Name,
        request: &[u8],
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let whose = format!("{} ({workload})", claimant.identity);
        if !self.rate.admit(&whose, now) {
            return Err(CaError::TooMany(whose));
        }
        let identity = claimant.identity.clone();
        let wanted = IssueParams { identity, dns: Vec::new(), ips: Vec::new(), ttl: self.ttl, now };
        let issued = self.authority.load().sign(request, &wanted).map_err(CaError::Refused)?;
        let certificate = Certificate {
            serial: issued.serial.clone(),
            namespace: claimant.namespace.to_string(),
            workload: workload.to_string(),
            spiffe_id: claimant.identity.to_string(),
            issuer: issued.issuer.clone(),
            not_before: issued.not_before,
            not_after: issued.not_after,
            grant: claimant.grant,
        };
        self.store.keep_certificate(&certificate).await?;
        self.lock().insert(certificate.serial.clone(), Arc::new(certificate));
        Ok(issued)
    }

    /// A certificate of our own, for the port that sidecars and the `weft` command call.
    fn own_credentials(&self, names: &own::OwnNames, now: SystemTime) -> Result<Credentials, CertError> {
        let authority = self.authority.load();
        let key = KeyPair::generate()?;
        let own::OwnNames { identity, dns, ips } = names.clone();
        // Our own certificate is checked by sidecars whose clocks differ; minutes are short enough for us.
        let ttl = self.ttl.max(Duration::from_mins(5));
        let wanted = IssueParams { identity, dns, ips, ttl, now };
        let issued = authority.sign(&weft_certs::request(&key)?, &wanted)?;
        Credentials::new(issued.chain, &key, &authority.anchors(), authority.trust_domain())
    }

    /// The certificate of this serial number, if it is remembered.
    pub(crate) fn certificate(&self, serial: &str) -> Option<Arc<Certificate>> {
        self.lock().get(serial).cloned()
    }

    /// When the newest certificate of each workload ends, by identity and workload.
    pub(crate) fn expiries(&self) -> HashMap<(String, String), SystemTime> {
        let mut expiries = HashMap::new();
        for certificate in self.lock().values() {
            let holder = (certificate.spiffe_id.clone(), certificate.workload.clone());
            let latest = expiries.entry(holder).or_insert(certificate.not_after);
            *latest = certificate.not_after.max(*latest);
        }
        expiries
    }

    /// The certificates that are valid now.
    pub(crate) fn valid_certificates(&self, now: SystemTime) -> Vec<Arc<Certificate>> {
        self.lock().values().filter(|certificate| certificate.not_after > now).cloned().collect()
    }

    /// What is due from time to time: a new issuing certificate, and forgetting what long expired.
    pub(crate) async fn maintain(&self, now: SystemTime) -> Result<(), CaError> {
        let before = |life: Duration| now.checked_sub(life).unwrap_or(SystemTime::UNIX_EPOCH);
        self.lock().retain(|_, certificate| certificate.not_after >= before(CERTIFICATE_REMEMBERED));
        self.rate.forget(now);
        self.store.prune_certificates(before(CERTIFICATE_REMEMBERED)).await?;
        self.store.prune_tokens(before(TOKEN_REMEMBERED)).await?;
        let authority = self.authority.load_full();
        if authority.issuing_not_after() < now + ISSUING_RENEWAL {
            let same = Authority::from_pem(&authority.to_pem()).map_err(CaError::Authority)?;
            let renewed = same.renew_issuing(now).map_err(CaError::Authority)?;
            self.store.replace_secret("authority", renewed.to_pem().into_bytes()).await?;
            self.authority.store(Arc::new(renewed));
            tracing::info!("renewed the issuing certificate");
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Certificate>>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
