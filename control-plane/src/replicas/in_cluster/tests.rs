//! Two that share a store in the cluster, over the double of the API server, whose signs of life come quickly.

use tempfile::TempDir;
use tokio::task::JoinHandle;
use weft_core::world::Defaults;

use super::*;
use crate::ca::{Ca, Claimant, Keeper};
use crate::configuration::Configuration;
use crate::keys::Keys;
use crate::kubernetes::{Double, LASTS};
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::source::registry::{self, Registry};
use crate::status::Live;
use crate::store::samples::registration;
use crate::store::{Custody, Grant, Store};
use crate::world::World;

const SECRETS_PATH: &str = "/api/v1/secrets";
const LEASES_PATH: &str = "/apis/coordination.k8s.io/v1/leases";
const QUICK: Duration = Duration::from_millis(300);
/// So many calls in vain take far longer than it takes to be lost: each of the two tries to give a sign once in `QUICK`, and what else
/// calls does so more rarely.
const IN_VAIN: u64 = 40;

struct Member {
    here: Arc<InCluster>,
    followers: Arc<Followers>,
    tasks: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

impl Member {
    async fn join(double: &Double, id: &str) -> Self {
        let lease = Arc::new(Lease::new(double.client(), "weft-leader", id.into(), LASTS));
        let here = InCluster::join_beating(double.client(), lease, id.into(), QUICK);
        let folder = TempDir::new().unwrap();
        let followers = Arc::new(followers(double, &here, &folder).await);
        let tasks = vec![
            task::spawn("follow", here.clone().follow(followers.clone())),
            task::spawn("attend", here.clone().attend(followers.clone())),
            task::spawn("lead", here.clone().lead()),
            task::spawn("registry", followers.registry.clone().run()),
        ];
        Self { here, followers, tasks, _folder: folder }
    }

    fn sees(&self, id: &str) -> bool {
        self.here.lock().present.contains_key(id)
    }

    /// Whether a workload is known here, and not thought lost.
    fn knows(&self, workload: &str) -> bool {
        self.followers.registry.list().iter().any(|it| it.registration.workload == workload && it.connected)
    }

    fn register(&self, workload: &str) -> registry::Lease {
        let registration = Registration {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ready: true,
            ..registration(workload)
        };
        let name = format!("default/{workload}").parse().unwrap();
        self.followers.registry.announce(name, registration).unwrap()
    }

    fn die(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Two of them, each with a sidecar that the other one has heard of.
struct Both {
    one: Member,
    two: Member,
    _sidecars: [registry::Lease; 2],
}

impl Both {
    async fn join(double: &Double) -> Self {
        let (one, two) = (Member::join(double, "one").await, Member::join(double, "two").await);
        let both = Self { _sidecars: [one.register("orders"), two.register("web")], one, two };
        eventually("both know all", || both.know_all()).await;
        both
    }

    fn know_all(&self) -> bool {
        let Self { one, two, .. } = self;
        let is_known = |at: &Member| at.knows("orders") && at.knows("web");
        one.sees("two") && two.sees("one") && is_known(one) && is_known(two)
    }
}

async fn followers(double: &Double, here: &InCluster, folder: &TempDir) -> Followers {
    let store = Store::open_in_cluster(double.client(), &Custody::Clear).await.unwrap();
    let domain: weft_core::model::TrustDomain = "mesh.local".parse().unwrap();
    let (hub, metrics, leads) = (Arc::new(Hub::default()), Metrics::new(), here.leadership());
    let hour = Duration::from_secs(3600);
    let ca = Arc::new(Ca::open(store.clone(), &domain, None, hour, SystemTime::now()).await.unwrap());
    let defaults = Defaults { trust_domain: domain, service_cidrs: Vec::new() };
    let world =
        World::open(defaults, store.clone(), leads.clone(), hub.clone(), metrics.clone()).await.unwrap();
    let registry = Registry::open(store.clone(), world.clone(), here.id.clone()).await.unwrap();
    let keys = Keys::open(world.clone(), store.clone(), metrics).await.unwrap();
    let configuration = Arc::new(Configuration::open(world.clone(), store.clone()).await.unwrap());
    let keeper = Arc::new(Keeper {
        ca: ca.clone(),
        world: world.clone(),
        hub,
        live: Arc::new(Live::default()),
        leads,
        others: here.others.clone(),
        file: folder.path().join("ca.pem"),
    });
    let address = "127.0.0.1:7443".parse().unwrap();
    Followers { store, ca, world, registry, configuration, keys, keeper, address }
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let asking = async {
        let mut again = interval(Duration::from_millis(10));
        while !is_so() {
            again.tick().await;
        }
    };
    timeout(Duration::from_secs(60), asking).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// Waits until whoever leads has looked so often for leases of the lost.
async fn looked_for_the_lost(double: &Double, times: usize) {
    let mut looked = 0;
    let is_look = |request: &&String| request.contains("/leases?") && !request.contains("limit=");
    eventually("the lost are looked for", || {
        looked += double.requests().iter().filter(is_look).count();
        looked >= times
    })
    .await;
}

#[tokio::test]
async fn an_api_server_that_is_away_takes_nobody_along_and_who_dies_then_is_found_lost() {
    let double = Double::start(&[SECRETS_PATH, LEASES_PATH]).await;
    let both = Both::join(&double).await;
    let Both { one, two, .. } = &both;

    double.go_away(true);
    double.turned_away(IN_VAIN).await;
    assert!(both.know_all(), "nobody is lost because nobody can be heard");
    eventually("nobody leads", || !one.here.leadership().holds() && !two.here.leadership().holds()).await;
    // All is listed anew.
    double.compact();
    double.requests();
    double.go_away(false);
    // As often as it takes to be lost, and once more.
    looked_for_the_lost(&double, 6).await;
    assert!(both.know_all(), "nor for what was not heard meanwhile");
    let leases = ["one", "two"].map(|id| double.object(LEASES_PATH, "weft", id).is_some());
    assert_eq!(leases, [true, true]);

    // Who dies while it is away is missed by those who come back.
    double.go_away(true);
    let Both { one, two, _sidecars } = both;
    two.die();
    double.turned_away(IN_VAIN).await;
    assert!(one.sees("two") && one.knows("web"));
    double.go_away(false);
    eventually("the other is lost", || !one.sees("two")).await;
    eventually("its sidecars are waited for", || !one.knows("web")).await;
    eventually("its lease is cleared away", || double.object(LEASES_PATH, "weft", "two").is_none()).await;
    assert!(one.knows("orders"));
    one.die();
}

/// On a clock that runs as fast as everybody waits: beats, leases, looks and pauses of ten minutes come to pass.
#[tokio::test]
async fn ten_minutes_without_the_api_server_take_nobody_along() {
    let double = Double::start(&[SECRETS_PATH, LEASES_PATH]).await;
    let both = Both::join(&double).await;
    let Both { one, two, .. } = &both;
    let issue = async |at: &Member| {
        let key = weft_certs::KeyPair::generate().unwrap();
        let claimant = Claimant {
            identity: "spiffe://mesh.local/ns/default/sa/web".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            grant: Grant::default(),
            token: String::new(),
        };
        let request = weft_certs::request(&key).unwrap();
        at.followers.ca.issue(claimant, &"web".parse().unwrap(), &request, SystemTime::now()).await
    };
    let serial = issue(one).await.unwrap().serial;

    double.go_away(true);
    tokio::time::pause();
    let later = Duration::from_mins(10);
    tokio::time::sleep(later).await;
    let (leads, now) = (one.here.leadership(), SystemTime::now() + later);
    assert!(!leads.holds() && !two.here.leadership().holds(), "nobody leads");
    one.followers.ca.maintain(&leads, now, now).await.unwrap();
    assert!(both.know_all(), "nobody is lost");
    assert!(one.followers.ca.certificate(&serial).is_some(), "nor what was signed");
    // A renewal has to wait: a certificate that is not written down nobody could revoke.
    let refused = chain(&issue(two).await.unwrap_err());
    assert!(refused.contains("cannot keep a certificate"), "{refused}");
    tokio::time::resume();

    double.compact();
    double.requests();
    double.go_away(false);
    looked_for_the_lost(&double, 6).await;
    assert!(both.know_all(), "nor afterwards");
    issue(two).await.unwrap();
    let Both { one, two, _sidecars } = both;
    one.die();
    two.die();
}
