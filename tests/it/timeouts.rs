//! TrafficPolicy's and routes' timeouts: how long a request may take, and a connection be silent.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use weft_tests::{App, Mesh, Options};

use crate::policy::{bare_server, client, get, heard, orders, policy, settle};
use crate::{in_pods, weft};

const LATE: (u16, Option<&str>) = (504, Some("timeout"));

#[test]
fn an_endpoint_that_never_answers_is_waited_for_as_long_as_the_policy_and_the_route_say() {
    in_pods!(an_endpoint_that_never_answers_is_waited_for_as_long_as_the_policy_and_the_route_say, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        // Takes requests and never answers.
        let _app = App::serve(&one, 8080, |stream| {
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        });
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        let took = |what: &str, at_least: u64, at_most: u64| {
            let begun = Instant::now();
            let answer = get(&client, orders, "");
            let took = begun.elapsed();
            assert_eq!((answer.status, answer.header("weft-error")), LATE, "{what}");
            let within = Duration::from_millis(at_least)..Duration::from_millis(at_most);
            assert!(within.contains(&took), "{what}: {took:?}");
        };
        policy(&mesh, "timeouts: {request: 400ms}");
        heard(&client, "400ms");
        took("the policy's", 400, 3_000);
        let route = |timeouts: &str| {
            let text = format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: orders}}]\n  rules:\n  - timeouts: {timeouts}\n    backendRefs: [{{name: orders, port: 8080}}]\n"
            );
            let path = mesh.scratch().join("route.yaml");
            std::fs::write(&path, text).expect("a document");
            mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
            settle(&mesh);
        };
        route("{request: 100ms}");
        took("the route's goes before the policy's", 100, 400);
        route("{request: 0s, backendRequest: 150ms}");
        took("of one try, where the whole has no limit", 150, 3_000);
    });
}

#[test]
fn a_connection_of_bytes_is_closed_when_it_was_silent_for_as_long_as_a_policy_says() {
    in_pods!(a_connection_of_bytes_is_closed_when_it_was_silent_for_as_long_as_a_policy_says, || {
        let mesh = Mesh::start(weft(), Options::default());
        let token = ["token", "create", "--service-account", "orders", "--service", "orders"];
        let one = mesh.pod_with_token("one", "orders:8080:tcp", &mesh.weft_ok(&token), &[]);
        let _app = App::greeter(&one, 8080, "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        client.run(|| {
            let mut open = TcpStream::connect(orders).expect("a connection");
            open.set_read_timeout(Some(Duration::from_secs(15))).expect("a limit");
            let mut say = |word: &str| {
                open.write_all(word.as_bytes()).expect("it is open");
                let mut heard = [0; 5];
                open.read_exact(&mut heard).expect("its echo");
            };
            say("one!\n");
            policy(&mesh, "timeouts: {idle: 500ms}");
            heard(&client, "500ms");
            // What is open already follows from its next bytes on.
            say("two!\n");
            let begun = Instant::now();
            let ended = open.read(&mut [0; 5]);
            assert!(!matches!(ended, Ok(1..)), "{ended:?}");
            let within = Duration::from_millis(400)..Duration::from_secs(10);
            assert!(within.contains(&begun.elapsed()), "{:?}", begun.elapsed());
        });
    });
}
