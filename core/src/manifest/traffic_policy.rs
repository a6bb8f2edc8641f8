//! `weft.mesh/v1alpha1 TrafficPolicy`.

use std::time::Duration;

use super::decode::{Field, Object};
use super::document::Places;
use super::health_check::{self, HealthCheckLayer};
use super::layers::layers;
use super::mesh_config::MTLS;
use super::node::Value;
use super::retries::{HedgingLayer, RetriesLayer, read_hedging, read_retries};
use super::target::{self, TargetKind};
use crate::model::{
    Balancing, BalancingPolicy, Bulkhead, CircuitBreaker, ConcurrencyMode, HashCookie, HashKey, Locality,
    MtlsMode, Name, PolicyTarget, Ratio, Timeouts, Traffic,
};

const TARGETS: [TargetKind; 4] =
    [TargetKind::Service, TargetKind::Workload, TargetKind::Namespace, TargetKind::Mesh];

const FIELDS: [&str; 10] = [
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
];

/// What a `TrafficPolicy` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicySpec {
    /// Whose callers it is for.
    pub target: PolicyTarget,
    /// What it says; what it leaves open, less specific policies say.
    pub layer: Box<TrafficLayer>,
}

/// What policies say of a service, one over another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficLayer {
    /// Which endpoint gets a request.
    pub balancing: BalancingLayer,
    /// How long things may take.
    pub timeouts: TimeoutsLayer,
    /// When an endpoint is left alone.
    pub circuit_breaker: Option<CircuitBreakerLayer>,
    /// How much is sent at once.
    pub bulkhead: Option<BulkheadLayer>,
    /// Whether it is found out how many requests an app is given at once.
    pub concurrency: Option<ConcurrencyMode>,
    /// How an app is asked whether it works.
    pub health_check: Option<HealthCheckLayer>,
    /// What is tried again.
    pub retries: Option<Box<RetriesLayer>>,
    /// When a second endpoint is asked.
    pub hedging: Option<HedgingLayer>,
    /// Whether an app takes plaintext.
    pub mtls: Option<MtlsMode>,
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
        /// A request and its answer.
        pub request: Duration,
        /// Nothing moves.
        pub idle: Duration,
    }
}

layers! {
    /// What policies say of leaving endpoints alone.
    pub struct CircuitBreakerLayer {
        /// After so many failures in a row.
        pub consecutive_failures: u32,
        /// When so many of the requests within the window failed.
        pub failure_ratio: Ratio,
        /// Among fewer requests a share says nothing.
        pub min_requests: u32,
        /// How long requests are remembered.
        pub window: Duration,
        /// For how long it is left alone the first time.
        pub open_for: Duration,
        /// Requests that try it afterwards.
        pub half_open_requests: u32,
        /// Never more of a service's endpoints than this are left alone.
        pub max_ejected: Ratio,
    }
}

layers! {
    /// What policies say of how much is sent at once.
    pub struct BulkheadLayer {
        /// Connections that are open.
        pub max_connections: u32,
        /// Requests that are under way.
        pub max_concurrent_requests: u32,
        /// Requests that wait for others to end.
        pub max_pending_requests: u32,
    }
}

impl TrafficLayer {
    /// This one where it says something, else the one below.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        Self {
            balancing: self.balancing.over(&below.balancing),
            timeouts: self.timeouts.over(&below.timeouts),
            circuit_breaker: section(self.circuit_breaker, &below.circuit_breaker, CircuitBreakerLayer::over),
            bulkhead: section(self.bulkhead, &below.bulkhead, BulkheadLayer::over),
            concurrency: self.concurrency.or(below.concurrency),
            health_check: section(self.health_check, &below.health_check, HealthCheckLayer::over),
            retries: section(self.retries, &below.retries, |above, below| Box::new(above.over(below))),
            hedging: section(self.hedging, &below.hedging, HedgingLayer::over),
            mtls: self.mtls.or(below.mtls),
        }
    }

    /// Whether it says something of the apps behind a service, and not of its callers alone.
    pub fn is_about_apps(&self) -> bool {
        self.concurrency.is_some() || self.health_check.is_some() || self.mtls.is_some()
    }

    /// What holds, with the defaults of what nobody has said.
    pub fn resolve(self) -> Traffic {
        let Self {
            balancing,
            timeouts,
            circuit_breaker,
            bulkhead,
            concurrency: _,
            health_check,
            retries,
            hedging,
            mtls: _,
        } = self;
        Traffic {
            balancing: Balancing {
                policy: balancing.policy.unwrap_or_default(),
                locality: balancing.locality,
                slow_start: balancing.slow_start,
                panic_threshold: balancing.panic_threshold,
            },
            timeouts: Timeouts { connect: timeouts.connect, request: timeouts.request, idle: timeouts.idle },
            circuit_breaker: circuit_breaker.map(CircuitBreakerLayer::resolve),
            bulkhead: bulkhead.map(BulkheadLayer::resolve),
            health_check: health_check.and_then(HealthCheckLayer::resolve),
            retries: retries.map(|retries| Box::new(retries.resolve())),
            hedging: hedging.map(HedgingLayer::resolve),
            faults: Vec::new(),
        }
    }

    /// The sections of which it says something.
    pub fn sections(&self) -> Vec<&'static str> {
        SECTIONS.into_iter().zip(self.says()).filter_map(|(section, says)| says.then_some(section)).collect()
    }

    /// The sections of which both say something.
    pub fn overlap(&self, other: &Self) -> Vec<&'static str> {
        let both = SECTIONS.into_iter().zip(self.says()).zip(other.says());
        both.filter_map(|((section, ours), theirs)| (ours && theirs).then_some(section)).collect()
    }

    /// Of which of the sections it says something, in their order.
    fn says(&self) -> [bool; SECTIONS.len()] {
        [
            self.balancing != BalancingLayer::default(),
            self.timeouts != TimeoutsLayer::default(),
            self.circuit_breaker.is_some(),
            self.bulkhead.is_some(),
            self.concurrency.is_some(),
            self.health_check.is_some(),
            self.retries.is_some(),
            self.hedging.is_some(),
            self.mtls.is_some(),
        ]
    }
}

/// One policy's section over a less specific one's: where neither speaks of it there is none.
fn section<L: Clone>(above: Option<L>, below: &Option<L>, over: fn(L, &L) -> L) -> Option<L> {
    match (above, below) {
        (Some(above), Some(below)) => Some(over(above, below)),
        (above, below) => above.or_else(|| below.clone()),
    }
}

impl CircuitBreakerLayer {
    fn resolve(self) -> CircuitBreaker {
        let default = CircuitBreaker::default();
        CircuitBreaker {
            consecutive_failures: self.consecutive_failures.or(default.consecutive_failures),
            failure_ratio: self.failure_ratio.or(default.failure_ratio),
            min_requests: self.min_requests.unwrap_or(default.min_requests),
            window: self.window.unwrap_or(default.window),
            open_for: self.open_for.unwrap_or(default.open_for),
            half_open_requests: self.half_open_requests.unwrap_or(default.half_open_requests),
            max_ejected: self.max_ejected.unwrap_or(default.max_ejected),
        }
    }
}

impl BulkheadLayer {
    fn resolve(self) -> Bulkhead {
        let default = Bulkhead::default();
        Bulkhead {
            max_connections: self.max_connections.unwrap_or(default.max_connections),
            max_concurrent_requests: self.max_concurrent_requests.unwrap_or(default.max_concurrent_requests),
            max_pending_requests: self.max_pending_requests.unwrap_or(default.max_pending_requests),
        }
    }
}

/// The sections that are enforced.
const SECTIONS: [&str; 9] = [
    "loadBalancing",
    "timeouts",
    "circuitBreaker",
    "bulkhead",
    "concurrency",
    "healthCheck",
    "retries",
    "hedging",
    "mtls",
];

/// Those that are about an app, and may be said of one workload.
const OF_APPS: [&str; 3] = ["concurrency", "healthCheck", "mtls"];

/// The most that a number of requests may be.
const MAX_REQUESTS: u32 = 1_000_000;

/// The longest time a connection may take to be made.
const MAX_CONNECT: Duration = Duration::from_mins(1);

/// How long sidecars keep what is idle: a policy may ask for less.
const MAX_IDLE: Duration = Duration::from_hours(2);

/// Where nothing is said of it: below which share of a zone's endpoints others help out.
const FAILOVER_BELOW: Ratio = Ratio::percent(70);

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
    };
    compare(&spec, &layer);
    if let Some(PolicyTarget::Workload(_)) = &target {
        for field in SECTIONS.iter().filter(|key| !OF_APPS.contains(key)).filter_map(|key| spec.field(key)) {
            field.mistake("is about calls of a service, not about one workload", "say it of the Service");
        }
    }
    if let (Some(PolicyTarget::Mesh), Some(field)) = (&target, spec.field("mtls")) {
        field.mistake("what holds for the whole mesh is the MeshConfig's", "write it as spec.mtls there");
    }
    for section in SECTIONS {
        places.extend(spec.field(section).map(|field| (format!("spec.{section}"), field.place())));
    }
    Some(TrafficPolicySpec { target: target?, layer: Box::new(layer) })
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
