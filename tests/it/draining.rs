//! A sidecar that is told to end lets what is under way end first; servers are replaced under load without a failure.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weft_tests::{App, HttpClient, Process, SidecarPod, eventually, program, python};

use crate::in_pods;
use crate::peers::{Caller, Peers};

/// What is under way on three protocols for some two seconds.
struct UnderWay {
    slow: Process,
    socket: Process,
    calls: Process,
}

impl UnderWay {
    fn begin(caller: &Caller<'_>) -> Self {
        let slow = caller.curl_command(&["-N", "http://HOST:8080/slow"]);
        let mut socket = python("websocket_client.py").expect("the test asked for it");
        socket.args(["ticks", &format!("{}:8081", caller.host), "20"]);
        let mut calls = python("grpc_client.py").expect("the test asked for it");
        calls.args(["ticks", &format!("{}:8082", caller.host), "20"]);
        let own = |name: &str, command: Command| {
            let process = caller.pod.app_called(name, command);
            eventually("it is under way", Duration::from_secs(20), || process.output().contains('0'));
            process
        };
        Self { slow: own("slow", slow), socket: own("socket", socket), calls: own("calls", calls) }
    }

    fn ends_well(mut self) {
        for process in [&mut self.slow, &mut self.socket, &mut self.calls] {
            let status = process.wait(Duration::from_secs(20));
            assert!(status.success(), "{status}: {}", process.output());
        }
        assert!(self.slow.output().ends_with("\n19\n"), "{}", self.slow.output());
    }
}

#[test]
fn requests_streams_and_websockets_under_way_end_before_the_sidecar_does() {
    in_pods!(requests_streams_and_websockets_under_way_end_before_the_sidecar_does, || {
        let programs = ["origin.py", "websocket_server.py", "grpc_server.py", "grpc_client.py"].map(python);
        let [Some(mut origin), Some(mut sockets), Some(mut calls), Some(_)] = programs else { return };
        if program(&["curl"]).is_none() {
            return;
        }
        let mut peers = Peers::start("server:8080,server:8081,server:8082");
        origin.arg("8080");
        sockets.arg("8081");
        calls.arg("8082");
        let _apps = [(origin, 8080), (sockets, 8081), (calls, 8082)]
            .map(|(command, port)| peers.serve(command, port));

        let under_way = UnderWay::begin(&peers.meshed());
        let status = peers.client.sidecar().terminate();
        assert!(status.success(), "the client's sidecar ends in order: {status}");
        under_way.ends_well();

        peers.client.start_sidecar();
        peers.client.wait_until_ready();
        let under_way = (UnderWay::begin(&peers.meshed()), UnderWay::begin(&peers.plain()));
        let status = peers.server.sidecar().terminate();
        assert!(status.success(), "the server's sidecar ends in order: {status}");
        under_way.0.ends_well();
        under_way.1.ends_well();
    });
}

#[test]
fn servers_are_replaced_one_by_one_under_load_without_a_failure() {
    in_pods!(servers_are_replaced_one_by_one_under_load_without_a_failure, || {
        let peers = Peers::start("other:9999");
        let start = |name: &str| -> (SidecarPod, App) {
            let pod = peers.mesh.pod(name, "shop:8080");
            let app = App::echo(&pod, 8080);
            (pod, app)
        };
        let mut servers: Vec<(SidecarPod, App)> = ["shop-a", "shop-b"].map(start).into();
        let (stop, requests) = (AtomicBool::new(false), AtomicU64::new(0));
        let asked = |count: u64| {
            let goal = requests.load(Ordering::Relaxed) + count;
            eventually("there is load", Duration::from_secs(30), || requests.load(Ordering::Relaxed) >= goal);
        };
        let call = || {
            peers.client.run(|| {
                let mut kept = HttpClient::connect("shop:8080").ok();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let connection = kept.as_mut().expect("a connection");
                    let answer = connection.get("shop", "/", "").expect("an answer on a kept connection");
                    assert_eq!(
                        answer.status,
                        200,
                        "{:?} after {:?}",
                        answer.header("weft-error"),
                        begun.elapsed()
                    );
                    requests.fetch_add(1, Ordering::Relaxed);
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            });
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(call);
            }
            asked(200);
            for name in ["shop-c", "shop-d", "shop-e"] {
                servers.push(start(name));
                asked(100);
                // As a pod ends: its sidecar is told so, lets go of its callers, and the app goes with it.
                let (mut oldest, app) = servers.remove(0);
                let status = oldest.sidecar().terminate();
                assert!(status.success(), "{status}");
                assert!(app.connections() > 0, "it had served");
                drop((oldest, app));
                asked(100);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(requests.load(Ordering::Relaxed) > 800);
    });
}

#[test]
fn the_app_is_served_until_it_is_gone() {
    in_pods!(the_app_is_served_until_it_is_gone, || {
        let peers = Peers::start("server:8080");
        let _server = App::echo(&peers.server, 8080);
        let token =
            peers.mesh.weft_ok(&["token", "create", "--service-account", "ending", "--service", "ending"]);
        let more = [("WEFT_APP_GRACE", "300s"), ("WEFT_DRAIN_TIMEOUT", "300s")];
        let mut ending = peers.mesh.pod_with_token("ending", "ending:8080", &token, &more);
        let app = ending.run(|| TcpListener::bind("0.0.0.0:8080")).expect("a port");
        let address = SocketAddr::new(ending.address(), 4143);
        let reaches =
            || peers.stranger.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5))).is_ok();
        assert!(reaches());

        // As in a pod of old, where the kubelet tells all containers at once.
        ending.sidecar().signal(Signal::TERM);
        eventually("nothing new is taken from others", Duration::from_secs(30), || !reaches());
        let ask =
            || ending.run(|| HttpClient::connect("server:8080").and_then(|mut to| to.get("server", "/", "")));
        for _ in 0..3 {
            assert_eq!(ask().expect("an answer").status, 200);
        }
        let mut kept = ending.run(|| HttpClient::connect("server:8080")).expect("a connection");
        drop(app);
        // It no longer listens, but still calls.
        assert_eq!(kept.get("server", "/", "").expect("an answer").status, 200);
        assert!(ending.sidecar().is_running());
        assert_eq!(kept.get("server", "/", "").expect("an answer").status, 200);
        drop(kept);
        let status = ending.sidecar().wait(Duration::from_secs(60));
        assert!(status.success(), "{status}");
        assert!(ending.sidecar_log().contains("drained"), "{}", ending.sidecar_log());
    });
}
