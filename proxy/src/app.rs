//! The sidecar's wiring: what is started, in which order, and how it ends.
//!
//! This thread runs control, admin, resolver and export; workers have threads of their own, so that traffic cannot
//! starve readiness.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use weft_pods::intercept::{self, Source};
use weft_runtime::drain::{self, Drain};
use weft_runtime::http::Limits;
use weft_runtime::logs::LogLevel;
use weft_runtime::metrics::{Registry, Shard};
use weft_runtime::signal::Shutdown;
use weft_runtime::{http, signal, task};

use crate::admin::{Admin, Order};
use crate::config::{Settings, own_addresses, reachable_addresses};
use crate::control::Control;
use crate::credentials::CredentialStore;
use crate::dns::{Forwarder, Resolver};
use crate::health::{HealthLoop, Reach, Thoughts};
use crate::observe::export::{Exporter, Who};
use crate::observe::{Observe, RecordQueue};
use crate::presence;
use crate::state::{self, Discovery};
use crate::upstream::{Dialer, Listed, Names, Site, may_dial_as_others};
use crate::worker::{self, Workers};

/// What admin clients may take: a few probes and a scraper.
const ADMIN_LIMITS: Limits = Limits {
    connections: 64,
    read: Duration::from_secs(10),
    connection: Duration::from_secs(300),
    grace: Duration::from_secs(1),
    head: 16 << 10,
    body: 4 << 10,
};

/// How long workers may take to end once connections have been cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs the sidecar until it is told to end.
pub(crate) fn run(settings: Settings, level: Option<LogLevel>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .context("cannot start the control runtime")?;
    check_source(settings.source)?;
    runtime.block_on(async {
        let signals = signal::shutdown().context("cannot listen for signals")?;
        Sidecar::start(settings, level).await?.run(signals).await;
        Ok(())
    })
}

/// A running sidecar.
struct Sidecar {
    settings: Arc<Settings>,
    discovery: Discovery,
    credentials: CredentialStore,
    ready: watch::Sender<bool>,
    orders: mpsc::Receiver<Order>,
    drain: Drain,
    /// Started when the app is gone.
    app: Drain,
    workers: Workers,
    exporter: JoinHandle<()>,
    finish_export: oneshot::Sender<()>,
    /// Admin pages answer until the process ends.
    _admin: Drain,
}

impl Sidecar {
    async fn start(settings: Settings, level: Option<LogLevel>) -> anyhow::Result<Self> {
        let settings = Arc::new(settings);
        let (own, addresses) = addresses(&settings);

        let registry = Registry::new();
        let (observe, records) = observe(&settings, &registry);
        let (discovery, publisher, asked) = state::channel(own);
        let credentials = CredentialStore::default();
        declare_metrics(&registry, &discovery, &credentials);
        let site = site(&settings, &registry);
        let health = watch_health(&settings, &discovery, &addresses, &site);
        let (ready, readiness) = watch::channel(false);
        let (order, orders) = mpsc::channel(4);

        let shared = worker::Shared {
            discovery: discovery.clone(),
            credentials: credentials.clone(),
            observe: observe.clone(),
            site: site.clone(),
            probes: Arc::new(settings.probes.clone()),
        };
        let (workers, drain, app) = start_workers(&settings, &shared).context("cannot listen")?;

        let names = forwarder(&settings);
        let names = Resolver::new(discovery.clone(), credentials.clone(), names, &registry);
        let shard = registry.shard();
        let admin = Arc::new(Admin {
            discovery: discovery.clone(),
            credentials: credentials.clone(),
            registry,
            ready: readiness.clone(),
            level,
            orders: order,
            site,
            health: health.clone(),
        });
        let pages = serve_admin(&settings, &admin)?;
        serve_names(&settings, names).await?;
        let control = Control {
            settings: Arc::clone(&settings),
            addresses,
            store: credentials.clone(),
            publisher,
            asked,
            ready: readiness,
            health,
            observe,
            admin,
        };
        let collector = control.start();
        let (exporter, finish_export) = export(&settings, &discovery, (records, shard), collector);
        tracing::info!(
            workload = %settings.workload,
            outbound = %workers.outbound(),
            inbound = %workers.inbound(),
            workers = settings.workers,
            "started"
        );
        Ok(Self {
            settings,
            discovery,
            credentials,
            ready,
            orders,
            drain,
            app,
            workers,
            exporter,
            finish_export,
            _admin: pages,
        })
    }

    /// Serves until a signal or an order, then ends in good order.
    async fn run(mut self, mut signals: Shutdown) {
        let mut certificates = self.credentials.changes();
        let order = loop {
            let is_ready = self.credentials.current().is_some() && self.discovery.snapshot().mesh.is_some();
            if self.ready.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready) {
                tracing::info!(ready = is_ready, "readiness changed");
            }
            tokio::select! {
                () = self.discovery.changed() => {}
                Ok(()) = certificates.changed() => {}
                signal = signals.received() => {
                    tracing::info!(signal, "shutting down");
                    break Order::Shutdown;
                }
                Some(order) = self.orders.recv() => {
                    tracing::info!(?order, "told by the admin port");
                    break order;
                }
            }
        };
        self.end(order, &mut signals).await;
    }

    /// Takes nothing new from others, while what they have begun goes on and the app may call, until told to end.
    async fn stay(&mut self, signals: &mut Shutdown) {
        let closing = async {
            tokio::time::sleep(self.settings.minimum_drain).await;
            self.drain.start();
            std::future::pending().await
        };
        tokio::select! {
            () = closing => {}
            signal = signals.received() => tracing::info!(signal, "shutting down"),
            () = shutdown_ordered(&mut self.orders) => tracing::info!("told by the admin port to shut down"),
        }
    }

    async fn end(mut self, order: Order, signals: &mut Shutdown) {
        // First nobody sends new traffic; while that spreads, what still comes is served.
        self.ready.send_replace(false);
        if order == Order::Drain {
            self.stay(signals).await;
        }
        let Settings { minimum_drain, drain_timeout, app_grace, .. } = *self.settings;
        let patience = async {
            tokio::time::sleep(minimum_drain).await;
            let begun = Instant::now();
            self.drain.start();
            // An app that is still there may call others while it ends.
            if tokio::time::timeout(app_grace.min(drain_timeout), presence::app_is_gone()).await.is_err() {
                tracing::info!("the app is still there, and is not waited for any longer");
            }
            self.app.start();
            let drained = self.drain.finish(drain_timeout.saturating_sub(begun.elapsed())).await;
            if let Err(error) = drained {
                tracing::warn!(%error, "cutting connections");
            }
            if tokio::time::timeout(LAST_WORDS, self.workers.ended()).await.is_err() {
                tracing::warn!("workers did not end in time");
            }
        };
        tokio::select! {
            () = patience => tracing::info!("drained"),
            signal = signals.received() => tracing::warn!(signal, "impatient, cutting connections"),
        }
        // The exporter may have ended already; then there is nothing to flush.
        let _ = self.finish_export.send(());
        let _ = self.exporter.await;
    }
}

/// Starts the workers; the first drain ends them, the second tells them that the app is gone.
fn start_workers(settings: &Settings, shared: &worker::Shared) -> io::Result<(Workers, Drain, Drain)> {
    let ((drain, watch), (app, gone)) = (drain::channel(), drain::channel());
    let workers = worker::start(&worker_settings(settings), shared, &watch, &gone)?;
    Ok((workers, drain, app))
}

/// Where it is told what happens, as the environment wants it.
fn observe(settings: &Settings, registry: &Registry) -> (Observe, RecordQueue) {
    for mistake in &settings.otel.mistakes {
        tracing::warn!(mistake, "a variable is left out");
    }
    let (observe, records) = Observe::new(registry);
    (observe.with(settings.telemetry), records)
}

/// Starts exporting what is recorded, until told to finish.
fn export(
    settings: &Settings,
    discovery: &Discovery,
    (queue, shard): (RecordQueue, Shard),
    collector: watch::Receiver<Option<Channel>>,
) -> (JoinHandle<()>, oneshot::Sender<()>) {
    let exporter = Exporter {
        queue,
        collector,
        who: Who {
            discovery: discovery.clone(),
            workload: settings.workload.clone(),
            resource: settings.otel.resource.clone().into(),
        },
        own: settings.otel.collector.clone(),
        shard,
        mark: settings.mark,
        log: tokio::io::stdout(),
    };
    let (finish_export, finish) = oneshot::channel();
    (task::spawn("export", exporter.run(finish)), finish_export)
}

/// Starts asking apps how they are, where a policy says so.
fn watch_health(
    settings: &Settings,
    discovery: &Discovery,
    addresses: &[IpAddr],
    site: &Site,
) -> watch::Receiver<Thoughts> {
    let (names, public) = (site.names.clone(), site.public.clone());
    let reach = Reach { dialer: Dialer::new(settings.mark), names, public };
    let (health, thoughts) = HealthLoop::new(discovery.clone(), addresses.to_vec(), reach);
    task::spawn("health", health.run());
    thoughts
}

/// The admin pages answer as long as what is returned lives.
fn serve_admin(settings: &Settings, admin: &Arc<Admin>) -> anyhow::Result<Drain> {
    let (drain, watch) = drain::channel();
    for address in &settings.admin {
        let listener =
            bind(*address).with_context(|| format!("cannot listen on {address} (--admin-addr)"))?;
        let admin = Arc::clone(admin);
        let handler = move |request| Arc::clone(&admin).handle(request);
        task::spawn("admin", http::serve(listener, ADMIN_LIMITS, watch.clone(), handler));
    }
    Ok(drain)
}

async fn serve_names(settings: &Settings, resolver: Resolver) -> anyhow::Result<()> {
    for address in &settings.dns {
        let listening = resolver.listen(*address).await;
        listening.with_context(|| format!("cannot listen on {address} (--dns-addr)"))?;
    }
    Ok(())
}

/// The pod's own addresses, and those of them where others reach it.
fn addresses(settings: &Settings) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let mut own = own_addresses();
    let reachable =
        if settings.pod_ips.is_empty() { reachable_addresses(&own) } else { settings.pod_ips.clone() };
    own.extend(&reachable);
    (own, reachable)
}

fn forwarder(settings: &Settings) -> Forwarder {
    Forwarder::new(settings.resolv_conf.clone(), settings.dns.clone(), settings.mark)
}

async fn shutdown_ordered(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if order == Order::Shutdown {
            return;
        }
    }
}

fn worker_settings(settings: &Settings) -> worker::Settings {
    let explicit = |upstream: &crate::config::Upstream| worker::Explicit {
        address: upstream.listen,
        service: upstream.service.clone(),
        namespace: upstream.namespace.clone(),
        port: upstream.port,
    };
    worker::Settings {
        workers: settings.workers.get(),
        outbound: settings.outbound,
        inbound: settings.inbound,
        upstreams: settings.upstreams.iter().map(explicit).collect(),
        conduct: worker::Conduct {
            mark: settings.mark,
            source: settings.source,
            tracing: settings.otel.tracing,
            ..Default::default()
        },
    }
}

/// Refuses to start where the app could not be called from its callers' addresses: each of its connections would fail.
fn check_source(source: Source) -> anyhow::Result<()> {
    match source {
        Source::Sidecar => Ok(()),
        Source::Caller => {
            may_dial_as_others().context("--keep-source (WEFT_KEEP_SOURCE) takes the right CAP_NET_ADMIN")?;
            let is_up = intercept::keeps_source().context("cannot read the routing rules")?;
            anyhow::ensure!(
                is_up,
                "--keep-source (WEFT_KEEP_SOURCE) takes `intercept up --keep-source` first"
            );
            Ok(())
        }
    }
}

/// The metrics that are read off when somebody asks.
fn declare_metrics(registry: &Registry, discovery: &Discovery, credentials: &CredentialStore) {
    let known = discovery.clone();
    registry.gauge_from("weft_endpoints", "Endpoints known behind each service.", ["service"], move || {
        let snapshot = known.snapshot();
        let sample = |service: &Arc<state::KnownService>| {
            #[expect(clippy::cast_precision_loss, reason = "endpoints are few")]
            let endpoints = service.endpoints.len() as f64;
            ([service.service.name.to_string()], endpoints)
        };
        snapshot.services.values().map(sample).collect()
    });
    let known = discovery.clone();
    registry.gauge_from("weft_config_version", "The configuration revision in force.", [], move || {
        #[expect(clippy::cast_precision_loss, reason = "revisions are few")]
        let revision = known.snapshot().revision as f64;
        vec![([], revision)]
    });
    let known = discovery.clone();
    registry.gauge_from(
        "weft_control_plane_connected",
        "Whether the control plane is there.",
        [],
        move || vec![([], f64::from(u8::from(known.connected())))],
    );
    let store = credentials.clone();
    registry.gauge_from(
        "weft_certificate_expiry_seconds",
        "How long our certificate is still valid; negative once it has expired.",
        [],
        move || {
            let Some((_, credentials)) = store.current() else { return Vec::new() };
            let left = match credentials.not_after().duration_since(SystemTime::now()) {
                Ok(left) => left.as_secs_f64(),
                Err(over) => -over.duration().as_secs_f64(),
            };
            vec![([], left)]
        },
    );
}

/// From where we call, and the metrics of what keeps calls from an endpoint, and requests from the app.
fn site(settings: &Settings, registry: &Registry) -> Site {
    let names = Names::new(forwarder(settings));
    let public = settings.public_roots.clone();
    let (zone, node) = (settings.zone.as_str().into(), settings.node.as_str().into());
    let site = Site { zone, node, names, public, ..Site::default() };
    let breakers = site.breakers.clone();
    registry.gauge_from(
        "weft_circuit_state",
        "Circuit breakers: 0 closed, 1 half-open, 2 open; without an endpoint the service as a whole.",
        ["service", "port", "endpoint"],
        move || {
            let sample = |listed: Listed| {
                let endpoint = listed.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default();
                let labels = [listed.destination.to_string(), listed.port.to_string(), endpoint];
                (labels, f64::from(listed.phase.number()))
            };
            breakers.list(Instant::now()).into_iter().map(sample).collect()
        },
    );
    let limiters = site.limiters.clone();
    registry.gauge_from(
        "weft_concurrency_limit",
        "Requests that a port of the app is given at once, as found out.",
        ["port"],
        move || {
            limiters.list().iter().map(|(port, limit, _)| ([port.to_string()], f64::from(*limit))).collect()
        },
    );
    site
}

/// A listener; one on every IPv6 address takes IPv4 too, whatever the system's default is.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}
