//! Routes and grants among what is known: which service they are for, and what they allow.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::World;
use crate::manifest::{Kind, Resource, ResourceKey, RouteSpec, Spec};
use crate::model::{Name, QualifiedName};

impl World {
    /// The routes that name a service as their parent.
    pub fn routes_of(&self, service: &QualifiedName) -> impl Iterator<Item = (&Resource, &RouteSpec)> {
        let keys = self.attached.get(service).into_iter().flatten();
        keys.filter_map(|key| self.routes.get(key)).filter_map(|resource| match &resource.spec {
            Spec::Route(spec) => Some((&**resource, spec)),
            _ => None,
        })
    }

    /// Whether the owner of a service's namespace lets routes of this kind and namespace send traffic to it.
    pub fn grants(&self, kind: Kind, from: &Name, to: &QualifiedName) -> bool {
        let theirs = self.grants.iter().filter(|(key, _)| key.namespace.as_ref() == Some(&to.namespace));
        let mut specs = theirs.filter_map(|(_, resource)| match &resource.spec {
            Spec::ReferenceGrant(spec) => Some(spec),
            _ => None,
        });
        specs.any(|grant| {
            grant.from.iter().any(|(route, namespace)| (*route, namespace) == (kind, from))
                && grant.to.iter().any(|name| name.as_ref().is_none_or(|name| *name == to.name))
        })
    }

    /// The services that a route names as its parents.
    pub(super) fn parents(&self, key: &ResourceKey) -> BTreeSet<QualifiedName> {
        self.routes.get(key).map(|resource| named_parents(resource)).unwrap_or_default()
    }

    /// Every service that some route is for.
    pub(super) fn routed_services(&self) -> impl Iterator<Item = QualifiedName> {
        self.attached.iter().map(|(service, _)| service)
    }

    pub(super) fn put_route_in_force(&mut self, key: &ResourceKey, resource: Option<&Arc<Resource>>) {
        for service in self.parents(key) {
            let Some(attached) = self.attached.get_mut(&service) else { continue };
            attached.remove(key);
            if attached.is_empty() {
                self.attached.remove(&service);
            }
        }
        self.routes.remove(key);
        let Some(resource) = resource else { return };
        for service in named_parents(resource) {
            match self.attached.get_mut(&service) {
                Some(attached) => drop(attached.insert(key.clone())),
                None => self.attached.insert(service, BTreeSet::from([key.clone()])),
            }
        }
        self.routes.insert(key.clone(), Arc::clone(resource));
    }

    pub(super) fn put_grant_in_force(&mut self, key: &ResourceKey, resource: Option<&Arc<Resource>>) {
        match resource {
            Some(resource) => drop(self.grants.insert(key.clone(), Arc::clone(resource))),
            None => drop(self.grants.remove(key)),
        }
    }
}

fn named_parents(resource: &Resource) -> BTreeSet<QualifiedName> {
    match &resource.spec {
        Spec::Route(spec) => spec.parents.iter().map(|parent| parent.service.clone()).collect(),
        _ => BTreeSet::new(),
    }
}
