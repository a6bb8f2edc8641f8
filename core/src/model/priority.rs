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
    /// The zone that they are in; none: any.
    pub zone: Option<ZoneWanted>,
    /// Below which share of available endpoints among them the next ones help out.
    pub failover_below: Ratio,
}

/// In which zone an endpoint must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneWanted {
    /// In this one.
    Named(String),
    /// In that of whoever calls.
    Callers,
}

/// Which priorities of its service an endpoint fits, as far as this is the same for all who call it. Who wants those of its
/// own zone looks at the zone as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fits(u8);

impl Priority {
    /// Where nothing is said of it: below which share of a group's endpoints others help out.
    pub const FAILOVER_BELOW: Ratio = Ratio::percent(70);

    /// Whether they are the same endpoints.
    pub fn is_same_group(&self, other: &Self) -> bool {
        (&self.labels, &self.zone) == (&other.labels, &other.zone)
    }

    fn may_have(&self, labels: &BTreeMap<String, String>, zone: &str) -> bool {
        let in_zone = match &self.zone {
            Some(ZoneWanted::Named(wanted)) => wanted == zone,
            Some(ZoneWanted::Callers) | None => true,
        };
        in_zone && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
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

    /// The first of `priorities` that an endpoint in `zone` has for a caller in `callers`, counted from 0; of who has none, how
    /// many there are.
    pub fn rank(self, priorities: &[Priority], zone: &str, callers: &str) -> usize {
        let fits = |(index, priority): (usize, &Priority)| {
            let near = priority.zone != Some(ZoneWanted::Callers) || (!zone.is_empty() && zone == callers);
            near && self
                .0
                .checked_shr(u32::try_from(index).unwrap_or(u32::MAX))
                .is_some_and(|bits| bits & 1 == 1)
        };
        priorities.iter().enumerate().position(fits).unwrap_or(priorities.len())
    }
}

/// As documents have it: `site=main, zone b`.
impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let zone = self.zone.iter().map(|zone| match zone {
            ZoneWanted::Named(name) => format!("zone {name}"),
            ZoneWanted::Callers => "the caller's zone".to_owned(),
        });
        f.write_str(&labels.chain(zone).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(labels: &[(&str, &str)], zone: Option<ZoneWanted>) -> Priority {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Priority { labels, zone, failover_below: Priority::FAILOVER_BELOW }
    }

    #[test]
    fn an_endpoint_has_the_first_priority_that_it_fits() {
        let b = || Some(ZoneWanted::Named("b".to_owned()));
        let priorities = [
            priority(&[("site", "main"), ("tier", "1")], None),
            priority(&[("site", "main")], Some(ZoneWanted::Callers)),
            priority(&[], b()),
        ];
        let check = |labels: &[(&str, &str)], zone: &str, callers: &str, expected: usize| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let fits = Fits::from_bits(Fits::of(&priorities, &labels, zone).bits());
            assert_eq!(
                fits.rank(&priorities, zone, callers),
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
        assert_eq!(Fits::default().rank(&[], "a", "a"), 0);
    }

    #[test]
    fn a_priority_is_told_as_it_was_meant() {
        let told = |priority: Priority| priority.to_string();
        assert_eq!(
            told(priority(&[("site", "main")], Some(ZoneWanted::Named("b".into())))),
            "site=main, zone b"
        );
        assert_eq!(told(priority(&[], Some(ZoneWanted::Callers))), "the caller's zone");
    }
}
