//! Several control planes whose store is in their cluster: nothing is theirs alone, and any may die.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tonic::Code;
use weft_certs::Credentials;
use weft_core::install::{Replicas, Settings};
use weft_proto::v1::{self, Kind};

use crate::double::Double;
use crate::mesh::{Mesh, eventually, eventually_within};
use crate::rights;
use crate::sidecar::{Sidecar, hello, offering, told};

/// For what waits for leases, on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(60);
const SECRETS: &str = "/api/v1/secrets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
const CONFIG_MAPS: &str = "/api/v1/configmaps";
const SERVICES: &str = "/api/v1/services";
const KINDS: [&str; 5] = [SECRETS, LEASES, CONFIG_MAPS, "/api/v1/namespaces", "/api/v1/pods"];

/// A control plane that can be killed: with everything it runs, at once.
struct Mortal {
    mesh: Mesh,
    runtime: Runtime,
}

impl Mortal {
    async fn join(double: &Double) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = double.kubeconfig();
        let starting = runtime.spawn(async move {
            let flags = ["--store", "kubernetes", "--kubeconfig", config.to_str().unwrap()];
            Box::pin(Mesh::start_in(Arc::new(TempDir::new().unwrap()), &flags)).await
        });
        Self { mesh: starting.await.unwrap(), runtime }
    }

    fn kill(self) {
        self.runtime.shutdown_background();
        // What it would say at its end it cannot say any more.
        drop(self.mesh);
    }
}

/// A stream at a control plane that may just have started: before it has read the cluster it tells nobody anything.
async fn stream(mesh: &Mesh, credentials: &Credentials, hello: v1::Hello) -> Sidecar {
    let mut stream = None;
    eventually("there is a stream", async || {
        stream = match Sidecar::sync(mesh.known(credentials).await, hello.clone()).await {
            Ok(stream) => Some(stream),
            Err(status) if status.code() == Code::Unavailable => None,
            Err(status) => panic!("{status}"),
        };
        stream.is_some()
    })
    .await;
    stream.unwrap()
}

/// Whether this one leads, as its metrics say.
async fn leads(mesh: &Mesh) -> bool {
    let mut stream = TcpStream::connect(mesh.handle.http).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.contains("\nweft_leader 1\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_is_killed_the_other_leads_and_everything_that_was_theirs_is_there() {
    let double = Double::start(&KINDS).await;
    let one = Mortal::join(&double).await;
    eventually_within(LONG, "the first leads", async || leads(&one.mesh).await).await;
    let two = Mortal::join(&double).await;
    assert_eq!(one.mesh.handle.ca_pem, two.mesh.handle.ca_pem);
    assert_eq!(one.mesh.handle.admin_token.reveal(), two.mesh.handle.admin_token.reveal());

    // A token of the one, a certificate of the other, and both believe it.
    let token = one.mesh.token("orders").await;
    let credentials = two.mesh.sign(&token, "orders-1").await.unwrap();
    let _orders = stream(&one.mesh, &credentials, offering("orders", 1)).await;
    let kept = one.mesh.join("web", "web").await;
    let web = stream(&two.mesh, &kept, hello("web")).await;
    eventually("each knows whose sidecar the other has", async || {
        let (at_one, at_two) =
            (one.mesh.admin().await.sidecar("web").await, two.mesh.admin().await.sidecar("orders-1").await);
        at_one.is_some_and(|sidecar| sidecar.connected) && at_two.is_some_and(|sidecar| sidecar.connected)
    })
    .await;

    // A certificate that a later one has replaced, as its holder says to the other, is not listed here either.
    let later = web.renew(&two.mesh, &kept, "web").await.serial().to_string();
    eventually("the one knows", async || one.mesh.serials("web").await == [later.clone()]).await;

    // Revoked at the one, not believed at the other.
    let identity = "spiffe://mesh.local/ns/default/sa/orders";
    let revoke =
        v1::RevokeIdentityRequest { what: identity.into(), reason: "lost".into(), ..Default::default() };
    one.mesh.admin().await.revoke_identity(revoke).await.unwrap();
    eventually("the other does not believe it", async || {
        Sidecar::sync(two.mesh.known(&credentials).await, offering("orders", 1)).await.is_err()
    })
    .await;

    let killed = Instant::now();
    one.kill();
    eventually_within(LONG, "the other leads", async || leads(&two.mesh).await).await;
    println!("another leads after {:?}", killed.elapsed());

    // What the first has done is done: a root, a token, a certificate.
    let late = two.mesh.sign(&two.mesh.token("late").await, "late").await.unwrap();
    let third = Mortal::join(&double).await;
    assert_eq!(third.mesh.handle.ca_pem, two.mesh.handle.ca_pem);
    drop(stream(&third.mesh, &late, hello("late")).await);
    drop(stream(&third.mesh, &kept, hello("web")).await);
    let again = third.mesh.sign(&token, "orders-2").await.unwrap_err();
    assert!(again.message().contains("revoked"), "{again}");
    // All that was asked of the API server is what `weft install --ha` lets them ask, and of what they share all of it was, but
    // for what one does that ends in order: it takes its own lease away.
    let mut settings = Settings::default();
    settings.replicate(Replicas::Three);
    let requests = double.requests();
    rights::check(&requests, &settings);
    let is_shared = |right: &String| right.ends_with(" leases") || right.ends_with(" secrets");
    let never: Vec<_> = rights::never_asked(&requests, &settings).into_iter().filter(is_shared).collect();
    assert_eq!(never, ["delete leases"]);
    third.kill();
    two.kill();
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": port}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_sidecars_keep_what_they_have_and_then_hear_of_what_changed_alone() {
    let double = Double::start(&[&KINDS[..], &[SERVICES]].concat()).await;
    double.put(SERVICES, service("db", 5432));
    double.put(SERVICES, service("cache", 6379));
    let (one, two) = (Mortal::join(&double).await, Mortal::join(&double).await);
    let (at_one, at_two) = (one.mesh.join("orders", "orders-1").await, two.mesh.join("web", "web").await);
    let (at_any, token) = (two.mesh.join("late", "late").await, one.mesh.token("new").await);
    let _orders = stream(&one.mesh, &at_one, offering("orders", 1)).await;
    let mut web = stream(&two.mesh, &at_two, hello("web")).await;
    web.take().await;
    for name in ["default/db", "default/cache"] {
        web.subscribe(Kind::Service, name).await;
        assert!(told(&web.take().await).contains(&format!("+SERVICE {name}")));
    }
    let all_is_known = async || {
        for mesh in [&one.mesh, &two.mesh] {
            let mut admin = mesh.admin().await;
            let known = admin.services(v1::ServicesRequest {}).await.unwrap().services.len();
            for sidecar in ["orders-1", "web"] {
                if known < 2 || !admin.sidecar(sidecar).await.is_some_and(|it| it.connected) {
                    return false;
                }
            }
        }
        true
    };
    let one_leads = async || leads(&one.mesh).await || leads(&two.mesh).await;
    eventually("both know all", all_is_known).await;
    eventually_within(LONG, "one leads", one_leads).await;

    double.go_away(true);
    double.put(SERVICES, service("db", 5433));
    double.compact();
    eventually_within(LONG, "nobody leads", async || !one_leads().await).await;
    assert!(all_is_known().await, "nothing is forgotten");
    // Who comes meanwhile with a certificate is told what there was; who has none yet has to wait.
    let mut late = stream(&one.mesh, &at_any, hello("late")).await;
    late.take().await;
    late.subscribe(Kind::Service, "default/db").await;
    assert!(told(&late.take().await).contains(&"+SERVICE default/db".to_owned()));
    let refused = two.mesh.sign(&token, "new").await.unwrap_err();
    assert!(refused.message().contains("the store in Kubernetes cannot"), "{refused}");

    double.go_away(false);
    let port = async || {
        let known = two.mesh.admin().await.services(v1::ServicesRequest {}).await.unwrap().services;
        known.into_iter().find(|service| service.name == "db").map(|service| service.ports)
    };
    eventually_within(LONG, "the list brings it", async || port().await.unwrap() == ["5433/detect"]).await;
    eventually_within(LONG, "one leads again", one_leads).await;
    two.mesh.sign(&token, "new").await.unwrap();
    // Whatever else there was to be told comes before this.
    web.subscribe(Kind::Service, "default/none").await;
    let mut heard = Vec::new();
    while !heard.contains(&"-SERVICE default/none".to_owned()) {
        heard.extend(told(&web.take().await));
    }
    assert!(heard.contains(&"+SERVICE default/db".to_owned()), "{heard:?}");
    assert!(!heard.iter().any(|line| line.contains("default/cache")), "what did not change: {heard:?}");
    assert!(all_is_known().await, "nobody is taken for lost");
    one.kill();
    two.kill();
}
