//! Which of a service's endpoints are called first, and which only when too few of those are left.

use std::collections::BTreeMap;
use std::fmt;

use super::Ratio;

/// The most priorities that a service may have.
pub const MAX_PRIORITIES: usize = 8;

/// Endpoints that go before those of later priorities. Who fits none of them comes last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priority {
    /// The labels that they have.
    pub labels: BTreeMap<String, String>,
    /// Where they are; none: anywhere.
    pub place: Option<PlaceWanted>,
    /// Below which share of available endpoints among them the next ones help out.
    pub failover_below: Ratio,
}

/// Where an endpoint must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceWanted {
    /// In this zone.
    Zone(String),
    /// In the zone of whoever calls.
    CallersZone,
    /// On the node of whoever calls.
    CallersNode,
}

/// Where somebody is; what is empty is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Location<'a> {
    /// Its zone.
    pub zone: &'a str,
    /// Its node.
    pub node: &'a str,
}

/// Which priorities of its service an endpoint fits, as far as this is the same for all who call it. Who wants those of its
/// own zone or node looks at that as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fits(u8);

impl Priority {
    /// Where nothing is said of it: below which share of a group's endpoints others help out.
    pub const FAILOVER_BELOW: Ratio = Ratio::percent(70);

    /// Whether they are the same endpoints.
    pub fn is_same_group(&self, other: &Self) -> bool {
        (&self.labels, &self.place) == (&other.labels, &other.place)
    }

    fn may_have(&self, labels: &BTreeMap<String, String>, zone: &str) -> bool {
        let is_there = match &self.place {
            Some(PlaceWanted::Zone(wanted)) => wanted == zone,
            Some(PlaceWanted::CallersZone | PlaceWanted::CallersNode) | None => true,
        };
        is_there && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Fits {
    /// Which of `priorities` an endpoint with these labels, in this zone, fits.
    pub fn of(priorities: &[Priority], labels: &BTreeMap<String, String>, zone: &str) -> Self {
        let bit = |(index, priority): (usize, &Priority)| u8::from(priority.may_have(labels, zone)) << index;
        Self(priorities.iter().take(MAX_PRIORITIES).enumerate().map(bit).fold(0, |all, bit| all | bit))
    }

    /// As it goes over the wire: a bit for each, the first priority's the lowest.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// As it comes over the wire.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The first of `priorities` that an endpoint `at` a place has for one `from` which it is called, counted from 0; of who has
    /// none, how many there are.
    pub fn rank(self, priorities: &[Priority], at: Location<'_>, from: Location<'_>) -> usize {
        let fits = |(index, priority): (usize, &Priority)| {
            let is_there = match priority.place {
                Some(PlaceWanted::CallersZone) => at.is_in_zone_of(from),
                Some(PlaceWanted::CallersNode) => at.is_on_node_of(from),
                Some(PlaceWanted::Zone(_)) | None => true,
            };
            is_there
                && self
                    .0
                    .checked_shr(u32::try_from(index).unwrap_or(u32::MAX))
                    .is_some_and(|bits| bits & 1 == 1)
        };
        priorities.iter().enumerate().position(fits).unwrap_or(priorities.len())
    }
}

impl Location<'_> {
    /// Whether both are known to be in the same zone.
    pub fn is_in_zone_of(self, other: Location<'_>) -> bool {
        !self.zone.is_empty() && self.zone == other.zone
    }

    /// Whether both are known to be on the same node.
    pub fn is_on_node_of(self, other: Location<'_>) -> bool {
        !self.node.is_empty() && self.node == other.node
    }
}

/// As documents have it: `site=main, zone b`.
impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let place = self.place.iter().map(|place| match place {
            PlaceWanted::Zone(name) => format!("zone {name}"),
            PlaceWanted::CallersZone => "the caller's zone".to_owned(),
            PlaceWanted::CallersNode => "the caller's node".to_owned(),
        });
        f.write_str(&labels.chain(place).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(labels: &[(&str, &str)], place: Option<PlaceWanted>) -> Priority {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Priority { labels, place, failover_below: Priority::FAILOVER_BELOW }
    }

    fn in_zone(zone: &str) -> Location<'_> {
        Location { zone, node: "" }
    }

    #[test]
    fn an_endpoint_has_the_first_priority_that_it_fits() {
        let b = || Some(PlaceWanted::Zone("b".to_owned()));
        let priorities = [
            priority(&[("site", "main"), ("tier", "1")], None),
            priority(&[("site", "main")], Some(PlaceWanted::CallersZone)),
            priority(&[], b()),
        ];
        let check = |labels: &[(&str, &str)], zone: &str, callers: &str, expected: usize| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let fits = Fits::from_bits(Fits::of(&priorities, &labels, zone).bits());
            assert_eq!(
                fits.rank(&priorities, in_zone(zone), in_zone(callers)),
                expected,
                "{labels:?} in {zone:?} for {callers:?}"
            );
        };
        check(&[("site", "main"), ("tier", "1"), ("more", "x")], "", "", 0);
        check(&[("site", "main")], "a", "a", 1);
        check(&[("site", "main")], "a", "c", 3);
        check(&[("site", "main")], "b", "c", 2);
        check(&[("site", "other")], "b", "b", 2);
        // Who does not know where it is, is near nobody.
        check(&[("site", "main")], "", "", 3);
        assert_eq!(Fits::default().rank(&[], in_zone("a"), in_zone("a")), 0);
    }

    #[test]
    fn whoever_is_on_the_callers_node_goes_first_and_nobody_where_a_node_is_unknown() {
        let priorities = [priority(&[], Some(PlaceWanted::CallersNode))];
        let rank = |at: &str, from: &str| {
            let on = |node| Location { node, ..in_zone("a") };
            Fits::of(&priorities, &BTreeMap::new(), "a").rank(&priorities, on(at), on(from))
        };
        assert_eq!((rank("n1", "n1"), rank("n2", "n1"), rank("n1", "n2")), (0, 1, 1));
        assert_eq!((rank("", ""), rank("n1", ""), rank("", "n1")), (1, 1, 1));
    }

    #[test]
    fn a_priority_is_told_as_it_was_meant() {
        let told = |priority: Priority| priority.to_string();
        assert_eq!(
            told(priority(&[("site", "main")], Some(PlaceWanted::Zone("b".into())))),
            "site=main, zone b"
        );
        assert_eq!(told(priority(&[], Some(PlaceWanted::CallersZone))), "the caller's zone");
        assert_eq!(told(priority(&[], Some(PlaceWanted::CallersNode))), "the caller's node");
    }
}
