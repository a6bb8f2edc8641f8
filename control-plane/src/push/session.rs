//! One sidecar's side of the protocol, without I/O: what it subscribes to, what it holds, what it was told and
//! has not answered yet.
//!
//! What a subscription brings along (a service its endpoints and those its routes lead to, an address its service) stays
//! subscribed until
//! the sidecar removes it, so that it never holds something that no one keeps fresh.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_core::model::ResourceName;
use weft_proto::convert::ConvertError;
use weft_proto::v1;

use super::{Encoded, Snapshot};

/// Pushes that may wait for their answer at once; beyond, changes gather and the latest wins.
const WINDOW: usize = 8;
/// Names that one sidecar may subscribe to.
const MOST_SUBSCRIPTIONS: usize = 20_000;
/// Bytes in a push beyond which the rest goes into the next; gRPC clients take 4 MiB by default.
const PUSH_BYTES: usize = 2 << 20;
/// What a name adds to a push, at most.
const NAME_BYTES: usize = 550;

/// What a sidecar did that the protocol does not have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// More than this version keeps.
    #[error("more than {MOST_SUBSCRIPTIONS} subscriptions")]
    TooMany,
    /// It is no resource's name.
    #[error("a resource's name is not valid")]
    Name(#[source] ConvertError),
    /// Acks come in the order of the pushes, one each.
    #[error("an ack of epoch {0}, which is not the oldest that waits for one")]
    Epoch(u64),
}

/// What an ack said.
#[derive(Debug, Default)]
pub(crate) struct Acked {
    /// From the oldest change in the push until now; none where it only answered a subscription.
    pub latency: Option<Duration>,
    /// What was not taken, and why.
    pub rejected: Vec<(ResourceName, String)>,
}

/// What the sidecar has of one subscription.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// The hash last told; 0: that it is absent; none: nothing yet.
    hash: Option<u64>,
    /// It certainly holds what has that hash, so that a delta may start there.
    solid: bool,
}

#[derive(Debug)]
struct Waiting {
    epoch: u64,
    revision: u64,
    sent: Instant,
    changed: Option<Instant>,
    names: Vec<(ResourceName, Form)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Delta,
}

/// One sidecar's side of the protocol.
#[derive(Debug)]
pub(crate) struct Session {
    own: [ResourceName; 3],
    subscriptions: BTreeMap<ResourceName, Told>,
    /// What may differ from what was told, with the time of the change where it was one.
    pending: BTreeMap<ResourceName, Option<Instant>>,
    waiting: VecDeque<Waiting>,
    rejected: BTreeMap<ResourceName, String>,
    epoch: u64,
    revision: u64,
}

impl Session {
    /// A session of a sidecar that has `own` without asking, and still holds what it says.
    pub(crate) fn new(own: [ResourceName; 3], held: &[v1::Held]) -> Result<Self, ProtocolError> {
        let mut session = Self {
            own,
            subscriptions: BTreeMap::new(),
            pending: BTreeMap::new(),
            waiting: VecDeque::new(),
            rejected: BTreeMap::new(),
            epoch: 0,
            revision: 0,
        };
        for name in session.own.clone() {
            session.add(name)?;
        }
        for held in held {
            let Some(name) = held.name.as_ref().and_then(known).transpose()? else { continue };
            session.add(name.clone())?;
            let hash = (held.hash != 0).then_some(held.hash);
            if let Some(told) = session.subscriptions.get_mut(&name) {
                *told = Told { hash, solid: hash.is_some() };
            }
        }
        Ok(session)
    }

    /// All that it subscribes to.
    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = &ResourceName> {
        self.subscriptions.keys()
    }

    /// Changes the subscriptions; returns those that are new and those that ended.
    pub(crate) fn subscribe(
        &mut self,
        change: &v1::Subscribe,
    ) -> Result<(Vec<ResourceName>, Vec<ResourceName>), ProtocolError> {
        let mut ended = Vec::new();
        for name in change.remove.iter().filter_map(known) {
            for name in with_endpoints(name?) {
                if !self.own.contains(&name) && self.subscriptions.remove(&name).is_some() {
                    self.pending.remove(&name);
                    self.rejected.remove(&name);
                    ended.push(name);
                }
            }
        }
        let mut added = Vec::new();
        for name in change.add.iter().filter_map(known) {
            added.extend(self.add(name?)?);
        }
        Ok((added, ended))
    }

    /// Subscribes to what the pending addresses and routes name; returns what is new. To be repeated with a fresh
    /// snapshot until there is nothing, after the hub has been told of it.
    pub(crate) fn expand(&mut self, snapshot: &Snapshot) -> Result<Vec<ResourceName>, ProtocolError> {
        let found = self.pending.keys().filter_map(|name| snapshot.find(name));
        let named = found.flat_map(|resource| resource.brings.iter().cloned());
        let services: Vec<ResourceName> = named.map(ResourceName::Service).collect();
        let mut added = Vec::new();
        for service in services {
            added.extend(self.add(service)?);
        }
        Ok(added)
    }

    /// Notes that subscribed resources changed.
    pub(crate) fn mark(&mut self, dirty: impl IntoIterator<Item = (ResourceName, Instant)>) {
        for (name, changed) in dirty {
            if self.subscriptions.contains_key(&name) {
                self.pending.entry(name).and_modify(|at| *at = at.or(Some(changed))).or_insert(Some(changed));
            }
        }
    }

    /// What to tell now: nothing, where nothing differs or too much waits for its answer. The first push is made
    /// in any case, so that the sidecar learns that it has everything.
    pub(crate) fn push(&mut self, snapshot: &Snapshot, now: Instant) -> Option<v1::Push> {
        if self.waiting.len() >= WINDOW {
            return None;
        }
        let mut push = v1::Push { epoch: self.epoch + 1, revision: snapshot.revision, ..Default::default() };
        let mut waiting = Waiting {
            epoch: push.epoch,
            revision: push.revision,
            sent: now,
            changed: None,
            names: Vec::new(),
        };
        let mut bytes = 0;
        while bytes < PUSH_BYTES
            && let Some((name, changed)) = self.pending.pop_first()
        {
            let found = snapshot.find(&name).filter(|_| self.may_know(&name));
            let Some(told) = self.subscriptions.get_mut(&name) else { continue };
            let Some(form) = tell(&name, told, found, &mut push) else { continue };
            bytes += NAME_BYTES + found.map_or(0, |resource| resource.body.len());
            waiting.changed = [waiting.changed, changed].into_iter().flatten().min();
            waiting.names.push((name, form));
        }
        if waiting.names.is_empty() && self.epoch > 0 {
            return None;
        }
        self.epoch = push.epoch;
        self.waiting.push_back(waiting);
        Some(push)
    }

    /// Takes the answer to the oldest push that waits for one.
    pub(crate) fn ack(&mut self, ack: &v1::Ack, now: Instant) -> Result<Acked, ProtocolError> {
        let waiting = self.waiting.pop_front().filter(|w| w.epoch == ack.epoch);
        let waiting = waiting.ok_or(ProtocolError::Epoch(ack.epoch))?;
        let mut acked = Acked {
            latency: waiting.changed.map(|changed| now.saturating_duration_since(changed)),
            rejected: Vec::new(),
        };
        let mut refused = BTreeMap::new();
        for rejection in &ack.rejected {
            if let Some(name) = rejection.name.as_ref().and_then(known).transpose()? {
                refused.insert(name, rejection.reason.as_str());
            }
        }
        for (name, form) in waiting.names {
            let Some(told) = self.subscriptions.get_mut(&name) else { continue };
            match (refused.get(&name), form) {
                (None, _) => {
                    told.solid = true;
                    self.rejected.remove(&name);
                }
                // It did not hold what the delta starts from: it gets the whole.
                (Some(_), Form::Delta) => {
                    *told = Told::default();
                    self.pending.entry(name).or_insert(None);
                }
                (Some(reason), Form::Whole) => {
                    told.solid = false;
                    let reason = reason.chars().take(1000).collect::<String>();
                    self.rejected.insert(name.clone(), reason.clone());
                    acked.rejected.push((name, reason));
                }
            }
        }
        self.revision = waiting.revision;
        Ok(acked)
    }

    /// The hash of the trust that it certainly holds; none: it has not said so yet, or did not take it.
    pub(crate) fn trust(&self) -> Option<u64> {
        let name = self.own.iter().find(|name| matches!(name, ResourceName::Trust(_)))?;
        let told = self.subscriptions.get(name)?;
        let waits = self.waiting.iter().any(|waiting| waiting.names.iter().any(|(told, _)| told == name));
        told.hash.filter(|_| told.solid && !waits && !self.rejected.contains_key(name))
    }

    /// Since when the oldest push waits for its answer.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.sent)
    }

    /// The revision that it was last brought to, and has answered.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// It has everything, answered everything and took everything.
    pub(crate) fn in_sync(&self) -> bool {
        self.epoch > 0 && self.pending.is_empty() && self.waiting.is_empty() && self.rejected.is_empty()
    }

    /// What it did not take, and why.
    pub(crate) fn rejected(&self) -> &BTreeMap<ResourceName, String> {
        &self.rejected
    }

    fn add(&mut self, name: ResourceName) -> Result<Vec<ResourceName>, ProtocolError> {
        let mut added = Vec::new();
        for name in with_endpoints(name) {
            if self.subscriptions.contains_key(&name) {
                continue;
            }
            if self.subscriptions.len() >= MOST_SUBSCRIPTIONS {
                return Err(ProtocolError::TooMany);
            }
            self.subscriptions.insert(name.clone(), Told::default());
            added.push(name);
        }
        // Asked again: answered again only where it differs; asked for the first time: in any case.
        self.pending.extend(added.iter().map(|name| (name.clone(), None)));
        Ok(added)
    }

    /// Another's workload is nobody's business.
    fn may_know(&self, name: &ResourceName) -> bool {
        !matches!(name, ResourceName::Workload(_)) || self.own.contains(name)
    }
}

/// A name on the wire; of a kind that this version does not know: none, for it cannot be here.
fn known(wire: &v1::ResourceName) -> Option<Result<ResourceName, ProtocolError>> {
    match ResourceName::try_from(wire) {
        Err(ConvertError::UnknownKind(_)) => None,
        read => Some(read.map_err(ProtocolError::Name)),
    }
}

/// A service's endpoints go with it.
fn with_endpoints(name: ResourceName) -> impl Iterator<Item = ResourceName> {
    let endpoints = match &name {
        ResourceName::Service(service) => Some(ResourceName::Endpoints(service.clone())),
        _ => None,
    };
    [Some(name), endpoints].into_iter().flatten()
}

/// Adds to the push what the sidecar does not know yet of one resource.
fn tell(
    name: &ResourceName,
    told: &mut Told,
    found: Option<&Arc<Encoded>>,
    push: &mut v1::Push,
) -> Option<Form> {
    let Some(resource) = found else {
        if told.hash == Some(0) {
            return None;
        }
        *told = Told { hash: Some(0), solid: true };
        push.removed.push(name.into());
        return Some(Form::Whole);
    };
    let from = told.hash;
    if from == Some(resource.hash) {
        return None;
    }
    told.hash = Some(resource.hash);
    if let Some(delta) = from.filter(|_| told.solid).and_then(|from| resource.since(from)) {
        push.endpoint_deltas.push(delta);
        return Some(Form::Delta);
    }
    push.upserts.push(resource.to_wire());
    Some(Form::Whole)
}

#[cfg(test)]
mod tests {
    use weft_core::model::{
        Address, Endpoint, Mesh, QualifiedName, Resource, Service, Trust, TrustDomain, Workload,
    };

    use super::super::title;
    use super::*;

    type Change = (ResourceName, Option<Resource>);

    fn q(name: &str) -> QualifiedName {
        name.parse().unwrap()
    }

    fn domain() -> TrustDomain {
        "mesh.local".parse().unwrap()
    }

    fn own() -> [ResourceName; 3] {
        [ResourceName::Mesh, ResourceName::Trust(domain()), ResourceName::Workload(q("default/web"))]
    }

    fn service() -> ResourceName {
        ResourceName::Service(q("default/orders"))
    }

    fn endpoints() -> ResourceName {
        ResourceName::Endpoints(q("default/orders"))
    }

    fn address() -> ResourceName {
        ResourceName::Address("240.64.0.1".parse().unwrap())
    }

    fn workload(name: &str) -> Change {
        let workload = Workload {
            name: q(name),
            service_account: "a".parse().unwrap(),
            ports: Vec::new(),
            policies: Vec::new(),
            limits: Vec::new(),
            concurrency: Default::default(),
            mtls: None,
            checks: Vec::new(),
            tokens: Vec::new(),
        };
        (ResourceName::Workload(q(name)), Some(Resource::Workload(workload)))
    }

    fn orders(workloads: &[&str]) -> Vec<Change> {
        let endpoint = |name: &&str| Endpoint {
            workload: q(name),
            addresses: vec!["::1".parse().unwrap()],
            identity: Some("spiffe://mesh.local/ns/default/sa/orders".parse().unwrap()),
            inbound_port: Some(4143),
            zone: String::new(),
            node: Arc::default(),
            weight: 1,
            ports: Vec::new(),
            healthy: true,
            fits: weft_core::model::Fits::default(),
        };
        let behind = Resource::Endpoints(workloads.iter().map(endpoint).collect());
        let orders = Service {
            name: q("default/orders"),
            addresses: Vec::new(),
            ports: Vec::new(),
            traffic: Default::default(),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        vec![
            (service(), Some(Resource::Service(orders))),
            (address(), Some(Resource::Address(Address::Service(q("default/orders"))))),
            (endpoints(), Some(behind)),
        ]
    }

    fn basics() -> Vec<Change> {
        let trust = Resource::Trust(Trust::new(domain(), vec![vec![1]]));
        vec![
            (ResourceName::Mesh, Some(Resource::Mesh(Mesh::with_defaults(domain(), Vec::new())))),
            (ResourceName::Trust(domain()), Some(trust)),
            workload("default/web"),
            workload("default/other"),
        ]
    }

    fn world(workloads: &[&str]) -> Vec<Change> {
        basics().into_iter().chain(orders(workloads)).collect()
    }

    fn subscribe(name: &ResourceName) -> v1::Subscribe {
        v1::Subscribe { add: vec![name.into()], remove: Vec::new() }
    }

    fn told(push: &v1::Push) -> Vec<String> {
        let whole = push.upserts.iter().filter_map(|r| r.name.as_ref());
        let line =
            |sign: &str, name: &v1::ResourceName| format!("{sign}{}", title(&name.try_into().unwrap()));
        whole
            .map(|n| line("+", n))
            .chain(push.removed.iter().map(|n| line("-", n)))
            .chain(push.endpoint_deltas.iter().map(|d| format!("~Endpoints {}", d.service)))
            .collect()
    }

    /// A session that was told everything it has unasked, and answered.
    fn settled(snapshot: &Snapshot) -> Session {
        let mut session = Session::new(own(), &[]).unwrap();
        let push = session.push(snapshot, Instant::now()).unwrap();
        assert_eq!(told(&push), ["+Mesh default", "+Trust mesh.local", "+Workload default/web"]);
        session.ack(&v1::Ack { epoch: 1, rejected: Vec::new() }, Instant::now()).unwrap();
        assert!(session.in_sync());
        session
    }

    fn next(session: &mut Session, snapshot: &Snapshot) -> v1::Push {
        while !session.expand(snapshot).unwrap().is_empty() {}
        session.push(snapshot, Instant::now()).unwrap()
    }

    fn ack(session: &mut Session, push: &v1::Push) {
        session.ack(&v1::Ack { epoch: push.epoch, rejected: Vec::new() }, Instant::now()).unwrap();
    }

    fn change(session: &mut Session, from: &Snapshot, changes: Vec<Change>) -> Snapshot {
        let (snapshot, changed) = from.next(from.revision + 1, changes);
        session.mark(changed.into_iter().map(|name| (name, Instant::now())));
        snapshot
    }

    #[test]
    fn an_address_brings_its_service_and_endpoints_in_the_same_push() {
        let (snapshot, _) = Snapshot::default().next(1, world(&["default/a"]));
        let mut session = settled(&snapshot);
        session.subscribe(&subscribe(&address())).unwrap();
        let push = next(&mut session, &snapshot);
        assert_eq!(
            told(&push),
            ["+Service default/orders", "+Endpoints default/orders", "+Address 240.64.0.1"]
        );
        assert!(!session.in_sync());
        ack(&mut session, &push);
        assert!(session.in_sync());
        assert!(session.push(&snapshot, Instant::now()).is_none());
    }

    #[test]
    fn an_unknown_name_is_denied_once_and_told_when_it_appears() {
        let (snapshot, _) = Snapshot::default().next(1, basics());
        let mut session = settled(&snapshot);
        session.subscribe(&subscribe(&service())).unwrap();
        let push = next(&mut session, &snapshot);
        assert_eq!(told(&push), ["-Service default/orders", "-Endpoints default/orders"]);
        session.subscribe(&subscribe(&service())).unwrap();
        assert!(session.push(&snapshot, Instant::now()).is_none());
        let snapshot = change(&mut session, &snapshot, world(&[]));
        let push = next(&mut session, &snapshot);
        assert_eq!(told(&push), ["+Service default/orders", "+Endpoints default/orders"]);
    }

    #[test]
    fn anothers_workload_is_not_told() {
        let (snapshot, _) = Snapshot::default().next(1, world(&[]));
        let mut session = settled(&snapshot);
        session.subscribe(&subscribe(&ResourceName::Workload(q("default/other")))).unwrap();
        assert_eq!(told(&next(&mut session, &snapshot)), ["-Workload default/other"]);
    }

    #[test]
    fn endpoint_changes_go_as_deltas_and_whole_where_the_delta_was_refused() {
        let many = ["default/a", "default/b", "default/c"];
        let (snapshot, _) = Snapshot::default().next(1, world(&many));
        let mut session = settled(&snapshot);
        session.subscribe(&subscribe(&service())).unwrap();
        let push = next(&mut session, &snapshot);
        ack(&mut session, &push);
        let snapshot = change(&mut session, &snapshot, world(many.get(..2).unwrap()));
        let push = next(&mut session, &snapshot);
        assert_eq!(told(&push), ["~Endpoints default/orders"]);
        assert_eq!(push.endpoint_deltas[0].removed, ["default/c"]);
        let name = Some((&endpoints()).into());
        let rejected = vec![v1::Rejection { name, reason: "unknown base".into() }];
        session.ack(&v1::Ack { epoch: push.epoch, rejected }, Instant::now()).unwrap();
        assert_eq!(told(&next(&mut session, &snapshot)), ["+Endpoints default/orders"]);
    }

    #[test]
    fn a_refused_resource_is_shown_and_not_repeated_until_it_changes() {
        let (snapshot, _) = Snapshot::default().next(1, world(&["default/a"]));
        let mut session = settled(&snapshot);
        session.subscribe(&subscribe(&service())).unwrap();
        let push = next(&mut session, &snapshot);
        let rejected = vec![v1::Rejection { name: Some((&endpoints()).into()), reason: "no".into() }];
        session.ack(&v1::Ack { epoch: push.epoch, rejected }, Instant::now()).unwrap();
        assert_eq!(session.rejected().get(&endpoints()).map(String::as_str), Some("no"));
        assert!(!session.in_sync());
        assert!(session.push(&snapshot, Instant::now()).is_none());
        let snapshot = change(&mut session, &snapshot, world(&["default/b"]));
        let push = next(&mut session, &snapshot);
        assert_eq!(told(&push), ["+Endpoints default/orders"]);
        ack(&mut session, &push);
        assert!(session.in_sync());
    }

    #[test]
    fn what_is_held_is_not_sent_again() {
        let (snapshot, _) = Snapshot::default().next(4, world(&["default/a"]));
        let mut session = settled(&snapshot);
        session.subscribe(&subscribe(&address())).unwrap();
        let push = next(&mut session, &snapshot);
        ack(&mut session, &push);
        let held: Vec<_> = session
            .subscriptions
            .iter()
            .map(|(name, told)| v1::Held { name: Some(name.into()), hash: told.hash.unwrap() })
            .collect();
        let mut again = Session::new(own(), &held).unwrap();
        let push = next(&mut again, &snapshot);
        assert_eq!(told(&push), Vec::<String>::new());
        assert_eq!((push.epoch, push.revision), (1, 4));
        ack(&mut again, &push);
        assert!(again.in_sync());
        let snapshot = change(&mut again, &snapshot, world(&["default/b"]));
        assert_eq!(told(&next(&mut again, &snapshot)).len(), 1);
    }

    #[test]
    fn a_slow_sidecar_gets_only_the_latest() {
        let (mut snapshot, _) = Snapshot::default().next(1, world(&[]));
        let mut session = settled(&snapshot);
        session.subscribe(&subscribe(&service())).unwrap();
        let mut sent = 0;
        for round in 0..20 {
            let name = format!("default/w{round}");
            snapshot = change(&mut session, &snapshot, world(&[&name]));
            sent += usize::from(session.push(&snapshot, Instant::now()).is_some());
        }
        assert_eq!(sent, WINDOW);
        assert_eq!(session.pending.len(), 1);
        let oldest = session.waiting.front().unwrap().epoch;
        session.ack(&v1::Ack { epoch: oldest, rejected: Vec::new() }, Instant::now()).unwrap();
        assert_eq!(session.push(&snapshot, Instant::now()).unwrap().revision, snapshot.revision);
    }

    #[test]
    fn acks_out_of_order_are_refused() {
        let (snapshot, _) = Snapshot::default().next(1, world(&[]));
        let mut session = settled(&snapshot);
        let ack = v1::Ack { epoch: 9, rejected: Vec::new() };
        assert!(matches!(session.ack(&ack, Instant::now()), Err(ProtocolError::Epoch(9))));
    }
}
