//! Hubs and pods: who reaches whom, and that nothing stays behind.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Instant;

use weft_pods::{Error, Hub};

use crate::children::{Talking, child};
use crate::rights::{SOMEBODY, is_root};
use crate::wire::{DEADLINE, arrives, call, dial, listen};

pub(crate) fn pods_and_the_hub_reach_each_other_by_both_families() {
    let hub = Hub::create().unwrap();
    let (a, b) = (hub.pod("a").unwrap(), hub.pod("b").unwrap());
    assert_eq!((a.name(), b.name()), ("a", "b"));
    let listener = listen(&b, 8080);
    for address in [Some(IpAddr::from(b.v4())), b.v6().map(IpAddr::from)].into_iter().flatten() {
        let to = SocketAddr::new(address, 8080);
        arrives(&listener, call(&a, to, None).unwrap());
        arrives(&listener, hub.run(|| dial(to, None)).unwrap().unwrap());
        arrives(&listener, call(&b, to, None).unwrap());
    }
    for address in
        [Some(IpAddr::from(hub.address_v4())), hub.address_v6().map(IpAddr::from)].into_iter().flatten()
    {
        let listener = hub.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
        arrives(&listener, call(&a, listener.local_addr().unwrap(), None).unwrap());
    }
}

pub(crate) fn the_hub_stays_where_it_is_on_the_link_whoever_comes_and_goes() {
    let hub = Hub::create().unwrap();
    let listener = hub.run(|| TcpListener::bind((hub.address_v4(), 0)).unwrap()).unwrap();
    let found = |pod: &weft_pods::Pod| {
        arrives(&listener, call(pod, listener.local_addr().unwrap(), None).unwrap());
        let neighbours = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/arp").unwrap()).unwrap();
        let hub = hub.address_v4().to_string();
        let line = neighbours.lines().find(|line| line.split(' ').next() == Some(&hub)).unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    let first = hub.pod("first").unwrap();
    let mut seen = BTreeSet::from([found(&first)]);
    let mut others = Vec::new();
    for number in 0..8 {
        others.push(hub.pod(&format!("pod-{number}")).unwrap());
        seen.insert(found(others.last().unwrap()));
    }
    drop(first);
    seen.insert(found(others.first().unwrap()));
    assert_eq!(seen.len(), 1, "{seen:?}");
}

pub(crate) fn this_machine_tests_ipv6() {
    let hub = Hub::create().unwrap();
    if hub.address_v6().is_none() {
        assert!(std::env::var("WEFT_REFUSE_SKIPS").is_err(), "skipping is refused: no IPv6");
        return eprintln!("SKIPPED, all of IPv6: this kernel has none");
    }
    assert!(hub.pod("a").unwrap().v6().is_some());
}

pub(crate) fn the_hubs_addresses_can_be_listened_on_before_there_is_a_pod() {
    let hub = Hub::create().unwrap();
    hub.run(|| {
        TcpListener::bind((hub.address_v4(), 0)).unwrap();
        hub.address_v6().map(|address| TcpListener::bind((address, 0)).unwrap());
    })
    .unwrap();
}

pub(crate) fn every_pod_has_addresses_of_its_own() {
    let hub = Hub::create().unwrap();
    let pods: Vec<_> = (0..20).map(|n| hub.pod(&format!("pod-{n}")).unwrap()).collect();
    let v4: BTreeSet<_> = pods.iter().map(weft_pods::Pod::v4).collect();
    let v6: BTreeSet<_> = pods.iter().filter_map(weft_pods::Pod::v6).collect();
    assert_eq!(v4.len(), pods.len());
    assert!(!v4.contains(&hub.address_v4()));
    assert_eq!(v6.len(), if hub.address_v6().is_some() { pods.len() } else { 0 });
}

pub(crate) fn what_is_nowhere_is_refused_at_once() {
    let hub = Hub::create().unwrap();
    let pod = hub.pod("a").unwrap();
    let mut nowhere: Vec<SocketAddr> = vec!["192.0.2.1:80".parse().unwrap()];
    nowhere.extend(pod.v6().map(|_| "[2001:db8::1]:80".parse::<SocketAddr>().unwrap()));
    for to in nowhere {
        let refused = call(&pod, to, None).unwrap_err();
        assert!(
            matches!(refused.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable),
            "{refused:?}"
        );
    }
}

pub(crate) fn any_program_in_a_pod_may_listen_on_low_ports() {
    let hub = Hub::create().unwrap();
    let pod = hub.pod("a").unwrap();
    let mut command = child("listen", &["80"]);
    if is_root() {
        command.uid(SOMEBODY).gid(SOMEBODY);
    }
    assert!(pod.spawn(&mut command).unwrap().wait().unwrap().success());
}

pub(crate) fn a_program_that_is_not_there_is_named() {
    let hub = Hub::create().unwrap();
    let pod = hub.pod("a").unwrap();
    let error = pod.spawn(&mut Command::new("/nowhere/at-all")).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::NotFound));
    assert_eq!(error.to_string(), "cannot start /nowhere/at-all in the pod a");
}

pub(crate) fn a_namespace_without_a_bridge_is_no_hub() {
    let hub = Hub::create().unwrap();
    let pod = hub.pod("a").unwrap();
    let held = pod.netns().try_clone_to_owned().unwrap();
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    assert!(matches!(Hub::join(path.as_ref()), Err(Error::NoHub { .. })));
}

pub(crate) fn pods_of_two_owners_share_a_hub_without_sharing_addresses() {
    let hub = Hub::create().unwrap();
    let joined = Hub::join(&hub.path()).unwrap();
    assert_eq!((joined.address_v4(), joined.address_v6()), (hub.address_v4(), hub.address_v6()));
    let pods: Vec<_> =
        (0..3).flat_map(|_| [hub.pod("mine").unwrap(), joined.pod("theirs").unwrap()]).collect();
    let addresses: BTreeSet<_> = pods.iter().map(weft_pods::Pod::v4).collect();
    assert_eq!(addresses.len(), pods.len());
    // The hub outlives the one who made it.
    drop(hub);
    let listener = listen(&pods[1], 8080);
    arrives(&listener, call(&pods[0], SocketAddr::new(pods[1].v4().into(), 8080), None).unwrap());
}

pub(crate) fn killing_the_owner_of_a_pod_removes_its_link_and_it_all() {
    if !is_root() {
        return eprintln!("a child of a user namespace has no rights; two_runs_of_a_user shows it instead");
    }
    let hub = Hub::create().unwrap();
    let path = hub.path();
    let mut owner = Talking::start(&mut child("join", &["0", path.to_str().unwrap()]));
    let address = owner.says();
    assert!(links(&hub).contains("pod2"), "{address}");
    owner.kill();
    let asked = Instant::now();
    while links(&hub).contains("pod2") {
        assert!(asked.elapsed() < DEADLINE, "the dead owner's link is still there");
        std::thread::yield_now();
    }
}

fn links(hub: &Hub) -> BTreeSet<String> {
    let names = |folder: &str| std::fs::read_to_string(folder).unwrap();
    // The first column after two header lines.
    let table = hub.run(|| names("/proc/thread-self/net/dev")).unwrap();
    table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

pub(crate) fn two_runs_of_a_user_share_a_hub() {
    let as_user = |command: &mut Command| {
        if is_root() {
            command.uid(SOMEBODY).gid(SOMEBODY);
        }
        Talking::start(command)
    };
    let mut first = as_user(&mut child("own", &[]));
    let hub = first.says();
    let (pid, rest) = hub.split_once(' ').unwrap();
    let (path, listening) = rest.split_once(' ').unwrap();
    let mut second = as_user(&mut child("join", &[pid, path, listening]));
    let address: IpAddr = second.says().parse().unwrap();
    assert_eq!(first.says(), address.to_string(), "the first one's pod is called by the second one's");
    second.kill();
    first.kill();
}

pub(crate) fn a_run_that_ends_leaves_nothing_that_a_snapshot_sees() {
    // Other tests of this process come and go meanwhile, so it is looked at from a process of its own.
    let output = child("leaks", &[]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
