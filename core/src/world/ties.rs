//! Rules of routes that say the same thing: allowed, for an order is defined, but hardly what anyone meant.

use std::sync::Arc;

use super::World;
use crate::attachment;
use crate::manifest::{Kind, Note, ParentRef, Resource, ResourceKey, RouteSpec, Spec};
use crate::model::{FieldMatch, HttpMatch, HttpRule, PathMatch, RouteRules};

/// Ties that are told of at once.
const MOST: usize = 20;

/// A match of a rule, and where it stands.
struct Said<'r> {
    resource: &'r Resource,
    wanted: HttpMatch,
    place: String,
}

impl World {
    /// Where the routes among these, if they were all that a source holds, say what another rule says already: one note
    /// for each match that will never be asked.
    pub fn ties(&self, source: &str, resources: &[Resource], keys: &[ResourceKey]) -> Vec<Note> {
        let others = self.sources.iter().filter(|(other, _)| *other != source);
        let others = others.flat_map(|(_, documents)| documents.values().map(Arc::as_ref));
        let all: Vec<&Resource> = resources.iter().chain(others).filter(|r| route(r).is_some()).collect();
        let mut notes = Vec::new();
        for resource in resources.iter().filter(|resource| keys.contains(&resource.key())) {
            // Of two that are new the one that is never asked is told of.
            let is_told = |other: &Resource| {
                let is_other = other.key() != resource.key();
                !(is_other && keys.contains(&other.key()) && attachment::goes_first(resource, other))
            };
            for other in all.iter().filter(|other| compete(resource, other) && is_told(other)) {
                notes.extend(tied(resource, other));
            }
        }
        notes.truncate(MOST);
        notes
    }
}

fn route(resource: &Resource) -> Option<&RouteSpec> {
    match (&resource.spec, resource.kind) {
        (Spec::Route(spec), Kind::HttpRoute | Kind::GrpcRoute) => Some(spec),
        _ => None,
    }
}

/// Whether both are asked about the same calls: of one kind and namespace, on a port of one service.
fn compete(one: &Resource, other: &Resource) -> bool {
    let (Some(left), Some(right)) = (route(one), route(other)) else { return false };
    let same = |left: &ParentRef, right: &ParentRef| {
        left.service == right.service
            && (left.port.is_none() || right.port.is_none() || left.port == right.port)
            && (left.section.is_none() || right.section.is_none() || left.section == right.section)
    };
    one.kind == other.kind
        && one.namespace == other.namespace
        && left.parents.iter().any(|left| right.parents.iter().any(|right| same(left, right)))
}

/// The matches of `resource` that are `other`'s as well; each pair is told of where its later one stands.
fn tied(resource: &Resource, other: &Resource) -> Vec<Note> {
    let (own, theirs) = (said(resource), said(other));
    let mut notes = Vec::new();
    for (index, later) in own.iter().enumerate() {
        let earlier = theirs.iter().enumerate().find(|(at, earlier)| {
            let is_before = resource.key() != other.key() || *at < index;
            is_before && earlier.wanted == later.wanted
        });
        let Some((_, earlier)) = earlier else { continue };
        let first = if attachment::goes_first(other, resource) { earlier } else { later };
        let message = format!(
            "this is also the match of {} at {}; calls go by that at {}, which goes first",
            earlier.resource.key(),
            earlier.place,
            first.place
        );
        let (file, line) = later.place.rsplit_once(':').unwrap_or((&later.place, "0"));
        notes.push(Note { file: file.to_owned(), line: line.parse().unwrap_or_default(), message });
    }
    notes
}

fn said(resource: &Resource) -> Vec<Said<'_>> {
    let Some(RouteRules::Http(rules) | RouteRules::Grpc(rules)) = route(resource).map(|spec| &spec.rules)
    else {
        return Vec::new();
    };
    rules.iter().enumerate().flat_map(|(index, rule)| of_rule(resource, index, rule)).collect()
}

fn of_rule<'r>(resource: &'r Resource, index: usize, rule: &HttpRule) -> Vec<Said<'r>> {
    if rule.matches.is_empty() {
        let place = resource.place(&format!("rule {index}"));
        return vec![Said { resource, wanted: HttpMatch::default(), place }];
    }
    let said = |(number, wanted): (usize, &HttpMatch)| Said {
        resource,
        wanted: plain(wanted),
        place: resource.place(&format!("rule {index} match {number}")),
    };
    rule.matches.iter().enumerate().map(said).collect()
}

/// In one spelling: the prefix `/` fits every path, and fields have no order.
fn plain(wanted: &HttpMatch) -> HttpMatch {
    let mut plain = wanted.clone();
    if let Some(PathMatch::Prefix(prefix)) = &plain.path
        && prefix.as_prefix().is_empty()
    {
        plain.path = None;
    }
    plain.headers.sort_by(|left, right| left.name.cmp(&right.name));
    plain.claims.sort_by(|left, right| left.name.as_str().cmp(right.name.as_str()));
    plain.query.sort_by(|left: &FieldMatch<String>, right| left.name.cmp(&right.name));
    plain
}
