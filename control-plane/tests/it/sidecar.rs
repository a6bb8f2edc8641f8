//! A sidecar as far as the control plane sees it.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use weft_certs::Credentials;
use weft_proto::v1::discovery_client::DiscoveryClient;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Mesh, PATIENCE, sign_request};

pub(crate) struct Sidecar {
    sender: mpsc::Sender<v1::SidecarMessage>,
    inbound: Streaming<v1::ControlMessage>,
    /// What it holds, by name; 0: known to be absent.
    pub(crate) held: BTreeMap<(Kind, String), u64>,
}

pub(crate) fn hello(workload: &str) -> v1::Hello {
    v1::Hello {
        workload: workload.into(),
        version: "test".into(),
        instance: format!("{workload}-1"),
        addresses: vec![vec![10, 0, 0, 9]],
        inbound_port: 4143,
        ..Default::default()
    }
}

pub(crate) fn offer(service: &str) -> v1::Offer {
    v1::Offer { service: service.into(), port: 80, target_port: 8080, protocol: v1::Protocol::Http.into() }
}

/// A sidecar that offers the service it is named after, at an address of its own.
pub(crate) fn offering(service: &str, number: u8) -> v1::Hello {
    v1::Hello {
        offers: vec![offer(service)],
        addresses: vec![vec![10, 0, 0, number]],
        ..hello(&format!("{service}-{number}"))
    }
}

pub(crate) fn name(kind: Kind, name: &str) -> v1::ResourceName {
    v1::ResourceName { kind: kind.into(), name: name.into() }
}

impl Sidecar {
    /// Joins with a token of its own and says hello.
    pub(crate) async fn start(mesh: &Mesh, account: &str, hello: v1::Hello) -> Self {
        let credentials = mesh.join(account, &hello.workload).await;
        Self::sync(mesh.known(&credentials).await, hello).await.unwrap()
    }

    /// The same, up to being ready.
    pub(crate) async fn ready(mesh: &Mesh, account: &str, hello: v1::Hello) -> Self {
        let mut sidecar = Self::start(mesh, account, hello).await;
        sidecar.take().await;
        sidecar
    }

    pub(crate) async fn sync(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let (sender, receiver) = mpsc::channel(64);
        let message = v1::SidecarMessage { message: Some(Message::Hello(hello)) };
        sender.send(message).await.unwrap();
        let inbound = DiscoveryClient::new(channel).sync(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { sender, inbound, held: BTreeMap::new() })
    }

    /// Takes a certificate for a new key, by the one that there is, and says that it uses that from now on.
    pub(crate) async fn renew(&self, mesh: &Mesh, credentials: &Credentials, workload: &str) -> Credentials {
        let (request, key) = sign_request(workload);
        let renewed = mesh.sign_with(mesh.known(credentials).await, request, &key).await.unwrap();
        let serial = renewed.serial().to_string();
        self.send(Message::CertificateInUse(v1::CertificateInUse { serial })).await;
        renewed
    }

    pub(crate) async fn send(&self, message: Message) {
        self.sender.send(v1::SidecarMessage { message: Some(message) }).await.unwrap();
    }

    /// Tells of a request to `orders` that a tap asked for.
    pub(crate) async fn tapped(&self, tap: u64, path: &str) {
        let event = v1::TapEvent {
            taps: vec![tap],
            service: "default/orders".into(),
            path: path.into(),
            ..Default::default()
        };
        self.send(Message::TapEvents(v1::TapEvents { events: vec![event], left_out: 0 })).await;
    }

    pub(crate) async fn subscribe(&self, kind: Kind, text: &str) {
        let change = v1::Subscribe { add: vec![name(kind, text)], remove: Vec::new() };
        self.send(Message::Subscribe(change)).await;
    }

    /// What it is told next.
    pub(crate) async fn message(&mut self) -> Result<v1::control_message::Message, Status> {
        let message = timeout(PATIENCE, self.inbound.message()).await.expect("a message in time")?;
        message.and_then(|message| message.message).ok_or_else(|| Status::cancelled("the stream ended"))
    }

    /// The next push, unanswered.
    pub(crate) async fn push(&mut self) -> Result<v1::Push, Status> {
        match self.message().await? {
            v1::control_message::Message::Push(push) => Ok(push),
            other => panic!("no push: {other:?}"),
        }
    }

    /// The next push, held and acknowledged.
    pub(crate) async fn take(&mut self) -> v1::Push {
        let push = self.push().await.unwrap();
        for resource in &push.upserts {
            self.held.insert(key(resource.name.as_ref().unwrap()), resource.hash);
        }
        for removed in &push.removed {
            self.held.insert(key(removed), 0);
        }
        for delta in &push.endpoint_deltas {
            let held = self.held.insert((Kind::Endpoints, delta.service.clone()), delta.hash);
            assert_eq!(held, Some(delta.from_hash), "a delta must start from what is held");
        }
        self.ack(push.epoch, Vec::new()).await;
        push
    }

    pub(crate) async fn ack(&self, epoch: u64, rejected: Vec<v1::Rejection>) {
        self.send(Message::Ack(v1::Ack { epoch, rejected })).await;
    }

    /// Everything it holds, as Hello says it.
    pub(crate) fn held(&self) -> Vec<v1::Held> {
        let held = self.held.iter();
        held.map(|((kind, text), hash)| v1::Held { name: Some(name(*kind, text)), hash: *hash }).collect()
    }

    /// Closes its side, and waits for the other.
    pub(crate) async fn leave(mut self) {
        drop(self.sender);
        assert!(matches!(timeout(PATIENCE, self.inbound.message()).await, Ok(Ok(None))));
    }
}

pub(crate) fn key(name: &v1::ResourceName) -> (Kind, String) {
    (name.kind(), name.name.clone())
}

/// What a push says, in the order of the wire: `+` whole, `-` absent, `~` a delta.
pub(crate) fn told(push: &v1::Push) -> Vec<String> {
    let line =
        |sign: &str, name: &v1::ResourceName| format!("{sign}{} {}", name.kind().as_str_name(), name.name);
    let whole = push.upserts.iter().map(|resource| line("+", resource.name.as_ref().unwrap()));
    let removed = push.removed.iter().map(|name| line("-", name));
    let deltas = push.endpoint_deltas.iter().map(|delta| format!("~ENDPOINTS {}", delta.service));
    whole.chain(removed).chain(deltas).collect()
}

/// The endpoints that a push tells of as a whole.
pub(crate) fn endpoints(push: &v1::Push) -> Vec<v1::Endpoint> {
    let of_service = push.upserts.iter().find(|r| r.name.as_ref().unwrap().kind() == Kind::Endpoints);
    let body = of_service.expect("endpoints in the push").body.clone();
    <v1::Endpoints as prost::Message>::decode(body).unwrap().endpoints
}
