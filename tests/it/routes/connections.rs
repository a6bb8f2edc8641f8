//! Routes of connections: by weight, and by the name that TLS asks for.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use weft_tests::{App, HttpClient, SidecarPod};

use super::{ECHO, Rig, get, outcome};
use crate::in_pods;

#[test]
fn connections_are_shared_out_by_tcp_routes_and_tls_routes() {
    in_pods!(connections_are_shared_out_by_tcp_routes_and_tls_routes, || {
        let rig = Rig::start();
        let kind = |kind: &str, version: &str, rest: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: c}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: echo, port: 8080}}]\n  {rest}\n"
            )
        };
        let backends = |one: u32, two: u32| {
            format!(
                "rules: [{{backendRefs: [{{name: echo-v1, port: 8080, weight: {one}}}, {{name: echo-v2, port: 8080, weight: {two}}}]}}]"
            )
        };
        let of_hundred = || {
            let who = |_: &u8| outcome(&get(&rig.v1, ECHO, 8080, "/", "")) == "echo-v1";
            (0..100_u8).filter(who).count()
        };
        rig.apply(&kind("TCPRoute", "v1alpha2", &backends(3, 1)));
        let share = of_hundred();
        assert!((55..=92).contains(&share), "{share} of 100");
        rig.apply(&kind("TCPRoute", "v1alpha2", &backends(0, 1)));
        assert_eq!(of_hundred(), 0);
        rig.apply(&kind("TCPRoute", "v1alpha2", "rules: [{backendRefs: [{name: missing, port: 80}]}]"));
        // The reset may come before the client has looked at its new connection.
        let refused = rig.v1.run(|| HttpClient::connect((ECHO, 8080))?.get("echo", "/", ""));
        let reset = refused.expect_err("a route that leads nowhere ends the connection");
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{reset}");
        rig.delete("tcproute", "c");
        assert!(outcome(&get(&rig.v1, ECHO, 8080, "/", "")).starts_with("echo-v"));
    });
}

#[test]
fn connections_of_tls_are_told_apart_by_their_server_name() {
    in_pods!(connections_of_tls_are_told_apart_by_their_server_name, || {
        let rig = Rig::start();
        let tls = |pod: &SidecarPod, name: &'static str| {
            App::serve(pod, 8443, move |mut stream| {
                // Enough of a server: whoever says hello is told who took it.
                let mut hello = [0; 512];
                let _ = stream.read(&mut hello).and_then(|_| stream.write_all(name.as_bytes()));
            })
        };
        let _apps = [tls(&rig.v1, "echo-v1"), tls(&rig.v2, "echo-v2")];
        let service = |name: &str, selector: &str, protocol: &str| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.96.1.{}\n  \
                 selector: {selector}\n  ports: [{{port: 443, targetPort: 8443{protocol}}}]\n",
                name.len()
            )
        };
        let route = |name: &str, version: &str, hosts: &str, to: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: TLSRoute\nmetadata: {{name: {name}}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: tls}}, {{group: \"\", kind: Service, name: found}}]\n  \
                 hostnames: [{hosts}]\n  rules: [{{backendRefs: [{{name: {to}, port: 443}}]}}]\n"
            )
        };
        // One port declares what is spoken, the other lets it be found out.
        let both = [
            service("tls", "{app: echo}", ", appProtocol: tls"),
            service("found", "{app: echo}", ""),
            service("tls-v1", "{version: v1}", ""),
            service("to-tls-v2", "{version: v2}", ""),
            route("one", "v1", "one.example.com", "tls-v1"),
            route("below", "v1alpha3", "\"*.example.com\"", "to-tls-v2"),
            route("old", "v1alpha2", "old.example.org", "missing"),
        ];
        rig.apply(&both.concat());
        let who = |service: usize, name: Option<&str>| {
            let hello = client_hello(name);
            rig.v1.run(move || {
                let address: SocketAddr = format!("10.96.1.{service}:443").parse().expect("an address");
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
                stream.write_all(&hello).expect("the hello is taken");
                let mut answer = String::new();
                match stream.read_to_string(&mut answer) {
                    Ok(_) => answer,
                    Err(error) => format!("{:?}", error.kind()),
                }
            })
        };
        for service in ["tls".len(), "found".len()] {
            assert_eq!(who(service, Some("one.example.com")), "echo-v1");
            assert_eq!(who(service, Some("ONE.example.com")), "echo-v1");
            assert_eq!(who(service, Some("two.example.com")), "echo-v2");
            assert_eq!(who(service, Some("a.b.example.com")), "echo-v2");
            for nowhere in [Some("example.com"), Some("other.org"), Some("old.example.org"), None] {
                assert_eq!(who(service, nowhere), "ConnectionReset", "{nowhere:?}");
            }
        }
    });
}

/// What a client of TLS says first, as far as the mesh looks at it.
fn client_hello(name: Option<&str>) -> Vec<u8> {
    fn sized<const N: usize>(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
        [&length[4 - N..], bytes].concat()
    }
    let extension = |name: &str| {
        let entry = [&[0][..], &sized::<2>(name.as_bytes())].concat();
        [&[0, 0][..], &sized::<2>(&sized::<2>(&entry))].concat()
    };
    let extensions = sized::<2>(&name.map(extension).unwrap_or_default());
    let fixed = [&[3, 3][..], &[7; 32], &[0], &sized::<2>(&[0x13, 1]), &[1, 0]].concat();
    let hello = [&[1][..], &sized::<3>(&[fixed, extensions].concat())].concat();
    [&[0x16, 3, 1][..], &sized::<2>(&hello)].concat()
}
