//! A sidecar's first message: checked against its certificate's grant, then registered.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Status;
use weft_core::manifest::{is_label_key, is_label_value};
use weft_core::model::{Name, QualifiedName, ResourceName};
use weft_proto::convert::{ConvertError, address_from_wire, port_from_wire, protocol_from_wire};
use weft_proto::v1;

use super::Shared;
use crate::ca::Claimant;
use crate::peer::Peer;
use crate::push::{ProtocolError, Session};
use crate::report::chain;
use crate::source::registry::{AnnounceError, Lease};
use crate::store::{Grant, Offer, OfferedPort, Registration};

const MOST_ADDRESSES: usize = 16;
const MOST_OFFERS: usize = 64;
const MOST_LABELS: usize = 64;
const LONGEST_TEXT: usize = 253;

/// A registered sidecar, ready to be told things.
pub(super) struct Announced {
    pub(super) workload: QualifiedName,
    pub(super) lease: Lease,
    pub(super) session: Session,
}

/// Reads, checks and registers; the status says what was wrong.
pub(super) fn read(
    shared: &Shared,
    peer: &Peer,
    claimant: &Claimant,
    hello: v1::Hello,
) -> Result<Announced, Status> {
    let name: Name = parsed("workload", &hello.workload)?;
    let workload = QualifiedName::new(claimant.namespace.clone(), name);
    let own = [
        ResourceName::Mesh,
        ResourceName::Trust(shared.trust_domain.clone()),
        ResourceName::Workload(workload.clone()),
    ];
    let session = Session::new(own, &hello.held).map_err(violation)?;
    let registration = registration(peer, claimant, &workload, hello)?;
    let instance = registration.instance.clone();
    let version = registration.version.clone();
    let lease = shared.registry.announce(workload.clone(), registration).map_err(|error| match error {
        AnnounceError::Taken { .. } => Status::already_exists(error.to_string()),
        AnnounceError::Superseded(_) => Status::aborted(error.to_string()),
        AnnounceError::TooMany => Status::resource_exhausted(error.to_string()),
    })?;
    tracing::info!(%workload, identity = %claimant.identity, instance, version, "connected");
    Ok(Announced { workload, lease, session })
}

/// What a sidecar may not do.
pub(super) fn violation(error: ProtocolError) -> Status {
    match error {
        ProtocolError::TooMany => Status::resource_exhausted(error.to_string()),
        ProtocolError::Name(_) | ProtocolError::Epoch(_) => Status::invalid_argument(chain(&error)),
    }
}

fn registration(
    peer: &Peer,
    claimant: &Claimant,
    workload: &QualifiedName,
    hello: v1::Hello,
) -> Result<Registration, Status> {
    most("addresses", hello.addresses.len(), MOST_ADDRESSES)?;
    most("offers", hello.offers.len(), MOST_OFFERS)?;
    most("labels", hello.labels.len(), MOST_LABELS)?;
    for (field, text) in [("instance", &hello.instance), ("version", &hello.version), ("zone", &hello.zone)] {
        most(field, text.len(), LONGEST_TEXT)?;
    }
    if hello.instance.is_empty() {
        return Err(Status::invalid_argument("instance is missing"));
    }
    let addresses = hello.addresses.iter().map(|bytes| address_from_wire(bytes));
    Ok(Registration {
        namespace: workload.namespace.to_string(),
        workload: workload.name.to_string(),
        instance: hello.instance,
        spiffe_id: claimant.identity.to_string(),
        serial: peer.serial.clone(),
        addresses: addresses
            .collect::<Result<_, _>>()
            .map_err(|e| Status::invalid_argument(e.to_string()))?,
        inbound_port: port_from_wire("inbound_port", hello.inbound_port)
            .map_err(|e| Status::invalid_argument(e.to_string()))?,
        offers: offers(&claimant.grant, workload, &hello.offers)?,
        labels: labels(&claimant.grant, hello.labels.into_iter().collect())?,
        zone: hello.zone,
        version: hello.version,
        replica: String::new(),
        ready: false,
        unhealthy: BTreeSet::new(),
    })
}

fn offers(grant: &Grant, workload: &QualifiedName, wire: &[v1::Offer]) -> Result<Vec<Offer>, Status> {
    let mut seen = BTreeSet::new();
    let mut offers = Vec::with_capacity(wire.len());
    for offer in wire {
        let invalid =
            |error: ConvertError| Status::invalid_argument(format!("offer of {:?}: {error}", offer.service));
        let service: Name = parsed("an offered service", &offer.service)?;
        if !grant.services.contains(service.as_str()) {
            return Err(Status::permission_denied(format!(
                "{workload} may not offer the service {service}: its token grants {}; make one with `weft token create --service {service}`",
                listed(&grant.services),
            )));
        }
        let port = offered_port(offer).map_err(invalid)?;
        if !seen.insert((service.clone(), port.map(|offered| offered.port))) {
            let port = port.map(|offered| format!(":{}", offered.port)).unwrap_or_default();
            return Err(Status::invalid_argument(format!("{service}{port} is offered twice")));
        }
        offers.push(Offer { service: service.to_string(), port });
    }
    Ok(offers)
}

/// One port, or none for every port.
fn offered_port(offer: &v1::Offer) -> Result<Option<OfferedPort>, ConvertError> {
    if (offer.port, offer.target_port) == (0, 0) {
        return Ok(None);
    }
    let port = port_from_wire("port", offer.port)?;
    let target_port = port_from_wire("target_port", offer.target_port)?;
    protocol_from_wire(offer.protocol)?;
    Ok(Some(OfferedPort { port, target_port, protocol: offer.protocol }))
}

fn labels(grant: &Grant, asked: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Status> {
    if let Some((key, value)) = asked.iter().find(|(key, value)| !is_label_key(key) || !is_label_value(value))
    {
        return Err(Status::invalid_argument(format!("{key:?}: {value:?} is no label")));
    }
    if grant.labels.is_empty() {
        return Ok(asked);
    }
    match asked.iter().find(|(key, value)| grant.labels.get(*key) != Some(value)) {
        Some((key, value)) => {
            let pinned: Vec<_> = grant.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let pinned = pinned.join(", ");
            Err(Status::permission_denied(format!(
                "the label {key}={value} is refused: the token pins {pinned}"
            )))
        }
        None => Ok(grant.labels.clone()),
    }
}

fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "no service".to_owned();
    }
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn parsed(field: &str, text: &str) -> Result<Name, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn most(field: &str, found: usize, limit: usize) -> Result<(), Status> {
    if found <= limit {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{field}: {found} are more than {limit}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(labels: &[(&str, &str)]) -> Grant {
        Grant { services: ["orders".to_owned()].into(), labels: map(labels) }
    }

    fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_granted_services_may_be_offered_each_port_once() {
        let workload = "default/orders-1".parse().unwrap();
        let offer = |service: &str| v1::Offer {
            service: service.into(),
            port: 80,
            target_port: 8080,
            protocol: v1::Protocol::Http.into(),
        };
        let check = |wire: &[v1::Offer]| offers(&grant(&[]), &workload, wire).map_err(|s| s.code());
        assert_eq!(check(&[offer("orders")]).unwrap().len(), 1);
        assert_eq!(check(&[offer("payments")]), Err(tonic::Code::PermissionDenied));
        assert_eq!(check(&[offer("orders"), offer("orders")]), Err(tonic::Code::InvalidArgument));
        assert_eq!(check(&[v1::Offer { port: 0, ..offer("orders") }]), Err(tonic::Code::InvalidArgument));
    }

    #[test]
    fn pinned_labels_are_given_and_others_refused() {
        let free = labels(&grant(&[]), map(&[("app", "x")])).unwrap();
        assert_eq!(free, map(&[("app", "x")]));
        let pinned = grant(&[("app", "orders"), ("tier", "back")]);
        assert_eq!(labels(&pinned, map(&[("app", "orders")])).unwrap(), pinned.labels);
        let refused = labels(&pinned, map(&[("app", "payments")])).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert_eq!(labels(&pinned, map(&[("zone", "a")])).unwrap_err().code(), tonic::Code::PermissionDenied);
        assert_eq!(
            labels(&grant(&[]), map(&[("a b", "")])).unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }
}
