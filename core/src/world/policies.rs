//! Which policies are in force for a service, the most specific one first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::World;
use crate::manifest::{Problem, Resource, ResourceKey, Spec, TrafficLayer, TrafficPolicySpec};
use crate::model::{PolicyTarget, QualifiedName, Traffic};

/// The policies in force, by what they are for.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    by_scope: BTreeMap<PolicyTarget, BTreeMap<ResourceKey, Arc<Resource>>>,
    scopes: BTreeMap<ResourceKey, PolicyTarget>,
}

impl Policies {
    /// Puts a policy in force, or takes it out.
    pub(super) fn put(&mut self, key: &ResourceKey, resource: Option<&Arc<Resource>>) {
        if let Some(scope) = self.scopes.remove(key)
            && let Some(policies) = self.by_scope.get_mut(&scope)
        {
            policies.remove(key);
            if policies.is_empty() {
                self.by_scope.remove(&scope);
            }
        }
        let Some((resource, scope)) = resource.and_then(|r| Some((r, scope_of(r)?))) else { return };
        self.scopes.insert(key.clone(), scope.clone());
        self.by_scope.entry(scope).or_default().insert(key.clone(), Arc::clone(resource));
    }

    /// The policies for a service: its own, its namespace's, the mesh's; within each in the order of their names.
    fn of(&self, service: &QualifiedName) -> impl Iterator<Item = &Resource> {
        let scopes = [
            PolicyTarget::Service(service.clone()),
            PolicyTarget::Namespace(service.namespace.clone()),
            PolicyTarget::Mesh,
        ];
        let policies = scopes.into_iter().filter_map(|scope| self.by_scope.get(&scope));
        policies.flat_map(BTreeMap::values).map(AsRef::as_ref)
    }
}

impl World {
    /// The policies for a service's callers: its own, its namespace's, the mesh's; within each in the order of their names.
    pub fn policies(&self, service: &QualifiedName) -> impl Iterator<Item = &Resource> {
        self.policies.of(service)
    }

    /// How a service is to be called.
    pub fn traffic(&self, service: &QualifiedName) -> Traffic {
        let layers = self.policies.of(service).filter_map(traffic_policy);
        let said = layers.fold(TrafficLayer::default(), |above, policy| above.over(&policy.layer));
        let faults = self.policies.of(service).filter_map(|resource| match &resource.spec {
            Spec::FaultInjection(spec) => Some(spec.fault.clone()),
            _ => None,
        });
        Traffic { faults: faults.collect(), ..said.resolve() }
    }

    /// The services that policies among these resources are for.
    pub(super) fn governed(&self, keys: &[ResourceKey]) -> BTreeSet<QualifiedName> {
        let mut services = BTreeSet::new();
        for scope in keys.iter().filter_map(|key| self.policies.scopes.get(key)) {
            match scope {
                PolicyTarget::Service(name) => {
                    services.insert(name.clone());
                }
                PolicyTarget::Namespace(namespace) => {
                    let of = |name: &QualifiedName| name.namespace == *namespace;
                    services.extend(self.service_names().into_iter().filter(of));
                }
                PolicyTarget::Mesh => return self.service_names(),
                PolicyTarget::Workload(_) | PolicyTarget::HttpRoute(_) | PolicyTarget::GrpcRoute(_) => {}
            }
        }
        services
    }
}

/// Two policies that are equally specific must not both speak of the same thing: nobody could say which one holds.
pub(super) fn check(resource: &Resource, all: &[&Resource]) -> Option<Problem> {
    let (policy, scope) = (traffic_policy(resource)?, scope_of(resource)?);
    all.iter().find_map(|other| {
        let theirs = traffic_policy(other)?;
        if other.key() == resource.key() || scope_of(other)? != scope {
            return None;
        }
        let parts = policy.layer.overlap(&theirs.layer);
        let part = parts.first()?;
        let message = format!(
            "spec.{part}: {} at {}:{} says it for {} as well",
            other.key(),
            other.file,
            other.line,
            policy.target
        );
        let hint = "say it in one of them".to_owned();
        Some(resource.problem(&format!("spec.{part}"), message, hint))
    })
}

fn traffic_policy(resource: &Resource) -> Option<&TrafficPolicySpec> {
    match &resource.spec {
        Spec::TrafficPolicy(spec) => Some(spec),
        _ => None,
    }
}

fn scope_of(resource: &Resource) -> Option<PolicyTarget> {
    match &resource.spec {
        Spec::TrafficPolicy(spec) => Some(spec.target.clone()),
        Spec::FaultInjection(spec) => Some(spec.target.clone()),
        _ => None,
    }
}
