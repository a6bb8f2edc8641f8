//! The cluster that we run in: its services, who is behind them, its pods, and the configuration that lies in it.
//!
//! Every object becomes one change of the world as it comes. Until all kinds were listed once, sidecars are not told
//! of the mesh: they keep what they have, which is better than half of what there is.

mod keep;
mod observe;
mod read;
#[cfg(test)]
mod rights;
mod slices;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as Lock, PoisonError};

use serde_json::Value;
use tokio::sync::{Mutex, mpsc, watch};
use weft_core::manifest::{Kind, ResourceKey};
use weft_core::model::{Name, QualifiedName};
use weft_core::world::Change;
use weft_runtime::task;

use crate::configuration::{Authors, Home, KUBERNETES as SOURCE, is_observed};
use crate::kubernetes::{Client, Collection, Event, Watch};
use crate::world::World;

pub(crate) use keep::Keep;
pub(crate) use observe::Observe;
use read::Seen;
use slices::Slices;

/// The group of our own kinds.
const OURS: &str = "weft.mesh";
/// Events of all watches that are not folded in yet.
const BACKLOG: usize = 1024;

const PODS: Collection = Collection { group: "", versions: &["v1"], plural: "pods" };
const SLICES: Collection =
    Collection { group: "discovery.k8s.io", versions: &["v1"], plural: "endpointslices" };

/// The cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    client: Arc<Client>,
    world: Arc<World>,
    state: Mutex<State>,
    /// Why objects are not in force as they are.
    problems: Lock<BTreeMap<ResourceKey, Refusal>>,
    /// Who has written what lately, as far as nobody has asked yet.
    authors: Lock<Authors>,
    synced: watch::Sender<bool>,
    /// Where the mesh's configuration is.
    home: watch::Sender<Home>,
    /// Counts what becomes of configuration, what is refused of it too.
    configured: watch::Sender<u64>,
}

/// What we know of objects, by kind.
#[derive(Debug, Default)]
struct State {
    known: BTreeMap<Collection, BTreeSet<Key>>,
    /// Those that the list under way has not told of yet.
    unseen: BTreeMap<Collection, BTreeSet<Key>>,
    listed: BTreeSet<Collection>,
    /// Kinds that the cluster does not have.
    absent: BTreeSet<Collection>,
    slices: Slices,
}

/// Why an object is not taken over.
#[derive(Debug, Clone, PartialEq)]
struct Refusal {
    words: String,
    /// The services that it says it is a route of (`parentRefs`).
    parents: Vec<Value>,
}

/// The namespace, empty where there is none, and the name.
type Key = (String, String);

impl Cluster {
    /// Read by this client.
    pub(crate) fn new(client: Arc<Client>, world: Arc<World>) -> Self {
        Self {
            client,
            world,
            state: Mutex::default(),
            problems: Lock::default(),
            authors: Lock::default(),
            synced: watch::Sender::new(false),
            home: watch::Sender::new(Home::NotReadYet),
            configured: watch::Sender::new(0),
        }
    }

    /// Where the mesh's configuration is: in the cluster, where that knows our kinds.
    pub(crate) fn home(&self) -> watch::Receiver<Home> {
        self.home.subscribe()
    }

    /// Whether all there is has been read once.
    pub(crate) fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Follows the cluster, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut state = self.state.lock().await;
        let (sender, mut receiver) = mpsc::channel(BACKLOG);
        let collections = collections();
        for collection in &collections {
            let watch = Watch::new(self.client.clone(), *collection, sender.clone());
            task::spawn("kubernetes-watch", watch.run());
        }
        drop(sender);
        // The watches end only when we do.
        while let Some((collection, event)) = receiver.recv().await {
            self.fold(&mut state, collection, event);
            if state.listed.len() == collections.len() {
                let has_ours = collections.iter().any(|it| it.group == OURS && !state.absent.contains(it));
                self.home.send_replace(if has_ours { Home::Kubernetes } else { Home::Here });
                if !self.synced.send_replace(true) {
                    tracing::info!("the cluster was read");
                }
            }
        }
    }

    fn fold(&self, state: &mut State, collection: Collection, event: Event) {
        match event {
            Event::Listing => {
                let known = state.known.get(&collection).cloned().unwrap_or_default();
                state.unseen.insert(collection, known);
            }
            Event::Is(version, object) => {
                let Some(key) = key_of(&object) else { return };
                if let Some(unseen) = state.unseen.get_mut(&collection) {
                    unseen.remove(&key);
                }
                state.known.entry(collection).or_default().insert(key);
                self.take(state, collection, version, object);
            }
            Event::Gone(object) => {
                let Some(key) = key_of(&object) else { return };
                state.known.entry(collection).or_default().remove(&key);
                self.forget(state, collection, &key);
            }
            Event::Listed => {
                for key in state.unseen.remove(&collection).unwrap_or_default() {
                    state.known.entry(collection).or_default().remove(&key);
                    self.forget(state, collection, &key);
                }
                state.listed.insert(collection);
                state.absent.remove(&collection);
            }
            Event::Absent => {
                self.fold(state, collection, Event::Listing);
                self.fold(state, collection, Event::Listed);
                state.absent.insert(collection);
            }
        }
    }

    fn take(&self, state: &mut State, collection: Collection, version: &str, object: Value) {
        if collection == PODS {
            let Some(name) = key_of(&object).and_then(qualified) else { return };
            let pod = read::pod(&name, &object);
            return self.world.apply(Change::Pod { name, pod });
        }
        if collection == SLICES {
            let Some(name) = key_of(&object).and_then(qualified) else { return };
            let services = state.slices.put(name, slices::read(&object));
            return self.tell_backends(state, services);
        }
        let Some(kind) = kind_of(collection) else { return };
        let (author, parents) = (read::author(&object), read::parents(&object));
        match read::document(kind, version, object) {
            Seen::Resource(resource) => {
                let key = resource.key();
                self.note(&key, None);
                if let Some(author) = author {
                    self.authors.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), author);
                }
                self.change(state, key, Some(resource));
            }
            Seen::Elsewhere(key) => self.change(state, key, None),
            // What was last good stays.
            Seen::Wrong(key, words) => self.note(&key, Some(Refusal { words, parents })),
            Seen::Nameless => {}
        }
    }

    fn forget(&self, state: &mut State, collection: Collection, key: &Key) {
        if collection == PODS {
            let Some(name) = qualified(key.clone()) else { return };
            return self.world.apply(Change::Pod { name, pod: None });
        }
        if collection == SLICES {
            let Some(name) = qualified(key.clone()) else { return };
            let services = state.slices.put(name, None);
            return self.tell_backends(state, services);
        }
        let (Some(kind), Ok(name)) = (kind_of(collection), key.1.parse::<Name>()) else { return };
        let namespace = if kind.is_namespaced() { key.0.parse().ok() } else { None };
        let key = ResourceKey { kind, namespace, name };
        self.note(&key, None);
        // Who takes it away the API server does not say.
        self.authors.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.change(state, key, None);
    }

    /// A service is known to have nobody behind it as soon as it is known itself.
    fn change(
        &self,
        state: &mut State,
        key: ResourceKey,
        resource: Option<Box<weft_core::manifest::Resource>>,
    ) {
        let service = key.namespace.clone().filter(|_| key.kind == Kind::Service);
        let service = service.map(|namespace| QualifiedName::new(namespace, key.name.clone()));
        let is_there = resource.is_some();
        let is_configuration = is_observed(key.kind);
        self.world.apply(Change::Document { source: SOURCE.into(), key, resource });
        if is_configuration {
            self.configured.send_modify(|count| *count += 1);
        }
        if let Some(service) = service {
            state.slices.know(&service, is_there);
            self.tell_backends(state, [service].into());
        }
    }

    fn tell_backends(&self, state: &State, services: BTreeSet<QualifiedName>) {
        for service in services {
            let backends = state.slices.of(&service);
            self.world.apply(Change::Backends { service, backends });
        }
    }

    /// Remembers what is wrong with an object, and tells of it once.
    fn note(&self, key: &ResourceKey, problem: Option<Refusal>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match problem {
            Some(problem) if problems.get(key) != Some(&problem) => {
                tracing::warn!(object = %key, problem = problem.words, "not taken over; what was last good of it stays");
                problems.insert(key.clone(), problem);
                true
            }
            Some(_) => false,
            None => problems.remove(key).is_some(),
        };
        drop(problems);
        if is_news {
            self.configured.send_modify(|count| *count += 1);
        }
    }

    /// The objects that are not in force as they are, and why.
    fn wrong(&self) -> BTreeMap<ResourceKey, Refusal> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All kinds that we read.
fn collections() -> Vec<Collection> {
    [PODS, SLICES].into_iter().chain(Kind::ALL.map(collection_of)).collect()
}

fn collection_of(kind: Kind) -> Collection {
    Collection { group: kind.group(), versions: kind.versions(), plural: kind.plural() }
}

fn kind_of(collection: Collection) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| collection_of(*kind) == collection)
}

fn key_of(object: &Value) -> Option<Key> {
    let text = |key: &str| object.get("metadata")?.get(key)?.as_str().map(str::to_owned);
    Some((text("namespace").unwrap_or_default(), text("name")?))
}

fn qualified((namespace, name): Key) -> Option<QualifiedName> {
    Some(QualifiedName::new(namespace.parse().ok()?, name.parse().ok()?))
}
