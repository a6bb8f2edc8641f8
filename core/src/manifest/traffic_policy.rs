//! `weft.mesh/v1alpha1 TrafficPolicy`.

use std::time::Duration;

use super::decode::{Field, Object};
use super::document::Places;
use super::health_check;
use super::mesh_config::MTLS;
use super::node::Value;
use super::priorities;
use super::retries::{read_hedging, read_retries};
use super::target::{self, TargetKind};
use super::traffic_layer::{
    BalancingLayer, BulkheadLayer, CircuitBreakerLayer, SECTIONS, TimeoutsLayer, TrafficLayer,
};
use crate::model::{
    BalancingPolicy, ConcurrencyMode, HashCookie, HashKey, Locality, MtlsMode, Name, PolicyTarget, Priority,
    Ratio,
};

const TARGETS: [TargetKind; 6] = [
    TargetKind::Service,
    TargetKind::Workload,
    TargetKind::Namespace,
    TargetKind::Mesh,
    TargetKind::HttpRoute,
    TargetKind::GrpcRoute,
];

const FIELDS: [&str; 11] = [
    "targetRef",
    "loadBalancing",
    "timeouts",
    "retries",
    "hedging",
    "circuitBreaker",
    "bulkhead",
    "concurrency",
    "healthCheck",
    "mtls",
    "tracing",
];

/// What a `TrafficPolicy` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicySpec {
    /// Whose callers it is for.
    pub target: PolicyTarget,
    /// What it says; what it leaves open, less specific policies say.
    pub layer: Box<TrafficLayer>,
}

/// Those that are about an app, and may be said of one workload.
const OF_APPS: [&str; 3] = ["concurrency", "healthCheck", "mtls"];

/// Those that are about requests, and may be said of one route.
const OF_ROUTES: [&str; 4] = ["timeouts", "retries", "hedging", "tracing"];

/// The most that a number of requests may be.
const MAX_REQUESTS: u32 = 1_000_000;

/// The longest time a connection may take to be made.
const MAX_CONNECT: Duration = Duration::from_mins(1);

/// How long sidecars keep what is idle: a policy may ask for less.
const MAX_IDLE: Duration = Duration::from_hours(2);

pub(super) fn read(
    spec: &Field<'_>,
    namespace: Option<&Name>,
    places: &mut Places,
) -> Option<TrafficPolicySpec> {
    let spec = spec.object(&FIELDS)?;
    let target = target::read(&spec, namespace, &TARGETS, places);
    let layer = TrafficLayer {
        balancing: spec.field("loadBalancing").and_then(|field| balancing(&field)).unwrap_or_default(),
        timeouts: spec.field("timeouts").and_then(|field| timeouts(&field)).unwrap_or_default(),
        circuit_breaker: spec.field("circuitBreaker").and_then(|field| circuit_breaker(&field)),
        bulkhead: spec.field("bulkhead").and_then(|field| bulkhead(&field)),
        concurrency: spec.field("concurrency").and_then(|field| concurrency(&field)),
        health_check: spec.field("healthCheck").and_then(|field| health_check::read(&field)),
        retries: spec.field("retries").and_then(|field| read_retries(&field)).map(Box::new),
        hedging: spec.field("hedging").and_then(|field| read_hedging(&field)),
        mtls: spec.field("mtls").and_then(|field| mtls(&field)),
        sampling: spec.field("tracing").and_then(|field| sampling(&field)),
    };
    compare(&spec, &layer);
    if let Some(target) = &target {
        refuse_out_of_place(&spec, target);
    }
    for section in ["mtls", "tracing"] {
        if let (Some(PolicyTarget::Mesh), Some(field)) = (&target, spec.field(section)) {
            let hint = format!("write it as spec.{section} there");
            field.mistake("what holds for the whole mesh is the MeshConfig's", hint);
        }
    }
    for section in SECTIONS {
        places.extend(spec.field(section).map(|field| (format!("spec.{section}"), field.place())));
    }
    Some(TrafficPolicySpec { target: target?, layer: Box::new(layer) })
}

/// What cannot be said of one workload, or of one route, is refused by its name.
fn refuse_out_of_place(spec: &Object<'_>, target: &PolicyTarget) {
    let beside = |sections: &[&str], message: &str| {
        for field in SECTIONS.iter().filter(|key| !sections.contains(key)).filter_map(|key| spec.field(key)) {
            field.mistake(message, "say it of the Service");
        }
    };
    match target {
        PolicyTarget::Workload(_) => {
            beside(&OF_APPS, "is about calls of a service, not about one workload");
        }
        PolicyTarget::HttpRoute(_) | PolicyTarget::GrpcRoute(_) => {
            beside(&OF_ROUTES, "is about a service's pods, which all of its routes share");
            for (section, key) in [("timeouts", "connect"), ("retries", "budget")] {
                if let Some(field) = spec.field(section).and_then(|field| field.at(key)) {
                    field.mistake("is what all routes to a service share", "say it of the Service");
                }
            }
        }
        PolicyTarget::Mesh | PolicyTarget::Namespace(_) | PolicyTarget::Service(_) => {}
    }
}

/// What one policy says must be possible at once.
fn compare(spec: &Object<'_>, layer: &TrafficLayer) {
    let each = layer.retries.as_ref().and_then(|retries| retries.per_try);
    if let (Some(whole), Some(each)) = (layer.timeouts.request.filter(|whole| !whole.is_zero()), each)
        && each > whole
        && let Some(field) = spec.field("retries").and_then(|field| field.at("perTryTimeout"))
    {
        field.mistake("one try may not take longer than the whole request", "write a shorter one");
    }
}

fn balancing(field: &Field<'_>) -> Option<BalancingLayer> {
    let object = field.object(&[
        "policy",
        "consistentHash",
        "locality",
        "priorities",
        "slowStart",
        "panicThreshold",
    ])?;
    Some(BalancingLayer {
        policy: balancing_policy(&object),
        locality: object.field("locality").and_then(|field| locality(&field)),
        priorities: object.field("priorities").and_then(|field| priorities::read(&field)),
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
    match (object.field("header"), object.field("cookie"), object.field("sourceIp")) {
        (Some(header), None, None) => token(&header).map(|name| HashKey::Header(name.to_ascii_lowercase())),
        (None, Some(field), None) => cookie(&field).map(HashKey::Cookie),
        (None, None, Some(source)) => {
            let says = source.bool()?;
            if !says {
                source.mistake("must be true", "write sourceIp: true");
            }
            says.then_some(HashKey::SourceIp)
        }
        _ => {
            let message = "exactly one of header, cookie and sourceIp is expected";
            field.mistake(message, "write {header: NAME}, {cookie: NAME} or {sourceIp: true}");
            None
        }
    }
}

/// A cookie: its name alone, or with where and how long it is kept.
fn cookie(field: &Field<'_>) -> Option<HashCookie> {
    if !matches!(field.node().value, Value::Map(_)) {
        return Some(HashCookie { name: token(field)?, path: "/".to_owned(), ttl: None });
    }
    let object = field.object(&["name", "path", "ttl"])?;
    let path = match object.field("path") {
        None => "/".to_owned(),
        Some(field) => cookie_path(&field)?,
    };
    let ttl = object.field("ttl").and_then(|field| field.duration());
    Some(HashCookie { name: token(&object.required("name", "write the cookie's name")?)?, path, ttl })
}

/// RFC 6265 section 4.1.1: a path has no control characters and no semicolon.
fn cookie_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    if path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic() && b != b';')
    {
        return Some(path.to_owned());
    }
    field.mistake(format!("{path:?} is no path of a cookie"), "write a path such as /");
    None
}

/// A token, as names of headers and cookies are (RFC 9110 section 5.6.2).
fn token(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !text.is_empty() && text.len() <= 256 && text.bytes().all(is_token) {
        return Some(text.to_owned());
    }
    field.mistake(format!("{text:?} is no name of a header or cookie"), "write letters, digits, '-' and '_'");
    None
}

fn circuit_breaker(field: &Field<'_>) -> Option<CircuitBreakerLayer> {
    let object = field.object(&[
        "consecutiveFailures",
        "failureRatio",
        "minRequests",
        "window",
        "openFor",
        "halfOpenRequests",
        "maxEjected",
    ])?;
    let number = |name: &str| object.field(name).and_then(|field| field.integer(1..=MAX_REQUESTS));
    let failure_ratio = object.field("failureRatio").and_then(|field| Some((field.ratio()?, field)));
    if let Some((Ratio::NONE, field)) = &failure_ratio {
        field.mistake("no failure at all is a share of 0%", "write a ratio above 0%, such as 50%");
    }
    Some(CircuitBreakerLayer {
        consecutive_failures: number("consecutiveFailures"),
        failure_ratio: failure_ratio.map(|(ratio, _)| ratio),
        min_requests: number("minRequests"),
        window: object.field("window").and_then(|field| field.duration()),
        open_for: object.field("openFor").and_then(|field| field.duration()),
        half_open_requests: number("halfOpenRequests"),
        max_ejected: object.field("maxEjected").and_then(|field| field.ratio()),
    })
}

fn bulkhead(field: &Field<'_>) -> Option<BulkheadLayer> {
    let object = field.object(&["maxConnections", "maxConcurrentRequests", "maxPendingRequests"])?;
    let most = |name: &str| object.field(name).and_then(|field| field.integer(1..=MAX_REQUESTS));
    Some(BulkheadLayer {
        max_connections: most("maxConnections"),
        max_concurrent_requests: most("maxConcurrentRequests"),
        max_pending_requests: object
            .field("maxPendingRequests")
            .and_then(|field| field.integer(0..=MAX_REQUESTS)),
    })
}

fn concurrency(field: &Field<'_>) -> Option<ConcurrencyMode> {
    let modes = [("Off", ConcurrencyMode::Off), ("Adaptive", ConcurrencyMode::Adaptive)];
    field.object(&["mode"])?.required("mode", "write mode: Adaptive")?.choice(&modes)
}

fn mtls(field: &Field<'_>) -> Option<MtlsMode> {
    field.object(&["mode"])?.required("mode", "write mode: Strict or mode: Permissive")?.choice(&MTLS)
}

fn sampling(field: &Field<'_>) -> Option<Ratio> {
    field.object(&["sampling"])?.required("sampling", "write sampling: 1%")?.ratio()
}

fn locality(field: &Field<'_>) -> Option<Locality> {
    let object = field.object(&["prefer", "failoverBelow"])?;
    object.required("prefer", "write prefer: Zone")?.choice(&[("Zone", ())])?;
    let failover_below = match object.field("failoverBelow") {
        Some(field) => field.ratio()?,
        None => Priority::FAILOVER_BELOW,
    };
    Some(Locality { failover_below })
}

fn timeouts(field: &Field<'_>) -> Option<TimeoutsLayer> {
    let object = field.object(&["connect", "request", "idle"])?;
    let at_most = |name: &str, most: Duration, spelt: &str| {
        let field = object.field(name)?;
        let found = field.duration()?;
        if found > most {
            field.mistake(format!("is longer than {spelt}"), format!("write at most {spelt}"));
        }
        (found <= most).then_some(found)
    };
    Some(TimeoutsLayer {
        connect: at_most("connect", MAX_CONNECT, "1m"),
        request: object.field("request").and_then(|field| field.duration_or_none()),
        idle: at_most("idle", MAX_IDLE, "2h"),
    })
}
