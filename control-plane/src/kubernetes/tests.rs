//! The client against the double of the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const PODS: Collection = Collection { group: "", versions: &["v1"], plural: "pods" };
const ROUTES: Collection =
    Collection { group: "gateway.networking.k8s.io", versions: &["v1", "v1alpha2"], plural: "tcproutes" };
const POD_PATH: &str = "/api/v1/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

impl Double {
    pub(crate) fn client(&self) -> Arc<Client> {
        Arc::new(Client::new(Access::find(Some(&self.kubeconfig())).unwrap()))
    }
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name}, "spec": {}})
}

/// What a watch told of, folded as its listener would.
struct Told {
    receiver: mpsc::Receiver<(Collection, Event)>,
    there: BTreeMap<String, Value>,
    unseen: BTreeMap<String, Value>,
    lists: usize,
}

impl Told {
    fn of(double: &Double, collection: Collection) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        weft_runtime::task::spawn("watch", Watch::new(double.client(), collection, sender).run());
        Self { receiver, there: BTreeMap::new(), unseen: BTreeMap::new(), lists: 0 }
    }

    /// Waits until exactly these are there.
    async fn until(&mut self, names: &[&str]) {
        self.when(|told| told.lists > 0 && told.there.keys().eq(names.iter().copied())).await;
    }

    async fn when(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            let next = timeout(Duration::from_secs(30), self.receiver.recv()).await;
            let (_, event) =
                next.unwrap_or_else(|_| panic!("in vain; there are {:?}", self.there.keys())).unwrap();
            match event {
                Event::Listing => self.unseen = self.there.clone(),
                Event::Is(_, object) => {
                    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                    self.unseen.remove(&name);
                    self.there.insert(name, object);
                }
                Event::Gone(object) => drop(self.there.remove(object["metadata"]["name"].as_str().unwrap())),
                Event::Absent => {
                    self.there.clear();
                    self.lists += 1;
                }
                Event::Listed => {
                    for name in std::mem::take(&mut self.unseen).into_keys() {
                        self.there.remove(&name);
                    }
                    self.lists += 1;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_collection_is_listed_in_pages_and_followed() {
    let double = Double::start(&[POD_PATH]).await;
    double.shorten_pages(2);
    for name in ["a", "b", "c", "d", "e"] {
        double.put(POD_PATH, pod(name));
    }
    let mut told = Told::of(&double, PODS);
    told.until(&["a", "b", "c", "d", "e"]).await;
    let pages = double.requests().iter().filter(|request| request.contains("limit=")).count();
    assert_eq!(pages, 3);
    double.delete(POD_PATH, "shop", "b");
    double.put(POD_PATH, pod("f"));
    told.until(&["a", "c", "d", "e", "f"]).await;
    let mut changed = pod("a");
    changed["spec"] = json!({"nodeName": "n1"});
    double.put(POD_PATH, changed);
    told.when(|told| told.there["a"]["spec"]["nodeName"] == "n1").await;
    assert_eq!(told.lists, 1);
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_where_it_was_and_a_server_that_is_away_is_awaited() {
    let double = Double::start(&[POD_PATH]).await;
    double.put(POD_PATH, pod("a"));
    let mut told = Told::of(&double, PODS);
    told.until(&["a"]).await;
    double.go_away(true);
    double.delete(POD_PATH, "shop", "a");
    double.put(POD_PATH, pod("b"));
    // Nothing is told while it is away, so that nothing is forgotten.
    assert!(timeout(Duration::from_millis(600), told.receiver.recv()).await.is_err());
    double.go_away(false);
    told.until(&["b"]).await;
    assert_eq!(told.lists, 1, "it went on where it was");
}

#[tokio::test]
async fn what_has_expired_is_listed_anew_and_a_bookmark_saves_from_it() {
    let double = Double::start(&[POD_PATH, LEASES]).await;
    double.put(POD_PATH, pod("a"));
    let mut told = Told::of(&double, PODS);
    told.until(&["a"]).await;
    // The pods' own place falls behind while other things happen.
    for name in ["x", "y"] {
        double.put(LEASES, json!({"metadata": {"namespace": "weft", "name": name}}));
    }
    double.bookmark();
    double.put(POD_PATH, pod("b"));
    told.until(&["a", "b"]).await;
    double.compact();
    double.go_away(false);
    double.put(POD_PATH, pod("c"));
    told.until(&["a", "b", "c"]).await;
    assert_eq!(told.lists, 1, "the place was known still");
    double.go_away(true);
    double.delete(POD_PATH, "shop", "a");
    double.put(POD_PATH, pod("d"));
    double.compact();
    double.go_away(false);
    told.until(&["b", "c", "d"]).await;
    assert_eq!(told.lists, 2, "what was missed is found by a list");
}

#[tokio::test]
async fn an_older_version_of_a_kind_is_read_where_the_cluster_has_no_newer_one() {
    let double = Double::start(&["/apis/gateway.networking.k8s.io/v1alpha2/tcproutes"]).await;
    double.put("/apis/gateway.networking.k8s.io/v1alpha2/tcproutes", pod("db"));
    Told::of(&double, ROUTES).until(&["db"]).await;
    let without = Double::start(&[POD_PATH]).await;
    Told::of(&without, ROUTES).until(&[]).await;
}

#[tokio::test]
async fn objects_are_made_applied_merged_and_replaced_only_as_they_were_read() {
    let double = Double::start(&["/api/v1/configmaps"]).await;
    let client = double.client();
    let path = "/api/v1/namespaces/shop/configmaps/weft-ca";
    assert_eq!(client.get(path).await.unwrap_err().status().unwrap(), 404);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "weft-ca"}, "data": {"ca.pem": "one"}});
    client.apply(path, &map).await.unwrap();
    client.merge(path, &json!({"data": {"more": "two"}})).await.unwrap();
    let read = client.get(path).await.unwrap();
    assert_eq!(read["data"], json!({"ca.pem": "one", "more": "two"}));
    client.replace(path, &read).await.unwrap();
    assert_eq!(client.replace(path, &read).await.unwrap_err().status().unwrap(), 409);
    let error = client.create("/api/v1/namespaces/shop/configmaps", &map).await.unwrap_err();
    assert_eq!(error.to_string(), "the API server answers 409 Conflict: already exists");
}

#[tokio::test]
async fn one_of_two_leads_and_the_other_when_it_is_gone() {
    let double = Double::start(&[LEASES]).await;
    let lease = |holder: &str| {
        Arc::new(Lease::new(double.client(), "weft-leader", holder.into(), Duration::from_secs(1)))
    };
    let (first, second) = (lease("one"), lease("two"));
    let (mut first_leads, mut second_leads) = (first.leads(), second.leads());
    let running = weft_runtime::task::spawn("lease", first.run());
    let patience = Duration::from_secs(60);
    timeout(patience, first_leads.wait_for(|leads| *leads)).await.unwrap().unwrap();
    weft_runtime::task::spawn("lease", second.run());
    running.abort();
    timeout(patience, second_leads.wait_for(|leads| *leads)).await.unwrap().unwrap();
    let object = double.object(LEASES, "weft", "weft-leader").unwrap();
    assert_eq!(object["spec"]["holderIdentity"], "two");
    assert_ne!(object["spec"]["leaseTransitions"], 0);
}

#[test]
fn a_kubeconfig_that_cannot_be_followed_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let check = |server: &str, more: &str, user: &str, expected: &str| {
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: {server:?}{more}}}}}]\nusers: [{{name: u, user: {user}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        let found = Access::find(Some(&path));
        match expected {
            "" => drop(found.unwrap()),
            _ => assert!(found.as_ref().unwrap_err().to_string().contains(expected), "{found:?}"),
        }
    };
    check("http://127.0.0.1:8001", "", "{}", "");
    check("https://127.0.0.1:6443", "", "{}", "the cluster has no certificate-authority");
    check("https://h:6443", ", insecure-skip-tls-verify: true", "{}", "not proved is not called");
    check(
        "https://h:6443",
        ", certificate-authority-data: '*'",
        "{}",
        "certificate-authority is no PEM in base64",
    );
    check("http://h", "", "{exec: {command: aws}}", "proved by a program");
    std::fs::write(&path, "current-context: nowhere\n").unwrap();
    assert!(Access::find(Some(&path)).unwrap_err().to_string().contains("there is no context"));
}
