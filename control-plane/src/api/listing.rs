//! status, services, identities.

use std::collections::HashMap;
use std::time::SystemTime;

use tonic::Status;
use weft_core::compile;
use weft_core::model::{Protocol, QualifiedName, ServicePort};
use weft_core::world::Holder;
use weft_proto::v1;

use super::{AdminService, namespace};
use crate::report::rfc3339;
use crate::source::registry::Registered;
use crate::status::{Known, PlaintextCaller, Which};

/// When certificates end, by identity and workload.
type Expiries = HashMap<(String, String), SystemTime>;

/// Those that are connected to others.
type Elsewhere = HashMap<QualifiedName, Known>;

impl AdminService {
    pub(crate) async fn status(&self, request: v1::StatusRequest) -> Result<v1::StatusResponse, Status> {
        let namespace = namespace(&request.namespace)?;
        let wanted = |listed: &Registered| {
            request.all_namespaces || listed.registration.namespace == namespace.as_str()
        };
        let expiries = self.ca.expiries();
        let mut asking = self.together.asking();
        let elsewhere = self.elsewhere(&mut asking, Which::All).await;
        let listed = self.registry.list().into_iter().filter(wanted);
        let sidecars = listed.map(|listed| self.sidecar(listed, &expiries, &elsewhere));
        Ok(v1::StatusResponse {
            sidecars: sidecars.collect(),
            missing: asking.missing().words(),
            revision: self.world.revision(),
            version: env!("CARGO_PKG_VERSION").into(),
        })
    }

    fn sidecar(&self, listed: Registered, expiries: &Expiries, elsewhere: &Elsewhere) -> v1::SidecarStatus {
        let Registered { registration, connected } = listed;
        let identity = registration.spiffe_id.parse::<weft_core::model::SpiffeId>().ok();
        let account = identity.and_then(|identity| identity.service_account());
        let name = registration.namespace.parse().ok().zip(registration.workload.parse().ok());
        let name = name.map(|(namespace, name)| QualifiedName::new(namespace, name));
        // Of one that is connected elsewhere, what is said there, or was said last.
        let here = name.as_ref().and_then(|name| self.live.one(name));
        let known = here.or_else(|| elsewhere.get(name.as_ref()?).cloned());
        let said_last =
            |name: &QualifiedName| self.keeper.others.sync_state(&registration.replica, &name.to_string());
        let (sync, plaintext) = match known {
            Some(Known { sync, plaintext }) => (Some(sync), plaintext),
            None => (name.as_ref().and_then(said_last), Vec::new()),
        };
        let sync = sync.filter(|_| connected).unwrap_or_default();
        let expires = expiries.get(&(registration.spiffe_id.clone(), registration.workload.clone()));
        let rejection = |(resource, reason): (String, String)| {
            let (kind, name) = resource.split_once(' ').unwrap_or_default();
            let kind = v1::Kind::from_str_name(&kind.to_uppercase()).unwrap_or_default();
            let name = Some(v1::ResourceName { kind: kind.into(), name: name.into() });
            v1::Rejection { name, reason }
        };
        let mut services: Vec<_> = registration.offers.iter().map(|offer| offer.service.clone()).collect();
        services.dedup();
        v1::SidecarStatus {
            namespace: registration.namespace,
            workload: registration.workload,
            service_account: account.map(|(_, account)| account.to_string()).unwrap_or_default(),
            connected,
            ready: registration.ready && registration.unhealthy.is_empty(),
            revision: sync.revision,
            in_sync: sync.in_sync,
            rejected: sync.rejected.into_iter().map(rejection).collect(),
            certificate_expires: expires.copied().map(rfc3339).unwrap_or_default(),
            version: registration.version,
            addresses: registration.addresses.iter().map(ToString::to_string).collect(),
            services,
            unhealthy: registration.unhealthy.into_iter().collect(),
            plaintext: plaintext.into_iter().map(|caller| self.plaintext(&caller)).collect(),
        }
    }

    /// Who was let in without an identity, by name where it is known who has the address.
    pub(super) fn plaintext(&self, caller: &PlaintextCaller) -> v1::PlaintextHeard {
        let known = self.world.read(|known| match known.holder(caller.address) {
            Some(Holder::Workload(name) | Holder::Service(name)) => name.to_string(),
            None => String::new(),
        });
        v1::PlaintextHeard {
            caller: known,
            address: caller.address.to_string(),
            port: caller.port.into(),
            last_seen: rfc3339(caller.last_seen),
        }
    }

    pub(super) async fn services(&self, _: v1::ServicesRequest) -> Result<v1::ServicesResponse, Status> {
        Ok(v1::ServicesResponse { services: self.service_summaries() })
    }

    pub(crate) fn service_summaries(&self) -> Vec<v1::ServiceSummary> {
        self.world.read(|known| {
            let summary = |name: QualifiedName| {
                let service = compile::service(known, &name)?;
                Some(v1::ServiceSummary {
                    namespace: name.namespace.to_string(),
                    name: name.name.to_string(),
                    addresses: service.addresses.iter().map(ToString::to_string).collect(),
                    ports: service.ports.iter().map(port).collect(),
                    endpoints: count(known.members(&name).len()),
                    ready: count(
                        compile::endpoints(known, &name)
                            .map_or(0, |all| all.iter().filter(|e| e.healthy).count()),
                    ),
                })
            };
            known.service_names().into_iter().filter_map(summary).collect()
        })
    }

    pub(crate) async fn identities(
        &self,
        request: v1::IdentitiesRequest,
    ) -> Result<v1::IdentitiesResponse, Status> {
        let namespace = namespace(&request.namespace)?;
        let mut certificates = self.ca.valid_certificates(SystemTime::now());
        certificates.retain(|certificate| {
            (request.all_namespaces || certificate.namespace == namespace.as_str())
                && (request.workload.is_empty() || certificate.workload == request.workload)
        });
        certificates.sort_by(|a, b| {
            let key = |c: &crate::store::Certificate| (c.namespace.clone(), c.workload.clone(), c.not_after);
            key(a).cmp(&key(b))
        });
        let identity = |certificate: &std::sync::Arc<crate::store::Certificate>| v1::IssuedIdentity {
            namespace: certificate.namespace.clone(),
            workload: certificate.workload.clone(),
            spiffe_id: certificate.spiffe_id.clone(),
            serial: certificate.serial.clone(),
            issuer: certificate.issuer.clone(),
            not_before: rfc3339(certificate.not_before),
            not_after: rfc3339(certificate.not_after),
        };
        Ok(v1::IdentitiesResponse { identities: certificates.iter().map(identity).collect() })
    }
}

/// `8080/http`.
fn port(port: &ServicePort) -> String {
    format!("{}/{}", port.port, protocol_name(port.protocol).unwrap_or("detect"))
}

/// As `appProtocol` has it; what is found out call by call has none.
pub(super) fn protocol_name(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Detect => None,
        Protocol::Http => Some("http"),
        Protocol::Http2 => Some("http2"),
        Protocol::Grpc => Some("grpc"),
        Protocol::Tcp => Some("tcp"),
        Protocol::Tls => Some("tls"),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
