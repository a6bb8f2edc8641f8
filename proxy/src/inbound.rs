//! To the app: accept, detect, prove who calls, authorise, forward.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::timeout;
use weft_certs::sni;
use weft_core::authorize::{Denial, Peer, Permit, authorize};
use weft_core::detect::Sniffed;
use weft_core::model::QualifiedName;

use crate::failure::ErrorCode;
use crate::forward::{self, Heard};
use crate::http::headers::ClientFields;
use crate::http::{Body, Exchange, Facts, Version, headers, is_grpc, refuse as refuse_request, relay, serve};
use crate::listen::{Accepted, OriginalDst};
use crate::observe::{Direction, Flow, Party, Refusal, Security, Spoken};
use crate::sniff::{self, First};
use crate::stream::{Peeked, Reset, Stream};
use crate::tls::Carries;
use crate::upstream::{Cluster, Source};
use crate::worker::Worker;

/// How long a peer that connects to the inbound port itself may take to begin its handshake.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// A connection to the pod: from another sidecar, or redirected here on its way to the app.
pub async fn connection(worker: Rc<Worker>, accepted: Accepted) {
    let mut client = Peeked::from(accepted.io);
    match accepted.destination {
        OriginalDst::Direct(local) => match timeout(FIRST_WORD, sniff::sniff(&mut client)).await {
            Ok(Ok(First::Spoke(Sniffed::Tls(_)))) => {
                from_mesh(worker, client, accepted.client, local, None).await;
            }
            Ok(Ok(First::Closed)) => {}
            Ok(Ok(First::Spoke(_)) | Err(_)) | Err(_) => refuse(&worker, &client.into(), Refusal::Garbage),
        },
        OriginalDst::Redirected(app) => match sniff::sniff_briefly(&mut client).await {
            Ok(Some(First::Spoke(Sniffed::Tls(hello))))
                if hello.server_name.as_deref().and_then(sni::port_of).is_some() =>
            {
                from_mesh(worker, client, accepted.client, app, Some(app.port())).await;
            }
            Ok(_) => from_stranger(worker, client, accepted.client, app).await,
            Err(_) => refuse(&worker, &client.into(), Refusal::Garbage),
        },
    }
}

/// A connection from another sidecar: it proves who it is, names the port it wants, and is let in or not.
async fn from_mesh(
    worker: Rc<Worker>,
    client: Peeked,
    from: SocketAddr,
    at: SocketAddr,
    redirected: Option<u16>,
) {
    let secured = match worker.tls_server.accept(client).await {
        Ok(secured) => secured,
        Err(error) => return worker.observer.handshake_failed(Direction::Inbound, &Chain(&error)),
    };
    let stream = secured.stream;
    let port = secured.port.or(redirected).filter(|port| !worker.own_ports.contains(port));
    let Some(port) = port else { return refuse(&worker, &stream, Refusal::UnknownDestination) };
    let peer = Peer::Known(secured.peer);
    let app = SocketAddr::new(at.ip(), port);
    match secured.carries {
        Carries::Tcp => to_app(worker, stream, peer, from, app).await,
        Carries::Http1 => Session::new(worker, peer, from, app, Version::Http1).serve(stream).await,
        Carries::Http2 => Session::new(worker, peer, from, app, Version::Http2).serve(stream).await,
    }
}

/// A connection from outside the mesh, on its way to the app.
async fn from_stranger(worker: Rc<Worker>, mut client: Peeked, from: SocketAddr, app: SocketAddr) {
    if worker.own_ports.contains(&app.port()) {
        return refuse(&worker, &client.into(), Refusal::UnknownDestination);
    }
    let peer = Peer::Anonymous;
    // A server is not woken by a client that would not be let in.
    let heard = match permit(&worker, &peer, app.port()) {
        Ok(permit) => {
            let cluster = app_cluster(&worker, &permit, app.ip());
            forward::listen_to_both(&worker, &cluster, &mut client).await
        }
        Err(_) => forward::listen_to_client(&mut client).await,
    };
    match heard {
        Ok(Heard::Http(version)) => {
            Session::new(worker, peer, from, app, version).serve(client.into()).await;
        }
        Ok(Heard::Bytes(spoken, greeted)) => match permit(&worker, &peer, app.port()) {
            Ok(permit) => {
                let (cluster, flow) =
                    (app_cluster(&worker, &permit, app.ip()), flow(&worker, &peer, app.port()));
                let plain = Security::Plaintext;
                forward::tunnel(&worker, &cluster, client.into(), greeted, &flow, spoken, plain).await;
            }
            Err(denial) => refuse(&worker, &client.into(), refusal_of(denial)),
        },
        Err(refusal) => refuse(&worker, &client.into(), refusal),
    }
}

/// Bytes of another sidecar, for the app.
async fn to_app(worker: Rc<Worker>, stream: Stream, peer: Peer, from: SocketAddr, app: SocketAddr) {
    match permit(&worker, &peer, app.port()) {
        Ok(permit) => {
            let (cluster, flow) = (app_cluster(&worker, &permit, app.ip()), flow(&worker, &peer, app.port()));
            let mutual = Security::Mutual;
            forward::tunnel(&worker, &cluster, stream, None, &flow, Spoken::Tcp, mutual).await;
        }
        Err(denial) => {
            tracing::debug!(%from, %app, %denial, "connection denied");
            refuse(&worker, &stream, refusal_of(denial));
        }
    }
}

/// Asks what is in force now.
fn permit(worker: &Worker, peer: &Peer, port: u16) -> Result<Permit, Denial> {
    authorize(worker.discovery.snapshot().mesh.as_deref(), peer, port)
}

/// The app behind the port that a permit opens.
fn app_cluster(worker: &Worker, permit: &Permit, address: IpAddr) -> Rc<Cluster> {
    let app = Source::App(SocketAddr::new(address, permit.port()));
    worker.cluster(app, &worker.discovery.snapshot())
}

/// Who calls whom: callers are named by their service account, we by the service on that port.
fn flow(worker: &Worker, peer: &Peer, port: u16) -> Flow {
    let source = match peer {
        Peer::Known(id) => id.service_account().map_or(Party::Unknown, |(namespace, account)| {
            Party::Named(QualifiedName::new(namespace, account))
        }),
        Peer::Anonymous => Party::Unknown,
    };
    let own = worker.own_party(&worker.discovery.snapshot(), Some(port));
    worker.observer.flow(Direction::Inbound, source, own)
}

fn refuse(worker: &Worker, client: &Stream, refusal: Refusal) {
    worker.observer.connection_refused(Direction::Inbound, refusal);
    client.reset();
}

fn refusal_of(denial: Denial) -> Refusal {
    match denial {
        Denial::PlaintextUnderStrict => Refusal::Plaintext,
        Denial::NoConfiguration | Denial::Unauthenticated | Denial::DefaultDeny => Refusal::Denied,
    }
}

fn code_of(denial: Denial) -> ErrorCode {
    match denial {
        Denial::Unauthenticated => ErrorCode::Unauthenticated,
        Denial::NoConfiguration | Denial::PlaintextUnderStrict | Denial::DefaultDeny => ErrorCode::Denied,
    }
}

/// A connection that carries HTTP to the app.
#[derive(Debug)]
struct Session {
    worker: Rc<Worker>,
    peer: Peer,
    flow: Flow,
    fields: ClientFields,
    client: SocketAddr,
    app: SocketAddr,
    version: Version,
    security: Security,
}

impl Session {
    fn new(worker: Rc<Worker>, peer: Peer, client: SocketAddr, app: SocketAddr, version: Version) -> Self {
        let identity = match &peer {
            Peer::Known(id) => Some(id),
            Peer::Anonymous => None,
        };
        let security = if identity.is_some() { Security::Mutual } else { Security::Plaintext };
        let fields = ClientFields::new(client, identity);
        let flow = flow(&worker, &peer, app.port());
        Self { worker, flow, fields, peer, client, app, version, security }
    }

    async fn serve(self, stream: Stream) {
        let (version, closing) = (self.version, self.worker.leaving.closing.clone());
        let spoken = forward::spoken(version, false);
        let _open = self.worker.observer.connection_opened(&self.flow, spoken, self.security);
        let session = Rc::new(self);
        serve(stream, version, closing, move |request| {
            let session = Rc::clone(&session);
            let request = Box::new(request);
            async move { session.request(request).await }
        })
        .await;
    }

    async fn request(&self, mut request: Box<Request<Incoming>>) -> Response<Body> {
        let worker = &*self.worker;
        let grpc = is_grpc(request.headers());
        let headers = request.headers_mut();
        let span = forward::trace(worker, headers);
        headers::name_request(headers, &mut worker.rng.borrow_mut());
        headers::introduce(headers, &self.fields);
        if self.version == Version::Http1 {
            headers::ensure_host(headers, self.app);
        }
        let facts = Facts {
            flow: self.flow.clone(),
            protocol: forward::spoken(self.version, grpc),
            security: self.security,
            client: self.client,
            trace: span.own,
            parent: span.parent,
        };
        let exchange = Exchange::begin(&worker.observer, &request, facts);
        match permit(worker, &self.peer, self.app.port()) {
            Ok(permit) => self.forward(permit, request, exchange, grpc).await,
            Err(denial) => {
                tracing::debug!(client = %self.client, rule = denial.rule(), "request denied");
                refuse_request(&exchange, code_of(denial), grpc)
            }
        }
    }

    /// Passes a request on. The permit is spent by it.
    async fn forward(
        &self,
        permit: Permit,
        request: Box<Request<Incoming>>,
        exchange: Rc<Exchange>,
        grpc: bool,
    ) -> Response<Body> {
        let cluster = app_cluster(&self.worker, &permit, self.app.ip());
        relay(&self.worker, &cluster, self.version, request, exchange, grpc).await
    }
}

/// An error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
