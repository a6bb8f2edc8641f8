//! A registered sidecar's stream: tells it what it lacks, hears what it made of it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};
use weft_core::model::QualifiedName;
use weft_proto::convert::address_from_wire;
use weft_proto::v1::{self, control_message::Message as Told, sidecar_message::Message};

use super::allowance::{Allowance, Exhausted, NEWS};
use super::hello::{Announced, violation};
use super::{SEND, Sender, Shared};
use crate::asks::Line;
use crate::peer::Peer;
use crate::push::{Mailbox, Session, kind, title};
use crate::source::registry::Lease;
use crate::status::{Listed, PlaintextCaller};

/// Services that one workload may be behind, as far as its health is told.
const MOST_SERVICES: usize = 1024;

/// Callers without an identity that one workload tells of.
const MOST_CALLERS: usize = 64;

/// How a stream ended.
pub(super) enum Ended {
    /// The sidecar closed it.
    Clean,
    /// It broke, or the sidecar stopped answering.
    Lost,
    /// We are going down.
    Draining,
    /// We ended it; the sidecar is told why.
    Refused(Status),
    /// The same, and it is not to come back.
    Revoked(Status),
}

/// What a sidecar tells of requests.
enum Seen {
    Counted(v1::Golden),
    Passed(v1::TapEvents),
}

struct Stream<'a> {
    shared: &'a Shared,
    workload: QualifiedName,
    /// Who it is, by the certificate that it uses now.
    peer: Peer,
    session: Session,
    mailbox: Arc<Mailbox>,
    listed: Listed<'a>,
    lease: Lease,
    sender: &'a Sender,
    /// What is asked of it.
    line: Line,
    /// What it was told that somebody wants to see.
    wanted: Vec<v1::TapFilter>,
    /// What the sidecar said of itself; until then it is ready with its first ack.
    readiness: Option<bool>,
    allowance: Allowance,
}

/// Serves a stream to its end, and takes the workload out as that end says.
pub(super) async fn run(
    shared: &Shared,
    announced: Announced,
    peer: Peer,
    mut inbound: Streaming<v1::SidecarMessage>,
    sender: &Sender,
) -> Ended {
    let Announced { workload, lease, session } = announced;
    // Its own workload is among the first things that it is told.
    shared.world.caught_up().await;
    let mailbox = shared.hub.join();
    let listed = shared.live.list(&workload, mailbox.clone());
    shared.hub.watch(&mailbox, session.subscriptions());
    let line = shared.live.asks().line(&workload);
    let (wanted, readiness) = (Vec::new(), None);
    let allowance = Allowance::new(Instant::now());
    let mut stream = Stream {
        shared,
        workload,
        peer,
        session,
        mailbox,
        listed,
        lease,
        sender,
        line,
        wanted,
        readiness,
        allowance,
    };
    let ended = stream.serve(&mut inbound).await;
    shared.telemetry.golden().gone(&stream.workload);
    shared.hub.leave(&stream.mailbox, &stream.session);
    // Who has not taken its leave may come back: what looks like an end may be a connection that was given up.
    let has_left = matches!(ended, Ended::Clean) && stream.readiness == Some(false);
    if has_left || matches!(ended, Ended::Revoked(_)) {
        stream.lease.end();
    }
    ended
}

impl Stream<'_> {
    async fn serve(&mut self, inbound: &mut Streaming<v1::SidecarMessage>) -> Ended {
        let mut drain = self.shared.drain.clone();
        let mut authority = self.shared.ca.changes();
        let mut taps = self.shared.telemetry.taps().changes();
        taps.mark_changed();
        // Not wound up anew with each push: where it goes off it is asked whether anything is late.
        let mut look = pin!(sleep(self.shared.ack));
        loop {
            if let Err(ended) = self.flush().await {
                return ended;
            }
            let message = tokio::select! {
                message = inbound.message() => message,
                () = self.mailbox.woken() => continue,
                ask = self.line.next() => match self.send(Told::Ask(ask)).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                // The sender lives in the telemetry that we hold.
                _ = taps.changed() => match self.tell_taps().await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                () = self.lease.superseded() => {
                    return Ended::Refused(Status::aborted("a newer stream of this workload took over"));
                }
                () = drain.draining() => return Ended::Draining,
                // The sender lives in the authority that we hold.
                _ = authority.changed() => match self.refuse_revoked() {
                    Some(status) => return Ended::Revoked(status),
                    None => continue,
                },
                () = look.as_mut() => match self.due(Instant::now()) {
                    Some(due) => {
                        look.as_mut().reset(due.into());
                        continue;
                    }
                    None => {
                        let message = format!("no ack for {} s", self.shared.ack.as_secs_f64());
                        return Ended::Refused(Status::deadline_exceeded(message));
                    }
                },
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Ended::Clean,
                Err(status) => {
                    tracing::debug!(workload = %self.workload, reason = status.message(), "stream broke");
                    return Ended::Lost;
                }
            };
            if let Err(status) = self.take(message) {
                return Ended::Refused(status);
            }
            if let Some(status) = self.refuse_revoked() {
                return Ended::Revoked(status);
            }
        }
    }

    /// When an ack may be late next; none: one is.
    fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.session.waiting_since().unwrap_or(now) + self.shared.ack;
        (due > now).then_some(due)
    }

    /// Sends what the sidecar lacks.
    async fn flush(&mut self) -> Result<(), Ended> {
        self.session.mark(self.mailbox.take());
        let refused = |error| Ended::Refused(violation(error));
        loop {
            let snapshot = self.shared.hub.snapshot();
            let added = self.session.expand(&snapshot).map_err(refused)?;
            if !added.is_empty() {
                // Watch first, then read the snapshot again: nothing falls in between.
                self.shared.hub.watch(&self.mailbox, &added);
                continue;
            }
            let push = self.session.push(&snapshot, Instant::now());
            self.mailbox.report(&self.session);
            let Some(push) = push else { return Ok(()) };
            self.shared.metrics.pushes.increment();
            self.send(Told::Push(push)).await?;
        }
    }

    async fn send(&self, message: Told) -> Result<(), Ended> {
        let message = v1::ControlMessage { message: Some(message) };
        match timeout(SEND, self.sender.send(Box::new(Ok(message)))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Lost),
            Err(_) => Err(Ended::Refused(Status::deadline_exceeded("the sidecar does not read"))),
        }
    }

    /// Says what somebody wants to see, where that has changed.
    async fn tell_taps(&mut self) -> Result<(), Ended> {
        let Some(account) = self.account() else { return Ok(()) };
        let wanted = self.shared.telemetry.taps().wanted_of(&account);
        if wanted == self.wanted {
            return Ok(());
        }
        self.wanted.clone_from(&wanted);
        self.send(Told::Taps(v1::Taps { taps: wanted })).await
    }

    /// The service account that its certificate names.
    fn account(&self) -> Option<QualifiedName> {
        let (namespace, account) = self.peer.identity.service_account()?;
        Some(QualifiedName::new(namespace, account))
    }

    /// What it tells of requests.
    fn take_seen(&self, seen: Seen) {
        let Some(account) = self.account() else { return };
        let telemetry = &self.shared.telemetry;
        match seen {
            Seen::Counted(golden) => {
                telemetry.golden().take(&self.workload, &account, golden, SystemTime::now());
            }
            Seen::Passed(events) => {
                telemetry.taps().deliver(&self.workload, &account, events, Instant::now());
            }
        }
    }

    /// Whoever is believed no more serves nobody, and is told so.
    fn refuse_revoked(&self) -> Option<Status> {
        let revoked = self.shared.ca.revoked(&self.peer)?;
        Some(Status::permission_denied(format!("{revoked} is revoked")))
    }

    fn take(&mut self, message: v1::SidecarMessage) -> Result<(), Status> {
        self.allowance
            .spend(cost(&message), Instant::now())
            .map_err(|error: Exhausted| Status::resource_exhausted(error.to_string()))?;
        match message.message {
            Some(Message::Subscribe(change)) => {
                let (added, ended) = self.session.subscribe(&change).map_err(violation)?;
                self.shared.hub.unwatch(&self.mailbox, &ended);
                self.shared.hub.watch(&self.mailbox, &added);
            }
            Some(Message::Ack(ack)) => {
                let acked = self.session.ack(&ack, Instant::now()).map_err(violation)?;
                if let Some(latency) = acked.latency {
                    self.shared.metrics.push_latency.observe_duration(latency);
                }
                for (name, reason) in acked.rejected {
                    self.shared.metrics.rejected(kind(&name));
                    let (workload, resource) = (&self.workload, title(&name));
                    tracing::warn!(%workload, resource, reason, "a sidecar did not take it");
                }
                if self.readiness.is_none() {
                    self.lease.set_ready(true);
                }
            }
            Some(Message::Readiness(v1::Readiness { ready })) => {
                self.readiness = Some(ready);
                self.lease.set_ready(ready);
            }
            Some(Message::Health(health)) => self.lease.set_unhealthy(unhealthy(&health)?),
            Some(Message::UnknownKey(v1::UnknownKey { issuer })) => self.shared.keys.ask(&issuer),
            Some(Message::PlaintextCallers(told)) => self.listed.heard_plaintext(plaintext(told)?),
            Some(Message::CertificateInUse(v1::CertificateInUse { serial })) => {
                let (workload, now) = (&self.workload.name, SystemTime::now());
                self.shared.ca.in_use(&self.peer.identity, workload, &serial, now);
                self.peer.serial = serial;
            }
            Some(Message::Golden(golden)) => self.take_seen(Seen::Counted(golden)),
            Some(Message::TapEvents(events)) => self.take_seen(Seen::Passed(events)),
            Some(Message::Answer(answer)) => self.line.answered(answer),
            Some(Message::Hello(_)) => return Err(Status::invalid_argument("a second Hello")),
            // A later version may say more; it is told nothing wrong by our silence.
            None => {}
        }
        Ok(())
    }
}

/// What a message costs of the allowance.
fn cost(message: &v1::SidecarMessage) -> usize {
    match &message.message {
        Some(Message::Subscribe(change)) => 1 + change.add.len() + change.remove.len(),
        Some(Message::Readiness(_) | Message::Health(_)) => NEWS,
        _ => 0,
    }
}

/// The services that a sidecar names.
fn unhealthy(health: &v1::Health) -> Result<BTreeSet<QualifiedName>, Status> {
    if health.unhealthy.len() > MOST_SERVICES {
        return Err(Status::invalid_argument(format!("more than {MOST_SERVICES} services")));
    }
    let name = |text: &String| {
        text.parse().map_err(|error| Status::invalid_argument(format!("a service's name: {error}")))
    };
    health.unhealthy.iter().map(name).collect()
}

/// Who was let in without an identity.
fn plaintext(told: v1::PlaintextCallers) -> Result<Vec<PlaintextCaller>, Status> {
    if told.callers.len() > MOST_CALLERS {
        return Err(Status::invalid_argument(format!("more than {MOST_CALLERS} callers in plaintext")));
    }
    let caller = |told: v1::PlaintextCaller| {
        let address = address_from_wire(&told.address)
            .map_err(|error| Status::invalid_argument(format!("a caller's address: {error}")))?;
        let port = u16::try_from(told.port).map_err(|_| Status::invalid_argument("a caller's port"))?;
        let ago = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(told.last_seen));
        // A clock may be ahead; nobody was heard in the future.
        let last_seen = ago.unwrap_or(SystemTime::UNIX_EPOCH).min(SystemTime::now());
        Ok(PlaintextCaller { address, port, last_seen })
    };
    told.callers.into_iter().map(caller).collect()
}
