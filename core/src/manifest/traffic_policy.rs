//! `weft.mesh/v1alpha1 TrafficPolicy`.

use std::time::Duration;

use super::decode::{Field, Object};
use super::document::Places;
use super::layers::layers;
use super::target::{self, TargetKind};
use crate::model::{
    Balancing, BalancingPolicy, HashKey, Locality, Name, PolicyTarget, Ratio, Timeouts, Traffic,
};

const TARGETS: [TargetKind; 3] = [TargetKind::Service, TargetKind::Namespace, TargetKind::Mesh];

const FIELDS: [&str; 9] = [
    "targetRef",
    "loadBalancing",
    "timeouts",
    "retries",
    "hedging",
    "circuitBreaker",
    "bulkhead",
    "concurrency",
    "healthCheck",
];

/// What a `TrafficPolicy` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicySpec {
    /// Whose callers it is for.
    pub target: PolicyTarget,
    /// What it says; what it leaves open, less specific policies say.
    pub layer: TrafficLayer,
}

/// What policies say of a service, one over another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficLayer {
    /// Which endpoint gets a request.
    pub balancing: BalancingLayer,
    /// How long things may take.
    pub timeouts: TimeoutsLayer,
}

layers! {
    /// What policies say of balancing.
    pub struct BalancingLayer {
        /// How one is chosen.
        pub policy: BalancingPolicy,
        /// Whether the caller's zone goes first.
        pub locality: Locality,
        /// Within which time a newcomer's share grows.
        pub slow_start: Duration,
        /// Below which share all endpoints are called.
        pub panic_threshold: Ratio,
    }
}

layers! {
    /// What policies say of time.
    pub struct TimeoutsLayer {
        /// Making a connection.
        pub connect: Duration,
    }
}

impl TrafficLayer {
    /// This one where it says something, else the one below.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        Self {
            balancing: self.balancing.over(&below.balancing),
            timeouts: self.timeouts.over(&below.timeouts),
        }
    }

    /// What holds, with the defaults of what nobody has said.
    pub fn resolve(self) -> Traffic {
        let Self { balancing, timeouts } = self;
        Traffic {
            balancing: Balancing {
                policy: balancing.policy.unwrap_or_default(),
                locality: balancing.locality,
                slow_start: balancing.slow_start,
                panic_threshold: balancing.panic_threshold,
            },
            timeouts: Timeouts { connect: timeouts.connect },
        }
    }

    /// The parts of which both say something.
    pub fn overlap(&self, other: &Self) -> Vec<&'static str> {
        let both = |part: &'static str, one: bool, other: bool| (one && other).then_some(part);
        let empty = Self::default();
        let says = |layer: &Self| [layer.balancing != empty.balancing, layer.timeouts != empty.timeouts];
        let parts = ["loadBalancing", "timeouts"];
        let pairs = parts.iter().zip(says(self)).zip(says(other));
        pairs.filter_map(|((part, one), other)| both(part, one, other)).collect()
    }
}

/// The longest time a connection may take to be made.
const MAX_CONNECT: Duration = Duration::from_mins(1);

/// Where nothing is said of it: below which share of a zone's endpoints others help out.
const FAILOVER_BELOW: Ratio = Ratio::percent(70);

pub(super) fn read(
    spec: &Field<'_>,
    namespace: Option<&Name>,
    places: &mut Places,
) -> Option<TrafficPolicySpec> {
    let spec = spec.object(&FIELDS)?;
    spec.refuse_unenforced(&[
        "retries",
        "hedging",
        "circuitBreaker",
        "bulkhead",
        "concurrency",
        "healthCheck",
    ]);
    let target = target::read(&spec, namespace, &TARGETS, places);
    let layer = TrafficLayer {
        balancing: spec.field("loadBalancing").and_then(|field| balancing(&field)).unwrap_or_default(),
        timeouts: spec.field("timeouts").and_then(|field| timeouts(&field)).unwrap_or_default(),
    };
    for part in ["loadBalancing", "timeouts"] {
        places.extend(spec.field(part).map(|field| (format!("spec.{part}"), field.place())));
    }
    Some(TrafficPolicySpec { target: target?, layer })
}

fn balancing(field: &Field<'_>) -> Option<BalancingLayer> {
    let object = field.object(&["policy", "consistentHash", "locality", "slowStart", "panicThreshold"])?;
    Some(BalancingLayer {
        policy: balancing_policy(&object),
        locality: object.field("locality").and_then(|field| locality(&field)),
        slow_start: object.field("slowStart").and_then(|field| field.duration()),
        panic_threshold: object.field("panicThreshold").and_then(|field| field.ratio()),
    })
}

fn balancing_policy(object: &Object<'_>) -> Option<BalancingPolicy> {
    let policies = [
        ("PeakEwma", Some(BalancingPolicy::PeakEwma)),
        ("LeastRequest", Some(BalancingPolicy::LeastRequest)),
        ("RoundRobin", Some(BalancingPolicy::RoundRobin)),
        ("Random", Some(BalancingPolicy::Random)),
        ("ConsistentHash", None),
    ];
    let by_word: Vec<(&str, &Option<BalancingPolicy>)> =
        policies.iter().map(|(word, policy)| (*word, policy)).collect();
    let key_field = object.field("consistentHash");
    let key = key_field.as_ref().map(hash_key);
    let policy = object.field("policy").map(|field| (field.choice(&by_word), field));
    match (policy, key) {
        (Some((None, _)), _) | (None, None) => None,
        (Some((Some(None), _)), Some(key)) => key.map(BalancingPolicy::ConsistentHash),
        (Some((Some(None), field)), None) => {
            field.mistake("does not say what to hash", "write consistentHash: {header: NAME} beside it");
            None
        }
        (Some((Some(Some(policy)), _)), key) => {
            if let (Some(field), Some(_)) = (&key_field, key) {
                field.note(format!("says nothing, for the policy is {policy:?}"));
            }
            Some(policy.clone())
        }
        (None, Some(_)) => {
            let hint = "write policy: ConsistentHash beside it";
            object.required("policy", hint);
            None
        }
    }
}

fn hash_key(field: &Field<'_>) -> Option<HashKey> {
    let object = field.object(&["header", "cookie", "sourceIp"])?;
    object.refuse_unenforced(&["header", "cookie"]);
    match (object.field("header"), object.field("cookie"), object.field("sourceIp")) {
        (None, None, Some(source)) => {
            let says = source.bool()?;
            if !says {
                source.mistake("must be true", "write sourceIp: true");
            }
            says.then_some(HashKey::SourceIp)
        }
        (Some(_), None, None) | (None, Some(_), None) => None,
        _ => {
            let message = "exactly one of header, cookie and sourceIp is expected";
            field.mistake(message, "write {header: NAME}, {cookie: NAME} or {sourceIp: true}");
            None
        }
    }
}

fn locality(field: &Field<'_>) -> Option<Locality> {
    let object = field.object(&["prefer", "failoverBelow"])?;
    object.required("prefer", "write prefer: Zone")?.choice(&[("Zone", ())])?;
    let failover_below = match object.field("failoverBelow") {
        Some(field) => field.ratio()?,
        None => FAILOVER_BELOW,
    };
    Some(Locality { failover_below })
}

fn timeouts(field: &Field<'_>) -> Option<TimeoutsLayer> {
    let object = field.object(&["connect", "request", "idle"])?;
    object.refuse_unenforced(&["request", "idle"]);
    let connect = object.field("connect").and_then(|field| Some((field.duration()?, field)));
    let connect = connect.and_then(|(connect, field)| {
        if connect > MAX_CONNECT {
            field.mistake("is longer than a minute", "write at most 1m");
        }
        (connect <= MAX_CONNECT).then_some(connect)
    });
    Some(TimeoutsLayer { connect })
}
