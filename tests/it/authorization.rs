//! Who may call whom: what an AuthorizationPolicy lets in and keeps out, live, in requests and in bytes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, Response, SidecarPod, eventually};

use crate::{in_pods, weft};

/// A change of policy may take this long to be in force.
const SOON: Duration = Duration::from_secs(5);

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn apply(mesh: &Mesh, text: &str) {
    let file = mesh.scratch().join("policy.yaml");
    fs::write(&file, text).expect("a file");
    mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
}

fn ask(client: &SidecarPod, server: &SidecarPod, request: &str) -> Response {
    client.run(|| {
        let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
        connection.send(format!("{request} HTTP/1.1\r\nHost: orders\r\n\r\n").as_bytes()).expect("an answer")
    })
}

fn outcome(answer: &Response) -> (u16, Option<&str>) {
    (answer.status, answer.header("weft-error"))
}

#[test]
fn requests_are_let_in_by_caller_method_and_path_and_a_changed_policy_holds_at_once() {
    in_pods!(requests_are_let_in_by_caller_method_and_path_and_a_changed_policy_holds_at_once, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("orders", "orders:8080");
        let (web, other) = (mesh.pod("web", ""), mesh.pod("other", ""));
        let _app = App::echo(&server, 8080);
        let denied = (403, Some("denied"));
        assert_eq!(
            outcome(&ask(&other, &server, "GET /")),
            (200, None),
            "everyone may before there is a policy"
        );

        let target = "targetRef: {kind: Service, name: orders}";
        let allow = policy(
            "callers",
            &format!(
                "{{{target}, rules: [{{from: [{{serviceAccounts: [web]}}], to: [{{methods: [GET], paths: ['/orders/*']}}]}}]}}"
            ),
        );
        let deny = policy(
            "secret",
            &format!("{{{target}, action: Deny, rules: [{{to: [{{paths: ['/orders/secret*']}}]}}]}}"),
        );
        apply(&mesh, &format!("{allow}{deny}"));
        eventually("the policy is in force", SOON, || {
            outcome(&ask(&other, &server, "GET /orders/1")) == denied
        });
        for (request, expected) in [
            ("GET /orders/1", (200, None)),
            ("GET /a/../orders/1", (200, None)),
            ("GET /", denied),
            ("POST /orders/1", denied),
            ("GET /orders/secret", denied),
            ("GET /orders/%73ecret", denied),
            ("GET /orders/x/../secret", denied),
            ("GET //orders//secret", denied),
            ("GET /orders%2Fsecret", denied),
        ] {
            assert_eq!(outcome(&ask(&web, &server, request)), expected, "{request}");
        }
        let told = ["policy=\"default/secret\"", "decision=\"denied\""];
        assert!(server.metric("weft_policy_decisions_total", &told) >= 5.0);
        assert!(
            server.metric(
                "weft_policy_decisions_total",
                &["policy=\"default/callers\"", "decision=\"allowed\""]
            ) >= 1.0
        );

        // On a connection that is open and has been let in before.
        web.run(|| {
            let mut kept = HttpClient::connect((server.address(), 8080)).expect("a connection");
            let mut get = || kept.get("orders", "/orders/1", "").expect("an answer").status;
            assert_eq!(get(), 200);
            mesh.weft_ok(&["delete", "authorizationpolicy", "callers"]);
            apply(&mesh, &policy("closed", &format!("{{{target}, action: Deny, rules: [{{}}]}}")));
            eventually("the changed policy is in force", SOON, || get() == 403);
        });
    });
}

#[test]
fn bytes_are_let_in_by_caller_alone_and_rules_about_requests_let_none_in() {
    in_pods!(bytes_are_let_in_by_caller_alone_and_rules_about_requests_let_none_in, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("store", "store:7000:tcp");
        let (web, other) = (mesh.pod("web", ""), mesh.pod("other", ""));
        let _app = App::greeter(&server, 7000, "hello");
        let greeted = |client: &SidecarPod| {
            client.run(|| {
                let mut stream = TcpStream::connect((server.address(), 7000)).expect("a connection");
                stream.set_read_timeout(Some(SOON)).expect("a timeout");
                let mut greeting = [0; 5];
                stream.write_all(b"x").and_then(|()| stream.read_exact(&mut greeting)).is_ok()
            })
        };
        assert!(greeted(&web) && greeted(&other));
        let allow = |rule: &str| {
            apply(&mesh, &policy("callers", &format!("{{targetRef: {{kind: Namespace}}, rules: [{rule}]}}")))
        };
        allow("{from: [{serviceAccounts: [web]}]}");
        eventually("others are kept out", SOON, || !greeted(&other));
        assert!(greeted(&web));
        // What only a request has, no connection of bytes can prove.
        allow("{from: [{serviceAccounts: [web]}], to: [{methods: [GET]}]}");
        eventually("a rule about requests lets no bytes in", SOON, || !greeted(&web));
    });
}

#[test]
fn an_audited_policy_tells_and_keeps_no_one_out() {
    in_pods!(an_audited_policy_tells_and_keeps_no_one_out, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("orders", "orders:8080");
        let web = mesh.pod("web", "");
        let _app = App::echo(&server, 8080);
        apply(
            &mesh,
            &policy(
                "trial",
                "{targetRef: {kind: Mesh}, mode: Audit, action: Deny, rules: [{to: [{methods: [DELETE]}]}]}",
            ),
        );
        let told = ["policy=\"default/trial\"", "decision=\"would-deny\""];
        eventually("the policy is known and tells", SOON, || {
            assert_eq!(outcome(&ask(&web, &server, "DELETE /orders/1")), (200, None));
            server.metric("weft_policy_decisions_total", &told) >= 1.0
        });
    });
}
