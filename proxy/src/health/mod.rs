//! Asks apps how they are, where a policy says so: our own app for every service that it is behind, and, of services that we
//! call, endpoints without a sidecar and the addresses of hosts outside the mesh.
//!
//! What is found of our own app the control plane is told, which tells the callers: an app is asked by one sidecar,
//! however many call it. What is found of others holds for our own calls alone.

mod outside;
mod probe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use weft_core::health::{self, Found, Health};
use weft_core::model::{Endpoint, HealthCheck, Protocol, QualifiedName, Service};
use weft_runtime::task;

use crate::state::{Discovery, KnownService, Snapshot};
use crate::tls::PublicRoots;
use crate::upstream::{Dialer, Names};
use outside::Lookups;
use probe::{Asker, Place};

/// Outcomes that may wait to be taken note of.
const BACKLOG: usize = 256;

/// Apps that are asked at once; further ones are not asked, and thought to work.
const MOST: usize = 1024;

/// Whose health it is: of our own app as one behind a service, or of an endpoint that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Our own app, as one behind this service.
    Own(QualifiedName),
    /// A workload without a sidecar, or an address outside the mesh, as one behind a service.
    Other {
        /// The service.
        service: QualifiedName,
        /// The workload.
        workload: QualifiedName,
    },
}

/// What is thought of all that were asked.
pub type Thoughts = BTreeMap<Subject, Found>;

/// What is asked of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    place: Place,
    settings: HealthCheck,
}

/// How those that are asked are reached.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Opens connections.
    pub dialer: Dialer,
    /// Says where hosts outside the mesh are.
    pub names: Names,
    /// Vouches for those whose documents name nobody.
    pub public: PublicRoots,
}

/// Keeps asking.
#[derive(Debug)]
pub struct HealthLoop {
    discovery: Discovery,
    /// Where our own app is reached.
    addresses: Vec<IpAddr>,
    reach: Reach,
    /// Where hosts outside the mesh are.
    lookups: Lookups,
    thoughts: watch::Sender<Thoughts>,
    running: HashMap<Subject, Running>,
    /// Whether we have been told of our workload before: what is to be asked from then on is called already.
    is_known: bool,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Running {
    check: Check,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One subject's checks, one after another.
struct Asking {
    subject: Subject,
    check: Check,
    health: Health,
    asker: Asker,
    outcomes: mpsc::Sender<(Subject, Found)>,
    rng: fastrand::Rng,
}

impl HealthLoop {
    /// A loop, and what it finds.
    pub fn new(
        discovery: Discovery,
        addresses: Vec<IpAddr>,
        reach: Reach,
    ) -> (Self, watch::Receiver<Thoughts>) {
        let (thoughts, found) = watch::channel(Thoughts::new());
        let (running, lookups) = (HashMap::new(), Lookups::default());
        let rng = fastrand::Rng::new();
        (Self { discovery, addresses, reach, lookups, thoughts, running, is_known: false, rng }, found)
    }

    /// Works for ever.
    pub async fn run(mut self) {
        let (outcomes, mut found) = mpsc::channel(BACKLOG);
        let (answers, mut answered) = mpsc::channel(BACKLOG);
        loop {
            self.lookups.reconcile(&self.discovery.snapshot(), &self.reach.names, &answers);
            self.reconcile(&outcomes);
            tokio::select! {
                () = self.discovery.changed() => {}
                Some(answer) = answered.recv() => self.lookups.heed(answer),
                Some((subject, thought)) = found.recv() => {
                    // What is not asked any more is not thought of either.
                    if self.running.contains_key(&subject) {
                        self.thoughts.send_modify(|thoughts| {
                            thoughts.insert(subject, thought);
                        });
                    }
                }
            }
        }
    }

    /// Starts and ends checks until those run that should.
    fn reconcile(&mut self, outcomes: &mpsc::Sender<(Subject, Found)>) {
        let snapshot = self.discovery.snapshot();
        let mut intended = self.intended(&snapshot);
        self.running.retain(|subject, running| intended.get(subject) == Some(&running.check));
        let gone = |thoughts: &Thoughts| thoughts.keys().any(|subject| !intended.contains_key(subject));
        self.thoughts.send_if_modified(|thoughts| {
            let any = gone(thoughts);
            thoughts.retain(|subject, _| intended.contains_key(subject));
            any
        });
        intended.retain(|subject, _| !self.running.contains_key(subject));
        for (subject, check) in intended {
            if self.running.len() >= MOST {
                tracing::warn!(?subject, "not checked: more than {MOST} are");
                continue;
            }
            let health = match (self.thoughts.borrow().get(&subject), &subject) {
                (Some(thought), _) => Health::thinking(*thought),
                (None, Subject::Own(_)) if self.is_known => Health::of_known(),
                (None, _) => Health::of_newcomer(),
            };
            let asking = Asking {
                subject: subject.clone(),
                check: check.clone(),
                health,
                asker: Asker::new(self.reach.clone()),
                outcomes: outcomes.clone(),
                rng: self.rng.fork(),
            };
            let task = task::spawn("health", asking.run());
            self.running.insert(subject, Running { check, task });
        }
        self.is_known |= snapshot.workload.is_some();
    }

    fn intended(&self, snapshot: &Snapshot) -> HashMap<Subject, Check> {
        let mut intended = HashMap::new();
        for check in snapshot.workload.iter().flat_map(|workload| &workload.checks) {
            let addresses = self.addresses.iter().map(|ip| SocketAddr::new(*ip, check.port)).collect();
            let (protocol, host) = (check.protocol, check.service.name.to_string());
            let place = Place { addresses, protocol, host, tls: None };
            let check_of = Check { place, settings: check.settings.clone() };
            intended.insert(Subject::Own(check.service.clone()), check_of);
        }
        let checked = |known: &&Arc<KnownService>| known.service.traffic.health_check.is_some();
        for known in snapshot.services.values().filter(checked) {
            let plain = known.endpoints.iter().map(AsRef::as_ref);
            let plain = plain.filter(|endpoint: &&Endpoint| endpoint.identity.is_none());
            for endpoint in plain.chain(self.lookups.of(&known.service.name)) {
                let Some(check) = of_other(known, endpoint) else { continue };
                let (service, workload) = (known.service.name.clone(), endpoint.workload.clone());
                intended.insert(Subject::Other { service, workload }, check);
            }
        }
        intended
    }
}

/// What an endpoint without a sidecar is asked.
fn of_other(known: &KnownService, endpoint: &Endpoint) -> Option<Check> {
    let Service { name, ports, traffic, external, .. } = &known.service;
    let settings = traffic.health_check.clone()?;
    let port = settings.port.or_else(|| ports.first().map(|port| port.port))?;
    let declared = ports.iter().find(|declared| declared.port == port);
    let protocol = declared.map(|declared| declared.protocol).unwrap_or_default();
    let (target, host, tls) = match external {
        None => (endpoint.target_port(port)?, name.name.as_str(), None),
        Some(external) => {
            // Where the app itself speaks TLS there is nothing that we could speak.
            let tls = external.tls.clone().filter(|_| protocol != Protocol::Tls);
            (external.target_port(port)?, external.host.as_ref()?.as_str(), tls)
        }
    };
    let addresses = endpoint.addresses.iter().map(|ip| SocketAddr::new(*ip, target)).collect();
    Some(Check { place: Place { addresses, protocol, host: host.to_owned(), tls }, settings })
}

impl Asking {
    async fn run(mut self) {
        let mut why = None;
        if let Some(thought) = self.health.thought() {
            // The loop that hears it outlives us.
            let _ = self.outcomes.send((self.subject.clone(), thought)).await;
        }
        loop {
            let outcome = self.asker.ask(&self.check.place, &self.check.settings).await;
            let found = probe::found(&outcome);
            if let Err(ailment) = outcome {
                let reason = crate::control::with_causes(&ailment);
                tracing::debug!(subject = ?self.subject, reason, "a health check failed");
                why = Some(reason);
            }
            if self.health.note(found, &self.check.settings) {
                self.tell(found, why.take().as_deref());
                if self.outcomes.send((self.subject.clone(), found)).await.is_err() {
                    return;
                }
            }
            let rest: Duration = health::rest(self.check.settings.interval, &mut self.rng);
            tokio::time::sleep(rest).await;
        }
    }

    fn tell(&self, found: Found, why: Option<&str>) {
        match found {
            Found::Working => tracing::info!(subject = ?self.subject, "works, by its health checks"),
            Found::Failing => {
                tracing::warn!(subject = ?self.subject, reason = why, "does not work, by its health checks");
            }
        }
    }
}
