//! Which endpoints go first for a caller, and how much each priority gets.

use std::collections::BTreeSet;

use super::{Explanation, Question};
use crate::balance::{Member, priority_shares};
use crate::model::{Endpoint, Location, PlaceWanted, Priority, QualifiedName};
use crate::world::World;

/// The priorities of a service as a caller sees them.
pub(super) struct Ranks<'w> {
    priorities: &'w [Priority],
    zone: &'w str,
    node: &'w str,
}

impl<'w> Ranks<'w> {
    pub(super) fn new(world: &'w World, question: &Question<'_>, service: &QualifiedName) -> Self {
        let identity = question.identity(world);
        let callers = world.registrations().filter(|workload| workload.identity == identity);
        let node = |name| world.pod(name).map(|pod| pod.node.as_ref()).unwrap_or_default();
        let places: BTreeSet<_> =
            callers.map(|workload| (workload.zone.as_str(), node(&workload.name))).collect();
        let (zone, node) = places.first().copied().unwrap_or_default();
        Self { priorities: world.priorities(service), zone, node }
    }

    /// Which one an endpoint has, from 1 on; 0: there are none.
    pub(super) fn of(&self, endpoint: &Endpoint) -> usize {
        if self.priorities.is_empty() { 0 } else { self.rank(endpoint) + 1 }
    }

    fn rank(&self, endpoint: &Endpoint) -> usize {
        let from = Location { zone: self.zone, node: self.node };
        endpoint.fits.rank(self.priorities, endpoint.location(), from)
    }

    /// What a priority asks of the caller's place, where it asks for that.
    fn callers(&self, priority: &Priority) -> Option<&'w str> {
        match priority.place {
            Some(PlaceWanted::CallersZone) => Some(self.zone),
            Some(PlaceWanted::CallersNode) => Some(self.node),
            Some(PlaceWanted::Zone(_)) | None => None,
        }
    }

    /// How much each gets, where there are any; `endpoints` are all that take the port, whether they work or not.
    pub(super) fn tell(&self, endpoints: &[&Endpoint], told: &mut Explanation) {
        if self.priorities.is_empty() {
            return;
        }
        let member = |endpoint: &&Endpoint| Member {
            weight: endpoint.weight,
            near: false,
            rank: self.rank(endpoint),
            available: endpoint.healthy,
            since: None,
        };
        let members: Vec<_> = endpoints.iter().map(member).collect();
        for (rank, share) in priority_shares(&members, self.priorities).into_iter().enumerate() {
            let (mut all, mut working) = (0_usize, 0_usize);
            for member in members.iter().filter(|member| member.rank == rank) {
                all += 1;
                working += usize::from(member.available);
            }
            let who = match self.priorities.get(rank) {
                Some(priority) => match self.callers(priority) {
                    Some("") => format!("{priority} (unknown)"),
                    Some(place) => format!("{priority} ({place})"),
                    None => priority.to_string(),
                },
                None => "all others".to_owned(),
            };
            let number = rank + 1;
            let text = format!("{number}: {who}: {working} of {all} work and get {share} of the calls");
            told.step("priority", text, None);
        }
    }
}
