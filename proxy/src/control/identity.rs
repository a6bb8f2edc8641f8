//! The identity loop: a new key each time, a certificate for it, renewed at two thirds of its life. The old one serves
//! until it is replaced.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use weft_certs::{CertError, Credentials, KeyPair, alpn, anchored_client_config, pem, trust_domain_of};
use weft_core::model::TrustDomain;
use weft_proto::v1;
use weft_proto::v1::identity_client::IdentityClient;

use super::backoff::Backoff;
use super::cache::{Cache, Identity};
use super::connect::{ConnectError, connect, control_plane_identity};
use super::table::with_causes;
use crate::config::Settings;
use crate::credentials::CredentialStore;

/// How long the signing of a request may take.
const SIGN_LIMIT: Duration = Duration::from_secs(10);

/// The longest sleep between two looks at the clock, which may be set meanwhile.
const NAP: Duration = Duration::from_secs(60);

/// Keeps the [`CredentialStore`] filled.
#[derive(Debug)]
pub(super) struct IdentityLoop {
    pub(super) settings: Arc<Settings>,
    pub(super) store: CredentialStore,
    pub(super) cache: Option<Cache>,
    /// The anchors that the control plane last pushed.
    pub(super) anchors: watch::Receiver<Vec<Vec<u8>>>,
    pub(super) rng: fastrand::Rng,
}

/// What is in force.
struct Current {
    identity: Identity,
    credentials: Credentials,
    renew_at: SystemTime,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("cannot read the file {0}")]
    File(String, #[source] std::io::Error),
    #[error("cannot use the file {0}")]
    Anchors(String, #[source] CertError),
    #[error("the token in {0} cannot be sent: it holds characters that no token has")]
    Token(String),
    #[error("cannot make a key and a request")]
    Key(#[source] CertError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0} refused: {1}")]
    Refused(String, String, Code),
    #[error("{0} did not answer in time")]
    Timeout(String),
    #[error("the certificate that was issued is not usable")]
    Unusable(#[source] CertError),
}

/// How we prove who we are.
enum Proof<'a> {
    Token,
    Certificate(&'a Credentials),
}

impl IdentityLoop {
    /// Works for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        let mut current = self.begin().await;
        loop {
            let wait = match &current {
                Some(current) => current.renew_at.duration_since(SystemTime::now()).unwrap_or_default(),
                None => backoff.next(&mut self.rng),
            };
            tokio::select! {
                () = tokio::time::sleep(wait.min(NAP)) => {}
                Ok(()) = self.anchors.changed() => {
                    if let Some(current) = &mut current {
                        self.trust(current);
                    }
                    continue;
                }
            }
            if wait > NAP {
                continue;
            }
            match self.renew(current.as_ref()).await {
                Ok(identity) => {
                    backoff.reset();
                    match self.adopt(identity) {
                        Ok(adopted) => current = Some(adopted),
                        Err(error) => tracing::error!(error = with_causes(&error), "got no new certificate"),
                    }
                }
                Err(error) => {
                    let retry = backoff.next(&mut self.rng);
                    self.complain(current.as_ref(), &error, retry);
                    if let Some(current) = &mut current {
                        current.renew_at = SystemTime::now() + retry;
                    }
                }
            }
        }
    }

    /// The first certificate: from the control plane, since our token may be for another identity than last time; from
    /// disk where that cannot be had.
    async fn begin(&mut self) -> Option<Current> {
        match self.sign(&Proof::Token).await.and_then(|identity| self.adopt(identity)) {
            Ok(current) => return Some(current),
            Err(error) => tracing::warn!(error = with_causes(&error), "cannot get a certificate yet"),
        }
        let cached = self.cache.as_ref()?.load_identity()?;
        let current = self.put_in_force(cached).ok()?;
        tracing::info!(identity = %current.credentials.identity(), "serving with the certificate from disk");
        Some(current)
    }

    async fn renew(&self, current: Option<&Current>) -> Result<Identity, SignError> {
        let valid = current.filter(|current| SystemTime::now() < current.credentials.not_after());
        let Some(current) = valid else { return self.sign(&Proof::Token).await };
        match self.sign(&Proof::Certificate(&current.credentials)).await {
            Err(SignError::Refused(by, reason, Code::Unauthenticated | Code::PermissionDenied)) => {
                tracing::warn!(by, reason, "our certificate does not renew itself, trying the token");
                self.sign(&Proof::Token).await
            }
            other => other,
        }
    }

    /// Asks each control plane in turn until one answers.
    async fn sign(&self, proof: &Proof<'_>) -> Result<Identity, SignError> {
        let key = KeyPair::generate().map_err(SignError::Key)?;
        let csr = weft_certs::request(&key).map_err(SignError::Key)?;
        let (tls, token) = match proof {
            Proof::Certificate(credentials) => {
                let expected = control_plane_identity(credentials.trust_domain())?;
                (credentials.client_config(&expected, &[alpn::H2]).map_err(ConnectError::Tls)?, None)
            }
            Proof::Token => {
                let (anchors, domain) = self.given_anchors()?;
                let expected = control_plane_identity(&domain)?;
                let tls =
                    anchored_client_config(&anchors, &expected, &[alpn::H2]).map_err(ConnectError::Tls)?;
                (tls, Some(self.token()?))
            }
        };
        let mut outcome = Err(SignError::Timeout("no control plane".into()));
        for target in &self.settings.control_planes {
            let channel = match connect(target, Arc::clone(&tls), self.settings.mark).await {
                Ok(channel) => channel,
                Err(error) => {
                    outcome = Err(error.into());
                    continue;
                }
            };
            let message = v1::SignRequest { csr, workload: self.settings.workload.to_string() };
            let mut request = Request::new(message);
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", token);
            }
            let answer = tokio::time::timeout(SIGN_LIMIT, IdentityClient::new(channel).sign(request)).await;
            return match answer {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    Ok(Identity { key, chain: answer.chain, anchors: answer.anchors })
                }
                Ok(Err(status)) => {
                    Err(SignError::Refused(target.to_string(), status.message().to_owned(), status.code()))
                }
                Err(_) => Err(SignError::Timeout(target.to_string())),
            };
        }
        outcome
    }

    fn adopt(&mut self, identity: Identity) -> Result<Current, SignError> {
        let current = self.put_in_force(identity)?;
        tracing::info!(
            identity = %current.credentials.identity(),
            serial = current.credentials.serial(),
            life = ?current.credentials.not_after().duration_since(SystemTime::now()).unwrap_or_default(),
            "new certificate"
        );
        self.keep(&current.identity);
        Ok(current)
    }

    fn put_in_force(&mut self, identity: Identity) -> Result<Current, SignError> {
        let domain = domain_of(&identity.anchors).map_err(SignError::Unusable)?;
        let credentials = Credentials::new(identity.chain.clone(), &identity.key, &identity.anchors, &domain)
            .map_err(SignError::Unusable)?;
        self.store.replace(credentials.clone());
        let renew_at = credentials.renew_at(SystemTime::now(), &mut self.rng);
        Ok(Current { identity, credentials, renew_at })
    }

    /// Puts pushed anchors in force with the certificate that we have.
    fn trust(&mut self, current: &mut Current) {
        let anchors = self.anchors.borrow_and_update().clone();
        if anchors.is_empty() || anchors == current.identity.anchors {
            return;
        }
        let Identity { key, chain, .. } = &current.identity;
        match Credentials::new(chain.clone(), key, &anchors, current.credentials.trust_domain()) {
            Ok(credentials) => {
                tracing::info!(anchors = anchors.len(), "new trust anchors");
                self.store.replace(credentials.clone());
                current.credentials = credentials;
                current.identity.anchors = anchors;
                self.keep(&current.identity);
            }
            Err(error) => {
                tracing::error!(error = with_causes(&error), "the pushed trust anchors are not usable")
            }
        }
    }

    fn keep(&self, identity: &Identity) {
        if let Some(Err(error)) = self.cache.as_ref().map(|cache| cache.store_identity(identity)) {
            tracing::warn!(%error, "cannot keep the certificate on disk");
        }
    }

    fn complain(&self, current: Option<&Current>, error: &SignError, retry: Duration) {
        let error = with_causes(error);
        let left = current.map(|current| current.credentials.not_after().duration_since(SystemTime::now()));
        match left {
            Some(Ok(left)) => tracing::warn!(error, ?left, ?retry, "cannot renew the certificate"),
            Some(Err(_)) => {
                tracing::error!(error, ?retry, "the certificate has expired and cannot be renewed")
            }
            None => tracing::error!(error, ?retry, "cannot get a certificate"),
        }
    }

    /// The anchors that we were started with, and the trust domain that they are of. Read anew: it may have been mounted
    /// or replaced since.
    fn given_anchors(&self) -> Result<(Vec<Vec<u8>>, TrustDomain), SignError> {
        let path = &self.settings.ca;
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| SignError::File(name(), error))?;
        let anchors = pem::certificates(&text).map_err(|error| SignError::Anchors(name(), error))?;
        let domain = domain_of(&anchors).map_err(|error| SignError::Anchors(name(), error))?;
        Ok((anchors, domain))
    }

    fn token(&self) -> Result<MetadataValue<tonic::metadata::Ascii>, SignError> {
        let path = &self.settings.token_file;
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| SignError::File(name(), error))?;
        let value = format!("Bearer {}", text.trim()).parse::<MetadataValue<_>>();
        let mut value = value.map_err(|_| SignError::Token(name()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn domain_of(anchors: &[Vec<u8>]) -> Result<TrustDomain, CertError> {
    trust_domain_of(anchors.first().ok_or(CertError::NoAnchors)?)
}
