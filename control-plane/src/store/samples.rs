//! Records as tests of several places want them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::{Grant, Registration, Token};

/// A token of `web`'s.
pub(crate) fn token(id: &str, uses_left: Option<u32>) -> Token {
    Token {
        id: id.into(),
        namespace: "default".into(),
        service_account: "web".into(),
        grant: Grant::default(),
        expires: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        uses_left,
        revoked: false,
        admin: None,
    }
}

/// A workload that offers nothing and is not ready.
pub(crate) fn registration(workload: &str) -> Registration {
    Registration {
        namespace: "default".into(),
        workload: workload.into(),
        instance: "1".into(),
        spiffe_id: format!("spiffe://mesh.local/ns/default/sa/{workload}"),
        serial: "01".into(),
        addresses: Vec::new(),
        inbound_port: 4143,
        offers: Vec::new(),
        labels: BTreeMap::new(),
        zone: String::new(),
        version: String::new(),
        replica: String::new(),
        ready: false,
        unhealthy: BTreeSet::new(),
    }
}
