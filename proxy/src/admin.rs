//! The admin port: probes and metrics for everyone, the rest for the pod itself.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use weft_core::health::Found;
use weft_core::model::{Endpoint, HostName, Location, Service, ServicePort, Traffic};
use weft_runtime::http::{Peer, text, typed};
use weft_runtime::logs::LogLevel;
use weft_runtime::metrics::{Format, Registry};
use weft_runtime::task;

use crate::credentials::CredentialStore;
use crate::health::{Subject, Thoughts};
use crate::state::{Discovery, Known, KnownService};
use crate::upstream::{Listed, Site};

/// What the admin port asks the process to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Take no new work, but stay.
    Drain,
    /// Drain and exit.
    Shutdown,
}

/// What the admin pages show and change.
#[derive(Debug, Clone)]
pub struct Admin {
    /// What is known of the mesh.
    pub discovery: Discovery,
    /// Our certificate.
    pub credentials: CredentialStore,
    /// All metrics.
    pub registry: Registry,
    /// Whether traffic may come.
    pub ready: watch::Receiver<bool>,
    /// The level of the log; none where logs are somebody else's.
    pub level: Option<LogLevel>,
    /// Where orders go.
    pub orders: mpsc::Sender<Order>,
    /// What keeps calls from an endpoint, and requests from the app.
    pub site: Site,
    /// What is thought of the apps that are asked how they are.
    pub health: watch::Receiver<Thoughts>,
}

type Page = Response<Full<Bytes>>;

impl Admin {
    /// Answers a request.
    pub async fn handle(self: Arc<Self>, request: Request<Bytes>) -> Page {
        let local =
            request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
        let path = request.uri().path();
        if !local && !matches!(path, "/live" | "/ready" | "/metrics") {
            return text(StatusCode::FORBIDDEN, "only /live, /ready and /metrics answer to other hosts\n");
        }
        match (request.method(), path) {
            (&Method::GET | &Method::HEAD, _) => self.page(path, &request),
            (&Method::PUT, "/log-level") => self.set_level(request.body()),
            (&Method::POST, "/drain") => self.order(Order::Drain),
            (&Method::POST, "/shutdown") => self.order(Order::Shutdown),
            (_, "/log-level" | "/drain" | "/shutdown") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "PUT /log-level, POST /drain, POST /shutdown\n")
            }
            _ => not_found(),
        }
    }

    fn page(&self, path: &str, request: &Request<Bytes>) -> Page {
        match path {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => self.readiness(),
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                let format = Format::negotiate(accept);
                let mut page = text(StatusCode::OK, self.registry.render(format));
                page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
                page
            }
            "/config" => page_of(&self.configuration()),
            "/identity" => page_of(&self.identity()),
            "/stats" => page_of(&self.stats()),
            "/log-level" => match &self.level {
                Some(level) => text(StatusCode::OK, format!("{level}\n")),
                None => not_found(),
            },
            _ => not_found(),
        }
    }

    fn readiness(&self) -> Page {
        if *self.ready.borrow() {
            return text(StatusCode::OK, "ready\n");
        }
        let mut missing = Vec::new();
        if self.credentials.current().is_none() {
            missing.push("no certificate yet");
        }
        if self.discovery.snapshot().mesh.is_none() {
            missing.push("no configuration yet");
        }
        let reason = if missing.is_empty() { "draining or starting".to_owned() } else { missing.join(", ") };
        text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
    }

    fn set_level(&self, body: &Bytes) -> Page {
        let Some(level) = &self.level else { return not_found() };
        match str::from_utf8(body).map_err(|error| error.to_string()) {
            Ok(wanted) => match level.set(wanted) {
                Ok(()) => {
                    tracing::info!(level = wanted.trim(), "log level changed");
                    text(StatusCode::OK, format!("{level}\n"))
                }
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            },
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }

    fn order(&self, order: Order) -> Page {
        // A full queue holds orders of the same effect.
        let _ = self.orders.try_send(order);
        text(StatusCode::ACCEPTED, "draining\n")
    }

    fn identity(&self) -> Value {
        let Some((generation, credentials)) = self.credentials.current() else { return json!(null) };
        json!({
            "spiffe_id": credentials.identity().as_str(),
            "serial": credentials.serial().as_str(),
            "not_before": time(credentials.not_before()),
            "not_after": time(credentials.not_after()),
            "generation": generation,
        })
    }

    fn stats(&self) -> Value {
        let tasks = task::counts().into_iter().map(|count| {
            (
                count.name.to_owned(),
                json!({ "started": count.started, "live": count.live, "panics": count.panics }),
            )
        });
        let circuit = |listed: Listed| {
            json!({
                "service": listed.destination.to_string(),
                "port": listed.port,
                "endpoint": listed.endpoint.map(|endpoint| endpoint.to_string()),
                "state": listed.phase.as_str(),
            })
        };
        let circuits = self.site.breakers.list(Instant::now()).into_iter().map(circuit);
        let limits =
            self.site.limiters.list().into_iter().map(
                |(port, limit, in_flight)| json!({ "port": port, "limit": limit, "in_flight": in_flight }),
            );
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "tasks": tasks.collect::<serde_json::Map<_, _>>(),
            "circuits": circuits.collect::<Vec<_>>(),
            "concurrency": limits.collect::<Vec<_>>(),
            "health": self.health.borrow().iter().map(health).collect::<Vec<_>>(),
        })
    }

    fn configuration(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        let mut services: Vec<_> = snapshot.services.values().collect();
        services.sort_by(|a, b| a.service.name.cmp(&b.service.name));
        let mut addresses: Vec<_> = snapshot.addresses.iter().collect();
        addresses.sort_by_key(|(address, _)| **address);
        let mut absent: Vec<_> = snapshot.absent_services.iter().map(ToString::to_string).collect();
        absent.sort();
        json!({
            "revision": snapshot.revision,
            "connected": self.discovery.connected(),
            "mesh": snapshot.mesh.as_ref().map(|mesh| json!({
                "trust_domain": mesh.trust_domain.as_str(),
                "mtls": format!("{:?}", mesh.mtls),
                "outbound": format!("{:?}", mesh.outbound),
                "authorization": format!("{:?}", mesh.authorization),
                "access_log": format!("{:?}", mesh.access_log),
                "sampling_per_million": mesh.tracing.sampling_per_million,
                "propagation": mesh.tracing.propagation.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>(),
                "export": mesh.tracing.export.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>(),
            })),
            "workload": snapshot.workload.as_ref().map(|workload| json!({
                "name": workload.name.to_string(),
                "service_account": workload.service_account.as_str(),
                "ports": workload.ports.iter().map(|port| json!({
                    "port": port.port,
                    "protocol": format!("{:?}", port.protocol),
                    "service": port.service.to_string(),
                    "concurrency": format!("{:?}", port.concurrency),
                })).collect::<Vec<_>>(),
                "policies": workload.policies.iter().map(|it| it.name.to_string()).collect::<Vec<_>>(),
                "tokens": workload.tokens.iter().map(|it| it.name.to_string()).collect::<Vec<_>>(),
                "limits": workload.limits.iter().map(|it| it.name.to_string()).collect::<Vec<_>>(),
                "checks": workload.checks.iter().map(|check| format!("{check:?}")).collect::<Vec<_>>(),
            })),
            "services": services.into_iter().map(|known| service(known, self.site.location())).collect::<Vec<_>>(),
            "absent_services": absent,
            "addresses": addresses.into_iter().map(|(address, known)| {
                (address.to_string(), self::known(known))
            }).collect::<serde_json::Map<_, _>>(),
        })
    }
}

fn health((subject, thought): (&Subject, &Found)) -> Value {
    let (service, workload) = match subject {
        Subject::Own(service) => (service, None),
        Subject::Other { service, workload } => (service, Some(workload.to_string())),
    };
    json!({ "service": service.to_string(), "workload": workload, "healthy": *thought == Found::Working })
}

fn service(known: &KnownService, from: Location<'_>) -> Value {
    let Service { name, addresses, ports, traffic, routes, external, tokens } = &known.service;
    let priorities = &traffic.balancing.priorities;
    let priority = |endpoint: &Endpoint| {
        (!priorities.is_empty()).then(|| endpoint.fits.rank(priorities, endpoint.location(), from) + 1)
    };
    json!({
        "name": name.to_string(),
        "addresses": addresses,
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "traffic": (**traffic != Traffic::default()).then(|| format!("{traffic:?}")),
        "routes": routes.iter().map(|route| route.name.to_string()).collect::<Vec<_>>(),
        "tokens": tokens.as_ref().map(|policy| policy.name.to_string()),
        "host": external.as_ref().and_then(|external| external.host.as_ref()).map(HostName::as_str),
        "endpoints": known.endpoints.iter().map(|known| endpoint(known, priority(known))).collect::<Vec<_>>(),
    })
}

fn port(port: &ServicePort) -> Value {
    json!({ "port": port.port, "name": port.name, "protocol": format!("{:?}", port.protocol) })
}

fn endpoint(endpoint: &Endpoint, priority: Option<usize>) -> Value {
    json!({
        "workload": endpoint.workload.to_string(),
        "addresses": endpoint.addresses,
        "identity": endpoint.identity.as_ref().map(weft_core::model::SpiffeId::as_str),
        "inbound_port": endpoint.inbound_port,
        "zone": endpoint.zone,
        "node": endpoint.node.as_ref(),
        "priority": priority,
        "weight": endpoint.weight,
        "healthy": endpoint.healthy,
        "ports": endpoint.ports.iter().map(|map| (map.port.to_string(), json!(map.target_port)))
            .collect::<serde_json::Map<_, _>>(),
    })
}

fn known(known: &Known) -> Value {
    match known {
        Known::Service(name) => json!({ "service": name.to_string() }),
        Known::Workload(workload) => json!({
            "workload": workload.endpoint.workload.to_string(),
            "service": workload.service.as_ref().map(ToString::to_string),
        }),
        Known::Absent => json!(null),
    }
}

fn time(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(|time| time.to_string())
}

fn page_of(value: &Value) -> Page {
    typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn not_found() -> Page {
    text(
        StatusCode::NOT_FOUND,
        "GET /live /ready /metrics /config /identity /stats, PUT /log-level, POST /drain /shutdown\n",
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::state;

    struct Harness {
        admin: Arc<Admin>,
        ready: watch::Sender<bool>,
        orders: mpsc::Receiver<Order>,
    }

    fn harness() -> Harness {
        let (discovery, ..) = state::channel(Vec::new());
        let (ready, watch) = watch::channel(false);
        let (sender, orders) = mpsc::channel(1);
        let admin = Admin {
            discovery,
            credentials: CredentialStore::default(),
            registry: Registry::new(),
            ready: watch,
            level: None,
            orders: sender,
            site: Site::default(),
            health: watch::channel(Thoughts::new()).1,
        };
        Harness { admin: Arc::new(admin), ready, orders }
    }

    async fn status(harness: &Harness, method: Method, path: &str, from: &str) -> u16 {
        let mut request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        request.extensions_mut().insert(Peer(from.parse::<SocketAddr>().unwrap()));
        Arc::clone(&harness.admin).handle(request).await.status().as_u16()
    }

    #[tokio::test]
    async fn readiness_follows_what_it_stands_for() {
        let harness = harness();
        assert_eq!(status(&harness, Method::GET, "/ready", "10.0.0.9:1").await, 503);
        harness.ready.send_replace(true);
        assert_eq!(status(&harness, Method::GET, "/ready", "10.0.0.9:1").await, 200);
    }

    #[tokio::test]
    async fn strangers_see_probes_and_metrics_alone() {
        let harness = harness();
        for (path, stranger) in
            [("/live", 200), ("/metrics", 200), ("/config", 403), ("/identity", 403), ("/x", 403)]
        {
            assert_eq!(status(&harness, Method::GET, path, "10.0.0.9:1").await, stranger, "{path}");
        }
        for path in ["/config", "/identity", "/stats"] {
            assert_eq!(status(&harness, Method::GET, path, "[::ffff:127.0.0.1]:1").await, 200, "{path}");
        }
        assert_eq!(status(&harness, Method::POST, "/shutdown", "10.0.0.9:1").await, 403);
    }

    #[tokio::test]
    async fn orders_are_posted() {
        let mut harness = harness();
        assert_eq!(status(&harness, Method::GET, "/drain", "127.0.0.1:1").await, 404);
        assert_eq!(status(&harness, Method::POST, "/drain", "127.0.0.1:1").await, 202);
        assert_eq!(status(&harness, Method::PUT, "/drain", "127.0.0.1:1").await, 405);
        assert_eq!(harness.orders.try_recv(), Ok(Order::Drain));
    }
}
