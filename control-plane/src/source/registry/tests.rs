//! Workloads that come, go and come back.

use weft_core::world::Defaults;

use super::*;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::store::samples;

fn registration(instance: &str) -> Registration {
    Registration { instance: instance.into(), ..samples::registration("web") }
}

async fn open(store: &Store) -> Arc<Registry> {
    let defaults = Defaults { trust_domain: "mesh.local".parse().unwrap(), service_cidrs: Vec::new() };
    let world =
        World::open(defaults, store.clone(), Leadership::alone(), Arc::new(Hub::default()), Metrics::new());
    Registry::open(store.clone(), world.await.unwrap(), String::new()).await.unwrap()
}

fn known(registry: &Registry) -> usize {
    registry.world.read(|known| known.registrations().count())
}

#[tokio::test]
async fn a_broken_stream_leaves_its_workload_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(&Store::open(dir.path()).unwrap()).await;
    let name: QualifiedName = "default/web".parse().unwrap();
    drop(registry.announce(name.clone(), registration("1")).unwrap());
    let now = Instant::now();
    assert_eq!(registry.reap(now), registry.lock().entries[&name].until);
    assert_eq!(known(&registry), 1);
    let lease = registry.announce(name.clone(), registration("1")).unwrap();
    assert_eq!(registry.reap(now + LOST_GRACE), None);
    drop(lease);
    assert_eq!(registry.reap(now + 2 * LOST_GRACE), None);
    assert_eq!(known(&registry), 0);
}

#[tokio::test]
async fn where_many_are_lost_at_once_all_of_them_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(&Store::open(dir.path()).unwrap()).await;
    let announce = |number: usize| {
        let name: QualifiedName = format!("default/w{number}").parse().unwrap();
        let workload = format!("w{number}");
        registry.announce(name, Registration { workload, ..registration("1") }).unwrap()
    };
    let all = 2 * MANY;
    let mut leases: Vec<_> = (0..all).map(announce).collect();
    let now = Instant::now();
    leases.truncate(all - all / 4 + 1);
    registry.reap(now + LOST_GRACE + LOST_GRACE);
    assert_eq!(known(&registry), leases.len(), "fewer than a quarter are gone after a second");
    leases.truncate(leases.len() / 2);
    registry.reap(now + LOST_GRACE + LOST_GRACE);
    assert_eq!(known(&registry), all - all / 4 + 1, "half of them are waited for");
    // One of them is back, the others are not.
    let _back = announce(leases.len());
    registry.reap(now + RESTART_GRACE + LOST_GRACE);
    assert_eq!(known(&registry), leases.len() + 1);
    assert_eq!(registry.lock().lost, 0);
}

#[tokio::test]
async fn as_long_as_one_after_the_other_comes_back_the_others_are_waited_for_a_minute_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(&Store::open(dir.path()).unwrap()).await;
    tokio::time::pause();
    let announce = |number: usize| {
        let name: QualifiedName = format!("default/w{number}").parse().unwrap();
        let workload = format!("w{number}");
        registry.announce(name, Registration { workload, ..registration("1") }).unwrap()
    };
    let second = Duration::from_secs(1);
    let all = 4 * MANY;
    drop((0..all).map(announce).collect::<Vec<_>>());
    tokio::time::advance(RESTART_GRACE - second).await;
    let mut back = vec![announce(0)];
    tokio::time::advance(2 * second).await;
    assert!(registry.reap(Instant::now()).unwrap() > Instant::now());
    assert_eq!(known(&registry), all, "one was back two seconds ago");
    while Instant::now()
        < registry.lock().entries.values().filter_map(|e| e.until).min().unwrap() + RETURNING_GRACE
    {
        back.push(announce(back.len()));
        registry.reap(Instant::now());
        assert_eq!(known(&registry), all);
        tokio::time::advance(second).await;
    }
    back.push(announce(back.len()));
    assert_eq!(registry.reap(Instant::now()), None, "a minute is over");
    assert_eq!(known(&registry), back.len());

    drop(std::mem::take(&mut back));
    drop((0..all).map(announce).collect::<Vec<_>>());
    tokio::time::advance(RESTART_GRACE - second).await;
    back.push(announce(0));
    tokio::time::advance(RETURNING + second).await;
    assert_eq!(registry.reap(Instant::now()), None, "nobody else comes");
    assert_eq!(known(&registry), back.len());
}

#[tokio::test]
async fn after_a_restart_workloads_have_a_while_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let record = Some(encode("a registration", &registration("1")).unwrap());
    store.register(&[Registering { name: "default/web".into(), record, before: None }]).await.unwrap();
    let registry = open(&store).await;
    let now = Instant::now();
    assert!(registry.reap(now).is_some());
    assert_eq!(known(&registry), 1);
    assert_eq!(registry.reap(now + RESTART_GRACE), None);
    assert_eq!(known(&registry), 0);
    assert!(registry.save().await);
    assert_eq!(store.registrations().await.unwrap(), []);
}

#[tokio::test]
async fn what_ends_while_we_go_down_stays_registered() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let registry = open(&store).await;
    let name: QualifiedName = "default/web".parse().unwrap();
    let lease = registry.announce(name, registration("1")).unwrap();
    registry.freeze();
    lease.end();
    registry.clone().run().await;
    assert_eq!(store.registrations().await.unwrap(), [registration("1")]);
}
