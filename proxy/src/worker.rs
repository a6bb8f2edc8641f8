//! A worker: one thread, one runtime, its own listeners, pools, measurements and TLS settings. Nothing here is shared
//! with other workers but snapshots, credentials and counters.

mod conduct;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, oneshot};
use weft_core::model::{Name, SpiffeId};
use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use crate::credentials::CredentialStore;
use crate::leaving::Callers;
use crate::listen::{self, Accepted, Listener};
use crate::mirror::Copies;
use crate::observe::{Observe, Observer, Party};
use crate::state::{Discovery, Snapshot};
use crate::strangers::Strangers;
use crate::ties::Ties;
use crate::tls::{TlsClient, TlsServer};
use crate::tokens::ProvedTokens;
use crate::upstream::{Cluster, Dialer, Site, Source};
use crate::{inbound, outbound};

pub use crate::leaving::Leaving;
pub use crate::outbound::Explicit;
pub use conduct::Conduct;

/// How long no connection is taken after the machine had no room for one.
const NO_ROOM: Duration = Duration::from_millis(50);

/// How often idle connections and unused clusters are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// A piece of memory that no page of small ones is used for. It is never written to, so that the kernel never finds it.
const LARGE: usize = 4 << 20;

/// Clusters that a worker keeps without anyone using them.
const SPARE_CLUSTERS: usize = 256;

/// Where workers listen, and how they dial.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads.
    pub workers: usize,
    /// What the app sends is redirected here.
    pub outbound: SocketAddr,
    /// What is sent to the pod is redirected here, and mesh traffic comes here.
    pub inbound: SocketAddr,
    /// Explicit listeners, each for one service's port.
    pub upstreams: Vec<Explicit>,
    /// What each of them may do.
    pub conduct: Conduct,
}

/// What all workers look at.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What is known of the mesh.
    pub discovery: Discovery,
    /// Our certificate.
    pub credentials: CredentialStore,
    /// Where it is told what happens.
    pub observe: Observe,
    /// From where we call.
    pub site: Site,
    /// What is asked of the app from outside the mesh.
    pub probes: Arc<weft_core::authorize::OutsideProbes>,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    ended: Vec<oneshot::Receiver<()>>,
    outbound: SocketAddr,
    inbound: SocketAddr,
    upstreams: Vec<Explicit>,
}

/// The listeners of one worker.
#[derive(Debug)]
struct Listeners {
    outbound: std::net::TcpListener,
    inbound: std::net::TcpListener,
    explicit: Vec<(std::net::TcpListener, Explicit)>,
}

/// Starts the workers; they listen when this returns. They end when the drain does, and the app is served until `app` says that it
/// is gone.
pub fn start(
    settings: &Settings,
    shared: &Shared,
    drain: &DrainWatch,
    app: &DrainWatch,
) -> io::Result<Workers> {
    let first = Listeners::bind(settings)?;
    // Where a port was left to the kernel, the others join the first.
    let (outbound, inbound) = (first.outbound.local_addr()?, first.inbound.local_addr()?);
    let mut joined = Settings { outbound, inbound, ..settings.clone() };
    for (explicit, (listener, _)) in joined.upstreams.iter_mut().zip(&first.explicit) {
        explicit.address = listener.local_addr()?;
    }
    let mut listeners = vec![first];
    for _ in 1..settings.workers {
        listeners.push(Listeners::bind(&joined)?);
    }
    let (threads, ended, upstreams) = (Vec::new(), Vec::new(), joined.upstreams);
    let mut workers = Workers { threads, ended, outbound, inbound, upstreams };
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (shared, drain, app, conduct) = (shared.clone(), drain.clone(), app.clone(), settings.conduct);
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("worker-{number}"));
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all();
        let run = move || {
            let served = runtime
                .build_local(LocalOptions::default())
                .and_then(|runtime| runtime.block_on(run(listeners, shared, conduct, (drain, app))));
            if let Err(error) = served {
                tracing::error!(%error, "a worker could not start");
            }
            let _ = end.send(()); // whoever waited may have gone
        };
        workers.threads.push(thread.spawn(run)?);
        workers.ended.push(ended);
    }
    Ok(workers)
}

impl Workers {
    /// Where the outbound listener is.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// Where the inbound listener is.
    pub fn inbound(&self) -> SocketAddr {
        self.inbound
    }

    /// The explicit listeners, each where it is.
    pub fn upstreams(&self) -> &[Explicit] {
        &self.upstreams
    }

    /// Waits until all workers have ended.
    pub async fn ended(self) {
        for ended in self.ended {
            drop(ended.await);
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl Listeners {
    fn bind(settings: &Settings) -> io::Result<Self> {
        let explicit = settings
            .upstreams
            .iter()
            .map(|explicit| Ok((listen::bind_beside(explicit.address)?, explicit.clone())));
        Ok(Self {
            outbound: listen::bind_beside(settings.outbound)?,
            inbound: listen::bind(settings.inbound)?,
            explicit: explicit.collect::<io::Result<_>>()?,
        })
    }
}

async fn run(
    listeners: Listeners,
    shared: Shared,
    conduct: Conduct,
    (mut drain, mut app): (DrainWatch, DrainWatch),
) -> io::Result<()> {
    let own_ports = [listeners.outbound.local_addr()?.port(), listeners.inbound.local_addr()?.port()];
    let (leaving, steps) = Leaving::new(&drain);
    let worker = Rc::new(Worker::new(shared, conduct, own_ports, leaving));
    let closing = &worker.leaving;
    worker.accept(Listener::new(listeners.outbound)?, &closing.outbound, outbound::redirected);
    worker.accept(Listener::new(listeners.inbound)?, &closing.inbound, inbound::connection);
    for (listener, explicit) in listeners.explicit {
        worker.accept(Listener::new(listener)?, &closing.outbound, move |worker, accepted| {
            outbound::explicit(worker, accepted, explicit.clone())
        });
    }
    task::spawn_local("sweep", sweep(Rc::clone(&worker)));
    task::spawn_local("ties", review(Rc::clone(&worker)));
    task::spawn_local("follow", follow(Rc::clone(&worker)));
    drain.draining().await;
    steps.take(&mut drain, &mut app, worker.callers()).await;
    // What is under way may end; what has not by the deadline goes with the runtime.
    let open = Rc::clone(&worker.open);
    tokio::select! {
        () = open.closed() => {}
        () = drain.stopped() => {}
    }
    Ok(())
}

/// One worker's state. Everything on its thread shares it.
#[derive(Debug)]
pub struct Worker {
    /// What is known of the mesh.
    pub discovery: Discovery,
    /// Where it is told what happens.
    pub observer: Observer,
    /// Opens connections.
    pub dialer: Dialer,
    /// How it dials and how much it takes on.
    pub conduct: Conduct,
    /// What its open connections rest on.
    pub ties: Ties,
    /// Callers without an identity.
    pub strangers: Strangers,
    /// TLS towards other sidecars.
    pub tls_client: TlsClient,
    /// TLS from other sidecars.
    pub tls_server: TlsServer,
    /// Tokens that were proved.
    pub proved: ProvedTokens,
    /// The source of chance.
    pub rng: RefCell<fastrand::Rng>,
    /// The ports of our own listeners, which are nobody's app.
    pub own_ports: [u16; 2],
    /// Hears that we leave.
    pub leaving: Leaving,
    /// Requests that are being copied for mirrors.
    pub copies: Copies,
    /// Says that it is time to let go of what is only kept to be used again.
    pub swept: Notify,
    credentials: CredentialStore,
    site: Site,
    clusters: RefCell<HashMap<Source, Rc<Cluster>>>,
    open: Rc<Open>,
}

impl Worker {
    /// A worker for the thread that calls.
    pub fn new(shared: Shared, conduct: Conduct, own_ports: [u16; 2], leaving: Leaving) -> Self {
        Self {
            observer: shared.observe.observer(),
            ties: Ties::default(),
            strangers: Strangers::new(shared.probes),
            tls_client: TlsClient::new(shared.credentials.clone(), shared.site.public.clone()),
            tls_server: TlsServer::new(shared.credentials.clone()),
            credentials: shared.credentials,
            site: shared.site,
            discovery: shared.discovery,
            dialer: Dialer::new(conduct.mark),
            conduct,
            proved: ProvedTokens::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            own_ports,
            leaving,
            copies: Copies::default(),
            swept: Notify::new(),
            clusters: RefCell::default(),
            open: Rc::new(Open { count: Cell::new(0), limit: conduct.connections, fewer: Notify::new() }),
        }
    }

    /// Whether anyone may have been told to call us.
    fn callers(&self) -> Callers {
        match &self.discovery.peek().workload {
            Some(workload) if !workload.ports.is_empty() => Callers::Some,
            _ => Callers::None,
        }
    }

    /// Starts a task on this worker.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        task::spawn_local(name, future);
    }

    /// The endpoints behind a destination, with what this worker measured of them.
    pub fn cluster(&self, source: Source, snapshot: &Arc<Snapshot>) -> Rc<Cluster> {
        let mut clusters = self.clusters.borrow_mut();
        match clusters.get(&source) {
            Some(cluster) => {
                cluster.refresh(snapshot);
                Rc::clone(cluster)
            }
            None => {
                let cluster = Rc::new(Cluster::new(source.clone(), snapshot, self.site.clone()));
                clusters.insert(source, Rc::clone(&cluster));
                cluster
            }
        }
    }

    /// Who we are; none before the first certificate.
    pub fn own_identity(&self) -> Option<SpiffeId> {
        self.credentials.current().map(|(_, credentials)| credentials.identity().clone())
    }

    /// The namespace that we are in; none before the first certificate.
    pub fn own_namespace(&self) -> Option<Name> {
        let (_, credentials) = self.credentials.current()?;
        credentials.identity().service_account().map(|(namespace, _)| namespace)
    }

    /// How metrics and spans name the app that this sidecar serves: by the service on `port`, else by its first one,
    /// else by the workload.
    pub fn own_party(&self, snapshot: &Snapshot, port: Option<u16>) -> Party {
        let Some(workload) = &snapshot.workload else { return Party::Unknown };
        let on_port = workload.ports.iter().find(|offered| Some(offered.port) == port);
        let offered = on_port.or_else(|| workload.ports.first()).map(|offered| &offered.service);
        Party::Named(offered.unwrap_or(&workload.name).clone())
    }

    /// Takes connections and starts a task for each, until this side closes.
    fn accept<F, Fut>(self: &Rc<Self>, listener: Listener, closing: &DrainWatch, serve: F)
    where
        F: Fn(Rc<Self>, Accepted) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let worker = Rc::clone(self);
        let mut closing = closing.clone();
        let accepting = async move {
            loop {
                worker.open.room().await;
                match listener.accept().await {
                    Ok(accepted) => {
                        let guard = worker.open.enter();
                        let served = serve(Rc::clone(&worker), accepted);
                        task::spawn_local("connection", async move {
                            served.await;
                            drop(guard);
                        });
                    }
                    Err(error) => pause(&error).await,
                }
            }
        };
        task::spawn_local("accept", async move {
            tokio::select! {
                () = accepting => {}
                () = closing.draining() => {}
            }
        });
    }
}

/// After an error of `accept`: where the machine has no room, waits for some.
async fn pause(error: &io::Error) {
    let gone =
        [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::NotConnected];
    if gone.contains(&error.kind()) {
        return; // the client did not wait for us
    }
    tracing::warn!(%error, "no connection can be taken for now");
    tokio::time::sleep(NO_ROOM).await;
}

/// The allocator gives memory that has lain free for a while back to the kernel when it is next asked for a large piece: a
/// sidecar whose callers have gone may not ask for one for hours.
fn let_memory_go() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}

/// Takes over what has changed as soon as it has: what is under way follows, though nothing new is begun.
async fn follow(worker: Rc<Worker>) {
    let mut closing = worker.leaving.outbound.clone();
    let mut discovery = worker.discovery.clone();
    loop {
        tokio::select! {
            () = discovery.changed() => {}
            () = closing.draining() => return,
        }
        let snapshot = discovery.snapshot();
        for cluster in worker.clusters.borrow().values() {
            cluster.refresh(&snapshot);
        }
    }
}

/// Closes what has been idle for long, and forgets destinations that nobody calls any more.
async fn sweep(worker: Rc<Worker>) {
    let mut closing = worker.leaving.outbound.clone();
    let mut wanted = worker.site.bulkheads.wanted();
    let mut next = Instant::now() + SWEEP;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => next = Instant::now() + SWEEP,
            // The sender is ours.
            Ok(()) = wanted.changed() => {
                worker.clusters.borrow().values().for_each(|cluster| cluster.let_go());
                continue;
            }
            () = closing.draining() => return worker.swept.notify_waiters(),
        }
        worker.swept.notify_waiters();
        tokio::task::yield_now().await; // first they let go
        let_memory_go();
        let now = Instant::now();
        let mut clusters = worker.clusters.borrow_mut();
        let too_many = clusters.len() > SPARE_CLUSTERS;
        clusters.retain(|_, cluster| {
            cluster.sweep(now);
            !too_many || Rc::strong_count(cluster) > 1
        });
    }
}

/// Ends connections that are not to go on, those that lie idle too.
async fn review(worker: Rc<Worker>) {
    let (discovery, closing) = (worker.discovery.clone(), worker.leaving.outbound.clone());
    let ended = |cut, count| {
        worker.observer.connections_cut(cut, count);
        let now = Instant::now();
        worker.clusters.borrow().values().for_each(|cluster| cluster.sweep(now));
    };
    worker.ties.review(discovery, closing, ended).await;
}

/// Connections that are open, and who waits for there to be fewer.
#[derive(Debug)]
struct Open {
    count: Cell<usize>,
    limit: usize,
    fewer: Notify,
}

/// One open connection.
#[derive(Debug)]
struct OpenGuard(Rc<Open>);

impl Open {
    fn enter(self: &Rc<Self>) -> OpenGuard {
        self.count.set(self.count.get() + 1);
        OpenGuard(Rc::clone(self))
    }

    /// Waits until one more may be opened.
    async fn room(&self) {
        while self.count.get() >= self.limit {
            self.fewer.notified().await;
        }
    }

    /// Waits until none is open.
    async fn closed(&self) {
        while self.count.get() > 0 {
            self.fewer.notified().await;
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let left = self.0.count.get().saturating_sub(1);
        self.0.count.set(left);
        // Only between these is anyone waiting.
        if left == 0 || left + 1 >= self.0.limit {
            self.0.fewer.notify_waiters();
        }
    }
}
