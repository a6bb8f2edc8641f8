//! Whom an address or a name leads to: a headless service, oneself, the pod's own loopback.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Command;
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually, program};

use crate::{in_pods, weft};

fn curl(pod: &SidecarPod, url: &str) -> Option<String> {
    let mut command = Command::new(program(&["curl"])?);
    command.args(["-sS", "--max-time", "10", url]);
    let output = pod.output(command);
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_headless_service_is_called_at_its_pods_own_addresses_with_mutual_tls() {
    in_pods!(a_headless_service_is_called_at_its_pods_own_addresses_with_mutual_tls, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("store", "store:8080");
        let client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        let document = "apiVersion: v1\nkind: Service\nmetadata: {name: store}\nspec: {clusterIP: None, ports: [{port: 8080}]}\n";
        let file = mesh.scratch().join("headless.yaml");
        fs::write(&file, document).expect("a file");
        mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        let Some(_) = program(&["curl"]) else { return };
        eventually("the pod's address is what the name stands for", Duration::from_secs(10), || {
            curl(&client, "http://store:8080/a")
                .is_some_and(|seen| seen.contains("weft-client-id: spiffe://mesh.local/ns/default/sa/client"))
        });
        assert!(server.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"mutual\""]) >= 1.0);
    });
}

#[test]
fn a_pod_may_call_the_service_that_it_offers_itself() {
    in_pods!(a_pod_may_call_the_service_that_it_offers_itself, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("orders", "orders:80->8080");
        let _app = App::echo(&server, 8080);
        let Some(_) = program(&["curl"]) else { return };
        eventually("it is among its own endpoints", Duration::from_secs(10), || {
            curl(&server, "http://orders/self").is_some_and(|seen| seen.starts_with("GET /self HTTP/1.1\r\n"))
        });
    });
}

#[test]
fn what_stays_on_the_pods_loopback_passes_no_sidecar() {
    in_pods!(what_stays_on_the_pods_loopback_passes_no_sidecar, || {
        let mesh = Mesh::start(weft(), Options::default());
        let pod = mesh.pod("alone", "");
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let seen = pod.run(|| {
                let listener = TcpListener::bind((address, 0)).expect("a listener");
                let at = listener.local_addr().expect("its address");
                std::thread::scope(|scope| {
                    let asked = scope.spawn(|| HttpClient::connect(at).expect("a connection"));
                    let (_, from) = listener.accept().expect("the caller");
                    drop(asked.join());
                    from
                })
            });
            assert_eq!(seen.ip(), address);
        }
        assert_eq!(pod.metric("weft_connections_total", &[]) as u64, 0);
    });
}
