//! Rate limits.

use std::time::Duration;

use weft_core::model;

use super::access::{ports, rule};
use super::{ConvertError, qualified};
use crate::v1;

impl TryFrom<&v1::RateLimit> for model::RateLimit {
    type Error = ConvertError;

    fn try_from(wire: &v1::RateLimit) -> Result<Self, ConvertError> {
        Ok(Self {
            name: qualified("limit.name", &wire.name)?,
            ports: ports("limit.ports", &wire.ports)?,
            rules: wire.rules.iter().map(rule).collect::<Result<_, _>>()?,
            limits: wire.limits.iter().map(limit).collect::<Result<_, _>>()?,
        })
    }
}

fn limit(wire: &v1::Limit) -> Result<model::Limit, ConvertError> {
    for (field, value) in [
        ("limit.requests", u64::from(wire.requests)),
        ("limit.per", wire.per_ms),
        ("limit.burst", wire.burst.into()),
    ] {
        if value == 0 {
            return Err(ConvertError::Range(field, value));
        }
    }
    let part = |text: &String| text.parse().map_err(|_| ConvertError::Pattern("limit.key", text.clone()));
    Ok(model::Limit {
        requests: wire.requests,
        per: Duration::from_millis(wire.per_ms),
        burst: wire.burst,
        key: wire.key.iter().map(part).collect::<Result<_, _>>()?,
    })
}

impl From<&model::RateLimit> for v1::RateLimit {
    fn from(policy: &model::RateLimit) -> Self {
        let limit = |limit: &model::Limit| v1::Limit {
            requests: limit.requests,
            per_ms: limit.per.as_millis().try_into().unwrap_or(u64::MAX),
            burst: limit.burst,
            key: limit.key.iter().map(ToString::to_string).collect(),
        };
        Self {
            name: policy.name.to_string(),
            ports: policy.ports.iter().map(|port| u32::from(*port)).collect(),
            rules: policy.rules.iter().map(Into::into).collect(),
            limits: policy.limits.iter().map(limit).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_core::model::{AccessRule, Limit, RateLimit};

    use super::*;

    fn policy() -> RateLimit {
        let limit = Limit {
            requests: 100,
            per: Duration::from_millis(1_500),
            burst: 20,
            key: vec!["caller".parse().unwrap(), "header:x-user".parse().unwrap()],
        };
        RateLimit {
            name: "default/orders".parse().unwrap(),
            ports: vec![8080],
            rules: vec![AccessRule::default()],
            limits: vec![limit],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(RateLimit::try_from(&v1::RateLimit::from(&policy())).unwrap(), policy());
    }

    #[test]
    fn what_is_not_understood_is_refused_whole() {
        let spoil: [fn(&mut v1::RateLimit); 5] = [
            |wire| wire.ports.push(0),
            |wire| wire.limits[0].requests = 0,
            |wire| wire.limits[0].per_ms = 0,
            |wire| wire.limits[0].burst = 0,
            |wire| wire.limits[0].key.push("moon".to_owned()),
        ];
        for spoil in spoil {
            let mut wire = v1::RateLimit::from(&policy());
            spoil(&mut wire);
            assert!(RateLimit::try_from(&wire).is_err(), "{wire:?}");
        }
    }
}
