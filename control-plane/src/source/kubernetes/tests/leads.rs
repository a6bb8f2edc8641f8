//! Who writes into the cluster, and what it may.

use super::*;

fn path(collection: Collection) -> String {
    let version = collection.versions[0];
    match collection.group {
        "" => format!("/api/{version}/{}", collection.plural),
        group => format!("/apis/{group}/{version}/{}", collection.plural),
    }
}

/// An object of a kind that has a status: a route to `orders`, or a policy that says nothing, right or wrong.
fn object(kind: Kind) -> Value {
    let mut spec = json!({});
    if Kind::ROUTES.contains(&kind) {
        spec["parentRefs"] = json!([{"group": "", "kind": "Service", "name": "orders"}]);
        spec["rules"] = json!([{"backendRefs": [{"name": "orders", "port": 80}]}]);
    }
    if kind == Kind::TlsRoute {
        spec["hostnames"] = json!(["orders.example"]);
    }
    let namespace = kind.is_namespaced().then_some("shop");
    json!({
        "apiVersion": kind.api_version(), "kind": kind.as_str(), "spec": spec,
        "metadata": {"name": "default", "namespace": namespace},
    })
}

#[tokio::test]
async fn who_does_not_lead_writes_nothing_and_who_does_needs_all_that_it_is_allowed() {
    let kinds: Vec<_> = collections().into_iter().map(path).collect();
    let all: Vec<_> =
        kinds.iter().map(String::as_str).chain([SECRETS, CONFIG_MAPS, LEASES, WEBHOOKS]).collect();
    let fixture = Fixture::over(&all).await;
    let double = &fixture.double;
    double.put(NAMESPACES, json!({"metadata": {"name": "shop", "labels": {"weft.mesh/inject": "enabled"}}}));
    double.put(
        WEBHOOKS,
        json!({"metadata": {"name": "weft-injector"}, "webhooks": [{"name": "a", "clientConfig": {}}]}),
    );
    double.put(SERVICES, orders());
    let with_status: Vec<_> = weft_core::manifest::schema::KINDS.into_iter().chain(Kind::ROUTES).collect();
    for kind in &with_status {
        double.put(&path(collection_of(*kind)), object(*kind));
    }
    // Another one leads, and is not heard of again.
    let lease = json!({"metadata": {"namespace": "weft", "name": "weft-leader"}, "spec": {"holderIdentity": "another"}});
    double.put(LEASES, lease);
    fixture.follow();
    fixture.synced().await;
    fixture.keep();
    for kind in with_status {
        let namespace = if kind.is_namespaced() { "shop" } else { "" };
        let collection = path(collection_of(kind));
        eventually(kind.as_str(), || {
            double.object(&collection, namespace, "default")?.get("status").cloned()
        })
        .await;
    }
    let mut requests = double.requests();
    let took = requests.iter().position(|request| request.starts_with("PUT ")).unwrap();
    let before = &requests[..took];
    assert!(before.iter().all(|request| request.starts_with("GET ")), "{before:?}");
    assert!(before.iter().filter(|request| request.contains("/leases/weft-leader")).count() > 2);

    double.delete(LEASES, "weft", "weft-leader");
    eventually("it is made anew", || double.object(LEASES, "weft", "weft-leader")).await;
    requests.extend(double.requests());
    rights::check(&requests, &Settings::default());
    // Pods' tokens are looked at by who signs for them: `ca::kubernetes`.
    assert_eq!(rights::never_asked(&requests, &Settings::default()), ["create tokenreviews"]);
}
