//! Names, as real programs look them up: glibc's `getaddrinfo` and `dig`, with search domains, in a pod whose own resolver
//! knows other names.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use weft_tests::{Mesh, Options, SidecarPod, program};

use crate::{in_pods, weft};

const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: four}
spec: {clusterIP: 240.64.200.4, ports: [{name: web, port: 80}], selector: {app: four}}
---
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {clusterIP: None, ports: [{name: web, port: 80, targetPort: 8080}], selector: {app: many}}
";

/// Does `getaddrinfo` for each argument: the name, its addresses or the error.
const LOOK_UP: &str = "\
import socket, sys
errors = {socket.EAI_NONAME: 'unknown', socket.EAI_AGAIN: 'again', socket.EAI_NODATA: 'unknown'}
for name in sys.argv[1:]:
    try:
        found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
        print(name, *sorted(address[0] for *_, address in found))
    except socket.gaierror as error:
        print(name, errors.get(error.errno, error))
";

/// The pod's own resolver: knows `www.corp.test` (192.0.2.10) and `big.corp.test` (60 addresses, for a packet too long)
/// and denies everything else.
struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Resolver {
    fn start(mesh: &Mesh) -> Self {
        let address = (mesh.address(), 53);
        let (udp, tcp) = mesh.in_hub(|| {
            (UdpSocket::bind(address).expect("port 53"), TcpListener::bind(address).expect("port 53"))
        });
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (by_udp, by_tcp) = (asked.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut question = vec![0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut question) {
                let answer = answer(&question[..length], 512, &by_udp);
                let _ = udp.send_to(&answer, client);
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                if stream.read_exact(&mut question).is_ok() {
                    let answer = answer(&question, 65_535, &by_tcp);
                    let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
                    let _ = stream.write_all(&[&length, &answer[..]].concat());
                }
            }
        });
        Self { asked }
    }

    /// How often it was asked for this name, with any type.
    fn asked(&self, name: &str) -> usize {
        self.asked.lock().expect("whole").iter().filter(|asked| *asked == name).count()
    }
}

fn answer(question: &[u8], limit: usize, asked: &Mutex<Vec<String>>) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
        at = end;
    }
    let (name, is_a) = (labels.join("."), question[at + 2] == 1);
    let addresses: Vec<[u8; 4]> = match name.as_str() {
        "www.corp.test" if is_a => vec![[192, 0, 2, 10]],
        "big.corp.test" if is_a => (0..60).map(|number| [198, 51, 100, number]).collect(),
        _ => Vec::new(),
    };
    let known = name == "www.corp.test" || name == "big.corp.test";
    asked.lock().expect("whole").push(name);
    let mut reply = [&question[..2], b"\x81\x80\0\x01", &[0; 6], &question[12..at + 5]].concat();
    if addresses.is_empty() {
        reply[3] |= if known { 0 } else { 3 };
        reply[9] = 1;
        // The zone's start, which lets a denial stand for a minute.
        reply.extend(b"\x04corp\x04test\0\0\x06\0\x01\0\0\x0e\x10\0\x16\0\0");
        reply.extend([1_u32, 2, 3, 4, 60].map(u32::to_be_bytes).concat());
    } else if reply.len() + 16 * addresses.len() > limit {
        reply[2] |= 2;
    } else {
        reply[7] = u8::try_from(addresses.len()).expect("few");
        for address in addresses {
            reply.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04");
            reply.extend(address);
        }
    }
    reply
}

/// A program's view of the mesh.
struct Client {
    pod: SidecarPod,
    resolv_conf: PathBuf,
}

impl Client {
    fn start(mesh: &Mesh) -> Self {
        let [resolv_conf, sidecars] = ["app.conf", "sidecar.conf"].map(|name| mesh.scratch().join(name));
        let text = format!(
            "nameserver {}\nsearch default.svc.weft.test svc.weft.test corp.test\noptions ndots:5\n",
            mesh.address()
        );
        std::fs::write(&resolv_conf, &text).expect("a file");
        // The sidecar has one more to ask, where nobody listens.
        let nobody = format!("nameserver [{}]:54\n", mesh.address());
        std::fs::write(&sidecars, nobody + &text).expect("a file");
        let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
        let path = sidecars.display().to_string();
        let pod = mesh.pod_with_token("client", "", &token, &[("WEFT_RESOLV_CONF", &path)]);
        Self { pod, resolv_conf }
    }

    /// What a program prints for which that `resolv.conf` is the system's.
    fn prints(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]);
        command.arg(&self.resolv_conf).arg(program).args(arguments);
        let output = self.pod.output(command);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {error}\n{}", self.pod.sidecar_log());
        String::from_utf8(output.stdout).expect("text")
    }
}

/// The addresses that the mesh gave to `orders`.
fn addresses(client: &Client, dig: &str) -> (String, String) {
    let short = |kind| client.prints(dig, &["+short", "orders.default.mesh", kind]).trim().to_owned();
    (short("A"), short("AAAA"))
}

#[test]
fn names_are_found_as_getaddrinfo_and_dig_look_them_up() {
    let (Some(dig), Some(python)) = (program(&["dig"]), program(&["python3"])) else { return };
    if program(&["unshare"]).is_none() {
        return;
    }
    let (dig, python) = (dig.to_str().expect("a path"), python.to_str().expect("a path"));
    in_pods!(names_are_found_as_getaddrinfo_and_dig_look_them_up, || {
        let options = Options { config: vec![("services.yaml", SERVICES.to_owned())], ..Options::default() };
        let mesh = Mesh::start(weft(), options);
        let resolver = Resolver::start(&mesh);
        let _orders = mesh.pod("orders", "orders:8080");
        let members = ["many-a", "many-b"].map(|name| {
            let token = mesh.weft_ok(&["token", "create", "--service-account", name]);
            mesh.pod_with_token(name, "", &token, &[("WEFT_LABELS", "app=many")])
        });
        let client = Client::start(&mesh);
        check_getaddrinfo(&client, dig, python, &members);
        check_services(&client, dig, &members);
        check_others(&client, dig, &resolver);
    });
}

fn check_getaddrinfo(client: &Client, dig: &str, python: &str, members: &[SidecarPod; 2]) {
    let (v4, v6) = addresses(client, dig);
    assert!(v4.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()), "{v4:?}");
    assert!(v6.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()), "{v6:?}");
    let both = format!("{v4} {v6}");
    let mut many = members.each_ref().map(|pod| pod.address().to_string());
    many.sort();
    let expected = [
        ("orders", &*both),
        ("orders.", &both),
        ("ORDERS.default", &both),
        ("orders.default.mesh", &both),
        ("orders.default.mesh.", &both),
        ("orders.default.svc.weft.test.", &both),
        ("four", "240.64.200.4"),
        ("four.default.mesh", "240.64.200.4"),
        ("all", &many.join(" ")),
        ("www", "192.0.2.10"),
        ("www.corp.test", "192.0.2.10"),
        ("nothing", "unknown"),
        ("nothing.default.mesh", "unknown"),
        ("nothing.corp.test", "unknown"),
    ];
    let arguments: Vec<&str> = ["-c", LOOK_UP].into_iter().chain(expected.map(|(name, _)| name)).collect();
    let printed = client.prints(python, &arguments);
    let wanted: String = expected.iter().map(|(name, found)| format!("{name} {found}\n")).collect();
    assert_eq!(printed, wanted, "{}", client.pod.sidecar_log());
}

fn check_services(client: &Client, dig: &str, members: &[SidecarPod; 2]) {
    let short = |arguments: &[&str]| {
        let printed = client.prints(dig, &[&["+short"], arguments].concat());
        let mut lines: Vec<_> = printed.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (v4, v6) = addresses(client, dig);
    assert_eq!(short(&["+tcp", "+search", "orders"]), [&*v4]);
    assert_eq!(short(&["+search", "SRV", "_8080._tcp.orders"]), ["0 1 8080 orders.default.mesh."]);
    assert_eq!(short(&["+tcp", "SRV", "_http._tcp.orders.default.mesh"]), ["0 1 8080 orders.default.mesh."]);
    assert_eq!(short(&["SRV", "_web._tcp.four"]), ["0 1 80 four.default.mesh."]);
    assert_eq!(short(&["-x", &v4]), ["orders.default.mesh."]);
    assert_eq!(short(&["-x", &v6]), ["orders.default.mesh."]);
    let hosts = ["many-a-1", "many-b-1"].map(|name| format!("{name}.all.default.mesh."));
    assert_eq!(short(&["SRV", "_web._tcp.all"]), hosts.each_ref().map(|host| format!("0 1 8080 {host}")));
    for (host, pod) in hosts.iter().zip(members) {
        assert_eq!(short(&[host]), [pod.address().to_string()]);
    }
    for (arguments, expected) in [
        (&["four", "AAAA"][..], "status: NOERROR|ANSWER: 0, AUTHORITY: 1|SOA\tweft.mesh."),
        (&["four", "MX"], "status: NOERROR|ANSWER: 0, AUTHORITY: 1"),
        (&["four.default.mesh", "TYPE65280"], "status: NOERROR|ANSWER: 0, AUTHORITY: 1"),
        (&["nothing.default.mesh"], "status: NXDOMAIN|mesh.\t\t\t5\tIN\tSOA"),
        (&["_web._udp.four", "SRV"], "status: NXDOMAIN"),
        (&["oRdErS.dEfAuLt"], ";oRdErS.dEfAuLt.\t|oRdErS.dEfAuLt.\t\t5\tIN\tA"),
        (&["+dnssec", "four"], "EDNS: version: 0, flags: do; udp: 1232"),
        (&["+edns=1", "+noednsnegotiation", "four"], "status: BADVERS|EDNS: version: 0"),
        (&["+noedns", "four"], "240.64.200.4"),
        (&["+tcp", "AXFR", "mesh"], "Transfer failed"),
    ] {
        let printed = client.prints(dig, arguments);
        for part in expected.split('|') {
            assert!(printed.contains(part), "{arguments:?}: {part:?} is not in:\n{printed}");
        }
    }
}

fn check_others(client: &Client, dig: &str, resolver: &Resolver) {
    // Too long for a packet: dig comes again over TCP.
    let big = client.prints(dig, &["+noedns", "big.corp.test"]);
    assert!(big.contains("ANSWER: 60") && big.contains("retrying in TCP mode"), "{big}");
    let metric = |kind: &str| client.pod.metric("weft_dns_queries_total", &[&format!("kind=\"{kind}\"")]);
    let mut remembered = 0.0;
    for time in 0..3 {
        let printed = client.prints(dig, &["+nocookie", "denied.corp.test"]);
        assert!(printed.contains("status: NXDOMAIN") && printed.contains("corp.test."), "{printed}");
        if time == 0 {
            remembered = metric("cache");
        }
    }
    // How often the resolver was asked for the first one, which is asked again when it is slow, does not count.
    assert!(metric("cache") >= remembered + 2.0, "a denial is remembered");
    assert_eq!(resolver.asked("nothing.default.mesh"), 0, "nobody else hears of the mesh's names");
    assert_eq!(resolver.asked("orders"), 0);
    for kind in ["mesh", "upstream", "cache", "refused"] {
        assert!(metric(kind) > 0.0, "{kind}");
    }
}
