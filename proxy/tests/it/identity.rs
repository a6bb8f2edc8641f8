//! What the sidecars of tests prove themselves by. The unit tests of the crate have this file, too.

use std::time::{Duration, SystemTime};

use weft_certs::{Authority, Credentials, IssueParams, KeyPair};
use weft_core::model::{SpiffeId, TrustDomain};

pub(crate) fn domain() -> TrustDomain {
    "mesh.local".parse().unwrap()
}

pub(crate) fn identity(account: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/default/sa/{account}").parse().unwrap()
}

/// Someone who signs for our domain.
pub(crate) fn authority() -> Authority {
    Authority::create(&domain(), SystemTime::now()).unwrap()
}

/// What `authority` makes for a service account, for an hour.
pub(crate) fn credentials(authority: &Authority, account: &str) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let wanted = IssueParams {
        identity: identity(account),
        dns: Vec::new(),
        ips: Vec::new(),
        ttl: Duration::from_secs(3600),
        now: SystemTime::now(),
    };
    let issued = authority.sign(&weft_certs::request(&key).unwrap(), &wanted).unwrap();
    Credentials::new(issued.chain, &key, &authority.anchors(), &domain()).unwrap()
}
