//! The certificate authority: who asks, what it may have, and what was issued.
//!
//! A caller proves itself with a join token or with the certificate it has; the grant of the one is inherited by
//! the other, remembered by serial number.

mod error;
mod files;
mod keeper;
mod kubernetes;
mod own;
mod rate;
mod replaced;
mod revocations;
mod service;
mod shared;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_certs::{CertError, Credentials, IssueParams, Issued, KeyPair, Phase, Progress, Roots};
use weft_core::model::{Name, Revoked, SpiffeId, Trust, TrustDomain};

use crate::leader::Leadership;
use crate::peer::Peer;
use crate::store::{Certificate, Grant, Stamp, Store, StoreError};
use crate::tokens::{TokenError, Tokens};

pub(crate) use error::CaError;
pub(crate) use files::{Files, FilesError};
pub(crate) use keeper::Keeper;
pub(crate) use kubernetes::{Attestor, KubernetesError, TokenSource};
pub(crate) use own::OwnCertificate;
use replaced::Replaced;
use revocations::Revocations;
pub(crate) use service::{IdentityService, status};

/// The secret that roots and keys are kept as.
const AUTHORITY: &str = "authority";
/// The one that says what was trusted of roots in files; their keys are not copied.
const GIVEN: &str = "authority-given";
/// Where everybody is asked for another certificate, so many are signed in a second.
const RENEWALS_PER_SECOND: u32 = 20;
/// How long an expired certificate is remembered; TLS no longer takes it.
const CERTIFICATE_REMEMBERED: Duration = Duration::from_mins(1);
/// How long an expired token is remembered, so that it is listed as such.
const TOKEN_REMEMBERED: Duration = Duration::from_hours(24);

/// How a caller proves who it is.
#[derive(Debug)]
pub(crate) enum Proof<'a> {
    /// A join token, or a service account's.
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
    /// The token that it joined with.
    pub token: String,
}

/// The certificate authority.
pub(crate) struct Ca {
    roots: ArcSwap<Roots>,
    tokens: Tokens,
    store: Store,
    issued: Mutex<HashMap<String, Arc<Certificate>>>,
    replaced: Mutex<Replaced>,
    revocations: Revocations,
    /// Where others keep roots and issuing certificate.
    files: Option<Files>,
    look: files::Look,
    /// Who vouches for service-account tokens.
    accounts: Option<Attestor>,
    /// Held while roots or revocations are changed, lest two changes undo one another: the authority as it stands in the store.
    changing: tokio::sync::Mutex<Stamp>,
    changed: watch::Sender<u64>,
    rate: rate::Rate,
    ttl: Duration,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("roots", &self.roots.load()).finish_non_exhaustive()
    }
}

impl Ca {
    /// The authority in the files, else that in the store, or a new one at the first start.
    pub(crate) async fn open(
        store: Store,
        trust_domain: &TrustDomain,
        files: Option<Files>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let given = files.as_ref().map(|files| files.read(trust_domain, now)).transpose()?;
        let (roots, stamp) = open_roots(&store, trust_domain, given, now).await?;
        let issued = store.certificates().await?;
        let issued: HashMap<_, _> = issued.into_iter().map(|c| (c.serial.clone(), Arc::new(c))).collect();
        let ca = Self {
            roots: ArcSwap::from_pointee(roots),
            tokens: Tokens::open(store.clone(), trust_domain.clone()).await?,
            revocations: Revocations::open(&store).await?,
            files,
            look: files::Look::default(),
            accounts: None,
            store,
            replaced: Mutex::new(Replaced::of(&issued, now)),
            issued: Mutex::new(issued),
            changing: tokio::sync::Mutex::new(stamp),
            changed: watch::Sender::new(0),
            rate: rate::Rate::default(),
            ttl,
        };
        // Before anything else: one that ended while we were away would sign nothing, not even our own certificate.
        ca.renew_issuing(now).await?;
        if ca.roots().is_given() {
            let roots = ca.roots().to_pem().into_bytes();
            ca.store.replace_secret(GIVEN, roots).await?;
        }
        Ok(ca)
    }

    /// The same that takes service-account tokens too.
    pub(crate) fn taking(self, accounts: Option<Attestor>) -> Self {
        Self { accounts, ..self }
    }

    /// Where roots and issuing certificate come from, for people.
    pub(crate) fn source(&self) -> String {
        self.files.as_ref().map_or_else(|| self.store.place().to_owned(), |files| format!("files: {files}"))
    }

    /// What is wrong with where they come from.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.look.trouble()
    }

    /// The join tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The trust domain it speaks for.
    pub(crate) fn trust_domain(&self) -> TrustDomain {
        self.roots.load().trust_domain().clone()
    }

    /// The roots, as they are now.
    pub(crate) fn roots(&self) -> Arc<Roots> {
        self.roots.load_full()
    }

    /// Whom everybody is to believe.
    pub(crate) fn trust(&self) -> Trust {
        let roots = self.roots.load();
        let certificates = u32::try_from(self.lock().len()).unwrap_or(u32::MAX);
        let renewals = Duration::from_secs(1) * certificates / RENEWALS_PER_SECOND;
        Trust {
            trust_domain: roots.trust_domain().clone(),
            sequence: roots.sequence(),
            anchors: roots.anchors(),
            renew_within: renewals.clamp(Duration::from_secs(1), (self.ttl / 3).max(Duration::from_secs(1))),
            revoked: self.revocations.in_force(),
        }
    }

    /// What everyone must trust, as PEM.
    pub(crate) fn anchors_pem(&self) -> String {
        weft_certs::pem::from_certificates(&self.roots.load().anchors())
    }

    /// Whether this is the control plane's own identity.
    pub(crate) fn is_own(&self, identity: &SpiffeId) -> bool {
        own::own_identity(identity.trust_domain()).is_ok_and(|own| own == *identity)
    }

    /// Wakes when another root, another issuing certificate or another revocation is in force.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Checks a caller's proof, who asks for a workload.
    pub(crate) async fn attest(
        &self,
        proof: Proof<'_>,
        workload: &Name,
        now: SystemTime,
    ) -> Result<Claimant, CaError> {
        match proof {
            Proof::Token(text) if !crate::tokens::is_ours(text) => {
                let claimant = self.attest_account(text, workload, now).await?;
                if self.revocations.hold_identity(&claimant.identity) {
                    return Err(CaError::Revoked(Revoked::Identity(claimant.identity)));
                }
                Ok(claimant)
            }
            Proof::Token(text) => {
                let token = self.tokens.redeem(text, now).await?;
                let name = |text: &str| text.parse::<Name>().map_err(|_| CaError::Name(text.into()));
                let (namespace, account) = (name(&token.namespace)?, name(&token.service_account)?);
                let identity = SpiffeId::of_service_account(&self.trust_domain(), &namespace, &account);
                if self.revocations.hold_identity(&identity) {
                    return Err(CaError::Revoked(Revoked::Identity(identity)));
                }
                Ok(Claimant { identity, namespace, grant: token.grant, token: token.id })
            }
            Proof::Certificate(peer) => {
                let claimant = self.known(peer).await?;
                if claimant.token == kubernetes::PROVED_BY {
                    return Err(CaError::ProveAgain);
                }
                if self.store.is_token_revoked(&claimant.token).await? {
                    return Err(TokenError::Revoked(claimant.token).into());
                }
                Ok(claimant)
            }
        }
    }

    /// What the holder of a certificate may claim.
    pub(crate) async fn known(&self, peer: &Peer) -> Result<Claimant, CaError> {
        let certificate = self
            .certificate_of_any(&peer.serial)
            .await?
            .filter(|certificate| certificate.spiffe_id == peer.identity.as_str())
            .ok_or_else(|| CaError::UnknownCertificate(peer.serial.clone()))?;
        let (namespace, _) = peer
            .identity
            .service_account()
            .ok_or_else(|| CaError::NotServiceAccount(peer.identity.clone()))?;
        if let Some(revoked) = self.revocations.hold(&peer.identity, &peer.serial) {
            return Err(CaError::Revoked(revoked));
        }
        let (grant, token) = (certificate.grant.clone(), certificate.token.clone());
        Ok(Claimant { identity: peer.identity.clone(), namespace, grant, token })
    }

    /// What is not believed of a peer any more.
    pub(crate) fn revoked(&self, peer: &Peer) -> Option<Revoked> {
        self.revocations.hold(&peer.identity, &peer.serial)
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
        let issued = self.roots.load().sign(request, &wanted).map_err(CaError::Refused)?;
        let certificate = Certificate {
            serial: issued.serial.clone(),
            namespace: claimant.namespace.to_string(),
            workload: workload.to_string(),
            spiffe_id: claimant.identity.to_string(),
            issuer: issued.issuer.clone(),
            not_before: issued.not_before,
            not_after: issued.not_after,
            grant: claimant.grant,
            root: issued.root.clone(),
            token: claimant.token,
            replaced: false,
        };
        self.store.keep_certificate(&certificate).await?;
        self.lock().insert(certificate.serial.clone(), Arc::new(certificate));
        Ok(issued)
    }

    /// A certificate of our own, for the port that sidecars and the `weft` command call.
    fn own_credentials(&self, names: &own::OwnNames, now: SystemTime) -> Result<Credentials, CertError> {
        let roots = self.roots.load();
        let key = KeyPair::generate()?;
        let own::OwnNames { identity, dns, ips } = names.clone();
        // Our own certificate is checked by sidecars whose clocks differ; minutes are short enough for us.
        let ttl = self.ttl.max(Duration::from_mins(5));
        let wanted = IssueParams { identity, dns, ips, ttl, now };
        let issued = roots.sign_for_latecomers(&weft_certs::request(&key)?, &wanted)?;
        Credentials::new(issued.chain, &key, &roots.anchors(), roots.trust_domain())
    }

    /// The certificate of this serial number, if it is remembered.
    pub(crate) fn certificate(&self, serial: &str) -> Option<Arc<Certificate>> {
        self.lock().get(serial).cloned()
    }

    /// The same, also where another control plane issued it a moment ago.
    async fn certificate_of_any(&self, serial: &str) -> Result<Option<Arc<Certificate>>, StoreError> {
        match self.certificate(serial) {
            None if self.store.is_shared() => {
                let found = self.store.certificate(serial).await?.map(Arc::new);
                if let Some(found) = &found {
                    self.lock().insert(found.serial.clone(), found.clone());
                }
                Ok(found)
            }
            known => Ok(known),
        }
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

    /// Begins a move to another root.
    pub(crate) async fn rotate(&self, now: SystemTime) -> Result<(), CaError> {
        let mut changing = self.begin_change(now).await?;
        let next = self.roots.load().rotate(now).map_err(CaError::Rotate)?;
        self.adopt(&mut changing, next).await?;
        tracing::info!("a new root is announced");
        Ok(())
    }

    /// Gives up a move to another root that is only announced.
    pub(crate) async fn abort(&self, now: SystemTime) -> Result<(), CaError> {
        let mut changing = self.begin_change(now).await?;
        let next = self.roots.load().abort(now).map_err(CaError::Rotate)?;
        self.adopt(&mut changing, next).await?;
        tracing::info!("the new root is given up");
        Ok(())
    }

    /// Takes the next step of a move, where nothing stands in its way; whether it did.
    async fn advance(&self, progress: Progress, now: SystemTime) -> Result<bool, CaError> {
        let next = || self.roots.load().advance(progress, now).map_err(CaError::Authority);
        if next()?.is_none() {
            return Ok(false);
        }
        let mut changing = self.begin_change(now).await?;
        let Some(next) = next()? else { return Ok(false) };
        match next.phase() {
            Phase::Steady => tracing::info!("the former root is dropped"),
            phase => tracing::info!(phase = phase.as_str(), issuing = next.issuer(), "the new root signs"),
        }
        self.adopt(&mut changing, next).await?;
        Ok(true)
    }

    /// Makes another issuing certificate, where that is due.
    async fn renew_issuing(&self, now: SystemTime) -> Result<(), CaError> {
        let next = || self.roots.load().renew_issuing(now).map_err(CaError::Authority);
        if next()?.is_none() {
            return Ok(());
        }
        let mut changing = self.begin_change(now).await?;
        let Some(next) = next()? else { return Ok(()) };
        tracing::info!(issuing = next.issuer(), "renewed the issuing certificate");
        self.adopt(&mut changing, next).await
    }

    /// First it is written down, then it is in force.
    async fn adopt(&self, stamp: &mut Stamp, next: Roots) -> Result<(), CaError> {
        let pem = next.to_pem().into_bytes();
        if next.is_given() {
            self.store.replace_secret(GIVEN, pem).await?;
        } else {
            *stamp = self.store.swap_secret(AUTHORITY, stamp, pem).await?;
        }
        if next.is_given() && !self.roots.load().is_given() {
            // The keys of the former root are forgotten: it signs nothing any more.
            self.store.forget_secret(AUTHORITY).await?;
        }
        self.roots.store(Arc::new(next));
        self.changed.send_modify(|change| *change += 1);
        Ok(())
    }

    /// What is due from time to time: forgetting what long expired; in the store, where it is us to see to it.
    pub(crate) async fn maintain(
        &self,
        leads: &Leadership,
        now: SystemTime,
        past: SystemTime,
    ) -> Result<(), CaError> {
        let before = |life: Duration| past.checked_sub(life).unwrap_or(SystemTime::UNIX_EPOCH);
        {
            let mut issued = self.lock();
            issued.retain(|_, certificate| certificate.not_after >= before(CERTIFICATE_REMEMBERED));
            lock(&self.replaced).retain(|serial| issued.contains_key(serial));
        }
        self.rate.forget(now);
        if !leads.holds() {
            return Ok(());
        }
        self.store.prune_certificates(before(CERTIFICATE_REMEMBERED)).await?;
        // One that was taken back must outlive the certificates that it gave.
        self.store.prune_tokens(before(TOKEN_REMEMBERED.max(self.ttl))).await?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Certificate>>> {
        lock(&self.issued)
    }
}

/// The roots as they were, or a first one. Where there are files now, and were none before, they are followed as soon as the loops
/// run: what there is in the store signs until everybody trusts what they hold.
async fn open_roots(
    store: &Store,
    trust_domain: &TrustDomain,
    given: Option<weft_certs::Authority>,
    now: SystemTime,
) -> Result<(Roots, Stamp), CaError> {
    let text = |pem: Option<Vec<u8>>| pem.map(|pem| String::from_utf8_lossy(&pem).into_owned());
    let (own, stamp) = store.stamped_secret(AUTHORITY).await?;
    let (own, before) = (text(own), text(store.secret(GIVEN).await?));
    let roots = match (given, before, own) {
        (Some(given), None, None) => Roots::given(given, None, now),
        (Some(given), Some(before), _) => Roots::given(given, Some(&before), now),
        (None, Some(_), _) => return Err(CaError::WasGiven),
        (_, None, Some(own)) => Roots::from_pem(&own, now),
        (None, None, None) => {
            let fresh = Roots::create(trust_domain, now).map_err(CaError::Authority)?;
            store.keep_secret(AUTHORITY, fresh.to_pem().into_bytes()).await?;
            let (kept, stamp) = store.stamped_secret(AUTHORITY).await?;
            let roots = Roots::from_pem(&text(kept).unwrap_or_default(), now);
            return Ok((roots.map_err(CaError::Authority)?, stamp));
        }
    };
    Ok((roots.map_err(CaError::Authority)?, stamp))
}

/// Nothing panics while it holds one of these; if it did, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
