//! Wiring: opens everything, starts everything, ends everything.

mod cluster;
mod parts;
mod several;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use weft_certs::CertError;
use weft_core::model::Name;
use weft_core::world::{Change, Defaults};
use weft_runtime::drain::{Drain, DrainWatch, channel};
use weft_runtime::http::Limits;
use weft_runtime::task;

use crate::api::AdminGate;
use crate::ca::{Attestor, Ca, CaError, Files, Keeper, OwnCertificate};
use crate::clock::Steady;
use crate::config::Config;
use crate::configuration::{Configuration, ConfigurationError};
use crate::dashboard::Dashboard;
use crate::etcd::EtcdError;
use crate::keys::Keys;
use crate::kubernetes::AccessError;
use crate::leader::Leadership;
use crate::listen;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::report::chain;
use crate::serve::{self, Served};
use crate::source::dns::Dns;
use crate::source::files::Folder;
use crate::source::kubernetes::Cluster;
use crate::source::registry::Registry;
use crate::status::Live;
use crate::store::{RestoreError, StoreError};
use crate::telemetry::{SegmentError, Telemetry};
use crate::together::Together;
use crate::tokens::TokenError;
use crate::webhook::Webhook;
use crate::world::World;
use cluster::start_cluster;
use parts::{Kubernetes, Parts};
use several::{Way, admin_token, follow_folder, open_store, reached_at, start_replica, way};

/// How often what is due from time to time is done.
const MAINTENANCE: Duration = Duration::from_mins(1);
/// For connections to end.
const DRAIN: Duration = Duration::from_secs(5);
/// The admin token, in hexadecimal digits, is twice as long.
const ADMIN_TOKEN: usize = 32;

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// A file in the data directory.
    #[error("cannot use {0}")]
    File(PathBuf, #[source] io::Error),
    /// The passphrase.
    #[error("there is no passphrase in {0}")]
    NoPassphrase(PathBuf),
    /// The configuration directory.
    #[error("the configuration directory {0} is not a directory")]
    ConfigDir(PathBuf),
    /// The data directory belongs to another trust domain.
    #[error(
        "the data directory holds the authority of {found}, not of {wanted}: use another --data-dir or --trust-domain"
    )]
    TrustDomain {
        /// Whose it is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The Kubernetes API server.
    #[error("cannot find the Kubernetes API server")]
    Kubernetes(#[from] AccessError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A backup.
    #[error("the backup is not restored")]
    Restore(#[from] RestoreError),
    /// etcd.
    #[error("the store in etcd cannot be used")]
    Etcd(#[from] EtcdError),
    /// An authority in files and several control planes.
    #[error(
        "an authority in files (--ca-cert) together with a store in {0} is not supported by this version yet"
    )]
    FilesAndShared(&'static str),
    /// The certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Our own certificate.
    #[error("cannot make the control plane's own certificate")]
    Certificate(#[from] CertError),
    /// The admin token.
    #[error("cannot make the admin token")]
    Token(#[from] TokenError),
    /// The configuration in the store.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The traces on disk.
    #[error(transparent)]
    Traces(#[from] SegmentError),
}

/// Sockets that are listened on already, instead of the addresses in [`Config`]; they may be of another network
/// namespace.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For `--grpc-addr`.
    pub grpc: Option<TcpListener>,
    /// For `--http-addr`.
    pub http: Option<TcpListener>,
    /// For `--otlp-addr`.
    pub otlp: Option<TcpListener>,
}

/// The control plane as a library.
#[derive(Debug)]
pub struct App;

/// A running control plane. Dropped, it ends without waiting.
#[derive(Debug)]
pub struct Handle {
    /// Where sidecars and the `weft` command call.
    pub grpc: SocketAddr,
    /// Where the dashboard is.
    pub http: SocketAddr,
    /// Where spans go.
    pub otlp: SocketAddr,
    /// Where the injector is asked, if it is.
    pub webhook: Option<SocketAddr>,
    /// The trust anchors, as PEM; also in `ca.pem`.
    pub ca_pem: String,
    /// What `weft` shows; also in `admin.token`.
    pub admin_token: AdminToken,
    drain: Drain,
    registry: Arc<Registry>,
    last: Vec<JoinHandle<()>>,
}

/// The admin token; its text is not shown by accident.
#[derive(Clone)]
pub struct AdminToken(String);

impl AdminToken {
    /// The token.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for AdminToken {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken")
    }
}

impl App {
    /// Starts a control plane on the current tokio runtime.
    pub async fn start(config: Config, listeners: Listeners) -> Result<Handle, StartError> {
        let listener = |given, address| {
            listen::listener(given, address).map_err(|error| StartError::Listen(address, error))
        };
        let grpc = listener(listeners.grpc, config.grpc_addr)?;
        let http = listener(listeners.http, config.http_addr)?;
        let otlp = listener(listeners.otlp, config.otlp_addr)?;
        let injector = config.webhook_addr.map(|address| listener(None, address)).transpose()?;
        let address = |listener: &tokio::net::TcpListener, asked| {
            listener.local_addr().map_err(|error| StartError::Listen(asked, error))
        };
        let addresses = (
            address(&grpc, config.grpc_addr)?,
            address(&http, config.http_addr)?,
            address(&otlp, config.otlp_addr)?,
        );

        let webhook = injector.as_ref().and_then(|listener| listener.local_addr().ok());
        let (parts, writer) = open(&config).await?;
        let admin_token = AdminToken(admin_token(&config.data_dir, &parts.store).await?);
        let ca_pem = parts.ca.anchors_pem();
        write_private(&config.data_dir.join("ca.pem"), &ca_pem)?;

        let (drain, watch) = channel();
        let certificate = OwnCertificate::new(parts.ca.clone(), addresses.0, parts.names())?;
        let settings = certificate.settings();
        if let Some(listener) = injector {
            let webhook = Webhook::new(config.injection(), parts.metrics.clone());
            task::spawn(
                "webhook-accept",
                webhook.serve(listener, certificate.webhook_settings(), watch.clone()),
            );
        }
        let together = Arc::new(match &parts.replica {
            Some(replica) => {
                Together::with(replica.others().clone(), certificate.clone(), config.others_timeout)
            }
            None => Together::default(),
        });
        start_loops(&parts, &config, certificate, &admin_token, &watch);
        if let Some(replica) = &parts.replica {
            start_replica(&parts, replica, reached_at(&config, &parts, addresses.0).await, &watch);
        }

        let admin = parts.admin_service(together);
        let gate = AdminGate::new(admin_token.reveal(), parts.ca.clone());
        let dashboard = Dashboard::new(admin.clone(), gate.clone(), parts.metrics.clone(), watch.clone());
        let handler = move |request| dashboard.clone().answer(request);
        task::spawn("http", weft_runtime::http::serve(http, Limits::default(), watch.clone(), handler));
        let replica = parts.replica.as_ref().map(|replica| replica.id().into());
        let served = Served { admin, gate, replica, telemetry: parts.telemetry.clone() };
        serve::mesh(grpc, settings, parts.shared(&watch, config.ack_timeout), served);
        serve::otlp(otlp, parts.telemetry.clone(), parts.metrics.clone(), &watch);
        drop(watch);

        let (registry, kept) = (parts.registry.clone(), parts.registry);
        let writing = task::supervise("registry", move || kept.clone().run());
        let last = vec![writing, task::spawn("trace-writer", writer.run())];
        let (grpc, http, otlp) = addresses;
        tracing::info!(%grpc, %http, %otlp, trust_domain = %config.trust_domain, "control plane started");
        Ok(Handle { grpc, http, otlp, webhook, ca_pem, admin_token, drain, registry, last })
    }
}

impl Handle {
    /// Ends in good order: sidecars are told, what is registered is kept for the next start, everything is written.
    pub async fn shutdown(self) {
        self.registry.freeze();
        if let Err(late) = self.drain.finish(DRAIN).await {
            tracing::warn!(reason = chain(&late), "some connections had to be cut");
        }
        drop(self.registry);
        for task in self.last {
            if timeout(DRAIN, task).await.is_err() {
                tracing::warn!("not everything could be written down in time");
            }
        }
        tracing::info!("control plane ended");
    }
}

async fn open(config: &Config) -> Result<(Parts, crate::telemetry::Task), StartError> {
    if let Some(folder) = config.config_dir.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(StartError::ConfigDir(folder.clone()));
    }
    let way = way(config)?;
    let (store, replica) = Box::pin(open_store(config, way.as_ref())).await?;
    let leads = replica.as_ref().map_or_else(Leadership::alone, |replica| replica.leadership());
    let metrics = Metrics::new();
    let (domain, now) = (&config.trust_domain, SystemTime::now());
    let ca = Ca::open(store.clone(), domain, files(config), config.certificate_ttl, now).await?;
    let ca = ca.taking(config.kubernetes_tokens.clone().map(Attestor::new));
    if ca.trust_domain() != config.trust_domain {
        let (found, wanted) = (ca.trust_domain().to_string(), config.trust_domain.to_string());
        return Err(StartError::TrustDomain { found, wanted });
    }
    let hub = Arc::new(Hub::default());
    let defaults =
        Defaults { trust_domain: config.trust_domain.clone(), service_cidrs: config.service_cidr.clone() };
    let world = World::open(defaults, store.clone(), leads.clone(), hub.clone(), metrics.clone()).await?;
    world.apply(Change::Trust(ca.trust()));
    let id = replica.as_ref().map(|replica| replica.id().to_owned()).unwrap_or_default();
    let registry = Registry::open(store.clone(), world.clone(), id).await?;
    let keys = Keys::open(world.clone(), store.clone(), metrics.clone()).await?;
    let kubernetes = way.map(|way| kubernetes(way, &world));
    let mut configuration = Configuration::open(world.clone(), store.clone()).await?;
    if let Some(kubernetes) = &kubernetes {
        configuration = configuration.at_home(kubernetes.cluster.home());
    }
    let configuration = Arc::new(configuration);
    let (telemetry, writer) = Telemetry::open(&config.data_dir.join("traces"), metrics.clone()).await?;
    let (ca, live) = (Arc::new(ca), Arc::new(Live::default()));
    let shown = ca.clone();
    metrics.show_authority(move || shown.roots());
    metrics.show_leadership(leads.clone());
    let keeper = Arc::new(Keeper {
        ca: ca.clone(),
        world: world.clone(),
        hub: hub.clone(),
        live: live.clone(),
        leads: leads.clone(),
        others: replica.as_ref().map(|replica| replica.others().clone()).unwrap_or_default(),
        file: config.data_dir.join("ca.pem"),
    });
    Ok((
        Parts {
            kubernetes,
            ca,
            keeper,
            world,
            registry,
            configuration,
            telemetry,
            keys,
            hub,
            live,
            metrics,
            store,
            leads,
            replica,
        },
        writer,
    ))
}

/// Where others keep roots and issuing certificate.
fn files(config: &Config) -> Option<Files> {
    let (chain, key) = (config.ca_cert.clone()?, config.ca_key.clone()?);
    Some(Files { chain, key, roots: config.ca_roots.clone()? })
}

fn kubernetes(Way { client, lease, .. }: Way, world: &Arc<World>) -> Kubernetes {
    let cluster = Arc::new(Cluster::new(client.clone(), world.clone()));
    Kubernetes { client, cluster, lease }
}

/// What runs beside the listeners until the drain.
fn start_loops(
    parts: &Parts,
    config: &Config,
    certificate: Arc<OwnCertificate>,
    admin: &AdminToken,
    watch: &DrainWatch,
) {
    let drain = watch.clone();
    task::supervise("own-certificate", move || until_drained(drain.clone(), certificate.clone().run()));
    let (world, drain) = (parts.world.clone(), watch.clone());
    task::supervise("world", move || until_drained(drain.clone(), world.clone().run()));
    let (keys, drain) = (parts.keys.clone(), watch.clone());
    task::supervise("keys", move || until_drained(drain.clone(), keys.clone().run()));
    let (keeper, drain) = (parts.keeper.clone(), watch.clone());
    task::supervise("authority", move || until_drained(drain.clone(), keeper.clone().run()));
    let (ca, telemetry, drain) = (parts.ca.clone(), parts.telemetry.clone(), watch.clone());
    let leads = parts.leads.clone();
    task::supervise("maintenance", move || {
        until_drained(drain.clone(), maintain(ca.clone(), leads.clone(), telemetry.clone()))
    });
    if let Some(kubernetes) = &parts.kubernetes {
        start_cluster(parts, kubernetes, admin, watch);
    }
    // It reads resolv.conf, which may be wrong for now and is of no use where nothing is known by a name.
    let (world, metrics, servers) = (parts.world.clone(), parts.metrics.clone(), config.dns_server.clone());
    let drain = watch.clone();
    task::supervise("dns-source", move || {
        let dns = Dns::open(world.clone(), metrics.clone(), servers.clone());
        until_drained(drain.clone(), async move { dns.await.run().await })
    });
    // A label like any other; it parses.
    if let (Some(path), Ok(namespace)) = (&config.config_dir, "default".parse::<Name>()) {
        let (configuration, metrics) = (parts.configuration.clone(), parts.metrics.clone());
        let folder = Arc::new(Folder::new(path.clone(), configuration, metrics, namespace));
        let (leads, drain) = (parts.leads.clone(), watch.clone());
        task::supervise("config-dir", move || {
            until_drained(drain.clone(), follow_folder(folder.clone(), leads.clone()))
        });
    }
}

async fn maintain(ca: Arc<Ca>, leads: Leadership, telemetry: Arc<Telemetry>) {
    let (mut due, clock) = (interval(MAINTENANCE), Steady::begin());
    loop {
        due.tick().await;
        let (now, past) = (SystemTime::now(), clock.past());
        telemetry.traces().expire(past);
        if let Err(error) = ca.maintain(&leads, now, past).await {
            tracing::error!(reason = chain(&error), "the certificate authority's upkeep failed");
        }
    }
}

async fn until_drained(mut drain: DrainWatch, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = drain.draining() => {}
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), StartError> {
    let write = || {
        let partial = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|error| StartError::File(path.to_owned(), error))
}
