//! The identity loop: a new key each time, a certificate for it, renewed at two thirds of its life. The old one serves
//! until it is replaced.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use weft_certs::{
    CertError, Credentials, KeyPair, Proof, Schedule, alpn, anchored_client_config, peer_identity, pem,
    trust_domain_of,
};
use weft_core::model::{Revoked, Trust, TrustDomain};
use weft_proto::v1;
use weft_proto::v1::identity_client::IdentityClient;

use super::backoff::Backoff;
use super::cache::{Cache, Identity};
use super::connect::{ConnectError, Security, connect, control_plane_identity};
use super::table::with_causes;
use crate::config::Settings;
use crate::credentials::CredentialStore;

/// How long the signing of a request may take.
const SIGN_LIMIT: Duration = Duration::from_secs(10);

/// The longest sleep between two looks at the clock, which goes on while the machine sleeps, and may be set.
const NAP: Duration = Duration::from_secs(15);

/// Keeps the [`CredentialStore`] filled.
#[derive(Debug)]
pub(super) struct IdentityLoop {
    pub(super) settings: Arc<Settings>,
    pub(super) store: CredentialStore,
    pub(super) cache: Option<Cache>,
    /// What the control plane last pushed.
    pub(super) trust: watch::Receiver<Option<Arc<Trust>>>,
    /// Hears that our certificate is not taken.
    pub(super) refused: Arc<Notify>,
    /// What the log has last said of renewals that fail.
    pub(super) alarm: Option<Alarm>,
    pub(super) rng: fastrand::Rng,
}

/// What is in force.
struct Current {
    identity: Identity,
    credentials: Credentials,
    revoked: Vec<Revoked>,
    schedule: Schedule,
}

/// How bad it is that there is no new certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// There is time enough.
    Failing,
    /// Most of the certificate's life is over.
    Late,
    /// It proves nothing any more, or there has never been one.
    None,
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
    #[error(
        "{0} does not lead to the roots in {1}: where the mesh has moved to another root, fetch its ca.pem anew"
    )]
    OtherRoots(String, String, #[source] ConnectError),
    #[error("{0} refused: {1}")]
    Refused(String, String, Code),
    #[error("{0} did not answer in time")]
    Timeout(String),
    #[error("the certificate that was issued is not usable")]
    Unusable(#[source] CertError),
}

/// How we prove who we are.
enum Means<'a> {
    /// With our token; beside the roots that we were started with, we trust those.
    Token(&'a [Vec<u8>]),
    Certificate(&'a Credentials),
}

impl IdentityLoop {
    /// Works for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        let mut current = self.begin().await;
        // Counted by a clock that nobody sets.
        let mut retry: Option<Instant> =
            current.is_none().then(|| Instant::now() + backoff.next(&mut self.rng));
        loop {
            let now = SystemTime::now();
            let wait = match (&current, retry) {
                (_, Some(at)) => at.saturating_duration_since(Instant::now()),
                (Some(current), None) => current.schedule.due(now).duration_since(now).unwrap_or_default(),
                (None, None) => Duration::ZERO,
            };
            let mut refused = false;
            tokio::select! {
                () = tokio::time::sleep(wait.min(NAP)) => {}
                // The control plane's last word on it holds, but not the moment that it was said in.
                () = self.refused.notified(), if retry.is_none() => refused = true,
                Ok(()) = self.trust.changed() => {
                    if let Some(current) = &mut current {
                        self.believe(current);
                    }
                    continue;
                }
            }
            if wait > NAP && !refused {
                continue;
            }
            let renewed = match &current {
                Some(current) if !refused => self.renew(current).await,
                _ => self.sign(&Means::Token(held(current.as_ref()))).await,
            };
            match renewed.and_then(|identity| self.adopt(identity)) {
                Ok(adopted) => {
                    backoff.reset();
                    (current, retry, self.alarm) = (Some(adopted), None, None);
                }
                Err(error) => {
                    let wait = backoff.next(&mut self.rng);
                    self.complain(current.as_ref(), &error, wait);
                    retry = Some(Instant::now() + wait);
                }
            }
        }
    }

    /// The first certificate: from the control plane, since our token may be for another identity than last time; from
    /// disk where that cannot be had.
    async fn begin(&mut self) -> Option<Current> {
        let cached = self.cache.as_ref().and_then(Cache::load_identity);
        let anchors = cached.as_ref().map(|cached| cached.anchors.clone()).unwrap_or_default();
        match self.sign(&Means::Token(&anchors)).await.and_then(|identity| self.adopt(identity)) {
            Ok(current) => return Some(current),
            Err(error) => tracing::warn!(error = with_causes(&error), "cannot get a certificate yet"),
        }
        let current = self.put_in_force(cached?).ok()?;
        tracing::info!(identity = %current.credentials.identity(), "serving with the certificate from disk");
        Some(current)
    }

    async fn renew(&self, current: &Current) -> Result<Identity, SignError> {
        let with_token = Means::Token(&current.identity.anchors);
        if current.schedule.proof(SystemTime::now()) == Proof::Token {
            return self.sign(&with_token).await;
        }
        match self.sign(&Means::Certificate(&current.credentials)).await {
            Err(SignError::Refused(by, reason, Code::Unauthenticated | Code::PermissionDenied)) => {
                tracing::info!(by, reason, "our certificate does not renew itself, trying the token");
                self.sign(&with_token).await
            }
            other => other,
        }
    }

    /// Asks each control plane in turn until one answers.
    async fn sign(&self, means: &Means<'_>) -> Result<Identity, SignError> {
        let key = KeyPair::generate().map_err(SignError::Key)?;
        let csr = weft_certs::request(&key).map_err(SignError::Key)?;
        let (tls, token) = match means {
            Means::Certificate(credentials) => {
                let expected = control_plane_identity(credentials.trust_domain())?;
                (credentials.client_config(&expected, &[alpn::H2]).map_err(ConnectError::Tls)?, None)
            }
            Means::Token(held) => {
                let (anchors, domain) = self.anchors(held)?;
                let expected = control_plane_identity(&domain)?;
                let tls =
                    anchored_client_config(&anchors, &expected, &[alpn::H2]).map_err(ConnectError::Tls)?;
                (tls, Some(self.token()?))
            }
        };
        let mut outcome = Err(SignError::Timeout("no control plane".into()));
        for target in &self.settings.control_planes {
            let channel = match connect(target, Security::Anew(Arc::clone(&tls)), self.settings.mark).await {
                Ok(channel) => channel,
                Err(error) => {
                    outcome = Err(self.unconnected(target.to_string(), error));
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
                    let v1::SignResponse { chain, anchors, sequence, .. } = answer;
                    Ok(Identity { key, chain, anchors, sequence })
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
            serial = %current.credentials.serial(),
            life = ?current.credentials.not_after().duration_since(SystemTime::now()).unwrap_or_default(),
            "new certificate"
        );
        self.keep(&current.identity);
        Ok(current)
    }

    /// Believes whom the newer of two words says: the one that came with the certificate, and the one that was pushed.
    fn put_in_force(&mut self, mut identity: Identity) -> Result<Current, SignError> {
        let pushed = self.trust.borrow_and_update().clone();
        let revoked = pushed.as_ref().map(|pushed| pushed.revoked.clone()).unwrap_or_default();
        if let Some(pushed) = pushed.filter(|pushed| pushed.sequence > identity.sequence) {
            (identity.anchors, identity.sequence) = (pushed.anchors.clone(), pushed.sequence);
        }
        let credentials = credentials(&identity, &revoked).map_err(SignError::Unusable)?;
        self.store.replace(credentials.clone());
        let schedule = Schedule::new(&credentials, SystemTime::now(), &mut self.rng);
        let mut current = Current { identity, credentials, revoked, schedule };
        self.hasten(&mut current);
        Ok(current)
    }

    /// Believes whom the control plane says, from now on.
    fn believe(&mut self, current: &mut Current) {
        let Some(pushed) = self.trust.borrow_and_update().clone() else { return };
        // What was on disk may be older than what came with the certificate.
        if pushed.anchors.is_empty() || pushed.sequence < current.identity.sequence {
            return;
        }
        if (&pushed.anchors, &pushed.revoked) == (&current.identity.anchors, &current.revoked) {
            return;
        }
        let Identity { key, chain, .. } = &current.identity;
        match renewed((key, chain), &pushed) {
            Ok(credentials) => {
                let (anchors, revoked) = (pushed.anchors.len(), pushed.revoked.len());
                tracing::info!(anchors, revoked, sequence = pushed.sequence, "believing others from now on");
                self.store.replace(credentials.clone());
                current.credentials = credentials;
                current.revoked.clone_from(&pushed.revoked);
                current.identity.anchors.clone_from(&pushed.anchors);
                current.identity.sequence = pushed.sequence;
                self.keep(&current.identity);
                self.hasten(current);
            }
            Err(error) => {
                tracing::error!(error = with_causes(&error), "the pushed trust anchors are not usable")
            }
        }
    }

    /// A certificate of a root that is on its way out is renewed soon.
    fn hasten(&mut self, current: &mut Current) {
        let within = self.trust.borrow().as_ref().map(|pushed| pushed.renew_within);
        if let Some(within) = within.filter(|_| !current.credentials.is_of_first_anchor()) {
            current.schedule.hasten(SystemTime::now(), within, &mut self.rng);
        }
    }

    fn keep(&self, identity: &Identity) {
        if let Some(Err(error)) = self.cache.as_ref().map(|cache| cache.store_identity(identity)) {
            tracing::warn!(%error, "cannot keep the certificate on disk");
        }
    }

    /// Says it once, and again when it gets worse.
    fn complain(&mut self, current: Option<&Current>, error: &SignError, retry: Duration) {
        let (error, now) = (with_causes(error), SystemTime::now());
        let alarm = match current {
            Some(current) if current.schedule.proof(now) == Proof::Token => Alarm::None,
            Some(current) if current.schedule.is_late(now) => Alarm::Late,
            Some(_) => Alarm::Failing,
            None => Alarm::None,
        };
        if self.alarm >= Some(alarm) {
            return tracing::debug!(error, ?retry, "still no new certificate");
        }
        self.alarm = Some(alarm);
        let left = current.and_then(|current| current.credentials.not_after().duration_since(now).ok());
        match alarm {
            Alarm::Failing => tracing::warn!(error, ?left, ?retry, "cannot renew the certificate"),
            Alarm::Late => tracing::error!(error, ?left, "cannot renew the certificate, which ends soon"),
            Alarm::None => tracing::error!(error, "there is no valid certificate, and no new one"),
        }
    }

    fn unconnected(&self, target: String, error: ConnectError) -> SignError {
        if with_causes(&error).contains("UnknownIssuer") {
            return SignError::OtherRoots(target, self.settings.ca.display().to_string(), error);
        }
        error.into()
    }

    /// The anchors that we were started with, those that we have heard of since, and the trust domain that they are of.
    /// Read anew: the file may have been mounted or replaced.
    fn anchors(&self, held: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, TrustDomain), SignError> {
        let path = &self.settings.ca;
        let name = || path.display().to_string();
        let given = std::fs::read_to_string(path).map_err(|error| SignError::File(name(), error));
        let given = given
            .and_then(|text| pem::certificates(&text).map_err(|error| SignError::Anchors(name(), error)));
        let mut anchors = match given {
            Err(error) if held.is_empty() => return Err(error),
            given => given.unwrap_or_default(),
        };
        anchors.extend(held.iter().filter(|anchor| !anchors.contains(anchor)).cloned().collect::<Vec<_>>());
        let first = anchors.first().ok_or(CertError::NoAnchors);
        let domain = first.and_then(|first| trust_domain_of(first));
        Ok((anchors, domain.map_err(|error| SignError::Anchors(name(), error))?))
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

/// The anchors that we have heard of.
fn held(current: Option<&Current>) -> &[Vec<u8>] {
    current.map_or(&[], |current| &current.identity.anchors)
}

fn credentials(identity: &Identity, revoked: &[Revoked]) -> Result<Credentials, CertError> {
    let Identity { key, chain, anchors, .. } = identity;
    let own = peer_identity(chain.first().ok_or(CertError::EmptyChain)?)?;
    Ok(Credentials::new(chain.clone(), key, anchors, own.trust_domain())?.refusing(revoked))
}

/// The same certificate, believing others.
fn renewed((key, chain): (&KeyPair, &[Vec<u8>]), trust: &Trust) -> Result<Credentials, CertError> {
    let credentials = Credentials::new(chain.to_vec(), key, &trust.anchors, &trust.trust_domain)?;
    Ok(credentials.refusing(&trust.revoked))
}
