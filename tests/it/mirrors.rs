//! RequestMirror: a copy of a request goes where the route says, and whoever calls notices nothing of it. Replays
//! Gateway API's RequestMirror, RequestMultipleMirrors and RequestPercentageMirror.

use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::peers::read_head;
use crate::{in_pods, weft};

/// A request: its head and its body.
type Message = (String, Vec<u8>);

/// A mirror's app: keeps what it is sent, and answers it with an error.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Message>>>);

impl Kept {
    fn serve(&self, pod: &SidecarPod) -> App {
        let kept = self.clone();
        App::serve(pod, 8080, move |mut stream| {
            let Ok(read) = stream.try_clone() else { return };
            loop {
                let (head, mut reader) = read_head(&read);
                if head.is_empty() {
                    return;
                }
                let mut body = vec![0; length(&head)];
                if head.contains("chunked") {
                    let mut byte = [0];
                    while !body.ends_with(b"0\r\n\r\n") {
                        reader.read_exact(&mut byte).expect("chunks");
                        body.push(byte[0]);
                    }
                } else {
                    reader.read_exact(&mut body).expect("a body");
                }
                kept.0.lock().expect("nobody panicked").push((head, body));
                let answer = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\nlost";
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
        })
    }

    fn all(&self) -> Vec<Message> {
        self.0.lock().expect("nobody panicked").clone()
    }

    /// Waits for the copy of a request whose head holds this.
    fn copy(&self, of: &str) -> Message {
        let mut found = None;
        eventually(of, Duration::from_secs(10), || {
            found = self.all().into_iter().find(|(head, _)| head.contains(of));
            found.is_some()
        });
        found.expect("it was just there")
    }
}

fn length(head: &str) -> usize {
    let head = head.to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// A caller, the service it calls, and two mirrors.
struct Rig {
    mesh: Mesh,
    caller: SidecarPod,
    _pods: [SidecarPod; 3],
    one: Kept,
    two: Kept,
    _apps: [App; 3],
}

impl Rig {
    fn start() -> Self {
        let mesh = Mesh::start(weft(), Options::default());
        let [shop, first, second] = ["shop:80->8080", "one:80->8080", "two:80->8080"]
            .map(|offer| mesh.pod(&offer[..offer.find(':').expect("a port")], offer));
        let caller = mesh.pod("caller", "");
        let (one, two) = (Kept::default(), Kept::default());
        let apps = [App::echo_as(&shop, 8080, "shop"), one.serve(&first), two.serve(&second)];
        Self { mesh, caller, _pods: [shop, first, second], one, two, _apps: apps }
    }

    /// Puts a route with these filters in force.
    fn apply(&self, filters: &str) {
        let file = self.mesh.scratch().join("route.yaml");
        fs::write(&file, route(filters)).expect("a file");
        self.mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        eventually("the sidecars have it", Duration::from_secs(10), || {
            let status = self.mesh.weft_json(&["status"]);
            status.as_array().is_some_and(|all| all.iter().all(|sidecar| sidecar["in_sync"] == true))
        });
    }

    /// Sends this to the shop, which must answer it.
    fn send(&self, request: &str) -> String {
        self.caller.run(|| {
            let mut client = HttpClient::connect("shop:80").expect("a connection");
            let answer = client.send(request.as_bytes()).expect("an answer");
            assert_eq!((answer.status, answer.header("served-by")), (200, Some("shop")), "{answer:?}");
            answer.text()
        })
    }

    fn copies(&self, to: &str, outcome: &str) -> f64 {
        let labels = [format!("destination=\"default/{to}\""), format!("outcome=\"{outcome}\"")];
        self.caller.metric("weft_mirrored_total", &[&labels[0], &labels[1]])
    }
}

fn route(filters: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: shop}}]\n  rules:\n  - backendRefs: [{{name: shop, port: 80}}]\n    \
         filters: [{filters}]\n"
    )
}

fn mirror(to: &str, share: &str) -> String {
    format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}")
}

#[test]
fn every_mirror_gets_what_the_service_gets() {
    in_pods!(every_mirror_gets_what_the_service_gets, || {
        let rig = Rig::start();
        let edit =
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-edited, value: \"yes\"}]}}";
        rig.apply(&[mirror("one", ""), mirror("two", ""), edit.to_owned()].join(", "));
        let post =
            "POST /cart?a=b HTTP/1.1\r\nHost: shop\r\nX-Mixed-Case: kept\r\ncontent-length: 5\r\n\r\nthree";
        let seen = rig.send(post);
        for kept in [&rig.one, &rig.two] {
            let (head, body) = kept.copy("POST /cart?a=b HTTP/1.1");
            assert_eq!(body, b"three");
            for line in ["Host: shop\r\n", "X-Mixed-Case: kept\r\n", "x-edited: yes\r\n"] {
                assert!(head.contains(line) && seen.contains(line), "{line}: {head}");
            }
            // Both belong to one trace.
            let trace = |head: &str| {
                let at = head.find("traceparent: 00-").expect("a trace") + "traceparent: 00-".len();
                head[at..at + 32].to_owned()
            };
            assert_eq!(trace(&head), trace(&seen));
        }
        // A body in chunks arrives in one.
        rig.caller.run(|| {
            let mut client = HttpClient::connect("shop:80").expect("a connection");
            let chunks = "PUT /chunks HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
            // The shop's app reads no chunks: what it makes of them is not looked at.
            let _ = client.send(chunks.as_bytes());
        });
        assert_eq!(rig.one.copy("PUT /chunks").1, b"5\r\nabcde\r\n0\r\n\r\n");
        rig.send("GET /plain HTTP/1.1\r\nhost: shop\r\n\r\n");
        assert_eq!(rig.two.copy("GET /plain").1, b"");
        eventually("all are counted", Duration::from_secs(10), || {
            rig.copies("one", "sent") + rig.copies("two", "sent") == 6.0
        });
    });
}

#[test]
fn a_share_of_requests_is_mirrored() {
    in_pods!(a_share_of_requests_is_mirrored, || {
        let rig = Rig::start();
        rig.apply(
            &[mirror("one", ", percent: 30"), mirror("two", ", fraction: {numerator: 1, denominator: 2}")]
                .join(", "),
        );
        rig.caller.run(|| {
            let mut client = HttpClient::connect("shop:80").expect("a connection");
            for _ in 0..600 {
                assert_eq!(client.get("shop", "/", "").expect("an answer").status, 200);
            }
        });
        let all = |kept: &Kept| u32::try_from(kept.all().len()).expect("few");
        let mut before = (0, 0);
        eventually("no more copies come", Duration::from_secs(20), || {
            let now = (all(&rig.one), all(&rig.two));
            let done = rig.copies("one", "sent") == f64::from(now.0)
                && rig.copies("two", "sent") == f64::from(now.1);
            std::mem::replace(&mut before, now) == now && done && now.0 > 0
        });
        // Five standard deviations.
        assert!(before.0.abs_diff(180) < 57 && before.1.abs_diff(300) < 62, "{before:?}");
    });
}

#[test]
fn who_is_mirrored_neither_waits_nor_fails() {
    in_pods!(who_is_mirrored_neither_waits_nor_fails, || {
        let rig = Rig::start();
        let silent = rig.mesh.pod("silent", "silent:80->8080");
        let _hangs = App::serve(&silent, 8080, |stream| {
            let mut stream = stream;
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        rig.apply(&[mirror("silent", ""), mirror("nobody", "")].join(", "));
        let begun = Instant::now();
        for number in 0..30 {
            rig.send(&format!("GET /{number} HTTP/1.1\r\nhost: shop\r\n\r\n"));
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(rig.copies("nobody", "failed"), 30.0);
        // What is too large to be held is not copied; the service gets all of it.
        rig.apply(&mirror("one", ""));
        let large = "x".repeat(100_000);
        let seen =
            rig.send(&format!("POST /large HTTP/1.1\r\nhost: shop\r\ncontent-length: 100000\r\n\r\n{large}"));
        assert!(seen.ends_with(&large));
        eventually("it is counted", Duration::from_secs(5), || rig.copies("one", "skipped") == 1.0);
        rig.send("GET /last HTTP/1.1\r\nhost: shop\r\n\r\n");
        rig.one.copy("GET /last");
        assert!(rig.one.all().iter().all(|(head, _)| !head.contains("/large")));
    });
}

#[test]
fn a_request_that_would_be_copied_to_its_own_backend_is_refused_with_its_line() {
    in_pods!(a_request_that_would_be_copied_to_its_own_backend_is_refused_with_its_line, || {
        let mesh = Mesh::start(weft(), Options::default());
        let file = mesh.scratch().join("loop.yaml");
        fs::write(&file, route(&mirror("shop", ""))).expect("a file");
        let output = mesh.weft(&["apply", "-f", file.to_str().expect("a path")]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("loop.yaml:7") && error.contains("its own mirror"), "{error}");
    });
}
