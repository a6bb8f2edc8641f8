//! Routes that ask for claims: their services' callers prove tokens, and must be told by whose keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::World;
use crate::manifest::{Kind, Note, Resource, ResourceKey, RouteSpec, Spec};
use crate::model::{PolicyTarget, QualifiedName, RouteRules};

/// Notes that are given at once.
const MOST: usize = 20;

impl World {
    /// The services that a policy about tokens is for and whose routes ask for claims.
    pub(super) fn asking_claims(&self, target: &PolicyTarget) -> BTreeSet<QualifiedName> {
        let asks = |service: &QualifiedName| {
            self.routes_of(service).any(|(_, route)| route.rules.claims().next().is_some())
        };
        self.routed_services().filter(|service| target.comprises(service)).filter(asks).collect()
    }

    /// Where the routes among these, if they were all that a source holds, ask for what no token proves: one note for each
    /// match that no request fits.
    pub fn unproved(&self, source: &str, resources: &[Resource], keys: &[ResourceKey]) -> Vec<Note> {
        let others = self.sources.iter().filter(|(other, _)| *other != source);
        let others = others.flat_map(|(_, documents)| documents.values().map(Arc::as_ref));
        let all = resources.iter().chain(others).filter(|other| other.kind == Kind::JwtAuthentication);
        let proving: Vec<_> = all.filter_map(Resource::target).collect();
        let mut notes = Vec::new();
        for resource in resources.iter().filter(|resource| keys.contains(&resource.key())) {
            let Spec::Route(route) = &resource.spec else { continue };
            let parents = route.parents.iter().map(|parent| &parent.service);
            let unproved = parents.filter(|service| !proving.iter().any(|target| target.comprises(service)));
            for service in unproved.collect::<BTreeSet<_>>() {
                notes.extend(asked(resource, route, service));
            }
        }
        notes.truncate(MOST);
        notes
    }
}

fn asked(resource: &Resource, route: &RouteSpec, service: &QualifiedName) -> Vec<Note> {
    let (RouteRules::Http(rules) | RouteRules::Grpc(rules)) = &route.rules else { return Vec::new() };
    let mut notes = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        for (number, wanted) in rule.matches.iter().enumerate() {
            let Some(claim) = wanted.claims.first() else { continue };
            let place = resource.place(&format!("rule {index} match {number}"));
            let message = format!(
                "no request fits this: no JwtAuthentication is for the Service {service}, its namespace or the mesh, by which the claim {} could be proved",
                claim.name
            );
            let (file, line) = place.rsplit_once(':').unwrap_or((&place, "0"));
            notes.push(Note { file: file.to_owned(), line: line.parse().unwrap_or_default(), message });
        }
    }
    notes
}
