//! How a service is to be called.

use std::time::Duration;

use weft_core::model;
use weft_core::model::{BalancingPolicy, HashCookie, HashKey, Locality, PlaceWanted, Priority, Ratio};

use super::ConvertError;
use super::access::callers;
use crate::v1;
use crate::v1::balancing::Policy;
use crate::v1::hash_key::Of;
use crate::v1::priority::Place;

impl TryFrom<v1::Traffic> for model::Traffic {
    type Error = ConvertError;

    fn try_from(wire: v1::Traffic) -> Result<Self, ConvertError> {
        Ok(Self {
            balancing: wire.balancing.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            timeouts: wire.timeouts.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            circuit_breaker: wire.circuit_breaker.map(TryInto::try_into).transpose()?,
            bulkhead: wire.bulkhead.map(TryInto::try_into).transpose()?,
            health_check: wire.health_check.map(TryInto::try_into).transpose()?,
            retries: wire.retries.map(TryInto::try_into).transpose()?.map(Box::new),
            hedging: wire.hedging.map(TryInto::try_into).transpose()?,
            faults: wire.faults.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            sampling: sampling(wire.sampling_per_million)?,
        })
    }
}

impl From<&model::Traffic> for v1::Traffic {
    fn from(traffic: &model::Traffic) -> Self {
        let model::Traffic {
            balancing,
            timeouts,
            circuit_breaker,
            bulkhead,
            health_check,
            retries,
            hedging,
            faults,
            sampling,
        } = traffic;
        Self {
            balancing: Some(balancing.into()),
            timeouts: Some(timeouts.into()),
            circuit_breaker: circuit_breaker.as_ref().map(Into::into),
            bulkhead: bulkhead.as_ref().map(Into::into),
            health_check: health_check.as_ref().map(Into::into),
            faults: faults.iter().map(Into::into).collect(),
            retries: retries.as_deref().map(Into::into),
            hedging: hedging.as_ref().map(Into::into),
            sampling_per_million: sampling.map(Ratio::per_million),
        }
    }
}

impl TryFrom<v1::Balancing> for model::Balancing {
    type Error = ConvertError;

    fn try_from(wire: v1::Balancing) -> Result<Self, ConvertError> {
        let policy = match wire.policy {
            None => BalancingPolicy::PeakEwma,
            Some(Policy::LeastRequest(_)) => BalancingPolicy::LeastRequest,
            Some(Policy::RoundRobin(_)) => BalancingPolicy::RoundRobin,
            Some(Policy::Random(_)) => BalancingPolicy::Random,
            Some(Policy::ConsistentHash(key)) => {
                BalancingPolicy::ConsistentHash(match key.of.ok_or(ConvertError::Missing("hash key"))? {
                    Of::Header(name) => HashKey::Header(name),
                    Of::Cookie(cookie) => HashKey::Cookie(HashCookie {
                        name: cookie.name,
                        path: cookie.path,
                        ttl: cookie.ttl_ms.map(Duration::from_millis),
                    }),
                    Of::SourceIp(_) => HashKey::SourceIp,
                })
            }
        };
        let locality = |wire: v1::Locality| {
            let failover_below = ratio("failover_below_per_million", wire.failover_below_per_million)?;
            Ok::<_, ConvertError>(Locality { failover_below })
        };
        Ok(Self {
            policy,
            locality: wire.locality.map(locality).transpose()?,
            priorities: wire.priorities.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            slow_start: wire.slow_start_ms.map(Duration::from_millis),
            panic_threshold: wire
                .panic_threshold_per_million
                .map(|value| ratio("panic_threshold_per_million", value))
                .transpose()?,
        })
    }
}

impl From<&model::Balancing> for v1::Balancing {
    fn from(balancing: &model::Balancing) -> Self {
        let policy = match &balancing.policy {
            BalancingPolicy::PeakEwma => None,
            BalancingPolicy::LeastRequest => Some(Policy::LeastRequest(v1::Nothing {})),
            BalancingPolicy::RoundRobin => Some(Policy::RoundRobin(v1::Nothing {})),
            BalancingPolicy::Random => Some(Policy::Random(v1::Nothing {})),
            BalancingPolicy::ConsistentHash(key) => {
                let of = match key {
                    HashKey::Header(name) => Of::Header(name.clone()),
                    HashKey::Cookie(HashCookie { name, path, ttl }) => Of::Cookie(v1::HashCookie {
                        name: name.clone(),
                        path: path.clone(),
                        ttl_ms: ttl.map(milliseconds),
                    }),
                    HashKey::SourceIp => Of::SourceIp(v1::Nothing {}),
                };
                Some(Policy::ConsistentHash(v1::HashKey { of: Some(of) }))
            }
        };
        Self {
            policy,
            locality: balancing.locality.map(|locality| v1::Locality {
                failover_below_per_million: locality.failover_below.per_million(),
            }),
            slow_start_ms: balancing.slow_start.map(milliseconds),
            panic_threshold_per_million: balancing.panic_threshold.map(Ratio::per_million),
            priorities: balancing.priorities.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Priority> for Priority {
    type Error = ConvertError;

    fn try_from(wire: v1::Priority) -> Result<Self, ConvertError> {
        let place = wire.place.map(|place| match place {
            Place::Zone(name) => PlaceWanted::Zone(name),
            Place::CallersZone(_) => PlaceWanted::CallersZone,
            Place::CallersNode(_) => PlaceWanted::CallersNode,
        });
        let failover_below = ratio("failover_below_per_million", wire.failover_below_per_million)?;
        let labels = wire.labels.into_iter().map(|label| (label.name, label.value)).collect();
        Ok(Self { labels, place, failover_below })
    }
}

impl From<&Priority> for v1::Priority {
    fn from(priority: &Priority) -> Self {
        let label =
            |(name, value): (&String, &String)| v1::HeaderValue { name: name.clone(), value: value.clone() };
        let place = priority.place.as_ref().map(|place| match place {
            PlaceWanted::Zone(name) => Place::Zone(name.clone()),
            PlaceWanted::CallersZone => Place::CallersZone(v1::Nothing {}),
            PlaceWanted::CallersNode => Place::CallersNode(v1::Nothing {}),
        });
        Self {
            labels: priority.labels.iter().map(label).collect(),
            place,
            failover_below_per_million: priority.failover_below.per_million(),
        }
    }
}

impl TryFrom<v1::Timeouts> for model::Timeouts {
    type Error = ConvertError;

    fn try_from(wire: v1::Timeouts) -> Result<Self, ConvertError> {
        Ok(Self {
            connect: wire.connect_ms.map(|ms| duration("timeouts.connect_ms", ms)).transpose()?,
            request: wire.request_ms.map(Duration::from_millis),
            idle: wire.idle_ms.map(|ms| duration("timeouts.idle_ms", ms)).transpose()?,
        })
    }
}

impl From<&model::Timeouts> for v1::Timeouts {
    fn from(timeouts: &model::Timeouts) -> Self {
        let model::Timeouts { connect, request, idle } = timeouts;
        Self {
            connect_ms: connect.map(milliseconds),
            request_ms: request.map(milliseconds),
            idle_ms: idle.map(milliseconds),
        }
    }
}

impl TryFrom<v1::CircuitBreaker> for model::CircuitBreaker {
    type Error = ConvertError;

    fn try_from(wire: v1::CircuitBreaker) -> Result<Self, ConvertError> {
        let failures = wire.consecutive_failures.map(|count| positive("consecutive_failures", count));
        let failure_ratio =
            wire.failure_ratio_per_million.map(|value| ratio("failure_ratio_per_million", value));
        Ok(Self {
            consecutive_failures: failures.transpose()?,
            failure_ratio: failure_ratio.transpose()?,
            min_requests: positive("min_requests", wire.min_requests)?,
            window: duration("window_ms", wire.window_ms)?,
            open_for: duration("open_for_ms", wire.open_for_ms)?,
            half_open_requests: positive("half_open_requests", wire.half_open_requests)?,
            max_ejected: ratio("max_ejected_per_million", wire.max_ejected_per_million)?,
        })
    }
}

impl From<&model::CircuitBreaker> for v1::CircuitBreaker {
    fn from(breaker: &model::CircuitBreaker) -> Self {
        Self {
            consecutive_failures: breaker.consecutive_failures,
            failure_ratio_per_million: breaker.failure_ratio.map(Ratio::per_million),
            min_requests: breaker.min_requests,
            window_ms: milliseconds(breaker.window),
            open_for_ms: milliseconds(breaker.open_for),
            half_open_requests: breaker.half_open_requests,
            max_ejected_per_million: breaker.max_ejected.per_million(),
        }
    }
}

impl TryFrom<v1::Bulkhead> for model::Bulkhead {
    type Error = ConvertError;

    fn try_from(wire: v1::Bulkhead) -> Result<Self, ConvertError> {
        Ok(Self {
            max_connections: positive("max_connections", wire.max_connections)?,
            max_concurrent_requests: positive("max_concurrent_requests", wire.max_concurrent_requests)?,
            max_pending_requests: wire.max_pending_requests,
        })
    }
}

impl From<&model::Bulkhead> for v1::Bulkhead {
    fn from(bulkhead: &model::Bulkhead) -> Self {
        Self {
            max_connections: bulkhead.max_connections,
            max_concurrent_requests: bulkhead.max_concurrent_requests,
            max_pending_requests: bulkhead.max_pending_requests,
        }
    }
}

impl TryFrom<v1::Fault> for model::Fault {
    type Error = ConvertError;

    fn try_from(wire: v1::Fault) -> Result<Self, ConvertError> {
        let delayed = ratio("delayed_per_million", wire.delayed_per_million)?;
        let aborted = ratio("aborted_per_million", wire.aborted_per_million)?;
        let abort = |status: u32| {
            let out_of_range = |_| ConvertError::Range("abort", status.into());
            let grpc_status = u8::try_from(wire.abort_grpc_status).map_err(out_of_range)?;
            let status = u16::try_from(status).map_err(out_of_range)?;
            Ok::<_, ConvertError>((model::Abort { status, grpc_status }, aborted))
        };
        Ok(Self {
            policy: wire.policy.into(),
            from: wire.from.iter().map(callers).collect::<Result<_, _>>()?,
            headers: wire.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            delay: wire.delay_ms.map(|ms| (Duration::from_millis(ms), delayed)),
            abort: wire.abort_status.map(abort).transpose()?,
            expires: wire.expires.map(Duration::from_secs),
        })
    }
}

impl From<&model::Fault> for v1::Fault {
    fn from(fault: &model::Fault) -> Self {
        let share = |share: Option<Ratio>| share.map(Ratio::per_million).unwrap_or_default();
        let header =
            |(name, value): &(String, String)| v1::HeaderValue { name: name.clone(), value: value.clone() };
        let abort = fault.abort.map(|(abort, _)| abort);
        Self {
            policy: fault.policy.to_string(),
            from: fault.from.iter().map(Into::into).collect(),
            headers: fault.headers.iter().map(header).collect(),
            delay_ms: fault.delay.map(|(delay, _)| milliseconds(delay)),
            delayed_per_million: share(fault.delay.map(|(_, share)| share)),
            abort_status: abort.map(|abort| abort.status.into()),
            abort_grpc_status: abort.map(|abort| abort.grpc_status.into()).unwrap_or_default(),
            aborted_per_million: share(fault.abort.map(|(_, share)| share)),
            expires: fault.expires.map(|expires| expires.as_secs()),
        }
    }
}

pub(super) fn positive(field: &'static str, count: u32) -> Result<u32, ConvertError> {
    if count == 0 { Err(ConvertError::Range(field, 0)) } else { Ok(count) }
}

pub(super) fn ratio(field: &'static str, per_million: u32) -> Result<Ratio, ConvertError> {
    let ratio = Ratio::from_millionths(per_million);
    if ratio.per_million() == per_million {
        Ok(ratio)
    } else {
        Err(ConvertError::Range(field, per_million.into()))
    }
}

/// Of how many requests there are traces, where that is said.
pub(super) fn sampling(per_million: Option<u32>) -> Result<Option<Ratio>, ConvertError> {
    per_million.map(|per_million| ratio("sampling_per_million", per_million)).transpose()
}

/// A time that something may take: longer than nothing.
pub(super) fn duration(field: &'static str, milliseconds: u64) -> Result<Duration, ConvertError> {
    if milliseconds == 0 {
        return Err(ConvertError::Range(field, 0));
    }
    Ok(Duration::from_millis(milliseconds))
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(traffic: &model::Traffic) {
        let wire = v1::Traffic::from(traffic);
        assert_eq!(model::Traffic::try_from(wire).unwrap(), *traffic);
    }

    #[test]
    fn what_is_said_of_traffic_survives_the_wire() {
        check(&model::Traffic::default());
        let policies = [
            BalancingPolicy::PeakEwma,
            BalancingPolicy::LeastRequest,
            BalancingPolicy::RoundRobin,
            BalancingPolicy::Random,
            BalancingPolicy::ConsistentHash(HashKey::Header("x-user".into())),
            BalancingPolicy::ConsistentHash(HashKey::Cookie(HashCookie {
                name: "user".into(),
                path: "/".into(),
                ttl: Some(Duration::from_secs(60)),
            })),
            BalancingPolicy::ConsistentHash(HashKey::SourceIp),
        ];
        for policy in policies {
            let balancing = model::Balancing {
                policy,
                locality: Some(Locality { failover_below: Ratio::percent(70) }),
                priorities: [
                    None,
                    Some(PlaceWanted::Zone("b".into())),
                    Some(PlaceWanted::CallersZone),
                    Some(PlaceWanted::CallersNode),
                ]
                .map(|place| Priority {
                    labels: [("site".into(), "main".into()), ("tier".into(), "1".into())].into(),
                    place,
                    failover_below: Ratio::percent(50),
                })
                .into(),
                slow_start: Some(Duration::from_secs(30)),
                panic_threshold: Some(Ratio::percent(50)),
            };
            let timeouts = model::Timeouts {
                connect: Some(Duration::from_millis(250)),
                request: Some(Duration::ZERO),
                idle: Some(Duration::from_secs(3600)),
            };
            check(&model::Traffic {
                balancing,
                timeouts,
                circuit_breaker: Some(model::CircuitBreaker {
                    consecutive_failures: None,
                    ..Default::default()
                }),
                bulkhead: Some(model::Bulkhead {
                    max_connections: 5,
                    max_concurrent_requests: 3,
                    max_pending_requests: 0,
                }),
                health_check: Some(model::HealthCheck::new(model::Probe::Tcp)),
                retries: None,
                hedging: None,
                sampling: Some(Ratio::percent(1)),
                faults: vec![model::Fault {
                    policy: "default/slow".into(),
                    from: vec![model::Callers {
                        namespaces: model::Selection {
                            one_of: vec![model::TextPattern::Exact("shop".into())],
                            none_of: Vec::new(),
                        },
                        ..model::Callers::default()
                    }],
                    headers: vec![("x-chaos".into(), "1".into())],
                    delay: Some((Duration::from_secs(2), Ratio::percent(10))),
                    abort: Some((model::Abort { status: 503, grpc_status: 14 }, Ratio::percent(5))),
                    expires: Some(Duration::from_secs(7)),
                }],
            });
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let timeouts = v1::Timeouts { connect_ms: Some(0), ..Default::default() };
        assert!(model::Timeouts::try_from(timeouts).is_err());
        let timeouts = v1::Timeouts { idle_ms: Some(0), ..Default::default() };
        assert!(model::Timeouts::try_from(timeouts).is_err());
        let balancing = v1::Balancing { panic_threshold_per_million: Some(1_000_001), ..Default::default() };
        assert!(model::Balancing::try_from(balancing).is_err());
        assert!(model::Bulkhead::try_from(v1::Bulkhead::default()).is_err());
        assert!(model::CircuitBreaker::try_from(v1::CircuitBreaker::default()).is_err());
        let unknown = v1::Balancing {
            policy: Some(Policy::ConsistentHash(v1::HashKey { of: None })),
            ..Default::default()
        };
        assert!(model::Balancing::try_from(unknown).is_err());
    }
}
