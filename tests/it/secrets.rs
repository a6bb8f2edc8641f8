//! What is secret stays so: no token and no key is in a log, a listing, a metric, a trace or on a page.

use std::fs;
use std::path::Path;

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

const USERS_TOKEN: &str = "a-users-own-bearer-token-0123456789";
const COOKIE: &str = "a-users-own-session-0123456789";
const ACCESS_LOG: &str = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLog: {format: json}}\n";

const IN_QUERY: &str = "a-users-token-in-a-query-0123456789";
const USERS: &str = "apiVersion: weft.mesh/v1alpha1
kind: JwtAuthentication
metadata: {name: users}
spec:
  targetRef: {kind: Service, name: server}
  providers:
  - {issuer: https://id, audiences: [a], jwks: {inline: '{\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}'}, fromParams: [access_token]}
";

/// The second line of each private key in some bytes, which tells it from others.
fn keys(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let after = text.split("-----BEGIN PRIVATE KEY-----").skip(1);
    after.filter_map(|key| key.trim_start().lines().nth(1)).map(str::to_owned).collect()
}

fn keys_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(keys_below(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            found.extend(keys(&bytes));
        }
    }
    found
}

/// All that a sidecar says.
fn said_by(pod: &SidecarPod) -> Vec<(String, String)> {
    let admin = ["/config", "/identity", "/stats", "/metrics", "/ready"].map(|path| {
        let (_, text) = pod.admin(path).expect("an answer");
        (path.to_owned(), text)
    });
    let mut said = admin.to_vec();
    said.push(("a sidecar's log".to_owned(), pod.sidecar_log()));
    said
}

#[test]
fn no_token_and_no_key_is_in_logs_listings_metrics_traces_or_on_pages() {
    in_pods!(no_token_and_no_key_is_in_logs_listings_metrics_traces_or_on_pages, || {
        let config = vec![("mesh.yaml", ACCESS_LOG.to_owned())];
        let flags = vec!["--log-level".to_owned(), "debug".to_owned()];
        let mesh = Mesh::start(weft(), Options { config, flags, ..Options::default() });
        let create = |more: &[&str]| mesh.weft_ok(&[&["token", "create"], more].concat()).trim().to_owned();
        let joins = ["server", "client"].map(|account| create(&["--service-account", account]));
        let administers = ["viewer", "operator"].map(|role| create(&["--admin", role]));
        let talkative = [("WEFT_LOG_LEVEL", "debug")];
        let server = mesh.pod_with_token("server", "server:8080", &joins[0], &talkative);
        let client = mesh.pod_with_token("client", "", &joins[1], &talkative);
        let _app = App::echo(&server, 8080);
        let more = format!("authorization: Bearer {USERS_TOKEN}\r\ncookie: session={COOKIE}\r\n");
        let call = || {
            client.run(|| {
                let answer =
                    HttpClient::connect((server.address(), 8080)).ok()?.get("server", "/a", &more).ok()?;
                Some(answer.status)
            })
        };
        eventually("there are traces", std::time::Duration::from_secs(30), || {
            call() == Some(200)
                && mesh.weft_json(&["traces"]).as_array().is_some_and(|traces| !traces.is_empty())
        });

        // A token that is refused is told of by its flaw alone.
        let file = mesh.scratch().join("users.yaml");
        fs::write(&file, USERS).expect("a file");
        mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        eventually("a token is refused", std::time::Duration::from_secs(30), || {
            let path = format!("/b?access_token={IN_QUERY}");
            client.run(|| {
                let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
                connection.get("server", &path, "").expect("an answer").status == 401
            })
        });
        let log = server.sidecar_log();
        assert!(log.contains("a token is refused") && log.contains("not-compact"), "{log}");

        let viewer = mesh.scratch().join("viewer.token");
        fs::write(&viewer, &administers[0]).expect("a file");
        let as_viewer = ["--token-file", viewer.to_str().expect("a path")];
        mesh.weft_ok(&[&["status"], &as_viewer[..]].concat());
        let denied = mesh.weft(&[&["ca", "rotate"], &as_viewer[..]].concat());
        let denied = String::from_utf8_lossy(&denied.stderr).into_owned();
        assert!(denied.contains("denied: rotate_ca wants the role operator"), "{denied}");

        let mut secrets = keys_below(mesh.scratch());
        assert!(secrets.len() >= 4, "the authority's and two sidecars': {}", secrets.len());
        secrets.push(fs::read_to_string(mesh.data().join("admin.token")).expect("a token").trim().to_owned());
        // Of what is signed the signature is the secret.
        let signed = joins
            .iter()
            .chain(&administers)
            .map(|token| token.rsplit('.').next().expect("a part").to_owned());
        secrets.extend(signed);
        secrets.extend([USERS_TOKEN, COOKIE, IN_QUERY].map(str::to_owned));

        let mut said =
            vec![("the control plane's log".to_owned(), mesh.control_plane_log()), ("denied".into(), denied)];
        said.extend([&server, &client].into_iter().flat_map(said_by));
        for listing in
            ["status", "identity", "token list", "ca status", "history", "traces", "get meshconfig"]
        {
            let arguments: Vec<&str> = listing.split(' ').collect();
            said.push((listing.to_owned(), mesh.weft_json(&arguments).to_string()));
        }
        let traces = mesh.weft_json(&["traces"]);
        let trace = traces[0]["trace_id"].as_str().expect("a trace").to_owned();
        said.push(("a trace".to_owned(), mesh.weft_json(&["trace", &trace]).to_string()));
        let form = format!("token={}", administers[1]);
        let begin =
            "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n";
        let login = format!("{begin}content-length: {}\r\n\r\n{form}", form.len());
        let page = |request: &str| {
            let sent =
                mesh.in_hub(|| HttpClient::connect("127.0.0.1:7080").ok()?.send(request.as_bytes()).ok());
            sent.expect("a page")
        };
        let entered = page(&login);
        let cookie = entered.header("set-cookie").and_then(|cookie| cookie.split(';').next());
        let cookie = cookie.expect("a session").to_owned();
        for path in ["/", "/metrics", "/traces", "/sidecars", "/identities", "/policies"] {
            let shown = page(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\n\r\n"));
            assert_eq!(shown.status, 200, "{path}");
            said.push((path.to_owned(), shown.text()));
        }
        secrets.push(cookie);
        said.push(("the control plane's log".to_owned(), mesh.control_plane_log()));
        for (place, text) in &said {
            assert!(!text.is_empty(), "{place} says something");
            for secret in &secrets {
                assert!(!text.contains(secret.as_str()), "{place} tells {secret}");
            }
        }
        assert!(
            server.sidecar_log().contains("\"path\""),
            "there is an access log: {}",
            server.sidecar_log()
        );
    });
}
