//! Who is redirected where, and who is not.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use socket2::{Domain, Socket, Type};
use weft_pods::intercept::{self, Rules, Source};
use weft_pods::{Exemption, Hub, KEPT_SOURCE_MARK, Pod, SIDECAR_MARK, SIDECAR_UID};

use crate::children::child;
use crate::rights::is_root;
use crate::wire::{DEADLINE, arrives, ask, call, echo, listen};

const OUTBOUND: u16 = 4140;
const INBOUND: u16 = 4143;
const DNS: u16 = 4153;
const ADMIN: u16 = 4191;

/// A hub with an application's pod, which is intercepted, and a peer's pod, which is not.
struct Scene {
    _hub: Hub,
    app: Pod,
    peer: Pod,
}

fn scene(rules: &Rules) -> Scene {
    let hub = Hub::create().unwrap();
    let app = hub.pod("app").unwrap();
    let peer = hub.pod("peer").unwrap();
    app.run(|| intercept::up(rules)).unwrap().unwrap();
    Scene { _hub: hub, app, peer }
}

/// The addresses of a pod, of both families where there are both.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    [Some(IpAddr::from(pod.v4())), pod.v6().map(IpAddr::from)].into_iter().flatten().collect()
}

/// The same port of both families' addresses.
fn both(pod: &Pod, port: u16) -> Vec<SocketAddr> {
    addresses(pod).into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn what_an_application_sends_arrives_at_its_sidecar_with_its_destination() {
    let Scene { app, peer, .. } = scene(&Rules::default());
    let sidecar = listen(&app, OUTBOUND);
    let mut destinations: Vec<SocketAddr> = both(&peer, 8080);
    destinations.extend(parse::<SocketAddr>(&["240.64.0.1:80", "192.0.2.9:443"]));
    if app.v6().is_some() {
        destinations.extend(parse::<SocketAddr>(&["[fd57:eff7::1]:80", "[2001:db8::9]:443"]));
    }
    for destination in destinations {
        let caller = call(&app, destination, None).unwrap();
        assert_eq!(arrives(&sidecar, caller), Some(destination));
    }
}

pub(crate) fn what_is_sent_to_a_pod_arrives_at_its_sidecar_with_its_destination() {
    let Scene { app, peer, .. } = scene(&Rules::default());
    let sidecar = listen(&app, INBOUND);
    // Also what aims at the ports that only the pod itself may use.
    for destination in [both(&app, 8080), both(&app, OUTBOUND), both(&app, 53)].concat() {
        let caller = call(&peer, destination, None).unwrap();
        assert_eq!(arrives(&sidecar, caller), Some(destination));
    }
}

pub(crate) fn the_sidecars_own_ports_are_reached_as_they_are() {
    let Scene { app, peer, .. } = scene(&Rules::default());
    for port in [INBOUND, ADMIN] {
        let listener = listen(&app, port);
        for destination in both(&app, port) {
            assert_eq!(arrives(&listener, call(&peer, destination, None).unwrap()), Some(destination));
        }
    }
}

pub(crate) fn calls_to_the_pod_itself_are_not_intercepted() {
    let Scene { app, .. } = scene(&Rules::default());
    let direct = listen(&app, 8080);
    let mut destinations = both(&app, 8080);
    destinations.push("127.0.0.1:8080".parse().unwrap());
    if app.v6().is_some() {
        destinations.push("[::1]:8080".parse().unwrap());
    }
    for destination in destinations {
        arrives(&direct, call(&app, destination, None).unwrap());
    }
}

pub(crate) fn skipped_ports_and_networks_are_not_intercepted() {
    let rules = Rules {
        skip_inbound_ports: parse(&["9000-9002"]),
        skip_outbound_ports: parse(&["25", "7000-7100"]),
        ..Rules::default()
    };
    let Scene { app, peer, .. } = scene(&rules);
    for port in [25, 7000, 7100] {
        let direct = listen(&peer, port);
        for destination in both(&peer, port) {
            arrives(&direct, call(&app, destination, None).unwrap());
        }
    }
    for port in [9000, 9002] {
        let direct = listen(&app, port);
        for destination in both(&app, port) {
            arrives(&direct, call(&peer, destination, None).unwrap());
        }
    }
    let (outbound, inbound) = (listen(&app, OUTBOUND), listen(&app, INBOUND));
    for port in [24, 26, 6999, 7101] {
        arrives(&outbound, call(&app, SocketAddr::new(peer.v4().into(), port), None).unwrap());
    }
    for port in [8999, 9003] {
        arrives(&inbound, call(&peer, SocketAddr::new(app.v4().into(), port), None).unwrap());
    }

    let cidrs = parse(&["10.238.0.0/16", "fd57:eff7:1::/64"]);
    app.run(|| intercept::up(&Rules { skip_outbound_cidrs: cidrs, ..Rules::default() })).unwrap().unwrap();
    let direct = listen(&peer, 8080);
    for destination in both(&peer, 8080) {
        arrives(&direct, call(&app, destination, None).unwrap());
    }
    arrives(&outbound, call(&app, "240.64.0.1:80".parse().unwrap(), None).unwrap());
    if app.v6().is_some() {
        arrives(&outbound, call(&app, "[fd57:eff7::1]:80".parse().unwrap(), None).unwrap());
    }
}

pub(crate) fn connections_from_before_are_left_alone_by_up_and_down() {
    let hub = Hub::create().unwrap();
    let (app, peer) = (hub.pod("app").unwrap(), hub.pod("peer").unwrap());
    let mut before = Vec::new();
    for (from, to) in [(&app, &peer), (&peer, &app)] {
        let listener = listen(to, 8080);
        for destination in both(to, 8080) {
            let caller = call(from, destination, None).unwrap();
            before.push((caller, listener.accept().unwrap().0));
        }
    }
    let go_on = |pairs: &mut [(TcpStream, TcpStream)]| {
        for (caller, callee) in pairs {
            greets(caller, callee);
            greets(callee, caller);
        }
    };
    go_on(&mut before);
    // A port on which a redirected packet would find a listener that knows nothing of its connection.
    let _sidecar = (listen(&app, OUTBOUND), listen(&app, INBOUND));
    for _ in 0..2 {
        app.run(|| intercept::up(&Rules::default())).unwrap().unwrap();
        go_on(&mut before);
        app.run(intercept::down).unwrap().unwrap();
        go_on(&mut before);
    }
}

pub(crate) fn connections_that_are_redirected_go_on_when_the_rules_are_replaced() {
    let Scene { app, peer, .. } = scene(&Rules::default());
    let mut open = Vec::new();
    for (from, to, port) in [(&app, &peer, OUTBOUND), (&peer, &app, INBOUND)] {
        let sidecar = listen(&app, port);
        for destination in both(to, 8080) {
            let caller = call(from, destination, None).unwrap();
            open.push((caller, sidecar.accept().unwrap().0));
        }
    }
    let rules = [
        Rules {
            skip_outbound_ports: parse(&["8080"]),
            skip_inbound_ports: parse(&["8080"]),
            ..Rules::default()
        },
        Rules { source: Source::Caller, ..Rules::default() },
        Rules::default(),
    ];
    for rules in &rules {
        app.run(|| intercept::up(rules)).unwrap().unwrap();
        for (caller, sidecar) in &mut open {
            greets(caller, sidecar);
            greets(sidecar, caller);
        }
    }
}

/// Bytes of the one reach the other, and an answer comes back.
fn greets(one: &mut TcpStream, other: &mut TcpStream) {
    for stream in [&*one, &*other] {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    let mut seen = [0; 5];
    one.write_all(b"still").unwrap();
    other.read_exact(&mut seen).unwrap();
    other.write_all(&seen).unwrap();
    one.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"still");
}

pub(crate) fn an_app_may_be_called_from_its_callers_own_address() {
    let Scene { app, peer, .. } = scene(&Rules { source: Source::Caller, ..Rules::default() });
    assert!(app.run(intercept::keeps_source).unwrap().unwrap());
    let direct = listen(&app, 8080);
    for (caller, destination) in addresses(&peer).into_iter().zip(both(&app, 8080)) {
        let mut sidecar = app.run(|| dial_as(caller, destination)).unwrap().unwrap();
        let (mut accepted, from) = direct.accept().unwrap();
        assert_eq!(from.ip().to_canonical(), caller);
        greets(&mut sidecar, &mut accepted);
        greets(&mut accepted, &mut sidecar);
    }
    // Whoever has that address itself is still intercepted, and answered.
    let sidecar = listen(&app, INBOUND);
    for destination in both(&app, 8080) {
        assert_eq!(arrives(&sidecar, call(&peer, destination, None).unwrap()), Some(destination));
    }
    app.run(|| intercept::up(&Rules::default())).unwrap().unwrap();
    assert!(!app.run(intercept::keeps_source).unwrap().unwrap());
}

/// Connects as the sidecar does that keeps its callers' addresses.
fn dial_as(caller: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    match caller {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.set_mark(KEPT_SOURCE_MARK)?;
    socket.bind(&SocketAddr::new(caller, 0).into())?;
    socket.connect_timeout(&to.into(), DEADLINE)?;
    Ok(socket.into())
}

pub(crate) fn marked_sockets_are_let_through() {
    let Scene { app, peer, .. } = scene(&Rules { proxy_mark: Some(SIDECAR_MARK), ..Rules::default() });
    let (direct, sidecar) = (listen(&peer, 8080), listen(&app, OUTBOUND));
    for destination in both(&peer, 8080) {
        arrives(&direct, call(&app, destination, Some(SIDECAR_MARK)).unwrap());
        arrives(&sidecar, call(&app, destination, Some(SIDECAR_MARK + 1)).unwrap());
    }
}

pub(crate) fn the_sidecars_user_is_let_through_and_nobody_else() {
    if !is_root() {
        return eprintln!("one user cannot become another; marks are tested instead");
    }
    let Scene { app, peer, .. } = scene(&Rules::default());
    let (direct, sidecar) = (listen(&peer, 8080), listen(&app, OUTBOUND));
    for destination in both(&peer, 8080) {
        for (user, listener) in [(SIDECAR_UID, &direct), (SIDECAR_UID + 1, &sidecar)] {
            dials(&app, destination, user, listener);
        }
    }
}

/// A child process under that user id calls, and its call arrives at the listener.
fn dials(pod: &Pod, to: SocketAddr, user: u32, listener: &TcpListener) {
    let mut dialler = pod.spawn(child("dial", &[&to.to_string()]).uid(user).gid(user)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap_or_else(|error| panic!("{user} to {to}: {error}"));
    echo(&mut accepted);
    assert!(dialler.wait().unwrap().success());
}

pub(crate) fn what_a_sidecar_sends_goes_out_as_it_is() {
    let Scene { app, peer, .. } = scene(&Rules::default().letting_through(Exemption::here()));
    let (direct, sidecar) = (listen(&peer, 8080), listen(&app, OUTBOUND));
    for destination in both(&peer, 8080) {
        for (spawn, listener) in
            [(Pod::spawn_sidecar as fn(&Pod, &mut Command) -> _, &direct), (Pod::spawn, &sidecar)]
        {
            let mut dialler = spawn(&app, &mut child("dial", &[&destination.to_string()])).unwrap();
            echo(&mut listener.accept().unwrap().0);
            assert!(dialler.wait().unwrap().success());
        }
    }
}

pub(crate) fn dns_is_answered_by_the_sidecar_wherever_the_resolver_is() {
    let Scene { app, peer, .. } = scene(&Rules::default());
    let v4 = app.run(|| UdpSocket::bind(("127.0.0.1", DNS)).unwrap()).unwrap();
    for server in ["127.0.0.53:53", "127.0.0.1:53", "192.0.2.1:53", &format!("{}:53", app.v4())] {
        ask(&app, server.parse().unwrap(), &v4);
    }
    let sidecar = listen(&app, DNS);
    for server in [SocketAddr::new(peer.v4().into(), 53), "127.0.0.53:53".parse().unwrap()] {
        assert_eq!(arrives(&sidecar, call(&app, server, None).unwrap()), Some(server));
    }
    if app.v6().is_some() {
        let v6 = app.run(|| UdpSocket::bind(("::1", DNS)).unwrap()).unwrap();
        for server in ["[::1]:53", "[2001:db8::53]:53"] {
            ask(&app, server.parse().unwrap(), &v6);
        }
    }
}

pub(crate) fn dns_is_left_alone_where_its_port_is_skipped_but_not_its_network() {
    let rules = Rules { skip_outbound_cidrs: parse(&["10.238.0.0/16"]), ..Rules::default() };
    let Scene { app, peer, .. } = scene(&rules);
    let resolver = SocketAddr::new(peer.v4().into(), 53);
    let sidecar = app.run(|| UdpSocket::bind(("127.0.0.1", DNS)).unwrap()).unwrap();
    ask(&app, resolver, &sidecar);

    let rules = Rules { skip_outbound_ports: parse(&["53"]), ..Rules::default() };
    app.run(|| intercept::up(&rules)).unwrap().unwrap();
    let direct = peer.run(|| UdpSocket::bind(("0.0.0.0", 53)).unwrap()).unwrap();
    ask(&app, resolver, &direct);
}

pub(crate) fn rules_are_read_back_as_they_were_asked_for_however_often() {
    let hub = Hub::create().unwrap();
    let rules = Rules {
        proxy_mark: Some(SIDECAR_MARK),
        skip_inbound_ports: parse(&["1-65535"]),
        skip_outbound_ports: parse(&["25", "7000-7100", "7101", "7050-7060", "65535"]),
        skip_outbound_cidrs: parse(&["0.0.0.0/0", "10.0.0.0/8", "fd00::/8", "2001:db8::1", "ffff::/16"]),
        ..Rules::default()
    };
    hub.run(|| {
        assert_eq!(intercept::show().unwrap(), None);
        let kept = Rules { source: Source::Caller, ..rules.clone() };
        for rules in [&Rules::default(), &rules, &kept, &kept, &rules, &Rules::default(), &kept] {
            intercept::up(rules).unwrap();
            assert_eq!(intercept::show().unwrap(), Some(rules.ruleset()));
        }
        intercept::down().unwrap();
        assert_eq!(intercept::show().unwrap(), None);
        intercept::down().unwrap();
    })
    .unwrap();
}

pub(crate) fn the_longest_lists_fit() {
    let hub = Hub::create().unwrap();
    let ports: Vec<_> = (1..=1024_u16).map(|n| (n * 3).into()).collect();
    let cidrs = (0..1024_u32).map(|n| IpAddr::from(Ipv6Addr::from(u128::from(n) << 64 | 7)).into());
    let rules = Rules {
        skip_inbound_ports: ports.clone(),
        skip_outbound_ports: ports,
        skip_outbound_cidrs: cidrs.collect(),
        ..Rules::default()
    };
    hub.run(|| {
        intercept::up(&rules).unwrap();
        assert_eq!(intercept::show().unwrap(), Some(rules.ruleset()));
    })
    .unwrap();
}

pub(crate) fn taking_the_rules_down_restores_direct_calls_and_leaves_no_table() {
    let Scene { app, peer, .. } = scene(&Rules::default());
    app.run(intercept::down).unwrap().unwrap();
    let direct = listen(&peer, 8080);
    for destination in both(&peer, 8080) {
        arrives(&direct, call(&app, destination, None).unwrap());
    }
    assert_eq!(app.run(intercept::show).unwrap().unwrap(), None);
}
