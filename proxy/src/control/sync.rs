//! The discovery stream: says who we are and what we hold, asks for what workers want to know, applies what is pushed.
//!
//! Whatever happens to the stream, the last good state stays in force.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{io, thread};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use weft_certs::ResumingClient;
use weft_core::health::Found;
use weft_core::model::{AppCheck, Protocol, QualifiedName, Trust};
use weft_proto::convert;
use weft_proto::v1::discovery_client::DiscoveryClient;
use weft_proto::v1::{self, sidecar_message::Message};

use super::acquaintance::{self, Acquaintance};
use super::asks;
use super::backoff::Backoff;
use super::cache::Cache;
use super::connect::{ConnectError, Security, connect};
use super::plaintext::PlaintextCallers;
use super::table::{Table, with_causes};
use crate::admin::Admin;
use crate::config::{ControlPlane, Settings};
use crate::credentials::CredentialStore;
use crate::health::{Subject, Thoughts};
use crate::observe::Observe;
use crate::observe::golden::{self, Golden};
use crate::observe::tap::Tapped;
use crate::state::{Publisher, Wanted};

/// Messages that may wait to be sent.
const OUTBOX: usize = 64;

/// How long the stream may take to open and to bring its first push.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// How long changes gather before they are written to disk.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Being made known to a control plane.
type Introduction = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Keeps the snapshot current.
#[derive(Debug)]
pub(super) struct SyncLoop {
    pub(super) settings: Arc<Settings>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) store: CredentialStore,
    pub(super) acquaintance: Acquaintance,
    pub(super) cache: Option<Cache>,
    pub(super) table: Table,
    pub(super) plaintext: PlaintextCallers,
    pub(super) publisher: Publisher,
    pub(super) asked: mpsc::Receiver<Wanted>,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) health: watch::Receiver<Thoughts>,
    /// Whether we have said before that traffic may come.
    pub(super) was_ready: bool,
    pub(super) trust: watch::Sender<Option<Arc<Trust>>>,
    /// Told where our certificate is not taken: the token may be.
    pub(super) refused: Arc<Notify>,
    pub(super) collector: watch::Sender<Option<Channel>>,
    pub(super) observe: Observe,
    pub(super) golden: Golden,
    /// None where another loop has it.
    pub(super) tapped: Option<Tapped>,
    pub(super) admin: Arc<Admin>,
    pub(super) instance: String,
    pub(super) rng: fastrand::Rng,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0} ({1:?})")]
    Status(String, Code),
    #[error("the control plane ended the stream")]
    Ended,
    #[error("the control plane did not answer in time")]
    Timeout,
}

impl SyncError {
    /// Whether we were heard, and our certificate was not enough.
    fn is_of_certificate(&self) -> bool {
        matches!(self, Self::Status(_, Code::Unauthenticated | Code::PermissionDenied))
    }
}

impl From<tonic::Status> for SyncError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(status.message().to_owned(), status.code())
    }
}

impl SyncLoop {
    /// Works for ever, one control plane after another.
    pub(super) async fn run(mut self) {
        self.restore();
        let mut generation = self.store.changes();
        // The sender lives in the store that we hold.
        let _ = generation.wait_for(|generation| *generation > 0).await;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let settings = Arc::clone(&self.settings);
        for target in settings.control_planes.iter().cycle() {
            let Some(current) = self.store.current() else { continue };
            let begun = Instant::now();
            let ended = match self.acquaintance.with(target, &current) {
                Ok(tls) => self.stream(target, tls).await,
                Err(error) => Err(error.into()),
            };
            self.publisher.set_connected(false);
            // Nobody is there who could look.
            self.set_taps(Vec::new());
            // What was learnt last may still wait to be written.
            self.save().await;
            self.collector.send_replace(None);
            if begun.elapsed() > OPEN_LIMIT {
                backoff.reset();
            }
            let wait = backoff.next(&mut self.rng);
            match ended {
                Ok(never) => match never {},
                Err(error) => {
                    if error.is_of_certificate() {
                        self.refused.notify_one();
                    }
                    tracing::warn!(control_plane = %target, error = with_causes(&error), retry = ?wait, "not in sync");
                }
            }
            self.pause(wait).await;
        }
    }

    /// Takes over what is on disk, so that traffic need not wait for the control plane.
    fn restore(&mut self) {
        let Some((push, same_version)) = self.cache.as_ref().and_then(Cache::load_state) else { return };
        self.table.restore(push, same_version);
        self.publish();
        tracing::info!(
            revision = self.publisher.snapshot().revision,
            "serving with the configuration from disk"
        );
    }

    async fn stream(
        &mut self,
        target: &ControlPlane,
        tls: Arc<ResumingClient>,
    ) -> Result<std::convert::Infallible, SyncError> {
        let channel = connect(target, Security::Again(tls), self.settings.mark).await?;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let say = |message| v1::SidecarMessage { message: Some(message) };
        let hello = Message::Hello(self.hello());
        let greeting = [hello, Message::Health(self.own_health()), Message::Readiness(self.readiness())];
        for message in greeting {
            outbox.send(say(message)).await.map_err(|_| SyncError::Ended)?;
        }
        let opening = async {
            let mut client = DiscoveryClient::new(channel.clone());
            let mut inbox = client.sync(ReceiverStream::new(messages)).await?.into_inner();
            let first = inbox.message().await?.ok_or(SyncError::Ended)?;
            Ok::<_, SyncError>((inbox, first))
        };
        let (inbox, first) =
            tokio::time::timeout(OPEN_LIMIT, opening).await.map_err(|_| SyncError::Timeout)??;
        let answer = self.apply(first).await;
        self.save().await;
        // First someone to ask, then readiness: else the app's first calls would go out as if to strangers.
        self.publisher.set_connected(true);
        self.publish();
        if let Some(ack) = answer {
            outbox.send(say(ack)).await.map_err(|_| SyncError::Ended)?;
        }
        self.collector.send_replace(Some(channel));
        tracing::info!(control_plane = %target, revision = self.publisher.snapshot().revision, "in sync");
        self.converse(target, inbox, &outbox).await
    }

    async fn converse(
        &mut self,
        target: &ControlPlane,
        mut inbox: Streaming<v1::ControlMessage>,
        outbox: &mpsc::Sender<v1::SidecarMessage>,
    ) -> Result<std::convert::Infallible, SyncError> {
        let mut save_at: Option<Instant> = None;
        let mut certificates = self.store.changes();
        certificates.mark_changed();
        self.plaintext.begin();
        let mut introduction: Introduction = Box::pin(std::future::pending());
        let mut report = tokio::time::interval(golden::INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let answer = tokio::select! {
                message = inbox.message() => {
                    let message = message?.ok_or(SyncError::Ended)?;
                    save_at = save_at.or_else(|| Some(Instant::now() + DEBOUNCE));
                    self.take(message).await
                }
                Some(wanted) = self.asked.recv() => self.heed(&wanted),
                () = sleep_until(self.plaintext.due()) => Some(self.plaintext.tell(SystemTime::now())),
                // The sender lives in the store that we hold.
                Ok(()) = certificates.changed() => {
                    introduction = self.introduction(target).unwrap_or(introduction);
                    self.certificate_in_use()
                }
                () = &mut introduction => {
                    introduction = Box::pin(std::future::pending());
                    None
                }
                Ok(()) = self.ready.changed() => Some(Message::Readiness(self.readiness())),
                Ok(()) = self.health.changed() => {
                    self.heed_health();
                    let health = v1::SidecarMessage { message: Some(Message::Health(self.own_health())) };
                    outbox.send(health).await.map_err(|_| SyncError::Ended)?;
                    // A newcomer whose first checks are done may be called.
                    (!self.was_ready).then(|| Message::Readiness(self.readiness()))
                }
                _ = report.tick() => self.golden.report().map(Message::Golden),
                events = tapped(&mut self.tapped) => {
                    self.pass_on(events, outbox);
                    None
                }
                () = sleep_until(save_at) => {
                    save_at = None;
                    self.save().await;
                    None
                }
            };
            if let Some(message) = answer {
                let message = v1::SidecarMessage { message: Some(message) };
                outbox.send(message).await.map_err(|_| SyncError::Ended)?;
            }
        }
    }

    /// Where the control plane does not know us as we are now: tells it, some time soon.
    fn introduction(&mut self, target: &ControlPlane) -> Option<Introduction> {
        let current = self.store.current()?;
        if self.acquaintance.is_with(target, current.0) {
            return None;
        }
        let tls = self.acquaintance.with(target, &current).ok()?;
        let wait = acquaintance::wait(&current.1, &mut self.rng);
        Some(Box::pin(acquaintance::introduce(wait, target.clone(), tls, self.settings.mark)))
    }

    /// Puts what the control plane said in force; returns what to answer.
    async fn take(&mut self, message: v1::ControlMessage) -> Option<Message> {
        let answer = self.apply(message).await;
        if matches!(answer, Some(Message::Ack(_))) {
            self.publish();
        }
        answer
    }

    async fn apply(&mut self, message: v1::ControlMessage) -> Option<Message> {
        match message.message? {
            v1::control_message::Message::Push(push) => Some(self.apply_push(push)),
            v1::control_message::Message::Taps(v1::Taps { taps }) => {
                self.set_taps(taps);
                None
            }
            v1::control_message::Message::Ask(ask) => {
                Some(Message::Answer(asks::answer(&self.admin, ask).await))
            }
        }
    }

    fn apply_push(&mut self, push: v1::Push) -> Message {
        let epoch = push.epoch;
        let rejected = self.table.apply(push);
        for rejection in &rejected {
            tracing::error!(name = ?rejection.name, reason = rejection.reason, "refused a resource");
        }
        Message::Ack(v1::Ack { epoch, rejected })
    }

    fn set_taps(&self, taps: Vec<v1::TapFilter>) {
        if let Some(tapped) = &self.tapped {
            tapped.taps().want(taps);
        }
    }

    /// Who looks must not keep us from what matters: where there is no room, it is not told.
    fn pass_on(&self, events: v1::TapEvents, outbox: &mpsc::Sender<v1::SidecarMessage>) {
        let count = events.events.len() + usize::try_from(events.left_out).unwrap_or(usize::MAX);
        let message = v1::SidecarMessage { message: Some(Message::TapEvents(events)) };
        if let (Err(_), Some(tapped)) = (outbox.try_send(message), &self.tapped) {
            tapped.lost(count);
        }
    }

    fn publish(&mut self) {
        let snapshot = self.table.snapshot(&self.publisher.snapshot());
        if let Some(mesh) = &snapshot.mesh {
            self.observe.set_access_log(mesh.access_log, mesh.access_log_per_million);
        }
        if let Some(trust) = &snapshot.trust {
            self.trust.send_if_modified(|known| {
                let differ = known.as_ref() != Some(trust);
                if differ {
                    *known = Some(Arc::clone(trust));
                }
                differ
            });
        }
        self.publisher.publish(snapshot);
    }

    async fn save(&self) {
        let Some(cache) = self.cache.clone() else { return };
        let push = self.table.as_push();
        if let Err(error) = beside(move || cache.store_state(&push)).await {
            tracing::warn!(%error, "cannot keep the configuration on disk");
        }
    }

    /// Waits; what is asked meanwhile goes into the next greeting.
    async fn pause(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                Some(wanted) = self.asked.recv() => drop(self.heed(&wanted)),
                Ok(()) = self.health.changed() => self.heed_health(),
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// What a worker wants asked, or told.
    fn heed(&mut self, wanted: &Wanted) -> Option<Message> {
        if let Wanted::Plaintext(call) = wanted {
            self.plaintext.hear(call, SystemTime::now());
        }
        self.table.want(wanted)
    }

    fn certificate_in_use(&self) -> Option<Message> {
        let (_, credentials) = self.store.current()?;
        let serial = credentials.serial().to_string();
        Some(Message::CertificateInUse(v1::CertificateInUse { serial }))
    }

    /// Whether traffic may come. To an app that is asked how it is none comes before it has been asked once.
    fn readiness(&mut self) -> v1::Readiness {
        let thoughts = self.health.borrow();
        let asked = |check: &AppCheck| thoughts.contains_key(&Subject::Own(check.service.clone()));
        let is_known = self.was_ready || self.table.checks().iter().all(asked);
        drop(thoughts);
        let ready = *self.ready.borrow_and_update() && is_known;
        self.was_ready |= ready;
        v1::Readiness { ready }
    }

    /// What our own checks have found of our own app.
    fn own_health(&self) -> v1::Health {
        let thoughts = self.health.borrow();
        let failing = thoughts.iter().filter_map(|(subject, thought)| match (subject, thought) {
            (Subject::Own(service), Found::Failing) => Some(service.to_string()),
            (Subject::Own(_) | Subject::Other { .. }, _) => None,
        });
        v1::Health { unhealthy: failing.collect() }
    }

    /// Takes over what our own checks have found of others.
    fn heed_health(&mut self) {
        let failing = self.health.borrow_and_update().iter().filter_map(failing_other).collect();
        if self.table.find_failing(failing) {
            self.publish();
        }
    }

    fn hello(&self) -> v1::Hello {
        let settings = &self.settings;
        let offer = |offer: &crate::config::Offer| v1::Offer {
            service: offer.service.to_string(),
            port: offer.port.map_or(0, |offered| offered.port.into()),
            target_port: offer.port.map_or(0, |offered| offered.target_port.into()),
            protocol: offer.port.map_or(v1::Protocol::Detect, |offered| protocol(offered.protocol)).into(),
        };
        v1::Hello {
            workload: settings.workload.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            addresses: self.addresses.iter().map(convert::address_to_wire).collect(),
            inbound_port: settings.inbound.port().into(),
            offers: settings.offers.iter().map(offer).collect(),
            labels: settings.labels.clone().into_iter().collect(),
            zone: settings.zone.clone(),
            held: self.table.held(),
        }
    }
}

fn failing_other((subject, thought): (&Subject, &Found)) -> Option<(QualifiedName, QualifiedName)> {
    match (subject, thought) {
        (Subject::Other { service, workload }, Found::Failing) => Some((service.clone(), workload.clone())),
        (Subject::Own(_) | Subject::Other { .. }, _) => None,
    }
}

fn protocol(protocol: Protocol) -> v1::Protocol {
    convert::protocol_to_wire(protocol)
}

async fn tapped(tapped: &mut Option<Tapped>) -> v1::TapEvents {
    match tapped {
        Some(tapped) => tapped.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Does what may block on a thread of its own. Where the process table is full there is none; tokio's pool of threads would panic.
async fn beside(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (tell, done) = oneshot::channel();
    // Nobody waits for it any more where we end before it does.
    thread::Builder::new().name("save".to_owned()).spawn(move || drop(tell.send(work())))?;
    done.await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
}
