//! Takes connections, finishes their TLS handshakes where there is TLS, and hands them on to gRPC.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use weft_certs::ResumingServer;
use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use crate::io::Io;
use crate::metrics::Metrics;
use crate::report::chain;

/// Connections at a time. More wait in the kernel's queue.
const CONNECTIONS: usize = 16_384;
/// Handshakes that are under way at a time, so that strangers cannot take all the connections.
const HANDSHAKES: usize = 256;
/// For a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that gRPC has not taken up yet.
const BACKLOG: usize = 64;
/// Connections that the kernel keeps until we take them, where it allows as many: all sidecars may come at once. The standard
/// library asks for 128, and whoever comes then is not heard, and tries again after a second, three, seven.
const QUEUE: i32 = 4096;

/// The TLS settings in force; replaced when our certificate is renewed.
pub(crate) type Settings = Arc<ArcSwap<ResumingServer>>;

/// What a port demands.
#[derive(Debug, Clone)]
pub(crate) enum Security {
    /// TLS, with a client certificate or without.
    Tls(Settings),
    /// Nothing.
    Plain,
}

/// The given socket, or one bound to the address; where there is no IPv6, any address means any IPv4 address.
pub(crate) fn listener(given: Option<StdListener>, address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || match StdListener::bind(address) {
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) =>
        {
            StdListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    };
    let listener = given.map_or_else(bind, Ok)?;
    SockRef::from(&listener).listen(QUEUE)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts until the drain begins; the receiver gets every connection that is ready for use.
pub(crate) fn accept(
    listener: TcpListener,
    security: Security,
    metrics: Arc<Metrics>,
    drain: DrainWatch,
) -> mpsc::Receiver<io::Result<Io>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    task::spawn("grpc-accept", run(listener, security, metrics, drain, sender));
    receiver
}

async fn run(
    listener: TcpListener,
    security: Security,
    metrics: Arc<Metrics>,
    mut drain: DrainWatch,
    sender: mpsc::Sender<io::Result<Io>>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = accept_one(&listener, &connections, &handshakes) => accepted,
            () = drain.draining() => return,
        };
        let Some((stream, address, connection, handshake)) = accepted else { continue };
        let (security, metrics, sender) = (security.clone(), metrics.clone(), sender.clone());
        task::spawn("grpc-handshake", async move {
            // Small messages must not wait for others; where it cannot be set, they are a little late.
            let _ = stream.set_nodelay(true);
            let io = match security {
                Security::Tls(settings) => {
                    shake(stream, address, settings.load_full(), connection, &metrics).await
                }
                Security::Plain => Some(Io::plain(stream, address, connection)),
            };
            drop(handshake);
            if let Some(io) = io {
                // Refused only when the server is gone.
                let _ = timeout(HANDSHAKE, sender.send(Ok(io))).await;
            }
        });
    }
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit, OwnedSemaphorePermit);

async fn accept_one(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    handshakes: &Arc<Semaphore>,
) -> Option<Accepted> {
    let connection = connections.clone().acquire_owned().await.ok()?;
    let handshake = handshakes.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => Some((stream, address, connection, handshake)),
        Err(error) => {
            // Mostly too many open files: others must close some first.
            tracing::warn!(%error, "cannot accept a connection");
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    settings: Arc<ResumingServer>,
    permit: OwnedSemaphorePermit,
    metrics: &Metrics,
) -> Option<Io> {
    let stream = match timeout(HANDSHAKE, TlsAcceptor::from(settings.config()).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.handshakes_failed.increment();
            tracing::info!(from = %address, reason = chain(&error), "TLS handshake failed");
            return None;
        }
        Err(_) => {
            metrics.handshakes_late.increment();
            tracing::debug!(from = %address, "TLS handshake not finished in time");
            return None;
        }
    };
    // Who comes back shows no certificate again, so the one that it showed is looked at as it is now.
    let judged = settings.check(stream.get_ref().1, SystemTime::now());
    match judged.and_then(|()| Io::tls(stream, address, permit)) {
        Ok(io) => Some(io),
        Err(error) => {
            metrics.handshakes_failed.increment();
            tracing::warn!(from = %address, reason = chain(&error), "cannot use a verified certificate");
            None
        }
    }
}
