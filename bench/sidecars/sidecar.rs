//! One simulated sidecar: a certificate, a stream, and what it holds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::Request;
use weft_certs::{Credentials, KeyPair, ResumingClient, alpn, request};
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, Kind, control_message::Message as Told};

use crate::plane::identity;
use crate::stream::Stream;
use crate::wire::{Counters, Security, connect, secure};

/// For a connection, and between two that failed, as `weft-proxy` has them.
const CONNECT: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// What everybody subscribes to.
pub(crate) const POPULAR: &str = "default/s0";

/// What the sidecars are to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Be away.
    Away,
    /// Be connected.
    Connected,
}

/// What a sidecar tells the simulator.
#[derive(Debug)]
pub(crate) enum Event {
    /// It has a first push, and all that it asked for.
    Complete,
    /// It has acked a set of endpoints of the service that all of them call.
    Acked {
        /// Which set.
        hash: u64,
        /// When.
        at: Instant,
    },
    /// It is away, as it was told.
    Gone,
    /// It ended.
    Failed(anyhow::Error),
}

/// One sidecar.
pub(crate) struct Sidecar {
    pub(crate) workload: String,
    pub(crate) address: [u8; 4],
    pub(crate) token: String,
    pub(crate) offers: Vec<String>,
    pub(crate) calls: Vec<String>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// The service that is to be changed from well to failing, or back.
    pub(crate) toggles: mpsc::Receiver<String>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) plane: SocketAddr,
    pub(crate) anchors: Arc<Vec<Vec<u8>>>,
}

/// What it has while it lives.
struct Life {
    tls: Arc<ResumingClient>,
    /// By name; 0: known to be absent.
    held: HashMap<(Kind, String), u64>,
    unhealthy: Vec<String>,
}

impl Sidecar {
    /// Lives until the simulator ends; whatever goes wrong is told.
    pub(crate) async fn run(mut self) {
        if let Err(error) = self.live().await {
            let error = error.context(self.workload.clone());
            // The simulator may have ended.
            let _ = self.events.send(Event::Failed(error)).await;
        }
    }

    async fn live(&mut self) -> anyhow::Result<()> {
        self.wait_for(Phase::Connected).await?;
        let tls = Arc::new(self.join().await?.resuming_client(&identity()?, &[alpn::H2])?);
        let mut life = Life { tls, held: HashMap::new(), unhealthy: Vec::new() };
        loop {
            self.connect(&mut life).await?;
            self.events.send(Event::Gone).await?;
            self.wait_for(Phase::Connected).await?;
        }
    }

    async fn wait_for(&mut self, phase: Phase) -> anyhow::Result<()> {
        self.phase.wait_for(|now| *now == phase).await?;
        Ok(())
    }

    /// Connects, and tries again as `weft-proxy` does.
    async fn reach<T, F>(&self, connect: impl Fn() -> F) -> T
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let mut wait = FIRST_WAIT;
        loop {
            if let Ok(Ok(connected)) = timeout(CONNECT, connect()).await {
                return connected;
            }
            self.counters.retried.fetch_add(1, Relaxed);
            sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            wait = (2 * wait).min(LAST_WAIT);
        }
    }

    /// A certificate, by the token.
    async fn join(&self) -> anyhow::Result<Credentials> {
        let tls = weft_certs::anchored_client_config(&self.anchors, &identity()?, &[alpn::H2])?;
        let connecting = || connect(self.plane, Security::Anew(tls.clone()), self.counters.clone());
        let channel = self.reach(connecting).await;
        let key = KeyPair::generate()?;
        let mut wanted =
            Request::new(v1::SignRequest { csr: request(&key)?, workload: self.workload.clone() });
        let bearer = format!("Bearer {}", self.token).parse()?;
        wanted.metadata_mut().insert("authorization", bearer);
        let signed = IdentityClient::new(channel).sign(wanted).await.context("sign")?.into_inner();
        Ok(Credentials::new(signed.chain, &key, &signed.anchors, &"mesh.local".parse()?)?)
    }

    /// One stream, until it is to be away.
    async fn connect(&mut self, life: &mut Life) -> anyhow::Result<()> {
        let security = Security::Again(life.tls.clone());
        let connecting = || async { Ok(secure(self.plane, &security, &self.counters).await?) };
        let mut stream = Stream::open(self.reach(connecting).await);
        self.greet(&mut stream, life).await?;
        let wanted = self.wanted();
        let is_complete = |life: &Life| wanted.iter().all(|name| life.held.contains_key(name));
        let mut has_asked = is_complete(life);
        let mut has_told = false;
        loop {
            tokio::select! {
                message = stream.message() => {
                    let Some(Told::Push(push)) = message?.message else { continue };
                    self.take(push, life, &mut stream).await?;
                    if !has_asked {
                        let add = wanted.iter().filter(|(kind, _)| *kind == Kind::Service).map(named).collect();
                        stream.say(Message::Subscribe(v1::Subscribe { add, remove: Vec::new() }))?;
                        has_asked = true;
                    }
                    if !has_told && is_complete(life) {
                        self.events.send(Event::Complete).await?;
                        has_told = true;
                    }
                }
                Some(service) = self.toggles.recv() => {
                    match life.unhealthy.iter().position(|failing| *failing == service) {
                        Some(index) => drop(life.unhealthy.swap_remove(index)),
                        None => life.unhealthy.push(service),
                    }
                    let unhealthy = life.unhealthy.clone();
                    stream.say(Message::Health(v1::Health { unhealthy }))?;
                }
                phase = self.phase.changed() => {
                    phase?;
                    if *self.phase.borrow() == Phase::Away {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Opens the stream as `weft-proxy` does.
    async fn greet(&self, stream: &mut Stream, life: &Life) -> anyhow::Result<()> {
        let offer = |service: &String| v1::Offer {
            service: service.clone(),
            port: 80,
            target_port: 8080,
            protocol: v1::Protocol::Http.into(),
        };
        let held = life.held.iter().map(|(name, hash)| v1::Held { name: Some(named(name)), hash: *hash });
        let hello = v1::Hello {
            workload: self.workload.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            instance: format!("{}-1", self.workload),
            addresses: vec![self.address.to_vec()],
            inbound_port: 4143,
            offers: self.offers.iter().map(offer).collect(),
            labels: [("app".to_owned(), self.workload.clone())].into(),
            zone: "a".into(),
            held: held.collect(),
        };
        stream.say(Message::Hello(hello))?;
        stream.say(Message::Health(v1::Health { unhealthy: life.unhealthy.clone() }))?;
        stream.say(Message::Readiness(v1::Readiness { ready: true }))?;
        stream.flush().await
    }

    /// What it calls, and who is behind that.
    fn wanted(&self) -> Vec<(Kind, String)> {
        let calls = self.calls.iter().map(String::as_str).chain([POPULAR]);
        calls.flat_map(|call| [Kind::Service, Kind::Endpoints].map(|kind| (kind, call.to_owned()))).collect()
    }

    /// Holds what a push says, and acks it.
    async fn take(&self, push: v1::Push, life: &mut Life, stream: &mut Stream) -> anyhow::Result<()> {
        let bytes = u64::try_from(push.encoded_len())?;
        self.counters.pushed.fetch_add(bytes, Relaxed);
        let popular = (Kind::Endpoints, POPULAR.to_owned());
        let before = life.held.get(&popular).copied();
        for resource in push.upserts {
            let name = resource.name.context("a resource without a name")?;
            life.held.insert((name.kind(), name.name), resource.hash);
        }
        for delta in push.endpoint_deltas {
            let held = life.held.insert((Kind::Endpoints, delta.service), delta.hash);
            anyhow::ensure!(held == Some(delta.from_hash), "a delta of what is not held");
        }
        life.held.extend(push.removed.into_iter().map(|name| ((name.kind(), name.name), 0)));
        stream.say(Message::Ack(v1::Ack { epoch: push.epoch, rejected: Vec::new() }))?;
        stream.flush().await?;
        if let Some(hash) = life.held.get(&popular).copied().filter(|hash| before != Some(*hash)) {
            self.events.send(Event::Acked { hash, at: Instant::now() }).await?;
        }
        Ok(())
    }
}

fn named((kind, name): &(Kind, String)) -> v1::ResourceName {
    v1::ResourceName { kind: (*kind).into(), name: name.clone() }
}
