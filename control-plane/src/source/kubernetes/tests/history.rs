//! What becomes of configuration that lies in the cluster.

use weft_core::manifest::SourceFile;

use super::*;
use crate::configuration::{ConfigurationError, Mode};
use crate::report::rfc3339_seconds;

#[tokio::test]
async fn what_becomes_of_configuration_in_the_cluster_is_its_history_and_is_changed_there_alone() {
    let fixture = Fixture::start().await;
    let (double, configuration) = (&fixture.double, &fixture.configuration);
    let namespace = "shop".parse().unwrap();
    let text = "{apiVersion: weft.mesh/v1alpha1, kind: TrafficPolicy, metadata: {name: orders}, \
                spec: {targetRef: {kind: Service, name: orders}, timeouts: {request: 5s}}}";
    let file = [SourceFile { name: "orders.yaml", text }];
    let apply = |mode| configuration.apply(&file, &namespace, "ada", (mode, None));
    let unknown = apply(Mode::Commit).await.unwrap_err();
    assert!(matches!(unknown, ConfigurationError::NotReadYet), "{unknown}");
    double.put(SERVICES, orders());
    double.put(POLICIES, written("3s", "kubectl-client-side-apply", "2026-11-26T10:00:00Z"));
    fixture.follow();
    let (leads, is_leader) = watch::channel(false);
    fixture.observe(Leadership::of(is_leader));
    fixture.synced().await;
    assert_eq!(configuration.history(None).await.unwrap(), [], "who does not lead writes nothing");
    leads.send_replace(true);
    let first = fixture.revision(1).await;
    let said = (first.author.as_str(), first.source.as_str(), rfc3339_seconds(first.time));
    assert_eq!(said, ("kubectl-client-side-apply", "kubernetes", "2026-11-26T10:00:00Z".to_owned()));
    assert_eq!(first.summary, "created TrafficPolicy shop/orders");

    double.put(POLICIES, written("4s", "argocd-controller", "2026-11-26T10:05:00Z"));
    let second = fixture.revision(2).await;
    assert_eq!((second.author.as_str(), second.touched.len()), ("argocd-controller", 1));
    let changes = configuration.changes(1, 2).await.unwrap();
    assert!(changes[0].diff.contains("-    request: 3s\n+    request: 4s"), "{}", changes[0].diff);
    assert!(configuration.changes(2, 1).await.unwrap()[0].document.contains("request: 3s"));
    assert_eq!(fixture.world.revision(), 2);

    // It is changed where it is; here it is said what would be changed, and how.
    let refused = apply(Mode::Commit).await.unwrap_err().to_string();
    assert!(refused.contains("is in Kubernetes") && refused.contains("kubectl apply -f FILE"), "{refused}");
    let tried = apply(Mode::DryRun).await.unwrap();
    assert!(tried.changes[0].diff.contains("-    request: 4s\n+    request: 5s"), "{tried:?}");
    let lines = |sign: char| tried.changes[0].diff.lines().filter(|line| line.starts_with(sign)).count();
    assert_eq!((lines('-'), lines('+')), (1, 1), "only what is said otherwise: {tried:?}");
    let refused = configuration.rollback(1, "ada", None).await.unwrap_err().to_string();
    assert!(refused.contains("weft rollback 1 --print | kubectl apply -f -"), "{refused}");
    let key = tried.changes[0].key.clone();
    let refused = configuration.delete(&key, "ada", None).await.unwrap_err().to_string();
    assert!(refused.contains("kubectl delete trafficpolicies.weft.mesh orders -n shop"), "{refused}");

    double.delete(POLICIES, "shop", "orders");
    let third = fixture.revision(3).await;
    assert_eq!(
        (third.author.as_str(), third.summary.as_str()),
        ("unknown", "deleted TrafficPolicy shop/orders")
    );
    // What is not ours is not told of.
    double.delete(SERVICES, "shop", "orders");
    double.put(POLICIES, written("4s", "helm", "2026-11-26T10:06:00Z"));
    assert_eq!(fixture.revision(4).await.touched.len(), 1);
}

#[tokio::test]
async fn where_the_cluster_does_not_know_our_kinds_configuration_is_applied_here() {
    let fixture = Fixture::over(&[PODS, SERVICES, SLICES]).await;
    fixture.follow();
    fixture.synced().await;
    let text = "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{port: 5432}]}}";
    let file = [SourceFile { name: "db.yaml", text }];
    let (namespace, commit) = ("default".parse().unwrap(), (Mode::Commit, None));
    let applied = fixture.configuration.apply(&file, &namespace, "ada", commit).await.unwrap();
    assert_eq!((applied.revision, applied.problems), (1, Vec::new()));
}
