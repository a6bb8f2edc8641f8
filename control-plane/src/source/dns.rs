//! Those whom DNS knows: for every `Workload` that names a host or an SRV record it is asked again when its answer's time is
//! over, and each place that it answers is a `Workload` of its own.
//!
//! An answer that does not come takes nobody away: with the last good one calls still arrive, and who is gone is found out
//! by those who call.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use weft_core::manifest::{self, Found, Resource, ResourceKey, Spec};
use weft_core::model::{DnsName, DnsQuestion};
use weft_core::world::Change;
use weft_runtime::task;

use crate::metrics::Metrics;
use crate::report::chain;
use crate::world::World;

/// Who owns the documents, as the world knows them.
const SOURCE: &str = "dns";
/// How long an answer holds, whatever its records say.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);
/// Until it is asked again after a failure: at first, and at most.
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Places that one name stands for.
const MOST: usize = 1_000;
/// Hosts of an SRV record that are looked up.
const MOST_TARGETS: usize = 100;

/// Why there is no answer that could be used.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0} cannot be looked up")]
    Lookup(DnsQuestion, #[source] NetError),
    #[error("{0} has no records")]
    Empty(DnsQuestion),
    #[error("{0} names a host that is none: {1}")]
    Target(DnsQuestion, String),
}

/// What DNS knows.
#[derive(Debug)]
pub(crate) struct Dns {
    world: Arc<World>,
    metrics: Arc<Metrics>,
    resolver: TokioResolver,
}

/// A document that is asked for, until it is dropped.
#[derive(Debug)]
struct Asking {
    resource: Arc<Resource>,
    held: Arc<Mutex<Held>>,
    task: JoinHandle<()>,
}

/// What came of it.
#[derive(Debug, Default)]
struct Held {
    found: Vec<Found>,
    told: BTreeSet<ResourceKey>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dns {
    /// The same as soon as there is something to ask for and the settings can be read.
    pub(crate) async fn open(
        world: Arc<World>,
        metrics: Arc<Metrics>,
        servers: Vec<SocketAddr>,
    ) -> Arc<Self> {
        let mut published = world.published();
        loop {
            if world.read(|known| known.named_workloads().next().is_some()) {
                match Self::new(world.clone(), metrics.clone(), &servers) {
                    Ok(dns) => return Arc::new(dns),
                    Err(error) => tracing::error!(reason = chain(&error), "cannot ask DNS"),
                }
                sleep(RETRY).await;
                continue;
            }
            // Its sender lives in the world that we hold.
            let _ = published.changed().await;
        }
    }

    /// Asks these servers; none: those of this machine's `resolv.conf`.
    fn new(world: Arc<World>, metrics: Arc<Metrics>, servers: &[SocketAddr]) -> Result<Self, NetError> {
        let mut builder = match servers {
            [] => TokioResolver::builder_tokio()?,
            servers => TokioResolver::builder_with_config(given(servers), TokioRuntimeProvider::default()),
        };
        // We remember answers ourselves, and for how long.
        builder.options_mut().cache_size = 0;
        let resolver = ResolverBuilder::build(builder)?;
        Ok(Self { world, metrics, resolver })
    }

    /// Follows the documents, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut published = self.world.published();
        let mut asked = BTreeMap::new();
        loop {
            self.compare(&mut asked).await;
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks for what documents say, and for nothing else.
    async fn compare(self: &Arc<Self>, asked: &mut BTreeMap<ResourceKey, Asking>) {
        let wanted: BTreeMap<_, _> = self.world.read(|known| {
            known.named_workloads().map(|resource| (resource.key(), Arc::clone(resource))).collect()
        });
        let is_other = |(key, asking): &(&ResourceKey, &Asking)| {
            wanted.get(*key).is_none_or(|resource| resource.document != asking.resource.document)
        };
        let over: Vec<_> = asked.iter().filter(is_other).map(|(key, _)| key.clone()).collect();
        for key in over {
            let Some(mut before) = asked.remove(&key) else { continue };
            before.task.abort();
            // What it was about to tell is told, or never will be.
            let _ = (&mut before.task).await;
            let again = wanted.get(&key).filter(|resource| question(resource) == question(&before.resource));
            match again {
                // Where it is the same that is asked, the answer holds for the new document as well.
                Some(resource) => {
                    let found = lock(&before.held).found.clone();
                    self.tell(resource, &before.held, found);
                    asked.insert(key, self.ask_for(resource, before.held.clone()));
                }
                None => self.tell(&before.resource, &before.held, Vec::new()),
            }
        }
        for (key, resource) in wanted {
            asked.entry(key).or_insert_with(|| self.ask_for(&resource, Arc::default()));
        }
    }

    fn ask_for(self: &Arc<Self>, resource: &Arc<Resource>, held: Arc<Mutex<Held>>) -> Asking {
        let asking = self.clone().keep_asking(resource.clone(), held.clone());
        Asking { resource: resource.clone(), held, task: task::spawn("dns", asking) }
    }

    async fn keep_asking(self: Arc<Self>, resource: Arc<Resource>, held: Arc<Mutex<Held>>) {
        let Some(question) = question(&resource) else { return };
        let mut trouble = None;
        let mut retry = RETRY;
        loop {
            let wait = match self.ask(question).await {
                Ok((found, lives)) => {
                    self.metrics.dns_answered.increment();
                    (trouble, retry) = (None, RETRY);
                    self.tell(&resource, &held, found);
                    lives.clamp(SHORTEST, LONGEST)
                }
                Err(error) => {
                    self.metrics.dns_failed.increment();
                    let reason = chain(&error);
                    if trouble.as_ref() != Some(&reason) {
                        let workload = resource.key().to_string();
                        tracing::warn!(
                            workload,
                            reason,
                            "DNS does not say where it is; what was last good stays"
                        );
                        trouble = Some(reason);
                    }
                    let wait = retry;
                    retry = (2 * retry).min(LAST_RETRY);
                    wait
                }
            };
            sleep(wait).await;
        }
    }

    /// Puts what was found into force, in the place of what was found before.
    fn tell(&self, resource: &Resource, held: &Mutex<Held>, found: Vec<Found>) {
        let mut held = lock(held);
        let workloads = manifest::found(resource, &found, SOURCE);
        let told: BTreeSet<_> = workloads.iter().map(Resource::key).collect();
        let change = |key, resource| Change::Document { source: SOURCE.into(), key, resource };
        // Who comes first, then who goes: nobody is without an endpoint in between.
        for workload in workloads {
            self.world.apply(change(workload.key(), Some(Box::new(workload))));
        }
        for gone in held.told.difference(&told) {
            self.world.apply(change(gone.clone(), None));
        }
        *held = Held { found, told };
    }

    /// The places, and how long that holds.
    async fn ask(&self, question: &DnsQuestion) -> Result<(Vec<Found>, Duration), AskError> {
        let (mut found, lives) = match question {
            DnsQuestion::Host(name) => {
                let (addresses, lives) = self.addresses(name).await?;
                let at = |address| Found { address, port: None, weight: None };
                (addresses.into_iter().map(at).collect(), lives)
            }
            DnsQuestion::Service(name) => self.service(question, name).await?,
        };
        let ranges = self.world.read(|known| known.defaults().service_cidrs.clone());
        found.retain(|found| {
            let address = found.address;
            !address.is_unspecified()
                && !address.is_multicast()
                && !ranges.iter().any(|range| range.contains(address))
        });
        found.sort();
        found.dedup_by_key(|found| (found.address, found.port));
        found.truncate(MOST);
        Ok((found, lives))
    }

    /// Of both families; where one cannot be had, nothing is changed.
    async fn addresses(&self, name: &DnsName) -> Result<(Vec<IpAddr>, Duration), AskError> {
        let question = DnsQuestion::Host(name.clone());
        let (v4, v6) =
            tokio::join!(self.resolver.ipv4_lookup(name.as_str()), self.resolver.ipv6_lookup(name.as_str()));
        let mut addresses = Vec::new();
        let mut lives = LONGEST;
        for answer in [v4, v6] {
            let answer = match answer {
                Ok(answer) => answer,
                // The name is there, and has nothing of this family.
                Err(error) if error.is_no_records_found() && !error.is_nx_domain() => continue,
                Err(error) => return Err(AskError::Lookup(question, error)),
            };
            lives = lives.min(lifetime(&answer));
            addresses.extend(answer.answers().iter().filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            }));
        }
        if addresses.is_empty() { Err(AskError::Empty(question)) } else { Ok((addresses, lives)) }
    }

    /// The hosts of the first priority, each with its port and weight.
    async fn service(
        &self,
        question: &DnsQuestion,
        name: &DnsName,
    ) -> Result<(Vec<Found>, Duration), AskError> {
        let answer = self.resolver.srv_lookup(name.as_str()).await;
        let answer = answer.map_err(|error| AskError::Lookup(question.clone(), error))?;
        let mut lives = lifetime(&answer);
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(record) => Some(record),
            _ => None,
        });
        let records: Vec<_> = records.collect();
        let first = records.iter().map(|record| record.priority).min();
        let first = first.ok_or_else(|| AskError::Empty(question.clone()))?;
        let mut found = Vec::new();
        let best = records.iter().filter(|record| record.priority == first);
        for record in best.take(MOST_TARGETS) {
            // It is said outright that nobody is there (RFC 2782).
            if record.target.is_root() {
                continue;
            }
            let target = record.target.to_string();
            let host = target.parse().map_err(|_| AskError::Target(question.clone(), target.clone()))?;
            let (addresses, of_host) = self.addresses(&host).await?;
            lives = lives.min(of_host);
            let at = |address| Found { address, port: Some(record.port), weight: Some(record.weight) };
            found.extend(addresses.into_iter().map(at));
        }
        Ok((found, lives))
    }
}

fn given(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |server: &SocketAddr| {
        let mut config = NameServerConfig::udp(server.ip());
        config.connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
            .into_iter()
            .map(|mut connection| {
                connection.port = server.port();
                connection
            })
            .collect();
        config
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

fn question(resource: &Resource) -> Option<&DnsQuestion> {
    match &resource.spec {
        Spec::NamedWorkload(question) => Some(question),
        _ => None,
    }
}

fn lifetime(answer: &Lookup) -> Duration {
    let shortest = answer.answers().iter().map(|record| record.ttl).min();
    Duration::from_secs(shortest.unwrap_or_default().into())
}

/// Nothing panics while it holds one of these; if it did, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
