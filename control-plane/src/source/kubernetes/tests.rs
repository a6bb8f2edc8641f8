//! A cluster, as the double tells of it, and what the world makes of it.

mod history;
mod leads;

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{interval, sleep, timeout};
use weft_core::compile;
use weft_core::install::Settings;
use weft_core::model::{Endpoint, Protocol, Service};
use weft_core::world::{Defaults, Offer, OfferedPort, Registration, World as Known};

use super::*;
use crate::ca::Ca;
use crate::configuration::{Configuration, Home};
use crate::kubernetes::{Double, Lease};
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::store::{Revision, Store};

const PODS: &str = "/api/v1/pods";
const SERVICES: &str = "/api/v1/services";
const NAMESPACES: &str = "/api/v1/namespaces";
const CONFIG_MAPS: &str = "/api/v1/configmaps";
const SECRETS: &str = "/api/v1/secrets";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const POLICIES: &str = "/apis/weft.mesh/v1alpha1/trafficpolicies";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const KINDS: [&str; 10] =
    [PODS, SERVICES, SECRETS, NAMESPACES, CONFIG_MAPS, SLICES, ROUTES, POLICIES, LEASES, WEBHOOKS];

struct Fixture {
    double: Double,
    world: Arc<World>,
    cluster: Arc<Cluster>,
    configuration: Arc<Configuration>,
    ca: Arc<Ca>,
    _dir: TempDir,
}

impl Fixture {
    async fn start() -> Self {
        Self::over(&KINDS).await
    }

    async fn over(kinds: &[&str]) -> Self {
        let double = Double::start(kinds).await;
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let domain = "mesh.local".parse().unwrap();
        let defaults = Defaults { trust_domain: "mesh.local".parse().unwrap(), service_cidrs: Vec::new() };
        let hub = Arc::new(Hub::default());
        let world =
            World::open(defaults, store.clone(), Leadership::alone(), hub, Metrics::new()).await.unwrap();
        task::spawn("world", world.clone().run());
        let hour = Duration::from_secs(3600);
        let ca = Ca::open(store.clone(), &domain, None, hour, SystemTime::now()).await.unwrap();
        let cluster = Arc::new(Cluster::new(double.client(), world.clone()));
        let configuration = Configuration::open(world.clone(), store).await.unwrap().at_home(cluster.home());
        Self { double, world, cluster, configuration: Arc::new(configuration), ca: Arc::new(ca), _dir: dir }
    }

    fn follow(&self) {
        task::spawn("cluster", self.cluster.clone().run());
    }

    /// Keeps the cluster in step, as one who leads.
    fn keep(&self) {
        let lease =
            Arc::new(Lease::new(self.double.client(), "weft-leader", "me".into(), Duration::from_secs(4)));
        task::spawn("lease", lease.clone().run());
        let (client, world, cluster, ca) =
            (self.double.client(), self.world.clone(), self.cluster.clone(), self.ca.clone());
        task::spawn(
            "keep",
            Arc::new(Keep { client, world, cluster, ca, lease, admin: "secret".to_owned().into() }).run(),
        );
    }

    /// Writes down what becomes of configuration, where it leads.
    fn observe(&self, leads: Leadership) {
        let (cluster, configuration) = (self.cluster.clone(), self.configuration.clone());
        task::spawn("observe", Arc::new(Observe { cluster, configuration, leads }).run());
    }

    /// Waits for as many revisions; the newest.
    async fn revision(&self, number: u64) -> Revision {
        let asking = async {
            let mut again = interval(Duration::from_millis(20));
            loop {
                let newest = self.configuration.history(None).await.unwrap().into_iter().next();
                if let Some(newest) = newest.filter(|newest| newest.number >= number) {
                    return newest;
                }
                again.tick().await;
            }
        };
        timeout(Duration::from_secs(30), asking).await.unwrap_or_else(|_| panic!("no revision {number}"))
    }

    async fn synced(&self) {
        let mut synced = self.cluster.synced();
        timeout(Duration::from_secs(30), synced.wait_for(|synced| *synced)).await.unwrap().unwrap();
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&Known) -> Option<T>) -> T {
        eventually(what, || self.world.read(|known| look(known))).await
    }

    async fn endpoints(&self, service: &str, is_so: impl Fn(&[Endpoint]) -> bool) -> Vec<Endpoint> {
        let name = service.parse().unwrap();
        self.until(service, |known| compile::endpoints(known, &name).filter(|all| is_so(all))).await
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let asking = async {
        let mut again = interval(Duration::from_millis(10));
        loop {
            if let Some(found) = look() {
                return found;
            }
            again.tick().await;
        }
    };
    timeout(Duration::from_secs(30), asking).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn pod(name: &str, address: &str, has_sidecar: bool) -> Value {
    let mut containers = vec![json!({"name": "app", "ports": [{"name": "web", "containerPort": 8080}]})];
    let mut annotations = json!({});
    if has_sidecar {
        containers.push(json!({"name": "weft-proxy"}));
        annotations = json!({"weft.mesh/injected": "{}"});
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": "orders"}, "annotations": annotations},
        "spec": {"serviceAccountName": "orders", "nodeName": "n1", "containers": containers},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn slice(name: &str, of: &str, endpoints: &[(&str, &str, bool)]) -> Value {
    let endpoint = |(pod, address, ready): &(&str, &str, bool)| json!({"addresses": [address], "conditions": {"ready": ready}, "zone": "a", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": pod}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": of}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn orders() -> Value {
    service(
        "orders",
        json!({
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"], "type": "ClusterIP",
            "selector": {"app": "orders"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "appProtocol": "kubernetes.io/h2c"}],
        }),
    )
}

#[tokio::test]
async fn services_are_those_of_the_cluster_and_their_endpoints_are_proved_where_they_have_sidecars() {
    let fixture = Fixture::start().await;
    let double = &fixture.double;
    double.put(SERVICES, orders());
    double.put(SERVICES, service("elsewhere", json!({"type": "ExternalName", "externalName": "db.example"})));
    double.put(SERVICES, service("peers", json!({"clusterIP": "None", "selector": {"app": "orders"}})));
    double.put(PODS, pod("orders-1", "10.1.0.1", true));
    double.put(PODS, pod("orders-2", "10.1.0.2", false));
    double.put(
        SLICES,
        slice("orders-x", "orders", &[("orders-1", "10.1.0.1", true), ("orders-2", "10.1.0.2", true)]),
    );
    fixture.follow();
    fixture.synced().await;
    let all = fixture.endpoints("shop/orders", |all| all.len() == 2).await;
    let known: Vec<_> = all
        .iter()
        .map(|it| (it.workload.to_string(), it.identity.as_ref().map(ToString::to_string), it.inbound_port))
        .collect();
    let identity = "spiffe://mesh.local/ns/shop/sa/orders".to_owned();
    assert_eq!(
        known,
        [("shop/orders-1".into(), Some(identity), Some(4143)), ("shop/orders-2".into(), None, None)]
    );
    assert_eq!((all[0].target_port(80), all[0].zone.as_str(), all[0].node.as_ref()), (Some(8080), "a", "n1"));
    let Service { addresses, ports, .. } =
        fixture.world.read(|known| compile::service(known, &"shop/orders".parse().unwrap())).unwrap();
    assert_eq!(addresses.len(), 2);
    assert_eq!((ports[0].port, ports[0].protocol), (80, Protocol::Http2));
    let has = |name: &str| fixture.world.read(|known| known.has_service(&name.parse().unwrap()));
    assert!(!has("shop/elsewhere"), "the cluster's DNS leads there");
    assert!(has("shop/peers"));

    // A pod that is not ready is not called, one that is not known yet neither.
    double.put(
        SLICES,
        slice("orders-y", "orders", &[("orders-3", "10.1.0.3", true), ("orders-4", "10.1.0.4", false)]),
    );
    double.put(PODS, pod("orders-4", "10.1.0.4", true));
    double.put(SLICES, slice("orders-x", "orders", &[("orders-1", "10.1.0.1", true)]));
    let all = fixture.endpoints("shop/orders", |all| all.len() == 1).await;
    assert_eq!(all[0].workload.to_string(), "shop/orders-1");
    double.put(PODS, pod("orders-3", "10.1.0.3", true));
    fixture.endpoints("shop/orders", |all| all.len() == 2).await;
    // Who is told to end is called no more, whatever its slice still says, unless nobody else is there.
    let mut leaving = pod("orders-1", "10.1.0.1", true);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-26T10:00:00Z");
    double.put(PODS, leaving);
    let all = fixture.endpoints("shop/orders", |all| all.len() == 1).await;
    assert_eq!(all[0].workload.to_string(), "shop/orders-3");
    double.put(SLICES, slice("orders-y", "orders", &[]));
    let is_left = |all: &[Endpoint]| all.len() == 1 && all[0].workload.to_string() == "shop/orders-1";
    fixture.endpoints("shop/orders", is_left).await;
    double.delete(SERVICES, "shop", "orders");
    fixture
        .until("it is gone", |known| (!known.has_service(&"shop/orders".parse().unwrap())).then_some(()))
        .await;
}

/// A machine outside the cluster, which offers `orders` by its token.
fn machine() -> Change {
    let offer = Offer {
        service: "shop/orders".parse().unwrap(),
        port: Some(OfferedPort { port: 80, target_port: 9090, protocol: Protocol::Http }),
    };
    Change::Registered(Registration {
        name: "shop/vm".parse().unwrap(),
        service_account: "orders".parse().unwrap(),
        identity: "spiffe://mesh.local/ns/shop/sa/orders".parse().unwrap(),
        addresses: vec!["192.0.2.9".parse().unwrap()],
        inbound_port: 4143,
        offers: vec![offer],
        labels: BTreeMap::new(),
        zone: String::new(),
        ready: true,
        unhealthy: BTreeSet::new(),
    })
}

#[tokio::test]
async fn machines_and_pods_are_behind_one_service_together_or_one_in_place_of_the_other() {
    let fixture = Fixture::start().await;
    let double = &fixture.double;
    let ready = |is_ready| slice("orders-x", "orders", &[("orders-1", "10.1.0.1", is_ready)]);
    double.put(SERVICES, orders());
    double.put(PODS, pod("orders-1", "10.1.0.1", true));
    double.put(SLICES, ready(true));
    fixture.follow();
    fixture.world.apply(machine());
    let called = async |wanted: &[&str]| {
        let is_so = |all: &[Endpoint]| {
            all.iter().map(|endpoint| endpoint.workload.to_string()).collect::<Vec<_>>() == wanted
        };
        fixture.endpoints("shop/orders", is_so).await
    };
    let both = called(&["shop/orders-1", "shop/vm"]).await;
    assert_eq!((both[0].target_port(80), both[1].target_port(80)), (Some(8080), Some(9090)));
    let mut in_order = orders();
    in_order["metadata"]["annotations"] = json!({"weft.mesh/sources": "kubernetes, registry"});
    double.put(SERVICES, in_order);
    called(&["shop/orders-1"]).await;
    double.put(SLICES, ready(false));
    called(&["shop/vm"]).await;
    double.put(SLICES, ready(true));
    called(&["shop/orders-1"]).await;
}

#[tokio::test]
async fn while_the_api_server_is_away_nothing_is_forgotten_and_afterwards_nothing_missed() {
    let fixture = Fixture::start().await;
    let double = &fixture.double;
    double.put(SERVICES, orders());
    double.put(PODS, pod("orders-1", "10.1.0.1", true));
    double.put(SLICES, slice("orders-x", "orders", &[("orders-1", "10.1.0.1", true)]));
    fixture.follow();
    fixture.endpoints("shop/orders", |all| all.len() == 1).await;
    fixture.synced().await;
    double.go_away(true);
    double.delete(PODS, "shop", "orders-1");
    double.put(PODS, pod("orders-2", "10.1.0.2", true));
    double.put(SLICES, slice("orders-x", "orders", &[("orders-2", "10.1.0.2", true)]));
    double.compact();
    let all = fixture.endpoints("shop/orders", |_| true).await;
    assert_eq!(all[0].workload.to_string(), "shop/orders-1");
    double.go_away(false);
    let is_new = |all: &[Endpoint]| all.len() == 1 && all[0].workload.to_string() == "shop/orders-2";
    fixture.endpoints("shop/orders", is_new).await;
    fixture
        .until("the old pod is gone", |known| {
            known.pod(&"shop/orders-1".parse().unwrap()).is_none().then_some(())
        })
        .await;
}

/// On a clock that runs as fast as everybody waits: every pause, patience and look of ten minutes comes to pass.
#[tokio::test]
async fn ten_minutes_without_the_api_server_forget_nothing() {
    let fixture = Fixture::start().await;
    let double = &fixture.double;
    double.put(SERVICES, orders());
    double.put(PODS, pod("orders-1", "10.1.0.1", true));
    double.put(SLICES, slice("orders-x", "orders", &[("orders-1", "10.1.0.1", true)]));
    double.put(POLICIES, written("3s", "kubectl", "2026-11-26T10:00:00Z"));
    fixture.follow();
    fixture.keep();
    fixture.observe(Leadership::alone());
    fixture.world.apply(machine());
    let both = |all: &[Endpoint]| all.len() == 2;
    fixture.endpoints("shop/orders", both).await;
    fixture.synced().await;
    fixture.revision(1).await;
    let known = || {
        fixture.world.read(|known| {
            let service = "shop/orders".parse().unwrap();
            let told = (compile::endpoints(known, &service), compile::service(known, &service));
            (told, known.traffic(&service).timeouts.request, known.source(SOURCE).count())
        })
    };
    let before = known();

    double.go_away(true);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    sleep(Duration::from_mins(10)).await;
    assert!(begun.elapsed() >= Duration::from_mins(10));
    // Each kind was asked for every 13 seconds at least, and the lease every second.
    assert!(double.calls_in_vain() > 300, "{}", double.calls_in_vain());
    assert_eq!(known(), before);
    assert!(*fixture.cluster.synced().borrow() && fixture.configuration.home() == Home::Kubernetes);
    assert_eq!(fixture.configuration.history(None).await.unwrap().len(), 1);
    tokio::time::resume();

    double.put(PODS, pod("orders-2", "10.1.0.2", true));
    double.put(SLICES, slice("orders-x", "orders", &[("orders-2", "10.1.0.2", true)]));
    double.put(POLICIES, written("4s", "kubectl", "2026-11-26T10:10:00Z"));
    double.compact();
    double.go_away(false);
    let is_new = |all: &[Endpoint]| {
        all.iter().map(|it| it.workload.to_string()).collect::<Vec<_>>() == ["shop/orders-2", "shop/vm"]
    };
    fixture.endpoints("shop/orders", is_new).await;
    assert_eq!(fixture.revision(2).await.number, 2);
}

#[tokio::test]
async fn what_is_wrong_leaves_what_was_good_in_force_and_the_leader_says_so_in_its_status() {
    let fixture = Fixture::start().await;
    let double = &fixture.double;
    let policy = |request: &str| {
        json!({
            "apiVersion": "weft.mesh/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {"targetRef": {"kind": "Service", "name": "orders"}, "timeouts": {"request": request}},
        })
    };
    let theirs =
        json!({"controllerName": "example.com/gateway", "parentRef": {"name": "gw"}, "conditions": []});
    let route = |request: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": "shop", "name": "orders"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "orders"}, {"name": "gw"}],
                "rules": [{"timeouts": {"request": request}, "backendRefs": [{"name": "orders", "port": 80}]}]},
            "status": {"parents": [theirs]},
        })
    };
    double.put(SERVICES, orders());
    double.put(ROUTES, route("3s"));
    double.put(POLICIES, policy("3s"));
    fixture.follow();
    fixture.keep();
    let status = |collection: &'static str, pointer: &'static str, expected: &'static str| {
        eventually(pointer, move || {
            let object = double.object(collection, "shop", "orders")?;
            (object.pointer(pointer)?.as_str()? == expected).then_some(object)
        })
    };
    status(POLICIES, "/status/conditions/0/status", "True").await;
    let good = status(ROUTES, "/status/parents/1/conditions/0/status", "True").await;
    assert_eq!(good["status"]["parents"][0], theirs);
    assert_eq!(good["status"]["parents"][1]["controllerName"], "weft.mesh/controller");
    double.put(ROUTES, route("soon"));
    let wrong = status(ROUTES, "/status/parents/1/conditions/0/status", "False").await;
    let (before, ours) = (&good["status"]["parents"][1], &wrong["status"]["parents"]);
    assert_eq!((ours.as_array().unwrap().len(), &ours[1]["parentRef"]), (2, &before["parentRef"]));
    let message = ours[1]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("timeouts.request"), "{message}");
    double.put(POLICIES, policy("soon"));
    let wrong = status(POLICIES, "/status/conditions/0/status", "False").await;
    let message = wrong["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("spec.timeouts.request"), "{message}");
    let orders = "shop/orders".parse().unwrap();
    let timeout = fixture.world.read(|known| known.traffic(&orders).timeouts.request);
    assert_eq!(timeout, Some(Duration::from_secs(3)));
    double.put(POLICIES, policy("4s"));
    status(POLICIES, "/status/conditions/0/status", "True").await;
    rights::check(&double.requests(), &Settings::default());
}

/// A policy as somebody wrote it.
fn written(request: &str, manager: &str, time: &str) -> Value {
    json!({
        "apiVersion": "weft.mesh/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"namespace": "shop", "name": "orders", "managedFields": [
            {"manager": manager, "operation": "Update", "time": time},
            {"manager": "weft", "operation": "Apply", "time": "2026-11-26T23:00:00Z", "subresource": "status"},
        ]},
        "spec": {"targetRef": {"kind": "Service", "name": "orders"}, "timeouts": {"request": request}},
    })
}

#[tokio::test]
async fn the_leader_puts_the_anchors_where_pods_look_and_tells_whom_the_webhook_is_proved_by() {
    let fixture = Fixture::start().await;
    let double = &fixture.double;
    let namespace = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    double.put(NAMESPACES, namespace("shop", json!({})));
    double.put(NAMESPACES, namespace("pay", json!({"weft.mesh/inject": "enabled"})));
    double.put(NAMESPACES, namespace("other", json!({})));
    double.put(PODS, pod("orders-1", "10.1.0.1", true));
    double.put(
        WEBHOOKS,
        json!({"metadata": {"name": "weft-injector"}, "webhooks": [{"name": "a", "clientConfig": {}}, {"name": "b", "clientConfig": {}}]}),
    );
    fixture.follow();
    fixture.keep();
    let anchors = fixture.ca.anchors_pem();
    for namespace in ["pay", "shop"] {
        let map = eventually(namespace, || double.object(CONFIG_MAPS, namespace, "weft-ca")).await;
        assert_eq!(map["data"]["ca.pem"], anchors.as_str());
    }
    let webhooks = eventually("the bundle", || {
        let object = double.object(WEBHOOKS, "", "weft-injector")?;
        object["webhooks"][1]["clientConfig"]["caBundle"].as_str()?;
        Some(object)
    });
    let webhooks = webhooks.await;
    assert_eq!(webhooks["webhooks"][0]["clientConfig"], webhooks["webhooks"][1]["clientConfig"]);
    assert_eq!(double.object(CONFIG_MAPS, "other", "weft-ca"), None);
    let admin = eventually("the token", || double.object(SECRETS, "weft", "weft-admin")).await;
    assert_eq!(admin["data"]["token"], "c2VjcmV0");
    rights::check(&double.requests(), &Settings::default());
}
