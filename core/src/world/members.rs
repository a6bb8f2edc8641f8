//! Who belongs to a service, and to which services somebody belongs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Member, World, service_spec};
use crate::manifest::{Resource, ServiceSpec, SourceKind, Spec};
use crate::model::{Name, QualifiedName};

impl World {
    /// The workloads that belong to a service, by name, ready or not: those that offer it and those that its
    /// document selects.
    pub fn members(&self, service: &QualifiedName) -> BTreeMap<QualifiedName, Member<'_>> {
        let offering = self.offering(service).map(|r| (r.name.clone(), Member::Registered(r)));
        let mut members: BTreeMap<_, _> = offering.chain(self.backing(service)).collect();
        let Some(spec) = self.documented_service(service).filter(|spec| !spec.selector.is_empty()) else {
            return members;
        };
        members.extend(self.selected_by(spec, &service.namespace));
        members
    }

    /// The documented services that select a workload, or that an orchestrator says it is behind, by name.
    pub fn selecting(&self, workload: &QualifiedName) -> BTreeSet<QualifiedName> {
        let Some(member) = self.member(workload) else { return BTreeSet::new() };
        let services = self.services.within(&workload.namespace);
        let selecting = services.filter(|(_, resource)| {
            service_spec(resource).is_some_and(|spec| selects(spec, member.labels()))
        });
        let selecting =
            selecting.map(|(name, _)| QualifiedName::new(workload.namespace.clone(), name.clone()));
        selecting.chain(self.backed(workload)).collect()
    }

    /// A workload. What an orchestrator says of it goes before what it says of itself, and that before a document.
    pub fn member(&self, name: &QualifiedName) -> Option<Member<'_>> {
        let pod = self.pods.get(name).map(Member::Pod);
        let known = pod.or_else(|| self.registrations.get(name).map(Member::Registered));
        known.or_else(|| self.workloads.get(name).and_then(|resource| documented(resource)))
    }

    /// Where a workload is known from.
    pub fn source_of(&self, member: Member<'_>) -> SourceKind {
        let resource = match member {
            Member::Pod(_) => return SourceKind::Kubernetes,
            Member::Registered(_) => return SourceKind::Registry,
            Member::Documented(resource, _) => resource,
        };
        let key = resource.key();
        let mut holding = self.sources.iter().filter(|(_, documents)| documents.contains_key(&key));
        match holding.next() {
            Some((source, _)) if source == SourceKind::Dns.as_str() => SourceKind::Dns,
            Some(_) | None => SourceKind::Documents,
        }
    }

    /// The workloads of a namespace that a service selects, each as it is in force. Labels are looked at first: there may be
    /// many, and few are selected.
    fn selected_by(&self, spec: &ServiceSpec, namespace: &Name) -> Vec<(QualifiedName, Member<'_>)> {
        let documents = self.workloads.within(namespace);
        let documents = documents.filter_map(|(name, resource)| Some((name, documented(resource)?)));
        let registered = self.registrations.within(namespace);
        let registered = registered.map(|(name, registration)| (name, Member::Registered(registration)));
        let pods = self.pods.within(namespace).map(|(name, pod)| (name, Member::Pod(pod)));
        let in_force = |name: &Name, member: &Member<'_>| match member {
            Member::Pod(_) => true,
            Member::Registered(_) => !self.pods.contains_within(namespace, name),
            Member::Documented(..) => {
                !self.pods.contains_within(namespace, name)
                    && !self.registrations.contains_within(namespace, name)
            }
        };
        let all = documents.chain(registered).chain(pods);
        all.filter(|(name, member)| selects(spec, member.labels()) && in_force(name, member))
            .map(|(name, member)| (QualifiedName::new(namespace.clone(), name.clone()), member))
            .collect()
    }
}

impl Member<'_> {
    /// What selectors see.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Registered(registration) => &registration.labels,
            Self::Pod(pod) => &pod.labels,
            Self::Documented(resource, _) => &resource.labels,
        }
    }

    /// Where it is reached.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Registered(registration) => &registration.addresses,
            Self::Pod(pod) => &pod.addresses,
            Self::Documented(_, spec) => std::slice::from_ref(&spec.address),
        }
    }
}

fn selects(service: &ServiceSpec, labels: &BTreeMap<String, String>) -> bool {
    let selector = &service.selector;
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn documented(resource: &Resource) -> Option<Member<'_>> {
    match &resource.spec {
        Spec::Workload(spec) => Some(Member::Documented(resource, spec)),
        _ => None,
    }
}
