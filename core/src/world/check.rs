//! What resources that are right by themselves would do wrong among the others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Holder, World, policies};
use crate::manifest::{
    Kind, Problem, Reference, Resource, ResourceKey, ServiceAddresses, Spec, Target, nearest,
};

impl World {
    /// What would be wrong if these were all that a source holds. Nothing of it may be put into force then.
    pub fn check(&self, source: &str, resources: &[Resource]) -> Vec<Problem> {
        let others: BTreeMap<&ResourceKey, &Resource> = self
            .sources
            .iter()
            .filter(|(other, _)| *other != source)
            .flat_map(|(_, documents)| documents.iter().map(|(key, resource)| (key, Arc::as_ref(resource))))
            .collect();
        let all: Vec<&Resource> = resources.iter().chain(others.values().copied()).collect();
        let mut problems = Vec::new();
        let mut addresses = HashMap::new();
        for resource in others.values().copied() {
            for address in fixed_addresses(resource) {
                addresses.entry(*address).or_insert(resource);
            }
        }
        for resource in resources {
            if let Some(other) = others.get(&resource.key()) {
                let message = format!("{} is also at {}:{}", resource.key(), other.file, other.line);
                problems.push(resource.problem(
                    "",
                    message,
                    "delete it there first, or leave it out here".to_owned(),
                ));
            }
            problems.extend(check_namesakes(resource, &all));
            problems.extend(policies::check(resource, &all));
            problems.extend(self.check_trust_domain(resource));
            problems.extend(self.check_workload_address(resource));
            self.check_service_addresses(resource, &mut addresses, &mut problems);
            let references = resource.references();
            problems
                .extend(references.iter().filter_map(|reference| check_reference(resource, reference, &all)));
        }
        problems
    }

    fn check_trust_domain(&self, resource: &Resource) -> Option<Problem> {
        let Spec::MeshConfig(spec) = &resource.spec else { return None };
        let ours = &self.defaults.trust_domain;
        let theirs = spec.trust_domain.as_ref().filter(|theirs| *theirs != ours)?;
        let message =
            format!("spec.trustDomain is {theirs}, but this control plane's authority is that of {ours}");
        let hint = format!("write {ours}, or start a new control plane with --trust-domain {theirs}");
        Some(resource.problem("spec.trustDomain", message, hint))
    }

    fn check_workload_address(&self, resource: &Resource) -> Option<Problem> {
        let Spec::Workload(spec) = &resource.spec else { return None };
        let range = self.defaults.service_cidrs.iter().find(|range| range.contains(spec.address))?;
        let message = format!("spec.address: {} is in {range}, which is the mesh's own", spec.address);
        Some(resource.problem("spec.address", message, "write the address where it is reached".to_owned()))
    }

    fn check_service_addresses<'r>(
        &self,
        resource: &'r Resource,
        addresses: &mut HashMap<IpAddr, &'r Resource>,
        problems: &mut Vec<Problem>,
    ) {
        for address in fixed_addresses(resource) {
            let hint = "choose another address, or leave it to the mesh".to_owned();
            let path = format!("address {address}");
            if let Some(other) = addresses.get(address).filter(|other| other.key() != resource.key()) {
                let message =
                    format!("{address} is that of {} at {}:{}", other.key(), other.file, other.line);
                problems.push(resource.problem(&path, message, hint));
                continue;
            }
            addresses.insert(*address, resource);
            // A service whose address is fixed is in the map; what is left was given out by the mesh, or is a workload's.
            let message = match self.holder(*address) {
                Some(Holder::Service(name))
                    if Some(name) != resource.qualified_name().as_ref()
                        && self.allocated.contains_key(name) =>
                {
                    format!("{address} is that of the service {name}")
                }
                Some(Holder::Workload(name)) => format!("{address} is that of the workload {name}"),
                Some(Holder::Service(_)) | None => continue,
            };
            problems.push(resource.problem(&path, message, hint));
        }
    }
}

/// A name stands for a service of the mesh or for one outside, and cannot stand for both.
fn check_namesakes(resource: &Resource, all: &[&Resource]) -> Option<Problem> {
    let Spec::ExternalService(_) = &resource.spec else { return None };
    let other = all
        .iter()
        .find(|other| other.kind == Kind::Service && other.qualified_name() == resource.qualified_name())?;
    let message = format!("{} at {}:{} has the same name", other.key(), other.file, other.line);
    Some(resource.problem("", message, "name one of them otherwise".to_owned()))
}

fn fixed_addresses(resource: &Resource) -> &[IpAddr] {
    match &resource.spec {
        Spec::Service(spec) => match &spec.addresses {
            ServiceAddresses::Fixed(addresses) => addresses,
            ServiceAddresses::Chosen | ServiceAddresses::Headless => &[],
        },
        _ => &[],
    }
}

/// A port's name must be known to one of the documented workloads that a selector picks, if there are any:
/// those that register themselves say which of their ports they mean.
fn check_reference(resource: &Resource, reference: &Reference, all: &[&Resource]) -> Option<Problem> {
    let Target::NamedPort { name, selector } = &reference.target;
    let selected = all.iter().filter(|other| {
        let labelled = selector.iter().all(|(key, value)| other.labels.get(key) == Some(value));
        other.kind == Kind::Workload
            && other.namespace == resource.namespace
            && !selector.is_empty()
            && labelled
    });
    let mut ports = Vec::new();
    let mut found = false;
    for workload in selected {
        let Spec::Workload(spec) = &workload.spec else { continue };
        found = true;
        ports.extend(spec.ports.iter().map(|port| port.name.as_str()).filter(|name| !name.is_empty()));
    }
    if !found || ports.contains(&name.as_str()) {
        return None;
    }
    let message = format!("{}: no workload that the service selects has a port named {name:?}", reference.at);
    let hint = nearest(name, ports).map_or_else(
        || "name a port of the Workload so, or write its number".to_owned(),
        |near| format!("did you mean {near:?}?"),
    );
    Some(resource.problem(&reference.at, message, hint))
}
