//! The control plane's own certificate: made at the start, renewed in time, put to use without a restart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio::time::sleep;
use weft_certs::{CertError, ClientAuth, Credentials, ResumingServer, Roots, Schedule, Sessions, alpn};
use weft_core::model::{Name, SpiffeId, TrustDomain};

use super::Ca;
use crate::listen::Settings;
use crate::report::chain;

/// Until a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest sleep between two looks at the clock, which goes on while the machine sleeps, and may be set.
const NAP: Duration = Duration::from_secs(5);

/// Sidecars that may go on where they were when they come back; as many as can be connected.
const SESSIONS: usize = 16_384;

/// What the certificate says.
#[derive(Debug, Clone)]
pub(crate) struct OwnNames {
    /// Whom sidecars and the `weft` command expect to reach.
    pub identity: SpiffeId,
    /// The names that we may be called by.
    pub dns: Vec<String>,
    /// The addresses that we are reached at.
    pub ips: Vec<IpAddr>,
}

/// The certificate, and the TLS settings made from it.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    ca: Arc<Ca>,
    names: OwnNames,
    current: ArcSwap<Credentials>,
    settings: Settings,
    /// Kept over renewals: what is taken up again is judged by what is believed then.
    sessions: Arc<Sessions>,
    /// The same for whom speaks HTTP/1: the API server.
    webhook: Arc<ArcSwap<ServerConfig>>,
}

impl OwnCertificate {
    /// Makes the first one, for a control plane that listens at this address, and is called so too.
    pub(crate) fn new(ca: Arc<Ca>, listens_at: SocketAddr, dns: Vec<String>) -> Result<Arc<Self>, CertError> {
        let names = OwnNames::new(&ca.trust_domain(), listens_at, dns)?;
        let first = ca.own_credentials(&names, SystemTime::now())?;
        let sessions = Sessions::new(SESSIONS);
        let settings = Arc::new(ArcSwap::from_pointee(for_sidecars(&first, &sessions)?));
        let webhook = Arc::new(ArcSwap::new(for_webhook(&first)?));
        Ok(Arc::new(Self { ca, names, current: ArcSwap::from_pointee(first), settings, sessions, webhook }))
    }

    /// The TLS settings in force, now and later.
    pub(crate) fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// The same for the webhook.
    pub(crate) fn webhook_settings(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.webhook.clone()
    }

    /// The TLS settings to reach another control plane of ours with.
    pub(crate) fn client_settings(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, CertError> {
        self.current.load().client_config(&self.names.identity, &[protocol])
    }

    /// Renews it, for ever. Connections that are open keep the one they began with.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut rng = fastrand::Rng::new();
        let mut changes = self.ca.changes();
        let mut schedule = Schedule::new(&self.current.load(), SystemTime::now(), &mut rng);
        let mut roots = self.ca.roots();
        loop {
            let now = SystemTime::now();
            let is_due = schedule.due(now) <= now;
            // Revocations are another matter: whoever is revoked is told so, and needs a connection for that.
            if !is_due && same(&roots, &self.ca.roots()) {
                let wait = schedule.due(now).duration_since(now).unwrap_or_default().min(NAP);
                tokio::select! {
                    () = sleep(wait) => {}
                    // The sender lives in the authority that we hold.
                    _ = changes.changed() => {}
                }
                continue;
            }
            roots = self.ca.roots();
            match self.renew() {
                Ok(()) => schedule = Schedule::new(&self.current.load(), SystemTime::now(), &mut rng),
                Err(error) => {
                    tracing::error!(reason = chain(&error), "cannot renew our own certificate");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn renew(&self) -> Result<(), CertError> {
        let credentials = self.ca.own_credentials(&self.names, SystemTime::now())?;
        self.settings.store(Arc::new(for_sidecars(&credentials, &self.sessions)?));
        self.webhook.store(for_webhook(&credentials)?);
        tracing::info!(serial = %credentials.serial(), "renewed our own certificate");
        self.current.store(Arc::new(credentials));
        Ok(())
    }
}

impl OwnNames {
    fn new(domain: &TrustDomain, listens_at: SocketAddr, more: Vec<String>) -> Result<Self, CertError> {
        let mut dns = vec!["localhost".to_owned(), "weft-control-plane".to_owned()];
        dns.extend(more);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim().to_ascii_lowercase();
        if host.parse::<Name>().is_ok() && !dns.contains(&host) {
            dns.push(host);
        }
        let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        if !listens_at.ip().is_unspecified() && !ips.contains(&listens_at.ip()) {
            ips.push(listens_at.ip());
        }
        Ok(Self { identity: own_identity(domain)?, dns, ips })
    }
}

/// Whom a control plane of this trust domain proves to be.
pub(super) fn own_identity(domain: &TrustDomain) -> Result<SpiffeId, CertError> {
    format!("spiffe://{domain}/ns/weft/sa/control-plane").parse().map_err(CertError::Identity)
}

/// Whether the same is signed with, and the same trusted.
fn same(before: &Roots, now: &Roots) -> bool {
    before.issuer() == now.issuer() && before.anchors() == now.anchors()
}

fn for_sidecars(credentials: &Credentials, sessions: &Arc<Sessions>) -> Result<ResumingServer, CertError> {
    credentials.resuming_server(&[alpn::H2], ClientAuth::Optional, sessions)
}

fn for_webhook(credentials: &Credentials) -> Result<Arc<ServerConfig>, CertError> {
    credentials.server_config(&[alpn::HTTP1], ClientAuth::Optional)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_renewed_certificate_is_used_by_the_next_handshake() {
        let dir = tempfile::tempdir().unwrap();
        let (store, domain) = (Store::open(dir.path()).unwrap(), "mesh.local".parse().unwrap());
        let ca = Ca::open(store, &domain, None, Duration::from_secs(1), SystemTime::now()).await.unwrap();
        let own = OwnCertificate::new(Arc::new(ca), "10.1.2.3:7443".parse().unwrap(), Vec::new()).unwrap();
        let (settings, first) = (own.settings(), own.current.load_full());
        let before = settings.load_full();
        own.renew().unwrap();
        assert!(!Arc::ptr_eq(&before, &settings.load_full()));
        assert_ne!(first.serial(), own.current.load().serial());
        assert_eq!(first.identity().as_str(), "spiffe://mesh.local/ns/weft/sa/control-plane");
        assert!(own.names.ips.contains(&"10.1.2.3".parse().unwrap()));
    }
}
