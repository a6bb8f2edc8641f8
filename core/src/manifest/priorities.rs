//! `loadBalancing.priorities` of a `TrafficPolicy`: which endpoints go first.

use super::decode::Field;
use super::document::selector;
use crate::model::{MAX_PRIORITIES, PlaceWanted, Priority};

const HINT: &str = "write {labels: {KEY: VALUE}}, {zone: NAME} or {zoneOf: Caller}";

pub(super) fn read(field: &Field<'_>) -> Option<Vec<Priority>> {
    let list = field.list()?;
    if list.len() > MAX_PRIORITIES {
        field.mistake(format!("more than {MAX_PRIORITIES} priorities"), "put some of them together");
        return None;
    }
    let mut priorities: Vec<Priority> = Vec::new();
    for item in &list {
        let Some(priority) = priority(item) else { continue };
        if priorities.iter().any(|before| before.is_same_group(&priority)) {
            item.mistake("these endpoints have an earlier priority already", "take it out");
        }
        priorities.push(priority);
    }
    Some(priorities)
}

fn priority(field: &Field<'_>) -> Option<Priority> {
    let object = field.object(&["labels", "zone", "zoneOf", "failoverBelow"])?;
    let labels = object.field("labels").map(|field| selector(&field));
    let named = object.field("zone").map(|field| (field.text(), field));
    let of = object.field("zoneOf").map(|field| field.choice(&[("Caller", ())]));
    let place = match (named, of) {
        (Some((_, field)), Some(_)) => {
            field.mistake("is one zone, and zoneOf another", "leave one of them out");
            return None;
        }
        (Some((name, field)), None) => {
            let name = name?;
            if name.is_empty() {
                field.mistake("no zone is called so", "write the name of a zone");
            }
            Some(PlaceWanted::Zone(name.to_owned()))
        }
        (None, Some(callers)) => callers.map(|()| Some(PlaceWanted::CallersZone))?,
        (None, None) => None,
    };
    let labels = labels.unwrap_or_else(|| Some(std::collections::BTreeMap::new()))?;
    if labels.is_empty() && place.is_none() {
        field.mistake("does not say which endpoints it is about", HINT);
        return None;
    }
    let failover_below = match object.field("failoverBelow") {
        Some(field) => field.ratio()?,
        None => Priority::FAILOVER_BELOW,
    };
    Some(Priority { labels, place, failover_below })
}
