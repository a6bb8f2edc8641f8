//! Our certificate and key, as the identity loop last had them signed: read by every handshake, never waited for.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use weft_certs::Credentials;

/// The credentials in force. Cheap to clone; one for everybody who shakes hands.
#[derive(Debug, Clone)]
pub struct CredentialStore {
    current: Arc<ArcSwapOption<(u64, Credentials)>>,
    generation: watch::Sender<u64>,
}

impl Default for CredentialStore {
    fn default() -> Self {
        Self { current: Arc::default(), generation: watch::Sender::new(0) }
    }
}

impl CredentialStore {
    /// The credentials in force and their generation, which differs from that of any earlier ones; none before the
    /// first certificate. TLS settings made from them hold as long as the generation stays.
    pub fn current(&self) -> Option<(u64, Credentials)> {
        self.current.load().as_deref().cloned()
    }

    /// Puts new credentials in force. Connections that are open keep the ones they were made with.
    pub fn replace(&self, credentials: Credentials) {
        self.generation.send_modify(|generation| {
            *generation += 1;
            self.current.store(Some(Arc::new((*generation, credentials))));
        });
    }

    /// Wakes at each replacement; holds the generation, 0 before the first.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use weft_certs::{Authority, IssueParams, KeyPair};

    use super::*;

    #[test]
    fn each_replacement_is_a_new_generation() {
        let store = CredentialStore::default();
        assert!(store.current().is_none());
        let domain = "mesh.local".parse().unwrap();
        let authority = Authority::create(&domain, SystemTime::now()).unwrap();
        for generation in 1..=2 {
            let key = KeyPair::generate().unwrap();
            let wanted = IssueParams {
                identity: "spiffe://mesh.local/ns/default/sa/web".parse().unwrap(),
                dns: Vec::new(),
                ips: Vec::new(),
                ttl: Duration::from_secs(60),
                now: SystemTime::now(),
            };
            let issued = authority.sign(&weft_certs::request(&key).unwrap(), &wanted).unwrap();
            let serial = issued.serial.clone();
            store.replace(Credentials::new(issued.chain, &key, &authority.anchors(), &domain).unwrap());
            let (seen, credentials) = store.current().unwrap();
            assert_eq!((seen, credentials.serial().as_str()), (generation, serial.as_str()));
        }
        assert_eq!(*store.changes().borrow(), 2);
    }
}
