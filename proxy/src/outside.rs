//! Calls to hosts outside the mesh for which no address of the mesh stands: known by the name that the client's TLS asks for, or
//! that its requests have as their host. Where they go that name says, not the address: that could be anyone's.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use weft_core::detect::Sniffed;
use weft_core::host::Host;
use weft_core::model::{Protocol, QualifiedName, external_service};

use crate::failure::ErrorCode;
use crate::http::head::Head;
use crate::sniff::{self, First};
use crate::state::Snapshot;
use crate::stream::Peeked;
use crate::upstream::{Cluster, Source};
use crate::worker::Worker;

/// How long a client may take to say hello, on a port of some host outside the mesh.
const FIRST_HELLO: Duration = Duration::from_millis(500);

/// A host outside the mesh that a document names.
#[derive(Debug)]
pub struct Outside {
    /// Where it is.
    pub cluster: Rc<Cluster>,
    /// Which service it is one of.
    pub service: QualifiedName,
    /// What the client speaks.
    pub speaks: Speaks,
}

/// What a client that asks for a host speaks.
#[derive(Debug)]
pub enum Speaks {
    /// TLS, which asks for this name.
    Tls(String),
    /// HTTP/1: each request names a host of its own.
    Http,
}

/// The host that a client asks for, where a document names it. Nobody waits for it on ports that no document names.
pub async fn find(worker: &Worker, client: &mut Peeked, port: u16) -> Option<Outside> {
    let mesh = worker.discovery.snapshot().mesh.clone()?;
    if !mesh.externals.iter().any(|external| external.ports.contains(&port)) {
        return None;
    }
    let (host, speaks) = timeout(FIRST_HELLO, asked(client)).await.ok()??;
    let own = worker.own_namespace();
    let service = external_service(&mesh.externals, &host, Some(port), own.as_ref())?.clone();
    worker.discovery.lookup_service(&service).await?;
    let snapshot = worker.discovery.snapshot();
    let cluster = match &speaks {
        Speaks::Tls(_) => {
            worker.cluster(Source::Host(service.clone(), port, host.as_str().into()), &snapshot)
        }
        Speaks::Http => by_host(worker, &snapshot, &service, port, &host)?,
    };
    Some(Outside { cluster, service, speaks })
}

async fn asked(client: &mut Peeked) -> Option<(String, Speaks)> {
    match sniff::sniff(client).await.ok()? {
        First::Spoke(Sniffed::Tls(hello)) => {
            let host = hello.server_name?.to_ascii_lowercase();
            Some((host.clone(), Speaks::Tls(host)))
        }
        First::Spoke(Sniffed::Http1) => Some((sniff::named_host(client).await.ok()??, Speaks::Http)),
        First::Spoke(Sniffed::Http2 | Sniffed::Opaque) | First::Closed => None,
    }
}

/// Where a request goes on a connection to hosts of this service; one for any other goes nowhere.
pub fn of_request(
    worker: &Worker,
    service: &QualifiedName,
    port: u16,
    head: &impl Head,
) -> Result<Rc<Cluster>, ErrorCode> {
    let host = Host::parse(head.authority().as_bytes()).map_err(|_| ErrorCode::BadRequest)?;
    let snapshot = worker.discovery.snapshot();
    let mesh = snapshot.mesh.as_ref().ok_or(ErrorCode::NoRoute)?;
    let named = external_service(&mesh.externals, host.name(), Some(port), worker.own_namespace().as_ref());
    if named != Some(service) {
        return Err(ErrorCode::NoRoute);
    }
    by_host(worker, &snapshot, service, port, host.name()).ok_or(ErrorCode::NoRoute)
}

/// A service's host, where it is called in plaintext. The one that its addresses stand for is called as the service is.
fn by_host(
    worker: &Worker,
    snapshot: &Arc<Snapshot>,
    service: &QualifiedName,
    port: u16,
    host: &str,
) -> Option<Rc<Cluster>> {
    let known = snapshot.services.get(service)?;
    let declared = known.service.ports.iter().find(|declared| declared.port == port)?;
    let external = known.service.external.as_ref()?;
    let source = match (&external.host, &external.tls) {
        (Some(own), _) if own.as_str() == host => Source::Service(service.clone(), port),
        // In TLS it is spoken to the one host whose name is to be proved.
        (_, Some(_)) => return None,
        (_, None) => Source::Host(service.clone(), port, host.into()),
    };
    let may_be_http = matches!(declared.protocol, Protocol::Http | Protocol::Detect);
    may_be_http.then(|| worker.cluster(source, snapshot))
}
