//! TrafficPolicy's and routes' retries: what is sent again, how much of it, and what the caller gets.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options, Response, SidecarPod, eventually, python};

use crate::peers::RUN;
use crate::policy::{
    Counter, ask, bare_server, client, get, heard, named, orders, policy, scripted, server, settle, shares,
};
use crate::{in_pods, weft};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";

/// A request of another method, on a connection of its own.
fn send(client: &SidecarPod, to: SocketAddr, method: &str, body: &str) -> Response {
    let length = body.len();
    let text = format!("{method} / HTTP/1.1\r\nhost: orders:8080\r\ncontent-length: {length}\r\n\r\n{body}");
    client.run(|| HttpClient::connect(to).expect("a connection").send(text.as_bytes()).expect("an answer"))
}

fn says(answer: &Response) -> (u16, Option<String>, String) {
    (answer.status, answer.header("weft-error").map(str::to_owned), answer.text())
}

#[test]
fn a_pod_whose_app_does_not_listen_is_passed_over_without_a_policy() {
    in_pods!(a_pod_whose_app_does_not_listen_is_passed_over_without_a_policy, || {
        let mesh = Mesh::start(weft(), Options::default());
        let _one = bare_server(&mesh, "one", "");
        let (_two, _app) = server(&mesh, "two", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        assert_eq!(shares(&ask(&client, orders, 30))["two"], 30);
        // Nobody has seen it, so that it may be a POST.
        for _ in 0..10 {
            assert_eq!(send(&client, orders, "POST", "").text(), "two");
        }
        assert!(client.metric("weft_retries_total", &["direction=\"outbound\""]) > 0.0);
    });
}

#[test]
fn a_pod_that_fails_costs_no_caller_an_answer_and_no_post_is_sent_twice() {
    in_pods!(a_pod_that_fails_costs_no_caller_an_answer_and_no_post_is_sent_twice, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, broken) = scripted(&one, |_| BUSY);
        let (_two, _app_two) = server(&mesh, "two", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        // By chance, so that the failing one is asked as often as the other.
        policy(
            &mesh,
            "loadBalancing: {policy: Random}\n  retries: {backoff: {base: 1ms}, budget: {ratio: 100%}}",
        );
        heard(&client, "Retries");
        assert_eq!(shares(&ask(&client, orders, 60))["two"], 60);
        let gets = broken.count();
        assert!(gets > 0, "it was never asked");
        let posts: Vec<_> = (0..40).map(|_| send(&client, orders, "POST", "").status).collect();
        let failed = posts.iter().filter(|status| **status == 503).count() as u64;
        assert!(failed > 0 && failed == broken.count() - gets, "a POST was sent twice: {posts:?}");
        let again = client.metric("weft_retries_total", &["direction=\"outbound\""]);
        assert!((again - gets as f64).abs() < 0.5, "{again} of {gets}");
    });
}

#[test]
fn a_storm_of_failures_is_held_to_the_budget_and_the_caller_gets_the_apps_own_answer() {
    in_pods!(a_storm_of_failures_is_held_to_the_budget_and_the_caller_gets_the_apps_own_answer, || {
        let mesh = Mesh::start(weft(), Options::default());
        let pods = [bare_server(&mesh, "one", ""), bare_server(&mesh, "two", "")];
        let apps = [&pods[0], &pods[1]].map(|pod| scripted(pod, |_| BUSY));
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(
            &mesh,
            "retries: {attempts: 10, backoff: {base: 1ms, max: 1ms}, budget: {ratio: 20%, minPerSecond: 0}}",
        );
        heard(&client, "Retries");
        for _ in 0..200 {
            assert_eq!(says(&get(&client, orders, "")), (503, None, "busy".to_owned()));
        }
        let sent: u64 = apps.iter().map(|(_, counter)| counter.count()).sum();
        assert!((201..=240).contains(&sent), "{sent} for 200");
        assert!(client.metric("weft_retry_budget_exhausted_total", &[]) > 0.0);
    });
}

#[test]
fn an_endpoint_that_comes_and_goes_answers_all_the_same() {
    in_pods!(an_endpoint_that_comes_and_goes_answers_all_the_same, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        // Answers one request in three; of the others it refuses one and closes the connection on one.
        let (_app, sent) = scripted(&one, |number| match number % 3 {
            0 => BUSY,
            1 => "",
            _ => OK,
        });
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "retries: {backoff: {base: 1ms}, budget: {ratio: 100%, minPerSecond: 1000}}");
        heard(&client, "Retries");
        for _ in 0..20 {
            assert_eq!(says(&get(&client, orders, "")), (200, None, "ok".to_owned()));
        }
        assert!(sent.count() >= 60, "{}", sent.count());
    });
}

#[test]
fn where_nobody_is_left_to_ask_the_last_answer_is_the_callers() {
    in_pods!(where_nobody_is_left_to_ask_the_last_answer_is_the_callers, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, sent) = scripted(&one, |_| BUSY);
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(
            &mesh,
            "retries: {attempts: 5, backoff: {base: 1ms}}\n  circuitBreaker: {consecutiveFailures: 1, openFor: 1h}",
        );
        heard(&client, "CircuitBreaker");
        // The first failure opens the circuit: the tries that are left would be refused by the mesh itself.
        assert_eq!(says(&get(&client, orders, "")), (503, None, "busy".to_owned()));
        let refused = (503, Some("circuit-open".to_owned()), "weft: circuit-open\n".to_owned());
        assert_eq!(says(&get(&client, orders, "")), refused);
        assert_eq!(sent.count(), 1);
    });
}

#[test]
fn an_app_that_answers_with_nonsense_is_answered_for() {
    in_pods!(an_app_that_answers_with_nonsense_is_answered_for, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, sent) = scripted(&one, |_| "SSH-2.0-nonsense\r\n\r\n");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        let refused = (502, Some("protocol-error".to_owned()), "weft: protocol-error\n".to_owned());
        assert_eq!(says(&get(&client, orders, "")), refused);
        assert_eq!(sent.count(), 1);
        policy(&mesh, "retries: {on: [gateway-error], backoff: {base: 1ms}}");
        heard(&client, "Retries");
        assert_eq!(says(&get(&client, orders, "")), refused);
        assert_eq!(sent.count(), 4);
    });
}

#[test]
fn a_service_without_pods_is_answered_for_at_once() {
    in_pods!(a_service_without_pods_is_answered_for_at_once, || {
        let service =
            "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec:\n  ports: [{port: 8080}]\n";
        let config = vec![("services.yaml", service.to_owned())];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let other = mesh.pod("other", "other:8080:http");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "retries: {attempts: 10, backoff: {base: 10s, max: 10s}}");
        heard(&client, "Retries");
        let begun = Instant::now();
        let answer = get(&client, orders, "");
        assert_eq!((answer.status, answer.header("weft-error")), (503, Some("no-endpoints")));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(other);
    });
}

#[test]
fn a_routes_retry_holds_for_its_rule() {
    in_pods!(a_routes_retry_holds_for_its_rule, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, sent) = scripted(&one, |_| BUSY);
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: orders}]\n  rules:\n  - matches: [{headers: [{name: x-again, value: \"yes\"}]}]\n    retry: {codes: [503], attempts: 3, backoff: 50ms}\n    backendRefs: [{name: orders, port: 8080}]\n  - backendRefs: [{name: orders, port: 8080}]\n";
        let path = mesh.scratch().join("route.yaml");
        fs::write(&path, text).expect("a document");
        mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
        settle(&mesh);
        assert_eq!(get(&client, orders, "").status, 503);
        assert_eq!(sent.count(), 1);
        let begun = Instant::now();
        assert_eq!(says(&get(&client, orders, "x-again: yes\r\n")), (503, None, "busy".to_owned()));
        assert_eq!(sent.count(), 5, "sends are one more than attempts");
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
        let retries = ["direction=\"outbound\"", "route=\"default/orders\""];
        eventually("they are counted", Duration::from_secs(10), || {
            (client.metric("weft_retries_total", &retries) - 3.0).abs() < 0.1
        });
    });
}

#[test]
fn calls_of_grpc_are_tried_again_by_their_status() {
    in_pods!(calls_of_grpc_are_tried_again_by_their_status, || {
        let Some(mut server) = python("grpc_server.py") else { return };
        let mesh = Mesh::start(weft(), Options::default());
        let pod = mesh.pod("orders", "orders:50051:grpc");
        server.arg("50051");
        let mut app = pod.app(server);
        eventually("the server listens", Duration::from_secs(30), || {
            assert!(app.is_running(), "{}", app.output());
            pod.run(|| std::net::TcpStream::connect(("127.0.0.1", 50051)).is_ok())
        });
        let caller = mesh.pod("caller", "");
        let call = |what: &str| {
            let mut command = python("grpc_client.py").expect("it was there for the server");
            command.args([what, "orders:50051"]);
            caller.succeed(command, RUN)
        };
        // Of each name's calls the server refuses two with UNAVAILABLE and answers the third.
        call("refused");
        policy(
            &mesh,
            "retries: {on: [\"grpc:unavailable\"], backoff: {base: 1ms}, budget: {ratio: 100%, minPerSecond: 1000}}",
        );
        settle(&mesh);
        call("in_the_end");
        let calls = ["direction=\"inbound\"", "protocol=\"grpc\""];
        let unavailable = [calls[0], calls[1], "grpc_status=\"14\""];
        let answered = [calls[0], calls[1], "grpc_status=\"0\""];
        assert!((pod.metric("weft_requests_total", &answered) - 40.0).abs() < 0.1);
        // One for the call without a policy, and two for each with it.
        assert!((pod.metric("weft_requests_total", &unavailable) - 81.0).abs() < 0.1);
    });
}

/// From `apply`'s return to the last answer that the old policy would have given, five times.
#[test]
fn a_policy_takes_effect_under_load_and_fails_no_request() {
    in_pods!(a_policy_takes_effect_under_load_and_fails_no_request alone, || {
        let mesh = Mesh::start(weft(), Options::default());
        let pods = [bare_server(&mesh, "one", ""), bare_server(&mesh, "two", "")];
        let (_app, _): (App, Counter) = scripted(&pods[0], |_| BUSY);
        let _app_two = named(&pods[1], "two");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        let with = "loadBalancing: {policy: Random}\n  retries: {attempts: 5, backoff: {base: 1ms}, budget: {ratio: 100%, minPerSecond: 100000}}";
        let without = "loadBalancing: {policy: Random}";
        policy(&mesh, without);
        settle(&mesh);
        let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        let (applied, answers) = std::thread::scope(|scope| {
            let loads = [(); 4].map(|()| scope.spawn(|| load(&client, orders, &over, &asked)));
            let mut applied = Vec::new();
            for _ in 0..5 {
                policy(&mesh, with);
                let (begun, before) = (Instant::now(), asked.load(Ordering::Relaxed));
                eventually("some more are answered", Duration::from_secs(20), || {
                    let since = begun.elapsed() > Duration::from_millis(300);
                    since && asked.load(Ordering::Relaxed) > before + 100
                });
                applied.push((begun, Instant::now()));
                policy(&mesh, without);
                settle(&mesh);
            }
            over.store(true, Ordering::Relaxed);
            let answers: Vec<_> = loads.into_iter().flat_map(|load| load.join().expect("a load")).collect();
            (applied, answers)
        });
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 503)), "{answers:?}");
        assert!(answers.iter().all(|answer| !answer.is_ours), "none was the mesh's own");
        // What began after the policy was said to be applied, and before it was taken back, was still answered by chance.
        let late = applied.iter().map(|(applied, taken_back)| {
            let window = *applied..*taken_back;
            let old = answers.iter().filter(|answer| window.contains(&answer.begun) && answer.status == 503);
            old.map(|answer| answer.begun - *applied).max().unwrap_or_default()
        });
        let mut late: Vec<Duration> = late.collect();
        late.sort_unstable();
        println!("{} requests, the old policy last seen after {late:?}", answers.len());
        assert!(late[2] <= Duration::from_millis(100), "{late:?}");
    });
}

#[derive(Debug)]
struct Answered {
    begun: Instant,
    status: u16,
    is_ours: bool,
}

fn load(client: &SidecarPod, to: SocketAddr, over: &AtomicBool, asked: &AtomicU64) -> Vec<Answered> {
    client.run(|| {
        let mut connection = HttpClient::connect(to).expect("a connection");
        let mut answers = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = connection.get("orders:8080", "/", "").expect("no request fails");
            asked.fetch_add(1, Ordering::Relaxed);
            let is_ours = answer.header("weft-error").is_some();
            answers.push(Answered { begun, status: answer.status, is_ours });
        }
        answers
    })
}
